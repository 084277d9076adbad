"""The verdict: one subtraction per device, branch by branch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from vramcalc.engines.base import Budget, Pool, Proposal, Readout
from vramcalc.estimation import HOST_RESERVE_BYTES, estimate_outcome
from vramcalc.ledger import HOST, Basis, Component, Ledger, Line
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.registry import gpu_registry
from vramcalc.specs.machine import Machine
from vramcalc.specs.placement import Override, Placement
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB


def line(n_bytes: int, device: str = "gpu0", *, high: int = -1, outside: bool = False, kv: bool = False) -> Line:
    return Line(
        component=Component.KV_CACHE if kv else Component.WEIGHTS,
        device=device,
        n_bytes=n_bytes,
        high_bytes=high,
        basis=Basis.EXACT,
        why="a test",
        source="a test",
        formula="n",
        values={"n": n_bytes},
        outside_budget=outside,
    )


@dataclass
class FakeEngine:
    """Answers with the lines it is given: 10 GiB of budget on a card of 12."""

    lines: list[Line]
    placement: Placement
    maps_weights: bool = True
    margin_bytes: int = 0
    context_step: int = 256
    name: str = "fake"
    version: str = "1"
    weight_format: str = "f16"
    budget: Budget = field(default_factory=lambda: Budget(12 * GIB, 10 * GIB, "a test"))

    def propose(self, workload: Workload) -> Proposal:
        return Proposal(workload, self.placement)

    def bill(self, proposal: Proposal) -> Ledger:
        assert proposal.placement is self.placement
        return Ledger.of(self.lines)

    def budgets(self, proposal: Proposal) -> Mapping[str, Budget]:
        assert proposal.placement is self.placement
        return {"gpu0": self.budget}

    def readouts(self, proposal: Proposal, ledger: Ledger) -> tuple[Readout, ...]:
        raise AssertionError(f"not asked for here: {proposal} {ledger}")

    def pool(self, proposal: Proposal, ledger: Ledger) -> Pool | None:
        raise AssertionError(f"not asked for here: {proposal} {ledger}")

    def command(self, proposal: Proposal) -> tuple[str, ...]:
        raise AssertionError(f"not asked for here: {proposal}")


ON_GPU = Placement(layers=("gpu0", "gpu0"), input_device=HOST, output_device="gpu0")
SPLIT = Placement(layers=(HOST, "gpu0"), input_device=HOST, output_device="gpu0")
EXPERTS = Placement(
    layers=("gpu0", "gpu0"),
    input_device=HOST,
    output_device="gpu0",
    overrides=(Override(1, frozenset({"ffn_up_exps"}), HOST),),
)
RTX = resolve_cards("rtx3060", gpu_registry()).gpus
MAC = resolve_cards("m2-8gb", gpu_registry()).gpus


@pytest.mark.parametrize(
    ("lines", "placement", "verdict", "headroom"),
    [
        pytest.param([line(7 * GIB)], ON_GPU, "fits", 3 * GIB, id="10 - 7"),
        pytest.param([line(7 * GIB, high=11 * GIB)], ON_GPU, "tight", 3 * GIB, id="10 - 7, but 11 at worst"),
        pytest.param([line(11 * GIB)], ON_GPU, "does_not_fit", -GIB, id="10 - 11"),
        pytest.param([line(7 * GIB), line(GIB, outside=True)], ON_GPU, "fits", 3 * GIB, id="1 of the 2 beside"),
        pytest.param(
            [line(7 * GIB), line(3 * GIB, outside=True)], ON_GPU, "does_not_fit", -GIB, id="3 of the 2 beside"
        ),
        pytest.param(
            [line(7 * GIB), line(GIB, high=3 * GIB, outside=True)], ON_GPU, "tight", 3 * GIB, id="3 beside at worst"
        ),
        pytest.param([line(7 * GIB), line(9 * GIB, HOST)], SPLIT, "offloads", 3 * GIB, id="a layer in RAM"),
        pytest.param([line(7 * GIB), line(9 * GIB, HOST)], EXPERTS, "offloads", 3 * GIB, id="experts in RAM"),
        pytest.param([line(7 * GIB), line(15 * GIB, HOST)], SPLIT, "streams_from_disk", 3 * GIB, id="15 of 16 - 2"),
        pytest.param(
            [line(7 * GIB), line(15 * GIB, HOST, kv=True)], SPLIT, "does_not_fit", 3 * GIB, id="a cache is not mapped"
        ),
    ],
)
def test_verdicts(lines: list[Line], placement: Placement, verdict: str, headroom: int) -> None:
    machine = Machine(gpus=RTX, host_memory_bytes=16 * GIB)
    outcome = estimate_outcome(FakeEngine(lines, placement), machine, Workload())

    assert outcome.verdict == verdict
    assert outcome.headroom_bytes == headroom
    assert outcome.stays_on_gpus == (verdict in ("fits", "tight"))


def test_an_engine_that_does_not_map_weights_needs_them_in_memory() -> None:
    engine = FakeEngine([line(GIB), line(15 * GIB, HOST)], SPLIT, maps_weights=False)

    assert estimate_outcome(engine, Machine(gpus=RTX, host_memory_bytes=16 * GIB), Workload()).verdict == "does_not_fit"
    assert estimate_outcome(engine, Machine(gpus=RTX), Workload()).verdict == "offloads"  # nobody said how much RAM


def test_weights_an_engine_streams_from_ram_are_an_offload() -> None:
    engine = FakeEngine([line(7 * GIB), line(2 * GIB, HOST)], ON_GPU)

    assert estimate_outcome(engine, Machine(gpus=RTX), Workload(cpu_offload_bytes=2 * GIB)).verdict == "offloads"


def test_shared_memory_is_counted_once() -> None:
    engine = FakeEngine([line(4 * GIB), line(GIB, HOST)], SPLIT)
    outcome = estimate_outcome(engine, Machine(gpus=MAC), Workload())
    assert outcome.host_capacity_bytes == 4 * GIB  # 8 - 4 on the GPU
    assert outcome.verdict == "offloads"

    engine = FakeEngine([line(4 * GIB), line(3 * GIB, HOST)], SPLIT)
    assert HOST_RESERVE_BYTES == 2 * GIB
    assert estimate_outcome(engine, Machine(gpus=MAC), Workload()).verdict == "streams_from_disk"  # 3 > 4 - 2


def test_a_reserve_is_taken_from_the_card() -> None:
    engine = FakeEngine([line(7 * GIB), line(GIB, outside=True)], ON_GPU)
    outcome = estimate_outcome(engine, Machine(gpus=RTX, reserve_bytes=2 * GIB), Workload())

    assert (outcome.verdict, outcome.headroom_bytes) == ("does_not_fit", -GIB)  # 12 - 10 - 2 - 1
