"""llama.cpp's bill and fit against the engine's own figures.

Sources of the tables beside this file:
    llama_cpp_measured.csv, llama_cpp_fit.csv: llama.cpp 0c1e570, own probe on memory-less CUDA-like devices with
        llama-server's settings; the first lists what the engine allocates, cache and recurrent state in one, the
        second what its fit decides
"""

import csv
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.arithmetic import evaluate
from tests.engines.llama_cpp_models import MODELS, full, gated, hypothetical, model, stack, windowed

from vramcalc.engines import llama_cpp
from vramcalc.engines.base import Proposal, Setup
from vramcalc.engines.llama_cpp import LlamaCpp, bind
from vramcalc.errors import RefusedError, UnknownNameError
from vramcalc.ledger import HOST, Basis, Component, Ledger
from vramcalc.specs.gpu import GpuSpec, Memory
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB, MIB

HERE = Path(__file__).parent
ROOMY = 2048 * GIB
SPREAD = 0.002  # of a compute buffer
HOST_SCAN_SPREAD = 0.022  # the same where a Mamba 2 has layers in host memory


def rows(name: str) -> list[dict[str, str]]:
    with (HERE / name).open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def engine(name: str, fmt: str | None = "q4_k_m", *free: int) -> LlamaCpp:
    gpus = tuple(hypothetical(n) for n in free or (ROOMY,))
    return bind(Setup(MODELS[name], Machine(gpus=gpus), fmt))


def settled(bound: LlamaCpp, **workload: Any) -> tuple[Proposal, Ledger]:
    proposal = bound.propose(Workload(**workload))
    return proposal, bound.bill(proposal)


def held(ledger: Ledger, device: str, component: Component) -> int:
    return ledger.on(device).of_component(component).n_bytes


def workload_of(row: dict[str, str]) -> dict[str, Any]:
    return {
        "n_context": int(row["n_context"]) if row["n_context"] else None,
        "n_slots": int(row["n_slots"]),
        "kv_unified": row["unified"] == "1",
        "step_tokens": int(row["step_tokens"]),
        "k_format": row["k_format"],
    }


@pytest.mark.parametrize("row", rows("llama_cpp_measured.csv"), ids=lambda r: "-".join(list(r.values())[:13]))
def test_agrees_with_what_the_engine_allocates(row: dict[str, str]) -> None:
    free = [ROOMY * int(share) for share in row["split"].split(":")] if row["split"] else [ROOMY]
    _, ledger = settled(
        engine(row["model"], row["format"], *free),
        **workload_of(row),
        v_format=row["v_format"],
        flash_attention={"": None, "0": False, "1": True}[row["flash_attention"]],
        swa_full=row["swa_full"] == "1",
        gpu_layers=None if row["cpu_moe"] else int(row["gpu_layers"]),
        cpu_moe=int(row["cpu_moe"]) if row["cpu_moe"] else None,
    )

    for device in ("gpu0", "gpu1", "host"):
        if not row[f"{device}_weights"]:
            continue
        assert held(ledger, device, Component.WEIGHTS) == int(row[f"{device}_weights"])
        cached = held(ledger, device, Component.KV_CACHE) + held(ledger, device, Component.STATE)
        assert cached == int(row[f"{device}_cache"])
        buffers = [x for x in ledger.on(device).of_component(Component.COMPUTE_BUFFER).lines if "output" not in x.why]
        measured = int(row[f"{device}_compute"])
        spread = HOST_SCAN_SPREAD if any(x.basis is Basis.FITTED for x in buffers) else SPREAD
        assert sum(x.n_bytes for x in buffers) == pytest.approx(measured, rel=spread)
        assert sum(x.low_bytes for x in buffers) <= measured <= sum(x.high_bytes for x in buffers)


@pytest.mark.parametrize("row", rows("llama_cpp_fit.csv"), ids=lambda r: "-".join(list(r.values())[:8]))
def test_agrees_with_what_the_fit_decides(row: dict[str, str]) -> None:
    free = [int(n) * MIB for n in row["free_mib"].split("+")]
    v_format = row["k_format"]
    proposal, ledger = settled(engine(row["model"], row["format"], *free), **workload_of(row), v_format=v_format)
    load, placement = proposal.workload, proposal.placement
    assert load.n_context
    assert load.n_slots
    on_gpus = [placement.layers_on(d) + (placement.output_device == d) for d in ("gpu0", "gpu1")[: len(free)]]

    assert load.n_context * (1 if load.kv_unified else load.n_slots) == int(row["decided_total_context"])
    assert sum(on_gpus) == int(row["decided_gpu_layers"])
    if row["layers_per_gpu"]:
        assert on_gpus == [int(n) for n in row["layers_per_gpu"].split(",")]
    for device in ("gpu0", "gpu1"):
        if row[f"{device}_bytes"]:
            assert ledger.on(device).n_bytes == pytest.approx(int(row[f"{device}_bytes"]), rel=SPREAD)


