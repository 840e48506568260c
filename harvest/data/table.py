"""The rows of all files as one table."""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
import zlib
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from harvest.cli import UserError
from harvest.data.cells import parse_label, parse_number
from harvest.data.columns import Column, Columns, fill_columns, infer_columns, may_lose_digits, parse_cells
from harvest.data.csv_file import (
    FEWEST_ROWS,
    CsvFile,
    check_header,
    find_files,
    open_csv,
    read_columns,
    read_once,
    without_torn,
)
from harvest.data.hashes import hash_column, hash_spelling
from harvest.data.notation import MISSING_WORDS, find_notations
from harvest.data.repeats import Repeats, find_repeats
from harvest.data.sample import write_sample
from harvest.data.time_column import find_time_column
from harvest.data.times import DATE, TIME_NAMES, TIMESTAMP
from harvest.decision import Decision
from harvest.text import name_files, name_lines, name_some, rows_of

PEEK_ROWS = 1_000  # the first rows of each file, which show whether a column named like a time needs to be read
NO_NUMBER = "text, infinity or a number beyond 3.4e38 in a numeric column; leave missing numbers empty"
FEWEST_OF_CLASS = 5  # rows
MOST_OTHER_LABELS = 0.1  # of the filled labels; more are not typing errors in single rows
MOST_SKIPPED = 0.05  # of the rows, because of one column; with more, the user should fix the column instead
NO_TIME = "the time is missing"
BAD_TIME = "not a time; write times as 2026-01-31 09:30:00 or seconds since 1970"


Fault = tuple[str, str, tuple[str, ...]]  # of a column: what is wrong, cures other than fixing or skipping the rows


@dataclass
class Table:
    """The rows of the files.

    Columns are sorted by name. Rows are sorted by time if --split time needs it; otherwise, and among equal times, by a
    hash of their cells, so their order in the files does not matter.
    """

    frame: pd.DataFrame  # float64, NaN where the cell is empty, or category, with the vocabulary as categories
    columns: list[Column]
    label: np.ndarray  # [N] float32, 0 or 1
    files: np.ndarray  # [N] uint16: the file of each row
    line_numbers: np.ndarray  # [N] int32: the line of each row in its file
    names: list[str]  # of the files, without directories
    notes: list[str]
    read: int
    skipped: int
    hashes: np.ndarray  # [N] uint64: the same for rows that are identical in all used columns
    repeats: Repeats | None = None  # None: no rows are repeated

    def of_kind(self, kind: str) -> list[Column]:
        return [column for column in self.columns if column.kind == kind]

    def warnings(self) -> list[str]:
        """A warning for each column whose cells have lost information."""
        return [f"{column.name}: {column.warning}" for column in self.columns if column.warning]

    def numbers(self, name: str) -> np.ndarray:
        """The cells of a numeric column [N] float64, NaN where empty."""
        return self.frame[name].to_numpy()

    def codes(self, name: str) -> np.ndarray:
        """The cells of a category column as positions in its vocabulary [N] int32."""
        return self.frame[name].cat.codes.to_numpy().astype(np.int32)

    def find_repeats(self) -> None:
        numbers = [self.numbers(column.name) for column in self.of_kind("number")]
        self.repeats = find_repeats(self.hashes, self.label, numbers)


