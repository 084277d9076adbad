"""What model classes allocate beside their weights."""

from vramcalc.engines._vllm.rules import ELEMENT_BYTES
from vramcalc.specs.model import Dtype, LatentAttention, ModelSpec, NoAttention

_WORKSPACE_BYTES = 8_433_672


def step_buffers(model: ModelSpec, layers: range, step_tokens: int, dtype: Dtype) -> dict[str, int]:
    """Return what a rank's model classes allocate beside their weights for the tokens of a step.

    Indexers keep the tokens they chose and a workspace per layer; Qwen3-VL the visual inputs of each deepstack level.

    Source:
        vLLM 0.33's model classes at 8192 tokens per step and 1024 sequences: top_k x tokens x 4 once; 8433672 bytes in
        each layer of DeepSeek-V3.2 and GLM-5; no workspace in DeepSeek-V4's; models/qwen3_vl.py.
    """
    levels = sum(t.count // 2 for t in model.extra_tensors if t.name == "mm.deepstack.norm")  # weight and bias of each
    order, kinds = model.layers.order(), model.layers.kinds
    held = [kinds[order[layer]].attention for layer in layers]
    choosing = [a for a in held if not isinstance(a, NoAttention) and a.indexer is not None]
    most = max((a.indexer.top_k for a in choosing if a.indexer is not None), default=0)
    buffers = {
        "deepstack_inputs": levels * step_tokens * model.hidden_dim * ELEMENT_BYTES[dtype],
        "chosen_tokens": most * step_tokens * ELEMENT_BYTES["f32"],
        "indexer_workspaces": _WORKSPACE_BYTES * sum(isinstance(a, LatentAttention) for a in choosing),
    }
    return {name: n_bytes for name, n_bytes in buffers.items() if n_bytes}
