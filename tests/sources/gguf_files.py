"""GGUF files of real models' shapes, written by the ``gguf`` package as llama.cpp's converter writes them.

Their data is a hole: a sparse file of 40 GB takes a few kilobytes. Tensor names are held against the package's own list
of what each architecture has; sizes are held against ``llama-quantize`` in the tests.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from vramcalc.formulas.inventory import TensorGroup
from vramcalc.formulas.recipes import gguf_tensors
from vramcalc.specs.model import (
    GatedDelta,
    LatentAttention,
    LayerKind,
    Mamba2,
    ModelSpec,
    MoeMlp,
    NoAttention,
    NoMlp,
    SlidingAttention,
)
from vramcalc.units import round_up

ALIGNMENT = 32
_BARE = frozenset({"ssm_a", "ssm_d"})
_BERT_NORMS = {
    f"{ours}.{part}": f"{theirs}.{part}"
    for part in ("weight", "bias")
    for ours, theirs in (("attn_norm", "attn_output_norm"), ("ffn_norm", "layer_output_norm"))
}
_POST_NORMS = {"attn_norm.weight": "post_attention_norm.weight", "ffn_norm.weight": "post_ffw_norm.weight"}
_SECOND_IS_POST = {"ffn_norm.weight": "post_attention_norm.weight"}
_DEEPSEEK = {"ffn_gate_inp.bias": "exp_probs_b.bias"}

# The inventory's names to the architecture's, where they are not the same.
RENAMED: Mapping[str, Mapping[str, str]] = {
    "bert": _BERT_NORMS,
    "olmo2": _POST_NORMS,
    "gpt-oss": _SECOND_IS_POST,
    "qwen3next": _SECOND_IS_POST,
    "qwen35": _SECOND_IS_POST,
    "glm4moe": {**_SECOND_IS_POST, **_DEEPSEEK},
    "deepseek2": _DEEPSEEK,
    "minimax-m2": _DEEPSEEK,
}


def file_name(architecture: str, group: TensorGroup, layer: int | None) -> str:
    """Return a tensor's name as the converter gives it."""
    name = RENAMED.get(architecture, {}).get(group.name, group.name)
    if not name.endswith((".weight", ".bias", ".scale")) and name not in _BARE:
        name += ".weight"
    return name if layer is None else f"blk.{layer}.{name}"


def known_names(architecture: str) -> set[str]:
    """Return the names, without layer and suffix, that the ``gguf`` package lists for an architecture."""
    by_name = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    return {
        gguf.TENSOR_NAMES[tensor].removeprefix("blk.{bid}.") for tensor in gguf.MODEL_TENSORS[by_name[architecture]]
    }


