"""Whether memory in use grows: a slope that neither steps nor outliers move, with its confidence."""

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import Literal

from msgspec import Struct

_MOST_SAMPLES = 400  # pairs grow with the square; a longer series is thinned evenly
_LEAST_SAMPLES = 12
_Z_99 = 2.576
_S_PER_HOUR = 3600

Sample = tuple[float, int]  # seconds, bytes in use
Growth = Literal["steady", "growing", "shrinking", "too_short"]


class Trend(Struct, frozen=True):
    """Bytes per hour with a 99 % interval, over the samples behind the warm-up."""

    verdict: Growth
    bytes_per_hour: float
    low_bytes_per_hour: float
    high_bytes_per_hour: float
    n_samples: int
    span_s: float
    peak_bytes: int  # of all samples


def read_trend(samples: Sequence[Sample], *, warm_up: float = 0.2, noise_bytes: int = 1 << 20) -> Trend:
    """Return how memory in use moves over time, its first ``warm_up`` part of the span left out.

    Growing where the whole interval lies above zero and the growth over the span is more than ``noise_bytes``.

    Source:
        Slope: Theil and Sen, the median over all pairs. Interval: Sen (1968), from the variance of Kendall's tau; it
        takes samples as independent, so slow waves can pass for growth on a short span.

    >>> [read_trend([(60 * i, 10**9 + rate * i) for i in range(60)]).verdict for rate in (0, 10**6)]
    ['steady', 'growing']
    """
    ordered = sorted(samples)
    if not ordered:
        return Trend("too_short", 0.0, 0.0, 0.0, 0, 0.0, 0)
    peak = max(used for _, used in ordered)
    begin = ordered[0][0] + warm_up * (ordered[-1][0] - ordered[0][0])
    kept = _thinned([sample for sample in ordered if sample[0] >= begin])
    slopes = sorted((b - a) / (t - s) for (s, a), (t, b) in combinations(kept, 2) if t > s)
    span = kept[-1][0] - kept[0][0]
    if len(kept) < _LEAST_SAMPLES or not slopes:
        return Trend("too_short", 0.0, 0.0, 0.0, len(kept), span, peak)
    best, (low, high) = median(slopes), _interval(slopes, len(kept))
    verdict = _verdict(best * span, low, high, noise_bytes)
    hourly = best * _S_PER_HOUR, low * _S_PER_HOUR, high * _S_PER_HOUR
    return Trend(verdict, hourly[0], hourly[1], hourly[2], len(kept), span, peak)


def _thinned(samples: Sequence[Sample]) -> Sequence[Sample]:
    step = math.ceil(len(samples) / _MOST_SAMPLES)
    return samples[:: max(1, step)]


def _interval(slopes: Sequence[float], n: int) -> tuple[float, float]:
    width = _Z_99 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    first = max(0, math.floor((len(slopes) - width) / 2))
    last = min(len(slopes) - 1, math.ceil((len(slopes) + width) / 2))
    return slopes[first], slopes[last]


def _verdict(growth: float, low: float, high: float, noise_bytes: int) -> Growth:
    if low > 0 and growth > noise_bytes:
        return "growing"
    return "shrinking" if high < 0 and growth < -noise_bytes else "steady"
