"""Rows that equal each other in all feature columns: they stay together in every split, and copies are tested once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FEW_VALUES = 30  # a number with so many different values or fewer repeats by chance, as an hour of the day does
UNLIKELY = 0.5  # rows that equal one by chance: of more, nothing can be said
MANY_TIMES = 10  # as many rows must equal another as would by chance, to be called copies
FEWEST_GROUPS = 3  # of a class: one each to train, to validate and to test


class Repeats(NamedTuple):
    """Which rows of a table equal each other."""

    groups: np.ndarray  # [N] int32: the first row of the table that equals this one in all feature columns
    copies: np.ndarray  # [N] bool: equals an earlier row in its label too, which chance does not explain


def find_repeats(hashes: np.ndarray, label: np.ndarray, numbers: list[np.ndarray]) -> Repeats | None:
    """The equal rows, by hashes of their features [N], with their labels and numbers [N]; None when all differ."""
    ranked = np.sort(hashes)
    if not np.any(ranked[1:] == ranked[:-1]):
        return None
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    groups = first[inverse].astype(np.int32)
    earlier = np.ones(len(groups), bool)
    earlier[np.unique(2 * groups.astype(np.int64) + (label > 0.5), return_index=True)[1]] = False
    expected = expected_repeats([values[first] for values in numbers]) if numbers else np.ones(len(first))
    copies = earlier & (expected < UNLIKELY)[inverse]
    by_chance = expected[expected < UNLIKELY].sum()
    return Repeats(groups, copies & (copies.sum() > MANY_TIMES * by_chance))


def expected_repeats(numbers: list[np.ndarray]) -> np.ndarray:
    """How many of rows that differ may be expected to equal each by chance, by their numbers, [G] each: float [G].

    Judged by the three rarest numbers of each row, as if columns were independent. Zeros and missing cells say nothing:
    a computer that nobody uses gives the same row for hours. Nor do columns with few values.
    """
    rows = len(numbers[0])
    shares = [np.ones(rows)] * 3  # of the other rows that have the same value, for each number
    pairs = max(1.0, rows * (rows - 1) / 2)
    for cells in numbers:
        _, value, counts = np.unique(cells, return_inverse=True, return_counts=True)
        if len(counts) > FEW_VALUES:
            usual = (1 + (counts * (counts - 1) / 2).sum()) / pairs
            share = np.maximum((counts[value] - 1) / max(1, rows - 1), usual)
            shares.append(np.where(np.isnan(cells) | (cells == 0), 1, share))
    return np.partition(np.stack(shares), 2, axis=0)[:3].prod(axis=0) * rows


def strata(label: np.ndarray, repeats: Repeats | None) -> list[np.ndarray]:
    """The first rows of all groups of equal rows, by the class of most rows of each: [G0], [G1] int32.

    Where a class has too few groups, as where most values of a category have rows of both, all are in one stratum.
    """
    if repeats is None:
        return [np.flatnonzero(label == value).astype(np.int32) for value in (0, 1)]
    sizes = np.bincount(repeats.groups, minlength=len(label))
    firsts = np.flatnonzero(sizes).astype(np.int32)
    positive = 2 * np.bincount(repeats.groups, label, len(label))[firsts] > sizes[firsts]
    classes = [firsts[~positive], firsts[positive]]
    return classes if min(map(len, classes)) >= FEWEST_GROUPS else [firsts]


def most_folds(label: np.ndarray, repeats: Repeats | None) -> int:
    """How many parts the rows can be cut into when equal rows stay together, and every part gets some of each class."""
    return min(map(len, strata(label, repeats)))


def repeat_warnings(repeats: Repeats | None, files: np.ndarray, by_time: bool) -> list[str]:
    """How many rows are copies of others, and what is done about them; files are the numbers of their files [N]."""
    if repeats is None or not (copies := int(repeats.copies.sum())):
        return []
    count = len(np.unique(files[np.isin(repeats.groups, repeats.groups[repeats.copies])]))
    other, where = "an earlier" if by_time else "another", f", in {count} files" if count > 1 else ""
    what = f"{copies:,} of {len(files):,} rows {'repeat' if copies > 1 else 'repeats'} {other} row in every column"
    kept = "copies are not tested" if by_time else "equal rows stay in one part of the split and are tested once"
    return [f"{what}{where}: {kept}; delete them if they should not count in training either"]
