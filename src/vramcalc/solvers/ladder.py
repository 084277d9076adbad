"""Ways to make it fit: one change each, from what costs nothing to what costs money. What to try, not whether it works.

``advice`` tries the first few for an estimate, ``plan`` all of them.
"""

from collections.abc import Iterator
from fractions import Fraction

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.estimation import Asked, Balance, Outcome
from vramcalc.specs.format_names import scaled_format
from vramcalc.specs.quality import CACHE_QUALITY, Quality, qualities_for, weight_quality
from vramcalc.specs.workload import Workload

# From the cheapest in quality, speed and money to the dearest: the order of the ladder.
ON_OTHER_HARDWARE = frozenset({"more GPUs", "a bigger GPU"})
KINDS = (
    "placement",
    "free share",
    "share",
    "cache",
    "step",
    "eager",
    "together",
    "format",
    "format and cache",
    "sequences",
    "context",
    "together and context",
    "format and context",
    "offload",
    "engine",
    "more GPUs",
    "a bigger GPU",
)
LARGER_SHARE = Fraction(95, 100)
PAGED_ENGINES = ("vllm", "sglang", "tensorrt-llm")  # those that serve from a share of the card
_INT4 = {"tensorrt-llm": "awq-4bit"}  # where w4a16 is not to be had
_CACHES = {"ollama": ("q8_0", "q4_0"), "llama.cpp": ("q8_0", "q4_0"), **dict.fromkeys(PAGED_ENGINES, ("fp8",))}
_OTHER_ENGINES = {
    "ollama": ("llama.cpp", "vllm"),
    "llama.cpp": ("ollama", "vllm"),
    "vllm": ("ollama", "llama.cpp"),
    "sglang": ("vllm", "ollama", "llama.cpp"),
    "tensorrt-llm": ("vllm", "ollama", "llama.cpp"),
}
_LEAST_STEP = 256
_NO_GRAPHS = "CUDA graphs: decoding is slower"
_GPU_COUNTS = (2, 4, 8)


class Change(Struct, frozen=True):
    """One way to make it fit: what is asked instead, the flags that say so, and what they cost in words."""

    kind: str
    asked: Asked
    flags: tuple[str, ...]
    loses: str


def placement_changes(asked: Asked) -> Iterator[Change]:
    """Yield the question without the layers the user kept off the GPUs."""
    load = asked.workload
    if load.gpu_layers is not None or load.cpu_moe is not None:
        freed = replace(load, gpu_layers=None, cpu_moe=None)
        yield Change("placement", replace(asked, workload=freed), (), "nothing: the engine places the layers itself")


def free_share_changes(asked: Asked, outcome: Outcome) -> Iterator[Change]:
    """Yield the share that is free, where the engine asks for more: alone, without CUDA graphs, with a small cache."""
    share = outcome.proposal.workload.memory_share
    free = min(map(_free_share, outcome.balances.values()))
    if share is None or not 0 < free < share:
        return
    load = replace(asked.workload, memory_share=free)
    flags = ("--memory-share", f"{float(free):g}")
    yield Change("free share", replace(asked, workload=load), flags, "nothing: the rest of the card is taken")
    eager = replace(load, enforce_eager=True)
    yield Change("free share", replace(asked, workload=eager), (*flags, "--enforce-eager"), _NO_GRAPHS)
    small = replace(eager, k_format="fp8", v_format="fp8")
    lost = f"{_NO_GRAPHS}; precision of the cache: {words_of_loss(CACHE_QUALITY['fp8'])}"
    yield Change("free share", replace(asked, workload=small), (*flags, "--enforce-eager", "--kv-type", "fp8"), lost)


