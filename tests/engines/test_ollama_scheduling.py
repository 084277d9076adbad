"""Ollama's scheduler, environment and readouts. Rules: Ollama 0.33, server/sched.go, envconfig/config.go."""

import pytest
from msgspec.structs import replace
from tests.engines.llama_cpp_models import MODELS, hypothetical

from vramcalc.api import Request, answer
from vramcalc.engines import with_environment
from vramcalc.engines._ollama import scheduling
from vramcalc.engines.base import Setup
from vramcalc.engines.ollama import bind
from vramcalc.errors import AppError, UnknownNameError, UsageError
from vramcalc.reports.schema import EstimateReport
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB, MIB


def estimate(model: str, gpu: str, *environment: str, ram: str | None = None, **workload: object) -> EstimateReport:
    request = Request(
        model=model,
        gpus=[gpu],
        engines=["ollama"],
        ram=ram,
        environment=environment,
        workload=Workload(**workload),  # type: ignore[arg-type]
    )
    return answer(request).estimates[0]


@pytest.mark.parametrize(
    ("predicted", "free", "admitted"),
    [
        pytest.param(8 * GIB, 10 * GIB, True, id="8 of 10 GiB: exactly 80 %"),
        pytest.param(8 * GIB + 1, 10 * GIB, False, id="a byte above 80 %"),
    ],
)
def test_the_rule_of_80_percent(predicted: int, free: int, admitted: bool) -> None:
    assert scheduling.admits(predicted, free) is admitted


@pytest.mark.parametrize(
    ("step_tokens", "n_bytes"),
    [(512, 0), (1024, 768 * MIB), (2048, 2 * GIB)],
)
def test_a_second_model_is_charged_for_its_batch(step_tokens: int, n_bytes: int) -> None:
    assert scheduling.surcharge_bytes(step_tokens) == n_bytes


@pytest.mark.parametrize(
    ("free", "workload", "step_tokens"),
    [
        pytest.param(8 * GIB, {"n_context": 4097, "flash_attention": False}, 256, id="no FA, 8 GiB, above 4096: 256"),
        pytest.param(8 * GIB, {"n_context": 4096, "flash_attention": False}, 512, id="no FA, 8 GiB, 4096: 512"),
        pytest.param(24 * GIB, {"n_context": 32_768, "flash_attention": False}, 512, id="no FA, 24 GiB: 512"),
    ],
)
def test_the_batch_without_flash_attention(free: int, workload: dict[str, object], step_tokens: int) -> None:
    engine = bind(Setup(MODELS["Llama-3.1-8B"], Machine(gpus=(hypothetical(free),))))

    assert engine.propose(Workload(**workload)).workload.step_tokens == step_tokens  # type: ignore[arg-type]


def test_the_context_asked_for_is_cut_to_the_trained_one() -> None:
    found = estimate("llama3:8b", "rtx3060", n_context=100_000)

    assert found.workload.n_context == 8192
    assert "Ollama cuts the context asked for to the 8192 tokens Llama 3 8B was trained on" in found.notes


@pytest.mark.parametrize(
    ("variable", "setting", "value"),
    [
        ("OLLAMA_CONTEXT_LENGTH=8192", "n_context", 8192),
        ("OLLAMA_NUM_PARALLEL=3", "n_slots", 3),
        ("OLLAMA_KV_CACHE_TYPE=q8_0", "k_format", "q8_0"),
        ("OLLAMA_FLASH_ATTENTION=0", "flash_attention", False),
        ("OLLAMA_SCHED_SPREAD=1", "spread", True),
        ("OLLAMA_GPU_OVERHEAD=1073741824", "gpu_overhead_bytes", 1 << 30),
    ],
)
def test_a_variable_sets_what_the_option_sets(variable: str, setting: str, value: object) -> None:
    found = estimate("deepseek-r1-8b", "2xrtx3060", variable)

    assert getattr(found.workload, setting) == value
    assert setting not in found.workload.assumed


def test_what_is_asked_outright_goes_before_the_environment() -> None:
    asked = Workload(n_context=2048, n_slots=1, k_format="f16", v_format="f16", flash_attention=True)
    variables = [
        ("OLLAMA_CONTEXT_LENGTH", "8192"),
        ("OLLAMA_NUM_PARALLEL", "4"),
        ("OLLAMA_KV_CACHE_TYPE", "q4_0"),
        ("OLLAMA_FLASH_ATTENTION", "false"),
    ]

    assert with_environment("ollama", asked, variables) == asked


def test_other_engines_do_not_read_it() -> None:
    assert with_environment("vllm", Workload(), [("OLLAMA_CONTEXT_LENGTH", "8192")]) == Workload()


def test_how_long_a_model_stays_changes_no_memory() -> None:
    variables = [("OLLAMA_KEEP_ALIVE", "-1"), ("OLLAMA_MAX_LOADED_MODELS", "1")]

    assert with_environment("ollama", Workload(), variables) == Workload()


