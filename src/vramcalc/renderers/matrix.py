"""Many estimates side by side: a grid of verdicts, a list, CSV, Markdown, JSON."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import json, to_builtins
from msgspec.structs import fields

from vramcalc.renderers import grid
from vramcalc.renderers.words import ENGINE_TITLES, VERDICT_WORDS
from vramcalc.reports.matrix import CellReport, MatrixReport
from vramcalc.units import GIB

_SPEED = "tok/s"
_LIST = ("model", "GPU", "engine", "format", "context", "at once", "need", "spare", _SPEED, "verdict")
_LEFT = frozenset({"model", "GPU", "engine", "format", "verdict"})
_SHORT = {"does_not_fit": "no", "unsupported": "-", "streams_from_disk": "disk"}
_PLAIN = tuple(f.name for f in fields(CellReport) if f.name != "speed")
_RATES = ("decode_tokens_per_s", "decode_total_tokens_per_s", "prefill_tokens_per_s")
CSV_HEADER = (*_PLAIN, *_RATES)


def render_matrix(report: MatrixReport, output: str, *, as_list: bool, to_file: bool = False) -> str:
    """Return the cells in one of the formats of ``--format``; ``as_list`` draws a row per cell, in the cells' order."""
    match output:
        case "json":
            return json.format(json.encode(report), indent=2).decode()
        case "jsonl" | "csv":
            return "".join(lines(report.cells, output))
        case "markdown":
            header, rows = _drawn(report.cells, as_list=as_list)
            return grid.render_markdown(header, rows, left=_LEFT)
        case _:
            page = grid.Page(to_file=to_file)
            header, rows = _drawn(report.cells, as_list=as_list)
            page.table(header, rows, left=_LEFT | (frozenset() if as_list else frozenset(header)))
            page.sentences([("", text) for text in _legend(report.cells, as_list=as_list)])
            return page.text()


def lines(cells: Iterable[CellReport], output: str) -> Iterator[str]:
    """Yield CSV or JSON lines one by one, so that a long matrix can be read while it is made."""
    if output == "csv":
        yield grid.render_csv(CSV_HEADER, [])
    for cell in cells:
        if output == "csv":
            yield grid.render_csv(_csv(cell), [])
        else:
            yield json.encode({"schema_version": 1, **to_builtins(cell)}).decode() + "\n"


def _csv(cell: CellReport) -> list[str]:
    rates = [getattr(cell.speed, name).best if cell.speed else None for name in _RATES]
    return ["" if value is None else str(value) for value in (*(getattr(cell, name) for name in _PLAIN), *rates)]


def _drawn(cells: Sequence[CellReport], *, as_list: bool) -> tuple[Sequence[str], list[list[str]]]:
    gpus = list(dict.fromkeys(cell.gpu for cell in cells))
    if as_list or len(gpus) < 2:  # noqa: PLR2004 - one column is no grid
        shown = [title for title in _LIST if title != _SPEED or any(cell.speed for cell in cells)]
        return shown, [
            [text for title, text in zip(_LIST, _row(cell), strict=True) if title in shown] for cell in cells
        ]
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for cell in cells:
        key = (cell.model, ENGINE_TITLES.get(cell.engine, cell.engine), cell.weight_format or "", _context(cell))
        rows.setdefault(key, {})[cell.gpu] = _entry(cell)
    header = ("model", "engine", "format", "context", *gpus)
    return header, [[*key, *(found.get(gpu, "") for gpu in gpus)] for key, found in rows.items()]


def _row(cell: CellReport) -> list[str]:
    return [
        cell.model,
        cell.gpu,
        ENGINE_TITLES.get(cell.engine, cell.engine),
        cell.weight_format or "",
        _context(cell),
        "" if cell.n_sequences is None else str(cell.n_sequences),
        _gib(cell.need_bytes),
        _gib(cell.headroom_bytes, signed=True),
        _rate(cell),
        VERDICT_WORDS[cell.verdict],
    ]


def _entry(cell: CellReport) -> str:
    verdict = _SHORT.get(cell.verdict, cell.verdict)
    room = _gib(cell.headroom_bytes, signed=True) if cell.verdict in ("fits", "tight", "does_not_fit") else ""
    layers = ""
    if cell.verdict in ("offloads", "streams_from_disk"):
        layers = "experts" if cell.gpu_layers == cell.total_layers else f"{cell.gpu_layers}/{cell.total_layers}"
    rate = f"{_rate(cell)} tok/s" if _rate(cell) else ""
    return " ".join(word for word in (verdict, room, layers, rate) if word)


def _legend(cells: Sequence[CellReport], *, as_list: bool) -> Iterator[str]:
    count = f"{len(cells)} combination{'s' if len(cells) != 1 else ''}"
    yield f"{count}; GiB (2^30 bytes) over all GPUs, spare on the tightest GPU."
    if not as_list and len({cell.gpu for cell in cells}) > 1:
        yield "no = does not fit; - = unsupported; offloads n/m, experts = layers on GPUs, or experts in host memory."


def _context(cell: CellReport) -> str:
    return "" if cell.n_context is None else f"{cell.n_context:,}"


def _rate(cell: CellReport) -> str:
    return f"{cell.speed.decode_tokens_per_s.best:.0f}" if cell.speed else ""


def _gib(n_bytes: int | None, *, signed: bool = False) -> str:
    return "" if n_bytes is None else f"{n_bytes / GIB:{'+' if signed else ''}.2f}"
