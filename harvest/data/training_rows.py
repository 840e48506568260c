"""Rows told apart by hashes: whether data are the same, and whether rows trained a model."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from harvest.cli import UserError
from harvest.data.cells import MISSING
from harvest.data.encoding import row_pieces
from harvest.data.splits import Split
from harvest.data.table import Table, hash_rows

ROWS_ENTRY = "training_rows.bin"  # of a model's archive
KEPT_HASHES = 32_768  # of the rows that trained a model, about; of more a sample


def fingerprint(table: Table) -> str:
    """A digest of everything a table teaches."""
    described = [[column.name, column.kind, column.vocabulary] for column in table.columns]
    digest = hashlib.blake2b(json.dumps(described).encode())
    for column in table.of_kind("number"):
        digest.update(np.ascontiguousarray(table.numbers(column.name)).data)
    for column in table.of_kind("category"):
        digest.update(table.codes(column.name).data)
    digest.update(table.label.data)
    return digest.hexdigest()


def labels_digest(table: Table) -> str:
    """A digest of which lines have which label: equal for runs on the same rows, whichever columns they took."""
    return f"{int(hash_rows([table.files, table.line_numbers, table.label]).sum()):016x}"


class TrainingRows(NamedTuple):
    """What a model's archive holds of the rows that trained it."""

    bound: int  # only rows whose hash is below are told apart
    repeated: float  # the share of them that equal another one, as new rows may too
    hashes: np.ndarray  # uint64, sorted


def store_training_rows(table: Table, splits: list[Split], rows_at_once: int = 100_000) -> bytes:
    """What says later whether a row trained or stopped a network: hashes of all but its label.

    Unsigned 64-bit integers: the bound below which a hash is kept, the rows whose hash is, how many of these equal
    another one, and the hashes, sorted, each once.
    """
    seen = np.zeros(len(table.label), bool)
    for split in splits:
        seen[split.train] = seen[split.val] = True
    bound, kept = min(2**64 - 1, KEPT_HASHES * 2**64 // int(seen.sum())), []
    values = [table.numbers(column.name) for column in table.of_kind("number")]
    categories = [(hash_values(column.vocabulary), table.codes(column.name)) for column in table.of_kind("category")]
    for piece in row_pieces(np.flatnonzero(seen), rows_at_once):
        numbers = (coarse_numbers(column[piece]) for column in values)
        hashes = hash_rows([*numbers, *(meanings[codes[piece]] for meanings, codes in categories)])
        kept.append(hashes[hashes < np.uint64(bound)])
    hashes, counts = np.unique(np.concatenate(kept), return_counts=True)
    head = np.array([bound, counts.sum(), counts[counts > 1].sum()], np.uint64)
    return np.concatenate([head, hashes]).astype("<u8").tobytes()


def coarse_numbers(values: np.ndarray) -> np.ndarray:
    """Numbers in 64 bits, of which pandas' parser may miss the last, without the last 20."""
    unit = np.uint64(20)
    return ((values + 0.0).view(np.uint64) + np.uint64(1 << 19) >> unit << unit).view(np.float64)  # 0.0: -0 is 0


def hash_values(values: list[int] | list[str]) -> np.ndarray:
    """64 bits for each value of a category: integers as they are, texts as hashes."""
    if values and isinstance(values[0], int):
        return np.array(values, np.int64).view(np.uint64)
    digests = (hashlib.blake2b(str(text).encode(), digest_size=8).digest() for text in values)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def read_training_rows(path: Path) -> TrainingRows | None:
    """None for a model of a version that did not store them. Raises UserError for a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            if ROWS_ENTRY not in archive.namelist():
                return None
            numbers = np.frombuffer(archive.read(ROWS_ENTRY), "<u8")
        (bound, rows, repeated), hashes = map(int, numbers[:3]), numbers[3:]
        if repeated > rows or len(hashes) > rows or np.any(hashes[1:] <= hashes[:-1]) or np.any(hashes >= bound):
            raise ValueError
    except Exception:  # each way of compressing raises kinds of its own
        raise UserError(f"{path}: what it tells of its training rows is damaged; train the model again") from None
    return TrainingRows(bound, repeated / max(1, rows), hashes)


def row_hashes(kinds: dict[str, str], inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The hashes of rows given as a model takes them, cells [B] by column: those that store_training_rows() keeps."""
    parts: dict[str, list[np.ndarray]] = {"number": [], "category": []}
    for name, kind in kinds.items():
        cells = inputs[name]
        if kind == "number":
            missing = cells == MISSING if cells.dtype == np.int64 else np.isnan(cells)
            cells = coarse_numbers(np.where(missing, np.nan, cells.astype(np.float64)))
        elif cells.dtype == object:
            codes, texts = pd.factorize(cells)
            cells = hash_values([text.decode() for text in texts])[codes]
        parts[kind].append(cells)
    return hash_rows(parts["number"] + parts["category"])
