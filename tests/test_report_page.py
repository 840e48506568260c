"""report.html: its contents against plain counting, and how it looks in Chromium if that is installed."""

import base64
import csv
import hashlib
import html
import io
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import CHROMIUM, ROOT, metrics_of
from made_up_run import HOSTILE, RTL, Page, column, made_up_run, predictions_csv, predictions_of

import report
from harvest import VERSION
from harvest.results.metrics import measure, wilson
from harvest.results.report.page import (
    best_epoch,
    cell_text,
    histogram,
    logarithmic_columns,
    partial_dependence,
    read_predictions,
    render_report,
    setting_text,
    shorten,
)
from harvest.run_directory import METRICS_FILE, MODEL_FILE, PREDICTIONS_FILE, REPORT_FILE, TEMPORARY
from harvest.text import interval, percent

SECTIONS = ["Next steps", "Mistakes", "Important columns", "Calibration and ranking", "Learning curves"]
SECTIONS += ["Data", "Settings"]
NAMES = ["<b>&.csv", 'say "so".csv', "\u05e9\u05dc\u05d5\u05dd, \u202ecsv.exe"]
RUNS = {
    "ten": lambda: made_up_run(),
    "one": lambda: made_up_run(rows=28, folds=1, epochs=12, names=NAMES, columns=HOSTILE),
}


@pytest.fixture(params=RUNS)
def made_up(request):
    """metrics.json as a dictionary and predictions.csv: of ten networks, and of one with few rows and hostile names."""
    return RUNS[request.param]()


def render(metrics, predictions):
    return render_report(json.loads(json.dumps(metrics)), predictions).decode()


def section(content, title):
    return content.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]


def suspects_of(content):
    return section(content, "Mistakes").partition("<h3>Labels worth a second look</h3>")[2]


def cells_of(part):
    rows = re.findall(r"<tr.*?>(.*?)</tr>", part, re.DOTALL)[1:]
    return [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row) for row in rows]


def test_it_holds_everything(made_up):
    metrics, predictions = made_up
    content = render(metrics, predictions)
    page = Page(content)
    assert content.startswith(
        f"<!doctype html>\n<!-- Report of train_model_modern.py {VERSION}; a later run replaces it"
    )
    assert re.findall(r"<h2>(.*?)</h2>", content) == SECTIONS
    assert page.tags.count("svg") == 3 + 2 + 1 + 1 + 1 + len(metrics["effects"])
    loss, ends = metrics["test"]["log_loss"], metrics["test"]["log_loss_ci95"]
    assert page.text.count(f"{loss:.3f} {interval(ends, 1, 3) if ends else ''}".strip()) == 1
    for step in metrics["next_steps"]:
        assert step in section(content, "Next steps")
    for name, value in metrics["importance"].items():
        assert name in page.text and f"{value:.3f}" in page.text
    for reason in metrics["settings"]["reasons"].values():
        assert reason in page.text
    (tn, fp), (fn, tp) = metrics["test"]["confusion"]
    shown = re.findall(r'id="(?:tn|fp|fn|tp)">([\d,]+)<', content)
    assert shown == [f"{count:,}" for count in (tn, fp, fn, tp)]
    assert ("lowest to highest network" in page.text) == (metrics["settings"]["folds"] > 1)
    words = "The curves are means; a network that has stopped counts with its last epoch."
    assert (words in page.text) == (metrics["settings"]["folds"] > 1)
    words = "The curves are those of the network alone"
    assert (words in page.text) == (metrics["settings"]["network_share"] < 1)


