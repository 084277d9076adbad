"""``vramcalc plan``: how to make it fit."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from vramcalc.cli.options import RequestOptions, takes_request
from vramcalc.cli.output import OutputFormat, deliver, failures_told
from vramcalc.errors import ExitCode


@takes_request
def plan(
    asked: RequestOptions,
    output_format: Annotated[OutputFormat, Option("--format", "-f", help="How to draw it.")] = OutputFormat.TABLE,
    as_json: Annotated[bool, Option("--json", help="Short for -f json.")] = False,
    output: Annotated[Path | None, Option(help="Write the answer to a file.")] = None,
    check: Annotated[bool, Option("--check", help="Exit 3 unless everything fits as it is.")] = False,
) -> None:
    """List the ways to make it fit, cheapest first, and tell whether Ollama or vLLM suits the machine."""
    chosen = OutputFormat.JSON if as_json else output_format
    with failures_told(chosen):
        from vramcalc.api.planning import answer_plan  # noqa: PLC0415 - help must not pay for the use cases
        from vramcalc.renderers.plan import render_plan  # noqa: PLC0415

        report = answer_plan(asked.request())
        deliver(render_plan(report, chosen.value, to_file=output is not None), output)
    if check and not all(ladder.fits for ladder in report.plans):
        raise typer.Exit(ExitCode.DOES_NOT_FIT)
