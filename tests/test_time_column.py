"""The column that --split time sorts by, and those that are no such."""

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import numpy as np
import pytest
from table_files import arguments, column_of, kinds, read, read_split, refusal, write

from harvest.data.splits import describe_split, make_splits
from harvest.data.table import read_table
from harvest.data.times import RISING

START = datetime(2026, 1, 31, 22, 30, tzinfo=UTC)
ZONES = [timezone(timedelta(hours=hours)) for hours in (-8, 0, 5.5)]


def moment(minutes):
    return START + timedelta(minutes=int(minutes))


def local(index):
    return moment(index).astimezone(ZONES[index % 3])


SPELLINGS = {  # of the time of a row: the name of the column, what is in it
    "a date": ("date", lambda index: (START + timedelta(days=index)).strftime("%Y-%m-%d")),
    "a T and a Z": ("when", lambda index: moment(index).strftime("%Y-%m-%dT%H:%M:%SZ")),
    "a space, no seconds": ("Timestamp", lambda index: moment(index).strftime("%Y-%m-%d %H:%M")),
    "fractions of all lengths": ("timestamp", lambda index: f"2026-01-31T10:00:00.{index:03d}" + "0" * (index % 7)),
    "several zones": ("created_at", lambda index: local(index).isoformat()),
    "zones after a space": ("when", lambda index: local(index).strftime("%Y-%m-%d %H:%M:%S %z")),
    "seconds": ("timestamp", lambda index: int(moment(index).timestamp())),
    "seconds with a fraction": ("event_ts", lambda index: f"{1_700_000_000 + index / 8:.3f}"),
    "milliseconds": ("event time", lambda index: 1_700_000_000_000 + index),
    "nanoseconds": ("epoch", lambda index: (1_700_000_000 + index) * 10**9),
    "seconds, then milliseconds": ("ts", lambda index: (1_700_000_000 + index) * (1_000 if index > 40 else 1)),
}


def write_times(path, name, spell, order):
    """Rows of which keyboard_activity is the order in time, written in another order."""
    lines = [f"{-100 - index % 3},{index},{spell(index)},{index * 7 % 5},{index // 2 % 2}" for index in order]
    return write(path, lines, header=f"foreground_app,keyboard_activity,{name},mouse_activity,productive")


def shuffled(count, seed):
    return np.random.default_rng(seed).permutation(count).tolist()


def keyboard(table):
    return table.numbers("keyboard_activity").tolist()


def time_column(path, **flags):
    return tuple(read_table(arguments(path, split="time", **flags))[1])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_rows_are_sorted_by_their_times(tmp_path, spelling):
    name, spell = SPELLINGS[spelling]
    path = write_times(tmp_path / "a.csv", name, spell, shuffled(60, 1))
    table, (split,) = read_split(path, split="time")
    assert keyboard(table) == list(range(60)) and split.test.tolist() == list(range(51, 60))
    assert time_column(path) == (name, "it contains times") and kinds(table)[name] == ("dropped", "a timestamp")


