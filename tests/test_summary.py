"""What a run leaves and prints of its results."""

import argparse
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import metrics_of, predictions_of
from small_table import small_table

from harvest import VERSION
from harvest.data.columns import Column
from harvest.data.splits import Split
from harvest.decision import Decision
from harvest.results import summary
from harvest.results.evaluation import Baseline, Evaluation
from harvest.results.metrics import measure
from harvest.text import interval

START = "           {} starts from a logistic regression: epoch 1 is about as good as that."
STOPPED = "           In the lines above, a network that has stopped counts with its last epoch."


def evaluation_of(rows=200, rule=(0.5, "as requested")):
    generator = np.random.default_rng(0)
    y_prob = generator.random(rows)
    y_true = (generator.random(rows) < y_prob).astype(np.float32)
    test, worst = (measure(y_true, given, 0.5) for given in (y_prob, np.full(rows, 1e-9)))
    baselines = {"majority": Baseline(y_prob, worst), "logistic_regression": Baseline(y_prob, test)}
    answered = (y_true, y_prob, test, Decision(*rule), [1.1], np.full(rows, rule[0]))
    return Evaluation(*answered, (y_true, y_prob), baselines)


def test_missing_intervals_are_explained():
    y_true, y_prob = (np.arange(16) < 6).astype(np.float32), np.linspace(0.9, 0.1, 16)
    evaluation = evaluation_of()
    evaluation.metrics = measure(y_true, y_prob, 0.5)
    text = "\n".join(summary.result_lines("productive", evaluation, 1))
    assert "ROC AUC and log-loss have no interval: too few rows with productive = 1." in text
    assert "1.000 to 1.000" not in text and "have no interval" not in str(summary.result_lines("x", evaluation_of(), 1))


@pytest.mark.parametrize("label", ["productive", "churn"])
def test_the_table_of_results_fits_80_columns(label):
    evaluation = evaluation_of()
    test, lines = evaluation.metrics, summary.result_lines(label, evaluation, 5)
    assert max(map(len, lines)) <= 80 and not [line for line in lines if line != line.rstrip()]
    text = " ".join(" ".join(lines).split())
    assert text.startswith("Test on 200 rows, each by a network that was not trained on it (95% intervals) ")
    assert f"accuracy {100 * test['accuracy']:.1f}% {interval(test['accuracy_ci95'])} " in text
    assert f"ROC AUC {test['roc_auc']:.3f} {interval(test['roc_auc_ci95'], 1, 3)} " in text
    (_, fp), (fn, tp) = test["confusion"]
    names = {"productive": "productive rows", "churn": "rows with churn = 1"}
    assert f"{fn} misses among {fn + tp} {names[label]}, {fp} false alarms among " in text
    assert text.endswith("at threshold 0.5 (as requested).")
    (precision,) = (line for line in lines if line.startswith("  precision"))
    assert precision.count("%") == 2  # of a baseline that predicts one class it says nothing
    assert "not used in training" in summary.result_lines(label, evaluation, 1)[0]


def test_scores_that_are_not_defined_are_not_given():
    evaluation = evaluation_of()
    evaluation.metrics = measure(np.zeros(200, np.float32), evaluation.y_prob, 0.5)
    (areas,) = (line for line in summary.result_lines("productive", evaluation, 1) if line.startswith("  ROC AUC   "))
    assert areas.split()[2] == "n/a"


