"""Rows that equal each other: together in every split, tested once, and counted."""

import numpy as np
import pytest
from small_table import small_table
from table_files import arguments, read_split, write

from harvest.cli import UserError
from harvest.data import repeats
from harvest.data.hashes import hash_rows
from harvest.data.repeats import most_folds
from harvest.data.splits import make_splits, split_folds, split_rows
from harvest.data.table import read_table


def repeats_of(table):
    table.hashes = hash_rows([table.numbers(column.name) for column in table.columns])
    table.find_repeats()
    return table.repeats


def repeat_warnings(table, by_time):
    return repeats.repeat_warnings(table.repeats, table.files, by_time)


HEADER = "app,idle,keys,productive"


def different_rows(count, seed=1):
    """Lines that differ in all numbers, with labels that follow from nothing."""
    generator = np.random.default_rng(seed)
    idle, keys = generator.permutation(10 * count)[:count], generator.permutation(10 * count)[:count]
    return [f"app{row % 5},{idle[row]},{keys[row]},{row % 2}" for row in range(count)]


def write_rows(path, lines):
    return write(path, lines, header=HEADER)


def contents(table, rows):
    """What some rows hold, but for their labels."""
    cells = table.frame.astype(str).agg("|".join, axis=1).to_numpy()
    return set(cells[rows])


@pytest.mark.parametrize("folds", [1, 3, 10])
@pytest.mark.parametrize("times", [2, 3, 7])
def test_copies_are_in_one_part_of_each_split_and_tested_once(tmp_path, folds, times):
    once = different_rows(60)
    table, splits = read_split(write_rows(tmp_path / "a.csv", once * times), folds=folds)
    for split in splits:
        parts = [contents(table, rows) for rows in split]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert len(parts[1]) == len(split.val) and len(parts[2]) == len(split.test)
        assert len(split.train) == times * len(parts[0])
    tested = np.concatenate([split.test for split in splits])
    assert len(tested) == (60 if folds > 1 else pytest.approx(9, abs=2))
    assert set(table.line_numbers[tested]) <= set(range(2, len(once) * times + 2))


def test_the_warning_counts_copies_and_says_what_is_done(tmp_path):
    once = different_rows(60)
    table = read_table(arguments(write_rows(tmp_path / "a.csv", once * 3)))[0]
    (warning,) = repeat_warnings(table, by_time=False)
    assert warning.startswith("120 of 180 rows repeat another row in every column: repeated rows stay in one part of")
    (warning,) = repeat_warnings(read_table(arguments(tmp_path / "a.csv", split="time"))[0], by_time=True)
    assert warning.startswith("120 of 180 rows repeat an earlier row in every column: they are not tested")
    assert not repeat_warnings(read_table(arguments(write_rows(tmp_path / "b.csv", once)))[0], by_time=False)
    table = read_table(arguments(write_rows(tmp_path / "c.csv", [*once, once[11]])))[0]
    assert repeat_warnings(table, by_time=False)[0].startswith("1 of 61 rows repeats another row in every column: ")


def test_two_exports_of_a_growing_log_are_counted_over_both_files(tmp_path):
    lines = different_rows(80)
    paths = [write_rows(tmp_path / "a.csv", lines[:50]), write_rows(tmp_path / "b.csv", lines)]
    table, splits = read_split(*paths, folds=5)
    assert repeat_warnings(table, by_time=False)[0].startswith(
        "50 of 130 rows repeat another row in every column, in 2"
    )
    assert sum(len(split.test) for split in splits) == 80


def test_rows_with_equal_features_and_other_labels_stay_together_and_are_no_copies(tmp_path):
    once = different_rows(60)
    flipped = [line[:-1] + str(1 - int(line[-1])) for line in once[:20]]
    table, splits = read_split(write_rows(tmp_path / "a.csv", once + flipped), folds=4)
    assert not table.repeats.copies.any()
    (warning,) = repeat_warnings(table, by_time=False)
    assert warning.startswith("20 of 80 rows repeat another row with the other label: no model can tell them apart")
    for split in splits:
        parts = [contents(table, rows) for rows in split]
        assert not parts[0] & parts[2] and not parts[0] & parts[1]
    assert sum(len(split.test) for split in splits) == 80


