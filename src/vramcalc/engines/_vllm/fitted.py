"""What only a GPU can tell: the activation peak, CUDA graphs and growth outside PyTorch, fitted by mechanism.

Source:
    Complete vLLM 0.19.0 logs of 37 runs on H100 (T = 8192 tokens per step, S = 1024 sequences) published by
    llm-d-planner, and single runs of 0.11, 0.15, 0.17 and 0.18 from the same place.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from vramcalc.engines._vllm.rules import ELEMENT_BYTES, RuleSet, is_multimodal
from vramcalc.formulas.inventory import Split, tensor_groups
from vramcalc.specs.formats import WeightFormat
from vramcalc.specs.model import Dtype, GatedMlp, LatentAttention, Mlp, ModelSpec, MoeMlp, NoMlp, PlainMlp
from vramcalc.units import MIB, ceil_div

SAMPLER_SCRATCH_BYTES = 36 * MIB
_GRAPH_BASE_BYTES = 130 * MIB  # of 51 batch sizes
_GRAPH_LAYER_BYTES = {"any": 33 * MIB // 2, "experts": 16 * MIB, "latent": 11 * MIB}  # what each launches
_GRAPH_SIZES = 51
_GRAPH_ELEMENT_BYTES = 17  # kept per element of the largest batch: ff + 4 x hidden of a rank
_ESTIMATE_PERCENT = 85  # what the engine estimates from its two largest graphs
_EXPERT_CHUNK_TOKENS = 16384  # replicas' tokens are taken in chunks: VLLM_FUSED_MOE_CHUNK_SIZE; no run backs it
_QUANTISED_STEPS = ("int8", "fp8")  # formats that also quantise the tokens on their way in


class Figure(Struct, frozen=True):
    """Bytes with their arithmetic and the interval the runs show."""

    formula: str
    values: Mapping[str, int]
    n_bytes: int
    low_bytes: int
    high_bytes: int


class StepShape(Struct, frozen=True, kw_only=True):
    """What the profile run passes through one rank."""

    model: ModelSpec
    fmt: WeightFormat
    dtype: Dtype
    step_tokens: int
    sampled_rows: int  # 0 where the rank has no head
    tensor_parallel: int
    is_piped: bool
    whole_experts: bool
    replicas: int = 1  # whose tokens the experts see together


def activation_peak(shape: StepShape, rules: RuleSet) -> Figure:
    """Return the most a profile run holds at once: the sampler's pass or the widest layer's, beside what stays.

    Shapes:
        sampler: logits in the model's dtype and three f32 copies of [sampled_rows, vocabulary] (14.5 B per logit
            in 16 bits), 1.25 x [step_tokens, hidden_dim] and 36 MiB
        widest layer: gate, up and their product, 3 x [step_tokens, ff / TP] (plain MLP: 2), and 4.25 x
            [step_tokens, hidden_dim]; 2 more between pipeline stages
        staying: the experts' workspace; the image tokens of the encoder's cache

    Residuals:
        37 runs of 0.19: median 0.2 %, text models at most 1.2 %; Kimi-VL, with vision and experts, 7 % low.
    """
    model, tokens = shape.model, shape.step_tokens
    width = ELEMENT_BYTES[shape.dtype]
    values = {
        "step_tokens": tokens,
        "hidden_dim": model.hidden_dim,
        "element_bytes": width,
        "sampled_rows": shape.sampled_rows,
        "vocabulary": model.vocabulary,
        "half_bytes_per_logit": 2 * width + rules.sampler_half_bytes,
        "scratch": SAMPLER_SCRATCH_BYTES,
        "layer_token_bytes": _layer_token_bytes(shape),
        "quarters": 25 if shape.is_piped else 17,
        "expert_workspace": _expert_workspace(shape),
        "image_tokens": tokens if is_multimodal(model) else 0,
    }
    sampler = tokens * model.hidden_dim * width * 5 // 4 + SAMPLER_SCRATCH_BYTES
    sampler += shape.sampled_rows * model.vocabulary * values["half_bytes_per_logit"] // 2
    layer = tokens * values["layer_token_bytes"] + tokens * model.hidden_dim * width * values["quarters"] // 4
    staying = values["expert_workspace"] + values["image_tokens"] * model.hidden_dim * width
    best = max(sampler, layer) + staying
    formula = (
        "max(step_tokens * hidden_dim * element_bytes * 5 // 4 + scratch"
        " + sampled_rows * vocabulary * half_bytes_per_logit // 2,"
        " step_tokens * layer_token_bytes + step_tokens * hidden_dim * element_bytes * quarters // 4)"
        " + expert_workspace + image_tokens * hidden_dim * element_bytes"
    )
    low, high = _activation_range(model, rules)
    return Figure(formula, values, best, best * low // 100, best * high // 100)


def _activation_range(model: ModelSpec, rules: RuleSet) -> tuple[int, int]:
    """Return the range in percent: the runs' residuals for 0.17 to 0.19, wider where the rule is only carried over."""
    if rules.graphs_in_budget:
        return 80, 130
    return (95, 112) if is_multimodal(model) or model.is_moe else (97, 103)


