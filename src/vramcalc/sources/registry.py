"""Named specs from YAML files: ours, the user's, then any named on the command line, each merged over the others."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct

from vramcalc.errors import BadInputError, UnknownNameError, UsageError
from vramcalc.sources.files import read_content
from vramcalc.sources.yaml_file import Raw, parse_mapping, read_cached, user_folder, write_cached
from vramcalc.specs.base import Spec
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import ModelSpec

_S = TypeVar("_S", bound=Spec)
_SEPARATORS = re.compile(r"[\s_-]+")
_VENDOR_WORDS = re.compile(r"nvidia|geforce|amd|radeon|intel|apple|tesla|quadro")
_NEVER_INHERITED = ("hf_ids", "aliases", "ollama_tags", "ollama_format", "notes", "source", "like")
_SECTIONS = frozenset({"models", "gpus"})


def normalise_model_name(name: str) -> str:
    """Return a model's name as it is compared: no case, spaces, dashes; colon, slash and dot count."""
    return _SEPARATORS.sub("", name.strip().lower())


def normalise_gpu_name(name: str) -> str:
    """Return a card's name as it is compared: also without the vendor's words."""
    return _VENDOR_WORDS.sub("", normalise_model_name(name))


class _Entry(Struct, frozen=True):
    id: str
    raw: Raw
    path: Path


class Registry(Generic[_S]):
    """Entries by name; ``kind`` is ``model`` or ``gpu``. An entry is validated when it is asked for."""

    def __init__(
        self,
        kind: str,
        spec: type[_S],
        paths: Sequence[Path],
        name_fields: tuple[str, ...],
        normalise: Callable[[str], str],
    ) -> None:
        self.kind = kind
        self.spec = spec
        self.paths = paths
        self.name_fields = name_fields
        self.normalise = normalise

    @cached_property
    def _contents(self) -> tuple[tuple[Path, bytes], ...]:
        return tuple((path, read_content(path)) for path in self.paths)

    @cached_property
    def _entries(self) -> dict[str, _Entry]:
        merged: dict[str, _Entry] = {}
        for path, content in self._contents:
            for entry_id, raw in _section(parse_mapping(content, path), self.kind, path).items():
                if not isinstance(raw, dict):
                    raise BadInputError(
                        f"{path}: entry {entry_id!r} is not a mapping", "write its fields below its name"
                    )
                merged[entry_id] = _Entry(entry_id, raw, path)
        return merged

    @cached_property
    def _names(self) -> dict[str, str]:
        owners: dict[str, str] = {}
        for entry in self._entries.values():
            for field_name, name in self._names_of(entry):
                owner = owners.setdefault(self.normalise(name), entry.id)
                if owner != entry.id:
                    raise BadInputError(
                        f"{entry.path}: entry {entry.id!r}, field {field_name}: {name!r} already names {owner!r}",
                        "remove it from one of the two",
                    )
        return owners

    def _names_of(self, entry: _Entry) -> Iterator[tuple[str, str]]:
        yield "id", entry.id
        for field_name in self.name_fields:
            names = entry.raw.get(field_name, [])
            for name in names if isinstance(names, list) else []:
                yield field_name, str(name)

    def resolve(self, name: str) -> _S:
        """Return the spec that goes by ``name``. Raises ``UnknownNameError`` with near names."""
        return self.find(name)[0]

    def find(self, name: str) -> tuple[_S, tuple[str, ...]]:
        """Return the spec that goes by ``name``, and the other entries it could have meant.

        An answer is kept in the cache under the content of all files: the next start neither parses the registry nor
        builds a validator. Raises ``UnknownNameError`` with near names.
        """
        wanted = self.normalise(name)
        key = b"\0".join([wanted.encode(), *(content for _, content in self._contents)])
        kept = read_cached(self.kind, key)
        if kept is not None:
            with contextlib.suppress(KeyError, ValueError, TypeError, AttributeError):  # by another release: look again
                return self.spec.restore(kept["spec"]), tuple(kept["variants"])
        entry_id = self._names.get(wanted)
        if entry_id is None:
            known = dict.fromkeys(name for entry in self._entries.values() for _, name in self._names_of(entry))
            title = {"gpu": "GPU"}.get(self.kind, self.kind)
            raise UnknownNameError(title, name, known, see=f"`vramcalc {self.kind}s` lists them")
        spec, variants = self.load(entry_id), self._variants(entry_id, wanted)
        write_cached(self.kind, key, {"spec": spec.model_dump(mode="json"), "variants": variants})
        return spec, variants

    def owner(self, name: str) -> str | None:
        """Return the id of the entry that goes by ``name``, None where there is none."""
        return self._names.get(self.normalise(name))

    def load(self, entry_id: str) -> _S:
        """Return the validated spec of one entry. Raises ``BadInputError`` naming file, entry, field and reason."""
        entry = self._entries[entry_id]
        return self._validated(entry, self._completed(entry))

    def _completed(self, entry: _Entry) -> Raw:
        return {**self._inherited(entry), "id": entry.id}

    def _validated(self, entry: _Entry, raw: Raw) -> _S:
        from pydantic import ValidationError  # noqa: PLC0415 - start-up

        try:
            return self.spec.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "entry"
            reason = first["msg"].removeprefix("Value error, ")
            raise BadInputError(
                f"{entry.path}: entry {entry.id!r}, field {where}: {reason}",
                f"`vramcalc {self.kind}s show NAME` prints a complete entry to compare with",
            ) from error

    def search(self, text: str = "") -> Iterator[_S]:
        """Yield the specs one of whose names holds ``text``; all where it is empty."""
        wanted = self.normalise(text)
        found = dict.fromkeys(owner for name, owner in self._names.items() if wanted in name)
        return (self.load(entry_id) for entry_id in self._entries if entry_id in found)

    def _variants(self, entry_id: str, stem: str) -> tuple[str, ...]:
        """Return the same card with another memory or socket, which a bare name could have meant."""
        pattern = re.compile(re.escape(stem) + r"(\d+gb|sxm|pcie|nvl).*")
        return tuple(i for i in self._entries if i != entry_id and pattern.fullmatch(self.normalise(i)))

    def _inherited(self, entry: _Entry) -> Raw:
        base_id = entry.raw.get("like")
        if base_id is None:
            return entry.raw
        base = self._entries.get(base_id)
        if base is None or "like" in base.raw:
            reason = "is itself `like` another" if base else f"no {self.kind} has the id {base_id!r}"
            raise BadInputError(
                f"{entry.path}: entry {entry.id!r}, field like: {reason}", "name an entry that spells its shape out"
            )
        inherited = {key: value for key, value in base.raw.items() if key not in _NEVER_INHERITED}
        return {**inherited, **{key: value for key, value in entry.raw.items() if key != "like"}}


