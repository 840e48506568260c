"""What a column is, by its name and all its cells."""

import numpy as np
import pytest
from table_files import kinds, read, write

from harvest.cli import UserError
from harvest.data.columns import is_id_name
from harvest.data.times import CLOCKS, RISING
from harvest.text import name_words

GENERATOR = np.random.default_rng(4)
ROW_NUMBER = ("dropped", "a row number")
ANSWER = ("dropped", "added by predict.py")


def kind_of(path, name, values, header=None, **flags):
    """The kind of a column of these cells, the first of a file."""
    quote = '"' if flags.pop("quoted", False) else ""
    lines = [f"{quote}{cell}{quote},{index * 37 % 101},{index // 3 % 2}" for index, cell in enumerate(values)]
    file = write(path, lines, header=f"{name},idle,productive")
    return kinds(read(file, **{"split": "random"} | flags))[name or "unnamed_1"]


def test_words_of_a_name():
    assert name_words("App_Name-300s") == {"app", "name", "300s"}
    words = {"appId": "app id", "ProcessID": "process id", "HTTPAppID": "http app id", "appIDs": "app ids"}
    words |= {"startTime": "start time", "beganMs": "began ms", "isProductive": "is productive", "größe": "größe"}
    assert {name: name_words(name) for name in words} == {name: set(text.split()) for name, text in words.items()}


def test_ids_by_name():
    ids = ["appId", "ProcessID", "HTTPAppID", "app_id", "focusedDomain", "domainHash", "windowIds", "app_at_front"]
    ids += ["phone_id", "time_in_app_id", "active_app", "apps"]
    others = [
        "phone",
        "client_phone_number",
        "idle",
        "rapid",
        "paid",
        "appCount",
        "app_size",
        "appAgeMs",
        "distinctApps300s",
        "hashRate",
        "date_id",
        "time_in_app",
        "appUsage",
        "clicks_in_app",
        "openApps",
        "num_apps",
    ]
    assert [name for name in ids if not is_id_name(name)] == [] == [name for name in others if is_id_name(name)]


GAPS = np.sort(GENERATOR.choice(200, 60, replace=False))
INDEX_NAMES = ["", "Unnamed: 0", "Unnamed: 0.1", "index", "idx", "rownames", "row_names", "rowNumber", "row number"]
INDEX_NAMES += ["nr", "No", "X", "X.1", "V1", "level_0", "...1", "RowIndex", "row.names", "line_number"]


