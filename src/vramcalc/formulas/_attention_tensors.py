"""The tensors of each kind of attention."""

from collections.abc import Iterator

from vramcalc.formulas.tensors import Split, TensorGroup
from vramcalc.specs.model import (
    Attention,
    BidirectionalAttention,
    ChunkedAttention,
    CompressedAttention,
    FullAttention,
    GroupedQueryAttention,
    Indexer,
    LatentAttention,
    NoAttention,
    SlidingAttention,
)


def attention_tensors(hidden: int, attention: Attention) -> Iterator[TensorGroup]:
    """Yield what one layer's attention holds."""
    match attention:
        case FullAttention() | SlidingAttention() | ChunkedAttention() | BidirectionalAttention():
            yield from _grouped_query(hidden, attention)
        case LatentAttention():
            yield from _latent(hidden, attention)
        case CompressedAttention():
            yield from _compressed(hidden, attention)
        case NoAttention():
            pass


def _grouped_query(hidden: int, a: GroupedQueryAttention) -> Iterator[TensorGroup]:
    q, k, v = a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim, a.n_kv_heads * a.value_dim
    query = 2 * q if a.output_gate == "in_query" else q
    parts = [("attn_q", query, Split.COLUMN)]
    if not a.shares_cache:
        parts += [("attn_k", k, Split.KV_HEADS)] + [("attn_v", v, Split.KV_HEADS)] * (not a.v_is_k)
    if a.fused:
        yield TensorGroup("attn_qkv", "attention", (query + k + v, hidden), Split.KV_HEADS)
    else:
        yield from (TensorGroup(name, "attention", (rows, hidden), split) for name, rows, split in parts)
    yield TensorGroup("attn_output", "attention", (hidden, a.n_heads * a.value_dim), Split.ROW)
    if a.output_gate in ("per_head", "whole"):
        rows = a.n_heads if a.output_gate == "per_head" else a.n_heads * a.value_dim
        yield TensorGroup("attn_gate", "attention", (rows, hidden), Split.COLUMN)
    if a.qkv_bias:
        yield from (TensorGroup(f"{name}.bias", "attention", (rows,), split) for name, rows, split in parts)
    if a.output_bias:
        yield TensorGroup("attn_output.bias", "attention", (hidden,))
    if a.qk_norm != "none":
        widths = (q, k) if a.qk_norm == "whole" else (a.head_dim, a.head_dim)
        yield TensorGroup("attn_q_norm.weight", "norm", (widths[0],))
        if not a.shares_cache:
            yield TensorGroup("attn_k_norm.weight", "norm", (widths[1],))
    if a.sinks:
        yield TensorGroup("attn_sinks.weight", "attention", (a.n_heads,), Split.COLUMN)
    if a.indexer is not None:
        yield from _indexer(hidden, hidden, a.indexer)


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
    if a.output_gate:
        yield TensorGroup("attn_gate", "attention", (a.n_heads * a.v_head_dim, hidden), Split.COLUMN)
    if a.indexer is not None:
        yield from _indexer(hidden, a.query_rank or hidden, a.indexer)


def _indexer(hidden: int, query_width: int, indexer: Indexer) -> Iterator[TensorGroup]:
    queries = indexer.n_heads * indexer.head_dim
    if indexer.layout == "plain":
        yield TensorGroup("indexer.q_proj", "attention", (queries, query_width))
        yield TensorGroup("indexer.k_proj", "attention", (indexer.head_dim, hidden))
        yield TensorGroup("indexer.q_norm.weight", "norm", (indexer.head_dim,))
        yield TensorGroup("indexer.k_norm.weight", "norm", (indexer.head_dim,))
        return
    yield TensorGroup("indexer.attn_q_b", "attention", (queries, query_width))
    yield TensorGroup("indexer.attn_k", "attention", (indexer.head_dim, hidden))
    yield TensorGroup("indexer.k_norm.weight", "norm", (indexer.head_dim,))
    yield TensorGroup("indexer.k_norm.bias", "norm", (indexer.head_dim,))
    yield TensorGroup("indexer.proj", "attention", (indexer.n_heads, hidden))


def _compressed(hidden: int, a: CompressedAttention) -> Iterator[TensorGroup]:
    q = a.n_heads * a.head_dim
    yield TensorGroup("attn_q_a", "attention", (a.query_rank, hidden))
    yield TensorGroup("attn_q_a_norm.weight", "norm", (a.query_rank,))
    yield TensorGroup("attn_q_b", "attention", (q, a.query_rank), Split.COLUMN)
    yield TensorGroup("attn_kv", "attention", (a.head_dim, hidden))
    yield TensorGroup("attn_kv_a_norm.weight", "norm", (a.head_dim,))
    yield TensorGroup(
        "attn_output_a", "attention", (a.output_rank, q // a.output_groups), Split.COLUMN, copies=a.output_groups
    )
    yield TensorGroup("attn_output_b", "attention", (hidden, a.output_groups * a.output_rank), Split.ROW)
    yield TensorGroup("attn_sinks.weight", "attention", (a.n_heads,), Split.COLUMN)
    if a.ratio is None:
        return
    yield from _compressor("attn_compressor", hidden, a.head_dim, a.ratio, n_series=2 if a.overlaps else 1)
    if a.indexer is not None:
        queries = a.indexer.n_heads * a.indexer.head_dim
        yield TensorGroup("indexer.attn_q_b", "attention", (queries, a.query_rank))
        yield TensorGroup("indexer.proj", "attention", (a.indexer.n_heads, hidden))
        yield from _compressor("indexer_compressor", hidden, a.indexer.head_dim, a.ratio, n_series=2)


def _compressor(name: str, hidden: int, row_dim: int, ratio: int, *, n_series: int) -> Iterator[TensorGroup]:
    yield TensorGroup(f"{name}_kv", "attention", (n_series * row_dim, hidden))
    yield TensorGroup(f"{name}_gate", "attention", (n_series * row_dim, hidden))
    yield TensorGroup(f"{name}_ape", "attention", (ratio, n_series * row_dim))
    yield TensorGroup(f"{name}_norm.weight", "norm", (row_dim,))
