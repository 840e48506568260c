"""How a row becomes inputs of the network: scaled numbers, missing indicators, one-hot categories, quantile bins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harvest.data.cells import MISSING
from harvest.data.columns import Column
from harvest.data.splits import Split
from harvest.data.table import Table

if TYPE_CHECKING:
    import tensorflow as tf

SCALE_ROWS = 200_000  # rows from which scales are taken
WIDE = 50  # a column spans decades if its 95th percentile is more than this many times its 5th, zeros excluded
FARTHEST = 1e6  # scaled numbers are clipped to this distance from 0, where the smooth clip is flat
ABSENT = 2e6  # stands for a missing number after scaling: fast arithmetic may not detect NaN
MAXIMUM_CATEGORIES = 256  # the most frequent values of a column; the others share an input with unseen values
PIECE_ROWS = 100_000  # rows scaled or predicted at a time
MOST_BINS = 16  # of one number
BIN_INPUTS = 1_024  # bins of all numbers together
NARROWEST_BIN = 0.002  # relative to its edge: narrower bins would be dominated by 32-bit rounding
BIN_SIZE = 0.25  # with a size of 1, bins overfit small tables
SLICED_COLUMNS = 64  # with more, slices take longer to compile than they save


def row_pieces(rows: np.ndarray, size: int = PIECE_ROWS) -> list[np.ndarray]:
    return np.array_split(rows, max(1, math.ceil(len(rows) / size)))


class Scaler(NamedTuple):
    """How D numbers are scaled to a size of about 1 in 64 bits, before they are stored in 32 bits: [D] each.

    A column that spans decades becomes a signed logarithm, sign(s) log1p(|s|) of s = x / unit; any other becomes
    (x - median) / interquartile range, computed before digits are lost. All folds share one scaler, fitted on the first
    fold's training rows, which precede the test rows of every window in time; each fold centers and scales again.
    """

    offset: np.ndarray  # float64; 0 for a logarithm
    gain: np.ndarray  # float64: the inverse of the unit or of the range
    logarithmic: np.ndarray  # bool
    whole: np.ndarray  # bool: whole numbers that 32 bits cannot tell apart, which the saved model takes as int64


def draw_rows(rows: np.ndarray) -> np.ndarray:
    """At most SCALE_ROWS rows, drawn at random because the first and the last rows may be from different times."""
    if len(rows) <= SCALE_ROWS:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, SCALE_ROWS, replace=False))


def fit_scaler(table: Table, rows: np.ndarray) -> Scaler:
    """The scaler fitted on some rows of a table; whether a column needs 64 bits depends on all rows."""
    columns, drawn = table.of_kind("number"), draw_rows(rows)
    scaler = Scaler(*(np.full(len(columns), value) for value in (0.0, 1.0, False, False)))
    for number, column in enumerate(columns):
        values = table.numbers(column.name)
        known = values[drawn]
        known = known[~np.isnan(known)]
        if not len(known) or np.ptp(known) == 0:
            known = values[rows]
            known = known[~np.isnan(known)]
        if not len(known):
            known = np.zeros(1)  # the column is empty in these rows
        size = np.abs(known[known != 0])
        low, high = np.percentile(size, [5, 95]) if len(size) else (1.0, 1.0)
        first, middle, third = np.percentile(known, [25, 50, 75])
        narrow = 0 < third - first < 0.001 * max(abs(first), abs(third))  # the logarithms would be equal in 32 bits
        scaler.logarithmic[number] = high > WIDE * low and not narrow
        if scaler.logarithmic[number]:
            scaler.gain[number] = 1 / max(min(1.0, low), size.max() * 1e-30, 1e-300)
        else:
            scaler.offset[number] = middle
            if 2**24 < np.fmax.reduce(np.abs(values)) <= 2**53:
                scaler.whole[number] = not np.any(np.nan_to_num(values) % 1)
            scaler.gain[number] = 1 / max(third - first or np.ptp(known) / 2 or 1.0, 1e-300)
    return scaler


def scale_numbers(raw: Any, scaler: Scaler) -> tf.Tensor:
    """Numbers [B, D] float64, NaN where missing, scaled: float32, ABSENT where missing."""
    from keras import ops

    scaled = (raw - scaler.offset) * scaler.gain
    logarithm = ops.sign(scaled) * ops.log1p(ops.absolute(scaled))
    scaled = ops.clip(ops.where(scaler.logarithmic, logarithm, scaled), -FARTHEST, FARTHEST)
    return ops.cast(ops.where(ops.isnan(raw), ABSENT, scaled), "float32")


class Encoding(NamedTuple):
    """How all folds encode a row as E inputs of the network, of D numbers, M of them with gaps, and C categories.

    The inputs are: D scaled numbers, centered on the median, divided by the interquartile range and clipped smoothly to
    +-3 (the preprocessing of RealMLP: Holzmueller, Grinsztajn, Steinwart, 2024), 0 if missing; a missing indicator for
    each number that is empty in a training row; for each category one-hot inputs, and one for rare values if there are
    any; for each number quantile bins (the piecewise-linear encoding of Gorishniy, Rubachev, Babenko, 2022), centered
    on their means, 0 if missing. The linear model uses all inputs except the bins. If no training row of a fold has a
    value or a missing cell, that value or missing cell sets all inputs of its column to 0 in that fold.
    """

    scaler: Scaler
    indicators: list[int]  # the numbers that have a missing indicator
    known: list[np.ndarray]  # for each category: the codes that some fold learns, with indices from 1; 0 for all others
    widths: list[int]  # for each category: its one-hot width
    bins: list[int]  # for each number: its number of bins

    @property
    def first_indices(self) -> np.ndarray:
        """The first index of each category [C] if those of all are numbered consecutively: int32."""
        return np.cumsum([0, *(1 + len(codes) for codes in self.known)][:-1] or [], dtype=np.int32)

    @property
    def width(self) -> int:
        """E, the number of inputs."""
        return self.linear_width + sum(self.bins)

    @property
    def linear_width(self) -> int:
        """L, the number of the first inputs, which the linear model uses."""
        return len(self.scaler.gain) + len(self.indicators) + sum(self.widths)

    def inputs_of_columns(self) -> list[list[int]]:
        """The positions among the E inputs of each number, then of each category."""
        count = len(self.scaler.gain)
        categories = count + np.repeat(np.arange(len(self.widths)), self.widths)
        bins = np.repeat(np.arange(count), self.bins)
        column = np.concatenate([np.arange(count), self.indicators, categories, bins])
        return [np.flatnonzero(column == number).tolist() for number in range(count + len(self.widths))]


class FoldEncoding(NamedTuple):
    """The encoding that one fold learns from its training rows."""

    center: np.ndarray  # [D] float32
    scale: np.ndarray  # [D] float32
    indicator_known: np.ndarray  # [M] float32: 1 if a training row has the gap
    positions: np.ndarray  # int32: from an index to its one-hot position in its category, -1 for none
    lower: np.ndarray  # [bins] float32: the lower end of each bin
    slope: np.ndarray  # [bins] float32: BIN_SIZE divided by the width of the bin, 0 where it is empty
    bin_mean: np.ndarray  # [bins] float32


class Features(NamedTuple):
    """The rows of a table as all folds use them. Rows are the last axis, so vector instructions run along them."""

    numbers: np.ndarray  # [D, N] float32, ABSENT if missing
    categories: np.ndarray  # [C, N] int32, numbered through all categories
    labels: np.ndarray  # [N] float32

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The scaled numbers [B, D] and the indices of categories [B, C] of some rows."""
        return self.numbers[:, rows].T, self.categories[:, rows].T


