"""Dialects of decoders with experts that share all else with a dense one.

Source:
    transformers 5.23, models/*/configuration_*.py and modeling_*.py.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from vramcalc.sources._config_decoders import EXPERTS, GRANITE_HARMLESS, ROUTED, TOWER_ROLES
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
_GLM_MOE = Dialect(
    family="glm",
    names=ROUTED,
    defaults={"first_k_dense_replace": 1},
    qkv_bias="attention_bias",
    qk_norm="per_head",
    qk_norm_key="use_qk_norm",
    mlp_order="first_dense",
    shared="count",
    router_bias="buffer",
    next_tokens=("num_nextn_predict_layers", "last"),
)
_MINIMAX_M3 = Dialect(
    family="minimax",
    active_leaves_out=("embedding", "head", "router", *TOWER_ROLES),
    names=EXPERTS
    | {
        "moe_intermediate_size": "intermediate_size",
        "intermediate_size": "dense_intermediate_size",
        "shared_width": "shared_intermediate_size",
    },
    defaults={"head_dim": 128, "use_qk_norm": True},
    layer_order="types",
    qk_norm="per_head",
    qk_norm_key="use_qk_norm",
    mlp_order="first_dense",
    shared="width",
    router_bias="buffer",
    must_be_off=("attention_output_gate",),
    must_be={"qk_norm_type": "per_head"},
    next_tokens=("num_mtp_modules", "unknown"),
    harmless=words(
        "index_n_heads index_head_dim index_block_size index_topk_blocks index_local_blocks "
        "n_shared_experts num_nextn_predict_layers swiglu_alpha swiglu_limit use_gemma_norm "
        "use_routing_bias moe_intermediate_size first_k_dense_replace attn_type_list"
    ),
)

SPARSE: Mapping[str, Dialect] = {
    "glm4_moe": _GLM_MOE,
    "minimax_m2": Dialect(
        family="minimax",
        names=EXPERTS | {"moe_intermediate_size": "intermediate_size", "shared_width": "shared_intermediate_size"},
        defaults={"head_dim": 128, "shared_width": 0, "use_qk_norm": True},
        qk_norm="whole",
        qk_norm_key="use_qk_norm",
        mlp_order="moe",
        shared="width",
        router_bias="buffer",
        next_tokens=("num_mtp_modules", "unknown"),
        must_be={"qk_norm_type": "per_layer"},
        harmless=words("mtp_transformer_layers use_mtp use_routing_bias attn_type_list"),
    ),
    "minimax_m3": _MINIMAX_M3,
    "minimax_m3_vl_text": _MINIMAX_M3,
    "llama4_text": Dialect(
        family="llama",
        active_leaves_out=TOWER_ROLES,
        names=EXPERTS
        | {
            "moe_intermediate_size": "intermediate_size",
            "shared_width": "intermediate_size",
            "intermediate_size": "intermediate_size_mlp",
        },
        defaults={"head_dim": 128},
        layer_order="types",
        local="chunked_attention",
        interval=("no_rope_layer_interval", 4),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_order="interleaved",
        shared="width",
        harmless=words(
            "attn_scale attn_temperature_tuning floor_scale for_llm_compressor use_qk_norm"
        ),  # L2: no weight
    ),
    "step3p7": Dialect(
        family="step",
        active_leaves_out=TOWER_ROLES,
        names={"shared_width": "share_expert_dim"},
        defaults={"head_dim": 128},
        layer_order="types",
        qk_norm="per_head",
        output_gate="per_head",
        mlp_order="first_dense",
        shared="width",
        router_bias="buffer",
        next_tokens=("num_nextn_predict_layers", "last"),
        harmless=words(
            "moe_router_scaling_factor n_shared_experts num_sliding_attention_heads query_pre_attn_scalar "
            "swiglu_limits swiglu_limits_shared use_moe_router_bias"
        ),
        must_be_off=("attention_bias", "mlp_bias"),
    ),
    "glm4v_moe_text": replace(_GLM_MOE, defaults={"first_k_dense_replace": 1, "attention_bias": True}),
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
    "dots1": replace(
        _GLM_MOE,
        family="dots",
        defaults={"first_k_dense_replace": 0, "num_key_value_heads": 32},
        output_bias="attention_bias",
        qk_norm_key=None,
        layer_order="upper_window",
        next_tokens=None,
    ),
    "mellum": Dialect(
        family="mellum",
        names=EXPERTS,
        defaults={"head_dim": 128},
        layer_order="types",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="per_head",
        mlp_order="first_dense",
        next_tokens=("num_nextn_predict_layers", "unknown"),
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