def test_it_needs_nothing_else(made_up):
    content = render(*made_up)
    page = Page(content)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", content)
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset", "action", "xlink:href", "onload"}
    assert not {"link", "iframe", "img", "object"} & set(page.tags)
    (script,) = re.findall(r"<script>(.*?)</script>", content, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', content)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert len(content.encode()) < 100_000


def everywhere(text):
    """A run in which each text of the data and of the settings is the same."""
    metrics, predictions = made_up_run(names=(text, f"{text}2"), columns=(text, f"{text}2", f"{text}3"))
    metrics["settings"] |= {"label": text, "device": text, text: text}
    metrics["settings"]["reasons"] |= {"threshold": text, "device": text}
    metrics |= {"verdict": [text], "warnings": [text], "date": text, "versions": {text: text, "script": text}}
    part = {"difference": 0.1, "ci95": None}
    metrics["comparison"] = {text: {"accuracy": part, "log_loss": part, "note": text}}
    metrics["table"] |= {"notes": [text], "split": [text]}
    metrics["table"]["columns"] = [column(text, text, 3, reason=text, hint=text)]
    metrics["effects"][0]["values"][0] = text
    suspect = {"file": text, "line": 1, "label": 0, "probability": 0.99, "cells": {text: text}}
    metrics |= {"suspect_labels": [suspect], "next_steps": [text]}
    return metrics, predictions


@pytest.mark.parametrize(
    "text", [*HOSTILE, "</title></style></svg>", '" onload="alert(1)', "{{ 7 * 7 }}{% raw %}", RTL]
)
def test_every_text_is_escaped(text):
    plain = Page(render(*everywhere("plain")))
    content = render(*everywhere(text))
    page = Page(content)
    assert page.tags == plain.tags  # nothing is an element that is not one of a harmless text's
    assert {name for name, _ in page.attributes} == {name for name, _ in plain.attributes}
    assert page.tags.count("script") == 1 and page.text.count(" ".join(text.split())) > 20


def test_long_texts_are_shortened_and_whole_in_a_tooltip():
    content = render(*everywhere("X" * 1_300 + "<b>"))
    tooltips = re.findall(r'title="(X*.?)"', content)
    assert len(tooltips) > 15 and {len(text) for text in tooltips} == {1_000}
    plain = re.sub(r'title="[^"]*"', "", content)
    lengths = sorted(len(word) for word in re.findall("X{20,}", plain))
    assert lengths[-5:] == [1_300] * 5 and lengths[-6] == 199  # the sentences of the program are not cut


@pytest.mark.parametrize(
    ("text", "length", "expected"), [("abc", 3, "abc"), ("abcd", 3, "ab\u2026"), (1.5, 200, "1.5"), ("", 1, "")]
)
def test_shorten(text, length, expected):
    assert shorten(text, length) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((True, "on"), (False, "off"), ([], "none"), (["a", 2], "a, 2"), (None, "not given"), ("auto", "auto")),
        *((1234567, "1,234,567"), (0.0061, "0.0061")),
    ],
)
def test_settings_as_text(value, expected):
    assert setting_text(value) == expected


def test_counts_of_other_thresholds(made_up):
    metrics, predictions = made_up
    content = render(metrics, predictions)
    _, label, probability = predictions_of(predictions)
    (data,) = re.findall(r'data-counts="(.*?)"', content)
    zeros, ones, counts = json.loads(html.unescape(data))
    assert (zeros, ones, len(counts)) == (int((label == 0).sum()), int(label.sum()), 101)
    for place, (fp, tp) in enumerate(counts):
        predicted = probability >= place / 100
        assert (fp, tp) == (int(predicted[label == 0].sum()), int(predicted[label == 1].sum()))
    (start,) = re.findall(r'data-start="(.*?)"', content)
    assert float(start) == metrics["threshold"]


def test_the_matrix_has_precision_and_recall_without_the_script(made_up):
    metrics, predictions = made_up
    text = Page(section(render(metrics, predictions), "Mistakes")).text
    meanings = {"precision": "predicted 1 that are labeled 1", "recall": "labeled 1 that are predicted 1"}
    for name, meaning in meanings.items():
        score, ends = metrics["test"][name], metrics["test"][f"{name}_ci95"]
        assert f"{name.capitalize()} {percent(score)} ({interval(ends)}) : the share of rows {meaning}." in text
    metrics["test"] |= {"confusion": [[5, 0], [6, 0]]}  # nothing is predicted 1
    assert "Precision n/a :" in Page(section(render(metrics, predictions), "Mistakes")).text


