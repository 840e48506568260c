"""The network for inputs whose rows come last: layer by layer what the stock network is."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import activations, layers, ops
from small_training import network_of

from harvest.training import feature_major as module
from harvest.training.feature_major import Transposed, feature_major, mix_bits, quick_mish
from harvest.training.program import check_same_network, current_weights, first_state, run_network

GOLDEN, WIDTH = 0x9E3779B9, 6
SHARED = "a layer that is called twice"


def nested():
    inputs = keras.Input((10,))
    return keras.Model(inputs, layers.Dense(4, activation="relu")(layers.Dropout(0)(inputs)), name="nested")


def frozen(hidden, inputs):
    hidden = layers.Dense(10, trainable=False)(hidden)
    return layers.BatchNormalization(trainable=False)(hidden)


def three_axes(hidden, inputs):
    hidden = layers.Dropout(0)(layers.Dense(3, activation="tanh")(layers.Reshape((2, 5))(hidden)))
    hidden = layers.BatchNormalization()(layers.MultiHeadAttention(2, 4)(hidden, hidden))
    return layers.Flatten()(hidden)


def shared(hidden, inputs):
    dense = layers.Dense(10, activation="relu")
    return layers.Multiply()([dense(dense(hidden)), hidden])


def functions(hidden, inputs):
    centred = hidden - ops.mean(hidden, axis=-1, keepdims=True)
    return ops.where(hidden > 0, 2.0 * hidden, centred) / 3 + ops.softmax(hidden)


# How hidden values and inputs go on, and how many layers of it have no form for rows that come last.
EDITS = {
    "as it is": (lambda hidden, inputs: hidden, 0),
    "another activation": (lambda hidden, inputs: layers.Dense(5, activation="gelu")(hidden), 0),
    "an activation across units": (lambda hidden, inputs: layers.Dense(5, activation="softmax")(hidden), 1),
    "an activation layer": (lambda hidden, inputs: layers.Activation("silu")(hidden), 0),
    "a softmax layer": (lambda hidden, inputs: layers.Activation("softmax")(hidden), 1),
    "no bias": (lambda hidden, inputs: layers.Dense(5, use_bias=False)(hidden), 0),
    "a regularizer": (
        lambda hidden, inputs: layers.Dense(5, kernel_regularizer="l2")(hidden),
        0,
    ),
    "of activity": (lambda hidden, inputs: layers.Dense(5, activity_regularizer="l2")(hidden), 1),
    "of gamma": (lambda hidden, inputs: layers.BatchNormalization(gamma_regularizer="l2")(hidden), 0),
    "normalization without scale": (lambda hidden, inputs: layers.BatchNormalization(scale=False)(hidden), 1),
    "normalization of axis 1": (lambda hidden, inputs: layers.BatchNormalization(axis=1)(hidden), 0),
    "a layer of two inputs": (lambda hidden, inputs: layers.Concatenate()([hidden, inputs]), 0),
    "joined along axis 1": (lambda hidden, inputs: layers.Concatenate(axis=1)([hidden, inputs]), 1),
    "layer normalization": (lambda hidden, inputs: layers.LayerNormalization()(hidden), 1),
    "a layer without weights": (lambda hidden, inputs: layers.UnitNormalization()(hidden), 1),
    "a layer with weights of its own": (lambda hidden, inputs: layers.PReLU()(hidden), 1),
    "a layer that draws": (lambda hidden, inputs: layers.GaussianNoise(0)(hidden), 1),
    "functions": (functions, 8),
    "a function of two inputs": (lambda hidden, inputs: ops.concatenate([hidden, inputs], axis=-1), 1),
    "three axes": (three_axes, 5),
    "a nested model": (lambda hidden, inputs: nested()(hidden), 1),
    SHARED: (shared, 0),
    "frozen layers": (frozen, 0),
}


def edited(name):
    inputs = keras.Input((WIDTH,), name="inputs")
    hidden = layers.Dense(10, activation="mish", name="hidden_1")(inputs)
    hidden = layers.BatchNormalization(name="normalization_1")(hidden)
    hidden = EDITS[name][0](hidden, inputs)
    logit = layers.Add()([layers.Dense(1)(hidden), layers.Dense(1, use_bias=False)(inputs)])
    return keras.Model(inputs, logit)


def results(network, weights, inputs):
    """Logits, moving values, losses of layers and the gradient of a step of training."""
    state = first_state(weights, 0.0)
    with tf.GradientTape() as tape:
        tape.watch(state.trained)
        logits, moving, losses = run_network(network, state, inputs, True, 3)
        total = tf.reduce_mean(tf.square(logits)) + losses
    return logits, moving, losses, tape.gradient(total, state.trained)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", EDITS)
def test_it_is_the_stock_network(name):
    stock, generator = edited(name), np.random.default_rng(0)
    network = feature_major(stock)
    for variables in ("trainable_variables", "non_trainable_variables"):
        found, expected = getattr(network, variables), getattr(stock, variables)
        assert [(each.name, each.shape) for each in found] == [(each.name, each.shape) for each in expected]
    assert sum(isinstance(layer, Transposed) for layer in network.layers) == EDITS[name][1]
    check_same_network(network, stock, "float32")
    start = current_weights(stock)
    weights = start._replace(trained=generator.normal(0, 0.5, start.trained.shape).astype(np.float32))
    inputs = tf.constant(generator.normal(size=(WIDTH, 40)), tf.float32)
    found, expected = results(network, weights, inputs), results(stock, weights, inputs)
    assert (float(expected[2]) > 0) is (name in ("a regularizer", "of activity", "of gamma"))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_layers_are_the_quick_ones_and_keep_their_names():
    stock = network_of(WIDTH)
    network = feature_major(stock)
    assert [layer.name for layer in network.layers] == [layer.name for layer in stock.layers]
    kinds = {type(layer) for layer in network.layers if type(layer).__module__ == module.__name__}
    assert kinds == {module.Dense, module.BatchNormalization, module.Dropout}
    assert network.output_shape == (1, None)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_dtypes_are_kept(dtype):
    inputs = keras.Input((WIDTH,))
    hidden = layers.BatchNormalization(dtype=dtype)(layers.Dense(4, activation="mish", dtype=dtype)(inputs))
    stock = keras.Model(inputs, layers.Dense(1)(layers.Dropout(0.5, dtype=dtype)(hidden)))
    network = feature_major(stock)
    assert [layer.output.dtype for layer in network.layers] == [layer.output.dtype for layer in stock.layers]
    check_same_network(network, stock, "float32" if dtype == "float32" else "float16")


def test_the_quick_mish_is_that_of_keras():
    values = tf.constant(np.concatenate([np.linspace(-30, 30, 10_001), [-1e30, -200, 0, 200, 1e30]]), tf.float32)
    found = []
    for activation in (quick_mish, activations.mish):
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs = activation(values)
        found.append((outputs, tape.gradient(outputs, values)))
    for quick, plain in zip(*found, strict=True):
        np.testing.assert_allclose(quick, plain, rtol=1e-5, atol=1e-6)
    half = tf.cast(values, tf.float16)
    assert quick_mish(half).dtype == tf.float16
    np.testing.assert_allclose(quick_mish(half)[:-5], activations.mish(values)[:-5], rtol=0.01, atol=0.01)


def mixed(values):
    """mix_bits() in plain numbers of Python."""
    values = (values ^ (values >> 16)) * 0x21F0AAAD % 2**32
    values = (values ^ (values >> 15)) * 0x735A2D97 % 2**32
    return values ^ (values >> 15)


def dropout_mask(rate, seed, step, units, rows):
    """The factors [units, B] of a Dropout layer."""
    key = mixed((mixed(seed) + step) % 2**32)
    drawn = [mixed(place * GOLDEN % 2**32 ^ key) for place in range(units * rows)]
    return np.float32(np.array(drawn).reshape(units, rows) >= round(rate * 2**32)) / np.float32(1 - rate)


def drop(values, rate=0.2, seed=1, step=2, compiled=False, training=True):
    layer = module.Dropout(rate)
    layer.seed_generator.state.assign([seed, step])

    def call(values):
        with keras.StatelessScope():
            return layer(values, training=training)

    return tf.function(call, jit_compile=compiled, autograph=False)(values).numpy()


@pytest.mark.parametrize("compiled", [False, True])
def test_dropout_draws_the_same_everywhere(compiled):
    for rate, seed, step in ((0.2, 1, 2), (0.3, 2**31 - 1, 10**9)):
        expected = dropout_mask(rate, seed, step, 7, 33)
        np.testing.assert_allclose(drop(tf.ones([7, 33]), rate, seed, step, compiled), expected, rtol=1e-6)
    np.testing.assert_array_equal(drop(tf.ones([7, 33]), training=False), np.ones([7, 33]))


def test_dropout_keeps_the_mean_and_the_rate():
    for rate in (0.05, 0.2, 0.3, 0.9):
        kept = drop(tf.ones([20, 5_000]), rate)
        assert np.mean(kept == 0) == pytest.approx(rate, abs=0.005) and kept.mean() == pytest.approx(1, abs=0.05)


def test_masks_of_steps_layers_and_neighbours_have_nothing_in_common():
    shape, rows = [10, 1_000], 10_000
    masks = [drop(tf.ones(shape), 0.5, seed, step).ravel() > 0 for seed in (42, 43, 7_961) for step in range(4)]
    for place, mask in enumerate(masks):
        others = [*masks[:place], np.roll(mask, 1), np.roll(mask, 2), np.roll(mask, shape[1])]
        for other in others:
            assert abs(np.mean(mask == other) - 0.5) < 5 * 0.5 / np.sqrt(rows)


def test_every_bit_depends_on_every_bit():
    values = np.random.default_rng(0).integers(0, 2**32, 4_096, dtype=np.uint32)
    before = mix_bits(tf.constant(values)).numpy()
    for bit in range(32):
        changed = before ^ mix_bits(tf.constant(values ^ np.uint32(1 << bit))).numpy()
        flipped = [np.mean(changed >> np.uint32(other) & 1) for other in range(32)]
        assert min(flipped) > 0.42 and max(flipped) < 0.58, bit
