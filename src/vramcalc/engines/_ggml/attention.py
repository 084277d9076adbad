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
    q, *own = _qkv(builder, x, a)
    wide = q.root if a.output_gate == "in_query" else None
    if a.qk_norm == "per_head":
        q = builder.norm(q, "attn_q_norm")
        own[:1] = [builder.norm(k, "attn_k_norm") for k in own[:1]]
    if builder.traits.norms_values:
        own[1:] = [like("rms_norm", v) for v in own[1:]]
    q, *own[:1] = _by_position(builder, a, positions, cache, (q, *own[:1]))
    if cache.k_rotation is not None:
        q, *own[:1] = (_rotated(tensor, cache.k_rotation) for tensor in (q, *own[:1]))
    if cache.v_rotation is not None:
        own[1:] = [_rotated(v, cache.v_rotation) for v in own[1:]]
    values_first = isinstance(a, FullAttention) and not cache.beside_windows
    for tensor in (q, *(own[::-1] if values_first else own)):
        builder.graph.expand(tensor)
    sinks = builder.current.weight("attn_sinks.weight") if a.sinks else None
    cached = (permute(own[0]), permute(own[1])) if cache.k_ids is None else _cached(builder, a, own, cache)
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


def _by_position(
    builder: Builder, a: GroupedQueryAttention, positions: Tensor, cache: LayerCache, tensors: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Return queries and keys turned by their position; where a kind of layer turns none, its queries may be scaled."""
    turns, factored = builder.traits.turns, builder.traits.factors
    if isinstance(a, BidirectionalAttention):
        return tensors
    if turns is not None and a.kind not in turns:
        return tensors if cache.q_scale is None else (like("mul", tensors[0], cache.q_scale), *tensors[1:])
    factors = builder.rope_factors() if factored is None or a.kind in factored else []
    turned = tuple(like("rope", tensor, positions, *factors) for tensor in tensors)
    return tuple(like("rms_norm", tensor) for tensor in turned) if builder.traits.norms_turned else turned


def _qkv(builder: Builder, x: Tensor, a: GroupedQueryAttention) -> tuple[Tensor, ...]:
    """Return queries, and keys and values unless the layer reads those of an earlier one."""
    n = builder.batch.n_tokens
    if a.shares_cache:
        return (reshape(builder.project("attn_q", x), a.head_dim, a.n_heads, n),)
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
        q, k = (builder.project(f"attn_{part}", x) for part in "qk")
        v = k if a.v_is_k else builder.project("attn_v", x)
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


def _cached(builder: Builder, a: GroupedQueryAttention, own: list[Tensor], cache: LayerCache) -> tuple[Tensor, Tensor]:
    """Write K and V, if the layer has its own, and return all that is cached; without flash attention V transposed."""
    batch = builder.batch
    head_dim, n_kv_heads = a.head_dim, a.n_kv_heads
    width = head_dim * n_kv_heads
    k_rows = _cache_leaf(builder, width, cache, batch.k_format)
    v_rows = _cache_leaf(builder, width if batch.v_by_row else builder.traits.value_width, cache, batch.v_format)
    if own:
        _store(builder, k_rows, own[0], cache.k_ids)
        store_values = _store if batch.v_by_row else _store_transposed
        store_values(builder, v_rows, own[1], cache.v_ids)
    if batch.v_by_row:
        values = view(v_rows, (head_dim, n_kv_heads, cache.cells, batch.n_streams))
    else:
        stream = batch.v_format.bytes_for(cache.cells * v_rows.ne[0]) if batch.n_streams > 1 else 0
        values = view(v_rows, (cache.cells, n_kv_heads, head_dim, batch.n_streams), stride=stream)
    keys = view(k_rows, (head_dim, n_kv_heads, cache.cells, batch.n_streams))
    return permute(keys), permute(values)


def _store_transposed(builder: Builder, rows: Tensor, v: Tensor, ids: Tensor | None) -> None:
    assert ids is not None  # noqa: S101 - a cache has its row numbers
    width = v.ne[0] * v.ne[1]
    v = reshape(v, width, v.ne[2]) if v.contiguous else cont(v, width, v.ne[2])
    if width < rows.ne[0]:
        v = Tensor("pad", F32, (rows.ne[0], v.ne[1], 1, 1), (v,))
    elements = v.ne[0] * v.ne[1]
    builder.graph.expand(set_rows(reshape(rows, 1, elements), reshape(v, 1, elements), ids))


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
    if cache.v_ids is None or builder.batch.v_by_row:  # turned first
        a, b, c, d = values.ne
        turned = view(values, (b, a, c, d), op="permute")
        turned.n_bytes = values.n_bytes
        values = cont(turned)
    cur = mul_mat(values, weights)
    if decompress is not None:
        cur = mul_mat(decompress, cur)
    cur = permute(cur)
    return cont(cur, cur.ne[0] * cur.ne[1], cur.ne[2] * cur.ne[3])
