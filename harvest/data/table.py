"""What each column is, and the rows of all files as one table."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from harvest.cli import UserError
from harvest.data.cells import MISSING, UNSEEN, parse_id, parse_label, parse_number, parse_text, parse_time
from harvest.data.csv_file import V0_COLUMNS, CsvFile, find_files, open_csv, read_columns, without_torn
from harvest.data.sample import write_sample
from harvest.decision import Decision
from harvest.text import name_some, percent, rows_of, titled_list

CATEGORY_WORDS = {"app", "apps", "domain", "domains", "hash", "id"}
QUANTITY_WORDS = {"count", "flag", "rate", "share", "distinct", "ms", "60s", "300s", "number", "age", "score"}
TIME_NAMES = {"timestamp", "datetime", "date", "time", "created_at", "updated_at"}
TIMESTAMP = "a timestamp"  # the reason why a column is left out, and may be what the rows are sorted by
TIME_WORDS = {"timestamp", "datetime", "date", "time", "ts", "at", "epoch"}  # in names of numbers that may be times
EARLIEST, LATEST = 631_152_000, 4_102_444_800  # 1990 and 2100, in seconds since 1970; durations are seldom between
DIGITS = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)  # an id of any length and with zeros in front, perhaps kept as text
DATE = re.compile(r"\d{4}-\d\d-\d\d|\d{1,2}[./]\d{1,2}[./]\d{2,4}")
NO_NUMBER = "text, infinity or a number beyond 3.4e38 in a column of numbers; a missing number is an empty cell"
NO_TIME = "no time, such as 2026-01-31 09:30:00 or seconds since 1970"

Columns = dict[str, pd.Series]  # by name: float64, or category of texts, NaN where the cell is empty


@dataclass
class Column:
    name: str
    kind: str  # number, category or dropped
    reason: str = ""
    missing: int | None = None  # None: never read, so not counted
    distinct: int | None = None
    vocabulary: list[int] | list[str] = field(default_factory=list)  # of a category, sorted; MISSING or "": no value
    hint: str = ""

    @property
    def integers(self) -> bool:
        """Of a category: are its values integers, not text."""
        return isinstance(self.vocabulary[0], int)


@dataclass
class Table:
    """The rows of the files.

    Columns are in the order of their names. Rows are in the order of time when that matters, and otherwise, or at the
    same time, in the order of what they hold, so that their order in the files changes nothing.
    """

    frame: pd.DataFrame  # float64, NaN where the cell is empty, or category, whose categories are the vocabulary
    columns: list[Column]
    label: np.ndarray  # [N] float32, 0 or 1
    files: np.ndarray  # [N] uint16: which of the files a row is from
    line_numbers: np.ndarray  # [N] int32: the line of its file
    names: list[str]  # of the files, without directories
    notes: list[str]
    read: int
    skipped: int

    def of_kind(self, kind: str) -> list[Column]:
        return [column for column in self.columns if column.kind == kind]

    def numbers(self, name: str) -> np.ndarray:
        """The cells of a number column [N] float64, NaN where empty."""
        return self.frame[name].to_numpy()

    def codes(self, name: str) -> np.ndarray:
        """The cells of a category column as positions in its vocabulary [N] int32."""
        return self.frame[name].cat.codes.to_numpy().astype(np.int32)


def parse_cells(cells: pd.Series, parse: Callable[[str], float]) -> np.ndarray:
    """What each cell means, float64; cells that pandas parsed are numbers already."""
    if cells.dtype == np.float64:
        return cells.to_numpy()
    texts = cells.cat.categories.tolist()
    return np.array([*map(parse, texts), parse("")], float)[cells.cat.codes.to_numpy()]  # -1, an empty cell, is last


def name_words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower()))


def is_id_name(name: str) -> bool:
    words = name_words(name)
    return bool(words & CATEGORY_WORDS) and not words & QUANTITY_WORDS


def in_seconds(times: np.ndarray) -> np.ndarray:
    """Times since 1970 in seconds; from 3e11 on, the year 11476, they were in milli-, micro- or nanoseconds."""
    for _ in range(3):
        times = np.where(np.abs(times) >= 3e11, times / 1_000, times)
    return times


def count_times(times: np.ndarray) -> int:
    """How many of these numbers can be times of our days."""
    seconds = in_seconds(times)
    return int(np.count_nonzero((seconds >= EARLIEST) & (seconds <= LATEST)))


def infer_kind(name: str, cells: pd.Series, args: argparse.Namespace) -> tuple[str, str]:
    """The kind of a column and the reason, from its name and all its cells, whatever their order."""
    if name in args.categorical:
        return "category", "--categorical"
    if name in args.numeric:
        return "number", "--numeric"
    values = parse_cells(cells, parse_number)
    texts = [] if cells.dtype == np.float64 else cells.cat.categories.tolist()
    known, filled = values[np.isfinite(values)], np.count_nonzero(~np.isnan(values))
    if not filled:
        return "dropped", "empty"
    is_id = is_id_name(name) and all(map(DIGITS.fullmatch, texts))
    if not is_id:
        if len(known) == filled or (len(known) >= 0.5 * filled and not is_id_name(name)):
            if name_words(name) & TIME_WORDS and name not in V0_COLUMNS and count_times(known) == len(known):
                return "dropped", TIMESTAMP
            # A row number: whole numbers without a gap, each once.
            numbered = len(known) > 20 and name not in V0_COLUMNS and np.ptp(known) <= 1.01 * len(known)
            if numbered and not np.any(known % 1) and len(np.unique(known)) == len(known):
                return "dropped", "a row number"
            return "number", ""
        if sum(map(bool, map(DATE.match, texts))) >= 0.5 * len(texts):
            return "dropped", TIMESTAMP
    if filled > 20 and len(texts) > 0.9 * filled:
        return "dropped", "nearly all values distinct"
    return "category", "an id by its name" if is_id else "text"


def find_time_column(
    columns: list[Column], cells: Columns, args: argparse.Namespace
) -> tuple[Decision, np.ndarray | None]:
    """The name of the column that --split time sorts by, and its times; None for another split and for file order.

    Of several it is the one called timestamp, or else the one with the most different times.
    """
    if args.split != "time":
        return Decision(None, ""), None
    if name := args.time_column:
        return Decision(name, "as requested"), in_seconds(parse_cells(cells[name], parse_time))
    found = []
    for name in (column.name for column in columns if column.reason == TIMESTAMP):
        times = in_seconds(parse_cells(cells[name], parse_time))
        filled, distinct = np.count_nonzero(~np.isnan(times)), len(np.unique(times[np.isfinite(times)]))
        if distinct > 1 and count_times(times) >= 0.5 * filled:  # one time for all rows puts them in no order
            found.append((name.lower() != "timestamp", -distinct, name, times))
    if not found:
        return Decision(None, "no column tells the time"), None
    *_, name, times = min(found, key=lambda candidate: candidate[:3])
    return Decision(name, "it holds times"), times


def read_table(args: argparse.Namespace, group: Any = None) -> tuple[Table, Decision]:
    """Read CSV files of any generation into one table; and the column that --split time sorts by, None for no such.

    A group shares the files among its workers. Raises UserError, which says what is wrong, where and what to do.
    """
    cells, files, fixed = read_cells(args, group)
    label = parse_cells(cells.pop(args.label), parse_label).astype(np.float32)
    columns = [Column(name, "dropped", reason) for name, reason in fixed.items()]
    columns += [Column(name, *infer_kind(name, part, args)) for name, part in cells.items() if name not in fixed]
    columns.sort(key=lambda column: column.name)
    time_column, times = find_time_column(columns, cells, args)
    faults: list[tuple[str, str, str]] = []  # by column: its name, what is wrong, and what can be done but mend it
    bad = np.zeros(len(label), np.int32)  # which fault a row has, from 1 on; 0: none

    def check(wrong: np.ndarray, name: str, fault: str, others: str) -> None:
        faults.append((name, fault, others))
        bad[wrong] = len(faults)

    for name in [column.name for column in reversed(columns) if column.kind == "number"]:
        cells[name] = pd.Series(parse_cells(cells[name], parse_number), copy=False)
        others = f"read it with --categorical {name}, leave it out with --drop {name}"
        check(np.isinf(cells[name].to_numpy()), name, NO_NUMBER, others)
    if times is not None:
        check(~np.isfinite(times), time_column.value, NO_TIME, "name another with --time-column")
    check(label < 0, args.label, "the label is missing or not 0 or 1", "name another column with --label")
    rows, names = [len(file.line_numbers) for file in files], short_names([file.path for file in files])
    skipped, notes = sum(file.skipped for file in files), []
    read = len(label) + skipped
    for name, file, own in zip(names, files, np.split(bad, np.cumsum(rows)[:-1]), strict=True):
        skipped += handle_bad_rows(file, args.skip_bad_rows, faults, own)
        notes += [f"{name}: {note}" if len(files) > 1 else note for note in file.notes]
    of_file = np.repeat(np.arange(len(files), dtype=np.uint16), rows)
    lines = np.concatenate([file.line_numbers for file in files]).astype(np.int32)
    keep = bad == 0 if bad.any() else slice(None)  # which copies nothing
    label, of_file, lines = label[keep], of_file[keep], lines[keep]
    frame = fill_columns(columns, cells, keep, len(label))
    table = Table(frame, columns, label, of_file, lines, names, notes, read, skipped)
    check_rows(args, table)
    if times is not None or args.split != "time":
        kept = [table.numbers(column.name) for column in table.of_kind("number")]
        hashes = hash_rows([*kept, *(table.codes(column.name) for column in table.of_kind("category")), label])
        order = np.argsort(hashes) if times is None else np.lexsort([hashes, times[keep]])
        table.frame = frame.take(order).reset_index(drop=True)
        table.label, table.files, table.line_numbers = label[order], of_file[order], lines[order]
    return table, time_column


def read_cells(args: argparse.Namespace, group: Any) -> tuple[Columns, list[CsvFile], dict[str, str]]:
    """The cells of all columns that may be needed, the files, and why columns are dropped whatever their cells are."""
    if group:
        own, files = group.find_files(args)
    else:
        own = files = [open_csv(path, args.skip_bad_rows) for path in find_files(args.csv)]
    names = check_columns(files, args)
    chosen = {args.label, *args.categorical, *args.numeric}
    fixed = {name: TIMESTAMP for name in names if name.lower() in TIME_NAMES and name not in chosen}
    fixed |= dict.fromkeys(args.drop, "--drop")
    fixed |= dict.fromkeys({args.time_column} - {None, *chosen}, "--time-column")
    unread = {name for name, reason in fixed.items() if args.split != "time" or reason == "--drop"}
    wanted = sorted(set(names) - unread)
    textual = {name for name in wanted if name == args.label or name in args.categorical or is_id_name(name)}
    if group:
        return *group.read_columns(own, files, wanted, textual, args), fixed
    return read_columns(files, wanted, textual), files, fixed


def generate_table(args: argparse.Namespace, group: Any = None) -> tuple[Table, Decision]:
    """A table of --sample generated rows. args.csv becomes what the data are called."""
    with tempfile.TemporaryDirectory() as folder:
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
    """What files are called in what a run writes: without directories that say more than they must."""
    names = [os.path.basename(path) for path in paths]
    if len(set(names)) < len(names):
        names = [os.path.relpath(path, os.path.commonpath(list(map(os.path.abspath, paths)))) for path in paths]
    return [os.fsencode(name).decode("utf-8", "replace") for name in names]


def data_name(args: argparse.Namespace) -> str:
    first, *others = args.csv
    return f"{len(args.csv)} files, {first} to {others[-1]}" if others else first


def check_columns(files: list[CsvFile], args: argparse.Namespace) -> list[str]:
    """The names of all columns, in the order they are met; UserError for a label or flag that names no column."""
    names = list(dict.fromkeys(name for file in files for name in file.names))
    for file in files:
        present = set(file.names)
        if args.label not in present:
            shown = ", ".join(file.names[:12]) + (", ..." if len(file.names) > 12 else "")
            named = f"name the label with --label (columns: {shown})"
            raise UserError(f"{file.path}: line 1 has no column {args.label}; {named}")
        if not len(file.line_numbers):
            raise UserError(f"{file.path}: no rows after the header; let the harvester write some first")
        if absent := [name for name in names if name not in present]:
            others = " and others" if len(absent) > 5 else ""
            file.notes.append(f"has no {', '.join(absent[:5])}{others}: missing in its rows")
    flags = {"categorical": args.categorical, "numeric": args.numeric, "drop": args.drop}
    if args.time_column is not None:
        flags["time-column"] = [args.time_column]
    for flag, name in [(flag, name) for flag, given in flags.items() for name in given]:
        if name not in names:
            raise UserError(f"--{flag} {name}: {data_name(args)} has no such column")
        if name == args.label:
            raise UserError(f"--{flag} {name}: this is the label")
    return names


def handle_bad_rows(file: CsvFile, skip: bool, faults: list[tuple[str, str, str]], fault_of: np.ndarray) -> int:
    """Leave out a cut last line and, when asked, bad rows; otherwise raise UserError naming the first ones."""
    bad = without_torn(np.flatnonzero(fault_of), file.line_numbers, file.torn, file.notes)
    if not len(bad):
        return 0
    if skip:
        file.notes.append(f"{name_some(file.line_numbers[bad])}: unusable values, left out")
        return len(bad)
    name, wrong, others = faults[fault_of[bad[0]] - 1]
    where = name_some(file.line_numbers[bad[fault_of[bad] == fault_of[bad[0]]]])
    raise UserError(f"{file.path}: {where}, column {name}: {wrong}; fix the rows, {others} or use --skip-bad-rows")


def fill_columns(columns: list[Column], cells: Columns, keep: np.ndarray | slice, rows: int) -> pd.DataFrame:
    """The kept rows of the columns that are used; those that can teach nothing are dropped."""
    frame: dict[str, np.ndarray | pd.Categorical] = {}
    first: dict[tuple, str] = {}  # of columns with the same cells, by these
    for column in columns:
        if column.name not in cells:
            continue  # never read
        part = cells.pop(column.name)
        textual = part.dtype != np.float64
        values = (part.cat.codes.to_numpy().astype(np.int32) if textual else part.to_numpy())[keep]
        known = values[values >= 0 if textual else ~np.isnan(values)]
        column.missing = len(values) - len(known)
        if column.kind == "category":
            values = sort_category(column, values, part.cat.categories.tolist())
            useless = len(column.vocabulary) < 2
        else:
            step = max(1, len(known) // 1_000_000) if column.kind == "number" else 1
            column.distinct = len(np.unique(known[::step]))
            useless = not len(known) or (np.ptp(known) == 0 and not column.missing)
        if column.kind == "dropped":
            continue
        reason = ("constant" if column.distinct else "empty") if useless else ""
        if not useless:
            content = column.kind, tuple(column.vocabulary), hashlib.sha256(cell_bits(values).data).digest()
            if (twin := first.setdefault(content, column.name)) != column.name:
                reason = f"the same as {twin} in all rows"
        if reason:
            column.kind, column.reason, column.vocabulary = "dropped", reason, []
            continue
        category = column.kind == "category"
        frame[column.name] = pd.Categorical.from_codes(values, column.vocabulary) if category else values
        named = category or name_words(column.name) & QUANTITY_WORDS
        if not named and column.distinct in range(3, 11) and rows > 200 and not np.any(known % 1):
            column.hint = f"few different whole numbers; --categorical {column.name} if they stand for categories"
    return pd.DataFrame(frame, index=range(rows), copy=False)


def sort_category(column: Column, codes: np.ndarray, texts: list[str]) -> np.ndarray:
    """Give a category its vocabulary, sorted by meaning; return the codes in it [N] int32."""
    counts = np.bincount(codes + 1, minlength=len(texts) + 1)  # the first counts empty cells
    used = [text for text, count in zip(["", *texts], counts, strict=True) if count]
    integers = any(used) and all(parse_id(text) != UNSEEN for text in used)
    parse: Callable = parse_id if integers else parse_text
    column.vocabulary = sorted({parse(text) for text in used})
    column.distinct = len(column.vocabulary) - bool(column.missing)
    code = {value: number for number, value in enumerate(column.vocabulary)}
    return np.array([code.get(parse(text), 0) for text in ["", *texts]], np.int32)[codes + 1]


def cell_bits(values: np.ndarray) -> np.ndarray:
    """Numbers or codes as uint64 that are equal where the cells mean the same, as NaNs and zeros do."""
    if values.dtype != np.float64:
        return values.astype(np.uint64)
    return np.where(np.isnan(values), np.inf, values + 0.0).view(np.uint64)


def hash_rows(columns: Iterable[np.ndarray]) -> np.ndarray:
    """A hash of what each row of columns [N] holds, uint64: 64-bit numbers by their bits, others by their values."""
    hashes: Any = np.uint64(0)
    for column in columns:
        hashes = (hashes ^ cell_bits(column)) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def check_rows(args: argparse.Namespace, table: Table) -> None:
    rows, positive = len(table.label), int(table.label.sum())
    count, rarer = min((positive, 1), (rows - positive, 0))
    if rows < 20:
        fault = f"only {rows} usable row{'s' * (rows != 1)}, at least 20 are needed; label more rows"
    elif count < 5:
        few = f"{rows_of(args.label, rarer)}: {count} of {rows:,}, at least 5 are needed"
        fault = f"too few {few}; label more of them"
    elif all(column.kind == "dropped" for column in table.columns):
        fault = "no column is left to learn from: all are empty, constant, timestamps or row numbers"
    else:
        return
    raise UserError(f"{data_name(args)}: {fault}")


def describe(args: argparse.Namespace, table: Table) -> list[str]:
    """What is printed of the data: files, label, and what each column is."""
    share, skipped = float(table.label.mean()), f" ({table.skipped:,} left out)" if table.skipped else ""
    rows = "" if args.sample else f": {len(table.label):,} rows{skipped}"
    lines = [f"Data       {', '.join(short_names(args.csv))}{rows}"]
    lines += [f"           note: {note}" for note in table.notes]
    lines.append(f"Label      {args.label}: 1 in {percent(share)} of rows, 0 in {percent(1 - share)}")
    numbers, categories, dropped = map(table.of_kind, ("number", "category", "dropped"))
    missing = {column.name: f" ({column.missing:,} missing)" if column.missing else "" for column in table.columns}
    count = {column.name: f"{column.distinct:,} value{'s' * (column.distinct != 1)}" for column in categories}
    lines += titled_list("Numbers", [column.name + missing[column.name] for column in numbers])
    lines += titled_list("Categories", [f"{name} ({values}){missing[name]}" for name, values in count.items()])
    lines += titled_list("Left out", [f"{column.name} ({column.reason})" for column in dropped])
    return lines + [f"           hint: {column.name}: {column.hint}" for column in table.columns if column.hint]


def describe_columns(table: Table) -> list[str]:
    """A line for each column: what it is read as, how many values it has, how many cells are empty."""
    rows = [("column", "read as", "distinct", "missing", "values")]
    for column in table.columns:
        values = column.reason
        if column.kind == "number":
            ends = np.nanpercentile(table.numbers(column.name), [0, 100, 50])
            values = "{:.6g} to {:.6g}, median {:.6g}".format(*ends)
        elif column.kind == "category":
            counts = np.bincount(table.codes(column.name))
            most = column.vocabulary[np.argmax(counts)]
            most = "(missing)" if most in ("", MISSING) else most
            values = f"most often {most}, in {percent(counts.max() / len(table.label))} of rows"
        distinct, missing = ("" if count is None else f"{count:,}" for count in (column.distinct, column.missing))
        values += f"; {column.hint}" if column.hint else ""
        rows.append((column.name, column.kind, distinct, missing, values))
    width = max(len(column.name) for column in table.columns)
    return [f"{row[0]:<{width}}  {row[1]:<9}{row[2]:>10}{row[3]:>10}  {row[4]}" for row in rows]
