"""Layer ranges of pipeline stages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramcalc.placement.pipeline import stage_layers


@pytest.mark.parametrize(
    ("n_layers", "n_stages", "counts"),
    [
        pytest.param(61, 2, [31, 30], id="the odd layer goes first"),
        pytest.param(61, 4, [15, 15, 16, 15], id="to the last but one stage"),
        pytest.param(62, 4, [15, 16, 16, 15], id="and backwards from there"),
    ],
)
def test_uneven_layers(n_layers: int, n_stages: int, counts: list[int]) -> None:
    assert [len(layers) for layers in stage_layers(n_layers, n_stages)] == counts


@given(n_layers=st.integers(1, 200), n_stages=st.integers(1, 16))
def test_every_layer_has_one_stage(n_layers: int, n_stages: int) -> None:
    stages = stage_layers(n_layers, n_stages)

    assert [layer for stage in stages for layer in stage] == list(range(n_layers))
    assert max(map(len, stages)) - min(map(len, stages)) <= 1
