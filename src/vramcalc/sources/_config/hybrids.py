"""Dialects of recurrent and hybrid models.

Source:
    transformers 5.23, models/*/configuration_*.py and modeling_*.py.
"""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from vramcalc.sources._config.decoders import EXPERTS, GRANITE_HARMLESS, ROUTED
from vramcalc.sources._config.dialect import Dialect, Names, words

_MAMBA_NAMES: Names = {
    "mixer_heads": "mamba_n_heads",
    "mixer_head_dim": "mamba_d_head",
    "mixer_groups": "mamba_n_groups",
    "mixer_state": "mamba_d_state",
    "mixer_conv": "mamba_d_conv",
    "mixer_conv_bias": "mamba_conv_bias",
    "mixer_bias": "mamba_proj_bias",
    "mixer_expand": "mamba_expand",
    "mixer_rank": "mamba_dt_rank",
}
_MAMBA_HARMLESS = words(
    "mamba_chunk_size chunk_size time_step_floor time_step_limit time_step_max time_step_min time_step_scale "
    "time_step_init_scheme use_mamba_kernels use_mambapy use_associative_scan rescale_prenorm_residual "
    "residual_in_fp32 num_logits_to_keep mamba_hidden_act mlp_hidden_act mamba_norm_before_gate"
)

_MOST_LAYERS = 4096


