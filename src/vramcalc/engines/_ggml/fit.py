"""llama.cpp's own ``--fit``: a search over the engine's measure of each placement.

What it does is kept to the letter, its slips included: partial layers are named one layer too late, and the result is
never measured again.

Source: llama.cpp 0c1e570, common/fit.cpp.
"""

import re
from collections.abc import Callable, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from vramcalc.engines._ggml.layout import Elsewhere, Layout, lay_out
from vramcalc.engines._ggml.meter import Meter, Reading
from vramcalc.engines._ggml.run import CONTEXT_STEP, Run
from vramcalc.engines._ggml.tensor import CPU
from vramcalc.units import MIB

MARGIN_BYTES = 1024 * MIB
LEAST_CONTEXT = 4096

# What leaves a layer that is placed in part.
_ATTENTION_STAYS = re.compile(r"ffn_(gate|up|gate_up|down)")
_UP_STAYS = re.compile(r"ffn_(gate|gate_up|down)")
_GATE_STAYS = re.compile(r"ffn_down")
_ALL_BUT_EXPERTS = re.compile(r"ffn_(up|down|gate_up|gate)_(ch|)exps")


class Fitted(Struct, frozen=True):
    """What the engine decides; ``gpu_layers`` None: it left everything on the GPUs."""

    layout: Layout
    run: Run
    gpu_layers: int | None = None


class _Share(Struct, frozen=True):
    """The layers of one device, the last ``n_part`` of them in part."""

    n_layers: int = 0
    n_part: int = 0
    leaves: re.Pattern[str] = _ALL_BUT_EXPERTS
    overflow: int = CPU

    @property
    def n_full(self) -> int:
        return self.n_layers - self.n_part

    def moved(self, n_layers: int, n_part: int) -> "_Share":
        """Return the share with so many more layers, and more in part."""
        return replace(self, n_layers=self.n_layers + n_layers, n_part=self.n_part + n_part)


_Shares = tuple[_Share, ...]


class _State(Struct):
    shares: _Shares
    used: tuple[int, ...]
    first_dense: int = 0


