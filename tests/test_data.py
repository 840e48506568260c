"""Reading: every generation of file, what is refused and what is left out, the split and the encoding."""

import os

import numpy as np
import pytest

import train_model_modern as modern
from train_model_modern import UserError

HEADER = "foreground_app,keyboard_activity,mouse_activity,time_last_request,productive"


def rows(count=40):
    return [f"{-100 - index % 3},{index * 10},{index},{1000 * index % 7},{index % 2}" for index in range(count)]


def write(path, lines, end="\n", header=HEADER):
    text = "\n".join(([header] if header else []) + lines) + end
    path.write_text(text, encoding="utf-8")
    return path


def read(path, *flags):
    """The table of a file, its rows in the order of the lines."""
    return modern.read_table(modern.parse_options([str(path), *flags, "--split", "time"]))


def test_headerless_2017(tmp_path):
    table = read(write(tmp_path / "a.csv", rows(), header=None))
    assert [(column.name, column.kind) for column in table.columns] == [
        ("foreground_app", "category"),
        ("keyboard_activity", "number"),
        ("mouse_activity", "number"),
        ("time_last_request", "number"),
    ]
    assert table.numbers.shape == (40, 3) and table.codes.shape == (40, 1)
    assert sorted(table.columns[0].vocabulary) == [-102, -101, -100]
    assert table.label.tolist() == [index % 2 for index in range(40)]
    assert table.numbers[:, 0].tolist() == [index * 10 for index in range(40)]
    assert table.lines.tolist() == list(range(1, 41))


def test_header_gives_the_same_table(tmp_path):
    with_header, without = read(write(tmp_path / "a.csv", rows())), read(write(tmp_path / "b.csv", rows(), header=None))
    np.testing.assert_array_equal(with_header.numbers, without.numbers)
    np.testing.assert_array_equal(with_header.codes, without.codes)


@pytest.mark.parametrize("text", ["0 1", "0.0 1.0", "false true", "False TRUE", "no yes"])
def test_ways_to_write_a_label(tmp_path, text):
    zero, one = text.split()
    lines = [row[:-1] + (one if row.endswith("1") else zero) for row in rows()]
    assert read(write(tmp_path / "a.csv", lines)).label.sum() == 20


def test_neighbouring_hashes_stay_apart(tmp_path):
    lines = [f"{3735928559 + index % 2},{index},{index},{index % 5},{index // 2 % 2}" for index in range(40)]
    table = read(write(tmp_path / "a.csv", lines))
    assert table.columns[0].vocabulary == [3735928559, 3735928560]


def test_missing_cells_are_kept(tmp_path):
    lines = rows()
    lines[3], lines[4] = ",30,3,4,1", "-100,,4,5,0"
    table = read(write(tmp_path / "a.csv", lines))
    assert len(table.label) == 40 and np.isnan(table.numbers[4, 0]) and np.isnan(table.numbers).sum() == 1
    assert table.columns[0].vocabulary[table.codes[3, 0]] == modern.MISSING
    assert (table.columns[0].missing, table.columns[1].missing) == (1, 1)


def test_older_rows_with_empty_newer_columns(tmp_path):
    header = "foreground_app,idle_time,newer_number,newer_app,productive"
    lines = [
        f"{index % 3},{index * 7},"
        + (",," if index < 30 else f"{index * 2},{'code' if index % 2 else 'web'},")
        + f"{index % 2}"
        for index in range(60)
    ]
    table = read(write(tmp_path / "a.csv", lines, header=header))
    kinds = {column.name: (column.kind, column.missing) for column in table.columns}
    assert kinds["newer_number"] == ("number", 30) and kinds["newer_app"] == ("category", 30)


def test_columns_empty_in_the_first_rows_of_a_long_file(tmp_path):
    header = "foreground_app,idle_time,late,productive"
    count = modern.GUESS_ROWS + 500
    lines = [
        f"{index % 3},{index * 7 % 1000},{'' if index < modern.GUESS_ROWS + 100 else index % 9},{index % 2}"
        for index in range(count)
    ]
    table = read(write(tmp_path / "a.csv", lines, header=header))
    assert next(column for column in table.columns if column.name == "late").kind == "number"
    assert np.nanmax(table.numbers[:, -1]) == 8


