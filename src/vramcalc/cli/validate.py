"""``vramcalc validate``: our error against measured runs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from vramcalc.cli.output import OutputFormat, deliver, failures_told
from vramcalc.errors import ExitCode, UsageError


class AccuracyFormat(StrEnum):
    """How the errors are drawn."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


def validate(
    engine: Annotated[str | None, Option("--engine", "-e", help="One engine; default: all.")] = None,
    runs: Annotated[Path | None, Option(help="A folder of measured runs of your own, CSV as in data/measured.")] = None,
    misses: Annotated[bool, Option("--misses", help="List the figures that are far off.")] = False,
    as_json: Annotated[bool, Option("--json", help="Short for -f json.")] = False,
    drawn: Annotated[AccuracyFormat, Option("--format", "-f")] = AccuracyFormat.TABLE,
    update: Annotated[bool, Option("--update", help="Keep this accuracy as the table to beat; in a checkout.")] = False,
    output: Annotated[Path | None, Option(help="Write the answer to a file.")] = None,
) -> None:
    """Print our error per engine and figure against measured runs; exit 3 where it grew."""
    drawn = AccuracyFormat.JSON if as_json else drawn
    with failures_told(OutputFormat(drawn.value)):
        from vramcalc import api  # noqa: PLC0415 - help must not pay for the use cases
        from vramcalc.renderers.accuracy import render_validation  # noqa: PLC0415

        if update and engine is not None:
            raise UsageError("--update keeps the table of all engines", "leave --engine out")
        report = api.validate(engine, runs)
        if update:
            path, text = api.accuracy_file(report, runs)
            deliver(text, path)
            report = api.validate(engine, runs)
        deliver(render_validation(report, drawn.value, with_misses=misses), output)
    if report.regressions:
        raise typer.Exit(ExitCode.DOES_NOT_FIT)
