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
    y_pred = y_prob >= 0.5
    assert metrics.confusion_matrix(y_true, y_pred).tolist() == sklearn.confusion_matrix(y_true, y_pred).tolist()
    assert metrics.roc_auc_score(y_true, y_prob) == pytest.approx(sklearn.roc_auc_score(y_true, y_prob))
    inside = np.clip(y_prob, 1e-3, 1 - 1e-3)
    assert metrics.log_losses(y_true, inside).mean() == pytest.approx(sklearn.log_loss(y_true, inside))
    test = metrics.measure(y_true, y_prob, 0.5)
    assert test["brier"] == pytest.approx(sklearn.brier_score_loss(y_true, y_prob))
    for name in ("accuracy", "precision", "recall", "f1"):
        score = getattr(sklearn, f"{name}_score")
        assert test[name] == pytest.approx(
            score(y_true, y_pred, **({} if name == "accuracy" else {"zero_division": 0}))
        )
    assert (test["roc_auc"], test["pr_auc"]) == pytest.approx(
        (sklearn.roc_auc_score(y_true, y_prob), sklearn.average_precision_score(y_true, y_prob))
    )


def area(name, y_true, y_prob):
    return getattr(metrics, name)(*metrics.count_by_score(y_true, y_prob))[0]


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
    assert area("average_precision", y_true, y_prob) == pytest.approx(expected)


def leave_one_out(name, y_true, y_prob):
    """The variance of a score by the jackknife."""
    kept = ~np.eye(len(y_true), dtype=bool)
    values = np.array([area(name, y_true[rows], y_prob[rows]) for rows in kept])
    return (len(values) - 1) * values.var()


@pytest.mark.parametrize("digits", [1, 9])
@pytest.mark.parametrize("name", ["roc_auc", "average_precision"])
def test_the_variance_of_an_area_is_that_of_leaving_rows_out(name, digits, monkeypatch):
    y_true, y_prob = predictions(800, digits=digits)
    found = []
    monkeypatch.setattr(metrics, "share_interval", lambda share, variance: found.append(variance) or [0.0, 1.0])
    _, interval = getattr(metrics, name)(*metrics.count_by_score(y_true, y_prob))
    assert interval == [0.0, 1.0]
    variance = found[0]
    expected = leave_one_out(name, y_true, y_prob)
    assert variance == pytest.approx(expected, rel=0.06)


def normal_scores(ones, zeros, distance, generator):
    y_true = np.repeat([1.0, 0.0], [ones, zeros])
    return y_true, metrics.sigmoid(generator.normal(size=ones + zeros) + distance * y_true)


@pytest.mark.parametrize(
    ("ones", "zeros", "distance", "area"),
    [(12, 1_988, 1.5, 0.8556), (100, 1_900, 2.5, 0.9615), (1_000, 1_000, 0.5, 0.6382), (20, 20, 3.0, 0.9831)],
)
def test_intervals_of_the_area_hold_the_truth(ones, zeros, distance, area):
    generator, inside = np.random.default_rng(1), 0
    for _ in range(600):
        low, high = metrics.roc_auc(*metrics.count_by_score(*normal_scores(ones, zeros, distance, generator)))[1]
        inside += low <= area <= high
    assert 0.93 <= inside / 600 <= 0.99


def test_an_interval_of_many_rows_sees_all_of_a_rare_class():
    y_true, y_prob = normal_scores(100, 149_900, 1.5, np.random.default_rng(2))
    low, high = metrics.measure(y_true, y_prob, 0.5)["roc_auc_ci95"]
    placed = metrics.roc_auc_score
    rank = np.searchsorted(np.sort(y_prob[100:]), y_prob[:100]) / 149_900
    assert (high - low) / 2 == pytest.approx(1.96 * rank.std() / 10, rel=0.1)
    assert low < placed(y_true, y_prob) < high


def test_a_perfect_score_is_not_certain():
    y_true = np.repeat([1.0, 0.0], [12, 40])
    test = metrics.measure(y_true, np.where(y_true, 0.9, 0.1), 0.5)
    for name in ("roc_auc", "pr_auc"):
        low, high = test[f"{name}_ci95"]
        assert test[name] == 1 and 0.7 < low < 0.97 and high == pytest.approx(1)


@pytest.mark.parametrize(("ones", "zeros", "few"), [(9, 40, [1]), (40, 9, [0]), (10, 10, []), (3, 4, [0, 1])])
def test_few_rows_of_a_class_have_no_interval(ones, zeros, few):
    test = metrics.measure(*normal_scores(ones, zeros, 1.0, np.random.default_rng(0)), 0.5)
    assert metrics.too_few(test["confusion"]) == few
    for name in ("roc_auc", "pr_auc", "log_loss"):
        assert (test[f"{name}_ci95"] is None) == bool(few)
    said = metrics.missing_intervals("churn", test)
    assert said == (
        "" if not few else f"ROC AUC and log-loss have no interval: too few rows with {said.split(' with ')[1]}"
    )
    assert [f"churn = {label}" in said for label in (0, 1)] == [0 in few, 1 in few]


def test_an_interval_of_skewed_values_leans_to_their_side():
    generator, inside, plain = np.random.default_rng(3), 0, 0
    for _ in range(2_000):
        values = generator.lognormal(0, 1, 60)
        low, high = metrics.mean_interval(values)
        inside += low <= np.exp(0.5) <= high
        plain += abs(values.mean() - np.exp(0.5)) <= 1.96 * values.std() / np.sqrt(60)
    assert 0.92 < inside / 2_000 < 0.97 and inside > plain
    values = generator.normal(3, 1, 10_000)
    assert metrics.mean_interval(values) == pytest.approx([3 - 0.0196, 3 + 0.0196], abs=0.03)
    assert metrics.mean_interval(np.full(30, 2.0)) == [2.0, 2.0]
    assert metrics.mean_interval(np.repeat([1.0, 3.0], 50)) == pytest.approx([1.804, 2.196], abs=1e-4)


