"""Dialects of decoders that norm once a layer, state their heads otherwise, or carry what later models dropped.

Source:
    transformers 5.23, models/*/configuration_*.py and modeling_*.py.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace

from vramcalc.sources._config_dialect import Dialect, words

Raw = dict[str, Any]
_FF_TIMES_HIDDEN = 4
_MOST_LAYERS = 4096
_POSITIONS_BEFORE_THE_FIRST = 2  # OPT's


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

_NOW_CALLED = {
    "n_embd": "hidden_size", "n_embed": "hidden_size", "d_model": "hidden_size",
    "n_layer": "num_hidden_layers", "n_layers": "num_hidden_layers", "num_layers": "num_hidden_layers",
    "n_head": "num_attention_heads", "n_heads": "num_attention_heads", "num_heads": "num_attention_heads",
    "n_inner": "intermediate_size", "ffn_dim": "intermediate_size",
    "n_positions": "max_position_embeddings", "max_seq_len": "max_position_embeddings",
    "seq_length": "max_position_embeddings", "window_size": "sliding_window",
}  # fmt: skip


def renamed(raw: Mapping[str, Any]) -> Raw:
    """Return a config in later models' names; its MLP is four times as wide as the stream where it states no width.

    >>> renamed({"n_embd": 768, "n_layer": 12})
    {'hidden_size': 768, 'num_hidden_layers': 12, 'intermediate_size': 3072}
    """
    found = {key: value for key, value in raw.items() if key not in _NOW_CALLED}
    for key, value in raw.items():
        if key in _NOW_CALLED and value is not None:
            found.setdefault(_NOW_CALLED[key], value)
    hidden = found.get("hidden_size")
    if found.get("intermediate_size") is None and isinstance(hidden, int):
        found["intermediate_size"] = _FF_TIMES_HIDDEN * hidden
    return found


def _with_positions(raw: Mapping[str, Any], *, unset: int) -> Raw:
    """Return a config whose embedding of positions is as long as the class makes it where it states no length."""
    return {"max_position_embeddings": unset} | renamed(raw)


def _bigcode(raw: Mapping[str, Any]) -> Raw:
    found = {
        key: value
        for key, value in _with_positions(raw, unset=1024).items()
        if key not in ("multi_query", "num_key_value_heads")
    }
    return found | ({"num_key_value_heads": 1} if raw.get("multi_query", True) is True else {})


def _mpt(raw: Mapping[str, Any]) -> Raw:
    """Return MPT's config with the width its ratio means."""
    found = {key: value for key, value in renamed(raw).items() if key != "expansion_ratio"}
    ratio, hidden = raw.get("expansion_ratio", _FF_TIMES_HIDDEN), found.get("hidden_size")
    if isinstance(ratio, int) and isinstance(hidden, int):
        found["intermediate_size"] = ratio * hidden
    attention = raw.get("attn_config")
    if isinstance(attention, dict):  # one flag of it changes a shape
        found = {key: value for key, value in found.items() if key != "attn_config"}
        found["qk_ln"] = attention.get("qk_ln", False)
        found["attn_type"] = attention.get("attn_type", "multihead_attention")
    return found


def _gpt_neo(raw: Mapping[str, Any]) -> Raw:
    """Return GPT-Neo's config with a list of its layers: ``[[["global", "local"], 12]]`` is twelve pairs."""
    found = {
        key: value
        for key, value in _with_positions(raw, unset=2048).items()
        if key not in ("attention_types", "attention_layers")
    }
    kinds = [kind for part in raw.get("attention_types") or () for kind in _repeated(part)]
    names = {"global": "full_attention", "local": "sliding_attention"}
    return found | {"layer_types": [names.get(str(kind), kind) for kind in kinds]}


def _repeated(part: object) -> list[Any]:
    match part:
        case [list(kinds), int(times)] if 0 <= times * len(kinds) <= _MOST_LAYERS:
            return kinds * times
        case _:
            return [part]


