"""Training of all networks of a run in parallel, and the choice of the fastest device."""

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harvest.cli import StopRequest
from harvest.data.encoding import Encoding, Features, FoldEncoding
from harvest.data.splits import Split
from harvest.training.config import Config, Plan, with_device
from harvest.training.program import COUNTS, HISTORY, Data, State, Weights, build_program, current_weights, first_state
from harvest.training.tensorflow_setup import Device

MEASURED_SECONDS = 1.0  # of training on each device, without compiling


@dataclass
class Fold:
    """One network in training: its rows, their encoding, and its state and history so far."""

    number: int
    split: Split
    encoding: FoldEncoding
    linear: np.ndarray  # [L + 1] the logistic regression of its training rows
    own: Split | None = None  # the training and validation rows of this process, if other workers have more
    state: State | None = None
    validation: tf.Tensor | None = None  # rows, int32, padded with -1
    seed: tf.Tensor | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    now: Weights | None = None  # at the end of the last epoch
    best: Weights | None = None
    best_loss: float = math.inf
    best_epoch: int = 0
    reason: str = ""  # why training ended; empty while it continues
    failed: bool = False  # the loss is not a number


class FoldCallback(keras.callbacks.Callback):
    """A callback that reads the weights of an epoch from the folds, so they need not be written to the model."""


def start_fold(fold: Fold, config: Config, plan: Plan) -> None:
    """Set the tensors of a fold that are arguments of the program, except the state."""
    size, rows = plan.validation_segment, (fold.own or fold.split).val
    padding = math.ceil(plan.validation_rows / size) * size - len(rows)
    fold.validation = tf.constant(np.pad(rows, (0, padding), constant_values=-1))
    fold.seed = tf.constant(config.seed + 7_919 * fold.number, tf.int32)


def features_on(device: Device, features: Features) -> Features:
    with tf.device(device.tf_name):
        return Features(*map(tf.constant, features))


def trace_program(
    network: keras.Model, config: Config, plan: Plan, program: Callable, features: Features, fold: Fold
) -> Callable[[], None]:
    """Trace the program in Python. The returned function compiles it with a call that runs no epoch."""
    blank = tf.zeros([plan.epochs_per_call, plan.rows], tf.int32)
    state = first_state(current_weights(network), 0.0)
    data = Data(features, fold.encoding, fold.validation)
    arguments = (data, blank, state, fold.seed, tf.constant(0))

    def on_device(call: Callable) -> None:
        with tf.device(config.device.tf_name):
            call(*arguments)

    on_device(program.get_concrete_function)  # type: ignore[attr-defined]
    return lambda: on_device(program)


def train_folds(
    config: Config,
    plan: Plan,
    program: Callable,
    features: Features,
    folds: list[Fold],
    callbacks: keras.callbacks.CallbackList,
    stop: StopRequest,
    group: Any = None,
) -> None:
    """Train all folds until each ends, in parallel on as many threads as there are cores.

    Each fold is trained by its own calls of the program, bit for bit as if it were trained alone: the order of rows in
    an epoch depends on (seed, fold, epoch), dropout on (seed, fold, step). A call may run several epochs; afterwards
    the callbacks are called for each of them, and may set model.stop_training. Python never sees single batches, so
    on_train_batch_* is not called. A group of workers may share the folds.
    """
    last = tf.constant(config.epochs)
    drawn: dict[int, Future] = {}  # the row orders for each fold's next call, drawn while the program runs

    def draw_orders(fold: Fold, epoch: int) -> tf.Tensor:
        epochs = range(epoch, epoch + plan.epochs_per_call)
        return tf.constant(np.stack([epoch_order(config, plan, fold, epoch) for epoch in epochs]))

    def call(fold: Fold) -> np.ndarray:
        epoch, number = len(fold.history), fold.number
        orders = drawn.pop(number).result() if number in drawn else draw_orders(fold, epoch)
        if epoch + plan.epochs_per_call < config.epochs:
            drawn[number] = drawing.submit(draw_orders, fold, epoch + plan.epochs_per_call)
        with tf.profiler.experimental.Trace("train", step_num=epoch, _r=1):  # _r: TensorBoard shows it as a step
            data = Data(features, fold.encoding, fold.validation)
            with tf.device(config.device.tf_name):  # which is set for each thread
                fold.state, records = program(data, orders, fold.state, fold.seed, last)
            return records.numpy()[: int(fold.state.epoch) - epoch]

    with ThreadPoolExecutor(1) as drawing, ThreadPoolExecutor(min(len(folds), os.cpu_count() or 1)) as pool:
        while (active := [fold for fold in folds if not fold.reason]) and not stop.signal:
            first = len(active[0].history)
            callbacks.on_epoch_begin(first)
            results = group.call_folds(pool, call, active) if group else list(pool.map(call, active))
            for ahead in range(max(map(len, results))):
                for fold, records in zip(active, results, strict=True):
                    record_epoch(config, plan, fold, records, ahead)
                if ahead:
                    callbacks.on_epoch_begin(first + ahead)
                callbacks.on_epoch_end(first + ahead, mean_logs(folds, first + ahead + 1))
                if callbacks.model.stop_training:
                    break
            if callbacks.model.stop_training:
                for fold in active:
                    fold.reason = fold.reason or "stopped by a callback"


def epoch_order(config: Config, plan: Plan, fold: Fold, epoch: int) -> np.ndarray:
    """The rows of an epoch in random order: int32 [plan.rows], every training row at least once."""
    order = np.random.default_rng([config.seed, 1, fold.number, epoch]).permutation((fold.own or fold.split).train)
    return np.resize(order, plan.rows)


