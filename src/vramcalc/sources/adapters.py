"""What ``--lora`` means: a rank with its targets, or the adapter_config.json of a trained adapter."""

from pathlib import Path

from msgspec import DecodeError, Struct, ValidationError, json

from vramcalc.errors import BadInputError, UsageError
from vramcalc.sources.files import read_content
from vramcalc.specs.companions import Adapter

_MOST_RANK = 8192
_TYPES = ("f32", "f16", "bf16")
_CONFIG_NAME = "adapter_config.json"
# What trainers call a matrix, and what ggml calls it.
_TARGETS = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "qkv_proj": "attn_qkv",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "gate_up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


class _Config(Struct):
    """The keys of PEFT's adapter_config.json that shape memory."""

    r: int
    target_modules: list[str] | str
    peft_type: str = "LORA"
    rank_pattern: dict[str, int] = {}


def resolve_adapter(text: str) -> Adapter:
    """Return the adapter behind ``rank=16``, ``rank=16,targets=q_proj+v_proj,type=f16`` or a path.

    Raises ``UsageError`` for text that is neither, ``BadInputError`` for a file that says something else.
    """
    if "=" not in text:
        return _read_adapter(Path(text))
    given: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        given[key.strip().lower()] = value.strip()
    rank, targets, storage = given.pop("rank", ""), given.pop("targets", ""), given.pop("type", "f32")
    if given or not rank.isdecimal() or storage not in _TYPES:
        advice = f"write e.g. rank=16 or rank=16,targets=q_proj+v_proj,type=f16; the types are {', '.join(_TYPES)}"
        raise UsageError(f"--lora {text!r} is no adapter", advice)
    return _adapter(int(rank), [t for t in targets.split("+") if t], storage, f"--lora {text}")


def _adapter(rank: int, targets: list[str], storage: str, source: str) -> Adapter:
    if not 0 < rank <= _MOST_RANK:
        raise UsageError(f"{source}: a rank of {rank}", f"ranks go from 1 to {_MOST_RANK}")
    names = tuple(dict.fromkeys(_TARGETS.get(target, target) for target in targets))
    return Adapter(rank=rank, targets=names, weight_format=storage, source=source)


def _read_adapter(path: Path) -> Adapter:
    file = path / _CONFIG_NAME if path.is_dir() else path
    if file.suffix != ".json":
        fact = f"--lora {path}: only {_CONFIG_NAME} is read"
        raise UsageError(fact, "name the folder that holds it, or the rank: --lora rank=16")
    try:
        config = json.decode(read_content(file), type=_Config)
    except (DecodeError, ValidationError) as error:
        raise BadInputError(f"{file}: {error}", "an adapter_config.json as PEFT writes it is expected") from error
    if config.peft_type != "LORA" or isinstance(config.target_modules, str) or config.rank_pattern:
        fact = f"{file}: only LoRA of one rank with listed target modules is understood"
        raise BadInputError(fact, "state it: --lora rank=16,targets=q_proj+v_proj")
    return _adapter(config.r, config.target_modules, "f32", str(file))
