"""How numbers are stored: block formats of ggml and plain floats, and the scaled formats of checkpoint quantisers.

Every format answers one question: the bytes of a matrix of ``rows`` x ``columns`` elements (out x in features).
"""

from fractions import Fraction

from msgspec import Struct

from vramcalc.specs.model import Role
from vramcalc.units import ceil_div

KEPT_ROLES: frozenset[Role] = frozenset({"embedding", "head", "norm", "router", "vision", "audio", "projector"})


class BlockFormat(Struct, frozen=True):
    """Rows cut into blocks of ``block_elements`` that take ``block_bytes`` each; a float is a block of one."""

    name: str
    block_elements: int
    block_bytes: int

    @property
    def bits(self) -> float:
        """Bits per element."""
        return 8 * self.block_bytes / self.block_elements

    def bytes_for(self, n_elements: int) -> int:
        """Return the bytes of one row of ``n_elements``, padded to whole blocks."""
        return ceil_div(n_elements, self.block_elements) * self.block_bytes

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of a matrix; each row starts a block."""
        return rows * self.bytes_for(columns)


class ScaledFormat(Struct, frozen=True):
    """Elements of ``element_bits`` with a scale (and zero) per group of ``group_rows`` x ``group_columns``.

    A group dimension of 0 spans the whole matrix. ``least_compute_capability`` is what vLLM asks of the card.
    Source: layouts as vLLM 0.33 allocates them.
    """

    name: str
    element_bits: int | Fraction  # a fraction where it is an average over layers
    group_rows: int
    group_columns: int
    group_bits: int  # scale and zero together
    least_compute_capability: tuple[int, int]
    keeps: frozenset[Role] = KEPT_ROLES  # roles that stay in the model's own dtype
    experts: "ScaledFormat | None" = None  # where experts are stored otherwise
    head: "ScaledFormat | None" = None  # where the head is stored otherwise
    method: str = ""  # who quantised it, where engines go by that
    zero_bits: int = 0  # of group_bits
    row_bits: int = 0  # beside the groups, per out feature
    column_bits: int = 0  # and per in feature

    def of(self, role: Role) -> "ScaledFormat":
        """Return the format of a role's matrices."""
        if role == "head" and self.head is not None:
            return self.head
        return self.experts if role == "experts" and self.experts else self

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of a matrix with its scales and zeros."""
        return (
            ceil_div(rows * columns * self.element_bits, 8)
            + ceil_div(self._n_groups(rows, columns) * self.group_bits, 8)
            + ceil_div(rows * self.row_bits + columns * self.column_bits, 8)
        )

    def zeros_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of a matrix's zeros alone."""
        return ceil_div(self._n_groups(rows, columns) * self.zero_bits, 8)

    def _n_groups(self, rows: int, columns: int) -> int:
        groups_down = ceil_div(rows, self.group_rows) if self.group_rows else 1
        return groups_down * (ceil_div(columns, self.group_columns) if self.group_columns else 1)


WeightFormat = BlockFormat | ScaledFormat

FLOATS = {f.name: f for f in (BlockFormat("f32", 1, 4), BlockFormat("f16", 1, 2), BlockFormat("bf16", 1, 2))}
F32, F16, BF16 = FLOATS["f32"], FLOATS["f16"], FLOATS["bf16"]
FP8 = BlockFormat("fp8", 1, 1)