def test_a_model_that_predicts_no_1_has_no_precision():
    evaluation = evaluation_of()
    evaluation.metrics = measure(evaluation.y_true, np.full(200, 0.25), 0.5)
    (_, fp), (_, tp) = evaluation.metrics["confusion"]
    (line,) = (line for line in summary.result_lines("x", evaluation, 1) if line.startswith("  precision"))
    other = evaluation.baselines["logistic_regression"].metrics
    score, ends = f"{100 * other['precision']:.1f}%", interval(other["precision_ci95"])
    assert fp == tp == 0 and line.split() == ["precision", "n/a", score, *ends.split()]
    (line,) = (line for line in summary.result_lines("x", evaluation, 1) if line.startswith("  recall"))
    assert line.split()[1] == "0.0%"
    evaluation.metrics = measure(1 - np.arange(200) % 2, np.append(0.75, np.full(199, 0.25)), 0.5)
    (line,) = (line for line in summary.result_lines("x", evaluation, 1) if line.startswith("  precision"))
    assert line.split()[1] == "100.0%"  # of a single row


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (([12], [7], "", 150, True), "Trained    12 epochs; the best epoch (7) is kept"),
        (([12], [7], "no gain", 150, True), "Trained    12 epochs (no gain); the best epoch (7) is kept"),
        (([12], [7], "", 12, False), "Trained    12 epochs; the last epoch is kept"),
        (
            ([9, 12, 12], [7, 3, 1], "of the first", 12, True),
            "Trained    3 networks for 9 to 12 epochs (2 reached the maximum of 12); "
            "each network's best epoch (1 to 7) is kept",
        ),
        (([9, 9], [2, 2], "", 12, True), "Trained    2 networks for 9 epochs; each network's best epoch (2) is kept"),
    ],
)
def test_how_long_training_took(given, line):
    epochs, best_epochs, reason, most_epochs, best = given
    networks = len(epochs)
    folds = [
        argparse.Namespace(history=[{}] * count, best_epoch=epoch, reason=reason)
        for count, epoch in zip(epochs, best_epochs, strict=True)
    ]
    notes = [START.format("Training")] if networks == 1 else [START.format("Each"), STOPPED]
    assert summary.training_lines(folds, most_epochs, best) == [line, *notes]


def test_calibration_and_confusion_as_tables():
    y_true, y_prob = np.array([1, 1, 0, 0], np.float32), np.array([0.95, 1.0, 0.94, 0.1])
    lines = summary.calibration_lines(y_true, y_prob, [[1, 1], [0, 2]])
    assert lines[3] == " 10 to  20%            1     0.0%  " and lines[4] == " 20 to  30%            0  "
    assert lines[11] == f" 90 to 100%            3    66.7%  {'#' * 13}"
    assert lines[-2:] == ["label 0                  1             1", "label 1                  0             2"]


def fold_splits(*tests):
    rows = np.empty(0, int)
    return [Split(rows, rows, np.array(test)) for test in tests]


def test_predictions_are_in_the_order_of_the_lines():
    table, evaluation = small_table(np.zeros(4), key=np.arange(4.0)), evaluation_of(4)
    table.line_numbers = np.array([5, 3, 2, 4], np.int32)
    content = summary.prediction_rows(table, fold_splits([3, 0], [1, 2]), evaluation)
    rows = [*csv.reader(io.StringIO(content.decode()))]
    assert rows[0] == ["line", "fold", "label", "probability"]
    assert [row[:2] for row in rows[1:]] == [["2", "2"], ["3", "2"], ["4", "1"], ["5", "1"]]
    for row, tested in zip(rows[1:], (3, 2, 0, 1), strict=True):
        assert int(row[2]) == evaluation.y_true[tested]
        assert float(row[3]) == pytest.approx(evaluation.y_prob[tested], rel=1e-8)
    assert b"\r" not in content and content.endswith(b"\n")


def test_predictions_of_several_files_have_their_names():
    names = ('say "so", twice.csv', "b.csv")
    table = small_table(np.zeros(4), files=[1, 0, 1, 0], names=names, key=np.arange(4.0))
    content = summary.prediction_rows(table, fold_splits([0, 1, 2, 3]), evaluation_of(4))
    rows = [*csv.DictReader(io.StringIO(content.decode()))]
    assert [(row["file"], row["line"]) for row in rows] == [
        (names[0], "3"),
        (names[0], "5"),
        (names[1], "2"),
        (names[1], "4"),
    ]
    assert content.startswith(b"file,line,fold,label,probability\n")


