"""``vramcalc explain``: the arithmetic behind a figure, with the numbers put in."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from vramcalc.cli.options import RequestOptions, takes_request
from vramcalc.cli.output import OutputFormat, deliver, failures_told
from vramcalc.errors import UsageError


class Explained(StrEnum):
    """The parts of an answer that can be asked for."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    STATE = "state"
    COMPUTE_BUFFER = "compute_buffer"
    RUNTIME = "runtime"
    UNACCOUNTED = "unaccounted"
    BUDGET = "budget"
    SPEED = "speed"


@takes_request
def explain(
    asked: RequestOptions,
    component: Annotated[Explained | None, Argument(help="One component; default: all.", show_default=False)] = None,
    textbook: Annotated[
        bool, Option("--textbook", help="The arithmetic of the web pages beside the true one; needs no GPU.")
    ] = False,
    as_json: Annotated[bool, Option("--json", help="As JSON.")] = False,
    output: Annotated[Path | None, Option(help="Write the answer to a file.")] = None,
) -> None:
    """Print each formula with its symbols, the numbers put in, and the source."""
    with failures_told(OutputFormat.JSON if as_json else OutputFormat.TABLE):
        from vramcalc import api  # noqa: PLC0415 - help must not pay for the use cases
        from vramcalc.renderers import explanation  # noqa: PLC0415

        if textbook and component is not None:
            raise UsageError("--textbook is a sum of its own", f"leave {component.value} out, or leave --textbook out")
        request = asked.request()
        if textbook:
            deliver(explanation.render_textbook(api.explain_textbook(request), as_json=as_json), output)
        elif component is Explained.WEIGHTS and not request.gpus:
            deliver(explanation.render_weights(api.explain_weights(request), as_json=as_json), output)
        else:
            wanted = component.value if component else None
            deliver(explanation.render_lines(api.answer(request), wanted, as_json=as_json), output)
