"""A small training without a file: a table made here, the config and the plan for it, its networks and folds."""

import argparse
from dataclasses import replace
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from small_table import small_table

from harvest.data.encoding import Encoding, Features, fit_encoding
from harvest.data.splits import Split, make_splits
from harvest.data.table import Table
from harvest.training.config import Config, Plan, choose_folds, decide, make_plan
from harvest.training.feature_major import feature_major
from harvest.training.folds import Fold, StopRequest, features_on, start_fold, train_folds
from harvest.training.program import Weights, build_program, current_weights, first_state

DEFAULTS = {
    "epochs": 150,
    "batch_size": None,
    "learning_rate": None,
    "seed": 42,
    "folds": 1,
    "split": "random",
    "split_seed": 42,
    "time_column": None,
    "csv": ["rows.csv"],
    "label": "productive",
    "sample": None,
    "xla": False,
    "profile": False,
    "cpu_only": True,
    "mixed_precision": None,
    "early_stopping": True,
    "reduce_lr": True,
    "adamw": True,
    "class_weight": "none",
}

PROGRAMS: dict = {}  # compiled already


def flags(**changed):
    """The values of the flags that training depends on."""
    return argparse.Namespace(**DEFAULTS | changed)


def network_of(width, units=(10, 10), dropout=0.2, momentum=0.9, hidden_dtype="float32"):
    """A network like that of build_network(), whose last kernel is not zero."""
    inputs = keras.Input((width,), name="inputs")
    hidden = inputs
    for number, count in enumerate(units, 1):
        hidden = keras.layers.Dense(count, activation="mish", dtype=hidden_dtype, name=f"hidden_{number}")(hidden)
        hidden = keras.layers.BatchNormalization(momentum=momentum, name=f"normalization_{number}")(hidden)
        hidden = keras.layers.Dropout(dropout, name=f"dropout_{number}")(hidden)
    nonlinear = keras.layers.Dense(1, name="from_hidden")(hidden)
    linear = keras.layers.Dense(1, use_bias=False, name="from_inputs")(inputs)
    return keras.Model(inputs, keras.layers.Add(name="logit")([nonlinear, linear]), name="network")


class SmallTraining(NamedTuple):
    table: Table
    config: Config
    plan: Plan
    encoding: Encoding
    features: Features
    folds: list[Fold]
    stock: keras.Model
    network: keras.Model
    weights: Weights  # with which every fold starts

    def train(self, epochs, callbacks=(), rate=0.001, folds=None, stop=None, group=None, **changed):
        """Train folds anew; changed are values of the config or of the plan, or another network."""
        network = changed.pop("network", self.network)
        plan = self.plan._replace(**{name: value for name, value in changed.items() if name in Plan._fields})
        rest = {name: value for name, value in changed.items() if name not in Plan._fields}
        config = replace(self.config, epochs=epochs, **rest)
        folds = [Fold(fold.number, fold.split, fold.encoding, fold.linear) for fold in folds or self.folds]
        for fold in folds:
            start_fold(fold, config, plan)
            fold.state = first_state(self.weights, rate)
        self.stock.stop_training = False
        key = network, plan, repr(replace(config, epochs=0, seed=0))  # all that a program is compiled for
        program = PROGRAMS.setdefault(key, build_program(network, config, plan, self.encoding))
        listening = keras.callbacks.CallbackList(list(callbacks), model=self.stock)
        features = features_on(config.device, self.features)
        train_folds(config, plan, program, features, folds, listening, stop or StopRequest(), group)
        return folds


def small_training(rows=120, units=(10, 10), dropout=0.2, precision="float32", **changed):
    """Rows whose label follows from a category and two numbers, with some chance."""
    generator = np.random.default_rng(5)
    app, idle, keys = generator.integers(0, 5, rows), generator.lognormal(5, 2, rows), generator.normal(size=rows)
    label = app % 2 + np.log(idle) / 5 + keys + generator.normal(0, 0.3, rows) > 1.5
    idle[::11] = np.nan
    table = small_table(label, foreground_app=app.tolist(), idle_time=idle, keys=keys)
    args = flags(**changed)
    number = choose_folds(args, table)
    splits: list[Split] = make_splits(args, table.label, number.value)
    encoding, fold_encodings, features = fit_encoding(table, splits)
    config = replace(decide(args, splits, table, number), precision=precision)
    plan = make_plan(config, splits, encoding.width)
    keras.utils.set_random_seed(1)
    stock = network_of(encoding.width, units, dropout, config.momentum)
    trained = feature_major(network_of(encoding.width, units, dropout, config.momentum, config.hidden_dtype))
    folds = [Fold(place, *pair, np.zeros(1)) for place, pair in enumerate(zip(splits, fold_encodings, strict=True))]
    return SmallTraining(table, config, plan, encoding, features, folds, stock, trained, current_weights(stock))


def tensors(features, rows):
    """Encoded inputs' parts of some rows: numbers [D, B], categories [C, B]."""
    return tuple(tf.constant(part[:, rows]) for part in features[:2])
