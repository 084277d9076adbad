"""vLLM: a share of the card's total memory; what weights and one profiled step leave of it is the KV cache.

Source:
    vLLM 0.33, v1/worker/gpu_worker.py, v1/worker/utils.py, config, v1/core; older rule sets as their docstrings say.
"""

import math
from collections.abc import Iterator, Mapping
from functools import cached_property

from msgspec.structs import replace

from vramcalc.engines._vllm import billing
from vramcalc.engines._vllm.buffers import step_buffers
from vramcalc.engines._vllm.command import serve_command
from vramcalc.engines._vllm.coverage import HANDLES, is_unmeasured, refuse_stages, refuse_uncovered
from vramcalc.engines._vllm.experts import swizzle_for
from vramcalc.engines._vllm.fitted import StepShape
from vramcalc.engines._vllm.formats import ChosenFormat, cache_format, choose_format
from vramcalc.engines._vllm.messages import Cache, Rank, rank_at_start, start_up
from vramcalc.engines._vllm.pages import CacheRules
from vramcalc.engines._vllm.parallel import Parallel, choose_parallel
from vramcalc.engines._vllm.pool import CachePlan, plan_cache
from vramcalc.engines._vllm.proposing import fill_in, place, read_parallel, write_notes
from vramcalc.engines._vllm.rules import (
    LEAST_CAPABILITY,
    RULE_SETS,
    RuleSet,
    capability,
    graph_sizes,
    rules_for,
)
from vramcalc.engines._vllm.weights import RankWeights, WeightRules
from vramcalc.engines.base import Budget, Pool, Proposal, Readout, Setup
from vramcalc.errors import RefusedError
from vramcalc.formulas.capacity import usable_memory
from vramcalc.ledger import Ledger, Line
from vramcalc.specs.formats import BlockFormat
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.workload import Workload
from vramcalc.units import ceil_div

__all__ = ["HANDLES", "NAME", "VERSIONS", "Vllm", "bind"]

NAME = "vllm"
VERSIONS = tuple(rules.version for rules in RULE_SETS)

_VENDORS = frozenset({"nvidia", "amd", "hypothetical"})
_HOPPER = 9


def bind(setup: Setup) -> "Vllm":
    """Return the engine bound to ``setup``. Raises ``RefusedError`` for a card, version or format it cannot run."""
    for gpu in setup.machine.gpus:
        if gpu.vendor not in _VENDORS:
            raise RefusedError(f"no rules are known for vLLM on {gpu.name}", "take an NVIDIA card, or --engine ollama")
    smallest = min(setup.machine.gpus, key=capability)
    if smallest.vendor == "nvidia" and capability(smallest) < LEAST_CAPABILITY:
        raise RefusedError(
            f"vLLM needs compute capability 7.0; {smallest.name} has {smallest.compute_capability}",
            "take --engine ollama or --engine llama.cpp",
        )
    rules, chosen = rules_for(setup.version), choose_format(setup.model, smallest, setup.weight_format)
    refuse_uncovered(setup.model, smallest, rules, chosen.name)
    return Vllm(setup, rules, chosen)


