"""Safetensors: files of the ``safetensors`` package and sparse ones of real shapes, read back to the byte."""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file
from tests.sources.test_gguf import timed

from vramcalc import api
from vramcalc.errors import BadInputError, UnavailableError
from vramcalc.formulas.checkpoint_names import checkpoint_role
from vramcalc.formulas.weights import stored_tensors
from vramcalc.sources.byte_source import FileSource
from vramcalc.sources.model_source import read_path
from vramcalc.sources.safetensors_header import INDEX_NAME, choose_files, read_safetensors, shards_beside

CONFIGS = Path(__file__).parent / "configs"

# The package's names of types, ours, and the bytes of 4 x 8 elements.
TYPES = {
    "bool": ("bool", 32),
    "uint8": ("u8", 32),
    "int8": ("i8", 32),
    "float8_e4m3fn": ("f8_e4m3", 32),
    "float8_e5m2": ("f8_e5m2", 32),
    "float8_e8m0fnu": ("f8_e8m0", 32),
    "uint16": ("u16", 64),
    "int16": ("i16", 64),
    "float16": ("f16", 64),
    "bfloat16": ("bf16", 64),
    "uint32": ("u32", 128),
    "int32": ("i32", 128),
    "float32": ("f32", 128),
    "uint64": ("u64", 256),
    "int64": ("i64", 256),
    "float64": ("f64", 256),
    "complex64": ("c64", 256),
}
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "I32": 4}


def write_sparse(path: Path, tensors: Shapes) -> Path:
    """Write a file whose data is a hole."""
    entries, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        n_bytes = int(np.prod(shape)) * BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + n_bytes]}
        end += n_bytes
    raw = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    with path.open("r+b") as file:
        file.truncate(8 + len(raw) + end)
    return path


