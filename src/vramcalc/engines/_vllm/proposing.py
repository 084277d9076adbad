"""The defaults filled in, the placement, and what the user must know of both."""

from collections.abc import Iterator

from msgspec.structs import replace

from vramcalc.engines._vllm.coverage import is_unmeasured
from vramcalc.engines._vllm.formats import QUANTISED_ON_LOADING, ChosenFormat, release_name
from vramcalc.engines._vllm.parallel import Parallel
from vramcalc.engines._vllm.rules import CUDA_13_LEAST, NATIVE_FP8, RuleSet, capability, serve_defaults
from vramcalc.engines.base import stand_in
from vramcalc.errors import RefusedError
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ChunkedAttention, CompressedAttention, ModelSpec, SlidingAttention
from vramcalc.specs.placement import Placement
from vramcalc.specs.workload import Workload

_NATIVE_SINCE = {"fp8": NATIVE_FP8, "nvfp4": (10, 0), "mxfp4": (10, 0)}
_WINDOWED = SlidingAttention | ChunkedAttention | CompressedAttention


def fill_in(model: ModelSpec, card: GpuSpec, rules: RuleSet, workload: Workload, parallel: Parallel) -> Workload:
    """Return the workload with vLLM's defaults. Raises ``RefusedError`` for what vLLM refuses.

    Tokens per step are capped at sequences x context, and hold a whole context where prompts are not cut: for encoders,
    and without chunked prefill.

    Source:
        vLLM 0.33, engine/arg_utils.py; config/model.py and config/scheduler.py for the refusals.
    """
    context = model.context if workload.n_context is None else workload.n_context
    if context < 1:
        raise RefusedError("a context needs at least one token", "give --context 1 or more")
    if context > model.context:
        raise RefusedError(
            f"vLLM refuses a context of {context} tokens: {model.name} was trained on {model.context}; it stops with "
            f'"User-specified max_model_len ({context}) is greater than the derived max_model_len"',
            f"--context {model.context}",
        )
    defaults = serve_defaults(card)
    sequences = 1 if workload.n_sequences is None else workload.n_sequences
    ceiling = workload.max_num_seqs
    if ceiling is None:
        ceiling = max(min(defaults.max_num_seqs, workload.step_tokens or defaults.max_num_seqs), sequences)
    usual = defaults.step_tokens if workload.chunked_prefill else max(defaults.step_tokens, context)
    tokens = workload.step_tokens or min(usual, ceiling * context)
    tokens = max(tokens, context) if model.is_encoder else tokens
    if workload.step_tokens is None and workload.max_num_seqs is None:
        tokens = max(tokens, ceiling)
    if min(sequences, ceiling, tokens) < 1:
        raise RefusedError("sequences and tokens per step must be at least 1", "give each a positive number")
    if not workload.chunked_prefill and tokens < context:
        raise RefusedError(
            f"vLLM refuses {tokens} tokens per step for a context of {context} where prompts are not cut into chunks",
            f"--step-tokens {context}, or leave --no-enable-chunked-prefill out",
        )
    if tokens < ceiling:
        raise RefusedError(
            f"vLLM refuses {tokens} tokens per step for {ceiling} sequences; it stops with "
            f'"max_num_batched_tokens ({tokens}) must be greater than or equal to max_num_seqs ({ceiling})."',
            "raise --step-tokens or lower --max-num-seqs",
        )
    return replace(
        workload,
        n_context=context,
        n_sequences=sequences,
        step_tokens=tokens,
        max_num_seqs=ceiling,
        memory_share=workload.memory_share or rules.memory_share,
        tensor_parallel=parallel.tensor,
        pipeline_parallel=parallel.pipeline,
        data_parallel=parallel.data,
        expert_parallel=parallel.whole_experts,
    )


def place(model: ModelSpec, machine: Machine, parallel: Parallel) -> Placement:
    """Return which device starts each layer's stage."""
    names = machine.device_names()
    stages = parallel.stages(model.layers.n_layers)
    layers = tuple(names[parallel.first_rank(stage)] for stage, held in enumerate(stages) for _ in held)
    return Placement(
        layers=layers,
        input_device=layers[0],
        output_device=layers[-1],
        tensor_parallel=parallel.tensor,
        pipeline_parallel=parallel.pipeline,
        data_parallel=parallel.data,
        expert_parallel=parallel.whole_experts,
    )


