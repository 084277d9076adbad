"""How ``llama-quantize`` stores every tensor under each mix, and so the exact bytes of a GGUF's tensors.

A mix gives each kind of tensor a type by its place among its kind and by a few traits of the model; a type whose
blocks do not divide the columns gives way to a coarser one. The rules are data, the functions only look them up.

Source:
    llama.cpp, src/llama-quant.cpp; equal to the byte to ``llama-quantize --dry-run`` of commit 0c1e57098.
"""

from collections.abc import Mapping, Sequence
from math import prod

from msgspec import Struct

from vramcalc.errors import RefusedError, UnknownNameError, UsageError
from vramcalc.formulas._recipe_rules import (
    ALIASES,
    EIGHT_EXPERT_RULES,
    FALCON,
    FALLBACK,
    FFN_KINDS,
    IMATRIX_TYPES,
    KEPT_NAMES,
    KEPT_ROLES,
    KIND_OF_NAME,
    LEFT_PREFIXES,
    RAISED_IN_A_70B,
    RECIPES,
    Kind,
    Place,
    Recipe,
    Rules,
    Traits,
    falcon_recipe,
)
from vramcalc.formulas.inventory import TensorGroup, tensor_groups
from vramcalc.specs.formats import F16, F32, FLOATS, GGML, GGML_STORED, BlockFormat
from vramcalc.specs.model import (
    CompressedAttention,
    GatedDelta,
    LatentAttention,
    LayerKind,
    ModelSpec,
    MoeMlp,
    NoAttention,
    Role,
    StoredGroup,
    parse_layers,
)

__all__ = [
    "ALIASES",
    "RECIPES",
    "GgufTensor",
    "Recipe",
    "RoleMix",
    "average_bits",
    "gguf_groups",
    "gguf_tensors",
    "is_recipe",
    "resolve_recipe",
]


class RoleMix(Struct, frozen=True):
    """The user's own mix: one type for each role."""

    types: Mapping[Role, BlockFormat]

    @property
    def needs_imatrix(self) -> bool:
        """Whether some type is useless without an importance matrix; the embedding and the head may do without."""
        return any(f.name in IMATRIX_TYPES for role, f in self.types.items() if role not in ("embedding", "head"))