def fit_encoding(table: Table, splits: list[Split]) -> tuple[Encoding, list[FoldEncoding], Features]:
    """One encoding for each fold, fitted on its training rows; all have the same width, so one program trains all."""
    categories = [fit_category(table, column, splits) for column in table.of_kind("category")]
    numbers = table.of_kind("number")
    bins = count_bins(numbers, len(splits[0].train))
    known, widths = [codes for codes, _, _ in categories], [width for _, width, _ in categories]
    encoding = Encoding(fit_scaler(table, splits[0].train), [], known, widths, bins)
    features = make_features(table, encoding)
    missing = features.numbers > FARTHEST
    gaps = np.stack([missing[:, split.train].any(axis=1) for split in splits])  # [folds, D]
    encoding.indicators.extend(np.flatnonzero(gaps.any(axis=0)).tolist())
    fold_encodings = []
    for fold, split in enumerate(splits):
        indicator_known = gaps[fold, encoding.indicators].astype(np.float32)
        center, scale, *bin_values = fit_numbers(features.numbers, split.train, bins)
        positions = np.concatenate([np.empty(0, np.int32), *(of_fold[fold] for _, _, of_fold in categories)])
        fold_encodings.append(FoldEncoding(center, scale, indicator_known, positions, *bin_values))
    return encoding, fold_encodings, features


