"""The header of a GGUF file: its keys and its tensors, and no byte of their data.

Versions 2 and 3, little- and big-endian; files in parts. What llama.cpp refuses to load is refused here in its terms.

Source:
    ggml's gguf.md (the format) and llama.cpp, ggml/src/gguf.cpp (what a loader checks).
"""

import re
from collections.abc import Iterator
from math import prod

from msgspec import Struct

from vramcalc.errors import BadInputError, MissingError
from vramcalc.sources._cursor import Cursor
from vramcalc.sources._gguf_types import ARRAY, REMOVED_TYPES, TENSOR_TYPES, TEXT, VALUE_CODES, VALUE_NAMES
from vramcalc.sources.byte_source import ByteSource, OpenSibling
from vramcalc.specs.file import FilePart, FileTensor, LongArray, ModelFile, Value
from vramcalc.specs.formats import BlockFormat
from vramcalc.units import round_up

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MOST_HEADER_BYTES = 256 << 20
_MOST_KEYS, _MOST_TENSORS, _MOST_DIMENSIONS = 1 << 16, 1 << 18, 4
_MOST_NAME_BYTES, _MOST_TEXT_BYTES = 1 << 10, 1 << 20
_MOST_KEPT_ELEMENTS = 4096  # of an array: one per layer; longer ones are counted and passed over
_LARGEST_SIZE = 1 << 63
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MOST_PARTS = 1000


class GgufHeader(Struct, frozen=True, kw_only=True):
    """One file's header; ``needed_bytes`` is the length the file must have to hold what it lists."""

    version: int
    is_big_endian: bool
    alignment: int
    keys: dict[str, Value]
    tensors: tuple[FileTensor, ...]
    data_offset: int
    needed_bytes: int


class _Part(Struct, frozen=True):
    name: str
    n_bytes: int | None
    header: GgufHeader | None  # None: the part is missing


def read_gguf(source: ByteSource) -> GgufHeader:
    """Return the header of one file. Raises ``BadInputError`` naming what is wrong in it, ``UnavailableError``."""
    if source.read(0, len(_MAGIC)) != _MAGIC:
        raise BadInputError(f"{source.name} is no GGUF file: it does not start with 'GGUF'", "name a .gguf file")
    cursor = Cursor(source, most_bytes=_MOST_HEADER_BYTES)
    cursor.skip(len(_MAGIC), "the magic number")
    version, is_big_endian = _version(cursor)
    n_tensors = _count(cursor, "tensors", _MOST_TENSORS)
    n_keys = _count(cursor, "keys", _MOST_KEYS)
    keys: dict[str, Value] = {}
    for number in range(n_keys):
        name = cursor.text(f"the name of key {number}", most_bytes=_MOST_NAME_BYTES)
        if name in keys:
            raise cursor.error(f"key {name!r} is there twice")
        keys[name] = _value(cursor, name)
    alignment = _alignment(cursor, keys)
    tensors, n_data_bytes = _tensors(cursor, n_tensors, alignment)
    data_offset = round_up(cursor.offset, alignment)
    return GgufHeader(
        version=version,
        is_big_endian=is_big_endian,
        alignment=alignment,
        keys=keys,
        tensors=tensors,
        data_offset=data_offset,
        needed_bytes=data_offset + n_data_bytes if tensors else cursor.offset,
    )


