"""This machine's cards, from what drivers and tools printed elsewhere: no GPU is here."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from typer.testing import CliRunner, Result

from vramcalc import api
from vramcalc.cli import app
from vramcalc.errors import UnavailableError, UsageError
from vramcalc.sources import this_machine
from vramcalc.sources.local_cards import match_cards
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.registry import gpu_registry
from vramcalc.sources.this_machine import (
    GpuReading,
    MachineReading,
    parse_apple,
    parse_rocm_names,
    parse_smi,
    read_amd,
    read_host_memory,
    read_machine,
    read_nvml,
)
from vramcalc.units import GIB, MIB

RTX_3060 = GpuReading("NVIDIA GeForce RTX 3060", "nvidia", 12288 * MIB, 900 * MIB, "NVML")
RTX_4090 = GpuReading("NVIDIA GeForce RTX 4090", "nvidia", 24564 * MIB, 0, "NVML")
STRANGE = GpuReading("NVIDIA Prototype 7", "nvidia", 20000 * MIB, 1000 * MIB, "NVML")


def machine(*gpus: GpuReading, failures: tuple[str, ...] = ()) -> MachineReading:
    return MachineReading(gpus, 64 * GIB, 50 * GIB, "linux", failures)


def here(monkeypatch: pytest.MonkeyPatch, *gpus: GpuReading, failures: tuple[str, ...] = ()) -> None:
    for module in ("sources.local_cards", "api.detecting"):
        monkeypatch.setattr(f"vramcalc.{module}.read_machine", lambda: machine(*gpus, failures=failures))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100", "NO_COLOR": "1"})


class Nvml:
    """The part of NVML that is asked for; ``memory`` by version, an error where it is an int."""

    NVMLError = pynvml.NVMLError
    NVML_ERROR_LIBRARY_NOT_FOUND = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    NVML_ERROR_DRIVER_NOT_LOADED = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    nvmlMemory_v2 = 2  # noqa: N815

    def __init__(self, name: str | bytes = "", memory: dict[int | None, object] | None = None, init: int = 0) -> None:
        self.name, self.memory, self.init, self.is_open = name, memory or {}, init, False

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init:
            raise self.NVMLError(self.init)
        self.is_open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, _: object) -> str | bytes:  # noqa: N802
        return self.name

    def nvmlDeviceGetMemoryInfo(self, _: object, version: int | None = None) -> object:  # noqa: N802
        found = self.memory[version]
        if isinstance(found, int):
            raise self.NVMLError(found)
        return found


def memory(total: int, used: int) -> SimpleNamespace:
    return SimpleNamespace(total=total * MIB, used=used * MIB)


@pytest.mark.parametrize(
    ("answers", "used"),
    [
        pytest.param({2: memory(12288, 900), None: memory(12288, 1150)}, 900, id="less what the driver keeps"),
        pytest.param({2: 13, None: memory(12288, 1150)}, 1150, id="an older driver"),
    ],
)
@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 3060", b"NVIDIA GeForce RTX 3060"])
def test_nvml(answers: dict[int | None, object], used: int, name: str | bytes) -> None:
    nvml = Nvml(name, answers)
    assert read_nvml(nvml) == [GpuReading("NVIDIA GeForce RTX 3060", "nvidia", 12288 * MIB, used * MIB, "NVML")]
    assert not nvml.is_open


def test_nvml_of_memory_shared_with_the_host() -> None:
    assert read_nvml(Nvml("NVIDIA GB10", {2: 3, None: 3})) == [GpuReading("NVIDIA GB10", "nvidia", None, None, "NVML")]


def test_nvml_without_a_driver_and_with_a_broken_one() -> None:
    assert read_nvml(Nvml(init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)) == []
    assert read_nvml(Nvml(init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)) == []
    with pytest.raises(UnavailableError, match="NVIDIA's driver answers: RM has detected an NVML/RM version mismatch"):
        read_nvml(Nvml(init=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH))


def test_nvidia_smi() -> None:
    text = "NVIDIA GeForce RTX 3060, 12288, 900\nNVIDIA GB10, [N/A], [N/A]\n"
    assert [(gpu.name, gpu.total_bytes, gpu.used_bytes) for gpu in parse_smi(text)] == [
        ("NVIDIA GeForce RTX 3060", 12288 * MIB, 900 * MIB),
        ("NVIDIA GB10", None, None),
    ]
    with pytest.raises(UnavailableError, match="nvidia-smi answers: Failed to initialize NVML"):
        parse_smi("Failed to initialize NVML: Driver/library version mismatch\n")


def card(root: Path, number: int, **files: str) -> None:
    device = root / f"card{number}" / "device"
    device.mkdir(parents=True)
    for name, text in files.items():
        (device / name).write_text(f"{text}\n")


def test_sysfs_of_amd(tmp_path: Path) -> None:
    total, used = 25753026560, 27615232  # 24560 MiB
    card(tmp_path, 0, vendor="0x8086")
    card(tmp_path, 10, vendor="0x1002", mem_info_vram_total=str(total), mem_info_vram_used=str(used))
    card(tmp_path, 9, vendor="0x1002", mem_info_vram_total=str(total), mem_info_vram_used="?", product_name="")
    names = {
        "card0": {"Card Series": "Radeon RX 7900 XTX"},
        "card1": {"Card series": "Radeon RX 7900 XT"},
        "system": {},
    }

    assert read_amd(tmp_path, lambda _: json.dumps(names)) == [
        GpuReading("Radeon RX 7900 XTX", "amd", total, None, "sysfs"),
        GpuReading("Radeon RX 7900 XT", "amd", total, used, "sysfs"),
    ]
    assert [gpu.name for gpu in read_amd(tmp_path, lambda _: None)] == ["AMD GPU"] * 2
    assert read_amd(tmp_path / "nothing") == []


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "3", '{"card0": 7}', "[" * 5000])
def test_names_that_are_none(text: str) -> None:
    assert parse_rocm_names(text) == []


def test_sysctl_of_apple() -> None:
    assert parse_apple("Apple M1 Max\n68719476736\n") == [GpuReading("Apple M1 Max", "apple", 64 * GIB, None, "sysctl")]
    assert parse_apple("Intel(R) Core(TM) i7\n17179869184\n") == []
    assert parse_apple("") == []


@pytest.mark.parametrize(
    ("gpu", "known"),
    [
        (RTX_3060, "rtx3060"),
        (GpuReading("NVIDIA GeForce RTX 3060", "nvidia", 8192 * MIB, 0, "NVML"), "rtx3060-8gb"),
        (GpuReading("NVIDIA GeForce RTX 3060 Laptop GPU", "nvidia", 6144 * MIB, 0, "NVML"), "rtx3060-laptop"),
        (GpuReading("NVIDIA H100 80GB HBM3", "nvidia", 81559 * MIB, 0, "NVML"), "h100-sxm"),
        (GpuReading("NVIDIA A100-SXM4-40GB", "nvidia", 40960 * MIB, 0, "NVML"), "a100-40gb-sxm"),
        (GpuReading("Tesla T4", "nvidia", 15360 * MIB, 0, "NVML"), "t4"),
        (GpuReading("NVIDIA GB10", "nvidia", None, None, "NVML"), "gb10"),
        (GpuReading("Radeon RX 7900 XTX", "amd", 24560 * MIB, 0, "sysfs"), "rx7900xtx"),
        (GpuReading("Apple M1 Max", "apple", 64 * GIB, None, "sysctl"), "m1-max-64gb"),
        (GpuReading("NVIDIA GeForce RTX 3060", "nvidia", 10000 * MIB, 0, "NVML"), None),
        (STRANGE, None),
    ],
)
def test_a_card_is_known_by_name_and_memory(gpu: GpuReading, known: str | None) -> None:
    (found,) = match_cards(machine(gpu), gpu_registry())
    assert (found.known and found.known.id) == known


def test_what_others_hold_is_the_reserve_of_each_card(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, RTX_3060, RTX_4090)
    local = api.estimate("qwen3-8b", "local", engines=["llama.cpp"]).estimates[0]
    named = api.estimate("qwen3-8b", "rtx3060+rtx4090", engines=["llama.cpp"]).estimates[0]

    assert [gpu.id for gpu in local.machine.gpus] == ["rtx3060", "rtx4090"]
    budgets = [(a.budget_bytes or 0) - (b.budget_bytes or 0) for a, b in zip(named.devices, local.devices, strict=True)]
    assert budgets[:2] == [900 * MIB, 0]
    assert local.machine.reserve_bytes == 900 * MIB


def test_a_stated_reserve_stands_above_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, RTX_3060)
    result = run("estimate", "-m", "qwen3-8b", "-g", "local", "-e", "llama.cpp", "--reserve", "2GiB", "--json")
    assert json.loads(result.stdout)["estimates"][0]["machine"]["reserve_bytes"] == 2 * GIB


def test_an_unknown_card_is_one_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, STRANGE)
    found = resolve_cards("local", gpu_registry())

    assert found.gpus[0].memory.advertised == 19000 * MIB  # 20000 - 1000 used
    assert found.used_bytes == (0,)
    assert found.notes == ("NVIDIA Prototype 7 is in no registry: taken as a CUDA card with 19000MiB free, no speed",)


def test_one_machine_of_ours_and_a_card_to_buy(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, RTX_3060)
    found = resolve_cards("local+rtx4090", gpu_registry())
    assert ([gpu.id for gpu in found.gpus], found.used_bytes) == (["rtx3060", "rtx4090"], (900 * MIB, 0))
    with pytest.raises(UsageError, match="counts this machine's own cards"):
        resolve_cards("2xlocal", gpu_registry())


def test_no_gpu_is_an_answer_of_detect_and_none_of_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch)
    found = run("detect")
    assert (found.exit_code, found.stdout.splitlines()[0]) == (
        0,
        "No GPU that can be read is here (NVIDIA, AMD under Linux, Apple).",
    )
    assert json.loads(run("detect", "--json").stdout)["gpus"] == []
    assert run("estimate", "-m", "qwen3-8b", "-g", "local").exit_code == 5


def test_a_driver_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, failures=("NVIDIA's driver answers: Unknown Error",))
    for command in (("detect",), ("estimate", "-m", "qwen3-8b", "-g", "local")):
        result = run(*command)
        assert result.exit_code == 5
        assert result.stderr.startswith("error: NVIDIA's driver answers: Unknown Error\nadvice: ")


def test_what_detect_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, RTX_3060, STRANGE)
    assert run("detect").stdout == (
        "gpu0  NVIDIA GeForce RTX 3060 (rtx3060): 12.00 GiB, 0.88 GiB used, 10.88 GiB for a process\n"
        "gpu1  NVIDIA Prototype 7: 19.53 GiB, 0.98 GiB used, 18.55 GiB for a process\n"
        "host  64.00 GiB, 50.00 GiB available now\n"
        "note  NVIDIA Prototype 7 is in no registry of ours\n"
        "Ask with --gpu local --ram local.\n"
    )


def test_cards_hidden_from_processes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_machine, "read_nvidia", lambda: [RTX_3060, RTX_4090])
    monkeypatch.setattr(this_machine, "read_amd", list)
    for text, names in {"1": [RTX_4090], "1,0": [RTX_4090, RTX_3060], "GPU-abc": [RTX_3060, RTX_4090]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert list(read_machine().gpus) == names


def test_tools_that_fail_or_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> Any:
        return subprocess.CompletedProcess((), 9, b"No devices were found\n", b"")

    def hanging(*_: object, **__: object) -> Any:
        raise subprocess.TimeoutExpired("nvidia-smi", 10)

    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    for tool, fact in {failing: "nvidia-smi answers: No devices were found", hanging: "does not answer"}.items():
        monkeypatch.setattr(subprocess, "run", tool)
        with pytest.raises(UnavailableError, match=fact):
            this_machine.read_nvidia()


def test_host_memory_is_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    total, available = read_host_memory()
    assert total is not None
    assert available is not None
    assert 0 < available <= total
    result = run("estimate", "-m", "qwen3-8b", "-g", "rtx3060", "-e", "ollama", "--ram", "local", "--json")
    assert json.loads(result.stdout)["estimates"][0]["machine"]["host_memory_bytes"] == total
    monkeypatch.setitem(__import__("sys").modules, "psutil", None)
    assert read_host_memory() == (total, None)
