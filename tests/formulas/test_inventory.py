"""Tensors counted from shapes against counts other people publish."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramcalc.formulas.inventory import n_active_parameters, n_parameters, parameters_by_role, tensor_groups
from vramcalc.formulas.kv_cache import kv_bytes_per_token, window_of
from vramcalc.ledger import Basis
from vramcalc.sources.registry import model_registry
from vramcalc.specs.formats import F16, GGML
from vramcalc.specs.model import ModelSpec

REGISTRY = model_registry()
MODELS = list(REGISTRY.search())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_every_entry_counts_what_its_source_states(model: ModelSpec) -> None:
    assert n_parameters(model) == model.parameters.total
    assert model.source
    assert model.parameters.source
    assert sum(parameters_by_role(model).values()) == model.parameters.total


def test_enough_entries_have_a_witness_other_than_our_formula() -> None:
    exact = [model for model in MODELS if model.parameters.basis is Basis.EXACT]

    assert len(exact) >= 100
    assert not any("formula" in model.parameters.source for model in exact)


@pytest.mark.parametrize(
    ("model_id", "total"),
    [
        pytest.param("deepseek-r1-8b", 8_030_261_248, id="2*128256*4096 + 32*(41943040 + 3*4096*14336 + 8192) + 4096"),
        pytest.param("qwen3-8b", 8_190_735_360, id="with a norm per head"),
        pytest.param("llama-3.2-3b", 3_212_749_824, id="tied embeddings counted once"),
        pytest.param("gpt-oss-20b", 20_914_757_184, id="expert biases and sinks"),
        pytest.param("deepseek-r1", 671_026_404_352, id="latent attention, no prediction layer, no router buffer"),
        pytest.param("gemma-3-27b", 27_432_406_640, id="27009002240 text + 64*5376 rows + SigLIP + projector"),
        pytest.param("bge-m3", 567_754_752, id="encoder with positions and pooler"),
    ],
)
def test_published_counts(model_id: str, total: int) -> None:
    assert n_parameters(REGISTRY.resolve(model_id)) == total


@pytest.mark.parametrize(
    ("model_id", "bytes_per_token"),
    [
        pytest.param("llama-3.1-8b", 131_072, id="grouped: 32 * 2 * 8 * 128 * 2"),
        pytest.param("llama-3.1-70b", 327_680, id="grouped: 80 * 2 * 8 * 128 * 2"),
        pytest.param("llama-2-7b", 524_288, id="every head: 32 * 2 * 32 * 128 * 2"),
        pytest.param("deepseek-v3", 70_272, id="latent: 61 * (512 + 64) * 2"),
        pytest.param("bge-m3", 0, id="an encoder caches nothing"),
    ],
)
def test_cached_bytes_per_token(model_id: str, bytes_per_token: int) -> None:
    model = REGISTRY.resolve(model_id)
    kinds = [model.layers.kinds[name].attention for name in model.layers.order()]

    assert sum(kv_bytes_per_token(kind, F16, F16) for kind in kinds) == bytes_per_token


def test_quantised_cache_rows_are_whole_blocks() -> None:
    attention = next(iter(REGISTRY.resolve("llama-3.1-8b").layers.kinds.values())).attention

    assert kv_bytes_per_token(attention, GGML["q8_0"], GGML["q4_0"]) == 1024 // 32 * (34 + 18)


def test_windows_are_stated() -> None:
    kinds = REGISTRY.resolve("gemma-3-27b").layers
    windows = [window_of(kinds.kinds[name].attention) for name in kinds.order()]

    assert len(windows) == 62
    assert [windows.count(1024), windows.count(None)] == [52, 10]  # five local layers for each global one


@pytest.mark.parametrize("model_id", ["gpt-oss-120b", "deepseek-r1", "kimi-k2"])
def test_experts_are_counted_not_enumerated(model_id: str) -> None:
    model = REGISTRY.resolve(model_id)
    start = time.perf_counter()
    for _ in range(10):
        tensor_groups(model)

    assert (time.perf_counter() - start) / 10 < 0.005


@given(n_experts=st.integers(1, 64), active=st.integers(1, 64), ff=st.integers(1, 512), shared=st.integers(0, 512))
def test_idle_experts_are_not_active(n_experts: int, active: int, ff: int, shared: int) -> None:
    active = min(active, n_experts)
    base = REGISTRY.resolve("mixtral-8x7b").model_dump()
    kind = next(iter(base["layers"]["kinds"].values()))
    kind["mlp"] = {
        "kind": "moe",
        "n_experts": n_experts,
        "n_active_experts": active,
        "ff_dim": ff,
        "shared_ff_dim": shared,
    }
    model = ModelSpec.model_validate(base)

    idle = (n_experts - active) * 3 * ff * model.hidden_dim * model.layers.n_layers
    assert n_parameters(model) - n_active_parameters(model) == idle
