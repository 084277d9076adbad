"""``vramcalc solve``: the one unknown that still fits."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from vramcalc.cli.commands import SectionedCommand
from vramcalc.cli.options import RequestOptions, takes_request
from vramcalc.cli.output import OutputFormat, deliver, failures_told
from vramcalc.errors import ExitCode

_Format = Annotated[OutputFormat, Option("--format", "-f", help="How to draw it.")]
_Json = Annotated[bool, Option("--json", help="Short for -f json.")]
_Output = Annotated[Path | None, Option(help="Write the answer to a file.")]
_Check = Annotated[bool, Option("--check", help="Exit 3 unless every question has an answer.")]


class Vendor(StrEnum):
    """Makers of cards in the catalogue."""

    NVIDIA = "nvidia"
    AMD = "amd"
    INTEL = "intel"
    APPLE = "apple"


solve = typer.Typer(
    help="Find the one unknown that still fits, and what stops it there.", add_completion=False, rich_markup_mode=None
)


@solve.command("context", cls=SectionedCommand)
@takes_request
def context(
    asked: RequestOptions,
    output_format: _Format = OutputFormat.TABLE,
    as_json: _Json = False,
    output: _Output = None,
    check: _Check = False,
) -> None:
    """Find the longest context, up to the trained one."""
    _answer("context", asked, OutputFormat.JSON if as_json else output_format, output, check=check)


@solve.command("sequences", cls=SectionedCommand)
@takes_request
def sequences(
    asked: RequestOptions,
    output_format: _Format = OutputFormat.TABLE,
    as_json: _Json = False,
    output: _Output = None,
    check: _Check = False,
) -> None:
    """Find how many sequences fit at once, each at full context."""
    _answer("sequences", asked, OutputFormat.JSON if as_json else output_format, output, check=check)


@solve.command("quant", cls=SectionedCommand)
@takes_request
def quant(
    asked: RequestOptions,
    output_format: _Format = OutputFormat.TABLE,
    as_json: _Json = False,
    output: _Output = None,
    check: _Check = False,
) -> None:
    """Find the weight format that loses least."""
    _answer("quant", asked, OutputFormat.JSON if as_json else output_format, output, check=check)


@solve.command("gpu", cls=SectionedCommand)
@takes_request
def gpu(
    asked: RequestOptions,
    vendor: Annotated[Vendor | None, Option(help="Only cards of this maker, where none is named.")] = None,
    since: Annotated[int | None, Option(help="Only cards released in this year or later.")] = None,
    max_gpus: Annotated[int, Option(min=1, max=1024, help="Most GPUs of one machine.")] = 8,
    output_format: _Format = OutputFormat.TABLE,
    as_json: _Json = False,
    output: _Output = None,
    check: _Check = False,
) -> None:
    """Find the smallest card, or with --gpu the least number of it (with --nodes: of nodes)."""
    chosen = OutputFormat.JSON if as_json else output_format
    filters = {"vendor": vendor.value if vendor else None, "since": since, "max_gpus": max_gpus}
    _answer("gpu", asked, chosen, output, check=check, filters=filters)


def _answer(
    unknown: str,
    asked: RequestOptions,
    chosen: OutputFormat,
    output: Path | None,
    *,
    check: bool,
    filters: dict[str, str | int | None] | None = None,
) -> None:
    with failures_told(chosen):
        from vramcalc.api.solving import Catalogue, answer_unknown  # noqa: PLC0415 - help must not pay for it
        from vramcalc.renderers.solution import render_solution  # noqa: PLC0415

        catalogue = Catalogue(**filters) if filters else None  # type: ignore[arg-type]  # the options' own types
        report = answer_unknown(unknown, asked.request(), catalogue)
        deliver(render_solution(report, chosen.value, to_file=output is not None), output)
    if check and any(answer.answer is None for answer in report.answers):
        raise typer.Exit(ExitCode.DOES_NOT_FIT)
