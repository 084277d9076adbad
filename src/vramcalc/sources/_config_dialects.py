"""Every dialect of config.json: by its model type, nested or not, or by its architecture."""

from collections.abc import Mapping
from typing import Any

from vramcalc.sources._config_decoders import DECODERS
from vramcalc.sources._config_dense import DENSE
from vramcalc.sources._config_dialect import Dialect, Envelope, Names, words
from vramcalc.sources._config_encoders import ENCODERS
from vramcalc.sources._config_hybrids import HYBRIDS
from vramcalc.sources._config_latent import LATENT
from vramcalc.sources._config_older import OLDER
from vramcalc.sources._config_sparse import SPARSE

DIALECTS: Mapping[str, Dialect] = {**DECODERS, **DENSE, **LATENT, **SPARSE, **OLDER, **HYBRIDS, **ENCODERS}

_IMAGE_TOKENS = words(
    "image_token_id image_token_index video_token_id video_token_index vision_end_token_id vision_start_token_id "
    "vision_token_id boi_token_index eoi_token_index boi_token_id eoi_token_id image_start_token_id image_end_token_id "
    "video_start_token_id video_end_token_id mm_tokens_per_image"
)
_LLAVA = _IMAGE_TOKENS | words(
    "image_seq_length image_grid_pinpoints projector_hidden_act vision_feature_layer vision_feature_select_strategy "
    "vision_aspect_ratio adapter_layer_norm_eps _pad_token_id hidden_size projection_dim vocab_size "
    "use_image_newline_parameter is_composition"
)
ENVELOPES: Mapping[str, Envelope] = {
    "qwen3_vl": Envelope(text="qwen3_vl_text", tower="qwen3_vl", harmless=_IMAGE_TOKENS),
    "qwen3_vl_moe": Envelope(text="qwen3_vl_moe_text", tower="qwen3_vl", harmless=_IMAGE_TOKENS),
    "qwen3_5": Envelope(text="qwen3_5_text", tower="qwen_vl", harmless=_IMAGE_TOKENS),
    "qwen3_5_moe": Envelope(text="qwen3_5_moe_text", tower="qwen_vl", harmless=_IMAGE_TOKENS),
    "qwen2_vl": Envelope(text="qwen2_vl_text", tower="qwen2_vl", ties="either", harmless=_IMAGE_TOKENS),
    "qwen2_5_vl": Envelope(text="qwen2_5_vl_text", tower="qwen2_5_vl", ties="either", harmless=_IMAGE_TOKENS),
    "qwen2_audio": Envelope(
        text="qwen2", audio_tower="qwen2_audio", harmless=words("audio_token_index audio_token_id")
    ),
    "gemma3n": Envelope(
        text="gemma3n_text",
        tower="gemma_3n",
        audio_tower="gemma_3n_audio",
        tied=True,
        harmless=_IMAGE_TOKENS
        | words("audio_token_id boa_token_id eoa_token_id audio_soft_tokens_per_image vision_soft_tokens_per_image"),
    ),
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
        any_text=True,
        tower="pixtral",
        harmless=_IMAGE_TOKENS | words("projector_hidden_act vision_feature_layer"),
    ),
    "minimax_m3_vl": Envelope(
        text="minimax_m3_vl_text",
        ties="either",
        tower="minimax_m3",
        harmless=_IMAGE_TOKENS
        | words(
            "image_grid_pinpoints image_seq_length merged_hidden_size img_token_compression_config "
            "num_reward_heads process_image_mode "
            "projector_hidden_act vision_feature_layer vision_feature_select_strategy"
        ),
    ),
    "step3p7": Envelope(
        ties="top",
        text="step3p7",
        tower="step3p7",
        harmless=_IMAGE_TOKENS | words("understand_projector_stride vision_select_layer"),
    ),
    "llava": Envelope(text="llama", any_text=True, tower="llava", ties="either", harmless=_LLAVA),
    "llava_next": Envelope(text="llama", any_text=True, tower="llava_next", harmless=_LLAVA),
    "llava_onevision": Envelope(text="qwen2", any_text=True, tower="llava_next", ties="either", harmless=_LLAVA),
    "aya_vision": Envelope(text="cohere2", any_text=True, tower="aya", tied=True, harmless=_LLAVA),
    "cohere2_vision": Envelope(text="cohere2", any_text=True, tower="cohere2", tied=True, harmless=_LLAVA),
    "idefics3": Envelope(text="llama", any_text=True, tower="idefics3", harmless=_LLAVA),
    "smolvlm": Envelope(text="llama", any_text=True, tower="idefics3", harmless=_LLAVA),
    "paligemma": Envelope(text="gemma", any_text=True, tower="paligemma", tied=True, harmless=_LLAVA),
    "internvl": Envelope(text="qwen2", any_text=True, tower="internvl", tied=True, harmless=_LLAVA),
    "glm4v": Envelope(text="glm4v_text", tower="glm4v", ties="either", harmless=_IMAGE_TOKENS),
    "glm4v_moe": Envelope(text="glm4v_moe_text", tower="glm4v", ties="either", harmless=_IMAGE_TOKENS),
    "glm46v": Envelope(text="glm4v_text", any_text=True, tower="glm4v", harmless=_IMAGE_TOKENS),
    "kimi_k25": Envelope(
        text="deepseek_v3",
        tower="kimi_k25",
        harmless=_IMAGE_TOKENS | words("media_placeholder_token_id use_unified_vision_chunk video_placeholder"),
    ),
}

