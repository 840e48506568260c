"""Which rows train, stop and test each network."""

import argparse
from typing import NamedTuple

import numpy as np

from harvest.cli import UserError
from harvest.data.table import TIMESTAMP, Table, data_name
from harvest.decision import Decision
from harvest.text import count_range


class Split(NamedTuple):
    """Row numbers, int32, of the rows trained on, stopped by and tested on."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_rows(label: np.ndarray, method: str, seed: int) -> Split:
    """Split 70/15/15: at random within each class, or in the order of time, which is then that of the rows."""

    def cut(rows: np.ndarray) -> list[np.ndarray]:
        held = max(1, round(0.15 * len(rows)))
        return np.split(rows, [len(rows) - 2 * held, len(rows) - held])

    if method == "time":
        return Split(*cut(np.arange(len(label), dtype=np.int32)))
    generator = np.random.default_rng([seed, 0])
    classes = [cut(generator.permutation(np.flatnonzero(label == value).astype(np.int32))) for value in (0, 1)]
    return Split(*(np.sort(np.concatenate(parts)) for parts in zip(*classes, strict=True)))


def split_folds_by_time(rows: int, folds: int) -> list[Split]:
    """Cut rows in the order of time into 3 K + 1 blocks, and let K windows slide over them, block by block.

    Each network trains on 2 K blocks, stops by the next and is tested on the one after. With windows that grow from the
    first row on, the first networks would have few and old rows: where habits change, their mean is worse than one.
    """
    blocks = np.array_split(np.arange(rows, dtype=np.int32), 3 * folds + 1)
    ends = range(2 * folds, 3 * folds)
    return [Split(np.concatenate(blocks[end - 2 * folds : end]), blocks[end], blocks[end + 1]) for end in ends]


def split_folds(label: np.ndarray, folds: int, seed: int) -> list[Split]:
    """Cut the rows, at random within each class, into K parts: network k tests on part k, stops by part k + 1."""
    generator = np.random.default_rng([seed, 0])
    rows = np.concatenate([generator.permutation(np.flatnonzero(label == value)) for value in (0, 1)])
    part = np.empty(len(label), np.int32)
    part[rows] = np.arange(len(rows)) % folds
    splits = []
    for test in range(folds):
        val = (test + 1) % folds
        members = [(part != test) & (part != val), part == val, part == test]
        splits.append(Split(*(np.flatnonzero(member).astype(np.int32) for member in members)))
    return splits


def make_splits(args: argparse.Namespace, label: np.ndarray, folds: int) -> list[Split]:
    """One split, or one for each fold. Raises UserError where a part would have one class only."""
    rows, blocks = len(label), 3 * folds + 1
    if folds == 1:
        splits = [split_rows(label, args.split, args.split_seed)]
    elif args.split == "random":
        return split_folds(label, folds, args.split_seed)
    elif rows < 2 * blocks:
        few = f"{rows} rows are too few for --folds {folds} --split time, which cuts them into {blocks} blocks"
        raise UserError(f"{data_name(args)}: {few}; give fewer folds")
    else:
        splits = split_folds_by_time(rows, folds)
    train, val, test = zip(*splits, strict=True)
    for name, parts in {"training": train, "validation": [np.concatenate(val)], "test": [np.concatenate(test)]}.items():
        if any(np.ptp(label[part]) == 0 for part in parts):
            text = f"the {name} rows are all of one class; label more rows or use --split random"
            raise UserError(f"{data_name(args)}: {text}")
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
    return lines
