"""Speed: what is read, how long it takes, and how near that comes to what others measured."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.arithmetic import evaluate

from vramcalc.api import Request, answer, load_model
from vramcalc.engines import bind_engine
from vramcalc.engines.base import Setup
from vramcalc.errors import UsageError
from vramcalc.estimation import estimate_outcome, outcome_speed
from vramcalc.formulas.traffic import cache_read_bytes, distinct_experts, routed_share, traffic_of
from vramcalc.formulas.weights import stored_tensors
from vramcalc.ledger import Basis
from vramcalc.reports.schema import EstimateReport
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.measured import PACKAGED, read_table
from vramcalc.sources.registry import gpu_registry
from vramcalc.specs.formats import F16
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload
from vramcalc.speed import Speed
from vramcalc.speed.rates import class_of

GB = 10**9


def speed_of(
    model: str, gpus: str, engine: str = "llama.cpp", weight_format: str | None = None, **settings_: object
) -> Speed:
    bandwidth = settings_.pop("bandwidth", None)
    ram = settings_.pop("ram", None)
    machine = Machine(
        gpus=resolve_cards(gpus, gpu_registry()).gpus,
        host_bandwidth_bytes_per_s=bandwidth,  # type: ignore[arg-type]
        host_memory_bytes=ram,  # type: ignore[arg-type]
    )
    spec = load_model(model)
    bound = bind_engine(engine, Setup(spec, machine, weight_format))
    outcome = estimate_outcome(bound, machine, Workload(**settings_))  # type: ignore[arg-type]
    speed, notes = outcome_speed(outcome, spec, machine)
    assert speed is not None, notes
    return speed


def first(**asked: object) -> EstimateReport:
    return answer(Request(**asked)).estimates[0]  # type: ignore[arg-type]


# ---- against what others published


@pytest.mark.parametrize("engine", ["llama.cpp", "ollama", "vllm"])
def test_published_rows_are_met(engine: str) -> None:
    table = read_table(PACKAGED)
    assert table is not None
    row = next(row for row in table.rows if row.engine == engine and row.component == "decode_speed")

    assert row.median_error is not None
    assert row.median_error <= 0.15
    assert row.p90_error is not None
    assert row.p90_error <= 0.35
    assert row.n_in_range is not None
    assert row.n_in_range >= 0.8 * row.n_answered
    assert row.n_answered == row.n_figures


@pytest.mark.parametrize(
    ("model", "gpus", "engine", "weight_format", "low", "high"),
    [
        pytest.param("llama-3.1-8b", "rtx4090", "llama.cpp", "q4_k_m", 120, 150, id="8B on a 4090: 128 to 150"),
        pytest.param("llama-3.1-70b", "a100-80gb-sxm", "llama.cpp", "q4_k_m", 22, 26, id="70B on an A100: 24.3"),
        pytest.param("llama-2-7b", "m1-max-64gb", "llama.cpp", "q4_0", 48, 66, id="7B on an M1 Max: 61.2"),
        pytest.param("gpt-oss-20b", "rtx3090", "llama.cpp", None, 150, 210, id="gpt-oss-20b on a 3090: 162"),
        pytest.param("deepseek-v3", "8xh200", "vllm", None, 35, 100, id="DeepSeek-V3 on 8 H200"),
    ],
)
def test_well_known_machines(
    model: str, gpus: str, engine: str, weight_format: str | None, low: float, high: float
) -> None:
    speed = speed_of(model, gpus, engine, weight_format, n_context=4096, depth_tokens=128)

    assert low <= speed.decode.best <= high
    assert speed.basis is Basis.FITTED


# ---- what is read


@pytest.mark.parametrize(
    ("model", "weight_format"),
    [("llama-3.1-8b", "q4_k_m"), ("qwen3-30b-a3b", "awq-4bit"), ("gemma-2-9b", "q6_k"), ("deepseek-v3", "fp8-block")],
)
def test_traffic_counts_the_tensors_of_the_file(model: str, weight_format: str) -> None:
    spec = load_model(model)
    traffic = traffic_of(spec, weight_format)
    held = sum(m.n_bytes for layer in traffic.layers for m in layer.matrices) + sum(m.n_bytes for m in traffic.head)
    stored = [t for t in stored_tensors(spec, weight_format) if t.role not in ("vision", "projector")]
    looked_up = 0 if spec.head == "tied" else sum(t.n_bytes for t in stored if t.name == "token_embd")

    assert held == sum(t.n_bytes for t in stored) - looked_up


def test_a_token_reads_its_experts_alone() -> None:
    kind = traffic_of(load_model("qwen3-30b-a3b"), "q4_k_m").layers[0].kind

    assert routed_share(kind, 1) == pytest.approx(8 / 128)


@given(n_experts=st.integers(1, 512), share=st.floats(0.01, 1), n_tokens=st.integers(1, 4096))
def test_distinct_experts_stay_within_reason(n_experts: int, share: float, n_tokens: int) -> None:
    active = max(1, int(n_experts * share))
    found = distinct_experts(n_experts, active, n_tokens)

    assert active - 1e-9 <= found <= min(n_experts, active * n_tokens) + 1e-9
    assert found <= distinct_experts(n_experts, active, n_tokens + 1) + 1e-9


@pytest.mark.parametrize(
    ("model", "layer", "depth", "n_bytes"),
    [
        pytest.param("llama-3.1-8b", 0, 1000, 4_096_000, id="full: 1000 * 2 * 8 * 128 * 2"),
        pytest.param("gemma-3-27b", 0, 100_000, 8_388_608, id="window: 1024 * 2 * 16 * 128 * 2"),
        pytest.param("deepseek-v3", 0, 1000, 1_152_000, id="latent: 1000 * (512 + 64) * 2"),
    ],
)
def test_cache_read_of_one_layer(model: str, layer: int, depth: int, n_bytes: int) -> None:
    kind = traffic_of(load_model(model), "q8_0").layers[layer].kind

    assert cache_read_bytes(kind, depth, F16, F16) == n_bytes


# ---- how long it takes


@pytest.mark.parametrize(
    ("model", "gpus", "engine", "settings_"),
    [
        pytest.param("llama-3.1-8b", "rtx3060", "llama.cpp", {"gpu_layers": 20}, id="layers in RAM"),
        pytest.param("qwen3-30b-a3b", "rtx4090", "llama.cpp", {"cpu_moe": 30}, id="experts in RAM"),
        pytest.param("llama-3.3-70b", "4xrtx3090", "vllm", {"n_context": 4096}, id="four ranks"),
        pytest.param("llama-3.1-8b", "m1-max-64gb", "ollama", {}, id="unpacking"),
        pytest.param(
            "llama-3.1-8b", "h100", "vllm", {"n_context": 1024, "n_sequences": 2000, "depth_tokens": 8}, id="computing"
        ),
        pytest.param("llama-3.1-8b", "h100", "vllm", {"n_context": 1024, "cpu_offload_bytes": GB}, id="streamed"),
    ],
)
def test_every_term_evaluates_to_its_seconds(model: str, gpus: str, engine: str, settings_: dict[str, int]) -> None:
    speed = speed_of(model, gpus, engine, None, **settings_)

    for term in speed.terms:
        assert evaluate(term.formula, term.values) == pytest.approx(term.seconds, rel=2e-3, abs=1e-7)
    assert 1 / sum(term.seconds for term in speed.terms) == pytest.approx(speed.decode.best)
    assert speed.decode.low < speed.decode.best < speed.decode.high
    assert speed.first_token_s.low < speed.first_token_s.best < speed.first_token_s.high


@settings(max_examples=25, deadline=None)
@given(depths=st.lists(st.integers(1, 8192), min_size=2, max_size=2, unique=True))
def test_a_fuller_cache_is_never_faster(depths: list[int]) -> None:
    shallow, deep = (speed_of("llama-3.1-8b", "rtx4090", n_context=8192, depth_tokens=d) for d in sorted(depths))

    assert shallow.decode.best >= deep.decode.best


def test_every_layer_brought_to_the_card_helps() -> None:
    rates = [speed_of("llama-3.1-8b", "rtx3060", gpu_layers=n).decode.best for n in (0, 8, 16, 24, 33)]

    assert all(a < b for a, b in pairwise(rates))


def test_more_sequences_share_the_reading() -> None:
    alone, crowd = (speed_of("llama-3.1-8b", "h100", "vllm", n_context=2048, n_sequences=n) for n in (1, 32))

    assert crowd.decode.best < alone.decode.best
    assert crowd.decode_total.best > 10 * alone.decode_total.best


def test_large_batches_are_bound_by_computing() -> None:
    speed = speed_of("llama-3.1-8b", "h100", "vllm", n_context=1024, n_sequences=2000, depth_tokens=8)

    assert any("computing takes longer" in term.why for term in speed.terms)


def test_nvlink_beats_pcie_between_ranks() -> None:
    linked, plain = (speed_of("llama-3.3-70b", gpus, "vllm", n_context=2048) for gpus in ("4xa100", "4xl40s"))
    waits = [next(t.seconds for t in speed.terms if "all-reduces" in t.why) for speed in (linked, plain)]

    assert waits[0] < waits[1]


def test_host_memory_sets_the_pace_of_what_lives_there() -> None:
    slow, fast = (speed_of("llama-3.1-8b", "rtx3060", gpu_layers=16, bandwidth=n * GB) for n in (40, 80))

    assert fast.decode.best > 1.5 * slow.decode.best
    assert not slow.notes


def test_the_usual_host_memory_is_said() -> None:
    assert "64 GB/s" in speed_of("llama-3.1-8b", "rtx3060", gpu_layers=16).notes[0]


def test_reading_off_the_disk_is_slowest() -> None:
    held, streamed = (speed_of("llama-3.3-70b", "rtx3060", ram=n * GB) for n in (64, 24))

    assert streamed.decode.best < held.decode.best
    assert any(term.device == "disk" for term in streamed.terms)


def test_long_prompts_copy_the_weights_to_the_card() -> None:
    speed = speed_of("llama-3.1-8b", "rtx3060", gpu_layers=16)

    assert speed.prefill.best > 20 * speed.decode.best


# ---- what cannot be told


def test_a_card_without_bandwidth_has_no_speed() -> None:
    found = first(model="llama-3.1-8b", gpus=["11776MiB"], engines=["ollama"])

    assert found.speed is None
    assert any("bandwidth" in note for note in found.notes)


def test_an_embedding_model_writes_no_tokens() -> None:
    found = first(model="bge-m3", gpus=["rtx3060"], engines=["llama.cpp"])

    assert found.speed is None
    assert any("write no tokens" in note for note in found.notes)


def test_a_class_without_runs_is_assumed_with_a_wide_range() -> None:
    speed = speed_of("llama-3.1-8b", "mi300x", "vllm", n_context=2048)

    assert speed.basis is Basis.ASSUMED
    assert speed.decode.high / speed.decode.low > 2.5
    assert "no run of vllm on amd cdna cards is known" in speed.notes[0]


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("rtx4090", "nvidia"), ("a100", "nvidia hbm"), ("b200", "nvidia hbm"), ("gb10", "nvidia unified"),
        ("gtx1080ti", "nvidia pascal"), ("m1-max-64gb", "apple m1"), ("m1-ultra-64gb", "apple ultra"),
        ("m4-max-64gb", "apple"), ("mi300x", "amd cdna"), ("rx7900xt", "amd"),
        ("arc-b580", "intel"), ("11GiB", "hypothetical"),
    ],
)  # fmt: skip
def test_classes_of_cards(gpu: str, name: str) -> None:
    assert class_of(resolve_cards(gpu, gpu_registry()).gpus[0]) == name


@pytest.mark.parametrize("text", ["fast", "60", "0GB/s", "-1GB/s"])
def test_a_bandwidth_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--ram-bandwidth"):
        answer(Request(model="llama-3.1-8b", gpus=["rtx3060"], ram_bandwidth=text))


def test_the_report_says_the_speed_as_it_was_predicted() -> None:
    found = first(model="llama-3.1-8b", gpus=["rtx4090"], engines=["llama.cpp"], workload=Workload(n_context=8192))
    speed = found.speed

    assert speed is not None
    assert speed.at_context == 512
    assert speed.decode_tokens_per_s_filled is not None
    assert speed.decode_tokens_per_s_filled.best < speed.decode_tokens_per_s.best
    assert speed.decode_total_tokens_per_s == speed.decode_tokens_per_s
    seconds = sum(part.seconds for part in speed.decode_time)
    assert 1 / seconds == pytest.approx(speed.decode_tokens_per_s.best, rel=1e-3)


def test_depth_is_told_where_asked() -> None:
    load = Workload(n_context=8192)
    short, long = (
        first(model="llama-3.1-8b", gpus=["rtx4090"], workload=replace(load, depth_tokens=n)).speed
        for n in (None, 99999)
    )

    assert short is not None
    assert long is not None
    assert long.at_context == 8192
    assert long.decode_tokens_per_s == short.decode_tokens_per_s_filled
