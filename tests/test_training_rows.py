"""Rows told apart by hashes: their order, digests, and which rows have trained a model."""

import zipfile

import numpy as np
import pytest
from small_table import small_table
from table_files import read, read_split, rows, write

from harvest.cli import UserError
from harvest.data import training_rows as module
from harvest.data.encoding import fit_scaler, raw_inputs
from harvest.data.sample import write_sample
from harvest.data.splits import split_rows
from harvest.data.table import cell_bits, hash_rows
from harvest.data.training_rows import (
    ROWS_ENTRY,
    fingerprint,
    labels_digest,
    read_training_rows,
    row_hashes,
    store_training_rows,
)


def model_file(path, content):
    """An archive with this entry; None: without it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        if content is not None:
            archive.writestr(ROWS_ENTRY, content)
    return path


def hashes_of(table, rows):
    """The hashes of rows of a table, given as the model takes them: texts as bytes."""
    inputs = {name: cells[:, 0] for name, cells in raw_inputs(table, fit_scaler(table), rows).items()}
    for name, cells in inputs.items():
        if cells.dtype == object:
            inputs[name] = np.array([text.encode() for text in cells], object)
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


def test_digests_follow_what_a_table_teaches(tmp_path):
    path = write(tmp_path / "a.csv", rows(60))
    table = read(path, split="random")
    again = read(write(tmp_path / "b.csv", rows(60)[::-1]), split="random")
    assert fingerprint(again) == fingerprint(table) and labels_digest(again) != labels_digest(table)
    fewer = read(path, split="random", drop=["mouse_activity"])
    assert fingerprint(fewer) != fingerprint(table) and labels_digest(fewer) == labels_digest(table)
    other = rows(60)
    other[5] = other[5][:-1] + "0"
    changed = read(write(tmp_path / "c.csv", other), split="random")
    assert fingerprint(changed) != fingerprint(table) and labels_digest(changed) != labels_digest(table)


@pytest.mark.parametrize("folds", [1, 3])
def test_the_rows_that_trained_are_known(tmp_path, folds):
    table, splits = read_split(write_every_kind(tmp_path / "a.csv"), folds=folds)
    assert fit_scaler(table).whole.tolist() == [True, False]
    known = read_training_rows(model_file(tmp_path / "m.keras", store_training_rows(table, splits)))
    assert known.bound == 2**64 - 1 and known.repeated == 0
    seen = np.isin(hashes_of(table, np.arange(100)), known.hashes)
    expected = np.zeros(100, bool)
    for split in splits:
        expected[split.train] = expected[split.val] = True
    np.testing.assert_array_equal(seen, expected)


def test_numbers_are_known_without_their_last_bits(tmp_path):
    """Which the parsers of pandas and of Python may read differently."""
    values = np.random.default_rng(1).lognormal(0, 5, 40)
    label = np.arange(40) % 2
    entry = store_training_rows(small_table(label, x=values), [split_rows(label, "random", 1)])
    near = small_table(label, x=np.nextafter(np.nextafter(values, 0), 0))
    assert store_training_rows(near, [split_rows(label, "random", 1)]) == entry
    far = small_table(label, x=values * (1 + 1e-9))
    assert store_training_rows(far, [split_rows(label, "random", 1)]) != entry


def test_of_many_rows_a_sample_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT_HASHES", 400)
    write_sample(tmp_path / "a.csv", 4_000, 3)
    table, splits = read_split(tmp_path / "a.csv")
    entry = store_training_rows(table, splits, rows_at_once=700)
    assert entry == store_training_rows(table, splits) and 300 * 8 < len(entry) < 500 * 8
    known = read_training_rows(model_file(tmp_path / "m.keras", entry))
    assert known.bound == 400 * 2**64 // 3_400
    hashes = hashes_of(table, np.arange(4_000))
    looked = hashes < known.bound
    assert np.mean(np.isin(hashes[looked], known.hashes)) == pytest.approx(0.85, abs=0.06)


def test_rows_that_repeat_are_counted(tmp_path):
    label = np.arange(40) % 2
    table = small_table(label, x=np.repeat(np.arange(20.0), 2))
    split = split_rows(label, "time", 1)
    known = read_training_rows(model_file(tmp_path / "m.keras", store_training_rows(table, [split])))
    assert known.repeated == 1 and len(known.hashes) == 17


def test_a_model_without_the_rows_and_damaged_ones(tmp_path):
    table, splits = read_split(write(tmp_path / "a.csv", rows()))
    entry = store_training_rows(table, splits)
    path = tmp_path / "m.keras"
    assert read_training_rows(model_file(path, None)) is None
    assert read_training_rows(model_file(path, entry)) is not None
    text = "what it tells of its training rows is damaged; train the model again"
    for content in (b"", entry[:20], entry[:-1], np.frombuffer(entry, "<u8")[::-1].tobytes(), entry + entry[-8:]):
        with pytest.raises(UserError) as error:
            read_training_rows(model_file(path, content))
        assert str(error.value) == f"{path}: {text}"
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match="is damaged"):
        read_training_rows(path)
