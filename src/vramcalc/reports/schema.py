"""The frozen answer. These classes are the JSON: field for field, and the schema is generated from them.

Bytes are integers. Keys are never renamed, only added.
"""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, to_builtins

from vramcalc.solvers.limits import MOST_SEQUENCES

SCHEMA_VERSION: Literal[1] = 1
MOST_SEQUENCES_TRIED = MOST_SEQUENCES

VerdictName = Literal["fits", "tight", "offloads", "streams_from_disk", "does_not_fit", "unsupported"]
BasisName = Literal["exact", "derived", "fitted", "assumed"]
ComponentName = Literal["weights", "kv_cache", "state", "compute_buffer", "runtime", "unaccounted"]


class ModelReport(Struct, frozen=True):
    """Which model was meant."""

    id: str
    hf_id: str | None
    name: str
    n_parameters: int
    n_active_parameters: int
    context: int
    source: str


class EngineReport(Struct, frozen=True):
    """Which engine, by which version's rules; ``asked_version`` is what the user pinned."""

    name: str
    version: str
    asked_version: str | None


class WorkloadReport(Struct, frozen=True):
    """The load and every setting in force; ``assumed`` names those that nobody asked for."""

    n_context: int | None
    n_sequences: int | None
    step_tokens: int | None
    flash_attention: bool | None
    n_slots: int | None
    kv_unified: bool | None
    swa_full: bool
    gpu_layers: int | None
    cpu_moe: int | None
    k_format: str | None
    v_format: str | None
    tensor_parallel: int | None
    pipeline_parallel: int | None
    data_parallel: int | None
    expert_parallel: bool | None
    memory_share: float | None
    max_num_seqs: int | None
    enforce_eager: bool
    kv_cache_memory_bytes: int | None
    cpu_offload_bytes: int
    kv_offload_bytes: int
    block_tokens: int | None
    chunked_prefill: bool
    prefix_caching: bool
    assumed: tuple[str, ...]
    spread: bool = False
    gpu_overhead_bytes: int = 0
    overrides: tuple[str, ...] = ()
    tensor_split: tuple[float, ...] | None = None
    split_mode: str | None = None
    main_gpu: int | None = None
    kv_offload: bool = True
    op_offload: bool = True
    mmap: bool = True
    mlock: bool = False
    repack: bool = True
    draft_gpu_layers: int | None = None


class GpuReport(Struct, frozen=True):
    """One card of the machine; ``memory_bytes`` is as advertised."""

    id: str
    name: str
    memory_bytes: int
    usable_bytes: int
    usable_basis: BasisName
    usable_why: str
    usable_source: str
    vendor: str


class MachineReport(Struct, frozen=True):
    """What it is to run on; GPUs are those of one node."""

    gpus: tuple[GpuReport, ...]
    nodes: int
    host_memory_bytes: int | None
    os: str
    reserve_bytes: int


class RefusalReport(Struct, frozen=True):
    """Why engine, card and setting do not go together, and what would."""

    reason: str
    advice: str


class ComponentBytes(Struct, frozen=True, kw_only=True):
    """The parts of a need; ``need_bytes`` is their sum."""

    weights_bytes: int
    kv_cache_bytes: int
    state_bytes: int
    compute_buffer_bytes: int
    runtime_bytes: int
    unaccounted_bytes: int
    need_bytes: int
    need_low_bytes: int
    need_high_bytes: int
    outside_budget_bytes: int


class DeviceReport(ComponentBytes, frozen=True, kw_only=True):
    """One device that holds bytes. Devices with the same ``memory_pool`` share one memory."""

    name: str
    kind: Literal["gpu", "host", "disk"]
    memory_pool: str
    capacity_bytes: int | None
    budget_bytes: int | None
    budget_why: str
    headroom_bytes: int | None
    peak_bytes: int | None = None  # while loading: the need and what passes through; None where nobody knows


