"""Registries: ours are sound, the user's are merged over them, and a broken one says where and why."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec import json

from vramcalc.errors import AppError, BadInputError, ExitCode, UnavailableError, UnknownNameError, UsageError
from vramcalc.formulas.capacity import driver_memory, usable_memory
from vramcalc.ledger import Basis
from vramcalc.sources import yaml_file
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.registry import gpu_registry, model_registry, normalise_gpu_name, normalise_model_name
from vramcalc.specs.gpu import GpuSpec
from vramcalc.units import GIB, MIB

GPUS = list(gpu_registry().search())
MINE = """
my-8b:
  like: llama-3.1-8b
  name: My fine-tune
  source: my own
  aliases: [mine]
"""


MY_CARD = """
rtx3060:
  name: Mine
  vendor: nvidia
  architecture: ampere
  year: 2021
  memory: {advertised: 10GiB}
  bandwidth_gb_per_s: 1
  source: me
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_registries_are_large_enough_and_every_name_is_unique() -> None:
    models = list(model_registry().search())
    names = [
        n for m in models for n in {normalise_model_name(x) for x in (m.id, *m.aliases, *m.hf_ids, *m.ollama_tags)}
    ]
    cards = [n for g in GPUS for n in {normalise_gpu_name(x) for x in (g.id, *g.aliases)}]

    assert len(models) >= 150
    assert len(GPUS) >= 120
    assert [name for name, n in Counter(names).items() if n > 1] == []
    assert [name for name, n in Counter(cards).items() if n > 1] == []


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.id)
def test_every_card_is_plausible_and_sourced(gpu: GpuSpec) -> None:
    shown, usable = driver_memory(gpu), usable_memory(gpu, "linux")

    assert gpu.source
    assert usable.source
    assert 0 < usable.n_bytes <= shown.n_bytes <= gpu.memory.advertised
    assert shown.n_bytes > 0.9 * gpu.memory.advertised
    assert gpu.vendor != "nvidia" or gpu.compute_capability


MEASURED = list(csv.DictReader((Path(__file__).parent / "gpu_totals.csv").read_text("utf-8").splitlines()))


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: row["name"])
def test_every_total_seen_in_a_log(row: dict[str, str]) -> None:
    gpu = gpu_registry().resolve(row["name"])
    usable = gpu.memory.usable

    assert gpu.id == row["id"]
    if row["driver_mib"]:
        assert driver_memory(gpu).n_bytes == int(row["driver_mib"]) * MIB
    if row["linux_mib_low"]:
        assert usable.linux is not None
        assert int(row["linux_mib_low"]) <= usable.linux.size // MIB <= int(row["linux_mib_high"])
        assert usable_memory(gpu, "linux").n_bytes == usable.linux.size
    if row["windows_mib"]:
        assert usable_memory(gpu, "windows").n_bytes == int(row["windows_mib"]) * MIB


@pytest.mark.parametrize(
    ("name", "driver_mib", "linux_mib"),
    [
        ("rtx3060", 12288, 12037),
        ("rtx4090", 24564, 24077),
        ("rtx3090", 24576, 24123),
        ("rtx5090", 32607, 32109),
        ("h100", 81559, 81081),
        ("a100", 81920, 81151),
        ("l4", 23034, 22559),
        ("l40s", 46068, 45467),
    ],
)
def test_measured_totals(name: str, driver_mib: int, linux_mib: int) -> None:
    gpu = gpu_registry().resolve(name)

    assert (driver_memory(gpu).n_bytes, driver_memory(gpu).basis) == (driver_mib * MIB, Basis.EXACT)
    assert (usable_memory(gpu, "linux").n_bytes, usable_memory(gpu, "linux").basis) == (linux_mib * MIB, Basis.EXACT)


