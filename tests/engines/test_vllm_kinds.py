"""vLLM's rules for layers beyond full, sliding and latent attention, figure by figure."""

from typing import Any

import pytest
from tests.arithmetic import evaluate
from tests.engines.vllm_models import MODELS, gqa, machine, model

from vramcalc.engines import bind_engine
from vramcalc.engines.base import Pool, Setup
from vramcalc.errors import RefusedError
from vramcalc.estimation import estimate_outcome
from vramcalc.ledger import Basis, Component, Ledger, Line
from vramcalc.sources.registry import model_registry
from vramcalc.specs.model import ModelSpec
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB

REGISTRY = model_registry()


def ledger_of(
    spec: ModelSpec, gpu: str = "h100", n: int = 1, fmt: str | None = None, version: str | None = None, **load: Any
) -> Ledger:
    bound = bind_engine("vllm", Setup(spec, machine(gpu, n), fmt, version))
    return estimate_outcome(bound, machine(gpu, n), Workload(**{"n_context": 4096, **load})).ledger


def pool_of(name: str, gpu: str = "h100", n: int = 1, **load: Any) -> Pool:
    bound = bind_engine("vllm", Setup(MODELS[name], machine(gpu, n)))
    proposal = bound.propose(Workload(n_context=4096, kv_cache_memory_bytes=8 * GIB, **load))
    pool = bound.pool(proposal, bound.bill(proposal))
    assert pool
    return pool


def line_of(ledger: Ledger, component: Component) -> Line:
    (line,) = ledger.on("gpu0").of_component(component).lines
    assert evaluate(line.formula, line.values) == line.n_bytes
    assert line.source
    return line


@pytest.mark.parametrize(
    ("name", "gpu", "states", "blocks", "block_bytes"),
    [
        # Qwen 3.5: a state of 61440 + 4 x 786432 bytes in 832 or 784 tokens of 4096; 16 layers a group
        pytest.param("Qwen3.5-27B", "h100", 3 * 3, 5, 16 * 832 * 4096, id="delta net with checkpoints"),
        pytest.param("Qwen3.5-27B", "rtx5090", 3 * 3, 5, 16 * 832 * 4096, id="with checkpoints on Blackwell cards too"),
        pytest.param("Qwen3.5-27B", "rtx4090", 3 * 2, 6, 16 * 784 * 4096, id="delta net without"),
        pytest.param("Qwen3-Next-80B", "h100", 3 * 3, 8, 12 * 576 * 2048, id="state in 16 bits"),
        pytest.param("Nemotron-3-Nano-30B", "a100", 4 * 3, 2, 6 * 2096 * 1024, id="Mamba-2: 23 layers in 4 groups"),
        pytest.param("Nemotron-H-56B", "h100", 6 * 3, 1, 10 * 4128 * 4096, id="groups of 9 charged as the 10"),
    ],
)
def test_states_are_whole_blocks(name: str, gpu: str, states: int, blocks: int, block_bytes: int) -> None:
    ledger = ledger_of(MODELS[name], gpu, kv_cache_memory_bytes=8 * GIB, n_sequences=2)
    state, cache = line_of(ledger, Component.STATE), line_of(ledger, Component.KV_CACHE)

    assert state.n_bytes == 2 * states * block_bytes
    assert cache.n_bytes == (2 * blocks + 1) * block_bytes
    assert state.basis is Basis.EXACT
    assert "padded to an attention page" in state.why


def test_without_prefix_caching_a_request_holds_one_state_per_layer() -> None:
    ledger = ledger_of(MODELS["Qwen3.5-27B"], kv_cache_memory_bytes=8 * GIB, prefix_caching=False)

    # one state in each of 3 groups; blocks of ceil(3207168 / (16 x 4096)) x 16 = 784 tokens, checkpoints or not
    assert line_of(ledger, Component.STATE).n_bytes == 3 * 16 * 784 * 4096


def test_states_stay_as_they_are_while_the_context_grows() -> None:
    short, long = (ledger_of(MODELS["Qwen3.5-27B"], n_context=n) for n in (1024, 65536))

    assert line_of(short, Component.STATE) == line_of(long, Component.STATE)
    assert line_of(short, Component.KV_CACHE).n_bytes < line_of(long, Component.KV_CACHE).n_bytes


