"""``validate``: measured runs walked again."""

from pathlib import Path

from msgspec.structs import replace

from vramcalc.engines import parse_engine
from vramcalc.errors import BadInputError, UsageError
from vramcalc.reports.accuracy import ValidationReport, freeze_accuracy, table_json
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.measured import PACKAGED, read_runs, read_table, table_path
from vramcalc.sources.registry import gpu_registry, model_registry
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec
from vramcalc.validation import Comparison, compare


def validate(engine: str | None = None, folder: Path | None = None) -> ValidationReport:
    """Return our error against the measured runs of a folder (default: our own), beside the table kept with them.

    Raises ``BadInputError`` for files that are no measured runs, ``UnknownNameError`` for an engine nobody knows.
    """
    name = None if engine is None else parse_engine(engine)[0]
    runs = [run for run in read_runs(folder or PACKAGED) if name in (None, run.engine)]
    models, cards = model_registry(), gpu_registry()
    comparisons: list[Comparison] = []
    specs: dict[str, ModelSpec] = {}
    machines: dict[str, Machine] = {}
    for run in runs:
        try:
            parse_engine(run.engine)
            if run.model not in specs:
                specs[run.model] = models.resolve(run.model)
            if run.machine not in machines:
                machines[run.machine] = Machine(gpus=resolve_cards(run.machine, cards).gpus)
            machine = machines[run.machine]
            if run.host_bandwidth_bytes_per_s is not None:
                machine = replace(machine, host_bandwidth_bytes_per_s=run.host_bandwidth_bytes_per_s)
            comparisons += compare(run, specs[run.model], machine)
        except UsageError as error:
            raise BadInputError(f"measured run {run.id}: {error}", error.hint) from error
    return freeze_accuracy(comparisons, read_table(folder or PACKAGED), name)


def accuracy_file(report: ValidationReport, folder: Path | None = None) -> tuple[Path, str]:
    """Return where the table of a folder's runs is kept, and what it is to hold.

    Raises ``UsageError`` where the table of an installed package would be overwritten.
    """
    return table_path(folder or PACKAGED), table_json(report)
