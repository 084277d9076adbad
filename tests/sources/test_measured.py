"""Measured runs are read as they were printed, and refused where they cannot be what they say."""

import re
from fractions import Fraction
from pathlib import Path

import pytest

from vramcalc.errors import BadInputError, UnavailableError, UsageError
from vramcalc.sources.measured import PACKAGED, read_runs, read_table, table_path
from vramcalc.sources.registry import model_registry
from vramcalc.specs.measured import MeasuredRun, Quantity
from vramcalc.units import GIB, MIB

FACTS = "id,engine,version,model,machine,weight_format,evidence,source"
ROW = "r1,vllm,0.33.0,qwen3-8b,h100,,log,a log"


def written(folder: Path, header: str, *rows: str) -> Path:
    (folder / "runs.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def the_run(folder: Path, columns: str, cells: str) -> MeasuredRun:
    (run,) = read_runs(written(folder, f"{FACTS},{columns}", f"{ROW},{cells}"))
    return run


@pytest.mark.parametrize(
    ("column", "cell", "value", "resolution"),
    [
        pytest.param("gpu0 weights bytes", "4617396480", 4_617_396_480, 0, id="bytes: exact"),
        pytest.param("gpu0 weights GiB", "14.99", round(Fraction("14.99") * GIB), 5_368_710, id="GiB: 0.005, up"),
        pytest.param("host compute_buffer MiB", "24.50", 25_690_112, 5_243, id="MiB: 0.005, up"),
        pytest.param("gpu0 kv_cache MiB", "544", 544 * MIB, 0, id="whole MiB: exact"),
        pytest.param("host compute_buffer bytes", "4783587±5243", 4_783_587, 5_243, id="stated"),
        pytest.param("run pool_tokens tokens", "244304", 244_304, 0, id="tokens"),
    ],
)
def test_a_figure_is_known_as_far_as_it_was_printed(
    tmp_path: Path, column: str, cell: str, value: int, resolution: int
) -> None:
    (figure,) = the_run(tmp_path, column, cell).figures

    assert (figure.value, figure.resolution) == (value, resolution)
    assert f"{figure.device} {figure.quantity} {figure.unit}" == re.sub("[MG]iB", "bytes", column)


def test_settings_are_those_of_a_workload(tmp_path: Path) -> None:
    run = the_run(
        tmp_path,
        "n_context,kv_unified,memory_share,k_format,swa_full,run starts bool",
        "8192,true,0.95,fp8,,1",
    )

    assert run.workload.n_context == 8192
    assert run.workload.kv_unified is True
    assert run.workload.memory_share == Fraction(95, 100)
    assert run.workload.k_format == "fp8"
    assert run.workload.swa_full is False


@pytest.mark.parametrize(
    ("columns", "cells", "fact"),
    [
        pytest.param("gpu0 wieghts GiB", "1.00", "'gpu0 wieghts GiB' is no column", id="unknown figure"),
        pytest.param("gpu0 weights tokens", "1", "'gpu0 weights tokens' is no column", id="a unit that is not its own"),
        pytest.param("n_contexts,gpu0 weights GiB", "1,1.00", "'n_contexts' is no column", id="unknown setting"),
        pytest.param("n_context,n_context", "1,1", "column 'n_context' is there twice", id="repeated column"),
        pytest.param("gpu0 weights GiB", "1,00", "10 cells under 9 columns", id="a comma in a number"),
        pytest.param("gpu0 weights GiB", "1e3", "column gpu0 weights GiB: '1e3' is not a figure", id="no figure"),
        pytest.param("gpu0 weights GiB", "-1.44", "'-1.44' is not a figure", id="below 0"),
        pytest.param("gpu0 weights GiB", "", "the run has no figure", id="nothing measured"),
        pytest.param("n_context,run starts bool", "many,1", "column n_context: ", id="a setting of another type"),
        pytest.param("n_context,run starts bool", "-5,1", "column n_context: -5 is below 0", id="negative setting"),
        pytest.param("memory_share,run starts bool", "1/0,1", "'1/0' is not a share", id="no share"),
    ],
)
def test_what_is_no_measured_run_is_told(tmp_path: Path, columns: str, cells: str, fact: str) -> None:
    with pytest.raises(BadInputError) as caught:
        the_run(tmp_path, columns, cells)

    assert fact in str(caught.value)
    assert "runs.csv, line" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_facts_are_complete_and_closed(tmp_path: Path) -> None:
    cell = "gpu0 weights GiB"
    with pytest.raises(BadInputError, match="line 1: there is no column source"):
        read_runs(written(tmp_path, f"{FACTS.removesuffix(',source')},{cell}", "r1,vllm,,qwen3-8b,h100,,log,1.00"))
    with pytest.raises(BadInputError, match="line 2, column model: it is empty"):
        read_runs(written(tmp_path, f"{FACTS},{cell}", "r1,vllm,,,h100,,log,a log,1.00"))
    with pytest.raises(BadInputError, match="line 2, column evidence: Invalid enum value 'hearsay'"):
        read_runs(written(tmp_path, f"{FACTS},{cell}", "r1,vllm,,qwen3-8b,h100,,hearsay,a log,1.00"))
    with pytest.raises(BadInputError, match="line 3, column id: 'r1' is there twice"):
        read_runs(written(tmp_path, f"{FACTS},{cell}", f"{ROW},1.00", f"{ROW},1.00"))


def test_files_that_are_no_csv(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="holds no measured runs"):
        read_runs(tmp_path)
    (tmp_path / "runs.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match="utf-8"):
        read_runs(tmp_path)
    written(tmp_path, f"{FACTS},gpu0 weights GiB", f'{ROW},"1.00')
    with pytest.raises(BadInputError, match="unexpected end"):
        read_runs(tmp_path)


def test_the_table_kept(tmp_path: Path) -> None:
    assert read_table(tmp_path) is None
    (tmp_path / "accuracy.json").write_text('{"rows": [{"engine": "vllm"}], "unanswered": []}')
    with pytest.raises(BadInputError, match="missing required field"):
        read_table(tmp_path)
    assert read_table(PACKAGED)


def test_an_installed_table_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "lib" / "site-packages" / "vramcalc" / "data" / "measured"
    monkeypatch.setattr("vramcalc.sources.measured.PACKAGED", installed)

    with pytest.raises(UsageError, match="keeps the table it was released with"):
        table_path(installed)
    assert table_path(tmp_path) == tmp_path / "accuracy.json"


def test_our_own_runs_cover_what_we_claim() -> None:
    runs = read_runs(PACKAGED)
    known = {model.id for model in model_registry().search()}
    quantities = {figure.quantity for run in runs for figure in run.figures}

    assert 1000 <= len(runs) <= 1500
    assert {run.model for run in runs} <= known
    assert len({run.model for run in runs}) >= 30
    assert {run.engine for run in runs} == {"llama.cpp", "ollama", "sglang", "tensorrt-llm", "vllm"}
    assert quantities == set(Quantity)
    assert {run.workload.tensor_parallel for run in runs} >= {1, 2, 4, 8}
    assert {run.workload.pipeline_parallel for run in runs} >= {1, 2, 4}
    assert sum(path.stat().st_size for path in PACKAGED.iterdir()) < 250_000