def read_gguf_set(source: ByteSource, open_sibling: OpenSibling) -> ModelFile:
    """Return a model from its file, or from all parts of it where the name is that of a part.

    A part that is not there is listed as missing; the first must be, for the keys are in it. Raises as ``read_gguf``.
    """
    own = re.split(r"[/\\]", source.name)[-1]
    names = parts_beside(own)
    if len(names) == 1:
        header = read_gguf(source)
        if _whole(header.keys, "split.count", 1) > 1:
            raise BadInputError(
                f"{source.name} is one of {header.keys['split.count']} parts and not named like one",
                "keep the names NAME-00001-of-00003.gguf",
            )
        return _joined(source.name, [_Part(source.name, source.n_bytes, header)])
    parts = []
    for number, name in enumerate(names, 1):
        part = _Part(name, source.n_bytes, read_gguf(source)) if name == own else _sibling(name, open_sibling)
        if number == 1 and part.header is None:
            raise MissingError(f"{name} is missing, the first of {len(names)} parts", "fetch all parts into one folder")
        _check_part(part, number, len(names))
        parts.append(part)
    return _joined(source.name, parts)


def parts_beside(name: str) -> tuple[str, ...]:
    """Return the names of all parts of the set a file belongs to: itself alone where it is not named like a part."""
    match = _PART.fullmatch(name)
    if match is None:
        return (name,)
    own, count = int(match["number"]), int(match["count"])
    if not 1 <= own <= count <= _MOST_PARTS:
        raise BadInputError(f"{name} is named part {own} of {count}", "check the name")
    return tuple(f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1))


def _sibling(name: str, open_sibling: OpenSibling) -> _Part:
    try:
        source = open_sibling(name)
    except MissingError:
        return _Part(name, None, None)
    return _Part(name, source.n_bytes, read_gguf(source))


def _check_part(part: _Part, number: int, count: int) -> None:
    if part.header is None:
        return
    stated = _whole(part.header.keys, "split.no", 0) + 1, _whole(part.header.keys, "split.count", 1)
    if stated != (number, count):
        raise BadInputError(
            f"{part.name} says it is part {stated[0]} of {stated[1]}",
            "the parts belong to different files, or were renamed",
        )


def _joined(name: str, parts: list[_Part]) -> ModelFile:
    headers = [part.header for part in parts if part.header is not None]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise BadInputError(f"{name}: tensor {tensor.name!r} is in two parts", "fetch the parts again")
        seen.add(tensor.name)
    return ModelFile(
        name=name,
        container="gguf",
        version=str(headers[0].version),
        is_big_endian=headers[0].is_big_endian,
        parts=tuple(
            FilePart(p.name, p.n_bytes, p.header.needed_bytes if p.header else 0, is_missing=p.header is None)
            for p in parts
        ),
        tensors=tensors,
        keys=headers[0].keys,
    )


def _version(cursor: Cursor) -> tuple[int, bool]:
    version = cursor.number("I", "the version")
    is_big_endian = version & 0xFFFF == 0 and version != 0
    if is_big_endian:
        cursor.set_order(">")
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in _VERSIONS:
        raise BadInputError(
            f"{cursor.name} is GGUF version {version}, known are {' and '.join(map(str, _VERSIONS))}",
            "convert the model again with a current llama.cpp" if version == 1 else "check for a newer vramcalc",
        )
    return version, is_big_endian


def _count(cursor: Cursor, what: str, most: int) -> int:
    count = cursor.number("q", f"the number of {what}")
    if not 0 <= count <= most:
        raise cursor.error(f"it claims {count:,} {what}, not between 0 and {most:,}")
    return count


def _value(cursor: Cursor, name: str) -> Value:
    kind = cursor.number("I", f"the type of key {name!r}")
    if kind in VALUE_CODES:
        return cursor.numbers(VALUE_CODES[kind], 1, f"key {name!r}")[0]
    if kind == TEXT:
        return cursor.text(f"key {name!r}", most_bytes=_MOST_TEXT_BYTES)
    if kind == ARRAY:
        return _array(cursor, name)
    raise cursor.error(f"key {name!r} has the unknown type {kind}")


