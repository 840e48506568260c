"""How a row becomes inputs of the network, against a slow reference written cell by cell."""

from itertools import chain, pairwise

import numpy as np
import pytest
from small_table import small_table
from table_files import read, read_split, rows, write

from harvest.data import encoding as module
from harvest.data.cells import MISSING
from harvest.data.encoding import (
    ABSENT,
    FARTHEST,
    Features,
    draw_rows,
    encode,
    encode_numbers,
    expected_width,
    fit_encoding,
    fit_scaler,
    make_features,
    raw_inputs,
    row_pieces,
    scale_numbers,
    spread,
)
from harvest.data.sample import write_sample
from harvest.data.splits import Split, split_folds, split_folds_by_time

NONE = np.empty(0, np.int32)


def write_with_gaps(path):
    write_sample(path, 200, 3)
    lines = path.read_text().splitlines()
    for place in range(10, 100, 7):
        cells = lines[place].split(",")
        cells[place % 4] = ""
        lines[place] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def fitted(tf, tmp_path):
    """A table with gaps, its split, and all that is fitted to it."""
    table, (split,) = read_split(write_with_gaps(tmp_path / "a.csv"))
    encoding, (fold_encoding,), features = fit_encoding(table, [split])
    return table, split, encoding, fold_encoding, features