def read_table(args: argparse.Namespace, group: Any = None) -> tuple[Table, Decision]:
    """Read CSV files of any version of HARVEST.CSV into one table; also return the timestamp column, or None.

    The workers of a group share the files. Raises UserError with the place, the fault and the fix.
    """
    cells, files, fixed = read_cells(args, group)
    label_cells = cells.pop(args.label)
    label, other_labels = read_label(args, files, label_cells)
    rows = [len(file.line_numbers) for file in files]
    columns = infer_columns(cells, fixed, rows, args)
    features, others, spelling = hash_columns(columns, cells, len(label))
    content = features + others + hash_column(args.label, label_cells)  # no flag for columns changes the split
    time_column, times = find_time_column(columns, cells, files, args)
    faults, bad = find_faults(args, columns, cells, label, other_labels, time_column, times)
    skip, is_advised = judge_skipping(args, label, bad)
    is_code = len(other_labels) <= 2 and sum(other_labels.values()) > FEWEST_OF_CLASS  # another way to write 0 or 1
    is_advised &= not (other_labels and is_code)
    names, notes = short_names([file.path for file in files]), []
    skipped = sum(file.skipped for file in files)
    read = len(label) + skipped
    for name, file, own in zip(names, files, np.split(bad, np.cumsum(rows)[:-1]), strict=True):
        skipped += handle_bad_rows(file, skip, faults, own, is_advised)
        notes += [f"{name}: {note}" if len(files) > 1 else note for note in file.notes]
    of_file = np.repeat(np.arange(len(files), dtype=np.uint16), rows)
    lines = np.concatenate([file.line_numbers for file in files]).astype(np.int32)
    keep = bad == 0 if bad.any() else slice(None)  # without a copy
    label, of_file, lines = label[keep], of_file[keep], lines[keep]
    frame = fill_columns(columns, cells, keep, len(label))
    table = Table(frame, columns, label, of_file, lines, names, notes, read, skipped, features[keep])
    check_rows(args, table)
    if times is not None or args.split != "time":
        keys = [content[keep]] if times is None else [content[keep], times[keep]]
        keys = [spelling[keep], *keys] if spelling[keep].any() else keys
        order = np.argsort(keys[0]) if len(keys) == 1 else np.lexsort(keys)
        table.frame, table.hashes = frame.take(order).reset_index(drop=True), table.hashes[order]
        table.label, table.files, table.line_numbers = label[order], of_file[order], lines[order]
    table.find_repeats()
    return table, time_column


