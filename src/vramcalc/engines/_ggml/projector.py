"""A vision projector beside the model: the tower's weights, and the compute buffer of one image.

Source: llama.cpp 0c1e570, tools/mtmd/clip.cpp, tools/server/server-context.cpp and conversion/.
"""

import math
from collections.abc import Iterator
from functools import cached_property

from vramcalc.engines._ggml.tower import Joint, Tower, compute_bytes
from vramcalc.errors import RefusedError, UnknownNameError
from vramcalc.ledger import HOST, Basis, Component, Line
from vramcalc.specs.formats import F32, GGML
from vramcalc.specs.model import ExtraTensor, ModelSpec

STORAGE = ("f16", "bf16", "q8_0", "f32")

_SOURCE = "llama.cpp 0c1e570, tools/mtmd/clip.cpp"
_ROLES = ("vision", "projector")
_KEPT_WHOLE = ("norm", "bias", "position_embd", "patch_embd", "class_embd")  # f32 whatever the rest is stored as
# Marks of a joint among the tensors, and the patches a side of the image its memory is reserved for.
_JOINTS = {
    "mm.soft_emb_norm": (Joint.POOLED, None),  # as many as it has positions
    "mm.patch_merger": (Joint.UNFOLDED, 32),
}
_MERGED_SIDE = 92
_COLOURS, _FRAMES = 3, 2
_UNKNOWN_PATCHES = 4096
_SPREAD_ABOVE = {Joint.POOLED: 2, Joint.MERGED: 40, Joint.UNFOLDED: 10}  # thousandths


class Projector:
    """The tower of a model in one storage type. Raises ``RefusedError`` for a model without one."""

    def __init__(self, model: ModelSpec, storage: str) -> None:
        if storage not in STORAGE:
            raise UnknownNameError("type of projector", storage, STORAGE, see=f"the types are {', '.join(STORAGE)}")
        self._tensors = tuple(t for t in model.extra_tensors if t.role in _ROLES and not t.in_gguf)
        if not self._tensors:
            raise RefusedError(f"{model.name} has no vision tower to project", "leave --mmproj out")
        self._model = model
        self._storage = storage

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of the projector's tensors."""
        return sum(self._stored(tensor) for tensor in self._tensors)

    def compute_bytes(self, *, on_gpu: bool) -> int:
        """Bytes of its compute buffer."""
        if self._tower is not None:
            return compute_bytes(self._tower, on_gpu=on_gpu)
        width, inner = self._widths
        return _UNKNOWN_PATCHES * F32.bytes_for(3 * width + inner)

    def total_bytes(self) -> int:
        """Return what the server adds to its fit's margin on the projector's GPU."""
        return self.weight_bytes + self.compute_bytes(on_gpu=True)

    def lines(self, device: str) -> Iterator[Line]:
        """Yield the projector's lines: it is on the first GPU, if there is one."""
        yield Line(
            component=Component.WEIGHTS,
            device=device,
            n_bytes=self.weight_bytes,
            basis=Basis.DERIVED,
            why=f"vision projector: {len(self._tensors)} kinds of tensors of the tower, matrices in {self._storage}",
            source=f"{_SOURCE}; convert_hf_to_gguf.py keeps norms, biases, positions and patches in f32",
            formula="tower",
            values={"tower": self.weight_bytes},
        )
        yield self._compute_line(device)

    def _compute_line(self, device: str) -> Line:
        n_bytes = self.compute_bytes(on_gpu=device != HOST)
        tower = self._tower
        if tower is None:
            n_patches, high = _UNKNOWN_PATCHES, 2 * n_bytes
            basis = Basis.ASSUMED
            why = f"vision projector: {n_patches} patches taken, the graph of this tower is not modelled"
        else:
            n_patches, above = tower.n_patches, _SPREAD_ABOVE[tower.joint]
            high = n_bytes + n_bytes * above // 1000
            basis = Basis.DERIVED if tower.joint is Joint.POOLED else Basis.FITTED
            why = f"vision projector: an image of {tower.side} x {tower.side} patches, {tower.joint.value}"
        if basis is Basis.FITTED:
            why += "; range fitted: three measured towers, up to 3.5 % above"
        return Line(
            component=Component.COMPUTE_BUFFER,
            device=device,
            n_bytes=n_bytes,
            low_bytes=n_bytes // 2 if tower is None else n_bytes,
            high_bytes=high,
            basis=basis,
            why=why,
            source=f"{_SOURCE}, warm-up",
            formula="n_patches * bytes_per_patch + rest",
            values={
                "n_patches": n_patches,
                "bytes_per_patch": n_bytes // n_patches,
                "rest": n_bytes % n_patches,
            },
        )

    def _stored(self, tensor: ExtraTensor) -> int:
        is_vector = len(tensor.shape) == 1 or any(mark in tensor.name for mark in _KEPT_WHOLE)
        fmt = F32 if is_vector else GGML[self._storage]
        rows = math.prod(tensor.shape[:-1])
        if tensor.shape[-1] % fmt.block_elements:
            fmt = GGML["f16"]  # what the converter falls back to
        return tensor.count * fmt.matrix_bytes(rows, tensor.shape[-1])

    @cached_property
    def _widths(self) -> tuple[int, int]:
        down = self._named("v.ffn_down") or self._named("v.mlp")
        if down is None:
            raise RefusedError(
                f"the vision tower of {self._model.name} is not modelled for llama.cpp yet", "leave --mmproj out"
            )
        return down.shape[0], down.shape[1]

    @cached_property
    def _tower(self) -> Tower | None:
        """The tower's shape; None where its tensors show no joint that is known."""
        patches, down = self._named("v.patch_embd"), self._named("v.ffn_down")
        if patches is None or down is None:
            return None
        pixels = math.prod(patches.shape[1:])
        is_paired = pixels % (_COLOURS * _FRAMES) == 0 and _is_square(pixels // (_COLOURS * _FRAMES))
        found = next((j for mark, j in _JOINTS.items() if self._named(mark) is not None), None)
        if is_paired and self._named("v.attn_qkv") is not None:  # two frames a patch: Qwen's towers
            found = Joint.MERGED, _MERGED_SIDE
        if found is None:
            return None
        joint, side = found
        positions = self._named("v.position_embd")
        deep = [t for t in self._tensors if t.name.startswith("mm.deepstack.norm")]
        frames = _FRAMES if joint is Joint.MERGED else 1
        return Tower(
            hidden_dim=down.shape[0],
            ff_dim=down.shape[1],
            n_layers=down.count,
            patch=math.isqrt(pixels // (_COLOURS * frames)),
            side=side or math.isqrt(positions.shape[0] if positions else _UNKNOWN_PATCHES),
            joint=joint,
            output_dim=self._model.hidden_dim,
            gated=any(t.name.startswith("v.ffn_gate") for t in self._tensors),
            fused=self._named("v.attn_qkv") is not None,
            has_positions=positions is not None,
            n_deep=sum(t.count for t in deep) // 2,
        )

    def _named(self, start: str) -> ExtraTensor | None:
        found = (t for t in self._tensors if t.name in (start, f"{start}.weight"))
        return next(found, None)


def _is_square(n: int) -> bool:
    return math.isqrt(n) ** 2 == n
