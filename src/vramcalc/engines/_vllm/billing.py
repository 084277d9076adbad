"""The lines of one rank's bill."""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from vramcalc.engines._runtime import context_line
from vramcalc.engines._vllm.fitted import Figure, StepShape, activation_peak, graph_memory
from vramcalc.engines._vllm.pages import Reach
from vramcalc.engines._vllm.pool import CachePlan
from vramcalc.engines._vllm.rules import RuleSet, capability
from vramcalc.engines._vllm.weights import RankWeights
from vramcalc.engines.base import ALLOCATOR_ROUNDING
from vramcalc.ledger import HOST, Basis, Component, Ledger, Line
from vramcalc.specs.gpu import GpuSpec
from vramcalc.units import MIB

_CUBLAS_BYTES = 126 * MIB  # handles and workspaces on Hopper and data-centre Blackwell: 0.51 GiB in all on H100
_CUBLAS_MAJORS = (9, 10)
_SEEN_GROWTH = 70 * MIB, 480 * MIB  # without tensor parallelism
_GROWTH_WITHOUT_HEAD = 70 * MIB
_SEEN_LINKED = 2360 * MIB
_GROWTH_UNLINKED = 200 * MIB, 563 * MIB, 800 * MIB  # 0.20 to 0.33 GiB in logs of RTX 2080 Ti, 4090 and 5090
_LINKED_LOW = 2100 * MIB
_NCCL_LINKED = 1044 * MIB, 360 * MIB, 1640 * MIB  # best, low, high
_NCCL_PCIE = 390 * MIB, 350 * MIB, 645 * MIB
_HOPPER = (9, 0)
_LOGS = "vLLM 0.19 logs on H100 (llm-d-planner)"
_CODE = "vLLM 0.33, model_executor/layers"


class CacheNeed(Struct, frozen=True):
    """The load's blocks on a rank, the null block apart."""

    n_sequences: int
    blocks_per_request: int
    bytes_per_block: int


def weight_line(weights: RankWeights, offloaded_bytes: int) -> Line:
    """Return the weights of a rank, part by part, after loading has ended."""
    values = dict(weights.parts)
    terms = " + ".join(values)
    for name, change in weights.changes.items():
        terms += f" {'+' if change > 0 else '-'} {name}"
        values[name] = abs(change)
    loaded = weights.n_bytes + sum(weights.changes.values())
    offloaded_bytes = min(offloaded_bytes, loaded)  # what the end of loading drops is not there to offload
    if offloaded_bytes:
        terms += " - offloaded"
        values["offloaded"] = offloaded_bytes
    return Line(
        component=Component.WEIGHTS,
        device="",
        n_bytes=loaded - offloaded_bytes,
        basis=Basis.DERIVED,
        why="parameters of this rank with their scales, rope tables and what the end of loading changes",
        source=_CODE,
        formula=terms,
        values=values,
    )


def rounding_line(weights: RankWeights) -> Line:
    """Return what the allocator adds to the weights; "Model loading took" prints both."""
    return Line(
        component=Component.UNACCOUNTED,
        device="",
        n_bytes=weights.rounding_bytes,
        basis=Basis.DERIVED,
        why="what PyTorch's allocator rounds the weights up by",
        source="PyTorch, c10/cuda/CUDACachingAllocator.cpp",
        formula=ALLOCATOR_ROUNDING,
        values={ALLOCATOR_ROUNDING: weights.rounding_bytes},
    )


def host_line(offloaded_bytes: int) -> Line:
    """Return what ``--cpu-offload-gb`` keeps in pinned host memory."""
    return Line(
        component=Component.WEIGHTS,
        device=HOST,
        n_bytes=offloaded_bytes,
        basis=Basis.DERIVED,
        why="weights of all ranks read from host memory in every step",
        source="vLLM 0.33, config/offload.py",
        formula="offloaded",
        values={"offloaded": offloaded_bytes},
    )


def host_cache_line(offloaded_bytes: int) -> Line:
    """Return what ``--kv-offloading-size`` keeps in host memory; the cache on the cards stays as it is."""
    return Line(
        component=Component.KV_CACHE,
        device=HOST,
        n_bytes=offloaded_bytes,
        basis=Basis.EXACT,
        why="cache of all ranks kept in host memory, as set",
        source="vLLM 0.33, config/cache.py",
        formula="offloaded",
        values={"offloaded": offloaded_bytes},
    )


def cache_line(need: CacheNeed) -> Line:
    """Return the KV cache the load needs; one request less and vLLM would not start."""
    return Line(
        component=Component.KV_CACHE,
        device="",
        n_bytes=(need.n_sequences * need.blocks_per_request + 1) * need.bytes_per_block,
        basis=Basis.EXACT,
        why=f"whole blocks of {need.n_sequences} full request(s) and the null block",
        source="vLLM 0.33, v1/core/kv_cache_utils.py",
        formula="(n_sequences * blocks_per_request + 1) * bytes_per_block",
        values={
            "n_sequences": need.n_sequences,
            "blocks_per_request": need.blocks_per_request,
            "bytes_per_block": need.bytes_per_block,
        },
    )


