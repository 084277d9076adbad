"""The time of one pass while answers are written, in terms that ``explain`` prints with their numbers."""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from vramcalc.formulas.roofline import Rates, Seconds, Work, device_seconds
from vramcalc.ledger import DISK, HOST
from vramcalc.speed.links import DISK_BYTES_PER_S, NETWORK_BYTES_PER_S, group_link, host_bytes_per_s, pcie_bytes_per_s
from vramcalc.speed.rates import CardRates
from vramcalc.speed.run import Run
from vramcalc.speed.work import Batch, Split

# Shares of host bandwidth, and the CPU's operations: nine runs of an i9-10900X with four channels of DDR4.
HOST_RATES = Rates(bytes_per_s=0.48, cache_bytes_per_s=0.48, flops_per_s=5e11, layer_s=40e-6)
_HOST_HOP_US = 50  # from a card to the CPU or back
_GB, _TERA, _MICRO = 1e9, 1e12, 1_000_000
ACTIVATION_BYTES = 2
_REDUCES = 2  # after attention and after the MLP


class Term(Struct, frozen=True, kw_only=True):
    """One part of the time of a token: ``formula`` over ``values`` gives ``seconds``."""

    device: str
    seconds: float
    formula: str
    values: Mapping[str, float]
    why: str


def pass_terms(run: Run, split: Split, batch: Batch) -> Iterator[Term]:
    """Yield the time of a pass while answers are written, device by device."""
    for device, work in split.works.items():
        if device == HOST:
            yield _host_term(run, work)
            if run.disk_share:
                yield _disk_term(work, run.disk_share)
            continue
        card = run.cards[device]
        if card is not None:
            yield _card_term(run, device, work, card)
    if run.proposal.workload.cpu_offload_bytes:
        yield _streamed_term(run)
    yield from link_terms(run, split, batch)


def _streamed_term(run: Run) -> Term:
    """Return the time of vLLM's offload: each rank copies its part over PCIe in every step."""
    n_bytes, rate = run.proposal.workload.cpu_offload_bytes, min(map(pcie_bytes_per_s, run.machine.gpus))
    return Term(
        device="links",
        seconds=n_bytes / rate,
        formula="offloaded_gb / bandwidth",
        values={"offloaded_gb": round(n_bytes / _GB, 4), "bandwidth": round(rate / _GB, 2)},
        why="weights offloaded to host memory cross PCIe in every step, at 80 % of its rate (assumed)",
    )


def _card_term(run: Run, device: str, work: Work, card: CardRates) -> Term:
    bandwidth = card.rates.bytes_per_s / card.shares.read_share / _GB
    time = device_seconds(work, card.rates)
    fixed = {
        "layers": round(work.n_layers),
        "layer_us": card.shares.layer_us,
        "routed_layers": round(work.n_routed),
        "routed_layer_us": card.shares.routed_layer_us,
    }
    tail = "(layers * layer_us + routed_layers * routed_layer_us) / 1000000"
    name = run.machine.gpu(device).name
    ranks = run.proposal.placement.tensor_parallel
    who = f"{name}, each of {ranks} ranks" if ranks > 1 else name
    match _longest(time):
        case "reading":
            formula = "weights_gb / (bandwidth * read_share) + cache_gb / (bandwidth * cache_share)"
            values = {
                "weights_gb": round(work.weight_bytes / _GB, 4),
                "cache_gb": round(work.cache_bytes / _GB, 5),
                "bandwidth": bandwidth,
                "read_share": card.shares.read_share,
                "cache_share": card.cache_share,
            }
            why = f"reading, in GB and GB/s: {who}"
        case "unpacking":
            formula = "weights_g / weights_g_per_s"
            values = {
                "weights_g": round(work.n_weights / _GB, 4),
                "weights_g_per_s": round(card.rates.weights_per_s / _GB, 3),
            }
            why = f"unpacking quantised weights takes longer than reading them: {who}"
        case _:
            formula = "tflop / tflop_per_s"
            values = {
                "tflop": round(work.flops / _TERA, 5),
                "tflop_per_s": round(card.rates.flops_per_s / _TERA, 3),
            }
            why = f"so many sequences that computing takes longer than reading: {who}"
    return Term(device=device, seconds=time.total, formula=f"{formula} + {tail}", values={**values, **fixed}, why=why)


