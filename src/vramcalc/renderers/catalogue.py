"""Listings and single entries of the registries."""

import json
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from vramcalc.reports.catalogue import Catalogue, GpuRow, ModelRow
from vramcalc.units import format_count, format_gib


def render_catalogue(found: Catalogue, *, as_json: bool) -> str:
    """Return a line per entry, cut to the terminal, or all of it as JSON."""
    if as_json:
        return json.dumps(found.to_dict(), indent=2)
    rows = [_model(row) for row in found.models] + [_gpu(row) for row in found.gpus]
    if not rows:
        return "no entry's names hold that text"
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    room = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else None  # a pipe gets whole lines
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*(line[:room] for line in lines), f"{len(rows)} {'entry' if len(rows) == 1 else 'entries'}"])


def _model(row: ModelRow) -> tuple[str, ...]:
    active = "" if row.n_active_parameters == row.n_parameters else f"{format_count(row.n_active_parameters)} active"
    return row.id, format_count(row.n_parameters), active, f"context {row.context:,}", row.released, row.name


def _gpu(row: GpuRow) -> tuple[str, ...]:
    usable = f"{format_gib(row.usable_bytes)} usable ({row.usable_basis})"
    rate = "" if row.bandwidth_bytes_per_s is None else f"{row.bandwidth_bytes_per_s / 10**9:.0f} GB/s"
    return row.id, format_gib(row.advertised_bytes), usable, rate, str(row.year or ""), row.name


def render_entry(entry: Mapping[str, Any], *, as_json: bool) -> str:
    """Return one entry as YAML that a registry file can hold, or as JSON."""
    if as_json:
        return json.dumps(entry, indent=2)
    import yaml  # noqa: PLC0415 - JSON does not need it

    return yaml.safe_dump(dict(entry), sort_keys=False, allow_unicode=True, width=110)
