"""The attention part of a layer's compute graph.

Source:
    llama.cpp 0c1e570, src/llama-graph.cpp (build_qkv, build_attn, build_attn_mha) and src/models/deepseek2.cpp.
"""

from vramcalc.engines._ggml.builder import Builder, LayerCache
from vramcalc.engines._ggml.tensor import (
    Tensor,
    concat,
    cont,
    flash_attention,
    leaf,
    like,
    mul_mat,
    permute,
    reshape,
    set_rows,
    view,
)
from vramcalc.specs.formats import F16, F32, BlockFormat
from vramcalc.specs.model import BidirectionalAttention, FullAttention, GroupedQueryAttention, LatentAttention

_FLOAT_BYTES = 4


def grouped_query(
    builder: Builder, x: Tensor, a: GroupedQueryAttention, positions: Tensor, cache: LayerCache
) -> Tensor:
    """Return the output of an attention with separate K and V heads."""
    q, k, v = _qkv(builder, x, a)
    wide = q.root if a.output_gate == "in_query" else None
    if a.qk_norm == "per_head":
        q, k = builder.norm(q, "attn_q_norm"), builder.norm(k, "attn_k_norm")
    if builder.turns and not isinstance(a, BidirectionalAttention):
        factors = builder.rope_factors()
        q, k = like("rope", q, positions, *factors), like("rope", k, positions, *factors)
    if cache.k_rotation is not None:
        q, k = _rotated(q, cache.k_rotation), _rotated(k, cache.k_rotation)
    if cache.v_rotation is not None:
        v = _rotated(v, cache.v_rotation)
    for tensor in (q, v, k) if isinstance(a, FullAttention) and not cache.beside_sliding else (q, k, v):
        builder.graph.expand(tensor)
    sinks = builder.current.weight("attn_sinks.weight") if a.sinks else None
    cached = (permute(k), permute(v)) if cache.k_ids is None else _cached(builder, k, v, cache)
    cur = _attend(builder, q, cached, cache, sinks)
    cur = reshape(cur, a.n_heads * a.head_dim, builder.batch.n_tokens)
    builder.graph.expand(cur)
    if cache.v_rotation is not None:
        cur = _rotated(cur, cache.v_rotation)
    if wide is not None:
        gate = cont(view(wide, q.ne, stride=wide.ne[0] * _FLOAT_BYTES), a.n_heads * a.head_dim, builder.batch.n_tokens)
        cur = like("mul", cur, like("unary", gate))
    return builder.project("attn_output", cur)


def latent(builder: Builder, x: Tensor, a: LatentAttention, positions: Tensor, cache: LayerCache) -> Tensor:
    """Return the output of MLA in its absorbed form: all heads attend to one compressed row per token."""
    n, layer = builder.batch.n_tokens, builder.current
    if a.query_rank is None:
        q = mul_mat(layer.weight("attn_q"), x)
    else:
        q = builder.norm(mul_mat(layer.weight("attn_q_a"), x), "attn_q_a_norm")
        q = mul_mat(layer.weight("attn_q_b"), q)
    head = a.nope_dim + a.rope_dim
    q = reshape(q, head, a.n_heads, n)
    compressed = mul_mat(layer.weight("attn_kv_a_mqa"), x)
    row = (a.latent_dim + a.rope_dim) * _FLOAT_BYTES
    k_rope = like("rope", view(compressed, (a.rope_dim, 1, n, 1), stride=row), positions)
    k_latent = builder.norm(view(compressed, (a.latent_dim, n, 1, 1), stride=row), "attn_kv_a_norm")
    stride = a.n_heads * head * _FLOAT_BYTES
    q_rope = like("rope", view(q, (a.rope_dim, a.n_heads, n, 1), stride=stride), positions)
    absorbed = mul_mat(layer.weight("attn_k_b"), permute(view(q, (a.nope_dim, a.n_heads, n, 1), stride=stride)))
    query = concat(permute(absorbed), q_rope)
    k_latent = reshape(k_latent, a.latent_dim, 1, n)
    key = concat(k_latent, k_rope)
    for tensor in (query, k_latent, key):
        builder.graph.expand(tensor)
    rows = _cache_leaf(builder, a.latent_dim + a.rope_dim, cache, builder.batch.k_format)
    _store(builder, rows, key, cache.k_ids)
    keys = view(rows, (a.latent_dim + a.rope_dim, 1, cache.cells, builder.batch.n_streams))
    values = view(keys, (a.latent_dim, *keys.ne[1:]))
    values.n_bytes = keys.n_bytes - keys.fmt.bytes_for(a.rope_dim)
    cur = _attend(builder, query, (permute(keys), permute(values)), cache, layer.weight("attn_v_b"))
    cur = reshape(cur, a.n_heads * a.v_head_dim, n)
    builder.graph.expand(cur)
    return builder.project("attn_output", cur)


