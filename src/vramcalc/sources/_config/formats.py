"""How a checkpoint says it is quantised: config.json's ``quantization_config``, hf_quant_config.json beside it.

Source:
    transformers 5.23, utils/quantization_config.py; compressed-tensors 0.12; modelopt 0.43, export/quant_utils.py;
    GPTQModel 4, quantization/config.py.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from vramcalc.errors import BadInputError
from vramcalc.sources._config.quant_keys import unknown_key
from vramcalc.sources._config.storage import KEPT, Named, Quantised
from vramcalc.specs.format_names import scaled_format

_GROUP = 128
_WHOLE_ROW = -1
_NVFP4_GROUP = 16
_MX_GROUP = 32
_MLX_GROUP = 64
_LISTS = ("modules_to_not_convert", "ignore", "exclude_modules", "llm_int8_skip_modules")
_MOST_NAMED = 1 << 17
_UNSET: tuple[object, ...] = (None, False, [], {})  # what a key that is not there would say
_Section = Mapping[str, Any]


def read_quantised(section: _Section | None, beside: _Section | None, where: str) -> Quantised | None:
    """Return the format of the checkpoint's weights and what is stored otherwise, None where it is not quantised.

    Raises ``BadInputError`` naming a method nobody here knows.
    """
    if section:
        method = section.get("quant_method", _unnamed(section))
        reader = METHODS.get(str(method))
        if reader is None:
            raise _unknown(where, "quant_method", method)
        strange = unknown_key(str(method), (key for key, value in section.items() if value not in _UNSET))
        if strange is not None:
            raise _unknown(where, strange, section[strange])
        return reader(section, where)
    if beside:
        inner, where = beside.get("quantization"), f"{where} (hf_quant_config.json)"
        if not isinstance(inner, dict):
            raise _unknown(where, "quantization", inner)
        return _modelopt(inner, where) if inner.get("quant_algo") else None
    return None


def _unnamed(section: _Section) -> str | None:
    """Return the method of a section that names none: ModelOpt's earlier ones, and MLX's."""
    if "quant_algo" in section:
        return "modelopt"
    return "mlx" if {"bits", "group_size"} <= section.keys() else None


def _kept(section: _Section, where: str) -> Iterator[Named]:
    """Yield the modules the config leaves in the model's dtype."""
    for key in _LISTS:
        names = section.get(key) or []
        if not isinstance(names, list) or len(names) > _MOST_NAMED:
            raise _unknown(where, key, names)
        for name in names:
            if not isinstance(name, str):
                raise _unknown(where, key, name)
            yield Named(name, KEPT)


def _plain(fmt: str, section: _Section, where: str) -> Quantised:
    return Quantised(fmt, tuple(_kept(section, where)))


def _fp8(section: _Section, where: str) -> Quantised:
    block = section.get("weight_block_size")
    if block is None:
        fmt = "fp8"
    elif isinstance(block, list) and len(block) == 2:  # noqa: PLR2004 - rows and columns
        fmt = "fp8-block" if block == [128, 128] else f"fp8-block-{block[0]}x{block[1]}"
        if scaled_format(fmt) is None:
            raise _unknown(where, "weight_block_size", block)
    else:
        raise _unknown(where, "weight_block_size", block)
    if section.get("quant_algo") == "MIXED_PRECISION":  # its own list is of what is in none of the named formats
        return Quantised(fmt, tuple(_of_layers(section, where)))
    return _plain(fmt, section, where)


def _fbgemm(section: _Section, where: str) -> Quantised:
    return _plain("fp8-channel", section, where)


def _integers(method: str) -> Callable[[_Section, str], Quantised]:
    def read(section: _Section, where: str) -> Quantised:
        fmt = _integer_format(method, section, where)
        named = [Named("lm_head", fmt)] if section.get("lm_head") is True else []
        return Quantised(fmt, (*named, *_kept(section, where), *_dynamic(section, where)))

    return read


def _integer_format(method: str, section: _Section, where: str) -> str:
    bits = section.get("bits", section.get("w_bit"))
    group = section.get("group_size", section.get("q_group_size", _GROUP))
    order = "-actorder" if section.get("desc_act") is True else ""
    name = f"{method}-{bits}bit{_suffix(group)}{order}"
    if scaled_format(f"{method}-{bits}bit") is None:
        raise _unknown(where, "bits", bits)
    if scaled_format(name) is None:
        raise _unknown(where, "group_size", group)
    return name


