"""Where answers and failures go: the answer alone on stdout, facts and advice on stderr."""

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import typer

from vramcalc.errors import AppError, UnavailableError


class OutputFormat(StrEnum):
    """How an answer is drawn."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    MARKDOWN = "markdown"
    HTML = "html"


@contextlib.contextmanager
def failures_told(output: OutputFormat) -> Iterator[None]:
    """Turn an expected failure into one line of fact, one of advice and its exit code."""
    try:
        yield
    except AppError as error:
        if output in (OutputFormat.JSON, OutputFormat.JSONL):
            from msgspec import json  # noqa: PLC0415 - start-up

            from vramcalc.reports.schema import ErrorFacts, ErrorReport  # noqa: PLC0415

            facts = ErrorFacts(type(error).__name__, str(error), error.hint, int(error.exit_code))
            typer.echo(json.encode(ErrorReport(facts)).decode())
        typer.echo(f"error: {error}", err=True)
        if error.hint:
            typer.echo(f"advice: {error.hint}", err=True)
        raise typer.Exit(error.exit_code) from error


def deliver(text: str, path: Path | None) -> None:
    """Print an answer, or write it whole to a file."""
    if path is None:
        typer.echo(text, nl=not text.endswith("\n"))
        return
    import tempfile  # noqa: PLC0415 - start-up

    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            file.write(text if text.endswith("\n") else text + "\n")
        Path(file.name).replace(path)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be written: {error.strerror}", "check the folder") from error
