"""What would help: every suggestion, tried, keeps the model on the GPUs."""

import shlex
from typing import Any

import pytest

from vramcalc.api import Request, answer
from vramcalc.cli.options import RequestOptions


@pytest.mark.parametrize(
    ("model", "gpu", "engine", "quant", "context"),
    [
        pytest.param("llama-3.3-70b", "2xrtx4090", "vllm", "awq-4bit", "4096", id="a switch or a shorter context"),
        pytest.param("deepseek-r1-8b", "rtx3060", "vllm", "bf16", None, id="other formats"),
        pytest.param("qwen3-32b", "rtx4090", "ollama", "q8_0", "16k", id="smaller mixes"),
        pytest.param("gemma-3-12b", "rtx3060", "llama.cpp", "q8_0", "8k", id="smaller mixes, sliding windows"),
    ],
)
def test_what_is_offered_works(model: str, gpu: str, engine: str, quant: str, context: str | None) -> None:
    asked: dict[str, Any] = {"model": model, "gpu": [gpu], "engine": [engine], "quant": [quant], "context": context}
    (estimate,) = answer(RequestOptions(**asked).request()).estimates
    offered = [text for text in estimate.advice if not text.startswith("--engine")]

    assert estimate.verdict in ("does_not_fit", "offloads")
    assert offered
    for text in offered:
        changed = {**asked, **_flags(text)}
        (better,) = answer(RequestOptions(**changed).request()).estimates
        assert better.verdict in ("fits", "tight"), text


def _flags(text: str) -> dict[str, Any]:
    words = shlex.split(text.split(" keeps", maxsplit=1)[0].split(" makes", maxsplit=1)[0])
    flags: dict[str, Any] = {}
    while words:
        name = words.pop(0).removeprefix("--").replace("-", "_")
        if name == "enforce_eager":
            flags[name] = True
        elif name == "quant":
            flags[name] = [words.pop(0)]
        else:
            flags[name] = float(words.pop(0)) if name == "memory_share" else words.pop(0)
    return flags


def test_nothing_is_offered_where_nothing_is_needed() -> None:
    (estimate,) = answer(Request(model="qwen3-8b", gpus=["rtx4090"], engines=["ollama"])).estimates

    assert estimate.verdict == "fits"
    assert estimate.advice == ()
