"""Which weight and cache formats vLLM takes on which card."""

from msgspec import Struct

from vramcalc.engines._vllm.rules import Capability, capability, default_dtype, refuse_fp8_cache, running_dtype
from vramcalc.engines.base import stand_in
from vramcalc.errors import RefusedError, UnknownNameError
from vramcalc.formulas.recipes import RECIPES
from vramcalc.formulas.weights import Storage, checkpoint_storage
from vramcalc.specs.format_names import EXAMPLES, scaled_format
from vramcalc.specs.formats import CHECKPOINT, FLOATS, FP8, GGML, BlockFormat, ScaledFormat, WeightFormat
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import Dtype, ModelSpec
from vramcalc.specs.workload import Workload

QUANTISED_ON_LOADING = frozenset({"fp8"})  # of a 16-bit release
_BITSANDBYTES = frozenset({"nf4", "fp4", "bnb-4bit", "bnb-8bit", "bitsandbytes"})
_OWNERS = {"mlx": "MLX", "exl": "ExLlama"}
_FOREIGN = {*_OWNERS, "bitsandbytes"}
_AS_THE_MODEL = frozenset({"auto", "f16", "bf16"})
_FP8_NAMES = frozenset({"fp8", "fp8_e4m3", "fp8_e5m2"})
_NO_EXPERTS = "mxfp4 covers experts alone here"


class ChosenFormat(Struct, frozen=True):
    """The format of the weights and the dtype everything else runs in."""

    name: str
    fmt: WeightFormat
    dtype: Dtype
    storage: Storage


def release_name(model: ModelSpec, weight_format: str, *, makes: frozenset[str] = frozenset()) -> str:
    """Return the repository to load, or a stand-in where the release is in another format.

    ``makes`` are the formats the engine makes of a 16-bit release as it loads.
    """
    if weight_format in FLOATS or weight_format == model.checkpoint_format or weight_format in makes:
        return model.hf_ids[0] if model.hf_ids else model.id
    return stand_in(weight_format)


def choose_format(model: ModelSpec, gpu: GpuSpec, asked: str | None) -> ChosenFormat:
    """Return the asked format, else the checkpoint's own.

    Raises ``RefusedError`` for formats vLLM does not load or the card cannot run, and ``UnknownNameError``.
    """
    own = model.checkpoint_format or default_dtype(model)
    name = own if asked is None else asked.lower()
    if name in FLOATS:
        named: dict[str, Dtype] = {"f32": "f32", "f16": "f16", "bf16": "bf16"}
        dtype = running_dtype(model, named[name], capability(gpu))
        return ChosenFormat(dtype, FLOATS[dtype], dtype, Storage(FLOATS[dtype], FLOATS[dtype]))
    fmt, storage = scaled_format(name), checkpoint_storage(model, name)
    if fmt is None or storage is None or fmt.method in _FOREIGN:
        _refuse_foreign(name, fmt)
        known = (*FLOATS, *CHECKPOINT)
        see = f"vLLM loads {', '.join(known)}"
        raise UnknownNameError("weight format", name, (*known, *EXAMPLES), see=see)
    least = fmt.least_compute_capability
    if capability(gpu) < least:
        asks = ".".join(map(str, least))
        raise RefusedError(
            f"vLLM runs {name} from compute capability {asks}; {gpu.name} has {gpu.compute_capability}; it stops with "
            f'"The quantization method is not supported for the current GPU. Minimum capability: {_joined(least)}."',
            "take bf16 or an int4 format, or a newer card",
        )
    if name == "nvfp4" and gpu.vendor == "amd":
        raise RefusedError(f"nvfp4 is NVIDIA's own format; {gpu.name} cannot run it", "take mxfp4, fp8 or bf16")
    if name == "mxfp4" and not model.is_moe:
        raise RefusedError(f"{_NO_EXPERTS}, and {model.name} has none", "take w4a16 or awq-4bit for a dense model")
    if fmt.method == "gptq" and name.endswith("-actorder"):
        raise RefusedError(f"vLLM 0.33 refuses GPTQ with act-order ({name})", "take a release without it, or awq-4bit")
    return ChosenFormat(name, fmt, running_dtype(model, default_dtype(model), capability(gpu)), storage)


def _refuse_foreign(name: str, fmt: ScaledFormat | None) -> None:
    if name in GGML or name in RECIPES or "=" in name:
        raise RefusedError(
            f"vLLM does not load the GGUF format {name}: support moved out of its tree to a plugin",
            "take --engine llama.cpp or ollama for GGUF, or awq-4bit, gptq-4bit, w4a16, fp8 here",
        )
    if fmt is not None and fmt.method in _OWNERS:
        raise RefusedError(
            f"{name} is {_OWNERS[fmt.method]}'s own format; vLLM does not load it", "take w4a16, awq-4bit or fp8"
        )
    if name in _BITSANDBYTES or (fmt is not None and fmt.method == "bitsandbytes"):
        raise RefusedError(
            f"vLLM does not load {name}: bitsandbytes support is no longer in its tree",
            "take awq-4bit, gptq-4bit, w4a16 or fp8",
        )


def _joined(least: Capability) -> str:
    return "".join(map(str, least))


def cache_format(model: ModelSpec, gpu: GpuSpec, dtype: Dtype, workload: Workload) -> BlockFormat:
    """Return the format of the KV cache. Raises ``RefusedError`` for what the engine or the card does not offer."""
    k, v = workload.k_format or "auto", workload.v_format or workload.k_format or "auto"
    if k != v and not {k, v} <= _AS_THE_MODEL:
        raise RefusedError(f"vLLM keeps K and V in one format, not {k} and {v}", "give one --kv-type: auto or fp8")
    if k in _AS_THE_MODEL or k == dtype:
        return FLOATS[dtype]
    if k in _FP8_NAMES:
        refuse_fp8_cache(model, gpu)
        return FP8
    raise RefusedError(f"the cache format {k} is not modelled for vLLM", "take auto (the model's dtype) or fp8")
