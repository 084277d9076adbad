"""The kind of one layer, from the tensors it has and the keys that say how to read them.

Source:
    llama.cpp 0c1e570, src/llama-model.cpp (load_hparams, load_tensors) and src/models/.
"""

from typing import Any

from vramcalc.sources._gguf_architectures import Architecture
from vramcalc.sources._gguf_facts import Facts, Tensors

Raw = dict[str, Any]

_UNKNOWN_PARTS = {
    "shortconv.": "short convolutions",
    "time_mix_": "RWKV's time mixing",
    "attn_kv_b": "MLA in the form of old conversions, which caches whole heads",
    "ffn_gate.0": "experts as separate tensors, as old conversions have them",
    "ffn_gate_up_exps": "experts whose gate and up matrices are one",
    "altup_": "alternating updates",
    "laurel_": "learned augmented residuals",
    "cross_attn": "cross attention",
    "hc_": "hyper-connections",
    "ffn_gate_chexps": "chunked experts",
    "attn_rel_b": "relative positions",
}


def read_layer(facts: Facts, architecture: Architecture, index: int) -> Raw:
    """Return one layer as a spec before validation. Raises ``BadInputError`` for parts that are not known."""
    tensors = facts.layers.get(index, {})
    for start, what in _UNKNOWN_PARTS.items():
        if any(name.startswith(start) for name in tensors):
            raise facts.error(f"layer {index} has {what}, which is not known here")
    mixer = _mixer(facts, tensors, index)
    has_delta = mixer is not None and mixer["kind"] in ("gated_delta", "kimi_delta")
    layer: Raw = {"mlp": _mlp(facts, tensors, index)}
    if mixer is not None:
        layer["mixer"] = mixer
    attention = None if has_delta else _attention(facts, architecture, tensors, index)
    if attention is not None:
        layer["attention"] = attention
    if attention is None and mixer is None and layer["mlp"]["kind"] == "none":
        raise facts.error(f"layer {index} has no attention, no mixer and no MLP known here")
    return layer


def rows(tensors: Tensors, name: str) -> int:
    """Return the out features of a matrix, 0 where it is not there."""
    tensor = tensors.get(f"{name}.weight")
    return 0 if tensor is None or len(tensor.shape) < 2 else tensor.shape[-2]  # noqa: PLR2004


def _columns(tensors: Tensors, name: str) -> int:
    tensor = tensors.get(f"{name}.weight")
    return 0 if tensor is None else tensor.shape[-1]


def _attention(facts: Facts, architecture: Architecture, tensors: Tensors, index: int) -> Raw | None:
    if "attn_kv_a_mqa.weight" in tensors:
        return _latent(facts, tensors)
    if "attn_q.weight" in tensors or "attn_qkv.weight" in tensors:
        return _grouped(facts, architecture, tensors, index)
    if any(name.startswith("attn_") and "norm" not in name for name in tensors):
        raise facts.error(f"layer {index} has an attention of a kind not known here")
    return None


def _latent(facts: Facts, tensors: Tensors) -> Raw:
    rope = facts.count("rope.dimension_count")
    found: Raw = {
        "kind": "latent",
        "n_heads": facts.count("attention.head_count"),
        "query_rank": facts.count("attention.q_lora_rank") if "attn_q_a.weight" in tensors else None,
        "latent_dim": facts.count("attention.kv_lora_rank"),
        "rope_dim": rope,
        "nope_dim": facts.count("attention.key_length_mla") - rope,
        "v_head_dim": facts.count("attention.value_length_mla"),
    }
    if "indexer.attn_k.weight" in tensors:
        found["indexer"] = {
            "n_heads": facts.count("attention.indexer.head_count"),
            "head_dim": facts.count("attention.indexer.key_length"),
            "top_k": facts.count("attention.indexer.top_k"),
        }
    return found


def _grouped(facts: Facts, architecture: Architecture, tensors: Tensors, index: int) -> Raw:
    local = _is_local(facts, architecture, index)
    n_heads = facts.count("attention.head_count", layer=index)
    n_kv_heads = facts.count("attention.head_count_kv", n_heads, layer=index)
    if not n_heads or not n_kv_heads:
        raise facts.error(f"layer {index} has an attention, and its keys state no heads for it")
    even = facts.count("embedding_length") // n_heads
    suffix = "_swa" if local and facts.find("attention.key_length_swa") is not None else ""
    head_dim = facts.count(f"attention.key_length{suffix}", even, layer=index)
    value_dim = facts.count(f"attention.value_length{suffix}", head_dim, layer=index)
    a: Raw = {"kind": "full", "n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_dim": head_dim}
    if value_dim != head_dim:
        a["v_head_dim"] = value_dim
    fused = "attn_qkv.weight" in tensors
    a |= {
        "fused": fused,
        "qkv_bias": ("attn_qkv.bias" if fused else "attn_q.bias") in tensors,
        "output_bias": "attn_output.bias" in tensors,
        "sinks": "attn_sinks.weight" in tensors,
        "qk_norm": _qk_norm(tensors, head_dim),
        "shares_cache": facts.count("attention.shared_kv_layers", 0) > 0 and "attn_k.weight" not in tensors,
        "v_is_k": architecture.shares_values and "attn_k.weight" in tensors and "attn_v.weight" not in tensors,
    }
    if not fused and rows(tensors, "attn_q") == 2 * n_heads * head_dim:
        a["output_gate"] = "in_query"
    elif "attn_gate.weight" in tensors:
        a["output_gate"] = "per_head"
    a |= _window(facts, architecture, index, is_local=local)
    return {key: value for key, value in a.items() if value is not False}


