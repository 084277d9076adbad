"""Use case of ``detect``: what is here, and which cards of the registry that is."""

from collections.abc import Sequence
from pathlib import Path

from vramcalc.errors import UnavailableError
from vramcalc.formulas.capacity import usable_memory
from vramcalc.reports.detection import DetectedGpu, Detection
from vramcalc.reports.schema import SCHEMA_VERSION
from vramcalc.sources.local_cards import LocalCard, match_cards
from vramcalc.sources.registry import gpu_registry
from vramcalc.sources.this_machine import read_machine
from vramcalc.specs.gpu import OperatingSystem


def detect(registries: Sequence[Path] = ()) -> Detection:
    """Return this machine's GPUs and host memory; no GPU is an answer too.

    Raises ``UnavailableError`` where there is none to be read because a driver does not answer.
    """
    reading = read_machine()
    if reading.failures and not reading.gpus:
        raise UnavailableError(reading.failures[0], "check the driver; name the card instead: `vramcalc gpus`")
    cards = match_cards(reading, gpu_registry(registries))
    notes = [*reading.failures]
    notes += [f"{card.reading.name} is in no registry of ours" for card in cards if card.known is None]
    return Detection(
        schema_version=SCHEMA_VERSION,
        gpus=tuple(_detected(card, reading.os) for card in cards),
        host_memory_bytes=reading.host_memory_bytes,
        host_available_bytes=reading.host_available_bytes,
        os=reading.os,
        notes=tuple(notes),
    )


def _detected(card: LocalCard, system: OperatingSystem) -> DetectedGpu:
    usable = usable_memory(card.spec, system).n_bytes - card.used_bytes
    return DetectedGpu(
        name=card.reading.name,
        vendor=card.reading.vendor,
        id=None if card.known is None else card.known.id,
        total_bytes=card.reading.total_bytes,
        used_bytes=card.reading.used_bytes,
        usable_bytes=max(0, usable),
        read_by=card.reading.reader,
    )
