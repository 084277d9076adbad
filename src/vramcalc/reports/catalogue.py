"""Listings of what the registries hold."""

from typing import Any, Literal

from msgspec import Struct, to_builtins

from vramcalc.formulas.capacity import driver_memory, usable_memory
from vramcalc.formulas.inventory import n_active_parameters, n_parameters
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import ModelSpec


class ModelRow(Struct, frozen=True):
    """One model; ``count_basis`` is ``derived`` where our own formula is the only witness of the count."""

    id: str
    name: str
    n_parameters: int
    n_active_parameters: int
    count_basis: str
    context: int
    license: str
    released: str
    names: tuple[str, ...]


class GpuRow(Struct, frozen=True):
    """One card and its three totals."""

    id: str
    name: str
    vendor: str
    year: int | None
    advertised_bytes: int
    driver_bytes: int
    driver_basis: str
    usable_bytes: int
    usable_basis: str
    bandwidth_bytes_per_s: int | None
    compute_capability: str | None
    names: tuple[str, ...]


class Catalogue(Struct, frozen=True):
    """The entries that a search found."""

    schema_version: Literal[1]
    models: tuple[ModelRow, ...]
    gpus: tuple[GpuRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the listing as JSON holds it."""
        found: dict[str, Any] = to_builtins(self)
        return found


def model_row(model: ModelSpec) -> ModelRow:
    """Return one model's line."""
    return ModelRow(
        id=model.id,
        name=model.name,
        n_parameters=n_parameters(model),
        n_active_parameters=n_active_parameters(model),
        count_basis=model.parameters.basis.value,
        context=model.context,
        license=model.license,
        released=model.released,
        names=(*model.aliases, *model.hf_ids, *model.ollama_tags),
    )


def gpu_row(gpu: GpuSpec) -> GpuRow:
    """Return one card's line; usable memory is that of Linux (macOS for Apple)."""
    driver, usable = driver_memory(gpu), usable_memory(gpu, "linux")
    rate = gpu.bandwidth_gb_per_s
    return GpuRow(
        id=gpu.id,
        name=gpu.name,
        vendor=gpu.vendor,
        year=gpu.year,
        advertised_bytes=gpu.memory.advertised,
        driver_bytes=driver.n_bytes,
        driver_basis=driver.basis.value,
        usable_bytes=usable.n_bytes,
        usable_basis=usable.basis.value,
        bandwidth_bytes_per_s=None if rate is None else round(rate * 10**9),
        compute_capability=gpu.compute_capability,
        names=gpu.aliases,
    )
