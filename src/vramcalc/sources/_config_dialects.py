"""Every dialect of config.json: by its model type, nested or not, or by its architecture."""

from collections.abc import Mapping

from vramcalc.sources._config_decoders import DECODERS
from vramcalc.sources._config_dialect import Dialect, Envelope, Names, words
from vramcalc.sources._config_hybrids import HYBRIDS

DIALECTS: Mapping[str, Dialect] = {**DECODERS, **HYBRIDS}

_IMAGE_TOKENS = words(
    "image_token_id image_token_index video_token_id video_token_index vision_end_token_id vision_start_token_id "
    "vision_token_id boi_token_index eoi_token_index boi_token_id eoi_token_id mm_tokens_per_image"
)
ENVELOPES: Mapping[str, Envelope] = {
    "qwen3_vl": Envelope(text="qwen3_vl_text", tower="qwen_vl", harmless=_IMAGE_TOKENS),
    "qwen3_vl_moe": Envelope(text="qwen3_vl_moe_text", tower="qwen_vl", harmless=_IMAGE_TOKENS),
    "qwen3_5": Envelope(text="qwen3_5_text", tower="qwen_vl", harmless=_IMAGE_TOKENS),
    "qwen3_5_moe": Envelope(text="qwen3_5_moe_text", tower="qwen_vl", harmless=_IMAGE_TOKENS),
    "gemma3": Envelope(text="gemma3_text", tower="siglip", tied=True, harmless=_IMAGE_TOKENS),
    "gemma4": Envelope(
        text="gemma4_text",
        tower="gemma_4",
        tied=True,
        harmless=_IMAGE_TOKENS
        | words("audio_token_id boa_token_id eoa_token_id eoa_token_index vision_soft_tokens_per_image"),
    ),
    "llama4": Envelope(
        text="llama4_text",
        tower="llama_4",
        harmless=_IMAGE_TOKENS,
        tower_defaults={
            "hidden_size": 768,
            "num_hidden_layers": 34,
            "num_attention_heads": 16,
            "num_channels": 3,
            "intermediate_size": 5632,
            "vision_output_dim": 7680,
            "image_size": 448,
            "patch_size": 14,
            "projector_input_dim": 4096,
            "projector_output_dim": 4096,
        },
    ),
    "mistral3": Envelope(
        text="mistral",
        tower="pixtral",
        harmless=_IMAGE_TOKENS | words("projector_hidden_act vision_feature_layer"),
    ),
    "minimax_m3_vl": Envelope(
        text="minimax_m3_vl_text",
        tower="minimax_m3",
        harmless=_IMAGE_TOKENS
        | words(
            "image_grid_pinpoints image_seq_length merged_hidden_size img_token_compression_config "
            "num_reward_heads process_image_mode "
            "projector_hidden_act vision_feature_layer vision_feature_select_strategy"
        ),
    ),
    "step3p7": Envelope(
        text="step3p7",
        tower="step3p7",
        harmless=_IMAGE_TOKENS | words("understand_projector_stride vision_select_layer"),
    ),
    "kimi_k25": Envelope(
        text="deepseek_v3",
        tower="kimi_k25",
        harmless=_IMAGE_TOKENS | words("media_placeholder_token_id use_unified_vision_chunk video_placeholder"),
    ),
}

# Where the model type says nothing, the architecture does.
ARCHITECTURES: Names = {"DeepseekV4ForCausalLM": "deepseek_v4"}
