"""What a cell means as a number, an id, a time, a label or a text."""

import math

import pytest

from harvest.data.cells import (
    MISSING,
    PARSERS,
    UNSEEN,
    parse_id,
    parse_label,
    parse_number,
    parse_text,
    parse_time,
    placeholder,
)

NUMBERS = {
    "5": 5,
    " 5 ": 5,
    "5.": 5,
    ".5": 0.5,
    "+5": 5,
    "-0": 0,
    "00012": 12,
    "1e5": 100_000,
    "1E+05": 100_000,
    "1e-400": 0,
    "3.4028234e38": 3.4028234e38,
    "-3.4028234e38": -3.4028234e38,
}
NO_NUMBERS = [
    "nan",
    "NA",
    "inf",
    "-Infinity",
    "1e39",
    "-1e308",
    "1e999",
    "TRUE",
    "1_000",
    "0x1F",
    "1e",
    ".",
    "+",
    "--5",
]
NO_NUMBERS += [
    "1 2",
    "+ 5",
    "1d5",
    "1f",
    "1,5",
    "2 000",
    "12:30",
    "5%",
    "\u0663",
    "\uff11\uff12",
    "\u22125",
    "1.2.3",
    "=A1+1",
    "?",
]
TIMES = {
    "2026-01-31": 1_769_817_600,
    " 2026-01-31T09:30 ": 1_769_851_800,
    "2026-01-31 09:30:05.25+02:00": 1_769_844_605.25,
    "2026-01-31 09:30:05,5 -0130": 1_769_857_205.5,
    "2026-01-31T09:30:05.123456789Z": 1_769_851_805.123456,
    "1769851805": 1_769_851_805,
    "1.769851805e9": 1_769_851_805,
}
NO_TIMES = ["2026-13-01", "2026-02-30", "2026-01-31x09:30", "2026-W05-1", "09:30", "\uff12026-01-31", "yesterday"]
NO_TIMES += ["2026-01-31T", "2026-01-31 10", "31.01.2026", "soon", "1e999"]


def test_numbers():
    assert {cell: parse_number(cell) for cell in NUMBERS} == NUMBERS
    assert math.isnan(parse_number("")) and math.isnan(parse_number(" \t "))
    assert [cell for cell in NO_NUMBERS if not math.isinf(parse_number(cell))] == []


def test_ids():
    ids = {"5": 5, " -7 ": -7, "5.0": 5, "5.000": 5, "0": 0, "0.0": 0, "9223372036854775807": 2**63 - 1}
    assert {cell: parse_id(cell) for cell in ids} == ids
    assert parse_id("  ") == MISSING
    others = ["007", "-0", "+5", "5.1", "5.", "1e3", "x", "9223372036854775808", str(MISSING), str(UNSEEN), "\u0663"]
    assert {parse_id(cell) for cell in others} == {UNSEEN}


def test_times():
    assert {cell: parse_time(cell) for cell in TIMES} == TIMES
    assert math.isnan(parse_time("  "))
    assert [cell for cell in NO_TIMES if not math.isinf(parse_time(cell))] == []


@pytest.mark.parametrize("zero, one", ["01", ("0.0", "1.0"), ("false", "true"), ("False", " TRUE "), ("no", "yes")])
def test_labels(zero, one):
    assert (parse_label(zero), parse_label(one)) == (0, 1)


def test_a_number_that_is_0_or_1_is_a_label():
    ones = ["1", "1.000000", "1.000000000000000000e+00", "+1", "01", " 1 ", "1.", "10e-1", "\u00a01"]
    assert [cell for cell in ones if parse_label(cell) != 1] == []
    zeros = ["0", "0.000000", "0.000000000000000000e+00", "-0", "+0.0", "00", ".0", "0e5"]
    assert [cell for cell in zeros if parse_label(cell) != 0] == []


def test_what_is_no_label():
    assert {
        parse_label(cell)
        for cell in ["", "2", "-1", "0.5", "1.000001", "1e999", "10", "y", "nan", "0x1", "1,0", "\uff11"]
    } == {-1}


def test_texts_keep_their_spelling():
    assert [parse_text(cell) for cell in [" a b ", "1.10", "TRUE", " "]] == ["a b", "1.10", "TRUE", ""]


def test_a_placeholder_is_no_cell():
    assert parse_text(placeholder(False)) != placeholder(False)
    assert parse_id(str(placeholder(True))) == UNSEEN != placeholder(True)
    assert PARSERS["int64"] is parse_id and PARSERS["string"] is parse_text
