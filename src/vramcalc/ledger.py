"""The bill: one line per thing that takes memory on a device, with its basis, reason and source."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct, field
from msgspec.structs import force_setattr, replace

HOST = "host"
DISK = "disk"


class Component(StrEnum):
    """The parts of a bill, in the order they are shown."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    STATE = "state"
    COMPUTE_BUFFER = "compute_buffer"
    RUNTIME = "runtime"
    UNACCOUNTED = "unaccounted"


class Basis(StrEnum):
    """How a figure is known, from strong to weak."""

    EXACT = "exact"  # a file header or an engine rule decides it to the byte
    DERIVED = "derived"  # closed formula from the model's shape
    FITTED = "fitted"  # coefficients fitted to named measured runs
    ASSUMED = "assumed"  # no evidence; the line says so


class Line(Struct, frozen=True, kw_only=True):
    """One thing that takes memory on one device.

    ``formula`` is an arithmetic expression over ``values`` that evaluates to ``n_bytes``; ``explain`` prints both.
    ``outside_budget`` marks memory that lives beside the engine's share of the card.
    """

    component: Component
    device: str
    n_bytes: int
    basis: Basis
    why: str
    source: str
    formula: str
    values: Mapping[str, int | float] = field(default_factory=dict)
    low_bytes: int = -1
    high_bytes: int = -1
    outside_budget: bool = False

    def __post_init__(self) -> None:
        """Give an exact line its own bytes as range, and hold low <= best <= high."""
        low = self.n_bytes if self.low_bytes < 0 else self.low_bytes
        high = self.n_bytes if self.high_bytes < 0 else self.high_bytes
        force_setattr(self, "low_bytes", low)
        force_setattr(self, "high_bytes", high)
        if not 0 <= low <= self.n_bytes <= high:
            msg = f"{self.component} on {self.device}: {low} <= {self.n_bytes} <= {high} does not hold"
            raise ValueError(msg)

    def on(self, device: str) -> "Line":
        """Return the same line on another device."""
        return replace(self, device=device)


class Ledger(Struct, frozen=True):
    """All lines of one estimate."""

    lines: tuple[Line, ...]

    @classmethod
    def of(cls, lines: Iterable[Line]) -> "Ledger":
        """Return a ledger of the lines that hold any bytes."""
        return cls(tuple(line for line in lines if line.high_bytes))

    def on(self, device: str) -> "Ledger":
        """Return the lines of one device."""
        return Ledger(tuple(line for line in self.lines if line.device == device))

    def inside_budget(self) -> "Ledger":
        """Return the lines that count against the engine's budget."""
        return Ledger(tuple(line for line in self.lines if not line.outside_budget))

    def outside_budget(self) -> "Ledger":
        """Return the lines that live beside the engine's share of the card."""
        return Ledger(tuple(line for line in self.lines if line.outside_budget))

    def of_component(self, component: Component) -> "Ledger":
        """Return the lines of one component."""
        return Ledger(tuple(line for line in self.lines if line.component is component))

    def without(self, *components: Component) -> "Ledger":
        """Return the lines of all other components."""
        return Ledger(tuple(line for line in self.lines if line.component not in components))

    @property
    def n_bytes(self) -> int:
        """The best figure, summed."""
        return sum(line.n_bytes for line in self.lines)

    @property
    def low_bytes(self) -> int:
        """The low figures, summed."""
        return sum(line.low_bytes for line in self.lines)

    @property
    def high_bytes(self) -> int:
        """The high figures, summed."""
        return sum(line.high_bytes for line in self.lines)
