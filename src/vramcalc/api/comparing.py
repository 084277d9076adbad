"""Use cases of ``compare``: models x GPUs x engines x formats x contexts."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from msgspec.structs import replace

from vramcalc.api import Names, Request, read_questions
from vramcalc.errors import UsageError
from vramcalc.reports.matrix import CellReport, freeze_cell
from vramcalc.solvers.trying import fitting_outcome, try_asked
from vramcalc.solvers.unknowns import machine_name

ALL = "all"


def compare_cells(requests: Iterable[Request], only: Collection[str] = ()) -> Iterator[CellReport]:
    """Yield every combination as soon as it is known, in the order asked; ``all`` stands for every model or card.

    ``only`` keeps these verdicts; what is far from fitting is not placed in detail where nothing else is wanted. Raises
    ``UsageError`` and ``BadInputError`` as the names of the requests resolve.
    """
    names: Names | None = None
    for request in requests:
        names = names or Names.of(request.registries)
        models = [spec.id for spec in names.models.search("")] if request.model.lower() == ALL else [request.model]
        gpus = [gpu for text in request.gpus for gpu in _cards(text, names)]
        for model in models:
            for asked, _ in read_questions(replace(request, model=model, gpus=gpus), names):
                tried = fitting_outcome(asked) if set(only) == {"fits"} else try_asked(asked)
                if tried is not None:
                    cell = freeze_cell(asked, tried, machine_name(asked.machine))
                    if not only or cell.verdict in only:
                        yield cell


def _cards(text: str, names: Names) -> list[str]:
    return [spec.id for spec in names.cards.search("")] if text.lower() == ALL else [text]


_SORTS: dict[str, tuple[Callable[[CellReport], float | str | None], bool]] = {  # by what, and whether most comes first
    "headroom": (lambda cell: cell.headroom_bytes, True),
    "need": (lambda cell: cell.need_bytes, False),
    "quality": (lambda cell: cell.quality_loss, False),
    "context": (lambda cell: cell.n_context, True),
    "parameters": (lambda cell: cell.n_parameters, True),
    "speed": (lambda cell: cell.speed.decode_tokens_per_s.best if cell.speed else None, True),
    "model": (lambda cell: cell.model, False),
    "gpu": (lambda cell: cell.gpu, False),
}
SORTS = tuple(_SORTS)


def sort_cells(cells: Iterable[CellReport], by: Sequence[str]) -> list[CellReport]:
    """Return the cells by the first of ``by``, then the second ...; what has no such figure comes last.

    Raises ``UsageError`` for what cells have not.
    """
    found = list(cells)
    for name in reversed(by):
        if name not in _SORTS:
            raise UsageError(f"cells cannot be sorted by {name!r}", f"sort by {', '.join(SORTS)}")
        figure, descending = _SORTS[name]
        known = [cell for cell in found if figure(cell) is not None]
        unknown = [cell for cell in found if figure(cell) is None]
        found = [*sorted(known, key=figure, reverse=descending), *unknown]  # type: ignore[arg-type]  # none is None
    return found
