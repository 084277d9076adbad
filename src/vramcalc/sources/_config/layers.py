"""Layers built from the keys of a config, under the traits of its dialect."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from vramcalc.sources._config.attention import read_attention, trait
from vramcalc.sources._config.dialect import Dialect
from vramcalc.sources._config.keys import Keys
from vramcalc.sources._config.mixers import read_mixer
from vramcalc.sources._config.order import layer_places, nemotron_place
from vramcalc.sources._config.places import Place

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
        layer["attention"] = read_attention(keys, dialect, place)
    if has_mixer:
        layer["mixer"] = read_mixer(keys, dialect)
    if dialect.output_scale:
        layer["output_scale"] = True
    return layer


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
    if trait(keys, dialect.mlp_bias):
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
    if keys.get("hc_mult") is not None:
        sizes["hyper_streams"] = keys.count("hc_mult")
    per_layer = keys.count("hidden_size_per_layer_input", 0)
    if per_layer:
        sizes |= {"per_layer_dim": per_layer, "per_layer_vocabulary": keys.count("vocab_size_per_layer_input")}
    keys.ignore("vocab_size_per_layer_input")
    for ours, key in (("altup_streams", "altup_num_inputs"), ("laurel_rank", "laurel_rank")):
        if keys.get(key) is not None:
            sizes[ours] = keys.count(key)
    return sizes
