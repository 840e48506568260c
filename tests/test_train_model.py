"""The basic trainer: an honest baseline on the same rows."""

import csv
import json

import numpy as np
import pytest
from conftest import ROOT

import train_model as basic
from harvest.data.splits import split_rows
from harvest.data.table import read_table


def test_what_it_prints_and_leaves(run, sample, tmp_path):
    flags = ["--quick", "--lightweight", "--cpu-only", "--seed", 3]
    done = run("train_model.py", sample(80), "--model-dir", tmp_path / "model", *flags)
    assert done.returncode == 0, done.stderr
    assert (
        "test accuracy 0." in done.stdout
        and f"model saved to {tmp_path / 'model' / 'basic_model.keras'}" in done.stdout
    )
    metrics = json.loads((tmp_path / "model" / "basic_metrics.json").read_text())
    assert metrics["rows"] == {"training": 56, "validation": 12, "test": 12} and 0 <= metrics["test"]["accuracy"] <= 1
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"basic_model.keras", "basic_metrics.json", ".manifest.json", ".lock"}
    assert len((ROOT / "train_model.py").read_text().splitlines()) <= 130  # or nobody reads it in two minutes


def test_the_saved_model_gives_what_was_measured(sample, tmp_path, capsys):
    import keras

    path, folder = sample(100), tmp_path / "model"
    assert basic.main([str(path), "--model-dir", str(folder), "--quick"]) == 0
    metrics = json.loads((folder / "basic_metrics.json").read_text())
    table, _ = read_table(basic.parse_args([str(path)]))
    names, inputs = basic.as_numbers(table)
    test = split_rows(table.label, "random", 42).test
    inputs = (inputs - metrics["mean"]) / (np.array(metrics["deviation"]) + 1e-9)
    probability = keras.models.load_model(folder / "basic_model.keras").predict(inputs[test], verbose=0)[:, 0]
    accuracy = np.mean((probability >= 0.5) == table.label[test])
    assert names == metrics["columns"] and accuracy == pytest.approx(metrics["test"]["accuracy"])


def test_errors_are_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for argv in ([str(tmp_path / "absent.csv")], ["--seed", "x"], ["--epochs", "3"]):
        assert basic.main(argv) == 2
        found = capsys.readouterr()
        assert found.out == "" and found.err.startswith("error: ") and found.err.count("\n") == 1


@pytest.mark.slow
def test_it_replaces_its_own_files_only(sample, tmp_path, capsys):
    path, folder = sample(60), tmp_path / "model"
    argv = [str(path), "--model-dir", str(folder), "--quick"]
    folder.mkdir()
    (folder / "basic_model.keras").write_text("mine")
    assert basic.main(argv) == 2 and "was not written by this program" in capsys.readouterr().err
    assert (folder / "basic_model.keras").read_text() == "mine" and not (folder / "basic_metrics.json").exists()
    (folder / "basic_model.keras").unlink()
    for _ in range(2):
        assert basic.main(argv) == 0


def test_both_trainers_test_on_the_same_rows(sample, train):
    path = sample(100)
    folder = train("--epochs", 2, "--seed", 5, csv=path)
    with (folder / "predictions.csv").open(newline="") as file:
        tested = sorted(int(row["line"]) for row in csv.DictReader(file))
    args = basic.parse_args([str(path)])
    table, _ = read_table(args)
    split = split_rows(table.label, args.split, args.split_seed)
    assert tested == sorted(table.line_numbers[split.test].tolist())
    names, inputs = basic.as_numbers(table)
    assert sorted(names) == ["foreground_app", "keyboard_activity", "mouse_activity", "time_last_request"]
    assert inputs.shape == (100, 4)


def test_every_column_is_taken_as_a_number(tmp_path):
    cells = [("", "", ""), ("7", "b", "1.5"), ("-3", "a", "2")]
    rows = [f"{','.join(cells[row % 3])},{row % 2}" for row in range(30)]
    (tmp_path / "a.csv").write_text("\n".join(["app_id,mood,amount,productive", *rows, ""]))
    table, _ = read_table(basic.parse_args([str(tmp_path / "a.csv")]))
    names, inputs = basic.as_numbers(table)
    assert names == ["amount", "app_id", "mood"]
    assert sorted(set(map(tuple, inputs.tolist()))) == [(0, 0, 0), (1.5, 7, 2), (2, -3, 1)]
