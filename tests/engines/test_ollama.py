"""Ollama's choices of context, batch and cards; the bill itself is llama.cpp's.

Source of the rules: Ollama 0.33, llm/llama_server.go and server/sched.go, read; no run is behind them.
"""

from functools import cache
from typing import Any

import pytest
from tests.engines.llama_cpp_models import MODELS, hypothetical

from vramcalc.engines import ollama
from vramcalc.engines.base import Proposal, Setup
from vramcalc.engines.llama_cpp import bind as bind_llama_cpp
from vramcalc.engines.ollama import Ollama, bind
from vramcalc.errors import RefusedError
from vramcalc.ledger import HOST, Component
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB, MIB


@cache
def engine(name: str, *free: int, fmt: str | None = None) -> Ollama:
    bound = bind(Setup(MODELS[name], Machine(gpus=tuple(hypothetical(n) for n in free)), fmt))
    assert isinstance(bound, Ollama)
    return bound


def proposed(bound: Ollama, **workload: Any) -> Proposal:
    return bound.propose(Workload(**workload))


@pytest.mark.parametrize(
    ("name", "free", "n_context"),
    [
        pytest.param("Llama-3.1-8B", (12 * GIB,), 4096, id="below 23 GiB: 4096"),
        pytest.param("Llama-3.1-8B", (23 * GIB - 1,), 4096, id="a byte below 23 GiB: 4096"),
        pytest.param("Llama-3.1-8B", (23 * GIB,), 32_768, id="from 23 GiB: 32768"),
        pytest.param("Llama-3.1-8B", (12 * GIB, 12 * GIB), 32_768, id="12 + 12 GiB: 32768"),
        pytest.param("Llama-3.1-8B", (48 * GIB,), 131_072, id="from 47 GiB: 262144, capped at trained 131072"),
        pytest.param("Phi-4", (24 * GIB,), 16_384, id="32768 capped at trained 16384"),
        pytest.param("bge-m3", (80 * GIB,), 8192, id="an encoder: trained 8192"),
    ],
)
def test_the_context_goes_by_total_vram(name: str, free: tuple[int, ...], n_context: int) -> None:
    proposal = proposed(engine(name, *free))

    assert proposal.workload.n_context == n_context
    assert any(f"{n_context} tokens of context" in note for note in proposal.notes)


@pytest.mark.parametrize(
    ("name", "free", "workload", "step_tokens"),
    [
        pytest.param("Llama-3.1-8B", 24 * GIB, {"n_context": 4096}, 512, id="up to 4096: 512"),
        pytest.param("Llama-3.1-8B", 24 * GIB, {"n_context": 4097}, 1024, id="above 4096: 1024"),
        pytest.param("Llama-3.1-8B", 80 * GIB, {"n_context": 32_768}, 1024, id="up to 32768: 1024"),
        pytest.param("Llama-3.1-8B", 80 * GIB, {"n_context": 32_769}, 2048, id="above 32768: 2048"),
        pytest.param("Llama-3.1-8B", 80 * GIB, {"n_context": 2048, "n_slots": 4}, 1024, id="4 slots * 2048: 1024"),
        pytest.param(
            "Llama-3.1-8B", 14 * GIB, {"n_context": 40_960}, 1024, id="4.6 + 5.0 GiB is above 60 % of 14 GiB: 1024"
        ),
        pytest.param("Llama-3.1-8B", 11 * GIB, {"n_context": 40_960}, 512, id="9.6 GiB is above 75 % of 11 GiB: 512"),
        pytest.param("Llama-3.1-8B", 24 * GIB, {"n_context": 8192, "step_tokens": 256}, 256, id="as asked"),
        pytest.param("Llama-3.1-8B", 24 * GIB, {"n_context": 8192, "flash_attention": False}, 512, id="no FA: 512"),
        pytest.param("bge-m3", 24 * GIB, {"n_context": 8192}, 2048, id="encoder: min(2048, context)"),
        pytest.param("bge-m3", 24 * GIB, {"n_context": 512}, 512, id="encoder: min(2048, 512)"),
    ],
)
def test_the_batch_goes_by_context_and_room(name: str, free: int, workload: dict[str, Any], step_tokens: int) -> None:
    assert proposed(engine(name, free), **workload).workload.step_tokens == step_tokens


def test_one_slot_and_separate_streams() -> None:
    alone, four = (proposed(engine("Qwen3-8B", 24 * GIB), n_context=2048, n_sequences=n) for n in (None, 4))

    assert (alone.workload.n_slots, alone.workload.kv_unified) == (1, False)
    assert (four.workload.n_slots, four.workload.kv_unified) == (4, False)


def test_gated_delta_nets_have_one_slot() -> None:
    proposal = proposed(engine("Qwen3.5-27B", 24 * GIB), n_sequences=4, n_context=4096)

    assert proposal.workload.n_slots == 1
    assert "Ollama gives Qwen3.5-27B one slot: requests run one after another" in proposal.notes
    assert proposed(engine("Mamba2-2.7B", 24 * GIB), n_sequences=4, n_context=4096).workload.n_slots == 4


def test_one_slot_goes_by_architecture() -> None:
    shape = MODELS["Qwen3-8B"]
    for architecture, n_slots in (("qwen3vl", 1), ("qwen3", 4), ("nemotron_h", 1)):
        model = shape.model_copy(update={"gguf_architecture": architecture})
        bound = bind(Setup(model, Machine(gpus=(hypothetical(24 * GIB),)), "q4_k_m"))
        assert isinstance(bound, Ollama)

        assert proposed(bound, n_sequences=4, n_context=4096).workload.n_slots == n_slots


