"""From an outcome to its report: the same figures, under their published names."""

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec.structs import fields

from vramcalc.engines.base import Pool
from vramcalc.estimation import HOST_RESERVE_BYTES, Asked, Outcome, outcome_speed
from vramcalc.formulas.capacity import usable_memory
from vramcalc.formulas.inventory import n_active_parameters, n_parameters
from vramcalc.ledger import DISK, HOST, Component, Ledger, Line
from vramcalc.reports.schema import (
    ComponentBytes,
    DeviceReport,
    EngineReport,
    EstimateReport,
    GpuReport,
    LimitsReport,
    LineReport,
    MachineReport,
    ModelReport,
    PlacementReport,
    ReadoutReport,
    RefusalReport,
    WorkloadReport,
)
from vramcalc.reports.speeds import freeze_speed
from vramcalc.solvers.limits import Limits
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec, MoeMlp
from vramcalc.specs.placement import Placement
from vramcalc.specs.workload import Workload
from vramcalc.units import MIB


def freeze_refusal(asked: Asked, version: str, reason: str, advice: str, notes: Iterable[str]) -> EstimateReport:
    """Return the report of a combination that does not go together: no figures, the reason and what would."""
    return EstimateReport(
        model=freeze_model(asked.model),
        engine=EngineReport(asked.engine, version, asked.version),
        weight_format=asked.weight_format,
        cache_format=None,
        workload=freeze_workload(asked.workload, asked.workload),
        machine=freeze_machine(asked.machine),
        verdict="unsupported",
        refusal=RefusalReport(reason, advice),
        devices=(),
        totals=None,
        placement=None,
        limits=None,
        speed=None,
        lines=(),
        launch=(),
        engine_log=(),
        advice=(),
        notes=tuple(notes),
    )


def freeze_outcome(
    asked: Asked, outcome: Outcome, limits: Limits, *, advice: Sequence[str], notes: Sequence[str]
) -> EstimateReport:
    """Return the report of an answered estimate."""
    workload = outcome.proposal.workload
    speed, speed_notes = outcome_speed(outcome, asked.model, asked.machine)
    gpu_lines = [line for line in outcome.ledger.lines if line.device in outcome.balances]
    pool = outcome.engine.pool(outcome.proposal, outcome.ledger)
    return EstimateReport(
        model=freeze_model(asked.model),
        engine=EngineReport(asked.engine, outcome.engine.version, asked.version),
        weight_format=outcome.engine.weight_format,
        cache_format=_cache_format(workload),
        workload=freeze_workload(workload, asked.workload),
        machine=freeze_machine(asked.machine),
        verdict=outcome.verdict,
        refusal=None,
        devices=_devices(asked.machine, outcome),
        totals=ComponentBytes(**_component_bytes(gpu_lines)),
        placement=_placement(asked.model, outcome.proposal.placement),
        limits=_limits(limits, pool),
        speed=None if speed is None else freeze_speed(speed),
        lines=tuple(_line(line) for line in outcome.ledger.lines),
        launch=outcome.engine.command(outcome.proposal),
        engine_log=pool.log if pool else (),
        advice=tuple(advice),
        notes=(*notes, *outcome.proposal.notes, *(speed_notes if speed is None else speed.notes)),
        readouts=_readouts(asked.machine, outcome),
    )


def freeze_model(model: ModelSpec) -> ModelReport:
    """Return which model was meant."""
    return ModelReport(
        id=model.id,
        hf_id=model.hf_ids[0] if model.hf_ids else None,
        name=model.name,
        n_parameters=n_parameters(model),
        n_active_parameters=n_active_parameters(model),
        context=model.context,
        source=model.source,
    )


def freeze_machine(machine: Machine) -> MachineReport:
    """Return what it is to run on."""
    gpus = []
    for gpu in machine.gpus:
        usable = usable_memory(gpu, machine.os)
        gpus.append(
            GpuReport(
                id=gpu.id,
                name=gpu.name,
                memory_bytes=gpu.memory.advertised,
                usable_bytes=usable.n_bytes,
                usable_basis=usable.basis.value,
                usable_why=usable.why,
                usable_source=usable.source,
                vendor=gpu.vendor,
            )
        )
    return MachineReport(
        gpus=tuple(gpus),
        nodes=machine.nodes,
        host_memory_bytes=machine.host_memory_bytes,
        os=machine.os,
        reserve_bytes=machine.reserve_bytes,
    )


