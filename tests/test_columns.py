"""The column of time, columns that are the same, columns that give the label away, labels that look wrong."""

import csv
import json
import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from test_data import write

import report
import train_model_modern as modern

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
    """Rows of which keyboard_activity tells the order in time, written in another order."""
    lines = [f"{-100 - index % 3},{index},{spell(index)},{index * 7 % 5},{index // 2 % 2}" for index in order]
    return write(path, lines, header=f"foreground_app,keyboard_activity,{name},mouse_activity,productive")


def shuffled(rows, seed):
    return np.random.default_rng(seed).permutation(rows).tolist()


def read(path, *flags):
    options = modern.parse_options([str(path), *flags])
    table = modern.load_data(options)
    return options, table, modern.split_table(options, table)


def shown(path, *flags):
    return "\n".join(modern.show_data(*read(path, *flags)))


def keyboard(table, rows):
    return table.numbers[rows, [column.name for column in table.of_kind("number")].index("keyboard_activity")].tolist()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_rows_are_split_by_their_times(tmp_path, spelling):
    name, spell = SPELLINGS[spelling]
    path = write_times(tmp_path / "a.csv", name, spell, shuffled(60, 1))
    options, table, (split,) = read(path, "--split", "time")
    assert [keyboard(table, part) for part in split] == [
        list(range(42)),
        list(range(42, 51)),
        list(range(51, 60)),
    ]
    words = f"42 rows for training, 9 used for early stopping, 9 for testing, by time, by the column {name}"
    assert words in "\n".join(modern.show_data(options, table, [split]))
    assert {column.name: column.reason for column in table.columns}[name] == "a timestamp"


