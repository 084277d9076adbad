"""Waiting for what comes over a network: never longer than stated, and shown to whoever sits at a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from msgspec import Struct

from vramcalc.errors import UnavailableError
from vramcalc.units import format_bytes

_T = TypeVar("_T")
_SHOWN_AFTER_S = 1.0
_REDRAWN_S = 0.1


class Patience(Struct, frozen=True):
    """How long a source may be silent (a connection, or between two pieces of an answer), and take as a whole."""

    silence_s: float = 10.0
    whole_s: float = 120.0


class _Failure(Struct, frozen=True):
    error: BaseException


class Waiting:
    """One wait for one source. ``n_bytes`` is what came so far, for the bar; ``over`` says nobody waits any more."""

    def __init__(self, name: str, patience: Patience) -> None:
        """Start the clock; ``name`` is what errors and the bar call the source."""
        self.name = name
        self.patience = patience
        self.n_bytes = 0
        self.over = False
        self._is_shown = False
        self._began = time.monotonic()

    def run(self, work: Callable[[], _T]) -> _T:
        """Return what ``work`` returns. Raises what it raises, or ``UnavailableError`` when the time is over.

        The work goes on in a thread of its own: looking up a name or shaking hands obeys no timeout of a socket.
        """
        done: SimpleQueue[_T | _Failure] = SimpleQueue()

        def working() -> None:
            try:
                done.put(work())
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                done.put(_Failure(error))

        Thread(target=working, daemon=True).start()
        with self._shown() as redraw:
            while True:
                left = self._began + self.patience.whole_s - time.monotonic()
                try:
                    outcome = done.get(timeout=max(0.0, min(left, _REDRAWN_S)))
                except Empty:
                    if left <= 0:
                        self.over = True
                        raise UnavailableError(
                            f"{self.name} was not read within {self.patience.whole_s:g} s",
                            "try again, or download the file and name its path",
                        ) from None
                    redraw()
                else:
                    if isinstance(outcome, _Failure):
                        raise outcome.error
                    return outcome

    @contextmanager
    def _shown(self) -> Iterator[Callable[[], None]]:
        """Give a function that draws what came so far, once the wait is long and stderr is a terminal."""
        if self._is_shown or not sys.stderr.isatty():  # shown already: several requests of one wait
            yield lambda: None
            return
        self._is_shown = True
        from rich.console import Console  # noqa: PLC0415 - only who waits at a terminal pays for it

        status = Console(stderr=True).status("")

        def redraw() -> None:
            if time.monotonic() - self._began > _SHOWN_AFTER_S:
                status.update(f"reading {self.name}: {format_bytes(self.n_bytes)}")
                status.start()

        try:
            yield redraw
        finally:
            self._is_shown = False
            status.stop()
