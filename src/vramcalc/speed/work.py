"""Who does what in one forward pass: weights, cache and operations of every device, by the placement."""

from collections.abc import Mapping
from itertools import pairwise

from msgspec import Struct

from vramcalc.formulas.roofline import Work
from vramcalc.formulas.traffic import (
    LayerTraffic,
    Matrix,
    Traffic,
    attention_flops,
    cache_read_bytes,
    routed_share,
    state_traffic_bytes,
)
from vramcalc.ledger import HOST
from vramcalc.placement.tensor_shares import Heads
from vramcalc.specs.formats import BlockFormat
from vramcalc.specs.model import MoeMlp
from vramcalc.specs.placement import Placement

_OPERATIONS = 2  # a multiplication and an addition per weight


class Batch(Struct, frozen=True, kw_only=True):
    """What passes through the model at once: ``tokens`` of each of ``sequences`` that hold ``depth`` tokens.

    While answers are written a sequence has one token in a pass; while a prompt is read it has a step's.
    """

    sequences: int
    depth: int
    k_format: BlockFormat
    v_format: BlockFormat
    tokens: int = 1

    @property
    def n_tokens(self) -> int:
        """Tokens of the pass."""
        return self.sequences * self.tokens


class Split(Struct, frozen=True):
    """The work of every device in the order the pass visits them, and how often it moves on to another."""

    works: Mapping[str, Work]
    n_hops: int  # between GPUs
    n_host_hops: int  # from a GPU to the host or back


def split_work(traffic: Traffic, placement: Placement, batch: Batch) -> Split:
    """Return what each device does; under tensor parallelism what one rank of each stage does."""
    away = _moved(placement)
    works: dict[str, Work] = {}
    route: list[str] = []
    memo: dict[tuple[int, frozenset[str]], tuple[Work, Work]] = {}
    for index, (layer, home) in enumerate(zip(traffic.layers, placement.layers, strict=True)):
        moved, elsewhere = away.get(index, (frozenset(), home))
        key = (id(layer), moved)
        if key not in memo:
            memo[key] = _layer_work(layer, moved, placement.tensor_parallel, batch)
        own, other = memo[key]
        works[home] = works.get(home, Work()) + own
        route.append(home)
        if other.weight_bytes and elsewhere != home:
            works[elsewhere] = works.get(elsewhere, Work()) + other
            route += [elsewhere, home]
    end = placement.output_device
    works[end] = works.get(end, Work()) + _head_work(traffic.head, placement.tensor_parallel, batch)
    route.append(end)
    hops = [pair for pair in pairwise(route) if pair[0] != pair[1]]
    n_host_hops = sum(HOST in pair for pair in hops)
    return Split(works, len(hops) - n_host_hops, n_host_hops)


def _moved(placement: Placement) -> dict[int, tuple[frozenset[str], str]]:
    """Return by layer the tensors that live elsewhere, with the device; host memory where several hold some."""
    found: dict[int, tuple[frozenset[str], str]] = {}
    for override in placement.overrides:
        names, device = found.get(override.layer, (frozenset[str](), override.device))
        place = HOST if HOST in (device, override.device) else override.device
        found[override.layer] = (names | override.tensors, place)
    return found


def _layer_work(layer: LayerTraffic, moved: frozenset[str], n_ranks: int, batch: Batch) -> tuple[Work, Work]:
    """Return what a layer's device does, and what the device of its moved tensors does."""
    kind = layer.kind
    share = routed_share(kind, batch.n_tokens)
    active = kind.mlp.n_active_experts / kind.mlp.n_experts if isinstance(kind.mlp, MoeMlp) else 1.0
    own, other = Work(), Work()
    for matrix in layer.matrices:
        part = _matrix_work(matrix, share, active, batch.n_tokens)
        if matrix.name in moved:
            other += part
        else:
            own += part
    heads = Heads.of(kind.attention)
    kv_share = heads.kv_on_rank(n_ranks) / heads.n_kv_heads if heads.n_kv_heads else 0.0
    cache = cache_read_bytes(kind, batch.depth, batch.k_format, batch.v_format) * kv_share
    state = state_traffic_bytes(kind) / n_ranks
    own = Work(
        weight_bytes=own.weight_bytes / n_ranks,
        cache_bytes=batch.sequences * (cache + state),
        flops=(own.flops + batch.n_tokens * attention_flops(kind, batch.depth)) / n_ranks,
        n_weights=own.n_weights / n_ranks,
        n_layers=1.0,
        n_routed=float(isinstance(kind.mlp, MoeMlp)),
    )
    return own, other


def _matrix_work(matrix: Matrix, share: float, active: float, n_tokens: int) -> Work:
    read = share if matrix.is_routed else 1.0
    used = active if matrix.is_routed else 1.0
    return Work(
        weight_bytes=matrix.n_bytes * read,
        flops=_OPERATIONS * matrix.n_elements * used * n_tokens,
        n_weights=matrix.n_elements * read,
    )


def _head_work(head: tuple[Matrix, ...], n_ranks: int, batch: Batch) -> Work:
    """Return the work of the logits, which a sequence needs of its last token alone."""
    whole = Work()
    for matrix in head:
        whole += _matrix_work(matrix, 1.0, 1.0, batch.sequences)
    return Work(
        weight_bytes=whole.weight_bytes / n_ranks, flops=whole.flops / n_ranks, n_weights=whole.n_weights / n_ranks
    )