# What the class fills in where a nested text section is a name and a few differences; a config of its own says all.
_SEVEN_BILLION = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000,
}  # fmt: skip
NESTED_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "llama": _SEVEN_BILLION | {"intermediate_size": 11008, "max_position_embeddings": 2048},
    "mistral": _SEVEN_BILLION
    | {"intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 4096 * 32},
    "gemma": {"max_position_embeddings": 8192},
}

_OF_TOWERS = ("vision_config", "audio_config")


def nested(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a config of an enveloped type with its text keys nested, as newer releases of transformers write them."""
    envelope = ENVELOPES.get(str(raw.get("model_type")))
    if envelope is None or "text_config" in raw or not any(name in raw for name in _OF_TOWERS):
        return raw
    outside = {*_OF_TOWERS, "model_type", "architectures", *envelope.harmless}
    found = {key: value for key, value in raw.items() if key in outside}
    return found | {"text_config": {key: value for key, value in raw.items() if key not in outside}}


# Where the model type says nothing, the architecture does.
ARCHITECTURES: Names = {"DeepseekV4ForCausalLM": "deepseek_v4"}

# What llama.cpp calls the model of a text config's type; a type that is not here it does not run.
# Source: llama.cpp, src/llama-arch.cpp and conversion/.
GGUF_ARCHITECTURES: Names = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "granite": "granite",
    "nemotron-nas": "deci",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2moe",
    "qwen2_vl_text": "qwen2vl",
    "qwen2_5_vl_text": "qwen2vl",
    "gemma3n_text": "gemma3n",
    "phi": "phi2",
    "cohere": "command-r",
    "cohere2": "cohere2",
    "olmo": "olmo",
    "falcon": "falcon",
    "starcoder2": "starcoder2",
    "bert": "bert",
    "xlm-roberta": "bert",
    "roberta": "bert",
    "modernbert": "modern-bert",
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
    "glm": "chatglm",
    "glm4": "glm4",
    "glm4v_text": "glm4",
    "glm4v_moe_text": "glm4moe",
    "glm4_moe_lite": "deepseek2",
    "ernie4_5": "ernie4_5",
    "ernie4_5_moe": "ernie4_5-moe",
    "exaone4": "exaone4",
    "exaone_moe": "exaone-moe",
    "ministral3": "mistral3",
    "mistral4": "mistral4",
    "apertus": "apertus",
    "arcee": "arcee",
    "afmoe": "afmoe",
    "hunyuan_v1_dense": "hunyuan-dense",
    "hy_v3": "hy_v3",
    "dots1": "dots1",
    "mellum": "mellum",
    "iquestcoder": "llama",
    "gpt-sw3": "gpt2",
    "internlm3": "llama",
    "solar_open": "glm4moe",
    "youtu": "deepseek2",
    "camembert": "bert",
    "jais2": "jais2",
    "bitnet": "bitnet",
    "granitemoe": "granitemoe",
    "granitemoeshared": "granitemoe",
    "bamba": "granitehybrid",
    "falcon_mamba": "mamba",
    "phimoe": "phimoe",
    "gpt2": "gpt2",
    "gpt_bigcode": "starcoder",
    "bloom": "bloom",
    "mpt": "mpt",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2moe",
}


def gguf_architecture(text_type: str, *, has_experts: bool) -> str:
    """Return what llama.cpp calls a model, "none" where it has none; Nemotron-H goes by whether it has experts."""
    if text_type == "nemotron_h":
        return "nemotron_h_moe" if has_experts else "nemotron_h"
    return GGUF_ARCHITECTURES.get(text_type, "none")
