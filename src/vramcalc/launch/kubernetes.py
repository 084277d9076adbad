"""Manifests: a Deployment and a Service; over several nodes a LeaderWorkerSet instead, which vLLM runs on with Ray.

Source: the Kubernetes API; github.com/kubernetes-sigs/lws and vLLM's example for it.
"""

from typing import Any

from vramcalc.errors import RefusedError
from vramcalc.launch.containers import check_image, dump, literal
from vramcalc.launch.service import Service

_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "gpu.intel.com/i915"}
_RAY = "bash /vllm-workspace/examples/online_serving/multi-node-serving.sh"


def render(service: Service) -> str:
    """Return the manifests. Raises ``RefusedError`` for cards without an image, and other engines over nodes."""
    check_image(service)
    if service.nodes > 1 and service.engine != "vllm":
        raise RefusedError(f"{service.engine} over several nodes is not written", "ask for --engine vllm")
    workload = _deployment(service) if service.nodes == 1 else _leader_workers(service)
    return dump(service.title, [workload, _service(service)])


def _deployment(service: Service) -> dict[str, Any]:
    pod = _pod(service, list(map(literal, service.arguments)), serves=True)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(service),
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": service.name}},
            "template": {"metadata": {"labels": {"app": service.name}}, "spec": pod},
        },
    }


def _leader_workers(service: Service) -> dict[str, Any]:
    size = str(service.nodes)
    lead = [
        "sh", "-c", f'{_RAY} leader --ray_cluster_size={size}; exec "$@"', "sh",
        *map(literal, service.command), "--distributed-executor-backend", "ray", "--host", service.kind.listens[1],
    ]  # fmt: skip
    work = ["sh", "-c", f"{_RAY} worker --ray_address=$(LWS_LEADER_ADDRESS)"]
    leader, worker = _pod(service, lead, serves=True, is_command=True), _pod(service, work, is_command=True)
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": _metadata(service),
        "spec": {
            "replicas": 1,
            "leaderWorkerTemplate": {
                "size": service.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": {"metadata": {"labels": {"app": service.name, "role": "leader"}}, "spec": leader},
                "workerTemplate": {"metadata": {"labels": {"app": service.name}}, "spec": worker},
            },
        },
    }


def _service(service: Service) -> dict[str, Any]:
    selector = {"app": service.name, **({"role": "leader"} if service.nodes > 1 else {})}
    ports = [{"name": "http", "port": service.kind.port, "targetPort": "http"}]
    spec = {"type": "ClusterIP", "selector": selector, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(service), "spec": spec}


def _metadata(service: Service) -> dict[str, Any]:
    return {"name": service.name, "labels": {"app": service.name}}


def _pod(service: Service, words: list[str], *, serves: bool = False, is_command: bool = False) -> dict[str, Any]:
    cards = {_RESOURCES[service.vendor]: service.n_gpus}
    folder = service.weights_folder
    cache: dict[str, Any] = {"emptyDir": {}} if folder is None else {"hostPath": {"path": folder}}
    volumes: list[dict[str, Any]] = [{"name": "cache", **cache}]
    mounts = [{"name": "cache", "mountPath": service.kind.cache}]
    container: dict[str, Any] = {"name": "model", "image": service.image}
    if words:
        container["command" if is_command else "args"] = words
    if service.environment:
        container["env"] = [{"name": name, "value": literal(value)} for name, value in service.environment.items()]
    container["resources"] = {"limits": cards, "requests": {"memory": f"{service.host_gib}Gi", **cards}}
    if service.kind.runtime == "python":
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{service.shared_gib}Gi"}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - inside the container
    if serves:
        probe = {"httpGet": {"path": service.kind.health, "port": "http"}, "periodSeconds": 10}
        container["ports"] = [{"name": "http", "containerPort": service.kind.port}]
        container["startupProbe"] = {**probe, "failureThreshold": 180}
        container["readinessProbe"] = probe
    container["volumeMounts"] = mounts
    return {"containers": [container], "volumes": volumes}
