"""Ollama from 0.30 on: it chooses context, batch and cards, then runs llama-server, whose fit places the layers.

Source:
    Ollama 0.33 (fb30760, August 2026): llm/llama_server.go, server/sched.go, envconfig/config.go; llama.cpp 0c1e570.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from vramcalc.engines._ggml.fit import MARGIN_BYTES, Fit, Fitted
from vramcalc.engines._ggml.layout import lay_out
from vramcalc.engines._ggml.placing import to_placement
from vramcalc.engines._ggml.process import LlamaProcess
from vramcalc.engines._ggml.run import Run
from vramcalc.engines._ggml.settling import (
    cache_formats,
    cache_notes,
    cards_have_flash_attention,
    check_slots,
    choose_format,
    make_run,
    uses_flash_attention,
)
from vramcalc.engines._ggml.support import HANDLES, refuse_unknown
from vramcalc.engines._ollama import scheduling
from vramcalc.engines._ollama.environment import with_environment
from vramcalc.engines._ollama.readouts import ps_readout
from vramcalc.engines._ollama.tags import tag_notes, tag_to_run
from vramcalc.engines.base import Proposal, Readout, Setup
from vramcalc.errors import RefusedError
from vramcalc.formulas.capacity import usable_memory
from vramcalc.ledger import HOST, Ledger
from vramcalc.specs.workload import Workload
from vramcalc.units import MIB

if TYPE_CHECKING:
    from vramcalc.engines._ollama.early import EarlyOllama

__all__ = ["COMPANIONS", "HANDLES", "NAME", "VERSIONS", "Ollama", "bind", "with_environment"]

NAME = "ollama"
VERSIONS = ("0.30", "0.33")
COMPANIONS = frozenset({"--mmproj", "--lora"})
EARLY_VERSIONS = ("0.5", "0.6.7", "0.10")
_UNKNOWN = ((0, 12, 0), (0, 30, 0))  # its own engine's graph, measured while loading, placed the layers

_ONE_SLOT = frozenset(  # server/sched.go, load
    {
        *("mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe"),
        *("nemotron_h", "nemotron_h_moe", "nemotron_h_omni"),
    }
)
_UNMAPPED = (
    "Ollama turns mmap off here: layers off the GPU must fit memory, where llama-server alone maps them from disk"
)
_TAGS_PROJECTOR = "f16"
_SERVERS_OWN = (
    "OLLAMA_ settings are the server's: give them to `ollama serve` (or its service), where it does not run yet"
)
_CACHE_FORMATS = frozenset({"f16", "q8_0", "q4_0"})


def bind(setup: Setup) -> "Ollama | EarlyOllama":
    """Return the engine bound to ``setup``. Raises ``RefusedError`` for a format or version it has no rules for."""
    refuse_unknown(setup.model, NAME)
    version = _rules_for(setup.version)
    weight_format = choose_format(setup, NAME)
    if version in VERSIONS:
        return Ollama(_with_projector(setup), version, weight_format)
    from vramcalc.engines._ollama.early import EARLY_RULES, EarlyOllama  # noqa: PLC0415 - start-up

    return EarlyOllama(setup, next(rules for rules in EARLY_RULES if rules.version == version), weight_format)


def _with_projector(setup: Setup) -> Setup:
    """Return the setup with the projector that the tag of a model that sees brings along, which is taken to be f16."""
    companions = setup.companions
    sees = any(tensor.role == "vision" and not tensor.in_gguf for tensor in setup.model.extra_tensors)
    brings = companions.brings_projector and setup.model.ollama_tag is not None and setup.model.stored is None
    if companions.projector is not None or not (sees and brings):
        return setup
    return replace(setup, companions=replace(companions, projector=_TAGS_PROJECTOR))


def _rules_for(version: str | None) -> str:
    """Return the nearest earlier rule set."""
    if version is None:
        return VERSIONS[-1]
    parts = version.strip().removeprefix("v").split(".")
    if not all(part.isdecimal() for part in parts[:2]):
        raise RefusedError(f"{version!r} is not a version of Ollama", f"write e.g. ollama@{VERSIONS[-1]}")
    asked = _numbers(parts)
    earlier = [v for v in (*EARLY_VERSIONS, *VERSIONS) if _numbers(v.split(".")) <= asked]
    if not earlier or _UNKNOWN[0] <= asked < _UNKNOWN[1]:
        raise RefusedError(
            f"how Ollama {version} placed layers is not modelled: known are 0.5 to 0.11, by its own estimator, and "
            f"{VERSIONS[0]} or later, which run llama-server",
            f"take ollama@{VERSIONS[0]} or later",
        )
    return earlier[-1]


def _numbers(parts: Sequence[str]) -> tuple[int, int, int]:
    major, minor, patch = (int(part) if part.isdecimal() else 0 for part in (*parts, "0", "0")[:3])
    return major, minor, patch


class Ollama(LlamaProcess):
    """Ollama bound to one model, machine, weight format and version."""

    name = NAME

    def propose(self, workload: Workload) -> Proposal:
        """Fill in Ollama's defaults, choose the cards and let llama.cpp's fit place the layers."""
        _check(workload)
        settled = self._settle(workload)
        devices = self._choose_cards(settled)
        settled = replace(settled, step_tokens=workload.step_tokens or self._choose_batch(workload, settled, devices))
        run = make_run(self._model, self._gpus(devices), settled)
        fitted = self._fit(settled, run, devices)
        notes = (
            *self._format_notes(),
            *self._projector_notes(),
            *self._context_notes(workload, settled),
            _SERVERS_OWN,
            *cache_notes(run, self._gpus(devices), self._model),
            *self._margin_notes(fitted, devices),
        )
        placement = to_placement(fitted.layout, devices)
        if placement.offloads and not self.maps_weights:
            notes = (*notes, _UNMAPPED)
        return Proposal(settled, placement, notes, self._loading(fitted.layout, settled, devices))

    def command(self, proposal: Proposal) -> tuple[str, ...]:
        """Return the ``ollama run`` that realises the proposal, with what Ollama reads from the environment."""
        load = proposal.workload
        settings = [f"OLLAMA_CONTEXT_LENGTH={load.n_context}"]
        if load.n_slots != 1:
            settings.append(f"OLLAMA_NUM_PARALLEL={load.n_slots}")
        if load.k_format != "f16":
            settings.append(f"OLLAMA_KV_CACHE_TYPE={load.k_format}")
        if load.flash_attention is False:
            settings.append("OLLAMA_FLASH_ATTENTION=0")
        if load.spread:
            settings.append("OLLAMA_SCHED_SPREAD=1")
        return ("env", *settings, "ollama", "run", tag_to_run(self._model, self.weight_format))

    def admits_beside(self, proposal: Proposal, free_bytes: int) -> bool:
        """Whether the scheduler loads the model beside others into what is free, instead of evicting them."""
        load = proposal.workload
        surcharge = scheduling.surcharge_bytes(load.step_tokens or 0)
        return scheduling.admits(self._predicted(load) + surcharge, free_bytes)

    def readouts(self, proposal: Proposal, ledger: Ledger) -> tuple[Readout, ...]:
        """Return the line of ``ollama ps``."""
        n_layers = len(proposal.placement.layers) + 1
        whole = proposal.placement.gpu_layers >= n_layers and not proposal.placement.overrides
        return (ps_readout(ledger, whole=whole, n_context=proposal.workload.n_context or 0),)

    @property
    def maps_weights(self) -> bool:
        """Whether llama-server is started with mmap: not on macOS with layers off the GPU, nor with CUDA on Windows."""
        vendors = {gpu.vendor for gpu in self._machine.gpus}
        return "apple" not in vendors and not (self._machine.os == "windows" and "nvidia" in vendors)

    def _settle(self, workload: Workload) -> Workload:
        n_slots = 1 if self._has_one_slot else workload.n_slots or workload.n_sequences or 1
        if not self._has_one_slot:
            check_slots(n_slots, workload)
        flash_attention = uses_flash_attention(self._model, self._gpus(self._machine.device_names()), workload)
        k, v = cache_formats(self._model, workload, flash_attention=flash_attention)
        return replace(
            workload,
            n_context=self._context(workload),
            n_sequences=workload.n_sequences or 1,
            n_slots=n_slots,
            kv_unified=False,
            k_format=k.name,
            v_format=k.name if workload.v_format is None else v.name,
            flash_attention=flash_attention,
            keeps_attention=workload.flash_attention is not None,
        )

    @property
    def _has_one_slot(self) -> bool:
        """Whether Ollama forces one slot: embedding models, and some architectures."""
        return self._model.is_encoder or self._model.gguf_architecture in _ONE_SLOT

    def _context(self, workload: Workload) -> int:
        """Return the context asked for, at most the trained one, or the default by total VRAM."""
        if workload.n_context is not None:
            return min(workload.n_context, self._model.context)
        each = (usable_memory(gpu, self._machine.os).n_bytes for gpu in self._machine.gpus)
        total = sum(max(0, n_bytes - workload.gpu_overhead_bytes) for n_bytes in each)
        return scheduling.default_context(total, self._model.context)

    def _predicted(self, workload: Workload) -> int:
        n_context = (workload.n_context or 0) * (workload.n_slots or 1)
        return scheduling.predicted_bytes(self._meter.weights, self._model, n_context)

    def _choose_cards(self, workload: Workload) -> tuple[str, ...]:
        free = {device: self._free(device) for device in self._machine.device_names()}
        return scheduling.choose_cards(self._predicted(workload), free, spread=workload.spread)

    def _choose_batch(self, asked: Workload, settled: Workload, devices: tuple[str, ...]) -> int:
        """Return the batch, which is also the step."""
        n_context = settled.n_context or 0
        if self._model.is_encoder:
            return scheduling.encoder_batch(n_context)
        total, gpus, free = n_context * (settled.n_slots or 1), self._gpus(devices), [self._free(d) for d in devices]
        lacks_flash_attention = asked.flash_attention is False or not cards_have_flash_attention(gpus)
        if lacks_flash_attention and any(map(scheduling.runs_cuda, gpus)):
            return scheduling.batch_without_flash_attention(gpus, free, total)
        return scheduling.choose_batch(self._predicted(settled), sum(free), total)

    def _fit(self, workload: Workload, run: Run, devices: tuple[str, ...]) -> Fitted:
        n_layers = self._model.layers.n_layers
        if not devices:
            return Fitted(lay_out(n_layers, 0, ()), run)
        free = tuple(self._free(device) for device in devices)
        asked = workload.gpu_layers
        fixed = None if asked is None else lay_out(n_layers, asked, free)
        margins = self._margins(devices)
        return Fit(self._meter, free, run, is_context_free=False, fixed=fixed, margins=margins).solve()

    @property
    def margin_bytes(self) -> int:
        """What the fit keeps free: Ollama raises it by the size of a projector's file."""
        return super().margin_bytes + (0 if self._projector is None else self._projector.weight_bytes)

    def _margins(self, devices: tuple[str, ...]) -> tuple[int, ...]:
        """Return the margins asked of the fit; llama-server adds the projector, which is billed too."""
        more = self.margin_bytes - super().margin_bytes
        return tuple(margin + more for margin in super()._margins(devices))

    def _devices(self, proposal: Proposal) -> tuple[str, ...]:
        """Return the cards of a placement: the one that holds everything, or all."""
        placement = proposal.placement
        used = {*placement.layers, placement.output_device} - {HOST}
        return tuple(used) if len(used) == 1 else self._machine.device_names()

    def _context_notes(self, workload: Workload, settled: Workload) -> Iterator[str]:
        if workload.n_context is None:
            yield f"Ollama takes {settled.n_context} tokens of context by the machine's VRAM, as none was asked for"
        elif workload.n_context > self._model.context:
            trained = f"the {self._model.context} tokens {self._model.name} was trained on"
            yield f"Ollama cuts the context asked for to {trained}"
        yield from tag_notes(self._model, self.weight_format)
        if self._has_one_slot and (workload.n_sequences or 1) > 1:
            kind = "an embedding model" if self._model.is_encoder else self._model.name
            yield f"Ollama gives {kind} one slot: requests run one after another"

    def _projector_notes(self) -> Iterator[str]:
        if self._projector is not None:
            brought = f"{self._model.ollama_tag} brings its vision projector" if self._model.ollama_tag else "projector"
            yield f"{brought}, billed as {self._companions.projector}; --mmproj none leaves it out"

    def _margin_notes(self, fitted: Fitted, devices: tuple[str, ...]) -> Iterator[str]:
        reading = self._meter.read(fitted.layout, fitted.run)
        for number, device in enumerate(devices):
            left = self._free(device) - reading.total(number)
            if left < MARGIN_BYTES:
                yield f"{left // MIB} MiB stay free on {device}, less than llama.cpp's margin of 1024 MiB"


