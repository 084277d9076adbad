"""Use cases of ``inspect``: what a file holds, and whether it is what it claims."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from vramcalc.errors import UnknownNameError
from vramcalc.inspection import Evidence
from vramcalc.reports.inspection import InspectionReport, inspection_report
from vramcalc.sources.locate import read_source
from vramcalc.sources.model_source import ModelSource
from vramcalc.sources.registry import Registry, model_registry
from vramcalc.specs.model import ModelSpec


def inspect_source(source: str, expected: str | None = None, registries: Sequence[Path] = ()) -> InspectionReport:
    """Return the report of ``api.inspect``."""
    models = model_registry(registries)
    other = None if expected is None else models.resolve(expected)
    found = read_source(source)
    evidence = Evidence(
        file=found.file,
        model=found.spec,
        match=found.match,
        problem=None if found.problem is None else (str(found.problem), found.problem.hint),
        claimed=None if found.spec is None else _claimed(found, models),
        expected=other,
    )
    return inspection_report(evidence)


def _claimed(found: ModelSource, models: Registry[ModelSpec]) -> ModelSpec | None:
    """Return the registry's model of the name a file gives itself, None where it gives none that is known."""
    for name in found.names():
        with contextlib.suppress(UnknownNameError):
            return models.resolve(name)
    return None
