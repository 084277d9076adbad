"""What a smaller format costs in quality, as published: never our own judgement.

Two measures that do not compare with each other: llama.cpp's Kullback-Leibler divergence from the unquantised model's
token distribution (0 is the same model), and the benchmark score a quantised checkpoint keeps. One model's figures are
carried over to others, so they rank formats; they do not promise a score.
"""

from msgspec import Struct

_SCOREBOARD = "llama.cpp, tools/perplexity/README.md: Llama 3 8B on Wikitext-2"
_CARDS = "model cards of RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.*, OpenLLM v1"
_SCOREBOARD_PERPLEXITY = 6.2317  # of the f16 model behind the scoreboard


_COMMON = frozenset({"q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k", "fp8", "w4a16"})

_HEAVY_RISE, _HEAVY_SCORE = 0.08, 0.95


class Quality(Struct, frozen=True):
    """One weight or cache format: its nominal bits, and its loss where somebody published it.

    ``divergence`` is a mean KL divergence in nats, ``perplexity_rise`` a share of the unquantised perplexity and
    ``score_kept`` a share of the unquantised benchmark score. ``is_borrowed``: measured on a sibling format.
    """

    name: str
    bits: float
    divergence: float | None = None
    perplexity_rise: float | None = None
    score_kept: float | None = None
    source: str = ""
    is_borrowed: bool = False

    @property
    def is_common(self) -> bool:
        """Whether it is one of the few that most publishers offer."""
        return self.name in _COMMON

    @property
    def is_heavy(self) -> bool:
        """Whether the loss is one most people notice: from where the scoreboard's curve turns steep, at 3 bits."""
        return (self.perplexity_rise or 0) >= _HEAVY_RISE or (self.score_kept or 1) < _HEAVY_SCORE

    @property
    def loss(self) -> float | None:
        """The loss by its own measure, for ranking formats of one family; None where nobody published one."""
        if self.divergence is not None:
            return self.divergence
        return None if self.score_kept is None else max(0.0, 1 - self.score_kept)


def _scored(name: str, bits: float, perplexity_rise: float, divergence: float) -> Quality:
    return Quality(name, bits, divergence, perplexity_rise / _SCOREBOARD_PERPLEXITY, source=_SCOREBOARD)


# Best first, by divergence: bits, the rise of perplexity, the divergence. Mixes that need an importance matrix were
# measured with one, the others without.
GGUF_QUALITY = (
    Quality("bf16", 16, 0.0, 0.0, source="the checkpoint's own numbers"),
    _scored("q8_0", 8.5, 0.002650, 0.001355),
    _scored("q6_k", 6.6, 0.021748, 0.005452),
    _scored("q5_k_m", 5.7, 0.056974, 0.010762),
    _scored("q5_k_s", 5.5, 0.104964, 0.016595),
    _scored("q4_k_m", 4.9, 0.175482, 0.031273),
    _scored("iq4_xs", 4.3, 0.228071, 0.036334),
    _scored("q4_k_s", 4.6, 0.268895, 0.043136),
    _scored("q4_0", 4.6, 0.468514, 0.071940),
    _scored("q3_k_l", 4.3, 0.556242, 0.087176),
    _scored("q3_k_m", 3.9, 0.656864, 0.101913),
    _scored("iq3_xxs", 3.2, 1.226803, 0.183625),
    _scored("q3_k_s", 3.6, 1.632152, 0.228217),
    _scored("iq2_m", 2.9, 2.369166, 0.325989),
    _scored("q2_k", 3.1, 3.519934, 0.445132),
    _scored("iq2_xs", 2.6, 4.529791, 0.546290),
    _scored("iq2_xxs", 2.4, 7.860148, 0.812022),
)

CHECKPOINT_QUALITY = (
    Quality("bf16", 16, score_kept=1.0, source="the checkpoint's own numbers"),
    Quality("int8", 8, score_kept=1.003, source=_CARDS + " (w8a8)"),
    Quality("fp8", 8, score_kept=0.998, source="auto-round's FP8_BLOCK on Llama 3 8B Instruct", is_borrowed=True),
    Quality("w4a16", 4, score_kept=0.989, source=_CARDS + " (w4a16)"),
    Quality("awq-4bit", 4, score_kept=0.989, source=_CARDS + " (w4a16)", is_borrowed=True),
    Quality("gptq-4bit", 4, score_kept=0.989, source=_CARDS + " (w4a16)", is_borrowed=True),
    Quality("nvfp4", 4, score_kept=0.938, source="arXiv:2509.23202, Llama 3.1 8B Instruct, round to nearest"),
)

# A quantised cache under full-precision weights, against f16's own figure of the same run.
CACHE_QUALITY = {
    q.name: q
    for q in (
        Quality("f16", 16, 0.0, 0.0, 1.0, "as the model computes it"),
        Quality("bf16", 16, 0.0, 0.0, 1.0, "as the model computes it"),
        Quality("q8_0", 8.5, 0.000791, 0.00035, source="llama.cpp pull request 7412: Llama 3 8B on Wikitext-2"),
        Quality("q4_0", 4.5, None, 0.136, source="llama.cpp pull request 20995: TinyLlama 1.1B, the worst published"),
        Quality("fp8", 8, source="vLLM's documentation calls the loss minimal and prints no figure"),
    )
}

GGUF_ENGINES = frozenset({"ollama", "llama.cpp"})


def qualities_for(engine: str) -> tuple[Quality, ...]:
    """Return the weight formats worth trying under an engine, best first."""
    return GGUF_QUALITY if engine in GGUF_ENGINES else CHECKPOINT_QUALITY


def weight_quality(engine: str, name: str | None) -> Quality | None:
    """Return what is published about a weight format under an engine, or None."""
    return next((quality for quality in qualities_for(engine) if quality.name == name), None)
