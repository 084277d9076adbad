"""The ladder drawn: the one change first, then every rung with its price and command, then the choice of engine."""

import shlex
from collections.abc import Iterator

from msgspec import json, to_builtins

from vramcalc.renderers import grid
from vramcalc.renderers.words import ENGINE_TITLES, machine_words, verdict_sentence
from vramcalc.reports.plan import LadderReport, PlanReport, RungReport
from vramcalc.units import GIB

_HEADER = ("model", "GPU", "engine", "change", "flags", "need", "spare", "host", "context", "at once", "tok/s", "loses")
_LEFT = frozenset({"model", "GPU", "engine", "change", "flags", "loses"})
_CHOICES = {"ollama": "Ollama", "vllm": "vLLM", "either": "either", "neither": "neither"}

_UNCHANGED = {"offload": "as it is", "placement": "leave --gpu-layers and --cpu-moe out"}


def render_plan(report: PlanReport, output: str, *, to_file: bool = False) -> str:
    """Return the ladders in one of the formats of ``--format``."""
    match output:
        case "json":
            return json.format(json.encode(report), indent=2).decode()
        case "jsonl":
            version = report.schema_version
            return "\n".join(
                json.encode({"schema_version": version, **to_builtins(plan)}).decode() for plan in report.plans
            )
        case "csv":
            return grid.render_csv(_HEADER, _rows(report))
        case "markdown":
            return grid.render_markdown(_HEADER, _rows(report), left=_LEFT)
        case _:
            page = grid.Page(to_file=to_file)
            for index, plan in enumerate(report.plans):
                if index:
                    page.blank()
                _draw(page, plan)
            return page.text()


def _rows(report: PlanReport) -> Iterator[list[str]]:
    for plan in report.plans:
        for rung in plan.rungs:
            yield [
                plan.estimate.model.id,
                rung.gpu,
                ENGINE_TITLES.get(rung.engine, rung.engine),
                rung.kind,
                " ".join(rung.flags),
                _gib(rung.need_bytes),
                "" if rung.headroom_bytes is None else _gib(rung.headroom_bytes),
                _gib(rung.host_bytes),
                f"{rung.n_context}",
                f"{rung.n_sequences}",
                f"{rung.speed.decode_tokens_per_s.best:.1f}" if rung.speed else "",
                rung.loses,
            ]


def _draw(page: grid.Page, plan: LadderReport) -> None:
    estimate = plan.estimate
    machine = machine_words(estimate.machine, short=True)
    page.heading(f"{estimate.model.id} on {machine}: {verdict_sentence(estimate)}.")
    if plan.fits:
        page.sentences([("as it is", "nothing needs to change"), ("runs as", shlex.join(estimate.launch))])
    elif plan.one_change is not None:
        several = len([word for word in plan.one_change if word.startswith("--")]) > 1
        lead = "These changes together fit" if several else "This one change fits"
        page.heading(f"{lead}: {shlex.join(plan.one_change) or _UNCHANGED['placement']}")
    elif plan.rungs:
        page.heading("Nothing light on this machine keeps it on the GPUs. What runs, and what would:")
    else:
        page.heading("No change of this ladder makes it fit.")
    for number, rung in enumerate(plan.rungs, start=1):
        page.blank()
        page.heading(f"{number}. {shlex.join(rung.flags) or _UNCHANGED[rung.kind]}")
        page.sentences(_said_of(rung))
    page.blank()
    page.heading(f"Ollama or vLLM: {_CHOICES[plan.engine_choice]}")
    page.sentences((_CHOICES[reason.favours], f"{reason.why} ({reason.source})") for reason in plan.reasons)


def _said_of(rung: RungReport) -> Iterator[tuple[str, str]]:
    spare = "" if rung.headroom_bytes is None else f", {_gib(rung.headroom_bytes)} to spare"
    host = f", {_gib(rung.host_bytes)} in host memory" if rung.host_bytes else ""
    rate = f", {rung.speed.decode_tokens_per_s.best:.0f} tokens/s" if rung.speed else ""
    formats = f"{rung.weight_format}, {rung.cache_format or 'model-type'} cache"
    yield "needs", f"{_gib(rung.need_bytes)} GiB on GPUs{spare}{host}; context {rung.n_context:,}{rate} ({formats})"
    yield "loses", f"{'much: ' if rung.is_heavy else ''}{rung.loses}"
    yield "runs as", shlex.join(rung.launch)


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.2f}"
