"""Rows with predictions, as CSV."""

import contextlib
import csv
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from harvest.cli import UserError
from harvest.model.input_rows import note
from harvest.model.names import free_name
from harvest.run_directory import open_atomically


def is_stream(path: Path) -> bool:
    """Whether a path is a terminal, a pipe or a device, or a stream of this process."""
    return (path.exists() and not path.is_file()) or str(path).startswith(("/dev/std", "/dev/fd/"))


def check_output(path: Path, read: list[Path | int]) -> None:
    """Raise UserError if the output cannot be written, or is one of the inputs (files or descriptors)."""
    if path.is_dir():
        raise UserError(f"--output {path}: is a directory; give a file")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: the directory {path.parent} does not exist; create it first")
    for source in read if path.is_file() else []:
        with contextlib.suppress(OSError):  # a missing file is reported where it is opened
            if os.path.samestat(path.stat(), os.stat(source)):
                raise UserError(f"--output {path}: is also an input; give another file")
    if path.is_symlink() and not is_stream(path):
        raise UserError(f"--output {path}: is a link to {path.resolve()}; give that file, or another one")


@contextlib.contextmanager
def open_output(path: Path | None, endless: bool) -> Iterator[TextIO]:
    """The output for the rows: standard output, a device or pipe, or a file that is written atomically.

    For an endless stream, the file exists from the start and keeps the rows written so far. If the file replaces an
    existing one, a note reports it.
    """
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="strict", newline="")
        yield sys.stdout
    elif is_stream(path):
        try:
            with open(path, "a", encoding="utf-8", newline="") as out:
                yield out
        except OSError as error:
            error.filename = error.filename or str(path)  # the error of a full device has no path
            raise
    else:
        replaced = f"replaced {path}" if path.exists() else ""
        with open_atomically(path, at_once=endless) as file:
            if replaced and endless:
                note(replaced)
            out = io.TextIOWrapper(file, "utf-8", newline="")
            yield out
            out.detach()
        if replaced and not endless:
            note(replaced)


def answer_names(names: list[str]) -> list[str]:
    """The names of the added columns; other names if the input already has columns with these names."""
    given = []
    for name in ("probability", "predicted"):
        free = name if name not in names else free_name(f"model_{name}", names)
        if free != name:
            note(f"the input has a column {name}, which is kept; that of the model is named {free}")
        given.append(free)
    return given


def write_answers(
    out: TextIO, rows: pd.DataFrame, y_prob: np.ndarray, threshold: float, names: list[str], header: bool
) -> None:
    """Write rows with two more columns: the probabilities [N], and the predictions at the threshold."""
    answers = ([f"{value:.6f}" for value in y_prob], (y_prob >= threshold).astype(int))
    table = pd.concat([rows, pd.DataFrame(dict(zip(names, answers, strict=True)), rows.index)], axis=1)
    returns = any("\r" in cell for name in rows for cell in rows[name])  # quoted only if all cells are
    quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    table.to_csv(out, index=False, header=header, lineterminator="\n", quoting=quoting)
    out.flush()