def freeze_workload(settled: Workload, asked: Workload) -> WorkloadReport:
    """Return every setting in force; those the engine filled in are named as assumed."""
    filled = tuple(
        f.name for f in fields(Workload) if getattr(asked, f.name) is None and getattr(settled, f.name) is not None
    )
    share = settled.memory_share
    return WorkloadReport(
        n_context=settled.n_context,
        n_sequences=settled.n_sequences,
        step_tokens=settled.step_tokens,
        flash_attention=settled.flash_attention,
        n_slots=settled.n_slots,
        kv_unified=settled.kv_unified,
        swa_full=settled.swa_full,
        overrides=settled.overrides,
        tensor_split=settled.tensor_split,
        split_mode=settled.split_mode,
        main_gpu=settled.main_gpu,
        kv_offload=settled.kv_offload,
        op_offload=settled.op_offload,
        mmap=settled.mmap,
        mlock=settled.mlock,
        repack=settled.repack,
        draft_gpu_layers=settled.draft_gpu_layers,
        gpu_layers=settled.gpu_layers,
        cpu_moe=settled.cpu_moe,
        k_format=settled.k_format,
        v_format=settled.v_format,
        tensor_parallel=settled.tensor_parallel,
        pipeline_parallel=settled.pipeline_parallel,
        data_parallel=settled.data_parallel,
        expert_parallel=settled.expert_parallel,
        memory_share=None if share is None else float(share),
        max_num_seqs=settled.max_num_seqs,
        enforce_eager=settled.enforce_eager,
        kv_cache_memory_bytes=settled.kv_cache_memory_bytes,
        cpu_offload_bytes=settled.cpu_offload_bytes,
        kv_offload_bytes=settled.kv_offload_bytes,
        block_tokens=settled.block_tokens,
        chunked_prefill=settled.chunked_prefill,
        prefix_caching=settled.prefix_caching,
        assumed=filled,
        spread=settled.spread,
        gpu_overhead_bytes=settled.gpu_overhead_bytes,
    )


def _cache_format(workload: Workload) -> str | None:
    k, v = workload.k_format, workload.v_format
    return k if k == v or v is None else f"{k}/{v}"


def _component_bytes(lines: Sequence[Line]) -> dict[str, int]:
    inside = Ledger(tuple(line for line in lines if not line.outside_budget))
    sums = {f"{component}_bytes": inside.of_component(component).n_bytes for component in Component}
    return {
        **sums,
        "need_bytes": inside.n_bytes,
        "need_low_bytes": inside.low_bytes,
        "need_high_bytes": inside.high_bytes,
        "outside_budget_bytes": sum(line.n_bytes for line in lines if line.outside_budget),
    }


def _devices(machine: Machine, outcome: Outcome) -> tuple[DeviceReport, ...]:
    found = [
        DeviceReport(
            name=device,
            kind="gpu",
            memory_pool="unified" if machine.gpu(device).unified_memory else device,
            capacity_bytes=balance.budget.capacity_bytes,
            budget_bytes=balance.budget.budget_bytes,
            budget_why=balance.budget.why,
            headroom_bytes=balance.headroom_bytes,
            peak_bytes=_peak(outcome, device),
            **_component_bytes(outcome.ledger.on(device).lines),
        )
        for device, balance in outcome.balances.items()
    ]
    host = outcome.ledger.on(HOST)
    if host.lines:
        capacity = outcome.host_capacity_bytes
        budget = None if capacity is None else max(0, capacity - HOST_RESERVE_BYTES)
        why = "host memory less 2 GiB for the system (assumed)"
        found.append(
            DeviceReport(
                name=HOST,
                kind="host",
                memory_pool="unified" if machine.unified_memory else HOST,
                capacity_bytes=capacity,
                budget_bytes=budget,
                budget_why="host memory was not stated and is not checked" if budget is None else why,
                headroom_bytes=None if budget is None else budget - host.n_bytes,
                peak_bytes=_peak(outcome, HOST),
                **_component_bytes(host.lines),
            )
        )
    if outcome.verdict == "streams_from_disk":
        found.append(_disk(host, outcome.host_capacity_bytes or 0))
    return tuple(found)