def _suffix(group: object, default: int = _GROUP) -> str:
    """Return how our names say a group size: not at all for the usual one, ``-channel`` for a whole row."""
    whole_row = group in (-1, None)
    if group == default or (whole_row and default == _WHOLE_ROW):
        return ""
    return "-channel" if whole_row else f"-g{group}"


def _dynamic(section: _Section, where: str) -> Iterator[Named]:
    """Yield GPTQModel's rules by module: ``-:`` leaves it alone, ``+:`` quantises it otherwise."""
    rules = section.get("dynamic") or {}
    if not isinstance(rules, dict):
        raise _unknown(where, "dynamic", rules)
    for pattern, changes in rules.items():
        text = str(pattern)
        if text.startswith("-:"):
            yield Named(f"re:{text[2:]}", KEPT)
        else:
            merged = {**section, **(changes if isinstance(changes, dict) else {})}
            yield Named(f"re:{text.removeprefix('+:')}", _integer_format("gptq", merged, where))


def _bitsandbytes(section: _Section, where: str) -> Quantised:
    if section.get("load_in_8bit"):
        return _plain("llm-int8", section, where)
    kind = section.get("bnb_4bit_quant_type", "fp4")
    if not section.get("load_in_4bit") or kind not in ("nf4", "fp4"):
        raise _unknown(where, "bnb_4bit_quant_type", kind)
    return _plain("nf4-dq" if section.get("bnb_4bit_use_double_quant") else "nf4", section, where)


_MODELOPT = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8-block",
    "FP8_PB_REAL": "fp8-block",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8-channel",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_NVFP4": "nvfp4",
    "W4A8_NVFP4_FP8": "nvfp4",
    "MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4",
    "MXFP8": "mxfp8",
    "INT8_SQ": "int8",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "W4A16_AWQ": "w4a16",
    "W4A8_AWQ": "w4a16",
}
_GROUPS = {"nvfp4": _NVFP4_GROUP, "mxfp4": _MX_GROUP, "mxfp8": _MX_GROUP}


def _modelopt(section: _Section, where: str) -> Quantised:
    if section.get("quant_algo") != "MIXED_PRECISION":
        return _plain(_algorithm(section, where), section, where)
    layers = tuple(_of_layers(section, where))
    if not layers:
        raise _unknown(where, "quantized_layers", section.get("quantized_layers"))
    return Quantised(_narrowest(layers), (*_kept(section, where), *layers, Named("*", KEPT)))


def _bits(name: str) -> float:
    fmt = scaled_format(name)
    return float(fmt.element_bits) if fmt else 0.0


def _narrowest(named: Iterable[Named]) -> str:
    """Return the format of the fewest bits, which a mixed release goes by."""
    return min((n.format for n in named), key=lambda name: (_bits(name), name))


def _algorithm(section: _Section, where: str) -> str:
    algorithm = section.get("quant_algo")
    if not isinstance(algorithm, str) or algorithm not in _MODELOPT:
        raise _unknown(where, "quant_algo", algorithm)
    fmt = _MODELOPT[algorithm]
    group = section.get("group_size")
    if fmt == "w4a16":
        fmt += _suffix(_GROUP if group is None else group)
    elif group is not None and group != _GROUPS.get(fmt, group):
        raise _unknown(where, "group_size", group)
    if scaled_format(fmt) is None:
        raise _unknown(where, "group_size", group)
    return fmt


def _of_layers(section: _Section, where: str) -> Iterator[Named]:
    layers = section.get("quantized_layers")
    if not isinstance(layers, dict) or len(layers) > _MOST_NAMED:
        raise _unknown(where, "quantized_layers", layers)
    for module, stated in layers.items():
        yield Named(str(module), _algorithm(stated if isinstance(stated, dict) else {}, where))


_COMPRESSED_FLOATS = {"tensor": "fp8", "channel": "fp8-channel", "block": "fp8-block"}


def _exl(version: str) -> Callable[[_Section, str], Quantised]:
    def read(section: _Section, where: str) -> Quantised:
        head = section.get("head_bits")
        name = f"exl{version}-{section.get('bits')}bpw" + (f"-h{head}" if head is not None else "")
        if scaled_format(name) is None:
            raise _unknown(where, "bits", section.get("bits"))
        return Quantised(name)

    return read


def _mlx(section: _Section, where: str) -> Quantised:
    """MLX states no method, and modules of other bits by their path."""
    named = []
    for module, stated in section.items():
        if isinstance(stated, dict):
            named.append(Named(str(module), _mlx_format(stated, where)))
        elif stated is False:
            named.append(Named(str(module), KEPT))
    return Quantised(_mlx_format(section, where), tuple(named))


