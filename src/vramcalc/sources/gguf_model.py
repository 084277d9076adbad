"""A model from a GGUF: its shape from keys and tensors, its weights tensor by tensor as they are stored."""

import re
from collections import Counter
from typing import Any

from msgspec import Struct
from pydantic import ValidationError

from vramcalc.errors import BadInputError
from vramcalc.formulas.inventory import n_active_parameters, n_parameters
from vramcalc.formulas.stored import NORM_NAMES, Match, match_tensors
from vramcalc.ledger import Basis
from vramcalc.sources._config.layers import shortest_pattern
from vramcalc.sources._gguf_architectures import ARCHITECTURES, NOT_MODELS, PROJECTOR
from vramcalc.sources._gguf_facts import Facts, Tensors
from vramcalc.sources._gguf_layers import read_layer
from vramcalc.sources._gguf_types import FILE_TYPES, GUESSED_FILE_TYPE
from vramcalc.specs.file import FilePart, ModelFile
from vramcalc.specs.model import CountFact, ModelSpec

_MOST_LAYERS = 4096
_MOST_NAME = 80
Raw = dict[str, Any]


class GgufModel(Struct, frozen=True):
    """What a file is, and where its tensors are not what its keys say."""

    spec: ModelSpec
    match: Match


def read_gguf_model(file: ModelFile) -> GgufModel:
    """Return the model a GGUF holds. Raises ``BadInputError`` naming what of it is not known or cannot be."""
    _refuse_other_kinds(file)
    facts = Facts(file)
    architecture = ARCHITECTURES.get(facts.architecture)
    if architecture is None:
        raise facts.error(f"the architecture {facts.architecture!r:.60} is not known here")
    n_layers = facts.count("block_count") - facts.count("nextn_predict_layers", 0)
    if not 1 <= n_layers <= _MOST_LAYERS:
        raise facts.error(f"it states {n_layers} layers")
    stem = _stem(file.name)
    raw: Raw = {
        "id": stem,
        "name": _clean(file.keys.get("general.name")) or stem,
        "family": architecture.family,
        "context": facts.count("context_length"),
        "license": _clean(file.keys.get("general.license")) or "unknown",
        "released": "unknown",
        "dtype": "bf16",
        "hidden_dim": facts.count("embedding_length"),
        "layers": _stack([_layer(facts, read_layer(facts, architecture, i), i) for i in range(n_layers)]),
        "parameters": {"total": 1, "basis": Basis.DERIVED, "source": file.name},
        "notes": [
            _cut_off(part) for part in file.parts if part.n_bytes is not None and part.n_bytes < part.needed_bytes
        ],
        "source": file.name,
    } | _outside(facts, is_encoder=architecture.is_encoder)
    model = _validated(facts, raw)
    match = match_tensors(model, file.tensors, file_format(file))
    active = n_active_parameters(model) if model.is_moe else None
    count = CountFact(total=n_parameters(model), active=active, basis=Basis.EXACT, source=file.name)
    return GgufModel(model.model_copy(update={"parameters": count, "stored": match.weights}), match)


def file_format(file: ModelFile) -> str:
    """Return what a GGUF calls its format, or the type most of its bytes are in."""
    number = file.keys.get("general.file_type")
    if isinstance(number, int) and number & ~GUESSED_FILE_TYPE in FILE_TYPES:
        return FILE_TYPES[number & ~GUESSED_FILE_TYPE]
    sizes: Counter[str] = Counter()
    for tensor in file.tensors:
        sizes[tensor.storage] += tensor.n_bytes
    return max(sizes, key=lambda name: sizes[name]) if sizes else "f32"


def _cut_off(part: FilePart) -> str:
    lacking = part.needed_bytes - (part.n_bytes or 0)
    return f"{part.name} ends {lacking:,} bytes early, so engines refuse it; the figures are for all of it."


