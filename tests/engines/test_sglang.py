"""SGLang's rules against its own code's defaults and against logs."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramcalc.engines._serving.versions import rules_for
from vramcalc.engines._sglang.pool import Cells, most_requests
from vramcalc.engines._sglang.rules import RULE_SETS, decode_graphs, prefill_graphs
from vramcalc.engines.base import Pool, Proposal, Setup
from vramcalc.engines.sglang import SgLang, bind
from vramcalc.errors import RefusedError
from vramcalc.estimation import estimate_outcome
from vramcalc.ledger import HOST, Basis, Component, Ledger
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.registry import gpu_registry, model_registry
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB, MIB

MODELS, CARDS = model_registry(), gpu_registry()


def machine(gpus: str, reserve_bytes: int = 0) -> Machine:
    return Machine(gpus=resolve_cards(gpus, CARDS).gpus, reserve_bytes=reserve_bytes)


def engine(model_id: str, gpus: str, version: str | None = None, fmt: str | None = None, reserve: int = 0) -> SgLang:
    return bind(Setup(MODELS.resolve(model_id), machine(gpus, reserve), fmt, version))


def settled(bound: SgLang, **workload: Any) -> tuple[Proposal, Ledger]:
    proposal = bound.propose(Workload(**workload))
    return proposal, bound.bill(proposal)


def pool_of(bound: SgLang, **workload: Any) -> Pool:
    proposal, ledger = settled(bound, **workload)
    pool = bound.pool(proposal, ledger)
    assert pool
    return pool


@pytest.mark.parametrize(
    ("model_id", "gpus", "version", "share"),
    [
        pytest.param("llama-3.1-8b", "h100", "0.4.3", "0.88", id="by table, alone; printed on H100"),
        pytest.param("qwq-32b", "4xl4", "0.4.3.post3", "0.85", id="by table, TP 4; printed on L4"),
        pytest.param("llama-3.1-8b", "h200", "0.4.6", "0.8718", id="by table, lifted, capped at 18 GiB of 143771 MiB"),
        pytest.param("gemma-3-4b", "h200", "0.4.4", "0.836", id="by table, vision: 0.88 * 0.95"),
        pytest.param("qwen3-0.6b", "rtx5080", "0.4.10", "0.818", id="by tiers: 2.9 GiB of 16303 MiB"),
        pytest.param("llama-3.1-8b", "rtx4090", "0.4.9", "0.879", id="by tiers: 2.9 GiB of 24564 MiB"),
        pytest.param("llama-3.1-8b", "h100", "0.5.2", "0.874", id="by tiers: 10 GiB of 81559 MiB"),
        pytest.param(
            "llama-3.1-8b", "h100", "0.5.5", "0.835", id="a sum: 512 + 8192 * 1.5 + 256 * 2 + 128 of 81559 MiB"
        ),
        pytest.param("qwen3-8b", "b200", "0.5.10", "0.854", id="a sum: 26,832 of 183359 MiB, as the pool shows"),
        pytest.param("qwen3-32b", "4xb200", "0.5.10", "0.852", id="a sum with TP 4, as the pool shows"),
    ],
)
def test_the_static_share_follows_card_and_version(model_id: str, gpus: str, version: str, share: str) -> None:
    proposal, _ = settled(engine(model_id, gpus, version))
    chosen = proposal.workload.memory_share

    assert chosen is not None
    assert float(chosen) == pytest.approx(float(share), abs=6e-4)


def test_the_share_is_of_what_is_free_before_loading() -> None:
    """The base differs from vLLM's: what others hold shrinks the budget by the share, and the context by the rest."""
    alone, beside = (engine("llama-3.1-8b", "80GiB", reserve=held) for held in (0, 10 * GIB))
    budget = [
        bound.budgets(settled(bound, n_context=512, memory_share=Fraction(8, 10))[0])["gpu0"].budget_bytes
        for bound in (alone, beside)
    ]

    assert budget == [64 * GIB, 56 * GIB]


