"""ROC and precision-recall curves with 95% bootstrap bands (Efron, 1979)."""

from typing import NamedTuple

import numpy as np

from harvest.results.metrics import FEWEST_OF_CLASS, count_by_score

RESAMPLES = 200
RESAMPLED_SCORES = 1_000  # of each class; the scores between them are grouped
BAND_POINTS = 61
CURVE_POINTS = 200


class Curve(NamedTuple):
    """A curve of the test rows, and the band of 95% of the resampled curves at its own values of x."""

    x: np.ndarray
    y: np.ndarray
    band_x: np.ndarray
    band: np.ndarray | None  # [2, BAND_POINTS]: low and high; None if one class is too rare


def cumulate(counts: np.ndarray) -> np.ndarray:
    """True and false positives [2, T] at each threshold, highest first, from the counts of both classes by score."""
    return np.cumsum(counts[:, ::-1], axis=1)


def resample(counts: np.ndarray, seed: int) -> np.ndarray:
    """Bootstrap samples of the counts of both classes by score [2, S]: [R, 2, at most S].

    Each count is drawn from a Poisson distribution, so the rows of a rare class are resampled, too.
    """
    places = np.cumsum(counts, axis=1) * RESAMPLED_SCORES // counts.sum(axis=1, keepdims=True)
    kept = np.flatnonzero(np.append(True, np.diff(places.sum(axis=0)) > 0))
    grouped = np.add.reduceat(counts, kept, axis=1)
    return np.random.default_rng([seed, 5]).poisson(grouped, (RESAMPLES, *grouped.shape))


def roc_curve(tp: np.ndarray, fp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates."""
    return np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1])


def precision_recall_curve(tp: np.ndarray, fp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each recall above 0, and the precision of the highest threshold that reaches it."""
    reached, first = np.unique(tp, return_index=True)
    kept = first[reached > 0]
    return tp[kept] / tp[-1], tp[kept] / (tp[kept] + fp[kept])


def heights(x: np.ndarray, y: np.ndarray, places: np.ndarray, highest: bool) -> np.ndarray:
    """The height of a curve at each place: the highest one there, or that of the first point at or after it."""
    return y[np.searchsorted(x, places, "right") - 1] if highest else y[np.searchsorted(x, places)]


def evenly_spaced(count: int) -> np.ndarray:
    """Indices of at most CURVE_POINTS out of `count` points, including the first and the last."""
    return np.unique(np.linspace(0, count - 1, CURVE_POINTS).round().astype(int))


def roc_and_precision_recall(y_true: np.ndarray, y_prob: np.ndarray, seed: int) -> list[Curve]:
    """Both curves, with bands if each class has enough rows."""
    counts = np.stack(count_by_score(y_true, y_prob))
    rankable = counts.sum(axis=1).min() >= FEWEST_OF_CLASS
    samples = [*map(cumulate, resample(counts, seed))] if rankable else []
    band_x, curves = np.linspace(0, 1, BAND_POINTS), []
    for curve, highest in ((roc_curve, True), (precision_recall_curve, False)):
        (x, y), band = curve(*cumulate(counts)), None
        if rankable:
            values = [heights(*curve(*sample), band_x, highest) for sample in samples]
            band = np.percentile(values, [2.5, 97.5], axis=0)
        kept = evenly_spaced(len(x))
        curves.append(Curve(x[kept], y[kept], band_x, band))
    return curves
