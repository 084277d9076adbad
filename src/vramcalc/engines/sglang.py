"""SGLang: a share of the memory free before loading; what the weights leave of it is the token pool.

Source:
    SGLang 0.5.23, srt/arg_groups/memory_hook.py, srt/mem_cache/kv_cache_configurator.py; older sets as ``rules`` says.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property

from msgspec.structs import replace

from vramcalc.engines._serving.formats import cache_format, choose_format
from vramcalc.engines._serving.rows import Rows
from vramcalc.engines._serving.step import activation_line
from vramcalc.engines._serving.versions import rules_for
from vramcalc.engines._serving.weights import host_line, loaded_bytes, stage_weights, weight_line
from vramcalc.engines._sglang import billing
from vramcalc.engines._sglang.command import launch_command
from vramcalc.engines._sglang.pool import Cells, most_requests
from vramcalc.engines._sglang.proposing import HANDLES, fill_in, refuse_uncovered, share_out, write_notes
from vramcalc.engines._sglang.rules import (
    FORMATS,
    RULE_SETS,
    SLOTS_PER_REQUEST,
    TRACKED_SLOTS,
    RuleSet,
    decode_graphs,
    defaults,
    has_windowed_pool,
    page_tokens,
    prefill_graphs,
    static_share,
    weight_layout,
)
from vramcalc.engines._vllm.billing import rounding_line
from vramcalc.engines._vllm.fitted import StepShape
from vramcalc.engines._vllm.formats import ChosenFormat
from vramcalc.engines._vllm.parallel import Parallel
from vramcalc.engines._vllm.proposing import place, read_parallel
from vramcalc.engines._vllm.rules import capability, is_multimodal
from vramcalc.engines._vllm.weights import RankWeights
from vramcalc.engines.base import Budget, Pool, Proposal, Readout, Setup
from vramcalc.formulas.capacity import usable_memory
from vramcalc.ledger import Ledger, Line
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.workload import Workload
from vramcalc.units import ceil_div

__all__ = ["HANDLES", "NAME", "VERSIONS", "SgLang", "bind"]

NAME = "sglang"
VERSIONS = tuple(rules.version for rules in RULE_SETS)


def bind(setup: Setup) -> "SgLang":
    """Return the engine bound to ``setup``. Raises ``RefusedError`` for a card, version or format it cannot run."""
    rules = rules_for("SGLang", RULE_SETS, setup.version)
    refuse_uncovered(setup.model, setup.machine)
    card = min(setup.machine.gpus, key=capability)
    return SgLang(setup, rules, choose_format(FORMATS, setup.model, card, setup.weight_format))


class SgLang:
    """SGLang bound to one model, machine, weight format and version."""

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
        """The card that sets defaults and kernels: the least able, then the smallest."""
        system = self._machine.os
        return min(self._machine.gpus, key=lambda gpu: (capability(gpu), usable_memory(gpu, system).n_bytes))

    def propose(self, workload: Workload) -> Proposal:
        """Fill in the defaults and place the model. Raises ``RefusedError`` for what SGLang would refuse."""
        cache_format(FORMATS, self._card, self._chosen.dtype, workload)
        parallel = share_out(self._model, self._chosen.fmt, self._machine, workload)
        usual = defaults(self._rules, self._card, parallel.tensor)
        settled = fill_in(self._model, self._machine, usual, workload, parallel)
        if settled.memory_share is None:
            share = static_share(
                self._rules,
                self._model,
                self._card,
                ranks=parallel.tensor * parallel.pipeline,
                step_tokens=settled.step_tokens or 0,
                graph_batch=self._graph_batch(settled, parallel),
                eager=settled.enforce_eager,
            )
            settled = replace(settled, memory_share=share)
        placement = place(self._model, self._machine, parallel)
        if workload.fit_context and workload.n_context is None:
            pool = self.pool(Proposal(settled, placement), Ledger.of(()))
            fitted = _fitted_context(pool, ceil_div(settled.n_sequences or 1, parallel.data))
            settled = replace(settled, n_context=min(self._model.context, fitted or self._model.context))
        notes = write_notes(self._model, self._machine, self._rules, self.weight_format, settled)
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
        offloaded = proposal.workload.cpu_offload_bytes
        if offloaded:
            held = (loaded_bytes(self._stages(parallel)[parallel.stage_of(rank)]) for rank in range(parallel.n_ranks))
            lines.append(host_line(sum(min(offloaded, n) for n in held), "SGLang 0.5.23, --cpu-offload-gb"))
        return Ledger.of(lines)

    def budgets(self, proposal: Proposal) -> Mapping[str, Budget]:
        """Return each card's budget: the share of what is free before loading, on the fullest rank.

        Source:
            SGLang 0.5.23, srt/mem_cache/kv_cache_configurator.py, _profile_available_bytes.
        """
        parallel, budget = read_parallel(proposal.placement), self._static_bytes(proposal.workload, proposal)
        share = float(proposal.workload.memory_share or 0)
        why = f"{share:.4g} of what is free before loading (TP x PP {parallel.tensor * parallel.pipeline})"
        return {
            device: Budget(usable_memory(self._machine.gpu(device), self._machine.os).n_bytes, budget, why)
            for device in self._machine.device_names()
        }

    def readouts(self, proposal: Proposal, ledger: Ledger) -> tuple[Readout, ...]:
        """Return nothing: SGLang prints what it found in its log alone."""
        del proposal, ledger
        return ()

    def pool(self, proposal: Proposal, ledger: Ledger) -> Pool:
        """Return the token pool of the poorest rank, as ``max_total_num_tokens`` counts it."""
        del ledger  # the pool follows from weights and share alone
        parallel, workload = read_parallel(proposal.placement), proposal.workload
        sizes = []
        for stage in range(parallel.pipeline):
            cells, room = self._cells(workload, parallel, stage), self._room(proposal, stage)
            sizes.append((cells.tokens(room), room - cells.state_pool_bytes(cells.state_slots(room)), cells))
        n_tokens, _, cells = min(sizes, key=lambda size: size[0])
        return Pool(
            pool_bytes=max(0, min(left for _, left, _ in sizes)),
            n_blocks=n_tokens // cells.page_tokens,
            block_tokens=cells.page_tokens,
            n_tokens=n_tokens,
            max_concurrency=n_tokens / (workload.n_context or self._model.context),
        )

    def command(self, proposal: Proposal) -> tuple[str, ...]:
        """Return ``python3 -m sglang.launch_server`` with the context and what differs from its defaults."""
        usual = defaults(self._rules, self._card, read_parallel(proposal.placement).tensor)
        return launch_command(self._model, self._chosen, usual, proposal)

    def _static_bytes(self, workload: Workload, proposal: Proposal) -> int:
        parallel = read_parallel(proposal.placement)
        share = workload.memory_share or 0
        ranks = parallel.tensor * parallel.pipeline
        free = []
        for device in self._machine.device_names()[: parallel.n_ranks]:
            gpu = self._machine.gpu(device)
            taken = sum(line.n_bytes for line in billing.process_lines(gpu, ranks))
            free.append(usable_memory(gpu, self._machine.os).n_bytes - self._machine.reserve_on(device) - taken)
        return max(0, int(min(free) * share))

    def _room(self, proposal: Proposal, stage: int) -> int:
        """Return what weights leave of the static share on a rank of a stage."""
        parallel, workload = read_parallel(proposal.placement), proposal.workload
        weights = loaded_bytes(self._stages(parallel)[stage])
        held = weights - min(workload.cpu_offload_bytes, weights) + self._vision_bytes
        held += self._stages(parallel)[stage].rounding_bytes + billing.growth_line(parallel.tensor).n_bytes
        return self._static_bytes(workload, proposal) - held

    @cached_property
    def _vision_bytes(self) -> int:
        return self._rules.vision_cache_bytes if is_multimodal(self._model) else 0

    def _stages(self, parallel: Parallel) -> tuple[RankWeights, ...]:
        found = self._weights.get(parallel)
        if found is None:
            found = stage_weights(
                self._model, self._chosen, self._card, parallel, weight_layout(self._model, self._card)
            )
            self._weights[parallel] = found
        return found

    def _cells(self, workload: Workload, parallel: Parallel, stage: int) -> Cells:
        rows = Rows(
            model=self._model,
            dtype=self._chosen.dtype,
            element_bytes=cache_format(FORMATS, self._card, self._chosen.dtype, workload).block_bytes,
            tensor_parallel=parallel.tensor,
        )
        layers = parallel.stages(self._model.layers.n_layers)[stage]
        apart = has_windowed_pool(self._rules, self._model)
        return Cells(
            full_bytes=rows.token_bytes(layers, windowed=False if apart else None),
            windowed_bytes=rows.token_bytes(layers, windowed=True) if apart else 0,
            state_bytes=rows.state_bytes(layers),
            page_tokens=workload.block_tokens or page_tokens(self._rules, self._card),
        )

    def _graph_batch(self, workload: Workload, parallel: Parallel) -> int:
        usual = defaults(self._rules, self._card, parallel.tensor).graph_batch
        return min(usual, workload.max_num_seqs or usual)

    def _rank_lines(self, workload: Workload, parallel: Parallel, stage: int, gpu: GpuSpec) -> Iterator[Line]:
        weights = self._stages(parallel)[stage]
        offloaded = min(workload.cpu_offload_bytes, loaded_bytes(weights))
        yield weight_line(weights, offloaded, "SGLang 0.5.23, srt/layers and srt/models, which follow vLLM's")
        proposal = Proposal(workload, place(self._model, self._machine, parallel))
        cells, room = self._cells(workload, parallel, stage), self._room(proposal, stage)
        sequences = ceil_div(workload.n_sequences or 1, parallel.data)
        context = workload.n_context or self._model.context
        yield billing.cache_line(cells, cells.load_tokens(sequences, context))
        if cells.state_bytes:
            yield billing.state_line(cells, max(cells.state_slots(room), sequences * self._slots_per_request))
        if self._vision_bytes:
            yield billing.vision_line(self._vision_bytes)
        yield rounding_line(weights)
        yield billing.growth_line(parallel.tensor)
        yield from billing.process_lines(gpu, parallel.tensor * parallel.pipeline)
        requests = most_requests(cells.tokens(room), context, workload.max_num_seqs)
        yield billing.request_line(requests, context)
        yield billing.backend_line()
        yield from self._step_lines(workload, parallel, stage)

    @cached_property
    def _slots_per_request(self) -> int:
        return SLOTS_PER_REQUEST + (TRACKED_SLOTS if self._rules.tracks_states else 0)

    def _step_lines(self, workload: Workload, parallel: Parallel, stage: int) -> Iterator[Line]:
        tokens, batch = workload.step_tokens or 0, self._graph_batch(workload, parallel)
        shape = StepShape(
            model=self._model,
            fmt=self._chosen.fmt,
            dtype=self._chosen.dtype,
            step_tokens=tokens,
            sampled_rows=0,
            tensor_parallel=parallel.tensor,
            is_piped=parallel.pipeline > 1,
            whole_experts=parallel.whole_experts,
            replicas=1,
        )
        yield activation_line(shape, batch if stage == parallel.pipeline - 1 else 0, outside=True)
        if not workload.enforce_eager:
            yield from billing.graph_lines(decode_graphs(batch), prefill_graphs(self._rules, self._model, tokens))


def _fitted_context(pool: Pool, n_sequences: int) -> int:
    """Return the whole pages of the pool that each of the sequences may fill."""
    return pool.n_blocks // n_sequences * pool.block_tokens
