"""Files made up to break the readers: whatever is in them, our own error and no other, in bounded time and memory."""

import contextlib
import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz.memory import MemorySource, no_sibling
from fuzz.seeds import seeds
from fuzz.targets import TARGETS, run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vramcalc.errors import AppError
from vramcalc.sources.gguf_header import read_gguf, read_gguf_set
from vramcalc.sources.gguf_model import read_gguf_model
from vramcalc.sources.safetensors_header import read_safetensors

MIB = 1 << 20
SEEDS = {target: tuple(seeds(target))[:12] for target in TARGETS}
COUNTS = st.one_of(st.integers(0, 5), st.sampled_from([-1, 1 << 20, 1 << 40, 1 << 62, (1 << 63) - 1]))


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", (len(value) if length is None else length) & (1 << 64) - 1) + value


@st.composite
def gguf_files(draw: st.DrawFn) -> bytes:
    """Return a header that is well formed but for some of its numbers."""
    keys, tensors = [], []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.integers(0, 14))
        value = draw(st.binary(max_size=24))
        name = text(draw(st.sampled_from([b"a", b"b", b"general.alignment", b"general.architecture", b"\xff"])))
        keys.append(name + struct.pack("<I", kind) + value)
    for _ in range(draw(st.integers(0, 4))):
        shape = draw(st.lists(st.one_of(st.integers(1, 512), COUNTS), max_size=5))
        name = text(draw(st.sampled_from([b"t", b"u", b"blk.0.attn_q.weight"])), draw(st.one_of(st.none(), COUNTS)))
        where = struct.pack("<IQ", draw(st.integers(0, 45)), draw(COUNTS) & (1 << 64) - 1)
        tensors.append(name + struct.pack(f"<I{len(shape)}q", len(shape), *shape) + where)
    counts = draw(st.one_of(st.just((len(tensors), len(keys))), st.tuples(COUNTS, COUNTS)))
    version = draw(st.sampled_from([2, 3, 3, 3, 1, 4, 3 << 24]))
    return b"GGUF" + struct.pack("<Iqq", version, *counts) + b"".join(keys + tensors) + draw(st.binary(max_size=16))


@given(gguf_files())
@settings(max_examples=100, deadline=None)
def test_a_made_up_gguf_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(AppError):
        header = read_gguf(MemorySource(data))
        assert header.data_offset >= len(b"GGUF")
        assert header.needed_bytes >= sum(tensor.n_bytes for tensor in header.tensors)


def json_values() -> st.SearchStrategy[Any]:
    numbers = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=5))
    return st.recursive(
        numbers,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    )


ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.one_of(st.sampled_from(["F32", "BF16", "F4", "U8", "X"]), json_values()),
        "shape": st.one_of(st.lists(COUNTS, max_size=3), json_values()),
        "data_offsets": st.one_of(st.lists(COUNTS, min_size=2, max_size=2), json_values()),
    }
)


@given(st.dictionaries(st.text(max_size=4), st.one_of(ENTRIES, json_values()), max_size=4))
@settings(max_examples=100, deadline=None)
@example({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}})
def test_a_made_up_safetensors_is_read_or_refused(entries: dict[str, Any]) -> None:
    raw = json.dumps(entries).encode()
    with contextlib.suppress(AppError):
        header = read_safetensors(MemorySource(struct.pack("<Q", len(raw)) + raw))
        assert header.needed_bytes == 8 + len(raw) + sum(tensor.n_bytes for tensor in header.tensors)


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "registry"])
@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_file_is_read_or_refused(target: str, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS[target])))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        match data.draw(st.integers(0, 3)):
            case 0:
                content[at : at + 1] = data.draw(st.binary(min_size=1, max_size=8))
            case 1:
                del content[at : at + data.draw(st.integers(1, 64))]
            case 2:
                content[at:at] = content[at : at + data.draw(st.integers(1, 64))]
            case _:
                content[at : at + 8] = struct.pack("<Q", data.draw(COUNTS) & (1 << 64) - 1)

    run(TARGETS[target], bytes(content))


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_config_of_odd_values_is_read_or_refused(data: st.DataObject) -> None:
    config = json.loads(data.draw(st.sampled_from(SEEDS["config"])))
    for _ in range(data.draw(st.integers(1, 4))):
        key = data.draw(st.sampled_from(sorted(config) or ["a"]))
        config[key] = data.draw(st.one_of(json_values(), COUNTS))

    run(TARGETS["config"], json.dumps(config).encode())


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_gguf_of_odd_keys_is_a_model_or_refused(data: st.DataObject) -> None:
    file = read_gguf_set(MemorySource(data.draw(st.sampled_from(SEEDS["gguf-model"]))), no_sibling)
    keys: dict[str, Any] = dict(file.keys)
    for _ in range(data.draw(st.integers(1, 4))):
        key = data.draw(st.sampled_from(sorted(keys)))
        keys[key] = data.draw(
            st.one_of(COUNTS, st.booleans(), st.floats(), st.text(max_size=8), st.tuples(COUNTS, COUNTS))
        )

    with contextlib.suppress(AppError):
        read_gguf_model(type(file)(**{name: getattr(file, name) for name in file.__struct_fields__} | {"keys": keys}))


