"""The attention of a layer, built from the keys of a config under the traits of its dialect."""

from typing import Any

from vramcalc.sources._config.dialect import Dialect
from vramcalc.sources._config.keys import Keys
from vramcalc.sources._config.places import Place

Raw = dict[str, Any]


def read_attention(keys: Keys, dialect: Dialect, place: Place) -> Raw:
    """Return the attention of one layer."""
    match dialect.attention:
        case "latent":
            return _latent(keys, dialect, place)
        case "compressed":
            return _compressed(keys, place)
        case _:
            return _grouped(keys, dialect, place)


def trait(keys: Keys, named: bool | str) -> bool:
    """Return a trait, or what the key says that it names."""
    return keys.flag(named) if isinstance(named, str) else named


def _grouped(keys: Keys, dialect: Dialect, place: Place) -> Raw:
    n_heads = place.n_heads or keys.count("num_attention_heads")
    n_kv_heads = keys.count("num_key_value_heads", n_heads if dialect.mha else None)
    a: Raw = {
        "kind": "full",
        "n_heads": n_heads,
        "n_kv_heads": place.n_kv_heads or n_kv_heads,
        "head_dim": place.head_dim or _head_dim(keys, n_heads),
        "qkv_bias": trait(keys, dialect.qkv_bias),
        "output_bias": trait(keys, dialect.output_bias),
        "fused": dialect.fused,
        "sinks": dialect.sinks,
        "output_gate": dialect.output_gate,
        "shares_cache": place.shares_cache,
    }
    if dialect.qk_norm_key is None or keys.flag(dialect.qk_norm_key):
        a["qk_norm"] = dialect.qk_norm
    window = keys.get("sliding_window")  # stated by some that do not use it
    match place.attention:
        case "sliding":
            a |= {
                "kind": "sliding",
                "window": window or keys.count("sliding_window"),
                "gguf_window": dialect.gguf_window,
            }
        case "bidirectional":
            a["kind"] = "bidirectional"
        case "chunked":
            a |= {"kind": "chunked", "chunk": keys.count("attention_chunk_size", 8192)}
        case "sparse":
            a["indexer"] = _block_indexer(keys)
        case _:
            a |= _of_global(keys)
    keys.ignore("attention_chunk_size", "sparse_attention_config")
    return {key: value for key, value in a.items() if value is not False and value != "none"}


def _head_dim(keys: Keys, n_heads: int) -> int:
    for name in ("attention_head_dim", "head_dim"):
        if name in keys:
            keys.ignore("head_dim")
            return keys.count(name)
    if keys.get("head_dim") is not None:  # of the class
        return keys.count("head_dim")
    hidden = keys.count("hidden_size")
    if not 0 < n_heads <= hidden:
        raise keys.error("head_dim", f"is missing, and hidden_size={hidden} is too small for {n_heads} heads")
    return hidden // n_heads  # rounded down, as the model classes do


def _of_global(keys: Keys) -> Raw:
    """Gemma 4's full attention has heads of another shape."""
    found: Raw = {"head_dim": keys.count("global_head_dim")} if "global_head_dim" in keys else {}
    if keys.flag("attention_k_eq_v"):
        found["v_is_k"] = True
        if "num_global_key_value_heads" in keys:
            found["n_kv_heads"] = keys.count("num_global_key_value_heads")
    keys.ignore("num_global_key_value_heads")
    return found


def _block_indexer(keys: Keys) -> Raw:
    if "index_n_heads" in keys:
        found = _indexer_sizes(keys) | {"top_k": keys.count("index_topk_blocks"), "layout": "plain"}
        return found | {"block_tokens": keys.count("index_block_size")}
    section = keys.section("sparse_attention_config")
    found = {
        "n_heads": section.count("sparse_num_index_heads"),
        "head_dim": section.count("sparse_index_dim"),
        "top_k": section.count("sparse_topk_blocks"),
        "block_tokens": section.count("sparse_block_size"),
        "layout": "plain",
    }
    section.ignore("sparse_attention_freq", "use_sparse_attention")
    section.check_all_known(
        ("sparse_disable_index_value", "sparse_init_block", "sparse_local_block", "sparse_score_type")
    )
    return found


def _indexer_sizes(keys: Keys) -> Raw:
    return {"n_heads": keys.count("index_n_heads"), "head_dim": keys.count("index_head_dim")}


def _indexer(keys: Keys) -> Raw:
    return _indexer_sizes(keys) | {"top_k": keys.count("index_topk")}


def _latent(keys: Keys, dialect: Dialect, place: Place) -> Raw:
    found: Raw = {
        "kind": "latent",
        "n_heads": keys.count("num_attention_heads"),
        "query_rank": None if keys.is_null("q_lora_rank") else keys.count("q_lora_rank") or None,
        "latent_dim": keys.count("kv_lora_rank"),
        "rope_dim": keys.count("qk_rope_head_dim"),
        "nope_dim": keys.count("qk_nope_head_dim"),
        "v_head_dim": keys.count("v_head_dim"),
    }
    if dialect.indexer and place.indexed:
        found["indexer"] = _indexer(keys)
    return found


def _compressed(keys: Keys, place: Place) -> Raw:
    found: Raw = {
        "kind": "compressed",
        "n_heads": keys.count("num_attention_heads"),
        "head_dim": keys.count("head_dim"),
        "rope_dim": keys.count("qk_rope_head_dim"),
        "query_rank": keys.count("q_lora_rank"),
        "output_groups": keys.count("o_groups"),
        "output_rank": keys.count("o_lora_rank"),
        "window": keys.count("sliding_window"),
    }
    if place.ratio is not None:
        found["ratio"] = place.ratio
    indexer = _indexer(keys)
    if place.ratio == 4:  # noqa: PLR2004 - overlapping windows, chosen among by an indexer; longer ones are read whole
        found |= {"overlaps": True, "indexer": indexer}
    return found
