"""GGUF files of real shapes, written by the ``gguf`` package, read back to the byte."""

import csv
import resource
import struct
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import gguf
import numpy as np
import pytest
from tests.sources.gguf_files import file_name, file_tensors, known_names, write_gguf

from vramcalc import api
from vramcalc.errors import BadInputError, UnavailableError
from vramcalc.formulas.recipes import gguf_tensors
from vramcalc.sources.byte_source import FileSource
from vramcalc.sources.gguf_header import read_gguf, read_gguf_set
from vramcalc.sources.model_source import ModelSource, read_path
from vramcalc.specs.file import LongArray, ModelFile
from vramcalc.specs.formats import GGML_STORED
from vramcalc.specs.model import GatedDelta, LayerKind, Mamba2, ModelSpec

T = TypeVar("T")

ARCHITECTURES: Mapping[str, str] = {
    "llama-3.1-8b": "llama",
    "llama-3.3-70b": "llama",
    "mixtral-8x7b": "llama",
    "qwen2.5-7b": "qwen2",
    "qwen2-0.5b": "qwen2",
    "qwen3-8b": "qwen3",
    "qwen3-30b-a3b": "qwen3moe",
    "qwen3-next-80b-a3b": "qwen3next",
    "qwen3.5-27b": "qwen35",
    "gemma-2-9b": "gemma2",
    "gemma-3-4b": "gemma3",
    "phi-4": "phi3",
    "gpt-oss-20b": "gpt-oss",
    "deepseek-v2-lite": "deepseek2",
    "deepseek-v3": "deepseek2",
    "mamba2-2.7b": "mamba2",
    "granite-4.0-h-small": "granitehybrid",
    "olmo-2-7b": "olmo2",
    "bge-m3": "bert",
}
MIXES = ("q4_k_m", "q8_0", "q6_k", "q3_k_m", "iq4_xs", "q2_k", "mxfp4_moe")

with (Path(__file__).parents[1] / "formulas" / "gguf_mix_sizes.csv").open(encoding="utf-8", newline="") as file:
    QUANTIZED = {(r["model"], r["mix"]): int(r["bytes"]) for r in csv.DictReader(file) if r["imatrix"] == "0"}


@cache
def registry_model(name: str) -> ModelSpec:
    return api.load_model(name)


def written(folder: Path, name: str, mix: str = "q4_k_m", **more: object) -> ModelSource:
    path = write_gguf(folder / f"{name}.gguf", registry_model(name), ARCHITECTURES[name], mix, **more)  # type: ignore[arg-type]
    return read_path(path)


def layers(model: ModelSpec) -> list[LayerKind]:
    """Return the layers in order; the dtype of a recurrent state is in no GGUF."""
    kinds = {name: _without_state_dtype(kind) for name, kind in model.layers.kinds.items()}
    return [kinds[name] for name in model.layers.order()]


def _without_state_dtype(kind: LayerKind) -> LayerKind:
    if not isinstance(kind.mixer, GatedDelta | Mamba2):
        return kind
    return kind.model_copy(update={"mixer": kind.mixer.model_copy(update={"state_dtype": "model"})})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_mix_is_read_to_the_byte(tmp_path: Path, name: str) -> None:
    for mix in MIXES:
        found = written(tmp_path, name, mix)

        assert found.match is not None
        assert (found.match.lacking, found.match.surplus, found.match.misshapen) == ((), (), ())
        predicted = sum(tensor.n_bytes for tensor in gguf_tensors(registry_model(name), mix))
        billed = sum(tensor.n_bytes for tensor in gguf_tensors(found.model(), mix))
        assert found.file is not None
        assert found.file.n_bytes == predicted == billed
        assert QUANTIZED.get((name, mix), predicted) == predicted


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_shape_is_that_of_the_registry(tmp_path: Path, name: str) -> None:
    model, truth = written(tmp_path, name).model(), registry_model(name)

    assert layers(model) == layers(truth)
    assert (model.hidden_dim, model.context) == (truth.hidden_dim, truth.context)
    assert (model.head, model.norm, model.final_norm) == (truth.head, truth.norm, truth.final_norm)
    assert model.vocabulary == (truth.gguf_vocabulary or truth.vocabulary)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_test_files_use_names_the_gguf_package_lists(name: str) -> None:
    architecture = ARCHITECTURES[name]
    groups = (tensor.group for tensor in gguf_tensors(registry_model(name), "f16"))
    used = {file_name(architecture, group, None).removesuffix(".weight").removesuffix(".bias") for group in groups}

    assert used <= known_names(architecture)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-oss-20b", "deepseek-v2-lite", "granite-4.0-h-small"])
