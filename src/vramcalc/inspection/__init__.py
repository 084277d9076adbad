"""What a file holds against what it claims to be; pure."""

from collections.abc import Iterator

from msgspec import Struct

from vramcalc.formulas.stored import Match
from vramcalc.inspection.container import container_findings
from vramcalc.inspection.finding import Finding, Severity
from vramcalc.inspection.shapes import shape_findings
from vramcalc.inspection.types import checkpoint_findings, type_findings
from vramcalc.specs.file import ModelFile
from vramcalc.specs.model import ModelSpec

__all__ = ["Evidence", "Finding", "Severity", "find_all"]

_ORDER: tuple[Severity, ...] = ("error", "warning", "info")


class Evidence(Struct, frozen=True, kw_only=True):
    """What was read, and what it is held against.

    ``problem`` says why there is no model; ``claimed`` is the registry's model of the name the file gives itself, and
    ``expected`` the one that was asked for.
    """

    file: ModelFile | None
    model: ModelSpec | None
    match: Match | None = None
    problem: tuple[str, str] | None = None
    claimed: ModelSpec | None = None
    expected: ModelSpec | None = None


def find_all(evidence: Evidence) -> tuple[Finding, ...]:
    """Return everything worth telling, what matters most first."""
    return tuple(sorted(_findings(evidence), key=lambda finding: _ORDER.index(finding.severity)))


def _findings(evidence: Evidence) -> Iterator[Finding]:
    file, model = evidence.file, evidence.model
    if file is not None:
        yield from container_findings(file, evidence.problem)
    if model is None:
        return
    yield from shape_findings(file, model, evidence.match, evidence.claimed, evidence.expected)
    if file is None:
        return
    yield from type_findings(model) if file.container == "gguf" else checkpoint_findings(file, model)
