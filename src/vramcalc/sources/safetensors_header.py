"""Headers of safetensors files: every tensor's shape, type and bytes, and no byte of their data.

Single files, shards named by an index or by their numbers.

Source:
    huggingface/safetensors, README.md (the format) and safetensors/src/tensor.rs (what a loader checks).
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from math import prod
from operator import itemgetter
from typing import Annotated, Any

from msgspec import Meta, MsgspecError, Struct
from msgspec.json import Decoder

from vramcalc.errors import BadInputError, MissingError
from vramcalc.sources.byte_source import ByteSource, OpenSibling
from vramcalc.specs.file import FilePart, FileTensor, ModelFile

INDEX_NAME = "model.safetensors.index.json"

_LENGTH_BYTES = 8
_MOST_HEADER_BYTES, _MOST_INDEX_BYTES = 32 << 20, 32 << 20
_MOST_SHARDS, _MOST_DIMENSIONS = 10_000, 16
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_ADVICE = "the file is damaged or no such file; fetch it again"

_BITS: Mapping[str, int] = {
    **dict.fromkeys(("F4", "I4", "U4"), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


class SafetensorsHeader(Struct, frozen=True, kw_only=True):
    """One file's header; ``needed_bytes`` is the length the file must have, no more and no less."""

    tensors: tuple[FileTensor, ...]
    needed_bytes: int


_Size = Annotated[int, Meta(ge=0)]


class _Entry(Struct, gc=False):
    """A tensor's entry, or what stands for the metadata: an object without these."""

    dtype: str | None = None
    shape: tuple[_Size, ...] | None = None
    data_offsets: tuple[_Size, _Size] | None = None


_DECODER = Decoder(dict[str, _Entry])


def read_safetensors(source: ByteSource) -> SafetensorsHeader:
    """Return the header of one file. Raises ``BadInputError`` naming what is wrong in it, ``UnavailableError``."""
    n_bytes = int.from_bytes(_exactly(source, 0, _LENGTH_BYTES), "little")
    left = n_bytes if source.n_bytes is None else source.n_bytes - _LENGTH_BYTES
    if n_bytes > min(_MOST_HEADER_BYTES, left):
        raise _error(source, f"it claims a header of {n_bytes:,} bytes, more than there is or can be")
    entries = _entries(source, _exactly(source, _LENGTH_BYTES, n_bytes))
    placed = sorted((_place(source, name, entry) for name, entry in entries.items()), key=itemgetter(0))
    end = 0
    for start, tensor in placed:
        if start != end:
            reason = "overlaps the one before it" if start < end else "leaves a gap behind the one before it"
            raise _error(source, f"tensor {tensor.name!r:.200} at {start:,}, not {end:,}, {reason}")
        end = start + tensor.n_bytes
    return SafetensorsHeader(
        tensors=tuple(tensor for _, tensor in placed),
        needed_bytes=_LENGTH_BYTES + n_bytes + end,
    )


def choose_files(names: Collection[str], where: str) -> tuple[str, ...]:
    """Return which files of a folder hold the model where no index says so: ``model.safetensors``, or the one set.

    Raises ``BadInputError`` where there is none, or several that could be meant.
    """
    found = sorted(name for name in names if name.endswith(".safetensors"))
    if "model.safetensors" in found:
        return ("model.safetensors",)
    sets = {_set_of(name) for name in found}
    if len(sets) > 1 and any(key.startswith("model-") for key in sets):
        sets = {key for key in sets if key.startswith("model-")}  # beside it, the publisher's own layout
    if len(sets) != 1:
        several = f"holds {len(sets)} sets of .safetensors files" if sets else "holds no .safetensors file"
        raise BadInputError(f"{where} {several}", "name the file that is meant")
    chosen = sets.pop()
    match = _SHARD.fullmatch(next(name for name in found if _set_of(name) == chosen))
    return tuple(name for name in found if _set_of(name) == chosen) if match is None else _all_shards(match, where)


def shards_beside(name: str) -> tuple[str, ...]:
    """Return the names of all shards of the set a file belongs to: itself alone where it is not named like a shard."""
    match = _SHARD.fullmatch(name)
    return (name,) if match is None else _all_shards(match, name)


def read_index(source: ByteSource) -> dict[str, str]:
    """Return which file holds each tensor, by an index. Raises ``BadInputError``, ``UnavailableError``."""
    if source.n_bytes is not None and source.n_bytes > _MOST_INDEX_BYTES:
        raise _error(source, f"it is larger than {_MOST_INDEX_BYTES >> 20} MiB")
    raw = source.read(0, _MOST_INDEX_BYTES + 1)
    if len(raw) > _MOST_INDEX_BYTES:
        raise _error(source, f"it is larger than {_MOST_INDEX_BYTES >> 20} MiB")
    places = _json_object(raw, source.name).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise _error(source, "'weight_map' is no object that names a file for each tensor")
    files = set(places.values())
    strange = [name for name in files if re.search(r"[/\\\0]", name) or not name.endswith(".safetensors")]
    if strange or len(files) > _MOST_SHARDS:
        raise _error(source, f"'weight_map' names {strange[0]!r:.200}" if strange else f"it names {len(files):,} files")
    return places