def test_a_file_is_billed_as_its_registry_entry(tmp_path: Path, name: str) -> None:
    written(tmp_path, name, "q5_k_m")
    own = api.estimate(str(tmp_path / f"{name}.gguf"), "rtx4090", engines=["llama.cpp"], context=8192)
    known = api.estimate(name, "rtx4090", engines=["llama.cpp"], quants=["q5_k_m"], context=8192)

    assert own.estimates[0].weight_format == "q5_k_m"
    assert own.estimates[0].launch[:3] == ("llama-server", "-m", str(tmp_path / f"{name}.gguf"))
    assert own.estimates[0].devices == known.estimates[0].devices
    assert own.estimates[0].limits == known.estimates[0].limits
    weights = [line for line in own.estimates[0].lines if line.component == "weights"]
    assert {line.basis for line in weights} == {"exact"}
    assert all(str(tmp_path) in line.source for line in weights)


def test_the_gguf_package_reads_the_same(tmp_path: Path) -> None:
    found = written(tmp_path, "gpt-oss-20b").file
    assert found is not None
    reader = gguf.GGUFReader(tmp_path / "gpt-oss-20b.gguf")

    assert {t.name: (t.n_elements, t.n_bytes, t.storage) for t in found.tensors} == {
        t.name: (t.n_elements, t.n_bytes, t.tensor_type.name.lower()) for t in reader.tensors
    }
    shapes = {t.name: tuple(int(n) for n in t.shape)[::-1] for t in reader.tensors}
    assert {t.name: t.shape for t in found.tensors} == shapes
    ours = read_gguf(FileSource(tmp_path / "gpt-oss-20b.gguf"))
    assert ours.data_offset == reader.data_offset
    assert ours.keys == {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}


def test_every_storage_type_of_the_gguf_package(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "types.gguf", "llama")
    for kind in gguf.GGMLQuantizationType:
        elements, n_bytes = gguf.GGML_QUANT_SIZES[kind]
        writer.add_tensor_info(kind.name, (3, 512), np.dtype(np.float32), 3 * 512 // elements * n_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()

    found = read_gguf(FileSource(tmp_path / "types.gguf")).tensors

    assert {t.name: t.n_bytes for t in found} == {
        kind.name: 3 * 512 // elements * n_bytes for kind, (elements, n_bytes) in gguf.GGML_QUANT_SIZES.items()
    }
    assert {t.storage for t in found} <= GGML_STORED.keys()


def test_a_set_of_parts_is_one_model(tmp_path: Path) -> None:
    whole, split = written(tmp_path, "qwen3-8b"), written(tmp_path, "qwen3-8b", parts=3)

    assert split.file is not None
    assert len(split.file.parts) == 3
    assert whole.file is not None
    assert split.file.tensors == whole.file.tensors
    assert split.model().stored == whole.model().stored
    assert read_path(tmp_path / "qwen3-8b-00003-of-00003.gguf").model().stored == whole.model().stored


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    written(tmp_path, "qwen3-8b", parts=3)
    (tmp_path / "qwen3-8b-00002-of-00003.gguf").unlink()

    found = read_path(tmp_path / "qwen3-8b-00001-of-00003.gguf")
    with pytest.raises(BadInputError, match=r"1 of its 3 parts are missing, e.g. qwen3-8b-00002-of-00003.gguf"):
        found.model()

    (tmp_path / "qwen3-8b-00001-of-00003.gguf").unlink()
    with pytest.raises(UnavailableError, match="00001-of-00003"):
        read_path(tmp_path / "qwen3-8b-00003-of-00003.gguf")


def test_a_part_of_another_set_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "qwen3-8b", parts=2)
    (tmp_path / "qwen3-8b-00001-of-00002.gguf").rename(tmp_path / "a-00002-of-00002.gguf")
    (tmp_path / "qwen3-8b-00002-of-00002.gguf").rename(tmp_path / "a-00001-of-00002.gguf")

    with pytest.raises(BadInputError, match="says it is part 2 of 2"):
        read_path(tmp_path / "a-00001-of-00002.gguf")


