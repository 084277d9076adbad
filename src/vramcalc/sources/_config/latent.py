"""Dialects of latent attention, and of DeepSeek-V4's compressed one.

Source:
    transformers 5.23, models/*/configuration_*.py and modeling_*.py.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from vramcalc.sources._config.decoders import ROUTED
from vramcalc.sources._config.dialect import Dialect, words

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
LATENT: Mapping[str, Dialect] = {
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
        defaults={"hc_mult": 4},
        names=ROUTED,
        attention="compressed",
        rope_f32=True,
        layer_order="compressed",
        mlp_order="hashed",
        shared="count",
        router_bias="buffer",
        must_be={"n_shared_experts": 1},  # the class builds one, whatever the config says
        must_be_off=("attention_bias", "mlp_bias"),
        next_tokens=("num_nextn_predict_layers", "last"),
        harmless=words("compress_rope_theta expert_dtype hc_eps hc_sinkhorn_iters num_key_value_heads swiglu_limit"),
    ),
    "glm4_moe_lite": replace(_DEEPSEEK, family="glm", defaults={"first_k_dense_replace": 1}),
    "mistral4": replace(_DEEPSEEK, family="mistral", defaults={"first_k_dense_replace": 0}, router_bias="none"),
    "youtu": Dialect(
        family="youtu",
        tied=True,
        attention="latent",
        must_be_off=("attention_bias", "mlp_bias"),
        harmless=words("num_key_value_heads head_dim qk_head_dim embedding_initializer_range"),
    ),
}
