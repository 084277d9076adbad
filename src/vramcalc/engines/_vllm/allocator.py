"""What PyTorch's caching allocator holds for the tensors of a rank: the figure behind "Model loading took".

Source:
    PyTorch, c10/cuda/CUDACachingAllocator.cpp: sizes are multiples of 512 bytes; up to 1 MiB come out of segments that
    waste nothing; up to 10 MiB out of segments of 20 MiB, more out of segments of their own in steps of 2 MiB; a free
    block is cut only where more than 1 MiB of it stays, and the best fit is taken.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from vramcalc.formulas.inventory import TensorGroup
from vramcalc.units import MIB, round_up

_GRAIN_BYTES = 512
_SMALL_BYTES = MIB
_OWN_SEGMENT_BYTES = 10 * MIB
_SHARED_SEGMENT_BYTES = 20 * MIB
_SEGMENT_STEP_BYTES = 2 * MIB
_QKV_AND_OUTPUT = 4
_TOWERS = frozenset({"vision", "projector"})

# Matrices of a checkpoint that one matrix of the engine's classes holds.
_FUSED = {
    "attn_q": "attn_qkv",
    "attn_k": "attn_qkv",
    "attn_v": "attn_qkv",
    "attn_q_a": "attn_qkv_a",
    "attn_kv_a_mqa": "attn_qkv_a",
    "attn_k_b": "attn_kv_b",
    "attn_v_b": "attn_kv_b",
    "attn_gate": "attn_qkv",
    "ffn_gate": "ffn_up",
    "ffn_gate_exps": "ffn_up_exps",
    "ffn_gate_shexp": "ffn_up_shexp",
    "ssm_alpha": "ssm_ba",
    "ssm_beta": "ssm_ba",
}


class Held(Struct, frozen=True):
    """A rank's share of a group: bytes of elements, scales and zeros in one layer (or in all), and on which stages."""

    share: TensorGroup
    parts: Sequence[int]
    times: Sequence[int]


def allocated_bytes(requests: Iterable[int]) -> int:
    """Return what the allocator counts as taken once tensors of these bytes are allocated in turn.

    >>> allocated_bytes([3 * MIB]) // MIB  # the rest of the segment stays free
    3
    >>> allocated_bytes([12 * MIB - 4096]) // MIB  # too little stays to be cut off
    12
    """
    free: list[int] = []
    taken = 0
    for request in requests:
        size = round_up(request, _GRAIN_BYTES)
        if size > _SMALL_BYTES:
            at = bisect_left(free, size)
            block = free.pop(at) if at < len(free) else _segment_bytes(size)
            if block - size > _SMALL_BYTES:
                insort(free, block - size)
            else:
                size = block
        taken += size
    return taken


def _segment_bytes(size: int) -> int:
    return _SHARED_SEGMENT_BYTES if size < _OWN_SEGMENT_BYTES else round_up(size, _SEGMENT_STEP_BYTES)


def rounding_bytes(held: Sequence[Held], stage: int, layers: range, tables: Sequence[int]) -> int:
    """Return what the allocator adds to the tensors of a rank of ``stage``, which holds ``layers``.

    Tensors are allocated in the order of the model's classes: towers, embedding, layer by layer, norm and head.
    """
    outside = [one for one in held if not one.share.layers and one.times[stage]]
    towers = [one for one in outside if one.share.role in _TOWERS]
    ends = [one for one in outside if one.share.role not in _TOWERS]
    first = [one for one in ends if one.share.role == "embedding"]
    last = [one for one in ends if one.share.role != "embedding"]
    requests = [*_tower_requests(towers), *_requests(first), *tables]
    requests += _layer_requests([one for one in held if one.share.layers], layers)
    requests += _requests(last)
    return allocated_bytes(requests) - sum(requests)


def _layer_requests(held: Iterable[Held], layers: range) -> Iterator[int]:
    kinds: dict[tuple[int, ...], list[Held]] = {}
    for one in held:
        kinds.setdefault(one.share.layers, []).append(one)
    requests = {layer: one for numbers, group in kinds.items() for one in [_requests(group)] for layer in numbers}
    for layer in layers:
        yield from requests.get(layer, ())


def _tower_requests(towers: Iterable[Held]) -> Iterator[int]:
    """Yield a tower's tensors layer by layer; of four equal attention matrices three are one."""
    held = list(towers)
    n_layers = min((one.share.copies for one in held if one.share.copies > 1 and one.share.is_matrix), default=1)
    for one in held:
        if one.share.copies == 1:
            yield from one.parts
    for _ in range(n_layers if n_layers > 1 else 0):
        for one in held:
            n = one.share.copies // n_layers
            each = sum(one.parts) // one.share.copies
            if n == _QKV_AND_OUTPUT and one.share.is_matrix:
                yield 3 * each
                yield each
            else:
                yield from [each] * n


def _requests(held: Iterable[Held]) -> list[int]:
    """Return the tensors' bytes: what the engine fuses as one, scales and zeros apart from the elements."""
    fused: dict[tuple[str, int], int] = {}
    for one in held:
        stem, dot, kind = one.share.name.partition(".")
        name = _FUSED.get(stem, stem) + dot + kind
        for part, n_bytes in enumerate(one.parts):
            fused[name, part] = fused.get((name, part), 0) + n_bytes
    return [n_bytes for n_bytes in fused.values() if n_bytes]
