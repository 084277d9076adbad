"""Placements that split a layer, and registry files that hold one kind of entry."""

from pathlib import Path

from vramcalc.api import Request, answer, load_gpu, load_model
from vramcalc.specs.placement import Override, Placement
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB

_MY_CARD = """
my-card:
  name: My card
  vendor: nvidia
  architecture: ada
  year: 2023
  compute_capability: "8.9"
  n_sms: 10
  memory: {advertised: 20GiB}
  bandwidth_gb_per_s: 500
  source: me
"""


def test_a_tensor_lives_where_its_override_says() -> None:
    moved = Override(1, frozenset({"ffn_up_exps"}), "host")
    placement = Placement(layers=("gpu0", "gpu0"), input_device="host", output_device="gpu0", overrides=(moved,))

    assert [placement.device_of(layer, "ffn_up_exps") for layer in (0, 1)] == ["gpu0", "host"]
    assert placement.device_of(1, "ffn_down_exps") == "gpu0"
    assert placement.offloads


def test_experts_kept_in_host_memory_are_counted_out() -> None:
    (estimate,) = answer(
        Request(
            model="qwen3-30b-a3b",
            gpus=("rtx4090",),
            engines=("llama.cpp",),
            workload=Workload(n_context=4096, cpu_moe=12),
        )
    ).estimates

    assert estimate.verdict == "offloads"
    assert estimate.placement
    assert estimate.placement.expert_layers_on_gpu == 48 - 12
    assert estimate.placement.gpu_layers == estimate.placement.total_layers == 49


def test_a_file_of_cards_holds_no_models(tmp_path: Path) -> None:
    path = tmp_path / "gpus.yaml"
    path.write_text(_MY_CARD, encoding="utf-8")

    assert load_gpu("my-card", [path]).memory.advertised == 20 * GIB
    assert load_model("qwen3-8b", [path]) == load_model("qwen3-8b")
