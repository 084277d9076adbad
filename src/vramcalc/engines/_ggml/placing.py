"""Layouts of the engine and placements of the house: the same facts under two names."""

from vramcalc.engines._ggml.layout import Elsewhere, Layout
from vramcalc.engines._ggml.tensor import CPU
from vramcalc.ledger import HOST
from vramcalc.specs.placement import Override, Placement


def to_placement(layout: Layout, devices: tuple[str, ...]) -> Placement:
    """Return a layout under the names of devices.

    A pattern that names no layer, which still keeps batches from being pipelined, is an override without tensors.
    """
    names = {CPU: HOST, **dict(enumerate(devices))}
    overrides: list[Override] = []
    for index, away in layout.elsewhere:
        for device in dict.fromkeys(home for _, home in away):
            tensors = frozenset(name for name, home in away if home == device)
            overrides.append(Override(index, tensors, names[device]))
        if not away:
            overrides.append(Override(index, frozenset(), names[layout.layers[index]]))
    return Placement(
        layers=tuple(names[home] for home in layout.layers),
        input_device=HOST,
        output_device=names[layout.output],
        overrides=tuple(overrides),
    )


def to_layout(placement: Placement, devices: tuple[str, ...]) -> Layout:
    """Return the layout behind a placement."""
    numbers = {HOST: CPU, **{name: number for number, name in enumerate(devices)}}
    elsewhere: dict[int, Elsewhere] = {}
    for override in placement.overrides:
        moved = tuple((name, numbers[override.device]) for name in sorted(override.tensors))
        elsewhere[override.layer] = elsewhere.get(override.layer, ()) + moved
    return Layout(
        tuple(numbers[name] for name in placement.layers),
        numbers[placement.output_device],
        len(devices),
        tuple(elsewhere.items()),
    )
