"""The KV planner: layer groups, bytes per block, blocks per request, and what is reported of it.

Source:
    vLLM 0.33, v1/kv_cache_interface.py, v1/core/kv_cache_planning.py and kv_cache_utils.py.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.engines._vllm.pages import Page, Reach
from vramcalc.units import ceil_div

_NEARLY_EQUAL = 3, 2  # buckets within 3 : 2 are padded to the larger instead of cut into pieces of the smaller


class PagedLayers(Struct, frozen=True):
    """Layers with one page layout: what a group of the planner is made of."""

    reach: Reach
    span: int
    block_tokens: int
    pages: tuple[tuple[int, int], ...]  # layer and bytes of its page

    @property
    def page_bytes(self) -> int:
        """Bytes of the largest page of one layer."""
        return max(n_bytes for _, n_bytes in self.pages)

    @property
    def n_bytes(self) -> int:
        """Bytes of a block over all layers."""
        return sum(n_bytes for _, n_bytes in self.pages)

    def blocks_for(self, n_context: int, in_flight: int) -> int:
        """Return the blocks one request may come to hold at once.

        A window keeps its last tokens and every token in flight, plus a block for the misaligned edge; a chunk all of
        its tokens and those in flight; a recurrent layer a fixed number of states.
        """
        match self.reach:
            case Reach.PAST:
                return ceil_div(n_context, self.block_tokens)
            case Reach.WINDOW:
                return ceil_div(min(self.span - 1 + in_flight, n_context), self.block_tokens) + 1
            case Reach.CHUNK:
                return ceil_div(min(self.span + in_flight, n_context), self.block_tokens)
            case Reach.STATE:
                return self.span


class CachePlan(Struct, frozen=True):
    """Groups of layers that draw their blocks from one pool."""

    groups: tuple[PagedLayers, ...]
    in_flight: int
    block_bytes: tuple[int, ...]  # of one block on a rank, by pipeline stage

    def blocks_per_request(self, n_context: int) -> int:
        """Return the blocks of one request at full context, over all groups."""
        return sum(group.blocks_for(n_context, self.in_flight) for group in self.groups)

    @property
    def states_per_request(self) -> int:
        """Blocks of one request that hold recurrent states, however long it is."""
        return sum(group.span for group in self.groups if group.reach is Reach.STATE)

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


def plan_cache(
    pages: Sequence[Sequence[Page]], *, stages: Sequence[range], in_flight: int, block_outermost: bool = False
) -> CachePlan:
    """Return the plan for layers with these pages, first to last; pages hold one rank's share.

    ``block_outermost``: pages of several sizes lie side by side in a block, instead of padded to one.
    """
    buckets: dict[Page, PagedLayers] = {}
    for layer, caches in enumerate(pages):
        for page in caches:
            key = replace(page, n_bytes=0) if block_outermost else page
            found = buckets.get(key) or PagedLayers(page.reach, page.span, page.block_tokens, ())
            buckets[key] = replace(found, pages=(*found.pages, (layer, page.n_bytes)))
    found_buckets = tuple(buckets.values())
    groups = _packed(found_buckets) if block_outermost else _uniform(found_buckets) or _grouped(found_buckets)
    return CachePlan(groups, in_flight, tuple(_block_bytes(groups, stage) for stage in stages))


def _uniform(buckets: tuple[PagedLayers, ...]) -> tuple[PagedLayers, ...]:
    """Return one group where the layers differ in nothing but the bytes of their pages, else nothing."""
    if len({(b.reach, b.span, b.block_tokens) for b in buckets}) != 1:
        return ()
    return (replace(buckets[0], pages=tuple(sorted(page for bucket in buckets for page in bucket.pages))),)


def _grouped(buckets: tuple[PagedLayers, ...]) -> tuple[PagedLayers, ...]:
    """Cut the buckets into groups of one size; layers are dealt in turn, so that every stage gets its share."""
    if not buckets:
        return ()
    counts = [len(bucket.pages) for bucket in buckets]
    up, down = _NEARLY_EQUAL
    size = max(counts) if max(counts) * down < min(counts) * up else min(counts)
    widest = max(bucket.page_bytes for bucket in buckets)
    groups = []
    for bucket in buckets:
        paged = _with_page(bucket, widest)
        groups += _dealt(paged, ceil_div(len(bucket.pages), size))
    return tuple(groups)


def _packed(buckets: tuple[PagedLayers, ...]) -> tuple[PagedLayers, ...]:
    """Cut the buckets so that none takes more of a block than the layers that keep all the past.

    Source:
        vLLM 0.33's planner on DeepSeek-V4-Flash: 43 windows of 37440 bytes against 1002240 make 22 and 21.
    """
    widest = max(bucket.n_bytes for bucket in buckets if bucket.reach is Reach.PAST)
    return tuple(group for bucket in buckets for group in _dealt(bucket, ceil_div(bucket.n_bytes, widest)))


def _dealt(bucket: PagedLayers, n_groups: int) -> list[PagedLayers]:
    return [replace(bucket, pages=bucket.pages[i::n_groups]) for i in range(n_groups)]


def _with_page(bucket: PagedLayers, page_bytes: int) -> PagedLayers:
    """Bring a page to the common size: more tokens per block where that divides, else padding."""
    times = page_bytes // bucket.page_bytes if page_bytes % bucket.page_bytes == 0 else 1
    pages = tuple((layer, page_bytes) for layer, _ in bucket.pages)
    return replace(bucket, pages=pages, block_tokens=bucket.block_tokens * times)


def _block_bytes(groups: tuple[PagedLayers, ...], stage: range) -> int:
    """Return the bytes of a block on a stage: those of its fullest group."""
    return max((sum(n for layer, n in group.pages if layer in stage) for group in groups), default=0)
