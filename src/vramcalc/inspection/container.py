"""Findings about the file as a file: parts, length, byte order, keys, and whether it is a model at all."""

import re
from collections.abc import Iterator

from vramcalc.inspection.finding import Finding
from vramcalc.specs.file import FilePart, ModelFile

PROJECTOR = "clip"
_SHOWN = 5

# Keys below the architecture's name that a loader reads or that converters are known to write.
_KNOWN_KEYS = frozenset(
    re.findall(
        r"\S+",
        """
vocab_size context_length embedding_length embedding_length_out features_length block_count
leading_dense_block_count feed_forward_length expert_feed_forward_length expert_shared_feed_forward_length
expert_chunk_feed_forward_length use_parallel_residual tensor_data_layout expert_count expert_used_count
expert_shared_count expert_group_count expert_group_used_count expert_weights_scale expert_weights_norm
expert_gating_func expert_group_scale experts_per_group moe_every_n_layers moe_latent_size nextn_predict_layers
n_deepstack_layers pooling_type logit_scale decoder_start_token_id decoder_block_count attn_logit_softcapping
router_logit_softcapping final_logit_softcapping residual_scale embedding_scale interleave_moe_layer_step
full_attention_interval activation_sparsity_scale embedding_length_per_layer_input swiglu_clamp_exp
swiglu_clamp_shexp attention.head_count attention.head_count_kv attention.max_alibi_bias attention.clamp_kqv
attention.key_length attention.value_length attention.layer_norm_epsilon attention.layer_norm_rms_epsilon
attention.group_norm_epsilon attention.group_norm_groups attention.causal attention.q_lora_rank
attention.kv_lora_rank attention.relative_buckets_count attention.sliding_window attention.scale
attention.output_scale attention.temperature_length attention.key_length_mla attention.value_length_mla
attention.key_length_swa attention.value_length_swa attention.shared_kv_layers attention.sliding_window_pattern
attention.temperature_scale attention.indexer.head_count attention.indexer.key_length attention.indexer.top_k
rope.dimension_count rope.dimension_count_swa rope.dimension_sections rope.freq_base rope.freq_base_swa
rope.scale_linear rope.scaling.type rope.scaling.factor rope.scaling.alpha rope.scaling.attn_factor
rope.scaling.original_context_length rope.scaling.finetuned rope.scaling.yarn_log_multiplier
rope.scaling.yarn_ext_factor rope.scaling.yarn_attn_factor rope.scaling.yarn_beta_fast
rope.scaling.yarn_beta_slow ssm.conv_kernel ssm.inner_size ssm.state_size ssm.time_step_rank ssm.group_count
ssm.dt_b_c_rms kda.head_dim wkv.head_size shortconv.l_cache classifier.output_labels
""",
    )
)
_KNOWN_SPACES = ("general.", "tokenizer.", "split.", "quantize.", "clip.", "adapter.", "imatrix.")


def container_findings(file: ModelFile, problem: tuple[str, str] | None) -> Iterator[Finding]:
    """Yield what is to be said of the file itself; ``problem`` is why it holds no model, in a fact and an advice."""
    missing = [part.name for part in file.parts if part.is_missing]
    if missing:
        yield Finding(
            "split-incomplete",
            "error",
            f"{len(missing)} of {len(file.parts)} parts are missing: {few(missing)}",
            "fetch the missing parts into the same folder",
        )
    for part in file.parts:
        yield from _length(part, file.container)
    if file.is_big_endian:
        yield Finding(
            "big-endian", "warning", "its numbers are big-endian", "engines on x86 and ARM refuse it: fetch another"
        )
    architecture = file.keys.get("general.architecture")
    if architecture == PROJECTOR:
        yield Finding(
            "projector", "info", "it is a multimodal projector, not a model", "name it beside its model, with --mmproj"
        )
    elif problem is not None and not missing:
        fact, advice = problem
        unknown = "architecture" in fact and "not known" in fact
        yield Finding("unknown-architecture" if unknown else "not-understood", "error", fact, advice)
    if isinstance(architecture, str):
        yield from _keys(file, architecture)


def few(names: list[str] | tuple[str, ...]) -> str:
    """Return the first of a list of names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name) for name in names[:_SHOWN]) + more


def printable(text: str) -> str:
    """Return a text from a file without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def _length(part: FilePart, container: str) -> Iterator[Finding]:
    if part.is_missing or part.n_bytes is None or part.n_bytes == part.needed_bytes:
        return
    lacking = part.needed_bytes - part.n_bytes
    if lacking > 0:
        yield Finding(
            "data-short",
            "error",
            f"{part.name} ends {lacking:,} bytes before the data its header lists",
            "the download was cut off: fetch it again",
        )
    elif container == "safetensors" or -lacking >= _MOST_TAIL:
        yield Finding(
            "data-long",
            "warning",
            f"{part.name} goes on for {-lacking:,} bytes after its last tensor",
            "fetch it again",
        )


_MOST_TAIL = 4096  # GGUF writers pad the last tensor


def _keys(file: ModelFile, architecture: str) -> Iterator[Finding]:
    prefix = f"{architecture}."
    unknown = [
        key
        for key in file.keys
        if not key.startswith(_KNOWN_SPACES)
        and (not key.startswith(prefix) or key.removeprefix(prefix) not in _KNOWN_KEYS)
    ]
    if unknown:
        yield Finding("unknown-keys", "info", f"keys that llama.cpp is not known to read: {few(unknown)}")
