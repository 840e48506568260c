"""Rows told apart by hashes: their order, digests, and which rows have trained a model."""

import zipfile

import numpy as np
import pytest
from small_table import small_table
from table_files import read, read_split, rows, write

from harvest.cli import UserError
from harvest.data import training_rows as module
from harvest.data.encoding import fit_scaler, raw_inputs
from harvest.data.hashes import cell_bits, hash_rows
from harvest.data.repeats import Repeats
from harvest.data.sample import write_sample
from harvest.data.splits import split_rows
from harvest.data.training_rows import (
    ROWS_ENTRY,
    fingerprint,
    read_training_rows,
    row_hashes,
    rows_digest,
    store_training_rows,
)


def model_file(path, entries):
    """An archive with these entries."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"config.json": "{}", **entries}.items():
            archive.writestr(name, content)
    return path


def hashes_of(table, rows):
    """The hashes of rows of a table, exact and rounded, given as the model takes them."""
    inputs = {
        name: cells[:, 0]
        for name, cells in raw_inputs(table, fit_scaler(table, np.arange(len(table.label))), rows).items()
    }
    return row_hashes({column.name: column.kind for column in table.columns if column.kind != "dropped"}, inputs)


def write_every_kind(path):
    """A number, a large whole number, an id and a text, each with gaps."""
    lines = [
        f"{index % 5 or ''},{'' if index % 7 == 0 else f'page {index % 4}'},{0.1 * index:.3f},"
        f"{'' if index == 9 else 17_000_000_000 + index * index},{index % 2}"
        for index in range(100)
    ]
    return write(path, lines, header="app,title,share,large,productive")


def test_hashes_are_the_same_in_every_version():
    """They order the rows, so a change here would change every split, and models would not know their rows."""
    columns = [np.array([1.5, np.nan, -0.0]), np.array([2, 0, 1], np.int32), np.array([1, 0, 1], np.float32)]
    assert hash_rows(columns).tolist() == [0x419D054BB0E6EDC6, 0x6A6F40BBA48EEA6A, 0x76DEF80861865B15]
    np.testing.assert_array_equal(cell_bits(np.array([0.0, -0.0])), [0, 0])
    nans = np.array([0x7FF8000000000000, 0xFFF8000000000001], np.uint64).view(np.float64)
    assert len(set(cell_bits(nans).tolist())) == 1
    assert module.hash_values(["", "größe"]).tolist() == [13020603013274838756, 16832822397561338100]
    assert module.hash_values([-1, 7]).tolist() == [2**64 - 1, 7]


def test_the_fingerprint_follows_what_a_table_teaches(tmp_path):
    path = write(tmp_path / "a.csv", rows(60))
    table = read(path, split="random")
    again = read(write(tmp_path / "b.csv", rows(60)[::-1]), split="random")
    fewer = read(path, split="random", drop=["mouse_activity"])
    other = rows(60)
    other[5] = other[5][:-1] + "0"
    changed = read(write(tmp_path / "c.csv", other), split="random")
    assert fingerprint(again) == fingerprint(table)
    assert fingerprint(fewer) != fingerprint(table) and fingerprint(changed) != fingerprint(table)


def test_flags_for_columns_move_no_row_and_another_split_has_another_digest(tmp_path):
    path = write_every_kind(tmp_path / "a.csv")

    def digest(**flags):
        return rows_digest(*read_split(path, **flags))

    name = "share"
    assert digest() == digest(drop=[name]) == digest(categorical=[name]) == digest(folds=1)
    assert len({digest(), digest(split_seed=7), digest(split="time"), digest(folds=5)}) == 4


@pytest.mark.parametrize("folds", [1, 3])
def test_the_rows_that_trained_are_known(tmp_path, folds):
    table, splits = read_split(write_every_kind(tmp_path / "a.csv"), folds=folds)
    assert fit_scaler(table, np.arange(len(table.label))).whole.tolist() == [True, False]
    known = read_training_rows(model_file(tmp_path / "m.keras", store_training_rows(table, splits)))
    assert known.exact.complete and known.exact.repeated == 0 and known.stored == 1
    expected = np.zeros(100, bool)
    for split in splits:
        expected[split.train] = expected[split.val] = True
    exact, rounded = hashes_of(table, np.arange(100))
    np.testing.assert_array_equal(np.isin(exact, known.exact.hashes), expected)
    assert np.isin(rounded, known.rounded.hashes)[expected].all()


def test_numbers_are_known_without_their_last_bits(tmp_path):
    """Which the parsers of pandas and of Python may read differently."""
    values = np.random.default_rng(1).lognormal(0, 5, 40)
    label = np.arange(40) % 2
    entry = store_training_rows(small_table(label, x=values), [split_rows(label, "random", 1)])[ROWS_ENTRY]
    near = small_table(label, x=np.nextafter(np.nextafter(values, 0), 0))
    assert store_training_rows(near, [split_rows(label, "random", 1)])[ROWS_ENTRY] == entry
    far = small_table(label, x=values * (1 + 1e-9))
    assert store_training_rows(far, [split_rows(label, "random", 1)])[ROWS_ENTRY] != entry


def test_of_many_rows_a_sample_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT_HASHES", 400)
    write_sample(tmp_path / "a.csv", 4_000, 3)
    table, splits = read_split(tmp_path / "a.csv")
    entries = store_training_rows(table, splits, rows_at_once=700)
    assert entries == store_training_rows(table, splits)
    assert all(300 * 8 < len(entry) < 500 * 8 for entry in entries.values())
    known = read_training_rows(model_file(tmp_path / "m.keras", entries))
    assert known.exact.bound == known.rounded.bound == 400 * 2**64 // 3_400 and not known.exact.complete
    for hashes, kept in zip(hashes_of(table, np.arange(4_000)), (known.exact, known.rounded), strict=True):
        looked = hashes < kept.bound
        assert np.mean(np.isin(hashes[looked], kept.hashes)) == pytest.approx(0.85, abs=0.06)


def test_rows_that_are_not_in_the_table_are_counted(tmp_path):
    """Of very many rows a group of workers holds a sample in common."""
    table, splits = read_split(write(tmp_path / "a.csv", rows()))
    path = tmp_path / "m.keras"
    seen = len(splits[0].train) + len(splits[0].val)
    for trained, share in ((None, 1), (seen - 5, 1), (4 * seen, 0.25)):
        assert read_training_rows(model_file(path, store_training_rows(table, splits, trained))).stored == share


def test_rounded_numbers_have_two_digits():
    alike = [(0.1249, 0.12), (-0.1249, -0.12), (99.7, 100), (1_000, 1_000.4), (0, -0.0), (5e-300, 5.04e-300)]
    for one, other in alike:
        assert module.round_numbers(np.array([one])) == module.round_numbers(np.array([other]))
    values = [0, 0.12, 0.13, -0.12, 1.2, 12, 120, 99, 100, 1e-300, 1e300, -1e300]
    assert len(set(module.round_numbers(np.array(values)).tolist())) == len(values)
    assert np.isnan(module.round_numbers(np.array([np.nan]))).all()
    generator = np.random.default_rng(0)
    numbers = generator.lognormal(0, 5, 10_000) * generator.choice([-1, 1], 10_000)
    text = np.array([float(f"{number:.1e}") for number in numbers])
    np.testing.assert_array_equal(module.round_numbers(numbers), module.round_numbers(text))


def test_rows_that_repeat_are_counted(tmp_path):
    label = np.arange(40) % 2
    table = small_table(label, x=np.repeat(np.arange(20.0), 2))
    split = split_rows(label, "time", 1)
    known = read_training_rows(model_file(tmp_path / "m.keras", store_training_rows(table, [split])))
    assert known.exact.repeated == 1 and len(known.exact.hashes) == 17
    table.repeats = Repeats(np.arange(40, dtype=np.int32) // 2 * 2, np.arange(40) % 2 == 1)  # copies, not chance
    known = read_training_rows(model_file(tmp_path / "m.keras", store_training_rows(table, [split])))
    assert known.exact.repeated == 0 and len(known.exact.hashes) == 17


def test_a_model_without_the_rows_and_damaged_ones(tmp_path):
    table, splits = read_split(write(tmp_path / "a.csv", rows()))
    entries = store_training_rows(table, splits)
    path = tmp_path / "m.keras"
    assert read_training_rows(model_file(path, {})) is None
    whole = read_training_rows(model_file(path, entries))
    before = read_training_rows(model_file(path, {ROWS_ENTRY: entries[ROWS_ENTRY]}))  # of an earlier version
    assert before.rounded is None and before.exact.hashes.tolist() == whole.exact.hashes.tolist()
    text = "the hashes of its training rows are damaged; train the model again"
    for name, entry in entries.items():
        reverse = np.frombuffer(entry, "<u8")[::-1].tobytes()
        for content in (b"", entry[:20], entry[:-1], reverse, entry + entry[-8:], bytes(16) + entry[16:]):
            with pytest.raises(UserError) as error:
                read_training_rows(model_file(path, entries | {name: content}))
            assert str(error.value) == f"{path}: {text}"
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match="are damaged"):
        read_training_rows(path)
