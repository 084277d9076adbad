"""Refit what engines reach of a card, class by class, and print the error with a card or a model left out.

Prints read_share, layer_us and routed_layer_us of every class beside those in ``vramcalc.speed.rates``; the shares for
the cache, for hops and for unpacking are kept as they are there.

    PYTHONPATH=src python benchmarks/fit_speed.py
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vramcalc.engines import bind_engine
from vramcalc.engines.base import Setup
from vramcalc.errors import RefusedError
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.measured import PACKAGED, read_runs
from vramcalc.sources.registry import gpu_registry, model_registry
from vramcalc.specs.machine import Machine
from vramcalc.specs.measured import Quantity
from vramcalc.speed import Run, predict_speed
from vramcalc.speed.rates import class_of

FIRM = 0.08  # errors beyond it count by their size, not by their square
LEAST_RUNS = 8
STEPS = (0.2, 0.1, 0.05, 0.02, 0.01)


@dataclass(frozen=True)
class Row:
    """One run: its card, model and speed, and the time of its token as three parts to weigh and a rest."""

    card: str
    model: str
    measured: float
    reading: float  # seconds at the whole bandwidth
    layers: float
    routed: float
    rest: float

    def error(self, guess: Sequence[float]) -> float:
        """Return the logarithm of predicted over measured speed."""
        share, layer_us, routed_us = guess
        seconds = self.reading / share + (self.layers * layer_us + self.routed * routed_us) / 1e6 + self.rest
        return -math.log(seconds * self.measured)


def rows() -> dict[str, list[Row]]:
    """Return the runs by engine family and class; those bound by unpacking or by the host tell nothing here."""
    models, cards = model_registry(), gpu_registry()
    found: dict[str, list[Row]] = defaultdict(list)
    for run in read_runs(PACKAGED):
        figure = run.figures[0]
        if figure.quantity is not Quantity.DECODE_SPEED:
            continue
        machine, model = Machine(gpus=resolve_cards(run.machine, cards).gpus), models.resolve(run.model)
        try:
            engine = bind_engine(run.engine, Setup(model, machine, run.weight_format or None))
            proposal = engine.propose(run.workload)
        except RefusedError:
            continue
        asked = Run(
            engine=run.engine, weight_format=engine.weight_format, model=model, machine=machine, proposal=proposal
        )
        speed, _ = predict_speed(asked)
        if speed is None or not all("cache_share" in t.values or t.device == "links" for t in speed.terms):
            continue
        reading = [term.values for term in speed.terms if "cache_share" in term.values]
        row = Row(
            card=machine.gpus[0].id,
            model=model.id,
            measured=figure.value / 1000,
            reading=sum(v["weights_gb"] / v["bandwidth"] for v in reading),
            layers=sum(v["layers"] for v in reading),
            routed=sum(v["routed_layers"] for v in reading),
            rest=sum(v["cache_gb"] / (v["bandwidth"] * v["cache_share"]) for v in reading)
            + sum(term.seconds for term in speed.terms if term.device == "links"),
        )
        family = "vllm" if run.engine == "vllm" else "ggml"
        found[f"{family} {class_of(machine.gpus[0])}"].append(row)
    return found


def fit(sample: Sequence[Row]) -> tuple[float, ...]:
    """Return the three figures that miss least, by a search with shrinking steps; each card weighs by its root."""
    runs = Counter(row.card for row in sample)

    def loss(guess: Sequence[float]) -> float:
        if guess[0] > 1:
            return math.inf
        errors = ((abs(row.error(guess)), 1 / math.sqrt(runs[row.card])) for row in sample)
        return math.fsum(weight * (e * e / 2 / FIRM if e < FIRM else e - FIRM / 2) for e, weight in errors)

    best: tuple[float, ...] = (0.8, 80.0, 30.0)
    for step in STEPS:
        best = _descend(best, step, loss)
    return best


def _descend(start: tuple[float, ...], step: float, loss: Callable[[Sequence[float]], float]) -> tuple[float, ...]:
    best, least = start, loss(start)
    improved = True
    while improved:
        improved = False
        for index in range(len(best)):
            for factor in (1 + step, 1 / (1 + step)):
                tried = tuple(value * factor if i == index else value for i, value in enumerate(best))
                if (now := loss(tried)) < least:
                    best, least, improved = tried, now, True
    return best


def left_out(sample: Sequence[Row], key: Callable[[Row], str]) -> list[float]:
    """Return the errors of runs whose card, or model, the fit has not seen."""
    errors = []
    for name in sorted({key(row) for row in sample}):
        seen = [row for row in sample if key(row) != name]
        if len(seen) >= LEAST_RUNS:
            guess = fit(seen)
            errors += [row.error(guess) for row in sample if key(row) == name]
    return errors


def told(errors: Sequence[float]) -> str:
    """Return median and ninth decile of the errors as shares."""
    shares = sorted(abs(math.exp(error) - 1) for error in errors)
    if not shares:
        return "      -"
    return f"{statistics.median(shares):6.1%} {shares[int(0.9 * (len(shares) - 1))]:6.1%}"


def main() -> None:
    """Print a line per class."""
    print(f"{'class':22} {'runs':>4}  read layer routed    in sample   card left out  model left out")
    for name, sample in sorted(rows().items()):
        if len(sample) < LEAST_RUNS:
            continue
        share, layer, routed = guess = fit(sample)
        parts = [told([row.error(guess) for row in sample])]
        parts += [told(left_out(sample, key)) for key in (lambda row: row.card, lambda row: row.model)]
        print(f"{name:22} {len(sample):4}  {share:.2f} {layer:5.0f} {routed:6.0f} {'  '.join(parts)}")


if __name__ == "__main__":
    main()
