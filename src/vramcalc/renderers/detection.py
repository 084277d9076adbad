"""This machine, a line per GPU."""

from msgspec import json

from vramcalc.renderers.grid import Page
from vramcalc.reports.detection import DetectedGpu, Detection
from vramcalc.units import format_gib


def render_detection(found: Detection, *, as_json: bool) -> str:
    """Return what is here, and how to ask for it."""
    if as_json:
        return json.format(json.encode(found), indent=2).decode()
    page = Page()
    lines = [(f"gpu{number}", _gpu(gpu)) for number, gpu in enumerate(found.gpus)]
    if not lines:
        page.sentences([("", "No GPU that can be read is here (NVIDIA, AMD under Linux, Apple).")])
    if found.host_memory_bytes is not None:
        available = found.host_available_bytes
        left = "" if available is None else f", {format_gib(available)} available now"
        lines.append(("host", f"{format_gib(found.host_memory_bytes)}{left}"))
    lines += [("note", note) for note in found.notes]
    page.sentences(lines)
    if found.gpus:
        page.sentences([("", "Ask with --gpu local --ram local.")])
    return page.text()


def _gpu(gpu: DetectedGpu) -> str:
    total = "memory not shown" if gpu.total_bytes is None else format_gib(gpu.total_bytes)
    used = "" if gpu.used_bytes is None else f", {format_gib(gpu.used_bytes)} used"
    usable = "" if gpu.usable_bytes is None else f", {format_gib(gpu.usable_bytes)} for a process"
    known = f" ({gpu.id})" if gpu.id else ""
    return f"{gpu.name}{known}: {total}{used}{usable}"