def slow_encoding(table, split, encoding, fold_encoding):
    """The inputs of all rows by the words of the documentation, cell by cell."""
    scaler, numbers = encoding.scaler, [table.numbers(column.name) for column in table.of_kind("number")]
    categories = [table.codes(column.name) for column in table.of_kind("category")]

    def scaled_number(number, place):
        scaled = (number - scaler.offset[place]) * scaler.gain[place]
        if scaler.logarithmic[place]:
            scaled = np.sign(scaled) * np.log1p(abs(scaled))
        return np.clip(scaled, -1e6, 1e6)

    def parts_of_bins(number, edges):
        return [0.25 * min(max((number - low) / (high - low), 0), 1) for low, high in pairwise(edges)]

    result = []
    for row in range(len(table.label)):
        cells, indicators = [], []
        for place, values in enumerate(numbers):
            value = scaled_number(values[row], place) - fold_encoding.center[place]
            value *= fold_encoding.scale[place]
            cells.append(0 if np.isnan(values[row]) else value / np.sqrt(1 + (value / 3) ** 2))
            if np.isnan(values).any():
                indicators.append(np.isnan(values[row]) and np.isnan(values[split.train]).any())
        cells += indicators
        for codes in categories:
            cells += [codes[row] == code for code in sorted(set(codes[split.train]))]
        for place, values in enumerate(numbers):
            count = min(16, len(split.train) // 20, len({*values[~np.isnan(values)]}) - 1)
            known = [scaled_number(other, place) for other in values[split.train] if not np.isnan(other)]
            edges = sorted(set(np.quantile(known, np.linspace(0, 1, count + 1)).tolist()))
            assert np.all(np.diff(edges) > 0.002 * np.abs(edges[1:]))  # else they would be merged
            mean = np.mean([parts_of_bins(other, edges) for other in known], axis=0)
            number, own = values[row], np.zeros(len(mean))
            if not np.isnan(number):
                own = parts_of_bins(scaled_number(number, place), edges) - mean
            cells += [*own, *[0] * (count - len(own))]
        result.append(cells)
    return np.array(result, np.float32)


def test_the_encoding_equals_a_slow_one_everywhere(tf, fitted):
    """Rows first on arrays, rows first in a Keras model, rows last under XLA."""
    import keras

    table, split, encoding, fold_encoding, features = fitted
    expected = slow_encoding(table, split, encoding, fold_encoding)
    assert len(encoding.indicators) == 3 and expected.shape == (200, encoding.width)
    rows = np.arange(200)
    np.testing.assert_allclose(encode(*features.take(rows), encoding, fold_encoding), expected, atol=1e-5)

    @tf.function(jit_compile=True)
    def rows_last(features, fold_encoding):
        return encode(features.numbers, features.categories, encoding, fold_encoding, axis=0)

    tensors = Features(*map(tf.constant, features)), type(fold_encoding)(*map(tf.constant, fold_encoding))
    np.testing.assert_allclose(tf.transpose(rows_last(*tensors)), expected, atol=1e-5)

    numbers, categories = keras.Input((3,), dtype="float64"), keras.Input((1,), dtype="int32")
    outputs = encode(scale_numbers(numbers, encoding.scaler), categories, encoding, fold_encoding)
    raw = np.stack([table.numbers(column.name) for column in table.of_kind("number")], axis=1)
    found = keras.Model([numbers, categories], outputs)([raw, features.categories.T])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_inputs_of_a_linear_model_come_first(fitted):
    _, _, encoding, fold_encoding, features = fitted
    inputs = np.asarray(encode(*features.take(np.arange(200)), encoding, fold_encoding))
    numbers = encode_numbers(features.numbers.T, encoding, fold_encoding)
    np.testing.assert_array_equal(inputs[:, :6], numbers)
    assert encoding.linear_width == 6 + sum(encoding.widths) and encoding.width == encoding.linear_width + 3 * 7
    of_columns = encoding.inputs_of_columns()
    assert sorted(chain.from_iterable(of_columns)) == list(range(encoding.width))
    first = encoding.linear_width
    assert of_columns[0] == [0, 3, *range(first, first + 7)] and of_columns[3] == list(range(6, first))


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("columns", [3, 70])
def test_columns_are_spread(tf, columns, axis):
    counts = [number % 4 for number in range(columns)]
    values = np.arange(2 * columns).reshape(columns, 2)
    expected = np.repeat(values, counts, axis=0)
    found = spread(tf.constant(values if axis == 0 else values.T), counts, axis)
    np.testing.assert_array_equal(found, expected if axis == 0 else expected.T)


def test_only_training_rows_are_learned_from(tf, tmp_path):
    table = read(write(tmp_path / "a.csv", rows()))
    split = Split(np.arange(20, dtype=np.int32), NONE, NONE)
    shared, (before,), _ = fit_encoding(table, [split])
    table.frame = table.frame.copy()
    table.frame.loc[20:, [column.name for column in table.of_kind("number")]] = 1e6
    table.frame.loc[20:, "foreground_app"] = table.columns[0].vocabulary[0]
    again, (after,), _ = fit_encoding(table, [split])
    for one, other in zip([*before, *shared.scaler], [*after, *again.scaler], strict=True):
        np.testing.assert_array_equal(one, other)


def drifting(rows, late):
    """A number that is of the size of 1 in the first half of the rows, and spreads over decades in the second."""
    generator = np.random.default_rng(0)
    cells = np.append(generator.normal(10, 1, rows // 2), 10 ** generator.uniform(2, 8, rows - rows // 2))
    return small_table(np.arange(rows) % 2, x=cells if late else cells[::-1].copy())


def test_scales_and_logarithms_are_those_of_training_rows(monkeypatch):
    monkeypatch.setattr(module, "SCALE_ROWS", 200)
    table = drifting(2_000, late=True)
    first, both = np.arange(1_000), np.arange(2_000)
    assert not fit_scaler(table, first).logarithmic[0]
    assert fit_scaler(table, first).offset[0] == pytest.approx(10, abs=0.3)  # not a later test row
    for late in (True, False):  # of more rows than are looked at the first say nothing of the last
        assert fit_scaler(drifting(2_000, late), both).logarithmic[0]
    drawn = draw_rows(both)
    assert len(drawn) == 200 and len(set(drawn.tolist())) == 200 and 600 < np.median(drawn) < 1_400
    np.testing.assert_array_equal(draw_rows(np.arange(50, 250)), np.arange(50, 250))


def test_windows_share_the_scale_of_the_first(tf):
    table = drifting(700, late=True)
    splits = split_folds_by_time(700, 3)
    encoding, fold_encodings, _ = fit_encoding(table, splits)
    for one, other in zip(encoding.scaler, fit_scaler(table, splits[0].train), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({float(fold.scale[0]) for fold in fold_encodings}) == 3  # each scales again by its own rows


def test_a_number_that_is_empty_in_all_training_rows_teaches_nothing(tf):
    x = np.full(40, np.nan)
    x[35:] = 1e9 + np.arange(5)
    table = small_table(np.arange(40) % 2, x=x, y=np.arange(40.0) % 7)
    encoding, (fold_encoding,), features = fit_encoding(table, [Split(np.arange(30, dtype=np.int32), NONE, NONE)])
    inputs = np.asarray(encode(*features.take(np.arange(40)), encoding, fold_encoding))
    assert encoding.indicators == [0] and np.isfinite(inputs).all()
    assert not inputs[:, [0, 3, 4]].any()  # its value and its bins; the indicator is always 1 in training
    assert encoding.scaler.whole.tolist() == [True, False]  # which is about bits, not about what is learned


def test_the_expected_width_is_that_of_the_encoding(tf):
    generator = np.random.default_rng(0)
    x = generator.normal(size=400)
    x[::9] = np.nan
    columns = {"x": x, "y": np.arange(400.0) % 3, "app": (np.arange(400) % 300).tolist(), "text": ["", "b"] * 200}
    for more in (0, 100):
        wide = {f"z{number}": generator.normal(size=400) for number in range(more)}
        table = small_table(np.arange(400) % 2, **columns, **wide)
        encoding, *_ = fit_encoding(table, [Split(np.arange(320, dtype=np.int32), NONE, NONE)])
        assert expected_width(table, 320) == pytest.approx(encoding.width, abs=2)


def test_unseen_and_rare_categories(tf, tmp_path, monkeypatch):
    lines = rows()
    lines[0], lines[39] = "-555,1,1,1,0", "-777,1,1,1,1"
    table = read(write(tmp_path / "a.csv", lines))

    def encoded():
        encoding, (fold_encoding,), features = fit_encoding(table, [Split(np.arange(39, dtype=np.int32), NONE, NONE)])
        inputs = np.asarray(encode(*features.take(np.array([0, 39, 1])), encoding, fold_encoding))
        return inputs[:, 3 : encoding.linear_width]

    seen, unseen, other = encoded()
    assert seen.sum() == other.sum() == 1 and seen.argmax() != other.argmax() and unseen.sum() == 0
    monkeypatch.setattr(module, "MAXIMUM_CATEGORIES", 2)  # the others share an input with what is unseen
    rare, unseen, other = encoded()
    assert len(rare) == 3 and rare[2] == unseen[2] == 1 and other[2] == 0 and other.sum() == 1


def test_folds_share_one_layout(tf, tmp_path):
    lines = [f"{index // 4},{index},{index},{index % 5},{index % 2}" for index in range(80)]
    table = read(write(tmp_path / "a.csv", lines))
    encoding, fold_encodings, features = fit_encoding(table, split_folds(table.label, 5, 1))
    assert {len(fold.positions) for fold in fold_encodings} == {1 + len(encoding.known[0])}
    together = np.stack([fold.positions for fold in fold_encodings])
    assert all(len(set(column[column >= 0])) <= 1 for column in together.T)
    widths = {encode(*features.take(np.arange(3)), encoding, fold).shape[1] for fold in fold_encodings}
    assert widths == {encoding.width}


def test_a_gap_that_no_training_row_has_makes_no_input(tf):
    x = np.arange(40.0)
    x[39] = np.nan
    table = small_table(np.arange(40) % 2, x=x, y=np.arange(40.0) % 7)
    split = Split(np.arange(39, dtype=np.int32), NONE, NONE)
    encoding, (fold_encoding,), features = fit_encoding(table, [split])
    assert encoding.indicators == [] and fold_encoding.indicator_known.tolist() == []
    inputs = np.asarray(encode(*features.take(np.array([39])), encoding, fold_encoding))[0]
    assert not inputs[encoding.inputs_of_columns()[0]].any()


def test_a_gap_that_one_fold_learns_is_not_known_in_another(tf):
    x = np.arange(40.0)
    x[39] = np.nan
    table = small_table(np.arange(40) % 2, x=x)
    splits = [Split(np.arange(40, dtype=np.int32)[part], NONE, NONE) for part in (np.s_[1:], np.s_[:39])]
    encoding, fold_encodings, _ = fit_encoding(table, splits)
    assert encoding.indicators == [0]
    assert [fold.indicator_known.tolist() for fold in fold_encodings] == [[1], [0]]


def test_tables_of_one_kind_of_column(tf):
    label = np.arange(40) % 2
    for columns in ({"x": np.arange(40.0) % 3}, {"app": [*range(4)] * 10}, {"app": ["", "b"] * 20, "x": label * 1.0}):
        table = small_table(label, **columns)
        encoding, (fold_encoding,), features = fit_encoding(table, [Split(np.arange(40, dtype=np.int32), NONE, NONE)])
        for axis, (numbers, categories) in {0: features[:2], -1: features.take(np.arange(40))}.items():
            inputs = np.asarray(encode(numbers, categories, encoding, fold_encoding, axis))
            assert inputs.shape == ((encoding.width, 40) if axis == 0 else (40, encoding.width))
            assert np.isfinite(inputs).all()


NUMBERS = {  # cells, whether as logarithms, whether as int64 in the saved model
    "even": (np.arange(100.0), False, False),
    "decades": (10.0 ** np.linspace(-3, 9, 100), True, False),
    "negative decades": (-(10.0 ** np.linspace(-3, 9, 100)), True, False),
    "large and close": (1.7e9 + np.arange(100.0), False, True),
    "large and close, with fractions": (1.7e9 + np.arange(100.0) + 0.5, False, False),
    "large, one missing": (np.append(1.7e9 + np.arange(100.0), np.nan), False, True),
    "mostly zero": (np.append(np.zeros(97), [1.0, 2.0, 3.0]), False, False),
    "too small to be inverted": (np.append(10.0 ** np.linspace(-322, -309, 100), 0.0), True, False),
    "few far away": (np.append(np.linspace(1, 2, 50), [3.4e38, -3.4e38]), False, False),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_brought_to_the_size_of_one(tf, case):
    cells, logarithmic, whole = NUMBERS[case]
    table = small_table(np.arange(len(cells)) % 2, x=cells)
    scaler = fit_scaler(table, np.arange(len(table.label)))
    assert (bool(scaler.logarithmic[0]), bool(scaler.whole[0])) == (logarithmic, whole)
    scaled = np.asarray(scale_numbers(cells[:, None], scaler))[:, 0]
    missing = np.isnan(cells)
    assert scaled.dtype == np.float32 and np.all(scaled[missing] == ABSENT)
    known = scaled[~missing]
    assert np.all(np.abs(known) <= FARTHEST) and np.median(np.abs(known)) < 100
    order = np.argsort(cells[~missing])
    assert np.all(np.diff(known[order]) >= 0) and len(np.unique(known)) > 0.9 * len(np.unique(cells[~missing]))


def test_raw_inputs_are_those_of_the_inference_model():
    large = 1.7e9 + np.arange(20.0)
    large[3] = np.nan
    columns = {"app": [None, 7] * 10, "large": large, "text": ["", "b"] * 10, "x": np.arange(20.0)}
    table = small_table(np.arange(20) % 2, **columns)
    inputs = raw_inputs(table, fit_scaler(table, np.arange(len(table.label))), np.array([2, 3]))
    assert {name: (cells.dtype, cells.ravel().tolist()) for name, cells in inputs.items()} == {
        "large": (np.int64, [1_700_000_002, MISSING]),
        "x": (np.float64, [2, 3]),
        "app": (np.int64, [MISSING, 7]),
        "text": (object, ["", "b"]),
    }


def test_rows_in_pieces():
    pieces = row_pieces(np.arange(10), 4)
    assert [len(piece) for piece in pieces] == [4, 3, 3] and np.concatenate(pieces).tolist() == list(range(10))
    assert [len(piece) for piece in row_pieces(np.arange(0))] == [0]


def test_features_do_not_depend_on_the_size_of_pieces(fitted, monkeypatch):
    table, _, encoding, _, features = fitted
    monkeypatch.setattr(module, "PIECE_ROWS", 7)
    for one, other in zip(features, make_features(table, encoding), strict=True):
        np.testing.assert_array_equal(one, other)
