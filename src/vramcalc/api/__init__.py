"""The use cases, and the public Python interface. The only importer of sources."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramcalc.api.estimating import answer, freeze_estimate
from vramcalc.api.questions import Names, load_named, machine_of, names_source, read_questions
from vramcalc.api.requests import DEFAULT_ENGINES, Request, build_request, checked_workload
from vramcalc.reports.schema import SCHEMA_VERSION, Report
from vramcalc.sources.registry import gpu_registry, model_registry
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import ModelSpec

if TYPE_CHECKING:
    from vramcalc.reports.accuracy import ValidationReport
    from vramcalc.reports.catalogue import Catalogue
    from vramcalc.reports.explanation import TextbookReport
    from vramcalc.reports.inspection import InspectionReport
    from vramcalc.reports.solution import SolveReport
    from vramcalc.reports.weights import WeightsReport

__all__ = [
    "DEFAULT_ENGINES",
    "Names",
    "Request",
    "accuracy_file",
    "add_entry",
    "answer",
    "build_request",
    "checked_workload",
    "estimate",
    "explain_textbook",
    "explain_weights",
    "freeze_estimate",
    "inspect",
    "list_catalogue",
    "load_gpu",
    "load_model",
    "machine_of",
    "names_source",
    "read_questions",
    "show_entry",
    "solve",
    "validate",
]


def estimate(  # noqa: PLR0913 - the options people use most, by their command-line names
    model: str,
    *gpus: str,
    engines: Sequence[str] = DEFAULT_ENGINES,
    quants: Sequence[str] = (),
    context: int | str | None = None,
    parallel: int | None = None,
    kv_type: str | None = None,
    ram: str | None = None,
    nodes: int = 1,
    memory_share: float | None = None,
    gpu_layers: int | None = None,
    registries: Sequence[str | Path] = (),
) -> Report:
    """Return what ``model`` needs on each of ``gpus``, as the command ``vramcalc estimate`` answers it.

    Raises ``UsageError`` for unknown names and settings, ``BadInputError`` for broken registries.

    >>> estimate("deepseek-r1-8b", "rtx3060", engines=["vllm"]).estimates[0].verdict
    'does_not_fit'
    """
    return answer(
        build_request(
            model,
            gpus,
            engines=engines,
            quants=quants,
            context=context,
            parallel=parallel,
            kv_type=kv_type,
            ram=ram,
            nodes=nodes,
            memory_share=memory_share,
            gpu_layers=gpu_layers,
            registries=registries,
        )
    )


def solve(unknown: str, model: str, *gpus: str, **options: Any) -> "SolveReport":  # noqa: ANN401 - those of estimate
    """Return the longest ``context``, most ``sequences``, best ``quant`` or smallest ``gpu`` that fits.

    Takes the options of ``estimate``, and answers as the command ``vramcalc solve``. Raises ``UsageError``.
    """
    from vramcalc.api.solving import answer_unknown  # noqa: PLC0415 - start-up

    return answer_unknown(unknown, build_request(model, gpus, **options))


def load_model(name: str, registries: Sequence[Path] = ()) -> ModelSpec:
    """Return the spec of a model by id, alias, Hugging Face id, Ollama tag, path or source.

    A path is that of a GGUF, of a .safetensors, of a config.json, or of a folder with them; a source is
    ``hf:org/name[@revision][:file]``, ``ollama:name:tag`` or the web address of a GGUF, and these alone are looked for
    on a network. Raises ``UnknownNameError``, ``UnavailableError``, or ``BadInputError`` naming what of a file is not
    understood.
    """
    return load_named(name, model_registry(registries))


def load_gpu(name: str, registries: Sequence[Path] = ()) -> GpuSpec:
    """Return the spec of a card. Raises ``UnknownNameError``."""
    return gpu_registry(registries).resolve(name)


def inspect(source: str, expected: str | None = None, registries: Sequence[Path] = ()) -> "InspectionReport":
    """Return what a file, a folder or a source holds, and what of it is not what its name, or ``expected``, says.

    Raises ``UnavailableError`` or ``BadInputError`` where no header can be read, ``UnknownNameError`` for ``expected``.
    """
    from vramcalc.api.inspecting import inspect_source  # noqa: PLC0415 - start-up

    return inspect_source(source, expected, registries)


def list_catalogue(kind: str, text: str = "", registries: Sequence[Path] = ()) -> "Catalogue":
    """Return the entries of a registry (``models`` or ``gpus``) whose names hold ``text``."""
    from vramcalc.reports.catalogue import Catalogue, gpu_row, model_row  # noqa: PLC0415 - start-up

    if kind == "models":
        found = tuple(model_row(spec) for spec in model_registry(registries).search(text))
        return Catalogue(SCHEMA_VERSION, found, ())
    return Catalogue(SCHEMA_VERSION, (), tuple(gpu_row(spec) for spec in gpu_registry(registries).search(text)))


def add_entry(source: str, entry_id: str | None = None, *, force: bool = False) -> tuple[str, Path]:
    """Write a model found at ``source`` into the user's registry; return the id it goes by, and the file.

    Raises ``UsageError`` where the name is taken and ``force`` is not given, ``BadInputError`` for what is no model,
    ``UnavailableError`` where the file cannot be written. Nothing is written by half.
    """
    from vramcalc.sources.locate import read_source  # noqa: PLC0415 - start-up
    from vramcalc.sources.own_registry import write_model  # noqa: PLC0415

    return write_model(read_source(source, with_weights=False).model(), entry_id, force=force)


def show_entry(kind: str, name: str, registries: Sequence[Path] = ()) -> Mapping[str, Any]:
    """Return one entry of a registry as a file would hold it: name to fields, defaults left out."""
    registry = model_registry(registries) if kind == "models" else gpu_registry(registries)
    spec = registry.resolve(name)
    return {spec.id: spec.model_dump(mode="json", exclude={"id"}, exclude_defaults=True)}


def explain_textbook(request: Request) -> "TextbookReport":
    """Return the web pages' arithmetic beside the true one; 2048 tokens unless a context is asked for."""
    from vramcalc.api import explaining  # noqa: PLC0415 - start-up

    return explaining.explain_textbook(request)


def explain_weights(request: Request) -> "WeightsReport":
    """Return a model's weights by role and storage type, in the first format asked for."""
    from vramcalc.api import explaining  # noqa: PLC0415 - start-up

    return explaining.explain_weights(request)


def validate(engine: str | None = None, folder: Path | None = None) -> "ValidationReport":
    """Return our error against the measured runs of a folder (default: our own), beside the table kept with them.

    Raises ``BadInputError`` for files that are no measured runs, ``UnknownNameError`` for an engine nobody knows.
    """
    from vramcalc.api import validating  # noqa: PLC0415 - start-up

    return validating.validate(engine, folder)


def accuracy_file(report: "ValidationReport", folder: Path | None = None) -> tuple[Path, str]:
    """Return where the table of a folder's runs is kept, and what it is to hold.

    Raises ``UsageError`` where the table of an installed package would be overwritten.
    """
    from vramcalc.api import validating  # noqa: PLC0415 - start-up

    return validating.accuracy_file(report, folder)
