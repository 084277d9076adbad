"""Tensors counted from shapes against counts other people publish."""

import time
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramcalc.formulas.inventory import (
    n_active_parameters,
    n_mtp_parameters,
    n_parameters,
    next_token_groups,
    parameters_by_role,
    tensor_groups,
)
from vramcalc.formulas.kv_cache import (
    compressed_rows,
    indexer_row_elements,
    kv_bytes_per_token,
    state_elements,
    window_of,
)
from vramcalc.ledger import Basis
from vramcalc.sources.registry import model_registry
from vramcalc.specs.formats import F16, GGML
from vramcalc.specs.model import (
    ChunkedAttention,
    CompressedAttention,
    FullAttention,
    GatedDelta,
    KimiDelta,
    LayerKind,
    Mamba1,
    Mamba2,
    Mixer,
    ModelSpec,
)

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
        pytest.param("qwen3.5-27b", 65_536, id="one layer of four: 16 * 2 * 4 * 256 * 2"),
        pytest.param("gemma-4-26b-a4b", 225_280, id="values that are keys are cached: (25*8*256 + 5*2*512) * 2 * 2"),
        pytest.param("nemotron-3-nano-30b-a3b", 6_144, id="6 attention layers of 52: 6 * 2 * 2 * 128 * 2"),
        pytest.param("mamba2-2.7b", 0, id="a state only"),
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


@pytest.mark.parametrize(
    "model_id", ["gpt-oss-120b", "deepseek-r1", "kimi-k2", "deepseek-v4-flash", "llama-3.3-nemotron-super-49b"]
)
def test_experts_are_counted_not_enumerated(model_id: str) -> None:
    model = REGISTRY.resolve(model_id)

    # processor time, and the best of many: another process on the machine must not decide
    assert min(timeit.repeat(lambda: tensor_groups(model), timer=time.process_time, number=1, repeat=50)) < 0.005


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


PRINTED = [model for model in REGISTRY.search("") if model.active is not None and model.active.printed]


@pytest.mark.parametrize("model", PRINTED, ids=lambda model: model.id)
def test_active_parameters_round_to_what_the_publisher_prints(model: ModelSpec) -> None:
    assert model.active is not None
    printed = str(model.active.printed)
    digits = len(printed.partition(".")[2]) - 1 if "." in printed else 0

    assert f"{n_active_parameters(model) / 1e9:.{digits}f}B" == printed


def test_nearly_every_model_with_experts_has_a_printed_number() -> None:
    assert {m.id for m in REGISTRY.search("") if m.is_moe} - {m.id for m in PRINTED} == {
        *("glm-5.3", "glm-5.3-fp8", "glm-5.3-nvfp4"),  # nobody's number was found
    }


def test_unless_the_publisher_says_otherwise_looked_up_embeddings_do_not_count() -> None:
    model = REGISTRY.resolve("gpt-oss-20b")
    silent = model.model_copy(update={"active": None})

    assert n_active_parameters(silent.model_copy(update={"head": "tied"})) == n_active_parameters(silent)
    assert n_parameters(model) - n_active_parameters(silent) == 201_088 * 2880 + 24 * 28 * (
        3 * 2880 * 2880 + 3 * 2880  # matrices and biases of an idle expert
    )


