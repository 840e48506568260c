"""What the test shows beyond its scores: comparison with baselines, what matters to the model, what looks wrong."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from harvest.data.cells import MISSING
from harvest.data.columns import Column
from harvest.data.encoding import SCALE_ROWS, Encoding, Features, FoldEncoding, encode, raw_inputs, row_pieces
from harvest.data.splits import Split
from harvest.data.table import Table
from harvest.results.evaluation import Evaluation
from harvest.results.metrics import (
    FEWEST_OF_CLASS,
    Z_95,
    choose_threshold,
    confusion_matrix,
    log_losses,
    paired_difference,
    sigmoid,
    threshold_rule,
)
from harvest.text import percent, wrap

BASELINES = {"majority": "always predicting the majority class", "logistic_regression": "a logistic regression"}
IMPORTANCE_ROWS = 5_000
IMPORTANCE_CELLS = 1 << 29  # shuffled in all; of a table with a thousand columns, fewer rows are looked at
IMPORTANCE_BATCH = 1 << 22  # cells shuffled at a time
MOST_SUSPECTS = 20  # rows with labels that look wrong
EFFECT_COLUMNS = 6  # the most important ones
EFFECT_VALUES = 12  # of a column
EFFECT_ROWS = 300
EFFECT_CELLS = 1 << 24  # changed at a time


class FoldNetworks(NamedTuple):
    """What it takes to run each fold's network on changed test rows."""

    features: Features
    splits: Sequence[Split]
    encoding: Encoding
    fold_encodings: Sequence[FoldEncoding]
    predict_logits: Callable[[int, np.ndarray], np.ndarray]  # of a fold, from 0, for encoded rows [B, E]: float32 [B]
    temperatures: Sequence[float]  # by which the logits of each fold are divided


