"""Every tensor of a model, counted rather than enumerated: one group per shape and layer kind.

Names are ggml's, the one vocabulary that covers all families; shapes are [rows = out features, columns = in features].
"""

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from math import prod

from msgspec import Struct

from vramcalc.specs.model import (
    BidirectionalAttention,
    FullAttention,
    GatedMlp,
    GroupedQueryAttention,
    LatentAttention,
    LayerKind,
    Mlp,
    ModelSpec,
    MoeMlp,
    PlainMlp,
    Role,
    SlidingAttention,
)


class Split(StrEnum):
    """How tensor parallelism cuts a tensor."""

    COLUMN = "column"  # out features over the ranks
    ROW = "row"  # in features over the ranks
    KV_HEADS = "kv_heads"  # by KV head, replicated where ranks outnumber heads
    VOCABULARY = "vocabulary"
    REPLICATED = "replicated"


class TensorGroup(Struct, frozen=True):
    """Tensors of one name, shape and role.

    Shape:
        ``copies`` matrices of ``shape`` in each of ``layers`` (the experts of a layer, say); ``layers`` is empty for
        tensors outside the layers.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    split: Split = Split.REPLICATED
    copies: int = 1
    layers: tuple[int, ...] = ()
    is_parameter: bool = True  # False: a buffer, which files carry and counts leave out

    @property
    def n_elements(self) -> int:
        """Elements of all tensors of the group."""
        return prod(self.shape) * self.copies * max(1, len(self.layers))

    @property
    def is_matrix(self) -> bool:
        """Whether quantisers may touch it: vectors stay in floats."""
        return len(self.shape) > 1


def tensor_groups(model: ModelSpec) -> tuple[TensorGroup, ...]:
    """Return the inventory of a model as its checkpoint holds it: embedding, layers by kind, norm and head, extras."""
    layers_of: dict[str, list[int]] = {}
    for index, name in enumerate(model.layers.order()):
        layers_of.setdefault(name, []).append(index)
    groups = [TensorGroup("token_embd", "embedding", (model.vocabulary, model.hidden_dim), Split.VOCABULARY)]
    for name, indices in layers_of.items():
        groups += [_in_layers(group, tuple(indices)) for group in _layer(model, model.layers.kinds[name])]
    if model.final_norm:
        groups += _norm(model, "output_norm")
    if model.head == "separate":
        groups.append(TensorGroup("output", "head", (model.vocabulary, model.hidden_dim), Split.VOCABULARY))
    groups += [TensorGroup(t.name, t.role, t.shape, copies=t.count) for t in model.extra_tensors]
    return tuple(groups)


def n_parameters(model: ModelSpec) -> int:
    """Return the exact number of parameters: towers in, buffers out."""
    return sum(group.n_elements for group in tensor_groups(model) if group.is_parameter)


def n_active_parameters(model: ModelSpec) -> int:
    """Return the parameters one token passes through: all but the experts it is not routed to.

    Embedding and head count in full; publishers differ in whether theirs do.
    """
    idle = 0
    for kind_name, n_layers in Counter(model.layers.order()).items():
        mlp = model.layers.kinds[kind_name].mlp
        if isinstance(mlp, MoeMlp):
            of_experts = sum(g.n_elements for g in _mlp(model.hidden_dim, mlp) if g.role == "experts")
            idle += n_layers * of_experts * (mlp.n_experts - mlp.n_active_experts) // mlp.n_experts
    return n_parameters(model) - idle


def parameters_by_role(model: ModelSpec) -> dict[Role, int]:
    """Return the parameters of each role; they sum to ``n_parameters``."""
    counts: dict[Role, int] = {}
    for group in tensor_groups(model):
        if group.is_parameter:
            counts[group.role] = counts.get(group.role, 0) + group.n_elements
    return counts


def _in_layers(group: TensorGroup, layers: tuple[int, ...]) -> TensorGroup:
    return TensorGroup(
        group.name, group.role, group.shape, group.split, group.copies, layers, is_parameter=group.is_parameter
    )


def _layer(model: ModelSpec, kind: LayerKind) -> Iterator[TensorGroup]:
    match kind.attention:
        case FullAttention() | SlidingAttention() | BidirectionalAttention():
            yield from _grouped_query(model.hidden_dim, kind.attention)
        case LatentAttention():
            yield from _latent(model.hidden_dim, kind.attention)
    yield from _mlp(model.hidden_dim, kind.mlp)
    names = ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm")
    for name in names[: kind.n_norms]:
        yield from _norm(model, name)


def _norm(model: ModelSpec, name: str) -> list[TensorGroup]:
    parts = ("weight",) if model.norm == "rms" else ("weight", "bias")
    return [TensorGroup(f"{name}.{part}", "norm", (model.hidden_dim,)) for part in parts]


def _grouped_query(hidden: int, a: GroupedQueryAttention) -> Iterator[TensorGroup]:
    q, kv = a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim
    if a.fused:
        yield TensorGroup("attn_qkv", "attention", (q + 2 * kv, hidden), Split.KV_HEADS)
    else:
        yield TensorGroup("attn_q", "attention", (q, hidden), Split.COLUMN)
        yield TensorGroup("attn_k", "attention", (kv, hidden), Split.KV_HEADS)
        yield TensorGroup("attn_v", "attention", (kv, hidden), Split.KV_HEADS)
    yield TensorGroup("attn_output", "attention", (hidden, q), Split.ROW)
    if a.qkv_bias:
        yield TensorGroup("attn_q.bias", "attention", (q,), Split.COLUMN)
        yield TensorGroup("attn_k.bias", "attention", (kv,), Split.KV_HEADS)
        yield TensorGroup("attn_v.bias", "attention", (kv,), Split.KV_HEADS)
    if a.output_bias:
        yield TensorGroup("attn_output.bias", "attention", (hidden,))
    if a.qk_norm != "none":
        widths = (q, kv) if a.qk_norm == "whole" else (a.head_dim, a.head_dim)
        yield TensorGroup("attn_q_norm.weight", "norm", (widths[0],))
        yield TensorGroup("attn_k_norm.weight", "norm", (widths[1],))
    if a.sinks:
        yield TensorGroup("attn_sinks.weight", "attention", (a.n_heads,), Split.COLUMN)


def _latent(hidden: int, a: LatentAttention) -> Iterator[TensorGroup]:
    q = a.n_heads * (a.nope_dim + a.rope_dim)
    if a.query_rank is None:
        yield TensorGroup("attn_q", "attention", (q, hidden), Split.COLUMN)
    else:
        yield TensorGroup("attn_q_a", "attention", (a.query_rank, hidden))
        yield TensorGroup("attn_q_a_norm.weight", "norm", (a.query_rank,))
        yield TensorGroup("attn_q_b", "attention", (q, a.query_rank), Split.COLUMN)
    yield TensorGroup("attn_kv_a_mqa", "attention", (a.latent_dim + a.rope_dim, hidden))
    yield TensorGroup("attn_kv_a_norm.weight", "norm", (a.latent_dim,))
    # the checkpoint's kv_b, by head as engines use it: K transposed into the query, V out of the latent
    yield TensorGroup("attn_k_b", "attention", (a.latent_dim, a.nope_dim), Split.COLUMN, copies=a.n_heads)
    yield TensorGroup("attn_v_b", "attention", (a.v_head_dim, a.latent_dim), Split.COLUMN, copies=a.n_heads)
    yield TensorGroup("attn_output", "attention", (hidden, a.n_heads * a.v_head_dim), Split.ROW)


def _mlp(hidden: int, mlp: Mlp) -> Iterator[TensorGroup]:
    match mlp:
        case GatedMlp(ff_dim=ff, bias=bias, fused=fused):
            if fused:
                yield TensorGroup("ffn_up", "mlp", (2 * ff, hidden), Split.COLUMN)
            else:
                yield TensorGroup("ffn_gate", "mlp", (ff, hidden), Split.COLUMN)
                yield TensorGroup("ffn_up", "mlp", (ff, hidden), Split.COLUMN)
            yield TensorGroup("ffn_down", "mlp", (hidden, ff), Split.ROW)
            if bias:
                yield TensorGroup("ffn_gate.bias", "mlp", (ff,), Split.COLUMN)
                yield from _plain_biases(hidden, ff)
        case PlainMlp(ff_dim=ff, bias=bias):
            yield TensorGroup("ffn_up", "mlp", (ff, hidden), Split.COLUMN)
            yield TensorGroup("ffn_down", "mlp", (hidden, ff), Split.ROW)
            if bias:
                yield from _plain_biases(hidden, ff)
        case MoeMlp():
            yield from _experts(hidden, mlp)


def _plain_biases(hidden: int, ff: int) -> Iterator[TensorGroup]:
    yield TensorGroup("ffn_up.bias", "mlp", (ff,), Split.COLUMN)
    yield TensorGroup("ffn_down.bias", "mlp", (hidden,))


def _experts(hidden: int, mlp: MoeMlp) -> Iterator[TensorGroup]:
    n, ff, shared = mlp.n_experts, mlp.ff_dim, mlp.shared_ff_dim
    yield TensorGroup("ffn_gate_inp", "router", (n, hidden))
    if mlp.router_bias != "none":
        yield TensorGroup("ffn_gate_inp.bias", "router", (n,), is_parameter=mlp.router_bias == "parameter")
    yield TensorGroup("ffn_gate_exps", "experts", (ff, hidden), Split.COLUMN, copies=n)
    yield TensorGroup("ffn_up_exps", "experts", (ff, hidden), Split.COLUMN, copies=n)
    yield TensorGroup("ffn_down_exps", "experts", (hidden, ff), Split.ROW, copies=n)
    if mlp.expert_bias:
        yield TensorGroup("ffn_gate_exps.bias", "experts", (ff,), Split.COLUMN, copies=n)
        yield TensorGroup("ffn_up_exps.bias", "experts", (ff,), Split.COLUMN, copies=n)
        yield TensorGroup("ffn_down_exps.bias", "experts", (hidden,), copies=n)
    if shared:
        yield TensorGroup("ffn_gate_shexp", "shared_experts", (shared, hidden), Split.COLUMN)
        yield TensorGroup("ffn_up_shexp", "shared_experts", (shared, hidden), Split.COLUMN)
        yield TensorGroup("ffn_down_shexp", "shared_experts", (hidden, shared), Split.ROW)