# Block layouts are part of ggml's file format: ggml/src/ggml-common.h and gguf-py/gguf/constants.py.
GGML = {
    f.name: f
    for f in (
        *FLOATS.values(),
        BlockFormat("q4_0", 32, 18),
        BlockFormat("q4_1", 32, 20),
        BlockFormat("q5_0", 32, 22),
        BlockFormat("q5_1", 32, 24),
        BlockFormat("q8_0", 32, 34),
        BlockFormat("q2_k", 256, 84),
        BlockFormat("q3_k", 256, 110),
        BlockFormat("q4_k", 256, 144),
        BlockFormat("q5_k", 256, 176),
        BlockFormat("q6_k", 256, 210),
        BlockFormat("q8_k", 256, 292),
        BlockFormat("iq1_s", 256, 50),
        BlockFormat("iq1_m", 256, 56),
        BlockFormat("iq2_xxs", 256, 66),
        BlockFormat("iq2_xs", 256, 74),
        BlockFormat("iq2_s", 256, 82),
        BlockFormat("iq3_xxs", 256, 98),
        BlockFormat("iq3_s", 256, 110),
        BlockFormat("iq4_nl", 32, 18),
        BlockFormat("iq4_xs", 256, 136),
        BlockFormat("tq1_0", 256, 54),
        BlockFormat("tq2_0", 256, 66),
        BlockFormat("mxfp4", 32, 17),
    )
}

# What files hold beside the types that mixes give: integers, doubles, and blocks no mix of ours is known for.
GGML_STORED = GGML | {
    f.name: f
    for f in (
        BlockFormat("q8_1", 32, 40),
        BlockFormat("i8", 1, 1),
        BlockFormat("i16", 1, 2),
        BlockFormat("i32", 1, 4),
        BlockFormat("i64", 1, 8),
        BlockFormat("f64", 1, 8),
        BlockFormat("nvfp4", 64, 36),
        BlockFormat("q1_0", 128, 18),
    )
}

# Formats of other runtimes, known for the size of their files. bitsandbytes 0.50: 64 elements share an absmax, which
# double quantisation stores in 8 bits with a float per 256 of them: 65 bits per 512 elements. MLX: a scale and a bias
# of 16 bits per group, embedding and head too.
KEPT_BY_MLX: frozenset[Role] = frozenset({"norm", "vision", "audio", "projector"})
MLX_BITS = (2, 3, 4, 5, 6, 8)
OTHER_RUNTIMES = {
    f.name: f
    for f in (
        ScaledFormat("nf4", 4, 1, 64, 32, (6, 0), method="bitsandbytes"),
        ScaledFormat("nf4-dq", 4, 1, 512, 65, (6, 0), method="bitsandbytes"),
        ScaledFormat("llm-int8", 8, 1, 0, 32, (7, 5), method="bitsandbytes"),
        *(ScaledFormat(f"mlx-{bits}bit", bits, 1, 64, 32, (0, 0), KEPT_BY_MLX, method="mlx") for bits in MLX_BITS),
    )
}

_MXFP4 = ScaledFormat("mxfp4", 4, 1, 32, 8, (8, 0), KEPT_ROLES | {"attention", "mlp", "shared_experts"})

CHECKPOINT = {
    f.name: f
    for f in (
        ScaledFormat("fp8", 8, 0, 0, 32, (7, 5)),
        ScaledFormat("fp8-channel", 8, 1, 0, 32, (7, 5)),
        ScaledFormat("fp8-block", 8, 128, 128, 32, (7, 5)),
        ScaledFormat("mxfp8", 8, 1, 32, 8, (7, 5)),
        ScaledFormat("int8", 8, 1, 0, 32, (7, 5)),
        ScaledFormat("awq-4bit", 4, 1, 128, 20, (7, 5), method="awq", zero_bits=4),
        ScaledFormat("gptq-4bit", 4, 1, 128, 20, (6, 0), method="gptq", zero_bits=4),
        ScaledFormat("gptq-8bit", 8, 1, 128, 24, (6, 0), method="gptq", zero_bits=8),
        ScaledFormat("w4a16", 4, 1, 128, 16, (7, 5), method="compressed"),
        ScaledFormat("nvfp4", 4, 1, 16, 8, (7, 5)),
        _MXFP4,
        ScaledFormat("fp8-mxfp4", 8, 128, 128, 8, (9, 0), experts=_MXFP4),  # DeepSeek-V4
    )
}
