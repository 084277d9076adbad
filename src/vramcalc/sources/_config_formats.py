"""How a checkpoint says it is quantised: config.json's ``quantization_config``, hf_quant_config.json beside it."""

from collections.abc import Callable, Mapping
from typing import Any

from vramcalc.errors import BadInputError

MIXED = "modelopt-mixed"  # a format for each layer, which no single name says

_GROUP = 128
_BLOCK = [128, 128]
_NVFP4_GROUP = 16
_Section = Mapping[str, Any]


def checkpoint_format(section: _Section | None, beside: _Section | None, where: str) -> str | None:
    """Return the name of the checkpoint's weight format, None where it is not quantised.

    Raises ``BadInputError`` naming a method nobody here knows.
    """
    if section:
        method = section.get("quant_method", "modelopt" if "quant_algo" in section else None)
        reader = _METHODS.get(str(method))
        if reader is None:
            raise _unknown(where, "quant_method", method)
        if section.get("quant_algo") == "MIXED_PRECISION":
            reader = _modelopt
        return reader(section, where)
    if beside:
        inner = beside.get("quantization")
        if not isinstance(inner, dict):
            raise _unknown(f"{where} (hf_quant_config.json)", "quantization", inner)
        return _modelopt(inner, f"{where} (hf_quant_config.json)") if inner.get("quant_algo") else None
    return None


def _fp8(section: _Section, where: str) -> str:
    block = section.get("weight_block_size")
    if block is None:
        return "fp8"
    if block != _BLOCK:
        raise _unknown(where, "weight_block_size", block)
    return "fp8-block"


def _int_groups(names: Mapping[int, str]) -> Callable[[_Section, str], str]:
    def read(section: _Section, where: str) -> str:
        bits = section.get("bits", section.get("w_bit"))
        if not isinstance(bits, int) or bits not in names:
            raise _unknown(where, "bits", bits)
        group = section.get("group_size", section.get("q_group_size"))
        if group != _GROUP:
            raise _unknown(where, "group_size", group)
        return names[bits]

    return read


def _bitsandbytes(section: _Section, where: str) -> str:
    if section.get("load_in_8bit"):
        return "int8"
    kind = section.get("bnb_4bit_quant_type")
    if not section.get("load_in_4bit") or kind != "nf4":
        raise _unknown(where, "bnb_4bit_quant_type", kind)
    return "nf4"


_MODELOPT = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8-block",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8-channel",
    "NVFP4": "nvfp4",
    "W4A16_AWQ": "awq-4bit",
    "MIXED_PRECISION": MIXED,
}


def _modelopt(section: _Section, where: str) -> str:
    algorithm = section.get("quant_algo")
    if not isinstance(algorithm, str) or algorithm not in _MODELOPT:
        raise _unknown(where, "quant_algo", algorithm)
    group = section.get("group_size", _NVFP4_GROUP)
    if algorithm == "NVFP4" and group != _NVFP4_GROUP:
        raise _unknown(where, "group_size", group)
    return _MODELOPT[algorithm]


_COMPRESSED_FLOATS = {"tensor": "fp8", "channel": "fp8-channel", "block": "fp8-block"}


def _compressed(section: _Section, where: str) -> str:
    groups = section.get("config_groups")
    stated = [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    found = {_compressed_group(group, section, where) for group in stated}
    if len(found) != 1:
        raise _unknown(where, "config_groups", sorted(found))
    return found.pop()


def _compressed_group(group: _Section, section: _Section, where: str) -> str:
    stated = group.get("weights")
    weights = stated if isinstance(stated, dict) else {}
    traits = (weights.get("type"), weights.get("num_bits"), weights.get("group_size"))
    form = group.get("format") or section.get("format")
    match (*traits, form):
        case ("float", 8, None, _) if str(weights.get("strategy")) in _COMPRESSED_FLOATS:
            return _COMPRESSED_FLOATS[str(weights["strategy"])]
        case ("int", 8, None, _) if weights.get("strategy") == "channel":
            return "int8"
        case ("int", 4, 128, "pack-quantized"):
            return "w4a16"
        case ("float", 4, 32, "mxfp4-pack-quantized"):
            return "mxfp4"
        case ("float", 4, 16, "nvfp4-pack-quantized"):
            return "nvfp4"
        case _:
            raise _unknown(where, "config_groups", f"{form}, {weights.get('strategy')}, {traits}")


def _mxfp4(_: _Section, __: str) -> str:
    return "mxfp4"


_METHODS: Mapping[str, Callable[[_Section, str], str]] = {
    "fp8": _fp8,
    "awq": _int_groups({4: "awq-4bit"}),
    "gptq": _int_groups({4: "gptq-4bit", 8: "gptq-8bit"}),
    "mxfp4": _mxfp4,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "compressed-tensors": _compressed,
    "bitsandbytes": _bitsandbytes,
}


def _unknown(where: str, key: str, value: object) -> BadInputError:
    return BadInputError(
        f"{where}: quantization_config, key {key!r}: {value!r:.120} is not known",
        f"known methods are {', '.join(_METHODS)}; please report it, with the config.json",
    )
