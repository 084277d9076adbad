"""Explanations drawn: every formula with its symbols, its numbers and its source."""

import json
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping

from vramcalc.renderers.words import engine_title, machine_words, subject
from vramcalc.reports.explanation import Step, TextbookReport
from vramcalc.reports.schema import EstimateReport, LineReport, Report
from vramcalc.reports.weights import WeightsReport
from vramcalc.units import format_bytes, format_gb, format_gib

_SYMBOL = re.compile(r"[A-Za-z_]\w*")
_FUNCTIONS = frozenset({"max", "min", "ceil"})


def render_lines(report: Report, component: str | None, *, as_json: bool) -> str:
    """Return the lines of every bill, or of one component, with the numbers put in."""
    if as_json:
        return json.dumps(report.to_dict(), indent=2)
    paragraphs: list[str] = []
    for estimate in report.estimates:
        title = f"{subject(estimate)} ({engine_title(estimate)}) on {machine_words(estimate.machine)}"
        paragraphs.append(_indented(title, 0))
        if estimate.refusal is not None:
            paragraphs.append(_indented(f"{estimate.refusal.reason}; {estimate.refusal.advice}", 2))
            continue
        lines = [line for line in estimate.lines if component in (None, line.component)]
        paragraphs += [_line(line) for line in lines]
        if component in (None, "speed"):
            paragraphs += list(_speed(estimate))
        if not lines and component not in (None, "budget", "speed"):
            paragraphs.append(_indented(f"nothing: this estimate has no {component}", 2))
        if component in (None, "budget"):
            paragraphs += list(_budgets(estimate))
    return "\n\n".join(paragraphs) + "\n"


def _line(line: LineReport) -> str:
    beside = ", beside the budget" if line.outside_budget else ""
    spread = (
        ""
        if line.low_bytes == line.high_bytes
        else f", {format_bytes(line.low_bytes)} to {format_bytes(line.high_bytes)}"
    )
    head = f"{line.component} on {line.device}: {format_bytes(line.n_bytes)} ({line.basis}{spread}{beside})"
    body = [
        _indented(f"= {line.formula}", 4),
        _indented(f"= {put_numbers_in(line.formula, line.values)}", 4),
        _indented(f"= {line.n_bytes:,} bytes", 4),
        _indented(line.why, 4),
        _indented(f"source: {line.source}", 4),
    ]
    return "\n".join([_indented(head, 2), *body])


def put_numbers_in(formula: str, values: Mapping[str, int | float]) -> str:
    """Return a formula with its symbols replaced by their numbers."""
    return _SYMBOL.sub(lambda m: m[0] if m[0] in _FUNCTIONS else f"{values[m[0]]:,}", formula)


def _speed(estimate: EstimateReport) -> Iterator[str]:
    speed = estimate.speed
    if speed is None:
        yield _indented("no speed is told: " + "; ".join(note for note in estimate.notes if "speed" in note), 2)
        return
    for term in speed.decode_time:
        yield "\n".join(
            [
                _indented(f"time of a token on {term.device}: {1e3 * term.seconds:.2f} ms ({speed.basis})", 2),
                _indented(f"= {term.formula} seconds", 4),
                _indented(f"= {put_numbers_in(term.formula, term.values)}", 4),
                _indented(term.why, 4),
            ]
        )
    rate = speed.decode_tokens_per_s
    seconds = sum(term.seconds for term in speed.decode_time)
    summed = " + ".join(f"{1e3 * term.seconds:.2f}" for term in speed.decode_time)
    yield "\n".join(
        [
            _indented(f"speed: {rate.best:g} tokens/s ({rate.low:g} to {rate.high:g})", 2),
            _indented(f"= 1000 / ({summed}) = 1000 / {1e3 * seconds:.2f} ms at {speed.at_context:,} tokens", 4),
            _indented(f"source: {speed.source}", 4),
        ]
    )


