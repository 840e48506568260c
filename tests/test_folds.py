"""K networks at once: equal to each alone, heard by callbacks; and where they train quickest."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import small_training

from harvest.cli import StopRequest
from harvest.data.splits import Split
from harvest.training import folds as module
from harvest.training.feature_major import feature_major
from harvest.training.folds import (
    Fold,
    end_reason,
    epoch_logs,
    epoch_order,
    features_on,
    mean_history,
    start_fold,
    step_seconds,
    trace_program,
    try_devices,
)
from harvest.training.program import COUNTS, HISTORY, build_program, first_state
from harvest.training.tensorflow_setup import Device


@pytest.fixture(scope="module")
def small():
    return small_training()


@pytest.mark.parametrize("xla", [False, True])
def test_together_as_alone(xla):
    made = small_training(rows=117, folds=5)
    settings = {"rate": 0.02, "xla": xla, "patience": 6, "epochs_per_call": 9}
    together = made.train(40, **settings)
    assert len({len(fold.history) for fold in together}) > 1 and len({fold.best_loss for fold in together}) == 5
    for fold in together:
        (alone,) = made.train(40, folds=[fold], **settings)
        assert alone.history == fold.history and alone.best_epoch == fold.best_epoch and alone.reason == fold.reason
        np.testing.assert_array_equal(alone.best.trained, fold.best.trained)


def test_every_training_row_is_drawn_in_every_epoch():
    made = small_training(rows=117)
    plan, fold = made.plan, made.folds[0]
    for epoch in range(3):
        order = epoch_order(made.config, plan, fold, epoch)
        assert order.dtype == np.int32 and len(order) == plan.rows and set(order) == set(fold.split.train)
        assert len(order) - len(fold.split.train) < plan.batch_size * plan.segments
    first, second = (epoch_order(made.config, plan, fold, epoch) for epoch in range(2))
    assert (first != second).any()
    fold = Fold(fold.number, fold.split, fold.encoding, fold.linear, own=Split(*(part[::2] for part in fold.split)))
    assert set(epoch_order(made.config, plan, fold, 0)) == set(fold.split.train[::2])
    start_fold(fold, made.config, plan)
    rows = fold.validation.numpy()
    assert set(rows[rows >= 0]) == set(fold.split.val[::2]) and len(rows) % plan.validation_segment == 0


def test_logs_of_an_epoch():
    row = np.zeros(len(HISTORY), np.float32)
    row[: len(COUNTS)] = [20, 3, 4, 6]  # of 40 rows: 3 of 4 predicted are right, 3 of 6 positive are found
    row[len(COUNTS) :] = [0.25, 0, 0, 2, 0.125]  # of 8 rows: the loss is a mean, none is predicted
    assert epoch_logs(row, 40, 8) == {
        "loss": 0.5,
        "accuracy": 0.9,
        "precision": 0.75,
        "recall": 0.5,
        "val_loss": 0.25,
        "val_accuracy": 0.75,
        "val_precision": 0.0,
        "val_recall": 0.0,
        "learning_rate": 0.125,
    }


def test_the_history_is_a_mean_over_folds():
    names = ("loss", "val_loss", "accuracy", "val_accuracy", "learning_rate")
    folds = [SimpleNamespace(history=[dict.fromkeys(names, value) for value in own]) for own in ([1.0, 2.0], [3.0])]
    assert mean_history(folds) == {
        **{name: [2.0, 2.5] for name in names},
        "val_loss_lowest": [1.0, 2.0],
        "val_loss_highest": [3.0, 3.0],
    }
    assert mean_history(folds[:1]) == {name: [1.0, 2.0] for name in names}


def test_callbacks_hear_of_every_epoch_and_may_stop_training(small, tmp_path):
    heard = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            heard.append(epoch)

        def on_epoch_end(self, epoch, logs=None):
            heard.append((epoch, logs["val_loss"]))
            self.model.stop_training = epoch == 3

    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    log.on_train_begin()
    (fold,) = small.train(20, [Watch(), log], epochs_per_call=7)
    log.on_train_end()
    losses = [logs["val_loss"] for logs in fold.history]
    assert heard == [part for epoch in range(4) for part in (epoch, (epoch, losses[epoch]))]
    assert fold.reason == "stopped by a callback"
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5


def test_keras_early_stopping_stops_too(small):
    stopping = keras.callbacks.EarlyStopping(patience=2, baseline=0.0)
    stopping.on_train_begin()
    (fold,) = small.train(20, [stopping], epochs_per_call=7)
    assert len(fold.history) in (2, 3) and fold.reason == "stopped by a callback"


def test_a_signal_stops_between_calls(small):
    stop = StopRequest()

    def ask(epoch, logs):
        stop.signal = 15

    (fold,) = small.train(20, [keras.callbacks.LambdaCallback(on_epoch_end=ask)], stop=stop, epochs_per_call=7)
    assert len(fold.history) == 7 and not fold.reason
    assert int(fold.state.epoch) == 7


def test_the_limit_of_epochs_ends_training(small):
    (fold,) = small.train(5, epochs_per_call=7)
    assert len(fold.history) == 5 and fold.reason == "reached the maximum of 5 epochs"
    assert end_reason(small.config, fold) == ""


def test_a_group_calls_the_folds():
    made, called = small_training(folds=4), []

    def call_folds(pool, call, folds):
        called.append([fold.number for fold in folds])
        return [call(fold) for fold in folds]

    together = made.train(6, group=SimpleNamespace(call_folds=call_folds), epochs_per_call=3)
    assert called == [[0, 1, 2, 3]] * 2
    for fold, alone in zip(together, made.train(6, epochs_per_call=3), strict=True):
        assert fold.history == alone.history


def test_a_program_is_compiled_by_a_call_that_runs_nothing(small):
    program = build_program(small.network, small.config, small.plan, small.encoding)
    fold = small.folds[0]
    start_fold(fold, small.config, small.plan)
    features = features_on(small.config.device, small.features)
    compile_program = trace_program(small.network, small.config, small.plan, program, features, fold)
    assert program.experimental_get_tracing_count() == 1
    compile_program()
    fold.state = first_state(small.weights, 0.001)
    assert program.experimental_get_tracing_count() == 1 and int(fold.state.epoch) == 0


FIRST, SECOND = Device("cpu", "first"), Device("gpu", "second", (7, 0))


def tried(made, devices, monkeypatch, seconds):
    """try_devices() with given times or errors in place of trials."""

    def trial(network, config, plan, program, features, folds):
        if isinstance(seconds[config.device], Exception):
            raise seconds[config.device]
        return seconds[config.device]

    monkeypatch.setattr(module, "step_seconds", trial)
    networks = {}

    def make_network(config):
        return networks.setdefault(config.device, (config.hidden_dtype, config.device))

    monkeypatch.setattr(module, "build_program", lambda network, config, plan, encoding: f"of {network[1].name}")
    parts = made.plan, made.encoding, made.features, made.folds
    return try_devices(devices, made.config, None, make_network, *parts)


def test_the_quicker_device_is_taken(small, monkeypatch):
    config, network, program = tried(small, [FIRST, SECOND], monkeypatch, {FIRST: 2e-4, SECOND: 1e-4})
    assert (config.device, config.precision, program) == (SECOND, "float16", "of second")
    assert network == ("mixed_float16", SECOND)
    assert config.reasons["device"] == "a step takes 100 us; 200 us on first"
    config, network, program = tried(small, [FIRST, SECOND], monkeypatch, {FIRST: 1e-3, SECOND: 1.5})
    assert (config.device, config.precision, program) == (FIRST, "float32", "of first")
    assert config.reasons["device"] == "a step takes 1,000 us; 1,500,000 us on second"


def test_a_device_that_fails_is_left_out(small, monkeypatch):
    error = tf.errors.InternalError(None, None, "libdevice not found\nmore")
    config, _, _ = tried(small, [FIRST, SECOND], monkeypatch, {FIRST: 1e-3, SECOND: error})
    assert config.device == FIRST
    assert config.reasons["device"] == "a step takes 1,000 us; second failed: libdevice not found"
    with pytest.raises(tf.errors.InternalError):
        tried(small, [FIRST, SECOND], monkeypatch, {FIRST: error, SECOND: 1e-3})


def test_a_trial_leaves_the_folds_as_they_are(small, monkeypatch):
    monkeypatch.setattr(module, "MEASURED_SECONDS", 0.01)
    network = feature_major(small.stock)
    program = build_program(network, small.config, small.plan, small.encoding)
    (fold,) = folds = [Fold(0, small.folds[0].split, small.folds[0].encoding, np.zeros(1))]
    start_fold(fold, small.config, small.plan)
    seconds = step_seconds(network, small.config, small.plan, program, small.features, folds)
    assert 1e-7 < seconds < 1 and fold.history == [] and fold.state is None and not fold.reason
