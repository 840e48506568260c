"""report.html: what a run has found as one page that needs neither a network nor another program."""

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
from markupsafe import Markup

from harvest import VERSION
from harvest.results.metrics import calibration_bins, missing_intervals, wilson
from harvest.results.report.charts import Axis, Chart, cell_axis, linear_axis, share_axis, short_number
from harvest.results.report.curves import RESAMPLES, evenly_spaced, roc_and_precision_recall
from harvest.run_directory import METRICS_FILE, MODEL_FILE, REPORT_FILE
from harvest.text import interval, percent

PREDICTION_COLUMNS = [b"file", b"line", b"fold", b"label", b"probability"]
LONGEST_TEXT = 200  # characters of a name or value of the data
TEMPLATES = Path(__file__).with_name("templates")


def shorten(value: object, length: int = LONGEST_TEXT) -> str:
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"


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
    "interval": interval,
    "number": format,
    "percent": percent,
    "quote": partial(json.dumps, ensure_ascii=False),  # a text as Python, C# and JSON write it
    "setting": setting_text,
    "shorten": shorten,
}
ENVIRONMENT.globals |= {"model_file": MODEL_FILE, "metrics_file": METRICS_FILE, "report_file": REPORT_FILE}


def render_report(metrics: dict[str, Any], predictions: bytes) -> bytes:
    """The page, from metrics.json and the bytes of predictions.csv.

    LookupError, TypeError, ValueError, AttributeError or ArithmeticError: one of them is damaged, or they do not belong
    together.
    """
    y_true, y_prob = read_predictions(predictions)
    if len(y_true) != metrics["rows"]["test"]:
        raise ValueError("predictions.csv and metrics.json are of two runs")
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    try:
        text = ENVIRONMENT.get_template("report.html.jinja").render(
            metrics,
            learning=learning(metrics),
            curves=ranking(metrics, y_true, y_prob),
            calibration=calibration(y_true, y_prob),
            counts=threshold_counts(y_true, y_prob),
            partial_dependence=partial_dependence(metrics),
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
    """Labels and probabilities [N] of predictions.csv; ValueError for what the trainer did not write."""
    header, _, body = content.partition(b"\n")
    names = header.split(b",")
    if names not in (PREDICTION_COLUMNS, PREDICTION_COLUMNS[1:]):
        raise ValueError("line 1 does not hold the column names")
    options: dict[str, Any] = {"delimiter": ",", "comments": None, "quotechar": '"', "ndmin": 2, "encoding": "utf-8"}
    options["converters"] = {0: lambda file: 0.0} if names == PREDICTION_COLUMNS else None
    cells = np.loadtxt(io.BytesIO(body), **options) if body else np.empty((0, 0))
    if cells.shape[1] != len(names):
        raise ValueError("holds no rows of four numbers")
    y_true, y_prob = cells.T[-2:]
    if not (np.isin(y_true, [0, 1]).all() and (y_prob >= 0).all() and (y_prob <= 1).all()):
        raise ValueError("holds labels that are not 0 or 1, or probabilities beyond them")
    return y_true, y_prob


def learning(metrics: dict[str, Any]) -> dict[str, Chart]:
    """Loss, accuracy and learning rate by epoch, by the titles of the charts."""
    history, folds = metrics.get("history"), metrics["settings"]["folds"]
    if not history:
        return {}
    kept = evenly_spaced(len(history["loss"]))
    epochs, mean = kept + 1, f", mean of {folds} nets" if folds > 1 else ""
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
    return charts


def ranking(metrics: dict[str, Any], y_true: np.ndarray, y_prob: np.ndarray) -> dict[str, Any]:
    """The charts "roc" and "precision" and whether they have "bands"; nothing if only one class was tested."""
    positive = float(y_true.mean())
    if not 0 < positive < 1:
        return {}
    (tn, fp), (fn, tp) = metrics["test"]["confusion"]
    recall = tp / max(1, tp + fn)
    roc = Chart(share_axis("false positive rate"), share_axis("true positive rate (recall)"), "ROC curve")
    axes = share_axis("recall: rows of 1 predicted 1"), share_axis("precision: rows predicted 1 that are 1")
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
    """Of each calibration bin with rows: name, rows, mean probability, share of 1, its interval; a chart of them."""
    chart = Chart(share_axis("predicted probability"), share_axis("observed share of 1"), "calibration")
    chart.line([0, 1], [0, 1], "faint dashed")
    bins, rows = calibration_bins(y_prob), []
    counts, ones, sums = (np.bincount(bins, weights) for weights in (None, y_true, y_prob))
    for place in np.flatnonzero(counts).tolist():
        name, count = f"{10 * place} to {10 * place + 10} %".replace(" ", "\u00a0"), int(counts[place])
        predicted, observed, ends = sums[place] / count, ones[place] / count, wilson(ones[place], count)
        rows.append((name, count, predicted, observed, ends))
        chart.line([predicted, predicted], ends, "one")
        chart.dot(predicted, observed, "one", f"{name}: {count:,} rows, {percent(observed)} are 1, {interval(ends)}")
    return rows, chart


def threshold_counts(y_true: np.ndarray, y_prob: np.ndarray) -> list[list[int]]:
    """False and true positives for each hundredth as a threshold, 0 to 1."""
    classes = [np.sort(y_prob[y_true == value]) for value in (0, 1)]
    return np.stack([len(part) - np.searchsorted(part, np.arange(101) / 100) for part in classes], axis=1).tolist()


def partial_dependence(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """For each of the most important columns: its name, its cells (value, rows, share), an axis of shares, a chart.

    A category has no chart, but a row for each cell.
    """
    effects, found = metrics.get("effects") or [], []
    shares = [share for effect in effects for share in effect["probability"]]
    for effect in effects:
        usual = effect.get("mean", metrics["table"]["positive"])  # version 1.7.0 and earlier wrote no mean
        is_number = effect["kind"] == "number"
        cells = [*zip(effect["values"], effect["rows"], effect["probability"], strict=True)]
        ends = math.floor(10 * min(shares)) / 10, math.ceil(10 * max(shares)) / 10
        axis = linear_axis("mean probability", ends, 5 if is_number else 4)
        axis = axis._replace(ticks=[(tick, f"{100 * tick:.0f} %") for tick, _ in axis.ticks])
        chart = number_effect(effect["column"], cells, axis, usual) if is_number else None
        found.append({"column": effect["column"], "cells": cells, "axis": axis, "chart": chart, "usual": usual})
    return found


def number_effect(name: str, cells: list[tuple[float | None, int, float]], up: Axis, usual: float) -> Chart:
    """How the mean probability moves with a number; usual is that of the same rows as they are."""
    known = [(value, rows, share) for value, rows, share in cells if value is not None]
    across = cell_axis(name, np.array([value for value, _, _ in known] or [0], float))
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
