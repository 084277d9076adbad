"""Memory in use over time, and whether it grows."""

from typing import Literal

from msgspec import Struct


class WatchedGpu(Struct, frozen=True):
    """One GPU. ``expected_bytes`` is the high end of what the model takes on it, None where none was named."""

    name: str
    verdict: Literal["steady", "growing", "shrinking", "too_short"]
    bytes_per_hour: float
    low_bytes_per_hour: float
    high_bytes_per_hour: float
    n_samples: int
    span_s: float
    peak_bytes: int
    expected_bytes: int | None


class WatchReport(Struct, frozen=True):
    """What was seen; rates are of the samples behind the warm-up, with their 99 % interval."""

    schema_version: Literal[1]
    gpus: tuple[WatchedGpu, ...]

    @property
    def leaks(self) -> bool:
        """Whether memory grows on any GPU."""
        return any(gpu.verdict == "growing" for gpu in self.gpus)
