"""What one layer keeps of its past: cached rows by kind of attention, a state of fixed size by kind of mixer."""

from msgspec import Struct

from vramcalc.specs.formats import BlockFormat
from vramcalc.specs.model import (
    Attention,
    BidirectionalAttention,
    ChunkedAttention,
    CompressedAttention,
    FullAttention,
    GatedDelta,
    KimiDelta,
    LatentAttention,
    Mamba1,
    Mamba2,
    Mixer,
    NoAttention,
    ShortConv,
    SlidingAttention,
)


def cached_row_elements(attention: Attention) -> tuple[int, int]:
    """Return the elements of K and of V that one layer keeps of one token.

    Shapes:
        grouped query: K [n_kv_heads * head_dim] and V [n_kv_heads * value_dim]; nothing where another's are shared
        latent: one row [latent_dim + rope_dim], no V
        compressed: one row [head_dim] that is K and V, for the tokens of the window
        bidirectional, none: nothing

    Not in it: an indexer's keys (``indexer_row_elements``) and compressed rows (``compressed_rows``).

    Source:
        grouped query: arXiv:2305.13245; latent: arXiv:2405.04434.
    """
    match attention:
        case FullAttention() | SlidingAttention() | ChunkedAttention():
            if attention.shares_cache:
                return 0, 0
            return attention.n_kv_heads * attention.head_dim, attention.n_kv_heads * attention.value_dim
        case LatentAttention():
            return attention.latent_dim + attention.rope_dim, 0
        case CompressedAttention():
            return attention.head_dim, 0
        case BidirectionalAttention() | NoAttention():
            return 0, 0


def indexer_row_elements(attention: Attention) -> int:
    """Return the elements of the key that a layer's indexer keeps of one token, or of one compressed row."""
    if isinstance(attention, NoAttention) or attention.indexer is None:
        return 0
    return attention.indexer.head_dim


class CompressedRows(Struct, frozen=True):
    """Rows kept for the whole past, one per ``ratio`` tokens."""

    ratio: int
    row_elements: int  # K and V in one
    indexer_elements: int


def compressed_rows(attention: Attention) -> CompressedRows | None:
    """Return the compressed rows of a layer, or None where it keeps none."""
    if not isinstance(attention, CompressedAttention) or attention.ratio is None:
        return None
    return CompressedRows(attention.ratio, attention.head_dim, indexer_row_elements(attention))


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
    match attention:
        case SlidingAttention() | CompressedAttention():
            return attention.window
        case ChunkedAttention():
            return attention.chunk
        case _:
            return None


class StateElements(Struct, frozen=True):
    """What a mixer keeps of one sequence, however long."""

    conv: int  # the last inputs of the convolution
    recurrent: int


def state_elements(mixer: Mixer | None) -> StateElements:
    """Return the elements of state that one layer keeps of one sequence.

    Shapes:
        mamba1: conv [conv_kernel - 1, inner_dim], recurrent [inner_dim, state_dim]
        mamba2: conv [conv_kernel - 1, inner_dim + 2 * n_groups * state_dim], recurrent [n_heads, head_dim, state_dim]
        gated_delta: conv [conv_kernel - 1, 2 * keys + values], recurrent [n_value_heads, value_dim, key_dim]
        kimi_delta: conv [conv_kernel - 1, 3 * inner], recurrent [n_heads, head_dim, head_dim]
        short_conv: conv [conv_kernel - 1, inner_dim]

    Source:
        vLLM 0.33, model_executor/layers/mamba/mamba_utils.py; llama.cpp, src/llama-hparams.cpp. transformers keeps
        conv_kernel inputs, one more.

    >>> state_elements(Mamba2(kind="mamba2", n_heads=80, head_dim=64, n_groups=1, state_dim=128, conv_kernel=4))
    StateElements(conv=16128, recurrent=655360)
    """
    match mixer:
        case Mamba1():
            return StateElements((mixer.conv_kernel - 1) * mixer.inner_dim, mixer.inner_dim * mixer.state_dim)
        case Mamba2():
            convolved = mixer.inner_dim + 2 * mixer.n_groups * mixer.state_dim
            return StateElements((mixer.conv_kernel - 1) * convolved, mixer.inner_dim * mixer.state_dim)
        case GatedDelta():
            values = mixer.n_value_heads * mixer.value_dim
            convolved = 2 * mixer.n_key_heads * mixer.key_dim + values
            return StateElements((mixer.conv_kernel - 1) * convolved, values * mixer.key_dim)
        case KimiDelta():
            inner = mixer.n_heads * mixer.head_dim
            return StateElements((mixer.conv_kernel - 1) * 3 * inner, inner * mixer.head_dim)
        case ShortConv():
            return StateElements((mixer.conv_kernel - 1) * mixer.inner_dim, 0)
        case None:
            return StateElements(0, 0)
