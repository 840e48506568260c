"""What each column of a table is, from its name and all its cells: a number, a category, or left out and why."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from harvest.data.cells import UNSEEN, parse_id, parse_number, parse_text
from harvest.data.csv_file import V0_COLUMNS
from harvest.data.hashes import cell_bits
from harvest.data.times import (
    CLOCKS,
    DATE,
    MOMENT_WORDS,
    STAMP_WORDS,
    TIME_NAMES,
    TIME_OF_DAY,
    TIMESTAMP,
    UNIT_WORDS,
    are_times,
)

CATEGORY_WORDS = {"app", "apps", "domain", "domains", "hash", "id", "ids"}
AMOUNT_WORDS = {"count", "flag", "rate", "share", "distinct", "60s", "300s", "number", "age", "score", "size"}
AMOUNT_WORDS |= {"bytes", "kb", "mb", "gb", "memory", "mem", "ram", "heap", "rss", "disk", "swap", "frequency", "hz"}
AMOUNT_WORDS |= {"total", "sum", "amount", "price", "cost", "revenue", "income", "salary", "sales", "balance", "phone"}
AMOUNT_WORDS |= {"duration", "elapsed", "uptime", "latency", "delay", "length", "distance", "volume", "weight"}
AMOUNT_WORDS |= {"population", "capacity", "counter", "ticks", "cycles", "offset", "monotonic"}
QUANTITY_WORDS = {*AMOUNT_WORDS, *UNIT_WORDS}
INDEX_WORDS = {"", "unnamed", "index", "idx", "row", "rows", "rowid", "rowname", "rownames", "name", "names", "rownum"}
INDEX_WORDS |= {"number", "num", "nr", "no", "level", "line", "record", "obs", "seq", "sequence", "serial", "id", "ids"}
INDEX_WORDS |= {"rowno", "recno", "seqno", "serialno"}
AXIS_WORDS = {"", *MOMENT_WORDS, *UNIT_WORDS}  # of a column that is an axis of time, in whatever unit
INDEX_NAME = re.compile(r"[XV]?[.\d]*")  # as R calls a column without a name
PIECE_ROWS = 50  # at least so many, on average, are in each of the tables that were put together with their indices
DIGITS = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)  # an id of any length and with zeros in front, perhaps kept as text
LOST_DIGITS = re.compile(r"[+-]?\d(?:[.,](\d+))?[eE]\+([1-9]\d)", re.ASCII)  # a long id, as a spreadsheet saves it
ANSWER = re.compile(r"(?:model_)?(probability|predicted)_*")  # as predict.py calls the columns that it adds

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


def parse_cells(cells: pd.Series, parse: Callable[[str], float]) -> np.ndarray:
    """What each cell means, float64; cells that pandas parsed are numbers already."""
    if cells.dtype == np.float64:
        return cells.to_numpy()
    texts = cells.cat.categories.tolist()
    return np.array([*map(parse, texts), parse("")], float)[cells.cat.codes.to_numpy()]  # -1, an empty cell, is last


def name_words(name: str) -> set[str]:
    """The words of a name, in small letters: appId, App_ID and "app id" have the same."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z](?!s(?![a-z]))[a-z])", "_", name)
    return set(re.split(r"[\W_]+", name.lower()))


def is_id_name(name: str) -> bool:
    words = name_words(name)
    return bool(words & CATEGORY_WORDS) and not words & (QUANTITY_WORDS | STAMP_WORDS)


def infer_columns(cells: Columns, fixed: dict[str, str], files: list[int], args: argparse.Namespace) -> list[Column]:
    """What the columns are, in the order of their names, some by a fixed reason to leave them out.

    Cells are in the order of the files, which have so many rows.
    """
    answers = find_answers(cells, files) - {*args.categorical, *args.numeric}
    fixed = dict.fromkeys(sorted(answers), "added by predict.py") | fixed
    columns = [Column(name, "dropped", reason) for name, reason in fixed.items()]
    kinds = {name: infer_kind(name, part, files, args) for name, part in cells.items() if name not in fixed}
    columns += [Column(name, *kind) for name, kind in kinds.items()]
    return sorted(columns, key=lambda column: column.name)


