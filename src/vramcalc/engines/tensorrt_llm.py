"""TensorRT-LLM on its PyTorch backend: the KV cache takes a share of what is left after a profiled step.

Source:
    NVIDIA/TensorRT-LLM, tensorrt_llm/_torch/pyexecutor/_util.py, configure_kv_cache_capacity.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property

from msgspec.structs import replace

from vramcalc.engines._serving.formats import cache_format, choose_format
from vramcalc.engines._serving.rows import Rows
from vramcalc.engines._serving.step import activation_line
from vramcalc.engines._serving.versions import rules_for
from vramcalc.engines._serving.weights import stage_weights, weight_line
from vramcalc.engines._tensorrt_llm import billing
from vramcalc.engines._tensorrt_llm.command import serve_command
from vramcalc.engines._tensorrt_llm.proposing import HANDLES, fill_in, refuse_uncovered, write_notes
from vramcalc.engines._tensorrt_llm.rules import FORMATS, GRAPH_BATCH, LAYOUT, RULE_SETS, RuleSet, graph_sizes
from vramcalc.engines._vllm.fitted import StepShape
from vramcalc.engines._vllm.formats import ChosenFormat
from vramcalc.engines._vllm.parallel import Parallel, choose_parallel
from vramcalc.engines._vllm.proposing import place, read_parallel
from vramcalc.engines._vllm.rules import capability
from vramcalc.engines._vllm.weights import RankWeights
from vramcalc.engines.base import Budget, Pool, Proposal, Readout, Setup
from vramcalc.formulas.capacity import usable_memory
from vramcalc.ledger import Component, Ledger, Line
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.workload import Workload
from vramcalc.units import ceil_div

__all__ = ["HANDLES", "NAME", "VERSIONS", "TensorRtLlm", "bind"]

NAME = "tensorrt-llm"
VERSIONS = tuple(rules.version for rules in RULE_SETS)


def bind(setup: Setup) -> "TensorRtLlm":
    """Return the engine bound to ``setup``. Raises ``RefusedError`` for a card, version or format it cannot run."""
    rules = rules_for("TensorRT-LLM", RULE_SETS, setup.version)
    refuse_uncovered(setup.model, setup.machine)
    card = min(setup.machine.gpus, key=capability)
    return TensorRtLlm(setup, rules, choose_format(FORMATS, setup.model, card, setup.weight_format))


class TensorRtLlm:
    """TensorRT-LLM bound to one model, machine, weight format and version."""

    name = NAME
    margin_bytes = 0
    maps_weights = False
    context_step = 1

    def __init__(self, setup: Setup, rules: RuleSet, chosen: ChosenFormat) -> None:
        self.version = rules.version
        self.weight_format = chosen.name
        self._model = setup.model
        self._machine = setup.machine
        self._rules = rules
        self._chosen = chosen
        self._weights: dict[Parallel, tuple[RankWeights, ...]] = {}

    @cached_property
    def _card(self) -> GpuSpec:
        """The card that decides kernels: the least able, then the smallest."""
        system = self._machine.os
        return min(self._machine.gpus, key=lambda gpu: (capability(gpu), usable_memory(gpu, system).n_bytes))

    def propose(self, workload: Workload) -> Proposal:
        """Fill in the defaults and place the model. Raises ``RefusedError`` for what TensorRT-LLM would refuse."""
        cache_format(FORMATS, self._card, self._chosen.dtype, workload)
        parallel = choose_parallel(self._model, self._chosen.fmt, self._machine, workload)
        settled = fill_in(self._model, workload, parallel)
        placement = place(self._model, self._machine, parallel)
        if workload.fit_context and workload.n_context is None:
            proposal = Proposal(settled, placement)
            pool = self.pool(proposal, self.bill(proposal))
            whole_blocks = max(0, pool.n_blocks - 1)  # the last one is rounded up
            fitted = whole_blocks // (settled.n_sequences or 1) * pool.block_tokens
            settled = replace(settled, n_context=min(self._model.context, fitted or self._model.context))
        notes = write_notes(self._model, self._machine, self.weight_format, settled)
        return Proposal(settled, placement, notes)

    def bill(self, proposal: Proposal) -> Ledger:
        """Return the lines of every rank; the ranks of a stage differ only where their cards do."""
        parallel = read_parallel(proposal.placement)
        lines: list[Line] = []
        alike: dict[tuple[int, str], tuple[Line, ...]] = {}
        for rank, device in enumerate(self._machine.device_names()[: parallel.n_ranks]):
            stage, gpu = parallel.stage_of(rank), self._machine.gpu(device)
            if (stage, gpu.id) not in alike:
                alike[stage, gpu.id] = tuple(self._rank_lines(proposal.workload, parallel, stage, gpu))
            lines += [line.on(device) for line in alike[stage, gpu.id]]
        return Ledger.of(lines)

    def budgets(self, proposal: Proposal) -> Mapping[str, Budget]:
        """Return each card's budget: what the profiled step takes, and the share of what it leaves.

        Context and NCCL count into that peak; they are shown beside the budget, as with every server.

        Source:
            tensorrt_llm/_torch/pyexecutor/_util.py, _cal_max_memory.
        """
        ledger, share = self.bill(proposal), proposal.workload.memory_share or 0
        budgets = {}
        for device in self._machine.device_names():
            capacity = usable_memory(self._machine.gpu(device), self._machine.os)
            inside, beside = _peak(ledger, device)
            left = max(0, capacity.n_bytes - self._machine.reserve_on(device) - inside - beside)
            why = f"what one step takes, and {float(share):g} of what it leaves of the card"
            budgets[device] = Budget(capacity.n_bytes, min(inside, capacity.n_bytes) + int(left * share), why)
        return budgets

    def readouts(self, proposal: Proposal, ledger: Ledger) -> tuple[Readout, ...]:
        """Return nothing: TensorRT-LLM prints what it found in its log alone."""
        del proposal, ledger
        return ()

    def pool(self, proposal: Proposal, ledger: Ledger) -> Pool:
        """Return the KV pool of the poorest rank; tokens are rounded up to whole blocks, as the engine prints them."""
        parallel, workload = read_parallel(proposal.placement), proposal.workload
        budgets, sizes = self.budgets(proposal), []
        for rank, device in enumerate(self._machine.device_names()[: parallel.n_ranks]):
            room = max(0, budgets[device].budget_bytes - _peak(ledger, device)[0])
            sizes.append((room // self._token_bytes(workload, parallel, parallel.stage_of(rank)), room))
        block = self._rules.block_tokens
        n_blocks = ceil_div(min(tokens for tokens, _ in sizes), block)
        return Pool(
            pool_bytes=min(room for _, room in sizes),
            n_blocks=n_blocks,
            block_tokens=block,
            n_tokens=n_blocks * block,
            max_concurrency=n_blocks * block / (workload.n_context or self._model.context),
        )

    def command(self, proposal: Proposal) -> tuple[str, ...]:
        """Return ``trtllm-serve`` with the context and what differs from its defaults."""
        return serve_command(self._model, self.weight_format, proposal)

    def _stages(self, parallel: Parallel) -> tuple[RankWeights, ...]:
        found = self._weights.get(parallel)
        if found is None:
            found = stage_weights(self._model, self._chosen, self._card, parallel, LAYOUT)
            self._weights[parallel] = found
        return found

    def _token_bytes(self, workload: Workload, parallel: Parallel, stage: int) -> int:
        rows = Rows(
            model=self._model,
            dtype=self._chosen.dtype,
            element_bytes=cache_format(FORMATS, self._card, self._chosen.dtype, workload).block_bytes,
            tensor_parallel=parallel.tensor,
        )
        return rows.token_bytes(parallel.stages(self._model.layers.n_layers)[stage])

    def _rank_lines(self, workload: Workload, parallel: Parallel, stage: int, gpu: GpuSpec) -> Iterator[Line]:
        yield weight_line(self._stages(parallel)[stage], 0, "TensorRT-LLM, _torch/modules; shared out as vLLM does")
        context = workload.n_context or self._model.context
        blocks = (workload.n_sequences or 1) * ceil_div(context, self._rules.block_tokens)
        yield billing.cache_line(blocks * self._rules.block_tokens, self._token_bytes(workload, parallel, stage))
        shape = StepShape(
            model=self._model,
            fmt=self._chosen.fmt,
            dtype=self._chosen.dtype,
            step_tokens=workload.step_tokens or 0,
            sampled_rows=0,
            tensor_parallel=parallel.tensor,
            is_piped=parallel.pipeline > 1,
            whole_experts=parallel.whole_experts,
            replicas=1,
        )
        has_head = stage == parallel.pipeline - 1
        batch = min(workload.max_num_seqs or 0, GRAPH_BATCH)
        yield activation_line(shape, batch if has_head else 0, outside=False)
        if not workload.enforce_eager:
            yield billing.graph_line(graph_sizes(batch))
        yield billing.workspace_line()
        yield from billing.process_lines(gpu, parallel.tensor * parallel.pipeline)


def _peak(ledger: Ledger, device: str) -> tuple[int, int]:
    """Return the best figures of all but the cache on a device: inside the budget and beside it."""
    held = ledger.on(device)
    inside = sum(line.n_bytes for line in held.inside_budget().lines if line.component is not Component.KV_CACHE)
    return inside, held.outside_budget().n_bytes
