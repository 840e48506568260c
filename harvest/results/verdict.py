"""Is the model worth using? The comparison with the baselines, the verdict in sentences, and the next steps."""

import math
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import numpy as np

from harvest.results.metrics import FEWEST_OF_CLASS, Z_95, log_losses, paired_difference, too_few
from harvest.text import HARD_SPACE, rows_of, wrap

BASELINES = {"majority": "always predicting the majority class", "logistic_regression": "a logistic regression"}
WIDE = 15  # points: if the interval of the accuracy is wider, the result is only indicative
MOST_STEPS = 4
# The baseline has the network's inputs, so a logistic regression of unencoded columns is often much worse.
ENCODING = "In scikit-learn, one-hot encode categories, take logarithms of skewed numbers, and scale them."

FEW_COMBINATIONS = "Most rows have the same cells as others. Such rows stay together, so the test measures predictions "
FEW_COMBINATIONS += "for combinations of cells that were not in training; for known ones, the model may be much better."

Comparison = dict[str, dict[str, dict[str, Any]]]  # compare() by baseline
Gains = dict[str, dict[str, int]]  # gains() by baseline


def compare(
    y_true: np.ndarray, model: tuple[np.ndarray, float | np.ndarray], baseline: tuple[np.ndarray, float | np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Log-loss and accuracy of the model minus those of a baseline on the same rows, paired, with 95% intervals.

    Each is a pair: probabilities [N], and the threshold, or thresholds [N], at or above which they count as 1. If a
    class has few rows, the interval of the difference in log-loss is None.
    """
    rows, ones = len(y_true), np.count_nonzero(y_true)
    losses = log_losses(y_true, model[0]) - log_losses(y_true, baseline[0])
    mean, half = float(losses.mean()), float(Z_95 * losses.std() / math.sqrt(rows))
    correct = [(y_prob >= threshold) == (y_true > 0.5) for y_prob, threshold in (model, baseline)]
    gained, lost = int(np.sum(correct[0] & ~correct[1])), int(np.sum(correct[1] & ~correct[0]))
    ci95, p_value = paired_difference(gained, lost, rows)
    few = min(ones, rows - ones) < FEWEST_OF_CLASS
    return {
        "log_loss": {"difference": mean, "ci95": None if few else [mean - half, mean + half]},
        "accuracy": {"difference": (gained - lost) / rows, "ci95": ci95, "p_value": p_value},
    }


def gains(log_loss: dict[str, Any], accuracy: dict[str, Any], threshold: float) -> dict[str, int]:
    """Whether the model is better (1) or worse (-1) than a baseline in each metric; 0 if it may be chance.

    Accuracies at different thresholds are not compared.
    """
    low, high = log_loss["ci95"] or (-math.inf, math.inf)
    is_clear = accuracy["p_value"] < 0.05 and threshold == 0.5
    return {"log-loss": (high < 0) - (low > 0), "accuracy": int(np.sign(accuracy["difference"])) if is_clear else 0}


def describe_gains(name: str, found: dict[str, int]) -> str:
    parts = []
    for comparative, sign in (("better", 1), ("worse", -1)):
        metrics = [metric for metric, gain in found.items() if gain == sign]
        if metrics:
            parts.append(f"{comparative} than {name}" + f" in {metrics[0]}" * (len(metrics) < len(found)))
    return " but ".join(parts) or f"no significant improvement over {name}"


def judge(found: Gains, test: dict[str, Any], label: str, threshold: float, caveats: Sequence[str]) -> list[str]:
    """The verdict in sentences: whether the model is worth using, then how reliable the test is."""
    majority, linear = (rank(found[name]) for name in BASELINES)
    decision = "Not shown to be worth using" if FEW_COMBINATIONS in caveats else "Not worth using yet"
    if majority > 0:
        decisions = {0: "Worth using, and so is a logistic regression", -1: "Use a logistic regression instead"}
        decision = decisions.get(linear, "Worth using")
    reasons = [describe_gains(BASELINES[name], gain) for name, gain in found.items()]
    if found["majority"] == found["logistic_regression"]:
        reasons = [describe_gains(" or ".join(BASELINES.values()), found["majority"])]
    sentences, few = [f"{decision}: {'; '.join(reasons)}."], too_few(test["confusion"])
    counts, width = [sum(row) for row in test["confusion"]], interval_width(test)
    if few:
        rare = " and ".join(f"{counts[value]:,} {rows_of(label, value)}" for value in few)
        sentences.append(f"The test has only {rare}: treat this result as indicative only.")
    elif width > WIDE:
        wide = f"The interval of the accuracy is {width:.0f} points wide because only {sum(counts):,} rows were tested"
        sentences.append(f"{wide}: treat this result as indicative only.")
    sentences += caveats
    if threshold != 0.5:
        unlike = f"The model's threshold is {threshold:.3g}, but that of the baselines is 0.5"
        sentences.append(f"{unlike}: compare them by ROC AUC and log-loss, not by accuracy.")
    return sentences


def rank(found: dict[str, int]) -> int:
    """Better (1), worse (-1) or neither (0): the log-loss decides if the metrics disagree."""
    return found["log-loss"] or found["accuracy"]


def interval_width(test: dict[str, Any]) -> float:
    """The width of the interval of the accuracy in points."""
    return 100 * float(np.diff(test["accuracy_ci95"]).item())


def comparison_lines(comparison: Comparison) -> list[str]:
    """The differences in numbers."""
    lines = []
    for name, parts in comparison.items():
        log_loss, accuracy = parts["log_loss"], parts["accuracy"]
        low, high = log_loss["ci95"] or (0, 0)
        ends = f"95% interval {low:+.3f} to {high:+.3f}" if log_loss["ci95"] else "no interval: one class is too rare"
        difference, lowest, highest = (100 * share for share in (accuracy["difference"], *accuracy["ci95"]))
        p_value = accuracy["p_value"]
        chance = ("p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}").replace(" ", HARD_SPACE)
        points = f"{difference:+.1f} points ({lowest:+.1f} to {highest:+.1f}, McNemar {chance})"
        text = f"Compared with {BASELINES[name]}: log-loss {log_loss['difference']:+.3f} ({ends}), accuracy {points}."
        lines += wrap(text)
    return lines


def next_steps(
    args: Namespace,
    found: Gains,
    test: dict[str, Any],
    leaks: Sequence[str],
    timed: bool,
    suspects: list[dict[str, Any]],
) -> list[str]:
    """One to four recommendations, the most important first.

    leaks: warnings about columns. timed: rows close in time were split at random. suspects: rows whose labels are worth
    a second look.
    """
    majority, linear = (rank(found[name]) for name in BASELINES)
    if args.sample:  # no one can label more generated rows
        steps = ["Train on your own table: these rows were generated."]
    else:
        steps = [f"{leak}." for leak in leaks[:2]]
        if timed:
            steps.append("Train again with --split time, which tests on the latest rows.")
        steps += more_rows(args, test, majority)
        if suspects and majority > 0:
            rows = f"the {len(suspects)} labels" if len(suspects) > 1 else "the label"
            places = [(f"{row['file']}:" if "file" in row else "line ") + str(row["line"]) for row in suspects[:3]]
            first = f"{'; start with' if len(suspects) > 3 else ':'} {', '.join(places)}"
            steps.append(f"Check {rows} to which the model gives a probability below 10%{first}.")
    if linear < 0:
        steps.append(f"Use a logistic regression on the same encoded columns: it is better. {ENCODING}")
    elif majority > 0 and not linear:
        simple = "a logistic regression on the same encoded columns is not measurably worse"
        steps.append(f"If you prefer a simpler model: {simple}. {ENCODING}")
    return steps[:MOST_STEPS] or ["Predict new rows: python predict.py NEW.csv"]


def more_rows(args: Namespace, test: dict[str, Any], majority: int) -> list[str]:
    """What to do about too few rows: the result is uncertain, or no better than the majority class.

    New rows must be a random sample: with more rows of one class only, the probabilities would no longer be right.
    """
    counts, width = [sum(row) for row in test["confusion"]], interval_width(test)
    rarer = int(counts[1] <= counts[0])
    if not too_few(test["confusion"]) and width <= WIDE and majority > 0:
        return []
    steps = [f"Add columns that are related to {args.label}."] * (majority <= 0)
    if args.given.get("folds") == 1 and args.split == "random":
        steps.append("Train again without --folds 1: cross-validation tests every row.")
    why = f"with four times as many, the interval of the accuracy would narrow to about {width / 2:.0f} points"
    if counts[rarer] < 0.3 * sum(counts):
        why = f"the test has only {counts[rarer]:,} {rows_of(args.label, rarer)} among {sum(counts):,} rows"
    return [*steps, f"Label more rows, chosen at random: {why}."]
