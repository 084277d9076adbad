"""Dialects of attention models.

Source:
    transformers 5.23, models/*/configuration_*.py and modeling_*.py; DeciLM: modeling_decilm.py of
    nvidia/Llama-3_3-Nemotron-Super-49B-v1.
"""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from vramcalc.sources._config.dialect import Dialect, Names, words


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
LLAMA = Dialect(family="llama", mha=True, qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias")
_QWEN2_VL = Dialect(family="qwen2", layer_order="upper_window", qkv_bias=True)
_QWEN3 = Dialect(
    family="qwen3",
    defaults={"head_dim": 128},
    layer_order="upper_window",
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    qk_norm="per_head",
)
TOWER_ROLES = ("vision", "projector")
_QWEN3_MOE = replace(
    _QWEN3,
    active_leaves_out=("router", *TOWER_ROLES),
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
    active_leaves_out=TOWER_ROLES,
    mlp_order="moe",
    next_tokens=("mtp_num_hidden_layers", "full"),
    must_be_off=("mtp_use_dedicated_embeddings", "mlp_only_layers"),
    must_be={"attn_output_gate": True},
)
_GEMMA = Dialect(
    family="gemma",
    defaults={"head_dim": 256},
    tied=True,
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    harmless=words(
        "query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping cache_implementation num_image_tokens "
        "use_bidirectional_attention"
    ),
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
GRANITE_HARMLESS = words("attention_multiplier embedding_multiplier logits_scaling residual_multiplier")

DECODERS: Mapping[str, Dialect] = {
    "llama": replace(
        LLAMA,
        must_be_off=("qk_layer_norms", "use_resampler"),  # SmolVLM's text model, and what goes with them
        harmless=words("is_llama_config perceiver_config pixel_shuffle_factor rope_interleaved"),
    ),
    "mistral": replace(LLAMA, family="mistral", mha=False, layer_order="window", gguf_window=False),
    "granite": replace(LLAMA, family="granite", harmless=GRANITE_HARMLESS),
    "nemotron-nas": replace(LLAMA, family="nemotron", layer_order="blocks", mlp_order="order"),
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
        mha=True,
        layer_order="window",
        fused=True,
        must_be_off=("attention_bias",),
        harmless=words("full_attn_mod interpolate_factor lm_head_bias"),
    ),
    "olmo2": replace(LLAMA, family="olmo", qk_norm="whole"),
    "olmo3": replace(
        LLAMA, family="olmo", qk_norm="whole", layer_order="types", interval=("sliding_window_pattern", 4)
    ),
    "olmoe": replace(
        LLAMA,
        family="olmo",
        names={"moe_intermediate_size": "intermediate_size"},
        qk_norm="whole",
        mlp_order="moe",
        must_be_off=("clip_qkv",),
    ),
    "smollm3": replace(
        LLAMA,
        mha=False,
        family="smollm",
        layer_order="upper_window",
        tied=True,
        harmless=words("no_rope_layer_interval no_rope_layers"),
    ),
    "seed_oss": Dialect(
        family="seed",
        defaults={"head_dim": 128, "attention_bias": True},
        qkv_bias="attention_bias",
        output_bias="attention_out_bias",
        mlp_bias="mlp_bias",
        harmless=words("residual_dropout"),
    ),
    "gpt_neox": Dialect(
        family="gpt-neox",
        mha=True,
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
}
