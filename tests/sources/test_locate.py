"""From what people type after ``-m`` to a model, over servers of this machine."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.file_server import Server, file_ranges, serving, status
from tests.sources.gguf_files import write_gguf
from tests.sources.hub_server import COMMIT, Hub, hub_served

from vramcalc import api
from vramcalc.errors import MissingError, UnavailableError, UsageError
from vramcalc.sources.locate import read_source
from vramcalc.specs.model import ModelSpec

CHOICES = "name one, hf:org/model:NAME, of Q4_K_M, Q8_0"
CONFIG = Path(__file__).parent / "configs" / "Qwen__Qwen3-0.6B.json"


@cache
def small() -> ModelSpec:
    return api.load_model("qwen2-0.5b")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small-Q4_K_M.gguf", small(), "qwen2", "q4_k_m")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    first = write_gguf(tmp_path_factory.mktemp("parts") / "small-Q8_0.gguf", small(), "qwen2", "q8_0", parts=3)
    return sorted(first.parent.iterdir())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as running:
        yield running


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_served(tmp_path, monkeypatch) as served:
        yield served


def bytes_of(path: Path) -> int:
    file = read_source(str(path)).file
    assert file is not None
    return file.n_bytes


def test_a_web_address_is_the_file_there(server: Server, gguf: Path) -> None:
    url = server.add("/a%20b/small.gguf", file_ranges(gguf))
    found = read_source(url + "?token=1")

    assert found.file is not None
    assert found.file.n_bytes == bytes_of(gguf)
    assert found.model().stored == read_source(str(gguf)).model().stored
    assert (found.model().id, found.name) == ("small", url)
    assert server.sent_bytes < 1 << 20


def test_all_parts_of_a_web_address(server: Server, parts: list[Path]) -> None:
    for part in parts:
        server.add(f"/x/{part.name}", file_ranges(part))
    found = read_source(f"{server.url}/x/{parts[1].name}")

    assert found.file is not None
    assert found.file.n_bytes == bytes_of(parts[0])
    assert [part.is_missing for part in found.file.parts] == [False] * 3


def test_a_part_that_is_not_there_is_told_from_one_that_cannot_be_had(server: Server, parts: list[Path]) -> None:
    for part in parts[:2]:
        server.add(f"/x/{part.name}", file_ranges(part))
    found = read_source(f"{server.url}/x/{parts[0].name}")
    assert found.file is not None
    assert [part.is_missing for part in found.file.parts] == [False, False, True]

    server.add(f"/x/{parts[2].name}", status(503))
    with pytest.raises(UnavailableError, match="the server fails"):
        read_source(f"{server.url}/x/{parts[0].name}")


@pytest.mark.parametrize("url", ["https://example.org/model", "https://example.org/model.safetensors"])
def test_no_other_web_address_is_asked(url: str) -> None:
    with pytest.raises(UsageError, match=r"not the address of a \.gguf file"):
        read_source(url)


def test_a_checkpoint_of_the_hub(hub: Hub) -> None:
    hub.put("config.json", CONFIG.read_bytes())
    hub.put("model.safetensors", bytes(10), large=True)
    model = read_source("hf:org/model", with_weights=False).model()

    assert api.load_model("hf:org/model") == model
    assert (model.id, model.hf_ids, model.source) == ("model", ("org/model",), f"hf:org/model@{COMMIT}")
    assert model.parameters.total == 596_049_920  # Qwen3 0.6B, its head tied
    assert not hub.far.seen  # the config.json is enough


@pytest.mark.parametrize(
    "name", ["hf:org/model:Q4_K_M", "hf:org/model:q4_k_m", "hf:org/model:sub/small-Q4_K_M.gguf", "hf:org/model@v1:q4_k"]
)
def test_a_gguf_of_the_hub(hub: Hub, gguf: Path, parts: list[Path], name: str) -> None:
    hub.put("README.md", b"about")
    hub.put(f"sub/{gguf.name}", gguf)
    hub.put("mmproj-F16.gguf", gguf)
    for part in parts:
        hub.put(f"sub/{part.name}", part)
    found = read_source(name)

    assert found.file is not None
    assert (found.name, found.file.n_bytes) == (name, bytes_of(gguf))
    assert found.model().notes[-1] == "The repository also holds a projector (mmproj-F16.gguf), which is not counted."


def test_parts_of_the_hub(hub: Hub, gguf: Path, parts: list[Path]) -> None:
    hub.put(gguf.name, gguf)
    for part in parts:
        hub.put(f"sub/{part.name}", part)
    file = read_source("hf:org/model:Q8_0").file

    assert file is not None
    assert file.n_bytes == bytes_of(parts[0])


def test_the_only_gguf_needs_no_name(hub: Hub, gguf: Path) -> None:
    hub.put(gguf.name, gguf)
    assert read_source("hf:org/model").model().stored is not None


@pytest.mark.parametrize(
    ("name", "fact", "advice"),
    [
        ("hf:org/model", "hf:org/model holds 2 GGUF models", CHOICES),
        ("hf:org/model:q", "hf:org/model holds 2 GGUF models called q", CHOICES),
        ("hf:org/model:q5", "hf:org/model holds no file q5", CHOICES),
        (
            "hf:org/model:README.md",
            "hf:org/model holds no file README.md",
            CHOICES,
        ),
    ],
)
def test_what_could_be_meant_is_listed(hub: Hub, name: str, fact: str, advice: str) -> None:
    hub.put("README.md", b"about")
    for file in ("small-Q4_K_M.gguf", "small-Q8_0-00001-of-00002.gguf", "small-Q8_0-00002-of-00002.gguf"):
        hub.put(file, b"GGUF")
    with pytest.raises(UsageError) as raised:
        read_source(name)
    assert (str(raised.value), raised.value.hint) == (fact, advice)


def test_a_repository_of_something_else(hub: Hub) -> None:
    hub.put("README.md", b"about")
    with pytest.raises(MissingError, match=r"holds neither a config\.json nor a GGUF"):
        read_source("hf:org/model")


def test_a_tag_of_ollama(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    layers = []
    (tmp_path / "blobs").mkdir()
    for kind, digest, size in (("model", "a" * 64, gguf.stat().st_size), ("projector", "b" * 64, 3 << 20)):
        layers.append({"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}", "size": size})
    (tmp_path / "blobs" / f"sha256-{'a' * 64}").symlink_to(gguf)
    (tmp_path / "blobs" / f"sha256-{'b' * 64}").write_bytes(bytes(3 << 20))
    manifest = tmp_path / "manifests/registry.ollama.ai/library/small/latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"layers": layers}))
    found = read_source("ollama:small")

    assert (found.name, found.model().id, found.model().ollama_tags) == (
        "ollama:small:latest",
        "small:latest",
        ("small:latest",),
    )
    assert found.model().stored == read_source(str(gguf)).model().stored
    assert found.model().notes[-1] == "Its projector of 3.0 MiB, which Ollama loads beside it, is not counted."


@pytest.mark.slow
def test_a_registry_name_loads_no_client() -> None:
    program = """
import sys
from vramcalc import estimate
estimate("deepseek-r1:8b", "rtx3060")
assert not {"http.client", "urllib.request", "huggingface_hub", "pynvml", "psutil", "subprocess"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_registry_name_reaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was made"))
    assert api.load_model("deepseek-r1:8b").id