@pytest.mark.parametrize("name", INDEX_NAMES)
def test_an_index_with_gaps_is_a_row_number(tmp_path, name):
    path = tmp_path / "a.csv"
    assert kind_of(path, name, GAPS) == ROW_NUMBER == kind_of(path, name, GAPS, quoted=True)
    assert kind_of(path, name, [f"{row}.0" for row in GAPS]) == ROW_NUMBER
    assert kind_of(path, name, GAPS, numeric=[name or "unnamed_1"]) == ("number", "--numeric")
    few = np.sort(GAPS // 40)  # as values of a category
    for values in (GENERATOR.permutation(GAPS) * 50 - 500, GAPS + 0.5, few):
        assert kind_of(path, name, values) == ("number", "")


@pytest.mark.parametrize(
    "name", ["", "Unnamed: 0", "Unnamed: 0.1", "index", "Index", "level_0", "rownames", "X", "X.1"]
)
def test_the_index_of_drawn_rows_is_a_row_number_in_any_order(tmp_path, name):
    drawn, path = GENERATOR.permutation(GAPS), tmp_path / "a.csv"
    assert kind_of(path, name, drawn) == kind_of(path, name, GAPS[::-1]) == ROW_NUMBER
    assert kind_of(path, name, drawn, numeric=[name or "unnamed_1"]) == ("number", "--numeric")
    assert kind_of(path, name, drawn - 50) == kind_of(path, name, drawn + 0.5) == ("number", "")
    repeated = [ROW_NUMBER, ("number", "")][name.startswith(("rown", "X"))]  # R makes its names unique
    assert kind_of(path, name, GENERATOR.choice(drawn, 90)) == kind_of(path, name, np.repeat(drawn, 2)) == repeated
    assert kind_of(path, name, drawn % 15) == ("number", "")


def test_x_as_a_coordinate_is_a_number(tmp_path):
    for values in (GENERATOR.choice(1_920, 60, replace=False), GENERATOR.integers(0, 500, 400)):
        assert kind_of(tmp_path / "a.csv", "X", values) == ("number", "")
    assert kind_of(tmp_path / "a.csv", "x", GENERATOR.permutation(GAPS)) == ("number", "")


NUMBERED = ["SampleNumber", "participantNo", "case_number", "ticketNr", "event_index", "pk", "key", "nummer", "Zeile"]


@pytest.mark.parametrize("name", NUMBERED)
def test_numbers_that_rise_or_fall_are_row_numbers_in_a_column_named_so(tmp_path, name):
    path = tmp_path / "a.csv"
    assert kind_of(path, name, GAPS) == kind_of(path, name, GAPS[::-1]) == ROW_NUMBER
    swapped = GAPS[[1, 0, *range(2, 60)]]
    halves = [*GAPS[:50], *[""] * 10]
    for values in (halves, swapped, np.repeat(GAPS[:30], 2), GAPS + 0.5, GAPS - 10):
        assert kind_of(path, name, values) == ("number", "")
    assert kind_of(path, f"{name}_size", GAPS) == ("number", "")


@pytest.mark.parametrize("name", ["uptime", "idle_total", "snapshot", "index_level_size", "tabs", "steps", "продукты"])
def test_what_rises_under_another_name_is_a_number(tmp_path, name):
    assert kind_of(tmp_path / "a.csv", name, GAPS) == ("number", "")
    assert kind_of(tmp_path / "a.csv", name, range(60)) == ROW_NUMBER  # without a gap


def test_an_index_that_starts_again(tmp_path):
    """In each file, or where tables were put together; a file without it changes nothing."""
    paths = [
        write(
            tmp_path / f"{step}.csv", [f"{row},{row * step % 23},{row % 2}" for row in GAPS], header=",idle,productive"
        )
        for step in (7, 9)
    ]
    none = write(tmp_path / "c.csv", [f"{row % 17},{row % 2}" for row in range(30)], header="idle,productive")
    assert kinds(read(*paths, none))["unnamed_1"] == ROW_NUMBER
    assert kind_of(tmp_path / "d.csv", "", [*GAPS, *GAPS, *GAPS]) == ROW_NUMBER
    assert kind_of(tmp_path / "d.csv", "nr", [row % 6 for row in range(120)]) == ("number", "")


@pytest.mark.parametrize("name", ["time", "time_s", "Time (s)", "timestamp", "ts_ms"])
def test_an_axis_of_time_is_left_out_and_other_durations_are_not(tmp_path, name):
    path, seconds = tmp_path / "a.csv", np.round(np.arange(60) * 0.75 + 3, 2)
    assert kind_of(path, name, seconds) == ("dropped", RISING)
    assert kind_of(path, name, seconds[::-1]) == kind_of(path, name, seconds // 10 + 0.5) == ("number", "")
    assert kind_of(path, "idle_time", seconds) == kind_of(path, "uptime", seconds) == ("number", "")


TIMES = {
    "start": 1_588_032_811_170 + np.arange(60) * 86_400_017,
    "beganMs": 1_588_032_811_170 + np.arange(60) * 86_400_017,
    "seen": 1_588_032_811 + np.arange(60) * 86_017,
    "day": [20_260_101 + index % 28 for index in range(60)],
    "when": [f"{index % 28 + 1:02d}.01.2026" for index in range(60)],
    "date": [f"2026-01-{index % 28 + 1:02d}" for index in range(60)],
}


@pytest.mark.parametrize("name", TIMES)
def test_times_are_left_out_whatever_their_name(tmp_path, name):
    for values in (TIMES[name], GENERATOR.permutation(TIMES[name])):
        assert kind_of(tmp_path / "a.csv", name, values) == ("dropped", "a timestamp")
    if name not in ("when", "date"):
        assert kind_of(tmp_path / "a.csv", name, TIMES[name], numeric=[name]) == ("number", "--numeric")


def test_times_are_left_out_in_columns_named_like_an_app(tmp_path):
    """Also if each time is that of several rows, such as the start of a session."""
    path, sessions = tmp_path / "a.csv", np.repeat(1_767_225_600 + np.arange(6) * 4_321, 10)
    for name in ("appStart", "foregroundAppSince", "domain_entered_at", "idSessionStart"):
        for unit in (1, 1_000):
            assert kind_of(path, name, sessions * unit) == ("dropped", "a timestamp")
    for name in ("app_id", "window_id_since"):
        assert kind_of(path, name, sessions) == ("category", "an id by its name")
    far = np.repeat(1_000_000_007 + np.arange(6) * 400_000_003, 10)
    assert kind_of(path, "foregroundApp", far) == ("category", "an id by its name")


def test_a_time_axis_in_whole_seconds_may_have_ties(tmp_path):
    seconds = np.sort(np.random.default_rng(3).integers(0, 50, 60))
    for name in ("time", "timestamp", "ts"):
        assert kind_of(tmp_path / "a.csv", name, seconds) == ("dropped", RISING)
        assert kind_of(tmp_path / "a.csv", name, seconds // 10) == ("number", "")
    assert kind_of(tmp_path / "a.csv", "idle_time", seconds) == ("number", "")


def test_text_in_whole_numbers_gives_no_warning_of_numpy(tmp_path, recwarn):
    cells = ["NA" if index in (5, 6) else index * 7 % 50 for index in range(300)]
    assert kind_of(tmp_path / "a.csv", "keys", cells, skip_bad_rows=True) == ("number", "") and not recwarn.list


def test_hashes_of_applications_are_no_times(tmp_path):
    hashes = GENERATOR.choice([1_700_000_001, 1_700_050_003, 1_710_000_007], 60)
    assert kind_of(tmp_path / "a.csv", "foreground_app", hashes) == ("category", "an id by its name")
    assert kind_of(tmp_path / "a.csv", "keyboard_activity", hashes) == ("number", "")


@pytest.mark.parametrize("name", ["time", "Date", "timestamp", "datetime", "created_at", "updated_at"])
def test_cells_decide_whether_a_column_is_of_times(tmp_path, name):
    path = tmp_path / "a.csv"
    assert kind_of(path, name, GENERATOR.integers(0, 101, 60)) == ("number", "")
    assert kind_of(path, name, GENERATOR.choice(["Mon", "Tue"], 60)) == ("category", "text")
    assert kind_of(path, name, [f"{index % 24:02d}:30" for index in range(60)]) == ("dropped", CLOCKS)
    assert kind_of(path, name, [""] * 60) == ("dropped", "empty")
    assert kind_of(path, name, TIMES["seen"]) == ("dropped", "a timestamp")


def write_answers(path, answers, names="probability,predicted", start=0):
    lines = [f"{start + index * 37 % 101},{index // 3 % 2},{answer}" for index, answer in enumerate(answers)]
    return write(path, lines, header=f"x,productive,{names}")


def answers_of(y_prob, threshold=0.5):
    return [f"{value:.6f},{int(value >= threshold)}" for value in y_prob]


def test_what_predict_added_is_left_out(tmp_path):
    y_prob, path = GENERATOR.random(60), tmp_path / "a.csv"
    for names in ("probability,predicted", "model_probability,model_predicted_", "probability,model_predicted"):
        table = read(write_answers(path, answers_of(y_prob, 0.3), names), split="random")
        assert {kinds(table)[name] for name in names.split(",")} == {ANSWER}
    twice = [f"{one},{other}" for one, other in zip(answers_of(y_prob), answers_of(y_prob[::-1], 0.7), strict=True)]
    write_answers(path, twice, "probability,predicted,model_probability,model_predicted")
    assert list(kinds(read(path, split="random")).values()).count(ANSWER) == 4
    write_answers(path, answers_of(y_prob))
    assert kinds(read(path, numeric=["probability"]))["probability"] == ("number", "--numeric")
    assert kinds(read(path, drop=["probability"]))["predicted"] == ANSWER
    for words in (("False", "True"), ("FALSE", "TRUE")):  # as pandas and spreadsheets save them
        answers = [f"{line[:-1]}{words[int(line[-1])]}" for line in answers_of(GENERATOR.random(60))]
        assert kinds(read(write_answers(path, answers)))["predicted"] == ANSWER
    some = [",", *answers_of(y_prob)[1:]]
    assert kinds(read(write_answers(path, some)))["predicted"] == ANSWER


def test_what_predict_added_to_some_files(tmp_path):
    """Each by a model with a threshold of its own."""
    paths = [
        write_answers(tmp_path / "a.csv", answers_of(GENERATOR.random(40), 0.3)),
        write_answers(tmp_path / "b.csv", answers_of(GENERATOR.random(40), 0.7), start=1),
        write(tmp_path / "c.csv", [f"{index % 23},{index % 2}" for index in range(40)], header="x,productive"),
    ]
    assert kinds(read(*paths))["probability"] == ANSWER == kinds(read(*paths))["predicted"]


def test_rounded_and_renamed_answers_are_left_out(tmp_path):
    y_prob, path = GENERATOR.random(60), tmp_path / "a.csv"
    rounded = [f"{value:.2f},{int(value >= 0.5)}" for value in y_prob]
    assert kinds(read(write_answers(path, rounded)))["probability"] == ANSWER
    for end in ("_2", ".1", "_x", "_y"):
        names = f"Probability{end},predicted{end}"
        found = kinds(read(write_answers(path, answers_of(y_prob), names)))
        assert {found[name] for name in names.split(",")} == {ANSWER}


ALONE = {
    "probability": ("numeric", ["0.25", "0.5", "0.125", "1", "0"], ["0.25", "1.5"]),
    "predicted": ("categorical", ["0", "1", "1"], ["0", "1", "0.5"]),
}


@pytest.mark.parametrize("name", ALONE)
def test_an_answer_alone_is_left_out_by_its_name_and_values(tmp_path, name):
    flag, answers, others = ALONE[name]
    path = tmp_path / "a.csv"
    reason = f"like the column that predict.py adds; --{flag} {name} keeps it"
    assert kind_of(path, name, answers * 12) == ("dropped", reason)
    assert kind_of(path, name, answers * 12, **{flag: [name]}) != ("dropped", reason)
    assert kind_of(path, name, others * 20) == kind_of(path, f"their_{name}", answers * 12) == ("number", "")
    assert kind_of(path, "predicted", ["True", "False", "False"] * 20)[1].startswith("like the column that")


def test_probabilities_in_percent_are_refused_without_a_warning(tmp_path, recwarn):
    path = write_answers(tmp_path / "a.csv", [f"{index % 59}.5%,{index % 2}" for index in range(60)])
    with pytest.raises(UserError, match="a percent sign"):
        read(path)
    assert not recwarn.list


OTHERS = {
    "no threshold": ("probability,predicted", [f"{GENERATOR.random():.6f},{index % 2}" for index in range(60)]),
    "more decimals": ("probability,predicted", [f"{value},{int(value > 0.5)}" for value in GENERATOR.random(60)]),
    "few decimals": ("probability,predicted", [f"0.{index % 10},{int(index % 10 > 4)}" for index in range(60)]),
    "beyond 1": ("probability,predicted", [f"{1.234567 + index},{int(index > 30)}" for index in range(60)]),
    "other decisions": ("probability,predicted", [f"0.{index + 123456},{index // 30 + 1}" for index in range(60)]),
    "another name": ("chance,probabilities", answers_of(GENERATOR.random(60))),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_probabilities_are_numbers(tmp_path, case):
    names, answers = OTHERS[case]
    found = kinds(read(write_answers(tmp_path / "a.csv", answers, names), split="random"))
    assert {found[name] for name in names.split(",")} == {("number", "")}
