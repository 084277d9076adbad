"""Which kinds of layers these rules cover, by version and card; all else is refused rather than guessed."""

from vramcalc.engines._vllm.parallel import Parallel
from vramcalc.engines._vllm.rules import RuleSet, capability, has_indexer
from vramcalc.errors import RefusedError
from vramcalc.specs.gpu import GpuSpec
from vramcalc.specs.model import (
    Attention,
    CompressedAttention,
    GatedDelta,
    LatentAttention,
    Mamba2,
    ModelSpec,
    NoAttention,
)

HANDLES: frozenset[str] = frozenset(  # of ModelSpec.features()
    {
        "attention shapes that differ from layer to layer",
        "chunked attention",
        "compressed attention",
        "dense MLP beside experts",
        "experts without gate",
        "gated attention output",
        "gated shared experts",
        "hashed routing",
        "hyper-connections",
        "indexer",
        "layers without attention",
        "layers without MLP",
        "recurrent state",
        "values that are keys",
    }
)
_SINCE_NEW_PLANNER = frozenset({"recurrent state", "indexer", "compressed attention"})
_MIXED_IN_NVFP4 = _SINCE_NEW_PLANNER | {"values that are keys"}
_INDEXER_MAJORS = (9, 10, 12)
_COMPRESSED_MAJOR = 9


def refuse_uncovered(model: ModelSpec, gpu: GpuSpec, rules: RuleSet, weight_format: str) -> None:
    """Raise ``RefusedError`` for kinds of layers, cards, formats and versions whose figures nobody has checked."""
    found = model.features() & _SINCE_NEW_PLANNER
    if found and not rules.reports_by_concurrency:
        raise RefusedError(
            f"{model.name} has {' and '.join(sorted(found))}, which is not modelled for vLLM {rules.version}",
            "leave the version out: the rules of vLLM 0.33 cover it",
        )
    is_own = weight_format == model.checkpoint_format and model.stored_apart
    if weight_format == "nvfp4" and not is_own and model.features() & _MIXED_IN_NVFP4:
        raise RefusedError(
            f"nvfp4 releases of models like {model.name} keep some layers in 16 bits, each release its own",
            "name the release, or its config.json; or take another --quant",
        )
    _refuse_recurrent(model)
    _refuse_sparse(model, gpu)


def is_unmeasured(model: ModelSpec) -> bool:
    """Whether no logged run backs the activation peak and the graphs of the model's kinds of layers."""
    return bool(model.features() & _SINCE_NEW_PLANNER)


def refuse_stages(model: ModelSpec, parallel: Parallel) -> None:
    """Raise ``RefusedError`` for pipeline stages of compressed attention, whose blocks nobody has checked."""
    if parallel.pipeline > 1 and any(isinstance(a, CompressedAttention) for a in _attentions(model)):
        raise RefusedError(
            f"PP {parallel.pipeline} of {model.name}'s compressed cache is not modelled for vLLM", "take --tp instead"
        )


def _refuse_recurrent(model: ModelSpec) -> None:
    mixers = [kind.mixer for kind in model.layers.kinds.values() if kind.mixer is not None]
    strange = {mixer.kind for mixer in mixers if not isinstance(mixer, Mamba2 | GatedDelta)}
    if strange:
        reason = f"{' and '.join(sorted(strange))} layers"
    elif mixers and all(isinstance(a, NoAttention) for a in _attentions(model)):
        reason = "recurrent layers and no attention to set the size of a block"
    else:
        return
    raise RefusedError(
        f"{model.name} has {reason}, which is not modelled for vLLM yet",
        f"`vramcalc explain weights -m {model.id}` answers for its weights",
    )


def _refuse_sparse(model: ModelSpec, gpu: GpuSpec) -> None:
    """Refuse what no sparse kernel serves: they are for Hopper and Blackwell, V4's seen on Hopper alone."""
    attentions = _attentions(model)
    is_compressed = any(isinstance(a, CompressedAttention) for a in attentions)
    if not is_compressed and not has_indexer(model):
        return
    if not all(isinstance(a, LatentAttention | CompressedAttention) for a in attentions):
        raise RefusedError(
            f"{model.name} has an indexer over plain attention, which is not modelled for vLLM yet",
            f"`vramcalc explain weights -m {model.id}` answers for its weights",
        )
    major = capability(gpu)[0]
    if major not in ((_COMPRESSED_MAJOR,) if is_compressed else _INDEXER_MAJORS):
        raise RefusedError(
            f"no sparse attention of vLLM is known for {model.name} on {gpu.name}; it stops with "
            '"No valid attention backend found for cuda"',
            "take a Hopper card" if is_compressed else "take a Hopper or Blackwell card",
        )


def _attentions(model: ModelSpec) -> list[Attention]:
    return [kind.attention for kind in model.layers.kinds.values()]