@pytest.mark.parametrize(
    ("model_id", "n_tokens", "n_bytes"),
    [
        pytest.param("qwen3.5-27b", 64, 159_121_408, id="48 states, 16 caches"),
        pytest.param("qwen3.5-27b", 4096, 423_362_560, id="states do not grow"),
        pytest.param("qwen3.5-122b-a10b", 4096, 255_197_184, id="64 value heads"),
        pytest.param("qwen3.5-397b-a17b", 64, 195_133_440, id="45 states"),
        pytest.param("nemotron-3-nano-30b-a3b", 64, 49_758_208, id="23 mamba2 states"),
        pytest.param("nemotron-3-nano-30b-a3b", 4096, 74_530_816, id="and 6 caches"),
        pytest.param("nemotron-h-56b", 4096, 1_082_589_184, id="54 mamba2 states in f32, 10 caches"),
        pytest.param("deepseek-v3.2", 64, 5_496_832, id="61 * (512 + 64 + 128) * 64 * 2"),
        pytest.param("glm-5.3", 4096, 390_070_272, id="21 indexers of 78 layers"),
    ],
)
def test_state_and_cache_equal_what_transformers_keeps(model_id: str, n_tokens: int, n_bytes: int) -> None:
    """bf16 throughout but for the recurrent state, f32; it keeps one input of the convolution more than others do."""
    model = REGISTRY.resolve(model_id)
    total = 0
    for name in model.layers.order():
        kind = model.layers.kinds[name]
        total += n_tokens * (kv_bytes_per_token(kind.attention, F16, F16) + 2 * indexer_row_elements(kind.attention))
        if kind.mixer is not None:
            state = state_elements(kind.mixer)
            total += 2 * (state.conv // (kind.mixer.conv_kernel - 1) * kind.mixer.conv_kernel) + 4 * state.recurrent

    assert total == n_bytes


@pytest.mark.parametrize(
    ("mixer", "conv", "recurrent"),
    [
        pytest.param(
            Mamba1(kind="mamba1", inner_dim=8192, state_dim=16, conv_kernel=4, time_step_rank=256),
            24_576,
            131_072,
            id="mamba1: 3 * 8192, 8192 * 16",
        ),
        pytest.param(
            Mamba2(kind="mamba2", n_heads=128, head_dim=64, n_groups=1, state_dim=128, conv_kernel=4),
            25_344,
            1_048_576,
            id="mamba2: 3 * (8192 + 2 * 128), 8192 * 128",
        ),
        pytest.param(
            GatedDelta(kind="gated_delta", n_key_heads=16, n_value_heads=32, key_dim=128, value_dim=128, conv_kernel=4),
            24_576,
            524_288,
            id="gated delta: 3 * (2*16*128 + 32*128), 32 * 128 * 128",
        ),
        pytest.param(
            KimiDelta(kind="kimi_delta", n_heads=32, head_dim=128, conv_kernel=4),
            36_864,
            524_288,
            id="kimi delta: 3 * 3 * 4096, 32 * 128 * 128",
        ),
        pytest.param(None, 0, 0, id="none"),
    ],
)
def test_state_of_one_sequence(mixer: Mixer | None, conv: int, recurrent: int) -> None:
    state = state_elements(mixer)

    assert (state.conv, state.recurrent) == (conv, recurrent)


def test_windows_of_the_new_kinds() -> None:
    kinds = REGISTRY.resolve("llama-4-scout-17b-16e").layers
    attentions = [kinds.kinds[name].attention for name in kinds.order()]

    assert [window_of(a) for a in attentions[:4]] == [8192, 8192, 8192, None]
    assert sum(isinstance(a, ChunkedAttention) for a in attentions) == 36


def test_compressed_rows() -> None:
    kinds = REGISTRY.resolve("deepseek-v4-flash").layers
    attentions = [kinds.kinds[name].attention for name in kinds.order()]
    rows = [compressed_rows(a) for a in attentions]

    assert [r.ratio if r else None for r in rows[:4]] == [None, None, 4, 128]
    assert [(r.row_elements, r.indexer_elements) for r in rows if r and r.ratio == 4] == [(512, 128)] * 21
    assert [(r.row_elements, r.indexer_elements) for r in rows if r and r.ratio == 128] == [(512, 0)] * 20
    assert all(window_of(a) == 128 for a in attentions if isinstance(a, CompressedAttention))


def test_a_layer_that_shares_a_cache_has_no_keys_of_its_own() -> None:
    own = FullAttention(kind="full", n_heads=8, n_kv_heads=2, head_dim=64, qk_norm="per_head")
    base = REGISTRY.resolve("llama-3.2-1b")
    counts = [
        n_parameters(base.model_copy(update={"layers": base.layers.model_copy(update={"kinds": {"decoder": kind}})}))
        for kind in (
            LayerKind(attention=own),
            LayerKind(attention=own.model_copy(update={"shares_cache": True})),
            LayerKind(attention=own.model_copy(update={"v_is_k": True})),
        )
    ]

    assert counts[0] - counts[1] == 16 * (2 * 2 * 64 * 2048 + 64)
    assert counts[0] - counts[2] == 16 * 2 * 64 * 2048
    assert kv_bytes_per_token(own.model_copy(update={"shares_cache": True}), F16, F16) == 0


@pytest.mark.parametrize("model", [m for m in MODELS if m.next_token_layers], ids=lambda model: model.id)
def test_prediction_layers_stand_after_the_others(model: ModelSpec) -> None:
    groups = next_token_groups(model)

    assert n_mtp_parameters(model) > 0
    assert {group.layers[0] for group in groups} == {model.layers.n_layers}
    assert not {group.name for group in tensor_groups(model)} & {"nextn.eh_proj"}


@given(
    n_heads=st.integers(1, 64),
    head_dim=st.integers(1, 128),
    n_groups=st.integers(1, 8),
    state=st.integers(1, 256),
    kernel=st.integers(1, 8),
)
def test_mamba2_tensors_follow_its_state(n_heads: int, head_dim: int, n_groups: int, state: int, kernel: int) -> None:
    mixer = Mamba2(
        kind="mamba2", n_heads=n_heads, head_dim=head_dim, n_groups=n_groups, state_dim=state, conv_kernel=kernel
    )
    base = REGISTRY.resolve("mamba2-2.7b").model_dump()
    base["layers"] = {"n_layers": 1, "kinds": {"only": {"mixer": mixer.model_dump(), "n_norms": 1}}}
    groups = {g.name: g for g in tensor_groups(ModelSpec.model_validate(base))}
    inner = n_heads * head_dim

    assert groups["ssm_in"].shape == (2 * inner + 2 * n_groups * state + n_heads, 2560)
    assert state_elements(mixer).conv == (kernel - 1) * groups["ssm_conv1d"].shape[0]
    assert state_elements(mixer).recurrent == inner * state


@pytest.mark.parametrize(
    ("model_id", "features"),
    [
        ("llama-3.1-8b", set()),
        ("deepseek-v3", set()),
        ("gpt-oss-20b", set()),
        ("deepseek-v3.2", {"indexer"}),
        ("llama-4-scout-17b-16e", {"chunked attention"}),
        ("gemma-4-26b-a4b", {"values that are keys", "dense MLP beside experts"}),
        ("qwen3.5-27b", {"recurrent state", "layers without attention", "gated attention output"}),
        ("glm-5.3", {"indexer", "attention shapes that differ from layer to layer"}),
    ],
)
def test_features_tell_engines_what_to_account_for(model_id: str, features: set[str]) -> None:
    assert REGISTRY.resolve(model_id).features() == features
