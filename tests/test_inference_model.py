"""The model that is saved: raw columns in, probability out, whatever the columns are called."""

import numpy as np
import pytest
from small_table import small_table
from untrained import untrained, usual_network

from harvest.data.encoding import encode
from harvest.model.inference_model import Predictor
from harvest.model.names import free_name, input_names, onnx_names, renamed_inputs
from harvest.results.metrics import sigmoid

ROWS = 60


def mixed_table(**more):
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=ROWS)
    numbers[::7] = np.nan
    columns = {
        "idle": numbers,
        "stamp": 1_700_000_000.0 + 16 * np.arange(ROWS),
        "app id": [None if row % 9 == 0 else row % 4 for row in range(ROWS)],
        "window": ["" if row % 11 == 0 else "abc"[row % 3] for row in range(ROWS)],
    }
    return small_table(np.arange(ROWS) % 2, **columns, **more)


def tensors(made, rows=slice(None)):
    import tensorflow as tf

    inputs = made.model.model.input
    return {name: tf.constant(cells[rows], inputs[name].dtype) for name, cells in made.rows.items()}


def fold_logits(made, fold):
    """A fold's logits step by step: what training and evaluation take for the same rows."""
    encoded = encode(*made.features.take(np.arange(ROWS)), made.encoding, made.fold_encodings[fold])
    return made.model.networks[fold](encoded).numpy()[:, 0]


@pytest.mark.parametrize("folds", [1, 3])
def test_the_model_is_the_mean_of_its_networks_on_encoded_rows(tf, folds):
    made = untrained(mixed_table(), folds)
    each = [sigmoid(fold_logits(made, fold).astype(float) / 1.3) for fold in range(folds)]
    found = made.model.model(tensors(made)).numpy()[:, 0]
    assert found.dtype == np.float32 and len(np.unique(found)) > 50
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_allclose(made.model.first(tensors(made)).numpy()[:, 0], each[0], atol=1e-6)
    assert len(made.model.networks) == len(made.model.calibration) == folds


@pytest.mark.parametrize("folds", [1, 3])
def test_what_class_weights_add_to_the_logits_is_subtracted(tf, folds):
    made = untrained(mixed_table(), folds, offset=1.9)
    each = [sigmoid((fold_logits(made, fold).astype(float) - 1.9) / 1.3) for fold in range(folds)]
    np.testing.assert_allclose(made.model.model(tensors(made)).numpy()[:, 0], np.mean(each, axis=0), atol=1e-6)
    predictor, rows = Predictor(made.model, made.encoding, made.fold_encodings), np.arange(ROWS)
    for fold in range(folds):
        np.testing.assert_allclose(
            predictor.row_logits(fold, made.features, rows), fold_logits(made, fold) - 1.9, atol=1e-5
        )
    plain = untrained(mixed_table(), folds)
    assert not any(layer.use_bias for layer in plain.model.calibration)  # as models without weights always were


@pytest.mark.parametrize("columns", [["idle"], ["stamp"], ["window"], ["app id"], ["idle", "stamp"]])
def test_tables_of_few_columns(tf, columns):
    table = mixed_table()
    table.columns = [column for column in table.columns if column.name in columns]
    made = untrained(table)
    found = made.model.model(tensors(made)).numpy()[:, 0]
    np.testing.assert_allclose(found, sigmoid(fold_logits(made, 0).astype(float) / 1.3), atol=1e-6)


def test_networks_start_from_the_seed_alone(tf):
    """Those of all folds are made one after another, so that training starts where it did in earlier versions."""
    import keras

    from harvest.model.inference_model import build_inference_model, current_values

    table = mixed_table()
    made = untrained(table, 2)
    built = [
        build_inference_model(table, made.encoding, made.fold_encodings, usual_network, seed) for seed in (5, 5, 6)
    ]
    weights = [[[value for _, value in current_values(network)] for network in model.networks] for model in built]
    keras.utils.set_random_seed(5)
    weights.append([[value for _, value in current_values(usual_network(made.encoding.width))] for _ in range(2)])
    for fold in range(2):
        for other in (1, 3):
            for one, same in zip(weights[0][fold], weights[other][fold], strict=True):
                np.testing.assert_array_equal(one, same)
    assert not np.array_equal(weights[0][0][0], weights[2][0][0])
    assert not np.array_equal(weights[0][0][0], weights[0][1][0])