def test_columns_that_teach_nothing_are_left_out_with_a_reason(tmp_path):
    header = "timestamp,row,empty,same,title,when,foreground_app,distinct_apps_300s,productive"
    lines = [
        f"{1795081854 + index},{index},,7,title {index},2026-01-01 10:{index:02d},{index % 4},{index % 5},{index % 2}"
        for index in range(40)
    ]
    table = read(write(tmp_path / "a.csv", lines, header=header))
    reasons = {column.name: column.reason for column in table.of_kind("dropped")}
    assert reasons == {
        "timestamp": "a timestamp",
        "row": "a row number",
        "empty": "empty",
        "same": "constant",
        "title": "nearly all values distinct",
        "when": "a timestamp",
    }
    assert [column.name for column in table.of_kind("category")] == ["foreground_app"]
    assert [column.name for column in table.of_kind("number")] == ["distinct_apps_300s"]


def test_flags_overrule_kinds(tmp_path):
    path = write(tmp_path / "a.csv", rows())
    table = read(path, "--categorical", "time_last_request", "--numeric", "foreground_app", "--drop", "mouse_activity")
    assert [(column.name, column.kind) for column in table.columns] == [
        ("foreground_app", "number"),
        ("keyboard_activity", "number"),
        ("mouse_activity", "dropped"),
        ("time_last_request", "category"),
    ]


def test_another_label_and_quoted_text(tmp_path):
    lines = [f'"app, number {index % 3}","{index}",{"yes" if index % 2 else "no"}' for index in range(0, 80, 1)]
    table = read(
        write(tmp_path / "a.csv", lines, header='"window","seconds","done"'), "--label", "done", "--numeric", "seconds"
    )
    assert table.of_kind("category")[0].vocabulary == ["app, number 0", "app, number 1", "app, number 2"]


def test_torn_last_line_repeated_header_and_blank_lines(tmp_path):
    lines = [*rows(30), HEADER, "", *rows(10), "-100,5,"]
    table = read(write(tmp_path / "a.csv", lines, end=""))
    assert len(table.label) == 40
    assert table.notes == ["line 44, the last, is cut off and left out", "line 32: the header again, left out"]
    torn_label = read(write(tmp_path / "b.csv", [*rows(), "-100,5,5,5,"], end=""))
    assert len(torn_label.label) == 40 and "cut off" in torn_label.notes[0]


def test_windows_line_ends_byte_order_mark_and_no_last_line_end(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([HEADER, *rows()]).encode())
    assert len(read(path).label) == 40


def replaced(place, text):
    lines = rows()
    lines[place] = text
    return lines


