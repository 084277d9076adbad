"""What would help: the nearest settings under the same engine that keep the model on the GPUs."""

from collections.abc import Iterator

from vramcalc.errors import UsageError
from vramcalc.estimation import Asked, Outcome, estimate_outcome
from vramcalc.solvers.ladder import (
    PAGED_ENGINES,
    Change,
    cache_changes,
    context_change,
    eager_changes,
    format_changes,
    free_share_changes,
    placement_changes,
    share_changes,
)
from vramcalc.solvers.limits import Limits, longest_context
from vramcalc.units import format_gib

LEAST_USEFUL_CONTEXT = 2048
_BUT = {
    "free share": " for what else is on the card",
    "eager": ": no CUDA graphs, slower decoding",
    "cache": ": a cache of half the size",
}


def find_advice(asked: Asked, outcome: Outcome, limits: Limits) -> tuple[str, ...]:
    """Return the changes that help, each one tried before it is offered; empty where nothing needs to change."""
    if outcome.stays_on_gpus:
        return ()
    context = outcome.proposal.workload.n_context or 0
    shorter = limits.max_context or 0
    found = []
    if 0 < shorter < context:
        flags = " ".join(context_change(asked, outcome, shorter).flags)
        found.append(f"{flags} keeps it on the GPUs with everything else as it is")
    switches = (
        *free_share_changes(asked, outcome),
        *share_changes(asked, outcome),
        *eager_changes(asked, outcome),
        *(cache_changes(asked, outcome) if asked.engine in PAGED_ENGINES else ()),
    )
    found += [f"{' '.join(c.flags)} makes room{_BUT.get(c.kind, '')}" for c in switches if _stays(outcome, c)]
    if any(_stays(outcome, change) for change in placement_changes(asked)):
        found.append("leave --gpu-layers and --cpu-moe out: the engine's own placement keeps it on the GPUs")
        return tuple(found)
    found += _other_formats(asked, outcome, least=max(min(LEAST_USEFUL_CONTEXT, context), shorter + 1), goal=context)
    if asked.engine in PAGED_ENGINES and not found:
        found.append("--engine ollama: it may keep some layers in host memory, which is slower but runs")
    return tuple(found)


def _stays(outcome: Outcome, change: Change) -> bool:
    """Whether a change of settings alone keeps the model on the GPUs of the engine that is bound already."""
    try:
        return estimate_outcome(outcome.engine, change.asked.machine, change.asked.workload).stays_on_gpus
    except UsageError:
        return False


def _other_formats(asked: Asked, outcome: Outcome, *, least: int, goal: int) -> Iterator[str]:
    """Yield formats that stay on the GPUs, best first: each allows more context than the one before, up to the goal."""
    for change in format_changes(asked, outcome.engine.weight_format, common=True):
        tried = _try_format(change)
        if tried is None or tried[0] < least:
            continue
        least, text = tried[0] + 1, tried[1]
        yield text
        if least > goal:
            return


def _try_format(change: Change) -> tuple[int, str] | None:
    """Return the context at which a format stays on the GPUs, and how to say so; None where none does."""
    asked = change.asked
    try:
        engine = asked.bind()
        outcome = estimate_outcome(engine, asked.machine, asked.workload)
    except UsageError:
        return None
    settled, flags = outcome.proposal.workload, " ".join(change.flags)
    if outcome.stays_on_gpus:
        return settled.n_context or 0, f"{flags} keeps it on the GPUs, {format_gib(outcome.headroom_bytes)} to spare"
    context = longest_context(engine, asked, settled, outcome)
    return None if context is None else (context, f"{flags} --context {context} keeps it on the GPUs")
