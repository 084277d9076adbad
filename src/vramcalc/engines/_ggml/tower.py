"""The compute graph of a vision tower for one image, as large as the one the engine reserves memory for.

Source: llama.cpp 0c1e570, tools/mtmd/clip.cpp (build_vit, warmup) and tools/mtmd/models/.
"""

from enum import Enum

from msgspec import Struct

from vramcalc.engines._ggml.allocator import buffer_sizes
from vramcalc.engines._ggml.scheduler import schedule
from vramcalc.engines._ggml.tensor import (
    Graph,
    Tensor,
    concat,
    cont,
    flash_attention,
    graph_input,
    leaf,
    like,
    mul_mat,
    permute,
    reshape,
    shape,
    transpose,
    view,
)
from vramcalc.specs.formats import F16, F32

_FLOAT_BYTES = 4
_HOME = 0


class Joint(Enum):
    """How patches become tokens of the model; it decides what goes before and after the layers too."""

    POOLED = "averaged"  # Gemma 3
    MERGED = "merged by fours"  # Qwen VL
    UNFOLDED = "unfolded by fours"  # Mistral 3


_POSITIONS = {Joint.POOLED: 0, Joint.MERGED: 4, Joint.UNFOLDED: 2}  # of a patch, for its rope


class Tower(Struct, frozen=True):
    """The shape of a tower; ``side`` is in patches, of the image the engine warms up with."""

    hidden_dim: int
    ff_dim: int
    n_layers: int
    patch: int
    side: int
    joint: Joint
    output_dim: int
    gated: bool = False
    fused: bool = False  # Q, K and V in one matrix
    has_positions: bool = False  # learned ones
    n_deep: int = 0  # layers whose output goes to the model beside the last one's

    @property
    def n_patches(self) -> int:
        """Patches of the image."""
        return self.side * self.side


def compute_bytes(tower: Tower, *, on_gpu: bool) -> int:
    """Return the bytes of the compute buffer."""
    graph = _build(tower)
    return buffer_sizes(schedule(graph, 1 if on_gpu else 0), 1 if on_gpu else 0)[0]


def _weight(*ne: int) -> Tensor:
    return leaf("weight", shape(*ne), _HOME, fmt=F16 if len(ne) > 1 else F32)


