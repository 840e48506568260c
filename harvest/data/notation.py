"""Columns of numbers in other notations, or with words for missing numbers."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from harvest.data.cells import NUMBER, parse_number
from harvest.data.columns import LOST_DIGITS, Column, Columns, is_id_name, may_lose_digits

MOST_OTHERS = 0.1  # of the filled cells of a numeric column: texts that are neither numbers in any notation nor missing
MOST_WORDS, MANY_NUMBERS = 3, 10  # distinct ones, where the words may mean missing numbers
LONGEST = 40  # characters of a number in any notation
SPACES = " \u00a0\u2009\u202f"  # plain, no-break, thin, narrow no-break
SIGN = r"[+\-\u2212\u2013]?"  # also a minus sign and a dash
ANY = rf"{SIGN}(?:\d[\d.,'\u2019_{SPACES}]*|[.,]\d+)"  # digits and what may separate them
ADDRESS = r"(?:(?:1?\d?\d|2[0-4]\d|25[0-5])(?:\.|$)){4}"  # 192.168.100.200
CURRENCY = r"(?:(?:us|[acr])?\$|[\u00a2-\u00a5\u20a0-\u20c0]|kr|k\u010d|z\u0142|eur|usd|gbp|chf|jpy|inr"
CURRENCY += r"|cny|aud|cad|nok|sek|dkk|pln)"
UNIT = r"(?:[nmu\u00b5\u03bc]?s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|[kmgt]?i?b|bytes?|[kmg]?hz|k|px"
UNIT += r"|[mk]g|[cmk]m|km/h|mph|rpm|\u00b0[cf]?|[mk]?[vw]|kwh|db|dpi|fps)"
MISSING_WORDS = {"na", "n/a", "#n/a", "n.a.", "<na>", "n/d", "nan", "-nan", "nat", "null", "(null)", "none", "nil"}
MISSING_WORDS |= {"\\n"}  # of MySQL
MISSING_WORDS |= {"missing", "unknown", "undefined", "-", "--", "---", "\u2013", "\u2014", "?", "??", "???", ".", ".."}
MISSING_WORDS |= {"#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!"}  # of spreadsheets


class Notation(NamedTuple):
    pattern: str
    what: str  # the unusual part of such a cell
    cure: str


# The notation of a cell is the first one with a pattern that matches.
NOTATIONS = {
    "missing": Notation("(?!)", "a word for a missing value", "leave it empty"),
    "comma": Notation(
        rf"{SIGN}[1-9]\d{{0,2}}(?P<decimals>,\d{{3}})",
        "a comma, for thousands or decimals",
        "write {whole} or {plain}",
    ),
    "thousands": Notation(
        rf"(?!{ADDRESS}){SIGN}[1-9](?:\d{{0,2}}(?P<mark>[,.'\u2019_{SPACES}])\d{{3}}(?:(?P=mark)\d{{3}})*"
        r"|\d?(?:,\d\d)+,\d{3})(?P<decimals>[.,]\d+)?",  # 1,234.5 and, in India, 12,34,567
        "thousands separators",
        "write {plain}",
    ),
    "decimals": Notation(rf"{SIGN}\d*(?P<decimals>,\d+(?:e[+-]?\d+)?)", "a decimal comma", "write {plain}"),
    "minus": Notation(
        r"[\u2212\u2013](?=\.?\d)\d*(?P<decimals>\.\d*)?", "a minus sign other than the hyphen", "write {plain}"
    ),
    "percent": Notation(rf"{ANY}%|%{ANY}", "a percent sign", "write the number alone"),
    "currency": Notation(
        rf"{SIGN}{CURRENCY}[{SPACES}]?{ANY}(?:k|m|bn?)?|{ANY}{CURRENCY}\.?",
        "a currency sign or code",
        "write the number alone",
    ),
    "bound": Notation(rf"[<>\u2264\u2265~\u2248]=?[{SPACES}]?{ANY}", "a bound", "write a number"),
    "negative": Notation(
        rf"\([{SPACES}]?{CURRENCY}?{ANY}{CURRENCY}?\)|\d[\d.,]*[-\u2212]",
        "a negative number as in accounting",
        "write it with a leading minus sign",
    ),
    "hexadecimal": Notation(r"[+-]?0x[\da-f]+", "a hexadecimal number", "write it in decimal"),
    "infinity": Notation(r"[+-]?inf(?:inity)?", "infinity or a number beyond 3.4e38", "leave it empty"),
    "clock": Notation(
        rf"{SIGN}(?:\d+ days?,? \+?)?\d+:[0-5]\d(?::[0-5]\d(?:[.,]\d+)?)?",
        "a duration or time of day",
        "write seconds",
    ),
    "units": Notation(  # 5m 3s, 300 ms, 1.5 GB, PT5M3S
        rf"{SIGN}(?:(?:\d+(?:[.,]\d+)?|[.,]\d+)[{SPACES}]?{UNIT}[{SPACES}]?)+"
        rf"|{SIGN}P(?=.*\d)(?:\d+[YMWD])*(?:T(?:[\d.]+[HMS])+)?",
        "a number with a unit",
        "write all numbers in one unit, without its name",
    ),
    "characters": Notation("(?!)", "unusual digits or invisible characters", "write {simple}"),
}
MAYBE_CATEGORY = {"bound", "hexadecimal", "clock", "units"}  # a column of such cells only may be a category
PATTERNS = {name: re.compile(one.pattern, re.ASCII | re.IGNORECASE) for name, one in NOTATIONS.items()}


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
    if name := next((name for name, pattern in PATTERNS.items() if pattern.fullmatch(text)), ""):
        return name
    name = "" if (simple := simplify(text)) == text else notation_of(simple)
    return "characters" if name == "number" else name


def simplify(text: str) -> str:
    """A text with the digits 0 to 9 instead of those of other scripts, and without invisible characters."""
    if text.isascii():
        return text
    visible = (sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf")
    digits = "".join(str(unicodedata.decimal(sign, sign)) for sign in visible)
    return digits.translate({0x66B: ".", 0x66C: ","}).strip()


def cure(name: str, text: str) -> str:
    text = simplify(text)

    def digits(part: str) -> str:
        return "-" * (text[0] in "-\u2212\u2013") + (re.sub(r"\D", "", part) or "0")

    match = PATTERNS[name].fullmatch(text)
    decimals = (match and match.groupdict().get("decimals")) or ""
    plain = digits(text.removesuffix(decimals)) + decimals.replace(",", ".")
    return NOTATIONS[name].cure.format(whole=digits(text), plain=plain, simple=text)


def read_notation(cells: pd.Series) -> tuple[bool, str, str]:
    """Whether texts are meant as numbers, although not all are plain ones; the fault of those that are not, with the
    fix, or "" if they are other text; and a hint: a possible meaning of the cells, or "".
    """
    counts: Counter[str] = Counter()  # of cells, by notation
    texts: dict[str, list[str]] = {}
    of_text = np.bincount(cells.cat.codes + 1, minlength=len(cells.cat.categories) + 1)[1:]  # without empty cells
    for text, count in zip(cells.cat.categories, of_text.tolist(), strict=True):
        if count:
            texts.setdefault(name := notation_of(text), []).append(text)
            counts[name] += count
    filled, other, plain = counts.total(), counts.pop("", 0), counts.pop("number", 0)
    for name in ("decimals", "thousands"):  # unambiguous commas decide the meaning of the others
        if "comma" in counts and "," in texts.get(name, [""])[0]:
            counts[name] += counts.pop("comma")
    numeric = [name for name in counts if name != "missing"]
    if not counts or not (plain or numeric):
        words = [" ".join(word.split())[:30] for word in texts.get("", [])[: MOST_WORDS + 1]]
        is_mixed = 0 < len(words) <= MOST_WORDS and len(texts.get("number", [])) >= MANY_NUMBERS
        mixed = f"numbers in {plain:,} of {filled:,} cells, {', '.join(words)} in the others"
        return False, "", mixed if is_mixed else ""
    (first, count), *more = counts.most_common(2)
    shown = {name: f"such as {texts[name][0]} ({cure(name, texts[name][0])})" for name in counts}
    fault = f"{NOTATIONS[first].what} in {count:,} of {filled:,} cells, {shown[first]}"
    fault += "".join(f", and {NOTATIONS[name].what} in {few:,}, {shown[name]}" for name, few in more)
    is_numeric = other <= MOST_OTHERS * filled
    if is_numeric and not plain and MAYBE_CATEGORY.issuperset(numeric):
        few_bounds = numeric == ["bound"] and len(texts["bound"]) <= MOST_WORDS  # as in two answers, <5 and >=5
        return False, fault, "" if few_bounds else fault
    return is_numeric, fault if count >= other else "", ""


def find_notations(columns: list[Column], cells: Columns) -> dict[str, str]:
    """By column, the fault of cells in another notation or with a word for a missing number.

    If nearly all cells are such, the column becomes numeric, so its rows are rejected. Other columns get a hint.
    """
    faults = {}
    for column in columns:
        texts = cells.get(column.name)
        if texts is None or texts.dtype == np.float64:
            continue
        if column.kind == "number" or column.reason in ("text", "nearly all values distinct"):
            is_numeric, faults[column.name], hint = read_notation(texts)
            if column.kind != "number" and not is_id_name(column.name):
                column.hint = f"{hint}; read as text" if hint and column.kind == "category" else hint
                if is_numeric:
                    column.kind, column.reason = "number", ""
        if column.reason == "--categorical" or may_lose_digits(column.name):
            column.warning = lost_digits(texts.cat.categories)
    return faults


def lost_digits(texts: Iterable[str]) -> str:
    """A warning if ids had more digits than the file has; otherwise ""."""
    found = ((text, LOST_DIGITS.fullmatch(text)) for text in texts)
    lost = [text for text, match in found if match and len(match["decimals"] or "") < int(match["exponent"]) > 8]
    why = "have lost digits, probably in a spreadsheet, so different ids look the same; export them again as text"
    return f"ids such as {lost[0]} {why}" if lost else ""