def _free_share(balance: Balance) -> Fraction:
    """Return the share of a card, in whole percent, that is free as the engine starts."""
    capacity = balance.budget.capacity_bytes
    free = max(0, capacity - balance.outside.n_bytes - balance.reserve_bytes)
    return Fraction(100 * free // capacity, 100)


def share_changes(asked: Asked, outcome: Outcome) -> Iterator[Change]:
    """Yield a larger share of the card, where the engine takes a share."""
    share = outcome.proposal.workload.memory_share
    if share is not None and share < LARGER_SHARE and asked.workload.kv_cache_memory_bytes is None:
        load = replace(asked.workload, memory_share=LARGER_SHARE)
        flags = ("--memory-share", f"{float(LARGER_SHARE):g}")
        yield Change("share", replace(asked, workload=load), flags, "room for other programs on the card")


def eager_changes(asked: Asked, outcome: Outcome) -> Iterator[Change]:
    """Yield running without CUDA graphs, where the engine captures them."""
    if outcome.proposal.workload.memory_share is not None and not asked.workload.enforce_eager:
        load = replace(asked.workload, enforce_eager=True)
        yield Change("eager", replace(asked, workload=load), ("--enforce-eager",), _NO_GRAPHS)


def cache_changes(asked: Asked, outcome: Outcome) -> Iterator[Change]:
    """Yield smaller cache types than the one in force."""
    settled = outcome.proposal.workload
    now = CACHE_QUALITY.get(settled.k_format or "bf16")
    for name in _CACHES.get(asked.engine, ()):
        if now is not None and CACHE_QUALITY[name].bits < now.bits:
            load = replace(asked.workload, k_format=name, v_format=name)
            lost = f"precision of the cache: {words_of_loss(CACHE_QUALITY[name])}"
            yield Change("cache", replace(asked, workload=load), ("--kv-type", name), lost)


def step_changes(asked: Asked, outcome: Outcome) -> Iterator[Change]:
    """Yield smaller steps, each half of the one before; Ollama has no switch for them."""
    if asked.engine == "ollama":
        return
    settled = outcome.proposal.workload
    step = (settled.step_tokens or 0) // 2
    while step >= max(_LEAST_STEP, settled.max_num_seqs or 0):
        load = replace(asked.workload, step_tokens=step)
        lost = f"prefill speed: {step} tokens a step instead of {settled.step_tokens}"
        yield Change("step", replace(asked, workload=load), ("--step-tokens", str(step)), lost)
        step //= 2


def context_change(asked: Asked, outcome: Outcome, n_context: int) -> Change:
    """Return the question at a shorter context."""
    before = outcome.proposal.workload.n_context
    lost = f"context: {n_context:,} tokens instead of {before:,}"
    load = replace(asked.workload, n_context=n_context)
    return Change("context", replace(asked, workload=load), ("--context", str(n_context)), lost)


def sequences_change(asked: Asked, outcome: Outcome, n_sequences: int) -> Change:
    """Return the question for fewer sequences at once; the rest wait."""
    before = outcome.proposal.workload.n_sequences
    load = replace(asked.workload, n_sequences=n_sequences)
    lost = f"concurrency: {n_sequences} at once instead of {before}; the others wait"
    return Change("sequences", replace(asked, workload=load), ("--parallel", str(n_sequences)), lost)


def format_changes(asked: Asked, current: str, *, common: bool = False) -> Iterator[Change]:
    """Yield weight formats with fewer bits than the current one, best first; ``common``: those most people publish."""
    for quality in smaller_formats(asked, current):
        if not common or quality.is_common or quality.name == _INT4.get(asked.engine):
            changed = replace(asked, weight_format=quality.name)
            lost = f"precision of the weights: {words_of_loss(quality)}"
            yield Change("format", changed, ("--quant", quality.name), lost)


def smaller_formats(asked: Asked, current: str) -> tuple[Quality, ...]:
    """Return the formats below the current one; all where nothing is known of it."""
    known = weight_quality(asked.engine, current)
    bits = known.bits if known else released_bits(current)
    return tuple(q for q in qualities_for(asked.engine) if q.name != current and q.bits < bits)


def released_bits(name: str) -> float:
    """Return the bits per element of a checkpoint's format, those of its experts where they differ; floats have 16."""
    fmt = scaled_format(name)
    return 16 if fmt is None else float((fmt.experts or fmt).element_bits)


def engine_changes(asked: Asked) -> Iterator[Change]:
    """Yield other engines in the format they would take, and the smaller ones they have."""
    for engine in _OTHER_ENGINES.get(asked.engine, ()):
        bare = _without_own_settings(asked.workload)
        other = replace(asked, engine=engine, version=None, weight_format=None, workload=bare)
        lost = "another engine: another API, other features"
        yield Change("engine", other, ("--engine", engine), lost)
        if engine == "vllm":
            for change in format_changes(other, asked.model.checkpoint_format or asked.model.dtype, common=True):
                flags = ("--engine", engine, *change.flags)
                yield Change("engine", change.asked, flags, f"{lost}; {change.loses}")


def more_gpu_changes(asked: Asked) -> Iterator[Change]:
    """Yield more of the same card."""
    cards = asked.machine.gpus
    if len({gpu.id for gpu in cards}) != 1 or asked.machine.unified_memory:
        return
    load = replace(asked.workload, tensor_parallel=None, pipeline_parallel=None)
    for count in _GPU_COUNTS:
        if count > len(cards):
            machine = replace(asked.machine, gpus=cards[:1] * count)
            lost = f"money: {count - len(cards)} more {cards[0].name}"
            flags = ("--gpu", f"{count}x{cards[0].id}")
            yield Change("more GPUs", replace(asked, machine=machine, workload=load), flags, lost)


def words_of_loss(quality: Quality) -> str:
    """Return what is published of a loss, with its source."""
    said = "nobody published a figure"
    if quality.perplexity_rise is not None:
        said = f"perplexity +{quality.perplexity_rise:.2%}".replace("%", " %")
        if quality.divergence is not None:
            said += f", KL divergence {quality.divergence:.4f}"
    elif quality.score_kept is not None:
        borrowed = " by a format of its kind" if quality.is_borrowed else ""
        said = f"{quality.score_kept:.1%} of the benchmark score kept{borrowed}".replace("%", " %", 1)
    return f"{said} ({quality.source})"


def _without_own_settings(load: Workload) -> Workload:
    """Return the load without the settings of one engine."""
    return Workload(n_context=load.n_context, n_sequences=load.n_sequences)
