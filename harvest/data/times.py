"""Columns of times: how they are recognized, and converted to seconds since 1970."""

import email.utils
import math
import re
import warnings

import numpy as np
import pandas as pd
from pandas.tseries.api import guess_datetime_format

from harvest.data.cells import parse_number, parse_time

TIME_NAMES = {"timestamp", "datetime", "date", "time", "created_at", "updated_at"}
TIMESTAMP = "a timestamp"  # why a column is dropped; --split time may sort by it
RISING = "a time that rises from row to row"  # another reason
CLOCKS = "times of day or durations as text"  # another reason
STAMP_WORDS = {"timestamp", "datetime", "date", "epoch", "ts"}  # in names: used for moments only
MOMENT_WORDS = {"time", *STAMP_WORDS}
EVENT_WORDS = {"at", "start", "started", "stop", "stopped", "begin", "began", "end", "ended", "created", "updated"}
TIME_WORDS = {*MOMENT_WORDS, *EVENT_WORDS}
UNIT_WORDS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "seconds": 1.0, "ms": 1e3, "msec": 1e3, "millis": 1e3}
UNIT_WORDS |= {"milliseconds": 1e3, "us": 1e6, "usec": 1e6, "micros": 1e6, "microseconds": 1e6}
UNIT_WORDS |= {"ns": 1e9, "nsec": 1e9, "nanos": 1e9, "nanoseconds": 1e9}
UNITS = (1.0, 1e3, 1e6, 1e9)  # per second
EARLIEST, LATEST = 631_152_000, 4_102_444_800  # 1990 and 2100, in seconds since 1970; durations are rarely in between
LONGEST_LOG = 20 * 365.25 * 86_400  # seconds that times may span in a column that is not named like a time
PAGE = 4_096  # bytes; sizes of memory and disks are multiples of this, times are not
DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # of numbers that spell a date
MOST_FORMATS = 30  # tried in one column; more would take minutes in a column of many different texts
MONTH = r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
MONTH += r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
DATE = re.compile(  # text that looks like a date, with or without a time of day; parsing it decides
    r"((mon|tue|wed|thu|fri|sat|sun)[a-z]*,? )?"
    r"(\d{4}(?P<a>[-/.])\d{1,2}(?P=a)\d{1,2}|\d{1,2}(?P<b>[-/.])\d{1,2}(?P=b)\d{4}|\d{1,2}/\d{1,2}/\d\d"
    rf"|\d\d(?P<c>[-.])\d\d(?P=c)\d\d|\d{{1,2}}(?P<d>[- ]){MONTH}(?P=d)(\d{{4}}|\d\d)|{MONTH} +\d{{1,2}}(, \d{{4}})?"
    r"|\d{8}(?=[T _]\d{4}))(Z|-\d\d:\d\d|[T ,_+\xa0]+\d.*)?"
    r"|(19|20)\d\d-(0[1-9]|1[0-2]|W(0[1-9]|[1-4]\d|5[0-3])(-[1-7])?)"
    rf"|\[?\d\d/{MONTH}/\d{{4}}:\d\d:\d\d:\d\d [+-]\d{{4}}\]?",
    re.ASCII | re.IGNORECASE,
)
OTHER_DATE = re.compile(  # text that is probably a date, but is not read: week, quarter, day of the year, Chinese
    rf"(19|20)\d\d[- /]?([WQ]\d\d?(-[1-7])?|[0-3]\d\d)|\d{{4}} ?[年년].*|(\d\d?/|{MONTH}[- ])(19|20)\d\d",
    re.ASCII | re.IGNORECASE,
)
CLOCK = re.compile(
    r"(\d\d?:\d\d(:\d\d)?)([.,]\d+|)[ \xa0\u202f]*([ap])(?:\.?[ \xa0\u202f]*m)?\b\.?", re.ASCII | re.IGNORECASE
)
WEB_LOG = re.compile(r"\[?(\d\d)/([a-z]+)/(\d{4}):(\d\d:\d\d:\d\d .{5})\]?", re.IGNORECASE)
WEEK = re.compile(r"^(\d{4}-W\d\d)$", re.ASCII)  # without a day: its Monday
LITERALS = re.compile(r"%Hh|%.|T|Z|UTC|GMT")  # of a format; other letters may be a.m. in another language
SHORT_YEAR = re.compile(rf"(\d\d?([/.])\d\d?\2|\d\d?[- ]{MONTH}[- ])(\d\d)(?!\d)", re.ASCII | re.IGNORECASE)
SHORT_SLASHES = re.compile(r"\d\d/\d\d?/\d\d(?!\d)", re.ASCII)
TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d([.,]\d+)?)?( ?[ap]m)?", re.ASCII | re.IGNORECASE)


