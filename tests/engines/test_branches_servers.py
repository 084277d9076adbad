"""llama-server and Ollama where there is no card, or a switch is off."""

import pytest

from vramcalc.engines import bind_engine
from vramcalc.engines.base import Engine, Setup
from vramcalc.estimation import estimate_outcome
from vramcalc.ledger import HOST, Component
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.registry import gpu_registry, model_registry
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload


def engine(name: str, machine: Machine) -> Engine:
    return bind_engine(name, Setup(model_registry().resolve("llama-3.1-8b"), machine))


@pytest.mark.parametrize(
    ("name", "n_context", "cells"),
    [
        pytest.param("llama.cpp", 1024, 1024, id="llama.cpp: 1024 as asked"),
        pytest.param("ollama", None, 4096, id="Ollama: 4096 where there is no VRAM"),
    ],
)
def test_a_machine_without_cards_holds_all_in_host_memory(name: str, n_context: int | None, cells: int) -> None:
    machine = Machine(gpus=())
    outcome = estimate_outcome(engine(name, machine), machine, Workload(n_context=n_context))

    assert outcome.verdict == "offloads"
    assert {line.device for line in outcome.ledger.lines} == {HOST}
    assert outcome.ledger.of_component(Component.WEIGHTS).n_bytes == 4_912_898_304
    assert outcome.ledger.of_component(Component.KV_CACHE).n_bytes == 32 * cells * 2 * 8 * 128 * 2


def test_flash_attention_switched_off_is_in_the_command() -> None:
    bound = engine("llama.cpp", Machine(gpus=resolve_cards("rtx4090", gpu_registry()).gpus))
    proposal = bound.propose(Workload(n_context=512, n_slots=1, flash_attention=False))

    assert " ".join(bound.command(proposal)) == "llama-server -m MODEL.gguf -c 512 -np 1 -fa off -ngl 33"
    assert "flash attention is off: the compute buffer grows with context x heads" in proposal.notes
