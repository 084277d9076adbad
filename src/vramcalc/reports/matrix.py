"""Many estimates side by side, each cut down to what one compares by."""

from typing import Literal

from msgspec import Struct

from vramcalc.errors import UsageError
from vramcalc.estimation import Asked, Outcome, outcome_speed
from vramcalc.formulas.inventory import n_active_parameters, n_parameters
from vramcalc.ledger import HOST
from vramcalc.reports.schema import SpeedReport, VerdictName
from vramcalc.reports.speeds import freeze_speed
from vramcalc.specs.quality import weight_quality


class CellReport(Struct, frozen=True, kw_only=True):
    """One combination. ``need_bytes`` is that of all GPUs, ``headroom_bytes`` that of the tightest.

    ``quality_loss`` is a mean KL divergence for GGUF formats and the share of a benchmark score lost for others, as
    published of another model; null where nobody published one.
    """

    model: str
    n_parameters: int
    n_active_parameters: int
    gpu: str
    engine: str
    engine_version: str
    weight_format: str | None
    cache_format: str | None
    n_context: int | None
    n_sequences: int | None
    verdict: VerdictName
    need_bytes: int | None
    host_bytes: int | None
    headroom_bytes: int | None
    gpu_layers: int | None
    total_layers: int
    quality_loss: float | None
    speed: SpeedReport | None
    reason: str | None


class MatrixReport(Struct, frozen=True):
    """All combinations of one request, in the order asked or sorted by."""

    schema_version: Literal[1]
    cells: tuple[CellReport, ...]


def freeze_cell(asked: Asked, tried: Outcome | UsageError, gpu: str) -> CellReport:
    """Return one combination under its published names; ``gpu`` is the machine as the user named it."""
    model = asked.model
    if isinstance(tried, UsageError):
        return CellReport(
            model=model.id,
            n_parameters=n_parameters(model),
            n_active_parameters=n_active_parameters(model),
            gpu=gpu,
            engine=asked.engine,
            engine_version=asked.version or "",
            weight_format=asked.weight_format,
            cache_format=None,
            n_context=asked.workload.n_context,
            n_sequences=asked.workload.n_sequences,
            verdict="unsupported",
            need_bytes=None,
            host_bytes=None,
            headroom_bytes=None,
            gpu_layers=None,
            total_layers=model.layers.n_layers + 1,
            quality_loss=None,
            speed=None,
            reason=str(tried),
        )
    speed, _ = outcome_speed(tried, model, asked.machine)
    load, name = tried.proposal.workload, tried.engine.weight_format
    quality = weight_quality(asked.engine, name)
    is_own = name == model.checkpoint_format or (name in ("bf16", "f16") and model.checkpoint_format is None)
    return CellReport(
        model=model.id,
        n_parameters=n_parameters(model),
        n_active_parameters=n_active_parameters(model),
        gpu=gpu,
        engine=asked.engine,
        engine_version=tried.engine.version,
        weight_format=name,
        cache_format=load.k_format if load.k_format == load.v_format else f"{load.k_format}/{load.v_format}",
        n_context=load.n_context,
        n_sequences=load.n_sequences,
        verdict=tried.verdict,
        need_bytes=sum(balance.need.n_bytes for balance in tried.balances.values()),
        host_bytes=tried.ledger.on(HOST).n_bytes,
        headroom_bytes=tried.headroom_bytes,
        gpu_layers=tried.proposal.placement.gpu_layers,
        total_layers=model.layers.n_layers + 1,
        quality_loss=0.0 if is_own else quality.loss if quality else None,
        speed=None if speed is None else freeze_speed(speed),
        reason=None,
    )