def state_line(need: CacheNeed, plan: CachePlan, state_bytes: int) -> Line:
    """Return the recurrent states the load needs: whole blocks, as the pool hands out nothing smaller."""
    groups = [group for group in plan.groups if group.reach is Reach.STATE]
    return Line(
        component=Component.STATE,
        device="",
        n_bytes=need.n_sequences * need.blocks_per_request * need.bytes_per_block,
        basis=Basis.EXACT,
        why=(
            f"{groups[0].span} states of {need.n_sequences} request(s) in each of {len(groups)} group(s) of layers, a "
            f"layer's {state_bytes} bytes padded to an attention page of {groups[0].page_bytes}"
        ),
        source="vLLM 0.33, v1/core/kv_cache_utils.py; model_executor/layers/mamba/mamba_utils.py",
        formula="n_sequences * state_blocks_per_request * bytes_per_block",
        values={
            "n_sequences": need.n_sequences,
            "state_blocks_per_request": need.blocks_per_request,
            "bytes_per_block": need.bytes_per_block,
        },
    )


def activation_line(shape: StepShape, rules: RuleSet, *, is_measured: bool) -> Line:
    """Return the peak of the profile run."""
    figure = activation_peak(shape, rules)
    return _fitted(
        Component.COMPUTE_BUFFER,
        figure,
        Basis.FITTED if is_measured else Basis.ASSUMED,
        "activation peak of one step: the sampler's pass or the widest layer",
    )


def graph_line(shape: StepShape, n_layers: int, sizes: Sequence[int], rules: RuleSet, *, is_measured: bool) -> Line:
    """Return the CUDA graphs: the engine's own estimate inside the budget from 0.21, as captured beside it before."""
    figure = graph_memory(shape, n_layers, sizes, rules)
    return _fitted(
        Component.COMPUTE_BUFFER,
        figure,
        Basis.FITTED if is_measured else Basis.ASSUMED,
        "CUDA graphs, as the engine estimates them" if rules.graphs_in_budget else "CUDA graphs, beside the budget",
        outside=not rules.graphs_in_budget,
    )


def growth_line(gpu: GpuSpec, n_ranks: int, rules: RuleSet, *, has_head: bool) -> Line:
    """Return what grows outside PyTorch during the profile run: NCCL's and kernels' own memory.

    Least on stages without the head, most where ranks that share layers talk over NVLink.
    """
    linked = bool(gpu.nvlink_gb_per_s) and capability(gpu) >= _HOPPER
    if n_ranks == 1:
        best = rules.other_bytes_alone if has_head else _GROWTH_WITHOUT_HEAD
        low, high = _SEEN_GROWTH
    else:
        best = rules.other_bytes_linked if linked else min(rules.other_bytes_linked, _GROWTH_UNLINKED[1])
        low, high = (min(best, _LINKED_LOW), _SEEN_LINKED) if linked else (_GROWTH_UNLINKED[0], _GROWTH_UNLINKED[2])
    seen = gpu.vendor == "nvidia" and (n_ranks == 1 or linked)
    figure = Figure("growth", {"growth": best}, best, min(low, best), high)
    return _fitted(
        Component.UNACCOUNTED,
        figure,
        Basis.FITTED if seen else Basis.ASSUMED,
        "growth outside PyTorch while profiling",
    )


def runtime_lines(gpu: GpuSpec, n_ranks: int) -> Iterator[Line]:
    """Yield what lives beside the budget: the CUDA context (none where the size stated excludes it) and NCCL."""
    context = context_line("", gpu, outside_budget=True)
    if context is not None:
        yield context
    if gpu.vendor == "nvidia" and capability(gpu)[0] in _CUBLAS_MAJORS:
        figure = Figure("workspaces", {"workspaces": _CUBLAS_BYTES}, _CUBLAS_BYTES, _CUBLAS_BYTES // 2, _CUBLAS_BYTES)
        yield _fitted(Component.RUNTIME, figure, Basis.FITTED, "cuBLAS workspaces of this generation", outside=True)
    if n_ranks > 1:
        best, low, high = _NCCL_LINKED if gpu.nvlink_gb_per_s else _NCCL_PCIE
        figure = Figure("buffers", {"buffers": best}, best, low, high)
        basis = Basis.FITTED if gpu.vendor == "nvidia" else Basis.ASSUMED
        yield _fitted(
            Component.RUNTIME, figure, basis, "buffers and process groups of NCCL (RCCL on AMD)", outside=True
        )


def beside_cache(held: Ledger) -> int:
    """Return the best figure of all of a device's lines that count against its budget but the cache."""
    return held.inside_budget().without(Component.KV_CACHE, Component.STATE).n_bytes


def _fitted(component: Component, figure: Figure, basis: Basis, why: str, *, outside: bool = False) -> Line:
    return Line(
        component=component,
        device="",
        n_bytes=figure.n_bytes,
        basis=basis,
        why=why,
        source=_LOGS if component is not Component.RUNTIME else "start-up snapshots in vLLM 0.19 logs on H100",
        formula=figure.formula,
        values=figure.values,
        low_bytes=figure.low_bytes,
        high_bytes=figure.high_bytes,
        outside_budget=outside,
    )
