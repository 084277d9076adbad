"""What publishers' files call the tensors of our inventory: the modules that exclusion lists name.

Families differ in the words before a layer's number, in the name of a layer's part and in that of its matrices; a
tensor is given under every spelling, since a list names it under one.
"""

from collections.abc import Iterator, Mapping

from vramcalc.formulas.tensors import TensorGroup
from vramcalc.specs.model import CompressedAttention, LayerKind, MoeMlp, Role

_LAYER_PREFIXES = (
    "model.layers",
    "language_model.model.layers",
    "model.language_model.layers",
    "backbone.layers",
    "transformer.h",
    "layers",
)
_ATTENTION = ("self_attn", "attn", "attention", "mixer")
_MIXER = ("linear_attn", "mixer", "mamba", "self_attn", "conv")
_DENSE = ("mlp", "feed_forward", "ffn", "mixer")
_MOE = ("mlp", "block_sparse_moe", "mixer", "ffn", "feed_forward", "moe")
_SHARED = ("shared_experts", "shared_expert", "shared_mlp")
_ROUTER = (*(f"{part}.{gate}" for part in _MOE for gate in ("gate", "router")), "router", "router.proj")

_HEAD = ("lm_head", "language_model.lm_head", "head", "output")
_EMBEDDING = (
    "model.embed_tokens",
    "language_model.model.embed_tokens",
    "model.language_model.embed_tokens",
    "backbone.embeddings",
    "embed",
)
_TOWERS: Mapping[Role, tuple[str, ...]] = {
    "vision": ("vision_tower", "model.vision_tower", "model.visual", "visual", "vision_model", "vision_encoder"),
    "audio": ("audio_tower", "model.audio_tower"),
    "projector": (
        "multi_modal_projector",
        "model.multi_modal_projector",
        "mm_projector",
        "model.embed_vision",
        "embed_vision",
        "model.embed_audio",
        "patch_merge_mlp",
        "model.visual.merger",
        "visual.merger",
        "vision_tower.merger",
    ),
}

_LEAVES: Mapping[str, tuple[str, ...]] = {
    "attn_q": ("q_proj",),
    "attn_k": ("k_proj",),
    "attn_v": ("v_proj",),
    "attn_qkv": ("qkv_proj", "query_key_value", "in_proj_qkv", "in_proj_qkvz", "Wqkv", "c_attn"),
    "attn_output": ("o_proj", "out_proj", "dense", "c_proj"),
    "attn_gate": ("g_proj", "in_proj_z", "in_proj_qkvz"),
    "attn_q_a": ("q_a_proj", "wq_a"),
    "attn_q_b": ("q_b_proj", "wq_b"),
    "attn_kv_a_mqa": ("kv_a_proj_with_mqa",),
    "attn_k_b": ("kv_b_proj",),
    "attn_v_b": ("kv_b_proj",),
    "attn_kv": ("wkv", "kv_proj"),
    "attn_output_a": ("wo_a", "o_a_proj"),
    "attn_output_b": ("wo_b", "o_b_proj"),
    "indexer.attn_q_b": ("indexer.wq_b",),
    "indexer.attn_k": ("indexer.wk",),
    "indexer.proj": ("indexer.weights_proj", "indexers_proj"),
    "indexer.q_proj": ("index_q_proj", "indexer.q_proj"),
    "indexer.k_proj": ("index_k_proj", "indexer.k_proj"),
    "attn_compressor_kv": ("compressor.wkv",),
    "attn_compressor_gate": ("compressor.wgate",),
    "attn_compressor_ape": ("compressor.ape",),
    "indexer_compressor_kv": ("indexer.compressor.wkv",),
    "indexer_compressor_gate": ("indexer.compressor.wgate",),
    "indexer_compressor_ape": ("indexer.compressor.ape",),
    "shortconv_in": ("in_proj",),
    "shortconv_out": ("out_proj",),
    "ssm_in": ("in_proj",),
    "ssm_out": ("out_proj",),
    "ssm_x": ("x_proj",),
    "ssm_dt": ("dt_proj",),
    "ssm_ba": ("in_proj_ba",),
    "ssm_beta": ("in_proj_b", "b_proj"),
    "ssm_alpha": ("in_proj_a",),
    "ssm_f_a": ("f_a_proj",),
    "ssm_f_b": ("f_b_proj",),
    "ssm_g_a": ("g_a_proj",),
    "ssm_g_b": ("g_b_proj",),
    "ssm_conv1d": ("conv1d",),
    "ffn_gate": ("gate_proj", "gate_up_proj", "w1"),
    "ffn_up": ("up_proj", "gate_up_proj", "w3", "fc1"),
    "ffn_down": ("down_proj", "w2", "fc2"),
    "ffn_latent_down": ("fc1_latent_proj",),
    "ffn_latent_up": ("fc2_latent_proj",),
    "ffn_gate_inp_shexp": ("shared_expert_gate",),
    "inp_gate": ("per_layer_input_gate",),
    "proj": ("per_layer_projection",),
}


def module_paths(group: TensorGroup, layer: int | None, kind: LayerKind | None) -> Iterator[str]:
    """Yield every path by which a list may name the group's tensors in one layer (None: outside the layers)."""
    if layer is None or kind is None:
        yield from _outside(group)
        return
    parts = tuple(_inside(group, kind))
    for prefix in _LAYER_PREFIXES:
        yield from (f"{prefix}.{layer}.{part}" for part in parts)


def _outside(group: TensorGroup) -> Iterator[str]:
    if group.role in _TOWERS:
        yield from (f"{tower}.{group.name}" for tower in _TOWERS[group.role])
    elif group.role == "head":
        yield from _HEAD
    elif group.name == "token_embd":
        yield from _EMBEDDING
    else:
        yield group.name


def _inside(group: TensorGroup, kind: LayerKind) -> Iterator[str]:
    stem = group.name.replace("_exps", "").replace("_shexp", "") if group.name not in _LEAVES else group.name
    leaves = _LEAVES.get(stem, (stem,))
    match group.role:
        case "router":
            yield from _ROUTER
        case "experts":
            # Gemma 4 has its experts beside the MLP, all others inside it
            beside = isinstance(kind.mlp, MoeMlp) and kind.mlp.dense_ff_dim > 0
            inside = ("experts", "moe.experts") if beside else tuple(f"{part}.experts" for part in _MOE)
            yield from (f"{part}.0.{leaf}" for part in inside for leaf in leaves)
        case "shared_experts":
            yield from (f"{part}.{shared}.{leaf}" for part in _MOE for shared in _SHARED for leaf in leaves)
            if group.name == "ffn_gate_inp_shexp":
                yield from (f"{part}.{leaf}" for part in _MOE for leaf in leaves)
        case "mlp":
            yield from (f"{part}.{leaf}" for part in _DENSE for leaf in leaves)
        case "recurrent":
            yield from (f"{part}.{leaf}" for part in _MIXER for leaf in leaves)
        case "attention" if isinstance(kind.attention, CompressedAttention):
            yield from (f"{part}.{leaf}" for part in ("attn", "self_attn") for leaf in leaves)
        case "attention":
            yield from (f"{part}.{leaf}" for part in _ATTENTION for leaf in leaves)
        case _:
            yield from leaves
