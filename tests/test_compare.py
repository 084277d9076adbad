"""Many combinations side by side, each as ``estimate`` answers it alone."""

import csv
import io
import json

import pytest
from typer.testing import CliRunner, Result

from vramcalc.api import Request, answer
from vramcalc.api.comparing import SORTS, compare_cells, sort_cells
from vramcalc.cli import app
from vramcalc.cli.compare import Shown, Sort
from vramcalc.errors import UsageError
from vramcalc.specs.workload import Workload

_MODELS = ("qwen3-8b", "gemma-3-12b", "phi-4")
_GPUS = ("rtx3060", "2xrtx4090")


def run(*arguments: str, columns: int = 100) -> Result:
    return CliRunner().invoke(app, ["compare", *arguments], env={"COLUMNS": str(columns), "NO_COLOR": "1"})


def requests(*contexts: int) -> list[Request]:
    return [Request(model=m, gpus=_GPUS, workload=Workload(n_context=c)) for m in _MODELS for c in contexts]


@pytest.mark.slow
def test_every_cell_is_the_estimate_of_its_own() -> None:
    asked = requests(4096)
    cells = list(compare_cells(asked))
    alone = [estimate for request in asked for estimate in answer(request).estimates]

    assert len(cells) == len(alone) == 3 * 2 * 2
    for cell, estimate in zip(cells, alone, strict=True):
        assert (cell.model, cell.engine, cell.verdict) == (estimate.model.id, estimate.engine.name, estimate.verdict)
        assert estimate.totals is not None
        assert cell.need_bytes == estimate.totals.need_bytes
        assert cell.headroom_bytes == estimate.headroom_bytes
        assert cell.cache_format == estimate.cache_format


def test_what_is_kept_is_what_was_there() -> None:
    whole = list(compare_cells(requests(32_768)))
    kept = list(compare_cells(requests(32_768), only=["fits"]))

    assert kept
    assert kept == [cell for cell in whole if cell.verdict == "fits"]


@pytest.mark.parametrize("by", SORTS)
def test_the_best_comes_first_and_the_unknown_last(by: str) -> None:
    cells = [*compare_cells(requests(4096)), *compare_cells([Request(model="bge-m3", gpus=["m1-max-64gb"])])]
    ordered = sort_cells(cells, [by])
    rooms = [cell.headroom_bytes for cell in sort_cells(cells, ["headroom"])]
    known = [room for room in rooms if room is not None]

    assert sorted(map(str, ordered)) == sorted(map(str, cells))
    assert known == sorted(known, reverse=True)
    assert None not in rooms[: len(known)]
    assert {sort.value for sort in Sort} == set(SORTS)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(UsageError, match="'colour'"):
        sort_cells([], ["colour"])


@pytest.mark.slow
def test_all_models_against_one_card() -> None:
    cells = list(compare_cells([Request(model="all", gpus=["rtx4090"], engines=["vllm"])], only=["fits"]))

    assert len(cells) > 40
    assert len({cell.model for cell in cells}) == len(cells)


def test_formats_hold_the_same_cells() -> None:
    arguments = ("-m", "qwen3-8b", "-m", "qwen3-32b", "-g", "rtx3060", "-g", "rtx4090", "-c", "4096")
    cells = json.loads(run(*arguments, "--json").stdout)["cells"]
    by_line = [json.loads(line) for line in run(*arguments, "-f", "jsonl").stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(run(*arguments, "-f", "csv").stdout)))

    assert [{**cell, "schema_version": 1} for cell in cells] == by_line
    assert [(row["model"], row["verdict"], int(row["need_bytes"])) for row in rows] == [
        (cell["model"], cell["verdict"], cell["need_bytes"]) for cell in cells
    ]
    assert {shown.value for shown in Shown} >= {cell["verdict"] for cell in cells}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("-m", "qwen3-8b", "-g", "rtx4090", "-e", "ollama", "--check"), 0),
        (("-m", "qwen3-8b", "-g", "rtx3060", "-e", "vllm", "--check"), 3),
        (("-m", "qwen3-32b", "-g", "rtx3060", "-e", "ollama", "-c", "4k", "--check", "--allow-offload"), 0),
        (("-m", "qwen3-8b", "-m", "nobody", "-g", "rtx3060"), 2),
        (
            (
                "-m",
                "qwen3-8b",
            ),
            2,
        ),
    ],
)
def test_exit_codes(arguments: tuple[str, ...], code: int) -> None:
    assert run(*arguments).exit_code == code


@pytest.mark.parametrize("columns", [60, 120])
def test_the_grid_and_the_list(columns: int, snapshot: object) -> None:
    grid = run("-m", "qwen3-8b", "-m", "gpt-oss-20b", "-g", "rtx3060", "-g", "rtx4090", "-c", "8k", columns=columns)
    listed = run(
        "-m", "qwen3-8b", "-g", "rtx3060", "-e", "ollama", "--sort", "headroom", "-q", "q4_k_m", columns=columns
    )

    assert grid.stdout + listed.stdout == snapshot
    assert all(len(line) <= columns for line in (grid.stdout + listed.stdout).splitlines())