def model_registry(extra: Sequence[Path] = ()) -> Registry[ModelSpec]:
    """Return our models with the user's and ``extra`` files merged over them."""
    return Registry(
        "model", ModelSpec, _paths("models", extra), ("aliases", "hf_ids", "ollama_tags"), normalise_model_name
    )


def gpu_registry(extra: Sequence[Path] = ()) -> Registry[GpuSpec]:
    """Return our cards with the user's and ``extra`` files merged over them."""
    return Registry("gpu", GpuSpec, _paths("gpus", extra), ("aliases",), normalise_gpu_name)


def _paths(stem: str, extra: Sequence[Path]) -> tuple[Path, ...]:
    own = user_folder() / f"{stem}.yaml"
    paths = [_packaged(f"{stem}.yaml"), *([own] if own.is_file() else [])]
    for path in extra:
        if path.is_dir():
            inside = path / f"{stem}.yaml"
            paths += [inside] if inside.is_file() else []
        elif path.stem not in _SECTIONS or path.stem == stem:
            paths.append(path)
    return tuple(paths)


def _packaged(name: str) -> Path:
    """Return our own file: package data when installed, the repository's top when run from a checkout."""
    package = Path(__file__).resolve().parents[1]
    data = package / "data" / name
    return data if data.is_file() else package.parents[1] / name


def _section(content: Raw, kind: str, path: Path) -> Raw:
    if content.keys() <= _SECTIONS:
        section = content.get(f"{kind}s") or {}
        if not isinstance(section, dict):
            raise BadInputError(f"{path}: {kind}s is not a mapping", "write names and their fields below it")
        return section
    if path.stem != f"{kind}s":
        raise UsageError(
            f"{path} says neither `models:` nor `gpus:` at its top",
            "put the entries below one of them, or call the file models.yaml or gpus.yaml",
        )
    return content
