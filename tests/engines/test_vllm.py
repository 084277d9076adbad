"""vLLM's rules against its own code's figures and against logs.

Sources of the tables beside this file:
    vllm_kv.csv, vllm_weights.csv, vllm_defaults.csv: vLLM 0.33.0's own planner, model classes and argument defaults,
        run from the released wheel with the card's identity pretended
    vllm_logs.csv: complete logs on H100 published by llm-d-planner, a row's source in its last column
"""

import csv
import statistics
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.arithmetic import evaluate
from tests.engines.vllm_models import GPUS, MODELS, gated, gqa, machine, model, moe, uniform

from vramcalc.engines import vllm
from vramcalc.engines._vllm.allocator import allocated_bytes
from vramcalc.engines._vllm.rules import capability, graph_sizes
from vramcalc.engines.base import Pool, Proposal, Setup
from vramcalc.engines.vllm import Vllm, bind
from vramcalc.errors import RefusedError, UnknownNameError
from vramcalc.estimation import Asked, estimate_outcome
from vramcalc.ledger import HOST, Component, Ledger, Line
from vramcalc.solvers.limits import find_limits
from vramcalc.sources.registry import gpu_registry
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB, MIB

HERE = Path(__file__).parent


def rows(name: str) -> list[dict[str, str]]:
    with (HERE / name).open(newline="") as file:
        return list(csv.DictReader(file))


def number(text: str) -> int | None:
    return int(text) if text else None


def engine(name: str, gpu: str = "h100", n: int = 1, fmt: str | None = None, version: str | None = None) -> Vllm:
    return bind(Setup(MODELS[name], machine(gpu, n), fmt or None, version))


def settled(bound: Vllm, **workload: Any) -> tuple[Proposal, Ledger]:
    proposal = bound.propose(Workload(**workload))
    return proposal, bound.bill(proposal)


def pool_of(bound: Vllm, **workload: Any) -> Pool:
    proposal, ledger = settled(bound, **workload)
    pool = bound.pool(proposal, ledger)
    assert pool
    return pool


def the_line(ledger: Ledger, device: str, *words: str, component: Component | None = None) -> Line:
    found = [
        line
        for line in ledger.on(device).lines
        if all(word in line.why for word in words) and component in (None, line.component)
    ]
    assert len(found) == 1, [line.why for line in ledger.on(device).lines]
    return found[0]


def weights_of(ledger: Ledger, device: str = "gpu0") -> Line:
    return the_line(ledger, device, component=Component.WEIGHTS)


def _row_id(row: dict[str, str]) -> str:
    return "-".join(row[key] or "own" for key in list(row)[:5])


# ---- against the engine's own code


@pytest.mark.parametrize("row", rows("vllm_kv.csv"), ids=_row_id)
def test_the_pool_is_the_planners(row: dict[str, str]) -> None:
    tensor, pipeline = int(row["tp"]), int(row["pp"])
    bound = engine(row["model"], row["gpu"], tensor * pipeline)
    proposal, ledger = settled(
        bound,
        n_context=int(row["max_model_len"]),
        step_tokens=int(row["max_num_batched_tokens"]),
        max_num_seqs=int(row["max_num_seqs"]),
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        k_format=row["kv_cache_dtype"],
        kv_cache_memory_bytes=int(row["avail_bytes_per_gpu"]),
    )
    pool = bound.pool(proposal, ledger)
    cached = Ledger(tuple(line for line in ledger.lines if line.component in (Component.KV_CACHE, Component.STATE)))
    least = max(cached.on(f"gpu{rank}").n_bytes for rank in range(tensor * pipeline))

    assert pool
    assert pool.block_tokens == int(row["block_size"])
    assert least == int(row["min_bytes_to_start"])
    assert (least <= pool.pool_bytes) == (row["starts"] == "1")
    assert bound.fitted_context(proposal, pool) == int(row["autofit_max_model_len"])
    if row["starts"] == "1":
        assert pool.n_blocks == int(row["num_blocks"])
        assert pool.n_tokens == int(row["kv_cache_size_tokens"])
        assert pool.max_concurrency == pytest.approx(float(row["max_concurrency"]), abs=2e-6)


