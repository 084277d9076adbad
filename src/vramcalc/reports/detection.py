"""This machine, as its drivers show it."""

from typing import Literal

from msgspec import Struct


class DetectedGpu(Struct, frozen=True):
    """One GPU. ``id`` is the registry's; None where no entry has its name and memory. Sizes None: nobody says."""

    name: str
    vendor: str
    id: str | None
    total_bytes: int | None
    used_bytes: int | None
    usable_bytes: int | None  # what one process may allocate, less what is used
    read_by: str


class Detection(Struct, frozen=True):
    """GPUs in the order of their drivers; empty where none can be read."""

    schema_version: Literal[1]
    gpus: tuple[DetectedGpu, ...]
    host_memory_bytes: int | None
    host_available_bytes: int | None
    os: str
    notes: tuple[str, ...]
