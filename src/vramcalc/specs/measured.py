"""Measured runs: what an engine printed or allocated for a stated model, machine and workload; and how near we came."""

from enum import StrEnum
from typing import Literal

from msgspec import Struct

from vramcalc.specs.workload import Workload

# The engine's own accounting without a GPU, the log of a run on one, or a published benchmark.
Evidence = Literal["code", "log", "bench"]
DeviceKind = Literal["gpu", "host", "run"]
Unit = Literal["bytes", "tokens", "blocks", "layers", "bool", "tokens/s"]

RUN = "run"  # the device of a figure that belongs to no single one


class Quantity(StrEnum):
    """What was measured; the first six are the components of a bill."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    STATE = "state"
    COMPUTE_BUFFER = "compute_buffer"  # what counts against the budget: vLLM before 0.21 keeps its graphs beside it
    RUNTIME = "runtime"
    UNACCOUNTED = "unaccounted"
    CUDA_GRAPHS = "cuda_graphs"  # as captured beside the budget: vLLM before 0.21
    LOADED = "loaded"  # weights as an allocator holds them: "Model loading took"
    NEED = "need"  # all that counts against a GPU's budget
    LEAST_CACHE = "least_cache"  # the KV cache without which the engine does not start, of the fullest GPU
    POOL = "pool"  # the KV cache it sets aside
    POOL_BLOCKS = "pool_blocks"
    POOL_TOKENS = "pool_tokens"
    BLOCK_TOKENS = "block_tokens"
    STARTS = "starts"
    TOTAL_CONTEXT = "total_context"  # tokens of all slots
    GPU_LAYERS = "gpu_layers"  # layers on all GPUs; the output head counts as one
    LAYERS = "layers"  # layers on one GPU; the output head counts as one
    EXPERT_LAYERS = "expert_layers"  # layers whose experts are all on GPUs
    DECODE_SPEED = "decode_speed"  # of one sequence, in thousandths
    PROMPT_SPEED = "prompt_speed"  # in thousandths


UNITS: dict[Quantity, Unit] = {
    **dict.fromkeys(Quantity, "bytes"),
    Quantity.POOL_BLOCKS: "blocks",
    Quantity.POOL_TOKENS: "tokens",
    Quantity.BLOCK_TOKENS: "tokens",
    Quantity.STARTS: "bool",
    Quantity.TOTAL_CONTEXT: "tokens",
    Quantity.GPU_LAYERS: "layers",
    Quantity.LAYERS: "layers",
    Quantity.EXPERT_LAYERS: "layers",
    Quantity.DECODE_SPEED: "tokens/s",
    Quantity.PROMPT_SPEED: "tokens/s",
}


class MeasuredFigure(Struct, frozen=True, forbid_unknown_fields=True):
    """One figure of a run; the truth lies within ``resolution`` of ``value``, as far as it was printed."""

    quantity: Quantity
    device: str
    value: int
    resolution: int

    @property
    def unit(self) -> Unit:
        """The unit of the value."""
        return UNITS[self.quantity]


class MeasuredRun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run. ``machine`` is what ``--gpu`` takes; a size such as ``2048GiB`` stands for a device without a card.

    An empty version is one that the source does not state.
    """

    id: str
    engine: str
    version: str
    model: str
    machine: str
    weight_format: str
    evidence: Evidence
    workload: Workload
    figures: tuple[MeasuredFigure, ...]
    source: str
    host_bandwidth_bytes_per_s: int | None = None


class Accuracy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How near we come to one kind of figure; errors are shares of the measured value, beyond its resolution.

    ``is_in_sample``: coefficients behind the estimate were fitted to these very runs. ``n_in_range``: figures within
    the range we give, and the error that nine in ten stay under; both for fitted speeds alone.
    """

    engine: str
    component: str
    device: DeviceKind
    evidence: Evidence
    is_in_sample: bool
    n_figures: int
    n_answered: int
    n_exact: int
    median_error: float | None
    p95_error: float | None
    worst_error: float | None
    n_in_range: int | None = None
    p90_error: float | None = None


class AccuracyTable(Struct, frozen=True, forbid_unknown_fields=True):
    """What was reached last: no median may rise and no run answered then be refused."""

    rows: tuple[Accuracy, ...]
    unanswered: tuple[str, ...]  # ids of runs we refuse
