"""The basic trainer: the simplest honest baseline for HARVEST.CSV.

    python train_model.py /tmp/HARVEST.CSV

Every column the modern trainer would use is taken as a number, standardised, and given to a plain Sequential network
trained with model.fit. The rows and their split are those of train_model_modern.py, so the two can be compared.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

import train_model_modern as modern

EPOCHS = 150
PATIENCE = 20
BATCH_SIZE = 32


def parse_options(arguments=None):
    parser = modern.Parser(
        prog="train_model.py", description="Train the basic network on HARVEST.CSV.", allow_abbrev=False
    )
    parser.add_argument(
        "csv",
        nargs="?",
        metavar="CSV",
        help="the table to learn from (default: HARVEST.CSV in the temporary directory)",
    )
    parser.add_argument(
        "--model-dir",
        type=Path,
        default=Path("model"),
        metavar="DIR",
        help="where the model is written (default: model)",
    )
    parser.add_argument("--quick", action="store_true", help="at most 20 epochs")
    parser.add_argument("--lightweight", action="store_true", help="one hidden layer of 8 units in place of two of 10")
    parser.add_argument("--cpu-only", action="store_true", help="hide every accelerator")
    parser.add_argument(
        "--seed", type=modern.seed_number, default=42, metavar="N", help="of split and weights (default: 42)"
    )
    return parser.parse_args(arguments)


def read_numbers(csv, seed):
    """Read and split the CSV as the modern trainer does, then take every column as a number: inputs [N, D], label [N]."""
    import numpy as np

    table = modern.read_table(modern.parse_options([csv] if csv else []))
    split = modern.split_rows(table.label, "random", seed)
    raw = modern.raw_inputs(table, np.arange(len(table.label)))
    raw |= {column.name: table.numbers[:, [place]] for place, column in enumerate(table.of_kind("number"))}
    names = list(raw)
    for name, values in raw.items():
        if values.dtype == object:  # text: numbered in the order of the alphabet
            raw[name] = np.unique(values.astype(str), return_inverse=True)[1].reshape(-1, 1)
    inputs = np.concatenate([raw[name].astype(float) for name in names], axis=1)
    return names, np.nan_to_num(inputs), table.label, split


def build_model(keras, width, lightweight):
    hidden = (
        [keras.layers.Dense(8, activation="relu")]
        if lightweight
        else [keras.layers.Dense(10, activation="relu") for _ in range(2)]
    )
    model = keras.Sequential([keras.Input((width,)), *hidden, keras.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model


def run(options):
    names, inputs, label, split = read_numbers(options.csv, options.seed)
    modern.prepare_folder(options.model_dir)
    modern.refuse_others(options.model_dir, [modern.BASIC_MODEL_FILE, modern.BASIC_METRICS_FILE])
    mean, deviation = inputs[split.training].mean(axis=0), inputs[split.training].std(axis=0)
    inputs = ((inputs - mean) / (deviation + 1e-9)).astype("float32")
    modern.prepare_environment(options.cpu_only, xla=False, batch_size=BATCH_SIZE)
    import keras

    keras.utils.set_random_seed(options.seed)
    model = build_model(keras, inputs.shape[1], options.lightweight)
    started = time.perf_counter()
    history = model.fit(
        inputs[split.training],
        label[split.training],
        validation_data=(inputs[split.validation], label[split.validation]),
        epochs=20 if options.quick else EPOCHS,
        batch_size=BATCH_SIZE,
        callbacks=[keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)],
        verbose=2,
    )
    seconds = time.perf_counter() - started
    loss, accuracy = model.evaluate(inputs[split.test], label[split.test], verbose=0)
    archive = modern.add_to_archive(modern.model_archive(model), "basic.json", "{}")  # the mark of what may be replaced
    modern.write_beside(options.model_dir / modern.BASIC_MODEL_FILE, archive)
    metrics = {
        "rows": {name: len(part) for name, part in split._asdict().items()},
        "test": {"accuracy": accuracy, "log_loss": loss},
        "epochs": len(history.epoch),
        "train_s": seconds,
        "columns": names,
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
    }
    modern.write_beside(options.model_dir / modern.BASIC_METRICS_FILE, json.dumps(metrics, indent=2).encode())
    modern.commit(options.model_dir, [modern.BASIC_MODEL_FILE, modern.BASIC_METRICS_FILE])
    print(
        f"test accuracy {accuracy:.3f} on {len(split.test)} rows after {len(history.epoch)} epochs in {seconds:.1f} s"
    )
    print(f"model saved to {options.model_dir / 'basic_model.keras'}")
    return 0


def main(arguments=None):
    return modern.tell_errors(lambda: run(parse_options(arguments)))


if __name__ == "__main__":
    modern.run_command(main)
