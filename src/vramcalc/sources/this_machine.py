"""The machine at hand: its GPUs with what of their memory is in use, and its host memory.

NVIDIA's cards through NVML (nvidia-ml-py), else ``nvidia-smi``; AMD's through the kernel's sysfs; Apple's chips through
``sysctl``. A driver that is not there has no cards; one that fails is told.
"""

import csv
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import DecodeError, Struct, json

from vramcalc.errors import UnavailableError
from vramcalc.specs.gpu import OperatingSystem
from vramcalc.units import MIB

_DRM = Path("/sys/class/drm")
_AMD = "0x1002"
_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits")
_PATIENCE_S = 10.0
_MOST_TEXT = 1 << 20


class GpuReading(Struct, frozen=True):
    """One GPU as its driver shows it; sizes are None where the driver does not say (memory shared with the host)."""

    name: str
    vendor: str
    total_bytes: int | None
    used_bytes: int | None
    reader: str


class MachineReading(Struct, frozen=True):
    """What was read; ``failures`` says in a line each which drivers are there and do not answer."""

    gpus: tuple[GpuReading, ...]
    host_memory_bytes: int | None
    host_available_bytes: int | None
    os: OperatingSystem
    failures: tuple[str, ...]


def read_machine() -> MachineReading:
    """Return the machine at hand. Nothing that is not there, or does not answer, is an error here."""
    gpus: list[GpuReading] = []
    failures: list[str] = []
    for reader in (read_nvidia, read_amd, read_apple):
        try:
            gpus += reader()
        except UnavailableError as error:
            failures.append(str(error))
    total, available = read_host_memory()
    return MachineReading(tuple(_visible(gpus)), total, available, read_system(), tuple(failures))


def read_nvidia() -> list[GpuReading]:
    """Return NVIDIA's cards. Raises ``UnavailableError`` where their driver is there and does not answer."""
    try:
        import pynvml  # noqa: PLC0415 - an extra
    except ImportError:
        text = _output(_SMI)
        return [] if text is None else parse_smi(text)
    return read_nvml(pynvml)


def read_nvml(nvml: Any) -> list[GpuReading]:  # noqa: ANN401 - an untyped library
    """Return the cards of NVML, used memory without what the driver keeps where it tells the two apart."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED):
            return []
        raise UnavailableError(f"NVIDIA's driver answers: {error}") from error
    try:
        count = nvml.nvmlDeviceGetCount()
        return [_nvml_card(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
    except nvml.NVMLError as error:
        raise UnavailableError(f"NVIDIA's driver answers: {error}") from error
    finally:
        nvml.nvmlShutdown()


def _nvml_card(nvml: Any, handle: object) -> GpuReading:  # noqa: ANN401
    name = nvml.nvmlDeviceGetName(handle)
    text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    for version in (nvml.nvmlMemory_v2, None):  # older drivers know the first kind alone
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=version)
        except nvml.NVMLError:
            continue
        return GpuReading(text, "nvidia", int(memory.total), int(memory.used), "NVML")
    return GpuReading(text, "nvidia", None, None, "NVML")


def parse_smi(text: str) -> list[GpuReading]:
    """Return the cards of ``nvidia-smi --query-gpu=name,memory.total,memory.used``, in MiB without units."""
    cards = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != 3:  # noqa: PLR2004
            raise UnavailableError(f"nvidia-smi answers: {' '.join(text.split())[:160]}")
        name, total, used = (cell.strip() for cell in row)
        cards.append(GpuReading(name, "nvidia", _mib(total), _mib(used), "nvidia-smi"))
    return cards


def _mib(text: str) -> int | None:
    return int(text) * MIB if text.isascii() and text.isdecimal() else None


def read_amd(root: Path = _DRM, run: "Callable[[tuple[str, ...]], str | None] | None" = None) -> list[GpuReading]:
    """Return AMD's cards from sysfs; their names from it, else from ``rocm-smi``."""
    cards = []
    for device in sorted(root.glob("card*/device"), key=lambda path: (len(path.parent.name), path.parent.name)):
        if _text(device / "vendor") != _AMD:
            continue
        total, used = _text(device / "mem_info_vram_total"), _text(device / "mem_info_vram_used")
        if total.isdecimal() and int(total) > 0:
            cards.append((_text(device / "product_name"), int(total), int(used) if used.isdecimal() else None))
    if not cards:
        return []
    names = [] if all(name for name, _, _ in cards) else parse_rocm_names((run or _output)(_ROCM) or "")
    return [
        GpuReading(name or (names[i] if i < len(names) else "AMD GPU"), "amd", total, used, "sysfs")
        for i, (name, total, used) in enumerate(cards)
    ]


