"""What is to be timed, with the rates of the machine it runs on."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from msgspec import Struct

from vramcalc.engines.base import Proposal
from vramcalc.formulas.traffic import Traffic, traffic_of
from vramcalc.specs.machine import Machine
from vramcalc.specs.model import ModelSpec
from vramcalc.speed.rates import CardRates, rates_of
from vramcalc.units import ceil_div


class Run(Struct, frozen=True, dict=True, kw_only=True):
    """What is to be timed: an engine's proposal for a model on a machine.

    ``disk_share`` is the part of the weights in host memory that is read from disk whenever it is needed.
    """

    engine: str
    weight_format: str
    model: ModelSpec
    machine: Machine
    proposal: Proposal
    disk_share: float = 0.0

    @cached_property
    def traffic(self) -> Traffic:
        """The model's weights by layer."""
        return traffic_of(self.model, self.weight_format)

    @cached_property
    def cards(self) -> Mapping[str, CardRates | None]:
        """The rates of every GPU; the ranks of a stage go at the pace of the slowest."""
        placement, machine = self.proposal.placement, self.machine
        at_once = ceil_div(self.proposal.workload.n_sequences or 1, placement.data_parallel)
        rates = {d: rates_of(self.engine, self.weight_format, machine.gpu(d), at_once) for d in machine.device_names()}
        n_ranks = placement.tensor_parallel
        if n_ranks == 1:
            return rates
        names = list(rates)
        paced: dict[str, CardRates | None] = {}
        for start in range(0, len(names), n_ranks):
            stage = [rates[name] for name in names[start : start + n_ranks]]
            known = [card for card in stage if card is not None]
            slowest = min(known, key=lambda c: c.rates.bytes_per_s) if len(known) == len(stage) else None
            paced.update(dict.fromkeys(names[start : start + n_ranks], slowest))
        return paced

    def cards_of(self, devices: Sequence[str]) -> tuple[CardRates, ...]:
        """Return the rates of these GPUs, as far as they are known."""
        return tuple(card for device in devices if (card := self.cards[device]) is not None)
