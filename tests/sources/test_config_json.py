"""Models read from published configs count what others count, and what is not known is refused by name.

Source: parameter_counts.csv holds what transformers 5.23.0 counts when it builds each config without weights.
"""

import contextlib
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vramcalc.errors import AppError, BadInputError, ExitCode, UnavailableError
from vramcalc.formulas.inventory import n_active_parameters, n_mtp_parameters, n_parameters, parameters_by_role
from vramcalc.formulas.weights import stored_tensors
from vramcalc.ledger import Basis
from vramcalc.sources._config.formats import METHODS
from vramcalc.sources._config.keys import HARMLESS
from vramcalc.sources.config_json import read_config
from vramcalc.sources.registry import model_registry
from vramcalc.specs.model import FullAttention, ModelSpec

CONFIGS = Path(__file__).parent / "configs"
ALL = sorted(path.stem for path in CONFIGS.glob("*.json") if "hf_quant" not in path.name)
with (Path(__file__).parent / "parameter_counts.csv").open(encoding="utf-8", newline="") as file:
    COUNTS = tuple(csv.DictReader(file))
with (Path(__file__).parent / "built_counts.csv").open(encoding="utf-8", newline="") as file:
    BUILT = tuple(csv.DictReader(file))


def raw(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def write(folder: Path, config: object, beside: object = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if beside is not None:
        (folder / "hf_quant_config.json").write_text(json.dumps(beside), encoding="utf-8")
    return folder


@pytest.mark.parametrize("row", COUNTS, ids=lambda row: row["config"])
def test_counts_equal_those_of_transformers(row: dict[str, str]) -> None:
    model = read_config(CONFIGS / f"{row['config']}.json")
    roles = parameters_by_role(model)

    assert model.parameters.total == n_parameters(model) == int(row["total"])
    assert model.parameters.basis is Basis.DERIVED
    assert roles.get("embedding", 0) == int(row["embedding"])
    assert roles.get("head", 0) == int(row["head"])
    assert roles["norm"] == int(row["norm"])
    assert roles.get("vision", 0) + roles.get("projector", 0) == int(row["vision"])


@pytest.mark.parametrize("row", BUILT, ids=lambda row: row["config"])
def test_types_without_a_published_config_count_what_transformers_builds(row: dict[str, str]) -> None:
    assert n_parameters(read_config(CONFIGS / "built" / f"{row['config']}.json")) == int(row["total"])


@pytest.mark.parametrize("name", ALL)
def test_the_registry_has_the_same_shape(name: str) -> None:
    read, kept = read_config(CONFIGS / f"{name}.json"), model_registry().resolve(name.replace("__", "/"))
    if name == "MiniMaxAI__MiniMax-M3":  # the text model alone; the entry counts the tower too
        assert n_parameters(read) == n_parameters(kept) - 865_567_232
        return

    assert n_parameters(read) == n_parameters(kept)
    assert n_active_parameters(read) == n_active_parameters(kept)
    assert [read.layers.kinds[k].mixer for k in read.layers.order()] == [
        kept.layers.kinds[k].mixer for k in kept.layers.order()
    ]
    assert [read.layers.kinds[k].attention for k in read.layers.order()] == [
        kept.layers.kinds[k].attention for k in kept.layers.order()
    ]
    assert read.context == kept.context
    assert read.gguf_architecture == (kept.gguf_architecture or "none")


@pytest.mark.parametrize(
    ("name", "total"),
    [
        pytest.param("nvidia__Llama-3_3-Nemotron-Super-49B-v1", 49_867_145_216, id="a width for each layer"),
        pytest.param("moonshotai__Kimi-K2-Instruct", 1_026_408_209_408, id="Hugging Face's count less router biases"),
        pytest.param("XiaomiMiMo__MiMo-7B-Base", 7_622_619_136, id="biases of Q, K and V, not of the output"),
    ],
)
def test_counts_published_elsewhere(name: str, total: int) -> None:
    assert n_parameters(read_config(CONFIGS / f"{name}.json")) == total


@pytest.mark.parametrize(
    ("name", "n_mtp"),
    [
        pytest.param(
            "deepseek-ai__DeepSeek-V3",
            11_610_067_968,
            id="187107328 + 257*3*7168*2048 + 256*7168 + 2*7168*7168 + 5*7168",
        ),
        pytest.param("Qwen__Qwen3.5-27B", 424_699_392, id="104858112 + 3*5120*17408 + 2*5120*5120 + 5*5120"),
        pytest.param("Qwen__Qwen3-8B", 0, id="none"),
    ],
)
def test_multi_token_prediction_is_counted_apart(name: str, n_mtp: int) -> None:
    assert n_mtp_parameters(read_config(CONFIGS / f"{name}.json")) == n_mtp


@pytest.mark.parametrize(
    ("name", "fmt"),
    [
        ("Qwen__Qwen3-8B", None),
        ("Qwen__Qwen3-30B-A3B-FP8", "fp8-block"),
        ("Qwen__Qwen3-32B-FP8-Static-PerTensor", "fp8"),
        ("openai__gpt-oss-20b", "mxfp4"),
        ("nvidia__GLM-5.1-NVFP4", "nvfp4"),
        ("nvidia__MiniMax-M3-NVFP4", "nvfp4"),
        ("deepseek-ai__DeepSeek-V4-Flash", "fp8-mxfp4"),
        ("sgl-project__DeepSeek-V4-Flash-FP8", "fp8-block"),
    ],
)
def test_checkpoint_formats(name: str, fmt: str | None) -> None:
    assert read_config(CONFIGS / f"{name}.json").checkpoint_format == fmt


@pytest.mark.parametrize(
    ("name", "fmt"),
    [("nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4", "nvfp4"), ("nvidia__DeepSeek-V4-Flash-NVFP4", "fp8-block")],
)
def test_hf_quant_config_beside_it_is_read(tmp_path: Path, name: str, fmt: str) -> None:
    beside = json.loads((CONFIGS / f"{name}.hf_quant_config.json").read_text(encoding="utf-8"))

    assert read_config(write(tmp_path / name, raw(name), beside)).checkpoint_format == fmt


@pytest.mark.parametrize(
    ("section", "fmt"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq-4bit"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "gptq-8bit"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}, "gptq-4bit-g32-actorder"),
        ({"quant_method": "gptq", "bits": 3, "group_size": -1}, "gptq-3bit-channel"),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "awq-4bit-g64"),
        ({"quant_method": "fp8", "weight_block_size": [64, 32]}, "fp8-block-64x32"),
        ({"quant_method": "fbgemm_fp8"}, "fp8-channel"),
        ({"quant_method": "exl2", "bits": 4.25, "head_bits": 8}, "exl2-4.25bpw-h8"),
        ({"quant_method": "exl3", "bits": 3.5}, "exl3-3.5bpw"),
        ({"bits": 4, "group_size": 32, "mode": "affine"}, "mlx-4bit-g32"),
        ({"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_gptq"}, "gptq-4bit"),
        ({"quant_algo": "W4A16_AWQ", "group_size": 64}, "w4a16-g64"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "nf4-dq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "llm-int8"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4, "group_size": 128}}},
            },
            "w4a16",
        ),
    ],
)
def test_methods_by_their_parameters(tmp_path: Path, section: dict[str, object], fmt: str) -> None:
    folder = write(tmp_path / "m", raw("Qwen__Qwen3-8B") | {"quantization_config": section})

    assert read_config(folder).checkpoint_format == fmt


