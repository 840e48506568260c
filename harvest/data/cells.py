"""The meaning of the text of a cell: a number, an integer id, a time, a label or a text.

Only these functions decide it, in training, in prediction and in every comparison of exported models.
"""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

MISSING = -(2**63)  # an empty cell among integer ids
UNSEEN = MISSING + 1  # among integer ids, text that is not an id, which training cannot have seen
LARGEST_NUMBER = float(np.finfo(np.float32).max)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# 5.0 is 5, because programs write ids this way in columns with empty cells.
INTEGER = re.compile(r"(-?[1-9]\d{0,18}|0)(\.0+)?", re.ASCII)
TIME = re.compile(  # ISO 8601: a date, optionally with a time of day and its zone
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)? ?(Z|[+-]\d\d(:?\d\d)?)?)?", re.ASCII
)
LABELS = {"false": 0, "no": 0, "true": 1, "yes": 1}


def parse_number(cell: str) -> float:
    """The number in a cell: NaN if empty, infinity if not a number or beyond 3.4e38."""
    if not (text := cell.strip()):
        return math.nan
    value = float(text) if NUMBER.fullmatch(text) else math.inf
    return value if abs(value) <= LARGEST_NUMBER else math.inf


def parse_id(cell: str) -> int:
    """The integer id in a cell: MISSING if empty, UNSEEN if not an integer of 64 bits."""
    if not (text := cell.strip()):
        return MISSING
    value = int(text.partition(".")[0]) if INTEGER.fullmatch(text) else UNSEEN
    return value if MISSING + 8 <= value < 2**63 else UNSEEN  # lower values are reserved for cells that are not ids


def parse_time(cell: str) -> float:
    """The time in a cell, a number or seconds since 1970: NaN if empty, infinity if not a time."""
    text = cell.strip()
    if not TIME.fullmatch(text):
        return parse_number(cell)
    try:
        moment = datetime.fromisoformat(text[:11] + text[11:].replace(" ", ""))
    except ValueError:  # February 30
        return math.inf
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_label(cell: str) -> int:
    """0 or 1, as a word or as a number in any spelling; -1 for any other cell."""
    value = parse_number(cell)
    return int(value) if value in (0, 1) else LABELS.get(cell.strip().lower(), -1)


parse_text = str.strip  # "" for an empty cell; leading and trailing white space has no meaning
PARSERS: dict[str, Callable] = {  # by the dtype of a model's input
    "float64": parse_number,
    "float32": parse_number,
    "int64": parse_id,
    "string": parse_text,
}


def cell_text(value: object) -> str:
    """The text of a cell that pandas may have read as a number: 5.0 is 5, as in a column of ids with gaps."""
    if isinstance(value, float | np.floating):
        return f"{value:.0f}" if float(value).is_integer() else repr(float(value))
    return str(value)


def is_missing(numbers: np.ndarray) -> np.ndarray:
    """Which inputs [N] of a model, int64 for whole numbers or float, are missing numbers."""
    return numbers == MISSING if numbers.dtype == np.int64 else np.isnan(numbers)


def placeholder(integers: bool) -> int | str:
    """A value that no cell has, for a vocabulary that must not be empty."""
    return UNSEEN + 1 if integers else " nothing "
