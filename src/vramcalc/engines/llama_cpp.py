"""llama.cpp: ``llama-server`` with its defaults, and its own fit of context, layers and experts to free memory.

Source:
    llama.cpp 0c1e570 (October 2026): tools/server/server.cpp, common/common.h, common/fit.cpp, src/.
"""

import re
from collections.abc import Iterator

from msgspec.structs import replace

from vramcalc.engines._ggml.command import DEFAULT_STEP, Words
from vramcalc.engines._ggml.fit import LEAST_CONTEXT, MARGIN_BYTES, Fit, Fitted
from vramcalc.engines._ggml.layout import lay_out
from vramcalc.engines._ggml.overriding import asked_layout, placement_notes
from vramcalc.engines._ggml.placing import to_placement
from vramcalc.engines._ggml.process import LlamaProcess
from vramcalc.engines._ggml.run import Run
from vramcalc.engines._ggml.settling import (
    cache_formats,
    cache_notes,
    check_slots,
    choose_format,
    uses_flash_attention,
)
from vramcalc.engines._ggml.support import HANDLES, check_graph, refuse_unknown
from vramcalc.engines._ggml.tensor import CPU
from vramcalc.engines.base import Proposal, Setup
from vramcalc.errors import RefusedError
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import FullAttention, ModelSpec
from vramcalc.specs.workload import Workload
from vramcalc.units import MIB

__all__ = ["COMPANIONS", "HANDLES", "NAME", "VERSIONS", "LlamaCpp", "bind"]

NAME = "llama.cpp"
VERSIONS = ("b10488",)
COMPANIONS = frozenset({"--draft", "--mmproj", "--lora"})

_DEFAULT_SLOTS = 4
_MOST_ASIDE = 2  # GPUs up to which another fit costs little
_BUILD = re.compile(r"b?(\d+)")
_ELSEWHERE = re.compile(r"[a-z]{2,}:")  # a hub, a registry, a web address
_FIRST_BUILD = 10488


def bind(setup: Setup) -> "LlamaCpp":
    """Return the engine bound to ``setup``. Raises ``RefusedError`` for a format or build it has no rules for."""
    refuse_unknown(setup.model, NAME)
    build = _build(setup.version)
    if build < _FIRST_BUILD and not _caches_as_ever(setup.model):
        raise RefusedError(
            f"no rules are known for llama.cpp {setup.version}: older builds kept other caches for {setup.model.name}",
            f"the oldest known build is {VERSIONS[0]}: leave it out",
        )
    return LlamaCpp(setup, VERSIONS[-1], choose_format(setup, NAME), is_older=build < _FIRST_BUILD)


def _build(version: str | None) -> int:
    if version is None:
        return _FIRST_BUILD
    match = _BUILD.fullmatch(version.strip().lower())
    if match is None:
        raise RefusedError(f"{version!r} is not a build of llama.cpp", f"write e.g. llama.cpp@{VERSIONS[-1]}")
    return int(match[1])


def _caches_as_ever(model: ModelSpec) -> bool:
    """Return whether builds of all ages keep the same cache: rows of full attention for every token."""
    return all(isinstance(kind.attention, FullAttention) and kind.mixer is None for kind in model.layers.kinds.values())


