"""What vLLM decides by its version, the card and the cache type."""

from fractions import Fraction

from msgspec import Struct

from vramcalc.errors import RefusedError
from vramcalc.formulas.capacity import driver_memory
from vramcalc.formulas.kv_cache import indexer_row_elements
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import Attention, Dtype, GroupedQueryAttention, LatentAttention, ModelSpec
from vramcalc.units import GIB, MIB

Capability = tuple[int, int]

ELEMENT_BYTES: dict[Dtype, int] = {"f32": 4, "f16": 2, "bf16": 2}
NATIVE_FP8: Capability = (8, 9)
LEAST_CAPABILITY: Capability = (7, 0)  # docs.vllm.ai, getting_started/installation/gpu
CUDA_13_LEAST: Capability = (7, 5)  # the default wheels, vllm pull request 39878
_BF16: Capability = (8, 0)
_UNKNOWN_CARD: Capability = (8, 9)  # a hypothetical or AMD card: the class of card without special kernels
_HOPPER, _BLACKWELL = 9, 10
_TURING = (7, 5)
_LARGE, _LARGEST = 70 * GIB, 160 * GIB
_GB10: Capability = (12, 1)
_LARGE_HEAD = 256
_SANDWICH_NORMS = 4


class RuleSet(Struct, frozen=True, kw_only=True):
    """What changed between releases; a release takes the nearest earlier set.

    ``sampler_half_bytes``: halves of bytes per logit beyond the model's own dtype at the peak of the sampler.
    ``reports_by_concurrency``: the reported tokens are concurrency x context, not blocks x block size; the same
    planner reserves a window for every token in flight instead of one step.
    """

    version: str
    memory_share: Fraction
    graphs_in_budget: bool
    sampler_half_bytes: int
    other_bytes_alone: int  # growth outside PyTorch during the profile run
    other_bytes_linked: int  # the same with tensor parallelism over NVLink
    reports_by_concurrency: bool

    @property
    def copies_latent(self) -> bool:
        """Whether latent attention keeps copies of its K and V projections besides the weights.

        Inferred from DeepSeek-V2-Lite on 0.19, 0.13 GiB above its weights; 0.33 takes views unless they are fp8.
        """
        return not self.reports_by_concurrency

    @property
    def pads_swizzled(self) -> bool:
        """Whether Hopper's kernels pad the elements of mxfp4 experts: on 0.19, not on 0.11 and 0.14 yet."""
        return self.version != _FIRST

    @property
    def words_of_2026(self) -> bool:
        """Whether errors name the device and say "model's", and GiB are printed without trailing zeros."""
        return self.graphs_in_budget


_FIRST = "0.11"
_SHARE_090, _SHARE_092 = Fraction(90, 100), Fraction(92, 100)

# Sources: H100 logs of vLLM 0.11 (docs image), 0.15 and 0.17 to 0.19 published by llm-d-planner; the graph estimate
# counts since 0.21.0 (release notes, envs.py); 0.92 from at most 0.22; token counts that are no whole blocks since at
# most 0.26; 0.33 read from source.
RULE_SETS = tuple(
    RuleSet(
        version=version,
        memory_share=share,
        graphs_in_budget=graphs,
        sampler_half_bytes=sampler,
        other_bytes_alone=alone * MIB,
        other_bytes_linked=linked * MIB,
        reports_by_concurrency=reports,
    )
    for version, share, graphs, sampler, alone, linked, reports in (
        (_FIRST, _SHARE_090, False, 72, 133, 563, False),
        ("0.17", _SHARE_090, False, 25, 133, 563, False),
        ("0.18", _SHARE_090, False, 25, 256, 2130, False),
        ("0.19", _SHARE_090, False, 25, 256, 2130, False),
        ("0.21", _SHARE_090, True, 25, 256, 2130, False),
        ("0.22", _SHARE_092, True, 25, 256, 2130, False),
        ("0.26", _SHARE_092, True, 25, 256, 2130, True),
        ("0.33", _SHARE_092, True, 25, 256, 2130, True),
    )
)


def rules_for(version: str | None) -> RuleSet:
    """Return the newest rule set not newer than ``version``. Raises ``RefusedError`` before the first."""
    if version is None:
        return RULE_SETS[-1]
    asked = _as_numbers(version)
    earlier = [rules for rules in RULE_SETS if _as_numbers(rules.version) <= asked]
    if not earlier:
        first = RULE_SETS[0].version
        raise RefusedError(
            f"no rules are known for vLLM {version}", f"the oldest known is {first}: --engine vllm@{first}"
        )
    return earlier[-1]


def _as_numbers(version: str) -> tuple[int, int]:
    parts = version.removeprefix("v").split(".")
    if not all(part.isdecimal() for part in parts[:2]):
        raise RefusedError(f"{version!r} is not a version of vLLM", "write e.g. vllm@0.19 or vllm@0.19.0")
    return int(parts[0]), int(parts[1]) if len(parts) > 1 else 0


def capability(gpu: GpuSpec) -> Capability:
    """Return the compute capability; cards that have none count as recent consumer cards."""
    if gpu.compute_capability is None:
        return _UNKNOWN_CARD
    major, minor = gpu.compute_capability.split(".")
    return int(major), int(minor)


def is_multimodal(model: ModelSpec) -> bool:
    """Whether the model has a vision tower."""
    return any(tensor.role == "vision" for tensor in model.extra_tensors)


