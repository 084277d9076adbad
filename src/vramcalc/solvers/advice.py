"""What would help: the nearest settings under the same engine that keep the model on the GPUs."""

from collections.abc import Iterator
from fractions import Fraction

from msgspec.structs import replace

from vramcalc.engines import bind_engine
from vramcalc.engines.base import Engine, Setup
from vramcalc.errors import RefusedError, UnknownNameError
from vramcalc.estimation import Balance, Outcome, estimate_outcome
from vramcalc.solvers.limits import Limits, longest_context
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload
from vramcalc.units import format_gib

# From the best in quality to the smallest, per engine.
_GGUF_FORMATS = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")
_FORMATS = {"vllm": ("fp8", "w4a16"), "ollama": _GGUF_FORMATS, "llama.cpp": _GGUF_FORMATS}
_LEAST_USEFUL_CONTEXT = 2048
_LARGER_SHARE = Fraction(95, 100)


def find_advice(engine: str, setup: Setup, asked: Workload, outcome: Outcome, limits: Limits) -> tuple[str, ...]:
    """Return the changes that help, each one tried before it is offered; empty where nothing needs to change."""
    if outcome.stays_on_gpus:
        return ()
    context = outcome.proposal.workload.n_context or 0
    shorter = limits.max_context or 0
    found = []
    if 0 < shorter < context:
        found.append(f"--context {shorter} keeps it on the GPUs with everything else as it is")
    if engine == "vllm":
        found += _switches(outcome, setup, asked)
    if _fits_as_engine_places(outcome, setup, asked):
        found.append("leave --gpu-layers and --cpu-moe out: the engine's own placement keeps it on the GPUs")
        return tuple(found)
    least = max(_LEAST_USEFUL_CONTEXT, shorter + 1)
    found += _other_formats(engine, setup, asked, outcome.engine.weight_format, contexts=(least, context))
    if engine == "vllm" and not found:
        found.append("--engine ollama: it may keep some layers in host memory, which is slower but runs")
    return tuple(found)


def _switches(outcome: Outcome, setup: Setup, asked: Workload) -> Iterator[str]:
    """Yield vLLM's own switches that make room with context and format as they are."""
    share = max(_LARGER_SHARE, asked.memory_share or _LARGER_SHARE)
    free = min(map(_free_share, outcome.balances.values()))
    changes: dict[str, Workload] = {}
    if 0 < free < (asked.memory_share or share):
        words, changed = f"--memory-share {float(free):g}", replace(asked, memory_share=free)
        changes[f"{words} makes room for what else is on the card"] = changed
        words, changed = f"{words} --enforce-eager", replace(changed, enforce_eager=True)
        changes[f"{words} makes room for what else is on the card"] = changed
        words, changed = f"{words} --kv-type fp8", replace(changed, k_format="fp8", v_format="fp8")
        changes[f"{words} makes room for what else is on the card"] = changed
    changes |= {
        f"--memory-share {float(share):g} makes room": replace(asked, memory_share=share),
        "--enforce-eager makes room: no CUDA graphs, slower decoding": replace(asked, enforce_eager=True),
        "--kv-type fp8 makes room: a cache of half the size": replace(asked, k_format="fp8", v_format="fp8"),
    }
    for text, changed in changes.items():
        if changed != asked and _stays_on_gpus(outcome.engine, setup.machine, changed):
            yield text


def _stays_on_gpus(engine: Engine, machine: Machine, changed: Workload) -> bool:
    try:
        return estimate_outcome(engine, machine, changed).stays_on_gpus
    except RefusedError:
        return False


def _free_share(balance: Balance) -> Fraction:
    """Return the share of a card, in whole percent, that is free as the engine starts."""
    capacity = balance.budget.capacity_bytes
    free = max(0, capacity - balance.outside.n_bytes - balance.reserve_bytes)
    return Fraction(100 * free // capacity, 100)


def _fits_as_engine_places(outcome: Outcome, setup: Setup, asked: Workload) -> bool:
    """Whether only the layers the user kept off the GPUs are in the way."""
    if asked.gpu_layers is None and asked.cpu_moe is None:
        return False
    freed = replace(asked, gpu_layers=None, cpu_moe=None)
    return estimate_outcome(outcome.engine, setup.machine, freed).stays_on_gpus


def _other_formats(
    engine: str, setup: Setup, asked: Workload, current: str, *, contexts: tuple[int, int]
) -> Iterator[str]:
    """Yield formats that stay on the GPUs, best first: each allows more context than the one before, up to the goal."""
    least, goal = contexts
    for name in _FORMATS[engine]:
        tried = None if name == current else _try_format(engine, Setup(setup.model, setup.machine, name), asked)
        if tried is None or tried[0] < least:
            continue
        least, text = tried[0] + 1, tried[1]
        yield text
        if least > goal:
            return


def _try_format(name: str, setup: Setup, asked: Workload) -> tuple[int, str] | None:
    """Return the context at which a format stays on the GPUs, and how to say so; None where none does."""
    try:
        engine = bind_engine(name, setup)
        outcome = estimate_outcome(engine, setup.machine, asked)
    except (RefusedError, UnknownNameError):
        return None
    settled = outcome.proposal.workload
    if outcome.stays_on_gpus:
        room = format_gib(outcome.headroom_bytes)
        return settled.n_context or 0, f"--quant {setup.weight_format} keeps it on the GPUs, {room} to spare"
    context = longest_context(engine, setup.model, setup.machine, settled)
    if context is None:
        return None
    return context, f"--quant {setup.weight_format} --context {context} keeps it on the GPUs"