def read_parallel(placement: Placement) -> Parallel:
    """Return the parallel sizes a placement was made with."""
    return Parallel(
        tensor=placement.tensor_parallel,
        pipeline=placement.pipeline_parallel,
        data=placement.data_parallel,
        whole_experts=placement.expert_parallel,
    )


def write_notes(
    model: ModelSpec, machine: Machine, chosen: ChosenFormat, rules: RuleSet, settled: Workload
) -> tuple[str, ...]:
    """Return what the user must know of the proposal."""
    return (
        *_version_notes(rules),
        *_machine_notes(machine, settled),
        *_format_notes(model, min(machine.gpus, key=capability), chosen),
        *_model_notes(model, settled),
    )


def _version_notes(rules: RuleSet) -> Iterator[str]:
    if rules.graphs_in_budget:
        yield (
            "activation peak and CUDA graphs are fitted to vLLM 0.19 on H100 and carried over: "
            "their ranges are wide for this version"
        )


def _machine_notes(machine: Machine, settled: Workload) -> Iterator[str]:
    tensor, pipeline, data = settled.tensor_parallel or 1, settled.pipeline_parallel or 1, settled.data_parallel or 1
    used = tensor * pipeline * data
    if used < machine.n_gpus:
        yield f"{machine.n_gpus - used} of {machine.n_gpus} GPUs stay idle"
    if len({gpu.id for gpu in machine.gpus}) > 1:
        yield "unequal GPUs: every rank takes as many cache blocks as the one with the least room"
    if any(gpu.vendor == "nvidia" and capability(gpu) < CUDA_13_LEAST for gpu in machine.gpus):
        yield "vLLM's default wheels are built for CUDA 13, which leaves this card out: take its CUDA 12 wheel"
    if any(gpu.vendor == "amd" for gpu in machine.gpus):
        yield "no measured vLLM run on AMD backs the fitted terms; CUDA's rules are assumed"


def _format_notes(model: ModelSpec, card: GpuSpec, chosen: ChosenFormat) -> Iterator[str]:
    if model.dtype == "bf16" and chosen.dtype in ("f16", "f32") and chosen.name == chosen.dtype:
        yield f"the weights run in {chosen.dtype}"
    native = _NATIVE_SINCE.get(chosen.name.partition("-")[0])
    if native is not None and card.vendor == "nvidia" and capability(card) < native:
        yield (
            f"{chosen.name} runs weight-only here (Marlin kernels; native from compute capability "
            f"{'.'.join(map(str, native))}): it saves memory, not time"
        )
    if release_name(model, chosen.name, makes=QUANTISED_ON_LOADING) == stand_in(chosen.name):
        yield f"vLLM does not quantise to {chosen.name} as it loads: {stand_in(chosen.name)} stands for such a release"


def _model_notes(model: ModelSpec, settled: Workload) -> Iterator[str]:
    if any(isinstance(kind.attention, _WINDOWED) for kind in model.layers.kinds.values()):
        yield (
            f"windowed layers also reserve cache for tokens in flight ({settled.step_tokens} per step): "
            "a smaller --step-tokens shrinks what one request needs"
        )
    if model.is_recurrent:
        yield (
            "each sequence holds two or three recurrent states per layer, as prefix caching is on, each padded to a "
            "block of attention"
        )
    if any(isinstance(kind.attention, CompressedAttention) for kind in model.layers.kinds.values()):
        yield "the compressed cache is in fp8 with 16-bit rope, whatever --kv-type says"
    if is_unmeasured(model):
        yield "no measured run backs the activation peak and graphs of this kind of layers; they are assumed"
    if model.is_encoder:
        yield "an encoder keeps no cache; its step is assumed to follow the rule fitted to decoders"
    if (settled.n_sequences or 1) > (settled.max_num_seqs or 1):
        yield f"--max-num-seqs {settled.max_num_seqs} keeps the sequences from running at once"
    if settled.cpu_offload_bytes:
        yield "weights in host memory are read over PCIe in every step"
