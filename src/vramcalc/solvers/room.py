"""What is left on the GPUs: the figure every inverse question searches."""

from collections.abc import Callable

from msgspec.structs import replace

from vramcalc.engines.base import Engine
from vramcalc.errors import RefusedError
from vramcalc.estimation import Asked, Outcome, estimate_outcome
from vramcalc.specs.workload import Workload

Room = Callable[[Workload], int | None]


def room_of(engine: Engine, asked: Asked, workload: Workload) -> Room:
    """Return what the tightest GPU has left under a workload; below 0 where layers would leave, None where refused.

    Every layer is asked onto the GPUs, so that an engine need not search for a placement; one that may place layers
    itself moves some off as soon as less than its margin stays free.
    """
    margin = margin_of(engine, workload)

    def room(changed: Workload) -> int | None:
        outcome = _walked(engine, asked, _on_gpus(asked, changed))
        if outcome is None:
            return None
        left = outcome.headroom_bytes - margin
        return left if outcome.stays_on_gpus else min(-1, left)

    return room


def sure_room_of(engine: Engine, asked: Asked, workload: Workload) -> Room:
    """Return what is left by the high figures too: of the tightest GPU, or of all where the engine moves layers.

    What the engine's own placement makes fit never has less: it is a bound from above, and a good guess of the edge. A
    placement of the user's own is kept.
    """
    margin = margin_of(engine, workload)

    is_placed = workload.gpu_layers is not None or workload.cpu_moe is not None

    def room(changed: Workload) -> int | None:
        outcome = _walked(engine, asked, changed if is_placed else _on_gpus(asked, changed))
        if outcome is None:
            return None
        left = [min(b.headroom_bytes - margin, b.sure_headroom_bytes) for b in outcome.balances.values()]
        return sum(left) if engine.margin_bytes else min(left)

    return room


def _on_gpus(asked: Asked, workload: Workload) -> Workload:
    return replace(workload, gpu_layers=asked.model.layers.n_layers + 1)


def _walked(engine: Engine, asked: Asked, workload: Workload) -> Outcome | None:
    try:
        return estimate_outcome(engine, asked.machine, workload)
    except RefusedError:
        return None


def margin_of(engine: Engine, workload: Workload) -> int:
    """Return what the engine keeps free before it moves layers off; nothing where the user placed them."""
    return engine.margin_bytes if workload.gpu_layers is None and workload.cpu_moe is None else 0


def room_left(outcome: Outcome, asked: Workload) -> int | None:
    """Return the room of an outcome that ``room_of`` would walk again, None where it may place layers otherwise."""
    places_layers = outcome.engine.margin_bytes > 0
    if places_layers and (outcome.proposal.placement.offloads or len(outcome.balances) > 1):
        return None
    left = outcome.headroom_bytes - margin_of(outcome.engine, asked)
    return left if outcome.stays_on_gpus else min(-1, left)