def count_bins(numbers: list[Column], training_rows: int) -> list[int]:
    """The number of bins of each number: fewer if bins would have few rows, or if a wide table would have many bins."""
    most = min(MOST_BINS, max(2, training_rows // 20), BIN_INPUTS // max(1, len(numbers)))
    return [count if (count := min(most, (column.distinct or 0) - 1)) > 1 else 0 for column in numbers]


def expected_width(table: Table, training_rows: int) -> int:
    """An estimate of E from the columns alone: rare values and gaps may be in no training row."""
    numbers = table.of_kind("number")
    categories = sum(min(len(column.vocabulary), 1 + MAXIMUM_CATEGORIES) for column in table.of_kind("category"))
    gaps = sum(bool(column.missing) for column in numbers)
    return len(numbers) + gaps + categories + sum(count_bins(numbers, training_rows))


def fit_category(table: Table, column: Column, splits: list[Split]) -> tuple[np.ndarray, int, list[np.ndarray]]:
    """The codes of a category that some fold learns, its one-hot width, and for each fold the positions of indices."""
    codes = table.codes(column.name)
    counts = [np.bincount(codes[split.train], minlength=len(column.vocabulary)) for split in splits]
    frequent = [np.argsort(-count, kind="stable")[:MAXIMUM_CATEGORIES] for count in counts]
    frequent = [most[count[most] > 0] for count, most in zip(counts, frequent, strict=True)]
    known = np.unique(np.concatenate(frequent))
    positions = []
    for count, learned in zip(counts, frequent, strict=True):
        rare = count.sum() > count[learned].sum()
        positions.append(np.full(1 + len(known), len(known) if rare else -1, np.int32))
        found = np.searchsorted(known, learned)
        positions[-1][1 + found] = found
    return known, 1 + int(np.max(positions)), positions


def make_features(table: Table, encoding: Encoding) -> Features:
    """The scaled numbers of a table and the indices of its categories."""
    columns, rows = table.of_kind("number"), len(table.label)
    numbers = np.empty((len(columns), rows), np.float32)
    for start in range(0, rows if columns else 0, PIECE_ROWS):  # to limit the memory for 64-bit numbers
        piece = slice(start, start + PIECE_ROWS)
        raw = np.stack([table.numbers(column.name)[piece] for column in columns], axis=1)
        numbers[:, piece] = np.transpose(scale_numbers(raw, encoding.scaler))
    categories = np.empty((len(encoding.known), rows), np.int32)
    for number, (column, codes) in enumerate(zip(table.of_kind("category"), encoding.known, strict=True)):
        index_of_code = np.zeros(len(column.vocabulary), np.int32)
        index_of_code[codes] = np.arange(1, len(codes) + 1)
        categories[number] = (index_of_code + encoding.first_indices[number])[table.codes(column.name)]
    return Features(numbers, categories, table.label)


def fit_numbers(numbers: np.ndarray, rows: np.ndarray, bins: list[int]) -> list[np.ndarray]:
    """Of scaled numbers [D, N] in some rows: the medians and inverse interquartile ranges, 0 for constants, [D] each,
    and the lower ends, slopes and means of the quantile bins.
    """
    center, scale = np.zeros((2, len(numbers)), np.float32)
    lower, slope, mean = np.zeros((3, sum(bins)), np.float32)
    rows = draw_rows(rows)
    for number, (values, count) in enumerate(zip(numbers, bins, strict=True)):
        known = values[rows]
        known = known[known <= FARTHEST]
        if len(known):
            low, center[number], high = np.percentile(known, [25, 50, 75])
            spread = high - low or (known.max() - known.min()) / 2
            scale[number] = 1 / spread if spread > 1e-6 else 0
        if count and len(known):
            edges: list[float] = []
            start = sum(bins[:number])
            for edge in np.quantile(known, np.linspace(0, 1, count + 1)):
                if not edges or edge - edges[-1] > NARROWEST_BIN * max(1, abs(edge)):
                    edges.append(edge)
            own = slice(start, start + len(edges) - 1)  # if quantiles are too close, the last bins are empty
            lower[own], slope[own] = edges[:-1], BIN_SIZE / np.diff(edges)
            ends = zip(lower[own], slope[own], strict=True)
            mean[own] = [np.clip((known - low) * by, 0, BIN_SIZE).mean() for low, by in ends]
    return [center, scale, lower, slope, mean]


def encode_numbers(numbers: Any, encoding: Encoding, fold_encoding: FoldEncoding, axis: int = -1) -> Any:
    """Encoded numbers and missing indicators, from the output of scale_numbers(): [B, D] to [B, D + M]."""
    from keras import ops

    missing = ops.greater(numbers, FARTHEST)
    values = (numbers - by_column(fold_encoding.center, axis)) * by_column(fold_encoding.scale, axis)
    values = ops.where(missing, 0.0, values * ops.rsqrt(1.0 + ops.square(values / 3.0)))
    if not encoding.indicators:
        return values
    indicators = ops.take(ops.cast(missing, "float32"), np.array(encoding.indicators, np.int32), axis=axis)
    return ops.concatenate([values, indicators * by_column(fold_encoding.indicator_known, axis)], axis)


def spread(values: Any, counts: list[int], axis: int) -> Any:
    """Each column of values, repeated by counts. In training, up to SLICED_COLUMNS are sliced: XLA fuses this best."""
    from keras import ops

    if axis == 0 and len(counts) <= SLICED_COLUMNS:
        parts = [ops.repeat(values[number : number + 1], count, 0) for number, count in enumerate(counts) if count]
        return ops.concatenate(parts, 0)
    return ops.take(values, np.repeat(np.arange(len(counts), dtype=np.int32), counts), axis=axis)


def by_column(values: Any, axis: int) -> Any:
    """Values [columns], broadcastable to an array with the columns on an axis, -1 or 0."""
    return values if axis == -1 else values[:, None]


def encode(numbers: Any, categories: Any, encoding: Encoding, fold_encoding: FoldEncoding, axis: int = -1) -> Any:
    """The inputs of the network: [B, E] from scaled numbers [B, D] and the indices of categories [B, C].

    With axis=0, rows are last: [E, B] from [D, B] and [C, B]. Training, evaluation and the saved model all use this.
    """
    from keras import ops

    parts = [encode_numbers(numbers, encoding, fold_encoding, axis)] if encoding.bins else []
    if encoding.widths:
        position = np.concatenate([np.arange(width, dtype=np.int32) for width in encoding.widths])
        chosen = spread(ops.take(fold_encoding.positions, categories, axis=0), encoding.widths, axis)
        parts.append(ops.cast(ops.equal(chosen, by_column(position, axis)), "float32"))
    if any(encoding.bins):
        values = spread(numbers, encoding.bins, axis)
        below = (values - by_column(fold_encoding.lower, axis)) * by_column(fold_encoding.slope, axis)
        below = ops.clip(below, 0.0, BIN_SIZE) - by_column(fold_encoding.bin_mean, axis)
        parts.append(ops.where(ops.greater(values, FARTHEST), 0.0, below))
    return ops.concatenate(parts, axis) if len(parts) > 1 else parts[0]


def raw_inputs(table: Table, scaler: Scaler, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Raw columns of a table as inputs of the inference model: arrays [rows, 1]."""
    inputs: dict[str, np.ndarray] = {}
    for column, whole in zip(table.of_kind("number"), scaler.whole, strict=True):
        values = table.numbers(column.name)[rows]
        if whole:
            values = np.where(np.isnan(values), MISSING, np.nan_to_num(values).astype(np.int64))
        inputs[column.name] = values
    for column in table.of_kind("category"):
        vocabulary = np.array(column.vocabulary, np.int64 if column.integers else object)
        inputs[column.name] = vocabulary[table.codes(column.name)[rows]]
    return {name: values[:, None] for name, values in inputs.items()}
