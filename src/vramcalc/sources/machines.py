"""From what people type after --gpu to a machine."""

import re

from msgspec import Struct

from vramcalc.errors import UsageError
from vramcalc.ledger import Basis
from vramcalc.sources.registry import Registry
from vramcalc.specs.base import SizeFact
from vramcalc.specs.gpu import GpuSpec, Memory, OperatingSystem, UsableMemory
from vramcalc.units import parse_bytes

_COUNTED = re.compile(r"(?P<count>\d{1,9})\s*[x×*]\s*(?P<name>.+)", re.IGNORECASE)
_SIZE = re.compile(r"\d+(\.\d+)?\s*[kmgt]i?b", re.IGNORECASE)
_LOCAL = "local"
_MOST_GPUS = 1024


class Cards(Struct, frozen=True):
    """The cards of one node, and what the reader of their names should know.

    ``used_bytes`` of each and ``os`` are there where cards of this machine are among them.
    """

    gpus: tuple[GpuSpec, ...]
    notes: tuple[str, ...]
    used_bytes: tuple[int, ...] = ()
    os: OperatingSystem | None = None


def resolve_cards(text: str, registry: Registry[GpuSpec]) -> Cards:
    """Return the cards that ``text`` names: ``rtx3060``, ``2xrtx4090``, ``rtx4090+rtx3060``, a size, or ``local``.

    Raises ``UnknownNameError`` for a card that is in no registry, ``UsageError`` for a machine without cards,
    ``UnavailableError`` where this machine has none.
    """
    gpus: list[GpuSpec] = []
    used: list[int] = []
    notes: dict[str, None] = {}
    system: OperatingSystem | None = None
    for part in text.split("+"):
        count, name = _count_and_name(part.strip(), text)
        if name.lower() == _LOCAL:
            from vramcalc.sources.local_cards import local_cards  # noqa: PLC0415 - start-up

            here = local_cards(registry)
            gpus += here.gpus
            used += here.used_bytes
            notes |= dict.fromkeys(here.notes)
            system = here.os
            continue
        if len(gpus) + count > _MOST_GPUS:
            raise UsageError(f"{text!r} has more than {_MOST_GPUS} GPUs", "use --nodes for machines of one kind")
        gpu, others = (hypothetical_card(name), ()) if _SIZE.fullmatch(name) else registry.find(name)
        gpus += [gpu] * count
        used += [0] * count
        if others:
            notes[f"{name} is taken as {gpu.name}; there are also {', '.join(others)}"] = None
    return Cards(tuple(gpus), tuple(notes), tuple(used) if system else (), system)


def _count_and_name(part: str, whole: str) -> tuple[int, str]:
    match = _COUNTED.fullmatch(part)
    count, name = (int(match["count"]), match["name"].strip()) if match else (1, part)
    if not name or count == 0:
        raise UsageError(f"{whole!r} names no GPU", "write e.g. rtx3060, 2xrtx4090, rtx4090+rtx3060 or 11776MiB")
    if name.lower() == _LOCAL and count > 1:
        raise UsageError(f"{whole!r} counts this machine's own cards", "write local: it stands for all of them")
    return count, name


def hypothetical_card(size: str) -> GpuSpec:
    """Return a CUDA card with so much free, of which nothing else is known. Raises ``UsageError`` for none."""
    try:
        n_bytes = parse_bytes(size)
    except ValueError as error:
        raise UsageError(str(error), "write what is free on the card, e.g. 11776MiB") from error
    if n_bytes == 0:
        raise UsageError(f"a GPU of {size} holds nothing", "write what is free on the card, e.g. 11776MiB")
    stated = SizeFact(size=n_bytes, basis=Basis.EXACT, source="the request")
    return GpuSpec(
        id=size.replace(" ", ""),
        name=f"a CUDA card with {size} free",
        vendor="hypothetical",
        architecture="hypothetical",
        year=None,
        memory=Memory(advertised=n_bytes, driver=stated, usable=UsableMemory(linux=stated, windows=stated, wsl=stated)),
        bandwidth_gb_per_s=None,
        source="the request",
    )