def test_categories_and_counts_repeat_by_chance(tmp_path):
    """Equal rows stay together, and nothing is said of them."""
    generator = np.random.default_rng(0)
    lines = [f"app{generator.integers(5)},{generator.integers(6)},0,{generator.integers(2)}" for _ in range(300)]
    table, splits = read_split(write_rows(tmp_path / "a.csv", lines), folds=5)
    assert table.repeats and not table.repeats.copies.any() and not repeat_warnings(table, by_time=False)
    for split in splits:
        assert not contents(table, split.train) & contents(table, split.test)
        assert len(np.unique(table.label[split.train])) == 2
    assert sum(len(split.test) for split in splits) == 300


def percentages(generator):
    return [[value] for value in generator.integers(0, 101, 400)]


def one_temperature_in_two_units(generator):
    return [[value / 10, round(value * 0.18 + 32, 2)] for value in generator.integers(0, 201, 400)]


def constants_of_applications(generator):
    return [[app * 7_919 % 997, app * 104_729 % 9_973] for app in generator.integers(0, 60, 400)]


@pytest.mark.parametrize("rows", [percentages, one_temperature_in_two_units, constants_of_applications])
def test_few_combinations_of_numbers_are_no_copies(tmp_path, rows):
    generator = np.random.default_rng(2)
    lines = [",".join(map(str, [*cells, generator.integers(2)])) for cells in rows(generator)]
    header = ",".join([*("xy"[: lines[0].count(",")]), "productive"])
    table = read_table(arguments(write(tmp_path / "a.csv", lines, header=header)))[0]
    assert not table.repeats.copies.any() and repeats.share_by_chance(table.repeats) > 0.8
    if rows is constants_of_applications:
        warning = "334 of 400 rows repeat another row in all feature columns, many with the other label: no model can"
        assert repeat_warnings(table, by_time=False)[0].startswith(warning)
    else:
        assert not repeat_warnings(table, by_time=False)
    copies = read_table(arguments(write_rows(tmp_path / "b.csv", different_rows(60) * 5)))[0]
    assert copies.repeats.copies.sum() == 240 and repeats.share_by_chance(copies.repeats) < 0.5


def test_a_table_without_numbers_has_no_copies(tmp_path):
    lines = [f"app{row % 9},{row // 2 % 2}" for row in range(200)]
    table, splits = read_split(write(tmp_path / "a.csv", lines, header="app,productive"), folds=3)
    assert len(set(table.repeats.groups.tolist())) == 9 and not table.repeats.copies.any()
    assert sum(len(split.test) for split in splits) == 200


def test_repeated_rows_of_both_classes_do_not_limit_the_folds(tmp_path):
    """Most rows of 3 of 60 values are of class 1, and a third of the rows of all others."""
    labels = {value: (1, 1, 0) if value < 3 else (1, 0, 0) for value in range(60)}
    lines = [f"app{row % 60},{labels[row % 60][row // 60]}" for row in range(180)]
    args = arguments(write(tmp_path / "a.csv", lines, header="app,productive"))
    table = read_table(args)[0]
    assert most_folds(table.label, table.repeats) == 60
    splits = make_splits(args, table.label, 10, table.repeats)
    assert all({*table.label[part]} == {0, 1} for split in splits for part in split)
    assert [len(split.test) for split in splits] == [18] * 10


def test_each_fold_has_both_classes_if_as_many_groups_do():
    generator = np.random.default_rng(5)
    for _ in range(200):
        values = generator.integers(0, 40, 300)
        label = (generator.random(300) < generator.choice([0, 0, 0.2, 0.9, 1], 40)[values]).astype(np.float32)
        if 0 < label.mean() < 1:
            found = repeats_of(small_table(label, value=values.astype(float)))
            if (folds := min(10, most_folds(label, found))) >= 3:
                tests = [split.test for split in split_folds(label, folds, 1, found)]
                assert all(len(np.unique(label[test])) == 2 for test in tests)


