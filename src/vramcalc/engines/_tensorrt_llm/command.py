"""The command line that realises a proposal."""

from vramcalc.engines._tensorrt_llm.rules import FREE_SHARE, MAX_BATCH, STEP_TOKENS
from vramcalc.engines._vllm.formats import release_name
from vramcalc.engines.base import Proposal
from vramcalc.specs.model import ModelSpec


def serve_command(model: ModelSpec, weight_format: str, proposal: Proposal) -> tuple[str, ...]:
    """Return ``trtllm-serve`` with the context and what differs from its defaults.

    Source:
        NVIDIA/TensorRT-LLM, tensorrt_llm/commands/serve.py. The cache format has no option there: the checkpoint's, or
        ``kv_cache_config: {dtype: fp8}`` in the file given to ``--config``.
    """
    workload = proposal.workload
    words = ["trtllm-serve", release_name(model, weight_format)]
    words += ["--max_seq_len", str(workload.n_context)]
    if workload.memory_share != FREE_SHARE:
        words += ["--kv_cache_free_gpu_memory_fraction", f"{float(workload.memory_share or 0):g}"]
    sizes = (
        ("--tp_size", workload.tensor_parallel, 1),
        ("--pp_size", workload.pipeline_parallel, 1),
        ("--ep_size", workload.tensor_parallel if workload.expert_parallel else 1, 1),
        ("--max_batch_size", workload.max_num_seqs, MAX_BATCH),
        ("--max_num_tokens", workload.step_tokens, STEP_TOKENS),
    )
    for flag, value, usual in sizes:
        if value != usual:
            words += [flag, str(value)]
    return tuple(words)
