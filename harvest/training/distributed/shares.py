"""The parts of the files that each worker reads, and the rows outside a sample that all workers share."""

from __future__ import annotations

import codecs
import hashlib
import math
import os
from dataclasses import replace
from itertools import combinations, product
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd

from harvest.cli import UserError
from harvest.data.cells import parse_id, parse_label, parse_number, parse_text, placeholder
from harvest.data.columns import parse_cells
from harvest.data.csv_file import BLOCK_BYTES, LONGEST_LINE, ByteRange, CsvFile, check_file, open_bytes
from harvest.data.table import Table
from harvest.text import name_some

GATHERED_CELLS = 25_000_000  # up to this size, all workers hold the whole table; twice as many take 6 s more to read
LARGEST_GATHERED = 200_000_000  # cells, 1.6 GB: the limit if every worker must have every row
SAMPLE_ROWS = 2_000_000  # gathered from a larger table


class SeenFile(NamedTuple):
    """A file, as the workers describe it to each other."""

    name: str
    size: int
    digest: str  # of its start and its end
    start: str  # the first bytes after line 1, which may contain only column names

    @property
    def identity(self) -> tuple[str, int, str]:
        return self[:3]


def look_at(path: str) -> SeenFile:
    check_file(path)
    size, length = os.path.getsize(path), 1 << 16
    with open(path, "rb") as file:
        start = file.read(length)
        file.seek(max(0, size - length))
        digest = hashlib.blake2b(start + file.read(length), digest_size=16).hexdigest()
    return SeenFile(os.path.basename(path), size, digest, start.partition(b"\n")[2][:1024].decode("latin-1"))


def are_shared(listings: list[list[SeenFile]]) -> bool:
    """Whether all workers were given the same files; False: each has its own. Raises UserError for a mixture."""
    sets = [{seen.identity for seen in listing} for listing in listings]
    if all(own == sets[0] for own in sets):
        return True
    for other, one in combinations(range(len(listings)), 2):
        if both := sets[one] & sets[other]:
            lone = sorted(sets[one] ^ both or sets[other] ^ both)[0][0]
            words = f"workers {other} and {one} both have {min(both)[0]}, but only one of them has {lone}"
            raise UserError(f"{words}; give all workers the same files, or each its own")
        for mine, theirs in product(listings[one], listings[other]):
            length = min(len(mine.start), len(theirs.start))
            if mine.name == theirs.name and mine.start[:length] == theirs.start[:length]:
                sizes = f"{theirs.size:,} bytes on worker {other} and {mine.size:,} on worker {one}"
                cure = "give all workers the same file, which must not change, or each its own"
                raise UserError(f"{mine.name} starts the same but differs: {sizes}; {cure}")
    return False


class Share(NamedTuple):
    """The part of a file that a worker may read."""

    file: int
    start: int
    end: int
    lines: int
    quotes: bool