def test_the_pool_is_what_weights_leave_of_the_share() -> None:
    bound = engine("llama-3.1-8b", "64GiB")
    proposal, ledger = settled(bound, memory_share=Fraction(1, 2))
    weights = ledger.of_component(Component.WEIGHTS).n_bytes
    pool = bound.pool(proposal, ledger)

    assert pool
    assert pool.pool_bytes == 32 * GIB - weights - 70 * MIB
    assert pool.n_tokens == pool.pool_bytes // (32 * 2 * 8 * 128 * 2)
    assert pool.max_concurrency == pool.n_tokens / 131072


def test_rope_tables_are_in_f32() -> None:
    _, ledger = settled(engine("llama-3.1-8b", "h100"), n_context=512)
    (line,) = ledger.of_component(Component.WEIGHTS).lines

    assert line.values["rope_tables"] == 131072 * 128 * 4


@pytest.mark.parametrize(
    ("version", "windowed_share"),
    [pytest.param("0.5.8", 1.0, id="one pool"), pytest.param("0.5.23", 0.8, id="a pool of their own")],
)
def test_windowed_layers_of_gpt_oss(version: str, windowed_share: float) -> None:
    tokens = pool_of(engine("gpt-oss-20b", "h100", version), memory_share=Fraction(8, 10))
    layer = 2 * 8 * 64 * 2

    assert tokens.pool_bytes // tokens.n_tokens == pytest.approx(12 * layer + 12 * windowed_share * layer, abs=2)


def test_recurrent_states_take_their_ratio_of_the_rest() -> None:
    bound = engine("qwen3.5-27b", "h200", "0.5.11")
    proposal, ledger = settled(bound, n_context=4096)
    (state,) = ledger.of_component(Component.STATE).lines
    pool = bound.pool(proposal, ledger)
    one = 48 * ((2 * 16 * 128 + 48 * 128) * 3 * 2 + 48 * 128 * 128 * 4)

    assert pool
    assert state.values["state_bytes"] == one
    assert state.n_bytes / pool.pool_bytes == pytest.approx(0.9, abs=0.01)


def test_a_load_beyond_the_states_needs_more_of_them() -> None:
    bound = engine("qwen3.5-27b", "h200", "0.5.11")
    few, many = (settled(bound, n_context=512, n_sequences=n)[1].of_component(Component.STATE) for n in (1, 200))

    assert many.lines[0].values["slots"] == 600
    assert few.n_bytes < many.n_bytes


def test_data_centre_blackwell_takes_pages_of_64() -> None:
    assert pool_of(engine("qwen3-8b", "b200")).block_tokens == 64
    assert pool_of(engine("qwen3-8b", "h100")).block_tokens == 1


def test_latent_rows_are_whole_on_every_rank() -> None:
    one, two = (pool_of(engine("deepseek-v2-lite", gpus), memory_share=Fraction(8, 10)) for gpus in ("h100", "2xh100"))

    assert one.pool_bytes // one.n_tokens == two.pool_bytes // two.n_tokens == 27 * (512 + 64) * 2


def test_the_request_table_grows_with_the_context() -> None:
    _, ledger = settled(engine("llama-3.1-8b", "h100"), n_context=131072)
    (table,) = (line for line in ledger.lines if "requests" in line.values)

    assert table.n_bytes == (2048 + 1) * (131072 + 4) * 4
    assert table.outside_budget
    assert table.basis is Basis.DERIVED


def test_graphs_are_counted_as_the_engine_lists_them() -> None:
    assert decode_graphs(8) == 4
    assert decode_graphs(24) == 7
    assert decode_graphs(512) == 52
    rules = rules_for("SGLang", RULE_SETS, "0.5.10")
    assert prefill_graphs(rules, MODELS.resolve("qwen3-8b"), 16384) == 74
    assert prefill_graphs(rules_for("SGLang", RULE_SETS, "0.5.9"), MODELS.resolve("qwen3-8b"), 16384) == 0


