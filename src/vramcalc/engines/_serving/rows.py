"""Bytes a rank keeps of one token and of one sequence, layer by layer."""

from collections.abc import Iterable

from msgspec import Struct

from vramcalc.engines._vllm.rules import ELEMENT_BYTES
from vramcalc.formulas.kv_cache import cached_row_elements, state_elements, window_of
from vramcalc.placement.tensor_shares import Heads
from vramcalc.specs.model import Attention, Dtype, LatentAttention, Mixer, ModelSpec


class Rows(Struct, frozen=True, kw_only=True):
    """A model's cached rows on one tensor-parallel rank."""

    model: ModelSpec
    dtype: Dtype
    element_bytes: int  # of the cache
    tensor_parallel: int

    def token_bytes(self, layers: Iterable[int], *, windowed: bool | None = None) -> int:
        """Return the bytes these layers cache of one token; ``windowed`` picks those with a window, or without."""
        order, kinds = self.model.layers.order(), self.model.layers.kinds
        attentions = (kinds[order[layer]].attention for layer in layers)
        return sum(
            self._row_bytes(attention)
            for attention in attentions
            if windowed is None or (window_of(attention) is not None) is windowed
        )

    def _row_bytes(self, attention: Attention) -> int:
        """Return one layer's row: latent rows whole on every rank, others by KV head, at least one to a rank."""
        elements = sum(cached_row_elements(attention))
        if not elements or isinstance(attention, LatentAttention):
            return elements * self.element_bytes
        heads = Heads.of(attention)
        return elements // heads.n_kv_heads * heads.kv_on_rank(self.tensor_parallel) * self.element_bytes

    def state_bytes(self, layers: Iterable[int]) -> int:
        """Return the bytes of one recurrent state of these layers: convolution in 16 bits, the rest in f32."""
        order, kinds = self.model.layers.order(), self.model.layers.kinds
        return sum(self._one_state(kinds[order[layer]].mixer) for layer in layers)

    def _one_state(self, mixer: Mixer | None) -> int:
        elements = state_elements(mixer)
        conv = elements.conv // self.tensor_parallel * ELEMENT_BYTES["bf16"]
        return conv + elements.recurrent // self.tensor_parallel * ELEMENT_BYTES["f32"]
