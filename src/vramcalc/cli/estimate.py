"""``vramcalc estimate``: the main job."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from vramcalc.cli.options import RequestOptions, takes_request
from vramcalc.cli.output import OutputFormat, deliver, failures_told
from vramcalc.errors import ExitCode, UsageError


@takes_request
def estimate(
    asked: RequestOptions,
    output_format: Annotated[OutputFormat, Option("--format", "-f", help="How to draw it.")] = OutputFormat.TABLE,
    as_json: Annotated[bool, Option("--json", help="Short for -f json.")] = False,
    output: Annotated[Path | None, Option(help="Write the answer to a file.")] = None,
    plot: Annotated[bool, Option("--plot", help="Add a bar per device to the table.")] = False,
    check: Annotated[bool, Option("--check", help="Exit 3 unless every estimate fits.")] = False,
    allow_offload: Annotated[bool, Option("--allow-offload", help="With --check: layers in RAM are fine.")] = False,
) -> None:
    """Tell whether a model runs on your GPUs, what takes the memory, and what would help."""
    chosen = OutputFormat.JSON if as_json else output_format
    with failures_told(chosen):
        from vramcalc.api import answer  # noqa: PLC0415 - help must not pay for the use cases
        from vramcalc.renderers import render_estimates  # noqa: PLC0415

        if plot and chosen not in (OutputFormat.TABLE, OutputFormat.HTML):
            raise UsageError(f"--plot adds bars to a table, not to {chosen.value}", "leave it out, or -f html")
        report = answer(asked.request())
        deliver(render_estimates(report, chosen.value, plot=plot, to_file=output is not None), output)
    accepted = {"fits", "tight"} | ({"offloads"} if allow_offload else set())
    if check and any(e.verdict not in accepted for e in report.estimates):
        raise typer.Exit(ExitCode.DOES_NOT_FIT)