CLASHING = ["network", "fold_1", "fold_1_probability", "scaled", "scaling", "places", "probability", "row_encoding"]
CLASHING += ["add", "multiply", "subtract", "where", "hidden_1", "logit", "inputs", "numbers", "place_0_window"]


@pytest.mark.parametrize("folds", [1, 2])
def test_columns_may_be_called_like_layers(tf, tmp_path, folds):
    import keras

    generator = np.random.default_rng(1)
    made = untrained(mixed_table(**{name: generator.normal(size=ROWS) for name in CLASHING}), folds)
    made.model.model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    assert set(CLASHING) < set(model.input)
    assert all(tensor.name == name for name, tensor in model.input.items())
    np.testing.assert_array_equal(model(tensors(made)).numpy(), made.model.model(tensors(made)).numpy())


@pytest.mark.parametrize("folds", [1, 3])
def test_one_function_runs_every_network_with_any_weights(tf, folds):
    from harvest.model.inference_model import Predictor, current_values

    made = untrained(mixed_table(), folds)
    predictor, rows = Predictor(made.model, made.encoding, made.fold_encodings), np.arange(ROWS)
    for fold, network in enumerate(made.model.networks):
        expected = fold_logits(made, fold)
        encoded = encode(*made.features.take(rows), made.encoding, made.fold_encodings[fold])
        np.testing.assert_allclose(predictor.logits(fold, encoded), expected, atol=1e-5)
        found = predictor.row_logits(fold, made.features, rows)
        assert found.dtype == np.float64 and found.shape == (ROWS,)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert predictor.row_logits(fold, made.features, rows[:0]).shape == (0,)
        other = [(variable, np.zeros(variable.shape, np.float32)) for variable, _ in current_values(network)]
        np.testing.assert_array_equal(predictor.logits(fold, encoded, other), np.zeros(ROWS))
        layers = predictor.layer_outputs(fold, encoded)
        assert list(layers) == ["hidden_1", "normalization_1", "from_hidden", "from_inputs", "logit"]
        np.testing.assert_allclose(layers["logit"][:, 0], expected, atol=1e-5)
        np.testing.assert_allclose((layers["from_hidden"] + layers["from_inputs"])[:, 0], expected, atol=1e-5)
    assert predictor.outputs.experimental_get_tracing_count() == 1


def test_rows_are_encoded_in_pieces(tf, monkeypatch):
    from harvest.model import inference_model

    made = untrained(mixed_table())
    predictor, rows = inference_model.Predictor(made.model, made.encoding, made.fold_encodings), np.arange(ROWS)
    whole = predictor.row_logits(0, made.features, rows)
    monkeypatch.setattr(inference_model, "ENCODED_CELLS", 7 * made.encoding.width)
    np.testing.assert_allclose(predictor.row_logits(0, made.features, rows), whole, atol=1e-6)


def test_names_in_exported_files():
    columns = ["idle", "app id", "App", "app", "self", "probability", "class", "input_7", "größe", "input_probability"]
    signature = input_names(columns)
    assert signature["idle"] == "idle" and signature["app id"] == "input_1_app_id"
    assert len({name.lower() for name in signature.values()}) == len(columns)
    assert all(name.isidentifier() and name.isascii() for name in signature.values())
    assert onnx_names(columns) == {name: name for name in columns} | {"probability": "input_probability_"}
    renamed = renamed_inputs(columns)
    assert [name for name, *_ in renamed] == [name for name in columns if name != "idle"]
    assert ("probability", "input_5_probability", "input_probability_") in renamed
    assert free_name("a", {"a", "a_"}) == "a__" and free_name("b", {"a"}) == "b"
