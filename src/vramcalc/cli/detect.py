"""``vramcalc detect``: this machine."""

from pathlib import Path
from typing import Annotated

from typer import Option

from vramcalc.cli.output import OutputFormat, deliver, failures_told


def detect(
    registry: Annotated[list[Path] | None, Option(help="Your own registry file or folder; repeatable.")] = None,
    as_json: Annotated[bool, Option("--json", help="As JSON.")] = False,
) -> None:
    """Print this machine's GPUs and memory, as `--gpu local --ram local` take them."""
    with failures_told(OutputFormat.JSON if as_json else OutputFormat.TABLE):
        from vramcalc.api.detecting import detect as detected  # noqa: PLC0415 - help must not pay for the use cases
        from vramcalc.renderers.detection import render_detection  # noqa: PLC0415

        deliver(render_detection(detected(registry or ()), as_json=as_json), None)