class Fit(Struct):
    """One fitting: the model's meter, and the memory free on each GPU."""

    meter: Meter
    free: Sequence[int]
    run: Run
    is_context_free: bool
    fixed: Layout | None = None  # what the user placed himself: the engine then moves nothing
    beside: Callable[[Run], Reading] | None = None  # of a draft model, which follows the context and never moves
    margins: Sequence[int] = ()  # by GPU, where they are not the default
    layouts: dict[_Shares, tuple[int, ...]] = field(default_factory=dict)

    @property
    def n_layers(self) -> int:
        """Layers of the model, without the output."""
        return len(self.meter.order)

    @property
    def targets(self) -> tuple[int, ...]:
        """What each GPU may be filled to."""
        margins = self.margins or (MARGIN_BYTES,) * len(self.free)
        return tuple(free - margin for free, margin in zip(self.free, margins, strict=True))

    def solve(self) -> Fitted:
        """Return the context and the placement the engine chooses."""
        full = self.fixed or lay_out(self.n_layers, self.n_layers + 1, self.free)
        if self.is_context_free:
            self.run = self.run.with_context(self.meter.model.context * self.run.n_streams)
        used = self._totals(full)
        if all(u <= t for u, t in zip(used, self.targets, strict=True)):
            return Fitted(full, self.run)
        if sum(used) > sum(self.targets) and self.is_context_free and self._shorten(full, sum(used)):
            return Fitted(full, self.run)
        if self.fixed is not None:
            return Fitted(full, self.run)
        layout = self._layout(self._place_layers())
        return Fitted(layout, self.run, layout.gpu_layers)

    def _totals(self, layout: Layout) -> tuple[int, ...]:
        readings = [self.meter.read(layout, self.run)]
        if self.beside is not None:
            readings.append(self.beside(self.run))
        return tuple(sum(reading.total(device) for reading in readings) for device in range(len(self.free)))

    def _shorten(self, full: Layout, used: int) -> bool:
        """Shorten the context along a straight line; return whether that settles it, unmeasured: on one GPU it does."""
        streams, longest = self.run.n_streams, self.run.total_context
        least = LEAST_CONTEXT * streams
        if longest <= least:
            return False
        target = sum(self.targets)
        if len(self.free) > 1:
            weights = sum(self.meter.weight_bytes(full)[:CPU])
            weights += sum(self.beside(self.run).weights[:CPU]) if self.beside is not None else 0
            per_layer = weights // max(1, min(full.gpu_layers, self.n_layers))
            target -= (len(self.free) + 1) * per_layer // (6 if self.meter.model.is_moe else 2)
        self.run = self.run.with_context(least)
        used_least = sum(self._totals(full))
        if target <= used_least:
            return False
        context = least + (longest - least) * (target - used_least) // (used - used_least)
        context -= context % (CONTEXT_STEP * streams)
        self.run = self.run.with_context(max(context, least))
        return len(self.free) == 1

    def _place_layers(self) -> _Shares:
        surplus = 0
        if self.meter.model.is_moe:
            all_away = tuple((index, self._leaving(index, _ALL_BUT_EXPERTS, CPU)) for index in range(self.n_layers))
            layout = lay_out(self.n_layers, self.n_layers + 1, self.free, all_away)
            surplus = sum(self.targets) - sum(self._totals(layout))
        state = self._fill()
        if surplus > 0:
            self._complete(state)
        return state.shares

    def _leaving(self, index: int, leaves: re.Pattern[str], device: int) -> Elsewhere:
        return tuple((name, device) for name in self.meter.weights.layers[index] if leaves.match(name))

    def _layout(self, shares: _Shares) -> Layout:
        gpu_layers = sum(share.n_layers for share in shares)
        at = self.n_layers + 1 - gpu_layers
        elsewhere: list[tuple[int, Elsewhere]] = []
        for share in shares:
            at += share.n_full
            for index in range(at, at + share.n_part):
                is_first = index == at
                if index < self.n_layers:
                    leaves, device = (share.leaves, share.overflow) if is_first else (_ALL_BUT_EXPERTS, CPU)
                    elsewhere.append((index, self._leaving(index, leaves, device)))
            at += share.n_part
        has_overrides = any(share.n_part for share in shares)
        sizes = [share.n_layers for share in shares]
        layout = lay_out(self.n_layers, gpu_layers, sizes if gpu_layers else self.free, tuple(elsewhere))
        if has_overrides and not elsewhere:  # a pattern beyond the last layer still switches pipelining off
            return replace(layout, elsewhere=((0, ()),))
        return layout

    def _used(self, shares: _Shares) -> tuple[int, ...]:
        if shares not in self.layouts:
            self.layouts[shares] = self._totals(self._layout(shares))
        return self.layouts[shares]

    def _fill(self) -> _State:
        """Fill GPUs back to front, the last first; experts stay behind."""
        n_devices, is_moe = len(self.free), self.meter.model.is_moe
        shares: _Shares = (_Share(),) * n_devices
        state = _State(shares, self._used(shares))
        for device in reversed(range(n_devices)):
            is_last = device == n_devices - 1
            left = self.n_layers + 1 - sum(share.n_layers for share in state.shares[device + 1 :])
            if not left:
                continue

            def with_more(n: int, base: _Shares, *, device: int = device, is_last: bool = is_last) -> _Shares:
                holds_head = is_last and not base[device].n_part
                in_part = (n - 1 if holds_head else n) if is_moe else 0
                return _with(base, device, base[device].moved(n, in_part))

            self._search(state, device, with_more(left, state.shares), with_more, lambda share: share.n_layers)
        return state

    def _search(
        self,
        state: _State,
        device: int,
        high: _Shares,
        with_more: Callable[[int, _Shares], _Shares],
        count: Callable[[_Share], int],
    ) -> bool:
        """Find the most layers a GPU takes by false position; return whether it takes all."""
        target = self.targets[device]
        used_high = self._used(high)
        if used_high[device] <= target:
            state.shares, state.used = high, used_high
            return True
        gap = count(high[device]) - count(state.shares[device])
        while gap > 1:
            step = _step(gap, target - state.used[device], used_high[device] - state.used[device])
            test = with_more(step, state.shares)
            used = self._used(test)
            if used[device] <= target:
                state.shares, state.used = test, used
            else:
                high, used_high = test, used
            gap = count(high[device]) - count(state.shares[device])
        return False

    def _complete(self, state: _State) -> None:
        """Give layers their experts back, front to back, and the next one in part."""
        last = len(self.free) - 1
        state.first_dense = next(d for d, share in enumerate(state.shares) if share.n_layers)
        device = 0
        while device <= state.first_dense and state.first_dense <= last:
            high = self._all_converted(state, device)

            def converted(n: int, base: _Shares, *, device: int = device) -> _Shares:
                return _convert(base, device, n, state.first_dense)

            if self._search(state, device, high, converted, lambda share: share.n_full):
                state.first_dense = last
            else:
                state.first_dense = _first_in_part(state)
            if state.shares[state.first_dense].n_layers > (0 if device < last else 1):
                self._add_in_part(state, device)
            device += 1

    def _all_converted(self, state: _State, device: int) -> _Shares:
        shares = list(state.shares)
        for other in range(state.first_dense, len(shares)):
            n = shares[other].n_layers - (other == len(shares) - 1)
            shares[device] = replace(shares[device], n_layers=shares[device].n_layers + n)
            shares[other] = replace(shares[other], n_layers=shares[other].n_layers - n, n_part=0)
        return tuple(shares)

    def _add_in_part(self, state: _State, device: int) -> None:
        donor = state.first_dense
        shares = _with(state.shares, donor, state.shares[donor].moved(-1, -1))
        first_dense = donor + (shares[donor].n_part == 0)
        overflow = device + 1 if device < len(self.free) - 1 else CPU
        base = shares[device].moved(1, 1)

        def attempt(leaves: re.Pattern[str]) -> bool:
            test = _with(shares, device, replace(base, leaves=leaves, overflow=overflow))
            used = self._used(test)
            if any(used[d] >= self.targets[d] for d in (device, device + 1) if d < len(self.free)):
                return False
            state.shares, state.used, state.first_dense = test, used, first_dense
            return True

        attempt(_GATE_STAYS) if attempt(_UP_STAYS) else attempt(_ATTENTION_STAYS)


def _with(shares: _Shares, device: int, share: _Share) -> _Shares:
    return (*shares[:device], share, *shares[device + 1 :])


def _convert(shares: _Shares, device: int, n: int, donor: int) -> _Shares:
    """Return the shares after ``n`` layers got their experts back on a device, taken from the front of the rest."""
    result = list(shares)
    for other in range(donor, len(result)):
        taken = min(n, result[other].n_part)
        result[other] = result[other].moved(-taken, -taken)
        result[device] = result[device].moved(taken, 0)
        n -= taken
    return tuple(result)


def _first_in_part(state: _State) -> int:
    return next(
        (d for d in range(state.first_dense, len(state.shares)) if state.shares[d].n_part), len(state.shares) - 1
    )


def _step(gap: int, missing: int, span: int) -> int:
    """Return the next step of the search; the engine's unsigned arithmetic turns a negative one into the largest."""
    scaled = gap * missing
    step = abs(scaled) // abs(span) * (1 if (scaled >= 0) == (span > 0) else -1)
    return gap - 1 if step < 0 else min(max(step, 1), gap - 1)
