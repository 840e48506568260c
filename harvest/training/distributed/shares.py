"""The parts of the files that each worker reads, and the rows outside a sample that all workers share."""

from __future__ import annotations

import codecs
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
from harvest.data.csv_file import BLOCK_BYTES, LONGEST_LINE, WHOLE, ByteRange, CsvFile, check_file, open_bytes
from harvest.data.table import Table
from harvest.text import name_lines
from harvest.training.interrupted import MARKED_BYTES, mark_files

GATHERED_CELLS = 25_000_000  # up to this size, all workers hold the whole table; twice as many take 6 s more to read
LARGEST_GATHERED = 200_000_000  # cells, 1.6 GB: the limit if every worker must have every row
SAMPLE_ROWS = 2_000_000  # gathered from a larger table


class SeenFile(NamedTuple):
    """A file, as the workers describe it to each other."""

    name: str
    size: int
    digest: str  # of its start and its end
    start: str  # the first bytes after line 1, which may contain only column names; the other fields identify a file


def look_at(path: str) -> SeenFile:
    check_file(path)
    ((size, digest),) = mark_files([path])
    with open(path, "rb") as file:
        start = file.read(MARKED_BYTES).partition(b"\n")[2][:1024].decode("latin-1")
    return SeenFile(os.path.basename(path), size, digest, start)


def are_shared(listings: list[list[SeenFile]]) -> bool:
    """Whether all workers were given the same files; False: each has its own. Raises UserError for a mixture."""
    sets = [{seen[:3] for seen in listing} for listing in listings]
    others = [(rank, own) for rank, own in enumerate(sets) if own != sets[0]]
    for first, second in combinations(range(len(listings)), 2) if others else ():
        for one, other in product(listings[first], listings[second]):
            length = min(len(one.start), len(other.start))
            if one[:3] == other[:3] or (one.name == other.name and one.start[:length] == other.start[:length]):
                rank, own = others[0]
                name, size, _ = min(sets[0] ^ own)
                what = f"workers {first} and {second} both have {one.name}, but only one of workers 0 and {rank} has"
                cure = "give all workers the same files, which must not change, or each its own"
                raise UserError(f"{what} {name} with {size:,} bytes; {cure}")
    return not others


Share = tuple[int, int, int, bool]  # the part of a file that a worker may read: start, end, lines, has quotes


def cut_files(paths: list[str], sizes: list[int], rank: int, workers: int) -> list[Share]:
    """This worker's share of each file: of the bytes of all files together, in whole lines."""
    shares: list[Share] = []
    first, total = 0, sum(sizes)
    for path, size in zip(paths, sizes, strict=True):
        ends = [min(max(total * place // workers - first, 0), size) for place in (rank, rank + 1)]
        with open(path, "rb") as file:
            start, end = (line_start(file, place, size) for place in ends)
        shares.append((start, end, *count_lines(path, ByteRange(start, end))))
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


def choose_parts(shares: list[list[Share]], sizes: list[int], rank: int) -> list[tuple[int, ByteRange]]:
    """The files, or parts of them, that this worker reads. A file with quotes is not cut: its rows may span lines."""
    workers, total, first = len(shares), sum(sizes), 0
    parts: list[tuple[int, ByteRange]] = []
    for number, size in enumerate(sizes):
        starts, ends, lines, quotes = zip(*(own[number] for own in shares), strict=True)
        if any(quotes):
            if rank == (first + size // 2) * workers // total:
                parts.append((number, WHOLE))
        elif starts[rank] < ends[rank]:
            parts.append((number, ByteRange(starts[rank], ends[rank], sum(lines[:rank]))))
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
    """The rest as a table with the columns of the sample; values not in a vocabulary get a code that no fold knows.

    Raises UserError with the first bad lines.
    """
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
        lines = np.concatenate([file.line_numbers for file in rest.files])[rest.rows]
        files = np.repeat(np.arange(len(rest.files)), [len(file.line_numbers) for file in rest.files])[rest.rows]
        first = files[np.argmax(bad)]
        fault = "a label that is not 0 or 1, or text, infinity or a number beyond 3.4e38 in a numeric column"
        where = name_lines(lines[bad & (files == first)])
        raise UserError(f"{rest.files[first].path}: {where}: {fault}; fix the rows or use --skip-bad-rows")
    rows, nothing = pd.DataFrame(frame)[~bad].reset_index(drop=True), np.empty(0, np.int32)
    return Table(rows, columns, labels[~bad], nothing, nothing, [], [], len(bad), int(bad.sum()), nothing)
