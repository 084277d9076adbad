"""How far one machine and setting can go before the model leaves the GPUs."""

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.engines.base import Engine
from vramcalc.errors import RefusedError
from vramcalc.estimation import estimate_outcome
from vramcalc.solvers.search import largest_that_fits
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec
from vramcalc.specs.workload import Workload

MOST_SEQUENCES = 1024  # as far as the search goes


class Limits(Struct, frozen=True):
    """The edges by the best figure; None where not even the least stays on the GPUs."""

    max_context: int | None
    max_sequences: int | None


def find_limits(engine: Engine, model: ModelSpec, machine: Machine, asked: Workload, settled: Workload) -> Limits:
    """Return the longest context at the settled load, and the most sequences of the settled context.

    Each sequence gets a cache of its own: slots and streams are left to the engine again.
    """
    alone = replace(asked, n_context=settled.n_context, n_slots=None, kv_unified=None)
    room = _room_of(engine, model, machine, alone)
    sequences = largest_that_fits(lambda n: room(replace(alone, n_sequences=n)), upper=MOST_SEQUENCES)
    return Limits(longest_context(engine, model, machine, settled), sequences or None)


def longest_context(engine: Engine, model: ModelSpec, machine: Machine, settled: Workload) -> int | None:
    """Return the longest context, up to the trained one, at which the best figure stays on the GPUs."""
    room, step = _room_of(engine, model, machine, settled), engine.context_step
    steps = largest_that_fits(lambda n: room(replace(settled, n_context=n * step)), upper=model.context // step)
    return steps * step or None


def _room_of(
    engine: Engine, model: ModelSpec, machine: Machine, workload: Workload
) -> Callable[[Workload], int | None]:
    """Return what the tightest GPU has left under a workload; below 0 where layers would leave, None where refused.

    Every layer is asked onto the GPUs, so that an engine need not search for a placement; one that may place layers
    itself moves some off as soon as less than its margin stays free.
    """
    margin = engine.margin_bytes if workload.gpu_layers is None else 0
    n_layers = model.layers.n_layers + 1

    def room(changed: Workload) -> int | None:
        try:
            outcome = estimate_outcome(engine, machine, replace(changed, gpu_layers=n_layers))
        except RefusedError:
            return None
        left = outcome.headroom_bytes - margin
        return left if outcome.stays_on_gpus else min(-1, left)

    return room
