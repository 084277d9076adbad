"""vLLM's rarer paths: cards, formats and parallel sizes that few ask for."""

from typing import Any

import pytest

from vramcalc.engines.base import Proposal, Setup
from vramcalc.engines.vllm import Vllm, bind
from vramcalc.errors import RefusedError
from vramcalc.ledger import Basis, Component, Ledger, Line
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.registry import gpu_registry, model_registry
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload
from vramcalc.units import MIB

MODELS, CARDS = model_registry(), gpu_registry()


def engine(model_id: str, gpus: str, weight_format: str | None = None, version: str | None = None) -> Vllm:
    machine = Machine(gpus=resolve_cards(gpus, CARDS).gpus)
    return bind(Setup(MODELS.resolve(model_id), machine, weight_format, version))


def settled(bound: Vllm, **workload: Any) -> tuple[Proposal, Ledger]:
    proposal = bound.propose(Workload(n_context=1024, **workload))
    return proposal, bound.bill(proposal)


def weights_of(ledger: Ledger) -> Line:
    (line,) = ledger.on("gpu0").of_component(Component.WEIGHTS).lines
    return line


def test_an_amd_card_is_answered_and_nothing_measured_is_claimed() -> None:
    proposal, ledger = settled(engine("llama-3.1-8b", "mi300x"))
    (context,) = ledger.of_component(Component.RUNTIME).lines

    assert "no measured vLLM run on AMD backs the fitted terms; CUDA's rules are assumed" in proposal.notes
    assert (context.basis, context.outside_budget) == (Basis.ASSUMED, True)
    assert context.low_bytes == 100 * MIB
    assert context.low_bytes < context.n_bytes < context.high_bytes
    assert weights_of(ledger).n_bytes == 16_060_522_496 + 131_072 * 128 * 2 + 32 * 16


@pytest.mark.parametrize(
    ("workload", "weight_format", "model_id", "words"),
    [
        pytest.param({}, "f16", "llama-3.1-8b", ("--dtype", "float16"), id="f16 of a bf16 release"),
        pytest.param({}, "f32", "llama-3.1-8b", ("--dtype", "float32"), id="f32 of a bf16 release"),
        pytest.param(
            {"expert_parallel": True},
            None,
            "qwen3-30b-a3b",
            ("--tensor-parallel-size", "2", "--enable-expert-parallel"),
            id="experts whole on 2 ranks",
        ),
        pytest.param(
            {"pipeline_parallel": 2}, None, "llama-3.1-8b", ("--pipeline-parallel-size", "2"), id="PP alone means TP 1"
        ),
    ],
)
def test_the_command_says_what_was_chosen(
    workload: dict[str, Any], weight_format: str | None, model_id: str, words: tuple[str, ...]
) -> None:
    bound = engine(model_id, "2xh100", weight_format)
    proposal = bound.propose(Workload(n_context=1024, tensor_parallel=None if weight_format is None else 1, **workload))
    command = bound.command(proposal)

    assert command[command.index("1024") + 1 :] == words


