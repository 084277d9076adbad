"""The llama-server command line that realises a proposal.

An option that takes several values takes them in one word: of an option given twice the engine warns that only the last
value counts.

Source: llama.cpp 0c1e570, common/arg.cpp.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from vramcalc.engines._ggml.run import LOGICAL_BATCH, Run
from vramcalc.engines.base import Proposal
from vramcalc.ledger import HOST
from vramcalc.specs.companions import Companions
from vramcalc.specs.machine import Machine
from vramcalc.specs.placement import Placement
from vramcalc.specs.workload import Workload

if TYPE_CHECKING:
    from vramcalc.engines._ggml.drafting import DraftModel

DEFAULT_STEP = 512
_BACKENDS = {"amd": "ROCm", "intel": "SYCL", "apple": "Metal"}


class Words(Struct, frozen=True):
    """What a command is written from; ``devices`` are the GPUs the process opens."""

    proposal: Proposal
    run: Run
    machine: Machine
    devices: Sequence[str]
    companions: Companions
    is_encoder: bool = False
    draft: "DraftModel | None" = None
    file_name: str = "MODEL.gguf"

    def all(self) -> Iterator[str]:
        """Yield the command, word by word."""
        run, load = self.run, self.proposal.workload
        yield from ("llama-server", "-m", self.file_name, "-c", str(run.total_context), "-np", str(run.n_slots))
        if run.is_unified:
            yield "--kv-unified"
        if run.step_tokens != DEFAULT_STEP:
            yield from ("-ub", str(run.step_tokens))
        if run.step_tokens > LOGICAL_BATCH:
            yield from ("-b", str(run.step_tokens))
        yield from _cache_words(run, load)
        if self.is_encoder:
            yield "--embedding"
        yield from self._companions()
        yield from self._placement()
        yield from _memory_words(load)

    def _companions(self) -> Iterator[str]:
        if self.companions.projector is not None:
            yield from ("--mmproj", "MMPROJ.gguf")
        if self.companions.adapters:
            yield from ("--lora", ",".join("ADAPTER.gguf" for _ in self.companions.adapters))
        if self.draft is not None:
            yield from ("--model-draft", "DRAFT.gguf", "-ngld", str(self.draft.gpu_layers))

    def _placement(self) -> Iterator[str]:
        load, placement = self.proposal.workload, self.proposal.placement
        if load.split_mode == "none":
            yield from ("-sm", "none", "-mg", str(load.main_gpu or 0))
        on_gpus = sum(home != HOST for home in (*placement.layers, placement.output_device))
        yield from ("-ngl", str(on_gpus))
        if len(self.devices) > 1 and on_gpus:
            counts = [placement.layers_on(d) + (placement.output_device == d) for d in self.devices]
            yield from ("-ts", ",".join(map(str, counts)))
        if load.cpu_moe is not None and not load.overrides:
            yield from ("--n-cpu-moe", str(load.cpu_moe))
            return
        patterns = ",".join(self._patterns(placement))
        if patterns:
            yield from ("-ot", patterns)

    def _patterns(self, placement: Placement) -> Iterator[str]:
        """Yield overrides as the engine takes them, alike layers together; one without tensors names no layer."""
        layers_of: dict[tuple[str, str], list[str]] = {}
        for override in placement.overrides:
            buffer = "CPU" if override.device == HOST else self._buffer(override.device)
            names = "|".join(sorted({name.removesuffix(".bias") for name in override.tensors})) or "ffn_exps"
            layer = override.layer if override.tensors else len(placement.layers)
            layers_of.setdefault((names, buffer), []).append(str(layer))
        every = {str(layer) for layer in range(len(placement.layers))}
        for (names, buffer), layers in layers_of.items():
            which = r"\d+" if set(layers) == every else f"({'|'.join(layers)})"
            yield f"blk\\.{which}\\.({names})={buffer}"

    def _buffer(self, device: str) -> str:
        backend = _BACKENDS.get(self.machine.gpu(device).vendor, "CUDA")
        return f"{backend}{device.removeprefix('gpu')}"


def _cache_words(run: Run, workload: Workload) -> Iterator[str]:
    if run.k_format.name != "f16":
        yield from ("-ctk", run.k_format.name)
    if run.v_format.name != "f16":
        yield from ("-ctv", run.v_format.name)
    if workload.flash_attention is False:
        yield from ("-fa", "off")
    if run.swa_full:
        yield "--swa-full"


def _memory_words(load: Workload) -> Iterator[str]:
    if not load.kv_offload:
        yield "--no-kv-offload"
    if not load.op_offload:
        yield "--no-op-offload"
    if not load.repack:
        yield "--no-repack"
    modes = {(True, True): "mmap+mlock", (False, True): "mlock", (False, False): "none"}
    mode = modes.get((load.mmap, load.mlock))
    if mode is not None:
        yield from ("--load-mode", mode)
