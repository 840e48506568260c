"""The test of the networks, its baselines, and the share of a single network."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_table import small_table

from harvest.data.encoding import fit_encoding
from harvest.data.splits import Split, split_folds
from harvest.results.evaluation import choose_network_share, evaluate, measure_baselines
from harvest.results.linear import fit_linear, linear_logits
from harvest.results.metrics import choose_threshold, fit_temperature, measure, sigmoid


def table_of(rows=150):
    generator = np.random.default_rng(0)
    key = generator.normal(size=rows)
    label = key + generator.normal(size=rows) > 0.3
    return small_table(label, key=key, app=generator.integers(0, 4, rows).tolist())


def folds_of(*parts):
    return [
        SimpleNamespace(split=split, encoding=fold, linear=linear) for split, fold, linear in zip(*parts, strict=True)
    ]


def test_always_the_majority_ranks_nothing_with_folds_either(tf):
    table = table_of()
    splits = split_folds(table.label, 47, 1)
    encoding, fold_encodings, features = fit_encoding(table, splits)
    linear = [np.zeros(encoding.linear_width + 1)] * 47
    majority = measure_baselines(features, encoding, folds_of(splits, fold_encodings, linear))["majority"]
    label = table.label[np.concatenate([split.test for split in splits])]
    assert majority.metrics["roc_auc"] == 0.5 and majority.metrics["roc_auc_ci95"] == [0.5, 0.5]
    assert majority.y_prob.mean() == pytest.approx(label.mean(), abs=1e-3)


def test_each_row_is_tested_by_the_linear_model_of_its_fold(tf):
    table = table_of()
    splits = split_folds(table.label, 3, 1)
    encoding, fold_encodings, features = fit_encoding(table, splits)
    parts = [*zip(splits, fold_encodings, strict=True)]
    linear = [fit_linear(features, split.train, encoding, fold) for split, fold in parts]
    folds = folds_of(splits, fold_encodings, linear)
    baseline = measure_baselines(features, encoding, folds)["logistic_regression"]
    expected = [
        sigmoid(linear_logits(features, split.test, encoding, fold, weights))
        for (split, fold), weights in zip(parts, linear, strict=True)
    ]
    np.testing.assert_array_equal(baseline.y_prob, np.concatenate(expected))
    y_true = table.label[np.concatenate([split.test for split in splits])]
    assert baseline.metrics == measure(y_true, baseline.y_prob, 0.5) and baseline.metrics["roc_auc"] > 0.7


def test_the_threshold_follows_from_validation_rows_alone():
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(2, 400))
    labels = (generator.random((2, 400)) < sigmoid(logits)).astype(np.float32)
    splits = [Split(np.arange(0), np.arange(400), np.arange(400))]
    found = evaluate((labels[0], logits[0]), (labels[1], logits[1]), splits, 2.0, ("recall", 0.9), {}, True)
    np.testing.assert_array_equal(found.y_prob, sigmoid(logits[1] / 2))
    y_true, y_prob = found.validation
    np.testing.assert_array_equal(y_prob, sigmoid(logits[0] / 2))
    assert y_true[y_prob >= found.threshold.value].sum() >= 0.9 * y_true.sum()
    assert found.metrics == measure(labels[1], found.y_prob, found.threshold.value)
    assert (found.temperatures, found.baselines) == ([2.0], {})


def windows(many, generator):
    """Splits of so many windows of 100 validation and 50 test rows, and labels and logits of both parts."""
    splits = [Split(np.arange(0), np.arange(100), np.arange(50))] * many
    logits = generator.normal(0, 3, (many, 150))
    labels = (generator.random((many, 150)) < sigmoid(logits / np.arange(1, many + 1)[:, None])).astype(np.float32)
    return splits, [[part[:, rows].ravel() for part in (labels, logits)] for rows in (np.s_[:100], np.s_[100:])]


def test_a_window_is_answered_with_what_was_known_before_it():
    splits, (validation, test) = windows(4, np.random.default_rng(3))
    found = evaluate(validation, test, splits, 1.7, ("f1", None), {}, by_time=True)
    for window in range(4):
        known, own = np.s_[: 100 * (window + 1)], np.s_[50 * window : 50 * (window + 1)]
        temperature = fit_temperature(validation[0][known], validation[1][known])[0]
        assert found.temperatures[window] == temperature
        np.testing.assert_array_equal(found.y_prob[own], sigmoid(test[1][own] / temperature))
        best = choose_threshold(("f1", None), validation[0][known], sigmoid(validation[1][known] / temperature)).value
        assert set(found.tested_at[own]) == {best}
    assert len(set(found.temperatures)) == 4
    assert found.threshold.reason == "best for f1 on 400 validation rows; each window has the threshold of earlier rows"
    assert found.metrics == measure(found.y_true, found.y_prob, found.tested_at)


def test_later_labels_move_no_earlier_answer():
    splits, (validation, test) = windows(3, np.random.default_rng(4))
    later = np.append(validation[0][:200], 1 - validation[0][200:])
    before, after = (
        evaluate((labels, validation[1]), test, splits, 1.0, ("balanced", None), {}, by_time=True)
        for labels in (validation[0], later)
    )
    for name in ("y_prob", "tested_at"):
        np.testing.assert_array_equal(getattr(before, name)[:100], getattr(after, name)[:100])
        assert (getattr(before, name)[100:] != getattr(after, name)[100:]).all()


def test_random_folds_share_what_all_validation_rows_say():
    splits, (validation, test) = windows(3, np.random.default_rng(5))
    found = evaluate(validation, test, splits, 2.0, ("f1", None), {})
    assert found.temperatures == [2.0] * 3 and set(found.tested_at) == {found.threshold.value}
    np.testing.assert_array_equal(found.y_prob, sigmoid(test[1] / 2))


def test_a_network_gets_the_share_that_it_deserves():
    generator = np.random.default_rng(2)
    logits = generator.normal(0, 2, 2_000)
    y_true, noise = (generator.random(2_000) < sigmoid(logits)).astype(np.float32), generator.normal(0, 2, 2_000)
    assert choose_network_share(y_true, logits, noise, 10_000)[0] > 0.85
    assert choose_network_share(y_true, noise, logits, 10_000)[0] < 0.25
    share, temperature = choose_network_share(y_true, logits, logits, 800)
    assert share == 0.5 and temperature == fit_temperature(y_true, logits)[0]


@pytest.mark.parametrize(("training_rows", "expected"), [(100, 0.1), (800, 0.5), (100_000, 1.0)])
def test_of_few_validation_rows_the_number_of_training_rows_decides(training_rows, expected):
    y_true, logits = np.array([0, 1], np.float32), np.array([-0.1, 0.1])
    assert choose_network_share(y_true, logits, logits, training_rows)[0] == pytest.approx(expected)
