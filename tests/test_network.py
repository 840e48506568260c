"""The network is written in build_network alone: whoever edits it there has edited it everywhere."""

import csv
import os

import keras
import numpy as np
import pytest
from conftest import metrics_of, predictions_of
from keras import layers

import train_model_modern
from harvest.data.csv_file import V0_COLUMNS
from harvest.run_directory import EXPORT_FILES, MODEL_FILE, PREDICTIONS_FILE, RESUME_FILE
from harvest.training.resume import ResumeState


def end(inputs, hidden):
    nonlinear = layers.Dense(1, kernel_initializer="zeros", name="from_hidden")(hidden)
    linear = layers.Dense(1, use_bias=False, name="from_inputs")(inputs)
    return keras.Model(inputs, layers.Add(name="logit")([nonlinear, linear]), name="network")


def another_activation(width, architecture, momentum=0.9, hidden_dtype="float32"):
    inputs = keras.Input((width,), name="inputs")
    hidden = layers.Dense(9, activation="gelu", kernel_regularizer="l2", dtype=hidden_dtype, name="hidden_1")(inputs)
    hidden = layers.BatchNormalization(momentum=momentum, name="normalization_1")(hidden)
    return end(inputs, layers.Dropout(0.1, name="dropout_1")(hidden))


def one_more_layer(width, architecture, momentum=0.9, hidden_dtype="float32"):
    inputs = keras.Input((width,), name="inputs")
    hidden = layers.Dense(6, activation="mish", dtype=hidden_dtype, name="hidden_1")(inputs)
    hidden = layers.Dropout(0.1, name="dropout_1")(hidden)
    hidden = layers.Concatenate(name="joined")([hidden, inputs])
    return end(inputs, layers.Dense(5, activation="tanh", name="more")(hidden))


def no_counterpart(width, architecture, momentum=0.9, hidden_dtype="float32"):
    inputs = keras.Input((width,), name="inputs")
    hidden = layers.Dense(6, activation="mish", dtype=hidden_dtype, name="hidden_1")(inputs)
    hidden = layers.LayerNormalization(name="extra_1")(hidden)
    return end(inputs, layers.Dropout(0.1, name="dropout_1")(hidden))


def random_numbers(width, architecture, momentum=0.9, hidden_dtype="float32"):
    inputs = keras.Input((width,), name="inputs")
    hidden = layers.Dense(6, activation="mish", dtype=hidden_dtype, name="hidden_1")(inputs)
    hidden = layers.GaussianNoise(0.1, name="extra_1")(hidden)
    return end(inputs, layers.BatchNormalization(momentum=momentum, name="normalization_1")(hidden))


EDITS = {
    "another activation": another_activation,
    "one more layer, of two inputs": one_more_layer,
    "a layer without a counterpart": no_counterpart,
    "a layer that draws random numbers": random_numbers,
}
TAGS = {  # of TensorBoard, beyond those that all have
    "one more layer, of two inputs": {"layers/more/weights", "layers/more/activations"},
    "a layer without a counterpart": {"layers/extra_1/gamma", "layers/extra_1/activations"},
}


def slow_unless(quick, name):
    return name if quick in name else pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(params=[slow_unless("a layer", name) for name in EDITS])
def edited(request, monkeypatch):
    monkeypatch.setattr(train_model_modern, "build_network", EDITS[request.param])
    return request.param


def tags_of(folder):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return {
        value.tag
        for path in folder.glob("logs/*/train/events*")
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }


def test_an_edit_is_followed_everywhere(tf, edited, train, predict, tmp_path):
    flags = ("--epochs", "12", "--checkpoints", "--tensorboard", "--export", *EXPORT_FILES)
    folder = train(*flags, rows=90)
    tested = predictions_of(folder)
    for model in (folder / MODEL_FILE, sorted((folder / "checkpoints").glob("*.keras"))[-1]):
        code, _, _ = predict(tmp_path / "HARVEST.CSV", "--model", model, "--output", tmp_path / "answers.csv")
        with (tmp_path / "answers.csv").open(newline="") as file:
            answers = [float(row["probability"]) for row in csv.DictReader(file)]
        assert code == 0 and np.isfinite(answers).all()
        if model.parent == folder:
            found = [answers[int(row["line"]) - 2] for row in tested]
            np.testing.assert_allclose(found, [float(row["probability"]) for row in tested], atol=1e-5)
    metrics = metrics_of(folder)
    assert set(metrics["importance"]) == set(V0_COLUMNS[:4]) and any(metrics["importance"].values())
    tags = {"layers/hidden_1/weights", "layers/hidden_1/activations", "layers/from_hidden/bias"}
    assert tags | TAGS.get(edited, set()) <= tags_of(folder)


@pytest.mark.slow
def test_an_edited_network_is_resumed(tf, edited, train, tmp_path, monkeypatch, sample):
    flags, offer = ("--epochs", "40", "--folds", "3"), ResumeState.offer
    path, whole, parts = sample(90), tmp_path / "whole", tmp_path / "parts"
    train(*flags, csv=path, folder=whole)

    def stop(self, now=False):
        offer(self, True)
        os.kill(os.getpid(), 15)

    with monkeypatch.context() as patch:
        patch.setattr(ResumeState, "offer", stop)
        train(*flags, csv=path, folder=parts, code=143)
    assert (parts / RESUME_FILE).exists()
    assert train_model_modern.main(["--model-dir", str(parts), "--resume", "--quiet"]) == 0
    assert (parts / PREDICTIONS_FILE).read_bytes() == (whole / PREDICTIONS_FILE).read_bytes()


def unsupported(width, architecture, momentum=0.9, hidden_dtype="float32"):
    inputs = keras.Input((width,), name="inputs")
    hidden = layers.Dense(4, activation="softmax", name="hidden_1")(inputs)
    return end(inputs, layers.UnitNormalization(name="extra_1")(hidden))


def test_what_onnx_cannot_hold_is_said(tf, train, monkeypatch, capsys):
    monkeypatch.setattr(train_model_modern, "build_network", unsupported)
    train("--export", *EXPORT_FILES, rows=60, code=1)
    errors = capsys.readouterr().err
    assert "--export onnx failed" in errors and "(Dense, softmax)" in errors
    assert "saved_model failed" not in errors and "litert failed" not in errors


def constrained(width, architecture, momentum=0.9, hidden_dtype="float32"):
    inputs = keras.Input((width,), name="inputs")
    return end(inputs, layers.Dense(4, kernel_constraint="non_neg", name="hidden_1")(inputs))


def test_what_training_cannot_follow_is_refused(tf, train, monkeypatch):
    monkeypatch.setattr(train_model_modern, "build_network", constrained)
    with pytest.raises(ValueError, match="has a constraint"):
        train(rows=60)


def no_linear_model(width, architecture, momentum=0.9, hidden_dtype="float32"):
    inputs = keras.Input((width,), name="inputs")
    return keras.Model(inputs, layers.Dense(1, name="last")(layers.Dense(4, activation="relu")(inputs)))


def test_a_network_without_a_linear_model_trains(tf, train, monkeypatch):
    monkeypatch.setattr(train_model_modern, "build_network", no_linear_model)
    folder = train(rows=60)
    assert 0 <= metrics_of(folder)["test"]["roc_auc"] <= 1
