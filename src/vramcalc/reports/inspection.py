"""What `inspect` answers: the file, the model in it, its weights by role, and what was found."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct, to_builtins

from vramcalc.formulas.checkpoint_names import checkpoint_role
from vramcalc.formulas.inventory import n_active_parameters, parameters_by_role
from vramcalc.formulas.stored import role_of
from vramcalc.inspection import Evidence, find_all
from vramcalc.inspection.container import PROJECTOR, printable
from vramcalc.specs.file import ModelFile
from vramcalc.specs.model import LayerKind, ModelSpec, MoeMlp, NoAttention, NoMlp


class TypeShare(Struct, frozen=True):
    """The tensors of one storage type."""

    storage: str
    n_tensors: int
    n_elements: int
    n_bytes: int


class PartReport(Struct, frozen=True):
    """One file of a set; ``n_bytes`` null where it is missing or nobody says."""

    name: str
    n_bytes: int | None
    needed_bytes: int
    is_missing: bool


class FileReport(Struct, frozen=True):
    """The file; ``n_bytes`` is tensor data alone."""

    name: str
    container: str
    version: str
    weight_format: str | None
    is_projector: bool
    n_tensors: int
    n_bytes: int
    parts: tuple[PartReport, ...]
    types: tuple[TypeShare, ...]


class KindReport(Struct, frozen=True):
    """Layers of one kind."""

    name: str
    n_layers: int
    attention: str
    mlp: str


class InspectedModel(Struct, frozen=True):
    """The model in the file."""

    id: str
    name: str
    architecture: str
    n_parameters: int
    n_active_parameters: int
    n_layers: int
    hidden_dim: int
    vocabulary: int
    context: int
    head: str
    kinds: tuple[KindReport, ...]


class RoleReport(Struct, frozen=True):
    """The weights of one part of the model; ``storages`` is bytes by storage type."""

    role: str
    n_parameters: int
    n_bytes: int
    bits_per_weight: float
    storages: dict[str, int]


class FindingReport(Struct, frozen=True):
    """One thing worth telling."""

    id: str
    severity: Literal["info", "warning", "error"]
    message: str
    advice: str


class InspectionReport(Struct, frozen=True):
    """The answer of `inspect`."""

    schema_version: Literal[1]
    file: FileReport | None
    model: InspectedModel | None
    roles: tuple[RoleReport, ...]
    findings: tuple[FindingReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON holds it."""
        found: dict[str, Any] = to_builtins(self)
        return found


def inspection_report(evidence: Evidence) -> InspectionReport:
    """Return everything that was found in what was read."""
    file, model = evidence.file, evidence.model
    findings = tuple(FindingReport(f.id, f.severity, f.message, f.advice) for f in find_all(evidence))
    return InspectionReport(
        schema_version=1,
        file=None if file is None else _file(file, model),
        model=None if model is None else _model(file, model),
        roles=() if file is None else _roles(file, model),
        findings=findings,
    )


def _file(file: ModelFile, model: ModelSpec | None) -> FileReport:
    own = None if model is None else model.stored.format if model.stored else model.checkpoint_format or model.dtype
    return FileReport(
        name=printable(file.name),
        container=file.container,
        version=file.version,
        weight_format=own,
        is_projector=file.keys.get("general.architecture") == PROJECTOR,
        n_tensors=len(file.tensors),
        n_bytes=file.n_bytes,
        parts=tuple(PartReport(printable(p.name), p.n_bytes, p.needed_bytes, p.is_missing) for p in file.parts),
        types=_types(file),
    )


def _types(file: ModelFile) -> tuple[TypeShare, ...]:
    tensors: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in file.tensors:
        tensors[tensor.storage] += 1
        elements[tensor.storage] += tensor.n_elements
        sizes[tensor.storage] += tensor.n_bytes
    return tuple(TypeShare(name, tensors[name], elements[name], size) for name, size in sizes.most_common())


def _model(file: ModelFile | None, model: ModelSpec) -> InspectedModel:
    architecture = file.keys.get("general.architecture") if file is not None else None
    order = Counter(model.layers.order())
    return InspectedModel(
        id=model.id,
        name=model.name,
        architecture=architecture if isinstance(architecture, str) else model.family,
        n_parameters=model.parameters.total,
        n_active_parameters=n_active_parameters(model),
        n_layers=model.layers.n_layers,
        hidden_dim=model.hidden_dim,
        vocabulary=model.vocabulary,
        context=model.context,
        head=model.head,
        kinds=tuple(
            KindReport(name, order[name], _attention_words(kind), _mlp_words(kind))
            for name, kind in model.layers.kinds.items()
        ),
    )


def _attention_words(kind: LayerKind) -> str:
    a = kind.attention
    words = []
    if not isinstance(a, NoAttention):
        facts = a.model_dump()
        heads = f"{facts['n_heads']} heads"
        if "n_kv_heads" in facts:
            heads += f", {facts['n_kv_heads']} KV heads of {facts['head_dim']}"
        if "latent_dim" in facts:
            heads += f", a latent of {facts['latent_dim']} + {facts['rope_dim']}"
        if facts.get("window"):
            heads += f", window {facts['window']:,}"
        words.append(f"{a.kind}: {heads}")
    if kind.mixer is not None:
        words.append(kind.mixer.kind)
    return " + ".join(words) or "none"


def _mlp_words(kind: LayerKind) -> str:
    mlp = kind.mlp
    if isinstance(mlp, NoMlp):
        return "none"
    if isinstance(mlp, MoeMlp):
        shared = f" + shared {mlp.shared_ff_dim:,}" if mlp.shared_ff_dim else ""
        return f"moe: {mlp.n_active_experts} of {mlp.n_experts} experts of {mlp.ff_dim:,}{shared}"
    return f"{mlp.kind}: {mlp.ff_dim:,}"


def _roles(file: ModelFile, model: ModelSpec | None) -> tuple[RoleReport, ...]:
    """Return the weights by role; parameters as the model counts them where a checkpoint packs several in a number."""
    find_role = role_of if file.container == "gguf" else checkpoint_role
    elements: Counter[str] = Counter()
    storages: dict[str, Counter[str]] = defaultdict(Counter)
    for tensor in file.tensors:
        role = find_role(tensor.name)
        elements[role] += tensor.n_elements
        storages[role][tensor.storage] += tensor.n_bytes
    counts: dict[str, int] = dict(elements)
    if file.container != "gguf" and model is not None and model.checkpoint_format is not None:
        counts |= {role: n for role, n in parameters_by_role(model).items() if role in counts}
    return tuple(_role(role, counts[role], storages[role]) for role in _in_order(storages))


def _role(role: str, n_parameters: int, storages: Counter[str]) -> RoleReport:
    n_bytes = storages.total()
    return RoleReport(role, n_parameters, n_bytes, round(8 * n_bytes / max(1, n_parameters), 4), dict(storages))


_ORDER = ("embedding", "attention", "recurrent", "mlp", "experts", "shared_experts", "router", "norm", "head")


def _in_order(roles: Iterable[str]) -> list[str]:
    return sorted(roles, key=lambda role: (_ORDER.index(role) if role in _ORDER else len(_ORDER), role))
