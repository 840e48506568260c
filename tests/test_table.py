"""The kind of each column, the rows that are rejected or skipped, and the order of the rows."""

import random

import numpy as np
import pytest
from table_files import HEADER, arguments, cells_of, column_of, kinds, read, refusal, rows, write, write_columns

from harvest.cli import UserError
from harvest.data import csv_file
from harvest.data.cells import MISSING
from harvest.data.describe import describe, describe_columns
from harvest.data.splits import describe_split, make_splits
from harvest.data.table import generate_table, read_table, short_names
from harvest.text import name_files


def test_headerless_2017(tmp_path):
    table = read(write(tmp_path / "a.csv", rows(), header=None))
    assert [(column.name, column.kind) for column in table.columns] == [
        ("foreground_app", "category"),
        ("keyboard_activity", "number"),
        ("mouse_activity", "number"),
        ("time_last_request", "number"),
    ]
    assert table.columns[0].vocabulary == [-102, -101, -100] and table.columns[0].integers
    assert cells_of(table, "foreground_app") == [-100 - index % 3 for index in range(40)]
    assert table.numbers("keyboard_activity").tolist() == [index * 10 for index in range(40)]
    assert table.codes("foreground_app").dtype == np.int32 and table.numbers("mouse_activity").dtype == np.float64
    assert table.label.tolist() == [index % 2 for index in range(40)] and table.label.dtype == np.float32
    assert table.line_numbers.tolist() == list(range(1, 41)) and table.line_numbers.dtype == np.int32
    assert read(write(tmp_path / "b.csv", rows())).frame.equals(table.frame)


@pytest.mark.parametrize("text", ["0 1", "0.0 1.0", "false true", "False TRUE", "no yes", "0e0 1.000e+00", "-0 01"])
def test_ways_to_write_a_label(tmp_path, text):
    zero, one = text.split()
    lines = [row[:-1] + (one if row.endswith("1") else zero) for row in rows()]
    assert read(write(tmp_path / "a.csv", lines)).label.tolist() == [0, 1] * 20


def test_neighbouring_ids_stay_apart(tmp_path):
    lines = [f"{3735928559 + index % 2},{index},{index},{index % 5},{index // 2 % 2}" for index in range(40)]
    assert read(write(tmp_path / "a.csv", lines)).columns[0].vocabulary == [3735928559, 3735928560]


def test_missing_cells_are_kept(tmp_path):
    lines = rows()
    lines[3], lines[4] = ",30,3,4,1", "-100,,4,5,0"
    table = read(write(tmp_path / "a.csv", lines))
    assert len(table.label) == 40 and table.frame.isna().to_numpy().sum() == 1
    assert np.isnan(table.numbers("keyboard_activity")[4]) and cells_of(table, "foreground_app")[3] == MISSING
    assert [(column.missing, column.distinct) for column in table.columns] == [(1, 3), (1, 39), (0, 40), (0, 7)]


def test_older_rows_with_empty_newer_columns(tmp_path):
    newer = [",," if index < 30 else f"{index * 2},{'code' if index % 2 else 'web'}," for index in range(60)]
    lines = [f"{index % 3},{index * 7},{cells}{index % 2}" for index, cells in enumerate(newer)]
    table = read(write(tmp_path / "a.csv", lines, header="foreground_app,idle_time,newer_number,newer_app,productive"))
    assert (column_of(table, "newer_number").kind, column_of(table, "newer_number").missing) == ("number", 30)
    assert (column_of(table, "newer_app").kind, column_of(table, "newer_app").missing) == ("category", 30)
    assert column_of(table, "newer_app").vocabulary == ["", "code", "web"]


