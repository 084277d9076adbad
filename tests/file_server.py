"""A web server on this machine that stands in for file hosts, hubs and registries, well-behaved or not."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET, AF_INET6
from threading import Thread

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]


@dataclass
class Server:
    """What runs: ``routes`` from a path to what answers it, ``seen`` what arrived."""

    port: int
    host: str = "127.0.0.1"
    routes: dict[str, "Route"] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    sent_bytes: int = 0

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def add(self, path: str, route: "Route") -> str:
        self.routes[path] = route
        return self.url + path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def do_GET(self) -> None:
        self.state.seen.append(Seen(self.path, {name.lower(): value for name, value in self.headers.items()}))
        route = self.state.routes.get(self.path.partition("?")[0], status(404))
        try:
            route(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def send(self, code: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.state.sent_bytes += len(body)
            self.wfile.write(body)

    def asked_range(self, size: int) -> tuple[int, int] | None:
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        return None if match is None else (int(match[1]), min(int(match[2]), size - 1))

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


Route = Callable[[Handler], None]


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def ranges(content: bytes, **headers: str) -> Route:
    """Answer as a well-kept server does."""

    def answer(handler: Handler) -> None:
        asked = handler.asked_range(len(content))
        if asked is None:
            handler.send(200, content, _named(headers))
        elif asked[0] >= len(content):
            handler.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        else:
            first, last = asked
            stated = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            handler.send(206, content[first : last + 1], _named(headers) | stated)

    return answer


def file_ranges(path: Path) -> Route:
    """Answer ranges of a file that may be too large to read whole."""

    def answer(handler: Handler) -> None:
        size = path.stat().st_size
        first, last = handler.asked_range(size) or (0, size - 1)
        with path.open("rb") as file:
            file.seek(first)
            handler.send(206, file.read(last - first + 1), {"Content-Range": f"bytes {first}-{last}/{size}"})

    return answer


def status(code: int, **headers: str) -> Route:
    return lambda handler: handler.send(code, b"x" * 100, _named(headers))


def plain(content: bytes, **headers: str) -> Route:
    """Ignore ranges and send all of it."""
    return lambda handler: handler.send(200, content, _named(headers))


def redirect(to: str, **headers: str) -> Route:
    return lambda handler: handler.send(302, b"", {"Location": to, **headers})


def partial(body: bytes, content_range: str, stated_length: int | None = None, **headers: str) -> Route:
    """Send these bytes as that range, right or wrong."""

    def answer(handler: Handler) -> None:
        length = str(len(body) if stated_length is None else stated_length)
        stated = {"Content-Range": content_range, "Content-Length": length}
        handler.send(206, body, stated | _named(headers))
        handler.close_connection = True

    return answer


def cut_off(content: bytes, after: int) -> Route:
    """State the whole length and hang up early."""

    def answer(handler: Handler) -> None:
        handler.send(200, content[:after], {"Content-Length": str(len(content))})
        handler.close_connection = True

    return answer


def endless(chunk: bytes = bytes(1 << 16), code: int = 200, **headers: str) -> Route:
    """Send a body that never ends, of no stated length."""

    def answer(handler: Handler) -> None:
        handler.send(code, b"", {"Transfer-Encoding": "chunked", "Content-Length": "", **headers})
        while True:
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    return answer


def dripping(content: bytes, pause_s: float) -> Route:
    """Send a byte at a time, never silent for long."""

    def answer(handler: Handler) -> None:
        handler.send(200, b"", {"Content-Length": str(len(content))})
        for byte in content:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(pause_s)

    return answer


def silent(seconds: float) -> Route:
    """Say nothing for long, then answer."""

    def answer(handler: Handler) -> None:
        time.sleep(seconds)
        handler.send(200, b"late")

    return answer


@contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[Server]:
    """Run a server on a free port for as long as the block lasts."""

    class Bound(Handler):
        pass

    class Listening(ThreadingHTTPServer):
        address_family = AF_INET6 if ":" in host else AF_INET
        daemon_threads = True
        block_on_close = False

    with Listening((host, 0), Bound) as listening:
        Bound.state = Server(listening.server_address[1], host)
        thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield Bound.state
        listening.shutdown()
        thread.join()
