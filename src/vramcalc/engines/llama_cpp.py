"""llama.cpp: ``llama-server`` with its defaults, and its own fit of context, layers and experts to free memory.

Source:
    llama.cpp 0c1e570 (October 2026): tools/server/server.cpp, common/common.h, common/fit.cpp, src/.
"""

import re
from collections.abc import Iterator

from msgspec.structs import replace

from vramcalc.engines._ggml.fit import LEAST_CONTEXT, MARGIN_BYTES, Fit, Fitted
from vramcalc.engines._ggml.layout import Layout, expert_tensors, lay_out
from vramcalc.engines._ggml.placing import to_placement
from vramcalc.engines._ggml.process import LlamaProcess
from vramcalc.engines._ggml.run import LOGICAL_BATCH, Run
from vramcalc.engines._ggml.settling import (
    cache_formats,
    cache_notes,
    check_slots,
    choose_format,
    make_run,
    uses_flash_attention,
)
from vramcalc.engines._ggml.support import HANDLES, refuse_unknown
from vramcalc.engines._ggml.tensor import CPU
from vramcalc.engines.base import Proposal, Setup
from vramcalc.errors import RefusedError
from vramcalc.ledger import HOST
from vramcalc.specs.placement import Placement
from vramcalc.specs.workload import Workload
from vramcalc.units import MIB

__all__ = ["HANDLES", "NAME", "VERSIONS", "LlamaCpp", "bind"]

NAME = "llama.cpp"
VERSIONS = ("b10488",)

_DEFAULT_SLOTS = 4
_DEFAULT_STEP = 512
_BUILD = re.compile(r"b?(\d+)")
_ELSEWHERE = re.compile(r"[a-z]{2,}:")  # a hub, a registry, a web address
_FIRST_BUILD = 10488
_BACKENDS = {"amd": "ROCm", "intel": "SYCL", "apple": "Metal"}


def bind(setup: Setup) -> "LlamaCpp":
    """Return the engine bound to ``setup``. Raises ``RefusedError`` for a format or build it has no rules for."""
    refuse_unknown(setup.model, NAME)
    return LlamaCpp(setup, _rules_for(setup.version), choose_format(setup, NAME))


def _rules_for(version: str | None) -> str:
    if version is None:
        return VERSIONS[-1]
    match = _BUILD.fullmatch(version.strip().lower())
    if match is None:
        raise RefusedError(f"{version!r} is not a build of llama.cpp", f"write e.g. llama.cpp@{VERSIONS[-1]}")
    if int(match[1]) < _FIRST_BUILD:
        raise RefusedError(
            f"no rules are known for llama.cpp {version}", f"the oldest known build is {VERSIONS[0]}: leave it out"
        )
    return VERSIONS[-1]


