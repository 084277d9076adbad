"""What runs an estimate is valid for whoever reads it, whatever the names in it."""

import json
import re
import shlex
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from vramcalc.api import Request, answer
from vramcalc.cli import app
from vramcalc.errors import RefusedError, UsageError
from vramcalc.launch import TARGETS, Target, render_launch
from vramcalc.launch.systemd import quote
from vramcalc.reports.schema import EstimateReport
from vramcalc.specs.workload import Workload

ENGINES = ("ollama", "llama.cpp", "vllm", "sglang", "tensorrt-llm")
_LETTERS = st.characters(exclude_categories=["C", "Z"], exclude_characters="/")
NAMES = st.text(_LETTERS, min_size=1, max_size=30).map(lambda t: f"/m/{t} $x %i '\"\\")


@cache
def estimate(engine: str, gpu: str = "rtx4090", nodes: int = 1, model: str = "qwen3-8b") -> EstimateReport:
    load = Workload(n_context=8192)
    return answer(Request(model=model, gpus=[gpu], engines=[engine], nodes=nodes, workload=load)).estimates[0]


@cache
def compose_schema() -> Any:
    folder = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(folder.read_text(encoding="utf-8"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["launch", *arguments], env={"COLUMNS": "100", "NO_COLOR": "1"})


# ---- valid for its reader


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gpu", ["rtx4090", "2xrtx4090", "mi300x"])
def test_compose_files_follow_the_specification(engine: str, gpu: str) -> None:
    if gpu == "mi300x" and engine in {"sglang", "tensorrt-llm"}:
        return
    text = render_launch(estimate(engine, gpu), "compose")

    jsonschema.validate(yaml.safe_load(text), compose_schema())


@pytest.mark.parametrize("engine", ENGINES)
def test_manifests_follow_the_kubernetes_api(engine: str) -> None:
    documents = list(yaml.safe_load_all(render_launch(estimate(engine, "2xrtx4090"), "kubernetes")))

    assert [d["kind"] for d in documents] == ["Deployment", "Service"]
    for document in documents:
        kubernetes_validate.validate(document, "1.34", strict=True)


def test_pods_over_nodes_follow_the_kubernetes_api() -> None:
    found = estimate("vllm", "8xh100", 2, "llama-3.3-70b")
    workers, service = yaml.safe_load_all(render_launch(found, "kubernetes"))
    group = workers["spec"]["leaderWorkerTemplate"]

    assert (workers["kind"], group["size"]) == ("LeaderWorkerSet", 2)
    kubernetes_validate.validate(service, "1.34", strict=True)
    for role in ("leaderTemplate", "workerTemplate"):
        pod = {"apiVersion": "v1", "kind": "Pod", **group[role]}
        kubernetes_validate.validate(pod, "1.34", strict=True)
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
        asked = dict(pairwise(container["args"]))
        assert (asked["--nnodes"], asked["--master-addr"]) == ("2", "$(LWS_LEADER_ADDRESS)")
        assert asked["--node-rank"] == ("0" if role == "leaderTemplate" else "$(LWS_WORKER_INDEX)")
        assert ("--headless" in container["args"]) == (role == "workerTemplate")


def test_what_the_estimate_takes_is_asked_for() -> None:
    found = estimate("llama.cpp", "rtx3060", 1, "llama-3.3-70b")
    (host,) = (d for d in found.devices if d.kind == "host")
    deployment, _ = yaml.safe_load_all(render_launch(found, "kubernetes"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    asked = container["resources"]["requests"]

    assert asked["nvidia.com/gpu"] == 1
    assert int(asked["memory"].removesuffix("Gi")) * 2**30 >= host.need_bytes


def test_ray_joins_the_machines_before_the_server_starts() -> None:
    lines = render_launch(estimate("vllm", "8xh100", 2, "llama-3.3-70b"), "shell").splitlines()
    commands = [shlex.split(line) for line in lines if not line.startswith("#")]

    assert commands[0][:3] == ["ray", "start", "--head"]
    assert commands[-1][:2] == ["vllm", "serve"]
    assert commands[-1][5:7] == ["--tensor-parallel-size", "8"]


def test_settings_of_ollama_go_to_its_server() -> None:
    lines = render_launch(estimate("ollama"), "shell").splitlines()
    server, client = (line for line in lines if not line.startswith("#"))

    assert lines[0].startswith("# the server reads the settings")
    assert server == "env OLLAMA_CONTEXT_LENGTH=8192 ollama serve"
    assert shlex.split(client)[:2] == ["ollama", "run"]


def test_files_beside_the_weights_are_named_as_the_container_sees_them() -> None:
    load = Workload(n_context=4096)
    asked = Request(
        model="qwen3-8b", gpus=["2xrtx4090"], engines=["llama.cpp"], draft="qwen3-0.6b", adapters=["rank=8"] * 2,
        workload=load,
    )  # fmt: skip
    (found,) = answer(asked).estimates
    words = yaml.safe_load(render_launch(found, "compose", model_file="/m/a.gguf"))["services"]["model"]["command"]
    named = dict(pairwise(words))

    assert (named["-m"], named["--model-draft"]) == ("/models/a.gguf", "/models/DRAFT.gguf")
    assert named["--lora"] == "/models/ADAPTER.gguf,/models/ADAPTER.gguf"


def test_only_images_with_the_group_are_given_it() -> None:
    services = {e: yaml.safe_load(render_launch(estimate(e, "mi300x"), "compose"))["services"]["model"] for e in
                ("vllm", "llama.cpp", "ollama")}  # fmt: skip

    assert [name for name, service in services.items() if "group_add" in service] == ["vllm"]
    assert all(service["devices"] == ["/dev/kfd", "/dev/dri"] for service in services.values())


def test_the_modelfile_sets_what_was_estimated() -> None:
    text = render_launch(estimate("ollama"), "ollama")

    assert re.search(r"^FROM qwen3:8b", text, re.MULTILINE)
    assert "PARAMETER num_ctx 8192" in text


# ---- safe for any name


@given(path=NAMES)
def test_a_shell_reads_the_path_back(path: str) -> None:
    text = render_launch(estimate("llama.cpp"), "shell", model_file=path)

    assert path in shlex.split(text)


@given(path=NAMES)
def test_yaml_reads_the_path_back(path: str) -> None:
    composed = yaml.safe_load(render_launch(estimate("llama.cpp"), "compose", model_file=path))["services"]["model"]
    name = path.rpartition("/")[2]

    assert f"/models/{name}" in [word.replace("$$", "$") for word in composed["command"]]
    assert composed["volumes"][0]["source"].replace("$$", "$") == path.rpartition("/")[0]


def _escape(code: bytes) -> bytes:
    if code.startswith(b"x") and len(code) > 1:
        return bytes([int(code[1:], 16)])
    return {b"n": b"\n", b"t": b"\t", b"r": b"\r"}.get(code, code)


def unquoted(line: str) -> list[str]:
    """Return the words of a unit's command line as systemd reads them: quotes, escapes, specifiers, variables."""
    words = []
    for quoted, plain in re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line):
        raw = re.sub(rb"\\(x[0-9a-f]{2}|.)", lambda m: _escape(m[1]), quoted.encode())
        words.append((plain or raw.decode()).replace("%%", "%").replace("$$", "$"))
    return words


@given(path=NAMES)
def test_systemd_reads_the_path_back(path: str) -> None:
    text = render_launch(estimate("llama.cpp"), "systemd", model_file=path)
    (line,) = (part.removeprefix("ExecStart=") for part in text.splitlines() if part.startswith("ExecStart="))

    assert path in unquoted(line)


@given(word=st.text(st.characters(exclude_categories=["C"]), max_size=30))
def test_a_quoted_word_is_one_word(word: str) -> None:
    assert unquoted(quote(word)) == [word]


@pytest.mark.parametrize("path", ["", "a\nFROM evil", "a\x00b"])
def test_names_with_control_characters_are_refused(path: str) -> None:
    with pytest.raises(UsageError, match="--model-file"):
        render_launch(estimate("ollama"), "ollama", model_file=path)


@pytest.mark.parametrize("target", TARGETS)
def test_a_models_name_cannot_add_lines(target: Target) -> None:
    found = estimate("ollama")
    odd = replace(found, model=replace(found.model, name="x\nRUN evil\n[Service]", id="X/é ü"))

    assert not re.search(r"^(RUN|\[Service\]$.*^\[Service\])", render_launch(odd, target), re.MULTILINE | re.DOTALL)


# ---- what does not go together


@pytest.mark.parametrize(
    ("engine", "gpu", "nodes", "target", "reason"),
    [
        ("vllm", "rtx4090", 1, "ollama", "reads no Modelfile"),
        ("vllm", "8xh100", 2, "compose", "on one machine"),
        ("vllm", "8xh100", 2, "systemd", "on one machine"),
        ("ollama", "m1-max-64gb", 1, "compose", "no image"),
        ("ollama", "m1-max-64gb", 1, "kubernetes", "no image"),
        ("ollama", "m1-max-64gb", 1, "systemd", "no systemd"),
    ],
)
def test_refusals_say_why(engine: str, gpu: str, nodes: int, target: Target, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        render_launch(estimate(engine, gpu, nodes), target)


def test_what_does_not_fit_exits_3_and_prints_nothing() -> None:
    asked = ("-m", "llama-3.3-70b", "-g", "rtx3060", "-e", "vllm")
    refused, forced = run(*asked), run(*asked, "--force")

    assert (refused.exit_code, refused.stdout) == (3, "")
    assert "--force" in refused.stderr
    assert forced.exit_code == 0
    assert forced.stdout.startswith("vllm serve ")


def test_the_first_that_fits_is_taken() -> None:
    result = run("-m", "deepseek-r1-8b", "-g", "rtx3060", "-e", "vllm", "-e", "ollama")

    assert result.exit_code == 0
    assert "ollama run" in result.stdout
