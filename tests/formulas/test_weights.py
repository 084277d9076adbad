"""What a file holds under each format of checkpoints and other runtimes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramcalc.errors import UnknownNameError
from vramcalc.formulas.weights import stored_tensors
from vramcalc.reports.weights import weights_report
from vramcalc.sources.registry import model_registry
from vramcalc.specs.format_names import EXAMPLES, scaled_format
from vramcalc.specs.model import StoredApart

LLAMA = model_registry().resolve("llama-3.1-8b")
QWEN = model_registry().resolve("qwen3-30b-a3b")
LINEAR = 6_979_321_856  # 32 * (4096*4096*2 + 2*1024*4096 + 3*4096*14336)
KEPT = 2 * (8_030_261_248 - LINEAR)  # embedding, head and norms in 16 bit
OUT_FEATURES = 32 * (2 * 4096 + 2 * 1024 + 2 * 14336 + 4096)
HEAD = 128_256 * 4096


@pytest.mark.parametrize(
    ("weight_format", "n_bytes"),
    [
        pytest.param("bf16", 16_060_522_496, id="2 bytes each"),
        pytest.param("nf4", KEPT + LINEAR * 9 // 16, id="4 bits + 32 per 64: 4.5"),
        pytest.param(
            "nf4-dq", KEPT + LINEAR // 2 + LINEAR // 64 + LINEAR // 64 // 256 * 4, id="+ 8 per 64 + 32 per 16384"
        ),
        pytest.param(
            "mlx-4bit", (8_030_261_248 - 266_240) * 9 // 16 + 2 * 266_240, id="4.5 bits, embedding and head too"
        ),
        pytest.param("awq-4bit", KEPT + LINEAR // 2 + LINEAR // 128 * 5 // 2, id="4 bits + 16 + 4 per 128"),
        pytest.param("awq-4bit-g64", KEPT + LINEAR // 2 + LINEAR // 64 * 5 // 2, id="4 bits + 16 + 4 per 64"),
        pytest.param("gptq-4bit-g32", KEPT + LINEAR // 2 + LINEAR // 32 * 5 // 2, id="4 bits + 16 + 4 per 32"),
        pytest.param("gptq-8bit", KEPT + LINEAR + LINEAR // 128 * 3, id="8 bits + 16 + 8 per 128"),
        pytest.param(
            "gptq-4bit-g128-actorder",
            KEPT + LINEAR // 2 + LINEAR // 128 * 5 // 2 + 32 * 4 * (6 * 4096 + 14336),
            id="act-order: an int32 per in feature",
        ),
        pytest.param("w4a16-g64", KEPT + LINEAR // 2 + LINEAR // 64 * 2, id="symmetric: 4 bits + 16 per 64"),
        pytest.param("w4a16-asym", KEPT + LINEAR // 2 + LINEAR // 128 * 5 // 2, id="with zeros"),
        pytest.param("w8a16", KEPT + LINEAR + OUT_FEATURES * 2, id="8 bits + 16 per row"),
        pytest.param("mxfp8", KEPT + LINEAR + LINEAR // 32, id="8 bits + 8 per 32"),
        pytest.param("mlx-4bit-g32", (8_030_261_248 - 266_240) * 5 // 8 + 2 * 266_240, id="4 + 32 / 32 bits"),
        pytest.param("exl2-4.5bpw", KEPT - HEAD * 2 + LINEAR * 9 // 16 + HEAD * 6 // 8, id="4.5 bits, a head of 6"),
        pytest.param(
            "exl3-4.0bpw-h8",
            KEPT - HEAD * 2 + LINEAR // 2 + HEAD + 2 * (OUT_FEATURES + 32 * (6 * 4096 + 14336) + 128_256 + 4096),
            id="4 bits, a head of 8, 16 bits per in and out feature",
        ),
        pytest.param("fp8-block-64x64", KEPT + LINEAR + LINEAR // 4096 * 4, id="1 byte + 4 per 64 x 64"),
        pytest.param("fp8-block", KEPT + LINEAR + LINEAR // 128 // 128 * 4, id="1 byte + 4 per 128 x 128"),
    ],
)
def test_bytes_of_llama_3_1_8b(weight_format: str, n_bytes: int) -> None:
    assert sum(tensor.n_bytes for tensor in stored_tensors(LLAMA, weight_format)) == n_bytes


def test_llm_int8_keeps_a_float_per_row() -> None:
    tensors = {t.name: t for t in stored_tensors(LLAMA, "llm-int8")}

    assert tensors["attn_q"].n_bytes == 32 * (4096 * 4096 + 4096 * 4)
    assert tensors["output"].storage == "bf16"


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_format_that_is_named_as_an_example_is_one(name: str) -> None:
    fmt = scaled_format(name)

    assert fmt is not None
    assert fmt.name == name


@pytest.mark.parametrize(
    "name",
    ["gptq-4bit-g33", "gptq-5bit", "awq-8bit", "exl2-9bpw", "exl3-0.5bpw", "mlx-7bit-g32", "fp8-block-0x64", "q4_k_m"],
)
def test_names_of_no_checkpoint_format(name: str) -> None:
    assert scaled_format(name) is None


def test_unknown_formats_are_refused_with_near_names() -> None:
    with pytest.raises(UnknownNameError) as caught:
        list(stored_tensors(LLAMA, "gptq-4bit-g33"))

    assert "gptq-4bit-g32" in caught.value.hint


def test_what_a_release_stores_apart_is_cut_by_layer() -> None:
    apart = (
        StoredApart(format="kept", roles=("attention",), layers="0-1,31"),
        StoredApart(format="fp8", tensors=("ffn_down",)),
    )
    release = LLAMA.model_copy(update={"checkpoint_format": "nvfp4", "stored_apart": apart})
    counts: dict[tuple[str, str], int] = {}
    for tensor in stored_tensors(release, "nvfp4"):
        key = (tensor.name, tensor.storage)
        counts[key] = counts.get(key, 0) + tensor.n_elements

    assert counts["attn_q", "bf16"] == 3 * 4096 * 4096
    assert counts["attn_q", "nvfp4"] == 29 * 4096 * 4096
    assert counts["ffn_down", "fp8"] == 32 * 4096 * 14336
    assert sum(counts.values()) == 8_030_261_248
    assert {t.storage for t in stored_tensors(release, "awq-4bit")} == {"bf16", "awq-4bit"}  # not the release's format


def test_an_exception_in_no_format_is_refused() -> None:
    broken = StoredApart(format="q9", roles=("head",))
    release = LLAMA.model_copy(update={"checkpoint_format": "fp8", "stored_apart": (broken,)})

    with pytest.raises(UnknownNameError, match="q9"):
        list(stored_tensors(release, "fp8"))


@given(name=st.sampled_from((*EXAMPLES, "bf16", "q4_k_m", "iq2_xxs", "attn=q6_k,mlp=q4_k,embed=q8_0")))
def test_roles_and_storage_types_both_sum_to_the_file(name: str) -> None:
    report = weights_report(QWEN, name)

    assert sum(part.n_bytes for part in report.parts) == sum(t.n_bytes for t in report.by_storage) == report.n_bytes
    assert report.low_bytes <= report.n_bytes <= report.high_bytes
    assert report.bits_per_weight == pytest.approx(8 * report.n_bytes / report.n_elements, abs=1e-4)


@pytest.mark.parametrize(
    ("model", "name", "basis", "varies"),
    [
        ("qwen3-30b-a3b", "bf16", "exact", False),
        ("qwen3-30b-a3b", "q4_k_m", "exact", False),
        ("qwen3-30b-a3b", "q4_0", "exact", True),
        ("qwen3-30b-a3b", "iq3_xxs", "exact", True),
        ("qwen3-30b-a3b", "fp8-block", "derived", False),
        ("qwen3-30b-a3b-fp8", "fp8-block", "exact", False),
        ("qwen3-30b-a3b", "exl3-3.5bpw", "derived", False),
    ],
)
def test_how_sure_the_bytes_are(model: str, name: str, basis: str, varies: bool) -> None:
    report = weights_report(model_registry().resolve(model), name)

    assert report.basis == basis
    assert (report.low_bytes < report.high_bytes) is varies
