"""The kinds of layer parts: attention, recurrent mixers, MLPs; each a tagged union of closed specs.

Shapes follow the checkpoint. A layer has an attention (perhaps ``none``), perhaps a mixer beside or instead of it,
and an MLP (perhaps ``none``).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from vramcalc.specs.base import Spec


class Indexer(Spec):
    """Scores past tokens so that attention reads only the best; it caches a key of ``head_dim`` of its own."""

    n_heads: PositiveInt
    head_dim: PositiveInt
    top_k: PositiveInt  # tokens, or blocks of block_tokens
    block_tokens: PositiveInt = 1
    layout: Literal["latent", "plain"] = "latent"  # latent: queries from MLA's compressed one; plain: both from hidden


class _GroupedQuery(Spec):
    """Separate K and V heads; MHA, GQA and MQA differ only in ``n_kv_heads``."""

    n_heads: PositiveInt
    n_kv_heads: PositiveInt
    head_dim: PositiveInt  # stated, never hidden_dim // n_heads
    v_head_dim: PositiveInt | None = None  # where values are of another width than keys
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["none", "per_head", "whole"] = "none"
    sinks: bool = False  # one learned logit per head
    fused: bool = False  # the checkpoint stores Q, K and V as one matrix
    v_is_k: bool = False  # no V matrix: values are the keys' projection; both are cached
    shares_cache: bool = False  # no K and V of its own: reads the cache of an earlier layer
    output_gate: Literal["none", "in_query", "per_head", "whole"] = (
        "none"  # in_query: the query matrix is twice as tall
    )
    indexer: Indexer | None = None

    @model_validator(mode="after")
    def _heads_group_evenly(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            msg = f"n_heads={self.n_heads} is not a multiple of n_kv_heads={self.n_kv_heads}"
            raise ValueError(msg)
        return self

    @property
    def value_dim(self) -> int:
        """Width of one head's values."""
        return self.v_head_dim or self.head_dim


class FullAttention(_GroupedQuery):
    """Every past token stays cached."""

    kind: Literal["full"]


class SlidingAttention(_GroupedQuery):
    """Only the last ``window`` tokens are attended to."""

    kind: Literal["sliding"]
    window: PositiveInt
    gguf_window: bool = True  # False: llama.cpp does not read the window and caches every token


class ChunkedAttention(_GroupedQuery):
    """Only the past tokens of the same ``chunk`` are attended to."""

    kind: Literal["chunked"]
    chunk: PositiveInt


class BidirectionalAttention(_GroupedQuery):
    """An encoder's attention: all tokens at once, nothing cached."""

    kind: Literal["bidirectional"]


class LatentAttention(Spec):
    """MLA: one compressed row per token, shared by all heads."""

    kind: Literal["latent"]
    n_heads: PositiveInt
    query_rank: PositiveInt | None  # None: the query is not compressed
    latent_dim: PositiveInt  # kv_lora_rank
    rope_dim: PositiveInt
    nope_dim: PositiveInt
    v_head_dim: PositiveInt
    output_gate: bool = False  # a gate per channel of the output, as Kimi K3 has
    indexer: Indexer | None = None  # None too where a sparse layer takes over the choice of an earlier one


class CompressedAttention(Spec):
    """DeepSeek-V4: K = V of one head in a sliding window, and one compressed row per ``ratio`` tokens of all the past.

    Source: transformers 5.23, modeling_deepseek_v4.py.
    """

    kind: Literal["compressed"]
    n_heads: PositiveInt
    head_dim: PositiveInt
    rope_dim: PositiveInt
    query_rank: PositiveInt
    output_groups: PositiveInt
    output_rank: PositiveInt
    window: PositiveInt
    ratio: PositiveInt | None = None  # None: the window alone
    overlaps: bool = False  # a compressed row spans two windows: projections twice as wide
    indexer: Indexer | None = None


class NoAttention(Spec):
    """A layer that is an MLP or a mixer only."""

    kind: Literal["none"] = "none"


GroupedQueryAttention = FullAttention | SlidingAttention | ChunkedAttention | BidirectionalAttention
Attention = Annotated[
    FullAttention
    | SlidingAttention
    | ChunkedAttention
    | BidirectionalAttention
    | LatentAttention
    | CompressedAttention
    | NoAttention,
    Field(discriminator="kind"),
]


class Mamba1(Spec):
    """Selective state space; each channel of ``inner_dim`` holds ``state_dim`` numbers."""

    kind: Literal["mamba1"]
    inner_dim: PositiveInt
    state_dim: PositiveInt
    conv_kernel: PositiveInt
    time_step_rank: PositiveInt
    conv_bias: bool = True
    bias: bool = False
    inner_norms: bool = False  # Jamba norms the time step, B and C


class Mamba2(Spec):
    """Selective state space by heads; B and C are shared by the heads of a group."""

    kind: Literal["mamba2"]
    n_heads: PositiveInt
    head_dim: PositiveInt
    n_groups: PositiveInt
    state_dim: PositiveInt
    conv_kernel: PositiveInt
    conv_bias: bool = True
    bias: bool = False
    norm: bool = True  # Falcon-H1 can do without
    state_dtype: Literal["model", "f32"] = "model"  # of the recurrent state, where an engine follows the config

    @property
    def inner_dim(self) -> int:
        """Width of the mixer."""
        return self.n_heads * self.head_dim


