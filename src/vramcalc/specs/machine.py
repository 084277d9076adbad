"""Where the model is to run: the GPUs of one node, how many nodes, and host memory."""

from msgspec import Struct

from vramcalc.specs.gpu import GpuSpec, OperatingSystem


class Machine(Struct, frozen=True):
    """One or more equal nodes.

    ``reserve_bytes`` is what other programs (a desktop, say) already hold on each GPU; where that differs, ``reserves``
    says it for each of a node, and the first is the most. ``host_memory_bytes`` is per node, None where nobody said,
    as is ``host_bandwidth_bytes_per_s``.
    """

    gpus: tuple[GpuSpec, ...]
    nodes: int = 1
    host_memory_bytes: int | None = None
    os: OperatingSystem = "linux"
    reserve_bytes: int = 0
    reserves: tuple[int, ...] = ()
    host_bandwidth_bytes_per_s: int | None = None

    @property
    def n_gpus(self) -> int:
        """GPUs of all nodes."""
        return len(self.gpus) * self.nodes

    @property
    def unified_memory(self) -> bool:
        """Whether GPU and host share one memory."""
        return any(gpu.unified_memory for gpu in self.gpus)

    def device_names(self) -> tuple[str, ...]:
        """Return the names of all GPUs, node by node: ``gpu0``, ``gpu1`` ..."""
        return tuple(f"gpu{i}" for i in range(self.n_gpus))

    def gpu(self, device: str) -> GpuSpec:
        """Return the card behind a device name."""
        return self.gpus[int(device.removeprefix("gpu")) % len(self.gpus)]

    def reserve_on(self, device: str) -> int:
        """Return the bytes that other programs hold on a device."""
        if not self.reserves:
            return self.reserve_bytes
        return self.reserves[int(device.removeprefix("gpu")) % len(self.gpus)]