@pytest.mark.parametrize("row", rows("vllm_weights.csv"), ids=_row_id)
def test_weights_are_those_of_the_model_classes(row: dict[str, str]) -> None:
    tensor, pipeline = int(row["tp"]), int(row["pp"])
    bound = engine(row["model"], row["gpu"], tensor * pipeline, row["weight_format"])
    _, ledger = settled(bound, n_context=128, tensor_parallel=tensor, pipeline_parallel=pipeline)
    line = weights_of(ledger, f"gpu{int(row['pp_rank']) * tensor}")
    changes = (
        "latent_copies",
        "widened_zeros",
        "dropped_zeros",
        "dropped_scales",
        "expert_padding",
        "swizzled_experts",
    )
    before = sum(n for name, n in line.values.items() if name not in changes)

    assert before == pytest.approx(int(row["bytes_before"]), rel=5e-4)
    if int(row["bytes_after"] or 0):
        assert line.n_bytes == pytest.approx(int(row["bytes_after"]), rel=5e-3)


@pytest.mark.parametrize("row", rows("vllm_defaults.csv"), ids=_row_id)
def test_defaults_are_those_of_serve(row: dict[str, str]) -> None:
    tensor, pipeline = int(row["tp"]), int(row["pp"])
    asked = Workload(
        n_context=number(row["max_model_len"]),
        max_num_seqs=number(row["set_max_num_seqs"]),
        k_format=row["kv_cache_dtype"],
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        enforce_eager=row["enforce_eager"] == "True",
    )
    if row["outcome"] == "refused":
        with pytest.raises(RefusedError):
            engine(row["model"], row["gpu"], tensor * pipeline).propose(asked)
        return
    bound = engine(row["model"], row["gpu"], tensor * pipeline)
    proposal = bound.propose(asked)
    filled = proposal.workload

    assert filled.step_tokens == int(row["max_num_batched_tokens"])
    assert filled.max_num_seqs == int(row["max_num_seqs"])
    assert filled.memory_share == Fraction(92, 100)
    if not filled.enforce_eager:
        card = capability(GPUS[row["gpu"]])
        assert len(graph_sizes(MODELS[row["model"]], card, filled.max_num_seqs)) == int(row["n_capture_sizes"])
    if row["block_size"]:
        pool = bound.pool(proposal, bound.bill(proposal))
        assert pool
        assert pool.block_tokens == int(row["block_size"])


# ---- against logs


@cache
def replayed() -> list[tuple[dict[str, str], Ledger, Pool]]:
    runs = []
    for row in rows("vllm_logs.csv"):
        tensor, pipeline = int(row["tp"]), int(row["pp"])
        bound = engine(row["model"], "h100", tensor * pipeline, row["weight_format"], row["version"])
        proposal, ledger = settled(
            bound,
            n_context=min(int(row["max_model_len"]), MODELS[row["model"]].context),
            step_tokens=8192,
            max_num_seqs=1024,
            tensor_parallel=tensor,
            pipeline_parallel=pipeline,
            k_format=row["kv_cache_dtype"],
            memory_share=Fraction(row["memory_share"]),
        )
        pool = bound.pool(proposal, ledger)
        assert pool
        runs.append((row, ledger, pool))
    return runs


def logged(printed: str, ours: str) -> list[tuple[float, float]]:
    """Return pairs of our GiB and what the logs print."""
    found = []
    for row, ledger, pool in replayed():
        if not row[printed] or not float(row[printed]):
            continue
        match ours:
            case "pool":
                n_bytes = pool.pool_bytes
            case "loaded":
                n_bytes = sum(
                    x.n_bytes for x in ledger.on("gpu0").lines if {"rope_tables", "allocator_rounding"} & set(x.values)
                )
            case _:
                n_bytes = the_line(ledger, "gpu0", ours).n_bytes
        found.append((n_bytes / GIB, float(row[printed])))
    return found


@pytest.mark.parametrize(
    ("printed", "ours", "median", "mean", "worst"),
    [
        pytest.param("activation_gib", "activation peak", 0.005, 0.01, 0.02, id="activation peak"),
        pytest.param("weights_gib", "loaded", 0.0002, 0.0005, 0.003, id="weights as loaded"),
        pytest.param("kv_gib", "pool", 0.001, 0.002, 0.015, id="KV pool"),
        pytest.param("graphs_gib", "CUDA graphs", 0.04, 0.06, 0.15, id="CUDA graphs as captured"),
        pytest.param("non_torch_gib", "growth", 0.01, 0.08, 0.5, id="growth outside PyTorch"),
    ],
)
def test_logs_agree(printed: str, ours: str, median: float, mean: float, worst: float) -> None:
    found = [abs(n / truth - 1) for n, truth in logged(printed, ours)]

    assert len(found) >= 30
    assert statistics.median(found) <= median
    assert statistics.mean(found) <= mean
    assert max(found) <= worst


