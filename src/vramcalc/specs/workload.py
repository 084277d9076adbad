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
    depth_tokens: int | None = None  # tokens of a sequence in the cache where its speed is told
    k_format: str | None = None
    v_format: str | None = None
    flash_attention: bool | None = None
    keeps_attention: bool = True  # False: the engine chose flash attention, and drops it again where layers stray
    # llama.cpp family
    n_slots: int | None = None
    kv_unified: bool | None = None
    swa_full: bool = False
    gpu_layers: int | None = None  # the output head counts as one
    cpu_moe: int | None = None  # experts of the first N layers stay in host memory
    overrides: tuple[str, ...] = ()  # mlp=host, or a pattern over tensor names: blk\.3\.ffn_.*=gpu1
    tensor_split: tuple[float, ...] | None = None  # shares of the GPUs
    split_mode: str | None = None  # layer, row or none
    main_gpu: int | None = None  # the only one used under split_mode none
    kv_offload: bool = True  # False: the cache stays in host memory
    op_offload: bool = True  # False: what host weights take part in runs on the CPU, however large the batch
    mmap: bool = True  # False: weights of the host are read into memory of the process
    mlock: bool = False  # weights of the host may not be paged out
    repack: bool = True  # CPU weights are rearranged into a copy that its kernels read faster
    draft_gpu_layers: int | None = None
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
