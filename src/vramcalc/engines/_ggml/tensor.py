"""Tensors of a compute graph, as far as memory is concerned: shapes, sources and views, never values.

Shapes are ggml's: ``ne[0]`` is the fastest dimension, always four of them. Source: llama.cpp 0c1e570, ggml/src/ggml.c.
"""

from vramcalc.specs.formats import F16, F32, BlockFormat

Shape = tuple[int, int, int, int]
I32, I64 = BlockFormat("i32", 1, 4), BlockFormat("i64", 1, 8)

# Results these operations may write over one of their sources (ggml/src/ggml-alloc.c, ggml_op_can_inplace).
_IN_PLACE = frozenset(
    {"scale", "add", "add_id", "mul", "div", "unary", "rope", "rms_norm", "clamp", "soft_max", "fill"}
)
VIEW_OPS = frozenset({"view", "reshape", "permute"})
CPU = -1  # home of what lives in host memory
UNASSIGNED = -2
_ROW_PADDING = 512
_FLASH_FORMATS = frozenset({"f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"})  # with a CUDA kernel


class Tensor:
    """One node or leaf of a graph.

    ``home`` is the device a leaf lives on (``CPU`` for host memory), ``root`` the tensor a view looks into and
    ``batch`` the rows that decide whether the operation is worth moving to a GPU.
    """

    __slots__ = (
        *("op", "fmt", "ne", "srcs", "root", "contiguous", "n_bytes", "scratch", "home", "is_input", "batch"),
        *("cpu_only", "in_place", "kept", "visited", "backend", "address", "buffer", "allocated"),
        *("n_children", "n_views"),
    )

    def __init__(self, op: str, fmt: BlockFormat, ne: Shape, srcs: tuple["Tensor", ...] = ()) -> None:
        self.op = op
        self.fmt = fmt
        self.ne = ne
        self.srcs = srcs
        self.n_bytes = fmt.bytes_for(ne[0]) * ne[1] * ne[2] * ne[3]
        self.root: Tensor | None = None
        self.contiguous = True
        self.home: int | None = None
        self.is_input = False
        self.kept = False  # never freed nor written over
        self.in_place = op in _IN_PLACE
        self.batch = ne[1] * ne[2] * ne[3]
        self.scratch = 0  # bytes a GPU adds behind the result
        self.cpu_only = False
        self.visited = False
        self.backend = UNASSIGNED  # the scheduler's
        self.address = self.buffer = -1  # the allocator's
        self.n_children = self.n_views = 0
        self.allocated = False

    @property
    def device_bytes(self) -> int:
        """Bytes of the tensor in a CUDA buffer: with scratch, and quantised rows padded to 512 elements."""
        missing = -self.ne[0] % _ROW_PADDING if self.fmt.block_elements > 1 else 0
        return self.n_bytes + self.scratch + (self.fmt.bytes_for(missing) if missing else 0)


def leaf(name: str, ne: Shape, home: int, *, fmt: BlockFormat = F32, n_bytes: int = -1) -> Tensor:
    """Return a tensor that exists before the graph runs: a weight or a part of the cache.

    ``name`` is ``"weight"`` or ``"cache"``: operations follow their weights, not their cache.
    """
    tensor = Tensor(name, fmt, ne)
    tensor.home = home
    if n_bytes >= 0:
        tensor.n_bytes = n_bytes
    return tensor


def graph_input(ne: Shape, fmt: BlockFormat = I32) -> Tensor:
    """Return a tensor that the engine fills before each run."""
    tensor = Tensor("input", fmt, ne)
    tensor.is_input = True
    return tensor


def view(source: Tensor, ne: Shape, *, op: str = "view", contiguous: bool = False, stride: int = 0) -> Tensor:
    """Return another look at the same memory; ``stride`` bytes apart where its last used dimension is not packed."""
    tensor = Tensor(op, source.fmt, ne, (source,))
    if stride:
        last = max(index for index, n in enumerate(ne) if n > 1 or not index)
        tensor.n_bytes = (ne[last] - 1) * stride + tensor.n_bytes // ne[last]
    tensor.root = source.root or source
    tensor.contiguous = contiguous
    return tensor


def reshape(source: Tensor, *ne: int) -> Tensor:
    """Return the same elements in another shape."""
    return view(source, shape(*ne), op="reshape", contiguous=True)


