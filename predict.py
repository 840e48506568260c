"""Add the probability of being productive to the rows of a HARVEST.CSV, with a model that was trained on such rows.

    python predict.py /tmp/HARVEST.CSV --output predicted.csv
    python predict.py new.csv --model model/checkpoints/model_42_0.8812.keras
    tail -n +1 -f /tmp/HARVEST.CSV | python predict.py -

The label may be absent, columns may come in any order, and other columns are passed through. Every input row gives one
output row, in the same order, with the columns probability and predicted added. From standard input (-) each line is
answered as it arrives; repeated headers and lines that are cut off are left out with a note.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import queue
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import train_model_modern as modern
from train_model_modern import UserError

CHUNK_ROWS = 100_000
MAXIMUM_MODEL_BYTES = 1 << 28


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = modern.Parser(prog="predict.py", description="Predict with a trained model.", allow_abbrev=False)
    parser.add_argument("csv", metavar="CSV", help="the rows to predict; -: standard input, answered line by line")
    parser.add_argument("--model-dir", type=Path, default=Path("model"), metavar="DIR", help="where the model is (default: model)")
    parser.add_argument("--model", type=Path, metavar="FILE", help="a model or checkpoint of its own")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the rows go (default: standard output)")
    parser.add_argument("--evaluate", action="store_true", help="when the rows hold the label: print how good the predictions are, to standard error")
    options = parser.parse_args(arguments)
    options.model = options.model or options.model_dir / modern.MODEL_FILE
    return options


def read_details(path: Path) -> dict[str, Any]:
    """What training stored in the model's archive: label, threshold and feature columns."""
    if not path.is_file():
        raise UserError(f"{path}: no such model; train one first, or name it with --model")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAXIMUM_MODEL_BYTES:
                raise UserError(f"{path}: unpacks to more than {MAXIMUM_MODEL_BYTES >> 20} MB, no model of this trainer does; train it again")
            if strange := [entry.filename for entry in entries if entry.filename.startswith(("/", "\\")) or ".." in entry.filename]:
                raise UserError(f"{path}: holds {strange[0]!r}, a path that leads out of it; train the model again")
            details = json.loads(archive.read("training.json"))
            if (
                not isinstance(details["label"], str)
                or not 0 < details["threshold"] < 1
                or not all(isinstance(column["name"], str) for column in details["columns"])
            ):
                raise ValueError
            return details
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, NotImplementedError, RuntimeError):
        raise UserError(f"{path}: is not a model written by train_model_modern.py; train it again") from None


def read_rows(path: str, details: dict[str, Any]) -> Any:
    """Iterate over data frames of text, indexed by line number, of a CSV with or without a header."""
    import pandas as pd

    first = modern.check_file(path)
    names, header = list_columns(path, first)
    check_names(path, names, details)
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
            chunk = chunk.fillna("").set_axis(range(line, line + len(chunk)))
            line += len(chunk)
            again = (chunk == names).all(axis=1) if header and (chunk.iloc[:, 0] == names[0]).any() else None
            if again is not None and again.any():
                print(f"note: {modern.name_some(chunk.index[again].tolist())}: the header again, left out", file=sys.stderr)
                chunk = chunk[~again]
            yield chunk
    except UnicodeDecodeError:
        raise UserError(f"{path}: {modern.undecodable_line(path)} is not UTF-8 text; save the file as UTF-8") from None
    except pd.errors.ParserError as error:
        raise UserError(f"{path}: {error}; mend the row") from None


def check_names(path: str, names: list[str], details: dict[str, Any]) -> None:
    absent = [column["name"] for column in details["columns"] if column["name"] not in names]
    if absent:
        raise UserError(f"{path}: line 1 has no column {absent[0]}, which the model needs; columns are {', '.join(names[:12])}")


