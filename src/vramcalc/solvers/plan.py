"""The whole ladder, tried: every change that makes it fit, none that another beats in every respect."""

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.errors import UsageError
from vramcalc.estimation import Asked, Outcome
from vramcalc.ledger import HOST
from vramcalc.solvers import ladder
from vramcalc.solvers.advice import LEAST_USEFUL_CONTEXT
from vramcalc.solvers.ladder import KINDS, ON_OTHER_HARDWARE, Change
from vramcalc.solvers.search import edge_near
from vramcalc.solvers.trying import fitting_outcome, obstacle_of, try_asked
from vramcalc.solvers.unknowns import longest_fitting_context, solve_gpu, solve_sequences
from vramcalc.specs.machine import Machine
from vramcalc.specs.quality import CACHE_QUALITY, GGUF_ENGINES, weight_quality
from vramcalc.units import GIB, ceil_div, format_gib

_ALIKE_BYTES = GIB // 4  # what fits by so much more or less fits alike


class Costs(Struct, frozen=True, kw_only=True):
    """What a rung costs, less being better in each; None is not known and compares with nothing but itself.

    The losses of formats compare within one family, GGUF or checkpoints.
    """

    gpu_bytes: int
    host_bytes: int
    bought_bytes: int  # of GPU memory: cards added, or all of those that replace the old
    context_lost: int
    sequences_lost: int
    step_lost: int
    cache_loss: float | None
    weight_loss: float | None
    family: str
    is_eager: bool
    engine: str
    is_other_engine: bool

    def beats(self, other: "Costs") -> bool:
        """Whether no cost is higher and some cost is lower."""
        if self.is_other_engine and other.is_other_engine and self.engine != other.engine:
            return False  # two other engines are two choices
        pairs = [
            (self.gpu_bytes // _ALIKE_BYTES, other.gpu_bytes // _ALIKE_BYTES),
            (self.host_bytes, other.host_bytes),
            (self.bought_bytes, other.bought_bytes),
            (self.context_lost, other.context_lost),
            (self.sequences_lost, other.sequences_lost),
            (self.step_lost, other.step_lost),
            (self.is_eager, other.is_eager),
            (self.is_other_engine, other.is_other_engine),
        ]
        known = all(
            mine is not None and theirs is not None
            for mine, theirs in ((self.cache_loss, other.cache_loss), (self.weight_loss, other.weight_loss))
        )
        if not known or self.family != other.family:
            return False
        losses = [(self.cache_loss or 0, other.cache_loss or 0), (self.weight_loss or 0, other.weight_loss or 0)]
        return all(mine <= theirs for mine, theirs in (*pairs, *losses)) and any(
            mine < theirs for mine, theirs in (*pairs, *losses)
        )


class Rung(Struct, frozen=True):
    """One change that works: tried, with its outcome and its costs."""

    change: Change
    outcome: Outcome
    costs: Costs

    @property
    def is_heavy(self) -> bool:
        """Whether weights or cache lose what most people notice."""
        asked, load = self.change.asked, self.outcome.proposal.workload
        found = (weight_quality(asked.engine, asked.weight_format), CACHE_QUALITY.get(load.k_format or "bf16"))
        return any(quality is not None and quality.is_heavy for quality in found)

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """What orders the ladder: this machine first, then light losses, then the kinds of change."""
        kind = self.change.kind
        return kind in ON_OTHER_HARDWARE, self.is_heavy, KINDS.index(kind)


class Plan(Struct, frozen=True):
    """What was asked, what stands in its way, and the rungs from the cheapest."""

    asked: Asked
    fits: bool
    obstacle: str
    rungs: tuple[Rung, ...]


def make_plan(asked: Asked, larger: Sequence[tuple[str, Machine]]) -> Plan:
    """Return the ladder for a question; ``larger`` are machines to look through, from the smallest.

    Raises ``UsageError`` where engine, card, format and setting do not go together whatever fits.
    """
    base = try_asked(asked)
    if isinstance(base, UsageError):
        raise base
    obstacle = obstacle_of(base)
    if base.verdict == "fits":
        return Plan(asked, fits=True, obstacle=obstacle.why, rungs=())
    tries = _tries(asked, base, larger)
    tried = [Rung(change, outcome, _costs(base, asked, change, outcome)) for change, outcome in tries]
    kept = [rung for rung in tried if not any(other.costs.beats(rung.costs) for other in tried)]
    ordered = sorted(kept, key=lambda rung: rung.rank)
    return Plan(asked, fits=False, obstacle=obstacle.why, rungs=tuple(ordered))


def _tries(asked: Asked, base: Outcome, larger: Sequence[tuple[str, Machine]]) -> Iterator[tuple[Change, Outcome]]:
    single = (
        *ladder.placement_changes(asked),
        *ladder.free_share_changes(asked, base),
        *ladder.share_changes(asked, base),
        *ladder.cache_changes(asked, base),
        *ladder.eager_changes(asked, base),
    )
    for change in single:
        yield from _if_fits(change)
    yield from _first_that_fits(ladder.step_changes(asked, base))
    yield from _together(asked, base)
    yield from _fewer_sequences(asked, base)
    yield from _shorter_context(asked, base, "context", ())
    yield from _formats(asked, base)
    yield from _offloads(asked, base)
    yield from _engines(asked)
    yield from _first_that_fits(ladder.more_gpu_changes(asked))
    yield from _larger(asked, larger)


def _if_fits(change: Change) -> Iterator[tuple[Change, Outcome]]:
    outcome = fitting_outcome(change.asked)
    if outcome is not None:
        yield change, outcome


def _first_that_fits(changes: Iterator[Change]) -> Iterator[tuple[Change, Outcome]]:
    for change in changes:
        outcome = fitting_outcome(change.asked)
        if outcome is not None:
            yield change, outcome
            return


def _fewer_sequences(asked: Asked, base: Outcome) -> Iterator[tuple[Change, Outcome]]:
    load = base.proposal.workload
    if (load.n_sequences or 1) < 2 or asked.workload.n_slots is not None:  # noqa: PLR2004 - one cannot become fewer
        return
    context = replace(asked.workload, n_context=load.n_context)
    solution = solve_sequences(replace(asked, workload=context))
    if isinstance(solution.answer, int):
        yield from _if_fits(ladder.sequences_change(replace(asked, workload=context), base, solution.answer))


def _shorter_context(
    asked: Asked, base: Outcome, kind: str, flags: tuple[str, ...], lost: str = ""
) -> Iterator[tuple[Change, Outcome]]:
    """Yield the longest context that fits, where it is useful and shorter than what was asked."""
    goal = base.proposal.workload.n_context or asked.model.context
    longest = longest_fitting_context(asked)
    if longest is None or not min(LEAST_USEFUL_CONTEXT, goal) <= longest < goal:
        return
    change = ladder.context_change(asked, base, longest)
    words = "; ".join(text for text in (lost, change.loses) if text)
    yield from _if_fits(Change(kind, change.asked, (*flags, *change.flags), words))


def _together(asked: Asked, base: Outcome) -> Iterator[tuple[Change, Outcome]]:
    """Yield the cheap changes one on top of the other, as few as it takes; with a shorter context where all do not."""
    current, flags, lost = asked, tuple[str, ...](), list[str]()
    for changes in (ladder.share_changes, ladder.cache_changes, ladder.eager_changes, ladder.step_changes):
        change = next(changes(current, base), None)
        if change is None:
            continue
        current, flags, lost = change.asked, (*flags, *change.flags), [*lost, change.loses]
        fitting = fitting_outcome(current) if len(lost) > 1 else None
        if fitting is not None:
            yield Change("together", current, flags, "; ".join(lost)), fitting
            return
    if lost:
        yield from _shorter_context(current, base, "together and context", flags, "; ".join(lost))


def _formats(asked: Asked, base: Outcome) -> Iterator[tuple[Change, Outcome]]:
    """Yield the best format that fits, and each better one with a smaller cache or the longest context it leaves."""
    has_cache = False
    for change in ladder.format_changes(asked, base.engine.weight_format):
        fitting = list(_if_fits(change))
        if fitting:
            yield from fitting
            return
        smaller = next(ladder.cache_changes(change.asked, base), None) if not has_cache else None
        both = fitting_outcome(smaller.asked) if smaller else None
        if smaller is not None and both is not None:
            has_cache = True
            lost = f"{change.loses}; {smaller.loses}"
            yield Change("format and cache", smaller.asked, (*change.flags, *smaller.flags), lost), both
        yield from _shorter_context(change.asked, base, "format and context", change.flags, change.loses)


def _offloads(asked: Asked, base: Outcome) -> Iterator[tuple[Change, Outcome]]:
    """Yield the engine's own offload, the fewest layers of experts in host memory, the least of vLLM's offload."""
    if _surely_offloads(base):
        yield Change("offload", asked, (), _offload_words(asked, base)), base
    load = base.proposal.workload
    if asked.engine == "llama.cpp" and asked.model.is_moe and asked.workload.gpu_layers is None:
        yield from _least(asked, "cpu_moe", "--cpu-moe", upper=asked.model.layers.n_layers, unit=1)
    if asked.engine == "vllm" and not load.cpu_offload_bytes:
        need = max(balance.need.n_bytes for balance in base.balances.values())
        yield from _least(asked, "cpu_offload_bytes", "--cpu-offload", upper=ceil_div(need, GIB), unit=GIB)


def _least(asked: Asked, setting: str, flag: str, *, upper: int, unit: int) -> Iterator[tuple[Change, Outcome]]:
    """Yield the least of a setting with which the rest stays on the GPUs."""

    def with_setting(n: int) -> Asked:
        return replace(asked, workload=replace(asked.workload, **{setting: n * unit}))

    def is_short(n: int) -> bool:
        return not _surely_offloads(try_asked(with_setting(n)))

    least = edge_near(is_short, 1, upper=upper) + 1
    if least > upper:
        return
    changed = with_setting(least)
    outcome = try_asked(changed)
    if isinstance(outcome, Outcome) and _surely_offloads(outcome):
        amount = str(least) if unit == 1 else f"{least}GiB"
        yield Change("offload", changed, (flag, amount), _offload_words(asked, outcome)), outcome


def _surely_offloads(tried: Outcome | UsageError) -> bool:
    """Whether what stays on the GPUs fits by the high figures too."""
    if isinstance(tried, UsageError) or tried.verdict != "offloads":
        return False
    return all(balance.sure_headroom_bytes >= 0 for balance in tried.balances.values())


def _offload_words(asked: Asked, outcome: Outcome) -> str:
    held = format_gib(outcome.ledger.on(HOST).n_bytes)
    how = "read over PCIe in every step" if asked.engine == "vllm" else "computed by the CPU"
    unchecked = "" if outcome.host_capacity_bytes is not None else " (--ram was not given: not checked)"
    return f"speed: {held} in host memory{unchecked}, {how}"


def _engines(asked: Asked) -> Iterator[tuple[Change, Outcome]]:
    """Yield, of each other engine, what fits first; else what runs with layers in host memory."""
    done: set[str] = set()
    for change in ladder.engine_changes(asked):
        if change.asked.engine in done:
            continue
        tried = try_asked(change.asked)
        if isinstance(tried, Outcome) and (tried.verdict == "fits" or _surely_offloads(tried)):
            done.add(change.asked.engine)
            lost = change.loses if tried.verdict == "fits" else f"{change.loses}; {_offload_words(change.asked, tried)}"
            yield replace(change, loses=lost), tried


def _larger(asked: Asked, machines: Sequence[tuple[str, Machine]]) -> Iterator[tuple[Change, Outcome]]:
    load = replace(asked.workload, tensor_parallel=None, pipeline_parallel=None)
    solution = solve_gpu(replace(asked, workload=load), machines)
    if isinstance(solution.answer, str):
        name = solution.asked.machine.gpus[0].name
        yield from _if_fits(Change("a bigger GPU", solution.asked, ("--gpu", solution.answer), f"money: {name}"))


def _costs(base: Outcome, asked: Asked, change: Change, outcome: Outcome) -> Costs:
    before, after, engine = base.proposal.workload, outcome.proposal.workload, change.asked.engine
    quality, cache = weight_quality(engine, outcome.engine.weight_format), CACHE_QUALITY.get(after.k_format or "bf16")
    is_own = outcome.engine.weight_format in (asked.model.checkpoint_format, asked.model.dtype)
    return Costs(
        gpu_bytes=sum(balance.need.n_bytes for balance in outcome.balances.values()),
        host_bytes=outcome.ledger.on(HOST).n_bytes if outcome.verdict == "offloads" else 0,
        bought_bytes=_bought(asked.machine, change.asked.machine),
        context_lost=max(0, (before.n_context or 0) - (after.n_context or 0)),
        sequences_lost=max(0, (before.n_sequences or 1) - (after.n_sequences or 1)),
        step_lost=max(0, (before.step_tokens or 0) - (after.step_tokens or 0)) if engine == asked.engine else 0,
        cache_loss=cache.perplexity_rise if cache else None,
        weight_loss=0.0 if is_own else quality.loss if quality else None,
        family="gguf" if engine in GGUF_ENGINES else "checkpoint",
        is_eager=after.enforce_eager and not before.enforce_eager,
        engine=engine,
        is_other_engine=engine != asked.engine,
    )


def _bought(old: Machine, new: Machine) -> int:
    kept = old.gpus if new.gpus[: len(old.gpus)] == old.gpus else ()
    return sum(gpu.memory.advertised for gpu in new.gpus[len(kept) :]) * new.nodes
