"""Which kind of layer stands where, by the rule of the dialect."""

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from vramcalc.sources._config.dialect import Dialect, Order
from vramcalc.sources._config.keys import Keys
from vramcalc.sources._config.places import MLPS, Place

_TYPES = {  # as configs call them -> as we do
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
    "conv": "linear",
    "mamba": "linear",
    "minimax_m3_sparse": "sparse",
    "hybrid": "hybrid",
}
_NEMOTRON_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_DECI_MULTIPLE = 256
_RATIOS = {0: None, 4: 4, 128: 128}
_COMPRESSED = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
_INDEXED = ("deepseek_sparse_attention", "indexed_attention")


def layer_places(keys: Keys, dialect: Dialect) -> list[Place]:
    """Return what stands in each layer."""
    if dialect.layer_order == "nemotron":
        return _nemotron(keys)
    n_layers = keys.count("num_hidden_layers")
    if not 0 < n_layers <= 4096:  # noqa: PLR2004 - as LayerStack has it
        raise keys.error("num_hidden_layers", f"is no number of layers: {n_layers}")
    places = _ORDERS[dialect.layer_order](keys, dialect, n_layers)
    return MLPS[dialect.mlp_order](keys, places)


def _typed(keys: Keys, key: str, value: object) -> str:
    if not isinstance(value, str) or value not in _TYPES:
        raise keys.error(key, f"has an unknown layer type: {value!r:.80}")
    return _TYPES[value]


def _uniform(keys: Keys, dialect: Dialect, n: int) -> list[Place]:
    if dialect.indexer:
        return _indexed(keys, n)
    match dialect.local:
        case "linear_attention":
            return [Place("linear", "none") for _ in range(n)]
        case "hybrid":
            return [Place("hybrid") for _ in range(n)]
        case _:
            return [Place("full") for _ in range(n)]


def _bidirectional(_: Keys, dialect: Dialect, n: int) -> list[Place]:
    return [Place("bidirectional", n_norms=None if i else dialect.n_norms_first) for i in range(n)]


def _indexed(keys: Keys, n: int) -> list[Place]:
    types = keys.items("indexer_types", n) or ["full"] * n
    for kind in types:
        if kind not in ("full", "shared"):
            raise keys.error("indexer_types", f"has an unknown layer type: {kind!r:.80}")
    for kind in keys.items("layer_types", n) or []:
        if kind not in _INDEXED:
            raise keys.error("layer_types", f"has an unknown layer type: {kind!r:.80}")
    return [Place("full", indexed=kind == "full") for kind in types]


def _types(keys: Keys, dialect: Dialect, n: int) -> list[Place]:
    key, every = dialect.interval or ("", 0)
    stated = keys.items("layer_types", n)
    interval = keys.count(key, every) if key else 0
    ropes = keys.items("no_rope_layers", n) if "no_rope_layers" in keys else None
    if stated is not None:
        keys.ignore("_sliding_window_pattern")
    elif ropes is not None:  # Llama 4: layers without rope see everything
        stated = [dialect.local if rope else "full_attention" for rope in ropes]
    else:
        sparse = keys.section("sparse_attention_config") if "sparse_attention_config" in keys else None
        if sparse is not None:
            return _sparse(sparse, n)
        if not interval:
            raise keys.error("layer_types", "is missing")
        stated = [dialect.local if (i + 1) % interval else "full_attention" for i in range(n)]
    shared = keys.count("num_kv_shared_layers", 0)
    places = [Place(_typed(keys, "layer_types", t), shares_cache=i >= n - shared) for i, t in enumerate(stated)]
    return _with_own_shapes(keys, places)


def _with_own_shapes(keys: Keys, places: list[Place]) -> list[Place]:
    """Return the layers with what ``per_layer_config``, by index, says of their attention."""
    own = keys.section("per_layer_config")
    for index in own.names():
        if not index.isdecimal() or int(index) >= len(places):
            raise own.error(index, "is no layer")
        section, i = own.section(index), int(index)
        heads, kv_heads, dim = (
            section.count(key) if key in section else None
            for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
        )
        section.check_all_known()
        places[i] = replace(places[i], n_heads=heads, n_kv_heads=kv_heads, head_dim=dim)
    return places


def _sparse(section: Keys, n: int) -> list[Place]:
    where = section.items("sparse_attention_freq", n)
    if not section.flag("use_sparse_attention", default=True) or where is None:
        raise section.error("sparse_attention_freq", "is missing")
    return [Place("sparse" if sparse else "full") for sparse in where]


def _window(keys: Keys, _: Dialect, n: int) -> list[Place]:
    return [Place("sliding" if keys.get("sliding_window") else "full") for _ in range(n)]


def _upper_window(keys: Keys, dialect: Dialect, n: int) -> list[Place]:
    if keys.items("layer_types") is not None:
        keys.ignore("use_sliding_window", "sliding_window", "max_window_layers")
        return _types(keys, dialect, n)
    first = keys.count("max_window_layers", n)
    if not keys.flag("use_sliding_window") or not keys.get("sliding_window"):
        return [Place("full") for _ in range(n)]
    return [Place("sliding" if i >= first else "full") for i in range(n)]


