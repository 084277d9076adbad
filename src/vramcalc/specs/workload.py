"""What is asked of an engine: None leaves a setting to the engine, which fills it in before it answers."""

from fractions import Fraction

from msgspec import Struct


class Workload(Struct, frozen=True, kw_only=True):
    """The load and the settings of one run.

    ``n_context`` is the tokens of one sequence and ``n_sequences`` how many must fit at once, each at full context.
    """

    n_context: int | None = None
    fit_context: bool = False  # without n_context: the longest the engine can make fit, where it offers that
    n_sequences: int | None = None
    step_tokens: int | None = None  # tokens per forward pass
    k_format: str | None = None
    v_format: str | None = None
    flash_attention: bool | None = None
    # llama.cpp family
    n_slots: int | None = None
    kv_unified: bool | None = None
    swa_full: bool = False
    gpu_layers: int | None = None  # the output head counts as one
    cpu_moe: int | None = None  # experts of the first N layers stay in host memory
    # Ollama
    spread: bool = False  # over all cards, even where one holds the model
    gpu_overhead_bytes: int = 0  # kept aside on each card when Ollama chooses the context
    # vLLM family
    memory_share: Fraction | None = None
    max_num_seqs: int | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    data_parallel: int | None = None
    expert_parallel: bool | None = None
    enforce_eager: bool = False
    kv_cache_memory_bytes: int | None = None
    cpu_offload_bytes: int = 0
    kv_offload_bytes: int = 0  # cache of all ranks together kept in host memory
    block_tokens: int | None = None
    chunked_prefill: bool = True
    prefix_caching: bool = True