@pytest.mark.parametrize(("rows", "better", "worse"), [(40, 0.2, 0.05), (2_000, 0.03, 0.02), (150_000, 0.0004, 0.0002)])
def test_intervals_of_paired_proportions_hold_the_truth(rows, better, worse):
    generator, inside = np.random.default_rng(4), 0
    for gained, lost, _ in generator.multinomial(rows, [better, worse, 1 - better - worse], 600).tolist():
        low, high = metrics.paired_difference(gained, lost, rows)[0]
        inside += low <= better - worse <= high
    assert 0.925 <= inside / 600 <= 0.98


@pytest.mark.parametrize("rows", [20, 75, 4_000])
def test_an_interval_leaves_zero_out_exactly_when_p_is_below_5_percent(rows):
    for gained in range(21):
        for lost in range(21 - gained):
            (low, high), p_value = metrics.paired_difference(gained, lost, rows)
            assert -1 <= low <= (gained - lost) / rows <= high <= 1
            assert (low > 0 or high < 0) == (p_value < 0.05)
            mirrored = metrics.paired_difference(lost, gained, rows)
            assert [-high, -low, p_value] == pytest.approx([*mirrored[0], mirrored[1]])


def test_wilson_covers_the_truth():
    generator, inside = np.random.default_rng(0), 0
    for successes in generator.binomial(40, 0.85, 2_000):
        low, high = metrics.wilson(successes, 40)
        inside += low <= 0.85 <= high
    assert 0.93 < inside / 2_000 < 0.98
    assert metrics.wilson(0, 0) == [0.0, 1.0]
    assert metrics.wilson(0, 10)[0] == pytest.approx(0) and metrics.wilson(10, 10)[1] == pytest.approx(1)


@pytest.mark.parametrize("rows", [2_000, 40_000])
def test_the_interval_of_the_log_loss_has_the_width_it_should(rows):
    y_true, y_prob = predictions(rows, digits=6)
    test = metrics.measure(y_true, y_prob, 0.5)
    low, high = test["log_loss_ci95"]
    assert low < test["log_loss"] < high
    expected = 1.96 * metrics.log_losses(y_true, y_prob).std() / np.sqrt(rows)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.02)


def test_every_row_may_have_a_threshold_of_its_own():
    y_true, y_prob = predictions(200)
    thresholds = np.repeat([0.2, 0.7], 100)
    test = metrics.measure(y_true, y_prob, thresholds)
    assert test["confusion"] == metrics.confusion_matrix(y_true, y_prob >= thresholds).tolist()


def test_measure_by_hand():
    y_true, y_prob = np.array([1, 1, 0, 0, 0], np.float32), np.array([0.9, 0.4, 0.6, 0.2, 0.1])
    test = metrics.measure(y_true, y_prob, 0.5)
    assert test["confusion"] == [[2, 1], [1, 1]]
    assert (test["accuracy"], test["precision"], test["recall"], test["f1"]) == (0.6, 0.5, 0.5, 0.5)
    assert test["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.04 + 0.01) / 5)
    assert test["ece"] == pytest.approx((0.1 + 0.6 + 0.6 + 0.2 + 0.1) / 5)
    json.dumps(test, allow_nan=False)


def test_the_entries_of_a_measurement_keep_their_order():
    scores = ["accuracy", "accuracy_ci95", "precision", "precision_ci95", "recall", "recall_ci95", "f1"]
    scores += ["roc_auc", "pr_auc", "log_loss", "brier", "ece", "confusion"]
    scores += ["roc_auc_ci95", "pr_auc_ci95", "log_loss_ci95"]
    assert [*metrics.measure(*predictions(), 0.5)] == scores


def test_a_measurement_of_one_class_has_no_areas():
    test = metrics.measure(np.zeros(30, np.float32), np.linspace(0, 1, 30), 0.5)
    assert test["roc_auc"] is None and test["pr_auc"] is None and test["roc_auc_ci95"] is None
    assert test["confusion"] == [[15, 15], [0, 0]] and test["recall"] == 0 and test["recall_ci95"] == [0, 1]
    json.dumps(test, allow_nan=False)


def test_a_measurement_of_a_very_rare_class_is_valid_json():
    y_true, y_prob = np.zeros(15_000, np.float32), np.random.default_rng(0).random(15_000)
    y_true[:2] = 1
    test = metrics.measure(y_true, y_prob, 0.5)
    assert test["roc_auc"] and test["roc_auc_ci95"] is None
    json.loads(json.dumps(test), parse_constant=pytest.fail)


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
    assert choose("0.5", y_true, y_prob) == (0.5, "predicts the more likely class")
    assert "was not reached" in choose("precision=0.9", y_true, 1 - y_prob).reason
    assert metrics.choose_threshold(("classes", 0.13), y_true, y_prob).value == 0.13


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("text", ["f1", "balanced", "recall=0.9", "precision=0.9"])
def test_rows_of_one_class_give_a_threshold(text, label):
    assert 0 <= choose(text, np.full(30, label, np.float32), np.linspace(0.1, 0.9, 30)).value <= 1


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


@pytest.mark.parametrize("factor", [0.1, 0.3, 5, 12])
def test_temperatures_are_not_held_in_narrow_bounds(factor):
    y_true, y_prob = predictions(20_000, digits=6)
    y_prob = np.clip(y_prob, 0.01, 0.99)
    logits = factor * np.log(y_prob / (1 - y_prob))
    assert metrics.fit_temperature(y_true, logits)[0] == pytest.approx(factor, rel=0.05)
