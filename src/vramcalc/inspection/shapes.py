"""Findings about the model's shape: against its own keys, the name it gives itself, and what is expected."""

import re
from collections.abc import Iterator

from vramcalc.formulas.inventory import n_parameters
from vramcalc.formulas.stored import Match
from vramcalc.inspection.container import few
from vramcalc.inspection.finding import Finding, Severity
from vramcalc.specs.file import LongArray, ModelFile
from vramcalc.specs.model import ModelSpec, MoeMlp, NoAttention
from vramcalc.units import GB, MB, format_count

_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d{1,4}(?:\.\d{1,3})?)([bBmM])(?![A-Za-z0-9])")
# Publishers print 7B for 7.6 and 1B for 1.24, seldom more than there is: of 212 releases in the registry that print a
# size, 210 hold 0.92 to 1.31 of it (Falcon 3 1B and its base hold 1.67). The band around that is a judgement.
_LEAST_SHARE, _MOST_SHARE = 0.88, 1.35
_MOST_PADDING = 0.02  # rows of the embedding beyond the tokens: up to 1.5 % in published models


def shape_findings(
    file: ModelFile | None,
    model: ModelSpec,
    match: Match | None,
    claimed: ModelSpec | None,
    expected: ModelSpec | None,
) -> Iterator[Finding]:
    """Yield where the shape is not what the file, its name, or the user says it is."""
    if match is not None:
        yield from _tensors(match)
    if expected is not None:
        yield from _against(model, expected, f"expected {expected.id}", "error")
    elif claimed is not None:
        yield from _against(model, claimed, f"its name says {claimed.id}", "error")
    elif file is not None:
        yield from _advertised(file, model)
    if file is not None:
        yield from _tokenizer(file, model)
        yield from _context(file, model)
        yield from _next_tokens(file)


def _tensors(match: Match) -> Iterator[Finding]:
    if match.lacking:
        said = f"{len(match.lacking)} tensors of its architecture are not there: {few(match.lacking)}"
        yield Finding("missing-tensors", "error", said, "engines refuse to load it: fetch another")
    if match.misshapen:
        said = f"{len(match.misshapen)} tensors are not of the size its keys give: {few(match.misshapen)}"
        yield Finding("misshapen-tensors", "error", said, "engines refuse to load it: fetch another")
    if match.surplus:
        said = f"{len(match.surplus)} tensors are none of its architecture's: {few(match.surplus)}"
        yield Finding("unknown-tensors", "warning", said, "they are billed as they are; engines may refuse the file")


def _against(model: ModelSpec, other: ModelSpec, why: str, severity: Severity) -> Iterator[Finding]:
    n_layers, other_layers = model.layers.n_layers, other.layers.n_layers
    if n_layers != other_layers:
        which = "fewer-layers" if n_layers < other_layers else "more-layers"
        yield Finding(which, severity, f"it has {n_layers} layers, {other.name} has {other_layers} ({why})", _ADVICE)
    experts, other_experts = _experts(model), _experts(other)
    if experts != other_experts:
        which = "fewer-experts" if experts < other_experts else "more-experts"
        yield Finding(
            which, severity, f"it has {experts} experts a layer, {other.name} has {other_experts} ({why})", _ADVICE
        )
    facts = {
        "hidden size": (model.hidden_dim, other.hidden_dim),
        "attention heads": (_heads(model), _heads(other)),
    }
    for what, (ours, theirs) in facts.items():
        if ours != theirs:
            said = f"its {what} is {ours}, that of {other.name} {theirs} ({why})"
            yield Finding("other-shape", severity, said, _ADVICE)
    if model.head != other.head and "none" not in (model.head, other.head):
        said = f"its output head is {model.head}, that of {other.name} {other.head} ({why})"
        yield Finding("other-head", "warning", said, "a tied head is the embedding, used twice")
    if model.vocabulary not in (other.vocabulary, other.gguf_vocabulary):
        said = f"its vocabulary has {model.vocabulary:,} rows, that of {other.name} {other.vocabulary:,} ({why})"
        yield Finding("other-vocabulary", "warning", said, "the tokenizer is another, or was extended")
    ours, theirs = _text_parameters(model), _text_parameters(other)
    if ours != theirs:
        share = ours / theirs - 1
        said = f"it has {format_count(ours)} parameters, {other.name} {format_count(theirs)} ({share:+.1%}; {why})"
        is_other = abs(share) > _MOST_PADDING
        yield Finding("parameter-count", severity if is_other else "info", said, _ADVICE if is_other else "")
    if model.context > other.context:
        said = f"it states a context of {model.context:,} tokens, {other.name} was trained on {other.context:,}"
        yield Finding("context-beyond-training", "warning", said, f"give --context {other.context} or less")


