"""The ledger lines of a llama.cpp process: what each device holds and why."""

from collections.abc import Iterator

from msgspec import Struct

from vramcalc.engines._ggml.graph import alternates
from vramcalc.engines._ggml.layout import Layout
from vramcalc.engines._ggml.meter import Meter, layer_state_bytes
from vramcalc.engines._ggml.run import Run
from vramcalc.engines._ggml.tensor import CPU
from vramcalc.engines._runtime import context_line
from vramcalc.formulas.kv_cache import cached_row_elements, state_elements
from vramcalc.ledger import HOST, Basis, Component, Line
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import Attention, Mamba2, Mixer, MoeMlp

SOURCE = "llama.cpp 0c1e570"
_LOGIT_BYTES = _FLOAT_BYTES = 4


class _Spread(Struct, frozen=True):
    """What the simulated compute buffer may be off by, in thousandths, and what a fitted range rests on."""

    below: int
    above: int
    evidence: str = ""


_CUDA_SPREAD = _Spread(2, 2)  # 0 to 1.4 on 6,100 measured settings of 20 models on CUDA-like devices
_OTHER_SPREAD = _Spread(30, 30)  # 12 in the one Metal log known
_OLDER_SPREAD = _Spread(80, 30, "an older build, 7 public logs within 7.5 %")
_HOST_SCAN_SPREAD = _Spread(40, 25, "scans on the host, 40 measured settings within 3.7 %")
_ALTERNATING_SPREAD = _Spread(50, 20, "layers of one part each, 80 measured settings within 4.6 %")
_HOST_STATE_SPREAD = _Spread(40, 9000, "scans whose state is on the host, 8 measured settings up to 8 times as much")
_MANY_ROWS_SPREAD = _Spread(
    150, 520, "logits of many tokens, 770 measured settings of recurrent models up to half more"
)
_DENSE_BESIDE_SPREAD = _Spread(40, 2, "experts on the host beside a dense MLP, 119 measured settings within 3.9 %")
_SCATTERED_SPREAD = _Spread(130, 230, "experts over several devices, 71 measured settings from -12 to +22 %")


class Server(Struct, frozen=True):
    """One process: its settings, its placement and the names of its GPUs."""

    meter: Meter
    run: Run
    layout: Layout
    devices: tuple[str, ...]
    gpus: tuple[GpuSpec, ...]
    weight_format: str
    label: str = ""  # what it is, where it is not the model itself
    adapted: Meter | None = None  # the same model with adapters
    is_older: bool = False  # than the build whose graphs are known

    def name(self, device: int) -> str:
        """Return the ledger's name of a device."""
        return HOST if device == CPU else self.devices[device]


def server_lines(server: Server) -> Iterator[Line]:
    """Yield every line of the process, device by device."""
    compute = (server.adapted or server.meter).compute_bytes(server.layout, server.run)
    for device in (*range(server.layout.n_devices), CPU):
        yield from _weight_lines(server, device)
        yield from _adapter_lines(server, device)
        yield from _cache_lines(server, device)
        yield from _state_lines(server, device)
        yield _compute_line(server, device, compute[device])
        if device != CPU and not server.label:
            context = context_line(server.devices[device], server.gpus[device])
            if context is not None:
                yield context
    yield _output_line(server)


def _weight_lines(server: Server, device: int) -> Iterator[Line]:
    layout, meter = server.layout, server.meter
    total = meter.weight_bytes(layout)[device]
    n_layers = layout.layers.count(device)
    ends = meter.end_bytes(layout, device)
    values = {"layers": total - sum(ends.values()), **ends}
    parts = [f"{n_layers} of {len(layout.layers)} layers", *(name.replace("_", " ") for name in ends)]
    if any(home == device for _, away in layout.elsewhere for _, home in away):
        parts.append("tensors of other layers")
    stored = meter.model.stored
    is_file = stored is not None and stored.format == server.weight_format
    yield Line(
        component=Component.WEIGHTS,
        device=server.name(device),
        n_bytes=total,
        basis=Basis.EXACT,
        why=f"{server.label}{' + '.join(parts)}, {server.weight_format}",
        source=f"header of {meter.model.source}"
        if is_file
        else f"{SOURCE}, src/llama-quant.cpp and src/llama-model.cpp",
        formula=" + ".join(values),
        values=values,
    )


