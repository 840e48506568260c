"""The timestamp column, which --split time sorts by."""

import argparse
import re
import shlex
from typing import NamedTuple

import numpy as np
import pandas as pd

from harvest.cli import UserError
from harvest.data.cells import cell_text, parse_number
from harvest.data.columns import Column, Columns, parse_cells
from harvest.data.csv_file import CsvFile
from harvest.data.times import (
    CLOCKS,
    MOMENT_WORDS,
    OTHER_DATE,
    RISING,
    TIME_NAMES,
    TIMESTAMP,
    read_times,
    show_readings,
    to_seconds,
)
from harvest.decision import Decision
from harvest.text import name_words

DAYS = "dates without a time of day"  # in the reason of a decision, which describe_split looks for
DAY = 86_400  # seconds
BIRTH_WORDS = {"birth", "birthday", "birthdate", "born", "dob"}  # in the name of a time at which no row was recorded
CALENDAR_WORDS = {"month", "week", "year", "quarter"}  # in a name: with a year in the cells, the time of a row
PARTS = ("year", "month", "week", "day")  # names of columns that together contain one time
CYCLE_WORDS = {"of", "to", "since", "until", "per", "spent", "total"}  # in the names of durations and parts of a day
SERIALS = (32_874, 73_051)  # days since 1899-12-30, as Excel counts them: 1990 and 2100
FILE_TIMES = (1.227e17, 1.575e17)  # units of 100 ns since 1601, as Windows counts them: 1990 and 2100
CLOCK = re.compile(r"\d+:[0-5]\d(:[0-5]\d([.,]\d+)?)?( ?[ap]m)?", re.ASCII | re.IGNORECASE)  # a time of day or duration


class Candidate(NamedTuple):
    """A column that may be the timestamp column."""

    name: str
    is_category: bool
    cells: pd.Series
    times: np.ndarray  # [N]: NaN where a cell is empty, infinite where it cannot be read

    @property
    def readable(self) -> bool:
        """Whether most cells are times; the rows of the others are then rejected one by one."""
        known = np.count_nonzero(np.isfinite(self.times))
        return bool(known >= 0.5 * np.count_nonzero(~np.isnan(self.times)) and not np.isneginf(self.times).any())


def find_time_column(
    columns: list[Column], cells: Columns, files: list[CsvFile], args: argparse.Namespace
) -> tuple[Decision, np.ndarray | None]:
    """The name of the timestamp column and its times; None if --split is random or the rows stay in file order.

    If there are several, it is the one named timestamp, or any of them if all give the same order. Raises UserError if
    they do not, and for a column that is named like a timestamp but cannot be read.
    """
    if args.split != "time":
        return Decision(None, ""), None
    if name := args.time_column:
        chosen, why = Candidate(name, False, cells[name], read_times(cells[name])), "as requested"
    else:
        found = find_candidates(columns, cells)
        if not found:
            refuse_numbers(columns, cells, files)
            refuse_texts(columns, cells, files)
            return Decision(None, why_none(columns, cells)), None
        chosen, why = choose(found, files), "it contains times"
        refuse_birth(chosen, files)
    if not chosen.readable:
        refuse_unreadable(chosen, files, bool(args.time_column))
    known = chosen.times[np.isfinite(chosen.times)]
    if args.time_column and len(np.unique(known)) < 2:
        raise UserError(f"--time-column {name}: all times are the same or missing; choose one with different times")
    if not np.any(known % DAY) and len(np.unique(known)) < len(known):
        why = f"it contains {DAYS}" if not args.time_column else f"{why}; it contains {DAYS}"
    return Decision(chosen.name, why), chosen.times


