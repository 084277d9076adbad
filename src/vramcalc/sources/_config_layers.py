"""Layers built from the keys of a config, under the traits of its dialect."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from vramcalc.sources._config_dialect import Dialect
from vramcalc.sources._config_keys import Keys
from vramcalc.sources._config_mixers import read_mixer
from vramcalc.sources._config_order import Place, layer_places, nemotron_place

_OF_EXPERTS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
_OF_MIXERS = (
    "conv_bias", "conv_L_cache", "linear_conv_kernel_dim", "linear_key_head_dim", "linear_num_key_heads",
    "linear_num_value_heads", "linear_value_head_dim", "mamba_ssm_dtype", "mixer_bias", "mixer_conv",
    "mixer_conv_bias", "mixer_expand", "mixer_groups", "mixer_head_dim", "mixer_heads", "mixer_rank", "mixer_state",
)  # fmt: skip
Raw = dict[str, Any]  # a spec before it is validated

_NORMS_AROUND_EXPERTS = 7  # Gemma 4, with a dense MLP beside the experts


def read_layers(keys: Keys, dialect: Dialect) -> tuple[Raw, Raw | None, list[str]]:
    """Return the stack of layers, the layers that predict the tokens after the next, and notes."""
    places = layer_places(keys, dialect)
    names = _names(places)
    kinds = {name: _layer(keys, dialect, place) for place, name in names.items()}
    _ignore_what_stands_nowhere(keys, dialect, places)
    stack = {"n_layers": len(places), "kinds": kinds} | shortest_pattern([names[place] for place in places])
    next_tokens, notes = _next_tokens(keys, dialect, places)
    return stack, next_tokens, notes


def _ignore_what_stands_nowhere(keys: Keys, dialect: Dialect, places: Sequence[Place]) -> None:
    """Count the keys of a part as known where no layer has it."""
    if all(place.attention in ("linear", "none") for place in places):
        keys.ignore("num_attention_heads", "num_key_value_heads", "head_dim")
        keys.ignore(*(trait for trait in (dialect.qkv_bias, dialect.output_bias) if isinstance(trait, str)))
    if dialect.mixer != "none" and all(place.attention not in ("linear", "hybrid") for place in places):
        keys.ignore(*_OF_MIXERS)
    if dialect.mlp_order != "dense" and all(place.mlp not in ("moe", "hashed") for place in places):
        keys.ignore(*_OF_EXPERTS, "n_shared_experts", "shared_width")
    if all(place.mlp != "dense" for place in places):
        keys.ignore("intermediate_size", *([dialect.mlp_bias] if isinstance(dialect.mlp_bias, str) else ()))


def _names(places: Sequence[Place]) -> dict[Place, str]:
    """Name each kind by what tells it from the others."""
    distinct = list(dict.fromkeys(places))
    attentions, mlps = ({getattr(p, part) for p in distinct} for part in ("attention", "mlp"))
    names: dict[Place, str] = {}
    for place in distinct:
        parts = [place.attention] * (len(attentions) > 1) + [place.mlp] * (len(mlps) > 1)
        stem = "-".join(part for part in parts if part != "none") or "decoder"
        taken = sum(re.fullmatch(rf"{stem}(-\d+)?", name) is not None for name in names.values())
        names[place] = f"{stem}-{taken + 1}" if taken else stem
    return names


def shortest_pattern(order: Sequence[str]) -> Raw:
    """Return the shortest ``first`` and ``pattern`` that give the order."""
    n = len(order)
    best: tuple[int, tuple[str, ...], tuple[str, ...]] = (n, tuple(order), ())
    for start in range(min(n, 64)):
        for period in range(1, min(n - start, 32) + 1):
            pattern = order[start : start + period]
            if all(order[i] == pattern[(i - start) % period] for i in range(start, n)):
                best = min(best, (start + period, tuple(order[:start]), tuple(pattern)))
                break
    return {"first": best[1], "pattern": best[2]} if len(set(order)) > 1 else {}


def _layer(keys: Keys, dialect: Dialect, place: Place) -> Raw:
    has_mixer = place.attention in ("linear", "hybrid")
    has_attention = place.attention not in ("none", "linear")
    mlp = _mlp(keys, dialect, place)
    n_norms = keys.count(dialect.n_norms) if isinstance(dialect.n_norms, str) else dialect.n_norms
    if place.n_norms is not None:
        n_norms = place.n_norms
    elif dialect.layer_order == "blocks":
        n_norms = has_attention + (place.mlp != "none")
    layer: Raw = {"mlp": mlp, "n_norms": n_norms}
    if mlp.get("dense_ff_dim"):
        layer["n_norms"] = _NORMS_AROUND_EXPERTS
    if has_attention:
        layer["attention"] = _attention(keys, dialect, place)
    if has_mixer:
        layer["mixer"] = read_mixer(keys, dialect)
    if dialect.output_scale:
        layer["output_scale"] = True
    return layer


def _attention(keys: Keys, dialect: Dialect, place: Place) -> Raw:
    match dialect.attention:
        case "latent":
            return _latent(keys, dialect, place)
        case "compressed":
            return _compressed(keys, place)
        case _:
            return _grouped(keys, dialect, place)


def _trait(keys: Keys, trait: bool | str) -> bool:
    return keys.flag(trait) if isinstance(trait, str) else trait


def _grouped(keys: Keys, dialect: Dialect, place: Place) -> Raw:
    n_heads = place.n_heads or keys.count("num_attention_heads")
    n_kv_heads = keys.count("num_key_value_heads", n_heads if dialect.mha else None)
    a: Raw = {
        "kind": "full",
        "n_heads": n_heads,
        "n_kv_heads": place.n_kv_heads or n_kv_heads,
        "head_dim": place.head_dim or _head_dim(keys, n_heads),
        "qkv_bias": _trait(keys, dialect.qkv_bias),
        "output_bias": _trait(keys, dialect.output_bias),
        "fused": dialect.fused,
        "sinks": dialect.sinks,
        "output_gate": dialect.output_gate,
        "shares_cache": place.shares_cache,
    }
    if dialect.qk_norm_key is None or keys.flag(dialect.qk_norm_key):
        a["qk_norm"] = dialect.qk_norm
    window = keys.get("sliding_window")  # stated by some that do not use it
    match place.attention:
        case "sliding":
            a |= {
                "kind": "sliding",
                "window": window or keys.count("sliding_window"),
                "gguf_window": dialect.gguf_window,
            }
        case "bidirectional":
            a["kind"] = "bidirectional"
        case "chunked":
            a |= {"kind": "chunked", "chunk": keys.count("attention_chunk_size", 8192)}
        case "sparse":
            a["indexer"] = _block_indexer(keys)
        case _:
            a |= _of_global(keys)
    keys.ignore("attention_chunk_size", "sparse_attention_config")
    return {key: value for key, value in a.items() if value is not False and value != "none"}


def _head_dim(keys: Keys, n_heads: int) -> int:
    for name in ("attention_head_dim", "head_dim"):
        if name in keys:
            keys.ignore("head_dim")
            return keys.count(name)
    if keys.get("head_dim") is not None:  # of the class
        return keys.count("head_dim")
    hidden = keys.count("hidden_size")
    if not 0 < n_heads <= hidden:
        raise keys.error("head_dim", f"is missing, and hidden_size={hidden} is too small for {n_heads} heads")
    return hidden // n_heads  # rounded down, as the model classes do


def _of_global(keys: Keys) -> Raw:
    """Gemma 4's full attention has heads of another shape."""
    found: Raw = {"head_dim": keys.count("global_head_dim")} if "global_head_dim" in keys else {}
    if keys.flag("attention_k_eq_v"):
        found["v_is_k"] = True
        if "num_global_key_value_heads" in keys:
            found["n_kv_heads"] = keys.count("num_global_key_value_heads")
    keys.ignore("num_global_key_value_heads")
    return found


