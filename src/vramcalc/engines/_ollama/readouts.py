"""What ``ollama ps`` prints: the sum of the buffers llama-server reports, without the CUDA context.

The weights of a vision projector are logged as a size and not as a buffer, so that they are not in it.

Source: Ollama 0.33 (fb30760), llm/llama_server.go (MemorySize), cmd/cmd.go (ListRunningHandler), format/bytes.go.
"""

from vramcalc.engines.base import Readout
from vramcalc.ledger import HOST, Component, Ledger
from vramcalc.units import GB, MB

_TEN = 10
_TOWER = "tower"  # among the values of a projector's weights


def ps_readout(ledger: Ledger, *, whole: bool, n_context: int) -> Readout:
    """Return the size, the processor and the context ``ollama ps`` shows.

    Args:
        ledger: The bill.
        whole: Whether every layer is on GPUs: host buffers are then not counted.
        n_context: Tokens of one sequence.
    """
    buffers = [line for line in ledger.lines if line.component is not Component.RUNTIME and _TOWER not in line.values]
    on_gpus = sum(line.n_bytes for line in buffers if line.device != HOST)
    total = on_gpus if whole else sum(line.n_bytes for line in buffers)
    return Readout("ollama ps", None, total, f"{ps_text(total, on_gpus)}  {n_context}")


def ps_text(total: int, on_gpus: int) -> str:
    """Return size and processor as ``ollama ps`` prints them.

    >>> ps_text(44_000_000_000, 11_440_000_000)
    '44 GB  74%/26% CPU/GPU'
    """
    return f"{_size(total)}  {_processor(total, on_gpus)}"


def _processor(total: int, on_gpus: int) -> str:
    if on_gpus == total:
        return "100% GPU"
    if on_gpus == 0:
        return "100% CPU"
    on_cpu = (200 * (total - on_gpus) + total) // (2 * total)  # rounded half up
    return f"{on_cpu}%/{100 - on_cpu}% CPU/GPU"


def _size(n_bytes: int) -> str:
    """Return decimal units as Ollama prints them.

    >>> _size(5_359_798_656), _size(12_900_000_000), _size(705_000_000)
    ('5.4 GB', '12 GB', '705 MB')
    """
    unit, scale = ("GB", GB) if n_bytes >= GB else ("MB", MB)
    value = n_bytes / scale
    return f"{int(value)} {unit}" if value >= _TEN or value == int(value) else f"{value:.1f} {unit}"