def are_times(known: np.ndarray, words: set[str], is_quantity: bool) -> bool:
    """Whether numbers [N] are times from 1990 to 2100 in one unit, and the name of the column does not contradict it.

    Seconds may be bytes or hashes, and nanoseconds durations: these need a name with a word for times, or values that
    are close together and not multiples of a page.
    """
    if not len(known) or number_times(known) is None:
        return False
    if words & STAMP_WORDS:
        return True
    low, high = known.min(), known.max()
    unit = next((unit for unit in UNITS if EARLIEST * unit <= low and high <= LATEST * unit), None)
    if is_quantity or {UNIT_WORDS[word] for word in words & UNIT_WORDS.keys()} - {unit}:
        return False
    if unit is None:  # dates in digits, or several units
        return bool(words & TIME_WORDS) or high < 2 * low
    close = high - low <= LONGEST_LOG and np.any(known % PAGE)
    return bool(words & TIME_WORDS or close) if unit == 1 else unit > 1e3 or bool(np.any(known % PAGE))


def number_times(known: np.ndarray) -> np.ndarray | None:
    """Numbers [N] in seconds since 1970; None unless all are times from 1990 to 2100 or dates in digits."""
    if not len(known) or known.min() < 19_900_101 or known.max() > LATEST * UNITS[-1]:  # as most numbers are
        return None
    for digits, form in DIGITS.items():
        if known.min() >= 1990 * 10 ** (digits - 4) and known.max() < 2100 * 10 ** (digits - 4):
            if np.any(known % 1):
                return None
            moments = pd.to_datetime(pd.Series(known.astype(np.int64).astype(str)), format=form, errors="coerce")
            return None if moments.hasnans else seconds_of(moments)
    seconds = to_seconds(known)
    return None if np.isnan(seconds).any() else seconds


def to_seconds(values: np.ndarray) -> np.ndarray:
    """Numbers [N] in seconds since 1970; NaN if they are not times from 1990 to 2100 in one of the units."""
    seconds = np.full(len(values), math.nan)
    for unit in UNITS:
        within = (values >= EARLIEST * unit) & (values <= LATEST * unit)
        seconds[within] = values[within] / unit
    return seconds


def seconds_of(moments: pd.Series) -> np.ndarray:
    """Moments, with a zone or in UTC, as seconds since 1970."""
    return ((moments - pd.Timestamp(0, tz=moments.dt.tz)) / pd.Timedelta(seconds=1)).to_numpy()


def read_times(cells: pd.Series) -> np.ndarray:
    """The times of a column [N]: NaN if empty, infinity if not a time.

    Times are in seconds since 1970. If not all numbers are times, they keep their values, which also give an order. A
    date becomes minus infinity if no cell of the column shows which number is the day and which the month.
    """
    if cells.dtype == np.float64:
        return rescale(cells.to_numpy())
    texts = cells.cat.categories.tolist()
    numbers = np.array([parse_number(text) for text in texts], float)
    times = np.array([parse_time(text) for text in texts], float)
    is_number = np.isfinite(numbers)
    times[is_number] = rescale(numbers[is_number])
    rest = [place for place in np.flatnonzero(np.isinf(times)) if DATE.fullmatch(texts[place])]
    times[rest] = read_dates([texts[place] for place in rest])
    return np.append(times, math.nan)[cells.cat.codes.to_numpy()]  # -1, an empty cell, is last


