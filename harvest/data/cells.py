"""What the text of a cell means: a number, an integer id, a time, a label or a text.

These functions alone decide it, in training, in prediction and in every comparison of exported models.
"""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

MISSING = -(2**63)  # an empty cell among integer ids
UNSEEN = MISSING + 1  # among integer ids, text that is no id: it cannot have been seen in training
LARGEST_NUMBER = float(np.finfo(np.float32).max)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
INTEGER = re.compile(r"(-?[1-9]\d{0,18}|0)(\.0+)?", re.ASCII)  # 5.0 is 5, as programs write ids beside empty cells
TIME = re.compile(  # ISO 8601: a date, perhaps a time of day, perhaps its zone
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)? ?(Z|[+-]\d\d(:?\d\d)?)?)?", re.ASCII
)
LABELS = {"false": 0, "no": 0, "true": 1, "yes": 1}


def parse_number(cell: str) -> float:
    """The number a cell means: NaN for an empty cell, infinity for what is no number or is beyond 3.4e38."""
    if not (text := cell.strip()):
        return math.nan
    value = float(text) if NUMBER.fullmatch(text) else math.inf
    return value if abs(value) <= LARGEST_NUMBER else math.inf


def parse_id(cell: str) -> int:
    """The integer id a cell means: MISSING for an empty cell, UNSEEN for what is no integer of 64 bits."""
    if not (text := cell.strip()):
        return MISSING
    value = int(text.partition(".")[0]) if INTEGER.fullmatch(text) else UNSEEN
    return value if MISSING + 8 <= value < 2**63 else UNSEEN  # what lies below is kept for cells that are no ids


def parse_time(cell: str) -> float:
    """The time a cell means, a number or seconds since 1970: NaN for an empty cell, infinity for what is no time."""
    text = cell.strip()
    if not TIME.fullmatch(text):
        return parse_number(cell)
    try:
        moment = datetime.fromisoformat(text[:11] + text[11:].replace(" ", ""))
    except ValueError:  # the 30th of February
        return math.inf
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_label(cell: str) -> int:
    """0 or 1, as a word or as a number in any spelling, or -1 for what is neither."""
    value = parse_number(cell)
    return int(value) if value in (0, 1) else LABELS.get(cell.strip().lower(), -1)


parse_text = str.strip  # "" for an empty cell; no meaning starts or ends with white space
PARSERS: dict[str, Callable] = {  # by the dtype of a model's input
    "float64": parse_number,
    "float32": parse_number,
    "int64": parse_id,
    "string": parse_text,
}


def is_missing(numbers: np.ndarray) -> np.ndarray:
    """Which numbers [N], as a model takes them, are of empty cells: whole ones are int64, others floating point."""
    return numbers == MISSING if numbers.dtype == np.int64 else np.isnan(numbers)


def placeholder(integers: bool) -> int | str:
    """A value no cell means, for a vocabulary that must not be empty: text with white space at its ends, or no id."""
    return UNSEEN + 1 if integers else " nothing "
