"""The kind of each column, from its name and all its cells: a number, a category, or dropped for a reason."""

from __future__ import annotations

import argparse
import itertools
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from harvest.data.cells import UNSEEN, parse_id, parse_label, parse_number, parse_text
from harvest.data.csv_file import V0_COLUMNS
from harvest.data.hashes import CACHED_ROWS, cell_bits
from harvest.data.times import (
    CLOCKS,
    DATE,
    MOMENT_WORDS,
    RISING,
    STAMP_WORDS,
    TIME_NAMES,
    TIME_OF_DAY,
    TIME_WORDS,
    TIMESTAMP,
    UNIT_WORDS,
    are_times,
    number_times,
)
from harvest.text import name_words, split_words

ID_WORDS = {"hash", "id", "ids"}
CATEGORY_WORDS = {"app", "apps", "domain", "domains", *ID_WORDS}
AMOUNT_WORDS = {"count", "flag", "rate", "share", "distinct", "60s", "300s", "number", "age", "score", "size"}
AMOUNT_WORDS |= {"bytes", "kb", "mb", "gb", "memory", "mem", "ram", "heap", "rss", "disk", "swap", "frequency", "hz"}
AMOUNT_WORDS |= {"total", "sum", "amount", "price", "cost", "revenue", "income", "salary", "sales", "balance", "phone"}
AMOUNT_WORDS |= {"duration", "elapsed", "uptime", "latency", "delay", "length", "distance", "volume", "weight"}
AMOUNT_WORDS |= {"population", "capacity", "counter", "ticks", "cycles", "offset", "monotonic"}
QUANTITY_WORDS = {*AMOUNT_WORDS, *UNIT_WORDS}
# In names with app or domain, but without id or hash: time_in_app, app_clicks, open_apps.
APP_WORDS = {"time", "min", "mins", "minute", "minutes", "hour", "hours", "day", "days", "usage", "uses", "visits"}
APP_WORDS |= {"keystrokes", "keys", "clicks", "switches", "launches", "opens", "events", "area", "num", "n", "percent"}
OPEN_WORDS = {"open", "opened", "running", "active", "installed", "used", "visited"}  # before apps or domains: a count
LONGEST_SPAN = 2 * 365.25 * 86_400  # seconds between times in a column named like an app; hashes are farther apart
INDEX_WORDS = {"", "unnamed", "index", "idx", "row", "rows", "rowid", "rowname", "rownames", "name", "names", "rownum"}
INDEX_WORDS |= {"number", "num", "nr", "no", "level", "line", "record", "obs", "seq", "sequence", "serial", "id", "ids"}
INDEX_WORDS |= {"rowno", "recno", "seqno", "serialno"}
AXIS_WORDS = {"", *MOMENT_WORDS, *UNIT_WORDS}  # of a column that is a time axis, in any unit
INDEX_NAME = re.compile(r"[XV]?[.\d]*")  # the names that R gives to unnamed columns
PANDAS_INDEX = re.compile(r"unnamed[\W_]*[\d.]*|index|level_\d+", re.IGNORECASE)  # an index that was saved
ROW_NAMES = re.compile(r"X(?:\.\d+)?|[.\d]*|(?i:row[._]?names)")  # of R, which are never repeated
COUNTING_WORDS = {"no", "nr", "number", "pk", "key", "index", "row", "zeile", "nummer"}  # the last one of a name
MOST_DRAWS = 10  # of a row, on average, in a table that was resampled; an index with fewer values is a category
MOST_TIES = 5  # rows at one time, on average, in a column of rising times
PIECE_ROWS = 50  # the minimum average number of rows per table in a file of concatenated tables with their indices
DIGITS = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)  # an id of any length, also with leading zeros
LOST_DIGITS = re.compile(  # a long id, saved by a spreadsheet
    r"[+-]?\d(?:[.,](?P<decimals>\d+)[eE]\+?|[eE]\+)(?P<exponent>\d\d?)", re.ASCII
)
ANSWER = re.compile(  # the names of the columns that predict.py adds, also after a join
    r"(?:model_)?(probability|predicted)_*(?:[._](?:\d+|[xy]))?", re.IGNORECASE
)

Columns = dict[str, pd.Series]  # by name: float64, or category of texts, NaN where the cell is empty


