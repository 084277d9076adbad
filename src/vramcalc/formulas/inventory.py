"""Every tensor of a model, counted rather than enumerated: one group per shape and layer kind.

Names are ggml's, the one vocabulary that covers all families; shapes are [rows = out features, columns = in features].
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from vramcalc.formulas._attention_tensors import attention_tensors
from vramcalc.formulas._mixer_tensors import mixer_tensors
from vramcalc.formulas._mlp_tensors import mlp_tensors
from vramcalc.formulas.tensors import Split, TensorGroup
from vramcalc.specs.model import LayerKind, ModelSpec, MoeMlp, Role

__all__ = [
    "Split",
    "TensorGroup",
    "n_active_parameters",
    "n_mtp_parameters",
    "n_parameters",
    "next_token_groups",
    "parameters_by_role",
    "tensor_groups",
]

_NORM_NAMES = (
    "attn_norm",
    "ffn_norm",
    "post_attention_norm",
    "post_ffw_norm",
    "post_ffw_norm_1",
    "post_ffw_norm_2",
    "pre_ffw_norm_2",
)


def tensor_groups(model: ModelSpec) -> tuple[TensorGroup, ...]:
    """Return the inventory of a model as its checkpoint holds it: embedding, layers by kind, norm and head, extras.

    Layers that predict the tokens after the next are not in it; see ``next_token_groups``.
    """
    layers_of: dict[str, list[int]] = {}
    for index, name in enumerate(model.layers.order()):
        layers_of.setdefault(name, []).append(index)
    groups = [TensorGroup("token_embd", "embedding", (model.vocabulary, model.hidden_dim), Split.VOCABULARY)]
    groups += _per_layer_embedding(model)
    if model.altup_streams is not None:
        square = (model.hidden_dim, model.hidden_dim)
        copies = model.altup_streams - 1
        groups += [TensorGroup(name, "other", square, copies=copies) for name in ("altup_proj", "altup_unembd_proj")]
    for name, indices in layers_of.items():
        groups += [replace(group, layers=tuple(indices)) for group in _layer(model, model.layers.kinds[name])]
    if model.final_norm:
        groups += _norm(model, "output_norm")
    if model.hyper_streams is not None:
        groups += _hyper_head(model.hyper_streams, model.hidden_dim)
    if model.head == "separate":
        groups.append(TensorGroup("output", "head", (model.vocabulary, model.hidden_dim), Split.VOCABULARY))
    groups += [TensorGroup(t.name, t.role, t.shape, copies=t.count) for t in model.extra_tensors]
    return tuple(groups)


def next_token_groups(model: ModelSpec) -> tuple[TensorGroup, ...]:
    """Return the layers that predict the tokens after the next, numbered after the others as files number them."""
    if model.next_token_layers is None:
        return ()
    first = model.layers.n_layers
    layers = tuple(range(first, first + model.next_token_layers.n_layers))
    groups = [TensorGroup("nextn.eh_proj", "other", (model.hidden_dim, 2 * model.hidden_dim))]
    for name in ("nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm"):
        groups += _norm(model, name)
    for kind in model.next_token_layers.layers:
        groups += _layer(model, kind)
    return tuple(replace(group, layers=layers) for group in groups)


def n_parameters(model: ModelSpec) -> int:
    """Return the exact number of parameters: towers in, buffers and multi-token-prediction layers out."""
    return _sum(tensor_groups(model))


def n_mtp_parameters(model: ModelSpec) -> int:
    """Return the parameters of the multi-token-prediction layers, 0 where there are none."""
    return _sum(next_token_groups(model))


def n_active_parameters(model: ModelSpec) -> int:
    """Return the parameters one token passes through, as the model's publisher counts them; all where none is idle.

    The experts a token is not routed to never count. Publishers differ in the rest; where none has said, towers and
    an embedding that is only looked up are left out, as DeepSeek, Kimi, MiniMax and OpenAI do.
    """
    if not model.is_moe:
        return n_parameters(model)
    left_out: tuple[Role, ...] = ("vision", "audio", "projector", *(("embedding",) if model.head == "separate" else ()))
    if model.active is not None:
        left_out = model.active.leaves_out
    roles = parameters_by_role(model)
    return n_parameters(model) - _n_idle(model) - sum(roles.get(role, 0) for role in left_out)


def _n_idle(model: ModelSpec) -> int:
    idle = 0
    for kind_name, n_layers in Counter(model.layers.order()).items():
        mlp = model.layers.kinds[kind_name].mlp
        if isinstance(mlp, MoeMlp):
            of_experts = sum(g.n_elements for g in mlp_tensors(model.hidden_dim, mlp) if g.role == "experts")
            idle += n_layers * of_experts * (mlp.n_experts - mlp.n_active_experts) // mlp.n_experts
    return idle


def parameters_by_role(model: ModelSpec) -> dict[Role, int]:
    """Return the parameters of each role; they sum to ``n_parameters``."""
    counts: dict[Role, int] = {}
    for group in tensor_groups(model):
        if group.is_parameter:
            counts[group.role] = counts.get(group.role, 0) + group.n_elements
    return counts


def _sum(groups: Iterable[TensorGroup]) -> int:
    return sum(group.n_elements for group in groups if group.is_parameter)


def _layer(model: ModelSpec, kind: LayerKind) -> Iterator[TensorGroup]:
    hidden = model.hidden_dim
    yield from attention_tensors(hidden, kind.attention)
    yield from mixer_tensors(hidden, kind.mixer)
    yield from mlp_tensors(hidden, kind.mlp)
    for name in _NORM_NAMES[: kind.n_norms]:
        yield from _norm(model, name)
    if kind.output_scale:
        yield TensorGroup("layer_output_scale.weight", "other", (1,), is_parameter=False)
    if model.hyper_streams is not None:
        yield from _hyper_connection("attn", "attention", model.hyper_streams, hidden)
        yield from _hyper_connection("ffn", "mlp", model.hyper_streams, hidden)
    if model.laurel_rank is not None:
        yield TensorGroup("laurel_l", "other", (model.laurel_rank, hidden))
        yield TensorGroup("laurel_r", "other", (hidden, model.laurel_rank))
        yield TensorGroup("laurel_post_norm.weight", "norm", (hidden,))
    if model.altup_streams is not None:
        yield from _alternating_updates(model.altup_streams, hidden)
    if model.per_layer_dim is not None:
        yield TensorGroup("inp_gate", "other", (model.per_layer_dim, hidden))
        yield TensorGroup("proj", "other", (hidden, model.per_layer_dim))
        yield TensorGroup("post_norm.weight", "norm", (hidden,))


def _alternating_updates(n_streams: int, hidden: int) -> Iterator[TensorGroup]:
    """Yield what predicts and corrects the streams around a layer: transformers 5.23, Gemma3nTextAltUp."""
    yield TensorGroup("altup_correct_scale.weight", "other", (hidden,))
    yield TensorGroup("altup_correct_coef.weight", "other", (n_streams, n_streams))
    yield TensorGroup("altup_predict_coef.weight", "other", (n_streams * n_streams, n_streams))
    yield TensorGroup("altup_router.weight", "other", (n_streams, hidden))
    yield TensorGroup("altup_router_norm.weight", "norm", (hidden,))


def _norm(model: ModelSpec, name: str) -> list[TensorGroup]:
    parts = ("weight",) if model.norm == "rms" else ("weight", "bias")
    return [TensorGroup(f"{name}.{part}", "norm", (model.hidden_dim,)) for part in parts]


def _per_layer_embedding(model: ModelSpec) -> list[TensorGroup]:
    if model.per_layer_dim is None or model.per_layer_vocabulary is None:
        return []
    width = model.layers.n_layers * model.per_layer_dim
    return [
        TensorGroup("per_layer_token_embd", "embedding", (model.per_layer_vocabulary, width), Split.VOCABULARY),
        TensorGroup("per_layer_model_proj", "other", (width, model.hidden_dim)),
        TensorGroup("per_layer_proj_norm.weight", "norm", (model.per_layer_dim,)),
    ]


def _hyper_connection(part: str, role: Role, n_streams: int, hidden: int) -> Iterator[TensorGroup]:
    """Yield what mixes the streams around a layer part: weights in, weights out, and streams among themselves."""
    n_weights = (2 + n_streams) * n_streams
    yield TensorGroup(f"hc_{part}_fn", role, (n_weights, n_streams * hidden))
    yield TensorGroup(f"hc_{part}_base.weight", role, (n_weights,))
    yield TensorGroup(f"hc_{part}_scale.weight", role, (3,))


def _hyper_head(n_streams: int, hidden: int) -> list[TensorGroup]:
    return [
        TensorGroup("output_hc_fn", "other", (n_streams, n_streams * hidden)),
        TensorGroup("output_hc_base.weight", "other", (n_streams,)),
        TensorGroup("output_hc_scale.weight", "other", (1,)),
    ]
