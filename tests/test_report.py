"""report.html: what it says against plain counting, and with Chromium present how it looks."""

import base64
import csv
import hashlib
import html
import io
import json
import os
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT

import report
import train_model_modern as modern

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECTIONS = ["Results", "Learning curves", "Ranking", "Calibration", "Mistakes", "Columns", "Labels that look wrong"]
SECTIONS += ["Data", "Settings"]
HOSTILE = ["<img src=x onerror=alert(1)>", "<script>alert(1)<script>", "a & 'b'"]


def write_hostile(folder):
    """Two small files whose names, columns and cells are markup."""
    generator, paths = random.Random(1), [folder / "<b>&.csv", folder / 'say "so".csv']
    for path in paths:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*HOSTILE, "productive"])
            for row in range(14):
                text = generator.choice(["<u>one</u>", "</title>", "", "x" * 300])
                writer.writerow([generator.gauss(row % 2, 1) if row else "", generator.choice([0, 1]), text, row % 2])
    return paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model directory of ten nets, and one of one net with few rows and hostile names."""
    folder = tmp_path_factory.mktemp("reports")
    modern.write_sample(folder / "HARVEST.CSV", 150, 1)
    hostile = [*map(str, write_hostile(folder)), "--folds", "1", "--no-checkpoints", "--no-tensorboard"]
    for name, flags in (("ten", [str(folder / "HARVEST.CSV")]), ("one", hostile)):
        assert modern.main([*flags, "--model-dir", str(folder / name), "--epochs", "12", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module", params=["ten", "one"])
def model_dir(request, folder):
    return folder / request.param


@pytest.fixture
def copied(folder, tmp_path):
    """A model directory that a test may change."""
    for name in (modern.METRICS_FILE, modern.PREDICTIONS_FILE, modern.REPORT_FILE):
        shutil.copy(folder / "ten" / name, tmp_path)
    return tmp_path


class Page(HTMLParser):
    """The tags, attributes and text of a page; it must be well formed."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.open, self.attributes, self.words = [], [], [], []
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(model_dir):
    content = (model_dir / modern.REPORT_FILE).read_text(encoding="utf-8")
    return content, Page(content)


def metrics_of(model_dir):
    return json.loads((model_dir / modern.METRICS_FILE).read_text())


def predictions_of(model_dir):
    rows = list(csv.DictReader(io.StringIO((model_dir / modern.PREDICTIONS_FILE).read_text())))
    return rows, np.array([int(row["label"]) for row in rows]), np.array([float(row["probability"]) for row in rows])


def test_a_run_writes_a_page_that_holds_everything(model_dir):
    content, page = read(model_dir)
    metrics = metrics_of(model_dir)
    assert re.findall(r"<h2>(.*?)</h2>", content) == SECTIONS
    assert page.tags.count("svg") == 3 + 2 + 1 + 1 + len(metrics["effects"])
    assert modern.percent(metrics["test"]["accuracy"]) in page.text
    for name, column in list(metrics["importance"].items())[:6]:
        assert name in page.text and f"{column:.3f}" in page.text
    for reason in metrics["settings"]["reasons"].values():
        assert reason in page.text
    (right, false), (missed, hits) = metrics["test"]["confusion"]
    shown = re.findall(r'id="(?:tn|fp|fn|tp)">([\d,]+)<', content)
    assert shown == [f"{count:,}" for count in (right, false, missed, hits)]
    assert modern.is_ours(model_dir / modern.REPORT_FILE)
    assert str(model_dir.parent) not in content and str(ROOT) not in content and os.path.expanduser("~") not in content