def test_settings_are_those_that_were_used():
    args = argparse.Namespace(
        csv=["/home/someone/a.csv"],
        folds="auto",
        model_dir=Path("/home/someone/model"),
        describe=False,
        time_column=None,
    )
    table = small_table(np.zeros(3), key=np.arange(3.0), app=["a", "b", "c"])
    table.columns.append(Column("empty", "dropped", "empty"))
    config, reasons = {"folds": 10, "patience": 4, "momentum": 0.9}, {"folds": "few rows", "patience": "2,000 steps"}
    more = {"threshold": Decision(0.3, "as requested"), "time_column": Decision("when", "it contains times")}
    settings = summary.resolved_settings(args, table, config, reasons, **more)
    assert settings == {
        "csv": ["a.csv"],
        "folds": 10,
        "model_dir": "model",
        "time_column": "when",
        "patience": 4,
        "threshold": 0.3,
        "columns": {"app": "category", "key": "number", "empty": "dropped"},
        "reasons": reasons | {"threshold": "as requested", "time_column": "it contains times"},
    }
    assert "someone" not in json.dumps(settings)


def test_the_table_is_described_for_the_page():
    table = small_table([0, 1, 1, 1], key=np.array([1.0, 2, np.nan, 2]))
    table.columns.append(Column("note", "dropped", "by --drop"))
    described = summary.describe_table(table, ["Split      half and half", "           note: rows"])
    assert described["positive"] == 0.75 and described["split"] == ["half and half", "note: rows"]
    assert [column["missing"] for column in described["columns"]] == [1, -1]
    assert [*described["columns"][1]] == ["name", "kind", "reason", "distinct", "missing", "hint"]


FILES = """
Model      M/productivity_model.keras
Metrics    M/metrics.json
Test rows  M/predictions.csv
Card       M/README.md was not overwritten because you created or edited it
Report     M/report.html
Export     M/productivity_model.onnx deleted because it was from an earlier run; --export onnx writes a new one
Checkpoint M/checkpoints/model_07_0.8000.keras, the best of this run's 2
Logs       tensorboard --logdir M/logs
Time       7.1 s in total, including 3.9 s to load TensorFlow, 1.1 s to build
           and compile, 2.26 s to train (1,235 rows/s)"""


def test_the_files_of_a_run():
    timing = {"train_s": 2.256, "rows_per_s": 1234.6, "total_s": 7.08, "import_s": 3.91, "compile_s": 1.08}
    names = ["model_03_0.7000.keras", "model_07_0.8000.keras"]
    stale = ["productivity_model.onnx"]
    assert summary.file_lines(Path("M"), timing, ["README.md"], stale, True, names) == FILES.split("\n")
    plain = summary.file_lines(Path("M"), timing, [], [], False, [])
    assert plain[4:6] == ["Card       M/README.md", "Report     M/report.html"] and len(plain) == 8
    (line,) = (line for line in summary.file_lines(Path("M"), timing, [], [], False, names[:1]) if "Checkpoint" in line)
    assert line == "Checkpoint M/checkpoints/model_03_0.7000.keras, the only one of this run"


def test_metrics_keep_the_order_of_their_entries(trained):
    folder = trained("--folds", "3")
    metrics, tested = metrics_of(folder), predictions_of(folder)
    promised = ["rows", "test", "baselines", "threshold", "temperature", "epochs", "best_epoch"]
    promised += ["settings", "timing", "date", "rows_digest", "versions"]
    assert [*metrics] == [*promised, *summary.FINDINGS, "warnings", "history", "table", "example"]
    assert [*metrics["rows"]] == ["read", "used", "skipped", "train", "validation", "test"]
    assert metrics["rows"]["read"] == metrics["rows"]["used"] == metrics["rows"]["test"] == len(tested)
    assert 1 <= metrics["best_epoch"] <= metrics["epochs"] and metrics["versions"]["script"] == VERSION
    assert 0 < metrics["example"]["probability"] < 1


