"""Which rows train, stop and test each network."""

import numpy as np
import pytest
from table_files import arguments, read_split, rows, write

from harvest.cli import UserError
from harvest.data.sample import write_sample
from harvest.data.splits import describe_split, make_splits, split_folds, split_folds_by_time, split_rows
from harvest.data.table import generate_table, read_table


def test_a_split_is_stratified_seeded_and_complete():
    label = np.array([0] * 70 + [1] * 30, np.float32)
    split = split_rows(label, "random", 7)
    assert sorted(np.concatenate(split).tolist()) == list(range(100))
    assert [len(part) for part in split] == [72, 14, 14] and {part.dtype for part in split} == {np.dtype("int32")}
    assert [label[part].sum() for part in split] == [22, 4, 4]
    assert all((one == other).all() for one, other in zip(split, split_rows(label, "random", 7), strict=True))
    assert (split.train != split_rows(label, "random", 8).train).any()


def test_a_split_by_time_keeps_the_order():
    split = split_rows(np.zeros(100, np.float32), "time", 7)
    assert [part.tolist() for part in split] == [list(range(70)), list(range(70, 85)), list(range(85, 100))]


def test_folds_are_stratified_and_cover_all_rows():
    label = np.array([0] * 73 + [1] * 31, np.float32)
    splits = split_folds(label, 10, 7)
    assert sorted(np.concatenate([split.test for split in splits]).tolist()) == list(range(104))
    for number, split in enumerate(splits):
        assert sorted(np.concatenate(split).tolist()) == list(range(104))
        np.testing.assert_array_equal(split.val, splits[(number + 1) % 10].test)
        assert 10 <= len(split.test) <= 11 and 3 <= label[split.test].sum() <= 4


def test_folds_by_time_are_windows_that_slide():
    splits = split_folds_by_time(200, 3)
    assert [len(split.train) for split in splits] == [120, 120, 120]
    for split, following in zip(splits, [*splits[1:], None], strict=True):
        rows = np.concatenate(split)
        np.testing.assert_array_equal(rows, np.arange(rows[0], rows[-1] + 1))
        if following:
            np.testing.assert_array_equal(split.test, following.val)
    assert splits[-1].test[-1] == 199


def test_the_split_is_the_same_in_every_version():
    """A change here would make --resume and comparisons with earlier runs wrong."""
    label = np.arange(60) % 3 == 0
    assert split_rows(label, "random", 42).test.tolist() == [0, 2, 4, 12, 13, 20, 48, 50, 58]
    assert split_folds(label, 5, 42)[0].test.tolist() == [4, 26, 32, 33, 34, 36, 41, 44, 49, 51, 56, 57]


@pytest.mark.parametrize("folds", [1, 10])
def test_the_split_follows_its_seed(tmp_path, folds):
    write_sample(tmp_path / "a.csv", 100, 1)

    def tests(**flags):
        return [split.test.tolist() for split in read_split(tmp_path / "a.csv", folds=folds, **flags)[1]]

    assert tests() == tests(split_seed=42) != tests(split_seed=7)


def test_generated_rows_follow_the_seed_of_the_split():
    tables = [generate_table(arguments(sample=60, split_seed=seed))[0] for seed in (42, 42, 7)]
    assert tables[0].frame.equals(tables[1].frame) and not tables[0].frame.equals(tables[2].frame)
    assert tables[0].names == ["60 generated rows"]


@pytest.mark.parametrize(
    "part, positive", [("training", range(34, 40)), ("validation", range(20)), ("test", range(0, 34, 2))]
)
def test_parts_of_one_class_are_refused(tmp_path, part, positive):
    path = write(tmp_path / "a.csv", [row[:-1] + str(int(index in positive)) for index, row in enumerate(rows())])
    with pytest.raises(UserError) as error:
        read_split(path, split="time")
    assert str(error.value) == f"{path}: the {part} rows are all of one class; label more rows or use --split random"
    assert read_split(path)[1]


def test_too_few_rows_for_the_blocks_are_refused():
    few = "61 rows are too few for --folds 10 --split time, which cuts them into 31 blocks; use fewer folds"
    with pytest.raises(UserError, match=few):
        make_splits(arguments("a.csv", split="time"), np.arange(61) % 2, 10)
    assert len(make_splits(arguments("a.csv", split="time"), np.arange(62) % 2, 10)) == 10


def described(path, folds, **flags):
    args = arguments(path, **flags)
    table, time_column = read_table(args)
    return describe_split(args, table, make_splits(args, table.label, folds, table.repeats), time_column)


def test_what_is_printed_of_a_split(tmp_path):
    """The counts are those of all networks."""
    path = tmp_path / "a.csv"
    write_sample(path, 64, 1)
    splits = read_split(path, folds=7)[1]
    counts = [sorted({len(part) for part in parts}) for parts in zip(*splits, strict=True)]
    train, val, test = (f"{few} to {many}" for few, *_, many in counts)
    use = "for validation and early stopping"
    words = f"each network has {train} rows for training, {val} {use}, {test} for testing, at random within each class"
    assert described(path, 7) == [f"Split      {words}"]
    (line,) = described(path, 1, early_stopping=False)
    assert line == "Split      44 rows for training, 10 for validation, 10 for testing, at random within each class"
    (line,) = described(path, 3, split="time")
    assert line.endswith(", by time, in file order because there is no timestamp column, in 3 sliding windows")


def test_rows_close_in_time_are_pointed_out(tmp_path):
    lines = [f"{row},{1_700_000_000 + 60 * index}" for index, row in enumerate(rows(60))]
    header = "foreground_app,keyboard_activity,mouse_activity,time_last_request,productive,timestamp"
    path = write(tmp_path / "a.csv", lines, header=header)
    for folds in (1, 10):
        (note,) = described(path, folds)[1:]
        words = "a random split may overestimate the accuracy; --split time tests on the latest rows"
        assert note == f"           note: rows close in time are similar; {words}"
    assert len(described(path, 1, numeric=["timestamp"])) == 1
    (line,) = described(path, 1, split="time")  # which is what the note advises
    assert "by time, sorted by timestamp" in line
