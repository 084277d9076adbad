"""A config.json as bounded JSON, and its keys, each of which must be used or known to change no shape."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from vramcalc.errors import BadInputError
from vramcalc.sources._config.dialect import words
from vramcalc.sources.files import read_content

_MOST_DEPTH = 32
_MOST = 1 << 40  # no count in a config is larger

# Keys of every dialect that change no shape: tokens, generation, training, numerics, housekeeping.
HARMLESS = words(
    """
    _attn_implementation _flash_attn_2_enabled _name_or_path activation_function add_cross_attention architectures
    attention_dropout attn_pdrop auto_map aux_loss_alpha bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward classifier_dropout cross_attention_hidden_size decoder_start_token_id diversity_penalty
    do_sample dropout dtype early_stopping embd_pdrop encoder_no_repeat_ngram_size eos_token_id ep_size
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id hidden_act
    hidden_activation hidden_dropout hidden_dropout_prob id2label ignore_index initializer_factor initializer_range
    is_composition is_decoder is_encoder_decoder label2id layer_norm_eps layer_norm_epsilon length_penalty max_length
    min_length model_type n_group neftune_noise_alpha no_repeat_ngram_size norm_eps norm_topk_prob num_beam_groups
    num_beams num_return_sequences output_attentions output_hidden_states output_past output_router_logits output_scores
    pad_token_id prefix pretraining_tp problem_type pruned_heads remove_invalid_values repetition_penalty resid_pdrop
    return_dict return_dict_in_generate rms_norm_eps rope_interleave rope_theta routed_scaling_factor
    router_aux_loss_coef router_jitter_noise scoring_func sep_token_id seq_aux suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p topk_group topk_method torch_dtype
    torchscript transformers.js_config transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16
    use_cache
    """
)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object a JSON file holds. Raises ``UnavailableError`` or ``BadInputError``."""
    try:
        found = json.loads(read_content(path))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] or "nested too deep"
        raise BadInputError(f"{path} is no JSON: {reason}", "name the model's config.json") from error
    if not isinstance(found, dict):
        raise BadInputError(f"{path}: the top level is no object", "name the model's config.json")
    if _depth(found) > _MOST_DEPTH:
        raise BadInputError(f"{path} is nested more than {_MOST_DEPTH} deep", "name the model's config.json")
    return found


def _depth(found: object) -> int:
    deepest, todo = 0, [(found, 1)]
    while todo:
        node, depth = todo.pop()
        deepest = max(deepest, depth)
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        todo += [(child, depth + 1) for child in children if isinstance(child, dict | list)]
    return deepest


# Our name -> what releases of transformers call the same key; two at once are no synonyms but a key nobody knows.
_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "num_experts": ("num_local_experts", "n_routed_experts", "num_experts"),
    "num_experts_per_tok": ("num_experts_per_tok",),
    "sliding_window_pattern": ("sliding_window_pattern", "_sliding_window_pattern"),
    "vt_hidden_size": ("hidden_size",),
    "vt_intermediate_size": ("intermediate_size",),
    "vt_num_hidden_layers": ("num_hidden_layers",),
    "init_pos_emb_height": ("pos_emb_height",),
    "init_pos_emb_width": ("pos_emb_width",),
    "init_pos_emb_time": ("pos_emb_time",),
}


class Keys:
    """The keys of one section; remembers which were asked for. A null is an absent key, as transformers has it.

    ``names`` gives our name of a key where the dialect has another; ``defaults`` is what its class fills in.
    """

    def __init__(
        self,
        raw: Mapping[str, Any],
        where: str,
        names: Mapping[str, str] | None = None,
        defaults: Mapping[str, object] | None = None,
    ) -> None:
        self._raw = {key: value for key, value in raw.items() if value is not None}
        self._nulls = raw.keys() - self._raw.keys()
        self._names = names or {}
        self._defaults = defaults or {}
        self._used: set[str] = set()
        self.where = where

    def __contains__(self, name: str) -> bool:
        """Whether the config itself states the key."""
        return self._key(name) in self._raw

    def is_null(self, name: str) -> bool:
        """Whether the config states that there is none, rather than nothing."""
        return self._names.get(name, name) in self._nulls

    def _key(self, name: str) -> str:
        first = self._names.get(name, name)
        return next((key for key in (first, *_SYNONYMS.get(name, ())) if key in self._raw), first)

    def get(self, name: str, default: object = None) -> Any:  # noqa: ANN401 - JSON is untyped
        """Return a value as it stands, or what the class fills in, or ``default``."""
        key = self._key(name)
        self._used.add(key)
        return self._raw.get(key, self._defaults.get(name, default))

    def count(self, name: str, default: int | None = None) -> int:
        """Return a whole number of zero or more. Raises ``BadInputError`` where it is missing or none."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
            raise self.error(name, "is missing" if value is None else f"is no count: {value!r}")
        return value

    def number(self, name: str, default: float) -> float:
        """Return a number of zero or more."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
            raise self.error(name, f"is no number: {value!r:.80}")
        return float(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, f"is neither true nor false: {value!r}")
        return value

    def items(self, name: str, length: int | None = None) -> list[Any] | None:
        """Return a list, of the given length where one is given, or None where there is none."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.error(name, f"is no list: {value!r:.80}")
        if length is not None and len(value) != length:
            raise self.error(name, f"lists {len(value)} layers of {length}")
        return value

    def names(self) -> list[str]:
        """Return all keys."""
        return list(self._raw)

    def sections(self) -> list["Keys"]:
        """Return the sections one level below."""
        return [self.section(name) for name, value in self._raw.items() if isinstance(value, dict)]

    def section(self, name: str, **more: Mapping[str, Any]) -> "Keys":
        """Return a nested section, empty where there is none."""
        value = self.get(name, {})
        if not isinstance(value, dict):
            raise self.error(name, f"is no object: {value!r:.80}")
        return Keys(value, f"{self.where}: {name}", **more)

    def check_repeats(self, repeats: Mapping[str, str]) -> None:
        """Raise ``BadInputError`` where a key contradicts the one it repeats."""
        for key, name in repeats.items():
            self._used.add(key)
            if key != self._key(name) and self._raw.get(key, self.get(name)) != self.get(name):
                said = f"{self._raw[key]!r:.40} contradicts {self._key(name)}={self.get(name)!r:.40}"
                raise BadInputError(f"{self.where}: key {key!r}: {said}", "compare with the publisher's config.json")

    def ignore(self, *names: str) -> None:
        """Count keys as known that another key decides."""
        self._used.update(self._key(name) for name in names)

    def check_all_known(self, harmless: Collection[str] = ()) -> None:
        """Raise ``BadInputError`` naming a key that was neither used nor is known to change no shape."""
        unknown = sorted(self._raw.keys() - self._used - HARMLESS - set(harmless))
        if unknown:
            raise BadInputError(
                f"{self.where}: key {unknown[0]!r} is not known and may change the model's shape",
                "please report it, with the config.json, so that it can be read right",
            )

    def error(self, name: str, problem: str) -> BadInputError:
        """Return the error to raise for a key."""
        return BadInputError(
            f"{self.where}: key {self._key(name)!r} {problem}",
            "compare with the publisher's config.json; where it is the publisher's, please report it",
        )
