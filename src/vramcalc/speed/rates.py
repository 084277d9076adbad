"""What engines reach of a card's peak, by class of card; fitted to the runs of ``data/measured/speed_*.csv``.

A class has a handful of coefficients, a card or a model none. The fit minimises the logarithm of predicted over
measured speed, each machine weighing the square root of its runs (``benchmarks/fit_speed.py``).

Source:
    llama.cpp discussions 4167, 10879, 15013, 15396; XiongjieDai/GPU-Benchmarks-on-LLM-Inference; ai-benchmarks of
    geerlingguy; community runs of AlexsJones/llmfit; Qwen2.5's speed benchmark; runs in issues, each named in its row.
"""

from collections.abc import Mapping

from msgspec import Struct

from vramcalc.formulas.roofline import Rates
from vramcalc.specs.gpu import GpuSpec

_MICROSECOND = 1e-6
# Operations of the shaders to unpack one weight: k-quants, and the plain formats before them.
_LEGACY_FORMATS = frozenset({"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4", "mxfp4_moe"})
_FLOATS = frozenset({"f32", "f16", "bf16"})
_APPLE_FLOPS_PER_BYTE = 34  # of bandwidth, M2 to M3 in the vendor's figures: taken where a chip's are not known


class CardClass(Struct, frozen=True):
    """Shares of a card's peaks that an engine reaches, and what every layer costs on top.

    ``low`` and ``high`` are the shares of the best decode figure between which 85 % of the runs of the class lie, or
    as much as few runs allow to say; ``unpack_flops`` is what the shaders spend on a weight of a k-quant, and of an
    older format.
    """

    read_share: float  # of the bandwidth, for weights
    cache_share: float  # of the bandwidth, for the cache
    layer_us: int
    routed_layer_us: int  # more, where the layer has experts
    hop_us: int  # from one device to the next
    low: float
    high: float
    compute_share: float  # of the matrix units' peak while a prompt is read
    unpack_flops: tuple[int, int] = (0, 0)


_HOP_US = 390  # two to eight cards, layers split over them
_GGML: Mapping[str, CardClass] = {
    "nvidia": CardClass(0.85, 0.6, 53, 23, _HOP_US, 0.85, 1.16, 0.75),
    "nvidia hbm": CardClass(0.63, 0.5, 95, 23, _HOP_US, 0.82, 1.22, 0.17),
    "nvidia unified": CardClass(0.77, 0.5, 14, 7, _HOP_US, 0.87, 1.14, 1.3),
    "nvidia pascal": CardClass(0.85, 0.5, 149, 23, _HOP_US, 0.71, 1.22, 0.8, (30, 30)),
    "amd": CardClass(0.84, 0.7, 63, 35, _HOP_US, 0.75, 1.3, 0.38),
    "intel": CardClass(0.9, 0.5, 300, 35, _HOP_US, 0.6, 1.5, 0.08),
    "apple": CardClass(0.88, 0.5, 107, 56, 0, 0.86, 1.15, 0.62, (24, 13)),
    "apple m1": CardClass(0.9, 0.4, 232, 22, 0, 0.78, 1.27, 0.62, (27, 13)),
    "apple ultra": CardClass(0.84, 0.4, 178, 23, 0, 0.84, 1.18, 0.6, (24, 13)),
}
_PAGED: Mapping[str, CardClass] = {
    "nvidia": CardClass(0.9, 0.73, 41, 6, 50, 0.72, 1.3, 0.6),
    "nvidia hbm": CardClass(0.865, 0.4, 139, 90, 50, 0.86, 1.3, 0.6),
}
# The likest class that runs are known of, where a class has none.
_LIKE = {
    "nvidia unified": "nvidia",
    "nvidia pascal": "nvidia",
    "amd": "nvidia",
    "amd cdna": "nvidia hbm",
    "intel": "nvidia",
}
_LIKE_GGML = {"amd cdna": "amd"}
_FAMILIES = {"llama.cpp": _GGML, "ollama": _GGML, "vllm": _PAGED, "sglang": _PAGED, "tensorrt-llm": _PAGED}
_BORROWERS = frozenset({"sglang", "tensorrt-llm"})  # vLLM's shares, for want of runs of their own
_LEAST_HBM_NVLINK = 150  # GB/s: so many links mark the data-centre dies, which carry HBM
_WIDER = {"ollama": (0.93, 1.13)}  # its runs come from people's own machines, one or two each
_UNSEEN = (0.5, 1.5)  # the range where no run of the class under the engine is known


