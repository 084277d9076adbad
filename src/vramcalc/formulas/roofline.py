"""How long a device takes for a share of a forward pass: the longest of reading, unpacking and computing."""

from msgspec import Struct


class Work(Struct, frozen=True, kw_only=True):
    """What one device does in one forward pass; bytes and operations may be shares of whole ones."""

    weight_bytes: float = 0.0
    cache_bytes: float = 0.0  # cache and states
    flops: float = 0.0
    n_weights: float = 0.0
    n_layers: float = 0.0
    n_routed: float = 0.0  # of these layers, with experts

    def __add__(self, other: "Work") -> "Work":
        return Work(
            weight_bytes=self.weight_bytes + other.weight_bytes,
            cache_bytes=self.cache_bytes + other.cache_bytes,
            flops=self.flops + other.flops,
            n_weights=self.n_weights + other.n_weights,
            n_layers=self.n_layers + other.n_layers,
            n_routed=self.n_routed + other.n_routed,
        )


class Rates(Struct, frozen=True, kw_only=True):
    """What a device reaches of its peaks, and what each layer costs on top; an unpacking rate of 0 is no limit."""

    bytes_per_s: float
    cache_bytes_per_s: float
    flops_per_s: float
    layer_s: float
    routed_layer_s: float = 0.0
    weights_per_s: float = 0.0


class Seconds(Struct, frozen=True, kw_only=True):
    """The parts of a device's time; the longest of the first three counts, the last is added."""

    reading: float
    unpacking: float
    computing: float
    fixed: float

    @property
    def total(self) -> float:
        """Time of the device."""
        return max(self.reading, self.unpacking, self.computing) + self.fixed


def device_seconds(work: Work, rates: Rates) -> Seconds:
    """Return the time of one device: reading, unpacking and computing overlap, what a layer costs beside does not.

    Source:
        the roofline model, Williams et al., doi:10.1145/1498765.1498785.

    >>> rates = Rates(bytes_per_s=1e12, cache_bytes_per_s=1e12, flops_per_s=1e14, layer_s=1e-5)
    >>> work = Work(weight_bytes=4e9, cache_bytes=1e9, flops=1.6e10, n_layers=32)
    >>> round(1e3 * device_seconds(work, rates).total, 2)
    5.32
    """
    return Seconds(
        reading=work.weight_bytes / rates.bytes_per_s + work.cache_bytes / rates.cache_bytes_per_s,
        unpacking=work.n_weights / rates.weights_per_s if rates.weights_per_s else 0.0,
        computing=work.flops / rates.flops_per_s,
        fixed=work.n_layers * rates.layer_s + work.n_routed * rates.routed_layer_s,
    )