def test_a_run_finds_the_column_that_matters(trained):
    def write(path):
        generator = np.random.default_rng(0)
        cells = generator.integers(0, 10_000, (400, 3))
        rows = [f"{generator.integers(0, 4)},{','.join(map(str, row))},{int(row[0] > 4_000)}" for row in cells]
        header = "foreground_app,keyboard_activity,mouse_activity,time_last_request,productive"
        path.write_text("\n".join([header, *rows]) + "\n")

    found = metrics_of(trained("--epochs", "20", write=write))["importance"]
    others = [value for name, value in found.items() if name != "keyboard_activity"]
    assert next(iter(found)) == "keyboard_activity" and found["keyboard_activity"] > 5 * max(others)


def test_rules_reach_the_model_and_predict(trained, predict):
    folder = trained("--threshold", "recall=0.95", "--class-weight", "balanced", "--epochs", "20", rows=150)
    threshold = metrics_of(folder)["threshold"]
    assert 0 < threshold < 1 and threshold != 0.5
    code, out, _ = predict(folder.parent / "HARVEST.CSV", "--model-dir", folder)
    assert code == 0 and len(out.splitlines()) == 151
    for line in out.splitlines()[1:]:
        probability, predicted = line.split(",")[-2:]
        assert int(predicted) == (float(probability) >= threshold) or abs(float(probability) - threshold) < 1e-5


def test_a_run_reports_what_it_found(train, tmp_path, capsys):
    """Two files of rows in no order, one label in sixteen wrong, and a column named after the label."""
    generator, lines = np.random.default_rng(5), [[], []]
    for index in range(300):
        label, wrong = index * 7 % 13 // 7, index % 16 == 9
        minutes = index * 97 % 300
        time = f"2026-01-31T{10 + minutes // 60}:{minutes % 60:02d}:00Z"
        cells = [time, (label - 0.5) * (2 + generator.random()), index * 31 % 17 / 16, int(label != wrong)]
        lines[index % 2].append(",".join(map(str, cells)))
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, part in zip(paths, lines, strict=True):
        path.write_text("\n".join(["timestamp,idle,productive_rate,productive", *part]) + "\n")
    folder = train("--split", "time", "--split-seed", "3", "--epochs", "25", "--no-quiet", csv=paths)
    printed, metrics = capsys.readouterr().out, metrics_of(folder)
    assert "210 rows for training, 45 for validation and early stopping, 45 for testing, by time, sorted by" in printed
    assert "rows close in time are similar" not in printed  # the rows were split by time, as the note advises
    settings = metrics["settings"]
    assert (settings["time_column"], settings["split_seed"]) == ("timestamp", 3)
    assert settings["reasons"]["time_column"] == "it contains times"
    (warning,) = metrics["warnings"]
    assert warning.startswith("productive_rate: its name") and printed.count(f"Warning    {warning}\n") == 1
    assert " ".join(metrics["verdict"]) in " ".join(printed.split())

    tested = {(row["file"], int(row["line"])): row for row in predictions_of(folder)}
    given = {place: abs(1 - int(row["label"]) - float(row["probability"])) for place, row in tested.items()}
    doubted = sorted((place for place in given if given[place] < 0.1), key=given.get)
    suspects = metrics["suspect_labels"]
    assert [(row["file"], row["line"]) for row in suspects] == doubted and len(doubted) >= 2
    listed = printed[printed.index("Labels worth a second look") :].splitlines()[1 : 1 + len(doubted)]
    for suspect, line in zip(suspects, listed, strict=True):
        place, row = (suspect["file"], suspect["line"]), tested[suspect["file"], suspect["line"]]
        assert suspect["label"] == int(row["label"])
        assert abs(suspect["probability"] - float(row["probability"])) < 1e-6
        assert line.split("  ")[1] == f"{place[0]}, line {place[1]}" and f"labeled {row['label']}, probab" in line
    assert printed.index("rise in test log-loss") < printed.index("Labels worth") < printed.index("\nMetrics ")
