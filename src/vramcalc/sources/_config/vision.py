"""The tensors of vision towers and their projectors, from the keys of a config's ``vision_config``.

Names are short, not those of a file: a GGUF keeps towers in a file of their own.

Source:
    transformers 5.23: modeling_qwen3_vl.py, modeling_siglip.py, modeling_gemma4.py, modeling_llama4.py,
    modeling_pixtral.py, modeling_minimax_m3_vl.py, modeling_kimi_k25.py.
"""

from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct

from vramcalc.sources._config.keys import Keys


class Layers(Struct, frozen=True):
    """What all these encoders have in common."""

    width: int
    ff: int
    n_layers: int
    patch: int
    n_channels: int = 3


_QWEN_OUT = 3584  # of the class, whatever the text model
Rows = Iterator[tuple[str, tuple[int, ...], int]]


def square_attention(layers: Layers, *, bias: bool = True) -> Rows:
    w, n = layers.width, layers.n_layers
    yield "v.attn", (w, w), 4 * n
    if bias:
        yield "v.attn.bias", (w,), 4 * n


def plain_mlp(layers: Layers) -> Rows:
    w, ff, n = layers.width, layers.ff, layers.n_layers
    yield "v.ffn_up", (ff, w), n
    yield "v.ffn_up.bias", (ff,), n
    yield "v.ffn_down", (w, ff), n
    yield "v.ffn_down.bias", (w,), n


def gated_mlp(layers: Layers) -> Rows:
    yield "v.ffn_gate_up", (layers.ff, layers.width), 2 * layers.n_layers
    yield "v.ffn_down", (layers.width, layers.ff), layers.n_layers


def layer_norms(layers: Layers, n_others: int = 0) -> Rows:
    yield "v.norm", (layers.width,), 2 * (2 * layers.n_layers + n_others)  # weight and bias


def _qwen_vl(tower: Keys, _: Keys, __: int) -> Rows:
    w, merge = tower.count("hidden_size"), tower.count("spatial_merge_size") ** 2
    deep = len(tower.items("deepstack_visual_indexes") or [])
    layers = Layers(w, tower.count("intermediate_size"), tower.count("depth"), tower.count("patch_size"))
    out = tower.count("out_hidden_size", _QWEN_OUT)
    pixels = tower.count("in_channels", 3) * tower.count("temporal_patch_size") * layers.patch**2
    yield "v.patch_embd", (w, pixels), 1
    yield "v.patch_embd.bias", (w,), 1
    yield "v.position_embd", (tower.count("num_position_embeddings"), w), 1
    yield from square_attention(layers)  # Q, K and V as one matrix
    yield from plain_mlp(layers)
    yield from layer_norms(layers)
    yield "mm.norm", (w,), 2
    if deep:
        yield "mm.deepstack.norm", (merge * w,), 2 * deep
    yield "mm.up", (merge * w, merge * w), 1 + deep
    yield "mm.up.bias", (merge * w,), 1 + deep
    yield "mm.down", (out, merge * w), 1 + deep
    yield "mm.down.bias", (out,), 1 + deep


def _qwen3_vl(tower: Keys, top: Keys, text_hidden: int) -> Rows:
    if "deepstack_visual_indexes" not in tower:  # the class has some of its own
        raise tower.error("deepstack_visual_indexes", "is missing")
    return _qwen_vl(tower, top, text_hidden)


def common(tower: Keys) -> Layers:
    return Layers(
        tower.count("hidden_size"),
        tower.count("intermediate_size"),
        tower.count("num_hidden_layers"),
        tower.count("patch_size"),
        tower.count("num_channels", 3),
    )


