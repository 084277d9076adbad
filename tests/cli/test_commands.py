"""The program as people and scripts use it."""

import ast
import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from syrupy.assertion import SnapshotAssertion
from typer.testing import CliRunner, Result

import vramcalc
from vramcalc.cli import app
from vramcalc.cli.commands import SUMMARIES, build_command
from vramcalc.cli.options import SECTIONS, RequestOptions

SPILLED = ("speed", "-m", "deepseek-r1-8b", "-g", "rtx3060", "-e", "ollama", "--gpu-layers", "28")
MAIN_JOB = ("estimate", "--model", "deepseek-r1-8b", "--gpu", "rtx3060")


def run(*arguments: str, columns: int = 100) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns), "NO_COLOR": "1"})


def estimates(*arguments: str) -> list[dict[str, Any]]:
    result = run("estimate", *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["estimates"]
    return found


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def test_the_story_on_an_rtx_3060() -> None:
    ollama, vllm = estimates("-m", "deepseek-r1-8b", "-g", "rtx3060")

    assert (ollama["engine"]["name"], ollama["weight_format"], ollama["verdict"]) == ("ollama", "q4_k_m", "fits")
    assert (vllm["engine"]["name"], vllm["weight_format"], vllm["verdict"]) == ("vllm", "bf16", "does_not_fit")
    assert ollama["model"]["n_parameters"] == 8_030_261_248
    assert ollama["placement"]["gpu_layers"] == ollama["placement"]["total_layers"] == 33
    gpu, host = ollama["devices"]
    assert (gpu["weights_bytes"], host["weights_bytes"]) == (4_617_396_480, 295_501_824)
    assert gpu["weights_bytes"] + host["weights_bytes"] == 4_912_898_304
    assert vllm["devices"][0]["weights_bytes"] == 16_094_077_440  # 16,060,522,496 + its rope table + scales
    assert vllm["devices"][0]["headroom_bytes"] < 0


def test_every_setting_that_is_assumed_is_there() -> None:
    for estimate in estimates("-m", "deepseek-r1-8b", "-g", "rtx3060"):
        workload = estimate["workload"]
        assert workload["assumed"]
        assert all(workload[name] is not None for name in workload["assumed"])


def test_the_cache_of_the_story() -> None:
    (estimate,) = estimates("-m", "deepseek-r1-8b", "-g", "rtx3060", "-e", "ollama", "-c", "2048")

    assert estimate["devices"][0]["kv_cache_bytes"] == 268_435_456  # 32 * 2 * 8 * 128 * 2048 * 2
    report = json.loads(run("explain", "-m", "deepseek-r1-8b", "--textbook", "--json").stdout)
    naive, true = report["textbook"][1], report["true"][1]
    assert (naive["n_bytes"], true["n_bytes"]) == (1_073_741_824, 268_435_456)
    assert report["textbook_bytes"] == 17_073_741_824  # 16 GB + 1.07 GB


def test_a_70b_offloads_to_64_gb_of_ram() -> None:
    (estimate,) = estimates("-m", "llama-3.3-70b", "-g", "rtx3060", "-e", "ollama", "--ram", "64GB")

    assert estimate["verdict"] == "offloads"
    assert 0 < estimate["placement"]["gpu_layers"] < 81
    assert {d["kind"] for d in estimate["devices"]} == {"gpu", "host"}
    assert sum(d["weights_bytes"] for d in estimate["devices"]) > 42_000_000_000


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("-m", "deepseek-r1-8b", "-g", "rtx3060"), id="the main job"),
        pytest.param(("-m", "deepseek-r1-8b", "-g", "rtx3060", "-q", "awq-4bit"), id="one unsupported"),
        pytest.param(
            ("-m", "qwen3-30b-a3b", "-g", "2xrtx4090", "-g", "m1-max-64gb", "-e", "llama.cpp"), id="two machines"
        ),
        pytest.param(("-m", "llama-3.3-70b", "-g", "m2-8gb", "-e", "ollama"), id="off the disk"),
        pytest.param(("-m", "bge-m3", "-g", "l4"), id="an encoder"),
        pytest.param(("-m", "gpt-oss-120b", "-g", "4xh100", "-e", "vllm@0.19", "--nodes", "2"), id="nodes"),
    ],
)
def test_json_validates_and_adds_up(arguments: tuple[str, ...], schema: dict[str, Any]) -> None:
    result = run("estimate", *arguments, "--json")
    answer = json.loads(result.stdout)
    jsonschema.validate(answer, schema)
    components = ("weights", "kv_cache", "state", "compute_buffer", "runtime", "unaccounted")

    for estimate in answer["estimates"]:
        for device in estimate["devices"]:
            assert device["need_bytes"] == sum(device[f"{c}_bytes"] for c in components)
            assert device["need_low_bytes"] <= device["need_bytes"] <= device["need_high_bytes"]
            inside = [x for x in estimate["lines"] if x["device"] == device["name"] and not x["outside_budget"]]
            assert device["kind"] == "disk" or device["need_bytes"] == sum(line["n_bytes"] for line in inside)
        assert (estimate["refusal"] is None) == (estimate["verdict"] != "unsupported")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("models", "list", "--json"), id="models"),
        pytest.param(("gpus", "search", "h100", "--json"), id="gpus"),
        pytest.param(("detect", "--json"), id="this machine"),
        pytest.param(("explain", "-m", "qwen3-8b", "-g", "rtx3060", "--json"), id="explain"),
        pytest.param(("explain", "-m", "qwen3-8b", "--textbook", "--json"), id="textbook"),
        pytest.param(("explain", "weights", "-m", "qwen3-8b", "-q", "fp8", "--json"), id="weights"),
        pytest.param(("estimate", "-m", "nonsense", "-g", "rtx3060", "--json"), id="an error"),
    ],
)
def test_every_other_answer_validates(arguments: tuple[str, ...], schema: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(run(*arguments).stdout), schema)