def _array(cursor: Cursor, name: str) -> Value:
    what = f"key {name!r}"
    kind = cursor.number("I", what)
    count = cursor.number("Q", what)
    if kind == TEXT:
        cursor.skip_texts(count, what)
        return LongArray(VALUE_NAMES[kind], count)
    if kind not in VALUE_CODES:
        kind_name = "arrays" if kind == ARRAY else f"the unknown type {kind}"
        raise cursor.error(f"{what} is an array of {kind_name}")
    code = VALUE_CODES[kind]
    if count > _MOST_KEPT_ELEMENTS:
        cursor.skip(count * _ELEMENT_BYTES[code], what)
        return LongArray(VALUE_NAMES[kind], count)
    return cursor.numbers(code, count, what) if count else ()


_ELEMENT_BYTES = {"B": 1, "b": 1, "?": 1, "H": 2, "h": 2, "I": 4, "i": 4, "f": 4, "Q": 8, "q": 8, "d": 8}


def _alignment(cursor: Cursor, keys: dict[str, Value]) -> int:
    alignment = keys.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1) or alignment > 1 << 31:
        raise cursor.error(f"key 'general.alignment' is {alignment!r:.40}, no power of two")
    return alignment


def _whole(keys: dict[str, Value], name: str, default: int) -> int:
    value = keys.get(name, default)
    return value if isinstance(value, int) else default


def _tensors(cursor: Cursor, n_tensors: int, alignment: int) -> tuple[tuple[FileTensor, ...], int]:
    """Return the tensors and the bytes of their data, padded but for the last as loaders count it."""
    found: dict[str, FileTensor] = {}
    end = expected = 0
    for tensor, offset in _entries(cursor, n_tensors):
        if tensor.name in found:
            raise cursor.error(f"tensor {tensor.name!r} is there twice")
        if offset != expected:
            reason = "overlaps the one before it" if offset < expected else "leaves a gap behind the one before it"
            raise cursor.error(f"tensor {tensor.name!r} at {offset:,}, not {expected:,}, {reason}")
        found[tensor.name] = tensor
        end = offset + tensor.n_bytes
        expected = round_up(end, alignment)
        if expected >= _LARGEST_SIZE:
            raise cursor.error(f"tensor {tensor.name!r} ends beyond 2^63 bytes")
    return tuple(found.values()), end


def _entries(cursor: Cursor, n_tensors: int) -> Iterator[tuple[FileTensor, int]]:
    for number in range(n_tensors):
        name = cursor.text(f"the name of tensor {number}", most_bytes=_MOST_NAME_BYTES)
        what = f"tensor {name!r}"
        n_dimensions = cursor.number("I", what)
        if n_dimensions > _MOST_DIMENSIONS:
            raise cursor.error(f"{what} has {n_dimensions:,} dimensions, more than {_MOST_DIMENSIONS}")
        shape = tuple(cursor.number("q", what) for _ in range(n_dimensions))[::-1] or (1,)
        fmt = _format(cursor, what)
        yield FileTensor(name, shape, fmt.name, _bytes(cursor, what, shape, fmt)), cursor.number("Q", what)


def _bytes(cursor: Cursor, what: str, shape: tuple[int, ...], fmt: BlockFormat) -> int:
    if min(shape) < 1 or prod(shape) >= _LARGEST_SIZE:
        raise cursor.error(f"{what} cannot have the shape {list(shape)}")
    if shape[-1] % fmt.block_elements:
        raise cursor.error(f"{what} has rows of {shape[-1]:,}, no multiple of {fmt.name}'s {fmt.block_elements}")
    return prod(shape) // fmt.block_elements * fmt.block_bytes


def _format(cursor: Cursor, what: str) -> BlockFormat:
    number = cursor.number("I", what)
    if number in TENSOR_TYPES:
        return TENSOR_TYPES[number]
    if number in REMOVED_TYPES:
        raise BadInputError(
            f"{cursor.name}: {what} is stored as {REMOVED_TYPES[number]}, which llama.cpp no longer reads",
            "fetch the model in a current format, e.g. q4_0",
        )
    raise BadInputError(f"{cursor.name}: {what} has the unknown type {number}", "check for a newer vramcalc")
