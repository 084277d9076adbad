"""Files of any web server, by ranges: the right bytes, or one line of fact and one of advice; never a hang."""

import contextlib
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.file_server import (
    Route,
    Server,
    cut_off,
    dripping,
    endless,
    partial,
    plain,
    ranges,
    redirect,
    serving,
    silent,
    status,
)

from vramcalc.errors import AppError, BadInputError, ExitCode, UnavailableError, UsageError
from vramcalc.sources._waiting import Patience, Waiting
from vramcalc.sources.range_source import FIRST_BYTES
from vramcalc.sources.web import fetch, is_loopback, open_url, parse_url, shown

CONTENT = bytes(i * 7 % 251 for i in range(1 << 21))
SHORT = Patience(silence_s=0.3, whole_s=0.6)
ENDS_OF_ADDRESSES = "ab.:/@[]%?# \\\r\n\0\u2100é0"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    "route", [pytest.param(ranges(CONTENT), id="ranges"), pytest.param(plain(CONTENT), id="ignores ranges")]
)
def test_reads_what_is_asked_and_little_more(server: Server, route: Route) -> None:
    source = open_url(server.add("/m.gguf", route))

    assert source.n_bytes == len(CONTENT)
    assert source.read(0, 4) == CONTENT[:4]
    assert source.read(70_000, 10_000) == CONTENT[70_000:80_000]
    assert len(server.seen) == 1  # the first window holds both
    assert source.read(FIRST_BYTES - 10, 20) == CONTENT[FIRST_BYTES - 10 : FIRST_BYTES + 10]
    assert len(server.seen) == 2
    assert server.seen[1].headers["range"] == f"bytes={FIRST_BYTES}-{5 * FIRST_BYTES - 1}"  # four times as much


def test_the_end_of_the_file_is_where_it_is_said_to_be(server: Server) -> None:
    source = open_url(server.add("/m.gguf", ranges(CONTENT)))

    assert source.read(len(CONTENT) - 3, 100) == CONTENT[-3:]
    assert source.read(len(CONTENT) + 5, 10) == b""
    assert server.sent_bytes == len(CONTENT)  # nothing is asked for twice


@pytest.mark.parametrize("size", [0, 1, FIRST_BYTES - 1, FIRST_BYTES, FIRST_BYTES + 1])
@pytest.mark.parametrize("answer", [ranges, plain])
def test_small_files_are_read_whole(server: Server, size: int, answer: object) -> None:
    content = CONTENT[:size]
    source = open_url(server.add("/m.gguf", ranges(content) if answer is ranges else plain(content)))

    assert source.read(0, FIRST_BYTES * 2) == content
    assert source.n_bytes == size


def test_a_body_that_never_ends_is_left_alone(server: Server) -> None:
    source = open_url(server.add("/m.gguf", endless()))

    assert source.read(0, 100) == bytes(100)
    assert source.n_bytes is None
    assert source.read(300_000, 100) == bytes(100)


def test_no_header_goes_on_for_ever(server: Server) -> None:
    source = open_url(server.add("/m.gguf", ranges(CONTENT)), most_bytes=1 << 20)

    assert source.read((1 << 20) - 4, 4) == CONTENT[(1 << 20) - 4 : 1 << 20]
    with pytest.raises(BadInputError, match="beyond 1 MiB"):
        source.read(1 << 20, 1)