def infer_kind(name: str, cells: pd.Series, files: list[int], args: argparse.Namespace) -> tuple[str, str]:
    """The kind of a column and the reason, from its name and all its cells; their order only tells a row number."""
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
    if not is_id:
        if len(known) == filled or (len(known) >= 0.5 * filled and not is_id_name(name)):
            words = name_words(name)
            if name not in V0_COLUMNS and are_times(known, words, bool(words & AMOUNT_WORDS)):
                return "dropped", TIMESTAMP
            if name not in V0_COLUMNS and words & MOMENT_WORDS and words <= AXIS_WORDS and rises(values, files):
                return "dropped", "a time, as it rises from row to row"
            if name not in V0_COLUMNS and is_row_number(name, values, files):
                return "dropped", "a row number"
            return "number", ""
        if sum(map(bool, map(DATE.fullmatch, texts))) >= 0.5 * len(texts):
            return "dropped", TIMESTAMP
        if name.lower() in TIME_NAMES and all(map(TIME_OF_DAY.fullmatch, texts)):
            return "dropped", CLOCKS
    if filled > 20 and len(texts) > 0.9 * filled:
        return "dropped", "nearly all values distinct"
    return "category", "an id by its name" if is_id else "text"


def is_row_number(name: str, values: np.ndarray, files: list[int]) -> bool:
    """Whether whole numbers [N] count rows: each once without a gap, or rising under no name or that of an index."""
    known = values[np.isfinite(values)]
    dense = len(known) > 20 and np.ptp(known) <= 1.01 * len(known)
    is_index = INDEX_NAME.fullmatch(name) or {word.strip("0123456789") for word in name_words(name)} <= INDEX_WORDS
    if not (dense or is_index) or np.any(known % 1):
        return False
    if dense and len(np.unique(known)) == len(known):
        return True
    return bool(is_index) and rises(values, files)


def rises(values: np.ndarray, files: list[int]) -> bool:
    """Whether numbers [N] rise from row to row in each file that has any.

    They may start again in each of the tables, not too small, that a file was put together from.
    """
    parts = [part for part in np.split(values, np.cumsum(files)[:-1]) if not np.isnan(part).all()]
    falls = (np.count_nonzero(~(part[1:] > part[:-1])) for part in parts)
    return all(count <= len(part) // PIECE_ROWS for count, part in zip(falls, parts, strict=True))


def find_answers(cells: Columns, files: list[int]) -> set[str]:
    """The columns that predict.py added: probabilities of six decimals, and whether they reach one threshold."""
    named: dict[str, list[str]] = {"probability": [], "predicted": []}
    for name in cells:
        if match := ANSWER.fullmatch(name):
            named[match[1]].append(name)
    found = set()
    for pair in itertools.product(named["probability"], named["predicted"]):
        y_prob, y_pred = (parse_cells(cells[name], parse_number) for name in pair)
        parts = (np.split(values, np.cumsum(files)[:-1]) for values in (y_prob, y_pred))
        long = np.any(np.abs(y_prob - np.round(y_prob, 3)) > 1e-9)  # else they may be anything
        if long and all(itertools.starmap(is_answer, zip(*parts, strict=True))):
            found |= {*pair}
    return found


def is_answer(y_prob: np.ndarray, y_pred: np.ndarray) -> bool:
    """Whether numbers [N] are probabilities and what follows from them for the rows of a file; some may be missing."""
    known, either = ~np.isnan(y_prob + y_pred), ~np.isnan(y_prob) | ~np.isnan(y_pred)
    if 2 * np.count_nonzero(known) < np.count_nonzero(either):
        return False
    y_prob, y_pred = y_prob[known], y_pred[known]
    in_form = (np.abs(y_prob - 0.5) <= 0.5) & (np.abs(y_prob - np.round(y_prob, 6)) < 1e-9) & np.isin(y_pred, [0, 1])
    return bool(in_form.all()) and y_prob[y_pred == 0].max(initial=0) <= y_prob[y_pred == 1].min(initial=1)


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
            flag = f"--categorical {shlex.quote(column.name)}"
            column.hint = f"few different whole numbers; {flag} if they stand for categories"
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
