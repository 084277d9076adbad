"""A Docker Compose file.

Source: the Compose specification, github.com/compose-spec/compose-spec.
"""

from typing import Any

from vramcalc.errors import RefusedError
from vramcalc.launch.containers import check_image, dump, literal
from vramcalc.launch.service import Service


def render(service: Service) -> str:
    """Return the file. Raises ``RefusedError`` for several machines and for cards without an image."""
    if service.nodes > 1:
        raise RefusedError("a Compose file runs on one machine", "take --target kubernetes, or shell for Ray")
    check_image(service)
    port = service.kind.port
    body: dict[str, Any] = {
        "image": service.image,
        "ports": [f"{port}:{port}"],
        "volumes": [_mount(service)],
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", *_health(service)],
            "interval": "10s",
            "timeout": "5s",
            "start_period": "15m",
            "retries": 5,
        },
    }
    if service.arguments:
        body["command"] = [literal(word) for word in service.arguments]
    if service.environment:
        body["environment"] = {name: literal(value) for name, value in service.environment.items()}
    if service.kind.runtime == "python":
        body |= {"ipc": "host"} if service.n_gpus > 1 else {"shm_size": f"{service.shared_gib}gb"}
    body |= service.kind.limits
    body |= _cards(service)
    text: dict[str, Any] = {"services": {"model": body}}
    if service.weights_folder is None:
        text["volumes"] = {service.name: {}}
    return dump(service.title, [text])


def _mount(service: Service) -> dict[str, Any]:
    if service.weights_folder is None:
        return {"type": "volume", "source": service.name, "target": service.kind.cache}
    folder = literal(service.weights_folder)
    return {"type": "bind", "source": folder, "target": service.kind.cache, "read_only": True}


def _cards(service: Service) -> dict[str, Any]:
    if service.vendor != "nvidia":
        devices = ["/dev/kfd", "/dev/dri"] if service.vendor == "amd" else ["/dev/dri"]
        return {"devices": devices, **service.kind.on_amd} if service.vendor == "amd" else {"devices": devices}
    wanted = {"driver": "nvidia", "count": service.n_gpus, "capabilities": ["gpu"]}
    reserved = {"memory": f"{service.host_gib}G", "devices": [wanted]}
    return {"deploy": {"resources": {"reservations": reserved}}}


def _health(service: Service) -> list[str]:
    if service.engine == "ollama":
        return ["ollama", "list"]
    return ["curl", "-fsS", f"http://localhost:{service.kind.port}{service.kind.health}"]
