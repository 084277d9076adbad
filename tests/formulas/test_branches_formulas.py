"""Shapes and files that no entry of the registry has, or few ask for."""

from vramcalc.formulas.inventory import n_parameters, parameters_by_role
from vramcalc.formulas.weights import stored_tensors
from vramcalc.ledger import Basis
from vramcalc.sources.registry import model_registry
from vramcalc.specs.model import CountFact, FullAttention, GatedMlp, LayerKind, LayerStack, ModelSpec


def _granite_3b_code() -> ModelSpec:
    """Granite 3B Code: Llama's shape with biases in attention and MLP."""
    attention = FullAttention(kind="full", n_heads=32, n_kv_heads=32, head_dim=80, qkv_bias=True, output_bias=True)
    mlp = GatedMlp(kind="gated", ff_dim=10240, bias=True)
    return ModelSpec(
        id="granite-3b-code",
        name="Granite 3B Code",
        family="granite",
        parameters=CountFact(total=3_482_503_680, basis=Basis.DERIVED, source="counted below"),
        context=2048,
        license="apache-2.0",
        released="2024-05",
        dtype="bf16",
        vocabulary=49_152,
        hidden_dim=2560,
        head="tied",
        layers=LayerStack(n_layers=32, kinds={"decoder": LayerKind(attention=attention, mlp=mlp)}),
        source="config.json of ibm-granite/granite-3b-code-base-2k",
    )


def test_a_gated_mlp_has_a_bias_per_matrix() -> None:
    counts = parameters_by_role(_granite_3b_code())

    assert counts["mlp"] == 32 * (3 * 2560 * 10240 + 2 * 10240 + 2560)
    assert counts["attention"] == 32 * (4 * 2560 * 2560 + 4 * 2560)
    assert n_parameters(_granite_3b_code()) == 49_152 * 2560 + counts["attention"] + counts["mlp"] + 65 * 2560


def test_a_plain_float_stores_every_tensor_alike() -> None:
    tensors = list(stored_tensors(model_registry().resolve("deepseek-r1-8b"), "f32"))

    assert {tensor.storage for tensor in tensors} == {"f32"}
    assert sum(tensor.n_bytes for tensor in tensors) == 4 * 8_030_261_248
