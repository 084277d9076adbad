"""``vramcalc compare``: many combinations side by side."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from vramcalc.cli.options import RequestOptions, takes_requests
from vramcalc.cli.output import OutputFormat, deliver, failures_told
from vramcalc.errors import ExitCode

if TYPE_CHECKING:
    from vramcalc.reports.matrix import CellReport


class Shown(StrEnum):
    """Verdicts to keep."""

    FITS = "fits"
    TIGHT = "tight"
    OFFLOADS = "offloads"
    STREAMS = "streams_from_disk"
    DOES_NOT_FIT = "does_not_fit"
    UNSUPPORTED = "unsupported"


class Sort(StrEnum):
    """What to sort by."""

    HEADROOM = "headroom"
    SPEED = "speed"
    NEED = "need"
    QUALITY = "quality"
    CONTEXT = "context"
    PARAMETERS = "parameters"
    MODEL = "model"
    GPU = "gpu"


@takes_requests
def compare(
    asked: list[RequestOptions],
    only: Annotated[list[Shown] | None, Option("--only", help="Keep these verdicts alone; repeatable.")] = None,
    sort: Annotated[list[Sort] | None, Option("--sort", help="Best first; repeatable, the first counts most.")] = None,
    most: Annotated[int | None, Option("--most", min=1, help="Keep so many.")] = None,
    output_format: Annotated[OutputFormat, Option("--format", "-f", help="How to draw it.")] = OutputFormat.TABLE,
    as_json: Annotated[bool, Option("--json", help="Short for -f json.")] = False,
    output: Annotated[Path | None, Option(help="Write the answer to a file.")] = None,
    check: Annotated[bool, Option("--check", help="Exit 3 unless every combination shown fits.")] = False,
    allow_offload: Annotated[bool, Option("--allow-offload", help="With --check: layers in RAM are fine.")] = False,
) -> None:
    """Set models, GPUs, engines, formats and contexts side by side."""
    chosen, verdicts = OutputFormat.JSON if as_json else output_format, set[str]()
    with failures_told(chosen):
        from itertools import islice  # noqa: PLC0415 - help must not pay for the use cases

        from vramcalc.api.comparing import compare_cells, sort_cells  # noqa: PLC0415
        from vramcalc.renderers.matrix import lines, render_matrix  # noqa: PLC0415
        from vramcalc.reports.matrix import MatrixReport  # noqa: PLC0415

        found = compare_cells((each.request() for each in asked), [verdict.value for verdict in only or ()])
        cells = islice(sort_cells(found, [s.value for s in sort]) if sort else found, most)
        if chosen in (OutputFormat.JSONL, OutputFormat.CSV) and output is None:
            for line in lines(_counted(cells, verdicts), chosen.value):
                typer.echo(line, nl=False)
        else:
            report = MatrixReport(1, tuple(_counted(cells, verdicts)))
            deliver(render_matrix(report, chosen.value, as_list=bool(sort), to_file=output is not None), output)
    accepted = {"fits", "tight"} | ({"offloads"} if allow_offload else set())
    if check and verdicts - accepted:
        raise typer.Exit(ExitCode.DOES_NOT_FIT)


def _counted(cells: Iterable["CellReport"], verdicts: set[str]) -> Iterator["CellReport"]:
    for cell in cells:
        verdicts.add(cell.verdict)
        yield cell
