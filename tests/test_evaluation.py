"""The test of the networks, its baselines, and the share of a single network."""

import numpy as np
import pytest
from small_table import small_table

from harvest.data.encoding import fit_encoding
from harvest.data.splits import split_folds
from harvest.results.evaluation import choose_network_share, evaluate, measure_baselines
from harvest.results.linear import fit_linear, linear_logits
from harvest.results.metrics import fit_temperature, measure, sigmoid


def table_of(rows=150):
    generator = np.random.default_rng(0)
    key = generator.normal(size=rows)
    label = key + generator.normal(size=rows) > 0.3
    return small_table(label, key=key, app=generator.integers(0, 4, rows).tolist())


def test_always_the_majority_ranks_nothing_with_folds_either(tf):
    table = table_of()
    splits = split_folds(table.label, 47, 1)
    encoding, fold_encodings, features = fit_encoding(table, splits)
    linear = [np.zeros(encoding.linear_width + 1)] * 47
    majority = measure_baselines(features, splits, encoding, fold_encodings, linear, 0)["majority"]
    label = table.label[np.concatenate([split.test for split in splits])]
    assert majority.metrics["roc_auc"] == 0.5 and majority.metrics["roc_auc_ci95"] == [0.5, 0.5]
    assert majority.y_prob.mean() == pytest.approx(label.mean(), abs=1e-3)


def test_each_row_is_tested_by_the_linear_model_of_its_fold(tf):
    table = table_of()
    splits = split_folds(table.label, 3, 1)
    encoding, fold_encodings, features = fit_encoding(table, splits)
    parts = [*zip(splits, fold_encodings, strict=True)]
    linear = [fit_linear(features, split.train, encoding, fold) for split, fold in parts]
    baseline = measure_baselines(features, splits, encoding, fold_encodings, linear, 5)["logistic_regression"]
    expected = [
        sigmoid(linear_logits(features, split.test, encoding, fold, weights))
        for (split, fold), weights in zip(parts, linear, strict=True)
    ]
    np.testing.assert_array_equal(baseline.y_prob, np.concatenate(expected))
    y_true = table.label[np.concatenate([split.test for split in splits])]
    assert baseline.metrics == measure(y_true, baseline.y_prob, 0.5, 5) and baseline.metrics["roc_auc"] > 0.7


def test_the_threshold_follows_from_validation_rows_alone():
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(2, 400))
    labels = (generator.random((2, 400)) < sigmoid(logits)).astype(np.float32)
    found = evaluate((labels[0], logits[0]), (labels[1], logits[1]), 2.0, ("recall", 0.9), {}, 3)
    np.testing.assert_array_equal(found.y_prob, sigmoid(logits[1] / 2))
    y_true, y_prob = found.validation
    np.testing.assert_array_equal(y_prob, sigmoid(logits[0] / 2))
    assert y_true[y_prob >= found.threshold.value].sum() >= 0.9 * y_true.sum()
    assert found.metrics == measure(labels[1], found.y_prob, found.threshold.value, 3)
    assert (found.temperature, found.baselines) == (2.0, {})


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
