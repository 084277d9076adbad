"""The JSON Schema of everything the program answers in JSON, made from the report classes."""

from typing import Any

from msgspec import json

from vramcalc.reports.accuracy import ValidationReport
from vramcalc.reports.catalogue import Catalogue
from vramcalc.reports.detection import Detection
from vramcalc.reports.explanation import TextbookReport
from vramcalc.reports.inspection import InspectionReport
from vramcalc.reports.matrix import MatrixReport
from vramcalc.reports.plan import PlanReport
from vramcalc.reports.schema import ErrorReport, Report
from vramcalc.reports.solution import SolveReport
from vramcalc.reports.stack import StackReport
from vramcalc.reports.watching import WatchReport
from vramcalc.reports.weights import WeightsReport

_ANSWERS = (
    Report,
    SolveReport,
    MatrixReport,
    PlanReport,
    StackReport,
    Catalogue,
    TextbookReport,
    WeightsReport,
    ValidationReport,
    InspectionReport,
    Detection,
    WatchReport,
    ErrorReport,
)


def json_schema() -> dict[str, Any]:
    """Return one schema: any answer validates against it, each by its own definition under ``$defs``."""
    answers, definitions = json.schema_components(_ANSWERS, ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vramcalc: what a command answers as JSON",
        "anyOf": list(answers),
        "$defs": definitions,
    }