def test_the_weights_of_a_public_log() -> None:
    _, ledger = settled(engine("Llama-3.1-8B"), n_context=2048, n_slots=1)

    assert held(ledger, "gpu0", Component.WEIGHTS) == 4_617_396_480  # CUDA0 model buffer size = 4403.49 MiB
    assert held(ledger, HOST, Component.WEIGHTS) == 295_501_824  # token_embd, 281.81 MiB


@pytest.mark.parametrize(
    ("name", "workload", "expected"),
    [
        pytest.param("Llama-3.1-8B", {"n_context": 2048}, 268_435_456, id="32 layers * 2048 * 2 * 1024 * 2 B"),
        pytest.param("Llama-3.1-8B", {"n_context": 2000}, 268_435_456, id="padded to 256"),
        pytest.param("Llama-3.1-8B", {"n_context": 2048, "n_slots": 4}, 1_073_741_824, id="four streams"),
        pytest.param(
            "Llama-3.1-8B", {"n_context": 2048, "n_slots": 4, "kv_unified": True}, 268_435_456, id="one pool for all"
        ),
        pytest.param("DeepSeek-V2-Lite", {"n_context": 8192}, 27 * 8192 * 576 * 2, id="latent: 27 * 8192 * 576 * 2 B"),
        pytest.param(
            "Gemma-3-4b",
            {"n_context": 8192, "n_slots": 1},
            (5 * 8192 + 29 * 1536) * 2 * 1024 * 2,
            id="5 full * 8192 + 29 windows * (1024 + 512)",
        ),
        pytest.param(
            "Gemma-3-4b",
            {"n_context": 8192, "n_slots": 1, "swa_full": True},
            34 * 8192 * 2 * 1024 * 2,
            id="--swa-full: 34 * 8192",
        ),
        pytest.param("bge-m3", {"n_context": 8192}, 0, id="an encoder caches nothing"),
        pytest.param("Mamba2-2.7B", {"n_context": 8192}, 0, id="nothing but states"),
        pytest.param(
            "Granite-4.0-H-Small",
            {"n_context": 8192, "n_slots": 1},
            4 * 8192 * 2 * 1024 * 2,
            id="the 4 layers of 40 with attention",
        ),
        pytest.param(
            "Qwen3-Next-80B-A3B",
            {"n_context": 8192, "n_slots": 1},
            12 * 8192 * 2 * 512 * 2,
            id="every fourth of 48 layers",
        ),
    ],
)
def test_cache_by_hand(name: str, workload: dict[str, Any], expected: int) -> None:
    _, ledger = settled(engine(name), **workload)

    assert held(ledger, "gpu0", Component.KV_CACHE) == expected


def test_a_window_the_file_does_not_carry_saves_nothing() -> None:
    a = full(32, 8, 128)
    layers = {is_read: stack(32, windowed(a, 4096, gguf_window=is_read), gated(14336)) for is_read in (True, False)}
    caches = [
        held(settled(bind(setup), n_context=32_768, n_slots=1)[1], "gpu0", Component.KV_CACHE)
        for setup in (
            Setup(model("windowed", 4096, 32_000, 32_768, s), Machine(gpus=(hypothetical(ROOMY),)), None)
            for s in layers.values()
        )
    ]

    assert caches == [32 * (4096 + 512) * 4096, 32 * 32_768 * 4096]


def test_the_server_takes_four_slots_and_one_pool() -> None:
    proposal, ledger = settled(engine("Llama-3.1-8B", None, 8192 * MIB))

    assert (proposal.workload.n_slots, proposal.workload.kv_unified) == (4, True)
    assert proposal.workload.n_context == 20_992
    assert any("cut it to 20992 tokens" in note for note in proposal.notes)
    assert any("q4_k_m" in note for note in proposal.notes)
    output = next(x for x in ledger.lines if "output buffer" in x.why)
    assert (output.device, output.n_bytes) == (HOST, 4 * 128_256 * 4)