def test_the_order_of_rows_in_the_file_changes_nothing(tmp_path):
    """Also when many rows are of the same time."""
    tables = []
    for seed in (1, 2):
        order = shuffled(90, seed)
        path = write_times(tmp_path / "a.csv", "date", lambda index: moment(index // 20 * 1_440).date(), order)
        tables.append(read(path))
    assert tables[0].frame.equals(tables[1].frame)
    assert [number // 20 for number in keyboard(tables[0])] == sorted(index // 20 for index in range(90))
    assert keyboard(tables[0]) != sorted(keyboard(tables[0]))


def test_without_a_column_of_time_the_order_is_that_of_the_files(tmp_path):
    """A duration is no time, nor is what someone has asked to leave out."""
    order = shuffled(60, 1)
    lines = [f"{index % 3},{index},{5_000 + index},{index // 2 % 2}" for index in order]
    path = write(tmp_path / "a.csv", lines, header="foreground_app,keyboard_activity,time_last_request,productive")
    unknown = (None, "there is no timestamp column")
    assert keyboard(read(path)) == order and kinds(read(path))["time_last_request"] == ("number", "")
    assert time_column(path) == unknown
    path = write_times(tmp_path / "b.csv", *SPELLINGS["seconds"], order)
    assert time_column(path, drop=["timestamp"]) == unknown
    path = write_times(tmp_path / "b.csv", "time", lambda index: 90_000 - index, order)
    assert time_column(path) == unknown
    path = write_times(tmp_path / "b.csv", "date", lambda _: "2024-01-01", order)
    assert time_column(path) == (None, "the timestamp column date has the same time in all rows")
    assert tuple(read_table(arguments(path))[1]) == (None, "")


def test_a_column_of_time_can_be_named(tmp_path):
    order = shuffled(60, 1)
    lines = [f"{index % 3},{index},{int(moment(-index).timestamp())},{index + 7},{index // 2 % 2}" for index in order]
    path = write(tmp_path / "a.csv", lines, header="foreground_app,keyboard_activity,timestamp,snapshot,productive")
    assert keyboard(read(path)) == list(range(59, -1, -1))
    table = read(path, time_column="snapshot")
    assert keyboard(table) == list(range(60)) and kinds(table)["snapshot"] == ("dropped", "--time-column")
    assert time_column(path, time_column="snapshot") == ("snapshot", "as requested")
    table = read(path, time_column="snapshot", numeric=["snapshot", "timestamp"])
    assert {"snapshot", "timestamp"} <= {column.name for column in table.of_kind("number")}
    for name, message in (("moment", "has no such column"), ("", "has no such column"), ("productive", "is the label")):
        error = refusal(path, time_column=name)
        assert error.startswith(f"--time-column {name}: ") and message in error


@pytest.mark.parametrize("cell", ["", "soon", "2026-02-30", "2026-01-31 x", "1e999", "32.01.2026"])
@pytest.mark.parametrize("spelling", ["seconds", "a T and a Z"])
def test_a_row_without_a_time_is_refused(tmp_path, cell, spelling):
    name, spell = SPELLINGS[spelling]
    path = write_times(tmp_path / "a.csv", name, lambda index: cell if index == 7 else spell(index), range(60))
    assert len(read(path, split="random").label) == 60
    fault = "not a time; write times as 2026-01-31 09:30:00 or seconds since 1970" if cell else "the time is missing"
    assert f"{path}: line 9, column {name}: {fault}; fix the rows, choose another column" in refusal(path)
    table = read(path, skip_bad_rows=True)
    assert keyboard(table) == [*range(7), *range(8, 60)] and "line 9: invalid cells, skipped" in table.notes


def american(when):
    return when.strftime("%m/%d/%Y %I:%M:%S %p")


OTHER_SPELLINGS = {
    "month first": lambda when: when.strftime("%m/%d/%Y %H:%M"),
    "month first, not padded": lambda when: f"{when.month}/{when.day}/{when:%Y %H:%M}",
    "month first, AM and PM": american,
    "a comma, am and pm": lambda when: american(when).replace("2026 ", "2026, ").lower(),
    "day first": lambda when: when.strftime("%d/%m/%Y %H:%M"),
    "day first, dashes": lambda when: when.strftime("%d-%m-%Y %H:%M"),
    "points": lambda when: when.strftime("%d.%m.%Y %H:%M:%S"),
    "year first, slashes": lambda when: when.strftime("%Y/%m/%d %H:%M"),
    "ISO 8601 with AM and PM": lambda when: when.strftime("%Y-%m-%d %I:%M %p"),
    "ISO 8601 without signs": lambda when: when.strftime("%Y%m%dT%H%M%SZ"),
    "digits of a second": lambda when: when.strftime("%Y%m%d%H%M%S"),
    "digits of a minute": lambda when: when.strftime("%Y%m%d%H%M"),
    "an e-mail": format_datetime,
    "an e-mail, zone by name": lambda when: format_datetime(when, usegmt=True),
    "a month by name": lambda when: when.strftime("%d-%b-%Y %H:%M"),
    "month first by name": lambda when: when.strftime("%b %d, %Y %I:%M %p"),
    "years of two digits": lambda when: when.strftime("%m/%d/%y %H:%M"),
    "years of two digits, a month by name": lambda when: when.strftime("%d-%b-%y %H:%M"),
    "ctime": lambda when: when.ctime(),
    "a web server's log": lambda when: when.strftime("[%d/%b/%Y:%H:%M:%S +0100]"),
    "Spanish Excel": lambda when: american(when).replace("AM", "a. m.").replace("PM", "p.\xa0m."),
    "A and P": lambda when: american(when).replace(" AM", "A").replace(" PM", "P"),
    "a zone by name": lambda when: when.strftime("%Y-%m-%d %H:%M:%S UTC"),
}


@pytest.mark.parametrize("spelling", OTHER_SPELLINGS)
@pytest.mark.parametrize("name", ["timestamp", "when"])
def test_other_spellings_are_read_where_they_have_one_meaning(tmp_path, name, spelling):
    """The first of 60 rows, a day and a minute apart, is of the 31st of January."""
    spell = OTHER_SPELLINGS[spelling]
    path = write_times(tmp_path / "a.csv", name, lambda index: quote(spell(moment(index * 1_441))), shuffled(60, 1))
    assert keyboard(read(path)) == list(range(60)) and kinds(read(path))[name] == ("dropped", "a timestamp")
    assert kinds(read(path, split="random"))[name] == ("dropped", "a timestamp")


def quote(text):
    return f'"{text}"'


def test_dates_in_digits_are_days(tmp_path):
    path = write_times(tmp_path / "a.csv", "day", lambda index: f"{moment(index // 2 * 1_440):%Y%m%d}", shuffled(60, 1))
    args = arguments(path, split="time")
    table, time = read_table(args)
    assert [number // 2 for number in keyboard(table)] == [index // 2 for index in range(60)]
    assert tuple(time) == ("day", "it contains dates without a time of day")
    note = "           note: the times are whole days: training and test rows may be from the same day"
    assert note in describe_split(args, table, make_splits(args, table.label, 1), time)
    path = write_times(tmp_path / "b.csv", "day", lambda index: f"{moment(index * 1_440):%Y%m%d}", range(60))
    assert time_column(path) == ("day", "it contains times")  # each day has one row


AMBIGUOUS = "01/02/2026 may be 2026-01-02 or 2026-02-01, and no other cell shows which; write dates as 2026-01-31"
UNREADABLE = {
    "day and month are both below 13": (
        "date",
        lambda index: f"{index % 12 + 1:02d}/{index // 12 + 2:02d}/2026",
        AMBIGUOUS,
    ),
    "a year of two digits, where it may be": ("date", lambda index: f"{index + 10}-01-02", "10-01-02 cannot be read"),
    "no year": ("timestamp", lambda index: f"Jan 31 10:{index:02d}:00", "Jan 31 10:00:00 cannot be read as a time"),
    "an unknown zone": ("ts", lambda index: f"2026-01-31 10:{index:02d} CEST", "CEST cannot be read as a time"),
    "another language": ("timestamp", lambda index: f"{index} janvier", "0 janvier cannot be read as a time"),
    "a time of day": ("time", lambda index: f"10:{index:02d}", "10:00 cannot be read as a time"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_column_named_as_a_time_is_never_passed_over(tmp_path, case):
    name, spell, fault = UNREADABLE[case]
    path = write_times(tmp_path / "a.csv", name, spell, range(60))
    error = refusal(path)
    assert error.startswith(f"{path}: line 2, column {name}: ") and fault in error
    assert error.endswith(f"choose another column with --time-column or drop this one with --drop {name}")
    assert refusal(path, time_column=name).endswith("choose another column with --time-column")
    assert keyboard(read(path, drop=[name])) == list(range(60))
    assert len(read(path, split="random").label) == 60


def test_one_cell_tells_day_and_month_of_all(tmp_path):
    cells = {
        0: "05/01/2026",
        1: "01/04/2026",
    }  # the fifth of January is before the first of April, May after the fourth
    for settling, first in (("13/01/2026", 0), ("01/13/2026", 1)):
        path = write_times(tmp_path / "a.csv", "when", lambda index, last=settling: cells.get(index, last), range(40))
        assert keyboard(read(path))[0] == first
    both = ["01/02/2026", "13/02/2026", "02/13/2026"]
    path = write_times(tmp_path / "a.csv", "when", lambda index: both[index % 3], range(60))
    assert AMBIGUOUS in refusal(path)


def test_a_timestamp_of_other_numbers_is_refused(tmp_path):
    path = write_times(tmp_path / "a.csv", "timestamp", lambda index: 45_321.25 + index * 7 % 60, range(60))
    assert refusal(path) == (
        f"{path}: line 2, column timestamp: 45321.25 is not a time between 1990 and 2100 unless it is a serial date of "
        "Excel, 2024-01-30 06:00; use --time-column timestamp to sort by it, or --numeric timestamp to keep the file "
        "order"
    )
    years = write_times(tmp_path / "b.csv", "timestamp", lambda index: 2_026 + index % 9, range(60))
    assert ": 2026 is not a time between" in refusal(years)
    assert keyboard(read(path, time_column="timestamp"))[:2] == [0, 43]
    zero = write_times(tmp_path / "c.csv", "timestamp", lambda index: index % 20 and 1.7e9 + index * 7 % 60, range(60))
    assert ": line 2, column timestamp: 0 is not a time between" in refusal(zero)
    zero = write_times(
        tmp_path / "d.csv", "timestamp", lambda index: (index != 9) * (1.7e9 + index * 7 % 60), range(60)
    )
    assert ": line 11, column timestamp: 0 is not a time between" in refusal(zero)
    assert keyboard(read(path, numeric=["timestamp"])) == list(range(60))


UNREAD = {  # numbers of other units, texts that look like dates under any name
    "serial dates": ("Date", lambda index: f"{46_025.998 + index * 7 % 60:.3f}", "2026-01-03 23:57; use"),
    "serial dates, another name": ("start_time", lambda index: 46_025.5 + index, "2026-01-03 12:00; use --time-column"),
    "Windows": (
        "FileTime",
        lambda index: 134_122_563_320_000_000 + index * 10**7,
        "use --time-column FileTime to sort",
    ),
    "years": ("year", lambda index: 1_980 + index % 40, "1980 is not a time between 1990 and 2100; use --time-column"),
    "months in digits": ("month", lambda index: 202_501 + index % 12, "202501 is not a time"),
    "days of a year": ("x2", lambda index: f"2026-{index + 1:03d}", "2026-001 cannot be read as a time; write it as"),
    "Chinese": ("x2", lambda index: f"2026年01月{index % 28 + 1:02d}日", "2026年01月01日 cannot be read as a time"),
    "quarters": ("x2", lambda index: f"2026-Q{index % 4 + 1}", "2026-Q1 cannot be read as a time"),
    "a month by name": ("month", lambda index: f"{['Juli', 'März'][index % 2]} 2026", "Juli 2026 cannot be read"),
}


@pytest.mark.parametrize("case", UNREAD)
def test_the_order_of_the_file_is_never_taken_where_a_column_may_hold_times(tmp_path, case):
    name, spell, fault = UNREAD[case]
    path = write_times(tmp_path / "a.csv", name, spell, range(60))
    assert refusal(path).startswith(f"{path}: line 2, column {name}: ") and fault in refusal(path)
    assert len(read(path, split="random").label) == 60
    unknown = (None, "there is no timestamp column")
    for flags in ({"categorical": [name]}, {"drop": [name]}):
        assert time_column(path, **flags) == unknown


def test_a_date_in_several_columns_is_refused(tmp_path):
    lines = [f"2026,{index // 28 + 1},{index % 28 + 1},{index * 7 % 11},{index // 2 % 2}" for index in range(60)]
    path = write(tmp_path / "a.csv", lines, header="year,month,day,x,productive")
    assert refusal(path) == (
        f"{path}: line 2, column year: the columns year, month and day together contain one time; write it in "
        "one column, such as 2026-01-31, or --numeric year to keep the file order"
    )
    assert time_column(path, numeric=["year"]) == (None, "there is no timestamp column")


@pytest.mark.parametrize("name", ["hour_of_day", "day_of_week", "idle_time", "time_to_date", "month", "week", "time"])
def test_parts_of_a_cycle_and_durations_are_not_times(tmp_path, name):
    path = write_times(tmp_path / "a.csv", name, lambda index: index * 7 % 11 + 1, range(60))
    assert time_column(path) == (None, "there is no timestamp column")


def test_a_date_of_birth_is_not_sorted_by_without_a_request(tmp_path):
    path = write_two(
        tmp_path / "a.csv", lambda index: index % 7, lambda index: day(index * 37 % 60), ("y", "birth_date")
    )
    error = f"{path}: line 1, column birth_date: the only timestamp column seems to contain dates of birth"
    assert refusal(path).startswith(error) and "use --time-column birth_date to sort by it" in refusal(path)
    assert time_column(path, time_column="birth_date")[0] == "birth_date"
    path = write_two(tmp_path / "a.csv", day, lambda index: day(index * 37 % 60), ("visit_date", "birth_date"))
    assert time_column(path)[0] == "visit_date"


def write_two(path, first, second, names=("visit_date", "entry_date")):
    lines = [f"{index * 7 % 11},{first(index)},{second(index)},{index // 2 % 2}" for index in range(60)]
    return write(path, lines, header=f"x,{','.join(names)},productive")


def day(index):
    return f"{moment(index * 1_440):%Y-%m-%d}"


def test_several_times_are_a_question_unless_they_agree(tmp_path):
    path = write_two(tmp_path / "a.csv", lambda index: day(index // 3), lambda index: day(index * 37 % 60 - 9_000))
    cure = "sort the rows differently; choose the one to sort by with --time-column"
    assert refusal(path) == f"{path}: line 1: the timestamp columns entry_date and visit_date {cure}"
    assert read(path, time_column="visit_date").line_numbers[0] in (2, 3, 4)
    assert len(read(path, split="random").label) == 60
    path = write_two(tmp_path / "a.csv", day, lambda index: day(index * 37 % 60), ("Timestamp", "birth_date"))
    assert time_column(path)[0] == "Timestamp"
    path = write_two(tmp_path / "a.csv", lambda index: day(index // 3), lambda index: 1_700_000_000_000 + index)
    assert time_column(path)[0] == "entry_date"  # it is finer
    path = write_two(tmp_path / "a.csv", day, lambda index: f"09:{index:02d}", ("date", "time"))
    assert time_column(path)[0] == "date"
    path = write_two(tmp_path / "a.csv", lambda index: "" if index == 5 else day(index), lambda index: day(index + 90))
    assert time_column(path)[0] == "entry_date"  # it is there in all rows


def test_columns_that_are_mostly_empty_or_no_times_are_not_asked_about(tmp_path):
    path = write_two(tmp_path / "a.csv", day, lambda index: day(index * 37 % 60) if index % 3 == 0 else "")
    assert time_column(path)[0] == "visit_date"
    path = write_two(tmp_path / "a.csv", lambda index: f"q{index % 4}", lambda index: index, ("time_slot", "x2"))
    error = f"{path}: line 2, column time_slot: q0 cannot be read as a time"
    cure = "choose another column with --time-column or, if its cells are not times, use --categorical time_slot"
    assert refusal(path).startswith(error) and refusal(path).endswith(cure)
    assert time_column(path, categorical=["time_slot"]) == (None, "there is no timestamp column")
    path = write_two(
        tmp_path / "a.csv", lambda index: ["morning", "noon"][index % 2], lambda index: index, ("time", "x2")
    )
    assert time_column(path) == (None, "there is no timestamp column")


@pytest.mark.parametrize("name", ["time", "timestamp", "time_s"])
def test_a_time_that_rises_through_all_rows_sorts_them(tmp_path, name):
    path = write_times(tmp_path / "a.csv", name, lambda index: 3 + 10 * index, range(60))
    for split in ("time", "random"):
        assert kinds(read(path, split=split))[name] == ("dropped", RISING)
    assert time_column(path) == (name, "it contains times") and keyboard(read(path)) == list(range(60))
    other = write_times(tmp_path / "b.csv", name, lambda index: 3 + 10 * index, range(60))
    other.write_text(other.read_text().replace(",0\n", ",0 \n"))  # another content
    why = f"there is no timestamp column and {name} restarts: --time-column {name} sorts by it"
    assert tuple(read_table(arguments(path, other, split="time"))[1]) == (None, why)
    table = read(path, other, time_column=name)
    assert keyboard(table) == [number // 2 for number in range(120)]


def test_a_timestamp_column_of_one_value_is_refused(tmp_path):
    for cell in (5, "2026-01-31", ""):
        path = write_times(tmp_path / "a.csv", "when", lambda _, cell=cell: cell, range(60))
        assert refusal(path, time_column="when").startswith("--time-column when: all times are the same or missing;")


def test_numbers_that_look_like_times_can_be_kept(tmp_path):
    for name, number in (
        ("build", lambda index: 20_250_101 + index % 20),
        ("v", lambda index: 1_700_000_000 + index % 17),
    ):
        path = write_times(tmp_path / "a.csv", name, number, range(60))
        found = column_of(read(path, split="random"), name)
        assert (found.kind, found.reason) == ("dropped", "a timestamp")
        assert found.hint.endswith(f"keep the column with --numeric {name} or --categorical {name}")
        assert column_of(read(path, numeric=[name], split="random"), name).kind == "number"
    path = write_times(tmp_path / "a.csv", *SPELLINGS["seconds"], range(60))
    assert column_of(read(path), "timestamp").hint == ""


def test_only_times_are_brought_to_seconds(tmp_path):
    """Counters, even those from 3e11 on, put the rows in their own order."""
    for count in (lambda index: 299_999_999_970 + index, lambda index: index**8, lambda index: (index - 30) * 10**14):
        path = write_times(tmp_path / "a.csv", "event", count, shuffled(60, 1))
        assert keyboard(read(path, time_column="event")) == list(range(60))


def test_times_under_any_name_sort_the_rows(tmp_path):
    path = write_two(
        tmp_path / "a.csv",
        lambda index: 1_588_032_811_170 + index * 86_400_017,
        lambda index: 1_588_061_580_620 + index * 86_400_019,
        ("start", "stop"),
    )
    assert {kinds(read(path))[name] for name in ("start", "stop")} == {("dropped", "a timestamp")}
    assert time_column(path) == ("start", "it contains times") and column_of(read(path), "x").kind == "number"
