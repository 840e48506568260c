# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#   "tensorflow-cpu>=2.21,<3; (sys_platform == 'linux' and platform_machine == 'x86_64') or sys_platform == 'win32'",
#   "tensorflow>=2.21,<3; (sys_platform != 'linux' or platform_machine != 'x86_64') and sys_platform != 'win32'",
#   "keras>=3.15.1,<4",
#   "numpy>=2,<3",
#   "pandas>=2.2,<4",
# ]
# ///
"""The basic trainer: a plain network for HARVEST.CSV, as a baseline for train_model_modern.py.

    python train_model.py /tmp/HARVEST.CSV

It uses the same rows and the same split as train_model_modern.py --folds 1. It reads every column as a number,
standardizes it, and trains a Sequential network with model.fit.
"""

import signal

if __name__ == "__main__":  # Ctrl-C during the imports ends the command without a traceback, as in cli.run()
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from harvest import cli

MODEL_FILE, METRICS_FILE = "basic_model.keras", "basic_metrics.json"
EPOCHS, QUICK_EPOCHS, PATIENCE, BATCH_SIZE = 150, 20, 20, 32


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(description="Train the basic network on HARVEST.CSV.")
    add = parser.add_argument
    help = "the CSV file to train on (default: HARVEST.CSV in the temporary directory)"
    add("csv", nargs="?", default=os.path.join(tempfile.gettempdir(), "HARVEST.CSV"), metavar="CSV", help=help)
    add("--model-dir", type=Path, default="model", metavar="DIR", help="directory for the model (default: model)")
    add("--quick", action="store_true", help=f"train for at most {QUICK_EPOCHS} epochs (default: {EPOCHS})")
    add("--lightweight", action="store_true", help="one hidden layer of 8 units instead of two of 10")
    add("--cpu-only", action="store_true", help="do not use a GPU")
    help = "seed of the initial weights and of shuffling (default: 42)"
    add("--seed", type=cli.seed_number, default=42, metavar="N", help=help)
    # The defaults of the flags of train_model_modern.py, so that the rows and the split are the same.
    parser.set_defaults(sample=None, label="productive", categorical=[], numeric=[], drop=[], skip_bad_rows=False)
    parser.set_defaults(folds=1, split="random", split_seed=42, time_column=None)
    args = parser.parse_args(argv)
    args.csv = [args.csv]
    return args


def as_numbers(table: Any) -> tuple[list[str], Any]:
    """The names of the D columns and their cells as numbers [N, D]: text as alphabetical rank, missing cells as 0."""
    import numpy as np

    from harvest.data.cells import MISSING

    columns = {column.name: table.numbers(column.name) for column in table.of_kind("number")}
    for column in table.of_kind("category"):
        values = column.vocabulary if column.integers else range(len(column.vocabulary))
        numbers = np.array([0 if value == MISSING else value for value in values], float)
        columns[column.name] = numbers[table.codes(column.name)]
    return list(columns), np.nan_to_num(np.stack(list(columns.values()), axis=1))


@cli.command
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    from harvest.data.splits import make_splits
    from harvest.data.table import read_table
    from harvest.run_directory import RunDirectory
    from harvest.training.tensorflow_setup import import_tensorflow, prepare_environment

    table, _ = read_table(args)
    split = make_splits(args, table.label, 1, table.repeats)[0]
    run = RunDirectory(args.model_dir, training=False, files=(MODEL_FILE, METRICS_FILE))
    run.check()

    # Standardize with the mean and deviation of the training rows.
    names, inputs = as_numbers(table)
    mean, deviation = inputs[split.train].mean(axis=0), inputs[split.train].std(axis=0)
    inputs = ((inputs - mean) / (deviation + 1e-9)).astype("float32")

    prepare_environment(args.cpu_only, xla=False)
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(args.seed)
    hidden = [keras.layers.Dense(units, activation="relu") for units in ([8] if args.lightweight else [10, 10])]
    model = keras.Sequential([keras.Input((len(names),)), *hidden, keras.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    with run:
        started = time.perf_counter()
        history = model.fit(
            inputs[split.train],
            table.label[split.train],
            validation_data=(inputs[split.val], table.label[split.val]),
            epochs=QUICK_EPOCHS if args.quick else EPOCHS,
            batch_size=BATCH_SIZE,
            callbacks=[keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)],
            verbose=2,
        )
        seconds, epochs = time.perf_counter() - started, len(history.epoch)
        loss, accuracy = model.evaluate(inputs[split.test], table.label[split.test], verbose=0)

        rows = {"training": len(split.train), "validation": len(split.val), "test": len(split.test)}
        metrics = {"rows": rows, "test": {"accuracy": accuracy, "log_loss": loss}, "epochs": epochs, "train_s": seconds}
        metrics |= {"columns": names, "mean": mean.tolist(), "deviation": deviation.tolist()}
        model.save(run.staged(MODEL_FILE))
        run.stage(METRICS_FILE, json.dumps(metrics, indent=2).encode())
        run.commit()
    print(f"test accuracy {accuracy:.3f} on {len(split.test):,} rows after {epochs} epochs in {seconds:.1f} s")
    print(f"model saved to {args.model_dir / MODEL_FILE}")
    return 0


if __name__ == "__main__":
    cli.run(main)
