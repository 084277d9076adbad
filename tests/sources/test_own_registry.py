"""`models add`: a file becomes an entry of the user's own registry."""

from pathlib import Path

import pytest
from tests.sources.gguf_files import write_gguf

from vramcalc import api
from vramcalc.errors import BadInputError, UnavailableError, UsageError
from vramcalc.sources import own_registry, registry


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "own"
    monkeypatch.setattr(own_registry, "user_folder", lambda: folder)
    monkeypatch.setattr(registry, "user_folder", lambda: folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> str:
    return str(write_gguf(tmp_path / "My File.gguf", api.load_model("qwen3-8b"), "qwen3", "q5_k_m"))


def test_an_entry_answers_as_its_file_does(own_folder: Path, source: str) -> None:
    name, path = api.add_entry(source)

    assert (name, path) == ("my-file", own_folder / "models.yaml")
    by_name = api.estimate("my-file", "rtx4090", engines=["llama.cpp"], context=4096).estimates[0]
    by_file = api.estimate(source, "rtx4090", engines=["llama.cpp"], context=4096).estimates[0]
    assert by_name.weight_format == "q5_k_m"
    assert by_name.devices == by_file.devices
    assert api.show_entry("models", "my-file")["my-file"]["stored"]["format"] == "q5_k_m"


def test_what_the_user_wrote_stays(own_folder: Path, source: str) -> None:
    own_folder.mkdir()
    text = "# mine\nmodels:\n  tiny: # a note\n    like: qwen3-8b\n    source: nobody\n"
    (own_folder / "models.yaml").write_text(text)

    api.add_entry(source, "other")

    assert (own_folder / "models.yaml").read_text().startswith(text)
    assert api.load_model("tiny").hidden_dim == api.load_model("other").hidden_dim


def test_a_taken_name_is_not_overwritten_unasked(own_folder: Path, source: str) -> None:
    api.add_entry(source, "mine")
    before = (own_folder / "models.yaml").read_bytes()

    with pytest.raises(UsageError, match="'mine' already names the model 'mine'"):
        api.add_entry(source, "mine")
    with pytest.raises(UsageError, match="already names the model 'qwen3-8b'"):
        api.add_entry(source, "qwen-3-8b", force=True)
    assert (own_folder / "models.yaml").read_bytes() == before

    api.add_entry(source, "mine", force=True)
    assert [path.name for path in own_folder.iterdir()] == ["models.yaml"]


@pytest.mark.parametrize("name", ["Upper", "a/b", "../x", "", "x" * 101, "a:b"])
def test_a_name_is_plain(own_folder: Path, source: str, name: str) -> None:
    if not name:
        assert api.add_entry(source, name)[0] == "my-file"
        return
    with pytest.raises(UsageError, match="is no id"):
        api.add_entry(source, name)
    assert not own_folder.exists()


def test_what_is_no_model_is_not_written(own_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF\3\0\0\0" + bytes(16))

    with pytest.raises(BadInputError, match="holds no tensors"):
        api.add_entry(str(tmp_path / "x.gguf"))
    assert not own_folder.exists()


def test_a_folder_that_cannot_be_written_is_told(own_folder: Path, source: str) -> None:
    own_folder.write_text("a file where the folder should be")

    with pytest.raises(UnavailableError, match="cannot be written"):
        api.add_entry(source)
