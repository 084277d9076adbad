"""Whether memory in use grows: known slopes found, steps and noise not taken for leaks, logs read or refused."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from vramcalc.cli import app
from vramcalc.errors import AppError, BadInputError
from vramcalc.formulas.trend import read_trend
from vramcalc.sources.memory_log import read_log, sample_machine
from vramcalc.sources.this_machine import GpuReading, MachineReading
from vramcalc.units import GIB, MIB

HOUR = 3600
HEADER = "timestamp, index, memory.used [MiB]\n"


def series(
    rate_mib: float, *, noise_mib: float = 0, n: int = 240, step_at: int | None = None
) -> list[tuple[float, int]]:
    """Return an hour of samples that grow by ``rate_mib`` an hour around 8 GiB."""
    dice = random.Random(7)  # noqa: S311
    return [
        (
            i * HOUR / n,
            8 * GIB
            + round((rate_mib * i / n + dice.uniform(-noise_mib, noise_mib)) * MIB)
            + (512 * MIB if step_at is not None and i >= step_at else 0),
        )
        for i in range(n)
    ]


@pytest.mark.parametrize(
    ("samples", "verdict", "rate_mib"),
    [
        pytest.param(series(0), "steady", 0, id="flat"),
        pytest.param(series(100), "growing", 100, id="100 MiB an hour"),
        pytest.param(series(100, noise_mib=50), "growing", 100, id="under noise of 50 MiB: 9 MiB an hour"),
        pytest.param(series(0, noise_mib=50), "steady", 0, id="noise alone"),
        pytest.param(series(0, step_at=180), "steady", 0, id="one step: a larger batch, no leak"),
        pytest.param(series(-100), "shrinking", -100, id="giving back"),
        pytest.param(series(0.5), "steady", 0.5, id="less than 1 MiB in all"),
        pytest.param(series(100, n=12), "too_short", 0, id="too few samples"),
        pytest.param([], "too_short", 0, id="none"),
        pytest.param([(1.0, GIB)] * 50, "too_short", 0, id="no time between"),
    ],
)
def test_known_slopes(samples: list[tuple[float, int]], verdict: str, rate_mib: float) -> None:
    found = read_trend(samples)
    assert found.verdict == verdict
    assert found.bytes_per_hour / MIB == pytest.approx(rate_mib, abs=30)
    assert found.low_bytes_per_hour <= found.bytes_per_hour <= found.high_bytes_per_hour


def test_what_a_start_takes_is_no_leak() -> None:
    loading = [(float(i), 8 * GIB * min(i, 100) // 100) for i in range(1000)]
    assert read_trend(loading).verdict == "steady"


def test_noise_alone_is_rarely_called_a_leak() -> None:
    dice = random.Random(1)  # noqa: S311
    runs = [[(float(i * 60), GIB + dice.randrange(100 * MIB)) for i in range(60)] for _ in range(200)]
    assert sum(read_trend(run).verdict != "steady" for run in runs) <= 8  # 1 % are expected


def log(rate_mib: int, gpus: int = 1) -> str:
    lines = [
        f"2026/10/05 {i // 60:02}:{i % 60:02}:00.000, {gpu}, {8000 + gpu * rate_mib * i // 60} MiB\n"
        for i in range(180)
        for gpu in range(gpus)
    ]
    return HEADER + "".join(lines)


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["watch", *arguments], input=stdin, env={"COLUMNS": "100", "NO_COLOR": "1"})


def test_a_log_of_nvidia_smi(tmp_path: Path) -> None:
    path = tmp_path / "used.csv"
    path.write_text(log(120, gpus=2))
    result = run("--from", str(path), "--check")

    assert result.exit_code == 3
    first, second = result.stdout.splitlines()
    assert first == "gpu0  steady: 0 MiB per hour (0 to 0, 99 %) over 143 min, 144 samples; peak 7.81 GiB"
    assert second.startswith("gpu1  growing: 120 MiB per hour (")
    assert run("--from", "-", "--check", stdin=log(0)).exit_code == 0
    assert json.loads(run("--from", "-", "--json", stdin=log(0)).stdout)["gpus"][0]["verdict"] == "steady"


def test_the_need_of_what_runs() -> None:
    result = run("--from", "-", "-m", "deepseek-r1-8b", "-g", "rtx3060", "-c", "4096", stdin=log(0))
    assert " ".join(result.stdout.split()).endswith("peak 7.81 GiB, more than the 5.00 GiB the model takes at most")


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        pytest.param("", "does not name timestamp", id="empty"),
        pytest.param("a,b\n1,2\n", "does not name timestamp", id="no header"),
        pytest.param(HEADER, "holds no sample", id="a header alone"),
        pytest.param(HEADER + "x, 0, 1 MiB\n5, 0, 1 MiB\n", "line 2: no time", id="no time"),
        pytest.param(HEADER + "inf, 0, 1 MiB\n5, 0, 1 MiB\n", "line 2: no time", id="no end of time"),
        pytest.param(HEADER + "5, 0, [N/A]\n5, 0, 1 MiB\n", "line 2: no time and memory", id="no memory"),
    ],
)
def test_what_is_no_log_is_refused(text: str, fact: str) -> None:
    with pytest.raises(BadInputError, match=fact):
        read_log(text.splitlines(keepends=True), "log")
    result = run("--from", "-", stdin=text)
    assert result.exit_code == 4


def test_a_last_line_that_breaks_off_is_left_out() -> None:
    assert read_log([HEADER, "1, 0, 5 MiB\n", "2, 0, 6 Mi"], "log") == {"gpu0": [(1.0, 5 * MIB)]}


@given(st.text(st.sampled_from('0123456789,.:/ \n"MiBnan-e'), max_size=60))
def test_no_log_is_more_than_refused(text: str) -> None:
    try:
        found = read_log([HEADER, *text.splitlines(keepends=True)], "log")
    except AppError:
        return
    for samples in found.values():
        assert read_trend(samples).n_samples <= len(samples)


def test_sampling_keeps_its_beat() -> None:
    now = [100.0]
    reading = MachineReading((GpuReading("x", "nvidia", GIB, MIB, "NVML"),), None, None, "linux", ())

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def read() -> MachineReading:
        now[0] += 0.25  # a look takes its time
        return reading

    times = [t for t, _ in sample_machine(read, interval_s=5, duration_s=20, sleep=sleep, clock=lambda: now[0])]
    assert times == [0, 5, 10, 15, 20]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramcalc.api.watching.read_machine", lambda: MachineReading((), None, None, "linux", ()))
    result = run("--duration", "1s")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        5,
        "error: no GPU whose memory in use can be read is here",
    )
    assert run("--interval", "often").exit_code == 2
    assert run("--from", "nothing.csv").exit_code == 5
