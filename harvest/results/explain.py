"""Findings of the test beyond its scores: the verdict, important columns, labels worth a second look."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from harvest.data.cells import MISSING
from harvest.data.columns import Column
from harvest.data.encoding import SCALE_ROWS, Encoding, Features, FoldEncoding, Scaler, encode, raw_inputs, row_pieces
from harvest.data.repeats import share_by_chance
from harvest.data.splits import Split
from harvest.data.table import Table
from harvest.data.times import RISING, TIMESTAMP
from harvest.results.evaluation import Evaluation
from harvest.results.metrics import choose_threshold, confusion_matrix, log_losses, sigmoid, threshold_rule
from harvest.results.verdict import FEW_COMBINATIONS, compare, comparison_lines, gains, judge, next_steps, rank
from harvest.text import percent, wrap

IMPORTANCE_ROWS = 5_000
IMPORTANCE_CELLS = 1 << 29  # shuffled in total, so a table with a thousand columns uses fewer rows
IMPORTANCE_BATCH = 1 << 22  # cells shuffled at a time
MOST_SUSPECTS = 20  # rows
SUSPECT_COLUMNS = 6  # the most important ones; the report lists their cells for these rows
LEAKING = "A column may be derived from the label, which would make these scores too high: see the next steps."
TIMED = "Rows close in time are similar and were split at random, so these scores may be too high."
EFFECT_COLUMNS = 6  # the most important ones
EFFECT_VALUES = 12  # of a column
EFFECT_ROWS = 300
EFFECT_CELLS = 1 << 24  # changed at a time


class FoldNetworks(NamedTuple):
    """Everything needed to run the network of each fold on changed test rows."""

    features: Features
    splits: Sequence[Split]
    encoding: Encoding
    fold_encodings: Sequence[FoldEncoding]
    predict_logits: Callable[[int, np.ndarray], np.ndarray]  # of fold (from 0), encoded rows [B, E]: float32 [B]
    temperatures: Sequence[float]  # the divisors of the logits of each fold


def explain(
    args: argparse.Namespace,
    evaluation: Evaluation,
    table: Table,
    networks: FoldNetworks,
    network_share: float,
    repeated: Sequence[str],
    leaks: Sequence[str],
) -> tuple[dict[str, Any], list[str]]:
    """The entries for metrics.json and the lines to print; repeated and leaks are warnings about rows and columns."""
    by_time = args.split == "time"
    y_true, y_prob, threshold = evaluation.y_true, evaluation.y_prob, evaluation.threshold.value
    model = (y_prob, evaluation.tested_at)
    comparison = {name: compare(y_true, model, (part.y_prob, 0.5)) for name, part in evaluation.baselines.items()}
    timed = not by_time and any(column.reason in (TIMESTAMP, RISING) for column in table.columns)
    caveats = [FEW_COMBINATIONS] * (not by_time and share_by_chance(table.repeats) > 0.5)
    caveats += [LEAKING] * bool(leaks) + [TIMED] * timed + [f"{text[:1].upper()}{text[1:]}." for text in repeated]
    found = {name: gains(**parts, threshold=threshold) for name, parts in comparison.items()}
    verdict = judge(found, evaluation.metrics, args.label, threshold, caveats)
    if len(networks.splits) > 1:
        ensemble = f"the ensemble of all {len(networks.splits)}, which was more accurate in our benchmarks"
        verdict.append(f"These results are for single networks; the saved model is {ensemble}.")
    if network_share < 1:
        rest = f"{100 - 100 * network_share:.0f}% logistic regression"
        verdict.append(f"The model's logit is a weighted mean: {100 * network_share:.0f}% network, {rest}.")
    importance = permutation_importance(table, networks, args.seed)
    tested = np.concatenate([split.test for split in networks.splits])
    suspects = suspect_labels(table, tested, y_true, y_prob, networks.encoding.scaler, [*importance][:SUSPECT_COLUMNS])
    steps = next_steps(args, found, evaluation.metrics, leaks, timed, suspects)
    facts = {
        "comparison": comparison,
        "verdict": verdict,
        "next_steps": steps,
        "importance": importance,
        "suspect_labels": suspects,
        "effects": partial_dependence(table, networks, [*importance][:EFFECT_COLUMNS]),
    }
    printed = ["", *(line for sentence in verdict for line in wrap(sentence)), "", *comparison_lines(comparison)]
    printed += ["", "Next steps", *(line for step in steps for line in wrap(step, "  - ", "    "))]
    printed += threshold_lines(*evaluation.validation) + importance_lines(importance)
    return facts, printed + (suspect_lines(suspects, bool(args.sample)) if rank(found["majority"]) > 0 else [])


def threshold_lines(y_true: np.ndarray, y_prob: np.ndarray) -> list[str]:
    """If one class is rare: precision and recall of other thresholds on the validation rows."""
    if min(y_true.mean(), 1 - y_true.mean()) >= 0.2:
        return []
    lines = ["", "One class is rare; on the validation rows, these thresholds would give"]
    for text in ("0.5", "f1", "balanced"):
        threshold = choose_threshold(threshold_rule(text), y_true, y_prob).value
        (_, fp), (fn, tp) = confusion_matrix(y_true, y_prob >= threshold)
        precision, recall = percent(tp / max(1, tp + fp)), percent(tp / max(1, tp + fn))
        lines.append(f"  --threshold {text:<9} {threshold:.3f}: precision {precision}, recall {recall}")
    return lines


def feature_columns(table: Table) -> list[Column]:
    """The columns in the order in which an encoding numbers them: numbers, then categories."""
    return table.of_kind("number") + table.of_kind("category")


def permutation_importance(table: Table, networks: FoldNetworks, seed: int) -> dict[str, float]:
    """The rise in log-loss when the cells of a column are shuffled among the test rows (Breiman, 2001)."""
    generator, (features, splits, encoding, *_) = np.random.default_rng([seed, 4]), networks
    columns = feature_columns(table)
    names, inputs = [column.name for column in columns], encoding.inputs_of_columns()
    rises, total = np.zeros(len(names)), 0
    most = min(IMPORTANCE_ROWS, max(50, IMPORTANCE_CELLS // (encoding.width * len(names))))

    def losses(fold: int, encoded: np.ndarray) -> np.ndarray:
        logits = np.reshape(networks.predict_logits(fold, encoded), (-1, len(rows)))
        return log_losses(features.labels[rows], sigmoid(logits / networks.temperatures[fold]))

    for fold, (split, fold_encoding) in enumerate(zip(splits, networks.fold_encodings, strict=True)):
        rows = split.test[:: max(1, len(split.test) * len(splits) // most)]
        encoded = np.asarray(encode(*features.take(rows), encoding, fold_encoding))
        before = losses(fold, encoded)
        for piece in row_pieces(np.arange(len(names)), max(1, IMPORTANCE_BATCH // encoded.size)):
            shuffled = np.tile(encoded, (len(piece), 1, 1))
            for copy, column in zip(shuffled, piece, strict=True):
                copy[:, inputs[column]] = encoded[np.ix_(generator.permutation(len(rows)), inputs[column])]
            rises[piece] += (losses(fold, shuffled.reshape(-1, encoded.shape[1])) - before).sum(axis=1)
        total += len(rows)
    return {names[number]: float(rises[number] / total) for number in np.argsort(-rises)}


def importance_lines(importance: dict[str, float]) -> list[str]:
    """Bars for the most important columns."""
    most = max(importance.values(), default=0)
    if most <= 0:
        return []
    shown = [(name, value) for name, value in importance.items() if value > 0.01 * most][:10]
    width = max(len(name) for name, _ in shown)
    bars = [f"  {name:<{width}}  {value:6.3f}  {'#' * max(1, round(30 * value / most))}" for name, value in shown]
    return ["", "Permutation importance (rise in test log-loss when the column is shuffled)", *bars]


def suspect_labels(
    table: Table, rows: np.ndarray, y_true: np.ndarray, y_prob: np.ndarray, scaler: Scaler, shown: Sequence[str]
) -> list[dict[str, Any]]:
    """The test rows [N] whose label has a probability below 0.1, lowest first, with their cells in some columns."""
    label_prob = np.where(y_true > 0.5, y_prob, 1 - y_prob)
    order = np.lexsort([table.line_numbers[rows], table.files[rows], label_prob])[:MOST_SUSPECTS]
    order = order[label_prob[order] < 0.1]
    inputs, suspects = raw_inputs(table, scaler, rows[order]), []
    columns = {name: known_cells(inputs[name]) for name in shown}
    for place, number in enumerate(order):
        suspect = {"file": table.names[table.files[rows[number]]]} if len(table.names) > 1 else {}
        suspect |= {"line": int(table.line_numbers[rows[number]]), "label": int(y_true[number])}
        suspect |= {"probability": float(y_prob[number])}
        suspects.append(suspect | {"cells": {name: cells[place] for name, cells in columns.items()}})
    return suspects


def known_cells(inputs: np.ndarray) -> list[Any]:
    """The cells of a column [N, 1] of raw inputs, None where they are missing."""
    return [None if cell in ("", MISSING) or cell != cell else cell for cell in inputs[:, 0].tolist()]


def suspect_lines(suspects: list[dict[str, Any]], generated: bool = False) -> list[str]:
    """The first suspects. Generated rows are not from a file, so their numbers do not count a header."""
    if not suspects:
        return []
    lines = ["", "Labels worth a second look (the model gives them a probability below 10%)"]
    places = [f"{row['file']}, line {row['line']}" if "file" in row else f"line {row['line']}" for row in suspects[:5]]
    if generated:
        places = [f"generated row {row['line'] - 1}" for row in suspects[:5]]
    width = max(map(len, places))
    for place, row in zip(places, suspects, strict=False):
        lines.append(f"  {place:<{width}}  labeled {row['label']}, probability of 1: {row['probability']:.3f}")
    return lines


def typical_rows(table: Table, column: Column, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One row for each typical cell of a column, and how many rows each represents.

    The typical cells of a category are its most frequent values; those of a number are quantiles, each of which
    represents the rows near it. A missing cell is last.
    """
    is_number = column.kind == "number"
    cells = (table.numbers if is_number else table.codes)(column.name)[rows]
    missing = np.isnan(cells) if is_number else (cells == 0) & (column.vocabulary[0] in ("", MISSING))
    values, counts = np.unique(cells[~missing], return_counts=True)
    if not is_number:
        most = np.argsort(-counts, kind="stable")[:EFFECT_VALUES]
        values, counts = values[most], counts[most]
    elif len(values) > EFFECT_VALUES:
        shares = np.linspace(0.025, 0.975, EFFECT_VALUES)
        values = np.unique(np.quantile(cells[~missing], shares, method="inverted_cdf"))
        nearest = np.searchsorted((values[1:] + values[:-1]) / 2, cells[~missing])
        counts = np.bincount(nearest, minlength=len(values))
    found = [np.argmax(cells == value) for value in values]
    if missing.any():
        found, counts = [*found, np.argmax(missing)], np.append(counts, missing.sum())
    return rows[found], counts


