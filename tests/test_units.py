"""Bytes and counts."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramcalc import units


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        pytest.param("12GiB", 12_884_901_888, id="12 * 2^30"),
        pytest.param("12GB", 12_000_000_000, id="12 * 10^9"),
        pytest.param("11776MiB", 12_348_030_976, id="11776 * 2^20"),
        pytest.param("800 mb", 800_000_000, id="case and space: 800 * 10^6"),
        pytest.param("1.5TiB", 1_649_267_441_664, id="1.5 * 2^40"),
        pytest.param("0.3B", 0, id="capacity rounds down"),
        pytest.param("7KiB", 7168, id="7 * 2^10"),
    ],
)
def test_amounts_of_memory(text: str, n_bytes: int) -> None:
    assert units.parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["12", "", "GB", "12 parsecs", "-4GB", "1e9GB", "1GB1", "٣GB", "9" * 16 + "GB"])
def test_amounts_without_a_known_unit_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount of memory"):
        units.parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "count"), [("8192", 8192), ("8k", 8192), ("1M", 1_048_576), ("0.5k", 512), ("131_072", 131_072)]
)
def test_counts(text: str, count: int) -> None:
    assert units.parse_count(text) == count


@pytest.mark.parametrize("text", ["", "k", "1.5", "0.3k", "8kb", "-1", "eight"])
def test_counts_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a count"):
        units.parse_count(text)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (840, "840 B"),
        (2048, "2.0 KiB"),
        (268_435_456, "256.0 MiB"),
        (4_912_898_304, "4.58 GiB"),
        (-5 << 30, "-5.00 GiB"),
    ],
)
def test_the_binary_unit_that_reads_best(n_bytes: int, text: str) -> None:
    assert units.format_bytes(n_bytes) == text


def test_decimal_and_binary_are_named() -> None:
    assert units.format_gb(16_060_522_496) == "16.06 GB"
    assert units.format_gib(16_060_522_496) == "14.96 GiB"
    assert units.format_gib(1 << 30, signed=True) == "+1.00 GiB"
    assert units.format_count(8_030_261_248) == "8.03B"
    assert units.format_count(567_754_752) == "567.8M"


@given(n=st.integers(0, 1 << 60), multiple=st.integers(1, 1 << 20))
def test_need_rounds_up(n: int, multiple: int) -> None:
    rounded = units.round_up(n, multiple)

    assert rounded % multiple == 0
    assert n <= rounded < n + multiple


@given(n=st.integers(0, 1 << 50), thousandths=st.integers(1, 1000))
def test_capacity_rounds_down(n: int, thousandths: int) -> None:
    part = units.part_of(n, Fraction(thousandths, 1000))

    assert part * 1000 <= n * thousandths < (part + 1) * 1000
