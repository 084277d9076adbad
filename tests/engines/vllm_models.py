"""Shapes of published models, by their hyper-parameters, and the cards vLLM's tables were made for."""

from typing import Any

from vramcalc.sources.registry import model_registry
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec


def gqa(heads: int, kv: int, dim: int, **more: Any) -> dict[str, Any]:
    return {"kind": "full", "n_heads": heads, "n_kv_heads": kv, "head_dim": dim, **more}


def sliding(window: int, heads: int, kv: int, dim: int, **more: Any) -> dict[str, Any]:
    return {**gqa(heads, kv, dim, **more), "kind": "sliding", "window": window}


def gated(ff: int) -> dict[str, Any]:
    return {"kind": "gated", "ff_dim": ff}


def plain(ff: int) -> dict[str, Any]:
    return {"kind": "plain", "ff_dim": ff, "bias": True}


def moe(n: int, active: int, ff: int, **more: Any) -> dict[str, Any]:
    return {"kind": "moe", "n_experts": n, "n_active_experts": active, "ff_dim": ff, **more}


def mla(heads: int, query_rank: int | None = 1536) -> dict[str, Any]:
    return {
        "kind": "latent",
        "n_heads": heads,
        "query_rank": query_rank,
        "latent_dim": 512,
        "rope_dim": 64,
        "nope_dim": 128,
        "v_head_dim": 128,
    }


def model(
    name: str,
    hidden: int,
    vocabulary: int,
    layers: dict[str, Any],
    ropes: tuple[tuple[int, int], ...],
    **more: Any,
) -> ModelSpec:
    facts = {
        "id": name.lower(),
        "name": name,
        "family": name.partition("-")[0].lower(),
        "hf_ids": (f"org/{name}",),
        "parameters": {"total": 1, "basis": "derived", "source": "test"},
        "context": min((positions for positions, _ in ropes), default=1),
        "license": "test",
        "released": "2025-01",
        "dtype": "bf16",
        "vocabulary": vocabulary,
        "hidden_dim": hidden,
        "head": "separate",
        "layers": layers,
        "rope_tables": tuple({"positions": positions, "dim": dim} for positions, dim in ropes),
        "source": "published config.json",
    }
    return ModelSpec.model_validate(facts | more)


def uniform(n: int, attention: dict[str, Any], mlp: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"n_layers": n, "kinds": {"layer": {"attention": attention, "mlp": mlp, **more}}}


def _leading_dense(
    n: int, n_dense: int, attention: dict[str, Any], dense: int, experts: dict[str, Any]
) -> dict[str, Any]:
    kinds = {"dense": {"attention": attention, "mlp": gated(dense)}, "moe": {"attention": attention, "mlp": experts}}
    return {"n_layers": n, "kinds": kinds, "first": ("dense",) * n_dense, "pattern": ("moe",)}


def _gemma3_27b() -> ModelSpec:
    shape = {"qk_norm": "per_head"}
    kinds = {
        "local": {"attention": sliding(1024, 32, 16, 128, **shape), "mlp": gated(21504), "n_norms": 4},
        "global": {"attention": gqa(32, 16, 128, **shape), "mlp": gated(21504), "n_norms": 4},
    }
    vision: list[dict[str, Any]] = [
        {"name": "v.position", "shape": (4096, 1152)},
        {"name": "v.patch", "shape": (1152, 3, 14, 14)},
        {"name": "v.patch.bias", "shape": (1152,)},
        {"name": "v.attn", "shape": (1152, 1152), "count": 27 * 4},
        {"name": "v.attn.bias", "shape": (1152,), "count": 27 * 4},
        {"name": "v.up", "shape": (4304, 1152), "count": 27},
        {"name": "v.up.bias", "shape": (4304,), "count": 27},
        {"name": "v.down", "shape": (1152, 4304), "count": 27},
        {"name": "v.down.bias", "shape": (1152,), "count": 27},
        {"name": "v.norm", "shape": (1152,), "count": 27 * 4 + 2},
    ]
    extras = [{"role": "vision", **tensor} for tensor in vision]
    extras += [
        {"name": "mm.proj", "role": "projector", "shape": (1152, 5376)},
        {"name": "mm.norm", "role": "projector", "shape": (1152,)},
    ]
    layers = {"n_layers": 62, "kinds": kinds, "pattern": ("local",) * 5 + ("global",)}
    ropes = ((131072, 128), (8 * 131072, 128))
    return model("Gemma-3-27B", 5376, 262208, layers, ropes, head="tied", family="gemma3", extra_tensors=tuple(extras))


