"""Dialects of decoders with experts that share all else with a dense one.

Source:
    transformers 5.23, models/*/configuration_*.py and modeling_*.py.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from vramcalc.sources._config_decoders import DECODERS, EXPERTS, GRANITE_HARMLESS, ROUTED
from vramcalc.sources._config_dense import pattern_as_number
from vramcalc.sources._config_dialect import Dialect, words

_IN_PLACE_OF_MLP = {"moe_intermediate_size": "intermediate_size"}
_GRANITE_MOE = Dialect(
    family="granite",
    names=EXPERTS | _IN_PLACE_OF_MLP | {"shared_width": "shared_intermediate_size"},
    defaults={"shared_width": 0},
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    mlp_order="moe",
    shared="width",
    harmless=GRANITE_HARMLESS,
)
_LATENT = replace(DECODERS["deepseek_v3"], must_be={}, next_tokens=("num_nextn_predict_layers", "last"))

SPARSE: Mapping[str, Dialect] = {
    "glm4_moe_lite": replace(_LATENT, family="glm", defaults={"first_k_dense_replace": 1}),
    "mistral4": replace(_LATENT, family="mistral", defaults={"first_k_dense_replace": 0}, router_bias="none"),
    "glm4v_moe_text": replace(DECODERS["glm4_moe"], defaults={"first_k_dense_replace": 1, "attention_bias": True}),
    "solar_open": Dialect(
        family="solar",
        names=ROUTED,
        defaults={"head_dim": 128, "num_key_value_heads": 8, "first_k_dense_replace": 0},
        qkv_bias="attention_bias",
        mlp_order="first_dense",
        shared="count",
        router_bias="buffer",
        must_be_off=("use_qk_norm", "first_k_dense_replace", "num_nextn_predict_layers"),
        harmless=words("intermediate_size"),
    ),
    "ernie4_5_moe": Dialect(
        family="ernie",
        names={
            "num_experts": "moe_num_experts",
            "num_experts_per_tok": "moe_k",
            "n_shared_experts": "moe_num_shared_experts",
        },
        defaults={"num_key_value_heads": 4},
        tied=True,
        mlp_order="span",
        shared="count",
        router_bias="parameter",
        must_be={"moe_use_aux_free": True},
        must_be_off=("moe_multimodal", "use_bias"),  # shared experts would have biases too
        next_tokens=("num_nextn_predict_layers", "unknown"),
        harmless=words("moe_norm_min moe_capacity moe_gate moe_dropout_prob compression_ratio use_rmsnorm fuse_rope"),
    ),
    "exaone_moe": Dialect(
        family="exaone",
        names={"n_shared_experts": "num_shared_experts"},
        defaults={"num_key_value_heads": 32, "first_k_dense_replace": 1},
        layer_order="types",
        interval=("sliding_window_pattern", 4),
        qk_norm="per_head",
        mlp_order="first_dense",
        shared="count",
        router_bias="buffer",
        restate=pattern_as_number,
        next_tokens=("num_nextn_predict_layers", "unknown"),
    ),
    "hy_v3": Dialect(
        family="hunyuan",
        names={"n_shared_experts": "num_shared_experts"},
        defaults={"head_dim": 128, "num_key_value_heads": 8, "first_k_dense_replace": 1},
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="per_head",
        mlp_order="first_dense",
        shared="count",
        router_bias="buffer",
        must_be_off=("mlp_bias",),  # shared experts would have biases too
        next_tokens=("num_nextn_predict_layers", "unknown"),
        harmless=words("router_scaling_factor enable_moe_fp32_combine"),
    ),
    "granitemoe": _GRANITE_MOE,
    "granitemoeshared": _GRANITE_MOE,
    "flex_olmo": Dialect(
        family="olmo",
        names=_IN_PLACE_OF_MLP,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="whole",
        mlp_order="moe",
    ),
    "phimoe": Dialect(
        family="phi",
        names=EXPERTS | _IN_PLACE_OF_MLP,
        defaults={"num_key_value_heads": 8},
        norm="layer",
        layer_order="window",
        gguf_window=False,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        head_bias="lm_head_bias",
        mlp_order="moe",
        harmless=words("input_jitter_noise"),
    ),
    "afmoe": Dialect(
        family="afmoe",
        names={"n_shared_experts": "num_shared_experts", "first_k_dense_replace": "num_dense_layers"},
        defaults={"head_dim": 128, "first_k_dense_replace": 1},
        n_norms=4,
        layer_order="types",
        interval=("global_attn_every_n_layers", 4),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="per_head",
        output_gate="whole",
        mlp_order="first_dense",
        shared="count",
        router_bias="parameter",
        harmless=words(
            "route_scale mup_enabled score_func route_norm load_balance_coeff num_expert_groups num_limited_groups "
            "use_grouped_mm"
        ),
    ),
}
