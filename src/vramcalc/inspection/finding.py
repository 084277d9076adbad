"""One thing worth telling about a file."""

from typing import Literal

from msgspec import Struct

Severity = Literal["info", "warning", "error"]


class Finding(Struct, frozen=True):
    """A fact and what to do about it; ``id`` is the same for every file, for scripts to go by."""

    id: str
    severity: Severity
    message: str
    advice: str = ""
