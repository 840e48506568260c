"""Rows to predict, from a file, or from a stream as they arrive.

They are data frames of cell texts, indexed by line number. Notes on skipped lines go to standard error.
"""

import csv
import math
import queue
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from harvest.cli import UserError, print_error
from harvest.data.cells import parse_label, parse_number
from harvest.data.csv_file import ESCAPED, LONGEST_LINE, check_header, column_names, open_csv, read_chunks
from harvest.model.archive import Details
from harvest.text import name_some

CHUNK_ROWS = 100_000
LONGEST_RECORD = 1_000  # lines that one record of standard input may have
OPEN_QUOTES = "unexpected end of data"  # the message of the csv module for a record that may continue
STREAM = "standard input"  # in messages
PAUSE_SECONDS = 2.0  # how long to wait for the next line of a record with open quotes


def note(text: str) -> None:
    print_error(f"note: {text}")


def read_rows(path: str, details: Details) -> Iterator[pd.DataFrame]:
    """Frames of a CSV with or without a header; at least one, which may be empty."""
    csv_file = open_csv(path, skip_bad_rows=False, unlabelled=True)
    check_names(path, csv_file.names, details)
    for text in csv_file.notes:
        note(text)
    start, rows = 0, len(csv_file.line_numbers)
    if not rows:
        yield text_frame(csv_file.names, {})
        return
    for chunk in read_chunks(csv_file, dict.fromkeys(csv_file.names, object), CHUNK_ROWS, keep_spaces=True):
        chunk = chunk.fillna("").set_axis(csv_file.line_numbers[start : start + len(chunk)])
        start += len(chunk)
        if csv_file.torn and start == rows and is_torn(chunk, details):
            note(f"line {chunk.index[-1]}, the last, is incomplete and skipped")
            chunk = chunk.iloc[:-1]
        yield chunk


def is_torn(chunk: pd.DataFrame, details: Details) -> bool:
    """Whether the last row, which has no line end, has an invalid number, or ends before the label."""
    last, label = chunk.iloc[-1], details.label
    if any(math.isinf(parse_number(last[name])) for name in chunk if details.kinds.get(name) == "number"):
        return True
    unlabelled = label in chunk and parse_label(last[label]) < 0
    return unlabelled and any(parse_label(cell) >= 0 for cell in chunk[label])


def check_names(path: str, names: list[str], details: Details) -> None:
    """Print a note on missing columns. Raises UserError if the model needs one of them."""
    absent = [name for name in details.kinds if name not in names]
    if absent and path != STREAM:
        check_header(path, name=absent[0])
    if absent := absent_columns(f"{path}: line 1", names, details):
        note(f"{path}: has no {name_some(absent)}: these cells are missing in its rows")


def absent_columns(place: str, names: list[str], details: Details) -> list[str]:
    """The missing columns; UserError if one of them was never empty in training, or if all are missing."""
    present = set(names)
    absent = [name for name in details.kinds if name not in present]
    needed = [name for name in absent if name not in details.missing]
    if needed or len(absent) == len(details.kinds):
        what = f"{place} has no column {(needed or absent)[0]}, which the model needs"
        raise UserError(f"{what}; its columns are {name_some(names, 12)}")
    return absent


def text_frame(names: list[str], rows: dict[int, list[str]]) -> pd.DataFrame:
    """Rows, by line number, as a frame."""
    return pd.DataFrame(list(rows.values()), list(rows), names, dtype=object)


class Line(NamedTuple):
    number: int
    text: str  # with its end; bytes that are not UTF-8 are escaped
    flaw: str  # why the line is invalid, or ""


def read_line(number: int, line: bytes) -> Line:
    text = line.decode("utf-8-sig", "surrogateescape")  # concatenated files have marks at the start of other lines too
    if len(line) >= LONGEST_LINE:
        return Line(number, text, "is longer than 64 MB")
    if not text.isascii() and ESCAPED.search(text):
        return Line(number, text, "is not UTF-8 text")
    return Line(number, text, "contains a NUL byte" if "\0" in text else "")