def _block_indexer(keys: Keys) -> Raw:
    if "index_n_heads" in keys:
        found = _indexer_sizes(keys) | {"top_k": keys.count("index_topk_blocks"), "layout": "plain"}
        return found | {"block_tokens": keys.count("index_block_size")}
    section = keys.section("sparse_attention_config")
    found = {
        "n_heads": section.count("sparse_num_index_heads"),
        "head_dim": section.count("sparse_index_dim"),
        "top_k": section.count("sparse_topk_blocks"),
        "block_tokens": section.count("sparse_block_size"),
        "layout": "plain",
    }
    section.ignore("sparse_attention_freq", "use_sparse_attention")
    section.check_all_known(
        ("sparse_disable_index_value", "sparse_init_block", "sparse_local_block", "sparse_score_type")
    )
    return found


def _indexer_sizes(keys: Keys) -> Raw:
    return {"n_heads": keys.count("index_n_heads"), "head_dim": keys.count("index_head_dim")}


def _indexer(keys: Keys) -> Raw:
    return _indexer_sizes(keys) | {"top_k": keys.count("index_topk")}


def _latent(keys: Keys, dialect: Dialect, place: Place) -> Raw:
    found: Raw = {
        "kind": "latent",
        "n_heads": keys.count("num_attention_heads"),
        "query_rank": None if keys.is_null("q_lora_rank") else keys.count("q_lora_rank") or None,
        "latent_dim": keys.count("kv_lora_rank"),
        "rope_dim": keys.count("qk_rope_head_dim"),
        "nope_dim": keys.count("qk_nope_head_dim"),
        "v_head_dim": keys.count("v_head_dim"),
    }
    if dialect.indexer and place.indexed:
        found["indexer"] = _indexer(keys)
    return found


