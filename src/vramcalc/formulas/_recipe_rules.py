"""The rules of ``llama-quantize`` as data: kinds of tensors, conditions on their place, and the mixes.

Source:
    llama.cpp, src/llama-quant.cpp.
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto

from msgspec import Struct, field
from msgspec.structs import replace

from vramcalc.specs.model import Role


class Kind(Enum):
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


KIND_OF_NAME = {
    "output": Kind.HEAD,
    "token_embd": Kind.EMBEDDING,
    "per_layer_token_embd": Kind.EMBEDDING,
    "attn_q": Kind.ATTN_Q,
    "attn_k": Kind.ATTN_K,
    "attn_v": Kind.ATTN_V,
    "attn_qkv": Kind.ATTN_V,  # a fused matrix is treated as its most sensitive part
    "attn_kv_b": Kind.ATTN_V,
    "attn_output": Kind.ATTN_OUTPUT,
}
FFN_KINDS = {"ffn_gate": Kind.FFN_GATE, "ffn_up": Kind.FFN_UP, "ffn_down": Kind.FFN_DOWN}  # and their experts

KEPT_ROLES: frozenset[Role] = frozenset({"norm", "router"})
KEPT_NAMES = frozenset(
    {"position_embd", "token_types", "indexer.q_proj", "indexer.k_proj", "altup_correct_coef", "altup_predict_coef"}
)
LEFT_PREFIXES = ("per_layer_model_proj", "altup_", "laurel_")  # stay as the converter wrote them

_QUERIES_PER_VALUE = 4  # from here on the value matrix is so small that more bits for it cost little
_SOME_EXPERTS = 4
_MIXTRAL_EXPERTS = 8  # exactly: finer experts are left out


class Traits(Struct, frozen=True):
    """What the rules ask of a model."""

    queries_per_kv_head: int
    n_experts: int
    n_layers: int
    is_70b: bool
    has_imatrix: bool


class Place(Struct, frozen=True):
    """Where a tensor stands: the ``index``-th of ``count``."""

    index: int
    count: int
    traits: Traits


Condition = Callable[[Place], bool]
Rules = tuple[tuple[str, Condition], ...]  # the first condition that holds decides; none: the mix's base


def _always(_: Place) -> bool:
    return True


def _first(n: int) -> Condition:
    return lambda place: place.index < n


def _first_share(divisor: int) -> Condition:
    return lambda place: place.index < place.count // divisor


def _middle(place: Place) -> bool:
    return place.count // 8 <= place.index < 7 * place.count // 8


def _more_bits(place: Place) -> bool:
    """Both ends, and the last of every three between."""
    return not _middle(place) or (place.index - place.count // 8) % 3 == 2  # noqa: PLR2004


def _grouped(place: Place) -> bool:
    return place.traits.queries_per_kv_head >= _QUERIES_PER_VALUE


def _some_experts(place: Place) -> bool:
    return place.traits.n_experts >= _SOME_EXPERTS


def _mixtral(place: Place) -> bool:
    return place.traits.n_experts == _MIXTRAL_EXPERTS


def _weighed(place: Place) -> bool:
    return place.traits.has_imatrix


def _plain(place: Place) -> bool:
    return not place.traits.has_imatrix


def _both(one: Condition, other: Condition) -> Condition:
    return lambda place: one(place) and other(place)


class Recipe(Struct, frozen=True):
    """A mix of ``llama-quantize``: a base type and the tensors that get another."""

    base: str
    needs_imatrix: bool = False  # unless every tensor of such a type falls back
    head: str = "q6_k"  # also of an embedding that serves as head
    embedding: str = ""  # empty: the base
    stacked: str = ""  # of matrices stacked per layer: experts, and MLA's heads
    rules: Mapping[Kind, Rules] = field(default_factory=dict)
    counts_tensors: bool = False  # feed-forward rules count tensors even where experts make that differ from layers


def _lowest(base: str, value: str, attn_output: Rules = (), embedding: str = "q2_k") -> Recipe:
    """Return a mix of two bits and less; ``value`` is what its sensitive tensors get."""
    rules = {
        Kind.ATTN_V: (("q4_k", _grouped), ("q4_k", _some_experts), (value, _always)),
        Kind.ATTN_K: (("q4_k", _mixtral),),
        Kind.ATTN_OUTPUT: (("q5_k", _mixtral), *attn_output),
        Kind.FFN_DOWN: ((value, _first_share(8)),),
    }
    return Recipe(base, needs_imatrix=True, head="q5_k", embedding=embedding, rules=rules, counts_tensors=True)


_MORE_BITS: Rules = (("q6_k", _more_bits),)
_MIXTRAL_OUTPUT: Rules = (("q5_k", _mixtral),)
_IQ4_RULES: Mapping[Kind, Rules] = {
    Kind.ATTN_V: (("q5_k", _grouped),),
    Kind.ATTN_OUTPUT: _MIXTRAL_OUTPUT,
    Kind.FFN_DOWN: (("q5_k", _both(_plain, _first_share(8))),),
}
_IQ3_XS_MIDDLE: Rules = (("iq3_xxs", _middle),)

RECIPES: Mapping[str, Recipe] = {
    "f32": Recipe("f32", head="f32"),
    "f16": Recipe("f16", head="f16"),
    "bf16": Recipe("bf16", head="bf16"),
    "q8_0": Recipe("q8_0", head="q8_0"),
    "q6_k": Recipe("q6_k"),
    "q5_k_m": Recipe("q5_k", rules={Kind.ATTN_V: _MORE_BITS, Kind.FFN_DOWN: _MORE_BITS}),
    "q5_k_s": Recipe("q5_k"),
    "q5_0": Recipe("q5_0", rules={Kind.FFN_DOWN: (("q5_1", _both(_weighed, _first_share(8))),)}),
    "q5_1": Recipe("q5_1"),
    "q4_k_m": Recipe(
        "q4_k",
        rules={Kind.ATTN_V: _MORE_BITS, Kind.ATTN_OUTPUT: _MIXTRAL_OUTPUT, Kind.FFN_DOWN: _MORE_BITS},
    ),
    "q4_k_s": Recipe(
        "q4_k",
        rules={
            Kind.ATTN_V: (("q5_k", _first(4)),),
            Kind.ATTN_OUTPUT: _MIXTRAL_OUTPUT,
            Kind.FFN_DOWN: (("q5_k", _first_share(8)),),
        },
    ),
    "q4_0": Recipe("q4_0", rules={Kind.FFN_DOWN: (("q4_1", _both(_weighed, _first_share(8))),)}),
    "q4_1": Recipe("q4_1"),
    "iq4_xs": Recipe("iq4_xs", rules=_IQ4_RULES),
    "iq4_nl": Recipe("iq4_nl", rules=_IQ4_RULES),
    "q3_k_l": Recipe(
        "q3_k",
        rules={
            Kind.ATTN_V: (("q5_k", _always),),
            Kind.ATTN_OUTPUT: (("q3_k", _mixtral), ("q5_k", _always)),
            Kind.FFN_DOWN: (("q5_k", _always),),
        },
    ),
    "q3_k_m": Recipe(
        "q3_k",
        rules={
            Kind.ATTN_V: (("q5_k", _first(2)), ("q4_k", _always)),
            Kind.ATTN_OUTPUT: (*_MIXTRAL_OUTPUT, ("q4_k", _always)),
            Kind.FFN_DOWN: (("q5_k", _first_share(16)), ("q4_k", _always)),
        },
    ),
    "q3_k_s": Recipe("q3_k", rules={Kind.ATTN_OUTPUT: _MIXTRAL_OUTPUT}),
    "q2_k": Recipe(
        "q2_k",
        rules={
            Kind.ATTN_V: (("q4_k", _grouped), ("q3_k", _always)),
            Kind.ATTN_OUTPUT: (*_MIXTRAL_OUTPUT, ("q3_k", _always)),
            Kind.FFN_DOWN: (("q3_k", _always),),
        },
    ),
    "q2_k_s": Recipe(
        "q2_k",
        needs_imatrix=True,
        rules={Kind.ATTN_V: (("q4_k", _grouped),), Kind.FFN_DOWN: (("q4_k", _first_share(8)),)},
    ),
    "iq3_m": Recipe(
        "iq3_s",
        rules={
            Kind.ATTN_V: (("q4_k", _always),),
            Kind.ATTN_OUTPUT: (*_MIXTRAL_OUTPUT, ("q4_k", _always)),
            Kind.FFN_DOWN: (("q4_k", _first_share(8)), ("q4_k", _both(_mixtral, _more_bits))),
        },
    ),
    "iq3_s": Recipe("iq3_s", rules={Kind.ATTN_V: (("q4_k", _grouped),), Kind.ATTN_OUTPUT: _MIXTRAL_OUTPUT}),
    "iq3_xs": Recipe(
        "iq3_s",
        needs_imatrix=True,
        rules={
            Kind.ATTN_Q: (("iq3_xxs", _always),),
            Kind.ATTN_K: (("iq3_xxs", _always),),
            Kind.ATTN_V: (("q4_k", _grouped),),
            Kind.ATTN_OUTPUT: _MIXTRAL_OUTPUT,
            Kind.FFN_GATE: _IQ3_XS_MIDDLE,
            Kind.FFN_UP: _IQ3_XS_MIDDLE,
        },
    ),
    "iq3_xxs": Recipe(
        "iq3_xxs",
        needs_imatrix=True,
        head="q5_k",
        embedding="iq3_s",
        rules={
            Kind.ATTN_Q: (("iq2_s", _always),),
            Kind.ATTN_K: (("iq2_s", _always),),
            Kind.ATTN_V: (("q4_k", _grouped), ("iq3_s", _plain)),
            Kind.ATTN_OUTPUT: (*_MIXTRAL_OUTPUT, ("iq3_s", _always)),
            Kind.FFN_DOWN: (("q4_k", _both(_plain, _first_share(8))), ("q3_k", _plain)),
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

# Falcon's files: the head in q8_0, and of these tensors only the named mixes raise any.
FALCON = "falcon"
FALCON_HEAD = "q8_0"
_FALCON_RULES: Mapping[str, Mapping[Kind, Rules]] = {
    "q3_k_m": {Kind.FFN_DOWN: (("q5_k", _first_share(16)), ("q4_k", _more_bits))},
    "q3_k_l": {Kind.FFN_DOWN: (("q4_k", _always),), Kind.ATTN_OUTPUT: (("q4_k", _always),)},
    "q4_k_m": {Kind.FFN_DOWN: (("q6_k", _first_share(16)), ("q5_k", _more_bits))},
    "q4_k_s": {},
}


def falcon_recipe(name: str, recipe: Recipe) -> Recipe:
    """Return a mix as Falcon's architecture gets it."""
    ruled = _FALCON_RULES.get(name)
    kept = {
        kind: rules
        for kind, rules in recipe.rules.items()
        if kind is not Kind.ATTN_OUTPUT and (kind is not Kind.FFN_DOWN or ruled is None)
    }
    return replace(recipe, head=FALCON_HEAD, rules={**kept, **(ruled or {})})


EIGHT_EXPERT_RULES: Mapping[Kind, Rules] = {
    Kind.ATTN_K: (("q8_0", _mixtral),),
    Kind.ATTN_V: (("q8_0", _mixtral),),
}
RAISED_IN_A_70B = {"q3_k": "q5_k", "q4_k": "q5_k"}

# where the columns are no multiple of 256
FALLBACK = {
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
IMATRIX_TYPES = frozenset({"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs"})