@pytest.mark.parametrize(
    ("model_id", "gpus", "fmt", "workload", "reason"),
    [
        ("llama-3.1-8b", "v100-32gb", None, {}, "SGLang needs compute capability 7.5"),
        ("llama-3.1-8b", "m1-max-64gb", None, {}, "no rules are known for SGLang on"),
        ("bge-m3", "h100", None, {}, "is an encoder"),
        ("mamba2-2.7b", "h100", None, {}, "recurrent layers and no attention"),
        ("llama-3.1-8b", "t4", "awq-4bit", {}, "SGLang runs awq-4bit from compute capability 8.0"),
        ("llama-3.1-8b", "h100", "nvfp4", {}, "SGLang runs nvfp4 from compute capability 10.0"),
        ("llama-3.1-8b", "h100", "q4_k_m", {}, "q4_k_m weights are not modelled"),
        ("llama-3.1-8b", "h100", "mxfp4", {}, "has none"),
        ("llama-3.1-8b", "h100", None, {"n_context": 200_000}, "SGLang refuses a context of 200000 tokens"),
        ("llama-3.1-8b", "h100", None, {"n_context": 0}, "at least one token"),
        ("llama-3.1-8b", "h100", None, {"step_tokens": 0}, "at least 1"),
        ("llama-3.1-8b", "h100", None, {"kv_cache_memory_bytes": GIB}, "not by bytes"),
        ("llama-3.1-8b", "h100", None, {"k_format": "q8_0"}, "the cache format q8_0 is not modelled"),
        ("llama-3.1-8b", "h100", None, {"k_format": "fp8", "v_format": "f16"}, "K and V in one format"),
        ("llama-3.1-8b", "t4", None, {"k_format": "fp8"}, "fp8 cache from compute capability 8.0"),
        ("llama-3.1-8b", "rtx4090+rtx3060", None, {"tensor_parallel": 2}, "cards of unequal memory"),
        ("llama-3.1-8b", "h100", None, {"kv_offload_bytes": GIB}, "hierarchical cache"),
        ("llama-3.1-8b", "h100", None, {"chunked_prefill": False}, "without chunked prefill"),
        ("qwen3.5-27b", "h100", None, {"prefix_caching": False}, "without SGLang's radix cache"),
        ("llama-3.1-8b", "h100", None, {"block_tokens": 0}, "of a page must be at least 1"),
    ],
)
def test_what_cannot_run_is_refused(
    model_id: str, gpus: str, fmt: str | None, workload: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RefusedError, match=reason) as caught:
        settled(engine(model_id, gpus, fmt=fmt), **workload)

    assert caught.value.hint


def test_the_command_says_what_differs() -> None:
    bound = engine("qwen3-30b-a3b", "2xh100")
    proposal, _ = settled(
        bound,
        n_context=4096,
        step_tokens=2048,
        max_num_seqs=64,
        tensor_parallel=2,
        expert_parallel=True,
        k_format="fp8",
        memory_share=Fraction(7, 10),
        cpu_offload_bytes=4 * GIB,
        enforce_eager=True,
    )

    assert bound.command(proposal) == (
        *("python3", "-m", "sglang.launch_server", "--model-path", "Qwen/Qwen3-30B-A3B"),
        *("--context-length", "4096", "--mem-fraction-static", "0.7", "--kv-cache-dtype", "fp8_e4m3"),
        *("--tp-size", "2", "--ep-size", "2", "--chunked-prefill-size", "2048", "--max-running-requests", "64"),
        *("--cpu-offload-gb", "4", "--disable-cuda-graph"),
    )


def test_formats_are_named_where_the_engine_takes_them() -> None:
    fp8, f16 = (engine("llama-3.1-8b", "h100", fmt=fmt) for fmt in ("fp8", "f16"))

    assert fp8.command(settled(fp8, n_context=512)[0])[-2:] == ("--quantization", "fp8")
    assert "float16" in f16.command(settled(f16, n_context=512)[0])
    notes = settled(engine("llama-3.1-8b", "h100", fmt="w4a16"), n_context=512)[0].notes
    assert any("does not make w4a16 of a 16-bit release" in note for note in notes)


def test_replicas_hold_all_experts() -> None:
    one, two = engine("qwen3-30b-a3b", "2xh100"), engine("qwen3-30b-a3b", "4xh100")
    proposal, ledger = settled(two, n_context=4096, data_parallel=2)

    assert (proposal.placement.tensor_parallel, proposal.placement.data_parallel) == (2, 2)
    weights = [ledger.on(f"gpu{n}").of_component(Component.WEIGHTS).n_bytes for n in (0, 3)]
    alone = settled(one, n_context=4096)[1].on("gpu0").of_component(Component.WEIGHTS).n_bytes
    assert weights == [alone, alone]
    with pytest.raises(RefusedError, match="2 replicas of TP 4 x PP 1 need 8 GPUs"):
        settled(two, data_parallel=2, tensor_parallel=4)


