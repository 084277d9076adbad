"""The shapes behind the measured rows, from their hyper-parameters."""

from typing import Any, Literal

from vramcalc.ledger import Basis
from vramcalc.specs.gpu import GpuSpec, Memory
from vramcalc.specs.model import (
    Attention,
    BidirectionalAttention,
    ChunkedAttention,
    CountFact,
    ExtraTensor,
    FullAttention,
    GatedDelta,
    GatedMlp,
    LatentAttention,
    LayerKind,
    LayerStack,
    Mamba2,
    Mixer,
    Mlp,
    ModelSpec,
    MoeMlp,
    PlainMlp,
    SlidingAttention,
)


def full(heads: int, kv_heads: int, head_dim: int, **traits: Any) -> FullAttention:
    return FullAttention(kind="full", n_heads=heads, n_kv_heads=kv_heads, head_dim=head_dim, **traits)


def windowed(a: FullAttention, window: int, *, gguf_window: bool = True) -> SlidingAttention:
    facts = {"kind": "sliding", "window": window, "gguf_window": gguf_window}
    return SlidingAttention(**(a.model_dump() | facts))


def gated(ff_dim: int, *, fused: bool = False) -> GatedMlp:
    return GatedMlp(kind="gated", ff_dim=ff_dim, fused=fused)


def stack(n_layers: int, attention: Attention, mlp: Mlp) -> LayerStack:
    return LayerStack(n_layers=n_layers, kinds={"layer": LayerKind(attention=attention, mlp=mlp)})


def alternating(n_layers: int, a: FullAttention, window: int, every: int, mlp: Mlp, n_norms: int) -> LayerStack:
    kinds = {
        "window": LayerKind(attention=windowed(a, window), mlp=mlp, n_norms=n_norms),
        "full": LayerKind(attention=a, mlp=mlp, n_norms=n_norms),
    }
    return LayerStack(n_layers=n_layers, kinds=kinds, pattern=("window",) * (every - 1) + ("full",))


def latent(n_heads: int, query_rank: int | None) -> LatentAttention:
    return LatentAttention(
        kind="latent",
        n_heads=n_heads,
        query_rank=query_rank,
        latent_dim=512,
        rope_dim=64,
        nope_dim=128,
        v_head_dim=128,
    )


def deepseek(n_layers: int, a: LatentAttention, n_dense: int, ff_dim: int, moe: MoeMlp) -> LayerStack:
    kinds = {"dense": LayerKind(attention=a, mlp=gated(ff_dim)), "moe": LayerKind(attention=a, mlp=moe)}
    return LayerStack(n_layers=n_layers, kinds=kinds, first=("dense",) * n_dense, pattern=("moe",))


def experts(n: int, active: int, ff_dim: int, **traits: Any) -> MoeMlp:
    return MoeMlp(kind="moe", n_experts=n, n_active_experts=active, ff_dim=ff_dim, **traits)


def model(
    name: str,
    hidden: int,
    vocabulary: int,
    context: int,
    layers: LayerStack,
    *,
    head: Literal["separate", "tied", "none"] = "separate",
    **traits: Any,
) -> ModelSpec:
    return ModelSpec(
        id=name.lower(),
        name=name,
        family=name,
        parameters=CountFact(total=1, basis=Basis.ASSUMED, source="not used here"),
        context=context,
        license="not used here",
        released="2025-01",
        dtype="bf16",
        vocabulary=vocabulary,
        hidden_dim=hidden,
        head=head,
        layers=layers,
        source="published config.json",
        **traits,
    )


def mamba2(n_heads: int) -> Mamba2:
    return Mamba2(kind="mamba2", n_heads=n_heads, head_dim=64, n_groups=1, state_dim=128, conv_kernel=4)


def delta(n_value_heads: int, *, fused: bool) -> GatedDelta:
    return GatedDelta(
        kind="gated_delta",
        n_key_heads=16,
        n_value_heads=n_value_heads,
        key_dim=128,
        value_dim=128,
        conv_kernel=4,
        fused=fused,
    )


def hybrid(n_layers: int, mixer: Mixer, a: FullAttention, pattern: str, mlp: Mlp) -> LayerStack:
    kinds = {"r": LayerKind(mixer=mixer, mlp=mlp), "a": LayerKind(attention=a, mlp=mlp)}
    return LayerStack(n_layers=n_layers, kinds=kinds, pattern=tuple(pattern))


