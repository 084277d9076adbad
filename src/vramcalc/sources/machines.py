"""From what people type after --gpu to a machine."""

import re

from msgspec import Struct

from vramcalc.errors import UsageError
from vramcalc.ledger import Basis
from vramcalc.sources.registry import Registry
from vramcalc.specs.base import SizeFact
from vramcalc.specs.gpu import GpuSpec, Memory, UsableMemory
from vramcalc.units import parse_bytes

_COUNTED = re.compile(r"(?P<count>\d{1,9})\s*[x×*]\s*(?P<name>.+)", re.IGNORECASE)
_SIZE = re.compile(r"\d+(\.\d+)?\s*[kmgt]i?b", re.IGNORECASE)
_MOST_GPUS = 1024


class Cards(Struct, frozen=True):
    """The cards of one node, and what the reader of their names should know."""

    gpus: tuple[GpuSpec, ...]
    notes: tuple[str, ...]


def resolve_cards(text: str, registry: Registry[GpuSpec]) -> Cards:
    """Return the cards that ``text`` names: ``rtx3060``, ``2xrtx4090``, ``rtx4090+rtx3060`` or a size, ``11776MiB``.

    Raises ``UnknownNameError`` for a card that is in no registry, ``UsageError`` for a machine without cards.
    """
    gpus: list[GpuSpec] = []
    notes: dict[str, None] = {}
    for part in text.split("+"):
        count, name = _count_and_name(part.strip(), text)
        if len(gpus) + count > _MOST_GPUS:
            raise UsageError(f"{text!r} has more than {_MOST_GPUS} GPUs", "use --nodes for machines of one kind")
        gpu, others = (_hypothetical(name), ()) if _SIZE.fullmatch(name) else registry.find(name)
        gpus += [gpu] * count
        if others:
            notes[f"{name} is taken as {gpu.name}; there are also {', '.join(others)}"] = None
    return Cards(tuple(gpus), tuple(notes))


def _count_and_name(part: str, whole: str) -> tuple[int, str]:
    match = _COUNTED.fullmatch(part)
    count, name = (int(match["count"]), match["name"].strip()) if match else (1, part)
    if not name or count == 0:
        raise UsageError(f"{whole!r} names no GPU", "write e.g. rtx3060, 2xrtx4090, rtx4090+rtx3060 or 11776MiB")
    if name.lower() == "local":
        raise UsageError(
            "reading this machine's own GPUs is not built in yet", "name the card: `vramcalc gpus` lists them"
        )
    return count, name


def _hypothetical(size: str) -> GpuSpec:
    n_bytes = parse_bytes(size)
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
