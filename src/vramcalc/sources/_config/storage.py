"""Which tensors of a quantised release are stored apart, from the modules its config leaves out or names."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import translate
from itertools import groupby

from msgspec import Struct

from vramcalc.errors import BadInputError
from vramcalc.formulas.inventory import TensorGroup, next_token_groups, tensor_groups
from vramcalc.sources._config.modules import module_paths
from vramcalc.specs.format_names import scaled_format
from vramcalc.specs.model import LayerKind, ModelSpec, Role, StoredApart

KEPT = "kept"
_MOST_LENGTH = 300  # of a pattern, in characters
_ONE_LAYER = re.compile(r"(?:layers|\bh)\.(\d{1,4})(?:\.|$)")  # a number that is written out, as globs and paths do
_EXPERT = re.compile(r"\.experts\.\d+(?=\.|$)")
# What a list's regular expression may be made of: nothing that could backtrack for long.
_SAFE_REGEX = re.compile(r"(?:\.[*+]|\\[.dw][*+]?|\[[\w-]+\][*+]?|\((?:\?:)?|\)|[\w.|^$-])*")
_MOST_REPEATS = 8
# Words of modules that hold no matrix of the inventory, or that a model read without its tower has not.
_NO_MATRIX = re.compile(
    r"norm|rotary|conv1d|conv|bias|mtp|eh_proj|shared_head|visual|vision|image|audio|speech|embed|projector|merger"
    r"|merge|hc_|attn_sink|sinks|dt_bias|A_log|lm_head|(^|\.)head|gate|router"
)
_OF_TOWERS = re.compile(r"visual|vision|image|projector|merger")
_TOWER_ROLES: frozenset[Role] = frozenset({"vision", "audio", "projector"})


class Named(Struct, frozen=True):
    """Modules a config names, by plain path, glob or ``re:``, and how they are stored: a format, or ``KEPT``."""

    pattern: str
    format: str


class Quantised(Struct, frozen=True):
    """What a config says of a release's formats; the first of ``named`` that fits a module counts."""

    format: str
    named: tuple[Named, ...] = ()
    lists_towers: bool = False  # a tower that is not named is quantised too


class _Rule(Struct, frozen=True):
    place: int
    named: Named
    fits: Callable[[str], bool]


class _ByLayer(Struct, frozen=True):
    """The rules by the layer they name, so that lists of a thousand modules are not tried on every tensor."""

    of_layer: dict[int, list[_Rule]]
    anywhere: list[_Rule]

    @classmethod
    def of(cls, named: Iterable[Named], where: str) -> "_ByLayer":
        """Return the rules of a list, in its order."""
        of_layer: dict[int, list[_Rule]] = {}
        anywhere: list[_Rule] = []
        for place, one in enumerate(named):
            rule = _Rule(place, one, _matcher(one.pattern, where))
            layer = None if one.pattern.startswith("re:") else _ONE_LAYER.search(one.pattern)
            (anywhere if layer is None else of_layer.setdefault(int(layer[1]), [])).append(rule)
        return cls(of_layer, anywhere)

    def at(self, layer: int | None) -> list[_Rule]:
        """Return the rules that may fit in a layer, or outside the layers."""
        own = self.of_layer.get(layer, []) if layer is not None else []
        return sorted((*own, *self.anywhere), key=lambda rule: rule.place)


def stored_apart(model: ModelSpec, quantised: Quantised, where: str) -> tuple[StoredApart, ...]:
    """Return what of the model is not in the release's format, layer by layer.

    Raises ``BadInputError`` naming a pattern that fits nothing known, or that is no safe pattern.
    """
    base = scaled_format(quantised.format)
    if base is None:
        return ()
    rules = _ByLayer.of(_without_experts(quantised.named), where)
    takes_towers = quantised.lists_towers and not any(_OF_TOWERS.search(named.pattern) for named in quantised.named)
    used: set[str] = set()
    found: dict[str, dict[str, list[int]]] = {}  # format -> tensor -> layers; -1: outside the layers
    names: dict[str, TensorGroup] = {}
    for group, layer, kind in _places(model):
        storage = None
        paths = tuple(module_paths(group, layer, kind))
        for rule in rules.at(layer):
            if any(map(rule.fits, paths)):
                used.add(rule.named.pattern)
                storage = storage or rule.named.format
        if not group.is_matrix or (layer is not None and layer >= model.layers.n_layers):
            continue
        is_kept_anyway = group.role in base.keeps
        if storage is None and takes_towers and group.role in _TOWER_ROLES:
            storage = quantised.format
        if storage is None or storage == (KEPT if is_kept_anyway else quantised.format):
            continue
        names[group.name] = group
        found.setdefault(storage, {}).setdefault(group.name, []).append(-1 if layer is None else layer)
    _check_all_used(quantised.named, used, where)
    return tuple(_rules(model, found))


