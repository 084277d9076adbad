"""Who holds which layer: llama.cpp's placement, layer by layer.

Source: llama.cpp 0c1e570, src/llama-model.cpp.
"""

from collections.abc import Sequence
from itertools import accumulate

from msgspec import Struct

from vramcalc.engines._ggml.tensor import CPU

Elsewhere = tuple[tuple[str, int], ...]  # tensor name and the device that holds it instead
EXPERT_PREFIXES = ("ffn_up_exps", "ffn_down_exps", "ffn_gate_exps")


class Layout(Struct, frozen=True):
    """The device of every layer (``CPU`` or a GPU's number), of the output, and of tensors that live elsewhere."""

    layers: tuple[int, ...]
    output: int
    n_devices: int
    elsewhere: tuple[tuple[int, Elsewhere], ...] = ()  # by layer

    @property
    def is_full(self) -> bool:
        """Whether all layers and the output are on GPUs."""
        return CPU not in self.layers and self.output != CPU

    @property
    def is_pipelined(self) -> bool:
        """Whether the engine runs batches in a pipeline, which takes four copies of what passes between devices."""
        return self.n_devices > 1 and self.is_full and not self.elsewhere

    @property
    def gpu_layers(self) -> int:
        """Layers on GPUs, the output counted as one."""
        return sum(home != CPU for home in (*self.layers, self.output))


def lay_out(
    n_layers: int, gpu_layers: int, shares: Sequence[float], elsewhere: tuple[tuple[int, Elsewhere], ...] = ()
) -> Layout:
    """Return the layout for the last ``gpu_layers`` of all layers and the output, split over GPUs by shares."""
    on_gpus = min(gpu_layers, n_layers + 1) if shares else 0
    if not any(shares):  # nothing free anywhere: equal shares
        shares = (1,) * len(shares)
    bounds, total = list(accumulate(shares)), sum(shares)
    homes = [CPU] * (n_layers + 1 - on_gpus)
    for index in range(on_gpus):
        homes.append(next(d for d, bound in enumerate(bounds) if bound * on_gpus > index * total))
    return Layout(tuple(homes[:-1]), homes[-1], len(shares), elsewhere)


def expert_tensors(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a layer's expert tensors, biases included."""
    return tuple(name for name in names if name.startswith(EXPERT_PREFIXES))
