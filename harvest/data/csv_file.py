"""The structure of a CSV file, checked line by line before its cells are read, and the cells of its columns."""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import compress, islice, pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harvest.cli import UserError
from harvest.data.cells import LARGEST_NUMBER, parse_number, parse_text
from harvest.text import name_lines

ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as surrogateescape reads them
V0_COLUMNS = ["foreground_app", "keyboard_activity", "mouse_activity", "time_last_request", "productive"]
GUESS_ROWS = 10_000  # the first rows, from which the type of a column is guessed; its kind follows from all rows
CHUNK_ROWS = 1_000_000  # rows read at once, which limits the memory for large files
BLOCK_BYTES = 1 << 24
LONGEST_LINE = 1 << 26  # bytes
LONGEST_NAME = 500  # characters
FEWEST_ROWS = 20  # to train on
HEAD_RECORDS = 50  # in which a header below line 1 is searched for
csv.field_size_limit(LONGEST_LINE)


class ByteRange(NamedTuple):
    """A range of whole lines of a file that several workers share."""

    start: int  # in bytes
    end: int
    lines_before: int = 0  # in the file


WHOLE = ByteRange(0, sys.maxsize)


class CsvFile(NamedTuple):
    """A file with a valid structure, and the lines of its rows."""

    path: str
    names: list[str]
    content: str | None  # None: pandas reads the file itself; otherwise the text, normalized by the csv module
    skip: list[int]  # lines of the file, from 0, that pandas skips
    line_numbers: np.ndarray  # int: the line, from 1, of each data row
    notes: list[str]
    skipped: int
    torn: bool  # the file does not end with a line end, so its last line may be incomplete
    byte_range: ByteRange = WHOLE  # the lines that are read


