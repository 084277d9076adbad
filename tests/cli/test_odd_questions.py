"""What is no question is refused in two lines, and what an engine does not know is told."""

import json

import pytest
from typer.testing import CliRunner, Result

from vramcalc.cli import app

JOB = ("-m", "deepseek-r1-8b", "-g", "rtx3060")


def run(*arguments: str, columns: int = 100) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns), "NO_COLOR": "1"})


@pytest.mark.parametrize(
    ("arguments", "fact", "advice"),
    [
        pytest.param(
            ("estimate", *JOB, "-n", "9" * 20), "more than an engine counts to", "2147483647", id="32 bits of sequences"
        ),
        pytest.param(
            ("estimate", "-m", "qwen3-8b", "-g", "9" * 23 + "GiB"), "not an amount", "11776MiB", id="a card too large"
        ),
        pytest.param(("estimate", *JOB, "-e", "vllm@"), "pins no version", "vllm@0.19", id="no version"),
        pytest.param(("estimate", *JOB, "-k", ""), "'' names no type", "q8_0/q4_0", id="no cache type"),
        pytest.param(("estimate", *JOB, "-k", "q8_0/"), "'q8_0/' names no type", "q8_0/q4_0", id="no type of V"),
        pytest.param(("estimate", *JOB, "-e", "ollama", "--tp", "2"), "--tp is no setting of ollama", "vllm", id="tp"),
        pytest.param(
            ("estimate", *JOB, "-e", "vllm", "-e", "sglang", "--slots", "4"),
            "--slots is no setting of vllm or sglang",
            "--engine llama.cpp",
            id="slots",
        ),
        pytest.param(("estimate", *JOB, "--plot", "--json"), "--plot adds bars to a table", "-f html", id="plot"),
        pytest.param(
            ("stack", "docs/rag-server.yaml", "-g", "rtx3060"),
            "names its machine",
            "change it there",
            id="two machines",
        ),
        pytest.param(
            ("explain", "weights", "-m", "qwen3-8b", "--textbook"),
            "a sum of its own",
            "leave weights out",
            id="textbook",
        ),
        pytest.param(
            ("watch", "--from", "-", "-c", "8k"), "--context is of a model", "add --model", id="a context of nothing"
        ),
    ],
)
def test_no_question_is_refused_in_two_lines(arguments: tuple[str, ...], fact: str, advice: str) -> None:
    result = run(*arguments)
    said, hint = result.stderr.splitlines()

    assert result.exit_code == 2
    assert said.startswith("error: ")
    assert fact in said
    assert hint.startswith("advice: ")
    assert advice in hint


def test_a_setting_of_one_engine_leaves_the_other_as_it_is() -> None:
    plain = json.loads(run("estimate", *JOB, "--json").stdout)["estimates"]
    asked = json.loads(run("estimate", *JOB, "--memory-share", "0.5", "--json").stdout)["estimates"]

    assert asked[0]["devices"] == plain[0]["devices"]
    assert asked[0]["workload"]["memory_share"] is None
    assert "ollama has no --memory-share: left out there" in asked[0]["notes"]
    assert asked[1]["devices"] != plain[1]["devices"]
    assert not any("left out there" in note for note in asked[1]["notes"])


@pytest.mark.parametrize("columns", [100, 60, 40])
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("explain", "weights", "-m", "qwen3-8b", "-q", "q4_k_m"), id="weights"),
        pytest.param(("estimate", "-m", "qwen3-8b", "-g", "rtx4090", "-e", "trtllm"), id="a long label"),
        pytest.param(("detect",), id="this machine"),
    ],
)
def test_nothing_leaves_the_terminal(arguments: tuple[str, ...], columns: int) -> None:
    result = run(*arguments, columns=columns)

    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= columns
