"""Recurrent mixers built from the keys of a config."""

from typing import Any

from vramcalc.sources._config.dialect import Dialect
from vramcalc.sources._config.keys import Keys

Raw = dict[str, Any]


def read_mixer(keys: Keys, dialect: Dialect) -> Raw:
    """Return the mixer of the dialect's recurrent layers. Raises ``BadInputError`` where it has none."""
    match dialect.mixer:
        case "mamba1":
            return _mamba1(keys, dialect) | _biases(keys)
        case "mamba2":
            unset = "float32" if dialect.family == "nemotron" else "auto"
            return _mamba2(keys, unset) | _biases(keys)
        case "gated_delta":
            return {
                "kind": "gated_delta",
                "n_key_heads": keys.count("linear_num_key_heads"),
                "n_value_heads": keys.count("linear_num_value_heads"),
                "key_dim": keys.count("linear_key_head_dim"),
                "value_dim": keys.count("linear_value_head_dim"),
                "conv_kernel": keys.count("linear_conv_kernel_dim"),
                "fused": dialect.family == "qwen3-next",
                "state_dtype": _state_dtype(keys, "mamba_ssm_dtype"),
            }
        case "kimi_delta":
            return _kimi_delta(keys)
        case "short_conv":
            sizes = {"inner_dim": keys.count("hidden_size"), "conv_kernel": keys.count("conv_L_cache", 3)}
            return {"kind": "short_conv", "bias": keys.flag("conv_bias")} | sizes
        case "none":
            raise keys.error("layer_types", "has a recurrent layer, which this model type has not")


def _mamba1(keys: Keys, dialect: Dialect) -> Raw:
    hidden = keys.count("hidden_size")
    rank = keys.get("mixer_rank", "auto")
    keys.ignore("mixer_expand")
    return {
        "kind": "mamba1",
        "inner_dim": keys.count("mixer_inner", 0) or hidden * keys.count("mixer_expand", 2),
        "state_dim": keys.count("mixer_state", 16),
        "conv_kernel": keys.count("mixer_conv", 4),
        "time_step_rank": -(-hidden // 16) if rank == "auto" else keys.count("mixer_rank"),
        "inner_norms": dialect.mixer_norms,
    }


def _mamba2(keys: Keys, unset: str) -> Raw:
    n_heads, head_dim = keys.count("mixer_heads"), keys.get("mixer_head_dim", "auto")
    stated = keys.count("mamba_d_ssm", 0)
    inner = stated or keys.count("hidden_size") * keys.count("mixer_expand", 2)
    if stated and head_dim != "auto" and stated != n_heads * keys.count("mixer_head_dim"):
        raise keys.error("mamba_d_ssm", f"is {stated}, not {n_heads} heads of {head_dim}")
    return {
        "kind": "mamba2",
        "n_heads": n_heads,
        "head_dim": inner // n_heads if head_dim == "auto" else keys.count("mixer_head_dim"),
        "n_groups": keys.count("mixer_groups"),
        "state_dim": keys.count("mixer_state"),
        "conv_kernel": keys.count("mixer_conv"),
        "norm": keys.flag("mamba_rms_norm", default=True),
        "state_dtype": _state_dtype(keys, "mamba_ssm_cache_dtype", unset),
    }


def _kimi_delta(keys: Keys) -> Raw:
    if "linear_num_heads" in keys:
        dims = {"n_heads": "linear_num_heads", "head_dim": "linear_head_dim"}
        dims["conv_kernel"] = "linear_conv_kernel_dim"
        return {"kind": "kimi_delta"} | {ours: keys.count(key) for ours, key in dims.items()}
    section = keys.section("linear_attn_config")
    found: Raw = {
        "kind": "kimi_delta",
        "n_heads": section.count("num_heads"),
        "head_dim": section.count("head_dim"),
        "conv_kernel": section.count("short_conv_kernel_size"),
    }
    section.ignore("full_attn_layers", "kda_layers")
    section.check_all_known(("gate_lower_bound",))
    return found


def _state_dtype(keys: Keys, name: str, unset: str = "auto") -> str:
    """Return the dtype of the recurrent state; Nemotron-H's is f32 where its config says nothing."""
    return "f32" if keys.get(name, unset) == "float32" else "model"


def _biases(keys: Keys) -> Raw:
    return {"conv_bias": keys.flag("mixer_conv_bias"), "bias": keys.flag("mixer_bias")}
