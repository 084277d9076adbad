"""Dialects of config.json: released shapes count what the hub prints, and what a class fills in is never guessed.

Source: the counts are Hugging Face's of each release, or what transformers 5.23.0 counts when it builds the class that
the config names; configs are reduced to the keys that say a shape.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vramcalc.engines import bind_engine
from vramcalc.engines.base import Setup
from vramcalc.errors import BadInputError, RefusedError
from vramcalc.estimation import estimate_outcome
from vramcalc.formulas.inventory import n_parameters
from vramcalc.sources._config.dialects import DIALECTS, ENVELOPES
from vramcalc.sources.config_json import read_config
from vramcalc.sources.registry import gpu_registry
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec
from vramcalc.specs.workload import Workload

BUILT = Path(__file__).parent / "configs" / "built"
_CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip
BERT = {
    "model_type": "bert", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 512, "max_position_embeddings": 512, "vocab_size": 30522, "type_vocab_size": 2,
}  # fmt: skip
RELEASED: dict[str, tuple[int, dict[str, Any]]] = {
    "bigscience/bloom-7b1": (
        7_069_016_064,
        {"model_type": "bloom", "n_embed": 4096, "n_layer": 30, "num_attention_heads": 32, "seq_length": 2048,
         "vocab_size": 250880},
    ),
    "mosaicml/mpt-7b": (
        6_649_286_656,
        {"model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32, "expansion_ratio": 4,
         "max_seq_len": 2048, "no_bias": True, "vocab_size": 50432, "attn_config": {"alibi": True, "qk_ln": False}},
    ),
    "openai-community/gpt2": (
        124_439_808,
        {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "n_ctx": 1024,
         "vocab_size": 50257},
    ),
    "EleutherAI/gpt-neo-1.3B": (
        1_315_575_808,
        {"model_type": "gpt_neo", "hidden_size": 2048, "num_heads": 16, "num_layers": 24, "window_size": 256,
         "attention_types": [[["global", "local"], 12]], "max_position_embeddings": 2048, "vocab_size": 50257},
    ),
    "facebook/opt-1.3b": (
        1_315_758_080,
        {"model_type": "opt", "hidden_size": 2048, "ffn_dim": 8192, "num_attention_heads": 32,
         "num_hidden_layers": 24, "max_position_embeddings": 2048, "word_embed_proj_dim": 2048, "vocab_size": 50272},
    ),
    "bigcode/starcoder": (
        15_517_456_384,
        {"model_type": "gpt_bigcode", "n_embd": 6144, "n_head": 48, "n_inner": 24576, "n_layer": 40,
         "n_positions": 8192, "multi_query": True, "vocab_size": 49152},
    ),
    "LiquidAI/LFM2-1.2B": (
        1_170_340_608,
        {"model_type": "lfm2", "hidden_size": 2048, "block_ff_dim": 12288, "full_attn_idxs": [2, 5, 8, 10, 12, 14],
         "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 16, "vocab_size": 65536,
         "max_position_embeddings": 128000},
    ),
    "llava-hf/llava-1.5-7b-hf": (  # the text section is a name and a difference: the class is Llama 2 7B
        7_063_427_072,
        {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}, "vision_config": _CLIP},
    ),
    "llava-hf/llava-v1.6-mistral-7b-hf": (
        7_566_747_648,
        {"model_type": "llava_next", "vision_config": _CLIP,
         "text_config": {"model_type": "mistral", "num_key_value_heads": 8, "vocab_size": 32064}},
    ),
    "mistral-community/pixtral-12b": (
        12_682_739_712,
        {"model_type": "llava", "vision_config": {"model_type": "pixtral", "patch_size": 16},
         "text_config": {"model_type": "mistral", "hidden_size": 5120, "head_dim": 128, "intermediate_size": 14336,
                         "num_hidden_layers": 40, "num_key_value_heads": 8, "vocab_size": 131072}},
    ),
    "google/paligemma-3b-pt-224": (
        2_923_466_480,
        {"model_type": "paligemma", "projection_dim": 2048,
         "text_config": {"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "vocab_size": 257216,
                         "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1},
         "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
                           "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False}},
    ),
    "answerdotai/ModernBERT-base": (
        149_655_232,
        {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "hidden_size": 768,
         "intermediate_size": 1152, "num_attention_heads": 12, "num_hidden_layers": 22, "decoder_bias": True,
         "max_position_embeddings": 8192, "vocab_size": 50368},
    ),
    "BAAI/bge-m3": (
        567_754_752,
        {"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "hidden_size": 1024,
         "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24, "type_vocab_size": 1,
         "max_position_embeddings": 8194, "vocab_size": 250002},
    ),
    "intfloat/e5-mistral-7b-instruct": (  # no head: 7241732096 less 32000 * 4096
        7_110_660_096,
        {"model_type": "mistral", "architectures": ["MistralModel"], "hidden_size": 4096, "intermediate_size": 14336,
         "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 32000,
         "max_position_embeddings": 32768},
    ),
    "baidu/ERNIE-4.5-21B-A3B-PT": (
        21_825_437_888,
        {"model_type": "ernie4_5_moe", "hidden_size": 2560, "intermediate_size": 12288, "num_attention_heads": 20,
         "num_key_value_heads": 4, "num_hidden_layers": 28, "moe_num_experts": 64, "moe_num_shared_experts": 2,
         "moe_layer_start_index": 1, "moe_layer_end_index": 27, "moe_layer_interval": 1, "moe_k": 6,
         "moe_intermediate_size": 1536, "max_position_embeddings": 131072, "vocab_size": 103424},
    ),
    "microsoft/Phi-3.5-MoE-instruct": (
        41_873_153_344,
        {"model_type": "phimoe", "attention_bias": True, "lm_head_bias": True, "hidden_size": 4096,
         "intermediate_size": 6400, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32,
         "num_local_experts": 16, "num_experts_per_tok": 2, "max_position_embeddings": 131072, "vocab_size": 32064},
    ),
    "ibm-granite/granite-3.1-3b-a800m-instruct": (
        3_298_793_472,
        {"model_type": "granitemoe", "hidden_size": 1536, "intermediate_size": 512, "num_attention_heads": 24,
         "num_key_value_heads": 8, "num_hidden_layers": 32, "num_local_experts": 40, "num_experts_per_tok": 8,
         "tie_word_embeddings": True, "max_position_embeddings": 131072, "vocab_size": 49155},
    ),
    "swiss-ai/Apertus-8B-2509": (
        8_053_338_176,
        {"model_type": "apertus", "hidden_size": 4096, "intermediate_size": 21504, "num_attention_heads": 32,
         "num_key_value_heads": 8, "num_hidden_layers": 32, "max_position_embeddings": 65536, "vocab_size": 131072},
    ),
}  # fmt: skip


def read(folder: Path, config: dict[str, Any]) -> ModelSpec:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return read_config(folder)


def built(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((BUILT / f"{name}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(("total", "config"), RELEASED.values(), ids=RELEASED)
def test_released_models_count_what_the_hub_prints(tmp_path: Path, total: int, config: dict[str, Any]) -> None:
    assert n_parameters(read(tmp_path / "m", config)) == total


@pytest.mark.parametrize(
    ("name", "outer", "inner", "tied"),
    [
        pytest.param("llava_next", False, True, False, id="the outer flag is the one followed"),
        pytest.param("llava_next", True, False, True, id="both ways"),
        pytest.param("llava_next", None, True, True, id="the text's own where the outer one is missing"),
        pytest.param("llava", False, True, True, id="classes that hand the text's on"),
        pytest.param("qwen2_vl", False, True, True, id="as do these"),
        pytest.param("step3p7", None, True, False, id="a class that has none, and does not look"),
        pytest.param("gemma3", None, None, True, id="the class's own where nobody says"),
    ],
)
def test_the_head_of_nested_configs(
    tmp_path: Path, name: str, outer: bool | None, inner: bool | None, tied: bool
) -> None:
    config = built(name)
    for section, flag in ((config, outer), (config["text_config"], inner)):
        section.pop("tie_word_embeddings", None)
        if flag is not None:
            section["tie_word_embeddings"] = flag

    assert read(tmp_path / "m", config).head == ("tied" if tied else "separate")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        pytest.param("qwen3", "num_key_value_heads", id="a class with a number of its own"),
        pytest.param("qwen2_moe", "shared_expert_intermediate_size", id="a width that is not zero"),
        pytest.param("deepseek_v2", "n_shared_experts", id="a count that is not zero"),
        pytest.param("deepseek_v2", "q_lora_rank", id="left out is not null"),
        pytest.param("qwen3_next", "num_experts", id="no experts is not the default"),
    ],
)
def test_a_fact_that_a_class_fills_in_is_asked_for(tmp_path: Path, name: str, key: str) -> None:
    config = built(name)
    config.pop(key, None)

    with pytest.raises(BadInputError, match=f"key '{key}' is missing"):
        read(tmp_path / "m", config)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("deepseek_v4", {"n_shared_experts": 2}),
        ("helium", {"head_dim": 64}),
        ("opt", {"word_embed_proj_dim": 512}),
        ("opt", {"do_layer_norm_before": False}),
        ("mpt", {"no_bias": False}),
        ("hy_v3", {"mlp_bias": True}),
        ("ernie4_5_moe", {"use_bias": True}),
        ("bert", {"tie_word_embeddings": False}),
        ("modernbert", {"norm_bias": True}),
        ("internlm3", {"qkv_bias": True}),
    ],
)
def test_variants_nobody_counted_are_refused(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    config = built(name) if (BUILT / f"{name}.json").is_file() else built("llama") | {"model_type": name}

    with pytest.raises(BadInputError):
        read(tmp_path / "m", config | change)


@pytest.mark.parametrize(
    ("architecture", "extra"),
    [
        pytest.param("BertModel", 128 * 128 + 128, id="a pooler: 128*128 + 128"),
        pytest.param("BertForMaskedLM", 128 * 128 + 128 + 256 + 30522, id="dense, norm, a bias per token"),
        pytest.param("BertForSequenceClassification", 128 * 128 + 128 + 2 * 128 + 2, id="pooler and two labels"),
    ],
)
def test_an_encoders_head_is_that_of_its_class(tmp_path: Path, architecture: str, extra: int) -> None:
    embeddings = (30522 + 512 + 2) * 128 + 256
    layers = 2 * (4 * (128 * 128 + 128) + 2 * 128 * 512 + 512 + 128 + 2 * 256)

    model = read(tmp_path / "m", BERT | {"architectures": [architecture]})

    assert n_parameters(model) == embeddings + layers + extra


def test_every_dialect_is_reached() -> None:
    assert {envelope.text for envelope in ENVELOPES.values()} <= DIALECTS.keys()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.sampled_from(["glm", "ernie4_5", "gpt2", "lfm2", "afmoe", "bamba", "internvl", "modernbert"]),
    vocabulary=st.integers(100, 300_000),
)
def test_the_vocabulary_moves_the_embedding_and_the_head_alone(tmp_path: Path, name: str, vocabulary: int) -> None:
    config = built(name)
    section = config.get("text_config", config)
    before, old = read(tmp_path / "m", config), section["vocab_size"]
    section["vocab_size"] = vocabulary
    after = read(tmp_path / "m", config)

    per_token = before.hidden_dim * (2 if before.head == "separate" else 1) + (name == "modernbert")
    assert n_parameters(after) - n_parameters(before) == (vocabulary - old) * per_token


@pytest.mark.parametrize(
    ("name", "engine", "said"),
    [
        pytest.param("opt", "llama.cpp", "not known to have its architecture", id="no name in llama.cpp"),
        pytest.param("opt", "ollama", "not known to have its architecture", id="nor in Ollama"),
        pytest.param("modernbert", "llama.cpp", "norms before each part", id="an encoder of another order"),
        pytest.param("lfm2", "llama.cpp", "short_conv layers", id="short convolutions"),
        pytest.param("lfm2", "vllm", "short_conv layers", id="there too"),
        pytest.param("afmoe", "ollama", "gated attention output", id="a gate nobody measured"),
    ],
)
def test_engines_refuse_what_they_do_not_account_for(name: str, engine: str, said: str) -> None:
    machine = Machine(gpus=(gpu_registry().resolve("rtx4090"),))

    with pytest.raises(RefusedError, match=said):
        bind_engine(engine, Setup(read_config(BUILT / f"{name}.json"), machine))


@pytest.mark.parametrize("name", ["glm4", "ernie4_5", "exaone4", "gpt2", "bloom", "granitemoe", "llava", "internvl"])
@pytest.mark.parametrize("engine", ["llama.cpp", "ollama", "vllm"])
def test_a_config_is_enough_for_an_estimate(name: str, engine: str) -> None:
    load = Workload(n_context=1024)
    machine = Machine(gpus=(gpu_registry().resolve("rtx4090"),))

    outcome = estimate_outcome(bind_engine(engine, Setup(read_config(BUILT / f"{name}.json"), machine)), machine, load)

    assert outcome.verdict == "fits"
