"""How much of a card a process may use: measured where known, else a stated rule with its basis."""

from msgspec import Struct

from vramcalc.ledger import Basis
from vramcalc.specs.gpu import GpuSpec, OperatingSystem
from vramcalc.units import GIB, MIB

# The newer macOS limit (recommendedMaxWorkingSetSize) as a share of RAM, in thousandths, by RAM in GiB: Metal logs.
_METAL_SHARE = ((8, 667), (16, 740), (32, 780), (48, 780), (64, 810), (128, 840), (512, 906))
_RESERVE_LEAST, _RESERVE_MOST, _RESERVE_PERCENT = 250 * MIB, 800 * MIB, 2


class Capacity(Struct, frozen=True):
    """Bytes with their provenance."""

    n_bytes: int
    basis: Basis
    why: str
    source: str


def driver_memory(gpu: GpuSpec) -> Capacity:
    """Return what the driver's own tool shows as the card's total (nvidia-smi, rocm-smi)."""
    if gpu.memory.driver is not None:
        fact = gpu.memory.driver
        return Capacity(fact.size, fact.basis, "as the driver's tool shows it", fact.source)
    why = "taken as advertised: no log of this card is known"
    return Capacity(gpu.memory.advertised, Basis.ASSUMED, why, gpu.source)


def usable_memory(gpu: GpuSpec, system: OperatingSystem) -> Capacity:
    """Return what the runtime calls total: the driver's total less what the driver keeps for itself."""
    measured = getattr(gpu.memory.usable, "macos" if gpu.vendor == "apple" else system)
    if measured is not None:
        return Capacity(measured.size, measured.basis, "as the runtime reports it", measured.source)
    if gpu.vendor == "hypothetical":
        return Capacity(gpu.memory.advertised, Basis.EXACT, "as stated", "the request")
    if gpu.vendor == "apple":
        return _metal_limit(gpu)
    if gpu.vendor == "nvidia" and not gpu.unified_memory:
        return _less_driver_reserve(driver_memory(gpu), system)
    shown = driver_memory(gpu)
    return Capacity(shown.n_bytes, Basis.ASSUMED, "taken as the driver's total: no reserve is known", shown.source)


def _less_driver_reserve(shown: Capacity, system: OperatingSystem) -> Capacity:
    if system != "linux":
        why = "the driver's total less 1 MiB, as seen on Windows and WSL"
        return Capacity(shown.n_bytes - MIB, Basis.FITTED, why, "ggml logs of 14 cards on Windows and WSL")
    reserve = min(_RESERVE_MOST, max(_RESERVE_LEAST, shown.n_bytes * _RESERVE_PERCENT // 100))
    why = f"the driver's total less a reserve of {reserve // MIB} MiB (2 %, at least 250 and at most 800 MiB)"
    return Capacity(
        shown.n_bytes - reserve,
        Basis.FITTED,
        why,
        "nvidia-smi against CUDA totals of 19 cards on Linux: 224 to 769 MiB",
    )


def _metal_limit(gpu: GpuSpec) -> Capacity:
    ram = gpu.memory.advertised
    thousandths = max((share for least, share in _METAL_SHARE if ram >= least * GIB), default=_METAL_SHARE[0][1])
    why = f"Metal's default limit, {thousandths / 10:.1f} % of RAM at this size"
    source = "recommendedMaxWorkingSetSize in ggml logs of Macs from 16 to 512 GB"
    return Capacity(ram * thousandths // 1000, Basis.FITTED, why, source)
