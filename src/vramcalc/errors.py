"""Expected failures: one line of fact, one of advice, one exit code. Anything else keeps its traceback."""

import difflib
from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the process tells the shell."""

    OK = 0
    INTERNAL = 1  # Python's own, for an uncaught exception
    USAGE = 2  # the argument parser's own, and every combination refused
    DOES_NOT_FIT = 3  # a verdict, not a failure: with --check, or `validate` worse than the table kept
    BAD_INPUT = 4
    UNAVAILABLE = 5


class AppError(Exception):
    """An expected failure; ``str(error)`` is the fact and ``hint`` the advice."""

    exit_code: ClassVar[ExitCode] = ExitCode.BAD_INPUT

    def __init__(self, fact: str, hint: str = "") -> None:
        super().__init__(fact)
        self.hint = hint


class UsageError(AppError):
    """The request itself makes no sense."""

    exit_code = ExitCode.USAGE


class UnknownNameError(UsageError):
    """No registry entry goes by that name; ``known`` supplies the near names."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, see: str = "") -> None:
        near = difflib.get_close_matches(name.lower(), list(known), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else see
        super().__init__(f"no {kind} is called {name!r}", hint)


class DoesNotFitError(AppError):
    """What was asked for would not start."""

    exit_code = ExitCode.DOES_NOT_FIT


class BadInputError(AppError):
    """A file or a spec that cannot be what it says."""


class UnavailableError(AppError):
    """A source that could not be reached: a driver, a hub, a disk."""

    exit_code = ExitCode.UNAVAILABLE


class MissingError(UnavailableError):
    """What was asked for is not there, which a timeout or a refusal does not tell."""


class RefusedError(UsageError):
    """Engine, card and setting do not go together; the estimate becomes ``unsupported``."""
