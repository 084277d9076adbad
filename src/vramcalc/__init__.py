"""VRAM budget calculator for large language models.

>>> from vramcalc import estimate
>>> report = estimate("deepseek-r1-8b", "rtx3060", engines=["ollama"])
>>> report.estimates[0].verdict
'fits'
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vramcalc.api import estimate, load_gpu, load_model, solve

__all__ = ["estimate", "load_gpu", "load_model", "solve"]


def __getattr__(name: str) -> object:
    """Import a use case when it is first asked for: the command line must not pay for what it does not use."""
    if name in __all__:
        from vramcalc import api  # noqa: PLC0415

        return getattr(api, name)
    raise AttributeError(f"module 'vramcalc' has no attribute {name!r}")