def test_model_loading_took_is_within_a_hundredth_of_a_gib() -> None:
    near = [abs(n - truth) <= 0.01 for n, truth in logged("weights_gib", "loaded")]

    assert sum(near) >= 0.85 * len(near)


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        pytest.param([100, 512, 513], 512 + 512 + 1024, id="up to 512 bytes"),
        pytest.param([MIB], MIB, id="1 MiB: small, nothing wasted"),
        pytest.param([9 * MIB, 9 * MIB, 2 * MIB], 20 * MIB, id="two of 9 leave 2 MiB of 20, which the third takes"),
        pytest.param([9 * MIB, 9 * MIB, 3 * MIB], 21 * MIB, id="the third opens a segment"),
        pytest.param([9 * MIB, 10 * MIB - 512, MIB + 512], 20 * MIB, id="1 MiB and 512 bytes left: cut"),
        pytest.param([13 * MIB - 512], 13 * MIB - 512, id="a segment of 14 MiB, cut"),
        pytest.param([13 * MIB], 14 * MIB, id="a segment of 14 MiB, 1 MiB left: not cut"),
    ],
)
def test_the_allocator_counts_what_it_cannot_cut_off(sizes: list[int], taken: int) -> None:
    assert allocated_bytes(sizes) == taken


def test_logged_figures_lie_in_the_ranges() -> None:
    outside = []
    for row, ledger, _ in replayed():
        for printed, words in (("activation_gib", "activation peak"), ("non_torch_gib", "growth")):
            line, logged = the_line(ledger, "gpu0", words), float(row[printed])
            if logged > 0 and not line.low_bytes / GIB - 0.01 <= logged <= line.high_bytes / GIB + 0.01:
                outside.append((row["id"], printed))

    assert outside == []


# ---- exact figures


@pytest.mark.parametrize(
    ("name", "fmt", "n_bytes"),
    [
        pytest.param("Llama-3.1-8B", "bf16", 16_060_522_496 + 33_554_432 + 32 * 16, id="parameters + rope + 32 x 16"),
        pytest.param(
            "Llama-3.1-8B", "fp8-block", 9_116_459_776, id="16-bit ends + 8-bit layers + a scale per 128 x 128"
        ),
    ],
)
def test_weights_to_the_byte(name: str, fmt: str, n_bytes: int) -> None:
    _, ledger = settled(engine(name, fmt=fmt), n_context=128)

    assert weights_of(ledger).n_bytes == n_bytes


def test_a_request_needs_its_blocks_and_the_null_block() -> None:
    _, ledger = settled(engine("Llama-3.1-8B"), n_context=4096, n_sequences=3)

    assert ledger.of_component(Component.KV_CACHE).n_bytes == (3 * 256 + 1) * 2_097_152


def test_a_window_reserves_for_every_token_in_flight() -> None:
    _, small = settled(engine("Gemma-3-27B"), n_context=32768, step_tokens=2048)
    _, large = settled(engine("Gemma-3-27B"), n_context=32768, step_tokens=8192)

    # 2048 full blocks + 6 groups of ceil((1023 + 2 x step) / 16) + 1, and the null block
    assert small.of_component(Component.KV_CACHE).n_bytes == (2048 + 6 * (320 + 1) + 1) * 1_310_720
    assert large.of_component(Component.KV_CACHE).n_bytes == (2048 + 6 * (1088 + 1) + 1) * 1_310_720


@pytest.mark.parametrize(
    ("version", "rule_set", "share", "graphs_inside"),
    [
        pytest.param("0.15.1", "0.11", "0.9", False, id="nearest earlier"),
        pytest.param("0.19.0", "0.19", "0.9", False, id="named"),
        pytest.param("0.21", "0.21", "0.9", True, id="graphs move in"),
        pytest.param("0.25.3", "0.22", "0.92", True, id="larger share"),
        pytest.param("v0.99", "0.33", "0.92", True, id="newer than known"),
    ],
)
def test_versions_change_the_rules(version: str, rule_set: str, share: str, graphs_inside: bool) -> None:
    bound = engine("Llama-3.1-8B", version=version)
    proposal, ledger = settled(bound, n_context=8192)

    assert bound.version == rule_set
    assert proposal.workload.memory_share == Fraction(share)
    assert the_line(ledger, "gpu0", "CUDA graphs").outside_budget is not graphs_inside