def _siglip(tower: Keys, _: Keys, text_hidden: int) -> Rows:
    layers = common(tower)
    w = layers.width
    yield "v.patch_embd", (w, layers.n_channels * layers.patch**2), 1
    yield "v.patch_embd.bias", (w,), 1
    yield "v.position_embd", ((tower.count("image_size") // layers.patch) ** 2, w), 1
    yield from square_attention(layers)
    yield from plain_mlp(layers)
    yield from layer_norms(layers, 1)
    if tower.flag("vision_use_head", default=True):  # a pooler, which Gemma does without
        head = Layers(w, layers.ff, 1, layers.patch)
        yield from square_attention(head)
        yield from plain_mlp(head)
        yield "v.head.norm_and_probe", (w,), 3
    yield "mm.input_projection", (w, text_hidden), 1
    yield "mm.soft_emb_norm", (w,), 1


def _gemma_4(tower: Keys, _: Keys, text_hidden: int) -> Rows:
    layers, head = common(tower), tower.count("head_dim")
    w, n = layers.width, layers.n_layers
    q, kv = tower.count("num_attention_heads") * head, tower.count("num_key_value_heads") * head
    for key in ("attention_bias", "use_clipped_linears"):
        if tower.flag(key):
            raise tower.error(key, "is true, a shape that is not known")
    tower.flag("standardize")  # two buffers
    yield "v.patch_embd", (w, 3 * layers.patch**2), 1
    yield "v.position_embd", (2 * tower.count("position_embedding_size"), w), 1
    yield "v.attn_q_out", (q, w), 2 * n
    yield "v.attn_kv", (kv, w), 2 * n
    yield "v.attn_norm", (head,), 2 * n
    yield from gated_mlp(layers)
    yield "v.norm", (w,), 4 * n
    yield "mm.input_projection", (text_hidden, w), 1


def _llama_4(tower: Keys, _: Keys, text_hidden: int) -> Rows:
    layers = common(tower)
    w, ff, n = layers.width, layers.ff, layers.n_layers
    wide_in, wide_out = tower.count("projector_input_dim"), tower.count("projector_output_dim")
    yield "v.patch_embd", (w, layers.n_channels * layers.patch**2), 1
    yield "v.class_embd", (w,), 1
    yield "v.position_embd", ((tower.count("image_size") // layers.patch) ** 2 + 1, w), 1
    yield from square_attention(layers)
    yield from plain_mlp(layers)
    yield "v.norm", (w,), 2 * (2 * n + 2)
    yield "mm.1", (wide_in, ff), 1
    yield "mm.2", (wide_out, wide_out), 1
    yield "mm.input_projection", (text_hidden, tower.count("vision_output_dim")), 1
    tower.ignore("pixel_shuffle_ratio")


def pixtral_encoder(tower: Keys) -> Rows:
    """Yield Pixtral's encoder; sizes a config leaves out are those of the class."""
    w, n = tower.count("hidden_size", 1024), tower.count("num_hidden_layers", 24)
    layers = Layers(w, tower.count("intermediate_size", 4096), n, tower.count("patch_size", 16))
    channels = tower.count("num_channels", 3)
    if tower.count("head_dim", 0) not in (0, w // tower.count("num_attention_heads", 16)):
        raise tower.error("head_dim", "is not the width by heads, a shape that is not known")
    yield "v.patch_embd", (w, channels * layers.patch**2), 1
    yield "v.pre_norm", (w,), 1
    yield from square_attention(layers, bias=False)
    yield from gated_mlp(layers)
    yield "v.norm", (w,), 2 * n


def _pixtral(tower: Keys, top: Keys, text_hidden: int) -> Rows:
    w, merge = tower.count("hidden_size", 1024), top.count("spatial_merge_size", 2) ** 2
    if top.flag("multimodal_projector_bias"):
        raise top.error("multimodal_projector_bias", "is true, a shape that is not known")
    yield from pixtral_encoder(tower)
    yield "mm.input_norm", (w,), 1
    yield "mm.patch_merger", (w, merge * w), 1
    yield "mm.1", (text_hidden, w), 1
    yield "mm.2", (text_hidden, text_hidden), 1


def _minimax_m3(tower: Keys, top: Keys, text_hidden: int) -> Rows:
    layers = common(tower)
    w, wide = layers.width, top.count("projector_hidden_size", 6144)
    compression = tower.section("img_token_compression_config")
    frames = tower.count("temporal_patch_size", compression.count("temporal_patch_size", 2))
    merge = tower.count("spatial_merge_size", compression.count("spatial_merge_size", 2)) ** 2
    if not top.flag("multimodal_projector_bias", default=True):
        raise top.error("multimodal_projector_bias", "is false, a shape that is not known")
    yield "v.patch_embd", (w, layers.n_channels * frames * layers.patch**2), 1
    yield from square_attention(layers)
    yield from plain_mlp(layers)
    yield from layer_norms(layers, 1)
    for name, columns in (("mm.", w), ("mm.merge_", merge * text_hidden)):
        yield f"{name}1", (wide, columns), 1
        yield f"{name}1.bias", (wide,), 1
        yield f"{name}2", (text_hidden, wide), 1
        yield f"{name}2.bias", (text_hidden,), 1


_KIMI_KINDS = {"pos_emb_type": "divided_fixed", "merge_type": "sd2_tpool", "mm_projector_type": "patchmerger"}


def _kimi_k25(tower: Keys, top: Keys, text_hidden: int) -> Rows:
    for key, known in _KIMI_KINDS.items():
        if tower.get(key, known) != known:
            raise tower.error(key, f"is {tower.get(key)!r:.40}, a shape that is not known")
    w = tower.count("vt_hidden_size")
    layers = Layers(
        w, tower.count("vt_intermediate_size"), tower.count("vt_num_hidden_layers"), tower.count("patch_size")
    )
    down, across = tower.items("merge_kernel_size", 2) or (2, 2)
    tower.ignore("init_pos_emb_time")  # sines, a buffer
    yield "v.patch_embd", (w, 3 * layers.patch**2), 1
    yield "v.patch_embd.bias", (w,), 1
    yield "v.position_embd", (tower.count("init_pos_emb_height") * tower.count("init_pos_emb_width"), w), 1
    yield from square_attention(layers)
    yield from plain_mlp(layers)
    yield from layer_norms(layers, 1)
    top.ignore("projection_layer_norm_eps")
    merged = down * across * w
    yield "mm.norm", (top.count("projection_hidden_size", w),), 2
    yield "mm.1", (merged, merged), 1
    yield "mm.1.bias", (merged,), 1
    yield "mm.2", (text_hidden, merged), 1
    yield "mm.2.bias", (text_hidden,), 1


def _step3p7(tower: Keys, top: Keys, text_hidden: int) -> Rows:
    w, n, channels = tower.count("hidden_size"), tower.count("num_hidden_layers"), tower.count("num_channels", 3)
    wide = int(w * tower.number("mlp_ratio", 8960 / 1536))  # whatever intermediate_size says
    layers = Layers(w, wide, n, tower.count("patch_size"), channels)
    tower.ignore("intermediate_size", "layer_scale_init_value")
    yield "v.patch_embd", (w, layers.n_channels * layers.patch**2), 1
    yield "v.position_embd", ((tower.count("image_size") // layers.patch) ** 2, w), 1
    yield from square_attention(layers)
    yield from plain_mlp(layers)
    yield from layer_norms(layers, 1)
    yield "v.layer_scale", (w,), 2 * n
    for step in (1, 2):
        yield f"v.downsample.{step}", (2 * step * w, step * w, 3, 3), 1
        yield f"v.downsample.{step}.bias", (2 * step * w,), 1
    yield "mm.input_projection", (text_hidden, 4 * w), 1
    if top.flag("projector_bias"):
        yield "mm.input_projection.bias", (text_hidden,), 1


TOWERS: Mapping[str, Callable[[Keys, Keys, int], Rows]] = {
    "qwen_vl": _qwen_vl,
    "qwen3_vl": _qwen3_vl,
    "siglip": _siglip,
    "gemma_4": _gemma_4,
    "llama_4": _llama_4,
    "pixtral": _pixtral,
    "minimax_m3": _minimax_m3,
    "kimi_k25": _kimi_k25,
    "step3p7": _step3p7,
}
