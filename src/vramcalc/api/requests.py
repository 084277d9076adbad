"""A question as a person types it, and what no engine could take of it."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from vramcalc.engines import ENGINE_NAMES
from vramcalc.errors import UsageError
from vramcalc.specs.gpu import OperatingSystem
from vramcalc.specs.workload import Workload
from vramcalc.units import parse_bytes, parse_count

DEFAULT_ENGINES = ("ollama", "vllm")
_LARGEST = 2**31 - 1  # engines count tokens and sequences in 32 bits


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
        "--block-size": w.block_tokens,
    }
    for option, value in {**positive, "--kv-cache-memory-bytes": w.kv_cache_memory_bytes}.items():
        if value is not None and value < 1:
            raise UsageError(f"{option} is {value}, which leaves nothing to estimate", "give 1 or more")
        if value is not None and option in positive and value > _LARGEST:
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


def parse_variables(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and value of every ``NAME=VALUE``. Raises ``UsageError``."""
    pairs = []
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark or not name.strip():
            raise UsageError(f"--env {text!r} sets nothing", "write it as NAME=VALUE")
        pairs.append((name.strip(), value))
    return pairs


def parse_amount(option: str, text: str) -> int:
    """Return the bytes an option names. Raises ``UsageError``."""
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}", "GB is 10^9 bytes and GiB 2^30") from error


def parse_bandwidth(text: str | None) -> int | None:
    """Return the bytes per second of ``60GB/s``."""
    if text is None:
        return None
    found = parse_amount("--ram-bandwidth", text.strip().removesuffix("/s"))
    if found < 1:
        raise UsageError(f"--ram-bandwidth is {text}, which never reads anything", "give e.g. 60GB/s")
    return found