@pytest.mark.parametrize(
    ("model_id", "gpus", "workload", "weight_format", "fact", "advice"),
    [
        pytest.param(
            "llama-3.1-8b",
            "mi300x",
            {},
            "nvfp4",
            "nvfp4 is NVIDIA's own format; AMD Instinct MI300X cannot run it",
            "take mxfp4, fp8 or bf16",
            id="nvfp4 on AMD",
        ),
        pytest.param(
            "pythia-70m",
            "8xh100",
            {"pipeline_parallel": 8},
            None,
            "Pythia 70M has 6 layers, too few for PP 8",
            "lower --pp",
            id="6 layers on 8 stages",
        ),
        pytest.param(
            "qwen2.5-7b",
            "8xh100",
            {"tensor_parallel": 8},
            None,
            'TP 8 does not divide Qwen 2.5 7B: 28 heads; it stops with "Total number of attention heads (28) must be '
            'divisible by tensor parallel size (8)."',
            "--tp 4 or --pp 8",
            id="28 heads on 8 ranks",
        ),
        pytest.param(
            "llama-3.2-3b",
            "3xh100",
            {"tensor_parallel": 3},
            None,
            'TP 3 does not divide Llama 3.2 3B: 8 KV heads; it stops with "8 is not divisible by 3"',
            "--tp 2 or --pp 3",
            id="24 heads over 3, but 8 KV heads",
        ),
        pytest.param(
            "llama-2-13b",
            "5xh100",
            {"tensor_parallel": 5},
            None,
            'TP 5 does not divide Llama 2 13B: feed-forward width 13824; it stops with "13824 is not divisible by 5"',
            "--tp 4 or --pp 5",
            id="40 heads over 5, but 13824 columns",
        ),
    ],
)
def test_refusals_name_the_reason(
    model_id: str, gpus: str, workload: dict[str, Any], weight_format: str | None, fact: str, advice: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        settled(engine(model_id, gpus, weight_format), **workload)

    assert (str(caught.value), caught.value.hint) == (fact, advice)


def test_whole_experts_need_not_divide() -> None:
    """A rank holds 64 of 128 experts of 3 x 768 x 2048 each."""
    proposal, ledger = settled(engine("qwen3-30b-a3b", "2xh100"), expert_parallel=True)

    assert (proposal.placement.tensor_parallel, proposal.placement.expert_parallel) == (2, True)
    assert weights_of(ledger).values["experts"] == 48 * 64 * 3 * 768 * 2048 * 2


_EXPERT, _LAYERS_EXPERTS = 3 * 768 * 2048, 48 * 128
_ATTENTION = 2 * 4096 * 2048 + 2 * 512 * 2048
_BIASES = (768 + 768 + 2048) * 2


@pytest.mark.parametrize(
    ("gpus", "dropped"),
    [
        pytest.param(
            "h100", _LAYERS_EXPERTS * (_BIASES + _EXPERT // 256), id="Hopper: biases and zeros of experts, 157286400"
        ),
        pytest.param(
            "a100",
            _LAYERS_EXPERTS * _BIASES + 48 * _ATTENTION // 256,
            id="before Hopper: biases of experts, zeros of attention, 47579136",
        ),
    ],
)
def test_gptq_experts_carry_biases_until_loading_ends(gpus: str, dropped: int) -> None:
    """Half a byte per element, 2.5 bytes per group of 128, and a 16-bit bias per row of each matrix."""
    line = weights_of(settled(engine("qwen3-30b-a3b", gpus, "gptq-4bit"))[1])
    kept = sum(n for name, n in line.values.items() if not name.startswith("dropped"))

    assert line.values["experts"] == _LAYERS_EXPERTS * (_EXPERT // 2 + _EXPERT // 128 * 5 // 2 + _BIASES)
    assert line.values["dropped_zeros"] == dropped
    assert line.n_bytes == kept - dropped - 48 * 8  # spare scales of the cache


@pytest.mark.parametrize(
    ("weight_format", "half_bytes_per_group"),
    [
        pytest.param("awq-4bit", 5, id="awq: 64 elements, a scale of 16 bits and a zero of 4"),
        pytest.param("gptq-4bit", 4, id="gptq: 64 elements, a scale of 16 bits"),
    ],
)
def test_narrow_experts_take_smaller_groups_and_are_padded_on_hopper(
    weight_format: str, half_bytes_per_group: int
) -> None:
    """TP 4 leaves 192 columns of 768: groups of 64 instead of 128, then padded to 256."""
    line = weights_of(settled(engine("qwen3-30b-a3b", "4xh100", weight_format))[1])
    share = 3 * 192 * 2048
    loaded = _LAYERS_EXPERTS * (share // 2 + share // 64 * half_bytes_per_group // 2)

    assert line.values["experts"] == loaded
    assert line.values["expert_padding"] == loaded * 256 // 192 - loaded


_GPT_OSS_EXPERTS = 24 * 32


@pytest.mark.parametrize(
    ("version", "change"),
    [
        pytest.param(
            "0.33",
            (5888 + 3072) * 92 - (5760 + 2880) * 90 + 2 * (5760 + 2880),
            id="0.33: scales of 5888 x 92 and 3072 x 92 for 5760 x 90 and 2880 x 90, biases twice as wide",
        ),
        pytest.param(
            "0.19",
            (5888 + 3072) * 90 + (5760 + 2880) * (1472 - 1440) + 2 * (5760 + 2880),
            id="0.19: scales beside the loaded ones, 1440 bytes of a row padded to 1472",
        ),
        pytest.param(
            "0.14", (5888 + 3072) * 90 + 2 * (5760 + 2880), id="0.11 to 0.14: scales beside the loaded ones, no padding"
        ),
    ],
)
def test_hopper_lays_mxfp4_experts_out_anew(version: str, change: int) -> None:
    line = weights_of(settled(engine("gpt-oss-20b", "h100", None, version))[1])

    assert line.values["swizzled_experts"] == _GPT_OSS_EXPERTS * change


def test_experts_without_gate_are_padded_in_rows_and_columns() -> None:
    """Up of 1856 x 2688 to 2048 x 2688, down of 2688 x 1856 to 2816 x 1920: 9 bits an element, 23 x 128 experts."""
    line = weights_of(settled(engine("nemotron-3-nano-30b-a3b-nvfp4", "h100", None))[1])

    assert line.values["expert_padding"] == 23 * 128 * (192 * 2688 + 2816 * 1920 - 2688 * 1856) * 9 // 16
