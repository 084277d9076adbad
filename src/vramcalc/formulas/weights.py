"""What a file holds of a model under a weight format: one home for GGUF mixes and checkpoint quantisers."""

from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.errors import UnknownNameError
from vramcalc.formulas.inventory import TensorGroup, tensor_groups
from vramcalc.formulas.recipes import RECIPES, gguf_tensors, is_recipe
from vramcalc.specs.format_names import EXAMPLES, scaled_format
from vramcalc.specs.formats import FLOATS, BlockFormat, ScaledFormat, WeightFormat
from vramcalc.specs.model import ModelSpec, Role, StoredApart

KEPT = "kept"  # in ``StoredApart.format``: the model's own dtype


class StoredTensor(Struct, frozen=True):
    """Equal tensors in one storage type."""

    name: str
    role: Role
    storage: str
    n_elements: int
    n_bytes: int


class Storage(Struct, frozen=True):
    """How a checkpoint stores each tensor: one format, what that leaves in ``dtype``, and what is stored apart."""

    fmt: WeightFormat
    dtype: BlockFormat
    apart: tuple[tuple[StoredApart, frozenset[int] | None, WeightFormat], ...] = ()

    def parts(self, group: TensorGroup) -> Iterator[tuple[TensorGroup, WeightFormat]]:
        """Yield the group, cut by layers where those differ, with its format."""
        if not group.is_matrix:
            yield group, FLOATS.get(self.fmt.name, self.dtype)
            return
        rest = group.layers
        for rule, layers, fmt in self.apart:
            if group.role not in rule.roles and group.name not in rule.tensors:
                continue
            if layers is None or not group.layers:
                yield replace(group, layers=rest), fmt
                return
            here = tuple(layer for layer in rest if layer in layers)
            rest = tuple(layer for layer in rest if layer not in layers)
            if here:
                yield replace(group, layers=here), fmt
            if not rest:
                return
        yield replace(group, layers=rest), self._plain(group.role)

    def _plain(self, role: Role) -> WeightFormat:
        if not isinstance(self.fmt, ScaledFormat):
            return self.fmt
        return self.dtype if role in self.fmt.keeps else self.fmt.of(role)


def checkpoint_storage(model: ModelSpec, weight_format: str) -> Storage | None:
    """Return how a checkpoint in that format is stored, the release's own exceptions where it is the release's format.

    None where the name is no format of checkpoints. Raises ``UnknownNameError`` where an exception names no format.
    """
    fmt = FLOATS.get(weight_format) or scaled_format(weight_format)
    if fmt is None:
        return None
    dtype = FLOATS[model.dtype]
    rules = model.stored_apart if weight_format == model.checkpoint_format else ()
    return Storage(fmt, dtype, tuple((rule, rule.layer_set(), _format_apart(rule, dtype)) for rule in rules))


def _format_apart(rule: StoredApart, dtype: BlockFormat) -> WeightFormat:
    fmt = dtype if rule.format == KEPT else FLOATS.get(rule.format) or scaled_format(rule.format)
    if fmt is None:
        raise UnknownNameError("weight format", rule.format, (KEPT, *EXAMPLES), see="see stored_apart of the model")
    return fmt


def stored_tensors(model: ModelSpec, weight_format: str, *, has_imatrix: bool | None = None) -> Iterator[StoredTensor]:
    """Yield what a file of this format holds. Raises ``UnknownNameError`` for a format nobody knows."""
    is_own = model.stored is not None and model.stored.format == weight_format
    storage = None if is_own else checkpoint_storage(model, weight_format)
    if storage is not None:
        yield from _checkpoint_tensors(tensor_groups(model), storage)
        return
    if "=" not in weight_format and not is_recipe(weight_format):
        see = f"GGUF mixes are {', '.join(RECIPES)}; formats of checkpoints {', '.join(EXAMPLES)}"
        raise UnknownNameError("weight format", weight_format, (*RECIPES, *EXAMPLES), see=see)
    for tensor in gguf_tensors(model, weight_format, has_imatrix=has_imatrix):
        group = tensor.group
        per_layer = group.n_elements // len(tensor.formats)
        for fmt, n_layers in Counter(tensor.formats).items():
            rows = group.copies * prod(group.shape[:-1])
            n_bytes = n_layers * fmt.matrix_bytes(rows, group.shape[-1])
            yield StoredTensor(group.name, group.role, fmt.name, n_layers * per_layer, n_bytes)


def _checkpoint_tensors(groups: Iterable[TensorGroup], storage: Storage) -> Iterator[StoredTensor]:
    for whole in groups:
        for group, fmt in storage.parts(whole):
            copies = group.copies * max(1, len(group.layers))
            n_bytes = copies * fmt.matrix_bytes(prod(group.shape[:-1]), group.shape[-1])
            yield StoredTensor(group.name, group.role, fmt.name, group.n_elements, n_bytes)