def permute(source: Tensor) -> Tensor:
    """Return the tensor with its second and third dimension swapped."""
    a, b, c, d = source.ne
    tensor = view(source, (a, c, b, d), op="permute")
    tensor.n_bytes = source.n_bytes
    return tensor


def shape(*ne: int) -> Shape:
    """Return four dimensions."""
    padded = (*ne, 1, 1, 1)
    return padded[0], padded[1], padded[2], padded[3]


def mul_mat(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product; its rows are those of ``b``."""
    tensor = Tensor("mul_mat", F32, (a.ne[1], b.ne[1], b.ne[2], b.ne[3]), (a, b))
    tensor.batch = b.ne[1]
    return tensor


def mul_mat_id(experts: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    """Return the product with the chosen experts' matrices."""
    tensor = Tensor("mul_mat_id", F32, (experts.ne[1], ids.ne[0], b.ne[2], 1), (experts, b, ids))
    tensor.batch = b.ne[2]
    return tensor


def like(op: str, *srcs: Tensor) -> Tensor:
    """Return the result of an operation that keeps the shape of its first source."""
    tensor = Tensor(op, F32, srcs[0].ne, srcs)
    if op == "rope":
        tensor.batch = tensor.ne[2]
    return tensor


def get_rows(source: Tensor, rows: Tensor) -> Tensor:
    """Return the chosen rows; never worth moving to a GPU on its own."""
    tensor = Tensor("get_rows", F32, (source.ne[0], rows.ne[0], rows.ne[1], rows.ne[2]), (source, rows))
    tensor.batch = 0
    return tensor


def concat(a: Tensor, b: Tensor) -> Tensor:
    """Return both side by side along the first dimension."""
    return Tensor("concat", F32, (a.ne[0] + b.ne[0], *a.ne[1:]), (a, b))


def cont(source: Tensor, *ne: int, fmt: BlockFormat | None = None) -> Tensor:
    """Return a contiguous copy, in another shape or type where given."""
    return Tensor("cont", fmt or source.fmt, shape(*ne) if ne else source.ne, (source,))


def transpose(source: Tensor) -> Tensor:
    """Return the tensor with its first two dimensions swapped."""
    a, b, c, d = source.ne
    tensor = view(source, (b, a, c, d), op="permute")
    tensor.n_bytes = source.n_bytes
    return tensor


def copy_into(cache: Tensor, rows: Tensor) -> Tensor:
    """Return a part of the cache after ``rows`` were copied over it."""
    tensor = view(cache, rows.ne, op="cpy")
    tensor.srcs = (rows, view(cache, rows.ne))
    return tensor


def set_rows(cache: Tensor, rows: Tensor, ids: Tensor) -> Tensor:
    """Return the cache after rows were written to it."""
    tensor = view(cache, cache.ne, op="set_rows")
    tensor.srcs = (rows, ids, cache)
    return tensor


def flash_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *sinks: Tensor) -> Tensor:
    """Return the fused attention; CUDA's matrix path keeps f16 copies of a quantised K and V behind the result.

    Source: llama.cpp 0c1e570, ggml/src/ggml-cuda, allocation size of the operation on tensor-core cards.
    """
    tensor = Tensor("flash_attention", F32, (v.ne[0], q.ne[2], q.ne[1], q.ne[3]), (q, k, v, mask, *sinks))
    tensor.cpu_only = not {k.fmt.name, v.fmt.name} <= _FLASH_FORMATS
    shared = v.root is k.root
    for source in (k,) if shared else (k, v):
        if source.fmt != F16:
            rows = source.ne[0] * source.ne[1] * source.ne[2] * source.ne[3]
            tensor.scratch += -(tensor.n_bytes + tensor.scratch) % 128 + 2 * rows
    return tensor


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Return whether ``a`` may take the place of ``b`` byte for byte."""
    return a.contiguous and b.contiguous and a.fmt is b.fmt and a.ne == b.ne


class Graph:
    """Nodes and leaves in the order llama.cpp visits them: depth first, sources left to right."""

    __slots__ = ("leafs", "nodes")

    def __init__(self) -> None:
        self.nodes: list[Tensor] = []
        self.leafs: list[Tensor] = []

    def expand(self, tensor: Tensor) -> Tensor:
        """Add a tensor and all it needs."""
        if not tensor.visited:
            tensor.visited = True
            for source in tensor.srcs:
                self.expand(source)
            (self.nodes if tensor.srcs else self.leafs).append(tensor)
        return tensor
