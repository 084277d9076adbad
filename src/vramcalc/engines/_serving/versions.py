"""Rule sets by release: the newest one that is not newer than what was asked for."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from vramcalc.errors import RefusedError


class Dated(Protocol):
    """A set of rules and the release it starts with."""

    @property
    def version(self) -> str:
        """The release, e.g. "0.5.10"."""
        ...


_Rules = TypeVar("_Rules", bound=Dated)


def rules_for(engine: str, rule_sets: Sequence[_Rules], version: str | None) -> _Rules:
    """Return the newest of ``rule_sets``, which are in order, not newer than ``version``.

    Raises ``RefusedError`` before the first, and for what is no version.
    """
    if version is None:
        return rule_sets[-1]
    asked = _as_numbers(engine, version)
    earlier = [rules for rules in rule_sets if _as_numbers(engine, rules.version) <= asked]
    if not earlier:
        first = rule_sets[0].version
        raise RefusedError(f"no rules are known for {engine} {version}", f"the oldest known is {first}")
    return earlier[-1]


def _as_numbers(engine: str, version: str) -> tuple[int, ...]:
    """Return the leading numbers of a release: ``0.5.5.post3`` is 0.5.5."""
    numbers: list[int] = []
    for part in version.removeprefix("v").split("."):
        if not part.isdecimal() or len(part) > 9:  # noqa: PLR2004 - longer than any release
            break
        numbers.append(int(part))
    if len(numbers) < 2:  # noqa: PLR2004 - major and minor
        raise RefusedError(f"{version!r} is not a version of {engine}", f"write e.g. {engine.lower()}@1.0 or @0.5.10")
    return tuple(numbers[:3])
