"""What SGLang refuses, the defaults filled in, and what the user must know of both."""

from collections.abc import Iterator

from msgspec.structs import replace

from vramcalc.engines._serving.formats import needs_checkpoint
from vramcalc.engines._sglang.rules import LEAST_CAPABILITY, Defaults, RuleSet, has_windowed_pool
from vramcalc.engines._vllm.parallel import Parallel, choose_parallel
from vramcalc.engines._vllm.rules import capability
from vramcalc.errors import RefusedError
from vramcalc.formulas.capacity import usable_memory
from vramcalc.specs.formats import WeightFormat
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import GatedDelta, Mamba2, ModelSpec, NoAttention
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB, ceil_div

HANDLES: frozenset[str] = frozenset(  # of ModelSpec.features()
    {
        "gated attention output",
        "gated shared experts",
        "layers without attention",
        "layers without MLP",
        "recurrent state",
    }
)
_VENDORS = frozenset({"nvidia", "amd", "hypothetical"})
_BALANCED = 9, 10  # the emptiest card of a TP group against the fullest


def refuse_uncovered(model: ModelSpec, machine: Machine) -> None:
    """Raise ``RefusedError`` for cards SGLang does not run on and kinds of models nobody has checked."""
    for gpu in machine.gpus:
        if gpu.vendor not in _VENDORS:
            raise RefusedError(
                f"no rules are known for SGLang on {gpu.name}", "take an NVIDIA card, or --engine ollama"
            )
        if gpu.vendor == "nvidia" and capability(gpu) < LEAST_CAPABILITY:
            raise RefusedError(
                f"SGLang needs compute capability 7.5; {gpu.name} has {gpu.compute_capability}",
                "take --engine ollama or --engine llama.cpp",
            )
    if model.is_encoder:
        raise RefusedError(
            f"{model.name} is an encoder, which is not modelled for SGLang", "take --engine vllm or ollama for it"
        )
    mixers = [kind.mixer for kind in model.layers.kinds.values() if kind.mixer is not None]
    strange = {mixer.kind for mixer in mixers if not isinstance(mixer, Mamba2 | GatedDelta)}
    if strange:
        reason = f"{' and '.join(sorted(strange))} layers"
    elif mixers and all(isinstance(kind.attention, NoAttention) for kind in model.layers.kinds.values()):
        reason = "recurrent layers and no attention"
    else:
        return
    raise RefusedError(
        f"{model.name} has {reason}, which is not modelled for SGLang",
        f"`vramcalc explain weights -m {model.id}` answers for its weights",
    )


