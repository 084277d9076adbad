"""The compute graph llama.cpp builds for one batch, from the shapes and kinds of layers alone.

Only what shapes memory is here: operations that always write over their source (scales, soft caps) are left out.

Source:
    llama.cpp 0c1e570, src/llama-graph.cpp and src/models/.
"""

from collections.abc import Sequence

from vramcalc.engines._ggml import per_layer
from vramcalc.engines._ggml.attention import grouped_query, latent
from vramcalc.engines._ggml.builder import Batch, Builder, Ends, LayerCache, PlacedLayer, Traits
from vramcalc.engines._ggml.feed_forward import dense_beside_experts, feed_forward
from vramcalc.engines._ggml.recurrent import gated_delta, mamba2
from vramcalc.engines._ggml.tensor import (
    CPU,
    I64,
    Graph,
    Tensor,
    get_rows,
    graph_input,
    leaf,
    like,
    mul_mat,
    shape,
    view,
)
from vramcalc.specs.formats import F16, F32
from vramcalc.specs.model import (
    Attention,
    BidirectionalAttention,
    ChunkedAttention,
    CompressedAttention,
    FullAttention,
    GatedDelta,
    GatedMlp,
    GroupedQueryAttention,
    KimiDelta,
    LatentAttention,
    LayerKind,
    Mamba1,
    Mamba2,
    MoeMlp,
    NoAttention,
    NoMlp,
    ShortConv,
    SlidingAttention,
)

_LEAST_ROTATION = 64
_WINDOWED = (SlidingAttention, ChunkedAttention)


def build(layers: Sequence[PlacedLayer], batch: Batch, ends: Ends) -> Graph:
    """Return the graph of the whole model."""
    builder = Builder(batch, ends)
    graph = builder.graph
    x = _embedding(builder)
    positions = graph_input((batch.n_tokens * _positions_per_token(layers[0].kind), 1, 1, 1))
    if "token_embd_norm.weight" in layers[0].weights or any(w.name == "position_embd" for w in ends.entrance):
        x = _encoder_entrance(builder, layers[0], x, positions)
    caches: dict[str, LayerCache] = {}
    out_ids = graph_input((batch.n_outputs, 1, 1, 1))
    kinds = [layer.kind for layer in layers]
    builder.traits = traits_of(kinds)
    picks_last = _picks_rows_after_norm(kinds)
    builder.layer = layers[0]
    if builder.traits.scales_embedding:
        x = like("scale", x)
    of_layers = per_layer.inputs(builder, x)
    for index, layer in enumerate(layers):
        builder.layer = layer
        kind = layer.kind.attention.kind
        if kind not in caches and kind != "none":
            caches[kind] = _cache(builder, layer.kind.attention)
            caches[kind].beside_windows = any(isinstance(k.attention, _WINDOWED) for k in kinds)
        is_last = index == len(layers) - 1
        x = _layer(builder, x, positions, caches.get(kind), out_ids if is_last and not picks_last else None)
        if of_layers is not None:
            x = per_layer.add_embedding(builder, x, of_layers)
        if "layer_output_scale.weight" in layer.weights:
            x = like("mul", x, layer.weight("layer_output_scale.weight"))
    if _picks_rows_late(layers[-1].kind):
        x.kept = True
        x = get_rows(x, out_ids)
    graph.expand(_output(ends, x, out_ids if picks_last else None))
    return graph


def traits_of(kinds: Sequence[LayerKind]) -> Traits:
    """Return what the layers have in common."""
    beside = frozenset(kind.attention.kind for kind in kinds)
    grouped = [k.attention for k in kinds if isinstance(k.attention, GroupedQueryAttention)]
    turns = frozenset[str]() if alternates(kinds) else frozenset({"chunked"}) if "chunked" in beside else None
    return Traits(
        turns=turns,
        factors=frozenset({"full"}) if "sliding" in beside else None,
        norms_values=any(kind.output_scale for kind in kinds),
        scales_embedding=any(kind.output_scale for kind in kinds),
        head_first=any(kind.output_scale for kind in kinds),
        norms_turned="chunked" in beside,
        weighs_inputs="chunked" in beside,
        value_width=max((a.n_kv_heads * a.value_dim for a in grouped), default=0),
    )


def _picks_rows_after_norm(kinds: Sequence[LayerKind]) -> bool:
    """Return whether the wanted rows are picked after the last norm, where layers may follow that draft tokens."""
    is_delta = any(isinstance(kind.mixer, GatedDelta) for kind in kinds)
    return is_delta or alternates(kinds) or any(kind.output_scale for kind in kinds)