@dataclass
class Column:
    name: str
    kind: str  # number, category or dropped
    reason: str = ""
    missing: int | None = None  # None: not read, so not counted
    distinct: int | None = None
    # Of a category, sorted; MISSING or "" is an empty cell.
    vocabulary: list[int] | list[str] = field(default_factory=list)
    hint: str = ""
    warning: str = ""  # of cells that have lost information

    @property
    def integers(self) -> bool:
        """Whether the values of a category are integers, not text."""
        return isinstance(self.vocabulary[0], int)


def parse_cells(cells: pd.Series, parse: Callable[[str], float]) -> np.ndarray:
    """The meaning of each cell, float64; cells that pandas parsed are already numbers."""
    if cells.dtype == np.float64:
        return cells.to_numpy()
    texts = cells.cat.categories.tolist()
    return np.array([*map(parse, texts), parse("")], float)[cells.cat.codes.to_numpy()]  # -1, an empty cell, is last


def is_id_name(name: str) -> bool:
    words = name_words(name)
    is_count = words & {"apps", "domains"} and words & OPEN_WORDS
    if not words & ID_WORDS and (words & APP_WORDS or is_count):
        return False
    return bool(words & CATEGORY_WORDS) and not words - {"phone"} & (QUANTITY_WORDS | STAMP_WORDS)


def are_times_of_apps(name: str, known: np.ndarray) -> bool:
    """Whether numbers [N] in a column named like an app or id are times at which something began or ended."""
    words = name_words(name)
    if words & ID_WORDS and not words & TIME_WORDS:
        return False
    seconds = number_times(known)
    return seconds is not None and len(np.unique(known)) >= 5 and np.ptp(seconds) <= LONGEST_SPAN


def may_lose_digits(name: str) -> bool:
    """Whether a column is of ids or phone numbers by its name, which a spreadsheet may have rounded."""
    return is_id_name(name) or "phone" in name_words(name)


def infer_columns(cells: Columns, fixed: dict[str, str], files: list[int], args: argparse.Namespace) -> list[Column]:
    """The columns, sorted by name; fixed contains reasons to drop some of them.

    Cells are in the order of the files; files contains the number of rows of each.
    """
    answers = find_answers(cells, files)
    fixed = {name: answers[name] for name in answers.keys() - {*args.categorical, *args.numeric}} | fixed
    columns = [Column(name, "dropped", reason) for name, reason in fixed.items()]
    kinds = {name: infer_kind(name, part, files, args) for name, part in cells.items() if name not in fixed}
    columns += [Column(name, *kind, hint=time_hint(name, *kind, cells[name])) for name, kind in kinds.items()]
    return sorted(columns, key=lambda column: column.name)


def time_hint(name: str, kind: str, reason: str, cells: pd.Series) -> str:
    """How to keep numbers that look like times in a column that is not named like one; otherwise ""."""
    if (kind, reason) != ("dropped", TIMESTAMP) or cells.dtype != np.float64 or name_words(name) & TIME_WORDS:
        return ""
    keep = f"--numeric {shlex.quote(name)} or --categorical {shlex.quote(name)}"
    return f"its numbers look like times or dates; if they are not, keep the column with {keep}"


def infer_kind(name: str, cells: pd.Series, files: list[int], args: argparse.Namespace) -> tuple[str, str]:
    """The kind of a column and the reason, from its name and all its cells; only row numbers depend on their order."""
    if name in args.categorical:
        return "category", "--categorical"
    if name in args.numeric:
        return "number", "--numeric"
    values = parse_cells(cells, parse_number)
    texts = [] if cells.dtype == np.float64 else cells.cat.categories.tolist()
    known, filled = values[np.isfinite(values)], np.count_nonzero(~np.isnan(values))
    if not filled:
        return "dropped", "empty"
    is_id = is_id_name(name) and all(DIGITS.fullmatch(text) or LOST_DIGITS.fullmatch(text) for text in texts)
    if is_id and name not in V0_COLUMNS and are_times_of_apps(name, known):
        return "dropped", TIMESTAMP
    if not is_id:
        if len(known) == filled or (len(known) >= 0.5 * filled and not is_id_name(name)):
            words = name_words(name)
            if name in V0_COLUMNS:
                return "number", ""
            if are_times(known, words, bool(words & AMOUNT_WORDS)):
                return "dropped", TIMESTAMP
            if words & MOMENT_WORDS and words <= AXIS_WORDS and rises(values, files, ties=True):
                return "dropped", RISING
            return ("dropped", "a row number") if is_row_number(name, values, files) else ("number", "")
        if sum(map(bool, map(DATE.fullmatch, texts))) >= 0.5 * len(texts):
            return "dropped", TIMESTAMP
        if name.lower() in TIME_NAMES and all(map(TIME_OF_DAY.fullmatch, texts)):
            return "dropped", CLOCKS
    if filled > 20 and len(texts) > 0.9 * filled:
        return "dropped", "nearly all values distinct"
    return "category", "an id by its name" if is_id else "text"


