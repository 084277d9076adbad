"""What files of weights hold, as their headers say: tensors by name with shape, type and bytes."""

from collections.abc import Mapping
from math import prod
from typing import Literal

from msgspec import Struct, field

Scalar = int | float | bool | str


class LongArray(Struct, frozen=True):
    """An array that was counted and passed over: a vocabulary, say. ``kind`` is the type of its elements."""

    kind: str
    n_elements: int


Value = Scalar | tuple[int | float | bool, ...] | LongArray


class FileTensor(Struct, frozen=True, gc=False):
    """One tensor of a file.

    Shape:
        As its matrix multiplies: [out features, in features], matrices of a stack first; the same for every container.
    """

    name: str
    shape: tuple[int, ...]
    storage: str  # the container's own type in lower case: "q4_k", "bf16", "f8_e4m3"
    n_bytes: int

    @property
    def n_elements(self) -> int:
        """Elements as stored: packed types count what they are packed in."""
        return prod(self.shape)


class FilePart(Struct, frozen=True):
    """One file of a set: ``n_bytes`` on disk (None: nobody says, or it is missing), ``needed_bytes`` by its header."""

    name: str
    n_bytes: int | None
    needed_bytes: int
    is_missing: bool = False


class ModelFile(Struct, frozen=True, kw_only=True):
    """A model as one file or as a set of them."""

    name: str
    container: Literal["gguf", "safetensors"]
    version: str = ""
    is_big_endian: bool = False
    parts: tuple[FilePart, ...]
    tensors: tuple[FileTensor, ...]
    keys: Mapping[str, Value] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Bytes of tensor data, without header and padding."""
        return sum(tensor.n_bytes for tensor in self.tensors)
