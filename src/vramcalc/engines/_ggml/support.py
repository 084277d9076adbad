"""Which unusual models the compute graph is known for: those whose graph is measured, and none by likeness.

Source: llama.cpp 0c1e570, src/models/mamba.cpp, granite-hybrid.cpp, qwen3next.cpp, qwen35.cpp, qwen35moe.cpp,
gemma4.cpp and llama4.cpp.
"""

from collections.abc import Iterator

from vramcalc.engines._ggml.meter import Meter
from vramcalc.engines._ggml.run import Run
from vramcalc.errors import RefusedError
from vramcalc.specs.model import (
    Attention,
    ChunkedAttention,
    FullAttention,
    GatedDelta,
    GroupedQueryAttention,
    LayerKind,
    Mamba2,
    ModelSpec,
    MoeMlp,
    NoAttention,
    NoMlp,
    SlidingAttention,
)

HANDLES = frozenset(  # of ModelSpec.features(); ``refuse_unknown`` looks closer
    {
        "attention shapes that differ from layer to layer",
        "audio tower",  # in a file of its own
        "chunked attention",
        "dense MLP beside experts",
        "experts without gate",
        "gated attention output",
        "gated shared experts",
        "layers without MLP",
        "layers without attention",
        "per-layer embeddings",
        "recurrent state",
        "shared caches",
        "values that are keys",
    }
)


_LEAST_NODES, _NODES_PER_TENSOR = 1024, 8
_TABLE_SIZES = (1031, 2053, 4099, 8209, 16_411, 32_771, 65_537, 131_101)  # primes after powers of two


def refuse_unknown(model: ModelSpec, engine: str) -> None:
    """Raise ``RefusedError`` where a layer's recurrent part, or what goes with it, has no measured graph."""
    if model.gguf_architecture == "none":
        raise RefusedError(
            f"{model.name} does not run on {engine}: llama.cpp is not known to have its architecture",
            "take --engine vllm; where llama.cpp has it, state gguf_architecture in an entry of your own models.yaml",
        )
    kinds = tuple(model.layers.kinds.values())
    beyond = sorted({reason for kind in kinds for reason in (*_beyond(kind, kinds), *_beyond_sharing(kind, kinds))})
    if model.per_layer_dim is not None and not all(kind.output_scale for kind in kinds):
        beyond.append("per-layer embeddings without a scale on what a layer gives")
    if beyond:
        raise RefusedError(
            f"{model.name} has {' and '.join(beyond)}, which is not modelled for {engine} yet",
            f"`vramcalc explain weights -m {model.id}` answers for its weights",
        )


def _beyond(kind: LayerKind, kinds: tuple[LayerKind, ...]) -> Iterator[str]:
    if kind.n_norms == 0:
        yield "norms without weights"
    yield from _beyond_mixing(kind, is_hybrid=any(other.mixer is not None for other in kinds))
    if isinstance(kind.mlp, NoMlp) and not all(isinstance(other.mlp, NoMlp) for other in kinds) and not _splits(kinds):
        yield "layers without MLP beside others with one"
    yield from _beyond_gates(kind, is_delta=any(isinstance(other.mixer, GatedDelta) for other in kinds))


def _beyond_sharing(kind: LayerKind, kinds: tuple[LayerKind, ...]) -> Iterator[str]:
    """Yield what is known of Gemma 4 or Llama 4 alone: their graphs go together with a scale and with chunks."""
    attention, mlp = kind.attention, kind.mlp
    borrows = isinstance(attention, GroupedQueryAttention) and (attention.v_is_k or attention.shares_cache)
    if borrows and not kind.output_scale:
        yield "keys that are values or shared, without a scale on what a layer gives"
    if len({_with_own_cache(k.attention) for k in kinds if k.attention.kind == attention.kind}) > 1:
        yield f"{attention.kind} attention of several shapes"
    if isinstance(mlp, MoeMlp):
        if (mlp.dense_ff_dim > 0) != mlp.router_scale or (mlp.router_scale and not kind.output_scale):
            yield "a dense MLP beside experts without a scaled router"
        is_chunked = any(isinstance(k.attention, ChunkedAttention) for k in kinds)
        if is_chunked and (mlp.router_bias != "none" or not mlp.gated):
            yield "chunked attention with other experts than Llama 4's"
    if kind.output_scale and not all(k.output_scale for k in kinds):
        yield "a scale on what some layers give"


def _with_own_cache(attention: Attention) -> Attention:
    if not isinstance(attention, GroupedQueryAttention) or not attention.shares_cache:
        return attention
    return attention.model_copy(update={"shares_cache": False})


def _splits(kinds: tuple[LayerKind, ...]) -> bool:
    """Return whether every layer is one part alone: attention, mixer or MLP."""
    parts = (
        (not isinstance(k.attention, NoAttention), k.mixer is not None, not isinstance(k.mlp, NoMlp)) for k in kinds
    )
    return all(sum(present) == 1 for present in parts)


def _beyond_mixing(kind: LayerKind, *, is_hybrid: bool) -> Iterator[str]:
    attention, mixer = kind.attention, kind.mixer
    if mixer is None:
        if isinstance(attention, NoAttention):
            if not is_hybrid or not isinstance(kind.mlp, MoeMlp):
                yield "layers of an MLP alone"
        elif is_hybrid and not isinstance(attention, FullAttention):
            yield f"{attention.kind} attention beside recurrent layers"
    elif not isinstance(attention, NoAttention) and not isinstance(mixer, Mamba2):
        yield f"attention and a {mixer.kind} mixer in one layer"
    elif not isinstance(mixer, Mamba2 | GatedDelta):
        yield f"{mixer.kind} layers"
    elif isinstance(mixer, Mamba2) and (mixer.bias or not mixer.conv_bias):
        yield "mamba2 layers with a bias of their own"


def _beyond_gates(kind: LayerKind, *, is_delta: bool) -> Iterator[str]:
    attention, mlp = kind.attention, kind.mlp
    if isinstance(mlp, MoeMlp) and mlp.shared_gate and not is_delta:
        yield "gated shared experts without gated delta nets"
    if isinstance(attention, FullAttention | SlidingAttention):
        expected = "in_query" if is_delta else "none"
        if attention.output_gate not in ("none", expected):
            yield "gated attention output without gated delta nets"
        elif attention.output_gate != expected:
            yield "attention without an output gate beside gated delta nets"


def check_graph(meter: Meter, run: Run) -> None:
    """Raise ``RefusedError`` where the graph outgrows the scheduler's table, at which the engine aborts.

    Source: llama.cpp 0c1e570, src/llama-context.cpp (graph_max_nodes) and ggml/src/ggml.c (ggml_hash_size).
    """
    is_quantised = run.k_format.block_elements > 1 and run.v_format.block_elements > 1
    if not is_quantised or run.n_streams == 1 or any(isinstance(kind.mixer, GatedDelta) for kind in meter.order):
        return
    wanted = max(_LEAST_NODES, _NODES_PER_TENSOR * meter.weights.n_tensors)
    if meter.count_nodes(run) > next(size for size in _TABLE_SIZES if size >= wanted):
        raise RefusedError(
            f"llama.cpp aborts: {meter.model.name} with a quantised cache in {run.n_streams} streams needs a larger "
            f"graph than it makes room for",
            "keep the cache in f16, or take one pool for all slots: --kv-unified",
        )
