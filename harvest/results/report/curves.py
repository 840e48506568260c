"""ROC and precision-recall curves with 95 % bands of resampled rows (Efron, 1979)."""

from typing import NamedTuple

import numpy as np

from harvest.results.metrics import count_by_score, narrower, resamples

RESAMPLES = 200
BAND_POINTS = 61
CURVE_POINTS = 200


class Curve(NamedTuple):
    """A curve of test rows, and the band that 95 % of resampled rows give at values of x of its own."""

    x: np.ndarray
    y: np.ndarray
    band_x: np.ndarray
    band: np.ndarray | None  # its two ends; None where one class is too rare to be resampled


def count_positives(y_true: np.ndarray, y_prob: np.ndarray, weights: np.ndarray | None = None) -> list[np.ndarray]:
    """True and false positives at each threshold, the highest first: [..., T], [..., T]."""
    return [np.cumsum(counts[..., ::-1], axis=-1) for counts in count_by_score(y_true, y_prob, weights)]


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
    """Both curves. Of many rows some are resampled, and the bands narrowed accordingly."""
    tested = count_positives(y_true, y_prob)
    chosen, weights = resamples(len(y_true), seed, 5, RESAMPLES)
    samples = zip(*count_positives(y_true[chosen], y_prob[chosen], weights), strict=True)
    resampled = [counts for counts in samples if counts[0][-1] and counts[1][-1]]  # those that have both classes
    band_x, curves = np.linspace(0, 1, BAND_POINTS), []
    for curve, highest in ((roc_curve, True), (precision_recall_curve, False)):
        (x, y), band = curve(*tested), None
        if len(resampled) > RESAMPLES / 2:
            values = [heights(*curve(*counts), band_x, highest) for counts in resampled]
            middle = heights(*curve(*count_positives(y_true[chosen], y_prob[chosen])), band_x, highest)
            shift = (np.percentile(values, [2.5, 97.5], axis=0) - middle) * narrower(len(y_true))
            band = np.clip(heights(x, y, band_x, highest) + shift, 0, 1)
        kept = evenly_spaced(len(x))
        curves.append(Curve(x[kept], y[kept], band_x, band))
    return curves
