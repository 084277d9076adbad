"""Ollama before 0.12: its estimator places the layers, then its llama.cpp allocates what it really needs.

What is billed is what llama.cpp allocates; what Ollama said of it stands in the readouts. Derived: the allocations
follow today's llama.cpp, no run of that time is behind them.

Source: Ollama 0.5 to 0.11, server/sched.go (pickBestFullFitByLibrary), llm/memory.go, envconfig/config.go.
"""

from itertools import accumulate

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.engines._ggml.layout import Layout
from vramcalc.engines._ggml.placing import to_placement
from vramcalc.engines._ggml.process import LlamaProcess
from vramcalc.engines._ggml.settling import cache_formats, cache_notes, make_run
from vramcalc.engines._ggml.tensor import CPU
from vramcalc.engines._ollama.estimator import Estimated, Shape, estimate
from vramcalc.engines._ollama.readouts import ps_text
from vramcalc.engines._ollama.tags import tag_to_run
from vramcalc.engines.base import Proposal, Readout, Setup
from vramcalc.errors import RefusedError
from vramcalc.ledger import HOST, Ledger
from vramcalc.specs.model import FullAttention, ModelSpec
from vramcalc.specs.workload import Workload

_BATCH = 512
_F16_BYTES = 2


class EarlyRules(Struct, frozen=True):
    """Defaults of a release: context, and the slots it tried before it settled for one."""

    version: str
    context: int
    most_slots: int


# 0.6.7 raised the context (ollama#10452) and halved the slots; 0.10 left slots to the user (ollama#11330).
EARLY_RULES = (EarlyRules("0.5", 2048, 4), EarlyRules("0.6.7", 4096, 2), EarlyRules("0.10", 4096, 1))


class _Choice(Struct, frozen=True):
    """Slots, cards, and what was estimated for them."""

    n_slots: int
    devices: tuple[str, ...]
    estimated: Estimated


