"""The tensors of each kind of recurrent mixer."""

from collections.abc import Iterator

from vramcalc.formulas.tensors import Split, TensorGroup
from vramcalc.specs.model import GatedDelta, KimiDelta, Mamba1, Mamba2, Mixer, ShortConv


def mixer_tensors(hidden: int, mixer: Mixer | None) -> Iterator[TensorGroup]:
    """Yield what one layer's mixer holds.

    Source:
        transformers 5.23: modeling_mamba.py, modeling_mamba2.py, modeling_jamba.py, modeling_qwen3_next.py,
        modeling_kimi_linear.py, modeling_lfm2.py; names as llama.cpp's converter gives them.
    """
    match mixer:
        case Mamba1():
            yield from _mamba1(hidden, mixer)
        case Mamba2():
            yield from _mamba2(hidden, mixer)
        case GatedDelta():
            yield from _gated_delta(hidden, mixer)
        case KimiDelta():
            yield from _kimi_delta(hidden, mixer)
        case ShortConv():
            yield from _short_conv(hidden, mixer)
        case None:
            pass


def _column(name: str, *shape: int) -> TensorGroup:
    return TensorGroup(name, "recurrent", shape, Split.COLUMN)


def _mamba1(hidden: int, m: Mamba1) -> Iterator[TensorGroup]:
    yield _column("ssm_in", 2 * m.inner_dim, hidden)
    yield _column("ssm_conv1d", m.inner_dim, m.conv_kernel)
    if m.conv_bias:
        yield _column("ssm_conv1d.bias", m.inner_dim)
    yield TensorGroup("ssm_x", "recurrent", (m.time_step_rank + 2 * m.state_dim, m.inner_dim), Split.ROW)
    yield _column("ssm_dt", m.inner_dim, m.time_step_rank)
    yield _column("ssm_dt.bias", m.inner_dim)
    yield _column("ssm_a", m.inner_dim, m.state_dim)
    yield _column("ssm_d", m.inner_dim)
    yield TensorGroup("ssm_out", "recurrent", (hidden, m.inner_dim), Split.ROW)
    if m.bias:
        yield _column("ssm_in.bias", 2 * m.inner_dim)
        yield TensorGroup("ssm_out.bias", "recurrent", (hidden,))
    if m.inner_norms:
        yield TensorGroup("ssm_dt_norm.weight", "norm", (m.time_step_rank,))
        yield TensorGroup("ssm_b_norm.weight", "norm", (m.state_dim,))
        yield TensorGroup("ssm_c_norm.weight", "norm", (m.state_dim,))


def _mamba2(hidden: int, m: Mamba2) -> Iterator[TensorGroup]:
    convolved = m.inner_dim + 2 * m.n_groups * m.state_dim
    projected = m.inner_dim + convolved + m.n_heads  # gate, then what is convolved, then the time steps
    yield _column("ssm_in", projected, hidden)
    yield _column("ssm_conv1d", convolved, m.conv_kernel)
    if m.conv_bias:
        yield _column("ssm_conv1d.bias", convolved)
    yield _column("ssm_dt.bias", m.n_heads)
    yield _column("ssm_a", m.n_heads)
    yield _column("ssm_d", m.n_heads)
    if m.norm:
        yield TensorGroup("ssm_norm.weight", "norm", (m.inner_dim,), Split.COLUMN)
    yield TensorGroup("ssm_out", "recurrent", (hidden, m.inner_dim), Split.ROW)
    if m.bias:
        yield _column("ssm_in.bias", projected)
        yield TensorGroup("ssm_out.bias", "recurrent", (hidden,))


def _gated_delta(hidden: int, m: GatedDelta) -> Iterator[TensorGroup]:
    keys, values = m.n_key_heads * m.key_dim, m.n_value_heads * m.value_dim
    yield _column("attn_qkv", 2 * keys + values, hidden)
    yield _column("attn_gate", values, hidden)
    yield _column("ssm_conv1d", 2 * keys + values, m.conv_kernel)
    yield _column("ssm_dt.bias", m.n_value_heads)
    yield _column("ssm_a", m.n_value_heads)
    if m.fused:
        yield _column("ssm_ba", 2 * m.n_value_heads, hidden)
    else:
        yield _column("ssm_beta", m.n_value_heads, hidden)
        yield _column("ssm_alpha", m.n_value_heads, hidden)
    yield TensorGroup("ssm_norm.weight", "norm", (m.value_dim,))
    yield TensorGroup("ssm_out", "recurrent", (hidden, values), Split.ROW)


def _kimi_delta(hidden: int, m: KimiDelta) -> Iterator[TensorGroup]:
    inner = m.n_heads * m.head_dim
    for part in ("q", "k", "v"):
        yield _column(f"attn_{part}", inner, hidden)
        yield _column(f"ssm_conv1d_{part}", inner, m.conv_kernel)
    if m.full_rank_gate:
        yield _column("ssm_g", inner, hidden)
    for gate in ("f",) if m.full_rank_gate else ("f", "g"):
        yield TensorGroup(f"ssm_{gate}_a", "recurrent", (m.head_dim, hidden))
        yield _column(f"ssm_{gate}_b", inner, m.head_dim)
    yield _column("ssm_dt.bias", inner)
    yield _column("ssm_a", m.n_heads)
    yield _column("ssm_beta", m.n_heads, hidden)
    yield TensorGroup("ssm_norm.weight", "norm", (m.head_dim,))
    yield TensorGroup("attn_output", "recurrent", (hidden, inner), Split.ROW)


def _short_conv(hidden: int, m: ShortConv) -> Iterator[TensorGroup]:
    yield _column("shortconv_in", 3 * m.inner_dim, hidden)
    yield _column("shortconv_conv", m.inner_dim, m.conv_kernel)
    yield TensorGroup("shortconv_out", "recurrent", (hidden, m.inner_dim), Split.ROW)
    if m.bias:
        yield _column("shortconv_in.bias", 3 * m.inner_dim)
        yield _column("shortconv_conv.bias", m.inner_dim)
        yield TensorGroup("shortconv_out.bias", "recurrent", (hidden,))
