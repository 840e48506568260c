"""K nets at once: equal to each alone, averaged in one model of stock layers, tested on every row."""

import json

import numpy as np
import pytest
from test_data import write
from test_training import make, train

import train_model_modern as modern


@pytest.mark.parametrize("xla", [False, True])
def test_together_as_alone(tf, sample, xla):
    made = make(sample(117), "standard", "--folds", "5")
    plan = made.plan._replace(xla=xla, patience=6)
    train(tf, made, 40, rate=0.02, plan=plan)
    together = made.trained
    assert len({len(fold.history) for fold in together}) > 1
    for fold in together:
        alone = train(tf, made, 40, rate=0.02, plan=plan, folds=[fold])
        assert alone.history == fold.history and alone.best_epoch == fold.best_epoch
        np.testing.assert_array_equal(alone.best.trained, fold.best.trained)


def write_mixed(path):
    """Rows with gaps, and categories of which some folds see no training row."""
    generator = np.random.default_rng(0)
    lines = ["foreground_app,site,idle_time,stay,productive"]
    for index in range(120):
        site = f"site{generator.integers(0, 9)}"
        cells = [generator.integers(0, 30), site, generator.integers(0, 9999), generator.integers(0, 99)]
        if index % 5 == 0:
            cells[generator.integers(0, 4)] = ""
        lines.append(",".join(map(str, [*cells, index % 2])))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("architecture", modern.ARCHITECTURES)
@pytest.mark.parametrize("folds", [1, 4])
def test_the_model_averages_the_networks(tf, tmp_path, architecture, folds):
    import keras

    made = make(write_mixed(tmp_path / "a.csv"), architecture, "--folds", folds)
    generator = np.random.default_rng(0)
    weights = [
        part._replace(moving=np.abs(generator.normal(1, 0.3, part.moving.shape)).astype(np.float32))
        for part in made.weights
    ]
    archive = modern.Archive(made.saved.model).write(made.saved.values(weights, 1.5), {})
    (tmp_path / "model.keras").write_bytes(archive)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)
    rows = np.arange(120, dtype=np.int32)
    logits = [
        made.predictor.logits(made.features, fold, own, rows) for fold, own in zip(made.folds, weights, strict=True)
    ]
    expected = modern.sigmoid(np.array(logits) / 1.5).mean(axis=0)
    raw = {name: tf.constant(values) for name, values in modern.raw_inputs(made.table, rows).items()}
    np.testing.assert_allclose(loaded(raw)[:, 0], expected, atol=1e-5)
    made.saved.assign(weights, 1.5)
    np.testing.assert_allclose(made.saved.model(raw)[:, 0], expected, atol=1e-5)


def test_what_a_fold_has_not_seen_counts_for_nothing_in_it(tf, tmp_path):
    made = make(write_mixed(tmp_path / "a.csv"), "standard", "--folds", 4)
    of_first = 1 + len(made.encoding.known[0])
    places = [fold.encoder.places[:of_first] for fold in made.folds]
    partly = np.flatnonzero(np.min(places, axis=0) != np.max(places, axis=0))
    assert len(partly) and all(part[0] == -1 for part in places)
    for fold in made.folds:
        learned = set(made.features.indices[0, fold.split.training])
        for index, place in enumerate(fold.encoder.places[:of_first]):
            assert (place >= 0) == (index in learned)
            inputs = modern.encode(
                np.zeros((1, 2), np.float32), np.array([[index, of_first]]), made.encoding, fold.encoder
            ).numpy()
            assert inputs[:, len(made.encoding.gaps) + 2 : made.encoding.linear_width].sum() == (place >= 0)


def test_a_run_with_folds(sample, tmp_path, capsys):
    folder = tmp_path / "model"
    assert modern.main([str(sample(90)), "--model-dir", str(folder), "--folds", "5", "--epochs", "8"]) == 0
    printed = capsys.readouterr().out
    assert "5 nets, each with" in printed and "each by a net that was not trained on it" in printed
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["rows"]["test"] == 90 and np.sum(metrics["test"]["confusion"]) == 90
    import keras

    for path in (folder / modern.MODEL_FILE, *(folder / "checkpoints").iterdir()):
        assert keras.models.load_model(path).output_shape == (None, 1)


def test_more_folds_than_the_rarer_class_has_rows(tmp_path, capsys):
    path = tmp_path / "a.csv"
    lines = [
        f"{index % 3},{index * 37 % 101},{index * 17 % 89},{index % 7},{int(index % 8 == 0)}" for index in range(48)
    ]
    path.write_text("\n".join([",".join(modern.V0_COLUMNS), *lines]) + "\n")
    assert modern.main([str(path), "--model-dir", str(tmp_path / "model"), "--folds", "20", "--epochs", "2"]) == 0
    assert "Folds      6 (lowered from 20: the rarer class has 6 rows" in capsys.readouterr().out