class EarlyOllama(LlamaProcess):
    """Ollama 0.5 to 0.11 bound to one model, machine and weight format."""

    name = "ollama"
    caches_prompts = False

    def __init__(self, setup: Setup, rules: EarlyRules, weight_format: str) -> None:
        super().__init__(setup, rules.version, weight_format)
        self._rules = rules
        _refuse_other_engines(setup.model, rules.version)

    def propose(self, workload: Workload) -> Proposal:
        """Fill in the defaults of the time and place the layers by the estimator."""
        settled, choice = self._settle(workload)
        layout = _layout_of(choice.estimated, self._model.layers.n_layers)
        run = make_run(self._model, self._gpus(choice.devices), settled)
        notes = (
            *self._format_notes(),
            f"Ollama {self.version} placed the layers by its own estimate, known to be high",
            f"billed for Ollama {self.version} is what today's llama.cpp allocates for those layers",
            *cache_notes(run, self._gpus(choice.devices), self._model),
        )
        return Proposal(settled, to_placement(layout, choice.devices), notes)

    def readouts(self, proposal: Proposal, ledger: Ledger) -> tuple[Readout, ...]:
        """Return the line of ``ollama ps``, which printed the estimate."""
        del ledger
        found = self._choose(proposal.workload, proposal.workload.n_slots or 1).estimated
        on_gpus = sum(found.card_bytes)
        return (Readout("ollama ps", None, found.total_bytes, ps_text(found.total_bytes, on_gpus)),)

    def command(self, proposal: Proposal) -> tuple[str, ...]:
        """Return the ``ollama run`` of the time: the context is a parameter of the model there."""
        load = proposal.workload
        settings = [f"OLLAMA_NUM_PARALLEL={load.n_slots}"]
        if load.flash_attention:
            settings.append("OLLAMA_FLASH_ATTENTION=1")
        if load.k_format != "f16":
            settings.append(f"OLLAMA_KV_CACHE_TYPE={load.k_format}")
        if load.n_context != self._rules.context:
            settings.append(f"OLLAMA_CONTEXT_LENGTH={load.n_context}")
        return ("env", *settings, "ollama", "run", tag_to_run(self._model, self.weight_format))

    def _settle(self, workload: Workload) -> tuple[Workload, _Choice]:
        flash_attention = bool(workload.flash_attention)
        k, v = cache_formats(self._model, workload, flash_attention=flash_attention)
        settled = replace(
            workload,
            n_context=min(workload.n_context or self._rules.context, self._model.context),
            n_sequences=workload.n_sequences or 1,
            step_tokens=workload.step_tokens or _BATCH,
            kv_unified=False,
            k_format=k.name,
            v_format=v.name,
            flash_attention=flash_attention,
        )
        asked = workload.n_slots or workload.n_sequences
        choice = self._choose(settled, asked) if asked else self._try_slots(settled)
        return replace(settled, n_slots=choice.n_slots), choice

    def _try_slots(self, workload: Workload) -> _Choice:
        """Return the most slots with which the whole model fits, else one."""
        for n_slots in dict.fromkeys((self._rules.most_slots, 1)):
            choice = self._choose(workload, n_slots)
            if choice.estimated.n_layers > self._model.layers.n_layers:
                return choice
        return self._choose(workload, 1)

    def _choose(self, workload: Workload, n_slots: int) -> _Choice:
        """Return one card that takes the whole model, the roomiest first, else all of them."""
        shape = self._shape(workload, n_slots)
        devices = self._machine.device_names()
        alone = () if workload.spread else sorted(devices, key=self._free, reverse=True)
        for device in alone:
            found = self._estimate(shape, workload, (device,))
            if found.n_layers > self._model.layers.n_layers:
                return _Choice(n_slots, (device,), found)
        return _Choice(n_slots, devices, self._estimate(shape, workload, devices))

    def _estimate(self, shape: Shape, workload: Workload, devices: tuple[str, ...]) -> Estimated:
        return estimate(
            shape,
            [self._free(device) for device in devices],
            asked_layers=workload.gpu_layers,
            overhead=workload.gpu_overhead_bytes,
            metal=any(gpu.vendor == "apple" for gpu in self._machine.gpus),
        )

    def _shape(self, workload: Workload, n_slots: int) -> Shape:
        model, weights = self._model, self._meter.weights
        n_context = (workload.n_context or 0) * n_slots
        attention = _full_attention(model)
        row_elements = 2 * attention.n_kv_heads * attention.head_dim
        n_kv_bytes = n_context * make_run(model, (), workload).k_format.bytes_for(row_elements)
        output = [w for w in weights.output if w.name.startswith("output")]
        return Shape(
            architecture=model.gguf_architecture or "",
            hidden_dim=model.hidden_dim,
            n_heads=attention.n_heads,
            n_kv_heads=attention.n_kv_heads,
            head_dim=attention.head_dim,
            vocabulary=model.gguf_vocabulary or model.vocabulary,
            layer_bytes=tuple(sum(w.n_bytes for w in layer.values()) for layer in weights.layers),
            kv_bytes=(n_kv_bytes,) * model.layers.n_layers,
            output_bytes=sum(w.n_bytes for w in output),
            n_context=n_context,
            n_batch=min(workload.n_context or 0, workload.step_tokens or _BATCH),
        )

    def _devices(self, proposal: Proposal) -> tuple[str, ...]:
        """Return the card that holds everything, or all."""
        placement = proposal.placement
        used = {*placement.layers, placement.output_device} - {HOST}
        return tuple(used) if len(used) == 1 else self._machine.device_names()


def _layout_of(estimated: Estimated, n_layers: int) -> Layout:
    """Return the layers as the llama.cpp of the time laid them: the output last, on a GPU only with all the others."""
    on_gpus = estimated.n_layers
    first = max(0, n_layers - on_gpus)
    bounds = list(accumulate(estimated.layers))
    homes = [
        next(card for card, bound in enumerate(bounds) if bound > index - first)
        if first <= index < first + on_gpus
        else CPU
        for index in range(n_layers + 1)
    ]
    return Layout(tuple(homes[:-1]), homes[-1], len(estimated.layers))


def _full_attention(model: ModelSpec) -> FullAttention:
    """Return the one attention of all layers, which ``_refuse_other_engines`` saw to."""
    attention = next(iter(model.layers.kinds.values())).attention
    assert isinstance(attention, FullAttention)  # noqa: S101
    return attention


def _refuse_other_engines(model: ModelSpec, version: str) -> None:
    """Raise ``RefusedError`` for what did not run on llama.cpp then, or was cached otherwise."""
    attentions = {kind.attention for kind in model.layers.kinds.values()}
    plain = len(attentions) == 1 and all(isinstance(a, FullAttention) for a in attentions)
    if not plain or model.is_recurrent:
        raise RefusedError(
            f"how Ollama {version} placed {model.name} is not modelled: only models of full attention are",
            "take ollama@0.30 or later",
        )