def find_candidates(columns: list[Column], cells: Columns) -> list[Candidate]:
    """The columns of times, and text columns that are named like times, whether they can be read or not.

    If there are none, the columns named like times that rise through all rows.
    """
    chosen = [column for column in columns if column.reason == TIMESTAMP]
    named = [column for column in columns if is_named_time(column, cells)]
    if not any(column.name.lower() in TIME_NAMES for column in chosen):
        dated = [column for column in named if not all(map(CLOCK.fullmatch, cells[column.name].cat.categories))]
        chosen += dated or ([] if chosen else named)
    if not chosen:
        rising = [column for column in columns if column.reason == RISING]
        chosen = [column for column in rising if np.all(np.diff(read_times(cells[column.name])) >= 0)]
    found = [
        Candidate(column.name, column.kind == "category", cells[column.name], read_times(cells[column.name]))
        for column in chosen
        if cells[column.name].nunique() > 1  # the same time in all rows gives no order
    ]
    found = [one for one in found if one.name.lower() in TIME_NAMES or np.isnan(one.times).mean() <= 0.5]
    return [one for one in found if not name_words(one.name) & BIRTH_WORDS] or found


def is_named_time(column: Column, cells: Columns) -> bool:
    """Whether a column is named like a time and most of its texts, which do not look like dates, contain digits."""
    if column.reason not in ("text", "nearly all values distinct", CLOCKS):
        return False
    texts = cells[column.name].cat.categories
    spelled = [text for text in texts if re.search(r"\d", text) and np.isinf(parse_number(text))]
    return bool(name_words(column.name) & MOMENT_WORDS) and len(spelled) > 0.5 * len(texts)


def choose(found: list[Candidate], files: list[CsvFile]) -> Candidate:
    """The column named timestamp; otherwise, if all give the same order of rows, the one with the most times."""
    if stamps := [one for one in found if one.name.lower() == "timestamp"]:
        return stamps[0]
    best = min(found, key=lambda one: (np.isnan(one.times).sum(), -len(np.unique(one.times)), one.name))
    if all(one is best or (one.readable and best.readable and agree(best.times, one.times)) for one in found):
        return best
    names = sorted(one.name for one in found)
    several = f"the timestamp columns {', '.join(names[:-1])} and {names[-1]} sort the rows differently"
    raise UserError(f"{files[0].path}: line 1: {several}; choose the one to sort by with --time-column")


def agree(times: np.ndarray, others: np.ndarray) -> bool:
    """Whether other times [N] never fall while the times rise."""
    both = np.isfinite(times) & np.isfinite(others)
    others = others[both][np.lexsort([others[both], times[both]])]
    return len(others) > 1 and bool(np.all(np.diff(others) >= 0))


def refuse_unreadable(chosen: Candidate, files: list[CsvFile], was_named: bool) -> None:
    """Raise UserError for the first cell that is not a time, or that is ambiguous."""
    ambiguous = np.isneginf(chosen.times)
    row = int(np.argmax(ambiguous if ambiguous.any() else np.isposinf(chosen.times)))
    cell = str(chosen.cells.iloc[row])
    fault = f"{cell[:60]} cannot be read as a time; write it as 2026-01-31 09:30:00 or seconds since 1970"
    if ambiguous.any():
        fault = f"{cell} may be {show_readings(cell)}, and no other cell shows which; write dates as 2026-01-31"
    others = "" if was_named else f" or drop this one with --drop {shlex.quote(chosen.name)}"
    if chosen.is_category:
        others = f" or, if its cells are not times, use --categorical {shlex.quote(chosen.name)}"
    where = f"{place_of(row, files)}, column {chosen.name}"
    raise UserError(f"{where}: {fault}, choose another column with --time-column{others}")


def refuse_birth(chosen: Candidate, files: list[CsvFile]) -> None:
    """Raise UserError if the only timestamp column contains dates of birth."""
    if name_words(chosen.name) & BIRTH_WORDS:
        quoted = shlex.quote(chosen.name)
        fault = "the only timestamp column seems to contain dates of birth, not the times of the rows"
        cure = f"use --time-column {quoted} to sort by it, or --drop {quoted} to keep the file order"
        raise UserError(f"{files[0].path}: line 1, column {chosen.name}: {fault}; {cure}")


