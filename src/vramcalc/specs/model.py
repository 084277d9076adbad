"""The shape of a model: layer kinds and their order, stated in full so that nothing is guessed.

Attention and MLP are tagged unions: a new kind is one class here and one ``case`` where mypy's exhaustive match
complains. Shapes follow the checkpoint; ``hidden_dim`` is the width of the residual stream.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from vramcalc.ledger import Basis
from vramcalc.specs.base import Spec

Dtype = Literal["f32", "f16", "bf16"]
Role = Literal[
    "embedding", "attention", "mlp", "experts", "shared_experts", "router", "norm", "head", "vision", "projector"
]


class _GroupedQuery(Spec):
    """Separate K and V heads; MHA, GQA and MQA differ only in ``n_kv_heads``."""

    n_heads: PositiveInt
    n_kv_heads: PositiveInt
    head_dim: PositiveInt  # stated, never hidden_dim // n_heads
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["none", "per_head", "whole"] = "none"
    sinks: bool = False  # one learned logit per head
    fused: bool = False  # the checkpoint stores Q, K and V as one matrix

    @model_validator(mode="after")
    def _heads_group_evenly(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            msg = f"n_heads={self.n_heads} is not a multiple of n_kv_heads={self.n_kv_heads}"
            raise ValueError(msg)
        return self


class FullAttention(_GroupedQuery):
    """Every past token stays cached."""

    kind: Literal["full"]


class SlidingAttention(_GroupedQuery):
    """Only the last ``window`` tokens are attended to."""

    kind: Literal["sliding"]
    window: PositiveInt
    gguf_window: bool = True  # False: llama.cpp does not read the window and caches every token


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


GroupedQueryAttention = FullAttention | SlidingAttention | BidirectionalAttention
Attention = Annotated[
    FullAttention | SlidingAttention | BidirectionalAttention | LatentAttention, Field(discriminator="kind")
]


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
    """A router over gated experts, with shared experts beside them."""

    kind: Literal["moe"]
    n_experts: PositiveInt
    n_active_experts: PositiveInt
    ff_dim: PositiveInt  # of one expert
    shared_ff_dim: NonNegativeInt = 0  # of all shared experts together
    expert_bias: bool = False
    router_bias: Literal["none", "parameter", "buffer"] = "none"

    @model_validator(mode="after")
    def _enough_experts(self) -> Self:
        if self.n_active_experts > self.n_experts:
            msg = f"n_active_experts={self.n_active_experts} exceeds n_experts={self.n_experts}"
            raise ValueError(msg)
        return self


Mlp = Annotated[GatedMlp | PlainMlp | MoeMlp, Field(discriminator="kind")]


class LayerKind(Spec):
    """One kind of transformer layer."""

    attention: Attention
    mlp: Mlp
    n_norms: PositiveInt = 2  # norm vectors of hidden_dim; 4 with sandwich norms


class LayerStack(Spec):
    """All layers in order: ``first`` once, then ``pattern`` repeated until ``n_layers`` are reached."""

    n_layers: PositiveInt = Field(le=4096)
    kinds: dict[str, LayerKind] = Field(min_length=1)
    first: tuple[str, ...] = ()
    pattern: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _order_names_known_kinds(self) -> Self:
        unknown = {*self.first, *self.pattern} - self.kinds.keys()
        if unknown:
            msg = f"first / pattern name kinds that are not defined: {', '.join(sorted(unknown))}"
            raise ValueError(msg)
        if len(self.first) > self.n_layers:
            msg = f"first lists {len(self.first)} layers of {self.n_layers}"
            raise ValueError(msg)
        if not self.pattern and len(self.kinds) > 1 and len(self.first) < self.n_layers:
            msg = "several kinds of layers and no pattern"
            raise ValueError(msg)
        return self

    def order(self) -> tuple[str, ...]:
        """Return the kind of each layer, first to last."""
        pattern = self.pattern or tuple(self.kinds)[:1]
        rest = self.n_layers - len(self.first)
        return self.first + (pattern * (rest // len(pattern) + 1))[:rest]


class ExtraTensor(Spec):
    """A tensor outside the decoder layers that no layer kind implies: positions, poolers, towers."""

    name: str
    role: Role
    shape: tuple[PositiveInt, ...] = Field(min_length=1, max_length=4)
    count: PositiveInt = 1
    in_gguf: bool = True  # False: in another file (a vision projector), or dropped when converted
    gguf_shape: tuple[PositiveInt, ...] | None = None  # where the converter changes it


class RopeTable(Spec):
    """A precomputed cos/sin table; vLLM keeps one per distinct rope."""

    positions: PositiveInt
    dim: PositiveInt
    dtype: Literal["model", "f32"] = "model"


class CountFact(Spec):
    """A number of parameters with its provenance; ``derived`` means our own formula is the only witness."""

    total: PositiveInt
    active: PositiveInt | None = None  # touched per token; MoE only
    basis: Basis
    source: str


class ModelSpec(Spec):
    """A model as published: facts only, no engine's view of it."""

    id: str
    name: str
    family: str
    hf_ids: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    ollama_tags: tuple[str, ...] = ()
    ollama_format: str | None = None  # what the plain tag holds, where known
    advertised: str | None = None  # the size the publisher prints: "8B", "30B-A3B"
    parameters: CountFact
    context: PositiveInt  # trained, tokens
    license: str
    released: str = Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")
    dtype: Dtype
    checkpoint_format: str | None = None  # where the release itself is quantised
    vocabulary: PositiveInt  # rows of the embedding as stored
    gguf_vocabulary: PositiveInt | None = None  # where the converter drops padding rows
    hidden_dim: PositiveInt
    head: Literal["separate", "tied", "none"]
    norm: Literal["rms", "layer"] = "rms"  # layer norms carry a bias
    final_norm: bool = True
    layers: LayerStack
    extra_tensors: tuple[ExtraTensor, ...] = ()
    rope_tables: tuple[RopeTable, ...] = ()
    gguf_rope_factors: NonNegativeInt = 0  # elements of the rope_freqs tensor a GGUF carries
    notes: tuple[str, ...] = ()
    source: str

    @property
    def is_encoder(self) -> bool:
        """Whether no layer keeps a cache: an embedding model or a reranker."""
        return all(isinstance(kind.attention, BidirectionalAttention) for kind in self.layers.kinds.values())

    @property
    def is_moe(self) -> bool:
        """Whether some layer routes between experts."""
        return any(isinstance(kind.mlp, MoeMlp) for kind in self.layers.kinds.values())
