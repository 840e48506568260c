"""Trainings as the command runs them: folds, devices, callbacks of Keras, and what becomes of the trained networks."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, environment_of_a_user, metrics_of, predictions_of, weights_of, write_rows
from small_training import network_of, small_training
from table_files import write

from harvest.cli import StopRequest
from harvest.data.encoding import encode, raw_inputs
from harvest.model.inference_model import Predictor, build_inference_model
from harvest.results.linear import fit_linear, linear_logits
from harvest.run_directory import METRICS_FILE, MODEL_FILE, PREDICTIONS_FILE
from harvest.training.callbacks import make_callback_list
from harvest.training.folds import features_on, start_fold, train_folds
from harvest.training.program import assign_weights, build_program, current_weights, first_state
from train_model_modern import MIXED_PENALTY, postprocess, start_from_linear_model


def test_a_run_with_folds(tf, train, capsys):
    folder = train("--folds", "5", "--epochs", "8", "--checkpoints", "--no-quiet", rows=90)
    printed = capsys.readouterr().out
    assert "5 networks, each with" in printed and "each by a network that was not trained on it" in printed
    metrics = metrics_of(folder)
    assert metrics["rows"]["test"] == 90 and np.sum(metrics["test"]["confusion"]) == 90
    for path in (folder / MODEL_FILE, *(folder / "checkpoints").glob("*.keras")):
        assert keras.models.load_model(path).output_shape == (None, 1)


def test_more_folds_than_the_rarer_class_has_rows(train, tmp_path, capsys):
    lines = [f"{row % 3},{row * 37 % 101},{row * 17 % 89},{row % 7},{int(row % 8 == 0)}" for row in range(48)]
    train("--folds", "20", "--epochs", "2", "--no-quiet", csv=write(tmp_path / "a.csv", lines))
    assert "Folds      6 (lowered from 20: the rarer class has 6 rows" in capsys.readouterr().out


def test_windows_that_slide_over_time(train, tmp_path, capsys):
    order = np.random.default_rng(0).permutation(160)
    lines = [f"{1_700_000_000 + index},{index % 3},{index * 37 % 101},{index // 2 % 2}" for index in order]
    path = write(tmp_path / "a.csv", lines, header="timestamp,app,idle,productive")
    folder = train("--split", "time", "--folds", "3", "--epochs", "2", "--no-quiet", csv=path)
    printed = capsys.readouterr().out
    assert "each network has 96 rows for training, 16 for validation and early stopping, 16 for testing" in printed
    assert "by time, sorted by timestamp, in 3 sliding windows" in printed
    found = sorted((order[int(row["line"]) - 2], int(row["fold"])) for row in predictions_of(folder))
    assert found == [(index, 1 + (index - 112) // 16) for index in range(112, 160)]
    assert metrics_of(folder)["rows"]["test"] == 48


def test_folds_that_are_refused(train, sample, tmp_path):
    for flags in (["2"], ["0"], ["10", "--split", "time"], ["9" * 15, "--split", "time"]):
        train("--folds", *flags, csv=sample(60), code=2)
    assert not (tmp_path / "model").exists()


# ---------------------------------------------------------------------------------------------------------------------
# The saved model


@pytest.fixture(scope="module")
def made():
    """A small training of one network, its inference model, and what runs its networks."""
    small = small_training(rows=150)
    return small, *inference_model(small)


def inference_model(small):
    encodings = [fold.encoding for fold in small.folds]
    model = build_inference_model(
        small.table, small.encoding, encodings, network_of, seed=1, offset=small.config.offset
    )
    return model, Predictor(model, small.encoding, encodings)


def test_a_network_starts_as_the_logistic_regression(made):
    small, model, _ = made
    (fold,), network = small.folds, model.networks[0]
    linear = fit_linear(small.features, fold.split.train, small.encoding, fold.encoding)
    network.get_layer("from_hidden").kernel.assign(np.zeros((10, 1)))
    start_from_linear_model(network, linear)
    inputs = encode(*small.features.take(fold.split.test), small.encoding, fold.encoding)
    expected = linear_logits(small.features, fold.split.test, small.encoding, fold.encoding, linear)
    np.testing.assert_allclose(network(inputs)[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("weighting", ["none", "balanced"])
def test_one_network_answers_together_with_a_logistic_regression(weighting):
    small = small_training(rows=150, class_weight=weighting)
    model, predictor = inference_model(small)
    (fold,) = small.train(5, rate=0.01)
    test, network = fold.split.test, model.networks[0]
    temperature, share = postprocess([network], predictor, [fold], small.features, small.config)
    assert 0 < share.value < 1 and temperature > 0
    known = np.concatenate(fold.split[:2])
    zero, one = small.config.class_weights
    assert (weighting == "none") == (zero == one)
    linear = fit_linear(small.features, known, small.encoding, fold.encoding, MIXED_PENALTY)
    linear[-1] += small.config.offset
    straight = linear_logits(small.features, test, small.encoding, fold.encoding, linear) - small.config.offset
    both = predictor.row_logits(0, small.features, test)
    assign_weights(network, fold.best)
    alone = predictor.row_logits(0, small.features, test)
    weights = np.linalg.lstsq(np.stack([alone, straight], axis=1), both, rcond=None)[0]
    np.testing.assert_allclose(weights, [share.value, 1 - share.value], atol=0.06)  # the share is shown rounded
    np.testing.assert_allclose(both, weights[0] * alone + weights[1] * straight, atol=1e-3)


def test_several_networks_are_kept_as_they_were_trained():
    small = small_training(rows=150, folds=4)
    model, predictor = inference_model(small)
    folds = small.train(2)
    temperature, share = postprocess(model.networks, predictor, folds, small.features, small.config)
    assert share is None and temperature > 0
    for network, fold in zip(model.networks, folds, strict=True):
        for found, expected in zip(current_weights(network), fold.best, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_any_callback_of_keras_sees_the_model_of_the_epoch(made, tmp_path):
    small, model, _ = made
    path, seen = tmp_path / "best.keras", []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernel = self.model.layers[-2].get_layer("hidden_1").kernel.numpy()
            seen.append((epoch, logs["val_loss"], kernel))
            self.model.stop_training = epoch == 3

    own = [Watch(), keras.callbacks.ModelCheckpoint(path, monitor="val_loss", save_best_only=True)]
    folds = [replace(fold) for fold in small.folds]
    listening = make_callback_list(own, model.model, model.networks, folds, epochs=20, steps=small.plan.steps)
    (fold,) = train_heard(small, folds, listening)
    assert [entry[0] for entry in seen] == [0, 1, 2, 3] and len(fold.history) == 4
    assert [entry[1] for entry in seen] == [logs["val_loss"] for logs in fold.history]
    assert fold.reason == "stopped by a callback"
    np.testing.assert_array_equal(seen[-1][2].ravel(), fold.now.trained[: seen[-1][2].size])
    raw = raw_inputs(small.table, small.encoding.scaler, fold.split.val)
    found = keras.models.load_model(path)({name: tf.constant(values) for name, values in raw.items()}).numpy()[:, 0]
    labels = small.table.label[fold.split.val]
    assert -np.log(np.where(labels > 0.5, found, 1 - found)).mean() == pytest.approx(fold.best_loss, rel=1e-4)


def train_heard(small, folds, listening):
    """Train these folds, to which the callbacks listen already."""
    config, plan = replace(small.config, epochs=20), small.plan._replace(epochs_per_call=7)
    for fold in folds:
        start_fold(fold, config, plan)
        fold.state = first_state(small.weights, 0.001)
    program = build_program(small.network, config, plan, small.encoding)
    listening.on_train_begin()
    train_folds(config, plan, program, features_on(config.device, small.features), folds, listening, StopRequest())
    listening.on_train_end()
    return folds


# ---------------------------------------------------------------------------------------------------------------------
# Devices: two logical CPU devices, one of them slowed, in place of a CPU and a GPU

PROGRAM = """
import json, os, signal, sys, time
sys.path.insert(0, {root!r})
import train_model_modern
from harvest.training import tensorflow_setup

