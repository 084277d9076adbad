"""One target per reader: whatever the bytes, only our own error type leaves it."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from fuzz.memory import MemorySource, no_sibling
from vramcalc.errors import AppError
from vramcalc.inspection import Evidence
from vramcalc.reports.inspection import inspection_report
from vramcalc.sources.config_json import read_config
from vramcalc.sources.gguf_header import read_gguf, read_gguf_set
from vramcalc.sources.model_source import gguf_source
from vramcalc.sources.safetensors_header import read_index, read_safetensors
from vramcalc.sources.yaml_file import parse_mapping

_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")
_CONFIG = Path(_FOLDER.name) / "config.json"
_REGISTRY = Path(_FOLDER.name) / "models.yaml"


def read_gguf_header(data: bytes) -> None:
    """Read the header of a GGUF, its length known or not."""
    read_gguf(MemorySource(data, is_sized=len(data) % 2 == 0))


def inspect_gguf(data: bytes) -> None:
    """Read a GGUF as a model, and tell everything about it."""
    file = read_gguf_set(MemorySource(data), no_sibling)
    found = gguf_source(file)
    problem = None if found.problem is None else (str(found.problem), found.problem.hint)
    inspection_report(Evidence(file=file, model=found.spec, match=found.match, problem=problem))


def read_safetensors_header(data: bytes) -> None:
    """Read the header of a safetensors file, its length known or not."""
    read_safetensors(MemorySource(data, is_sized=len(data) % 2 == 0))


def read_shard_index(data: bytes) -> None:
    """Read the index of a folder of shards."""
    read_index(MemorySource(data))


def read_config_file(data: bytes) -> None:
    """Read a config.json as a model."""
    _CONFIG.write_bytes(data)
    read_config(_CONFIG)


def read_registry_file(data: bytes) -> None:
    """Read a registry file."""
    parse_mapping(data, _REGISTRY)


Target = Callable[[bytes], None]

TARGETS: Mapping[str, Target] = {
    "gguf-header": read_gguf_header,
    "gguf-model": inspect_gguf,
    "safetensors-header": read_safetensors_header,
    "safetensors-index": read_shard_index,
    "config": read_config_file,
    "registry": read_registry_file,
}


def run(target: Target, data: bytes) -> bool:
    """Return whether the target took the bytes for what it reads; anything but our own error leaves as it is."""
    try:
        target(data)
    except AppError:
        return False
    return True
