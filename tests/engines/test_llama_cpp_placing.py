"""Placement as the user asks for it, against the engine's own figures.

Source of the figures: llama.cpp 0c1e570, own probe on memory-less CUDA-like devices with llama-server's settings.
"""

from pathlib import Path
from typing import Any

import pytest
from tests.engines.test_llama_cpp import ROOMY, engine, held, settled

from vramcalc.api import Request, answer
from vramcalc.errors import RefusedError, UsageError
from vramcalc.ledger import HOST, Component
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB, MIB

UNIFIED = {"n_context": 8192, "n_slots": 4, "kv_unified": True}
ONE = {"n_context": 8192, "n_slots": 1}
LLAMA, LITE = "Llama-3.1-8B", "DeepSeek-V2-Lite"

FALCON = """
falcon-h1-7b:
  name: Falcon-H1 7B
  family: falcon
  parameters: {total: 7585648768, basis: derived, source: recounted from the shapes below}
  context: 262144
  license: unknown
  released: "2025-05"
  dtype: bf16
  vocabulary: 130048
  hidden_dim: 3072
  head: separate
  layers:
    n_layers: 44
    kinds:
      both:
        attention: {kind: full, n_heads: 12, n_kv_heads: 2, head_dim: 128}
        mixer: {kind: mamba2, n_heads: 24, head_dim: 128, n_groups: 1, state_dim: 256, conv_kernel: 4, norm: false}
        mlp: {kind: gated, ff_dim: 12288}
  source: tiiuae/Falcon-H1-7B-Base, config.json
"""


@pytest.mark.parametrize(
    ("name", "n_gpus", "workload", "expected"),
    [
        pytest.param(
            LLAMA,
            1,
            {**UNIFIED, "overrides": ("mlp=host",)},
            {"gpu0": (3_736_092_928, 1_073_741_824, 209_725_440), HOST: (12_324_962_304, 0, 25_178_144)},
            id="the MLP in RAM, attention stays",
        ),
        pytest.param(
            LLAMA,
            1,
            {**UNIFIED, "overrides": (r"ffn_(up|gate|down)\.weight=CPU",)},
            {"gpu0": (3_736_092_928, 1_073_741_824, 209_725_440), HOST: (12_324_962_304, 0, 25_178_144)},
            id="the same by pattern",
        ),
        pytest.param(
            LLAMA,
            2,
            {**UNIFIED, "tensor_split": (3.0, 1.0)},
            {
                "gpu0": (10_906_009_856, 838_860_800, 180_396_032),
                "gpu1": (4_104_372_480, 234_881_024, 213_950_976),
                HOST: (1_050_673_152, 0, 75_546_752),
            },
            id="three quarters on the first card",
        ),
        pytest.param(
            LLAMA,
            1,
            {**UNIFIED, "kv_offload": False},
            {"gpu0": (15_010_382_080, 0, 117_442_560), HOST: (1_050_673_152, 1_073_741_824, 25_178_144)},
            id="the cache in RAM",
        ),
        pytest.param(
            LLAMA,
            1,
            {**UNIFIED, "kv_offload": False, "flash_attention": False, "gpu_layers": 20},
            {"gpu0": (9_339_257_088, 0, 629_147_904), HOST: (6_721_798_400, 1_073_741_824, 37_756_960)},
            id="the cache in RAM, without flash attention",
        ),
        pytest.param(
            LLAMA,
            1,
            {**ONE, "op_offload": False, "gpu_layers": 20},
            {"gpu0": (9_339_257_088, 637_534_208, 113_256_576), HOST: (6_721_798_400, 436_207_616, 130_035_744)},
            id="host weights computed by the CPU",
        ),
        pytest.param(
            LITE,
            1,
            {**ONE, "overrides": ("experts=host",)},
            {"gpu0": (2_210_904_064, 254_803_968, 428_623_872), HOST: (29_209_133_056, 0, 16_785_440)},
            id="experts in RAM",
        ),
    ],
)
def test_agrees_with_what_the_engine_allocates(
    name: str, n_gpus: int, workload: dict[str, Any], expected: dict[str, tuple[int, int, int]]
) -> None:
    bound = engine(name, "f16", *[ROOMY] * n_gpus)
    proposal, ledger = settled(bound, **workload)
    n_rows = workload["n_slots"]
    logits = n_rows * {LLAMA: 128_256, LITE: 102_400}[name] * 4

    for device, (weights, cache, compute) in expected.items():
        output = logits if device == HOST else 0
        assert held(ledger, device, Component.WEIGHTS) == weights
        assert held(ledger, device, Component.KV_CACHE) == cache
        assert held(ledger, device, Component.COMPUTE_BUFFER) - output == compute
    assert bound.command(proposal)


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        ({"overrides": ("mlp=host",)}, ("-ot", r"blk\.\d+\.(ffn_down")),
        ({"kv_offload": False}, ("--no-kv-offload",)),
        ({"op_offload": False}, ("--no-op-offload",)),
        ({"repack": False}, ("--no-repack",)),
        ({"mmap": False}, ("--load-mode", "none")),
        ({"mlock": True}, ("--load-mode", "mmap+mlock")),
        ({"split_mode": "none", "main_gpu": 1}, ("-sm", "none", "-mg", "1")),
        ({"tensor_split": (3.0, 1.0)}, ("-ts", "25,8")),
    ],
    ids=str,
)
def test_the_command_says_what_was_asked(workload: dict[str, Any], words: tuple[str, ...]) -> None:
    bound = engine(LLAMA, "q4_k_m", 24 * GIB, 24 * GIB)
    proposal, _ = settled(bound, n_context=8192, **workload)
    line = " ".join(bound.command(proposal))

    assert " ".join(words) in line


