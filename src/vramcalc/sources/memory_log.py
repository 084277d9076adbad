"""Memory in use over time: from a log of ``nvidia-smi``, or sampled from this machine's drivers."""

import csv
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from vramcalc.errors import BadInputError
from vramcalc.sources.this_machine import MachineReading
from vramcalc.units import MIB, parse_bytes

_MOST_LINES = 1_000_000
_ADVICE = "log it with: nvidia-smi --query-gpu=timestamp,index,memory.used --format=csv -l 5"
_TIMES = ("%Y/%m/%d %H:%M:%S.%f", "%Y/%m/%d %H:%M:%S")

Series = Mapping[str, list[tuple[float, int]]]  # GPU to seconds and bytes


def read_log(lines: Iterable[str], name: str) -> Series:
    """Return each GPU's memory in use by a CSV with a header: ``timestamp``, ``memory.used``, perhaps ``index``.

    Raises ``BadInputError`` naming the line that is none. A last line that breaks off is left out.
    """
    rows = csv.reader((line for line, _ in zip(lines, range(_MOST_LINES), strict=False)), skipinitialspace=True)
    header = [cell.partition("[")[0].strip() for cell in next(rows, [])]
    if not {"timestamp", "memory.used"} <= set(header):
        raise BadInputError(f"{name}: its first line does not name timestamp and memory.used", _ADVICE)
    series: dict[str, list[tuple[float, int]]] = {}
    problem: str | None = None
    for number, row in enumerate(rows, 2):
        if problem is not None:
            raise BadInputError(problem, _ADVICE)
        cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
        try:
            sample = _seconds(cells["timestamp"]), _used(cells["memory.used"])
        except (KeyError, ValueError, OverflowError):
            problem = f"{name}, line {number}: no time and memory in it"
            continue
        series.setdefault(f"gpu{cells.get('index', '0')}", []).append(sample)
    if not series:
        raise BadInputError(f"{name} holds no sample", _ADVICE)
    return series


def sample_machine(
    read: Callable[[], MachineReading],
    *,
    interval_s: float,
    duration_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[float, MachineReading]]:
    """Yield a reading at once and then every ``interval_s`` until ``duration_s`` are over."""
    began = clock()
    while (now := clock() - began) <= duration_s:
        yield now, read()
        sleep(max(0.0, interval_s - (clock() - began - now)))


def _seconds(text: str) -> float:
    for form in _TIMES:
        try:
            return datetime.strptime(text, form).timestamp()  # noqa: DTZ007 - the log's own clock
        except ValueError:
            continue
    seconds = float(text)
    if not math.isfinite(seconds):
        raise ValueError(text)
    return seconds


def _used(text: str) -> int:
    return int(text) * MIB if text.isdecimal() else parse_bytes(text)
