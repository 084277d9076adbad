"""What runs an estimate: an engine's own command, wrapped for the shell, Ollama, Compose, systemd or Kubernetes."""

from collections.abc import Callable
from importlib import import_module
from typing import Literal, cast, get_args

from vramcalc.errors import RefusedError
from vramcalc.launch.service import Service, service_of
from vramcalc.reports.schema import EstimateReport

Target = Literal["shell", "ollama", "compose", "systemd", "kubernetes"]
TARGETS: tuple[Target, ...] = get_args(Target)
RUNNING = frozenset({"fits", "tight", "offloads", "streams_from_disk"})


def render_launch(estimate: EstimateReport, target: Target, *, model_file: str | None = None) -> str:
    """Return the text that runs an answered estimate.

    ``model_file`` is the GGUF that llama.cpp is to read. Raises ``RefusedError`` where engine, machine and target do
    not go together.
    """
    if estimate.refusal is not None:
        raise RefusedError(estimate.refusal.reason, estimate.refusal.advice)
    module = import_module(f"vramcalc.launch.{target}")
    render = cast("Callable[[Service], str]", module.render)
    return render(service_of(estimate, model_file))