def test_what_is_no_answer_does_not_validate(schema: dict[str, Any]) -> None:
    answer = json.loads(run(*MAIN_JOB, "--json").stdout)
    answer["estimates"][0]["devices"][0]["need_bytes"] = "many"

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer, schema)


def test_every_closed_json_object_is_known_to_the_schema(schema: dict[str, Any]) -> None:
    answer = json.loads(run(*MAIN_JOB, "--json").stdout)
    report = {key for name, part in schema["$defs"].items() if name == "EstimateReport" for key in part["properties"]}

    assert set(answer["estimates"][0]) == report
    assert answer["schema_version"] == 1


@pytest.mark.parametrize("columns", [100, 80, 60, 40])
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(MAIN_JOB, id="main"),
        pytest.param(
            ("estimate", "-m", "llama-3.3-70b", "-g", "2xrtx4090", "--ram", "64GB", "-c", "32k"), id="offload"
        ),
        pytest.param(("explain", "-m", "deepseek-r1-8b", "-g", "rtx3060"), id="explain"),
        pytest.param(("explain", "-m", "deepseek-r1-8b", "--textbook"), id="textbook"),
    ],
)
def test_what_people_see(arguments: tuple[str, ...], columns: int, snapshot: SnapshotAssertion) -> None:
    result = run(*arguments, columns=columns)

    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= columns
    assert result.stdout == snapshot


def test_csv_and_json_lines_and_markdown_and_html(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run(*MAIN_JOB, "-f", "csv").stdout)))
    assert [(row["engine"], row["device"], row["verdict"]) for row in rows] == [
        ("ollama", "gpu0", "fits"),
        ("ollama", "host", "fits"),
        ("vllm", "gpu0", "does_not_fit"),
    ]
    assert rows[0]["weights_bytes"] == "4617396480"
    lines = [json.loads(line) for line in run(*MAIN_JOB, "-f", "jsonl").stdout.splitlines()]
    assert [line["engine"]["name"] for line in lines] == ["ollama", "vllm"]
    assert "| Ollama" in run(*MAIN_JOB, "-f", "markdown").stdout
    target = tmp_path / "report.html"
    assert run(*MAIN_JOB, "-f", "html", "--output", str(target)).stdout == ""
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_plot_adds_a_bar_per_device() -> None:
    assert "█" in run(*MAIN_JOB, "--plot").stdout
    assert "█" not in run(*MAIN_JOB).stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(("-e", "ollama"), 0, id="fits"),
        pytest.param(("-e", "vllm"), 3, id="does not fit"),
        pytest.param((), 3, id="one of two does not fit"),
        pytest.param(("-e", "ollama", "-m", "llama-3.3-70b"), 3, id="offloads"),
        pytest.param(("-e", "ollama", "-m", "llama-3.3-70b", "--allow-offload"), 0, id="offload allowed"),
    ],
)
def test_check(arguments: tuple[str, ...], code: int) -> None:
    assert run(*MAIN_JOB, "--check", *arguments).exit_code == code


