"""Whole runs compared by their metrics.json."""

import json
import math
import time
from pathlib import Path

from harvest.cli import UserError, print_error
from harvest.run_directory import METRICS_FILE
from harvest.text import interval, percent

TITLES = ["data", "directory", "date", "rows", "tested", "network", "folds", "log-loss", "95 %", "ROC AUC", "accuracy"]


def compare_runs(folders: list[str]) -> list[str]:
    """The results of whole runs as a table, the lowest log-loss first; without folders, those of the directories here.

    Notes of runs that are missing or damaged go to standard error. UserError if no run is left.
    """
    runs = []
    paths = [Path(folder, METRICS_FILE) for folder in folders] or sorted(Path().glob(f"*/{METRICS_FILE}"))
    for path in paths:
        try:
            runs.append(read_run(path))
        except (FileNotFoundError, NotADirectoryError):
            print_error(f"note: {path.parent} contains no completed run")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            print_error(f"note: {path} is damaged and left out")
    if not runs:
        raise UserError("--compare: no completed run was found; name the directories that runs were written to")
    runs.sort(key=lambda run: run[0])
    data = list(dict.fromkeys(rows for _, rows, _ in runs))
    table = [TITLES, *([str(data.index(rows) + 1), *cells] for _, rows, cells in runs)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]
    if len(data) > 1:
        lines.append("Compare only runs with the same number in the data column: they were tested on the same rows.")
    return lines


def read_run(path: Path) -> tuple[float, tuple[str, ...], list[str]]:
    """The log-loss of a run, what is equal in runs that were tested on the same rows, and its cells after the first."""
    metrics = json.loads(path.read_bytes())
    test, settings = metrics["test"], metrics["settings"]
    used, tested = f"{metrics['rows']['used']:,}", f"{sum(map(sum, test['confusion'])):,}"
    split = [str(settings.get(name)) for name in ("split", "split_seed")] if used != tested else []
    rows = used, tested, str(metrics.get("rows_digest", path)), *split
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
    cells = [str(path.parent), date, used, tested, str(settings["architecture"]), str(settings["folds"])]
    cells += [f"{test['log_loss']:.3f}", interval(test["log_loss_ci95"], 1, 3), f"{test['roc_auc'] or math.nan:.3f}"]
    return test["log_loss"], rows, [*cells, percent(test["accuracy"])]
