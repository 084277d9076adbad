"""Files on any web server, by the standard library: one request at a time, no credentials, nothing kept.

The system's proxies are honoured (``HTTPS_PROXY``, ``NO_PROXY``). Plain http is read, but never reached by a redirect
from https.
"""

import http.client
import ipaddress
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit, urlunsplit

from vramcalc.errors import BadInputError, UnavailableError, UsageError
from vramcalc.sources._waiting import Patience, Waiting
from vramcalc.sources.range_source import MOST_BYTES, Ask, RangeSource, refusal

_AGENT = "vramcalc (reads headers of model files)"
_OK = 200
_MOST_URL = 4096
_PRINTABLE = re.compile(r"[^\x00-\x20\x7f]+")


def is_loopback(host: str) -> bool:
    """Return whether a host name is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def open_url(url: str, patience: Patience = Patience(), *, most_bytes: int = MOST_BYTES) -> RangeSource:  # noqa: B008
    """Return the file at an http or https address, its beginning read.

    Raises ``UsageError`` for an address that cannot be one, ``UnavailableError`` where the file cannot be had.
    """
    parts = parse_url(url)
    name = shown(parts)
    return RangeSource(name, _asking(parts, name, patience), Waiting(name, patience), most_bytes=most_bytes)


def open_blob(url: str, name: str, waiting: Waiting) -> RangeSource:
    """Return the file at an address under a name of its own, within a wait that began before."""
    return RangeSource(name, _asking(parse_url(url), name, waiting.patience), waiting)


def fetch(url: str, name: str, waiting: Waiting, *, accept: str, most_bytes: int) -> bytes:
    """Return a small document. Raises ``UnavailableError``, or ``BadInputError`` where it is larger than the bound."""
    parts = parse_url(url)

    def work() -> bytes:
        with _asked(parts, name, waiting.patience, {"Accept": accept}) as answer:
            if answer.status != _OK:
                raise refusal(name, answer, "only what is public can be read; pull it and name it again")
            content = bytearray()
            while len(content) <= most_bytes and (piece := answer.read(most_bytes + 1 - len(content))):
                content += piece
            return bytes(content)

    content = waiting.run(work)
    if len(content) > most_bytes:
        raise BadInputError(f"{name} is larger than {most_bytes} bytes", "check the name")
    return content


def parse_url(url: str) -> SplitResult:
    """Return the parts of an address, its path quoted. Raises ``UsageError``."""
    wrong = UsageError(f"{url[:80]!r} is no web address", "write e.g. https://example.org/model.gguf")
    if len(url) > _MOST_URL or not _PRINTABLE.fullmatch(url):
        raise wrong
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port  # may raise too
    except ValueError as error:
        raise wrong from error
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise wrong
    if "@" in parts.netloc:
        raise UsageError("the address holds a user or password", "addresses end up in logs; download the file yourself")
    return parts._replace(path=quote(parts.path, safe="/%:@!$&'()*+,;=~-._"), fragment="")


def shown(parts: SplitResult) -> str:
    """Return an address as it may be printed: without the query, which may be a signature."""
    return urlunsplit(parts._replace(query=""))


def _asking(parts: SplitResult, name: str, patience: Patience) -> Ask:
    def ask(first: int, last: int) -> "AbstractContextManager[_WebAnswer]":
        return _asked(parts, name, patience, {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"})

    return ask


class _WebAnswer:
    """An answer of the standard library's client."""

    def __init__(self, answer: http.client.HTTPResponse | urllib.error.HTTPError) -> None:
        self._answer = answer
        self.status: int = answer.status or 0

    def header(self, name: str) -> str | None:
        return self._answer.headers.get(name)

    def read(self, n_bytes: int) -> bytes:
        if isinstance(self._answer, urllib.error.HTTPError):
            return b""
        return self._answer.read1(n_bytes)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to http and https alone, and never from protected to unprotected."""

    def redirect_request(  # noqa: PLR0913 - the library's signature
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        target = urlsplit(urljoin(req.full_url, newurl))
        if target.scheme != "https" and not (target.scheme == "http" == urlsplit(req.full_url).scheme):
            raise urllib.error.URLError("it redirects from https to something else")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()  # without the library's handlers of files, ftp and data
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


@contextmanager
def _asked(parts: SplitResult, name: str, patience: Patience, headers: Mapping[str, str]) -> Iterator[_WebAnswer]:
    request = urllib.request.Request(urlunsplit(parts), headers={"User-Agent": _AGENT, **headers})  # noqa: S310 - checked
    try:
        with _opened(request, patience) as answer:
            yield _WebAnswer(answer)
    except http.client.IncompleteRead as error:
        raise UnavailableError(f"{name} broke off before its end was reached", "try again") from error
    except TimeoutError as error:
        raise UnavailableError(f"{name}: no answer within {patience.silence_s:g} s", "try again later") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnavailableError(f"{name} cannot be reached: {_reason(error)}", _advice(error)) from error


def _opened(request: urllib.request.Request, patience: Patience) -> Any:  # noqa: ANN401 - the library's own
    try:
        return _opener().open(request, timeout=patience.silence_s)
    except urllib.error.HTTPError as error:
        return error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise error.reason from error
        raise


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    said = (inner.strerror if isinstance(inner, OSError) else None) or str(inner) or type(inner).__name__
    return " ".join(said.split())[:120]


def _advice(error: Exception) -> str:
    if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
        return "its certificate is not trusted here: check the address and the system's certificates (SSL_CERT_FILE)"
    return "check the address, the network and the proxy settings"