def test_windows_that_slide_over_time():
    splits = modern.split_folds_by_time(1_000, 5)
    for number, split in enumerate(splits):
        rows = np.concatenate(split)
        np.testing.assert_array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))
        assert (len(split.validation), len(split.test)) in ((62, 62), (62, 63), (63, 62), (63, 63))
        assert 620 <= len(split.training) <= 630
        assert not number or split.validation[0] == splits[number - 1].test[0]
    tested = np.concatenate([split.test for split in splits])
    np.testing.assert_array_equal(tested, np.arange(tested[0], 1_000))
    assert splits[0].training[0] == 0


def test_a_run_with_windows_over_time(tmp_path, capsys):
    order = np.random.default_rng(0).permutation(160)
    lines = [f"{1_700_000_000 + index},{index % 3},{index * 37 % 101},{index // 2 % 2}" for index in order]
    path, folder = write(tmp_path / "a.csv", lines, header="timestamp,app,idle,productive"), tmp_path / "model"
    flags = ["--split", "time", "--folds", "3", "--epochs", "2", "--model-dir", str(folder)]
    assert modern.main([str(path), *flags]) == 0
    printed = capsys.readouterr().out
    assert "each net has 96 rows for training, 16 used for early stopping, 16 for testing" in printed
    assert "by time, by the column timestamp, 3 windows that slide over it" in printed
    rows = [line.split(",") for line in (folder / "predictions.csv").read_text().splitlines()[1:]]
    found = sorted((order[int(line) - 2], int(fold)) for line, fold, _, _ in rows)
    assert found == [(index, 1 + (index - 112) // 16) for index in range(112, 160)]
    assert json.loads((folder / "metrics.json").read_text())["rows"]["test"] == 48


def test_refused_folds(sample, tmp_path, capsys):
    for flags in (
        ["--folds", "2"],
        ["--folds", "0"],
        ["--folds", "10", "--split", "time"],
        ["--folds", "9" * 15, "--split", "time"],
    ):
        assert modern.main([str(sample(60)), "--model-dir", str(tmp_path / "model"), *flags]) == 2
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("flags", "rows", "rarer", "folds", "words"),
    [
        ([], 110, 40, 10, "their mean is more accurate"),
        ([], 30_000, 9_000, 10, "training 10 nets takes about"),
        ([], 30, 6, 6, "lowered from 10: the rarer class has 6 rows"),
        ([], 40_000, 9_000, 1, "gains little with 40,000 rows"),
        (["--no-xla"], 20_000, 9_000, 1, "s on one core"),
        (["--no-xla", "--epochs", "2"], 20_000, 9_000, 10, "s on one core"),
        (["--split", "time"], 110, 40, 1, "the split is by time"),
        (
            ["--split", "time", "--folds", "12"],
            110,
            6,
            12,
            "as requested; training 12 nets takes about",
        ),
        (["--folds", "1"], 110, 40, 1, "as requested"),
        (["--folds", "4"], 1_000_000, 40, 4, "as requested; training 4 nets takes about"),
        (["--folds", "20"], 110, 6, 6, "lowered from 20: the rarer class has 6 rows"),
    ],
)
def test_how_many_folds(flags, rows, rarer, folds, words):
    options = modern.parse_options(["unused", *flags])
    choice = modern.choose_folds(options, np.arange(rows) < rarer)
    assert choice.value == folds and words in choice.reason


def test_bins_are_those_of_training_rows_and_of_no_use_where_numbers_are_equal(tf, tmp_path):
    lines = [f"{index % 7},{index},{index // 190},{index % 5},{index % 2}" for index in range(200)]
    made = make(write(tmp_path / "a.csv", lines))
    numbers = [column.name for column in made.table.of_kind("number")]
    assert dict(zip(numbers, made.encoding.bins, strict=True)) == {
        "keyboard_activity": 7,  # a twentieth of the training rows
        "mouse_activity": 0,  # two values
        "time_last_request": 4,  # five values
    }
    rows = made.fold.split.training
    inputs = modern.encode(*made.features.take(rows), made.encoding, made.fold.encoder).numpy()
    bins = inputs[:, made.encoding.linear_width :]
    np.testing.assert_allclose(bins.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.ptp(bins[:, :7], axis=0), 0.25, atol=1e-6)
    order = np.argsort(made.features.scaled[0, rows])
    assert (np.diff(bins[order, :7], axis=0) >= 0).all()