@pytest.mark.parametrize(
    ("route", "fact", "advice"),
    [
        pytest.param(status(401), "wants to know who asks (status 401)", "download", id="401"),
        pytest.param(status(403), "wants to know who asks (status 403)", "download", id="403"),
        pytest.param(status(404), "no such file (status 404)", "spelling", id="404"),
        pytest.param(status(429, Retry_After="17"), "too many requests", "in 17 s", id="429 in seconds"),
        pytest.param(
            status(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"), "too many", "after Wed, 21 Oct", id="429 by date"
        ),
        pytest.param(status(429, Retry_After="\x1b[31mred"), "too many requests", "try again later", id="429, hostile"),
        pytest.param(status(503), "the server fails (status 503)", "later", id="503"),
        pytest.param(status(418), "status 418", "address", id="418"),
        pytest.param(status(302), "status 302", "address", id="a redirect to nowhere"),
        pytest.param(partial(b"ab", "bytes 5-6/10"), "another range", "download", id="another range"),
        pytest.param(partial(b"ab", "bytes 0-1/1"), "another range", "download", id="a range past the end"),
        pytest.param(partial(b"ab", "bytes 1-0/9"), "another range", "download", id="a range turned round"),
        pytest.param(partial(b"ab", "lines 0-1/9"), "without saying which", "download", id="no range of bytes"),
        pytest.param(partial(b"ab", f"bytes 0-{'9' * 40}/*"), "without saying which", "download", id="a huge range"),
        pytest.param(partial(b"ab", "bytes 0-9/10", 10), "broke off", "again", id="a range cut off"),
        pytest.param(cut_off(CONTENT, 1000), "broke off", "again", id="a whole file cut off"),
        pytest.param(plain(b"x" * 50, Content_Encoding="gzip"), "compressed", "download", id="gzip, whole"),
        pytest.param(
            partial(b"ab", "bytes 0-1/2", Content_Encoding="gzip"), "compressed", "download", id="gzip, a range"
        ),
        pytest.param(redirect("ftp://127.0.0.1/x"), "redirects", "address", id="to ftp"),
        pytest.param(redirect("file:///etc/passwd"), "redirects", "address", id="to a file"),
    ],
)
def test_what_is_no_answer_is_told(server: Server, route: Route, fact: str, advice: str) -> None:
    url = server.add("/m.gguf", route)

    with pytest.raises(UnavailableError) as raised:
        open_url(url + "?signature=secret").read(0, 100)

    assert fact in str(raised.value)
    assert advice in raised.value.hint
    assert raised.value.exit_code == ExitCode.UNAVAILABLE
    told = f"{raised.value}{raised.value.hint}"
    assert "secret" not in told
    assert told.isprintable()


@pytest.mark.parametrize(
    "route",
    [
        pytest.param(silent(20), id="says nothing"),
        pytest.param(dripping(CONTENT, 0.05), id="a byte at a time"),
    ],
)
def test_a_slow_server_is_left_in_time(server: Server, route: Route) -> None:
    url = server.add("/m.gguf", route)
    began = time.monotonic()

    with pytest.raises(UnavailableError, match=r"within 0\.[36] s"):
        open_url(url, SHORT)

    assert time.monotonic() - began < 5  # a loaded machine; the server takes longer still


def test_a_server_that_is_not_there() -> None:
    with serving() as gone:
        url = gone.url
    with pytest.raises(UnavailableError, match="cannot be reached"):
        open_url(f"{url}/m.gguf")


def test_a_file_that_changes_is_not_pieced_together(server: Server) -> None:
    url = server.add("/m.gguf", ranges(CONTENT, ETag='"one"'))
    source = open_url(url)
    server.add("/m.gguf", ranges(CONTENT, ETag='"two"'))

    with pytest.raises(UnavailableError, match="changed while it was read"):
        source.read(FIRST_BYTES, 100)


def test_redirects_are_followed(server: Server) -> None:
    with serving() as other:
        target = other.add("/far file.gguf", ranges(CONTENT))
        other.routes["/far%20file.gguf"] = other.routes["/far file.gguf"]
        source = open_url(server.add("/near", redirect(target)))
        assert source.read(1, 9) == CONTENT[1:10]
    server.add("/chatty", endless(code=302, Location="/near"))
    with pytest.raises(UnavailableError, match="cannot be reached"):  # the body of a redirect is never waited for
        open_url(f"{server.url}/chatty")
    server.add("/loop", redirect("/loop"))
    with pytest.raises(UnavailableError, match="redirects more than 5 times"):
        open_url(f"{server.url}/loop")


def test_ipv6_addresses_are_read() -> None:
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(serving("::1"))
        except OSError:
            pytest.skip("this machine has no IPv6")
        assert open_url(server.add("/m", ranges(b"abc"))).read(0, 3) == b"abc"


def test_a_proxy_of_the_environment_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.routes["http://models.example/m.gguf"] = ranges(b"by proxy")
    monkeypatch.setenv("http_proxy", server.url)

    assert open_url("http://models.example/m.gguf").read(0, 8) == b"by proxy"


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "ftp://example.org/x",
        "https://example.org:99999/x",
        "https://[::1/x",
        "https://a b/x",
        "https://example.org/\r\nHost: evil",
        "https://user:pw@example.org/x",
        "https://example.org/" + "x" * 5000,
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_url(url)
    assert "pw" not in str(raised.value)


@given(st.text(ENDS_OF_ADDRESSES, max_size=40))
def test_no_text_is_more_than_refused(text: str) -> None:
    with contextlib.suppress(AppError):
        assert shown(parse_url(f"https://{text}")).startswith("https://")


def test_small_documents_have_a_bound(server: Server) -> None:
    url = server.add("/doc", plain(b"x" * 100))
    waiting = Waiting("doc", Patience())

    assert fetch(url, "doc", waiting, accept="*/*", most_bytes=100) == b"x" * 100
    with pytest.raises(BadInputError, match="larger than 99 bytes"):
        fetch(url, "doc", waiting, accept="*/*", most_bytes=99)


@pytest.mark.parametrize(
    ("host", "here"), [("127.0.0.1", True), ("::1", True), ("LOCALHOST", True), ("10.0.0.1", False)]
)
def test_what_is_this_machine(host: str, here: bool) -> None:
    assert is_loopback(host) is here
