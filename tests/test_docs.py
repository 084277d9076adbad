"""The pages of docs/ show what the program prints."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vramcalc.cli import app

DOCS = Path(__file__).parents[1] / "docs"
_EXAMPLE = re.compile(r"```sh\nvramcalc ([^\n]*)\n```\n\n```text\n(.*?)```", re.DOTALL)
EXAMPLES = [(page.name, *found) for page in sorted(DOCS.glob("*.md")) for found in _EXAMPLE.findall(page.read_text())]


@pytest.mark.parametrize(("page", "command", "shown"), EXAMPLES, ids=[f"{e[0]}: {e[1]}" for e in EXAMPLES])
def test_examples_print_what_the_page_shows(page: str, command: str, shown: str) -> None:
    del page
    result = CliRunner().invoke(app, command.split(), env={"COLUMNS": "100", "NO_COLOR": "1"})

    assert [line.rstrip() for line in result.stdout.splitlines()] == shown.splitlines()


def test_there_are_examples() -> None:
    assert EXAMPLES
