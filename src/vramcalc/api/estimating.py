"""``estimate``: every question of a request answered and frozen."""

from collections.abc import Sequence

from vramcalc.api.questions import read_questions
from vramcalc.api.requests import Request
from vramcalc.errors import RefusedError, UsageError
from vramcalc.estimation import Asked, estimate_outcome
from vramcalc.reports.freeze import freeze_outcome, freeze_refusal
from vramcalc.reports.schema import SCHEMA_VERSION, EstimateReport, Report
from vramcalc.solvers.advice import find_advice
from vramcalc.solvers.limits import find_limits


def answer(request: Request) -> Report:
    """Return one estimate per GPU, engine and format asked for, in that order.

    A combination that does not go together is answered ``unsupported``; ``UsageError`` where all are.
    """
    estimates = [freeze_estimate(asked, notes) for asked, notes in read_questions(request)]
    refusals = [e.refusal for e in estimates if e.refusal]
    if refusals and len(refusals) == len(estimates):
        raise UsageError(refusals[0].reason, refusals[0].advice)
    return Report(SCHEMA_VERSION, tuple(estimates))


def freeze_estimate(asked: Asked, notes: Sequence[str]) -> EstimateReport:
    """Return the report of one question: an estimate, or the engine's refusal."""
    known = (*notes, *asked.model.notes)
    try:
        engine = asked.bind()
        outcome = estimate_outcome(engine, asked.machine, asked.workload)
    except RefusedError as refusal:
        return freeze_refusal(asked, asked.version or "", str(refusal), refusal.hint, known)
    if asked.version is not None and not _is_release_of(asked.version, engine.version):
        used = f"the rules of {engine.version} are used, the nearest set known"
        known = (*known, f"{asked.engine} {asked.version}: {used}")
    limits = find_limits(asked, outcome)
    advice = find_advice(asked, outcome, limits)
    return freeze_outcome(asked, outcome, limits, advice=advice, notes=known)


def _is_release_of(version: str, rules: str) -> bool:
    parts = version.removeprefix("v").split(".")
    return parts[: rules.count(".") + 1] == rules.split(".")
