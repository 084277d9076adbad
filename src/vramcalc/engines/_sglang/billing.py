"""The lines of one rank's bill: the pool inside the static share, everything else beside it."""

from collections.abc import Iterator

from vramcalc.engines._runtime import context_line
from vramcalc.engines._serving.step import ranged_line
from vramcalc.engines._sglang.pool import Cells, request_table
from vramcalc.ledger import Basis, Component, Line
from vramcalc.specs.gpu import GpuSpec
from vramcalc.units import MIB

CODE = "SGLang 0.5.23, srt/mem_cache/kv_cache_configurator.py"
_GROUPS_LINKED = 900 * MIB, 1280 * MIB, 2060 * MIB  # process groups and custom all-reduce, low to high
_GROUPS_PCIE = 100 * MIB, 170 * MIB, 400 * MIB
_GROUPS_ALONE = 0, 90 * MIB, 100 * MIB
_GRAPH_BASE, _GRAPH_EACH = 60 * MIB, 11 * MIB
_PREFILL_GRAPH_BYTES = 8 * MIB, 32 * MIB, 40 * MIB
_GROWTH_ALONE = 0, 70 * MIB, 130 * MIB
_GROWTH_TP = 60 * MIB, 115 * MIB, 170 * MIB
_BACKEND = 50 * MIB, 600 * MIB, 1150 * MIB


def cache_line(cells: Cells, n_tokens: int) -> Line:
    """Return the part of the token pool that the load fills; a windowed layer holds 0.8 of a token."""
    values = {
        "n_tokens": n_tokens,
        "full_bytes": cells.full_bytes,
        "windowed_tokens": n_tokens * 8 // 10,
        "windowed_bytes": cells.windowed_bytes,
    }
    return Line(
        component=Component.KV_CACHE,
        device="",
        n_bytes=n_tokens * cells.full_bytes + n_tokens * 8 // 10 * cells.windowed_bytes,
        basis=Basis.EXACT,
        why="every token of the load in each layer, in whole pages",
        source="SGLang 0.5.23, srt/model_executor/pool_configurator.py",
        formula="n_tokens * full_bytes + windowed_tokens * windowed_bytes",
        values=values,
    )


def state_line(cells: Cells, slots: int) -> Line:
    """Return the pool of recurrent states, taken whatever the load, with its padding slot."""
    return Line(
        component=Component.STATE,
        device="",
        n_bytes=(slots + 1) * cells.state_bytes,
        basis=Basis.DERIVED,
        why=f"{slots} recurrent states, 0.9 bytes of them for each of the token pool, and a padding slot",
        source=CODE,
        formula="(slots + padding_slot) * state_bytes",
        values={"slots": slots, "padding_slot": 1, "state_bytes": cells.state_bytes},
    )


def vision_line(n_bytes: int) -> Line:
    """Return what is set aside for cached image embeddings before the pool is sized."""
    return Line(
        component=Component.UNACCOUNTED,
        device="",
        n_bytes=n_bytes,
        basis=Basis.EXACT,
        why="set aside for the cache of image embeddings (SGLANG_VLM_CACHE_SIZE_MB)",
        source=CODE,
        formula="vision_cache",
        values={"vision_cache": n_bytes},
    )


def growth_line(tensor_parallel: int) -> Line:
    """Return what loading takes beyond the weights as allocated: kernels, and NCCL's first buffers under TP."""
    low, best, high = _GROWTH_ALONE if tensor_parallel == 1 else _GROWTH_TP
    return ranged_line(
        Component.UNACCOUNTED,
        "growth while loading, beyond the weights as allocated",
        "'Load weight end ... mem usage' of 16 SGLang logs against the weights, 4 of them with TP 4",
        formula="growth",
        values={"growth": best},
        figures=(low, best, high),
        outside=False,
    )


def process_lines(gpu: GpuSpec, n_ranks: int) -> Iterator[Line]:
    """Yield what is gone before loading starts: the CUDA context and the process groups."""
    context = context_line("", gpu, outside_budget=True)
    if context is None:
        return
    yield context
    low, best, high = _GROUPS_ALONE if n_ranks == 1 else _GROUPS_LINKED if gpu.nvlink_gb_per_s else _GROUPS_PCIE
    yield ranged_line(
        Component.RUNTIME,
        "process groups and all-reduce buffers, gone before the share is taken",
        "'Init torch distributed ends' in SGLang logs: H100 and H200 TP 8, RTX 4090 TP 2, L4 TP 4, B200 alone",
        formula="groups",
        values={"groups": best},
        figures=(low, best, high),
        basis=Basis.FITTED if gpu.vendor == "nvidia" else Basis.ASSUMED,
        outside=True,
    )


def request_line(requests: int, n_context: int) -> Line:
    """Return the table of requests, which grows with the context."""
    formula, values, n_bytes = request_table(requests, n_context)
    return Line(
        component=Component.RUNTIME,
        device="",
        n_bytes=n_bytes,
        basis=Basis.DERIVED,
        why=f"4 bytes for each token of {requests} requests: where in the pool it lies",
        source="SGLang 0.5.23, srt/mem_cache/memory_pool.py, ReqToTokenPool",
        formula=formula,
        values=values,
        outside_budget=True,
    )


def backend_line() -> Line:
    """Return the attention backend's workspaces: FlashInfer 0.5 to 0.7 GiB, FlashAttention 0.1, TensorRT-LLM 1.1."""
    low, best, high = _BACKEND
    return ranged_line(
        Component.COMPUTE_BUFFER,
        "workspaces of the attention backend, between the pool and the first graph",
        "'Memory pool end' against 'Capture cuda graph begin' in 12 SGLang logs",
        formula="workspaces",
        values={"workspaces": best},
        figures=(low, best, high),
        outside=True,
    )


def graph_lines(n_decode: int, n_prefill: int) -> Iterator[Line]:
    """Yield the CUDA graphs as captured, by the number of sizes."""
    best = _GRAPH_BASE + n_decode * _GRAPH_EACH
    yield ranged_line(
        Component.COMPUTE_BUFFER,
        "CUDA graphs for decoding",
        "'Capture cuda graph end' of 4, 7, 23 and 52 sizes in SGLang logs: 0.11 to 0.89 GiB",
        formula="base + n_sizes * per_size",
        values={"base": _GRAPH_BASE, "n_sizes": n_decode, "per_size": _GRAPH_EACH},
        figures=(best // 2, best, 3 * best),
        outside=True,
    )
    if n_prefill:
        low, each, high = _PREFILL_GRAPH_BYTES
        yield ranged_line(
            Component.COMPUTE_BUFFER,
            "CUDA graphs for prefill",
            "Qwen3-8B on B200, 74 chunk lengths in 2.32 GiB; SGLang itself reserves 8 MiB for each",
            formula="n_sizes * per_size",
            values={"n_sizes": n_prefill, "per_size": each},
            figures=(n_prefill * low, n_prefill * each, n_prefill * high),
            outside=True,
        )