def test_one_card_alone_is_opened() -> None:
    bound = engine(LLAMA, "q4_k_m", 24 * GIB, 12 * GIB)
    proposal, ledger = settled(bound, n_context=8192, split_mode="none", main_gpu=1)

    assert set(bound.budgets(proposal)) == {"gpu1"}
    assert {line.device for line in ledger.lines} == {"gpu1", HOST}


@pytest.mark.parametrize(
    ("workload", "fact"),
    [
        ({"overrides": ("mlp",)}, "names no device"),
        ({"overrides": ("bread=host",)}, "no role is called 'bread'"),
        ({"overrides": ("ffn_(=host",)}, "is no pattern"),
        ({"overrides": ("mlp=gpu7",)}, "'gpu7', which this machine has not"),
        ({"tensor_split": (1.0, 1.0, 1.0)}, "3 shares to 2 GPUs"),
        ({"tensor_split": (0.0, 0.0)}, "2 shares to 2 GPUs"),
        ({"split_mode": "row"}, "row is not modelled"),
        ({"main_gpu": 2}, "the machine has 2 GPUs"),
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_refused(workload: dict[str, Any], fact: str) -> None:
    with pytest.raises(UsageError, match=fact) as caught:
        engine(LLAMA, "q4_k_m", 24 * GIB, 24 * GIB).propose(Workload(n_context=8192, **workload))

    assert caught.value.hint


def test_a_graph_too_large_for_the_scheduler_is_refused() -> None:
    phi = engine("Phi-4", "q4_k_m")
    quantised: dict[str, Any] = {"n_context": 2048, "k_format": "q8_0", "v_format": "q8_0"}

    with pytest.raises(RefusedError, match="aborts"):
        phi.propose(Workload(**quantised, n_slots=4, kv_unified=False))
    assert phi.propose(Workload(**quantised, n_slots=4, kv_unified=True))
    assert phi.propose(Workload(**quantised, n_slots=1))
    assert phi.propose(Workload(n_context=2048, k_format="q8_0", v_format="f16", n_slots=4, kv_unified=False))


def test_layers_in_ram_are_named_with_the_reason() -> None:
    dense = engine("Llama-3.3-70B", "q4_k_m", 24_064 * MIB).propose(Workload(n_context=8192))
    sparse = engine("Qwen3-30B-A3B", "q4_k_m", 11_776 * MIB).propose(Workload())

    assert any(n.startswith("layers 0-37 in RAM: the fit fills GPUs from the last layer back") for n in dense.notes)
    assert any(n.startswith("experts of layers 26-47 in RAM: the fit moves experts before") for n in sparse.notes)


@pytest.mark.parametrize(
    ("workload", "cache", "state", "compute"),
    [
        # 44 * 8192 * 2 * 256 * 2 B, and 4 * 44 * (3 * 3584 + 256 * 3072) * 4 B: 930,316,288 together, as measured
        pytest.param(UNIFIED, 369_098_752, 561_217_536, 99_625_216, id="four slots, one pool"),
        pytest.param({"n_context": 20_480, "n_slots": 1}, 922_746_880, 140_304_384, 112_208_128, id="one slot"),
    ],
)
def test_a_new_model_of_known_kinds_is_yaml_alone(
    tmp_path: Path, workload: dict[str, Any], cache: int, state: int, compute: int
) -> None:
    (tmp_path / "models.yaml").write_text(FALCON)
    report = answer(
        Request(
            model="falcon-h1-7b",
            gpus=("2048GiB",),
            engines=("llama.cpp",),
            quants=("f16",),
            workload=Workload(**workload),
            registries=[tmp_path],
        )
    )
    device = report.estimates[0].devices[0]

    assert device.weights_bytes == 14_374_146_560
    assert (device.kv_cache_bytes, device.state_bytes) == (cache, state)
    assert device.compute_buffer_bytes == compute


def test_context_0_is_the_trained_one_and_moves_layers() -> None:
    request = Request(model="qwen3-30b-a3b", gpus=("11776MiB",), engines=("llama.cpp",), workload=Workload(n_context=0))
    estimate = answer(request).estimates[0]

    assert estimate.workload.n_context == 40_960
    assert estimate.placement is not None
    assert estimate.placement.expert_layers_on_gpu == 16  # as the engine decides
