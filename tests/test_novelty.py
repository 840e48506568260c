"""Notes on columns that hold nothing a model has seen in training."""

import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import write_rows

import predict as script
from harvest.cli import UserError
from harvest.data import cells
from harvest.data.cells import MISSING
from harvest.model.archive import Details
from harvest.model.novelty import Novelty


class Lookup:
    def __init__(self, name, known):
        self.input, self.known = type("Input", (), {"name": name}), known

    def get_vocabulary(self, include_special_tokens):
        assert not include_special_tokens
        return self.known


def novelty(missing=(), new_values=0.0, apps=("mail", "web")):
    details = Details(
        "productive",
        0.5,
        {"app": "category", "id": "category", "idle": "number"},
        set(missing),
        {},
        {},
        {"idle": [0, 9]},
    )
    details.new_values.update(app=new_values)
    layers = [Lookup("app", list(apps)), Lookup("id", [5, 7]), object()]
    return Novelty(type("Model", (), {"layers": layers}), details)


def rows(app=("mail",), id=(5,), idle=(1.0,), count=60):
    """So many rows, the cells of each column in turn."""
    columns = {"app": np.array(app, object), "id": np.array(id, np.int64), "idle": np.array(idle, float)}
    return {name: np.resize(column, count)[:, None] for name, column in columns.items()}


def notes(counts, *parts):
    for part in parts:
        counts.add(part)
    return list(counts.notes().values())


UNSEEN = "app: none of the values in 60 rows was seen in training (a, b)"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"app": ["a", "b"]}, [UNSEEN]),
        ({"app": ["a", "b", "c", "d"]}, ["app: none of the values in 60 rows was seen in training (a, b, c, ...)"]),
        ({"app": ["a", ""]}, ["app: none of the values in 30 rows was seen in training (a)"]),
        ({"app": ["a", "b", "mail"]}, ["app: 67% of the values in 60 rows were not seen in training (a, b)"]),
        ({"app": ["a", "mail"]}, []),
        ({"app": ["a"], "count": 2}, []),
        ({"app": ["a"], "count": 3}, ["app: none of the values in 3 rows was seen in training (a)"]),
        ({"app": ["a", "b", "mail"], "count": 19}, []),
        ({"id": [6]}, ["id: none of the values in 60 rows was seen in training (6)"]),
        ({"id": [cells.UNSEEN]}, ["id: none of the values in 60 rows was seen in training (other text)"]),
        ({"id": [MISSING]}, ["id: empty in all 60 rows, but never empty in training"]),
        ({"idle": [np.nan]}, ["idle: empty in all 60 rows, but never empty in training"]),
        ({"idle": [np.nan, np.nan, 1]}, ["idle: empty in 40 of 60 rows, but never empty in training"]),
        ({"idle": [np.nan, 1]}, []),
        ({"idle": [-1, 1000]}, ["idle: all 60 values are outside the training range, 0 to 9"]),
        ({"idle": [1000, 9000, 1]}, ["idle: 40 of 60 values are outside the training range, 0 to 9"]),
    ],
    ids=str,
)
def test_what_is_noted(given, expected):
    assert notes(novelty(), rows(**given)) == expected


def test_parts_are_counted_together_and_each_column_is_noted_once():
    counts = novelty()
    assert notes(counts, rows(app=["a"], count=2), rows(app=["b"], count=58)) == [UNSEEN]
    assert notes(counts, rows(app=["c"], idle=[np.nan], count=200)) == [
        "idle: empty in 200 of 260 rows, but never empty in training"
    ]


def test_columns_with_one_value_in_all_rows():
    counts = novelty(missing=["idle"])
    assert notes(counts, rows(idle=[np.nan], id=[5, 7], count=10)) == [] and counts.uniform() == []  # few rows
    assert notes(counts, rows(idle=[np.nan], id=[5], count=30)) == [] and counts.uniform() == ["app", "idle"]
    assert notes(counts, rows(app=["web"], count=30)) == [] and counts.uniform() == []


def test_what_training_had_too_is_no_news():
    gaps = rows(app=[""], id=[MISSING], idle=[np.nan])
    assert notes(novelty(missing=["app", "id", "idle"]), gaps) == []
    assert notes(novelty(new_values=0.6), rows(app=["a", "b"])) == []  # titles of windows: most are new every day
    assert notes(novelty(new_values=0.3), rows(app=["a", "b"])) == [UNSEEN]
    many = [f"app {number}" for number in range(256)]  # there may have been others, which were rarer
    text = "app: none of the values in 60 rows was among the 256 that the model knows (a, b)"
    assert notes(novelty(apps=many), rows(app=["a", "b"])) == [text]


