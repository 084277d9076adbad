"""How ``llama-quantize`` stores every tensor under each mix, and so the exact bytes of a GGUF's tensors.

A mix gives each kind of tensor a type by its place among its kind and by a few traits of the model; a type whose
blocks do not divide the columns gives way to a coarser one. The rules are data, the functions only look them up.

Source:
    llama.cpp, src/llama-quant.cpp; equal to the byte to ``llama-quantize --dry-run`` of commit 0c1e57098.
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto
from math import prod

from msgspec import Struct, field

from vramcalc.errors import RefusedError, UnknownNameError, UsageError
from vramcalc.formulas.inventory import TensorGroup, tensor_groups
from vramcalc.specs.formats import F16, F32, FLOATS, GGML, BlockFormat
from vramcalc.specs.model import LatentAttention, ModelSpec, MoeMlp, Role


class _Kind(Enum):
    """The kinds of tensors that mixes tell apart."""

    HEAD = auto()
    EMBEDDING = auto()
    ATTN_Q = auto()
    ATTN_K = auto()
    ATTN_V = auto()
    ATTN_OUTPUT = auto()
    FFN_GATE = auto()
    FFN_UP = auto()
    FFN_DOWN = auto()
    OTHER = auto()


_KIND_OF_NAME = {
    "output": _Kind.HEAD,
    "token_embd": _Kind.EMBEDDING,
    "per_layer_token_embd": _Kind.EMBEDDING,
    "attn_q": _Kind.ATTN_Q,
    "attn_k": _Kind.ATTN_K,
    "attn_v": _Kind.ATTN_V,
    "attn_qkv": _Kind.ATTN_V,  # a fused matrix is treated as its most sensitive part
    "attn_kv_b": _Kind.ATTN_V,
    "attn_output": _Kind.ATTN_OUTPUT,
}
_FFN_KINDS = {"ffn_gate": _Kind.FFN_GATE, "ffn_up": _Kind.FFN_UP, "ffn_down": _Kind.FFN_DOWN}  # and their experts

_KEPT_ROLES: frozenset[Role] = frozenset({"norm", "router"})
_KEPT_NAMES = frozenset({"position_embd", "token_types", "ssm_conv1d", "ssm_a", "ssm_d"})

_QUERIES_PER_VALUE = 4  # from here on the value matrix is so small that more bits for it cost little
_SOME_EXPERTS = 4
_MIXTRAL_EXPERTS = 8  # exactly: finer experts are left out
_LAYERS_OF_A_70B = 80


class _Traits(Struct, frozen=True):
    """What the rules ask of a model."""

    queries_per_kv_head: int
    n_experts: int
    n_layers: int
    is_70b: bool
    has_imatrix: bool


class _Place(Struct, frozen=True):
    """Where a tensor stands: the ``index``-th of ``count``."""

    index: int
    count: int
    traits: _Traits


_Condition = Callable[[_Place], bool]
_Rules = tuple[tuple[str, _Condition], ...]  # the first condition that holds decides; none: the mix's base


def _always(_: _Place) -> bool:
    return True


def _first(n: int) -> _Condition:
    return lambda place: place.index < n


def _first_share(divisor: int) -> _Condition:
    return lambda place: place.index < place.count // divisor


def _middle(place: _Place) -> bool:
    return place.count // 8 <= place.index < 7 * place.count // 8


def _more_bits(place: _Place) -> bool:
    """Both ends, and the last of every three between."""
    return not _middle(place) or (place.index - place.count // 8) % 3 == 2  # noqa: PLR2004


def _grouped(place: _Place) -> bool:
    return place.traits.queries_per_kv_head >= _QUERIES_PER_VALUE


def _some_experts(place: _Place) -> bool:
    return place.traits.n_experts >= _SOME_EXPERTS


def _mixtral(place: _Place) -> bool:
    return place.traits.n_experts == _MIXTRAL_EXPERTS


def _weighed(place: _Place) -> bool:
    return place.traits.has_imatrix


def _plain(place: _Place) -> bool:
    return not place.traits.has_imatrix


def _both(one: _Condition, other: _Condition) -> _Condition:
    return lambda place: one(place) and other(place)


class Recipe(Struct, frozen=True):
    """A mix of ``llama-quantize``: a base type and the tensors that get another."""

    base: str
    needs_imatrix: bool = False  # unless every tensor of such a type falls back
    head: str = "q6_k"  # also of an embedding that serves as head
    embedding: str = ""  # empty: the base
    stacked: str = ""  # of matrices stacked per layer: experts, and MLA's heads
    rules: Mapping[_Kind, _Rules] = field(default_factory=dict)
    counts_tensors: bool = False  # feed-forward rules count tensors even where experts make that differ from layers


class RoleMix(Struct, frozen=True):
    """The user's own mix: one type for each role."""

    types: Mapping[Role, BlockFormat]

    @property
    def needs_imatrix(self) -> bool:
        """Whether some type is useless without an importance matrix; the embedding and the head may do without."""
        return any(f.name in _IMATRIX_TYPES for role, f in self.types.items() if role not in ("embedding", "head"))


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


