"""Which cells are times, and in what order they put rows."""

import numpy as np
import pandas as pd
import pytest

from harvest.data.columns import AMOUNT_WORDS
from harvest.data.times import DATE, are_times, number_times, read_times, show_readings
from harvest.text import name_words

RISING = 1_769_851_805 + np.arange(60.0) * 601  # seconds, in 2026
GENERATOR = np.random.default_rng(1)


def is_time(name, values):
    words = name_words(name)
    return are_times(np.array(values, float), words, bool(words & AMOUNT_WORDS))


@pytest.mark.parametrize("name", ["start", "x", "startTime", "timestamp", "created_at", "lastSeen"])
@pytest.mark.parametrize("unit", [1, 1e3, 1e6, 1e9])
def test_times_are_known_whatever_their_name_and_unit(name, unit):
    assert is_time(name, RISING * unit) and is_time(name, GENERATOR.permutation(RISING) * unit)
    assert not is_time(name, np.where(np.arange(60) == 7, 5.0, RISING * unit))


def test_a_unit_in_the_name_is_that_of_the_times():
    for name, own in {"beganMs": 1e3, "start_ns": 1e9, "endedUs": 1e6, "began_s": 1}.items():
        assert [unit for unit in (1, 1e3, 1e6, 1e9) if is_time(name, RISING * unit)] == [own]


NO_TIMES = {  # values that may be seconds, and are none
    "memory_bytes": GENERATOR.integers(10**9, 4 * 10**9, 60),
    "rss": GENERATOR.integers(10**9, 4 * 10**9, 60),
    "working": GENERATOR.integers(300_000, 800_000, 60) * 4_096,  # pages
    "free": GENERATOR.integers(2 * 10**8, 9 * 10**8, 60) * 4_096,  # of a disk, as large as milliseconds
    "uptime_ms": 7e8 + np.arange(60) * 1e6,
    "latencyNs": GENERATOR.integers(7 * 10**8, 3 * 10**9, 60),
    "responseTimeNs": GENERATOR.integers(7 * 10**8, 3 * 10**9, 60),
    "window": GENERATOR.integers(7 * 10**8, 2**32 - 10**8, 4)[GENERATOR.integers(0, 4, 60)],  # hashes
    "salary": GENERATOR.integers(20_240_101, 20_249_999, 60),
    "idle": GENERATOR.lognormal(8, 2, 60),
    "year": GENERATOR.integers(1990, 2027, 60),
}


@pytest.mark.parametrize("name", NO_TIMES)
def test_quantities_that_may_be_seconds_are_no_times(name):
    assert not is_time(name, NO_TIMES[name])


def test_a_name_that_says_so_makes_times_of_several_units():
    mixed = np.where(np.arange(60) < 30, RISING, RISING * 1_000)
    assert is_time("ts", mixed) and not is_time("x", mixed)
    assert is_time("timestamp_ms", RISING)  # a wrong unit
    assert is_time("start", np.linspace(6.4e8, 4.1e9, 60)) and not is_time("x", np.linspace(6.4e8, 4.1e9, 60))


def test_numbers_in_seconds():
    seconds = 1_769_851_805.25
    np.testing.assert_array_equal(number_times(seconds * np.array([1, 1e3, 1e6])), [seconds] * 3)
    assert number_times(np.array([seconds, 5.0])) is None and number_times(np.array([])) is None
    np.testing.assert_array_equal(number_times(np.array([20260131.0, 20260201])), [1_769_817_600, 1_769_904_000])
    for none in (20260230, 20261301, 20260131.5, 19891231):
        assert number_times(np.array([20260131, none], float)) is None


def read_all(*texts):
    return read_times(pd.Series(pd.Categorical(texts))).tolist()


def test_cells_in_seconds():
    midnight = 1_769_817_600  # of the 31st of January 2026
    assert read_all("2026-01-31", "20260131", "01/31/2026", "31-Jan-2026", "2026/1/31") == [midnight] * 5
    assert read_all("31.01.2026", "01.02.2026") == [midnight, midnight + 86_400]  # the day is first between points
    assert read_all("1/31/2026 12:00 AM", "1/31/2026 12:30 pm") == [midnight, midnight + 45_000]
    nine = midnight + 32_400
    zones = "Sat, 31 Jan 2026 10:00:00 +0100", "Sat, 31 Jan 2026 04:00:00 EST", "01/31/2026 09:00:00 -0000"
    assert read_all(*zones, "2026-01-31 09:00:00 GMT") == [nine] * 4
    assert read_all("02/03/2026", "2026-01-31") == [-np.inf, midnight]
    assert read_all("soon", "2026-01-31", "02/30/2026", "09:30", "3.11.2", "10.0.0.1") == [
        np.inf,
        midnight,
        *[np.inf] * 4,
    ]
    np.testing.assert_array_equal(read_all(np.nan, "3e11", "5"), [np.nan, 3e11, 5])  # no times, so as they are
    np.testing.assert_array_equal(read_times(pd.Series([np.nan, midnight * 1e3])), [np.nan, midnight])
    noon = [f"1/31/2026 12:05{half}" for half in (" p. m.", "\xa0P.\xa0M.", "P", " p", "\u202fpm", " p.m")]
    assert (
        read_all(*noon, "1/31/2026 12:05 a. m.", "1/31/2026 12:05A") == [midnight + 43_500] * 6 + [midnight + 300] * 2
    )
    assert read_all("1/31/2026 03:05下午", "1/31/2026 3:05 μ.μ.", "1/31/2026 15h05") == [
        np.inf,
        np.inf,
        midnight + 54_300,
    ]
    assert read_all("2026-01", "2026-W05", "2026-W05-6") == [midnight - 30 * 86_400, midnight - 5 * 86_400, midnight]
    assert read_all("31/Jan/2026:01:00:00 +0100", "[30/Jan/2026:20:00:00 -0400]") == [midnight] * 2
    assert read_all("1/31/26", "2/1/99") == [midnight, 917_827_200] and read_all("31.01.26") == [midnight]
    assert read_all("26/01/31", "26/02/28", "soon") == [-np.inf, -np.inf, np.inf]  # days of January 2031, or of 2026
    assert show_readings("26/01/31") == "2031-01-26 or 2026-01-31"
    assert show_readings("02/03/2026 10:00") == "2026-02-03 or 2026-03-02"


def test_a_column_is_read_as_its_cells_are_one_by_one():
    moments = pd.Series(pd.date_range("2019-12-28", periods=900, freq="13h7min"))
    for form in ("%m/%d/%Y %H:%M", "%d.%m.%Y %H:%M", "%Y/%m/%d %I:%M %p", "%a, %d %b %Y %H:%M:%S +0000", "%Y%m%dT%H%M"):
        texts = moments.dt.strftime(form)
        expected = [pd.to_datetime(text, format=form, utc=True).timestamp() for text in texts]
        order = np.random.default_rng(2).permutation(len(texts))
        np.testing.assert_array_equal(read_times(texts[order].astype("category")), np.array(expected)[order])


def test_what_looks_like_a_date():
    dates = "2026-01-31|2026-01-31T10|2026-01-31Z|1/5/26 9:30|31.01.2026|31.01.26|Sat, 31 Jan 2026 09:30:00 +0000"
    assert [text for text in dates.split("|") if not DATE.fullmatch(text)] == []
    others = (
        "10.0.0.1|10.0.10.5|3.11.2|1.2.10|2026-01-31 report|3 days 12:00:00|Chapter 12|Mayer 5|12345678|09:30|2026|"
    )
    assert [text for text in others.split("|") if DATE.fullmatch(text)] == []
