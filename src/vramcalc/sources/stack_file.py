"""A stack file: the machine, its services and the RAG prompt, as YAML."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, ValidationError, model_validator

from vramcalc.errors import BadInputError
from vramcalc.sources.files import read_content
from vramcalc.sources.yaml_file import parse_mapping
from vramcalc.specs.base import Spec

_MOST_SERVICES = 16
_MOST_TOKENS = 1 << 24


class MachineEntry(Spec):
    """The machine, in the words of the command line."""

    gpu: str = Field(max_length=200)
    ram: str | None = Field(default=None, max_length=40)
    reserve: str | None = Field(default=None, max_length=40)
    os: str = Field(default="linux", pattern="^(linux|windows|wsl)$")


class ServiceEntry(Spec):
    """One model behind one engine; ``gpus`` are the numbers of its cards, all where none are named."""

    name: str = Field(min_length=1, max_length=80)
    model: str = Field(max_length=400)
    engine: str = Field(default="vllm", max_length=40)
    quant: str | None = Field(default=None, max_length=80)
    context: int | str | None = None
    parallel: PositiveInt | None = Field(default=None, le=65_536)
    kv_type: str | None = Field(default=None, max_length=40)
    step_tokens: PositiveInt | None = Field(default=None, le=_MOST_TOKENS)
    memory_share: float | None = Field(default=None, gt=0, le=1)
    max_num_seqs: PositiveInt | None = Field(default=None, le=65_536)
    cpu_offload: str | None = Field(default=None, max_length=40)
    enforce_eager: bool = False
    tp: PositiveInt | None = Field(default=None, le=1024)
    gpus: tuple[int, ...] = Field(default=(), max_length=1024)


class RagEntry(Spec):
    """What the RAG application puts into one request, in tokens."""

    service: str
    chunks: PositiveInt = Field(le=_MOST_TOKENS)
    chunk_tokens: PositiveInt = Field(le=_MOST_TOKENS)
    system_tokens: int = Field(default=0, ge=0, le=_MOST_TOKENS)
    history_tokens: int = Field(default=0, ge=0, le=_MOST_TOKENS)
    question_tokens: int = Field(default=0, ge=0, le=_MOST_TOKENS)
    answer_tokens: PositiveInt = Field(le=_MOST_TOKENS)
    concurrency: PositiveInt = Field(default=1, le=65_536)


class StackFile(Spec):
    """The whole file."""

    machine: MachineEntry
    services: tuple[ServiceEntry, ...] = Field(min_length=1, max_length=_MOST_SERVICES)
    rag: RagEntry | None = None

    @model_validator(mode="after")
    def _names_are_found(self) -> "StackFile":
        names = [service.name for service in self.services]
        if len(set(names)) < len(names):
            raise ValueError("two services have one name")
        if self.rag is not None and self.rag.service not in names:
            raise ValueError(f"rag.service names no service; there are {', '.join(names)}")
        return self


def read_stack(path: Path) -> StackFile:
    """Return a stack file. Raises ``BadInputError`` naming the field, ``UnavailableError`` where it cannot be read."""
    return _validated(parse_mapping(read_content(path), path), str(path))


def stack_of(gpu: str, ram: str | None, services: Sequence[str]) -> StackFile:
    """Return the stack of ``--service`` texts, e.g. ``name=chat,model=qwen3-8b,engine=vllm,gpus=0+1``.

    Raises ``BadInputError`` naming the field.
    """
    entries = []
    for number, text in enumerate(services):
        entry: dict[str, Any] = {"name": f"service{number}"}
        for part in text.split(","):
            key, sign, value = part.partition("=")
            if not sign:
                raise BadInputError(f"--service: {part!r} is no setting", "write name=chat,model=qwen3-8b,engine=vllm")
            entry[key.strip()] = value.strip()
        if "gpus" in entry:
            entry["gpus"] = entry["gpus"].split("+")
        entries.append(entry)
    return _validated({"machine": {"gpu": gpu, "ram": ram}, "services": entries}, "--service")


def _validated(raw: dict[str, Any], where: str) -> StackFile:
    try:
        return StackFile.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        reason = first["msg"].removeprefix("Value error, ")
        raise BadInputError(f"{where}: {field}: {reason}", "a stack has machine, services and perhaps rag") from error
