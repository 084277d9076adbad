"""The token pool: what the static share leaves, split over full, windowed and recurrent layers.

Source:
    SGLang 0.5.23, srt/mem_cache/kv_cache_configurator.py, srt/model_executor/pool_configurator.py.
"""

from fractions import Fraction

from msgspec import Struct

from vramcalc.engines._sglang.rules import STATE_RATIO, SWA_FULL_RATIO
from vramcalc.units import ceil_div

_REQUESTS_LEAST, _REQUESTS_MOST, _REQUESTS_PER_CONTEXT = 2048, 4096, 512
_EXTRA_TOKENS = 4  # columns of the request table beyond the context
_INDEX_BYTES = 4


class Cells(Struct, frozen=True, kw_only=True):
    """Bytes of one token on a rank of one stage, and of one recurrent state of a sequence."""

    full_bytes: int
    windowed_bytes: int  # of the layers that get a pool of their own
    state_bytes: int
    page_tokens: int

    @property
    def token_bytes(self) -> Fraction:
        """Bytes of a token of the pool: a windowed layer holds 0.8 of one."""
        return self.full_bytes + SWA_FULL_RATIO * self.windowed_bytes

    def state_slots(self, room_bytes: int) -> int:
        """Return the recurrent states the pool takes of ``room_bytes``, its padding slot apart."""
        if not self.state_bytes:
            return 0
        share = room_bytes * STATE_RATIO / (1 + STATE_RATIO)
        return max(0, int((share - self.state_bytes) // self.state_bytes))

    def state_pool_bytes(self, slots: int) -> int:
        """Return what ``slots`` states and the padding slot take."""
        return (slots + 1) * self.state_bytes if self.state_bytes else 0

    def tokens(self, room_bytes: int) -> int:
        """Return ``max_total_num_tokens``: whole pages of what the states leave of ``room_bytes``."""
        left = room_bytes - self.state_pool_bytes(self.state_slots(room_bytes))
        if left <= 0 or not self.token_bytes:
            return 0
        return int(left // self.token_bytes) // self.page_tokens * self.page_tokens

    def load_tokens(self, n_sequences: int, n_context: int) -> int:
        """Return the tokens of a load: whole pages of each sequence."""
        return n_sequences * ceil_div(n_context, self.page_tokens) * self.page_tokens


def most_requests(tokens: int, n_context: int, asked: int | None) -> int:
    """Return ``max_running_requests``: as asked, else 2048 to 4096 by the pool; never above half its tokens."""
    usual = min(_REQUESTS_MOST, max(_REQUESTS_LEAST, tokens * _REQUESTS_PER_CONTEXT // n_context))
    return min(usual if asked is None else asked, tokens // 2)


def request_table(requests: int, n_context: int) -> tuple[str, dict[str, int], int]:
    """Return formula, values and bytes of the table that maps each request's tokens to the pool."""
    values = {
        "requests": requests,
        "padding_row": 1,
        "n_context": n_context,
        "extra_tokens": _EXTRA_TOKENS,
        "index_bytes": _INDEX_BYTES,
    }
    formula = "(requests + padding_row) * (n_context + extra_tokens) * index_bytes"
    return formula, values, (requests + 1) * (n_context + _EXTRA_TOKENS) * _INDEX_BYTES