def write_gguf(
    path: Path,
    model: ModelSpec,
    architecture: str,
    mix: str,
    *,
    keys: Mapping[str, object] | None = None,
    edit: Callable[[str, str], str | None] = lambda _, storage: storage,
    parts: int = 1,
) -> Path:
    """Write a file, or the parts of one; ``edit`` may give a tensor another type, or None to leave it out."""
    tensors = [
        (name, shape, edited)
        for name, shape, storage in file_tensors(model, architecture, mix)
        if (edited := edit(name, storage)) is not None
    ]
    paths = (
        [path]
        if parts == 1
        else [path.with_name(f"{path.stem}-{n:05}-of-{parts:05}.gguf") for n in range(1, parts + 1)]
    )
    per_part = -(-len(tensors) // parts)
    for number, part in enumerate(paths):
        writer = gguf.GGUFWriter(part, architecture)
        if number == 0:
            _write_keys(writer, model, architecture, mix, dict(keys or {}))
        if parts > 1:
            writer.add_uint16("split.no", number)
            writer.add_uint16("split.count", parts)
            writer.add_int32("split.tensors.count", len(tensors))
        _write_tensors(writer, part, tensors[number * per_part : (number + 1) * per_part])
    return paths[0]


def file_tensors(model: ModelSpec, architecture: str, mix: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Yield name, shape and type of every tensor under a mix, in the order of the inventory."""
    for tensor in gguf_tensors(model, mix):
        group = tensor.group
        shape = (*((group.copies,) if group.copies > 1 else ()), *group.shape)
        for layer, fmt in zip(group.layers or (None,), tensor.formats, strict=True):
            yield file_name(architecture, group, layer), shape, fmt.name


def _write_tensors(writer: gguf.GGUFWriter, path: Path, tensors: list[tuple[str, tuple[int, ...], str]]) -> None:
    end = 0
    for name, shape, storage in tensors:
        kind = gguf.GGMLQuantizationType[storage.upper()]
        elements, n_block = gguf.GGML_QUANT_SIZES[kind]
        n_bytes = int(np.prod(shape)) // elements * n_block
        writer.add_tensor_info(name, shape, np.dtype(np.float32), n_bytes, raw_dtype=kind)
        end = round_up(end, ALIGNMENT) + n_bytes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(round_up(path.stat().st_size, ALIGNMENT) + end)


def _write_keys(
    writer: gguf.GGUFWriter, model: ModelSpec, architecture: str, mix: str, more: dict[str, object]
) -> None:
    kinds = [model.layers.kinds[name] for name in model.layers.order()]
    found: dict[str, Any] = {
        "general.name": model.name,
        "general.file_type": gguf.LlamaFileType[_file_type(mix)].value,
        "block_count": len(kinds),
        "context_length": model.context,
        "embedding_length": model.hidden_dim,
        **_attention_keys(kinds),
        **_mixer_keys(kinds),
        **_mlp_keys(kinds),
        **more,
    }
    for key, value in found.items():
        name = key if key.startswith(("general.", "tokenizer.")) else f"{architecture}.{key}"
        match value:
            case bool():
                writer.add_bool(name, value)
            case int():
                writer.add_uint32(name, value)
            case str():
                writer.add_string(name, value)
            case _:
                writer.add_array(name, value)


def _file_type(mix: str) -> str:
    return "ALL_F32" if mix == "f32" else f"MOSTLY_{mix.upper()}"


def _attention_keys(kinds: list[LayerKind]) -> dict[str, Any]:
    attentions = [kind.attention for kind in kinds]
    first = next((a for a in attentions if not isinstance(a, NoAttention)), None)
    if first is None:
        return {}
    if isinstance(first, LatentAttention):
        found: dict[str, Any] = {
            "attention.head_count": first.n_heads,
            "attention.head_count_kv": 1,
            "attention.kv_lora_rank": first.latent_dim,
            "attention.key_length": first.latent_dim + first.rope_dim,
            "attention.value_length": first.latent_dim,
            "attention.key_length_mla": first.nope_dim + first.rope_dim,
            "attention.value_length_mla": first.v_head_dim,
            "rope.dimension_count": first.rope_dim,
        }
        return found | ({"attention.q_lora_rank": first.query_rank} if first.query_rank else {})
    by_layer = [0 if isinstance(a, NoAttention) else a.n_kv_heads for a in attentions]  # type: ignore[union-attr]
    is_hybrid = any(isinstance(kind.mixer, Mamba2) for kind in kinds)  # delta nets state one number for all layers
    found = {
        "attention.head_count": first.n_heads,
        "attention.head_count_kv": by_layer if is_hybrid else first.n_kv_heads,  # type: ignore[union-attr]
        "attention.key_length": first.head_dim,
        "attention.value_length": first.head_dim,
    }
    windows = {a.window for a in attentions if isinstance(a, SlidingAttention)}
    return found | ({"attention.sliding_window": windows.pop()} if windows else {})


def _mixer_keys(kinds: list[LayerKind]) -> dict[str, Any]:
    mixer = next((kind.mixer for kind in kinds if kind.mixer is not None), None)
    match mixer:
        case Mamba2():
            return {
                "ssm.conv_kernel": mixer.conv_kernel,
                "ssm.inner_size": mixer.inner_dim,
                "ssm.state_size": mixer.state_dim,
                "ssm.time_step_rank": mixer.n_heads,
                "ssm.group_count": mixer.n_groups,
            }
        case GatedDelta():
            return {
                "ssm.conv_kernel": mixer.conv_kernel,
                "ssm.inner_size": mixer.n_value_heads * mixer.value_dim,
                "ssm.state_size": mixer.key_dim,
                "ssm.time_step_rank": mixer.n_value_heads,
                "ssm.group_count": mixer.n_key_heads,
            }
        case _:
            return {}


def _mlp_keys(kinds: list[LayerKind]) -> dict[str, Any]:
    mlps = [kind.mlp for kind in kinds]
    moe = next((mlp for mlp in mlps if isinstance(mlp, MoeMlp)), None)
    dense = next((mlp for mlp in mlps if not isinstance(mlp, MoeMlp | NoMlp)), None)
    found: dict[str, Any] = {"feed_forward_length": dense.ff_dim if dense else moe.ff_dim if moe else 0}
    if moe is not None:
        found |= {
            "expert_count": moe.n_experts,
            "expert_used_count": moe.n_active_experts,
            "expert_feed_forward_length": moe.ff_dim,
        }
    return found
