"""What the user places himself: layers, shares, experts, and tensors by role or by name.

Source:
    llama.cpp 0c1e570, common/arg.cpp (--override-tensor, --n-cpu-moe, --tensor-split) and src/llama-model-loader.cpp.
"""

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from vramcalc.engines._ggml.layout import Elsewhere, Layout, expert_tensors, lay_out
from vramcalc.engines._ggml.tensor import CPU
from vramcalc.engines._ggml.weights import Layer, Weight, Weights
from vramcalc.errors import RefusedError, UsageError
from vramcalc.ledger import HOST
from vramcalc.specs.workload import Workload

_MLP_ROLES = ("mlp", "experts", "shared_experts", "router")
ROLES: dict[str, tuple[str, ...]] = {
    "attention": ("attention",),
    "mlp": _MLP_ROLES,
    "experts": ("experts",),
    "shared_experts": ("shared_experts",),
    "recurrent": ("recurrent",),
}
_MOST_PATTERN = 1000  # characters


class _Rule(Struct, frozen=True):
    """Tensors that go to a device: those of some roles, or whose full name holds a match."""

    device: int
    roles: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None

    def takes(self, layer: int, weight: Weight) -> bool:
        if self.pattern is None:
            return weight.role in self.roles
        return self.pattern.search(file_name(layer, weight.name)) is not None


def asked_layout(workload: Workload, weights: Weights, devices: Sequence[str], free: Sequence[int]) -> Layout | None:
    """Return the placement the user fixed, or None where all is left to the engine's fit.

    Raises ``UsageError`` for a rule that cannot be read, ``RefusedError`` for one that the machine cannot follow.
    """
    w = workload
    shares = None if w.tensor_split is None or len(devices) < 2 else w.tensor_split  # noqa: PLR2004 - one takes all
    if shares is not None and (len(shares) != len(devices) or not any(shares)):
        raise RefusedError(
            f"--tensor-split gives {len(shares)} shares to {len(devices)} GPUs", "give one share above 0 for each GPU"
        )
    if w.gpu_layers is None and w.cpu_moe is None and shares is None and not w.overrides:
        return None
    n_layers = len(weights.layers)
    gpu_layers = n_layers + 1 if w.gpu_layers is None else w.gpu_layers
    rules = [_parse_rule(text, devices) for text in w.overrides]
    moved = ((index, _moved(index, layer, rules, w.cpu_moe or 0)) for index, layer in enumerate(weights.layers))
    elsewhere = tuple((index, away) for index, away in moved if away)
    if (rules or w.cpu_moe) and not elsewhere:
        elsewhere = ((0, ()),)  # a pattern that names no tensor still keeps batches from being pipelined
    return lay_out(n_layers, gpu_layers, shares or free, elsewhere)


def file_name(layer: int, name: str) -> str:
    """Return a tensor's name as the file has it, which is what patterns are searched in."""
    bare = name.endswith((".weight", ".bias")) or name in ("ssm_a", "ssm_d")
    return f"blk.{layer}.{name}" if bare else f"blk.{layer}.{name}.weight"


def _moved(index: int, layer: Layer, rules: Sequence[_Rule], cpu_moe: int) -> Elsewhere:
    """Return where tensors of one layer go; the first rule that takes one decides, experts by layer before all."""
    experts = expert_tensors(tuple(layer)) if index < cpu_moe else ()
    found: dict[str, int] = dict.fromkeys(experts, CPU)
    for name, weight in layer.items():
        rule = next((rule for rule in rules if rule.takes(index, weight)), None)
        if rule is not None:
            found.setdefault(name, rule.device)
    return tuple(found.items())


def _parse_rule(text: str, devices: Sequence[str]) -> _Rule:
    what, separator, where = (part.strip() for part in text.rpartition("="))
    if not separator or not what:
        raise UsageError(f"--override {text!r} names no device", "write e.g. mlp=host or 'blk\\.[0-9]\\.ffn_.*=gpu1'")
    device = _device(where, devices)
    if what.lower() in ROLES:
        return _Rule(device, ROLES[what.lower()])
    if what.isidentifier() and not what.startswith(("ffn", "attn", "ssm", "blk")):
        raise UsageError(f"--override: no role is called {what!r}", f"the roles are {', '.join(ROLES)}")
    if len(what) > _MOST_PATTERN:
        raise UsageError(f"--override: a pattern of {len(what)} characters", f"{_MOST_PATTERN} is the most")
    try:
        return _Rule(device, pattern=re.compile(what))
    except re.error as error:
        raise UsageError(
            f"--override {what!r} is no pattern: {error}", "write e.g. 'ffn_(up|down)_exps=host'"
        ) from error


def _device(name: str, devices: Sequence[str]) -> int:
    lowered = name.lower()
    if lowered in (HOST, "cpu"):
        return CPU
    if lowered not in devices:
        known = ", ".join((HOST, *devices))
        raise RefusedError(f"--override names {name!r}, which this machine has not", f"its devices are {known}")
    return devices.index(lowered)


def placement_notes(layout: Layout, names: Sequence[str], *, by_fit: bool, is_moe: bool) -> Iterator[str]:
    """Yield which layers are where, and by whose rule, as soon as not all are on one GPU."""
    layers = layout.layers
    on_host = sum(home == CPU for home in layers)
    if on_host:
        why = "the fit fills GPUs from the last layer back, so the first stay" if by_fit else "the first stay, as asked"
        yield f"{_ranges([i for i, home in enumerate(layers) if home == CPU])} in RAM: {why}"
    if len(names) > 1:
        parts = [(name, [i for i, home in enumerate(layers) if home == d]) for d, name in enumerate(names)]
        yield "; ".join(f"{_ranges(held)} on {name}" for name, held in parts if held)
    experts_away = [
        index
        for index, away in layout.elsewhere
        if any(home == CPU and name.startswith("ffn") for name, home in away) and layers[index] != CPU
    ]
    if experts_away:
        what = "experts" if is_moe else "MLP"
        order = ": the fit moves experts before whole layers, from the last layer on" if by_fit and is_moe else ""
        yield f"{what} of {_ranges(experts_away)} in RAM{order}"


def _ranges(numbers: Sequence[int]) -> str:
    """Return layers as people say them: ``layers 0-12, 15``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)
    return f"{'layer' if len(numbers) == 1 else 'layers'} {text}"