def _adapter_lines(server: Server, device: int) -> Iterator[Line]:
    if server.adapted is None:
        return
    added = server.adapted.weight_bytes(server.layout)[device] - server.meter.weight_bytes(server.layout)[device]
    yield Line(
        component=Component.WEIGHTS,
        device=server.name(device),
        n_bytes=added,
        basis=Basis.EXACT,
        why="LoRA adapters: two thin matrices beside each matrix they adapt, where that matrix is",
        source=f"{SOURCE}, src/llama-adapter.cpp",
        formula="adapters",
        values={"adapters": added},
    )


def _cache_lines(server: Server, device: int) -> Iterator[Line]:
    layout, run = server.layout, server.run
    by_kind: dict[Attention, int] = {}
    for kind, home in zip(server.meter.order, layout.layers, strict=True):
        if _cache_home(server, home) == device and any(cached_row_elements(kind.attention)):
            by_kind[kind.attention] = by_kind.get(kind.attention, 0) + 1
    for attention, n_layers in by_kind.items():
        yield _cache_line(server, run, attention, n_layers, device)


def _cache_home(server: Server, home: int) -> int:
    return home if server.run.kv_offload else CPU


def _cache_line(server: Server, run: Run, attention: Attention, n_layers: int, device: int) -> Line:
    k, v = cached_row_elements(attention)
    per_layer = server.meter.layer_cache_bytes(attention, run, on_device=device != CPU)
    values = {
        "n_layers": n_layers,
        "n_streams": run.n_streams,
        "cells": run.cells(attention),
        "k_row_bytes": run.k_format.bytes_for(k),
        "v_row_bytes": run.v_format.bytes_for(v),
    }
    rows = values["n_streams"] * values["cells"] * (values["k_row_bytes"] + values["v_row_bytes"])
    formats = run.k_format.name if run.k_format == run.v_format else f"{run.k_format.name}/{run.v_format.name}"
    return Line(
        component=Component.KV_CACHE,
        device=server.name(device),
        n_bytes=n_layers * per_layer,
        basis=Basis.EXACT,
        why=f"{server.label}{n_layers} {attention.kind} layers x {run.n_streams} x {values['cells']} cells, {formats}",
        source=f"{SOURCE}, src/llama-kv-cache.cpp",
        formula="n_layers * (n_streams * cells * (k_row_bytes + v_row_bytes) + padding)",
        values={**values, "padding": per_layer - rows},
    )


def _state_lines(server: Server, device: int) -> Iterator[Line]:
    by_mixer: dict[Mixer, int] = {}
    for kind, home in zip(server.meter.order, server.layout.layers, strict=True):
        if _cache_home(server, home) == device and kind.mixer is not None:
            by_mixer[kind.mixer] = by_mixer.get(kind.mixer, 0) + 1
    for mixer, n_layers in by_mixer.items():
        yield _state_line(server, mixer, n_layers, device)


def _state_line(server: Server, mixer: Mixer, n_layers: int, device: int) -> Line:
    run = server.run
    elements, per_layer = state_elements(mixer), layer_state_bytes(mixer, run)
    values = {
        "n_layers": n_layers,
        "n_slots": run.n_slots,
        "conv_elements": elements.conv,
        "recurrent_elements": elements.recurrent,
        "float_bytes": _FLOAT_BYTES,
    }
    unpadded = run.n_slots * (elements.conv + elements.recurrent) * _FLOAT_BYTES
    return Line(
        component=Component.STATE,
        device=server.name(device),
        n_bytes=n_layers * per_layer,
        basis=Basis.EXACT,
        why=f"{server.label}{n_layers} {mixer.kind} layers x {run.n_slots} slots, f32 at any context and cache type",
        source=f"{SOURCE}, src/llama-memory-recurrent.cpp",
        formula="n_layers * (n_slots * (conv_elements + recurrent_elements) * float_bytes + padding)",
        values={**values, "padding": per_layer - unpadded},
    )