def _qkv(builder: Builder, x: Tensor, a: GroupedQueryAttention) -> tuple[Tensor, Tensor, Tensor]:
    n = builder.batch.n_tokens
    heads = {"q": a.n_heads, "k": a.n_kv_heads, "v": a.n_kv_heads}
    if a.fused:
        fused = builder.project("attn_qkv", x)
        stride = fused.ne[0] * _FLOAT_BYTES
        q, k, v = (view(fused, (a.head_dim, h, n, 1), stride=stride) for h in heads.values())
    elif a.qk_norm == "whole":
        flat = {part: builder.project(f"attn_{part}", x) for part in heads}
        flat |= {part: builder.norm(flat[part], f"attn_{part}_norm") for part in ("q", "k")}
        q, k, v = (reshape(flat[part], a.head_dim, h, n) for part, h in heads.items())
    else:
        q, k, v = (builder.project(f"attn_{part}", x) for part in heads)
        if a.output_gate == "in_query":  # each head's query, then its gate
            q = view(q, (a.head_dim, a.n_heads, n, 1), stride=q.ne[0] * _FLOAT_BYTES)
        else:
            q = reshape(q, a.head_dim, a.n_heads, n)
        k, v = (reshape(part, a.head_dim, a.n_kv_heads, n) for part in (k, v))
    return q, k, v


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Return the rows turned by a Hadamard matrix, which spreads outliers before the cache is quantised."""
    size = rotation.ne[0]
    n_rows = x.ne[0] * x.ne[1] * x.ne[2] * x.ne[3] // size
    flat = reshape(x, size, n_rows) if x.contiguous else cont(x, size, n_rows)
    return reshape(mul_mat(rotation, flat), *x.ne)


def _cache_leaf(builder: Builder, width: int, cache: LayerCache, fmt: BlockFormat) -> Tensor:
    return leaf("cache", (width, cache.cells, builder.batch.n_streams, 1), builder.current.cache_home, fmt=fmt)


def _store(builder: Builder, rows: Tensor, new: Tensor, ids: Tensor | None) -> None:
    assert ids is not None  # noqa: S101 - a cache has its row numbers
    stride = 0 if new.contiguous else _row_stride(new)
    flat = view(new, (new.ne[0] * new.ne[1], new.ne[2], 1, 1), contiguous=new.contiguous, stride=stride)
    builder.graph.expand(set_rows(rows, flat, ids))


def _row_stride(x: Tensor) -> int:
    """Return the bytes between the rows of a view into a fused matrix."""
    root = x.root
    return root.ne[0] * _FLOAT_BYTES if root is not None else 0


def _cached(builder: Builder, k: Tensor, v: Tensor, cache: LayerCache) -> tuple[Tensor, Tensor]:
    """Write K and V to the cache and return all of it; without flash attention V lies transposed."""
    batch = builder.batch
    head_dim, n_kv_heads = k.ne[0], k.ne[1]
    k_rows = _cache_leaf(builder, head_dim * n_kv_heads, cache, batch.k_format)
    v_rows = _cache_leaf(builder, head_dim * n_kv_heads, cache, batch.v_format)
    _store(builder, k_rows, k, cache.k_ids)
    if not batch.flash_attention:
        v = cont(v, head_dim * n_kv_heads, v.ne[2]) if not v.contiguous else v
        elements = v.ne[0] * v.ne[1] * v.ne[2]
        v = reshape(v, 1, elements, 1)
        assert cache.v_ids is not None  # noqa: S101 - a cache has its row numbers
        builder.graph.expand(set_rows(reshape(v_rows, 1, elements), v, cache.v_ids))
        values = view(v_rows, (cache.cells, n_kv_heads, head_dim, batch.n_streams))
    else:
        _store(builder, v_rows, v, cache.v_ids)
        values = view(v_rows, (head_dim, n_kv_heads, cache.cells, batch.n_streams))
    keys = view(k_rows, (head_dim, n_kv_heads, cache.cells, batch.n_streams))
    return permute(keys), permute(values)


def _attend(
    builder: Builder, q: Tensor, cached: tuple[Tensor, Tensor], cache: LayerCache, extra: Tensor | None = None
) -> Tensor:
    """Return attention over what is cached; ``extra`` are the sinks, or MLA's matrix from latent rows to values."""
    keys, values = cached
    decompress = extra if isinstance(builder.current.kind.attention, LatentAttention) else None
    sinks = () if extra is None or decompress is not None else (extra,)
    n_streams = keys.ne[3]
    q = permute(view(q, (q.ne[0], q.ne[1], q.ne[2] // n_streams, n_streams)))
    if builder.batch.flash_attention:
        if keys.fmt is F32:  # no cache: what the batch itself holds
            keys, values = cont(keys, fmt=F16), cont(values, fmt=F16)
        cur = flash_attention(q, keys, values, cache.mask, *sinks)
        if decompress is not None:
            cur = cont(permute(mul_mat(decompress, permute(cur))))
        return cur
    weights = like("soft_max", mul_mat(keys, q), cache.mask, *sinks)
    if cache.v_ids is None:  # V lies row by row: turned first
        a, b, c, d = values.ne
        turned = view(values, (b, a, c, d), op="permute")
        turned.n_bytes = values.n_bytes
        values = cont(turned)
    cur = mul_mat(values, weights)
    if decompress is not None:
        cur = mul_mat(decompress, cur)
    cur = permute(cur)
    return cont(cur, cur.ne[0] * cur.ne[1], cur.ne[2] * cur.ne[3])
