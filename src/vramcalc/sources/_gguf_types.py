"""Numbers of the GGUF format and what they stand for.

Source: llama.cpp, ggml/include/ggml.h (tensor types), gguf.h (value types) and include/llama.h (file types).
"""

from collections.abc import Mapping

from vramcalc.specs.formats import GGML_STORED, BlockFormat

TENSOR_TYPES: Mapping[int, BlockFormat] = {
    number: GGML_STORED[name]
    for start, names in (
        (0, "f32 f16 q4_0 q4_1"),
        (6, "q5_0 q5_1 q8_0 q8_1 q2_k q3_k q4_k q5_k q6_k q8_k iq2_xxs iq2_xs iq3_xxs iq1_s iq4_nl iq3_s iq2_s iq4_xs"),
        (24, "i8 i16 i32 i64 f64 iq1_m bf16"),
        (34, "tq1_0 tq2_0"),
        (39, "mxfp4 nvfp4 q1_0"),
    )
    for number, name in enumerate(names.split(), start)
}
REMOVED_TYPES: Mapping[int, str] = {
    4: "q4_2",
    5: "q4_3",
    **dict(enumerate(("q4_0_4_4", "q4_0_4_8", "q4_0_8_8"), 31)),
    **dict(enumerate(("iq4_nl_4_4", "iq4_nl_4_8", "iq4_nl_8_8"), 36)),
}

# Numbers of value types to codes of ``struct``; 8 is text, 9 an array.
VALUE_CODES: Mapping[int, str] = {**dict(enumerate("BbHhIif?")), **dict(enumerate("Qqd", 10))}
TEXT, ARRAY = 8, 9
VALUE_NAMES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "text", "array", "u64", "i64", "f64")

FILE_TYPES: Mapping[int, str] = {
    number: name
    for start, names in (
        (0, "f32 f16 q4_0 q4_1"),
        (7, "q8_0 q5_0 q5_1 q2_k q3_k_s q3_k_m q3_k_l q4_k_s q4_k_m q5_k_s q5_k_m q6_k iq2_xxs iq2_xs q2_k_s iq3_xs"),
        (23, "iq3_xxs iq1_s iq4_nl iq3_s iq3_m iq2_s iq2_m iq4_xs iq1_m bf16"),
        (36, "tq1_0 tq2_0 mxfp4_moe nvfp4 q1_0"),
    )
    for number, name in enumerate(names.split(), start)
}
GUESSED_FILE_TYPE = 1024  # added where the writer was not sure