def test_columns_that_teach_nothing_are_left_out_with_a_reason(tmp_path):
    header = "timestamp,row,empty,same,title,when,foreground_app,distinct_apps_300s,productive"
    lines = [
        f"{1795081854 + index},{index},,7,title {index},2026-01-01 10:{index:02d},{index % 4},{index % 5},{index % 2}"
        for index in range(40)
    ]
    table = read(write(tmp_path / "a.csv", lines, header=header), split="random")
    assert {column.name: column.reason for column in table.of_kind("dropped")} == {
        "timestamp": "a timestamp",
        "row": "a row number",
        "empty": "empty",
        "same": "constant",
        "title": "nearly all values distinct",
        "when": "a timestamp",
    }
    assert [column.name for column in table.of_kind("category")] == ["foreground_app"]
    assert [column.name for column in table.of_kind("number")] == ["distinct_apps_300s"]
    assert [*table.frame] == ["distinct_apps_300s", "foreground_app"]
    assert (column_of(table, "timestamp").missing, column_of(table, "timestamp").distinct) == (0, 40)
    assert (column_of(table, "row").missing, column_of(table, "row").distinct) == (0, 40)


def test_flags_overrule_kinds(tmp_path):
    path = write(tmp_path / "a.csv", rows())
    flags = {"categorical": ["time_last_request"], "numeric": ["foreground_app"], "drop": ["mouse_activity"]}
    table = read(path, **flags)
    assert kinds(table) == {
        "foreground_app": ("number", "--numeric"),
        "keyboard_activity": ("number", ""),
        "mouse_activity": ("dropped", "--drop"),
        "time_last_request": ("category", "--categorical"),
    }
    for flag in ("categorical", "numeric", "drop"):
        assert refusal(path, **{flag: ["nothing"]}) == f"--{flag} nothing: {path} has no such column"
        assert refusal(path, **{flag: ["productive"]}) == f"--{flag} productive: this is the label"


def test_another_label_and_quoted_text(tmp_path):
    lines = [f'"app, number {index % 3}","{index}",{"yes" if index % 2 else "no"}' for index in range(80)]
    path = write(tmp_path / "a.csv", lines, header='"window","seconds","done"')
    table = read(path, label="done", numeric=["seconds"])
    assert table.of_kind("category")[0].vocabulary == ["app, number 0", "app, number 1", "app, number 2"]
    assert "line 1 has no column productive; choose the label with --label (columns: window, seconds, done)" in refusal(
        path
    )


def replaced(text):
    lines = rows()
    lines[5] = text
    return lines


def with_labels(label):
    return [row[:-1] + str(label(index)) for index, row in enumerate(rows())]


