"""Evaluation of the networks and the baselines on test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harvest.data.encoding import Encoding, Features
from harvest.data.splits import Split
from harvest.decision import Decision
from harvest.results.linear import linear_logits
from harvest.results.metrics import choose_threshold, fit_temperature, measure, sigmoid

if TYPE_CHECKING:
    from harvest.training.folds import Fold

EQUAL_ROWS = 800  # training rows for which a network and a logistic regression are expected to be equally good
SHARE_WEIGHT = 20  # of that expectation, relative to the log-loss


class Baseline(NamedTuple):
    y_prob: np.ndarray  # [N] of the test rows
    metrics: dict[str, Any]  # from measure()


@dataclass
class Evaluation:
    """The results on the test rows of all folds, one fold after another: no network was trained on its test rows."""

    y_true: np.ndarray  # [N] float32, 0 or 1
    y_prob: np.ndarray  # [N] float64
    metrics: dict[str, Any]  # from measure()
    threshold: Decision  # probabilities at or above it count as 1
    temperatures: list[float]  # for the test rows of each fold
    tested_at: np.ndarray  # [N] the threshold for each test row
    validation: tuple[np.ndarray, np.ndarray]  # y_true, y_prob of the validation rows
    baselines: dict[str, Baseline]  # of the same test rows


def evaluate(
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    splits: Sequence[Split],
    temperature: float,
    rule: tuple[str, float | None],
    baselines: dict[str, Baseline],
    by_time: bool = False,
) -> Evaluation:
    """Choose the threshold on validation rows and measure on test rows; both are pairs of labels and logits [N].

    With a split by time, a window's temperature and threshold are fitted on its validation rows and earlier ones,
    because later rows are not known at that time.
    """
    calibrated = validation[0], sigmoid(validation[1] / temperature)
    threshold = choose_threshold(rule, *calibrated)
    temperatures, thresholds = [temperature] * len(splits), [threshold.value] * len(splits)
    if by_time and len(splits) > 1:
        for window, end in enumerate(np.cumsum([len(split.val) for split in splits])):
            labels, logits = (part[:end] for part in validation)
            temperatures[window], _ = fit_temperature(labels, logits)
            thresholds[window] = choose_threshold(rule, labels, sigmoid(logits / temperatures[window])).value
    if len(set(thresholds)) > 1:
        threshold = threshold._replace(reason=f"{threshold.reason}; each window has the threshold of earlier rows")
    divisors, tested_at = np.repeat([temperatures, thresholds], [len(split.test) for split in splits], axis=1)
    y_true, y_prob = test[0], sigmoid(test[1] / divisors)
    metrics = measure(y_true, y_prob, tested_at)
    answered = (y_true, y_prob, metrics, threshold, temperatures, tested_at)
    return Evaluation(*answered, calibrated, baselines)


def measure_baselines(features: Features, encoding: Encoding, folds: Sequence[Fold]) -> dict[str, Baseline]:
    """The majority class and the linear model of each fold, on the test rows of all folds."""
    logits = [linear_logits(features, fold.split.test, encoding, fold.encoding, fold.linear) for fold in folds]
    # The same for all folds: their shares differ by a row, which would rank the test rows, in the wrong order.
    share = float(np.mean([features.labels[fold.split.train].mean() for fold in folds]))
    y_true = features.labels[np.concatenate([fold.split.test for fold in folds])]
    predicted = {"majority": np.full(len(y_true), share), "logistic_regression": sigmoid(np.concatenate(logits))}
    return {name: Baseline(y_prob, measure(y_true, y_prob, 0.5)) for name, y_prob in predicted.items()}


def choose_network_share(
    y_true: np.ndarray, logits: np.ndarray, linear_logits: np.ndarray, training_rows: int
) -> tuple[float, float]:
    """The weight of a single network in the mean of its logits and those of a linear model, and the temperature of the
    mean. Both minimize the log-loss of validation rows, given as labels and logits [N]. With few validation rows, the
    weight also depends on the number of training rows.
    """
    expected, tried = training_rows / (training_rows + EQUAL_ROWS), []
    for share in np.linspace(0.1, 1, 10):
        temperature, loss = fit_temperature(y_true, share * logits + (1 - share) * linear_logits)
        tried.append((loss + SHARE_WEIGHT * (share - expected) ** 2, share, temperature))
    _, share, temperature = min(tried)
    return share, temperature