class GatedDelta(Spec):
    """Gated delta net: each value head holds a matrix of keys by values."""

    kind: Literal["gated_delta"]
    n_key_heads: PositiveInt
    n_value_heads: PositiveInt
    key_dim: PositiveInt
    value_dim: PositiveInt
    conv_kernel: PositiveInt
    fused: bool = False  # beta and alpha are one matrix
    state_dtype: Literal["model", "f32"] = "model"  # of the recurrent state, where an engine follows the config


class KimiDelta(Spec):
    """Kimi's delta attention: a gated delta net whose decay is per channel; keys and values are of one width."""

    kind: Literal["kimi_delta"]
    n_heads: PositiveInt
    head_dim: PositiveInt
    conv_kernel: PositiveInt
    full_rank_gate: bool = False  # the output's gate is one matrix, not two through head_dim


class ShortConv(Spec):
    """LFM2's gated convolution over the last few tokens; no recurrent state beyond them."""

    kind: Literal["short_conv"]
    inner_dim: PositiveInt
    conv_kernel: PositiveInt
    bias: bool = False


Mixer = Annotated[Mamba1 | Mamba2 | GatedDelta | KimiDelta | ShortConv, Field(discriminator="kind")]


class GatedMlp(Spec):
    """Gate, up and down matrices."""

    kind: Literal["gated"]
    ff_dim: PositiveInt
    bias: bool = False
    fused: bool = False  # the checkpoint stores gate and up as one matrix


class PlainMlp(Spec):
    """Up and down matrices."""

    kind: Literal["plain"]
    ff_dim: PositiveInt
    bias: bool = False


class MoeMlp(Spec):
    """A router over experts, with shared experts beside them."""

    kind: Literal["moe"]
    n_experts: PositiveInt
    n_active_experts: PositiveInt
    ff_dim: PositiveInt  # of one expert
    shared_ff_dim: NonNegativeInt = 0  # of all shared experts together
    shared_gate: bool = False  # a learned gate scales what the shared experts add
    dense_ff_dim: NonNegativeInt = 0  # a gated MLP that runs beside the experts
    gated: bool = True  # False: experts, shared ones too, are up and down matrices
    latent_dim: PositiveInt | None = None  # experts work on a narrower stream, with a matrix in and one out
    latent_norm: bool = False  # and a norm before the way out
    expert_bias: bool = False
    router_bias: Literal["none", "parameter", "buffer"] = "none"
    hashed_tokens: PositiveInt | None = None  # rows of a table that sends each token to fixed experts; a buffer
    router_scale: bool = False  # Gemma 4: a scale per channel into the router, and one per expert

    @model_validator(mode="after")
    def _enough_experts(self) -> Self:
        if self.n_active_experts > self.n_experts:
            msg = f"n_active_experts={self.n_active_experts} exceeds n_experts={self.n_experts}"
            raise ValueError(msg)
        return self


class NoMlp(Spec):
    """A layer that is an attention or a mixer only."""

    kind: Literal["none"] = "none"


Mlp = Annotated[GatedMlp | PlainMlp | MoeMlp | NoMlp, Field(discriminator="kind")]


class LayerKind(Spec):
    """One kind of layer; with attention and mixer both, the two run side by side on the same input."""

    attention: Attention = Field(default_factory=NoAttention)
    mixer: Mixer | None = None
    mlp: Mlp = Field(default_factory=NoMlp)
    n_norms: NonNegativeInt = Field(default=2, le=7)  # norm vectors of hidden_dim; 4 with sandwich norms
    output_scale: bool = False  # a scale of one number on what the layer adds; a buffer

    def features(self) -> frozenset[str]:
        """Return what this layer has beyond full, sliding or latent attention and a plain, gated or MoE MLP."""
        a, mlp = self.attention, self.mlp
        found = {
            "chunked attention": isinstance(a, ChunkedAttention),
            "compressed attention": isinstance(a, CompressedAttention),
            "layers without attention": isinstance(a, NoAttention),
            "layers without MLP": isinstance(mlp, NoMlp),
            "recurrent state": self.mixer is not None,
            "indexer": not isinstance(a, NoAttention) and a.indexer is not None,
        }
        if isinstance(a, FullAttention | SlidingAttention | ChunkedAttention):
            found["shared caches"] = a.shares_cache
            found["values that are keys"] = a.v_is_k
            found["values of another width"] = a.value_dim != a.head_dim
            found["gated attention output"] = a.output_gate != "none"
        if isinstance(a, LatentAttention):
            found["gated attention output"] = a.output_gate
        if isinstance(mlp, MoeMlp):
            found["experts without gate"] = not mlp.gated
            found["experts of a narrower stream"] = mlp.latent_dim is not None
            found["dense MLP beside experts"] = mlp.dense_ff_dim > 0
            found["gated shared experts"] = mlp.shared_gate
            found["hashed routing"] = mlp.hashed_tokens is not None
        return frozenset(name for name, is_there in found.items() if is_there)
