"""How near we come to what engines printed: every measured run walked again, its figures compared.

An error is the part of the difference that the figure's own rounding cannot hide, as a share of the measured value.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from vramcalc.engines import bind_engine
from vramcalc.engines.base import Pool, Setup, loaded_bytes
from vramcalc.errors import RefusedError
from vramcalc.estimation import Outcome, estimate_outcome, outcome_speed
from vramcalc.ledger import Component, Ledger
from vramcalc.specs.machine import Machine
from vramcalc.specs.measured import Accuracy, AccuracyTable, DeviceKind, MeasuredFigure, MeasuredRun, Quantity
from vramcalc.specs.model import ModelSpec, MoeMlp
from vramcalc.speed import Speed

MISS_ABOVE = 0.02  # an error above this share is listed
_SPEEDS = frozenset({Quantity.DECODE_SPEED, Quantity.PROMPT_SPEED})
# What servers' coefficients were fitted to: the same logs, and the pool is what those terms leave.
_IN_SAMPLE = {
    **{(engine, "bench"): _SPEEDS for engine in ("llama.cpp", "ollama", "vllm")},
    ("vllm", "log"): frozenset(
        {
            Quantity.COMPUTE_BUFFER,
            Quantity.RUNTIME,
            Quantity.UNACCOUNTED,
            Quantity.CUDA_GRAPHS,
            Quantity.POOL,
            Quantity.POOL_TOKENS,
        }
    ),
    ("sglang", "log"): frozenset({Quantity.POOL, Quantity.POOL_TOKENS, Quantity.STATE}),
    ("tensorrt-llm", "log"): frozenset({Quantity.WEIGHTS, Quantity.POOL, Quantity.POOL_TOKENS}),
}
_THOUSAND = 1000
_DIGITS = 9  # what is kept of an error, and the slack of a comparison with the table


class Comparison(Struct, frozen=True):
    """One figure beside our estimate, None where we refuse the run; ``refusal`` says why."""

    run: MeasuredRun
    figure: MeasuredFigure
    estimated: int | None
    refusal: str = ""
    spread: tuple[int, int] | None = None  # the range we give, where a fit has one

    @property
    def is_exact(self) -> bool:
        """Whether the estimate lies within the figure's resolution."""
        return self.estimated is not None and abs(self.estimated - self.figure.value) <= self.figure.resolution

    @property
    def is_in_range(self) -> bool:
        """Whether the figure lies in the range we give."""
        return self.spread is not None and self.spread[0] <= self.figure.value <= self.spread[1]

    @property
    def error(self) -> float | None:
        """The difference beyond the resolution, as a share; 1 where something was predicted that was not there."""
        if self.estimated is None:
            return None
        beyond = max(0, abs(self.estimated - self.figure.value) - self.figure.resolution)
        return min(1.0, float(beyond)) if self.figure.value == 0 else beyond / self.figure.value


def compare(run: MeasuredRun, model: ModelSpec, machine: Machine) -> tuple[Comparison, ...]:
    """Return every figure of a run beside ours. A refusal answers only that the run does not start."""
    setup = Setup(model, machine, run.weight_format or None, run.version or None)
    try:
        engine = bind_engine(run.engine, setup)
        outcome = estimate_outcome(engine, machine, run.workload)
    except RefusedError as refusal:
        return tuple(
            Comparison(run, figure, 0) if _tells_refusal(figure) else Comparison(run, figure, None, str(refusal))
            for figure in run.figures
        )
    pool = engine.pool(outcome.proposal, outcome.ledger)
    return tuple(
        _compare_speed(run, figure, outcome_speed(outcome, model, machine))
        if figure.quantity in _SPEEDS
        else Comparison(run, figure, _estimated(figure, model, outcome, pool))
        for figure in run.figures
    )


def _compare_speed(run: MeasuredRun, figure: MeasuredFigure, told: tuple[Speed | None, tuple[str, ...]]) -> Comparison:
    speed, notes = told
    if speed is None:
        return Comparison(run, figure, None, "; ".join(notes))
    rate = speed.decode if figure.quantity is Quantity.DECODE_SPEED else speed.prefill
    low, best, high = (round(_THOUSAND * value) for value in (rate.low, rate.best, rate.high))
    return Comparison(run, figure, best, spread=(low, high))


def measure_accuracy(comparisons: Sequence[Comparison]) -> AccuracyTable:
    """Return the errors by engine, evidence, component and kind of device."""
    groups: dict[tuple[str, Quantity, str, str], list[Comparison]] = {}
    for one in comparisons:
        key = one.run.engine, one.figure.quantity, _kind(one.figure.device), one.run.evidence
        groups.setdefault(key, []).append(one)
    order = list(Quantity)
    rows = [_accuracy(groups[key]) for key in sorted(groups, key=lambda k: (k[0], k[3], order.index(k[1]), k[2]))]
    refused = dict.fromkeys(one.run.id for one in comparisons if one.estimated is None)
    return AccuracyTable(tuple(rows), tuple(refused))


def find_misses(comparisons: Iterable[Comparison]) -> tuple[Comparison, ...]:
    """Return the answered figures that are off by more than ``MISS_ABOVE``, worst first."""
    missed = [one for one in comparisons if (one.error or 0) > MISS_ABOVE]
    return tuple(sorted(missed, key=lambda one: -(one.error or 0)))


