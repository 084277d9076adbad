"""From what stands behind ``-m`` or ``inspect`` to a model: a hub, a registry, a web address, or a path.

Whoever names none of the first three is never connected to anything.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from vramcalc.errors import BadInputError, MissingError, UsageError
from vramcalc.sources.byte_source import ByteSource
from vramcalc.sources.gguf_header import parts_beside, read_gguf_set
from vramcalc.sources.model_source import ModelSource, gguf_source, read_checkpoint, read_path
from vramcalc.units import format_bytes

if TYPE_CHECKING:
    from vramcalc.sources.hub import HubRepository

_CONFIGS = ("config.json", "hf_quant_config.json")
_GGUF, _SAFETENSORS = ".gguf", ".safetensors"
_READ = (_GGUF, _SAFETENSORS, _CONFIGS[0])
_MOST_SHOWN = 30


def read_source(text: str, *, with_weights: bool = True) -> ModelSource:
    """Return the model that ``text`` names: ``hf:...``, ``ollama:...``, a web address, or a path.

    ``with_weights``: also the headers of weights whose model a config.json already tells. Raises ``UsageError`` for a
    name that cannot be one or could mean several files, ``UnavailableError``, ``BadInputError``.
    """
    match text.partition(":")[0].lower():
        case "hf":
            return _read_hub(text, with_weights=with_weights)
        case "ollama":
            return _read_ollama(text)
        case "http" | "https":
            return _read_web(text)
        case _:
            return read_path(Path(text))


def _read_web(url: str) -> ModelSource:
    from urllib.parse import urlsplit, urlunsplit  # noqa: PLC0415 - start-up

    from vramcalc.sources.web import is_loopback, open_url, parse_url  # noqa: PLC0415 - start-up

    parts = parse_url(url)
    if not parts.path.lower().endswith(_GGUF):
        raise UsageError(
            f"{url[:200]} is not the address of a .gguf file", "write https://.../NAME.gguf or hf:org/name"
        )
    folder = parts.path.rpartition("/")[0]

    def open_sibling(name: str) -> ByteSource:
        return open_url(urlunsplit(parts._replace(path=f"{folder}/{name}")))

    found = gguf_source(read_gguf_set(open_url(url), open_sibling))
    if parts.scheme == "http" and not is_loopback(urlsplit(url).hostname or ""):
        return _noted(found, ["Read over http, where anyone between can change what is read; https is safer."])
    return found


def _read_ollama(text: str) -> ModelSource:
    from vramcalc.sources.ollama import open_ollama, parse_ollama_name  # noqa: PLC0415 - start-up

    name = parse_ollama_name(text)
    opened = open_ollama(name)
    found = gguf_source(read_gguf_set(opened.model, _no_sibling))
    notes = list(opened.notes)
    for kind, sources in {"projector": opened.projectors, "adapter": opened.adapters}.items():
        n_bytes = sum(source.n_bytes or 0 for source in sources)
        if sources:
            notes.append(f"Its {kind} of {format_bytes(n_bytes)}, which Ollama loads beside it, is not counted.")
    tag = str(name).removeprefix("ollama:")
    if found.spec is not None:
        named = found.spec.model_copy(update={"id": tag, "ollama_tags": (tag,), "source": str(name)})
        found = replace(found, spec=named)
    return _noted(replace(found, name=str(name)), notes)


def _no_sibling(name: str) -> ByteSource:
    raise MissingError(f"{name} is not there", "a tag of Ollama's is one file")


def _read_hub(text: str, *, with_weights: bool) -> ModelSource:
    from vramcalc.sources.hub import HubRepository, parse_hub_name  # noqa: PLC0415 - an extra

    repository = HubRepository(parse_hub_name(text))
    chosen = _chosen(repository.wanted.file, repository.names, repository.name)
    if chosen.lower().endswith(_GGUF):
        found = _read_hub_gguf(repository, chosen)
    else:
        found = _read_hub_checkpoint(repository, chosen, with_weights=with_weights)
    if found.spec is not None:
        file = f":{chosen}" if chosen.lower().endswith(_GGUF) else ""
        source = f"{repository.name}@{repository.revision}{file}"
        named = found.spec.model_copy(update={"hf_ids": (repository.wanted.repo,), "source": source})
        found = replace(found, spec=named)
    return replace(found, name=str(repository.wanted))


def _read_hub_gguf(repository: "HubRepository", chosen: str) -> ModelSource:
    folder = chosen[: chosen.rindex("/") + 1] if "/" in chosen else ""
    parts = [folder + part for part in parts_beside(chosen.removeprefix(folder))]
    repository.open_ahead(parts)
    file = read_gguf_set(repository.open(chosen), lambda name: repository.open(folder + name))
    projectors = [name for name in repository.names if _is_projector(name)]
    beside = f"The repository also holds a projector ({projectors[0]}), which is not counted." if projectors else ""
    return _noted(gguf_source(file), [beside] if beside else [])


def _read_hub_checkpoint(repository: "HubRepository", chosen: str, *, with_weights: bool) -> ModelSource:
    names = {name for name in repository.names if "/" not in name}
    files = None
    if chosen.endswith(_SAFETENSORS):
        files = read_checkpoint(repository.name, {chosen}, repository.open)
    elif with_weights and any(name.endswith(_SAFETENSORS) for name in names):
        repository.open_ahead(name for name in names if name.endswith((_SAFETENSORS, ".index.json")))
        files = read_checkpoint(repository.name, names, repository.open)
    try:
        from vramcalc.sources.config_json import read_config  # noqa: PLC0415 - other sources do without

        spec = read_config(repository.fetch(_CONFIGS) / _CONFIGS[0])
    except BadInputError as error:
        return ModelSource(name=repository.name, file=files, problem=error)
    name = repository.wanted.repo.rpartition("/")[2]
    return ModelSource(name=repository.name, file=files, spec=spec.model_copy(update={"id": name, "name": name}))


def _chosen(wanted: str | None, names: Collection[str], where: str) -> str:
    """Return the one file that is meant: a GGUF (the first of its parts), a checkpoint's file, or its config.json."""
    if wanted is not None and wanted in names and wanted.lower().endswith(_READ):
        return wanted
    models = sorted({_first_part(name) for name in names if name.lower().endswith(_GGUF) and not _is_projector(name)})
    labels = _labels(models)
    if wanted is None:
        if _CONFIGS[0] in names and (not models or any(name.endswith(_SAFETENSORS) for name in names)):
            return _CONFIGS[0]
        found = models
    else:
        sought = wanted.lower()
        exact = [model for model in models if labels[model].lower() == sought]
        found = exact or [model for model in models if sought in model.lower()]
    if len(found) == 1:
        return found[0]
    if not models:
        lacks = f"no file {wanted}" if wanted else "neither a config.json nor a GGUF"
        raise MissingError(
            f"{where} holds {lacks}", "name a repository of safetensors with its config.json, or of GGUFs"
        )
    shown = [labels[model] for model in found or models]
    more = f" and {len(shown) - _MOST_SHOWN} more" if len(shown) > _MOST_SHOWN else ""
    several = f"{len(found)} GGUF models" + (f" called {wanted}" if wanted else "") if found else f"no file {wanted}"
    raise UsageError(f"{where} holds {several}", f"name one, {where}:NAME, of {', '.join(shown[:_MOST_SHOWN])}{more}")


def _labels(models: Collection[str]) -> dict[str, str]:
    """Return what tells each model from the others: names less their common beginning, parts and suffix."""
    stems = {model: re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", model, flags=re.IGNORECASE) for model in models}
    first, last = (min(stems.values()), max(stems.values())) if len(stems) > 1 else ("", "")
    n_common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    start = max(first.rfind(mark, 0, n_common) for mark in "-./") + 1
    return {model: stem[start:] for model, stem in stems.items()}


def _first_part(name: str) -> str:
    folder, _, own = name.rpartition("/")
    first = parts_beside(own)[0]
    return f"{folder}/{first}" if folder else first


def _is_projector(name: str) -> bool:
    own = name.rpartition("/")[2].lower()
    return own.endswith(_GGUF) and ("mmproj" in own)


def _noted(found: ModelSource, notes: Collection[str]) -> ModelSource:
    if found.spec is None or not notes:
        return found
    return replace(found, spec=found.spec.model_copy(update={"notes": (*found.spec.notes, *notes)}))