def test_the_histogram_has_the_shares_of_each_class():
    y_true, y_prob = np.array([0, 0, 0, 1, 1]), np.array([0.01, 0.02, 0.97, 0.98, 1.0])
    chart = histogram(y_true, y_prob, 0.4)
    kinds = dict(chart.paths)
    assert [*kinds] == ["fill one", "fill two", "line faint dashed cut"]
    middle, top, bottom = (float(chart.y(value)) for value in (0, 1, -2 / 3))
    heights = [float(y) for y in re.findall(r"V([\d.]+)H", kinds["fill one"])]
    assert heights == pytest.approx([middle] * 19 + [top], abs=0.1)
    heights = [float(y) for y in re.findall(r"V([\d.]+)H", kinds["fill two"])]
    assert heights == pytest.approx([bottom] + [middle] * 18 + [float(chart.y(-1 / 3))], abs=0.1)
    assert kinds["line faint dashed cut"].startswith(f"M{float(chart.x(0.4)):.1f} ")
    assert [text for _, text in chart.up.ticks] == ["100%", "50%", "0%", "50%", "100%"]


def test_calibration_is_that_of_ten_bins(made_up):
    metrics, predictions = made_up
    _, label, probability = predictions_of(predictions)
    expected = []
    for low in range(10):
        part = (probability * 10 >= low) & (probability * 10 < low + 1)
        if part.any():
            name = f"{10 * low} to {10 * low + 10}%".replace(" ", "\xa0")
            expected.append([name, f"{part.sum():,}", percent(probability[part].mean()), percent(label[part].mean())])
    details = re.search(r"<details>(.*?)</details>", render(metrics, predictions), re.DOTALL)[1]
    assert [row[:4] for row in cells_of(details)] == expected


def test_the_most_surprising_labels_are_listed_with_their_cells(made_up):
    metrics, predictions = made_up
    expected = [
        [str(row["line"]), "1", f"{row['probability']:.3f}", *map(cell_text, row["cells"].values())]
        for row in metrics["suspect_labels"]
    ]  # line numbers and ids as plain digits, which can be searched for
    assert expected[0][:1] == ["1002"] and expected[0][3:] == ["Word", "501", "1235569"]
    if "file" in metrics["suspect_labels"][0]:
        expected = [[NAMES[0], *cells] for cells in expected]
    part = suspects_of(render(metrics, predictions))
    assert [[html.unescape(cell) for cell in row] for row in cells_of(part)] == expected
    assert "There are none" not in part
    for row in metrics["suspect_labels"]:
        del row["cells"]  # as versions up to 1.8.0 wrote them
    assert [len(row) for row in cells_of(suspects_of(render(metrics, predictions)))] == [len(expected[0]) - 3] * 12
    part = suspects_of(render(metrics | {"suspect_labels": []}, predictions))
    assert "There are none" in part and "<table" not in part


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *(
            (None, "(missing)"),
            (1234567, "1234567"),
            (1234567.0, "1234567"),
            (0.1, "0.1"),
            ("TRUE", "TRUE"),
            (1e300, "1e+300"),
        )
    ],
)
def test_cells_as_text(value, expected):
    assert cell_text(value) == expected


def test_columns_are_listed_by_importance_and_what_was_never_counted_is_left_empty():
    part = section(render(*made_up_run()), "Data")
    rows = cells_of(part)
    assert [row[0] for row in rows] == ["app", "keys", "clicks", "id", "note"]
    assert [row[2:] for row in rows] == [["3", "7"], ["140", "3"], ["2", "0"], ["", ""], ["", ""]]
    assert rows[3][1] == "dropped<small>never read</small>"
    assert "Line 7 is left out." in part and "152 rows read, 2 skipped." in part


