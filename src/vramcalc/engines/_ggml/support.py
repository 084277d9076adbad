"""Which recurrent models the compute graph is known for: those whose graph is measured, and none by likeness.

Source: llama.cpp 0c1e570, src/models/mamba.cpp, granite-hybrid.cpp, qwen3next.cpp, qwen35.cpp and qwen35moe.cpp.
"""

from collections.abc import Iterator

from vramcalc.errors import RefusedError
from vramcalc.specs.model import (
    FullAttention,
    GatedDelta,
    LayerKind,
    Mamba2,
    ModelSpec,
    MoeMlp,
    NoAttention,
    NoMlp,
    SlidingAttention,
)

HANDLES = frozenset(  # of ModelSpec.features(); ``refuse_unknown`` looks closer
    {
        "audio tower",  # in a file of its own
        "gated attention output",
        "gated shared experts",
        "layers without MLP",
        "layers without attention",
        "recurrent state",
    }
)


def refuse_unknown(model: ModelSpec, engine: str) -> None:
    """Raise ``RefusedError`` where a layer's recurrent part, or what goes with it, has no measured graph."""
    kinds = tuple(model.layers.kinds.values())
    beyond = sorted({reason for kind in kinds for reason in _beyond(kind, kinds)})
    if beyond:
        raise RefusedError(
            f"{model.name} has {' and '.join(beyond)}, which is not modelled for {engine} yet",
            f"`vramcalc explain weights -m {model.id}` answers for its weights",
        )


def _beyond(kind: LayerKind, kinds: tuple[LayerKind, ...]) -> Iterator[str]:
    yield from _beyond_mixing(kind, is_hybrid=any(other.mixer is not None for other in kinds))
    if isinstance(kind.mlp, NoMlp) and not all(isinstance(other.mlp, NoMlp) for other in kinds):
        yield "layers without MLP beside others with one"
    yield from _beyond_gates(kind, is_delta=any(isinstance(other.mixer, GatedDelta) for other in kinds))


def _beyond_mixing(kind: LayerKind, *, is_hybrid: bool) -> Iterator[str]:
    attention, mixer = kind.attention, kind.mixer
    if mixer is None:
        if isinstance(attention, NoAttention):
            yield "layers of an MLP alone"
        elif is_hybrid and not isinstance(attention, FullAttention):
            yield f"{attention.kind} attention beside recurrent layers"
    elif not isinstance(attention, NoAttention):
        yield "attention and a recurrent mixer in one layer"
    elif not isinstance(mixer, Mamba2 | GatedDelta):
        yield f"{mixer.kind} layers"
    elif isinstance(mixer, Mamba2) and (mixer.bias or not mixer.conv_bias or not mixer.norm):
        yield "mamba2 layers with a bias of their own, or without a norm"


def _beyond_gates(kind: LayerKind, *, is_delta: bool) -> Iterator[str]:
    attention, mlp = kind.attention, kind.mlp
    if isinstance(mlp, MoeMlp) and mlp.shared_gate and not is_delta:
        yield "gated shared experts without gated delta nets"
    if isinstance(attention, FullAttention | SlidingAttention):
        expected = "in_query" if is_delta else "none"
        if attention.output_gate not in ("none", expected):
            yield "gated attention output without gated delta nets"
        elif attention.output_gate != expected:
            yield "attention without an output gate beside gated delta nets"