@pytest.mark.parametrize(
    ("name", "system", "mib", "basis"),
    [
        pytest.param("rtx4070ti", "linux", 12288 - 250, Basis.FITTED, id="2 % of 12288 is 245, below 250"),
        pytest.param("h200", "linux", 143771 - 800, Basis.FITTED, id="2 % is 2875, above 800"),
        pytest.param("rtx3090", "wsl", 24575, Basis.FITTED, id="the total less 1 MiB"),
        pytest.param("m1-max-64gb", "linux", 53084, Basis.DERIVED, id="Metal: 0.81 of 65536"),
        pytest.param("m1-8gb", "linux", 8192 * 667 // 1000, Basis.FITTED, id="Metal: 2/3 of 8192"),
        pytest.param("rx6800xt", "linux", 16384, Basis.ASSUMED, id="no reserve known"),
    ],
)
def test_stated_rules_fill_the_gaps(name: str, system: str, mib: int, basis: Basis) -> None:
    usable = usable_memory(gpu_registry().resolve(name), system)  # type: ignore[arg-type]

    assert usable.n_bytes // MIB == mib
    assert usable.basis is basis


@pytest.mark.parametrize("name", ["RTX 3060", "rtx-3060", "NVIDIA GeForce RTX 3060", "3060", "rtx3060-12gb"])
def test_cards_by_the_names_people_type(name: str) -> None:
    assert gpu_registry().resolve(name).id == "rtx3060"


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("deepseek-r1-8b", "deepseek-r1-8b"),
        ("DeepSeek R1 8B", "deepseek-r1-8b"),
        ("deepseek-ai/deepseek-r1-distill-llama-8b", "deepseek-r1-8b"),
        ("deepseek-r1:8b", "deepseek-r1-0528-qwen3-8b"),  # the tag's file today; a colon is significant
        ("qwen/QWEN3-8b", "qwen3-8b"),
    ],
)
def test_models_by_the_names_people_type(name: str, model_id: str) -> None:
    assert model_registry().resolve(name).id == model_id


@pytest.mark.parametrize(
    ("kind", "name", "near"), [("gpu", "rtx3061", "rtx3060"), ("model", "deepsek-r1-8b", "deepseek-r1-8b")]
)
def test_near_names_are_suggested(kind: str, name: str, near: str) -> None:
    registry = gpu_registry() if kind == "gpu" else model_registry()
    with pytest.raises(UnknownNameError) as caught:
        registry.resolve(name)

    assert str(caught.value) == f"no {'GPU' if kind == 'gpu' else kind} is called {name!r}"
    assert near in caught.value.hint
    assert caught.value.exit_code is ExitCode.USAGE


def test_nothing_near_says_where_to_look() -> None:
    with pytest.raises(UnknownNameError) as caught:
        model_registry().resolve("@@@@")

    assert "vramcalc models" in caught.value.hint


def test_cards_and_counts() -> None:
    registry = gpu_registry()

    assert [g.id for g in resolve_cards("2xRTX 4090 + rtx3060", registry).gpus] == ["rtx4090", "rtx4090", "rtx3060"]
    assert resolve_cards("11776MiB", registry).gpus[0].memory.advertised == 11776 * MIB
    assert "rtx3060-8gb" in resolve_cards("rtx3060", registry).notes[0]
    assert resolve_cards("rtx4090", registry).notes == ()


@pytest.mark.parametrize("text", ["", "0xrtx4090", "2x", "rtx4090+", "2xlocal", "0MiB", "9999xrtx4090"])
def test_machines_without_cards_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_cards(text, gpu_registry())

    assert caught.value.hint


def test_the_users_folder_is_merged_over_ours(own_folders: Path) -> None:
    write(own_folders / "models.yaml", MINE)
    write(own_folders / "gpus.yaml", MY_CARD + "  compute_capability: '8.6'\n")

    mine = model_registry().resolve("mine")
    assert (mine.name, mine.layers.n_layers, mine.hf_ids, mine.parameters.total) == ("My fine-tune", 32, (), 8030261248)
    assert gpu_registry().resolve("rtx3060").memory.advertised == 10 * GIB
    assert gpu_registry().resolve("rtx4090").memory.advertised == 24 * GIB