def _refuse_other_kinds(file: ModelFile) -> None:
    kind = file.keys.get("general.type", "model")
    if isinstance(kind, str) and kind in NOT_MODELS:
        raise BadInputError(f"{file.name} is {NOT_MODELS[kind].partition(':')[0]}", NOT_MODELS[kind].partition(": ")[2])
    if file.keys.get("general.architecture") == PROJECTOR or kind == "mmproj":
        raise BadInputError(
            f"{file.name} is a multimodal projector, not a model", "name its model here, and this file with --mmproj"
        )
    if not file.tensors:
        raise BadInputError(f"{file.name} holds no tensors", "it may be a vocabulary alone")
    missing = [part.name for part in file.parts if part.is_missing]
    if missing:
        n_parts = len(file.parts)
        raise BadInputError(
            f"{file.name}: {len(missing)} of its {n_parts} parts are missing, e.g. {missing[0]}",
            "fetch all parts into one folder",
        )


def _layer(facts: Facts, layer: Raw, index: int) -> Raw:
    tensors = facts.layers.get(index, {})
    return layer | {
        "n_norms": sum(f"{name}.weight" in tensors for name in NORM_NAMES),
        "output_scale": "layer_output_scale.weight" in tensors,
    }


def _stack(layers: list[Raw]) -> Raw:
    """Return the layers as kinds and their order."""
    kinds: list[Raw] = []
    order = []
    for layer in layers:
        if layer not in kinds:
            kinds.append(layer)
        order.append(kinds.index(layer))
    names = [f"{_kind_name(kind)}-{number}" if len(kinds) > 1 else "decoder" for number, kind in enumerate(kinds, 1)]
    stack = {"n_layers": len(layers), "kinds": dict(zip(names, kinds, strict=True))}
    return stack | shortest_pattern([names[number] for number in order])


def _kind_name(kind: Raw) -> str:
    part = kind.get("attention") or kind.get("mixer") or {"kind": "mlp"}
    return f"{part['kind']}-{kind['mlp']['kind']}"


def _outside(facts: Facts, *, is_encoder: bool) -> Raw:
    outside: Tensors = facts.outside
    embedding = outside.get("token_embd.weight")
    hidden = facts.count("embedding_length")
    if embedding is None or len(embedding.shape) != 2 or embedding.shape[1] != hidden:  # noqa: PLR2004
        raise facts.error(f"'token_embd.weight' is no matrix of {hidden} columns")
    is_layer_norm = any(name in outside for name in ("output_norm.bias", "token_embd_norm.bias"))
    found: Raw = {
        "vocabulary": embedding.shape[0],
        "head": "none" if is_encoder else "separate" if "output.weight" in outside else "tied",
        "norm": "layer" if is_layer_norm else "rms",
        "final_norm": "output_norm.weight" in outside,
        "gguf_rope_factors": outside["rope_freqs.weight"].n_elements if "rope_freqs.weight" in outside else 0,
        "extra_tensors": [_extra(facts, name) for name in _EXTRAS if name in outside],
    }
    per_layer = outside.get("per_layer_token_embd.weight")
    if per_layer is not None:
        found["per_layer_vocabulary"] = per_layer.shape[0]
        found["per_layer_dim"] = facts.count("embedding_length_per_layer_input")
    return found


_EXTRAS = {  # names in the file to names and roles in an inventory
    "position_embd.weight": ("position_embd", "embedding"),
    "token_types.weight": ("token_types", "embedding"),
    "token_embd_norm.weight": ("token_embd_norm.weight", "norm"),
    "token_embd_norm.bias": ("token_embd_norm.bias", "norm"),
    "cls.weight": ("cls.weight", "head"),
    "cls.bias": ("cls.bias", "head"),
    "cls.output.weight": ("cls.output.weight", "head"),
    "cls.output.bias": ("cls.output.bias", "head"),
    "rope_factors_long.weight": ("rope_factors_long.weight", "attention"),
    "rope_factors_short.weight": ("rope_factors_short.weight", "attention"),
}


def _extra(facts: Facts, name: str) -> Raw:
    ours, role = _EXTRAS[name]
    return {"name": ours, "role": role, "shape": facts.outside[name].shape}


def _validated(facts: Facts, raw: Raw) -> ModelSpec:
    try:
        return ModelSpec.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise facts.error(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


def _stem(name: str) -> str:
    stem = re.split(r"[/\\:]", name)[-1].removesuffix(".gguf")
    return _clean(re.sub(r"-\d{5}-of-\d{5}$", "", stem)) or "model"


def _clean(text: object) -> str:
    """Return a text from a file without what would steer a terminal, and not too long."""
    return "".join(c for c in text if c.isprintable())[:_MOST_NAME].strip() if isinstance(text, str) else ""
