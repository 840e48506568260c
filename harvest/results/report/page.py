"""report.html: the results of a run on one self-contained page."""

import base64
import hashlib
import io
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from harvest import VERSION
from harvest.results.metrics import calibration_bins, missing_intervals, wilson
from harvest.results.report.charts import Axis, Chart, cell_axis, is_skewed, linear_axis, share_axis, short_number
from harvest.results.report.curves import RESAMPLES, evenly_spaced, roc_and_precision_recall
from harvest.run_directory import METRICS_FILE, MODEL_FILE, REPORT_FILE
from harvest.text import interval, name_words, percent

PREDICTION_COLUMNS = [b"file", b"line", b"fold", b"label", b"probability"]
LONGEST_TEXT = 200  # characters of a name or value of the data
LONGEST_TOOLTIP = 1_000  # characters
HISTOGRAM_BINS = 20
TEMPLATES = Path(__file__).with_name("templates")


def shorten(value: object, length: int = LONGEST_TEXT) -> str:
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"


def clip(value: object, length: int = LONGEST_TEXT) -> Markup:
    """A text as HTML, shortened, with the longer text as a tooltip."""
    text, shown = str(value), shorten(value, length)
    if text == shown:
        return escape(text)
    return Markup('<span title="{}">{}</span>').format(shorten(text, LONGEST_TOOLTIP), shown)


def cell_text(value: Any) -> str:
    """A cell of the data: whole numbers as plain digits, so that they can be searched for."""
    if isinstance(value, float):
        return f"{value:.15g}"
    return "(missing)" if value is None else str(value)