def test_a_file_with_sections_and_a_folder(tmp_path: Path) -> None:
    both = write(tmp_path / "extra.yaml", "models:\n" + MINE.replace("\n", "\n  ").rstrip() + "\ngpus: {}\n")
    write(tmp_path / "folder" / "models.yaml", MINE.replace("my-8b", "yours").replace("mine", "thine"))
    registry = model_registry([both, tmp_path / "folder"])

    assert registry.resolve("mine").id == "my-8b"
    assert registry.resolve("thine").id == "yours"
    assert gpu_registry([both]).resolve("rtx3060").id == "rtx3060"


ENTRY = "my-8b:\n  like: llama-3.1-8b\n  name: Mine\n  source: me\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(ENTRY + "  colour: red\n", "entry 'my-8b', field colour: Extra inputs", id="unknown field"),
        pytest.param(ENTRY + "  context: 0\n", "field context: Input should be greater than 0", id="context of 0"),
        pytest.param(
            ENTRY + "  aliases: [qwen3-8b]\n", "field aliases: 'qwen3-8b' already names 'qwen3-8b'", id="alias"
        ),
        pytest.param("my-8b:\n  name: Mine\n", "entry 'my-8b', field family: Field required", id="missing field"),
        pytest.param("my-8b:\n  like: nothing\n", "field like: no model has the id 'nothing'", id="like nothing"),
        pytest.param("my-8b:\n  like: deepseek-r1-8b\n", "field like: is itself `like` another", id="like a like"),
        pytest.param("my-8b: 3\n", "entry 'my-8b' is not a mapping", id="no mapping"),
        pytest.param("- a\n- b\n", "the top level is not a mapping", id="a list"),
        pytest.param("a: 1\na: 2\n", "line 2: 'a' is there twice", id="repeated key"),
        pytest.param("a: &x [1]\nb: *x\n", "YAML references", id="reference"),
        pytest.param("a: [" * 30 + "]" * 30, "nested more than", id="depth"),
        pytest.param("a: [1\n", "line 2", id="broken YAML"),
        pytest.param("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor", id="code"),
        pytest.param("a: \x01\n", "characters are not allowed", id="control character"),
        pytest.param("models: 3\n", "models is not a mapping", id="section is no mapping"),
    ],
)
def test_a_broken_registry_names_file_entry_field_and_reason(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "models.yaml", text)
    with pytest.raises(BadInputError) as caught:
        model_registry([path]).resolve("my-8b")

    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code is ExitCode.BAD_INPUT


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("n_kv_heads: 7", "n_heads=32 is not a multiple of n_kv_heads=7"),
        ("kind: sideways", "does not match any of the expected tags"),
    ],
)
def test_a_shape_that_cannot_be(tmp_path: Path, change: str, said: str) -> None:
    shape = {"kind": "full", "n_heads": "32", "n_kv_heads": "8", "head_dim": "128"}
    key, value = change.split(": ")
    attention = ", ".join(f"{k}: {v}" for k, v in {**shape, key: value}.items())
    kinds = f"{{d: {{attention: {{{attention}}}, mlp: {{kind: gated, ff_dim: 8}}}}}}"
    path = write(tmp_path / "models.yaml", f"{ENTRY}  layers:\n    n_layers: 2\n    kinds: {kinds}\n")
    with pytest.raises(BadInputError, match=said):
        model_registry([path]).resolve("my-8b")


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("{n_layers: 2, kinds: {d: K}, pattern: [e]}", "name kinds that are not defined: e"),
        ("{n_layers: 1, kinds: {d: K}, first: [d, d]}", "first lists 2 layers of 1"),
        ("{n_layers: 2, kinds: {d: K, e: K}}", "several kinds of layers and no pattern"),
        ("{n_layers: 2, kinds: {}}", "at least 1 item"),
        ("{n_layers: 5000, kinds: {d: K}}", "less than or equal to 4096"),
        ("{n_layers: 2, kinds: {d: M}}", "n_active_experts=9 exceeds n_experts=8"),
    ],
)
def test_a_stack_of_layers_that_cannot_be(tmp_path: Path, layers: str, said: str) -> None:
    kind = "{attention: {kind: full, n_heads: 2, n_kv_heads: 1, head_dim: 8}, mlp: {kind: gated, ff_dim: 8}}"
    moe = kind.replace("{kind: gated, ff_dim: 8}", "{kind: moe, n_experts: 8, n_active_experts: 9, ff_dim: 8}")
    path = write(tmp_path / "models.yaml", f"{ENTRY}  layers: {layers.replace('K', kind).replace('M', moe)}\n")
    with pytest.raises(BadInputError, match=said):
        model_registry([path]).resolve("my-8b")


