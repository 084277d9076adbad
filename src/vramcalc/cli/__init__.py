"""The command line: flags in, one call to the use cases, one render, one exit code."""

import atexit
import gc
import sys

import typer

from vramcalc.cli.commands import LazyCommands

_GARBAGE_THRESHOLD = 100_000  # what imports make is kept: collecting it every 700 objects costs a start 4 %

app = typer.Typer(
    name="vramcalc",
    cls=LazyCommands,
    help="Will it run here? VRAM budgets of large language models, as the engines themselves account them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: it starts faster and pipes cleanly
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),  # noqa: FBT003
) -> None:
    if version:
        from importlib.metadata import version as installed  # noqa: PLC0415

        typer.echo(f"vramcalc {installed('vramcalc-cli')}")
        raise typer.Exit


def main() -> None:
    """Run the program."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    atexit.register(gc.freeze)  # what is left is not looked through once more on the way out: 6 % of a run
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a pipe in a C locale still gets an answer
    app()
