"""Training for the benchmarks, as the command does it but without output files."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import train_model_modern as trainer
from harvest.cli import StopRequest
from harvest.data.encoding import Encoding, Features, encode, fit_encoding
from harvest.data.splits import Split, make_splits
from harvest.data.table import Table, read_table
from harvest.results.linear import fit_linear
from harvest.training.config import Config, Plan, choose_folds, decide, make_plan, with_device
from harvest.training.tensorflow_setup import Device, find_devices, import_tensorflow, prepare_environment

if TYPE_CHECKING:
    from harvest.model.inference_model import InferenceModel, Predictor
    from harvest.training.folds import Fold


@dataclass
class Run:
    table: Table
    splits: list[Split]
    config: Config
    plan: Plan
    encoding: Encoding
    features: Features
    folds: list[Fold]
    model: InferenceModel
    predictor: Predictor
    program: Any
    data: Features  # as tensors
    compile_s: float

    def encoded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs of the first network and labels for these rows, to train other models on."""
        inputs = encode(*self.features.take(rows), self.encoding, self.folds[0].encoding)
        return inputs.numpy(), self.features.labels[rows]


def start_tensorflow(cpu_only: bool = True) -> None:
    prepare_environment(cpu_only, xla=True)
    import_tensorflow()


def read(path: Path | str, *flags: object) -> tuple[argparse.Namespace, Table]:
    args = trainer.parse_args([str(path), *map(str, flags)])
    return args, read_table(args)[0]


def make_run(args: argparse.Namespace, table: Table, precision: str = "float32", device: Device | None = None) -> Run:
    """Do everything that the command does with a table before the first epoch, on a device (default: the CPU)."""
    from harvest.model.inference_model import Predictor, build_inference_model
    from harvest.training import folds as training
    from harvest.training import program as compiled
    from harvest.training.feature_major import feature_major

    folds_decision = choose_folds(args, table)
    splits = make_splits(args, table.label, folds_decision.value, table.repeats)
    config = decide(args, splits, table, folds_decision)
    config = replace(with_device(config, device or find_devices(True)[0], "measured", None), precision=precision)
    encoding, fold_encodings, features = fit_encoding(table, splits)
    plan, architecture = make_plan(config, splits, encoding.width), trainer.ARCHITECTURES[args.architecture]
    folds = []
    for number, (split, fold_encoding) in enumerate(zip(splits, fold_encodings, strict=True)):
        linear = fit_linear(features, split.train, encoding, fold_encoding, folds=len(splits))
        folds.append(training.Fold(number, split, fold_encoding, linear))
        training.start_fold(folds[-1], config, plan)
    network = trainer.build_network(encoding.width, architecture, config.momentum, config.hidden_dtype)
    network = feature_major(network)
    program, data = (
        compiled.build_program(network, config, plan, encoding),
        training.features_on(config.device, features),
    )
    compile_program = training.trace_program(network, config, plan, program, data, folds[0])

    def make_network(width: int) -> Any:
        return trainer.build_network(width, architecture, config.momentum)

    model = build_inference_model(table, encoding, fold_encodings, make_network, args.seed)
    for fold, saved in zip(folds, model.networks, strict=True):
        trainer.start_from_linear_model(saved, np.append(fold.linear[:-1], fold.linear[-1] + config.offset))
        fold.state = compiled.first_state(compiled.current_weights(saved), config.learning_rate)
    started = time.perf_counter()
    compile_program()
    predictor = Predictor(model, encoding, fold_encodings)
    made = (table, splits, config, plan, encoding, features, folds, model, predictor, program, data)
    return Run(*made, compile_s=time.perf_counter() - started)


def train(run: Run, epochs: int, callbacks: tuple = ()) -> float:
    """Train for this many more epochs with validation and all metrics; return the seconds."""
    from harvest.training.callbacks import make_callback_list
    from harvest.training.folds import train_folds

    config = replace(run.config, epochs=len(run.folds[0].history) + epochs)
    for fold in run.folds:
        fold.reason = ""
    steps = run.plan.steps * run.plan.segments
    models = run.model.model, run.model.networks, run.folds
    driver = make_callback_list(list(callbacks), *models, epochs=config.epochs, steps=steps)
    started = time.perf_counter()
    train_folds(config, run.plan, run.program, run.data, run.folds, driver, StopRequest())
    return time.perf_counter() - started
