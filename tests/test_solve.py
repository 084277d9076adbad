"""Inverse questions: every answer fits when it is asked again, and the step beyond it does not."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from vramcalc import solve
from vramcalc.api import Request, answer, read_questions
from vramcalc.api.solving import Catalogue, answer_unknown
from vramcalc.errors import UsageError
from vramcalc.estimation import Asked
from vramcalc.solvers.trying import try_asked
from vramcalc.solvers.unknowns import (
    Solution,
    solve_context,
    solve_quant,
    solve_sequences,
    worthwhile_formats,
)
from vramcalc.sources.registry import gpu_registry, model_registry
from vramcalc.specs.workload import Workload

_LARGEST = 50 * 10**9  # the same holds for all models; the largest take seconds each
_MODELS = sorted(spec.id for spec in model_registry().search("") if spec.parameters.total <= _LARGEST)
_GPUS = sorted(spec.id for spec in gpu_registry().search(""))
_FORMATS = {"vllm": (None, "fp8", "w4a16"), "ollama": (None, "q8_0", "q3_k_m"), "llama.cpp": (None, "q6_k", "iq2_m")}


def _verdict(asked: Asked) -> str:
    tried = try_asked(asked)
    return "unsupported" if isinstance(tried, UsageError) else tried.verdict


def _asked(model: str, gpu: str, engine: str, quant: str | None, load: Workload) -> Asked:
    request = Request(model=model, gpus=(gpu,), engines=(engine,), quants=(quant,), workload=load)
    return next(read_questions(request))[0]


def _holds(solution: Solution) -> None:
    assert (_verdict(solution.asked) == "fits") == (solution.answer is not None)
    if solution.next_step is not None:
        assert solution.next_step.verdict != "fits"


@st.composite
def _questions(draw: st.DrawFn) -> Asked:
    engine = draw(st.sampled_from(sorted(_FORMATS)))
    count = draw(st.sampled_from(("", "2x", "4x")))
    return _asked(
        draw(st.sampled_from(_MODELS)),
        count + draw(st.sampled_from(_GPUS)),
        engine,
        draw(st.sampled_from(_FORMATS[engine])),
        Workload(memory_share=None, swa_full=False),
    )


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(asked=_questions(), n_sequences=st.sampled_from((None, 1, 3)))
def test_the_longest_context_is_an_edge(asked: Asked, n_sequences: int | None) -> None:
    asked = replace(asked, workload=replace(asked.workload, n_sequences=n_sequences))
    try:
        solution = solve_context(asked)
    except UsageError:
        assert _verdict(asked) == "unsupported"
        return

    _holds(solution)
    if isinstance(solution.answer, int) and solution.answer < asked.model.context:
        longer = min(solution.answer + asked.bind().context_step, asked.model.context)
        assert _verdict(replace(asked, workload=replace(asked.workload, n_context=longer))) != "fits"


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(asked=_questions(), context=st.sampled_from((512, 4096, 20_000)))
def test_the_most_sequences_are_an_edge(asked: Asked, context: int) -> None:
    asked = replace(asked, workload=replace(asked.workload, n_context=min(context, asked.model.context)))
    try:
        solution = solve_sequences(asked)
    except UsageError:
        assert _verdict(asked) == "unsupported"
        return

    _holds(solution)
    if isinstance(solution.answer, int) and solution.binding != "search_limit":
        more = replace(asked.workload, n_sequences=solution.answer + 1)
        assert _verdict(replace(asked, workload=more)) != "fits"


@pytest.mark.slow
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(asked=_questions())
def test_no_better_format_fits(asked: Asked) -> None:
    asked = replace(asked, weight_format=None, workload=Workload(n_context=min(4096, asked.model.context)))
    solution = solve_quant(asked)

    _holds(solution)
    for quality in worthwhile_formats(asked):
        if quality.name == solution.answer:
            break
        assert _verdict(replace(asked, weight_format=quality.name)) != "fits"


def _smaller(report_gpu: str, count: int) -> Iterator[str]:
    if count > 1:
        yield report_gpu.replace(f"{count}x", "" if count == 2 else f"{count // 2}x")


@pytest.mark.parametrize(
    ("model", "engine", "quant", "expected"),
    [
        pytest.param("llama-3.3-70b", "vllm", "awq-4bit", "4xrtx4090", id="39.8 GB of weights, 92 % of 2 x 24 GiB"),
        pytest.param("llama-3.3-70b", "ollama", "q4_k_m", "2xrtx4090", id="42.5 GB of weights on 2 x 23 GiB"),
        pytest.param("qwen3-8b", "ollama", "q4_k_m", "rtx4090", id="one is enough"),
    ],
)
def test_the_count_of_a_named_card_is_the_least(model: str, engine: str, quant: str, expected: str) -> None:
    request = Request(
        model=model, gpus=("rtx4090",), engines=(engine,), quants=(quant,), workload=Workload(n_context=4096)
    )
    report = answer_unknown("gpu", request)

    assert report.answer == expected
    assert report.estimates[0].verdict == "fits"
    count = int(expected.split("x", maxsplit=1)[0]) if expected[0].isdigit() else 1
    for gpu in _smaller(expected, count):
        (estimate,) = answer(replace(request, gpus=(gpu,))).estimates
        assert estimate.verdict != "fits"


def test_the_smallest_card_of_the_catalogue() -> None:
    request = Request(model="qwen3-8b", gpus=(), engines=("ollama",), workload=Workload(n_context=8192))
    report = answer_unknown("gpu", request, Catalogue(vendor="nvidia", since=2020))
    found = report.answers[0]

    assert isinstance(report.answer, str)
    assert report.estimates[0].verdict == "fits"
    (again,) = answer(replace(request, gpus=(report.answer,))).estimates
    assert again.verdict == "fits"
    assert found.next_step is not None
    (smaller,) = answer(replace(request, gpus=(str(found.next_step.value),))).estimates
    assert smaller.verdict != "fits"
    assert again.machine.gpus[0].usable_bytes >= smaller.machine.gpus[0].usable_bytes
    for name in found.also:
        assert answer(replace(request, gpus=(name,))).estimates[0].verdict == "fits"


def test_nodes_are_taken_where_one_machine_is_too_small() -> None:
    request = Request(
        model="llama-3.1-405b", gpus=("h100",), engines=("vllm",), nodes=4, workload=Workload(n_context=8192)
    )
    report = answer_unknown("gpu", request)

    assert report.answer == "8xh100-sxm on 2 nodes"
    assert report.estimates[0].placement is not None
    parallel = report.estimates[0].placement
    assert parallel.tensor_parallel * parallel.pipeline_parallel == 16


def test_the_python_interface_answers_as_the_command() -> None:
    report = solve("context", "deepseek-r1-8b", "rtx3060", engines=["ollama"])

    assert report.solve == "context"
    assert report.answer == report.answers[0].answer == report.estimates[0].workload.n_context
    assert report.binding == "gpu_memory"
    assert solve("context", "bge-m3", "rtx4090", engines=["vllm"]).binding == "trained_context"


@pytest.mark.parametrize(
    ("unknown", "request_", "message"),
    [
        ("colour", Request(model="qwen3-8b", gpus=("rtx3060",)), "'colour' is nothing to solve for"),
        (
            "context",
            Request(model="qwen3-8b", gpus=("rtx3060",), workload=Workload(n_context=1)),
            "--context is what is to be found",
        ),
        (
            "sequences",
            Request(model="qwen3-8b", gpus=("rtx3060",), workload=Workload(n_sequences=1)),
            "--parallel is what is to be found",
        ),
        ("quant", Request(model="qwen3-8b", gpus=("rtx3060",), quants=("q8_0",)), "--quant is what is to be found"),
        ("context", Request(model="qwen3-8b", gpus=("rtx3060",), quants=("awq-4bit",), engines=("ollama",)), "no GGUF"),
        ("context", Request(model="qwen3-8b", gpus=()), "no GPU was named"),
    ],
)
def test_what_is_nonsense_is_refused(unknown: str, request_: Request, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        answer_unknown(unknown, request_)
