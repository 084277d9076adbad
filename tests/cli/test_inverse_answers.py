"""Answers in JSON of the commands that search: each validates against the published schema."""

import json

import jsonschema
import pytest
from typer.testing import CliRunner

from vramcalc.cli import app

_CHAT = "name=chat,model=qwen3-8b,engine=ollama,context=8k"


@pytest.mark.parametrize(
    "arguments",
    [
        ("solve", "context", "-m", "qwen3-8b", "-g", "rtx3060"),
        ("solve", "quant", "-m", "qwen3-14b", "-g", "rtx3060", "-e", "vllm", "-c", "4k"),
        ("solve", "gpu", "-m", "qwen3-8b", "-g", "rtx3060", "-e", "ollama", "-c", "8k", "-q", "bf16"),
        ("compare", "-m", "qwen3-8b", "-g", "rtx3060", "-g", "m1-max-64gb", "-c", "4k"),
        ("plan", "-m", "qwen3-14b", "-g", "rtx3060", "-e", "vllm", "-c", "4k"),
        ("stack", "-g", "rtx3060", "--service", _CHAT),
    ],
)
def test_json_validates(arguments: tuple[str, ...]) -> None:
    schema = json.loads(CliRunner().invoke(app, ["schema"]).stdout)
    result = CliRunner().invoke(app, [*arguments, "--json"])

    assert result.exit_code == 0, result.output
    jsonschema.validate(json.loads(result.stdout), schema)


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize(
    "arguments",
    [
        ("solve", "context", "-m", "qwen3-8b", "-g", "rtx3060"),
        ("solve", "gpu", "-m", "llama-3.3-70b", "-g", "rtx4090", "-e", "vllm", "-q", "awq-4bit", "-c", "4k"),
        ("solve", "sequences", "-m", "qwen3-8b", "-g", "rtx4090", "-c", "4k", "-e", "llama.cpp"),
    ],
)
def test_the_page_fits_the_terminal(arguments: tuple[str, ...], columns: int) -> None:
    found = CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns), "NO_COLOR": "1"})

    assert found.exit_code == 0
    assert all(len(line) <= columns for line in found.stdout.splitlines()), found.stdout
