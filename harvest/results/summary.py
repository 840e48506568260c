"""The results of a run: metrics.json, predictions.csv, and the lines for the terminal and the model card."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harvest.data.encoding import row_pieces
from harvest.data.splits import Split
from harvest.data.table import Table, short_names
from harvest.decision import Decision
from harvest.results.evaluation import Evaluation
from harvest.results.metrics import CALIBRATION_BINS, calibration_bins, missing_intervals
from harvest.run_directory import CARD_FILE, EXPORT_FILES, METRICS_FILE, MODEL_FILE, PREDICTIONS_FILE, REPORT_FILE
from harvest.text import count_range, interval, percent, rows_of, wrap

if TYPE_CHECKING:
    from harvest.training.folds import Fold

NO_SETTINGS = {"describe", "compare", "sync_every", "trust_network", "given"}
FINDINGS = ("comparison", "verdict", "next_steps", "importance", "suspect_labels", "effects")  # of explain()
COLUMN_FACTS = ("name", "kind", "reason", "distinct", "missing", "hint")


def training_lines(folds: Sequence[Fold], most_epochs: int, best: bool) -> list[str]:
    """The number of epochs of each network, the epoch that it keeps (the best, or the last), how good the first is."""
    epochs, reason = [len(fold.history) for fold in folds], folds[0].reason
    networks, whose, start = "", "the", "Training starts from a logistic regression: epoch 1 is about as good as that."
    if len(epochs) > 1:
        at_limit = sum(count >= most_epochs for count in epochs)
        networks, whose, start = f"{len(epochs)} networks for ", "each network's", start.replace("Training", "Each")
        reason = f"{at_limit} reached the maximum of {most_epochs:,}" if at_limit else ""
    kept = f"best epoch ({count_range([fold.best_epoch for fold in folds])})" if best else "last epoch"
    return [
        f"Trained    {networks}{count_range(epochs)} epochs{f' ({reason})' if reason else ''}; {whose} {kept} is kept",
        f"           {start}",
        *["           In the lines above, a network that has stopped counts with its last epoch."] * (len(epochs) > 1),
    ]


def result_lines(label: str, evaluation: Evaluation, folds: int) -> list[str]:
    """The results as a table, at most 80 characters wide."""
    test, threshold = evaluation.metrics, evaluation.threshold
    tests = [test, *(evaluation.baselines[name].metrics for name in ("logistic_regression", "majority"))]
    (tn, fp), (fn, tp) = test["confusion"]
    how = ", each by a network that was not trained on it" if folds > 1 else " not used in training"
    lines = wrap(f"Test on {tn + fp + fn + tp:,} rows{how} (95% intervals)")
    lines.append(f"{'this model':>34}{'logistic regression':>23}{'majority class':>23}")
    titles = {"roc_auc": "ROC AUC", "log_loss": "log-loss"}  # scores that are not percentages
    for name in ("accuracy", "roc_auc", "log_loss", "precision", "recall"):
        scale, digits, unit = (1, 3, "") if name in titles else (100, 1, "%")
        line = f"  {titles.get(name, name):<9}"
        for result in tests[: 2 if name in ("precision", "recall") else 3]:  # meaningless for the majority class
            value, ends = result[name], result[f"{name}_ci95"]
            if name == "precision" and not result["confusion"][0][1] + result["confusion"][1][1]:
                value = ends = None  # no row was predicted 1
            score = "n/a" if value is None else f"{scale * value:.{digits}f}{unit}"
            line += f"{score} {interval(ends, scale, digits) if ends else '':>14}".rjust(23)
        lines.append(line.rstrip())
    lines += wrap(missing_intervals(label, test), "  ", "  ")
    misses = f"{fn:,} misses among {tp + fn:,} {rows_of(label, 1)}"
    lines += wrap(f"{misses}, {fp:,} false alarms among {tn + fp:,} {rows_of(label, 0)}.", "  ", "  ")
    scores = f"F1 {test['f1']:.3f}, calibration error {test['ece']:.3f}"
    return lines + wrap(f"{scores}, at threshold {threshold.value:.3g} ({threshold.reason}).", "  ", "  ")


def calibration_lines(y_true: np.ndarray, y_prob: np.ndarray, confusion: list[list[int]]) -> list[str]:
    """The calibration curve and the confusion matrix of the test rows as tables."""
    lines, bins = ["probability        rows   share of 1", ""], calibration_bins(y_prob)
    for number in range(CALIBRATION_BINS):
        labels = y_true[bins == number]
        share = float(labels.mean()) if len(labels) else 0
        observed = f"{percent(share):>7}  {'#' * round(20 * share)}" if len(labels) else ""
        lines.append(f"{10 * number:>3} to {10 * number + 10:>3}%     {len(labels):>8,}  {observed}")
    lines += ["", f"{'':<12}{'predicted 0':>14}{'predicted 1':>14}"]
    return lines + [f"label {row}     {cells[0]:>14,}{cells[1]:>14,}" for row, cells in enumerate(confusion)]


def file_lines(
    folder: Path,
    timing: dict[str, float],
    edited: Sequence[str],
    stale: Sequence[str],
    logs: bool,
    checkpoints: Sequence[str],
) -> list[str]:
    """The files that the run has written, and how long it took.

    edited: those that were not written. stale: deleted exports of an earlier run. checkpoints: the file names of this
    run's checkpoints, the best last.
    """
    lines, files = [""], {"Model": MODEL_FILE, "Metrics": METRICS_FILE, "Test rows": PREDICTIONS_FILE}
    for title, file in {**files, "Card": CARD_FILE, "Report": REPORT_FILE}.items():
        why = " was not overwritten because you created or edited it" if file in edited else ""
        lines.append(f"{title:<11}{folder / file}{why}")
    for name, file in EXPORT_FILES.items():
        if file in stale:
            gone = f"deleted because it was from an earlier run; --export {name} writes a new one"
            lines.append(f"Export     {folder / file} {gone}")
    if checkpoints:
        count = f"the best of this run's {len(checkpoints)}" if len(checkpoints) > 1 else "the only one of this run"
        lines.append(f"Checkpoint {folder / 'checkpoints' / checkpoints[-1]}, {count}")
    if logs:
        lines.append(f"Logs       tensorboard --logdir {shlex.quote(str(folder / 'logs'))}")
    steps = f"{timing['import_s']:.1f} s to load TensorFlow, {timing['compile_s']:.1f} s to build and compile"
    steps += f", {timing['train_s']:.2f} s to train ({timing['rows_per_s']:,.0f} rows/s)"
    return [*lines, *wrap(f"{timing['total_s']:.1f} s in total, including {steps}", "Time       ", " " * 11)]


def prediction_rows(table: Table, splits: Sequence[Split], evaluation: Evaluation) -> bytes:
    """predictions.csv: each test row by its line, with the probability of a network that was not trained on it."""
    rows = np.concatenate([split.test for split in splits])
    folds = np.repeat(np.arange(1, len(splits) + 1), [len(split.test) for split in splits])
    order = np.lexsort([table.line_numbers[rows], table.files[rows]])
    several = len(table.names) > 1  # the name of a single file is omitted
    files = ['"' + name.replace('"', '""') + '",' if several else "" for name in table.names]
    columns = (table.files[rows], table.line_numbers[rows], folds, evaluation.y_true, evaluation.y_prob)
    written = [b"file,line,fold,label,probability\n" if several else b"line,fold,label,probability\n"]
    for batch in row_pieces(order):
        cells = zip(*(column[batch].tolist() for column in columns), strict=True)
        lines = (f"{files[file]}{line},{fold},{label:.0f},{y_prob:.9g}\n" for file, line, fold, label, y_prob in cells)
        written.append("".join(lines).encode())
    return b"".join(written)


def resolved_settings(
    args: argparse.Namespace, table: Table, config: Mapping[str, Any], reasons: Mapping[str, str], **more: Decision
) -> dict[str, Any]:
    """Every setting as it was used, and the reasons for those chosen automatically.

    config holds a value for each of the reasons; more are settings that were chosen after training started.
    """
    settings = {name: value for name, value in vars(args).items() if name not in NO_SETTINGS}
    settings |= {"csv": short_names(args.csv), "model_dir": args.model_dir.name}
    settings |= {name: config[name] for name in reasons} | {name: decision.value for name, decision in more.items()}
    settings["columns"] = {column.name: column.kind for column in table.columns}
    return settings | {"reasons": {**reasons, **{name: decision.reason for name, decision in more.items()}}}


def describe_table(table: Table, split_lines: list[str]) -> dict[str, Any]:
    """The notes on the data, the split, and a description of each column, in which -1 means "not counted"."""
    columns = [{name: getattr(column, name) for name in COLUMN_FACTS} for column in table.columns]
    columns = [{name: -1 if value is None else value for name, value in column.items()} for column in columns]
    split = [line[10:].strip() for line in split_lines]
    return {"positive": float(table.label.mean()), "notes": table.notes, "split": split, "columns": columns}
