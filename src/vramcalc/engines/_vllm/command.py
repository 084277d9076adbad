"""The command line that realises a proposal."""

from collections.abc import Iterator

from vramcalc.engines._vllm.formats import QUANTISED_ON_LOADING, ChosenFormat, release_name
from vramcalc.engines._vllm.rules import RuleSet, default_dtype, serve_defaults
from vramcalc.engines.base import Proposal
from vramcalc.specs.formats import FLOATS
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import ModelSpec
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB

_DTYPE_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def serve_command(
    model: ModelSpec, card: GpuSpec, chosen: ChosenFormat, rules: RuleSet, proposal: Proposal
) -> tuple[str, ...]:
    """Return ``vllm serve`` with the context and what differs from its defaults.

    Source:
        vLLM 0.33.0, vllm/engine/arg_utils.py; units in vllm/config/cache.py and offload.py: GiB, per GPU for weights,
        of all ranks together for the cache.
    """
    workload = proposal.workload
    words = ["vllm", "serve", release_name(model, chosen.name, makes=QUANTISED_ON_LOADING)]
    words += ["--max-model-len", str(workload.n_context)]
    if workload.memory_share is not None and workload.memory_share != rules.memory_share:
        words += ["--gpu-memory-utilization", f"{float(workload.memory_share):g}"]
    words += _format_words(model, chosen, workload)
    words += _size_words(card, workload)
    return tuple(words)


def _format_words(model: ModelSpec, chosen: ChosenFormat, workload: Workload) -> Iterator[str]:
    if chosen.name in FLOATS and chosen.name != default_dtype(model):
        yield from ("--dtype", _DTYPE_NAMES[chosen.name])
    if chosen.name == "fp8" and model.checkpoint_format is None:
        yield from ("--quantization", "fp8")
    if workload.k_format and workload.k_format.startswith("fp8"):
        yield from ("--kv-cache-dtype", workload.k_format)


def _gib(n_bytes: int) -> str | None:
    """Return bytes as the engine reads them: GiB with a fraction; None for none."""
    return f"{n_bytes / GIB:.12g}" if n_bytes else None


def _size_words(card: GpuSpec, workload: Workload) -> Iterator[str]:
    defaults = serve_defaults(card)
    ceiling, tokens = workload.max_num_seqs or 1, workload.step_tokens
    usual_tokens = min(defaults.step_tokens, ceiling * (workload.n_context or 1))
    sizes = (
        ("--tensor-parallel-size", workload.tensor_parallel, 1),
        ("--pipeline-parallel-size", workload.pipeline_parallel, 1),
        ("--data-parallel-size", workload.data_parallel, 1),
        ("--max-num-seqs", ceiling, defaults.max_num_seqs),
        ("--max-num-batched-tokens", tokens, usual_tokens),
        ("--kv-cache-memory-bytes", workload.kv_cache_memory_bytes, None),
        ("--block-size", workload.block_tokens, None),
        ("--kv-offloading-size", _gib(workload.kv_offload_bytes), None),
        ("--cpu-offload-gb", _gib(workload.cpu_offload_bytes), None),
    )
    for flag, value, usual in sizes:
        if value != usual and value is not None:
            yield from (flag, str(value))
    if workload.expert_parallel:
        yield "--enable-expert-parallel"
    if not workload.chunked_prefill:
        yield "--no-enable-chunked-prefill"
    if not workload.prefix_caching:
        yield "--no-enable-prefix-caching"
    if workload.enforce_eager:
        yield "--enforce-eager"
