"""The comparison with baselines, the verdict and the next steps."""

import argparse
import math

import numpy as np
import pytest

from harvest.results.metrics import log_losses
from harvest.results.verdict import compare, comparison_lines, gains, judge, next_steps


def predictions(rows):
    generator = np.random.default_rng(0)
    y_prob = np.round(generator.random(rows), 6)
    return (generator.random(rows) < y_prob).astype(np.float32), y_prob


@pytest.mark.parametrize("rows", [2_000, 40_000])
def test_a_comparison_has_the_intervals_of_paired_differences(rows):
    y_true, y_prob = predictions(rows)
    other = np.clip(y_prob + np.random.default_rng(5).normal(0, 0.2, rows), 0.01, 0.99)
    found = compare(y_true, (y_prob, 0.5), (other, 0.5))
    losses = log_losses(y_true, y_prob) - log_losses(y_true, other)
    correct = ((y_prob >= 0.5) == y_true).astype(int) - ((other >= 0.5) == y_true)
    for name, differences, slack in (("log_loss", losses, 0.01), ("accuracy", correct, 0.02)):
        (low, high), difference = found[name]["ci95"], found[name]["difference"]
        assert difference == pytest.approx(differences.mean()) and low < difference < high
        assert (high - low) / 2 == pytest.approx(1.96 * differences.std() / math.sqrt(rows), rel=slack)


def compared(rows, gained, lost):
    """Models of which one is correct and the other wrong in so many rows; both are correct in all others."""
    y_true = np.arange(rows) % 2
    model, other = (np.where(y_true, 0.8, 0.2) for _ in range(2))
    model[:lost], other[lost : lost + gained] = 1 - model[:lost], 1 - other[lost : lost + gained]
    return compare(y_true.astype(np.float32), (model, 0.5), (other, 0.5))


@pytest.mark.parametrize(("gained", "lost"), [(10, 2), (2, 10), (30, 10), (7, 7), (0, 0), (60, 85)])
def test_a_difference_in_accuracy_is_tested_by_the_rows_that_one_gets_wrong(gained, lost):
    rows, fewer = gained + lost, min(gained, lost)
    chances = [math.comb(rows, count) / 2**rows for count in range(fewer + 1)]
    mid_p = 2 * sum(chances) - chances[-1] if gained != lost else 1.0  # Fagerland, Lydersen and Laake (2013)
    accuracy = compared(400, gained, lost)["accuracy"]
    assert accuracy["p_value"] == pytest.approx(mid_p, rel=0.15)
    low, high = accuracy["ci95"]
    assert (low > 0 or high < 0) == (accuracy["p_value"] < 0.05)


BETTER, NONE, WORSE = compared(400, 30, 10), compared(400, 12, 8), compared(400, 10, 30)
MAJORITY, LINEAR = "always predicting the majority class", "a logistic regression"
ENCODING = "In scikit-learn, one-hot encode categories, take logarithms of skewed numbers, and scale them."
TEST = {"accuracy_ci95": [0.8, 0.86], "confusion": [[200, 20], [20, 160]]}


def pair(majority, linear):
    return {"majority": majority, "logistic_regression": linear}


def all_gains(comparison, threshold=0.5):
    return {name: gains(**parts, threshold=threshold) for name, parts in comparison.items()}


def judged(comparison, test=TEST, threshold=0.5, caveats=()):
    return judge(all_gains(comparison, threshold), test, "y", threshold, caveats)


@pytest.mark.parametrize(
    ("majority", "linear", "expected"),
    [
        (BETTER, BETTER, f"Worth using: better than {MAJORITY} or {LINEAR}."),
        (
            *(BETTER, NONE),
            f"Worth using, and so is a logistic regression: better than {MAJORITY}; "
            f"no significant improvement over {LINEAR}.",
        ),
        (NONE, NONE, f"Not worth using yet: no significant improvement over {MAJORITY} or {LINEAR}."),
        (WORSE, WORSE, f"Not worth using yet: worse than {MAJORITY} or {LINEAR}."),
        (WORSE, BETTER, f"Not worth using yet: worse than {MAJORITY}; better than {LINEAR}."),
        (BETTER, WORSE, f"Use a logistic regression instead: better than {MAJORITY}; worse than {LINEAR}."),
        (
            *(BETTER, BETTER | {"accuracy": WORSE["accuracy"]}),
            f"Worth using: better than {MAJORITY}; "
            f"better than {LINEAR} in log-loss but worse than {LINEAR} in accuracy.",
        ),
        (
            *(BETTER | {"log_loss": {"difference": -0.01, "ci95": None}}, NONE),
            f"Worth using, and so is a logistic regression: better than {MAJORITY} in accuracy; "
            f"no significant improvement over {LINEAR}.",
        ),
    ],
)
def test_the_verdict_follows_from_paired_differences(majority, linear, expected):
    assert judged(pair(majority, linear)) == [expected]


def test_the_verdict_says_how_reliable_it_is():
    compared_both = pair(BETTER, NONE)
    wide = judged(compared_both, TEST | {"accuracy_ci95": [0.6, 0.9]}, caveats=["Mind the gap."])
    assert wide[1].startswith("The interval of the accuracy is 30 points wide because only 400 rows were tested")
    assert wide[2:] == ["Mind the gap."]
    few = judged(compared_both, TEST | {"confusion": [[390, 3], [3, 4]]})
    assert few[1:] == ["The test has only 7 rows with y = 1: treat this result as indicative only."]
    accuracy_only = pair(NONE | {"accuracy": WORSE["accuracy"]}, NONE)
    unlike = judged(accuracy_only, threshold=0.13)
    assert unlike[0].startswith("Not worth using yet: no significant improvement")  # accuracies are not compared
    assert unlike[1].startswith("The model's threshold is 0.13") and "by ROC AUC and log-loss" in unlike[1]