def with_list(tmp_path: Path, name: str) -> Path:
    """Write a config as it is published, its hf_quant_config.json beside it where it has one."""
    beside = CONFIGS / f"{name}.hf_quant_config.json"
    return write(tmp_path / name, raw(name), json.loads(beside.read_text("utf-8")) if beside.is_file() else None)


@pytest.mark.parametrize("name", [name for name in ALL if "NVFP4" in name or "FP8" in name])
def test_the_registry_stores_the_same_tensors_apart(tmp_path: Path, name: str) -> None:
    read, kept = read_config(with_list(tmp_path, name)), model_registry().resolve(name.replace("__", "/"))

    assert read.checkpoint_format == kept.checkpoint_format
    assert file_bytes(read) == file_bytes(kept)
    assert read.stored_apart == kept.stored_apart


def file_bytes(model: ModelSpec) -> int:
    return sum(tensor.n_bytes for tensor in stored_tensors(model, model.checkpoint_format or model.dtype))


@pytest.mark.parametrize(
    ("name", "n_bytes"),
    [
        pytest.param(
            "nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4", 19_323_958_224, id="recurrent layers in part, no attention"
        ),
    ],
)
def test_exclusion_lists_leave_what_vllm_allocates(tmp_path: Path, name: str, n_bytes: int) -> None:
    assert file_bytes(read_config(with_list(tmp_path, name))) == pytest.approx(n_bytes, rel=1e-4)


