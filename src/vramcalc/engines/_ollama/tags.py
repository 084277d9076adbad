"""What ``ollama run`` is to name."""

from collections.abc import Iterator

from vramcalc.engines.base import stand_in
from vramcalc.specs.model import ModelSpec


def tag_to_run(model: ModelSpec, weight_format: str) -> str:
    """Return the model's tag, or a stand-in for one made of a GGUF in a format the tag does not hold."""
    if _holds_other(model, weight_format):
        return stand_in(weight_format)
    return model.ollama_tag or model.id


def tag_notes(model: ModelSpec, weight_format: str) -> Iterator[str]:
    """Yield what to know of the name in the command."""
    if _holds_other(model, weight_format):
        holds = f"{model.ollama_tag} holds {model.ollama_format}: " if model.ollama_tag else ""
        made = f"{stand_in(weight_format)} stands for a tag or a model made of a GGUF in {weight_format}"
        yield f"{holds}{made} (`vramcalc launch --target ollama` prints its Modelfile)"
    elif model.ollama_tag is None:
        yield f"no Ollama tag of {model.name} is known: the command names its id here"


def _holds_other(model: ModelSpec, weight_format: str) -> bool:
    """Whether what is estimated is a file at hand, or a format the plain tag is known not to hold."""
    return model.stored is not None or (model.ollama_format is not None and model.ollama_format != weight_format)