def test_versions_are_oldest_first() -> None:
    assert list(vllm.VERSIONS) == sorted(vllm.VERSIONS)
    assert engine("Llama-3.1-8B").version == vllm.VERSIONS[-1]


def test_the_budget_is_a_share_of_the_total_rounded_up() -> None:
    bound = engine("Llama-3.1-8B")
    budget = bound.budgets(bound.propose(Workload(n_context=128)))["gpu0"]

    assert budget.capacity_bytes == 85_029_617_664
    assert budget.budget_bytes == -(-85_029_617_664 * 92 // 100)


def test_a_cache_set_in_bytes_is_taken_as_it_is_even_where_weights_do_not_fit() -> None:
    bound = engine("Llama-3.3-70B", "rtx4090")
    proposal, ledger = settled(bound, n_context=4096, kv_cache_memory_bytes=8 * GIB)
    pool = bound.pool(proposal, ledger)

    assert pool
    assert pool.pool_bytes == 8 * GIB
    assert pool.n_blocks == 8 * GIB // 5_242_880
    assert bound.budgets(proposal)["gpu0"].budget_bytes > bound.budgets(proposal)["gpu0"].capacity_bytes


def test_weights_that_do_not_fit_leave_no_blocks() -> None:
    assert pool_of(engine("Llama-3.3-70B", "rtx4090"), n_context=4096).n_blocks == 0


def test_an_encoder_caches_nothing_and_takes_a_whole_prompt_per_step() -> None:
    bound = engine("bge-m3", "rtx4090")
    proposal, ledger = settled(bound)

    assert bound.weight_format == "f16"
    assert proposal.workload.step_tokens == 8192
    assert not ledger.of_component(Component.KV_CACHE).lines
    assert bound.pool(proposal, ledger) is None


def test_eager_mode_has_no_graphs() -> None:
    _, ledger = settled(engine("Llama-3.1-8B"), n_context=128, enforce_eager=True)

    assert not [line for line in ledger.lines if "graphs" in line.why]


def test_offloaded_weights_move_to_the_host() -> None:
    _, plain = settled(engine("Llama-3.1-8B", n=2), n_context=128)
    _, ledger = settled(engine("Llama-3.1-8B", n=2), n_context=128, cpu_offload_bytes=GIB)

    assert ledger.on(HOST).n_bytes == 2 * GIB
    assert weights_of(plain).n_bytes - weights_of(ledger).n_bytes == GIB


def hypothetical(size: int) -> GpuSpec:
    facts = {"id": "11776MiB", "name": "11776 MiB", "vendor": "hypothetical", "architecture": "cuda", "year": 2025}
    facts |= {"memory": {"advertised": size}, "bandwidth_gb_per_s": None, "source": "the request"}
    return GpuSpec.model_validate(facts)


def test_a_size_is_what_is_free_beside_the_context() -> None:
    bound = bind(Setup(MODELS["Qwen3-4B"], Machine((hypothetical(11776 * MIB),))))
    proposal, ledger = settled(bound, n_context=4096)

    assert bound.budgets(proposal)["gpu0"].capacity_bytes == 11776 * MIB
    assert not ledger.of_component(Component.RUNTIME).lines


# ---- settings of the cache and the step


@pytest.mark.parametrize(
    ("gpu", "context", "tokens"),
    [
        pytest.param("h100", 131072, 131072, id="a whole prompt"),
        pytest.param("h100", 4096, 8192, id="short prompts: as by default"),
        pytest.param("rtx4090", 131072, 131072, id="whatever the card"),
    ],
)
def test_without_chunked_prefill_a_step_holds_a_prompt(gpu: str, context: int, tokens: int) -> None:
    filled = engine("Llama-3.1-8B", gpu).propose(Workload(n_context=context, chunked_prefill=False)).workload

    assert filled.step_tokens == tokens


def test_blocks_are_as_asked() -> None:
    bound = engine("Llama-3.1-8B")

    assert pool_of(bound, n_context=4096, kv_cache_memory_bytes=GIB, block_tokens=64).n_blocks == GIB // (4 * 2_097_152)
    assert pool_of(bound, n_context=4096, kv_cache_memory_bytes=GIB, block_tokens=64).block_tokens == 64
    with pytest.raises(RefusedError, match=r"blocks of 16 tokens and multiples, not 24") as caught:
        pool_of(bound, n_context=4096, block_tokens=24)
    assert "--block-size 32" in caught.value.hint


def test_a_cache_in_host_memory_leaves_that_of_the_cards_as_it_is() -> None:
    bound = engine("Llama-3.1-8B", n=2)
    _, plain = settled(bound, n_context=4096)
    _, ledger = settled(bound, n_context=4096, kv_offload_bytes=16 * GIB)

    assert ledger.on(HOST).of_component(Component.KV_CACHE).n_bytes == 16 * GIB
    assert ledger.on("gpu0") == plain.on("gpu0")


# ---- in the engine's own words


@pytest.mark.parametrize(
    ("gpu", "version", "load", "printed"),
    [
        pytest.param(
            "h100",
            "0.19",
            {"n_context": 8192, "memory_share": Fraction("0.95")},
            (
                "Model loading took 14.99 GiB memory",
                "Available KV cache memory: 58.10 GiB",
                "GPU KV cache size: 475,984 tokens",
                "Maximum concurrency for 8,192 tokens per request: 58.10x",
            ),
            id="starts; the log says 58.11 GiB, 476,016 tokens, 58.11x",
        ),
        pytest.param(
            "h100",
            None,
            {"n_context": 131072, "kv_cache_memory_bytes": 2 * GIB},
            (
                "Model loading took 14.99 GiB memory",
                "Available KV cache memory: 2.0 GiB",
                (
                    "To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache "
                    "is needed, which is larger than the available KV cache memory (2.0 GiB). Based on the "
                    "available memory, the estimated maximum model length is 16368. Try increasing "
                    "`gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
                ),
            ),
            id="one request is too long",
        ),
        pytest.param(
            "h100",
            "0.11",
            {"n_context": 131072, "kv_cache_memory_bytes": 2_097_152},
            (
                "Model loading took 14.99 GiB memory",
                "Available KV cache memory: 0.00 GiB",
                (
                    "To serve at least one request with the models's max seq len (131072), (16.00 GiB KV "
                    "cache is needed, which is larger than the available KV cache memory (0.00 GiB). Try "
                    "increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the "
                    "engine."
                ),
            ),
            id="not even a token; older words",
        ),
        pytest.param(
            "h100",
            None,
            {"n_context": 8192, "memory_share": Fraction("0.2")},
            (
                "Model loading took 14.99 GiB memory",
                "Available KV cache memory: -2.05 GiB",
                (
                    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
                    "initializing the engine."
                ),
            ),
            id="no room",
        ),
        pytest.param(
            "t4", None, {"n_context": 8192}, ("torch.OutOfMemoryError: CUDA out of memory.",), id="weights do not fit"
        ),
        pytest.param(
            "h100",
            None,
            {"n_context": 8192, "memory_share": Fraction(1)},
            (
                (
                    "Free memory on device cuda:0 (78.68/79.19 GiB) on startup is less than desired GPU "
                    "memory utilization (1, 79.19 GiB). Decrease GPU memory utilization or reduce GPU memory "
                    "used by other processes."
                ),
            ),
            id="too little is free",
        ),
    ],
)
def test_it_prints_what_the_engine_would(
    gpu: str, version: str | None, load: dict[str, Any], printed: tuple[str, ...]
) -> None:
    log = pool_of(engine("Llama-3.1-8B", gpu, version=version), **load).log

    assert len(log) == len(printed)
    assert all(line.startswith(start) for line, start in zip(log, printed, strict=True)), log


def test_memory_that_others_hold_keeps_it_from_starting() -> None:
    spec, crowded = MODELS["Llama-3.1-8B"], replace(machine("h100"), reserve_bytes=20 * GIB)
    bound = bind(Setup(spec, crowded))
    outcome = estimate_outcome(bound, crowded, Workload(n_context=8192))
    pool = bound.pool(outcome.proposal, outcome.ledger)

    assert outcome.verdict == "does_not_fit"
    assert pool
    assert pool.log[0].startswith("Free memory on device cuda:0 (58.68/79.19 GiB) on startup is less than")


@pytest.mark.parametrize(("name", "share"), [("Llama-3.1-8B", "0.2"), ("Gemma-3-27B", "0.46"), ("Qwen3.5-27B", "0.42")])
def test_the_longest_context_is_what_auto_settles_on(name: str, share: str) -> None:
    """The search over the forward walk, the engine's own rule and ``--max-model-len auto`` agree to the token."""
    bound = engine(name, "h200")
    asked = Workload(fit_context=True, memory_share=Fraction(share))
    auto = bound.propose(asked).workload
    whole = bound.propose(replace(asked, fit_context=False)).workload
    question = Asked(MODELS[name], machine("h200"), "vllm", None, None, replace(asked, fit_context=False))
    limits = find_limits(question, estimate_outcome(bound, machine("h200"), whole))

    assert whole.n_context == MODELS[name].context
    assert auto.n_context == limits.max_context
    assert estimate_outcome(bound, machine("h200"), auto).stays_on_gpus
    assert not estimate_outcome(
        bound, machine("h200"), replace(auto, n_context=(auto.n_context or 0) + 1)
    ).stays_on_gpus


# ---- placement


@pytest.mark.parametrize(
    ("name", "n", "nodes", "tensor", "pipeline"),
    [
        pytest.param("Llama-3.1-8B", 8, 1, 8, 1, id="TP over a node"),
        pytest.param("Qwen2.5-7B", 8, 1, 1, 8, id="28 heads: PP instead"),
        pytest.param("Llama-3.1-8B", 3, 1, 1, 3, id="32 heads on 3 GPUs: PP"),
        pytest.param("DeepSeek-V3", 8, 2, 8, 2, id="PP over nodes"),
    ],
)
def test_parallel_sizes_by_habit(name: str, n: int, nodes: int, tensor: int, pipeline: int) -> None:
    placement = bind(Setup(MODELS[name], machine("h100", n, nodes))).propose(Workload(n_context=1024)).placement

    assert (placement.tensor_parallel, placement.pipeline_parallel) == (tensor, pipeline)


def test_layers_name_the_first_rank_of_their_stage() -> None:
    bound = engine("DeepSeek-V3", n=8)
    proposal, ledger = settled(bound, n_context=1024, tensor_parallel=4, pipeline_parallel=2)

    assert proposal.placement.layers == ("gpu0",) * 31 + ("gpu4",) * 30
    assert {line.device for line in ledger.lines} == {f"gpu{i}" for i in range(8)}


def test_replicas_share_the_load() -> None:
    bound = engine("Llama-3.1-8B", n=2)
    _, ledger = settled(bound, n_context=4096, n_sequences=5, data_parallel=2, tensor_parallel=1)

    assert ledger.on("gpu1").of_component(Component.KV_CACHE).n_bytes == (3 * 256 + 1) * 2_097_152


def test_the_smallest_of_unequal_gpus_decides() -> None:
    mixed = Machine((GPUS["rtx4090"], GPUS["rtx3090"]))
    bound = bind(Setup(MODELS["Llama-3.1-8B"], mixed))
    proposal, ledger = settled(bound, n_context=4096)
    pool = bound.pool(proposal, ledger)

    assert pool
    least = min(
        bound.budgets(proposal)[device].budget_bytes
        - sum(x.n_bytes for x in ledger.on(device).inside_budget().lines if x.component is not Component.KV_CACHE)
        for device in ("gpu0", "gpu1")
    )
    assert pool.pool_bytes == least
    assert any("unequal" in note for note in proposal.notes)


# ---- refusals


@pytest.mark.parametrize(
    ("name", "gpu", "n", "fmt", "workload", "reason"),
    [
        pytest.param("Llama-3.1-8B", "h100", 1, "q4_k_m", {}, "GGUF", id="GGUF mix"),
        pytest.param("Llama-3.1-8B", "h100", 1, "attn=q6_k,mlp=q4_k", {}, "GGUF", id="GGUF mix by role"),
        pytest.param("Llama-3.1-8B", "h100", 1, "nf4", {}, "bitsandbytes", id="bitsandbytes"),
        pytest.param("gpt-oss-20b", "t4", 1, None, {}, "8.0", id="mxfp4 before Ampere"),
        pytest.param("Llama-3.1-8B", "h100", 1, "mxfp4", {}, "experts", id="mxfp4 without experts"),
        pytest.param("Llama-3.1-8B", "h100", 1, None, {"n_context": 0}, "at least one", id="no context"),
        pytest.param("Qwen3-8B", "h100", 1, None, {"n_context": 40961}, "trained on 40960", id="past the trained"),
        pytest.param("Qwen2.5-7B", "h100", 8, None, {"tensor_parallel": 8}, "28 heads", id="TP 8 of 28 heads"),
        pytest.param("Llama-3.1-8B", "h100", 2, None, {"tensor_parallel": 4}, "needs 4 GPUs", id="too few GPUs"),
        pytest.param("Llama-3.1-8B", "h100", 1, None, {"k_format": "q8_0"}, "q8_0", id="ggml cache"),
        pytest.param("Llama-3.1-8B", "h100", 1, None, {"k_format": "fp8", "v_format": "bf16"}, "one format", id="K, V"),
        pytest.param("Llama-3.1-8B", "t4", 1, None, {"k_format": "fp8"}, "8.9", id="fp8 cache on Turing"),
        pytest.param("DeepSeek-V2-Lite", "a100", 1, None, {"k_format": "fp8"}, "8.9", id="fp8 latent cache on Ampere"),
        pytest.param("Qwen2.5-7B", "h100", 4, "w4a16", {"n_sequences": 0}, "at least 1", id="no sequence"),
        pytest.param("Qwen3-30B-A3B", "h100", 4, "w4a16", {"tensor_parallel": 4}, "groups", id="expert scales cut"),
        pytest.param(
            "Qwen3-30B-A3B", "h100", 5, None, {"data_parallel": 5}, "TP 1 x DP 5.*width 768", id="DP 5 of 768"
        ),
        pytest.param(
            "Llama-3.1-8B", "h100", 1, None, {"step_tokens": 64, "max_num_seqs": 128}, "64 tokens", id="small steps"
        ),
        pytest.param(
            "Llama-3.1-8B",
            "h100",
            1,
            None,
            {"step_tokens": 512, "max_num_seqs": 8, "chunked_prefill": False},
            "not cut into chunks",
            id="steps shorter than an uncut prompt",
        ),
    ],
)
def test_refusals_say_why_and_what_would_do(
    name: str, gpu: str, n: int, fmt: str | None, workload: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RefusedError, match=reason) as caught:
        engine(name, gpu, n, fmt).propose(Workload(**workload))

    assert caught.value.hint


def test_the_next_smaller_size_that_divides_is_offered() -> None:
    with pytest.raises(RefusedError) as caught:
        engine("Qwen2.5-7B", n=8).propose(Workload(tensor_parallel=8))

    assert caught.value.hint == "--tp 4 or --pp 8"


@pytest.mark.parametrize(("gpu", "is_said"), [("rtx3090", True), ("rtx4090", False)])
def test_formats_the_card_only_stores_are_named(gpu: str, is_said: bool) -> None:
    notes = engine("Llama-3.1-8B", gpu, fmt="fp8").propose(Workload(n_context=1024)).notes

    assert any("weight-only here" in note for note in notes) is is_said


def test_a_release_is_named_where_the_engine_does_not_quantise() -> None:
    notes = {fmt: engine("Llama-3.1-8B", fmt=fmt).propose(Workload()).notes for fmt in ("awq-4bit", "fp8")}

    assert any("does not quantise to awq-4bit" in note for note in notes["awq-4bit"])
    assert not any("does not quantise" in note for note in notes["fp8"])


def test_versions_before_the_first_are_refused() -> None:
    with pytest.raises(RefusedError, match=r"0\.6\.3"):
        engine("Llama-3.1-8B", version="0.6.3")


def test_unknown_formats_suggest_near_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        engine("Llama-3.1-8B", fmt="awq-4bits")

    assert "awq-4bit" in caught.value.hint


def test_turing_runs_bf16_as_f16_and_gemma_as_f32() -> None:
    assert engine("Llama-3.1-8B", "t4").weight_format == "f16"
    assert engine("Gemma-3-27B", "t4").weight_format == "f32"
    assert engine("gemma-7b", "t4").weight_format == "f16"


# ---- the command


def test_the_command_names_only_what_differs() -> None:
    bound = engine("Llama-3.1-8B", n=2, fmt="fp8")
    plain = bound.command(bound.propose(Workload(n_context=8192, tensor_parallel=1)))
    full = bound.command(
        bound.propose(
            Workload(
                n_context=8192,
                k_format="fp8",
                memory_share=Fraction("0.8"),
                max_num_seqs=64,
                step_tokens=4096,
                enforce_eager=True,
                block_tokens=32,
                chunked_prefill=True,
                prefix_caching=False,
                kv_offload_bytes=16 * GIB,
            )
        )
    )

    assert " ".join(plain) == "vllm serve org/Llama-3.1-8B --max-model-len 8192 --quantization fp8"
    assert " ".join(full) == (
        "vllm serve org/Llama-3.1-8B --max-model-len 8192 --gpu-memory-utilization 0.8 --quantization fp8"
        " --kv-cache-dtype fp8 --tensor-parallel-size 2 --max-num-seqs 64 --max-num-batched-tokens 4096"
        " --block-size 32 --kv-offloading-size 16 --no-enable-prefix-caching --enforce-eager"
    )


# ---- properties


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["Llama-3.1-8B", "Gemma-3-27B", "gpt-oss-20b", "DeepSeek-V3"]),
    context=st.integers(1, 100_000),
    more=st.integers(0, 31_000),
    tensor=st.sampled_from([1, 2, 4]),
)
def test_more_context_never_needs_less(name: str, context: int, more: int, tensor: int) -> None:
    bound = engine(name, "h100", 4)
    need = [
        settled(bound, n_context=n, step_tokens=2048, tensor_parallel=tensor)[1].n_bytes
        for n in (context, context + more)
    ]

    assert need[0] <= need[1]


