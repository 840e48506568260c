"""Columns that are meant as numbers: other notations and words for missing ones, however many cells hold them."""

import random

import pandas as pd
import pytest
from table_files import HEADER, arguments, column_of, kinds, read, refusal, write, write_columns

from harvest.data.describe import describe
from harvest.data.notation import MAYBE_CATEGORY, cure, lost_digits, notation_of, read_notation
from harvest.data.table import read_table

MENDED = {  # a cell, its notation, and the plain number in the advice
    "3,5": ("decimals", "3.5"),
    "-0,466": ("decimals", "-0.466"),
    ",5": ("decimals", "0.5"),
    "1,5e3": ("decimals", "1.5e3"),
    "1,234": ("comma", "1234 or 1.234"),
    "1,234.5": ("thousands", "1234.5"),
    "1.234,5": ("thousands", "1234.5"),
    "1.234.567": ("thousands", "1234567"),
    "-1'234": ("thousands", "-1234"),
    "1\u2019234": ("thousands", "1234"),
    "1 234 567,89": ("thousands", "1234567.89"),
    "1\u00a0234": ("thousands", "1234"),
    "1\u202f234": ("thousands", "1234"),
    "12,34,567": ("thousands", "1234567"),
    "1_000": ("thousands", "1000"),
    "\u22125.5": ("minus", "-5.5"),
    "\u0663\u066b\u0665": ("characters", "3.5"),
    "\uff11\uff12": ("characters", "12"),
    "5\u200b": ("characters", "5"),
    "\uff11,5": ("decimals", "1.5"),
}
NAMED = {
    "percent": ["45%", "45%", "45,5\u00a0%", "%45"],
    "currency": ["$5", "-\u20ac 3.20", "1,200 \u20ac", "5 USD", "5 $", "US$ 5", "R$5", "5 kr.", "\u20bd5", "$1.2M"],
    "negative": ["(93)", "(1,234.50)", "($93)", "93-"],
    "hexadecimal": ["0x1F", "0Xff"],
    "bound": ["<5", ">= 0.1", "~3"],
    "infinity": ["inf", "-Infinity", "1e39"],
    "clock": ["0:26:00", "5:03", "09:30", "100:00:01.5", "0 days 00:05:03.250000", "-1 day, 23:59:00"],
    "units": ["5m 3s", "1h 2m", "300 ms", "1.5 GB", "12 min", "PT5M3S", "P1DT2H", "5 kg", "20 \u00b0C"],
    "missing": ["NA", "N/A", "null", "None", "NaN", "-", "--", "?", "\u2014", "#DIV/0!", "<NA>", "(null)", "unknown"],
    "number": ["5", "-1.5", "1e5", "1.234", "\u00a05\u00a0", "5.4E+17"],
    "": ["192.168.100.200", "1.2.3", "1,2,3", "2026-01-31", "31.01.2026", "2026-W05", "7-Zip", "10x20", "A-1", "w0"],
}


NAMED[""] += [
    "555-1234",
    "12-14",
    "1st",
    "P",
    "TRUE",
    "030 123 456",
    "\u2212",
    "=A1+1",
    "word",
    "1" * 50 + "%",
]


def column(texts):
    return pd.Series(pd.Categorical([text or None for text in texts]))


def test_the_notation_of_a_cell():
    assert {cell: (notation_of(cell), cure(notation_of(cell), cell)) for cell in MENDED} == {
        cell: (name, f"write {plain}") for cell, (name, plain) in MENDED.items()
    }
    assert {cell: notation_of(cell) for cells in NAMED.values() for cell in cells} == {
        cell: name for name, cells in NAMED.items() for cell in cells
    }


def numbers(count):
    chance = random.Random(count)
    return [f"{chance.uniform(-500, 500):.2f}" for _ in range(count)]


WRITTEN = {  # how a number is written, and the fault in the message
    "a decimal comma": (lambda text: text.replace(".", ","), "a decimal comma"),
    "thousands": (lambda text: f"{2_000_000 + int(float(text)):,}", "thousands separators"),
    "percent": (lambda text: f"{text}%", "a percent sign"),
    "NA": (lambda _: "NA", "a word for a missing value"),
    "none": (lambda _: "None", "a word for a missing value"),
    "minus": (lambda text: text.replace("-", "").join(["\u2212", ""]), "a minus sign other than the hyphen"),
    "infinity": (lambda _: "inf", "infinity or a number beyond 3.4e38"),
    "digits": (lambda text: text.translate({48 + digit: 0x660 + digit for digit in range(10)}), "unusual digits or"),
    "hexadecimal": (lambda text: hex(int(float(text))).replace("-", ""), "a hexadecimal number"),
    "accounting": (lambda text: f"({text})", "a negative number as in accounting"),
    "bound": (lambda text: f"<{text}", "a bound"),
    "currency": (lambda text: f"{text} $", "a currency sign or code"),
    "unit": (lambda text: f"{text} ms", "a number with a unit"),
}


