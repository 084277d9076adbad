"""Our error against measured runs: what is exact stays exact, and what got worse is told."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from vramcalc import api
from vramcalc.cli import app
from vramcalc.reports.accuracy import ValidationReport
from vramcalc.reports.json_schema import json_schema
from vramcalc.sources.measured import PACKAGED, read_table
from vramcalc.specs.measured import Accuracy, AccuracyTable, MeasuredFigure, MeasuredRun, Quantity
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB
from vramcalc.validation import MISS_ABOVE, Comparison, find_misses, find_regressions, measure_accuracy

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
HEADER = "id,engine,version,model,machine,weight_format,evidence,n_context,gpu0 kv_cache bytes,run starts bool,source"
# 32 layers * 2048 tokens * 2 * 1024 * 2 B
EXACT_RUN = "good,llama.cpp,b10488,llama-3.1-8b,24GiB,q4_k_m,code,2048,268435456,1,arithmetic"
OLD_RUN = "old,llama.cpp,b2833,gemma-3-4b,24GiB,q4_k_m,log,2048,268435456,,arithmetic"
REFUSED_RUN = "refused,llama.cpp,b2833,gemma-3-4b,24GiB,q4_k_m,log,2048,,0,arithmetic"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["validate", *arguments], env={"NO_COLOR": "1"})


@cache
def ours() -> ValidationReport:
    return api.validate()


def rows(engine: str, evidence: str, *components: str) -> Iterator[Accuracy]:
    for row in ours().accuracy:
        if (row.engine, row.evidence) == (engine, evidence) and row.component in components:
            yield row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs.csv").write_text(f"{HEADER}\n{EXACT_RUN}\n{OLD_RUN}\n{REFUSED_RUN}\n")
    return tmp_path


def table_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "accuracy.json").read_text())
    return found


# ---- our own runs


@pytest.mark.parametrize(
    ("component", "n_figures"),
    [("weights", 220), ("kv_cache", 220), ("total_context", 100), ("gpu_layers", 100), ("expert_layers", 48)],
)
def test_llama_cpp_is_exact_on_gpus(component: str, n_figures: int) -> None:
    (row,) = (row for row in rows("llama.cpp", "code", component) if row.device != "host")

    assert (row.n_figures, row.n_answered, row.n_exact) == (n_figures, n_figures, n_figures)


@pytest.mark.parametrize(
    ("component", "n_figures"),
    [("least_cache", 110), ("pool_blocks", 106), ("pool_tokens", 106), ("block_tokens", 110), ("starts", 110)],
)
def test_vllm_pools_are_exact(component: str, n_figures: int) -> None:
    (row,) = rows("vllm", "code", component)

    assert (row.n_figures, row.n_answered, row.n_exact) == (n_figures, n_figures, n_figures)


def test_what_is_nearly_exact_stays_so() -> None:
    (compute,) = (row for row in rows("llama.cpp", "code", "compute_buffer") if row.device == "gpu")
    (weights,) = rows("vllm", "code", "weights")

    assert compute.n_exact >= 184
    assert (compute.worst_error or 0) < 0.001
    assert (weights.median_error or 0) < 1e-6
    assert (weights.worst_error or 0) < 0.0065


def test_only_versions_without_rules_are_unanswered() -> None:
    assert {refusal.run for refusal in ours().unanswered} == {"O032"}
    assert all("no rules are known" in r.reason or "is not modelled" in r.reason for r in ours().unanswered)


def test_fits_to_the_same_logs_are_marked() -> None:
    marked: dict[str, set[str]] = {}
    for row in ours().accuracy:
        if row.is_in_sample and row.evidence == "bench":
            assert row.component in {"decode_speed", "prompt_speed"}
        elif row.is_in_sample:
            assert row.evidence == "log"
            marked.setdefault(row.engine, set()).add(row.component)

    assert marked == {
        "vllm": {"compute_buffer", "runtime", "unaccounted", "cuda_graphs", "pool", "pool_tokens"},
        "sglang": {"state", "pool", "pool_tokens"},
        "tensorrt-llm": {"weights", "pool", "pool_tokens"},
    }


def test_the_table_kept_is_what_we_reach() -> None:
    table = read_table(PACKAGED)

    assert table
    assert list(table.rows) == [Accuracy(**{f: getattr(r, f) for f in r.__struct_fields__}) for r in ours().accuracy]
    assert ours().regressions == ()


@pytest.mark.slow
def test_the_readme_shows_what_validate_prints() -> None:
    shown = re.search(r"<!-- accuracy: begin -->\n(.*?)<!-- accuracy: end -->", README, re.DOTALL)
    printed = run("-f", "markdown")

    assert shown
    assert printed.exit_code == 0
    assert shown[1] == printed.stdout


@pytest.mark.parametrize(("engine", "n_unanswered", "has_misses"), [("ollama", 1, True), ("vllm", 0, True)])
def test_json_validates(engine: str, n_unanswered: int, has_misses: bool) -> None:
    answer = json.loads(run("--json", "--engine", engine).stdout)

    jsonschema.validate(answer, json_schema())
    assert {row["engine"] for row in answer["accuracy"]} == {engine}
    assert len(answer["unanswered"]) == n_unanswered
    assert any(miss["error"] > 0.02 for miss in answer["misses"]) is has_misses
    assert answer["regressions"] == []


# ---- what got worse


def test_without_a_table_nothing_is_worse(folder: Path) -> None:
    answer = json.loads(run("--runs", str(folder), "--json").stdout)

    assert answer["regressions"] is None
    assert [(r["evidence"], r["component"], r["n_answered"], r["n_exact"]) for r in answer["accuracy"]] == [
        ("code", "kv_cache", 1, 1),
        ("code", "starts", 1, 1),
        ("log", "kv_cache", 0, 0),  # a build without rules, which ran
        ("log", "starts", 1, 1),  # and one that did not, as we say
    ]
    assert [r["run"] for r in answer["unanswered"]] == ["old"]


def test_update_keeps_the_table(folder: Path) -> None:
    assert run("--runs", str(folder), "--update").exit_code == 0
    assert table_of(folder)["unanswered"] == ["old"]
    assert run("--runs", str(folder)).exit_code == 0
    assert run("--runs", str(folder), "--update", "--engine", "vllm").exit_code == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"n_answered": 2}, "1 figures answered, 2 before", id="fewer answered"),
        pytest.param({"device": "host"}, "llama.cpp, kv_cache (host, code): 0 figures answered", id="a row gone"),
    ],
)
def test_a_doctored_table_exits_3(folder: Path, change: dict[str, Any], told: str) -> None:
    run("--runs", str(folder), "--update")
    table = table_of(folder)
    table["rows"][0] |= change
    (folder / "accuracy.json").write_text(json.dumps(table))
    result = run("--runs", str(folder))

    assert result.exit_code == 3
    assert told in result.stdout
    assert run("--runs", str(folder), "--engine", "vllm").exit_code == 0  # its rows are not asked about


def test_a_risen_median_exits_3(folder: Path) -> None:
    run("--runs", str(folder), "--update")
    path = folder / "runs.csv"
    path.write_text(path.read_text().replace("268435456,1", "300000000,1"))
    result = run("--runs", str(folder), "--misses")

    assert result.exit_code == 3
    assert "median error 10.5215%, 0.0000% before" in result.stdout
    assert "10.5% good (llama-3.1-8b q4_k_m on 24GiB): KV cache of gpu0: 256.0 MiB estimated" in result.stdout


def test_a_run_refused_since_exits_3(folder: Path) -> None:
    run("--runs", str(folder), "--update")
    table = table_of(folder)
    table["unanswered"] = []
    (folder / "accuracy.json").write_text(json.dumps(table))
    result = run("--runs", str(folder), "--json")

    assert result.exit_code == 3
    assert json.loads(result.stdout)["regressions"] == ["run old is refused, which the table does not say"]


@pytest.mark.parametrize(
    ("before", "after", "fact"),
    [
        pytest.param("2048,268435456", "2048,268 MB", "line 2, column gpu0 kv_cache bytes: '268 MB'", id="a figure"),
        pytest.param("llama-3.1-8b,24GiB", "lama-9b,24GiB", "measured run good: no model is called", id="a model"),
        pytest.param("24GiB,q4_k_m", "rtx9999,q4_k_m", "measured run good: no GPU is called 'rtx9999'", id="a card"),
        pytest.param("24GiB,q4_k_m", "24GiB,q4_k_x", "measured run good: no weight format", id="a format"),
        pytest.param("24GiB,q4_k_m", "0GiB,q4_k_m", "measured run good: a GPU of 0GiB", id="a card of nothing"),
        pytest.param("good,llama.cpp", "good,lama", "measured run good: no engine is called 'lama'", id="an engine"),
    ],
)
def test_malformed_runs_exit_4(folder: Path, before: str, after: str, fact: str) -> None:
    path = folder / "runs.csv"
    path.write_text(path.read_text().replace(before, after, 1))
    result = run("--runs", str(folder))

    assert result.exit_code == 4
    assert result.stdout == ""
    told = result.stderr.splitlines()
    assert fact in told[0]
    assert [line.partition(":")[0] for line in told] == ["error", "advice"]


def test_a_broken_table_exits_4(folder: Path) -> None:
    (folder / "accuracy.json").write_text("{")

    assert run("--runs", str(folder)).exit_code == 4


def test_no_runs_exit_5(tmp_path: Path) -> None:
    assert run("--runs", str(tmp_path)).exit_code == 5


# ---- arithmetic


def compared(measured: int, estimated: int | None, resolution: int = 0, name: str = "r") -> Comparison:
    figure = MeasuredFigure(Quantity.WEIGHTS, "gpu0", measured, resolution)
    found = MeasuredRun(
        id=name,
        engine="vllm",
        version="",
        model="",
        machine="",
        weight_format="",
        evidence="log",
        workload=Workload(),
        figures=(figure,),
        source="",
    )
    return Comparison(found, figure, estimated)


@pytest.mark.parametrize(
    ("measured", "resolution", "estimated", "error", "exact"),
    [
        pytest.param(1000, 0, 1000, 0, True, id="equal"),
        pytest.param(1000, 0, 1001, 0.001, False, id="1 of 1000"),
        pytest.param(1000, 5, 1005, 0, True, id="within the rounding"),
        pytest.param(1000, 5, 1015, 0.01, False, id="(15 - 5) of 1000"),
        pytest.param(1000, 5, 985, 0.01, False, id="below counts as above"),
        pytest.param(0, 0, 7, 1, False, id="something where nothing was"),
        pytest.param(1000, 0, None, None, False, id="refused"),
    ],
)
def test_an_error_is_what_rounding_cannot_hide(
    measured: int, resolution: int, estimated: int | None, error: float | None, exact: bool
) -> None:
    one = compared(measured, estimated, resolution)

    assert one.error == error
    assert one.is_exact is exact


def test_median_95th_percentile_and_worst() -> None:
    (row,) = measure_accuracy([compared(1000, 1000 + n) for n in range(1, 101)]).rows

    assert (row.n_figures, row.median_error, row.p95_error, row.worst_error) == (100, 0.0505, 0.095, 0.1)


def test_an_unanswered_case_counts() -> None:
    table = measure_accuracy([compared(GIB, GIB), compared(GIB, None, name="gone")])
    (row,) = table.rows

    assert (row.n_figures, row.n_answered, row.n_exact, row.worst_error) == (2, 1, 1, 0)
    assert table.unanswered == ("gone",)


def test_misses_are_worst_first() -> None:
    found = find_misses([compared(1000, 1000 + n, name=str(n)) for n in (20, 21, 500, 0)])

    assert MISS_ABOVE == 0.02
    assert [one.run.id for one in found] == ["500", "21"]


@given(errors=st.lists(st.integers(0, 2000), min_size=1, max_size=30), more=st.integers(1, 1000))
def test_worse_is_seen_and_better_is_not(errors: list[int], more: int) -> None:
    before = measure_accuracy([compared(1000, 1000 + n) for n in errors])
    worse = measure_accuracy([compared(1000, 1000 + n + more) for n in errors])

    assert list(find_regressions(before, before)) == []
    assert list(find_regressions(worse, before)) == []
    assert len(list(find_regressions(before, worse))) == 1
    assert list(find_regressions(AccuracyTable((), ()), worse)) == []
    assert list(find_regressions(replace(before, unanswered=("r",)), replace(before, unanswered=("r",)))) == []