@settings(max_examples=60, deadline=None)
@given(
    n_layers=st.integers(4, 40),
    kv=st.sampled_from([4, 8, 16]),
    ff=st.integers(1, 40),
    experts=st.booleans(),
    tied=st.booleans(),
    sizes=st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.sampled_from([1, 2, 4])),
    whole=st.booleans(),
    fmt=st.sampled_from(["bf16", "fp8-channel"]),
)
def test_ranks_sum_to_the_model_and_what_is_replicated(
    n_layers: int, kv: int, ff: int, experts: bool, tied: bool, sizes: tuple[int, int, int], whole: bool, fmt: str
) -> None:
    tensor, pipeline, data = sizes
    mlp = moe(32, 2, 32 * ff, shared_ff_dim=64) if experts else gated(32 * ff)
    head = "tied" if tied else "separate"
    spec = model("Made-up", 512, 6400, uniform(n_layers, gqa(16, kv, 32), mlp), ((2048, 32),), head=head)
    alone = weights_of(settled(bind(Setup(spec, machine("h100"), fmt)), n_context=128)[1]).values
    bound = bind(Setup(spec, machine("h100", tensor * pipeline * data), fmt))
    asked = {"tensor_parallel": tensor, "pipeline_parallel": pipeline, "data_parallel": data, "expert_parallel": whole}
    _, ledger = settled(bound, n_context=128, **asked)
    parts = [weights_of(ledger, f"gpu{rank}").values for rank in range(tensor * pipeline * data)]
    total = {role: sum(part.get(role, 0) for part in parts) for role in alone}
    width, scale = (2, 0) if fmt == "bf16" else (1, 4)
    times = dict.fromkeys(alone, data)  # a replica holds all of it
    times |= dict.fromkeys(("norm", "router", "layer_scales", "dropped_scales"), tensor * data)  # every rank
    times |= {"experts": 1, "rope_tables": tensor * pipeline * data}  # once; every rank of every stage
    extra = dict.fromkeys(alone, 0)
    copies = max(1, tensor // kv) - 1  # of KV heads that ranks outnumber
    extra["attention"] = data * n_layers * copies * 2 * kv * 32 * (512 * width + scale)
    extra["embedding"] = data * 6400 * 512 * 2 if tied and pipeline > 1 else 0  # the last stage's own, as its head
    rows_cut = tensor - 1  # a row-parallel matrix keeps its rows, and so their scales, on every rank
    extra["attention"] += data * n_layers * rows_cut * 512 * scale
    extra["mlp"] = extra["shared_experts"] = data * n_layers * rows_cut * 512 * scale
    extra["experts"] = 0 if whole else n_layers * 32 * (tensor * data - 1) * 512 * scale

    assert total == {role: times[role] * n + extra.get(role, 0) for role, n in alone.items()}


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    gpu=st.sampled_from(["h100", "rtx4090", "b200"]),
    version=st.sampled_from(vllm.VERSIONS),
    n=st.sampled_from([1, 2, 4]),
)
def test_every_formula_evaluates_to_its_line(name: str, gpu: str, version: str, n: int) -> None:
    newer = MODELS[name].features() & {"indexer", "recurrent state", "compressed attention"}
    try:
        bound = engine(name, gpu, n, version=version)
    except RefusedError:
        bound = None
    if bound is None:
        assert newer
        return
    proposal, ledger = settled(bound, n_context=128)

    assert bound.propose(replace(proposal.workload)).workload == proposal.workload
    for line in ledger.lines:
        assert evaluate(line.formula, line.values) == line.n_bytes, line.formula


@pytest.mark.parametrize("card", ["gtx1080ti", "p40"])
def test_cards_older_than_volta_are_refused(card: str) -> None:
    pascal = Machine(gpus=(gpu_registry().resolve(card),))
    with pytest.raises(RefusedError, match=r"needs compute capability 7\.0; .* has 6\.1"):
        bind(Setup(MODELS["Llama-3.1-8B"], pascal))
