"""How Ollama before 0.12 placed layers: an estimate of its own, made before llama.cpp allocated anything.

It is known to be high; ``ollama ps`` printed it as if it were the memory in use.

Source: Ollama 0.5 to 0.11, llm/memory.go (EstimateGPULayers) and fs/ggml/ggml.go (GraphSize), read. The graph terms
equal those its logs print: 424.0 and 570.7 MiB for Llama 3.2 3B at 8192 tokens.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from vramcalc.units import MIB

_MINIMUM_BYTES = 457 * MIB  # what it keeps for the CUDA context of each card


class Shape(Struct, frozen=True, kw_only=True):
    """What the estimator reads of a model: widths, heads, and the bytes of its layers and of its output.

    ``layer_bytes`` and ``kv_bytes`` are per layer; ``n_context`` is the total of all slots.
    """

    architecture: str
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocabulary: int
    layer_bytes: tuple[int, ...]
    kv_bytes: tuple[int, ...]
    output_bytes: int
    n_context: int
    n_batch: int


class Graph(Struct, frozen=True):
    """Bytes of the compute graph where all layers are on GPUs, and where only some are."""

    full_bytes: int
    partial_bytes: int


class Estimated(Struct, frozen=True):
    """Layers per card (the output counts as one), bytes per card, and the bytes of a full offload."""

    layers: tuple[int, ...]
    card_bytes: tuple[int, ...]
    total_bytes: int

    @property
    def n_layers(self) -> int:
        """Layers on all cards, the output among them."""
        return sum(self.layers)


def _llama(s: Shape) -> Graph:
    b, c, e, h, v = s.n_batch, s.n_context, s.hidden_dim, s.n_heads, s.vocabulary
    rows = 4 * b * (1 + e + max(c, e)) + e * e * 9 // 16 + 4 * c * (b * h + s.head_dim * s.n_kv_heads)
    return Graph(
        max(4 * b * (1 + 4 * e + c * (1 + h)), 4 * b * (e + v)),
        4 * b * e + max(rows, 4 * b * (e + v) + e * v * 105 // 128),
    )


def _gemma(s: Shape) -> Graph:
    b, c, e, h, v, d = s.n_batch, s.n_context, s.hidden_dim, s.n_heads, s.vocabulary, s.head_dim
    rows = 4 * b * (2 * e + 1 + 2 * d * h + c + c * h) + 4 * d * c * 8 + e * d * h * 9 // 16
    return Graph(
        max(4 * b * (e + v), 4 * b * (2 + c + c * h + 2 * e + 2 * d * h)),
        max(4 * e * b + e * v * 105 // 128 + 4 * v * b, rows),
    )


def _qwen2(s: Shape) -> Graph:
    b, c, e, h, v = s.n_batch, s.n_context, s.hidden_dim, s.n_heads, s.vocabulary
    return Graph(
        max(4 * b * (e + v), 4 * b * (1 + 2 * e + c + c * h)),
        max(4 * b * (e + v) + e * v * 105 // 128, 4 * (b * (1 + 2 * e + c * (1 + h)) + e * (1 + c))),
    )


def _command_r(s: Shape) -> Graph:
    b, c, e, h, v = s.n_batch, s.n_context, s.hidden_dim, s.n_heads, s.vocabulary
    rows = 4 * b * (1 + 2 * e + c * (1 + h)) + 4 * e * c + e * e * 9 // 16
    return Graph(
        max(4 * b * (e + v), 4 * b * (2 + 4 * e + c * (1 + h))),
        max(4 * b * (e + v) + e * v * 105 // 128, rows),
    )


def _phi2(s: Shape) -> Graph:
    b, c, e, h, v = s.n_batch, s.n_context, s.hidden_dim, s.n_heads, s.vocabulary
    return Graph(
        max(4 * b * (e + v), 4 * b * (1 + 4 * e + c + c * h)),
        max(4 * b * (2 * e + v) + e * v * 105 // 128, 4 * b * (2 + 3 * e + c + c * h)),
    )


def _stablelm(s: Shape) -> Graph:
    b, c, e, h = s.n_batch, s.n_context, s.hidden_dim, s.n_heads
    full = 4 * b * (c * (1 + h) + 3 * e + 2)
    return Graph(full, max(4 * b * (s.vocabulary + 2 * e), full))


def _other(s: Shape) -> Graph:
    """What it took for an architecture it had no formula for."""
    n_bytes = s.n_heads // s.n_kv_heads * sum(s.kv_bytes) // 6
    return Graph(n_bytes, n_bytes)


_GRAPHS: Mapping[str, Callable[[Shape], Graph]] = {
    "llama": _llama,
    "gemma": _gemma,
    "gemma2": _gemma,
    "qwen2": _qwen2,
    "command-r": _command_r,
    "phi2": _phi2,
    "stablelm": _stablelm,
}


def graph_of(shape: Shape) -> Graph:
    """Return the estimated graph.

    >>> llama_3b = Shape(architecture="llama", hidden_dim=3072, n_heads=24, n_kv_heads=8, head_dim=128,
    ...     vocabulary=128256, layer_bytes=(), kv_bytes=(), output_bytes=0, n_context=8192, n_batch=512)
    >>> graph = graph_of(llama_3b)
    >>> round(graph.full_bytes / MIB, 1), round(graph.partial_bytes / MIB, 1)
    (424.0, 570.7)
    """
    return _GRAPHS.get(shape.architecture, _other)(shape)


def estimate(shape: Shape, free: Sequence[int], *, asked_layers: int | None, overhead: int, metal: bool) -> Estimated:
    """Return which card takes how many layers, dealt out in turn as long as each still has room.

    Args:
        shape: The model as the estimator sees it.
        free: Free bytes of each card.
        asked_layers: ``num_gpu``; None leaves it to the estimator.
        overhead: OLLAMA_GPU_OVERHEAD, kept free on each card.
        metal: On Apple's chips the graph of a partial offload is taken to be that of a full one.
    """
    graph = _graph_in_force(shape, n_cards=len(free), metal=metal)
    per_layer = [weights + cache for weights, cache in zip(shape.layer_bytes, shape.kv_bytes, strict=True)]
    cards = _Cards(free, overhead + max(graph.full_bytes, graph.partial_bytes), spare=per_layer[0])
    n_layers, left_out = len(per_layer), 0
    limit = n_layers + 1 if asked_layers is None else asked_layers
    for index, n_bytes in enumerate(per_layer):
        if sum(cards.layers) >= limit or not cards.deal(index, n_bytes):
            left_out += n_bytes
    if sum(cards.layers) >= limit or not cards.deal_output(shape.output_bytes):
        left_out += shape.output_bytes
    graph_bytes = graph.full_bytes if sum(cards.layers) > n_layers else graph.partial_bytes
    held = [n_bytes + (graph_bytes if n else 0) for n_bytes, n in zip(cards.held, cards.layers, strict=True)]
    return Estimated(tuple(cards.layers), tuple(held), sum(held) + left_out)


def _graph_in_force(shape: Shape, *, n_cards: int, metal: bool) -> Graph:
    graph = graph_of(shape)
    if metal:
        return Graph(graph.full_bytes, graph.full_bytes)
    return Graph(graph.partial_bytes, graph.partial_bytes) if n_cards > 1 else graph


class _Cards:
    """The cards as they fill up; one without room for a layer leaves the round."""

    def __init__(self, free: Sequence[int], reserve: int, spare: int) -> None:
        self._free, self._reserve = free, reserve
        self.layers = [0] * len(free)
        self._open = [i for i, room in enumerate(free) if room >= reserve + _MINIMUM_BYTES + 2 * spare]
        self.held = [_MINIMUM_BYTES + spare if i in self._open else 0 for i in range(len(free))]

    def deal(self, turn: int, n_bytes: int) -> bool:
        """Give one layer to the next card that has room."""
        while self._open:
            card = self._open[turn % len(self._open)]
            if self._take(card, n_bytes):
                return True
            self._open.remove(card)
        return False

    def deal_output(self, n_bytes: int) -> bool:
        """Give the output to a card that has room."""
        turn = sum(self.layers)
        return any(self._take(self._open[turn % n], n_bytes) for n in range(len(self._open), 0, -1))

    def _take(self, card: int, n_bytes: int) -> bool:
        if self._free[card] <= self.held[card] + self._reserve + n_bytes:
            return False
        self.held[card] += n_bytes
        self.layers[card] += 1
        return True