def _blocks(keys: Keys, _: Dialect, n: int) -> list[Place]:
    """DeciLM: heads and widths of each layer.

    Source: modeling_decilm.py, _ffn_mult_to_intermediate_size and _find_multiple.
    """
    hidden, n_heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    keys.ignore("num_key_value_heads", "intermediate_size")
    places = []
    for block in keys.items("block_configs", n) or []:
        both = Keys(block if isinstance(block, dict) else {}, f"{keys.where}: block_configs")
        attention, ffn = both.section("attention"), both.section("ffn")
        both.check_all_known()
        for section in (attention, ffn):
            for key in ("replace_with_linear", "unshifted_sink", "use_prefill_window_in_sink_attention"):
                if section.flag(key):
                    raise section.error(key, "is true, a shape that is not known")
        no_attention, no_ffn = attention.flag("no_op"), ffn.flag("no_op")
        group = 1 if no_attention else attention.count("n_heads_in_group")
        if not group:
            raise attention.error("n_heads_in_group", "is zero")
        kv_heads = None if no_attention else n_heads // group
        ff = None
        if not no_ffn:
            ff = int(2 * ffn.number("ffn_mult", 0) * hidden / 3)
            ff = -(-ff // _DECI_MULTIPLE) * _DECI_MULTIPLE
        attention.check_all_known()
        ffn.check_all_known()
        attends, feeds = "none" if no_attention else "full", "none" if no_ffn else "dense"
        places.append(Place(attends, feeds, n_kv_heads=kv_heads, ff_dim=ff))
    return places


def _nemotron(keys: Keys) -> list[Place]:
    stated = keys.items("layers_block_type")
    if stated is None:
        pattern = str(keys.get("hybrid_override_pattern", ""))
        unknown = set(pattern) - _NEMOTRON_LETTERS.keys()
        if unknown or not pattern:
            raise keys.error("hybrid_override_pattern", f"has unknown layer types: {''.join(sorted(unknown))!r}")
        stated = [_NEMOTRON_LETTERS[letter] for letter in pattern]
    if keys.count("num_hidden_layers", len(stated)) != len(stated):
        raise keys.error("num_hidden_layers", f"is not the {len(stated)} layers that are listed")
    return [nemotron_place(keys, kind) for kind in stated]


def nemotron_place(keys: Keys, kind: object) -> Place:
    """Return a layer of Nemotron-H, each of which is one part only."""
    if kind in ("mlp", "moe"):
        return Place("none", "dense" if kind == "mlp" else "moe")
    return Place(_typed(keys, "layers_block_type", kind), "none")


def _periods(keys: Keys, _: Dialect, n: int) -> list[Place]:
    every, offset = keys.count("attn_layer_period", 8), keys.count("attn_layer_offset", 4)
    every_moe, offset_moe = keys.count("expert_layer_period", 2), keys.count("expert_layer_offset", 1)
    if not every or not every_moe:
        raise keys.error("attn_layer_period" if not every else "expert_layer_period", "is zero")
    has_experts = keys.count("num_experts", 16) > 1
    return [
        Place(
            "full" if i % every == offset else "linear",
            "moe" if has_experts and i % every_moe == offset_moe else "dense",
        )
        for i in range(n)
    ]


def _listed(keys: Keys, _: Dialect, n: int) -> list[Place]:
    """Bamba: attention where the list has the layer's index, a mixer elsewhere."""
    listed = keys.items("attn_layer_indices") or []
    keys.ignore("layers_block_type", "layer_types")  # the list again
    return [Place("full" if i in listed else "linear") for i in range(n)]


def _kimi(keys: Keys, dialect: Dialect, n: int) -> list[Place]:
    if "layer_types" in keys:
        return _types(keys, dialect, n)
    section = keys.section("linear_attn_config")
    full, delta = (set(section.items(key) or []) for key in ("full_attn_layers", "kda_layers"))
    if full | delta != set(range(1, n + 1)) or full & delta:
        raise section.error("full_attn_layers", f"and kda_layers are not the {n} layers, each once")
    return [Place("full" if i + 1 in full else "linear") for i in range(n)]


def _compressed(keys: Keys, _: Dialect, n: int) -> list[Place]:
    """DeepSeek-V4; the list goes on over the layers that predict the tokens after the next."""
    types = keys.items("layer_types", n)
    if types is None:
        ratios = (keys.items("compress_ratios") or [])[:n]
    else:
        keys.section("compress_rates").check_all_known(("compressed_sparse_attention", "heavily_compressed_attention"))
        ratios = [_COMPRESSED.get(str(kind), kind) for kind in types]
    if len(ratios) != n:
        raise keys.error("compress_ratios", f"lists {len(ratios)} layers of {n}")
    for ratio in ratios:
        if not isinstance(ratio, int) or ratio not in _RATIOS:
            raise keys.error("compress_ratios", f"has an unknown layer type: {ratio!r:.80}")
    return [Place("compressed", ratio=_RATIOS[ratio]) for ratio in ratios]


_ORDERS: Mapping[Order, Callable[[Keys, Dialect, int], list[Place]]] = {
    "uniform": _uniform,
    "bidirectional": _bidirectional,
    "types": _types,
    "window": _window,
    "upper_window": _upper_window,
    "blocks": _blocks,
    "periods": _periods,
    "kimi": _kimi,
    "compressed": _compressed,
    "listed": _listed,
}
