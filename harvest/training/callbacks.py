"""The callbacks of a run: progress, checkpoints and a profile."""

import contextlib
import errno
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import rich.console
import rich.progress
import rich.table
import tensorflow as tf

from harvest.cli import Console
from harvest.run_directory import CHECKPOINTS_FILE, is_archive, read_checkpoints, write_atomically
from harvest.training.folds import Fold, FoldCallback
from harvest.training.program import Weights, assign_weights

Logs = dict[str, float] | None


def make_callback_list(
    callbacks: list[keras.callbacks.Callback],
    model: keras.Model,
    networks: list[keras.Model],
    folds: list[Fold],
    **params: int,
) -> keras.callbacks.CallbackList:
    """The callbacks that train_folds() calls: at the beginning and end of training and of each epoch, not per batch.

    Those of Keras find the weights of the epoch in the inference model, whose networks (one for each fold) get them.
    `params` become the `params` of the callbacks: `epochs` and `steps`.
    """

    def write_weights(epoch: int, logs: Logs) -> None:
        for network, fold in zip(networks, folds, strict=True):
            if fold.now:
                assign_weights(network, fold.now)

    if not all(isinstance(callback, FoldCallback) for callback in callbacks):
        callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=write_weights), *callbacks]
    model.stop_training = False
    return keras.callbacks.CallbackList(callbacks, model=model, **params)


class ProgressLine(FoldCallback):
    """A progress bar as wide as the terminal; if the output is not a terminal, a plain line every few epochs."""

    def __init__(self, epochs: int, console: Console) -> None:
        super().__init__()
        self.epochs, self.console = epochs, console
        self.bar: rich.progress.Progress | None = None
        self.first = 0  # epoch of this run, which may be resumed
        self.started = self.drawn = 0.0

    def on_train_begin(self, logs: Logs = None) -> None:
        self.started = time.perf_counter()
        terminal = rich.console.Console(file=sys.stdout)
        if sys.stdout.isatty() and terminal.is_terminal and not (terminal.is_dumb_terminal or self.console.quiet):
            one_line = rich.table.Column(no_wrap=True, overflow="crop")
            text = rich.progress.TextColumn("{task.description}", markup=False, table_column=one_line)
            self.bar = rich.progress.Progress(
                text,
                rich.progress.BarColumn(None),
                console=terminal,
                auto_refresh=False,
                transient=True,
                expand=True,
                redirect_stderr=False,
            )
            self.bar.add_task(f"epoch   0/{self.epochs}", total=self.epochs)
            self.console.show(self.bar.start)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        epoch, now, values = epoch + 1, time.perf_counter(), logs or {}
        self.first = self.first or epoch
        texts = {"epoch": f"epoch {epoch:3d}/{self.epochs}"}
        texts |= {name: f"{name} {values[name]:.4f}" for name in ("loss", "val_loss")}
        texts["accuracy"] = f"val_accuracy {values['val_accuracy']:.3f}"
        if not (bar := self.bar):
            if epoch in (1, 2, 5) or epoch % 10 == 0:
                self.console.print("  ".join(texts.values()))
        elif now - self.drawn >= 0.05:
            self.drawn, seconds = now, (now - self.started) / (epoch - self.first + 1)
            if now - self.started > 1:
                texts["left"] = f"at most {math.ceil(seconds * (self.epochs - epoch)):,} s left"
            for name in ("loss", "left", "accuracy"):  # omitted in this order on a narrow terminal
                if len("  ".join(texts.values())) > bar.console.width - 8:
                    texts.pop(name, None)
            line, task = "  ".join(texts.values()), bar.task_ids[0]
            self.console.show(lambda: bar.update(task, completed=epoch, description=line, refresh=True))

    def on_train_end(self, logs: Logs = None) -> None:
        if self.bar:
            with contextlib.suppress(OSError, ValueError):  # the terminal was closed
                self.bar.stop()


