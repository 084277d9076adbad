"""The engine's own measure of a placement: weights, cache and compute buffer of every device, to the byte."""

from collections.abc import Hashable, Sequence
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.engines._ggml.allocator import buffer_sizes
from vramcalc.engines._ggml.builder import Batch, Ends, PlacedLayer
from vramcalc.engines._ggml.graph import build, traits_of
from vramcalc.engines._ggml.layout import Elsewhere, Layout
from vramcalc.engines._ggml.run import Run
from vramcalc.engines._ggml.scheduler import schedule
from vramcalc.engines._ggml.tensor import CPU
from vramcalc.engines._ggml.weights import Weight, Weights, device_total, host_total
from vramcalc.formulas.kv_cache import cached_row_elements, state_elements
from vramcalc.specs.model import Attention, GroupedQueryAttention, LayerKind, Mixer, ModelSpec
from vramcalc.units import round_up

_LONGEST_PERIOD = 8
_PERIODS_KEPT = 3
_CYCLE = 2
_ROW_PADDING, _CACHE_ALIGNMENT = 512, 128
_STATE_BYTES = 4
_Place = tuple[int, int, int, Elsewhere]  # a layer, its device, its cache's, and what of it lives elsewhere


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
        self._cached_in = _layers_cached_in(self.order)
        self._shares_caches = self._cached_in != tuple(range(len(self.order)))  # all layers hold on to each other
        self._traits = traits_of(self.order)
        self._compute = lru_cache(maxsize=4096)(self._simulate)
        self._keeps_attention = lru_cache(maxsize=4096)(self._attends_in_place)

    def resolved(self, layout: Layout, run: Run) -> Run:
        """Return the run as the engine goes on with it: it drops flash attention that strays from a layer's device.

        It looks at one token per slot. What stores K and V to the cache stays with it and keeps the attention there;
        a layer that reads another's cache stores nothing.

        Source: llama.cpp 0c1e570, src/llama-context.cpp (resolve_fused_ops).
        """
        if not run.chooses_attention or not self._shares_caches or layout.is_full or not layout.n_devices:
            return run
        return replace(run, flash_attention=self._keeps_attention(layout, run), v_by_row=True)  # the cache is there

    def _attends_in_place(self, layout: Layout, run: Run) -> bool:
        batch = replace(run.batch(self.model), n_tokens=run.n_slots, n_outputs=run.n_slots)
        layers = self._placed_layers(self._places(layout), batch)
        graph = build(layers, batch, self._ends(layout.output))
        schedule(graph, layout.n_devices, op_offload=batch.op_offload)
        homes = [layer.home for layer in layers if isinstance(layer.kind.attention, GroupedQueryAttention)]
        attentions = [node.backend for node in graph.nodes if node.op == "flash_attention"]
        on_host = layout.n_devices
        return all(
            backend == (on_host if home == CPU else home) for backend, home in zip(attentions, homes, strict=True)
        )

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
        for home in self._factor_homes(layout):
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
        if device in self._factor_homes(layout) and self.weights.shared:
            ends["rope_factors"] = device_total(self.weights.shared)
        return ends

    def _factor_homes(self, layout: Layout) -> set[int]:
        """Return where layers turn by a scaled rope."""
        factored = self._traits.factors
        order = zip(self.order, layout.layers, strict=True)
        return {home for kind, home in order if factored is None or kind.attention.kind in factored}

    def _output(self, layout: Layout) -> tuple[Weight, ...]:
        """A tied head in host memory is the embedding itself, unless the engine makes it first."""
        is_apart = layout.output != CPU or self._traits.head_first
        return tuple(w for w in self.weights.output if is_apart or not w.is_copy)

    def cache_bytes(self, layout: Layout, run: Run) -> tuple[int, ...]:
        """Return the bytes of cached K and V by device."""
        run = self.resolved(layout, run)
        held = [0] * (layout.n_devices + 1)
        kinds = self.model.layers.kinds.items()
        on_device = {name: self.layer_cache_bytes(kind.attention, run, on_device=True) for name, kind in kinds}
        on_host = {name: self.layer_cache_bytes(kind.attention, run, on_device=False) for name, kind in kinds}
        for name, layer_home in zip(self._kind_ids, layout.layers, strict=True):
            home = layer_home if run.kv_offload else CPU
            held[home] += (on_host if home == CPU else on_device)[name]
        return tuple(held)

    def layer_cache_bytes(self, attention: Attention, run: Run, *, on_device: bool) -> int:
        """Return the bytes one layer caches for all slots.

        A device's quantised rows end on a multiple of 512 elements; without flash attention every V row is as wide
        as the widest.
        """
        n_rows = run.cells(attention) * run.n_streams
        k, v = cached_row_elements(attention)
        if v and not run.caches_v_by_row:
            v = self._traits.value_width
        total = 0
        for width, fmt in ((k, run.k_format), (v, run.v_format)):
            missing = -width % _ROW_PADDING if on_device and fmt.block_elements > 1 else 0
            total += round_up(n_rows * fmt.bytes_for(width) + fmt.bytes_for(missing), _CACHE_ALIGNMENT)
        return total

    def state_bytes(self, layout: Layout, run: Run) -> tuple[int, ...]:
        """Return the bytes of recurrent state by device."""
        held = [0] * (layout.n_devices + 1)
        for kind, home in zip(self.order, layout.layers, strict=True):
            held[home if run.kv_offload else CPU] += layer_state_bytes(kind.mixer, run)
        return tuple(held)

    def compute_bytes(self, layout: Layout, run: Run) -> tuple[int, ...]:
        """Return the bytes of compute buffers by device."""
        run = self.resolved(layout, run)
        placed = self._places(layout)
        signatures = [self._signature(*place) for place in placed]
        kept = range(len(placed)) if self._shares_caches else representative(signatures)
        return self._compute(
            tuple(placed[index] for index in kept),
            run.batch(self.model),
            layout.output,
            layout.n_devices,
            layout.is_pipelined and run.kv_offload,
        )

    def _places(self, layout: Layout) -> list[_Place]:
        elsewhere = dict(layout.elsewhere)
        return [
            (index, home, layout.layers[self._cached_in[index]], elsewhere.get(index, ()))
            for index, home in enumerate(layout.layers)
        ]

    def _placed_layers(self, places: Sequence[_Place], batch: Batch) -> list[PlacedLayer]:
        return [
            PlacedLayer(self.order[i], self.weights.layers[i], home, cache_home if batch.kv_offload else CPU, away)
            for i, home, cache_home, away in places
        ]

    def count_nodes(self, run: Run) -> int:
        """Return the entries of the whole model's graph, those included that take no memory of their own."""
        layers = [PlacedLayer(kind, self.weights.layers[i], 0, 0) for i, kind in enumerate(self.order)]
        graph = build(layers, run.batch(self.model), self._ends(0))
        n_fused = sum(isinstance(k.attention, GroupedQueryAttention) and k.attention.fused for k in self.order)
        reshaped = 2 * len(self.order) if run.n_streams > 1 else 0  # K and V of all streams as one
        return len(graph.nodes) + len(graph.leafs) + reshaped + n_fused  # whose queries are scaled apart

    def _signature(self, index: int, home: int, cache_home: int, away: Elsewhere) -> Hashable:
        if home != CPU and not away:
            return self._kind_ids[index], home, cache_home
        sizes = tuple(w.device_bytes for w in self.weights.layers[index].values())
        return self._kind_ids[index], home, cache_home, away, sizes

    def _simulate(
        self,
        placed: tuple[_Place, ...],
        batch: Batch,
        output: int,
        n_devices: int,
        pipelined: bool,
    ) -> tuple[int, ...]:
        layers = self._placed_layers(placed, batch)
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


def _layers_cached_in(order: Sequence[LayerKind]) -> tuple[int, ...]:
    """Return the layer whose cache each layer reads: its own, or that of the last one of its kind that has one."""
    found: list[int] = []
    last: dict[str, int] = {}
    for index, kind in enumerate(order):
        attention = kind.attention
        shares = isinstance(attention, GroupedQueryAttention) and attention.shares_cache
        if not shares:
            last[attention.kind] = index
        found.append(last.get(attention.kind, index))
    return tuple(found)


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
