"""Measured runs from CSV files: one row per run, one file per origin.

Columns: ``id,engine,version,model,machine,weight_format,evidence,source``, any setting of a workload by its name, and
figures headed ``device quantity unit``, e.g. ``gpu0 weights GiB``. A figure counts as exact to half of its last digit,
whole ones as exact; ``24.50±0.01`` says otherwise. Empty cells say nothing. Speeds are ``run decode_speed tokens/s``.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from msgspec import DecodeError, ValidationError, convert, json

from vramcalc.errors import BadInputError, UnavailableError, UsageError
from vramcalc.sources.files import read_content
from vramcalc.specs.measured import RUN, UNITS, AccuracyTable, MeasuredFigure, MeasuredRun, Quantity
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB, MIB

PACKAGED = Path(__file__).resolve().parents[1] / "data" / "measured"

_TABLE = "accuracy.json"
_FACTS = ("id", "engine", "version", "model", "machine", "weight_format", "evidence", "source")
_SETTINGS = Workload.__struct_fields__
_MAY_BE_EMPTY = ("version", "weight_format")
_DEVICE = re.compile(rf"gpu\d{{1,3}}|host|{RUN}")
_NUMBER = re.compile(r"(?P<value>\d{1,18}(\.(?P<digits>\d{1,9}))?)(±(?P<resolution>\d{1,18}(\.\d{1,9})?))?", re.ASCII)
_BYTES = {"bytes": 1, "MiB": MIB, "GiB": GIB}
_FACTORS = {**_BYTES, "tokens/s": 1000}  # speeds are kept in thousandths
_HOST_BANDWIDTH = "host_bandwidth_bytes_per_s"


def read_runs(folder: Path) -> tuple[MeasuredRun, ...]:
    """Return the runs of every CSV in a folder, by file name and row.

    Raises ``UnavailableError`` without any, ``BadInputError`` naming file, line, column and reason.
    """
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise UnavailableError(f"{folder} holds no measured runs", "name a folder with CSV files of them")
    runs: dict[str, MeasuredRun] = {}
    for path in paths:
        for line, run in _read_file(path):
            if run.id in runs:
                raise BadInputError(f"{path}, line {line}, column id: {run.id!r} is there twice", "give it another id")
            runs[run.id] = run
    return tuple(runs.values())


def read_table(folder: Path) -> AccuracyTable | None:
    """Return the accuracy reached last with these runs, None where nobody kept it."""
    path = folder / _TABLE
    if not path.is_file():
        return None
    try:
        return json.decode(read_content(path), type=AccuracyTable)
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: {error}", "`vramcalc validate --update` writes it anew") from error


def table_path(folder: Path) -> Path:
    """Return where the accuracy is kept. Raises ``UsageError`` for an installed package, whose copy is not ours."""
    if folder == PACKAGED and not (PACKAGED.parents[3] / "pyproject.toml").is_file():
        raise UsageError("an installed vramcalc keeps the table it was released with", "run --update in a checkout")
    return folder / _TABLE


def _read_file(path: Path) -> Iterator[tuple[int, MeasuredRun]]:
    try:
        reader = csv.reader(io.StringIO(read_content(path).decode("utf-8"), newline=""), strict=True)
        header = next(reader, [])
        _check_header(header, path)
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if len(cells) != len(header):
                raise BadInputError(f"{where}: {len(cells)} cells under {len(header)} columns", "quote commas in text")
            yield reader.line_num, _parse_run(dict(zip(header, cells, strict=True)), where)
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: {error}", "measured runs are CSV in UTF-8") from error


def _check_header(header: Sequence[str], path: Path) -> None:
    advice = "a column is a fact, a setting of a workload, or a figure such as `gpu0 weights GiB`"
    missing = [name for name in _FACTS if name not in header]
    if missing:
        raise BadInputError(f"{path}, line 1: there is no column {missing[0]}", advice)
    for column in header:
        if header.count(column) > 1:
            raise BadInputError(f"{path}, line 1: column {column!r} is there twice", advice)
        if column not in (*_FACTS, *_SETTINGS, _HOST_BANDWIDTH) and not _is_figure(column):
            raise BadInputError(f"{path}, line 1: {column!r} is no column of measured runs", advice)


def _is_figure(column: str) -> bool:
    device, _, rest = column.partition(" ")
    quantity, _, unit = rest.partition(" ")
    if _DEVICE.fullmatch(device) is None or quantity not in Quantity.__members__.values():
        return False
    known = UNITS[Quantity(quantity)]
    return unit in _BYTES if known == "bytes" else unit == known


def _parse_run(row: Mapping[str, str], where: str) -> MeasuredRun:
    for name in _FACTS:
        if not row[name] and name not in _MAY_BE_EMPTY:
            raise BadInputError(f"{where}, column {name}: it is empty", "every run says what it is and where from")
    settings = {name: row[name] for name in _SETTINGS if row.get(name)}
    for name, text in settings.items():
        if text.startswith("-"):
            raise BadInputError(f"{where}, column {name}: {text} is below 0", "leave it empty for the engine's default")
    figures = tuple(_parse_figure(c, text, where) for c, text in row.items() if text and _is_figure(c))
    if not figures:
        raise BadInputError(f"{where}: the run has no figure", "a run without a measurement proves nothing")
    facts: dict[str, object] = {name: row[name] for name in _FACTS}
    if row.get(_HOST_BANDWIDTH):
        facts[_HOST_BANDWIDTH] = row[_HOST_BANDWIDTH]
    try:
        workload = convert(settings, Workload, strict=False, dec_hook=_fraction)
        return convert({**facts, "workload": workload, "figures": figures}, MeasuredRun, strict=False)
    except ValidationError as error:
        reason, _, column = str(error).partition(" - at `$.")
        named = f", column {column.rstrip('`')}" if column else ""
        raise BadInputError(f"{where}{named}: {reason}", "settings are written as a workload holds them") from error


def _fraction(kind: type, text: object) -> object:
    try:
        return kind(text)
    except (ValueError, ZeroDivisionError) as error:
        raise ValidationError(f"{text!r} is not a share") from error


def _parse_figure(column: str, text: str, where: str) -> MeasuredFigure:
    """Return a figure in whole units: a printed 14.99 GiB becomes bytes, known to half a hundredth of a GiB."""
    device, quantity, unit = column.split(" ")
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise BadInputError(f"{where}, column {column}: {text!r} is not a figure", "write e.g. 4403.49 or 24.50±0.01")
    factor = _FACTORS.get(unit, 1)
    digits = len(match["digits"] or "")
    stated = match["resolution"]
    resolution = Fraction(stated) if stated else Fraction(1, 2 * 10**digits) if digits else Fraction(0)
    value = Fraction(match["value"]) * factor
    return MeasuredFigure(
        Quantity(quantity), device, round(value), -(-resolution.numerator * factor // resolution.denominator)
    )
