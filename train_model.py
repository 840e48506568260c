"""The basic trainer: the simplest honest baseline for HARVEST.CSV, to compare train_model_modern.py with.

    python train_model.py /tmp/HARVEST.CSV

The rows and their split are those of train_model_modern.py. Every column is taken as a number, standardised, and given
to a plain Sequential network that is trained with model.fit.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

import train_model_modern as modern
from train_model_modern import MISSING, Table, UserError, read_table, split_rows

# isort: split
import numpy as np  # after the above, which says what to do where it is not installed

MODEL_FILE, METRICS_FILE = "basic_model.keras", "basic_metrics.json"
MARK = "basic.json"  # an entry in the model's archive, by which this program knows its own
EPOCHS, PATIENCE, BATCH_SIZE = 150, 20, 32


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = modern.Parser(
        prog="train_model.py", description="Train the basic network on HARVEST.CSV.", allow_abbrev=False
    )
    add = parser.add_argument
    words = "the CSV file to train on (default: HARVEST.CSV in the temporary directory)"
    add("csv", nargs="?", metavar="CSV", help=words)
    add("--model-dir", type=Path, default="model", metavar="DIR", help="the directory for the model (default: model)")
    add("--quick", action="store_true", help="at most 20 epochs")
    add("--lightweight", action="store_true", help="one hidden layer of 8 units in place of two of 10")
    add("--cpu-only", action="store_true", help="use no GPU")
    words = "seed of the initial weights and the order of rows (default: 42)"
    add("--seed", type=modern.seed_number, default=42, metavar="N", help=words)
    return parser.parse_args(arguments)


def as_numbers(table: Table) -> tuple[list[str], np.ndarray]:
    """The names of the columns and their cells as numbers [N, D]: text by its alphabetical place, 0 for no value."""
    names, columns = [column.name for column in table.of_kind("number")], list(table.numbers.T)
    for column, codes in zip(table.of_kind("category"), table.codes.T, strict=True):
        values = column.vocabulary if column.integers else range(len(column.vocabulary))
        names.append(column.name)
        columns.append(np.array([0 if value == MISSING else value for value in values], float)[codes])
    return names, np.nan_to_num(np.stack(columns, axis=1))


def prepare_folder(folder: Path) -> None:
    """Make the model directory; refuse one that cannot be written to, or in which others' files have our names."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"--model-dir {folder}: {error.strerror}; name a directory that can be written to") from None
    for path in (folder / MODEL_FILE, folder / METRICS_FILE):
        ours = path.is_file() and not path.is_symlink() and is_ours(path)
        if os.path.lexists(path) and not ours:
            raise UserError(f"{path}: was not written by this program; move it away or name another --model-dir")


def is_ours(path: Path) -> bool:
    if zipfile.is_zipfile(path):
        return MARK in zipfile.ZipFile(path).namelist()
    return path.read_bytes().startswith(b'{\n  "rows":')


def run(options: argparse.Namespace) -> None:
    plain = modern.parse_options(["--", options.csv] if options.csv else [])
    table = read_table(plain)
    split = training, validation, test = split_rows(table.label, plain.split, plain.split_seed)
    names, inputs = as_numbers(table)
    prepare_folder(options.model_dir)
    mean, deviation = inputs[training].mean(axis=0), inputs[training].std(axis=0)
    inputs = ((inputs - mean) / (deviation + 1e-9)).astype("float32")

    for name in [name for name in os.environ if name.startswith("KERAS_")]:  # the user's own settings change nothing
        del os.environ[name]
    os.environ |= {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull, "TF_CPP_MIN_LOG_LEVEL": "3"}
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # or it prints a notice
    if options.cpu_only:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import keras  # this late, since it takes seconds: what is wrong with the data has been told

    keras.utils.set_random_seed(options.seed)
    hidden = [keras.layers.Dense(units, activation="relu") for units in ([8] if options.lightweight else [10, 10])]
    model = keras.Sequential([keras.Input((len(names),)), *hidden, keras.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    started = time.perf_counter()
    history = model.fit(
        inputs[training],
        table.label[training],
        validation_data=(inputs[validation], table.label[validation]),
        epochs=20 if options.quick else EPOCHS,
        batch_size=BATCH_SIZE,
        callbacks=[keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)],
        verbose=2 if sys.stdout else 0,
    )
    seconds, epochs = time.perf_counter() - started, len(history.epoch)
    loss, accuracy = model.evaluate(inputs[test], table.label[test], verbose=0)

    metrics = {"rows": {name: len(rows) for name, rows in split._asdict().items()}}
    metrics |= {"test": {"accuracy": accuracy, "log_loss": loss}, "epochs": epochs, "train_s": seconds}
    metrics |= {"columns": names, "mean": mean.tolist(), "deviation": deviation.tolist()}
    with tempfile.TemporaryDirectory(prefix=".train_model-", dir=options.model_dir) as new:
        model.save(Path(new, MODEL_FILE))
        with zipfile.ZipFile(Path(new, MODEL_FILE), "a") as archive:
            archive.writestr(MARK, "{}")
        Path(new, METRICS_FILE).write_bytes(json.dumps(metrics, indent=2).encode())
        for name in (MODEL_FILE, METRICS_FILE):  # a failure until here leaves the previous files
            os.replace(Path(new, name), options.model_dir / name)
    print(f"test accuracy {accuracy:.3f} on {len(test):,} rows after {epochs} epochs in {seconds:.1f} s")
    print(f"model saved to {options.model_dir / MODEL_FILE}")


if __name__ == "__main__":
    try:
        run(parse_arguments())
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        sys.exit(modern.missing_package(error))
    except (UserError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)  # 2: the command line or the data is wrong
