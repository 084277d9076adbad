"""One question put to its engine, and what stands in the way of ``fits``."""

from typing import Literal

from msgspec import Struct

from vramcalc.errors import UsageError
from vramcalc.estimation import Asked, Outcome, estimate_outcome
from vramcalc.ledger import HOST
from vramcalc.solvers.room import sure_room_of
from vramcalc.units import MIB, format_gib

Binding = Literal[
    "gpu_memory", "host_memory", "engine", "trained_context", "search_limit", "own_format", "catalogue", "none"
]

SURELY_SHORT = -64 * MIB  # below this an engine's own count and our bill cannot disagree about what fits


class Obstacle(Struct, frozen=True):
    """What keeps a question from ``fits``, and in whose words."""

    binding: Binding
    why: str


def try_asked(asked: Asked) -> Outcome | UsageError:
    """Return the outcome of a question, or why engine, card, format and setting do not go together."""
    try:
        return estimate_outcome(asked.bind(), asked.machine, asked.workload)
    except UsageError as refusal:
        return refusal


def fits(asked: Asked) -> bool:
    """Whether the estimate of a question is ``fits``; one that is far from it is not placed in detail."""
    return fitting_outcome(asked) is not None


def fitting_outcome(asked: Asked) -> Outcome | None:
    """Return the outcome of a question that fits, None of any other."""
    try:
        engine = asked.bind()
        if engine.margin_bytes:
            room = sure_room_of(engine, asked, asked.workload)(asked.workload)
            if room is None or room < SURELY_SHORT:
                return None
        outcome = estimate_outcome(engine, asked.machine, asked.workload)
    except UsageError:
        return None
    return outcome if is_answer(asked, outcome) else None


def is_answer(asked: Asked, outcome: Outcome) -> bool:
    """Whether an outcome is what an inverse question aims at: ``fits``, or as surely with the offload that was asked.

    What the user himself keeps in host memory is no miss; what the engine moves there is.
    """
    load = asked.workload
    if outcome.verdict == "offloads" and (load.cpu_offload_bytes or load.gpu_layers is not None or load.cpu_moe):
        return all(balance.sure_headroom_bytes >= 0 for balance in outcome.balances.values())
    return outcome.verdict == "fits"


def obstacle_of(tried: Outcome | UsageError) -> Obstacle:
    """Return what keeps a question from ``fits``."""
    if isinstance(tried, UsageError):
        return Obstacle("engine", str(tried))
    match tried.verdict:
        case "fits" | "unsupported":
            return Obstacle("none", "it fits")
        case "tight":
            short, device = min((balance.sure_headroom_bytes, name) for name, balance in tried.balances.items())
            return Obstacle("gpu_memory", f"the high figure is {format_gib(-short)} over the budget of {device}")
        case "offloads":
            placement = tried.proposal.placement
            kept, total = placement.gpu_layers, len(placement.layers) + 1
            said = f"{kept} of {total} layers" if kept < total else "all layers but some of their weights"
            return Obstacle("gpu_memory", f"the engine keeps {said} on GPUs")
        case "streams_from_disk":
            return Obstacle("host_memory", "what leaves the GPUs is more than host memory holds")
        case "does_not_fit":
            return _shortage(tried)


def _shortage(tried: Outcome) -> Obstacle:
    left, device = min((balance.headroom_bytes, name) for name, balance in tried.balances.items())
    if left < 0:
        return Obstacle("gpu_memory", f"{device} is short by {format_gib(-left)}")
    host = tried.ledger.on(HOST).n_bytes
    return Obstacle("host_memory", f"host memory is short: {format_gib(host)} are needed there")
