"""The files that commands of the documents name: real models' shapes, honest and not, their data a hole."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.sources.gguf_files import write_gguf
from vramcalc import api


def _trimmed(path: Path) -> None:
    whole = api.load_model("llama-3.1-8b")
    layers = whole.layers.model_copy(update={"n_layers": 24})
    write_gguf(path, whole.model_copy(update={"layers": layers}), "llama", "q4_k_m")


def _lowered(path: Path, part: str, storage: str) -> None:
    def edit(name: str, own: str) -> str:
        return storage if part in name and own != "f32" else own

    write_gguf(path, api.load_model("llama-3.1-8b"), "llama", "q8_0", edit=edit)


FILES: Mapping[str, Callable[[Path], object]] = {
    "Llama-3.1-8B-Q4_K_M.gguf": _trimmed,
    "Llama-3.1-8B-Q8_0.gguf": partial(_lowered, part=".attn_", storage="q3_k"),
}