def _budgets(estimate: EstimateReport) -> Iterator[str]:
    for device in estimate.devices:
        if device.budget_bytes is None or device.headroom_bytes is None:
            continue
        verb = "to spare" if device.headroom_bytes >= 0 else "short"
        yield "\n".join(
            [
                _indented(f"budget on {device.name}: {format_gib(device.budget_bytes)}", 2),
                _indented(device.budget_why, 4),
                _indented(
                    f"{format_gib(device.budget_bytes)} - {format_gib(device.need_bytes)} needed"
                    f" -> {format_gib(abs(device.headroom_bytes))} {verb}",
                    4,
                ),
            ]
        )


def render_textbook(report: TextbookReport, *, as_json: bool) -> str:
    """Return the web pages' sum beside the true one."""
    if as_json:
        return json.dumps(report.to_dict(), indent=2)
    load = f"{report.n_context:,} tokens, {report.n_sequences} sequence{'s' if report.n_sequences != 1 else ''}"
    return "\n".join(
        [
            _indented(f"{report.model} at {load}", 0),
            "",
            "The textbook's arithmetic",
            *_steps(report.textbook),
            _indented(f"total {format_gb(report.textbook_bytes)}: {_sum(report.textbook)}", 2),
            "",
            "What the model's shape says",
            *_steps(report.true),
            _indented(f"total {format_gb(report.true_bytes)}: {_sum(report.true)}", 2),
            "",
            *(_indented(note, 0) for note in report.notes),
            _indented(
                "Neither counts compute buffers, the CUDA context or what 4-bit formats really take; `estimate` does.",
                0,
            ),
            "",
        ]
    )


def _steps(steps: tuple[Step, ...]) -> Iterator[str]:
    for step in steps:
        yield _indented(f"{step.name} = {step.symbols}", 2)
        yield _indented(f"= {step.numbers} = {step.n_bytes:,} bytes = {format_gb(step.n_bytes)}", 4)


def _sum(steps: tuple[Step, ...]) -> str:
    return " + ".join(format_gb(step.n_bytes) for step in steps)


def render_weights(report: WeightsReport, *, as_json: bool) -> str:
    """Return the bytes of a model's weights by role and by storage type."""
    if as_json:
        return json.dumps(report.to_dict(), indent=2)
    rows = [("role", "storage", "parameters", "bytes", "")]
    rows += [_weights_row(part.role, part.storage, part.n_parameters, part.n_bytes) for part in report.parts]
    rows.append(_weights_row("total", "", report.n_elements, report.n_bytes))
    if len(report.by_storage) > 1:
        rows.append(("", "", "", "", ""))
        rows += [_weights_row("all", part.storage, part.n_parameters, part.n_bytes) for part in report.by_storage]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join([*map(str.ljust, row[:2], widths), *map(str.rjust, row[2:], widths[2:])]) for row in rows]
    if len(lines[0]) > _room():
        lines = [
            _indented(f"{' '.join(row[:2])}: {row[2]} parameters, {row[3]} bytes", 0) for row in rows[1:] if row[0]
        ]
    spread = ""
    if report.low_bytes != report.high_bytes:
        spread = f", {format_bytes(report.low_bytes)} to {format_bytes(report.high_bytes)}"
    bits = f"{report.bits_per_weight:.3f} bits per weight on average"
    title = _indented(f"{report.model} in {report.weight_format}: {bits} ({report.basis}{spread})", 0)
    notes = [_indented(note, 0) for note in report.notes]
    return "\n".join([title, "", *(line.rstrip() for line in lines), "", *notes]).rstrip() + "\n"


def _weights_row(role: str, storage: str, n_parameters: int, n_bytes: int) -> tuple[str, str, str, str, str]:
    return role, storage, f"{n_parameters:,}", f"{n_bytes:,}", format_bytes(n_bytes)


def _room() -> int:
    return max(20, min(120, shutil.get_terminal_size((100, 24)).columns))


def _indented(text: str, n_spaces: int) -> str:
    pad = " " * n_spaces
    return textwrap.fill(
        text, _room(), initial_indent=pad, subsequent_indent=pad + "  ", break_long_words=True, break_on_hyphens=False
    )
