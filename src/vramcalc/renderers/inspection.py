"""What is in a file, drawn for people."""

import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence

from vramcalc.reports.inspection import FileReport, InspectedModel, InspectionReport, RoleReport
from vramcalc.units import MB, format_bytes, format_count

_LEAST_SHARE = 0.005  # what rounds to no percent is left out
_WIDE = 76  # columns from which the types of each role fit beside it


def render_inspection(report: InspectionReport, *, as_json: bool) -> str:
    """Return the report as text for the terminal at hand, or as JSON."""
    if as_json:
        return json.dumps(report.to_dict(), indent=2)
    width = max(40, min(120, shutil.get_terminal_size((100, 24)).columns))
    blocks = []
    if report.file is not None:
        blocks.append(_file(report.file, width))
    if report.model is not None:
        blocks.append(_model(report.model, width))
    if report.roles:
        blocks.append(_roles(report.roles, width))
    blocks.append(_findings(report, width))
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _file(file: FileReport, width: int) -> list[str]:
    version = f" {file.version}" if file.version else ""
    said = f"{file.container}{version}, {file.n_tensors:,} tensors, {format_bytes(file.n_bytes)} of weights"
    if file.weight_format is not None:
        said += f", {file.weight_format}"
    if len(file.parts) > 1:
        said += f", in {len(file.parts)} parts"
    types = ", ".join(f"{share.storage} {format_bytes(share.n_bytes)}" for share in file.types)
    return [file.name, *_wrapped(said, width), *_wrapped(f"types: {types}", width)]


def _model(model: InspectedModel, width: int) -> list[str]:
    active = ""
    if model.n_active_parameters != model.n_parameters:
        active = f", {format_count(model.n_active_parameters)} active"
    head = {"tied": "tied head", "separate": "head of its own", "none": "no head"}[model.head]
    said = (
        f"{model.name}: {model.architecture}, {format_count(model.n_parameters)} parameters{active}, {model.n_layers} "
        f"layers, hidden size {model.hidden_dim:,}, vocabulary {model.vocabulary:,}, {head}, context {model.context:,}"
    )
    lines = _wrapped(said, width)
    for kind in model.kinds:
        lines += _wrapped(f"{kind.n_layers} x {kind.attention}; {kind.mlp}", width)
    return lines


def _roles(roles: Sequence[RoleReport], width: int) -> list[str]:
    head = ("role", "parameters", "bytes", "bits")
    rows = [
        head,
        *((r.role, _count(r.n_parameters), format_bytes(r.n_bytes), f"{r.bits_per_weight:.2f}") for r in roles),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    if width < _WIDE:
        return lines
    storages = ["types", *(_storages(role) for role in roles)]
    return [f"{line}  {text}"[:width].rstrip() for line, text in zip(lines, storages, strict=True)]


def _count(n: int) -> str:
    return format_count(n) if n >= MB else f"{n:,}"


def _storages(role: RoleReport) -> str:
    total = max(1, role.n_bytes)
    shares = sorted(role.storages.items(), key=lambda pair: -pair[1])
    if len(shares) == 1:
        return shares[0][0]
    return ", ".join(f"{name} {n_bytes / total:.0%}" for name, n_bytes in shares if n_bytes / total >= _LEAST_SHARE)


def _findings(report: InspectionReport, width: int) -> list[str]:
    if not report.findings:
        return ["Nothing found against it."]
    lines = []
    for finding in report.findings:
        lines += list(_hanging(f"{finding.severity}: {finding.message} [{finding.id}]", width))
        if finding.advice:
            lines += list(_hanging(f"  advice: {finding.advice}", width))
    return lines


def _hanging(text: str, width: int) -> Iterator[str]:
    pad = " " * (len(text) - len(text.lstrip()))
    yield from textwrap.wrap(text, width, subsequent_indent=f"{pad}  ", break_on_hyphens=False)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
