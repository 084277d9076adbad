"""``vramcalc inspect``: what is in a file, and whether it is what it claims."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from vramcalc.cli.output import OutputFormat, deliver, failures_told
from vramcalc.errors import ExitCode


class Least(StrEnum):
    """How grave a finding must be."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_Source = Annotated[
    str,
    Argument(
        help="A GGUF, .safetensors, config.json, folder, hf:org/name, ollama:name:tag, or https://....gguf.",
        show_default=False,
    ),
]


def inspect(
    source: _Source,
    expect: Annotated[str | None, Option(help="The model it should be: a registry id or alias.")] = None,
    fail_on: Annotated[Least | None, Option("--fail-on", help="Exit 3 where something so grave is found.")] = None,
    registry: Annotated[list[Path] | None, Option(help="Your own registry file or folder; repeatable.")] = None,
    as_json: Annotated[bool, Option("--json", help="As JSON.")] = False,
    output: Annotated[Path | None, Option(help="Write the answer to a file.")] = None,
) -> None:
    """Print what a file of weights holds, by role and type, and what is odd about it."""
    with failures_told(OutputFormat.JSON if as_json else OutputFormat.TABLE):
        from vramcalc import api  # noqa: PLC0415 - help must not pay for the use cases
        from vramcalc.renderers.inspection import render_inspection  # noqa: PLC0415

        report = api.inspect(source, expect, registry or ())
        deliver(render_inspection(report, as_json=as_json), output)
    grave = [least.value for least in Least]
    if fail_on is not None and any(grave.index(f.severity) >= grave.index(fail_on.value) for f in report.findings):
        raise typer.Exit(ExitCode.DOES_NOT_FIT)
