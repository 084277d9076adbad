"""What is loaded beside a model: a draft model, a vision projector, adapters, and what the host keeps."""

import json
from pathlib import Path

import pytest
from tests.engines.llama_cpp_models import MODELS, hypothetical
from tests.engines.test_llama_cpp import ROOMY, engine, held, settled

from vramcalc.api import Request, answer, load_model
from vramcalc.engines import bind_engine
from vramcalc.engines._ggml.projector import Projector
from vramcalc.engines._ggml.tower import Joint, Tower, compute_bytes
from vramcalc.engines.base import Setup
from vramcalc.engines.llama_cpp import LlamaCpp, bind
from vramcalc.errors import BadInputError, RefusedError, UsageError
from vramcalc.ledger import HOST, Basis, Component
from vramcalc.sources.adapters import resolve_adapter
from vramcalc.specs.companions import Adapter, Companions, Draft
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload
from vramcalc.units import GIB, MIB

BIG, SMALL = "Llama-3.3-70B", "Llama-3.2-3B"


def beside(name: str, companions: Companions, *free: int, fmt: str = "q4_k_m") -> LlamaCpp:
    gpus = tuple(hypothetical(n) for n in free or (ROOMY,))
    return bind(Setup(MODELS[name], Machine(gpus=gpus), fmt, None, companions))


def drafted(*free: int, fmt: str = "q8_0") -> LlamaCpp:
    return beside(BIG, Companions(draft=Draft(MODELS[SMALL], fmt)), *free)


def test_a_draft_model_has_lines_of_its_own() -> None:
    load = {"n_context": 8192, "n_slots": 1}
    _, ledger = settled(drafted(), **load, k_format="q8_0", v_format="q8_0")
    _, alone = settled(engine(SMALL, "q8_0"), **load)  # its cache stays f16
    labelled = [line for line in ledger.on("gpu0").lines if line.why.startswith("draft model")]

    for component in (Component.WEIGHTS, Component.KV_CACHE, Component.COMPUTE_BUFFER):
        assert sum(line.n_bytes for line in labelled if line.component is component) == held(alone, "gpu0", component)


def test_a_drafting_server_answers_for_four_tokens_a_slot() -> None:
    _, ledger = settled(drafted(), n_context=8192, n_slots=2)
    outputs = [line.n_bytes for line in ledger.on(HOST).lines if "output buffer" in line.why]

    assert outputs == [2 * 4 * 128_256 * 4, 2 * 128_256 * 4]


def test_the_fit_makes_room_for_a_draft_model() -> None:
    free = 24_064 * MIB
    with_draft, _ = settled(drafted(free), n_context=8192)
    without, _ = settled(engine(BIG, "q4_k_m", free), n_context=8192)

    assert with_draft.placement.gpu_layers < without.placement.gpu_layers == 43


def test_draft_layers_stay_where_they_are_asked_to() -> None:
    proposal, ledger = settled(drafted(), n_context=8192, n_slots=1, draft_gpu_layers=0)

    assert not [x for x in ledger.on("gpu0").lines if x.why.startswith("draft") and x.component is Component.WEIGHTS]
    assert "-ngld 0" in " ".join(drafted().command(proposal))


def test_a_draft_model_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(RefusedError, match="cannot draft for"):
        beside(BIG, Companions(draft=Draft(MODELS["Qwen3-8B"]))).propose(Workload(n_context=8192))


@pytest.mark.parametrize(
    ("tower", "measured"),
    [
        pytest.param(
            Tower(1152, 4304, 27, 14, 64, Joint.POOLED, 2560, has_positions=True), 127_139_840, id="Gemma 3's"
        ),
        pytest.param(
            Tower(768, 3072, 12, 14, 32, Joint.POOLED, 2560, has_positions=True), 32_243_712, id="a small one"
        ),
        pytest.param(
            Tower(1024, 4096, 24, 16, 92, Joint.MERGED, 2048, fused=True, has_positions=True, n_deep=3),
            338_153_728,
            id="Qwen3-VL 2B's",
        ),
    ],
)
def test_towers_take_what_clip_reserves(tower: Tower, measured: int) -> None:
    assert compute_bytes(tower, on_gpu=False) == measured  # llama.cpp 0c1e570, clip_get_mem_usage without weights