def _longest(time: Seconds) -> str:
    parts = {"reading": time.reading, "unpacking": time.unpacking, "computing": time.computing}
    return max(parts, key=lambda name: parts[name])


def _host_term(run: Run, work: Work) -> Term:
    bandwidth = host_bytes_per_s(run.machine)[1]
    held = 1 - run.disk_share
    values = {
        "weights_gb": round(held * work.weight_bytes / _GB, 4),
        "cache_gb": round(work.cache_bytes / _GB, 5),
        "bandwidth": round(bandwidth / _GB, 2),
        "read_share": HOST_RATES.bytes_per_s,
        "layers": round(work.n_layers),
        "layer_us": HOST_RATES.layer_s * _MICRO,
    }
    seconds = (held * work.weight_bytes + work.cache_bytes) / (bandwidth * HOST_RATES.bytes_per_s)
    return Term(
        device=HOST,
        seconds=seconds + work.n_layers * HOST_RATES.layer_s,
        formula="(weights_gb + cache_gb) / (bandwidth * read_share) + layers * layer_us / 1000000",
        values=values,
        why="the CPU computes what lives in host memory, at that memory's pace",
    )


def _disk_term(work: Work, share: float) -> Term:
    n_bytes = work.weight_bytes * share
    return Term(
        device=DISK,
        seconds=n_bytes / DISK_BYTES_PER_S,
        formula="weights_gb / bandwidth",
        values={"weights_gb": round(n_bytes / _GB, 4), "bandwidth": DISK_BYTES_PER_S / _GB},
        why="mapped weights that host memory cannot keep are read again from an NVMe drive of 3 GB/s (assumed)",
    )


def link_terms(run: Run, split: Split, batch: Batch) -> Iterator[Term]:
    """Yield what the devices need to talk: from one to the next, and among the ranks of a stage."""
    placement, machine = run.proposal.placement, run.machine
    moved = batch.n_tokens * run.model.hidden_dim * ACTIVATION_BYTES
    if split.n_hops or split.n_host_hops:
        hop_us = max((card.shares.hop_us for card in run.cards.values() if card), default=0)
        between_nodes = machine.nodes - 1 if placement.pipeline_parallel > 1 else 0
        fixed_us = split.n_hops * hop_us + split.n_host_hops * _HOST_HOP_US
        seconds = fixed_us / _MICRO + between_nodes * moved / NETWORK_BYTES_PER_S
        yield Term(
            device="links",
            seconds=seconds,
            formula="(hops * hop_us + host_hops * host_hop_us) / 1000000 + node_hops * moved_gb / network",
            values={
                "hops": split.n_hops,
                "hop_us": hop_us,
                "host_hops": split.n_host_hops,
                "host_hop_us": _HOST_HOP_US,
                "node_hops": between_nodes,
                "moved_gb": moved / _GB,
                "network": NETWORK_BYTES_PER_S / _GB,
            },
            why="handing the activations from device to device",
        )
    if placement.tensor_parallel > 1:
        ranks = placement.tensor_parallel
        link = group_link(machine, ranks)
        n_reduces = _REDUCES * len(run.traffic.layers)
        on_wire = moved * 2 * (ranks - 1) / ranks
        yield Term(
            device="links",
            seconds=n_reduces * (link.reduce_s + on_wire / link.bytes_per_s),
            formula="reduces * (reduce_us / 1000000 + moved_gb / bandwidth)",
            values={
                "reduces": n_reduces,
                "reduce_us": link.reduce_s * _MICRO,
                "moved_gb": on_wire / _GB,
                "bandwidth": round(link.bytes_per_s / _GB, 2),
            },
            why=f"two all-reduces a layer over {link.name} among {ranks} ranks (assumed)",
        )
