"""Dialects of decoders that norm once a layer, state their heads otherwise, or carry what later models dropped.

Source:
    transformers 5.23, models/*/configuration_*.py and modeling_*.py.
"""

from collections.abc import Mapping
from typing import Any

from vramcalc.sources._config_dialect import Dialect, words

_FF_TIMES_HIDDEN = 4


def _falcon(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return Falcon's config with the heads and norms its flags mean.

    Source: modeling_falcon.py; two norms a layer unless attention and MLP share one.
    """
    found = {key: value for key, value in raw.items() if key not in _FALCON_FLAGS}
    is_new = raw.get("new_decoder_architecture") is True
    if not is_new and raw.get("multi_query", True) is True:
        found["num_key_value_heads"] = 1
    elif raw.get("num_kv_heads") is not None:
        found["num_key_value_heads"] = raw["num_kv_heads"]
    if "intermediate_size" not in found:
        hidden = raw.get("hidden_size")
        stated = raw.get("ffn_hidden_size")
        found["intermediate_size"] = stated or (_FF_TIMES_HIDDEN * hidden if isinstance(hidden, int) else hidden)
    shares_norm = raw.get("num_ln_in_parallel_attn") == 1 if is_new else raw.get("parallel_attn", True) is True
    return found | {"n_norms": 1 if shares_norm else 2}


_FALCON_FLAGS = words(
    "new_decoder_architecture multi_query num_kv_heads ffn_hidden_size num_ln_in_parallel_attn parallel_attn"
)

OLDER: Mapping[str, Dialect] = {
    "phi": Dialect(
        family="phi",
        norm="layer",
        n_norms=1,
        qkv_bias=True,
        output_bias=True,
        mlp="plain",
        mlp_bias=True,
        head_bias=True,
        must_be_off=("qk_layernorm",),
    ),
    "cohere": Dialect(
        family="cohere",
        tied=True,
        n_norms=1,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="whole",
        qk_norm_key="use_qk_norm",
        harmless=words("logit_scale use_parallel_block use_gated_activation use_parallel_embedding"),
    ),
    "cohere2": Dialect(
        family="cohere",
        tied=True,
        n_norms=1,
        layer_order="types",
        interval=("sliding_window_pattern", 4),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        must_be_off=("use_qk_norm",),
        harmless=words(
            "logit_scale use_parallel_block use_gated_activation use_parallel_embedding order_of_interleaved_layers "
            "layer_switch position_embedding_type rotary_pct cache_implementation use_embedding_sharing"
        ),
    ),
    "olmo": Dialect(
        family="olmo",
        n_norms=0,
        final_norm=False,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        harmless=words("clip_qkv"),  # a limit on values
    ),
    "falcon": Dialect(
        family="falcon",
        tied=True,
        norm="layer",
        n_norms="n_norms",
        restate=_falcon,
        qkv_bias="bias",
        output_bias="bias",
        fused=True,
        mlp="plain",
        mlp_bias="bias",
        must_be_off=("alibi",),
        harmless=words("activation apply_residual_connection_post_layernorm"),
    ),
    "starcoder2": Dialect(
        family="starcoder",
        tied=True,
        norm="layer",
        defaults={"use_bias": True},
        layer_order="window",
        qkv_bias="use_bias",
        output_bias="use_bias",
        mlp="plain",
        mlp_bias="use_bias",
        harmless=words("norm_epsilon residual_dropout embedding_dropout mlp_type norm_type"),
    ),
}