def alternates(kinds: Sequence[LayerKind]) -> bool:
    """Return whether attention, mixer and MLP are layers of their own, as in Nemotron-H: it turns no query or key."""
    has_mlp_alone = any(isinstance(kind.attention, NoAttention) and kind.mixer is None for kind in kinds)
    return has_mlp_alone and any(kind.mixer is not None for kind in kinds)


def _output(ends: Ends, x: Tensor, out_ids: Tensor | None) -> Tensor:
    """Return the logits; ``out_ids`` where rows are picked only after the last norm."""
    for w in ends.output:
        weight = leaf("weight", shape(*w.shape[::-1]), ends.output_home, n_bytes=w.device_bytes)
        if w.name == "output_norm.weight":
            x = like("mul", like("rms_norm", x), weight)
        elif w.name == "output_norm.bias":
            x = like("add", x, weight)
    if out_ids is not None:
        x.kept = True  # read by the layers that predict the tokens after the next, whether or not they are there
        x = get_rows(x, out_ids)
    x.kept = True  # the embedding is an output beside the logits
    for w in ends.output:
        if w.name == "output":
            x = mul_mat(leaf("weight", shape(*w.shape[::-1]), ends.output_home, n_bytes=w.device_bytes), x)
    return x


def _picks_rows_late(kind: LayerKind) -> bool:
    """Return whether the wanted rows are picked after the last layer: gpt-oss, known by its attention sinks."""
    return isinstance(kind.attention, FullAttention | SlidingAttention) and kind.attention.sinks


def _embedding(builder: Builder) -> Tensor:
    n, hidden = builder.batch.n_tokens, builder.ends.hidden_dim
    w = next(w for w in builder.ends.entrance if w.name == "token_embd")
    tokens = graph_input((n, 1, 1, 1))
    x = builder.graph.expand(get_rows(leaf("weight", shape(*w.shape[::-1]), CPU, n_bytes=w.device_bytes), tokens))
    builder.graph.expand(graph_input((hidden, n, 1, 1), F32))  # embeddings given instead of tokens
    return x


def _encoder_entrance(builder: Builder, first: PlacedLayer, x: Tensor, positions: Tensor) -> Tensor:
    hidden = builder.ends.hidden_dim
    by_name = {w.name: w for w in builder.ends.entrance}
    if "token_types" in by_name:
        types = leaf("weight", (hidden, 1, 1, 1), CPU)
        x = like("add", x, view(types, (hidden, 1, 1, 1), contiguous=True))
    if "position_embd" in by_name:
        w = by_name["position_embd"]
        table = leaf("weight", shape(*w.shape[::-1]), CPU, n_bytes=w.device_bytes)
        x = like("add", get_rows(table, positions), x)
    builder.layer = first
    return builder.norm(x, "token_embd_norm") if "token_embd_norm.weight" in first.weights else x


