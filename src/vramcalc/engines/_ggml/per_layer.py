"""Embeddings of each token for each layer: Gemma 4's small models and Gemma 3n.

Source:
    llama.cpp 0c1e570, src/models/gemma4.cpp and gemma3n.cpp (build_inp_per_layer, project_per_layer_inputs).
"""

from vramcalc.engines._ggml.builder import Builder
from vramcalc.engines._ggml.tensor import (
    CPU,
    Tensor,
    cont,
    get_rows,
    graph_input,
    leaf,
    like,
    mul_mat,
    permute,
    reshape,
    shape,
    view,
)


def inputs(builder: Builder, x: Tensor) -> Tensor | None:
    """Return what all layers add, [per-layer width, tokens, layers], or None where the model has no such thing."""
    table = next((w for w in builder.ends.entrance if w.name == "per_layer_token_embd"), None)
    if table is None:
        return None
    n, first = builder.batch.n_tokens, builder.current
    width = first.weights["per_layer_proj_norm.weight"].shape[0]
    n_layers = table.shape[1] // width
    rows = get_rows(
        leaf("weight", shape(*table.shape[::-1]), CPU, n_bytes=table.device_bytes), graph_input((n, 1, 1, 1))
    )
    looked_up = builder.graph.expand(like("scale", reshape(rows, width, n_layers, n)))
    projected = reshape(mul_mat(first.weight("per_layer_model_proj"), x), width, n_layers, n)
    projected = builder.norm(projected, "per_layer_proj_norm")
    return cont(permute(like("add", projected, looked_up)))


def add_embedding(builder: Builder, x: Tensor, of_layers: Tensor) -> Tensor:
    """Return a layer's output with its own part of the embedding let in through a gate."""
    width, n = of_layers.ne[0], of_layers.ne[1]
    gate = like("unary", builder.project("inp_gate", x))
    gated = like("mul", gate, view(of_layers, (width, n, 1, 1), contiguous=True))
    return like("add", x, builder.norm(builder.project("proj", gated), "post_norm"))
