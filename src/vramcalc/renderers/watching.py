"""Memory in use over time, a line per GPU."""

from msgspec import json

from vramcalc.renderers.grid import Page
from vramcalc.reports.watching import WatchedGpu, WatchReport
from vramcalc.units import MIB, format_gib


def render_watch(report: WatchReport, *, as_json: bool) -> str:
    """Return the verdict of each GPU with its rate and interval."""
    if as_json:
        return json.format(json.encode(report), indent=2).decode()
    page = Page()
    page.sentences(
        (gpu.name, f"{_verdict(gpu)}; peak {format_gib(gpu.peak_bytes)}{_expected(gpu)}") for gpu in report.gpus
    )
    return page.text()


def _verdict(gpu: WatchedGpu) -> str:
    if gpu.verdict == "too_short":
        return f"too short to tell: {gpu.n_samples} samples behind the warm-up"
    rate, low, high = (
        f"{round(n_bytes / MIB):,}" for n_bytes in (gpu.bytes_per_hour, gpu.low_bytes_per_hour, gpu.high_bytes_per_hour)
    )
    over = f"over {gpu.span_s / 60:,.0f} min, {gpu.n_samples} samples"
    return f"{gpu.verdict}: {rate} MiB per hour ({low} to {high}, 99 %) {over}"


def _expected(gpu: WatchedGpu) -> str:
    if gpu.expected_bytes is None:
        return ""
    is_over = gpu.peak_bytes > gpu.expected_bytes
    return f", {'more than' if is_over else 'within'} the {format_gib(gpu.expected_bytes)} the model takes at most"
