"""The largest value that still fits."""

from collections.abc import Callable


def largest_that_fits(room: Callable[[int], int | None], *, upper: int) -> int:
    """Return the largest n in 1..upper with ``room(n) >= 0``, or 0 where not even 1 fits.

    ``room`` is what is left with n; None where n is refused. It must not turn non-negative again once it is below.
    Need grows nearly in a straight line, so false position finds the edge in a few calls; every third step halves, so
    that a curve costs no more than about 3 log2(upper).

    >>> largest_that_fits(lambda n: 50 - n * n, upper=100)
    7
    """
    if upper < 1:
        return 0
    high, high_room = upper, room(upper)
    if high_room is not None and high_room >= 0:
        return upper
    low, low_room = 1, room(1)
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
