"""Graphs, caches and fits of llama.cpp that few models and machines reach."""

from typing import Any

import pytest
from tests.engines.llama_cpp_models import model, stack

from vramcalc.engines.base import Proposal, Setup
from vramcalc.engines.llama_cpp import LlamaCpp, bind
from vramcalc.errors import RefusedError
from vramcalc.ledger import HOST, Basis, Component, Ledger
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.registry import gpu_registry, model_registry
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import BidirectionalAttention, ExtraTensor, ModelSpec, PlainMlp
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB, MIB

MODELS, CARDS = model_registry(), gpu_registry()
STEP = 512 * 4  # tokens of a step, bytes of a float


def engine(spec: ModelSpec | str, gpus: str = "48GiB", *, reserve_bytes: int = 0) -> LlamaCpp:
    chosen = MODELS.resolve(spec) if isinstance(spec, str) else spec
    return bind(Setup(chosen, Machine(gpus=resolve_cards(gpus, CARDS).gpus, reserve_bytes=reserve_bytes)))


def settled(bound: LlamaCpp, **workload: Any) -> tuple[Proposal, Ledger]:
    proposal = bound.propose(Workload(**workload))
    return proposal, bound.bill(proposal)


def buffer_on(ledger: Ledger, device: str) -> int:
    lines = ledger.on(device).of_component(Component.COMPUTE_BUFFER).lines
    return sum(line.n_bytes for line in lines if "output buffer" not in line.why)


def _distilbert() -> ModelSpec:
    """DistilBERT: BERT without token types."""
    attention = BidirectionalAttention(
        kind="bidirectional", n_heads=12, n_kv_heads=12, head_dim=64, qkv_bias=True, output_bias=True
    )
    extras = (
        ExtraTensor(name="position_embd", role="embedding", shape=(512, 768)),
        ExtraTensor(name="token_embd_norm.weight", role="norm", shape=(768,)),
        ExtraTensor(name="token_embd_norm.bias", role="norm", shape=(768,)),
    )
    layers = stack(6, attention, PlainMlp(kind="plain", ff_dim=3072, bias=True))
    return model(
        "distilbert", 768, 30_522, 512, layers, head="none", norm="layer", final_norm=False, extra_tensors=extras
    )


