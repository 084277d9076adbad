"""``vramcalc schema``: the JSON Schema of every answer."""

import json

import typer


def schema() -> None:
    """Print the JSON Schema of all answers in JSON."""
    from vramcalc.reports.json_schema import json_schema  # noqa: PLC0415 - start-up

    typer.echo(json.dumps(json_schema(), indent=2))