def test_files_and_streams_are_noted_once(trained, predict, tmp_path):
    folder = trained()
    own = write_rows(tmp_path / "own.csv", 150)
    header, *lines = own.read_text().splitlines()
    assert predict(own, "--model-dir", folder)[2] == ""
    strange = [",".join(["1234567", "", *line.split(",")[2:]]) for line in lines]
    own.write_text("\n".join([header, *strange, ""]))
    expected = [
        "note: foreground_app: none of the values in {} rows was seen in training (1234567)",
        "note: keyboard_activity: empty in all {} rows, but never empty in training",
    ]
    code, _, err = predict(own, "--model-dir", folder, "--output", tmp_path / "out.csv")
    assert code == 0 and sorted(err.splitlines()) == [text.format(150) for text in expected]
    sent = "\n".join([header, *strange[:30], ""]).encode()
    assert sorted(predict("-", "--model-dir", folder, stdin=sent)[2].splitlines()) == [
        text.format(30) for text in expected
    ]
    first, *_ = (line for line in predict(own, "--model-dir", folder, "--evaluate")[2].splitlines() if "trai" in line)
    assert first in [text.format(150) for text in expected]
    err = predict(own, "--model-dir", folder, "--evaluate")[2]
    assert "it is unknown whether these rows were used to train this model: column foreground_app" in err


def test_data_frames_are_warned_of_once(trained, tmp_path):
    model = script.load(trained())
    table = pd.read_csv(write_rows(tmp_path / "own.csv", 40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(table)
    with pytest.warns(UserWarning, match="foreground_app: none of the values in 40 rows was seen in training"):
        model.predict(table.assign(foreground_app=1234567))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(table.assign(foreground_app=1234567))


def write_regions(path):
    """A column with the text NA, one that is never empty, and one that is empty at times."""
    cells = ["NA,x,u", "SA,y,", "AS,x,v"]
    lines = [f"{cells[number % 3]},{number % 7},{int(number % 3 == 0)}" for number in range(90)]
    path.write_text("\n".join(["region,always,at_times,idle,productive", *lines, ""]))


def test_the_text_na_means_the_same_in_every_way_in(trained, predict, tmp_path):
    folder = trained(write=write_regions)
    path, out = folder.parent / "HARVEST.CSV", tmp_path / "out.csv"
    assert predict(path, "--model-dir", folder, "--output", out)[0] == 0
    model = script.load(folder)
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    expected = pd.read_csv(out)["probability"]
    np.testing.assert_allclose(model.predict_proba(rows)[:, 1], expected, atol=1e-5)
    cure = "read the table with dtype=str, keep_default_na=False"
    with pytest.raises(UserError, match=f"row 0, column region is missing, but NA is a value in the model; {cure}"):
        model.predict(pd.read_csv(path))
    missing = rows.assign(always=[None, *rows["always"][1:]])
    with pytest.raises(
        UserError, match=f"row 0, column always is missing, but it was never missing in training; {cure}"
    ):
        model.predict(missing)
    gaps = rows.assign(at_times=rows["at_times"].where(rows["at_times"] != "", None))
    np.testing.assert_allclose(model.predict_proba(gaps)[:, 1], expected, atol=1e-5)


def test_a_table_of_2017_without_its_names_is_refused(trained, predict, tmp_path):
    folder = trained()
    path = tmp_path / "2017.csv"
    path.write_text("".join((folder.parent / "HARVEST.CSV").read_text().splitlines(keepends=True)[1:]))
    model = script.load(folder)
    names = ["foreground_app", "keyboard_activity", "mouse_activity", "time_last_request", "productive"]
    for options in ({}, {"header": None}):
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, **options)
        with pytest.raises(UserError) as error:
            model.predict(rows)
        assert str(error.value).endswith(f"; read it with header=None, names={names}")
    rows = pd.read_csv(path, dtype=str, keep_default_na=False, header=None, names=names)
    _, out, _ = predict(path, "--model-dir", folder)
    found = [float(line.split(",")[-2]) for line in out.splitlines()[1:]]
    np.testing.assert_allclose(model.predict_proba(rows)[:, 1], found, atol=1e-5)