def test_a_card_without_compute_capability(tmp_path: Path) -> None:
    path = write(tmp_path / "gpus.yaml", MY_CARD)
    with pytest.raises(BadInputError, match="compute_capability is missing"):
        gpu_registry([path]).resolve("rtx3060")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be read"):
        model_registry([tmp_path / "none" / "models.yaml"]).resolve("x")
    big = tmp_path / "models.yaml"
    big.write_bytes(b"#" * (9 << 20))
    with pytest.raises(BadInputError, match="larger than 8 MiB"):
        model_registry([big]).resolve("x")
    odd = write(tmp_path / "odd.yaml", "a: {}\n")
    with pytest.raises(UsageError, match="neither `models:` nor `gpus:`"):
        model_registry([odd]).resolve("x")


def test_an_empty_file_and_a_damaged_cache_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = write(tmp_path / "models.yaml", "")
    assert model_registry([path]).resolve("qwen3-8b").id == "qwen3-8b"
    for cached in (tmp_path / "vramcalc").iterdir():
        cached.write_text("[broken", encoding="utf-8")
    assert model_registry([path]).resolve("qwen3-8b").id == "qwen3-8b"
    for cached in (tmp_path / "vramcalc").iterdir():
        cached.write_text("[]", encoding="utf-8")
    assert model_registry([path]).resolve("qwen3-8b").id == "qwen3-8b"


def test_a_cache_folder_that_cannot_be_written_costs_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = write(tmp_path / "file", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))

    assert model_registry().resolve("qwen3-8b").id == "qwen3-8b"


@pytest.mark.parametrize("spec", [*model_registry().search(), *GPUS], ids=lambda spec: spec.id)
def test_a_spec_restored_without_a_validator_is_the_same(spec: Any) -> None:
    plain = json.decode(json.encode(spec.model_dump(mode="json")))

    assert type(spec).restore(plain) == spec
    assert type(spec).restore(plain).model_dump() == spec.model_dump()


def test_a_spec_of_another_release_is_not_restored() -> None:
    plain = GPUS[0].model_dump(mode="json")

    with pytest.raises(ValueError, match="not the fields of GpuSpec"):
        GpuSpec.restore({**plain, "colour": "red"})
    with pytest.raises(ValueError, match="not the fields of Memory"):
        GpuSpec.restore({**plain, "memory": {"advertised": 1}})


def test_a_kept_answer_of_another_release_is_looked_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert model_registry().resolve("qwen3-8b").id == "qwen3-8b"
    for kept in (tmp_path / "vramcalc").glob("model-*"):
        kept.write_text('{"spec": {"id": 3}, "variants": []}', encoding="utf-8")

    assert model_registry().resolve("qwen3-8b").id == "qwen3-8b"


def test_the_second_start_parses_no_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "models.yaml", MINE)
    model_registry([path]).resolve("mine")
    monkeypatch.setattr(yaml_file, "_parse", lambda *_: pytest.fail("parsed again"))

    assert model_registry([path]).resolve("mine").id == "my-8b"


def test_dates_people_leave_unquoted(tmp_path: Path) -> None:
    path = write(tmp_path / "models.yaml", ENTRY + "  released: 2025-01-20\n")

    assert model_registry([path]).resolve("my-8b").released == "2025-01-20"


def test_every_error_of_ours_carries_an_exit_code() -> None:
    assert AppError("x").exit_code is ExitCode.BAD_INPUT
    assert UnavailableError("x").exit_code is ExitCode.UNAVAILABLE
