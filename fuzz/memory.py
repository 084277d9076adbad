"""A source of bytes that were made up."""

from vramcalc.errors import UnavailableError


class MemorySource:
    """Bytes as a file; ``is_sized`` says whether anybody knows how long it is, as not every server does."""

    def __init__(self, content: bytes, *, is_sized: bool = True) -> None:
        self.name = "made-up.gguf"
        self.n_bytes = len(content) if is_sized else None
        self._content = content

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return the bytes from ``offset`` on, fewer at the end."""
        return self._content[offset : offset + n_bytes]


def no_sibling(name: str) -> MemorySource:
    """Raise: nothing lies beside it."""
    raise UnavailableError(f"{name} is not there")