BAD_LINES = {
    "too few fields": (replaced("1,2,3,1"), "line 7: 4 fields where 5"),
    "too many fields": (replaced("1,2,3,4,5,1"), "line 7: 6 fields where 5"),
    "too many fields in the first row": (["1,2,3,4,5,1", *rows()], "line 2: 6 fields where 5"),
    "decimal comma": (replaced("1,2,5,3,4,1"), "line 7: 6 fields"),
    "label missing": (replaced("1,2,3,4,"), "line 7, column productive"),
    "label 2": (replaced("1,2,3,4,2"), "line 7, column productive"),
    "label text": (replaced("1,2,3,4,maybe"), "line 7, column productive"),
    "label 0.5": (replaced("1,2,3,4,0.5"), "line 7, column productive"),
    "label not a number": (replaced("1,2,3,4,nan"), "line 7, column productive"),
    "label -1": (replaced("1,2,3,4,-1"), "line 7, column productive"),
    "label 10": (replaced("1,2,3,4,10"), "line 7, column productive"),
    "label y": (replaced("1,2,3,4,y"), "line 7, column productive"),
    "two bad lines": ([*replaced("1,2,3,1")[:-1], "1,2"], "lines 7, 41: 4 fields"),
    "nineteen rows": (rows(19), "only 19 usable rows, but at least 20 are needed; label more rows"),
    "one class": (with_labels(lambda index: 0), "too few productive rows: 0 of 40, but at least 5 are needed"),
    "four of a class": (with_labels(lambda index: int(index < 4)), "rows: 4 of 40"),
    "empty labels": (with_labels(lambda index: "" if index % 2 else 0), "column productive"),
    "header only": ([], "no rows after the header; give a file with labeled rows"),
    "semicolon rows": ([row.replace(",", ";") for row in rows()], "1 field where 5"),
    "spaces for a row": (replaced("   "), "line 7: 1 field "),
    "open quote": (replaced('"1,2,3,4,1'), "line 7: unexpected end of data; close the quotes or remove them"),
    "quote within a cell": (replaced('1,2"3,3,4,1'), "line 7, column keyboard_activity"),
    "text after a quote": (replaced('1,"2"3,3,4,1'), "line 7: "),
    "columns out of step": ([",".join(reversed(row.split(","))) for row in rows()], "column productive"),
    "a trailing comma in every row": ([row + "," for row in rows()], "lines 2, 3, 4, 5, 6 and 35 more: 6 fields"),
    "a second header of other names": (replaced("a,b,c,d,e"), "line 7, column"),
    "merge conflict": (replaced("<<<<<<< HEAD"), "line 7: 1 field "),
    "a total at the end": ([*rows(), "Total,,,,40"], "line 42, column"),
    "a comment": (replaced("# restarted"), "line 7: 1 field "),
    "nothing to learn from": ([f"1,2,3,4,{index % 2}" for index in range(40)], "no column is left to learn from"),
}
NO_NUMBERS = ["many", "--5", "1.2.3", "=A1+1", "TRUE", "1e", "1 2"]
BAD_LINES |= {cell: (replaced(f"1,{cell},3,4,1"), "line 7, column keyboard_activity: text, inf") for cell in NO_NUMBERS}
OTHER_NOTATIONS = ["NA", "inf", "-Infinity", "1e999", "1e39", "2 000", "2'000", "200ms", "5%", "12:30", "?", "\u22125"]
OTHER_NOTATIONS += ["nan", "1_000", "0x1F", "\u0661\u0662", "\uff11\uff12", "(5)", "5 $", "5\u200b"]
BAD_LINES |= {cell: (replaced(f"1,{cell},3,4,1"), f" in 1 of 40 cells, such as {cell} (") for cell in OTHER_NOTATIONS}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_lines_are_refused_with_their_place(tmp_path, case):
    lines, message = BAD_LINES[case]
    path = write(tmp_path / "a.csv", lines)
    error = refusal(path)
    assert error.startswith(f"{path}: ") and message in error and "\n" not in error


def test_messages_say_what_can_be_done(tmp_path):
    path = write(tmp_path / "a.csv", replaced("1,many,3,4,1"))
    assert refusal(path) == (
        f"{path}: line 7, column keyboard_activity: text, infinity or a number beyond 3.4e38 in a numeric column; "
        "leave missing numbers empty; fix the rows, read the column as a category with --categorical "
        "keyboard_activity, drop the column with --drop keyboard_activity or skip the rows with --skip-bad-rows"
    )
    path = write(tmp_path / "a.csv", replaced("1,2,3,4,"))
    assert refusal(path) == (
        f"{path}: line 7, column productive: the label is missing or not 0 or 1; "
        "fix the rows, choose another column with --label or skip the rows with --skip-bad-rows"
    )

    path = write(tmp_path / "a.csv", replaced("1,NA,3,4,1"))
    assert refusal(path) == (
        f"{path}: line 7, column keyboard_activity: a word for a missing value in 1 of 40 cells, such as NA "
        "(leave it empty); fix the rows, drop the column with --drop keyboard_activity or skip the rows with "
        "--skip-bad-rows"
    )


PAIRS = [("N", "Y"), ("off", "on"), ("f", "t"), ("-1", "1"), ("1", "2"), ("bad", "good"), ("0", "1,0"), ("0", "100")]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("zero", "one"), PAIRS)
def test_a_label_of_two_other_values_is_named(tmp_path, zero, one, skip):
    labels = [(zero, one, one)[row % 3] for row in range(60)]
    path = write_columns(tmp_path / "a.csv", {"x": [str(row * 7 % 60) for row in range(60)], "y": labels}, quoted=True)
    what = f"column y contains {min(zero, one)} and {max(zero, one)}, but a label is 0 or 1 (also true/false, yes/no)"
    cure = "write 1 where y is true and 0 where it is not, or choose another column with --label"
    assert refusal(path, label="y", skip_bad_rows=skip) == f"{path}: {what}; {cure}"


