"""Logistic regression of encoded rows: the start of training, a baseline, and a part of a single-network model.

A linear model is an array [L + 1]: the weights of the first L inputs of a network, then the intercept.
"""

from typing import NamedTuple

import numpy as np

from harvest.data.encoding import Encoding, Features, FoldEncoding, encode_numbers, row_pieces
from harvest.results.metrics import sigmoid

LINEAR_ROWS = 50_000  # at most: more rows do not make a linear model more accurate


class DesignMatrix(NamedTuple):
    """Encoded rows [B, L] without the zeros of one-hot inputs: the cost of a product is proportional to the cells."""

    dense: np.ndarray  # [B, D + M]: numbers and missing indicators
    ones: np.ndarray  # [B, C] int32: the input that is 1 for each category column; L for none

    def logits(self, linear: np.ndarray) -> np.ndarray:
        """The logits of the rows by a linear model [L + 1]: float64 [B]."""
        padded = np.append(linear[:-1], 0)
        return self.dense @ linear[: self.dense.shape[1]] + padded[self.ones].sum(axis=1) + linear[-1]

    def transposed_times(self, values: np.ndarray, width: int) -> np.ndarray:
        """The transposed rows [L, B] times values [B]; width is L."""
        result = np.concatenate([values @ self.dense, np.zeros(width + 1 - self.dense.shape[1])])
        for ones in self.ones.T:
            result += np.bincount(ones, values, minlength=width + 1)
        return result[:width]


def design_matrix(
    features: Features, rows: np.ndarray, encoding: Encoding, fold_encoding: FoldEncoding
) -> DesignMatrix:
    """The first L inputs of some rows, as encode() returns them."""
    numbers, categories = features.take(rows)
    dense = np.asarray(encode_numbers(numbers, encoding, fold_encoding), float)
    first_inputs = np.cumsum([dense.shape[1], *encoding.widths], dtype=np.int32)[:-1]
    positions = fold_encoding.positions[categories]
    return DesignMatrix(dense, np.where(positions < 0, encoding.linear_width, first_inputs + positions))


def linear_logits(
    features: Features, rows: np.ndarray, encoding: Encoding, fold_encoding: FoldEncoding, linear: np.ndarray
) -> np.ndarray:
    """The logits of some rows of a table by a linear model [L + 1]: float64 [B]."""
    batches = (design_matrix(features, batch, encoding, fold_encoding) for batch in row_pieces(rows))
    return np.concatenate([batch.logits(linear) for batch in batches])


def fit_logistic_regression(matrix: DesignMatrix, y_true: np.ndarray, width: int, penalty: float = 1.0) -> np.ndarray:
    """The L2-penalized logistic regression [L + 1] of rows [B, L]; width is L.

    Newton's method, with steps by conjugate gradients (Hestenes and Stiefel, 1952; Komarek and Moore, 2005): the cost
    of an iteration is proportional to the cells of the rows, not to the square of the inputs.
    """
    ridge = np.append(np.full(width, penalty), 1e-6)

    def gradient_of(errors: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.append(matrix.transposed_times(errors, width), errors.sum()) + ridge * weights

    def objective(weights: np.ndarray, logits: np.ndarray) -> float:
        return float(np.sum(np.logaddexp(0, logits) - y_true * logits) + ridge @ weights**2 / 2)

    def newton_step(weights: np.ndarray, logits: np.ndarray) -> np.ndarray:
        y_prob = sigmoid(logits)
        curvature = y_prob * (1 - y_prob)
        gradient = residual = direction = gradient_of(y_prob - y_true, weights)
        step, size = np.zeros(width + 1), residual @ residual
        for _ in range(200):
            if size <= 1e-8 * (gradient @ gradient):
                break
            image = gradient_of(curvature * matrix.logits(direction), direction)
            length = size / (direction @ image)
            step, residual = step + length * direction, residual - length * image
            size, before = residual @ residual, size
            direction = residual + size / before * direction
        return step

    weights, logits = np.zeros(width + 1), np.zeros(len(y_true))
    value = objective(weights, logits)
    for _ in range(50):
        step = newton_step(weights, logits)
        along, size = matrix.logits(step), 1.0
        while (new := objective(weights - size * step, logits - size * along)) > value and size > 1e-4:
            size /= 2
        weights, logits, gain, value = weights - size * step, logits - size * along, value - new, new
        if gain < 1e-7 * max(1, abs(value)):
            break
    return weights


def fit_linear(
    features: Features,
    rows: np.ndarray,
    encoding: Encoding,
    fold_encoding: FoldEncoding,
    penalty: float = 1.0,
    folds: int = 1,
) -> np.ndarray:
    """The logistic regression [L + 1] of some rows, or of every nth of them if there are many rows or folds."""
    rows = rows[:: max(1, len(rows) * folds // LINEAR_ROWS)]
    matrix = design_matrix(features, rows, encoding, fold_encoding)
    return fit_logistic_regression(matrix, features.labels[rows], encoding.linear_width, penalty)
