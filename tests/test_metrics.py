"""The scores against scikit-learn's and against plain definitions."""

import argparse
import json

import numpy as np
import pytest

from harvest.results import metrics


def predictions(rows=300, seed=0, digits=2, labels=np.float32):
    """y_true, y_prob of a model that is calibrated."""
    generator = np.random.default_rng(seed)
    y_prob = np.round(generator.random(rows), digits)
    return (generator.random(rows) < y_prob).astype(labels), y_prob


@pytest.mark.parametrize("seed", range(50))
def test_every_score_is_that_of_scikit_learn(seed):
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    generator = np.random.default_rng(seed)
    y_true, y_prob = predictions(int(generator.integers(2, 400)), seed, int(generator.integers(1, 7)), int)
    y_true[:2] = 0, 1
    weights = generator.random(len(y_true)) * generator.integers(0, 2, len(y_true)) + 1e-3
    y_pred = y_prob >= 0.5
    assert metrics.confusion_matrix(y_true, y_pred).tolist() == sklearn.confusion_matrix(y_true, y_pred).tolist()
    for sample_weight in (None, weights):
        for name in ("roc_auc_score", "average_precision_score"):
            expected = getattr(sklearn, name)(y_true, y_prob, sample_weight=sample_weight)
            assert getattr(metrics, name)(y_true, y_prob, sample_weight=sample_weight) == pytest.approx(expected)
    inside = np.clip(y_prob, 1e-3, 1 - 1e-3)
    assert metrics.log_losses(y_true, inside).mean() == pytest.approx(sklearn.log_loss(y_true, inside))
    test = metrics.measure(y_true, y_prob, 0.5, 0)
    assert test["brier"] == pytest.approx(sklearn.brier_score_loss(y_true, y_prob))
    for name in ("accuracy", "precision", "recall", "f1"):
        score = getattr(sklearn, f"{name}_score")
        assert test[name] == pytest.approx(
            score(y_true, y_pred, **({} if name == "accuracy" else {"zero_division": 0}))
        )
    assert (test["roc_auc"], test["pr_auc"]) == pytest.approx(
        (sklearn.roc_auc_score(y_true, y_prob), sklearn.average_precision_score(y_true, y_prob))
    )


def test_the_areas_count_pairs_and_steps():
    y_true, y_prob = predictions(120, digits=1)
    positive, negative = y_prob[y_true == 1], y_prob[y_true == 0]
    wins = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    assert metrics.roc_auc_score(y_true, y_prob) == pytest.approx(wins)
    expected, before = 0.0, 0.0
    for threshold in sorted(set(y_prob), reverse=True):
        predicted = y_prob >= threshold
        recall = y_true[predicted].sum() / y_true.sum()
        expected += (recall - before) * y_true[predicted].mean()
        before = recall
    assert metrics.average_precision_score(y_true, y_prob) == pytest.approx(expected)


@pytest.mark.parametrize("digits", [1, 9])
@pytest.mark.parametrize("name", ["roc_auc_score", "average_precision_score"])
def test_weights_count_as_repeated_rows(name, digits):
    (y_true, y_prob), score = predictions(60, digits=digits), getattr(metrics, name)
    weights = np.random.default_rng(1).integers(0, 4, (3, 60))
    together = score(y_true, y_prob, sample_weight=weights)
    assert together.shape == (3,)
    for number, row in enumerate(weights):
        repeated = np.repeat(np.arange(60), row)
        assert score(y_true[repeated], y_prob[repeated]) == pytest.approx(together[number])


def test_wilson_covers_the_truth():
    generator, inside = np.random.default_rng(0), 0
    for successes in generator.binomial(40, 0.85, 2_000):
        low, high = metrics.wilson(successes, 40)
        inside += low <= 0.85 <= high
    assert 0.93 < inside / 2_000 < 0.98
    assert metrics.wilson(0, 0) == [0.0, 1.0]
    assert metrics.wilson(0, 10)[0] == pytest.approx(0) and metrics.wilson(10, 10)[1] == pytest.approx(1)


@pytest.mark.parametrize(("rows", "slack"), [(2_000, 0.15), (40_000, 0.2)])
def test_bootstrap_is_seeded_and_has_the_width_it_should(rows, slack):
    y_true, y_prob = predictions(rows, digits=6)
    test = metrics.measure(y_true, y_prob, 0.5, 3)
    assert test == metrics.measure(y_true, y_prob, 0.5, 3)
    low, high = test["log_loss_ci95"]
    assert low < test["log_loss"] < high
    expected = 1.96 * metrics.log_losses(y_true, y_prob).std() / np.sqrt(rows)
    assert (high - low) / 2 == pytest.approx(expected, rel=slack)