def test_the_verdict_has_its_caveats_and_differences_with_signs():
    metrics, predictions = made_up_run()
    for name in ("verdict", "warnings", "comparison", "next_steps"):
        del metrics[name]
    plain = Page(render(metrics, predictions)).text
    metrics["verdict"] = ["It is of no use.", "Not at all: " + "no, " * 99 + "no."]
    metrics["warnings"] = ["mind the gap", "x: use --drop x"]
    metrics["next_steps"] = ["x: use --drop x."]
    parts = {"log_loss": {"difference": -0.0123, "ci95": [-0.5, 0.5]}}
    parts["accuracy"] = {"difference": 0.056, "ci95": [0.01, 0.1], "p_value": 0.0321}
    metrics["comparison"] = {"logistic_regression": parts}
    content = render(metrics, predictions)
    text = Page(content).text
    differences = ["difference from logistic regression +5.6 points +1.0 to +10.0 p = 0.032 -0.012 -0.500 to +0.500"]
    for words in ["It is of no use.", "no, no, no.", "Warning: mind the gap.", *differences]:
        assert words in text and words not in plain
    assert text.count("x: use --drop x") == 1  # a warning that is a step already is not repeated
    parts["accuracy"]["p_value"] = 0.0004
    assert "p < 0.001" in Page(render(metrics, predictions)).text


@pytest.mark.parametrize(("folds", "expected"), [(1, 17), (10, 5)])
def test_the_best_epoch_is_marked(folds, expected):
    metrics, predictions = made_up_run(folds=folds)
    metrics["history"]["val_loss"][4] = 0.1
    assert best_epoch(metrics) == expected
    part = section(render(metrics, predictions), "Learning curves")
    x = f"{46 + 296 * (expected - 1) / 39:.1f}"
    assert part.count(f'<path class="line faint dashed" d="M{x} ') == 3
    what = "best epoch: 17" if folds == 1 else "lowest mean validation loss: epoch 5"
    assert part.count(what) == 3


def test_comparable_columns_have_the_same_kind_of_axis():
    def number(name, *values):
        return {"column": name, "kind": "number", "values": values}

    skewed, even = number("keyboard_activity", 1, 2, 3, 1_000, None), number("mouse_activity", 500, 600, 900)
    other, small = number("hour", 1, 12, 23), number("activity_share", 0.1, 0.5, 0.9)
    category = {"column": "activity", "kind": "category", "values": ["Word"]}
    found = logarithmic_columns([even, skewed, other, small, category, number("empty", None)])
    assert found == {"keyboard_activity", "mouse_activity"}
    assert logarithmic_columns([even, other]) == set()


def test_metrics_of_an_earlier_version_are_drawn_without_what_they_lack():
    metrics, predictions = made_up_run()
    for name in ("history", "effects", "table", "date", "suspect_labels"):
        del metrics[name]
    content = render(metrics, predictions)
    assert re.findall(r"<h2>(.*?)</h2>", content) == [title for title in SECTIONS if not title.startswith("L")]
    assert "<h3>" not in content
    del metrics["importance"]
    assert "<h2>Important columns</h2>" not in render(metrics, predictions)


def test_one_class_only():
    metrics, _ = made_up_run(rows=20)
    predictions = predictions_csv(np.zeros(20), np.linspace(0, 1, 20))
    metrics["test"] = measure(np.zeros(20, np.float32), np.linspace(0, 1, 20), 0.5)
    part = section(render(metrics, predictions), "Calibration and ranking")
    assert "All test rows have the same label" in part and part.count("<svg") == 1


def test_missing_intervals_are_explained():
    metrics, _ = made_up_run()
    y_true, y_prob = (np.arange(40) < 6).astype(np.float32), np.linspace(0.9, 0.1, 40)
    metrics["rows"]["test"], metrics["test"] = 40, measure(y_true, y_prob, 0.5)
    text = Page(render(metrics, predictions_csv(y_true, y_prob))).text
    assert "ROC AUC and log-loss have no interval: too few rows with productive = 1." in text
    assert "have no interval" not in Page(render(*made_up_run())).text


