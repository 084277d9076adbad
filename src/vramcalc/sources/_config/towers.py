"""The towers of a config that sees or hears, by name."""

from collections.abc import Callable, Mapping
from typing import Any

from vramcalc.sources._config.audio import AUDIO_TOWERS
from vramcalc.sources._config.clip_vision import CLIP_TOWERS
from vramcalc.sources._config.keys import Keys
from vramcalc.sources._config.qwen_vision import QWEN_TOWERS
from vramcalc.sources._config.vision import TOWERS, Rows

Raw = dict[str, Any]
_ALL: Mapping[str, Callable[[Keys, Keys, int], Rows]] = {**TOWERS, **CLIP_TOWERS, **QWEN_TOWERS, **AUDIO_TOWERS}
_NUMERICS = (
    "attention_bias", "default_output_length", "global_head_dim", "image_size", "img_token_compression_config",
    "max_position_embeddings", "norm_eps", "num_channels", "pooling_kernel_size", "position_embedding_type",
    "projection_dim", "rope_mode", "rope_parameters", "rope_theta", "vision_feature_layer",
    "vision_segment_max_frames", "vocab_size", "num_attention_heads", "num_heads",
    "merge_type", "mm_hidden_size", "mm_projector_type", "pos_emb_type", "projector_hidden_act", "projector_ln_eps",
    "text_hidden_size", "video_attn_type", "vt_num_attention_heads", "multi_modal_projector_bias",
    "projector_dropout", "vision_feature_select_strategy",
    "fullatt_block_indexes", "tokens_per_second", "window_size",
    "activation_dropout", "encoder_layerdrop", "init_std", "scale_embedding",
    "conf_attention_chunk_size", "conf_attention_context_left", "conf_attention_context_right",
    "conf_attention_logit_cap", "conf_reduction_factor", "conf_residual_weight", "gradient_clipping",
    "hidden_dropout_prob", "is_composition", "layer_scale_init_value", "max_image_size", "norm_type",
    "num_image_tokens",
    "projection_dropout", "use_absolute_position_embeddings", "use_base_siglip", "use_mask_token", "use_mean_pooling",
    "tie_word_embeddings", "do_pooling", "model_args", "sscp_conv_eps", "sscp_conv_group_norm_eps", "vocab_offset",
)  # fmt: skip


def read_tower(name: str, tower: Keys, top: Keys, text_hidden: int) -> list[Raw]:
    """Return the tensors of a tower and its projector."""
    found = [_tensor(*row) for row in _ALL[name](tower, top, text_hidden)]
    tower.check_all_known(_NUMERICS)
    return found


def _tensor(name: str, shape: tuple[int, ...], count: int = 1) -> Raw:
    role = {"mm": "projector", "a": "audio"}.get(name.partition(".")[0], "vision")
    return {"name": name, "role": role, "shape": shape, "count": count, "in_gguf": False}
