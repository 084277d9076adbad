"""A llama-server process, started by hand or by Ollama: its bill and its budgets."""

from collections.abc import Mapping
from functools import cached_property

from vramcalc.engines._ggml.billing import Server, server_lines
from vramcalc.engines._ggml.fit import MARGIN_BYTES
from vramcalc.engines._ggml.meter import Meter
from vramcalc.engines._ggml.placing import to_layout
from vramcalc.engines._ggml.settling import DEFAULT_FORMAT, make_run
from vramcalc.engines._ggml.weights import load
from vramcalc.engines._runtime import context_bytes
from vramcalc.engines.base import Budget, Pool, Proposal, Readout, Setup
from vramcalc.errors import RefusedError
from vramcalc.formulas.capacity import usable_memory
from vramcalc.ledger import Ledger
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import FullAttention, LayerKind, ModelSpec, SlidingAttention
from vramcalc.specs.placement import Placement


class LlamaProcess:
    """What llama.cpp and Ollama share; each proposes in its own way."""

    margin_bytes = MARGIN_BYTES
    context_step = 256

    def __init__(self, setup: Setup, version: str, weight_format: str) -> None:
        if setup.machine.nodes > 1:
            raise RefusedError("one llama-server process runs on one machine", "ask for --nodes 1, or --engine vllm")
        self.version = version
        self.weight_format = weight_format
        self._model = as_loaded(setup.model)
        self._machine = setup.machine
        self._asked_format = setup.weight_format

    @cached_property
    def _meter(self) -> Meter:
        return Meter(self._model, load(self._model, self.weight_format))

    def bill(self, proposal: Proposal) -> Ledger:
        """Return a line for everything that takes memory."""
        devices = self._devices(proposal.placement)
        gpus = tuple(self._machine.gpu(device) for device in devices)
        run = make_run(self._model, gpus, proposal.workload)
        layout = to_layout(proposal.placement, devices)
        return Ledger.of(server_lines(Server(self._meter, run, layout, devices, gpus, self.weight_format)))

    def budgets(self, proposal: Proposal) -> Mapping[str, Budget]:
        """Return what a process may use on each card, less what others hold."""
        return {device: self._budget(device) for device in self._devices(proposal.placement)}

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

    def _devices(self, placement: Placement) -> tuple[str, ...]:
        """Return the GPUs the process opens."""
        del placement
        return self._machine.device_names()

    def _budget(self, device: str) -> Budget:
        capacity = usable_memory(self._machine.gpu(device), self._machine.os)
        reserve = self._machine.reserve_bytes
        why = f"{capacity.why}, less the reserve" if reserve else capacity.why
        return Budget(capacity.n_bytes, max(0, capacity.n_bytes - reserve), why)

    def _free(self, device: str) -> int:
        """Return what the engine sees free once its own context exists."""
        return max(0, self._budget(device).budget_bytes - context_bytes(self._machine.gpu(device)))

    def _gpus(self, devices: tuple[str, ...]) -> tuple[GpuSpec, ...]:
        return tuple(self._machine.gpu(device) for device in devices)

    def _format_notes(self) -> list[str]:
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