@pytest.mark.parametrize(("sample", "expected"), [(None, "line"), (500, "generated row")])
def test_generated_rows_are_not_called_lines(sample, expected):
    metrics, predictions = made_up_run()
    metrics["settings"]["sample"] = sample
    metrics["suspect_labels"] = [{"line": 7, "label": 1, "probability": 0.01}]
    part = suspects_of(render(metrics, predictions))
    assert f">{expected}</th>" in part and f"<td>{6 if sample else 7}</td>" in part


def test_the_dashed_line_is_the_mean_of_the_same_rows():
    effect = {"column": "a", "kind": "number", "values": [1.0, 2.0], "rows": [3, 4], "probability": [0.2, 0.4]}
    metrics = {"effects": [effect | {"mean": 0.3}], "table": {"positive": 0.35}}
    (found,) = partial_dependence(metrics)
    (before,) = partial_dependence({**metrics, "effects": [effect]})  # of a version that wrote no mean
    assert (found["usual"], before["usual"]) == (0.3, 0.35)


def test_a_class_too_rare_for_bands():
    metrics, _ = made_up_run()
    y_prob = np.random.default_rng(3).random(15_000)
    y_true = (np.arange(15_000) < 1).astype(np.float32)
    metrics["rows"]["test"], metrics["test"] = 15_000, measure(y_true, y_prob, 0.5)
    text = Page(render(metrics, predictions_csv(y_true, y_prob))).text
    assert "One class has too few rows for bands." in text and "95% band" not in text and "ROC curve" in text


def test_many_rows_and_columns_make_no_large_page():
    metrics, predictions = made_up_run(rows=200_000, names=('part, "0".csv', 'part, "1".csv'))
    metrics["importance"] = {f"column {number}": 1 / (1 + number) for number in range(3_000)}
    metrics["table"]["columns"] = [column(name, "number", 5) for name in metrics["importance"]]
    metrics["history"] = {name: values * 2_000 for name, values in metrics["history"].items()}
    content = render(metrics, predictions)
    assert len(content.encode()) < 150_000
    text = Page(content).text
    assert "test rows: 200,000" in text and "2,985 more columns matter less" in text
    assert "2,960 more columns are in metrics.json" in text


@pytest.mark.parametrize("names", [("one.csv",), ("a.csv", 'say ""so"", 1.csv'), ('"', ",,", "\u05d0#", "1,2,3")])
def test_predictions_are_read_as_they_were_written(names):
    generator = np.random.default_rng(1)
    label, probability = generator.integers(0, 2, 40), generator.random(40).round(9)
    content = predictions_csv(label, probability, names)
    assert all((a == b).all() for a, b in zip(read_predictions(content), (label, probability), strict=True))
    if len(names) > 1:
        assert {row["file"] for row in csv.DictReader(io.StringIO(content.decode()))} == set(names)


# report.py


@pytest.fixture
def folder(tmp_path):
    """A model directory as a run leaves it, but for the model."""
    metrics, predictions = made_up_run(epochs=12)
    (tmp_path / METRICS_FILE).write_text(json.dumps(metrics, indent=2))
    (tmp_path / PREDICTIONS_FILE).write_bytes(predictions)
    (tmp_path / REPORT_FILE).write_bytes(render_report(metrics, predictions))
    return tmp_path


def change(folder, name, value):
    (folder / METRICS_FILE).write_text(json.dumps(metrics_of(folder) | {name: value}, indent=2))


def damage_predictions(folder, old, new):
    path = folder / PREDICTIONS_FILE
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))


