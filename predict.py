"""Add the probability of being productive to the rows of a HARVEST.CSV, with a model that was trained on such rows.

    python predict.py /tmp/HARVEST.CSV --output predicted.csv
    python predict.py new.csv --model model/checkpoints/model_42_0.8812.keras

The label may be absent, columns may come in any order, and other columns are passed through. Every input row gives one
output row, in the same order, with the columns probability and predicted added.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import train_model_modern as modern
from train_model_modern import UserError

CHUNK_ROWS = 100_000


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = modern.Parser(prog="predict.py", description="Predict with a trained model.", allow_abbrev=False)
    parser.add_argument("csv", metavar="CSV", help="the rows to predict")
    parser.add_argument("--model-dir", type=Path, default=Path("model"), metavar="DIR", help="where the model is (default: model)")
    parser.add_argument("--model", type=Path, metavar="FILE", help="a model or checkpoint of its own")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the rows go (default: standard output)")
    options = parser.parse_args(arguments)
    options.model = options.model or options.model_dir / modern.MODEL_FILE
    return options


def read_details(path: Path) -> dict[str, Any]:
    """What training stored in the model's archive: label, threshold and feature columns."""
    if not path.is_file():
        raise UserError(f"{path}: no such model; train one first, or name it with --model")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("training.json").file_size > 1 << 24:
                raise UserError(f"{path}: training.json is unreasonably large; train the model again")
            return json.loads(archive.read("training.json"))
    except (zipfile.BadZipFile, KeyError, ValueError):
        raise UserError(f"{path}: is not a model written by train_model_modern.py; train it again") from None


def read_rows(path: str, details: dict[str, Any]) -> Any:
    """Iterate over (first line number, data frame of text) of a CSV with or without a header."""
    import pandas as pd

    first = modern.check_file(path)
    names, header = list_columns(path, first)
    features = [column["name"] for column in details["columns"]]
    absent = [name for name in features if name not in names]
    if absent:
        raise UserError(f"{path}: line 1 has no column {absent[0]}, which the model needs; columns are {', '.join(names[:12])}")
    line = 2 if header else 1
    try:
        for chunk in pd.read_csv(
            path,
            header=0 if header else None,
            names=names,
            dtype=str,
            chunksize=CHUNK_ROWS,
            keep_default_na=False,
            na_values=[],
            encoding="utf-8-sig",
            index_col=False,
            skipinitialspace=True,
        ):
            yield line, chunk.fillna("")
            line += len(chunk)
    except UnicodeDecodeError:
        raise UserError(f"{path}: {modern.undecodable_line(path)} is not UTF-8 text; save the file as UTF-8") from None
    except pd.errors.ParserError as error:
        raise UserError(f"{path}: {error}; mend the row") from None


def list_columns(path: str, first: str) -> tuple[list[str], bool]:
    """As in training, but four numbers without a header are a 2017 row without its label."""
    if first.count(",") == len(modern.V0_COLUMNS) - 2 and all(modern.is_number(cell) for cell in first.split(",")):
        return modern.V0_COLUMNS[:-1], False
    return modern.column_names(path, first)


def model_inputs(model: Any, path: str, line: int, chunk: Any) -> dict[str, Any]:
    """Turn text cells into what the model takes: numbers float32, integer categories int64, text as it is; [B, 1]."""
    import numpy as np
    import pandas as pd
    import tensorflow

    inputs = {}
    for name, tensor in model.input.items():
        cells = chunk[name].str.strip()
        if tensor.dtype == "string":
            inputs[name] = tensorflow.constant(cells.to_numpy(object)[:, None])
            continue
        numbers = pd.to_numeric(cells.where(cells != ""), errors="coerce")
        wrong = np.flatnonzero((cells != "") & ~np.isfinite(numbers.astype(float)))
        if tensor.dtype == "int64":
            whole = [int(cell.split(".")[0]) if modern.INTEGER.fullmatch(cell) else modern.MISSING for cell in cells.unique()]
            inputs[name] = np.array(whole, np.int64)[pd.factorize(cells)[0]][:, None]
        elif len(wrong):
            raise UserError(f"{path}: line {line + wrong[0]}, column {name}: {cells.iloc[wrong[0]]!r} is not a number; mend the cell or leave it empty")
        else:
            inputs[name] = numbers.to_numpy(np.float32)[:, None]
    return inputs


def load_model(path: Path) -> Any:
    modern.prepare_environment(cpu_only=True, xla=False, batch_size=1)
    modern.import_tensorflow()
    import keras

    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise UserError(f"{path}: cannot be loaded ({type(error).__name__}); train the model again") from None


def run(options: argparse.Namespace) -> int:
    details = read_details(options.model)
    chunks = read_rows(options.csv, details)
    chunk = next(chunks, None)  # before TensorFlow is imported: bad input is told at once
    model = load_model(options.model)
    beside = options.output and options.output.with_name(f".{options.output.name}.{os.getpid()}.tmp")
    with open(beside, "w", encoding="utf-8", newline="") if beside else contextlib.nullcontext(sys.stdout) as out:
        try:
            header = True
            while chunk is not None:
                line, rows = chunk
                probability = model.predict_on_batch(model_inputs(model, options.csv, line, rows))[:, 0]
                rows["probability"] = [f"{value:.6f}" for value in probability]
                rows["predicted"] = (probability >= details["threshold"]).astype(int)
                rows.to_csv(out, index=False, header=header, lineterminator="\n")
                header, chunk = False, next(chunks, None)
        except BaseException:
            if beside:
                beside.unlink()
            raise
    if beside:
        os.replace(beside, options.output)
    return 0


def main(arguments: list[str] | None = None) -> int:
    try:
        return run(parse_options(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, BrokenPipeError):
        sys.stderr.close()
        return 130


if __name__ == "__main__":
    sys.exit(main())