@pytest.mark.parametrize(
    ("arguments", "fact", "advice"),
    [
        (("-m", "deepsek-r1-8b", "-g", "rtx3060"), "no model is called 'deepsek-r1-8b'", "deepseek-r1-8b"),
        (("-m", "deepseek-r1-8b", "-g", "rtx3061"), "no GPU is called 'rtx3061'", "rtx3060"),
        (("-m", "deepseek-r1-8b", "-g", "rtx3060", "-q", "q4_z"), "no weight format is called 'q4_z'", "q4"),
        (("-m", "deepseek-r1-8b", "-g", "rtx3060", "-e", "vlm"), "no engine is called 'vlm'", "vllm"),
        (("-m", "deepseek-r1-8b", "-g", "rtx3060", "--slots", "0"), "--slots is 0", "1 or more"),
        (("-m", "deepseek-r1-8b", "-g", "rtx3060", "-c", "many"), "--context: 'many' is not a count", "8k"),
        (("-m", "deepseek-r1-8b", "-g", "rtx3060", "-n", "0"), "--parallel is 0", "1 or more"),
        (("-m", "deepseek-r1-8b", "-g", "rtx3060", "--ram", "64"), "--ram: '64' is not an amount", "GiB"),
        (("-m", "deepseek-r1-8b", "-g", "rtx3060", "--reserve", "x"), "--reserve: 'x' is not an amount", "GiB"),
        (("-m", "deepseek-r1-8b", "-g", "rtx3060", "--cpu-offload", "x"), "--cpu-offload: 'x' is not", "GiB"),
        (("-m", "deepseek-r1-8b", "-g", "rtx3060", "--gpu-layers", "-1"), "--gpu-layers is -1", "0 or more"),
        (("-m", "deepseek-r1-8b", "-g", "rtx3060", "--memory-share", "1.5"), "--memory-share is 1.5", "up to 1"),
        (("-m", "deepseek-r1-8b"), "no GPU was named", "--gpu rtx3060"),
        (("-m", "deepseek-r1-8b", "-g", "2xlocal"), "counts this machine's own cards", "write local"),
        (("-m", "deepseek-r1-8b", "-g", "rtx3060", "-e", "vllm", "-q", "q4_k_m"), "GGUF", "--engine"),
    ],
)
def test_a_bad_request_is_one_fact_and_one_advice(arguments: tuple[str, ...], fact: str, advice: str) -> None:
    result = run("estimate", *arguments)
    told = result.stderr.splitlines()

    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(told) == 2
    assert told[0].startswith("error: ")
    assert fact in told[0]
    assert told[1].startswith("advice: ")
    assert advice in told[1]
    as_json = json.loads(run("estimate", *arguments, "--json").stdout)["error"]
    assert fact in as_json["message"]
    assert advice in as_json["advice"]
    assert as_json["exit_code"] == 2


