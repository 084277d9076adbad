"""A predicted speed, frozen."""

from vramcalc.reports.schema import RateReport, SpeedReport, TimeReport
from vramcalc.speed import Rate, Speed, Term

_SOURCE = "roofline over the placement; shares of each class of card fitted to the runs of data/measured/speed_*.csv"


def freeze_speed(speed: Speed) -> SpeedReport:
    """Return the report of a speed, rates with four digits."""
    return SpeedReport(
        decode_tokens_per_s=_rate(speed.decode),
        decode_total_tokens_per_s=_rate(speed.decode_total),
        prefill_tokens_per_s=_rate(speed.prefill),
        n_sequences=speed.n_sequences,
        at_context=speed.at_context,
        time_to_first_token_s=_rate(speed.first_token_s),
        decode_tokens_per_s_filled=None if speed.filled is None else _rate(speed.filled),
        basis=speed.basis.value,
        source=_SOURCE,
        decode_time=tuple(map(_time, speed.terms)),
    )


def _rate(rate: Rate) -> RateReport:
    return RateReport(*(float(f"{value:.4g}") for value in (rate.low, rate.best, rate.high)))


def _time(term: Term) -> TimeReport:
    return TimeReport(term.device, round(term.seconds, 9), term.formula, dict(term.values), term.why)