class LlamaCpp(LlamaProcess):
    """llama-server bound to one model, machine, weight format and build."""

    name = NAME

    def propose(self, workload: Workload) -> Proposal:
        """Fill in the server's defaults and let its fit place the model."""
        devices = self._opened(workload)
        gpus = self._gpus(devices)
        settled = self._settle(workload, gpus)
        run = self._run(devices, settled)
        check_graph(self._meter, run)
        is_context_free = workload.n_context is None
        fitted = self._fit(settled, run, devices, is_context_free=is_context_free)
        asked = (workload.gpu_layers, workload.cpu_moe, workload.tensor_split, workload.overrides or None)
        is_by_fit = all(setting is None for setting in asked)
        short = {d: left for d, left in self._left(fitted, settled, devices).items() if left < MARGIN_BYTES}
        if is_context_free:
            total = fitted.run.total_context
            n_context = total if fitted.run.is_unified else total // fitted.run.n_slots
            settled = replace(settled, n_context=n_context)
            if short and fitted.gpu_layers is None and is_by_fit:
                settled = replace(
                    settled, gpu_layers=fitted.layout.gpu_layers
                )  # the same context, asked for, moves some
        notes = (
            *self._format_notes(),
            *cache_notes(fitted.run, gpus, self._model),
            *self._context_notes(workload, settled, fitted.run, devices),
            *placement_notes(fitted.layout, devices, by_fit=is_by_fit, is_moe=self._model.is_moe),
            *(_margin_note(device, left) for device, left in short.items()),
        )
        loading = self._loading(fitted.layout, settled, devices)
        return Proposal(settled, to_placement(fitted.layout, devices), notes, loading)

    def command(self, proposal: Proposal) -> tuple[str, ...]:
        """Return the llama-server command that realises the proposal."""
        devices = self._devices(proposal)
        words = Words(
            proposal,
            self._run(devices, proposal.workload),
            self._machine,
            devices,
            self._companions,
            self._model.is_encoder,
            self._draft(proposal.workload),
            self._file_name(),
        )
        return tuple(words.all())

    def _file_name(self) -> str:
        """Return the file to load, where it is at hand and holds what was asked for."""
        stored, source = self._model.stored, self._model.source
        is_own = stored is not None and stored.format == self.weight_format
        return source if is_own and not _ELSEWHERE.match(source) else "MODEL.gguf"

    def _settle(self, workload: Workload, gpus: tuple[GpuSpec, ...]) -> Workload:
        n_slots = workload.n_slots or workload.n_sequences or _DEFAULT_SLOTS
        check_slots(n_slots, workload)
        is_default = workload.n_slots is None and workload.n_sequences is None
        flash_attention = uses_flash_attention(self._model, gpus, workload)
        k, v = cache_formats(self._model, workload, flash_attention=flash_attention)
        return replace(
            workload,
            n_sequences=workload.n_sequences or 1,
            n_slots=n_slots,
            kv_unified=is_default if workload.kv_unified is None else workload.kv_unified,
            step_tokens=workload.step_tokens or DEFAULT_STEP,
            k_format=k.name,
            v_format=v.name,
            flash_attention=flash_attention,
            keeps_attention=workload.flash_attention is not None,
        )

    def _fit(self, settled: Workload, run: Run, devices: tuple[str, ...], *, is_context_free: bool) -> Fitted:
        free = tuple(self._free(device) for device in devices)
        fixed = asked_layout(settled, self._meter.weights, devices, free)
        if not devices:
            return Fitted(lay_out(self._model.layers.n_layers, 0, ()), run)
        return Fit(
            self._meter,
            free,
            run,
            is_context_free,
            fixed,
            beside=self._beside(settled, free),
            margins=self._margins(devices),
        ).solve()

    def _devices(self, proposal: Proposal) -> tuple[str, ...]:
        return self._opened(proposal.workload)

    def _instead(self, settled: Workload, run: Run, devices: tuple[str, ...]) -> str:
        """Return what asking for the trained context would have given: layers move then, and tokens stay."""
        if len(devices) > _MOST_ASIDE:
            return ""
        longest = run.with_context(self._model.context * run.n_streams)
        layout = self._fit(settled, longest, devices, is_context_free=False).layout
        kept = f"{layout.gpu_layers} of {self._model.layers.n_layers + 1} layers on GPUs"
        if layout.elsewhere:
            n_away = sum(any(home == CPU for _, home in away) for _, away in layout.elsewhere)
            kept += f", {n_away} of them without experts" if self._model.is_moe else f", {n_away} of them in part"
        return f"; --context 0 keeps all {self._model.context} tokens, with {kept}"

    def _opened(self, workload: Workload) -> tuple[str, ...]:
        """Return the GPUs the process opens: one alone where the model is not to be split."""
        devices = self._machine.device_names()
        number = workload.main_gpu or 0
        if workload.split_mode not in (None, "layer", "none"):
            raise RefusedError(
                f"--split-mode {workload.split_mode} is not modelled for llama.cpp: no row of it is measured",
                "take layer, the default, or none",
            )
        if number >= max(1, len(devices)):
            raise RefusedError(f"--main-gpu {number}: the machine has {len(devices)} GPUs", "they count from 0")
        return (devices[number],) if workload.split_mode == "none" and devices else devices

    def _left(self, fitted: Fitted, settled: Workload, devices: tuple[str, ...]) -> dict[str, int]:
        """Return what stays free on each GPU by the engine's own count."""
        readings = [self._meter.read(fitted.layout, fitted.run)]
        beside_it = self._beside(settled, tuple(self._free(device) for device in devices))
        if beside_it is not None:
            readings.append(beside_it(fitted.run))
        beside = [margin - MARGIN_BYTES for margin in self._margins(devices)]
        return {
            device: self._free(device) - beside[number] - sum(reading.total(number) for reading in readings)
            for number, device in enumerate(devices)
        }

    def _context_notes(
        self, workload: Workload, settled: Workload, run: Run, devices: tuple[str, ...]
    ) -> Iterator[str]:
        per_stream = run.total_context // run.n_streams
        if workload.n_context is None and per_stream < self._model.context:
            shared = f", shared by {run.n_slots} slots" if run.is_unified and run.n_slots > 1 else ""
            cut = f"no context was asked for, so the engine's fit cut it to {per_stream} tokens{shared}"
            is_least = per_stream == LEAST_CONTEXT
            yield f"{cut} before moving a layer{self._instead(settled, run, devices)}" if is_least else cut
        if run.is_unified and (workload.n_sequences or 1) > 1:
            yield f"a unified cache is one pool: {workload.n_sequences} sequences share {per_stream} tokens"


def _margin_note(device: str, left: int) -> str:
    if left < 0:
        return f"the engine's fit calls it a success, yet projects {-left // MIB} MiB more than {device} has free"
    return f"{left // MIB} MiB stay free on {device}, less than the engine's margin of 1024 MiB"
