"""Rope tables of a config, and the factors a GGUF of it carries."""

from typing import Any

from vramcalc.sources._config.dialect import Dialect
from vramcalc.sources._config.keys import Keys

Raw = dict[str, Any]
_PLAIN = frozenset({"default", "llama3", "dynamic", "mrope", "proportional", "ntk"})
_LONG = frozenset({"longrope", "su"})
_NO_LIMIT = 1 << 20  # tokens, where only a state is kept


def read_ropes(keys: Keys, dialect: Dialect, stack: Raw) -> Raw:
    """Return ``context``, ``rope_tables`` and ``gguf_rope_factors``."""
    trained = keys.count("max_position_embeddings", keys.get("model_max_length", 0))
    attentions = [kind["attention"] for kind in stack["kinds"].values() if "attention" in kind]
    dims = list(dict.fromkeys(a["rope_dim"] if "rope_dim" in a else a["head_dim"] for a in attentions))
    scaling = keys.section("rope_parameters" if keys.get("rope_parameters") else "rope_scaling")
    keys.ignore("rope_scaling", "rope_theta", "rope_parameters")
    sections = scaling.sections() or [scaling]
    kinds = [_kind(section) for section in sections]
    share = scaling.number("partial_rotary_factor", keys.number("partial_rotary_factor", 1.0))
    width = keys.count("rotary_dim", 0)
    if not dims or not dialect.has_rope:  # without attention there is no limit
        return {"context": trained or _NO_LIMIT, "rope_tables": ()}
    if not trained:
        raise keys.error("max_position_embeddings", "is missing")
    table = {"positions": _positions(keys, scaling, kinds, trained), "dtype": "f32" if dialect.rope_f32 else "model"}
    found: Raw = {"context": trained, "rope_tables": [table | {"dim": width or int(dim * share)} for dim in dims]}
    found["rope_tables"] += [dict(table, dim=dims[0], dtype="f32")] * _n_more_tables(keys, dialect)
    if "llama3" in kinds:
        found["gguf_rope_factors"] = dims[0] // 2
    if "proportional" in kinds:  # Gemma 4, of the layers with the wider heads
        found["gguf_rope_factors"] = max(dims) // 2
    if _LONG & set(kinds):
        found["gguf_rope_factors"] = int(dims[0] * share)  # a long and a short set, each of half a row
    return found


def _n_more_tables(keys: Keys, dialect: Dialect) -> int:
    """Return how many tables more there are: an indexer's that rotates otherwise, compressed attention's own base."""
    if dialect.attention == "compressed":
        return 1
    return int(dialect.indexer and not keys.flag("indexer_rope_interleave"))


def _kind(scaling: Keys) -> str:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if not isinstance(kind, str) or kind not in _PLAIN | _LONG | {"linear", "yarn"}:
        raise scaling.error("rope_type", f"is unknown: {kind!r:.80}")
    return kind


def _positions(keys: Keys, scaling: Keys, kinds: list[str], trained: int) -> int:
    factor = scaling.number("factor", 1.0)
    name = "original_max_position_embeddings"
    original = scaling.count(name, keys.count(name, 0))
    if kinds == ["linear"]:
        return int(trained * factor)
    if kinds == ["yarn"] and original:
        return int(original * factor)
    if _LONG & set(kinds) and original:
        return trained + original
    return trained