@pytest.mark.parametrize("arguments", [("estimate",), ("estimate", "--nonsense"), ("nonsense",), ("estimate", "-m")])
def test_a_wrong_command_line_is_usage(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


CONFIGS = Path(__file__).parents[1] / "sources" / "configs"


def test_a_model_from_its_config(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    text = (CONFIGS / "meta-llama__Meta-Llama-3.1-8B.json").read_text("utf-8")
    (folder / "config.json").write_text(text, encoding="utf-8")
    for name in (str(folder), str(folder / "config.json")):
        (estimate,) = estimates("-m", name, "-g", "rtx3060", "-e", "vllm")
        assert estimate["model"]["id"] == "mine"
        assert estimate["model"]["n_parameters"] == 8_030_261_248
        assert estimate["devices"][0]["weights_bytes"] == 16_094_077_440

    (folder / "config.json").write_text(text.replace('"hidden_size"', '"hidden_width": 1, "hidden_size"'), "utf-8")
    result = run("estimate", "-m", str(folder), "-g", "rtx3060")
    assert result.exit_code == 4
    assert "hidden_width" in result.stderr
    assert run("estimate", "-m", str(tmp_path / "none" / "config.json"), "-g", "rtx3060").exit_code == 5


def test_a_refused_combination_leaves_the_others_answered() -> None:
    ollama, vllm = estimates("-m", "deepseek-r1-8b", "-g", "rtx3060", "-q", "q8_0")

    assert ollama["verdict"] == "fits"
    assert (vllm["verdict"], vllm["devices"], vllm["totals"], vllm["limits"]) == ("unsupported", [], None, None)
    assert "GGUF" in vllm["refusal"]["reason"]
    assert vllm["refusal"]["advice"]


def test_a_broken_user_registry_says_where(tmp_path: Path, own_folders: Path) -> None:
    own_folders.mkdir(parents=True)
    (own_folders / "models.yaml").write_text("mine:\n  like: qwen3-8b\n  source: me\n  colour: red\n", encoding="utf-8")
    result = run("estimate", "-m", "mine", "-g", "rtx3060")
    assert result.exit_code == 4
    assert "entry 'mine', field colour" in result.stderr
    result = run("estimate", "-m", "mine", "-g", "rtx3060", "--registry", str(tmp_path / "none.yaml"))
    assert result.exit_code == 5
    assert "none.yaml cannot be read" in result.stderr


def test_an_answer_that_cannot_be_written(tmp_path: Path) -> None:
    result = run(*MAIN_JOB, "--output", str(tmp_path / "no" / "such" / "folder.txt"))

    assert result.exit_code == 5
    assert "cannot be written" in result.stderr


@pytest.mark.parametrize("kind", ["models", "gpus"])
def test_listings(kind: str) -> None:
    assert "entries" in run(kind).stdout
    assert run(kind, "list").stdout == run(kind).stdout
    assert len(json.loads(run(kind, "list", "--json").stdout)[kind]) > 100
    assert "no entry" in run(kind, "search", "@@@").stdout


@pytest.mark.parametrize(("kind", "name"), [("models", "gemma-3-27b"), ("gpus", "rtx3060"), ("models", "bge-m3")])
def test_an_entry_shown_can_be_read_again(kind: str, name: str, tmp_path: Path) -> None:
    shown = run(kind, "show", name)
    path = tmp_path / f"{kind}.yaml"
    path.write_text(shown.stdout, encoding="utf-8")

    again = run(kind, "show", name, "--registry", str(path))
    assert again.stdout == shown.stdout
    assert name in json.loads(run(kind, "show", name, "--json").stdout)


def test_names_are_searched() -> None:
    assert "h100-sxm" in run("gpus", "search", "H100").stdout
    assert "deepseek-r1-8b" in run("models", "search", "distill-llama-8b").stdout
    assert run("models", "show", "nonsense").exit_code == 2


def test_explained_weights_sum_to_the_file() -> None:
    report = json.loads(run("explain", "weights", "-m", "deepseek-r1-8b", "-q", "q4_k_m", "--json").stdout)

    assert sum(part["n_bytes"] for part in report["parts"]) == report["n_bytes"] == 4_912_898_304
    assert {part["role"] for part in report["parts"]} == {"embedding", "attention", "mlp", "norm", "head"}
    assert "4.894 bits per weight" in run("explain", "weights", "-m", "deepseek-r1-8b", "-q", "q4_k_m").stdout
    assert run("explain", "weights", "-m", "deepseek-r1-8b", "-q", "q9").exit_code == 2
    in_4_bit = json.loads(run("explain", "weights", "-m", "deepseek-r1-8b", "-q", "awq-4bit", "--json").stdout)
    assert {part["storage"] for part in in_4_bit["parts"]} == {"bf16", "awq-4bit"}


@pytest.mark.parametrize("component", ["weights", "kv_cache", "compute_buffer", "runtime", "state", "budget"])
def test_one_component_explained(component: str) -> None:
    result = run("explain", component, "-m", "deepseek-r1-8b", "-g", "rtx3060")

    assert result.exit_code == 0
    assert "Ollama q4_k_m" in result.stdout
    assert ("source:" in result.stdout) == (component not in ("state", "budget"))


@pytest.mark.parametrize(
    ("engine", "version", "said"),
    [
        ("vllm@0.19.0", "0.19", False),
        ("vllm@0.25.1", "0.22", True),
        ("vllm@v0.33.1", "0.33", False),
        ("ollama@0.31", "0.30", True),
        ("llama.cpp@b10600", "b10488", True),
    ],
)
def test_a_pinned_version_takes_the_nearest_earlier_rules(engine: str, version: str, said: bool) -> None:
    (estimate,) = estimates("-m", "qwen3-8b", "-g", "rtx4090", "-c", "4k", "-e", engine)

    assert estimate["engine"]["version"] == version
    assert any("nearest set" in note for note in estimate["notes"]) == said


def test_version() -> None:
    assert run("--version").stdout.startswith("vramcalc ")


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vramcalc", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SUMMARIES)
def test_the_summary_of_a_command_is_the_first_line_of_its_help(name: str) -> None:
    assert SUMMARIES[name] == build_command(name).help.partition("\n\n")[0].replace("\n", " ")


def test_every_shared_option_has_its_section() -> None:
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(RequestOptions.__struct_fields__)


def test_the_sections_of_help() -> None:
    titles = [line[:-1] for line in run("estimate", "--help").stdout.splitlines() if re.fullmatch(r"\S.*:", line)]

    assert titles == [*SECTIONS, "Options"]


def test_a_command_imports_no_other() -> None:
    code = (
        "import sys; from vramcalc.cli.commands import build_command; build_command('estimate');"
        "print([m for m in sys.modules if m.startswith('vramcalc.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    modules = ("commands", "estimate", "options", "output")
    assert sorted(f"vramcalc.cli.{name}" for name in modules) == sorted(ast.literal_eval(done.stdout))


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; from vramcalc.cli import app; print([m for m in ('pydantic', 'yaml', 'rich') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_pipe_in_a_plain_locale() -> None:
    result = program(*MAIN_JOB, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii")

    assert result.returncode == 0
    assert "does not fit" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.slow
def test_a_reader_that_stops_early_is_no_traceback() -> None:
    command = f"{sys.executable} -m vramcalc {' '.join(MAIN_JOB)} --json | head -c 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert result.stdout == "{"
    assert "Traceback" not in result.stderr


def test_the_python_interface() -> None:
    report = vramcalc.estimate("deepseek-r1-8b", "rtx3060", engines=["vllm"], context="2k")
    (estimate,) = report.estimates
    assert (estimate.verdict, estimate.workload.n_context) == ("does_not_fit", 2048)
    assert vramcalc.load_model("deepseek-r1-8b").layers.n_layers == 32
    assert vramcalc.load_gpu("rtx3060").n_sms == 28
    with pytest.raises(AttributeError):
        _ = vramcalc.nothing


# ---- speed


def test_explain_speed_puts_the_numbers_in(snapshot: SnapshotAssertion) -> None:
    assert run("explain", *SPILLED).stdout == snapshot


def test_explain_says_why_there_is_no_speed() -> None:
    result = run("explain", "speed", "-m", "deepseek-r1-8b", "-g", "11GiB", "-e", "ollama")

    assert result.exit_code == 0
    assert "no speed is told: the bandwidth of" in result.stdout


def test_stated_host_memory_changes_the_speed() -> None:
    asked = ("-m", "deepseek-r1-8b", "-g", "rtx3060", "-e", "ollama", "--gpu-layers", "20")
    usual, fast = (estimates(*asked, *more)[0]["speed"] for more in ((), ("--ram-bandwidth", "102.4GB/s")))

    assert fast["decode_tokens_per_s"]["best"] > usual["decode_tokens_per_s"]["best"]


@pytest.mark.parametrize(
    "arguments", [("--ram-bandwidth", "fast"), ("--ram-bandwidth", "0GB/s"), ("--depth", "0"), ("--depth", "x")]
)
def test_what_speed_cannot_take_exits_2(arguments: tuple[str, ...]) -> None:
    result = run(*MAIN_JOB, *arguments)

    assert result.exit_code == 2
    assert arguments[0] in result.stderr
    assert result.stdout == ""