def _compute_line(server: Server, device: int, n_bytes: int) -> Line:
    batch = server.run.batch(server.meter.model)
    spread = _spread(server)
    why = f"{server.label}tensors alive at once for {batch.n_tokens} tokens and {batch.n_outputs} rows of logits"
    if device != CPU and server.layout.is_pipelined:
        why += ", inputs four times for the pipeline"
    elif device != CPU and not server.layout.is_full:
        why += ", with the host's weights passing through"
    if spread.evidence:
        why += f"; range fitted: {spread.evidence}"
    return Line(
        component=Component.COMPUTE_BUFFER,
        device=server.name(device),
        n_bytes=n_bytes,
        basis=Basis.FITTED if spread.evidence else Basis.DERIVED,
        why=why,
        source=f"{SOURCE}, ggml/src/ggml-alloc.c run over the model's graph; 6,100 measured settings",
        formula="n_tokens * bytes_per_token + rest",
        values={
            "n_tokens": batch.n_tokens,
            "bytes_per_token": n_bytes // batch.n_tokens,
            "rest": n_bytes % batch.n_tokens,
        },
        low_bytes=n_bytes - n_bytes * spread.below // 1000,
        high_bytes=n_bytes + n_bytes * spread.above // 1000,
    )


def _spread(server: Server) -> _Spread:
    """Return what the compute buffer may be off by: more where recurrent layers are spread over devices."""
    order, layout = server.meter.order, server.layout
    on_host = layout.n_devices > 0 and CPU in layout.layers
    cases = (
        (server.is_older, _OLDER_SPREAD),
        (layout.n_devices > 1 and layout.elsewhere and any(k.mixer is not None for k in order), _SCATTERED_SPREAD),
        ((server.run.n_outputs or 0) > server.run.n_slots and server.meter.model.is_recurrent, _MANY_ROWS_SPREAD),
        (any(gpu.vendor not in ("nvidia", "hypothetical") for gpu in server.gpus), _OTHER_SPREAD),
        (not server.run.kv_offload and any(isinstance(k.mixer, Mamba2) for k in order), _HOST_STATE_SPREAD),
        (on_host and alternates(order), _ALTERNATING_SPREAD),
        (on_host and all(isinstance(k.mixer, Mamba2) for k in order), _HOST_SCAN_SPREAD),
        (on_host and any(isinstance(k.mlp, MoeMlp) and k.mlp.dense_ff_dim for k in order), _DENSE_BESIDE_SPREAD),
    )
    return next((spread for applies, spread in cases if applies), _CUDA_SPREAD)


def _output_line(server: Server) -> Line:
    model = server.meter.model
    vocabulary = model.gguf_vocabulary or model.vocabulary
    n_rows = server.run.n_outputs or server.run.n_slots
    values = {"n_rows": n_rows, "n_vocabulary": vocabulary, "logit_bytes": _LOGIT_BYTES}
    return Line(
        component=Component.COMPUTE_BUFFER,
        device=HOST,
        n_bytes=n_rows * vocabulary * _LOGIT_BYTES,
        basis=Basis.EXACT,
        why=f"{server.label}output buffer: the logits of {n_rows // server.run.n_slots} "
        f"{'token' if n_rows == server.run.n_slots else 'tokens'} per slot",
        source=f"{SOURCE}, src/llama-context.cpp",
        formula="n_rows * n_vocabulary * logit_bytes",
        values=values,
    )
