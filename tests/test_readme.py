"""The README shows what the program prints."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.sources.gguf_files import write_gguf
from vramcalc import api
from vramcalc.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_main_job_prints_what_the_readme_shows() -> None:
    shown = re.search(r"prints\n\n```text\n(.*?)```", README, re.DOTALL)
    command = re.search(r"\.venv/bin/vramcalc (estimate .*)", README)
    assert shown
    assert command
    result = CliRunner().invoke(app, command[1].split(), env={"COLUMNS": "100", "NO_COLOR": "1"})

    assert [line.rstrip() for line in result.stdout.splitlines()] == shown[1].splitlines()


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("docs").symlink_to(ROOT / "docs")
    write_gguf(Path("model.gguf"), api.load_model("qwen3-8b"), "qwen3", "q4_k_m")
    for line in re.findall(r"^(?:\|.*`)?vramcalc ([^`\n]*)", README, re.MULTILINE):
        command = re.split(r" #|\||&&", line)[0].split()
        result = CliRunner().invoke(app, command)

        assert result.exit_code == 0, (command, result.output)
