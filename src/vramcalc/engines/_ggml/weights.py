"""The tensors of a model's GGUF as llama.cpp loads them: bytes of each in host memory and on a device.

Source: llama.cpp 0c1e570, src/llama-model.cpp and ggml/src/ggml-cuda; equal to the buffers the engine reports.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from math import prod

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.formulas.inventory import TensorGroup
from vramcalc.formulas.recipes import gguf_tensors
from vramcalc.specs.formats import BlockFormat
from vramcalc.specs.model import ModelSpec
from vramcalc.units import round_up

_DEVICE_ALIGNMENT, _HOST_ALIGNMENT = 128, 32
_ROW_PADDING = 512  # CUDA reads quantised rows in steps of so many elements
_OUTPUT_NAMES = frozenset({"output", "output_norm.weight", "output_norm.bias"})
_FIRST_LAYER_NAMES = frozenset(
    {"token_embd_norm.weight", "token_embd_norm.bias", "per_layer_model_proj", "per_layer_proj_norm.weight"}
)
_SHARED_NAMES = frozenset({"rope_freqs.weight"})


class Weight(Struct, frozen=True):
    """One tensor; what the engine pads is in ``device_bytes`` and ``host_bytes``."""

    name: str
    role: str
    shape: tuple[int, ...]
    n_bytes: int
    device_bytes: int
    host_bytes: int
    is_copy: bool = False  # of the embedding, as a tied head


Layer = Mapping[str, Weight]


class Weights(Struct, frozen=True, dict=True):
    """All tensors by place: the entrance's stay in host memory, each layer's and the output's go where it goes.

    ``shared`` tensors exist once on every device that holds layers.
    """

    entrance: tuple[Weight, ...]
    layers: tuple[Layer, ...]
    output: tuple[Weight, ...]
    shared: tuple[Weight, ...] = ()

    def all(self) -> Iterator[Weight]:
        """Yield the tensors of the file."""
        yield from self.entrance
        yield from self.shared
        yield from (w for w in self.output if not w.is_copy)
        for layer in self.layers:
            yield from layer.values()

    @property
    def n_tensors(self) -> int:
        """Tensors of the file."""
        return sum(1 for _ in self.all())

    @cached_property
    def layer_bytes(self) -> tuple[int, ...]:
        """Bytes of each layer on a device."""
        return tuple(sum(w.device_bytes for w in layer.values()) for layer in self.layers)


def load(model: ModelSpec, recipe: str) -> Weights:
    """Return every tensor of the model under a mix, each where llama.cpp puts it."""
    layers: list[dict[str, Weight]] = [{} for _ in range(model.layers.n_layers)]
    outside: list[Weight] = []
    for tensor in gguf_tensors(model, recipe):
        if not tensor.group.layers:
            outside.append(_weight(tensor.group, tensor.formats[0]))
            continue
        by_format: dict[BlockFormat, Weight] = {}
        for index, fmt in zip(tensor.group.layers, tensor.formats, strict=True):
            if fmt not in by_format:
                by_format[fmt] = _weight(tensor.group, fmt)
            layers[index][tensor.group.name] = by_format[fmt]
    for weight in outside:
        if weight.name in _FIRST_LAYER_NAMES:
            layers[0][weight.name] = weight
    output = [w for w in outside if w.name in _OUTPUT_NAMES]
    elsewhere = _OUTPUT_NAMES | _FIRST_LAYER_NAMES | _SHARED_NAMES
    entrance = tuple(w for w in outside if w.name not in elsewhere)
    if model.head == "tied" or (model.head == "none" and not model.is_encoder):
        output += [replace(w, name="output", role="head", is_copy=True) for w in entrance if w.name == "token_embd"]
    shared = tuple(w for w in outside if w.name in _SHARED_NAMES)
    return Weights(entrance, tuple(layers), tuple(output), shared)


def device_total(weights: Iterable[Weight]) -> int:
    """Return the bytes the tensors take on a device."""
    return sum(w.device_bytes for w in weights)


def host_total(weights: Iterable[Weight]) -> int:
    """Return the bytes the tensors take in host memory."""
    return sum(w.host_bytes for w in weights)


def _weight(group: TensorGroup, fmt: BlockFormat) -> Weight:
    *rows, columns = group.shape
    n_bytes = fmt.matrix_bytes(prod(rows) * group.copies, columns)
    shape = (*((group.copies,) if group.copies > 1 else ()), *group.shape)
    return padded(group.name, group.role, shape, n_bytes, fmt)


def padded(name: str, role: str, shape: tuple[int, ...], n_bytes: int, fmt: BlockFormat) -> Weight:
    """Return a tensor with what host memory and a device add to it."""
    missing = -shape[-1] % _ROW_PADDING if fmt.block_elements > 1 else 0
    on_device = n_bytes + fmt.bytes_for(missing) if missing else n_bytes
    return Weight(
        name, role, shape, n_bytes, round_up(on_device, _DEVICE_ALIGNMENT), round_up(n_bytes, _HOST_ALIGNMENT)
    )
