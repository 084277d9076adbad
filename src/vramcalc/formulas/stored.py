"""A file's tensors held against the inventory of the model it says it is: what is stored how, and what differs.

The file wins: what it lacks is not billed, and what only it has is.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

from msgspec import Struct

from vramcalc.formulas.inventory import TensorGroup
from vramcalc.formulas.recipes import gguf_groups
from vramcalc.specs.file import FileTensor
from vramcalc.specs.model import ModelSpec, Role, StoredGroup, StoredWeights

NORM_NAMES = (
    "attn_norm",
    "attn_output_norm",
    "ffn_norm",
    "layer_output_norm",
    "post_attention_norm",
    "post_ffw_norm",
    "post_ffw_norm_1",
    "post_ffw_norm_2",
    "pre_ffw_norm_2",
)
_IN_LAYER = re.compile(r"blk\.(\d{1,9})\.(.+)")
_ROUTER_BIASES = ("exp_probs_b.bias", "exp_probs_b")
# The first that a name starts with; of a tensor inside the layers, or outside them.
_ROLES: Sequence[tuple[str, Role]] = (
    ("token_embd_norm", "norm"),
    ("token_embd", "embedding"),
    ("per_layer_token_embd", "embedding"),
    ("position_embd", "embedding"),
    ("token_types", "embedding"),
    ("output_norm", "norm"),
    ("output", "head"),
    ("cls", "head"),
    ("rope_", "attention"),
    ("ffn_gate_inp_shexp", "shared_experts"),
    ("ffn_gate_inp", "router"),
    ("ffn_gate_tid2eid", "router"),
    ("exp_probs_b", "router"),
    ("ssm_norm", "norm"),
    ("ssm_dt_norm", "norm"),
    ("ssm_", "recurrent"),
    ("shortconv", "recurrent"),
    ("time_mix", "recurrent"),
    ("indexer", "attention"),
    ("attn_q_norm", "norm"),
    ("attn_k_norm", "norm"),
    ("attn_kv_a_norm", "norm"),
    ("attn_q_a_norm", "norm"),
    ("attn_sub_norm", "norm"),
    ("ffn_sub_norm", "norm"),
    *((f"{name}.", "norm") for name in NORM_NAMES),
    ("attn_", "attention"),
    ("nextn.", "other"),
    ("v.", "vision"),
    ("a.", "vision"),
    ("mm.", "projector"),
    ("model.mm", "projector"),
)


class Match(Struct, frozen=True):
    """A file's weights as engines load them, and where they are not the model's."""

    weights: StoredWeights
    lacking: tuple[str, ...]  # of the model's inventory
    surplus: tuple[str, ...]  # beyond it
    misshapen: tuple[str, ...]  # of another size


def role_of(name: str) -> Role:
    """Return the part of a model that a GGUF tensor belongs to."""
    match = _IN_LAYER.fullmatch(name)
    stem = match[2] if match else name
    for start, role in _ROLES:
        if stem.startswith(start):
            return role
    if stem.startswith("ffn_"):
        return "shared_experts" if "shexp" in stem else "experts" if "exps" in stem else "mlp"
    return "other"


def split_name(name: str) -> tuple[int | None, str]:
    """Return the layer a tensor is in, None outside the layers, and its name there.

    >>> split_name("blk.3.attn_q.weight")
    (3, 'attn_q.weight')
    """
    match = _IN_LAYER.fullmatch(name)
    return (int(match[1]), match[2]) if match else (None, name)


def match_tensors(model: ModelSpec, tensors: Iterable[FileTensor], label: str) -> Match:
    """Return a GGUF's tensors under the names of the inventory; ``label`` is what the file calls its format.

    Layers beyond the model's, which predict the tokens after the next, are passed over as engines do.
    """
    n_layers = model.layers.n_layers
    left: dict[tuple[int | None, str], FileTensor] = {}
    for tensor in tensors:
        layer, stem = split_name(tensor.name)
        if layer is None or layer < n_layers:
            left[layer, stem] = tensor
    norms = _norms(left)
    found: list[StoredGroup] = []
    lacking, misshapen = [], []
    for group in gguf_groups(model):
        types: dict[str, list[int]] = defaultdict(list)
        for layer in group.layers or (None,):
            name = next((n for n in _names(group, layer, norms) if (layer, n) in left), None)
            if name is None:
                lacking.append(_full_name(layer, group.name))
                continue
            tensor = left.pop((layer, name))
            if tensor.n_elements != prod(group.shape) * group.copies:
                misshapen.append(tensor.name)
                found.append(_alone(tensor, layer, group.name))
            else:
                types[tensor.storage] += [] if layer is None else [layer]
        if types:
            found.append(_group(group, types))
    found += [_alone(tensor, layer, name) for (layer, name), tensor in left.items()]
    surplus = tuple(tensor.name for tensor in left.values())
    return Match(StoredWeights(format=label, groups=tuple(found)), tuple(lacking), surplus, tuple(misshapen))


def layers_text(layers: Sequence[int]) -> str:
    """Return ascending numbers as ranges.

    >>> layers_text([0, 1, 2, 7])
    '0-2,7'
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(start) if start == end else f"{start}-{end}" for start, end in runs)


def _names(group: TensorGroup, layer: int | None, norms: Mapping[tuple[int, str], str]) -> Iterator[str]:
    """Yield the names a file may use for one of the inventory's tensors."""
    name = group.name
    if layer is not None and (layer, name) in norms:
        yield norms[layer, name]
        return
    yield name
    yield f"{name}.weight"
    if name == "ffn_gate_inp.bias":
        yield from _ROUTER_BIASES


def _norms(tensors: Mapping[tuple[int | None, str], FileTensor]) -> dict[tuple[int, str], str]:
    """Return for each layer which of its norms stands for which of the inventory's, in the order both list them."""
    ours = ("attn_norm", "ffn_norm", *(name for name in NORM_NAMES if name.startswith("p")))
    theirs: dict[tuple[int, str], list[str]] = defaultdict(list)
    for layer, stem in tensors:
        name, _, part = stem.rpartition(".")
        if layer is not None and name in NORM_NAMES:
            theirs[layer, part].append(name)
    return {
        (layer, f"{our}.{part}"): f"{name}.{part}"
        for (layer, part), names in theirs.items()
        for our, name in zip(ours, sorted(names, key=NORM_NAMES.index), strict=False)
    }


def _group(group: TensorGroup, types: Mapping[str, Sequence[int]]) -> StoredGroup:
    texts = {name: layers_text(sorted(layers)) for name, layers in types.items()}
    return StoredGroup.model_construct(
        name=group.name, role=group.role, shape=group.shape, copies=group.copies, types=texts
    )


def _alone(tensor: FileTensor, layer: int | None, name: str) -> StoredGroup:
    text = "" if layer is None else str(layer)
    return StoredGroup.model_construct(
        name=name, role=role_of(tensor.name), shape=tensor.shape, copies=1, types={tensor.storage: text}
    )


def _full_name(layer: int | None, name: str) -> str:
    return name if layer is None else f"blk.{layer}.{name}"
