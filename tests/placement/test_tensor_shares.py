"""What a tensor-parallel rank holds of a tensor."""

import pytest

from vramcalc.formulas.inventory import Split, TensorGroup
from vramcalc.placement.tensor_shares import Heads, on_rank

HEADS = Heads(32, 8)


@pytest.mark.parametrize(
    ("group", "n_ranks", "shape"),
    [
        pytest.param(TensorGroup("attn_q", "attention", (4096, 512), Split.COLUMN), 4, (1024, 512), id="4096 / 4"),
        pytest.param(TensorGroup("ffn_down", "mlp", (512, 4096), Split.ROW), 4, (512, 1024), id="row: 4096 / 4"),
        pytest.param(TensorGroup("attn_k", "attention", (1024, 512), Split.KV_HEADS), 4, (256, 512), id="8 heads / 4"),
        pytest.param(
            TensorGroup("attn_k", "attention", (1024, 512), Split.KV_HEADS), 16, (128, 512), id="one head at least"
        ),
        pytest.param(
            TensorGroup("attn_qkv", "attention", (48 * 128, 512), Split.KV_HEADS),
            16,
            ((2 + 1 + 1) * 128, 512),
            id="fused: 32 / 16 + 1 + 1 heads",
        ),
        pytest.param(
            TensorGroup("output", "head", (49155, 8), Split.VOCABULARY), 8, (49216 // 8, 8), id="49155 padded to 64s"
        ),
        pytest.param(TensorGroup("attn_norm", "norm", (512,)), 8, (512,), id="replicated"),
        pytest.param(TensorGroup("v.attn", "vision", (1152, 64), copies=27), 4, (288, 64), id="tower's layers"),
        pytest.param(TensorGroup("v.position", "vision", (4096, 64)), 4, (4096, 64), id="tower's ends"),
    ],
)
def test_shape_on_a_rank(group: TensorGroup, n_ranks: int, shape: tuple[int, ...]) -> None:
    assert on_rank(group, HEADS, n_ranks).shape == shape


def test_heads_stacked_as_copies_go_whole_to_a_rank() -> None:
    group = TensorGroup("attn_k_b", "attention", (512, 128), Split.COLUMN, copies=128)

    share = on_rank(group, HEADS, 8)

    assert (share.shape, share.copies) == ((512, 128), 16)


def test_experts_are_cut_or_dealt_out() -> None:
    group = TensorGroup("ffn_up_exps", "experts", (768, 2048), Split.COLUMN, copies=128)

    assert on_rank(group, HEADS, 4).shape == (192, 2048)
    assert on_rank(group, HEADS, 4, whole_experts=True).copies == 32
