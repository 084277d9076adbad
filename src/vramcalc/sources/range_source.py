"""The front part of a remote file, by requests of ranges."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from msgspec import Struct

from vramcalc.errors import BadInputError, MissingError, UnavailableError
from vramcalc.sources._waiting import Waiting
from vramcalc.units import MIB

FIRST_BYTES = 128 << 10
MOST_BYTES = 64 * MIB
_GROWTH = 4
_PIECE = 64 << 10
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,18})")
_RETRY_AFTER = re.compile(r"\d{1,9}|[A-Za-z0-9:, +-]{1,40}")
_OK, _PARTIAL, _UNSATISFIABLE, _MISSING, _TOO_MANY, _SERVER = 200, 206, 416, (404, 410), 429, 500
_NOT_ALLOWED = (401, 403, 407)


class Answer(Protocol):
    """What a server said: its status, its headers, and a body that is read piece by piece."""

    @property
    def status(self) -> int:
        """The status."""
        ...

    def header(self, name: str) -> str | None:
        """Return a header's text, whatever the case of its name."""
        ...

    def read(self, n_bytes: int) -> bytes:
        """Return up to ``n_bytes`` as they come, none at the end."""
        ...


Ask = Callable[[int, int], AbstractContextManager[Answer]]  # the first byte and the last; raises UnavailableError


class _Window(Struct):
    content: bytes
    total: int | None
    etag: str | None
    at_end: bool


class RangeSource:
    """A remote file whose beginning is read as readers ask for it: ahead, in windows that grow, up to a bound."""

    def __init__(self, name: str, ask: Ask, waiting: Waiting, *, login: str = "", most_bytes: int = MOST_BYTES) -> None:
        """Read the first window. ``login`` is the advice where the server wants to know who asks.

        Raises ``UnavailableError``.
        """
        self.name = name
        self._ask = ask
        self._waiting = waiting
        self._login = login or "download the file yourself and name its path"
        self._most_bytes = most_bytes
        self._front = bytearray()
        self._window_bytes = FIRST_BYTES
        first = self._fetch(FIRST_BYTES)
        self.n_bytes: int | None = first.total
        self._etag = first.etag
        self._at_end = first.at_end
        self._front += first.content

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return the bytes from ``offset`` on, fewer at the end of the file.

        Raises ``UnavailableError`` where they do not come, ``BadInputError`` beyond the bound of a header.
        """
        end = offset + n_bytes if self.n_bytes is None else min(offset + n_bytes, self.n_bytes)
        if end > self._most_bytes:
            raise BadInputError(
                f"{self.name}: its header goes on beyond {self._most_bytes / MIB:g} MiB",
                "no model's header is so large; check what the file is",
            )
        while len(self._front) < end and not self._at_end:
            self._window_bytes *= _GROWTH
            self._grow(max(end - len(self._front), self._window_bytes))
        return bytes(self._front[offset:end])

    def _grow(self, n_bytes: int) -> None:
        window = self._fetch(min(n_bytes, self._most_bytes - len(self._front)))
        if (window.total, window.etag) != (self.n_bytes, self._etag) and not window.at_end:
            raise self._unavailable("changed while it was read", "try again")
        self._front += window.content
        self._at_end = window.at_end

    def _fetch(self, n_bytes: int) -> _Window:
        start = len(self._front)

        def work() -> _Window:
            with self._ask(start, start + n_bytes - 1) as answer:
                return self._window(answer, start, n_bytes)

        return self._waiting.run(work)

    def _window(self, answer: Answer, start: int, n_bytes: int) -> _Window:
        encoding = answer.header("Content-Encoding")
        if answer.status in (_OK, _PARTIAL) and encoding not in (None, "", "identity"):
            raise self._unavailable("is sent compressed, so that its bytes cannot be counted", self._login)
        etag = answer.header("ETag")
        if answer.status == _PARTIAL:
            first, last, total = self._content_range(answer)
            if first != start or not start <= last < start + n_bytes or (total is not None and last >= total):
                raise self._unavailable("was answered with another range than asked for", "download the file yourself")
            content = self._body(answer, last - first + 1)
            if len(content) < last - first + 1:
                raise self._cut_off()
            return _Window(content, total, etag, at_end=total is not None and last + 1 == total)
        if answer.status == _OK:
            return self._whole_file(answer, start, n_bytes, etag)
        unsatisfied = _UNSATISFIED.fullmatch(answer.header("Content-Range") or "")
        if answer.status == _UNSATISFIABLE and unsatisfied and int(unsatisfied[1]) == start:
            return _Window(b"", start, etag, at_end=True)
        raise self._refused(answer)

    def _whole_file(self, answer: Answer, start: int, n_bytes: int, etag: str | None) -> _Window:
        """Read what is needed of an answer that ignores ranges; the rest is left to the server."""
        stated = answer.header("Content-Length")
        total = int(stated) if stated is not None and re.fullmatch(r"\d{1,18}", stated, re.ASCII) else None
        content = self._body(answer, start + n_bytes)
        if total is not None and len(content) < min(start + n_bytes, total):
            raise self._cut_off()
        at_end = len(content) < start + n_bytes or len(content) == total
        return _Window(content[start:], total, etag, at_end)

    def _content_range(self, answer: Answer) -> tuple[int, int, int | None]:
        match = _CONTENT_RANGE.fullmatch(answer.header("Content-Range") or "")
        if match is None:
            raise self._unavailable("was answered in parts without saying which", "download the file yourself")
        return int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])

    def _body(self, answer: Answer, n_bytes: int) -> bytes:
        content = bytearray()
        while len(content) < n_bytes and not self._waiting.over:
            piece = answer.read(min(_PIECE, n_bytes - len(content)))
            if not piece:
                break
            content += piece
            self._waiting.n_bytes += len(piece)
        return bytes(content[:n_bytes])

    def _refused(self, answer: Answer) -> UnavailableError:
        return refusal(self.name, answer, self._login)

    def _cut_off(self) -> UnavailableError:
        return self._unavailable("broke off before its end was reached", "try again")

    def _unavailable(self, problem: str, advice: str) -> UnavailableError:
        return UnavailableError(f"{self.name} {problem}", advice)


def refusal(name: str, answer: Answer, login: str) -> UnavailableError:
    """Return the error for an answer that is no file."""
    status = answer.status
    if status in _NOT_ALLOWED:
        return UnavailableError(f"{name}: the server wants to know who asks (status {status})", login)
    if status in _MISSING:
        return MissingError(f"{name}: there is no such file (status {status})", "check the spelling")
    if status == _TOO_MANY:
        stated = answer.header("Retry-After") or ""
        when = f"in {stated} s" if stated.isdecimal() else f"after {stated}" if stated else "later"
        safe = not stated or _RETRY_AFTER.fullmatch(stated)
        return UnavailableError(f"{name}: too many requests (status 429)", f"try again {when if safe else 'later'}")
    if status >= _SERVER:
        return UnavailableError(f"{name}: the server fails (status {status})", "try again later")
    return UnavailableError(f"{name}: the server answers with status {status}", "check the address")
