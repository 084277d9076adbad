"""The largest value that still fits."""

from collections.abc import Callable


def largest_that_fits(
    room: Callable[[int], int | None], *, upper: int, known: tuple[int, int | None] | None = None
) -> int:
    """Return the largest n in 1..upper with ``room(n) >= 0``, or 0 where not even 1 fits.

    ``room`` is what is left with n; None where n is refused. It must not turn non-negative again once it is below.
    ``known`` is one n whose room was found before; a room of None counts as not known. Need grows nearly in a straight
    line, so false position finds the edge in a few calls; every third step halves, so that a curve costs no more than
    about 3 log2(upper).

    >>> largest_that_fits(lambda n: 50 - n * n, upper=100)
    7
    """
    if upper < 1:
        return 0
    at, at_room = known if known is not None and 1 <= known[0] <= upper else (0, None)
    fits = at_room is not None and at_room >= 0
    high, high_room = (upper, room(upper)) if at_room is None or (fits and at < upper) else (at, at_room)
    if high_room is not None and high_room >= 0:
        return high
    low, low_room = (at, at_room) if fits else (1, room(1) if high > 1 else None)
    if low_room is None or low_room < 0:
        return 0
    guesses = 0
    while high - low > 1:
        middle = (low + high) // 2
        if high_room is not None and guesses % 3 < 2:  # noqa: PLR2004 - the guess and its neighbour above, then halve
            guess = low + (high - low) * low_room // (low_room - high_room)
            middle = min(max(guess + guesses % 3, low + 1), high - 1)
        guesses += 1
        middle_room = room(middle)
        if middle_room is not None and middle_room >= 0:
            low, low_room = middle, middle_room
        else:
            high, high_room = middle, middle_room
    return low


def largest_of_islands(room: Callable[[int], int | None], *, upper: int) -> int:
    """Return the largest n in 1..upper with room, though room may come and go: an engine's defaults follow its load.

    Powers of two and the halves between them are asked from above; the search goes on beyond the first that fits.
    """
    marks = sorted({upper, *(n for k in range(upper.bit_length()) for n in (1 << k, 3 << k) if n < upper)})
    for index in reversed(range(len(marks))):
        found = room(marks[index])
        if found is not None and found >= 0:
            above = marks[index + 1] if index + 1 < len(marks) else upper
            return largest_that_fits(room, upper=above, known=(marks[index], found))
    return 0


def edge_near(holds: Callable[[int], bool], start: int, *, upper: int) -> int:
    """Return an n that holds while n + 1 does not, or ``upper``, in strides from ``start``; 0 where none below holds.

    >>> edge_near(lambda n: n <= 41, 7, upper=100), edge_near(lambda n: n <= 41, 80, upper=100)
    (41, 41)
    """
    low, high = 0, upper + 1
    at, stride = min(max(start, 1), upper), 1
    while low < at < high:
        if holds(at):
            low, at = at, min(at + stride, high - 1)
        else:
            high, at = at, max(at - stride, low + 1)
        stride *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
