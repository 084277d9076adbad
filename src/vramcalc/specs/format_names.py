"""Weight formats by name: the tables' own, and names that state a group size or an average number of bits.

``gptq-4bit-g32-actorder``, ``awq-4bit-g64``, ``w8a16-channel``, ``mlx-4bit-g32``, ``exl2-4.0bpw``, ``exl3-3.5bpw-h8``:
such a name is built from its parts, so that no group size needs an entry.
"""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from msgspec.structs import replace

from vramcalc.specs.formats import CHECKPOINT, KEPT_BY_MLX, KEPT_ROLES, MLX_BITS, OTHER_RUNTIMES, ScaledFormat

EXAMPLES = (
    *CHECKPOINT,
    *OTHER_RUNTIMES,
    "gptq-4bit-g32",
    "gptq-4bit-g128-actorder",
    "awq-4bit-g64",
    "w8a16-channel",
    "w4a16-g64",
    "w4a16-asym",
    "mlx-4bit-g32",
    "fp8-block-64x64",
    "exl2-4.0bpw",
    "exl3-3.5bpw-h8",
)

_GROUP = r"(?:-(?:g(?P<group>16|32|64|128|256|512|1024)|(?P<channel>channel)))?"
_MOST_BITS = 8
_HEAD_BITS = 6  # what exllamav2 and exllamav3 take unless told otherwise
_SCALE_BITS = 16
_ORDER_BITS = 32  # the group of an in feature, where activations decide the order
_DEFAULT_GROUP = 128


def scaled_format(name: str) -> ScaledFormat | None:
    """Return the format of a checkpoint, or of another runtime, that goes by ``name``; None for any other name.

    >>> scaled_format("awq-4bit-g64").matrix_bytes(64, 64)
    2208
    """
    known = CHECKPOINT.get(name) or OTHER_RUNTIMES.get(name)
    if known is not None:
        return known
    for pattern, build in _FAMILIES.items():
        found = re.fullmatch(pattern, name, re.ASCII)
        if found is not None:
            return build(name, found)
    return None


def _columns(found: re.Match[str], default: int = _DEFAULT_GROUP) -> int:
    """Return the elements of a group: 0 for the whole row."""
    return 0 if found["channel"] else int(found["group"] or default)


def _gptq(name: str, found: re.Match[str]) -> ScaledFormat:
    """With act-order the file keeps, as int32, the group of each in feature."""
    bits = int(found["bits"])
    base = CHECKPOINT["gptq-4bit"]
    return replace(
        base,
        name=name,
        element_bits=bits,
        group_columns=_columns(found),
        group_bits=_SCALE_BITS + bits,
        zero_bits=bits,
        column_bits=_ORDER_BITS if found["order"] else 0,
    )


def _awq(name: str, found: re.Match[str]) -> ScaledFormat:
    return replace(CHECKPOINT["awq-4bit"], name=name, group_columns=_columns(found))


def _compressed(name: str, found: re.Match[str]) -> ScaledFormat:
    bits = int(found["bits"])
    zero_bits = bits if found["asym"] else 0
    return replace(
        CHECKPOINT["w4a16"],
        name=name,
        element_bits=bits,
        group_columns=_columns(found, _DEFAULT_GROUP if bits == 4 else 0),  # noqa: PLR2004 - llm-compressor's W8A16 is per channel
        group_bits=_SCALE_BITS + zero_bits,
        zero_bits=zero_bits,
        column_bits=_ORDER_BITS if found["order"] else 0,
    )


def _mlx(name: str, found: re.Match[str]) -> ScaledFormat:
    bits, columns = int(found["bits"]), int(found["group"])
    return ScaledFormat(name, bits, 1, columns, 2 * _SCALE_BITS, (0, 0), KEPT_BY_MLX, method="mlx")


def _fp8_block(name: str, found: re.Match[str]) -> ScaledFormat:
    return replace(
        CHECKPOINT["fp8-block"], name=name, group_rows=int(found["rows"]), group_columns=int(found["columns"])
    )


def _exl(name: str, found: re.Match[str]) -> ScaledFormat | None:
    """Bits are an average over the layers, scales included in exl2; exl3 adds 16 bits per in and out feature.

    Source:
        exllamav2 0.3.2, conversion; exllamav3 1.6.5, modules/quant/exl3.py. Head bits of 6 are their default.
    """
    bits, head_bits = Fraction(found["bits"]), int(found["head"] or _HEAD_BITS)
    if not 1 <= bits <= _MOST_BITS or not 1 <= head_bits <= _MOST_BITS:
        return None
    sign_bits = _SCALE_BITS if found["version"] == "3" else 0
    keeps = KEPT_ROLES - {"head"}
    body = ScaledFormat(name, bits, 0, 0, 0, (8, 0), keeps, method="exl", row_bits=sign_bits, column_bits=sign_bits)
    return replace(body, head=replace(body, name=f"exl{found['version']}-{head_bits}bit", element_bits=head_bits))


_FAMILIES: Mapping[str, Callable[[str, re.Match[str]], ScaledFormat | None]] = {
    rf"gptq-(?P<bits>[2348])bit{_GROUP}(?P<order>-actorder)?": _gptq,
    rf"awq-4bit{_GROUP}": _awq,
    rf"w(?P<bits>[48])a16{_GROUP}(?P<asym>-asym)?(?P<order>-actorder)?": _compressed,
    rf"mlx-(?P<bits>[{''.join(map(str, MLX_BITS))}])bit-g(?P<group>32|64|128)": _mlx,
    r"fp8-block-(?P<rows>[1-9]\d{0,3})x(?P<columns>[1-9]\d{0,3})": _fp8_block,
    r"exl(?P<version>[23])-(?P<bits>[1-8](?:\.\d{1,3})?)bpw(?:-h(?P<head>[1-8]))?": _exl,
}