def undecodable(path: str) -> UserError:
    """The error for a file that is not UTF-8 text; it names the first invalid line."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        faulty = (f"line {number}" for number, line in enumerate(file, 1) if ESCAPED.search(line))
        return UserError(f"{path}: {next(faulty, 'a line')} is not UTF-8 text; save the file as UTF-8")


def find_files(paths: list[str]) -> list[str]:
    """The files to read as one table: the given files, and the .csv files of the given directories, by name."""
    files: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
        elif found := [name for name in sorted(os.listdir(path)) if name.lower().endswith(".csv")]:
            files += [os.path.join(path, name) for name in found]
        else:
            raise UserError(f"{path}: is a directory without .csv files; give a CSV file")
    existing = [path for path in files if os.path.isfile(path)]
    sizes = Counter(map(os.path.getsize, existing))
    first: dict[bytes, int] = {}  # the number of the first file with a digest
    for number, path in enumerate(existing):
        with contextlib.suppress(OSError):  # check_file() reports it
            if sizes[os.path.getsize(path)] == 1:
                continue
            with open(path, "rb") as file:
                other = first.setdefault(hashlib.file_digest(file, "sha256").digest(), number)
            if other != number:
                what = "is listed twice" if existing[other] == path else f"has the same content as {existing[other]}"
                raise UserError(f"{path}: {what}; list it only once")
    return files


def check_file(path: str, unlabelled: bool = False) -> str:
    """The first line of a CSV file, without the byte-order mark. Raises UserError if it cannot be read as CSV."""
    or_sample = "" if unlabelled else ", or try train_model_modern.py --sample, which needs no file"
    if os.path.isdir(path):
        raise UserError(f"{path}: is a directory; give a file")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; check the path{or_sample}")
    if not os.path.isfile(path):
        raise UserError(f"{path}: is not a regular file; save its contents to a file first")
    try:
        with open(path, "rb") as file:
            start, second = file.readline(LONGEST_LINE), file.readline(LONGEST_LINE)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; make the file readable, or use a copy of it") from None
    first = start.decode("utf-8-sig", "surrogateescape").rstrip("\r\n")
    after = second.decode("utf-8", "surrogateescape") or first
    faults = {
        "line 1 starts as UTF-16 text; save the file as UTF-8": start.startswith((b"\xff\xfe", b"\xfe\xff")),
        "is compressed; unpack it first": start.startswith((b"\x1f\x8b", b"PK\x03\x04")),
        "line 1 contains a NUL byte: the file is not UTF-8 text; save the table as UTF-8 CSV": b"\0" in start,
        "the file is empty; give a file with a header and rows": not start,
        "line 1 is not UTF-8 text; save the file as UTF-8": ESCAPED.search(first),
        "line 1 is empty; it must contain the column names": not first.strip(),
        "line 1 ends with a bare carriage return; save the file with line feeds": "\r" in first,
    }
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        found = first if "," in first or sign in first else after  # line 1 may be a title
        separated = found.count(sign) > found.count(",") and sign in after
        faults[f"uses {name} as separators; save the file with commas"] = separated
    for fault, is_so in faults.items():
        if is_so:
            raise UserError(f"{path}: {fault}")
    return first


def open_bytes(path: str, byte_range: ByteRange) -> io.BufferedReader:
    """A file opened for reading bytes, which ends with the range."""

    class Raw(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            return super().readinto(memoryview(buffer)[: max(0, byte_range.end - self.tell())]) or 0

    raw = Raw(path)
    raw.seek(byte_range.start)
    return io.BufferedReader(raw, BLOCK_BYTES)


def scan_lines(path: str, first: bytes, byte_range: ByteRange) -> tuple[np.ndarray, np.ndarray, bool, bool]:
    """The number of fields of each line, int32, 0 if empty; the lines, from 0, that equal the first; whether there are
    quotes, or byte-order marks after the first; whether the last line has no end. Raises UserError for a damaged file.
    """
    counts, header_lines, has_quotes, ends_with_newline = [np.empty(0, np.int32)], [], False, False
    has_marks, before = False, byte_range.lines_before  # before the block, in the file
    header = re.compile(rb"\n(?:%b)?%b\r?(?=\n)" % (codecs.BOM_UTF8, re.escape(first)))
    with open_bytes(path, byte_range) as file:
        while block := file.read(BLOCK_BYTES):
            tail = file.readline(LONGEST_LINE)
            text = block + tail
            ends_with_newline = text.endswith(b"\n")
            has_quotes = has_quotes or b'"' in text
            has_marks = has_marks or (not text.isascii() and text.find(codecs.BOM_UTF8, before == 0) >= 0)
            fault = "contains a NUL byte: the file is damaged or not UTF-8 text; save it as UTF-8 CSV"
            place = text.find(b"\0")
            if place < 0 and len(tail) == LONGEST_LINE and not ends_with_newline:
                place, fault = len(text), "is longer than 64 MB; this is not a HARVEST.CSV"
            elif place < 0 and not has_quotes and (alone := re.search(rb"\r(?!\n|\Z)", text)):  # the end may be torn
                place, fault = alone.start(), "contains a carriage return; save the file with line feeds"
            text += b"" if ends_with_newline else b"\n"
            signs = np.frombuffer(text, np.uint8)
            ends = np.flatnonzero(signs == ord("\n"))
            if place >= 0:
                raise UserError(f"{path}: line {before + np.searchsorted(ends, place) + 1} {fault}")
            fields = np.diff(np.searchsorted(np.flatnonzero(signs == ord(",")), ends), prepend=0) + 1
            length = np.diff(ends, prepend=-1) - 1
            is_blank = (length == 0) | ((length == 1) & (signs[ends - 1] == ord("\r")))
            fields[is_blank] = 0
            counts.append(fields.astype(np.int32))
            if text.find(first, before == 0) >= 0:  # faster than the pattern, and skips the first line of the file
                starts = [found.start() for found in header.finditer(b"\n" + text)]
                header_lines += (before + np.searchsorted(ends, starts)).tolist()
            before += len(ends)
    headers = np.array(header_lines, int) - byte_range.lines_before
    return np.concatenate(counts), headers, has_quotes or has_marks, not ends_with_newline


def read_quoted(path: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Parse text with the csv module, without the byte-order marks that concatenated files have at the start of lines.

    Returns the records as plain CSV, the number of fields of each, and the line that each starts on.
    """
    records, fields, lines, line = [], [], [], 1
    echo: Any = SimpleNamespace(write=str)  # a file object; its write() returns the line
    writer = csv.writer(echo)  # with a line end, so that it quotes line ends
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        reader = csv.reader((text.removeprefix("\ufeff") for text in file), skipinitialspace=True, strict=True)
        try:
            for record in reader:
                records.append(writer.writerow(record or [""]).removesuffix("\r\n"))
                fields.append(len(record))
                lines.append(line)
                line = reader.line_num + 1
        except csv.Error as error:
            raise UserError(f"{path}: line {line}: {error}; close the quotes or remove them") from None
        except UnicodeDecodeError:
            raise undecodable(path) from None
    return records, np.array(fields, np.int32), np.array(lines)


