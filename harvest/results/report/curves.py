"""ROC and precision-recall curves with 95 % bands of resampled rows (Efron, 1979)."""

from typing import NamedTuple

import numpy as np

from harvest.results.metrics import FEWEST_OF_CLASS, count_by_score

RESAMPLES = 200
RESAMPLED_SCORES = 1_000  # of either class; scores between them are resampled together
BAND_POINTS = 61
CURVE_POINTS = 200


class Curve(NamedTuple):
    """A curve of test rows, and the band that 95 % of resampled rows give at values of x of its own."""

    x: np.ndarray
    y: np.ndarray
    band_x: np.ndarray
    band: np.ndarray | None  # its two ends; None where one class is too rare to be resampled


def cumulate(counts: np.ndarray) -> np.ndarray:
    """True and false positives [2, T] at each threshold, the highest first, from counts of both classes by score."""
    return np.cumsum(counts[:, ::-1], axis=1)


def resample(counts: np.ndarray, seed: int) -> np.ndarray:
    """Counts of both classes by score [2, S] as other samples of as many rows might have them: [R, 2, S or fewer].

    Each count is drawn from a Poisson distribution, so that all rows are resampled, however rare their class.
    """
    places = np.cumsum(counts, axis=1) * RESAMPLED_SCORES // counts.sum(axis=1, keepdims=True)
    kept = np.flatnonzero(np.append(True, np.diff(places.sum(axis=0)) > 0))
    grouped = np.add.reduceat(counts, kept, axis=1)
    return np.random.default_rng([seed, 5]).poisson(grouped, (RESAMPLES, *grouped.shape))


def roc_curve(tp: np.ndarray, fp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate."""
    return np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1])


def precision_recall_curve(tp: np.ndarray, fp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each recall above 0, and the precision of the highest threshold that reaches it."""
    reached, first = np.unique(tp, return_index=True)
    kept = first[reached > 0]
    return tp[kept] / tp[-1], tp[kept] / (tp[kept] + fp[kept])


def heights(x: np.ndarray, y: np.ndarray, places: np.ndarray, highest: bool) -> np.ndarray:
    """The height of a curve at each place: the highest there, or the one with which the place is first reached."""
    return y[np.searchsorted(x, places, "right") - 1] if highest else y[np.searchsorted(x, places)]


def evenly_spaced(count: int) -> np.ndarray:
    """Indices of CURVE_POINTS points of so many, or of all, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, CURVE_POINTS).round().astype(int))


def roc_and_precision_recall(y_true: np.ndarray, y_prob: np.ndarray, seed: int) -> list[Curve]:
    """Both curves, with bands where each class has rows enough."""
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
