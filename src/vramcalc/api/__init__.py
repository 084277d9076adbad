"""The use cases, and the public Python interface. The only importer of sources."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import replace

from vramcalc.api.settings import check_taken, settings_of
from vramcalc.engines import ENGINE_NAMES, parse_engine, with_environment
from vramcalc.errors import BadInputError, RefusedError, UnavailableError, UsageError
from vramcalc.estimation import Asked, estimate_outcome
from vramcalc.formulas.inventory import n_parameters
from vramcalc.reports.freeze import freeze_outcome, freeze_refusal
from vramcalc.reports.schema import SCHEMA_VERSION, EstimateReport, Report
from vramcalc.solvers.advice import find_advice
from vramcalc.solvers.limits import find_limits
from vramcalc.sources.machines import Cards, resolve_cards
from vramcalc.sources.registry import Registry, gpu_registry, model_registry
from vramcalc.specs.companions import Companions, Draft
from vramcalc.specs.gpu import GpuSpec, OperatingSystem
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec
from vramcalc.specs.workload import Workload
from vramcalc.units import parse_bytes, parse_count

if TYPE_CHECKING:
    from vramcalc.reports.accuracy import ValidationReport
    from vramcalc.reports.catalogue import Catalogue
    from vramcalc.reports.explanation import TextbookReport
    from vramcalc.reports.inspection import InspectionReport
    from vramcalc.reports.solution import SolveReport
    from vramcalc.reports.weights import WeightsReport
    from vramcalc.validation import Comparison

DEFAULT_ENGINES = ("ollama", "vllm")
_TEXTBOOK_CONTEXT = 2048
_ADVERTISED = re.compile(r"(\d+(?:\.\d+)?)([BM])")
_LARGEST = 2**31 - 1  # engines count tokens and sequences in 32 bits
_PATH_MARKS = ("/", "\\")
_MODEL_SUFFIXES = (".gguf", ".safetensors", ".json")
_SOURCE_PREFIXES = ("hf:", "ollama:", "https:", "http:")


class Request(Struct, frozen=True, kw_only=True):
    """One question, as a person types it: names and amounts are text, None leaves the choice to the engine."""

    model: str
    gpus: Sequence[str]
    engines: Sequence[str] = DEFAULT_ENGINES
    quants: Sequence[str | None] = (None,)
    nodes: int = 1
    ram: str | None = None
    ram_bandwidth: str | None = None
    reserve: str | None = None
    os: OperatingSystem = "linux"
    kv_type: str | None = None
    environment: Sequence[str] = ()  # NAME=VALUE
    mmproj: str | None = None
    draft: str | None = None
    draft_quant: str | None = None
    adapters: Sequence[str] = ()
    workload: Workload = field(default_factory=Workload)
    registries: Sequence[Path] = ()


def estimate(  # noqa: PLR0913 - the options people use most, by their command-line names
    model: str,
    *gpus: str,
    engines: Sequence[str] = DEFAULT_ENGINES,
    quants: Sequence[str] = (),
    context: int | str | None = None,
    parallel: int | None = None,
    kv_type: str | None = None,
    ram: str | None = None,
    nodes: int = 1,
    memory_share: float | None = None,
    gpu_layers: int | None = None,
    registries: Sequence[str | Path] = (),
) -> Report:
    """Return what ``model`` needs on each of ``gpus``, as the command ``vramcalc estimate`` answers it.

    Raises ``UsageError`` for unknown names and settings, ``BadInputError`` for broken registries.

    >>> estimate("deepseek-r1-8b", "rtx3060", engines=["vllm"]).estimates[0].verdict
    'does_not_fit'
    """
    return answer(
        build_request(
            model,
            gpus,
            engines=engines,
            quants=quants,
            context=context,
            parallel=parallel,
            kv_type=kv_type,
            ram=ram,
            nodes=nodes,
            memory_share=memory_share,
            gpu_layers=gpu_layers,
            registries=registries,
        )
    )


def solve(unknown: str, model: str, *gpus: str, **options: Any) -> "SolveReport":  # noqa: ANN401 - those of estimate
    """Return the longest ``context``, most ``sequences``, best ``quant`` or smallest ``gpu`` that fits.

    Takes the options of ``estimate``, and answers as the command ``vramcalc solve``. Raises ``UsageError``.
    """
    from vramcalc.api.solving import answer_unknown  # noqa: PLC0415 - start-up

    return answer_unknown(unknown, build_request(model, gpus, **options))


def build_request(  # noqa: PLR0913 - the options people use most, by their command-line names
    model: str,
    gpus: Sequence[str],
    *,
    engines: Sequence[str] = DEFAULT_ENGINES,
    quants: Sequence[str] = (),
    context: int | str | None = None,
    parallel: int | None = None,
    kv_type: str | None = None,
    ram: str | None = None,
    nodes: int = 1,
    memory_share: float | None = None,
    gpu_layers: int | None = None,
    registries: Sequence[str | Path] = (),
) -> Request:
    """Return the question behind the options of the Python interface."""
    workload = Workload(
        n_context=parse_count(context) if isinstance(context, str) else context,
        n_sequences=parallel,
        memory_share=None if memory_share is None else Fraction(str(memory_share)),
        gpu_layers=gpu_layers,
    )
    return Request(
        model=model,
        gpus=gpus,
        engines=engines,
        quants=quants or (None,),
        ram=ram,
        nodes=nodes,
        kv_type=kv_type,
        workload=workload,
        registries=[Path(path) for path in registries],
    )


def answer(request: Request) -> Report:
    """Return one estimate per GPU, engine and format asked for, in that order.

    A combination that does not go together is answered ``unsupported``; ``UsageError`` where all are.
    """
    estimates = [freeze_estimate(asked, notes) for asked, notes in read_questions(request)]
    refusals = [e.refusal for e in estimates if e.refusal]
    if refusals and len(refusals) == len(estimates):
        raise UsageError(refusals[0].reason, refusals[0].advice)
    return Report(SCHEMA_VERSION, tuple(estimates))


def load_model(name: str, registries: Sequence[Path] = ()) -> ModelSpec:
    """Return the spec of a model by id, alias, Hugging Face id, Ollama tag, path or source.

    A path is that of a GGUF, of a .safetensors, of a config.json, or of a folder with them; a source is
    ``hf:org/name[@revision][:file]``, ``ollama:name:tag`` or the web address of a GGUF, and these alone are looked for
    on a network. Raises ``UnknownNameError``, ``UnavailableError``, or ``BadInputError`` naming what of a file is not
    understood.
    """
    return _resolve_model(name, model_registry(registries))


def _resolve_model(name: str, registry: Registry[ModelSpec]) -> ModelSpec:
    if names_source(name):
        from vramcalc.sources.locate import read_source  # noqa: PLC0415 - start-up

        return read_source(name, with_weights=False).model()
    return registry.resolve(name)


def names_source(name: str) -> bool:
    """Return whether a text names a file, a folder or a place on a network, and no entry of a registry."""
    if name.lower().startswith(_SOURCE_PREFIXES) or name.lower().endswith(_MODEL_SUFFIXES):
        return True
    return any(mark in name for mark in _PATH_MARKS) and Path(name).is_dir()


def inspect(source: str, expected: str | None = None, registries: Sequence[Path] = ()) -> "InspectionReport":
    """Return what a file, a folder or a source holds, and what of it is not what its name, or ``expected``, says.

    Raises ``UnavailableError`` or ``BadInputError`` where no header can be read, ``UnknownNameError`` for ``expected``.
    """
    from vramcalc.api.inspecting import inspect_source  # noqa: PLC0415 - start-up

    return inspect_source(source, expected, registries)


def load_gpu(name: str, registries: Sequence[Path] = ()) -> GpuSpec:
    """Return the spec of a card. Raises ``UnknownNameError``."""
    return gpu_registry(registries).resolve(name)


def list_catalogue(kind: str, text: str = "", registries: Sequence[Path] = ()) -> "Catalogue":
    """Return the entries of a registry (``models`` or ``gpus``) whose names hold ``text``."""
    from vramcalc.reports.catalogue import Catalogue, gpu_row, model_row  # noqa: PLC0415 - start-up

    if kind == "models":
        found = tuple(model_row(spec) for spec in model_registry(registries).search(text))
        return Catalogue(SCHEMA_VERSION, found, ())
    return Catalogue(SCHEMA_VERSION, (), tuple(gpu_row(spec) for spec in gpu_registry(registries).search(text)))


def add_entry(source: str, entry_id: str | None = None, *, force: bool = False) -> tuple[str, Path]:
    """Write a model found at ``source`` into the user's registry; return the id it goes by, and the file.

    Raises ``UsageError`` where the name is taken and ``force`` is not given, ``BadInputError`` for what is no model,
    ``UnavailableError`` where the file cannot be written. Nothing is written by half.
    """
    from vramcalc.sources.locate import read_source  # noqa: PLC0415 - start-up
    from vramcalc.sources.own_registry import write_model  # noqa: PLC0415

    return write_model(read_source(source, with_weights=False).model(), entry_id, force=force)


def show_entry(kind: str, name: str, registries: Sequence[Path] = ()) -> Mapping[str, Any]:
    """Return one entry of a registry as a file would hold it: name to fields, defaults left out."""
    registry = model_registry(registries) if kind == "models" else gpu_registry(registries)
    spec = registry.resolve(name)
    return {spec.id: spec.model_dump(mode="json", exclude={"id"}, exclude_defaults=True)}


def explain_textbook(request: Request) -> "TextbookReport":
    """Return the web pages' arithmetic beside the true one; 2048 tokens unless a context is asked for."""
    from vramcalc.reports.explanation import textbook_report  # noqa: PLC0415 - start-up

    model = load_model(request.model, request.registries)
    workload = checked_workload(replace(request, gpus=request.gpus or ("none",)))
    return textbook_report(
        model,
        advertised_parameters=_advertised(model),
        n_context=workload.n_context or _TEXTBOOK_CONTEXT,
        n_sequences=workload.n_sequences or 1,
    )