def test_differences_are_printed_with_their_signs():
    parts = {"log_loss": {"difference": -0.0123, "ci95": [-0.5, 0.25]}}
    parts["accuracy"] = {"difference": 0.056, "ci95": [0.01, 0.1], "p_value": 0.0321}
    assert " ".join(comparison_lines(pair(parts, parts))[:3]).startswith(
        f"Compared with {MAJORITY}: log-loss -0.012 (95% interval -0.500 to +0.250), "
        "accuracy +5.6 points (+1.0 to +10.0, McNemar p = 0.032)."
    )
    parts["log_loss"]["ci95"], parts["accuracy"]["p_value"] = None, 0.0004
    text = " ".join(comparison_lines({"majority": parts}))
    assert "(no interval: one class is too rare)" in text and "McNemar p < 0.001)." in text


def steps(majority, linear, test=TEST, leaks=(), timed=False, suspects=(), generated=False, may_fold=False):
    given, sample = {"folds": 1} if may_fold else {}, 500 if generated else None
    args = argparse.Namespace(label="y", split="random", sample=sample, given=given)
    return next_steps(args, all_gains(pair(majority, linear)), test, leaks, timed, suspects)


def test_what_to_do_next_follows_from_the_results():
    assert steps(BETTER, BETTER) == ["Predict new rows: python predict.py NEW.csv"]
    (only,) = steps(BETTER, NONE)
    simpler = "a logistic regression on the same encoded columns is not measurably worse"
    assert only == f"If you prefer a simpler model: {simpler}. {ENCODING}"
    (only,) = steps(BETTER, WORSE)
    assert only == f"Use a logistic regression on the same encoded columns: it is better. {ENCODING}"
    (only,) = steps(BETTER, BETTER, timed=True)
    assert only.startswith("Train again with --split time")
    assert steps(BETTER, BETTER, leaks=["a: b", "c: d", "e: f"]) == ["a: b.", "c: d."]
    places = [{"line": 7}, {"line": 9, "file": "a.csv"}, {"line": 8}]
    (only,) = steps(BETTER, BETTER, suspects=[*places, *[{"line": 1}] * 17])
    surprising = "to which the model gives a probability below 10%"
    assert only == f"Check the 20 labels {surprising}; start with line 7, a.csv:9, line 8."
    (only,) = steps(BETTER, BETTER, suspects=places[:1])
    assert only == f"Check the label {surprising}: line 7."
    assert len(steps(NONE, WORSE, leaks=["a", "b"], timed=True, suspects=places)) == 4


def test_rows_to_label_are_those_of_the_rare_class():
    rare = TEST | {"confusion": [[390, 3], [3, 4]]}
    more = "Label more rows, chosen at random"
    assert steps(BETTER, BETTER, rare) == [f"{more}: the test has only 7 rows with y = 1 among 400 rows."]
    wide = f"{more}: with four times as many, the interval of the accuracy would narrow to about"
    found = steps(NONE, BETTER, suspects=[{"line": 7}])  # of a model without skill, surprises say nothing
    assert found == ["Add columns that are related to y.", f"{wide} 3 points."]
    assert steps(BETTER, BETTER, TEST | {"accuracy_ci95": [0.6, 0.9]}) == [f"{wide} 15 points."]


@pytest.mark.parametrize("majority", [NONE, WORSE])
def test_a_model_without_skill_needs_other_columns_first(majority):
    columns, rows = steps(majority, BETTER)
    assert columns == "Add columns that are related to y." and rows.startswith("Label more rows, chosen at random: ")
    assert steps(majority, BETTER, leaks=["a"], timed=True)[2:] == [columns, rows]
    assert columns not in steps(BETTER, BETTER, TEST | {"accuracy_ci95": [0.6, 0.9]})


def test_a_single_network_with_a_wide_interval_should_be_cross_validated():
    fold, wide = "Train again without --folds 1: cross-validation tests every row.", {"accuracy_ci95": [0.6, 0.9]}
    first, rows = steps(BETTER, BETTER, TEST | wide, may_fold=True)
    assert first == fold and rows.startswith("Label more rows, chosen at random: ")
    assert steps(BETTER, BETTER, TEST | wide) == [rows]
    assert steps(NONE, BETTER, may_fold=True) == ["Add columns that are related to y.", fold, *steps(NONE, BETTER)[1:]]
    assert fold not in steps(BETTER, BETTER, may_fold=True)  # every row is tested, but no step is needed


def test_nothing_can_be_labeled_in_generated_rows():
    found = steps(NONE, NONE, leaks=["a"], timed=True, suspects=[{"line": 7}], generated=True)
    assert found == ["Train on your own table: these rows were generated."]


@pytest.mark.parametrize("ones", [9, 10, 291])
def test_few_rows_of_a_class_leave_the_log_loss_without_an_interval(ones):
    y_true, y_prob = (np.arange(300) < ones).astype(np.float32), np.linspace(0.1, 0.9, 300)
    found = compare(y_true, (y_prob, 0.5), (np.full(300, 0.5), 0.5))
    assert (found["log_loss"]["ci95"] is None) == (ones != 10) and found["accuracy"]["ci95"]
