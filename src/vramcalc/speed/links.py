"""What lies between devices: host memory, PCIe, NVLink, the network and the disk."""

from msgspec import Struct

from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.machine import Machine

_GB = 10**9
_LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}  # PCI-SIG, one direction
_USUAL_LANES, _USUAL_GENERATION = 16, 4
_PCIE_SHARE = 0.8  # of the lanes' rate that copies of pinned memory reach; assumed
# Two channels of DDR4-3200, between the two, and of DDR5-5600.
ASSUMED_HOST_BYTES_PER_S = (51_200_000_000, 64_000_000_000, 89_600_000_000)
DISK_BYTES_PER_S = 3 * _GB  # an NVMe drive read in order; assumed
NETWORK_BYTES_PER_S = 25 * _GB  # one 200 Gbit/s port per GPU; assumed
# One all-reduce of a few kilobytes. NVLink: two A100 take 1.9 ms a token longer than one (vLLM issue 22331, 36 layers).
# PCIe: four cards take 3 ms a token longer than two. Network: assumed.
_REDUCE_S = {"nvlink": 12e-6, "pcie": 35e-6, "network": 100e-6}


class Link(Struct, frozen=True):
    """What the ranks of a tensor-parallel group talk over."""

    name: str
    reduce_s: float
    bytes_per_s: float


def host_bytes_per_s(machine: Machine) -> tuple[float, float, float]:
    """Return low, best and high bandwidth of host memory: as stated, the chip's own, or that of two usual channels."""
    if machine.host_bandwidth_bytes_per_s is not None:
        return (float(machine.host_bandwidth_bytes_per_s),) * 3
    unified = [gpu.bandwidth_gb_per_s for gpu in machine.gpus if gpu.unified_memory and gpu.bandwidth_gb_per_s]
    if unified:
        return (unified[0] * _GB,) * 3
    low, best, high = ASSUMED_HOST_BYTES_PER_S
    return float(low), float(best), float(high)


def pcie_bytes_per_s(gpu: GpuSpec) -> float:
    """Return what a copy from host memory to a card reaches; its memory's own rate where they share it."""
    if gpu.unified_memory and gpu.bandwidth_gb_per_s:
        return gpu.bandwidth_gb_per_s * _GB
    lanes, generation = gpu.pcie_lanes or _USUAL_LANES, gpu.pcie_generation or _USUAL_GENERATION
    return lanes * _LANE_BYTES_PER_S[min(generation, max(_LANE_BYTES_PER_S))] * _PCIE_SHARE


def group_link(machine: Machine, n_ranks: int) -> Link:
    """Return what a group of ``n_ranks`` neighbours talks over."""
    if n_ranks > len(machine.gpus):
        return Link("network", _REDUCE_S["network"], NETWORK_BYTES_PER_S)
    cards = machine.gpus[:n_ranks]
    if all(gpu.nvlink_gb_per_s for gpu in cards):
        return Link("nvlink", _REDUCE_S["nvlink"], min(gpu.nvlink_gb_per_s or 0 for gpu in cards) * _GB / 2)
    return Link("pcie", _REDUCE_S["pcie"], min(map(pcie_bytes_per_s, cards)))
