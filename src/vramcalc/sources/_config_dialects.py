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

# What llama.cpp calls the model of a text config's type; a type that is not here it does not run.
# Source: llama.cpp, src/llama-arch.cpp and convert_hf_to_gguf.py.
GGUF_ARCHITECTURES: Names = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "granite": "granite",
    "nemotron-nas": "deci",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "qwen3_vl_text": "qwen3vl",
    "qwen3_vl_moe_text": "qwen3vlmoe",
    "qwen3_next": "qwen3next",
    "qwen3_5_text": "qwen35",
    "qwen3_5_moe_text": "qwen35moe",
    "phi3": "phi3",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "olmoe": "olmoe",
    "smollm3": "smollm3",
    "seed_oss": "seed_oss",
    "gpt_neox": "gptneox",
    "stablelm": "stablelm",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gemma4_text": "gemma4",
    "gpt_oss": "gpt-oss",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "kimi_k2": "deepseek2",
    "deepseek_v32": "deepseek32",
    "deepseek_v4": "deepseek4",
    "glm_moe_dsa": "glm-dsa",
    "glm4_moe": "glm4moe",
    "minimax_m2": "minimax-m2",
    "llama4_text": "llama4",
    "step3p7": "step35",
    "mamba": "mamba",
    "mamba2": "mamba2",
    "granitemoehybrid": "granitehybrid",
    "jamba": "jamba",
    "falcon_h1": "falcon-h1",
    "kimi_linear": "kimi-linear",
}


def gguf_architecture(text_type: str, *, has_experts: bool) -> str | None:
    """Return what llama.cpp calls a model; Nemotron-H goes by whether it has experts."""
    if text_type == "nemotron_h":
        return "nemotron_h_moe" if has_experts else "nemotron_h"
    return GGUF_ARCHITECTURES.get(text_type)