def _places(model: ModelSpec) -> Iterator[tuple[TensorGroup, int | None, LayerKind | None]]:
    order = model.layers.order()
    for group in tensor_groups(model):
        for layer in group.layers or (None,):
            yield group, layer, None if layer is None else model.layers.kinds[order[layer]]
    if model.next_token_layers is not None:
        kinds = model.next_token_layers.layers
        for group in next_token_groups(model):
            yield from ((group, layer, kinds[-1]) for layer in group.layers)


def _without_experts(named: Iterable[Named]) -> Iterator[Named]:
    """Yield each pattern once, the experts of a layer as one."""
    return iter(dict.fromkeys(Named(_EXPERT.sub(".experts.0", n.pattern), n.format) for n in named))


def _matcher(pattern: str, where: str) -> Callable[[str], bool]:
    if len(pattern) > _MOST_LENGTH:
        raise _bad(where, pattern[:40], "is too long")
    if pattern.startswith("re:"):
        text = pattern.removeprefix("re:")
        if not _SAFE_REGEX.fullmatch(text) or sum(map(text.count, "*+")) > _MOST_REPEATS:
            raise _bad(where, pattern, "is a regular expression of a kind that is not read")
        try:
            compiled = re.compile(text)
        except re.error:
            raise _bad(where, pattern, "is no regular expression") from None
        return lambda path: compiled.match(path) is not None
    if any(sign in pattern for sign in "*?["):
        glob = re.compile(translate(pattern))
        inside = re.compile(translate(f"{pattern}.*"))
        return lambda path: glob.match(path) is not None or inside.match(path) is not None
    within = f".{pattern.removesuffix('.')}."
    return lambda path: within in f".{path}."


def _check_all_used(named: Iterable[Named], used: set[str], where: str) -> None:
    for pattern in dict.fromkeys(n.pattern for n in _without_experts(named)):
        if pattern not in used and not _NO_MATRIX.search(pattern):
            raise _bad(where, pattern, "is no part of the model that is known here")


def _bad(where: str, pattern: str, problem: str) -> BadInputError:
    return BadInputError(
        f"{where}: quantization_config: {pattern!r:.120} {problem}", "please report it, with the config.json"
    )


def _rules(model: ModelSpec, found: dict[str, dict[str, list[int]]]) -> Iterator[StoredApart]:
    """Yield one rule per format and set of layers; whole roles by their role."""
    everywhere: dict[str, set[int]] = {}
    role_names: dict[Role, set[str]] = {}
    for group in tensor_groups(model):
        if group.is_matrix:
            everywhere.setdefault(group.name, set()).update(group.layers)
            role_names.setdefault(group.role, set()).add(group.name)
    for fmt, tensors in found.items():
        by_layers: dict[str | None, set[str]] = {}
        for name, layers in tensors.items():
            is_whole = layers == [-1] * len(layers) or set(layers) == everywhere[name]
            by_layers.setdefault(None if is_whole else _ranges(sorted(layers)), set()).add(name)
        for text, names in by_layers.items():
            roles = [role for role, own in role_names.items() if own <= names] if text is None else []
            rest = sorted(names - {name for role in roles for name in role_names[role]})
            yield StoredApart(format=fmt, roles=tuple(roles), tensors=tuple(rest), layers=text)


def _ranges(layers: Sequence[int]) -> str:
    spans = []
    for _, run in groupby(enumerate(layers), key=lambda pair: pair[1] - pair[0]):
        numbers = [layer for _, layer in run]
        spans.append(f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else str(numbers[0]))
    return ",".join(spans)
