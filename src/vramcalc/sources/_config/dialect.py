"""What a dialect of config.json can say of itself."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field

Order = Literal[
    "uniform",
    "bidirectional",
    "types",
    "window",
    "upper_window",
    "blocks",
    "nemotron",
    "periods",
    "kimi",
    "compressed",
    "listed",
]
MlpOrder = Literal["dense", "moe", "first_dense", "span", "sparse_step", "interleaved", "order", "hashed"]
Names = dict[str, str]


def words(text: str) -> frozenset[str]:
    """Return the keys written in a text, blanks between them."""
    return frozenset(text.split())


class Dialect(Struct, frozen=True, kw_only=True):
    """What a model type means beyond its keys. A trait that is a text names the key that decides it."""

    family: str
    names: Names = field(default_factory=dict)  # ours -> the dialect's
    defaults: Mapping[str, object] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    must_be_off: tuple[str, ...] = ()  # shapes we do not know
    must_be: Mapping[str, object] = field(default_factory=dict)  # the one value whose shape we know, where it is stated
    repeats: Names = field(default_factory=dict)  # keys that say again what another says -> our name of the other
    tied: bool = False  # unless tie_word_embeddings says otherwise
    norm: Literal["rms", "layer"] = "rms"
    n_norms: int | str = 2
    n_norms_first: int | None = None  # of the first layer, where it has fewer
    final_norm: bool = True
    has_head: bool = True
    head_bias: bool | str = False
    restate: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None  # the same keys as other dialects state them
    extras: Callable[[Mapping[str, Any]], Sequence[dict[str, Any]]] | None = None  # tensors outside the layers
    layer_order: Order = "uniform"
    local: str = "sliding_attention"  # what stands between full layers where an interval says so
    interval: tuple[str, int] | None = None  # its key and the class's own
    attention: Literal["grouped", "latent", "compressed"] = "grouped"
    qkv_bias: bool | str = False
    output_bias: bool | str = False
    qk_norm: Literal["none", "per_head", "whole"] = "none"
    qk_norm_key: str | None = None  # only where it is true
    sinks: bool = False
    fused: bool = False
    fused_mlp: bool = False  # gate and up alone
    mha: bool = False  # as many KV heads as heads where the config states none; the other classes have a number
    output_gate: Literal["none", "in_query", "per_head", "whole"] = "none"
    gguf_window: bool = True
    indexer: bool = False
    mixer: Literal["none", "mamba1", "mamba2", "gated_delta", "kimi_delta", "short_conv"] = "none"
    mixer_norms: bool = False  # mamba1's inner norms
    mlp: Literal["gated", "plain"] = "gated"
    mlp_bias: bool | str = False
    mlp_order: MlpOrder = "dense"
    shared: Literal["none", "count", "width"] = "none"
    shared_gate: bool = False
    gated_experts: bool = True
    expert_bias: bool = False
    router_bias: Literal["none", "parameter", "buffer"] = "none"
    next_tokens: tuple[str, Literal["last", "full", "unknown"]] | None = None  # key, and what such a layer is
    output_scale: bool = False
    active_leaves_out: tuple[str, ...] | None = None  # what the publisher's number of active parameters is without
    rope_f32: bool = False
    has_rope: bool = True


class Envelope(Struct, frozen=True, kw_only=True):
    """A model type whose config nests that of its text model, with a tower beside."""

    text: str
    tower: str = ""  # empty: no vision tower
    audio_tower: str | None = None
    tied: bool = False
    ties: Literal["top", "text", "either"] = "text"  # whose flag counts; text: its own where the top has none
    any_text: bool = False  # the text section names its own type
    harmless: frozenset[str] = frozenset()
    tower_defaults: Mapping[str, object] | None = None  # of a class that builds its tower without being told to
    text_names: Names = field(default_factory=dict)
