"""What every target needs to know of the server behind an estimate.

Source:
    Images, ports, health and what a container is granted, as the engines' own documentation has them: ollama/ollama,
    docs/docker.mdx; ggml-org/llama.cpp, docs/docker.md and tools/server/README.md; docs.vllm.ai, deployment/docker, and
    rocm.docs.amd.com, vLLM inference; docs.sglang.io, get-started/install; nvidia.github.io/TensorRT-LLM, quick start
    guide and commands/trtllm-serve.
"""

import posixpath
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from vramcalc.errors import UsageError
from vramcalc.reports.schema import EstimateReport
from vramcalc.units import GIB, ceil_div

_PLACEHOLDER = "MODEL.gguf"  # stands in an engine's command for the file nobody named
_STAND_IN = "MODEL-"  # begins what stands for a release in a format nobody named
_COMPANIONS = frozenset({"--mmproj", "--lora", "--model-draft"})  # options of llama-server that name further files
_SYSTEM_GIB = {"python": 8, "native": 2}  # host memory of a server process beside its weights; assumed
_SHARED_GIB_PER_GPU = 4  # what NCCL and the workers share in /dev/shm; assumed


class Kind(Struct, frozen=True):
    """An engine as a service: its image, port, where it tells its health, and where it keeps what it downloads."""

    image: Mapping[str, str]  # by vendor of the cards
    port: int
    health: str
    cache: str
    runtime: str = "python"
    entrypoint: int = 0  # leading words of the command that the image runs by itself
    listens: tuple[str, ...] = ("--host", "0.0.0.0")  # noqa: S104 - inside a container
    limits: Mapping[str, Any] = {}  # of a Compose service
    on_amd: Mapping[str, Any] = {}  # what a Compose service is granted beside the devices; images run as root


KINDS: Mapping[str, Kind] = {
    "ollama": Kind(
        {"nvidia": "ollama/ollama:latest", "amd": "ollama/ollama:rocm"}, 11434, "/", "/root/.ollama", "native"
    ),
    "llama.cpp": Kind(
        {
            "nvidia": "ghcr.io/ggml-org/llama.cpp:server-cuda",
            "amd": "ghcr.io/ggml-org/llama.cpp:server-rocm",
            "intel": "ghcr.io/ggml-org/llama.cpp:server-intel",
        },
        8080, "/health", "/models", "native", 1, ("--host", "0.0.0.0", "--port", "8080"),  # noqa: S104
    ),
    "vllm": Kind(
        {"nvidia": "vllm/vllm-openai:latest", "amd": "vllm/vllm-openai-rocm:latest"},
        8000, "/health", "/root/.cache/huggingface", entrypoint=2,
        on_amd={"group_add": ["video"], "cap_add": ["SYS_PTRACE"], "security_opt": ["seccomp=unconfined"]},
    ),
    "sglang": Kind({"nvidia": "lmsysorg/sglang:latest"}, 30000, "/health", "/root/.cache/huggingface"),
    "tensorrt-llm": Kind(
        # NVIDIA's pages name a release, never `latest`; 1.2.1 is the last of the rules we know.
        {"nvidia": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"}, 8000, "/health", "/root/.cache/huggingface",
        limits={"ulimits": {"memlock": -1, "stack": 67108864}},
    ),
}  # fmt: skip


class Service(Struct, frozen=True, kw_only=True):
    """One server: its command without its environment, and what it takes of a machine."""

    engine: str
    kind: Kind
    name: str
    title: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    vendor: str
    n_gpus: int  # of one machine
    nodes: int
    host_gib: int  # host memory to set aside
    shared_gib: int
    n_context: int | None
    gpu_layers: int | None  # where they were asked for
    model_file: str | None

    @property
    def weights_folder(self) -> str | None:
        """The folder of the machine that a container reads weights from; None where the engine fetches its own."""
        return (posixpath.dirname(self._weights) or ".") if self.engine == "llama.cpp" else None

    @property
    def _weights(self) -> str:
        return self.model_file or _PLACEHOLDER

    @property
    def image(self) -> str:
        """The image for the cards of the machine. Raises ``KeyError`` where there is none."""
        return self.kind.image[self.vendor]

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command as a container gets it: without the image's entry point, listening to the network."""
        if self.engine == "ollama":
            return ()
        words = self.command[self.kind.entrypoint :]
        if self.engine == "llama.cpp":
            before = ("", *words)
            words = tuple(self._inside(word, option) for option, word in zip(before, words, strict=False))
        return (*words, *self.kind.listens)

    def _inside(self, word: str, option: str) -> str:
        """Return a word with the files it names where the container sees them: all lie in the folder of the weights."""
        if word == self._weights:
            return posixpath.join(self.kind.cache, posixpath.basename(word))
        if option in _COMPANIONS:
            return ",".join(posixpath.join(self.kind.cache, name) for name in word.split(","))
        return word


def service_of(estimate: EstimateReport, model_file: str | None) -> Service:
    """Return the server behind an estimate. Raises ``UsageError`` for a file name with control characters."""
    if model_file is not None and not (model_file and model_file.isprintable()):
        raise UsageError(f"--model-file is {model_file!r}", "name a file without control characters")
    words, environment = list(estimate.launch), {}
    if words and words[0] == "env":
        words = words[1:]
        while words and "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
    if model_file is not None:
        words = [model_file if word == _PLACEHOLDER or word.startswith(_STAND_IN) else word for word in words]
    kind = KINDS[estimate.engine.name]
    host = sum(device.need_bytes for device in estimate.devices if device.kind == "host")
    n_gpus = len(estimate.machine.gpus)
    load, vendor = estimate.workload, estimate.machine.gpus[0].vendor
    return Service(
        engine=estimate.engine.name,
        kind=kind,
        name=_label(f"{estimate.engine.name}-{estimate.model.id}"),
        title=" ".join(f"{estimate.model.name} under {estimate.engine.name} {estimate.engine.version}".split()),
        command=tuple(words),
        environment=environment,
        vendor="nvidia" if vendor == "hypothetical" else vendor,  # a size stands for a CUDA card
        n_gpus=n_gpus,
        nodes=estimate.machine.nodes,
        host_gib=ceil_div(host // estimate.machine.nodes, GIB) + _SYSTEM_GIB[kind.runtime],
        shared_gib=_SHARED_GIB_PER_GPU * n_gpus,
        n_context=load.n_context,
        gpu_layers=None if "gpu_layers" in load.assumed else load.gpu_layers,
        model_file=model_file,
    )


def _label(text: str) -> str:
    """Return a name as DNS and Compose take it: small letters, digits and dashes, at most 50 of them."""
    found = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    return found[:50].strip("-") or "model"