_ROCM = ("rocm-smi", "--showproductname", "--json")


def parse_rocm_names(text: str) -> list[str]:
    """Return the cards' names in order, by the JSON of ``rocm-smi --showproductname``; none where it is no such."""
    try:
        found = json.decode(text.encode())
    except (DecodeError, RecursionError):
        return []
    if not isinstance(found, dict):
        return []
    cards = {key: card for key, card in found.items() if key.startswith("card") and isinstance(card, dict)}
    ordered = sorted(cards, key=lambda key: (len(key), key))
    return [str(_either(cards[key], "Card Series", "Card series") or "AMD GPU") for key in ordered]


def _either(card: Mapping[str, object], *keys: str) -> object:
    return next((card[key] for key in keys if card.get(key)), None)


def read_apple() -> list[GpuReading]:
    """Return an Apple chip: its GPU shares the memory."""
    if platform.system() != "Darwin":
        return []
    return parse_apple(_output(("sysctl", "-n", "machdep.cpu.brand_string", "hw.memsize")) or "")


def parse_apple(text: str) -> list[GpuReading]:
    """Return the chip of ``sysctl -n machdep.cpu.brand_string hw.memsize``; Intel's have no GPU of use."""
    name, _, size = text.strip().partition("\n")
    if not name.startswith("Apple") or not size.strip().isdecimal():
        return []
    return [GpuReading(name.strip(), "apple", int(size), None, "sysctl")]


def read_host_memory() -> tuple[int | None, int | None]:
    """Return the bytes of host memory, and those available now; None where nobody says."""
    try:
        import psutil  # noqa: PLC0415 - an extra
    except ImportError:
        return _host_memory_of_posix(), None
    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def _host_memory_of_posix() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def read_system() -> OperatingSystem:
    """Return the operating system, as drivers see it."""
    if "microsoft" in platform.release().lower():
        return "wsl"
    systems: dict[str, OperatingSystem] = {"Windows": "windows", "Darwin": "macos"}
    return systems.get(platform.system(), "linux")


def _visible(gpus: list[GpuReading]) -> Iterator[GpuReading]:
    """Yield the cards that CUDA_VISIBLE_DEVICES leaves to a process, where it names them by number."""
    numbers = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    nvidia = [gpu for gpu in gpus if gpu.vendor == "nvidia"]
    chosen = nvidia
    if all(number.strip().isdecimal() for number in numbers):
        chosen = [nvidia[int(number)] for number in numbers if int(number) < len(nvidia)]
    yield from chosen
    yield from (gpu for gpu in gpus if gpu.vendor != "nvidia")


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return ""


def _output(command: tuple[str, ...]) -> str | None:
    """Return what a tool prints; None where there is no such tool. Raises ``UnavailableError`` where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE_S, check=False)  # noqa: S603 - fixed words
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{command[0]} does not answer: {error}") from error
    text = done.stdout[:_MOST_TEXT].decode(errors="replace")
    if done.returncode:
        said = " ".join((text + done.stderr.decode(errors="replace")).split())
        raise UnavailableError(f"{command[0]} answers: {said[:160]}")
    return text
