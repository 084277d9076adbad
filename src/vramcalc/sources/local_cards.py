"""This machine's cards as those of the registry: by the driver's name and total."""

from msgspec import Struct

from vramcalc.errors import UnavailableError, UnknownNameError
from vramcalc.formulas.capacity import driver_memory
from vramcalc.ledger import Basis
from vramcalc.sources.machines import Cards, hypothetical_card
from vramcalc.sources.registry import Registry
from vramcalc.sources.this_machine import GpuReading, MachineReading, read_machine
from vramcalc.specs.base import SizeFact
from vramcalc.specs.gpu import GpuSpec
from vramcalc.units import GIB, MIB

_SAME_PERCENT = 3  # totals of one card differ by ECC and by what a driver hides


class LocalCard(Struct, frozen=True):
    """One card: its reading, and the registry's entry with this driver's total; None where no entry is like it."""

    reading: GpuReading
    known: GpuSpec | None

    @property
    def spec(self) -> GpuSpec:
        """What estimates take it for: the entry, else a CUDA card with what is free."""
        if self.known is not None:
            return self.known
        free = (self.reading.total_bytes or 0) - (self.reading.used_bytes or 0)
        return hypothetical_card(f"{free // MIB}MiB")

    @property
    def used_bytes(self) -> int:
        """What other programs hold of it; of a hypothetical card that is left out already."""
        return 0 if self.known is None else self.reading.used_bytes or 0


def match_cards(reading: MachineReading, registry: Registry[GpuSpec]) -> tuple[LocalCard, ...]:
    """Return each card that was read with what the registry knows of it."""
    return tuple(LocalCard(gpu, _known(gpu, reading, registry)) for gpu in reading.gpus)


def local_cards(registry: Registry[GpuSpec]) -> Cards:
    """Return this machine's cards. Raises ``UnavailableError`` where it has none, or their driver does not answer."""
    reading = read_machine()
    if not reading.gpus:
        reason = "; ".join(reading.failures) or "no GPU that can be read is here (NVIDIA, AMD under Linux, Apple)"
        raise UnavailableError(reason, "name the card: `vramcalc gpus` lists them")
    cards = match_cards(reading, registry)
    notes = [f"{c.reading.name} is in no registry: taken as {c.spec.name}, no speed" for c in cards if c.known is None]
    return Cards(tuple(c.spec for c in cards), tuple(notes), tuple(c.used_bytes for c in cards), reading.os)


def _known(gpu: GpuReading, machine: MachineReading, registry: Registry[GpuSpec]) -> GpuSpec | None:
    name = gpu.name
    if gpu.vendor == "apple" and gpu.total_bytes is not None:
        name = f"{name} {gpu.total_bytes // GIB}GB"
    try:
        first, others = registry.find(name)
    except UnknownNameError:
        return None
    total = gpu.total_bytes if gpu.total_bytes is not None else machine.host_memory_bytes
    if total is None or first.unified_memory:
        return first
    near = [spec for spec in (first, *map(registry.load, others)) if _is_near(driver_memory(spec).n_bytes, total)]
    if not near:
        return None
    fact = SizeFact(size=total, basis=Basis.EXACT, source=f"{gpu.reader} of this machine")
    return near[0].model_copy(update={"memory": near[0].memory.model_copy(update={"driver": fact})})


def _is_near(known: int, read: int) -> bool:
    return abs(known - read) * 100 <= _SAME_PERCENT * read
