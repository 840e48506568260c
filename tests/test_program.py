"""The training program against plain, slow references: the same batches, dropout, losses, weights and decisions."""

from dataclasses import replace
from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import network_of, small_training, tensors
from test_feature_major import dropout_mask

from harvest.data.encoding import encode
from harvest.training import config as config_module
from harvest.training import feature_major as feature_major_module
from harvest.training.config import WEIGHT_DECAY
from harvest.training.feature_major import feature_major
from harvest.training.folds import epoch_order
from harvest.training.program import (
    MINIMUM_LEARNING_RATE,
    Weights,
    assign_weights,
    check_same_network,
    current_weights,
    end_epoch,
    first_state,
    guard_overflow,
    named_weights,
    read_rows,
    row_losses,
    run_network,
    update,
)

UNITS = {"lightweight": ((8,), 0.2), "standard": ((10, 10), 0.2), "deep": ((16, 12, 8), 0.3)}


@pytest.fixture(scope="module")
def small():
    return small_training()


def log_losses(labels, logits):
    """The log-loss of each row, in 64 bits."""
    logits = np.asarray(logits, float)
    return np.logaddexp(0, logits) - labels * logits


def encoded(made, fold, rows):
    """The inputs of rows as the stock network takes them: [B, E]."""
    return encode(*made.features.take(rows), made.encoding, fold.encoding)