def _layer_token_bytes(shape: StepShape) -> int:
    """Return the bytes of one token in the widest feed-forward or recurrent layer of a rank."""
    kinds = shape.model.layers.kinds.values()
    return max(*(_mlp_token_bytes(kind.mlp, shape) for kind in kinds), _recurrent_token_bytes(shape))


def _recurrent_token_bytes(shape: StepShape) -> int:
    """Return what a recurrent layer projects a token to and what it convolves of it; no run backs this."""
    projected: dict[tuple[int, ...], int] = {}
    for group in tensor_groups(shape.model):
        is_projection = group.is_matrix and group.split is Split.COLUMN
        if group.role == "recurrent" and (is_projection or group.name == "ssm_conv1d"):
            projected[group.layers] = projected.get(group.layers, 0) + group.shape[0]
    return ceil_div(max(projected.values(), default=0), shape.tensor_parallel) * ELEMENT_BYTES[shape.dtype]


def _mlp_token_bytes(mlp: Mlp, shape: StepShape) -> int:
    width = ELEMENT_BYTES[shape.dtype]
    extra = 1 if shape.fmt.name.startswith(_QUANTISED_STEPS) else 0
    match mlp:
        case GatedMlp(ff_dim=ff):
            return ceil_div(ff, shape.tensor_parallel) * (3 * width + extra)
        case PlainMlp(ff_dim=ff):
            return ceil_div(ff, shape.tensor_parallel) * (2 * width + extra)
        case MoeMlp(shared_ff_dim=shared, dense_ff_dim=dense):
            return ceil_div(max(shared, dense), shape.tensor_parallel) * (3 * width + extra)
        case NoMlp():
            return 0


def _expert_workspace(shape: StepShape) -> int:
    """Return the fused-experts workspace, kept from the first run on: two buffers per routed token and the output.

    mxfp4 experts of gpt-oss run in kernels that keep none.
    """
    if shape.fmt.name == "mxfp4":
        return 0
    hidden, width = shape.model.hidden_dim, ELEMENT_BYTES[shape.dtype]
    most = 0
    for kind in shape.model.layers.kinds.values():
        if isinstance(kind.mlp, MoeMlp):
            n_ranks = 1 if shape.whole_experts else shape.tensor_parallel * shape.replicas
            ff = ceil_div(kind.mlp.ff_dim, n_ranks)
            first = 2 * ff if kind.mlp.gated else ff
            gathered = shape.replicas * shape.step_tokens
            routed = min(gathered, max(shape.step_tokens, _EXPERT_CHUNK_TOKENS)) * kind.mlp.n_active_experts
            most = max(most, (routed * (max(first, hidden) + ff) + gathered * hidden) * width)
    return most


def graph_memory(shape: StepShape, n_layers: int, sizes: Sequence[int], rules: RuleSet) -> Figure:
    """Return the CUDA graphs of a rank with ``n_layers``: a share per layer and size, and the largest size's pool.

    Shapes:
        a layer launches kernels; experts and latent attention launch more
        pool: 17 bytes of [largest batch, (ff + 4 x hidden) / TP], which all sizes share

    Residuals:
        Captured: 38 runs, mean 5 %, worst 12 %; models left out of the fit in turn: mean 8 %, worst 19 %. The engine's
        own estimate is 85 % of it, mean 15 % off; three logged estimates are twice as large and seem to be chance.
    """
    latent = any(isinstance(kind.attention, LatentAttention) for kind in shape.model.layers.kinds.values())
    traits = {"any": True, "experts": shape.model.is_moe, "latent": latent}
    values = {
        "base": _GRAPH_BASE_BYTES,
        "n_layers": n_layers,
        "per_layer": sum(_GRAPH_LAYER_BYTES[name] for name, found in traits.items() if found),
        "n_sizes": len(sizes),
        "largest": max(sizes, default=0),
        "width": ceil_div(_widest_dim(shape.model) + 4 * shape.model.hidden_dim, shape.tensor_parallel),
        "percent": _ESTIMATE_PERCENT if rules.graphs_in_budget else 100,
    }
    best = (_GRAPH_BASE_BYTES + n_layers * values["per_layer"]) * len(sizes) // _GRAPH_SIZES
    best = (best + _GRAPH_ELEMENT_BYTES * values["largest"] * values["width"]) * values["percent"] // 100
    formula = (
        f"((base + n_layers * per_layer) * n_sizes // {_GRAPH_SIZES} + {_GRAPH_ELEMENT_BYTES} * largest * width)"
        " * percent // 100"
    )
    low, high = (40, 210) if rules.graphs_in_budget else (80, 125)
    return Figure(formula, values, best, best * low // 100, best * high // 100)


def _widest_dim(model: ModelSpec) -> int:
    """Return the widest feed-forward a token passes: of experts, all it is routed to and the shared one."""
    return max(_mlp_dim(kind.mlp) for kind in model.layers.kinds.values())


def _mlp_dim(mlp: Mlp) -> int:
    match mlp:
        case GatedMlp(ff_dim=ff) | PlainMlp(ff_dim=ff):
            return ff
        case MoeMlp():
            return max(mlp.n_active_experts * mlp.ff_dim + mlp.shared_ff_dim, mlp.dense_ff_dim)
        case NoMlp():
            return 0
