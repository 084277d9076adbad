"""The bill's own arithmetic."""

import pytest

from vramcalc.ledger import Basis, Component, Ledger, Line


def line(n_bytes: int, *, low: int = -1, high: int = -1, device: str = "gpu0", outside: bool = False) -> Line:
    return Line(
        component=Component.WEIGHTS,
        device=device,
        n_bytes=n_bytes,
        low_bytes=low,
        high_bytes=high,
        basis=Basis.DERIVED,
        why="a test",
        source="a test",
        formula="n",
        values={"n": n_bytes},
        outside_budget=outside,
    )


def test_an_exact_line_is_its_own_range() -> None:
    assert (line(7).low_bytes, line(7).high_bytes) == (7, 7)


@pytest.mark.parametrize(("low", "high"), [(8, 9), (0, 6)])
def test_a_range_must_hold_the_best_figure(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="does not hold"):
        line(7, low=low, high=high)


def test_sums_by_device_and_budget() -> None:
    ledger = Ledger.of([line(7, low=5, high=9), line(3, device="host"), line(2, outside=True), line(0)])

    assert len(ledger.lines) == 3  # a line of nothing is no line
    assert (ledger.n_bytes, ledger.low_bytes, ledger.high_bytes) == (12, 10, 14)
    assert ledger.on("gpu0").inside_budget().n_bytes == 7
    assert ledger.outside_budget().n_bytes == 2
    assert ledger.of_component(Component.STATE).n_bytes == 0
