"""What llama-server keeps in host memory as it works: prompts it may see again, and states to go back to.

Source: llama.cpp 0c1e570, common/common.h (cache_ram_mib, n_ctx_checkpoints) and tools/server/server-context.cpp.
"""

from collections.abc import Iterator

from vramcalc.engines._ggml.meter import Meter, layer_state_bytes
from vramcalc.engines._ggml.run import Run
from vramcalc.formulas.kv_cache import cached_row_elements, window_of
from vramcalc.ledger import HOST, Basis, Component, Line
from vramcalc.units import MIB

_PROMPT_CACHE_BYTES = 8192 * MIB
_CHECKPOINTS = 32  # per slot
_SOURCE = "llama.cpp 0c1e570, tools/server/server-context.cpp"


def host_cache_lines(meter: Meter, run: Run) -> Iterator[Line]:
    """Yield what is empty at the start and grows up to its high figure."""
    if meter.model.is_encoder:
        return
    yield _growing(
        _PROMPT_CACHE_BYTES,
        Component.KV_CACHE,
        "caches of earlier prompts: empty at the start, grows up to 8192 MiB (--cache-ram 0 turns it off)",
    )
    state = _checkpoint_bytes(meter, run)
    if state:
        yield _growing(
            run.n_slots * _CHECKPOINTS * state,
            Component.STATE,
            f"checkpoints of {state / MIB:.1f} MiB, empty at the start: grows up to {_CHECKPOINTS} for each of "
            f"{run.n_slots} slots (--ctx-checkpoints)",
        )


def _checkpoint_bytes(meter: Meter, run: Run) -> int:
    """Return what one checkpoint copies of one slot: windows and recurrent state, nothing that can be cut short."""
    total = 0
    for kind in meter.order:
        window = window_of(kind.attention)
        if window is not None and not run.swa_full:
            k, v = cached_row_elements(kind.attention)
            total += min(window, run.stream_cells) * (run.k_format.bytes_for(k) + run.v_format.bytes_for(v))
        total += layer_state_bytes(kind.mixer, run) // run.n_slots
    return total


def _growing(most_bytes: int, component: Component, why: str) -> Line:
    return Line(
        component=component,
        device=HOST,
        n_bytes=0,
        low_bytes=0,
        high_bytes=most_bytes,
        basis=Basis.DERIVED,
        why=why,
        source=_SOURCE,
        formula="at_start",
        values={"at_start": 0},
    )
