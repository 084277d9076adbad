"""Models that lie elsewhere, as people and scripts name them: the answer, or exit 5 and two lines."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.file_server import Server, serving, status
from tests.sources.hub_server import Hub, hub_served
from typer.testing import CliRunner, Result

from vramcalc.cli import app

CONFIG = Path(__file__).parents[1] / "sources" / "configs" / "Qwen__Qwen3-0.6B.json"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100", "NO_COLOR": "1"})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_served(tmp_path, monkeypatch) as served:
        served.put("config.json", CONFIG.read_bytes())
        yield served


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.mark.slow
def test_the_clients_own_variables_are_honoured(hub: Hub, tmp_path: Path) -> None:
    command = (
        sys.executable,
        "-m",
        "vramcalc",
        "estimate",
        "-m",
        "hf:org/model",
        "-g",
        "rtx3060",
        "-e",
        "vllm",
        "--json",
    )
    environment = os.environ | {"HF_ENDPOINT": hub.site.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*"}
    online = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    asked = len(hub.site.seen)
    offline = subprocess.run(
        command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True
    )

    assert online.stderr == offline.stderr == ""
    assert json.loads(online.stdout) == json.loads(offline.stdout)
    assert json.loads(online.stdout)["estimates"][0]["model"]["hf_id"] == "org/model"
    assert len(hub.site.seen) == asked > 0


def test_what_cannot_be_had_is_told_in_two_lines(hub: Hub, server: Server) -> None:
    hub.site.add("/api/models/org/secret", status(401, X_Error_Code="RepoNotFound"))
    server.add("/busy.gguf", status(429, Retry_After="60"))
    for source, fact in {
        "hf:org/secret": "the Hub knows no org/secret, or does not show it to you",
        f"{server.url}/busy.gguf": f"{server.url}/busy.gguf: too many requests (status 429)",
        f"ollama:127.0.0.1:{server.port}/me/none": f"ollama:127.0.0.1:{server.port}/me/none:latest is neither",
    }.items():
        for command in (("estimate", "-g", "rtx3060", "-m"), ("inspect",)):
            result = run(*command, source)
            assert (result.exit_code, result.stdout) == (5, "")
            first, second = result.stderr.splitlines()
            assert first.startswith(f"error: {fact}")
            assert second.startswith("advice: ")
        as_json = json.loads(run("estimate", "-g", "rtx3060", "-m", source, "--json").stdout)
        assert as_json["error"]["exit_code"] == 5


def test_without_the_client_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", None)
    result = run("estimate", "-m", "hf:org/model", "-g", "rtx3060")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[1] == "advice: pip install 'vramcalc-cli[hub]'"
