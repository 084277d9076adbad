"""What Ollama's scheduler decides before it starts llama-server: context, batch, cards, and who may stay beside whom.

All by a rough prediction of its own (file size plus an f16 cache), which decides and is never shown.

Source: Ollama 0.33 (fb30760, August 2026), server/routes.go, server/sched.go and llm/llama_server.go.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from vramcalc.engines._ggml.weights import Weights
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import GroupedQueryAttention, ModelSpec, NoAttention
from vramcalc.units import GIB, MIB

_CONTEXT_TIERS = ((47 * GIB, 262_144), (23 * GIB, 32_768))  # by total VRAM
_LEAST_CONTEXT = 4096
_ADMITTED_PERCENT = 80  # of free memory: one card if the prediction stays below, a second model beside the first
_ENCODER_BATCH = 2048
_LEAST_BATCH = 512
_CONSTRAINED_BATCH = 256  # CUDA without flash attention, more than 4096 tokens, a card of at most 8 GiB
_CONSTRAINED_CARD_BYTES = 8 * GIB


class _BatchTier(Struct, frozen=True):
    """A batch, and what must be free for it: a share of memory in percent, and a surcharge."""

    step_tokens: int
    above_context: int
    most_percent: int
    surcharge_bytes: int


_BATCH_TIERS = (_BatchTier(2048, 32_768, 60, 2 * GIB), _BatchTier(1024, 4096, 75, 768 * MIB))


def default_context(total_bytes: int, trained: int) -> int:
    """Return the context by the total VRAM of all cards, at most the trained one.

    >>> default_context(12 * GIB, 131072), default_context(24 * GIB, 131072), default_context(48 * GIB, 131072)
    (4096, 32768, 131072)
    """
    tier = next((context for least, context in _CONTEXT_TIERS if total_bytes >= least), _LEAST_CONTEXT)
    return min(trained, tier)


def predicted_bytes(weights: Weights, model: ModelSpec, n_context: int) -> int:
    """Return Ollama's prediction for a total context (all slots): the file and a cache in f16.

    It takes the fewest KV heads of any layer for all, and heads of width hidden / heads.
    """
    attentions = [k.attention for k in model.layers.kinds.values() if not isinstance(k.attention, NoAttention)]
    if not attentions:
        return file_bytes(weights)
    kv_heads = min(a.n_kv_heads if isinstance(a, GroupedQueryAttention) else 1 for a in attentions)
    head_dim = model.hidden_dim // max(a.n_heads for a in attentions)
    return file_bytes(weights) + 2 * model.layers.n_layers * kv_heads * head_dim * n_context * 2


def file_bytes(weights: Weights) -> int:
    """Return the bytes of the GGUF's tensors; a tied head is not stored twice."""
    tensors = [*weights.entrance, *weights.shared, *(w for layer in weights.layers for w in layer.values())]
    return sum(w.host_bytes for w in (*tensors, *(w for w in weights.output if not w.is_copy)))


def choose_cards(predicted: int, free: Mapping[str, int], *, spread: bool) -> tuple[str, ...]:
    """Return the card with most free memory where the prediction fits it well, else all.

    ``spread`` is OLLAMA_SCHED_SPREAD: always all.
    """
    if spread or len(free) < 2:  # noqa: PLR2004 - nothing to choose
        return tuple(free)
    roomiest = max(free, key=lambda device: free[device])
    return (roomiest,) if admits(predicted, free[roomiest]) else tuple(free)


def choose_batch(predicted: int, free_bytes: int, n_context: int) -> int:
    """Return the batch (and step) by the total context of all slots, stepped down where memory is short."""
    for tier in _BATCH_TIERS:
        has_share = predicted <= free_bytes * tier.most_percent // 100
        if n_context > tier.above_context and has_share and admits(predicted + tier.surcharge_bytes, free_bytes):
            return tier.step_tokens
    return _LEAST_BATCH


def batch_without_flash_attention(gpus: Sequence[GpuSpec], free: Sequence[int], n_context: int) -> int:
    """Return the batch on CUDA cards that must do without flash attention."""
    small = any(room <= _CONSTRAINED_CARD_BYTES for gpu, room in zip(gpus, free, strict=True) if runs_cuda(gpu))
    return _CONSTRAINED_BATCH if small and n_context > _LEAST_CONTEXT else _LEAST_BATCH


def runs_cuda(gpu: GpuSpec) -> bool:
    """Whether Ollama drives the card through CUDA; a hypothetical card stands for one that does."""
    return gpu.vendor in ("nvidia", "hypothetical")


def encoder_batch(n_context: int) -> int:
    """Return the batch of an embedding model: a text must pass in one step."""
    return min(_ENCODER_BATCH, n_context)


def surcharge_bytes(step_tokens: int) -> int:
    """Return what the scheduler adds to a prediction for a batch."""
    return next((tier.surcharge_bytes for tier in _BATCH_TIERS if step_tokens >= tier.step_tokens), 0)


def admits(predicted: int, free_bytes: int) -> bool:
    """Whether a prediction passes the 80 % rule.

    A second model loads beside the first where prediction and surcharge pass it; else the first is evicted.
    """
    return predicted <= free_bytes * _ADMITTED_PERCENT // 100
