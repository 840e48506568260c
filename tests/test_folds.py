"""K nets at once: equal to each alone, averaged in one model of stock layers, tested on every row."""

import json

import numpy as np
import pytest
from test_training import first_net, train

import train_model_modern as modern


def start(path, folds, *flags):
    options = modern.parse_options([str(path), "--folds", str(folds), *flags])
    table = modern.read_table(options)
    splits = modern.split_table(options, table)
    encoders = modern.fit_encoders(table, splits)
    members = [
        modern.Fold(number, split, encoder)
        for number, (split, encoder) in enumerate(zip(splits, encoders, strict=True))
    ]
    plan = modern.make_plan(options, splits, table.label, encoders[0].width, modern.decide(options, splits), "float32")
    weights = []
    for fold in members:
        lit = modern.lit_inputs(table, fold.encoder, fold.split.training)
        weights.append(modern.initial_weights(plan.units, plan.width, lit, [1, fold.number]))
    return options, table, members, plan, weights


@pytest.mark.parametrize("xla", [False, True])
def test_together_as_alone(tf, sample, xla):
    _, table, folds, plan, weights = start(sample(117), 5)
    plan = plan._replace(xla=xla, patience=6)
    program = modern.build_program(tf, plan, folds[0].encoder)
    nets = [
        modern.start_net(tf, plan, fold, modern.first_state(tf, plan, first, 0.02))
        for fold, first in zip(folds, weights, strict=True)
    ]
    modern.train_nets(tf, plan, program, modern.table_inputs(tf, table), nets, 40, None, modern.StopRequest())
    assert len({len(net.history) for net in nets}) > 1
    for net, first in zip(nets, weights, strict=True):
        alone = train(tf, table, net.fold, plan, first, 40, rate=0.02)
        assert alone.history == net.history and alone.best_epoch == net.best_epoch
        np.testing.assert_array_equal(alone.best.weights, net.best.weights)


@pytest.mark.parametrize("architecture", modern.ARCHITECTURES)
def test_the_model_averages_the_nets(tf, tmp_path, architecture):
    path = tmp_path / "a.csv"
    generator = np.random.default_rng(0)
    lines = ["foreground_app,site,idle_time,stay,productive"]
    for index in range(120):
        cells = [
            generator.integers(0, 30),
            f"site{generator.integers(0, 9)}",
            generator.integers(0, 9999),
            generator.integers(0, 99),
        ]
        cells[generator.integers(0, 4)] = "" if index % 5 == 0 else cells[0]
        cells = [
            ("site1" if place == 1 and not str(cell).startswith("site") and cell != "" else cell)
            for place, cell in enumerate(cells)
        ]
        lines.append(",".join(map(str, [*cells, index % 2])))
    path.write_text("\n".join(lines) + "\n")
    _, table, folds, plan, weights = start(path, 4, "--architecture", architecture)
    statistics = [np.abs(generator.normal(1, 0.3, 2 * plan.outputs)).astype(np.float32) for _ in folds]
    nets = [modern.Net(*pair) for pair in zip(weights, statistics, strict=True)]
    encoders = [fold.encoder for fold in folds]
    model = modern.build_model(table, encoders, modern.ARCHITECTURES[architecture], 0.9)
    archive = modern.archive_with_weights(
        modern.model_archive(model), modern.model_variables(plan.units, encoders, nets)
    )
    (tmp_path / "model.keras").write_bytes(archive)
    import keras

    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)
    rows = np.arange(120, dtype=np.int32)
    expected = np.mean(
        [
            modern.sigmoid(modern.net_logits(table, fold.encoder, plan.units, net, rows))
            for fold, net in zip(folds, nets, strict=True)
        ],
        axis=0,
    )
    raw = {name: tf.constant(values) for name, values in modern.raw_inputs(table, rows).items()}
    np.testing.assert_allclose(loaded.predict(raw, batch_size=120, verbose=0)[:, 0], expected, atol=1e-5)
    modern.set_weights(model, modern.model_variables(plan.units, encoders, nets))
    np.testing.assert_allclose(model.predict(raw, batch_size=120, verbose=0)[:, 0], expected, atol=1e-5)


def test_one_net_saves_as_it_computes(tf, sample):
    _, table, folds, plan, weights = start(sample(60), 1)
    model = modern.build_model(table, [folds[0].encoder], modern.Architecture(plan.units, plan.dropout), 0.9)
    modern.set_weights(model, modern.model_variables(plan.units, [folds[0].encoder], [first_net(plan, weights[0])]))
    rows = folds[0].split.test
    expected = modern.sigmoid(modern.net_logits(table, folds[0].encoder, plan.units, first_net(plan, weights[0]), rows))
    np.testing.assert_allclose(model.predict(modern.raw_inputs(table, rows), verbose=0)[:, 0], expected, atol=1e-5)


def test_a_run_with_folds(sample, tmp_path, capsys):
    folder = tmp_path / "model"
    assert modern.main([str(sample(90)), "--model-dir", str(folder), "--folds", "5", "--epochs", "8"]) == 0
    printed = capsys.readouterr().out
    assert "5 folds" in printed and "each tested by the one of 5 nets" in printed and "Hint" not in printed
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
    assert "--folds 20 lowered to 6" in capsys.readouterr().out


def test_refused_folds(sample, tmp_path, capsys):
    for flags in (["--folds", "2"], ["--folds", "0"], ["--folds", "5", "--split", "time"]):
        assert modern.main([str(sample(60)), "--model-dir", str(tmp_path / "model"), *flags]) == 2
    assert not (tmp_path / "model").exists()