def explain(
    evaluation: Evaluation,
    table: Table,
    networks: FoldNetworks,
    *,
    seed: int,
    network_share: float = 1.0,
    generated: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """The facts for metrics.json, by its names, and the lines to print; generated: the rows are in no file."""
    y_true, y_prob, model = evaluation.y_true, evaluation.y_prob, (evaluation.y_prob, evaluation.tested_at)
    baselines = {name: (baseline.y_prob, 0.5) for name, baseline in evaluation.baselines.items()}
    comparison = {name: compare(y_true, model, given) for name, given in baselines.items()}
    verdict = judge(comparison, evaluation.metrics, len(networks.splits), network_share, evaluation.threshold.value)
    importance = permutation_importance(table, networks, seed)
    suspects = suspect_labels(table, np.concatenate([split.test for split in networks.splits]), y_true, y_prob)
    facts = {
        "comparison": comparison,
        "verdict": verdict,
        "importance": importance,
        "suspect_labels": suspects,
        "effects": partial_dependence(table, networks, [*importance][:EFFECT_COLUMNS]),
    }
    lines = ["", *(line for sentence in verdict for line in wrap(sentence))]
    lines += threshold_lines(*evaluation.validation) + importance_lines(importance)
    lines += suspect_lines(suspects, generated)
    return facts, lines


def compare(
    y_true: np.ndarray, model: tuple[np.ndarray, float | np.ndarray], baseline: tuple[np.ndarray, float | np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Log-loss and accuracy of the model less those of a baseline on the same rows, row by row, with 95 % intervals.

    Both are given as probabilities [N] and the threshold, or thresholds [N], from which they count as 1. With few rows
    of a class the difference in log-loss has no interval: None.
    """
    rows, ones = len(y_true), np.count_nonzero(y_true)
    losses = log_losses(y_true, model[0]) - log_losses(y_true, baseline[0])
    mean, half = float(losses.mean()), float(Z_95 * losses.std() / math.sqrt(rows))
    correct = [(y_prob >= threshold) == (y_true > 0.5) for y_prob, threshold in (model, baseline)]
    gained, lost = int(np.sum(correct[0] & ~correct[1])), int(np.sum(correct[1] & ~correct[0]))
    ci95, p_value = paired_difference(gained, lost, rows)
    few = min(ones, rows - ones) < FEWEST_OF_CLASS
    return {
        "log_loss": {"difference": mean, "ci95": None if few else [mean - half, mean + half]},
        "accuracy": {"difference": (gained - lost) / rows, "ci95": ci95, "p_value": p_value},
    }


def judge(
    comparison: dict[str, Any], test: dict[str, Any], folds: int, network_share: float = 1.0, threshold: float = 0.5
) -> list[str]:
    """The verdict, in sentences: what the test shows, and how far it can be trusted."""
    judged = [judge_baseline(BASELINES[name], **differences) for name, differences in comparison.items()]
    sentences = [*judged]
    width, rows = 100 * np.diff(test["accuracy_ci95"]).item(), np.sum(test["confusion"])
    if width > 15:
        wide = f"The interval of the accuracy is {width:.0f} points wide, as only {rows:,} rows could be tested"
        sentences.insert(0, f"{wide}: treat this result as indicative only.")
    if threshold != 0.5:
        unlike = f"The model has a threshold of {threshold:.3g}, the baselines have 0.5"
        sentences.append(f"{unlike}: compare them by ROC AUC and log-loss, not by accuracy.")
    elif not judged[0].startswith("Better"):
        sentences.append("More labelled rows would help most.")
    if folds > 1:
        mean = f"the saved model is the mean of all {folds}, which is usually more accurate"
        sentences.append(f"These results are for single nets; {mean}.")
    if network_share < 1:
        rest = f"{100 - 100 * network_share:.0f} % that of a logistic regression"
        sentences.append(f"The model's logit is {100 * network_share:.0f} % that of the net and {rest}.")
    return sentences


def judge_baseline(name: str, log_loss: dict[str, Any], accuracy: dict[str, Any]) -> str:
    """Whether the model is better than a baseline, and in which metric: what may well be chance is no difference."""
    (low, high), p_value, found = log_loss["ci95"] or (-math.inf, math.inf), accuracy["p_value"], []
    gains = {"log-loss": (high < 0) - (low > 0), "accuracy": accuracy["difference"] if p_value < 0.05 else 0}
    for comparative, sign in (("better", 1), ("worse", -1)):
        if metrics := [metric for metric, gain in gains.items() if sign * gain > 0]:
            found.append(f"{comparative} than {name} in {' and '.join(metrics)}")
    result = ", ".join(found).capitalize() or f"No significant improvement over {name}"
    ends = f"95 % interval {low:+.3f} to {high:+.3f}" if log_loss["ci95"] else "no interval: one class has too few rows"
    loss = f"{log_loss['difference']:+.3f} ({ends})"
    lowest, highest = (100 * end for end in accuracy["ci95"])
    chance = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    points = f"{100 * accuracy['difference']:+.1f} points ({lowest:+.1f} to {highest:+.1f}, McNemar {chance})"
    return f"{result}. Difference in log-loss {loss}, in accuracy {points}."


def threshold_lines(y_true: np.ndarray, y_prob: np.ndarray) -> list[str]:
    """When one class is rare: what thresholds would give, on validation rows."""
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
    """How much the log-loss of test rows rises when a column's cells are shuffled among them (Breiman, 2001)."""
    generator, (features, splits, encoding, *_) = np.random.default_rng([seed, 4]), networks
    names, inputs = [column.name for column in feature_columns(table)], encoding.inputs_of_columns()
    rises, total = np.zeros(len(names)), 0
    most = min(IMPORTANCE_ROWS, max(50, IMPORTANCE_CELLS // (encoding.width * len(names))))

    def losses(fold: int, encoded: np.ndarray) -> np.ndarray:
        logits = np.reshape(networks.predict_logits(fold, encoded), (-1, len(rows)))
        return log_losses(features.labels[rows], sigmoid(logits / networks.temperatures[fold]))

    for fold, (split, fold_encoding) in enumerate(zip(splits, networks.fold_encodings, strict=True)):
        rows = split.test[:: max(1, len(split.test) * len(splits) // most)]
        encoded = np.asarray(encode(*features.take(rows), encoding, fold_encoding))
        before = losses(fold, encoded)
        for columns in row_pieces(np.arange(len(names)), max(1, IMPORTANCE_BATCH // encoded.size)):
            shuffled = np.tile(encoded, (len(columns), 1, 1))
            for copy, column in zip(shuffled, columns, strict=True):
                copy[:, inputs[column]] = encoded[np.ix_(generator.permutation(len(rows)), inputs[column])]
            rises[columns] += (losses(fold, shuffled.reshape(-1, encoded.shape[1])) - before).sum(axis=1)
        total += len(rows)
    return {names[number]: float(rises[number] / total) for number in np.argsort(-rises)}


def importance_lines(importance: dict[str, float]) -> list[str]:
    """Bars for the columns that matter most."""
    most = max(importance.values(), default=0)
    if most <= 0:
        return []
    shown = [(name, value) for name, value in importance.items() if value > 0.01 * most][:10]
    width = max(len(name) for name, _ in shown)
    bars = [f"  {name:<{width}}  {value:6.3f}  {'#' * max(1, round(30 * value / most))}" for name, value in shown]
    return ["", "Permutation importance (rise in test log-loss when the column is shuffled)", *bars]


def suspect_labels(table: Table, rows: np.ndarray, y_true: np.ndarray, y_prob: np.ndarray) -> list[dict[str, Any]]:
    """The tested rows [N] whose label surprises the model most, when it gave that label less than a tenth."""
    label_prob = np.where(y_true > 0.5, y_prob, 1 - y_prob)
    order = np.lexsort([table.line_numbers[rows], table.files[rows], label_prob])[:MOST_SUSPECTS]
    suspects = []
    for number in order[label_prob[order] < 0.1]:
        suspect = {"file": table.names[table.files[rows[number]]]} if len(table.names) > 1 else {}
        suspect |= {"line": int(table.line_numbers[rows[number]]), "label": int(y_true[number])}
        suspects.append(suspect | {"probability": float(y_prob[number])})
    return suspects


def suspect_lines(suspects: list[dict[str, Any]], generated: bool = False) -> list[str]:
    """The first suspects; generated rows are in no file, so they are counted without its header."""
    if not suspects:
        return []
    lines = ["", "Labels worth a second look (in the test, the model was nearly sure of the opposite)"]
    places = [f"{row['file']}, line {row['line']}" if "file" in row else f"line {row['line']}" for row in suspects[:5]]
    if generated:
        places = [f"generated row {row['line'] - 1}" for row in suspects[:5]]
    width = max(map(len, places))
    for place, row in zip(places, suspects, strict=False):
        lines.append(f"  {place:<{width}}  labelled {row['label']}, probability of 1: {row['probability']:.3f}")
    return lines


def typical_rows(table: Table, column: Column, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows with the usual cells of a column, one row for each cell, and how many rows have it.

    Those of a category are its most frequent values, those of a number quantiles, which stand for the rows near them; a
    missing cell comes last.
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
    """How the mean probability of test rows moves with the columns that are shown (Friedman, 2001).

    All rows are given the cell that a typical row has in the column, one typical row after another. "mean" is the mean
    probability of the same rows as they are.
    """
    features, splits, encoding, *_ = networks
    columns, numbers = feature_columns(table), len(table.of_kind("number"))
    chosen = [[column.name for column in columns].index(name) for name in shown]
    trained = np.concatenate([split.train for split in splits])
    trained = np.unique(trained[:: max(1, len(trained) // SCALE_ROWS)])
    typical = [typical_rows(table, columns[number], trained) for number in chosen]
    lengths = [*(len(rows) for rows, _ in typical), 1]
    donors = np.concatenate([*(rows for rows, _ in typical), trained[:1]])  # the last gives no cell
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
        cells = raw_inputs(table, encoding.scaler, rows)[name][:, 0].tolist()
        values = [None if cell in ("", MISSING) or cell != cell else cell for cell in cells]
        effect = {"column": name, "kind": columns[number].kind, "values": values}
        effects.append(effect | {"rows": counts.tolist(), "probability": y_prob.tolist(), "mean": float(usual)})
    return effects
