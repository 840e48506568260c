"""Files: which are read, what is refused with its place, and cells that keep their meaning however they are read."""

import os
import random
from itertools import pairwise

import numpy as np
import pytest
from table_files import HEADER, cells_of, column_of, read, rows, write, write_columns

from harvest.cli import UserError
from harvest.data import csv_file
from harvest.data.cells import parse_number
from harvest.data.csv_file import ByteRange, find_files, open_csv, read_columns, read_once

NUMBERS = "has no column names; save the table with its column names"
BAD_BYTES = {
    "empty": (b"", "the file is empty; give a file with a header and rows"),
    "utf-16": ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
    "gzip": (b"\x1f\x8b\x08\x00rest", "compressed"),
    "zip": (b"PK\x03\x04rest", "compressed"),
    "semicolons": (HEADER.replace(",", ";").encode() + b"\n1;2;3;4;1\n", "semicolons"),
    "tabs": (HEADER.replace(",", "\t").encode() + b"\n1\t2\t3\t4\t1\n", "tabs"),
    "bars": (HEADER.replace(",", "|").encode() + b"\n1|2|3|4|1\n", "bars"),
    "carriage returns": (HEADER.encode() + b"\r1,2,3,4,1\r", "line 1 ends with a bare carriage return"),
    "a carriage return in a row": (HEADER.encode() + b"\n1,2,\r3,4,1\n", "line 2 contains a carriage return"),
    "NUL": (HEADER.encode() + b"\n1,2,3,4,1\n1,\0,3,4,1\n", "line 3 contains a NUL"),
    "NUL at the end": (HEADER.encode() + b"\n1,2,3,4,1\n\0\0\0\0", "line 3 contains a NUL"),
    "latin-1": (
        (HEADER + "\n" + "\n".join([*rows(), "caf\xe9,1,1,1,1"]) + "\n").encode("latin-1"),
        "line 42 is not UTF-8",
    ),
    "latin-1 in quotes": (HEADER.encode() + b'\n1,2,3,4,1\n"caf\xe9",1,1,1,1\n', "line 3 is not UTF-8"),
    "text cut within a sign": (
        HEADER.encode() + b"\n" + "\n".join(rows()).encode() + b"\n1,2,3,4,\xc3",
        "line 42 is not UTF-8",
    ),
    "duplicate column": (b"a,b,a,productive\n1,2,3,1\n", "names the column a twice"),
    "label twice": (b"app,productive,productive\n1,2,1\n", "names the column productive twice"),
    "no label column": (b"a,b,c\n1,2,3\n", "no column productive"),
    "label in capitals": (b"app,idle,PRODUCTIVE\n1,2,1\n", "no column productive"),
    "seven numbers, no header": (b"1,2,3,4,5,6,8\n", f"line 1 (1,2,3,4,5,...) {NUMBERS}"),
    "three numbers, no header": (b"1,2,1\n", f"line 1 (1,2,1) {NUMBERS}"),
    "a lone number": (b"1\n", f"line 1 (1) {NUMBERS}"),
    "slash in a name": (b"a/b,c,productive\n1,2,1\n", "'a/b'"),
    "a control sign in a name": (b"app,id\x07le,productive\n1,2,1\n", "unprintable"),
    "a long name": (b"a" * 501 + b",productive\n1,1\n", "line 1, column 1: the name has 501 characters"),
    "a header of empty names": (b",,,,\n1,2,3,4,1\n", f"line 1 (,,,,) {NUMBERS}"),
    "pandas' numbers": (b"0,1,2,3,4\n5,6,7,8,1\n", f"line 1 (0,1,2,3,4) {NUMBERS}"),
    "pandas' numbers and index": (b",0,1,2,3,4\n0,5,6,7,8,1\n", f"line 1 (,0,1,2,3,...) {NUMBERS}"),
    "pandas' numbers in quotes": (b'"0.0","1.0","2.0"\n5,6,1\n', f"line 1 (0.0,1.0,2.0) {NUMBERS}"),
    "numbers from 1": (b"1,2,3,4,5,6,7\n7,6,5,4,3,2,1\n", f"line 1 (1,2,3,4,5,...) {NUMBERS}"),
    "numbers from 1 and index": (b",1,2,3\n1,5,6,1\n", f"line 1 (,1,2,3) {NUMBERS}"),
    "only blank lines": (b"\n\n\n", "line 1 is empty"),
    "utf-16 without a mark": ("a,b,productive\n1,2,1\n".encode("utf-16-le"), "line 1 contains a NUL"),
    "utf-32": ("a,b\n1,2\n".encode("utf-32"), "UTF-16"),
    "a spreadsheet": (b"PK\x03\x04\x14\0\x06\0xl/workbook.xml", "compressed"),
    "parquet": (b"PAR1\x15\x04\0\0rest", "line 1 contains a NUL"),
    "bzip2": (b"BZh91AY&SY\xb5\x0c\0rest", "NUL byte"),
    "a page": (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "no column productive"),
    "json": (b'[{"foreground_app": 1, "productive": 0},\n{"foreground_app": 2, "productive": 1}]\n', "line 1: "),
    "a path instead of the file": (b"/home/user/HARVEST.CSV\n", "contains a slash"),
    "an open quote before much text": (HEADER.encode() + b'\n"' + b"1,2,3,4,1\n" * 10_000, "line 2: "),
}


