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
from urllib.parse import SplitResult, quote, urljoin, urlsplit, urlunsplit

from vramcalc.errors import BadInputError, UnavailableError, UsageError
from vramcalc.sources._waiting import Patience, Waiting
from vramcalc.sources.range_source import MOST_BYTES, Ask, RangeSource, refusal

_AGENT = "vramcalc (reads headers of model files)"
_OK = 200
_REDIRECTS, _MOST_REDIRECTS = (301, 302, 303, 307, 308), 5
_MOST_URL = 4096
_URL_SAFE = "/%:@!$&'()*+,;=~-._?#[]"
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
    return parts._replace(path=quote(parts.path, safe=_URL_SAFE), fragment="")


def shown(parts: SplitResult) -> str:
    """Return an address as it may be printed: without the query, which may be a signature."""
    return urlunsplit(parts._replace(query=""))


def _asking(parts: SplitResult, name: str, patience: Patience) -> Ask:
    def ask(first: int, last: int) -> "AbstractContextManager[_WebAnswer]":
        return _asked(parts, name, patience, {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"})

    return ask


class _WebAnswer:
    """An answer of the standard library's client."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer
        self.status = answer.status

    def header(self, name: str) -> str | None:
        return self._answer.headers.get(name)

    def read(self, n_bytes: int) -> bytes:
        return self._answer.read1(n_bytes)


@contextmanager
def _asked(parts: SplitResult, name: str, patience: Patience, headers: Mapping[str, str]) -> Iterator[_WebAnswer]:
    try:
        with _followed(urlunsplit(parts), {"User-Agent": _AGENT, **headers}, patience.silence_s) as answer:
            yield _WebAnswer(answer)
    except http.client.IncompleteRead as error:
        raise UnavailableError(f"{name} broke off before its end was reached", "try again") from error
    except (OSError, http.client.HTTPException, ValueError, UsageError) as error:
        inner = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(inner, TimeoutError):
            raise UnavailableError(f"{name}: no answer within {patience.silence_s:g} s", "try again later") from error
        raise UnavailableError(f"{name} cannot be reached: {_reason(inner)}", _advice(inner)) from error


def _followed(url: str, headers: Mapping[str, str], timeout_s: float) -> http.client.HTTPResponse:
    """Return the answer behind redirects to http and https, never from protected to unprotected.

    The library would read the body of a redirect whole, and go to ftp.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()):
        opener.add_handler(handler)
    for _ in range(_MOST_REDIRECTS + 1):
        request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - http or https: see below
        answer: http.client.HTTPResponse = opener.open(request, timeout=timeout_s)
        target = answer.headers.get("Location")
        if answer.status not in _REDIRECTS or not target:
            return answer
        answer.close()
        before, url = urlsplit(url), urljoin(url, target)
        if urlsplit(url).scheme not in {"https", before.scheme}:
            raise ValueError("it redirects to something that is not https")
        url = urlunsplit(parse_url(quote(url, safe=_URL_SAFE)))
    raise ValueError(f"it redirects more than {_MOST_REDIRECTS} times")


def _reason(error: object) -> str:
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(said.split())[:120]


def _advice(error: object) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not trusted here: check the address and the system's certificates (SSL_CERT_FILE)"
    return "check the address, the network and the proxy settings"