def hash_columns(columns: list[Column], cells: Columns, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes of each row: of its cells in the used columns, in the dropped ones, and of spellings: [N] uint64 each.

    Spellings are those of numbers that are text in a category, where 12 is not 012.
    """
    used, unused, spelling = np.zeros((3, rows), np.uint64)
    for column in columns:
        if column.name in cells:
            hashes, part = hash_column(column.name, cells[column.name]), unused if column.kind == "dropped" else used
            part += hashes
            spelling += np.uint64(zlib.crc32(column.name.encode())) * hash_spelling(cells[column.name], hashes)
    return used, unused, spelling


def read_label(args: argparse.Namespace, files: list[CsvFile], cells: pd.Series) -> tuple[np.ndarray, dict[str, int]]:
    """The labels [N] float32, -1 if missing or invalid, and the number of rows of each invalid one, whatever its case.

    Raises UserError for a column that does not contain labels.
    """
    label = parse_cells(cells, parse_label).astype(np.float32)
    codes, texts = cells.cat.codes.to_numpy(), cells.cat.categories
    counts = np.bincount(codes + 1, minlength=len(texts) + 1)[1:]  # the first counts empty cells
    meanings = np.array([parse_label(text) for text in texts], int)
    is_other = (meanings < 0) & np.array([text.lower() not in MISSING_WORDS for text in texts], bool)
    few = {0, 1} <= set(meanings) and counts[is_other].sum() <= MOST_OTHER_LABELS * counts.sum()
    one_class = {*meanings[meanings >= 0].tolist()}
    is_half = len(one_class) == 1 and np.count_nonzero(label < 0) > FEWEST_OF_CLASS  # only one class is filled in
    if few or (one_class and not is_other.any() and not is_half):
        return label, count_texts(texts[is_other], counts[is_other])
    found = count_texts(texts, counts)
    shown = [repr(text)[1:-1][:30] for text in [*found][:3]]
    what = " and ".join(sorted(shown) + ["empty cells"] * bool((codes < 0).any()))
    cure = f"write 1 where {args.label} is true and 0 where it is not"
    if len(found) > 2 and is_other.any():
        what, cure = f"{len(found):,} values, such as {', '.join(shown)}", "keep rows of two classes, 1 and 0"
    elif not is_other.any():
        what = f"only {what}"
        cure = f"write {1 - max(one_class)} in the others" if one_class else cure
    wrong = is_other if is_other.any() else meanings < 0
    place = np.argmax(np.append(wrong, not is_other.any())[codes])  # -1, an empty cell, is the last
    path = files[np.searchsorted(np.cumsum([len(file.line_numbers) for file in files]), place, "right")].path
    what = f"{path}: column {args.label} contains {what}, but a label is 0 or 1 (also true/false, yes/no)"
    raise UserError(f"{what}; {cure}, or choose another column with --label")


def count_texts(texts: pd.Index, counts: np.ndarray) -> dict[str, int]:
    """The number of rows of each text in any case, given that of each spelling; the most frequent first."""
    total: Counter[str] = Counter()
    spelling: dict[str, str] = {}
    for place in np.argsort(-counts, kind="stable"):
        total[spelling.setdefault(texts[place].lower(), texts[place])] += int(counts[place])
    return dict(total.most_common())


def find_faults(
    args: argparse.Namespace,
    columns: list[Column],
    cells: Columns,
    label: np.ndarray,
    other_labels: dict[str, int],
    time_column: Decision,
    times: np.ndarray | None,
) -> tuple[list[Fault], np.ndarray]:
    """The faults found, and for each row [N] int32 the number of its fault, counted from 1, or 0.

    Converts the cells of numeric columns to numbers.
    """
    faults: list[Fault] = []
    bad = np.zeros(len(label), np.int32)

    def check(wrong: np.ndarray, name: str, fault: str, *cures: str) -> None:
        faults.append((name, fault, cures))
        bad[wrong] = len(faults)

    notations = find_notations(columns, cells)
    for name in [column.name for column in reversed(columns) if column.kind == "number"]:
        cells[name] = pd.Series(parse_cells(cells[name], parse_number), copy=False)
        others = [f"drop the column with --drop {shlex.quote(name)}"]
        if not notations.get(name):
            others.insert(0, f"read the column as a category with --categorical {shlex.quote(name)}")
        check(np.isinf(cells[name].to_numpy()), name, notations.get(name) or NO_NUMBER, *others)
    if times is not None:
        others = [] if args.time_column else [f"drop the column with --drop {shlex.quote(time_column.value)}"]
        for wrong, fault in ((np.isinf(times), BAD_TIME), (np.isnan(times), NO_TIME)):
            check(wrong, time_column.value, fault, "choose another column with --time-column", *others)
    of_each = (f"{repr(text)[1:-1][:30]} in {rows:,} row{'s' * (rows > 1)}" for text, rows in other_labels.items())
    seen = ", ".join(islice(of_each, 3))
    fault = "the label is missing or not 0 or 1" + f" ({seen})" * bool(seen)
    check(label < 0, args.label, fault, "choose another column with --label")
    return faults, bad


def judge_skipping(args: argparse.Namespace, label: np.ndarray, bad: np.ndarray) -> tuple[bool, bool]:
    """Whether to skip bad rows, if requested, and whether to recommend it.

    It is not recommended if too few rows would be left, or if one column other than the label is bad in many rows.
    """
    left = label[bad == 0]
    rarer = int(min(np.count_nonzero(left > 0), np.count_nonzero(left == 0)))
    is_enough = len(left) >= FEWEST_ROWS and rarer >= FEWEST_OF_CLASS
    is_most = 2 * len(left) >= int(np.count_nonzero(label >= 0))  # unlabeled rows do not count
    is_few = np.bincount(bad[label >= 0])[1:].max(initial=0) <= max(1, MOST_SKIPPED * len(bad))
    return args.skip_bad_rows and (is_enough or is_most), bool(is_enough and is_most and is_few)


def read_cells(args: argparse.Namespace, group: Any) -> tuple[Columns, list[CsvFile], dict[str, str]]:
    """The cells of the columns, the files, and the reasons to drop some columns regardless of their cells.

    All columns are read, except times as text, recognized by name and first cells, unless rows are sorted by time.
    """
    if group:
        own, files = group.find_files(args)
    else:
        own = files = [open_csv(path, args.skip_bad_rows) for path in find_files(args.csv)]
    names = check_columns(files, args)
    chosen = {args.label, *args.categorical, *args.numeric}
    fixed = dict.fromkeys(args.drop, "--drop") | dict.fromkeys({args.time_column} - {None, *chosen}, "--time-column")
    likely = [name for name in names if name.lower() in TIME_NAMES and args.split != "time" and name not in chosen]
    heads = [peek(own, likely)] if not group else group.engine.exchange(group.together(peek, own, likely))
    texts = {name: [text for head in heads for text in head[name]] for name in likely}
    unread = {name for name in likely if texts[name] and all(map(DATE.fullmatch, texts[name]))}
    fixed = dict.fromkeys(unread, TIMESTAMP) | fixed
    wanted = sorted(set(names) - unread)
    textual = {name for name in wanted if name == args.label or name in args.categorical or may_lose_digits(name)}
    if group:
        return *group.read_columns(own, files, wanted, textual, args), fixed
    return read_columns(files, wanted, textual), files, fixed


def peek(files: list[CsvFile], names: list[str]) -> dict[str, list[str]]:
    """The texts in the first rows of columns in each file."""
    heads = [file._replace(line_numbers=file.line_numbers[:PEEK_ROWS]) for file in files]
    cells, _ = read_once(heads, names, set(names))
    return {name: cells[name].cat.categories.tolist() for name in names}


def generate_table(args: argparse.Namespace, group: Any = None) -> tuple[Table, Decision]:
    """A table of --sample generated rows. Sets args.csv to the name of the data."""
    with tempfile.TemporaryDirectory(dir=group and group.folder) as folder:
        path = os.path.join(folder, "HARVEST.CSV")
        args.csv = [path]
        write_sample(path, args.sample, args.split_seed)
        try:
            table, time_column = read_table(args, group)
        except UserError as error:
            fault = str(error).removeprefix(f"{path}: ").partition(";")[0]
            raise UserError(f"--sample {args.sample}: {fault}; generate more rows") from None
    args.csv = table.names = [f"{args.sample:,} generated rows"]
    return table, time_column


def short_names(paths: list[str]) -> list[str]:
    """The names of files in the output of a run: without directories, unless two files have the same name."""
    names = [os.path.basename(os.path.abspath(path)) for path in paths]
    if len(set(names)) < len(names):
        names = [os.path.relpath(path, os.path.commonpath(list(map(os.path.abspath, paths)))) for path in paths]
    return [os.fsencode(name).decode("utf-8", "replace") for name in names]


def check_columns(files: list[CsvFile], args: argparse.Namespace) -> list[str]:
    """The names of all columns, in order of appearance; UserError for a label or flag that names no column."""
    names = list(dict.fromkeys(name for file in files for name in file.names))
    for file in files:
        present = set(file.names)
        if args.label not in present:
            if os.path.isfile(file.path):  # not of another worker
                check_header(file.path, name=args.label)
            named = f"choose the label with --label (columns: {name_some(file.names, 12)})"
            raise UserError(f"{file.path}: line 1 has no column {args.label}; {named}")
        if not len(file.line_numbers):
            raise UserError(f"{file.path}: no rows after the header; give a file with labeled rows")
        if absent := [name for name in names if name not in present]:
            file.notes.append(f"has no {name_some(absent)}: these cells are missing in its rows")
    flags = {flag: getattr(args, flag) for flag in ("categorical", "numeric", "drop")}
    flags["time-column"] = [] if args.time_column is None else [args.time_column]
    for flag, name in [(flag, name) for flag, given in flags.items() for name in given]:
        if name not in names:
            raise UserError(f"--{flag} {name}: {name_files(args.csv)} has no such column")
        if name == args.label:
            raise UserError(f"--{flag} {name}: this is the label")
    return names


def handle_bad_rows(file: CsvFile, skip: bool, faults: list[Fault], fault_of: np.ndarray, is_advised: bool) -> int:
    """Skip a torn last line and, if requested, bad rows; otherwise raise a UserError that names the first ones."""
    bad = without_torn(np.flatnonzero(fault_of), file.line_numbers, file.torn, file.notes)
    if not len(bad):
        return 0
    if skip:
        file.notes.append(f"{name_lines(file.line_numbers[bad])}: invalid cells, skipped")
        return len(bad)
    name, wrong, cures = faults[fault_of[bad[0]] - 1]
    where = name_lines(file.line_numbers[bad[fault_of[bad] == fault_of[bad[0]]]])
    ways = ["fix the rows", *cures] + ["skip the rows with --skip-bad-rows"] * is_advised
    raise UserError(f"{file.path}: {where}, column {name}: {wrong}; {', '.join(ways[:-1])} or {ways[-1]}")


def check_rows(args: argparse.Namespace, table: Table) -> None:
    rows, positive = len(table.label), int(table.label.sum())
    count, rarer = min((positive, 1), (rows - positive, 0))
    if rows < FEWEST_ROWS:
        fault = f"only {rows} usable row{'s' * (rows != 1)}, but at least {FEWEST_ROWS} are needed; label more rows"
    elif count < FEWEST_OF_CLASS:
        few = f"{rows_of(args.label, rarer)}: {count} of {rows:,}, but at least {FEWEST_OF_CLASS} are needed"
        fault = f"too few {few}; label more of them"
    elif all(column.kind == "dropped" for column in table.columns):
        reasons = [f"{column.name} ({column.reason})" for column in table.columns]
        hints = "".join(f"; {column.name}: {column.hint}" for column in table.columns if column.hint)
        fault = f"no column is left to learn from: {name_some(reasons) or 'the label is the only one'}{hints}"
    else:
        return
    raise UserError(f"{name_files(args.csv)}: {fault}")
