"""Writing into the user's own registry of models."""

import contextlib
import os
import re
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from vramcalc.errors import BadInputError, UnavailableError, UsageError
from vramcalc.sources.files import read_content
from vramcalc.sources.registry import model_registry
from vramcalc.sources.yaml_file import parse_mapping, user_folder
from vramcalc.specs.model import ModelSpec

_FILE_NAME = "models.yaml"
_SECTION = "models"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def write_model(model: ModelSpec, entry_id: str | None, *, force: bool) -> tuple[str, Path]:
    """Add a model to the user's models.yaml, whole or not at all; return its id and the file.

    Raises ``UsageError`` where the id is no name or taken, ``UnavailableError`` where the file cannot be written.
    """
    name = _checked(entry_id or re.sub(r"[^a-z0-9._-]+", "-", model.id.lower()).strip("-._"), was_given=bool(entry_id))
    path = user_folder() / _FILE_NAME
    raw = read_content(path) if path.is_file() else b""
    content = parse_mapping(raw, path)
    section = content.get(_SECTION) if content.keys() <= {"models", "gpus"} else content
    entries: dict[str, Any] = section if isinstance(section, dict) else {}
    owner = model_registry().owner(name)
    if owner is not None and (owner != name or not force):
        advice = "--force replaces it, --id gives another name" if owner == name else "--id gives another name"
        raise UsageError(f"{name!r} already names the model {owner!r}", advice)
    entry = {name: model.model_dump(mode="json", exclude={"id"}, exclude_defaults=True)}
    wanted = {**content, **entry} if section is content and content else {**content, _SECTION: {**entries, **entry}}
    _write(path, _extended(raw.decode(), entry, wanted, path))
    return name, path


def _extended(text: str, entry: dict[str, Any], wanted: dict[str, Any], path: Path) -> str:
    """Return the file's text with the entry at its end, so that comments stay; written anew where that cannot be."""
    added = _dump(entry)
    for candidate in (f"{text.rstrip()}\n{textwrap.indent(added, '  ')}", f"{text.rstrip()}\n{added}"):
        with contextlib.suppress(BadInputError):
            if parse_mapping(candidate.encode(), path) == wanted:
                return candidate
    return _dump(wanted)


def _dump(content: dict[str, Any]) -> str:
    import yaml  # noqa: PLC0415 - costs a start 15 ms

    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    return text


def _checked(name: str, *, was_given: bool) -> str:
    if _NAME.fullmatch(name):
        return name
    what = f"{name!r:.120} is no id" if was_given else "the source gives itself no name to go by"
    raise UsageError(what, "--id takes small letters, digits, dots and dashes, e.g. my-8b")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UnavailableError(f"{path} cannot be written: {error.strerror}", "check the folder") from error
