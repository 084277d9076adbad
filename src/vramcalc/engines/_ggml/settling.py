"""What a workload means to llama.cpp: formats, refusals and the run's settings.

Source: llama.cpp 0c1e570, src/llama-context.cpp, src/llama-kv-cache.cpp and tools/server/server.cpp.
"""

from vramcalc.engines._ggml.run import Run
from vramcalc.engines.base import Setup
from vramcalc.errors import RefusedError, UnknownNameError
from vramcalc.formulas.recipes import resolve_recipe
from vramcalc.specs.format_names import scaled_format
from vramcalc.specs.formats import GGML, BlockFormat
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import (
    FullAttention,
    GroupedQueryAttention,
    LatentAttention,
    ModelSpec,
    SlidingAttention,
)
from vramcalc.specs.workload import Workload

CACHE_FORMATS = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
DEFAULT_FORMAT = "q4_k_m"
# Heads that CUDA's flash attention has kernels for (ggml/src/ggml-cuda/fattn.cu); MLA's rows are another kernel.
_FLASH_HEAD_DIMS = frozenset({40, 64, 72, 80, 96, 112, 128, 256, 512})
_OLDEST_FLASH_CARD = (6, 0)
_CARD_WITHOUT_FLASH = (7, 2)


def choose_format(setup: Setup, engine: str) -> str:
    """Return the mix to load. Raises ``RefusedError`` for a checkpoint's format, ``UnknownNameError`` for no format."""
    asked, stored = setup.weight_format, setup.model.stored
    if asked is None:
        return stored.format if stored else setup.model.ollama_format or DEFAULT_FORMAT
    name = asked.strip().lower()
    if stored is not None and name == stored.format:
        return name
    if scaled_format(name) is not None:
        raise RefusedError(
            f"{name} is no GGUF format, and {engine} reads GGUF files alone",
            f"take a GGUF mix, e.g. --quant {DEFAULT_FORMAT}, or --engine vllm",
        )
    resolve_recipe(name)
    return name


def cache_formats(model: ModelSpec, workload: Workload, *, flash_attention: bool) -> tuple[BlockFormat, BlockFormat]:
    """Return the formats of K and V. Raises ``RefusedError`` for what the engine refuses."""
    k, v = (_cache_format(name) for name in (workload.k_format, workload.v_format))
    kinds = [kind.attention for kind in model.layers.kinds.values()]
    if any(isinstance(a, LatentAttention) for a in kinds):
        if workload.v_format is not None and workload.k_format is not None and k != v:
            raise RefusedError(
                f"{model.name} caches K alone: llama.cpp refuses {k.name} for K with {v.name} for V",
                f"give one type: --kv-type {k.name}",
            )
        v = k
    if v.block_elements > 1 and not flash_attention:
        raise RefusedError(
            f"a quantised V cache ({v.name}) needs flash attention", "leave flash attention on, or keep V in f16"
        )
    for attention in kinds:
        if not isinstance(attention, FullAttention | SlidingAttention):
            continue
        for fmt in (k, v):
            if attention.head_dim % fmt.block_elements:
                raise RefusedError(
                    f"heads of {attention.head_dim} elements do not divide into blocks of {fmt.name}",
                    "keep the cache in f16",
                )
    return k, v


def uses_flash_attention(model: ModelSpec, gpus: tuple[GpuSpec, ...], workload: Workload) -> bool:
    """Return whether flash attention is on: as asked, else where every card and every head has a kernel."""
    if workload.flash_attention is not None:
        return workload.flash_attention
    return cards_have_flash_attention(gpus) and all(
        kind.attention.head_dim in _FLASH_HEAD_DIMS
        for kind in model.layers.kinds.values()
        if isinstance(kind.attention, GroupedQueryAttention)
    )


def cards_have_flash_attention(gpus: tuple[GpuSpec, ...]) -> bool:
    """Return whether every CUDA card is of a generation with kernels for flash attention."""
    for gpu in gpus:
        if gpu.compute_capability is not None:
            major, minor = (int(part) for part in gpu.compute_capability.split("."))
            if (major, minor) < _OLDEST_FLASH_CARD or (major, minor) == _CARD_WITHOUT_FLASH:
                return False
    return True


def make_run(model: ModelSpec, gpus: tuple[GpuSpec, ...], workload: Workload) -> Run:
    """Return the run of a workload whose context, slots and step are filled in."""
    flash_attention = uses_flash_attention(model, gpus, workload)
    k, v = cache_formats(model, workload, flash_attention=flash_attention)
    n_slots, is_unified = workload.n_slots or 1, bool(workload.kv_unified)
    n_context = workload.n_context or model.context
    return Run(
        total_context=n_context if is_unified else n_context * n_slots,
        n_slots=n_slots,
        is_unified=is_unified,
        step_tokens=workload.step_tokens or 1,
        k_format=k,
        v_format=v,
        flash_attention=flash_attention,
        chooses_attention=flash_attention and not workload.keeps_attention,
        swa_full=workload.swa_full,
        kv_offload=workload.kv_offload,
        op_offload=workload.op_offload,
    )


def check_slots(n_slots: int, workload: Workload) -> None:
    """Raise ``RefusedError`` where the load does not fit the slots."""
    if workload.n_sequences is not None and workload.n_sequences > n_slots:
        raise RefusedError(
            f"{n_slots} slots cannot hold {workload.n_sequences} sequences at once",
            f"give --slots {workload.n_sequences} or leave it out",
        )


def cache_notes(run: Run, gpus: tuple[GpuSpec, ...], model: ModelSpec) -> list[str]:
    """Return what to know of the chosen cache formats."""
    notes = []
    if "iq4_nl" in (run.k_format.name, run.v_format.name) and gpus:
        notes.append("CUDA has no flash attention for iq4_nl caches: attention runs on the CPU, slowly")
    if model.is_encoder and run.step_tokens < model.context:
        notes.append(f"an encoder reads at most {run.step_tokens} tokens of a text at once: --step-tokens allows more")
    if not run.flash_attention:
        notes.append("flash attention is off: the compute buffer grows with context x heads")
    if run.total_context // run.n_streams > model.context:
        notes.append(f"more context than the {model.context} tokens {model.name} was trained on; the engine warns")
    return notes


def _cache_format(name: str | None) -> BlockFormat:
    text = (name or "f16").strip().lower()
    if text.startswith("fp8"):
        raise RefusedError("llama.cpp has no fp8 cache", "take q8_0: --kv-type q8_0")
    if text not in CACHE_FORMATS:
        raise UnknownNameError("cache format", text, CACHE_FORMATS, see=f"the formats are {', '.join(CACHE_FORMATS)}")
    return GGML[text]
