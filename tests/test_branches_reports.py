"""Reports and pages that say less, or more, than usual."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from vramcalc.api import Request, answer
from vramcalc.cli import app
from vramcalc.errors import UsageError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120", "NO_COLOR": "1"})


def told(*arguments: str) -> str:
    """Return what is printed, on one line."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def only_estimate(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["estimates"]
    assert len(found) == 1
    return found[0]


def test_a_request_without_engines_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        answer(Request(model="qwen3-8b", gpus=("rtx3060",), engines=()))

    assert str(caught.value) == "no engine was named"
    assert caught.value.hint == "the engines are ollama, llama.cpp, vllm, sglang, tensorrt-llm"


@pytest.mark.parametrize(
    ("model_id", "naive", "true", "note"),
    [
        pytest.param(
            "deepseek-v2-lite",
            2 * 27 * 16 * 128 * 2048 * 2,
            (1 * 576 * 2048 * 2, 26 * 576 * 2048 * 2),
            ("latent attention caches one compressed row per token, not K and V of every head",),
            id="latent: 1 dense and 26 expert layers * (512 + 64)",
        ),
        pytest.param(
            "llama-2-7b", 2 * 32 * 32 * 128 * 2048 * 2, (32 * 2 * 4096 * 2048 * 2,), (), id="every head has K and V"
        ),
    ],
)
def test_the_textbook_is_corrected_where_it_errs(
    model_id: str, naive: int, true: tuple[int, ...], note: tuple[str, ...]
) -> None:
    report = json.loads(run("explain", "--textbook", "-m", model_id, "--json").stdout)

    assert report["textbook"][1]["n_bytes"] == naive
    assert tuple(step["n_bytes"] for step in report["true"][1:]) == true
    assert tuple(report["notes"]) == note


def test_a_bill_is_explained_as_json() -> None:
    arguments = ("-m", "deepseek-r1-8b", "-g", "rtx3060", "-e", "ollama", "-c", "2048")
    explained = only_estimate("explain", "kv_cache", *arguments)

    assert explained == only_estimate("estimate", *arguments)
    assert sum(x["n_bytes"] for x in explained["lines"] if x["component"] == "kv_cache") == 32 * 2048 * 4096


def test_a_refused_engine_is_explained_by_its_reason() -> None:
    text = told("explain", "kv_cache", "-m", "deepseek-r1-8b", "-g", "rtx3060", "-q", "q4_k_m", "-c", "2048")

    assert "vLLM q4_k_m (vLLM) on NVIDIA GeForce RTX 3060 12GB vLLM does not load the GGUF format q4_k_m" in text
    assert "support moved out of its tree to a plugin; take --engine llama.cpp or ollama for GGUF" in text
    assert text.count("kv_cache on gpu0") == 1
    assert "= 268,435,456 bytes" in text


def test_a_machine_whose_engines_all_refuse_has_no_table() -> None:
    text = told("estimate", "-m", "llama-3.1-8b", "-g", "rtx4090", "-g", "m1-max-64gb", "-e", "vllm", "-c", "2k")
    first, second = text.split("llama-3.1-8b on m1-max-64gb: ")

    assert "need / budget" in first
    assert second.startswith("vLLM is unsupported: no rules are known for vLLM on Apple M1 Max 64 GB.")
    assert "need / budget" not in second
    assert "; take an NVIDIA card, or --engine ollama" in second


@pytest.mark.parametrize(
    ("context", "words"),
    [
        pytest.param((), "at its default context 40,960", id="nobody asked for the context"),
        pytest.param(("-c", "40k"), "at context 40,960", id="as asked: 40 * 1024"),
    ],
)
def test_what_does_not_fit_names_the_context_that_does(context: tuple[str, ...], words: str) -> None:
    arguments = ("estimate", "-m", "qwen3-8b", "-g", "rtx4060ti-16gb", "-e", "vllm", "-q", "fp8")
    longest = only_estimate(*arguments, *context)["limits"]["max_context"]

    assert 0 < longest < 40_960
    assert f"{words} (starts with --context {longest})." in told(*arguments, *context)
    assert only_estimate(*arguments, "-c", str(longest))["verdict"] in ("fits", "tight")
    assert only_estimate(*arguments, "-c", str(longest + 256))["verdict"] == "does_not_fit"


def test_a_shorter_context_is_not_offered_where_the_host_is_short() -> None:
    """27 of 36 layers cache 8192 tokens in 3 GB of host memory; on the GPU even 40960 tokens fit."""
    arguments = ("estimate", "-m", "qwen3-8b", "-g", "rtx4090", "-e", "llama.cpp", "-c", "8k", "--ram", "3GB")
    estimate = only_estimate(*arguments, "--gpu-layers", "10")
    host = next(device for device in estimate["devices"] if device["kind"] == "host")

    assert estimate["verdict"] == "does_not_fit"
    assert host["kv_cache_bytes"] == 27 * 8192 * 4096
    assert estimate["limits"]["max_context"] == 40_960
    assert "starts with --context" not in told(*arguments, "--gpu-layers", "10")
