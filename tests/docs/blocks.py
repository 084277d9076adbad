"""The ``console`` blocks of the documents: commands behind ``$`` and what they print, run again and compared.

Files that a command names and ``tests.docs.files`` knows are written for it.

To write what the program prints now into the documents: ``python -m tests.docs.blocks docs/*.md``.
"""

import contextlib
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from tests.docs.files import FILES
from vramcalc.cli import app

_BLOCK = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)
_PROMPT, _MORE, _PROGRAM = "$ ", "> ", "vramcalc"
_TERMINAL = {"COLUMNS": "100", "NO_COLOR": "1"}


def console_blocks(text: str) -> list[str]:
    """Return the bodies of a document's console blocks."""
    return _BLOCK.findall(text)


def rerun(block: str) -> str:
    """Return a block with every command's output as the program prints it now."""
    return "".join(f"{shown}{_output_of(command)}" for shown, command in _commands(block))


def rewrite(document: Path) -> None:
    """Bring every block of a document up to date."""
    text = document.read_text(encoding="utf-8")
    document.write_text(_BLOCK.sub(lambda found: rerun(found[0]), text), encoding="utf-8")


def _commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield each command as it is shown and as it is run; lines behind ``>`` continue it."""
    shown, command = "", ""
    for line in block.splitlines():
        if line.startswith(_PROMPT) or (line.startswith(_MORE) and shown.endswith("\\\n")):
            if line.startswith(_PROMPT) and shown:
                yield shown, command
                shown, command = "", ""
            shown += line + "\n"
            command += " " + line[2:].removesuffix("\\")
    if shown:
        yield shown, command


def _output_of(command: str) -> str:
    program, *words = shlex.split(command)
    if program != _PROGRAM:
        raise ValueError(f"{command.strip()}: only {_PROGRAM} is run")
    named = [word for word in words if word in FILES]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder if named else "."):
        for name in named:
            FILES[name](Path(name))
        output = CliRunner().invoke(app, words, env=_TERMINAL).output
    return "".join(line.rstrip() + "\n" for line in output.splitlines())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rewrite(Path(name))
