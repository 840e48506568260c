"""A Keras model as TensorFlow's SavedModel, and as LiteRT, which has neither lookup tables nor 64-bit arithmetic."""

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harvest.data.cells import MISSING
from harvest.data.encoding import ABSENT, FARTHEST
from harvest.model.archive import Details
from harvest.model.export.columns import column_scalers, find_lookups, known_values
from harvest.model.names import input_names


def save(path: Path, model: keras.Model, details: Details, network: keras.Model, predict: Callable) -> None:
    """Save a network as a SavedModel with the signature predict(), which takes the raw columns of a model."""
    names = input_names(details.columns())
    specs = {alias: tf.TensorSpec([None, 1], model.input[name].dtype, name=alias) for name, alias in names.items()}

    def serve(cells: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"probability": predict({name: cells[alias] for name, alias in names.items()})}

    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint("serving_default", serve, [specs])
    archive.write_out(str(path), verbose=False)


def write_saved_model(path: Path, model: keras.Model, details: Details) -> None:
    """Write the Keras model itself, including its lookup tables."""
    save(path, model, details, model, model)
    (path / "train_model_modern").touch()  # identifies the directory if the manifest is lost


def write_litert(path: Path, model: keras.Model, details: Details) -> None:
    """Write the part of the Keras model after lookup and scaling, preceded by replacements that LiteRT can run."""
    scalers, lookups = column_scalers(details), find_lookups(model)
    known = {name: known_values(layer) for name, layer in lookups.items()}
    starts = [layer.output for layer in lookups.values()]
    if scalers:
        starts.append(next(layer.output for layer in model.layers if type(layer) is keras.layers.Identity))
    network = keras.Model(starts, model.output)

    def predict(columns: dict[str, tf.Tensor]) -> tf.Tensor:
        values = [find_index(columns[name], values) for name, values in known.items()]
        numbers = [scale_without_doubles(columns[name], scaler) for name, scaler in scalers.items()]
        return network(values + ([tf.concat(numbers, 1)] if numbers else []))

    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, "saved"), model, details, network, predict)
        path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(Path(folder, "saved"))).convert())


def find_index(cells: tf.Tensor, known: Sequence[int | str]) -> tf.Tensor:
    """The output of a lookup layer for cells [B, 1]: 1 + the index among the known values, or 0."""
    # LiteRT's converter replaces a comparison with 0, 1, 2, ... by a one-hot encoding of the lower 32 bits, in which
    # -2**63 is 0. The first value again, with index 0, prevents that.
    same = tf.equal(cells, tf.constant([*known, known[0]], cells.dtype)[None])
    index = tf.reduce_sum(tf.cast(same, tf.int32) * [*range(1, len(known) + 1), 0], 1, keepdims=True)
    return tf.cast(index, tf.int64)


def scale_without_doubles(cells: tf.Tensor, scaler: tuple[float, float, bool, bool]) -> tf.Tensor:
    """scale_numbers() of one column [B, 1], to float32, for LiteRT, which can only copy doubles."""
    offset, gain, logarithmic, whole = scaler
    if whole:
        missing, below = tf.equal(cells, MISSING), math.floor(offset)
        scaled = (tf.cast(cells - below, tf.float32) - (offset - below)) * gain
    else:
        missing, bits = tf.math.is_nan(tf.cast(cells, tf.float32)), tf.bitcast(cells, tf.int64)
        scaled = scaled_distance(bits, offset, gain, logarithmic)
    if logarithmic:  # LiteRT's log1p loses digits near 0, where the first terms of its series are exact
        size = tf.abs(scaled)
        near = size * (1 - size * (1 / 2 - size * (1 / 3 - size / 4)))
        far = logarithm_of_bits(bits) + math.log(gain)
        size = tf.where(size < 0.03, near, tf.where(size < 1e20, tf.math.log1p(size), far))
        scaled = tf.sign(scaled) * size
    scaled = tf.minimum(tf.maximum(scaled, -FARTHEST), FARTHEST)
    return tf.where(missing, ABSENT, scaled)


def logarithm_of_bits(bits: tf.Tensor) -> tf.Tensor:
    """log |x| of doubles given as their bits, which may be out of the range of 32-bit floats."""
    size = tf.cast(tf.where(bits < 0, bits - MISSING, bits), tf.float32) * 2.0**-52 - 1023
    exponent = tf.floor(size)
    return exponent * math.log(2) + tf.math.log1p(size - exponent)


def scaled_distance(bits: tf.Tensor, offset: float, gain: float, logarithmic: bool) -> tf.Tensor:
    """(x - offset) * gain in 32 bits, of doubles x [B, 1] given as their bits.

    Read as an integer, the bits of a double count the doubles from 0 up, which are evenly spaced between two powers of
    two. LiteRT can subtract integers exactly, so the difference of the counts gives the distance from the offset.
    """

    def count_doubles(value: Any) -> int:
        bits = int(np.float64(value).view(np.int64))
        return bits if bits >= 0 else MISSING - bits

    lowest = max(-1022, math.floor(math.log2(1e-8 / gain)))
    highest = math.ceil(math.log2(abs(offset) + (1e21 if logarithmic else 2 * FARTHEST) / gain))
    powers = np.arange(lowest, max(min(128, highest), lowest + 1))
    low, high = (np.array([count_doubles(2.0 ** int(power)) for power in powers + step]) for step in (0, 1))
    low, high = np.concatenate([low, -high]), np.concatenate([high, -low])
    step = np.tile(2.0 ** (powers - 52.0) * gain, 2).astype(np.float32)
    number = tf.where(bits < 0, MISSING - bits, bits)
    doubles = tf.minimum(tf.maximum(number, low), high) - np.clip(count_doubles(offset), low, high)
    return tf.reduce_sum(tf.cast(doubles, tf.float32) * step, 1, keepdims=True)