def _positions(raw: Mapping[str, Any], *, more: int = 0) -> list[Raw]:
    """Return the learned embedding of positions."""
    shape = (_count(raw, "max_position_embeddings") + more, _count(raw, "hidden_size"))
    return [{"name": "position_embd", "role": "embedding", "shape": shape}]


def _count(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    return value if isinstance(value, int) and value > 0 else 1


def _embedding_norm(raw: Mapping[str, Any]) -> list[Raw]:
    hidden = _count(raw, "hidden_size")
    return [{"name": f"token_embd_norm.{part}", "role": "norm", "shape": (hidden,)} for part in ("weight", "bias")]


_GPT_2 = Dialect(
    family="gpt2",
    mha=True,
    tied=True,
    norm="layer",
    has_rope=False,
    restate=partial(_with_positions, unset=1024),
    extras=_positions,
    qkv_bias=True,
    output_bias=True,
    fused=True,
    mlp="plain",
    mlp_bias=True,
    harmless=words(
        "n_ctx scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn summary_activation "
        "summary_first_dropout summary_proj_to_labels summary_type summary_use_proj gradient_checkpointing "
        "attention_softmax_in_fp32 scale_attention_softmax_in_fp32 inference_runner validate_runner_input "
        "pre_allocate_kv_cache max_sequence_length max_batch_size pad_key_length"
    ),
)
OLDER: Mapping[str, Dialect] = {
    "phi": Dialect(
        mha=True,
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
        mha=True,
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
        mha=True,
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
        mha=True,
        family="olmo",
        n_norms=0,
        final_norm=False,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        harmless=words("clip_qkv"),  # a limit on values
    ),
    "falcon": Dialect(
        mha=True,
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
    "gpt2": _GPT_2,
    "gpt-sw3": _GPT_2,
    "gpt_bigcode": replace(_GPT_2, family="starcoder", restate=_bigcode),
    "gptj": replace(
        _GPT_2,
        family="gpt-j",
        tied=False,
        n_norms=1,
        has_rope=True,
        restate=renamed,
        extras=None,
        qkv_bias=False,
        output_bias=False,
        fused=False,
        head_bias=True,
        harmless=_GPT_2.harmless | words("rotary"),
    ),
    "gpt_neo": replace(
        _GPT_2,
        family="gpt-neo",
        restate=_gpt_neo,
        layer_order="types",
        qkv_bias=False,
        fused=False,
        harmless=_GPT_2.harmless | words("resid_dropout embed_dropout"),
    ),
    "bloom": replace(
        _GPT_2,
        family="bloom",
        restate=renamed,
        extras=_embedding_norm,
        harmless=words(
            "apply_residual_connection_post_layernorm slow_but_exact offset_alibi skip_bias_add skip_bias_add_qkv "
            "masked_softmax_fusion attention_softmax_in_fp32 bias_dropout_fusion unk_token_id"
        ),
    ),
    "opt": replace(
        _GPT_2,
        family="opt",
        restate=partial(_with_positions, unset=2048),
        extras=partial(_positions, more=_POSITIONS_BEFORE_THE_FIRST),
        defaults={"enable_bias": True},
        qkv_bias="enable_bias",
        output_bias="enable_bias",
        fused=False,
        mlp_bias="enable_bias",
        repeats={"word_embed_proj_dim": "hidden_size"},
        must_be={"do_layer_norm_before": True, "layer_norm_elementwise_affine": True},
        must_be_off=("_remove_final_layer_norm",),
        harmless=words("activation_dropout init_std layerdrop output_projection"),
    ),
    "mpt": replace(
        _GPT_2,
        family="mpt",
        norm="rms",  # layer norms, but without a bias
        restate=_mpt,
        extras=None,
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        must_be={"no_bias": True, "attn_type": "multihead_attention"},
        must_be_off=("qk_ln",),
        harmless=words(
            "init_device learned_pos_emb logit_scale embedding_fraction norm_type emb_pdrop init_config verbose "
            "tokenizer_name"
        ),
    ),
}
