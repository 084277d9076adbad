"""What a driver holds for one process before the engine allocates anything; the same for every engine."""

from msgspec import Struct

from vramcalc.ledger import Basis, Component, Line
from vramcalc.specs.gpu import GpuSpec
from vramcalc.units import MIB

# 2.8 to 3.35 MiB per multiprocessor on 8 cards from 34 to 188 of them, with the handles of cuBLAS.
_BYTES_PER_SM = (int(2.8 * MIB), 3 * MIB, int(3.35 * MIB))
_SM_SOURCE = "CUDA contexts of 8 cards from 34 to 188 multiprocessors, published logs"
# Measured contexts are those of a bare process; llama.cpp at exit was seen with 451 to 456 MiB on an RTX 4090 of 392.
_MEASURED_PERCENT = (93, 100, 117)
_UNKNOWN = (100 * MIB, 300 * MIB, 700 * MIB)
_METAL = (0, 0, 64 * MIB)


class _Context(Struct, frozen=True):
    """Low, best and high bytes, the arithmetic behind the best, and its provenance."""

    figures: tuple[int, int, int]
    formula: str
    values: dict[str, int]
    basis: Basis
    why: str
    source: str


def context_line(device: str, gpu: GpuSpec, *, outside_budget: bool = False) -> Line | None:
    """Return the line of one process's context; None where the card's size is already what it leaves."""
    if gpu.vendor == "hypothetical":
        return None
    context = _context(gpu)
    low, best, high = context.figures
    return Line(
        component=Component.RUNTIME,
        device=device,
        n_bytes=best,
        low_bytes=low,
        high_bytes=high,
        basis=context.basis,
        why=context.why,
        source=context.source,
        formula=context.formula,
        values=context.values,
        outside_budget=outside_budget,
    )


def context_bytes(gpu: GpuSpec) -> int:
    """Return the best figure of one process's context."""
    line = context_line("gpu0", gpu)
    return 0 if line is None else line.n_bytes


def _context(gpu: GpuSpec) -> _Context:
    if gpu.context_memory is not None:
        size = gpu.context_memory.size
        low, best, high = (size * percent // 100 for percent in _MEASURED_PERCENT)
        why = "the CUDA context of one process, measured on this card; engines were seen with up to 17 % more"
        source = gpu.context_memory.source
        return _Context((low, best, high), "context", {"context": best}, Basis.FITTED, why, source)
    if gpu.vendor == "nvidia" and gpu.n_sms is not None:
        low, best, high = (gpu.n_sms * per_sm for per_sm in _BYTES_PER_SM)
        values = {"n_sms": gpu.n_sms, "bytes_per_sm": _BYTES_PER_SM[1]}
        why = f"a CUDA context with its cuBLAS handles: 3 MiB for each of {gpu.n_sms} multiprocessors"
        return _Context((low, best, high), "n_sms * bytes_per_sm", values, Basis.FITTED, why, _SM_SOURCE)
    if gpu.vendor == "apple":
        why, source = "Metal's own memory: taken as nothing", "no measurement is known"
        return _Context(_METAL, "context", {"context": _METAL[1]}, Basis.ASSUMED, why, source)
    why = f"the driver's own memory for one process on {gpu.name}: not measured"
    source = "no measurement; CUDA cards take 100 to 560 MiB"
    return _Context(_UNKNOWN, "context", {"context": _UNKNOWN[1]}, Basis.ASSUMED, why, source)
