"""One run's settings as the engine resolves them, in cells and tokens.

Source: llama.cpp 0c1e570, src/llama-context.cpp, src/llama-kv-cache-iswa.cpp and common/common.h.
"""

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.engines._ggml.builder import Batch
from vramcalc.formulas.kv_cache import window_of
from vramcalc.specs.formats import F16, BlockFormat
from vramcalc.specs.model import Attention, ModelSpec
from vramcalc.units import round_up

CONTEXT_STEP = 256
LOGICAL_BATCH = 2048  # -b, the largest batch handed in


class Run(Struct, frozen=True, kw_only=True):
    """Settings of one server process.

    ``total_context`` is what ``-c`` gets: one pool under a unified cache, else all slots together.
    """

    total_context: int
    n_slots: int
    is_unified: bool
    step_tokens: int
    k_format: BlockFormat = F16
    v_format: BlockFormat = F16
    flash_attention: bool = True
    v_by_row: bool | None = None  # V is cached by row; None: as flash attention reads it, else transposed
    chooses_attention: bool = False  # flash attention is on only where each layer's runs on the layer's device
    swa_full: bool = False
    n_outputs: int | None = None  # rows of logits; None: one per slot
    kv_offload: bool = True  # each layer caches where it lives; else all in host memory
    op_offload: bool = True  # large batches are sent to a GPU even where the weights are in host memory

    @property
    def n_streams(self) -> int:
        """Separate caches."""
        return 1 if self.is_unified else self.n_slots

    @property
    def stream_cells(self) -> int:
        """Cells of one stream: padded to 256 as a whole, and again after the division."""
        padded = round_up(self.total_context, CONTEXT_STEP)
        return round_up(padded // self.n_streams, CONTEXT_STEP)

    @property
    def caches_v_by_row(self) -> bool:
        """Whether V lies in the cache as K does."""
        return self.flash_attention if self.v_by_row is None else self.v_by_row

    def cells(self, attention: Attention) -> int:
        """Return the cells of one stream for a kind of attention: a window keeps itself and one batch."""
        window = window_of(attention)
        if window is None or self.swa_full:
            return self.stream_cells
        wanted = window * (self.n_slots if self.is_unified else 1) + self.step_tokens
        return min(self.stream_cells, round_up(wanted, CONTEXT_STEP))

    def batch(self, model: ModelSpec) -> Batch:
        """Return the batch memory is reserved for."""
        n_tokens = min(self.step_tokens, self.stream_cells * self.n_streams)
        windows = [k.attention for k in model.layers.kinds.values() if window_of(k.attention) is not None]
        return Batch(
            n_tokens=round_up(n_tokens, self.n_slots),
            n_outputs=min(n_tokens, self.n_outputs or self.n_slots),
            n_streams=self.n_streams,
            n_slots=self.n_slots,
            cells=self.stream_cells,
            sliding_cells=self.cells(windows[0]) if windows else 0,
            k_format=self.k_format,
            v_format=self.v_format,
            flash_attention=self.flash_attention,
            v_by_row=self.caches_v_by_row,
            kv_offload=self.kv_offload,
            op_offload=self.op_offload,
        )

    def with_context(self, total_context: int) -> "Run":
        """Return the same run with another context."""
        return replace(self, total_context=total_context)