@pytest.mark.parametrize(
    ("model_id", "weights", "measured"),
    [
        ("gemma-3-4b", 851_226_048, 127_139_840),
        ("qwen3-vl-8b", 1_162_548_160, 390_156_544),
        ("mistral-small-3.1-24b", 879_222_784, 67_756_032),
    ],
)
def test_projectors_of_the_registry(model_id: str, weights: int, measured: int) -> None:
    projector = Projector(load_model(model_id), "f16")
    lines = {line.component: line for line in projector.lines("gpu0")}

    assert lines[Component.WEIGHTS].n_bytes == weights
    buffer = lines[Component.COMPUTE_BUFFER]
    assert buffer.low_bytes <= measured <= buffer.high_bytes
    assert buffer.basis in (Basis.DERIVED, Basis.FITTED)


def test_an_unknown_tower_is_assumed_and_says_so() -> None:
    buffer = next(x for x in Projector(load_model("gemma-4-26b-a4b"), "f16").lines("gpu0") if x.formula != "tower")

    assert buffer.basis is Basis.ASSUMED
    assert "not modelled" in buffer.why


def test_a_projector_raises_the_margin() -> None:
    model = load_model("gemma-3-12b")
    machine = Machine(gpus=(hypothetical(10 * GIB),))
    plain, seeing = (
        bind(Setup(model, machine, "q4_k_m", None, Companions(projector=storage))) for storage in (None, "f16")
    )

    contexts = [bound.propose(Workload()).workload.n_context or 0 for bound in (plain, seeing)]
    assert contexts[1] < contexts[0]


@pytest.mark.parametrize("storage", ["q4_k", "fp8", ""])
def test_projectors_come_in_four_types(storage: str) -> None:
    with pytest.raises(UsageError, match="type of projector"):
        Projector(load_model("gemma-3-4b"), storage)


def test_a_model_without_a_tower_takes_no_projector() -> None:
    with pytest.raises(RefusedError, match="no vision tower"):
        Projector(MODELS[BIG], "f16")


def test_adapters_by_hand() -> None:
    load = {"n_context": 4096, "n_slots": 1}
    plain, adapted = (
        settled(beside("Llama-3.1-8B", Companions(adapters=adapters)), **load)[1]
        for adapters in ((), (Adapter(rank=16, targets=("attn_q", "attn_v")),))
    )
    # 32 layers, f32: q takes 16 * (4096 + 4096), v takes 16 * (4096 + 1024)
    expected = 32 * 16 * ((4096 + 4096) + (4096 + 1024)) * 4

    assert held(adapted, "gpu0", Component.WEIGHTS) - held(plain, "gpu0", Component.WEIGHTS) == expected
    assert held(adapted, "gpu0", Component.COMPUTE_BUFFER) >= held(plain, "gpu0", Component.COMPUTE_BUFFER)


def test_adapters_follow_their_layers() -> None:
    bound = beside("Llama-3.1-8B", Companions(adapters=(Adapter(rank=8), Adapter(rank=4, targets=("attn_k",)))))
    _, ledger = settled(bound, n_context=4096, n_slots=1, gpu_layers=17)
    on = {x.device: x.n_bytes for x in ledger.lines if "LoRA" in x.why}

    assert on["gpu0"] == on[HOST]  # 16 layers each


def test_an_adapter_of_another_model_is_refused() -> None:
    bound = beside("Llama-3.1-8B", Companions(adapters=(Adapter(rank=8, targets=("attn_qkv",)),)))

    with pytest.raises(UsageError, match="no layer has a matrix attn_qkv"):
        settled(bound, n_context=4096)


@pytest.mark.parametrize(
    ("text", "rank", "targets", "storage"),
    [
        ("rank=16", 16, (), "f32"),
        ("rank=8,targets=q_proj+v_proj,type=f16", 8, ("attn_q", "attn_v"), "f16"),
    ],
)
def test_adapters_in_words(text: str, rank: int, targets: tuple[str, ...], storage: str) -> None:
    adapter = resolve_adapter(text)

    assert (adapter.rank, adapter.targets, adapter.weight_format) == (rank, targets, storage)


