"""The ladder: every rung runs when it is asked, and no rung is worse than another in every respect."""

import json
import random

import pytest
from typer.testing import CliRunner, Result

from vramcalc.api import Names, Request, read_questions
from vramcalc.api.planning import answer_plan, larger_cards
from vramcalc.cli import app
from vramcalc.errors import UsageError
from vramcalc.estimation import Asked
from vramcalc.solvers.ladder import KINDS
from vramcalc.solvers.plan import Plan, make_plan
from vramcalc.solvers.trying import try_asked
from vramcalc.specs.workload import Workload

_NAMES = Names.of(())
_LARGEST = 50 * 10**9  # the same holds for all models; the largest take seconds each
_MODELS = sorted(spec.id for spec in _NAMES.models.search("") if spec.parameters.total <= _LARGEST)
_GPUS = sorted(spec.id for spec in _NAMES.cards.search(""))
_PAIRS = 12


def run(*arguments: str, columns: int = 100) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns), "NO_COLOR": "1"})


def _questions(n: int) -> list[tuple[Asked, Request]]:
    draw = random.Random(20260)  # noqa: S311 - a draw to repeat, not to hide
    found = []
    for _ in range(n):
        engine, count = draw.choice(("ollama", "vllm", "llama.cpp")), draw.choice(("", "", "2x"))
        load = Workload(n_context=draw.choice((None, 4096, 16_384)), n_sequences=draw.choice((None, 1, 4)))
        gpus = (count + draw.choice(_GPUS),)
        request = Request(model=draw.choice(_MODELS), gpus=gpus, engines=(engine,), ram="64GB", workload=load)
        found.append((next(read_questions(request, _NAMES))[0], request))
    return found


def _check(plan: Plan) -> None:
    for rung in plan.rungs:
        tried = try_asked(rung.change.asked)
        assert not isinstance(tried, UsageError)
        assert tried.verdict in ("fits", "offloads")
        assert tried.verdict == "fits" or rung.change.kind in ("offload", "engine")
        assert rung.change.kind in KINDS
        assert rung.change.loses
        assert not any(other.costs.beats(rung.costs) for other in plan.rungs)


@pytest.mark.slow
def test_no_rung_fails_and_none_is_beaten() -> None:
    n_rungs = 0
    for asked, request in _questions(_PAIRS):
        try:
            plan = make_plan(asked, larger_cards(asked, request, _NAMES))
        except UsageError:
            assert isinstance(try_asked(asked), UsageError)
            continue
        _check(plan)
        n_rungs += len(plan.rungs)

    assert n_rungs > 0


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        pytest.param(
            ("-m", "qwen3-14b", "-g", "rtx3060", "-e", "ollama", "-c", "20k"), ("--kv-type", "q8_0"), id="cache"
        ),
        pytest.param(
            ("-m", "deepseek-r1-8b", "-g", "rtx3060", "-e", "vllm", "-c", "4k"), ("--quant", "w4a16"), id="format"
        ),
    ],
)
def test_the_one_change_fits_as_it_is_typed(arguments: tuple[str, ...], flags: tuple[str, ...]) -> None:
    (plan,) = json.loads(run("plan", *arguments, "--json").stdout)["plans"]
    (again,) = json.loads(run("estimate", *arguments, *plan["one_change"], "--json").stdout)["estimates"]

    assert tuple(plan["one_change"][:2]) == flags
    assert again["verdict"] == "fits"


def test_a_fit_needs_no_change() -> None:
    (plan,) = answer_plan(Request(model="qwen3-8b", gpus=("rtx4090",), engines=("ollama",))).plans

    assert plan.fits
    assert plan.rungs == ()
    assert run("plan", "-m", "qwen3-8b", "-g", "rtx4090", "-e", "ollama", "--check").exit_code == 0
    assert run("plan", "-m", "qwen3-32b", "-g", "rtx3060", "-e", "vllm", "-c", "4k", "--check").exit_code == 3


@pytest.mark.parametrize(
    ("model", "gpu", "load", "chosen"),
    [
        pytest.param("qwen3-8b", "rtx3060", Workload(n_context=8192), "ollama", id="one user on 12 GB"),
        pytest.param("qwen3-8b", "rtx4090", Workload(n_context=8192, n_sequences=16), "vllm", id="16 users"),
        pytest.param("qwen3-8b", "h100", Workload(n_context=8192), "either", id="one user on 80 GB"),
        pytest.param("llama-3.3-70b", "rtx4090", Workload(n_context=4096), "ollama", id="layers in host memory"),
        pytest.param("qwen3-8b", "m1-max-64gb", Workload(n_context=4096), "ollama", id="vLLM knows no Metal"),
        pytest.param("deepseek-v4-flash", "8xh200", Workload(n_context=4096), "vllm", id="no GGUF engine knows it"),
    ],
)
def test_the_choice_of_engine_has_its_reasons(model: str, gpu: str, load: Workload, chosen: str) -> None:
    engines = ("vllm",) if chosen == "vllm" else ("ollama",)
    (plan,) = answer_plan(Request(model=model, gpus=(gpu,), engines=engines, workload=load)).plans

    assert plan.engine_choice == chosen
    assert plan.reasons[0].favours == chosen
    assert all(reason.why and reason.source for reason in plan.reasons)


def test_what_is_refused_has_no_plan() -> None:
    assert run("plan", "-m", "qwen3-8b", "-g", "m1-max-64gb", "-e", "vllm").exit_code == 2


@pytest.mark.parametrize("output", ["table", "markdown", "csv", "jsonl"])
def test_the_ladder_of_a_14b_on_12_gb(output: str, snapshot: object) -> None:
    found = run("plan", "-m", "qwen3-14b", "-g", "rtx3060", "-e", "ollama", "-c", "32k", "--ram", "32GB", "-f", output)

    assert found.exit_code == 0, found.output
    if output == "jsonl":
        assert len(json.loads(found.stdout)["rungs"]) > 3
    else:
        assert found.stdout == snapshot
