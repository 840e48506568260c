"""Columns that are meant as numbers, and hold them in another notation or words for those that are missing."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from harvest.data.cells import NUMBER, parse_number
from harvest.data.columns import LOST_DIGITS, Column, Columns, is_id_name

MOST_OTHERS = 0.1  # of the filled cells of a column of numbers: those that are none, in no notation, nor missing
MOST_WORDS, MANY_NUMBERS = 3, 10  # different ones, where the words may stand for missing numbers
LONGEST = 40  # characters of a number in any notation
SPACES = " \u00a0\u2009\u202f"  # plain, no-break, thin, narrow no-break
SIGN = r"[+\-\u2212\u2013]?"  # also a minus sign and a dash
ANY = rf"{SIGN}(?:\d[\d.,'\u2019_{SPACES}]*|[.,]\d+)"  # digits and whatever may be between them
ADDRESS = r"(?:(?:1?\d?\d|2[0-4]\d|25[0-5])(?:\.|$)){4}"  # 192.168.100.200
CURRENCY = r"(?:[$\u20ac\u00a3\u00a5\u20b9]|eur|usd|gbp|chf|jpy|inr)"
UNIT = r"(?:[nmu\u00b5\u03bc]?s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|[kmgt]?i?b|bytes?|[kmg]?hz|k|px)"
MISSING_WORDS = {"na", "n/a", "#n/a", "n.a.", "<na>", "n/d", "nan", "-nan", "nat", "null", "(null)", "none", "nil"}
MISSING_WORDS |= {"\\n"}  # of MySQL
MISSING_WORDS |= {"missing", "unknown", "undefined", "-", "--", "---", "\u2013", "\u2014", "?", "??", "???", ".", ".."}
MISSING_WORDS |= {"#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!"}  # of spreadsheets


class Notation(NamedTuple):
    pattern: str
    what: str  # cells of this notation do
    cure: str
    is_doubtful: bool = False  # where all numbers are of it, they may be a category, as times of day and sizes are


# A cell is of the first whose pattern it matches.
NOTATIONS = {
    "missing": Notation("(?!)", "hold a word for a missing number", "leave them empty"),
    "comma": Notation(
        rf"{SIGN}[1-9]\d{{0,2}}(?P<decimals>,\d{{3}})",
        "have a comma, of thousands or of decimals",
        "write {whole} or {plain}",
    ),
    "thousands": Notation(
        rf"(?!{ADDRESS}){SIGN}[1-9](?:\d{{0,2}}(?P<mark>[,.'\u2019_{SPACES}])\d{{3}}(?:(?P=mark)\d{{3}})*"
        r"|\d?(?:,\d\d)+,\d{3})(?P<decimals>[.,]\d+)?",  # 1,234.5 and, in India, 12,34,567
        "have thousands separators",
        "write {plain}",
    ),
    "decimals": Notation(rf"{SIGN}\d*(?P<decimals>,\d+(?:e[+-]?\d+)?)", "have a decimal comma", "write {plain}"),
    "minus": Notation(
        r"[\u2212\u2013](?=\.?\d)\d*(?P<decimals>\.\d*)?", "have another minus sign than the hyphen", "write {plain}"
    ),
    "percent": Notation(rf"{ANY}%|%{ANY}", "have a percent sign", "write the number alone"),
    "currency": Notation(
        rf"{SIGN}{CURRENCY}[{SPACES}]?{ANY}|{ANY}{CURRENCY}", "have a currency", "write the number alone"
    ),
    "bound": Notation(rf"[<>\u2264\u2265~\u2248]=?[{SPACES}]?{ANY}", "are bounds", "write numbers", True),
    "infinity": Notation(r"[+-]?inf(?:inity)?", "are infinite or beyond 3.4e38", "leave them empty"),
    "clock": Notation(
        rf"{SIGN}(?:\d+ days?,? \+?)?\d+:[0-5]\d(?::[0-5]\d(?:[.,]\d+)?)?",
        "look like durations or times of day",
        "write seconds",
        is_doubtful=True,
    ),
    "units": Notation(  # 5m 3s, 300 ms, 1.5 GB, PT5M3S
        rf"{SIGN}(?:(?:\d+(?:[.,]\d+)?|[.,]\d+)[{SPACES}]?{UNIT}[{SPACES}]?)+"
        rf"|{SIGN}P(?=.*\d)(?:\d+[YMWD])*(?:T(?:[\d.]+[HMS])+)?",
        "look like numbers with units",
        "write numbers of one unit alone",
        is_doubtful=True,
    ),
}
PATTERNS = {name: re.compile(one.pattern, re.ASCII | re.IGNORECASE) for name, one in NOTATIONS.items()}


class Reading(NamedTuple):
    """What the texts of a column look like."""

    is_meant: bool  # as numbers, though not all are plain ones
    fault: str  # of the cells that are no plain numbers, and how they are mended; "": they are anything
    hint: str  # what the cells may be meant as


def notation_of(text: str) -> str:
    """The notation of a number by its name, "number" for the plain one, "missing", or "" for any other text."""
    if math.isfinite(parse_number(text)):
        return "number"
    if text.lower() in MISSING_WORDS:
        return "missing"
    if NUMBER.fullmatch(text):
        return "infinity"
    if len(text) > LONGEST:
        return ""
    return next((name for name, pattern in PATTERNS.items() if pattern.fullmatch(text)), "")


def cure(name: str, text: str) -> str:
    """How a cell of a notation is mended."""

    def digits(part: str) -> str:
        return "-" * (text[0] in "-\u2212\u2013") + (re.sub(r"\D", "", part) or "0")

    match = PATTERNS[name].fullmatch(text)
    decimals = (match and match.groupdict().get("decimals")) or ""
    plain = digits(text.removesuffix(decimals)) + decimals.replace(",", ".")
    return NOTATIONS[name].cure.format(whole=digits(text), plain=plain)


def read_notation(cells: pd.Series) -> Reading:
    """Judge a column of texts by how many of its cells are in each notation, however many these are."""
    counts: Counter[str] = Counter()  # of cells, by notation
    texts: dict[str, list[str]] = {}
    of_text = np.bincount(cells.cat.codes + 1, minlength=len(cells.cat.categories) + 1)[1:]  # without empty cells
    for text, count in zip(cells.cat.categories, of_text.tolist(), strict=True):
        if count:
            texts.setdefault(name := notation_of(text), []).append(text)
            counts[name] += count
    filled, other, plain = counts.total(), counts.pop("", 0), counts.pop("number", 0)
    for name in ("decimals", "thousands"):  # where these are clear, they say what the comma of the others is
        if "comma" in counts and "," in texts.get(name, [""])[0]:
            counts[name] += counts.pop("comma")
    numeric = [name for name in counts if name != "missing"]
    if not counts or not (plain or numeric):
        words = [" ".join(word.split())[:30] for word in texts.get("", [])[: MOST_WORDS + 1]]
        is_mixed = 0 < len(words) <= MOST_WORDS and len(texts.get("number", [])) >= MANY_NUMBERS
        mixed = f"{plain:,} of {filled:,} cells are numbers, the others are {', '.join(words)}"
        return Reading(False, "", mixed if is_mixed else "")
    (first, count), *more = counts.most_common(2)
    seen = {name: f"{NOTATIONS[name].what}, such as {texts[name][0]} ({cure(name, texts[name][0])})" for name in counts}
    fault = f"{count:,} of {filled:,} cells {seen[first]}"
    fault += "".join(f", and {few:,} {seen[name]}" for name, few in more)
    is_meant = other <= MOST_OTHERS * filled
    is_doubtful = numeric and all(NOTATIONS[name].is_doubtful for name in numeric)
    if is_meant and is_doubtful and plain <= MOST_OTHERS * filled:
        return Reading(False, fault, "" if numeric == ["bound"] else f"{fault}; they are read as text")
    return Reading(is_meant, fault if count >= other else "", "")


def find_notations(columns: list[Column], cells: Columns) -> dict[str, str]:
    """By column, what is wrong with cells that are no plain numbers, if these are of another notation or missing.

    Where nearly all cells of a column are such, it is one of numbers, whatever it was taken for. Others get a hint.
    """
    faults = {}
    for column in columns:
        texts = cells.get(column.name)
        if texts is None or texts.dtype == np.float64:
            continue
        if column.kind == "number" or column.reason in ("text", "nearly all values distinct"):
            is_meant, faults[column.name], hint = read_notation(texts)
            is_number = column.kind == "number"
            if is_meant and not is_number and not is_id_name(column.name):
                column.kind, column.reason = "number", ""
            column.hint = "" if is_number else hint
        if column.reason == "--categorical" or is_id_name(column.name):
            column.hint = lost_digits(texts.cat.categories)
    return faults


def lost_digits(texts: Iterable[str]) -> str:
    """A hint where ids have more digits than there are in the file; otherwise ""."""
    found = ((text, LOST_DIGITS.fullmatch(text)) for text in texts)
    lost = [text for text, match in found if match and len(match[1] or "") < int(match[2])]
    why = "have lost digits, as a spreadsheet saves them; export them again as text"
    return f"ids such as {lost[0]} {why}" if lost else ""
