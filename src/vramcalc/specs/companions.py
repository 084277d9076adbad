"""What is loaded beside a model: a draft model, a vision projector, adapters."""

from msgspec import Struct

from vramcalc.specs.model import ModelSpec


class Draft(Struct, frozen=True):
    """A smaller model that proposes tokens; ``weight_format`` None leaves the choice to the engine."""

    model: ModelSpec
    weight_format: str | None = None


class Adapter(Struct, frozen=True):
    """A LoRA adapter: two thin matrices of ``rank`` beside every matrix of its target modules, by ggml name."""

    rank: int
    targets: tuple[str, ...] = ()  # none named: all matrices of attention and MLP
    weight_format: str = "f32"  # what the converter writes unless told otherwise
    source: str = "--lora"


class Companions(Struct, frozen=True):
    """All of them; ``projector`` is the storage type of the model's own vision tower, None where nobody asked for it.

    An engine whose releases bring their projector loads it then, unless ``brings_projector`` is False.
    """

    draft: Draft | None = None
    projector: str | None = None
    adapters: tuple[Adapter, ...] = ()
    brings_projector: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Return the options behind what is there."""
        present = {"--draft": self.draft, "--mmproj": self.projector, "--lora": self.adapters or None}
        return tuple(option for option, value in present.items() if value is not None)