def test_the_order_of_rows_in_the_file_changes_nothing(tmp_path):
    """Also when many rows are of the same time."""
    tables = []
    for seed in (1, 2):
        path = write_times(
            tmp_path / "a.csv", "date", lambda index: moment(index // 20 * 1_440).date(), shuffled(90, seed)
        )
        tables.append(read(path, "--split", "time")[1])
    np.testing.assert_array_equal(tables[0].numbers, tables[1].numbers)
    assert [number // 20 for number in keyboard(tables[0], slice(None))] == sorted(index // 20 for index in range(90))
    assert keyboard(tables[0], slice(None)) != sorted(keyboard(tables[0], slice(None)))


def test_without_a_column_of_time_the_files_tell_the_order(tmp_path):
    """A duration is no time, nor is what someone has asked to leave out."""
    order = shuffled(60, 1)
    lines = [f"{index % 3},{index},{5_000 + index},{index // 2 % 2}" for index in order]
    path = write(tmp_path / "a.csv", lines, header="foreground_app,keyboard_activity,time_last_request,productive")
    _, table, (split,) = read(path, "--split", "time")
    assert keyboard(table, slice(None)) == order and split.test.tolist() == list(range(51, 60))
    assert "time_last_request" in [column.name for column in table.of_kind("number")]
    assert "by time, in file order, as no column tells the time" in shown(path, "--split", "time")
    path = write_times(tmp_path / "b.csv", *SPELLINGS["seconds"], order)
    assert "in file order" in shown(path, "--split", "time", "--drop", "timestamp")
    path = write_times(tmp_path / "b.csv", "time", lambda index: 90_000 - index, order)
    assert "in file order" in shown(path, "--split", "time")
    path = write_times(tmp_path / "b.csv", "date", lambda _: "2024-01-01", order)  # one day tells no order
    assert "in file order" in shown(path, "--split", "time")


def test_a_column_of_time_can_be_named(tmp_path, capsys):
    order = shuffled(60, 1)
    lines = [f"{index % 3},{index},{int(moment(-index).timestamp())},{index + 7},{index // 2 % 2}" for index in order]
    header = "foreground_app,keyboard_activity,timestamp,snapshot,productive"
    path = write(tmp_path / "a.csv", lines, header=header)
    _, table, _ = read(path, "--split", "time")
    assert keyboard(table, slice(None)) == list(range(59, -1, -1))
    _, table, _ = read(path, "--split", "time", "--time-column", "snapshot")
    assert keyboard(table, slice(None)) == list(range(60))
    assert table.time == ("snapshot", "as requested")
    assert {column.name: column.reason for column in table.of_kind("dropped")}["snapshot"] == "--time-column"
    _, table, _ = read(path, "--split", "time", "--time-column", "snapshot", "--numeric", "snapshot", "timestamp")
    assert {"snapshot", "timestamp"} <= {column.name for column in table.of_kind("number")}
    for flags, words in (
        (["--time-column", "snapshot"], "has no effect without --split time"),
        (["--split", "time", "--time-column", "moment"], "--time-column moment: "),
        (["--split", "time", "--time-column", ""], "has no such column"),
        (["--split", "time", "--time-column", "productive"], "this is the label"),
    ):
        assert modern.main([str(path), "--model-dir", str(tmp_path / "model"), *flags]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and words in message and message.count("\n") == 1


@pytest.mark.parametrize("cell", ["", "soon", "2026-02-30", "2026-01-31 10", "1e999", "31.01.2026"])
def test_a_row_without_a_time_is_refused(tmp_path, capsys, cell):
    for name, (_, spell) in (("timestamp", SPELLINGS["seconds"]), ("when", SPELLINGS["a T and a Z"])):
        path = write_times(tmp_path / "a.csv", name, lambda index: cell if index == 7 else spell(index), range(60))  # noqa: B023
        modern.read_table(modern.parse_options([str(path)]))
        flags = ["--split", "time", "--describe"]
        assert modern.main([str(path), *flags]) == 2
        message = capsys.readouterr().err
        assert f"a.csv: line 9, column {name}: no time" in message and message.count("\n") == 1
        _, table, _ = read(path, *flags, "--skip-bad-rows")
        assert len(table.label) == 59 and "line 9: unusable values, left out" in table.notes


def test_what_a_cell_means_as_a_time():
    for text, seconds in (
        ("2026-01-31", 1_769_817_600),
        (" 2026-01-31T09:30 ", 1_769_851_800),
        ("2026-01-31 09:30:05.25+02:00", 1_769_844_605.25),
        ("2026-01-31 09:30:05,5 -0130", 1_769_857_205.5),
        ("2026-01-31T09:30:05.123456789Z", 1_769_851_805.123456),
        ("1769851805", 1_769_851_805),
        ("1.769851805e9", 1_769_851_805),
    ):
        assert modern.cell_time(text) == seconds
    assert math.isnan(modern.cell_time("  "))
    for text in (
        "2026-13-01",
        "2026-01-31x09:30",
        "2026-W05-1",
        "09:30",
        "\uff12026-01-31",
        "yesterday",
        "2026-01-31T",
    ):
        assert math.isinf(modern.cell_time(text))
    units = np.array([1_769_851_805.25, 1_769_851_805_250.0, 1_769_851_805_250_000.0, math.inf, math.nan])
    np.testing.assert_array_equal(modern.in_seconds(units), [1_769_851_805.25] * 3 + [math.inf, math.nan])


def test_random_rows_of_a_table_with_times(tmp_path):
    path = write_times(tmp_path / "a.csv", *SPELLINGS["seconds"], range(60))
    for flags in ([], ["--folds", "1"], ["--split", "time"]):
        assert shown(path, *flags).count("rows close in time are alike") == 1
    assert "--split time tests on the last rows" in shown(path)
    assert "close in time" not in shown(path, "--numeric", "timestamp")


def test_the_split_has_a_seed_of_its_own(sample):
    path = sample(100)

    def tests(*flags):
        return [split.test.tolist() for split in read(path, *flags)[2]]

    for folds in ("1", "10"):
        assert tests("--folds", folds) == tests("--folds", folds, "--seed", "7")
        assert tests("--folds", folds) == tests("--folds", folds, "--split-seed", "42")
        assert tests("--folds", folds) != tests("--folds", folds, "--split-seed", "7")
    made = [modern.load_data(modern.parse_options(["--sample", "60", *flags])) for flags in ([], ["--seed", "7"])]
    np.testing.assert_array_equal(made[0].numbers, made[1].numbers)


def write_twins(path, names):
    """Columns a, b, c, d with the same cells, the last in another spelling; e and f differ from them in one cell."""
    lines = []
    for index in range(60):
        number, text = index % 7, "" if index % 5 == 0 else f"site{index % 9}"
        cells = {name: number - 3 if index else "" for name in ("b", "a", "c")}
        cells["d"] = "" if not index else f"{number - 3:+}.0" if index != 10 else "-0"
        cells |= {"e": cells["a"] if index else 9, "f": cells["a"] if index != 30 else 9}
        cells |= {"site": text, "also": text, "other": text if index != 21 else "site1"}
        lines.append(",".join([*(str(cells[name]) for name in names), str(index // 2 % 2)]))
    return write(path, lines, header=",".join([*names, "productive"]))


def test_columns_with_the_same_cells_are_read_once(tmp_path):
    names = ["b", "site", "a", "c", "e", "also", "d", "f", "other"]
    for order in (names, names[::-1]):
        _, table, _ = read(write_twins(tmp_path / "a.csv", order), "--numeric", "a", "b", "c", "d", "e", "f")
        reasons = {column.name: column.reason for column in table.of_kind("dropped")}
        assert reasons == {
            "b": "the same as a in all rows",
            "c": "the same as a in all rows",
            "d": "the same as a in all rows",
            "site": "the same as also in all rows",
        }
        assert [column.name for column in table.of_kind("number")] == ["a", "e", "f"]
        assert [column.name for column in table.of_kind("category")] == ["also", "other"]
        np.testing.assert_array_equal(table.numbers.shape, (60, 3))
        assert np.isnan(table.numbers[:, 0]).sum() == 1 and np.nanmax(table.numbers[:, 1]) == 9
        assert table.codes.shape == (60, 2)


def write_columns(path, rows=400, share=0.4, **columns):
    """Columns made from the label by functions of (label [rows], generator)."""
    generator = np.random.default_rng(3)
    label = (generator.random(rows) < share).astype(int)
    made = {"foreground_app": generator.integers(0, 5, rows)} | {
        name: column(label, generator) for name, column in columns.items()
    }
    lines = [",".join(map(str, row)) for row in zip(*made.values(), label, strict=True)]
    return write(path, lines, header=",".join([*made, "productive"]))


def shifted(label, generator, distance):
    """A number that separates the classes: 2.33 gives a ROC AUC of 0.95, 2.9 one of 0.98, 4 one of 0.998."""
    return np.round(distance * label + generator.normal(size=len(label)), 6)


def within(label, generator):
    inside, outside = generator.uniform(10, 20, len(label)), generator.choice([1, 30], len(label))
    return np.where(label == 1, inside, outside + generator.random(len(label)))


GIVEAWAYS = {
    "a number above a threshold": lambda label, generator: shifted(label, generator, 9),
    "a number below a threshold": lambda label, generator: shifted(1 - label, generator, 5),
    "a number between two": within,
    "a number missing for one class": lambda label, generator: [
        5 + index % 3 if one else "" for index, one in enumerate(label)
    ],
    "a code": lambda label, generator: [f"{generator.choice(['x', 'y'])}{one}" for one in label],
    "a code of many values": lambda label, generator: [f"{one}{generator.integers(0, 6)}x" for one in label],
    "with a few errors": lambda label, generator: np.where(generator.random(len(label)) < 0.01, 1 - label, label) + 1,
}


@pytest.mark.parametrize("case", GIVEAWAYS)
@pytest.mark.parametrize("share", [0.4, 0.15])
def test_a_column_that_gives_the_label_away(tmp_path, recwarn, case, share):
    _, table, _ = read(write_columns(tmp_path / "a.csv", share=share, outcome=GIVEAWAYS[case]))
    (warning,) = table.warnings
    assert warning.startswith("outcome: on its own it predicts the label of ") and "--drop outcome" in warning
    assert not read(tmp_path / "a.csv", "--drop", "outcome")[1].warnings
    assert [str(item.message) for item in recwarn.list if item.category is RuntimeWarning] == []


@pytest.mark.parametrize("share", [0.4, 0.05])
def test_ordinary_columns_give_nothing_away(tmp_path, share):
    columns = {
        "strong": lambda label, generator: shifted(label, generator, 2.33),
        "stronger": lambda label, generator: shifted(label, generator, 2.9),
        "noise": lambda label, generator: generator.random(len(label)),
        "site": lambda label, generator: [f"s{generator.integers(0, 300)}" for _ in label],
        "mood": lambda label, generator: np.where(generator.random(len(label)) < 0.1, 1 - label, label) + 2,
        "seldom_app": lambda label, generator: [f"{one}{generator.integers(0, 300)}x" for one in label],
        "reproductive_rate": lambda label, generator: generator.random(len(label)),
    }
    assert not read(write_columns(tmp_path / "a.csv", rows=1_000, share=share, **columns))[1].warnings


def test_few_rows_may_be_told_by_chance(tmp_path):
    split = {"outcome": lambda label, generator: shifted(label, generator, 9)}
    assert not read(write_columns(tmp_path / "a.csv", rows=60, share=0.4, **split))[1].warnings
    assert read(write_columns(tmp_path / "a.csv", rows=120, share=0.4, **split))[1].warnings


def test_classes_too_rare_to_be_looked_at(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(report, "GIVEAWAY_ROWS", 10)
    lines = [f"{index % 3},{index},{int(index in (2, 4, 5, 7, 8))}" for index in range(100)]
    options = modern.parse_options([str(write(tmp_path / "a.csv", lines, header="app,idle,productive"))])
    table = modern.read_table(options)
    table.label.sort()  # so that some of the rows that are looked at have none of one class
    assert report.find_giveaways(table, "productive") == [] and not recwarn.list


def test_a_column_that_is_named_after_the_label(tmp_path):
    noise = lambda label, generator: generator.random(len(label))  # noqa: E731
    path = write_columns(tmp_path / "a.csv", **{"app_Productive_rate": noise, "y_place": noise})
    assert read(path)[1].warnings == [
        "app_Productive_rate: its name contains that of the label; if it was made from the label, "
        "--drop app_Productive_rate"
    ]
    assert "Warning    app_Productive_rate: " in shown(path)
    path.write_text(path.read_text().replace(",productive\n", ",y\n"))
    assert read(path, "--label", "y")[1].warnings == []


def test_generated_rows_give_nothing_away(sample):
    for rows in (100, 2_000, 60_000):
        assert not read(sample(rows))[1].warnings


def test_a_run_tells_what_it_found(tmp_path, capsys):
    """Two files of rows in no order, one label in sixteen wrong, and a column named after the label."""
    generator, lines = np.random.default_rng(5), [[], []]
    for index in range(300):
        label, wrong = index * 7 % 13 // 7, index % 16 == 9
        cells = [moment(index * 97 % 300).isoformat(), (label - 0.5) * (2 + generator.random()), index * 31 % 17 / 16]
        lines[index % 2].append(",".join(map(str, [*cells, int(label != wrong)])))
    header, folder = "timestamp,idle,productive_rate,productive", tmp_path / "model"
    paths = [str(write(tmp_path / f"{name}.csv", part, header=header)) for name, part in zip("ab", lines, strict=True)]
    flags = ["--split", "time", "--split-seed", "3", "--epochs", "25", "--model-dir", str(folder)]
    assert modern.main([*paths, *flags]) == 0
    printed, metrics = capsys.readouterr().out, json.loads((folder / "metrics.json").read_text())
    assert "210 rows for training, 45 used for early stopping, 45 for testing, by time, by the column" in printed
    assert printed.count("rows close in time are alike") == 1
    settings = metrics["settings"]
    assert (settings["time_column"], settings["split_seed"]) == ("timestamp", 3)
    assert settings["reasons"]["time_column"] == "it holds times"
    (warning,) = metrics["warnings"]
    assert warning.startswith("productive_rate: its name") and printed.count(f"Warning    {warning}\n") == 1

    with open(folder / "predictions.csv", newline="") as file:
        tested = {(row["file"], int(row["line"])): row for row in csv.DictReader(file)}
    # the probability of the label it has, by row
    given = {place: abs(1 - int(row["label"]) - float(row["probability"])) for place, row in tested.items()}
    doubted = sorted((place for place in given if given[place] < 0.1), key=given.get)
    suspects = metrics["suspect_labels"]
    assert [(row["file"], row["line"]) for row in suspects] == doubted and len(doubted) >= 2
    shown = printed[printed.index("Labels worth a second look") :].splitlines()[1 : 1 + len(doubted)]
    for row, line in zip(suspects, shown, strict=True):
        place, cells = (row["file"], row["line"]), tested[row["file"], row["line"]]
        assert row["label"] == int(cells["label"]) and abs(row["probability"] - float(cells["probability"])) < 1e-6
        assert line.split("  ")[1] == f"{place[0]}, line {place[1]}" and f"labelled {row['label']}, probab" in line
    assert printed.index("rise in test log-loss") < printed.index("Labels worth") < printed.index("\nMetrics ")


def test_only_real_surprises_are_told(sample):
    options, table, _ = read(sample(100))
    rows, generator = np.arange(99, -1, -1), np.random.default_rng(0)
    fold = modern.Fold(0, modern.Split(rows[:0], rows[:0], rows), None, np.zeros(1))
    run = modern.Run(options, table, [], {}, modern.Output(True), folds=[fold])
    label, probability = np.arange(100) % 2, generator.uniform(0.2, 0.8, 100)
    assert report.suspect_labels(run, label, probability) == [] and report.show_suspects([]) == []
    probability[3], probability[10:70:2] = 0.02, 0.95
    suspects = report.suspect_labels(run, label, probability)
    assert len(suspects) == report.MOST_SUSPECTS and len(report.show_suspects(suspects)) == 7
    assert suspects[0] == {"line": table.lines[96], "label": 1, "probability": 0.02}
    assert [row["line"] for row in suspects[1:]] == sorted(table.lines[99 - np.arange(10, 70, 2)])[:19]
