"""What vLLM itself would print about memory, with our figures in its words.

Source:
    vLLM, v1/worker/utils.py, v1/worker/gpu_worker.py, v1/worker/gpu_model_runner.py and v1/core/kv_cache_utils.py of
    0.9 to 0.33. Since when an error names the device and figures drop their trailing zeros is not known to the release;
    logs of 0.11 show the older words, logs of 2026 the newer.
"""

from collections.abc import Iterator

from msgspec import Struct

from vramcalc.engines._vllm.billing import beside_cache
from vramcalc.engines._vllm.rules import RuleSet
from vramcalc.engines.base import Budget, loaded_bytes
from vramcalc.ledger import Component, Ledger
from vramcalc.units import GIB

_NO_BLOCKS = (
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine."
)
_TRY = "Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."


class Rank(Struct, frozen=True, kw_only=True):
    """One rank at start-up, in bytes; ``requested`` is None where the cache is set in bytes instead of a share."""

    index: int
    total: int
    free: int  # of other processes, the CUDA context and communication buffers
    requested: int | None
    loaded: int
    room: int  # left to the cache; negative where there is too little


class Cache(Struct, frozen=True, kw_only=True):
    """The pool and what one request of ``context`` tokens asks of it."""

    context: int
    request_bytes: int
    starts: bool
    n_tokens: int
    max_concurrency: float
    fitted_context: int


def rank_at_start(index: int, held: Ledger, budget: Budget, reserve_bytes: int, *, has_share: bool) -> Rank:
    """Return a rank as its budget and ledger have it; graphs beside the budget come only after the start."""
    beside = held.outside_budget().without(Component.COMPUTE_BUFFER).n_bytes
    return Rank(
        index=index,
        total=budget.capacity_bytes,
        free=max(0, budget.capacity_bytes - beside - reserve_bytes),
        requested=budget.budget_bytes if has_share else None,
        loaded=loaded_bytes(held),
        room=budget.budget_bytes - beside_cache(held),
    )


def start_up(ranks: tuple[Rank, ...], cache: Cache | None, share: float, rules: RuleSet) -> tuple[str, ...]:
    """Return the lines of the log that speak of memory, up to the error where it does not start."""
    return tuple(_lines(ranks, cache, share, rules))


def _lines(ranks: tuple[Rank, ...], cache: Cache | None, share: float, rules: RuleSet) -> Iterator[str]:
    crowded = next((rank for rank in ranks if rank.requested is not None and rank.free < rank.requested), None)
    if crowded is not None:
        yield _too_little_free(crowded, share, rules)
        return
    overfull = next((rank for rank in ranks if rank.loaded > rank.free), None)
    if overfull is not None:
        yield (
            f"torch.OutOfMemoryError: CUDA out of memory. GPU {overfull.index} has a total capacity of "
            f"{overfull.total / GIB:.2f} GiB"
        )
        return
    yield f"Model loading took {_gib(ranks[0].loaded, rules)} GiB memory"
    if cache is None:
        return
    tightest = min(ranks, key=lambda rank: rank.room)
    yield f"Available KV cache memory: {_gib(tightest.room, rules)} GiB"
    if tightest.room <= 0:
        yield _NO_BLOCKS
    elif not cache.starts:
        yield _too_long(cache, tightest.room, rules)
    else:
        yield f"GPU KV cache size: {cache.n_tokens:,} tokens"
        yield f"Maximum concurrency for {cache.context:,} tokens per request: {cache.max_concurrency:.2f}x"


def _too_little_free(rank: Rank, share: float, rules: RuleSet) -> str:
    device = f"device cuda:{rank.index}" if rules.words_of_2026 else "device"
    free, total, requested = (_gib(n, rules) for n in (rank.free, rank.total, rank.requested or 0))
    return (
        f"Free memory on {device} ({free}/{total} GiB) on startup is less than desired GPU memory utilization "
        f"({share:g}, {requested} GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
    )


def _too_long(cache: Cache, room: int, rules: RuleSet) -> str:
    whose = "model's" if rules.words_of_2026 else "models's"
    estimated = ""
    if cache.fitted_context:
        estimated = f"Based on the available memory, the estimated maximum model length is {cache.fitted_context}. "
    needed, available = _gib(cache.request_bytes, rules), _gib(room, rules)
    return (
        f"To serve at least one request with the {whose} max seq len ({cache.context}), ({needed} GiB KV cache is "
        f"needed, which is larger than the available KV cache memory ({available} GiB). {estimated}{_TRY}"
    )


def _gib(n_bytes: int, rules: RuleSet) -> str:
    return str(round(n_bytes / GIB, 2)) if rules.words_of_2026 else f"{n_bytes / GIB:.2f}"
