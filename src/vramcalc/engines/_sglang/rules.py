"""What SGLang decides by its version, the card and the parallel sizes: the static share, chunks, graphs, pages.

Source:
    Wheels of SGLang 0.4.1 to 0.5.23 on PyPI: srt/server_args.py, from 0.5.19 srt/arg_groups/memory_hook.py.
"""

from fractions import Fraction

from msgspec import Struct

from vramcalc.engines._serving.formats import FormatRules
from vramcalc.engines._serving.weights import Layout
from vramcalc.engines._vllm.rules import Capability, capability, family_starts, has_sinks
from vramcalc.formulas.capacity import driver_memory
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import ExtraTensor, LatentAttention, ModelSpec
from vramcalc.units import MIB

LEAST_CAPABILITY: Capability = (7, 5)  # model_executor/model_runner_components/load_model_utils.py
FORMATS = FormatRules(
    engine="SGLang",
    least={  # get_min_capability of each method; int4 runs in Marlin, and compressed-tensors asks by scheme
        "fp8": (8, 0),
        "fp8-channel": (8, 0),
        "fp8-block": (8, 0),
        "int8": (7, 5),
        "awq-4bit": (8, 0),
        "gptq-4bit": (8, 0),
        "gptq-8bit": (8, 0),
        "w4a16": (8, 0),
        "nvfp4": (10, 0),
        "mxfp4": (8, 0),
    },
    fp8_cache=(8, 0),
)
SWA_FULL_RATIO = Fraction(8, 10)  # windowed tokens per token of a full layer
STATE_RATIO = Fraction(9, 10)  # bytes of recurrent states per byte of the token pool
SLOTS_PER_REQUEST, TRACKED_SLOTS = 3, 2  # states a request may hold; two more where states are tracked ahead

_HOPPER, _BLACKWELL = 9, 10
_SMALL, _CONSUMER, _WORKSTATION, _LARGE, _LARGEST = (n * 1024 for n in (20, 35, 60, 90, 160))
_OLD_SMALL, _OLD_LARGE = 25_000, 96 * 1024
_OLD_SHARES = ((16, 79), (8, 81), (4, 85), (2, 87), (1, 88))
_REGULAR_TOWER = 24 * 1024**2  # layers x width^2 of ViT-L/14


class RuleSet(Struct, frozen=True, kw_only=True):
    """What changed between releases; a release takes the nearest earlier set."""

    version: str
    share: str  # how the static share is found: "table", "tiers" or "sum"
    lifts_large: bool = False  # the table's share grows on cards above 96 GiB
    vision_percent: int = 95  # what of the share is left to a vision model; with the table nothing else counts
    consumer_graphs: tuple[int, int] = (24, 80)  # largest captured batch on 20 to 35 GiB, below TP 4 and from there
    consumer_chunk: int = 2048
    prefill_graphs: bool = False  # captured by default, and reserved for
    windowed_pools: bool = False  # windowed layers of gpt-oss get a pool of their own
    tracks_states: bool = False
    latent_prefill: int = 2048  # most tokens of a captured prefill with latent attention
    vision_cache_bytes: int = 0  # set aside for image embeddings


RULE_SETS = (
    RuleSet(version="0.4.1", share="table", consumer_graphs=(8, 80)),
    RuleSet(version="0.4.6", share="table", consumer_graphs=(8, 80), lifts_large=True, vision_percent=90),
    RuleSet(version="0.4.8", share="tiers", consumer_graphs=(8, 80)),
    RuleSet(version="0.5.3", share="sum", consumer_graphs=(16, 80)),
    RuleSet(version="0.5.5", share="sum"),
    RuleSet(version="0.5.9", share="sum", windowed_pools=True),
    RuleSet(version="0.5.10", share="sum", prefill_graphs=True, windowed_pools=True),
    RuleSet(
        version="0.5.23",
        share="sum",
        consumer_graphs=(48, 160),
        consumer_chunk=4096,
        prefill_graphs=True,
        windowed_pools=True,
        tracks_states=True,
        latent_prefill=8192,
        vision_cache_bytes=100 * MIB,
    ),
)


class Defaults(Struct, frozen=True):
    """Tokens of a prefill chunk and the largest batch captured as a CUDA graph."""

    step_tokens: int
    graph_batch: int


def memory_mib(gpu: GpuSpec) -> int:
    """Return the card's total as nvidia-smi prints it, which sets every default."""
    return driver_memory(gpu).n_bytes // MIB


def defaults(rules: RuleSet, gpu: GpuSpec, tensor_parallel: int) -> Defaults:
    """Return the chunk and the largest graph by the card's memory and TP."""
    total, wide = memory_mib(gpu), tensor_parallel >= 4  # noqa: PLR2004 - where SGLang captures larger batches
    consumer = rules.consumer_graphs[wide]
    if rules.share != "sum":
        edge = _OLD_SMALL if rules.share == "table" else _CONSUMER
        chunk = 2048 if total < edge else 8192 if total < _LARGEST or rules.share == "table" else 16384
        return Defaults(chunk, consumer if total < edge else 160)
    tiers = (
        (_SMALL, 2048, 8),
        (_CONSUMER, rules.consumer_chunk, consumer),
        (_WORKSTATION, 4096, 160 if wide else 32),
        (_LARGEST, 8192, 512 if wide else 256),
    )
    for edge, chunk, batch in tiers:
        if total < edge:
            return Defaults(chunk, batch)
    return Defaults(16384, 512)