@pytest.mark.parametrize(
    ("gpu", "kv", "row"),
    [
        pytest.param("h100", "auto", 1152 + 132, id="16 bits and an 8-bit key with its scale"),
        pytest.param("h100", "fp8", 656 + 132, id="fp8 with scales and 16-bit rope"),
        pytest.param("b200", "fp8", 576 + 132, id="plain fp8"),
        pytest.param("rtxpro6000", "auto", 1152 + 132, id="Blackwell cards have a sparse kernel of their own"),
    ],
)
def test_an_indexer_caches_its_own_keys(gpu: str, kv: str, row: int) -> None:
    ledger = ledger_of(MODELS["DeepSeek-V3.2"], gpu, 8, k_format=kv)

    assert line_of(ledger, Component.KV_CACHE).n_bytes == (4096 // 64 + 1) * 61 * 64 * row


def test_layers_that_reuse_a_choice_have_no_key() -> None:
    glm = REGISTRY.resolve("glm-5.3")
    indexed = sum("indexer" in glm.layers.kinds[name].features() for name in glm.layers.order())
    ledger = ledger_of(glm, "h200", 8)

    assert 0 < indexed < glm.layers.n_layers
    total = glm.layers.n_layers * 1152 + indexed * 132
    assert line_of(ledger, Component.KV_CACHE).n_bytes == (4096 // 64 + 1) * 64 * total


def test_a_chunk_reserves_for_tokens_in_flight() -> None:
    ledger = ledger_of(MODELS["Llama-4-Scout"], n=8, n_context=131072, step_tokens=2048, max_num_seqs=256)

    # 12 full layers and three groups of 12 chunked: 8192 and 2 x 2048 tokens, no block for a misaligned edge
    assert line_of(ledger, Component.KV_CACHE).n_bytes == (8192 + 3 * 768 + 1) * 12 * 16 * 2 * 128 * 2


def test_compressed_caches_lie_side_by_side_in_a_block() -> None:
    ledger = ledger_of(MODELS["DeepSeek-V4-Flash"], n=8, step_tokens=2048, max_num_seqs=256)

    # two groups of windows, the compressed past, rings of 8 and 128 tokens; 21 x (37440 + 8640) + 20 x 1728 a block
    blocks = 2 * (4096 // 64 + 1) + 16 + (1026 - 1) + (4096 // 8 + 1)
    assert line_of(ledger, Component.KV_CACHE).n_bytes == (blocks + 1) * 1_002_240
    assert pool_of("DeepSeek-V4-Flash", n=8).block_tokens == 4


def test_groups_of_b_and_c_are_copied_to_ranks_they_do_not_divide() -> None:
    mixer = {"kind": "mamba2", "n_heads": 64, "head_dim": 64, "n_groups": 1, "state_dim": 128, "conv_kernel": 4}
    kinds = {
        "linear": {"mixer": mixer, "n_norms": 1},
        "full": {"attention": gqa(32, 4, 128), "n_norms": 1},
    }
    spec = model("bamba", 2048, 32000, {"n_layers": 4, "kinds": kinds, "pattern": ("linear", "full")}, ((8192, 128),))
    ledger = ledger_of(spec, n=4)
    state, weights = line_of(ledger, Component.STATE), line_of(ledger, Component.WEIGHTS)

    # (4096 + 2 x 4 groups x 128) / 4 x 3 inputs and 16 x 64 x 128 numbers, in 16 bits
    assert f"a layer's {1280 * 3 * 2 + 131072 * 2} bytes" in state.why
    # into gate, 1280 convolved and 16 time steps; kernel and bias; steps, D and (f32) A; out
    elements = (1024 + 1280 + 16) * 2048 + 1280 * 5 + 2 * 16 + 2 * 16 + 2048 * 1024
    assert weights.values["recurrent"] == 2 * 2 * elements


@pytest.mark.parametrize(
    ("name", "gpu", "n", "version", "load", "words"),
    [
        pytest.param("deepseek-v3.2", "rtx4090", 8, None, {}, "no sparse attention", id="no kernel on Ada"),
        pytest.param("deepseek-v4-flash", "b200", 8, None, {}, "no sparse attention", id="V4 on Hopper alone"),
        pytest.param("deepseek-v4-flash", "h100", 8, None, {"pipeline_parallel": 2}, "PP 2", id="V4 in stages"),
        pytest.param("qwen3.5-27b", "h100", 1, "0.19", {}, "vLLM 0.19", id="older planner"),
        pytest.param("minimax-m3", "h100", 8, None, {}, "plain attention", id="indexer over plain attention"),
        pytest.param("mamba2-2.7b", "h100", 1, None, {}, "no attention", id="states alone"),
        pytest.param("qwen3-next-80b-a3b", "h100", 32, None, {"tensor_parallel": 32}, "TP 32", id="heads of a state"),
    ],
)
def test_what_no_rule_covers_is_refused(
    name: str, gpu: str, n: int, version: str | None, load: dict[str, Any], words: str
) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        ledger_of(REGISTRY.resolve(name), gpu, n, version=version, **load)

    assert caught.value.hint


def test_nvfp4_that_no_release_describes_is_refused() -> None:
    with pytest.raises(RefusedError, match="16 bits"):
        bind_engine("vllm", Setup(REGISTRY.resolve("qwen3.5-27b"), machine("h100", 1), "nvfp4"))


@pytest.mark.parametrize(
    ("name", "n_ranks", "n_bytes"),
    [
        ("qwen3-235b-a22b-nvfp4", 4, 33_611_242_368),
        ("nemotron-3-nano-30b-a3b-nvfp4", 1, 19_323_958_368),
        ("deepseek-v3.2-nvfp4", 8, 52_447_527_988),
    ],
)
def test_nvfp4_releases_take_what_the_model_classes_allocate(name: str, n_ranks: int, n_bytes: int) -> None:
    ledger = ledger_of(REGISTRY.resolve(name), "h100", n_ranks, tensor_parallel=n_ranks)
    values = next(line for line in ledger.on("gpu0").lines if line.component is Component.WEIGHTS).values
    changes = ("latent_copies", "expert_padding")

    assert sum(n for part, n in values.items() if part not in changes) == pytest.approx(n_bytes, rel=5e-4)


def test_groups_that_ranks_split_unevenly_are_refused() -> None:
    mixer = {"kind": "mamba2", "n_heads": 64, "head_dim": 64, "n_groups": 6, "state_dim": 128, "conv_kernel": 4}
    kinds = {"linear": {"mixer": mixer}, "full": {"attention": gqa(32, 4, 128)}}
    spec = model("odd", 2048, 32000, {"n_layers": 4, "kinds": kinds, "pattern": ("linear", "full")}, ((8192, 128),))

    with pytest.raises(RefusedError, match="6 groups"):
        ledger_of(spec, n=4, tensor_parallel=4)


def test_mixers_nobody_has_checked_are_refused() -> None:
    mixer = {"kind": "mamba1", "inner_dim": 2048, "state_dim": 16, "conv_kernel": 4, "time_step_rank": 64}
    kinds = {"linear": {"mixer": mixer}, "full": {"attention": gqa(16, 4, 64)}}
    spec = model("jamba", 1024, 32000, {"n_layers": 4, "kinds": kinds, "pattern": ("linear", "full")}, ((8192, 64),))

    with pytest.raises(RefusedError, match="mamba1"):
        ledger_of(spec)


def test_values_that_are_keys_have_a_matrix_and_towers_of_gemma_4_are_whole() -> None:
    whole, half = (line_of(ledger_of(MODELS["Gemma-4-26B-A4B"], n=n), Component.WEIGHTS).values for n in (1, 2))

    # 25 layers of Q and K, V for 16 and 8 heads of 256, 5 of 16 and 2 of 512 with V as wide as K; head norms
    wide, narrow = 2816 * 512 * (2 * 16 + 2 * 2), 2816 * 256 * (2 * 16 + 2 * 8)
    assert whole["attention"] == 2 * (25 * narrow + 5 * wide)
    assert whole["vision"] == half["vision"]
    assert whole["projector"] == half["projector"]


@pytest.mark.parametrize(
    ("name", "n", "before"),
    [
        pytest.param("Qwen3.5-27B", 1, 54_747_606_368, id="delta net, tower"),
        pytest.param("Qwen3-Next-80B", 1, 159_382_339_616, id="delta net, gated shared experts"),
        pytest.param("Nemotron-3-Nano-30B", 2, 31_586_006_672, id="Mamba-2, experts without gate"),
        pytest.param("Nemotron-H-56B", 8, 14_082_797_296, id="Mamba-2"),
        pytest.param("DeepSeek-V3.2", 4, 170_721_817_728, id="indexer"),
    ],
)
def test_weights_before_loading_ends_are_the_model_classes_to_the_byte(name: str, n: int, before: int) -> None:
    weights = line_of(ledger_of(MODELS[name], n=n, tensor_parallel=n), Component.WEIGHTS)

    changes = ("latent_copies", "dropped_scales")
    assert sum(size for part, size in weights.values.items() if part not in changes) == before


def test_an_indexer_brings_buffers() -> None:
    weights = line_of(ledger_of(MODELS["DeepSeek-V3.2"], n=8), Component.WEIGHTS)

    assert weights.values["chosen_tokens"] == 2048 * 8192 * 4
    assert weights.values["indexer_workspaces"] == 61 * 8_433_672


@pytest.mark.parametrize("name", ["Qwen3.5-27B", "DeepSeek-V3.2", "DeepSeek-V4-Flash"])
def test_the_step_of_kinds_nobody_measured_is_assumed(name: str) -> None:
    ledger = ledger_of(MODELS[name], "h200", 8)
    steps = ledger.on("gpu0").of_component(Component.COMPUTE_BUFFER).lines

    assert {line.basis for line in steps} == {Basis.ASSUMED}
