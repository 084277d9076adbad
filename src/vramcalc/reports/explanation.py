"""The textbook's arithmetic beside the true one, which needs no GPU."""

from typing import Any

from msgspec import Struct, to_builtins

from vramcalc.formulas.inventory import n_parameters
from vramcalc.formulas.kv_cache import cached_row_elements
from vramcalc.specs.formats import F16
from vramcalc.specs.model import GroupedQueryAttention, LatentAttention, ModelSpec, NoAttention


class Step(Struct, frozen=True):
    """One product: its symbols, the numbers put in, and the bytes."""

    name: str
    symbols: str
    numbers: str
    n_bytes: int


class TextbookReport(Struct, frozen=True):
    """The web pages' formula with all query heads, and what the model really caches."""

    model: str
    n_context: int
    n_sequences: int
    textbook: tuple[Step, ...]
    textbook_bytes: int
    true: tuple[Step, ...]
    true_bytes: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON holds it."""
        found: dict[str, Any] = to_builtins(self)
        return found


def textbook_report(
    model: ModelSpec, *, advertised_parameters: int, n_context: int, n_sequences: int
) -> TextbookReport:
    """Return both sums: nominal parameters at two bytes and KV with every query head, against the model as it is.

    Source of the textbook form: 2 x layers x heads x head_dim x sequence x batch x bytes, as web pages print it.
    """
    heads, head_dim = _naive_heads(model)
    layers, n_bytes = model.layers.n_layers, F16.block_bytes
    naive = Step(
        "KV cache",
        "2 x layers x heads x head_dim x sequence x batch x bytes",
        f"2 x {layers} x {heads} x {head_dim} x {n_context} x {n_sequences} x {n_bytes}",
        2 * layers * heads * head_dim * n_context * n_sequences * n_bytes,
    )
    weights = Step(
        "FP16 weights",
        "advertised parameters x bytes",
        f"{advertised_parameters / 1e9:g}e9 x {n_bytes}",
        advertised_parameters * n_bytes,
    )
    true_weights = Step(
        "FP16 weights",
        "parameters x bytes",
        f"{n_parameters(model):,} x {n_bytes}",
        n_parameters(model) * n_bytes,
    )
    true = (true_weights, *_true_cache(model, n_context, n_sequences))
    return TextbookReport(
        model=model.id,
        n_context=n_context,
        n_sequences=n_sequences,
        textbook=(weights, naive),
        textbook_bytes=weights.n_bytes + naive.n_bytes,
        true=true,
        true_bytes=sum(step.n_bytes for step in true),
        notes=_notes(model, heads),
    )


def _naive_heads(model: ModelSpec) -> tuple[int, int]:
    """Return query heads and their width, of the first layer that has any."""
    for kind in model.layers.kinds.values():
        match kind.attention:
            case LatentAttention(n_heads=heads, v_head_dim=width):
                return heads, width
            case NoAttention():
                continue
            case attention:
                return attention.n_heads, attention.head_dim
    return 0, 0


def _true_cache(model: ModelSpec, n_context: int, n_sequences: int) -> tuple[Step, ...]:
    steps = []
    order = model.layers.order()
    for name, kind in model.layers.kinds.items():
        k, v = cached_row_elements(kind.attention)
        window = getattr(kind.attention, "window", n_context)
        tokens, n_layers = min(n_context, window), order.count(name)
        steps.append(
            Step(
                f"KV cache, {kind.attention.kind} attention",
                "layers x (K + V elements of a token) x tokens kept x sequences x bytes",
                f"{n_layers} x ({k} + {v}) x {tokens} x {n_sequences} x {F16.block_bytes}",
                n_layers * (k + v) * tokens * n_sequences * F16.block_bytes,
            )
        )
    return tuple(steps)


def _notes(model: ModelSpec, heads: int) -> tuple[str, ...]:
    attention = next(iter(model.layers.kinds.values())).attention
    if not isinstance(attention, GroupedQueryAttention):
        return ("latent attention caches one compressed row per token, not K and V of every head",)
    if attention.n_kv_heads == heads:
        return ()
    times = heads // attention.n_kv_heads
    return (f"{heads} query heads share {attention.n_kv_heads} KV heads: the cache is {times} times smaller",)
