"""Ollama's tags: from a store on this machine, else from a registry, played by a server."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.file_server import Server, plain, ranges, serving, status

from vramcalc.errors import AppError, BadInputError, ExitCode, MissingError, UnavailableError, UsageError
from vramcalc.sources.ollama import OllamaModel, open_ollama, parse_manifest, parse_ollama_name

WEIGHTS = bytes(i * 13 % 249 for i in range(400_000))
CONTENT = {
    "model": WEIGHTS,
    "projector": b"GGUF projector",
    "adapter": b"GGUF adapter",
    "template": b"{{ .Prompt }}",
    "params": json.dumps({"num_ctx": 16384, "stop": ["<end>"], "temperature": 0.6}).encode(),
}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def manifest(content: Mapping[str, bytes] = CONTENT) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": f"sha256:{digest(b'{}')}",
            "size": 2,
        },
        "layers": [
            {
                "mediaType": f"application/vnd.ollama.image.{kind}",
                "digest": f"sha256:{digest(blob)}",
                "size": len(blob),
            }
            for kind, blob in content.items()
        ],
    }


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    (tmp_path / "blobs").mkdir()
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    return tmp_path


@pytest.fixture
def registry() -> Iterator[Server]:
    with serving() as server:
        yield server


def keep(store: Path, path: str, content: Mapping[str, bytes] = CONTENT) -> None:
    file = store / "manifests" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(manifest(content)))
    for blob in content.values():
        (store / "blobs" / f"sha256-{digest(blob)}").write_bytes(blob)


def opened(name: str) -> OllamaModel:
    return open_ollama(parse_ollama_name(name))


def check(found: OllamaModel, name: str) -> None:
    assert found.model.name == found.name == name
    assert found.model.n_bytes == len(WEIGHTS)
    assert found.model.read(1000, 10) == WEIGHTS[1000:1010]
    assert [source.read(0, 100) for source in (*found.projectors, *found.adapters)] == [
        CONTENT["projector"],
        CONTENT["adapter"],
    ]
    assert found.projectors[0].name == f"{name} (projector)"
    assert found.notes == (f"{name} sets num_ctx 16384 (--context); it is not taken over by itself",)


@pytest.mark.parametrize(
    ("path", "name", "shown"),
    [
        ("registry.ollama.ai/library/llama3.2/3b", "ollama:llama3.2:3b", "ollama:llama3.2:3b"),
        ("registry.ollama.ai/library/llama3.2/latest", "ollama:llama3.2", "ollama:llama3.2:latest"),
        ("registry.ollama.ai/me/mine/q4", "ollama:me/mine:q4", "ollama:me/mine:q4"),
        ("hf.co/bartowski/Some-GGUF/Q4_K_M", "ollama:hf.co/bartowski/Some-GGUF:Q4_K_M", None),
    ],
)
def test_a_tag_of_this_machine(store: Path, path: str, name: str, shown: str | None) -> None:
    keep(store, path)
    check(opened(name), shown or name)


def test_a_tag_of_the_registry(registry: Server) -> None:
    base = "/v2/library/llama3.2"
    accepted = "application/vnd.docker.distribution.manifest.v2+json"
    registry.add(f"{base}/manifests/3b", plain(json.dumps(manifest()).encode()))
    for blob in CONTENT.values():
        registry.add(f"{base}/blobs/sha256:{digest(blob)}", ranges(blob))

    found = opened(f"ollama:127.0.0.1:{registry.port}/library/llama3.2:3b")

    check(found, f"ollama:127.0.0.1:{registry.port}/library/llama3.2:3b")
    assert registry.seen[0].headers["accept"] == accepted
    assert registry.sent_bytes < len(WEIGHTS)
    assert not any("authorization" in seen.headers for seen in registry.seen)


def test_a_tag_that_is_nowhere(registry: Server) -> None:
    with pytest.raises(MissingError, match=r"neither in Ollama's store here nor at 127\.0\.0\.1") as raised:
        opened(f"ollama:127.0.0.1:{registry.port}/library/nope:1b")
    assert "OLLAMA_MODELS" in raised.value.hint


@pytest.mark.parametrize(("code", "fact"), [(401, "who asks"), (429, "too many requests"), (500, "fails")])
def test_a_registry_that_refuses(registry: Server, code: int, fact: str) -> None:
    registry.add("/v2/library/x/manifests/y", status(code))
    with pytest.raises(UnavailableError, match=fact) as raised:
        opened(f"ollama:127.0.0.1:{registry.port}/library/x:y")
    assert raised.value.exit_code == ExitCode.UNAVAILABLE


def test_a_blob_that_is_gone(store: Path) -> None:
    keep(store, "registry.ollama.ai/library/x/y")
    (store / "blobs" / f"sha256-{digest(WEIGHTS)}").unlink()
    with pytest.raises(MissingError, match="its model is gone from the store") as raised:
        opened("ollama:x:y")
    assert raised.value.hint == "pull it again: ollama pull x:y"


def test_a_blob_that_was_cut(store: Path) -> None:
    keep(store, "registry.ollama.ai/library/x/y")
    (store / "blobs" / f"sha256-{digest(WEIGHTS)}").write_bytes(WEIGHTS[:-1])
    with pytest.raises(BadInputError, match="its model has 399,999 bytes, not the 400,000 stated"):
        opened("ollama:x:y")


def test_a_link_that_leads_to_itself(store: Path) -> None:
    keep(store, "registry.ollama.ai/library/x/y")
    blob = store / "blobs" / f"sha256-{digest(WEIGHTS)}"
    blob.unlink()
    blob.symlink_to(blob)
    with pytest.raises(UnavailableError, match="cannot be read"):
        opened("ollama:x:y")


def test_a_folder_in_place_of_a_blob(store: Path) -> None:
    keep(store, "registry.ollama.ai/library/x/y")
    blob = store / "blobs" / f"sha256-{digest(WEIGHTS)}"
    blob.unlink()
    blob.mkdir()
    with pytest.raises(BadInputError, match="is a folder"):
        opened("ollama:x:y")


@pytest.mark.parametrize(
    ("layers", "fact"),
    [
        pytest.param([], "holds no model", id="a model of the cloud"),
        pytest.param(None, "no list of layers", id="no layers"),
        pytest.param([7], "a layer is no object", id="a number"),
        pytest.param([{"digest": "sha256:../../etc/passwd"}], "digest 'sha256:../../etc/passwd'", id="a way out"),
        pytest.param([{"digest": "sha256:" + "A" * 64}], "digest", id="capitals"),
        pytest.param([{"digest": "sha256:" + "a" * 64 + "\n"}], "digest", id="a line break"),
        pytest.param([{"digest": "sha256:" + "a" * 64, "mediaType": "m", "size": -1}], "size '-1'", id="negative"),
        pytest.param([{"digest": "sha256:" + "a" * 64, "mediaType": "m", "size": True}], "size", id="a truth value"),
        pytest.param(
            [{"digest": "sha256:" + "a" * 64, "mediaType": "application/vnd.ollama.image.tensor", "size": 1}],
            "tensor by tensor",
            id="tensors",
        ),
        pytest.param([{}] * 5000, "no list of layers", id="too many"),
    ],
)
def test_hostile_manifests(layers: object, fact: str) -> None:
    with pytest.raises(BadInputError) as raised:
        parse_manifest(json.dumps({"layers": layers}).encode(), "here")
    assert fact in str(raised.value)
    assert raised.value.hint


def test_two_models_in_one_tag(store: Path) -> None:
    keep(store, "registry.ollama.ai/library/x/y")
    file = store / "manifests/registry.ollama.ai/library/x/y"
    doubled = manifest()
    doubled["layers"] += [dict(doubled["layers"][0])]
    file.write_text(json.dumps(doubled))
    with pytest.raises(BadInputError, match="holds 2 models"):
        opened("ollama:x:y")


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from([digest(b""), "sha256:" + "0" * 64]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["layers", "mediaType", "digest", "size", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_JSON.map(lambda found: json.dumps(found).encode()) | st.binary(max_size=200))
def test_no_manifest_is_more_than_refused(content: bytes) -> None:
    with contextlib.suppress(BadInputError):
        assert all(len(layer.digest) == 64 for layer in parse_manifest(content, "here"))


def test_a_manifest_nested_deep_is_refused() -> None:
    with pytest.raises(BadInputError, match="no JSON object"):
        parse_manifest(b"[" * 100_000, "here")


@given(st.text(st.sampled_from("ab1/.:@-_[] \\\n\0é"), max_size=40))
def test_no_name_leaves_the_store(text: str) -> None:
    with contextlib.suppress(AppError):
        name = parse_ollama_name(f"ollama:{text}")
        for part in (name.host, name.namespace, name.model, name.tag):
            assert part
            assert not set(part) & set("/\\\0\n")
            assert part.strip(".")


@pytest.mark.parametrize("text", ["ollama:", "ollama:a/b/c/d", "ollama:../x", "ollama:a:b:c", "ollama:a..b/c/d"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no name of Ollama's"):
        parse_ollama_name(text)
