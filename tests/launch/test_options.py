"""Every option our commands use is one the engine publishes, and every one they can use is tried.

``options.json`` holds the names each engine registers, with the file they were read from.
"""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from vramcalc import engines, launch
from vramcalc.api import Request, answer
from vramcalc.errors import RefusedError
from vramcalc.launch import TARGETS, render_launch
from vramcalc.launch.service import KINDS
from vramcalc.reports.schema import EstimateReport
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB

PUBLISHED = json.loads((Path(__file__).parent / "options.json").read_text(encoding="utf-8"))
BUILDERS = {
    "llama.cpp": "vramcalc.engines._ggml.command",
    "vllm": "vramcalc.engines._vllm.command",
    "sglang": "vramcalc.engines._sglang.command",
    "tensorrt-llm": "vramcalc.engines._tensorrt_llm.command",
}
_OPTION = re.compile(r"--?[A-Za-z][\w-]*")
_SETTING = re.compile(r"OLLAMA_[A-Z_]+")
_PYTHON = {"-m"}  # of `python3 -m`, before the engine's own options


def load(n_context: int = 4096, **settings: Any) -> Workload:
    return Workload(n_context=n_context, **settings)


def ask(model: str, gpu: str, engine: str, workload: Workload, **rest: Any) -> Request:
    return Request(model=model, gpus=[gpu], engines=[engine], workload=workload, **rest)