def test_another_quant_than_the_files_is_a_requantised_model(tmp_path: Path) -> None:
    written(tmp_path, "qwen3-8b", "q4_k_m")
    path = str(tmp_path / "qwen3-8b.gguf")
    found = api.estimate(path, "rtx4090", engines=["llama.cpp"], quants=["q8_0"], context=4096).estimates[0]
    known = api.estimate("qwen3-8b", "rtx4090", engines=["llama.cpp"], quants=["q8_0"], context=4096).estimates[0]

    assert found.devices == known.devices
    assert any("the file holds q4_k_m" in note for note in found.notes)


def test_vllm_refuses_a_gguf(tmp_path: Path) -> None:
    written(tmp_path, "qwen3-8b", "q4_k_m")

    found = api.estimate(str(tmp_path / "qwen3-8b.gguf"), "rtx4090").estimates

    assert [(e.engine.name, e.verdict) for e in found] == [("ollama", "fits"), ("vllm", "unsupported")]


def test_a_mix_of_ones_own_is_billed_tensor_by_tensor(tmp_path: Path) -> None:
    def edit(name: str, storage: str) -> str:
        return "q2_k" if ".attn_q." in name else storage

    found = written(tmp_path, "qwen3-8b", "q8_0", edit=edit).model()
    kept = sum(t.n_bytes for t in gguf_tensors(registry_model("qwen3-8b"), "q8_0"))
    q, layers_of_8b = 4096 * 4096, 36

    billed = sum(t.n_bytes for t in gguf_tensors(found, "q8_0"))
    assert billed == kept - layers_of_8b * (q // 32 * 34 - q // 256 * 84)


def test_a_tensor_nobody_expects_is_billed_and_told(tmp_path: Path) -> None:
    model = registry_model("qwen3-8b")
    path = tmp_path / "more.gguf"
    tensors = [*file_tensors(model, "qwen3", "q8_0"), ("blk.7.extra.weight", (256, 256), "f16")]
    write_gguf(path, model, "qwen3", "q8_0")
    n_bytes = read_path(path).file.n_bytes  # type: ignore[union-attr]
    _write_with(path, model, tensors)

    found = read_path(path)

    assert found.match is not None
    assert found.match.surplus == ("blk.7.extra.weight",)
    assert sum(t.n_bytes for t in gguf_tensors(found.model(), "q8_0")) == n_bytes + 256 * 256 * 2


def _write_with(path: Path, model: ModelSpec, tensors: list[tuple[str, tuple[int, ...], str]]) -> None:
    from tests.sources import gguf_files  # noqa: PLC0415 - its inner steps

    writer = gguf.GGUFWriter(path, "qwen3")
    gguf_files._write_keys(writer, model, "qwen3", "q8_0", {})  # noqa: SLF001
    gguf_files._write_tensors(writer, path, tensors)  # noqa: SLF001


@pytest.mark.slow
def test_a_large_vocabulary_costs_little(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(vocabulary_file(130_000, 280_000) + bytes(1 << 21))
    source = CountingSource(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    found, seconds = timed(lambda: read_gguf(source))

    assert found.keys["tokenizer.ggml.tokens"] == LongArray("text", 130_000)
    assert found.keys["tokenizer.ggml.merges"] == LongArray("text", 280_000)
    assert seconds < 0.2
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 100
    assert source.furthest <= found.data_offset + (1 << 20)  # what is read ahead; never the data


@pytest.mark.slow
def test_it_is_30_times_as_fast_as_the_gguf_package(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(vocabulary_file(6_500, 14_000) + bytes(1 << 21))

    _, fast = timed(lambda: read_gguf(FileSource(path)))
    _, slow = timed(lambda: gguf.GGUFReader(path), n_times=1)

    assert fast * 30 < slow


def vocabulary_file(n_tokens: int, n_merges: int) -> bytes:
    tokens = b"".join(text(f"token{i}\N{LATIN SMALL LETTER E WITH ACUTE}") for i in range(n_tokens))
    merges = b"".join(text(f"to{i} ken{i}") for i in range(n_merges))
    body = (
        text("tokenizer.ggml.tokens")
        + struct.pack("<IIQ", 9, 8, n_tokens)
        + tokens
        + text("tokenizer.ggml.token_type")
        + struct.pack("<IIQ", 9, 5, n_tokens)
        + bytes(4 * n_tokens)
        + text("tokenizer.ggml.merges")
        + struct.pack("<IIQ", 9, 8, n_merges)
        + merges
    )
    raw = header(n_tensors=1, n_keys=3, body=body + tensor("token_embd.weight", (256, 1024), 0, 0))
    return raw + bytes(-len(raw) % 32)


def timed(read: Callable[[], T], n_times: int = 3) -> tuple[T, float]:
    """Return the answer, and the shortest processor time it took."""
    start = time.process_time()
    found, best = read(), time.process_time() - start
    for _ in range(n_times - 1):
        start = time.process_time()
        read()
        best = min(best, time.process_time() - start)
    return found, best


class CountingSource(FileSource):
    furthest = 0

    def read(self, offset: int, n_bytes: int) -> bytes:
        found = super().read(offset, n_bytes)
        self.furthest = max(self.furthest, offset + len(found))
        return found


# Hostile files, written by hand.


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def header(
    *,
    version: int = 3,
    n_tensors: int = 0,
    n_keys: int = 0,
    body: bytes = b"",
    order: str = "<",
    magic: bytes = b"GGUF",
) -> bytes:
    return magic + struct.pack(f"{order}Iqq", version, n_tensors, n_keys) + body


def tensor(name: str | bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}qIQ", len(shape), *shape, kind, offset)


A_KEY = text("a") + struct.pack("<IB", 0, 7)
BROKEN: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "is no GGUF file"),
    "another magic": (header(magic=b"GGML"), "is no GGUF file"),
    "version 1": (header(version=1), "version 1, known are 2 and 3"),
    "version 9": (header(version=9), "version 9"),
    "cut in the counts": (header()[:-3], "ends in the middle of the number of keys"),
    "2^40 tensors": (header(n_tensors=1 << 40), "claims 1,099,511,627,776 tensors"),
    "-1 keys": (header(n_keys=-1), "claims -1 keys"),
    "a key that ends early": (header(n_keys=1, body=A_KEY[:-1]), "ends in the middle of key 'a'"),
    "a key twice": (header(n_keys=2, body=A_KEY * 2), "key 'a' is there twice"),
    "a name of 2^60 bytes": (
        header(n_keys=1, body=struct.pack("<Q", 1 << 60)),
        "claims 1,152,921,504,606,846,976 bytes",
    ),
    "a name that is no UTF-8": (header(n_keys=1, body=text(b"\xff\xfe") + A_KEY), "the name of key 0 is no UTF-8"),
    "a value of no type": (header(n_keys=1, body=text("a") + struct.pack("<I", 99)), "key 'a' has the unknown type 99"),
    "an array of arrays": (
        header(n_keys=1, body=text("a") + struct.pack("<IIQ", 9, 9, 1)),
        "key 'a' is an array of arrays",
    ),
    "2^61 texts": (
        header(n_keys=1, body=text("a") + struct.pack("<IIQ", 9, 8, 1 << 61)),
        "more than the data can hold",
    ),
    "2^61 numbers": (
        header(n_keys=1, body=text("a") + struct.pack("<IIQ", 9, 12, 1 << 61)),
        "no header is longer than 256 MiB",
    ),
    "a text in an array that runs away": (
        header(n_keys=1, body=text("a") + struct.pack("<IIQQ", 9, 8, 1, (1 << 64) - 1)),
        "key 'a' claims",
    ),
    "an alignment of 3": (
        header(n_keys=1, body=text("general.alignment") + struct.pack("<II", 4, 3)),
        "'general.alignment' is 3, no power of two",
    ),
    "five dimensions": (header(n_tensors=1, body=tensor("t", (1,) * 5, 0, 0)), "tensor 't' has 5 dimensions"),
    "a dimension of -1": (header(n_tensors=1, body=tensor("t", (-1,), 0, 0)), "cannot have the shape [-1]"),
    "2^80 elements": (header(n_tensors=1, body=tensor("t", (1 << 40, 1 << 40), 0, 0)), "cannot have the shape"),
    "half a block": (header(n_tensors=1, body=tensor("t", (48,), 8, 0)), "rows of 48, no multiple of q8_0's 32"),
    "type 200": (header(n_tensors=1, body=tensor("t", (32,), 200, 0)), "tensor 't' has the unknown type 200"),
    "a removed type": (
        header(n_tensors=1, body=tensor("t", (32,), 31, 0)),
        "stored as q4_0_4_4, which llama.cpp no longer",
    ),
    "a tensor twice": (
        header(n_tensors=2, body=tensor("t", (8,), 0, 0) + tensor("t", (8,), 0, 32)),
        "tensor 't' is there twice",
    ),
    "an overlap": (
        header(n_tensors=2, body=tensor("t", (8,), 0, 0) + tensor("u", (8,), 0, 0)),
        "tensor 'u' at 0, not 32, overlaps",
    ),
    "out of range": (header(n_tensors=1, body=tensor("t", (8,), 0, 1 << 62)), "leaves a gap"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named(tmp_path: Path, case: str) -> None:
    content, fact = BROKEN[case]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)

    with pytest.raises(BadInputError) as error:
        read_gguf(FileSource(path))

    assert fact in str(error.value)
    assert str(path) in str(error.value)
    assert error.value.hint


def test_big_endian_and_version_2_are_read(tmp_path: Path) -> None:
    big = b"GGUF" + struct.pack(">Iqq", 3, 0, 1) + struct.pack(">Q", 1) + b"a" + struct.pack(">II", 4, 258)
    (tmp_path / "big.gguf").write_bytes(big)
    (tmp_path / "two.gguf").write_bytes(header(version=2, n_keys=1, body=A_KEY))

    found = read_gguf(FileSource(tmp_path / "big.gguf"))
    assert (found.version, found.is_big_endian, found.keys) == (3, True, {"a": 258})
    assert read_gguf(FileSource(tmp_path / "two.gguf")).version == 2


def test_no_file_at_all(tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    with pytest.raises(BadInputError, match="is a folder, not a file"):
        read_path(tmp_path / "folder.gguf")
    with pytest.raises(UnavailableError, match="cannot be read"):
        read_path(tmp_path / "loop.gguf")
    with pytest.raises(UnavailableError, match="No such file"):
        read_path(tmp_path / "none.gguf")


def test_a_projector_is_no_model(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "mmproj.gguf", "clip")
    writer.add_tensor("v.patch_embd.weight", np.zeros((8, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_path(tmp_path / "mmproj.gguf")

    assert isinstance(found.file, ModelFile)
    with pytest.raises(BadInputError, match="is a multimodal projector, not a model"):
        found.model()


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "new.gguf"
    write_gguf(path, registry_model("qwen3-8b"), "qwen3", "q8_0", keys={"general.architecture": "qwen9"})

    with pytest.raises(BadInputError, match="architecture 'qwen9' is not known here"):
        read_path(path).model()


def test_sets_need_their_siblings(tmp_path: Path) -> None:
    written(tmp_path, "qwen2-0.5b", parts=2)
    first = FileSource(tmp_path / "qwen2-0.5b-00001-of-00002.gguf")

    found = read_gguf_set(first, first.sibling)

    assert [part.n_bytes for part in found.parts] == [part.needed_bytes for part in found.parts]
