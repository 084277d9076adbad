"""TensorRT-LLM's rules against what its logs print."""

from fractions import Fraction
from typing import Any

import pytest

from vramcalc.engines._tensorrt_llm.rules import graph_sizes
from vramcalc.engines.base import Pool, Proposal, Setup
from vramcalc.engines.tensorrt_llm import TensorRtLlm, bind
from vramcalc.errors import RefusedError
from vramcalc.estimation import estimate_outcome
from vramcalc.ledger import Component, Ledger
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.registry import gpu_registry, model_registry
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB

MODELS, CARDS = model_registry(), gpu_registry()


def engine(
    model_id: str, gpus: str, version: str | None = None, fmt: str | None = None, reserve: int = 0
) -> TensorRtLlm:
    cards = resolve_cards(gpus, CARDS).gpus
    return bind(Setup(MODELS.resolve(model_id), Machine(gpus=cards, reserve_bytes=reserve), fmt, version))


def settled(bound: TensorRtLlm, **workload: Any) -> tuple[Proposal, Ledger]:
    proposal = bound.propose(Workload(**workload))
    return proposal, bound.bill(proposal)


def pool_of(bound: TensorRtLlm, **workload: Any) -> Pool:
    proposal, ledger = settled(bound, **workload)
    pool = bound.pool(proposal, ledger)
    assert pool
    return pool


@pytest.mark.parametrize("share", [Fraction(9, 10), Fraction(1, 2)])
def test_the_share_is_of_what_one_step_leaves(share: Fraction) -> None:
    bound = engine("llama-3.1-8b", "80GiB")
    _, ledger = settled(bound, n_context=512)
    peak = ledger.n_bytes - ledger.of_component(Component.KV_CACHE).n_bytes

    assert pool_of(bound, n_context=512, memory_share=share).pool_bytes == int((80 * GIB - peak) * share)


def test_what_others_hold_shrinks_the_pool_by_the_share() -> None:
    alone, beside = (pool_of(engine("llama-3.1-8b", "80GiB", reserve=n * GIB), n_context=512) for n in (0, 10))

    assert alone.pool_bytes - beside.pool_bytes == 9 * GIB


@pytest.mark.parametrize(
    ("model_id", "k_format", "token_bytes"),
    [
        pytest.param("gpt-oss-120b", None, 73728, id="36 * 2 * 8 * 64 * 2, windows in full; kv size of a 1.1 log"),
        pytest.param("qwen3-0.6b", None, 114688, id="28 * 2 * 8 * 128 * 2; 68.69 GiB of 643136 tokens"),
        pytest.param("llama-3.1-8b", "fp8", 65536, id="32 * 2 * 8 * 128; 52.51 GiB of 860320 tokens"),
        pytest.param("deepseek-v3", "fp8", 35136, id="61 * (512 + 64); kv size of a DeepSeek log"),
    ],
)
def test_bytes_of_a_token(model_id: str, k_format: str | None, token_bytes: int) -> None:
    _, ledger = settled(engine(model_id, "8xb200"), k_format=k_format, n_context=32, tensor_parallel=1)
    (line,) = ledger.of_component(Component.KV_CACHE).lines

    assert line.n_bytes == 32 * token_bytes


@pytest.mark.parametrize(("version", "block"), [("0.17.0", 64), ("0.20.0", 32), ("1.1.0rc3", 32), (None, 32)])
def test_tokens_are_rounded_up_to_whole_blocks(version: str | None, block: int) -> None:
    pool = pool_of(engine("llama-3.1-8b", "h100", version), n_context=1000)

    assert pool.block_tokens == block
    assert pool.n_tokens == pool.n_blocks * block
    assert 0 <= pool.n_tokens * 131072 - pool.pool_bytes < block * 131072


def test_the_weights_of_gpt_oss_are_padded_to_128() -> None:
    """A log prints 63.32 GB on GB10."""
    _, ledger = settled(engine("gpt-oss-120b", "gb10"), n_context=512)

    assert round(ledger.of_component(Component.WEIGHTS).n_bytes / GIB, 2) == 63.32


