"""States of recurrent layers, and the recurrent models that are refused; their measured rows are in test_llama_cpp."""

from typing import Any

import pytest
from tests.engines.llama_cpp_models import delta, experts, full, gated, hypothetical, mamba2, model, windowed
from tests.engines.test_llama_cpp import engine, held, settled

from vramcalc.engines import llama_cpp, ollama
from vramcalc.engines.base import Setup
from vramcalc.errors import RefusedError
from vramcalc.ledger import HOST, Basis, Component
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import LayerKind, LayerStack
from vramcalc.units import GIB, MIB


def test_experts_over_two_cards_have_a_wide_range() -> None:
    _, ledger = settled(
        engine("Qwen3-Next-80B-A3B", "q4_k_m", 24_064 * MIB, 24_064 * MIB), n_context=131_072, n_slots=1
    )
    buffer = ledger.on("gpu0").of_component(Component.COMPUTE_BUFFER)

    assert {line.basis for line in buffer.lines} == {Basis.FITTED}
    assert buffer.low_bytes < buffer.n_bytes < 939_546_752 < buffer.high_bytes  # what the engine measures there


@pytest.mark.parametrize(
    ("name", "n_slots", "expected"),
    [
        pytest.param("Mamba2-2.7B", 1, 64 * (3 * 5376 + 128 * 5120) * 4, id="64 * (conv + state) * 4 B"),
        pytest.param("Granite-4.0-H-Small", 1, 36 * (3 * 8448 + 128 * 8192) * 4, id="36 of 40 layers"),
        pytest.param("Qwen3-Next-80B-A3B", 4, 4 * 36 * (3 * 8192 + 128 * 4096) * 4, id="four slots, four states"),
        pytest.param("Qwen3.5-27B", 1, 48 * (3 * 10_240 + 128 * 6144) * 4, id="48 of 64 layers"),
        pytest.param("Llama-3.1-8B", 1, 0, id="no state"),
    ],
)
@pytest.mark.parametrize("workload", [{}, {"k_format": "q8_0", "v_format": "q8_0"}, {"kv_unified": True}], ids=str)
def test_state_by_hand(name: str, n_slots: int, expected: int, workload: dict[str, Any]) -> None:
    for n_context in (512, 65_536):
        _, ledger = settled(engine(name), n_context=n_context, n_slots=n_slots, **workload)

        assert held(ledger, "gpu0", Component.STATE) == expected


def test_states_go_where_their_layers_go() -> None:
    _, ledger = settled(engine("Mamba2-2.7B"), n_context=512, n_slots=1, gpu_layers=17)
    per_layer = (3 * 5376 + 128 * 5120) * 4

    assert held(ledger, "gpu0", Component.STATE) == 16 * per_layer
    assert held(ledger, HOST, Component.STATE) == 48 * per_layer


@pytest.mark.parametrize(
    ("kind", "fact"),
    [
        ({"mixer": {"kind": "kimi_delta", "n_heads": 8, "head_dim": 64, "conv_kernel": 4}}, "kimi_delta layers"),
        ({"attention": windowed(full(8, 8, 64), 512)}, "sliding attention beside recurrent layers"),
        ({"mlp": {"kind": "gated", "ff_dim": 512}}, "layers of an MLP alone"),
        ({"attention": full(8, 8, 64, output_gate="per_head")}, "gated attention output without gated delta nets"),
        ({"mixer": mamba2(8), "mlp": experts(8, 2, 64, shared_ff_dim=64, shared_gate=True)}, "gated shared experts"),
        ({"attention": full(8, 8, 64)}, "layers without MLP beside others with one"),
        ({"mixer": delta(16, fused=True)}, "attention without an output gate beside gated delta nets"),
    ],
)
@pytest.mark.parametrize("engine_module", [llama_cpp, ollama])
def test_recurrent_models_nobody_measured_are_refused(engine_module: Any, kind: dict[str, Any], fact: str) -> None:
    known = LayerKind(attention=full(8, 8, 64), mlp=gated(512))
    kinds = {"odd": LayerKind(**kind), "recurrent": LayerKind(mixer=mamba2(8), mlp=gated(512)), "known": known}
    layers = LayerStack(n_layers=3, kinds=kinds, pattern=tuple(kinds))

    with pytest.raises(RefusedError, match=fact) as caught:
        engine_module.bind(Setup(model("odd", 512, 1024, 4096, layers), Machine(gpus=(hypothetical(GIB),)), None))

    assert "explain weights" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "fact"),
    [
        ({"attention": full(8, 8, 64, shares_cache=True), "mlp": gated(512)}, "shared, without a scale"),
        ({"attention": full(8, 4, 64), "mlp": gated(512)}, "full attention of several shapes"),
        ({"attention": full(8, 8, 64), "mlp": experts(8, 2, 64, dense_ff_dim=64)}, "without a scaled router"),
        ({"attention": full(8, 8, 64), "mlp": gated(512), "output_scale": True}, "a scale on what some layers give"),
    ],
)
def test_parts_of_gemma_4_alone_are_refused(kind: dict[str, Any], fact: str) -> None:
    kinds = {"odd": LayerKind(**kind), "known": LayerKind(attention=full(8, 8, 64), mlp=gated(512))}
    layers = LayerStack(n_layers=2, kinds=kinds, pattern=tuple(kinds))

    with pytest.raises(RefusedError, match=fact):
        llama_cpp.bind(Setup(model("odd", 512, 1024, 4096, layers), Machine(gpus=(hypothetical(GIB),)), None))
