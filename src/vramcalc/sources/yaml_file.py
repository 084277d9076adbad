"""Registry files: YAML read safely. What was parsed or validated once is kept as JSON in the cache folder."""

import contextlib
import hashlib
import os
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
from msgspec import DecodeError, json

from vramcalc.errors import BadInputError

_MOST_DEPTH = 24
_ADVICE = "the file is to be YAML: `name:` and its fields below it"
_CACHE_FORMAT = 1  # raise when what is cached changes shape

Raw = dict[str, Any]


def user_folder() -> Path:
    """Return the folder of the user's own models.yaml and gpus.yaml."""
    return platformdirs.user_config_path("vramcalc", appauthor=False)


def parse_mapping(content: bytes, path: Path) -> Raw:
    """Return the top-level mapping of YAML, from the cache where this content was parsed before.

    Raises ``BadInputError`` when it is no plain YAML mapping; ``path`` is for the message.
    """
    found = read_cached("file", content)
    if found is None:
        found = _parse(content, path)
        write_cached("file", content, found)
    return found


def read_cached(kind: str, key: bytes) -> Raw | None:
    """Return what was kept under ``key``, or None where nothing whole was."""
    try:
        found = json.decode(_cache_path(kind, key).read_bytes())
    except (OSError, DecodeError):  # not there yet, or not whole: the file itself is the truth
        return None
    return found if isinstance(found, dict) else None


def write_cached(kind: str, key: bytes, found: Raw) -> None:
    """Keep ``found`` under ``key``; a cache that cannot be written costs time, never an answer."""
    import tempfile  # noqa: PLC0415 - only the first start writes

    path = _cache_path(kind, key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(json.encode(found))
        Path(name).replace(path)


def _cache_path(kind: str, key: bytes) -> Path:
    digest = hashlib.sha256(key).hexdigest()[:32]
    return platformdirs.user_cache_path("vramcalc", appauthor=False) / f"{kind}-{_CACHE_FORMAT}-{digest}.json"


def _parse(content: bytes, path: Path) -> Raw:
    import yaml  # noqa: PLC0415 - costs a start 15 ms that the cache saves

    kind = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = kind(content)
    try:
        _check_depth(yaml.parse(content, Loader=kind), yaml)
        root = loader.get_single_node()
        if root is None:
            return {}
        _check(root, yaml)
        found = loader.construct_document(root)
        return _as_json(found, path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadInputError(f"{path}{where}: {problem}", _ADVICE) from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: {error}", _ADVICE) from error
    finally:
        loader.dispose()


def _check_depth(events: Iterator[Any], yaml: Any) -> None:  # noqa: ANN401 - yaml is untyped
    """Refuse deep nesting before nodes are composed: libyaml's composer recurses, and 65 KB of brackets end it."""
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_DEPTH:
            raise ValueError(f"line {event.start_mark.line + 1}: nested more than {_MOST_DEPTH} deep")


def _check(root: Any, yaml: Any) -> None:  # noqa: ANN401 - yaml's nodes are untyped
    """Refuse what YAML would take in silence: repeated keys, and references (a small file can name a huge one)."""
    seen: set[int] = set()
    todo = [root]
    while todo:
        node = todo.pop()
        line = node.start_mark.line + 1
        if id(node) in seen:
            raise ValueError(f"line {line}: YAML references (& and *) are not allowed here; use `like: NAME`")
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys: set[Hashable] = set()
            for key, value in node.value:
                if key.value in keys if isinstance(key.value, Hashable) else True:
                    raise ValueError(f"line {key.start_mark.line + 1}: {key.value!r} is there twice")
                keys.add(key.value)
                todo.append(value)
        elif isinstance(node, yaml.SequenceNode):
            todo += node.value


def _as_json(found: object, path: Path) -> Raw:
    if not isinstance(found, dict):
        raise BadInputError(f"{path}: the top level is not a mapping", _ADVICE)
    plain: Raw = json.decode(json.encode(found, enc_hook=str))  # YAML's dates become the text people wrote
    return plain