@pytest.mark.parametrize(
    ("section", "kept"),
    [
        pytest.param({"quant_method": "fp8", "modules_to_not_convert": ["o_proj"]}, ("attn_output",), id="one part"),
        pytest.param({"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["self_attn"]}, (), id="a role"),
        pytest.param(
            {"quant_method": "gptq", "bits": 4, "dynamic": {"-:.*\\.down_proj": {}}}, ("ffn_down",), id="GPTQModel"
        ),
    ],
)
def test_lists_of_modules(tmp_path: Path, section: dict[str, object], kept: tuple[str, ...]) -> None:
    model = read_config(write(tmp_path / "m", raw("Qwen__Qwen3-8B") | {"quantization_config": section}))

    assert len(model.stored_apart) == 1
    assert model.stored_apart[0].format == "kept"
    assert model.stored_apart[0].tensors == kept
    assert model.stored_apart[0].roles == (() if kept else ("attention",))


def test_single_layers_are_left_out_and_others_quantised_otherwise(tmp_path: Path) -> None:
    section = {
        "quant_method": "compressed-tensors",
        "format": "mixed-precision",
        "ignore": ["lm_head", "re:.*layers\\.(0|35)\\..*"],
        "config_groups": {
            "group_0": {
                "format": "pack-quantized",
                "targets": ["re:.*self_attn.*"],
                "weights": {"type": "int", "num_bits": 8, "strategy": "channel", "symmetric": True},
            },
            "group_1": {
                "format": "pack-quantized",
                "targets": ["Linear"],
                "weights": {"type": "int", "num_bits": 4, "group_size": 32, "strategy": "group", "symmetric": False},
            },
        },
    }
    model = read_config(write(tmp_path / "m", raw("Qwen__Qwen3-8B") | {"quantization_config": section}))
    roles = {(t.role, t.storage): t.n_elements for t in stored_tensors(model, str(model.checkpoint_format))}

    assert model.checkpoint_format == "w4a16-g32-asym"
    assert [(rule.format, rule.layers) for rule in model.stored_apart] == [("kept", "0,35"), ("w8a16", "1-34")]
    assert {storage for role, storage in roles if role == "attention"} == {"bf16", "w8a16"}
    assert {storage for role, storage in roles if role == "head"} == {"bf16"}


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("Qwen__Qwen3-8B", {"num_extra_experts": 4}, "num_extra_experts"),
        ("Qwen__Qwen3-8B", {"moe_intermediate_size": 768}, "moe_intermediate_size"),
        ("Qwen__Qwen3-8B", {"num_key_value_heads": 5}, "n_kv_heads=5"),
        ("Qwen__Qwen3-8B", {"hidden_size": None}, "hidden_size"),
        ("Qwen__Qwen3-8B", {"hidden_size": "4096"}, "hidden_size"),
        ("Qwen__Qwen3-8B", {"model_type": "qwen9"}, "qwen9"),
        ("Qwen__Qwen3-8B", {"rope_scaling": {"rope_type": "spiral"}}, "spiral"),
        ("Qwen__Qwen3-8B", {"quantization_config": {"quant_method": "magic"}}, "magic"),
        ("Qwen__Qwen3-8B", {"quantization_config": {"quant_method": "awq", "bits": 3, "group_size": 128}}, "bits"),
        (
            "Qwen__Qwen3-8B",
            {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 48}},
            "group_size",
        ),
        ("Qwen__Qwen3-8B", {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64]}}, "64"),
        (
            "Qwen__Qwen3-8B",
            {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.1.ghost"]}},
            "ghost",
        ),
        ("Qwen__Qwen3-8B", {"quantization_config": {"quant_method": "hqq", "nbits": 4}}, "hqq"),
        ("Qwen__Qwen3-8B", {"quantization_config": {"quant_method": "fp8", "head_bits": 6}}, "head_bits"),
        (
            "Qwen__Qwen3-8B",
            {"quantization_config": {"quant_method": "gptq", "bits": 4, "modules_in_block_to_quantize": [["q_proj"]]}},
            "modules_in_block_to_quantize",
        ),
        (
            "Qwen__Qwen3-8B",
            {
                "quantization_config": {
                    "quant_method": "auto-round",
                    "bits": 4,
                    "packing_format": "auto_round:auto_gptq",
                    "extra_config": {"lm_head": {"bits": 8}},
                }
            },
            "extra_config",
        ),
        ("Qwen__Qwen3-8B", {"quantization_config": {"bits": 4, "group_size": 64, "mode": "mxfp4"}}, "mxfp4"),
        (
            "Qwen__Qwen3-8B",
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "sparsity_config": {"format": "sparse-24-bitmask"},
                    "config_groups": {"group_0": {"targets": ["Linear"]}},
                }
            },
            "sparse-24",
        ),
        (
            "Qwen__Qwen3-8B",
            {"quantization_config": {"quant_method": "fp8", "ignore": ["re:(a+)+$"]}},
            "(a+)+$",
        ),
        ("openai__gpt-oss-20b", {"layer_types": ["sideways_attention"] * 24}, "sideways_attention"),
        ("openai__gpt-oss-20b", {"layer_types": ["full_attention"] * 23}, "23 layers of 24"),
        ("openai__gpt-oss-20b", {"experts_per_token": 8}, "experts_per_token"),
        ("zai-org__GLM-5.3", {"indexer_types": ["full"] * 77 + ["half"]}, "half"),
        ("zai-org__GLM-5.3", {"mlp_layer_types": ["wide"] * 78}, "wide"),
        ("deepseek-ai__DeepSeek-V3", {"index_n_heads": 64}, "index_n_heads"),
        ("deepseek-ai__DeepSeek-V4-Flash", {"compress_ratios": [8] * 44}, "compress_ratios"),
        ("nvidia__Nemotron-H-56B-Base-8K", {"hybrid_override_pattern": "MX" * 59}, "X"),
        ("deepseek-ai__DeepSeek-V3", {"attention_bias": True}, "attention_bias"),
        ("Qwen__Qwen3-8B", {"add_cross_attention": True}, "add_cross_attention"),
        ("Qwen__Qwen3-8B", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("Qwen__Qwen3-8B", {"architectures": ["Qwen3ForSequenceClassification"]}, "architectures"),
        ("MiniMaxAI__MiniMax-M2.5", {"qk_norm_type": "per_head"}, "qk_norm_type"),
        ("nvidia__Nemotron-H-56B-Base-8K", {"attention_head_dim": "wide"}, "attention_head_dim"),
        ("built/falcon", {"alibi": True}, "alibi"),
        ("built/bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("built/gemma3n_text", {"intermediate_size": [1024] * 9 + [2048]}, "intermediate_size"),
        ("built/falcon_h1", {"mamba_d_ssm": 3}, "mamba_d_ssm"),
    ],
)
def test_what_is_not_known_is_refused_by_name(tmp_path: Path, name: str, change: dict[str, object], named: str) -> None:
    with pytest.raises(BadInputError) as caught:
        read_config(write(tmp_path / "m", raw(name) | change))

    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code is ExitCode.BAD_INPUT


