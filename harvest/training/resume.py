"""Interrupted runs: the state file that is written while a run trains, and how --resume goes on with it."""

import hashlib
import io
import json
import math
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harvest.cli import UserError
from harvest.run_directory import RESUME_FILE, write_atomically
from harvest.training.folds import Fold, epoch_logs
from harvest.training.interrupted import Arrays, Description, damaged, what_is_left
from harvest.training.program import HISTORY, State, Weights

SAVE_SECONDS = 2.0
FACTS = ("reason", "best_loss", "best_epoch")  # of a fold, kept in the description; all else are arrays


class ResumeState(keras.callbacks.Callback):
    """Keeps what --resume needs: written at each new best and every two seconds, between two calls of the program."""

    reads_folds = True

    def __init__(self, model_dir: Path, folds: list[Fold], description: Description) -> None:
        super().__init__()
        self.model_dir, self.path, self.folds, self.description = model_dir, model_dir / RESUME_FILE, folds, description
        self.saved, self.best, self.failure = -math.inf, 0, ""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if all(fold.state and len(fold.history) == int(fold.state.epoch) for fold in self.folds):  # else calls go on
            self.offer()

    def offer(self, now: bool = False) -> None:
        """Save the state if it is time to. A failure is kept in `failure` until it can be saved again."""
        best = sum(fold.best_epoch for fold in self.folds)
        if now or best != self.best or time.perf_counter() - self.saved > SAVE_SECONDS:
            self.best, self.saved = best, time.perf_counter()
            try:
                write_atomically(self.path, pack_state(self.folds, self.description))
                self.failure = ""
            except OSError as error:
                self.failure = f"{self.path}: {error.strerror}"

    def explain_end(self, number: int, why: str = "") -> str:
        """Why a run is over before its end, by a signal or a loss that is not a number, and what is left of it."""
        failed = next((fold.reason for fold in self.folds if fold.failed), "")
        message = why or f"stopped: {signal.Signals(number or signal.SIGTERM).name}"
        if failed:
            self.path.unlink(missing_ok=True)
            message = f"error: {failed}; try a smaller --learning-rate"
        elif not self.failure:
            folder = "" if str(self.model_dir) == "model" else f" --model-dir {shlex.quote(str(self.model_dir))}"
            message += f"; continue with --resume{folder}"
        return "; ".join([message, *what_is_left(self.model_dir, self.description["checkpoints"])])


def pack_state(folds: list[Fold], description: Description) -> bytes:
    """The content of a state file: an .npz of the arrays of each fold, and the description as JSON in one of them."""
    arrays: Arrays = {}
    for fold in folds:
        for part in ("state", "now", "best"):
            values = getattr(fold, part)
            for name, value in values._asdict().items() if values else ():
                arrays[f"{fold.number}/{part}/{name}"] = np.asarray(value)
        arrays[f"{fold.number}/history"] = np.array([list(logs.values()) for logs in fold.history])
    facts = [{name: getattr(fold, name) for name in FACTS} for fold in folds]
    arrays["description"] = np.frombuffer(json.dumps(description | {"folds": facts}).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # it takes any names
    return content.getvalue()


def network_digest(network: keras.Model) -> str:
    """A digest of how a network is built, whatever its layers are called: Keras counts those without names."""
    text = network.to_json()
    for number, layer in enumerate([network, *network.layers]):
        text = text.replace(json.dumps(layer.name), f'"layer {number}"')
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check_network(network: keras.Model, description: Description) -> None:
    """Keep the digest of a run's network in its description. UserError if an interrupted run had another network."""
    digest = network_digest(network)
    if description.setdefault("network", digest) != digest:
        changed = "build_network gives another network than in the interrupted run"
        raise UserError(f"--resume: {changed}; undo the change, or leave --resume out to start again")


def restore(folds: list[Fold], epochs: int, path: Path, description: Description, arrays: Arrays) -> None:
    """Put folds in their first state where they were, as read from a path; `epochs` is the maximum number of them.

    Raises UserError when the state is not that of such folds.
    """
    if len(description["folds"]) != len(folds):
        raise damaged(path, " (number of nets)")
    for fold, facts in zip(folds, description["folds"], strict=True):
        if fault := restore_fold(fold, epochs, facts, arrays):
            raise damaged(path, f" (net {fold.number + 1}, {fault})")


def restore_fold(fold: Fold, epochs: int, facts: dict[str, Any], arrays: Arrays) -> str:
    """Put a fold where it was; returns what is wrong with the arrays, or ""."""
    first = fold.state
    for part, kind in (("state", State), ("now", Weights), ("best", Weights)):
        values: list[Any] = [arrays.get(f"{fold.number}/{part}/{name}") for name in kind._fields]
        if part != "state" and values[0] is None:  # there was no epoch, or no best one
            continue
        for name, value in zip(kind._fields, values, strict=True):
            like = np.asarray(getattr(first, name))
            if value is None or value.dtype != like.dtype or value.shape != like.shape:
                return f"{part}/{name}"
        setattr(fold, part, kind(*values))
    fold.state = State(*map(tf.constant, fold.state or []))
    logs, history = list(epoch_logs(np.zeros(len(HISTORY)), 1, 1)), arrays[f"{fold.number}/history"]
    fits = history.dtype == np.float64 and history.shape in ((len(history), len(logs)), (0,))
    if not fits or not len(history) == arrays[f"{fold.number}/state/epoch"] <= epochs:
        return "history"
    fold.history = [dict(zip(logs, map(float, row), strict=True)) for row in history]
    for name in FACTS:
        setattr(fold, name, facts[name])
    fits = (fold.best is None) == (fold.best_epoch == 0) and (fold.now is None) == (not fold.history)
    return "" if fits else "best"