def setting_text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int | float):
        return f"{value:,.10g}"
    return "not given" if value is None else str(value)


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=jinja2.select_autoescape(["html.jinja"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.filters |= {
    "cell": cell_text,
    "clip": clip,
    "interval": interval,
    "number": format,
    "percent": percent,
    "quote": partial(json.dumps, ensure_ascii=False),  # a string literal in Python, C# and JSON
    "setting": setting_text,
    "shorten": shorten,
}
ENVIRONMENT.globals |= {"model_file": MODEL_FILE, "metrics_file": METRICS_FILE, "report_file": REPORT_FILE}


def load_templates() -> None:
    """Compile the templates, which are then kept: 0.2 s."""
    for name in ENVIRONMENT.list_templates(extensions=["jinja"]):
        ENVIRONMENT.get_template(name)


def render_report(metrics: dict[str, Any], predictions: bytes) -> bytes:
    """The page, from metrics.json and the bytes of predictions.csv.

    Raises LookupError, TypeError, ValueError, AttributeError or ArithmeticError if one of them is damaged, or if they
    come from different runs.
    """
    y_true, y_prob = read_predictions(predictions)
    if len(y_true) != metrics["rows"]["test"]:
        raise ValueError("predictions.csv and metrics.json are from different runs")
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    try:
        text = ENVIRONMENT.get_template("report.html.jinja").render(
            metrics,
            learning=learning(metrics),
            marked=best_epoch(metrics) if metrics.get("history") else 0,
            curves=ranking(metrics, y_true, y_prob),
            calibration=calibration(y_true, y_prob),
            counts=threshold_counts(y_true, y_prob),
            histogram=histogram(y_true, y_prob, metrics["threshold"]),
            dependence=partial_dependence(metrics),
            listed_columns=listed_columns(metrics),
            few=missing_intervals(metrics["settings"]["label"], metrics["test"]),
            version=VERSION,
            resamples=RESAMPLES,
            style=Markup(style),
            script=Markup(script),
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    except jinja2.UndefinedError as error:
        raise LookupError(str(error)) from None
    return text.encode("utf-8", "replace")


def read_predictions(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities [N] of predictions.csv. Raises ValueError if the file is malformed."""
    header, _, body = content.partition(b"\n")
    names = header.split(b",")
    if names not in (PREDICTION_COLUMNS, PREDICTION_COLUMNS[1:]) or not body:
        raise ValueError("predictions.csv has no rows, or line 1 is not its header")
    options: dict[str, Any] = {"delimiter": ",", "comments": None, "quotechar": '"', "ndmin": 2, "encoding": "utf-8"}
    options["converters"] = {0: lambda file: 0.0} if names == PREDICTION_COLUMNS else None
    cells = np.loadtxt(io.BytesIO(body), **options)
    if cells.shape[1] != len(names):
        raise ValueError("a row of predictions.csv has too few or too many fields")
    y_true, y_prob = cells.T[-2:]
    if not (np.isin(y_true, [0, 1]).all() and (y_prob >= 0).all() and (y_prob <= 1).all()):
        raise ValueError("predictions.csv has labels that are not 0 or 1, or probabilities outside 0 to 1")
    return y_true, y_prob


def learning(metrics: dict[str, Any]) -> dict[str, Chart]:
    """Loss, accuracy and learning rate by epoch, by the titles of the charts."""
    history, folds = metrics.get("history"), metrics["settings"]["folds"]
    if not history:
        return {}
    kept = evenly_spaced(len(history["loss"]))
    epochs, mean = kept + 1, f", mean of {folds} networks" if folds > 1 else ""
    series = {name: np.array(values, float)[kept] for name, values in history.items()}
    lowest_accuracy = math.floor(10 * min(series["accuracy"].min(), series["val_accuracy"].min())) / 10
    across = linear_axis("epoch", [1, max(2, epochs[-1])])
    across = across._replace(ticks=[(tick, f"{tick:,.0f}") for tick, _ in across.ticks if tick % 1 == 0])
    axes = {
        "Loss": linear_axis(f"loss{mean}", [0, max(series[name].max() for name in series if "loss" in name)]),
        "Accuracy": share_axis(f"accuracy{mean}", lowest_accuracy),
        "Learning rate": linear_axis(f"learning rate{mean}", [0, series["learning_rate"].max()]),
    }
    charts = {title: Chart(across, axis, f"{title} by epoch") for title, axis in axes.items()}
    if "val_loss_lowest" in series:
        charts["Loss"].band(epochs, series["val_loss_lowest"], series["val_loss_highest"], "two")
    for name, chart in zip(("loss", "accuracy", "learning_rate"), charts.values(), strict=True):
        chart.line(epochs, series[name], "one")
        if f"val_{name}" in series:
            chart.line(epochs, series[f"val_{name}"], "two dashed")
        chart.line([best_epoch(metrics)] * 2, [chart.up.low, chart.up.high], "faint dashed")
    return charts


def best_epoch(metrics: dict[str, Any]) -> int:
    """The epoch with the lowest validation loss, or mean validation loss of several networks; from 1."""
    folds, losses = metrics["settings"]["folds"], metrics["history"]["val_loss"]
    return metrics["best_epoch"] if folds == 1 else int(np.argmin(losses)) + 1


def ranking(metrics: dict[str, Any], y_true: np.ndarray, y_prob: np.ndarray) -> dict[str, Any]:
    """The charts "roc" and "precision", and whether they have "bands"; empty if all test rows are of one class."""
    positive = float(y_true.mean())
    if not 0 < positive < 1:
        return {}
    (tn, fp), (fn, tp) = metrics["test"]["confusion"]
    recall = tp / max(1, tp + fn)
    roc = Chart(share_axis("false positive rate"), share_axis("true positive rate (recall)"), "ROC curve")
    axes = (
        share_axis("recall: rows labeled 1 that are predicted 1"),
        share_axis("precision: rows predicted 1 that are labeled 1"),
    )
    precision = Chart(*axes, "precision-recall curve")
    curves = roc_and_precision_recall(y_true, y_prob, metrics["settings"]["seed"])
    for chart, curve, chance in zip((roc, precision), curves, ([0, 1], [positive, positive]), strict=True):
        if curve.band is not None:
            chart.band(curve.band_x, curve.band[0], curve.band[1], "one")
        chart.line([0, 1], chance, "faint dashed")
    roc.line(curves[0].x, curves[0].y, "one")
    precision.steps(curves[1].x, curves[1].y, "one")
    at = f"at threshold {metrics['threshold']:.3g}"
    roc.dot(fp / max(1, fp + tn), recall, "two", at)
    precision.dot(recall, tp / max(1, tp + fp), "two", at)
    return {"roc": roc, "precision": precision, "bands": curves[0].band is not None}


def calibration(y_true: np.ndarray, y_prob: np.ndarray) -> tuple[list[tuple], Chart]:
    """The name, rows, mean probability, share of 1 and its interval of each bin with rows, and a chart of them."""
    chart = Chart(share_axis("predicted probability"), share_axis("observed share of 1"), "calibration")
    chart.line([0, 1], [0, 1], "faint dashed")
    bins, rows = calibration_bins(y_prob), []
    counts, ones, sums = (np.bincount(bins, weights) for weights in (None, y_true, y_prob))
    for place in np.flatnonzero(counts).tolist():
        name, count = f"{10 * place} to {10 * place + 10}%".replace(" ", "\u00a0"), int(counts[place])
        predicted, observed, ends = sums[place] / count, ones[place] / count, wilson(ones[place], count)
        rows.append((name, count, predicted, observed, ends))
        chart.line([predicted, predicted], ends, "one")
        chart.dot(predicted, observed, "one", f"{name}: {count:,} rows, {percent(observed)} are 1, {interval(ends)}")
    return rows, chart


def histogram(y_true: np.ndarray, y_prob: np.ndarray, threshold: float) -> Chart:
    """A histogram of the probabilities of rows of 1 (upward) and of 0 (downward), as shares of each class."""
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    counts = [np.histogram(y_prob[y_true == value], edges)[0] for value in (0, 1)]
    zeros, ones = (count / max(1, count.sum()) for count in counts)
    highest = max(0.05, zeros.max(), ones.max())
    up = linear_axis("share of the rows of each class", [-highest, highest], 5)
    up = up._replace(ticks=[(tick, f"{100 * abs(tick):.0f}%") for tick, _ in up.ticks])
    chart = Chart(share_axis("predicted probability of 1"), up, "histogram of predicted probabilities by class")
    chart.bars(edges, ones, "one")
    chart.bars(edges, -zeros, "two")
    chart.line([threshold, threshold], [-highest, highest], "faint dashed cut")
    return chart


def threshold_counts(y_true: np.ndarray, y_prob: np.ndarray) -> list[list[int]]:
    """False and true positives for each hundredth as a threshold, 0 to 1."""
    classes = [np.sort(y_prob[y_true == value]) for value in (0, 1)]
    return np.stack([len(part) - np.searchsorted(part, np.arange(101) / 100) for part in classes], axis=1).tolist()


def partial_dependence(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """For each of the most important columns: its name, its cells (value, rows, share), an axis of shares, and a chart.

    A category has no chart; the template draws a row for each of its cells.
    """
    effects, found = metrics.get("effects") or [], []
    shares = [share for effect in effects for share in effect["probability"]]
    logarithmic = logarithmic_columns(effects)
    for effect in effects:
        usual = effect.get("mean", metrics["table"]["positive"])  # versions up to 1.7.0 wrote no mean
        name, is_number = effect["column"], effect["kind"] == "number"
        cells = [*zip(effect["values"], effect["rows"], effect["probability"], strict=True)]
        ends = math.floor(10 * min(shares)) / 10, math.ceil(10 * max(shares)) / 10
        axis = linear_axis("mean probability", ends, 5 if is_number else 4)
        axis = axis._replace(ticks=[(tick, f"{100 * tick:.0f}%") for tick, _ in axis.ticks])
        chart = number_effect(name, cells, axis, usual, name in logarithmic) if is_number else None
        found.append({"column": name, "cells": cells, "axis": axis, "chart": chart, "usual": usual})
    return found


def logarithmic_columns(effects: list[dict[str, Any]]) -> set[str]:
    """The numeric columns to draw with a logarithmic axis: skewed ones, and those that are comparable to a skewed one.

    Columns are comparable if their names share a word, as keyboard_activity and mouse_activity do, and their largest
    cells are within a factor of 100.
    """
    columns = {effect["column"]: known_values(effect["values"]) for effect in effects if effect["kind"] == "number"}
    skewed = {name for name, values in columns.items() if is_skewed(values)}
    largest = {name: np.abs(values).max() for name, values in columns.items()}

    def is_comparable(name: str, other: str) -> bool:
        near = largest[name] <= 100 * largest[other] and largest[other] <= 100 * largest[name]
        return near and bool(name_words(name) & name_words(other) - {""})

    return {name for name in columns if any(is_comparable(name, other) for other in skewed)} | skewed


def known_values(values: list[float | None]) -> np.ndarray:
    return np.array([value for value in values if value is not None] or [0], float)


def number_effect(
    name: str, cells: list[tuple[float | None, int, float]], up: Axis, usual: float, logarithmic: bool
) -> Chart:
    """The mean probability by the value of a numeric column; usual is that of the same rows unchanged."""
    known = [(value, rows, share) for value, rows, share in cells if value is not None]
    across = cell_axis(name, known_values([value for value, _, _ in cells]), logarithmic)
    chart = Chart(across, up, f"mean probability by {name}")
    if up.low <= usual <= up.high:
        chart.line([across.low, across.high], [usual, usual], "faint dashed")
    if known:
        chart.line([value for value, _, _ in known], [share for _, _, share in known], "one")
    for value, rows, share in known:
        chart.dot(value, share, "one", f"{short_number(value)}: {percent(share)}, {rows:,} rows near it")
    return chart


def listed_columns(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The columns of the table, the most important first."""
    order = {name: place for place, name in enumerate(metrics.get("importance") or ())}
    columns = (metrics.get("table") or {}).get("columns", [])
    return sorted(columns, key=lambda column: order.get(column["name"], len(order)))