def read_safetensors_set(
    name: str, files: Collection[str], open_file: OpenSibling, index: Mapping[str, str] | None = None
) -> ModelFile:
    """Return a model from its shards; one that is not there is listed as missing.

    ``index`` is held against what the shards hold. Raises as ``read_safetensors``, and ``UnavailableError`` where no
    shard is there.
    """
    parts, held = [], dict[str, str]()
    tensors: list[FileTensor] = []
    missing: MissingError | None = None
    for file in sorted(files):
        try:
            source = open_file(file)
        except MissingError as error:
            missing = missing or error
            parts.append(FilePart(file, None, 0, is_missing=True))
            continue
        header = read_safetensors(source)
        for tensor in header.tensors:
            if held.setdefault(tensor.name, file) != file:
                raise BadInputError(
                    f"{name}: tensor {tensor.name!r:.200} is in {held[tensor.name]} and {file}", _ADVICE
                )
        tensors += header.tensors
        parts.append(FilePart(file, source.n_bytes, header.needed_bytes))
    if missing is not None and not tensors:
        raise missing
    whole = {part.name for part in parts if not part.is_missing}
    for tensor_name, file in (index or {}).items():
        if file in whole and held.get(tensor_name) != file:
            raise BadInputError(f"{name}: its index puts {tensor_name!r:.200} into {file}, which lacks it", _ADVICE)
    return ModelFile(name=name, container="safetensors", parts=tuple(parts), tensors=tuple(tensors))


def _place(source: ByteSource, name: str, entry: _Entry) -> tuple[int, FileTensor]:
    dtype, shape = entry.dtype, entry.shape
    if dtype is None or shape is None or entry.data_offsets is None:
        raise _tensor_error(source, name, "is not described by dtype, shape and data_offsets")
    n_bits = _BITS.get(dtype)
    if n_bits is None:
        raise _tensor_error(source, name, f"has the unknown dtype {dtype!r:.40}")
    start, end = entry.data_offsets
    if len(shape) > _MOST_DIMENSIONS or end - start < 0 or (end - start) * 8 != prod(shape) * n_bits:
        wrong = f"has {end - start:,} bytes, which is not what its shape takes in {dtype}: {shape!s:.80}"
        raise _tensor_error(source, name, wrong)
    return start, FileTensor(name, shape or (1,), dtype.lower(), end - start)


def _entries(source: ByteSource, raw: bytes) -> dict[str, _Entry]:
    """Return the header's entries. Decoded by shape: untyped, a folder of 160 shards takes twice as long."""
    try:
        found = _DECODER.decode(raw)
    except (MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _json_object(raw, source.name)  # a clearer word where it is no JSON at all
        reason = str(error).replace("`$[...]`", "a tensor")
        raise _error(source, f"its header is none of tensors: {reason:.300}") from error
    if raw.count(b'"data_offsets"') != len(found):
        _json_object(raw, source.name)  # finds a name that is there twice
    found.pop("__metadata__", None)
    return found


def _json_object(raw: bytes, name: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
            raise ValueError(f"{key!r:.200} is there twice")
        return found

    try:
        found = json.loads(raw.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise BadInputError(f"{name}: its header is no JSON: {reason:.300}", _ADVICE) from error
    if not isinstance(found, dict):
        raise BadInputError(f"{name}: its header is no JSON object", _ADVICE)
    return found


def _exactly(source: ByteSource, offset: int, n_bytes: int) -> bytes:
    found = source.read(offset, n_bytes)
    if len(found) < n_bytes:
        raise _error(source, "the data ends in the middle of its header")
    return found


def _set_of(name: str) -> str:
    match = _SHARD.fullmatch(name)
    return name if match is None else f"{match['stem']}-of-{match['count']}"


def _all_shards(match: re.Match[str], where: str) -> tuple[str, ...]:
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= _MOST_SHARDS:
        raise BadInputError(f"{where}: {match[0]} is no shard of {count}", "check the names")
    return tuple(f"{match['stem']}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1))


def _tensor_error(source: ByteSource, name: str, fact: str) -> BadInputError:
    return _error(source, f"tensor {name!r:.200} {fact}")


def _error(source: ByteSource, fact: str) -> BadInputError:
    return BadInputError(f"{source.name}: {fact}", _ADVICE)