@pytest.mark.parametrize(
    ("spec", "workload", "device", "expected"),
    [
        pytest.param(
            "olmo-2-7b",
            {"n_context": 1024},
            "gpu0",
            STEP * (3 * 11_008 + 3 * 4096 + 1024 // 2 + 5) + 128,
            id="Q and K normed whole: 3 * ff + 3 * hidden, mask, row numbers",
        ),
        pytest.param(
            "pythia-70m",
            {"n_context": 1024},
            "gpu0",
            STEP * (2048 + 2 * 512 + 1024 // 2 + 5) + 128,
            id="a decoder with layer norms, its last with a bias: ff + 2 * hidden",
        ),
        pytest.param(
            "phi-2",
            {"n_context": 1024},
            "gpu0",
            STEP * (10_240 + 4 * 2560 + 1024 // 2 + 5) + 128,
            id="attention and MLP side by side: ff + 4 * hidden",
        ),
        pytest.param(
            "llama-3.1-8b",
            {"n_context": 1024, "k_format": "iq4_nl", "v_format": "iq4_nl"},
            "gpu0",
            STEP * (3 * 14_336 + 2 * 4096 + 5) + 4 * (128 * 128 + 64 * 64),
            id="iq4_nl: attention and its mask leave the GPU, the rotations stay",
        ),
        pytest.param(
            "nomic-embed-text-v1.5",
            {"n_context": 512},
            HOST,
            STEP * (2 * 768 + 512 // 2 + 1) + 32,
            id="an encoder without a table of positions: 2 * hidden, mask, tokens",
        ),
        pytest.param(
            _distilbert(),
            {"n_context": 512},
            HOST,
            STEP * (3 * 768 + 512 // 2 + 2) + 32,
            id="an encoder without token types: 3 * hidden, mask, tokens, positions",
        ),
        pytest.param(
            _distilbert(),
            {"n_context": 512, "step_tokens": 1},
            "gpu0",
            4 * 6 * 768 + 2 * 128,
            id="one token, no token types: 6 * hidden, mask and row number of 128 bytes each",
        ),
        pytest.param(
            "bge-m3",
            {"n_context": 512, "step_tokens": 1},
            "gpu0",
            4 * (6 * 1024 + 1024) + 2 * 128,
            id="one token with token types: their row is copied to the GPU as well",
        ),
    ],
)
def test_compute_buffers_by_hand(spec: ModelSpec | str, workload: dict[str, Any], device: str, expected: int) -> None:
    _, ledger = settled(engine(spec), n_slots=1, **workload)

    assert buffer_on(ledger, device) == expected


def test_a_cache_cuda_has_no_kernel_for_is_said() -> None:
    proposal, ledger = settled(engine("llama-3.1-8b"), n_context=1024, n_slots=1, k_format="iq4_nl", v_format="iq4_nl")

    assert "CUDA has no flash attention for iq4_nl caches: attention runs on the CPU, slowly" in proposal.notes
    assert ledger.of_component(Component.KV_CACHE).n_bytes == 32 * 1024 * 2 * (1024 // 32 * 18)


def test_heads_that_blocks_do_not_divide_are_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        settled(engine("open-llama-3b"), n_context=1024, k_format="q8_0")

    assert str(caught.value) == "heads of 100 elements do not divide into blocks of q8_0"
    assert caught.value.hint == "keep the cache in f16"


def test_the_context_of_an_amd_card_is_assumed() -> None:
    _, ledger = settled(engine("llama-3.1-8b", "rx6800xt"), n_context=1024)
    (line,) = ledger.of_component(Component.RUNTIME).lines

    assert (line.low_bytes, line.n_bytes, line.high_bytes) == (100 * MIB, 300 * MIB, 700 * MIB)
    assert line.basis is Basis.ASSUMED


def test_cards_with_nothing_free_share_alike() -> None:
    proposal, _ = settled(engine("llama-3.1-8b", "2x12GiB", reserve_bytes=12 * GIB), n_context=1024, gpu_layers=33)
    placement = proposal.placement

    assert [placement.layers_on(device) for device in ("gpu0", "gpu1", HOST)] == [17, 15, 0]
    assert placement.output_device == "gpu1"


def test_a_context_that_cannot_shrink_lets_layers_go() -> None:
    """4096 tokens are the model's context and the least the fit tries: 3 GiB hold 16 layers and the head."""
    bound = engine("llama-2-7b", "4GiB")
    proposal, ledger = settled(bound)
    _, one_more = settled(bound, n_context=4096, gpu_layers=18)

    assert proposal.workload.n_context == 4096
    assert [proposal.placement.layers_on(device) for device in ("gpu0", HOST)] == [16, 16]
    assert ledger.on("gpu0").n_bytes <= 3 * GIB < one_more.on("gpu0").n_bytes


@pytest.mark.parametrize(
    ("model_id", "gpus", "n_context", "layers", "words"),
    [
        pytest.param(
            "mixtral-8x7b",
            "2560MiB",
            32_768,
            (1,),
            ("-ngl 2 -ot blk\\.(32)\\.(ffn_exps)=CPU",),
            id="the only layer in part would be the one behind the last",
        ),
        pytest.param(
            "qwen3-30b-a3b",
            "19392MiB+1536MiB",
            8192,
            (48, 0),
            ("-ngl 49 -ts 48,1",),
            id="all layers whole on the first card, the head on the second",
        ),
        pytest.param(
            "mixtral-8x7b",
            "16GiB+6GiB",
            32_768,
            (17, 15),
            ("-ngl 33 -ts 17,16", "=CUDA1"),
            id="the first card takes more than it held in part",
        ),
        pytest.param(
            "qwen3-30b-a3b",
            "rx6800xt+rx6600",
            40_960,
            (34, 14),
            ("-ngl 49 -ts 34,15 -ot blk\\.(33)\\.(ffn_down_exps)=ROCm1",),
            id="one layer flows over to the next card",
        ),
        pytest.param(
            "qwen3-30b-a3b",
            "14GiB+14GiB+2GiB",
            8192,
            (35, 13, 0),
            ("-ngl 49 -ts 35,14,0 -ot blk\\.(48)\\.(ffn_exps)=CUDA0",),
            id="the last card takes nothing",
        ),
    ],
)
def test_fits_over_cards(
    model_id: str, gpus: str, n_context: int, layers: tuple[int, ...], words: tuple[str, ...]
) -> None:
    bound = engine(model_id, gpus)
    proposal, ledger = settled(bound, n_context=n_context, n_slots=1)
    command = " ".join(bound.command(proposal))
    row_bytes = {"mixtral-8x7b": 2 * 8 * 128 * 2, "qwen3-30b-a3b": 2 * 4 * 128 * 2}[model_id]

    for number, n_layers in enumerate(layers):
        held = ledger.on(f"gpu{number}").of_component(Component.KV_CACHE).n_bytes
        assert held == n_layers * n_context * row_bytes
    assert all(part in command for part in words)