class Vllm:
    """vLLM bound to one model, machine, weight format and version."""

    name = NAME
    margin_bytes = 0
    context_step = 1
    maps_weights = False

    def __init__(self, setup: Setup, rules: RuleSet, chosen: ChosenFormat) -> None:
        self.version = rules.version
        self.weight_format = chosen.name
        self._model = setup.model
        self._machine = setup.machine
        self._rules = rules
        self._chosen = chosen
        self._weights: dict[Parallel, tuple[RankWeights, ...]] = {}
        self._plans: dict[tuple[BlockFormat, Parallel, int, int | None, bool], CachePlan] = {}

    @cached_property
    def _card(self) -> GpuSpec:
        """The card that sets defaults and kernels: the least able, then the smallest."""
        system = self._machine.os
        return min(self._machine.gpus, key=lambda gpu: (capability(gpu), usable_memory(gpu, system).n_bytes))

    def propose(self, workload: Workload) -> Proposal:
        """Fill in the defaults and place the model. Raises ``RefusedError`` for what vLLM would refuse."""
        cache_format(self._model, self._card, self._chosen.dtype, workload)
        parallel = choose_parallel(self._model, self._chosen.fmt, self._machine, workload, quotes=True)
        refuse_stages(self._model, parallel)
        settled = fill_in(self._model, self._card, self._rules, workload, parallel)
        if workload.fit_context and workload.n_context is None:
            longest = Proposal(settled, place(self._model, self._machine, parallel))
            pool = self.pool(longest, self.bill(longest))
            fitted = self.fitted_context(longest, pool) if pool else 0
            settled = replace(settled, n_context=fitted or settled.n_context)
        notes = write_notes(self._model, self._machine, self._chosen, self._rules, settled)
        return Proposal(settled, place(self._model, self._machine, parallel), notes)

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
        if proposal.workload.kv_offload_bytes:
            lines.append(billing.host_cache_line(proposal.workload.kv_offload_bytes))
        if proposal.workload.cpu_offload_bytes:
            stages = self._stage_weights(parallel)
            held = (stages[parallel.stage_of(rank)].n_bytes for rank in range(parallel.n_ranks))
            lines.append(billing.host_line(sum(min(proposal.workload.cpu_offload_bytes, n) for n in held)))
        return Ledger.of(lines)

    def budgets(self, proposal: Proposal) -> Mapping[str, Budget]:
        """Return each card's budget: its total times the share, rounded up.

        ``kv_cache_memory_bytes`` sets the share aside: the budget is then that cache and all else the engine needs.

        Source:
            vLLM 0.33, v1/worker/utils.py, request_memory.
        """
        budgets = {}
        fixed = proposal.workload.kv_cache_memory_bytes
        ledger = self.bill(proposal) if fixed is not None else Ledger(())
        for device in self._machine.device_names():
            capacity = usable_memory(self._machine.gpu(device), self._machine.os)
            if fixed is not None:
                why = "the KV cache as set, and what the engine needs beside it"
                budgets[device] = Budget(capacity.n_bytes, fixed + billing.beside_cache(ledger.on(device)), why)
                continue
            share = proposal.workload.memory_share or self._rules.memory_share
            why = f"{float(share):g} of the total, rounded up; the total is {capacity.why}"
            budgets[device] = Budget(capacity.n_bytes, math.ceil(capacity.n_bytes * share), why)
        return budgets

    def readouts(self, proposal: Proposal, ledger: Ledger) -> tuple[Readout, ...]:
        """Return nothing: vLLM prints what it found in its log alone."""
        del proposal, ledger
        return ()

    def pool(self, proposal: Proposal, ledger: Ledger) -> Pool | None:
        """Return the cache vLLM would set aside: what the best figures leave, in blocks of the poorest rank.

        Encoders cache nothing. The reported tokens are concurrency x context, before 0.26 blocks x block size.
        """
        parallel = read_parallel(proposal.placement)
        plan = self._cache_plan(proposal.workload, parallel)
        if not plan.groups:
            return None
        ranks = self._ranks(proposal, ledger, parallel)
        block_bytes = [plan.block_bytes[parallel.stage_of(rank.index)] for rank in ranks]
        n_blocks = min(max(0, rank.room) // size for rank, size in zip(ranks, block_bytes, strict=True))
        context = proposal.workload.n_context or self._model.context
        per_request = plan.blocks_per_request(context)
        if self._rules.reports_by_concurrency:
            n_tokens = n_blocks * context // per_request
        else:
            n_tokens = n_blocks // len(plan.groups) * plan.block_tokens
        cache = Cache(
            context=context,
            request_bytes=per_request * max(block_bytes),
            starts=per_request < n_blocks,
            n_tokens=n_tokens,
            max_concurrency=n_blocks / per_request,
            fitted_context=plan.fitted_context(n_blocks, self._model.context),
        )
        return Pool(
            pool_bytes=max(0, min(rank.room for rank in ranks)),
            n_blocks=n_blocks,
            block_tokens=plan.block_tokens,
            n_tokens=n_tokens,
            max_concurrency=cache.max_concurrency,
            log=start_up(ranks, cache, float(proposal.workload.memory_share or 0), self._rules),
        )

    def _ranks(self, proposal: Proposal, ledger: Ledger, parallel: Parallel) -> tuple[Rank, ...]:
        budgets, has_share = self.budgets(proposal), proposal.workload.kv_cache_memory_bytes is None
        devices = self._machine.device_names()[: parallel.n_ranks]
        reserve = self._machine.reserve_bytes
        return tuple(
            rank_at_start(index, ledger.on(device), budgets[device], reserve, has_share=has_share)
            for index, device in enumerate(devices)
        )

    def fitted_context(self, proposal: Proposal, pool: Pool) -> int:
        """Return what ``--max-model-len auto`` would settle on: the longest context of one request the pool holds.

        Source:
            vLLM 0.33, v1/core/kv_cache_utils.py, _auto_fit_max_model_len: never above the trained context.
        """
        plan = self._cache_plan(proposal.workload, read_parallel(proposal.placement))
        return plan.fitted_context(pool.n_blocks, self._model.context)

    def command(self, proposal: Proposal) -> tuple[str, ...]:
        """Return ``vllm serve`` with the context and what differs from its defaults."""
        return serve_command(self._model, self._card, self._chosen, self._rules, proposal)

    def _stage_weights(self, parallel: Parallel) -> tuple[RankWeights, ...]:
        found = self._weights.get(parallel)
        if found is None:
            card = capability(self._card)
            triton = card[0] == _HOPPER
            rules = WeightRules(
                model=self._model,
                storage=self._chosen.storage,
                dtype=self._chosen.dtype,
                card=card,
                expert_multiple=64 if triton else 128,
                hidden_multiple=1 if triton else 256,
                copies_latent=self._rules.copies_latent,
                swizzle=swizzle_for(self._rules) if triton else None,
            )
            found = rules.stages(
                parallel.tensor,
                parallel.pipeline,
                expert_ranks=parallel.expert_ranks,
                whole_experts=parallel.whole_experts,
            )
            self._weights[parallel] = found
        return found

    def _cache_plan(self, workload: Workload, parallel: Parallel) -> CachePlan:
        fmt = self._cache_format(workload)
        steps = parallel.pipeline + 1 if self._rules.reports_by_concurrency else 1
        in_flight = steps * (workload.step_tokens or 0)
        key = (fmt, parallel, in_flight, workload.block_tokens, workload.prefix_caching)
        if key not in self._plans:
            rules = self._cache_rules(workload, parallel)
            self._plans[key] = plan_cache(
                rules.pages(),
                stages=parallel.stages(self._model.layers.n_layers),
                in_flight=in_flight,
                block_outermost="compressed attention" in self._model.features(),
            )
        return self._plans[key]

    def _cache_format(self, workload: Workload) -> BlockFormat:
        return cache_format(self._model, self._card, self._chosen.dtype, workload)

    def _cache_rules(self, workload: Workload, parallel: Parallel) -> CacheRules:
        return CacheRules(
            model=self._model,
            card=capability(self._card),
            dtype=self._chosen.dtype,
            element_bytes=self._cache_format(workload).block_bytes,
            tensor_parallel=parallel.tensor,
            block_tokens=workload.block_tokens,
            prefix_caching=workload.prefix_caching,
        )

    def _rank_lines(self, workload: Workload, parallel: Parallel, stage: int, gpu: GpuSpec) -> Iterator[Line]:
        weights = self._stage_weights(parallel)[stage]
        layers = parallel.stages(self._model.layers.n_layers)[stage]
        weights = weights.beside(step_buffers(self._model, layers, workload.step_tokens or 0, self._chosen.dtype))
        yield billing.weight_line(weights, min(workload.cpu_offload_bytes, weights.n_bytes))
        yield billing.rounding_line(weights)
        plan = self._cache_plan(workload, parallel)
        if plan.groups:
            sequences = ceil_div(workload.n_sequences or 1, parallel.data)
            blocks = plan.blocks_per_request(workload.n_context or self._model.context)
            states = plan.states_per_request
            yield billing.cache_line(billing.CacheNeed(sequences, blocks - states, plan.block_bytes[stage]))
            if states:
                own = self._cache_rules(workload, parallel).state_bytes()
                yield billing.state_line(billing.CacheNeed(sequences, states, plan.block_bytes[stage]), plan, own)
        yield from self._step_lines(workload, parallel, stage, gpu)
        has_head = stage == parallel.pipeline - 1
        talking = parallel.expert_ranks if self._model.is_moe else parallel.tensor
        yield billing.growth_line(gpu, talking, self._rules, has_head=has_head)
        yield from billing.runtime_lines(gpu, talking * parallel.pipeline)

    def _step_lines(self, workload: Workload, parallel: Parallel, stage: int, gpu: GpuSpec) -> Iterator[Line]:
        tokens, ceiling = workload.step_tokens or 0, workload.max_num_seqs or 0
        has_head = stage == parallel.pipeline - 1 and self._model.head != "none"
        shape = StepShape(
            model=self._model,
            fmt=self._chosen.fmt,
            dtype=self._chosen.dtype,
            step_tokens=tokens,
            sampled_rows=min(ceiling, tokens) if has_head else 0,
            tensor_parallel=parallel.tensor,
            is_piped=parallel.pipeline > 1,
            whole_experts=parallel.whole_experts,
            replicas=parallel.data,
        )
        measured = gpu.vendor == "nvidia" and not self._model.is_encoder and not is_unmeasured(self._model)
        measured = measured and (parallel.data == 1 or not self._model.is_moe)
        yield billing.activation_line(shape, self._rules, is_measured=measured)
        if not workload.enforce_eager:
            n_layers = len(parallel.stages(self._model.layers.n_layers)[stage])
            sizes = graph_sizes(self._model, capability(self._card), ceiling)
            yield billing.graph_line(shape, n_layers, sizes, self._rules, is_measured=measured)
