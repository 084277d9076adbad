"""Findings about how weights are stored: against the recipe a file is named after, or a checkpoint's config."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from vramcalc.errors import AppError
from vramcalc.formulas.inventory import n_mtp_parameters, n_parameters
from vramcalc.formulas.recipes import RECIPES, GgufTensor, gguf_tensors
from vramcalc.formulas.stored import layers_text
from vramcalc.formulas.weights import stored_tensors
from vramcalc.inspection.finding import Finding
from vramcalc.specs.file import ModelFile
from vramcalc.specs.formats import BlockFormat
from vramcalc.specs.model import ModelSpec, Role
from vramcalc.units import format_bytes

# Below these, answers are known to suffer where the rest of the file has more (llama.cpp's mixes raise just them).
LEAST_BITS: Mapping[Role, float] = {"attention": 4.0, "embedding": 3.0, "head": 4.0}
_CLOSE = 0.25  # bits by which a role may stay below its recipe
_MOST_BYTES_OFF = 0.01
_SHOWN = 3

Spots = Mapping[tuple[str, int | None], tuple[BlockFormat, int, Role]]  # where -> type, elements, role


class _Likeness(Struct, frozen=True):
    """How far a recipe is from a file: the tensors that differ, by name."""

    recipe: str
    n_elements: int
    differing: tuple[tuple[str, int | None, str, str], ...]  # name, layer, the file's type, the recipe's
    has_lower: bool


def type_findings(model: ModelSpec) -> Iterator[Finding]:
    """Yield where a GGUF's types are not those of the recipe it calls itself."""
    if model.stored is None:
        return
    own = _spots(gguf_tensors(model, model.stored.format))
    label = model.stored.format
    model = model.model_copy(update={"stored": None})
    likenesses = sorted(_likenesses(model, own), key=lambda found: (found.n_elements, found.recipe != label))
    if not likenesses:
        return
    named = next((found for found in likenesses if found.recipe == label), None)
    nearest = likenesses[0] if named is None or named.differing else named
    basis = nearest if named is None or not nearest.differing else named
    yield from _low_bits(own, _spots(gguf_tensors(model, basis.recipe)), basis.recipe)
    if not nearest.differing:
        if nearest is not named:
            said = f"it calls itself {label}, and its types are those of {nearest.recipe}"
            yield Finding("wrong-format-name", "warning", said, f"read it as {nearest.recipe}")
        return
    close = named if named is not None and named.n_elements <= 2 * nearest.n_elements else nearest
    said = f"its types are those of no known recipe; nearest is {close.recipe}, but for {_differences(close)}"
    advice = (
        "a mix of its maker's own, with fewer bits in places" if close.has_lower else "a mix with more bits in places"
    )
    yield Finding("unknown-mix", "warning" if close.has_lower else "info", said, advice)


def checkpoint_findings(file: ModelFile, model: ModelSpec) -> Iterator[Finding]:
    """Yield where a checkpoint's files are not what its config.json says."""
    if any(part.is_missing for part in file.parts):
        return
    name = model.checkpoint_format or model.dtype
    try:
        predicted = sum(tensor.n_bytes for tensor in stored_tensors(model, name))
    except AppError:
        yield Finding("unknown-format", "info", f"its format {name} is not known here; the files' own bytes are exact")
        return
    held = sum(t.n_bytes for t in file.tensors if "rotary_emb" not in t.name)
    mtp = n_mtp_parameters(model)
    if model.checkpoint_format is None:
        yield from _plain_checkpoint(file, model, mtp)
        return
    off = held / predicted - 1
    if abs(off) > _MOST_BYTES_OFF and not mtp:
        meant = f"its config.json means {format_bytes(predicted)} in {name} ({off:+.1%})"
        said = f"its files hold {format_bytes(held)}, and {meant}"
        advice = (
            "more is quantised than the config says"
            if off < 0
            else "some modules are left unquantised, or buffers kept"
        )
        yield Finding("checkpoint-bytes", "warning", said, advice)


