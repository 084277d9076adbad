"""The options that say what is asked, declared once and shared by every command that estimates."""

import functools
import inspect
import math
from collections.abc import Callable
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import NODEFAULT, Struct
from typer import Option

from vramcalc.errors import UsageError
from vramcalc.units import parse_bytes, parse_count

if TYPE_CHECKING:
    from vramcalc.api import Request


# The sections of a command's help, by the names of the parameters; a command's own options come last.
SECTIONS = {
    "What and where": ("model", "gpu", "nodes", "ram", "ram_bandwidth", "reserve", "os", "engine", "quant", "registry"),
    "The load": ("context", "depth", "parallel", "step_tokens", "kv_type", "flash_attention"),
    "Loaded beside the model": ("mmproj", "draft", "draft_quant", "draft_gpu_layers", "lora"),
    "llama.cpp and Ollama": ("slots", "gpu_layers", "env"),
    "llama.cpp": (
        "cpu_moe",
        "override",
        "kv_unified",
        "swa_full",
        "kv_offload",
        "op_offload",
        "tensor_split",
        "split_mode",
        "main_gpu",
        "mmap",
        "mlock",
        "repack",
    ),
    "vLLM, SGLang, TensorRT-LLM": (
        "memory_share",
        "max_num_seqs",
        "tp",
        "pp",
        "dp",
        "ep",
        "enforce_eager",
        "kv_cache_memory_bytes",
        "cpu_offload",
        "kv_offloading_size",
        "block_size",
        "chunked_prefill",
        "prefix_caching",
    ),
}
_AUTO = ("auto", "-1")  # vLLM's words for the longest context that fits


class System(StrEnum):
    """What the driver lets a process use differs by system."""

    LINUX = "linux"
    WINDOWS = "windows"
    WSL = "wsl"