def explain_weights(request: Request) -> "WeightsReport":
    """Return a model's weights by role and storage type, in the first format asked for."""
    from vramcalc.reports.weights import weights_report  # noqa: PLC0415 - start-up

    model = load_model(request.model, request.registries)
    asked = next((q for q in request.quants if q), None)
    own = model.stored.format if model.stored else model.checkpoint_format
    return weights_report(model, asked or own or model.dtype)


def validate(engine: str | None = None, folder: Path | None = None) -> "ValidationReport":
    """Return our error against the measured runs of a folder (default: our own), beside the table kept with them.

    Raises ``BadInputError`` for files that are no measured runs, ``UnknownNameError`` for an engine nobody knows.
    """
    from vramcalc.reports.accuracy import freeze_accuracy  # noqa: PLC0415 - start-up
    from vramcalc.sources.measured import PACKAGED, read_runs, read_table  # noqa: PLC0415
    from vramcalc.validation import compare  # noqa: PLC0415

    name = None if engine is None else parse_engine(engine)[0]
    runs = [run for run in read_runs(folder or PACKAGED) if name in (None, run.engine)]
    models, cards = model_registry(), gpu_registry()
    comparisons: list[Comparison] = []
    specs: dict[str, ModelSpec] = {}
    machines: dict[str, Machine] = {}
    for run in runs:
        try:
            parse_engine(run.engine)
            if run.model not in specs:
                specs[run.model] = models.resolve(run.model)
            if run.machine not in machines:
                machines[run.machine] = Machine(gpus=resolve_cards(run.machine, cards).gpus)
            machine = machines[run.machine]
            if run.host_bandwidth_bytes_per_s is not None:
                machine = replace(machine, host_bandwidth_bytes_per_s=run.host_bandwidth_bytes_per_s)
            comparisons += compare(run, specs[run.model], machine)
        except UsageError as error:
            raise BadInputError(f"measured run {run.id}: {error}", error.hint) from error
    return freeze_accuracy(comparisons, read_table(folder or PACKAGED), name)


