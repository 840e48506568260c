"""The network stands in build_network alone: whoever edits it there has edited it everywhere."""

import csv
import inspect
import json

import numpy as np
import pytest

import predict
import train_model_modern as modern

DROPOUT = "hidden = adapt(layers.Dropout(architecture.dropout, name=f"
EDITS = {
    "another activation": ('activation="mish"', 'activation="gelu"'),
    "an activation across units": ('activation="mish"', 'activation="softmax"'),
    "a regularizer": ('activation="mish"', 'activation="mish", kernel_regularizer="l2"'),
    "one more layer": (
        "    nonlinear = ",
        '    hidden = adapt(layers.Dense(5, activation="tanh", name=f"{prefix}more"))(hidden)\n    nonlinear = ',
    ),
    "no linear model": ('return layers.Add(name=f"{prefix}logit")([nonlinear, linear])', "return nonlinear"),
    "a layer of two inputs": (
        "    nonlinear = ",
        '    hidden = adapt(layers.Concatenate(name=f"{prefix}joined"))([hidden, inputs])\n    nonlinear = ',
    ),
    "a layer that has no form for rows that come last": (
        DROPOUT,
        'hidden = adapt(layers.LayerNormalization(name=f"{prefix}extra_{number}"))(hidden)\n        ' + DROPOUT,
    ),
    "a layer that onnx cannot hold": (
        DROPOUT,
        'hidden = adapt(layers.UnitNormalization(name=f"{prefix}extra_{number}"))(hidden)\n        ' + DROPOUT,
    ),
    "a layer that draws random numbers of its own": (
        DROPOUT,
        'hidden = adapt(layers.GaussianNoise(0.1, name=f"{prefix}extra_{number}"))(hidden)\n        ' + DROPOUT,
    ),
}

REFUSED = {  # by onnx
    "a layer that onnx cannot hold": "extra_1 (UnitNormalization)",
    "an activation across units": "hidden_1 (Dense, softmax)",
}


def edit(monkeypatch, before, after):
    """Edit one function of the trainer."""
    source = inspect.getsource(modern.build_network)
    assert before in source
    space = dict(vars(modern))
    exec("from __future__ import annotations\n" + source.replace(before, after), space)
    monkeypatch.setattr(modern, "build_network", space["build_network"])


@pytest.fixture(params=[*EDITS, "as it is"])
def edited(request, monkeypatch):
    edit(monkeypatch, *EDITS.get(request.param, ("", "")))
    return request.param


@pytest.mark.parametrize(
    "before, after, words",
    [
        ('activation="mish"', 'activation="mish", kernel_constraint="non_neg"', "has a constraint"),
        ("    nonlinear = ", "    hidden = layers.UnitNormalization()(hidden)\n    nonlinear = ", "wrap every layer"),
    ],
)
def test_what_training_cannot_follow_is_refused(tf, sample, tmp_path, monkeypatch, before, after, words):
    edit(monkeypatch, before, after)
    with pytest.raises(ValueError, match=words):
        train(sample(60), tmp_path / "model")


def train(path, folder, *flags):
    return modern.main(
        [str(path), "--model-dir", str(folder), "--epochs", "12", "--folds", "1", "--quiet", *map(str, flags)]
    )


def answers(path, model, output):
    assert predict.main([str(path), "--model", str(model), "--output", str(output)]) == 0
    with open(output, newline="") as file:
        return np.array([float(row["probability"]) for row in csv.DictReader(file)])


@pytest.mark.parametrize("folds", [1, 3])
def test_an_edit_is_followed_everywhere(tf, edited, sample, tmp_path, folds, capsys):
    path, folder = sample(90), tmp_path / "model"
    exports = ["--export", "saved_model", "litert", "onnx"] if folds == 1 else []
    code = train(path, folder, "--folds", folds, *exports)
    errors = capsys.readouterr().err
    refused = REFUSED.get(edited) if exports else None
    assert code == int(bool(refused)), errors
    if refused:
        assert "--export onnx failed" in errors and refused in errors
        assert "saved_model failed" not in errors and "litert failed" not in errors
    tested = np.genfromtxt(folder / modern.PREDICTIONS_FILE, delimiter=",", names=True)
    found = answers(path, folder / modern.MODEL_FILE, tmp_path / "answers.csv")[tested["line"].astype(int) - 2]
    if folds == 1:
        np.testing.assert_allclose(found, tested["probability"], atol=1e-5)
    else:  # the answer is a mean over the networks, the test of a row comes from one of them
        assert np.corrcoef(found, tested["probability"])[0, 1] > 0.2
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["importance"]) == set(modern.V0_COLUMNS[:4]) and any(metrics["importance"].values())
    for checkpoint in sorted((folder / "checkpoints").iterdir())[-1:]:
        assert np.isfinite(answers(path, checkpoint, tmp_path / "of_checkpoint.csv")).all()