def partial_dependence(table: Table, networks: FoldNetworks, shown: list[str]) -> list[dict[str, Any]]:
    """Partial dependence: the mean probability of test rows by the values of the columns shown (Friedman, 2001).

    For each typical row, all rows get its cell in the column. "mean" is the mean probability of the unchanged rows.
    """
    features, splits, encoding, *_ = networks
    columns, numbers = feature_columns(table), len(table.of_kind("number"))
    chosen = [[column.name for column in columns].index(name) for name in shown]
    trained = np.concatenate([split.train for split in splits])
    trained = np.unique(trained[:: max(1, len(trained) // SCALE_ROWS)])
    typical = [typical_rows(table, columns[number], trained) for number in chosen]
    lengths = [*(len(rows) for rows, _ in typical), 1]
    donors = np.concatenate([*(rows for rows, _ in typical), trained[:1]])  # the last is for the unchanged rows
    most = max(1, min(EFFECT_ROWS, EFFECT_CELLS // (encoding.width * len(donors))))
    sums, total = np.zeros(len(donors)), 0
    for fold, (split, fold_encoding) in enumerate(zip(splits, networks.fold_encodings, strict=True)):
        rows = split.test[:: math.ceil(len(split.test) * len(splits) / most)]
        changed = np.repeat(np.repeat([*chosen, -1], lengths), len(rows))[:, None]  # the column that differs in a row
        own, given = features.take(np.tile(rows, len(donors))), features.take(np.repeat(donors, len(rows)))
        scaled = np.where(changed == np.arange(numbers), given[0], own[0])
        categories = np.where(changed == np.arange(numbers, len(columns)), given[1], own[1])
        logits = networks.predict_logits(fold, np.asarray(encode(scaled, categories, encoding, fold_encoding)))
        y_prob = sigmoid(np.asarray(logits, float) / networks.temperatures[fold])
        sums += y_prob.reshape(len(donors), -1).sum(axis=1)
        total += len(rows)
    *means, (usual,) = np.split(sums / total, np.cumsum(lengths)[:-1])
    effects = []
    for name, number, (rows, counts), y_prob in zip(shown, chosen, typical, means, strict=True):
        values = known_cells(raw_inputs(table, encoding.scaler, rows)[name])
        effect = {"column": name, "kind": columns[number].kind, "values": values}
        effects.append(effect | {"rows": counts.tolist(), "probability": y_prob.tolist(), "mean": float(usual)})
    return effects