def repeated(unit: bytes) -> bytes:
    return (unit * (MIB // len(unit) + 1))[:MIB]


def gguf_body(n_tensors: int, n_keys: int, body: bytes) -> bytes:
    return (b"GGUF" + struct.pack("<Iqq", 3, n_tensors, n_keys) + body)[:MIB]


LARGE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "60,000 keys": (
        "gguf-header",
        lambda: gguf_body(0, 60_000, b"".join(text(b"%x" % n) + struct.pack("<IB", 0, 1) for n in range(60_000))),
    ),
    "25,000 tensors": (
        "gguf-model",
        lambda: gguf_body(
            25_000, 0, b"".join(text(b"%x" % n) + struct.pack("<IqIQ", 1, 8, 0, 32 * n) for n in range(25_000))
        ),
    ),
    "130,000 empty texts": (
        "gguf-header",
        lambda: gguf_body(0, 1, text(b"a") + struct.pack("<IIQ", 9, 8, 130_000) + bytes(MIB)),
    ),
    "long arrays": (
        "gguf-header",
        lambda: gguf_body(
            0, 250, b"".join(text(b"%x" % n) + struct.pack("<IIQ", 9, 0, 4096) + bytes(4096) for n in range(250))
        ),
    ),
    "blocks without end": (
        "gguf-model",
        lambda: gguf_body(
            1,
            4,
            b"".join(
                [
                    text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"),
                    text(b"llama.block_count") + struct.pack("<II", 4, 4096),
                    text(b"llama.embedding_length") + struct.pack("<II", 4, 8),
                    text(b"llama.context_length") + struct.pack("<II", 4, 8),
                    text(b"token_embd.weight") + struct.pack("<I2qIQ", 2, 8, 8, 0, 0),
                ]
            ),
        ),
    ),
    "brackets": ("safetensors-header", lambda: struct.pack("<Q", MIB - 8) + repeated(b"[")[8:]),
    "a table of nothing": (
        "safetensors-header",
        lambda: (
            struct.pack("<Q", MIB - 8) + (b"{" + b",".join(b'"%x":{}' % n for n in range(100_000)))[: MIB - 9] + b"}"
        ),
    ),
    "brackets in an index": ("safetensors-index", lambda: repeated(b"[")),
    "brackets in a config": ("config", lambda: repeated(b'{"a":')),
    "digits in a config": ("config", lambda: b'{"hidden_size":' + repeated(b"9")[: MIB - 16] + b"}"),
    "layers in a config": (
        "config",
        lambda: json.dumps(
            {
                **json.loads(next(s for s in SEEDS["config"] if b'"layer_types"' in s or b"qwen3" in s)),
                "num_hidden_layers": 10**9,
            }
        ).encode(),
    ),
    "a million keys": ("config", lambda: b"{" + b",".join(b'"%x":1' % n for n in range(90_000)) + b"}"),
    "brackets in a registry": ("registry", lambda: repeated(b"[")[: 1 << 16]),
    "a bomb of references": (
        "registry",
        lambda: b"a: &a [x,x]\n" + b"".join(b"%c: &%c [*%c,*%c]\n" % (n, n, n - 1, n - 1) for n in range(98, 122)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE)
def test_a_large_made_up_file_costs_little(case: str) -> None:
    target, make = LARGE[case]
    data = make()
    run(TARGETS[target], SEEDS[target][0])  # what is imported on the way is not the file's doing
    tracemalloc.start()
    run(TARGETS[target], data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    start = time.process_time()
    run(TARGETS[target], data)
    seconds = time.process_time() - start

    assert seconds < 2
    assert peak < 200 * MIB


def test_a_config_of_100_mb_is_not_read(tmp_path: Path) -> None:
    from vramcalc.api import load_model  # noqa: PLC0415 - the one use here

    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(100_000_000)

    with pytest.raises(AppError, match="is larger than 8 MiB"):
        load_model(str(tmp_path / "config.json"))
