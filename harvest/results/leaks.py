"""Columns from which the label may leak, found before training."""

import shlex

import numpy as np

from harvest.data.table import Table
from harvest.results.metrics import wilson
from harvest.text import name_words, percent

LEAK_ROWS = 50_000  # at most so many rows, evenly spaced, are searched for leaks


def find_leaks(table: Table, label: str) -> list[str]:
    """A warning for each column that is named after the label, or alone predicts nearly all rows of both classes."""
    warnings = []
    step = max(1, len(table.label) // LEAK_ROWS)
    positive = table.label[::step] > 0.5
    class_rows = np.bincount(positive, minlength=2).tolist()
    for column in (column for column in table.columns if column.kind != "dropped"):
        if column.kind == "number":
            correct = best_interval(table.numbers(column.name)[::step], positive)
        else:
            correct = predicted_by_category(table.codes(column.name)[::step], positive)
        shares, why = zip(correct, class_rows, strict=True), ""
        if all(found > 0.96 * rows and wilson(found, rows)[0] > 0.9 for found, rows in shares):
            why = f"on its own it predicts the label of {percent(sum(correct) / len(positive))} of rows"
        elif len(label) > 2 and name_words(label) <= name_words(column.name):
            why = "its name contains the name of the label"
        if why:
            drop = f"use --drop {shlex.quote(column.name)}"
            warnings.append(f"{column.name}: {why}; if it is derived from the label, {drop}")
    return warnings


def best_interval(values: np.ndarray, positive: np.ndarray) -> tuple[int, int]:
    """Predict one class inside the best interval of a number [N], the other outside: the correct rows of 0 and of 1.

    Both classes have the same weight. Missing numbers count as larger than all others.
    """
    values = np.where(np.isnan(values), np.inf, values)
    order = np.argsort(values)
    values = values[order]
    ends = np.append(0, 1 + np.flatnonzero(np.append(values[1:] != values[:-1], True)))
    ones = np.append(0, np.cumsum(positive[order]))[ends]
    counts = np.stack([ends - ones, ones])  # rows of 0 and of 1 below each end
    shares, found = counts / np.maximum(1, counts[:, -1:]), []
    for inside, outside in ((0, 1), (1, 0)):
        gain = shares[inside] - shares[outside]
        end = np.argmax(gain - np.minimum.accumulate(gain))
        start = np.argmin(gain[: end + 1])
        correct = counts[:, end] - counts[:, start]
        correct[outside] = counts[outside, -1] - correct[outside]
        found.append((gain[end] - gain[start], *correct.tolist()))
    return max(found)[1:]


def predicted_by_category(codes: np.ndarray, positive: np.ndarray) -> tuple[int, int]:
    """Predict the majority class of the other rows with the same code [N]: the correct rows of 0 and of 1."""
    zeros, ones = (np.bincount(codes[positive == value], minlength=codes.max() + 1) for value in (False, True))
    return int(zeros[zeros - 1 > ones].sum()), int(ones[ones - 1 > zeros].sum())
