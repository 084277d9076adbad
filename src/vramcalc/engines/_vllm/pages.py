"""What each kind of layer asks of the block pool: bytes of a page, tokens of a block, blocks of a request.

Source:
    vLLM 0.33, v1/kv_cache_interface.py, model_executor/layers/attention, model_executor/layers/mamba/mamba_utils.py,
    platforms/interface.py.
"""

from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct

from vramcalc.engines._vllm.rules import ELEMENT_BYTES, Capability, block_tokens, has_indexer
from vramcalc.errors import RefusedError
from vramcalc.formulas.kv_cache import (
    cached_row_elements,
    compressed_rows,
    indexer_row_elements,
    state_elements,
    window_of,
)
from vramcalc.placement.tensor_shares import Heads
from vramcalc.specs.layers import GroupedQueryAttention
from vramcalc.specs.model import (
    Attention,
    ChunkedAttention,
    CompressedAttention,
    Dtype,
    GatedDelta,
    LatentAttention,
    LayerKind,
    Mamba2,
    Mixer,
    ModelSpec,
)
from vramcalc.units import ceil_div, round_up

_HOPPER = 9
_SCALE_GROUP = 128  # elements per f32 scale of an indexer's key or of a latent row in fp8
_SCALE_BYTES = 4
_ROPE_BYTES = 2  # the rotated part of a row stays in 16 bits

_COMPRESSED_BLOCK = 256  # tokens of a block of compressed rows
_WINDOW_BLOCK = 64
_PAGE_MULTIPLE = 576  # what DeepSeek-V4's pages are rounded up to
_SERIES_BLOCK = {True: 4, False: 8}  # of a compressor's ring, by whether its windows overlap
_COMPRESSED_SCALE_GROUP = 64  # elements per scale of one byte
_COMPRESSED_SCALES_MULTIPLE = 8
_DELTA_CHUNK, _DELTA_MAJORS = 64, (9, 10, 12)
_STATE_BLOCKS = 2  # the running state and the one cached at the last whole block, in mode "align"


class Reach(StrEnum):
    """Which of a request's tokens a layer keeps."""

    PAST = "past"
    WINDOW = "window"
    CHUNK = "chunk"
    STATE = "state"  # none: states of fixed size


class Page(Struct, frozen=True):
    """One cache of one layer; ``span`` is the window, the chunk, or the states of a request."""

    reach: Reach
    span: int
    block_tokens: int
    n_bytes: int


