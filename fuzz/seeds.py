"""Inputs to start from: small but whole files of each kind, so that mutations reach deep."""

import json
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.sources.gguf_files import write_gguf

from vramcalc import api
from vramcalc.sources.byte_source import FileSource
from vramcalc.sources.gguf_header import read_gguf

_CONFIGS = Path(__file__).parents[1] / "tests" / "sources" / "configs"
_ARCHITECTURES = {
    "llama-3.1-8b": "llama",
    "qwen3-30b-a3b": "qwen3moe",
    "deepseek-v2-lite": "deepseek2",
    "qwen3-next-80b-a3b": "qwen3next",
    "granite-4.0-h-small": "granitehybrid",
    "gpt-oss-20b": "gpt-oss",
    "gemma-3-4b": "gemma3",
    "bge-m3": "bert",
}
_LAYERS = 2


def seeds(target: str) -> Iterator[bytes]:
    """Yield the inputs a target starts from."""
    match target:
        case "gguf-header":
            yield from _plain_headers()
            yield from _models()
        case "gguf-model":
            yield from _models()
        case "safetensors-header":
            yield from _safetensors()
        case "safetensors-index":
            yield json.dumps(
                {"metadata": {"total_size": 1}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
            ).encode()
        case "config":
            yield from (path.read_bytes() for path in sorted(_CONFIGS.glob("*.json")))
        case _:
            yield b"models:\n  a:\n    like: qwen3-8b\n    notes: [one, two]\n    released: 2024-07-01\n"


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _plain_headers() -> Iterator[bytes]:
    keys = [
        _text(f"key.{kind}") + struct.pack("<I", kind) + bytes(n) for kind, n in enumerate((1, 1, 2, 2, 4, 4, 4, 1))
    ]
    keys += [_text("text") + struct.pack("<I", 8) + _text("value")]
    keys += [_text("texts") + struct.pack("<IIQ", 9, 8, 2) + _text("a") + _text("b")]
    keys += [_text("numbers") + struct.pack("<IIQ3i", 9, 5, 3, 1, 2, 3)]
    keys += [_text("general.alignment") + struct.pack("<II", 4, 64)]
    tensors = [_text("a") + struct.pack("<I2qIQ", 2, 32, 4, 8, 0), _text("b") + struct.pack("<I1qIQ", 1, 7, 0, 192)]
    body = b"".join(keys + tensors)
    for version in (2, 3):
        yield b"GGUF" + struct.pack("<Iqq", version, len(tensors), len(keys)) + body
    yield b"GGUF" + struct.pack(">Iqq", 3, 0, 1) + struct.pack(">Q", 1) + b"k" + struct.pack(">II", 4, 7)


def _models() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        for name, architecture in _ARCHITECTURES.items():
            model = api.load_model(name)
            short = model.model_copy(
                update={"layers": model.layers.model_copy(update={"n_layers": _LAYERS, "first": ()})}
            )
            path = write_gguf(Path(folder) / "seed.gguf", short, architecture, "q4_k_m")
            with path.open("rb") as file:
                yield file.read(read_gguf(FileSource(path)).data_offset)


def _safetensors() -> Iterator[bytes]:
    entries = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [12, 16]},
        "c": {"dtype": "F4", "shape": [2, 4], "data_offsets": [16, 20]},
        "d": {"dtype": "I64", "shape": [], "data_offsets": [20, 28]},
    }
    raw = json.dumps(entries).encode()
    yield struct.pack("<Q", len(raw)) + raw + bytes(28)
    yield struct.pack("<Q", 2) + b"{}"
