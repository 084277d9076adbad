"""``vramcalc models`` and ``vramcalc gpus``: list, search, show, add."""

import json
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from vramcalc.cli.commands import SUMMARIES
from vramcalc.cli.output import OutputFormat, deliver, failures_told

_Json = Annotated[bool, Option("--json", help="As JSON.")]
_Registries = Annotated[list[Path] | None, Option("--registry", help="Your own registry file or folder; repeatable.")]
_Name = Annotated[str, Argument(help="Id or alias.", show_default=False)]
_Text = Annotated[str, Argument(help="Part of a name.", show_default=False)]


def catalogue_app(kind: str, title: str) -> typer.Typer:
    """Return the commands of one registry; ``kind`` is ``models`` or ``gpus``."""
    app = typer.Typer(help=SUMMARIES[kind], add_completion=False, rich_markup_mode=None)

    @app.callback(invoke_without_command=True)
    def _all(context: typer.Context, as_json: _Json = False) -> None:
        if context.invoked_subcommand is None:
            _list(kind, "", None, as_json=as_json)

    @app.command("list", help=f"List all {title}.")
    def _listed(registry: _Registries = None, as_json: _Json = False) -> None:
        _list(kind, "", registry, as_json=as_json)

    @app.command("search", help=f"List the {title} whose names hold TEXT.")
    def _found(text: _Text, registry: _Registries = None, as_json: _Json = False) -> None:
        _list(kind, text, registry, as_json=as_json)

    @app.command("show", help="Print one entry, ready to copy into a registry of your own.")
    def _shown(name: _Name, registry: _Registries = None, as_json: _Json = False) -> None:
        with failures_told(_format(as_json=as_json)):
            from vramcalc.api import show_entry  # noqa: PLC0415 - start-up
            from vramcalc.renderers.catalogue import render_entry  # noqa: PLC0415

            deliver(render_entry(show_entry(kind, name, registry or ()), as_json=as_json), None)

    if kind == "models":
        app.command("add", help="Write a model's spec into your own registry.")(_add)
    return app


def _add(
    source: Annotated[
        str, Argument(help="A file or folder, hf:org/name, ollama:name:tag, or https://....gguf.", show_default=False)
    ],
    entry_id: Annotated[str | None, Option("--id", help="What it is to be called; default: its own name.")] = None,
    force: Annotated[bool, Option("--force", help="Replace an entry of that name.")] = False,
    as_json: _Json = False,
) -> None:
    with failures_told(_format(as_json=as_json)):
        from vramcalc.api import add_entry  # noqa: PLC0415 - start-up

        name, path = add_entry(source, entry_id, force=force)
        said = json.dumps({"id": name, "registry": str(path)}) if as_json else f"{name} is now in {path}"
        deliver(said, None)


def _list(kind: str, text: str, registry: list[Path] | None, *, as_json: bool) -> None:
    with failures_told(_format(as_json=as_json)):
        from vramcalc.api import list_catalogue  # noqa: PLC0415 - start-up
        from vramcalc.renderers.catalogue import render_catalogue  # noqa: PLC0415

        deliver(render_catalogue(list_catalogue(kind, text, registry or ()), as_json=as_json), None)


def _format(*, as_json: bool) -> OutputFormat:
    return OutputFormat.JSON if as_json else OutputFormat.TABLE


models = catalogue_app("models", "models")
gpus = catalogue_app("gpus", "GPUs")
