"""Use cases of ``solve``: one unknown, searched over the forward walk."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import get_args

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.api import Request, freeze_estimate, machine_of, read_questions
from vramcalc.errors import UsageError
from vramcalc.estimation import Asked
from vramcalc.formulas.capacity import usable_memory
from vramcalc.reports.schema import SCHEMA_VERSION, EstimateReport
from vramcalc.reports.solution import AnswerReport, SolveReport, Unknown, freeze_answer
from vramcalc.solvers.unknowns import (
    Solution,
    also_fitting,
    machine_name,
    solve_context,
    solve_gpu,
    solve_quant,
    solve_sequences,
)
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.registry import gpu_registry
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.machine import Machine

MOST_GPUS = 8  # of one machine, unless the user says otherwise
_MORE_CHOICES = 5
_ASKED_FOR = {"context": "n_context", "sequences": "n_sequences"}
_OPTIONS = {"context": "--context", "sequences": "--parallel"}


class Catalogue(Struct, frozen=True, kw_only=True):
    """Which machines ``solve gpu`` looks through where no card is named; ``max_gpus`` holds for named ones too."""

    vendor: str | None = None
    since: int | None = None  # year of release
    max_gpus: int = MOST_GPUS


def answer_unknown(unknown: str, request: Request, catalogue: Catalogue | None = None) -> SolveReport:
    """Return the largest or best value that fits, per GPU, engine and format asked for.

    Raises ``UsageError`` for an unknown nobody solves, one that is also given, and where every combination is refused.
    """
    kinds: dict[str, Unknown] = {kind: kind for kind in get_args(Unknown)}
    if unknown not in kinds:
        raise UsageError(f"{unknown!r} is nothing to solve for", f"ask for {', '.join(kinds)}")
    kind = kinds[unknown]
    _check(kind, request)
    if kind == "gpu":
        found = [*_gpus(request, catalogue or Catalogue())]
    else:
        found = [_solve(kind, asked, notes) for asked, notes in read_questions(request)]
    answers, estimates = tuple(answer for answer, _ in found), tuple(estimate for _, estimate in found)
    refusals = [e.refusal for e in estimates if e.refusal]
    if refusals and len(refusals) == len(estimates):
        raise UsageError(refusals[0].reason, refusals[0].advice)
    return SolveReport(SCHEMA_VERSION, kind, answers[0].answer, answers[0].binding, answers, estimates)


def _check(kind: Unknown, request: Request) -> None:
    if kind in _ASKED_FOR and getattr(request.workload, _ASKED_FOR[kind]) is not None:
        raise UsageError(f"{_OPTIONS[kind]} is what is to be found", "leave it out, or ask `vramcalc estimate`")
    if kind == "quant" and any(quant is not None for quant in request.quants):
        raise UsageError("--quant is what is to be found", "leave it out, or ask `vramcalc compare`")


def _solve(kind: Unknown, asked: Asked, notes: Sequence[str]) -> tuple[AnswerReport, EstimateReport]:
    solvers = {"context": solve_context, "sequences": solve_sequences, "quant": solve_quant}
    try:
        solution = solvers[kind](asked)
    except UsageError as refusal:
        solution = Solution(None, asked, "engine", str(refusal), None)
    estimate = freeze_estimate(solution.asked, notes)
    return freeze_answer(solution, estimate, machine_name(asked.machine)), estimate


def _gpus(request: Request, catalogue: Catalogue) -> Iterable[tuple[AnswerReport, EstimateReport]]:
    """Yield an answer per engine and format: over counts of each card named, else over the catalogue."""
    cards = gpu_registry(request.registries)
    named = [resolve_cards(text, cards).gpus for text in request.gpus]
    searches = [_counts(gpus, request, catalogue) for gpus in named] or [_all_cards(request, catalogue)]
    for machines in searches:
        if not machines:
            raise UsageError("no card of the catalogue is left by these filters", "`vramcalc gpus` lists them")
        start = replace(request, gpus=(machines[0][1].gpus[0].id,), nodes=1)
        for asked, _ in read_questions(start):
            solution = solve_gpu(asked, machines)
            estimate = freeze_estimate(solution.asked, ())
            after = [m for m in machines if len(m[1].gpus) == len(solution.asked.machine.gpus)]
            names = [name for name, _ in after]
            rest = after[names.index(solution.answer) + 1 :] if solution.answer in names else []
            also = () if named else tuple(islice(also_fitting(solution.asked, rest), _MORE_CHOICES))
            yield freeze_answer(solution, estimate, machine_name(solution.asked.machine), also), estimate


def _counts(gpus: tuple[GpuSpec, ...], request: Request, catalogue: Catalogue) -> list[tuple[str, Machine]]:
    """Return one, two, four ... of a card, then that many nodes of the largest."""
    machines, count = [], 1
    while count * len(gpus) <= max(catalogue.max_gpus, len(gpus)):
        machines.append(machine_of(replace(request, nodes=1), gpus * count))
        count *= 2
    machines += [replace(machines[-1], nodes=nodes) for nodes in range(2, request.nodes + 1)]
    return [(machine_name(machine), machine) for machine in machines]


def _all_cards(request: Request, catalogue: Catalogue) -> list[tuple[str, Machine]]:
    """Return every card the filters leave, from the smallest; then two of each, four of each."""
    found = [
        gpu
        for gpu in gpu_registry(request.registries).search("")
        if catalogue.vendor in (None, gpu.vendor) and (catalogue.since is None or (gpu.year or 0) >= catalogue.since)
    ]
    machines, count = [], 1
    while count <= catalogue.max_gpus:
        several = [gpu for gpu in found if count == 1 or not gpu.unified_memory]
        row = [machine_of(replace(request, nodes=1), (gpu,) * count) for gpu in several]
        machines += sorted(row, key=_size)
        count *= 2
    return [(machine_name(machine), machine) for machine in machines]


def _size(machine: Machine) -> tuple[int, int, float, str]:
    """Return what orders machines: memory first, then the newer and faster of one size."""
    gpu = machine.gpus[0]
    usable = usable_memory(gpu, machine.os).n_bytes
    return usable, -(gpu.year or 0), -(gpu.bandwidth_gb_per_s or 0), gpu.id