tensorflow_setup.prepare_environment(True, True)
tf = tensorflow_setup.import_tensorflow()
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from harvest.training import config as config_module, folds, program, resume

first = tensorflow_setup.Device("cpu", "first")
second = tensorflow_setup.Device("gpu", "second", (7, 0), tf_name="CPU:1")
build_program, offer, found, slow, places = program.build_program, resume.ResumeState.offer, [], "", []


def slowed(network, config, plan, encoding):
    program = build_program(network, config, plan, encoding)

    def call(*arguments):
        place = config.device.tf_name
        if place == slow:
            time.sleep(0.1)
        state, *records = program(*arguments)
        assert {{value.device[-5:] for value in (*state[:4], *records)}} == {{place}}, state.trained.device
        assert arguments[0].features.numbers.device.endswith(place)
        if slow == "broken" and place == "CPU:1":
            raise tf.errors.InternalError(None, None, "libdevice not found\\nmore")
        places.append(place)
        return state, *records

    call.get_concrete_function = program.get_concrete_function
    return call


def train(folder, which, slower="", *flags):
    global found, slow
    found, slow, places[:] = which, slower, []
    short = [] if "--resume" in flags else ["--folds", "3", "--epochs", "30", "--no-tensorboard", "--no-checkpoints"]
    model_dir = os.path.join(sys.argv[2], folder)
    code = train_model_modern.main([sys.argv[1], "--model-dir", model_dir, *short, *flags])
    assert code in (0, 143), code
    return places[-1]