def find_regressions(before: AccuracyTable, now: AccuracyTable) -> Iterator[str]:
    """Yield what got worse: a median that rose, a kind of figure answered less often, a run refused now."""
    found = {_key(row): row for row in now.rows}
    for old in before.rows:
        name = f"{old.engine}, {old.component} ({old.device}, {old.evidence})"
        new = found.get(_key(old))
        answered = new.n_answered if new else 0
        if answered < old.n_answered:
            yield f"{name}: {answered} figures answered, {old.n_answered} before"
        if new and _rose(old.median_error, new.median_error):
            yield f"{name}: median error {new.median_error:.4%}, {old.median_error:.4%} before"
    for run_id in now.unanswered:
        if run_id not in before.unanswered:
            yield f"run {run_id} is refused, which the table does not say"


def _rose(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and now > before + 10**-_DIGITS


def _key(row: Accuracy) -> tuple[str, ...]:
    return row.engine, row.component, row.device, row.evidence


def _accuracy(group: Sequence[Comparison]) -> Accuracy:
    errors = sorted(error for one in group if (error := one.error) is not None)
    first = group[0]
    return Accuracy(
        engine=first.run.engine,
        component=first.figure.quantity.value,
        device=_kind(first.figure.device),
        evidence=first.run.evidence,
        is_in_sample=first.figure.quantity in _IN_SAMPLE.get((first.run.engine, first.run.evidence), ()),
        n_figures=len(group),
        n_answered=len(errors),
        n_exact=sum(one.is_exact for one in group),
        median_error=round(statistics.median(errors), _DIGITS) if errors else None,
        p95_error=_quantile(errors, 0.95) if errors else None,
        worst_error=round(errors[-1], _DIGITS) if errors else None,
        n_in_range=sum(one.is_in_range for one in group) if any(one.spread for one in group) else None,
        p90_error=_quantile(errors, 0.9) if any(one.spread for one in group) else None,
    )


def _quantile(errors: Sequence[float], share: float) -> float:
    return round(errors[math.ceil(share * len(errors)) - 1], _DIGITS)


def _kind(device: str) -> DeviceKind:
    match device:
        case "host" | "run":
            return device
        case _:
            return "gpu"


def _tells_refusal(figure: MeasuredFigure) -> bool:
    """Whether the engine refused too, or at least did not start."""
    return figure.quantity is Quantity.STARTS and figure.value == 0


def _estimated(figure: MeasuredFigure, model: ModelSpec, outcome: Outcome, pool: Pool | None) -> int | None:  # noqa: C901, PLR0911, PLR0912 - one case a quantity
    ledger = outcome.ledger.on(figure.device)
    inside, beside = ledger.inside_budget(), ledger.outside_budget()
    placement = outcome.proposal.placement
    match figure.quantity:
        case Quantity.WEIGHTS:
            return _held(ledger, Component.WEIGHTS)
        case Quantity.KV_CACHE:
            return _held(ledger, Component.KV_CACHE)
        case Quantity.STATE:
            return _held(ledger, Component.STATE)
        case Quantity.COMPUTE_BUFFER:
            return _held(inside, Component.COMPUTE_BUFFER)
        case Quantity.RUNTIME:
            return _held(ledger, Component.RUNTIME)
        case Quantity.UNACCOUNTED:
            return _held(ledger, Component.UNACCOUNTED) - (loaded_bytes(ledger) - _held(ledger, Component.WEIGHTS))
        case Quantity.CUDA_GRAPHS:
            return _held(beside, Component.COMPUTE_BUFFER)
        case Quantity.LOADED:
            return loaded_bytes(ledger)
        case Quantity.NEED:
            return inside.n_bytes
        case Quantity.LEAST_CACHE:
            return max(_held(outcome.ledger.on(device), Component.KV_CACHE) for device in outcome.balances)
        case Quantity.POOL:
            return pool.pool_bytes if pool else None
        case Quantity.POOL_BLOCKS:
            return pool.n_blocks if pool else None
        case Quantity.POOL_TOKENS:
            return pool.n_tokens if pool else None
        case Quantity.BLOCK_TOKENS:
            return pool.block_tokens if pool else None
        case Quantity.STARTS:
            return int(all(b.budget.budget_bytes >= b.need.n_bytes for b in outcome.balances.values()))
        case Quantity.TOTAL_CONTEXT:
            load = outcome.proposal.workload
            return (load.n_context or 0) * (1 if load.kv_unified else load.n_slots or 1)
        case Quantity.GPU_LAYERS:
            return placement.gpu_layers
        case Quantity.LAYERS:
            return placement.layers_on(figure.device) + (placement.output_device == figure.device)
        case Quantity.DECODE_SPEED | Quantity.PROMPT_SPEED:
            return None  # has a range: see _compare_speed
        case Quantity.EXPERT_LAYERS:
            kinds = [model.layers.kinds[name] for name in model.layers.order()]
            return sum(placement.experts_stay(i) for i, kind in enumerate(kinds) if isinstance(kind.mlp, MoeMlp))


def _held(ledger: Ledger, component: Component) -> int:
    return ledger.of_component(component).n_bytes