def _compressed(keys: Keys, place: Place) -> Raw:
    found: Raw = {
        "kind": "compressed",
        "n_heads": keys.count("num_attention_heads"),
        "head_dim": keys.count("head_dim"),
        "rope_dim": keys.count("qk_rope_head_dim"),
        "query_rank": keys.count("q_lora_rank"),
        "output_groups": keys.count("o_groups"),
        "output_rank": keys.count("o_lora_rank"),
        "window": keys.count("sliding_window"),
    }
    if place.ratio is not None:
        found["ratio"] = place.ratio
    indexer = _indexer(keys)
    if place.ratio == 4:  # noqa: PLR2004 - overlapping windows, chosen among by an indexer; longer ones are read whole
        found |= {"overlaps": True, "indexer": indexer}
    return found


def _mlp(keys: Keys, dialect: Dialect, place: Place) -> Raw:
    if place.mlp == "none":
        return {"kind": "none"}
    hidden_experts = keys.flag("enable_moe_block") if "enable_moe_block" in keys else False
    if place.mlp in ("moe", "hashed"):
        return _experts(keys, dialect, place)
    ff = place.ff_dim or keys.count("intermediate_size")
    if place.shares_cache and keys.flag("use_double_wide_mlp"):
        ff *= 2
    if hidden_experts:  # Gemma 4
        experts = _experts(keys, replace(dialect, shared="none"), place)
        return experts | {"dense_ff_dim": ff, "router_scale": True}
    keys.ignore("use_double_wide_mlp")
    if "enable_moe_block" in keys:
        keys.ignore(*_OF_EXPERTS)
    found: Raw = {"kind": dialect.mlp, "ff_dim": ff}
    if _trait(keys, dialect.mlp_bias):
        found["bias"] = True
    if (dialect.fused or dialect.fused_mlp) and dialect.mlp == "gated":
        found["fused"] = True
    return found


def _experts(keys: Keys, dialect: Dialect, place: Place) -> Raw:
    n_experts = keys.count("num_experts")
    shared = _shared_width(keys, dialect)
    if n_experts == 0:  # Granite 4.0 H without experts: the shared one is the MLP
        keys.ignore(*_OF_EXPERTS)
        return {"kind": "gated", "ff_dim": shared}
    ff = keys.count("moe_intermediate_size")
    keys.ignore("intermediate_size", "use_double_wide_mlp")
    found: Raw = {
        "kind": "moe",
        "n_experts": n_experts,
        "n_active_experts": keys.count("num_experts_per_tok"),
        "ff_dim": ff,
        "shared_ff_dim": shared,
    }
    optional: Raw = {
        "shared_gate": dialect.shared_gate and shared > 0,
        "expert_bias": dialect.expert_bias,
        "latent_dim": keys.count("moe_latent_size", 0),
    }
    found |= {key: value for key, value in optional.items() if value}
    if not dialect.gated_experts:
        found["gated"] = False
    if place.mlp == "hashed":
        found["hashed_tokens"] = keys.count("vocab_size")
    elif dialect.router_bias != "none":
        found["router_bias"] = dialect.router_bias
    return found


def _shared_width(keys: Keys, dialect: Dialect) -> int:
    match dialect.shared:
        case "count":
            return keys.count("n_shared_experts") * keys.count("moe_intermediate_size")
        case "width":
            return keys.count("shared_width")
        case _:
            return 0


def _next_tokens(keys: Keys, dialect: Dialect, places: Sequence[Place]) -> tuple[Raw | None, list[str]]:
    if dialect.next_tokens is None:
        return None, []
    key, what = dialect.next_tokens
    n = keys.count(key, 0)
    blocks = keys.items("mtp_layers_block_type")
    if not n:
        return None, []
    if what == "unknown":
        return None, ["Its multi-token-prediction modules are not counted: what they hold is not known."]
    if blocks is not None:
        of_one = [nemotron_place(keys, kind) for kind in blocks]
    elif what == "full":
        of_one = [next(place for place in reversed(places) if place.attention == "full")]
    else:
        of_one = [replace(places[-1], ratio=None, indexed=True)]
    layers = [_layer(keys, dialect, place) for place in of_one]
    notes = ["Without its multi-token-prediction layers: engines load them only for speculative decoding."]
    return {"n_layers": n, "layers": layers}, notes


def read_sizes(keys: Keys) -> Mapping[str, Any]:
    """Return what stands outside the layers."""
    sizes: Raw = {"vocabulary": keys.count("vocab_size"), "hidden_dim": keys.count("hidden_size")}
    if "hc_mult" in keys:
        sizes["hyper_streams"] = keys.count("hc_mult")
    per_layer = keys.count("hidden_size_per_layer_input", 0)
    if per_layer:
        sizes |= {"per_layer_dim": per_layer, "per_layer_vocabulary": keys.count("vocab_size_per_layer_input")}
    keys.ignore("vocab_size_per_layer_input")
    for ours, key in (("altup_streams", "altup_num_inputs"), ("laurel_rank", "laurel_rank")):
        if keys.get(key) is not None:
            sizes[ours] = keys.count(key)
    return sizes
