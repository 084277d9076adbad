"""The KV planner: layer groups, bytes per block, blocks per request, and what is reported of it.

Source:
    vLLM 0.33, v1/kv_cache_interface.py, v1/core/kv_cache_planning.py and kv_cache_utils.py.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.formulas.kv_cache import cached_row_elements, window_of
from vramcalc.placement.tensor_shares import Heads
from vramcalc.specs.model import Attention, BidirectionalAttention, LatentAttention
from vramcalc.units import ceil_div

_NEARLY_EQUAL = 3, 2  # buckets within 3 : 2 are padded to the larger instead of cut into pieces of the smaller


class PagedLayers(Struct, frozen=True):
    """Layers with one page layout: what a group of the planner is made of."""

    window: int | None
    block_tokens: int
    page_bytes: int  # of one layer and block
    layers: tuple[int, ...]

    def blocks_for(self, n_context: int, in_flight: int) -> int:
        """Return the blocks one request may come to hold at once.

        A window keeps its last tokens and every token in flight, plus a block for the misaligned edge.
        """
        if self.window is None:
            return ceil_div(n_context, self.block_tokens)
        return ceil_div(min(self.window - 1 + in_flight, n_context), self.block_tokens) + 1


class CachePlan(Struct, frozen=True):
    """Groups of layers that draw their blocks from one pool."""

    groups: tuple[PagedLayers, ...]
    in_flight: int
    block_bytes: tuple[int, ...]  # of one block on a rank, by pipeline stage

    def blocks_per_request(self, n_context: int) -> int:
        """Return the blocks of one request at full context, over all groups."""
        return sum(group.blocks_for(n_context, self.in_flight) for group in self.groups)

    @property
    def block_tokens(self) -> int:
        """The smallest block of any group."""
        return min(group.block_tokens for group in self.groups)

    def fitted_context(self, n_blocks: int, most: int) -> int:
        """Return the longest context of one request that ``n_blocks`` and the null block hold, up to ``most``.

        One group: (n_blocks - 1) x block tokens; several: a search, since windows saturate.
        """
        low, high = 0, most + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.blocks_per_request(middle) < n_blocks:
                low = middle
            else:
                high = middle
        return low


def plan_cache(  # noqa: PLR0913 - the planner's inputs
    attentions: Sequence[Attention],
    *,
    element_bytes: int,
    block_tokens: Callable[[Attention], int],
    tensor_parallel: int,
    stages: Sequence[range],
    in_flight: int,
) -> CachePlan:
    """Return the plan for layers of these attention kinds, first to last; pages hold one rank's share."""
    buckets: dict[tuple[object, ...], PagedLayers] = {}
    for index, attention in enumerate(attentions):
        if isinstance(attention, BidirectionalAttention):
            continue
        row = _row_on_rank(attention, tensor_parallel)
        key = (isinstance(attention, LatentAttention), window_of(attention), row)
        found = buckets.get(key)
        if found is None:
            block = block_tokens(attention)
            buckets[key] = PagedLayers(window_of(attention), block, row * element_bytes * block, (index,))
        else:
            buckets[key] = replace(found, layers=(*found.layers, index))
    groups = _grouped(tuple(buckets.values()))
    return CachePlan(groups, in_flight, tuple(_block_bytes(groups, stage) for stage in stages))


def _row_on_rank(attention: Attention, n_ranks: int) -> int:
    """Return the elements a rank caches of one token in one layer; a latent row is never split."""
    total = sum(cached_row_elements(attention))
    if isinstance(attention, LatentAttention):
        return total
    heads = Heads.of(attention)
    return total // heads.n_kv_heads * heads.kv_on_rank(n_ranks)


def _grouped(buckets: tuple[PagedLayers, ...]) -> tuple[PagedLayers, ...]:
    """Cut the buckets into groups of one size; layers are dealt in turn, so that every stage gets its share."""
    if len(buckets) <= 1:
        return buckets
    counts = [len(bucket.layers) for bucket in buckets]
    up, down = _NEARLY_EQUAL
    size = max(counts) if max(counts) * down < min(counts) * up else min(counts)
    widest = max(bucket.page_bytes for bucket in buckets)
    groups = []
    for bucket in buckets:
        paged = _with_page(bucket, widest)
        pieces = ceil_div(len(bucket.layers), size)
        groups += [replace(paged, layers=bucket.layers[i::pieces]) for i in range(pieces)]
    return tuple(groups)


def _with_page(bucket: PagedLayers, page_bytes: int) -> PagedLayers:
    """Bring a page to the common size: more tokens per block where that divides, else padding."""
    times = page_bytes // bucket.page_bytes if page_bytes % bucket.page_bytes == 0 else 1
    return replace(bucket, page_bytes=page_bytes, block_tokens=bucket.block_tokens * times)


def _block_bytes(groups: tuple[PagedLayers, ...], stage: range) -> int:
    """Return the bytes of a block on a stage: those of its fullest group."""
    return max((group.page_bytes * sum(layer in stage for layer in group.layers) for group in groups), default=0)
