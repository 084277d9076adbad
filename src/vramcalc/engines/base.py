"""What every engine answers. An engine is bound to one model, machine, weight format and version."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from vramcalc.ledger import Component, Ledger
from vramcalc.specs.companions import Companions
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec
from vramcalc.specs.placement import Placement
from vramcalc.specs.workload import Workload

ALLOCATOR_ROUNDING = "allocator_rounding"  # names, among a line's values, what an allocator adds to the weights


class Setup(Struct, frozen=True):
    """What an engine is bound to; a format or version of None leaves the choice to it."""

    model: ModelSpec
    machine: Machine
    weight_format: str | None = None
    version: str | None = None
    companions: Companions = Companions()


class Proposal(Struct, frozen=True):
    """The engine's own defaults filled in, and who holds what."""

    workload: Workload
    placement: Placement
    notes: tuple[str, ...] = ()
    loading: Mapping[str, int] | None = None  # bytes by device that are held beside its bill until all is loaded


class Budget(Struct, frozen=True):
    """What a card holds and what the engine lets itself use of it; ``why`` says by which rule."""

    capacity_bytes: int
    budget_bytes: int
    why: str


class Pool(Struct, frozen=True, kw_only=True):
    """The KV cache a paging engine sets aside, as it prints it. Blocks are its pages.

    ``log`` is what the engine would print about memory as it starts, in its own words; empty where that is not known.
    """

    pool_bytes: int
    n_blocks: int
    block_tokens: int
    n_tokens: int
    max_concurrency: float
    log: tuple[str, ...] = ()


def loaded_bytes(ledger: Ledger) -> int:
    """Return the weights as an allocator holds them."""
    rounding = sum(line.n_bytes for line in ledger.lines if ALLOCATOR_ROUNDING in line.values)
    return ledger.of_component(Component.WEIGHTS).n_bytes + rounding


class Readout(Struct, frozen=True):
    """What a tool will show once the model is loaded: bytes, and the text as it prints it.

    ``device`` is None for what it shows of all devices together.
    """

    tool: str
    device: str | None
    n_bytes: int
    text: str


def stand_in(weight_format: str) -> str:
    """Return what a command names where no release is known in a format; ``MODEL.gguf`` stands for a file alike."""
    return f"MODEL-{weight_format}"


class Engine(Protocol):
    """The forward steps of one runtime; pure."""

    name: str
    version: str  # the rule set in force, e.g. "0.33"
    weight_format: str
    context_step: int  # tokens, the granularity of its longest context

    @property
    def margin_bytes(self) -> int:
        """What its own placement keeps free on each GPU, of all that is billed, before it moves layers off."""
        ...

    @property
    def maps_weights(self) -> bool:
        """Whether weights in host memory are mapped from the file, so that more than fits can run."""
        ...

    def propose(self, workload: Workload) -> Proposal:
        """Fill in the defaults and place the model. Raises ``RefusedError`` for what the engine would refuse."""
        ...

    def bill(self, proposal: Proposal) -> Ledger:
        """Return a line for everything that takes memory."""
        ...

    def budgets(self, proposal: Proposal) -> Mapping[str, Budget]:
        """Return the budget of every GPU."""
        ...

    def pool(self, proposal: Proposal, ledger: Ledger) -> Pool | None:
        """Return the paged KV pool, or None where the engine allocates the cache as asked."""
        ...

    def readouts(self, proposal: Proposal, ledger: Ledger) -> tuple[Readout, ...]:
        """Return what the engine's own tools will show."""
        ...

    def command(self, proposal: Proposal) -> tuple[str, ...]:
        """Return the command line that realises the proposal."""
        ...