class Lines:
    """The lines of standard input, as they arrive."""

    def __init__(self) -> None:
        self.queue: queue.Queue[bytes | None] = queue.Queue(2 * CHUNK_ROWS)  # None: the end
        self.again: list[Line] = []  # to be parsed again, the next one last
        self.number, self.ended, self.paused = 0, False, False
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        try:
            while sys.stdin and (line := sys.stdin.buffer.readline(LONGEST_LINE)):
                self.queue.put(line)
                while len(line) == LONGEST_LINE and not line.endswith(b"\n"):  # the rest of a line that is too long
                    line = sys.stdin.buffer.readline(LONGEST_LINE)
        finally:
            self.queue.put(None)

    def next(self, in_record: bool = False) -> Line | None:
        """The next line, or None at the end; in a record also None if the line does not arrive after one wait."""
        if self.again:
            return self.again.pop()
        try:
            seconds = (0.0 if self.paused else PAUSE_SECONDS) if in_record else None
            line = None if self.ended else self.queue.get(timeout=seconds)
        except queue.Empty:
            self.paused = True
            return None
        self.paused, self.ended = False, line is None
        if line is None:
            return None
        self.number += 1
        return read_line(self.number, line)


def read_record(lines: Lines, first: Line, most: int) -> tuple[list[Line], list[str], str]:
    """The lines of the record that starts with the first one (up to `most` lines), its cells, and its fault or ""."""
    taken, text = [first], first.text.removesuffix("\n").removesuffix("\r")
    if '"' not in text:
        return taken, text.split(",") if text else [], "contains a carriage return" if "\r" in text else ""

    def texts() -> Iterator[str]:  # the csv module reads lines until the quotes are closed
        yield first.text
        while len(taken) < most and (line := lines.next(in_record=True)):
            taken.append(line)
            yield line.text

    try:
        return taken, next(csv.reader(texts(), skipinitialspace=True, strict=True), []), ""
    except csv.Error as error:
        return taken, [], str(error)


def read_stream(details: Details) -> Iterator[pd.DataFrame]:
    """Frames of standard input, with the rows that have arrived so far. The first frame is empty.

    A record with open quotes continues on the next lines. If the result is not a row, only its first line is skipped.
    """
    lines = Lines()
    first = lines.next()
    if first is None:
        raise UserError("standard input is empty; pipe rows into it")
    _, cells, problem = read_record(lines, first, 1)
    if problem := first.flaw or problem:
        raise UserError(f"{STREAM}: line 1 cannot be read ({problem}); write the column names as UTF-8 text")
    names, named = column_names(STREAM, cells, unlabelled=True)
    check_names(STREAM, names, details)
    header = cells if named else None
    if not named:
        lines.again.append(first)
    rows: dict[int, list[str]] = {}  # by the line that each starts on
    yield text_frame(names, rows)  # so that the header is written before any row arrives
    while line := lines.next():
        record, cells, problem = read_record(lines, line, 1)
        if problem == OPEN_QUOTES:
            if rows and lines.queue.qsize() < LONGEST_RECORD:
                yield text_frame(names, rows)
                rows = {}
            record, cells, problem = read_record(lines, line, LONGEST_RECORD)
        start, alone, whole = line.number, len(record) == 1, not problem and len(cells) == len(names)
        flaws = [f"line {part.number}: {part.flaw}" for part in record if part.flaw]
        if flaws and (whole or alone):
            note(f"{flaws[0]}; skipped{'' if alone else f' the record that starts on line {start}'}")
        elif cells and cells == header:
            note(f"line {start}: repeated header, skipped")
        elif whole:
            rows[start] = cells
        elif not alone or problem == OPEN_QUOTES:
            note(f"line {start}: unclosed quotes, skipped")
            lines.again += record[:0:-1]
        elif cells or problem:
            note(f"line {start}: {problem or f'{len(cells)} fields where {len(names)} are expected'}, skipped")
        if rows and (lines.queue.empty() or len(rows) >= CHUNK_ROWS):
            yield text_frame(names, rows)
            rows = {}
    if rows:
        yield text_frame(names, rows)