def end_reason(config: Config, fold: Fold) -> str:
    """Why the training of a fold is over; empty if it is not."""
    if fold.state and config.patience and int(fold.state.wait) >= config.patience:
        return f"no better validation loss for {config.patience} epochs"
    if len(fold.history) > config.epochs:  # of a resumed run
        return f"already past the maximum of {config.epochs:,} epochs"
    return f"reached the maximum of {config.epochs:,} epochs" if len(fold.history) == config.epochs else ""


def record_epoch(config: Config, plan: Plan, fold: Fold, records: np.ndarray, index: int) -> None:
    """Add one of the epochs of a call to the history of a fold."""
    if index < len(records) and not fold.failed:
        row, weights = np.split(records[index], [len(HISTORY)])
        logs = epoch_logs(row, plan.rows, len(fold.split.val))
        fold.history.append(logs)
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["val_loss"])):
            fold.failed, fold.reason = True, f"the loss is not a number in epoch {len(fold.history)}"
        else:
            assert fold.state
            fold.now = Weights(*np.split(weights, fold.state.trained.shape))
            if logs["val_loss"] < fold.best_loss:
                fold.best_loss, fold.best_epoch, fold.best = logs["val_loss"], len(fold.history), fold.now
    if index == len(records) - 1:  # before callbacks save the state
        fold.reason = fold.reason or end_reason(config, fold)


def epoch_logs(row: np.ndarray, rows: int, validation_rows: int) -> dict[str, float]:
    """One row of the program's history as the logs of an epoch."""
    values = dict(zip(HISTORY, (float(value) for value in row), strict=True))
    logs = {}
    for prefix, total in (("", rows), ("val_", validation_rows)):
        hits, predicted, positive = (values[f"{prefix}{name}"] for name in COUNTS[1:])
        logs[f"{prefix}loss"] = values[f"{prefix}loss"] / (1 if prefix else total)  # val_loss is already a mean
        logs[f"{prefix}accuracy"] = 1 - (predicted + positive - 2 * hits) / total
        logs[f"{prefix}precision"] = hits / predicted if predicted else 0.0
        logs[f"{prefix}recall"] = hits / positive if positive else 0.0
    return logs | {"learning_rate": values["learning_rate"]}


def mean_logs(folds: list[Fold], epoch: int) -> dict[str, float]:
    """The logs of an epoch, averaged over folds; a stopped fold keeps its last logs, so the mean does not jump."""
    logs = [fold.history[min(epoch, len(fold.history)) - 1] for fold in folds]
    return {name: sum(entry[name] for entry in logs) / len(logs) for name in logs[0]}


def mean_history(folds: list[Fold]) -> dict[str, list[float]]:
    """Training and validation metrics by epoch: means over folds, and the range of their validation losses."""
    epochs = range(1, max(len(fold.history) for fold in folds) + 1)
    logs = [mean_logs(folds, epoch) for epoch in epochs]
    names = ("loss", "val_loss", "accuracy", "val_accuracy", "learning_rate")
    history = {name: [entry[name] for entry in logs] for name in names}
    if len(folds) > 1:
        losses = [[mean_logs([fold], epoch)["val_loss"] for fold in folds] for epoch in epochs]
        history |= {"val_loss_lowest": [*map(min, losses)], "val_loss_highest": [*map(max, losses)]}
    return history


def try_devices(
    devices: list[Device],
    config: Config,
    mixed_precision: bool | None,
    make_network: Callable[[Config], keras.Model],
    plan: Plan,
    encoding: Encoding,
    features: Features,
    folds: list[Fold],
) -> tuple[Config, keras.Model, Callable]:
    """The config for the device on which training is fastest, and the network and the program compiled for it.

    make_network(config) returns the network to train, which depends on the precision.
    """
    tried: list[tuple[float, Device, keras.Model, Callable]] = []
    failed: list[str] = []
    for device in devices:
        config = with_device(config, device, "", mixed_precision)
        network = make_network(config)
        program = build_program(network, config, plan, encoding)
        try:
            tried.append((step_seconds(network, config, plan, program, features, folds), device, network, program))
        except tf.errors.OpError as error:  # out of memory, or parts of CUDA are missing
            if device.kind == "cpu":
                raise
            failed.append(f"{device.name} failed: {(error.message or type(error).__name__).splitlines()[0]}")
    (seconds, device, network, program), *others = sorted(tried, key=lambda trial: trial[0])
    slower = [f"{other_seconds * 1e6:,.0f} us on {other.name}" for other_seconds, other, _, _ in others]
    reason = "; ".join([f"a step takes {seconds * 1e6:,.0f} us", *slower, *failed])
    return with_device(config, device, reason, mixed_precision), network, program


def step_seconds(
    network: keras.Model, config: Config, plan: Plan, program: Callable, features: Features, folds: list[Fold]
) -> float:
    """The time of a step, from the fastest of several calls of the program for all networks in parallel."""
    data = features_on(config.device, features)
    trace_program(network, config, plan, program, data, folds[0])()
    start = first_state(current_weights(network), config.learning_rate)
    one_call = replace(config, epochs=plan.epochs_per_call)
    network.stop_training = False  # as Model.fit does
    unheard = keras.callbacks.CallbackList(model=network)
    rounds: list[float] = []
    while sum(rounds) < MEASURED_SECONDS:
        trial, started = [replace(fold, state=start, history=[]) for fold in folds], time.perf_counter()
        train_folds(one_call, plan, program, data, trial, unheard, StopRequest())
        rounds.append(time.perf_counter() - started)
    return min(rounds) / (sum(len(fold.history) for fold in trial) * plan.segments * plan.steps)
