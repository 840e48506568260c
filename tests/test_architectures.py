"""The three architectures, layer by layer, in build_network and in the saved model."""

from itertools import pairwise

import numpy as np
import pytest
from conftest import metrics_of

import train_model_modern
from train_model_modern import ARCHITECTURES, build_network

HIDDEN = {"lightweight": (8,), "standard": (10, 10), "deep": (16, 12, 8)}
DROPOUT = {"lightweight": 0.2, "standard": 0.2, "deep": 0.3}
INPUTS = 7


def described(layer):
    """What a layer does, in the words of the table below."""
    kind = type(layer).__name__
    details = {
        "Dense": lambda: (layer.units, layer.activation.__name__, layer.use_bias, layer.dtype_policy.name),
        "BatchNormalization": lambda: (round(layer.momentum, 6), layer.epsilon, layer.center, layer.scale),
        "Dropout": lambda: (layer.rate,),
    }
    return kind, layer.name, *details.get(kind, tuple)()


def expected_layers(name, hidden_dtype="float32", momentum=0.9):
    yield "InputLayer", "inputs"
    for number, units in enumerate(HIDDEN[name], 1):
        yield "Dense", f"hidden_{number}", units, "mish", True, hidden_dtype
        yield "BatchNormalization", f"normalization_{number}", momentum, 0.001, True, True
        yield "Dropout", f"dropout_{number}", DROPOUT[name]
    yield "Dense", "from_hidden", 1, "linear", True, "float32"
    yield "Dense", "from_inputs", 1, "linear", False, "float32"
    yield "Add", "logit"


def test_the_table_of_architectures():
    assert {name: architecture.units for name, architecture in ARCHITECTURES.items()} == HIDDEN
    assert {name: architecture.dropout for name, architecture in ARCHITECTURES.items()} == DROPOUT
    assert train_model_modern.parse_args([]).architecture == "standard"


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("hidden_dtype", ["float32", "mixed_bfloat16"])
def test_the_layers(tf, name, hidden_dtype):
    network = build_network(INPUTS, ARCHITECTURES[name], 0.99, hidden_dtype)
    assert [described(layer) for layer in network.layers] == list(expected_layers(name, hidden_dtype, 0.99))
    assert network.input_shape == (None, INPUTS) and network.output_shape == (None, 1)
    assert {variable.dtype for variable in network.weights} == {"float32"}
    sizes = [INPUTS, *HIDDEN[name]]
    weights = sum(one * other + 3 * other for one, other in pairwise(sizes))
    assert sum(int(np.prod(part.shape)) for part in network.trainable_variables) == weights + sizes[-1] + 1 + INPUTS


def test_the_arithmetic(tf):
    """The network in inference, written out in numpy."""
    import keras

    network = build_network(INPUTS, ARCHITECTURES["deep"])
    chance = np.random.default_rng(1)
    for variable in network.weights:
        spread = chance.uniform(0.5, 2, variable.shape) if "variance" in variable.path else None
        variable.assign(chance.normal(size=variable.shape) if spread is None else spread)
    values = {variable.path.removeprefix("network/"): variable.numpy() for variable in network.weights}
    inputs = hidden = chance.normal(size=(9, INPUTS)).astype(np.float32)
    for number in range(1, 4):
        hidden = hidden @ values[f"hidden_{number}/kernel"] + values[f"hidden_{number}/bias"]
        hidden = hidden * np.tanh(np.log1p(np.exp(hidden)))  # mish
        mean, variance = (values[f"normalization_{number}/moving_{part}"] for part in ("mean", "variance"))
        gamma, beta = (values[f"normalization_{number}/{part}"] for part in ("gamma", "beta"))
        hidden = (hidden - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    logits = hidden @ values["from_hidden/kernel"] + values["from_hidden/bias"] + inputs @ values["from_inputs/kernel"]
    np.testing.assert_allclose(network(inputs), logits, rtol=1e-4, atol=1e-4)
    assert isinstance(network, keras.Model) and type(network).__module__.startswith("keras.")  # nothing of ours


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_saved_model_holds_the_network(tf, trained, name):
    import keras

    folder = trained("--architecture", name)
    settings = metrics_of(folder)["settings"]
    assert settings["architecture"] == name
    model = keras.models.load_model(folder / "productivity_model.keras")
    layers = {layer.name: layer for layer in flat_layers(model)}
    for kind, layer_name, *details in list(expected_layers(name, momentum=settings["momentum"]))[1:]:
        assert described(layers[layer_name]) == (kind, layer_name, *details)
    assert f"hidden_{len(HIDDEN[name]) + 1}" not in layers
    assert list(model.output_shape) == [None, 1] and model.compute_dtype == "float32"


def flat_layers(model):
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from flat_layers(layer)
