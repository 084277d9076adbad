"""Vision towers of CLIP's and SigLIP's shape, InternVL's and GLM-4V's, with the projectors they are joined by.

Source:
    transformers 5.23: modeling_clip.py, modeling_siglip.py, modeling_llava.py, modeling_llava_next.py,
    modeling_cohere2_vision.py, modeling_aya_vision.py, modeling_idefics3.py, modeling_paligemma.py,
    modeling_internvl.py, modeling_glm4v.py; sizes a config leaves out are those of the classes.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vramcalc.sources._config.keys import Keys
from vramcalc.sources._config.vision import (
    Layers,
    Rows,
    gated_mlp,
    layer_norms,
    pixtral_encoder,
    plain_mlp,
    square_attention,
)

_CLIP = (768, 3072, 12, 32, 224)
_SIGLIP = (768, 3072, 12, 16, 224)
_IDEFICS = (1152, 3072, 12, 32, 224)
_INTERN = (1024, 4096, 24, 14, 448)


def _sizes(tower: Keys, unset: tuple[int, int, int, int, int]) -> tuple[Layers, int]:
    """Return the encoder's sizes and how many patches a picture has."""
    width, ff, n_layers, patch, image = unset
    layers = Layers(
        tower.count("hidden_size", width),
        tower.count("intermediate_size", ff),
        tower.count("num_hidden_layers", n_layers),
        _side(tower, "patch_size", patch),
        tower.count("num_channels", 3),
    )
    if not layers.patch:
        raise tower.error("patch_size", "is zero")
    return layers, (_side(tower, "image_size", image) // layers.patch) ** 2


def _side(tower: Keys, name: str, unset: int) -> int:
    """Return the side of a square, which some state as two numbers."""
    value: Any = tower.get(name, unset)
    match value:
        case [int(height), int(width)] if height == width:
            return height
        case _:
            return tower.count(name, unset)


def _patches(layers: Layers, n_positions: int, *, bias: bool) -> Rows:
    yield "v.patch_embd", (layers.width, layers.n_channels * layers.patch**2), 1
    if bias:
        yield "v.patch_embd.bias", (layers.width,), 1
    yield "v.position_embd", (n_positions, layers.width), 1


def _clip(tower: Keys) -> Rows:
    layers, n_patches = _sizes(tower, _CLIP)
    yield "v.class_embd", (layers.width,), 1
    yield from _patches(layers, n_patches + 1, bias=False)
    yield from square_attention(layers)
    yield from plain_mlp(layers)
    yield from layer_norms(layers, 2)


def _siglip(tower: Keys, unset: tuple[int, int, int, int, int] = _SIGLIP, *, head: bool = True) -> Rows:
    layers, n_patches = _sizes(tower, unset)
    yield from _patches(layers, n_patches, bias=True)
    yield from square_attention(layers)
    yield from plain_mlp(layers)
    yield from layer_norms(layers, 1)
    if head and tower.flag("vision_use_head", default=True):
        top = Layers(layers.width, layers.ff, 1, layers.patch)
        yield from square_attention(top)
        yield from plain_mlp(top)
        yield "v.head.norm_and_probe", (layers.width,), 3


def _encoder(tower: Keys, *kinds: str) -> tuple[Rows, int]:
    """Return the encoder that the section names, the first kind where it names none, and its width."""
    kind = tower.get("model_type", kinds[0])
    if kind not in kinds:
        raise tower.error("model_type", f"is a tower that is not known: {kind!r:.80}")
    rows, unset = _ENCODERS[kind](tower), _WIDTHS[kind]
    return rows, tower.count("hidden_size", unset)


_ENCODERS: Mapping[str, Callable[[Keys], Rows]] = {
    "clip_vision_model": _clip,
    "siglip_vision_model": _siglip,
    "pixtral": pixtral_encoder,
}
_WIDTHS = {"clip_vision_model": 768, "siglip_vision_model": 768, "pixtral": 1024}


def _linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Rows:
    yield name, (rows, columns), 1
    if bias:
        yield f"{name}.bias", (rows,), 1


def _two_layers(top: Keys, text_hidden: int, width: int) -> Rows:
    bias, chosen = top.flag("multimodal_projector_bias", default=True), top.get("vision_feature_layer")
    n_features = len(chosen) if isinstance(chosen, list) else 1
    yield from _linear("mm.1", text_hidden, n_features * width, bias=bias)
    yield from _linear("mm.2", text_hidden, text_hidden, bias=bias)


def _llava(tower: Keys, top: Keys, text_hidden: int) -> Rows:
    encoder, width = _encoder(tower, "clip_vision_model", "siglip_vision_model", "pixtral")
    yield from encoder
    yield from _two_layers(top, text_hidden, width)


def _llava_next(tower: Keys, top: Keys, text_hidden: int) -> Rows:
    yield from _llava(tower, top, text_hidden)
    yield "mm.image_newline", (text_hidden,), 1


def _half_gated(tower: Keys, top: Keys, text_hidden: int, *, norm: bool) -> Rows:
    """Yield Cohere's projector: half of the wide layer gates the other half."""
    encoder, width = _encoder(tower, "siglip_vision_model")
    yield from encoder
    wide = top.count("alignment_intermediate_size", text_hidden if norm else 36864)
    joined = width * top.count("downsample_factor", 2) ** 2
    if norm:
        yield "mm.norm", (joined,), 2
    yield from _linear("mm.1", wide, joined)
    yield from _linear("mm.2", text_hidden, wide // 2)


def _aya(tower: Keys, top: Keys, text_hidden: int) -> Rows:
    return _half_gated(tower, top, text_hidden, norm=True)


def _cohere2(tower: Keys, top: Keys, text_hidden: int) -> Rows:
    return _half_gated(tower, top, text_hidden, norm=False)


def _idefics3(tower: Keys, top: Keys, text_hidden: int) -> Rows:
    yield from _siglip(tower, _IDEFICS, head=False)
    joined = tower.count("hidden_size", _IDEFICS[0]) * top.count("scale_factor", 2) ** 2
    yield from _linear("mm.1", text_hidden, joined, bias=False)


def _paligemma(tower: Keys, top: Keys, text_hidden: int) -> Rows:
    yield from _siglip(tower)
    out = top.count("projection_dim", tower.count("projection_dim", text_hidden))
    yield from _linear("mm.1", out, tower.count("hidden_size", _SIGLIP[0]))


def _internvl(tower: Keys, top: Keys, text_hidden: int) -> Rows:
    layers, n_patches = _sizes(tower, _INTERN)
    w, n = layers.width, layers.n_layers
    for key, known in {
        "norm_type": "layer_norm", "use_mask_token": False, "use_mean_pooling": True,
        "use_absolute_position_embeddings": True,
    }.items():  # fmt: skip
        if tower.get(key, known) != known:
            raise tower.error(key, f"is {tower.get(key)!r:.40}, a shape that is not known")
    yield "v.class_embd", (w,), 1
    yield from _patches(layers, n_patches + 1, bias=True)
    yield from square_attention(layers, bias=False)
    yield "v.attn.bias", (w,), n * (4 if tower.flag("attention_bias") else 1)
    if tower.flag("use_qk_norm"):
        yield "v.attn_norm", (w,), 2 * n
    yield from plain_mlp(layers)
    yield from layer_norms(layers)
    yield "v.layer_scale", (w,), 2 * n
    ratio = top.number("downsample_ratio", 0.5)
    if not ratio:
        raise top.error("downsample_ratio", "is zero")
    joined = w * int(1 / ratio) ** 2
    yield "mm.norm", (joined,), 2
    yield from _linear("mm.1", text_hidden, joined)
    yield from _linear("mm.2", text_hidden, text_hidden)


def _glm4v(tower: Keys, _: Keys, __: int) -> Rows:
    w, n, out = tower.count("hidden_size", 1536), tower.count("depth", 24), tower.count("out_hidden_size", 4096)
    layers = Layers(w, out, n, _side(tower, "patch_size", 14), tower.count("in_channels", 3))
    merge, wide = tower.count("spatial_merge_size", 2), tower.count("intermediate_size", 13696)
    if not layers.patch:
        raise tower.error("patch_size", "is zero")
    n_patches = (_side(tower, "image_size", 336) // layers.patch) ** 2
    pixels = layers.n_channels * tower.count("temporal_patch_size", 2) * layers.patch**2
    yield from _linear("v.patch_embd", w, pixels)
    yield "v.position_embd", (n_patches, w), 1
    yield from square_attention(layers, bias=False)
    if tower.flag("attention_bias"):
        yield "v.attn.bias", (3 * w,), n
    yield from gated_mlp(layers)
    yield "v.norm", (w,), 2 * n + 2
    yield from _linear("v.downsample", out, w * merge**2)
    yield from _linear("mm.1", out, out, bias=False)
    yield "mm.norm", (out,), 2
    yield "mm.gate_up", (wide, out), 2
    yield "mm.down", (out, wide), 1


CLIP_TOWERS: Mapping[str, Callable[[Keys, Keys, int], Iterator[tuple[str, tuple[int, ...], int]]]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "aya": _aya,
    "cohere2": _cohere2,
    "idefics3": _idefics3,
    "paligemma": _paligemma,
    "internvl": _internvl,
    "glm4v": _glm4v,
}
