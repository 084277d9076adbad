"""The one forward walk: propose a placement, write its bill, subtract it from the budget of every device."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from vramcalc.engines import bind_engine
from vramcalc.engines.base import Budget, Engine, Proposal, Setup
from vramcalc.ledger import HOST, Component, Ledger
from vramcalc.specs.companions import Companions
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB

if TYPE_CHECKING:
    from vramcalc.speed import Speed

Verdict = Literal["fits", "tight", "offloads", "streams_from_disk", "does_not_fit", "unsupported"]

# Kept for the operating system and other programs; the rest of host memory may hold weights. Assumed.
HOST_RESERVE_BYTES = 2 * GIB


class Asked(Struct, frozen=True):
    """The question behind one estimate; a version or format of None leaves the choice to the engine."""

    model: ModelSpec
    machine: Machine
    engine: str
    version: str | None
    weight_format: str | None
    workload: Workload
    companions: Companions = Companions()

    def bind(self) -> Engine:
        """Return the engine bound to what is asked. Raises ``RefusedError`` or ``UnknownNameError``."""
        setup = Setup(self.model, self.machine, self.weight_format, self.version, self.companions)
        return bind_engine(self.engine, setup)


class Balance(Struct, frozen=True):
    """Budget and need of one GPU."""

    budget: Budget
    need: Ledger  # what counts against the budget
    outside: Ledger  # what lives beside it
    reserve_bytes: int

    @property
    def headroom_bytes(self) -> int:
        """What the best figure leaves; negative is the deficit, of the budget or of the card beside it."""
        return self._left(self.need.n_bytes, self.outside.n_bytes)

    @property
    def sure_headroom_bytes(self) -> int:
        """What the high figures leave."""
        return self._left(self.need.high_bytes, self.outside.high_bytes)

    def _left(self, need_bytes: int, outside_bytes: int) -> int:
        inside = self.budget.budget_bytes - need_bytes
        beside = self.budget.capacity_bytes - self.budget.budget_bytes - self.reserve_bytes - outside_bytes
        return min(inside, beside) if beside < 0 else inside


class Outcome(Struct, frozen=True):
    """An answered estimate, before it is frozen into a report."""

    engine: Engine
    proposal: Proposal
    ledger: Ledger
    balances: Mapping[str, Balance]
    host_capacity_bytes: int | None
    verdict: Verdict

    @property
    def headroom_bytes(self) -> int:
        """The headroom of the tightest GPU."""
        return min(balance.headroom_bytes for balance in self.balances.values())

    @property
    def stays_on_gpus(self) -> bool:
        """Whether the best figure keeps the whole model on the GPUs."""
        return self.verdict in ("fits", "tight")


def estimate_outcome(engine: Engine, machine: Machine, workload: Workload) -> Outcome:
    """Walk from workload to verdict. Raises ``RefusedError`` where the engine would refuse."""
    proposal = engine.propose(workload)
    ledger = engine.bill(proposal)
    balances = {
        device: Balance(
            budget, ledger.on(device).inside_budget(), ledger.on(device).outside_budget(), machine.reserve_on(device)
        )
        for device, budget in engine.budgets(proposal).items()
    }
    capacity = _host_capacity(machine, balances)
    verdict = _verdict(engine, proposal, ledger.on(HOST), balances, capacity)
    return Outcome(engine, proposal, ledger, balances, capacity, verdict)


def outcome_speed(outcome: Outcome, model: ModelSpec, machine: Machine) -> tuple["Speed | None", tuple[str, ...]]:
    """Return the speed of an answered estimate, or None and a note why it cannot be told.

    It is told of what does not fit too: as fast as the machine would be with more memory.
    """
    from vramcalc.speed import Run, predict_speed  # noqa: PLC0415 - searches walk without it

    engine = outcome.engine
    run = Run(
        engine=engine.name,
        weight_format=engine.weight_format,
        model=model,
        machine=machine,
        proposal=outcome.proposal,
        disk_share=_disk_share(outcome),
    )
    return predict_speed(run)


def _disk_share(outcome: Outcome) -> float:
    """Return the part of the weights in host memory that does not stay there."""
    if outcome.verdict != "streams_from_disk":
        return 0.0
    host = outcome.ledger.on(HOST)
    overflow = host.n_bytes - max(0, (outcome.host_capacity_bytes or 0) - HOST_RESERVE_BYTES)
    return min(1.0, overflow / max(1, host.of_component(Component.WEIGHTS).n_bytes))


def _host_capacity(machine: Machine, balances: Mapping[str, Balance]) -> int | None:
    """Return host memory of all nodes; what is left of it where GPUs share it; None where nobody said."""
    if machine.unified_memory:
        total = sum(gpu.memory.advertised for gpu in machine.gpus) * machine.nodes
        return max(0, total - sum(balance.need.n_bytes for balance in balances.values()))
    if machine.host_memory_bytes is None:
        return None
    return machine.host_memory_bytes * machine.nodes


def _verdict(
    engine: Engine, proposal: Proposal, host: Ledger, balances: Mapping[str, Balance], host_capacity: int | None
) -> Verdict:
    if any(balance.headroom_bytes < 0 for balance in balances.values()):
        return "does_not_fit"
    if host_capacity is not None:
        room = max(0, host_capacity - HOST_RESERVE_BYTES)
        if host.n_bytes > room:
            is_mapped = engine.maps_weights and proposal.workload.mmap and not proposal.workload.mlock
            mapped = host.of_component(Component.WEIGHTS).n_bytes if is_mapped else 0
            return "streams_from_disk" if host.n_bytes - mapped <= room else "does_not_fit"
    if proposal.placement.offloads or proposal.workload.cpu_offload_bytes:
        return "offloads"
    return "fits" if all(balance.sure_headroom_bytes >= 0 for balance in balances.values()) else "tight"
