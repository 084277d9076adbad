"""The report as a person reads it: the answer in one line, a table per machine, what was assumed, what would help."""

import io
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vramcalc.renderers import by_machine
from vramcalc.renderers.grid import print_sentences
from vramcalc.renderers.words import (
    VERDICT_WORDS,
    assumed_sentence,
    engine_title,
    is_short,
    limits_sentence,
    machine_words,
    memory_sentence,
    range_sentence,
    readouts_sentence,
    speed_sentence,
    subject,
    verdict_sentence,
)
from vramcalc.reports.schema import DeviceReport, EstimateReport, Report
from vramcalc.units import GIB

_WIDEST = 140
_GAP = 2
_NEED = "need / budget"
_LEFT = frozenset({"engine", "format", "device", "verdict"})
_STYLES = {
    "fits": "bold green",
    "tight": "bold yellow",
    "offloads": "bold yellow",
    "streams_from_disk": "bold yellow",
    "does_not_fit": "bold red",
    "unsupported": "dim",
}
_PARTS = (  # title, the figures it adds up, colour of its bar
    ("weights", ("weights_bytes",), "blue"),
    ("KV cache", ("kv_cache_bytes",), "magenta"),
    ("state", ("state_bytes",), "bright_magenta"),
    ("compute", ("compute_buffer_bytes",), "cyan"),
    ("runtime", ("runtime_bytes", "unaccounted_bytes"), "yellow"),
)


def render_table(report: Report, *, plot: bool = False, to_file: bool = False) -> str:
    """Return the report for a terminal: coloured on a terminal, plain in a pipe or file, never wider than either."""
    buffer = io.StringIO()
    on_terminal = sys.stdout.isatty() and not to_file
    width = min(_WIDEST, shutil.get_terminal_size((100, 24)).columns)
    console = Console(file=buffer, width=width, force_terminal=on_terminal, highlight=False, legacy_windows=False)
    _draw(console, report, plot=plot)
    return buffer.getvalue()


def render_html(report: Report, *, plot: bool = False, to_file: bool = False) -> str:
    """Return the same page as self-contained HTML."""
    del to_file
    console = Console(file=io.StringIO(), width=110, record=True, highlight=False, force_terminal=True)
    _draw(console, report, plot=plot)
    return console.export_html(inline_styles=True)


def _draw(console: Console, report: Report, *, plot: bool) -> None:
    for index, estimates in enumerate(by_machine(report)):
        if index:
            console.print()
        first = estimates[0]
        console.print(_answer(estimates))
        console.print()
        console.print(Text(f"{first.model.name} on {machine_words(first.machine)}", style="bold"))
        console.print(Text(memory_sentence(first.machine), style="dim"))
        console.print()
        answered = [e for e in estimates if e.refusal is None]
        if answered:
            header, rows = _cells(answered)
            width = sum(max(len(row[i]) for row in (header, *rows)) + _GAP for i in range(len(header))) - _GAP
            console.print(_table(header, rows) if width <= console.width else _list(answered))
        if plot:
            for estimate in answered:
                _bars(console, estimate)
        _sentences(console, estimates)


def _answer(estimates: tuple[EstimateReport, ...]) -> Text:
    machine = estimates[0].machine
    line = Text(f"{estimates[0].model.id} on {machine_words(machine, short=True)}: ", style="bold")
    for index, estimate in enumerate(estimates):
        line.append("; " if index else "")
        line.append(verdict_sentence(estimate), style=_STYLES[estimate.verdict])
    return line.append(".")


def _cells(estimates: list[EstimateReport]) -> tuple[list[str], list[list[str]]]:
    """Return the table's header and rows: a row per device, the estimate named on its first."""
    devices = [(e, *row) for e in estimates for row in _rows(e)]
    parts = [title for title, _, _ in _PARTS if any(_parts(device)[title] for _, _, device in devices)]
    several = len(devices) > len(estimates)
    rows = []
    shown = None
    for estimate, label, device in devices:
        is_first, shown = estimate is not shown, estimate
        start = [engine_title(estimate), estimate.weight_format or ""] if is_first else ["", ""]
        figures = [_gib(_parts(device)[title]) for title in parts]
        verdict = VERDICT_WORDS[estimate.verdict] if is_first else ""
        rows.append([*start, *([label] if several else []), *figures, _need(device), verdict])
    return ["engine", "format", *(["device"] if several else []), *parts, _NEED, "verdict"], rows


def _table(header: list[str], rows: list[list[str]]) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for title in header:
        table.add_column(title, justify="left" if title in _LEFT else "right", no_wrap=True)
    styles = {words: _STYLES[verdict] for verdict, words in VERDICT_WORDS.items()}
    for *cells, verdict in rows:
        table.add_row(*cells, Text(verdict, style=styles.get(verdict, "")))
    return table


