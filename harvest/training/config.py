"""Settings chosen automatically before training, each with its reason, and the shape of an epoch."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from harvest.cli import UserError
from harvest.data.encoding import expected_width
from harvest.data.repeats import most_folds
from harvest.data.splits import Split
from harvest.data.table import Table
from harvest.decision import Decision
from harvest.training.tensorflow_setup import Device, find_devices, hide_gpus, import_tensorflow, prepare_environment

WEIGHT_DECAY = 0.1
XLA_COMPILE_SECONDS = 0.9  # typical, in addition to tracing; benchmarks/speed.py measures it and the times of a step
# With and without XLA: seconds per step, per input of the network (AdamW), and per input of a row (matrix products).
STEP_SECONDS = {True: (6e-6, 3e-8, 3e-9), False: (1.5e-4, 2e-7, 9e-9)}
EPOCH_SECONDS = 1e-3  # per fold, for validation and callbacks
START_SECONDS = 4e-7  # per number of a row and fold, for the encoding and the first logistic regression
USUAL_EPOCHS = 50  # until early stopping
ENSEMBLE = 10
ENSEMBLE_ROWS = 30_000  # an ensemble gains less with more rows: log-loss -0.012 at 500 rows, -0.001 at 20,000
ENSEMBLE_SECONDS = 10.0  # on one core
SHORT_RUN = 200_000  # steps
TRIAL_SECONDS = 10.0  # if training takes less, also compiling for a GPU costs more than it can save
SEGMENT_ROWS = 16_384  # training rows encoded at a time
VALIDATION_SEGMENT = 4_096  # validation rows encoded at a time
SEGMENT_CELLS = 1 << 25  # inputs encoded at a time, of either: 128 MB


@dataclass
class Config:
    """The settings of training, and the reason for each by its name in metrics.json."""

    epochs: int
    seed: int
    folds: int
    batch_size: int
    learning_rate: float
    patience: int  # epochs without a better validation loss before stopping; 0: never stop
    plateau: int  # epochs without a better validation loss before the learning rate is halved; 0: never
    momentum: float  # of the running means of BatchNormalization
    weight_decay: float
    xla: bool
    class_weights: tuple[float, float]  # of 0 and of 1
    profile: bool
    steps: int  # of all folds if none stops early
    usual_patience: int  # the patience with early stopping
    reasons: dict[str, str]
    device: Device
    precision: str  # of the matrix products of hidden layers: float32, float16 or bfloat16

    @property
    def hidden_dtype(self) -> str:
        """The precision as a dtype policy of Keras."""
        return "float32" if self.precision == "float32" else f"mixed_{self.precision}"

    @property
    def offset(self) -> float:
        """The shift of the logits by class weights: the logarithm of their ratio."""
        return math.log(self.class_weights[1] / self.class_weights[0])

    @property
    def even_threshold(self) -> float:
        """The threshold that corresponds to the class weights: 0.5 without weights."""
        return self.class_weights[0] / sum(self.class_weights)

    def settings(self) -> dict[str, Any]:
        """The chosen settings by their names in metrics.json."""
        names = ("folds", "batch_size", "learning_rate", "momentum", "xla", "precision")
        values = {name: getattr(self, name) for name in names}
        return values | {"patience": self.usual_patience, "device": self.device.name}

    def explain(self, plan: Plan, architecture: str, units: Sequence[int], balanced: bool) -> list[str]:
        """The lines printed before training: the settings that matter most to the user, with their reasons."""
        reasons, networks = self.reasons, f"{self.folds} networks, each with " if self.folds > 1 else ""
        stop = f"{self.patience} epochs ({reasons['patience']}) without a better validation loss"
        lines = [
            f"Device     {self.device.name} ({reasons['device']})",
            f"Model      {architecture}: {networks}{plan.width} inputs, hidden units {'-'.join(map(str, units))}",
            f"Batch      {plan.batch_size:,} rows ({reasons['batch_size']})",
            f"Rate       {self.learning_rate:g} initially ({reasons['learning_rate']})",
            f"Patience   {stop if self.patience else 'none: trains for all epochs (--no-early-stopping)'}",
            f"XLA        {'on' if self.xla else 'off'} ({reasons['xla']})",
            f"Precision  {self.precision} ({reasons['precision']})",
        ]
        if balanced:
            what = "both have the same weight in training; the saved model corrects its probabilities for that"
            lines.append(f"Weights    balanced classes: {what}")
        return lines


def choose_folds(args: argparse.Namespace, table: Table) -> Decision:
    """The number of networks, each trained on all folds except two; 1: a single network."""
    rows, rarer = len(table.label), most_folds(table.label, table.repeats)
    if args.folds == 1:
        return Decision(1, "as requested")
    if args.split == "time" and args.folds == "auto":
        return Decision(1, "the split is by time; --folds 5 uses five sliding windows")
    asked = ENSEMBLE if args.folds == "auto" else args.folds
    folds = asked if args.split == "time" else min(asked, rarer)
    batch_size, trained = choose_batch_size(args.batch_size, rows).value, int(0.8 * rows)
    epochs = folds * min(args.epochs, USUAL_EPOCHS)
    step = usual_step_seconds(args.xla is not False, batch_size, expected_width(table, trained))
    seconds = epochs * (trained / batch_size * step + EPOCH_SECONDS)
    seconds += folds * trained * len(table.of_kind("number")) * START_SECONDS
    cost = f"training {folds:,} networks takes about {max(0.1, seconds):.1f} s on one core"
    of_what = "groups of repeated rows, which stay together," if table.repeats else "rows,"
    fewest = f"the rarer class has {rarer} {of_what} and every fold needs one"
    lowered = f"lowered from {asked:,}: {fewest}"
    if args.folds != "auto":
        return Decision(folds, f"as requested; {cost}" if folds == asked else lowered)
    if rows > ENSEMBLE_ROWS:
        return Decision(1, f"{cost} and gains little for {rows:,} rows")
    if seconds > ENSEMBLE_SECONDS:
        return Decision(1, f"{cost}; --folds {ENSEMBLE} trains them anyway")
    return Decision(folds, f"{cost}, and an ensemble is more accurate" if folds == asked else lowered)


def choose_batch_size(asked: int | None, rows: int) -> Decision:
    if asked:
        return Decision(min(asked, rows), "as requested" if asked <= rows else "all training rows")
    for size, most in ((8, 1_000), (16, 4_000), (32, 50_000)):
        if rows < most:
            return Decision(size, f"fewer than {most:,} training rows: small batches take more steps per epoch")
    return Decision(256, f"at least {most:,} training rows: as accurate as smaller batches, and twice as fast")


def choose_patience(steps: int) -> Decision:
    """Epochs without a better validation loss before stopping; the learning rate is halved after a third of it."""
    patience = min(50, max(10, math.ceil(2_000 / steps)))
    return Decision(patience, f"{patience * steps:,} steps")


def choose_momentum(steps: int) -> Decision:
    momentum, why = (0.99, "have time to converge") if steps >= 10_000 else (0.9, "must converge fast")
    return Decision(momentum, f"{steps:,} steps to run: moving averages {why}")


def usual_step_seconds(xla: bool, batch_size: int, inputs: int) -> float:
    """The typical time of a step of the standard network on one core."""
    step, by_input, by_cell = STEP_SECONDS[xla]
    return step + (by_input + by_cell * batch_size) * inputs


def choose_xla(asked: bool | None, profile: bool, steps: int, batch_size: int, inputs: int) -> Decision:
    if asked is not None:
        return Decision(asked, "as requested")
    if profile:
        return Decision(True, "a profile shows steps of compiled programs only")
    slow, quick = (usual_step_seconds(xla, batch_size, inputs) for xla in (False, True))
    saved = steps * (slow - quick)
    cost = f"compiling typically takes {XLA_COMPILE_SECONDS} s"
    reason = f"saves up to {saved:.1f} s in {steps:,} steps; {cost}"
    return Decision(saved > XLA_COMPILE_SECONDS, reason)


def decide(args: argparse.Namespace, splits: list[Split], table: Table, folds: Decision) -> Config:
    """The settings that do not depend on TensorFlow; setup_tensorflow() adds the device and the precision."""
    rows = max(len(split.train) for split in splits)
    batch_size = choose_batch_size(args.batch_size, rows)
    steps = math.prod(segment_steps(rows, batch_size.value)) * args.epochs  # of a fold
    xla = choose_xla(args.xla, args.profile, steps * len(splits), batch_size.value, expected_width(table, rows))
    patience, momentum = choose_patience(steps // args.epochs), choose_momentum(steps)
    learning_rate = Decision(args.learning_rate or 0.006, "as requested" if args.learning_rate else "default")
    share = float(table.label[splits[0].train].mean())
    decisions = {"folds": folds, "batch_size": batch_size, "learning_rate": learning_rate, "patience": patience}
    decisions |= {"momentum": momentum, "xla": xla}
    return Config(
        epochs=args.epochs,
        seed=args.seed,
        folds=folds.value,
        batch_size=batch_size.value,
        learning_rate=learning_rate.value,
        patience=patience.value if args.early_stopping else 0,
        plateau=max(3, patience.value // 3) if args.reduce_lr else 0,
        momentum=momentum.value,
        weight_decay=WEIGHT_DECAY if args.adamw else 0.0,
        xla=xla.value,
        class_weights=(0.5 / (1 - share), 0.5 / share) if args.class_weight == "balanced" else (1.0, 1.0),
        profile=args.profile,
        steps=steps * len(splits),
        usual_patience=patience.value,
        reasons={name: decision.reason for name, decision in decisions.items()},
        device=Device("cpu", ""),  # device and precision are set once TensorFlow has found the devices
        precision="float32",
    )


def setup_tensorflow(
    args: argparse.Namespace, config: Config, table: Table, before: str = ""
) -> tuple[Config, list[Device]]:
    """Import TensorFlow and choose the device; if it returns several, try_devices() tries them.

    `before` is the kind of device on which an interrupted run started.
    """
    if config.profile:
        os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")  # needed for the memory page of the profile
    prepare_environment(args.cpu_only, config.xla, short=config.steps < SHORT_RUN)
    import_tensorflow()
    steps = config.steps * min(config.epochs, USUAL_EPOCHS) / config.epochs
    width = expected_width(table, int(0.8 * len(table.label)))
    seconds = steps * usual_step_seconds(config.xla, config.batch_size, width)  # on one core
    devices = choose_devices(find_devices(args.cpu_only), args.cpu_only, before, seconds)
    if all(device.kind == "cpu" for device in devices.value):
        hide_gpus()
    return with_device(config, devices.value[0], devices.reason, args.mixed_precision), devices.value


def choose_devices(found: list[Device], cpu_only: bool, before: str, seconds: float) -> Decision:
    """The device to train on or, if training is long, the devices to try, from a list that starts with the CPU."""
    if before:
        if same := [device for device in found if device.kind == before]:
            return Decision(same, "as in the interrupted run")
        raise UserError("--resume: the interrupted run trained on a GPU, but no GPU was found; start without --resume")
    cpu, *gpus = found
    if not gpus:
        return Decision(found, "--cpu-only" if cpu_only else "no GPU was found")
    if seconds < TRIAL_SECONDS:
        return Decision([cpu], f"{gpus[0].name} is not tried because training takes less than {TRIAL_SECONDS:.0f} s")
    return Decision(found, "")


def choose_precision(asked: bool | None, device: Device) -> Decision:
    """The precision of matrix products: float16 on GPUs since Volta; bfloat16, on request, on CPUs that support it."""
    if asked is False:
        return Decision("float32", "as requested")
    if device.kind == "gpu":
        version = "compute capability {}.{}".format(*device.capability)
        if device.capability >= (7, 0):
            return Decision("float16", f"{device.name} supports mixed precision ({version})")
        return Decision("float32", f"{device.name} does not support mixed precision ({version} is below 7.0)")
    if asked is None:
        return Decision("float32", "mixed precision is no faster for layers this narrow on a CPU")
    if device.flags & {"avx512_bf16", "amx_bf16"}:
        return Decision("bfloat16", "as requested; slower than float32 for layers this narrow on a CPU")
    return Decision("float32", f"{device.name} does not support mixed precision: neither avx512_bf16 nor amx_bf16")


def with_device(config: Config, device: Device, reason: str, mixed_precision: bool | None) -> Config:
    """The config for a device, with the precision chosen for it."""
    precision = choose_precision(mixed_precision, device)
    reasons = config.reasons | {"device": reason, "precision": precision.reason}
    return replace(config, device=device, precision=precision.value, reasons=reasons)


class Plan(NamedTuple):
    """The shape of an epoch, for which the training program is compiled."""

    width: int  # E, the inputs of the network
    batch_size: int
    segments: int  # an epoch is cut into segments, which are gathered and encoded one at a time
    steps: int  # per segment
    epochs_per_call: int
    validation_rows: int  # of the fold with the most

    @property
    def rows(self) -> int:
        """Rows drawn in an epoch; the first rows of the epoch also fill up its last batch."""
        return self.segments * self.steps * self.batch_size

    @property
    def validation_segment(self) -> int:
        """Validation rows encoded at a time."""
        return min(VALIDATION_SEGMENT, self.validation_rows, max(1, SEGMENT_CELLS // self.width))


def make_plan(config: Config, splits: list[Split], width: int) -> Plan:
    segments, steps = segment_steps(max(len(split.train) for split in splits), config.batch_size, width)
    rows = segments * steps * config.batch_size
    several = max(1, min(25, 100_000 // rows, 20_000_000 // (rows * width)))  # a run can stop only between calls
    epochs_per_call = 1 if config.profile else min(config.epochs, several)
    most = max(len(split.val) for split in splits)
    return Plan(width, config.batch_size, segments, steps, epochs_per_call, validation_rows=most)


def segment_steps(rows: int, batch_size: int, width: int = 1) -> tuple[int, int]:
    """The number of segments of an epoch, and of steps in each."""
    steps = math.ceil(rows / batch_size)
    fewest = math.ceil(steps / max(1, min(SEGMENT_ROWS, SEGMENT_CELLS // width) // batch_size))
    segments = cut_evenly(steps, fewest, math.ceil)
    return segments, math.ceil(steps / segments)


def cut_evenly(steps: int, fewest: int, rounded: Callable[[float], int]) -> int:
    """The number of parts, at least `fewest`, of equal rounded length, with a total closest to `steps`."""
    parts = range(fewest, min(steps, 2 * fewest) + 1)
    return min(parts, key=lambda count: abs(count * rounded(steps / count) - steps))
