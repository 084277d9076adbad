"""The Hugging Face Hub through its own client, played by a server on this machine."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from tests.file_server import Handler, Route, dripping, serving, silent, status
from tests.sources.hub_server import COMMIT, REPO, TOKEN, Hub, hub_served

from vramcalc.errors import AppError, BadInputError, ExitCode, MissingError, UnavailableError, UsageError
from vramcalc.sources._waiting import Patience
from vramcalc.sources.hub import HubRepository, parse_hub_name

WEIGHTS = bytes(i * 11 % 253 for i in range(300_000))
CONFIG = json.dumps({"model_type": "llama"}).encode()
SHORT = Patience(silence_s=0.3, whole_s=0.6)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_served(tmp_path, monkeypatch) as served:
        served.put("config.json", CONFIG)
        served.put("model.gguf", WEIGHTS, large=True)
        yield served


def test_a_header_is_read_by_ranges_and_no_token_leaves_the_hub(hub: Hub) -> None:
    repository = HubRepository(parse_hub_name("hf:org/model"))
    source = repository.open("model.gguf")

    assert repository.revision == COMMIT
    assert repository.names == ("config.json", "model.gguf")
    assert (source.name, source.n_bytes) == ("hf:org/model/model.gguf", len(WEIGHTS))
    assert source.read(10, 20) == WEIGHTS[10:30]
    assert hub.far.sent_bytes == 128 << 10  # one window
    assert source.read(200_000, 5) == WEIGHTS[200_000:200_005]
    asked = [seen for seen in hub.site.seen if REPO in seen.path]
    assert len(asked) == 3  # the list of files, two windows
    assert all(seen.headers["authorization"] == f"Bearer {TOKEN}" for seen in asked)
    assert hub.far.seen
    assert not any("authorization" in seen.headers for seen in hub.far.seen)


def test_small_files_are_kept_in_the_clients_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = HubRepository(parse_hub_name("hf:org/model")).fetch(["config.json", "hf_quant_config.json"])
    assert (folder / "config.json").read_bytes() == CONFIG
    asked = len(hub.site.seen)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = HubRepository(parse_hub_name("hf:org/model"))
    assert offline.names == ("config.json",)
    assert offline.open("config.json").read(0, 100) == CONFIG
    assert offline.fetch(["config.json"]) == folder
    for name in ("hf:org/other", "hf:org/model@v2"):
        with pytest.raises(MissingError, match="not in the cache, and HF_HUB_OFFLINE is set"):
            HubRepository(parse_hub_name(name))
    assert len(hub.site.seen) == asked


def test_many_shards_are_opened_at_once(hub: Hub) -> None:
    names = [f"model-{i:05}-of-00020.safetensors" for i in range(1, 21)]
    for name in names:
        hub.put(name, WEIGHTS[:1000])
    repository = HubRepository(parse_hub_name("hf:org/model@v1"))
    repository.open_ahead([*names, "absent"])
    asked = len(hub.site.seen)

    assert [repository.open(name).read(0, 5) for name in names] == [WEIGHTS[:5]] * 20
    assert len(hub.site.seen) == asked


def _gated(handler: Handler) -> None:
    handler.send(403, b"", {"X-Error-Code": "GatedRepo"})


@pytest.mark.parametrize(
    ("path", "route", "fact", "advice"),
    [
        pytest.param(
            f"/api/models/{REPO}",
            status(401, X_Error_Code="RepoNotFound"),
            "knows no",
            "HF_TOKEN",
            id="no such repository",
        ),
        pytest.param(f"/api/models/{REPO}", status(404, X_Error_Code="RepoNotFound"), "knows no", "HF_TOKEN", id="404"),
        pytest.param(f"/api/models/{REPO}", _gated, "is gated", "accept", id="gated"),
        pytest.param(f"/api/models/{REPO}", status(429, Retry_After="30"), "too many requests", "in 30 s", id="429"),
        pytest.param(f"/api/models/{REPO}", status(502), "fails (status 502)", "later", id="502"),
        pytest.param(f"/{REPO}/resolve/{COMMIT}/model.gguf", status(403), "who asks", "accept", id="gated file"),
        pytest.param(
            f"/{REPO}/resolve/{COMMIT}/model.gguf", status(429, Retry_After="9"), "too many", "in 9 s", id="429, a file"
        ),
        pytest.param(f"/{REPO}/resolve/main/config.json", status(404), "", "", id="a file that went away"),
    ],
)
def test_what_the_hub_refuses_is_told(hub: Hub, path: str, route: Route, fact: str, advice: str) -> None:
    hub.site.add(path, route)

    def read_both() -> None:
        repository = HubRepository(parse_hub_name("hf:org/model"))
        repository.open("model.gguf")
        repository.fetch(["config.json"])

    with pytest.raises(UnavailableError) as raised:
        read_both()

    assert fact in str(raised.value)
    assert advice in raised.value.hint
    assert raised.value.exit_code == ExitCode.UNAVAILABLE
    assert TOKEN not in f"{raised.value}{raised.value.hint}"
    assert "\n" not in f"{raised.value}{raised.value.hint}"


def test_a_revision_that_is_not_there(hub: Hub) -> None:
    hub.site.add(f"/api/models/{REPO}/revision/v9", status(404, X_Error_Code="RevisionNotFound"))
    with pytest.raises(MissingError, match="no revision v9"):
        HubRepository(parse_hub_name("hf:org/model@v9"))


def test_a_file_that_is_not_there(hub: Hub) -> None:
    assert hub
    repository = HubRepository(parse_hub_name("hf:org/model"))
    for look in (repository.open, lambda name: repository.fetch([name])):
        with pytest.raises(MissingError, match="holds no file other"):
            look("other.gguf")


def test_no_config_is_larger_than_8_mib(hub: Hub) -> None:
    hub.put("huge.json", bytes((8 << 20) + 1))
    with pytest.raises(BadInputError, match="larger than 8 MiB"):
        HubRepository(parse_hub_name("hf:org/model")).fetch(["huge.json"])


@pytest.mark.parametrize("path", [f"/api/models/{REPO}", f"/{REPO}/resolve/{COMMIT}/model.gguf"])
@pytest.mark.parametrize("route", [silent(20), dripping(bytes(10_000), 0.05)], ids=["silent", "a byte at a time"])
def test_a_slow_hub_is_left_in_time(hub: Hub, path: str, route: Route) -> None:
    hub.site.add(path, route)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"within 0\.[36] s"):
        HubRepository(parse_hub_name("hf:org/model"), SHORT).open("model.gguf")
    assert time.monotonic() - began < 5


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as gone:
        monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    with pytest.raises(UnavailableError, match=r"hf:org/model cannot be reached") as raised:
        HubRepository(parse_hub_name("hf:org/model"))
    assert "HF_ENDPOINT" in raised.value.hint


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf:Qwen/Qwen3-8B", ("Qwen/Qwen3-8B", None, None)),
        ("hf:a/b@refs/pr/1:x/y.gguf", ("a/b", "refs/pr/1", "x/y.gguf")),
        ("hf:a/b:Q4_K_M", ("a/b", None, "Q4_K_M")),
    ],
)
def test_names_are_taken_apart(text: str, parts: tuple[str, str | None, str | None]) -> None:
    name = parse_hub_name(text)
    assert (name.repo, name.revision, name.file) == parts
    assert str(name) == text


@given(st.text(st.sampled_from("ab/.:@-_ \\\n\0%é"), max_size=40))
def test_no_name_is_more_than_refused(text: str) -> None:
    with contextlib.suppress(AppError):
        assert str(parse_hub_name(f"hf:{text}")) == f"hf:{text}"


def test_without_the_client_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub.utils", None)
    with pytest.raises(UsageError) as raised:
        HubRepository(parse_hub_name("hf:org/model"))
    assert raised.value.hint == "pip install 'vramcalc-cli[hub]'"
