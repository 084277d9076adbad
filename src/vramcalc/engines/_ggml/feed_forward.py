"""The feed-forward part of a layer's compute graph.

Source:
    llama.cpp 0c1e570, src/llama-graph.cpp (build_ffn, build_moe_ffn).
"""

from vramcalc.engines._ggml.builder import Builder
from vramcalc.engines._ggml.tensor import I32, Tensor, cont, get_rows, like, mul_mat, mul_mat_id, reshape, view
from vramcalc.specs.formats import F32
from vramcalc.specs.model import GatedMlp, LatentAttention, MoeMlp, NoMlp, PlainMlp

_FLOAT_BYTES = 4


def feed_forward(builder: Builder, x: Tensor) -> Tensor:
    """Return the output of a layer's MLP."""
    match builder.current.kind.mlp:
        case GatedMlp(fused=fused):
            return _gated(builder, x, "ffn_{}", fused=fused)
        case PlainMlp():
            return builder.project("ffn_down", like("unary", builder.project("ffn_up", x)))
        case MoeMlp() as moe:
            return _experts(builder, x, moe)
        case NoMlp():
            return x


def _gated(builder: Builder, x: Tensor, name: str, *, fused: bool = False) -> Tensor:
    up = builder.project(name.format("up"), x)
    if fused:
        gated = Tensor("glu", F32, (up.ne[0] // 2, *up.ne[1:]), (up,))
    else:
        gated = like("glu", builder.project(name.format("gate"), x), up)
    return builder.project(name.format("down"), gated)


def dense_beside_experts(builder: Builder, x: Tensor, moe: MoeMlp) -> Tensor:
    """Return the sum of a dense MLP and routed experts, each behind norms of its own, as in Gemma 4."""
    dense = builder.norm(_gated(builder, builder.norm(x, "ffn_norm"), "ffn_{}"), "post_ffw_norm_1")
    routed_by = like("mul", like("rms_norm", x), builder.current.weight("ffn_gate_inp.scale"))
    routed = _experts(builder, builder.norm(x, "pre_ffw_norm_2"), moe, routed_by)
    return like("add", dense, builder.norm(routed, "post_ffw_norm_2"))


def _experts(builder: Builder, x: Tensor, moe: MoeMlp, routed_by: Tensor | None = None) -> Tensor:
    graph, hidden, n = builder.graph, x.ne[0], x.ne[1]
    ids, weights = _route(builder, routed_by or x, moe)
    graph.expand(weights)
    wide = reshape(x, hidden, 1, n)
    if builder.traits.weighs_inputs:
        repeated = Tensor("repeat", F32, (hidden, moe.n_active_experts, n, 1), (wide,))
        wide = like("mul", repeated, weights)
    up = _chosen(builder, "ffn_up_exps", wide, ids)
    gated = like("glu", _chosen(builder, "ffn_gate_exps", wide, ids), up) if moe.gated else like("unary", up)
    down = _chosen(builder, "ffn_down_exps", gated, ids)
    if moe.router_scale:
        down = like("mul", down, _expert_scale(builder, moe, ids))
    experts = graph.expand(down if builder.traits.weighs_inputs else like("mul", down, weights))
    used = moe.n_active_experts
    views = [graph.expand(view(experts, (hidden, n, 1, 1), stride=used * hidden * _FLOAT_BYTES)) for _ in range(used)]
    total = views[0] if used > 1 else cont(views[0])
    for part in views[1:]:
        total = graph.expand(like("add", total, part))
    if not moe.shared_ff_dim:
        return total
    if moe.gated:
        shared = _gated(builder, x, "ffn_{}_shexp")
    else:
        shared = builder.project("ffn_down_shexp", like("unary", builder.project("ffn_up_shexp", x)))
    if moe.shared_gate:
        shared = like("mul", shared, like("unary", builder.project("ffn_gate_inp_shexp", x)))
    return like("add", total, shared)


def _expert_scale(builder: Builder, moe: MoeMlp, ids: Tensor) -> Tensor:
    """Return the chosen experts' own scales, one number per token and expert."""
    scales = reshape(builder.current.weight("ffn_down_exps.scale"), 1, moe.n_experts, 1)
    return get_rows(Tensor("repeat", F32, (1, moe.n_experts, ids.ne[1], 1), (scales,)), ids)


def _route(builder: Builder, x: Tensor, moe: MoeMlp) -> tuple[Tensor, Tensor]:
    """Return the numbers of the chosen experts and their weights; small beside the experts' own results."""
    n, used = x.ne[1], moe.n_active_experts
    scores = mul_mat(builder.current.weight("ffn_gate_inp"), x)
    if moe.router_bias == "parameter":  # softmax over the chosen few
        scores = like("add", scores, builder.current.weight("ffn_gate_inp.bias"))
    else:
        scores = like("soft_max", scores)
    selection = scores.srcs[0] if builder.traits.weighs_inputs else scores  # the order is the same before a sigmoid
    if moe.router_bias == "buffer":
        selection = like("add", scores, builder.current.weight("ffn_gate_inp.bias"))
    order = Tensor("argsort", I32, selection.ne, (selection,))
    ids = view(order, (used, n, 1, 1), stride=moe.n_experts * _FLOAT_BYTES)
    weights = get_rows(reshape(scores, 1, moe.n_experts, n), ids)
    weights = reshape(weights, used, n)
    if moe.router_bias == "parameter":
        weights = like("soft_max", weights)
    elif not builder.traits.weighs_inputs and not _keeps_weights(builder, moe):
        weights = like("div", weights, like("clamp", Tensor("sum_rows", F32, (1, n, 1, 1), (weights,))))
    return ids, reshape(weights, 1, used, n)


def _keeps_weights(builder: Builder, moe: MoeMlp) -> bool:
    """Return whether the chosen experts' weights are not scaled to a sum of one: MLA's first generation."""
    return isinstance(builder.current.kind.attention, LatentAttention) and moe.router_bias == "none"


def _chosen(builder: Builder, name: str, x: Tensor, ids: Tensor) -> Tensor:
    product = mul_mat_id(builder.current.weight(name), x, ids)
    bias = f"{name}.bias"
    return like("add_id", product, builder.current.weight(bias), ids) if bias in builder.current.weights else product
