"""The engine's own command; over several machines Ray's too, which vLLM runs on.

Source: docs.vllm.ai/en/latest/serving/parallelism_scaling.html; ollama/ollama, envconfig/config.go, read by the server.
"""

import shlex

from vramcalc.errors import RefusedError
from vramcalc.launch.service import Service

_RAY_PORT = 6379


def render(service: Service) -> str:
    """Return the command as a shell takes it, one line per machine where there are several."""
    command = shlex.join(service.command)
    if service.nodes > 1:
        return _over_nodes(service, command)
    if not service.environment:
        return f"{command}\n"
    settings = [f"{name}={value}" for name, value in service.environment.items()]
    server = shlex.join(["env", *settings, "ollama", "serve"])  # no other engine is set by its environment
    notes = "# the server reads the settings: stop one that runs already", "# once it listens, in another terminal"
    return f"{notes[0]}\n{server}\n{notes[1]}\n{command}\n"


def _over_nodes(service: Service, command: str) -> str:
    if service.engine != "vllm":
        raise RefusedError(f"{service.engine} over several machines is not written", "ask for --engine vllm")
    return "\n".join(
        [
            "# vLLM installs no Ray of its own: every machine needs the package `ray` beside it",
            "# on the first machine; HEAD is its address as the others reach it",
            f"ray start --head --port={_RAY_PORT}",
            f"# on each of the other {service.nodes - 1}",
            f"ray start --address=HEAD:{_RAY_PORT}",
            "# on the first again, once `ray status` counts all GPUs",
            f"{command} --distributed-executor-backend ray",
            "",
        ]
    )
