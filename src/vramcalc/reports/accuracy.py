"""How near our figures come to measured ones, frozen."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct, json, to_builtins
from msgspec.structs import asdict

from vramcalc.reports.schema import SCHEMA_VERSION
from vramcalc.specs.measured import Accuracy, AccuracyTable
from vramcalc.validation import MISS_ABOVE, Comparison, find_misses, find_regressions, measure_accuracy


class AccuracyReport(Accuracy, frozen=True, kw_only=True):
    """How near we come to one kind of figure."""


class MissReport(Struct, frozen=True):
    """One figure that is off by more than ``miss_above``."""

    run: str
    engine: str
    version: str
    model: str
    machine: str
    weight_format: str
    component: str
    device: str
    unit: str
    measured: int
    estimated: int
    error: float
    source: str


class RefusalOfRun(Struct, frozen=True):
    """A run that we refuse, though its engine ran it."""

    run: str
    reason: str


class ValidationReport(Struct, frozen=True):
    """Our error against measured runs; ``regressions`` says what is worse than the table kept, null without one."""

    schema_version: Literal[1]
    n_runs: int
    n_models: int
    miss_above: float
    accuracy: tuple[AccuracyReport, ...]
    unanswered: tuple[RefusalOfRun, ...]
    misses: tuple[MissReport, ...]
    regressions: tuple[str, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON holds it."""
        found: dict[str, Any] = to_builtins(self)
        return found


def freeze_accuracy(
    comparisons: Sequence[Comparison], before: AccuracyTable | None, engine: str | None
) -> ValidationReport:
    """Return the report; only the rows of ``engine`` are held against the table, where one is named."""
    now = measure_accuracy(comparisons)
    if before is not None and engine is not None:
        before = AccuracyTable(tuple(row for row in before.rows if row.engine == engine), before.unanswered)
    reasons = {one.run.id: one.refusal for one in comparisons}
    return ValidationReport(
        schema_version=SCHEMA_VERSION,
        n_runs=len(reasons),
        n_models=len({one.run.model for one in comparisons}),
        miss_above=MISS_ABOVE,
        accuracy=tuple(AccuracyReport(**asdict(row)) for row in now.rows),
        unanswered=tuple(RefusalOfRun(run, reasons[run]) for run in now.unanswered),
        misses=tuple(_miss(one, one.estimated) for one in find_misses(comparisons) if one.estimated is not None),
        regressions=None if before is None else tuple(find_regressions(before, now)),
    )


def table_json(report: ValidationReport) -> str:
    """Return the table to keep with the runs, as JSON."""
    table = AccuracyTable(report.accuracy, tuple(refusal.run for refusal in report.unanswered))
    return json.format(json.encode(table), indent=1).decode()


def _miss(one: Comparison, estimated: int) -> MissReport:
    run, figure = one.run, one.figure
    return MissReport(
        run=run.id,
        engine=run.engine,
        version=run.version,
        model=run.model,
        machine=run.machine,
        weight_format=run.weight_format,
        component=figure.quantity.value,
        device=figure.device,
        unit=figure.unit,
        measured=figure.value,
        estimated=estimated,
        error=round(one.error or 0.0, 9),
        source=run.source,
    )
