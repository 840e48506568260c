"""What is said to the user: refusals, what a run replaces and leaves, and means over networks."""

import argparse
import io
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import metrics_of
from small_table import small_table

import predict as predict_script
import train_model
import train_model_modern
from harvest.cli import Console, fit
from harvest.data.splits import describe_split, make_splits
from harvest.decision import Decision
from harvest.run_directory import earlier_model
from harvest.training.config import choose_folds, decide
from harvest.training.folds import mean_logs


def test_too_few_generated_rows_are_refused_without_naming_their_file(train, capsys):
    folder = train("--sample", 5, csv=(), code=2)
    error = "error: --sample 5: only 5 usable rows, but at least 20 are needed; generate more rows\n"
    assert capsys.readouterr().err == error
    assert not folder.exists()


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (train_model, ["--lightwieght"], "did you mean --lightweight?"),
        (predict_script, ["rows.csv", "--modle", "x"], "did you mean --model?"),
        (train_model, ["--seed", "x"], "--seed takes a whole number from 0 to 2,147,483,647, not x;"),
    ],
)
def test_other_scripts_help_with_misspelt_flags_too(script, flags, message, capsys):
    assert script.main(flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("label", "rows"), [("productive", "productive rows"), ("churn", "rows with churn = 1")])
def test_rows_of_a_class_are_called_by_the_label(train, tmp_path, capsys, label, rows):
    path = tmp_path / "rows.csv"
    path.write_text(f"x,{label}\n" + "".join(f"{row * 37 % 101},{int(row < 3)}\n" for row in range(1_200)))
    train("--label", label, csv=path, code=2)
    assert f"too few {rows}: 3 of 1,200, but at least 5 are needed;" in capsys.readouterr().err


def test_the_summary_counts_the_rows_of_all_networks():
    args = train_model_modern.parse_args(["--folds", "7"])
    label = np.arange(64, dtype=np.float32) % 3 % 2
    splits = make_splits(args, label, 7)
    lines = describe_split(args, argparse.Namespace(columns=[]), splits, Decision(None, ""))
    train_rows, test_rows = (sorted({len(getattr(split, part)) for split in splits}) for part in ("train", "test"))
    assert f"each network has {train_rows[0]} to {train_rows[-1]} rows for training" in lines[0]
    assert f"{test_rows[0]} to {test_rows[-1]} for testing" in lines[0]
    reason = decide(args, splits, small_table(label), choose_folds(args, small_table(label))).reasons["batch_size"]
    assert not re.search(r"\b4\d\b", reason)  # which would be another count of training rows


def networks(*lengths):
    """Networks in training whose logs count the epochs."""
    logs = [[{"loss": 1 / epoch, "val_loss": epoch} for epoch in range(1, length + 1)] for length in lengths]
    return [SimpleNamespace(history=history, best_epoch=1) for history in logs]


def test_a_finished_network_keeps_its_last_values_in_the_mean():
    means = [mean_logs(networks(2, min(epoch, 4)), epoch) for epoch in range(2, 5)]
    assert [mean["val_loss"] for mean in means] == [2, 2.5, 3]
    losses = [mean["loss"] for mean in means]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    ("content", "known"),
    [
        ('{"rows": {"used": 200000}, "test": {"accuracy": 0.8612}}', " (200,000 rows, accuracy 0.861)"),
        ('{"rows": {"used": 200000}, "test": {"acc', ""),
        ('{"rows": {"used": null}, "test": {"accuracy": "high"}}', ""),
        ('{"rows": [], "test": 3}', ""),
        ("[" * 100_000, ""),
        (None, ""),
    ],
)
def test_what_is_known_of_an_earlier_model(tmp_path, content, known):
    assert earlier_model(tmp_path) == ""
    model = tmp_path / "productivity_model.keras"
    model.write_bytes(b"")
    date = time.mktime((2026, 11, 24, 14, 2, 0, 0, 0, -1))
    os.utime(model, (date, date))
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    assert earlier_model(tmp_path) == f"the model of 2026-11-24 14:02{known}"


