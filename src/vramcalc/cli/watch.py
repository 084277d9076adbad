"""``vramcalc watch``: memory in use over time, and whether it leaks."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from vramcalc.cli.output import OutputFormat, deliver, failures_told
from vramcalc.errors import ExitCode, UnavailableError, UsageError

if TYPE_CHECKING:
    from vramcalc.reports.schema import EstimateReport
    from vramcalc.reports.watching import WatchReport

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def watch(
    log: Annotated[Path | None, Option("--from", help="A log of nvidia-smi in CSV, or - for stdin.")] = None,
    interval: Annotated[str, Option(help="Between two looks: 5s.")] = "5s",
    duration: Annotated[str, Option(help="How long to look: 90s, 60m, 8h; Ctrl-C ends it early.")] = "60m",
    model: Annotated[str | None, Option("--model", "-m", help="What runs, to hold its need against the peak.")] = None,
    gpu: Annotated[str, Option("--gpu", "-g", help="What it runs on.")] = "local",
    engine: Annotated[str, Option("--engine", "-e", help="What runs it.")] = "ollama",
    context: Annotated[str | None, Option("--context", "-c", help="Tokens of one sequence: 8192, 8k.")] = None,
    check: Annotated[bool, Option("--check", help="Exit 3 where memory grows.")] = False,
    as_json: Annotated[bool, Option("--json", help="As JSON.")] = False,
) -> None:
    """Tell whether memory in use grows over time, on this machine or in a log."""
    with failures_told(OutputFormat.JSON if as_json else OutputFormat.TABLE):
        if model is None and context is not None:
            raise UsageError("--context is of a model that runs, and none is named", "add --model, or leave it out")
        every, whole = _seconds("--interval", interval), _seconds("--duration", duration)
        from vramcalc.renderers.watching import render_watch  # noqa: PLC0415 - help must not pay for the use cases

        expected = None
        if model is not None:
            from vramcalc import api  # noqa: PLC0415

            expected = api.estimate(model, gpu, engines=[engine], context=context).estimates[0]
        report = _watched(log, every, whole, expected)
        deliver(render_watch(report, as_json=as_json), None)
    if check and report.leaks:
        raise typer.Exit(ExitCode.DOES_NOT_FIT)


def _watched(log: Path | None, every: float, whole: float, expected: "EstimateReport | None") -> "WatchReport":
    from vramcalc.api.watching import watch_log, watch_machine  # noqa: PLC0415

    if log is None:
        return watch_machine(interval_s=every, duration_s=whole, expected=expected)
    if str(log) == "-":
        return watch_log(sys.stdin, "stdin", expected)
    try:
        with log.open(encoding="utf-8", errors="replace") as lines:
            return watch_log(lines, str(log), expected)
    except OSError as error:
        raise UnavailableError(f"{log} cannot be read: {error.strerror}", "check the path") from error


def _seconds(option: str, text: str) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([smh]?)", text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if seconds <= 0:
        raise UsageError(f"{option} is {text!r}, no time", "write e.g. 5s, 60m or 8h")
    return seconds