def is_row_number(name: str, values: np.ndarray, files: list[int]) -> bool:
    """Whether whole numbers [N] count rows: all distinct without gaps, or rising in a column named like an index.

    If the name of the column ends in a counting word, they must all differ, and rise or fall in every file.
    """
    known = values[np.isfinite(values)]
    if is_unordered_index(name, known):
        return True
    dense = len(known) > 20 and np.ptp(known) <= 1.01 * len(known)
    is_index = INDEX_NAME.fullmatch(name) or {word.strip("0123456789") for word in name_words(name)} <= INDEX_WORDS
    counts = is_index or " ".join(split_words(name)).split()[-1] in COUNTING_WORDS
    if not (dense or counts) or np.any(known % 1):
        return False
    is_distinct = len(np.unique(known)) == len(known)
    if (dense and is_distinct) or (is_index and rises(values, files)):
        return True
    parts = parts_with_numbers(values, files)
    steady = any(all(np.all(after(part[1:], part[:-1])) for part in parts) for after in (np.greater, np.less))
    return bool(counts) and is_distinct and len(known) > 20 and known.min() >= 0 and steady


def is_unordered_index(name: str, known: np.ndarray) -> bool:
    """Whether numbers [N], in any order, are the index of a saved data frame with sampled or repeated rows."""
    is_pandas, is_r = PANDAS_INDEX.fullmatch(name), ROW_NAMES.fullmatch(name)
    if not (is_pandas or is_r) or not len(known) or known.min() < 0 or np.any(known % 1):
        return False
    distinct = len(np.unique(known))
    if is_pandas:
        return distinct > 20 and distinct * MOST_DRAWS >= len(known)
    return distinct == len(known) > 20 and known.max() < 5 * len(known)  # otherwise X may be a coordinate