def reference(made, epochs, units, rate, learning_rate=0.001):
    """Train the stock layers eagerly with keras.optimizers.AdamW on the same rows and the same dropout."""
    network, fold, plan, features = made.stock, made.folds[0], made.plan, made.features
    assign_weights(network, made.weights)
    layers = {layer.name: layer for layer in network.layers}
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(
        var_list=[variable for variable in network.trainable_variables if len(variable.shape) < 2]
    )
    generators = [place for place, one in enumerate(network.non_trainable_variables) if "seed" in one.path]
    number, logs = 0, []
    for epoch in range(epochs):
        order, losses, right = epoch_order(made.config, plan, fold, epoch), [], 0
        for rows in np.split(order, len(order) // plan.batch_size):
            inputs, labels = encoded(made, fold, rows), features.labels[rows]
            with tf.GradientTape() as tape:
                hidden = inputs
                for layer, (count, generator) in enumerate(zip(units, generators, strict=True), 1):
                    mask = dropout_mask(rate, made.config.seed + generator, number, count, plan.batch_size)
                    hidden = layers[f"hidden_{layer}"](hidden)
                    hidden = layers[f"normalization_{layer}"](hidden, training=True) * mask.T
                logits = (layers["from_hidden"](hidden) + layers["from_inputs"](inputs))[:, 0]
                loss = tf.reduce_mean(keras.losses.binary_crossentropy(labels[:, None], logits[:, None], True))
            optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
            losses.append(float(loss))
            right += int(np.sum((logits.numpy() > 0) == (labels > 0.5)))
            number += 1
        val = fold.split.val
        val_loss = log_losses(features.labels[val], network(encoded(made, fold, val))[:, 0]).mean()
        logs.append((np.mean(losses), right / len(order), val_loss))
    return logs, current_weights(network)


@pytest.mark.parametrize("architecture", UNITS)
@pytest.mark.parametrize("xla", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_trains_as_eager_keras_does(architecture, xla):
    units, rate = UNITS[architecture]
    made = small_training(units=units, dropout=rate)
    (fold,) = made.train(3, xla=xla)
    logs, weights = reference(made, 3, units, rate)
    assert abs(weights.trained - made.weights.trained).max() > 0.01
    np.testing.assert_allclose(fold.now.trained, weights.trained, atol=2e-4)
    np.testing.assert_allclose(fold.now.moving, weights.moving, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose([entry["loss"] for entry in fold.history], [entry[0] for entry in logs], rtol=1e-4)
    np.testing.assert_allclose([entry["accuracy"] for entry in fold.history], [entry[1] for entry in logs], atol=0.01)
    np.testing.assert_allclose([entry["val_loss"] for entry in fold.history], [entry[2] for entry in logs], rtol=1e-4)


@pytest.mark.parametrize("xla", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_stock_network_trains_alike(xla):
    made = small_training(dropout=0.0)
    (quick,), (slow,) = made.train(6, xla=xla), made.train(6, xla=xla, network=made.stock)
    for one, other in zip(quick.history, slow.history, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    np.testing.assert_allclose(quick.now.trained, slow.now.trained, atol=2e-4)


@pytest.mark.slow
def test_the_stock_network_with_dropout_learns(small):
    (fold,) = small.train(20, xla=True, network=small.stock, rate=0.006)
    assert fold.history[-1]["loss"] < 0.8 * fold.history[0]["loss"] and fold.best_loss < fold.history[0]["val_loss"]


def test_rows_are_encoded_alike_last_or_first(small):
    fold, rows = small.folds[0], np.arange(50, dtype=np.int32)
    last, labels = read_rows(small.encoding, fold.encoding, small.features, tf.constant(rows))
    np.testing.assert_array_equal(labels, small.features.labels[rows])
    np.testing.assert_allclose(tf.transpose(last), encoded(small, fold, rows), atol=1e-5)
    np.testing.assert_array_equal(last, encode(*tensors(small.features, rows), small.encoding, fold.encoding, axis=0))


@pytest.mark.parametrize("xla", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_bits_in_calls_of_any_length(small, xla):
    (first,), (second,) = small.train(8, xla=xla), small.train(8, xla=xla)
    np.testing.assert_array_equal(first.now.trained, second.now.trained)
    assert first.history == second.history
    (single,) = small.train(8, xla=xla, epochs_per_call=1)
    if xla:  # another program: compiled to other orders of addition
        np.testing.assert_allclose(first.now.trained, single.now.trained, atol=1e-5)
    else:
        np.testing.assert_array_equal(first.now.trained, single.now.trained)
    (other,) = small.train(8, xla=xla, seed=43)
    assert (other.now.trained != first.now.trained).any()


def test_several_segments_are_one(small, monkeypatch):
    (whole,) = small.train(2, segments=1, steps=12)
    monkeypatch.setattr(config_module, "VALIDATION_SEGMENT", 8)
    (parts,) = small.train(2, segments=4, steps=3)
    np.testing.assert_allclose(whole.now.trained, parts.now.trained, atol=1e-5)
    np.testing.assert_allclose(whole.history[-1]["val_loss"], parts.history[-1]["val_loss"], rtol=1e-5)


def test_the_best_weights_and_the_stop(small):
    (fold,) = small.train(400, rate=0.05, patience=5, plateau=2)
    losses = [entry["val_loss"] for entry in fold.history]
    assert fold.best_epoch == int(np.argmin(losses)) + 1 and len(losses) == fold.best_epoch + 5
    assert fold.reason == "no better validation loss for 5 epochs"
    assert fold.history[-1]["learning_rate"] < 0.05
    assign_weights(small.stock, fold.best)
    val = fold.split.val
    found = log_losses(small.features.labels[val], small.stock(encoded(small, fold, val))[:, 0]).mean()
    assert found == pytest.approx(min(losses), rel=1e-4)
    (free,) = small.train(30, rate=0.05, patience=0, plateau=0)
    assert len(free.history) == 30 and free.history[-1]["learning_rate"] == pytest.approx(0.05)


@pytest.mark.parametrize("xla", [False, True])
def test_a_loss_that_is_not_a_number_ends_training(small, xla):
    (fold,) = small.train(50, rate=1e30, xla=xla)
    assert fold.failed and "not a number" in fold.reason and len(fold.history) < 50


SIXTEEN_BITS = [
    (False, "bfloat16"),
    pytest.param(True, "float16", marks=pytest.mark.slow),
    pytest.param(False, "float16", marks=pytest.mark.slow),
    pytest.param(True, "bfloat16", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("xla", "precision"), SIXTEEN_BITS)
def test_sixteen_bits_learn(small, precision, xla):
    (fold,), (wide,) = small_training(precision=precision).train(20, xla=xla), small.train(20)
    assert fold.now.trained.dtype == np.float32
    assert fold.history[-1]["val_loss"] == pytest.approx(wide.history[-1]["val_loss"], abs=0.05)
    assert (fold.now.trained != wide.now.trained).any()


def state_of(vector):
    return first_state(Weights(vector, np.zeros(2, np.float32)), 0.01)


@pytest.mark.parametrize("decay", [WEIGHT_DECAY, 0.0])
def test_an_update_is_that_of_keras_optimizers(decay):
    generator = np.random.default_rng(0)
    start = generator.normal(size=50).astype(np.float32)
    variable = keras.Variable(start)
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=decay) if decay else keras.optimizers.Adam(0.01)
    state = state_of(start)
    for step in range(20):
        gradient = generator.normal(size=50).astype(np.float32) * 10.0 ** (step % 5 - 2)
        optimizer.apply([tf.constant(gradient)], [variable])
        state = update(state, tf.constant(gradient), decay)._replace(step=tf.constant(step + 1))
        np.testing.assert_allclose(state.trained, variable.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_decisions_are_those_of_keras_callbacks(small, seed):
    generator = np.random.default_rng(seed)
    losses = (1 / (1 + np.arange(60) / 5) + generator.normal(0, 0.1, 60)).astype(np.float32)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    stopping = keras.callbacks.EarlyStopping(patience=9)
    reducing = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=3, min_lr=MINIMUM_LEARNING_RATE)
    callbacks = keras.callbacks.CallbackList([stopping, reducing], model=model)
    callbacks.on_train_begin()
    model.stop_training = False
    config = replace(small.config, patience=9, plateau=3)
    state = state_of(np.zeros(4, np.float32))
    for epoch, loss in enumerate(losses):
        callbacks.on_epoch_end(epoch, {"val_loss": float(loss)})
        state = end_epoch(config, state, tf.constant(loss))
        assert float(state.learning_rate) == pytest.approx(float(model.optimizer.learning_rate), rel=1e-6)
        assert model.stop_training == (int(state.wait) >= 9)
        if model.stop_training:
            break
    assert float(state.learning_rate) < 0.01


def test_an_overflow_skips_the_step_and_halves_the_scale():
    before = state_of(np.zeros(4, np.float32))
    after = before._replace(trained=before.trained + 1, step=before.step + 1)
    kept = guard_overflow(before, after, tf.constant(False))
    assert float(kept.loss_scale) == 2**14 and int(kept.step) == 0 and float(kept.trained[0]) == 0
    taken = guard_overflow(before._replace(good_steps=tf.constant(1_999)), after, tf.constant(True))
    assert float(taken.loss_scale) == 2**16 and int(taken.step) == 1 and float(taken.trained[0]) == 1


def test_losses_are_weighted_by_class(small):
    logits, labels = np.float32([-2, 0, 3, 1]), np.float32([0, 1, 1, 0])
    for weights in ((1.0, 1.0), (0.5, 2.0)):
        found = row_losses(replace(small.config, class_weights=weights), tf.constant(logits), tf.constant(labels))
        np.testing.assert_allclose(found, log_losses(labels, logits) * np.take(weights, labels.astype(int)), rtol=1e-5)


def test_weights_come_back_as_they_were_assigned(small):
    network = network_of(small.encoding.width)
    weights = Weights(*(np.arange(len(part), dtype=np.float32) for part in current_weights(network)))
    assign_weights(network, weights)
    for one, other in zip(current_weights(network), weights, strict=True):
        np.testing.assert_array_equal(one, other)
    names = [variable.path for variable, _ in named_weights(network, weights)]
    assert names[:2] == ["hidden_1/kernel", "hidden_1/bias"] and names[-1] == "normalization_2/moving_variance"
    assert np.concatenate([value.ravel() for _, value in named_weights(network, weights)[:8]]).tolist() == list(
        range(sum(value.size for _, value in named_weights(network, weights)[:8]))
    )


def test_a_generator_gets_its_state_from_the_step(small):
    inputs, state = tf.random.normal([small.encoding.width, 8], seed=1), first_state(small.weights, 0.0)
    logits = [
        run_network(small.network, state._replace(step=tf.constant(step)), inputs, True, seed)[0].numpy()
        for seed, step in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert all((one != other).any() for one, other in pairwise(logits[1:]))


def test_a_constraint_is_refused():
    inputs = keras.Input((4,))
    stock = keras.Model(inputs, keras.layers.Dense(1, kernel_constraint="non_neg", name="last")(inputs))
    with pytest.raises(ValueError, match="build_network: last/kernel has a constraint"):
        check_same_network(feature_major(stock), stock, "float32")


def test_a_network_that_is_another_is_refused(monkeypatch):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, activation="softmax")(inputs)
    stock = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    check_same_network(feature_major(stock), stock, "float32")
    monkeypatch.setattr(feature_major_module, "is_elementwise", lambda activation: True)
    with pytest.raises(ValueError, match="trained network differs from the saved one"):
        check_same_network(feature_major(stock), stock, "float32")