class RequestOptions(Struct, frozen=True, kw_only=True):
    """What is asked."""

    model: Annotated[
        str,
        Option(
            "--model", "-m", help="Registry id, alias, tag, file, folder, hf:org/name, ollama:tag, https://....gguf."
        ),
    ]
    gpu: Annotated[
        list[str],
        Option("--gpu", "-g", help="rtx3060, 2xrtx4090, rtx4090+rtx3060, 11776MiB, local; repeat to compare."),
    ] = ()  # type: ignore[assignment]
    nodes: Annotated[int, Option(help="Machines of that kind.")] = 1
    ram: Annotated[str | None, Option(help="Host memory of one machine: 64GB, local.")] = None
    ram_bandwidth: Annotated[
        str | None, Option(help="What host memory reads in a second, e.g. 60GB/s; for the speed of offloaded layers.")
    ] = None
    engine: Annotated[
        list[str],
        Option("--engine", "-e", help="ollama, llama.cpp, vllm, sglang, tensorrt-llm; vllm@0.19 pins a version."),
    ] = ("ollama", "vllm")  # type: ignore[assignment]
    quant: Annotated[
        list[str], Option("--quant", "-q", help="Weight format: q4_k_m, awq-4bit, attn=q6_k,mlp=q4_k ...; repeatable.")
    ] = ()  # type: ignore[assignment]
    context: Annotated[
        str | None, Option("--context", "-c", "--max-model-len", help="Tokens of one sequence: 8192, 8k; vLLM: auto.")
    ] = None
    depth: Annotated[str | None, Option(help="Tokens of a sequence in the cache where speed is told; default 512.")] = (
        None
    )
    parallel: Annotated[
        int | None, Option("--parallel", "-n", "--users", help="Sequences that must fit at once, each at full context.")
    ] = None
    slots: Annotated[int | None, Option(help="Server slots (-np).")] = None
    step_tokens: Annotated[
        str | None, Option("--step-tokens", "--ubatch", "--max-num-batched-tokens", help="Tokens per forward pass.")
    ] = None
    kv_type: Annotated[str | None, Option("--kv-type", "-k", help="Cache type: f16, fp8, q8_0, q8_0/q4_0 ...")] = None
    memory_share: Annotated[
        float | None, Option("--memory-share", "--gpu-memory-utilization", help="The engine's share of the card.")
    ] = None
    max_num_seqs: Annotated[int | None, Option(help="Most sequences in one step.")] = None
    tp: Annotated[int | None, Option(help="Tensor-parallel size.")] = None
    pp: Annotated[int | None, Option(help="Pipeline-parallel size.")] = None
    dp: Annotated[int | None, Option(help="Data-parallel size.")] = None
    ep: Annotated[bool | None, Option("--ep/--no-ep", help="Experts whole on their ranks.")] = None
    enforce_eager: Annotated[bool, Option("--enforce-eager", help="No CUDA graphs.")] = False
    kv_cache_memory_bytes: Annotated[str | None, Option(help="vLLM: the KV pool of each card, e.g. 4GiB.")] = None
    cpu_offload: Annotated[str | None, Option(help="vLLM, SGLang: weights of each card in RAM, e.g. 4GiB.")] = None
    kv_offloading_size: Annotated[str | None, Option(help="vLLM: KV cache kept in host memory, e.g. 16GiB.")] = None
    block_size: Annotated[int | None, Option(help="vLLM: tokens of a cache block.")] = None
    chunked_prefill: Annotated[
        bool, Option("--enable-chunked-prefill/--no-enable-chunked-prefill", help="vLLM: cut long prompts into steps.")
    ] = True
    prefix_caching: Annotated[
        bool,
        Option("--enable-prefix-caching/--no-enable-prefix-caching", help="vLLM: keep states of hybrids to reuse."),
    ] = True
    gpu_layers: Annotated[int | None, Option(help="Layers on GPUs; the head counts as one.")] = None
    cpu_moe: Annotated[int | None, Option(help="Keep the experts of the first N layers in RAM.")] = None
    flash_attention: Annotated[
        bool | None, Option("--flash-attention/--no-flash-attention", help="Default: as the engine decides.")
    ] = None
    kv_unified: Annotated[bool | None, Option("--kv-unified/--no-kv-unified", help="One pool for all slots.")] = None
    swa_full: Annotated[bool, Option("--swa-full", help="Sliding-window layers cache everything.")] = False
    override: Annotated[
        list[str],
        Option(help="Tensors by role or name pattern to a device: mlp=host, 'ffn_up=gpu1'; repeatable."),
    ] = ()  # type: ignore[assignment]
    tensor_split: Annotated[str | None, Option("--tensor-split", "-ts", help="GPUs' shares: 3,1.")] = None
    split_mode: Annotated[
        str | None, Option("--split-mode", "-sm", help="Whole layers per GPU (layer), or one GPU (none).")
    ] = None
    main_gpu: Annotated[int | None, Option("--main-gpu", "-mg", help="The GPU of split mode none.")] = None
    kv_offload: Annotated[bool, Option("--kv-offload/--no-kv-offload", help="The cache on GPUs.")] = True
    op_offload: Annotated[
        bool, Option("--op-offload/--no-op-offload", help="GPUs compute large batches of host weights.")
    ] = True
    mmap: Annotated[bool, Option("--mmap/--no-mmap", help="Host weights are mapped from the file.")] = True
    mlock: Annotated[bool, Option("--mlock", help="Host weights stay in memory.")] = False
    repack: Annotated[bool, Option("--repack/--no-repack", help="Rearrange CPU weights.")] = True
    mmproj: Annotated[
        str | None, Option(help="llama.cpp, Ollama: the vision tower as f16, bf16, q8_0 or f32; none.")
    ] = None
    draft: Annotated[str | None, Option("--draft", "-md", help="llama.cpp: a draft model, named as --model.")] = None
    draft_quant: Annotated[str | None, Option(help="llama.cpp: the draft model's weight format.")] = None
    draft_gpu_layers: Annotated[
        int | None, Option("--draft-gpu-layers", "-ngld", help="llama.cpp: the draft model's layers on GPUs.")
    ] = None
    lora: Annotated[list[str], Option(help="llama.cpp: an adapter: rank=16, or the folder of one; repeatable.")] = ()  # type: ignore[assignment]
    env: Annotated[
        list[str], Option("--env", help="Ollama: a variable of its server, e.g. OLLAMA_SCHED_SPREAD=1; repeatable.")
    ] = ()  # type: ignore[assignment]
    reserve: Annotated[str | None, Option(help="Memory already taken on each GPU, e.g. desktop 800MB.")] = None
    os: Annotated[System, Option(help="What the driver lets a process use depends on it.")] = System.LINUX
    registry: Annotated[
        list[Path], Option(help="Your own models.yaml / gpus.yaml, or a folder with them; repeatable.")
    ] = ()  # type: ignore[assignment]

    def request(self) -> "Request":
        """Return the question behind the flags. Raises ``UsageError`` for what is no number."""
        from vramcalc.api import Request  # noqa: PLC0415 - help must not pay for the use cases
        from vramcalc.specs.workload import Workload  # noqa: PLC0415

        return Request(
            model=self.model,
            gpus=self.gpu,
            engines=self.engine,
            quants=self.quant or (None,),
            nodes=self.nodes,
            ram=self.ram,
            ram_bandwidth=self.ram_bandwidth,
            reserve=self.reserve,
            os=self.os.value,
            kv_type=self.kv_type,
            environment=self.env,
            mmproj=self.mmproj,
            draft=self.draft,
            draft_quant=self.draft_quant,
            adapters=self.lora,
            registries=self.registry,
            workload=Workload(
                n_context=None if self.context in _AUTO else _count("--context", self.context),
                fit_context=self.context in _AUTO,
                n_sequences=self.parallel,
                n_slots=self.slots,
                step_tokens=_count("--step-tokens", self.step_tokens),
                depth_tokens=_count("--depth", self.depth),
                memory_share=_share(self.memory_share),
                max_num_seqs=self.max_num_seqs,
                tensor_parallel=self.tp,
                pipeline_parallel=self.pp,
                data_parallel=self.dp,
                expert_parallel=self.ep,
                enforce_eager=self.enforce_eager,
                kv_cache_memory_bytes=_size("--kv-cache-memory-bytes", self.kv_cache_memory_bytes),
                cpu_offload_bytes=_size("--cpu-offload", self.cpu_offload) or 0,
                kv_offload_bytes=_size("--kv-offloading-size", self.kv_offloading_size) or 0,
                block_tokens=self.block_size,
                chunked_prefill=self.chunked_prefill,
                prefix_caching=self.prefix_caching,
                gpu_layers=self.gpu_layers,
                cpu_moe=self.cpu_moe,
                flash_attention=self.flash_attention,
                kv_unified=self.kv_unified,
                swa_full=self.swa_full,
                overrides=tuple(self.override),
                tensor_split=_shares(self.tensor_split),
                split_mode=self.split_mode,
                main_gpu=self.main_gpu,
                kv_offload=self.kv_offload,
                op_offload=self.op_offload,
                mmap=self.mmap,
                mlock=self.mlock,
                repack=self.repack,
                draft_gpu_layers=self.draft_gpu_layers,
            ),
        )


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ``RequestOptions`` in front of its own, and hand them over as one object."""
    return _with_options(command, RequestOptions.__annotations__, lambda asked: RequestOptions(**asked))


def takes_requests(command: Callable[..., None]) -> Callable[..., None]:
    """Do as ``takes_request``, with models and contexts repeatable: hand over one object for each pair of them."""
    hints = {
        **RequestOptions.__annotations__,
        "model": Annotated[list[str], Option("--model", "-m", help="As for estimate, or all; repeatable.")],
        "context": Annotated[list[str], Option("--context", "-c", help="Tokens of one sequence; repeatable.")],
    }

    def pairs(asked: dict[str, Any]) -> list[RequestOptions]:
        models, contexts = asked.pop("model"), asked.pop("context") or [None]
        return [RequestOptions(model=m, context=c, **asked) for m in models for c in contexts]

    return _with_options(command, hints, pairs)


def _with_options(
    command: Callable[..., None], hints: dict[str, Any], handed_over: Callable[[dict[str, Any]], Any]
) -> Callable[..., None]:
    names, defaults = RequestOptions.__struct_fields__, RequestOptions.__struct_defaults__  # of the last fields
    defaults = (NODEFAULT,) * (len(names) - len(defaults)) + defaults
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is NODEFAULT else _mutable(default),
            annotation=hints[name],
        )
        for name, default in zip(names, defaults, strict=True)
    ]
    own = list(inspect.signature(command).parameters.values())[1:]

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:  # noqa: ANN401
        asked = {p.name: given.pop(p.name) for p in shared}
        command(handed_over(asked), **given)

    parameters = [*shared, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _mutable(default: object) -> object:
    return list(default) if isinstance(default, tuple) else default


def _count(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else parse_count(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}", "k is 1024: 8k = 8192") from error


def _size(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else int(text) if text.isdecimal() else parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}", "GB is 10^9 bytes and GiB 2^30") from error


def _shares(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        shares = tuple(float(part) for part in text.replace("/", ",").split(","))
    except ValueError:
        shares = ()
    if not shares or any(not math.isfinite(share) or share < 0 for share in shares):
        raise UsageError(f"--tensor-split {text!r} is no list of shares", "write e.g. 3,1")
    return shares


def _share(value: float | None) -> Fraction | None:
    return None if value is None else Fraction(str(value))