def test_an_edited_network_is_trained_logged_and_resumed(tf, edited, sample, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    path, whole, parts = sample(90), tmp_path / "whole", tmp_path / "parts"
    assert train(path, whole) == 0
    offer = modern.StateFile.offer

    def stop(self, now=False):
        offer(self, now)
        if not now:
            raise KeyboardInterrupt

    monkeypatch.setattr(modern, "make_plan", short_calls(modern.make_plan))
    assert train(path, tmp_path / "calls") == 0
    monkeypatch.setattr(modern.StateFile, "offer", stop)
    assert train(path, parts) == 130
    monkeypatch.setattr(modern.StateFile, "offer", offer)
    assert modern.main(["--model-dir", str(parts), "--resume", "--quiet"]) == 0
    expected = (tmp_path / "calls" / modern.PREDICTIONS_FILE).read_bytes()
    assert (parts / modern.PREDICTIONS_FILE).read_bytes() == expected
    tags = set()
    for events in whole.glob("logs/*/train/events*"):
        for event in EventFileLoader(str(events)).Load():
            tags |= {value.tag for value in event.summary.value if "/" in value.tag}
    assert {f"layers/{name}" for name in ("hidden_1/weights", "hidden_1/activations", "from_hidden/bias")} <= tags
    assert ({"layers/more/weights", "layers/more/activations"} <= tags) is (edited == "one more layer")
    assert ("layers/extra_1/gamma" in tags) is (edited == "a layer that has no form for rows that come last")


def short_calls(make_plan):
    return lambda *arguments: make_plan(*arguments)._replace(epochs_per_call=4)


def test_the_edited_network_learns_what_eager_keras_learns(tf, edited, sample):
    """One epoch's first step against Keras' own layers, in the training program and eagerly."""
    if edited == "a layer that draws random numbers of its own":
        pytest.skip("the numbers it draws follow from another generator in eager Keras")
    from test_training import make

    made = make(sample(80))
    network, fold, plan = made.saved.networks[0], made.fold, made.plan
    rows = fold.split.training[: plan.batch_size]
    inputs, label = modern.encode(*made.features.take(rows), made.encoding, fold.encoder), made.features.label[rows]
    everything = tf.fill([plan.byte_rows, plan.batch_size], np.uint8(255))  # nothing is dropped
    state = modern.first_state(made.weights[0], 0.001)
    with tf.GradientTape() as tape:
        tape.watch(state.trained)
        logits, moving, extra = modern.run_network(plan, state, tf.transpose(inputs), everything, True)
        loss = tf.reduce_mean(modern.row_losses(plan, logits, label)) + extra
    found = tape.gradient(loss, state.trained)
    scale = modern.ARCHITECTURES["standard"].dropout
    kept = np.float32(256 / (256 - round(scale * 256)))
    dropouts = [layer for layer in network.layers if type(layer).__name__ == "Dropout"]
    for layer in dropouts:
        layer.call = lambda values, training=None: values * kept
    with tf.GradientTape() as tape:
        expected_logits = network(inputs, training=True)[:, 0]
        expected_loss = tf.reduce_mean(modern.row_losses(plan, expected_logits, label)) + sum(network.losses)
    assert (float(extra) > 0) is (edited == "a regularizer")
    gradient = tape.gradient(expected_loss, network.trainable_variables)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4)
    np.testing.assert_allclose(found, modern.flat_vector(part.numpy() for part in gradient), atol=1e-4)
    np.testing.assert_allclose(moving, modern.current_weights(network).moving, atol=1e-5)
