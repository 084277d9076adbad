"""What the parts of a compute graph share: layers with their devices, the batch, and the graph as it grows."""

from collections.abc import Mapping
from itertools import count

from msgspec import Struct, field

from vramcalc.engines._ggml.tensor import Graph, Tensor, graph_input, leaf, like, mul_mat, shape, view
from vramcalc.engines._ggml.weights import Weight
from vramcalc.specs.formats import F16, BlockFormat
from vramcalc.specs.model import LayerKind


class PlacedLayer(Struct, frozen=True):
    """A layer with the device of each of its tensors: ``home`` unless ``elsewhere`` names it."""

    kind: LayerKind
    weights: Mapping[str, Weight]
    home: int
    cache_home: int
    elsewhere: tuple[tuple[str, int], ...] = ()

    def count_adapters(self, name: str) -> int:
        """Return how many adapters go with a matrix."""
        return next(n for n in count() if f"{name}.lora_a{n}" not in self.weights)

    def weight(self, name: str) -> Tensor:
        """Return a weight as a leaf of the graph."""
        w = self.weights[name]
        home = dict(self.elsewhere).get(name, self.home)
        return leaf("weight", shape(*w.shape[::-1]), home, n_bytes=w.device_bytes)


class Batch(Struct, frozen=True, kw_only=True):
    """The batch that the engine reserves memory for, and the cache behind it."""

    n_tokens: int
    n_outputs: int
    n_streams: int
    n_slots: int = 1
    cells: int  # of one stream
    sliding_cells: int
    k_format: BlockFormat = F16
    v_format: BlockFormat = F16
    flash_attention: bool = True
    v_by_row: bool = True  # else V is cached transposed
    kv_offload: bool = True
    op_offload: bool = True


class Ends(Struct, frozen=True, kw_only=True):
    """What stands before and after the layers."""

    hidden_dim: int
    entrance: tuple[Weight, ...]
    output: tuple[Weight, ...]
    output_home: int
    shared: tuple[Weight, ...] = ()  # on every device with layers: the factors of a scaled rope


class LayerCache(Struct):
    """The inputs of all layers that share one kind of cache."""

    cells: int
    mask: Tensor
    k_ids: Tensor | None = None
    v_ids: Tensor | None = None
    k_rotation: Tensor | None = None
    v_rotation: Tensor | None = None
    q_scale: Tensor | None = None  # of queries that are not turned by position
    beside_windows: bool = False  # some layers look at a part of the past: K is queued before V


class Traits(Struct, frozen=True, kw_only=True):
    """What the layers of a model have in common, told by their kinds."""

    turns: frozenset[str] | None = None  # kinds of attention that turn queries and keys by position; None: all
    factors: frozenset[str] | None = None  # kinds of attention whose rope has factors; None: all
    norms_values: bool = False
    scales_embedding: bool = False
    norms_turned: bool = False  # queries and keys, without weights, where they are turned
    weighs_inputs: bool = False  # a token is scaled by its weight before its experts, not after
    head_first: bool = False  # a tied head is made before the embedding, and so is a copy wherever it is
    value_width: int = 0  # of the widest V row: without flash attention all are cached as wide


class Builder(Struct):
    """The graph as it grows."""

    batch: Batch
    ends: Ends
    graph: Graph = field(default_factory=Graph)
    layer: PlacedLayer | None = None
    shared: dict[int, list[Tensor]] = field(default_factory=dict)
    state_ids: tuple[Tensor, Tensor] | None = None
    traits: Traits = field(default_factory=Traits)

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Return the normalised and scaled tensor; a layer norm writes elsewhere and has a bias."""
        layer = self.current
        has_bias = f"{name}.bias" in layer.weights
        normed = like("norm" if has_bias else "rms_norm", x)
        normed = like("mul", normed, layer.weight(f"{name}.weight"))
        return like("add", normed, layer.weight(f"{name}.bias")) if has_bias else normed

    @property
    def current(self) -> PlacedLayer:
        """The layer being built."""
        assert self.layer is not None  # noqa: S101 - set before any layer is built
        return self.layer

    def rope_factors(self) -> list[Tensor]:
        """Return the rope's factors on the layer's device, if the model has any."""
        home = self.current.home
        if home not in self.shared:
            self.shared[home] = [leaf("weight", shape(*w.shape), home) for w in self.ends.shared]
        return self.shared[home]

    def state_rows(self) -> tuple[Tensor, Tensor]:
        """Return which states the batch goes on from and which only move, none: one input that all layers share."""
        if self.state_ids is None:
            n_slots = self.batch.n_slots
            ids = graph_input((n_slots, 1, 1, 1))
            self.state_ids = view(ids, ids.ne), view(ids, (0, 1, 1, 1))
        return self.state_ids

    def project(self, name: str, x: Tensor) -> Tensor:
        """Return the product with a matrix, plus its bias if there is one."""
        layer = self.current
        product = mul_mat(layer.weight(name), x)
        for number in range(layer.count_adapters(name)):
            thin = mul_mat(layer.weight(f"{name}.lora_a{number}"), x)
            product = like("add", product, mul_mat(layer.weight(f"{name}.lora_b{number}"), thin))
        bias = f"{name}.bias"
        return like("add", product, layer.weight(bias)) if bias in layer.weights else product
