"""A stack drawn: the answer, the services in the order they load, the cards, the RAG prompt's numbers."""

import shlex

from msgspec import json

from vramcalc.renderers import grid
from vramcalc.renderers.words import ENGINE_TITLES, VERDICT_WORDS, machine_words
from vramcalc.reports.stack import ServiceReport, StackReport
from vramcalc.units import GIB

_HEADER = ("service", "model", "engine", "format", "cards", "share", "context", "at once", "holds", "verdict")
_LEFT = frozenset({"service", "model", "engine", "format", "cards", "verdict"})
_CARDS = ("card", "usable", "held", "peak", "free")


def render_stack(report: StackReport, output: str, *, to_file: bool = False) -> str:
    """Return the stack in one of the formats of ``--format``."""
    rows = [_row(service) for service in report.services]
    match output:
        case "json" | "jsonl":
            encoded = json.encode(report)
            return (json.format(encoded, indent=2) if output == "json" else encoded).decode()
        case "csv":
            return grid.render_csv(_HEADER, rows)
        case "markdown":
            return grid.render_markdown(_HEADER, rows, left=_LEFT)
        case _:
            return _page(report, rows, to_file=to_file)


def _row(service: ServiceReport) -> list[str]:
    held = sorted(set(service.held_bytes.values()))
    return [
        service.name,
        service.model,
        ENGINE_TITLES.get(service.engine, service.engine),
        service.weight_format or "",
        "+".join(map(str, service.cards)),
        "" if service.memory_share is None else f"{service.memory_share:g}",
        "" if service.n_context is None else f"{service.n_context:,}",
        "" if service.n_sequences is None else str(service.n_sequences),
        " / ".join(_gib(n_bytes) for n_bytes in held),
        VERDICT_WORDS[service.verdict],
    ]


def _page(report: StackReport, rows: list[list[str]], *, to_file: bool) -> str:
    page = grid.Page(to_file=to_file)
    together = "run together" if report.fits else "do not all run together"
    page.heading(f"{len(rows)} services {together} on {machine_words(report.machine, short=True)}.")
    page.blank()
    page.table(_HEADER, rows, left=_LEFT)
    page.blank()
    cards = [
        [card.name, *map(_gib, (card.capacity_bytes, card.held_bytes, card.peak_bytes, card.free_bytes))]
        for card in report.cards
    ]
    page.table(_CARDS, cards, left=frozenset({"card"}))
    page.blank()
    if report.rag is not None:
        rag = report.rag
        page.heading(f"max tokens for the RAG application: {rag.max_tokens:,}; at most {rag.max_chunks} chunks.")
        asked = f"{rag.needed_tokens:,} of {rag.n_context:,} tokens of context are asked for"
        page.sentences(
            [
                ("prompt", f"at most {rag.max_prompt_tokens:,} tokens; {asked}, {rag.n_sequences} requests at once"),
                *([] if rag.fits else [("but", "that is more than the context or the load holds: retrieve less")]),
            ]
        )
        page.blank()
    said = [(service.name, service.why) for service in report.services if service.why]
    said += [(f"start {number}", shlex.join(s.launch)) for number, s in enumerate(report.services, 1) if s.launch]
    if report.host_bytes:
        said.append(("host", f"{_gib(report.host_bytes)} GiB in host memory"))
    page.sentences([*said, *(("note", note) for note in report.notes)])
    page.sentences([("", "Figures in GiB (2^30 bytes), on each card.")])
    return page.text()


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.2f}"
