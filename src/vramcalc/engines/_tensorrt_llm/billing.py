"""The lines of one rank's bill: all but the cache counts into the peak that the share is taken beyond."""

from collections.abc import Iterator

from vramcalc.engines._runtime import context_line
from vramcalc.engines._serving.step import ranged_line
from vramcalc.ledger import Basis, Component, Line
from vramcalc.specs.gpu import GpuSpec
from vramcalc.units import MIB

_GROUPS_LINKED = 900 * MIB, 1280 * MIB, 2060 * MIB
_GROUPS_PCIE = 100 * MIB, 390 * MIB, 700 * MIB
_WORKSPACE = 100 * MIB, 800 * MIB, 2000 * MIB
_GRAPH_BASE, _GRAPH_EACH = 60 * MIB, 11 * MIB


def cache_line(n_tokens: int, token_bytes: int) -> Line:
    """Return the KV cache the load needs, in whole blocks."""
    return Line(
        component=Component.KV_CACHE,
        device="",
        n_bytes=n_tokens * token_bytes,
        basis=Basis.EXACT,
        why="every token of the load in each layer, in whole blocks",
        source="TensorRT-LLM, _torch/pyexecutor/resource_manager.py, get_cache_size_per_token",
        formula="n_tokens * token_bytes",
        values={"n_tokens": n_tokens, "token_bytes": token_bytes},
    )


def process_lines(gpu: GpuSpec, n_ranks: int) -> Iterator[Line]:
    """Yield the CUDA context and the buffers of NCCL."""
    context = context_line("", gpu, outside_budget=True)
    if context is not None:
        yield context
    if n_ranks > 1:
        low, best, high = _GROUPS_LINKED if gpu.nvlink_gb_per_s else _GROUPS_PCIE
        yield ranged_line(
            Component.RUNTIME,
            "buffers and process groups of NCCL, taken over from SGLang's and vLLM's logs",
            "no TensorRT-LLM log splits them out",
            formula="groups",
            values={"groups": best},
            figures=(low, best, high),
            basis=Basis.ASSUMED,
            outside=True,
        )


def workspace_line() -> Line:
    """Return what the runtime allocates beside the model: attention workspaces, sampler, autotuner."""
    low, best, high = _WORKSPACE
    return ranged_line(
        Component.UNACCOUNTED,
        "attention workspaces, sampler and autotuner",
        "the Qwen3-0.6B log on H100 (1.2), beyond weights, context and step; one log, so the range is wide",
        formula="workspaces",
        values={"workspaces": best},
        figures=(low, best, high),
        outside=False,
    )


def graph_line(n_sizes: int) -> Line:
    """Return the CUDA graphs, taken over from SGLang's logs."""
    best = _GRAPH_BASE + n_sizes * _GRAPH_EACH
    return ranged_line(
        Component.COMPUTE_BUFFER,
        "CUDA graphs, as SGLang's logs show them by their number",
        "no TensorRT-LLM log splits them out",
        formula="base + n_sizes * per_size",
        values={"base": _GRAPH_BASE, "n_sizes": n_sizes, "per_size": _GRAPH_EACH},
        figures=(best // 2, best, 3 * best),
        basis=Basis.ASSUMED,
        outside=False,
    )
