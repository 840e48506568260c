"""Scores of predicted probabilities with their 95% intervals, calibration, and the choice of a threshold.

Names and signatures are those of scikit-learn if it has the function. y_true [N] is always 0 or 1, and y_prob [N] the
probability of 1.
"""

import argparse
import contextlib
import math
from typing import Any

import numpy as np

from harvest.cli import positive_number
from harvest.decision import Decision

FEWEST_OF_CLASS = 10  # rows: with fewer of a class, ROC AUC, PR AUC and log-loss have no interval
CALIBRATION_ROWS = 20_000  # at most; more rows do not make the temperature more accurate
CALIBRATION_BINS = 10
Z_95 = 1.959964  # so many standard deviations around the mean contain 95% of a normal distribution


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))


def confusion_matrix(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """[[tn, fp], [fn, tp]]; y_pred [N] is 0 or 1."""
    return np.bincount(2 * (y_true > 0.5) + y_pred, minlength=4).reshape(2, 2)


def count_by_score(y_true: np.ndarray, y_score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of rows of 1 and of 0 with each of S different scores, lowest first: [S], [S]."""
    order = np.argsort(y_score, kind="stable")
    ranked, ones = y_score[order], y_true[order].astype(float)
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    return np.add.reduceat(ones, starts), np.add.reduceat(1 - ones, starts)


def roc_auc_score(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """The share of pairs of a row of 1 and a row of 0 that the score ranks correctly; NaN if there is no pair."""
    return roc_auc(*count_by_score(y_true, y_score))[0]


def roc_auc(positive: np.ndarray, negative: np.ndarray) -> tuple[float, list[float] | None]:
    """The area under the ROC curve and its 95% interval, from counts by score.

    The variance is that of DeLong, DeLong and Clarke-Pearson (1988), computed from ranks (Sun and Xu, 2014).
    """
    ones, zeros = positive.sum(), negative.sum()
    if not ones or not zeros:
        return math.nan, None
    rank_of_ones = (np.cumsum(negative) - negative / 2) / zeros  # the share of rows of 0 with a lower score
    rank_of_zeros = 1 - (np.cumsum(positive) - positive / 2) / ones
    area = float(positive @ rank_of_ones / ones)
    if min(ones, zeros) < FEWEST_OF_CLASS:
        return area, None
    if len(positive) == 1:
        return area, [area, area]  # with one score for all rows, the area is 0.5 in any sample
    variance = smoothed_variance(area, positive @ (rank_of_ones - area) ** 2, ones, 2, 1)
    variance += smoothed_variance(area, negative @ (rank_of_zeros - area) ** 2, zeros, 2, 1)
    return area, share_interval(area, variance)


def average_precision(positive: np.ndarray, negative: np.ndarray) -> tuple[float, list[float] | None]:
    """The area under the precision-recall curve, as a sum of steps, and its 95% interval, from counts by score.

    The variance is the sum of squares of each row's influence (the infinitesimal jackknife of Jaeckel, 1972).
    """
    ones, zeros = positive.sum(), negative.sum()
    if not ones:
        return math.nan, None
    predicted = np.cumsum((positive + negative)[::-1])[::-1]
    precision = np.cumsum(positive[::-1])[::-1] / predicted
    area = float(positive @ precision / ones)
    gain, loss = np.cumsum(positive / predicted), np.cumsum(positive * precision / predicted)
    squares = positive @ (precision - area + gain - loss) ** 2 + negative @ loss**2
    variance = smoothed_variance(area, squares, ones, 4, 8)
    return area, share_interval(area, variance) if min(ones, zeros) >= FEWEST_OF_CLASS else None


def share_spread(share: float) -> float:
    """The largest variance of values in 0 to 1 with this mean; above 0, because others are divided by it."""
    return max(share * (1 - share), 1e-12)


def smoothed_variance(share: float, squares: float, rows: float, added: int, lost: int) -> float:
    """The variance of a share over so many rows, from the sum of squares of their contributions and some added rows.

    Few rows underestimate the variance, and rows with a perfect score have none, so some rows with the largest possible
    variance are added. Their number and the degrees of freedom lost are from the simulation in benchmarks/coverage.py.
    """
    return float((squares + added * share_spread(share)) / max(1, rows + added - lost) / rows)


def share_interval(share: float, variance: float) -> list[float]:
    """95% interval of a share in 0 to 1: that of a proportion with this variance."""
    trials = share_spread(share) / variance
    return wilson(share * trials, trials)


def paired_difference(gained: int, lost: int, rows: int) -> tuple[list[float], float]:
    """95% interval and p-value of the difference (gained - lost) / rows of two proportions of the same rows.

    The p-value is that of McNemar's test (1947). The interval contains the differences that the same score test does
    not reject (Tango, 1998), so it excludes 0 if and only if p < 0.05.
    """

    def score(difference: float) -> float:
        linear = (2 * rows - gained + lost) * difference - gained - lost
        root = math.sqrt(linear**2 + 8 * rows * lost * difference * (1 - difference))
        variance = rows * ((root - linear) / (2 * rows) + difference * (1 - difference))
        return (gained - lost - rows * difference) / math.sqrt(max(variance, 1e-12))

    def end(z: float, low: float, high: float) -> float:
        for _ in range(60):  # the score decreases with the difference
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > z else (low, middle)
        return middle

    estimate = (gained - lost) / rows
    ends = [end(Z_95, -1.0, estimate), end(-Z_95, estimate, 1.0)]
    return ends, math.erfc(abs(score(0.0)) / math.sqrt(2))


def log_losses(y_true: np.ndarray, y_prob: np.ndarray) -> np.ndarray:
    """The log-loss of each row."""
    y_prob = np.clip(y_prob.astype(float), 1e-7, 1 - 1e-7)
    return -np.where(y_true > 0.5, np.log(y_prob), np.log1p(-y_prob))


def calibration_bins(y_prob: np.ndarray) -> np.ndarray:
    """The bin of each probability, 0 to 9, of ten with equal widths."""
    return np.minimum((y_prob * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def wilson(successes: float, trials: float) -> list[float]:
    """95% interval of a proportion (Wilson, 1927)."""
    if not trials:
        return [0.0, 1.0]
    z, share = Z_95, successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def mean_interval(values: np.ndarray) -> list[float]:
    """95% interval of the mean of skewed values [N], with the transformation of Hall (1992)."""
    mean, deviation, root = values.mean(), values.std(), math.sqrt(len(values))
    if not deviation:
        return [float(mean)] * 2
    skew = float(((values - mean) ** 3).mean()) / deviation**3 / root
    if abs(skew) < 1e-6:
        return [float(mean + z * deviation / root) for z in (-Z_95, Z_95)]
    return [float(mean - deviation / root * 3 / skew * (np.cbrt(1 + skew * (z - skew / 6)) - 1)) for z in (Z_95, -Z_95)]


def measure(y_true: np.ndarray, y_prob: np.ndarray, threshold: float | np.ndarray) -> dict[str, Any]:
    """The scores of a test as in metrics.json, with 95% intervals; None where the rows do not define a score.

    The threshold may be an array [N].
    """
    (tn, fp), (fn, tp) = confusion = confusion_matrix(y_true, y_prob >= threshold).tolist()
    proportions = {"accuracy": (tp + tn, len(y_true)), "precision": (tp, tp + fp), "recall": (tp, tp + fn)}
    result: dict[str, Any] = {}
    for name, (successes, trials) in proportions.items():
        result |= {name: successes / max(1, trials), f"{name}_ci95": wilson(successes, trials)}
    result["f1"] = 2 * tp / max(1, 2 * tp + fp + fn)
    counts, losses = count_by_score(y_true, y_prob), log_losses(y_true, y_prob)
    (roc, roc_ends), (precision_recall, precision_recall_ends) = roc_auc(*counts), average_precision(*counts)
    result |= {"roc_auc": roc, "pr_auc": precision_recall, "log_loss": float(losses.mean())}
    result["brier"] = float(np.mean(np.square(y_prob - y_true)))
    # Expected calibration error: the mean distance of probability and frequency by bin (Naeini et al., 2015).
    distances = np.bincount(calibration_bins(y_prob), y_prob - y_true, minlength=CALIBRATION_BINS)
    result |= {"ece": float(np.abs(distances).sum() / len(y_true)), "confusion": confusion}
    result |= {"roc_auc_ci95": roc_ends, "pr_auc_ci95": precision_recall_ends}
    result["log_loss_ci95"] = None if too_few(confusion) else mean_interval(losses)
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in result.items()}


def too_few(confusion: list[list[int]]) -> list[int]:
    """The classes, 0 or 1, with too few rows for the intervals of ROC AUC and log-loss."""
    return [label for label, counts in enumerate(confusion) if sum(counts) < FEWEST_OF_CLASS]


def missing_intervals(label: str, test: dict[str, Any]) -> str:
    """Why some scores of measure() have no interval; "" if all have one."""
    if test["log_loss_ci95"]:
        return ""
    few = " and ".join(f"{label} = {value}" for value in too_few(test["confusion"]))
    return f"ROC AUC and log-loss have no interval: too few rows with {few}."


def threshold_rule(text: str) -> tuple[str, float | None]:
    """A rule to choose the threshold, as given to --threshold: its name and its number, if any."""
    if text in ("f1", "balanced"):
        return text, None
    name, _, value = text.partition("=")
    with contextlib.suppress(ValueError, argparse.ArgumentTypeError):
        if name == "cost":
            false_positive, false_negative = map(positive_number, value.split(":"))
            number = false_positive / (false_positive + false_negative)
        elif name in ("precision", "recall"):
            number = float(value)
        else:
            name, number = "fixed", float(text)
        if 0 < number < 1:
            return name, number
    rules = "a number between 0 and 1, f1, balanced, precision=0.9, recall=0.9 or cost=FP:FN"
    raise argparse.ArgumentTypeError(f"takes {rules}, not {text}")


def choose_threshold(rule: tuple[str, float | None], y_true: np.ndarray, y_prob: np.ndarray) -> Decision:
    """The best threshold by a rule on validation rows, and the reason."""
    name, number = rule
    if name == "fixed":
        return Decision(number, "as requested" if number != 0.5 else "predicts the more likely class")
    if name == "classes":
        reason = "the share of 1 in training, because balanced class weights give both classes the same weight"
        return Decision(number, reason)
    if name == "cost":
        return Decision(number, "where the expected costs of a false alarm and a miss are equal")
    order = np.argsort(-y_prob, kind="stable")
    y_prob, tp = y_prob[order], np.cumsum(y_true[order])
    predicted, positives = np.arange(1, len(y_true) + 1), y_true.sum()
    precision, recall = tp / predicted, tp / max(1, positives)
    least = number or 0.0
    score = {
        "f1": 2 * tp / (predicted + positives),
        "balanced": recall + 1 - (predicted - tp) / max(1, len(y_true) - positives),
        "precision": np.where(precision >= least, 1 + recall, precision),
        "recall": np.where(recall >= least, 1 + precision, recall),
    }[name]
    last = np.append(np.diff(y_prob) != 0, True)  # equal probabilities cannot be separated
    best = int(np.argmax(np.where(last, score, -1)))
    wanted = name if number is None else f"{name} {number:g}"
    missed = f"; {wanted} was not reached" if number and score[best] < 1 else ""
    reason = f"best for {wanted} on {len(y_true):,} validation rows{missed}"
    return Decision(float(np.append(y_prob, 0)[best : best + 2].mean()), reason)


def fit_temperature(y_true: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """The divisor of logits [N] that minimizes their log-loss (Guo et al., 2017), kept near 1 if rows are few.

    The second value is the minimum: the sum of the log-losses and a penalty for the distance of the divisor from 1.
    """
    step = max(1, len(y_true) // CALIBRATION_ROWS)
    y_true, logits = y_true[::step], logits[::step]

    def penalized(logarithm: float) -> tuple[float, float]:
        return float(log_losses(y_true, sigmoid(logits / math.exp(logarithm))).sum() + 10 * logarithm**2), logarithm

    _, nearest = min(map(penalized, np.linspace(-3, 3, 31)))
    loss, logarithm = min(map(penalized, nearest + np.linspace(-0.2, 0.2, 21)))
    return math.exp(logarithm), loss
