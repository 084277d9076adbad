"""What TensorRT-LLM's PyTorch backend decides by version: the share of what is left, its defaults, its formats.

Source:
    NVIDIA/TensorRT-LLM, tensorrt_llm/commands/serve.py, llmapi/llm_args.py, _torch/pyexecutor/_util.py.
"""

from fractions import Fraction

from msgspec import Struct

from vramcalc.engines._serving.formats import FormatRules
from vramcalc.engines._serving.weights import Layout
from vramcalc.engines._vllm.rules import Capability

LEAST_CAPABILITY: Capability = (8, 0)  # Ampere, docs: support matrix
FREE_SHARE = Fraction(9, 10)
STEP_TOKENS, MAX_BATCH = 8192, 2048
GRAPH_BATCH = 128
# The 63.32 GB of gpt-oss-120b on GB10 and the 8.46 GB of Llama-3.1-8B in fp8: experts in 128s, no tables among them.
LAYOUT = Layout(expert_multiple=128, hidden_multiple=128, rope_tables=False)
FORMATS = FormatRules(
    engine="TensorRT-LLM",
    least={
        "fp8": (8, 9),
        "fp8-channel": (8, 9),
        "fp8-block": (8, 9),
        "awq-4bit": (8, 0),
        "gptq-4bit": (8, 0),
        "nvfp4": (10, 0),
        "mxfp4": (9, 0),
    },
    fp8_cache=(8, 9),
    fp8_names=frozenset({"fp8", "fp8_e4m3"}),
)


class RuleSet(Struct, frozen=True, kw_only=True):
    """What changed between releases; a release takes the nearest earlier set."""

    version: str
    block_tokens: int


# 64 tokens a block in logs of 0.17, 32 in logs from 0.20 to 1.2.
RULE_SETS = (
    RuleSet(version="0.17", block_tokens=64),
    RuleSet(version="0.20", block_tokens=32),
    RuleSet(version="1.2", block_tokens=32),
)


def graph_sizes(largest: int) -> int:
    """Return how many batch sizes are captured: 1, 2, 4, by 8 to 128, and powers of two beyond when asked for.

    Source:
        The 19 sizes of a 1.1 log: [1, 2, 4, 8, 16, 24 ... 128].
    """
    return len([size for size in (1, 2, 4, *range(8, GRAPH_BATCH + 1, 8)) if size <= max(1, largest)])