def _lowest(base: str, value: str, attn_output: _Rules = (), embedding: str = "q2_k") -> Recipe:
    """Return a mix of two bits and less; ``value`` is what its sensitive tensors get."""
    rules = {
        _Kind.ATTN_V: (("q4_k", _grouped), ("q4_k", _some_experts), (value, _always)),
        _Kind.ATTN_K: (("q4_k", _mixtral),),
        _Kind.ATTN_OUTPUT: (("q5_k", _mixtral), *attn_output),
        _Kind.FFN_DOWN: ((value, _first_share(8)),),
    }
    return Recipe(base, needs_imatrix=True, head="q5_k", embedding=embedding, rules=rules, counts_tensors=True)


_MORE_BITS: _Rules = (("q6_k", _more_bits),)
_MIXTRAL_OUTPUT: _Rules = (("q5_k", _mixtral),)
_IQ4_RULES: Mapping[_Kind, _Rules] = {
    _Kind.ATTN_V: (("q5_k", _grouped),),
    _Kind.ATTN_OUTPUT: _MIXTRAL_OUTPUT,
    _Kind.FFN_DOWN: (("q5_k", _both(_plain, _first_share(8))),),
}
_IQ3_XS_MIDDLE: _Rules = (("iq3_xxs", _middle),)

RECIPES: Mapping[str, Recipe] = {
    "f32": Recipe("f32", head="f32"),
    "f16": Recipe("f16", head="f16"),
    "bf16": Recipe("bf16", head="bf16"),
    "q8_0": Recipe("q8_0", head="q8_0"),
    "q6_k": Recipe("q6_k"),
    "q5_k_m": Recipe("q5_k", rules={_Kind.ATTN_V: _MORE_BITS, _Kind.FFN_DOWN: _MORE_BITS}),
    "q5_k_s": Recipe("q5_k"),
    "q5_0": Recipe("q5_0", rules={_Kind.FFN_DOWN: (("q5_1", _both(_weighed, _first_share(8))),)}),
    "q5_1": Recipe("q5_1"),
    "q4_k_m": Recipe(
        "q4_k",
        rules={_Kind.ATTN_V: _MORE_BITS, _Kind.ATTN_OUTPUT: _MIXTRAL_OUTPUT, _Kind.FFN_DOWN: _MORE_BITS},
    ),
    "q4_k_s": Recipe(
        "q4_k",
        rules={
            _Kind.ATTN_V: (("q5_k", _first(4)),),
            _Kind.ATTN_OUTPUT: _MIXTRAL_OUTPUT,
            _Kind.FFN_DOWN: (("q5_k", _first_share(8)),),
        },
    ),
    "q4_0": Recipe("q4_0", rules={_Kind.FFN_DOWN: (("q4_1", _both(_weighed, _first_share(8))),)}),
    "q4_1": Recipe("q4_1"),
    "iq4_xs": Recipe("iq4_xs", rules=_IQ4_RULES),
    "iq4_nl": Recipe("iq4_nl", rules=_IQ4_RULES),
    "q3_k_l": Recipe(
        "q3_k",
        rules={
            _Kind.ATTN_V: (("q5_k", _always),),
            _Kind.ATTN_OUTPUT: (("q3_k", _mixtral), ("q5_k", _always)),
            _Kind.FFN_DOWN: (("q5_k", _always),),
        },
    ),
    "q3_k_m": Recipe(
        "q3_k",
        rules={
            _Kind.ATTN_V: (("q5_k", _first(2)), ("q4_k", _always)),
            _Kind.ATTN_OUTPUT: (*_MIXTRAL_OUTPUT, ("q4_k", _always)),
            _Kind.FFN_DOWN: (("q5_k", _first_share(16)), ("q4_k", _always)),
        },
    ),
    "q3_k_s": Recipe("q3_k", rules={_Kind.ATTN_OUTPUT: _MIXTRAL_OUTPUT}),
    "q2_k": Recipe(
        "q2_k",
        rules={
            _Kind.ATTN_V: (("q4_k", _grouped), ("q3_k", _always)),
            _Kind.ATTN_OUTPUT: (*_MIXTRAL_OUTPUT, ("q3_k", _always)),
            _Kind.FFN_DOWN: (("q3_k", _always),),
        },
    ),
    "q2_k_s": Recipe(
        "q2_k",
        needs_imatrix=True,
        rules={_Kind.ATTN_V: (("q4_k", _grouped),), _Kind.FFN_DOWN: (("q4_k", _first_share(8)),)},
    ),
    "iq3_m": Recipe(
        "iq3_s",
        rules={
            _Kind.ATTN_V: (("q4_k", _always),),
            _Kind.ATTN_OUTPUT: (*_MIXTRAL_OUTPUT, ("q4_k", _always)),
            _Kind.FFN_DOWN: (("q4_k", _first_share(8)), ("q4_k", _both(_mixtral, _more_bits))),
        },
    ),
    "iq3_s": Recipe("iq3_s", rules={_Kind.ATTN_V: (("q4_k", _grouped),), _Kind.ATTN_OUTPUT: _MIXTRAL_OUTPUT}),
    "iq3_xs": Recipe(
        "iq3_s",
        needs_imatrix=True,
        rules={
            _Kind.ATTN_Q: (("iq3_xxs", _always),),
            _Kind.ATTN_K: (("iq3_xxs", _always),),
            _Kind.ATTN_V: (("q4_k", _grouped),),
            _Kind.ATTN_OUTPUT: _MIXTRAL_OUTPUT,
            _Kind.FFN_GATE: _IQ3_XS_MIDDLE,
            _Kind.FFN_UP: _IQ3_XS_MIDDLE,
        },
    ),
    "iq3_xxs": Recipe(
        "iq3_xxs",
        needs_imatrix=True,
        head="q5_k",
        embedding="iq3_s",
        rules={
            _Kind.ATTN_Q: (("iq2_s", _always),),
            _Kind.ATTN_K: (("iq2_s", _always),),
            _Kind.ATTN_V: (("q4_k", _grouped), ("iq3_s", _plain)),
            _Kind.ATTN_OUTPUT: (*_MIXTRAL_OUTPUT, ("iq3_s", _always)),
            _Kind.FFN_DOWN: (("q4_k", _both(_plain, _first_share(8))), ("q3_k", _plain)),
        },
    ),
    "iq2_m": _lowest("iq2_s", "iq3_s", attn_output=(("iq3_s", _always),), embedding="iq3_s"),
    "iq2_s": _lowest("iq2_xs", "iq3_s", attn_output=(("iq3_s", _always),), embedding="iq3_s"),
    "iq2_xs": _lowest("iq2_xs", "q2_k"),
    "iq2_xxs": _lowest("iq2_xxs", "q2_k"),
    "iq1_m": _lowest("iq1_m", "q2_k", attn_output=(("iq2_xxs", _always),)),
    "iq1_s": _lowest("iq1_s", "q2_k", attn_output=(("iq2_xxs", _always),)),
    "tq1_0": Recipe("tq1_0", embedding="q4_k"),
    "tq2_0": Recipe("tq2_0", embedding="q4_k"),
    "mxfp4_moe": Recipe("q8_0", head="q8_0", stacked="mxfp4"),
}
ALIASES: Mapping[str, str] = {"q5_k": "q5_k_m", "q4_k": "q4_k_m", "q3_k": "q3_k_m"}  # as llama-quantize has them

