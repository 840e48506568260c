"""Hashes of rows and of cells."""

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from harvest.data.cells import parse_number

CACHED_ROWS = 1 << 15  # hashed at a time, so that they fit the cache of a core


def cell_bits(values: np.ndarray) -> np.ndarray:
    """Numbers or codes as uint64, identical for cells with the same meaning: all NaNs, and both zeros."""
    if values.dtype != np.float64:
        return values.astype(np.uint64)
    return np.where(np.isnan(values), np.inf, values + 0.0).view(np.uint64)


def hash_rows(columns: Iterable[np.ndarray]) -> np.ndarray:
    """A hash of each row of columns [N], uint64: of 64-bit numbers from their bits, of others from their values."""
    hashes: Any = np.uint64(0)
    for column in columns:
        bits = cell_bits(column)  # changed in place because there may be many rows
        bits ^= hashes
        bits *= np.uint64(0x9E3779B97F4A7C15)
        bits ^= bits >> np.uint64(29)
        hashes = bits
    return hashes


def hash_column(name: str, cells: pd.Series) -> np.ndarray:
    """A hash of each cell of a column [N], uint64; the sum over the columns, in any order, is the hash of a row.

    Cells are float64, or category of texts; NaN is an empty cell. Texts that are numbers are hashed as numbers, to 44
    bits, on which the parsers of pandas and Python agree, so that the hash does not depend on how a column was read.
    """
    if cells.dtype == np.float64:
        bits = (cells.to_numpy() + 0.0).view(np.uint64)  # -0 becomes 0; every NaN has the bits of the one below
    else:
        texts = cells.cat.categories.to_numpy(object)
        numbers = np.array([value for text in texts if abs(value := parse_number(text)) < 2**53], float)
        values = cell_bits(numbers) if len(numbers) == len(texts) else pd.util.hash_array(texts, categorize=False)
        bits = np.append(values, np.array([np.nan]).view(np.uint64))[cells.cat.codes.to_numpy()]  # -1 is an empty cell
    seed = np.uint64(zlib.crc32(name.encode()) << 24)
    for piece in np.array_split(bits, len(bits) // CACHED_ROWS + 1):  # views
        piece += np.uint64(128)
        piece >>= np.uint64(8)
        piece += seed
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64 (Steele et al., 2014)
            piece ^= piece >> np.uint64(shift)
            piece *= np.uint64(factor)
        piece ^= piece >> np.uint64(31)
    return bits


def hash_spelling(cells: pd.Series, hashes: np.ndarray) -> np.ndarray | int:
    """A hash of each text of a column [N] if different ones have the same hash in hash_column() (12 and 012), or 0."""
    if cells.dtype == np.float64:
        return 0
    codes, texts = cells.cat.codes.to_numpy(), cells.cat.categories.to_numpy(object)
    of_text = np.zeros(len(texts) + 1, np.uint64)
    of_text[codes] = hashes  # -1, an empty cell, is the last
    if len(np.unique(of_text[:-1])) == len(texts):
        return 0
    return np.append(pd.util.hash_array(texts, categorize=False), np.uint64(0))[codes]