def _peak(outcome: Outcome, device: str) -> int | None:
    """Return the most a device holds on the way; None where the engine's loading is not known."""
    loading = outcome.proposal.loading
    return None if loading is None else outcome.ledger.on(device).n_bytes + loading.get(device, 0)


def _disk(host: Ledger, capacity_bytes: int) -> DeviceReport:
    """Return the part of the mapped weights that does not stay in memory and is read again as it is needed."""
    overflow = host.n_bytes - max(0, capacity_bytes - HOST_RESERVE_BYTES)
    sums = {**_component_bytes(()), "weights_bytes": overflow}
    sums.update(dict.fromkeys(("need_bytes", "need_low_bytes", "need_high_bytes"), overflow))
    return DeviceReport(
        name=DISK,
        kind="disk",
        memory_pool=DISK,
        capacity_bytes=None,
        budget_bytes=None,
        budget_why="mapped weights that host memory cannot keep",
        headroom_bytes=None,
        **sums,
    )


def _placement(model: ModelSpec, placement: Placement) -> PlacementReport:
    moe_layers = [
        index for index, kind in enumerate(model.layers.order()) if isinstance(model.layers.kinds[kind].mlp, MoeMlp)
    ]
    return PlacementReport(
        gpu_layers=placement.gpu_layers,
        total_layers=model.layers.n_layers + 1,
        expert_layers_on_gpu=sum(map(placement.experts_stay, moe_layers)) if moe_layers else None,
        layers_per_device=dict(Counter(placement.layers)),
        tensor_parallel=placement.tensor_parallel,
        pipeline_parallel=placement.pipeline_parallel,
        data_parallel=placement.data_parallel,
        expert_parallel=placement.expert_parallel,
        overrides=tuple(f"layer {o.layer}: {', '.join(sorted(o.tensors))} on {o.device}" for o in placement.overrides),
    )


def _limits(limits: Limits, pool: Pool | None) -> LimitsReport:
    return LimitsReport(
        max_context=limits.max_context,
        max_sequences=limits.max_sequences,
        kv_cache_pool_bytes=pool.pool_bytes if pool else None,
        kv_cache_blocks=pool.n_blocks if pool else None,
        kv_block_tokens=pool.block_tokens if pool else None,
        kv_cache_tokens=pool.n_tokens if pool else None,
        max_concurrency=pool.max_concurrency if pool else None,
    )


def _readouts(machine: Machine, outcome: Outcome) -> tuple[ReadoutReport, ...]:
    """Return what the engine's tools show, and what NVIDIA's shows of its process on each card.

    A paging engine's process holds its whole pool, not only what the load needs of it.
    """
    pool = outcome.engine.pool(outcome.proposal, outcome.ledger)
    shown = [
        ReadoutReport(r.tool, r.device, r.n_bytes, r.text)
        for r in outcome.engine.readouts(outcome.proposal, outcome.ledger)
    ]
    for device in outcome.balances:
        if machine.gpu(device).vendor == "nvidia":
            lines = outcome.ledger.on(device)
            unused = max(0, pool.pool_bytes - lines.of_component(Component.KV_CACHE).n_bytes) if pool else 0
            n_bytes = lines.n_bytes + unused
            shown.append(ReadoutReport("nvidia-smi", device, n_bytes, f"{n_bytes // MIB}MiB"))
    return tuple(shown)


def _line(line: Line) -> LineReport:
    return LineReport(
        component=line.component.value,
        device=line.device,
        n_bytes=line.n_bytes,
        low_bytes=line.low_bytes,
        high_bytes=line.high_bytes,
        basis=line.basis.value,
        why=line.why,
        source=line.source,
        formula=line.formula,
        values=dict(line.values),
        outside_budget=line.outside_budget,
    )
