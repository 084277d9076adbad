"""Advice where the usual way out is closed."""

import pytest

from vramcalc.api import Request, answer
from vramcalc.engines import bind_engine
from vramcalc.engines.base import Setup
from vramcalc.errors import RefusedError
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.registry import gpu_registry, model_registry
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload

_ANOTHER_ENGINE = "--engine ollama: it may keep some layers in host memory, which is slower but runs"


@pytest.mark.parametrize(
    ("model_id", "gpu"),
    [
        pytest.param("llama-3.3-70b", "rtx3060", id="70.6e9 / 2 bytes in 4 bits are above 12 GiB"),
        pytest.param("llama-3.1-8b", "v100-16gb-sxm", id="no 8- or 4-bit format runs below compute capability 7.5"),
    ],
)
def test_another_engine_is_the_last_advice(model_id: str, gpu: str) -> None:
    (estimate,) = answer(
        Request(model=model_id, gpus=(gpu,), engines=("vllm",), workload=Workload(n_context=4096))
    ).estimates

    assert estimate.verdict == "does_not_fit"
    assert estimate.limits
    assert estimate.limits.max_context is None
    assert estimate.advice == (_ANOTHER_ENGINE,)


@pytest.mark.parametrize("weight_format", ["fp8", "w4a16"])
def test_the_formats_that_would_help_are_refused_on_an_old_card(weight_format: str) -> None:
    machine = Machine(gpus=resolve_cards("v100-16gb-sxm", gpu_registry()).gpus)

    with pytest.raises(RefusedError, match=f"vLLM runs {weight_format} from compute capability 7.5"):
        bind_engine("vllm", Setup(model_registry().resolve("llama-3.1-8b"), machine, weight_format))
