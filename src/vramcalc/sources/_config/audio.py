"""The tensors of audio towers and their projectors, and of Gemma 3n's vision, from the keys of a config's sections.

Source:
    transformers 5.23: modeling_qwen2_audio.py, modeling_gemma3n.py.
"""

from collections.abc import Callable, Mapping

from vramcalc.sources._config.keys import Keys
from vramcalc.sources._config.vision import Layers, Rows, layer_norms, plain_mlp

_CONVOLUTIONS = 2


def _qwen2_audio(tower: Keys, _: Keys, text_hidden: int) -> Rows:
    """Yield Whisper's encoder, whose keys have no bias, and a linear projector."""
    w, mels = tower.count("d_model", 1280), tower.count("num_mel_bins", 128)
    layers = Layers(w, tower.count("encoder_ffn_dim", 5120), tower.count("encoder_layers", 32), 1)
    tower.ignore("encoder_attention_heads", "num_hidden_layers")
    yield "a.conv1", (w, mels, 3), 1
    yield "a.conv2", (w, w, 3), 1
    yield "a.conv.bias", (w,), 2
    yield "a.position_embd", (tower.count("max_source_positions", 1500), w), 1
    yield "a.attn", (w, w), 4 * layers.n_layers
    yield "a.attn.bias", (w,), 3 * layers.n_layers
    yield from (("a" + name[1:], shape, n) for name, shape, n in (*plain_mlp(layers), *layer_norms(layers, 1)))
    yield "mm.a.projector", (text_hidden, w), 1
    yield "mm.a.projector.bias", (text_hidden,), 1


def _gemma_3n_audio(tower: Keys, _: Keys, text_hidden: int) -> Rows:
    """Yield a conformer behind two strided convolutions, and its embedder."""
    w, n = tower.count("hidden_size", 1536), tower.count("conf_num_hidden_layers", 12)
    heads, kernel = tower.count("conf_num_attention_heads", 8), tower.count("conf_conv_kernel_size", 5)
    if not heads or w % heads:
        raise tower.error("conf_num_attention_heads", f"does not divide the width {w}")
    yield from _subsampling(tower, w)
    yield "a.attn", (w, w), 4 * n  # Q, K, V and positions
    yield "a.attn_post", (w, w), n
    yield "a.attn_scale", (w // heads,), n
    yield "a.ffn_up", (4 * w, w), 2 * n  # before and behind the attention
    yield "a.ffn_down", (w, 4 * w), 2 * n
    yield "a.conv_in", (2 * w, w), n
    yield "a.conv_dw", (w, kernel), n
    yield "a.conv_out", (w, w), n
    yield "a.norm", (w,), 9 * n
    yield from embedder("mm.a", tower, w, text_hidden)


def _subsampling(tower: Keys, width: int) -> Rows:
    channels = tower.items("sscp_conv_channel_size", _CONVOLUTIONS) or [128, 32]
    kernels = tower.items("sscp_conv_kernel_size", _CONVOLUTIONS) or [[3, 3], [3, 3]]
    strides = tower.items("sscp_conv_stride_size", _CONVOLUTIONS) or [[2, 2], [2, 2]]
    before, features = 1, tower.count("input_feat_size", 128)
    for i, (out, kernel, stride) in enumerate(zip(channels, kernels, strides, strict=True)):
        sizes = (out, *kernel, *stride) if isinstance(kernel, list) and isinstance(stride, list) else (None,)
        if len(sizes) != 5 or not all(isinstance(size, int) and 0 < size < 1 << 20 for size in sizes):  # noqa: PLR2004
            raise tower.error("sscp_conv_kernel_size", "is no pair of convolutions")
        yield f"a.conv.{i}", (out, before, kernel[0], kernel[1]), 1
        yield f"a.conv_norm.{i}", (out,), 1
        before, features = out, (features + 2 - kernel[1]) // stride[1] + 1
    yield "a.input_projection", (width, before * features), 1


def embedder(name: str, tower: Keys, width: int, text_hidden: int) -> Rows:
    """Yield what puts Gemma 3n's tokens of a tower into the text model: its own tokens, two norms, a projection."""
    yield f"{name}.embedding", (tower.count("vocab_size", 128), width), 1
    yield f"{name}.norm", (width,), 2
    yield f"{name}.projection", (text_hidden, width), 1


_MOBILENETS = {"mobilenetv5_300m_enc": 294_126_912}  # parameters: what both releases hold beside all other parts


def _gemma_3n_vision(tower: Keys, _: Keys, text_hidden: int) -> Rows:
    """Yield timm's MobileNet, of one size, and its embedder.

    Source:
        Hugging Face's counts of google/gemma-3n-E2B-it and -E4B-it, 5439438272 and 7849978192, less the text model with
        the keys and values of every layer, the audio tower and both embedders as transformers 5.23 builds them.
    """
    name = tower.get("architecture", "mobilenetv5_300m_enc")
    if not isinstance(name, str) or name not in _MOBILENETS:
        raise tower.error("architecture", f"is a tower that is not known: {name!r:.80}")
    yield "v.mobilenet", (_MOBILENETS[name],), 1
    yield from embedder("mm", tower, tower.count("hidden_size", 2048), text_hidden)


AUDIO_TOWERS: Mapping[str, Callable[[Keys, Keys, int], Rows]] = {
    "qwen2_audio": _qwen2_audio,
    "gemma_3n_audio": _gemma_3n_audio,
    "gemma_3n": _gemma_3n_vision,
}
