"""A rank's weights where the model classes follow vLLM's: fused Q, K, V, padded vocabulary, copied KV heads."""

from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from vramcalc.engines._vllm.formats import ChosenFormat
from vramcalc.engines._vllm.parallel import Parallel
from vramcalc.engines._vllm.rules import capability
from vramcalc.engines._vllm.weights import RankWeights, WeightRules
from vramcalc.ledger import HOST, Basis, Component, Line
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import ModelSpec

_F32_BYTES = 4


class Layout(NamedTuple):
    """What differs from vLLM's layout: what mxfp4 experts are rounded up to, and whether rope tables are kept."""

    expert_multiple: int
    hidden_multiple: int
    rope_tables: bool = True


def stage_weights(
    model: ModelSpec, chosen: ChosenFormat, card: GpuSpec, parallel: Parallel, layout: Layout
) -> tuple[RankWeights, ...]:
    """Return the weights of a rank for each pipeline stage, the rope tables in f32."""
    rules = WeightRules(
        model=model,
        storage=chosen.storage,
        dtype=chosen.dtype,
        card=capability(card),
        expert_multiple=layout.expert_multiple,
        hidden_multiple=layout.hidden_multiple,
        copies_latent=False,
    )
    tables = sum(table.positions * table.dim for table in model.rope_tables) * _F32_BYTES if layout.rope_tables else 0
    stages = rules.stages(
        parallel.tensor, parallel.pipeline, expert_ranks=parallel.tensor, whole_experts=parallel.whole_experts
    )
    return tuple(
        replace(stage, parts=_with_tables(stage, tables), changes=_without_scales(stage.changes)) for stage in stages
    )


def _without_scales(changes: Mapping[str, int]) -> dict[str, int]:
    """Return what the end of loading changes but for the scales of vLLM's attention layers."""
    return {name: change for name, change in changes.items() if name != "dropped_scales"}


def _with_tables(weights: RankWeights, table_bytes: int) -> dict[str, int]:
    parts = {name: n for name, n in weights.parts.items() if name not in ("rope_tables", "layer_scales")}
    return {**parts, "rope_tables": table_bytes} if table_bytes else parts


def weight_line(weights: RankWeights, offloaded_bytes: int, source: str) -> Line:
    """Return the weights of a rank, part by part, after loading has ended."""
    values = dict(weights.parts)
    terms = " + ".join(values)
    for name, change in weights.changes.items():
        terms += f" {'+' if change > 0 else '-'} {name}"
        values[name] = abs(change)
    if offloaded_bytes:
        terms += " - offloaded"
        values["offloaded"] = offloaded_bytes
    return Line(
        component=Component.WEIGHTS,
        device="",
        n_bytes=loaded_bytes(weights) - offloaded_bytes,
        basis=Basis.DERIVED,
        why="parameters of this rank with their scales and rope tables",
        source=source,
        formula=terms,
        values=values,
    )


def loaded_bytes(weights: RankWeights) -> int:
    """Return what a rank holds once loading has ended."""
    return weights.n_bytes + sum(weights.changes.values())


def host_line(offloaded_bytes: int, source: str) -> Line:
    """Return the weights of all ranks that stay in host memory."""
    return Line(
        component=Component.WEIGHTS,
        device=HOST,
        n_bytes=offloaded_bytes,
        basis=Basis.DERIVED,
        why="weights of all ranks read from host memory in every step",
        source=source,
        formula="offloaded",
        values={"offloaded": offloaded_bytes},
    )
