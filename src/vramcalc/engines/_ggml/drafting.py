"""A draft model beside the model it drafts for: a second model and context in the same process.

Source: llama.cpp 0c1e570, common/speculative.cpp (common_base_params_to_speculative) and common/fit.cpp.
"""

from collections.abc import Sequence
from functools import cached_property

from msgspec.structs import replace

from vramcalc.engines._ggml.billing import Server
from vramcalc.engines._ggml.layout import Layout, lay_out
from vramcalc.engines._ggml.meter import Meter, Reading
from vramcalc.engines._ggml.run import LOGICAL_BATCH, Run
from vramcalc.engines._ggml.settling import DEFAULT_FORMAT
from vramcalc.engines._ggml.weights import load
from vramcalc.errors import RefusedError
from vramcalc.formulas.recipes import resolve_recipe
from vramcalc.specs.companions import Draft
from vramcalc.specs.formats import F16
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import ModelSpec

_MOST_DRAFTED = 3  # tokens per step unless --spec-draft-n-max says otherwise
_MOST_VOCABULARY_DIFFERENCE = 128


class DraftModel:
    """A draft model bound to its format and layers; its cache is f16 and as long as the model's own."""

    def __init__(self, draft: Draft, gpu_layers: int | None) -> None:
        self.model = draft.model
        self.weight_format = draft.weight_format or draft.model.ollama_format or DEFAULT_FORMAT
        resolve_recipe(self.weight_format)
        n_layers = draft.model.layers.n_layers
        self.gpu_layers = n_layers + 1 if gpu_layers is None else gpu_layers

    @cached_property
    def meter(self) -> Meter:
        """Its measure, apart from the model's."""
        return Meter(self.model, load(self.model, self.weight_format))

    def wanted_rows(self, main: Run) -> int:
        """Return the rows of logits the model itself gives at once: of what was drafted in each slot and one more."""
        return min(LOGICAL_BATCH, main.n_slots * (1 + _MOST_DRAFTED))

    def run(self, main: Run) -> Run:
        """Return its run beside the model's: one row of logits per slot."""
        return replace(main, k_format=F16, v_format=F16, n_outputs=None)

    def layout(self, shares: Sequence[float]) -> Layout:
        """Return who holds which of its layers."""
        return lay_out(self.model.layers.n_layers, self.gpu_layers, shares)

    def read(self, main: Run, shares: Sequence[float]) -> Reading:
        """Return what the engine measures of it."""
        return self.meter.read(self.layout(shares), self.run(main))

    def server(self, main: Run, shares: Sequence[float], devices: tuple[str, ...], gpus: tuple[GpuSpec, ...]) -> Server:
        """Return it as a process of its own, in which it is none: the context of the driver is shared."""
        layout, run = self.layout(shares), self.run(main)
        label = f"draft model {self.model.name}: "
        return Server(self.meter, run, layout, devices, gpus, self.weight_format, label)

    def check(self, target: ModelSpec) -> None:
        """Raise ``RefusedError`` where the engine would not let it draft for ``target``."""
        own, wanted = (model.gguf_vocabulary or model.vocabulary for model in (self.model, target))
        if abs(own - wanted) > _MOST_VOCABULARY_DIFFERENCE:
            raise RefusedError(
                f"{self.model.name} cannot draft for {target.name}: {own} tokens of vocabulary do not match {wanted}",
                "take a draft model of the same family",
            )
