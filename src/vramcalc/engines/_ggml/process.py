"""A llama-server process, started by hand or by Ollama: its bill and its budgets."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from vramcalc.engines._ggml.billing import Server, server_lines
from vramcalc.engines._ggml.fit import MARGIN_BYTES
from vramcalc.engines._ggml.host_caches import host_cache_lines
from vramcalc.engines._ggml.layout import Layout
from vramcalc.engines._ggml.meter import Meter, Reading
from vramcalc.engines._ggml.placing import to_layout
from vramcalc.engines._ggml.run import Run
from vramcalc.engines._ggml.settling import DEFAULT_FORMAT, make_run
from vramcalc.engines._ggml.tensor import CPU
from vramcalc.engines._ggml.weights import load
from vramcalc.engines._runtime import context_bytes
from vramcalc.engines.base import Budget, Pool, Proposal, Readout, Setup
from vramcalc.errors import RefusedError
from vramcalc.formulas.capacity import usable_memory
from vramcalc.ledger import HOST, Ledger, Line
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import FullAttention, LayerKind, ModelSpec, SlidingAttention
from vramcalc.specs.workload import Workload
from vramcalc.units import MIB

if TYPE_CHECKING:
    from vramcalc.engines._ggml.drafting import DraftModel
    from vramcalc.engines._ggml.projector import Projector

_STAGING_BYTES = 4 * MIB


class LlamaProcess:
    """What llama.cpp and Ollama share; each proposes in its own way."""

    context_step = 256  # the granularity of its cache
    caches_prompts = True

    def __init__(self, setup: Setup, version: str, weight_format: str, *, is_older: bool = False) -> None:
        if setup.machine.nodes > 1:
            raise RefusedError("one llama-server process runs on one machine", "ask for --nodes 1, or --engine vllm")
        self.version = version
        self.weight_format = weight_format
        self._model = as_loaded(setup.model)
        self._machine = setup.machine
        self._asked_format = setup.weight_format
        self._companions = setup.companions
        self._is_older = is_older  # than the build whose rules are used

    @cached_property
    def _meter(self) -> Meter:
        return Meter(self._model, load(self._model, self.weight_format))

    @cached_property
    def _adapted(self) -> Meter | None:
        """The model with its adapters, which the engine loads after its fit."""
        adapters = self._companions.adapters
        if not adapters:
            return None
        from vramcalc.engines._ggml.adapters import adapt  # noqa: PLC0415 - start-up

        return Meter(self._model, adapt(self._meter.weights, adapters))

    @cached_property
    def _projector(self) -> "Projector | None":
        if self._companions.projector is None:
            return None
        from vramcalc.engines._ggml.projector import Projector  # noqa: PLC0415 - start-up

        return Projector(self._model, self._companions.projector)

    def _draft(self, workload: Workload) -> "DraftModel | None":
        if self._companions.draft is None:
            return None
        from vramcalc.engines._ggml.drafting import DraftModel  # noqa: PLC0415 - start-up

        return DraftModel(self._companions.draft, workload.draft_gpu_layers)

    def _run(self, devices: tuple[str, ...], workload: Workload) -> Run:
        """Return the run's settings; with a draft model each slot answers for what was drafted and one more."""
        run = make_run(self._model, self._gpus(devices), workload)
        draft = self._draft(workload)
        return run if draft is None else replace(run, n_outputs=draft.wanted_rows(run))

    def _loading(self, layout: Layout, workload: Workload, devices: tuple[str, ...]) -> dict[str, int]:
        """Return what loading takes for a while: nothing on GPUs; on the host the file's pages on their way to them.

        Source: llama.cpp 0c1e570, src/llama-model-loader.cpp (load_all_data): mapped pages, or four buffers of 1 MiB.
        """
        passing = sum(w.n_bytes for w in self._meter.weights.all()) - self._meter.weight_bytes(layout)[CPU]
        is_mapped = self.maps_weights and workload.mmap
        return {**dict.fromkeys(devices, 0), HOST: max(0, passing) if is_mapped else _STAGING_BYTES}

    def bill(self, proposal: Proposal) -> Ledger:
        """Return a line for everything that takes memory."""
        return Ledger.of(self._lines(proposal))

    def _lines(self, proposal: Proposal) -> Iterator[Line]:
        devices = self._devices(proposal)
        gpus = self._gpus(devices)
        run = self._run(devices, proposal.workload)
        layout = to_layout(proposal.placement, devices)
        main = Server(
            self._meter, run, layout, devices, gpus, self.weight_format, adapted=self._adapted, is_older=self._is_older
        )
        yield from server_lines(main)
        if self._projector is not None:
            yield from self._projector.lines(devices[0] if devices else HOST)
        draft = self._draft(proposal.workload)
        if draft is not None:
            shares = self._draft_shares(proposal.workload, layout, run, devices)
            yield from server_lines(draft.server(run, shares, devices, gpus))
        if self.caches_prompts:
            yield from host_cache_lines(self._meter, run)

    def _draft_shares(
        self, workload: Workload, layout: Layout, run: Run, devices: tuple[str, ...]
    ) -> tuple[float, ...]:
        """Return how GPUs share a draft model's layers: as the model's, where a split is set, else by what is left."""
        if workload.tensor_split is not None:
            return workload.tensor_split
        reading = self._meter.read(layout, run)
        return tuple(max(0, self._free(device) - reading.total(number)) for number, device in enumerate(devices))

    def budgets(self, proposal: Proposal) -> Mapping[str, Budget]:
        """Return what a process may use on each card, less what others hold."""
        return {device: self._budget(device) for device in self._devices(proposal)}

    @property
    def margin_bytes(self) -> int:
        """What the fit keeps free beside all that is billed."""
        return MARGIN_BYTES

    @property
    def maps_weights(self) -> bool:
        """Whether weights in host memory are mapped from the file: llama-server's default."""
        return True

    def readouts(self, proposal: Proposal, ledger: Ledger) -> tuple[Readout, ...]:
        """Return nothing: llama-server has no tool of its own."""
        del proposal, ledger
        return ()

    def pool(self, proposal: Proposal, ledger: Ledger) -> Pool | None:
        """Return None: the cache is allocated as asked."""
        del proposal, ledger
        return None

    def _beside(self, settled: Workload, free: tuple[int, ...]) -> Callable[[Run], Reading] | None:
        """Return the fit's measure of a draft model, which it adds to every measure of the model itself."""
        draft = self._draft(settled)
        if draft is None:
            return None
        draft.check(self._model)
        return lambda run: draft.read(run, settled.tensor_split or free)

    def _margins(self, devices: tuple[str, ...]) -> tuple[int, ...]:
        """Return what the fit keeps free: a projector is added to the margin of the first GPU, which holds it."""
        beside = 0 if self._projector is None else self._projector.total_bytes()
        return tuple(MARGIN_BYTES + (0 if number else beside) for number in range(len(devices)))

    def _devices(self, proposal: Proposal) -> tuple[str, ...]:
        """Return the GPUs the process opens."""
        del proposal
        return self._machine.device_names()

    def _budget(self, device: str) -> Budget:
        capacity = usable_memory(self._machine.gpu(device), self._machine.os)
        reserve = self._machine.reserve_on(device)
        why = f"{capacity.why}, less the reserve" if reserve else capacity.why
        return Budget(capacity.n_bytes, max(0, capacity.n_bytes - reserve), why)

    def _free(self, device: str) -> int:
        """Return what the engine sees free once its own context exists."""
        return max(0, self._budget(device).budget_bytes - context_bytes(self._machine.gpu(device)))

    def _gpus(self, devices: tuple[str, ...]) -> tuple[GpuSpec, ...]:
        return tuple(self._machine.gpu(device) for device in devices)

    def _format_notes(self) -> list[str]:
        stored = self._model.stored
        if stored is not None and self.weight_format == stored.format:
            return [f"the weights are the file's own, tensor by tensor: {self._model.source}"]
        if stored is not None:
            return [
                f"the file holds {stored.format}; the figures are for the same model made into {self.weight_format}"
            ]
        if self._asked_format is not None:
            return []
        if self._model.ollama_format is None:
            return [f"{DEFAULT_FORMAT} is taken, the mix most people run; --quant names another"]
        return [f"{self.weight_format} is taken, the format of the model's plain Ollama tag; --quant names another"]


def as_loaded(model: ModelSpec) -> ModelSpec:
    """Return the model as llama.cpp sees it: some windows it does not read, and caches every token."""
    kinds = {name: _as_loaded(kind) for name, kind in model.layers.kinds.items()}
    if kinds == model.layers.kinds:
        return model
    return model.model_copy(update={"layers": model.layers.model_copy(update={"kinds": kinds})})


def _as_loaded(kind: LayerKind) -> LayerKind:
    attention = kind.attention
    if not isinstance(attention, SlidingAttention) or attention.gguf_window:
        return kind
    traits = attention.model_dump(exclude={"kind", "window", "gguf_window"})
    return kind.model_copy(update={"attention": FullAttention(kind="full", **traits)})
