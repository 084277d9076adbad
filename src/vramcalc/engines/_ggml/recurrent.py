"""The recurrent part of a layer's compute graph: convolution, scan and gated delta net, with their states.

Source:
    llama.cpp 0c1e570, src/models/mamba-base.cpp, src/models/delta-net-base.cpp, src/models/qwen3next.cpp,
    src/models/qwen35.cpp and src/llama-graph.cpp (build_rs).
"""

from vramcalc.engines._ggml.builder import Builder
from vramcalc.engines._ggml.tensor import (
    Shape,
    Tensor,
    concat,
    cont,
    copy_into,
    get_rows,
    leaf,
    like,
    mul_mat,
    reshape,
    transpose,
    view,
)
from vramcalc.formulas.kv_cache import state_elements
from vramcalc.specs.formats import F32
from vramcalc.specs.model import GatedDelta, Mamba2

_FLOAT_BYTES = 4


def mamba2(builder: Builder, x: Tensor, m: Mamba2) -> Tensor:
    """Return the output of a Mamba-2 mixer: all sequences of the batch at once, each with its own state."""
    graph, n, n_seqs = builder.graph, builder.batch.n_tokens, builder.batch.n_slots
    steps, layer = n // n_seqs, builder.current
    ids, _ = builder.state_rows()
    of_groups = m.n_groups * m.state_dim
    convolved = m.inner_dim + 2 * of_groups
    heads = (m.head_dim, m.n_heads, steps, n_seqs)
    groups = (m.state_dim, m.n_groups, steps, n_seqs)
    conv_states, states = _states(builder, m)
    conv = _read(builder, conv_states)
    projected = builder.project("ssm_in", x)
    z = _part(projected, m.inner_dim, heads)
    inputs = _part(projected, convolved, (convolved, steps, n_seqs, 1))
    dt = _part(projected, m.n_heads, (m.n_heads, steps, n_seqs, 1))
    mixed = _convolve(builder, conv, inputs, m.conv_kernel)
    mixed = like("unary", like("add", mixed, layer.weight("ssm_conv1d.bias")))
    values, keys, queries = (_part(mixed, ne[0] * ne[1], ne) for ne in (heads, groups, groups))
    dt = like("add", cont(dt), layer.weight("ssm_dt.bias"))
    size = m.inner_dim * n + m.inner_dim * m.state_dim * n_seqs
    sources = (view(states, states.ne), values, dt, layer.weight("ssm_a"), keys, queries, ids)
    scanned = _read(builder, states, Tensor("ssm_scan", F32, (size, 1, 1, 1), sources))
    new_states = view(scanned, (m.inner_dim * m.state_dim, n_seqs, 1, 1))
    graph.expand(copy_into(states, new_states))
    y = like("add", view(scanned, heads), like("mul", values, layer.weight("ssm_d")))
    y = like("glu", cont(z), y)
    if "ssm_norm.weight" in layer.weights:
        y = reshape(y, m.inner_dim // m.n_groups, m.n_groups, steps, n_seqs)
        y = like("mul", like("rms_norm", y), layer.weight("ssm_norm.weight"))
    return builder.project("ssm_out", reshape(y, m.inner_dim, n))


def gated_delta(builder: Builder, x: Tensor, m: GatedDelta) -> Tensor:
    """Return the output of a gated delta net, computed by ggml's fused operation."""
    graph, n, n_seqs = builder.graph, builder.batch.n_tokens, builder.batch.n_slots
    steps, layer = n // n_seqs, builder.current
    keys, values = m.n_key_heads * m.key_dim, m.n_value_heads * m.value_dim
    graph.expand(x)
    mixed = reshape(mul_mat(layer.weight("attn_qkv"), x), 2 * keys + values, steps, n_seqs)
    z = mul_mat(layer.weight("attn_gate"), x)
    beta, gate = _beta_and_decay(builder, x, m)
    conv_states, states = _states(builder, m)
    conv = _read(builder, conv_states)
    convolved = _convolved_input(builder, conv, mixed, m.conv_kernel)
    state = _read(builder, states)
    mixed = like("unary", _convolution(builder, convolved))
    q, k = (like("rms_norm", _part(mixed, keys, (m.key_dim, m.n_key_heads, steps, n_seqs))) for _ in range(2))
    v = _part(mixed, values, (m.value_dim, m.n_value_heads, steps, n_seqs))
    if m.fused and m.n_key_heads != m.n_value_heads:
        q, k = (_repeated(part, m, steps, n_seqs) for part in (q, k))
    rows = n + m.key_dim * n_seqs
    net = Tensor("gated_delta_net", F32, (values, rows, 1, 1), (q, k, v, gate, beta, _as_matrices(state, m)))
    new_states = view(net, (values * m.key_dim, n_seqs, 1, 1))
    graph.expand(copy_into(states, new_states))
    out = view(net, (m.value_dim, m.n_value_heads, steps, n_seqs))
    normed = like("mul", like("rms_norm", out), layer.weight("ssm_norm.weight"))
    z = reshape(z, m.value_dim, m.n_value_heads, steps, n_seqs)
    out = like("mul", normed, like("unary", z))
    return reshape(mul_mat(layer.weight("ssm_out"), reshape(out, values, steps, n_seqs)), x.ne[0], n)


def _beta_and_decay(builder: Builder, x: Tensor, m: GatedDelta) -> tuple[Tensor, Tensor]:
    """Return how much each head writes and how much it forgets, one number per token."""
    n, n_seqs, layer = builder.batch.n_tokens, builder.batch.n_slots, builder.current
    steps, heads = n // n_seqs, m.n_value_heads
    if m.fused:
        both = mul_mat(layer.weight("ssm_ba"), x)
        part = (heads // m.n_key_heads, m.n_key_heads, steps, n_seqs)
        beta = cont(_part(both, 2 * heads - part[0], part))
        alpha = cont(_part(both, 2 * heads - part[0], part), heads, steps, n_seqs)
    else:
        beta = reshape(mul_mat(layer.weight("ssm_beta"), x), 1, heads, steps, n_seqs)
        alpha = reshape(mul_mat(layer.weight("ssm_alpha"), x), heads, steps, n_seqs)
    beta = reshape(like("unary", beta), 1, heads, steps, n_seqs)
    decay = like("mul", like("unary", like("add", alpha, layer.weight("ssm_dt.bias"))), layer.weight("ssm_a"))
    return beta, reshape(decay, 1, heads, steps, n_seqs)


def _part(source: Tensor, width: int, ne: Shape) -> Tensor:
    """Return some of the columns of all rows, as heads; it spans the rows between, and so would a copy."""
    part = view(source, ne)
    n_rows = source.ne[1] * source.ne[2] * source.ne[3]
    part.n_bytes = ((n_rows - 1) * source.ne[0] + width) * _FLOAT_BYTES
    return part


def _repeated(part: Tensor, m: GatedDelta, steps: int, n_seqs: int) -> Tensor:
    ratio = m.n_value_heads // m.n_key_heads
    apart = reshape(part, m.key_dim, 1, m.n_key_heads, steps * n_seqs)
    repeated = Tensor("repeat", F32, (m.key_dim, ratio, m.n_key_heads, steps * n_seqs), (apart,))
    return reshape(repeated, m.key_dim, m.n_value_heads, steps, n_seqs)


def _as_matrices(state: Tensor, m: GatedDelta) -> Tensor:
    return reshape(state, m.value_dim, m.key_dim, m.n_value_heads, state.ne[1])


def _states(builder: Builder, mixer: Mamba2 | GatedDelta) -> tuple[Tensor, Tensor]:
    """Return the layer's two states, one row per slot, where its cache would be."""
    elements, n_slots, home = state_elements(mixer), builder.batch.n_slots, builder.current.cache_home
    return leaf("cache", (elements.conv, n_slots, 1, 1), home), leaf("cache", (elements.recurrent, n_slots, 1, 1), home)


def _read(builder: Builder, states: Tensor, result: Tensor | None = None) -> Tensor:
    """Return the batch's states, or what a scan makes of them; a slot is cleared before, and idle ones move after."""
    graph = builder.graph
    ids, moving = builder.state_rows()
    graph.expand(view(states, (states.ne[0], 1, 1, 1), op="clear"))
    result = graph.expand(result or get_rows(states, ids))
    graph.expand(copy_into(states, get_rows(states, moving)))
    return result


def _convolved_input(builder: Builder, conv: Tensor, inputs: Tensor, kernel: int) -> Tensor:
    """Return what the last tokens left and the new ones, side by side; the end of it is the new state."""
    channels, _, n_seqs, _ = inputs.ne
    joined = concat(reshape(conv, kernel - 1, channels, n_seqs), transpose(inputs))
    last = view(joined, (kernel - 1, channels, n_seqs, 1))
    last.n_bytes = (
        joined.n_bytes - (joined.ne[0] - last.ne[0]) * _FLOAT_BYTES
    )  # all but the first tokens of the first row
    builder.graph.expand(copy_into(conv.srcs[0], last))
    return joined


def _convolution(builder: Builder, joined: Tensor) -> Tensor:
    weight = builder.current.weight("ssm_conv1d")
    ne = (joined.ne[1], joined.ne[0] - weight.ne[0] + 1, joined.ne[2], 1)
    return Tensor("ssm_conv", F32, ne, (joined, weight))


def _convolve(builder: Builder, conv: Tensor, inputs: Tensor, kernel: int) -> Tensor:
    return _convolution(builder, _convolved_input(builder, conv, inputs, kernel))
