"""Hashes that identify the data of a run, and the rows that trained a model."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from harvest.cli import UserError
from harvest.data.cells import is_missing
from harvest.data.encoding import row_pieces
from harvest.data.hashes import hash_rows
from harvest.data.splits import Split
from harvest.data.table import Table

ROWS_ENTRY = "training_rows.bin"  # of a model's archive
ROUNDED_ENTRY = "rounded_training_rows.bin"  # the same with rounded numbers, which models before 1.8.0 do not have
KEPT_HASHES = 32_768  # of the rows that trained a model, about; a sample if there are more


def fingerprint(table: Table) -> str:
    """A digest of all columns and labels of a table."""
    described = [[column.name, column.kind, column.vocabulary] for column in table.columns]
    digest = hashlib.blake2b(json.dumps(described).encode())
    for column in table.of_kind("number"):
        digest.update(np.ascontiguousarray(table.numbers(column.name)).data)
    for column in table.of_kind("category"):
        digest.update(table.codes(column.name).data)
    digest.update(table.label.data)
    return digest.hexdigest()


def rows_digest(table: Table, splits: Sequence[Split]) -> str:
    """A digest of the files, lines and labels of the test rows: independent of the columns that a run uses."""
    tested = np.concatenate([split.test for split in splits])
    hashes = hash_rows([table.files[tested], table.line_numbers[tested], table.label[tested]])
    return f"{int(hashes.sum()):016x}"


class KnownHashes(NamedTuple):
    """Hashes of rows that trained a model, to look up other rows."""

    bound: int  # only rows with a hash below it can be recognized
    repeated: float  # the share of rows that match another one by chance, as new rows may
    hashes: np.ndarray  # uint64, sorted

    @property
    def complete(self) -> bool:
        """Whether the hashes of all rows are kept, not of a sample."""
        return self.bound == 2**64 - 1


class TrainingRows(NamedTuple):
    """The hashes in a model's archive of the rows that trained it."""

    exact: KnownHashes
    rounded: KnownHashes | None = None  # of the same rows with rounded numbers
    stored: float = 1.0  # the share of the rows that trained it that were hashed


def store_training_rows(
    table: Table, splits: list[Split], trained: int | None = None, rows_at_once: int = 100_000
) -> dict[str, bytes]:
    """Entries of a model's archive that identify training and validation rows later: hashes of their features.

    trained is the number of these rows if not all of them are in the table. An entry consists of unsigned 64-bit
    integers: the bound below which hashes are kept, the number of rows with such a hash, how many of these match
    another one by chance, and the sorted distinct hashes. The entry of rounded rows starts with the number of hashed
    rows and of all rows.
    """
    seen = np.zeros(len(table.label), bool)
    for split in splits:
        seen[split.train] = seen[split.val] = True
    count, copied = int(seen.sum()), np.zeros(len(table.label), bool)  # matches another row, but not by chance
    if table.repeats is not None:
        copied = np.isin(table.repeats.groups, table.repeats.groups[table.repeats.copies])
    bound = min(2**64 - 1, KEPT_HASHES * 2**64 // count)
    values = [table.numbers(column.name) for column in table.of_kind("number")]
    categories = [(hash_values(column.vocabulary), table.codes(column.name)) for column in table.of_kind("category")]
    entries = []
    for simplify in (coarse_numbers, round_numbers):
        kept, chance = [], []
        for piece in row_pieces(np.flatnonzero(seen), rows_at_once):
            numbers = (simplify(column[piece]) for column in values)
            hashes = hash_rows([*numbers, *(meanings[codes[piece]] for meanings, codes in categories)])
            kept.append(hashes[hashes < np.uint64(bound)])
            chance.append(~copied[piece][hashes < np.uint64(bound)])
        hashes, place, counts = np.unique(np.concatenate(kept), return_inverse=True, return_counts=True)
        repeated = (counts[place] > 1) & np.concatenate(chance)
        head = np.array([bound, len(place), repeated.sum()], np.uint64)
        entries.append(np.concatenate([head, hashes]).astype("<u8").tobytes())
    rows = np.array([count, max(count, trained or 0)], "<u8").tobytes()
    return {ROWS_ENTRY: entries[0], ROUNDED_ENTRY: rows + entries[1]}


def coarse_numbers(values: np.ndarray) -> np.ndarray:
    """Numbers of 64 bits without the last 20, because pandas may parse the last bit differently."""
    unit = np.uint64(20)
    return ((values + 0.0).view(np.uint64) + np.uint64(1 << 19) >> unit << unit).view(np.float64)  # -0 + 0.0 is 0


def round_numbers(values: np.ndarray) -> np.ndarray:
    """Numbers that encode values [N] rounded to two significant digits: the same for 0.1249 and 0.12, not for 120."""
    size = np.where((values == 0) | ~np.isfinite(values), 1.0, np.abs(values))
    exponent = np.floor(np.log10(size))
    digits = np.round(size / 10.0 ** (exponent - 1))
    exponent, digits = exponent + (digits == 100), np.where(digits == 100, 10.0, digits)
    return np.where(values == 0, 0.0, np.sign(values) * (digits + 1_000 * (exponent + 400)))


def hash_values(values: list[int] | list[str]) -> np.ndarray:
    """64 bits for each value of a category: integers unchanged, texts hashed."""
    if values and isinstance(values[0], int):
        return np.array(values, np.int64).view(np.uint64)
    digests = (hashlib.blake2b(str(text).encode(), digest_size=8).digest() for text in values)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def read_training_rows(path: Path) -> TrainingRows | None:
    """The stored hashes; None for a model of a version that stored none. Raises UserError if they are damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {
                name: np.frombuffer(archive.read(name), "<u8")
                for name in (ROWS_ENTRY, ROUNDED_ENTRY)
                if name in archive.namelist()
            }
        if ROWS_ENTRY not in entries:
            return None
        exact = read_hashes(entries[ROWS_ENTRY])
        if ROUNDED_ENTRY not in entries:
            return TrainingRows(exact)
        stored, trained = map(int, entries[ROUNDED_ENTRY][:2])
        if not 0 < stored <= trained:
            raise ValueError
        return TrainingRows(exact, read_hashes(entries[ROUNDED_ENTRY][2:]), stored / trained)
    except Exception:  # each compression method raises errors of its own
        raise UserError(f"{path}: the hashes of its training rows are damaged; train the model again") from None


def read_hashes(numbers: np.ndarray) -> KnownHashes:
    """The hashes in an entry that store_training_rows() wrote. Raises ValueError if it is invalid."""
    (bound, rows, repeated), hashes = map(int, numbers[:3]), numbers[3:]
    if repeated > rows or len(hashes) > rows or np.any(hashes[1:] <= hashes[:-1]) or np.any(hashes >= bound):
        raise ValueError
    return KnownHashes(bound, repeated / max(1, rows), hashes)


def row_hashes(kinds: dict[str, str], inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of rows, given as inputs of a model (cells [B] by column), and of the same rows with rounded numbers,
    comparable to those from store_training_rows().
    """
    numbers, categories = [], []
    for name, kind in kinds.items():
        cells = inputs[name]
        if kind == "number":
            numbers.append(np.where(is_missing(cells), np.nan, cells.astype(np.float64)))
        elif cells.dtype == object:
            codes, texts = pd.factorize(cells)
            categories.append(hash_values(list(texts))[codes])
        else:
            categories.append(cells)
    exact, rounded = (hash_rows([*map(simplify, numbers), *categories]) for simplify in (coarse_numbers, round_numbers))
    return exact, rounded