class GgufTensor(Struct, frozen=True):
    """A group of tensors as the file holds them; ``formats`` has one entry per layer, or one outside the layers."""

    group: TensorGroup
    formats: tuple[BlockFormat, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors of the group, without the padding between tensors."""
        return sum(self._stack_bytes(fmt) * self.formats.count(fmt) for fmt in set(self.formats))

    def layer_bytes(self, layer: int) -> int:
        """Return the bytes in one layer, 0 where the layer has no such tensor."""
        layers = self.group.layers
        return self._stack_bytes(self.formats[layers.index(layer)]) if layer in layers else 0

    def _stack_bytes(self, fmt: BlockFormat) -> int:
        *rows, columns = self.group.shape
        return fmt.matrix_bytes(self.group.copies * prod(rows), columns)


_LAYERS_OF_A_70B = 80
_KNOWN_AS_70B = frozenset({"llama", "deci", "qwen2", "olmo"})
_TYPES = {name: fmt for name, fmt in GGML.items() if name != "q8_k"}  # q8_k never reaches a file

_ROLE_OF_KEY: Mapping[str, Role] = {
    "attn": "attention",
    "mlp": "mlp",
    "experts": "experts",
    "shared_experts": "shared_experts",
    "embed": "embedding",
    "head": "head",
}


def resolve_recipe(text: str) -> Recipe | RoleMix:
    """Return the mix of that name, or the user's own that names a type for each role: ``"attn=q6_k,mlp=q4_k"``.

    Roles are attn, mlp, experts, shared_experts, embed and head. All but attn default to the type of mlp, which must
    be there, as must attn; an embedding that serves as head takes the head's type unless embed is named too.

    >>> resolve_recipe("Q4_K").base
    'q4_k'
    """
    name = text.strip().lower()
    if "=" in name:
        return _parse_role_mix(name)
    name = ALIASES.get(name, name)
    if name not in RECIPES:
        raise UnknownNameError("weight format", text, RECIPES, see="name a mix, or types by role: attn=q6_k,mlp=q4_k")
    return RECIPES[name]


def is_recipe(name: str) -> bool:
    """Whether llama-quantize has a mix of that name."""
    return name.strip().lower() in RECIPES or name.strip().lower() in ALIASES


def gguf_groups(model: ModelSpec) -> tuple[TensorGroup, ...]:
    """Return the inventory as a converted GGUF holds it.

    Against the checkpoint: the vocabulary without padding rows, no towers (they are another file), shapes as the
    converter leaves them, and the factors of a scaled rope as a vector.
    """
    extras = tuple(
        extra.model_copy(update={"shape": extra.gguf_shape or extra.shape})
        for extra in model.extra_tensors
        if extra.in_gguf
    )
    vocabulary = model.gguf_vocabulary or model.vocabulary
    groups = tensor_groups(model.model_copy(update={"vocabulary": vocabulary, "extra_tensors": extras}))
    if not model.gguf_rope_factors:
        return groups
    return (*groups, TensorGroup("rope_freqs.weight", "attention", (model.gguf_rope_factors,), is_parameter=False))


def gguf_tensors(model: ModelSpec, recipe: str, *, has_imatrix: bool | None = None) -> tuple[GgufTensor, ...]:
    """Return all tensors of the model's GGUF under a mix: the file's own where the model is a file of that format.

    ``has_imatrix`` tells whether an importance matrix was at hand, which shifts a few tensors of q4_0, q5_0, iq4_nl,
    iq4_xs and iq3_xxs; None: only where the mix cannot do without.

    Units:
        Bytes of tensor data; the file's padding of each tensor to 32 bytes is not in it.
    """
    if model.stored is not None and recipe == model.stored.format:
        return tuple(_stored_tensor(group) for group in model.stored.groups)
    mix = resolve_recipe(recipe)
    groups = gguf_groups(model)
    if isinstance(mix, RoleMix):
        is_tied = _is_tied(groups)
        return tuple(GgufTensor(group, _role_formats(group, mix, is_tied=is_tied)) for group in groups)
    if model.gguf_architecture == FALCON:
        name = recipe.strip().lower()
        mix = falcon_recipe(ALIASES.get(name, name), mix)
    chooser = _Chooser.of(model, groups, mix, has_imatrix=mix.needs_imatrix if has_imatrix is None else has_imatrix)
    return tuple(GgufTensor(group, chooser.formats(group)) for group in groups)


def average_bits(model: ModelSpec, recipe: str) -> float:
    """Return the bits per weight over the whole file, vectors included."""
    tensors = gguf_tensors(model, recipe)
    return 8 * sum(t.n_bytes for t in tensors) / sum(t.group.n_elements for t in tensors)


def _stored_tensor(stored: StoredGroup) -> GgufTensor:
    """Return a file's tensors. Raises ``UnknownNameError`` for a type no file has."""
    formats: dict[int, BlockFormat] = {}
    for name, layers in stored.types.items():
        if name not in GGML_STORED:
            raise UnknownNameError("storage type", name, GGML_STORED, see=f"types: {', '.join(GGML_STORED)}")
        formats |= dict.fromkeys(parse_layers(layers), GGML_STORED[name])
    if not formats:
        group = TensorGroup(stored.name, stored.role, stored.shape, copies=stored.copies)
        return GgufTensor(group, (GGML_STORED[next(iter(stored.types))],))
    order = tuple(sorted(formats))
    group = TensorGroup(stored.name, stored.role, stored.shape, copies=stored.copies, layers=order)
    return GgufTensor(group, tuple(formats[layer] for layer in order))


def _parse_role_mix(text: str) -> RoleMix:
    types: dict[Role, BlockFormat] = {}
    for part in text.split(","):
        key, _, type_name = (word.strip() for word in part.partition("="))
        if key not in _ROLE_OF_KEY:
            raise UnknownNameError("role of a mix", key, _ROLE_OF_KEY, see=f"roles: {', '.join(_ROLE_OF_KEY)}")
        if type_name not in _TYPES:
            raise UnknownNameError("weight format", type_name, _TYPES, see=f"types: {', '.join(_TYPES)}")
        if _ROLE_OF_KEY[key] in types:
            raise UsageError(f"the mix {text!r} names {key} twice")
        types[_ROLE_OF_KEY[key]] = _TYPES[type_name]
    missing = [key for key in ("attn", "mlp") if _ROLE_OF_KEY[key] not in types]
    if missing:
        raise UsageError(f"the mix {text!r} has no type for {' and '.join(missing)}", "e.g. attn=q6_k,mlp=q4_k")
    return RoleMix(types)


def _role_formats(group: TensorGroup, mix: RoleMix, *, is_tied: bool) -> tuple[BlockFormat, ...]:
    fmt = _kept_format(group, F16)
    if fmt is None:
        types = mix.types
        default = types.get("head", types["mlp"]) if is_tied and group.role == "embedding" else types["mlp"]
        fmt = _that_divides(types.get(group.role, default), group)
    return (fmt,) * max(1, len(group.layers))


def _kept_format(group: TensorGroup, converted: BlockFormat) -> BlockFormat | None:
    """Return the format of a tensor no mix touches, else None; ``converted`` is what the converter left."""
    if not group.is_matrix or group.role in KEPT_ROLES or _stem(group) in KEPT_NAMES:
        return F32
    is_left = prod(group.shape[:-1]) == 1 or _stem(group).startswith(LEFT_PREFIXES)
    return converted if is_left or group.role in ("vision", "audio", "projector") else None


def _that_divides(fmt: BlockFormat, group: TensorGroup) -> BlockFormat:
    """Return ``fmt``, or what replaces it where its blocks do not divide the columns."""
    columns = group.shape[-1]
    if columns % fmt.block_elements == 0:
        return fmt
    if fmt.name not in FALLBACK:
        raise RefusedError(
            f"{fmt.name} cannot hold {group.name}: {columns} columns are no multiple of {fmt.block_elements}",
            "use f16 or bf16",
        )
    fallback = GGML[FALLBACK[fmt.name]]
    return fallback if columns % fallback.block_elements == 0 else F16


def _stem(group: TensorGroup) -> str:
    return group.name.removesuffix(".weight")


def _kind(group: TensorGroup) -> Kind:
    stem = _stem(group)
    for prefix, kind in FFN_KINDS.items():
        if stem.startswith(prefix):
            return kind
    return KIND_OF_NAME.get(stem, Kind.OTHER)


def _is_tied(groups: tuple[TensorGroup, ...]) -> bool:
    """Return whether the embedding serves as head, which llama.cpp takes for granted where there is none."""
    return all(_kind(group) is not Kind.HEAD for group in groups)


def _traits(model: ModelSpec, *, has_imatrix: bool) -> Traits:
    layers = model.layers
    queries_per_kv_head = _queries_per_kv_head([layers.kinds[name] for name in layers.order()])
    return Traits(
        queries_per_kv_head=queries_per_kv_head,
        n_experts=max(kind.mlp.n_experts if isinstance(kind.mlp, MoeMlp) else 0 for kind in layers.kinds.values()),
        n_layers=layers.n_layers,
        is_70b=_is_70b(model, queries_per_kv_head),
        has_imatrix=has_imatrix,
    )


def _is_70b(model: ModelSpec, queries_per_kv_head: int) -> bool:
    """Whether llama.cpp calls the model a 70B: by architecture and layers (src/llama-model.cpp, LLM_TYPE_70B)."""
    if model.layers.n_layers != _LAYERS_OF_A_70B or model.is_moe:
        return False
    return model.gguf_architecture in _KNOWN_AS_70B and (model.gguf_architecture != "llama" or queries_per_kv_head > 1)


def _queries_per_kv_head(layers: Sequence[LayerKind]) -> int:
    """Return what a GGUF states for its first layer: 0 where that has no heads, one KV head under MLA.

    Beside gated delta nets it states the heads of the attention layers for all.
    """
    attention = layers[0].attention
    if isinstance(layers[0].mixer, GatedDelta):
        attention = next((k.attention for k in layers if not isinstance(k.attention, NoAttention)), attention)
    if isinstance(attention, NoAttention):
        return 0
    if isinstance(attention, LatentAttention | CompressedAttention):
        return attention.n_heads
    return attention.n_heads // attention.n_kv_heads


class _Chooser(Struct, frozen=True):
    """Looks up the types of one mix for one model."""

    mix: Recipe
    traits: Traits
    is_tied: bool
    ranks: Mapping[Kind, Mapping[tuple[int, str], int]]  # of each layer's tensors among their kind, in file order

    @classmethod
    def of(cls, model: ModelSpec, groups: tuple[TensorGroup, ...], mix: Recipe, *, has_imatrix: bool) -> "_Chooser":
        """Return the chooser with every tensor of the layers ranked."""
        spots: dict[Kind, list[tuple[int, str]]] = {}
        for group in groups:
            if _kept_format(group, F16) is None:
                spots.setdefault(_kind(group), []).extend((layer, group.name) for layer in group.layers)
        return cls(
            mix=mix,
            traits=_traits(model, has_imatrix=has_imatrix),
            is_tied=_is_tied(groups),
            ranks={kind: {spot: rank for rank, spot in enumerate(sorted(of_kind))} for kind, of_kind in spots.items()},
        )

    def formats(self, group: TensorGroup) -> tuple[BlockFormat, ...]:
        """Return the format of each of the group's layers."""
        base = GGML[self.mix.base]
        n_layers = max(1, len(group.layers))
        kept = _kept_format(group, FLOATS.get(base.name, F16))
        if kept is not None:
            return (kept,) * n_layers
        if base.name in FLOATS:
            return (base,) * n_layers
        return tuple(_that_divides(GGML[name], group) for name in self._names(group))

    def _names(self, group: TensorGroup) -> list[str]:
        """Return the type of each layer before any falls back."""
        mix, kind = self.mix, _kind(group)
        if kind is Kind.HEAD or (self.is_tied and kind is Kind.EMBEDDING):
            has_whole_blocks = group.shape[-1] % GGML[mix.base].block_elements == 0
            return [mix.head if has_whole_blocks else "q8_0"]
        if kind is Kind.EMBEDDING:
            return [mix.embedding or mix.base]
        if mix.stacked and group.copies > 1 and group.layers:
            return [mix.stacked] * len(group.layers)
        rules = mix.rules.get(kind, ())
        if not mix.counts_tensors:
            rules = EIGHT_EXPERT_RULES.get(kind, ()) + rules
        if not rules or not group.layers:
            return [mix.base] * max(1, len(group.layers))
        names = [self._first_that_holds(rules, self._place(kind, layer, group.name)) for layer in group.layers]
        if kind is Kind.ATTN_V and self.traits.is_70b and not mix.counts_tensors:
            return [RAISED_IN_A_70B.get(name, name) for name in names]
        return names

    def _first_that_holds(self, rules: Rules, place: Place) -> str:
        return next((name for name, holds in rules if holds(place)), self.mix.base)

    def _place(self, kind: Kind, layer: int, name: str) -> Place:
        ranks = self.ranks[kind]
        if kind not in FFN_KINDS.values():
            return Place(ranks[layer, name], len(ranks), self.traits)
        goes_by_layer = self.traits.n_experts > 1 and not self.mix.counts_tensors
        return Place(layer if goes_by_layer else ranks[layer, name], self.traits.n_layers, self.traits)