class CardRates(Struct, frozen=True, kw_only=True):
    """The rates of one card under one engine; ``low`` and ``high`` are shares of the best figure."""

    rates: Rates
    shares: CardClass
    cache_share: float
    name: str  # of the class
    low: float
    high: float
    is_seen: bool  # whether runs of the class under the engine are known
    assumption: str = ""


def class_of(gpu: GpuSpec) -> str:
    """Return the class of a card; a new vendor is one of its own, which no engine has rates for."""
    kind = ""
    match gpu.vendor:
        case "nvidia" if gpu.unified_memory:
            kind = "unified"
        case "nvidia" if gpu.architecture == "pascal":
            kind = "pascal"
        case "nvidia" if (gpu.nvlink_gb_per_s or 0) >= _LEAST_HBM_NVLINK:
            kind = "hbm"
        case "amd" if gpu.architecture.startswith("cdna"):
            kind = "cdna"
        case "apple" if "ultra" in gpu.id:
            kind = "ultra"
        case "apple" if gpu.architecture == "m1":
            kind = "m1"
        case _:
            pass
    return f"{gpu.vendor} {kind}".strip()


def rates_of(engine: str, weight_format: str, gpu: GpuSpec, n_sequences: int = 1) -> CardRates | None:
    """Return what a card does under an engine, None where its bandwidth or the engine's shares are not known.

    The cache of one sequence does not keep a card busy; those of several at once come up to the pace of weights.
    """
    family = _FAMILIES.get(engine)
    if family is None or gpu.bandwidth_gb_per_s is None:
        return None
    name = class_of(gpu)
    is_seen = name in family and engine not in _BORROWERS
    like = _LIKE_GGML if family is _GGML else _LIKE
    found = family.get(name) or family.get(like.get(name, ""))
    if found is None:
        return None
    bandwidth = gpu.bandwidth_gb_per_s * 1e9
    flops, assumption = _peak_flops(gpu, bandwidth)
    low, high = (found.low, found.high) if is_seen else _UNSEEN
    cache_share = min(max(found.read_share, found.cache_share), found.cache_share * n_sequences)
    wider = _WIDER.get(engine, (1.0, 1.0))
    unpack = 0 if weight_format in _FLOATS else found.unpack_flops[weight_format in _LEGACY_FORMATS]
    shaders = gpu.tensor_tflops.get("f32", 0) * 1e12 or flops
    rates = Rates(
        bytes_per_s=bandwidth * found.read_share,
        cache_bytes_per_s=bandwidth * cache_share,
        flops_per_s=flops * found.compute_share,
        layer_s=found.layer_us * _MICROSECOND,
        routed_layer_s=found.routed_layer_us * _MICROSECOND,
        weights_per_s=shaders / unpack if unpack else 0.0,
    )
    return CardRates(
        rates=rates,
        shares=found,
        cache_share=cache_share,
        name=name,
        low=low * wider[0],
        high=high * wider[1],
        is_seen=is_seen,
        assumption=assumption,
    )


def _peak_flops(gpu: GpuSpec, bandwidth: float) -> tuple[float, str]:
    """Return the operations per second that matrix products can reach at best, and what had to be taken for it."""
    for precision in ("bf16", "f16", "f32"):
        if precision in gpu.tensor_tflops:
            return gpu.tensor_tflops[precision] * 1e12, ""
    return _APPLE_FLOPS_PER_BYTE * bandwidth, (
        f"{gpu.name}'s operations per second are not published: {_APPLE_FLOPS_PER_BYTE} per byte of bandwidth are taken"
    )