def qwen3_tensors(config: Mapping[str, int], dtype: str = "BF16") -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Yield the tensors of a Qwen 3 checkpoint, dense or of experts, as transformers' class names them."""
    hidden, head = config["hidden_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", ("BF16", (config["vocab_size"], hidden))
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for part, shape in {"q": (q, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, q)}.items():
            yield f"{layer}.self_attn.{part}_proj.weight", (dtype, shape)
        for part in ("q", "k"):
            yield f"{layer}.self_attn.{part}_norm.weight", ("BF16", (head,))
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{layer}.{norm}.weight", ("BF16", (hidden,))
        experts = config.get("num_experts", 0)
        if experts:
            yield f"{layer}.mlp.gate.weight", ("BF16", (experts, hidden))
        ff = config["moe_intermediate_size"] if experts else config["intermediate_size"]
        for stem in [f"{layer}.mlp.experts.{e}" for e in range(experts)] or [f"{layer}.mlp"]:
            yield f"{stem}.gate_proj.weight", (dtype, (ff, hidden))
            yield f"{stem}.up_proj.weight", (dtype, (ff, hidden))
            yield f"{stem}.down_proj.weight", (dtype, (hidden, ff))
    yield "model.norm.weight", ("BF16", (hidden,))
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", ("BF16", (config["vocab_size"], hidden))


def write_checkpoint(folder: Path, config_name: str, n_shards: int, **changes: int) -> Path:
    """Write a folder as a publisher would: config.json, shards, index."""
    folder.mkdir()
    config = json.loads((CONFIGS / f"{config_name}.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    tensors = list(qwen3_tensors({**config, **changes}))
    names = shards_beside(f"model-00001-of-{n_shards:05}.safetensors")
    places: dict[str, str] = {}
    for number, name in enumerate(names):
        part = dict(tensors[number::n_shards])
        places |= dict.fromkeys(part, name)
        write_sparse(folder / name, part)
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def test_every_type_of_the_package(tmp_path: Path) -> None:
    data = np.zeros(256, dtype=np.uint8)
    sizes = {name: size for name, (_, size) in TYPES.items()} | {"float4_e2m1fn_x2": 32}
    given = {
        name: safetensors.TensorSpec(dtype=name, shape=[4, 8], data_ptr=data.ctypes.data, data_len=size)
        for name, size in sizes.items()
    }
    (tmp_path / "x.safetensors").write_bytes(safetensors.serialize(given))

    found = {t.name: t for t in read_safetensors(FileSource(tmp_path / "x.safetensors")).tensors}

    assert {name: (found[name].storage, found[name].n_bytes) for name in TYPES} == TYPES
    packed = found["float4_e2m1fn_x2"]
    assert (packed.storage, packed.shape, packed.n_bytes) == ("f4", (4, 16), 32)


def test_the_package_reads_the_same(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "a": np.zeros((3, 5), np.float32),
        "b.c": np.zeros((), np.int64),
        "d": np.zeros((0, 4), np.float16),
    }
    save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "np"})

    header = read_safetensors(FileSource(tmp_path / "x.safetensors"))

    assert header.needed_bytes == (tmp_path / "x.safetensors").stat().st_size
    with safetensors.safe_open(tmp_path / "x.safetensors", "np") as theirs:
        assert {t.name for t in header.tensors} == set(theirs.keys())
        for tensor in header.tensors:
            assert tensor.n_bytes == theirs.get_tensor(tensor.name).nbytes


@pytest.mark.parametrize(
    ("config", "n_shards"), [("Qwen__Qwen3-0.6B", 1), ("Qwen__Qwen3-8B", 5), ("Qwen__Qwen3-30B-A3B", 16)]
)
def test_a_folder_is_what_the_formula_predicts(tmp_path: Path, config: str, n_shards: int) -> None:
    folder = write_checkpoint(tmp_path / "model", config, n_shards)
    found = read_path(folder)

    assert found.file is not None
    assert found.file.n_bytes == sum(t.n_bytes for t in stored_tensors(found.model(), "bf16"))
    assert sum(t.n_elements for t in found.file.tensors) == found.model().parameters.total
    assert [part.n_bytes for part in found.file.parts] == [part.needed_bytes for part in found.file.parts]
    assert read_path(folder / f"model-00001-of-{n_shards:05}.safetensors").file is not None
    if config == "Qwen__Qwen3-8B":
        with safetensors.safe_open(folder / "model-00002-of-00005.safetensors", "np") as theirs:
            shapes = {name: tuple(theirs.get_slice(name).get_shape()) for name in theirs.keys()}  # noqa: SIM118
        ours = read_safetensors(FileSource(folder / "model-00002-of-00005.safetensors"))
        assert {t.name: t.shape for t in ours.tensors} == shapes
    report = api.inspect(str(folder))
    assert not report.findings
    roles = {role.role: role.n_parameters for role in report.roles}
    assert sum(roles.values()) == found.model().parameters.total
    assert "other" not in roles


def test_a_quantised_folder_is_what_the_formula_predicts(tmp_path: Path) -> None:
    config = json.loads((CONFIGS / "Qwen__Qwen3-30B-A3B-FP8.json").read_text())
    tensors = dict(qwen3_tensors(config, dtype="F8_E4M3"))
    scales = {
        f"{name}_scale_inv": ("F32", (-(-shape[0] // 128), -(-shape[1] // 128)))
        for name, (dtype, shape) in tensors.items()
        if dtype == "F8_E4M3"
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_sparse(tmp_path / "model.safetensors", tensors | scales)

    found = read_path(tmp_path)

    assert found.model().checkpoint_format == "fp8-block"
    assert found.file is not None
    assert found.file.n_bytes == sum(t.n_bytes for t in stored_tensors(found.model(), "fp8-block"))
    report = api.inspect(str(tmp_path))
    assert not report.findings
    roles = {role.role: role for role in report.roles}
    assert roles["experts"].n_parameters == 48 * 128 * 3 * 768 * 2048
    assert roles["experts"].bits_per_weight == pytest.approx(8 + 32 / 128**2, abs=1e-4)


def test_modules_left_unquantised_are_told(tmp_path: Path) -> None:
    config = json.loads((CONFIGS / "Qwen__Qwen3-30B-A3B-FP8.json").read_text())
    tensors = {
        name: ("BF16" if "self_attn" in name else dtype, shape)
        for name, (dtype, shape) in qwen3_tensors(config, dtype="F8_E4M3")
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_sparse(tmp_path / "model.safetensors", tensors)

    found = {finding.id: finding.message for finding in api.inspect(str(tmp_path)).findings}

    assert "in fp8-block (+2.9%)" in found["checkpoint-bytes"]


def test_a_folder_is_estimated(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "Qwen__Qwen3-8B", 2)
    own = api.estimate(str(folder), "rtx4090", engines=["vllm"], context=8192).estimates[0]
    known = api.estimate("qwen3-8b", "rtx4090", engines=["vllm"], context=8192).estimates[0]

    assert own.devices == known.devices


def test_a_trimmed_checkpoint_is_told(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "Qwen__Qwen3-8B", 2, num_hidden_layers=27)

    report = api.inspect(str(folder))

    assert [(f.id, f.severity) for f in report.findings] == [("parameter-count", "warning")]


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "Qwen__Qwen3-0.6B", 3)
    (folder / "model-00002-of-00003.safetensors").unlink()

    report = api.inspect(str(folder))

    assert [(f.id, f.severity) for f in report.findings] == [("split-incomplete", "error")]
    assert "model-00002-of-00003.safetensors" in report.findings[0].message


def test_a_cut_shard_is_told(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "Qwen__Qwen3-0.6B", 2)
    for name, size in {"model-00001-of-00002.safetensors": 10**8, "model-00002-of-00002.safetensors": 10**12}.items():
        with (folder / name).open("r+b") as file:
            file.truncate(size)

    report = api.inspect(str(folder))

    assert {(f.id, f.severity) for f in report.findings} == {("data-short", "error"), ("data-long", "warning")}


def test_a_type_the_config_does_not_name_is_told(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "Qwen__Qwen3-0.6B", 1)
    config = json.loads((folder / "config.json").read_text())
    tensors = dict(qwen3_tensors(config, dtype="F8_E4M3"))
    write_sparse(folder / "model-00001-of-00001.safetensors", tensors)

    found = {finding.id: finding.message for finding in api.inspect(str(folder)).findings}

    assert "stored as f8_e4m3, and its config.json says bf16 and names no quantisation" in found["checkpoint-dtype"]


def test_which_files_of_a_folder_are_meant() -> None:
    shards = shards_beside("model-00001-of-00002.safetensors")

    assert choose_files({"model.safetensors", "consolidated.safetensors"}, "x") == ("model.safetensors",)
    assert choose_files({*shards, "consolidated.00.safetensors"}, "x") == shards
    assert choose_files({"model-00002-of-00002.safetensors"}, "x") == shards
    assert choose_files({"weights.safetensors"}, "x") == ("weights.safetensors",)
    with pytest.raises(BadInputError, match="holds 2 sets"):
        choose_files({"a.safetensors", "b.safetensors"}, "x")
    with pytest.raises(BadInputError, match=r"holds no \.safetensors"):
        choose_files(set(), "x")


def test_weights_without_a_config_are_still_counted(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "x.safetensors", {"model.layers.0.mlp.up_proj.weight": ("BF16", (8, 8))})
    found = read_path(path)

    with pytest.raises(BadInputError, match=r"has no config\.json beside it"):
        found.model()
    assert [f.id for f in api.inspect(str(path)).findings] == ["not-understood"]
    assert api.inspect(str(path)).roles[0].n_bytes == 128


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model.layers.3.mlp.experts.7.down_proj.weight_scale_inv", "experts"),
        ("model.layers.3.mlp.shared_experts.up_proj.weight", "shared_experts"),
        ("model.layers.3.mlp.gate.e_score_correction_bias", "router"),
        ("model.layers.3.block_sparse_moe.gate.weight", "router"),
        ("model.layers.3.self_attn.kv_a_layernorm.weight", "norm"),
        ("model.layers.3.linear_attn.in_proj_qkvz.weight", "recurrent"),
        ("backbone.layers.3.mixer.A_log", "recurrent"),
        ("model.language_model.embed_tokens.weight", "embedding"),
        ("model.visual.blocks.0.attn.qkv.weight", "vision"),
        ("model.visual.merger.linear_fc1.weight", "projector"),
        ("lm_head.weight", "head"),
        ("something", "other"),
    ],
)
def test_roles_by_name(name: str, role: str) -> None:
    assert checkpoint_role(name) == role


@pytest.mark.slow
def test_160_shards_take_less_than_a_second(tmp_path: Path) -> None:
    names, places = shards_beside("model-00001-of-00160.safetensors"), dict[str, str]()
    for number, name in enumerate(names):
        stem = f"model.layers.{number // 3}.mlp.experts"
        tensors = {
            f"{stem}.{number * 190 + e}.{part}_proj.weight": ("F8_E4M3", (7168, 2048))
            for e in range(190)
            for part in ("gate", "up", "down")
        }
        places |= dict.fromkeys(tensors, name)
        write_sparse(tmp_path / name, tensors)
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": places}))

    found, seconds = timed(lambda: read_path(tmp_path))

    assert found.file is not None
    assert len(found.file.tensors) == 160 * 570
    assert seconds < 1


# Hostile files, written by hand.


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


TWICE = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
BROKEN: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "ends in the middle of its header"),
    "a length alone": (raw(b"", length=40), "claims a header of 40 bytes"),
    "2^63 bytes of header": (raw(b"{}", length=1 << 63), "claims a header of 9,223,372,036,854,775,808 bytes"),
    "no JSON": (raw(b"{nope"), "is no JSON"),
    "no UTF-8": (raw(b'{"\xff":1}'), "is no JSON"),
    "a list": (raw([]), "is no JSON object"),
    "nested deep": (raw(b"[" * 100_000), "nested too deep"),
    "a number of 10,000 digits": (raw(b'{"a":' + b"9" * 10_000 + b"}"), "is no JSON"),
    "a name twice": (raw(TWICE, b"x"), "'a' is there twice"),
    "metadata that are a number": (raw({"__metadata__": 1}), "Expected `object`, got `int`"),
    "no entry": (raw({"a": 1}), "Expected `object`, got `int`"),
    "an entry of nothing": (raw({"a": {}}), "tensor 'a' is not described by"),
    "an unknown dtype": (raw({"a": entry("F7")}), "tensor 'a' has the unknown dtype 'F7'"),
    "a dtype that is a list": (raw({"a": entry(["F32"])}), "Expected `str | null`, got `array`"),
    "a negative dimension": (raw({"a": entry(shape=(-2,))}), "Expected `int` >= 0"),
    "a dimension of 1.5": (raw({"a": entry(shape=(1.5,))}), "Expected `int`, got `float`"),
    "a dimension that is true": (raw({"a": entry(shape=(True,))}), "Expected `int`, got `bool`"),
    "an overflow": (raw({"a": entry(shape=(1 << 62, 1 << 62))}), "which is not what its shape takes"),
    "three offsets": (raw({"a": entry(offsets=(0, 8, 8))}), "Expected `array` of length 2"),
    "offsets backwards": (raw({"a": entry(offsets=(8, 0))}), "has -8 bytes"),
    "bytes that the shape has not": (raw({"a": entry(offsets=(0, 9))}), "has 9 bytes"),
    "a gap": (raw({"a": entry(offsets=(8, 16))}), "leaves a gap"),
    "an overlap": (raw({"a": entry(), "b": entry()}), "overlaps"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named(tmp_path: Path, case: str) -> None:
    content, fact = BROKEN[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)

    with pytest.raises(BadInputError) as error:
        read_safetensors(FileSource(path))

    assert fact in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("index", "fact"),
    [
        ({"weight_map": []}, "'weight_map' is no object"),
        ({"weight_map": {"a": 1}}, "'weight_map' is no object"),
        ({"weight_map": {"a": "../up.safetensors"}}, "names '../up.safetensors'"),
        ({"weight_map": {"a": "/etc/passwd"}}, "names '/etc/passwd'"),
        ({"weight_map": {"missing": "model-00001-of-00001.safetensors"}}, "which lacks it"),
    ],
)
def test_an_index_is_checked(tmp_path: Path, index: object, fact: str) -> None:
    write_sparse(tmp_path / "model-00001-of-00001.safetensors", {"a": ("BF16", (2, 2))})
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))

    with pytest.raises(BadInputError) as error:
        read_path(tmp_path)

    assert fact in str(error.value)


def test_a_folder_with_nothing_of_a_model(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"holds no config\.json, safetensors or GGUF"):
        read_path(tmp_path)
    with pytest.raises(UnavailableError, match="cannot be read"):
        read_path(tmp_path / "none.safetensors")
