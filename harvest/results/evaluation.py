"""The test of the networks, and of what anyone could do without one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from harvest.data.encoding import Encoding, Features, FoldEncoding
from harvest.data.splits import Split
from harvest.decision import Decision
from harvest.results.linear import linear_logits
from harvest.results.metrics import choose_threshold, fit_temperature, measure, sigmoid

EQUAL_ROWS = 800  # training rows from which one network is expected to say more than a logistic regression does
SHARE_WEIGHT = 20  # of that expectation, in validation rows that are certain


class Baseline(NamedTuple):
    y_prob: np.ndarray  # [N] of the test rows
    metrics: dict[str, Any]  # as measure() gives them


@dataclass
class Evaluation:
    """What the test rows of all folds say, one fold after another: no network was trained on its own."""

    y_true: np.ndarray  # [N] float32, 0 or 1
    y_prob: np.ndarray  # [N] float64
    metrics: dict[str, Any]  # as measure() gives them
    threshold: Decision  # from which a probability counts as 1
    temperature: float  # by which the saved model divides logits
    temperatures: list[float]  # by which those of the tested rows of each fold were divided
    tested_at: np.ndarray  # [N] the threshold of each tested row
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
    """Choose the threshold on validation rows and measure the test rows; both are given as labels and logits [N].

    By time, the test rows of a window are answered with the temperature and the threshold that its validation rows and
    earlier ones give: those of later windows were not known then.
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
        threshold = threshold._replace(reason=f"{threshold.reason}; windows are tested at those of earlier rows")
    divisors, tested_at = np.repeat([temperatures, thresholds], [len(split.test) for split in splits], axis=1)
    y_true, y_prob = test[0], sigmoid(test[1] / divisors)
    metrics = measure(y_true, y_prob, tested_at)
    answered = (y_true, y_prob, metrics, threshold, temperature, temperatures, tested_at)
    return Evaluation(*answered, calibrated, baselines)


def measure_baselines(
    features: Features,
    splits: Sequence[Split],
    encoding: Encoding,
    fold_encodings: Sequence[FoldEncoding],
    linear: Sequence[np.ndarray],
) -> dict[str, Baseline]:
    """Always the majority, and the linear model [L + 1] of each fold, measured on the test rows of all folds."""
    logits = [
        linear_logits(features, split.test, encoding, fold_encoding, weights)
        for split, fold_encoding, weights in zip(splits, fold_encodings, linear, strict=True)
    ]
    # The same for all folds: their shares, which differ by a row, would rank the rows, and the wrong way round.
    share = float(np.mean([features.labels[split.train].mean() for split in splits]))
    y_true = features.labels[np.concatenate([split.test for split in splits])]
    predicted = {"majority": np.full(len(y_true), share), "logistic_regression": sigmoid(np.concatenate(logits))}
    return {name: Baseline(y_prob, measure(y_true, y_prob, 0.5)) for name, y_prob in predicted.items()}


def choose_network_share(
    y_true: np.ndarray, logits: np.ndarray, linear_logits: np.ndarray, training_rows: int
) -> tuple[float, float]:
    """The share of one network in a weighted mean of logits with a linear model, and the temperature of the mean.

    What one network learns from few rows varies with its start, which the mean of many networks averages out. The
    share follows from validation rows, labels and logits [N] of both, and, when they are few, from the training rows.
    """
    expected, tried = training_rows / (training_rows + EQUAL_ROWS), []
    for share in np.linspace(0.1, 1, 10):
        temperature, loss = fit_temperature(y_true, share * logits + (1 - share) * linear_logits)
        tried.append((loss + SHARE_WEIGHT * (share - expected) ** 2, share, temperature))
    _, share, temperature = min(tried)
    return share, temperature