DAMAGE = {
    "no metrics": lambda folder: (folder / METRICS_FILE).unlink(),
    "half": lambda folder: (folder / METRICS_FILE).write_bytes((folder / METRICS_FILE).read_bytes()[:900]),
    "list": lambda folder: (folder / METRICS_FILE).write_text("[]"),
    "deep": lambda folder: (folder / METRICS_FILE).write_text("[" * 100_000),
    "no test": lambda folder: change(folder, "test", None),
    "no scores": lambda folder: change(folder, "test", {"confusion": [[1, 2], [3, 4]]}),
    "no baselines": lambda folder: change(folder, "baselines", {}),
    "no versions": lambda folder: change(folder, "versions", 3),
    "text": lambda folder: change(folder, "threshold", "half"),
    "markup": lambda folder: change(folder, "best_epoch", "<b>") or change(folder, "epochs", ["<b>"]),
    "NaN": lambda folder: change(folder, "threshold", float("nan")),
    "other rows": lambda folder: change(folder, "rows", metrics_of(folder)["rows"] | {"test": 7}),
    "effects": lambda folder: change(
        folder, "effects", [{"column": "a", "kind": "number", "values": ["x"], "rows": [1]}]
    ),
    "history": lambda folder: change(folder, "history", {"loss": []}),
    "no predictions": lambda folder: (folder / PREDICTIONS_FILE).unlink(),
    "empty": lambda folder: (folder / PREDICTIONS_FILE).write_bytes(b""),
    "header": lambda folder: (folder / PREDICTIONS_FILE).write_bytes(b"line,fold,label,probability\n"),
    "other header": lambda folder: damage_predictions(folder, b"line,", b"row,"),
    "cells": lambda folder: damage_predictions(folder, b",1,", b",one,"),
    "fields": lambda folder: damage_predictions(folder, b",1,", b",1,1,"),
    "label": lambda folder: damage_predictions(folder, b",1,0.", b",2,0."),
    "probability": lambda folder: damage_predictions(folder, b",1,0.", b",1,7."),
    "cut": lambda folder: damage_predictions(folder, b"\n9,", b"\n#9,"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_files_are_refused_in_one_line(folder, how, capsys):
    before = (folder / REPORT_FILE).read_bytes()
    if how == "markup":  # which only the page of a single network shows
        change(folder, "settings", metrics_of(folder)["settings"] | {"folds": 1})
    DAMAGE[how](folder)
    assert report.main([str(folder)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and len(told) < 400
    assert how not in ("half", "deep", "NaN") or f"{METRICS_FILE}: is damaged" in told
    assert (folder / REPORT_FILE).read_bytes() == before and not list(folder.glob(TEMPORARY + "*"))


def test_a_directory_that_is_none_is_refused(tmp_path, capsys):
    for place in (tmp_path / "absent", tmp_path):
        assert report.main([str(place)]) == 2
    assert capsys.readouterr().err.count("no such file") == 2 and not os.listdir(tmp_path)


@pytest.mark.parametrize("how", ["file", "link", "directory"])
def test_a_report_of_the_users_own_is_left(folder, how, capsys):
    place, own = folder / REPORT_FILE, folder / "precious.html"
    place.unlink()
    own.write_text("<!doctype html>years of work")
    if how == "file":
        shutil.copy(own, place)
    elif how == "link":
        place.symlink_to(own)
    else:
        (place / "mine").mkdir(parents=True)
    assert report.main([str(folder)]) == 2
    assert "was not written by this program" in capsys.readouterr().err
    assert own.read_text() == "<!doctype html>years of work"
    assert (place / "mine").is_dir() if how == "directory" else place.read_text() == own.read_text()


def test_an_edited_report_is_left(folder, capsys):
    assert report.main([str(folder)]) == report.main([str(folder)]) == 0
    place = folder / REPORT_FILE
    place.write_bytes(place.read_bytes() + b"<!-- my note -->")
    assert report.main([str(folder)]) == 2 and place.read_bytes().endswith(b"<!-- my note -->")
    assert "was not written by this program" in capsys.readouterr().err


def test_version_and_help(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for flag, words in (("--version", VERSION), ("--help", "report.html")):
        with pytest.raises(SystemExit, match="0"):
            report.main([flag])
        assert words in capsys.readouterr().out
    assert report.main(["--frob"]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not os.listdir(tmp_path)


def test_the_command_draws_the_page_of_a_run_again(model_copy, capsys):
    folder = model_copy()
    place = folder / REPORT_FILE
    before = place.read_bytes()
    for _ in range(2):
        place.unlink()
        assert report.main([str(folder)]) == 0
        assert place.read_bytes() == before
    assert capsys.readouterr().out == f"Report     {place}\n" * 2
    assert not list(folder.glob(TEMPORARY + "*"))
    content = before.decode()
    assert re.findall(r"<h2>(.*?)</h2>", content) == SECTIONS and Page(content).tags.count("svg") > 7
    for place in (str(folder.parent), str(ROOT), os.path.expanduser("~")):
        assert place not in content
    assert (folder / MODEL_FILE).exists()


# In a browser

PROBE = """
<script>
const told = { width: innerWidth, wide: document.documentElement.scrollWidth - innerWidth };
told.paper = getComputedStyle(document.body).backgroundColor;
const texts = [...document.querySelectorAll("svg text")];
told.tiny = Math.min(...texts.map(text => text.getBoundingClientRect().height));
told.beyond = texts.filter(text => text.getBoundingClientRect().right > innerWidth + 1
  || text.getBoundingClientRect().left < 0).map(text => text.textContent);
const boxes = [...document.querySelectorAll("svg")].map(svg => [...svg.querySelectorAll("text")]
  .map(text => [text.textContent, text.getBoundingClientRect()]));
told.touching = [];
for (const group of boxes) for (const [a, p] of group) for (const [b, q] of group)
  if (p !== q && p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 3 && q.top < p.bottom - 3)
    told.touching.push([a, b]);
const slider = document.querySelector("input");
slider.value = 30;
slider.dispatchEvent(new Event("input"));
const names = ["at", "tn", "fp", "fn", "tp", "precision", "recall-ends"];
told.matrix = names.map(name => document.getElementById(name).textContent);
document.title = JSON.stringify(told);
</script>
"""
FRAME = """<!doctype html><title></title><style>:root { color-scheme: light dark }</style>
<iframe width="WIDTH" height="900" style="border: 0" srcdoc="PAGE"></iframe>
<script>
addEventListener("load", () => { document.title = document.querySelector("iframe").contentDocument.title });
</script>
"""  # a window of Chromium's is at least 500 pixels wide


def look(folder, address, *flags):
    """What a page has become once it is loaded in Chromium."""
    plain = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [CHROMIUM, *plain, "--dump-dom", f"--user-data-dir={folder}/profile", *flags, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_in_a_browser(made_up, tmp_path, width, scheme):
    metrics, predictions = made_up
    content = render(metrics, predictions)
    policy = re.search(r'<meta http-equiv="Content-Security-Policy".*?>', content)[0]
    probed = html.escape(content.replace(policy, "").replace("</body>", f"{PROBE}</body>"))
    (tmp_path / "page.html").write_text(FRAME.replace("WIDTH", str(width)).replace("PAGE", probed), encoding="utf-8")
    preferred = f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"
    dom = look(tmp_path, f"file://{tmp_path}/page.html", "--window-size=1400,1000", preferred)
    told = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom)[1]))
    assert told["width"] == width and told["wide"] <= 0
    assert told["beyond"] == [] and told["touching"] == [] and told["tiny"] >= 11
    assert told["paper"] == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 27)")
    _, label, probability = predictions_of(predictions)
    predicted = probability >= 0.3
    cells = [int((predicted[label == value] == answer).sum()) for value in (0, 1) for answer in (False, True)]
    precision = percent(label[predicted].mean()) if predicted.any() else "n/a"
    shares = [precision, f" ({interval(wilson(cells[3], label.sum()))})"]
    assert told["matrix"] == ["0.30", *(f"{count:,}" for count in cells), *shares]


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
def test_its_own_policy_lets_its_script_run(tmp_path):
    (tmp_path / "page.html").write_text(render(*made_up_run(columns=HOSTILE)), encoding="utf-8")
    dom = look(tmp_path, f"file://{tmp_path}/page.html")
    assert '<p id="try">' in dom  # which is hidden without the script
