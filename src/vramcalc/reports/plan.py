"""The ladder of ways to make it fit, and which engine suits the machine."""

from typing import Any, Literal

from msgspec import Struct, to_builtins

from vramcalc.reports.schema import EstimateReport, SpeedReport, VerdictName
from vramcalc.solvers.choice import Chosen, Reason
from vramcalc.solvers.ladder import ON_OTHER_HARDWARE
from vramcalc.solvers.plan import Plan, Rung


class RungReport(Struct, frozen=True):
    """One change that works: ``flags`` go on top of what was asked, ``loses`` names the price with its source.

    ``is_heavy`` marks a loss of quality that most people notice.
    """

    kind: str
    flags: tuple[str, ...]
    loses: str
    is_heavy: bool
    gpu: str
    engine: str
    weight_format: str | None
    cache_format: str | None
    n_context: int | None
    n_sequences: int | None
    verdict: VerdictName
    need_bytes: int
    host_bytes: int
    headroom_bytes: int | None
    speed: SpeedReport | None
    launch: tuple[str, ...]


class ReasonReport(Struct, frozen=True):
    """One reason for an engine, with its evidence."""

    favours: Chosen
    why: str
    source: str


class LadderReport(Struct, frozen=True):
    """The ladder of one model, machine, engine and format; ``estimate`` is of what was asked.

    ``one_change`` is the cheapest on the same machine that keeps it on the GPUs without a heavy
    loss of quality; null where none does.
    """

    fits: bool
    obstacle: str
    one_change: tuple[str, ...] | None
    rungs: tuple[RungReport, ...]
    engine_choice: Chosen
    reasons: tuple[ReasonReport, ...]
    estimate: EstimateReport


class PlanReport(Struct, frozen=True):
    """All ladders of one request, in the order asked."""

    schema_version: Literal[1]
    plans: tuple[LadderReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON holds it."""
        found: dict[str, Any] = to_builtins(self)
        return found


def freeze_rung(rung: Rung, estimate: EstimateReport, gpu: str) -> RungReport:
    """Return a rung under its published names; ``estimate`` is what its change answers."""
    return RungReport(
        kind=rung.change.kind,
        flags=rung.change.flags,
        loses=rung.change.loses,
        is_heavy=rung.is_heavy,
        gpu=gpu,
        engine=estimate.engine.name,
        weight_format=estimate.weight_format,
        cache_format=estimate.cache_format,
        n_context=estimate.workload.n_context,
        n_sequences=estimate.workload.n_sequences,
        verdict=estimate.verdict,
        need_bytes=rung.costs.gpu_bytes,
        host_bytes=rung.costs.host_bytes,
        headroom_bytes=estimate.headroom_bytes,
        speed=estimate.speed,
        launch=estimate.launch,
    )


def freeze_ladder(
    plan: Plan,
    rungs: tuple[RungReport, ...],
    estimate: EstimateReport,
    choice: tuple[Chosen, tuple[Reason, ...]],
) -> LadderReport:
    """Return a ladder under its published names; the one change is the cheapest that needs nothing bought."""
    light = [r.flags for r in rungs if r.verdict == "fits" and not r.is_heavy and r.kind not in ON_OTHER_HARDWARE]
    chosen, reasons = choice
    return LadderReport(
        fits=plan.fits,
        obstacle=plan.obstacle,
        one_change=light[0] if light else None,
        rungs=rungs,
        engine_choice=chosen,
        reasons=tuple(ReasonReport(reason.favours, reason.why, reason.source) for reason in reasons),
        estimate=estimate,
    )