def share_out(model: ModelSpec, fmt: WeightFormat, machine: Machine, workload: Workload) -> Parallel:
    """Return the parallel sizes. Replicas are whole, experts too: each takes GPUs of its own.

    Source:
        SGLang 0.5.23, srt/managers/data_parallel_controller.py, launch_dp_schedulers.
    """
    replicas = workload.data_parallel or 1
    if replicas == 1 or not model.is_moe:
        return choose_parallel(model, fmt, machine, workload)
    alone = replace(workload, data_parallel=None)
    if workload.tensor_parallel is None and workload.pipeline_parallel is None:
        alone = replace(alone, tensor_parallel=max(1, min(len(machine.gpus), machine.n_gpus // replicas)))
    chosen = choose_parallel(model, fmt, machine, alone)
    needed = chosen.n_ranks * replicas
    if needed > machine.n_gpus:
        raise RefusedError(
            f"{replicas} replicas of TP {chosen.tensor} x PP {chosen.pipeline} need {needed} GPUs; there are "
            f"{machine.n_gpus}",
            "lower a parallel size or add GPUs",
        )
    return replace(chosen, data=replicas)


def fill_in(model: ModelSpec, machine: Machine, usual: Defaults, workload: Workload, parallel: Parallel) -> Workload:
    """Return the workload with SGLang's defaults, but for the share. Raises ``RefusedError`` for what it refuses."""
    context = model.context if workload.n_context is None else workload.n_context
    if context < 1:
        raise RefusedError("a context needs at least one token", "give --context 1 or more")
    if context > model.context:
        raise RefusedError(
            f"SGLang refuses a context of {context} tokens: {model.name} was trained on {model.context}",
            f"--context {model.context}",
        )
    if workload.kv_cache_memory_bytes is not None:
        raise RefusedError("SGLang sizes its pool by share or by tokens, not by bytes", "set --memory-share")
    if workload.kv_offload_bytes:
        raise RefusedError(
            "SGLang's hierarchical cache in host memory is not modelled", "leave --kv-offloading-size out"
        )
    if not workload.chunked_prefill:
        raise RefusedError("SGLang without chunked prefill is not modelled", "set --step-tokens instead")
    if not workload.prefix_caching and model.is_recurrent:
        raise RefusedError(
            "recurrent states without SGLang's radix cache are not modelled", "leave --no-prefix-caching out"
        )
    tokens = usual.step_tokens if workload.step_tokens is None else workload.step_tokens
    sequences = 1 if workload.n_sequences is None else workload.n_sequences
    if min(sequences, tokens, *(n for n in (workload.max_num_seqs, workload.block_tokens) if n is not None)) < 1:
        raise RefusedError("sequences, tokens per step and of a page must be at least 1", "give each a positive number")
    _refuse_unbalanced(machine, parallel)
    return replace(
        workload,
        n_context=context,
        n_sequences=sequences,
        step_tokens=tokens,
        cpu_offload_bytes=ceil_div(workload.cpu_offload_bytes, GIB) * GIB,  # --cpu-offload-gb takes whole GiB
        tensor_parallel=parallel.tensor,
        pipeline_parallel=parallel.pipeline,
        data_parallel=parallel.data,
        expert_parallel=parallel.whole_experts,
    )


def _refuse_unbalanced(machine: Machine, parallel: Parallel) -> None:
    """Refuse a TP group whose poorest card has less than 0.9 of its richest.

    Source:
        SGLang, srt/model_executor/model_runner.py, init_torch_distributed.
    """
    used = [machine.gpu(device) for device in machine.device_names()[: parallel.n_ranks]]
    sizes = [usable_memory(gpu, machine.os).n_bytes for gpu in used]
    least, whole = _BALANCED
    if parallel.tensor > 1 and min(sizes) * whole < max(sizes) * least:
        raise RefusedError(
            "SGLang refuses tensor parallelism over cards of unequal memory",
            "take equal cards, or --pp instead of --tp",
        )


def write_notes(
    model: ModelSpec, machine: Machine, rules: RuleSet, weight_format: str, settled: Workload
) -> tuple[str, ...]:
    """Return what the user must know of the proposal."""
    checkpoint = () if weight_format == "fp8" else needs_checkpoint("SGLang", model, weight_format)
    return (*_machine_notes(machine, settled), *_model_notes(model, rules, settled), *checkpoint)


def _machine_notes(machine: Machine, settled: Workload) -> Iterator[str]:
    tensor, pipeline, data = settled.tensor_parallel or 1, settled.pipeline_parallel or 1, settled.data_parallel or 1
    if tensor * pipeline * data < machine.n_gpus:
        yield f"{machine.n_gpus - tensor * pipeline * data} of {machine.n_gpus} GPUs stay idle"
    if any(gpu.vendor == "amd" for gpu in machine.gpus):
        yield "no measured SGLang run on AMD backs this; CUDA's rules are assumed"


def _model_notes(model: ModelSpec, rules: RuleSet, settled: Workload) -> Iterator[str]:
    yield (
        "SGLang starts with whatever its pool holds and cuts requests at that length; the cache shown is what "
        f"{settled.n_sequences} full request(s) need"
    )
    if has_windowed_pool(rules, model):
        yield "windowed layers have a pool of 0.8 tokens for each of a full layer (--swa-full-tokens-ratio)"
    if model.is_recurrent:
        yield "recurrent states take 0.9 bytes for each of the token pool (--mamba-full-memory-ratio)"
    if settled.cpu_offload_bytes:
        yield "weights in host memory are read over PCIe in every step"
