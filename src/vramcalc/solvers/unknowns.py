"""One unknown at a time: the longest context, the most sequences, the best format or the smallest machine that fits.

Every answer is ``fits`` when asked again, and the step beyond it is not: both are walked.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.errors import RefusedError, UsageError
from vramcalc.estimation import Asked, estimate_outcome
from vramcalc.formulas.capacity import usable_memory
from vramcalc.solvers.ladder import released_bits
from vramcalc.solvers.limits import MOST_SEQUENCES
from vramcalc.solvers.room import sure_room_of
from vramcalc.solvers.search import edge_near, largest_of_islands
from vramcalc.solvers.trying import SURELY_SHORT, Binding, fits, fitting_outcome, is_answer, obstacle_of, try_asked
from vramcalc.specs.machine import Machine
from vramcalc.specs.quality import GGUF_ENGINES, Quality, qualities_for
from vramcalc.specs.workload import Workload
from vramcalc.units import ceil_div

_FOUR_BITS = 4
_SCALES = 0.9  # bits per element that block scales and the mix add to the nominal width


class Step(Struct, frozen=True):
    """The step beyond the answer, and why it does not fit."""

    value: int | str
    verdict: str
    why: str


class Solution(Struct, frozen=True):
    """An answer with the question it was put into; ``asked`` is the nearest miss where there is no answer."""

    answer: int | str | None
    asked: Asked
    binding: Binding
    why: str
    next_step: Step | None


def solve_context(asked: Asked) -> Solution:
    """Return the longest context that fits, in the engine's steps up to the trained one.

    Raises ``RefusedError`` or ``UnknownNameError`` for what no context would help.
    """
    at, upper = _contexts(asked)
    found = _largest(asked, at, upper=upper)
    return _solution(asked, found, at, at_most="trained_context", value=lambda load: load.n_context or 0)


def longest_fitting_context(asked: Asked) -> int | None:
    """Return the answer of ``solve_context`` alone, None where not even the least fits or the engine refuses."""
    try:
        at, upper = _contexts(asked)
        found = _largest(asked, at, upper=upper)
    except UsageError:
        return None
    return at(found.n).n_context if found.n else None


def _contexts(asked: Asked) -> tuple[Callable[[int], Workload], int]:
    trained, step = asked.model.context, asked.bind().context_step

    def at(n: int) -> Workload:
        return replace(asked.workload, n_context=min(n * step, trained))

    return at, ceil_div(trained, step)


def solve_sequences(asked: Asked) -> Solution:
    """Return the most sequences that fit at once, each at full context: as asked, else as the engine's default.

    Raises ``RefusedError`` or ``UnknownNameError`` for what no load would help.
    """
    load = asked.workload
    if load.n_context is None:
        settled = asked.bind().propose(replace(load, n_sequences=1)).workload
        load = replace(load, n_context=settled.n_context)

    def at(n: int) -> Workload:
        return replace(load, n_sequences=n)

    found = _largest(asked, at, upper=MOST_SEQUENCES)
    return _solution(asked, found, at, at_most="search_limit", value=lambda load: load.n_sequences or 0)


class _Edge(Struct, frozen=True):
    """The last n that fits, and the last that may be asked."""

    n: int
    upper: int


def _largest(asked: Asked, at: Callable[[int], Workload], *, upper: int) -> _Edge:
    """Find the edge by the room of a full placement, then settle it by the engine's own. The least load needs least."""
    engine = asked.bind()
    room_at = sure_room_of(engine, asked, asked.workload)

    @functools.cache
    def room(n: int) -> int | None:
        return room_at(at(n))

    def holds(n: int) -> bool:
        left = room(n)
        if left is None or left < SURELY_SHORT:
            return False
        try:
            return is_answer(asked, estimate_outcome(engine, asked.machine, at(n)))
        except RefusedError:
            return False

    least = room(1)
    if least is None or least < 0:
        return _Edge(int(holds(1)), upper)
    return _Edge(edge_near(holds, largest_of_islands(room, upper=upper), upper=upper), upper)


def _solution(
    asked: Asked, edge: _Edge, at: Callable[[int], Workload], *, at_most: Binding, value: Callable[[Workload], int]
) -> Solution:
    chosen = replace(asked, workload=at(max(edge.n, 1)))
    answer = value(chosen.workload) if edge.n else None
    if edge.n == edge.upper:
        why = "the model was trained on no more" if at_most == "trained_context" else "the search goes no further"
        return Solution(answer, chosen, at_most, why, None)
    beyond = at(edge.n + 1)
    tried = try_asked(replace(asked, workload=beyond))
    obstacle = obstacle_of(tried)
    verdict = "unsupported" if isinstance(tried, UsageError) else tried.verdict
    return Solution(answer, chosen, obstacle.binding, obstacle.why, Step(value(beyond), verdict, obstacle.why))


