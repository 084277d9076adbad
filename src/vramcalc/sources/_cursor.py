"""Reading forwards through a source: typed values, each length held against a bound before anything is allocated."""

from struct import Struct

from vramcalc.errors import BadInputError
from vramcalc.sources.byte_source import ByteSource

_FIRST_CHUNK, _LARGEST_CHUNK = 64 << 10, 1 << 20
_LENGTH_BYTES = 8


class Cursor:
    """A place in a source. It reads ahead by at most 1 MiB and keeps nothing that was passed.

    ``most_bytes`` is how far it goes: whatever claims to reach beyond is no header.
    """

    def __init__(self, source: ByteSource, *, most_bytes: int, order: str = "<") -> None:
        self.name = source.name
        self._source = source
        self._most = most_bytes
        self._limit = most_bytes if source.n_bytes is None else min(most_bytes, source.n_bytes)
        self._chunk = _FIRST_CHUNK
        self._buffer = b""
        self._start = 0  # offset of the buffer in the source
        self._at = 0  # place in the buffer
        self.set_order(order)

    def set_order(self, order: str) -> None:
        """Read numbers in this byte order from here on: ``<`` little-endian, ``>`` big-endian."""
        self._order = order
        self._formats: dict[str, Struct] = {}
        self._length = Struct(f"{order}Q")

    @property
    def offset(self) -> int:
        """Where the next byte comes from."""
        return self._start + self._at

    def number(self, code: str, what: str) -> int:
        """Return a whole number of ``struct``'s format ``code``. Raises ``BadInputError`` at the end of the data."""
        return int(self.numbers(code, 1, what)[0])

    def numbers(self, code: str, count: int, what: str) -> tuple[int | float | bool, ...]:
        """Return ``count`` numbers of ``struct``'s format ``code``."""
        text = code if count == 1 else f"{count}{code}"
        layout = self._formats.get(text)
        if layout is None:
            layout = self._formats[text] = Struct(self._order + text)
        self._need(layout.size, what)
        found = layout.unpack_from(self._buffer, self._at)
        self._at += layout.size
        return found

    def text(self, what: str, *, most_bytes: int) -> str:
        """Return a string behind its length. Raises ``BadInputError`` where it is longer than that, or no UTF-8."""
        n_bytes = self.number("Q", what)
        if n_bytes > most_bytes:
            raise self.error(f"{what} claims {n_bytes:,} bytes of text, more than the {most_bytes:,} it may have")
        self._need(n_bytes, what)
        raw = self._buffer[self._at : self._at + n_bytes]
        self._at += n_bytes
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is no UTF-8 (byte {error.start} of {n_bytes:,})") from error

    def skip(self, n_bytes: int, what: str) -> None:
        """Pass over so many bytes without reading them."""
        target = self.offset + n_bytes
        if target > self._limit:
            raise self._short(n_bytes, what)
        if target <= self._start + len(self._buffer):
            self._at += n_bytes
        else:
            self._buffer, self._start, self._at = b"", target, 0

    def skip_texts(self, count: int, what: str) -> None:
        """Pass over ``count`` strings, reading their lengths alone."""
        if count * _LENGTH_BYTES > self._limit - self.offset:
            raise self.error(f"{what} claims {count:,} texts, more than the data can hold")
        unpack = self._length.unpack_from
        while count:
            self._need(_LENGTH_BYTES, what)
            buffer, at = self._buffer, self._at
            last = len(buffer) - _LENGTH_BYTES
            while count and at <= last:
                at += _LENGTH_BYTES + unpack(buffer, at)[0]
                count -= 1
            n_beyond = at - len(buffer)
            self._at = min(at, len(buffer))
            if n_beyond > 0:
                self.skip(n_beyond, what)

    def error(self, fact: str) -> BadInputError:
        """Return the error that names the file."""
        return BadInputError(f"{self.name}: {fact}", "the file is damaged or no such file; fetch it again")

    def _need(self, n_bytes: int, what: str) -> None:
        missing = n_bytes - (len(self._buffer) - self._at)
        if missing <= 0:
            return
        if self.offset + n_bytes > self._limit:
            raise self._short(n_bytes, what)
        end = self._start + len(self._buffer)
        wanted = min(max(missing, self._chunk), self._limit - end)
        self._chunk = min(2 * self._chunk, _LARGEST_CHUNK)
        fresh = self._source.read(end, wanted)
        self._buffer = self._buffer[self._at :] + fresh
        self._start, self._at = end + len(fresh) - len(self._buffer), 0
        if len(self._buffer) < n_bytes:
            raise self._short(n_bytes, what)

    def _short(self, n_bytes: int, what: str) -> BadInputError:
        if self.offset + n_bytes > self._most:
            return self.error(f"{what} claims {n_bytes:,} bytes; no header is longer than {self._most >> 20} MiB")
        return self.error(f"the data ends in the middle of {what}")
