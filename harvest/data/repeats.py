"""Repeated rows, identical in all feature columns: they stay in one part of every split, and are tested once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FEW_VALUES = 30  # a number with at most this many different values repeats by chance, as an hour of the day does
UNLIKELY = 0.5  # expected number of rows that match one by chance; above it, repeated rows are no evidence of copies
MANY_TIMES = 10  # repeated rows are copies if there are so many times more than expected by chance
# Repeated rows are states that recur, not copies, if there are so many of each and more than this share of them have
# both labels, which copies have in common.
STATE_ROWS, STATE_CONFLICTS = 4, 0.25
FEWEST_COMPARED, COMPARED = 20, 1_000  # rows; fewer may agree by chance
FEWEST_GROUPS = 3  # of a class: one each for training, validation and test


class Repeats(NamedTuple):
    groups: np.ndarray  # [N] int32: the first row of the table with the same cells in all feature columns
    copies: np.ndarray  # [N] bool: matches an earlier row including its label, and not by chance
    conflicts: int = 0  # rows that match only earlier rows with another label, and not by chance
    recurring: int = 0  # rows that match an earlier one, and not by chance, in a table of states that recur


def find_repeats(hashes: np.ndarray, label: np.ndarray, numbers: list[np.ndarray]) -> Repeats | None:
    """The repeated rows, from hashes of their features, labels and numbers, [N] each; None if there are none."""
    ranked = np.sort(hashes)
    if not np.any(ranked[1:] == ranked[:-1]):
        return None
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    groups = first[inverse].astype(np.int32)
    earlier = np.ones(len(groups), bool)
    earlier[np.unique(2 * groups.astype(np.int64) + (label > 0.5), return_index=True)[1]] = False
    distinct = independent_columns([values[first] for values in numbers])
    expected = expected_repeats(distinct) if distinct else np.ones(len(first))
    unlikely = (expected < UNLIKELY)[inverse]
    copies = earlier & unlikely
    conflicts = int((~earlier & unlikely & (groups != np.arange(len(groups)))).sum())
    most = MANY_TIMES * expected[expected < UNLIKELY].sum()
    copies, conflicts = copies & (copies.sum() > most), conflicts if conflicts > most else 0
    sizes, ones = np.bincount(inverse), np.bincount(inverse, label)
    repeated, mixed = sizes > 1, (ones > 0) & (ones < sizes)
    if sizes[repeated].mean() >= STATE_ROWS and mixed[repeated].mean() > STATE_CONFLICTS:
        return Repeats(groups, np.zeros(len(groups), bool), recurring=int(copies.sum()) + conflicts)
    return Repeats(groups, copies, conflicts)


def independent_columns(numbers: list[np.ndarray]) -> list[np.ndarray]:
    """The columns [G] without those that rise or fall with a finer one, such as the same temperature in two units."""
    kept: list[np.ndarray] = []
    for cells in sorted(numbers, key=lambda cells: -len(np.unique(cells[:COMPARED]))):
        if len(cells) < FEWEST_COMPARED or not any(is_monotonic(cells[:COMPARED], one[:COMPARED]) for one in kept):
            kept.append(cells)
    return kept


def is_monotonic(cells: np.ndarray, other: np.ndarray) -> bool:
    """Whether numbers [G] never fall, or never rise, while the others rise; rows with a missing cell do not count."""
    both = ~np.isnan(cells) & ~np.isnan(other)
    cells, other = cells[both], other[both]
    return len(cells) >= FEWEST_COMPARED and any(
        np.all(np.diff(signed[np.lexsort([signed, other])]) >= 0) for signed in (cells, -cells)
    )


def expected_repeats(numbers: list[np.ndarray]) -> np.ndarray:
    """The expected number of chance matches of each of G different rows, from their numbers [G]: float [G].

    Computed from the three rarest numbers of each row, as if columns were independent. Zeros, missing cells and columns
    with few values do not count, because an idle computer writes the same row for hours. Values that are multiples of a
    step, such as percentages, match at least as often as if all multiples in their range were equally frequent.
    """
    rows = len(numbers[0])
    shares = [np.ones(rows)] * 3  # of the other rows that have the same value, for each number
    pairs = max(1.0, rows * (rows - 1) / 2)
    for cells in numbers:
        values, value, counts = np.unique(cells, return_inverse=True, return_counts=True)
        if len(counts) > FEW_VALUES:
            usual = (1 + (counts * (counts - 1) / 2).sum()) / pairs
            known = values[~np.isnan(values)]
            with np.errstate(over="ignore"):  # of a tiny step
                usual = max(usual, 1 / (1 + np.ptp(known) / np.diff(known).min()))
            share = np.maximum((counts[value] - 1) / max(1, rows - 1), usual)
            shares.append(np.where(np.isnan(cells) | (cells == 0), 1, share))
    return np.partition(np.stack(shares), 2, axis=0)[:3].prod(axis=0) * rows


def share_by_chance(repeats: Repeats | None) -> float:
    """The share of rows that match another row in all feature columns by chance, because there are few combinations."""
    if repeats is None:
        return 0.0
    return float(np.mean((np.bincount(repeats.groups)[repeats.groups] > 1) & ~repeats.copies))


def most_folds(label: np.ndarray, repeats: Repeats | None) -> int:
    """The maximum number of parts if repeated rows stay together and every part contains both classes."""
    rows = [np.flatnonzero(label == value) for value in (0, 1)]
    return min(len(own if repeats is None else np.unique(repeats.groups[own])) for own in rows)


def repeat_warnings(repeats: Repeats | None, files: np.ndarray, by_time: bool) -> list[str]:
    """How many rows are copies of others, or differ only in the label, and the consequence; files are the file numbers
    of the rows [N].
    """
    if repeats is None:
        return []
    warnings = []
    if repeats.recurring:
        what = f"{repeats.recurring:,} of {len(files):,} rows repeat another row in all feature columns"
        return [f"{what}, many with the other label: no model can tell these apart, and all are tested"]
    if conflicts := repeats.conflicts:
        what = f"{conflicts:,} of {len(files):,} rows {'repeat' if conflicts > 1 else 'repeats'} another row"
        warnings = [f"{what} with the other label: no model can tell them apart; check their labels"]
    if not (copies := int(repeats.copies.sum())):
        return warnings
    count = len(np.unique(files[np.isin(repeats.groups, repeats.groups[repeats.copies])]))
    other, where = "an earlier" if by_time else "another", f", in {count} files" if count > 1 else ""
    what = f"{copies:,} of {len(files):,} rows {'repeat' if copies > 1 else 'repeats'} {other} row in every column"
    kept = "they are not tested" if by_time else "repeated rows stay in one part of the split and are tested once"
    return [f"{what}{where}: {kept}; delete the duplicates if they should not count in training either", *warnings]