def _check(workload: Workload) -> None:
    """Raise ``RefusedError`` for llama.cpp's settings that Ollama has no switch for."""
    if workload.cpu_moe is not None:
        raise RefusedError("Ollama cannot keep experts in host memory by layer", "use --engine llama.cpp")
    if workload.kv_unified:
        raise RefusedError("Ollama runs llama-server with separate streams", "leave --kv-unified out")
    changed = [option for option, is_changed in _without_switch(workload) if is_changed]
    if changed:
        raise RefusedError(f"Ollama has no switch for {changed[0]}", "use --engine llama.cpp")
    if workload.swa_full:
        raise RefusedError("Ollama has no switch for full-size sliding caches", "use --engine llama.cpp")
    if None not in (workload.k_format, workload.v_format) and workload.k_format != workload.v_format:
        raise RefusedError("Ollama has one type for K and V", f"give one: --kv-type {workload.k_format}")
    for name in (workload.k_format, workload.v_format):
        if name is not None and name not in _CACHE_FORMATS and not name.startswith("fp8"):
            raise RefusedError(f"Ollama's cache is f16, q8_0 or q4_0, not {name}", "take q8_0: --kv-type q8_0")


def _without_switch(workload: Workload) -> Iterator[tuple[str, bool]]:
    """Yield settings of llama-server that Ollama does not pass on, and whether they are asked for."""
    yield "--override", bool(workload.overrides)
    yield "--tensor-split", workload.tensor_split is not None
    yield "--split-mode", workload.split_mode is not None
    yield "--main-gpu", workload.main_gpu is not None
    yield "--no-kv-offload", not workload.kv_offload
    yield "--no-op-offload", not workload.op_offload
    yield "--no-mmap", not workload.mmap
    yield "--mlock", workload.mlock
    yield "--no-repack", not workload.repack