def rescale(values: np.ndarray) -> np.ndarray:
    """Numbers [N] in seconds since 1970 if all are times, otherwise unchanged; NaN if missing."""
    filled = ~np.isnan(values)
    if (seconds := number_times(values[filled])) is None:
        return values
    times = np.full(len(values), math.nan)
    times[filled] = seconds
    return times


def read_dates(texts: list[str]) -> np.ndarray:
    """Dates not in ISO 8601 [N] in seconds since 1970; infinity and minus infinity as in read_times().

    The order of day and month is the one in which more of the texts are valid dates; with dots, the day comes first. A
    two-digit year comes last; if it could come first in all cells, they are ambiguous.
    """
    months, days = (read_formats(texts, day_first) for day_first in (False, True))
    failed = [np.count_nonzero(np.isinf(seconds)) for seconds in (months, days)]
    if failed[0] != failed[1]:
        seconds = months if failed[0] < failed[1] else days
    else:
        differ = np.isfinite(months) & np.isfinite(days) & (months != days)
        by_points = all(re.match(r"\d+\.", texts[place]) for place in np.flatnonzero(differ))
        seconds = np.where(differ & ~by_points, -math.inf, np.minimum(days, np.where(differ, math.inf, months)))
    short = [place for place, text in enumerate(texts) if SHORT_SLASHES.match(text)]
    if short and np.isfinite(read_formats([f"20{texts[place]}" for place in short], False)).all():
        seconds[short] = -math.inf
    return seconds


def read_formats(texts: list[str], day_first: bool) -> np.ndarray:
    """Dates [N] with day and month in this order in seconds since 1970, infinity if they cannot be parsed."""
    seconds, rest = np.full(len(texts), math.inf), pd.Series(texts, dtype=object).sort_values()
    rest = rest.str.replace(CLOCK, r"\1\3 \4m", regex=True).map(lengthen_year)
    rest = rest.str.replace(WEB_LOG, r"\1-\2-\3 \4", regex=True).str.replace("\xa0", " ")
    rest = rest.str.replace(WEEK, r"\1-1", regex=True)
    for _ in range(MOST_FORMATS):
        if not len(rest):
            break
        if form := guess_format(rest.iloc[0], day_first):
            moments = pd.to_datetime(rest, format=form, errors="coerce", utc=True).dropna()
            seconds[moments.index] = seconds_of(moments)
            rest = rest.drop(moments.index)
        else:
            seconds[rest.index[0]] = read_mail(rest.iloc[0])
            rest = rest.iloc[1:]
    return seconds


def lengthen_year(text: str) -> str:
    """A date with a two-digit year written with four digits, from 1969 to 2068."""
    year = SHORT_YEAR.match(text)
    return f"{year[1]}{19 + (int(year[3]) < 69)}{text[year.start(3) :]}" if year else text


def guess_format(text: str, day_first: bool) -> str | None:
    """The format of a date, as pandas guesses it, with day and month in this order if both are numbers."""
    if re.match(r"\d{4}-W", text):
        return "%G-W%V-%u"
    year_first = bool(re.match(r"\d{4}", text))
    morning = CLOCK.sub(lambda clock: f"09{clock[1][clock[1].index(':') :]}{clock[3]} AM", text)
    with warnings.catch_warnings(action="ignore"):  # about another order of day and month, which is checked below
        form = guess_datetime_format(morning, dayfirst=day_first and not year_first)
    if form and any(map(str.isalpha, LITERALS.sub("", form))):
        return None
    if form and not year_first and "%m" in form and (form.index("%d") < form.index("%m")) != day_first:
        return None
    return form


def read_mail(text: str) -> float:
    """The date of an e-mail (RFC 2822), whose zone may be a name, in seconds since 1970; infinity if it is not one."""
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return math.inf
    return moment.timestamp() if moment.tzinfo else math.inf


def show_readings(text: str) -> str:
    """The possible meanings of an ambiguous date, for a message."""
    spelled = [(text, False), (text, True)] + [(f"20{text}", False)] * bool(SHORT_SLASHES.match(text))
    seconds = [read_formats([text], day_first)[0] for text, day_first in spelled]
    return " or ".join(dict.fromkeys(f"{pd.Timestamp(one, unit='s'):%Y-%m-%d}" for one in seconds if np.isfinite(one)))
