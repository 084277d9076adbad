"""How far one machine and setting can go before the model leaves the GPUs."""

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.engines.base import Engine
from vramcalc.estimation import Asked, Outcome
from vramcalc.solvers.room import room_left, room_of
from vramcalc.solvers.search import largest_that_fits
from vramcalc.specs.workload import Workload

MOST_SEQUENCES = 1024  # as far as the search goes


class Limits(Struct, frozen=True):
    """The edges by the best figure; None where not even the least stays on the GPUs."""

    max_context: int | None
    max_sequences: int | None


def find_limits(asked: Asked, outcome: Outcome) -> Limits:
    """Return the longest context at the settled load, and the most sequences of the settled context.

    Each sequence gets a cache of its own: slots and streams are left to the engine again.
    """
    engine, settled = outcome.engine, outcome.proposal.workload
    alone = replace(asked.workload, n_context=settled.n_context, n_slots=None, kv_unified=None)
    room = room_of(engine, asked, alone)
    own_slot = settled.n_slots is None or (settled.n_slots == settled.n_sequences and not settled.kv_unified)
    known = (settled.n_sequences or 1, room_left(outcome, alone)) if own_slot else None
    sequences = largest_that_fits(lambda n: room(replace(alone, n_sequences=n)), upper=MOST_SEQUENCES, known=known)
    return Limits(longest_context(engine, asked, settled, outcome), sequences or None)


def longest_context(engine: Engine, asked: Asked, settled: Workload, outcome: Outcome | None = None) -> int | None:
    """Return the longest context, up to the trained one, at which the best figure stays on the GPUs.

    ``outcome`` spares a walk: the estimate of ``settled`` itself, where it is known.
    """
    room, step = room_of(engine, asked, settled), engine.context_step
    at, rest = divmod(settled.n_context or 0, step)
    known = (at, room_left(outcome, settled)) if outcome is not None and not rest else None
    steps = largest_that_fits(
        lambda n: room(replace(settled, n_context=n * step)),
        upper=asked.model.context // step,
        known=known,
    )
    return steps * step or None
