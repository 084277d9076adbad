"""A Modelfile, with the environment the server needs as comments."""

import shlex

from vramcalc.errors import RefusedError
from vramcalc.launch.service import Service


def render(service: Service) -> str:
    """Return a Modelfile. Raises ``RefusedError`` for other engines."""
    if service.engine != "ollama":
        raise RefusedError(f"{service.engine} reads no Modelfile", "ask for --engine ollama, or another --target")
    parameters = {"num_ctx": service.n_context, "num_gpu": service.gpu_layers}
    lines = [
        f"# {service.title}",
        f"# ollama create {service.name} -f Modelfile && ollama run {service.name}",
        *(f"# the server's environment: {shlex.quote(f'{k}={v}')}" for k, v in service.environment.items()),
        f"FROM {service.model_file or service.command[-1]}",
        *(f"PARAMETER {name} {value}" for name, value in parameters.items() if value is not None),
    ]
    return "\n".join(lines) + "\n"