def accuracy_file(report: "ValidationReport", folder: Path | None = None) -> tuple[Path, str]:
    """Return where the table of a folder's runs is kept, and what it is to hold.

    Raises ``UsageError`` where the table of an installed package would be overwritten.
    """
    from vramcalc.reports.accuracy import table_json  # noqa: PLC0415 - start-up
    from vramcalc.sources.measured import PACKAGED, table_path  # noqa: PLC0415

    return table_path(folder or PACKAGED), table_json(report)


def _advertised(model: ModelSpec) -> int:
    """Return the size the publisher prints, or the true count where it prints none."""
    match = _ADVERTISED.match(model.advertised or "")
    return round(float(match[1]) * {"B": 10**9, "M": 10**6}[match[2]]) if match else n_parameters(model)


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
    model = _resolve_model(request.model, names.models)
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
            settings = with_environment(name, known, _variables(request.environment))
            for quant in request.quants or (None,):
                weight_format = own if quant is None else quant.strip().lower()
                asked = Asked(model, machine, name, version, weight_format, settings, companions)
                yield asked, (*found.notes, *left_out)


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
        reserve_bytes=max(used, default=0) if request.reserve is None else _bytes("--reserve", request.reserve),
        reserves=used,
        host_bandwidth_bytes_per_s=_bandwidth(request.ram_bandwidth),
    )


def _host_memory(ram: str | None) -> int | None:
    if ram is None or ram.strip().lower() != "local":
        return None if ram is None else _bytes("--ram", ram)
    from vramcalc.sources.this_machine import read_host_memory  # noqa: PLC0415 - start-up

    total, _ = read_host_memory()
    if total is None:
        raise UnavailableError("this machine's memory cannot be read", "pip install psutil, or give it: --ram 64GB")
    return total


