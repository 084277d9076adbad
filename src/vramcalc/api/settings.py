"""Which settings belong to which engines: what an engine does not know leaves its question, and a note says so."""

from collections.abc import Sequence

from msgspec.structs import fields, replace

from vramcalc.engines import parse_engine
from vramcalc.errors import UsageError
from vramcalc.specs.workload import Workload

_LLAMA = {
    "n_slots": "--slots",
    "kv_unified": "--kv-unified",
    "swa_full": "--swa-full",
    "gpu_layers": "--gpu-layers",
    "cpu_moe": "--cpu-moe",
    "overrides": "--override",
    "tensor_split": "--tensor-split",
    "split_mode": "--split-mode",
    "main_gpu": "--main-gpu",
    "kv_offload": "--no-kv-offload",
    "op_offload": "--no-op-offload",
    "mmap": "--no-mmap",
    "mlock": "--mlock",
    "repack": "--no-repack",
    "draft_gpu_layers": "--draft-gpu-layers",
}
_SERVING = {
    "fit_context": "--context auto",
    "memory_share": "--memory-share",
    "max_num_seqs": "--max-num-seqs",
    "tensor_parallel": "--tp",
    "pipeline_parallel": "--pp",
    "data_parallel": "--dp",
    "expert_parallel": "--ep",
    "enforce_eager": "--enforce-eager",
    "kv_cache_memory_bytes": "--kv-cache-memory-bytes",
    "cpu_offload_bytes": "--cpu-offload",
    "kv_offload_bytes": "--kv-offloading-size",
    "block_tokens": "--block-size",
    "chunked_prefill": "--no-enable-chunked-prefill",
    "prefix_caching": "--no-enable-prefix-caching",
}
_LLAMA_FAMILY = ("ollama", "llama.cpp")


def settings_of(workload: Workload, engine: str) -> tuple[Workload, tuple[str, ...]]:
    """Return the workload as an engine reads it, and a note where settings of other engines were left out."""
    foreign = _foreign(workload, engine)
    if not foreign:
        return workload, ()
    unset = {f.name: f.default for f in fields(Workload) if f.name in foreign}
    return replace(workload, **unset), (f"{engine} has no {' and no '.join(foreign.values())}: left out there",)


def check_taken(workload: Workload, engines: Sequence[str]) -> None:
    """Raise ``UsageError`` for a setting that none of the engines asked for has."""
    names = [parse_engine(engine)[0] for engine in engines]
    by_engine = [_foreign(workload, name) for name in names]
    for option in by_engine[0].values():
        if all(option in foreign.values() for foreign in by_engine):
            family = "vllm" if names[0] in _LLAMA_FAMILY else "llama.cpp"
            raise UsageError(
                f"{option} is no setting of {' or '.join(names)}", f"leave it out, or add --engine {family}"
            )


def _foreign(workload: Workload, engine: str) -> dict[str, str]:
    """Return the settings of the other family that were asked for, by field."""
    others = _SERVING if engine in _LLAMA_FAMILY else _LLAMA
    defaults = {f.name: f.default for f in fields(Workload)}
    return {name: option for name, option in others.items() if getattr(workload, name) != defaults[name]}