class LlamaCpp(LlamaProcess):
    """llama-server bound to one model, machine, weight format and build."""

    name = NAME

    def propose(self, workload: Workload) -> Proposal:
        """Fill in the server's defaults and let its fit place the model."""
        settled = self._settle(workload)
        devices = self._machine.device_names()
        gpus = self._gpus(devices)
        run = make_run(self._model, gpus, settled)
        is_context_free = workload.n_context is None
        fitted = self._fit(settled, run, devices, is_context_free=is_context_free)
        short = {d: left for d, left in self._left(fitted, devices).items() if left < MARGIN_BYTES}
        if is_context_free:
            total = fitted.run.total_context
            n_context = total if fitted.run.is_unified else total // fitted.run.n_slots
            settled = replace(settled, n_context=n_context)
            if short and fitted.gpu_layers is None and settled.gpu_layers is None and settled.cpu_moe is None:
                settled = replace(
                    settled, gpu_layers=fitted.layout.gpu_layers
                )  # the same context, asked for, moves some
        notes = (
            *self._format_notes(),
            *cache_notes(fitted.run, gpus, self._model),
            *self._context_notes(workload, fitted.run),
            *(
                f"{left // MIB} MiB stay free on {device}, less than the engine's margin of 1024 MiB"
                for device, left in short.items()
            ),
        )
        return Proposal(settled, to_placement(fitted.layout, devices), notes)

    def command(self, proposal: Proposal) -> tuple[str, ...]:
        """Return the llama-server command that realises the proposal."""
        devices = self._machine.device_names()
        run = make_run(self._model, self._gpus(devices), proposal.workload)
        words = ["llama-server", "-m", self._file_name(), "-c", str(run.total_context), "-np", str(run.n_slots)]
        if run.is_unified:
            words.append("--kv-unified")
        words += ["-ub", str(run.step_tokens)] if run.step_tokens != _DEFAULT_STEP else []
        words += ["-b", str(run.step_tokens)] if run.step_tokens > LOGICAL_BATCH else []
        words += _format_words(run, proposal.workload)
        words += ["--embedding"] if self._model.is_encoder else []
        return (*words, *self._placement_words(proposal, devices))

    def _file_name(self) -> str:
        """Return the file to load, where it is at hand and holds what was asked for."""
        stored, source = self._model.stored, self._model.source
        is_own = stored is not None and stored.format == self.weight_format
        return source if is_own and not _ELSEWHERE.match(source) else "MODEL.gguf"

    def _settle(self, workload: Workload) -> Workload:
        n_slots = workload.n_slots or workload.n_sequences or _DEFAULT_SLOTS
        check_slots(n_slots, workload)
        is_default = workload.n_slots is None and workload.n_sequences is None
        flash_attention = uses_flash_attention(self._model, self._gpus(self._machine.device_names()), workload)
        k, v = cache_formats(self._model, workload, flash_attention=flash_attention)
        return replace(
            workload,
            n_sequences=workload.n_sequences or 1,
            n_slots=n_slots,
            kv_unified=is_default if workload.kv_unified is None else workload.kv_unified,
            step_tokens=workload.step_tokens or _DEFAULT_STEP,
            k_format=k.name,
            v_format=v.name,
            flash_attention=flash_attention,
        )

    def _fit(self, settled: Workload, run: Run, devices: tuple[str, ...], *, is_context_free: bool) -> Fitted:
        free = tuple(self._free(device) for device in devices)
        fixed = self._asked_layout(settled, free)
        if not devices:
            return Fitted(lay_out(self._model.layers.n_layers, 0, ()), run)
        return Fit(self._meter, free, run, is_context_free, fixed).solve()

    def _asked_layout(self, workload: Workload, free: tuple[int, ...]) -> Layout | None:
        """Return the placement the user fixed, if any: layers, or experts kept in host memory."""
        if workload.gpu_layers is None and workload.cpu_moe is None:
            return None
        n_layers = self._model.layers.n_layers
        gpu_layers = n_layers + 1 if workload.gpu_layers is None else workload.gpu_layers
        away = ((i, expert_tensors(tuple(self._meter.weights.layers[i]))) for i in range(workload.cpu_moe or 0))
        elsewhere = tuple((i, tuple((name, CPU) for name in names)) for i, names in away if names)
        return lay_out(n_layers, gpu_layers, free, elsewhere)

    def _left(self, fitted: Fitted, devices: tuple[str, ...]) -> dict[str, int]:
        """Return what stays free on each GPU by the engine's own count."""
        reading = self._meter.read(fitted.layout, fitted.run)
        return {device: self._free(device) - reading.total(number) for number, device in enumerate(devices)}

    def _context_notes(self, workload: Workload, run: Run) -> Iterator[str]:
        per_stream = run.total_context // run.n_streams
        if workload.n_context is None and per_stream < self._model.context:
            shared = f", shared by {run.n_slots} slots" if run.is_unified and run.n_slots > 1 else ""
            cut = f"no context was asked for, so the engine's fit cut it to {per_stream} tokens{shared}"
            yield f"{cut} before moving a layer" if per_stream == LEAST_CONTEXT else cut
        if run.is_unified and (workload.n_sequences or 1) > 1:
            yield f"a unified cache is one pool: {workload.n_sequences} sequences share {per_stream} tokens"

    def _placement_words(self, proposal: Proposal, devices: tuple[str, ...]) -> Iterator[str]:
        load, placement = proposal.workload, proposal.placement
        on_gpus = sum(home != HOST for home in (*placement.layers, placement.output_device))
        yield from ("-ngl", str(on_gpus))
        if len(devices) > 1 and on_gpus:
            counts = [placement.layers_on(d) + (placement.output_device == d) for d in devices]
            yield from ("-ts", ",".join(map(str, counts)))
        if load.cpu_moe is not None:
            yield from ("--n-cpu-moe", str(load.cpu_moe))
            return
        for pattern in self._patterns(placement, devices):
            yield from ("-ot", pattern)

    def _patterns(self, placement: Placement, devices: tuple[str, ...]) -> Iterator[str]:
        """Yield overrides as the engine takes them, alike layers together; one without tensors names no layer."""
        layers_of: dict[tuple[str, str], list[str]] = {}
        for override in placement.overrides:
            buffer = "CPU"
            if override.device != HOST:
                backend = _BACKENDS.get(self._machine.gpu(override.device).vendor, "CUDA")
                buffer = f"{backend}{devices.index(override.device)}"
            names = "|".join(sorted({name.removesuffix(".bias") for name in override.tensors})) or "ffn_exps"
            layer = override.layer if override.tensors else self._model.layers.n_layers
            layers_of.setdefault((names, buffer), []).append(str(layer))
        for (names, buffer), layers in layers_of.items():
            yield f"blk\\.({'|'.join(layers)})\\.({names})={buffer}"


def _format_words(run: Run, workload: Workload) -> Iterator[str]:
    if run.k_format.name != "f16":
        yield from ("-ctk", run.k_format.name)
    if run.v_format.name != "f16":
        yield from ("-ctv", run.v_format.name)
    if workload.flash_attention is False:
        yield from ("-fa", "off")
    if run.swa_full:
        yield "--swa-full"
