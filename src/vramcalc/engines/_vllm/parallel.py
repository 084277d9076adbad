"""Parallel sizes: what the user asked for or the engine's habit, and what the model's shape forbids."""

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.engines._vllm.experts import EXPERT_MULTIPLE
from vramcalc.errors import RefusedError
from vramcalc.placement.pipeline import stage_layers
from vramcalc.placement.tensor_shares import VOCABULARY_MULTIPLE, Heads
from vramcalc.specs.formats import ScaledFormat, WeightFormat
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import (
    GatedDelta,
    KimiDelta,
    LayerKind,
    Mamba1,
    Mamba2,
    Mixer,
    ModelSpec,
    MoeMlp,
    NoMlp,
    ShortConv,
)
from vramcalc.specs.workload import Workload
from vramcalc.units import round_up


class Parallel(Struct, frozen=True, kw_only=True):
    """Ranks are numbered replica by replica, stage by stage, tensor rank last.

    Replicas copy all but the experts, which are spread over the ranks of a stage of all replicas together: a part of
    each, or with ``whole_experts`` some of them in full.

    Source:
        vLLM 0.33, model_executor/layers/fused_moe/config.py, FusedMoEParallelConfig.
    """

    tensor: int
    pipeline: int
    data: int
    whole_experts: bool

    @property
    def n_ranks(self) -> int:
        """GPUs in use."""
        return self.tensor * self.pipeline * self.data

    @property
    def expert_ranks(self) -> int:
        """Ranks that share the experts of a layer."""
        return self.tensor * self.data

    def stages(self, n_layers: int) -> tuple[range, ...]:
        """Return the layers of each pipeline stage."""
        return stage_layers(n_layers, self.pipeline)

    def first_rank(self, stage: int) -> int:
        """Return the first rank of a stage of the first replica."""
        return stage * self.tensor

    def stage_of(self, rank: int) -> int:
        """Return the pipeline stage of a rank."""
        return rank % (self.tensor * self.pipeline) // self.tensor


class Uneven(Struct, frozen=True):
    """What the ranks do not divide, and what vLLM stops with; empty where its words are not known."""

    reason: str
    stops_with: str = ""


def choose_parallel(
    model: ModelSpec, fmt: WeightFormat, machine: Machine, workload: Workload, *, quotes: bool = False
) -> Parallel:
    """Return the parallel sizes: as asked, else TP over a node's GPUs where the shape allows it, else PP.

    Nodes follow each other as pipeline stages. Raises ``RefusedError`` for what the model or machine cannot do;
    ``quotes``: in vLLM's words too.
    """
    whole_experts = bool(workload.expert_parallel) and model.is_moe
    data = workload.data_parallel or 1
    tensor, pipeline = workload.tensor_parallel, workload.pipeline_parallel
    if tensor is None and pipeline is None:
        tensor, pipeline = _habit(model, fmt, machine, data, whole_experts=whole_experts)
    elif tensor is None:
        tensor = 1
    chosen = Parallel(
        tensor=tensor, pipeline=pipeline or 1, data=data, whole_experts=whole_experts and tensor * data > 1
    )
    if chosen.n_ranks > machine.n_gpus:
        raise RefusedError(
            f"TP {chosen.tensor} x PP {chosen.pipeline} x DP {data} needs {chosen.n_ranks} GPUs; there are "
            f"{machine.n_gpus}",
            "lower a parallel size or add GPUs",
        )
    if chosen.pipeline > model.layers.n_layers:
        raise RefusedError(
            f"{model.name} has {model.layers.n_layers} layers, too few for PP {chosen.pipeline}", "lower --pp"
        )
    uneven = _why_not(model, fmt, chosen)
    if uneven:
        sizes = f"TP {chosen.tensor}" + (f" x DP {data}" if data > 1 and model.is_moe else "")
        quoted = f'; it stops with "{uneven.stops_with}"' if quotes and uneven.stops_with else ""
        fact = f"{sizes} does not divide {model.name}: {uneven.reason}{quoted}"
        raise RefusedError(fact, _what_divides(model, fmt, chosen))
    return chosen