def _build(tower: Tower) -> Graph:
    graph = Graph()
    x = _entrance(tower)
    deep: Tensor | None = None
    first_deep = tower.n_layers // max(1, tower.n_deep + 1)
    at = graph_input((_POSITIONS[tower.joint] * tower.n_patches, 1, 1, 1))
    for index in range(tower.n_layers):
        x = _layer(graph, tower, x, at)
        if tower.n_deep and index % first_deep == first_deep - 1 and index // first_deep < tower.n_deep:
            merged = reshape(x, 4 * tower.hidden_dim, tower.n_patches // 4)
            feature = _mlp(_norm(merged), 4 * tower.hidden_dim, tower.output_dim)
            deep = feature if deep is None else concat(deep, feature)
    graph.expand(_exit(tower, x, deep))
    return graph


def _entrance(tower: Tower) -> Tensor:
    """Return the embedded patches: a convolution, twice where the tower takes pairs of frames."""
    pixels = tower.side * tower.patch
    image = graph_input((pixels, pixels, 3, 1), F32)
    x = _convolved(tower, image)
    if tower.joint is Joint.MERGED:
        x = like("add", x, _convolved(tower, image))
        d, side = tower.hidden_dim, tower.side
        x = cont(permute(x), 2 * d, side // 2, side)
        x = cont(permute(reshape(x, 2 * d, side // 2, 2, side // 2)), d, tower.n_patches)
    else:
        x = cont(transpose(reshape(x, tower.n_patches, tower.hidden_dim)))
    if tower.has_positions:
        x = like("add", x, _positions(tower))
    return x


def _convolved(tower: Tower, image: Tensor) -> Tensor:
    width = 3 * tower.patch * tower.patch
    kernel = leaf("weight", shape(width, tower.hidden_dim), _HOME)
    columns = Tensor("im2col", F32, shape(width, tower.side, tower.side), (image,))
    product = mul_mat(reshape(columns, width, tower.n_patches), kernel)
    return cont(
        permute(reshape(product, tower.side, tower.side, 1, tower.hidden_dim)), tower.side, tower.side, tower.hidden_dim
    )


def _positions(tower: Tower) -> Tensor:
    d, side = tower.hidden_dim, tower.side
    table = leaf("weight", shape(d, tower.n_patches), _HOME)
    if tower.joint is not Joint.MERGED:
        return table
    scaled = Tensor("upscale", F32, shape(side, side, d), (table,))  # to the image's own grid
    x = cont(permute(scaled), d, tower.n_patches)
    x = cont(reshape(x, 2 * d, side // 2, side))
    return cont(permute(reshape(x, 2 * d, side // 2, 2, side // 2)), d, tower.n_patches)


def _norm(x: Tensor, *, rms: bool = False) -> Tensor:
    return like("mul", like("rms_norm" if rms else "norm", x), _weight(x.ne[0]))


def _layer(graph: Graph, tower: Tower, x: Tensor, at: Tensor) -> Tensor:
    d, n, rms = tower.hidden_dim, tower.n_patches, tower.gated
    normed = _norm(x, rms=rms)
    if tower.fused:
        joined = like("add", mul_mat(_weight(d, 3 * d), normed), _weight(3 * d))
        q, k, v = (view(joined, shape(d, n), stride=3 * d * _FLOAT_BYTES) for _ in range(3))
    else:
        q, k, v = (reshape(mul_mat(_weight(d, d), normed), d, n) for _ in range(3))
    if tower.joint is not Joint.POOLED:
        turns = 2 if tower.joint is Joint.UNFOLDED else 1
        for _ in range(turns):
            q, k = like("rope", q, at), like("rope", k, at)
    for part in (q, k, v):
        graph.expand(part)
    keys, values = (cont(view(part, part.ne, op="permute"), fmt=F16) for part in (k, v))
    mask = leaf("weight", (1, 1, 1, 1), _HOME, n_bytes=0)
    attended = flash_attention(view(q, q.ne, op="permute"), keys, values, mask)
    attended.ne, attended.n_bytes = shape(d, n), d * n * _FLOAT_BYTES
    x = like("add", mul_mat(_weight(d, d), reshape(attended, d, n)), x)
    normed = _norm(x, rms=rms)
    up = mul_mat(_weight(d, tower.ff_dim), normed)
    if tower.gated:
        inner = like("glu", mul_mat(_weight(d, tower.ff_dim), normed), up)
    else:
        inner = like("unary", like("add", up, _weight(tower.ff_dim)))
    return like("add", x, mul_mat(_weight(tower.ff_dim, d), inner))


def _mlp(x: Tensor, inner: int, outer: int) -> Tensor:
    return mul_mat(
        _weight(inner, outer), like("unary", like("add", mul_mat(_weight(x.ne[0], inner), x), _weight(inner)))
    )


def _exit(tower: Tower, x: Tensor, deep: Tensor | None) -> Tensor:
    d, side = tower.hidden_dim, tower.side
    match tower.joint:
        case Joint.POOLED:
            tokens = 16  # a side; averaged over what lies between
            turned = cont(transpose(_norm(x)), side, side, d)
            pooled = Tensor("pool", F32, shape(tokens, tokens, d), (turned,))
            x = cont(transpose(reshape(pooled, tokens * tokens, d)))
            x = like("mul", like("rms_norm", x), _weight(d))
            return mul_mat(cont(transpose(_weight(tower.output_dim, d))), x)
        case Joint.MERGED:
            x = _mlp(reshape(_norm(x, rms=tower.gated), 4 * d, tower.n_patches // 4), 4 * d, tower.output_dim)
            return x if deep is None else concat(x, deep)
        case Joint.UNFOLDED:
            x = like("mul", like("rms_norm", x), _weight(d))
            grid = cont(view(reshape(x, d, side, side), shape(side, side, d), op="permute"))
            columns = Tensor("im2col", F32, shape(4 * d, side // 2, side // 2), (grid,))
            x = mul_mat(_weight(4 * d, d), reshape(columns, 4 * d, tower.n_patches // 4))
            return _mlp(x, tower.output_dim, tower.output_dim)
