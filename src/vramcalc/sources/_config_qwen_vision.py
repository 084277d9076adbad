"""The vision towers of Qwen2-VL and Qwen2.5-VL.

Source:
    transformers 5.23: modeling_qwen2_vl.py, modeling_qwen2_5_vl.py.
"""

from collections.abc import Callable, Mapping

from vramcalc.sources._config_keys import Keys
from vramcalc.sources._config_vision import Layers, Rows, layer_norms, plain_mlp, square_attention

_OUT = 3584  # of the class, whatever the text model


def _patches(tower: Keys, layers: Layers) -> Rows:
    """Yield the patch embedding, which has no bias; its channels go by two names."""
    channels = tower.count("in_channels", tower.get("in_chans", 3))
    tower.ignore("in_chans")
    pixels = channels * tower.count("temporal_patch_size", 2) * layers.patch**2
    yield "v.patch_embd", (layers.width, pixels), 1


def _merger(width: int, merge: int, out: int) -> Rows:
    yield "mm.up", (merge * width, merge * width), 1
    yield "mm.up.bias", (merge * width,), 1
    yield "mm.down", (out, merge * width), 1
    yield "mm.down.bias", (out,), 1


def _qwen2_vl(tower: Keys, _: Keys, __: int) -> Rows:
    w, ratio = tower.count("embed_dim", 1280), tower.count("mlp_ratio", 4)
    merge = tower.count("spatial_merge_size", 2) ** 2
    layers = Layers(w, ratio * w, tower.count("depth", 32), tower.count("patch_size", 14))
    yield from _patches(tower, layers)
    yield from square_attention(layers)
    yield from plain_mlp(layers)
    yield from layer_norms(layers)
    yield "mm.norm", (w,), 2
    yield from _merger(w, merge, tower.count("hidden_size", _OUT))


def _qwen2_5_vl(tower: Keys, _: Keys, __: int) -> Rows:
    w, merge = tower.count("hidden_size"), tower.count("spatial_merge_size", 2) ** 2
    ff, n = tower.count("intermediate_size", 3420), tower.count("depth", 32)
    layers = Layers(w, ff, n, tower.count("patch_size", 14))
    yield from _patches(tower, layers)
    yield from square_attention(layers)
    yield "v.ffn_gate_up", (ff, w), 2 * n
    yield "v.ffn_gate_up.bias", (ff,), 2 * n
    yield "v.ffn_down", (w, ff), n
    yield "v.ffn_down.bias", (w,), n
    yield "v.norm", (w,), 2 * n
    yield "mm.norm", (w,), 1
    yield from _merger(w, merge, tower.count("out_hidden_size", _OUT))


QWEN_TOWERS: Mapping[str, Callable[[Keys, Keys, int], Rows]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
}
