"""Ollama 0.5 to 0.11: layers placed by its own estimate, which ``ollama ps`` printed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.llama_cpp_models import MODELS, hypothetical

from vramcalc.api import load_model
from vramcalc.engines._ollama.early import EARLY_RULES
from vramcalc.engines._ollama.estimator import Shape, estimate
from vramcalc.engines.base import Engine, Setup
from vramcalc.engines.ollama import EARLY_VERSIONS, bind
from vramcalc.errors import RefusedError
from vramcalc.estimation import Outcome, estimate_outcome
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.registry import gpu_registry
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB, MIB


def model(name: str, architecture: str) -> ModelSpec:
    return load_model(name).model_copy(update={"gguf_architecture": architecture})


def outcome(spec: ModelSpec, gpu: str, version: str, workload: Workload | None = None) -> tuple[Engine, Outcome]:
    machine = Machine(gpus=resolve_cards(gpu, gpu_registry()).gpus, host_memory_bytes=64 * GIB)
    engine = bind(Setup(spec, machine, None, version))
    return engine, estimate_outcome(engine, machine, workload or Workload())


def ps(engine: Engine, found: Outcome) -> str:
    return engine.readouts(found.proposal, found.ledger)[0].text


def test_the_versions_named_are_those_with_rules() -> None:
    assert tuple(rules.version for rules in EARLY_RULES) == EARLY_VERSIONS


def test_the_estimate_equals_a_log() -> None:
    # a log of 0.5: 28 layers of Llama 3.2 3B, 8192 tokens in 4 slots: "required.full" 3.7 GiB
    engine, found = outcome(model("llama3.2:3b", "llama"), "82417MiB", "0.5.1")
    readout = engine.readouts(found.proposal, found.ledger)[0]

    assert f"{readout.n_bytes / GIB:.1f}" == "3.7"
    assert found.proposal.workload.n_context == 2048
    assert found.proposal.workload.n_slots == 4


@pytest.mark.parametrize(
    ("version", "n_context", "n_slots"),
    [
        pytest.param("0.5.7", 2048, 4, id="0.5: 2048 x 4"),
        pytest.param("0.6.6", 2048, 4, id="0.6.6: 2048 x 4"),
        pytest.param("0.6.7", 4096, 2, id="0.6.7: 4096 x 2"),
        pytest.param("0.9.6", 4096, 2, id="0.9: 4096 x 2"),
        pytest.param("0.11.4", 4096, 1, id="0.11: 4096 x 1"),
    ],
)
def test_defaults_by_release(version: str, n_context: int, n_slots: int) -> None:
    _, found = outcome(model("deepseek-r1-8b", "llama"), "rtx3060", version)

    assert (found.proposal.workload.n_context, found.proposal.workload.n_slots) == (n_context, n_slots)


def test_fewer_slots_before_a_layer_leaves() -> None:
    spec = model("deepseek-r1-8b", "llama")

    assert outcome(spec, "7168MiB", "0.5")[1].proposal.workload.n_slots == 4
    assert outcome(spec, "6656MiB", "0.5")[1].proposal.workload.n_slots == 1


def test_it_printed_more_than_it_took() -> None:
    engine, found = outcome(model("deepseek-r1:14b", "qwen2"), "rtx3060", "0.5.7")

    assert ps(engine, found) == "11 GB  100% GPU"
    assert sum(b.need.n_bytes for b in found.balances.values()) < 10 * GIB


def test_layers_leave_from_the_first_and_the_output_before_them() -> None:
    engine, found = outcome(model("llama3.1:70b", "llama"), "rtx3060", "0.5.7")
    placement = found.proposal.placement

    assert found.verdict == "offloads"
    assert placement.output_device == "host"
    assert placement.layers == ("host",) * (80 - placement.gpu_layers) + ("gpu0",) * placement.gpu_layers
    assert ps(engine, found) == "44 GB  72%/28% CPU/GPU"


def test_layers_are_dealt_over_all_cards_where_none_holds_them() -> None:
    # 20 each and the output to the first: --tensor-split 21,20,20,20, dealt as ranges with the output last
    _, found = outcome(model("llama3.1:70b", "llama"), "4xrtx4090", "0.7")

    assert [found.proposal.placement.layers_on(f"gpu{i}") for i in range(4)] == [21, 20, 20, 19]


def test_num_gpu_stops_the_deal() -> None:
    _, found = outcome(model("deepseek-r1-8b", "llama"), "rtx3060", "0.5", Workload(gpu_layers=10))

    assert found.proposal.placement.gpu_layers == 10


def test_the_command_sets_what_differs() -> None:
    load = Workload(n_context=8192, k_format="q8_0", v_format="q8_0", flash_attention=True)
    engine, found = outcome(model("deepseek-r1-8b", "llama"), "rtx3090", "0.6.7", load)

    assert engine.command(found.proposal)[:5] == (
        "env",
        "OLLAMA_NUM_PARALLEL=2",
        "OLLAMA_FLASH_ATTENTION=1",
        "OLLAMA_KV_CACHE_TYPE=q8_0",
        "OLLAMA_CONTEXT_LENGTH=8192",
    )


def test_flash_attention_was_off_and_a_quantised_cache_needs_it() -> None:
    with pytest.raises(RefusedError, match="needs flash attention"):
        outcome(model("deepseek-r1-8b", "llama"), "rtx3060", "0.5", Workload(k_format="q8_0", v_format="q8_0"))


@pytest.mark.parametrize("name", ["Gemma-3-27b", "bge-m3", "DeepSeek-V2-Lite"])
def test_what_ran_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(RefusedError, match="only models of full attention") as caught:
        bind(Setup(MODELS[name], Machine(gpus=(hypothetical(24 * GIB),)), None, "0.9"))

    assert "ollama@0.30" in caught.value.hint


SHAPES = st.builds(
    lambda architecture, layer, cache, n_layers, n_context: Shape(
        architecture=architecture,
        hidden_dim=4096,
        n_heads=32,
        n_kv_heads=8,
        head_dim=128,
        vocabulary=128_256,
        layer_bytes=(layer,) * n_layers,
        kv_bytes=(cache,) * n_layers,
        output_bytes=400 * MIB,
        n_context=n_context,
        n_batch=512,
    ),
    st.sampled_from(["llama", "qwen2", "gemma2", "command-r", "phi2", "stablelm", "another"]),
    st.integers(1, 900 * MIB),
    st.integers(0, 400 * MIB),
    st.integers(1, 100),
    st.integers(1, 1 << 17),
)


@given(SHAPES, st.lists(st.integers(0, 80 * GIB), min_size=1, max_size=4), st.integers(0, GIB), st.booleans())
def test_no_card_is_dealt_more_than_is_free(shape: Shape, free: list[int], overhead: int, metal: bool) -> None:
    found = estimate(shape, free, asked_layers=None, overhead=overhead, metal=metal)
    n_layers = len(shape.layer_bytes)

    assert found.n_layers <= n_layers + 1
    assert all(held + overhead <= room for held, room in zip(found.card_bytes, free, strict=True) if held)
    assert found.total_bytes >= sum(shape.layer_bytes) + sum(shape.kv_bytes) + shape.output_bytes