@pytest.mark.parametrize("section", ["text_config", "vision_config"])
def test_nested_sections_are_as_strict(tmp_path: Path, section: str) -> None:
    config = raw("Qwen__Qwen3.5-27B")
    config[section]["n_ghosts"] = 3

    with pytest.raises(BadInputError, match=f"{section}: key 'n_ghosts'"):
        read_config(write(tmp_path / "m", config))


def test_an_audio_tower_is_refused(tmp_path: Path) -> None:
    config = raw("google__gemma-4-26B-A4B") | {"audio_config": {"hidden_size": 1024}}

    with pytest.raises(BadInputError, match="audio_config"):
        read_config(write(tmp_path / "m", config))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1]", "no object"),
        (b"{", "no JSON"),
        (b'{"a":' + b"[" * 40 + b"]" * 40 + b"}", "nested"),
        (b"[" * 100_000, "no JSON"),
        (b" " * ((8 << 20) + 1), "larger than 8 MiB"),
    ],
    ids=["list", "cut", "deep", "very deep", "large"],
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(BadInputError, match=said):
        read_config(tmp_path)


def test_a_missing_file_could_not_be_reached(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        read_config(tmp_path)


def test_widths_of_gemma_4_that_reuses_caches(tmp_path: Path) -> None:
    config = raw("google__gemma-4-26B-A4B")
    text = config["text_config"] | {
        "enable_moe_block": False,
        "num_kv_shared_layers": 10,
        "use_double_wide_mlp": True,
        "hidden_size_per_layer_input": 256,
    }
    plain, reusing = (
        read_config(write(tmp_path / str(i), config | {"text_config": t}))
        for i, t in enumerate((config["text_config"] | {"enable_moe_block": False}, text))
    )
    # of the last 10 layers 8 are sliding (8 heads of 256), 2 full (2 of 512, values are keys): no K, V, norm of K;
    # MLPs twice as wide; and an embedding of each token for each layer
    caches = 8 * (2 * 2048 * 2816 + 256) + 2 * (1024 * 2816 + 512)
    per_layer = 262144 * 30 * 256 + 30 * 256 * 2816 + 256 + 30 * (2 * 256 * 2816 + 2816)

    assert n_parameters(reusing) - n_parameters(plain) == 10 * 3 * 2112 * 2816 + per_layer - caches


def test_a_head_dim_that_is_stated_goes_before_the_class(tmp_path: Path) -> None:
    wide = read_config(write(tmp_path / "m", raw("nvidia__Nemotron-H-56B-Base-8K") | {"attention_head_dim": 256}))

    assert {k.attention.head_dim for k in wide.layers.kinds.values() if isinstance(k.attention, FullAttention)} == {256}


KEYS = st.from_regex(r"[a-z_]{3,20}", fullmatch=True).filter(lambda key: key not in HARMLESS)

NESTED = [name for name in ALL if {"text_config", "vision_config"} & raw(name).keys()]


@given(name=st.sampled_from(NESTED), section=st.sampled_from(("text_config", "vision_config")), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_every_unknown_key_of_a_section_is_named(tmp_path: Path, name: str, section: str, data: st.DataObject) -> None:
    config = raw(name)
    key = data.draw(KEYS) + "_ghost"
    if section in config:
        config[section][key] = data.draw(st.sampled_from((1, [2], "x", True)))
        with pytest.raises(BadInputError, match=key):
            read_config(write(tmp_path / "m", config))


WITH_TYPES = [name for name in ALL if "layer_types" in (raw(name).get("text_config") or raw(name))]


@given(name=st.sampled_from(WITH_TYPES), where=st.integers(0, 200), kind=st.text("abcdefghij_", min_size=4, max_size=9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_every_unknown_layer_type_is_named(tmp_path: Path, name: str, where: int, kind: str) -> None:
    config = raw(name)
    types = config.get("text_config", config)["layer_types"]
    types[where % len(types)] = kind

    with pytest.raises(BadInputError, match=kind):
        read_config(write(tmp_path / "m", config))


@given(method=st.text("abcdefghijklmnop-", min_size=3, max_size=12).filter(lambda text: text not in METHODS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_every_unknown_method_is_named(tmp_path: Path, method: str) -> None:
    config = raw("Qwen__Qwen3-8B") | {"quantization_config": {"quant_method": method, "bits": 4, "group_size": 128}}

    with pytest.raises(BadInputError, match=method):
        read_config(write(tmp_path / "m", config))


@given(
    patterns=st.lists(st.text("abm.*()[]+|\\\\dlayers0123", max_size=40), max_size=4),
    key=st.sampled_from(("modules_to_not_convert", "ignore")),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=1000, max_examples=50)
def test_lists_of_junk_are_read_or_refused_in_time(tmp_path: Path, patterns: list[str], key: str) -> None:
    section = {"quant_method": "fp8", key: [*patterns, *(f"re:{pattern}" for pattern in patterns)]}
    with contextlib.suppress(AppError):
        read_config(write(tmp_path / "m", raw("Qwen__Qwen3-0.6B") | {"quantization_config": section}))


@given(name=st.sampled_from(("Qwen__Qwen3-8B", "deepseek-ai__DeepSeek-V3.2", "openai__gpt-oss-20b")), key=KEYS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_unknown_key_is_named(tmp_path: Path, name: str, key: str) -> None:
    with pytest.raises(BadInputError, match=key):
        read_config(write(tmp_path / "m", raw(name) | {key: 1}))


JUNK = st.one_of(st.none(), st.booleans(), st.integers(-2, 1 << 50), st.floats(), st.text(max_size=3), st.just([[1]]))


@given(name=st.sampled_from(ALL), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_junk_is_read_or_refused_but_never_a_crash(tmp_path: Path, name: str, data: st.DataObject) -> None:
    config = raw(name)
    section = config["text_config"] if data.draw(st.booleans()) and "text_config" in config else config
    section[data.draw(st.sampled_from(sorted(section)))] = data.draw(JUNK)
    with contextlib.suppress(AppError):
        read_config(write(tmp_path / "m", config))
