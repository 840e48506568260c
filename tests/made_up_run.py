"""The files of a run without training: metrics.json and predictions.csv of a page or a card."""

import csv
import io
from html.parser import HTMLParser

import numpy as np

from harvest.results.metrics import measure

HOSTILE = ["<img src=x onerror=alert(1)>", "<script>alert(1)<script>", "a & 'b'"]
RTL = "\u202eevil\u202c \u05d0\u05d1 \x07\x1b[31m"


def predictions_csv(y_true, y_prob, names=("one.csv",)):
    """As the trainer writes it: rows 2, 3, ... of each of the files in turn."""
    written = io.StringIO()
    several = len(names) > 1
    written.write(("file," if several else "") + "line,fold,label,probability\n")
    for row, (label, probability) in enumerate(zip(y_true, y_prob, strict=True)):
        file = '"' + names[row % len(names)].replace('"', '""') + '",' if several else ""
        written.write(f"{file}{row // len(names) + 2},1,{label:.0f},{probability:.9g}\n")
    return written.getvalue().encode()


def predictions_of(content):
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    return rows, np.array([int(row["label"]) for row in rows]), np.array([float(row["probability"]) for row in rows])


def made_up_run(rows=150, folds=10, epochs=40, names=("one.csv",), columns=("keys", "clicks", "app"), seed=0):
    """metrics.json as a dictionary, and predictions.csv."""
    generator = np.random.default_rng(seed)
    y_prob = generator.random(rows)
    y_true = (generator.random(rows) < y_prob).astype(float)
    content = predictions_csv(y_true, y_prob, names)
    _, y_true, y_prob = predictions_of(content)
    test = measure(y_true.astype(np.float32), y_prob, 0.5)
    baselines = {
        "majority": measure(y_true.astype(np.float32), np.full(rows, y_true.mean()), 0.5),
        "logistic_regression": measure(y_true.astype(np.float32), (y_prob + 0.5) / 2, 0.5),
    }
    losses = 0.4 + 0.3 * np.exp(-np.arange(epochs) / 9)
    history = {"loss": losses, "val_loss": losses + 0.05, "accuracy": 1 - losses / 2, "val_accuracy": 0.95 - losses / 2}
    history["learning_rate"] = np.full(epochs, 0.006)
    if folds > 1:
        history |= {"val_loss_lowest": losses - 0.03, "val_loss_highest": losses + 0.2}
    number, integer, category = columns
    difference = {"log_loss": {"difference": -0.12, "ci95": [-0.2, -0.05]}}
    difference["accuracy"] = {"difference": 0.06, "ci95": [0.01, 0.1], "p_value": 0.0004}
    metrics = {
        "rows": {"read": rows + 2, "used": rows, "skipped": 2, "train": rows, "validation": 15, "test": rows},
        "test": test,
        "baselines": baselines,
        "threshold": 0.5,
        "temperature": 1.05,
        "epochs": epochs,
        "best_epoch": 17,
        "settings": {
            "csv": list(names),
            "sample": None,
            "label": "productive",
            "folds": folds,
            "seed": 42,
            "adamw": True,
            "learning_rate": 0.006,
            "time_column": None,
            "drop": [],
            "threshold": 0.5,
            "network_share": 0.4 if folds == 1 else 1,
            "columns": dict(zip(columns, ("number", "number", "category"), strict=True)),
            "reasons": {"threshold": "predicts the more likely class", "folds": f"{folds} <are> enough"},
        },
        "timing": {"train_s": 1.25, "rows_per_s": 12_345.6, "total_s": 5.0},
        "date": "2026-01-02",
        "rows_digest": "0",
        "versions": {"python": "3.12.1", "script": "1.6.0", "keras": "3.1", "tensorboard": ""},
        "comparison": {"majority": difference, "logistic_regression": difference},
        "verdict": ["Worth using: better than always predicting the majority class.", "Few rows were tested."],
        "next_steps": ["Label more rows.", "Check the labels of 12 rows."],
        "warnings": [f"{number}: its name contains the name of the label"],
        "importance": {category: 0.4, number: 0.125, integer: -0.01},
        "effects": [
            effect(category, "category", ["Word", "Mail", None], [0.8, 0.31, 0.6]),
            effect(number, "number", [0.0, 1.5, 20.0, 3e6, None], [0.2, 0.3, 0.55, 0.81, 0.4]),
            effect(integer, "number", [0, 1], [0.41, 0.43]),
        ],
        "suspect_labels": [
            ({"file": names[0]} if len(names) > 1 else {})
            | {"line": line, "label": 1, "probability": 0.001 * line}
            | {"cells": {category: "Word", number: None if line % 2 else line / 2, integer: 1_234_567 + line}}
            for line in range(1_002, 1_014)
        ],
        "history": {name: values.tolist() for name, values in history.items()},
        "table": {
            "positive": float(y_true.mean()),
            "notes": ["line 7 is left out"],
            "split": ["120 rows for training, 15 for testing"],
            "columns": [
                column(number, "number", distinct=140, missing=3),
                column(integer, "number", distinct=2),
                column(category, "category", distinct=3, missing=7, hint="3 values look like numbers"),
                column("id", "dropped", distinct=-1, missing=-1, reason="never read"),
                column("note", "dropped", distinct=None, missing=None, reason="--drop"),
            ],
        },
        "example": {"row": {number: None, integer: 3, category: 'say "so"'}, "probability": 0.4321},
    }
    return metrics, content


def effect(name, kind, values, shares):
    return {"column": name, "kind": kind, "values": values, "rows": [1_200] * len(values), "probability": shares}


def column(name, kind, distinct, missing=0, reason="", hint=""):
    return {"name": name, "kind": kind, "reason": reason, "distinct": distinct, "missing": missing, "hint": hint}


class Page(HTMLParser):
    """The tags, attributes and text of a page; it must be well formed."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.open, self.attributes, self.words = [], [], [], []
        self.feed(content)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "input", "wbr"):
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
        return " ".join(" ".join(self.words).split())
