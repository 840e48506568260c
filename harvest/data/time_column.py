"""The column that tells the time of each row, which --split time sorts by."""

import argparse
import re
import shlex
from typing import NamedTuple

import numpy as np
import pandas as pd

from harvest.cli import UserError
from harvest.data.cells import parse_number
from harvest.data.columns import Column, Columns, name_words
from harvest.data.csv_file import CsvFile
from harvest.data.times import CLOCKS, MOMENT_WORDS, TIME_NAMES, TIMESTAMP, read_times, show_readings
from harvest.decision import Decision

DAYS = "dates without a time of day"  # in the reason of a decision, which describe_split looks for
DAY = 86_400  # seconds
CLOCK = re.compile(r"\d+:[0-5]\d(:[0-5]\d([.,]\d+)?)?( ?[ap]m)?", re.ASCII | re.IGNORECASE)  # a time of day or duration


class Candidate(NamedTuple):
    """A column that may tell the time of each row."""

    name: str
    is_category: bool
    cells: pd.Series
    times: np.ndarray  # [N]: NaN where a cell is empty, infinite where it cannot be read

    @property
    def readable(self) -> bool:
        """Whether most cells are times; the others are then faults of their rows."""
        known = np.count_nonzero(np.isfinite(self.times))
        return bool(known >= 0.5 * np.count_nonzero(~np.isnan(self.times)) and not np.isneginf(self.times).any())


def find_time_column(
    columns: list[Column], cells: Columns, files: list[CsvFile], args: argparse.Namespace
) -> tuple[Decision, np.ndarray | None]:
    """The name of the column that --split time sorts by, and its times; None for another split and for file order.

    Of several it is the one called timestamp, or any if all put the rows in the same order. Raises UserError where
    several do not, and for a column named as a time that cannot be read.
    """
    if args.split != "time":
        return Decision(None, ""), None
    if name := args.time_column:
        chosen, why = Candidate(name, False, cells[name], read_times(cells[name])), "as requested"
    else:
        found = find_candidates(columns, cells)
        if not found:
            refuse_numbers(columns, cells, files)
            return Decision(None, "no column tells the time"), None
        chosen, why = choose(found, files), "it holds times"
    if not chosen.readable:
        refuse_unreadable(chosen, files, bool(args.time_column))
    known = chosen.times[np.isfinite(chosen.times)]
    if not np.any(known % DAY) and len(np.unique(known)) < len(known):
        why = f"it holds {DAYS}" if not args.time_column else f"{why}; it holds {DAYS}"
    return Decision(chosen.name, why), chosen.times


def find_candidates(columns: list[Column], cells: Columns) -> list[Candidate]:
    """The columns that hold times, and those of text that are named so, whether they can be read or not."""
    chosen = [column for column in columns if column.reason == TIMESTAMP]
    named = [column for column in columns if is_named_time(column, cells)]
    if not any(column.name.lower() in TIME_NAMES for column in chosen):
        dated = [column for column in named if not all(map(CLOCK.fullmatch, cells[column.name].cat.categories))]
        chosen += dated or ([] if chosen else named)
    found = [
        Candidate(column.name, column.kind == "category", cells[column.name], read_times(cells[column.name]))
        for column in chosen
        if cells[column.name].nunique() > 1  # one time for all rows puts them in no order
    ]
    return [one for one in found if one.name.lower() in TIME_NAMES or np.isnan(one.times).mean() <= 0.5]


def is_named_time(column: Column, cells: Columns) -> bool:
    """Whether a column is named as a time and most of its texts, which are no dates by their looks, have digits."""
    if column.reason not in ("text", "nearly all values distinct", CLOCKS):
        return False
    texts = [] if cells[column.name].dtype == np.float64 else cells[column.name].cat.categories
    spelled = [text for text in texts if re.search(r"\d", text) and np.isinf(parse_number(text))]
    return bool(name_words(column.name) & MOMENT_WORDS) and len(spelled) > 0.5 * len(texts)


def choose(found: list[Candidate], files: list[CsvFile]) -> Candidate:
    """The column called timestamp, or the fullest and finest of those that agree on the order of the rows."""
    if stamps := [one for one in found if one.name.lower() == "timestamp"]:
        return stamps[0]
    missing, distinct = (lambda one: np.isnan(one.times).sum()), (lambda one: len(np.unique(one.times)))
    best = min(found, key=lambda one: (missing(one), -distinct(one), one.name))
    if all(one is best or (one.readable and best.readable and agree(best.times, one.times)) for one in found):
        return best
    names = sorted(one.name for one in found)
    several = f"the columns {', '.join(names[:-1])} and {names[-1]} hold times and put the rows in different orders"
    raise UserError(f"{files[0].path}: line 1: {several}; name the one to sort by with --time-column")


def agree(times: np.ndarray, others: np.ndarray) -> bool:
    """Whether other times [N] never fall while the times rise."""
    both = np.isfinite(times) & np.isfinite(others)
    others = others[both][np.lexsort([others[both], times[both]])]
    return len(others) > 1 and bool(np.all(np.diff(others) >= 0))


def refuse_unreadable(chosen: Candidate, files: list[CsvFile], was_named: bool) -> None:
    """Raise UserError for the first cell that is no time or two."""
    ambiguous = np.isneginf(chosen.times)
    row = int(np.argmax(ambiguous if ambiguous.any() else np.isposinf(chosen.times)))
    cell = str(chosen.cells.iloc[row])
    fault = f"{cell[:60]} cannot be read as a time; write it as 2026-01-31 09:30:00 or seconds since 1970"
    if ambiguous.any():
        fault = f"{cell} is {show_readings(cell)}, and no cell tells which; write dates as 2026-01-31"
    others = "" if was_named else f" or leave this one out with --drop {shlex.quote(chosen.name)}"
    if chosen.is_category:
        others = f" or, if it holds no times, give --categorical {shlex.quote(chosen.name)}"
    where = f"{place_of(row, files)}, column {chosen.name}"
    raise UserError(f"{where}: {fault}, name another column with --time-column{others}")


def refuse_numbers(columns: list[Column], cells: Columns, files: list[CsvFile]) -> None:
    """Raise UserError for a column of numbers that is called a timestamp and holds none."""
    for column in columns:
        name, quoted, words = column.name, shlex.quote(column.name), name_words(column.name)
        if words & {"timestamp", "datetime"} and (column.kind, column.reason) == ("number", ""):
            row = int(np.argmax(cells[name].notna()))
            fault = f"{cells[name].iloc[row]} is no time since 1990"
            cure = f"sort by it all the same with --time-column {quoted}, or keep the file order: --numeric {quoted}"
            raise UserError(f"{place_of(row, files)}, column {name}: {fault}; {cure}")


def place_of(row: int, files: list[CsvFile]) -> str:
    """The file and the line of a row of all files."""
    for file in files:
        if row < len(file.line_numbers):
            return f"{file.path}: line {file.line_numbers[row]}"
        row -= len(file.line_numbers)
    raise IndexError(row)