def _list(estimates: list[EstimateReport]) -> Table:
    """Return the same figures one below the other, for a terminal too narrow for the table."""
    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    grid.add_column()
    grid.add_column(justify="right")
    for estimate in estimates:
        style = _STYLES[estimate.verdict]
        grid.add_row(Text(subject(estimate), style="bold"), Text(VERDICT_WORDS[estimate.verdict], style=style))
        for label, device in _rows(estimate):
            for title, n_bytes in _parts(device).items():
                if n_bytes:
                    grid.add_row(f"  {label} {title}", _gib(n_bytes))
            grid.add_row(f"  {label} {_NEED}", _need(device))
    return grid


def _rows(estimate: EstimateReport) -> list[tuple[str, DeviceReport]]:
    """Return the devices to show, equal GPUs as one row; host and disk only where they matter."""
    rows: list[tuple[str, DeviceReport]] = []
    is_offloaded = estimate.verdict in ("offloads", "streams_from_disk")
    for device in estimate.devices:
        if rows and rows[-1][1].kind == device.kind == "gpu" and _figures(rows[-1][1]) == _figures(device):
            rows[-1] = (f"{rows[-1][0].split('-')[0]}-{device.name.removeprefix('gpu')}", rows[-1][1])
        elif device.kind == "gpu" or device.kv_cache_bytes or device.state_bytes or is_short(device) or is_offloaded:
            rows.append((device.name, device))
    return rows


def _figures(device: DeviceReport) -> tuple[object, ...]:
    return (device.budget_bytes, *_parts(device).values())


def _parts(device: DeviceReport) -> dict[str, int]:
    return {title: sum(getattr(device, key) for key in keys) for title, keys, _ in _PARTS}


def _need(device: DeviceReport) -> str:
    return f"{_gib(device.need_bytes)} / {'?' if device.budget_bytes is None else _gib(device.budget_bytes)}"


def _bars(console: Console, estimate: EstimateReport) -> None:
    """Draw what each device holds against its budget, one bar per device."""
    room = max(10, console.width - 22)
    console.print()
    console.print(Text(subject(estimate), style="bold"))
    for label, device in _rows(estimate):
        scale = max(device.budget_bytes or 0, device.need_bytes) or 1
        bar = Text(f"{label:<8} ")
        total = drawn = 0
        for n_bytes, (_, _, colour) in zip(_parts(device).values(), _PARTS, strict=True):
            total += n_bytes
            bar.append("█" * (room * total // scale - drawn), style=colour)
            drawn = room * total // scale
        bar.append("░" * (room * (device.budget_bytes or 0) // scale - drawn), style="dim")
        console.print(bar.append(f" {_gib(device.need_bytes)} GiB"))
    legend = Text()
    for title, _, colour in _PARTS:
        legend.append("█ ", style=colour).append(f"{title}  ", style="dim")
    console.print(legend)


def _sentences(console: Console, estimates: tuple[EstimateReport, ...]) -> None:
    said = [line for estimate in estimates for line in _said_of(estimate, alone=len(estimates) == 1)]
    said += [("note", note) for note in dict.fromkeys(note for e in estimates for note in e.notes)]
    console.print()
    print_sentences(console, said)
    footer = (
        "Figures in GiB (2^30 bytes). * = not asked for, the engine's own default. `vramcalc explain` shows the sums."
    )
    for line in textwrap.wrap(footer, console.width):
        console.print(Text(line, style="dim"))


def _said_of(estimate: EstimateReport, *, alone: bool) -> Iterator[tuple[str, str]]:
    """Yield label and sentence: the need and what was assumed, how far it goes, what would help, what to type.

    One that is alone also tells what the engine itself would print.
    """
    if estimate.refusal is not None:
        yield subject(estimate), f"{estimate.refusal.reason}; {estimate.refusal.advice}"
        return
    yield subject(estimate), f"{range_sentence(estimate)}; {assumed_sentence(estimate)}"
    beside = max(device.outside_budget_bytes for device in estimate.devices)
    if beside:
        yield "", f"beside its budget each GPU holds {_gib(beside)} GiB more (CUDA context and the like)"
    if limits_sentence(estimate):
        yield "", limits_sentence(estimate)
    shown = readouts_sentence(estimate)
    if shown and estimate.verdict != "does_not_fit":
        yield "", shown
    if speed_sentence(estimate):
        yield "", speed_sentence(estimate)
    for index, line in enumerate(estimate.engine_log if alone else ()):
        yield "" if index else "it prints", line
    for advice in estimate.advice:
        yield "would help", advice
    if estimate.launch and estimate.verdict != "does_not_fit":
        yield "runs as", shlex.join(estimate.launch)


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.2f}"