class BestCheckpoint(FoldCallback):
    """Writes a model file after each new best epoch, in a separate thread, and keeps the newest ones (`keep` 0: all).

    `names` lists the files of this run, the newest last; `write_model` turns the best weights of each fold into a file.
    A manifest in the folder lists, for each checkpoint, `origin` (its run, data and rows), date, epoch and metrics.
    """

    def __init__(
        self,
        folds: list[Fold],
        folder: Path,
        keep: int,
        names: list[str],
        origin: dict[str, Any],
        write_model: Callable[[list], bytes],
    ) -> None:
        super().__init__()
        self.folds, self.folder, self.keep, self.names, self.origin = folds, folder, keep, names, origin
        self.write_model = write_model
        # If training is faster than the disk, the queue drops checkpoints that would soon be deleted anyway.
        self.waiting: deque[tuple[str, dict[str, Any], list[Weights | None]]] = deque(maxlen=keep or None)
        self.failure, self.writer = "", ThreadPoolExecutor(1)
        folder.mkdir(parents=True, exist_ok=True)
        self.listed = read_checkpoints(folder)
        if self.listed is None:
            self.failure = f"are not listed: {folder / CHECKPOINTS_FILE} is your own file"

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Write a checkpoint if this epoch is the best of some fold and every fold has a best epoch."""
        folds, epoch = self.folds, epoch + 1
        if all(fold.best for fold in folds) and any(fold.best_epoch == epoch for fold in folds):
            best = [fold.history[fold.best_epoch - 1] for fold in folds]
            means = {name: sum(logs[name] for logs in best) / len(best) for name in ("val_loss", "val_accuracy")}
            entry = {**self.origin, "date": time.strftime("%Y-%m-%d %H:%M:%S"), "epoch": epoch, **means}
            name = f"model_{epoch:02d}_{means['val_accuracy']:.4f}.keras"
            self.waiting.append((name, entry, [fold.best for fold in folds]))
            self.writer.submit(self.write_next)

    def write_next(self) -> None:
        if not self.waiting:  # the queue dropped it
            return
        name, entry, weights = self.waiting.popleft()
        path = self.folder / name
        try:
            if os.path.lexists(path) and not is_archive(path):
                raise FileExistsError(errno.EEXIST, "your own file has the name of a checkpoint", str(path))
            content = self.write_model(weights)
            self.list_checkpoints({name: None})  # remove the entry of an earlier run's file, which is replaced
            write_atomically(path, content)
            if name not in self.names:
                self.names.append(name)
            gone = self.names[: -self.keep] if self.keep else []
            del self.names[: len(gone)]
            for old in gone:
                (self.folder / old).unlink(missing_ok=True)
            self.list_checkpoints({name: entry, **dict.fromkeys(gone)})
        except Exception as error:
            self.failure = f"could not be written: {str(error) or type(error).__name__}"

    def list_checkpoints(self, changed: dict[str, dict[str, Any] | None]) -> None:
        """Write the manifest with changed entries (None deletes one), unless it is the user's own file."""
        if self.listed is None or not any(entry or name in self.listed for name, entry in changed.items()):
            return
        entries = {**self.listed, **changed}
        self.listed = {name: entry for name, entry in entries.items() if entry}
        write_atomically(
            self.folder / CHECKPOINTS_FILE, json.dumps({"train_model_modern": self.listed}, indent=2).encode()
        )

    def on_train_end(self, logs: Logs = None) -> None:
        self.writer.shutdown()


class Profiler(FoldCallback):
    """Profiles ten epochs after the first, each marked as a step; TensorBoard shows them when xprof is installed."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.running = str(folder), contextlib.ExitStack()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if epoch == 1:
            self.running.enter_context(tf.profiler.experimental.Profile(self.folder))
        if epoch == 11:
            self.running.close()

    def on_train_end(self, logs: Logs = None) -> None:
        self.running.close()