def solve_quant(asked: Asked) -> Solution:
    """Return the format that loses least and fits; formats above the release's own are not tried."""
    above: Step | None = None
    binding: Binding = "own_format"
    why = "no format above it is better than what was released"
    chosen = asked
    for quality in worthwhile_formats(asked):
        chosen = replace(asked, weight_format=quality.name)
        tried = try_asked(chosen)
        if not isinstance(tried, UsageError) and is_answer(chosen, tried):
            return Solution(quality.name, chosen, binding, why, above)
        obstacle = obstacle_of(tried)
        binding, why = obstacle.binding, obstacle.why
        verdict = "unsupported" if isinstance(tried, UsageError) else tried.verdict
        above = Step(quality.name, verdict, why)
    return Solution(None, chosen, binding, why, above)


def worthwhile_formats(asked: Asked) -> Iterator[Quality]:
    """Yield the release's own format, then those with fewer bits, best first."""
    model = asked.model
    bits = released_bits(model.checkpoint_format or model.dtype)
    reads_gguf = asked.engine in GGUF_ENGINES
    own = (model.ollama_format if bits <= _FOUR_BITS else None) if reads_gguf else model.checkpoint_format
    if own is not None:
        yield Quality(own, bits, divergence=0.0, score_kept=1.0, source="the release's own format")
    for quality in qualities_for(asked.engine):
        if quality.bits <= bits + _SCALES and quality.name != own:
            yield quality


def solve_gpu(asked: Asked, machines: Sequence[tuple[str, Machine]]) -> Solution:
    """Return the first machine, by name, on which it fits; ``machines`` come from the smallest to the largest.

    Several GPUs are split as the engine would by itself, then by every TP x PP that uses them all.
    """
    below: Step | None = None
    previous: Asked | None = None
    too_small: set[tuple[object, ...]] = set()
    for name, machine in machines:
        if _class_of(machine) in too_small:
            continue
        for candidate in _splits(replace(asked, machine=machine)):
            if fits(candidate):
                if previous is not None:
                    below = _miss(previous)
                why = below.why if below else "nothing smaller is known"
                return Solution(name, candidate, "gpu_memory" if below else "catalogue", why, below)
        if previous is None or _runs(replace(asked, machine=machine)):
            previous = replace(asked, machine=machine)
        too_small.add(_class_of(machine))
    last = previous or asked
    missed = _miss(last)
    return Solution(None, last, "gpu_memory", missed.why, missed)


def _runs(asked: Asked) -> bool:
    """Whether the engine runs on such cards at all, whatever fits."""
    try:
        asked.bind()
    except UsageError:
        return False
    return True


def _class_of(machine: Machine) -> tuple[object, ...]:
    """Return what of a machine an engine can tell apart: cards that differ in name and speed alone are one."""
    cards = (
        (
            *(gpu.vendor, gpu.architecture, gpu.compute_capability, gpu.n_sms, gpu.context_memory, gpu.unified_memory),
            *(usable_memory(gpu, machine.os).n_bytes, gpu.memory.advertised),
        )
        for gpu in machine.gpus
    )
    return (*cards, machine.nodes)


def also_fitting(asked: Asked, machines: Sequence[tuple[str, Machine]]) -> Iterator[str]:
    """Yield the machines, in their order, on which it fits as the engine itself would split it."""
    for name, machine in machines:
        if fitting_outcome(replace(asked, machine=machine)) is not None:
            yield name


def _miss(asked: Asked) -> Step:
    tried = try_asked(asked)
    verdict = "unsupported" if isinstance(tried, UsageError) else tried.verdict
    return Step(machine_name(asked.machine), verdict, obstacle_of(tried).why)


def machine_name(machine: Machine) -> str:
    """Return a machine as ``--gpu`` and ``--nodes`` name it: ``2xrtx4090``, ``8xh100-sxm on 2 nodes``."""
    counts: dict[str, int] = {}
    for gpu in machine.gpus:
        counts[gpu.id] = counts.get(gpu.id, 0) + 1
    cards = "+".join(name if n == 1 else f"{n}x{name}" for name, n in counts.items())
    return cards if machine.nodes == 1 else f"{cards} on {machine.nodes} nodes"


def _splits(asked: Asked) -> Iterator[Asked]:
    """Yield the question as it is, then with every TP x PP over all its GPUs where the engine knows them."""
    yield asked
    load, n_gpus = asked.workload, asked.machine.n_gpus
    if n_gpus == 1 or load.tensor_parallel is not None or load.pipeline_parallel is not None:
        return
    try:
        engine = asked.bind()
        if engine.margin_bytes:  # it places layers, and knows no parallel sizes
            return
        chosen = engine.propose(load).workload.tensor_parallel
    except UsageError:
        return
    for tensor in range(len(asked.machine.gpus), 0, -1):
        if n_gpus % tensor == 0 and chosen not in (None, tensor):
            split = replace(load, tensor_parallel=tensor, pipeline_parallel=n_gpus // tensor)
            yield replace(asked, workload=split)
