"""Dialects of attention models.

Source:
    transformers 5.23, models/*/configuration_*.py and modeling_*.py; DeciLM: modeling_decilm.py of
    nvidia/Llama-3_3-Nemotron-Super-49B-v1.
"""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from vramcalc.sources._config_dialect import Dialect, Names, words


def one_width(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config whose list of feed-forward widths, all equal, is one number; any other list stays to be refused.

    >>> one_width({"intermediate_size": [8192, 8192]})
    {'intermediate_size': 8192}
    """
    widths = raw.get("intermediate_size")
    if not isinstance(widths, list) or not widths or any(width != widths[0] for width in widths):
        return dict(raw)
    return dict(raw) | {"intermediate_size": widths[0]}


EXPERTS: Names = {"num_experts": "num_local_experts"}
ROUTED: Names = {"num_experts": "n_routed_experts"}
_LLAMA = Dialect(family="llama", qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias")
_QWEN2_VL = Dialect(family="qwen2", layer_order="upper_window", qkv_bias=True)
_QWEN3 = Dialect(
    family="qwen3",
    defaults={"head_dim": 128},
    layer_order="upper_window",
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    qk_norm="per_head",
)
_TOWERS = ("vision", "projector")
_QWEN3_MOE = replace(
    _QWEN3,
    active_leaves_out=("router", *_TOWERS),
    mlp_order="sparse_step",
    defaults={"use_qk_norm": True},
    qk_norm_key="use_qk_norm",
    must_be_off=("qkv_bias", "shared_expert_intermediate_size"),
)
_QWEN3_NEXT = replace(
    _QWEN3,
    family="qwen3-next",
    active_leaves_out=("embedding", "head"),
    defaults={"head_dim": 256},
    layer_order="types",
    local="linear_attention",
    interval=("full_attention_interval", 4),
    output_gate="in_query",
    mixer="gated_delta",
    mlp_order="sparse_step",
    shared="width",
    shared_gate=True,
    names={"shared_width": "shared_expert_intermediate_size"},
    next_tokens=("num_nextn_predict_layers", "full"),
)
_QWEN3_5 = replace(
    _QWEN3_NEXT,
    family="qwen3.5",
    active_leaves_out=_TOWERS,
    mlp_order="moe",
    next_tokens=("mtp_num_hidden_layers", "full"),
    must_be_off=("mtp_use_dedicated_embeddings", "mlp_only_layers"),
    must_be={"attn_output_gate": True},
)
_DEEPSEEK = Dialect(
    family="deepseek",
    names=ROUTED,
    attention="latent",
    mlp_order="first_dense",
    shared="count",
    router_bias="buffer",
    must_be_off=("attention_bias", "mlp_bias"),
    next_tokens=("num_nextn_predict_layers", "last"),
    harmless=words("num_key_value_heads head_dim qk_head_dim rope_interleave"),
)
_GLM_DSA = replace(
    _DEEPSEEK,
    active_leaves_out=("embedding", "head"),
    family="glm",
    indexer=True,
    repeats={"num_experts": "num_experts"},
    must_be_off=("attention_bias", "mlp_bias"),
    harmless=_DEEPSEEK.harmless
    | words("index_share_for_mtp_iteration index_skip_topk_offset index_topk_freq index_topk_pattern moe_router_dtype"),
)
_GEMMA = Dialect(
    family="gemma",
    defaults={"head_dim": 256},
    tied=True,
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    harmless=words("query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping cache_implementation"),
)
_GEMMA_2 = replace(_GEMMA, n_norms=4, layer_order="types", interval=("sliding_window_pattern", 2))
_GEMMA_3 = replace(
    _GEMMA_2,
    interval=("sliding_window_pattern", 6),
    qk_norm="per_head",
    harmless=_GEMMA.harmless | words("rope_local_base_freq use_bidirectional_attention"),
)
_MIXTRAL = Dialect(
    family="mistral",
    names=EXPERTS | {"moe_intermediate_size": "intermediate_size"},
    layer_order="window",
    gguf_window=False,
    mlp_order="moe",
    active_leaves_out=(),
)
_MINIMAX_M3 = Dialect(
    family="minimax",
    active_leaves_out=("embedding", "head", "router", *_TOWERS),
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
GRANITE_HARMLESS = words("attention_multiplier embedding_multiplier logits_scaling residual_multiplier")

DECODERS: Mapping[str, Dialect] = {
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, family="mistral", layer_order="window", gguf_window=False),
    "granite": replace(_LLAMA, family="granite", harmless=GRANITE_HARMLESS),
    "nemotron-nas": replace(_LLAMA, family="nemotron", layer_order="blocks", mlp_order="order"),
    "mixtral": _MIXTRAL,
    "qwen2": Dialect(family="qwen2", layer_order="upper_window", qkv_bias=True),
    "qwen2_moe": Dialect(
        family="qwen2",
        layer_order="upper_window",
        qkv_bias="qkv_bias",
        defaults={"qkv_bias": True},
        mlp_order="sparse_step",
        shared="width",
        shared_gate=True,
        names={"shared_width": "shared_expert_intermediate_size"},
    ),
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_vl_text": _QWEN3,
    "qwen3_vl_moe_text": _QWEN3_MOE,
    "qwen3_next": _QWEN3_NEXT,
    "qwen3_5_text": replace(_QWEN3_5, mlp_order="dense", shared="none", shared_gate=False),
    "qwen3_5_moe_text": _QWEN3_5,
    "mimo": Dialect(
        family="mimo",
        layer_order="upper_window",
        qkv_bias="attention_bias",
        next_tokens=("num_nextn_predict_layers", "last"),
        must_be_off=("use_mrope",),
    ),
    "phi3": Dialect(
        family="phi",
        layer_order="window",
        fused=True,
        must_be_off=("attention_bias",),
        harmless=words("full_attn_mod interpolate_factor lm_head_bias"),
    ),
    "olmo2": replace(_LLAMA, family="olmo", qk_norm="whole"),
    "olmo3": replace(
        _LLAMA, family="olmo", qk_norm="whole", layer_order="types", interval=("sliding_window_pattern", 4)
    ),
    "olmoe": replace(
        _LLAMA,
        family="olmo",
        names={"moe_intermediate_size": "intermediate_size"},
        qk_norm="whole",
        mlp_order="moe",
        must_be_off=("clip_qkv",),
    ),
    "smollm3": replace(
        _LLAMA,
        family="smollm",
        layer_order="upper_window",
        tied=True,
        harmless=words("no_rope_layer_interval no_rope_layers"),
    ),
    "seed_oss": Dialect(
        family="seed",
        defaults={"head_dim": 128},
        qkv_bias="attention_bias",
        output_bias="attention_out_bias",
        mlp_bias="mlp_bias",
        harmless=words("residual_dropout"),
    ),
    "gpt_neox": Dialect(
        family="gpt-neox",
        names={"partial_rotary_factor": "rotary_pct"},
        defaults={"attention_bias": True},
        norm="layer",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        fused=True,
        mlp="plain",
        mlp_bias=True,
        harmless=words("rotary_emb_base use_parallel_residual"),
    ),
    "stablelm": Dialect(
        family="stablelm",
        norm="layer",
        qkv_bias="use_qkv_bias",
        must_be_off=("qk_layernorm", "use_parallel_residual"),
    ),
    "gemma": replace(_GEMMA, layer_order="uniform"),
    "gemma2": _GEMMA_2,
    "gemma3_text": _GEMMA_3,
    "gemma3n_text": replace(
        _GEMMA_2,
        defaults={"head_dim": 256, "altup_num_inputs": 4, "laurel_rank": 64},
        interval=("sliding_window_pattern", 5),
        qk_norm="per_head",
        restate=one_width,
        harmless=_GEMMA.harmless
        | words(
            "rope_local_base_freq activation_sparsity_pattern altup_active_idx altup_coef_clip altup_correct_scale"
        ),
    ),
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    "gemma4_text": Dialect(
        family="gemma",
        defaults={"head_dim": 256},
        names={"num_experts_per_tok": "top_k_experts"},
        tied=True,
        n_norms=4,
        output_scale=True,
        layer_order="types",
        interval=("sliding_window_pattern", 6),
        qk_norm="per_head",
        must_be_off=("attention_bias",),
        harmless=words("final_logit_softcapping use_bidirectional_attention"),
    ),
    "gpt_oss": Dialect(
        family="gpt-oss",
        names=EXPERTS | {"moe_intermediate_size": "intermediate_size"},
        defaults={"head_dim": 64, "attention_bias": True, "sliding_window": 128},
        layer_order="types",
        interval=("sliding_window_pattern", 2),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        sinks=True,
        mlp_order="moe",
        expert_bias=True,
        router_bias="parameter",
        rope_f32=True,
        repeats={"experts_per_token": "num_experts_per_tok"},
        harmless=words("initial_context_length swiglu_alpha swiglu_limit"),
    ),
    "deepseek_v2": replace(
        _DEEPSEEK,
        active_leaves_out=("embedding", "router"),
        router_bias="none",
        defaults={"first_k_dense_replace": 0},
        must_be_off=("attention_bias", "mlp_bias"),
    ),
    "deepseek_v3": _DEEPSEEK,
    "kimi_k2": replace(_DEEPSEEK, family="kimi"),
    "deepseek_v32": replace(_DEEPSEEK, indexer=True),
    "glm_moe_dsa": _GLM_DSA,
    "deepseek_v4": Dialect(
        family="deepseek",
        names=ROUTED,
        attention="compressed",
        rope_f32=True,
        layer_order="compressed",
        mlp_order="hashed",
        shared="count",
        router_bias="buffer",
        must_be_off=("attention_bias", "mlp_bias"),
        next_tokens=("num_nextn_predict_layers", "last"),
        harmless=words("compress_rope_theta expert_dtype hc_eps hc_sinkhorn_iters num_key_value_heads swiglu_limit"),
    ),
    "glm4_moe": Dialect(
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
    ),
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
        active_leaves_out=_TOWERS,
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
        active_leaves_out=_TOWERS,
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
}
