"""``vramcalc schema``: the JSON Schema of every answer."""

import json

import typer


def schema() -> None:
    """Print the JSON Schema of the answers of `estimate`."""
    from vramcalc.reports.schema import json_schema  # noqa: PLC0415 - start-up

    typer.echo(json.dumps(json_schema(), indent=2))