def test_the_fit_gives_up_context_before_layers() -> None:
    proposal, _ = settled(engine("Qwen3-30B-A3B", None, 11_776 * MIB))

    assert proposal.workload.n_context == 4096
    assert proposal.placement.layers.count(HOST) == 0
    assert proposal.placement.offloads
    assert proposal.placement.overrides[0].layer == 26
    assert any("before moving a layer" in note for note in proposal.notes)


def test_a_context_asked_for_stays() -> None:
    proposal, _ = settled(engine("Llama-3.3-70B", None, 24_064 * MIB), n_context=8192, n_slots=1)

    assert proposal.workload.n_context == 8192
    assert 80 - proposal.placement.layers.count(HOST) + 1 == 43


def test_a_context_the_fit_chose_holds_when_asked_for_again() -> None:
    bound = engine("Gemma-3-27b", None, 24_064 * MIB)  # windows make memory grow in steps: the straight line misses
    proposal = bound.propose(Workload())

    assert any("less than the engine's margin" in note for note in proposal.notes)
    assert bound.bill(bound.propose(proposal.workload)) == bound.bill(proposal)


def test_a_unified_pool_is_shared() -> None:
    proposal, _ = settled(engine("Qwen3-8B"), n_context=8192, n_sequences=4, kv_unified=True)

    assert "a unified cache is one pool: 4 sequences share 8192 tokens" in proposal.notes


def test_more_than_trained_is_allowed_and_said() -> None:
    proposal, _ = settled(engine("Qwen3-8B"), n_context=65_536)

    assert any("more context than the 40960 tokens" in note for note in proposal.notes)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["Llama-3.2-3B", "Gemma-3-4b", "Qwen3-30B-A3B", "DeepSeek-V2-Lite"]),
    context=st.integers(1, 20_000),
    more=st.integers(0, 20_000),
)
def test_more_context_never_needs_less(name: str, context: int, more: int) -> None:
    need = [settled(engine(name), n_context=n, n_slots=1)[1] for n in (context, context + more)]

    for device in ("gpu0", HOST):
        for component in (Component.WEIGHTS, Component.KV_CACHE, Component.COMPUTE_BUFFER):
            # the allocator's best fit wobbles by a few alignments
            assert held(need[0], device, component) <= held(need[1], device, component) * 1.001 + 65_536


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(["Qwen3-8B", "Qwen2-0.5B", "gpt-oss-20b", "Gemma-3-4b"]), layers=st.integers(0, 70))
def test_weights_only_move(name: str, layers: int) -> None:
    """A tied head is a copy of the embedding: it is there once more when the output is on a GPU."""
    ledger = settled(engine(name), n_context=512, gpu_layers=layers)[1].of_component(Component.WEIGHTS)
    all_on_host = settled(engine(name), n_context=512, gpu_layers=0)[1].of_component(Component.WEIGHTS)
    is_copied = MODELS[name].head == "tied" and layers > 0
    embedding = next(w.values["token_embedding"] for w in all_on_host.lines)
    padding = 4096 * 8 * (MODELS[name].layers.n_layers + 1)

    assert abs(ledger.n_bytes - is_copied * embedding - all_on_host.n_bytes) <= padding


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("free", [(4096,), (11_776,), (24_064, 11_776)], ids=str)
def test_every_line_evaluates(name: str, free: tuple[int, ...]) -> None:
    _, ledger = settled(engine(name, None, *(n * MIB for n in free)), n_context=4096)

    for line in ledger.lines:
        assert evaluate(line.formula, line.values) == line.n_bytes
        assert line.why
        assert line.source


@pytest.mark.parametrize(
    ("name", "workload", "words"),
    [
        pytest.param(
            "Llama-3.1-8B", {"n_context": 8192}, "-c 8192 -np 4 --kv-unified -ngl 33", id="defaults with a context"
        ),
        pytest.param("Llama-3.1-8B", {"n_context": 8192, "n_slots": 2}, "-c 16384 -np 2 -ngl 33", id="split streams"),
        pytest.param(
            "Llama-3.1-8B",
            {"n_context": 512, "k_format": "q8_0", "v_format": "q8_0", "gpu_layers": 10},
            "-ctk q8_0 -ctv q8_0 -ngl 10",
            id="cache types and layers",
        ),
        pytest.param("Qwen3-30B-A3B", {"n_context": 512, "cpu_moe": 12}, "-ngl 49 --n-cpu-moe 12", id="experts"),
        pytest.param("Gemma-3-4b", {"n_context": 512, "swa_full": True}, "--swa-full -ngl 35", id="--swa-full"),
        pytest.param("bge-m3", {"n_context": 512, "n_slots": 1}, "--embedding -ngl 25", id="encoder"),
    ],
)
def test_command(name: str, workload: dict[str, Any], words: str) -> None:
    bound = engine(name)
    command = bound.command(bound.propose(Workload(**workload)))

    assert command[:3] == ("llama-server", "-m", "MODEL.gguf")
    assert words in " ".join(command)