program.build_program = folds.build_program = slowed
config_module.find_devices = lambda cpu_only: found
config_module.TRIAL_SECONDS, folds.MEASURED_SECONDS = 0.0, 0.01
used = [
    train("first", [first]),
    train("slow second", [first, second], "CPU:1"),
    train("broken second", [first, second], "broken"),
    train("second", [second], "", "--xla"),
]


def stop_once(self, now=False):
    offer(self, now)
    if not now:
        resume.ResumeState.offer = offer
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


resume.ResumeState.offer = stop_once
used.append(train("slow first", [first, second], "CPU:0", "--xla"))
used.append(train("slow first", [first, second], "CPU:1", "--resume"))
print(json.dumps(used))
"""


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory):
    """The folder of the models of these runs, and what they printed; "second" is slow when it is resumed."""
    folder = tmp_path_factory.mktemp("devices")
    program = PROGRAM.format(root=str(ROOT))
    command = [sys.executable, "-c", program, str(write_rows(folder / "rows.csv", 100)), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment_of_a_user())
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def results_of(folder):
    return [weights.tolist() for weights in weights_of(folder)], (folder / PREDICTIONS_FILE).read_bytes()


def read(folder, name):
    settings = json.loads((folder / name / METRICS_FILE).read_text())["settings"]
    return settings["device"], settings["reasons"]["device"], settings["precision"]


@pytest.mark.slow
def test_the_quicker_device_trains_to_the_bits_of_the_same_device_alone(tf, on_devices):
    folder, printed = on_devices
    assert json.loads(printed.splitlines()[-1]) == ["CPU:0", "CPU:0", "CPU:0", "CPU:1", "CPU:1", "CPU:1"]
    for alone, chosen in (("first", "slow second"), ("first", "broken second"), ("second", "slow first")):
        assert results_of(folder / alone) == results_of(folder / chosen), chosen


@pytest.mark.slow
def test_the_choice_is_said_with_both_times(on_devices):
    folder, printed = on_devices
    device, reason, precision = read(folder, "slow second")
    assert (device, precision) == ("first", "float32")
    assert re.fullmatch(r"a step takes [\d,]+ us; [\d,]+ us on second", reason)
    assert f"Device     first ({reason})" in printed
    assert read(folder, "broken second")[1].endswith("us; second failed: libdevice not found")
    assert read(folder, "slow first") == ("second", "as in the interrupted run", "float16")
    assert "Device     second (a step takes" in printed