def test_other_labels_are_named_by_column_where_they_are_no_slips(tmp_path):
    def labelled(label, name="a.csv"):
        return write(tmp_path / name, [row[:-1] + str(label(index)) for index, row in enumerate(rows(100))])

    path = labelled(lambda index: index % 3)
    assert "column productive contains 3 values, such as 0, 1, 2, but a label is 0 or 1" in refusal(path)
    assert "contains 100 values, such as 0, 1, 2, " in refusal(labelled(lambda index: index))
    assert "column productive contains only empty cells, but a label is 0 or 1" in refusal(labelled(lambda index: ""))
    few = refusal(labelled(lambda index: index % 2 if index % 20 else "maybe"))
    assert "lines 2, 22, 42, 62, 82, column productive: the label is missing or not 0 or 1" in few and "--skip" in few
    error = refusal(labelled(lambda index: "Yy"[index % 2] if index < 10 else index % 2))
    assert "the label is missing or not 0 or 1 (Y in 10 rows); fix the rows or choose" in error
    error = refusal(labelled(lambda index: ("Y", "N", "y", "n ", "N")[index % 5]))
    assert "column productive contains N and Y, but a label" in error
    good, bad = labelled(lambda index: index % 2), labelled(lambda index: "NY"[index % 2], "b.csv")
    assert refusal(good, bad).startswith(f"{bad}: column productive contains ")


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (
            ("1", ""),
            "contains only 1 and empty cells, but a label is 0 or 1 (also true/false, yes/no); write 0 in",
        ),
        (("no", "NA"), "contains only NA and no, "),
        (("x", ""), "contains x and empty cells, "),
        (("", ""), "contains only empty cells, "),
        (("NA", ""), "contains only NA and empty cells, "),
    ],
)
def test_a_label_of_one_class_is_named(tmp_path, texts, fault):
    lines = [row[:-1] + texts[index % 2] for index, row in enumerate(rows())]
    path = write(tmp_path / "a.csv", lines)
    assert refusal(path).startswith(f"{path}: column productive {fault}")


def test_unlabelled_rows_may_be_left_out_however_many_they_are(tmp_path):
    for missing in ("", "NA"):
        lines = [row[:-1] + (row[-1] if index % 5 < 2 else missing) for index, row in enumerate(rows(100))]
        path = write(tmp_path / "a.csv", lines)
        assert refusal(path).endswith("choose another column with --label or skip the rows with --skip-bad-rows")
        table = read(path, skip_bad_rows=True)
        assert len(table.label) == 40 and table.skipped == 60


def test_skipping_rows_is_advised_only_for_few_rows_and_for_missing_labels(tmp_path):
    for word, advised in ((lambda index: index % 5 < 2, False), (lambda index: index % 25 == 2, True)):
        lines = [f"{['x', 'y', 'z'][index % 3] if word(index) else index},{index % 2}" for index in range(100)]
        path = write(tmp_path / "a.csv", lines, header="x,productive")
        assert ("--skip-bad-rows" in refusal(path, numeric=["x"])) == advised
        assert len(read(path, numeric=["x"], skip_bad_rows=True).label) == (96 if advised else 60)
    lines = [f"{index},{index % 2 if index % 5 > 1 else ''}" for index in range(100)]
    assert "--skip-bad-rows" in refusal(write(path, lines, header="x,productive"))
    lines = [f"{'word' if index % 2 else index},{index % 2}" for index in range(100)]  # of one class
    error = refusal(write(path, lines, header="x,productive"), numeric=["x"])
    assert "lines 3, 5, 7" in error and "--skip-bad-rows" not in error


GOOD = {
    "spaces after commas": ([row.replace(",", ", ") for row in rows()], {}),
    "quoted cells": ([",".join(f'"{cell}"' for cell in row.split(",")) for row in rows()], {}),
    "blank lines": ([line for row in rows() for line in (row, "")], {}),
    "a sign, an exponent, a point": (["-100,+0,0,0.0,1", "-101,1e1,1.,+6.0,1", *rows()[2:]], {"label": 21}),
    "labels of several kinds": (
        [row[:-1] + ("yes" if index % 4 == 1 else "TRUE" if index % 2 else "No") for index, row in enumerate(rows())],
        {},
    ),
    "ids longer than 64 bits": ([f"1234567890123456789{row[3:]}" for row in rows()], {}),
    "ids with leading zeros": ([f"00{row[3:]}" for row in rows()], {}),
    "ids written as reals": ([f"{row[3:].replace(',', '.0,', 1)}" for row in rows()], {}),
}


