"""LoRA adapters: what they add to a model's tensors.

Source: llama.cpp 0c1e570, src/llama-adapter.cpp and src/llama-graph.cpp (build_lora_mm).
"""

from collections.abc import Sequence
from itertools import count

from msgspec.structs import replace

from vramcalc.engines._ggml.weights import Layer, Weight, Weights, padded
from vramcalc.errors import UsageError
from vramcalc.specs.companions import Adapter
from vramcalc.specs.formats import GGML

_ADAPTED_ROLES = ("attention", "mlp", "recurrent")  # what trainers adapt unless told otherwise


def adapt(weights: Weights, adapters: Sequence[Adapter]) -> Weights:
    """Return the weights with each adapter's two matrices beside every matrix it names.

    Raises ``UsageError`` for a target that no layer has.
    """
    layers = weights.layers
    for adapter in adapters:
        known = {name for layer in layers for name, weight in layer.items() if is_adaptable(weight)}
        missing = [target for target in adapter.targets if target not in known]
        if missing:
            raise UsageError(
                f"{adapter.source}: no layer has a matrix {missing[0]}", f"it has {', '.join(sorted(known))}"
            )
        layers = tuple(_adapted(layer, adapter) for layer in layers)
    return replace(weights, layers=layers)


def is_adaptable(weight: Weight) -> bool:
    """Return whether a weight is a plain matrix, and no adapter's itself."""
    return len(weight.shape) == 2 and ".lora_" not in weight.name and weight.role != "router"  # noqa: PLR2004


def _adapted(layer: Layer, adapter: Adapter) -> dict[str, Weight]:
    result = dict(layer)
    for name, weight in layer.items():
        is_chosen = name in adapter.targets if adapter.targets else weight.role in _ADAPTED_ROLES
        if is_chosen and is_adaptable(weight):
            rows, columns = weight.shape
            number = next(n for n in count() if f"{name}.lora_a{n}" not in layer)
            for part, shape in (("a", (adapter.rank, columns)), ("b", (rows, adapter.rank))):
                result[f"{name}.lora_{part}{number}"] = _thin(f"{name}.lora_{part}{number}", weight, shape, adapter)
    return result


def _thin(name: str, beside: Weight, shape: tuple[int, int], adapter: Adapter) -> Weight:
    fmt = GGML[adapter.weight_format]
    return padded(name, beside.role, shape, fmt.matrix_bytes(*shape), fmt)
