"""The answer to an inverse question, drawn."""

import shlex
from collections.abc import Sequence

from msgspec import json, to_builtins

from vramcalc.renderers import grid
from vramcalc.renderers.words import ENGINE_TITLES, VERDICT_WORDS
from vramcalc.reports.solution import AnswerReport, SolveReport

_UNITS = {"context": " tokens", "sequences": "", "gpu": "", "quant": ""}
_TITLES = {
    "context": "the longest context",
    "sequences": "the most sequences at once",
    "gpu": "the smallest machine",
    "quant": "the format that loses least",
}
_BEYOND = {"context": "next longer", "sequences": "one more", "gpu": "next smaller", "quant": "next better"}
_HEADER = ("engine", "format", "GPU", "answer", "binding", "beyond", "beyond verdict", "why")
_LEFT = frozenset(_HEADER) - {"answer"}


def render_solution(report: SolveReport, output: str, *, to_file: bool = False) -> str:
    """Return the answers in one of the formats of ``--format``."""
    match output:
        case "json":
            return json.format(json.encode(report), indent=2).decode()
        case "jsonl":
            return "\n".join(_json_line(report, index) for index in range(len(report.answers)))
        case "csv":
            return grid.render_csv(_HEADER, [_cells(report, answer) for answer in report.answers])
        case "markdown":
            rows = [[str(cell or "") for cell in _cells(report, answer)] for answer in report.answers]
            return grid.render_markdown(_HEADER, rows, left=_LEFT)
        case _:
            return _page(report, to_file=to_file)


def _json_line(report: SolveReport, index: int) -> str:
    answer, estimate = report.answers[index], report.estimates[index]
    head = {"schema_version": report.schema_version, "solve": report.solve}
    return json.encode({**head, **to_builtins(answer), "estimate": to_builtins(estimate)}).decode()


def _cells(report: SolveReport, answer: AnswerReport) -> Sequence[object]:
    step = answer.next_step
    beyond = (step.value, step.verdict) if step else (None, None)
    gpu = answer.gpu if report.solve != "gpu" else answer.answer
    return (answer.engine, answer.weight_format, gpu, answer.answer, answer.binding, *beyond, answer.why)


def _page(report: SolveReport, *, to_file: bool) -> str:
    page = grid.Page(to_file=to_file)
    for index, (answer, estimate) in enumerate(zip(report.answers, report.estimates, strict=True)):
        if index:
            page.blank()
        page.heading(_sentence(report, answer, estimate.model.id))
        said = []
        if answer.next_step is not None and answer.answer is not None:
            step = answer.next_step
            verdict = VERDICT_WORDS[step.verdict]
            said.append((_BEYOND[report.solve], f"{_value(report, step.value)} {_verb(verdict)}: {step.why}"))
        else:
            said.append(("because", answer.why))
            said += [("would help", advice) for advice in estimate.advice if answer.answer is None]
        if answer.also:
            said.append(("also fit", ", ".join(answer.also)))
        if answer.answer is not None:
            headroom = (estimate.headroom_bytes or 0) / 2**30
            load = estimate.workload
            settings = f"context {load.n_context:,}, {load.n_sequences} at once, {headroom:.2f} GiB to spare"
            said.append(("stands on", f"{estimate.weight_format}, {settings}"))
            said.append(("runs as", shlex.join(estimate.launch)))
        page.sentences(said)
    return page.text()


def _sentence(report: SolveReport, answer: AnswerReport, model: str) -> str:
    """Return e.g. ``"Ollama q4_k_m: the longest context of qwen3-8b on rtx3060 is 30,720 tokens."``."""
    subject = f"{ENGINE_TITLES.get(answer.engine, answer.engine)} {answer.weight_format or ''}".strip()
    place = "" if report.solve == "gpu" else f" on {answer.gpu}"
    if report.solve == "quant":
        subject = ENGINE_TITLES.get(answer.engine, answer.engine)
    if answer.answer is None:
        return f"{subject}: nothing fits for {model}{place}."
    return f"{subject}: {_TITLES[report.solve]} for {model}{place} is {_value(report, answer.answer)}."


def _value(report: SolveReport, value: int | str) -> str:
    return f"{value:,}{_UNITS[report.solve]}" if isinstance(value, int) else value


def _verb(verdict: str) -> str:
    return f"is {verdict}" if verdict in ("tight", "unsupported") else verdict