@pytest.mark.parametrize(
    ("variable", "error", "fact"),
    [
        ("OLLAMA_NUM_PARALEL=2", UnknownNameError, "no variable of Ollama is called"),
        ("OLLAMA_NUM_PARALLEL=two", UsageError, "is not a count"),
        ("OLLAMA_SCHED_SPREAD=maybe", UsageError, "is neither true nor false"),
        ("OLLAMA_GPU_OVERHEAD=1GB", UsageError, "invalid literal"),
        ("OLLAMA_GPU_OVERHEAD=-1", UsageError, "is negative"),
        ("OLLAMA_NUM_PARALLEL", UsageError, "sets nothing"),
    ],
)
def test_a_variable_it_would_not_take_is_named(variable: str, error: type[AppError], fact: str) -> None:
    with pytest.raises(error, match=fact):
        estimate("deepseek-r1-8b", "rtx3060", variable)


def test_overhead_lowers_the_tier_of_the_context() -> None:
    # 2 x 11.75 GiB is above 23 GiB; less 1 GiB each it is below
    assert estimate("deepseek-r1-8b", "2xrtx3060").workload.n_context == 32_768
    assert estimate("deepseek-r1-8b", "2xrtx3060", "OLLAMA_GPU_OVERHEAD=1073741824").workload.n_context == 4096


def test_spread_takes_all_cards() -> None:
    one = estimate("deepseek-r1-8b", "2xrtx3060", n_context=4096)
    all_cards = estimate("deepseek-r1-8b", "2xrtx3060", "OLLAMA_SCHED_SPREAD=1", n_context=4096)

    assert [d.name for d in one.devices if d.kind == "gpu" and d.weights_bytes] == ["gpu0"]
    assert [d.name for d in all_cards.devices if d.kind == "gpu" and d.weights_bytes] == ["gpu0", "gpu1"]
    assert "OLLAMA_SCHED_SPREAD=1" in all_cards.launch


@pytest.mark.parametrize(
    ("ram", "model", "text"),
    [
        # 4,617,396,480 weights + 536,870,912 KV + 117,450,880 compute + 0 output = 5,271,718,272
        pytest.param(None, "deepseek-r1-8b", "5.3 GB  100% GPU  4096", id="whole: buffers of the GPU alone"),
        pytest.param("64GB", "llama3.1:70b", "44 GB  74%/26% CPU/GPU  4096", id="20 of 81 layers: both"),
    ],
)
def test_ollama_ps(ram: str | None, model: str, text: str) -> None:
    found = estimate(model, "rtx3060", ram=ram)
    ps = next(r for r in found.readouts if r.tool == "ollama ps")
    held = sum(d.need_bytes - d.runtime_bytes for d in found.devices if ram or d.kind == "gpu")

    assert ps.text == text
    assert ps.n_bytes == held


def test_nvidia_smi_counts_the_context_too() -> None:
    found = estimate("deepseek-r1-8b", "rtx3060")
    smi = next(r for r in found.readouts if r.tool == "nvidia-smi")

    assert smi.n_bytes == found.devices[0].need_bytes
    assert smi.text == f"{found.devices[0].need_bytes // MIB}MiB"


def test_vllm_shows_its_whole_pool_in_nvidia_smi() -> None:
    found = answer(Request(model="qwen3-0.6b", gpus=["rtx4090"], engines=["vllm"])).estimates[0]
    device, smi = found.devices[0], found.readouts[0]

    assert found.limits
    assert found.limits.kv_cache_pool_bytes
    unused = found.limits.kv_cache_pool_bytes - device.kv_cache_bytes
    assert smi.n_bytes == device.need_bytes + device.outside_budget_bytes + unused


def test_layers_off_the_gpu_of_a_mac_are_not_mapped() -> None:
    found = estimate("llama3.1:70b", "m2-8gb")

    assert found.verdict == "does_not_fit"
    assert any("turns mmap off" in note for note in found.notes)


def test_the_tag_of_a_model_that_sees_brings_its_projector() -> None:
    request = Request(model="gemma3:4b", gpus=["rtx3060"], engines=["ollama"])
    found = answer(request).estimates[0]
    without = answer(replace(request, mmproj="none")).estimates[0]
    tower = next(line for line in found.lines if "vision projector" in line.why and line.component == "weights")
    ps = {name: r.n_bytes for name, e in (("with", found), ("without", without)) for r in e.readouts[:1]}
    compute = next(line for line in found.lines if "vision projector" in line.why and line.component != "weights")

    assert found.devices[0].need_bytes - without.devices[0].need_bytes == tower.n_bytes + compute.n_bytes
    assert "gemma3:4b brings its vision projector, billed as f16; --mmproj none leaves it out" in found.notes
    assert ps["with"] - ps["without"] == compute.n_bytes  # the log names its weights no buffer


def test_a_model_that_does_not_see_brings_none() -> None:
    assert not any("projector" in line.why for line in estimate("qwen3:8b", "rtx3060").lines)
