"""Several services on one machine: what each takes, in the order they load, and the RAG prompt's budget."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, to_builtins

from vramcalc.estimation import Outcome
from vramcalc.formulas.capacity import usable_memory
from vramcalc.ledger import HOST
from vramcalc.reports.freeze import freeze_machine
from vramcalc.reports.schema import MachineReport, VerdictName
from vramcalc.specs.machine import Machine
from vramcalc.stack import Budget, Loaded


class ServiceReport(Struct, frozen=True, kw_only=True):
    """One service at its turn. Bytes are by card; ``evicts`` names models of the same server that must leave first."""

    name: str
    model: str
    engine: str
    weight_format: str | None
    cards: tuple[int, ...]
    verdict: VerdictName
    why: str
    memory_share: float | None
    n_context: int | None
    n_sequences: int | None
    held_before_bytes: Mapping[str, int]
    held_bytes: Mapping[str, int]
    host_bytes: int
    evicts: tuple[str, ...]
    launch: tuple[str, ...]


class CardReport(Struct, frozen=True):
    """One card with every service up; the peak is the most it held at any time."""

    name: str
    capacity_bytes: int
    held_bytes: int
    peak_bytes: int
    free_bytes: int


class PromptReport(Struct, frozen=True):
    """What one request may hold: ``max_tokens`` and ``max_chunks`` are numbers for the RAG application."""

    service: str
    n_context: int
    needed_tokens: int
    max_tokens: int
    max_prompt_tokens: int
    max_chunks: int
    n_sequences: int
    fits: bool


class StackReport(Struct, frozen=True):
    """The stack; services come in the order they are to load."""

    schema_version: Literal[1]
    fits: bool
    machine: MachineReport
    services: tuple[ServiceReport, ...]
    cards: tuple[CardReport, ...]
    host_bytes: int
    rag: PromptReport | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON holds it."""
        found: dict[str, Any] = to_builtins(self)
        return found


def freeze_stack(
    loaded: Sequence[Loaded], machine: Machine, rag: tuple[str, Budget] | None, notes: Sequence[str]
) -> StackReport:
    """Return a stack under its published names."""
    services = tuple(_service(one) for one in loaded)
    prompt = None if rag is None else PromptReport(rag[0], *_numbers(rag[1]))
    runs = all(one.fits and not one.evicts for one in loaded)
    return StackReport(
        schema_version=1,
        fits=runs and (prompt is None or prompt.fits),
        machine=freeze_machine(machine),
        services=services,
        cards=tuple(_card(index, machine, loaded) for index in range(len(machine.gpus))),
        host_bytes=sum(service.host_bytes for service in services),
        rag=prompt,
        notes=tuple(notes),
    )


def _numbers(budget: Budget) -> tuple[int, int, int, int, int, int, bool]:
    tokens = budget.max_tokens, budget.max_prompt_tokens
    return (budget.n_context, budget.needed_tokens, *tokens, budget.max_chunks, budget.n_sequences, budget.fits)


def _service(one: Loaded) -> ServiceReport:
    asked, tried = one.service.asked, one.tried
    outcome = tried if isinstance(tried, Outcome) else None
    load = outcome.proposal.workload if outcome else asked.workload
    chosen = "" if len(one.service.cards) == 0 else ",".join(map(str, one.service.cards))
    command = outcome.engine.command(outcome.proposal) if outcome else ()
    return ServiceReport(
        name=one.service.name,
        model=asked.model.id,
        engine=asked.engine,
        weight_format=outcome.engine.weight_format if outcome else asked.weight_format,
        cards=one.service.cards,
        verdict=outcome.verdict if outcome else "unsupported",
        why=one.why,
        memory_share=None if load.memory_share is None else float(load.memory_share),
        n_context=load.n_context,
        n_sequences=load.n_sequences,
        held_before_bytes={f"gpu{card}": one.before[card] for card in one.service.cards},
        held_bytes={f"gpu{card}": n_bytes for card, n_bytes in one.held.items()},
        host_bytes=outcome.ledger.on(HOST).n_bytes if outcome else 0,
        evicts=one.evicts,
        launch=("env", f"CUDA_VISIBLE_DEVICES={chosen}", *command) if command and command[0] != "env" else command,
    )


def _card(index: int, machine: Machine, loaded: Sequence[Loaded]) -> CardReport:
    capacity = usable_memory(machine.gpus[index], machine.os).n_bytes
    gone = {name for one in loaded for name in one.evicts}
    held = machine.reserve_bytes + sum(one.held.get(index, 0) for one in loaded if one.service.name not in gone)
    peak = max((one.before[index] + one.held.get(index, 0) for one in loaded), default=held)
    return CardReport(f"gpu{index}", capacity, held, max(held, peak), capacity - held)
