"""Ollama's environment variables as settings of a workload; what is asked for outright goes before them.

Source: Ollama 0.33 (fb30760), envconfig/config.go.
"""

from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from vramcalc.errors import UnknownNameError, UsageError
from vramcalc.specs.workload import Workload
from vramcalc.units import parse_count

_TRUE = frozenset({"1", "t", "true"})
_FALSE = frozenset({"0", "f", "false"})
_Change = Callable[[Workload, str], Workload]


def with_environment(workload: Workload, variables: Iterable[tuple[str, str]]) -> Workload:
    """Return the workload with what Ollama reads from its environment.

    Raises ``UnknownNameError`` for a variable it does not read, ``UsageError`` for a value it would not take.
    """
    for name, value in variables:
        if name not in _CHANGES:
            raise UnknownNameError("variable of Ollama", name, _CHANGES, see=f"known are {', '.join(_CHANGES)}")
        try:
            workload = _CHANGES[name](workload, value.strip())
        except ValueError as error:
            raise UsageError(f"{name}={value}: {error}", "Ollama would warn and take its default") from error
    return workload


def _set_context(workload: Workload, value: str) -> Workload:
    return workload if workload.n_context else replace(workload, n_context=parse_count(value) or None)


def _set_slots(workload: Workload, value: str) -> Workload:
    return workload if workload.n_slots else replace(workload, n_slots=max(1, parse_count(value)))


def _set_cache_type(workload: Workload, value: str) -> Workload:
    if workload.k_format is not None:
        return workload
    return replace(workload, k_format=value.lower(), v_format=value.lower())


def _set_flash_attention(workload: Workload, value: str) -> Workload:
    return workload if workload.flash_attention is not None else replace(workload, flash_attention=_switch(value))


def _set_spread(workload: Workload, value: str) -> Workload:
    return replace(workload, spread=_switch(value))


def _set_overhead(workload: Workload, value: str) -> Workload:
    if (n_bytes := int(value)) < 0:
        raise ValueError("is negative")
    return replace(workload, gpu_overhead_bytes=n_bytes)


def _keep(workload: Workload, value: str) -> Workload:
    """How long or how many models stay loaded changes no model's own memory."""
    del value
    return workload


_CHANGES: Mapping[str, _Change] = {
    "OLLAMA_CONTEXT_LENGTH": _set_context,
    "OLLAMA_NUM_PARALLEL": _set_slots,
    "OLLAMA_KV_CACHE_TYPE": _set_cache_type,
    "OLLAMA_FLASH_ATTENTION": _set_flash_attention,
    "OLLAMA_SCHED_SPREAD": _set_spread,
    "OLLAMA_GPU_OVERHEAD": _set_overhead,
    "OLLAMA_KEEP_ALIVE": _keep,
    "OLLAMA_MAX_LOADED_MODELS": _keep,
}


def _switch(value: str) -> bool:
    if value.lower() not in _TRUE | _FALSE:
        raise ValueError("is neither true nor false")
    return value.lower() in _TRUE
