"""Who holds what: the engine's proposal before its bill is written."""

from msgspec import Struct

from vramcalc.ledger import HOST


class Override(Struct, frozen=True):
    """Some tensors of one layer live elsewhere than the layer: its experts in host memory, say."""

    layer: int
    tensors: frozenset[str]  # ggml names, e.g. ffn_down_exps
    device: str


class Placement(Struct, frozen=True, kw_only=True):
    """One device per layer and for both ends.

    Under tensor parallelism every rank of a pipeline stage holds a part of each of its layers: ``layers`` then names
    the first rank of the stage.
    """

    layers: tuple[str, ...]
    input_device: str
    output_device: str
    overrides: tuple[Override, ...] = ()
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    expert_parallel: bool = False

    def device_of(self, layer: int, tensor: str) -> str:
        """Return where one tensor of one layer lives."""
        for override in self.overrides:
            if override.layer == layer and tensor in override.tensors:
                return override.device
        return self.layers[layer]

    @property
    def offloads(self) -> bool:
        """Whether some layer, or some of its tensors, lives in host memory."""
        return HOST in self.layers or any(override.device == HOST for override in self.overrides)

    @property
    def gpu_layers(self) -> int:
        """How many layers live on GPUs; the output head counts as one, as llama.cpp counts."""
        return sum(device != HOST for device in (*self.layers, self.output_device))

    def experts_stay(self, layer: int) -> bool:
        """Return whether all experts of a layer live on GPUs."""
        return all(self.device_of(layer, f"ffn_{part}_exps") != HOST for part in ("gate", "up", "down"))

    def layers_on(self, device: str) -> int:
        """Return how many layers a device holds."""
        return self.layers.count(device)
