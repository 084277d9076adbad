"""Dialects of encoders: embedding models and rerankers.

Source:
    transformers 5.23: modeling_bert.py, modeling_xlm_roberta.py, modeling_modernbert.py.
"""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from vramcalc.sources._config.dialect import Dialect, words

Raw = dict[str, Any]
_POSITIONS_BEFORE_THE_FIRST = 2  # RoBERTa counts positions from behind the padding token's
_MASKED = ("ForMaskedLM", "ForCausalLM", "LMHeadModel")
_POSITIONS = 512  # where a config states none
_LABELS = 2  # of a classifier that lists none


def _counts(raw: Mapping[str, Any], *names: str) -> list[int]:
    found = [raw.get(name) for name in names]
    return [value if isinstance(value, int) and value > 0 else 1 for value in found]


def _classes(raw: Mapping[str, Any]) -> str:
    stated = raw.get("architectures")
    return str(stated[0]) if isinstance(stated, list) and stated else ""


def _embeddings(raw: Mapping[str, Any]) -> list[Raw]:
    hidden, positions, types = _counts(raw, "hidden_size", "n_positions", "type_vocab_size")
    norms = [{"name": f"token_embd_norm.{part}", "role": "norm", "shape": (hidden,)} for part in ("weight", "bias")]
    usable = positions - (_POSITIONS_BEFORE_THE_FIRST if raw.get("counts_past_padding") else 0)
    return [
        {"name": "position_embd", "role": "embedding", "shape": (positions, hidden), "gguf_shape": (usable, hidden)},
        {"name": "token_types", "role": "embedding", "shape": (types, hidden)},
        *norms,
    ]


def _dense(name: str, rows: int, columns: int) -> list[Raw]:
    shared = {"role": "head", "in_gguf": False}
    return [{"name": name, "shape": (rows, columns)} | shared, {"name": f"{name}.bias", "shape": (rows,)} | shared]


def _masked(raw: Mapping[str, Any]) -> list[Raw]:
    """Return a masked language model's head; its matrix is the embedding."""
    hidden, vocabulary = _counts(raw, "hidden_size", "vocab_size")
    norms = [{"name": f"predictions.norm.{part}", "role": "norm", "shape": (hidden,)} for part in ("weight", "bias")]
    return [
        *_dense("predictions", hidden, hidden),
        *(norm | {"in_gguf": False} for norm in norms),
        {"name": "predictions.output.bias", "role": "head", "shape": (vocabulary,), "in_gguf": False},
    ]


def _heads(raw: Mapping[str, Any]) -> list[Raw]:
    """Return what stands on top: a pooler, a masked language model's head, or a classifier with or without a pooler."""
    hidden, labels, name = _counts(raw, "hidden_size")[0], raw.get("id2label"), _classes(raw)
    n_labels = len(labels) if isinstance(labels, dict) else _LABELS
    if name.endswith(_MASKED):
        return _masked(raw)
    is_classifier = name.endswith("ForSequenceClassification")
    if is_classifier and raw.get("counts_past_padding"):  # RoBERTa's has a layer of its own
        return [*_dense("classifier.dense", hidden, hidden), *_dense("classifier.out", n_labels, hidden)]
    pooler = _dense("pooler", hidden, hidden)
    return [*pooler, *_dense("classifier", n_labels, hidden)] if is_classifier else pooler


def _bert_extras(raw: Mapping[str, Any]) -> list[Raw]:
    return _embeddings(raw) + _heads(raw)


def _bert(raw: Mapping[str, Any]) -> Raw:
    found = {key: value for key, value in raw.items() if (key, value) != ("position_embedding_type", "absolute")}
    filled_in = {"type_vocab_size": 2, "max_position_embeddings": _POSITIONS} | found
    return filled_in | {"n_positions": filled_in["max_position_embeddings"]}


def _roberta(raw: Mapping[str, Any]) -> Raw:
    positions = raw.get("max_position_embeddings", _POSITIONS)
    usable = positions - _POSITIONS_BEFORE_THE_FIRST if isinstance(positions, int) else positions
    return _bert(raw) | {"max_position_embeddings": usable, "counts_past_padding": True}


_BERT = Dialect(
    family="bert",
    norm="layer",
    final_norm=False,
    has_head=False,
    has_rope=False,
    layer_order="bidirectional",
    qkv_bias=True,
    output_bias=True,
    mlp="plain",
    mlp_bias=True,
    mha=True,
    must_be={"tie_word_embeddings": True},
    restate=_bert,
    extras=_bert_extras,
    harmless=words(
        "attention_probs_dropout_prob type_vocab_size gradient_checkpointing directionality "
        "pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type "
        "sentence_transformers n_positions counts_past_padding"
    ),
)


def _modern_extras(raw: Mapping[str, Any]) -> list[Raw]:
    """Return ModernBERT's norm of the embedding, and what stands on top: a dense layer and a norm below every head."""
    hidden, vocabulary = _counts(raw, "hidden_size", "vocab_size")
    labels, name = raw.get("id2label"), _classes(raw)
    n_labels = len(labels) if isinstance(labels, dict) else _LABELS
    found: list[Raw] = [{"name": "token_embd_norm.weight", "role": "norm", "shape": (hidden,)}]
    if name.endswith((*_MASKED, "ForSequenceClassification")):
        dense = _dense("head", hidden, hidden)
        found += dense if raw.get("classifier_bias") is True else dense[:1]
        found.append({"name": "head.norm", "role": "norm", "shape": (hidden,), "in_gguf": False})
    if name.endswith("ForSequenceClassification"):
        found += _dense("classifier", n_labels, hidden)
    elif name.endswith(_MASKED) and raw.get("decoder_bias", True) is True:
        found.append({"name": "decoder.bias", "role": "head", "shape": (vocabulary,), "in_gguf": False})
    return found


_MODERN = Dialect(
    family="modernbert",
    n_norms_first=1,
    has_head=False,
    mha=True,
    layer_order="bidirectional",
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    fused=True,
    mlp_bias="mlp_bias",
    extras=_modern_extras,
    must_be={"tie_word_embeddings": True},
    must_be_off=("norm_bias",),
    harmless=words(
        "classifier_bias classifier_activation classifier_pooling cls_token_id decoder_bias deterministic_flash_attn "
        "embedding_dropout global_attn_every_n_layers global_rope_theta gradient_checkpointing layer_types "
        "initializer_cutoff_factor local_attention local_rope_theta mlp_dropout position_embedding_type "
        "reference_compile repad_logits_with_grad sparse_pred_ignore_index sparse_prediction"
    ),
)
_ROBERTA = replace(_BERT, family="roberta", restate=_roberta)

ENCODERS: Mapping[str, Dialect] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "modernbert": _MODERN,
}
