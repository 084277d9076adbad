"""A group of equal tensors, and how tensor parallelism cuts it."""

from enum import StrEnum
from math import prod

from msgspec import Struct

from vramcalc.specs.model import Role

_CONVOLUTIONS = frozenset({"ssm_conv1d", "ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v", "shortconv_conv"})
_STATE_SPACES = frozenset({"ssm_a", "ssm_d"})  # mamba1 has a matrix of decays


class Split(StrEnum):
    """How tensor parallelism cuts a tensor."""

    COLUMN = "column"  # out features over the ranks
    ROW = "row"  # in features over the ranks
    KV_HEADS = "kv_heads"  # by KV head, replicated where ranks outnumber heads
    VOCABULARY = "vocabulary"
    REPLICATED = "replicated"


class TensorGroup(Struct, frozen=True):
    """Tensors of one name, shape and role.

    Shape:
        ``copies`` matrices of ``shape`` in each of ``layers`` (the experts of a layer, say); ``layers`` is empty for
        tensors outside the layers.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    split: Split = Split.REPLICATED
    copies: int = 1
    layers: tuple[int, ...] = ()
    is_parameter: bool = True  # False: a buffer, which files carry and counts leave out

    @property
    def n_elements(self) -> int:
        """Elements of all tensors of the group."""
        return prod(self.shape) * self.copies * max(1, len(self.layers))

    @property
    def is_matrix(self) -> bool:
        """Whether quantisers may touch it: vectors, convolutions and decays stay in floats."""
        return len(self.shape) > 1 and self.name not in _CONVOLUTIONS | _STATE_SPACES