def _lfm2(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return LFM2's config with the list of its layers and the width of their MLPs that its keys mean.

    Source: transformers 5.23, Lfm2Config and Lfm2MLP.
    """
    found = {key: value for key, value in raw.items() if key not in _LFM2_SIZES}
    ff, n = raw.get("block_ff_dim", raw.get("intermediate_size")), raw.get("num_hidden_layers")
    scale, multiple = raw.get("block_ffn_dim_multiplier", 1.0), raw.get("block_multiple_of", 256)
    if raw.get("block_auto_adjust_ff_dim", True) and isinstance(ff, int):
        ff = int(2 * ff / 3)
        if isinstance(scale, int | float) and isinstance(multiple, int) and multiple > 0:
            ff = -(-int(scale * ff) // multiple) * multiple
    attends = raw.get("full_attn_idxs")
    if raw.get("layer_types") is None and isinstance(n, int) and 0 < n <= _MOST_LAYERS:
        chosen = attends if isinstance(attends, list) else list(range(n))
        found["layer_types"] = ["full_attention" if i in chosen else "conv" for i in range(n)]
    tied = raw.get("tie_embedding", raw.get("tie_word_embeddings", True))
    return found | {"intermediate_size": ff, "tie_word_embeddings": tied}


_MAMBA = Dialect(
    family="mamba",
    names={
        "mixer_state": "state_size",
        "mixer_conv": "conv_kernel",
        "mixer_conv_bias": "use_conv_bias",
        "mixer_bias": "use_bias",
        "mixer_expand": "expand",
        "mixer_inner": "intermediate_size",
        "mixer_rank": "time_step_rank",
    },
    defaults={"mixer_conv_bias": True},
    tied=True,
    n_norms=1,
    local="linear_attention",
    mixer="mamba1",
    mlp_order="order",
    harmless=_MAMBA_HARMLESS,
)
_LFM2_SIZES = words(
    "block_ff_dim block_ffn_dim_multiplier block_multiple_of block_auto_adjust_ff_dim full_attn_idxs tie_embedding"
)
_LFM2 = Dialect(
    family="lfm2",
    tied=True,
    layer_order="types",
    qk_norm="per_head",
    mixer="short_conv",
    must_be={"block_use_swiglu": True, "conv_use_xavier_init": True, "use_pos_enc": True},
    repeats={
        "num_heads": "num_attention_heads",
        "block_dim": "hidden_size",
        "conv_dim": "hidden_size",
        "conv_dim_out": "hidden_size",
    },
    harmless=words("block_mlp_init_scale block_norm_eps block_out_init_scale block_use_xavier_init theta"),
)

HYBRIDS: Mapping[str, Dialect] = {
    "nemotron_h": Dialect(
        family="nemotron",
        names=ROUTED
        | {
            "mixer_heads": "mamba_num_heads",
            "mixer_head_dim": "mamba_head_dim",
            "mixer_groups": "n_groups",
            "mixer_state": "ssm_state_size",
            "mixer_conv": "conv_kernel",
            "mixer_conv_bias": "use_conv_bias",
            "mixer_bias": "use_bias",
            "shared_width": "moe_shared_expert_intermediate_size",
        },
        defaults={"head_dim": 128, "mixer_conv_bias": True},
        n_norms=1,
        has_rope=False,
        layer_order="nemotron",
        mixer="mamba2",
        mlp="plain",
        mlp_order="order",
        shared="width",
        gated_experts=False,
        router_bias="buffer",
        must_be_off=("attention_bias", "mamba_proj_bias", "mlp_bias", "tie_word_embeddings"),
        next_tokens=("num_nextn_predict_layers", "full"),
        harmless=_MAMBA_HARMLESS | words("expand moe_shared_expert_overlap n_shared_experts time_step_rank"),
    ),
    "mamba": _MAMBA,
    "mamba2": Dialect(
        family="mamba",
        names={
            "mixer_heads": "num_heads",
            "mixer_head_dim": "head_dim",
            "mixer_groups": "n_groups",
            "mixer_state": "state_size",
            "mixer_conv": "conv_kernel",
            "mixer_conv_bias": "use_conv_bias",
            "mixer_bias": "use_bias",
        },
        defaults={"mixer_conv_bias": True},
        n_norms=1,
        local="linear_attention",
        mixer="mamba2",
        mlp_order="order",
        harmless=_MAMBA_HARMLESS | words("expand rms_norm time_step_rank norm_before_gate"),
    ),
    "granitemoehybrid": Dialect(
        family="granite",
        active_leaves_out=(),
        names=_MAMBA_NAMES
        | EXPERTS
        | {"moe_intermediate_size": "intermediate_size", "shared_width": "shared_intermediate_size"},
        defaults={"mixer_conv_bias": True},
        mha=True,
        layer_order="types",
        local="linear_attention",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mixer="mamba2",
        mlp_order="moe",
        shared="width",
        harmless=_MAMBA_HARMLESS
        | GRANITE_HARMLESS
        | words("attention_multiplier mamba_expand normalization_function position_embedding_type init_method"),
    ),
    "jamba": Dialect(
        family="jamba",
        names=_MAMBA_NAMES | {"moe_intermediate_size": "intermediate_size"},
        defaults={"mixer_conv_bias": True},
        layer_order="periods",
        mixer="mamba1",
        mixer_norms=True,
        mlp_order="order",
        harmless=_MAMBA_HARMLESS,
    ),
    "bamba": Dialect(
        family="bamba",
        names=_MAMBA_NAMES,
        defaults={"mixer_conv_bias": True, "partial_rotary_factor": 0.5},
        layer_order="listed",
        mixer="mamba2",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        harmless=_MAMBA_HARMLESS | words("z_loss_coefficient mamba_expand"),
    ),
    "falcon_mamba": replace(_MAMBA, family="falcon", harmless=_MAMBA_HARMLESS | words("mixer_rms_eps")),
    "lfm2": replace(_LFM2, restate=_lfm2),
    "lfm2_moe": replace(
        _LFM2,
        names=_LFM2.names | {"first_k_dense_replace": "num_dense_layers"},
        defaults={"first_k_dense_replace": 2},
        mlp_order="first_dense",
        router_bias="buffer",
        harmless=_LFM2.harmless | words("use_expert_bias"),
    ),
    "olmo_hybrid": Dialect(
        family="olmo",
        defaults={},
        mha=True,
        layer_order="types",
        local="linear_attention",
        interval=("full_attention_interval", 4),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="whole",
        mixer="gated_delta",
        harmless=words(
            "linear_a_log_min linear_a_log_max linear_dt_min linear_dt_max linear_dt_init_floor "
            "linear_allow_neg_eigval linear_use_gate"
        ),
    ),
    "falcon_h1": Dialect(
        family="falcon",
        names=_MAMBA_NAMES,
        defaults={"mixer_conv_bias": True, "mamba_rms_norm": False},
        local="hybrid",
        mixer="mamba2",
        must_be_off=("attention_bias", "mlp_bias", "projectors_bias"),
        harmless=_MAMBA_HARMLESS
        | words(
            "attention_in_multiplier attention_out_multiplier embedding_multiplier key_multiplier lm_head_multiplier "
            "mamba_expand mamba_use_mlp mlp_expansion_factor mlp_multipliers ssm_in_multiplier ssm_multipliers "
            "ssm_out_multiplier attn_layer_indices"
        ),
    ),
    "kimi_linear": Dialect(
        family="kimi",
        names={"num_experts_per_tok": "num_experts_per_token", "n_shared_experts": "num_shared_experts"},
        defaults={"q_lora_rank": 0},
        attention="latent",
        layer_order="kimi",
        mixer="kimi_delta",
        mlp_order="first_dense",
        shared="count",
        router_bias="buffer",
        next_tokens=("num_nextn_predict_layers", "unknown"),
        must_be_off=("attention_bias", "mla_use_output_gate", "tie_word_embeddings"),
        harmless=words(
            "head_dim qk_head_dim num_key_value_heads mla_use_nope model_max_length moe_renormalize "
            "moe_router_activation_func "
            "num_expert_group use_grouped_topk"
        ),
    ),
}
