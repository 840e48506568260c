"""What a run prints and leaves in the model directory."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import environment_of_a_user, metrics_of, predictions_of

SCORES = {"accuracy", "accuracy_ci95", "precision", "recall", "f1", "roc_auc", "pr_auc", "log_loss", "brier", "ece"}
TIMES = {"import_s", "load_s", "compile_s", "train_s", "total_s", "rows_per_s", "steps_per_s"}
FLAGS = ("--checkpoints", "--tensorboard", "--epochs", "30", "--keep-checkpoints", "2")


@pytest.fixture(scope="module")
def folder(trained):
    """One network, with checkpoints and logs."""
    return trained(*FLAGS, rows=100)


def test_a_plain_run(run, sample, tmp_path):
    """The command of the README, at its defaults."""
    done = run("train_model_modern.py", sample(120), "--epochs", 12, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for text in (
        "120 rows",
        "Folds      10 (",
        "each network has 96 rows for training, 12 for validation and early stopping, 12 for testing",
        "           Each starts from a logistic regression: epoch 1 is about as good as that.\n",
        "           In the lines above, a network that has stopped counts with its last epoch.\n",
        "XLA        off",
        "majority class",
        "\nPermutation importance (rise in test log-loss when the column is shuffled)\n",
        "tensorboard --logdir model/logs",
    ):
        assert text in done.stdout
    folder = tmp_path / "model"
    metrics = metrics_of(folder)
    assert metrics["rows"] == {"read": 120, "used": 120, "skipped": 0, "train": 96, "validation": 12, "test": 120}
    assert metrics["epochs"] == 12 and 1 <= metrics["best_epoch"] <= 12 and metrics["threshold"] == 0.5
    assert " ".join(metrics["verdict"]) in " ".join(done.stdout.split())
    settings = metrics["settings"]
    assert (settings["folds"], settings["learning_rate"], settings["batch_size"]) == (10, 0.006, 8)
    assert "training rows" in settings["reasons"]["batch_size"]
    assert np.sum(metrics["test"]["confusion"]) == 120
    files = sorted(path.name for path in (folder / "checkpoints").glob("*.keras"))
    assert 1 <= len(files) <= 5 and all(name.startswith("model_") and len(name.split("_")) == 3 for name in files)
    (logs,) = (folder / "logs").iterdir()
    assert sorted(path.name for path in logs.iterdir()) == ["train", "validation"]
    assert not list(folder.glob("**/*.tmp"))


def test_the_files(folder):
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    expected = {"productivity_model.keras", "metrics.json", "predictions.csv", "report.html", "README.md"}
    assert names == expected | {"checkpoints", "logs"}
    for name in expected:  # they may be handed on: nothing in them says where they were made
        assert str(folder.parent).encode() not in (folder / name).read_bytes(), name


def test_metrics(folder):
    metrics = metrics_of(folder)
    assert set(metrics["rows"]) == {"read", "used", "skipped", "train", "validation", "test"}
    assert metrics["rows"]["read"] == metrics["rows"]["used"] == 100
    assert set(metrics["timing"]) == TIMES and all(metrics["timing"].values())
    for scores in (metrics["test"], *metrics["baselines"].values()):
        assert SCORES | {"confusion"} <= set(scores)
    assert set(metrics["comparison"]) == set(metrics["baselines"]) == {"majority", "logistic_regression"}
    for parts in metrics["comparison"].values():
        assert set(parts["log_loss"]) == {"difference", "ci95"}
        assert set(parts["accuracy"]) == {"difference", "ci95", "p_value"}
    assert np.sum(metrics["test"]["confusion"]) == metrics["rows"]["test"]
    assert {"tensorflow", "keras", "numpy", "pandas"} <= set(metrics["versions"])
    assert metrics["epochs"] == 30 and metrics["settings"]["epochs"] == 30
    assert metrics["settings"]["seed"] == 42 and metrics["settings"]["reasons"]["learning_rate"]


def test_predictions(folder):
    table = (folder.parent / "HARVEST.CSV").read_text().splitlines()
    rows, metrics = predictions_of(folder), metrics_of(folder)
    assert list(rows[0]) == ["line", "fold", "label", "probability"]
    assert len(rows) == len({row["line"] for row in rows}) == metrics["rows"]["test"]
    assert [row["label"] for row in rows] == [table[int(row["line"]) - 1].split(",")[-1] for row in rows]
    right = [(float(row["probability"]) >= metrics["threshold"]) == int(row["label"]) for row in rows]
    assert np.mean(right) == pytest.approx(metrics["test"]["accuracy"])


def test_every_row_is_tested_once_when_there_are_folds(trained):
    folder = trained("--folds", "4", rows=100)
    rows = predictions_of(folder)
    assert sorted(int(row["line"]) for row in rows) == list(range(2, 102))
    assert {row["fold"] for row in rows} == {"1", "2", "3", "4"} and metrics_of(folder)["rows"]["test"] == 100


def test_several_files_are_named(sample, train):
    folder = train(csv=[sample(60, 1, "a.csv"), sample(50, 2, "b.csv")])
    rows = predictions_of(folder)
    assert list(rows[0]) == ["file", "line", "fold", "label", "probability"]
    assert {row["file"] for row in rows} == {"a.csv", "b.csv"} and metrics_of(folder)["rows"]["read"] == 110


PLAIN_KERAS = """
import json, sys
import keras, numpy as np, pandas as pd
model = keras.models.load_model(sys.argv[1])
assert not {"harvest", "train_model_modern"} & set(sys.modules)
types = {name: tensor.dtype for name, tensor in model.input.items()}
numbers = ["keyboard_activity", "mouse_activity", "time_last_request"]
assert types == {"foreground_app": "int64"} | dict.fromkeys(numbers, "float64"), types
table = pd.read_csv(sys.argv[2])
rows = {name: table[name].to_numpy(types[name])[:, None] for name in types}
print(*model.predict(rows, verbose=0)[:, 0])
"""


def test_the_saved_model_needs_nothing_of_ours(folder, tmp_path):
    command = [sys.executable, "-c", PLAIN_KERAS, folder / "productivity_model.keras", folder.parent / "HARVEST.CSV"]
    environment = environment_of_a_user()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    answers = np.array(done.stdout.split(), float)
    assert len(answers) == 100
    for row in predictions_of(folder):
        assert answers[int(row["line"]) - 2] == pytest.approx(float(row["probability"]), abs=1e-5)


def test_checkpoints_load_and_the_newest_are_kept(folder):
    import keras

    metrics, compared = metrics_of(folder), 0
    files = sorted((folder / "checkpoints").glob("*.keras"))
    assert 1 <= len(files) <= 2 and int(files[-1].name.split("_")[1]) == metrics["best_epoch"]
    best = keras.models.load_model(files[-1])
    final = keras.models.load_model(folder / "productivity_model.keras")
    for left, right in zip(best.variables, final.variables, strict=True):
        if "from_" not in left.path and left.dtype == "float32":  # these hold a logistic regression too
            temperature = metrics["temperature"] if left.path.startswith("probability") else 1
            np.testing.assert_allclose(left / temperature, right, rtol=1e-5)
            compared += 1
    assert compared > 5


def test_metrics_are_standard_json(folder):
    def refuse(name):
        raise AssertionError(name)

    json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)
