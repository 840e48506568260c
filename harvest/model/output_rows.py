"""Rows with what a model says of them, as CSV."""

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
from harvest.run_directory import open_atomically


def is_stream(path: Path) -> bool:
    """Whether a path leads to a terminal, a pipe or a device, or names a stream of this process."""
    return (path.exists() and not path.is_file()) or str(path).startswith(("/dev/std", "/dev/fd/"))


def check_output(path: Path, read: list[Path | int]) -> None:
    """Refuse an output that cannot be written, or that would replace what is read: files and open descriptors."""
    if path.is_dir():
        raise UserError(f"--output {path}: is a directory; name a file")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no directory {path.parent}; make it first")
    for source in read if path.is_file() else []:
        with contextlib.suppress(OSError):  # a file that is not there is refused where it is opened
            if os.path.samestat(path.stat(), os.stat(source)):
                raise UserError(f"--output {path}: is also the input; name another file")
    if path.is_symlink() and not is_stream(path):
        raise UserError(f"--output {path}: is a link to {path.resolve()}; name that file, or another")


@contextlib.contextmanager
def open_output(path: Path | None, endless: bool) -> Iterator[TextIO]:
    """Where the rows go: standard output, a device or pipe as it is, or a file that is there whole or not at all.

    What answers an endless stream is there from the start, and keeps the rows answered so far. A file that was there
    is replaced, and a note says so.
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
            error.filename = error.filename or str(path)  # a full device does not say where
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
    """What the added columns are called: by other names where the input has such columns of its own."""
    given = []
    for name in ("probability", "predicted"):
        free = name if name not in names else f"model_{name}"
        while free in names:
            free += "_"
        if free != name:
            note(f"the input has a column {name}, which is kept; the model's is called {free}")
        given.append(free)
    return given


def write_answers(
    out: TextIO, rows: pd.DataFrame, y_prob: np.ndarray, threshold: float, names: list[str], header: bool
) -> None:
    """Write rows with two more columns: probabilities [N], and whether they reach the threshold."""
    answers = ([f"{value:.6f}" for value in y_prob], (y_prob >= threshold).astype(int))
    table = pd.concat([rows, pd.DataFrame(dict(zip(names, answers, strict=True)), rows.index)], axis=1)
    returns = any("\r" in cell for name in rows for cell in rows[name])  # not quoted unless all cells are
    quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    table.to_csv(out, index=False, header=header, lineterminator="\n", quoting=quoting)
    out.flush()
