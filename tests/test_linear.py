"""Logistic regression: at its optimum, on rows as the networks see them."""

import numpy as np
import pytest
from small_table import small_table

from harvest.data.encoding import encode, fit_encoding
from harvest.data.splits import Split
from harvest.results import linear
from harvest.results.metrics import sigmoid


def sparse_rows(seed=0):
    """Rows of four numbers and two categories: as a design matrix and as a plain one [200, 12], and labels."""
    generator = np.random.default_rng(seed)
    numbers = generator.normal(size=(200, 4))
    y_true = (numbers @ [1, -2, 0.5, 0] + generator.normal(size=200) > 0.3).astype(np.float32)
    ones = np.stack([4 + generator.integers(0, 5, 200), 9 + generator.integers(0, 3, 200)], axis=1)
    plain = np.zeros((200, 12))
    plain[:, :4] = numbers
    np.put_along_axis(plain, ones, 1, axis=1)
    return linear.DesignMatrix(numbers, ones), plain, y_true


def test_products_are_those_of_the_plain_matrix():
    matrix, plain, _ = sparse_rows()
    generator = np.random.default_rng(1)
    weights, values = generator.normal(size=12), generator.normal(size=200)
    np.testing.assert_allclose(matrix.transposed_times(values, 12), values @ plain, atol=1e-9)
    np.testing.assert_allclose(matrix.logits(np.append(weights, 3)), plain @ weights + 3, atol=1e-9)
    unseen = linear.DesignMatrix(matrix.dense, np.full_like(matrix.ones, 12))
    np.testing.assert_allclose(unseen.logits(np.append(weights, 3)), plain[:, :4] @ weights[:4] + 3, atol=1e-9)
    np.testing.assert_allclose(unseen.transposed_times(values, 12)[4:], 0)


def test_logistic_regression_is_at_its_optimum():
    matrix, plain, y_true = sparse_rows()
    weights = linear.fit_logistic_regression(matrix, y_true, 12)
    gradient = plain.T @ (sigmoid(plain @ weights[:-1] + weights[-1]) - y_true) + weights[:-1]
    assert abs(gradient).max() < 1e-3
    separable = linear.fit_logistic_regression(matrix, (plain[:, 0] > 0).astype(np.float32), 12)
    assert np.isfinite(separable).all()


@pytest.mark.parametrize("penalty", [0.3, 1.0, 10.0])
def test_logistic_regression_is_that_of_scikit_learn(penalty):
    models = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    matrix, plain, y_true = sparse_rows(3)
    expected = models.LogisticRegression(C=1 / penalty, tol=1e-9, max_iter=10_000).fit(plain, y_true)
    weights = linear.fit_logistic_regression(matrix, y_true, 12, penalty)
    np.testing.assert_allclose(weights, [*expected.coef_[0], *expected.intercept_], atol=2e-3)


@pytest.fixture
def encoded():
    """Features, rows and encodings of a table with missing cells and values that the training rows lack."""
    generator = np.random.default_rng(2)
    label = generator.random(300) < 0.4
    key = np.where(generator.random(300) < 0.2, np.nan, generator.normal(size=300) + label)
    app = [("", "edit", "mail", "play")[code] for code in generator.integers(0, 4, 300)]
    app[250:] = ["new"] * 50
    table = small_table(label, key=key, wait=generator.gamma(2, size=300), app=app)
    split = Split(*(np.arange(start, end, dtype=np.int32) for start, end in ((0, 200), (200, 250), (250, 300))))
    encoding, (fold_encoding,), features = fit_encoding(table, [split])
    return features, split, encoding, fold_encoding


def test_it_takes_the_first_inputs_of_the_network(tf, encoded):
    features, split, encoding, fold_encoding = encoded
    weights = linear.fit_linear(features, split.train, encoding, fold_encoding)
    assert weights.shape == (encoding.linear_width + 1,)
    for rows in split:
        inputs = np.asarray(encode(*features.take(rows), encoding, fold_encoding))[:, : encoding.linear_width]
        logits = linear.linear_logits(features, rows, encoding, fold_encoding, weights)
        np.testing.assert_allclose(logits, inputs @ weights[:-1] + weights[-1], atol=1e-5)


def test_many_rows_are_fitted_in_part_and_fewer_for_each_of_many_folds(tf, encoded, monkeypatch):
    features, split, encoding, fold_encoding = encoded
    seen = []
    fit = linear.fit_logistic_regression
    monkeypatch.setattr(linear, "LINEAR_ROWS", 100)
    monkeypatch.setattr(linear, "fit_logistic_regression", lambda *given: seen.append(len(given[1])) or fit(*given))
    for folds in (1, 2, 4):
        linear.fit_linear(features, split.train, encoding, fold_encoding, folds=folds)
    assert seen == [100, 50, 25]