_EIGHT_EXPERT_RULES: Mapping[_Kind, _Rules] = {
    _Kind.ATTN_K: (("q8_0", _mixtral),),
    _Kind.ATTN_V: (("q8_0", _mixtral),),
}
_RAISED_IN_A_70B = {"q3_k": "q5_k", "q4_k": "q5_k"}

# where the columns are no multiple of 256
_FALLBACK = {
    "tq1_0": "q4_0",
    "tq2_0": "q4_0",
    "q2_k": "q4_0",
    "q3_k": "q4_0",
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
    "iq1_s": "iq4_nl",
    "iq1_m": "iq4_nl",
    "iq2_xxs": "iq4_nl",
    "iq2_xs": "iq4_nl",
    "iq2_s": "iq4_nl",
    "iq3_xxs": "iq4_nl",
    "iq3_s": "iq4_nl",
    "iq4_xs": "iq4_nl",
}
_IMATRIX_TYPES = frozenset({"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs"})
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
    """Return all tensors of the model's GGUF under a mix.

    ``has_imatrix`` tells whether an importance matrix was at hand, which shifts a few tensors of q4_0, q5_0, iq4_nl,
    iq4_xs and iq3_xxs; None: only where the mix cannot do without.

    Units:
        Bytes of tensor data; the file's padding of each tensor to 32 bytes is not in it.
    """
    mix = resolve_recipe(recipe)
    groups = gguf_groups(model)
    if isinstance(mix, RoleMix):
        is_tied = _is_tied(groups)
        return tuple(GgufTensor(group, _role_formats(group, mix, is_tied=is_tied)) for group in groups)
    chooser = _Chooser.of(model, groups, mix, has_imatrix=mix.needs_imatrix if has_imatrix is None else has_imatrix)
    return tuple(GgufTensor(group, chooser.formats(group)) for group in groups)


