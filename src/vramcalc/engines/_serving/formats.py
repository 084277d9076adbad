"""Which weight and cache formats a serving engine takes on which card, by tables of its own."""

from collections.abc import Mapping

from msgspec import Struct

from vramcalc.engines._vllm.formats import ChosenFormat
from vramcalc.engines._vllm.rules import Capability, capability, default_dtype, running_dtype
from vramcalc.engines.base import stand_in
from vramcalc.errors import RefusedError, UnknownNameError
from vramcalc.formulas.recipes import RECIPES
from vramcalc.formulas.weights import Storage, checkpoint_storage
from vramcalc.specs.format_names import scaled_format
from vramcalc.specs.formats import FLOATS, FP8, GGML, BlockFormat, ScaledFormat
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import Dtype, ModelSpec
from vramcalc.specs.workload import Workload

_AS_THE_MODEL = frozenset({"auto", "f16", "bf16"})
_FP8_NAMES = frozenset({"fp8", "fp8_e4m3", "fp8_e5m2"})


class FormatRules(Struct, frozen=True, kw_only=True):
    """An engine's formats with the compute capability each asks for, and what an 8-bit KV cache asks."""

    engine: str
    least: Mapping[str, Capability]
    fp8_cache: Capability
    fp8_names: frozenset[str] = _FP8_NAMES


def choose_format(rules: FormatRules, model: ModelSpec, gpu: GpuSpec, asked: str | None) -> ChosenFormat:
    """Return the asked format, else the checkpoint's own.

    Raises ``RefusedError`` for formats the engine does not load or the card cannot run, and ``UnknownNameError``.
    """
    own = model.checkpoint_format or default_dtype(model)
    name = own if asked is None else asked.lower()
    if name in FLOATS:
        named: dict[str, Dtype] = {"f32": "f32", "f16": "f16", "bf16": "bf16"}
        dtype = running_dtype(model, named[name], capability(gpu))
        return ChosenFormat(dtype, FLOATS[dtype], dtype, Storage(FLOATS[dtype], FLOATS[dtype]))
    loads = ", ".join((*FLOATS, *rules.least))
    fmt, storage = scaled_format(name), checkpoint_storage(model, name)
    if fmt is None or storage is None or _as_listed(fmt) not in rules.least:
        if fmt is not None or _is_known(name):
            raise RefusedError(f"{rules.engine}'s {name} weights are not modelled", f"take one of {loads}")
        raise UnknownNameError(
            "weight format", name, (*FLOATS, *rules.least), see=f"{rules.engine} is modelled with {loads}"
        )
    least = rules.least[_as_listed(fmt)]
    if capability(gpu) < least:
        asks = ".".join(map(str, least))
        raise RefusedError(
            f"{rules.engine} runs {name} from compute capability {asks}; {gpu.name} has {gpu.compute_capability}",
            "take a 16-bit or an int4 format, or a newer card",
        )
    if name == "mxfp4" and not model.is_moe:
        raise RefusedError(
            f"mxfp4 covers experts alone here, and {model.name} has none", "take w4a16 or awq-4bit for a dense model"
        )
    return ChosenFormat(name, fmt, running_dtype(model, default_dtype(model), capability(gpu)), storage)


def _as_listed(fmt: ScaledFormat) -> str:
    """Return the name of a format at its usual group size; act-order and asymmetric int4 keep their own."""
    if fmt.name.endswith("-actorder") or "-asym" in fmt.name:
        return fmt.name
    if fmt.method in ("awq", "gptq"):
        return f"{fmt.method}-{fmt.element_bits}bit"
    return "w4a16" if fmt.name.startswith("w4a16-") else fmt.name


def _is_known(name: str) -> bool:
    return name in GGML or name in RECIPES or "=" in name


def cache_format(rules: FormatRules, gpu: GpuSpec, dtype: Dtype, workload: Workload) -> BlockFormat:
    """Return the format of the KV cache. Raises ``RefusedError`` for what the engine or the card does not offer."""
    k, v = workload.k_format or "auto", workload.v_format or workload.k_format or "auto"
    if k != v and not {k, v} <= _AS_THE_MODEL:
        raise RefusedError(
            f"{rules.engine} keeps K and V in one format, not {k} and {v}", "give one --kv-type: auto or fp8"
        )
    if k in _AS_THE_MODEL or k == dtype:
        return FLOATS[dtype]
    if k not in rules.fp8_names:
        raise RefusedError(
            f"the cache format {k} is not modelled for {rules.engine}", "take auto (the model's dtype) or fp8"
        )
    if capability(gpu) < rules.fp8_cache:
        asks = ".".join(map(str, rules.fp8_cache))
        raise RefusedError(
            f"{rules.engine} keeps an fp8 cache from compute capability {asks}; {gpu.name} has "
            f"{gpu.compute_capability}",
            "leave --kv-type to the engine",
        )
    return FP8


def needs_checkpoint(engine: str, model: ModelSpec, weight_format: str) -> tuple[str, ...]:
    """Return the note that a format has to come with the checkpoint, where the release is in another."""
    if weight_format in FLOATS or weight_format == model.checkpoint_format:
        return ()
    return (f"{engine} does not make {weight_format} of a 16-bit release: {stand_in(weight_format)} stands for one",)
