"""What one step of the model takes beside its weights, and how a line of it is written."""

from collections.abc import Mapping

from vramcalc.engines._vllm.fitted import StepShape, activation_peak
from vramcalc.engines._vllm.rules import RULE_SETS
from vramcalc.ledger import Basis, Component, Line

_LOGIT_BYTES = 6  # 16 bits as computed and f32 as sampled
_ASSUMED_PERCENT = 50, 250


def activation_line(shape: StepShape, sampled_rows: int, *, outside: bool) -> Line:
    """Return the peak of one step: the widest layer as vLLM's profile runs show it, and the sampled logits.

    No run of this engine prints its own peak, so the figure is carried over and its range is wide.
    """
    figure = activation_peak(shape, RULE_SETS[-1])
    values = {
        **figure.values,
        "logit_rows": sampled_rows,
        "logit_vocabulary": shape.model.vocabulary,
        "logit_bytes": _LOGIT_BYTES,
    }
    best = figure.n_bytes + sampled_rows * shape.model.vocabulary * _LOGIT_BYTES
    low, high = _ASSUMED_PERCENT
    return Line(
        component=Component.COMPUTE_BUFFER,
        device="",
        n_bytes=best,
        low_bytes=best * low // 100,
        high_bytes=best * high // 100,
        basis=Basis.ASSUMED,
        why="activation peak of one step, taken over from vLLM's profile runs: this engine prints none",
        source="vLLM 0.19 logs on H100 (llm-d-planner)",
        formula=f"{figure.formula} + logit_rows * logit_vocabulary * logit_bytes",
        values=values,
        outside_budget=outside,
    )


def ranged_line(  # noqa: PLR0913 - one line's facts
    component: Component,
    why: str,
    source: str,
    *,
    formula: str,
    values: Mapping[str, int],
    figures: tuple[int, int, int],
    basis: Basis = Basis.FITTED,
    outside: bool,
) -> Line:
    """Return a line with its low, best and high bytes."""
    low, best, high = figures
    return Line(
        component=component,
        device="",
        n_bytes=best,
        low_bytes=min(low, best),
        high_bytes=max(high, best),
        basis=basis,
        why=why,
        source=source,
        formula=formula,
        values=values,
        outside_budget=outside,
    )
