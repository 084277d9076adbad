"""The one search behind every inverse question."""

from hypothesis import given
from hypothesis import strategies as st

from vramcalc.solvers.search import edge_near, largest_of_islands, largest_that_fits


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


@given(upper=st.integers(1, 10_000), edge=st.integers(0, 12_000), at=st.integers(0, 12_000))
def test_a_known_room_spares_a_walk_and_changes_nothing(upper: int, edge: int, at: int) -> None:
    def room(n: int) -> int:
        return edge - n

    assert largest_that_fits(room, upper=upper, known=(at, room(at))) == min(edge, upper)


@given(upper=st.integers(1, 4096), edge=st.integers(0, 5000), start=st.integers(0, 5000))
def test_strides_find_the_edge_from_anywhere(upper: int, edge: int, start: int) -> None:
    assert edge_near(lambda n: n <= edge, start, upper=upper) == min(edge, upper)


def test_room_that_comes_back_is_found() -> None:
    def room(n: int) -> int:  # an engine that takes a smaller step beyond 1000, and so fits again up to 1500
        return (700 if n <= 1000 else 1500) - n

    assert largest_of_islands(room, upper=2048) == 1500
    assert largest_of_islands(lambda n: -n, upper=2048) == 0
