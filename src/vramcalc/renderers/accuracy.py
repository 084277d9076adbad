"""Our accuracy drawn: as text, as JSON, or as the Markdown that the README holds."""

import json
import shutil
import textwrap
from collections.abc import Iterator

from vramcalc.renderers.grid import Page
from vramcalc.renderers.words import ENGINE_TITLES
from vramcalc.reports.accuracy import AccuracyReport, MissReport, ValidationReport
from vramcalc.units import format_bytes

_HEAD = ("engine", "measured by", "figure", "figures", "answered", "exact", "median", "95 %", "worst")
_FIGURES = {
    "kv_cache": "KV cache",
    "compute_buffer": "compute buffer",
    "runtime": "CUDA context, NCCL",
    "loaded": "weights as loaded",
    "unaccounted": "outside PyTorch",
    "cuda_graphs": "CUDA graphs",
    "need": "need after the fit",
    "least_cache": "least cache to start",
    "pool": "KV pool",
    "pool_blocks": "blocks of the pool",
    "pool_tokens": "tokens of the pool",
    "block_tokens": "tokens of a block",
    "starts": "whether it starts",
    "total_context": "context the fit keeps",
    "gpu_layers": "layers on GPUs",
    "layers": "layers of each GPU",
    "expert_layers": "expert layers on GPUs",
    "decode_speed": "tokens/s, one user",
    "prompt_speed": "tokens/s of a prompt",
}
_EVIDENCE = {"code": "code", "log": "logs", "bench": "benchmarks"}
_WIDEST = 120
_FITTED_MARK = " *"


def render_validation(report: ValidationReport, output: str, *, with_misses: bool) -> str:
    """Return the report as ``table``, ``markdown`` or ``json``."""
    if output == "json":
        return json.dumps(report.to_dict(), indent=2)
    rows = [
        (ENGINE_TITLES[row.engine], _EVIDENCE[row.evidence], _figure(row), *_numbers(row)) for row in report.accuracy
    ]
    is_markdown = output == "markdown"
    parts = [_markdown(_HEAD, rows) if is_markdown else _columns(_HEAD, rows)]
    width = _WIDEST if is_markdown else min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)
    parts += [_filled(note, width) for note in _notes(report, star="\\*" if is_markdown else "*")]
    if with_misses:
        parts.append(
            "\n".join(
                [f"Off by more than {report.miss_above:.0%}:", *(_filled(_miss(miss), width) for miss in report.misses)]
            )
        )
    if report.regressions:
        parts.append(
            "\n".join(["Worse than the table kept:", *(_filled(f"- {line}", width) for line in report.regressions)])
        )
    return "\n\n".join(parts) + "\n"


def _figure(row: AccuracyReport) -> str:
    name = _FIGURES.get(row.component, row.component)
    place = ", host" if row.device == "host" else ""
    return f"{name}{place}{_FITTED_MARK if row.is_in_sample else ''}"


def _numbers(row: AccuracyReport) -> tuple[str, ...]:
    errors = (row.median_error, row.p95_error, row.worst_error)
    return str(row.n_figures), str(row.n_answered), str(row.n_exact), *map(_percent, errors)


def _percent(share: float | None) -> str:
    """Return an error with two digits; an error too small for them is not called none."""
    if share is None:
        return "-"
    return "0" if share == 0 else f"{share:.2%}" if share >= 0.00005 else "<0.01%"  # noqa: PLR2004 - half a digit


def _columns(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    page = Page()
    page.table(head, rows, left=frozenset(head[:3]))
    return page.text().rstrip()


def _markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    rule = "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    drawn = [f"| {' | '.join(row)} |".replace("*", "\\*") for row in (head, *rows)]
    return "\n".join([drawn[0], rule, *drawn[1:]])


def _filled(text: str, width: int) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, max(20, width), subsequent_indent=indent, break_on_hyphens=False)


def _notes(report: ValidationReport, *, star: str) -> Iterator[str]:
    yield (
        f"{report.n_runs} runs of {report.n_models} models. Measured by code: the engine's own accounting, to the byte,"
        " on pretended cards; logs: what runs on real cards printed; benchmarks: tokens per second others published."
        " Exact: within what the figure was rounded to; an"
        " error is what lies beyond that, as a share of the figure."
    )
    if any(row.is_in_sample for row in report.accuracy):
        yield f"{star} fitted to these very logs, or what such terms leave: no test on runs unseen."
    for row in report.accuracy:
        if row.n_in_range is not None and row.p90_error is not None:
            yield (
                f"{ENGINE_TITLES[row.engine]}, {_FIGURES[row.component]}: our range holds {row.n_in_range} of"
                f" {row.n_answered} benchmarks; nine in ten of the best figures are within {row.p90_error:.0%}."
            )
    if report.unanswered:
        runs: dict[str, list[str]] = {}
        for refusal in report.unanswered:
            runs.setdefault(refusal.reason, []).append(refusal.run)
        refused = "; ".join(f"{', '.join(ids)} ({reason})" for reason, ids in runs.items())
        yield f"Not answered: {refused}."


def _amount(n: int, unit: str) -> str:
    if unit == "tokens/s":
        return f"{n / 1000:.1f} tokens/s"
    return format_bytes(n) if unit == "bytes" else str(n)


def _miss(miss: MissReport) -> str:
    sizes = (miss.measured, miss.estimated)
    ours, theirs = (_amount(n, miss.unit) for n in reversed(sizes))
    where = f"{miss.model} {miss.weight_format}".strip() + f" on {miss.machine}"
    name = _FIGURES.get(miss.component, miss.component)
    sums = f"{ours} estimated, {theirs} measured"
    return f"- {miss.error:.1%} {miss.run} ({where}): {name} of {miss.device}: {sums}"
