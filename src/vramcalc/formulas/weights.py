"""What a file holds of a model under a weight format: one home for GGUF mixes and checkpoint quantisers."""

from collections import Counter
from collections.abc import Iterator
from math import prod

from msgspec import Struct

from vramcalc.errors import UnknownNameError
from vramcalc.formulas.inventory import TensorGroup, tensor_groups
from vramcalc.formulas.recipes import gguf_tensors
from vramcalc.specs.formats import CHECKPOINT, FLOATS, OTHER_RUNTIMES, BlockFormat, ScaledFormat
from vramcalc.specs.model import ModelSpec, Role

_SCALED = {**CHECKPOINT, **OTHER_RUNTIMES}


class StoredTensor(Struct, frozen=True):
    """Equal tensors in one storage type."""

    name: str
    role: Role
    storage: str
    n_elements: int
    n_bytes: int


def stored_tensors(model: ModelSpec, weight_format: str) -> Iterator[StoredTensor]:
    """Yield what a file of this format holds. Raises ``UnknownNameError`` for a format nobody knows."""
    if is_checkpoint_format(weight_format):
        yield from _checkpoint_tensors(model, weight_format)
        return
    try:
        tensors = gguf_tensors(model, weight_format)
    except UnknownNameError as error:
        error.hint = error.hint or f"checkpoint formats are {', '.join(_SCALED)}"
        raise
    for tensor in tensors:
        group = tensor.group
        per_layer = group.n_elements // len(tensor.formats)
        for fmt, n_layers in Counter(tensor.formats).items():
            rows = group.copies * prod(group.shape[:-1])
            n_bytes = n_layers * fmt.matrix_bytes(rows, group.shape[-1])
            yield StoredTensor(group.name, group.role, fmt.name, n_layers * per_layer, n_bytes)


def is_checkpoint_format(weight_format: str) -> bool:
    """Whether a checkpoint stores its tensors so, each matrix in one format; the others are GGUF mixes."""
    return weight_format in _SCALED or weight_format in FLOATS


def _checkpoint_tensors(model: ModelSpec, weight_format: str) -> Iterator[StoredTensor]:
    for group in tensor_groups(model):
        fmt = storage_of(group, weight_format, model.dtype)
        copies = group.copies * max(1, len(group.layers))
        rows = prod(group.shape[:-1])
        yield StoredTensor(
            group.name, group.role, fmt.name, group.n_elements, copies * fmt.matrix_bytes(rows, group.shape[-1])
        )


def storage_of(group: TensorGroup, weight_format: str, dtype: str) -> BlockFormat | ScaledFormat:
    """Return how a checkpoint of ``weight_format`` stores one group: what the format keeps stays in ``dtype``."""
    if weight_format in FLOATS:
        return FLOATS[weight_format]
    fmt = _SCALED[weight_format]
    return FLOATS[dtype] if group.role in fmt.keeps or not group.is_matrix else fmt.of(group.role)