def _mlx_format(section: _Section, where: str) -> str:
    bits, group, mode = section.get("bits"), section.get("group_size"), section.get("mode", "affine")
    if mode != "affine":
        raise _unknown(where, "mode", mode)
    name = f"mlx-{bits}bit" + ("" if group == _MLX_GROUP else f"-g{group}")
    if scaled_format(name) is None:
        raise (
            _unknown(where, "bits", bits)
            if scaled_format(f"mlx-{bits}bit") is None
            else _unknown(where, "group_size", group)
        )
    return name


def _auto_round(section: _Section, where: str) -> Quantised:
    packing = str(section.get("packing_format", ""))
    method = next((name for name in ("gptq", "awq") if name in packing), None)
    if method is None:
        raise _unknown(where, "packing_format", packing)
    return _integers(method)(section, where)


def _compressed(section: _Section, where: str) -> Quantised:
    """compressed-tensors: a format for each group of targets, which are classes, paths or regular expressions."""
    groups = section.get("config_groups")
    stated = [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    if not stated:
        raise _unknown(where, "config_groups", groups)
    sparse = section.get("sparsity_config")
    if isinstance(sparse, dict) and sparse.get("format") not in (None, "dense"):
        raise _unknown(where, "sparsity_config", sparse.get("format"))
    base, named = None, list(_kept(section, where))
    for group in stated:
        fmt = _compressed_group(group, section, where)
        targets = group.get("targets") or ["Linear"]
        if not isinstance(targets, list) or len(targets) > _MOST_NAMED:
            raise _unknown(where, "targets", targets)
        if "Linear" in targets:
            base = fmt
        named += [Named(str(target), fmt) for target in targets if target != "Linear"]
    if base is None:
        base = _narrowest(n for n in named if n.format != KEPT)
        named.append(Named("*", KEPT))
    return Quantised(base, tuple(named), lists_towers=True)


def _compressed_group(group: _Section, section: _Section, where: str) -> str:
    stated = group.get("weights")
    weights = stated if isinstance(stated, dict) else {}
    traits = (weights.get("type"), weights.get("num_bits"), weights.get("group_size"))
    form, strategy = group.get("format") or section.get("format"), str(weights.get("strategy"))
    asym = "-asym" if weights.get("symmetric") is False else ""
    fmt = ""
    match (*traits, form):
        case ("float", 8, None, _) if strategy in _COMPRESSED_FLOATS:
            fmt = _COMPRESSED_FLOATS[strategy]
            block = weights.get("block_structure")
            if fmt == "fp8-block" and isinstance(block, list) and block != [128, 128]:
                fmt += f"-{'x'.join(map(str, block))}"
        case ("float", 8, 32, "mxfp8-quantized"):
            fmt = "mxfp8"
        case ("int", 8, None, "int-quantized" | "naive-quantized" | None) if strategy == "channel" and not asym:
            fmt = "int8"
        case ("int", 4 | 8 as bits, size, "pack-quantized") if strategy in ("group", "channel", "None"):
            order = "-actorder" if weights.get("actorder") == "group" else ""
            fmt = f"w{bits}a16{_suffix(size, _GROUP if bits == 4 else _WHOLE_ROW)}{asym}{order}"  # noqa: PLR2004
        case ("float", 4, 32, "mxfp4-pack-quantized"):
            fmt = "mxfp4"
        case ("float", 4, 16, "nvfp4-pack-quantized"):
            fmt = "nvfp4"
        case _:
            pass
    if scaled_format(fmt) is None:
        raise _unknown(where, "config_groups", f"{form}, {weights.get('strategy')}, {traits}")
    return fmt


def _mxfp4(section: _Section, where: str) -> Quantised:
    return _plain("mxfp4", section, where)


METHODS: Mapping[str, Callable[[_Section, str], Quantised]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "awq": _integers("awq"),
    "gptq": _integers("gptq"),
    "mxfp4": _mxfp4,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "modelopt_mixed": _modelopt,
    "compressed-tensors": _compressed,
    "bitsandbytes": _bitsandbytes,
    "auto-round": _auto_round,
    "exl2": _exl("2"),
    "exl3": _exl("3"),
    "mlx": _mlx,
}


def _unknown(where: str, key: str, value: object) -> BadInputError:
    return BadInputError(
        f"{where}: quantization_config, key {key!r}: {value!r:.120} is not known",
        f"known methods are {', '.join(METHODS)}; please report it, with the config.json",
    )
