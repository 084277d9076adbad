"""The engine's own measure of a placement: weights, cache and compute buffer of every device, to the byte."""

from collections.abc import Hashable, Sequence
from functools import lru_cache

from msgspec import Struct

from vramcalc.engines._ggml.allocator import buffer_sizes
from vramcalc.engines._ggml.builder import Batch, Ends, PlacedLayer
from vramcalc.engines._ggml.graph import build
from vramcalc.engines._ggml.layout import Elsewhere, Layout
from vramcalc.engines._ggml.run import Run
from vramcalc.engines._ggml.scheduler import schedule
from vramcalc.engines._ggml.tensor import CPU
from vramcalc.engines._ggml.weights import Weight, Weights, device_total, host_total
from vramcalc.formulas.kv_cache import cached_row_elements, state_elements
from vramcalc.specs.model import Attention, GroupedQueryAttention, Mixer, ModelSpec
from vramcalc.units import round_up

_LONGEST_PERIOD = 8
_PERIODS_KEPT = 3
_CYCLE = 2
_ROW_PADDING, _CACHE_ALIGNMENT = 512, 128
_STATE_BYTES = 4


class Reading(Struct, frozen=True):
    """Bytes of each GPU, and of host memory behind them."""

    weights: tuple[int, ...]
    cache: tuple[int, ...]
    state: tuple[int, ...]
    compute: tuple[int, ...]

    def total(self, device: int) -> int:
        """Return all bytes of one device."""
        return self.weights[device] + self.cache[device] + self.state[device] + self.compute[device]


class Meter:
    """Measures placements of one model under one mix."""

    def __init__(self, model: ModelSpec, weights: Weights) -> None:
        self.model = model
        self.weights = weights
        self.order = tuple(model.layers.kinds[name] for name in model.layers.order())
        self._kind_ids = model.layers.order()
        self._compute = lru_cache(maxsize=4096)(self._simulate)

    def read(self, layout: Layout, run: Run) -> Reading:
        """Return what the engine would report."""
        return Reading(
            self.weight_bytes(layout),
            self.cache_bytes(layout, run),
            self.state_bytes(layout, run),
            self.compute_bytes(layout, run),
        )

    def weight_bytes(self, layout: Layout) -> tuple[int, ...]:
        """Return the bytes of weights by device."""
        held = [0] * (layout.n_devices + 1)
        held[CPU] += host_total(self.weights.entrance)
        elsewhere = dict(layout.elsewhere)
        for index, home in enumerate(layout.layers):
            if home != CPU and index not in elsewhere:
                held[home] += self.weights.layer_bytes[index]
                continue
            away = dict(elsewhere.get(index, ()))
            for weight in self.weights.layers[index].values():
                device = away.get(weight.name, home)
                held[device] += weight.host_bytes if device == CPU else weight.device_bytes
        for home in set(layout.layers):
            held[home] += device_total(self.weights.shared)
        held[layout.output] += (host_total if layout.output == CPU else device_total)(self._output(layout))
        return tuple(held)

    def end_bytes(self, layout: Layout, device: int) -> dict[str, int]:
        """Return the bytes a device holds beside layers: input, output and shared tensors."""
        measure = host_total if device == CPU else device_total
        ends: dict[str, int] = {}
        if device == CPU:
            ends["token_embedding"] = host_total(self.weights.entrance)
        if layout.output == device and self.weights.output:
            ends["output_head"] = measure(self._output(layout))
        if device in layout.layers and self.weights.shared:
            ends["rope_factors"] = device_total(self.weights.shared)
        return ends

    def _output(self, layout: Layout) -> tuple[Weight, ...]:
        """A tied head in host memory is the embedding itself."""
        return tuple(w for w in self.weights.output if layout.output != CPU or not w.is_copy)

    def cache_bytes(self, layout: Layout, run: Run) -> tuple[int, ...]:
        """Return the bytes of cached K and V by device."""
        held = [0] * (layout.n_devices + 1)
        kinds = self.model.layers.kinds.items()
        on_device = {name: layer_cache_bytes(kind.attention, run, on_device=True) for name, kind in kinds}
        on_host = {name: layer_cache_bytes(kind.attention, run, on_device=False) for name, kind in kinds}
        for name, layer_home in zip(self._kind_ids, layout.layers, strict=True):
            home = layer_home if run.kv_offload else CPU
            held[home] += (on_host if home == CPU else on_device)[name]
        return tuple(held)

    def state_bytes(self, layout: Layout, run: Run) -> tuple[int, ...]:
        """Return the bytes of recurrent state by device."""
        held = [0] * (layout.n_devices + 1)
        for kind, home in zip(self.order, layout.layers, strict=True):
            held[home if run.kv_offload else CPU] += layer_state_bytes(kind.mixer, run)
        return tuple(held)

    def compute_bytes(self, layout: Layout, run: Run) -> tuple[int, ...]:
        """Return the bytes of compute buffers by device."""
        elsewhere = dict(layout.elsewhere)
        placed = [(index, home, elsewhere.get(index, ())) for index, home in enumerate(layout.layers)]
        kept = representative([self._signature(*place) for place in placed])
        return self._compute(
            tuple(placed[index] for index in kept),
            run.batch(self.model),
            layout.output,
            layout.n_devices,
            layout.is_pipelined and run.kv_offload,
        )

    def count_nodes(self, run: Run) -> int:
        """Return the entries of the whole model's graph, those included that take no memory of their own."""
        layers = [PlacedLayer(kind, self.weights.layers[i], 0, 0) for i, kind in enumerate(self.order)]
        graph = build(layers, run.batch(self.model), self._ends(0))
        n_fused = sum(isinstance(k.attention, GroupedQueryAttention) and k.attention.fused for k in self.order)
        reshaped = 2 * len(self.order) if run.n_streams > 1 else 0  # K and V of all streams as one
        return len(graph.nodes) + len(graph.leafs) + reshaped + n_fused  # whose queries are scaled apart

    def _signature(self, index: int, home: int, away: Elsewhere) -> Hashable:
        if home != CPU and not away:
            return self._kind_ids[index], home
        sizes = tuple(w.device_bytes for w in self.weights.layers[index].values())
        return self._kind_ids[index], home, away, sizes

    def _simulate(
        self, placed: tuple[tuple[int, int, Elsewhere], ...], batch: Batch, output: int, n_devices: int, pipelined: bool
    ) -> tuple[int, ...]:
        layers = [
            PlacedLayer(self.order[i], self.weights.layers[i], home, home if batch.kv_offload else CPU, away)
            for i, home, away in placed
        ]
        plan = schedule(
            build(layers, batch, self._ends(output)), n_devices, op_offload=batch.op_offload, pipeline=pipelined
        )
        return buffer_sizes(plan, n_devices)

    def _ends(self, output: int) -> Ends:
        return Ends(
            hidden_dim=self.model.hidden_dim,
            entrance=self.weights.entrance,
            output=self.weights.output,
            output_home=output,
            shared=self.weights.shared,
        )


