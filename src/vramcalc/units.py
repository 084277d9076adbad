"""Bytes and counts: the one place where GiB, GB and "8k" become integers, and back.

Inside the program every amount of memory is an ``int`` of bytes. Need rounds up, capacity rounds down.
"""

import math
import re
from fractions import Fraction

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12

_BYTES_PER_UNIT = {
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": TIB,
    "kb": KB,
    "mb": MB,
    "gb": GB,
    "tb": TB,
}
_QUANTITY = re.compile(r"(?P<number>\d{1,15}(?:\.\d{1,9})?)\s*(?P<unit>[a-zA-Z]*)", re.ASCII)
_COUNT_FACTOR = {"": 1, "k": 1024, "m": 1024**2}


def ceil_div(numerator: int | Fraction, denominator: int) -> int:
    """Return ``numerator / denominator`` rounded up."""
    return -(-numerator // denominator)


def round_up(n: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that is at least ``n``."""
    return ceil_div(n, multiple) * multiple


def part_of(n: int, fraction: Fraction) -> int:
    """Return ``fraction`` of ``n`` bytes of capacity, rounded down."""
    return math.floor(n * fraction)


def parse_bytes(text: str) -> int:
    """Return the bytes that ``text`` names, e.g. ``"11776MiB"`` or ``"64GB"``.

    GB is 10^9 and GiB 2^30. Raises ``ValueError`` when the unit is missing or unknown: a bare number could be either.

    >>> parse_bytes("12GiB"), parse_bytes("1.5 GB")
    (12884901888, 1500000000)
    """
    match = _QUANTITY.fullmatch(text.strip())
    unit = match["unit"].lower() if match else ""
    if match is None or unit not in _BYTES_PER_UNIT:
        msg = f"{text!r} is not an amount of memory; write a number and a unit, e.g. 800MB, 12GiB or 11776MiB"
        raise ValueError(msg)
    return math.floor(Fraction(match["number"]) * _BYTES_PER_UNIT[unit])


def parse_count(text: str) -> int:
    """Return the tokens that ``text`` names: ``"8192"``, or ``"8k"`` for 8 x 1024.

    >>> parse_count("8k"), parse_count("4096")
    (8192, 4096)
    """
    match = _QUANTITY.fullmatch(text.strip().replace("_", ""))
    factor = _COUNT_FACTOR.get(match["unit"].lower()) if match else None
    if match is None or factor is None or Fraction(match["number"]) * factor % 1:
        msg = f"{text!r} is not a count; write e.g. 8192 or 8k (= 8192)"
        raise ValueError(msg)
    return int(Fraction(match["number"]) * factor)


def format_gib(n_bytes: int, *, signed: bool = False) -> str:
    """Return ``n_bytes`` in GiB with two digits: ``"4.30 GiB"``."""
    return f"{n_bytes / GIB:{'+' if signed else ''}.2f} GiB"


def format_gb(n_bytes: int) -> str:
    """Return ``n_bytes`` in decimal GB with two digits: ``"16.06 GB"``."""
    return f"{n_bytes / GB:.2f} GB"


def format_bytes(n_bytes: int) -> str:
    """Return ``n_bytes`` in the binary unit that reads best: ``"840 B"``, ``"256.0 MiB"``, ``"4.58 GiB"``."""
    if abs(n_bytes) < MIB:
        return f"{n_bytes} B" if abs(n_bytes) < KIB else f"{n_bytes / KIB:.1f} KiB"
    return f"{n_bytes / MIB:.1f} MiB" if abs(n_bytes) < GIB else format_gib(n_bytes)


def format_count(n: int) -> str:
    """Return a large count as people say it: ``"8.03B"``, ``"567.8M"``."""
    if n >= GB:
        return f"{n / GB:.2f}B"
    return f"{n / MB:.1f}M"
