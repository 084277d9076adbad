"""What a forward pass reads and computes, layer by layer: weights by name, rows of the cache, states.

Bytes follow the inventory in its storage formats, so that speed and memory count the same tensors.
"""

from collections.abc import Iterator
from math import prod

from msgspec import Struct

from vramcalc.formulas.inventory import TensorGroup, tensor_groups
from vramcalc.formulas.kv_cache import cached_row_elements, compressed_rows, state_elements, window_of
from vramcalc.formulas.recipes import gguf_tensors
from vramcalc.formulas.weights import checkpoint_storage
from vramcalc.specs.formats import BlockFormat
from vramcalc.specs.model import LayerKind, ModelSpec, MoeMlp, NoAttention

_STATE_BYTES = 4  # recurrent states are kept in f32
_NEVER_READ = frozenset({"vision", "projector"})  # by a text token
_INPUTS = frozenset({"token_embd", "per_layer_token_embd"})  # a token looks up one row


class Matrix(Struct, frozen=True):
    """Tensors of one name in one layer, or outside the layers."""

    name: str
    n_bytes: int
    n_elements: int
    is_routed: bool  # experts: a token passes through some of them


class LayerTraffic(Struct, frozen=True):
    """One layer's weights, and what it keeps of the past."""

    kind: LayerKind
    matrices: tuple[Matrix, ...]


class Traffic(Struct, frozen=True):
    """A model in one weight format; equal layers are one object, ``head`` turns the last layer's output into logits."""

    layers: tuple[LayerTraffic, ...]
    head: tuple[Matrix, ...]


def traffic_of(model: ModelSpec, weight_format: str) -> Traffic:
    """Return the weights of every layer and of the head as the format stores them. Raises ``UnknownNameError``."""
    order = model.layers.order()
    layers: list[list[Matrix]] = [[] for _ in order]
    head: list[Matrix] = []
    ordered: list[LayerTraffic] = []
    embedding: Matrix | None = None
    for group, layer, n_bytes in _stored(model, weight_format):
        if group.role in _NEVER_READ:
            continue
        n_elements = group.n_elements // max(1, len(group.layers))
        matrix = Matrix(group.name, n_bytes, n_elements, group.role == "experts")
        if layer is not None:
            layers[layer].append(matrix)
        elif group.name == "token_embd":
            embedding = matrix
        elif group.name not in _INPUTS:
            head.append(matrix)
    if model.head == "tied" and embedding is not None:
        head.append(embedding)
    alike: dict[tuple[object, ...], LayerTraffic] = {}
    for name, found in zip(order, layers, strict=True):
        key = (name, *(matrix.n_bytes for matrix in found))
        if key not in alike:
            alike[key] = LayerTraffic(model.layers.kinds[name], tuple(found))
        ordered.append(alike[key])
    return Traffic(tuple(ordered), tuple(head))


def _stored(model: ModelSpec, weight_format: str) -> Iterator[tuple[TensorGroup, int | None, int]]:
    """Yield each group with its layer, None outside the layers, and its bytes there."""
    storage = checkpoint_storage(model, weight_format)
    if storage is not None:
        for whole in tensor_groups(model):
            for group, fmt in storage.parts(whole):
                n_bytes = group.copies * fmt.matrix_bytes(prod(group.shape[:-1]), group.shape[-1])
                for layer in group.layers or (None,):
                    yield group, layer, n_bytes
        return
    for tensor in gguf_tensors(model, weight_format):
        group, sizes = tensor.group, {}
        rows = group.copies * prod(group.shape[:-1])
        for layer, fmt in zip(group.layers or (None,), tensor.formats, strict=True):
            if fmt.name not in sizes:
                sizes[fmt.name] = fmt.matrix_bytes(rows, group.shape[-1])
            yield group, layer, sizes[fmt.name]


def distinct_experts(n_experts: int, n_active: int, n_tokens: int) -> float:
    """Return how many experts of a layer some of ``n_tokens`` are routed to, where routing is even.

    >>> distinct_experts(128, 8, 1), round(distinct_experts(128, 8, 32), 1)
    (8.0, 111.8)
    """
    return n_experts * (1 - (1 - n_active / n_experts) ** n_tokens)


def routed_share(kind: LayerKind, n_tokens: int) -> float:
    """Return the share of a layer's routed experts that ``n_tokens`` read."""
    if not isinstance(kind.mlp, MoeMlp):
        return 1.0
    return distinct_experts(kind.mlp.n_experts, kind.mlp.n_active_experts, n_tokens) / kind.mlp.n_experts


def cache_read_bytes(kind: LayerKind, depth: int, k_format: BlockFormat, v_format: BlockFormat) -> int:
    """Return what one layer reads of the cache for one token of one sequence that holds ``depth`` tokens.

    Attention with an indexer reads the keys of all, and the rows of the best.
    """
    attention = kind.attention
    if isinstance(attention, NoAttention):
        return 0
    k, v = cached_row_elements(attention)
    window = window_of(attention)
    rows = depth if window is None else min(depth, window)
    n_bytes = 0
    if attention.indexer is not None:
        n_bytes += depth * k_format.bytes_for(attention.indexer.head_dim)
        rows = min(rows, attention.indexer.top_k * attention.indexer.block_tokens)
    compressed = compressed_rows(attention)
    if compressed is not None:
        n_bytes += depth // compressed.ratio * k_format.bytes_for(compressed.row_elements)
    return n_bytes + rows * (k_format.bytes_for(k) + v_format.bytes_for(v))


def state_traffic_bytes(kind: LayerKind) -> int:
    """Return what one layer reads and writes of its state for one token of one sequence."""
    elements = state_elements(kind.mixer)
    return 2 * _STATE_BYTES * (elements.conv + elements.recurrent)


def attention_flops(kind: LayerKind, depth: int) -> int:
    """Return the operations of one token's scores and sums over ``depth`` tokens in one layer."""
    attention = kind.attention
    if isinstance(attention, NoAttention):
        return 0
    window = window_of(attention)
    rows = depth if window is None else min(depth, window)
    k, v = cached_row_elements(attention)
    n_kv_heads = getattr(attention, "n_kv_heads", 1)
    return 2 * rows * attention.n_heads * ((k + (v or k)) // n_kv_heads)
