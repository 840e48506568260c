"""What is said to the user: refusals, what a run replaces and leaves, and means over nets."""

import json
import os
import re
import signal
import time
from types import SimpleNamespace

import pytest

import predict
import train_model
import train_model_modern as modern

REFUSALS = {
    "--sample x": "--sample takes a number of rows, not x;",
    "--folds x": "--folds takes a whole number of 1 or more, or auto, not x;",
    "--epochs 0": "--epochs takes a whole number of 1 or more, not 0;",
    "--keep-checkpoints -1": "--keep-checkpoints takes a whole number of 0 or more, not -1;",
    "--threshold often": "--threshold takes a number between 0 and 1, f1, balanced, ",
    "--sample 5": "--sample 5: only 5 usable rows, at least 20 are needed; generate more rows",
    "--sample --architectur": "unrecognized arguments: --architectur (did you mean --architecture?);",
    "--no-tensorbord --epoch=7": "(did you mean --no-tensorboard or --epochs?);",
    "--sample --qqqqqq": "unrecognized arguments: --qqqqqq; --help lists the flags",
}


@pytest.mark.parametrize("flags", REFUSALS)
def test_refusals_say_what_is_wrong(flags, tmp_path, capsys):
    assert modern.main([*flags.split(), "--model-dir", str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and REFUSALS[flags] in error and error.count("\n") == 1
    assert not (tmp_path / "model").exists() and "/HARVEST.CSV" not in error and "argument -" not in error


@pytest.mark.parametrize(
    ("parse", "flags", "words"),
    [
        (train_model.parse_arguments, ["--lightwieght"], "did you mean --lightweight?"),
        (predict.parse_options, ["rows.csv", "--modle", "x"], "did you mean --model?"),
        (train_model.parse_arguments, ["--seed", "x"], "--seed takes a whole number from 0 to 2,147,483,647, not x;"),
    ],
)
def test_other_scripts_help_with_misspelt_flags_too(parse, flags, words):
    with pytest.raises(modern.UserError, match=re.escape(words)):
        parse(flags)


def test_rows_of_a_class_are_called_by_the_label(tmp_path, capsys):
    for label, words in (("productive", "productive rows"), ("churn", "rows with churn = 1")):
        path = tmp_path / f"{label}.csv"
        path.write_text(f"x,{label}\n" + "".join(f"{row * 37 % 101},{int(row < 3)}\n" for row in range(1_200)))
        assert modern.main([str(path), "--label", label, "--model-dir", str(tmp_path / "model")]) == 2
        assert f"too few {words}: 3 of 1,200, at least 5 are needed;" in capsys.readouterr().err


def test_the_summary_counts_the_rows_of_all_nets(sample):
    options = modern.parse_options([str(sample(64)), "--folds", "7"])
    table = modern.read_table(options)
    splits = modern.split_table(options, table)
    lines = modern.show_data(options, table, splits)
    counts = [{len(split.training) for split in splits}, {len(split.test) for split in splits}]
    least, most, (few, many) = min(counts[0]), max(counts[0]), sorted(counts[1])
    assert f"each net has {least} to {most} rows for training" in lines[-1]
    assert f"{few} to {many} for testing" in lines[-1]
    batch = modern.decide(options, splits, table.label)["batch_size"].reason
    assert not re.search(r"\b4\d\b", batch)  # which would be another count of training rows


def nets(*lengths):
    """Nets in training whose logs count the epochs."""
    logs = [[{"loss": 1 / epoch, "val_loss": epoch} for epoch in range(1, length + 1)] for length in lengths]
    return [SimpleNamespace(history=history, best_epoch=1) for history in logs]


def test_a_finished_net_keeps_its_last_values_in_the_mean():
    means = [modern.mean_logs(nets(2, min(epoch, 4)), epoch) for epoch in range(2, 5)]
    assert [mean["val_loss"] for mean in means] == [2, 2.5, 3]
    losses = [mean["loss"] for mean in means]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"rows": {"used": 200000}, "test": {"accuracy": 0.8612}}', " (200,000 rows, accuracy 0.861)"),
        ('{"rows": {"used": 200000}, "test": {"acc', ""),
        ('{"rows": {"used": null}, "test": {"accuracy": "high"}}', ""),
        ('{"rows": [], "test": 3}', ""),
        ("[" * 100_000, ""),
        (None, ""),
    ],
)
def test_what_is_known_of_an_earlier_model(tmp_path, content, words):
    assert modern.earlier_model(tmp_path) == ""
    (tmp_path / modern.MODEL_FILE).write_bytes(b"")
    date = time.mktime((2026, 11, 24, 14, 2, 0, 0, 0, -1))
    os.utime(tmp_path / modern.MODEL_FILE, (date, date))
    if content is not None:
        (tmp_path / modern.METRICS_FILE).write_text(content)
    assert modern.earlier_model(tmp_path) == f"the model of 2026-11-24 14:02{words}"


def test_a_run_says_what_it_replaces_and_when_it_is_stopped_what_is_left(sample, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    flags = ["--model-dir", str(folder), "--folds", "1", "--epochs", "30", "--no-tensorboard"]
    assert modern.main([str(sample(100)), *flags]) == 0
    assert "Replaces" not in capsys.readouterr().out
    whole, accuracy = (folder / modern.MODEL_FILE).read_bytes(), metrics_of(folder)["test"]["accuracy"]
    for content in (None, b'{\n  "rows": {'):
        if content:
            (folder / modern.METRICS_FILE).write_bytes(content)
        known = "" if content else f" (100 rows, accuracy {accuracy:.3f})"
        with monkeypatch.context() as patch:
            patch.setattr(modern.StateFile, "on_epoch_end", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
            assert modern.main([str(sample(120)), *flags]) == 143
        shown = capsys.readouterr()
        assert re.search(rf"^Replaces   the model of \d{{4}}-\d\d-\d\d \d\d:\d\d{re.escape(known)},", shown.out, re.M)
        assert f"; {folder / modern.MODEL_FILE} is still the model of 20" in shown.err and known in shown.err
        assert (folder / modern.MODEL_FILE).read_bytes() == whole
        (partial,) = re.findall(r"the best model of this run so far is (\S+\.keras);", shown.err)
        newest = max((folder / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        assert str(newest) == partial


def metrics_of(folder):
    return json.loads((folder / modern.METRICS_FILE).read_text())
