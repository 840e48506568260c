"""The callbacks of a run: its progress, checkpoints and a profile.

The training program runs several epochs in a call and keeps the weights of a fold in flat vectors. The callbacks of
this package read them there (`reads_folds`); any other Keras callback finds them in the model, as in `Model.fit`.
"""

import contextlib
import errno
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import rich.console
import rich.progress
import rich.table
import tensorflow as tf

from harvest.cli import Console
from harvest.run_directory import is_archive, write_atomically
from harvest.training.folds import Fold
from harvest.training.program import Weights, assign_weights

Logs = dict[str, float] | None


def make_callback_list(
    callbacks: list[keras.callbacks.Callback],
    model: keras.Model,
    networks: list[keras.Model],
    folds: list[Fold],
    **params: int,
) -> keras.callbacks.CallbackList:
    """The callbacks as train_folds() calls them: when training and each epoch begin and end, not for each batch.

    Those of Keras get the inference model, with the weights of the epoch in its networks, one for each fold. `params`
    are the `epochs` and `steps` that they find in their own `params`.
    """

    def write_weights(epoch: int, logs: Logs) -> None:
        for network, fold in zip(networks, folds, strict=True):
            if fold.now:
                assign_weights(network, fold.now)

    if not all(getattr(callback, "reads_folds", False) for callback in callbacks):
        callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=write_weights), *callbacks]
    model.stop_training = False
    return keras.callbacks.CallbackList(callbacks, model=model, **params)


class ProgressLine(keras.callbacks.Callback):
    """On a terminal a bar in one line, as wide as the terminal; elsewhere a plain line every few epochs."""

    reads_folds = True

    def __init__(self, epochs: int, console: Console) -> None:
        super().__init__()
        self.epochs, self.console = epochs, console
        self.bar: rich.progress.Progress | None = None
        self.first = 0  # epoch of this run, which may be a resumed one
        self.started = self.drawn = time.perf_counter()

    def on_train_begin(self, logs: Logs = None) -> None:
        self.started = time.perf_counter()
        if sys.stdout.isatty() and not self.console.quiet:
            self.console.show(self.start_bar)

    def start_bar(self) -> None:
        terminal = rich.console.Console(file=sys.stdout)
        if terminal.is_terminal and not terminal.is_dumb_terminal:
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
            self.bar.start()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        epoch, now, values = epoch + 1, time.perf_counter(), logs or {}
        self.first = self.first or epoch
        texts = {"epoch": f"epoch {epoch:3d}/{self.epochs}"}
        texts |= {name: f"{name} {values[name]:.4f}" for name in ("loss", "val_loss")}
        texts["accuracy"] = f"val_accuracy {values['val_accuracy']:.3f}"
        if not self.bar:
            if epoch in (1, 2, 5) or epoch % 10 == 0:
                self.console.print("  ".join(texts.values()))
        elif epoch == self.first or now - self.drawn >= 0.05:
            self.drawn, seconds = now, (now - self.started) / (epoch - self.first + 1)
            if now - self.started > 1:
                texts["left"] = f"at most {math.ceil(seconds * (self.epochs - epoch)):,} s left"
            self.draw(self.bar, epoch, texts)

    def draw(self, bar: rich.progress.Progress, epoch: int, texts: dict[str, str]) -> None:
        for name in ("loss", "left", "accuracy"):  # what a narrow terminal goes without first
            if len("  ".join(texts.values())) > bar.console.width - 8:
                texts.pop(name, None)
        line, task = "  ".join(texts.values()), bar.task_ids[0]
        self.console.show(lambda: bar.update(task, completed=epoch, description=line, refresh=True))

    def on_train_end(self, logs: Logs = None) -> None:
        if self.bar:
            with contextlib.suppress(OSError, ValueError):  # the terminal is gone
                self.bar.stop()


class BestCheckpoint(keras.callbacks.Callback):
    """Writes a model file at each new best epoch, in a thread of its own, and keeps the newest ones (`keep` 0: all).

    `names` lists the files of this run, the newest last; `write_model` makes a file of the best weights of each fold.
    """

    reads_folds = True

    def __init__(
        self, folds: list[Fold], folder: Path, keep: int, names: list[str], write_model: Callable[[list], bytes]
    ) -> None:
        super().__init__()
        self.folds, self.folder, self.keep, self.names, self.write_model = folds, folder, keep, names, write_model
        # When training is faster than the disk, what would be deleted at once is not written.
        self.waiting: deque[tuple[str, list[Weights | None]]] = deque(maxlen=keep or None)
        self.failure, self.writer = "", ThreadPoolExecutor(1)
        folder.mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Write a checkpoint when this epoch is the best of some fold, and every fold has a best one."""
        folds, epoch = self.folds, epoch + 1
        if all(fold.best for fold in folds) and any(fold.best_epoch == epoch for fold in folds):
            accuracy = sum(fold.history[fold.best_epoch - 1]["val_accuracy"] for fold in folds) / len(folds)
            self.waiting.append((f"model_{epoch:02d}_{accuracy:.4f}.keras", [fold.best for fold in folds]))
            self.writer.submit(self.write_next)

    def write_next(self) -> None:
        if not self.waiting:  # it was dropped
            return
        name, weights = self.waiting.popleft()
        path = self.folder / name
        try:
            if os.path.lexists(path) and not is_archive(path):
                raise FileExistsError(errno.EEXIST, "a file of your own has the name of a checkpoint", str(path))
            write_atomically(path, self.write_model(weights))
            if name not in self.names:
                self.names.append(name)
            while self.keep and len(self.names) > self.keep:
                (self.folder / self.names.pop(0)).unlink(missing_ok=True)
        except Exception as error:
            self.failure = str(error) or type(error).__name__

    def on_train_end(self, logs: Logs = None) -> None:
        self.writer.shutdown()


class Profiler(keras.callbacks.Callback):
    """Profiles ten epochs after the first, each marked as a step; TensorBoard shows them when xprof is installed."""

    reads_folds = True

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