@pytest.mark.parametrize("count", [1, 20, 50, 99])
@pytest.mark.parametrize("name", WRITTEN)
def test_the_refusal_is_the_same_at_any_share(tmp_path, name, count):
    spell, what = WRITTEN[name]
    cells = numbers(100)
    for row in random.Random(1).sample(range(100), count):
        cells[row] = spell(cells[row])
    path = write_columns(tmp_path / "a.csv", {"x": cells, "productive": ["0", "1"] * 50}, quoted=True)
    error = refusal(path)
    assert error.startswith(f"{path}: line") and f", column x: {what}" in error
    assert f" in {count} of 100 cells, such as {min(set(cells) - set(numbers(100)), key=cells.index)} (" in error
    assert "--categorical" not in error and "fix the rows" in error and "drop the column with --drop x" in error
    assert ("skip the rows with --skip-bad-rows" in error) == (count == 1)
    assert refusal(path, numeric=["x"]) == error
    assert kinds(read(path, categorical=["x"]))["x"][1] == "--categorical"
    if count < 90:
        assert len(read(path, skip_bad_rows=True).label) == 100 - count
    else:  # which would leave nothing
        assert refusal(path, skip_bad_rows=True) == error


def test_several_notations_are_both_named_and_clear_cells_explain_the_others():
    assert read_notation(column(["3,5", "1,234", "NA", "2,25"])) == (
        True,
        "a decimal comma in 3 of 4 cells, such as 2,25 (write 2.25), and a word for a missing value in 1, "
        "such as NA (leave it empty)",
        "",
    )
    assert "thousands separators in 4 of 4 cells" in read_notation(column(["1,234", "5,678", "1,234,567", "1,000"]))[1]
    assert (
        "a comma, for thousands or decimals in 2 of 3 cells, such as 1,234 (write 1234 or 1.234)"
        in read_notation(column(["1,234", "5,678", "7"]))[1]
    )


def test_counting_texts_equals_counting_cells():
    chance = random.Random(2)
    for _ in range(200):
        known = [*MENDED, *(cell for cells in NAMED.values() for cell in cells)]
        few = chance.sample(known, 6)
        cells = [chance.choice([*few, ""]).strip() for _ in range(chance.randint(1, 60))]
        names = [notation_of(cell) for cell in cells if cell]
        reading = read_notation(column(cells))
        number = [name for name in names if name not in ("", "missing")]
        odd = [name for name in names if name not in ("", "number")]
        doubtful = {*number} - {"number"} and "number" not in number and MAYBE_CATEGORY.issuperset(number)
        meant = bool(number and odd) and 10 * names.count("") <= len(names) and not doubtful
        assert reading[0] == meant, cells