def _cache(builder: Builder, attention: Attention) -> LayerCache:
    batch, n = builder.batch, builder.batch.n_tokens
    mask_format = F16 if batch.flash_attention else F32
    if isinstance(attention, BidirectionalAttention):
        return LayerCache(n, graph_input((n, n, 1, 1), mask_format))
    cells = batch.sliding_cells if isinstance(attention, _WINDOWED) else batch.cells
    mask = graph_input((cells, n // batch.n_streams, 1, batch.n_streams), mask_format)
    cache = LayerCache(cells, mask, graph_input((n, 1, 1, 1), I64))
    if not isinstance(attention, GroupedQueryAttention):
        return cache
    cache.v_ids = graph_input((n if batch.v_by_row else n * builder.traits.value_width, 1, 1, 1), I64)
    if builder.traits.norms_turned and attention.kind not in (builder.traits.turns or ()):
        cache.q_scale = graph_input((1, 1, n, 1), F32)
    if batch.k_format.block_elements > 1 and attention.head_dim % _LEAST_ROTATION == 0:
        size = _rotation(attention.head_dim)
        cache.k_rotation = graph_input((size, size, 1, 1), F32)
    if batch.v_format.block_elements > 1 and attention.head_dim % _LEAST_ROTATION == 0:
        cache.v_rotation = graph_input((_LEAST_ROTATION, _LEAST_ROTATION, 1, 1), F32)
    return cache


def _rotation(head_dim: int) -> int:
    """Return the largest power of two from 64 on that divides a head."""
    size = _LEAST_ROTATION
    while head_dim % (2 * size) == 0:
        size *= 2
    return size


def _positions_per_token(first: LayerKind) -> int:
    """Return the positions given per token: four where text and images share a rope, as in Qwen 3.5."""
    return 4 if isinstance(first.mixer, GatedDelta) and not first.mixer.fused else 1


def _layer(builder: Builder, x: Tensor, positions: Tensor, cache: LayerCache | None, out_ids: Tensor | None) -> Tensor:
    kind, weights = builder.current.kind, builder.current.weights
    is_encoder = isinstance(kind.attention, BidirectionalAttention)
    if kind.mixer is not None and not isinstance(kind.attention, NoAttention):
        return _side_by_side(builder, x, positions, cache, out_ids)
    normed = x if is_encoder else builder.norm(x, "attn_norm")
    cur = _mix(builder, normed, positions, cache)
    if out_ids is not None and not _picks_rows_late(kind):
        cur, x = get_rows(cur, out_ids), get_rows(x, out_ids)
    if is_encoder:
        cur = builder.norm(like("add", cur, x), "attn_norm")
        return builder.norm(like("add", feed_forward(builder, cur), cur), "ffn_norm")
    if isinstance(kind.mlp, NoMlp) or (kind.mixer is None and isinstance(kind.attention, NoAttention)):
        return like("add", cur, x)
    if "ffn_norm.weight" not in weights:  # attention and MLP side by side behind one norm
        normed = normed if out_ids is None else get_rows(normed, out_ids)
        return like("add", like("add", cur, feed_forward(builder, normed)), x)
    if "post_attention_norm.weight" in weights:
        cur = builder.norm(cur, "post_attention_norm")
    middle = like("add", cur, x)
    if isinstance(kind.mlp, MoeMlp) and kind.mlp.dense_ff_dim:
        cur = dense_beside_experts(builder, middle, kind.mlp)
    else:
        cur = feed_forward(builder, builder.norm(middle, "ffn_norm"))
    if "post_ffw_norm.weight" in weights:
        cur = builder.norm(cur, "post_ffw_norm")
    elif isinstance(kind.mlp, GatedMlp) and kind.mlp.fused:  # Phi-3 adds them the other way round
        return like("add", middle, cur)
    return like("add", cur, middle)


def _side_by_side(
    builder: Builder, x: Tensor, positions: Tensor, cache: LayerCache | None, out_ids: Tensor | None
) -> Tensor:
    """Return a layer of Falcon-H1: attention and a recurrent mixer on the same input, each behind the norm."""
    assert cache is not None  # noqa: S101 - every attention has one
    attended = _attention(builder, builder.norm(x, "attn_norm"), positions, cache)
    mixed = _mix(builder, builder.norm(x, "attn_norm"), positions, cache)
    middle = like("add", like("add", attended, mixed), x)
    if out_ids is not None:
        middle = get_rows(middle, out_ids)
    return like("add", feed_forward(builder, builder.norm(middle, "ffn_norm")), middle)


def _mix(builder: Builder, x: Tensor, positions: Tensor, cache: LayerCache | None) -> Tensor:
    """Return what tokens learn of each other: by attention, or by a recurrent mixer in its place."""
    match builder.current.kind.mixer:
        case Mamba2() as mixer:
            return mamba2(builder, x, mixer)
        case GatedDelta() as mixer:
            return gated_delta(builder, x, mixer)
        case Mamba1() | KimiDelta() | ShortConv() as mixer:
            raise TypeError(f"no graph for {mixer.kind}")  # HANDLES keeps such models out
        case None if isinstance(builder.current.kind.attention, NoAttention):
            return feed_forward(builder, x)  # a layer that is an MLP alone
        case None:
            assert cache is not None  # noqa: S101 - every attention has one
            return _attention(builder, x, positions, cache)


def _attention(builder: Builder, x: Tensor, positions: Tensor, cache: LayerCache) -> Tensor:
    match builder.current.kind.attention:
        case FullAttention() | SlidingAttention() | ChunkedAttention() | BidirectionalAttention() as attention:
            return grouped_query(builder, x, attention, positions, cache)
        case LatentAttention() as attention:
            return latent(builder, x, attention, positions, cache)
        case CompressedAttention() | NoAttention() as attention:
            raise TypeError(f"no graph for {attention.kind} attention")  # HANDLES keeps such models out