_ADVICE = "it is not the model it is called: fetch it from its publisher"


def _experts(model: ModelSpec) -> int:
    return max((k.mlp.n_experts for k in model.layers.kinds.values() if isinstance(k.mlp, MoeMlp)), default=0)


def _heads(model: ModelSpec) -> int:
    attentions = (kind.attention for kind in model.layers.kinds.values())
    return max((a.n_heads for a in attentions if not isinstance(a, NoAttention)), default=0)


def _text_parameters(model: ModelSpec) -> int:
    """Return the parameters without towers, and with the rows of the vocabulary that a GGUF keeps."""
    extras = tuple(extra for extra in model.extra_tensors if extra.in_gguf)
    vocabulary = model.gguf_vocabulary or model.vocabulary
    return n_parameters(model.model_copy(update={"extra_tensors": extras, "vocabulary": vocabulary}))


def _advertised(file: ModelFile, model: ModelSpec) -> Iterator[Finding]:
    """Hold the count against the size that the file's label or name prints."""
    for text in (file.keys.get("general.size_label"), file.keys.get("general.name"), model.id):
        match = _SIZE.search(text) if isinstance(text, str) else None
        if match is None:
            continue
        stated = float(match[1]) * (GB if match[2] in "bB" else MB)
        count = model.parameters.total
        if stated and not _LEAST_SHARE <= count / stated <= _MOST_SHARE:
            said = (
                f"it calls itself {match[0]} and has {format_count(count)} parameters in {model.layers.n_layers} layers"
            )
            advice = "layers or experts were left out, or the name is wrong: --expect MODEL tells which"
            yield Finding("parameter-count", "warning", said, advice)
        return


def _tokenizer(file: ModelFile, model: ModelSpec) -> Iterator[Finding]:
    tokens = file.keys.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, LongArray):
        return
    spare = model.vocabulary - tokens.n_elements
    said = f"its tokenizer has {tokens.n_elements:,} tokens, its embedding {model.vocabulary:,} rows"
    if spare < 0:
        yield Finding("tokenizer-mismatch", "error", said, "engines refuse to load it: fetch another")
    elif spare > _MOST_PADDING * model.vocabulary:
        yield Finding("tokenizer-mismatch", "warning", said, "the tokenizer may be another model's")


def _context(file: ModelFile, model: ModelSpec) -> Iterator[Finding]:
    architecture = file.keys.get("general.architecture")
    trained = file.keys.get(f"{architecture}.rope.scaling.original_context_length")
    if isinstance(trained, int) and 0 < trained < model.context:
        said = f"of its {model.context:,} tokens of context it was trained on {trained:,}; the rest is by rope scaling"
        yield Finding("context-scaled", "info", said)


def _next_tokens(file: ModelFile) -> Iterator[Finding]:
    architecture = file.keys.get("general.architecture")
    n = file.keys.get(f"{architecture}.nextn_predict_layers")
    if isinstance(n, int) and n > 0:
        said = f"{n} layers that predict the tokens after the next are in the file and not loaded"
        yield Finding("next-token-layers", "info", said)
