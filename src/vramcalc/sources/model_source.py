"""A model from what people have: a GGUF, safetensors, a folder, a config.json."""

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from vramcalc.errors import BadInputError, UnavailableError
from vramcalc.sources.byte_source import FileSource, OpenSibling
from vramcalc.sources.gguf_header import parts_beside, read_gguf_set
from vramcalc.sources.safetensors_header import (
    INDEX_NAME,
    choose_files,
    read_index,
    read_safetensors_set,
    shards_beside,
)
from vramcalc.specs.file import ModelFile

if TYPE_CHECKING:
    from vramcalc.formulas.stored import Match
    from vramcalc.specs.model import ModelSpec

_CONFIG = "config.json"
_MOST_FILES = 100_000


class ModelSource(Struct, frozen=True, kw_only=True):
    """What was found: a model, its file, or both.

    ``problem`` says why there is no model; ``match`` is there for a GGUF that is one.
    """

    name: str
    file: ModelFile | None = None
    spec: "ModelSpec | None" = None
    match: "Match | None" = None
    problem: BadInputError | None = None

    def model(self) -> "ModelSpec":
        """Return the model. Raises what kept it from being one, or from being loaded."""
        if self.spec is None:
            raise self.problem or BadInputError(f"{self.name} holds no model")
        if self.match is not None and (self.match.lacking or self.match.misshapen):
            wrong = self.match.lacking or self.match.misshapen
            what = "lacks" if self.match.lacking else "has in another size"
            fact = f"{self.name} {what} {len(wrong)} of its tensors: {wrong[0]}"
            raise BadInputError(fact, "engines refuse to load it; `vramcalc inspect` shows what is in it")
        return self.spec

    def names(self) -> Iterator[str]:
        """Yield what the source calls itself, the surest first."""
        keys = {} if self.file is None else self.file.keys
        if self.spec is not None:
            yield from (*self.spec.hf_ids, *self.spec.ollama_tags)
        if self.spec is not None and self.spec.stored is None:
            yield self.spec.id
        basename, size = keys.get("general.basename"), keys.get("general.size_label")
        stem = "" if self.spec is None else self.spec.id
        for name in (keys.get("general.name"), f"{basename}-{size}", _MIX.sub("", stem), stem):
            if isinstance(name, str) and name:
                yield name
                yield re.sub(r"[- ](Instruct|it|chat)\b.*", "", name, flags=re.IGNORECASE)
        for key in ("general.source.huggingface.repository", "general.repo_url"):
            url = keys.get(key)
            match = _REPOSITORY.fullmatch(url) if isinstance(url, str) else None
            if match is not None:
                yield match[1]


_REPOSITORY = re.compile(r"https://huggingface\.co/([^/\s]+/[^/\s]+?)/?")
_MIX = re.compile(r"[-._](?:UD[-_])?(?:I?Q\d|[FB]?F(?:16|32|8)|FP\d|MXFP4|TQ\d)[A-Za-z0-9_]*$", re.IGNORECASE)


def read_path(path: Path) -> ModelSource:
    """Return the model at a path. Raises ``UnavailableError``, ``BadInputError`` where no header can be read."""
    if path.suffix.lower() == ".gguf":
        source = FileSource(path)
        return gguf_source(read_gguf_set(source, source.sibling))
    if path.suffix.lower() == ".safetensors":
        first = FileSource(path)
        files = shards_beside(path.name)
        return _with_config(read_safetensors_set(first.name, files, first.sibling), path.parent)
    if not path.exists():
        raise UnavailableError(
            f"there is no file or folder {str(path)!r}", "for an entry of the registry: `vramcalc models show NAME`"
        )
    if not path.is_dir():
        from vramcalc.sources.config_json import read_config  # noqa: PLC0415 - other sources do without

        return ModelSource(name=str(path), spec=read_config(path))
    return _read_folder(path)


def gguf_source(file: ModelFile) -> ModelSource:
    """Return the model a GGUF holds, or why it holds none."""
    from vramcalc.sources.gguf_model import read_gguf_model  # noqa: PLC0415 - pydantic

    try:
        found = read_gguf_model(file)
    except BadInputError as error:
        return ModelSource(name=file.name, file=file, problem=error)
    return ModelSource(name=file.name, file=file, spec=found.spec, match=found.match)


def read_checkpoint(where: str, names: Collection[str], open_file: OpenSibling) -> ModelFile:
    """Return the safetensors of a folder whose files have these names, by their index where there is one."""
    if INDEX_NAME not in names or "model.safetensors" in names:
        return read_safetensors_set(where, choose_files(names, where), open_file)
    index = read_index(open_file(INDEX_NAME))
    return read_safetensors_set(where, set(index.values()), open_file, index)


def _read_folder(path: Path) -> ModelSource:
    try:
        names = {entry.name for entry, _ in zip(path.iterdir(), range(_MOST_FILES), strict=False)}
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}", "check the path") from error
    if any(name.endswith(".safetensors") for name in names):
        return _with_config(read_checkpoint(str(path), names, _opener(path)), path)
    if _CONFIG in names:
        from vramcalc.sources.config_json import read_config  # noqa: PLC0415 - other sources do without

        return ModelSource(name=str(path), spec=read_config(path))
    models = {parts_beside(name)[0] for name in names if name.endswith(".gguf") and not name.startswith("mmproj")}
    if len(models) != 1:
        several = f"holds {len(models)} GGUF models" if models else "holds no config.json, safetensors or GGUF"
        raise BadInputError(f"{path} {several}", "name the file that is meant")
    return read_path(path / models.pop())


def _opener(folder: Path) -> Callable[[str], FileSource]:
    return lambda name: FileSource(folder / name)


def _with_config(file: ModelFile, folder: Path) -> ModelSource:
    from vramcalc.sources.config_json import read_config  # noqa: PLC0415 - other sources do without

    if not (folder / _CONFIG).is_file():
        problem = BadInputError(
            f"{file.name} has no config.json beside it", "the shape of a model is there, not in its safetensors"
        )
        return ModelSource(name=file.name, file=file, problem=problem)
    try:
        return ModelSource(name=file.name, file=file, spec=read_config(folder))
    except BadInputError as error:
        return ModelSource(name=file.name, file=file, problem=error)
