"""Models of Ollama: the store on this machine first, else the registry the name belongs to, by ranges.

Source:
    ollama/ollama, types/model/name.go (names), server/images.go and server/modelpath.go (manifests, blobs, folders),
    docs/faq.md (where models are kept).
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from vramcalc.errors import BadInputError, MissingError, UsageError
from vramcalc.sources._waiting import Patience, Waiting
from vramcalc.sources.byte_source import ByteSource, FileSource
from vramcalc.sources.files import read_content
from vramcalc.sources.web import fetch, is_loopback, open_blob

_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_NAME = re.compile(
    r"ollama:((?P<host>[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:\d{1,5})?|\[[0-9a-fA-F:]{2,45}\](:\d{1,5})?)/(?=[^/]+/))?"
    r"((?P<namespace>[A-Za-z0-9_][\w-]{0,79})/)?(?P<model>[A-Za-z0-9_][\w.-]{0,79})(:(?P<tag>[A-Za-z0-9_][\w.-]{0,79}))?",
    re.ASCII,
)
_DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-f]{64})")
_LAYER = "application/vnd.ollama.image."
_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_MOST_MANIFEST_BYTES, _MOST_LAYERS = 4 << 20, 4096
_MOST_PARAMETERS_BYTES = 1 << 16
_SHOWN_PARAMETERS = ("num_ctx", "num_gpu", "num_batch", "use_mmap")  # what moves memory
_FOLDERS = (Path("~/.ollama/models"), Path("/usr/share/ollama/.ollama/models"))


class OllamaName(Struct, frozen=True):
    """A tag, whole."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        """Return the name as people type it, without what Ollama fills in."""
        shown = f"{self.model}:{self.tag}"
        if (self.host, self.namespace) == (_HOST, _NAMESPACE):
            return f"ollama:{shown}"
        return f"ollama:{'' if self.host == _HOST else f'{self.host}/'}{self.namespace}/{shown}"


class Layer(Struct, frozen=True):
    """One part of a model: ``model``, ``projector``, ``adapter``, ``params`` ...; ``digest`` is 64 hex digits."""

    kind: str
    digest: str
    n_bytes: int


class OllamaModel(Struct, frozen=True, kw_only=True):
    """What a tag stands for: files by their headers, and notes for whoever asked."""

    name: str
    model: ByteSource
    projectors: tuple[ByteSource, ...]
    adapters: tuple[ByteSource, ...]
    notes: tuple[str, ...]


def parse_ollama_name(text: str) -> OllamaName:
    """Return the parts of ``ollama:[host/][namespace/]model[:tag]``. Raises ``UsageError``."""
    match = _NAME.fullmatch(text)
    if match is None or ".." in text:
        raise UsageError(f"{text[:200]!r} is no name of Ollama's", "write ollama:model:tag or ollama:user/model:tag")
    return OllamaName(match["host"] or _HOST, match["namespace"] or _NAMESPACE, match["model"], match["tag"] or _TAG)


def open_ollama(name: OllamaName, patience: Patience | None = None) -> OllamaModel:
    """Return the model of a tag: from this machine's store, else from the registry.

    Raises ``MissingError`` where neither has it, ``UnavailableError``, ``BadInputError`` for a manifest that is none.
    """
    for folder in _stores():
        manifest = folder.joinpath("manifests", name.host, name.namespace, name.model, name.tag)
        if _is_file(manifest):
            return _assembled(name, read_content(manifest), str(manifest), partial(_stored, name, folder))
    return _from_registry(name, Waiting(str(name), patience or Patience()))


def _stores() -> Iterator[Path]:
    """Yield the folders Ollama may keep models in; OLLAMA_MODELS alone where it is set, as Ollama has it."""
    stated = os.environ.get("OLLAMA_MODELS")
    yield from (Path(stated),) if stated else (folder.expanduser() for folder in _FOLDERS)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the folder of a service's user may be closed to us
        return False


def _stored(name: OllamaName, folder: Path, layer: Layer) -> FileSource:
    try:
        source = FileSource(folder / "blobs" / f"sha256-{layer.digest}")
    except MissingError as error:
        raise MissingError(f"{name}: its {layer.kind} is gone from the store", _pull(name)) from error
    source.name = _blob_name(name, layer)
    return source


def _from_registry(name: OllamaName, waiting: Waiting) -> OllamaModel:
    host = re.sub(r":\d+$", "", name.host).strip("[]")
    base = f"{'http' if is_loopback(host) else 'https'}://{name.host}/v2/{name.namespace}/{name.model}"
    where = f"{name} at {name.host}"
    url = f"{base}/manifests/{name.tag}"
    try:
        manifest = fetch(url, where, waiting, accept=_MANIFEST_TYPE, most_bytes=_MOST_MANIFEST_BYTES)
    except MissingError as error:
        advice = "check the spelling, or set OLLAMA_MODELS; `ollama list` shows what is on this machine"
        raise MissingError(f"{name} is neither in Ollama's store here nor at {name.host}", advice) from error

    def open_layer(layer: Layer) -> ByteSource:
        return open_blob(f"{base}/blobs/sha256:{layer.digest}", _blob_name(name, layer), waiting)

    return _assembled(name, manifest, where, open_layer)


def parse_manifest(content: bytes, where: str) -> tuple[Layer, ...]:
    """Return a manifest's layers that are Ollama's. Raises ``BadInputError`` where it is none, or names no digest."""
    manifest = _object(content, where)
    found = manifest.get("layers")
    if not isinstance(found, list) or len(found) > _MOST_LAYERS:
        raise _wrong(where, "'layers' is no list of layers")
    layers = tuple(_layer(raw, where) for raw in found)
    if any(layer.kind == "tensor" for layer in layers):
        raise BadInputError(f"{where} is kept tensor by tensor, which is not read here", "name a tag that is a GGUF")
    if not any(layer.kind == "model" for layer in layers):
        raise BadInputError(f"{where} holds no model", "it may run in the cloud; name a tag that is a GGUF")
    return layers


def _layer(raw: object, where: str) -> Layer:
    if not isinstance(raw, dict):
        raise _wrong(where, "a layer is no object")
    kind, digest, n_bytes = raw.get("mediaType"), raw.get("digest"), raw.get("size")
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise _wrong(where, f"a layer has the digest {str(digest)!r:.80}")
    if not isinstance(kind, str) or type(n_bytes) is not int or not 0 <= n_bytes < 1 << 63:
        raise _wrong(where, f"a layer has the type {str(kind)!r:.80} and the size {str(n_bytes)!r:.40}")
    return Layer(kind.removeprefix(_LAYER), match["hex"], n_bytes)


def _assembled(name: OllamaName, manifest: bytes, where: str, open_layer: Callable[[Layer], ByteSource]) -> OllamaModel:
    found: dict[str, list[ByteSource]] = {"model": [], "projector": [], "adapter": [], "params": []}
    for layer in parse_manifest(manifest, where):
        if layer.kind not in found:
            continue
        source = open_layer(layer)
        if source.n_bytes is not None and source.n_bytes != layer.n_bytes:
            raise BadInputError(
                f"{where}: its {layer.kind} has {source.n_bytes:,} bytes, not the {layer.n_bytes:,} stated", _pull(name)
            )
        found[layer.kind].append(source)
    if len(found["model"]) > 1:
        raise BadInputError(f"{where} holds {len(found['model'])} models", "name a tag that is a single GGUF")
    parameters = found["params"][-1].read(0, _MOST_PARAMETERS_BYTES) if found["params"] else b"{}"
    return OllamaModel(
        name=str(name),
        model=found["model"][0],
        projectors=tuple(found["projector"]),
        adapters=tuple(found["adapter"]),
        notes=tuple(_parameter_notes(_object(parameters, f"{where}, its parameters"), name)),
    )


def _parameter_notes(parameters: Mapping[str, Any], name: OllamaName) -> Iterator[str]:
    for key in _SHOWN_PARAMETERS:
        value = parameters.get(key)
        if isinstance(value, bool | int):
            option = {"num_ctx": " (--context)", "num_gpu": " (--gpu-layers)", "num_batch": " (--step-tokens)"}
            yield f"{name} sets {key} {str(value).lower()}{option.get(key, '')}; it is not taken over by itself"


def _object(content: bytes, where: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(content)
        if isinstance(found, dict):
            return found
    raise _wrong(where, "it is no JSON object")


def _wrong(where: str, problem: str) -> BadInputError:
    return BadInputError(f"{where}: {problem}", "the manifest is damaged or no such; pull the model again")


def _pull(name: OllamaName) -> str:
    return f"pull it again: ollama pull {str(name).removeprefix('ollama:')}"


def _blob_name(name: OllamaName, layer: Layer) -> str:
    return str(name) if layer.kind == "model" else f"{name} ({layer.kind})"
