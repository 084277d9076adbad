"""What a file holds under each format of checkpoints and other runtimes."""

import pytest

from vramcalc.formulas.weights import stored_tensors
from vramcalc.sources.registry import model_registry

LLAMA = model_registry().resolve("llama-3.1-8b")
LINEAR = 6_979_321_856  # 32 * (4096*4096*2 + 2*1024*4096 + 3*4096*14336)
KEPT = 2 * (8_030_261_248 - LINEAR)  # embedding, head and norms in 16 bit


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
        pytest.param("fp8-block", KEPT + LINEAR + LINEAR // 128 // 128 * 4, id="1 byte + 4 per 128 x 128"),
    ],
)
def test_bytes_of_llama_3_1_8b(weight_format: str, n_bytes: int) -> None:
    assert sum(tensor.n_bytes for tensor in stored_tensors(LLAMA, weight_format)) == n_bytes


def test_llm_int8_keeps_a_float_per_row() -> None:
    tensors = {t.name: t for t in stored_tensors(LLAMA, "llm-int8")}

    assert tensors["attn_q"].n_bytes == 32 * (4096 * 4096 + 4096 * 4)
    assert tensors["output"].storage == "bf16"