@pytest.mark.parametrize(
    ("model_id", "gpus", "fmt", "workload", "reason"),
    [
        ("llama-3.1-8b", "t4", None, {}, "TensorRT-LLM needs compute capability 8.0"),
        ("llama-3.1-8b", "mi300x", None, {}, "NVIDIA cards alone"),
        ("bge-m3", "h100", None, {}, "is an encoder"),
        ("llama-3.1-8b", "rtx3090", "fp8", {}, "TensorRT-LLM runs fp8 from compute capability 8.9"),
        ("llama-3.1-8b", "h100", "int8", {}, "int8 weights are not modelled"),
        ("llama-3.1-8b", "rtx3090", None, {"k_format": "fp8"}, "fp8 cache from compute capability 8.9"),
        ("llama-3.1-8b", "h100", None, {"k_format": "fp8_e5m2"}, "fp8_e5m2 is not modelled"),
        ("llama-3.1-8b", "h100", None, {"n_context": 200_000}, "past the 131072"),
        ("llama-3.1-8b", "h100", None, {"n_context": 0}, "at least one token"),
        ("llama-3.1-8b", "h100", None, {"max_num_seqs": 0}, "at least 1"),
        ("llama-3.1-8b", "h100", None, {"kv_cache_memory_bytes": GIB}, "takes no bytes"),
        ("llama-3.1-8b", "h100", None, {"cpu_offload_bytes": GIB}, "no weights in host memory"),
        ("llama-3.1-8b", "2xh100", None, {"data_parallel": 2}, "one replica"),
        ("llama-3.1-8b", "h100", None, {"kv_offload_bytes": GIB}, "neither a cache in host memory"),
        ("llama-3.1-8b", "h100", None, {"block_tokens": 16}, "nor a block size"),
    ],
)
def test_what_cannot_run_is_refused(
    model_id: str, gpus: str, fmt: str | None, workload: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RefusedError, match=reason) as caught:
        settled(engine(model_id, gpus, fmt=fmt), **workload)

    assert caught.value.hint


def test_the_command_says_what_differs() -> None:
    bound = engine("qwen3-30b-a3b", "4xh100")
    proposal, _ = settled(
        bound,
        n_context=4096,
        step_tokens=4096,
        max_num_seqs=64,
        tensor_parallel=2,
        pipeline_parallel=2,
        expert_parallel=True,
        memory_share=Fraction(8, 10),
    )

    assert bound.command(proposal) == (
        *("trtllm-serve", "Qwen/Qwen3-30B-A3B", "--max_seq_len", "4096"),
        *("--kv_cache_free_gpu_memory_fraction", "0.8", "--tp_size", "2", "--pp_size", "2", "--ep_size", "2"),
        *("--max_batch_size", "64", "--max_num_tokens", "4096"),
    )


@pytest.mark.parametrize("sequences", [1, 3])
def test_a_context_that_fits_is_found(sequences: int) -> None:
    bound, machine = engine("qwen3-8b", "rtx4090"), Machine(gpus=resolve_cards("rtx4090", CARDS).gpus)
    proposal, ledger = settled(bound, fit_context=True, n_sequences=sequences)
    pool = bound.pool(proposal, ledger)

    assert proposal.workload.n_context == (pool.n_blocks - 1) // sequences * pool.block_tokens
    longer = Workload(n_context=(proposal.workload.n_context or 0) + 2 * pool.block_tokens, n_sequences=sequences)
    assert estimate_outcome(bound, machine, proposal.workload).stays_on_gpus
    assert not estimate_outcome(bound, machine, longer).stays_on_gpus


def test_settings_of_the_configuration_file_are_named() -> None:
    proposal, _ = settled(engine("qwen3-8b", "rtx4090"), n_context=512, k_format="fp8", prefix_caching=False)

    assert any("dtype: fp8" in note for note in proposal.notes)
    assert any("enable_block_reuse: false" in note for note in proposal.notes)


def test_notes_say_what_is_carried_over() -> None:
    proposal, ledger = settled(engine("gpt-oss-20b", "2xh100"), tensor_parallel=1, enforce_eager=True, n_context=512)

    assert any("1 of 2 GPUs stay idle" in note for note in proposal.notes)
    assert any("windowed layers" in note for note in proposal.notes)
    assert any("cuda_graph_config: null" in note for note in proposal.notes)
    assert not any("graphs" in line.why for line in ledger.lines)


def test_graphs_are_counted_as_the_engine_lists_them() -> None:
    assert (graph_sizes(64), graph_sizes(2048)) == (11, 19)
