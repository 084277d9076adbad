"""Several services on one machine: who loads when, what each takes, and what the RAG prompt may hold.

Every service is walked as if alone, on cards from which the others' memory is reserved. What a service holds once it
runs is its high figure; a paging engine holds its whole share of the card, and checks at its start that it is free.
Loading is taken to need no more than running (assumed: weights are mapped, a profile run stays within the share).
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Protocol, runtime_checkable

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.engines.base import Proposal
from vramcalc.errors import UsageError
from vramcalc.estimation import Asked, Outcome
from vramcalc.solvers.trying import is_answer, obstacle_of, try_asked
from vramcalc.solvers.unknowns import longest_fitting_context
from vramcalc.specs.machine import Machine
from vramcalc.units import ceil_div

_STEPS = 1000  # a share is set in thousandths
_MODELS_PER_GPU = 3  # OLLAMA_MAX_LOADED_MODELS, by default; Ollama 0.33, server/sched.go


@runtime_checkable
class Admitting(Protocol):
    """An engine that loads several models and decides whether one more may stay beside the others."""

    def admits_beside(self, proposal: Proposal, free_bytes: int) -> bool:
        """Whether a model may load into what is free without evicting another."""
        ...


class Service(Struct, frozen=True):
    """One model on some of the machine's cards; ``asked.machine`` is made of those cards alone."""

    name: str
    asked: Asked
    cards: tuple[int, ...]


class Prompt(Struct, frozen=True, kw_only=True):
    """What a RAG application puts into one request, in tokens, and how many requests it sends at once."""

    service: str
    chunks: int
    chunk_tokens: int
    system_tokens: int
    history_tokens: int
    question_tokens: int
    answer_tokens: int
    concurrency: int

    @property
    def fixed_tokens(self) -> int:
        """What every request holds, whatever is retrieved."""
        return self.system_tokens + self.history_tokens + self.question_tokens

    def numbers(self, n_context: int) -> tuple[int, int]:
        """Return the longest answer and the most chunks a context holds; the answer asked for comes first."""
        max_tokens = min(self.answer_tokens, max(0, n_context - self.fixed_tokens))
        room = n_context - self.fixed_tokens - max_tokens
        return max_tokens, max(0, room) // self.chunk_tokens


class Loaded(Struct, frozen=True):
    """A service after its turn: what it asked for, what it met and what it holds, by card."""

    service: Service
    tried: Outcome | UsageError
    before: Mapping[int, int]
    held: Mapping[int, int]
    evicts: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether it starts with everything on its cards but what it was told to keep in host memory."""
        return isinstance(self.tried, Outcome) and is_answer(self.service.asked, self.tried)

    @property
    def why(self) -> str:
        """What is in its way, or nothing."""
        return "" if self.fits else obstacle_of(self.tried).why


class Budget(Struct, frozen=True):
    """What a request may hold: ``max_tokens`` is the number for the application's setting of that name."""

    n_context: int
    max_tokens: int
    max_prompt_tokens: int
    max_chunks: int
    needed_tokens: int
    n_sequences: int
    fits: bool


def load_in_order(services: Sequence[Service], machine: Machine, prompt: Prompt | None) -> tuple[Loaded, ...]:
    """Return the services as they load: in the order given, else the small ones first or last, if that fits alone."""
    orders = [list(services)]
    orders += [sorted(services, key=_weight, reverse=large_first) for large_first in (False, True)]
    tried = [_load(order, machine, prompt) for order in orders]
    return next((loaded for loaded in tried if all(one.fits and not one.evicts for one in loaded)), tried[0])


def prompt_budget(prompt: Prompt, loaded: Sequence[Loaded]) -> Budget | None:
    """Return what one request may hold of the context that is left; None where the service does not run."""
    chat = next(one for one in loaded if one.service.name == prompt.service)
    if not isinstance(chat.tried, Outcome) or not chat.fits:
        return None
    load = chat.tried.proposal.workload
    context = load.n_context or 0
    max_tokens, max_chunks = prompt.numbers(context)
    needed = prompt.fixed_tokens + prompt.chunks * prompt.chunk_tokens + prompt.answer_tokens
    n_sequences = load.n_sequences or 1
    return Budget(
        n_context=context,
        max_tokens=max_tokens,
        max_prompt_tokens=context - max_tokens,
        max_chunks=max_chunks,
        needed_tokens=needed,
        n_sequences=n_sequences,
        fits=needed <= context and prompt.concurrency <= n_sequences,
    )