def read_lines(details: dict[str, Any]) -> Any:
    """The same from standard input: whatever lines have arrived, as soon as they have. None until the first line."""
    import pandas as pd

    lines: queue.Queue = queue.Queue(2 * CHUNK_ROWS)

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    first = lines.get()
    if first is None:
        raise UserError("-: standard input is empty; pipe rows into it")
    text = first.removeprefix("\ufeff").rstrip("\r\n")
    names, header = list_columns("-", text)
    check_names("-", names, details)
    number, waiting, ended = (1, [], False) if header else (0, [first], False)
    yield pd.DataFrame(columns=names, dtype=str)  # the header can be answered before any row arrives
    while not ended:
        waiting = waiting or [lines.get()]
        while waiting[-1] is not None and len(waiting) < CHUNK_ROWS and not lines.empty():
            waiting.append(lines.get())
        if ended := waiting[-1] is None:
            waiting.pop()
        rows, places = [], []
        for line in waiting:
            number += 1
            cells = next(csv.reader([line.rstrip("\r\n")], skipinitialspace=True), [])
            if line.rstrip("\r\n") == text and header:
                print(f"note: line {number}: the header again, left out", file=sys.stderr)
            elif len(cells) != len(names):
                if cells:
                    print(f"note: line {number}: {len(cells)} fields where {len(names)} are expected, left out", file=sys.stderr)
            else:
                rows.append(cells)
                places.append(number)
        waiting = []
        if rows:
            yield pd.DataFrame(rows, places, names, dtype=str)


def list_columns(path: str, first: str) -> tuple[list[str], bool]:
    """As in training, but four numbers without a header are a 2017 row without its label."""
    if first.count(",") == len(modern.V0_COLUMNS) - 2 and all(modern.is_number(cell) for cell in first.split(",")):
        return modern.V0_COLUMNS[:-1], False
    return modern.column_names(path, first)


def model_inputs(model: Any, path: str, chunk: Any) -> dict[str, Any]:
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
            unseen = modern.MISSING + 3  # what is no id cannot have been seen
            whole = [int(cell.split(".")[0]) if modern.INTEGER.fullmatch(cell) else unseen if cell else modern.MISSING for cell in cells.unique()]
            inputs[name] = np.array(whole, np.int64)[pd.factorize(cells)[0]][:, None]
        elif len(wrong):
            raise UserError(f"{path}: line {chunk.index[wrong[0]]}, column {name}: {cells.iloc[wrong[0]]!r} is not a number; mend the cell or leave it empty")
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
    import numpy as np

    details, known = read_details(options.model), []
    if warning := modern.shared_warning(options.model) or modern.shared_warning(options.model.parent):
        print(f"warning: {warning}", file=sys.stderr)
    chunks = read_lines(details) if options.csv == "-" else read_rows(options.csv, details)
    chunk = next(chunks, None)  # before TensorFlow is imported: bad input is told at once
    model = load_model(options.model)
    beside = options.output and options.output.with_name(f".{options.output.name}.{os.getpid()}.tmp")
    with open(beside, "w", encoding="utf-8", newline="") if beside else contextlib.nullcontext(sys.stdout) as out:
        try:
            header = True
            while chunk is not None:
                inputs = model_inputs(model, options.csv, chunk)
                probability = model.predict_on_batch(inputs)[:, 0] if len(chunk) else np.empty(0, np.float32)
                if options.evaluate:
                    known.append((read_label(options, details, chunk), probability))
                answers = {"probability": [f"{value:.6f}" for value in probability], "predicted": (probability >= details["threshold"]).astype(int)}
                chunk.assign(**answers).to_csv(out, index=False, header=header, lineterminator="\n")
                out.flush()
                header, chunk = False, next(chunks, None)
        except BaseException:
            if beside:
                beside.unlink()
            raise
    if beside:
        os.replace(beside, options.output)
    if options.evaluate:
        label, probability = (np.concatenate(parts) for parts in zip(*known, strict=True))
        print("\n".join(evaluation(modern.measure(label, probability, details["threshold"], 0), len(label))), file=sys.stderr)
    return 0


def read_label(options: argparse.Namespace, details: dict[str, Any], rows: Any) -> Any:
    """The labels of a chunk as 0 and 1; UserError where one is missing."""
    import numpy as np

    name = details["label"]
    if name not in rows.columns:
        raise UserError(f"{options.csv}: line 1 has no column {name}, which --evaluate needs")
    labels = np.array([modern.LABELS.get(cell.strip().lower(), -1) for cell in rows[name]], np.float32)
    wrong = np.flatnonzero(labels < 0)
    if len(wrong):
        raise UserError(f"{options.csv}: line {rows.index[wrong[0]]}, column {name}: the label is missing or not 0 or 1; leave --evaluate out")
    return labels


def evaluation(test: dict[str, Any], rows: int) -> list[str]:
    lines = [f"{rows:,} rows, 95 % intervals"]
    for name in ("accuracy", "precision", "recall", "roc_auc", "pr_auc", "log_loss"):
        if test[name] is not None:
            lines.append(f"  {name:<10}{test[name]:7.3f}  {modern.interval(test[f'{name}_ci95'], 1, 3)}")
    return lines


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