@pytest.mark.parametrize(
    ("fmt", "runs"),
    [
        pytest.param("gptq-4bit-g32", True, id="another group size"),
        pytest.param("w4a16-g64", True, id="another group size of compressed-tensors"),
        pytest.param("gptq-4bit-g128-actorder", False, id="act-order"),
        pytest.param("w4a16-asym", False, id="asymmetric"),
        pytest.param("exl3-3.5bpw", False, id="another runtime's"),
    ],
)
def test_group_sizes_are_part_of_a_name(fmt: str, *, runs: bool) -> None:
    if runs:
        assert engine("llama-3.1-8b", "h100", fmt=fmt).weight_format == fmt
    else:
        with pytest.raises(RefusedError, match="not modelled"):
            engine("llama-3.1-8b", "h100", fmt=fmt)


@pytest.mark.parametrize("sequences", [1, 3])
def test_a_context_that_fits_is_found(sequences: int) -> None:
    bound = engine("qwen3-8b", "rtx4090")
    proposal, ledger = settled(bound, fit_context=True, n_sequences=sequences)
    pool = bound.pool(proposal, ledger)

    assert proposal.workload.n_context == pool.n_tokens // sequences
    assert estimate_outcome(bound, machine("rtx4090"), Workload(n_sequences=sequences, fit_context=True)).stays_on_gpus


def test_pages_and_prefixes_may_be_set() -> None:
    bound = engine("qwen3-8b", "rtx4090")
    proposal, ledger = settled(bound, n_context=1000, block_tokens=64, prefix_caching=False)

    assert bound.pool(proposal, ledger).n_tokens % 64 == 0
    assert ledger.of_component(Component.KV_CACHE).n_bytes == 1024 * 147_456
    assert bound.command(proposal)[-3:] == ("--page-size", "64", "--disable-radix-cache")


def test_offloaded_weights_move_to_the_host() -> None:
    bound = engine("llama-3.1-8b", "h100")
    _, whole = settled(bound, n_context=512)
    proposal, ledger = settled(bound, n_context=512, cpu_offload_bytes=4 * GIB)

    assert ledger.on(HOST).n_bytes == 4 * GIB
    assert whole.of_component(Component.WEIGHTS).n_bytes == ledger.of_component(Component.WEIGHTS).n_bytes
    assert any("PCIe" in note for note in proposal.notes)


def test_idle_and_foreign_cards_are_named() -> None:
    assert any("3 of 4 GPUs stay idle" in n for n in settled(engine("qwen3-8b", "4xh100"), tensor_parallel=1)[0].notes)
    assert any("AMD" in note for note in settled(engine("qwen3-8b", "mi300x"))[0].notes)


def test_a_default_share_leaves_room_for_what_lives_beside_it() -> None:
    for gpus in ("rtx4090", "h100", "b200", "l40s"):
        outcome = estimate_outcome(engine("qwen3-8b", gpus), machine(gpus), Workload(n_context=4096))

        assert outcome.verdict in ("fits", "tight"), gpus


@settings(max_examples=60, deadline=None)
@given(
    full=st.integers(1, 1 << 20),
    windowed=st.integers(0, 1 << 20),
    state=st.integers(0, 1 << 26),
    room=st.integers(0, 1 << 38),
    page=st.sampled_from([1, 64]),
)
def test_the_pool_never_takes_more_than_its_room(full: int, windowed: int, state: int, room: int, page: int) -> None:
    cells = Cells(full_bytes=full, windowed_bytes=windowed, state_bytes=state, page_tokens=page)
    tokens = cells.tokens(room)
    states = cells.state_pool_bytes(cells.state_slots(room))

    assert tokens % page == 0
    assert tokens == 0 or tokens * cells.token_bytes + states <= room
    assert most_requests(tokens, 4096, None) <= max(0, tokens // 2)