def refuse_numbers(columns: list[Column], cells: Columns, files: list[CsvFile]) -> None:
    """Raise UserError for a numeric column that is named like a timestamp, but does not contain readable times."""
    numbers = [column for column in columns if (column.kind, column.reason) == ("number", "")]
    parts = [part for part in PARTS if part in {column.name.lower() for column in numbers}]
    for column in numbers:
        name, quoted, values = column.name, shlex.quote(column.name), parse_cells(cells[column.name], parse_number)
        known = pd.Series(values[np.isfinite(values)])
        if not is_unread_time(name, known, parts):
            continue
        filled, unread = ~np.isnan(values), np.isnan(to_seconds(values))
        row = int(np.argmax(filled & unread if unread[filled].any() else filled))
        fault = f"{cell_text(cells[name].iloc[row])} is not a time between 1990 and 2100"
        if within(known, SERIALS) and name_words(name) & MOMENT_WORDS:
            day = pd.Timestamp("1899-12-30") + pd.Timedelta(days=known.iloc[0])
            fault += f" unless it is a serial date of Excel, {day:%Y-%m-%d %H:%M}"
        sort = f"use --time-column {quoted} to sort by it"
        if name.lower() == "year" and len(parts) > 1:
            fault = f"the columns {', '.join(parts[:-1])} and {parts[-1]} together contain one time"
            sort = "write it in one column, such as 2026-01-31"
        cure = f"{sort}, or --numeric {quoted} to keep the file order"
        raise UserError(f"{place_of(row, files)}, column {name}: {fault}; {cure}")


def is_unread_time(name: str, known: pd.Series, parts: list[str]) -> bool:
    """Whether the numbers of a column are probably times in a unit that is not read, or parts of times.

    parts: the columns of the file that are named like a part of a date.
    """
    words = name_words(name)
    if words & {"timestamp", "datetime"}:
        return True
    if (words & CYCLE_WORDS and "date" not in words) or (known.nunique() < 2 and name.lower() != "year"):
        return False
    if name.lower() == "date" or (within(known, FILE_TIMES) and "time" in name.lower()):  # time may be a duration
        return True
    if name.lower() == "year":
        return known.nunique() > 1 or "month" in parts or "week" in parts
    if name.lower() in ("month", "week"):
        return bool(known.max() > 366)  # such as 202507
    return bool(words & MOMENT_WORDS) and within(known, SERIALS)


def within(known: pd.Series, limits: tuple[float, float]) -> bool:
    return bool(known.between(*limits).all())


def refuse_texts(columns: list[Column], cells: Columns, files: list[CsvFile]) -> None:
    """Raise UserError for a column of texts that look like dates, but cannot be read."""
    for column in columns:
        if column.reason not in ("text", "nearly all values distinct"):
            continue
        texts = cells[column.name].cat.categories
        calendar = name_words(column.name) & CALENDAR_WORDS
        dates = [text for text in texts if OTHER_DATE.fullmatch(text) or (calendar and re.search(r"(19|20)\d\d", text))]
        if len(texts) > 1 and len(dates) > 0.5 * len(texts):
            times = np.where(cells[column.name].isin(dates), np.inf, np.nan)
            chosen = Candidate(column.name, column.kind == "category", cells[column.name], times)
            refuse_unreadable(chosen, files, was_named=False)


def why_none(columns: list[Column], cells: Columns) -> str:
    """Why there is nothing to sort by, and how to sort by a column that restarts."""
    first = {column.reason: column.name for column in reversed(columns)}  # the first column of each reason
    why = "there is no timestamp column"
    if name := first.get(TIMESTAMP):
        fault = "is mostly empty" if cells[name].nunique() > 1 else "has the same time in all rows"
        why = f"the timestamp column {name} {fault}"
    if name := first.get(RISING):
        why += f" and {name} restarts: --time-column {shlex.quote(name)} sorts by it"
    return why


def place_of(row: int, files: list[CsvFile]) -> str:
    """The file and the line of a row, numbered through all files."""
    starts = np.cumsum([0, *(len(file.line_numbers) for file in files)])
    number = np.searchsorted(starts, row, "right") - 1
    return f"{files[number].path}: line {files[number].line_numbers[row - starts[number]]}"