def check_header(path: str, fields: int = 0, name: str = "") -> None:
    """Raise UserError if the header is below line 1, for example under a title, or if a 2017 file starts with a title.

    The header is the first line with this many fields, or with a name, if all its cells are text and a number follows.
    """
    head, start = [], 1  # the line that each record starts on, and its cells
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        reader = csv.reader((text.removeprefix("\ufeff") for text in file), skipinitialspace=True)
        for record in islice(reader, HEAD_RECORDS):
            if any(cells := [cell.strip() for cell in record]):
                head.append((start, cells))
            start = reader.line_num + 1
    title = f"{path}: line 1 ({check_file(path).strip()[:40]}) is not"
    for (line, cells), (_, below) in pairwise(head):
        if line > 1 and (name in cells if name else len(cells) == fields):
            names = [cell for cell in cells if cell]
            distinct = len(names) >= max(2, len(cells) - 1) and len(set(names)) == len(names)
            texts = all(math.isinf(parse_number(cell)) for cell in names)
            if distinct and texts and any(math.isfinite(parse_number(cell)) for cell in below):
                delete = "line 1" if line == 2 else "the lines before it"
                raise UserError(f"{title} the header, but line {line} seems to be: delete {delete}")
            break
    row = next((cells for _, cells in head[1:] if len(cells) == fields), [""])
    if fields == len(V0_COLUMNS) != len(head[0][1]) and not any(math.isinf(parse_number(cell)) for cell in row):
        raise UserError(f"{title} a header, and the rows look like a headerless file of 2017: delete line 1")


def column_names(path: str, first: list[str], unlabelled: bool = False) -> tuple[list[str], bool]:
    """The names of the columns, and whether line 1 contains them: in 2017 it was a row, possibly without its label."""
    cells = [cell.strip() for cell in first]
    numbers = [parse_number(cell) for cell in cells]
    if not any(map(math.isinf, numbers)):
        start = int(math.isnan(numbers[0]))  # the index of a saved data frame has no name
        counted = numbers[start:] in [[*range(first, first + len(cells) - start)] for first in (0, 1)]
        if counted or not any(cells) or not len(V0_COLUMNS) - unlabelled <= len(cells) <= len(V0_COLUMNS):
            shown = ",".join(cells[:5]) + ",..." * (len(cells) > 5)
            raise UserError(f"{path}: line 1 ({shown}) has no column names; save the table with its column names")
        return V0_COLUMNS[: len(cells)], False
    names = [cell or f"unnamed_{number}" for number, cell in enumerate(cells, 1)]
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        fault = ""
        if name in seen:
            fault = f" names the column {name} twice; rename one of them"
        elif len(name) > LONGEST_NAME:
            fault = f", column {number}: the name has {len(name):,} characters; shorten it to at most {LONGEST_NAME}"
        elif "/" in name or not name.isprintable():
            fault = f", column {name!r}: the name contains a slash or an unprintable character; rename it"
        if fault:
            raise UserError(f"{path}: line 1{fault}")
        seen.add(name)
    return names, True