def test_an_encoder_has_one_slot() -> None:
    proposal = proposed(engine("bge-m3", 24 * GIB), n_sequences=8)

    assert proposal.workload.n_slots == 1
    assert any("one slot" in note for note in proposal.notes)


@pytest.mark.parametrize(
    ("free", "devices"),
    [
        pytest.param((24 * GIB, 12 * GIB), {"gpu0"}, id="fits the first card"),
        pytest.param((12 * GIB, 24 * GIB), {"gpu1"}, id="the card with most free memory"),
        pytest.param((6 * GIB, 6 * GIB), {"gpu0", "gpu1"}, id="5.1 GiB is above 80 % of 6 GiB: both"),
    ],
)
def test_one_card_where_it_is_enough(free: tuple[int, ...], devices: set[str]) -> None:
    bound = engine("Llama-3.1-8B", *free)
    proposal = proposed(bound, n_context=4096)

    assert {*proposal.placement.layers, proposal.placement.output_device} == devices
    assert set(bound.budgets(proposal)) == devices
    assert {x.device for x in bound.bill(proposal).lines} == devices | {HOST}


def test_layers_give_way_and_never_the_context() -> None:
    proposal = proposed(engine("Llama-3.3-70B", 24_064 * MIB), n_context=8192)

    assert proposal.workload.n_context == 8192
    assert 0 < proposal.placement.layers.count(HOST) < 80


def test_the_bill_is_that_of_llama_cpp() -> None:
    machine = Machine(gpus=(hypothetical(24 * GIB),))
    load = Workload(n_context=8192, n_slots=2, kv_unified=False, step_tokens=1024)
    bills = [
        bound.bill(bound.propose(load))
        for bound in (bind(Setup(MODELS["Gemma-3-4b"], machine)), bind_llama_cpp(Setup(MODELS["Gemma-3-4b"], machine)))
    ]

    assert bills[0] == bills[1]
    assert bills[0].of_component(Component.KV_CACHE).n_bytes == 2 * (5 * 8192 + 29 * 2048) * 2 * 1024 * 2


@pytest.mark.parametrize(
    ("workload", "command"),
    [
        ({"n_context": 8192}, ("env", "OLLAMA_CONTEXT_LENGTH=8192", "ollama", "run", "qwen3-8b")),
        (
            {"n_context": 512, "n_slots": 2, "k_format": "q8_0"},
            (
                *("env", "OLLAMA_CONTEXT_LENGTH=512", "OLLAMA_NUM_PARALLEL=2", "OLLAMA_KV_CACHE_TYPE=q8_0"),
                *("ollama", "run", "qwen3-8b"),
            ),
        ),
        (
            {"n_context": 512, "flash_attention": False},
            ("env", "OLLAMA_CONTEXT_LENGTH=512", "OLLAMA_FLASH_ATTENTION=0", "ollama", "run", "qwen3-8b"),
        ),
    ],
)
def test_command(workload: dict[str, Any], command: tuple[str, ...]) -> None:
    bound = engine("Qwen3-8B", 24 * GIB)

    assert bound.command(proposed(bound, **workload)) == command


def test_the_models_tag_and_its_format() -> None:
    model = MODELS["Qwen3-8B"].model_copy(update={"ollama_tags": ("qwen3:8b",), "ollama_format": "q8_0"})
    bound = bind(Setup(model, Machine(gpus=(hypothetical(24 * GIB),))))

    assert isinstance(bound, Ollama)
    assert bound.weight_format == "q8_0"
    assert bound.command(proposed(bound, n_context=512))[-1] == "qwen3:8b"


@pytest.mark.parametrize(
    ("workload", "fact"),
    [
        ({"cpu_moe": 4}, "experts in host memory"),
        ({"kv_unified": True}, "separate streams"),
        ({"swa_full": True}, "sliding caches"),
        ({"k_format": "q8_0", "v_format": "f16"}, "one type"),
        ({"k_format": "q5_1"}, "f16, q8_0 or q4_0"),
        ({"n_slots": 2, "n_sequences": 4}, "cannot hold 4 sequences"),
    ],
)
def test_refusals(workload: dict[str, Any], fact: str) -> None:
    with pytest.raises(RefusedError, match=fact) as caught:
        proposed(engine("Qwen3-8B", 24 * GIB), n_context=512, **workload)

    assert caught.value.hint


@pytest.mark.parametrize(
    ("version", "rules"), [("0.30", "0.30"), ("0.32.1", "0.30"), ("v0.33.0", "0.33"), ("0.40", "0.33")]
)
def test_versions_take_the_nearest_earlier_rules(version: str, rules: str) -> None:
    assert bind(Setup(MODELS["Qwen3-8B"], Machine(gpus=(hypothetical(GIB),)), None, version)).version == rules


@pytest.mark.parametrize("version", ["0.24.0", "0.12", "0.4.9", "latest"])
def test_versions_without_rules_are_refused(version: str) -> None:
    with pytest.raises(RefusedError) as caught:
        bind(Setup(MODELS["Qwen3-8B"], Machine(gpus=(hypothetical(GIB),)), None, version))

    assert ollama.VERSIONS[0] in caught.value.hint or ollama.VERSIONS[-1] in caught.value.hint