def _weight(service: Service) -> int:
    return service.asked.model.parameters.total


def _load(services: Sequence[Service], machine: Machine, prompt: Prompt | None) -> tuple[Loaded, ...]:
    taken: dict[int, int] = dict.fromkeys(range(len(machine.gpus)), machine.reserve_bytes)
    loaded: list[Loaded] = []
    resident: dict[str, Loaded] = {}
    for index, service in enumerate(services):
        later = services[index + 1 :]
        evicts = _evicted(replace(service.asked, machine=_left_by(service, taken)), tuple(resident.values()))
        for name in evicts:
            for card, n_bytes in resident.pop(name).held.items():
                taken[card] -= n_bytes
        before = dict(taken)
        asked = replace(service.asked, machine=_left_by(service, taken))
        asked = _with_share(asked, shares_cards=any(set(s.cards) & set(service.cards) for s in later))
        if asked.workload.n_context is None and prompt is not None and prompt.service == service.name:
            asked = replace(asked, workload=replace(asked.workload, n_context=longest_fitting_context(asked)))
        tried = try_asked(asked)
        held = _held(service, tried)
        for card, n_bytes in held.items():
            taken[card] += n_bytes
        resident[service.name] = Loaded(replace(service, asked=asked), tried, before, held, evicts)
        loaded.append(resident[service.name])
    return tuple(loaded)


def _left_by(service: Service, taken: Mapping[int, int]) -> Machine:
    """Return the service's cards with the fullest one's memory reserved on each: ranks take alike."""
    return replace(service.asked.machine, reserve_bytes=max(taken[card] for card in service.cards))


def _with_share(asked: Asked, *, shares_cards: bool) -> Asked:
    """Return the question with a share of the cards that leaves room for the others, where none was given.

    A service that others follow takes the least share at which it fits; the last one what is left, up to the default.
    """
    load = asked.workload
    if load.memory_share is not None or load.kv_cache_memory_bytes is not None:
        return asked
    tried = try_asked(asked)
    if isinstance(tried, UsageError) or tried.proposal.workload.memory_share is None:
        return asked
    default = int(tried.proposal.workload.memory_share * _STEPS)

    def at(thousandths: int) -> Asked:
        return replace(asked, workload=replace(load, memory_share=Fraction(thousandths, _STEPS)))

    if not shares_cards:
        beside = max(b.outside.high_bytes + b.reserve_bytes for b in tried.balances.values())
        capacity = min(balance.budget.capacity_bytes for balance in tried.balances.values())
        free = (capacity - beside) * _STEPS // capacity
        return at(max(1, min(default, free)))
    need = max(ceil_div(b.need.high_bytes * _STEPS, b.budget.capacity_bytes) for b in tried.balances.values())
    return at(min(max(need, 1), default))


def _held(service: Service, tried: Outcome | UsageError) -> dict[int, int]:
    """Return what a running service keeps on each of its cards."""
    if isinstance(tried, UsageError):
        return {}
    held = {}
    takes_share = tried.proposal.workload.memory_share is not None
    for device, balance in tried.balances.items():
        inside = balance.budget.budget_bytes if takes_share else balance.need.high_bytes
        held[service.cards[int(device.removeprefix("gpu"))]] = inside + balance.outside.high_bytes
    return held


def _evicted(asked: Asked, resident: Sequence[Loaded]) -> tuple[str, ...]:
    """Return the models of the same server that must leave before this one loads."""
    others = [one for one in resident if one.service.asked.engine == asked.engine and one.held]
    tried = try_asked(asked)
    if not others or isinstance(tried, UsageError) or not isinstance(tried.engine, Admitting):
        return ()
    free = sum(max(0, balance.budget.budget_bytes) for balance in tried.balances.values())
    most = _MODELS_PER_GPU * len(asked.machine.gpus)
    if tried.engine.admits_beside(tried.proposal, free) and len(others) < most:
        return ()
    return tuple(one.service.name for one in others)