def _what_divides(model: ModelSpec, fmt: WeightFormat, refused: Parallel) -> str:
    """Return the next smaller TP that the model allows, and the same GPUs as pipeline stages."""
    smaller = range(refused.tensor - 1, 0, -1)
    found = next((n for n in smaller if not _why_not(model, fmt, replace(refused, tensor=n))), None)
    stages = refused.tensor * refused.pipeline
    words = [f"--tp {found}"] if found else []
    if stages <= model.layers.n_layers and not _why_not(model, fmt, replace(refused, tensor=1)):
        words.append(f"--pp {stages}")
    return " or ".join(words) or "try a smaller --tp or --dp"


def _habit(model: ModelSpec, fmt: WeightFormat, machine: Machine, data: int, *, whole_experts: bool) -> tuple[int, int]:
    n_gpus = max(1, machine.n_gpus // data)
    per_node = min(n_gpus, len(machine.gpus))
    nodes = n_gpus // per_node
    tried = Parallel(tensor=per_node, pipeline=nodes, data=data, whole_experts=whole_experts)
    if _why_not(model, fmt, tried):
        return 1, per_node * nodes
    return per_node, nodes


def _why_not(model: ModelSpec, fmt: WeightFormat, parallel: Parallel) -> Uneven | None:
    """Return what the ranks do not divide, or nothing.

    Source:
        vLLM 0.33, config/model.py, verify_with_parallel_config; distributed/utils.py, ensure_divisibility; the
        alignment checks of the quantised layers.
    """
    for kind in model.layers.kinds.values():
        uneven = _uneven_heads(kind, parallel.tensor)
        if uneven:
            return uneven
        of_experts = isinstance(kind.mlp, MoeMlp)
        n_ranks = parallel.expert_ranks if of_experts else parallel.tensor
        if isinstance(kind.mlp, NoMlp) or n_ranks == 1 or (of_experts and parallel.whole_experts):
            continue
        if kind.mlp.ff_dim % n_ranks:
            return _uneven(f"feed-forward width {kind.mlp.ff_dim}", kind.mlp.ff_dim, n_ranks)
        if _breaks_groups(fmt, kind.mlp.ff_dim // n_ranks, of_experts=of_experts):
            return Uneven(f"{kind.mlp.ff_dim // n_ranks} columns of a rank are no whole groups of {fmt.name}")
    padded = round_up(model.vocabulary, VOCABULARY_MULTIPLE)
    return _uneven(f"vocabulary {padded}", padded, parallel.tensor) if padded % parallel.tensor else None


def _uneven(reason: str, numerator: int, n_ranks: int) -> Uneven:
    return Uneven(reason, f"{numerator} is not divisible by {n_ranks}")


def _uneven_heads(kind: LayerKind, n_ranks: int) -> Uneven | None:
    heads = Heads.of(kind.attention)
    if heads.n_heads % n_ranks:
        quoted = f"Total number of attention heads ({heads.n_heads}) must be divisible by tensor parallel size"
        return Uneven(f"{heads.n_heads} heads", f"{quoted} ({n_ranks}).")
    few, many = sorted((heads.n_kv_heads, n_ranks))
    if heads.n_kv_heads and many % few:
        return _uneven(f"{heads.n_kv_heads} KV heads", many, few)
    if isinstance(kind.mixer, Mamba2) and kind.mixer.n_groups % n_ranks and kind.mixer.n_groups > 1:
        return Uneven(f"{kind.mixer.n_groups} groups of a recurrent layer")
    found = _mixer_heads(kind.mixer)
    return _uneven(f"{found} heads of a recurrent layer", found, n_ranks) if found % n_ranks else None


def _mixer_heads(mixer: Mixer | None) -> int:
    """Return the heads a recurrent layer splits; 0 where there is none or it splits by channels."""
    match mixer:
        case Mamba2() | KimiDelta():
            return mixer.n_heads
        case GatedDelta():
            return mixer.n_key_heads
        case Mamba1() | ShortConv() | None:
            return 0


def _breaks_groups(fmt: WeightFormat, columns: int, *, of_experts: bool) -> bool:
    """Whether a rank's columns cut a group of scales: experts in AWQ and GPTQ fall back to smaller groups instead."""
    if not isinstance(fmt, ScaledFormat) or fmt.element_bits != 4 or fmt.name == "mxfp4":  # noqa: PLR2004
        return False
    if of_experts:
        return fmt.method == "compressed" and columns % EXPERT_MULTIPLE != 0
    return "mlp" not in fmt.keeps and fmt.group_columns > 0 and columns % fmt.group_columns != 0
