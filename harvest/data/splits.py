"""Which rows train, stop and test each network."""

import argparse
from typing import NamedTuple

import numpy as np

from harvest.cli import UserError
from harvest.data.repeats import FEWEST_GROUPS, Repeats, most_folds, strata
from harvest.data.table import Table, data_name
from harvest.data.time_column import DAYS
from harvest.data.times import TIMESTAMP
from harvest.decision import Decision
from harvest.text import count_range


class Split(NamedTuple):
    """Row numbers, int32, of the rows trained on, stopped by and tested on."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_rows(label: np.ndarray, method: str, seed: int, repeats: Repeats | None = None) -> Split:
    """Split 70/15/15: at random within each class, equal rows together, or in the order of time, that of the rows."""
    part, generator = np.zeros(len(label), np.int32), np.random.default_rng([seed, 0])
    if method == "time":
        held = max(1, round(0.15 * len(label)))
        part[-2 * held :], part[-held:] = 1, 2
        return Split(*rows_of_parts(part))
    for firsts, sizes in stratify(label, repeats, generator):
        held = max(1, round(0.15 * sizes.sum()))
        large_first = np.argsort(sizes <= held, kind="stable")  # these train: validation and test have no room for them
        firsts, ends = firsts[large_first], np.cumsum(sizes[large_first])
        test = min(np.searchsorted(ends, ends[-1] - held, "right"), len(firsts) - 1)
        val = min(np.searchsorted(ends, ends[-1] - 2 * held, "right"), test - 1)
        part[firsts[val:]], part[firsts[test:]] = 1, 2
    return Split(*rows_of_parts(part if repeats is None else part[repeats.groups]))


def stratify(
    label: np.ndarray, repeats: Repeats | None, generator: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The strata in random order, with the number of equal rows that each first row represents: [G], [G] each."""
    sizes = np.ones(len(label), int) if repeats is None else np.bincount(repeats.groups, minlength=len(label))
    shuffled = (generator.permutation(firsts) for firsts in strata(label, repeats))
    return [(firsts, sizes[firsts]) for firsts in shuffled]


def rows_of_parts(part: np.ndarray) -> list[np.ndarray]:
    """The rows that are trained on (0), stopped by (1) and tested on (2), of the part of each row [N]."""
    return [np.flatnonzero(part == number).astype(np.int32) for number in range(3)]


def split_folds_by_time(rows: int, folds: int) -> list[Split]:
    """Cut rows in the order of time into 3 K + 1 blocks, and let K windows slide over them, block by block.

    Each network trains on 2 K blocks, stops by the next and is tested on the one after. With windows that grow from the
    first row on, the first networks would have few and old rows: where habits change, their mean is worse than one.
    """
    blocks = np.array_split(np.arange(rows, dtype=np.int32), 3 * folds + 1)
    ends = range(2 * folds, 3 * folds)
    return [Split(np.concatenate(blocks[end - 2 * folds : end]), blocks[end], blocks[end + 1]) for end in ends]


def split_folds(label: np.ndarray, folds: int, seed: int, repeats: Repeats | None = None) -> list[Split]:
    """Cut the rows, at random within each class, equal rows together, into K parts.

    Network k tests on part k and stops by part k + 1. The largest groups of equal rows are dealt first, one to each
    part in turn, so that the parts differ by no more rows than the largest group has.
    """
    generator = np.random.default_rng([seed, 0])
    shuffled = stratify(label, repeats, generator)
    firsts = np.concatenate([firsts[np.argsort(-sizes, kind="stable")] for firsts, sizes in shuffled])
    fold = np.empty(len(label), np.int32)
    fold[firsts] = np.arange(len(firsts)) % folds
    fold = fold if repeats is None else fold[repeats.groups]
    return [Split(*rows_of_parts(np.select([fold == k, fold == (k + 1) % folds], [2, 1]))) for k in range(folds)]


def make_splits(args: argparse.Namespace, label: np.ndarray, folds: int, repeats: Repeats | None = None) -> list[Split]:
    """One split, or one for each fold; copies of rows are only trained on.

    Raises UserError where there are too few rows, or a part would have one class only.
    """
    rows, blocks = len(label), 3 * folds + 1
    if args.split == "random" and (groups := most_folds(label, repeats)) < FEWEST_GROUPS:
        few = f"the rows have only {groups} different contents besides the label, and equal rows stay together"
        raise UserError(
            f"{data_name(args)}: {few}: at least {FEWEST_GROUPS} different rows are needed; label more rows"
        )
    if folds == 1:
        splits = [split_rows(label, args.split, args.split_seed, repeats)]
    elif args.split == "random":
        splits = split_folds(label, folds, args.split_seed, repeats)
    elif rows < 2 * blocks:
        few = f"{rows} rows are too few for --folds {folds} --split time, which cuts them into {blocks} blocks"
        raise UserError(f"{data_name(args)}: {few}; give fewer folds")
    else:
        splits = split_folds_by_time(rows, folds)
    if repeats is not None:
        new = ~repeats.copies
        splits = [Split(split.train, split.val[new[split.val]], split.test[new[split.test]]) for split in splits]
        if not all(len(split.val) and len(split.test) for split in splits):
            few = "all validation or test rows repeat earlier rows in every column"
            raise UserError(f"{data_name(args)}: {few}; delete the copies from the file")
    train, val, test = zip(*splits, strict=True)
    for name, parts in {"training": train, "validation": [np.concatenate(val)], "test": [np.concatenate(test)]}.items():
        if any(len(np.unique(label[part])) < 2 for part in parts):
            text = f"the {name} rows are all of one class; label more rows"
            raise UserError(f"{data_name(args)}: {text}{' or use --split random' * (args.split == 'time')}")
    return splits


def describe_split(args: argparse.Namespace, table: Table, splits: list[Split], time_column: Decision) -> list[str]:
    """What is printed of the split."""
    train, val, test = (count_range([len(part) for part in parts]) for parts in zip(*splits, strict=True))
    use = "used for early stopping" if args.early_stopping else "for validation"
    whose = "each net has " if len(splits) > 1 else ""
    counts = f"{whose}{train} rows for training, {val} {use}, {test} for testing"
    way = "at random within each class"
    note = "the result may look better than it is; --split time tests on the last rows"
    if args.split == "time":
        order = f"by the column {time_column.value}" if time_column.value else f"in file order, as {time_column.reason}"
        windows = f", {len(splits)} windows that slide over it" if len(splits) > 1 else ""
        way, note = f"by time, {order}{windows}", "a random split would make the model look better than it is"
    lines = [f"Split      {counts}, {way}"]
    if args.split == "time" or any(column.reason == TIMESTAMP for column in table.columns):
        lines.append(f"           note: rows close in time are alike; {note}")
    if DAYS in time_column.reason:
        lines.append("           note: these are whole days: rows of one day may be both trained on and tested on")
    return lines
