"""The prediction: one pass while answers are written, one while a prompt is read, device by device."""

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.formulas.roofline import Work, device_seconds
from vramcalc.ledger import HOST, Basis
from vramcalc.specs.formats import F16, FP8, GGML, BlockFormat
from vramcalc.speed.links import DISK_BYTES_PER_S, host_bytes_per_s, pcie_bytes_per_s
from vramcalc.speed.run import Run
from vramcalc.speed.terms import ACTIVATION_BYTES, HOST_RATES, Term, link_terms, pass_terms
from vramcalc.speed.work import Batch, split_work
from vramcalc.units import ceil_div

DEPTH = 512  # tokens in the cache where speed is told, unless asked otherwise: what benchmarks measure near
_HOST_RANGE = (0.8, 1.4)
_LINK_RANGE = (0.5, 2.0)
_PROMPT_RANGE = (0.55, 1.6)  # holds the 42 published rates of ``data/measured/speed_prompts.csv``
_LEAST_OFFLOADED = 32  # tokens from which ggml copies a layer's weights to the card instead of computing on the host


class Rate(Struct, frozen=True):
    """A rate, or a time, with its range."""

    low: float
    best: float
    high: float


class Speed(Struct, frozen=True, kw_only=True):
    """Tokens per second: of one sequence, of all, of a prompt; and how long until the first.

    ``filled`` tells the speed of one sequence again where the whole context is in use.
    """

    decode: Rate
    decode_total: Rate
    prefill: Rate
    first_token_s: Rate
    filled: Rate | None
    n_sequences: int
    at_context: int
    basis: Basis
    terms: tuple[Term, ...]
    notes: tuple[str, ...]


def predict_speed(run: Run) -> tuple[Speed | None, tuple[str, ...]]:
    """Return the speed of a run, or None and a note why it cannot be told."""
    used = _gpus_in_use(run)
    why_not = _unknown(run, used)
    if why_not:
        return None, (why_not,)
    load = run.proposal.workload
    n_sequences = load.n_sequences or 1
    context = load.n_context or run.model.context
    batch = Batch(
        sequences=ceil_div(n_sequences, run.proposal.placement.data_parallel),
        depth=min(context, load.depth_tokens or DEPTH),
        k_format=_format(load.k_format),
        v_format=_format(load.v_format),
    )
    terms = _terms(run, batch)
    step, (low, high) = _seconds(terms), _spread(run, terms)
    prompt = _prompt_seconds(run, batch)
    full_step = _seconds(_terms(run, replace(batch, depth=context)))
    slowest, fastest = _PROMPT_RANGE
    speed = Speed(
        decode=_rate(1 / step, low, high),
        decode_total=_rate(n_sequences / step, low, high),
        prefill=_rate(batch.depth / prompt, slowest, fastest),
        first_token_s=Rate(prompt / fastest + step / high, prompt + step, prompt / slowest + step / low),
        filled=_rate(1 / full_step, low, high) if context > batch.depth else None,
        n_sequences=n_sequences,
        at_context=batch.depth,
        basis=Basis.FITTED if all(card.is_seen for card in run.cards_of(used)) else Basis.ASSUMED,
        terms=terms,
        notes=tuple(_notes(run, used, terms)),
    )
    return speed, ()


def _gpus_in_use(run: Run) -> tuple[str, ...]:
    placement = run.proposal.placement
    homes = (*placement.layers, placement.output_device, *(override.device for override in placement.overrides))
    return tuple(device for device in dict.fromkeys(homes) if device != HOST)


def _unknown(run: Run, used: Sequence[str]) -> str:
    """Return why no speed can be told, or nothing."""
    if run.model.is_encoder:
        return "speed is not predicted for models that write no tokens"
    for device in used:
        if run.cards[device] is None:
            gpu = run.machine.gpu(device)
            what = "the bandwidth of" if gpu.bandwidth_gb_per_s is None else f"what {run.engine} reaches on"
            return f"no speed is told: {what} {gpu.name} is not known"
    return ""


