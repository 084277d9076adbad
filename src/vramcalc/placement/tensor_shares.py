"""What one rank of a tensor-parallel group holds of each tensor."""

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.formulas.inventory import Split, TensorGroup
from vramcalc.specs.model import Attention, CompressedAttention, LatentAttention, NoAttention
from vramcalc.units import ceil_div, round_up

VOCABULARY_MULTIPLE = 64  # rows of embedding and head are padded to it before they are split


class Heads(Struct, frozen=True):
    """Query and KV heads of a layer."""

    n_heads: int
    n_kv_heads: int

    @classmethod
    def of(cls, attention: Attention) -> "Heads":
        """Return the heads of an attention kind; latent and compressed attention have no KV heads to split."""
        if isinstance(attention, NoAttention):
            return cls(0, 0)
        if isinstance(attention, LatentAttention | CompressedAttention):
            return cls(attention.n_heads, 1)
        return cls(attention.n_heads, attention.n_kv_heads)

    def kv_on_rank(self, n_ranks: int) -> int:
        """Return the KV heads a rank keeps: at least one, so that ranks beyond the heads hold copies."""
        return max(1, self.n_kv_heads // n_ranks)


def on_rank(group: TensorGroup, heads: Heads | None, n_ranks: int, *, whole_experts: bool = False) -> TensorGroup:
    """Return the part of ``group`` that one of ``n_ranks`` tensor-parallel ranks holds.

    Shapes:
        column: rows over the ranks; heads stacked as copies (MLA's) go whole to a rank
        row: columns over the ranks
        KV heads: by head, one copy each where ranks outnumber them; a fused Q, K, V matrix part by part
        vocabulary: rows padded to 64, then over the ranks
        replicated: all, but for a tower's layers, which split evenly
        ``whole_experts``: each rank holds some experts in full instead of a part of each

    Source:
        vLLM 0.33, model_executor/layers/linear.py and vocab_parallel_embedding.py.
    """
    if (whole_experts and group.role == "experts") or _is_stacked_by_head(group):
        return replace(group, copies=ceil_div(group.copies, n_ranks))
    match group.split:
        case Split.COLUMN:
            return _with_rows(group, ceil_div(group.shape[0], n_ranks))
        case Split.ROW:
            return replace(group, shape=(*group.shape[:-1], ceil_div(group.shape[-1], n_ranks)))
        case Split.KV_HEADS:
            return _with_rows(group, _kv_rows(group, heads or Heads(1, 1), n_ranks))
        case Split.VOCABULARY:
            return _with_rows(group, ceil_div(round_up(group.shape[0], VOCABULARY_MULTIPLE), n_ranks))
        case Split.REPLICATED:
            return _tower_share(group, n_ranks)


def _is_stacked_by_head(group: TensorGroup) -> bool:
    return group.split is Split.COLUMN and group.copies > 1 and group.role == "attention"


def _with_rows(group: TensorGroup, rows: int) -> TensorGroup:
    return replace(group, shape=(rows, *group.shape[1:]))


def _kv_rows(group: TensorGroup, heads: Heads, n_ranks: int) -> int:
    rows = group.shape[0]
    if "qkv" in group.name:
        head_dim = rows // (heads.n_heads + 2 * heads.n_kv_heads)
        return (ceil_div(heads.n_heads, n_ranks) + 2 * heads.kv_on_rank(n_ranks)) * head_dim
    return rows // heads.n_kv_heads * heads.kv_on_rank(n_ranks)


def _tower_share(group: TensorGroup, n_ranks: int) -> TensorGroup:
    of_tower_layers = group.role == "vision" and group.is_matrix and group.copies > 1
    if of_tower_layers and group.shape[0] % n_ranks == 0:
        return _with_rows(group, group.shape[0] // n_ranks)
    return group
