"""The engine's own command; over several machines Ray's too, which vLLM runs on."""

import shlex

from vramcalc.errors import RefusedError
from vramcalc.launch.service import Service

_RAY_PORT = 6379


def render(service: Service) -> str:
    """Return the command as a shell takes it, one line per machine where there are several."""
    words = [f"{name}={value}" for name, value in service.environment.items()]
    command = shlex.join([*(["env", *words] if words else []), *service.command])
    if service.nodes == 1:
        return f"{command}\n"
    if service.engine != "vllm":
        raise RefusedError(f"{service.engine} over several machines is not written", "ask for --engine vllm")
    return "\n".join(
        [
            "# on the first machine; HEAD is its address as the others reach it",
            f"ray start --head --port={_RAY_PORT}",
            f"# on each of the other {service.nodes - 1}",
            f"ray start --address=HEAD:{_RAY_PORT}",
            "# on the first again, once `ray status` counts all GPUs",
            f"{command} --distributed-executor-backend ray",
            "",
        ]
    )