def _bge_m3() -> ModelSpec:
    attention = BidirectionalAttention(
        kind="bidirectional", n_heads=16, n_kv_heads=16, head_dim=64, qkv_bias=True, output_bias=True
    )
    extras = (
        ExtraTensor(name="position_embd", role="embedding", shape=(8192, 1024)),
        ExtraTensor(name="token_types", role="embedding", shape=(1, 1024)),
        ExtraTensor(name="token_embd_norm.weight", role="norm", shape=(1024,)),
        ExtraTensor(name="token_embd_norm.bias", role="norm", shape=(1024,)),
    )
    layers = stack(24, attention, PlainMlp(kind="plain", ff_dim=4096, bias=True))
    return model(
        "bge-m3", 1024, 250_002, 8192, layers, head="none", norm="layer", final_norm=False, extra_tensors=extras
    )


_LLAMA = full(32, 8, 128)
_QWEN2 = {"qkv_bias": True}
_QWEN3 = {"qk_norm": "per_head"}
_GPT_OSS = full(64, 8, 64, qkv_bias=True, output_bias=True, sinks=True)
_OSS_EXPERTS = experts(32, 4, 2880, expert_bias=True, router_bias="parameter")
_V2_EXPERTS = experts(64, 6, 1408, shared_ff_dim=2816)
_V3_EXPERTS = experts(256, 8, 2048, shared_ff_dim=2048, router_bias="buffer")
_NEXT_EXPERTS = experts(512, 10, 512, shared_ff_dim=512, shared_gate=True)
_GATED = {"qk_norm": "per_head", "output_gate": "in_query"}
_NEXT = hybrid(48, delta(32, fused=True), full(16, 2, 256, **_GATED), "rrra", _NEXT_EXPERTS)
_QWEN35 = hybrid(64, delta(48, fused=False), full(24, 4, 256, **_GATED), "rrra", gated(17408))
_GRANITE = hybrid(40, mamba2(128), full(32, 8, 128), "rrrrrarrrr", experts(72, 10, 768, shared_ff_dim=1536))
_MAMBA = LayerStack(n_layers=64, kinds={"r": LayerKind(mixer=mamba2(80), n_norms=1)})
_GEMMA_4B, _GEMMA_27B = full(8, 4, 256, qk_norm="per_head"), full(32, 16, 128, qk_norm="per_head")


def _gemma_4(
    n_layers: int, n_own: int, every: int, window: int, a: FullAttention, wide: FullAttention, ff: tuple[int, int]
) -> LayerStack:
    """Layers from ``n_own`` on read the caches of the last two before; ``ff`` is the MLP's width before and after."""
    kinds: dict[str, LayerKind] = {}
    order = []
    for index in range(n_layers):
        shares = index >= n_own
        base = wide if (index + 1) % every == 0 else windowed(a, window)
        traits = {"shares_cache": shares, "v_is_k": base.v_is_k and not shares}
        name = f"{base.kind}-{shares}"
        kinds[name] = LayerKind(
            attention=base.model_copy(update=traits), mlp=gated(ff[shares]), n_norms=4, output_scale=True
        )
        order.append(name)
    return LayerStack(n_layers=n_layers, kinds=kinds, first=tuple(order))


def _gemma_4_experts() -> LayerStack:
    mlp = experts(128, 8, 704, dense_ff_dim=2112, router_scale=True)
    parts = {
        "sliding": windowed(full(16, 8, 256, qk_norm="per_head"), 1024),
        "full": full(16, 2, 512, qk_norm="per_head", v_is_k=True),
    }
    kinds = {k: LayerKind(attention=a, mlp=mlp, n_norms=7, output_scale=True) for k, a in parts.items()}
    return LayerStack(n_layers=30, kinds=kinds, pattern=("sliding",) * 5 + ("full",))


def _llama_4(n_experts: int, dense_ff_dim: int | None) -> LayerStack:
    a = full(40, 8, 128)
    chunked = ChunkedAttention(**(a.model_dump() | {"kind": "chunked", "chunk": 8192}))
    mlp = experts(n_experts, 1, 8192, shared_ff_dim=8192)
    other = mlp if dense_ff_dim is None else gated(dense_ff_dim)
    kinds = {
        "chunked": LayerKind(attention=chunked, mlp=mlp),
        "other": LayerKind(attention=chunked, mlp=other),
        "full": LayerKind(attention=a, mlp=mlp),
    }
    return LayerStack(n_layers=48, kinds=kinds, pattern=("other", "chunked", "other", "full"))


_GEMMA_4: dict[str, Any] = {"head": "tied", "gguf_rope_factors": 256, "gguf_architecture": "gemma4"}
_PER_LAYER: dict[str, Any] = {"per_layer_dim": 256, "per_layer_vocabulary": 262_144}
_LLAMA_4: dict[str, Any] = {"gguf_rope_factors": 64, "gguf_architecture": "llama4"}


def _narrow_and_wide(
    n_heads: int, n_kv_heads: int, n_wide: int, *, v_is_k: bool = False
) -> tuple[FullAttention, FullAttention]:
    return (
        full(n_heads, n_kv_heads, 256, qk_norm="per_head"),
        full(n_heads, n_wide, 512, qk_norm="per_head", v_is_k=v_is_k),
    )


