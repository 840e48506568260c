"""Comparison of completed runs by their metrics.json."""

import json
import math
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from harvest.cli import UserError, print_error
from harvest.run_directory import METRICS_FILE, read_checkpoints
from harvest.text import HARD_SPACE, interval, name_files, percent, wrap

TITLES = ["directory", "date", "network", "folds", "log-loss", "95% interval", "ROC AUC", "accuracy"]


class Run(NamedTuple):
    log_loss: float
    data: str  # the name of the data, and the numbers of rows used and tested
    rows: tuple[str, ...]  # equal in runs that were tested on the same rows
    cells: list[str]


def compare_runs(folders: list[str]) -> list[str]:
    """The results of completed runs as tables, one for each set of test rows, the lowest log-loss first.

    Without folders, compares those in the current directory. Reports missing and damaged runs on standard error, and
    raises UserError if no other run is left.
    """
    runs = []
    here = [path for depth in ("*", "*/*") for path in Path().glob(f"{depth}/{METRICS_FILE}")]
    paths = [Path(folder, METRICS_FILE) for folder in dict.fromkeys(folders)] or here
    for path in paths:
        try:
            runs.append(read_run(path))
        except (FileNotFoundError, NotADirectoryError):
            print_error(f"note: {path.parent} contains no completed run")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            print_error(f"note: skipped {path}, which is damaged")
    if not runs:
        raise UserError("--compare: no completed run was found; give directories of completed runs")
    ranked: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(runs):
        ranked.setdefault((run.data, *run.rows), []).append(run)
    lines: list[str] = []
    for own in ranked.values():
        table = [TITLES, *(run.cells for run in own)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        rows = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]
        lines += [*[""] * bool(lines), own[0].data, *rows]
    if len(ranked) > 1:
        lines += ["", "The runs of a table were tested on the same rows: compare only within a table."]
    origins = [line for path in paths for line in checkpoint_lines(path.parent / "checkpoints")]
    return lines + [""] * bool(origins) + origins


def checkpoint_lines(folder: Path) -> list[str]:
    """The runs that the checkpoints of a directory come from, according to its manifest."""
    listed = (read_checkpoints(folder) or {}).values()
    counts = Counter((entry.get("run"), entry.get("data"), entry.get("rows")) for entry in listed)
    parts = []
    for (run, data, rows), count in counts.items():
        size = f", {rows:,} rows" if isinstance(rows, int) and "generated rows" not in str(data) else ""
        parts.append(f"{count} from {run} ({data}{size})".replace(" ", HARD_SPACE))
    return wrap(", ".join(parts), f"{folder}: ", "  ") if parts else []


def read_run(path: Path) -> Run:
    metrics = json.loads(path.read_bytes())
    test, settings = metrics["test"], metrics["settings"]
    used, tested = f"{metrics['rows']['used']:,}", f"{sum(map(sum, test['confusion'])):,}"
    name = name_files(settings["csv"])
    split = [str(settings.get(setting)) for setting in ("split", "split_seed")] if used != tested else []
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
    cells = [str(path.parent), date, str(settings["architecture"]), str(settings["folds"])]
    ends = interval(test["log_loss_ci95"], 1, 3) if test["log_loss_ci95"] else "none"
    cells += [f"{test['log_loss']:.3f}", ends, f"{test['roc_auc'] or math.nan:.3f}"]
    rows = str(metrics.get("rows_digest", path)), *split
    return Run(test["log_loss"], f"{name}: {used} rows, {tested} tested", rows, [*cells, percent(test["accuracy"])])