BAD_LINES = {
    "too few fields": (replaced(5, "1,2,3,1"), "line 7: 4 fields where 5"),
    "too many fields": (replaced(5, "1,2,3,4,5,1"), "line 7: 6 fields where 5"),
    "too many fields in the first row": (replaced(0, "1,2,3,4,5,1"), "line 2: 6 fields where 5"),
    "decimal comma": (replaced(5, "1,2,5,3,4,1"), "line 7: 6 fields"),
    "label missing": (replaced(5, "1,2,3,4,"), "line 7, column productive"),
    "label 2": (replaced(5, "1,2,3,4,2"), "line 7, column productive"),
    "label text": (replaced(5, "1,2,3,4,maybe"), "line 7, column productive"),
    "label 0.5": (replaced(5, "1,2,3,4,0.5"), "line 7, column productive"),
    "text in a number": (replaced(5, "1,many,3,4,1"), "line 7, column keyboard_activity"),
    "not available in a number": (replaced(5, "1,NA,3,4,1"), "line 7, column keyboard_activity"),
    "infinity": (replaced(5, "1,2,inf,4,1"), "line 7, column mouse_activity"),
    "negative infinity": (replaced(5, "1,2,-Infinity,4,1"), "line 7, column mouse_activity"),
    "beyond a double": (replaced(5, "1,2,1e999,4,1"), "line 7, column mouse_activity"),
    "hexadecimal": (replaced(5, "1,2,0x1F,4,1"), "line 7, column mouse_activity"),
    "two bad lines": ([*replaced(5, "1,2,3,1")[:-1], "1,2"], "lines 7, 41: 4 fields"),
    "nineteen rows": (rows(19), "19 usable rows"),
    "one class": ([row[:-1] + "0" for row in rows()], "few productive rows: 0 of 40"),
    "four of a class": ([row[:-1] + str(int(index < 4)) for index, row in enumerate(rows())], "rows: 4 of 40"),
    "header only": ([], "no rows after the header"),
    "semicolon rows": ([row.replace(",", ";") for row in rows()], "1 field where 5"),
    "spaces for a row": (replaced(5, "   "), "line 7: 1 field "),
    "open quote": (replaced(5, '"1,2,3,4,1'), "line 7: unexpected end"),
    "quote within a cell": (replaced(5, '1,2"3,3,4,1'), "line 7, column keyboard_activity"),
    "text after a quote": (replaced(5, '1,"2"3,3,4,1'), "line 7: "),
    "label not a number": (replaced(5, "1,2,3,4,nan"), "line 7, column productive"),
    "label -1": (replaced(5, "1,2,3,4,-1"), "line 7, column productive"),
    "label 10": (replaced(5, "1,2,3,4,10"), "line 7, column productive"),
    "label y": (replaced(5, "1,2,3,4,y"), "line 7, column productive"),
    "thousands separated by a space": (replaced(5, "1,2 000,3,4,1"), "line 7, column keyboard_activity"),
    "thousands separated by a quote": (replaced(5, "1,2'000,3,4,1"), "line 7, column keyboard_activity"),
    "a unit": (replaced(5, "1,200ms,3,4,1"), "line 7, column keyboard_activity"),
    "a share": (replaced(5, "1,5%,3,4,1"), "line 7, column keyboard_activity"),
    "a time of day": (replaced(5, "1,12:30,3,4,1"), "line 7, column keyboard_activity"),
    "two signs": (replaced(5, "1,--5,3,4,1"), "line 7, column keyboard_activity"),
    "two points": (replaced(5, "1,1.2.3,3,4,1"), "line 7, column keyboard_activity"),
    "a formula": (replaced(5, "1,=A1+1,3,4,1"), "line 7, column keyboard_activity"),
    "a question mark": (replaced(5, "1,?,3,4,1"), "line 7, column keyboard_activity"),
    "digits of another script": (replaced(5, "1,\u0661\u0662,3,4,1"), "line 7, column keyboard_activity"),
    "wide digits": (replaced(5, "1,\uff11\uff12,3,4,1"), "line 7, column keyboard_activity"),
    "a minus of typography": (replaced(5, "1,\u22125,3,4,1"), "line 7, column keyboard_activity"),
    "columns out of step": ([",".join(reversed(row.split(","))) for row in rows()], "column productive"),
    "a trailing comma in every row": ([row + "," for row in rows()], "lines 2, 3, 4, 5, 6 and 35 more: 6 fields"),
    "a second header of other names": (replaced(5, "a,b,c,d,e"), "line 7, column"),
    "merge conflict": (replaced(5, "<<<<<<< HEAD"), "line 7: 1 field "),
    "a total at the end": ([*rows(), "Total,,,,40"], "line 42, column"),
    "a comment": (replaced(5, "# restarted"), "line 7: 1 field "),
    "five of a class in empty labels": (
        [row[:-1] + ("" if index % 2 else "0") for index, row in enumerate(rows())],
        "column productive",
    ),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_lines_are_refused_with_their_place(tmp_path, capsys, case):
    lines, message = BAD_LINES[case]
    refused(capsys, write(tmp_path / "a.csv", lines), message)


def refused(capsys, path, message):
    """The command ends with 2 and one line that names the file, and leaves nothing behind."""
    before = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.exists() else []
    assert modern.main([str(path), "--model-dir", str(path.parent / "model")]) == 2
    shown = capsys.readouterr()
    assert (
        shown.out == "" and shown.err.startswith("error: ") and shown.err.count("\n") == 1 and shown.err.endswith("\n")
    )
    assert message in shown.err and str(path) in shown.err, shown.err
    assert not path.parent.exists() or sorted(entry.name for entry in path.parent.iterdir()) == before


BAD_BYTES = {
    "empty": (b"", "the file is empty"),
    "utf-16": ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
    "gzip": (b"\x1f\x8b\x08\x00rest", "compressed"),
    "zip": (b"PK\x03\x04rest", "compressed"),
    "semicolons": (HEADER.replace(",", ";").encode() + b"\n1;2;3;4;1\n", "semicolons"),
    "tabs": (HEADER.replace(",", "\t").encode() + b"\n1\t2\t3\t4\t1\n", "tabs"),
    "carriage returns": (HEADER.encode() + b"\r1,2,3,4,1\r", "carriage return"),
    "NUL": (HEADER.encode() + b"\n1,2,3,4,1\n1,\0,3,4,1\n", "line 3 holds a NUL"),
    "latin-1": (
        (HEADER + "\n" + "\n".join([*rows(), "caf\xe9,1,1,1,1"]) + "\n").encode("latin-1"),
        "line 42 is not UTF-8",
    ),
    "duplicate column": (b"a,b,a,productive\n1,2,3,1\n", "names the column a twice"),
    "no label column": (b"a,b,c\n1,2,3\n", "no column productive"),
    "seven numbers, no header": (b"1,2,3,4,5,6,7\n", "no column names"),
    "slash in a name": (b"a/b,c,productive\n1,2,1\n", "'a/b'"),
    "only blank lines": (b"\n\n\n", "line 1 is empty"),
    "utf-16 without a mark": ("a,b,productive\n1,2,1\n".encode("utf-16-le"), "line 1 holds a NUL"),
    "utf-32": ("a,b\n1,2\n".encode("utf-32"), "UTF-16"),
    "a spreadsheet": (b"PK\x03\x04\x14\0\x06\0xl/workbook.xml", "compressed"),
    "parquet": (b"PAR1\x15\x04\0\0rest", "line 1 holds a NUL"),
    "bzip2": (b"BZh91AY&SY\xb5\x0c\0rest", "NUL byte"),
    "a page": (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "no column productive"),
    "json": (b'[{"foreground_app": 1, "productive": 0},\n{"foreground_app": 2, "productive": 1}]\n', "line 1: "),
    "a path in place of the file": (b"/home/user/HARVEST.CSV\n", "holds a slash"),
    "bars": (HEADER.replace(",", "|").encode() + b"\n1|2|3|4|1\n", "bars"),
    "label in capitals": (b"app,idle,PRODUCTIVE\n1,2,1\n", "no column productive"),
    "label twice": (b"app,productive,productive\n1,2,1\n", "names the column productive twice"),
    "a control sign in a name": (b"app,id\x07le,productive\n1,2,1\n", "unprintable"),
    "a header of empty names": (b",,,,\n1,2,3,4,1\n", "line 1"),
    "three numbers, no header": (b"1,2,1\n", "line 1 has 3 numbers"),
    "a lone number": (b"1\n", "line 1 has 1 numbers"),
    "a very long line": (HEADER.encode() + b"\n" + b"1," * (100 << 19), "longer than 64 MB"),
    "an open quote before much text": (HEADER.encode() + b'\n"' + b"1,2,3,4,1\n" * 10_000, "line 2: "),
    "NUL at the end": (HEADER.encode() + b"\n1,2,3,4,1\n\0\0\0\0", "line 3 holds a NUL"),
    "text cut within a sign": (
        HEADER.encode() + b"\n" + "\n".join(rows()).encode() + b"\n1,2,3,4,\xc3",
        "line 42 is not UTF-8",
    ),
}


@pytest.mark.parametrize("case", BAD_BYTES)
def test_bad_files_are_refused(tmp_path, capsys, case):
    content, message = BAD_BYTES[case]
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    refused(capsys, path, message)


def test_not_a_file(tmp_path, capsys, monkeypatch):
    refused(capsys, tmp_path / "absent.csv", "no such file")
    refused(capsys, tmp_path / "a.csv" / "b.csv", "no such file")
    (tmp_path / "folder").mkdir()
    refused(capsys, tmp_path / "folder", "is a directory")
    os.mkfifo(tmp_path / "pipe")
    refused(capsys, tmp_path / "pipe", "not a regular file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(capsys, tmp_path / "loop", "no such file")
    secret = write(tmp_path / "secret.csv", rows())

    def denied(path, *_, **__):  # the tests may run as root, whom no mode keeps out
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(modern, "open", denied, raising=False)
    refused(capsys, secret, "Permission denied")


GOOD = {
    "spaces after commas": ([row.replace(",", ", ") for row in rows()], {}),
    "quoted cells": ([",".join(f'"{cell}"' for cell in row.split(",")) for row in rows()], {}),
    "blank lines": ([line for row in rows() for line in (row, "")], {}),
    "a sign, an exponent, a point": (["-100,+0,0,0.0,1", "-101,1e1,1.,+6.0,1", *rows()[2:]], {"label": 21}),
    "labels of several kinds": (
        [row[:-1] + ("yes" if index % 4 == 1 else "TRUE" if index % 2 else "No") for index, row in enumerate(rows())],
        {},
    ),
    "ids longer than 64 bits": (
        [f"1234567890123456789{index % 3},{row.split(',', 1)[1]}" for index, row in enumerate(rows())],
        {"categories": 3},
    ),
    "ids with leading zeros": (
        [f"00{index % 3},{row.split(',', 1)[1]}" for index, row in enumerate(rows())],
        {"categories": 3},
    ),
    "ids written as reals": (
        [f"{index % 3}.0,{row.split(',', 1)[1]}" for index, row in enumerate(rows())],
        {"categories": 3},
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_unusual_files_that_are_right(tmp_path, case):
    lines, expected = GOOD[case]
    table, plain = read(write(tmp_path / "a.csv", lines)), read(write(tmp_path / "b.csv", rows()))
    np.testing.assert_allclose(table.numbers, plain.numbers, atol=1e-6)
    assert table.label.sum() == expected.get("label", plain.label.sum())
    assert table.columns[0].kind == "category" and table.columns[0].distinct == expected.get("categories", 3)


def test_bad_rows_can_be_left_out(tmp_path):
    lines = rows(60)
    lines[5], lines[10], lines[20] = "1,2,3,1", "1,many,3,4,1", "1,2,3,4,maybe"
    table = read(write(tmp_path / "a.csv", lines), "--skip-bad-rows")
    assert (len(table.label), table.read, table.skipped) == (57, 60, 3)
    assert table.notes == ["line 7: wrong number of fields, left out", "lines 12, 22: unusable values, left out"]


def test_split_is_stratified_seeded_and_whole():
    label = np.array([0] * 70 + [1] * 30, np.float32)
    split = modern.split_rows(label, "random", 7)
    assert sorted(np.concatenate(split).tolist()) == list(range(100))
    assert [len(part) for part in split] == [72, 14, 14]
    assert [label[part].sum() for part in split] == [22, 4, 4]
    assert all((one == other).all() for one, other in zip(split, modern.split_rows(label, "random", 7), strict=True))
    assert (split.training != modern.split_rows(label, "random", 8).training).any()
    by_time = modern.split_rows(label, "time", 7)
    assert by_time.training.max() < by_time.validation.min() and by_time.validation.max() < by_time.test.min()


def test_encoder_learns_from_training_rows_only(tmp_path):
    table = read(write(tmp_path / "a.csv", rows()))
    training = np.arange(20, dtype=np.int32)
    split = modern.Split(training, training[:0], training[:0])
    _, (before,), _ = modern.fit_encoding(table, [split])
    table.numbers[20:] = 1e6
    table.codes[20:] = 0
    _, (after,), _ = modern.fit_encoding(table, [split])
    np.testing.assert_array_equal(before.center, after.center)
    np.testing.assert_array_equal(before.scale, after.scale)
    np.testing.assert_array_equal(before.places, after.places)


def test_unseen_and_rare_categories(tf, tmp_path, monkeypatch):
    lines = rows()
    lines[0], lines[39] = "-555,1,1,1,0", "-777,1,1,1,1"
    table = read(write(tmp_path / "a.csv", lines))
    training = np.arange(39, dtype=np.int32)

    def encoded():
        encoding, (encoder,), features = modern.fit_encoding(
            table, [modern.Split(training, training[:0], training[:0])]
        )
        return modern.encode(*features.take(np.array([0, 39, 1])), encoding, encoder).numpy()[
            :, 3 : encoding.linear_width
        ]

    seen, unseen, other = encoded()
    assert seen.sum() == other.sum() == 1 and seen.argmax() != other.argmax() and unseen.sum() == 0
    monkeypatch.setattr(modern, "MAXIMUM_CATEGORIES", 2)  # the others share a place with what is unseen
    rare, unseen, other = encoded()
    assert len(rare) == 3 and rare[2] == unseen[2] == 1 and other[2] == 0 and other.sum() == 1


def test_large_files_are_read_in_pieces(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", rows(500))
    whole = read(path)
    monkeypatch.setattr(modern, "CHUNK_ROWS", 64)
    monkeypatch.setattr(modern, "BLOCK_BYTES", 100)
    pieces = read(path)
    np.testing.assert_array_equal(whole.numbers, pieces.numbers)
    np.testing.assert_array_equal(whole.codes, pieces.codes)
    np.testing.assert_array_equal(whole.label, pieces.label)


def test_folds_are_stratified_and_cover_all_rows():
    label = np.array([0] * 73 + [1] * 31, np.float32)
    splits = modern.split_folds(label, 10, 7)
    assert sorted(np.concatenate([split.test for split in splits]).tolist()) == list(range(104))
    for number, split in enumerate(splits):
        assert sorted(np.concatenate(split).tolist()) == list(range(104))
        np.testing.assert_array_equal(split.validation, splits[(number + 1) % 10].test)
        assert 10 <= len(split.test) <= 11 and 3 <= label[split.test].sum() <= 4


def test_folds_share_one_layout(tf, tmp_path):
    lines = [f"{index // 4},{index},{index},{index % 5},{index % 2}" for index in range(80)]
    table = read(write(tmp_path / "a.csv", lines))
    encoding, encoders, features = modern.fit_encoding(table, modern.split_folds(table.label, 5, 1))
    assert {len(encoder.places) for encoder in encoders} == {1 + len(encoding.known[0])}
    together = np.stack([encoder.places for encoder in encoders])
    assert all(len(set(column[column >= 0])) <= 1 for column in together.T)
    widths = {modern.encode(*features.take(np.arange(3)), encoding, encoder).shape[1] for encoder in encoders}
    assert widths == {encoding.width}


def test_several_files_are_one_table(tmp_path):
    first = write(tmp_path / "b.csv", rows(30))
    second = write(tmp_path / "a.csv", rows(30), header=None)
    table = read(first, str(second))
    one, two = read(first), read(second)
    np.testing.assert_array_equal(table.numbers, np.concatenate([one.numbers, two.numbers]))
    np.testing.assert_array_equal(table.label, np.concatenate([one.label, two.label]))
    values = [table.columns[0].vocabulary[code] for code in table.codes[:, 0]]
    assert values == [part.columns[0].vocabulary[code] for part in (one, two) for code in part.codes[:, 0]]


def test_a_directory_is_read_in_the_order_of_names(tmp_path):
    folder = tmp_path / "harvests"
    folder.mkdir()
    write(folder / "2.CSV", [row[:-1] + "1" for row in rows(25)])
    write(folder / "1.csv", [row[:-1] + "0" for row in rows(20)])
    (folder / "notes.txt").write_text("no table")
    assert read(folder).label.tolist() == [0] * 20 + [1] * 25


def test_files_of_two_generations(tmp_path):
    older = write(tmp_path / "1.csv", rows(30))
    header = "app_name,idle_time,foreground_app,productive"
    newer = write(
        tmp_path / "2.csv",
        [f"{'code' if index % 2 else 'web'},{index * 3},{-100 - index % 3},{index % 2}" for index in range(40)],
        header=header,
    )
    table = read(older, str(newer))
    missing = {column.name: (column.kind, column.missing) for column in table.columns}
    assert missing["foreground_app"] == ("category", 0) and missing["app_name"] == ("category", 30)
    assert missing["idle_time"] == ("number", 30) and missing["keyboard_activity"] == ("number", 40)
    assert any("1.csv: has no app_name, idle_time: missing in its rows" in note for note in table.notes)
    place = [column.name for column in table.of_kind("number")].index("idle_time")
    assert table.numbers[30:, place].tolist() == [3 * index for index in range(40)]


def test_errors_name_the_file_among_several(tmp_path):
    good, bad = write(tmp_path / "1.csv", rows(30)), write(tmp_path / "2.csv", [*rows(5), "1,2,many,4,1", *rows(5)])
    with pytest.raises(UserError, match=r"2\.csv: line 7, column mouse_activity"):
        read(good, str(bad))
    table = read(good, str(bad), "--skip-bad-rows")
    assert (len(table.label), table.read, table.skipped) == (40, 41, 1)
    with pytest.raises(UserError, match="was given twice"):
        read(good, str(good))
    with pytest.raises(UserError, match=r"2\.csv: line 1 has no column productive"):
        read(good, str(write(tmp_path / "2.csv", ["1,2"], header="a,b")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"without a \.csv file"):
        read(tmp_path / "empty")


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", rows(40))
    find = modern.find_source

    def then(change):
        def found(*arguments):
            source = find(*arguments)
            change()
            return source

        monkeypatch.setattr(modern, "find_source", found)

    then(lambda: path.open("a").write("\n".join(rows(3_000)) + "\n"))
    assert len(read(path).label) == 40  # what the harvester appends meanwhile waits for the next run
    then(lambda: write(path, rows(30)))
    with pytest.raises(UserError, match="changed while it was read"):
        read(path)
    for change in (lambda: path.write_text(""), path.unlink):
        write(path, rows(40))
        then(change)
        with pytest.raises(UserError, match="changed while it was read"):
            read(path)
