"""Small files from outside: read whole, and never more than a bound."""

from pathlib import Path

from vramcalc.errors import BadInputError, UnavailableError

_MOST_BYTES = 8 << 20


def read_content(path: Path) -> bytes:
    """Return a small file's bytes. Raises ``UnavailableError``, or ``BadInputError`` over 8 MiB."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error
    if len(content) > _MOST_BYTES:
        raise BadInputError(f"{path} is larger than {_MOST_BYTES >> 20} MiB", "name a file of specs, not of weights")
    return content
