"""What every engine promises, whichever it is."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.arithmetic import evaluate

from vramcalc.engines import ENGINE_NAMES, bind_engine, parse_engine
from vramcalc.engines.base import Engine, Setup
from vramcalc.errors import RefusedError, UnknownNameError
from vramcalc.estimation import Asked, Outcome, estimate_outcome
from vramcalc.ledger import HOST, Basis, Component
from vramcalc.solvers.limits import find_limits
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.registry import gpu_registry, model_registry
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB

MODELS = model_registry()
CARDS = gpu_registry()
MODEL_IDS = (
    "deepseek-r1-8b",  # grouped query
    "qwen2.5-0.5b",  # tied, small rows
    "gemma-3-4b",  # sliding, tower
    "phi-4",  # fused
    "gpt-oss-20b",  # experts, sinks, quantised release
    "qwen3-30b-a3b",
    "deepseek-v2-lite",  # latent
    "llama-3.3-70b",
    "bge-m3",  # encoder
    "qwen3.5-27b",  # recurrent beside attention
    "deepseek-v3.2",  # indexer
    "llama-4-scout",  # chunked
    "mamba2-2.7b",  # recurrent
)
MACHINES = ("rtx3060", "2xrtx4090", "h100", "11776MiB", "rtx4090+rtx3060", "t4")


def machine_of(text: str) -> Machine:
    return Machine(gpus=resolve_cards(text, CARDS).gpus, host_memory_bytes=64 * GIB)


def bound(name: str, model_id: str, machine: Machine, weight_format: str | None = None) -> Engine:
    return bind_engine(name, Setup(MODELS.resolve(model_id), machine, weight_format))


def outcome_or_skip(name: str, model_id: str, text: str, workload: Workload) -> tuple[Engine, Machine, Outcome]:
    machine = machine_of(text)
    try:
        engine = bound(name, model_id, machine)
        return engine, machine, estimate_outcome(engine, machine, workload)
    except RefusedError as error:
        refusal = error
    assert refusal.hint
    assert "\n" not in f"{refusal}{refusal.hint}"
    pytest.skip(f"refused, with its reason: {refusal}")


CASES = list(itertools.product(ENGINE_NAMES, MODEL_IDS, MACHINES))


@pytest.mark.parametrize(("name", "model_id", "text"), CASES)
def test_every_line_is_explained_and_adds_up(name: str, model_id: str, text: str) -> None:
    _, machine, outcome = outcome_or_skip(name, model_id, text, Workload(n_context=512))
    devices = {*machine.device_names(), HOST}

    assert outcome.ledger.lines
    for line in outcome.ledger.lines:
        assert evaluate(line.formula, line.values) == line.n_bytes, line.formula
        assert line.device in devices
        assert line.why
        assert line.source
        assert line.basis is not Basis.EXACT or line.low_bytes == line.high_bytes
    assert set(outcome.balances) <= set(machine.device_names())
    assert sum(outcome.ledger.of_component(c).n_bytes for c in Component) == outcome.ledger.n_bytes


@pytest.mark.parametrize(("name", "model_id", "text"), CASES)
def test_a_settled_workload_is_proposed_again_unchanged(name: str, model_id: str, text: str) -> None:
    engine, machine, outcome = outcome_or_skip(name, model_id, text, Workload(n_context=512))
    settled = outcome.proposal.workload

    assert settled.n_context
    assert settled.n_sequences
    assert estimate_outcome(engine, machine, settled).ledger == outcome.ledger


@pytest.mark.parametrize("name", ENGINE_NAMES)
@pytest.mark.parametrize("model_id", MODEL_IDS)
def test_the_command_names_a_program_and_the_context(name: str, model_id: str) -> None:
    engine, _, outcome = outcome_or_skip(name, model_id, "h100", Workload(n_context=512))
    command = engine.command(outcome.proposal)

    assert command
    assert all(command)
    assert any("512" in word for word in command)


@pytest.mark.parametrize("name", ENGINE_NAMES)
@pytest.mark.parametrize("model_id", ["deepseek-r1-8b", "gemma-3-4b", "deepseek-v2-lite"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(context=st.integers(1, 16384), more=st.integers(0, 16384))
def test_more_context_never_needs_less(name: str, model_id: str, context: int, more: int) -> None:
    machine = machine_of("h100")
    engine = bound(name, model_id, machine)
    need = [
        estimate_outcome(engine, machine, Workload(n_context=n, gpu_layers=999, step_tokens=512)).ledger
        for n in (context, context + more)
    ]

    for component in (Component.WEIGHTS, Component.KV_CACHE):
        assert need[0].of_component(component).n_bytes <= need[1].of_component(component).n_bytes


@pytest.mark.parametrize("name", ENGINE_NAMES)
@pytest.mark.parametrize("model_id", ["deepseek-r1-8b", "gemma-3-12b", "qwen3-14b"])
def test_the_limits_are_edges(name: str, model_id: str) -> None:
    machine = machine_of("rtx4090")
    model = MODELS.resolve(model_id)
    weight_format = {"vllm": "w4a16", "sglang": "w4a16", "tensorrt-llm": "awq-4bit"}.get(name)
    engine = bound(name, model_id, machine, weight_format)
    asked = Workload(n_context=2048)
    outcome = estimate_outcome(engine, machine, asked)
    settled = outcome.proposal.workload
    limits = find_limits(Asked(model, machine, name, None, weight_format, asked), outcome)

    def stays(workload: Workload) -> bool:
        return estimate_outcome(engine, machine, workload).stays_on_gpus

    assert limits.max_context
    assert limits.max_sequences
    assert stays(replace(settled, n_context=limits.max_context))
    assert stays(replace(asked, n_sequences=limits.max_sequences))
    assert not stays(replace(asked, n_sequences=limits.max_sequences + 1))
    if limits.max_context < model.context // 256 * 256:
        assert not stays(replace(settled, n_context=limits.max_context + 256))


@pytest.mark.parametrize("name", ENGINE_NAMES)
@pytest.mark.parametrize("weight_format", ["q9_z", "", "4bit", "nonsense"])
def test_unknown_formats_name_themselves(name: str, weight_format: str) -> None:
    with pytest.raises(UnknownNameError, match="no weight format is called"):
        bound(name, "deepseek-r1-8b", machine_of("h100"), weight_format)


@pytest.mark.parametrize(("name", "weight_format"), [("vllm", "q4_k_m"), ("ollama", "awq-4bit"), ("llama.cpp", "fp8")])
def test_formats_of_other_engines_are_refused_with_the_reason(name: str, weight_format: str) -> None:
    with pytest.raises(RefusedError) as caught:
        bound(name, "deepseek-r1-8b", machine_of("h100"), weight_format)

    assert weight_format in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "version"),
    [*itertools.product(ENGINE_NAMES, ["0.0.1", "one"]), ("ollama", "0.19.x.y"), ("llama.cpp", "0.19.x.y")],
)
def test_versions_nobody_knows_are_refused(name: str, version: str) -> None:
    with pytest.raises(RefusedError):
        bind_engine(name, Setup(MODELS.resolve("deepseek-r1-8b"), machine_of("h100"), None, version))


def test_engines_by_name() -> None:
    assert parse_engine("vLLM@0.19.0") == ("vllm", "0.19.0")
    assert parse_engine("llama-server") == ("llama.cpp", None)
    with pytest.raises(UnknownNameError) as caught:
        parse_engine("vlm")
    assert "vllm" in caught.value.hint