class PlacementReport(Struct, frozen=True):
    """Who holds what; layers count the output head as one, as llama.cpp does."""

    gpu_layers: int
    total_layers: int
    expert_layers_on_gpu: int | None
    layers_per_device: Mapping[str, int]
    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    expert_parallel: bool
    overrides: tuple[str, ...]


class LimitsReport(Struct, frozen=True):
    """How far it goes; the pool is what a paging engine sets aside and prints."""

    max_context: int | None
    max_sequences: int | None
    kv_cache_pool_bytes: int | None
    kv_cache_blocks: int | None
    kv_block_tokens: int | None
    kv_cache_tokens: int | None
    max_concurrency: float | None


class RateReport(Struct, frozen=True):
    """A rate, tokens per second for most, or a time in seconds, with its range."""

    low: float
    best: float
    high: float


class TimeReport(Struct, frozen=True):
    """One part of the time of a token; ``formula`` over ``values`` gives ``seconds``."""

    device: str
    seconds: float
    formula: str
    values: Mapping[str, float]
    why: str


class SpeedReport(Struct, frozen=True):
    """Predicted speed of one sequence, of all, and of reading a prompt of ``at_context`` tokens.

    ``decode_tokens_per_s_filled`` is that of one sequence where the whole context is in use, null where it is the
    same. ``decode_time`` is what a token takes, by device.
    """

    decode_tokens_per_s: RateReport
    decode_total_tokens_per_s: RateReport
    prefill_tokens_per_s: RateReport
    n_sequences: int
    at_context: int
    time_to_first_token_s: RateReport
    decode_tokens_per_s_filled: RateReport | None
    basis: BasisName
    source: str
    decode_time: tuple[TimeReport, ...]


class ReadoutReport(Struct, frozen=True):
    """What a tool will show once the model is loaded; ``device`` is None for all devices together."""

    tool: str
    device: str | None
    n_bytes: int
    text: str


class LineReport(Struct, frozen=True):
    """One line of the bill; ``formula`` over ``values`` gives ``n_bytes``."""

    component: ComponentName
    device: str
    n_bytes: int
    low_bytes: int
    high_bytes: int
    basis: BasisName
    why: str
    source: str
    formula: str
    values: Mapping[str, int | float]
    outside_budget: bool


class EstimateReport(Struct, frozen=True):
    """The answer for one model, machine, engine and weight format."""

    model: ModelReport
    engine: EngineReport
    weight_format: str | None
    cache_format: str | None
    workload: WorkloadReport
    machine: MachineReport
    verdict: VerdictName
    refusal: RefusalReport | None
    devices: tuple[DeviceReport, ...]
    totals: ComponentBytes | None
    placement: PlacementReport | None
    limits: LimitsReport | None
    speed: SpeedReport | None
    lines: tuple[LineReport, ...]
    launch: tuple[str, ...]
    engine_log: tuple[str, ...]  # what the engine itself would print about memory, up to its error
    advice: tuple[str, ...]
    notes: tuple[str, ...]
    readouts: tuple[ReadoutReport, ...] = ()

    @property
    def headroom_bytes(self) -> int | None:
        """The headroom of the tightest GPU; None where the engine refuses."""
        rooms = [d.headroom_bytes for d in self.devices if d.kind == "gpu" and d.headroom_bytes is not None]
        return min(rooms, default=None)


class Report(Struct, frozen=True):
    """All answers of one request, in the order asked."""

    schema_version: Literal[1]
    estimates: tuple[EstimateReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON holds it."""
        found: dict[str, Any] = to_builtins(self)
        return found


class ErrorFacts(Struct, frozen=True):
    """An expected failure: one line of fact, one of advice."""

    type: str
    message: str
    advice: str
    exit_code: int


class ErrorReport(Struct, frozen=True):
    """What stdout holds instead of an answer, where JSON was asked for."""

    error: ErrorFacts