def refusal(*paths, **flags) -> str:
    with pytest.raises(UserError) as error:
        read(*paths, **flags)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("case", BAD_BYTES)
def test_bad_files_are_refused(tmp_path, case):
    content, message = BAD_BYTES[case]
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    error = refusal(path)
    assert error.startswith(f"{path}: ") and message in error


def test_a_very_long_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "LONGEST_LINE", 1_000)
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 300)
    path = write(tmp_path / "a.csv", [*rows(), "1," * 700])
    assert "line 42 is longer than 64 MB; this is not a HARVEST.CSV" in refusal(path)


def test_not_a_file(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    write(tmp_path / "a.csv", rows())
    absent = "no such file; check the path, or try train_model_modern.py --sample, which needs no file"
    for name, message in {
        "absent.csv": absent,
        "a.csv/b.csv": absent,
        "folder": "is a directory without .csv files; give a CSV file",
        "pipe": "is not a regular file; save its contents to a file first",
        "loop": absent,
    }.items():
        assert refusal(tmp_path / name) == f"{tmp_path / name}: {message}"
    with pytest.raises(UserError, match=r"is a directory; give a file$"):
        open_csv(str(tmp_path / "folder"), False)
    with pytest.raises(UserError, match=r"no such file; check the path$"):
        open_csv(str(tmp_path / "absent.csv"), False, unlabelled=True)

    def denied(path, *_, **__):  # the tests may run as root, whom no mode keeps out
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(csv_file, "open", denied, raising=False)
    assert refusal(tmp_path / "a.csv").endswith("Permission denied; make the file readable, or use a copy of it")


def test_which_files_are_read(tmp_path):
    folder = tmp_path / "harvests"
    folder.mkdir()
    for count, name in enumerate(("2.CSV", "1.csv", "notes.txt"), 40):
        write(folder / name, rows(count))
    paths = [str(tmp_path / "absent.csv"), str(folder)]
    assert find_files(paths) == [paths[0], str(folder / "1.csv"), str(folder / "2.CSV")]
    (tmp_path / "link.csv").symlink_to(folder / "1.csv")
    for first, second, fault in (
        (folder, folder / "2.CSV", "is listed twice"),
        (folder / "1.csv", tmp_path / "link.csv", f"has the same content as {folder / '1.csv'}"),
    ):
        with pytest.raises(UserError) as error:
            find_files([str(first), str(second)])
        assert str(error.value) == f"{second}: {fault}; list it only once"


def test_the_label_may_be_absent_where_rows_are_predicted(tmp_path):
    path = str(write(tmp_path / "a.csv", [row.rpartition(",")[0] for row in rows()], header=None))
    file = open_csv(path, False, unlabelled=True)
    assert file.names == HEADER.split(",")[:4] and len(file.line_numbers) == 40
    with pytest.raises(UserError, match=NUMBERS):
        open_csv(path, False)


def test_empty_names_are_numbered(tmp_path):
    path = write(tmp_path / "a.csv", ["1,2,1"], header="a,,productive")
    assert open_csv(str(path), False).names == ["a", "unnamed_2", "productive"]


def test_torn_last_line_repeated_header_and_blank_lines(tmp_path):
    lines = [*rows(30), HEADER, "", *rows(10), "-100,5,"]
    table = read(write(tmp_path / "a.csv", lines, end=""))
    assert len(table.label) == 40
    assert table.notes == ["line 44, the last, is incomplete and skipped", "line 32: repeated header, skipped"]
    torn_label = read(write(tmp_path / "b.csv", [*rows(), "-100,5,5,5,"], end=""))
    assert len(torn_label.label) == 40 and "incomplete" in torn_label.notes[0]
    quoted = read(write(tmp_path / "c.csv", [line.replace("-100", '"-100"') for line in lines], end=""))
    assert quoted.notes == table.notes and quoted.frame.equals(table.frame)
    np.testing.assert_array_equal(quoted.line_numbers, table.line_numbers)


def test_rows_that_only_look_like_the_header_are_kept(tmp_path):
    lines = [f"{cells},{index % 2}" for index, cells in enumerate(["x", "xx", "x,productive"] * 20)]
    path = write(tmp_path / "a.csv", [line for line in lines if line.count(",") == 1], header="x,productive")
    table = read(path, categorical=["x"])
    assert len(table.label) == 40 and not table.notes
    path.write_text(path.read_text() + "\ufeffx,productive\r\nx,productive")
    assert read(path, categorical=["x"]).notes == ["lines 42, 43: repeated header, skipped"]


TITLES = {
    "sep=,": "line 1 (sep=,) is not the header, but line 2 seems to be: delete line 1",
    '"sep=,"': 'line 1 ("sep=,") is not the header, but line 2 seems to be: delete line 1',
    "sep=;": "line 1 (sep=;) is not the header, but line 2",
    "# exported 2026/01/31": "line 1 (# exported 2026/01/31) is not the header, but line 2",
    "# by me; all | of it": "line 1 (# by me; all | of it) is not the header, but line 2",
    "# exported, by me": "line 1 (# exported, by me) is not the header, but line 2",
    "Report": "line 1 (Report) is not the header, but line 2",
    "Report,,": "line 1 (Report,,) is not the header, but line 2",
    '"Report, of January",,': 'line 1 ("Report, of January",,) is not the header, but line 2',
    ",,": "line 1 (,,) is not the header, but line 2",
    "0,1,2": "line 1 (0,1,2) is not the header, but line 2",
    "60": "line 1 (60) is not the header, but line 2",
    "a\nb,c\n\nd": "line 1 (a) is not the header, but line 5 seems to be: delete the lines before it",
}


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("title", TITLES)
def test_a_line_above_the_header_is_named(tmp_path, title, skip):
    lines = [f"{row * 7 % 60},w{row % 3},{row % 2}" for row in range(60)]
    path = write(tmp_path / "a.csv", [title, "idle,app,productive", *lines], header=None)
    assert refusal(path, skip_bad_rows=skip).startswith(f"{path}: {TITLES[title]}")
    path = write(tmp_path / "a.csv", [title, '"idle","app","productive"', *lines], header="")
    assert TITLES[title] in refusal(path, skip_bad_rows=skip)


@pytest.mark.parametrize("title", ["My title", "1,2,3,4"])
def test_a_title_above_the_rows_of_2017_is_named(tmp_path, title):
    fault = refusal(write(tmp_path / "a.csv", rows(), header=title))
    assert fault.endswith(
        f"line 1 ({title}) is not a header, and the rows look like a headerless file of 2017: delete line 1"
    )


def test_no_line_is_taken_for_the_header_without_reason(tmp_path):
    header, more = "idle,app,productive", "lines 2, 3, 4, 5, 6 and 35 more: 4 fields where 3 are expected"
    cure = "fix line 1 (idle,app,productive) or the rows"
    for lines in (
        [f"{row},w{row % 3},{row % 2}," for row in range(40)],  # a comma at the end
        [f"r{row},{row},w{row % 3},{row % 2}" for row in range(40)],  # names of rows, as R writes them
        [f"a,b{row},c,yes" for row in range(40)],
    ):
        path = write(tmp_path / "a.csv", lines, header=header)
        assert refusal(path) == refusal(path, skip_bad_rows=True) == f"{path}: {more}; {cure}"
    lines = [f"w{row % 3},{'un' * (row % 2)}productive,{row}" for row in range(40)]  # the name is also a value
    assert "line 1 has no column productive; choose the label" in refusal(write(path, lines, header="app,state,idle"))
    with pytest.raises(UserError, match=r"line 2: 2 fields where 3 are expected; fix the rows$"):  # nor is there a flag
        open_csv(str(write(path, ["1,2", "1,2,3", "1,2,3"], header="a,b,c")), False, unlabelled=True)


MARK = "\ufeff"
JOINED = {
    "numbers first": [f"{row * 7 % 60},w{row % 3},{row % 2}" for row in range(40)],
    "texts first": [f"w{row % 3},{row * 7 % 60},{row % 2}" for row in range(40)],
    "ids first": [f"{row % 3 - 5},{row * 7 % 60},{row % 2}" for row in range(40)],
    "quotes first": [f'"w, {row % 3}","{row * 7 % 60}",{row % 2}' for row in range(40)],
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("case", JOINED)
def test_byte_order_marks_at_the_start_of_lines_are_passed_over(tmp_path, monkeypatch, case, end):
    """As in files that cat put together, with and without their headers."""
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 300)
    lines = JOINED[case]
    header = '"app","x","productive"' if case == "quotes first" else "app,x,productive"
    whole = read(write(tmp_path / "a.csv", [header, *lines, *lines], header=None))
    path = tmp_path / "b.csv"
    for second in ([header, *lines], lines, ["", *lines]):
        text = f"{MARK}{end.join([header, *lines])}{end}{MARK}{end.join(second)}{end}{MARK}"
        path.write_bytes(text.encode())
        table = read(path)
        assert table.frame.equals(whole.frame) and table.label.tolist() == whole.label.tolist()
        assert table.columns == whole.columns
        assert table.notes == (["line 42: repeated header, skipped"] if second[0] == header else [])
        assert table.line_numbers[-1] == 41 + len(second)


def test_windows_line_ends_byte_order_mark_and_no_last_line_end(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([HEADER, *rows()]).encode())
    assert read(path).frame.equals(read(write(tmp_path / "b.csv", rows())).frame)


def test_quoted_cells_may_hold_line_ends_and_lines_are_those_of_the_file(tmp_path):
    lines = [f'"app\nnumber ""{index % 3}""",{index},{index % 2}' for index in range(40)]
    table = read(write(tmp_path / "a.csv", lines, header="window,idle,productive"), categorical=["window"])
    assert column_of(table, "window").vocabulary == [f'app\nnumber "{number}"' for number in range(3)]
    assert table.line_numbers.tolist() == list(range(2, 82, 2))


def test_large_files_are_read_in_pieces(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", [*rows(250), HEADER, *rows(250)])
    whole = read(path)
    monkeypatch.setattr(csv_file, "CHUNK_ROWS", 64)
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 100)
    pieces = read(path)
    assert pieces.frame.equals(whole.frame) and pieces.notes == whole.notes
    np.testing.assert_array_equal(whole.label, pieces.label)
    np.testing.assert_array_equal(whole.line_numbers, pieces.line_numbers)


@pytest.mark.parametrize("end", ["\n", ""])
def test_parts_of_a_file_make_the_file(tmp_path, end):
    path = write(tmp_path / "a.csv", [*rows(40), HEADER, "", *rows(50)], end=end)
    content = path.read_bytes()
    whole, names = open_csv(str(path), False), HEADER.split(",")
    starts = [0, 1, *(content.index(b"\n", size) + 1 for size in (400, 900)), len(content)]
    starts[1] = content.index(b"\n") + 1
    parts = [
        open_csv(str(path), False, byte_range=ByteRange(start, stop, content[:start].count(b"\n")))
        for start, stop in pairwise(starts)
    ]
    assert [len(part.line_numbers) == 0 for part in parts] == [True, False, False, False]
    np.testing.assert_array_equal(np.concatenate([part.line_numbers for part in parts]), whole.line_numbers)
    notes = [note for part in parts for note in part.notes]
    assert notes == whole.notes == ["line 42: repeated header, skipped"]
    one, several = read_columns([whole], names, {"productive"}), read_columns(parts, names, {"productive"})
    assert all(one[name].astype(object).equals(several[name].astype(object)) for name in names)
    path.write_bytes(content.replace(b"\n-101,10,", b"\n-101,\0,"))
    with pytest.raises(UserError, match="line 3 contains a NUL"):
        open_csv(str(path), False, byte_range=ByteRange(starts[1], starts[2], 1))


def test_no_files_have_empty_columns():
    columns = read_columns([], ["a", "b"], {"b"})
    assert columns["a"].dtype == np.float64 and columns["b"].dtype == "category"
    assert [len(cells) for cells in columns.values()] == [0, 0]


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", rows(40))

    def then(change):
        def opened(*arguments):
            file = open_csv(*arguments)
            change()
            return file

        monkeypatch.setattr("harvest.data.table.open_csv", opened)

    then(lambda: path.write_text(path.read_text() + "\n".join(rows(3_000)) + "\n"))
    assert len(read(path).label) == 40  # what the harvester appends meanwhile waits for the next run
    for change in (lambda: write(path, rows(30)), lambda: path.write_text(""), path.unlink):
        write(path, rows(40))
        then(change)
        assert "changed while it was read; try again when no program rewrites it" in refusal(path)


def test_columns_empty_in_the_first_rows_of_a_long_file(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "GUESS_ROWS", 100)
    late = ["" if index < 120 else str(index % 9) for index in range(150)]
    lines = [f"{index % 3},{index * 7 % 1000},{cell},{index % 2}" for index, cell in enumerate(late)]
    table = read(write(tmp_path / "a.csv", lines, header="foreground_app,idle_time,late,productive"))
    assert column_of(table, "late").kind == "number" and np.nanmax(table.numbers("late")) == 8


@pytest.mark.parametrize("first_rows", [2, 1_000])
@pytest.mark.parametrize("cell", ["TRUE", "word", "1e39", "inf", "1_000", "\u00a05", "0x1F"])
def test_text_below_the_first_rows_changes_no_other_cell(tmp_path, monkeypatch, cell, first_rows):
    """However late pandas finds it, all texts are as they are in the file, and other columns remain numbers."""
    monkeypatch.setattr(csv_file, "GUESS_ROWS", first_rows)
    monkeypatch.setattr(csv_file, "CHUNK_ROWS", 20)
    spelled = ["1.10", "2.50", "0012", "5"]
    columns = {
        "x": [*(spelled[row % 4] for row in range(59)), cell],
        "y": [repr(0.1 + row / 7) for row in range(60)],
        "productive": ["0", "1"] * 30,
    }
    file = open_csv(str(write_columns(tmp_path / "a.csv", columns)), False)
    found = read_columns([file], ["x", "y"], set())
    assert found["x"].tolist() == [*columns["x"][:-1], cell.strip()]
    np.testing.assert_allclose(found["y"], [float(text) for text in columns["y"]], rtol=1e-15)
    assert found["y"].dtype == np.float64


def test_the_fast_reading_of_numbers_equals_the_slow_one(tmp_path):
    chance = random.Random(1)
    cells = ["nan", "NA", "inf", "1e39", "TRUE", "true", "1_0", "1e", ".", "+", "5.", ".5", "+5", "--5", "1E5", "1d5"]
    cells += ["0x1F", "1e-400", "00012", "-0", "1f", "1 2", "+ 5"]
    cells += ["".join(chance.choice("0123456789..eE+-  xnai") for _ in range(chance.randint(1, 8))) for _ in range(800)]
    compared = 0
    for cell in cells:
        file = open_csv(str(write_columns(tmp_path / "a.csv", {"x": [cell], "y": ["1"]})), False)
        try:
            columns, doubtful = read_once([file], ["x"], set())
        except ValueError:
            continue
        if not doubtful:
            np.testing.assert_allclose(columns["x"], [parse_number(cell)], rtol=1e-15, err_msg=repr(cell))
            compared += 1
    assert compared > 100


def test_a_chunk_of_nothing_but_true_is_no_chunk_of_ones(tmp_path):
    columns = {"x": [""] * 5_100 + ["TRUE"] * 200, "productive": ["0", "1"] * 2_650}
    first = write_columns(tmp_path / "a.csv", columns)
    columns = {"x": [str(row % 9 + 1) for row in range(400)], "productive": ["0", "1"] * 200}
    error = refusal(first, write_columns(tmp_path / "b.csv", columns), split="random")
    assert "lines 5102, 5103" in error and "column x" in error


@pytest.mark.parametrize("separated", [True, False])
def test_flags_of_one_and_true_are_texts(tmp_path, monkeypatch, separated):
    """Whole files, or chunks, of one spelling must not be read as ones."""
    monkeypatch.setattr(csv_file, "CHUNK_ROWS", 10)
    flags = ["1"] * 20 + ["TRUE"] * 40 if separated else ["1", "TRUE", "TRUE"] * 20
    columns = {"x": flags, "productive": ["0", "1"] * 15 + ["1", "0"] * 15}
    halves = [{name: cells[part] for name, cells in columns.items()} for part in (slice(30), slice(30, 60))]
    paths = [write_columns(tmp_path / f"{number}.csv", half) for number, half in enumerate(halves)]
    assert cells_of(read(*paths), "x") == flags
