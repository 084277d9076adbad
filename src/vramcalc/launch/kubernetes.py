"""Manifests: a Deployment and a Service; over several nodes a LeaderWorkerSet instead.

vLLM's own executor joins the pods, so that nothing but the image is needed: Ray is no longer installed with vLLM.

Source: the Kubernetes API; github.com/kubernetes-sigs/lws; docs.vllm.ai/en/latest/deployment/frameworks/lws.html.
"""

from typing import Any

from vramcalc.errors import RefusedError
from vramcalc.launch.containers import check_image, dump, literal
from vramcalc.launch.service import Service

_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "gpu.intel.com/i915"}
_LEADER = "$(LWS_LEADER_ADDRESS)"  # set in every pod of the group by LeaderWorkerSet, as is the index
_INDEX = "$(LWS_WORKER_INDEX)"


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
    join = ["--nnodes", str(service.nodes), "--master-addr", _LEADER, "--node-rank"]
    lead, work = map(literal, service.arguments), map(literal, service.command[service.kind.entrypoint :])
    leader = _pod(service, [*lead, *join, "0"], serves=True)
    worker = _pod(service, [*work, *join, _INDEX, "--headless"])
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


def _pod(service: Service, words: list[str], *, serves: bool = False) -> dict[str, Any]:
    cards = {_RESOURCES[service.vendor]: service.n_gpus}
    folder = service.weights_folder
    cache: dict[str, Any] = {"emptyDir": {}} if folder is None else {"hostPath": {"path": folder}}
    volumes: list[dict[str, Any]] = [{"name": "cache", **cache}]
    mounts = [{"name": "cache", "mountPath": service.kind.cache}]
    container: dict[str, Any] = {"name": "model", "image": service.image}
    if words:
        container["args"] = words
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