def freeze_estimate(asked: Asked, notes: Sequence[str]) -> EstimateReport:
    """Return the report of one question: an estimate, or the engine's refusal."""
    known = (*notes, *asked.model.notes)
    try:
        engine = asked.bind()
        outcome = estimate_outcome(engine, asked.machine, asked.workload)
    except RefusedError as refusal:
        return freeze_refusal(asked, asked.version or "", str(refusal), refusal.hint, known)
    if asked.version is not None and not _is_release_of(asked.version, engine.version):
        used = f"the rules of {engine.version} are used, the nearest set known"
        known = (*known, f"{asked.engine} {asked.version}: {used}")
    limits = find_limits(asked, outcome)
    advice = find_advice(asked, outcome, limits)
    return freeze_outcome(asked, outcome, limits, advice=advice, notes=known)


def _is_release_of(version: str, rules: str) -> bool:
    parts = version.removeprefix("v").split(".")
    return parts[: rules.count(".") + 1] == rules.split(".")


def checked_workload(request: Request) -> Workload:
    """Return the workload with the cache type filled in. Raises ``UsageError`` for what no engine could take."""
    w = request.workload
    if not request.gpus:
        raise UsageError("no GPU was named", "add e.g. --gpu rtx3060; `vramcalc gpus` lists them")
    if not request.engines:
        raise UsageError("no engine was named", f"the engines are {', '.join(ENGINE_NAMES)}")
    positive = {
        "--context": w.n_context or 1,  # 0 is the trained one
        "--parallel": w.n_sequences,
        "--slots": w.n_slots,
        "--step-tokens": w.step_tokens,
        "--depth": w.depth_tokens,
        "--max-num-seqs": w.max_num_seqs,
        "--tp": w.tensor_parallel,
        "--pp": w.pipeline_parallel,
        "--dp": w.data_parallel,
        "--nodes": request.nodes,
        "--kv-cache-memory-bytes": w.kv_cache_memory_bytes,
        "--block-size": w.block_tokens,
    }
    for option, value in positive.items():
        if value is not None and value < 1:
            raise UsageError(f"{option} is {value}, which leaves nothing to estimate", "give 1 or more")
        if value is not None and value > _LARGEST:
            raise UsageError(f"{option} is {value}, more than an engine counts to", f"give at most {_LARGEST}")
    not_negative = {
        "--gpu-layers": w.gpu_layers,
        "--cpu-moe": w.cpu_moe,
        "--main-gpu": w.main_gpu,
        "--draft-gpu-layers": w.draft_gpu_layers,
    }
    for option, value in not_negative.items():
        if value is not None and value < 0:
            raise UsageError(f"{option} is {value}", "give 0 or more")
    if w.memory_share is not None and not 0 < w.memory_share <= 1:
        raise UsageError(f"--memory-share is {float(w.memory_share)}", "give a share of the card above 0 and up to 1")
    return _with_cache_type(w, request.kv_type)


def _with_cache_type(workload: Workload, kv_type: str | None) -> Workload:
    """Return the workload with the types that ``q8_0`` or ``q8_0/q4_0`` names for K and V."""
    if kv_type is None:
        return workload
    k, mark, v = kv_type.strip().lower().partition("/")
    if not k or (mark and not v):
        raise UsageError(f"--kv-type {kv_type!r} names no type", "write e.g. q8_0, or q8_0/q4_0 for K and V")
    return replace(workload, k_format=k, v_format=v or k)


def _companions(request: Request, registry: Registry[ModelSpec]) -> Companions:
    """Return what is to be loaded beside the model."""
    if request.draft is None and request.mmproj is None and not request.adapters:
        return Companions()
    from vramcalc.sources.adapters import resolve_adapter  # noqa: PLC0415 - start-up

    draft = None
    if request.draft is not None:
        quant = request.draft_quant
        draft = Draft(_resolve_model(request.draft, registry), None if quant is None else quant.strip().lower())
    projector = None if request.mmproj is None else request.mmproj.strip().lower()
    return Companions(draft, projector, tuple(resolve_adapter(text) for text in request.adapters))


def _variables(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and value of every ``NAME=VALUE``. Raises ``UsageError``."""
    pairs = []
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark or not name.strip():
            raise UsageError(f"--env {text!r} sets nothing", "write it as NAME=VALUE")
        pairs.append((name.strip(), value))
    return pairs


def _bytes(option: str, text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}", "GB is 10^9 bytes and GiB 2^30") from error


def _bandwidth(text: str | None) -> int | None:
    """Return the bytes per second of ``60GB/s``."""
    if text is None:
        return None
    found = _bytes("--ram-bandwidth", text.strip().removesuffix("/s"))
    if found < 1:
        raise UsageError(f"--ram-bandwidth is {text}, which never reads anything", "give e.g. 60GB/s")
    return found


def _system(asked: OperatingSystem, gpus: Sequence[GpuSpec]) -> OperatingSystem:
    return "macos" if all(gpu.vendor == "apple" for gpu in gpus) else asked
