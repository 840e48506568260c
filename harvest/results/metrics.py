"""Scores of predicted probabilities with their 95 % intervals, calibration, and the choice of a threshold.

Names and signatures are those of scikit-learn where it has them. In all functions y_true [N] is 0 or 1 and y_prob [N]
the probability of 1. sample_weight is [N], or [R, N] for R weightings of the same rows, whose scores are then [R].
"""

import argparse
import contextlib
import functools
import math
from typing import Any

import numpy as np

from harvest.cli import positive_number
from harvest.decision import Decision

RESAMPLES = 1_000
BOOTSTRAP_ROWS = 5_000  # more rows than this are resampled in part, and the interval narrowed accordingly
CALIBRATION_ROWS = 20_000  # from which a temperature is known well enough
CALIBRATION_BINS = 10
Z_95 = 1.959964  # 95 % of a normal distribution are within so many standard deviations


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))


def confusion_matrix(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """[[tn, fp], [fn, tp]]; y_pred [N] is 0 or 1."""
    return np.bincount(2 * (y_true > 0.5) + y_pred, minlength=4).reshape(2, 2)


def count_by_score(
    y_true: np.ndarray, y_score: np.ndarray, sample_weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the rows of 1 and of 0 with each of S scores, the lowest first: [..., S], [..., S]."""
    order = np.argsort(y_score, kind="stable")
    ranked = y_score[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    weights = np.ones(len(order)) if sample_weight is None else np.take(sample_weight, order, axis=-1)
    counts = weights * y_true[order], weights * (1 - y_true[order])
    if len(starts) < len(order):
        counts = np.add.reduceat(counts[0], starts, axis=-1), np.add.reduceat(counts[1], starts, axis=-1)
    return counts


def roc_auc_score(y_true: np.ndarray, y_score: np.ndarray, *, sample_weight: np.ndarray | None = None) -> np.ndarray:
    """The share of pairs of a row of 1 and a row of 0 that the score ranks rightly; NaN if there is no pair."""
    positive, negative = count_by_score(y_true, y_score, sample_weight)
    below = np.cumsum(negative, axis=-1) - negative
    with np.errstate(invalid="ignore"):
        pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
        return (positive * (below + negative / 2)).sum(axis=-1) / pairs


def average_precision_score(
    y_true: np.ndarray, y_score: np.ndarray, *, sample_weight: np.ndarray | None = None
) -> np.ndarray:
    """The area below the precision-recall curve, as a sum of steps; NaN if there is no row of 1."""
    positive, negative = count_by_score(y_true, y_score, sample_weight)
    tp = np.cumsum(positive[..., ::-1], axis=-1)
    predicted = np.cumsum((positive + negative)[..., ::-1], axis=-1)
    with np.errstate(invalid="ignore"):
        precision = np.where(predicted > 0, tp / predicted, 0)
        return (positive[..., ::-1] * precision).sum(axis=-1) / positive.sum(axis=-1)


def log_losses(y_true: np.ndarray, y_prob: np.ndarray) -> np.ndarray:
    """The log-loss of each row."""
    y_prob = np.clip(y_prob.astype(float), 1e-7, 1 - 1e-7)
    return -np.where(y_true > 0.5, np.log(y_prob), np.log1p(-y_prob))


def calibration_bins(y_prob: np.ndarray) -> np.ndarray:
    """The bin, of ten of equal width, that each probability is in: 0 to 9."""
    return np.minimum((y_prob * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def wilson(successes: float, trials: float) -> list[float]:
    """95 % interval of a proportion (Wilson, 1927)."""
    if not trials:
        return [0.0, 1.0]
    z, share = Z_95, successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return [max(0.0, middle - half), min(1.0, middle + half)]


@functools.lru_cache(1)  # all models that are tested on the same rows are compared on the same samples
def resamples(rows: int, seed: int, stream: int = 2, most: int = RESAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Which of many rows are resampled, and how often each counts in each of R samples [R, rows] (Efron, 1979)."""
    generator = np.random.default_rng([seed, stream])
    chosen = np.arange(rows) if rows <= BOOTSTRAP_ROWS else generator.choice(rows, BOOTSTRAP_ROWS, replace=False)
    count = len(chosen)
    weights = generator.multinomial(count, np.full(count, 1 / count), min(most, 1_000_000 // count))
    return chosen, weights.astype(np.float32)


def narrower(rows: int) -> float:
    """What the distance of an interval's end is multiplied with when not all of its rows are resampled."""
    return math.sqrt(min(1, BOOTSTRAP_ROWS / rows))


def interval_ends(resampled: np.ndarray, score: float, rows: int) -> list[float]:
    """How far the ends of the 95 % interval are from a score; resampled [R] are its values in samples, NaN for none."""
    values = resampled[np.isfinite(resampled)]
    percentiles = np.percentile(values, [2.5, 97.5]) if len(values) else []
    return [float(end - score) * narrower(rows) for end in percentiles]


def score_probabilities(
    y_true: np.ndarray, y_prob: np.ndarray, sample_weight: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The scores that need no threshold."""
    losses = log_losses(y_true, y_prob)
    return {
        "roc_auc": roc_auc_score(y_true, y_prob, sample_weight=sample_weight),
        "pr_auc": average_precision_score(y_true, y_prob, sample_weight=sample_weight),
        "log_loss": losses.mean() if sample_weight is None else sample_weight @ losses / len(losses),
    }


def measure(y_true: np.ndarray, y_prob: np.ndarray, threshold: float, seed: int) -> dict[str, Any]:
    """All that metrics.json says of a test: each score and its 95 % interval; None for what the rows do not define."""
    (tn, fp), (fn, tp) = confusion = confusion_matrix(y_true, y_prob >= threshold).tolist()
    proportions = {"accuracy": (tp + tn, len(y_true)), "precision": (tp, tp + fp), "recall": (tp, tp + fn)}
    result: dict[str, Any] = {}
    for name, (successes, trials) in proportions.items():
        result |= {name: successes / max(1, trials), f"{name}_ci95": wilson(successes, trials)}
    result["f1"] = 2 * tp / max(1, 2 * tp + fp + fn)
    result |= {name: float(score) for name, score in score_probabilities(y_true, y_prob).items()}
    result["brier"] = float(np.mean(np.square(y_prob - y_true)))
    # Expected calibration error: the distance of probability and frequency in a bin (Naeini, Cooper, Hauskrecht, 2015).
    distances = np.bincount(calibration_bins(y_prob), y_prob - y_true, minlength=CALIBRATION_BINS)
    result |= {"ece": float(np.abs(distances).sum() / len(y_true)), "confusion": confusion}
    chosen, weights = resamples(len(y_true), seed)
    resampled = score_probabilities(y_true[chosen], y_prob[chosen], weights)
    rankable = np.bincount(y_true[chosen] > 0.5, minlength=2).min() > 1  # every sample ranks an only row alike
    for name, score in score_probabilities(y_true[chosen], y_prob[chosen]).items():
        ends = interval_ends(resampled[name], float(score), len(y_true)) if rankable or name == "log_loss" else []
        result[f"{name}_ci95"] = [result[name] + end for end in ends] or None
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in result.items()}


def threshold_rule(text: str) -> tuple[str, float | None]:
    """A way to choose the threshold, as --threshold takes it: its name and its number."""
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
    """The threshold that is best by a rule on rows that were not trained on."""
    name, number = rule
    if name == "fixed":
        return Decision(number, "as requested" if number != 0.5 else "the more likely class")
    if name == "cost":
        return Decision(number, "the expected cost of both mistakes is equal there")
    order = np.argsort(-y_prob, kind="stable")
    y_prob, tp = y_prob[order], np.cumsum(y_true[order])
    predicted, positives = np.arange(1, len(y_true) + 1), y_true.sum()
    precision, recall = tp / predicted, tp / positives
    least = number or 0.0
    score = {
        "f1": 2 * tp / (predicted + positives),
        "balanced": recall + 1 - (predicted - tp) / max(1, len(y_true) - positives),
        "precision": np.where(precision >= least, 1 + recall, precision),
        "recall": np.where(recall >= least, 1 + precision, recall),
    }[name]
    last = np.append(np.diff(y_prob) != 0, True)  # between equal probabilities there is no threshold
    best = int(np.argmax(np.where(last, score, -1)))
    wanted = name if number is None else f"{name} {number:g}"
    missed = f"; {wanted} was not reached" if number and score[best] < 1 else ""
    reason = f"best for {wanted} on {len(y_true):,} validation rows{missed}"
    return Decision(float(np.append(y_prob, 0)[best : best + 2].mean()), reason)


def fit_temperature(y_true: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """The divisor of logits [N] that lowers their log-loss most (Guo et al., 2017), held near 1 when rows are few.

    Second comes what it lowers: the sum of the log-losses and a penalty for the distance of the divisor from 1.
    """
    step = max(1, len(y_true) // CALIBRATION_ROWS)
    y_true, logits = y_true[::step], logits[::step]
    logarithms = np.linspace(-0.7, 1.1, 91)
    losses = [log_losses(y_true, sigmoid(logits / math.exp(value))).sum() + 10 * value**2 for value in logarithms]
    return math.exp(logarithms[int(np.argmin(losses))]), min(losses)