def _qk_norm(tensors: Tensors, head_dim: int) -> str:
    if "attn_q_norm.weight" not in tensors:
        return "none"
    return "per_head" if tensors["attn_q_norm.weight"].n_elements == head_dim else "whole"


def _window(facts: Facts, architecture: Architecture, index: int, *, is_local: bool) -> Raw:
    if architecture.is_encoder:
        return {"kind": "bidirectional"}
    if not is_local:
        return {}
    if architecture.chunk is not None:
        return {"kind": "chunked", "chunk": architecture.chunk}
    return {
        "kind": "sliding",
        "window": facts.count("attention.sliding_window", layer=index),
        "gguf_window": architecture.window == "read",
    }


def _is_local(facts: Facts, architecture: Architecture, index: int) -> bool:
    """Return whether a layer attends to a part of the past alone."""
    if architecture.chunk is None:
        if not facts.largest("attention.sliding_window"):
            return False
        if architecture.window == "unread":
            return True
    pattern = facts.find("attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        return index < len(pattern) and bool(pattern[index])
    period = facts.count("attention.sliding_window_pattern", architecture.period)
    return (index + 1) % max(1, period) != 0


def _mixer(facts: Facts, tensors: Tensors, index: int) -> Raw | None:
    if not any(name.startswith("ssm_") for name in tensors):
        return None
    conv = facts.count("ssm.conv_kernel")
    if "ssm_conv1d_q.weight" in tensors:
        dims = {"n_heads": facts.count("attention.head_count", layer=index), "head_dim": facts.count("kda.head_dim")}
        return {"kind": "kimi_delta", **dims, "conv_kernel": conv}
    inner, state, rank = (facts.count(f"ssm.{key}") for key in ("inner_size", "state_size", "time_step_rank"))
    if "ssm_beta.weight" in tensors or "ssm_ba.weight" in tensors:
        return {
            "kind": "gated_delta",
            "n_key_heads": facts.count("ssm.group_count"),
            "n_value_heads": rank,
            "key_dim": state,
            "value_dim": _whole(facts, inner, rank, index),
            "conv_kernel": conv,
            "fused": "ssm_ba.weight" in tensors,
        }
    biases = {"conv_bias": "ssm_conv1d.bias" in tensors, "bias": "ssm_in.bias" in tensors}
    if "ssm_x.weight" in tensors:
        dims = {"inner_dim": inner, "state_dim": state, "conv_kernel": conv, "time_step_rank": rank}
        return {"kind": "mamba1", **dims, **biases, "inner_norms": "ssm_dt_norm.weight" in tensors}
    return {
        "kind": "mamba2",
        "n_heads": rank,
        "head_dim": _whole(facts, inner, rank, index),
        "n_groups": facts.count("ssm.group_count"),
        "state_dim": state,
        "conv_kernel": conv,
        **biases,
        "norm": "ssm_norm.weight" in tensors,
    }


def _whole(facts: Facts, inner: int, n_heads: int, index: int) -> int:
    if not n_heads or inner % n_heads:
        raise facts.error(f"layer {index}: {inner} recurrent channels do not divide into {n_heads} heads")
    return inner // n_heads


def _mlp(facts: Facts, tensors: Tensors, index: int) -> Raw:
    if "ffn_up_exps.weight" in tensors:
        return _experts(facts, tensors, index)
    up, ff = rows(tensors, "ffn_up"), _columns(tensors, "ffn_down")
    if not up or not ff:
        return {"kind": "none"}
    has_gate = "ffn_gate.weight" in tensors
    found: Raw = {"kind": "gated" if has_gate or up == 2 * ff else "plain", "ff_dim": ff}
    if "ffn_up.bias" in tensors:
        found["bias"] = True
    if not has_gate and up == 2 * ff:
        found["fused"] = True
    return found


def _experts(facts: Facts, tensors: Tensors, index: int) -> Raw:
    stack = tensors["ffn_up_exps.weight"].shape
    if len(stack) != 3:  # noqa: PLR2004 - experts, out features, in features
        raise facts.error(f"layer {index}: 'ffn_up_exps' is no stack of matrices")
    router_bias = "parameter" if "ffn_gate_inp.bias" in tensors else "none"
    if any(name.startswith("exp_probs_b") for name in tensors):
        router_bias = "buffer"
    found: Raw = {
        "kind": "moe",
        "n_experts": stack[0],
        "n_active_experts": facts.count("expert_used_count", layer=index),
        "ff_dim": stack[1],
        "shared_ff_dim": rows(tensors, "ffn_up_shexp"),
        "shared_gate": "ffn_gate_inp_shexp.weight" in tensors,
        "dense_ff_dim": _columns(tensors, "ffn_down"),
        "gated": "ffn_gate_exps.weight" in tensors,
        "expert_bias": "ffn_up_exps.bias" in tensors,
        "router_bias": router_bias,
        "router_scale": "ffn_gate_inp.scale" in tensors,
    }
    hidden = facts.count("embedding_length")
    if stack[2] != hidden:
        found["latent_dim"] = stack[2]
    return found
