"""--compare: whole runs by their metrics.json."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harvest.cli import UserError
from harvest.results.compare import compare_runs

ROOT = Path(__file__).resolve().parent.parent
NOTE = "The runs of a table were tested on the same rows: compare only within a table."
TITLES = ["directory", "date", "network", "folds", "log-loss", "95% interval", "ROC AUC", "accuracy"]


def write_run(folder, loss=0.5, used=80, tested=80, architecture="standard", folds=1, **more):
    test = {"log_loss": loss, "log_loss_ci95": [loss - 0.1, loss + 0.1], "roc_auc": 0.75, "accuracy": 0.756}
    test["confusion"] = [[tested - 7, 1], [2, 4]]
    settings = {"architecture": architecture, "folds": folds, "csv": ["HARVEST.CSV"]} | more.pop("settings", {})
    metrics = {"rows": {"used": used}, "test": test, "settings": settings, "rows_digest": "f00"} | more
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tables_of(lines):
    """The directories in each of the tables, which the name of the data and the titles precede."""
    blocks = "\n".join(lines).split("\n\n")
    return [[row.split()[0] for row in block.splitlines()[2:]] for block in blocks if block != NOTE]


def test_runs_are_compared_by_log_loss(here):
    write_run(here / "plain", loss=0.6)
    write_run(here / "folds", loss=0.4321, architecture="deep", folds=3)
    (here / "no run").mkdir()
    data, title, *lines = compare_runs([])
    assert data == "HARVEST.CSV: 80 rows, 80 tested"
    assert re.split(r"  +", title) == TITLES
    shown = [dict(zip(title.split(), line.split(), strict=False)) for line in lines]
    assert [row["directory"] for row in shown] == ["folds", "plain"]
    for words in ("deep      3", "0.432  0.332 to 0.532"):
        assert words in lines[0]
    assert "0.750" in lines[0] and lines[0].endswith(" 75.6%")
    assert compare_runs(["plain", "folds"]) == [data, title, *lines]


def test_damage_is_reported_and_left_out(here, capsys):
    write_run(here / "plain")
    write_run(here / "elsewhere", rows_digest="ba5")
    for name, content in (
        ("broken", '{"rows": 3'),
        ("odd", '{"rows": {}, "test": {}, "settings": 5}'),
        ("list", "[]"),
        ("deep", "[" * 100_000),
    ):
        (here / name).mkdir()
        (here / name / "metrics.json").write_text(content)
    lines = compare_runs(["plain", "broken", "elsewhere", "odd", "list", "deep", "nowhere"])
    assert len(tables_of(lines)) == 2 and lines[-1] == NOTE
    damaged = [os.path.join(name, "metrics.json") for name in ("broken", "odd", "list", "deep")]
    notes = [f"note: skipped {path}, which is damaged" for path in damaged]
    assert capsys.readouterr().err.splitlines() == [*notes, "note: nowhere contains no completed run"]
    with pytest.raises(UserError, match=r"--compare: no completed run was found; give directories of completed runs$"):
        compare_runs(["nowhere"])


def test_other_split_seeds_test_other_rows_unless_all_are_tested(here):
    for name, seed in (("a", 1), ("b", 2), ("c", 2)):
        write_run(here / f"all_{name}", settings={"split_seed": seed})
        write_run(here / f"some_{name}", tested=20, settings={"split_seed": seed})
    assert sorted(map(sorted, tables_of(compare_runs([])))) == [
        ["all_a", "all_b", "all_c"],
        ["some_a"],
        ["some_b", "some_c"],
    ]


def test_runs_on_other_data_or_other_rows_are_ranked_apart_under_the_name_of_the_data(here):
    write_run(here / "january", settings={"csv": ["january.csv"]})
    write_run(here / "both", settings={"csv": ["january.csv", "march.csv"]})
    write_run(here / "dropped", rows_digest="ba5")
    write_run(here / "plain", loss=0.4)
    write_run(here / "deep", loss=0.3)
    lines = compare_runs([])
    assert len(tables_of(lines)) == 4
    assert "january.csv: 80 rows, 80 tested" in lines
    assert "2 files, january.csv to march.csv: 80 rows, 80 tested" in lines
    assert lines.count("HARVEST.CSV: 80 rows, 80 tested") == 2 and ["deep", "plain"] in tables_of(lines)


def test_an_area_that_is_not_defined(here):
    write_run(here / "old", test=None)
    metrics = json.loads((here / "old" / "metrics.json").read_text())
    scores = {"log_loss": 0.5, "log_loss_ci95": [0.4, 0.6], "roc_auc": None, "accuracy": 0.75}
    metrics["test"] = scores | {"confusion": [[3, 1], [0, 0]]}
    del metrics["rows_digest"]  # as early versions did not write it
    (here / "old" / "metrics.json").write_text(json.dumps(metrics))
    assert compare_runs([])[2].endswith("nan     75.0%")


def test_the_runs_that_checkpoints_come_from(here):
    write_run(here / "model")
    checkpoints = here / "model" / "checkpoints"
    checkpoints.mkdir()
    entries = {}
    for epoch in range(1, 6):
        name, data = f"model_{epoch:02d}_0.5000.keras", "rows.csv" if epoch > 1 else "sample"
        with zipfile.ZipFile(checkpoints / name, "w") as archive:
            archive.writestr("training.json", "{}")
        entries[name] = {"run": f"20260101-000000_{data}_standard_folds10", "data": data, "rows": 150}
    (checkpoints / "manifest.json").write_text(json.dumps({"train_model_modern": entries}))
    (checkpoints / "model_05_0.5000.keras").unlink()
    *_, empty, first, second = compare_runs([])
    assert empty == "" and second == "  3 from 20260101-000000_rows.csv_standard_folds10 (rows.csv, 150 rows)"
    assert first == "model/checkpoints: 1 from 20260101-000000_sample_standard_folds10 (sample, 150 rows),"
    for entry in entries.values():  # generated rows are counted in their name
        entry["data"] = "150 generated rows"
    (checkpoints / "manifest.json").write_text(json.dumps({"train_model_modern": entries}))
    assert compare_runs([])[-1] == "  3 from 20260101-000000_rows.csv_standard_folds10 (150 generated rows)"
    (checkpoints / "manifest.json").write_text("mine")
    assert len(compare_runs([])) == 3


def test_tensorflow_and_pandas_are_not_imported(here):
    write_run(here / "old")
    program = "import sys, train_model_modern as script; code = script.main(['--compare']); "
    program += "sys.exit(code or 3 * bool({'tensorflow', 'pandas'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout.splitlines()) == 3
