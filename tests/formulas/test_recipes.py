"""Mixes against ``llama-quantize --dry-run``: gguf_mix_sizes.csv, bytes of tensor data.

Source: llama.cpp 0c1e57098, and for the mixes not run there the copy in llama-cpp-python 0.3.36, equal on all others.
``imatrix`` tells whether the run was given an importance matrix; only the mixes that heed one have a row with it.
"""

import csv
import time
import timeit
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramcalc.errors import RefusedError, UnknownNameError, UsageError
from vramcalc.formulas.inventory import n_parameters
from vramcalc.formulas.recipes import (
    ALIASES,
    RECIPES,
    GgufTensor,
    average_bits,
    gguf_groups,
    gguf_tensors,
    resolve_recipe,
)
from vramcalc.sources.registry import model_registry
from vramcalc.specs.formats import GGML
from vramcalc.specs.model import ModelSpec

with (Path(__file__).parent / "gguf_mix_sizes.csv").open(encoding="utf-8", newline="") as file:
    TRUTH = tuple(csv.DictReader(file))


def attention(shape: str, **more: object) -> dict[str, object]:
    """Return full attention of ``"heads/kv_heads/head_dim"``."""
    n_heads, n_kv_heads, head_dim = (int(n) for n in shape.split("/"))
    return {"kind": "full", "n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_dim": head_dim, **more}


def gated(ff_dim: int, **more: object) -> dict[str, object]:
    return {"kind": "gated", "ff_dim": ff_dim, **more}


def experts(active_of_all: str, ff_dim: int, **more: object) -> dict[str, object]:
    n_active, n_experts = (int(n) for n in active_of_all.split("/"))
    return {"kind": "moe", "n_experts": n_experts, "n_active_experts": n_active, "ff_dim": ff_dim, **more}


def uniform(n_layers: int, attention: object, mlp: object, n_norms: int = 2) -> dict[str, object]:
    return {"n_layers": n_layers, "kinds": {"layer": {"attention": attention, "mlp": mlp, "n_norms": n_norms}}}


def dense_first(n_dense: int, n_layers: int, attention: object, mlps: tuple[object, object]) -> dict[str, object]:
    kinds = {name: {"attention": attention, "mlp": mlp} for name, mlp in zip(("dense", "moe"), mlps, strict=True)}
    return {"n_layers": n_layers, "kinds": kinds, "first": ("dense",) * n_dense, "pattern": ("moe",)}


def spec(hidden_dim: int, vocabulary: int, layers: object, **more: object) -> ModelSpec:
    facts: dict[str, object] = {
        "id": "test",
        "name": "Test",
        "family": "test",
        "parameters": {"total": 1, "basis": "derived", "source": "not used here"},
        "context": 8192,
        "license": "other",
        "released": "2024-07",
        "dtype": "bf16",
        "head": "separate",
        "source": "the model's published config.json",
    }
    return ModelSpec.model_validate(
        facts | {"hidden_dim": hidden_dim, "vocabulary": vocabulary, "layers": layers} | more
    )


def latent(n_heads: int, query_rank: int | None) -> dict[str, object]:
    dims = {"latent_dim": 512, "rope_dim": 64, "nope_dim": 128, "v_head_dim": 128}
    return {"kind": "latent", "n_heads": n_heads, "query_rank": query_rank, **dims}


def gemma_3(n_layers: int, hidden_dim: int, shape: str, ff_dim: int) -> ModelSpec:
    heads = attention(shape, qk_norm="per_head")
    kinds = {
        name: {"attention": heads | kind, "mlp": gated(ff_dim), "n_norms": 4}
        for name, kind in (("local", {"kind": "sliding", "window": 1024}), ("global", {}))
    }
    layers = {"n_layers": n_layers, "kinds": kinds, "pattern": ("local",) * 5 + ("global",)}
    tower = {"name": "v.patch_embd", "role": "vision", "shape": (1152, 3, 14, 14), "in_gguf": False}
    return spec(hidden_dim, 262208, layers, head="tied", gguf_vocabulary=262144, extra_tensors=(tower,))


