"""``vramcalc launch``: what runs the estimate."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Option

from vramcalc.cli.options import RequestOptions, takes_request
from vramcalc.cli.output import OutputFormat, deliver, failures_told
from vramcalc.errors import DoesNotFitError


class LaunchTarget(StrEnum):
    """What the engine's command is wrapped for."""

    SHELL = "shell"
    OLLAMA = "ollama"
    COMPOSE = "compose"
    SYSTEMD = "systemd"
    KUBERNETES = "kubernetes"


@takes_request
def launch(
    asked: RequestOptions,
    target: Annotated[LaunchTarget, Option("--target", help="What is to run it.")] = LaunchTarget.SHELL,
    model_file: Annotated[str | None, Option("--model-file", help="The GGUF that llama.cpp or Ollama reads.")] = None,
    force: Annotated[bool, Option("--force", help="Print it though it does not fit.")] = False,
    output: Annotated[Path | None, Option(help="Write it to a file.")] = None,
) -> None:
    """Print the command, Modelfile, Compose file, unit or manifest that runs the first estimate that fits."""
    with failures_told(OutputFormat.TABLE):
        from vramcalc.api import answer  # noqa: PLC0415 - help must not pay for the use cases
        from vramcalc.launch import RUNNING, render_launch  # noqa: PLC0415

        estimates = [e for e in answer(asked.request()).estimates if e.refusal is None]
        runs = [e for e in estimates if e.verdict in RUNNING]
        if not runs and not force:
            fact = "none of these estimates fits; --force prints what would run the first"
            raise DoesNotFitError(fact, "`vramcalc estimate` with the same options says what would help")
        deliver(render_launch((runs or estimates)[0], target.value, model_file=model_file), output)
