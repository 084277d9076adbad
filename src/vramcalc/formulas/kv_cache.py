"""What one layer caches of its past, by kind of attention."""

from vramcalc.specs.formats import BlockFormat
from vramcalc.specs.model import (
    Attention,
    BidirectionalAttention,
    FullAttention,
    LatentAttention,
    SlidingAttention,
)


def cached_row_elements(attention: Attention) -> tuple[int, int]:
    """Return the elements of K and of V that one layer keeps of one token.

    Shapes:
        grouped query: K and V, each [n_kv_heads * head_dim]
        latent: one row [latent_dim + rope_dim], no V
        bidirectional: nothing

    Source:
        grouped query: arXiv:2305.13245; latent: arXiv:2405.04434.
    """
    match attention:
        case FullAttention() | SlidingAttention():
            width = attention.n_kv_heads * attention.head_dim
            return width, width
        case LatentAttention():
            return attention.latent_dim + attention.rope_dim, 0
        case BidirectionalAttention():
            return 0, 0


def kv_bytes_per_token(attention: Attention, k_format: BlockFormat, v_format: BlockFormat) -> int:
    """Return the bytes one layer caches of one token; each row is padded to whole blocks of its format.

    >>> from vramcalc.specs.formats import F16
    >>> kv_bytes_per_token(FullAttention(kind="full", n_heads=32, n_kv_heads=8, head_dim=128), F16, F16)
    4096
    """
    k, v = cached_row_elements(attention)
    return k_format.bytes_for(k) + v_format.bytes_for(v)


def window_of(attention: Attention) -> int | None:
    """Return how many past tokens a layer looks at, or None where all of them."""
    return attention.window if isinstance(attention, SlidingAttention) else None