SERVING: dict[str, Any] = {"memory_share": Fraction(7, 10), "max_num_seqs": 16, "step_tokens": 1024}
SPLIT: dict[str, Any] = {"tensor_parallel": 2, "pipeline_parallel": 2, "expert_parallel": True}
MOE = "qwen3-30b-a3b"
# Between them they make a builder use every option it knows: the last test says so.
CASES = {
    "llama.cpp": (
        ask("qwen3-8b", "2xrtx4090", "llama.cpp", load(kv_unified=True, n_slots=2)),
        ask("qwen3-8b", "2xrtx4090", "llama.cpp", load(split_mode="none", main_gpu=1, step_tokens=4096)),
        ask("qwen3-8b", "rtx4090", "llama.cpp", load(k_format="q8_0", v_format="q8_0", kv_offload=False)),
        ask("qwen3-8b", "rtx4090", "llama.cpp", load(gpu_layers=9, op_offload=False, repack=False, mmap=False)),
        ask("qwen3-8b", "2xrtx4090", "llama.cpp", load(overrides=(r"blk\.[0-3]\.ffn_.*=host", r"blk\.9\.ffn_.*=gpu0"))),
        ask("qwen3-8b", "rtx4090", "llama.cpp", load(flash_attention=False), draft="qwen3-0.6b", adapters=["rank=8"]),
        ask("gemma-3-4b", "rtx4090", "llama.cpp", load(swa_full=True), mmproj="f16"),
        ask(MOE, "rtx4090", "llama.cpp", load(cpu_moe=10, mlock=True)),
        ask("bge-m3", "rtx4090", "llama.cpp", load(1024)),
    ),
    "ollama": (
        ask("qwen3-8b", "2xrtx4090", "ollama", load(n_slots=2, k_format="q8_0", v_format="q8_0", spread=True)),
        ask("qwen3-8b", "rtx4090", "ollama", load(flash_attention=False)),
        ask("qwen3-8b", "rtx4090", "ollama@0.11", load(8192, flash_attention=True)),
    ),
    "vllm": (
        ask("qwen3-8b", "rtx4090", "vllm", load(k_format="fp8", enforce_eager=True, prefix_caching=False, **SERVING)),
        ask("qwen3-8b", "h100", "vllm", load(kv_cache_memory_bytes=4 * GIB, block_tokens=32), quants=["fp8"]),
        ask("qwen3-8b", "h100", "vllm", load(chunked_prefill=False, step_tokens=4096), quants=["f16"]),
        ask("qwen3-8b", "rtx4090", "vllm", load(cpu_offload_bytes=3 * GIB // 2, kv_offload_bytes=5 * GIB // 2)),
        ask(MOE, "8xrtx4090", "vllm", load(data_parallel=2, **SPLIT), quants=["bf16"]),
        ask("llama-3.3-70b", "8xh100", "vllm", load(), nodes=2),
    ),
    "sglang": (
        ask("qwen3-8b", "rtx4090", "sglang", load(k_format="fp8", enforce_eager=True, prefix_caching=False, **SERVING)),
        ask("qwen3-8b", "h100", "sglang", load(block_tokens=32, cpu_offload_bytes=3 * GIB // 2), quants=["fp8"]),
        ask("qwen3-8b", "h100", "sglang", load(), quants=["f16"]),
        ask(MOE, "8xrtx4090", "sglang", load(data_parallel=2, **SPLIT), quants=["bf16"]),
    ),
    "tensorrt-llm": (
        ask("qwen3-8b", "rtx4090", "tensorrt-llm", load(**SERVING)),
        ask(MOE, "8xrtx4090", "tensorrt-llm", load(**SPLIT), quants=["bf16"]),
    ),
}  # fmt: skip


@cache
def answered(engine: str) -> tuple[EstimateReport, ...]:
    found = tuple(estimate for case in CASES[engine] for estimate in answer(case).estimates)
    for estimate in found:
        assert estimate.refusal is None, estimate.refusal
    return found


def written(estimate: EstimateReport) -> Iterator[list[str]]:
    """Yield the command lines in what every target writes for an estimate."""
    for target in TARGETS:
        try:
            text = render_launch(estimate, target)
        except RefusedError:
            continue
        if target == "shell":
            yield from (shlex.split(line, comments=True) for line in text.splitlines())
        elif target == "systemd":
            (line,) = (part for part in text.splitlines() if part.startswith("ExecStart="))
            yield [word.replace("$$", "$") for word in shlex.split(line)]
        elif target in {"compose", "kubernetes"}:
            yield from _lists(list(yaml.safe_load_all(text)))


def _lists(value: Any) -> Iterator[list[str]]:
    """Yield the arguments of the containers in a document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in {"command", "args"}:
                yield inner
            else:
                yield from _lists(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _lists(inner)


def used(engine: str) -> dict[str, set[str]]:
    """Return the options in all that is written for an engine, by the program that reads them."""
    found: dict[str, set[str]] = {engine: set(), "ray": set()}
    for estimate in answered(engine):
        for words in (list(estimate.launch), *written(estimate)):
            program = "ray" if words[:1] == ["ray"] else engine
            found[program] |= {word.partition("=")[0] for word in words if _OPTION.fullmatch(word.partition("=")[0])}
    return {program: options - _PYTHON if program == "sglang" else options for program, options in found.items()}


def literals(module: str) -> set[str]:
    """Return the texts of a module's code that are an option and nothing else."""
    path = import_module(module).__file__
    assert path is not None
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return {text for text in texts if _OPTION.fullmatch(text)} - _PYTHON


@pytest.mark.parametrize("engine", CASES)
def test_only_published_options_are_used(engine: str) -> None:
    for program, options in used(engine).items():
        assert options <= {*PUBLISHED[program].get("options", ())}, program


@pytest.mark.parametrize("engine", BUILDERS)
def test_every_option_a_builder_knows_is_published_and_tried(engine: str) -> None:
    known = literals(BUILDERS[engine]) | ({"-m"} if engine == "llama.cpp" else set())

    assert known
    assert known <= {*PUBLISHED[engine]["options"]}
    assert known <= used(engine)[engine]


def test_options_the_targets_add_are_published() -> None:
    folder = Path(launch.__path__[0])
    added = set[str]().union(*(literals(f"vramcalc.launch.{path.stem}") for path in folder.glob("*.py")))
    ours = {"--mmproj", "--lora", "--model-draft"}  # read from a command of llama.cpp, not added to it

    assert {"--host", "--port", "--nnodes", "--node-rank", "--master-addr", "--headless"} <= added
    assert ours <= {*PUBLISHED["llama.cpp"]["options"]}
    assert added - ours <= {*PUBLISHED["vllm"]["options"]} | {"-fsS"}
    for engine, kind in KINDS.items():
        options = {word for word in kind.listens if word.startswith("-")}
        assert engine == "ollama" or options <= {*PUBLISHED[engine]["options"]}


def test_settings_of_ollama_are_ones_it_reads() -> None:
    published = {*PUBLISHED["ollama"]["environment"]}
    given = {word.partition("=")[0] for e in answered("ollama") for word in e.launch if "=" in word}
    folder = Path(engines.__path__[0])
    named = {
        name
        for path in (folder / "ollama.py", *(folder / "_ollama").glob("*.py"))
        for name in _SETTING.findall(path.read_text(encoding="utf-8"))
    }

    assert given <= published
    assert named <= published
    assert {name for name in named if f'"{name}=' in "".join(_sources(folder))} <= given


def _sources(folder: Path) -> Iterator[str]:
    yield from (path.read_text(encoding="utf-8") for path in (folder / "ollama.py", folder / "_ollama" / "early.py"))


@pytest.mark.parametrize("engine", ["llama.cpp", "vllm", "sglang", "tensorrt-llm"])
def test_no_option_is_given_twice(engine: str) -> None:
    """llama-server warns that only the last one counts."""
    for estimate in answered(engine):
        options = [word for word in estimate.launch[3:] if _OPTION.fullmatch(word)]
        assert sorted(options) == sorted(set(options))


def test_units_are_the_engines() -> None:
    """vLLM takes fractions of GiB; SGLang whole GiB, and the estimate is then of what it takes."""
    vllm, sglang = answered("vllm")[3], answered("sglang")[1]
    of_vllm, of_sglang = dict(pairwise(vllm.launch)), dict(pairwise(sglang.launch))

    assert (of_vllm["--cpu-offload-gb"], of_vllm["--kv-offloading-size"]) == ("1.5", "2.5")
    assert of_sglang["--cpu-offload-gb"] == "2"
    assert sglang.workload.cpu_offload_bytes == 2 * GIB


@pytest.mark.parametrize("engine", PUBLISHED)
def test_a_list_is_sorted_and_says_where_it_was_read(engine: str) -> None:
    names = [*PUBLISHED[engine].get("options", ()), *PUBLISHED[engine].get("environment", ())]

    assert names
    assert names == sorted(set(names))
    assert re.match(r"[\w.-]+/[\w.-]+[ ,].*(at [0-9a-f]{40}|[0-9.]+ as released)", PUBLISHED[engine]["source"])
