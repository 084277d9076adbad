"""Dialects of dense decoders that are Llama's shape but for a few traits.

Source:
    transformers 5.23, models/*/configuration_*.py and modeling_*.py.
"""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from vramcalc.sources._config_decoders import GRANITE_HARMLESS, LLAMA
from vramcalc.sources._config_dialect import Dialect, words

Raw = dict[str, Any]
_GLM = Dialect(
    family="glm",
    defaults={"head_dim": 128, "attention_bias": True, "num_key_value_heads": 2},
    qkv_bias="attention_bias",
    fused_mlp=True,
)


def pattern_as_number(raw: Mapping[str, Any]) -> Raw:
    """Return a config whose pattern of windows, where it is spelt out, is the number of its layers.

    >>> pattern_as_number({"sliding_window_pattern": "LLLG"})
    {'sliding_window_pattern': 4}
    """
    pattern = raw.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern[-1:] == "G" and set(pattern[:-1]) == {"L"}:
        return dict(raw) | {"sliding_window_pattern": len(pattern)}
    return dict(raw)


def _post_norms(raw: Mapping[str, Any]) -> Raw:
    """Return HyperCLOVA X's config with the number of norms that its flag means."""
    found = {key: value for key, value in raw.items() if key != "use_post_norm"}
    return found | {"n_norms": 4 if raw.get("use_post_norm", True) is True else 2}


def _attention_width(raw: Mapping[str, Any]) -> Raw:
    """Return Helium's config with the width of its attention, whose output matrix is square."""
    n_heads, head_dim = raw.get("num_attention_heads"), raw.get("head_dim", 128)
    if not isinstance(n_heads, int) or not isinstance(head_dim, int):
        return dict(raw)
    return dict(raw) | {"heads_times_head_dim": n_heads * head_dim}


def _n_layers(raw: Mapping[str, Any]) -> int:
    n = raw.get("num_hidden_layers")
    return n if isinstance(n, int) and n > 0 else 1


def _xielu(raw: Mapping[str, Any]) -> list[Raw]:
    """Return the two learned numbers of each layer's activation."""
    return [{"name": "xielu.alpha", "role": "mlp", "shape": (1,), "count": 2 * _n_layers(raw)}]


def _sub_norms(raw: Mapping[str, Any]) -> list[Raw]:
    """Return BitNet's norms before the output and the down matrix."""
    widths = {"attn_sub_norm": raw.get("hidden_size"), "ffn_sub_norm": raw.get("intermediate_size")}
    return [
        {"name": name, "role": "norm", "shape": (width,), "count": _n_layers(raw)} for name, width in widths.items()
    ]


DENSE: Mapping[str, Dialect] = {
    "glm": _GLM,
    "glm4": replace(_GLM, n_norms=4),
    "glm4v_text": replace(
        _GLM, n_norms=4, qkv_bias=True, defaults={"num_key_value_heads": 2}, must_be={"attention_bias": True}
    ),
    "ernie4_5": Dialect(
        family="ernie",
        defaults={"head_dim": 128, "num_key_value_heads": 2},
        tied=True,
        qkv_bias="use_bias",
        output_bias="use_bias",
        mlp_bias="use_bias",
        harmless=words("compression_ratio rope_reduce use_rmsnorm fuse_rope"),
    ),
    "exaone4": Dialect(
        family="exaone",
        defaults={"num_key_value_heads": 32},
        layer_order="types",
        interval=("sliding_window_pattern", 4),
        qk_norm="per_head",
        restate=pattern_as_number,
        harmless=words("post_layer_norm attn_implementation reorder_and_upcast_attn"),
    ),
    "ministral3": Dialect(
        family="mistral",
        defaults={"head_dim": 128, "num_key_value_heads": 8},
        layer_order="window",
        gguf_window=False,
    ),
    "apertus": Dialect(
        family="apertus",
        mlp="plain",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="per_head",
        extras=_xielu,
        must_be={"qk_norm": True},
        must_be_off=("mlp_bias", "post_norm"),
    ),
    "arcee": replace(LLAMA, family="arcee", mlp="plain"),
    "helium": Dialect(
        family="helium",
        restate=_attention_width,
        repeats={"heads_times_head_dim": "hidden_size"},
        defaults={"head_dim": 128, "num_key_value_heads": 20},
        qkv_bias="attention_bias",
        mlp_bias="mlp_bias",
    ),
    "nanochat": Dialect(
        family="nanochat",
        mlp="plain",
        n_norms=0,
        final_norm=False,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        harmless=words("final_logit_softcapping"),
    ),
    "internlm3": replace(
        LLAMA,
        family="internlm",
        mha=False,
        defaults={"head_dim": 128, "num_key_value_heads": 2},
        must_be_off=("bias", "qkv_bias"),
    ),
    "hyperclovax": replace(
        LLAMA, family="hyperclovax", n_norms="n_norms", restate=_post_norms, harmless=GRANITE_HARMLESS
    ),
    "hunyuan_v1_dense": replace(
        LLAMA,
        family="hunyuan",
        qk_norm="per_head",
        must_be={"use_qk_norm": True, "use_cla": False},
        harmless=words(
            "eod_token_id attention_head_dim org_vocab_size use_rotary_pos_emb norm_type im_start_id im_end_id"
        ),
    ),
    "jais2": Dialect(
        family="jais",
        defaults={"attention_bias": True, "mlp_bias": True, "head_dim": 128},
        norm="layer",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp="plain",
        mlp_bias="mlp_bias",
    ),
    "cwm": replace(
        LLAMA,
        family="cwm",
        mha=False,
        defaults={"head_dim": 128, "num_key_value_heads": 8},
        layer_order="types",
        interval=("sliding_window_pattern", 4),
        must_be_off=("attention_bias",),
    ),
    "iquestcoder": replace(LLAMA, family="iquest", mha=False, harmless=words("clip_qkv")),
    "granite_swa": replace(
        LLAMA,
        family="granite",
        mha=False,
        tied=True,
        layer_order="types",
        sinks=True,
        harmless=GRANITE_HARMLESS | words("layer_rope_theta"),
    ),
    "bitnet": Dialect(family="bitnet", qkv_bias="attention_bias", output_bias="attention_bias", extras=_sub_norms),
}
