"""The numbers a run reports, against plain definitions."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

import report
import train_model_modern as modern


def pairs(rows=300, seed=0, digits=2):
    generator = np.random.default_rng(seed)
    probability = np.round(generator.random(rows), digits)
    return (generator.random(rows) < probability).astype(np.float32), probability


def test_ranking_counts_pairs():
    label, probability = pairs(120, digits=1)
    positive, negative = probability[label == 1], probability[label == 0]
    wins = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    roc, pr = modern.ranking(label, probability, np.ones((1, 120)))
    assert roc[0] == pytest.approx(wins)
    expected, before = 0.0, 0.0
    for threshold in sorted(set(probability), reverse=True):
        predicted = probability >= threshold
        recall = label[predicted].sum() / label.sum()
        expected += (recall - before) * label[predicted].mean()
        before = recall
    assert pr[0] == pytest.approx(expected)


def test_weights_count_as_repeated_rows():
    label, probability = pairs(60)
    weights = np.random.default_rng(1).integers(0, 4, (3, 60))
    for number, row in enumerate(weights):
        repeated = np.repeat(np.arange(60), row)
        alone = modern.ranking(label[repeated], probability[repeated], np.ones((1, len(repeated))))
        together = modern.ranking(label, probability, weights)
        assert (alone[0][0], alone[1][0]) == pytest.approx((together[0][number], together[1][number]))


def test_wilson_covers_the_truth():
    generator = np.random.default_rng(0)
    inside = 0
    for hits in generator.binomial(40, 0.85, 2_000):
        low, high = modern.wilson(hits, 40)
        inside += low <= 0.85 <= high
    assert 0.93 < inside / 2_000 < 0.98
    assert (
        modern.wilson(0, 0) == [0.0, 1.0]
        and modern.wilson(0, 10)[0] == pytest.approx(0)
        and modern.wilson(10, 10)[1] == pytest.approx(1)
    )


def test_bootstrap_is_seeded_and_has_the_width_it_should():
    label, probability = pairs(2_000, digits=6)
    test = modern.measure(label, probability, 0.5, 3)
    assert test == modern.measure(label, probability, 0.5, 3)
    low, high = test["log_loss_ci95"]
    assert low < test["log_loss"] < high
    assert (high - low) / 2 == pytest.approx(
        1.96 * modern.log_losses(label, probability).std() / np.sqrt(2_000), rel=0.15
    )
    label, probability = pairs(40_000, digits=6)
    low, high = modern.measure(label, probability, 0.5, 3)["log_loss_ci95"]
    assert (high - low) / 2 == pytest.approx(
        1.96 * modern.log_losses(label, probability).std() / np.sqrt(40_000), rel=0.2
    )


def test_measure_by_hand():
    test = modern.measure(np.array([1, 1, 0, 0, 0], np.float32), np.array([0.9, 0.4, 0.6, 0.2, 0.1]), 0.5, 0)
    assert test["confusion"] == [[2, 1], [1, 1]]
    assert (test["accuracy"], test["precision"], test["recall"], test["f1"]) == (0.6, 0.5, 0.5, 0.5)
    assert test["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.04 + 0.01) / 5)
    assert test["ece"] == pytest.approx((0.1 + 0.6 + 0.6 + 0.2 + 0.1) / 5)
    json.dumps(test, allow_nan=False)


def test_logistic_regression_is_at_its_optimum():
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(200, 4))
    label = (inputs @ [1, -2, 0.5, 0] + generator.normal(size=200) > 0.3).astype(np.float32)
    places = np.stack([4 + generator.integers(0, 5, 200), 9 + generator.integers(0, 3, 200)], axis=1)
    encoded, whole = modern.SparseRows(inputs, places), np.zeros((200, 12))
    whole[:, :4] = inputs
    np.put_along_axis(whole, places, 1, axis=1)
    weights = modern.fit_logistic_regression(encoded, label, 12)
    gradient = whole.T @ (modern.sigmoid(whole @ weights[:-1] + weights[-1]) - label) + weights[:-1]
    assert abs(gradient).max() < 1e-3
    np.testing.assert_allclose(encoded.times(weights[:-1]), whole @ weights[:-1], atol=1e-9)
    separable = modern.fit_logistic_regression(encoded, (inputs[:, 0] > 0).astype(np.float32), 12)
    assert np.isfinite(separable).all()


@pytest.mark.parametrize("text", ["f1", "balanced"])
def test_threshold_rules_reach_the_best(text):
    label, probability = pairs(200)
    chosen = modern.choose_threshold(modern.threshold_rule(text), label, probability).value

    def score(threshold):
        predicted = probability >= threshold
        hits = (predicted * label).sum()
        if text == "f1":
            return 2 * hits / (predicted.sum() + label.sum())
        return hits / label.sum() + 1 - (predicted * (1 - label)).sum() / (1 - label).sum()

    assert score(chosen) == pytest.approx(max(score(value) for value in np.linspace(0, 1, 1001)))


def test_threshold_precision_recall_and_cost():
    label, probability = pairs(500)
    chosen = modern.choose_threshold(modern.threshold_rule("precision=0.8"), label, probability).value
    assert label[probability >= chosen].mean() >= 0.8
    chosen = modern.choose_threshold(modern.threshold_rule("recall=0.9"), label, probability).value
    assert label[probability >= chosen].sum() / label.sum() >= 0.9
    assert modern.choose_threshold(modern.threshold_rule("cost=1:3"), label, probability).value == 0.25
    assert modern.choose_threshold(modern.threshold_rule("0.3"), label, probability).value == 0.3
    hopeless = modern.choose_threshold(modern.threshold_rule("precision=0.9"), label, 1 - probability)
    assert "was not reached" in hopeless.reason


def test_temperature_mends_overconfidence_and_leaves_the_rest():
    label, probability = pairs(3_000, digits=6)
    probability = np.clip(probability, 0.01, 0.99)
    logits = np.log(probability / (1 - probability))
    assert modern.fit_temperature(label, 2 * logits)[0] == pytest.approx(2, rel=0.1)
    assert modern.fit_temperature(label, logits)[0] == pytest.approx(1, rel=0.1)
    assert modern.fit_temperature(label[:5], 2 * logits[:5])[0] < 1.5


def test_importance_finds_the_column_that_matters(tf, tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "a.csv"
    lines = [",".join(modern.V0_COLUMNS)]
    for _ in range(400):
        key = generator.integers(0, 10_000)
        lines.append(
            f"{generator.integers(0, 4)},{key},{generator.integers(0, 10_000)},{generator.integers(0, 10_000)},"
            f"{int(key > 4_000)}"
        )
    path.write_text("\n".join(lines) + "\n")
    assert modern.main([str(path), "--model-dir", str(tmp_path / "model"), "--quiet"]) == 0
    found = json.loads((tmp_path / "model" / "metrics.json").read_text())["importance"]
    assert next(iter(found)) == "keyboard_activity" and found["keyboard_activity"] > 5 * max(
        value for name, value in found.items() if name != "keyboard_activity"
    )


def test_rules_reach_the_model_and_predict(run, sample, tmp_path):
    path, folder = sample(150), tmp_path / "model"
    assert (
        modern.main(
            [
                str(path),
                "--model-dir",
                str(folder),
                "--quiet",
                "--threshold",
                "recall=0.95",
                "--class-weight",
                "balanced",
                "--epochs",
                "20",
            ]
        )
        == 0
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 < metrics["threshold"] < 1 and metrics["threshold"] != 0.5
    done = run("predict.py", path, "--model-dir", folder)
    for line in done.stdout.splitlines()[1:]:
        probability, predicted = line.split(",")[-2:]
        assert (
            int(predicted) == (float(probability) >= metrics["threshold"])
            or abs(float(probability) - metrics["threshold"]) < 1e-5
        )
    for bad in ("1.5", "precision=2", "cost=1", "cost=0:1", "often"):
        assert modern.main([str(path), "--model-dir", str(tmp_path / "other"), "--threshold", bad]) == 2


def test_intervals_of_a_very_rare_class_are_valid_json():
    label, probability = np.zeros(15_000, np.float32), np.random.default_rng(0).random(15_000)
    label[:2] = 1
    results = [modern.measure(label, probability, 0.5, seed) for seed in range(6)]
    assert any(result["roc_auc_ci95"] is None for result in results) and all(result["roc_auc"] for result in results)
    json.loads(json.dumps(results), parse_constant=pytest.fail)


def test_a_comparison_has_the_intervals_of_paired_differences():
    for rows in (2_000, 40_000):
        label, probability = pairs(rows, digits=6)
        other = np.clip(probability + np.random.default_rng(5).normal(0, 0.2, rows), 0.01, 0.99)
        found = report.compare(label, (probability, 0.5), (other, 0.5), 3)
        assert found == report.compare(label, (probability, 0.5), (other, 0.5), 3)
        losses = modern.log_losses(label, probability) - modern.log_losses(label, other)
        right = ((probability >= 0.5) == label).astype(int) - ((other >= 0.5) == label)
        for name, differences, slack in (("log_loss", losses, 0.2), ("accuracy", right, 0.05)):
            (low, high), difference = found[name]["ci95"], found[name]["difference"]
            assert difference == pytest.approx(differences.mean()) and low < difference < high
            assert (high - low) / 2 == pytest.approx(1.96 * differences.std() / math.sqrt(rows), rel=slack)


def compared(rows, gained, lost):
    """Models of which one is right and the other wrong in so many rows; both are right in all others."""
    label = np.arange(rows) % 2
    model, other = (np.where(label, 0.8, 0.2) for _ in range(2))
    model[:lost], other[lost : lost + gained] = 1 - model[:lost], 1 - other[lost : lost + gained]
    return report.compare(label.astype(np.float32), (model, 0.5), (other, 0.5), 0)


@pytest.mark.parametrize(("gained", "lost"), [(10, 2), (2, 10), (30, 10), (7, 7), (0, 0), (60, 85)])
def test_a_difference_in_accuracy_is_tested_by_the_rows_that_one_gets_wrong(gained, lost):
    rows = gained + lost
    exact = min(1, 2 * sum(math.comb(rows, count) for count in range(min(gained, lost) + 1)) / 2**rows)
    accuracy = compared(400, gained, lost)["accuracy"]
    assert accuracy["p_value"] == pytest.approx(exact, rel=0.2)
    low, high = accuracy["ci95"]
    assert (low > 0 or high < 0) == (accuracy["p_value"] < 0.05)


def test_the_verdict_follows_from_paired_differences():
    def words(*counts):
        return report.judge_baseline("a stone", **compared(*counts))

    assert words(400, 30, 10).startswith("Better than a stone in log-loss and accuracy. Difference in log-loss -0.0")
    assert words(400, 10, 30).startswith("Worse than a stone in log-loss and accuracy. Difference in log-loss +0.0")
    assert words(400, 12, 8).startswith("No significant improvement over a stone. ") and "McNemar p = 0.502" in words(
        400, 12, 8
    )
    mixed = compared(400, 30, 10) | {"accuracy": compared(400, 10, 30)["accuracy"]}
    assert report.judge_baseline("it", **mixed).startswith("Better than it in log-loss, worse than it in accuracy. ")
    better, none = compared(400, 30, 10), compared(400, 5, 5)
    test = {"accuracy_ci95": [0.8, 0.86], "confusion": [[200, 20], [20, 160]]}
    assert len(report.judge({"majority": better, "logistic_regression": none}, test, 1)) == 2
    assert "More labelled rows" in report.judge({"majority": none, "logistic_regression": none}, test, 1)[2]
    wide = report.judge({"majority": better}, test | {"accuracy_ci95": [0.6, 0.9]}, 10)
    assert "30 points wide, as only 400 rows" in wide[0] and "mean of all 10" in wide[2]
    unlike = report.judge({"majority": none}, test, 1, 1.0, "balanced class weights")
    assert len(unlike) == 2 and "compare them by ROC AUC" in unlike[1]
    assert (
        "30 % that of the net and 70 % that of a logistic regression"
        in report.judge({"majority": better}, test, 1, 0.3)[1]
    )


def test_always_the_majority_ranks_nothing_with_folds_either(tf, sample):
    table = modern.read_table(modern.parse_options([str(sample(150))]))
    splits = modern.split_folds(table.label, 47, 1)
    encoding, encoders, features = modern.fit_encoding(table, splits)
    linear = np.zeros(encoding.linear_width + 1)
    parts = zip(splits, encoders, strict=True)
    folds = [SimpleNamespace(split=split, encoder=encoder, linear=linear) for split, encoder in parts]
    run = SimpleNamespace(features=features, encoding=encoding, folds=folds, options=SimpleNamespace(seed=0))
    majority, test = modern.measure_baselines(run)["majority"]
    label = table.label[np.concatenate([split.test for split in splits])]
    assert test["roc_auc"] == 0.5 and test["roc_auc_ci95"] == [0.5, 0.5]
    assert majority.mean() == pytest.approx(label.mean(), abs=1e-3)


@pytest.mark.parametrize("label", ["productive", "churn"])
def test_the_table_of_results_fits_80_columns(label):
    truth, probability = pairs(200)
    test, worst = (modern.measure(truth, part, 0.5, 0) for part in (probability, np.full(200, 1e-9)))
    bases = {"majority": worst, "logistic_regression": test}
    lines = modern.show_result(label, test, bases, modern.Choice(0.5, "as requested"), 5)
    assert max(map(len, lines)) <= 80 and not [line for line in lines if line != line.rstrip()]
    text, auc = " ".join(" ".join(lines).split()), modern.interval(test["roc_auc_ci95"], 1, 3)
    accuracy = modern.interval(test["accuracy_ci95"])
    assert f"accuracy {100 * test['accuracy']:.1f} % {accuracy} " in text
    assert f"ROC AUC {test['roc_auc']:.3f} {auc} " in text
    hits, positive = test["confusion"][1][1], sum(test["confusion"][1])
    names = {"productive": "productive rows", "churn": "rows with churn = 1"}
    assert f"Found {hits} of {positive} {names[label]};" in text


def test_one_row_of_a_class_has_no_interval_of_its_rank():
    _, probability = pairs(40)
    label = np.zeros(40, np.float32)
    label[3] = 1
    test = modern.measure(label, probability, 0.5, 0)
    assert test["roc_auc_ci95"] is None and test["pr_auc_ci95"] is None and len(test["log_loss_ci95"]) == 2
    label[4] = 1
    assert len(modern.measure(label, probability, 0.5, 0)["roc_auc_ci95"]) == 2