@pytest.mark.parametrize("case", GOOD)
def test_unusual_files_that_are_right(tmp_path, case):
    lines, expected = GOOD[case]
    table, plain = read(write(tmp_path / "a.csv", lines)), read(write(tmp_path / "b.csv", rows()))
    for name in ("keyboard_activity", "mouse_activity", "time_last_request"):
        np.testing.assert_allclose(table.numbers(name), plain.numbers(name), atol=1e-6)
    assert table.label.sum() == expected.get("label", plain.label.sum())
    assert (table.columns[0].kind, table.columns[0].distinct) == ("category", 3)


def test_bad_rows_can_be_left_out(tmp_path):
    lines = rows(60)
    lines[5], lines[10], lines[20] = "1,2,3,1", "1,many,3,4,1", "1,2,3,4,maybe"
    table = read(write(tmp_path / "a.csv", lines), skip_bad_rows=True)
    assert (len(table.label), table.read, table.skipped) == (57, 60, 3)
    assert table.notes == ["line 7: wrong number of fields, skipped", "lines 12, 22: invalid cells, skipped"]


def test_rows_of_a_class_are_called_by_the_label(tmp_path):
    for label, text in (("productive", "productive rows"), ("churn", "rows with churn = 1")):
        lines = [f"{row * 37 % 101},{int(row < 3)}" for row in range(1_200)]
        path = write(tmp_path / "a.csv", lines, header=f"x,{label}")
        few = f"too few {text}: 3 of 1,200, but at least 5 are needed; label more of them"
        assert refusal(path, label=label) == f"{path}: {few}"


def test_too_few_generated_rows():
    with pytest.raises(UserError) as error:
        generate_table(arguments(sample=5))
    assert str(error.value) == "--sample 5: only 5 usable rows, but at least 20 are needed; generate more rows"


def test_several_files_are_one_table(tmp_path):
    first = write(tmp_path / "b.csv", rows(30))
    second = write(tmp_path / "a.csv", [row.replace("-100", "-109") for row in rows(30)], header=None)
    table = read(first, second)
    one, two = read(first), read(second)
    for name in table.frame:
        assert cells_of(table, name) == cells_of(one, name) + cells_of(two, name)
    assert table.files.tolist() == [0] * 30 + [1] * 30 and table.names == ["b.csv", "a.csv"]
    assert table.line_numbers.tolist() == [*range(2, 32), *range(1, 31)]


def test_a_directory_is_read_in_the_order_of_names(tmp_path):
    write(tmp_path / "2.CSV", [row[:-1] + "1" for row in rows(25)])
    write(tmp_path / "1.csv", [row[:-1] + "0" for row in rows(20)])
    (tmp_path / "notes.txt").write_text("no table")
    assert read(tmp_path).label.tolist() == [0] * 20 + [1] * 25


def test_files_of_two_generations(tmp_path):
    older = write(tmp_path / "1.csv", rows(30))
    lines = [f"{'code' if row % 2 else 'web'},{row * 3},{-100 - row % 3},{row % 2}" for row in range(40)]
    newer = write(tmp_path / "2.csv", lines, header="app_name,idle_time,foreground_app,productive")
    table = read(older, newer)
    missing = {column.name: (column.kind, column.missing) for column in table.columns}
    assert missing["foreground_app"] == ("category", 0) and missing["app_name"] == ("category", 30)
    assert missing["idle_time"] == ("number", 30) and missing["keyboard_activity"] == ("number", 40)
    assert table.notes[0] == "1.csv: has no app_name, idle_time: these cells are missing in its rows"
    assert table.numbers("idle_time")[30:].tolist() == [3 * index for index in range(40)]


def test_a_table_of_the_label_alone_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("productive\n" + "0\n1\n" * 20)
    assert refusal(tmp_path / "a.csv").endswith("no column is left to learn from: the label is the only one")


