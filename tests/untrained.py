"""Models that were not trained: all weights are drawn, so that every part of the network counts."""

from typing import NamedTuple

import numpy as np

from harvest.data.encoding import Encoding, Features, FoldEncoding, fit_encoding, raw_inputs
from harvest.data.splits import split_folds, split_rows
from harvest.data.table import Table
from harvest.model.archive import Details, make_details
from harvest.model.inference_model import InferenceModel, build_inference_model, current_values


class Untrained(NamedTuple):
    table: Table
    encoding: Encoding
    fold_encodings: list[FoldEncoding]
    features: Features
    model: InferenceModel
    details: Details
    rows: dict[str, np.ndarray]  # all rows of the table as the model takes them


def hidden_network(*hidden):
    """make_network() with hidden layers made by these functions, next to a linear model."""

    def make(width):
        import keras
        from keras import layers

        inputs = keras.Input((width,), name="inputs")
        values = inputs
        for layer in hidden:
            values = layer()(values)
        nonlinear = layers.Dense(1, kernel_initializer="zeros", name="from_hidden")(values)
        linear = layers.Dense(1, use_bias=False, name="from_inputs")(inputs)
        return keras.Model(inputs, layers.Add(name="logit")([nonlinear, linear]))

    return make


def usual_network(width):
    from keras import layers

    return hidden_network(
        lambda: layers.Dense(6, activation="mish", name="hidden_1"),
        lambda: layers.BatchNormalization(name="normalization_1"),
        lambda: layers.Dropout(0.2, name="dropout_1"),
    )(width)


def draw_weights(network, generator, spread):
    for variable, value in current_values(network):
        drawn = generator.normal(0, spread, value.shape)
        variable.assign(np.abs(drawn) + 0.1 if "variance" in variable.path else drawn)


def untrained(table, folds=1, make_network=usual_network, seed=1, temperature=1.3, spread=0.4, offset=0.0):
    """A model for a table, of so many networks."""
    splits = split_folds(table.label, folds, 1) if folds > 1 else [split_rows(table.label, "random", 1)]
    encoding, fold_encodings, features = fit_encoding(table, splits)
    model = build_inference_model(table, encoding, fold_encodings, make_network, seed, offset)
    generator = np.random.default_rng(seed)
    for network in model.networks:
        draw_weights(network, generator, spread)
    model.set_temperature(temperature)
    rows = raw_inputs(table, encoding.scaler, np.arange(len(table.label)))
    details = make_details(table, encoding.scaler, "productive", 0.4)
    return Untrained(table, encoding, fold_encodings, features, model, details, rows)