def rises(values: np.ndarray, files: list[int], ties: bool = False) -> bool:
    """Whether numbers [N] rise from row to row in each file that has any; with ties, some may equal the one before.

    They may restart with each table (unless it is small) in a file that was concatenated from several tables.
    """
    parts = parts_with_numbers(values, files)
    if ties and any(MOST_TIES * len(np.unique(part)) < len(part) for part in parts):
        return False
    compare = np.greater_equal if ties else np.greater
    falls = (np.count_nonzero(~compare(part[1:], part[:-1])) for part in parts)
    return all(count <= len(part) // PIECE_ROWS for count, part in zip(falls, parts, strict=True))


def parts_with_numbers(values: np.ndarray, files: list[int]) -> list[np.ndarray]:
    """The numbers [N] of each file that has any."""
    return [part for part in np.split(values, np.cumsum(files)[:-1]) if not np.isnan(part).all()]


def find_answers(cells: Columns, files: list[int]) -> dict[str, str]:
    """The columns that predict.py added, with the reason: probabilities with up to six decimals, and the predictions
    at one threshold; or one of the two alone, which has exactly its name.
    """
    named: dict[str, list[str]] = {"probability": [], "predicted": []}
    for name in cells:
        if match := ANSWER.fullmatch(name):
            named[match[1].lower()].append(name)
    found = {}
    for (kind, own), other in zip(named.items(), reversed(named.values()), strict=True):
        if kind in own and not other:
            is_prob = kind == "probability"
            values = parse_cells(cells[kind], parse_number if is_prob else parse_answer)
            known = values[~np.isnan(values)]
            if len(known) and np.all((known >= 0) & (known <= 1) if is_prob else np.isin(known, [0, 1])):
                flag = "--numeric" if is_prob else "--categorical"
                found[kind] = f"like the column that predict.py adds; {flag} {kind} keeps it"
    for pair in itertools.product(named["probability"], named["predicted"]):
        y_prob, y_pred = map(parse_cells, (cells[name] for name in pair), (parse_number, parse_answer))
        if np.isinf(y_prob).any() or not np.any(np.abs(y_prob - np.round(y_prob, 1)) > 1e-9):
            continue  # with one decimal, they may be anything
        parts = (np.split(values, np.cumsum(files)[:-1]) for values in (y_prob, y_pred))
        if all(itertools.starmap(is_answer, zip(*parts, strict=True))):
            found |= dict.fromkeys(pair, "added by predict.py")
    return found


def parse_answer(cell: str) -> float:
    """0 or 1, which pandas may have saved as False or True; NaN for an empty cell, -1 for anything else."""
    return parse_label(cell) if cell else math.nan


def is_answer(y_prob: np.ndarray, y_pred: np.ndarray) -> bool:
    """Whether numbers [N] are probabilities and predictions from predict.py for one file; some may be missing."""
    known, either = ~np.isnan(y_prob + y_pred), ~np.isnan(y_prob) | ~np.isnan(y_pred)
    if 2 * np.count_nonzero(known) < np.count_nonzero(either):
        return False
    y_prob, y_pred = y_prob[known], y_pred[known]
    in_form = (np.abs(y_prob - 0.5) <= 0.5) & (np.abs(y_prob - np.round(y_prob, 6)) < 1e-9) & np.isin(y_pred, [0, 1])
    return bool(in_form.all()) and y_prob[y_pred == 0].max(initial=0) <= y_prob[y_pred == 1].min(initial=1)


def fill_columns(columns: list[Column], cells: Columns, keep: np.ndarray | slice, rows: int) -> pd.DataFrame:
    """The kept rows of the used columns; drops columns that are constant, empty or identical to another one."""
    frame: dict[str, np.ndarray | pd.Categorical] = {}
    alike: dict[tuple, list[str]] = {}  # columns that may have the same cells
    for column in columns:
        if column.name not in cells:
            continue  # never read
        part = cells.pop(column.name)
        textual = part.dtype != np.float64
        values = (part.cat.codes.to_numpy().astype(np.int32) if textual else part.to_numpy())[keep]
        known = values[values >= 0 if textual else ~np.isnan(values)]
        column.missing = len(values) - len(known)
        if category := column.kind == "category":
            values = sort_category(column, values, part.cat.categories.tolist())
        contents = len(column.vocabulary) if category else count_distinct(known) + bool(column.missing)
        column.distinct = contents - bool(column.missing)
        if column.kind == "dropped":
            continue
        if contents < 2:
            reason = "constant" if column.distinct else "empty"
        else:
            content = cell_bits(values[:CACHED_ROWS]).tobytes(), (values if column.vocabulary else known).sum()
            others = alike.setdefault((column.kind, column.missing, tuple(column.vocabulary), *content), [])
            cells_of = {name: getattr(frame[name], "codes", frame[name]) for name in others}
            twins = [name for name in others if np.array_equal(cells_of[name], values, equal_nan=True)]
            reason = f"identical to {twins[0]}" if twins else ""
        if reason:
            column.kind, column.reason, column.vocabulary = "dropped", reason, []
            continue
        others.append(column.name)
        frame[column.name] = pd.Categorical.from_codes(values, column.vocabulary) if category else values
        named = category or name_words(column.name) & QUANTITY_WORDS
        if not named and column.distinct in range(3, 11) and rows > 200 and not np.any(known % 1):
            flag = f"--categorical {shlex.quote(column.name)}"
            column.hint = f"few distinct whole numbers; use {flag} if they are codes of categories"
    return pd.DataFrame(frame, index=range(rows), copy=False)


def count_distinct(known: np.ndarray) -> int:
    """The number of distinct values, faster than with np.unique()."""
    ranked = np.sort(known)
    return int(np.count_nonzero(ranked[1:] != ranked[:-1])) + (len(ranked) > 0)


def sort_category(column: Column, codes: np.ndarray, texts: list[str]) -> np.ndarray:
    """Set the vocabulary of a category, sorted by meaning; return the codes in it [N] int32."""
    counts = np.bincount(codes + 1, minlength=len(texts) + 1)  # the first counts empty cells
    used = [text for text, count in zip(["", *texts], counts, strict=True) if count]
    integers = any(used) and all(parse_id(text) != UNSEEN for text in used)
    parse: Callable = parse_id if integers else parse_text
    column.vocabulary = sorted({parse(text) for text in used})
    code = {value: number for number, value in enumerate(column.vocabulary)}
    return np.array([code.get(parse(text), 0) for text in ["", *texts]], np.int32)[codes + 1]
