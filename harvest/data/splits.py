"""The training, validation and test rows of each network."""

import argparse
from typing import NamedTuple

import numpy as np

from harvest.cli import UserError
from harvest.data.repeats import FEWEST_GROUPS, Repeats, most_folds
from harvest.data.table import Table
from harvest.data.time_column import DAYS
from harvest.data.times import RISING, TIMESTAMP
from harvest.decision import Decision
from harvest.text import count_range, name_files


class Split(NamedTuple):
    """Row numbers, int32, of the training, validation and test rows."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_rows(label: np.ndarray, method: str, seed: int, repeats: Repeats | None = None) -> Split:
    """Split 70/15/15: at random within each class with repeated rows together, or by time, the order of the rows."""
    part, groups = np.zeros(len(label), np.int32), np.arange(len(label)) if repeats is None else repeats.groups
    if method == "time":
        held = max(1, round(0.15 * len(label)))
        part[-2 * held :], part[-held:] = 1, 2
        return split_parts(part)
    for firsts, sizes in stratify(label, groups, seed):
        held = max(1, round(0.15 * sizes.sum()))
        large_first = np.argsort(sizes <= held, kind="stable")  # groups too large to hold out go to training
        firsts, ends = firsts[large_first], np.cumsum(sizes[large_first])
        test = min(np.searchsorted(ends, ends[-1] - held, "right"), len(firsts) - 1)
        val = min(np.searchsorted(ends, ends[-1] - 2 * held, "right"), test - 1)
        part[firsts[val:]], part[firsts[test:]] = 1, 2
    return split_parts(part[groups])


def stratify(label: np.ndarray, groups: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first rows of the groups of repeated rows, in random order, and the number of rows of each: [G], [G] int32.

    There is a stratum for each class that is the majority of a group, or one if a class is the majority of too few. The
    place of a first row does not depend on which rows are identical, so that dropping a column moves few rows.
    """
    generator, place = np.random.default_rng([seed, 0]), np.empty(len(label))
    for rows in (np.flatnonzero(label == value) for value in (0, 1)):
        place[generator.permutation(rows)] = np.linspace(0, 1, len(rows))
    sizes = np.bincount(groups, minlength=len(label))
    firsts = np.flatnonzero(sizes).astype(np.int32)
    firsts = firsts[np.argsort(place[firsts], kind="stable")]
    positive = 2 * np.bincount(groups, label)[firsts] > sizes[firsts]
    strata = [firsts[~positive], firsts[positive]]
    return [(rows, sizes[rows]) for rows in (strata if min(map(len, strata)) >= FEWEST_GROUPS else [firsts])]


def split_parts(part: np.ndarray) -> Split:
    """The training (0), validation (1) and test rows (2), from the part of each row [N]."""
    return Split(*(np.flatnonzero(part == number).astype(np.int32) for number in range(3)))


def split_folds_by_time(rows: int, folds: int) -> list[Split]:
    """Cut rows in order of time into 3 K + 1 blocks, and slide K windows over them, block by block.

    Each network trains on 2 K blocks, validates on the next one and is tested on the one after. Windows that all start
    at the first row would give some networks few, old rows: if habits change, that is worse than a single network.
    """
    blocks = np.array_split(np.arange(rows, dtype=np.int32), 3 * folds + 1)
    ends = range(2 * folds, 3 * folds)
    return [Split(np.concatenate(blocks[end - 2 * folds : end]), blocks[end], blocks[end + 1]) for end in ends]


def split_folds(label: np.ndarray, folds: int, seed: int, repeats: Repeats | None = None) -> list[Split]:
    """Cut the rows, at random within each class and with repeated rows together, into K parts.

    Network k is tested on part k and validates on part k + 1. Groups of repeated rows are dealt to the parts in turn:
    groups of 0 only, groups of both classes, then groups of 1 only, so each part gets both classes; among these the
    largest first, so the sizes of the parts differ by at most the largest group.
    """
    groups = np.arange(len(label)) if repeats is None else repeats.groups
    firsts, sizes = map(np.concatenate, zip(*stratify(label, groups, seed), strict=True))
    share = np.bincount(groups, label)[firsts] / sizes
    rank = (share > 0).astype(int) + (share > 0.5) + (share == 1)
    firsts = firsts[np.lexsort([-sizes, rank])]
    fold = np.empty(len(label), np.int32)
    fold[firsts] = np.arange(len(firsts)) % folds
    fold = fold[groups]
    return [split_parts(np.select([fold == k, fold == (k + 1) % folds], [2, 1])) for k in range(folds)]


def make_splits(args: argparse.Namespace, label: np.ndarray, folds: int, repeats: Repeats | None = None) -> list[Split]:
    """One split, or one for each fold; copies of rows are used for training only.

    Raises UserError if there are too few rows, or if a part would have one class only.
    """
    rows, blocks = len(label), 3 * folds + 1
    if args.split == "random" and (groups := most_folds(label, repeats)) < FEWEST_GROUPS:
        few = f"one class has only {groups} different rows, and repeated rows stay together"
        raise UserError(f"{name_files(args.csv)}: {few}: at least {FEWEST_GROUPS} are needed; label more rows")
    if folds == 1:
        splits = [split_rows(label, args.split, args.split_seed, repeats)]
    elif args.split == "random":
        splits = split_folds(label, folds, args.split_seed, repeats)
    elif rows < 2 * blocks:
        few = f"{rows} rows are too few for --folds {folds} --split time, which cuts them into {blocks} blocks"
        raise UserError(f"{name_files(args.csv)}: {few}; use fewer folds")
    else:
        splits = split_folds_by_time(rows, folds)
    if repeats is not None:
        new = ~repeats.copies
        splits = [Split(split.train, split.val[new[split.val]], split.test[new[split.test]]) for split in splits]
        if not all(len(split.val) and len(split.test) for split in splits):
            few = "all validation or test rows repeat earlier rows in every column"
            raise UserError(f"{name_files(args.csv)}: {few}; delete the duplicates from the file")
    train, val, test = zip(*splits, strict=True)
    for name, parts in {"training": train, "validation": [np.concatenate(val)], "test": [np.concatenate(test)]}.items():
        if any(len(np.unique(label[part])) < 2 for part in parts):
            text = f"the {name} rows are all of one class; label more rows"
            raise UserError(f"{name_files(args.csv)}: {text}{' or use --split random' * (args.split == 'time')}")
    return splits


def describe_split(args: argparse.Namespace, table: Table, splits: list[Split], time_column: Decision) -> list[str]:
    train, val, test = (count_range([len(part) for part in parts]) for parts in zip(*splits, strict=True))
    use = "for validation and early stopping" if args.early_stopping else "for validation"
    whose = "each network has " if len(splits) > 1 else ""
    counts = f"{whose}{train} rows for training, {val} {use}, {test} for testing"
    way = "at random within each class"
    if args.split == "time":
        order = f"sorted by {time_column.value}" if time_column.value else f"in file order because {time_column.reason}"
        windows = f", in {len(splits)} sliding windows" if len(splits) > 1 else ""
        way = f"by time, {order}{windows}"
    lines = [f"Split      {counts}, {way}"]
    if args.split != "time" and any(column.reason in (TIMESTAMP, RISING) for column in table.columns):
        note = "a random split may overestimate the accuracy; --split time tests on the latest rows"
        lines.append(f"           note: rows close in time are similar; {note}")
    if DAYS in time_column.reason:
        lines.append("           note: the times are whole days: training and test rows may be from the same day")
    return lines