def test_an_idle_computer_gives_equal_rows_that_are_no_copies():
    """Half of the rows are zeros in all columns, although these have many values."""
    generator = np.random.default_rng(3)
    used = generator.random(400) < 0.5
    columns = {name: np.where(used, generator.integers(0, 10**6, 400), 0).astype(float) for name in "abcdef"}
    found = repeats_of(small_table(generator.integers(0, 2, 400), **columns))
    assert found and not found.copies.any()


def test_seconds_that_many_rows_share_do_not_hide_copies():
    generator = np.random.default_rng(4)
    columns = {name: generator.integers(0, 400, 5_000).astype(float) for name in ("idle", "stay", "mouse", "keys")}
    label = generator.integers(0, 2, 5_000)
    assert repeats_of(small_table(label, **columns)) is None
    twice = {name: np.tile(values, 2) for name, values in columns.items()}
    assert repeats_of(small_table(np.tile(label, 2), **twice)).copies.sum() > 4_990  # but for those at a limit


def test_splits_without_repeats_are_those_of_groups_of_one():
    label = (np.arange(57) % 3 == 0).astype(np.float32)
    found = repeats_of(small_table(label, idle=np.arange(57.0)))
    assert found is None and most_folds(label, None) == 19
    alone = type("Alone", (), {"groups": np.arange(57), "copies": np.zeros(57, bool)})
    for way in (split_rows(label, "random", 3, alone), *split_folds(label, 5, 3, alone)):
        same = (split_rows(label, "random", 3), *split_folds(label, 5, 3))
        assert any(all(map(np.array_equal, way, other)) for other in same)


def test_rows_that_become_equal_leave_the_others_in_their_part(tmp_path):
    lines = different_rows(200)
    lines[8] = ",".join([*lines[3].split(",")[:2], *lines[8].split(",")[2:]])  # now they differ in keys only
    path = write_rows(tmp_path / "a.csv", lines)
    tested = []
    for flags in ({}, {"drop": ["keys"]}):
        table, (split,) = read_split(path, folds=1, **flags)
        tested.append({*table.line_numbers[split.test]})
    assert table.repeats and len(tested[0] & tested[1]) >= len(tested[0]) - 2


def test_large_groups_train_and_the_others_fill_the_parts(tmp_path):
    lines = different_rows(100)
    table, (split,) = read_split(write_rows(tmp_path / "a.csv", lines + lines[:1] * 60 + lines[1:2] * 60), folds=1)
    assert (len(table.label), len(split.train)) == (220, pytest.approx(154, abs=4))
    assert len(split.val) == pytest.approx(33, abs=2) and len(split.test) == pytest.approx(33, abs=2)


def test_too_few_different_rows_are_refused(tmp_path):
    path = write(tmp_path / "a.csv", [f"{row % 2},{row % 3 % 2}" for row in range(100)], header="flag,productive")
    with pytest.raises(UserError, match="different rows"):
        read_split(path, folds=1)


@pytest.mark.parametrize("folds", [1, 5])
def test_copies_at_the_end_of_a_log_leave_nothing_to_test_by_time(tmp_path, folds):
    once = different_rows(100)
    path = write_rows(tmp_path / "a.csv", once + once)
    with pytest.raises(UserError, match="all validation or test rows repeat earlier rows in every column; delete the"):
        read_split(path, folds=folds, split="time")


def test_equal_files_under_two_names_are_refused(tmp_path):
    lines = different_rows(40)
    first, second = write_rows(tmp_path / "a.csv", lines), write_rows(tmp_path / "b.csv", lines)
    with pytest.raises(UserError, match=r"b\.csv: has the same content as .*a\.csv; list it only once"):
        read_table(arguments(first, second))
    with pytest.raises(UserError, match="has the same content"):
        read_table(arguments(tmp_path))


def test_the_training_rows_must_have_both_classes(tmp_path):
    lines = [line[:-1] + "0" for line in different_rows(60)]
    path = write_rows(tmp_path / "a.csv", lines + ["app9,1234567,1,1"] * 9)
    args = arguments(path)
    table = read_table(args)[0]
    for folds in (1, 5):
        with pytest.raises(UserError, match=r"rows are all of one class|different rows"):
            make_splits(args, table.label, folds, table.repeats)