def _gpt_oss_20b() -> ModelSpec:
    shape = {"qkv_bias": True, "output_bias": True, "sinks": True}
    experts = moe(32, 4, 2880, expert_bias=True, router_bias="parameter")
    kinds = {
        "local": {"attention": sliding(128, 64, 8, 64, **shape), "mlp": experts},
        "global": {"attention": gqa(64, 8, 64, **shape), "mlp": experts},
    }
    layers = {"n_layers": 24, "kinds": kinds, "pattern": ("local", "global")}
    return model("gpt-oss-20b", 2880, 201088, layers, ((131072, 64),), checkpoint_format="mxfp4")


def _gemma2(name: str, n: int, hidden: int, heads: tuple[int, int, int], ff: int) -> ModelSpec:
    kinds = {
        "local": {"attention": sliding(4096, *heads), "mlp": gated(ff), "n_norms": 4},
        "global": {"attention": gqa(*heads), "mlp": gated(ff), "n_norms": 4},
    }
    layers = {"n_layers": n, "kinds": kinds, "pattern": ("local", "global")}
    return model(name, hidden, 256000, layers, ((8192, heads[2]),), head="tied", family="gemma2")


def _deepseek(name: str, heads: int, n_dense: int, n_experts: int, vocabulary: int, context: int) -> ModelSpec:
    experts = moe(n_experts, 8, 2048, shared_ff_dim=2048, router_bias="buffer")
    layers = _leading_dense(61, n_dense, mla(heads), 18432, experts)
    return model(name, 7168, vocabulary, layers, ((context, 64),), checkpoint_format="fp8-block")


def _all_models() -> list[ModelSpec]:
    long, qwen3 = ((131072, 128),), ((40960, 128),)
    normed = {"qk_norm": "per_head"}
    return [
        model("Llama-3.1-8B", 4096, 128256, uniform(32, gqa(32, 8, 128), gated(14336)), long),
        model("Llama-3-8B", 4096, 128256, uniform(32, gqa(32, 8, 128), gated(14336)), ((8192, 128),)),
        model("Llama-3.3-70B", 8192, 128256, uniform(80, gqa(64, 8, 128), gated(28672)), long),
        model("Llama-3.1-70B", 8192, 128256, uniform(80, gqa(64, 8, 128), gated(28672)), long),
        model("CodeLlama-7B", 4096, 32016, uniform(32, gqa(32, 32, 128), gated(11008)), ((16384, 128),)),
        model("Qwen2.5-7B", 3584, 152064, uniform(28, gqa(28, 4, 128, qkv_bias=True), gated(18944)), ((32768, 128),)),
        model(
            "Qwen2.5-1.5B",
            1536,
            151936,
            uniform(28, gqa(12, 2, 128, qkv_bias=True), gated(8960)),
            ((32768, 128),),
            head="tied",
        ),
        model("Qwen3-8B", 4096, 151936, uniform(36, gqa(32, 8, 128, **normed), gated(12288)), qwen3),
        model("Qwen3-0.6B", 1024, 151936, uniform(28, gqa(16, 8, 128, **normed), gated(3072)), qwen3, head="tied"),
        model("Qwen3-4B", 2560, 151936, uniform(36, gqa(32, 8, 128, **normed), gated(9728)), qwen3, head="tied"),
        model("Qwen3-14B", 5120, 151936, uniform(40, gqa(40, 8, 128, **normed), gated(17408)), qwen3),
        model("Qwen3-32B", 5120, 151936, uniform(64, gqa(64, 8, 128, **normed), gated(25600)), qwen3),
        model("Qwen3-30B-A3B", 2048, 151936, uniform(48, gqa(32, 4, 128, **normed), moe(128, 8, 768)), qwen3),
        model(
            "Qwen1.5-MoE-A2.7B",
            2048,
            151936,
            uniform(24, gqa(16, 16, 128, qkv_bias=True), moe(60, 4, 1408, shared_ff_dim=5632)),
            ((8192, 128),),
        ),
        model(
            "MiniMax-M2.5",
            3072,
            200064,
            uniform(62, gqa(48, 8, 128, qk_norm="whole"), moe(256, 8, 1536, router_bias="buffer")),
            ((196608, 64),),
            checkpoint_format="fp8-block",
        ),
        model("Mistral-Small-24B-text", 5120, 131072, uniform(40, gqa(32, 8, 128), gated(32768)), long),
        model("gemma-7b", 3072, 256000, uniform(28, gqa(16, 16, 256), gated(24576)), ((8192, 256),), head="tied"),
        model("granite-3.1-2b", 2048, 49155, uniform(40, gqa(32, 8, 64), gated(8192)), ((131072, 64),), head="tied"),
        model("granite-3.3-8b", 4096, 49159, uniform(40, gqa(32, 8, 128), gated(12800)), long, head="tied"),
        model(
            "phi-2",
            2560,
            51200,
            uniform(
                32, gqa(32, 32, 80, qkv_bias=True, output_bias=True), {"kind": "plain", "ff_dim": 10240, "bias": True}
            ),
            ((2048, 32),),
            dtype="f16",
            norm="layer",
        ),
        model(
            "DeepSeek-V2-Lite",
            2048,
            102400,
            _leading_dense(27, 1, mla(16, None), 10944, moe(64, 6, 1408, shared_ff_dim=2816)),
            ((163840, 64),),
        ),
        _deepseek("DeepSeek-V3", 128, 3, 256, 129280, 163840),
        _deepseek("DeepSeek-R1", 128, 3, 256, 129280, 163840),
        _deepseek("Kimi-K2", 64, 1, 384, 163840, 131072),
        _gemma2("gemma-2-2b", 26, 2304, (8, 4, 256), 9216),
        _gemma2("gemma-2-27b", 46, 4608, (32, 16, 128), 36864),
        _gemma3_27b(),
        _gpt_oss_20b(),
        model(
            "bge-m3",
            1024,
            250002,
            uniform(
                24,
                {**gqa(16, 16, 64, qkv_bias=True, output_bias=True), "kind": "bidirectional"},
                plain(4096),
            ),
            (),
            dtype="f32",
            head="none",
            norm="layer",
            context=8192,
        ),
    ]