def average_bits(model: ModelSpec, recipe: str) -> float:
    """Return the bits per weight over the whole file, vectors included."""
    tensors = gguf_tensors(model, recipe)
    return 8 * sum(t.n_bytes for t in tensors) / sum(t.group.n_elements for t in tensors)


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
    if not group.is_matrix or group.role in _KEPT_ROLES or _stem(group) in _KEPT_NAMES:
        return F32
    is_one_row = prod(group.shape[:-1]) == 1
    return converted if is_one_row or group.role in ("vision", "projector") else None


def _that_divides(fmt: BlockFormat, group: TensorGroup) -> BlockFormat:
    """Return ``fmt``, or what replaces it where its blocks do not divide the columns."""
    columns = group.shape[-1]
    if columns % fmt.block_elements == 0:
        return fmt
    if fmt.name not in _FALLBACK:
        raise RefusedError(
            f"{fmt.name} cannot hold {group.name}: {columns} columns are no multiple of {fmt.block_elements}",
            "use f16 or bf16",
        )
    fallback = GGML[_FALLBACK[fmt.name]]
    return fallback if columns % fallback.block_elements == 0 else F16


def _stem(group: TensorGroup) -> str:
    return group.name.removesuffix(".weight")


def _kind(group: TensorGroup) -> _Kind:
    stem = _stem(group)
    for prefix, kind in _FFN_KINDS.items():
        if stem.startswith(prefix):
            return kind
    return _KIND_OF_NAME.get(stem, _Kind.OTHER)


def _is_tied(groups: tuple[TensorGroup, ...]) -> bool:
    """Return whether the embedding serves as head, which llama.cpp takes for granted where there is none."""
    return all(_kind(group) is not _Kind.HEAD for group in groups)


def _traits(model: ModelSpec, *, has_imatrix: bool) -> _Traits:
    layers = model.layers
    attention = layers.kinds[layers.order()[0]].attention
    if isinstance(attention, LatentAttention):
        queries_per_kv_head = attention.n_heads  # a GGUF calls MLA one KV head
    else:
        queries_per_kv_head = attention.n_heads // attention.n_kv_heads
    return _Traits(
        queries_per_kv_head=queries_per_kv_head,
        n_experts=max(kind.mlp.n_experts if isinstance(kind.mlp, MoeMlp) else 0 for kind in layers.kinds.values()),
        n_layers=layers.n_layers,
        # llama.cpp goes by architecture (llama, qwen2, deci, olmo), which specs do not state
        is_70b=layers.n_layers == _LAYERS_OF_A_70B and queries_per_kv_head > 1 and not model.is_moe,
        has_imatrix=has_imatrix,
    )


class _Chooser(Struct, frozen=True):
    """Looks up the types of one mix for one model."""

    mix: Recipe
    traits: _Traits
    is_tied: bool
    ranks: Mapping[_Kind, Mapping[tuple[int, str], int]]  # of each layer's tensors among their kind, in file order

    @classmethod
    def of(cls, model: ModelSpec, groups: tuple[TensorGroup, ...], mix: Recipe, *, has_imatrix: bool) -> "_Chooser":
        """Return the chooser with every tensor of the layers ranked."""
        spots: dict[_Kind, list[tuple[int, str]]] = {}
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
        if kind is _Kind.HEAD or (self.is_tied and kind is _Kind.EMBEDDING):
            has_whole_blocks = group.shape[-1] % GGML[mix.base].block_elements == 0
            return [mix.head if has_whole_blocks else "q8_0"]
        if kind is _Kind.EMBEDDING:
            return [mix.embedding or mix.base]
        if mix.stacked and group.copies > 1 and group.layers:
            return [mix.stacked] * len(group.layers)
        rules = mix.rules.get(kind, ())
        if not mix.counts_tensors:
            rules = _EIGHT_EXPERT_RULES.get(kind, ()) + rules
        if not rules or not group.layers:
            return [mix.base] * max(1, len(group.layers))
        names = [self._first_that_holds(rules, self._place(kind, layer, group.name)) for layer in group.layers]
        if kind is _Kind.ATTN_V and self.traits.is_70b and not mix.counts_tensors:
            return [_RAISED_IN_A_70B.get(name, name) for name in names]
        return names

    def _first_that_holds(self, rules: _Rules, place: _Place) -> str:
        return next((name for name, holds in rules if holds(place)), self.mix.base)

    def _place(self, kind: _Kind, layer: int, name: str) -> _Place:
        ranks = self.ranks[kind]
        if kind not in _FFN_KINDS.values():
            return _Place(ranks[layer, name], len(ranks), self.traits)
        goes_by_layer = self.traits.n_experts > 1 and not self.mix.counts_tensors
        return _Place(layer if goes_by_layer else ranks[layer, name], self.traits.n_layers, self.traits)
