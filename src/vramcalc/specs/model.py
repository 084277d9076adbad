"""The shape of a model: layer kinds and their order, stated in full so that nothing is guessed.

The kinds themselves are in ``layers``: a new one is one class there and one ``case`` where mypy's exhaustive match
complains. Shapes follow the checkpoint; ``hidden_dim`` is the width of the residual stream.
"""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from vramcalc.ledger import Basis
from vramcalc.specs.base import Spec
from vramcalc.specs.layers import (
    Attention,
    BidirectionalAttention,
    ChunkedAttention,
    CompressedAttention,
    FullAttention,
    GatedDelta,
    GatedMlp,
    GroupedQueryAttention,
    Indexer,
    KimiDelta,
    LatentAttention,
    LayerKind,
    Mamba1,
    Mamba2,
    Mixer,
    Mlp,
    MoeMlp,
    NoAttention,
    NoMlp,
    PlainMlp,
    ShortConv,
    SlidingAttention,
)

__all__ = [
    "ActiveFact",
    "Attention",
    "BidirectionalAttention",
    "ChunkedAttention",
    "CompressedAttention",
    "CountFact",
    "Dtype",
    "ExtraTensor",
    "FullAttention",
    "GatedDelta",
    "GatedMlp",
    "GroupedQueryAttention",
    "Indexer",
    "KimiDelta",
    "LatentAttention",
    "LayerKind",
    "LayerStack",
    "Mamba1",
    "Mamba2",
    "Mixer",
    "Mlp",
    "ModelSpec",
    "MoeMlp",
    "NextTokenLayers",
    "NoAttention",
    "NoMlp",
    "PlainMlp",
    "Role",
    "RopeTable",
    "ShortConv",
    "SlidingAttention",
    "StoredApart",
    "StoredGroup",
    "StoredWeights",
    "parse_layers",
]

_MOST_LAYERS = 4096

Dtype = Literal["f32", "f16", "bf16"]
Role = Literal[
    "embedding",
    "attention",
    "recurrent",
    "mlp",
    "experts",
    "shared_experts",
    "router",
    "norm",
    "head",
    "vision",
    "audio",
    "projector",
    "other",
]


class LayerStack(Spec):
    """All layers in order: ``first`` once, then ``pattern`` repeated until ``n_layers`` are reached."""

    n_layers: PositiveInt = Field(le=_MOST_LAYERS)
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


def parse_layers(text: str) -> list[int]:
    """Return the layers that ranges name. Raises ``ValueError``.

    >>> parse_layers("0-2,7")
    [0, 1, 2, 7]
    """
    found: list[int] = []
    for part in text.split(",") if text else ():
        start, _, end = part.partition("-")
        first, last = int(start), int(end or start)
        if not 0 <= first <= last < _MOST_LAYERS:
            raise ValueError(f"{part} is no range of layers")
        found += range(first, last + 1)
    return found


_LAYER_RANGES = r"^\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*$"


class StoredApart(Spec):
    """Tensors of a quantised release that are not in its ``checkpoint_format``: by role, by name, by layer."""

    format: str  # a weight format, or "kept": the model's own dtype
    roles: tuple[Role, ...] = ()
    tensors: tuple[str, ...] = ()  # by the inventory's names
    layers: str | None = Field(default=None, pattern=_LAYER_RANGES)  # "0-2,60"; None: wherever they are

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        if not self.roles and not self.tensors:
            raise ValueError("names neither roles nor tensors")
        return self

    def layer_set(self) -> frozenset[int] | None:
        """Return the layers it is about, None for all."""
        if self.layers is None:
            return None
        return frozenset(parse_layers(self.layers))


class NextTokenLayers(Spec):
    """Layers that predict the tokens after the next; used for speculative decoding only and counted apart.

    Each has norms of the token's embedding and of the hidden state, a matrix that joins the two, and a norm before
    the head; the embedding and the head are the model's own.
    """

    n_layers: PositiveInt
    layers: tuple[LayerKind, ...] = Field(min_length=1)  # what one of them is made of


class RopeTable(Spec):
    """A precomputed cos/sin table; vLLM keeps one per distinct rope."""

    positions: PositiveInt
    dim: PositiveInt
    dtype: Literal["model", "f32"] = "model"


class StoredGroup(Spec):
    """Equal tensors of a file and how each is stored.

    Shape:
        ``copies`` matrices of ``shape``; ``types`` names for each type the layers stored in it, ``"0-3,7"``, and
        nothing for a tensor outside the layers.
    """

    name: str
    role: Role
    shape: tuple[PositiveInt, ...] = Field(min_length=1, max_length=4)
    copies: PositiveInt = 1
    types: dict[str, str] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_layer_has_one_type(self) -> Self:
        layers = [layer for text in self.types.values() for layer in parse_layers(text)]
        if len(set(layers)) < len(layers) or (len(self.types) > 1 and not all(self.types.values())):
            msg = f"{self.name}: each layer is to have one type"
            raise ValueError(msg)
        return self


class StoredWeights(Spec):
    """What one GGUF holds, tensor by tensor; ``format`` is what the file calls itself."""

    format: str
    groups: tuple[StoredGroup, ...] = Field(min_length=1)