def test_the_command_names_what_the_fit_moved() -> None:
    bound = engine("Qwen3-30B-A3B", None, 11_776 * MIB)
    command = bound.command(bound.propose(Workload(n_context=4096)))

    assert "blk\\.(26)\\.(ffn_down_exps)=CPU" in command[command.index("-ot") + 1].split(",")


@pytest.mark.parametrize(
    ("name", "workload", "fact"),
    [
        ("Llama-3.1-8B", {"v_format": "q8_0", "flash_attention": False}, "needs flash attention"),
        ("DeepSeek-V2-Lite", {"k_format": "q8_0", "v_format": "f16"}, "caches K alone"),
        ("Llama-3.1-8B", {"k_format": "fp8"}, "no fp8 cache"),
        ("Llama-3.1-8B", {"n_slots": 2, "n_sequences": 4}, "cannot hold 4 sequences"),
    ],
)
def test_refusals(name: str, workload: dict[str, Any], fact: str) -> None:
    with pytest.raises(RefusedError, match=fact) as caught:
        engine(name).propose(Workload(n_context=2048, **workload))

    assert caught.value.hint


@pytest.mark.parametrize("fmt", ["awq-4bit", "fp8", "nvfp4"])
def test_checkpoint_formats_are_refused(fmt: str) -> None:
    with pytest.raises(RefusedError, match="reads GGUF files"):
        bind(Setup(MODELS["Qwen3-8B"], Machine(gpus=(hypothetical(ROOMY),)), fmt))


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="no weight format"):
        bind(Setup(MODELS["Qwen3-8B"], Machine(gpus=(hypothetical(ROOMY),)), "q9_z"))
    with pytest.raises(UnknownNameError, match="no cache format"):
        engine("Qwen3-8B").propose(Workload(n_context=512, k_format="q9"))


@pytest.mark.parametrize(("version", "known"), [("b10488", True), ("b99999", True), ("b3000", True), ("main", False)])
def test_builds(version: str, known: bool) -> None:
    setup = Setup(MODELS["Qwen3-8B"], Machine(gpus=(hypothetical(ROOMY),)), None, version)
    if known:
        assert bind(setup).version == llama_cpp.VERSIONS[-1]
    else:
        with pytest.raises(RefusedError):
            bind(setup)


def cuda_card(**facts: Any) -> GpuSpec:
    card = {
        "id": "card",
        "name": "card",
        "vendor": "nvidia",
        "architecture": "any",
        "year": 2022,
        "memory": Memory(advertised=24_564 * MIB),
        "bandwidth_gb_per_s": 1008.0,
        "compute_capability": "8.9",
        "n_sms": 128,
        "source": "not used here",
    }
    return GpuSpec(**(card | facts))


def test_the_context_of_a_card_nobody_measured() -> None:
    bound = bind(Setup(MODELS["Qwen3-8B"], Machine(gpus=(cuda_card(),)), None))
    (line,) = settled(bound, n_context=512)[1].of_component(Component.RUNTIME).lines

    assert line.n_bytes == 128 * 3 * MIB
    assert line.basis is Basis.FITTED
    assert line.low_bytes < line.n_bytes < line.high_bytes


def test_old_cards_run_without_flash_attention() -> None:
    bound = bind(Setup(MODELS["Qwen3-8B"], Machine(gpus=(cuda_card(compute_capability="5.2"),)), None))
    proposal = bound.propose(Workload(n_context=4096))

    assert proposal.workload.flash_attention is False
    assert any("flash attention is off" in note for note in proposal.notes)


def test_the_budget_leaves_the_reserve() -> None:
    machine = Machine(gpus=(hypothetical(12 * GIB),), reserve_bytes=GIB)
    bound = bind(Setup(MODELS["Qwen3-8B"], machine, None))
    budget = bound.budgets(bound.propose(Workload(n_context=512)))["gpu0"]

    assert (budget.capacity_bytes, budget.budget_bytes) == (12 * GIB, 11 * GIB)


def test_several_machines_are_refused() -> None:
    with pytest.raises(RefusedError, match="one machine"):
        bind(Setup(MODELS["Qwen3-8B"], Machine(gpus=(hypothetical(GIB),), nodes=2), None))