MODELS = {
    m.name: m
    for m in (
        model("Llama-3.1-8B", 4096, 128_256, 131_072, stack(32, _LLAMA, gated(14336)), gguf_rope_factors=64),
        model("Qwen3-8B", 4096, 151_936, 40_960, stack(36, full(32, 8, 128, **_QWEN3), gated(12288))),
        model(
            "Llama-3.3-70B",
            8192,
            128_256,
            131_072,
            stack(80, full(64, 8, 128), gated(28672)),
            gguf_rope_factors=64,
            gguf_architecture="llama",
        ),
        model("Qwen2.5-7B", 3584, 152_064, 32_768, stack(28, full(28, 4, 128, **_QWEN2), gated(18944))),
        model("Mistral-7B-v0.3", 4096, 32_768, 32_768, stack(32, _LLAMA, gated(14336))),
        model("Phi-4", 5120, 100_352, 16_384, stack(40, full(40, 10, 128, fused=True), gated(17920, fused=True))),
        model("Gemma-3-4b", 2560, 262_144, 131_072, alternating(34, _GEMMA_4B, 1024, 6, gated(10240), 4), head="tied"),
        model(
            "Gemma-3-27b", 5376, 262_144, 131_072, alternating(62, _GEMMA_27B, 1024, 6, gated(21504), 4), head="tied"
        ),
        model("gpt-oss-20b", 2880, 201_088, 131_072, alternating(24, _GPT_OSS, 128, 2, _OSS_EXPERTS, 2)),
        model("Qwen3-30B-A3B", 2048, 151_936, 40_960, stack(48, full(32, 4, 128, **_QWEN3), experts(128, 8, 768))),
        model("Mixtral-8x7B", 4096, 32_000, 32_768, stack(32, _LLAMA, experts(8, 2, 14336))),
        model("DeepSeek-V2-Lite", 2048, 102_400, 163_840, deepseek(27, latent(16, None), 1, 10944, _V2_EXPERTS)),
        model("DeepSeek-V3", 7168, 129_280, 163_840, deepseek(61, latent(128, 1536), 3, 18432, _V3_EXPERTS)),
        model("Qwen2-0.5B", 896, 151_936, 32_768, stack(24, full(14, 2, 64, **_QWEN2), gated(4864)), head="tied"),
        model(
            "Llama-3.2-3B",
            3072,
            128_256,
            131_072,
            stack(28, full(24, 8, 128), gated(8192)),
            head="tied",
            gguf_rope_factors=64,
        ),
        _bge_m3(),
        model("Qwen3-Next-80B-A3B", 2048, 151_936, 262_144, _NEXT, gguf_architecture="qwen3next"),
        model("Qwen3.5-27B", 5120, 248_320, 262_144, _QWEN35, gguf_architecture="qwen35"),
        model("Granite-4.0-H-Small", 4096, 100_352, 131_072, _GRANITE, head="tied"),
        model("Gemma-4-26B-A4B", 2816, 262_144, 262_144, _gemma_4_experts(), **_GEMMA_4),
        model(
            "Gemma-4-E2B",
            1536,
            262_144,
            131_072,
            _gemma_4(35, 15, 5, 512, *_narrow_and_wide(8, 1, 1), (6144, 12_288)),
            **_GEMMA_4,
            **_PER_LAYER,
        ),
        model(
            "Gemma-4-E4B",
            2560,
            262_144,
            131_072,
            _gemma_4(42, 24, 6, 512, *_narrow_and_wide(8, 2, 2), (10_240, 10_240)),
            **_GEMMA_4,
            **_PER_LAYER,
        ),
        model(
            "Gemma-4-31B",
            5376,
            262_144,
            131_072,
            _gemma_4(60, 60, 6, 1024, *_narrow_and_wide(32, 16, 4, v_is_k=True), (21_504, 21_504)),
            **_GEMMA_4,
        ),
        model("Llama-4-Scout", 5120, 202_048, 10_485_760, _llama_4(16, None), **_LLAMA_4),
        model("Llama-4-Maverick", 5120, 202_048, 1_048_576, _llama_4(128, 16_384), **_LLAMA_4),
        model("Mamba2-2.7B", 2560, 50_288, 1_048_576, _MAMBA, head="tied"),
    )
}


def hypothetical(n_bytes: int) -> GpuSpec:
    """A CUDA card with so much free once the process's context exists."""
    return GpuSpec(
        id=f"{n_bytes}",
        name="hypothetical",
        vendor="hypothetical",
        architecture="any",
        year=2026,
        memory=Memory(advertised=n_bytes),
        bandwidth_gb_per_s=None,
        source="the request",
    )