def test_an_adapter_folder(tmp_path: Path) -> None:
    config = {"r": 32, "peft_type": "LORA", "target_modules": ["o_proj", "down_proj"], "base_model": "x"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))

    assert resolve_adapter(str(tmp_path)).targets == ("attn_output", "ffn_down")


@pytest.mark.parametrize("text", ["rank=0", "rank=x", "rank=99999", "size=3", "adapter.gguf", "rank=4,type=q4_0"])
def test_what_is_no_adapter(text: str) -> None:
    with pytest.raises(UsageError):
        resolve_adapter(text)


@pytest.mark.parametrize("content", ["{", "[]", '{"r": "x"}', '{"r": 4, "target_modules": ".*_proj"}'])
def test_a_broken_adapter_folder(tmp_path: Path, content: str) -> None:
    (tmp_path / "adapter_config.json").write_text(content)

    with pytest.raises(BadInputError):
        resolve_adapter(str(tmp_path))


def test_the_host_keeps_prompts_and_checkpoints() -> None:
    _, ledger = settled(engine("Gemma-3-4b"), n_context=8192, n_slots=2, kv_unified=False)
    growing = {x.component: x for x in ledger.on(HOST).lines if x.high_bytes and not x.n_bytes}

    assert growing[Component.KV_CACHE].high_bytes == 8192 * MIB
    # 32 for each of 2 slots: 29 sliding layers of 1024 tokens, K and V of 4 * 256 f16
    assert growing[Component.STATE].high_bytes == 2 * 32 * 29 * 1024 * 2 * 4 * 256 * 2


def test_engines_say_what_they_do_not_load() -> None:
    setup = Setup(MODELS[BIG], Machine(gpus=(hypothetical(ROOMY),)), None, None, Companions(projector="f16"))

    with pytest.raises(RefusedError, match="--mmproj: not modelled for vllm"):
        bind_engine("vllm", setup)


def test_companions_from_words_to_lines() -> None:
    request = Request(
        model="llama-3.1-70b",
        gpus=("80GiB",),
        engines=("llama.cpp",),
        draft="llama-3.2-1b",
        draft_quant="Q8_0",
        adapters=("rank=8",),
        workload=Workload(n_context=4096),
    )
    estimate = answer(request).estimates[0]
    reasons = " ".join(line.why for line in estimate.lines)

    assert "draft model Llama 3.2 1B" in reasons
    assert "LoRA adapters" in reasons
    assert {"--lora", "--model-draft", "-ngld"} <= set(estimate.launch)


@pytest.mark.parametrize("mmap", [True, False])
def test_the_peak_while_loading(mmap: bool) -> None:  # mapped pages on their way to the GPU, or buffers
    load = Workload(n_context=4096, mmap=mmap)
    estimate = answer(Request(model="llama-3.1-8b", gpus=("24GiB",), engines=("llama.cpp",), workload=load)).estimates[
        0
    ]
    gpu, host = estimate.devices

    assert gpu.peak_bytes == gpu.need_bytes
    assert host.peak_bytes is not None
    through = host.peak_bytes - host.need_bytes
    assert through == (gpu.weights_bytes if mmap else 4 * MIB)


@pytest.mark.parametrize("build", ["b2833", "2833"])
def test_older_builds_answer_for_plain_decoders(build: str) -> None:
    bound = bind(Setup(MODELS["Llama-3.1-8B"], Machine(gpus=(hypothetical(24 * GIB),)), "q4_k_m", build))
    _, ledger = settled(bound, n_context=8192, n_slots=1, flash_attention=False)
    buffer = ledger.on("gpu0").of_component(Component.COMPUTE_BUFFER)

    assert buffer.low_bytes <= 560 * MIB <= buffer.high_bytes  # b2833 on an RTX 3090, a public log
    assert {line.basis for line in buffer.lines} == {Basis.FITTED}


@pytest.mark.parametrize("name", ["Gemma-3-4b", "DeepSeek-V3", "Mamba2-2.7B"])
def test_older_builds_are_refused_where_they_cached_otherwise(name: str) -> None:
    with pytest.raises(RefusedError, match="older builds kept other caches"):
        bind(Setup(MODELS[name], Machine(gpus=(hypothetical(24 * GIB),)), "q4_k_m", "b5000"))
