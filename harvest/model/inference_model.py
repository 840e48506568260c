"""The saved model: raw named columns in, probability out, built only from Keras layers and operations."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from numpy.typing import ArrayLike

from harvest.data.cells import MISSING, UNSEEN, placeholder
from harvest.data.encoding import PIECE_ROWS, Encoding, Features, FoldEncoding, encode, row_pieces, scale_numbers
from harvest.data.table import Table
from harvest.model.names import free_name, graph_name

ENCODED_CELLS = 1 << 25  # inputs encoded at a time: 128 MB
Tensors = dict[str, keras.KerasTensor]
Values = Sequence[tuple[keras.Variable, np.ndarray]]  # variables of a model, and values for them


class InferenceModel(NamedTuple):
    model: keras.Model  # raw columns [B, 1] by name -> probability [B, 1]
    networks: list[keras.Model]  # one for each fold: encoded inputs [B, E] -> logit [B, 1]
    calibration: list[layers.Dense]  # of each fold: from its logit to its probability
    first: keras.Model  # raw columns -> the probability of the first network alone
    offset: float  # class weights add it to the logits of all networks; the model subtracts it again

    def set_temperature(self, temperature: float) -> None:
        """Divide all logits, minus the offset, by a temperature (Guo et al., 2017)."""
        for layer in self.calibration:
            layer.kernel.assign(np.full((1, 1), 1 / temperature, np.float32))
            if layer.use_bias:
                layer.bias.assign([-self.offset / temperature])


def build_inference_model(
    table: Table,
    encoding: Encoding,
    fold_encodings: Sequence[FoldEncoding],
    make_network: Callable[[int], keras.Model],
    seed: int,
    offset: float = 0.0,
) -> InferenceModel:
    """A model with one network for each fold; the probabilities of several are averaged.

    make_network(E) returns a functional model from encoded inputs [B, E] to the logit [B, 1]. The model takes integer
    ids as int64 (MISSING if the cell is empty), text as strings (""), numbers as float64 (NaN), and whole numbers
    beyond 32 bits as int64. Networks and encodings are nested models, so that their names cannot clash with a column.
    Class weights add offset to the logits of the networks: the log of the ratio of the weights (King and Zeng, 2001).
    """
    keras.utils.set_random_seed(seed)  # of the initializers
    inputs = make_inputs(table, encoding)
    cells = [scale_inputs(inputs, table, encoding), look_up_inputs(inputs, table, encoding)]
    networks, outputs, probabilities = [], [], []
    for number, fold_encoding in enumerate(fold_encodings, 1):
        fold = f"fold_{number}" if len(fold_encodings) > 1 else ""
        encoder = make_encoder(cells, encoding, fold_encoding, free_name(f"{fold or 'row'}_encoding", inputs))
        encoded = encoder([part for part in cells if part is not None])
        made = make_network(encoding.width)
        networks.append(keras.Model(made.input, made.output, name=free_name(fold or "network", inputs)))
        # The sigmoid of (logit - offset) / temperature; the temperature is 1 until it is fitted.
        bias = {"use_bias": offset != 0, "bias_initializer": keras.initializers.Constant(-offset)}
        name = free_name(f"{fold}_probability" if fold else "probability", inputs)
        outputs.append(layers.Dense(1, "sigmoid", kernel_initializer="ones", dtype="float32", name=name, **bias))
        probabilities.append(outputs[-1](networks[-1](encoded)))
    if len(probabilities) == 1:
        model = first = keras.Model(inputs, probabilities[0], name="productivity")
    else:
        probability = layers.Average(name=free_name("probability", inputs))(probabilities)
        model = keras.Model(inputs, probability, name="productivity")
        first = keras.Model(inputs, probabilities[0], name="first_network")
    return InferenceModel(model, networks, outputs, first, offset)


def make_inputs(table: Table, encoding: Encoding) -> Tensors:
    """Raw columns [B, 1] by name: numbers, then categories."""
    types = {
        column.name: "int64" if whole else "float64"
        for column, whole in zip(table.of_kind("number"), encoding.scaler.whole, strict=True)
    }
    types |= {column.name: "int64" if column.integers else "string" for column in table.of_kind("category")}
    return {name: keras.Input((1,), name=name, dtype=kind) for name, kind in types.items()}


def scale_inputs(inputs: Tensors, table: Table, encoding: Encoding) -> keras.KerasTensor | None:
    """The numbers, scaled by scale_numbers(), [B, D] float32; None if there are none."""
    raw = [inputs[column.name] for column in table.of_kind("number")]
    if not raw:
        return None
    own = [keras.Input((1,), dtype=part.dtype) for part in raw]
    joined = layers.Concatenate(name="numbers", dtype="float64")([missing_to_nan(part) for part in own])
    scaler = keras.Model(own, scale_numbers(joined, encoding.scaler), name=free_name("scaling", inputs))
    return layers.Identity(name=free_name("scaled", inputs))(scaler(raw))  # where the LiteRT model starts


def missing_to_nan(cells: keras.KerasTensor) -> keras.KerasTensor:
    """Numbers as float64, NaN if an int64 is MISSING."""
    if cells.dtype != "int64":
        return cells
    sign = ops.where(ops.equal(cells, np.array(MISSING)), -1.0, 1.0)  # the root is NaN, which JSON cannot represent
    return ops.cast(cells, "float64") * ops.cast(ops.sqrt(sign), "float64")


def look_up_inputs(inputs: Tensors, table: Table, encoding: Encoding) -> keras.KerasTensor | None:
    """The indices of the categories, each from 0, [B, C] int64; None if there are none."""
    found = []
    for number, (column, codes) in enumerate(zip(table.of_kind("category"), encoding.known, strict=True)):
        integers = column.integers
        known = [column.vocabulary[code] for code in codes] or [placeholder(integers)]
        lookup = layers.IntegerLookup if integers else layers.StringLookup
        layer = lookup(
            vocabulary=np.array(known, np.int64) if integers else known,
            oov_token=UNSEEN if integers else " unseen ",
            name=free_name(graph_name(column.name, f"place_{number}"), inputs),
        )
        found.append(layer(inputs[column.name]))
    if not found:
        return None
    return layers.Concatenate(name=free_name("places", inputs), dtype="int64")(found)


def make_encoder(
    cells: list[keras.KerasTensor | None], encoding: Encoding, fold_encoding: FoldEncoding, name: str
) -> keras.Model:
    """encode() as a model, from scaled numbers [B, D] and indices [B, C], or one of them, to [B, E]."""
    scaled, indices = (None if part is None else keras.Input(part.shape[1:], dtype=part.dtype) for part in cells)
    counted = None if indices is None else ops.add(encoding.first_indices, indices)  # indices first: a bias to Keras
    encoded = encode(scaled, counted, encoding, fold_encoding)
    return keras.Model([part for part in (scaled, indices) if part is not None], encoded, name=name)


class Predictor:
    """Runs the networks of all folds, with their own or given weights, in one compiled function.

    Weights are pairs of variable and value, as returned by current_values(). Reading them from the variables takes
    2 ms, so repeated calls pass them as an argument.
    """

    def __init__(
        self, inference_model: InferenceModel, encoding: Encoding, fold_encodings: Sequence[FoldEncoding]
    ) -> None:
        self.networks, self.encoding, self.fold_encodings = inference_model.networks, encoding, fold_encodings
        self.offset = inference_model.offset
        network = self.networks[0]
        shown = [layer for layer in network.layers if layer.trainable_variables]
        self.layer_names = [layer.name for layer in shown]
        logit = layers.Identity()(network.output)  # Keras does not accept an output twice
        probe = keras.Model(network.input, [*(layer.output for layer in shown), logit])

        def outputs(vector: tf.Tensor, encoded: tf.Tensor) -> list[tf.Tensor]:
            variables = weights_of(network)
            parts = tf.split(vector, [math.prod(variable.shape) for variable in variables])
            values = [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables, strict=True)]
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                return probe(encoded, training=False)

        rows = tf.TensorSpec([None, encoding.width])
        self.outputs = tf.function(outputs, input_signature=[tf.TensorSpec([None]), rows], autograph=False)

    def logits(self, fold: int, encoded: ArrayLike, values: Values | None = None) -> np.ndarray:
        """The logits [B] float32 of the network of a fold, minus the offset, for encoded rows [B, E]."""
        return self.layer_outputs(fold, encoded, values)["logit"][:, 0] - np.float32(self.offset)

    def row_logits(self, fold: int, features: Features, rows: np.ndarray, values: Values | None = None) -> np.ndarray:
        """The logits [N] float64 of a fold's network for rows of the table."""
        pieces = row_pieces(rows, min(PIECE_ROWS, max(1, ENCODED_CELLS // self.encoding.width)))
        encoded = (encode(*features.take(piece), self.encoding, self.fold_encodings[fold]) for piece in pieces)
        return np.concatenate([self.logits(fold, inputs, values) for inputs in encoded]).astype(np.float64)

    def layer_outputs(self, fold: int, encoded: ArrayLike, values: Values | None = None) -> dict[str, np.ndarray]:
        """The outputs of each layer with weights of a fold's network, and the logit, by name, for encoded rows."""
        values = values or current_values(self.networks[fold])
        vector = np.concatenate([np.ravel(value) for _, value in values])  # one argument: 1 ms less
        outputs = self.outputs(vector, encoded)
        return {name: output.numpy() for name, output in zip([*self.layer_names, "logit"], outputs, strict=True)}


def weights_of(network: keras.Model) -> list[keras.Variable]:
    """The trained variables, then the moving statistics; not the states of random generators."""
    moving = [variable for variable in network.non_trainable_variables if variable.dtype.startswith("float")]
    return [*network.trainable_variables, *moving]


def current_values(network: keras.Model) -> Values:
    """Each weight of a network with its current value."""
    return [(variable, variable.numpy()) for variable in weights_of(network)]
