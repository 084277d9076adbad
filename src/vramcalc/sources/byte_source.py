"""Bytes by offset: all that a reader of headers asks of a local file, or of a server that answers ranges."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vramcalc.errors import BadInputError, MissingError, UnavailableError


class ByteSource(Protocol):
    """One file, wherever it lies.

    Readers ask forwards, 64 KiB first and then more at a time; a source for which a request is dear reads ahead itself.
    """

    @property
    def name(self) -> str:
        """What errors and answers call it."""
        ...

    @property
    def n_bytes(self) -> int | None:
        """The whole size; None where nobody says."""
        ...

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return ``n_bytes`` from ``offset`` on; fewer only at the end of the data.

        Raises ``UnavailableError`` where the bytes cannot be had, ``BadInputError`` where they cannot be what they say.
        """
        ...


OpenSibling = Callable[[str], ByteSource]  # a file's name to the file beside the one at hand; raises MissingError


class FileSource:
    """A regular file on this machine; no folder, pipe, device, or link that leads nowhere."""

    def __init__(self, path: Path) -> None:
        """Look at the file. Raises ``UnavailableError`` where there is none, ``BadInputError`` where it is no file."""
        try:
            status = path.stat()
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        if not stat.S_ISREG(status.st_mode):
            raise BadInputError(f"{path} is {_kind(status.st_mode)}, not a file", "name the file itself")
        self._path = path
        self.name = str(path)
        self.n_bytes: int | None = status.st_size

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return the bytes from ``offset`` on, fewer at the end. Raises ``UnavailableError``."""
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(offset)
                return file.read(n_bytes)
        except (OSError, ValueError) as error:
            raise _unreadable(self._path, error) from error

    def sibling(self, name: str) -> "FileSource":
        """Return the file of that name in the same folder. Raises as the constructor does."""
        if Path(name).name != name:
            raise BadInputError(f"{self.name} refers to {name!r}, not beside it", "keep all parts in one folder")
        return FileSource(self._path.with_name(name))


def _unreadable(path: Path, error: OSError | ValueError) -> UnavailableError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    kind = MissingError if isinstance(error, FileNotFoundError) else UnavailableError
    return kind(f"{path} cannot be read: {reason}", "check the path and its permissions")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