def without_torn(rows: np.ndarray, line_numbers: np.ndarray, torn: bool, notes: list[str]) -> np.ndarray:
    """Bad rows, except a last row without a line end, which is incomplete: a note reports it."""
    if torn and len(rows) and rows[-1] == len(line_numbers) - 1:
        notes.append(f"line {line_numbers[-1]}, the last, is incomplete and skipped")
        return rows[:-1]
    return rows


def open_csv(path: str, skip_bad_rows: bool, unlabelled: bool = False, byte_range: ByteRange = WHOLE) -> CsvFile:
    """Check the structure of every line of a CSV file, or of a part without quotes, before its cells are read."""
    first = check_file(path, unlabelled)
    records: list[str] = []
    notes: list[str] = []
    before = byte_range.lines_before
    fields, repeated, has_quotes, torn = scan_lines(path, first.encode(), byte_range)
    lines = np.arange(before + 1, before + len(fields) + 1)
    if has_quotes:
        records, fields, lines = read_quoted(path)
        first = records[0]
        repeated = np.array([row for row, record in enumerate(records) if record == first])
    cells = next(csv.reader([first], skipinitialspace=True, strict=True))
    kept = fields > 0
    wrong = kept & (fields != len(cells))
    mostly_wrong = 2 * np.count_nonzero(wrong) > np.count_nonzero(kept)
    if not before and (mostly_wrong or not any(math.isinf(parse_number(cell)) for cell in cells)):
        usual, counts = np.unique(fields[1:][fields[1:] > 0], return_counts=True)
        check_header(path, int(usual[counts.argmax()]) if len(usual) else 0)
    names, has_header = column_names(path, cells, unlabelled)
    kept[0] &= not has_header or before > 0
    wrong &= kept
    kept &= ~wrong
    bad = without_torn(np.flatnonzero(wrong), lines, torn, notes)
    if has_header:
        repeated = repeated[kept[repeated]]
        kept[repeated] = False
        if len(repeated):
            notes.append(f"{name_lines(lines[repeated])}: repeated header, skipped")
    if len(bad):
        where = name_lines(lines[bad])
        if not skip_bad_rows or (mostly_wrong and np.count_nonzero(kept) < FEWEST_ROWS):
            found = int(fields[bad[0]])
            fault = f"{found} field{'s' * (found != 1)} where {len(names)} are expected"
            cure = f"fix line 1 ({first.strip()[:40]}) or the rows" if mostly_wrong else "fix the rows"
            cure += "" if mostly_wrong or unlabelled else " or skip them with --skip-bad-rows"
            raise UserError(f"{path}: {where}: {fault}; {cure}")
        notes.append(f"{where}: wrong number of fields, skipped")
    content = "\n".join([*compress(records, kept), ""]) if has_quotes else None
    skip = [] if has_quotes else np.flatnonzero(~kept).tolist()
    return CsvFile(path, names, content, skip, lines[kept], notes, len(bad), torn, byte_range)


def read_chunks(
    file: CsvFile, dtypes: dict[str, type], chunk_rows: int, keep_spaces: bool = False
) -> Iterator[pd.DataFrame]:
    """Iterate over data frames of columns with these types. Raises UserError if the file is not text or has changed."""
    rows = len(file.line_numbers)
    changed = UserError(f"{file.path}: changed while it was read; try again when no program rewrites it")
    try:
        with open_bytes(file.path, file.byte_range) if file.content is None else io.StringIO(file.content) as source:
            for chunk in pd.read_csv(
                source,
                names=file.names,
                usecols=list(dtypes),
                dtype=dtypes,
                skiprows=file.skip,
                nrows=rows,
                chunksize=chunk_rows,
                keep_default_na=False,
                na_values=[""],
                skipinitialspace=not keep_spaces,
                encoding="utf-8-sig",
                index_col=False,
                skip_blank_lines=False,  # blank lines are in skiprows
                low_memory=False,  # otherwise a part of a chunk in which every cell is TRUE would be read as ones
            ):
                yield chunk
                rows -= len(chunk)
    except UnicodeDecodeError:
        raise undecodable(file.path) from None
    except (FileNotFoundError, pd.errors.EmptyDataError, pd.errors.ParserError):
        raise changed from None
    if rows:
        raise changed


