"""What a GGUF says of its model: keys by their short names, tensors by layer."""

from collections import defaultdict
from collections.abc import Mapping

from vramcalc.errors import BadInputError
from vramcalc.formulas.stored import split_name
from vramcalc.specs.file import FileTensor, LongArray, ModelFile, Value

_MOST = 1 << 40  # no count in a header is larger

Tensors = Mapping[str, FileTensor]  # by name in the layer, or outside the layers


class Facts:
    """Keys and tensors of one file. An error names the file and the key or tensor."""

    def __init__(self, file: ModelFile) -> None:
        self.file = file
        self.architecture = self.text("general.architecture")
        self.outside: dict[str, FileTensor] = {}
        self.layers: dict[int, dict[str, FileTensor]] = defaultdict(dict)
        for tensor in file.tensors:
            layer, name = split_name(tensor.name)
            (self.outside if layer is None else self.layers[layer])[name] = tensor

    def text(self, key: str) -> str:
        """Return a text. Raises ``BadInputError`` where it is not there or is no text."""
        value = self.file.keys.get(key)
        if not isinstance(value, str) or not value:
            raise self.error(f"key {key!r} is {'missing' if value is None else 'no text'}")
        return value

    def find(self, key: str) -> Value | None:
        """Return the value of a key of the architecture, None where it is not there."""
        return self.file.keys.get(f"{self.architecture}.{key}")

    def count(self, key: str, default: int | None = None, *, layer: int = 0) -> int:
        """Return a count, a layer's own where there is one for each. Raises ``BadInputError`` for what is no count."""
        value = self.find(key)
        if isinstance(value, tuple) and layer < len(value):
            value = value[layer]
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
            shown = "missing" if value is None else f"{value!r:.40}, no count"
            raise self.error(f"key '{self.architecture}.{key}' is {shown}")
        return value

    def largest(self, key: str) -> int:
        """Return the largest of a count that may be stated for each layer; 0 where it is not there."""
        value = self.find(key)
        n = len(value) if isinstance(value, tuple) else 1
        return max((self.count(key, 0, layer=layer) for layer in range(n)), default=0)

    def elements(self, key: str) -> int:
        """Return how long an array is, 0 where there is none; ``key`` is the full one."""
        value = self.file.keys.get(key)
        return value.n_elements if isinstance(value, LongArray) else len(value) if isinstance(value, tuple) else 0

    def error(self, fact: str) -> BadInputError:
        """Return the error that names the file."""
        return BadInputError(f"{self.file.name}: {fact}", "`vramcalc inspect` shows what is in the file")