def cut_files(paths: list[str], sizes: list[int], rank: int, workers: int) -> list[Share]:
    """This worker's share of the bytes of all files, in whole lines."""
    shares, first, total = [], 0, sum(sizes)
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        ends = [min(max(total * place // workers - first, 0), size) for place in (rank, rank + 1)]
        with open(path, "rb") as file:
            start, end = (line_start(file, place, size) for place in ends)
        if start < end:
            shares.append(Share(number, start, end, *count_lines(path, ByteRange(start, end, 0))))
        first += size
    return shares


def line_start(file: BinaryIO, place: int, size: int) -> int:
    """The start of the first line at or after a position."""
    if place:
        file.seek(place - 1)
        file.readline(LONGEST_LINE)
    return min(file.tell(), size)


def count_lines(path: str, byte_range: ByteRange) -> tuple[int, bool]:
    """The number of lines in a part of a file, and whether it contains quotes or byte-order marks after the first."""
    lines, quotes = 0, False
    with open_bytes(path, byte_range) as file:
        while block := file.read(BLOCK_BYTES):
            lines += block.count(b"\n")
            marked = not block.isascii() and block.find(codecs.BOM_UTF8, byte_range.start == 0) >= 0
            quotes = quotes or marked or b'"' in block
    return lines, quotes


def choose_parts(shares: list[list[Share]], sizes: list[int], rank: int) -> list[tuple[int, ByteRange | None]]:
    """The files, or parts of them, that this worker reads. A file with quotes is not cut: its rows may span lines."""
    workers, total, first = len(shares), sum(sizes), 0
    parts: list[tuple[int, ByteRange | None]] = []
    for number, size in enumerate(sizes):
        of_file = [next((one for one in own if one.file == number), None) for own in shares]
        if any(share and share.quotes for share in of_file):
            if rank == (first + size // 2) * workers // total:
                parts.append((number, None))
        elif mine := of_file[rank]:
            before = sum(share.lines for share in of_file[:rank] if share)
            parts.append((number, ByteRange(mine.start, mine.end, before)))
        first += size
    return parts


def sample_rows(rows: int, total: int, columns: int, seed: list[int]) -> np.ndarray:
    """A worker's share of a sample of all rows: the numbers [S] of its own rows, sorted."""
    share = min(rows, round(min(SAMPLE_ROWS, GATHERED_CELLS / columns) * rows / total))
    return np.sort(np.random.default_rng(seed).choice(rows, share, replace=False))


def quantile_error(rows: int) -> float:
    """The error in rank of a quantile of so many sampled rows: three standard errors, as for the median."""
    return 3 * 0.5 / math.sqrt(rows)


class Rest(NamedTuple):
    """The rows of this worker that are not in the sample all workers hold."""

    cells: dict[str, pd.Series]
    files: list[CsvFile]
    rows: np.ndarray  # among those of the files


def code_rest(rest: Rest, table: Table, label: str, skip_bad_rows: bool) -> Table:
    """The rest as a table with the columns of the sample; values not in a vocabulary get a code that no fold knows."""
    labels = parse_cells(rest.cells[label], parse_label).astype(np.float32)
    bad, frame, columns = labels < 0, {}, table.of_kind("number")
    for column in columns:
        frame[column.name] = pd.Series(parse_cells(rest.cells[column.name], parse_number))
        bad |= np.isinf(frame[column.name])
    for column in table.of_kind("category"):
        cells, vocabulary = rest.cells[column.name].cat, [*column.vocabulary, placeholder(column.integers)]
        meanings = map(parse_id if column.integers else parse_text, [*cells.categories, ""])  # "": code -1
        known = {meaning: code for code, meaning in enumerate(column.vocabulary)}
        codes = np.array([known.get(meaning, len(known)) for meaning in meanings])[cells.codes]
        frame[column.name] = pd.Series(pd.Categorical.from_codes(codes, vocabulary))
        columns.append(replace(column, vocabulary=vocabulary))
    if bad.any() and not skip_bad_rows:
        refuse_rest(rest, bad)
    rows, nothing = pd.DataFrame(frame)[~bad].reset_index(drop=True), np.empty(0, np.int32)
    return Table(rows, columns, labels[~bad], nothing, nothing, [], [], len(bad), int(bad.sum()), nothing)


def refuse_rest(rest: Rest, bad: np.ndarray) -> None:
    """Raise UserError that names the first bad lines."""
    lines = np.concatenate([file.line_numbers for file in rest.files])[rest.rows]
    files = np.repeat(np.arange(len(rest.files)), [len(file.line_numbers) for file in rest.files])[rest.rows]
    first = files[np.argmax(bad)]
    fault = "a label that is not 0 or 1, or text, infinity or a number beyond 3.4e38 in a numeric column"
    where = name_some(lines[bad & (files == first)])
    raise UserError(f"{rest.files[first].path}: {where}: {fault}; fix the rows or use --skip-bad-rows")