def is_doubtful(values: np.ndarray) -> bool:
    """Whether pandas may have misread cells: infinity, or TRUE, which it reads as 1 if all cells are TRUE."""
    most = np.fmax.reduce(np.abs(values), initial=-1.0)
    return bool(most > LARGEST_NUMBER or (0 <= most <= 1 and (np.isin(values, [0, 1]) | np.isnan(values)).all()))


def read_columns(files: list[CsvFile], names: list[str], textual: set[str]) -> dict[str, pd.Series]:
    """Read columns of all files: float64, or category of stripped texts, NaN where the cell is empty.

    Those in textual are read as text, the others by the number parser of pandas. If that fails, the column is read
    again as text, and its kind follows from its texts.
    """
    numeric = [name for name in names if name not in textual]
    heads = [file._replace(line_numbers=file.line_numbers[: GUESS_ROWS // len(files) + 1]) for file in files]
    textual = textual | find_textual(heads, numeric)
    try:
        columns, doubtful = read_once(files, names, textual)
    except ValueError:  # text below the first rows of a numeric column, which is rare
        columns, doubtful = read_once(files, names, textual | find_textual(files, numeric))
    return columns | read_once(files, sorted(doubtful), doubtful)[0]


def chunks_of(files: list[CsvFile], dtypes: dict[str, type]) -> Iterator[tuple[int, pd.DataFrame]]:
    """The rows of all files, with the columns that each has: (the number of the first row, data frame)."""
    start = 0
    for file in files:
        first, start = start, start + len(file.line_numbers)
        if own := {name: dtypes[name] for name in file.names if name in dtypes}:
            for chunk in read_chunks(file, own, CHUNK_ROWS):
                yield first, chunk
                first += len(chunk)


def find_textual(files: list[CsvFile], names: list[str]) -> set[str]:
    """The columns in which the number parser of pandas fails, or may have misread cells."""
    textual = set()
    for _, chunk in chunks_of(files, dict.fromkeys(names, object)):
        for name in chunk:
            cells = chunk[name].dropna()
            numbers = pd.to_numeric(cells, errors="coerce")
            if numbers.hasnans or is_doubtful(numbers.to_numpy(float)):
                textual.add(name)
    return textual


def read_once(files: list[CsvFile], names: list[str], textual: set[str]) -> tuple[dict[str, pd.Series], set[str]]:
    """The columns, those in textual as text; and which of the others may contain more than numbers.

    Raises ValueError for a number that cannot be parsed.
    """
    rows = sum(len(file.line_numbers) for file in files)
    values = {name: np.full(rows, -1, np.int32) if name in textual else np.full(rows, math.nan) for name in names}
    codes: dict[str, dict[str, int]] = {name: {} for name in textual}  # of each text
    doubtful = set()
    for start, chunk in chunks_of(files, {name: object if name in textual else float for name in names}):
        for name in chunk:
            part = values[name][start : start + len(chunk)]
            part[:] = code_texts(chunk[name], codes[name]) if name in textual else chunk[name]
            if name not in textual and is_doubtful(part):
                doubtful.add(name)
    for name in textual:
        values[name] = pd.Categorical.from_codes(values[name], list(codes[name]))
    return {name: pd.Series(values[name], copy=False) for name in names if name not in doubtful}, doubtful


def code_texts(cells: pd.Series, code: dict[str, int]) -> np.ndarray:
    """The code of each text [N] int32, -1 for an empty cell; new texts are added to the given codes."""
    numbers, texts = cells.factorize()
    found = [code.setdefault(text, len(code)) if (text := parse_text(cell)) else -1 for cell in texts]
    return np.array([*found, -1], np.int32)[numbers]  # -1, an empty cell, is the last
