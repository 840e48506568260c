"""Interrupted runs: the state file that a run writes while it trains, and how --resume restores it."""

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
from harvest.training.folds import Fold, FoldCallback, epoch_logs
from harvest.training.interrupted import Arrays, Description, digest_arrays, what_is_left
from harvest.training.program import HISTORY, State, Weights

SAVE_SECONDS = 2.0
FACTS = ("reason", "best_loss", "best_epoch")  # attributes of a fold in the description; the others are arrays


class ResumeState(FoldCallback):
    """Saves the state for --resume after each new best epoch and every two seconds, between calls of the program."""

    def __init__(self, model_dir: Path, folds: list[Fold], description: Description) -> None:
        super().__init__()
        self.model_dir, self.path, self.folds, self.description = model_dir, model_dir / RESUME_FILE, folds, description
        self.saved, self.best, self.failure = -math.inf, 0, ""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if all(fold.state and len(fold.history) == int(fold.state.epoch) for fold in self.folds):  # else it is not over
            self.offer()

    def offer(self, now: bool = False) -> None:
        """Save the state if it is due. `failure` holds the error until saving succeeds again."""
        best = sum(fold.best_epoch for fold in self.folds)
        if now or best != self.best or time.perf_counter() - self.saved > SAVE_SECONDS:
            self.best, self.saved = best, time.perf_counter()
            try:
                write_atomically(self.path, pack_state(self.folds, self.description))
                self.failure = ""
            except OSError as error:
                self.failure = f"{self.path}: {error.strerror}"

    def explain_end(self, number: int, why: str = "") -> str:
        """The message when a signal, or a loss that is not a number, ends a run: the reason, and how to continue."""
        failed = next((fold.reason for fold in self.folds if fold.failed), "")
        message = why or f"stopped: {signal.Signals(number or signal.SIGTERM).name}"
        if failed:
            self.path.unlink(missing_ok=True)
            message = f"error: {failed}; try a smaller --learning-rate"
        elif not self.failure:
            folder = "" if str(self.model_dir) == "model" else f" --model-dir {shlex.quote(str(self.model_dir))}"
            message += f"; continue with --resume{folder}"
            if epochs := max(len(fold.history) for fold in self.folds):
                message += f", or test and save the model as it is with --resume --epochs {epochs}{folder}"
        return "; ".join([message, *what_is_left(self.model_dir, self.description["checkpoints"])])


def pack_state(folds: list[Fold], description: Description) -> bytes:
    """The content of a state file: an .npz with the arrays of each fold, the description as JSON, and a digest."""
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
    np.savez(content, **arrays, digest=np.array(digest_arrays(arrays)))  # type: ignore[arg-type]  # any names
    return content.getvalue()


def check_network(network: keras.Model, description: Description) -> None:
    """Add a digest of the network to the description. Raises UserError if the interrupted run had another network."""
    text = network.to_json() + str([variable.shape for variable in network.variables])
    for number, layer in enumerate([network, *network.layers]):  # Keras numbers unnamed layers
        text = text.replace(json.dumps(layer.name), f'"layer {number}"')
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    if description.setdefault("network", digest) != digest:
        changed = "build_network returns a different network than in the interrupted run"
        raise UserError(f"--resume: {changed}; undo the change, or omit --resume to start again")


def restore(folds: list[Fold], description: Description, arrays: Arrays) -> None:
    """Restore the state of new folds from the results of read_state()."""
    logs = list(epoch_logs(np.zeros(len(HISTORY)), 1, 1))
    for fold, facts in zip(folds, description["folds"], strict=True):
        for part, kind in (("state", State), ("now", Weights), ("best", Weights)):
            values: list[Any] = [arrays.get(f"{fold.number}/{part}/{name}") for name in kind._fields]
            if values[0] is not None:  # otherwise no epoch was trained, or none was the best
                setattr(fold, part, kind(*values))
        fold.state = State(*map(tf.constant, fold.state or []))
        fold.history = [dict(zip(logs, map(float, row), strict=True)) for row in arrays[f"{fold.number}/history"]]
        for name in FACTS:
            setattr(fold, name, facts[name])
