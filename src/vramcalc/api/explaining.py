"""``explain``: the web pages' arithmetic beside the true one, and weights by role and type."""

import re

from msgspec.structs import replace

from vramcalc.api.questions import load_named
from vramcalc.api.requests import Request, checked_workload
from vramcalc.formulas.inventory import n_parameters
from vramcalc.reports.explanation import TextbookReport, textbook_report
from vramcalc.reports.weights import WeightsReport, weights_report
from vramcalc.sources.registry import model_registry
from vramcalc.specs.model import ModelSpec

_TEXTBOOK_CONTEXT = 2048
_ADVERTISED = re.compile(r"(\d+(?:\.\d+)?)([BM])")


def explain_textbook(request: Request) -> TextbookReport:
    """Return the web pages' arithmetic beside the true one; 2048 tokens unless a context is asked for."""
    model = load_named(request.model, model_registry(request.registries))
    workload = checked_workload(replace(request, gpus=request.gpus or ("none",)))
    return textbook_report(
        model,
        advertised_parameters=_advertised(model),
        n_context=workload.n_context or _TEXTBOOK_CONTEXT,
        n_sequences=workload.n_sequences or 1,
    )


def explain_weights(request: Request) -> WeightsReport:
    """Return a model's weights by role and storage type, in the first format asked for."""
    model = load_named(request.model, model_registry(request.registries))
    asked = next((q for q in request.quants if q), None)
    own = model.stored.format if model.stored else model.checkpoint_format
    return weights_report(model, asked or own or model.dtype)


def _advertised(model: ModelSpec) -> int:
    """Return the size the publisher prints, or the true count where it prints none."""
    match = _ADVERTISED.match(model.advertised or "")
    return round(float(match[1]) * {"B": 10**9, "M": 10**6}[match[2]]) if match else n_parameters(model)
