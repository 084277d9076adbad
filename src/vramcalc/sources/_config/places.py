"""What stands in one layer, and which layers have experts, by the rule of the dialect."""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.sources._config.dialect import MlpOrder
from vramcalc.sources._config.keys import Keys


class Place(Struct, frozen=True):
    """What stands in one layer: our names of its attention and MLP, and what differs from the other layers."""

    attention: str  # full, sliding, chunked, linear, hybrid, sparse, none
    mlp: str = "dense"  # dense, moe, hashed, none
    n_heads: int | None = None
    n_kv_heads: int | None = None
    head_dim: int | None = None
    ff_dim: int | None = None
    indexed: bool = True  # has an indexer of its own, where the dialect has indexers
    shares_cache: bool = False
    ratio: int | None = None
    n_norms: int | None = None


def _all(mlp: str) -> Callable[[Keys, list[Place]], list[Place]]:
    return lambda _, places: [replace(place, mlp=mlp) for place in places]


def _as_ordered(_: Keys, places: list[Place]) -> list[Place]:
    return places


def _with_experts(places: list[Place], where: Callable[[int], object]) -> list[Place]:
    return [replace(place, mlp="moe" if where(i) else "dense") for i, place in enumerate(places)]


def _moe(keys: Keys, places: list[Place]) -> list[Place]:
    return _with_experts(places, lambda _: keys.count("num_experts"))


def _first_dense(keys: Keys, places: list[Place]) -> list[Place]:
    n = len(places)
    frequency = keys.get("moe_layer_freq", 1)
    stated = keys.items("mlp_layer_types", n)
    if stated is not None:
        for kind in stated:
            if kind not in ("dense", "sparse"):
                raise keys.error("mlp_layer_types", f"has an unknown layer type: {kind!r:.80}")
        keys.ignore("first_k_dense_replace")
        return _with_experts(places, lambda i: stated[i] == "sparse")
    if isinstance(frequency, list):
        each: list[Any] = keys.items("moe_layer_freq", n) or []
        keys.ignore("first_k_dense_replace")
        return _with_experts(places, lambda i: each[i])
    first, every = keys.count("first_k_dense_replace"), keys.count("moe_layer_freq", 1)
    if not every:
        raise keys.error("moe_layer_freq", "is zero")
    return _with_experts(places, lambda i: i >= first and i % every == 0)


def _span(keys: Keys, places: list[Place]) -> list[Place]:
    """ERNIE 4.5: every so many layers from the first to the last with experts; -1 is the last of all."""
    every, first, last = keys.count("moe_layer_interval", 1), keys.count("moe_layer_start_index", 1), len(places) - 1
    if keys.get("moe_layer_end_index", -1) != -1:
        last = keys.count("moe_layer_end_index")
    if not every:
        raise keys.error("moe_layer_interval", "is zero")
    return _with_experts(places, lambda i: first <= i <= last and (i + 1) % every == 0)


def _sparse_step(keys: Keys, places: list[Place]) -> list[Place]:
    step, dense = keys.count("decoder_sparse_step", 1), keys.items("mlp_only_layers") or []
    has_experts = keys.count("num_experts") > 0
    return _with_experts(places, lambda i: has_experts and step and i not in dense and (i + 1) % step == 0)


def _interleaved(keys: Keys, places: list[Place]) -> list[Place]:
    step = keys.count("interleave_moe_layer_step", 1)
    stated = keys.items("moe_layers")
    if not step:
        raise keys.error("interleave_moe_layer_step", "is zero")
    chosen = range(step - 1, len(places), step) if stated is None else stated
    return _with_experts(places, lambda i: i in chosen)


def _hashed(keys: Keys, places: list[Place]) -> list[Place]:
    stated = keys.items("mlp_layer_types", len(places))
    n = keys.count("num_hash_layers", 3)
    if stated is not None:
        names = {"hash_moe": "hashed", "moe": "moe"}
        for kind in stated:
            if str(kind) not in names:
                raise keys.error("mlp_layer_types", f"has an unknown layer type: {kind!r:.80}")
        return [replace(place, mlp=names[kind]) for place, kind in zip(places, stated, strict=True)]
    return [replace(place, mlp="hashed" if i < n else "moe") for i, place in enumerate(places)]


MLPS: Mapping[MlpOrder, Callable[[Keys, list[Place]], list[Place]]] = {
    "dense": _all("dense"),
    "moe": _moe,
    "first_dense": _first_dense,
    "span": _span,
    "sparse_step": _sparse_step,
    "interleaved": _interleaved,
    "order": _as_ordered,
    "hashed": _hashed,
}
