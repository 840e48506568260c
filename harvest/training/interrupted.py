"""What an interrupted run has left in its directory, checked before TensorFlow is imported."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harvest.cli import UserError
from harvest.run_directory import MODEL_FILE, RESUME_FILE, earlier_model

# Flags that may differ from those of the interrupted run.
NOT_COMPARED = {"resume", "quiet", "model_dir", "csv", "given"}
CHECKPOINT_NAME = re.compile(r"model_\d{2,9}_[01]\.\d{4}\.keras")
RUN_NAME = re.compile(r"\d{8}-\d{6}(_[a-z0-9.-]+)+")  # a run's folder in logs/

Description = dict[str, Any]  # arguments, fingerprint (of the data), device, logs (a folder's name), checkpoints, folds
Arrays = dict[str, np.ndarray]


def damaged(path: Path, what: str = "") -> UserError:
    return UserError(f"--resume: {path} is damaged{what}; delete it and start again")


def read_state(path: Path) -> tuple[Description, Arrays]:
    """The description and the arrays of an interrupted run. Nothing in the file can be executed. Raises UserError."""
    if not path.is_file():
        raise UserError(f"--resume: {path.parent} holds no interrupted run; leave --resume out to start one")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(arrays.pop("description").tobytes())
        if not is_sound(description, arrays):
            raise ValueError
    except Exception:  # each way of compressing raises kinds of its own
        raise damaged(path) from None
    return description, arrays


def is_sound(description: Description, arrays: Arrays) -> bool:
    """Whether a description is as pack_state() writes it; what is not like one at all raises other errors."""
    arguments, folds, logs, names = (description[name] for name in ("arguments", "folds", "logs", "checkpoints"))
    texts = [*arguments, description["fingerprint"], logs, *(fold["reason"] for fold in folds)]
    sound = all(isinstance(part, list) for part in (arguments, folds, names))
    sound = sound and all(isinstance(text, str) for text in texts) and description["device"] in ("cpu", "gpu")
    for number, fold in enumerate(folds):
        best, epochs = fold["best_epoch"], len(arrays[f"{number}/history"])
        sound = sound and type(best) is int and 0 <= best <= epochs and type(fold["best_loss"]) in (int, float)
    # These become paths.
    return sound and all(map(CHECKPOINT_NAME.fullmatch, names)) and (not logs or bool(RUN_NAME.fullmatch(logs)))


def resumed_options(
    given: Mapping[str, Any], folder: Path, parse_args: Callable[[list[str]], argparse.Namespace]
) -> tuple[argparse.Namespace, Description, Arrays]:
    """The options of the interrupted run in a folder, and what read_state() gives of it.

    Raises UserError when it is damaged, or contradicted by the given flags: those whose values are not the defaults.
    """
    description, arrays = read_state(folder / RESUME_FILE)
    try:
        options = parse_args(description["arguments"])
    except (UserError, SystemExit) as error:  # the latter of --help
        what = error if isinstance(error, UserError) else "arguments"
        raise damaged(folder / RESUME_FILE, f" ({what})") from None
    for name, value in given.items():
        if name not in NOT_COMPARED and value != (before := getattr(options, name)):
            what = f"--{name.replace('_', '-')} {value} contradicts the interrupted run, which has {before}"
            raise UserError(f"--resume: {what}; leave the flag or --resume out")
    options.resume, options.model_dir = True, folder
    options.quiet, options.csv = given.get("quiet", options.quiet), given.get("csv") or options.csv
    return options, description, arrays


def what_is_left(model_dir: Path, checkpoints: list[str]) -> list[str]:
    """Where the models are of a run that is over before its end, and of the last whole run."""
    folder = model_dir / "checkpoints"
    left = [f"the best model of this run so far is {folder / checkpoints[-1]}"] if checkpoints else []
    if earlier := earlier_model(model_dir):
        left.append(f"{model_dir / MODEL_FILE} is still {earlier}")
    return left


@contextlib.contextmanager
def say_what_is_left(model_dir: Path, checkpoints: list[str]) -> Iterator[None]:
    """Let a Ctrl-C that ends the run at once say where the models are."""
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        raise KeyboardInterrupt(number, *what_is_left(model_dir, checkpoints)) from None
