"""Reports drawn: table, JSON, CSV, Markdown, HTML. A renderer is imported when its format is asked for."""

from collections.abc import Iterator

from msgspec import json, to_builtins

from vramcalc.reports.schema import EstimateReport, Report


def render_estimates(report: Report, output: str, *, plot: bool = False, to_file: bool = False) -> str:
    """Return the report in one of the formats of ``--format``."""
    match output:
        case "json":
            return json.format(json.encode(report), indent=2).decode()
        case "jsonl":
            return "\n".join(_json_line(report.schema_version, estimate) for estimate in report.estimates)
        case "csv" | "markdown":
            from vramcalc.renderers import flat  # noqa: PLC0415 - start-up

            return flat.render_csv(report) if output == "csv" else flat.render_markdown(report)
        case _:
            from vramcalc.renderers import table  # noqa: PLC0415 - start-up

            draw = table.render_html if output == "html" else table.render_table
            return draw(report, plot=plot, to_file=to_file)


def by_machine(report: Report) -> Iterator[tuple[EstimateReport, ...]]:
    """Yield the estimates of each machine asked for, in order."""
    group: list[EstimateReport] = []
    for estimate in report.estimates:
        if group and estimate.machine != group[0].machine:
            yield tuple(group)
            group = []
        group.append(estimate)
    if group:
        yield tuple(group)


def _json_line(schema_version: int, estimate: EstimateReport) -> str:
    return json.encode({"schema_version": schema_version, **to_builtins(estimate)}).decode()