def gpt_oss() -> ModelSpec:
    heads = attention("64/8/64", qkv_bias=True, output_bias=True, sinks=True)
    mlp = experts("4/32", 2880, expert_bias=True, router_bias="parameter")
    kinds = {
        "local": {"attention": heads | {"kind": "sliding", "window": 128}, "mlp": mlp},
        "global": {"attention": heads, "mlp": mlp},
    }
    return spec(2880, 201088, {"n_layers": 24, "kinds": kinds, "pattern": ("local", "global")})


def bge_m3() -> ModelSpec:
    heads = attention("16/16/64", qkv_bias=True, output_bias=True) | {"kind": "bidirectional"}
    extras = (
        {"name": "position_embd", "role": "embedding", "shape": (8194, 1024), "gguf_shape": (8192, 1024)},
        {"name": "token_types", "role": "embedding", "shape": (1, 1024)},
        {"name": "token_embd_norm.weight", "role": "norm", "shape": (1024,)},
        {"name": "token_embd_norm.bias", "role": "norm", "shape": (1024,)},
    )
    layers = uniform(24, heads, {"kind": "plain", "ff_dim": 4096, "bias": True})
    return spec(1024, 250002, layers, head="none", norm="layer", final_norm=False, extra_tensors=extras)


def delta_hybrid(n_layers: int, n_value_heads: int, heads: str, mlp: object, *, fused: bool) -> dict[str, object]:
    """Three gated delta nets, then one attention whose query matrix carries a gate."""
    dims = {"n_key_heads": 16, "n_value_heads": n_value_heads, "key_dim": 128, "value_dim": 128, "conv_kernel": 4}
    kinds = {
        "linear": {"mixer": {"kind": "gated_delta", "fused": fused} | dims, "mlp": mlp},
        "full": {"attention": attention(heads, qk_norm="per_head", output_gate="in_query"), "mlp": mlp},
    }
    return {"n_layers": n_layers, "kinds": kinds, "pattern": ("linear",) * 3 + ("full",)}


def mamba2(n_heads: int) -> dict[str, object]:
    dims = {"head_dim": 64, "n_groups": 1, "state_dim": 128, "conv_kernel": 4}
    return {"kind": "mamba2", "n_heads": n_heads} | dims


def granite_hybrid() -> dict[str, object]:
    mlp = experts("10/72", 768, shared_ff_dim=1536)
    kinds = {"mamba": {"mixer": mamba2(128), "mlp": mlp}, "full": {"attention": attention("32/8/128"), "mlp": mlp}}
    return {"n_layers": 40, "kinds": kinds, "pattern": ("mamba",) * 5 + ("full",) + ("mamba",) * 4}


