"""Draw what a run has found as one page, report.html, that needs neither a network nor another program.

    python report.py
    python report.py other/model

It is drawn from metrics.json and predictions.csv in the model directory alone, so that a run gives one page however
often it is drawn. The trainer calls this file at the end of every run, for the page and for the model card, README.md.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import io
import itertools
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterable
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))  # until main() can say more

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

import train_model_modern as modern
from train_model_modern import UserError, interval, percent

# isort: split
import numpy as np  # after the above, which says what to do where it is not installed

RESAMPLES = 200
BAND_POINTS = 61
CURVE_POINTS = 200
SURPRISES = 10
MOST_BARS = 15
MOST_COLUMNS = 40  # listed of the data
LONGEST_TEXT = 200  # characters of a name or value

# ---------------------------------------------------------------------------------------------------------------------
# What is read


class Predictions(NamedTuple):
    """The rows of predictions.csv: each was tested by a net that never saw it."""

    label: np.ndarray  # [N] 0 or 1
    probability: np.ndarray  # [N]


FILE_CELL = re.compile(rb'^"[^"]*(?:""[^"]*)*",', re.MULTILINE)


def read_predictions(content: bytes) -> Predictions:
    """Take predictions.csv apart; ValueError for what the trainer did not write."""
    header, _, body = content.partition(b"\n")
    names = header.split(b",")
    several = names == modern.PREDICTION_COLUMNS
    if not several and names != modern.PREDICTION_COLUMNS[1:]:
        raise ValueError("line 1 does not hold the column names")

    plain = io.BytesIO(FILE_CELL.sub(b"", body) if several else body)
    cells = np.loadtxt(plain, delimiter=",", comments=None, ndmin=2) if body else np.empty((0, 4))
    if cells.shape[1] != 4 or not len(cells):
        raise ValueError("holds no rows of four numbers")
    label, probability = cells.T[2:]
    if not (np.isin(label, [0, 1]).all() and (probability >= 0).all() and (probability <= 1).all()):
        raise ValueError("holds labels that are not 0 or 1, or probabilities beyond them")
    return Predictions(label, probability)


# ---------------------------------------------------------------------------------------------------------------------
# What the data show before training

GIVEAWAY_ROWS = 50_000  # rows that are looked at for columns that give the label away


def describe_columns(table: modern.Table) -> list[str]:
    """A line for each column: what it is read as, how many values it has, how many cells are empty."""
    numbers, codes = iter(table.numbers.T), iter(table.codes.T)
    rows = [("column", "read as", "distinct", "missing", "values")]
    for column in table.columns:
        values = column.reason
        if column.kind == "number":
            values = "{:.6g} to {:.6g}, median {:.6g}".format(*np.nanpercentile(next(numbers), [0, 100, 50]))
        elif column.kind == "category":
            counts = np.bincount(next(codes))
            most = column.vocabulary[np.argmax(counts)]
            shown = "(missing)" if most in ("", modern.MISSING) else most
            values = f"most often {shown}, in {percent(counts.max() / len(table.label))} of rows"
        counts = (f"{column.distinct:,}", f"{column.missing:,}") if column.missing >= 0 else ("", "")
        rows.append((column.name, column.kind, *counts, f"{values}; {column.hint}" if column.hint else values))
    width = max(len(column.name) for column in table.columns)
    return [f"{row[0]:<{width}}  {row[1]:<9}{row[2]:>10}{row[3]:>10}  {row[4]}" for row in rows]


def find_giveaways(table: modern.Table, label: str) -> list[str]:
    """What to say of columns that may give the label away: they have its name, or tell it nearly without an error."""
    warnings, words = [], modern.name_words(label)
    step = max(1, len(table.label) // GIVEAWAY_ROWS)
    positive = table.label[::step] > 0.5
    numbers, codes = iter(table.numbers.T), iter(table.codes.T)
    for column in table.columns:
        if column.kind == "dropped":
            continue
        count, cells = (number_hits, next(numbers)) if column.kind == "number" else (category_hits, next(codes))
        hits = count(cells[::step], positive)
        classes = zip(hits, (np.count_nonzero(~positive), np.count_nonzero(positive)), strict=True)
        if all(found > 0.96 * rows and modern.wilson(found, rows)[0] > 0.9 for found, rows in classes):
            why = f"on its own it predicts the label of {percent(sum(hits) / len(positive))} of rows"
        elif len(label) > 2 and words <= modern.name_words(column.name):
            why = "its name contains that of the label"
        else:
            continue
        warnings.append(f"{column.name}: {why}; if it was made from the label, --drop {column.name}")
    return warnings


def number_hits(values: np.ndarray, positive: np.ndarray) -> tuple[int, int]:
    """How many rows of 0 and of 1 a number tells when one class is all that lies in an interval, the best there is.

    Both classes weigh the same. What is missing lies above all else.
    """
    values = np.where(np.isnan(values), np.inf, values)
    order = np.argsort(values)
    values = values[order]
    ends = np.append(0, 1 + np.flatnonzero(np.append(values[1:] != values[:-1], True)))
    ones = np.append(0, np.cumsum(positive[order]))[ends]
    counts, found = np.stack([ends - ones, ones]), []
    shares = counts / np.maximum(1, counts[:, -1:])
    for inner, outer in ((0, 1), (1, 0)):
        gain = shares[inner] - shares[outer]
        end = np.argmax(gain - np.minimum.accumulate(gain))
        start = np.argmin(gain[: end + 1])
        hits = counts[:, end] - counts[:, start]
        hits[outer] = counts[outer, -1] - hits[outer]
        found.append((gain[end] - gain[start], *hits.tolist()))
    return max(found)[1:]


def category_hits(codes: np.ndarray, positive: np.ndarray) -> tuple[int, int]:
    """How many rows of 0 and of 1 are told by the other rows with the same value."""
    zeros, ones = (np.bincount(codes[positive == value], minlength=codes.max() + 1) for value in (False, True))
    return zeros[zeros - 1 > ones].sum(), ones[ones - 1 > zeros].sum()


# ---------------------------------------------------------------------------------------------------------------------
# What a run has found

BASELINES = {"majority": "always predicting the majority class", "logistic_regression": "a logistic regression"}
IMPORTANCE_ROWS = 5_000
IMPORTANCE_CELLS = 1 << 29  # shuffled in all; of a table with a thousand columns, fewer rows are looked at
IMPORTANCE_PIECE = 1 << 22  # shuffled at a time
MOST_SUSPECTS = 20  # rows with labels that look wrong


def findings(run: modern.Run, tested: modern.Tested) -> tuple[dict[str, Any], list[str]]:
    """What else the test tells, for metrics.json and in words: how much better the model is, and what it goes by."""
    options, test = run.options, tested.metrics["test"]
    comparison = {
        name: compare(tested.test[0], (tested.test[1], tested.threshold.value), (guess, 0.5), options.seed)
        for name, (guess, _) in run.baselines.items()
    }
    unlike = ["balanced class weights"] * (options.class_weight == "balanced")
    unlike += [f"a threshold of {tested.threshold.value:.3g}"] * (tested.threshold.value != 0.5)
    share = run.decisions.get("network_share")
    sentences = judge(comparison, test, len(run.folds), share.value if share else 1.0, " and ".join(unlike))
    columns, suspects = importance(run, tested), suspect_labels(run, *tested.test)
    facts = {"comparison": comparison, "verdict": sentences, "importance": columns, "suspect_labels": suspects}
    facts |= {"warnings": run.table.warnings, "effects": effects(run, tested, [*columns][:EFFECT_COLUMNS])}
    facts |= {"history": mean_history(run.folds), "table": describe_table(run)}
    words = ["", *(line for sentence in sentences for line in modern.wrap(sentence))]
    words += [*show_thresholds(*tested.validation), *show_importance(columns), *show_suspects(suspects)]
    return facts, words


def compare(
    label: np.ndarray, model: tuple[np.ndarray, float], baseline: tuple[np.ndarray, float], seed: int
) -> dict[str, dict[str, Any]]:
    """Log-loss and accuracy of the model less those of a baseline on the same rows, row by row, with 95 % intervals.

    Both are given as probabilities [N] and the threshold from which they count as 1.
    """
    rows, (chosen, weights) = len(label), modern.resamples(len(label), seed)
    losses = modern.log_losses(label, model[0]) - modern.log_losses(label, baseline[0])
    ends = modern.interval_ends(weights @ losses[chosen] / len(chosen), losses[chosen].mean(), rows)
    right, matched = (((part >= threshold) == (label > 0.5)) for part, threshold in (model, baseline))
    gained, lost = int(np.sum(right & ~matched)), int(np.sum(matched & ~right))
    differing, difference = gained + lost, (gained - lost) / rows
    # McNemar's test (1947), and the interval of paired proportions (Fleiss, Levin and Paik, 2003), both with the
    # correction for continuity.
    p_value = math.erfc(max(0, abs(gained - lost) - 1) / math.sqrt(2 * max(1, differing)))
    half = (1 + 1.959964 * math.sqrt(differing - rows * difference**2)) / rows
    interval = [max(-1.0, difference - half), min(1.0, difference + half)]
    mean = float(losses.mean())
    return {
        "log_loss": {"difference": mean, "ci95": [mean + end for end in ends]},
        "accuracy": {"difference": difference, "ci95": interval, "p_value": p_value},
    }


def judge(
    comparison: dict[str, Any], test: dict[str, Any], folds: int, share: float = 1.0, unlike: str = ""
) -> list[str]:
    """The verdict, in sentences: what the test shows, and how far it can be trusted.

    Unlike is what the model was given and the baselines were not: class weights, a threshold.
    """
    width, rows = 100 * (test["accuracy_ci95"][1] - test["accuracy_ci95"][0]), np.sum(test["confusion"])
    wide = f"The interval of the accuracy is {width:.0f} points wide, as only {rows:,} rows could be tested"
    sentences = [f"{wide}: treat this result as indicative only."] if width > 15 else []
    sentences += (judged := [judge_baseline(BASELINES[name], **parts) for name, parts in comparison.items()])
    if unlike:
        sentences.append(f"The model has {unlike}, the baselines do not: compare them by ROC AUC.")
    elif not judged[0].startswith("Better"):
        sentences.append("More labelled rows would help most.")
    if folds > 1:
        mean = f"the saved model is the mean of all {folds}, which is usually more accurate"
        sentences.append(f"These results are for single nets; {mean}.")
    if share < 1:
        rest = f"{100 - 100 * share:.0f} % that of a logistic regression"
        sentences.append(f"The model's logit is {100 * share:.0f} % that of the net and {rest}.")
    return sentences


def judge_baseline(name: str, log_loss: dict[str, Any], accuracy: dict[str, Any]) -> str:
    """Whether the model is better than a baseline, and in which metric: what may well be chance is no difference."""
    (low, high), p_value, found = log_loss["ci95"], accuracy["p_value"], []
    right = accuracy["difference"] if p_value < 0.05 else 0
    for word, shown in (
        ("better", {"log-loss": high < 0, "accuracy": right > 0}),
        ("worse", {"log-loss": low > 0, "accuracy": right < 0}),
    ):
        if any(shown.values()):
            found.append(f"{word} than {name} in {' and '.join(compress(shown, shown.values()))}")
    words = ", ".join(found).capitalize() or f"No significant improvement over {name}"
    loss = f"{log_loss['difference']:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    lowest, highest = (100 * end for end in accuracy["ci95"])
    chance = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    points = f"{100 * accuracy['difference']:+.1f} points ({lowest:+.1f} to {highest:+.1f}, McNemar {chance})"
    return f"{words}. Difference in log-loss {loss}, in accuracy {points}."


def show_thresholds(label: np.ndarray, probability: np.ndarray) -> list[str]:
    """When one class is rare: what thresholds would give, on validation rows."""
    if min(label.mean(), 1 - label.mean()) >= 0.2:
        return []
    lines = ["", "One class is rare; on the validation rows, these thresholds would give"]
    for text in ("0.5", "f1", "balanced"):
        threshold = modern.choose_threshold(modern.threshold_rule(text), label, probability).value
        predicted = probability >= threshold
        hits = float((predicted * label).sum())
        precision, recall = percent(hits / max(1, predicted.sum())), percent(hits / label.sum())
        lines.append(f"  --threshold {text:<9} {threshold:.3f}: precision {precision}, recall {recall}")
    return lines


def importance(run: modern.Run, tested: modern.Tested) -> dict[str, float]:
    """How much the log-loss of test rows rises when a column's cells are shuffled among them (Breiman, 2001)."""
    generator = np.random.default_rng([run.options.seed, 4])
    names = [column.name for kind in ("number", "category") for column in run.table.of_kind(kind)]
    inputs = run.encoding.inputs_of_columns()
    rises, total = np.zeros(len(names)), 0
    most = min(IMPORTANCE_ROWS, max(50, IMPORTANCE_CELLS // (run.encoding.width * len(names))))

    def losses(own: modern.Weights, encoded: np.ndarray) -> np.ndarray:
        logits = np.reshape(run.predictor.outputs(own, encoded)[-1], (-1, len(rows)))
        return modern.log_losses(run.features.label[rows], modern.sigmoid(logits / tested.temperature))

    for fold, own in zip(run.folds, tested.weights, strict=True):
        rows = fold.split.test[:: max(1, len(fold.split.test) * len(run.folds) // most)]
        encoded = np.asarray(modern.encode(*run.features.take(rows), run.encoding, fold.encoder))
        before = losses(own, encoded)
        for columns in modern.row_pieces(np.arange(len(names)), max(1, IMPORTANCE_PIECE // encoded.size)):
            shuffled = np.tile(encoded, (len(columns), 1, 1))
            for block, column in zip(shuffled, columns, strict=True):
                block[:, inputs[column]] = encoded[np.ix_(generator.permutation(len(rows)), inputs[column])]
            rises[columns] += (losses(own, shuffled.reshape(-1, encoded.shape[1])) - before).sum(axis=1)
        total += len(rows)
    return {names[number]: float(rises[number] / total) for number in np.argsort(-rises)}


def show_importance(values: dict[str, float]) -> list[str]:
    """A list of bars for the columns that matter most."""
    most = max(values.values(), default=0)
    if most <= 0:
        return []
    shown = [(name, value) for name, value in values.items() if value > 0.01 * most][:10]
    width = max(len(name) for name, _ in shown)
    bars = [f"  {name:<{width}}  {value:6.3f}  {'#' * max(1, round(30 * value / most))}" for name, value in shown]
    return ["", "Permutation importance (rise in test log-loss when the column is shuffled)", *bars]


def show_calibration(label: np.ndarray, probability: np.ndarray, confusion: list[list[int]]) -> list[str]:
    """The calibration curve and the confusion matrix of the test rows as tables."""
    lines, bins = ["probability         rows   share of 1", ""], modern.tenths(probability)
    for number in range(10):
        part = label[bins == number]
        share = float(part.mean()) if len(part) else 0
        observed = f"{percent(share):>8}  {'#' * round(20 * share)}" if len(part) else ""
        lines.append(f"{10 * number:>3} to {10 * number + 10:>3} %     {len(part):>8,}  {observed}")
    lines += ["", f"{'':<12}{'predicted 0':>14}{'predicted 1':>14}"]
    return lines + [f"label {row}     {cells[0]:>14,}{cells[1]:>14,}" for row, cells in enumerate(confusion)]


def suspect_labels(run: modern.Run, label: np.ndarray, probability: np.ndarray) -> list[dict[str, Any]]:
    """The tested rows whose label surprises the model most, when it gave that label less than a tenth."""
    table, rows = run.table, np.concatenate([fold.split.test for fold in run.folds])
    given = np.where(label > 0.5, probability, 1 - probability)
    order = np.lexsort([table.lines[rows], table.files[rows], given])[:MOST_SUSPECTS]
    suspects = []
    for number in order[given[order] < 0.1]:
        file = {"file": table.names[table.files[rows[number]]]} if len(table.names) > 1 else {}
        what = {"label": int(label[number]), "probability": float(probability[number])}
        suspects.append({**file, "line": int(table.lines[rows[number]]), **what})
    return suspects


def show_suspects(suspects: list[dict[str, Any]]) -> list[str]:
    """The rows whose labels are most likely wrong."""
    if not suspects:
        return []
    lines = ["", "Labels worth a second look (in the test, the model was nearly sure of the opposite)"]
    places = [f"{row['file']}, line {row['line']}" if "file" in row else f"line {row['line']}" for row in suspects[:5]]
    for place, row in zip(places, suspects, strict=False):
        chance = f"probability of 1: {row['probability']:.3f}"
        lines.append(f"  {place:<{max(map(len, places))}}  labelled {row['label']}, {chance}")
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# What metrics.json holds for the page alone

EFFECT_COLUMNS = 6  # the most important ones
EFFECT_VALUES = 12  # of a column
EFFECT_ROWS = 300
EFFECT_CELLS = 1 << 24  # changed at a time


def typical_rows(table: modern.Table, column: modern.Column, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows with the usual cells of a column, one row for each cell, and how many rows have it.

    Those of a category are its most frequent values, those of a number quantiles, which stand for the rows near them; a
    missing cell comes last.
    """
    place = table.of_kind(column.kind).index(column)
    if column.kind == "number":
        cells = table.numbers[rows, place]
        missing = np.isnan(cells)
        chosen = np.unique(cells[~missing])
        if len(chosen) > EFFECT_VALUES:
            shares = np.linspace(0.025, 0.975, EFFECT_VALUES)
            chosen = np.unique(np.quantile(cells[~missing], shares, method="inverted_cdf"))
        nearest = np.searchsorted((chosen[1:] + chosen[:-1]) / 2, cells[~missing])
        counts = np.bincount(nearest, minlength=len(chosen))
    else:
        cells = table.codes[rows, place]
        missing = (cells == 0) & (column.vocabulary[0] in ("", modern.MISSING))
        counts = np.bincount(cells[~missing], minlength=1)
        chosen = np.argsort(-counts, kind="stable")[:EFFECT_VALUES]
        chosen = chosen[counts[chosen] > 0]
        counts = counts[chosen]
    found = [np.argmax(cells == cell) for cell in chosen]
    if missing.any():
        found, counts = [*found, np.argmax(missing)], np.append(counts, missing.sum())
    return rows[found], counts


def effects(run: modern.Run, tested: modern.Tested, shown: list[str]) -> list[dict[str, Any]]:
    """How the mean probability of test rows moves with a column: its partial dependence (Friedman, 2001).

    All rows are given the cell that a typical row has in the column, one typical row after another.
    """
    columns = [column for kind in ("number", "category") for column in run.table.of_kind(kind)]
    numbers, names = len(run.table.of_kind("number")), [column.name for column in columns]
    chosen = [names.index(name) for name in shown]
    trained = np.concatenate([fold.split.training for fold in run.folds])
    trained = np.unique(trained[:: max(1, len(trained) // modern.SCALE_ROWS)])
    typical = [typical_rows(run.table, columns[place], trained) for place in chosen]
    donors, lengths = np.concatenate([rows for rows, _ in typical]), [len(rows) for rows, _ in typical]
    most = max(1, min(EFFECT_ROWS, EFFECT_CELLS // (run.encoding.width * len(donors))))
    sums, total = np.zeros(len(donors)), 0
    for fold, own in zip(run.folds, tested.weights, strict=True):
        rows = fold.split.test[:: math.ceil(len(fold.split.test) * len(run.folds) / most)]
        column = np.repeat(np.repeat(chosen, lengths), len(rows))[:, None]
        kept, given = run.features.take(np.tile(rows, len(donors))), run.features.take(np.repeat(donors, len(rows)))
        scaled = np.where(column == np.arange(numbers), given[0], kept[0])
        indices = np.where(column - numbers == np.arange(len(columns) - numbers), given[1], kept[1])
        logits = run.predictor.outputs(own, modern.encode(scaled, indices, run.encoding, fold.encoder))[-1]
        sums += modern.sigmoid(np.asarray(logits, float) / tested.temperature).reshape(len(donors), -1).sum(axis=1)
        total += len(rows)
    found, means = [], np.split(sums / total, np.cumsum(lengths)[:-1])
    for place, (rows, counts), probability in zip(chosen, typical, means, strict=True):
        cells = modern.raw_inputs(run.table, rows)[names[place]][:, 0].tolist()
        values = [None if cell in ("", modern.MISSING) or cell != cell else cell for cell in cells]
        parts = {"values": values, "rows": counts.tolist(), "probability": probability.tolist()}
        found.append({"column": names[place], "kind": columns[place].kind, **parts})
    return found


def mean_history(folds: list[modern.Fold]) -> dict[str, list[float]]:
    """Epoch by epoch what training and validation gave: means over folds, and how far apart they were."""
    epochs = range(1, max(len(fold.history) for fold in folds) + 1)
    logs = [modern.mean_logs(folds, epoch) for epoch in epochs]
    names = ("loss", "val_loss", "accuracy", "val_accuracy", "learning_rate")
    history = {name: [entry[name] for entry in logs] for name in names}
    if len(folds) > 1:
        losses = [[modern.mean_logs([fold], epoch)["val_loss"] for fold in folds] for epoch in epochs]
        history |= {"val_loss_lowest": [*map(min, losses)], "val_loss_highest": [*map(max, losses)]}
    return history


def describe_table(run: modern.Run) -> dict[str, Any]:
    """What was read, how it was split, and what each column was taken for."""
    table, names = run.table, ("name", "kind", "reason", "distinct", "missing", "hint")
    columns = [{name: getattr(column, name) for name in names} for column in table.columns]
    split = [line[10:].strip() for line in modern.show_split(run.options, table, run.splits)]
    return {"positive": float(table.label.mean()), "notes": table.notes, "split": split, "columns": columns}


# ---------------------------------------------------------------------------------------------------------------------
# Curves


class Curve(NamedTuple):
    """A curve of test rows and, at places of its own, the band that 95 % of resampled rows give."""

    x: np.ndarray
    y: np.ndarray
    places: np.ndarray
    ends: tuple[np.ndarray, np.ndarray] | None  # of the band; none where one class is too rare to be resampled


def reached(label: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many rows of 1 and of 0 each threshold finds, the highest first: weights [R, N] give [R, T], [R, T]."""
    order = np.argsort(-probability, kind="stable")
    last = np.append(np.diff(probability[order]) != 0, True)  # between equal probabilities there is no threshold
    hits, false = (np.cumsum((weights * part)[:, order], axis=1)[:, last] for part in (label, 1 - label))
    return hits, false


def receiver_curve(hits: np.ndarray, false: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ROC: the share of 0 and the share of 1 that are predicted 1."""
    return np.append(0, false / false[-1]), np.append(0, hits / hits[-1])


def precision_curve(hits: np.ndarray, false: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each recall above 0, and the precision of the highest threshold that reaches it."""
    reached, first = np.unique(hits, return_index=True)
    kept = first[reached > 0]
    return hits[kept] / hits[-1], hits[kept] / (hits[kept] + false[kept])


def highest_within(x: np.ndarray, y: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Of a rising curve: how high it is at places."""
    return y[np.searchsorted(x, places, side="right") - 1]


def first_to_reach(x: np.ndarray, y: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Of a curve over recall: what it is where the recall is first reached."""
    return y[np.minimum(np.searchsorted(x, places), len(y) - 1)]


def draw_curves(predictions: Predictions, seed: int) -> list[Curve]:
    """The ROC and the precision-recall curve. Of many rows some are resampled, and the bands narrowed accordingly."""
    label, probability = predictions.label, predictions.probability
    generator = np.random.default_rng([seed, 5])
    narrower = math.sqrt(min(1, modern.BOOTSTRAP_ROWS / len(label)))
    if len(label) > modern.BOOTSTRAP_ROWS:
        chosen = generator.choice(len(label), modern.BOOTSTRAP_ROWS, replace=False)
        label, probability = label[chosen], probability[chosen]
    rows = len(label)
    weights = generator.multinomial(rows, np.full(rows, 1 / rows), RESAMPLES).astype(np.float32)
    resampled = zip(*reached(label, probability, weights), strict=True)
    resampled = [counts for counts in resampled if counts[0][-1] and counts[1][-1]]  # those that have both classes
    once = [part[0] for part in reached(label, probability, np.ones((1, rows)))]
    whole = [part[0] for part in reached(*predictions, np.ones((1, len(predictions.label))))]
    places, curves, ends = np.linspace(0, 1, BAND_POINTS), [], None
    for curve, read in ((receiver_curve, highest_within), (precision_curve, first_to_reach)):
        x, y = curve(*whole)
        if len(resampled) > RESAMPLES / 2:
            values = [read(*curve(*counts), places) for counts in resampled]
            shift = (np.percentile(values, [2.5, 97.5], axis=0) - read(*curve(*once), places)) * narrower
            ends = tuple(np.clip(read(x, y, places) + shift, 0, 1))
        kept = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).round().astype(int))
        curves.append(Curve(x[kept], y[kept], places, ends))
    return curves


# ---------------------------------------------------------------------------------------------------------------------
# Text and tables


def escape(value: object) -> str:
    """Text of the data, which may hold anything, for a page."""
    text = str(value)
    return html.escape(text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}...")


def shorten(value: object, length: int) -> str:
    text = str(value)
    return html.escape(text if len(text) <= length else f"{text[: length - 1]}\u2026")


def figure_of(value: float) -> str:
    """A number of the data in few characters."""
    if value and not 1e-4 <= abs(value) < 1e12:
        return f"{value:.3g}"
    if isinstance(value, int) or value == round(value):
        return f"{value:,.0f}"
    return f"{value:,.{max(0, 3 - math.ceil(math.log10(abs(value))))}f}"


def setting_text(value: Any) -> str:
    """A setting as a reader would say it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int | float):
        return f"{value:,.10g}"
    return "not given" if value is None else str(value)


def with_interval(result: dict[str, Any], name: str) -> str:
    """A score with its 95 % interval below, as a cell of a table."""
    value, ends, share = result[name], result.get(f"{name}_ci95"), name in ("accuracy", "precision", "recall")
    if value is None:
        return "none"
    told = percent(value) if share else f"{value:.3f}"
    return f"{told}<small>{interval(ends) if share else interval(ends, 1, 3)}</small>" if ends else told


def table(heads: list[str], rows: Iterable[list[str]], texts: int = 1) -> str:
    """A table of cells that are markup; the first columns are text, the others numbers."""
    kinds = [' class="text"' if place < texts else "" for place in range(len(heads))]
    head = "".join(f'<th scope="col"{kind}>{cell}</th>' for cell, kind in zip(heads, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'


def paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f"<p>{sentence}</p>\n" for sentence in sentences)


# ---------------------------------------------------------------------------------------------------------------------
# Drawing

WIDTH, HEIGHT = 360, 270  # of a chart, in units that are about a pixel on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 40  # what is kept for the axes
LABEL_WIDTH, VALUE_WIDTH, BAR_STEP = 134, 58, 22  # of a chart of bars


class Axis(NamedTuple):
    title: str
    low: float
    high: float
    ticks: list[tuple[float, str]]
    unit: float = 0.0  # above 0: a signed logarithm of values in this unit

    def share(self, values: Any) -> np.ndarray:
        """Where values lie between the ends of the axis: 0 to 1."""
        low, high, values = (self.scale(part) for part in (self.low, self.high, values))
        return (values - low) / ((high - low) or 1.0)

    def scale(self, values: Any) -> np.ndarray:
        values = np.asarray(values, float)
        return np.sign(values) * np.log1p(np.abs(values) / self.unit) if self.unit else values


def share_axis(title: str, low: float = 0.0) -> Axis:
    """An axis of shares, from 0 or another low end to 100 %."""
    step = 0.2 if low < 0.5 else 0.1
    values = np.arange(round((1 - low) / step) + 1) * step + low
    return Axis(title, low, 1.0, [(float(value), f"{100 * value:.0f} %") for value in values])


def round_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two, as many as there can be but at most so many."""
    size = 10.0 ** math.floor(math.log10((high - low) / most or abs(low) or 1.0))
    for step in (1 * size, 2 * size, 5 * size, 10 * size, 20 * size):
        numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        if len(numbers) <= most:
            break
    return [number * step for number in numbers]


def linear_axis(title: str, values: Any, most: int = 5) -> Axis:
    low, high = float(np.min(values)), float(np.max(values))
    ticks = round_ticks(low, high, most)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    plain = digits < 7 and high < 1e12
    return Axis(title, low, high, [(tick, f"{tick:,.{digits}f}" if plain else f"{tick:.3g}") for tick in ticks])


def cell_axis(title: str, values: np.ndarray) -> Axis:
    """An axis for the cells of a column: logarithmic where most of them lie close to 0 beside the largest."""
    sizes = np.abs(values[values != 0])
    if not len(sizes) or sizes.max() < 8 * np.median(sizes):
        return linear_axis(title, values, 4)
    low, high, unit = float(values.min()), float(values.max()), float(sizes.min())
    powers = range(math.ceil(math.log10(unit)), math.floor(math.log10(sizes.max())) + 1)
    every = max(1, math.ceil(len(powers) / (2 if low < 0 else 4)))
    tens = [10.0**power for power in [*powers][::-every]]
    ticks = sorted(tick for tick in (*(-ten for ten in tens), 0.0, *tens) if low <= tick <= high)
    ticks = ticks if len(ticks) > 1 else [low, high]
    return Axis(f"{title} (logarithmic)", low, high, [(tick, figure_of(tick)) for tick in ticks], unit)


def path_of(x: np.ndarray, y: np.ndarray) -> str:
    return "M" + "L".join(f"{across:.1f} {up:.1f}" for across, up in zip(x, y, strict=True))


class Chart:
    """A chart on two axes, as inline SVG."""

    def __init__(self, across: Axis, up: Axis, describe: str) -> None:
        self.across, self.up, self.describe = across, up, describe
        bottom, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
        self.parts = [f'<text x="0" y="12" class="title">{escape(up.title)}</text>']
        for value, told in up.ticks:
            height = self.y(value)
            self.parts.append(f'<path class="grid" d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}"/>')
            self.parts.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" class="end">{told}</text>')
        for place, anchor, told in self.spread([(float(self.x(value)), told) for value, told in across.ticks]):
            self.parts.append(f'<path class="grid" d="M{place:.1f} {bottom}v4"/>')
            self.parts.append(f'<text x="{place:.1f}" y="{bottom + 17}" class="{anchor}">{told}</text>')
        self.parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>')
        title = shorten(across.title, 54)
        self.parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 5}" class="title middle">{title}</text>')

    @staticmethod
    def spread(ticks: list[tuple[float, str]]) -> Iterable[tuple[float, str, str]]:
        """Ticks whose labels stay within the chart and do not touch each other."""
        free = 0.0
        for place, told in ticks:
            half = 3.5 * len(told)
            anchor = "end" if place + half > WIDTH else "middle"
            start = place - (2 * half if anchor == "end" else half)
            if start >= free:
                yield place, anchor, told
                free = start + 2 * half + 6

    def x(self, values: Any) -> np.ndarray:
        return LEFT + self.across.share(values) * (WIDTH - LEFT - RIGHT)

    def y(self, values: Any) -> np.ndarray:
        return TOP + (1 - self.up.share(values)) * (HEIGHT - TOP - BOTTOM)

    def line(self, x: Any, y: Any, kind: str) -> None:
        if len(x) == 1:
            self.dot(x[0], y[0], kind, "")
        self.parts.append(f'<path class="line {kind}" d="{path_of(self.x(x), self.y(y))}"/>')

    def steps(self, x: np.ndarray, y: np.ndarray, kind: str) -> None:
        """A line that keeps a height up to the place it belongs to."""
        moves = "".join(f"V{up:.1f}H{across:.1f}" for across, up in zip(self.x(x), self.y(y), strict=True))
        self.parts.append(f'<path class="line {kind}" d="M{LEFT} {self.y(y[0]):.1f}{moves}"/>')

    def band(self, x: Any, low: Any, high: Any, kind: str) -> None:
        around = np.concatenate([x, x[::-1]]), np.concatenate([low, high[::-1]])
        self.parts.append(f'<path class="band {kind}" d="{path_of(self.x(around[0]), self.y(around[1]))}Z"/>')

    def dot(self, x: float, y: float, kind: str, told: str) -> None:
        place = f'cx="{self.x(x):.1f}" cy="{self.y(y):.1f}"'
        self.parts.append(f'<circle class="dot {kind}" {place} r="4"><title>{escape(told)}</title></circle>')

    def bar(self, x: float, low: float, high: float, kind: str) -> None:
        """A bar of error."""
        self.parts.append(f'<path class="line {kind}" d="M{self.x(x):.1f} {self.y(low):.1f}V{self.y(high):.1f}"/>')

    def words(self, x: float, y: float, words: str, kind: str) -> None:
        self.parts.append(f'<text x="{self.x(x):.1f}" y="{self.y(y):.1f}" class="{kind}">{escape(words)}</text>')

    def __str__(self) -> str:
        return drawing(self.parts, HEIGHT, self.describe)


def drawing(parts: list[str], height: float, describe: str) -> str:
    start = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(describe)}">'
    return "\n".join([start, *parts, "</svg>\n"])


def figure(title: str, picture: object, keys: dict[str, str] | None = None, note: str = "") -> str:
    """A chart with its title, what its lines are, and a note."""
    shown = "".join(f'<span class="key {kind}">{escape(words)}</span>' for words, kind in (keys or {}).items())
    legend = f'<p class="keys">{shown}</p>\n' if shown else ""
    below = f'<p class="note">{note}</p>\n' if note else ""
    return f"<figure>\n<figcaption>{escape(title)}</figcaption>\n{legend}{picture}{below}</figure>\n"


def figures(*parts: str) -> str:
    return f'<div class="figures">\n{"".join(parts)}</div>\n'


def bar_labels(names: list[str], values: list[str], full: list[str]) -> list[str]:
    """What stands to the left and to the right of each bar."""
    parts = []
    for place, (name, value, title) in enumerate(zip(names, values, full, strict=True)):
        height = BAR_STEP * place + 16
        told = f"<title>{escape(title)}</title>{shorten(name, 17)}"
        parts.append(f'<text x="{LABEL_WIDTH - 8}" y="{height}" class="end">{told}</text>')
        parts.append(f'<text x="{WIDTH}" y="{height}" class="end">{value}</text>')
    return parts


def bars(values: dict[str, float]) -> str:
    """A bar for each of some values."""
    most, width = max([*values.values(), 1e-9]), WIDTH - LABEL_WIDTH - VALUE_WIDTH
    parts = bar_labels([*values], [f"{value:.3f}" for value in values.values()], [*values])
    for place, value in enumerate(values.values()):
        shape = f'x="{LABEL_WIDTH}" y="{BAR_STEP * place + 5}" width="{max(0.0, width * value / most):.1f}" height="14"'
        parts.append(f'<rect class="fill one" {shape}/>')
    return drawing(parts, BAR_STEP * len(values) + 6, "bars: " + ", ".join(values))


# ---------------------------------------------------------------------------------------------------------------------
# Sections of the page


def verdict(metrics: dict[str, Any]) -> str:
    test, guess = metrics["test"], percent(metrics["baselines"]["majority"]["accuracy"])
    right = f"Correct on {percent(test['accuracy'])} of {metrics['rows']['test']:,} tested rows"
    right = f"{right} (95 % interval {interval(test['accuracy_ci95'])} %)."
    said = paragraphs(map(html.escape, metrics.get("verdict") or []))
    warnings = "".join(f"<li>{html.escape(words)}</li>\n" for words in metrics.get("warnings") or [])
    warned = f'<ul class="warnings">\n{warnings}</ul>\n' if warnings else ""
    guess = f"Always answering with the majority class would be right in {guess}."
    return f'<div class="verdict">\n<p class="first">{right} {guess}</p>\n{said}</div>\n{warned}'


def results(metrics: dict[str, Any]) -> str:
    several, bases = metrics["settings"]["folds"] > 1, metrics["baselines"]
    how = "each by a net that was not trained on it" if several else "which the model never saw"
    shown = {"this model": metrics["test"], "logistic regression": bases["logistic_regression"]}
    shown["always the majority"] = bases["majority"]
    rows = [
        [name, *(with_interval(result, part) for part in ("accuracy", "roc_auc", "log_loss"))]
        for name, result in shown.items()
    ]
    note = "Below each number is its 95 % interval: the uncertainty from the limited number of test rows. "
    note += "ROC AUC: the chance that a random row of 1 is ranked above a random row of 0. Log-loss: lower is better."
    tested = paragraphs([f"{metrics['rows']['test']:,} rows were tested, {how}."])
    measures = table(["", "accuracy", "ROC AUC", "log-loss"], rows)
    return tested + measures + comparison(metrics) + f'<p class="note">{note}</p>\n'


def comparison(metrics: dict[str, Any]) -> str:
    """How far the model is from the baselines, both measured on the same rows."""
    rows = []
    for base, parts in (metrics.get("comparison") or {}).items():
        for name, part in parts.items():
            if not isinstance(part, dict) or "difference" not in part:
                continue
            share, ends = name == "accuracy", part.get("ci95")
            told = f"{100 * part['difference']:+.1f} points" if share else f"{part['difference']:+.3f}"
            told += f"<small>{interval(ends) if share else interval(ends, 1, 3)}</small>" if ends else ""
            p_value = part.get("p_value")
            chance = "" if p_value is None else f"{p_value:.3f}" if p_value >= 0.001 else "&lt; 0.001"
            other = BASELINES.get(base, base)
            rows.append([f"{escape(name.replace('_', '-'))}, against {escape(other)}", told, chance])
    return table(["row by row", "difference (this model minus baseline)", "p-value"], rows) if rows else ""


def learning(metrics: dict[str, Any]) -> str:
    history, folds = metrics.get("history"), metrics["settings"]["folds"]
    if not history:
        return ""
    epochs = np.arange(1, len(history["loss"]) + 1)
    kept = np.unique(np.linspace(0, len(epochs) - 1, CURVE_POINTS).round().astype(int))
    series = {name: np.array(values, float)[kept] for name, values in history.items()}
    epochs, mean = epochs[kept], f", mean of {folds} nets" if folds > 1 else ""
    ends = [series[name] for name in ("val_loss_lowest", "val_loss_highest") if name in series]
    most = max(part.max() for part in (series["loss"], series["val_loss"], *ends))
    least = min(series["accuracy"].min(), series["val_accuracy"].min())
    loss = linear_axis(f"loss{mean}", [0, most])
    accuracy = share_axis(f"accuracy{mean}", math.floor(10 * least) / 10)
    rate = linear_axis(f"learning rate{mean}", [0, series["learning_rate"].max()])
    charts = [
        epoch_chart("Loss", loss, epochs, {"training": series["loss"], "validation": series["val_loss"]}, ends),
        epoch_chart(
            "Accuracy", accuracy, epochs, {"training": series["accuracy"], "validation": series["val_accuracy"]}
        ),
        epoch_chart("Learning rate", rate, epochs, {"": series["learning_rate"]}),
    ]
    words = f"The best epoch was {metrics['best_epoch']:,} of {metrics['epochs']:,}. " if folds == 1 else ""
    if metrics["settings"].get("network_share", 1) < 1:
        words += "The curves are those of the net alone, to which a logistic regression was added afterwards. "
    words += "The training loss is measured with dropout active, so it can exceed the validation loss."
    return figures(*charts) + f'<p class="note">{words}</p>\n'


def epoch_chart(title: str, up: Axis, epochs: np.ndarray, lines: dict[str, np.ndarray], ends: Iterable = ()) -> str:
    """Lines over epochs, the first solid, the second dashed, and the band between the ends of the second."""
    across = linear_axis("epoch", [1, max(2, epochs[-1])])
    whole = [(tick, f"{tick:,.0f}") for tick, _ in across.ticks if tick % 1 == 0]
    chart, keys = Chart(across._replace(ticks=whole), up, f"{title} by epoch"), {}
    if ends:
        chart.band(epochs, *ends, "two")
    for (name, values), kind in zip(lines.items(), ("one", "two dashed"), strict=False):
        chart.line(epochs, values, kind)
        keys[name] = kind
    keys |= {"lowest to highest net": "two area"} if ends else {}
    return figure(title, chart, keys if len(lines) > 1 else {})


def ranking(metrics: dict[str, Any], predictions: Predictions) -> str:
    test, share = metrics["test"], float(predictions.label.mean())
    if not 0 < share < 1:
        return paragraphs(["All tested rows have the same label, so that there is nothing to rank."])
    receiver, precise = draw_curves(predictions, metrics["settings"]["seed"])
    axes = (
        share_axis("false positive rate"),
        share_axis("true positive rate (recall)"),
    )
    rates = Chart(*axes, "ROC curve")
    axes = share_axis("recall: rows of 1 predicted 1"), share_axis("precision: rows predicted 1 that are 1")
    precision = Chart(*axes, "precision-recall curve")
    at = f"at threshold {metrics['threshold']:.3g}"
    keys = {"test rows": "one", "95 % band": "one area", "by chance": "faint dashed", at: "two point"}
    for chart, curve, chance in ((rates, receiver, [0, 1]), (precision, precise, [share, share])):
        if curve.ends:
            chart.band(curve.places, *curve.ends, "one")
        else:
            keys.pop("95 % band", None)
        chart.line([0, 1], chance, "faint dashed")
    rates.line(receiver.x, receiver.y, "one")
    precision.steps(precise.x, precise.y, "one")
    for chart, place in zip((precision, rates), at_threshold(test["confusion"]), strict=True):
        chart.dot(*place, "two", at)
    words = f"At each place the bands hold 95 % of the curves of {RESAMPLES} resamples of these rows (bootstrap). "
    words += "They show the sampling variation of the test rows, not the variation between training runs."
    note = words if receiver.ends else "One class is too rare for bands."
    charts = figure(f"ROC curve: AUC {area(test, 'roc_auc')}", rates, keys)
    charts += figure(f"Precision-recall curve: area {area(test, 'pr_auc')}", precision, keys)
    return figures(charts) + f'<p class="note">{note}</p>\n'


def area(test: dict[str, Any], name: str) -> str:
    """An area under a curve with its interval."""
    ends = test[f"{name}_ci95"]
    return f"{test[name]:.3f}" + (f" ({interval(ends, 1, 3)})" if ends else "")


def calibration(metrics: dict[str, Any], predictions: Predictions) -> str:
    chart = Chart(share_axis("predicted probability"), share_axis("observed share of 1"), "calibration")
    chart.line([0, 1], [0, 1], "faint dashed")
    tenths = modern.tenths(predictions.probability)
    counts = np.bincount(tenths, minlength=10)
    ones, sums = (np.bincount(tenths, part, minlength=10) for part in (predictions.label, predictions.probability))
    rows = []
    for place, (count, one, total) in enumerate(zip(counts.tolist(), ones, sums, strict=True)):
        if not count:
            continue
        (low, high), share, given = modern.wilson(one, count), one / count, total / count
        between = f"{10 * place} to {10 * place + 10} %".replace(" ", "\u00a0")
        chart.bar(given, low, high, "one")
        chart.dot(given, share, "one", f"{between}: {count:,} rows, {percent(share)} are 1, {interval([low, high])}")
        rows.append([between, f"{count:,}", percent(given), percent(share), interval([low, high])])
    keys = {"tested rows, ten bins, 95 % intervals": "one point", "perfectly calibrated": "faint dashed"}
    words = "On the dashed line, 70 % of the rows predicted at 70 % are 1. "
    words += f"Calibration error (the mean distance from the line, each row counted): {metrics['test']['ece']:.3f}."
    heads = ["given", "rows", "mean given", "are 1", "95 % interval"]
    return (
        figures(figure("Probability given and share of 1", chart, keys), f"<div>{table(heads, rows)}</div>\n")
        + f'<p class="note">{words}</p>\n'
    )


def at_threshold(confusion: list[list[int]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Recall and precision, false and true positive rate."""
    (right, false), (missed, hits) = confusion
    recall = hits / max(1, hits + missed)
    return (recall, hits / max(1, hits + false)), (false / max(1, false + right), recall)


def threshold_counts(predictions: Predictions) -> list[tuple[int, int]]:
    """For each hundredth as a threshold, 0 to 1: how many rows of 0, and of 1, are predicted 1."""
    places, taken = np.arange(101) / 100, []
    for value in (0, 1):
        ordered = np.sort(predictions.probability[predictions.label == value])
        taken.append((len(ordered) - np.searchsorted(ordered, places)).tolist())
    return [*zip(*taken, strict=True)]


def threshold_row(threshold: str, zeros: int, ones: int, false: int, hits: int) -> list[str]:
    """What a threshold gives, as a row of a table: of so many rows of 0 and of 1, some are predicted 1."""
    shares = [(hits, hits + false), (hits, ones), (zeros - false + hits, zeros + ones)]
    told = [f"{100 * part / whole:.1f}" if whole else "none" for part, whole in shares]
    return [threshold, *told, f"{false:,}", f"{ones - hits:,}"]


def mistakes(metrics: dict[str, Any], predictions: Predictions) -> str:
    (right, false), (missed, hits) = metrics["test"]["confusion"]
    zeros, ones, threshold = right + false, missed + hits, metrics["threshold"]
    reason, counts = escape(metrics["settings"]["reasons"]["threshold"]), threshold_counts(predictions)
    others = {
        place / 100: threshold_row(f"{place / 100:.1f}", zeros, ones, *counts[place]) for place in range(10, 100, 10)
    }
    others[threshold] = threshold_row(f"<b>{threshold:.3g}</b>", zeros, ones, false, hits)
    heads = ["threshold", "precision, %", "recall, %", "accuracy, %", "false alarms", "missed"]
    rows = table(heads, [others[place] for place in sorted(others)])
    data = html.escape(json.dumps([zeros, ones, counts], separators=(",", ":")))
    matrix = f"""<div id="matrix" data-counts="{data}">
<p>At a threshold of <b id="at">{threshold:.3g}</b> (<span id="why">{reason}</span>):</p>
<div class="wide"><table class="matrix">
<thead><tr><td></td><th scope="col">predicted 0</th><th scope="col">predicted 1</th></tr></thead>
<tbody>
<tr><th scope="row">actual 0</th><td class="right" id="tn">{right:,}</td><td class="wrong" id="fp">{false:,}</td></tr>
<tr><th scope="row">actual 1</th><td class="wrong" id="fn">{missed:,}</td><td class="right" id="tp">{hits:,}</td></tr>
</tbody>
</table></div>
<p hidden id="try"><label>Another threshold
<input type="range" min="0" max="100" value="{100 * threshold:.0f}"></label></p>
</div>
"""
    note = "Precision: of the rows predicted 1, how many are 1. Recall: of the rows of 1, how many are predicted 1. "
    note += "False alarms: rows of 0 predicted 1. Missed: rows of 1 predicted 0."
    return f'{matrix}{rows}<p class="note">{note}</p>\n'


def columns(metrics: dict[str, Any]) -> str:
    if not (importance := metrics.get("importance")):
        return ""
    values = dict(itertools.islice(importance.items(), MOST_BARS))
    more = len(importance) - len(values)
    note = f"{more:,} more columns matter less." if more else ""
    words = "How much the log-loss of tested rows rises when the cells of a column are shuffled among them."
    charts = [figure("Importance", bars(values), note=f"{words} {note}")]
    shares = [share for effect in metrics.get("effects") or [] for share in effect["probability"]]
    low, high = (math.floor(10 * min(shares)) / 10, math.ceil(10 * max(shares)) / 10) if shares else (0, 1)
    charts += [effect_chart(effect, low, high, metrics["table"]["positive"]) for effect in metrics.get("effects") or []]
    words = "The other charts: the mean probability of tested rows when all of them are given the same cell in that "
    words += "column, all else left as it is (partial dependence). It tells what the model does, not what causes what; "
    words += "cells that never occur together are mixed too. The dashed line is the share of 1."
    return figures(*charts) + (f'<p class="note">{words}</p>\n' if shares else "")


def effect_chart(effect: dict[str, Any], low: float, high: float, usual: float) -> str:
    """How the mean probability moves with a column."""
    cells = [*zip(effect["values"], effect["rows"], effect["probability"], strict=True)]
    return (number_effect if effect["kind"] == "number" else category_effect)(effect["column"], cells, low, high, usual)


def number_effect(name: str, cells: list[tuple[Any, int, float]], low: float, high: float, usual: float) -> str:
    known = [cell for cell in cells if cell[0] is not None]
    values = np.array([value for value, _, _ in known], float)
    up = linear_axis("mean probability", [low, high])
    up = up._replace(ticks=[(tick, f"{100 * tick:.0f} %") for tick, _ in up.ticks])
    chart = Chart(cell_axis(name, values if len(values) else np.zeros(1)), up, f"mean probability by {name}")
    if low <= usual <= high:
        chart.line([chart.across.low, chart.across.high], [usual, usual], "faint dashed")
    if known:
        chart.line(values, [share for _, _, share in known], "one")
    for value, rows, share in known:
        chart.dot(value, share, "one", f"{figure_of(value)}: {percent(share)}, {rows:,} rows near it")
    absent = "".join(f"Missing, in {rows:,} rows: {percent(share)}." for value, rows, share in cells if value is None)
    return figure(name, chart, note=absent)


def category_effect(name: str, cells: list[tuple[Any, int, float]], low: float, high: float, usual: float) -> str:
    cells = sorted(cells, key=lambda cell: -cell[2])
    names = ["(missing)" if value is None else str(value) for value, _, _ in cells]
    parts = bar_labels(names, [f"{rows:,}" for _, rows, _ in cells], names)
    width, height = WIDTH - LABEL_WIDTH - VALUE_WIDTH, BAR_STEP * len(cells) + 6

    def place(share: float) -> float:
        return LABEL_WIDTH + width * (share - low) / ((high - low) or 1)

    for tick in round_ticks(low, high, 4):
        parts.append(f'<path class="grid" d="M{place(tick):.1f} 4V{height}"/>')
        parts.append(f'<text x="{place(tick):.1f}" y="{height + 16}" class="middle">{100 * tick:.0f} %</text>')
    parts.append(f'<text x="{WIDTH}" y="{height + 16}" class="end">rows</text>')
    start = min(max(usual, low), high)
    parts.append(f'<path class="line faint dashed" d="M{place(start):.1f} 4V{height}"/>')
    for number, (_, rows, share) in enumerate(cells):
        middle = BAR_STEP * number + 12
        told = f"<title>{escape(names[number])}: {percent(share)}, {rows:,} rows</title>"
        parts.append(f'<path class="line one" d="M{place(start):.1f} {middle}H{place(share):.1f}"/>')
        parts.append(f'<circle class="dot one" cx="{place(share):.1f}" cy="{middle}" r="4">{told}</circle>')
    return figure(name, drawing(parts, height + 22, f"mean probability by {name}"))


def surprises(metrics: dict[str, Any]) -> str:
    """The tested rows whose label the model thought least likely."""
    found = metrics.get("suspect_labels")
    if found is None:
        return ""
    if not found:
        return paragraphs(["There are none: every tested label was given a probability of a tenth or more."])
    texts = ["file"] if "file" in found[0] else []
    rows = [
        [*(escape(row[name]) for name in texts), f"{row['line']:,}", f"{row['label']:d}", f"{row['probability']:.4f}"]
        for row in found[:SURPRISES]
    ]
    words = "The model, which never saw these rows, is nearly sure of the opposite of their label. The most surprising "
    words += "come first. Look them up: some labels may be wrong, the others are what the columns cannot tell."
    heads = [*texts, "line", escape(metrics["settings"]["label"]), "probability of 1"]
    return paragraphs([words]) + table(heads, rows, texts=len(texts))


def data(metrics: dict[str, Any]) -> str:
    rows, settings, known = metrics["rows"], metrics["settings"], metrics.get("table")
    source, skipped = (
        escape(setting_text(settings["csv"])),
        f", {rows['skipped']:,} left out" if rows["skipped"] else "",
    )
    sentences = [f"{source}: {rows['read']:,} rows read{skipped}."]
    if not known:
        return paragraphs(sentences)
    label, positive = escape(settings["label"]), known["positive"]
    sentences.append(f"{label} is 1 in {percent(positive)} of the rows used, 0 in {percent(1 - positive)}.")
    sentences += [f"{html.escape(line[:1].upper() + line[1:])}." for line in (*known["split"], *known["notes"])]
    order = [*(metrics.get("importance") or ())]
    listed = sorted(
        known["columns"], key=lambda part: order.index(part["name"]) if part["name"] in order else len(order)
    )
    lines = []
    for part in listed[:MOST_COLUMNS]:
        counts = [f"{part[name]:,}" if part[name] >= 0 else "" for name in ("distinct", "missing")]
        why = "; ".join(escape(words) for words in (part["reason"], part["hint"]) if words)
        kind = {"dropped": "left out"}.get(part["kind"], part["kind"])
        lines.append([escape(part["name"]), escape(kind) + (f"<small>{why}</small>" if why else ""), *counts])
    more = [f"{len(listed) - MOST_COLUMNS:,} more columns are in metrics.json."] if len(listed) > MOST_COLUMNS else []
    return (
        paragraphs(sentences) + table(["column", "read as", "distinct", "missing"], lines, texts=2) + paragraphs(more)
    )


def settings(metrics: dict[str, Any]) -> str:
    shown, reasons, timing = metrics["settings"], metrics["settings"]["reasons"], metrics["timing"]
    rows = [
        [escape(name.replace("_", " ")), escape(setting_text(value)), escape(reasons.get(name, ""))]
        for name, value in shown.items()
        if name not in ("columns", "reasons")
    ]
    packages = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items() if version)
    speed = f"Training took {timing['train_s']:,.2f} s, {timing['rows_per_s']:,.0f} rows a second."
    return table(["setting", "value", "reason"], rows, texts=3) + paragraphs([speed, f"Versions: {escape(packages)}."])


# ---------------------------------------------------------------------------------------------------------------------
# The page

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --soft: #595959; --rule: #d6d6d6; --tint: #f3f5f7;
  --one: #0072b2; --two: #c2500a; --veil: .2; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #15181b; --ink: #e8e8e8; --soft: #a9afb5; --rule: #3a4046; --tint: #20252a;
    --one: #56b4e9; --two: #f0a030; --veil: .33; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .5rem; padding-top: .7rem; border-top: 1px solid var(--rule); }
p { margin: .4rem 0; max-width: 46rem; }
.note, small, footer { color: var(--soft); font-size: .875rem; }
small { display: block; }
.verdict { margin: .8rem 0; padding: .4rem 0 .4rem .9rem; border-left: 4px solid var(--one); }
.first { font-size: 1.2rem; }
.warnings { margin: .8rem 0; padding: .5rem .9rem .5rem 2rem; border-left: 4px solid var(--two);
  background: var(--tint); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.2rem 2rem; }
.figures > * { min-width: 0; }
figure { margin: 0; break-inside: avoid; }
figcaption { font-weight: 600; }
.keys { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: .875rem; color: var(--soft); margin: 0; }
.key::before { content: ""; display: inline-block; width: 1.3rem; margin-right: .4rem; vertical-align: .25em;
  border-top: 2.5px solid var(--shade); }
.key.dashed::before { border-top-style: dashed; }
.key.area::before { border-top: .7rem solid var(--shade); opacity: var(--veil); vertical-align: -.05em; }
.key.point::before { width: .6rem; height: .6rem; border: 0; border-radius: 50%; background: var(--shade);
  vertical-align: 0; }
.one { --shade: var(--one); } .two { --shade: var(--two); } .faint { --shade: var(--soft); }
svg { display: block; width: 100%; height: auto; max-width: 30rem; overflow: visible; }
text { font-size: 12px; fill: var(--ink); unicode-bidi: isolate; } text.title { fill: var(--soft); }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: var(--rule); fill: none; } .axis { stroke: var(--soft); fill: none; }
.line { fill: none; stroke: var(--shade); stroke-width: 2; stroke-linejoin: round; }
.line.dashed { stroke-dasharray: 5 4; } .line.faint { stroke-width: 1.2; }
.band { fill: var(--shade); opacity: var(--veil); } .fill { fill: var(--shade); }
.dot { fill: var(--shade); stroke: var(--paper); stroke-width: 1.2; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .45rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule); }
th, td { white-space: nowrap; } th { white-space: normal; overflow-wrap: normal; }
td.text { white-space: normal; overflow-wrap: break-word; max-width: 14rem; }
th { font-weight: 600; font-size: .8125rem; } thead th { vertical-align: bottom; }
.text { text-align: left; unicode-bidi: isolate; }
.matrix td, .matrix th { padding: .5rem .9rem; vertical-align: middle; }
.matrix td[id] { font-size: 1.25rem; min-width: 6rem; }
.matrix .right { border: 2px solid var(--one); } .matrix .wrong { border: 2px dashed var(--two); }
input { width: min(100%, 20rem); display: block; accent-color: var(--one); }
@media (max-width: 30rem) { th, td { padding: .25rem .25rem; } table { font-size: .8125rem; }
  th, td small { font-size: .75rem; } td.text { max-width: 9rem; } }
@media print { html { font-size: 9pt; } body { max-width: none; padding: 0; } #try { display: none; }
  .wide { overflow: visible; } h2 { margin-top: 1.2rem; }
  h2 { break-after: avoid; } tr, .verdict, .warnings { break-inside: avoid; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
SCRIPT = """
const box = document.getElementById("matrix"), input = box.querySelector("input");
const [zeros, ones, counts] = JSON.parse(box.dataset.counts);
const show = (name, text) => { document.getElementById(name).textContent = text; };
document.getElementById("try").hidden = false;
input.addEventListener("input", () => {
  const [falsely, hits] = counts[input.value];
  const cells = { tn: zeros - falsely, fp: falsely, fn: ones - hits, tp: hits };
  for (const name in cells) show(name, cells[name].toLocaleString("en-US"));
  show("at", (input.value / 100).toFixed(2));
  show("why", "accuracy " + (100 * (zeros - falsely + hits) / (zeros + ones)).toFixed(1) + " %");
});
"""
LIMITS = (
    "The intervals say what chance alone can do with this many tested rows. They do not cover people or times that are "
    "not in the data."
)


def page(metrics: dict[str, Any], content: bytes) -> bytes:
    """report.html, from what metrics.json says and the bytes of predictions.csv."""
    predictions = read_predictions(content)
    if len(predictions.label) != metrics["rows"]["test"]:
        raise ValueError("predictions.csv and metrics.json are of two runs")
    label = escape(metrics["settings"]["label"])
    sections = {
        "Results": results(metrics),
        "Learning curves": learning(metrics),
        "Ranking": ranking(metrics, predictions),
        "Calibration": calibration(metrics, predictions),
        "Mistakes": mistakes(metrics, predictions),
        "Columns": columns(metrics),
        "Labels that look wrong": surprises(metrics),
        "Data": data(metrics),
        "Settings": settings(metrics),
    }
    body = "".join(f"<section>\n<h2>{title}</h2>\n{part}</section>\n" for title, part in sections.items() if part)
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"  # nothing else is run or fetched
    )
    rows = "" if metrics["settings"]["sample"] else f": {metrics['rows']['used']:,} rows"
    date = f", {escape(metrics['date'])}" if "date" in metrics else ""
    text = f"""{modern.REPORT_START} {modern.VERSION}; a later run replaces it. -->
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{label}: report</title>
<style>{STYLE}</style>
</head>
<body>
<h1>How well can {label} be predicted?</h1>
<p class="note">{escape(setting_text(metrics["settings"]["csv"]))}{rows}{date}</p>
{verdict(metrics)}{body}<footer>
<p>{LIMITS}</p>
<p>Written by train_model_modern.py {escape(metrics["versions"]["script"])} beside {modern.MODEL_FILE}.</p>
</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""
    return text.encode("utf-8", "replace")


# ---------------------------------------------------------------------------------------------------------------------
# The model card


def model_card(run: modern.Run, tested: modern.Tested, exported: str) -> bytes:
    """What a user of the model should know, and what export_model.py has to say of other formats."""
    label, date = run.options.label, tested.metrics["date"]
    data, report = "\n".join(modern.show_data(run.options, run.table, run.splits)), "\n".join(tested.report)
    settings = "\n".join(f"| {name} | {value} |" for name, value in tested.settings.items())
    text = f"""# Model card: {label}

Written by train_model_modern.py {modern.VERSION} on {date} beside `{modern.MODEL_FILE}`; a later run replaces it.

## What it is for

It tells how likely `{label}` is 1 for rows like those it learned from: the same people, the same programs, the same
harvester. It was not tested on anyone else, and it must not be used to judge a person. Programs and habits change:
test it on new rows with `python predict.py new.csv --evaluate`, and retrain it when the result gets worse.

## Data

```
{data}
```

## Results

```
{report}
```

Calibrated on validation rows (temperature {tested.temperature:.3g}).
A probability of {tested.threshold.value:.6g} or more counts as 1 ({tested.threshold.reason}).

## Limits

- The intervals show the uncertainty from the limited number of test rows. They do not cover people or times that are
  not in the data.
- All categories that were not seen in training share one input; missing cells have their own.
- The model holds the values of the text and id columns that it learned from, and hashes of its training rows, which can
  reveal whether a given row was used for training. `{modern.METRICS_FILE}` and `{modern.REPORT_FILE}` hold the most
  frequent values, and this card contains one row.

## Settings

| setting | value |
|-|-|
{settings}

{card_inputs(run, tested)}"""
    return (text + exported).encode()


def card_inputs(run: modern.Run, tested: modern.Tested) -> str:
    """How to use the model, with one of its test rows as an example."""
    row = run.folds[0].split.test[:1]
    nets = zip(run.folds, tested.weights, strict=True)
    logits = [run.predictor.logits(run.features, *net, row)[0] for net in nets]
    probability = float(np.mean(modern.sigmoid(np.array(logits) / tested.temperature)))
    types = {float: ("float64", "NaN"), int: ("int64", modern.MISSING), str: ("string", '""')}
    inputs = python = ""
    for name, cells in modern.raw_inputs(run.table, row).items():
        kind, missing = types[type(cells.item())]
        text = json.dumps(cells.item(), ensure_ascii=False)
        cell = "float('nan')" if text == "NaN" else text
        inputs += f"| `{name}` | {kind} | {missing} |\n"
        python += f"    {json.dumps(name, ensure_ascii=False)}: tf.constant([[{cell}]], tf.{kind}),\n"
    return f"""## Inputs and output

Every input is one column of the table with shape [rows, 1]. The output is `probability`, [rows, 1], 32-bit floating
point.

| input | type | a missing cell |
|-|-|-|
{inputs}
From the text of a cell, white space at both ends left out: a number is its value (in an int64, rounded to a whole
number); the int64 of an id is its integer (5.0 is 5), and {modern.UNSEEN} for any other text; a string is the
text, letter for letter (TRUE is not True, 1.10 is not 1.1).

From Python, without this project's code; these values give {probability:.4f}:

```python
import keras, tensorflow as tf

model = keras.models.load_model("{modern.MODEL_FILE}")
probability = model({{
{python}}})
```

`model.predict` gives the same, but for numbers that take more than 32 bits, which it rounds first.

"""


# ---------------------------------------------------------------------------------------------------------------------
# Runs compared


def compare_runs(folders: list[str]) -> list[str]:
    """The results of whole runs, by log-loss, from the metrics.json of each; one that cannot be read is told."""
    found, title = [], ["data", "directory", "date", "rows", "tested", "network", "folds"]
    title += ["log-loss", "95 %", "ROC AUC", "accuracy"]
    paths = [Path(folder, modern.METRICS_FILE) for folder in folders]
    for path in paths or sorted(Path().glob(f"*/{modern.METRICS_FILE}")):
        try:
            metrics = json.loads(path.read_bytes())
            rows, test, settings = (metrics[name] for name in ("rows", "test", "settings"))
            date = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
            counts = [f"{rows['used']:,}", f"{sum(map(sum, test['confusion'])):,}"]
            scores = [
                f"{test['log_loss']:.3f}",
                interval(test["log_loss_ci95"], 1, 3),
                f"{test['roc_auc'] or math.nan:.3f}",
            ]
            cells = [str(path.parent), date, *counts, *map(str, (settings["architecture"], settings["folds"])), *scores]
            part = [settings.get(name) for name in ("split", "split_seed")] if counts[0] != counts[1] else []
            data = (*counts, *map(str, (metrics.get("rows_digest", path), *part)))
            found.append((test["log_loss"], data, [*cells, percent(test["accuracy"])]))
        except (FileNotFoundError, NotADirectoryError):
            modern.print_error(f"note: {path.parent} contains no completed run")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            modern.print_error(f"note: {path} is damaged and left out")
    modern.refuse(
        "--compare", (not found, "no completed run was found; name the directories that runs were written to")
    )
    found.sort(key=lambda run: run[0])
    data = list(dict.fromkeys(run[1] for run in found))
    table = [title, *([str(data.index(rows) + 1), *cells] for _, rows, cells in found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]
    note = "Compare only runs with the same number in the data column: they were tested on the same rows."
    return lines + [note] * (len(data) > 1)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = modern.Parser(prog="report.py", description="Write a one-page HTML report of a run.", allow_abbrev=False)
    text = "the model directory, into which report.html is written (default: model)"
    parser.add_argument("folder", nargs="?", type=Path, default=Path("model"), metavar="DIR", help=text)
    parser.add_argument("--version", action="version", version=modern.VERSION)
    return parser.parse_args(arguments)


def read_metrics(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the model directory of a run that is over")
    try:
        metrics = json.loads(path.read_bytes(), parse_constant=int)  # which refuses NaN and infinity
        if not isinstance(metrics, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is damaged; train again") from None
    return metrics


def report_command(options: argparse.Namespace) -> int:
    folder, output = options.folder, modern.Output(quiet=False)
    place, path = folder / modern.REPORT_FILE, folder / modern.PREDICTIONS_FILE
    read_metrics(folder / modern.METRICS_FILE)  # refused before anything is written
    with modern.lock_folder(folder), modern.stop_on_signals(at_once=True):
        metrics = read_metrics(folder / modern.METRICS_FILE)  # after what the lock has put into place
        if not path.is_file():
            raise UserError(f"{path}: no such file; name the model directory of a run that is over")
        if os.path.lexists(place) and not modern.is_ours(place):
            raise UserError(f"{place}: was not written by this program; {modern.MOVE_AWAY}")
        try:
            content = page(metrics, path.read_bytes())
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"{folder}: metrics.json or predictions.csv is damaged ({what}); train again") from None
        modern.write_atomically(place, content)
    output.print(f"Report     {place}")
    return modern.output_failed(output)


def main(arguments: list[str] | None = None) -> int:
    return modern.report_errors(lambda: report_command(parse_options(arguments)))


if __name__ == "__main__":
    modern.run_command(main)