def has_sinks(model: ModelSpec) -> bool:
    """Whether attention has learned sinks, as gpt-oss does."""
    attentions = (kind.attention for kind in model.layers.kinds.values())
    return any(isinstance(a, GroupedQueryAttention) and a.sinks for a in attentions)


def has_indexer(model: ModelSpec) -> bool:
    """Whether some layer chooses the tokens it reads."""
    return any(indexer_row_elements(kind.attention) for kind in model.layers.kinds.values())


def family_starts(model: ModelSpec, *names: str) -> bool:
    """Whether the model's family, without separators, starts with one of ``names``."""
    return model.family.lower().replace("-", "").replace("_", "").replace(" ", "").startswith(names)


def has_wide_heads(model: ModelSpec) -> bool:
    """Whether some head is wider than 256, as in Gemma 4."""
    attentions = (kind.attention for kind in model.layers.kinds.values())
    return any(isinstance(a, GroupedQueryAttention) and a.head_dim > _LARGE_HEAD for a in attentions)


def running_dtype(model: ModelSpec, dtype: Dtype, card: Capability) -> Dtype:
    """Return what ``dtype`` runs as on the card: before Ampere bf16 becomes f16, or f32 where f16 overflows.

    That is Gemma 2 and 3, which norm both ends of a block; Gemma 4 has wider heads.

    Source:
        vLLM 0.33, config/model.py: dtypes by platform, and the families listed there as unfit for float16.
    """
    if dtype == "bf16" and card < _BF16:
        sandwiched = any(kind.n_norms == _SANDWICH_NORMS for kind in model.layers.kinds.values())
        is_gemma_2_or_3 = family_starts(model, "gemma") and sandwiched and not has_wide_heads(model)
        return "f32" if is_gemma_2_or_3 else "f16"
    return dtype


def default_dtype(model: ModelSpec) -> Dtype:
    """Return the dtype vLLM takes by itself: checkpoints in f32 are halved, to f16 for encoders."""
    if model.dtype == "f32":
        return "f16" if model.is_encoder else "bf16"
    return model.dtype


class ServeDefaults(Struct, frozen=True):
    """``vllm serve``'s own tokens per step and ceiling of sequences."""

    step_tokens: int
    max_num_seqs: int


def serve_defaults(gpu: GpuSpec) -> ServeDefaults:
    """Return the defaults by the card's total memory and name.

    Source:
        vLLM 0.33, engine/arg_utils.py, get_batch_defaults: 14 cards agree.
    """
    total = driver_memory(gpu).n_bytes
    small = "a100" in gpu.name.lower() or capability(gpu) == _GB10
    if total >= _LARGEST and not small:
        return ServeDefaults(16384, 1024)
    if total >= _LARGE and not small:
        return ServeDefaults(8192, 1024)
    return ServeDefaults(2048, 256)


def graph_sizes(model: ModelSpec, card: Capability, max_num_seqs: int) -> tuple[int, ...]:
    """Return the batch sizes captured as CUDA graphs: 1, 2, 4, by 8 below 256, by 16 up to the largest.

    Source:
        vLLM 0.33, config/vllm.py, _set_cudagraph_sizes; gpt-oss asks for 1024 in model_executor/models/config.py.
    """
    most = 1024 if card[0] == _BLACKWELL else 512
    largest = 1024 if has_sinks(model) else min(2 * max_num_seqs, most)
    return tuple(size for size in (1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)) if size <= largest)


def _needs_triton(model: ModelSpec, card: Capability) -> bool:
    """Whether full-precision attention falls to the Triton kernel: sinks, images seen both ways, or a Turing card."""
    if card <= _TURING:
        return True
    if has_sinks(model):
        return card[0] not in (_HOPPER, _BLACKWELL)
    return is_multimodal(model) and family_starts(model, "gemma") and card[0] != _BLACKWELL


def refuse_fp8_cache(model: ModelSpec, gpu: GpuSpec) -> None:
    """Raise ``RefusedError`` where an fp8 cache meets a kernel that needs compute capability 8.9.

    Source:
        vLLM 0.33, v1/attention/backends/triton_attn.py and mla/triton_mla.py, on T4, A100, RTX 3090.
    """
    card = capability(gpu)
    latent = any(isinstance(kind.attention, LatentAttention) for kind in model.layers.kinds.values())
    if card < NATIVE_FP8 and (latent or _needs_triton(model, card)):
        backend = "Triton MLA" if latent else "Triton attention"
        quoted = f"FP8 KV cache is not supported by the {backend} backend on {gpu.name}"
        raise RefusedError(
            f"vLLM keeps no fp8 cache of {model.name} on {gpu.name}: its Triton kernel needs compute capability 8.9; "
            f'it stops with "{quoted} (compute capability {gpu.compute_capability})"',
            "leave --kv-type to the engine, or take an Ada, Hopper or Blackwell card",
        )


def block_tokens(model: ModelSpec, attention: Attention, card: Capability, *, fp8_cache: bool) -> int:
    """Return the tokens of a cache block that the attention kernel wants.

    Source:
        vLLM 0.33, v1/attention/backends: FlashMLA and an indexer's 64, FlashInfer MLA 32, FlashInfer or FlashAttention
        with heads wider than 256 64, all others 16.
    """
    if isinstance(attention, LatentAttention):
        if has_indexer(model):
            return 64
        if card[0] == _BLACKWELL:
            return 32
        return 64 if card[0] == _HOPPER and fp8_cache else 16
    if has_wide_heads(model) and (card[0] == _BLACKWELL or (card[0] == _HOPPER and fp8_cache)):
        return 64
    return 16
