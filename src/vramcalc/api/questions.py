"""From a request to its questions: names become specs here, the only input there is."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.api.requests import Request, checked_workload, parse_amount, parse_bandwidth, parse_variables
from vramcalc.api.settings import check_taken, settings_of
from vramcalc.engines import parse_engine, with_environment
from vramcalc.errors import UnavailableError
from vramcalc.estimation import Asked
from vramcalc.sources.machines import Cards, resolve_cards
from vramcalc.sources.registry import Registry, gpu_registry, model_registry
from vramcalc.specs.companions import Companions, Draft
from vramcalc.specs.gpu import GpuSpec, OperatingSystem
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec

_NO_PROJECTOR = "none"
_PATH_MARKS = ("/", "\\")
_MODEL_SUFFIXES = (".gguf", ".safetensors", ".json")
_SOURCE_PREFIXES = ("hf:", "ollama:", "https:", "http:")


class Names(Struct, frozen=True):
    """The registries behind the names of a request, for those who ask many."""

    models: Registry[ModelSpec]
    cards: Registry[GpuSpec]

    @classmethod
    def of(cls, registries: Sequence[Path]) -> "Names":
        """Return our registries with these merged over them."""
        return cls(model_registry(registries), gpu_registry(registries))


def read_questions(request: Request, names: Names | None = None) -> Iterator[tuple[Asked, tuple[str, ...]]]:
    """Yield the questions of a request, one per GPU, engine and format, with what to know of the names.

    Raises ``UsageError`` for what no engine could take, and as its names resolve.
    """
    workload = checked_workload(request)
    check_taken(workload, request.engines)
    names = names or Names.of(request.registries)
    model = load_named(request.model, names.models)
    if workload.n_context == 0:  # as llama.cpp reads it: what the model was trained for, and no less
        workload = replace(workload, n_context=model.context)
    companions = _companions(request, names.models)
    own = model.stored.format if model.stored else None
    for text in request.gpus:
        found = resolve_cards(text, names.cards)
        machine = machine_of(request, found.gpus, found)
        for engine in request.engines:
            name, version = parse_engine(engine)
            known, left_out = settings_of(workload, name)
            settings = with_environment(name, known, parse_variables(request.environment))
            for quant in request.quants or (None,):
                weight_format = own if quant is None else quant.strip().lower()
                asked = Asked(model, machine, name, version, weight_format, settings, companions)
                yield asked, (*found.notes, *left_out)


def load_named(name: str, registry: Registry[ModelSpec]) -> ModelSpec:
    """Return the model of a registry, or of a file or source where the text names one."""
    if names_source(name):
        from vramcalc.sources.locate import read_source  # noqa: PLC0415 - start-up

        return read_source(name, with_weights=False).model()
    return registry.resolve(name)


def names_source(name: str) -> bool:
    """Return whether a text names a file, a folder or a place on a network, and no entry of a registry."""
    if name.lower().startswith(_SOURCE_PREFIXES) or name.lower().endswith(_MODEL_SUFFIXES):
        return True
    return any(mark in name for mark in _PATH_MARKS) and Path(name).is_dir()


def machine_of(request: Request, gpus: tuple[GpuSpec, ...], found: Cards | None = None) -> Machine:
    """Return the machine of a request with these cards; ``found`` says more of them where they are this machine's.

    Raises ``UsageError`` for what is no amount of memory, ``UnavailableError`` for memory that cannot be read.
    """
    used = found.used_bytes if found is not None and request.reserve is None else ()
    return Machine(
        gpus=gpus,
        nodes=request.nodes,
        host_memory_bytes=_host_memory(request.ram),
        os=_system((found and found.os) or request.os, gpus),
        reserve_bytes=max(used, default=0) if request.reserve is None else parse_amount("--reserve", request.reserve),
        reserves=used,
        host_bandwidth_bytes_per_s=parse_bandwidth(request.ram_bandwidth),
    )


def _host_memory(ram: str | None) -> int | None:
    if ram is None or ram.strip().lower() != "local":
        return None if ram is None else parse_amount("--ram", ram)
    from vramcalc.sources.this_machine import read_host_memory  # noqa: PLC0415 - start-up

    total, _ = read_host_memory()
    if total is None:
        raise UnavailableError("this machine's memory cannot be read", "pip install psutil, or give it: --ram 64GB")
    return total


def _companions(request: Request, registry: Registry[ModelSpec]) -> Companions:
    """Return what is to be loaded beside the model."""
    if request.draft is None and request.mmproj is None and not request.adapters:
        return Companions()
    from vramcalc.sources.adapters import resolve_adapter  # noqa: PLC0415 - start-up

    draft = None
    if request.draft is not None:
        quant = request.draft_quant
        draft = Draft(load_named(request.draft, registry), None if quant is None else quant.strip().lower())
    projector = None if request.mmproj is None else request.mmproj.strip().lower()
    adapters = tuple(resolve_adapter(text) for text in request.adapters)
    if projector == _NO_PROJECTOR:
        return Companions(draft, None, adapters, brings_projector=False)
    return Companions(draft, projector, adapters)


def _system(asked: OperatingSystem, gpus: Sequence[GpuSpec]) -> OperatingSystem:
    return "macos" if all(gpu.vendor == "apple" for gpu in gpus) else asked
