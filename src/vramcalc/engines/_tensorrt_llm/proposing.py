"""What TensorRT-LLM refuses, the defaults filled in, and what the user must know of both."""

from collections.abc import Iterator

from msgspec.structs import replace

from vramcalc.engines._serving.formats import needs_checkpoint
from vramcalc.engines._tensorrt_llm.rules import FREE_SHARE, LEAST_CAPABILITY, MAX_BATCH, STEP_TOKENS
from vramcalc.engines._vllm.parallel import Parallel
from vramcalc.engines._vllm.rules import capability
from vramcalc.errors import RefusedError
from vramcalc.formulas.kv_cache import window_of
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec
from vramcalc.specs.workload import Workload

HANDLES: frozenset[str] = frozenset({"gated shared experts"})  # of ModelSpec.features()
_VENDORS = frozenset({"nvidia", "hypothetical"})


def refuse_uncovered(model: ModelSpec, machine: Machine) -> None:
    """Raise ``RefusedError`` for cards TensorRT-LLM does not run on and kinds of models nobody has checked."""
    for gpu in machine.gpus:
        if gpu.vendor not in _VENDORS:
            raise RefusedError(
                f"TensorRT-LLM runs on NVIDIA cards alone, not on {gpu.name}", "take --engine vllm or ollama"
            )
        if gpu.vendor == "nvidia" and capability(gpu) < LEAST_CAPABILITY:
            raise RefusedError(
                f"TensorRT-LLM needs compute capability 8.0; {gpu.name} has {gpu.compute_capability}",
                "take --engine vllm, ollama or llama.cpp",
            )
    if model.is_encoder:
        raise RefusedError(
            f"{model.name} is an encoder, which is not modelled for TensorRT-LLM",
            "take --engine vllm or ollama for it",
        )


def fill_in(model: ModelSpec, workload: Workload, parallel: Parallel) -> Workload:
    """Return the workload with TensorRT-LLM's defaults. Raises ``RefusedError`` for what it refuses."""
    context = model.context if workload.n_context is None else workload.n_context
    if context < 1:
        raise RefusedError("a context needs at least one token", "give --context 1 or more")
    if context > model.context:
        raise RefusedError(
            f"{context} tokens are past the {model.context} that {model.name} was trained on",
            f"--context {model.context}",
        )
    if workload.kv_cache_memory_bytes is not None:
        raise RefusedError(
            "trtllm-serve takes no bytes for its cache on the command line", "set --memory-share, its share of the rest"
        )
    if workload.kv_offload_bytes or workload.block_tokens:
        raise RefusedError(
            "trtllm-serve takes neither a cache in host memory nor a block size on the command line",
            "leave --kv-offloading-size and --block-size out",
        )
    if workload.cpu_offload_bytes:
        raise RefusedError("TensorRT-LLM keeps no weights in host memory", "leave --cpu-offload out, or --engine vllm")
    if parallel.data > 1:
        raise RefusedError("trtllm-serve runs one replica", "start one server per replica and leave --dp out")
    tokens = STEP_TOKENS if workload.step_tokens is None else workload.step_tokens
    batch = MAX_BATCH if workload.max_num_seqs is None else workload.max_num_seqs
    sequences = 1 if workload.n_sequences is None else workload.n_sequences
    if min(sequences, tokens, batch) < 1:
        raise RefusedError("sequences and tokens per step must be at least 1", "give each a positive number")
    return replace(
        workload,
        n_context=context,
        n_sequences=sequences,
        step_tokens=tokens,
        max_num_seqs=batch,
        memory_share=FREE_SHARE if workload.memory_share is None else workload.memory_share,
        tensor_parallel=parallel.tensor,
        pipeline_parallel=parallel.pipeline,
        data_parallel=parallel.data,
        expert_parallel=parallel.whole_experts,
    )


def write_notes(model: ModelSpec, machine: Machine, weight_format: str, settled: Workload) -> tuple[str, ...]:
    """Return what the user must know of the proposal."""
    return (*_notes(model, machine, settled), *needs_checkpoint("TensorRT-LLM", model, weight_format))


def _notes(model: ModelSpec, machine: Machine, settled: Workload) -> Iterator[str]:
    used = (settled.tensor_parallel or 1) * (settled.pipeline_parallel or 1)
    if used < machine.n_gpus:
        yield f"{machine.n_gpus - used} of {machine.n_gpus} GPUs stay idle"
    yield "TensorRT-LLM prints few parts of its peak: step, graphs and workspaces are assumed, their ranges wide"
    yield "it starts with whatever its pool holds and shortens --max_seq_len to it"
    if any(window_of(kind.attention) is not None for kind in model.layers.kinds.values()):
        yield "windowed layers are taken to cache every token, as the 1.1 log of gpt-oss-120b shows"
    if settled.k_format and settled.k_format.startswith("fp8"):
        yield "an fp8 cache: the checkpoint's own, or `kv_cache_config: {dtype: fp8}` in the file given to --config"
    if not settled.prefix_caching:
        yield "without shared prefixes: `kv_cache_config: {enable_block_reuse: false}` in the file given to --config"
    if settled.enforce_eager:
        yield "without CUDA graphs: `cuda_graph_config: null` in the file given to --config"
