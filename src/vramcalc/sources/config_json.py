"""A model from its config.json, in any dialect known here; a key nobody knows is refused, never passed over."""

from pathlib import Path
from typing import Any

from msgspec.structs import replace
from pydantic import ValidationError

from vramcalc.errors import BadInputError
from vramcalc.formulas.inventory import n_active_parameters, n_parameters
from vramcalc.ledger import Basis
from vramcalc.sources._config.dialect import Dialect, Envelope
from vramcalc.sources._config.dialects import (
    ARCHITECTURES,
    DIALECTS,
    ENVELOPES,
    NESTED_DEFAULTS,
    gguf_architecture,
    nested,
)
from vramcalc.sources._config.formats import read_quantised
from vramcalc.sources._config.keys import Keys, read_json
from vramcalc.sources._config.layers import read_layers, read_sizes
from vramcalc.sources._config.ropes import read_ropes
from vramcalc.sources._config.storage import Quantised, stored_apart
from vramcalc.sources._config.towers import read_tower
from vramcalc.specs.model import CountFact, ModelSpec

_TOWER_POSITIONS = 8192  # vLLM 0.33, models/qwen3_vl.py
_OFF_EVERYWHERE = ("add_cross_attention", "is_encoder_decoder", "pruned_heads")
_OTHER_TASKS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForRewardModel")
_DTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


def read_config(path: Path) -> ModelSpec:
    """Return the model a config.json describes; ``path`` is the file or its folder.

    An hf_quant_config.json beside it is read too. Raises ``UnavailableError`` where the file cannot be read, and
    ``BadInputError`` naming the key where it says something not known here.
    """
    file = path / "config.json" if path.is_dir() else path
    raw = nested(read_json(file))
    beside = file.with_name("hf_quant_config.json")
    quantised = read_json(beside) if beside.is_file() else None
    envelope, text_type = _dialect_of(raw, str(file))
    name = file.parent.name if file.name == "config.json" else file.stem
    dialect = DIALECTS[text_type]
    if envelope is not None and envelope.any_text:
        dialect = replace(dialect, defaults={**NESTED_DEFAULTS.get(text_type, {}), **dialect.defaults})
    facts = _facts(raw, envelope, dialect, str(file)) | {"id": name or text_type, "name": name or text_type}
    stored = _quantised(raw, quantised, str(file))
    facts |= {"source": str(file), "checkpoint_format": stored.format if stored else None}
    model = _counted(facts, file)
    more: dict[str, Any] = {"gguf_architecture": gguf_architecture(text_type, has_experts=model.is_moe)}
    if stored is not None:
        more["stored_apart"] = stored_apart(model, stored, str(file))
    return model.model_copy(update=more)


def _dialect_of(raw: dict[str, Any], where: str) -> tuple[Envelope | None, str]:
    model_type = raw.get("model_type")
    if isinstance(raw.get("text_config"), dict):
        envelope = ENVELOPES.get(str(model_type))
        if envelope is None:
            raise _unknown_type(model_type, where)
        stated = raw["text_config"].get("model_type")
        return envelope, stated if envelope.any_text and stated in DIALECTS else envelope.text
    if isinstance(model_type, str) and model_type in DIALECTS:
        return None, model_type
    stated = raw.get("architectures")
    architectures = stated if isinstance(stated, list) else []
    found = [ARCHITECTURES[name] for name in architectures if isinstance(name, str) and name in ARCHITECTURES]
    if not found:
        raise _unknown_type(model_type, where)
    return None, found[0]


def _unknown_type(model_type: object, where: str) -> BadInputError:
    return BadInputError(
        f"{where}: key 'model_type': {model_type!r:.80} is not known",
        "write the shape as an entry of your own models.yaml, and please report the model",
    )


def _facts(raw: dict[str, Any], envelope: Envelope | None, dialect: Dialect, where: str) -> dict[str, Any]:
    raw = _restated(raw, envelope, dialect)
    top = Keys(raw, where)
    if envelope is None:
        keys = top = Keys(raw, where, dialect.names, dialect.defaults)
    else:
        keys = top.section("text_config", names=dialect.names, defaults=dialect.defaults)
    _refuse_strange_shapes(keys, top, dialect)
    keys.check_repeats(dialect.repeats)
    stack, next_tokens, notes = read_layers(keys, dialect)
    facts: dict[str, Any] = {"layers": stack, "notes": notes, "family": dialect.family, "norm": dialect.norm}
    facts |= read_sizes(keys)
    facts |= read_ropes(keys, dialect, stack)
    if next_tokens is not None:
        facts["next_token_layers"] = next_tokens
    facts |= {"final_norm": dialect.final_norm, "extra_tensors": _extras(keys, raw, envelope, dialect)}
    tied = _tied(keys, top, dialect, envelope)
    if envelope is not None:
        facts["extra_tensors"] = [*facts["extra_tensors"], *_towers(top, envelope, facts)]
    dtype = _DTYPES.get(str(_either(keys, top, "dtype") or _either(keys, top, "torch_dtype") or ""))
    if dtype is None:
        facts["notes"] += ["Its config.json states no dtype; bf16 is taken."]
    facts |= {"head": _head(dialect, top, tied=tied), "dtype": dtype or "bf16"}
    if dialect.active_leaves_out is not None:
        counted = "as the publisher of the family counts"
        facts["active"] = {"leaves_out": dialect.active_leaves_out, "source": counted}
    keys.ignore("quantization_config", "quantization")
    keys.check_all_known(dialect.harmless)
    if envelope is not None:
        top.ignore("quantization_config", "quantization", "text_config")
        top.check_all_known(envelope.harmless)
    return facts


