"""A model's weights by role and storage type, as a file of a format holds them; needs no GPU."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct, to_builtins

from vramcalc.formulas.recipes import resolve_recipe
from vramcalc.formulas.weights import checkpoint_storage, stored_tensors
from vramcalc.ledger import Basis
from vramcalc.specs.formats import FLOATS, ScaledFormat
from vramcalc.specs.model import ModelSpec


class WeightPart(Struct, frozen=True):
    """The tensors of one role in one storage type."""

    role: str
    storage: str
    n_parameters: int
    n_bytes: int


class StorageTotal(Struct, frozen=True):
    """All tensors of one storage type."""

    storage: str
    n_parameters: int
    n_bytes: int


class WeightsReport(Struct, frozen=True):
    """A model's weights by role and storage type; the parts sum to ``n_bytes``, and so do the storage types.

    ``low_bytes`` and ``high_bytes`` differ from it where the file depends on what only its maker knows: whether an
    importance matrix was used.
    """

    model: str
    weight_format: str
    n_elements: int
    n_bytes: int
    bits_per_weight: float
    basis: str
    parts: tuple[WeightPart, ...]
    notes: tuple[str, ...]
    low_bytes: int
    high_bytes: int
    by_storage: tuple[StorageTotal, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON holds it."""
        found: dict[str, Any] = to_builtins(self)
        return found


def weights_report(model: ModelSpec, weight_format: str) -> WeightsReport:
    """Return the bytes of every role under a weight format. Raises ``UnknownNameError`` for a format nobody knows."""
    name = weight_format.strip().lower()
    sums: dict[tuple[str, str], list[int]] = {}
    totals: dict[str, list[int]] = {}
    for tensor in stored_tensors(model, name):
        for part in (sums.setdefault((tensor.role, tensor.storage), [0, 0]), totals.setdefault(tensor.storage, [0, 0])):
            part[0] += tensor.n_elements
            part[1] += tensor.n_bytes
    parts = tuple(WeightPart(role, storage, *n) for (role, storage), n in sums.items())
    elements, n_bytes = sum(p.n_parameters for p in parts), sum(p.n_bytes for p in parts)
    storage = checkpoint_storage(model, name)
    if model.stored is not None and model.stored.format == name:
        sizes, basis = [n_bytes], Basis.EXACT
        notes: tuple[str, ...] = (f"The tensors of {model.source}, as its header lists them.",)
    elif storage is None:
        sizes = [n_bytes, *(_file_bytes(model, name, has_imatrix=has) for has in (False, True))]
        basis, notes = Basis.EXACT, tuple(_gguf_notes(model, name, varies=len(set(sizes)) > 1))
    else:
        sizes = [n_bytes]
        basis = _basis(model, name, storage.fmt)
        notes = tuple(_checkpoint_notes(model, name, parts, basis))
    return WeightsReport(
        model=model.id,
        weight_format=weight_format,
        n_elements=elements,
        n_bytes=n_bytes,
        bits_per_weight=round(8 * n_bytes / elements, 4),
        basis=basis.value,
        parts=parts,
        notes=(*notes, "Tensors as a file of this format holds them; engines add what `estimate` shows."),
        low_bytes=min(sizes),
        high_bytes=max(sizes),
        by_storage=tuple(StorageTotal(name, *n) for name, n in sorted(totals.items(), key=lambda item: -item[1][1])),
    )


def _file_bytes(model: ModelSpec, name: str, *, has_imatrix: bool) -> int:
    return sum(tensor.n_bytes for tensor in stored_tensors(model, name, has_imatrix=has_imatrix))


def _basis(model: ModelSpec, name: str, fmt: object) -> Basis:
    """Return how sure a checkpoint's bytes are: exact where the release itself says what it stores how."""
    if name in FLOATS:
        return Basis.EXACT
    is_average = isinstance(fmt, ScaledFormat) and fmt.method == "exl"
    return Basis.EXACT if name == model.checkpoint_format and not is_average else Basis.DERIVED


def _gguf_notes(model: ModelSpec, name: str, *, varies: bool) -> Iterator[str]:
    if resolve_recipe(name).needs_imatrix:
        yield "Needs an importance matrix, and is counted with one; the range is with and without."
    elif varies:
        yield "Counted without an importance matrix; with one a few tensors change type, as the range says."
    if any(not tensor.in_gguf for tensor in model.extra_tensors):
        yield "Its towers are another file (mmproj) and are not in these figures."


def _checkpoint_notes(model: ModelSpec, name: str, parts: tuple[WeightPart, ...], basis: Basis) -> Iterator[str]:
    if name in FLOATS:
        return
    kept = dict.fromkeys(part.role for part in parts if part.storage == model.dtype)
    quantised = {part.role for part in parts if part.storage != model.dtype}
    whole = ", ".join(role.replace("_", " ") for role in kept if role not in quantised)
    if name == model.checkpoint_format:
        yield f"As the release itself says; in {model.dtype}: {whole}."
    else:
        yield f"In {model.dtype} by default: {whole}. A release may keep more, as its config.json says."
    if name.startswith("exl") and basis is Basis.DERIVED:
        yield "Bits are an average over layers, which a release meets only nearly."
