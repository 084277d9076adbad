"""How far one machine and setting can go before the model leaves the GPUs."""

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.engines.base import Engine
from vramcalc.errors import RefusedError
from vramcalc.estimation import estimate_outcome
from vramcalc.solvers.search import largest_that_fits
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec
from vramcalc.specs.workload import Workload

_CONTEXT_STEP = 256
MOST_SEQUENCES = 1024  # as far as the search goes


class Limits(Struct, frozen=True):
    """The edges by the best figure; None where not even the least stays on the GPUs."""

    max_context: int | None
    max_sequences: int | None


def find_limits(engine: Engine, model: ModelSpec, machine: Machine, settled: Workload) -> Limits:
    """Return the longest context at the settled load, and the most sequences at the settled context."""
    placed = _all_on_gpus(model, settled)
    sequences = largest_that_fits(lambda n: _room(engine, machine, _with_sequences(placed, n)), upper=MOST_SEQUENCES)
    return Limits(longest_context(engine, model, machine, settled), sequences or None)


def longest_context(engine: Engine, model: ModelSpec, machine: Machine, settled: Workload) -> int | None:
    """Return the longest context, up to the trained one, at which the best figure stays on the GPUs.

    Searched in steps of 256 tokens, the granularity of llama.cpp's cache and a whole number of pages.
    """
    placed = _all_on_gpus(model, settled)
    steps = largest_that_fits(
        lambda n: _room(engine, machine, replace(placed, n_context=n * _CONTEXT_STEP)),
        upper=model.context // _CONTEXT_STEP,
    )
    return steps * _CONTEXT_STEP or None


def _all_on_gpus(model: ModelSpec, workload: Workload) -> Workload:
    """Ask for every layer on the GPUs: engines that place layers then need not search."""
    return replace(workload, gpu_layers=model.layers.n_layers + 1)


def _with_sequences(workload: Workload, n: int) -> Workload:
    slots = None if workload.n_slots is None else n
    return replace(workload, n_sequences=n, n_slots=slots)


def _room(engine: Engine, machine: Machine, workload: Workload) -> int | None:
    """Return what the tightest GPU has left; below 0 where the model would leave the GPUs, None where refused."""
    try:
        outcome = estimate_outcome(engine, machine, workload)
    except RefusedError:
        return None
    return outcome.headroom_bytes if outcome.stays_on_gpus else min(-1, outcome.headroom_bytes)