def test_it_needs_nothing_else(model_dir):
    content, page = read(model_dir)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", content)
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset", "action", "xlink:href", "onload"}
    assert not {"link", "iframe", "img", "object"} & set(page.tags)
    (script,) = re.findall(r"<script>(.*?)</script>", content, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', content)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert len(content.encode()) < 100_000


def test_names_and_cells_are_escaped(folder):
    content, page = read(folder / "one")
    assert page.tags.count("script") == 1 and not {"img", "u"} & set(page.tags)
    assert "onerror" not in dict(page.attributes)
    for text in (*HOSTILE, "<u>one</u>", "</title>", "<b>&.csv", 'say "so".csv'):
        assert html.escape(text) in content and text in page.text
    assert "x" * 201 not in content  # cells of any length
    metrics = metrics_of(folder / "ten")
    name = "<script>alert(1)</script>"
    metrics["importance"] = {name: 1.0}
    metrics["effects"][0]["column"] = metrics["settings"]["label"] = metrics["settings"]["device"] = name
    metrics["verdict"] = metrics["warnings"] = metrics["table"]["notes"] = [name]
    metrics["suspect_labels"] = [{"file": name, "line": 1, "label": 0, "probability": 0.99}]
    metrics["comparison"] = {name: {name: {"difference": 0.1, "ci95": None}}}
    drawn = report.page(metrics, (folder / "ten" / modern.PREDICTIONS_FILE).read_bytes()).decode()
    assert Page(drawn).tags.count("script") == 1 and drawn.count(html.escape(name)) > 9


def test_counts_of_other_thresholds(model_dir):
    content, _ = read(model_dir)
    _, label, probability = predictions_of(model_dir)
    (data,) = re.findall(r'data-counts="(.*?)"', content)
    zeros, ones, counts = json.loads(html.unescape(data))
    assert (zeros, ones, len(counts)) == (int((label == 0).sum()), int(label.sum()), 101)
    for place, (false, hits) in enumerate(counts):
        taken = probability >= place / 100
        assert (false, hits) == (int(taken[label == 0].sum()), int(taken[label == 1].sum()))
    taken = probability >= 0.3
    precision = f"{100 * label[taken].mean():.1f}" if taken.any() else "none"
    shares = [precision, f"{100 * taken[label == 1].mean():.1f}", f"{100 * (taken == label).mean():.1f}"]
    cells = "".join(f"<td>{cell}</td>" for cell in shares)
    assert f'<td class="text">0.3</td>{cells}' in content


def test_the_most_surprising_labels_are_listed(model_dir):
    content, _ = read(model_dir)
    rows, label, probability = predictions_of(model_dir)
    given = np.where(label == 1, probability, 1 - probability)
    wrong = [rows[place] for place in np.argsort(given, kind="stable")[:10] if given[place] < 0.1]
    section = content.partition("<h2>Labels that look wrong</h2>")[2].partition("</section>")[0]
    cells = [re.findall(r"<td.*?>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)[1:]]
    expected = [[f"{int(row['line']):,}", row["label"], f"{float(row['probability']):.4f}"] for row in wrong]
    if "file" in rows[0]:
        expected = [[html.escape(row["file"]), *cells] for row, cells in zip(wrong, expected, strict=True)]
    assert cells == expected and (cells or model_dir.name == "one")
    assert ("There are none" in section) == (not wrong)


def test_effects_are_what_the_model_says(tf, folder):
    import keras

    metrics, model_dir = metrics_of(folder / "one"), folder / "one"
    options = modern.parse_options([str(folder / "<b>&.csv"), str(folder / 'say "so".csv')])
    table = modern.read_table(options)
    tested = {(row["file"], int(row["line"])) for row in predictions_of(model_dir)[0]}
    places = zip(table.files, table.lines, strict=True)
    rows = np.array([row for row, (file, line) in enumerate(places) if (table.names[file], int(line)) in tested])
    model = keras.models.load_model(model_dir / modern.MODEL_FILE)
    assert {effect["column"] for effect in metrics["effects"]} == set(HOSTILE)
    for effect in metrics["effects"]:
        name, kind = effect["column"], {"number": tf.float64, "category": tf.string}[effect["kind"]]
        for value, expected in zip(effect["values"], effect["probability"], strict=True):
            cells = {column: tf.constant(part) for column, part in modern.raw_inputs(table, rows).items()}
            missing = float("nan") if kind == tf.float64 else ""
            cells[name] = tf.constant([[missing if value is None else value]] * len(rows), kind)
            assert float(np.mean(model(cells))) == pytest.approx(expected, abs=1e-5)
    assert effect_of(metrics, HOSTILE[0])["values"][-1] is None and effect_of(metrics, HOSTILE[0])["rows"][-1] >= 1
    assert effect_of(metrics, HOSTILE[1])["values"] == [0.0, 1.0]
    assert sum(effect_of(metrics, HOSTILE[2])["rows"]) == metrics["rows"]["train"]


def effect_of(metrics, name):
    return next(effect for effect in metrics["effects"] if effect["column"] == name)


def test_history_is_that_of_the_epochs(folder):
    metrics = metrics_of(folder / "ten")
    history = metrics["history"]
    assert {len(values) for values in history.values()} == {metrics["epochs"]}
    assert set(history) == {
        *("loss", "val_loss", "accuracy", "val_accuracy", "learning_rate", "val_loss_lowest", "val_loss_highest")
    }
    low, mean, high = (np.array(history[f"val_loss{end}"]) for end in ("_lowest", "", "_highest"))
    assert (low < mean).all() and (mean < high).all()
    assert "val_loss_lowest" not in metrics_of(folder / "one")["history"]
    words = "The curves are those of the net alone"
    assert words not in read(folder / "ten")[0]
    assert (words in read(folder / "one")[0]) == (metrics_of(folder / "one")["settings"]["network_share"] < 1)


def test_the_command_draws_the_same_bytes_again(model_dir, capsys):
    place = model_dir / modern.REPORT_FILE
    before = place.read_bytes()
    for _ in range(2):
        place.unlink()
        assert report.main([str(model_dir)]) == 0
        assert place.read_bytes() == before
    assert capsys.readouterr().out == f"Report     {place}\n" * 2
    assert not list(model_dir.glob(modern.TEMPORARY + "*"))


def test_what_the_verdict_says_is_shown(copied):
    metrics = metrics_of(copied)
    for name in ("verdict", "warnings", "comparison"):
        metrics.pop(name, None)
    plain = Page(report.page(metrics, (copied / modern.PREDICTIONS_FILE).read_bytes()).decode()).text
    right = f"Correct on {modern.percent(metrics['test']['accuracy'])} of 150 tested rows"
    assert right in plain
    metrics["verdict"], metrics["warnings"] = (
        ["It is of no use.", "Not at all: " + "no, " * 99 + "no."],
        ["Mind the gap."],
    )
    parts = {"log_loss": {"difference": -0.0123, "ci95": [-0.5, 0.5]}}
    parts["accuracy"] = {"difference": 0.056, "ci95": [0.01, 0.1], "p_value": 0.0321}
    metrics["comparison"] = {"logistic_regression": parts}
    text = Page(report.page(metrics, (copied / modern.PREDICTIONS_FILE).read_bytes()).decode()).text
    for words in (
        "It is of no use.",
        "no, no, no.",
        "Mind the gap.",
        "-0.012",
        "+5.6 points",
        "1.0 to 10.0",
        " 0.032 ",
    ):
        assert words in text and words not in plain
    assert right in text


def test_metrics_of_an_earlier_version_are_drawn_without_what_they_lack(copied):
    metrics = metrics_of(copied)
    for name in ("history", "effects", "table", "date", "suspect_labels"):
        del metrics[name]
    (copied / modern.METRICS_FILE).write_text(json.dumps(metrics, indent=2))
    assert report.main([str(copied)]) == 0
    content, _ = read(copied)
    assert re.findall(r"<h2>(.*?)</h2>", content) == [title for title in SECTIONS if not title.startswith("L")]


DAMAGE = {
    "no metrics": lambda folder: (folder / modern.METRICS_FILE).unlink(),
    "half": lambda folder: (folder / modern.METRICS_FILE).write_bytes(
        (folder / modern.METRICS_FILE).read_bytes()[:900]
    ),
    "list": lambda folder: (folder / modern.METRICS_FILE).write_text("[]"),
    "deep": lambda folder: (folder / modern.METRICS_FILE).write_text("[" * 100_000),
    "no test": lambda folder: change(folder, "test", None),
    "text": lambda folder: change(folder, "threshold", "half"),
    "NaN": lambda folder: change(folder, "threshold", float("nan")),
    "other rows": lambda folder: change(folder, "rows", metrics_of(folder)["rows"] | {"test": 7}),
    "effects": lambda folder: change(
        folder, "effects", [{"column": "a", "kind": "number", "values": ["x"], "rows": [1]}]
    ),
    "history": lambda folder: change(folder, "history", {"loss": []}),
    "no predictions": lambda folder: (folder / modern.PREDICTIONS_FILE).unlink(),
    "empty": lambda folder: (folder / modern.PREDICTIONS_FILE).write_bytes(b""),
    "header": lambda folder: (folder / modern.PREDICTIONS_FILE).write_bytes(b"line,fold,label,probability\n"),
    "cells": lambda folder: damage_predictions(folder, b",1,", b",one,"),
    "fields": lambda folder: damage_predictions(folder, b",1,", b",1,1,"),
    "label": lambda folder: damage_predictions(folder, b",1,0.", b",2,0."),
    "probability": lambda folder: damage_predictions(folder, b",1,0.", b",1,7."),
    "cut": lambda folder: damage_predictions(folder, b"\n9,", b"\n#9,"),
}


def change(folder, name, value):
    (folder / modern.METRICS_FILE).write_text(json.dumps(metrics_of(folder) | {name: value}, indent=2))


def damage_predictions(folder, old, new):
    path = folder / modern.PREDICTIONS_FILE
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_files_are_refused_in_one_line(copied, how, capsys):
    before = (copied / modern.REPORT_FILE).read_bytes()
    DAMAGE[how](copied)
    assert report.main([str(copied)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and len(told) < 400
    assert (copied / modern.REPORT_FILE).read_bytes() == before and not list(copied.glob(modern.TEMPORARY + "*"))


def test_a_directory_that_is_none_is_refused(tmp_path, capsys):
    for place in (tmp_path / "absent", tmp_path):
        assert report.main([str(place)]) == 2
    assert capsys.readouterr().err.count("no such file") == 2 and not os.listdir(tmp_path)


@pytest.mark.parametrize("how", ["file", "link", "directory"])
def test_a_report_of_the_users_own_is_left(copied, how, capsys):
    place, own = copied / modern.REPORT_FILE, copied / "precious.html"
    place.unlink()
    own.write_text("<!doctype html>years of work")
    if how == "file":
        shutil.copy(own, place)
    elif how == "link":
        place.symlink_to(own)
    else:
        (place / "mine").mkdir(parents=True)
    assert report.main([str(copied)]) == 2
    assert "was not written by this program" in capsys.readouterr().err
    modern.write_beside(copied / modern.MODEL_FILE, b"new")
    modern.commit(copied, modern.RESULT_FILES)
    assert own.read_text() == "<!doctype html>years of work" and (copied / modern.MODEL_FILE).read_bytes() == b"new"
    assert (place / "mine").is_dir() if how == "directory" else place.read_text() == own.read_text()


def test_a_run_goes_on_without_a_report(sample, tmp_path, monkeypatch, capsys):
    arguments = [str(sample(60)), "--model-dir", str(tmp_path / "model"), "--epochs", "3", "--folds", "1"]
    arguments += ["--no-tensorboard", "--no-checkpoints"]
    place = tmp_path / "model" / modern.REPORT_FILE
    place.parent.mkdir()
    place.write_text("mine")
    assert modern.main(arguments) == 0
    assert f"Report     {place} is a file of your own" in capsys.readouterr().out and place.read_text() == "mine"
    place.write_text(modern.REPORT_START)  # of an earlier run
    broken = SimpleNamespace(**vars(report) | {"page": lambda *_: 1 / 0})
    monkeypatch.setattr(modern, "import_beside", lambda name: broken)
    assert modern.main(arguments) == 0
    assert "Report     left out: report.py failed (ZeroDivisionError: division by zero)" in capsys.readouterr().out
    assert not place.exists() and (tmp_path / "model" / modern.METRICS_FILE).exists()


@pytest.mark.parametrize("fault", ["def (", "raise RuntimeError('boom')", "raise SystemExit('boom')"])
def test_what_is_wrong_with_the_scripts_beside_is_told(sample, tmp_path, run, fault):
    alone = tmp_path / "train_model_modern.py"
    shutil.copy(ROOT / alone.name, alone)
    for name in ("report.py", "predict.py"):
        (tmp_path / name).write_text(fault)
    flags = ["--epochs", "3", "--folds", "1", "--no-tensorboard", "--no-checkpoints"]
    done, words = run(alone, sample(60), *flags, cwd=tmp_path), "boom" if "boom" in fault else "SyntaxError"
    told = [line for line in done.stdout.splitlines() if "left out: report.py failed" in line and words in line]
    assert done.returncode == 0 and len(told) == 4, done.stdout  # the search for giveaways, the verdict, card, report
    assert "Row hashes left out: predict.py failed" in done.stdout
    shown = run(alone, sample(60), "--describe", cwd=tmp_path)
    assert shown.returncode == 0 and "Columns    left out: report.py failed" in shown.stdout
    shutil.copy(ROOT / "report.py", tmp_path)
    assert (
        run(tmp_path / "report.py", tmp_path / "model", cwd=tmp_path).returncode == 0
    )  # drawn without what is missing


def test_copied_alone_the_trainer_leaves_no_report_or_card_of_an_earlier_model(folder, sample, tmp_path, run):
    alone, model_dir = tmp_path / "train_model_modern.py", tmp_path / "model"
    shutil.copy(ROOT / alone.name, alone)
    model_dir.mkdir()
    for name in (modern.CARD_FILE, modern.REPORT_FILE):
        shutil.copy(folder / "ten" / name, model_dir)
    flags = ["--epochs", "3", "--folds", "1", "--no-tensorboard", "--no-checkpoints"]
    done = run(alone, sample(60), *flags, cwd=tmp_path)
    words = "left out: report.py, which makes it, is not beside train_model_modern.py"
    assert done.returncode == 0 and done.stdout.count(words) == 4
    left = {path.name for path in model_dir.iterdir() if not path.name.startswith(".")}
    assert left == {modern.MODEL_FILE, modern.METRICS_FILE, modern.PREDICTIONS_FILE}


def test_no_report_of_an_earlier_model_stays(tmp_path, monkeypatch):
    place, card = tmp_path / modern.REPORT_FILE, tmp_path / modern.CARD_FILE
    place.write_text(f"{modern.REPORT_START} 1 -->")
    card.write_text("mine")
    modern.write_beside(tmp_path / "productivity_model.onnx", b"new")
    modern.commit(tmp_path, ["productivity_model.onnx"])
    assert place.exists()  # what is exported later is of the same model
    for name in (modern.MODEL_FILE, modern.METRICS_FILE):
        modern.write_beside(tmp_path / name, b"new")
    replace = os.replace

    def killed(source, target):
        if str(target).endswith(modern.METRICS_FILE):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        modern.commit(tmp_path, modern.RESULT_FILES)
    monkeypatch.undo()
    modern.finish_commit(tmp_path)  # as the next run does
    assert not place.exists() and (tmp_path / modern.METRICS_FILE).read_bytes() == b"new"
    assert card.read_text() == "mine"


def simulated(rows, seed):
    generator = np.random.default_rng(seed)
    probability = generator.random(rows)
    label = (generator.random(rows) < probability).astype(float)
    return report.Predictions(label, probability)


def test_bands_hold_the_true_curves():
    rates = 1 - np.linspace(0, 1, 100_001)  # thresholds t: rows of 1 have density 2p, rows of 0 density 2(1 - p)
    false, true = (1 - rates) ** 2, 1 - rates**2
    inside = []
    for seed in range(30):
        for curve, expected in zip(
            report.draw_curves(simulated(300, seed), 0),
            (lambda places: np.interp(places, false, true), lambda places: (1 + np.sqrt(1 - places)) / 2),
            strict=True,
        ):
            middle = slice(6, 55)  # at the ends too few rows tell
            there, (low, high) = expected(curve.places)[middle], (end[middle] for end in curve.ends)
            inside.append(((low <= there) & (there <= high)).mean())
    assert 0.88 < np.mean(inside) < 0.99


def test_bands_are_narrower_with_more_rows():
    few, many = (report.draw_curves(simulated(rows, 1), 0) for rows in (2_500, 40_000))
    for curve, other in zip(few, many, strict=True):
        widths = [np.mean((part.ends[1] - part.ends[0])[5:55]) for part in (curve, other)]
        assert widths[0] / widths[1] == pytest.approx(4, rel=0.25)


def test_a_class_too_rare_for_bands(folder):
    metrics, probability = metrics_of(folder / "ten"), np.random.default_rng(3).random(15_000)
    label = (np.arange(15_000) < 1).astype(int)
    body = "".join(f"{row},1,{label[row]},{chance:.9g}\n" for row, chance in enumerate(probability))
    metrics["rows"]["test"], metrics["test"] = 15_000, modern.measure(label.astype(np.float32), probability, 0.5, 1)
    text = Page(report.page(metrics, f"line,fold,label,probability\n{body}".encode()).decode()).text
    assert "One class is too rare for bands." in text and "95 % band" not in text and "ROC curve: AUC 0." in text


def test_many_rows_and_columns_make_no_large_page(folder):
    rows, metrics = simulated(200_000, 2), metrics_of(folder / "ten")
    lines = zip(range(2, 200_002), rows.label, rows.probability, strict=True)
    names = (f'"part, ""{place // 100_000}"".csv"' for place in range(200_000))
    body = "".join(
        f"{name},{line},1,{label:.0f},{chance:.9g}\n" for name, (line, label, chance) in zip(names, lines, strict=True)
    )
    metrics["rows"]["test"] = 200_000
    metrics["importance"] = {f"column {number}": 1 / (1 + number) for number in range(3_000)}
    facts = {"kind": "number", "reason": "", "hint": "", "distinct": 5, "missing": 0}
    metrics["table"]["columns"] = [{"name": name, **facts} for name in metrics["importance"]]
    metrics["history"] = {name: values * 2_000 for name, values in metrics["history"].items()}
    page = report.page(metrics, f"file,line,fold,label,probability\n{body}".encode())
    assert len(page) < 150_000
    text = Page(page.decode()).text
    assert "200,000 rows were tested" in text and "2,985 more columns matter less" in text


def test_version_and_help(run, tmp_path):
    assert run("report.py", "--version").stdout.strip() == modern.VERSION
    assert "report.html" in run("report.py", "--help").stdout
    done = run("report.py", "--frob", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and not os.listdir(tmp_path)


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
told.matrix = ["at", "tn", "fp", "fn", "tp"].map(name => document.getElementById(name).textContent);
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


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_in_a_browser(model_dir, tmp_path, width, scheme):
    content, _ = read(model_dir)
    policy = re.search(r'<meta http-equiv="Content-Security-Policy".*?>', content)[0]
    probed = html.escape(content.replace(policy, "").replace("</body>", f"{PROBE}</body>"))
    (tmp_path / "page.html").write_text(FRAME.replace("WIDTH", str(width)).replace("PAGE", probed))
    preferred = f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"
    dom = look(tmp_path, f"file://{tmp_path}/page.html", "--window-size=1400,1000", preferred)
    told = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom)[1]))
    assert told["width"] == width and told["wide"] <= 0
    assert told["beyond"] == [] and told["touching"] == [] and told["tiny"] >= 11
    assert told["paper"] == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 27)")
    _, label, probability = predictions_of(model_dir)
    taken = probability >= 0.3
    cells = [int((taken[label == value] == answer).sum()) for value in (0, 1) for answer in (False, True)]
    assert told["matrix"] == ["0.30", *(f"{count:,}" for count in cells)]


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
def test_its_own_policy_lets_its_script_run(folder, tmp_path):
    dom = look(tmp_path, f"file://{folder}/one/{modern.REPORT_FILE}")
    assert '<p id="try">' in dom  # which is hidden without the script