def test_errors_name_the_file_among_several(tmp_path):
    good, bad = write(tmp_path / "1.csv", rows(30)), write(tmp_path / "2.csv", [*rows(5), "1,2,many,4,1", *rows(5)])
    assert refusal(good, bad).startswith(f"{bad}: line 7, column mouse_activity")
    table = read(good, bad, skip_bad_rows=True)
    assert (len(table.label), table.read, table.skipped) == (40, 41, 1)
    assert table.notes == ["2.csv: line 7: invalid cells, skipped"]
    assert "is listed twice" in refusal(good, good)
    assert f"{bad}: line 1 has no column productive" in refusal(good, write(bad, ["1,2"], header="a,b"))


def test_how_data_are_called():
    assert short_names(["/a/x.csv", "/a/y.csv"]) == ["x.csv", "y.csv"]
    assert short_names(["/a/b/x.csv", "/a/c/x.csv"]) == ["b/x.csv", "c/x.csv"]
    assert short_names(["/a/caf\udce9.csv"]) == ["caf\ufffd.csv"]
    assert name_files(["/a/x.csv", "b", "c"]) == "3 files, /a/x.csv to c"


def write_twins(path, names):
    """Columns a, b, c, d with the same cells, the last in another spelling; e and f differ from them in one cell."""
    lines = []
    for index in range(60):
        number, text = index % 7, "" if index % 5 == 0 else f"site{index % 9}"
        cells = {name: number - 3 if index else "" for name in ("b", "a", "c")}
        cells["d"] = "" if not index else f"{number - 3:+}.0" if index != 10 else "-0"
        cells |= {"e": cells["a"] if index else 9, "f": cells["a"] if index != 30 else 9}
        cells |= {"site": text, "also": text, "other": text if index != 21 else "site1"}
        lines.append(",".join([*(str(cells[name]) for name in names), str(index // 2 % 2)]))
    return write(path, lines, header=",".join([*names, "productive"]))


def test_columns_with_the_same_cells_are_read_once(tmp_path):
    names = ["b", "site", "a", "c", "e", "also", "d", "f", "other"]
    for order in (names, names[::-1]):
        table = read(write_twins(tmp_path / "a.csv", order), numeric=["a", "b", "c", "d", "e", "f"])
        assert {column.name: column.reason for column in table.of_kind("dropped")} == {
            "b": "identical to a",
            "c": "identical to a",
            "d": "identical to a",
            "site": "identical to also",
        }
        assert [*table.frame] == ["a", "also", "e", "f", "other"]
        assert np.isnan(table.numbers("a")).sum() == 1 and np.nanmax(table.numbers("e")) == 9


WORDS = ["code", "web", "TRUE", "true", "1.10", "1.1", "1e5", "01234", "1234", "nan", "NA", "null", "inf", "-0", "0"]
WORDS += ["größe", " padded ", "12345678901234567890", "-7", "5.0", "2026-01-31", "x" * 40, "0x1F", "1_000"]


def random_columns(chance, count=90):
    """Columns as tables have them, and some that change their nature late."""
    words = chance.sample(WORDS, 4)
    columns = {
        "words": [chance.choice(words) for _ in range(count)],
        "some words": [chance.choice(["", *words[:2]]) for _ in range(count)],
        "app_id": [chance.choice(["", "7", "8.0", "007", "-3"][: chance.randint(2, 5)]) for _ in range(count)],
        "decades": [repr(10 ** chance.uniform(-9, 9)) for _ in range(count)],
        "few": [chance.choice(["", "1", "2.50"]) for _ in range(count)],
        "late hash": [""] * (count - 12) + [str(chance.randrange(5)) for _ in range(12)],
        "late time": [""] * (count - 12) + [repr(chance.uniform(0, 1e4)) for _ in range(12)],
        "late flag": ["1"] * (count // 3) + ["TRUE"] * (count - count // 3),
        "late text": ["1"] * (count // 3) + ["word"] * (count - count // 3),
        "row": [str(place) for place in range(count)],
    }
    return columns | {"productive": [str(chance.randrange(2)) for _ in range(count)]}


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 60))])
def test_kinds_do_not_depend_on_the_order_of_rows(tmp_path, monkeypatch, seed):
    """Also when the first rows, and whole chunks, hold nothing but empty cells, numbers, or 0 and 1."""
    monkeypatch.setattr(csv_file, "GUESS_ROWS", 8)
    monkeypatch.setattr(csv_file, "CHUNK_ROWS", 16)
    chance = random.Random(seed)
    columns = random_columns(chance)
    count = len(columns["productive"])
    tables = []
    for order in ([*range(count)], chance.sample(range(count), count), [*range(count)][::-1]):
        path = write_columns(tmp_path / f"{len(tables)}.csv", columns, order, quoted=chance.random() < 0.3)
        tables.append(read(path, split="random", categorical=["words", "some words"]))
    for table in tables:
        found = kinds(table)
        assert found["late hash"][0] == "category" and found["late time"] == found["decades"] == ("number", "")
        assert found["late text"] == found["late flag"] == ("category", "text")
        assert found["row"] == ("dropped", "a row number")
        words = column_of(table, "words")
        assert words.integers or words.vocabulary == sorted({word.strip() for word in columns["words"]})
        assert table.columns == tables[0].columns and table.frame.equals(tables[0].frame)
        np.testing.assert_array_equal(table.label, tables[0].label)


def test_rows_of_categories_that_are_equal_as_numbers_have_one_order(tmp_path):
    rows = [f"{text},{index % 3},{index % 2}" for index in range(15) for text in ("12", "012", "12.0", "")]
    tables = [
        read(write(tmp_path / "a.csv", order, header="text,levels,productive"), split="random", categorical=["text"])
        for order in (rows, rows[::-1], sorted(rows))
    ]
    assert column_of(tables[0], "text").vocabulary == ["", "012", "12", "12.0"]
    for table in tables[1:]:
        assert table.frame.equals(tables[0].frame) and np.array_equal(table.label, tables[0].label)


def test_what_is_printed_of_a_table(tmp_path):
    lines = [f"{index % 4},{index % 3 or ''},{index},word{index % 2},{int(index % 5 > 1)}" for index in range(300)]
    path = write(tmp_path / "a.csv", [*lines, "1,2"], header="levels,app,row,text,productive")
    args = arguments(path, skip_bad_rows=True)
    table = read_table(args)[0]
    hint = "few distinct whole numbers; use --categorical levels if they are codes of categories"
    assert describe(args, table) == [
        "Data       a.csv: 300 rows (1 skipped)",
        "           note: line 302: wrong number of fields, skipped",
        "Label      productive: 1 in 60.0% of rows, 0 in 40.0%",
        "Numbers    levels",
        "Categories app (2 values) (100 missing), text (2 values)",
        "Left out   row (a row number)",
        f"           hint: levels: {hint}",
    ]
    assert describe_columns(table) == [
        "column  kind       distinct   missing  values",
        "app     category          2       100  most frequent (missing), in 33.3% of rows",
        f"levels  number            4         0  0 to 3, median 1.5; {hint}",
        "row     dropped         300         0  a row number",
        "text    category          2         0  most frequent word0, in 50.0% of rows",
    ]
    args = arguments(sample=60)
    table, time = generate_table(args)
    assert describe(args, table)[0] == "Data       60 generated rows"
    assert len(describe_split(args, table, make_splits(args, table.label, 1), time)) == 1


def test_columns_that_are_never_read_are_not_counted(tmp_path):
    """Texts of times are known by their name and first cells; what is left out by a flag is read."""
    lines = [f"{index},2026-01-31 10:{index:02d},{index * 7 % 5},{index % 2}" for index in range(40)]
    path = write(tmp_path / "a.csv", lines, header="x,Date,y,productive")
    _, date, _, dropped = describe_columns(read(path, drop=["y"], numeric=["x"], split="random"))
    assert date.split() == ["Date", "dropped", "a", "timestamp"]
    assert dropped.split() == ["y", "dropped", "5", "0", "--drop"]


def test_all_generations_have_the_header_of_the_first():
    assert HEADER.split(",") == csv_file.V0_COLUMNS