def test_a_run_says_what_it_replaces_and_when_it_is_stopped_what_is_left(train, model_copy, monkeypatch, capsys):
    from harvest.training.resume import ResumeState

    folder = model_copy()
    model = folder / "productivity_model.keras"
    whole, known = model.read_bytes(), f" (120 rows, accuracy {metrics_of(folder)['test']['accuracy']:.3f})"
    monkeypatch.setattr(ResumeState, "on_epoch_end", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    train("--epochs", 30, "--checkpoints", "--no-quiet", folder=folder, code=143)
    shown = capsys.readouterr()
    assert re.search(
        rf"^Replaces   the model of \d{{4}}-\d\d-\d\d \d\d:\d\d{re.escape(known)} when this run ends", shown.out, re.M
    )
    assert f"; {model} is still the model of 20" in shown.err and known in shown.err
    assert model.read_bytes() == whole
    (partial,) = re.findall(r"the best model of this run so far is (\S+\.keras);", shown.err)
    newest = max((folder / "checkpoints").glob("*.keras"), key=lambda path: path.stat().st_mtime_ns)
    assert str(newest) == partial


# On a terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


def use_terminal(monkeypatch):
    """Let standard output be a terminal of 80 columns; called in the test, as pytest sets its own before it."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    for name, value in (("COLUMNS", "80"), ("LINES", "24"), ("TERM", "xterm-256color")):
        monkeypatch.setenv(name, value)
    return screen


def test_what_takes_a_while_is_shown_until_something_follows(monkeypatch):
    terminal = use_terminal(monkeypatch)
    console = Console(quiet=False)
    console.wait("Loading TensorFlow ...")
    console.print("Device     CPU")
    console.wait("Compiling ...")
    console.clear()
    console.clear()
    assert terminal.getvalue() == "Loading TensorFlow ...\r\x1b[KDevice     CPU\nCompiling ...\r\x1b[K"
    terminal.truncate(0)
    Console(quiet=True).wait("Loading TensorFlow ...")
    monkeypatch.setenv("TERM", "dumb")
    console.wait("Loading TensorFlow ...")
    monkeypatch.setattr(sys, "stdout", pipe := io.StringIO())
    monkeypatch.setenv("TERM", "xterm-256color")
    console.wait("Loading TensorFlow ...")
    assert terminal.getvalue().strip("\0") == pipe.getvalue() == ""


@pytest.mark.parametrize(
    ("line", "indent"),
    [
        ("Split      " + "27 rows " * 15, 11),
        ("Categories " + "app (3 values), " * 8, 11),
        ("Test rows  " + "a word " * 20, 11),
        ("           note: " + "a word " * 20, 11),
        ("  app  " + "a word " * 20, 4),
        ("The verdict, " + "a word " * 20, 2),
    ],
)
def test_a_line_wider_than_the_terminal_is_wrapped(line, indent):
    first, *others = fit(line, 80)
    assert others and max(map(len, [first, *others])) <= 80
    assert " ".join([first, *(other.strip() for other in others)]).split() == line.split()
    assert all(len(other) - len(other.lstrip()) == indent for other in others)
    assert fit(line[:80], 80) == [line[:80]]


def test_long_names_fit_the_terminal(train, tmp_path, monkeypatch):
    names = [f"the_{word}_of_the_window_in_front_in_the_last_five_minutes" for word in ("title", "colour", "age")]
    rows = [f"{row * 37 % 101},{row % 7},a{row % 5},{int(row * 37 % 101 > 50)}\n" for row in range(400)]
    path = tmp_path / f"{'snapshots_of_a_desktop_' * 3}.csv"
    path.write_text(",".join([*names, "productive"]) + "\n" + "".join(rows))
    monkeypatch.chdir(tmp_path)
    terminal = use_terminal(monkeypatch)
    flags = ("--no-quiet", "--checkpoints", "--tensorboard", "--folds", "5", "--split", "time", "--epochs", "2")
    train(*flags, csv=path.name, folder=Path("model"))
    train("--describe", csv=path.name, folder=Path("model"))
    train("--compare", "model", csv=(), folder=Path("model"))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    wide = [line for line in re.split(r"[\r\n]+", shown) if len(line) > 80]
    assert "Permutation importance" in shown and "distinct" in shown and "ROC AUC" in shown
    assert not [line for line in wide if len(line.split()) > 1 and max(map(len, line.split())) < 60], wide