def decode_graphs(largest: int) -> int:
    """Return how many batch sizes are captured for decoding."""
    sizes = (1, 2, 4, 8, 12, *range(16, 257, 8), *range(272, 512, 16), *range(512, largest + 1, 32))
    return len({size for size in sizes if size <= largest} | {largest})


def prefill_graphs(rules: RuleSet, model: ModelSpec, step_tokens: int) -> int:
    """Return how many chunk lengths are captured for prefill; none before 0.5.10."""
    if not rules.prefill_graphs:
        return 0
    most = min(rules.latent_prefill, step_tokens) if is_latent(model) else step_tokens
    steps = ((4, 33, 4), (48, 257, 16), (288, 513, 32), (576, 1025, 64), (1280, 4097, 256), (4608, most + 1, 512))
    return sum(size <= most for first, end, by in steps for size in range(first, end, by))


def static_share(  # noqa: PLR0913 - what the rule asks
    rules: RuleSet, model: ModelSpec, gpu: GpuSpec, *, ranks: int, step_tokens: int, graph_batch: int, eager: bool
) -> Fraction:
    """Return ``--mem-fraction-static`` where nobody sets it: the card less what activations and graphs are to need.

    By a table of parallel sizes before 0.4.8, by tiers of memory before 0.5.3, since then a sum in MiB, rounded to
    thousandths. Vision models then keep 5 % and more free, by the size of their tower.
    """
    total = memory_mib(gpu)
    if rules.share == "table":
        return _table_share(rules, total, ranks) * (Fraction(rules.vision_percent, 100) if _towers(model) else 1)
    if rules.share == "tiers":
        reserved = _tier_reserve(total, ranks)
    else:
        reserved = Fraction(512) + max(step_tokens, 2048) * Fraction(3, 2) + Fraction(ranks * 1024, 8)
        reserved += 0 if eager else graph_batch * 2
        if rules.prefill_graphs and not eager:
            reserved += 1536 if is_latent(model) else 8 * prefill_graphs(rules, model, step_tokens)
        reserved = max(reserved, Fraction(10 * 1024)) if total > _WORKSTATION else reserved
    share = Fraction(round((total - reserved) / total * 1000), 1000)
    return max(Fraction(1, 1000), share * _vision_factor(model))


def _table_share(rules: RuleSet, total: int, ranks: int) -> Fraction:
    percent = next(percent for least, percent in _OLD_SHARES if ranks >= least) if total <= 80 * 1024 else 88
    share = Fraction(percent, 100)
    if not rules.lifts_large or total <= _OLD_LARGE:
        return share
    return min(share + 48 * 1024 * (1 - share) / total, Fraction(total - 18 * 1024, total))


def _tier_reserve(total: int, ranks: int) -> Fraction:
    if total < _CONSUMER:
        return (Fraction(28, 10) + Fraction(ranks, 10)) * 1024
    if total < _LARGEST:
        return (Fraction(95, 10) if total < _LARGE else Fraction(12)) * 1024 + Fraction(ranks * 1024, 2)
    return Fraction(32 * 1024)


def _vision_factor(model: ModelSpec) -> Fraction:
    """Return what of the share is left to a vision model: 0.95, less a tenth for each ViT-L/14 the tower is larger."""
    if not _towers(model):
        return Fraction(1)
    down = next((tensor for tensor in _towers(model) if _is_down(tensor)), None)
    larger = Fraction(down.count * down.shape[0] ** 2, _REGULAR_TOWER) - 1 if down else Fraction(0)
    factor = max(Fraction(8, 10), min(Fraction(105, 100), 1 - larger / 10))
    return Fraction(95, 100) * factor


def _towers(model: ModelSpec) -> tuple[ExtraTensor, ...]:
    return tuple(tensor for tensor in model.extra_tensors if tensor.role == "vision")


def _is_down(tensor: ExtraTensor) -> bool:
    return "ffn_down" in tensor.name and len(tensor.shape) == 2  # noqa: PLR2004 - a matrix


def is_latent(model: ModelSpec) -> bool:
    """Whether the cache holds latent rows."""
    return any(isinstance(kind.attention, LatentAttention) for kind in model.layers.kinds.values())


def weight_layout(model: ModelSpec, gpu: GpuSpec) -> Layout:
    """Return what mxfp4 experts are padded to, and whether the model keeps rope tables: Gemma 3 computes them.

    Source:
        SGLang 0.5.23, srt/layers/quantization/mxfp4.py: FlashInfer's kernels on data-centre Blackwell, Triton's on
        Hopper, Marlin's elsewhere; srt/layers/rotary_embedding/base.py; srt/models/gemma3_causal.py.
    """
    has_tables = not (family_starts(model, "gemma") and len(model.rope_tables) > 1)
    if capability(gpu)[0] == _BLACKWELL:
        return Layout(128, 128, has_tables)
    return Layout(64, 1, has_tables) if capability(gpu)[0] == _HOPPER else Layout(128, 256, has_tables)


def page_tokens(rules: RuleSet, gpu: GpuSpec) -> int:
    """Return the tokens of a page: 1, and 64 where TensorRT-LLM's kernels run, on data-centre Blackwell."""
    return 64 if rules.share == "sum" and capability(gpu)[0] == _BLACKWELL else 1


def has_windowed_pool(rules: RuleSet, model: ModelSpec) -> bool:
    """Whether windowed layers get a smaller pool of their own; Gemma 3's and others' cache every token."""
    return rules.windowed_pools and has_sinks(model)
