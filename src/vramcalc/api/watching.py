"""Use case of ``watch``: memory in use over time, from a log or from this machine."""

import contextlib
from collections.abc import Iterable, Mapping

from vramcalc.errors import UnavailableError
from vramcalc.formulas.trend import read_trend
from vramcalc.reports.schema import SCHEMA_VERSION, EstimateReport
from vramcalc.reports.watching import WatchedGpu, WatchReport
from vramcalc.sources.memory_log import Series, read_log, sample_machine
from vramcalc.sources.this_machine import read_machine


def watch_log(lines: Iterable[str], name: str, expected: EstimateReport | None = None) -> WatchReport:
    """Return how memory in use moves by a log of ``nvidia-smi``. Raises ``BadInputError``."""
    return _report(read_log(lines, name), expected)


def watch_machine(*, interval_s: float, duration_s: float, expected: EstimateReport | None = None) -> WatchReport:
    """Return how memory in use moves on this machine; an interrupt ends it early. Raises ``UnavailableError``."""
    series: dict[str, list[tuple[float, int]]] = {}
    with contextlib.suppress(KeyboardInterrupt):
        for seconds, reading in sample_machine(read_machine, interval_s=interval_s, duration_s=duration_s):
            for number, gpu in enumerate(reading.gpus):
                if gpu.used_bytes is not None:
                    series.setdefault(f"gpu{number}", []).append((seconds, gpu.used_bytes))
            if not series:
                reason = "; ".join(reading.failures) or "no GPU whose memory in use can be read is here"
                raise UnavailableError(reason, "log it where it runs, and name the log: --from FILE")
    return _report(series, expected)


def _report(series: Series, expected: EstimateReport | None) -> WatchReport:
    needs = _needs(expected)
    gpus = []
    for name in sorted(series):
        trend = read_trend(series[name])
        gpus.append(
            WatchedGpu(
                name=name,
                verdict=trend.verdict,
                bytes_per_hour=trend.bytes_per_hour,
                low_bytes_per_hour=trend.low_bytes_per_hour,
                high_bytes_per_hour=trend.high_bytes_per_hour,
                n_samples=trend.n_samples,
                span_s=trend.span_s,
                peak_bytes=trend.peak_bytes,
                expected_bytes=needs.get(name),
            )
        )
    return WatchReport(SCHEMA_VERSION, tuple(gpus))


def _needs(expected: EstimateReport | None) -> Mapping[str, int]:
    if expected is None:
        return {}
    return {d.name: d.need_high_bytes + d.outside_budget_bytes for d in expected.devices if d.kind == "gpu"}