GQA_8B, GQA_70B = attention("32/8/128"), attention("64/8/128")
MODELS: Mapping[str, ModelSpec] = {
    "llama-3.1-8b": spec(4096, 128256, uniform(32, GQA_8B, gated(14336)), gguf_rope_factors=64),
    "llama-3.3-70b": spec(
        8192, 128256, uniform(80, GQA_70B, gated(28672)), gguf_rope_factors=64, gguf_architecture="llama"
    ),
    "llama-3.2-3b": spec(
        3072, 128256, uniform(28, attention("24/8/128"), gated(8192)), head="tied", gguf_rope_factors=64
    ),
    "qwen3-8b": spec(4096, 151936, uniform(36, attention("32/8/128", qk_norm="per_head"), gated(12288))),
    "qwen2.5-7b": spec(3584, 152064, uniform(28, attention("28/4/128", qkv_bias=True), gated(18944))),
    "qwen2-0.5b": spec(896, 151936, uniform(24, attention("14/2/64", qkv_bias=True), gated(4864)), head="tied"),
    "mistral-7b-v0.3": spec(4096, 32768, uniform(32, GQA_8B, gated(14336))),
    "mixtral-8x7b": spec(4096, 32000, uniform(32, GQA_8B, experts("2/8", 14336))),
    "qwen3-30b-a3b": spec(2048, 151936, uniform(48, attention("32/4/128", qk_norm="per_head"), experts("8/128", 768))),
    "phi-4": spec(5120, 100352, uniform(40, attention("40/10/128", fused=True), gated(17920, fused=True))),
    "gemma-3-4b": gemma_3(34, 2560, "8/4/256", 10240),
    "gemma-3-27b": gemma_3(62, 5376, "32/16/128", 21504),
    "gpt-oss-20b": gpt_oss(),
    "deepseek-v2-lite": spec(
        2048,
        102400,
        dense_first(1, 27, latent(16, None), (gated(10944), experts("6/64", 1408, shared_ff_dim=2 * 1408))),
    ),
    "deepseek-v3": spec(
        7168,
        129280,
        dense_first(
            3,
            61,
            latent(128, 1536),
            (gated(18432), experts("8/256", 2048, shared_ff_dim=2048, router_bias="buffer")),
        ),
    ),
    "bge-m3": bge_m3(),
    "mamba2-2.7b": spec(
        2560, 50288, {"n_layers": 64, "kinds": {"mamba": {"mixer": mamba2(80), "n_norms": 1}}}, head="tied"
    ),
    "granite-4.0-h-small": spec(4096, 100352, granite_hybrid(), head="tied"),
    "qwen3.5-27b": spec(5120, 248320, delta_hybrid(64, 48, "24/4/256", gated(17408), fused=False)),
    "qwen3-next-80b-a3b": spec(
        2048,
        151936,
        delta_hybrid(48, 32, "16/2/256", experts("10/512", 512, shared_ff_dim=512, shared_gate=True), fused=True),
    ),
}


def total_bytes(tensors: tuple[GgufTensor, ...]) -> int:
    return sum(tensor.n_bytes for tensor in tensors)


@cache
def mix_bytes(model: str, recipe: str) -> int:
    return total_bytes(gguf_tensors(MODELS[model], recipe))