def _either(keys: Keys, top: Keys, name: str) -> object:
    return keys.get(name) or top.get(name)


def _refuse_strange_shapes(keys: Keys, top: Keys, dialect: Dialect) -> None:
    """Raise ``BadInputError`` where a key states a shape that is not known here."""
    for name in (*dialect.must_be_off, *_OFF_EVERYWHERE):
        if keys.get(name):
            raise keys.error(name, f"is {keys.get(name)!r:.40}, a shape that is not known")
    for name, value in dialect.must_be.items():
        if keys.get(name, value) != value:
            raise keys.error(name, f"is {keys.get(name)!r:.40}, a shape that is not known")
    if dialect.has_head and _heads_another_task(top):
        raise top.error("architectures", f"is {top.get('architectures')!r:.80}, a head that is not known")


def _heads_another_task(top: Keys) -> bool:
    """Whether the class puts a classifier where a decoder has its head."""
    return any(name.endswith(_OTHER_TASKS) for name in _architectures(top))


def _architectures(top: Keys) -> list[str]:
    stated = top.get("architectures")
    return [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []


def _restated(raw: dict[str, Any], envelope: Envelope | None, dialect: Dialect) -> dict[str, Any]:
    if dialect.restate is None:
        return raw
    if envelope is None:
        return dialect.restate(raw)
    text = raw.get("text_config")
    return raw | {"text_config": dialect.restate(text) if isinstance(text, dict) else text}


def _tied(keys: Keys, top: Keys, dialect: Dialect, envelope: Envelope | None) -> bool:
    """Whether the head is the embedding. Where configs nest, the outer flag is the one transformers follows.

    Classes without one of their own, and configs that leave it out, go by the text model's.
    """
    if envelope is None:
        return keys.flag("tie_word_embeddings", default=dialect.tied)
    text = keys.flag("tie_word_embeddings", default=envelope.tied)
    outer = top.flag("tie_word_embeddings", default=text if envelope.ties != "top" else envelope.tied)
    return outer or (envelope.ties == "either" and text)


def _extras(keys: Keys, raw: dict[str, Any], envelope: Envelope | None, dialect: Dialect) -> list[dict[str, Any]]:
    of_text = raw if envelope is None else raw["text_config"]
    found = list(dialect.extras(of_text)) if dialect.extras is not None else []
    if dialect.head_bias is True or (dialect.head_bias and keys.flag(dialect.head_bias)):
        found.append({"name": "output.bias", "role": "head", "shape": (keys.count("vocab_size"),)})
    return found


def _head(dialect: Dialect, top: Keys, *, tied: bool) -> str:
    bare = any(name.endswith("Model") and not name.endswith("HeadModel") for name in _architectures(top))
    if not dialect.has_head or bare:
        return "none"
    return "tied" if tied else "separate"


def _towers(top: Keys, envelope: Envelope, facts: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for other in ("audio_config", "speech_config"):
        if other not in top:
            continue
        if envelope.audio_tower is None or other != "audio_config":
            raise top.error(other, "describes a tower that is not known")
        found += read_tower(envelope.audio_tower, top.section(other), top, facts["hidden_dim"])
    return found + _vision_tower(top, envelope, facts) if envelope.tower else found


def _vision_tower(top: Keys, envelope: Envelope, facts: dict[str, Any]) -> list[dict[str, Any]]:
    section = top.section("vision_config", defaults=envelope.tower_defaults or {})
    if "vision_config" not in top:
        if envelope.tower_defaults is None:
            return []
        facts["notes"] += ["Its config.json leaves out the vision tower; that of the model class is counted."]
    if envelope.tower in ("qwen_vl", "qwen3_vl"):  # the one tower whose rope vLLM keeps as a table
        half_head = section.count("hidden_size") // max(1, section.count("num_heads")) // 2
        facts["rope_tables"] = [*facts["rope_tables"], {"positions": _TOWER_POSITIONS, "dim": half_head}]
    return read_tower(envelope.tower, section, top, facts["hidden_dim"])


def _quantised(raw: dict[str, Any], beside: dict[str, Any] | None, where: str) -> Quantised | None:
    text = raw.get("text_config")
    section = (
        raw.get("quantization_config")
        or raw.get("quantization")
        or (text.get("quantization_config") if isinstance(text, dict) else None)
    )
    if section is not None and not isinstance(section, dict):
        raise BadInputError(f"{where}: key 'quantization_config' is no object", "name the model's config.json")
    found = read_quantised(section, beside, where)
    if found is not None and found.format == "fp8-block" and raw.get("expert_dtype") == "fp4" and not found.named:
        return replace(found, format="fp8-mxfp4")
    return found


def _counted(facts: dict[str, Any], file: Path) -> ModelSpec:
    unknown = {"license": "unknown", "released": "unknown"}
    uncounted = {"total": 1, "basis": Basis.DERIVED, "source": str(file)}
    try:
        model = ModelSpec.model_validate(unknown | facts | {"parameters": uncounted})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInputError(
            f"{file}: {where}: {first['msg'].removeprefix('Value error, ')}", "compare with the publisher's config.json"
        ) from error
    active = n_active_parameters(model) if model.is_moe else None
    count = CountFact(total=n_parameters(model), active=active, basis=Basis.DERIVED, source=str(file))
    return model.model_copy(update={"parameters": count})
