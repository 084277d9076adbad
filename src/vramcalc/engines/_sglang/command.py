"""The command line that realises a proposal."""

from collections.abc import Iterator

from vramcalc.engines._sglang.rules import Defaults
from vramcalc.engines._vllm.formats import QUANTISED_ON_LOADING, ChosenFormat, release_name
from vramcalc.engines._vllm.rules import default_dtype
from vramcalc.engines.base import Proposal
from vramcalc.specs.formats import FLOATS
from vramcalc.specs.model import ModelSpec
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB

_DTYPE_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_CACHE_NAMES = {"fp8": "fp8_e4m3"}


def launch_command(model: ModelSpec, chosen: ChosenFormat, usual: Defaults, proposal: Proposal) -> tuple[str, ...]:
    """Return ``python3 -m sglang.launch_server`` with the context, the share and what differs from its defaults.

    Source:
        SGLang 0.5.23, srt/arg_groups/fields.
    """
    workload = proposal.workload
    words = ["python3", "-m", "sglang.launch_server"]
    words += ["--model-path", release_name(model, chosen.name, makes=QUANTISED_ON_LOADING)]
    words += ["--context-length", str(workload.n_context)]
    words += ["--mem-fraction-static", f"{float(workload.memory_share or 0):.4g}"]
    words += _format_words(model, chosen, workload)
    words += _size_words(usual, workload)
    return tuple(words)


def _format_words(model: ModelSpec, chosen: ChosenFormat, workload: Workload) -> Iterator[str]:
    if chosen.name in FLOATS and chosen.name != default_dtype(model):
        yield from ("--dtype", _DTYPE_NAMES[chosen.name])
    if chosen.name == "fp8" and model.checkpoint_format is None:
        yield from ("--quantization", "fp8")
    if workload.k_format and workload.k_format.startswith("fp8"):
        yield from ("--kv-cache-dtype", _CACHE_NAMES.get(workload.k_format, workload.k_format))


def _size_words(usual: Defaults, workload: Workload) -> Iterator[str]:
    sizes = (
        ("--tp-size", workload.tensor_parallel, 1),
        ("--pp-size", workload.pipeline_parallel, 1),
        ("--dp-size", workload.data_parallel, 1),
        ("--ep-size", workload.tensor_parallel if workload.expert_parallel else 1, 1),
        ("--chunked-prefill-size", workload.step_tokens, usual.step_tokens),
        ("--page-size", workload.block_tokens, None),
        ("--max-running-requests", workload.max_num_seqs, None),
        ("--cpu-offload-gb", workload.cpu_offload_bytes // GIB, 0),
    )
    for flag, value, default in sizes:
        if value != default and value is not None:
            yield from (flag, str(value))
    if not workload.prefix_caching:
        yield "--disable-radix-cache"
    if workload.enforce_eager:
        yield "--disable-cuda-graph"