def layer_cache_bytes(attention: Attention, run: Run, *, on_device: bool) -> int:
    """Return the bytes one layer caches for all slots; a device's quantised rows end on a multiple of 512 elements."""
    n_rows = run.cells(attention) * run.n_streams
    widths = cached_row_elements(attention)
    total = 0
    for width, fmt in zip(widths, (run.k_format, run.v_format), strict=True):
        missing = -width % _ROW_PADDING if on_device and fmt.block_elements > 1 else 0
        total += round_up(n_rows * fmt.bytes_for(width) + fmt.bytes_for(missing), _CACHE_ALIGNMENT)
    return total


def layer_state_bytes(mixer: Mixer | None, run: Run) -> int:
    """Return the bytes of state one layer keeps for all slots: always f32, however long the context."""
    elements = state_elements(mixer)
    parts = (elements.conv, elements.recurrent)
    return sum(round_up(run.n_slots * part * _STATE_BYTES, _CACHE_ALIGNMENT) for part in parts)


def representative(signatures: Sequence[Hashable]) -> list[int]:
    """Return the layers that stand for all: of what repeats, a few periods.

    The allocator reaches its peak within a few equal layers, since only the residual stream outlives a layer.
    """
    kept: list[int] = []
    at, n = 0, len(signatures)
    while at < n:
        best, span = 1, 1
        for period in range(1, _LONGEST_PERIOD + 1):
            end = at + period
            while end < n and signatures[end] == signatures[end - period]:
                end += 1
            repeats = (end - at) // period
            if repeats > _PERIODS_KEPT and repeats * period > span:
                best, span = period, repeats * period
        rest = (span // best - _PERIODS_KEPT) % _CYCLE if span > best * _PERIODS_KEPT else 0
        kept += range(at, at + min(span, best * (_PERIODS_KEPT + rest)))
        at += span
    return kept
