"""The tensors of each kind of MLP."""

from collections.abc import Iterator

from msgspec.structs import replace

from vramcalc.formulas.tensors import Split, TensorGroup
from vramcalc.specs.model import GatedMlp, Mlp, MoeMlp, NoMlp, PlainMlp, Role


def mlp_tensors(hidden: int, mlp: Mlp) -> Iterator[TensorGroup]:
    """Yield what one layer's MLP holds."""
    match mlp:
        case GatedMlp(ff_dim=ff, bias=bias, fused=fused):
            yield from _matrices(_up(ff, hidden), gated=not fused, fused=fused)
            if bias:
                yield TensorGroup("ffn_gate.bias", "mlp", (ff,), Split.COLUMN)
                yield from _plain_biases(hidden, ff)
        case PlainMlp(ff_dim=ff, bias=bias):
            yield from _matrices(_up(ff, hidden), gated=False)
            if bias:
                yield from _plain_biases(hidden, ff)
        case MoeMlp():
            yield from _experts(hidden, mlp)
        case NoMlp():
            pass


def _plain_biases(hidden: int, ff: int) -> Iterator[TensorGroup]:
    yield TensorGroup("ffn_up.bias", "mlp", (ff,), Split.COLUMN)
    yield TensorGroup("ffn_down.bias", "mlp", (hidden,))


def _matrices(up: TensorGroup, *, gated: bool, fused: bool = False) -> Iterator[TensorGroup]:
    """Yield the matrices around ``up``, the up matrix: gate, up, down."""
    ff, hidden = up.shape
    if gated:
        yield replace(up, name=up.name.replace("up", "gate"))
    yield replace(up, shape=(2 * ff, hidden)) if fused else up
    yield replace(up, name=up.name.replace("up", "down"), shape=(hidden, ff), split=Split.ROW)


def _up(ff: int, hidden: int, suffix: str = "", role: Role = "mlp", copies: int = 1) -> TensorGroup:
    return TensorGroup(f"ffn_up{suffix}", role, (ff, hidden), Split.COLUMN, copies)


def _experts(hidden: int, mlp: MoeMlp) -> Iterator[TensorGroup]:
    n, ff, width = mlp.n_experts, mlp.ff_dim, mlp.latent_dim or hidden
    yield TensorGroup("ffn_gate_inp", "router", (n, hidden))
    if mlp.router_bias != "none":
        yield TensorGroup("ffn_gate_inp.bias", "router", (n,), is_parameter=mlp.router_bias == "parameter")
    if mlp.hashed_tokens is not None:
        table = (mlp.hashed_tokens, mlp.n_active_experts)
        yield TensorGroup("ffn_gate_tid2eid", "router", table, is_parameter=False)
    if mlp.router_scale:
        yield TensorGroup("ffn_gate_inp.scale", "router", (hidden,))
        yield TensorGroup("ffn_down_exps.scale", "router", (n,))
    yield from _narrower_stream(hidden, mlp)
    yield from _matrices(_up(ff, width, "_exps", "experts", n), gated=mlp.gated)
    if mlp.expert_bias:
        if mlp.gated:
            yield TensorGroup("ffn_gate_exps.bias", "experts", (ff,), Split.COLUMN, copies=n)
        yield TensorGroup("ffn_up_exps.bias", "experts", (ff,), Split.COLUMN, copies=n)
        yield TensorGroup("ffn_down_exps.bias", "experts", (width,), copies=n)
    if mlp.shared_ff_dim:
        yield from _matrices(_up(mlp.shared_ff_dim, hidden, "_shexp", "shared_experts"), gated=mlp.gated)
        if mlp.shared_gate:
            yield TensorGroup("ffn_gate_inp_shexp", "shared_experts", (hidden,))
    if mlp.dense_ff_dim:
        yield from _matrices(_up(mlp.dense_ff_dim, hidden), gated=True)


def _narrower_stream(hidden: int, mlp: MoeMlp) -> Iterator[TensorGroup]:
    if mlp.latent_dim is None:
        return
    yield TensorGroup("ffn_latent_down", "mlp", (mlp.latent_dim, hidden))
    yield TensorGroup("ffn_latent_up", "mlp", (hidden, mlp.latent_dim))
    if mlp.latent_norm:
        yield TensorGroup("ffn_latent_norm.weight", "norm", (mlp.latent_dim,))
