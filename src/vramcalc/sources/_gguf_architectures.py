"""llama.cpp's architectures: what of a model neither the keys nor the tensors of a GGUF tell.

Source:
    llama.cpp 0c1e570, src/llama-arch.cpp (names) and src/models/ (which layers attend to a window alone).
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct


class Architecture(Struct, frozen=True, kw_only=True):
    """One architecture.

    ``window``: "unread" where the engine passes over the window a file states; else windows are read, by the file's own
    pattern, or with every ``period``-th layer full.
    """

    family: str
    window: Literal["unread", "read"] = "unread"
    period: int = 1
    chunk: int | None = None  # tokens of a chunk, where local layers attend to chunks
    shares_values: bool = False  # a layer without values takes its keys for them
    is_encoder: bool = False


def _plain(family: str, names: str) -> dict[str, Architecture]:
    return {name: Architecture(family=family) for name in names.split()}


def _sliding(family: str, name: str, period: int) -> dict[str, Architecture]:
    return {name: Architecture(family=family, window="read", period=period)}


ARCHITECTURES: Mapping[str, Architecture] = {
    **_plain("llama", "llama deci"),
    "llama4": Architecture(family="llama", period=4, chunk=8192),
    **_plain("mistral", "mistral3"),
    **_plain("qwen2", "qwen2 qwen2moe qwen2vl"),
    **_plain("qwen3", "qwen3 qwen3moe qwen3vl qwen3vlmoe"),
    **_plain("qwen3-next", "qwen3next"),
    **_plain("qwen3.5", "qwen35 qwen35moe"),
    **_plain("gemma", "gemma"),
    **_sliding("gemma", "gemma2", 2),
    **_sliding("gemma", "gemma3", 6),
    "gemma4": Architecture(family="gemma", window="read", period=6, shares_values=True),
    **_plain("phi", "phi3 phimoe"),
    **_sliding("gpt-oss", "gpt-oss", 2),
    **_plain("deepseek", "deepseek deepseek2"),
    **_plain("glm", "glm4 glm4moe glm-dsa"),
    **_plain("minimax", "minimax-m2"),
    **_sliding("olmo", "olmo2", 4),
    **_plain("olmo", "olmo olmoe"),
    **_plain("smollm", "smollm3"),
    **_plain("seed", "seed_oss"),
    **_plain("stablelm", "stablelm"),
    **_plain("gpt-neox", "gptneox"),
    **_plain("granite", "granite granitemoe granitehybrid"),
    **_plain("mamba", "mamba mamba2"),
    **_plain("jamba", "jamba"),
    **_plain("falcon", "falcon-h1"),
    **_plain("nemotron", "nemotron_h nemotron_h_moe"),
    **_plain("kimi", "kimi-linear"),
    **_sliding("cohere", "cohere2", 4),
    **_sliding("exaone", "exaone4", 4),
    **_plain("exaone", "exaone"),
    **_plain("ernie", "ernie4_5 ernie4_5-moe"),
    **_plain("hunyuan", "hunyuan-dense hunyuan-moe"),
    **_plain("internlm", "internlm2"),
    "bert": Architecture(family="bert", is_encoder=True),
}

PROJECTOR = "clip"  # towers beside a model, in a file of their own
NOT_MODELS: Mapping[str, str] = {
    "adapter": "an adapter: name it beside its model, with --lora",
    "imatrix": "an importance matrix, not a model",
}