class CacheRules(Struct, frozen=True, kw_only=True):
    """What decides the pages of a model on one rank."""

    model: ModelSpec
    card: Capability
    dtype: Dtype
    element_bytes: int  # of the cache
    tensor_parallel: int
    block_tokens: int | None = None  # as asked
    prefix_caching: bool = True

    @property
    def is_fp8(self) -> bool:
        """Whether the cache is in fp8."""
        return self.element_bytes == 1

    def pages(self) -> tuple[tuple[Page, ...], ...]:
        """Return the caches of each layer, first to last; those of one layer may share a block or not."""
        found = {name: tuple(self._layer_pages(kind)) for name, kind in self.model.layers.kinds.items()}
        return tuple(found[name] for name in self.model.layers.order())

    def _layer_pages(self, kind: LayerKind) -> Iterator[Page]:
        if isinstance(kind.attention, CompressedAttention):
            yield from _compressed_pages(kind.attention)
        elif any(cached_row_elements(kind.attention)):
            yield self._attention_page(kind.attention)
        if kind.mixer is not None:
            yield self._state_page(kind.mixer)

    def _attention_page(self, attention: Attention) -> Page:
        block = self._block_tokens(attention)
        row = self._row_bytes(attention)
        span = window_of(attention)
        if span is None:
            return Page(Reach.PAST, 0, block, row * block)
        return Page(Reach.CHUNK if isinstance(attention, ChunkedAttention) else Reach.WINDOW, span, block, row * block)

    def _row_bytes(self, attention: Attention) -> int:
        """Return the bytes a rank caches of one token in one layer; latent rows and indexer keys are never split.

        A latent row read by an indexer's choice is in fp8 with scales and 16-bit rope on Hopper (fp8_ds_mla); the
        indexer's own key is in fp8 with a scale always.
        """
        elements = sum(cached_row_elements(attention))
        if isinstance(attention, LatentAttention):
            own = elements * self.element_bytes
            if self.is_fp8 and self.card[0] == _HOPPER and has_indexer(self.model):
                scales = attention.latent_dim // _SCALE_GROUP * _SCALE_BYTES
                own = attention.latent_dim + scales + attention.rope_dim * _ROPE_BYTES
            return own + _indexer_key_bytes(attention)
        heads = Heads.of(attention)
        return elements // heads.n_kv_heads * heads.kv_on_rank(self.tensor_parallel) * self.element_bytes

    def _block_tokens(self, attention: Attention) -> int:
        """Return the tokens of a block: the kernel's own, or as many as hold a recurrent state.

        Source:
            vLLM 0.33, platforms/interface.py, _align_hybrid_block_size.
        """
        kernel = block_tokens(self.model, attention, self.card, fp8_cache=self.is_fp8)
        if self.block_tokens is not None:
            if self.block_tokens % kernel:
                raise RefusedError(
                    f"vLLM's attention kernel for {self.model.name} takes blocks of {kernel} tokens and multiples, "
                    f"not {self.block_tokens}",
                    f"--block-size {round_up(self.block_tokens, kernel)}, or leave it out",
                )
            kernel = self.block_tokens
        if not self.state_bytes():
            return kernel
        if any(self._leaves_checkpoints(kind.mixer) for kind in self.model.layers.kinds.values()):
            kernel = max(kernel, _DELTA_CHUNK)
        return kernel * ceil_div(self.state_bytes(), kernel * self._row_bytes(attention))

    def _state_page(self, mixer: Mixer) -> Page:
        """Return the page of a state, padded to that of attention.

        A request holds two, and a third where the prefill kernel leaves checkpoints on its way; one alone where no
        prefix is kept for others.
        """
        attentions = [kind.attention for kind in self.model.layers.kinds.values()]
        pages = [self._attention_page(a) for a in attentions if isinstance(a, GroupedQueryAttention | LatentAttention)]
        widest = max(pages, key=lambda page: page.n_bytes)
        span = 1
        if self.prefix_caching:
            span = _STATE_BLOCKS + (1 if isinstance(mixer, Mamba2) or self._leaves_checkpoints(mixer) else 0)
        return Page(Reach.STATE, span, widest.block_tokens, widest.n_bytes)

    def _leaves_checkpoints(self, mixer: Mixer | None) -> bool:
        """Whether FlashInfer's prefill of the gated delta net runs, which works in chunks of 64 tokens."""
        return self.prefix_caching and isinstance(mixer, GatedDelta) and self.card[0] in _DELTA_MAJORS

    def _state_bytes(self, mixer: Mixer) -> int:
        """Return the bytes of one state on a rank: the convolution in the model's dtype, the rest as configured.

        Groups of B and C that the ranks do not divide are copied, one to a rank.
        """
        ranks = self.tensor_parallel
        elements = state_elements(mixer)
        conv = elements.conv
        if isinstance(mixer, Mamba2) and mixer.n_groups % ranks:
            conv += 2 * (ranks - mixer.n_groups) * mixer.state_dim * (mixer.conv_kernel - 1)
        width = ELEMENT_BYTES[self.dtype]
        is_f32 = isinstance(mixer, Mamba2 | GatedDelta) and mixer.state_dtype == "f32"
        return conv // ranks * width + elements.recurrent // ranks * (ELEMENT_BYTES["f32"] if is_f32 else width)

    def state_bytes(self) -> int:
        """Return the bytes of the largest state before padding, 0 where there are none."""
        mixers = [kind.mixer for kind in self.model.layers.kinds.values() if kind.mixer is not None]
        return max((self._state_bytes(mixer) for mixer in mixers), default=0)


def _indexer_key_bytes(attention: Attention) -> int:
    key = indexer_row_elements(attention)
    return key + key // _SCALE_GROUP * _SCALE_BYTES


def _compressed_pages(attention: CompressedAttention) -> Iterator[Page]:
    """Yield the window's rows, the compressed rows of all the past, and the ring of tokens yet to be compressed.

    Shapes:
        row: unrotated part in fp8 with a byte per 64 as scale (padded to 8), rotated part in 16 bits
        compressed: 256 tokens per block, one row per ``ratio`` of them, beside it the indexer's key
        ring: keys and gates in f32, two series where windows overlap, and the same for the indexer

    Source:
        vLLM 0.33, models/deepseek_v4; pages rounded up to 576 bytes, as its planner printed them.
    """
    plain = attention.head_dim - attention.rope_dim
    scales = round_up(ceil_div(plain, _COMPRESSED_SCALE_GROUP), _COMPRESSED_SCALES_MULTIPLE)
    row = plain + scales + attention.rope_dim * _ROPE_BYTES
    yield Page(Reach.WINDOW, attention.window, _WINDOW_BLOCK, round_up(_WINDOW_BLOCK * row, _PAGE_MULTIPLE))
    past = compressed_rows(attention)
    if past is None:
        return
    n_rows = _COMPRESSED_BLOCK // past.ratio
    parts = [n_rows * row, n_rows * _indexer_key_bytes(attention)]
    yield Page(Reach.PAST, 0, _COMPRESSED_BLOCK, sum(round_up(part, _PAGE_MULTIPLE) for part in parts))
    block, series = _SERIES_BLOCK[attention.overlaps], 2 if attention.overlaps else 1
    of_token = 2 * series * ELEMENT_BYTES["f32"]  # keys and gates
    rings = [block * width * of_token for width in (past.row_elements, past.indexer_elements)]
    n_bytes = sum(round_up(ring, _PAGE_MULTIPLE) for ring in rings)
    yield Page(Reach.WINDOW, series * past.ratio, block, n_bytes)