def _rate(best: float, low: float, high: float) -> Rate:
    return Rate(best * low, best, best * high)


def _format(name: str | None) -> BlockFormat:
    """Return a cache type; an engine's own default is as wide as f16."""
    return FP8 if name is not None and name.startswith("fp8") else GGML.get(name or "", F16)


def _terms(run: Run, batch: Batch) -> tuple[Term, ...]:
    return tuple(pass_terms(run, split_work(run.traffic, run.proposal.placement, batch), batch))


def _seconds(terms: Sequence[Term]) -> float:
    return sum(term.seconds for term in terms)


def _spread(run: Run, terms: Sequence[Term]) -> tuple[float, float]:
    """Return low and high as shares of the best speed: each device's own range, by its part of the time."""
    slow = fast = 0.0
    host = host_bytes_per_s(run.machine)
    for term in terms:
        card = run.cards.get(term.device)
        if card is not None:
            low, high = card.low, card.high
        elif term.device == HOST:
            low, high = _HOST_RANGE[0] * host[0] / host[1], _HOST_RANGE[1] * host[2] / host[1]
        else:
            low, high = _LINK_RANGE
        slow, fast = slow + term.seconds / low, fast + term.seconds / high
    return _seconds(terms) / slow, _seconds(terms) / fast


def _prompt_seconds(run: Run, batch: Batch) -> float:
    """Return the time to read one prompt of ``depth`` tokens, step by step, half of it in the cache on average."""
    step = min(batch.depth, run.proposal.workload.step_tokens or batch.depth)
    chunk = replace(batch, sequences=1, tokens=step, depth=max(1, batch.depth // 2))
    split = split_work(run.traffic, run.proposal.placement, chunk)
    seconds = _seconds(tuple(link_terms(run, split, chunk)))
    for device, work in split.works.items():
        card = run.cards.get(device)
        if card is not None:
            seconds += device_seconds(work, card.rates).total
        elif device == HOST:
            seconds += _host_prompt_seconds(run, work, step)
    return seconds * batch.depth / step


def _host_prompt_seconds(run: Run, work: Work, n_tokens: int) -> float:
    """Return the time for what lives in host memory: copied to the first card for long steps, else on the CPU."""
    first = next(iter(run.cards_of(_gpus_in_use(run))), None) or next(iter(run.cards_of(tuple(run.cards))), None)
    if n_tokens >= _LEAST_OFFLOADED and first is not None:
        copying = work.weight_bytes / pcie_bytes_per_s(run.machine.gpus[0])
        reading = work.weight_bytes * run.disk_share / DISK_BYTES_PER_S
        return copying + reading + work.flops / first.rates.flops_per_s
    reading = work.weight_bytes / (host_bytes_per_s(run.machine)[1] * HOST_RATES.bytes_per_s)
    return max(reading, work.flops / HOST_RATES.flops_per_s)


def _notes(run: Run, used: Sequence[str], terms: Sequence[Term]) -> Iterator[str]:
    machine = run.machine
    if machine.nodes > 1 and run.proposal.placement.pipeline_parallel > 1:
        hidden = run.model.hidden_dim
        n_bytes = ACTIVATION_BYTES * hidden
        yield (
            f"the network carries {n_bytes:,} bytes a token from stage to stage ({ACTIVATION_BYTES} x {hidden} hidden; "
            f"twice that with the residual beside it): {n_bytes / 1000:.3g} MB/s at 1,000 tokens/s"
        )
    computes_on_host = any(term.device == HOST for term in terms)
    if computes_on_host and machine.host_bandwidth_bytes_per_s is None and not machine.unified_memory:
        yield "host memory is taken to read 64 GB/s (51 to 90: two channels of DDR4 or DDR5); --ram-bandwidth states it"
    cards = run.cards_of(used)
    for name in dict.fromkeys(card.name for card in cards if not card.is_seen):
        yield f"no run of {run.engine} on {name} cards is known: its speed is that of the likest one, with a wide range"
    yield from dict.fromkeys(card.assumption for card in cards if card.assumption)