TEXTS = {
    "addresses": ["192.168.100.200", "192.168.100.201", "192.168.101.255"],
    "versions": ["1.2.3", "1.2", "1.10.0"],
    "apps": ["7-Zip", "None", "-", "Code", "3,5 mm jack"],
    "answers": ["yes", "None"],
    "signs": ["+", "-"],
    "sizes": ["10x20", "5x5"],
    "clothes": ["S", "M", "L", "XL", "2XL"],
    "phones": ["+49 30 1234567", "555-1234"],
    "regions": ["NA", "EU", "APAC"],
    "ages": ["<18", "18-25", "26-40", ">40"],
    "bounds": ["<5", ">=5"],
    "lists": ["1,2", "1,2,3", "2"],
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_remain_texts_without_a_word(tmp_path, name):
    values = TEXTS[name]
    columns = {"x": [values[row % len(values)] for row in range(60)], "productive": ["0", "0", "1", "1"] * 15}
    found = column_of(read(write_columns(tmp_path / "a.csv", columns, quoted=True)), "x")
    assert (found.kind, found.reason, found.hint) == ("category", "text", "") and found.distinct == len(values)


DOUBTFUL = {
    "durations": (
        [f"0:{row % 25 + 10}:00" for row in range(60)],
        "a duration or time of day in 60 of 60 cells, such as 0:10:00",
    ),
    "times of day": (
        [f"{row % 20:02}:30" for row in range(60)],
        "a duration or time of day in 60 of 60 cells, such as 00:30",
    ),
    "units": ([f"{row % 9}m {row % 7}s" for row in range(60)], "a number with a unit in 60 of 60 cells, such as 0m 0s"),
    "hexadecimal": ([hex(row % 9) for row in range(60)], "a hexadecimal number in 60 of 60 cells, such as 0x0"),
    "bounds": ([f"<{row % 9}" for row in range(60)], "a bound in 60 of 60 cells, such as <0"),
    "distinct": ([f"{row} ms" for row in range(60)], "a number with a unit in 60 of 60 cells, such as 0 ms"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_may_be_a_category_gets_a_hint_and_among_numbers_is_refused(tmp_path, name):
    cells, what = DOUBTFUL[name]
    columns = {"x": cells, "noise": numbers(60), "productive": ["0", "1"] * 30}
    args = arguments(write_columns(tmp_path / "a.csv", columns))
    lines = describe(args, read_table(args)[0])
    assert lines[-1].startswith(f"           hint: x: {what} (write ")
    assert lines[-1].endswith("; read as text") == (name not in ("distinct", "units"))  # which are dropped
    path = write_columns(tmp_path / "b.csv", columns | {"x": [*["5"] * 20, *cells[20:]]})
    assert f"column x: {what.partition(' in ')[0]} in 40 of 60 cells, such as " in refusal(path)
    path = write_columns(tmp_path / "b.csv", {name: columns[name] for name in ("x", "productive")})
    if name == "distinct":
        assert f"no column is left to learn from: x (nearly all values distinct); x: {what}" in refusal(path)


def test_a_word_of_the_users_own_among_numbers_gets_a_hint(tmp_path):
    cells = [text if row % 3 == 0 else "off" for row, text in enumerate(numbers(60))]
    columns = {"x": cells, "productive": ["0", "1"] * 30}
    found = column_of(read(write_columns(tmp_path / "a.csv", columns)), "x")
    assert (found.kind, found.hint) == ("category", "numbers in 20 of 60 cells, off in the others; read as text")


def test_ids_that_have_lost_digits(tmp_path):
    why = "have lost digits, probably in a spreadsheet, so different ids look the same; export them again as text"
    for text in (
        "5.4E17",
        "-1.23457e+09",
        "3.7E+09",
        "5.4E+17",
        "5.41234567E+17",
        "5.412345678901235e+17",
        "5,4E+17",
        "1E+15",
    ):
        assert lost_digits(["7", text]) == f"ids such as {text} {why}"
    assert (
        lost_digits(
            ["540000000000000000", "1e10", "12e4567", "1e+05", "3.7E+08", "5E17", "1.234567890123456789e+17", "E+17"]
        )
        == ""
    )
    ids = [f"5.{row % 4}E+17" for row in range(60)]
    columns = {"user_id": ids, "session": ids, "productive": ["0", "1"] * 30}
    table = read(write_columns(tmp_path / "a.csv", columns), categorical=["session"])
    assert {column.name: (column.kind, column.warning) for column in table.columns} == {
        "session": ("category", f"ids such as 5.0E+17 {why}"),
        "user_id": ("dropped", f"ids such as 5.0E+17 {why}"),  # identical to session
    }
    assert table.warnings() == [f"{name}: ids such as 5.0E+17 {why}" for name in ("session", "user_id")]


def test_phone_numbers_that_have_lost_digits(tmp_path):
    phones = [f"4.9{row % 4}E+12" for row in range(60)]
    columns = {"phone_id": phones, "client_phone_number": phones[1:] + phones[:1], "productive": ["0", "1"] * 30}
    table = read(write_columns(tmp_path / "a.csv", columns))
    assert {column.name: column.kind for column in table.columns if "lost digits" in column.warning} == {
        "phone_id": "category",
        "client_phone_number": "number",
    }


def test_ids_in_another_notation_are_ids(tmp_path):
    columns = {"appId": [f"1,23{row % 5}" for row in range(60)], "productive": ["0", "1"] * 30}
    assert kinds(read(write_columns(tmp_path / "a.csv", columns, quoted=True))) == {"appId": ("category", "text")}


def test_numbers_that_pandas_read_are_not_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("harvest.data.notation.read_notation", lambda cells: pytest.fail(str(cells)))
    lines = [f"{row % 3},{row * 10},{row},{1000 * row % 7},{row % 2}" for row in range(40)]
    assert len(read(write(tmp_path / "a.csv", lines, header=HEADER)).label) == 40