def _gpu(key: str, name: str, memory: int, capability: str, n_sms: int, usable: int = 0, nvlink: int = 0) -> GpuSpec:
    known = {"size": usable, "basis": "exact", "source": "log"} if usable else None
    return GpuSpec.model_validate(
        {
            "id": key,
            "name": name,
            "vendor": "nvidia",
            "architecture": "test",
            "year": 2023,
            "memory": {
                "advertised": memory,
                "driver": {"size": memory, "basis": "exact", "source": "NVML"},
                "usable": {"linux": known},
            },
            "bandwidth_gb_per_s": 1000.0,
            "compute_capability": capability,
            "n_sms": n_sms,
            "nvlink_gb_per_s": nvlink or None,
            "source": "NVML totals of vLLM's defaults table",
        }
    )


GPUS = {
    gpu.id: gpu
    for gpu in (
        _gpu("h100", "NVIDIA H100 80GB HBM3", 85520809984, "9.0", 132, 85029617664, 900),
        _gpu("h200", "NVIDIA H200", 150754820096, "9.0", 132, nvlink=900),
        _gpu("a100", "NVIDIA A100-SXM4-80GB", 85899345920, "8.0", 108, nvlink=600),
        _gpu("a100-40", "NVIDIA A100-SXM4-40GB", 42949672960, "8.0", 108, nvlink=600),
        _gpu("b200", "NVIDIA B200", 192265846784, "10.0", 148, nvlink=1800),
        _gpu("b300", "NVIDIA B300", 288400343040, "10.3", 160, nvlink=1800),
        _gpu("gb10", "NVIDIA GB10", 128849018880, "12.1", 48),
        _gpu("l4", "NVIDIA L4", 24152899584, "8.9", 58),
        _gpu("l40s", "NVIDIA L40S", 48305799168, "8.9", 142),
        _gpu("rtx3090", "NVIDIA GeForce RTX 3090", 25769803776, "8.6", 82),
        _gpu("rtx4090", "NVIDIA GeForce RTX 4090", 25757220864, "8.9", 128),
        _gpu("rtx5090", "NVIDIA GeForce RTX 5090", 34190917632, "12.0", 170),
        _gpu("rtxpro6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 102641958912, "12.0", 188),
        _gpu("t4", "Tesla T4", 16106127360, "7.5", 40),
    )
}


def machine(gpu: str, n: int = 1, nodes: int = 1) -> Machine:
    return Machine((GPUS[gpu],) * n, nodes)


_REGISTERED = {
    "DeepSeek-V3.2": "deepseek-v3.2",
    "DeepSeek-V4-Flash": "deepseek-v4-flash",
    "GLM-5": "glm-5",
    "Gemma-4-26B-A4B": "gemma-4-26b-a4b",
    "Llama-4-Scout": "llama-4-scout-17b-16e",
    "Nemotron-3-Nano-30B": "nemotron-3-nano-30b-a3b",
    "Nemotron-3-Nano-NVFP4": "nemotron-3-nano-30b-a3b-nvfp4",
    "Nemotron-H-56B": "nemotron-h-56b",
    "Qwen3-Next-80B": "qwen3-next-80b-a3b",
    "Qwen3.5-27B": "qwen3.5-27b",
}
_REGISTRY = model_registry()
MODELS = {spec.name: spec for spec in _all_models()}
MODELS |= {name: _REGISTRY.resolve(model_id) for name, model_id in _REGISTERED.items()}