def _plain_checkpoint(file: ModelFile, model: ModelSpec, mtp: int) -> Iterator[Finding]:
    sizes: Counter[str] = Counter()
    for tensor in file.tensors:
        sizes[tensor.storage] += tensor.n_bytes
    main = max(sizes, key=lambda storage: sizes[storage])
    if main != model.dtype:
        said = f"most of it is stored as {main}, and its config.json says {model.dtype} and names no quantisation"
        yield Finding("checkpoint-dtype", "warning", said, "engines go by the config.json")
        return
    held = sum(t.n_elements for t in file.tensors)
    counts = {n_parameters(model), n_parameters(model) + mtp}
    if model.head == "tied":
        counts |= {count + model.vocabulary * model.hidden_dim for count in set(counts)}
    nearest = min(counts, key=lambda count: abs(count - held))
    off = held / nearest - 1
    if abs(off) > _MOST_BYTES_OFF:
        said = f"its files hold {held:,} elements, and its config.json means {nearest:,} ({off:+.1%})"
        yield Finding("parameter-count", "warning", said, "files and config.json may belong to different models")


def _spots(tensors: Iterable[GgufTensor]) -> dict[tuple[str, int | None], tuple[BlockFormat, int, Role]]:
    found: dict[tuple[str, int | None], tuple[BlockFormat, int, Role]] = {}
    for tensor in tensors:
        group = tensor.group
        n_elements = group.n_elements // max(1, len(group.layers))
        for layer, fmt in zip(group.layers or (None,), tensor.formats, strict=True):
            found[group.name, layer] = fmt, n_elements, group.role
    return found


def _likenesses(model: ModelSpec, own: Spots) -> Iterator[_Likeness]:
    for recipe in RECIPES:
        both = []
        for has_imatrix in (False, True):
            try:
                both.append(_likeness(recipe, own, _spots(gguf_tensors(model, recipe, has_imatrix=has_imatrix))))
            except AppError:  # a recipe that cannot hold this shape
                continue
        if both:
            yield min(both, key=lambda found: found.n_elements)


def _likeness(recipe: str, own: Spots, theirs: Spots) -> _Likeness:
    differing, n_elements, has_lower = [], 0, False
    for spot, (fmt, n, _) in own.items():
        other = theirs.get(spot)
        if other is None or other[0] == fmt or {fmt.name, other[0].name} == {"f16", "bf16"}:
            continue
        differing.append((*spot, fmt.name, other[0].name))
        n_elements += n
        has_lower |= fmt.bits < other[0].bits
    return _Likeness(recipe, n_elements, tuple(differing), has_lower)


def _differences(likeness: _Likeness) -> str:
    layers_of: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for name, layer, own, theirs in likeness.differing:
        layers_of[name, own, theirs] += [] if layer is None else [layer]
    names_of: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for (name, own, theirs), layers in layers_of.items():
        names_of[own, theirs, layers_text(sorted(layers))].append(name)
    parts = [
        f"{', '.join(names)} {own} instead of {theirs}" + (f" in layers {layers}" if layers else "")
        for (own, theirs, layers), names in names_of.items()
    ]
    more = f"; and {len(parts) - _SHOWN} more such" if len(parts) > _SHOWN else ""
    return "; ".join(parts[:_SHOWN]) + more


def bits_by_role(spots: Spots) -> dict[Role, float]:
    """Return the bits per weight of each role."""
    bits: dict[Role, float] = defaultdict(float)
    counts: Counter[Role] = Counter()
    for fmt, n_elements, role in spots.values():
        bits[role] += fmt.bits * n_elements
        counts[role] += n_elements
    return {role: bits[role] / counts[role] for role in bits}


def _low_bits(own: Spots, recipe: Spots, label: str) -> Iterator[Finding]:
    usual, found = bits_by_role(recipe), bits_by_role(own)
    for role, least in LEAST_BITS.items():
        bits = found.get(role, least)
        below_recipe = bits < usual.get(role, bits) - _CLOSE
        if bits >= least and not below_recipe:
            continue
        said = f"its {role} is stored in {bits:.2f} bits per weight"
        if below_recipe:
            advice = "quantised further than its name says: fetch another"
            yield Finding(f"low-bits-{role}", "warning", f"{said}; {label} gives {usual[role]:.2f}", advice)
        else:
            yield Finding(f"low-bits-{role}", "info", f"{said}, below {least:g}", "take a mix with more bits for it")
