"""Which part of a model a checkpoint's tensor belongs to, by the names that transformers' classes give."""

import re
from collections.abc import Sequence

from vramcalc.specs.model import Role

# The first pattern found in a name decides.
_PATTERNS: Sequence[tuple[str, Role]] = (
    (r"multi_modal_projector|mm_projector|visual\.merger|embed_vision", "projector"),
    (r"(^|\.)(visual|vision_model|vision_tower|vision_encoder|audio_tower)\.", "vision"),
    (r"(^|\.)mtp\.|\.(eh_proj|enorm|hnorm|shared_head)\.", "other"),
    (r"lm_head|(^|\.)output\.weight$", "head"),
    (r"norm", "norm"),
    (r"embed_tokens|tok_embeddings|word_embeddings|position_embeddings|wte|wpe|embeddings", "embedding"),
    (r"shared_expert", "shared_experts"),
    (r"\.experts\.|\.experts$", "experts"),
    (r"\.router\.|\.gate\.(weight|bias|e_score_correction_bias)|block_sparse_moe\.gate", "router"),
    (r"linear_attn|mamba|\.mixer\.(A_log|D|dt_bias|conv1d|in_proj|out_proj)|\.ssm", "recurrent"),
    (r"attn|attention|\.(q|k|v|o)_proj", "attention"),
    (r"mlp|feed_forward|ffn|\.fc[12]\.|gate_proj|up_proj|down_proj", "mlp"),
)


def checkpoint_role(name: str) -> Role:
    """Return the part of a model that a checkpoint's tensor belongs to, ``other`` where its name does not say.

    >>> checkpoint_role("model.layers.0.self_attn.q_proj.weight_scale")
    'attention'
    """
    return next((role for pattern, role in _PATTERNS if re.search(pattern, name)), "other")