def test_measure_by_hand():
    y_true, y_prob = np.array([1, 1, 0, 0, 0], np.float32), np.array([0.9, 0.4, 0.6, 0.2, 0.1])
    test = metrics.measure(y_true, y_prob, 0.5, 0)
    assert test["confusion"] == [[2, 1], [1, 1]]
    assert (test["accuracy"], test["precision"], test["recall"], test["f1"]) == (0.6, 0.5, 0.5, 0.5)
    assert test["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.04 + 0.01) / 5)
    assert test["ece"] == pytest.approx((0.1 + 0.6 + 0.6 + 0.2 + 0.1) / 5)
    json.dumps(test, allow_nan=False)


def test_the_entries_of_a_measurement_keep_their_order():
    scores = ["accuracy", "accuracy_ci95", "precision", "precision_ci95", "recall", "recall_ci95", "f1"]
    scores += ["roc_auc", "pr_auc", "log_loss", "brier", "ece", "confusion"]
    scores += ["roc_auc_ci95", "pr_auc_ci95", "log_loss_ci95"]
    assert [*metrics.measure(*predictions(), 0.5, 0)] == scores


def test_a_measurement_of_one_class_has_no_areas():
    test = metrics.measure(np.zeros(30, np.float32), np.linspace(0, 1, 30), 0.5, 0)
    assert test["roc_auc"] is None and test["pr_auc"] is None and test["roc_auc_ci95"] is None
    assert test["confusion"] == [[15, 15], [0, 0]] and test["recall"] == 0 and test["recall_ci95"] == [0, 1]
    json.dumps(test, allow_nan=False)


def test_intervals_of_a_very_rare_class_are_valid_json():
    y_true, y_prob = np.zeros(15_000, np.float32), np.random.default_rng(0).random(15_000)
    y_true[:2] = 1
    results = [metrics.measure(y_true, y_prob, 0.5, seed) for seed in range(6)]
    assert any(result["roc_auc_ci95"] is None for result in results) and all(result["roc_auc"] for result in results)
    json.loads(json.dumps(results), parse_constant=pytest.fail)


def test_one_row_of_a_class_has_no_interval_of_its_rank():
    _, y_prob = predictions(40)
    y_true = np.zeros(40, np.float32)
    y_true[3] = 1
    test = metrics.measure(y_true, y_prob, 0.5, 0)
    assert test["roc_auc_ci95"] is None and test["pr_auc_ci95"] is None and len(test["log_loss_ci95"]) == 2
    y_true[4] = 1
    assert len(metrics.measure(y_true, y_prob, 0.5, 0)["roc_auc_ci95"]) == 2


def test_calibration_bins_are_tenths():
    assert metrics.calibration_bins(np.array([0, 0.05, 0.1, 0.55, 0.999, 1])).tolist() == [0, 0, 1, 5, 9, 9]


def choose(text, y_true, y_prob):
    return metrics.choose_threshold(metrics.threshold_rule(text), y_true, y_prob)


@pytest.mark.parametrize("text", ["f1", "balanced"])
def test_threshold_rules_reach_the_best(text):
    y_true, y_prob = predictions(200)

    def score(threshold):
        (tn, fp), (fn, tp) = metrics.confusion_matrix(y_true, y_prob >= threshold)
        return 2 * tp / (2 * tp + fp + fn) if text == "f1" else tp / (tp + fn) + tn / (tn + fp)

    best = max(score(value) for value in np.linspace(0, 1, 1001))
    assert score(choose(text, y_true, y_prob).value) == pytest.approx(best)


def test_threshold_precision_recall_and_cost():
    y_true, y_prob = predictions(500)
    chosen = choose("precision=0.8", y_true, y_prob).value
    assert y_true[y_prob >= chosen].mean() >= 0.8
    chosen = choose("recall=0.9", y_true, y_prob).value
    assert y_true[y_prob >= chosen].sum() / y_true.sum() >= 0.9
    assert choose("cost=1:3", y_true, y_prob).value == 0.25
    assert choose("0.3", y_true, y_prob) == (0.3, "as requested")
    assert choose("0.5", y_true, y_prob) == (0.5, "the more likely class")
    assert "was not reached" in choose("precision=0.9", y_true, 1 - y_prob).reason


@pytest.mark.parametrize("text", ["1.5", "0", "nan", "precision=2", "cost=1", "cost=0:1", "often", "=0.5", ""])
def test_other_rules_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="takes a number between 0 and 1, f1, balanced, "):
        metrics.threshold_rule(text)


def test_temperature_mends_overconfidence_and_leaves_the_rest():
    y_true, y_prob = predictions(3_000, digits=6)
    y_prob = np.clip(y_prob, 0.01, 0.99)
    logits = np.log(y_prob / (1 - y_prob))
    assert metrics.fit_temperature(y_true, 2 * logits)[0] == pytest.approx(2, rel=0.1)
    assert metrics.fit_temperature(y_true, logits)[0] == pytest.approx(1, rel=0.1)
    assert metrics.fit_temperature(y_true[:5], 2 * logits[:5])[0] < 1.5
