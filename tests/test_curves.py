"""ROC and precision-recall curves against plain counting, and what their bands hold."""

import numpy as np
import pytest

from harvest.results.report.curves import CURVE_POINTS, evenly_spaced, roc_and_precision_recall


def simulated(rows, seed, digits=17):
    """Labels and probabilities that are right."""
    generator = np.random.default_rng(seed)
    y_prob = generator.random(rows).round(digits)
    return (generator.random(rows) < y_prob).astype(float), y_prob


@pytest.mark.parametrize("digits", [1, 17])  # of few digits many probabilities are equal
def test_curves_are_those_of_all_thresholds(digits):
    y_true, y_prob = simulated(80, 2, digits)
    roc, precision = roc_and_precision_recall(y_true, y_prob, 0)
    points, reached = [(0.0, 0.0)], {}
    for threshold in sorted(set(y_prob), reverse=True):
        predicted = y_prob >= threshold
        tpr = float(predicted[y_true == 1].mean())
        points.append((float(predicted[y_true == 0].mean()), tpr))
        if tpr:
            reached.setdefault(tpr, float(y_true[predicted].mean()))  # the highest threshold
    np.testing.assert_allclose(np.transpose([roc.x, roc.y]), points)
    np.testing.assert_allclose(np.transpose([precision.x, precision.y]), [*reached.items()])


def test_bands_hold_the_true_curves():
    rates = 1 - np.linspace(0, 1, 100_001)  # thresholds t: rows of 1 have density 2p, rows of 0 density 2(1 - p)
    fpr, tpr = (1 - rates) ** 2, 1 - rates**2
    inside = []
    for seed in range(30):
        for curve, expected in zip(
            roc_and_precision_recall(*simulated(300, seed), 0),
            (lambda places: np.interp(places, fpr, tpr), lambda places: (1 + np.sqrt(1 - places)) / 2),
            strict=True,
        ):
            middle = slice(6, 55)  # at the ends too few rows tell
            there, (low, high) = expected(curve.band_x)[middle], (end[middle] for end in curve.band)
            inside.append(((low <= there) & (there <= high)).mean())
    assert 0.88 < np.mean(inside) < 0.99


def test_bands_are_narrower_with_more_rows():
    few, many = (roc_and_precision_recall(*simulated(rows, 1), 0) for rows in (2_500, 40_000))
    for curve, other in zip(few, many, strict=True):
        widths = [np.mean((part.band[1] - part.band[0])[5:55]) for part in (curve, other)]
        assert widths[0] / widths[1] == pytest.approx(4, rel=0.25)


def test_they_are_the_same_again_and_not_too_long():
    first, second = (roc_and_precision_recall(*simulated(9_000, 1), 7) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
        assert len(one.x) <= CURVE_POINTS and one.x[-1] == 1


def test_a_class_too_rare_for_bands():
    y_true, y_prob = (np.arange(15_000) < 1).astype(float), np.random.default_rng(3).random(15_000)
    assert [curve.band for curve in roc_and_precision_recall(y_true, y_prob, 42)] == [None, None]


@pytest.mark.parametrize("count", [1, 2, 7, CURVE_POINTS, CURVE_POINTS + 1, 100_000])
def test_points_that_are_drawn(count):
    places = evenly_spaced(count)
    assert places[0] == 0 and places[-1] == count - 1 and len(places) == min(count, CURVE_POINTS)


def test_bands_are_those_of_all_rows_of_a_rare_class():
    y_prob = np.random.default_rng(5).random(100_000)
    y_true = (np.random.default_rng(6).random(100_000) < 0.004 * y_prob).astype(float)  # about 200 of 1
    roc, _ = roc_and_precision_recall(y_true, y_prob, 0)
    ranks = np.sort(y_prob[y_true == 1])
    share = (ranks[:, None] >= np.quantile(y_prob, 1 - roc.band_x)).mean(axis=0)
    expected = 2 * 1.96 * np.sqrt(share * (1 - share) / len(ranks))
    found = roc.band[1] - roc.band[0]
    assert found[10:50].mean() == pytest.approx(expected[10:50].mean(), rel=0.12)
