"""What the whole program says of a table, and does about one that it refuses."""

import os
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from conftest import metrics_of, predictions_of
from table_files import rows, write

import train_model_modern

START = datetime(2026, 1, 31, 22, 30, tzinfo=UTC)
REFUSED = {
    "no such file": (None, [], "no such file; check the path"),
    "a bad line": ([*rows(), "1,many,3,4,1"], [], "line 42, column keyboard_activity: "),
    "a bad line, described": ([*rows(), "1,many,3,4,1"], ["--describe"], "line 42, column keyboard_activity: "),
    "an open quote": ([*rows(), '"1,2,3,4,1'], [], "line 42: unexpected end of data; close the quotes"),
    "too few rows": (rows(19), [], "only 19 usable rows, but at least 20 are needed"),
    "a label that no column has": (rows(), ["--label", "churn"], "line 1 has no column churn"),
    "a column that is not there": (rows(), ["--drop", "title"], "has no such column"),
    "blocks of one class": (rows(20)[::2] * 3 + rows(20)[1::2], ["--split", "time"], "rows are all of one class"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_table_ends_in_one_line_and_leaves_nothing(tmp_path, capsys, case):
    lines, flags, message = REFUSED[case]
    path = tmp_path / "a.csv"
    if lines:
        write(path, lines)
    before = os.listdir(tmp_path)
    assert train_model_modern.main([str(path), "--model-dir", str(tmp_path / "model"), *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.endswith("\n")
    assert printed.err.count("\n") == 1 and message in printed.err and str(path) in printed.err, printed.err
    assert os.listdir(tmp_path) == before


def test_a_time_column_without_a_split_by_time_is_refused(tmp_path, capsys):
    path = write(tmp_path / "a.csv", rows())
    assert train_model_modern.main([str(path), "--time-column", "mouse_activity"]) == 2
    assert "--time-column has no effect without --split time" in capsys.readouterr().err


def test_a_description_has_every_column_and_the_reasons(tmp_path, capsys):
    lines = [f"{row},{index % 7},{index}" for index, row in enumerate(rows(60))]
    header = "foreground_app,keyboard_activity,mouse_activity,time_last_request,productive,unproductive_share,row"
    assert train_model_modern.main([str(write(tmp_path / "a.csv", lines, header=header)), "--describe"]) == 0
    printed = capsys.readouterr().out
    for text in ("Data       a.csv: 60 rows", "row (a row number)", "\nFolds      10 (", "Split      "):
        assert text in printed
    assert printed.count("\nrow ") == 1 and "column  " in printed
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_run_says_what_it_found(train, tmp_path, capsys):
    """Two files of unordered rows, one label in sixteen wrong, ids in exponents, and a column named like the label."""
    generator, lines = np.random.default_rng(5), [[], []]
    for index in range(300):
        label, wrong = index * 7 % 13 // 7, index % 16 == 9
        moment = (START + timedelta(minutes=index * 97 % 300)).isoformat()
        cells = [
            moment,
            (label - 0.5) * (2 + generator.random()),
            index * 31 % 17 / 16,
            f"5.{index % 3}E+17",
            int(label != wrong),
        ]
        lines[index % 2].append(",".join(map(str, cells)))
    header = "timestamp,idle,productive_rate,user_id,productive"
    paths = [write(tmp_path / f"{name}.csv", part, header=header) for name, part in zip("ab", lines, strict=True)]
    flags = ["--split", "time", "--split-seed", "3", "--epochs", "25", "--folds", "auto", "--no-quiet"]
    folder = train(*flags, csv=paths)
    printed, metrics = capsys.readouterr().out, metrics_of(folder)
    assert "rows close in time are similar" not in printed and "by time, sorted by timestamp" in printed
    settings = metrics["settings"]
    assert (settings["time_column"], settings["split_seed"]) == ("timestamp", 3)
    assert settings["reasons"]["time_column"] == "it contains times"
    lost, warning = metrics["warnings"]
    assert lost.startswith("user_id: ids such as 5.0E+17 have lost digits") and f"Warning    {lost[:40]}" in printed
    assert warning.startswith("productive_rate: its name") and printed.count(f"Warning    {warning}\n") == 1
    suspects = metrics["suspect_labels"]
    suspects_have_the_lowest_probabilities(folder, suspects, printed)
    (step,) = (step for step in metrics["next_steps"] if step.startswith(f"Check the {len(suspects)} labels "))
    places = ", ".join(f"{row['file']}:{row['line']}" for row in suspects[:3])
    assert len(suspects) > 3 and step.endswith(f" a probability below 10%; start with {places}.")
    assert printed.index("rise in test log-loss") < printed.index("Labels worth") < printed.index("\nMetrics ")


def suspects_have_the_lowest_probabilities(folder, suspects, printed):
    tested = {(row["file"], int(row["line"])): row for row in predictions_of(folder)}
    # the probability of the label it has, by row
    given = {place: abs(1 - int(row["label"]) - float(row["probability"])) for place, row in tested.items()}
    doubted = sorted((place for place in given if given[place] < 0.1), key=lambda place: given[place])
    assert [(row["file"], row["line"]) for row in suspects] == doubted and len(doubted) >= 2
    lines = printed[printed.index("Labels worth a second look") :].splitlines()[1 : 1 + len(doubted)]
    for row, line in zip(suspects, lines, strict=True):
        cells = tested[row["file"], row["line"]]
        assert row["label"] == int(cells["label"]) and abs(row["probability"] - float(cells["probability"])) < 1e-6
        assert line.split("  ")[1] == f"{row['file']}, line {row['line']}"
        assert f"labeled {row['label']}, probab" in line