class CountFact(Spec):
    """A number of parameters with its provenance; ``derived`` means our own formula is the only witness."""

    total: PositiveInt
    active: PositiveInt | None = None  # touched per token; MoE only
    basis: Basis
    source: str


class ActiveFact(Spec):
    """The number of parameters per token that the publisher prints, and what it leaves out; publishers differ."""

    printed: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?B$")
    leaves_out: tuple[Role, ...] = ()  # where the publisher does not say: what brings our count to the printed one
    source: str


class ModelSpec(Spec):
    """A model as published: facts only, no engine's view of it."""

    id: str
    name: str
    family: str
    gguf_architecture: str | None = None  # as llama.cpp names it; "none": not known there; None: nobody said
    hf_ids: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    ollama_tags: tuple[str, ...] = ()
    ollama_format: str | None = None  # what the plain tag holds, where known
    advertised: str | None = None  # the size the publisher prints: "8B", "30B-A3B"
    parameters: CountFact
    active: ActiveFact | None = None  # models with experts alone
    context: PositiveInt  # trained, tokens
    license: str
    released: str = Field(pattern=r"^(\d{4}-\d{2}(-\d{2})?|unknown)$")
    dtype: Dtype
    checkpoint_format: str | None = None  # where the release itself is quantised
    stored_apart: tuple[StoredApart, ...] = ()  # what of the release is in another format; the first that holds counts
    vocabulary: PositiveInt  # rows of the embedding as stored
    gguf_vocabulary: PositiveInt | None = None  # where the converter drops padding rows
    hidden_dim: PositiveInt
    head: Literal["separate", "tied", "none"]
    norm: Literal["rms", "layer"] = "rms"  # layer norms carry a bias
    final_norm: bool = True
    layers: LayerStack
    hyper_streams: PositiveInt | None = None  # copies of the residual stream, mixed around every layer part
    per_layer_dim: PositiveInt | None = None  # of Gemma's embedding of each token for each layer
    per_layer_vocabulary: PositiveInt | None = None
    altup_streams: PositiveInt | None = None  # Gemma 3n: copies of the residual stream, one of which is computed
    laurel_rank: PositiveInt | None = None  # Gemma 3n: of the low-rank residual beside attention
    next_token_layers: NextTokenLayers | None = None
    extra_tensors: tuple[ExtraTensor, ...] = ()
    rope_tables: tuple[RopeTable, ...] = ()
    gguf_rope_factors: NonNegativeInt = 0  # elements of the rope_freqs tensor a GGUF carries
    stored: StoredWeights | None = None  # where the model is a file at hand
    notes: tuple[str, ...] = ()
    source: str

    @model_validator(mode="after")
    def _per_layer_embedding_is_whole(self) -> Self:
        if (self.per_layer_dim is None) != (self.per_layer_vocabulary is None):
            raise ValueError("per_layer_dim and per_layer_vocabulary go together")
        return self

    @model_validator(mode="after")
    def _stores_no_further_layers(self) -> Self:
        if self.stored is not None:
            n_layers = self.layers.n_layers
            for group in self.stored.groups:
                if any(layer >= n_layers for text in group.types.values() for layer in parse_layers(text)):
                    msg = f"stored: {group.name} is in layers beyond the {n_layers} there are"
                    raise ValueError(msg)
        return self

    @property
    def ollama_tag(self) -> str | None:
        """Return the tag to type: one that names a size where there is one, as ``latest`` moves on."""
        sized = [tag for tag in self.ollama_tags if not tag.endswith(":latest")]
        return next(iter((*sized, *self.ollama_tags)), None)

    @property
    def is_encoder(self) -> bool:
        """Whether no layer keeps a cache: an embedding model or a reranker."""
        return all(isinstance(kind.attention, BidirectionalAttention) for kind in self.layers.kinds.values())

    @property
    def is_recurrent(self) -> bool:
        """Whether some layer keeps a state of fixed size per sequence."""
        return any(kind.mixer is not None for kind in self.layers.kinds.values())

    @property
    def is_moe(self) -> bool:
        """Whether some layer routes between experts."""
        return any(isinstance(kind.mlp, MoeMlp) for kind in self.layers.kinds.values())

    def features(self) -> frozenset[str]:
        """Return what goes beyond ordinary decoders; an engine must refuse what it does not account for."""
        found = {name for kind in self.layers.kinds.values() for name in kind.features()}
        if len({kind.attention for kind in self.layers.kinds.values()}) > len(
            {kind.attention.kind for kind in self.layers.kinds.values()}
        ):
            found.add("attention shapes that differ from layer to layer")
        if self.hyper_streams is not None:
            found.add("hyper-connections")
        if self.per_layer_dim is not None:
            found.add("per-layer embeddings")
        if any(tensor.role == "audio" for tensor in self.extra_tensors):
            found.add("audio tower")
        if self.is_encoder and self.final_norm:
            found.add("norms before each part of an encoder")
        if self.altup_streams is not None or self.laurel_rank is not None:
            found.add("alternating updates")
        return frozenset(found)
