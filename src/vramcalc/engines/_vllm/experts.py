"""How the kernels of quantised experts lay out a rank's share once loading ends.

Source:
    vLLM, model_executor/layers/fused_moe/oracle and quantization/utils/mxfp4_utils.py; its Triton kernels are those of
    the Triton release of the time, python/triton_kernels, tensor_details/layout_details/hopper_value.py and
    hopper_scale.py.
"""

from math import prod

from msgspec import Struct

from vramcalc.engines._vllm.rules import RuleSet
from vramcalc.formulas.inventory import Split, TensorGroup
from vramcalc.specs.formats import ScaledFormat
from vramcalc.units import round_up

EXPERT_MULTIPLE = 128  # columns of a matrix, as the int4 and nvfp4 kernels of Hopper want them
_ROW_MULTIPLE = 256  # its rows; gate and up are one matrix, so each takes half of it
_BIAS_GROWTH_BYTES = 2  # from 16 to 32 bits


class Swizzle(Struct, frozen=True, kw_only=True):
    """What Hopper's Triton kernels make of mxfp4 experts; biases become f32 and rows of scales multiples of 256.

    ``column_bytes``: what the bytes of a row of elements are rounded up to. ``scale_columns``: the same for its scales.
    ``keeps_scales``: the scales as loaded stay beside those the kernels read.
    """

    column_bytes: int
    scale_columns: int
    keeps_scales: bool

    def change(self, group: TensorGroup, fmt: ScaledFormat | None, *, gated: bool) -> int:
        """Return the bytes the end of loading adds to a rank's share of experts, already padded, in one layer."""
        if not group.is_matrix:
            return _BIAS_GROWTH_BYTES * prod(group.shape) * group.copies
        if fmt is None:
            return 0
        rows, columns = group.shape
        row_bytes, row_scales = columns * fmt.element_bits // 8, columns // fmt.group_columns
        elements = rows * (round_up(row_bytes, self.column_bytes) - row_bytes)
        scales = _padded_rows(group, gated=gated) * round_up(row_scales, self.scale_columns)
        return (elements + scales - (0 if self.keeps_scales else rows * row_scales)) * group.copies


def swizzle_for(rules: RuleSet) -> Swizzle:
    """Return the layout by version: 0.33's own build and logs of gpt-oss on 0.11, 0.14 and 0.19 agree with it."""
    if rules.reports_by_concurrency:
        return Swizzle(column_bytes=1, scale_columns=4, keeps_scales=False)
    return Swizzle(column_bytes=64 if rules.pads_swizzled else 1, scale_columns=2, keeps_scales=True)


def expert_share(group: TensorGroup) -> int:
    """Return the width of an expert on this rank."""
    return group.shape[0] if group.split is Split.COLUMN else group.shape[-1]


def has_narrow_experts(group: TensorGroup) -> bool:
    """Whether ``EXPERT_MULTIPLE`` does not divide a rank's share of an expert."""
    return group.role == "experts" and group.is_matrix and expert_share(group) % EXPERT_MULTIPLE != 0


def padded_elements(group: TensorGroup, *, gated: bool) -> int:
    """Return the elements of one expert's matrix as Hopper's int4 and nvfp4 kernels pad it: rows and columns."""
    return _padded_rows(group, gated=gated) * round_up(group.shape[-1], EXPERT_MULTIPLE)


def _padded_rows(group: TensorGroup, *, gated: bool) -> int:
    is_half = gated and group.split is Split.COLUMN
    return round_up(group.shape[0], _ROW_MULTIPLE // 2 if is_half else _ROW_MULTIPLE)
