"""One runtime per module, found by name; a module is imported when its engine is asked for."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import cast

from vramcalc.engines.base import Engine, Setup
from vramcalc.errors import RefusedError, UnknownNameError, UsageError
from vramcalc.specs.workload import Workload

_MODULES = {
    "ollama": "ollama",
    "llama.cpp": "llama_cpp",
    "vllm": "vllm",
    "sglang": "sglang",
    "tensorrt-llm": "tensorrt_llm",
}
_OTHER_NAMES = {
    "llamacpp": "llama.cpp",
    "llama-cpp": "llama.cpp",
    "llama-server": "llama.cpp",
    "trtllm": "tensorrt-llm",
    "trt-llm": "tensorrt-llm",
    "tensorrt_llm": "tensorrt-llm",
    "tensorrtllm": "tensorrt-llm",
}

ENGINE_NAMES = tuple(_MODULES)


def parse_engine(text: str) -> tuple[str, str | None]:
    """Return name and pinned version of ``"vllm@0.19"`` or ``"vllm"``. Raises ``UsageError``."""
    name, mark, version = text.strip().lower().partition("@")
    name = _OTHER_NAMES.get(name, name)
    if name not in _MODULES:
        raise UnknownNameError("engine", name, ENGINE_NAMES, see=f"the engines are {', '.join(ENGINE_NAMES)}")
    if mark and not version:
        raise UsageError(f"{text!r} pins no version", f"write {name}, or e.g. vllm@0.19")
    return name, version or None


def with_environment(name: str, workload: Workload, variables: Sequence[tuple[str, str]]) -> Workload:
    """Return the workload with the environment variables an engine reads; an engine that reads none ignores them.

    Raises ``UnknownNameError`` for a variable the engine does not read, ``UsageError`` for a value it would not take.
    """
    if not variables:
        return workload
    read = getattr(import_module(f"vramcalc.engines.{_MODULES[name]}"), "with_environment", None)
    return workload if read is None else cast("Workload", read(workload, variables))


def bind_engine(name: str, setup: Setup) -> Engine:
    """Return the engine bound to a model and machine. Raises ``RefusedError`` for what it would refuse at once."""
    module = import_module(f"vramcalc.engines.{_MODULES[name]}")
    beyond = setup.model.features() - cast("frozenset[str]", module.HANDLES)
    if beyond:
        raise RefusedError(
            f"not modelled for {name} yet in {setup.model.name}: {', '.join(sorted(beyond))}",
            f"`vramcalc explain weights -m {setup.model.id}` answers for its weights",
        )
    refused = [o for o in setup.companions.names if o not in getattr(module, "COMPANIONS", ())]
    if refused:
        raise RefusedError(
            f"{' and '.join(refused)}: not modelled for {name}", "use --engine llama.cpp, or leave it out"
        )
    return cast("Callable[[Setup], Engine]", module.bind)(setup)
