"""``vramcalc stack``: several services on one machine."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from vramcalc.cli.output import OutputFormat, deliver, failures_told
from vramcalc.errors import ExitCode


def stack(
    file: Annotated[Path | None, Argument(help="A stack file: machine, services, rag.", show_default=False)] = None,
    service: Annotated[
        list[str] | None, Option("--service", help="name=chat,model=qwen3-8b,engine=vllm,gpus=0+1; repeatable.")
    ] = None,
    gpu: Annotated[str | None, Option("--gpu", "-g", help="With --service: the machine's cards.")] = None,
    ram: Annotated[str | None, Option(help="With --service: host memory, e.g. 64GB.")] = None,
    registry: Annotated[list[Path] | None, Option(help="Your own registry file or folder; repeatable.")] = None,
    output_format: Annotated[OutputFormat, Option("--format", "-f", help="How to draw it.")] = OutputFormat.TABLE,
    as_json: Annotated[bool, Option("--json", help="Short for -f json.")] = False,
    output: Annotated[Path | None, Option(help="Write the answer to a file.")] = None,
    check: Annotated[bool, Option("--check", help="Exit 3 unless all run together.")] = False,
) -> None:
    """Tell whether several services run together on one machine, and what a RAG prompt may hold."""
    chosen = OutputFormat.JSON if as_json else output_format
    with failures_told(chosen):
        from vramcalc.api.stacking import answer_stack  # noqa: PLC0415 - help must not pay for the use cases
        from vramcalc.renderers.stack import render_stack  # noqa: PLC0415

        report = answer_stack(file, gpu=gpu, ram=ram, services=service or (), registries=registry or ())
        deliver(render_stack(report, chosen.value, to_file=output is not None), output)
    if check and not report.fits:
        raise typer.Exit(ExitCode.DOES_NOT_FIT)
