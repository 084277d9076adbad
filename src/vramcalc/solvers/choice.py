"""Ollama or vLLM for one model, machine and load: rules over what both answer, each with its evidence."""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.errors import UsageError
from vramcalc.estimation import Asked, Outcome
from vramcalc.solvers.ladder import format_changes
from vramcalc.solvers.limits import Limits, find_limits
from vramcalc.solvers.trying import try_asked
from vramcalc.specs.quality import weight_quality
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB

Chosen = Literal["ollama", "vllm", "either", "neither"]

_SMALL_MACHINE = 24 * GIB
_FEW_USERS = 2
_LEAST_BITS = 4  # below, formats lose more than an engine is worth


class Side(Struct, frozen=True):
    """What one engine says: its outcome in the best format that fits, else in its own; or its refusal."""

    name: str
    tried: Outcome | UsageError
    limits: Limits | None

    @property
    def fits(self) -> bool:
        """Whether it keeps everything on the GPUs for sure."""
        return isinstance(self.tried, Outcome) and self.tried.verdict == "fits"

    @property
    def runs(self) -> bool:
        """Whether it starts, be it with layers in host memory."""
        return isinstance(self.tried, Outcome) and self.tried.verdict in ("fits", "tight", "offloads")

    @property
    def weight_format(self) -> str:
        """The format it was tried in."""
        return self.tried.engine.weight_format if isinstance(self.tried, Outcome) else ""


class Case(Struct, frozen=True):
    """What both sides say of one sequence, with how many they hold; the load and the machine."""

    ollama: Side
    vllm: Side
    n_sequences: int
    memory_bytes: int


class Rule(Struct, frozen=True):
    """When ``holds``, it speaks for ``favours``; ``says`` puts this case's own figures in."""

    favours: Chosen
    holds: Callable[[Case], bool]
    says: Callable[[Case], str]
    source: str


class Reason(Struct, frozen=True):
    """A rule that holds here."""

    favours: Chosen
    why: str
    source: str


def _sequences(side: Side) -> str:
    return f"{side.limits.max_sequences or 0}" if side.limits else "0"


def _context(side: Side) -> str:
    longest = side.limits.max_context if side.limits else None
    return f"{longest:,} tokens" if longest else "no context"


_OWN_WALK = "this program's own estimates of both engines"

# The first that holds decides; the others that hold are told as well.
RULES = (
    Rule("neither", lambda c: not c.ollama.runs and not c.vllm.runs, lambda _: "neither starts here", _OWN_WALK),
    Rule(
        "ollama",
        lambda c: isinstance(c.vllm.tried, UsageError) and c.ollama.runs,
        lambda c: f"vLLM refuses: {c.vllm.tried}",
        "the engine's own checks",
    ),
    Rule(
        "vllm",
        lambda c: isinstance(c.ollama.tried, UsageError) and c.vllm.runs,
        lambda c: f"Ollama refuses: {c.ollama.tried}",
        "the engine's own checks",
    ),
    Rule(
        "ollama",
        lambda c: not c.vllm.fits and c.ollama.fits,
        lambda c: (
            f"Ollama's {c.ollama.weight_format} fits the GPUs; vLLM, as set by default, in none of its own "
            "down to 4 bits"
        ),
        _OWN_WALK,
    ),
    Rule(
        "ollama",
        lambda c: not c.vllm.fits and not c.ollama.fits and c.ollama.runs,
        lambda _: (
            "it does not fit the GPUs: llama.cpp computes the layers in host memory on the CPU, where vLLM "
            "would read them over PCIe in every step"
        ),
        "llama.cpp, ggml-cuda.cu (no streaming below 32 tokens); vLLM, --cpu-offload-gb",
    ),
    Rule("vllm", lambda c: c.vllm.fits and not c.ollama.fits, lambda _: "vLLM alone keeps it on the GPUs", _OWN_WALK),
    Rule(
        "vllm",
        lambda c: c.n_sequences > _FEW_USERS and c.vllm.fits,
        lambda c: (
            f"{c.n_sequences} at once: vLLM holds {_sequences(c.vllm)} at this context and batches requests as "
            f"they come; Ollama holds {_sequences(c.ollama)}, one slot unless OLLAMA_NUM_PARALLEL says more"
        ),
        "vLLM's paged cache: arXiv:2309.06180; Ollama, envconfig/config.go: OLLAMA_NUM_PARALLEL is 1",
    ),
    Rule(
        "ollama",
        lambda c: c.n_sequences <= _FEW_USERS and c.memory_bytes <= _SMALL_MACHINE and c.ollama.fits,
        lambda c: (
            f"one or two users and at most 24 GiB: Ollama's {c.ollama.weight_format} leaves room for "
            f"{_context(c.ollama)}, vLLM's {c.vllm.weight_format or 'formats'} for {_context(c.vllm)}"
        ),
        _OWN_WALK,
    ),
    Rule(
        "either",
        lambda c: c.vllm.fits and c.ollama.fits,
        lambda _: "both keep it on the GPUs; vLLM is made for many requests at once, Ollama for switching models",
        _OWN_WALK,
    ),
)


def choose_engine(asked: Asked) -> tuple[Chosen, tuple[Reason, ...]]:
    """Return which of Ollama and vLLM suits model, machine and load, and all reasons that hold, the decisive first."""
    load = Workload(n_context=asked.workload.n_context)
    gpus = asked.machine.gpus
    case = Case(
        ollama=_side(asked, "ollama", load),
        vllm=_side(asked, "vllm", load),
        n_sequences=asked.workload.n_sequences or 1,
        memory_bytes=sum(gpu.memory.advertised for gpu in gpus) * asked.machine.nodes,
    )
    reasons = tuple(Reason(rule.favours, rule.says(case), rule.source) for rule in RULES if rule.holds(case))
    return (reasons[0].favours if reasons else "either"), reasons


def _side(asked: Asked, name: str, load: Workload) -> Side:
    """Return an engine's answer in its own format, else in the first smaller one of 4 bits or more that fits."""
    own_format = asked.weight_format if asked.engine == name else None
    bare = replace(asked, engine=name, version=None, weight_format=own_format, workload=load)
    chosen, tried = bare, try_asked(bare)
    if isinstance(tried, Outcome) and tried.verdict != "fits":
        for change in format_changes(bare, tried.engine.weight_format, common=True):
            quality = weight_quality(name, change.asked.weight_format)
            if quality is None or quality.bits < _LEAST_BITS:
                break
            smaller = try_asked(change.asked)
            if isinstance(smaller, Outcome) and smaller.verdict == "fits":
                chosen, tried = change.asked, smaller
                break
    return Side(name, tried, find_limits(chosen, tried) if isinstance(tried, Outcome) else None)
