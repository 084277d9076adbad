"""One row per estimate: CSV for scripts, Markdown for issues and chats."""

import csv
import io

from vramcalc.renderers import by_machine
from vramcalc.renderers.words import VERDICT_WORDS, engine_title, machine_words, verdict_sentence
from vramcalc.reports.schema import EstimateReport, Report
from vramcalc.units import GIB

_COMPONENTS = ("weights", "kv_cache", "state", "compute_buffer", "runtime", "unaccounted")
_CSV_COLUMNS = (
    *("model", "gpus", "nodes", "engine", "engine_version", "weight_format", "cache_format"),
    *("n_context", "n_sequences", "verdict", "device", "kind"),
    *(f"{c}_bytes" for c in _COMPONENTS),
    *("need_bytes", "need_low_bytes", "need_high_bytes", "budget_bytes", "headroom_bytes", "outside_budget_bytes"),
    *("max_context", "refusal"),
)


def render_csv(report: Report) -> str:
    """Return a row per estimate and device; a refused estimate is one row without figures."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _CSV_COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for estimate in report.estimates:
        shared = _shared(estimate)
        for device in estimate.devices or (None,):
            figures = {} if device is None else {c: getattr(device, c, "") for c in _CSV_COLUMNS}
            name = {} if device is None else {"device": device.name}
            writer.writerow({**figures, **shared, **name})
    return buffer.getvalue()


def _shared(estimate: EstimateReport) -> dict[str, object]:
    return {
        "model": estimate.model.id,
        "gpus": "+".join(gpu.id for gpu in estimate.machine.gpus),
        "nodes": estimate.machine.nodes,
        "engine": estimate.engine.name,
        "engine_version": estimate.engine.version,
        "weight_format": estimate.weight_format,
        "cache_format": estimate.cache_format,
        "n_context": estimate.workload.n_context,
        "n_sequences": estimate.workload.n_sequences,
        "verdict": estimate.verdict,
        "max_context": estimate.limits.max_context if estimate.limits else None,
        "refusal": estimate.refusal.reason if estimate.refusal else None,
    }


def render_markdown(report: Report) -> str:
    """Return a heading, the answers and a table per machine."""
    parts = []
    for estimates in by_machine(report):
        first = estimates[0]
        parts.append(f"### {first.model.name} on {machine_words(first.machine)}\n")
        parts += [f"- {_escaped(verdict_sentence(e))}" for e in estimates]
        parts.append(
            "\n| engine | format | device | weights | KV cache | compute | runtime | need | budget | verdict |"
        )
        parts.append("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
        parts += [row for e in estimates for row in _markdown_rows(e)]
        parts.append("\nFigures in GiB (2^30 bytes).\n")
    return "\n".join(parts)


def _markdown_rows(estimate: EstimateReport) -> list[str]:
    rows = []
    for d in estimate.devices:
        kv, runtime = d.kv_cache_bytes + d.state_bytes, d.runtime_bytes + d.unaccounted_bytes
        sizes = (d.weights_bytes, kv, d.compute_buffer_bytes, runtime, d.need_bytes, d.budget_bytes)
        figures = " | ".join("?" if n is None else f"{n / GIB:.2f}" for n in sizes)
        said = VERDICT_WORDS[estimate.verdict]
        rows.append(f"| {engine_title(estimate)} | {estimate.weight_format} | {d.name} | {figures} | {said} |")
    return rows


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
