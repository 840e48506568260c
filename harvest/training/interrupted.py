"""The state file of an interrupted run, checked before TensorFlow is imported."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harvest import VERSION
from harvest.cli import UserError
from harvest.data.csv_file import find_files
from harvest.run_directory import MODEL_FILE, RESUME_FILE, earlier_model

# Flags that may differ from those of the interrupted run.
NOT_COMPARED = {"resume", "quiet", "model_dir", "csv", "given"}
CHECKPOINT_NAME = re.compile(r"model_\d{2,9}_[01]\.\d{4}\.keras")
RUN_NAME = re.compile(r"\d{8}-\d{6}(_[A-Za-z0-9.-]+)+")  # a run's folder in logs/

MARKED_BYTES = 1 << 16  # at the start and at the end of a file

# arguments, version, network (a digest), fingerprint (of the data), files, rows, device, logs (a folder's name),
# checkpoints, folds
Description = dict[str, Any]
Arrays = dict[str, np.ndarray]


def digest_arrays(arrays: Arrays) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return digest.hexdigest()


def read_state(path: Path) -> tuple[Description, Arrays]:
    """The description and the arrays of an interrupted run. Nothing in the file can be executed. Raises UserError."""
    damaged = UserError(f"--resume: {path} is damaged; delete it and start again")
    if not path.is_file():
        raise UserError(f"--resume: {path.parent} contains no interrupted run; omit --resume to start one")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(arrays["description"].tobytes())
        version = description.get("version", "1.7.0 or earlier")
    except Exception:  # each compression method raises other exceptions
        raise damaged from None
    if version != VERSION:
        cure = "continue with that version, or omit --resume to start again"
        raise UserError(f"--resume: the interrupted run is from version {version}, but this is {VERSION}; {cure}")
    is_whole = str(arrays.pop("digest", None)) == digest_arrays(arrays)
    # These are used as paths.
    names, logs = description.get("checkpoints"), description.get("logs")
    if not is_whole or not all(map(CHECKPOINT_NAME.fullmatch, names)) or (logs and not RUN_NAME.fullmatch(logs)):
        raise damaged
    return description, arrays


def resumed_options(
    given: Mapping[str, Any], folder: Path, parse_args: Callable[[list[str]], argparse.Namespace]
) -> tuple[argparse.Namespace, Description, Arrays]:
    """The options of the interrupted run in a folder, and the results of read_state().

    Raises UserError if the state is damaged or a given flag contradicts it; --epochs may end the run sooner, though.
    """
    description, arrays = read_state(folder / RESUME_FILE)
    options = parse_args(description["arguments"])
    for name, value in given.items():
        sooner = name == "epochs" and value < options.epochs
        if name not in NOT_COMPARED and not sooner and value != (before := getattr(options, name)):
            what = f"--{name.replace('_', '-')} {value} contradicts the interrupted run, which has {before}"
            raise UserError(f"--resume: {what}; omit the flag or --resume")
    options.resume, options.model_dir = True, folder
    options.quiet, options.csv = given.get("quiet", options.quiet), given.get("csv") or options.csv
    return options, description, arrays


def is_over(description: Description, arrays: Arrays, epochs: int) -> bool:
    """Whether every network of an interrupted run has stopped, or has trained for this many epochs."""
    folds = enumerate(description["folds"])
    return all(fold["reason"] or len(arrays[f"{number}/history"]) >= epochs for number, fold in folds)


def mark_files(paths: list[str], sizes: list[int] | None = None) -> list[list]:
    """The size of each file and a digest of its start and its end; `sizes` limits the bytes used from each file.

    Empty if there are no such files, as with generated rows or the files of other workers.
    """
    marks: list[list] = []
    found = find_files(paths)
    for number, path in enumerate(found if all(map(os.path.isfile, found)) else []):
        size = min([os.path.getsize(path), *(sizes or [])[number : number + 1]])
        with open(path, "rb") as file:
            start = file.read(min(size, MARKED_BYTES))
            file.seek(max(0, size - MARKED_BYTES))
            digest = hashlib.blake2b(start + file.read(min(size, MARKED_BYTES)), digest_size=16).hexdigest()
        marks.append([size, digest])
    return marks


def explain_change(description: Description, paths: list[str], rows: int, name: str) -> UserError:
    """The error for data that differ from those of the interrupted run: the file has grown, or it is another file."""
    before = description["files"]
    now = mark_files(paths, [size for size, _ in before])
    if not before or now[: len(before)] != before:
        return UserError(f"--resume: {name} differs from the data of the interrupted run; omit --resume to train on it")
    grown = rows - description["rows"]
    text = f"{name} has grown by {grown:,} row{'s' * (grown != 1)} since the interrupted run started"
    if len(now) == 1:
        (path,) = find_files(paths)
        text += f"; give --resume the data it started with (head -c {before[0][0]} {shlex.quote(path)} > earlier.csv)"
    return UserError(f"--resume: {text}, or omit --resume to train on all rows")


def what_is_left(model_dir: Path, checkpoints: list[str]) -> list[str]:
    """Texts that name the best model of a run that ended early, and the model of the last completed run."""
    folder = model_dir / "checkpoints"
    left = [f"the best model of this run so far is {folder / checkpoints[-1]}"] if checkpoints else []
    if earlier := earlier_model(model_dir):
        left.append(f"{model_dir / MODEL_FILE} is still {earlier}")
    return left


@contextlib.contextmanager
def say_what_is_left(model_dir: Path, checkpoints: list[str]) -> Iterator[None]:
    """Add the paths of the models to the message when Ctrl-C ends the run at once."""
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        raise KeyboardInterrupt(number, *what_is_left(model_dir, checkpoints)) from None
