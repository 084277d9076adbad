"""The answer to an inverse question: what was asked for, what stops it there, and the estimate it stands on."""

from typing import Any, Literal

from msgspec import Struct, to_builtins

from vramcalc.reports.schema import EstimateReport
from vramcalc.solvers.trying import Binding
from vramcalc.solvers.unknowns import Solution

Unknown = Literal["context", "sequences", "gpu", "quant"]


class StepReport(Struct, frozen=True):
    """The step beyond an answer: the next larger context or load, better format, or smaller machine."""

    value: int | str
    verdict: str
    why: str


class AnswerReport(Struct, frozen=True):
    """One answer; null where nothing fits. ``also`` names further machines that would do."""

    engine: str
    weight_format: str | None
    gpu: str
    answer: int | str | None
    binding: Binding
    why: str
    next_step: StepReport | None
    also: tuple[str, ...]


class SolveReport(Struct, frozen=True):
    """All answers of one request in the order asked, each beside its estimate; the first is repeated at the top.

    Where there is no answer the estimate is that of the nearest miss.
    """

    schema_version: Literal[1]
    solve: Unknown
    answer: int | str | None
    binding: Binding
    answers: tuple[AnswerReport, ...]
    estimates: tuple[EstimateReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON holds it."""
        found: dict[str, Any] = to_builtins(self)
        return found


def freeze_answer(solution: Solution, estimate: EstimateReport, gpu: str, also: tuple[str, ...] = ()) -> AnswerReport:
    """Return one answer under its published names; ``gpu`` is the machine it holds for."""
    step = solution.next_step
    return AnswerReport(
        engine=estimate.engine.name,
        weight_format=estimate.weight_format,
        gpu=gpu,
        answer=solution.answer,
        binding=solution.binding,
        why=solution.why,
        next_step=None if step is None else StepReport(step.value, step.verdict, step.why),
        also=also,
    )
