"""Use cases of ``plan``: how to make it fit, and with which engine."""

from collections.abc import Sequence

from vramcalc.api import Names, Request, freeze_estimate, machine_of, read_questions
from vramcalc.errors import UsageError
from vramcalc.estimation import Asked
from vramcalc.formulas.capacity import usable_memory
from vramcalc.reports.plan import LadderReport, PlanReport, freeze_ladder, freeze_rung
from vramcalc.reports.schema import SCHEMA_VERSION
from vramcalc.solvers.choice import choose_engine
from vramcalc.solvers.plan import make_plan
from vramcalc.solvers.unknowns import machine_name
from vramcalc.specs.machine import Machine


def answer_plan(request: Request) -> PlanReport:
    """Return a ladder per GPU, engine and format asked for. Raises ``UsageError`` where all are refused."""
    names = Names.of(request.registries)
    plans: list[LadderReport] = []
    refusals: list[UsageError] = []
    for asked, notes in read_questions(request, names):
        try:
            plans.append(_plan(asked, notes, request, names))
        except UsageError as refusal:
            refusals.append(refusal)
    if not plans:
        raise refusals[0]
    return PlanReport(SCHEMA_VERSION, tuple(plans))


def _plan(asked: Asked, notes: Sequence[str], request: Request, names: Names) -> LadderReport:
    plan = make_plan(asked, larger_cards(asked, request, names))
    rungs = tuple(
        freeze_rung(rung, freeze_estimate(rung.change.asked, ()), machine_name(rung.change.asked.machine))
        for rung in plan.rungs
    )
    return freeze_ladder(plan, rungs, freeze_estimate(asked, notes), choose_engine(asked))


def larger_cards(asked: Asked, request: Request, names: Names) -> list[tuple[str, Machine]]:
    """Return the single cards of the same maker with more memory than the machine's largest, from the smallest."""
    largest = max(asked.machine.gpus, key=lambda gpu: usable_memory(gpu, asked.machine.os).n_bytes)
    vendor = "nvidia" if largest.vendor == "hypothetical" else largest.vendor
    found = [g for g in names.cards.search("") if g.vendor == vendor and g.unified_memory == largest.unified_memory]
    machines = [machine_of(request, (gpu,)) for gpu in found if gpu.memory.advertised > largest.memory.advertised]
    machines.sort(key=lambda m: (m.gpus[0].memory.advertised, -(m.gpus[0].year or 0), m.gpus[0].id))
    return [(machine_name(machine), machine) for machine in machines]
