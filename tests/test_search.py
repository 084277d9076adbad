"""The one search behind every inverse question."""

from hypothesis import given
from hypothesis import strategies as st

from vramcalc.solvers.search import largest_that_fits


@given(
    upper=st.integers(0, 1 << 20),
    slope=st.integers(0, 1 << 20),
    step=st.integers(1, 4096),
    budget=st.integers(-5, 1 << 40),
    edge=st.none() | st.integers(0, 1 << 20),
)
def test_it_stops_at_the_edge(upper: int, slope: int, step: int, budget: int, edge: int | None) -> None:
    calls = 0

    def room(n: int) -> int | None:
        nonlocal calls
        calls += 1
        return None if edge is not None and n > edge else budget - slope * (n // step * step)

    def fits(n: int) -> bool:
        left = room(n)
        return left is not None and left >= 0

    best = largest_that_fits(room, upper=upper)
    assert calls <= 3 * 20 + 4

    assert best == 0 or fits(best)
    assert best == upper or not fits(best + 1)


def test_a_straight_line_takes_few_calls() -> None:
    tried: list[int] = []

    def room(n: int) -> int:
        tried.append(n)
        return 7_000_000 - 131 * n

    assert largest_that_fits(room, upper=131_072) == 53_435
    assert len(tried) <= 5
