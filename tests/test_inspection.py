"""What `inspect` tells of files that are what they claim, and of files that are not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from typer.testing import CliRunner

from tests.sources.gguf_files import write_gguf
from tests.sources.test_gguf import vocabulary_file
from vramcalc import api
from vramcalc.cli import app
from vramcalc.errors import BadInputError
from vramcalc.reports.inspection import InspectionReport
from vramcalc.specs.model import ModelSpec

LLAMA = "llama-3.1-8b"


def severities(report: InspectionReport) -> dict[str, str]:
    return {finding.id: finding.severity for finding in report.findings}


def message(report: InspectionReport, finding_id: str) -> str:
    return next(finding.message for finding in report.findings if finding.id == finding_id)


def model(name: str = LLAMA, **changes: object) -> ModelSpec:
    return api.load_model(name).model_copy(update=changes)


def with_layers(name: str, n_layers: int) -> ModelSpec:
    found = model(name)
    return model(name, layers=found.layers.model_copy(update={"n_layers": n_layers}))


def lowered(part: str, storage: str) -> Callable[[str, str], str]:
    return lambda name, own: storage if part in name and own != "f32" else own


@pytest.mark.parametrize(
    ("name", "architecture", "mix"),
    [
        (LLAMA, "llama", "q4_k_m"),
        ("qwen3-30b-a3b", "qwen3moe", "q6_k"),
        ("gemma-3-4b", "gemma3", "q8_0"),
        ("gpt-oss-20b", "gpt-oss", "mxfp4_moe"),
        ("deepseek-v2-lite", "deepseek2", "iq4_xs"),
        ("granite-4.0-h-small", "granitehybrid", "q5_k_m"),
    ],
)
def test_nothing_is_found_against_a_plain_file(tmp_path: Path, name: str, architecture: str, mix: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", model(name), architecture, mix)

    report = api.inspect(str(path), name)

    assert "warning" not in severities(report).values()
    assert "error" not in severities(report).values()
    assert report.file is not None
    assert report.model is not None
    assert sum(role.n_bytes for role in report.roles) == report.file.n_bytes
    assert report.file.weight_format == mix


def test_roles_are_counted_to_the_weight(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "q4_k_m")
    roles = {role.role: role for role in api.inspect(str(path)).roles}

    assert roles["embedding"].n_parameters == 128_256 * 4096
    assert roles["embedding"].bits_per_weight == 4.5
    assert roles["head"].bits_per_weight == 6.5625
    assert roles["attention"].n_parameters == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024) + 64  # and the rope's factors
    assert roles["mlp"].n_parameters == 32 * 3 * 4096 * 14_336


def test_an_8b_trimmed_to_6b_is_told(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", with_layers(LLAMA, 24), "llama", "q4_k_m")

    report = api.inspect(str(path))

    assert severities(report) == {"fewer-layers": "error", "parameter-count": "error"}
    assert message(report, "fewer-layers") == "it has 24 layers, Llama 3.1 8B has 32 (its name says llama-3.1-8b)"
    assert "6.29B parameters, Llama 3.1 8B 8.03B (-21.7%" in message(report, "parameter-count")


def test_a_size_that_no_registry_knows_is_held_against_the_label(tmp_path: Path) -> None:
    keys = {"general.name": "Some Tune 8B", "general.size_label": "8B"}
    path = write_gguf(tmp_path / "m.gguf", with_layers(LLAMA, 24), "llama", "q4_k_m", keys=keys)

    assert severities(api.inspect(str(path))) == {"parameter-count": "warning"}
    assert "calls itself 8B and has 6.29B" in message(api.inspect(str(path)), "parameter-count")


def test_missing_experts_are_told(tmp_path: Path) -> None:
    moe = model("qwen3-30b-a3b")
    kinds = {
        name: kind.model_copy(update={"mlp": kind.mlp.model_copy(update={"n_experts": 64})})
        for name, kind in moe.layers.kinds.items()
    }
    pruned = moe.model_copy(update={"layers": moe.layers.model_copy(update={"kinds": kinds})})
    path = write_gguf(tmp_path / "m.gguf", pruned, "qwen3moe", "q4_k_m")

    assert severities(api.inspect(str(path), "qwen3-30b-a3b"))["fewer-experts"] == "error"


def test_attention_quantised_in_secret_is_told(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "q8_0", edit=lowered(".attn_", "q3_k"))

    report = api.inspect(str(path))

    assert severities(report) == {"low-bits-attention": "warning", "unknown-mix": "warning"}
    assert message(report, "low-bits-attention") == "its attention is stored in 3.44 bits per weight; q8_0 gives 8.50"
    said = "nearest is q8_0, but for attn_q, attn_k, attn_v, attn_output q3_k instead of q8_0 in layers 0-31"
    assert said in message(report, "unknown-mix")


def test_more_bits_than_the_recipe_is_no_warning(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "q4_k_m", edit=lowered("blk.3.attn_q", "q8_0"))

    report = api.inspect(str(path))

    assert severities(report) == {"unknown-mix": "info"}
    assert "nearest is q4_k_m, but for attn_q q8_0 instead of q4_k in layers 3" in message(report, "unknown-mix")


def test_a_wrong_format_name_is_told(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "q4_k_m", keys={"general.file_type": 7})

    report = api.inspect(str(path))

    assert severities(report) == {"wrong-format-name": "warning"}
    assert message(report, "wrong-format-name") == "it calls itself q8_0, and its types are those of q4_k_m"


def test_low_bits_of_an_honest_mix_are_information(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "q2_k")

    assert set(severities(api.inspect(str(path))).values()) == {"info"}


def test_a_cut_download_is_told(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "q4_k_m")
    whole = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(1_000_000_000)

    report = api.inspect(str(path))

    assert severities(report) == {"data-short": "error"}
    assert f"{whole - 1_000_000_000:,} bytes before the data its header lists" in message(report, "data-short")
    assert any("bytes early, so engines refuse it" in note for note in api.load_model(str(path)).notes)


def test_a_missing_part_is_told(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "q4_k_m", parts=4)
    (tmp_path / "m-00003-of-00004.gguf").unlink()

    report = api.inspect(str(path))

    assert severities(report) == {"split-incomplete": "error"}
    assert message(report, "split-incomplete") == "1 of 4 parts are missing: m-00003-of-00004.gguf"


def test_tensors_that_are_not_there_are_told(tmp_path: Path) -> None:
    def leave_out(name: str, storage: str) -> str | None:
        return None if name == "blk.5.attn_k.weight" else storage

    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "q8_0", edit=leave_out)

    assert severities(api.inspect(str(path)))["missing-tensors"] == "error"
    with pytest.raises(BadInputError, match=r"lacks 1 of its tensors: blk.5.attn_k"):
        api.load_model(str(path))


def test_a_tied_head_is_told_from_a_separate_one(tmp_path: Path) -> None:
    def without_head(name: str, storage: str) -> str | None:
        return None if name == "output.weight" else storage

    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "f16", edit=without_head)

    assert severities(api.inspect(str(path), LLAMA))["other-head"] == "warning"


def test_context_keys_and_tokens_are_held_against_the_model(tmp_path: Path) -> None:
    keys = {"context_length": 262_144, "rope.scaling.original_context_length": 8192, "odd.key": 1}
    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "q4_k_m", keys=keys)

    report = api.inspect(str(path))

    assert severities(report) == {
        "context-beyond-training": "warning",
        "context-scaled": "info",
        "unknown-keys": "info",
    }
    assert "llama.odd.key" in message(report, "unknown-keys")


def test_more_tokens_than_rows_are_told(tmp_path: Path) -> None:
    many = [f"t{n}" for n in range(151_937)]
    path = write_gguf(tmp_path / "m.gguf", model("qwen2-0.5b"), "qwen2", "q8_0", keys={"tokenizer.ggml.tokens": many})

    report = api.inspect(str(path))

    assert severities(report)["tokenizer-mismatch"] == "error"
    assert "its tokenizer has 151,937 tokens, its embedding 151,936 rows" in message(report, "tokenizer-mismatch")


def test_what_is_not_known_is_named_and_still_counted(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "q8_0", keys={"general.architecture": "qwen9"})

    report = api.inspect(str(path))

    assert severities(report)["unknown-architecture"] == "error"
    assert report.model is None
    assert {role.role for role in report.roles} >= {"embedding", "attention", "mlp", "norm", "head"}


def test_a_file_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "words.gguf"
    path.write_bytes(vocabulary_file(10, 10) + bytes(1 << 20))

    assert severities(api.inspect(str(path))) == {"not-understood": "error"}


def run(*arguments: str, columns: int = 100) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["inspect", *arguments], env={"COLUMNS": str(columns)})
    return result.exit_code, result.stdout, result.stderr


def test_scripts_stop_at_a_finding(tmp_path: Path) -> None:
    path = str(write_gguf(tmp_path / "m.gguf", model(), "llama", "q4_k_m", keys={"general.file_type": 7}))

    assert [run(path, "--fail-on", least)[0] for least in ("info", "warning", "error")] == [3, 3, 0]
    assert run(path)[0] == 0
    assert run(str(tmp_path / "none.gguf"))[0] == 5
    assert run(path, "--expect", "nobody")[0] == 2
    (tmp_path / "x.gguf").write_bytes(b"GGUF\1\0\0\0")
    code, out, err = run(str(tmp_path / "x.gguf"), "--json")
    assert code == 4
    assert json.loads(out)["error"]["exit_code"] == 4
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("columns", [60, 100])
def test_the_text_stays_within_the_terminal(tmp_path: Path, columns: int) -> None:
    path = write_gguf(tmp_path / "m.gguf", with_layers(LLAMA, 24), "llama", "q8_0", edit=lowered(".attn_", "q3_k"))

    _, out, _ = run(str(path), columns=columns)

    assert max(len(line) for line in out.splitlines()[1:]) <= columns  # the first is the file's name
    assert "attention" in out
    assert "[low-bits-attention]" in out


@pytest.mark.parametrize("columns", [60, 100])
def test_what_people_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion, columns: int
) -> None:
    monkeypatch.chdir(tmp_path)
    write_gguf(Path("trimmed.gguf"), with_layers(LLAMA, 24), "llama", "q8_0", edit=lowered(".attn_", "q3_k"))
    write_gguf(Path("experts.gguf"), model("qwen3-30b-a3b"), "qwen3moe", "q4_k_m", parts=2)

    assert run("trimmed.gguf", columns=columns)[1] == snapshot
    assert run("experts-00001-of-00002.gguf", columns=columns)[1] == snapshot


def test_json_is_the_report(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "q4_k_m")

    found = json.loads(run(str(path), "--json")[1])

    assert found == json.loads(json.dumps(api.inspect(str(path)).to_dict()))
    assert found.keys() == {"schema_version", "file", "model", "roles", "findings"}


def test_names_from_files_do_not_steer_the_terminal(tmp_path: Path) -> None:
    keys = {"general.name": "\x1b[31mred\x07 8B", "\x1b[2Jkey": 1}
    path = write_gguf(tmp_path / "m.gguf", model(), "llama", "q4_k_m", keys=keys)

    _, out, err = run(str(path))

    assert "\x1b" not in out + err
    assert "\x07" not in out + err