def types_of(tensors: tuple[GgufTensor, ...]) -> Counter[str]:
    """Return how many tensors have each type; the experts of a layer are one tensor."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        per_format = 1 if tensor.group.layers else tensor.group.copies
        for fmt in tensor.formats:
            counts[fmt.name] += per_format
    return counts


def format_of(model: str, recipe: str, name: str, layer: int = 0, **options: Any) -> str:
    tensors = gguf_tensors(MODELS[model], recipe, **options)
    formats = {
        index: fmt
        for tensor in tensors
        if tensor.group.name == name
        for index, fmt in zip(tensor.group.layers or (0,), tensor.formats, strict=True)
    }
    return formats[layer].name


def row_id(row: dict[str, str]) -> str:
    return f"{row['model']}: {row['mix']}{' with imatrix' if row['imatrix'] == '1' else ''}"


@pytest.mark.parametrize("row", TRUTH, ids=row_id)
def test_bytes_and_types_equal_the_dry_run(row: dict[str, str]) -> None:
    tensors = gguf_tensors(MODELS[row["model"]], row["mix"], has_imatrix=row["imatrix"] == "1")

    assert int(row["bytes"]) == total_bytes(tensors)
    assert row["histogram"] == " ".join(f"{name}:{n}" for name, n in sorted(types_of(tensors).items()))


@pytest.mark.parametrize("mix", RECIPES)
def test_only_mixes_that_need_an_importance_matrix_take_one_for_granted(mix: str) -> None:
    model = MODELS["llama-3.1-8b"]

    assert gguf_tensors(model, mix) == gguf_tensors(model, mix, has_imatrix=RECIPES[mix].needs_imatrix)


@pytest.mark.parametrize("model", MODELS)
def test_average_bits_equals_the_tool(model: str) -> None:
    row = next(row for row in TRUTH if (row["model"], row["mix"]) == (model, "q4_k_m"))

    assert float(row["bits_per_weight"]) == round(average_bits(MODELS[model], "q4_k_m"), 4)


FALL_BACK_EVERYWHERE = {  # so the tool asks for no importance matrix
    *(("gpt-oss-20b", mix) for mix in ("iq3_xs", "iq3_xxs", "iq2_m", "iq2_s")),
    *(("qwen2-0.5b", mix) for mix in ("iq3_xs", "iq3_xxs")),
}


@pytest.mark.parametrize("row", [row for row in TRUTH if row["imatrix"] == "0"], ids=row_id)
def test_needs_imatrix_equals_the_tool(row: dict[str, str]) -> None:
    needed = row["needs_imatrix"] == "1" or (row["model"], row["mix"]) in FALL_BACK_EVERYWHERE

    assert RECIPES[row["mix"]].needs_imatrix is needed


@pytest.mark.parametrize(
    ("model", "recipe", "name", "layer", "expected"),
    [
        pytest.param("llama-3.1-8b", "q4_k_m", "attn_v", 3, "q6_k", id="more bits: first 32 // 8 layers"),
        pytest.param("llama-3.1-8b", "q4_k_m", "attn_v", 4, "q4_k", id="more bits: (4 - 4) % 3 == 0"),
        pytest.param("llama-3.1-8b", "q4_k_m", "attn_v", 6, "q6_k", id="more bits: (6 - 4) % 3 == 2"),
        pytest.param("llama-3.1-8b", "q4_k_m", "attn_v", 28, "q6_k", id="more bits: from 7 * 32 // 8"),
        pytest.param("llama-3.3-70b", "q4_k_m", "attn_v", 10, "q5_k", id="70B: q4_k raised to q5_k"),
        pytest.param("llama-3.3-70b", "q3_k_s", "attn_v", 0, "q5_k", id="70B: q3_k raised to q5_k"),
        pytest.param("mixtral-8x7b", "q4_k_m", "attn_v", 9, "q8_0", id="eight experts: values in q8_0"),
        pytest.param("mixtral-8x7b", "q4_k_m", "attn_output", 9, "q5_k", id="eight experts: attention output"),
        pytest.param("qwen3-30b-a3b", "q2_k", "attn_v", 0, "q4_k", id="32 / 4 heads: grouped"),
        pytest.param("gemma-3-4b", "q2_k", "attn_v", 0, "q3_k", id="8 / 4 heads: not grouped enough"),
        pytest.param("phi-4", "q5_k_m", "attn_qkv", 0, "q6_k", id="fused: as the values"),
        pytest.param("gemma-3-4b", "q4_k_m", "token_embd", 0, "q6_k", id="tied: the embedding is the head"),
        pytest.param("gpt-oss-20b", "q4_k_m", "ffn_down_exps", 9, "q5_0", id="2880 % 256: q4_k gives way to q5_0"),
        pytest.param("gpt-oss-20b", "iq2_m", "output", 0, "q8_0", id="2880 % 256: the head becomes q8_0, not q5_1"),
        pytest.param("gpt-oss-20b", "mxfp4_moe", "ffn_up_exps", 0, "mxfp4", id="mxfp4_moe: experts"),
        pytest.param("deepseek-v3", "mxfp4_moe", "attn_k_b", 0, "mxfp4", id="mxfp4_moe: MLA's stacked heads too"),
        pytest.param("deepseek-v3", "mxfp4_moe", "ffn_up_shexp", 9, "q8_0", id="mxfp4_moe: shared expert"),
        pytest.param("deepseek-v2-lite", "iq2_m", "ffn_down_shexp", 1, "iq3_s", id="lowest mixes: third ffn_down"),
        pytest.param("deepseek-v2-lite", "iq2_m", "ffn_down_shexp", 2, "iq2_s", id="lowest mixes: fifth ffn_down"),
        pytest.param("deepseek-v3", "q2_k", "ffn_gate_inp", 9, "f32", id="router kept"),
        pytest.param("bge-m3", "q2_k", "position_embd", 0, "f32", id="positions kept"),
        pytest.param("mamba2-2.7b", "q2_k", "ssm_conv1d", 0, "f32", id="convolutions kept"),
        pytest.param("granite-4.0-h-small", "iq4_xs", "attn_v", 5, "iq4_xs", id="no heads in the first layer: 0 / 8"),
        pytest.param("qwen3.5-27b", "iq4_xs", "attn_qkv", 0, "q5_k", id="heads of the attention layers: 24 / 4"),
    ],
)
def test_rules_one_by_one(model: str, recipe: str, name: str, layer: int, expected: str) -> None:
    assert expected == format_of(model, recipe, name, layer)


@pytest.mark.parametrize(
    ("architecture", "raised"),
    [
        ("llama", True),
        ("deci", True),
        ("qwen2", True),
        ("olmo", True),
        ("falcon", False),
        ("qwen3", False),
        (None, False),
    ],
)
def test_what_counts_as_a_70b_goes_by_architecture(architecture: str | None, raised: bool) -> None:
    model = MODELS["llama-3.3-70b"].model_copy(update={"gguf_architecture": architecture})
    values = next(t for t in gguf_tensors(model, "q4_k_m") if t.group.name == "attn_v")

    assert (values.formats[10].name == "q5_k") is raised


@pytest.mark.parametrize(
    ("recipe", "name", "layer", "expected"),
    [
        pytest.param("q4_k_m", "token_embd", 0, "q8_0", id="its embedding serves as head: q8_0"),
        pytest.param("q4_k_m", "ffn_down", 2, "q6_k", id="the first sixteenth: 60 // 16 = 3 layers"),
        pytest.param("q4_k_m", "ffn_down", 3, "q5_k", id="then q5_k where others get q6_k"),
        pytest.param("q4_k_m", "ffn_down", 8, "q4_k", id="and the base"),
        pytest.param("q4_k_s", "ffn_down", 0, "q4_k", id="nothing raised"),
        pytest.param("q3_k_l", "attn_output", 30, "q4_k", id="q4_k, not q5_k"),
        pytest.param("q3_k_m", "attn_output", 30, "q3_k", id="not raised"),
        pytest.param("q2_k", "ffn_down", 30, "q3_k", id="as any other's"),
    ],
)
def test_falcon_has_rules_of_its_own(recipe: str, name: str, layer: int, expected: str) -> None:
    falcon = model_registry().resolve("falcon-40b")
    tensor = next(t for t in gguf_tensors(falcon, recipe) if t.group.name == name)

    assert tensor.formats[layer].name == expected


def test_four_experts_or_more_spare_the_values_of_the_lowest_mixes() -> None:
    def value_type(mlp: object) -> str:
        model = spec(2048, 50304, uniform(16, attention("16/16/128"), mlp))
        return next(t.formats[0].name for t in gguf_tensors(model, "iq2_m") if t.group.name == "attn_v")

    assert value_type(experts("2/4", 1024)) == "q4_k"
    assert value_type(experts("2/3", 1024)) == value_type(gated(1024)) == "iq3_s"


def test_dense_models_count_their_tensors_not_their_layers() -> None:
    kinds = {
        name: {"attention": GQA_8B, "mlp": mlp}
        for name, mlp in (("plain", {"kind": "plain", "ff_dim": 8192}), ("gated", gated(8192)))
    }
    layers = {"n_layers": 8, "kinds": kinds, "first": ("plain",) * 4, "pattern": ("gated",)}
    gates = next(t for t in gguf_tensors(spec(4096, 32000, layers), "iq3_xs") if t.group.name == "ffn_gate")

    # gates 0 to 3 of layers 4 to 7; iq3_xxs from 8 // 8
    assert [fmt.name for fmt in gates.formats] == ["iq3_s", "iq3_xxs", "iq3_xxs", "iq3_xxs"]


@pytest.mark.parametrize(
    ("recipe", "name", "without", "with_one"),
    [
        ("iq4_xs", "ffn_down", "q5_k", "iq4_xs"),
        ("q4_0", "ffn_down", "q4_0", "q4_1"),
        ("q5_0", "ffn_down", "q5_0", "q5_1"),
        ("iq3_xxs", "ffn_down", "q4_k", "iq3_xxs"),
    ],
)
def test_an_importance_matrix_shifts_the_first_layers(recipe: str, name: str, without: str, with_one: str) -> None:
    assert without == format_of("llama-3.1-8b", recipe, name, has_imatrix=False)
    assert with_one == format_of("llama-3.1-8b", recipe, name, has_imatrix=True)


@pytest.mark.parametrize("alias", ALIASES)
def test_alias_is_the_medium_mix(alias: str) -> None:
    assert resolve_recipe(alias.upper()) is RECIPES[f"{alias}_m"]


def test_gguf_drops_padding_rows_and_towers_and_carries_rope_factors() -> None:
    gemma, llama, bge = (gguf_groups(MODELS[name]) for name in ("gemma-3-4b", "llama-3.1-8b", "bge-m3"))

    assert gemma[0].shape == (262144, 2560)
    assert all(group.role not in ("vision", "head") for group in gemma)
    assert [group.n_elements for group in llama if group.name == "rope_freqs.weight"] == [64]
    assert [group.shape for group in bge if group.name == "position_embd"] == [(8192, 1024)]


def test_gguf_carries_the_router_bias_that_no_count_includes() -> None:
    model = MODELS["deepseek-v3"]
    in_file = sum(group.n_elements for group in gguf_groups(model))

    assert in_file == n_parameters(model) + 58 * 256


@pytest.mark.parametrize("model", MODELS)
def test_layers_and_the_rest_sum_to_the_file(model: str) -> None:
    tensors = gguf_tensors(MODELS[model], "q4_k_m")
    outside = sum(tensor.n_bytes for tensor in tensors if not tensor.group.layers)
    inside = sum(t.layer_bytes(layer) for t in tensors for layer in range(MODELS[model].layers.n_layers))

    assert total_bytes(tensors) == inside + outside


def test_roles_get_the_types_they_are_given() -> None:
    mix = "attn=q8_0, mlp=q4_k, experts=iq4_xs, head=f16"
    given_types = {name: format_of("qwen3-30b-a3b", mix, name) for name in ("attn_q", "ffn_up_exps", "output")}

    assert given_types == {"attn_q": "q8_0", "ffn_up_exps": "iq4_xs", "output": "f16"}
    assert format_of("qwen3-30b-a3b", mix, "token_embd") == "q4_k"  # as the mlp
    assert format_of("qwen3-30b-a3b", mix, "ffn_gate_inp") == "f32"
    assert format_of("deepseek-v3", mix, "ffn_up_shexp", 9) == "q4_k"


@pytest.mark.parametrize(("mix", "expected"), [("head=q6_k", "q6_k"), ("head=q6_k,embed=q8_0", "q8_0")])
def test_tied_embedding_takes_the_type_of_the_head(mix: str, expected: str) -> None:
    assert expected == format_of("gemma-3-4b", f"attn=q4_k,mlp=q4_k,{mix}", "token_embd")


def test_types_of_a_role_fall_back_too() -> None:
    assert format_of("gpt-oss-20b", "attn=q4_k,mlp=q4_k", "attn_q") == "q5_0"
    assert format_of("gpt-oss-20b", "attn=q4_k,mlp=q4_k", "attn_output") == "q4_k"  # 64 * 64 columns


@pytest.mark.parametrize(("mix", "needed"), [("attn=q4_k,mlp=iq2_s", True), ("attn=q4_k,mlp=q4_k,embed=iq2_s", False)])
def test_role_mix_tells_whether_it_needs_an_importance_matrix(mix: str, needed: bool) -> None:
    assert resolve_recipe(mix).needs_imatrix is needed


ROLE_TYPES = st.sampled_from(sorted(GGML.keys() - {"q8_k"}))


@given(
    types=st.fixed_dictionaries(
        {"attn": ROLE_TYPES, "mlp": ROLE_TYPES},
        optional=dict.fromkeys(("experts", "shared_experts", "embed", "head"), ROLE_TYPES),
    )
)
def test_a_role_mix_lies_between_its_smallest_and_largest_type(types: dict[str, str]) -> None:
    # all columns of this model are multiples of 256, so no type falls back
    low, high = (pick(types.values(), key=lambda name: GGML[name].bits) for pick in (min, max))
    mixed = mix_bytes("qwen3-30b-a3b", ",".join(f"{key}={name}" for key, name in types.items()))

    assert mix_bytes("qwen3-30b-a3b", f"attn={low},mlp={low}") <= mixed
    assert mixed <= mix_bytes("qwen3-30b-a3b", f"attn={high},mlp={high}")


@given(model=st.sampled_from(sorted(MODELS)), recipe=st.sampled_from(sorted(RECIPES)))
def test_every_mix_stays_below_full_precision(model: str, recipe: str) -> None:
    tensors = gguf_tensors(MODELS[model], recipe)

    assert tuple(t.group for t in tensors) == gguf_groups(MODELS[model])
    assert all(len(t.formats) == max(1, len(t.group.layers)) for t in tensors)
    assert mix_bytes(model, recipe) <= mix_bytes(model, "f32") == 4 * sum(t.group.n_elements for t in tensors)


@given(name=st.text(st.characters(exclude_characters="="), max_size=12))
def test_unknown_names_are_refused(name: str) -> None:
    if name.strip().lower() in RECIPES.keys() | ALIASES.keys():
        return
    with pytest.raises(UnknownNameError, match="no weight format is called"):
        resolve_recipe(name)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("q4_k_n", "no weight format is called 'q4_k_n'"),
        ("attn=q4_k,mlp=q9_k", "no weight format is called 'q9_k'"),
        ("attn=q4_k,mlp=q8_k", "no weight format is called 'q8_k'"),
        ("attn=q4_k,mpl=q4_k", "no role of a mix is called 'mpl'"),
        ("attn=q4_k,q4_k", "no role of a mix is called 'q4_k'"),
        ("attn=q4_k", "has no type for mlp"),
        ("embed=q4_k", "has no type for attn and mlp"),
        ("attn=q4_k,mlp=q4_k,attn=q8_0", "names attn twice"),
    ],
)
def test_mixes_that_make_no_sense(text: str, fact: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve_recipe(text)

    assert fact in str(error.value)
    assert error.value.hint or "twice" in fact


def test_what_llama_quantize_refuses_is_refused() -> None:
    odd = spec(1000, 32000, uniform(2, attention("10/10/100"), gated(4096)))

    with pytest.raises(RefusedError, match="1000 columns are no multiple of 32"):
        gguf_tensors(odd, "q8_0")


def test_columns_that_nothing_divides_stay_f16() -> None:
    odd = spec(1000, 32000, uniform(2, attention("10/10/100"), gated(4096)))
    types = {t.group.name: t.formats[0].name for t in gguf_tensors(odd, "attn=q4_k,mlp=q4_k")}

    assert types["ffn_up"] == "f16"  # 1000 columns
    assert types["ffn_down"] == "q4_k"  # 4096 columns


def test_the_largest_model_takes_little_time() -> None:
    def build() -> int:
        return total_bytes(gguf_tensors(MODELS["deepseek-v3"], "q4_k_m"))

    # processor time, and the best of many: another process on the machine must not decide
    assert min(timeit.repeat(build, timer=time.process_time, number=1, repeat=50)) < 0.005
