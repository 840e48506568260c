"""Add the probability of being productive to the rows of a HARVEST.CSV, with a model that was trained on such rows.

    python predict.py /tmp/HARVEST.CSV --output predicted.csv
    python predict.py new.csv --model model/checkpoints/model_42_0.8812.keras
    tail -n +1 -f /tmp/HARVEST.CSV | python predict.py -

The label may be absent, columns may come in any order, and other columns are passed through. Every input row gives one
output row, in the same order, with the columns probability and predicted added. From standard input (-) each line is
answered as it arrives; lines that cannot be read, and repeated headers, are left out with a note.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import queue
import signal
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

import train_model_modern as modern
from train_model_modern import UserError

CHUNK_ROWS = 100_000
MAXIMUM_MODEL_BYTES = 1 << 28
LONGEST_RECORD = 100  # lines that one record of standard input may have
ANSWERS = ("probability", "predicted")


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = modern.Parser(prog="predict.py", description="Predict with a trained model.", allow_abbrev=False)
    parser.add_argument("csv", metavar="CSV", help="the rows to predict; -: standard input, answered line by line")
    parser.add_argument("--model-dir", type=Path, default=Path("model"), metavar="DIR", help="where the model is (default: model)")
    parser.add_argument("--model", type=Path, metavar="FILE", help="a model or checkpoint of its own")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the rows go (default: standard output)")
    parser.add_argument("--evaluate", action="store_true", help="when the rows hold the label: print how good the predictions are, to standard error")
    options = parser.parse_args(arguments)
    options.model = options.model or options.model_dir / modern.MODEL_FILE
    if options.output:
        check_output(options)
    return options


def check_output(options: argparse.Namespace) -> None:
    """Refuse an output that cannot be written, or that would replace what is read."""
    path = options.output
    if path.is_dir():
        raise UserError(f"--output {path}: is a directory; name a file")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no directory {path.parent}; make it first")
    for source in (options.csv, options.model):
        if path.exists() and os.path.exists(source) and os.path.samefile(path, source):
            raise UserError(f"--output {path}: is the file that is read; name another")
    if path.is_symlink() and path.is_file() and not is_stream(path):
        raise UserError(f"--output {path}: is a link to {os.path.realpath(path)}; name that file, or another")


def is_stream(path: Path) -> bool:
    """Whether a path leads to a terminal, a pipe or a device, or names a stream of this process."""
    return (path.exists() and not path.is_file()) or str(path).startswith(("/dev/", "/proc/self/fd/"))


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
            names = [column["name"] for column in details["columns"]]
            if not all(isinstance(name, str) for name in [details["label"], *names]) or not 0 < details["threshold"] < 1 or not names:
                raise ValueError
            return details
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, NotImplementedError, RuntimeError, EOFError, OSError):
        raise foreign_model(path) from None


def foreign_model(path: Path) -> UserError:
    return UserError(f"{path}: is not a model written by train_model_modern.py; train it again")


def note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def read_rows(path: str, details: dict[str, Any]) -> Any:
    """Iterate over data frames of text, indexed by line number, of a CSV with or without a header."""
    import pandas as pd

    source = modern.find_source(path, skip_bad_rows=False, unlabelled=True)
    check_names(path, source.names, details)
    for words in source.notes:
        note(words)
    start = 0
    if not len(source.lines):
        yield pd.DataFrame(columns=source.names, dtype=object)
        return
    for chunk in modern.read_chunks(source, dict.fromkeys(source.names, object), len(source.lines), CHUNK_ROWS):
        chunk = chunk.fillna("").set_axis(source.lines[start : start + len(chunk)])
        start += len(chunk)
        if source.torn and start == len(source.lines) and is_torn(chunk, details):
            note(f"line {chunk.index[-1]}, the last, is cut off and left out")
            chunk = chunk.iloc[:-1]
        yield chunk
    if start != len(source.lines):
        raise UserError(modern.CHANGED.format(path))


def is_torn(chunk: Any, details: dict[str, Any]) -> bool:
    """Whether the last row, which no line end follows, ends too early: in a cell that means nothing, or before the last."""
    last = chunk.iloc[-1]
    numbers = [column["name"] for column in details["columns"] if column["kind"] == "number"]
    if any(math.isinf(modern.cell_number(last[name])) for name in numbers):
        return True
    label = details["label"]
    if label in chunk and modern.cell_label(last[label]) < 0 and (chunk[label].iloc[:-1].map(modern.cell_label) >= 0).any():
        return True
    return not last.iloc[-1] and bool((chunk.iloc[:-1, -1] != "").any())


def check_names(path: str, names: list[str], details: dict[str, Any]) -> None:
    present = set(names)
    absent = [column["name"] for column in details["columns"] if column["name"] not in present]
    if absent:
        raise UserError(f"{path}: line 1 has no column {absent[0]}, which the model needs; columns are {', '.join(names[:12])}")


def read_lines(details: dict[str, Any]) -> Any:
    """The same from standard input: whatever lines have arrived, as soon as they have. None until the first line."""
    import pandas as pd

    lines: queue.Queue = queue.Queue(2 * CHUNK_ROWS)

    def listen() -> None:
        try:
            for line in sys.stdin.buffer if sys.stdin else ():
                lines.put(line)
        finally:
            lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    first = lines.get()
    if first is None:
        raise UserError("-: standard input is empty; pipe rows into it")
    try:
        text = first.decode("utf-8-sig").rstrip("\r\n")
        header_cells = modern.split_record(text)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"-: line 1 cannot be read ({error}); give the column names as UTF-8 text") from None
    names, header = modern.column_names("-", header_cells, unlabelled=True)
    check_names("-", names, details)
    number, waiting, ended = (1, [], False) if header else (0, [first], False)
    begun: list[str] = []  # the lines so far of a record with a quoted line feed
    yield pd.DataFrame(columns=names, dtype=object)  # the header can be answered before any row arrives
    while not ended:
        waiting = waiting or [lines.get()]
        while waiting[-1] is not None and len(waiting) < CHUNK_ROWS and not lines.empty():
            waiting.append(lines.get())
        if ended := waiting[-1] is None:
            waiting.pop()
        rows, places = [], []
        for line in waiting:
            number += 1
            cells = record_cells(line, number, begun, len(names))
            if cells == header_cells and header:
                note(f"line {number}: the header again, left out")
            elif cells and len(cells) != len(names):
                note(f"line {number}: {len(cells)} fields where {len(names)} are expected, left out")
            elif cells:
                rows.append(cells)
                places.append(number)
        if ended and begun:
            note(f"line {number}: the quotes of the last record are open, left out")
        waiting = []
        if rows:
            yield pd.DataFrame(rows, places, names, dtype=object)


def record_cells(line: bytes, number: int, begun: list[str], fields: int) -> list[str]:
    """The cells of the record that ends with a line; none for an empty line, a bad one, or one in the midst of quotes.

    A record that was begun by a stray quote is given up when a line without quotes has all the fields of a row.
    """
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        if begun and '"' not in text and text.count(",") == fields - 1:
            note(f"line {number - len(begun)}: its quotes are open, left out")
            begun.clear()
        begun.append(text)
        whole = "".join(begun)
        if whole.count('"') % 2 and len(begun) <= LONGEST_RECORD and len(whole) < modern.LONGEST_LINE:
            return []
        if "\0" in whole:
            raise csv.Error("holds a NUL byte")
        cells = modern.split_record(whole.rstrip("\r\n"))
    except (UnicodeDecodeError, csv.Error) as error:
        note(f"line {number}: {'is not UTF-8 text' if isinstance(error, UnicodeDecodeError) else error}, left out")
        cells = []
    begun.clear()
    return cells


def model_inputs(model: Any, chunk: Any) -> tuple[dict[str, Any], Any]:
    """Turn text cells into what the model takes [B, 1]; and for each row the name of a column that holds no number, or None."""
    import numpy as np
    import pandas as pd
    import tensorflow

    inputs, wrong = {}, np.full(len(chunk), None, object)
    for name, tensor in model.input.items():
        codes, texts = pd.factorize(chunk[name].to_numpy(object))
        meaning = modern.MEANINGS[tensor.dtype]
        values = np.array([meaning(text) for text in texts], object if tensor.dtype == "string" else tensor.dtype)[codes]
        if tensor.dtype == "string":
            inputs[name] = tensorflow.constant(values[:, None], tensorflow.string)
            continue
        inputs[name] = values[:, None]
        if meaning is modern.cell_number:
            wrong[np.isinf(values)] = name
    return inputs, wrong


def load_model(path: Path, details: dict[str, Any]) -> Any:
    modern.prepare_environment(cpu_only=True, xla=False, batch_size=1)
    modern.import_tensorflow()
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise UserError(f"{path}: cannot be loaded ({type(error).__name__}); train the model again") from None
    inputs = getattr(model, "input", None)
    if not isinstance(inputs, dict) or set(inputs) != {column["name"] for column in details["columns"]}:
        raise foreign_model(path)
    if any(tuple(tensor.shape) != (None, 1) or tensor.dtype not in modern.MEANINGS for tensor in inputs.values()):
        raise foreign_model(path)
    if getattr(model, "output_shape", None) != (None, 1):
        raise foreign_model(path)
    return model


def predict_chunk(model: Any, options: argparse.Namespace, chunk: Any) -> tuple[Any, Any]:
    """The rows that can be predicted, and their probabilities. A bad cell is refused in a file, noted in a stream."""
    import numpy as np

    inputs, wrong = model_inputs(model, chunk)
    for place in np.flatnonzero(wrong != None):  # noqa: E711 each cell of the array is compared
        name = wrong[place]
        words = f"line {chunk.index[place]}, column {name}: {chunk[name].iloc[place][:50]!r} is not a number"
        if options.csv != "-":
            raise UserError(f"{options.csv}: {words}; mend the cell or leave it empty")
        note(f"{words}, left out")
    if (wrong != None).any():  # noqa: E711
        return predict_chunk(model, options, chunk[wrong == None])  # noqa: E711
    if not len(chunk):
        return chunk, np.empty(0, np.float32)
    try:
        probability = model.predict_on_batch(inputs)[:, 0]
    except Exception as error:  # a model whose layers do not fit together raises kinds of its own
        raise UserError(f"{options.model}: cannot be run ({type(error).__name__}); train the model again") from None
    if not np.isfinite(probability).all():
        raise UserError(f"{options.model}: holds weights that are not numbers; train the model again")
    return chunk, probability


@contextlib.contextmanager
def open_output(path: Path | None) -> Any:
    """Where the rows go: standard output, a device or pipe as it is, or a file that is there whole or not at all."""
    if path is None or is_stream(path):
        if path is None and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", errors="strict", newline="")
        with contextlib.nullcontext(sys.stdout) if path is None else open(path, "w", encoding="utf-8", newline="") as out:
            yield out
        return
    new = modern.beside(path)
    new.unlink(missing_ok=True)
    try:
        with modern.open_new(new) as raw, open(raw.fileno(), "w", encoding="utf-8", newline="", closefd=False) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(new, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            new.unlink()
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        raise


def answer_names(names: list[str]) -> list[str]:
    """What the added columns are called: by other names where the input has such columns of its own."""
    given = []
    for name in ANSWERS:
        free = name if name not in names else f"model_{name}"
        while free in names:
            free += "_"
        if free != name:
            note(f"the input has a column {name}, which is kept; the model's is called {free}")
        given.append(free)
    return given


def run(options: argparse.Namespace) -> int:
    import numpy as np
    import pandas as pd

    details, known = read_details(options.model), []
    if warning := modern.shared_warning(options.model) or modern.shared_warning(options.model.parent):
        print(f"warning: {warning}", file=sys.stderr)
    with contextlib.suppress(OSError):
        modern.finish_commit(options.model.parent)
    chunks = read_lines(details) if options.csv == "-" else read_rows(options.csv, details)
    chunk = next(chunks, None)  # before TensorFlow is imported: bad input is told at once
    if options.evaluate and details["label"] not in chunk:
        raise UserError(f"{options.csv}: line 1 has no column {details['label']}, which --evaluate needs")
    if options.evaluate and not len(chunk) and options.csv != "-":
        raise UserError(f"{options.csv}: holds no rows to evaluate")
    model, names = load_model(options.model, details), answer_names(list(chunk))
    with open_output(options.output) as out:
        header = True
        while chunk is not None:
            chunk, probability = predict_chunk(model, options, chunk)
            if options.evaluate:
                known.append(labelled(options, details["label"], chunk, probability))
            answers = ([f"{value:.6f}" for value in probability], (probability >= details["threshold"]).astype(int))
            answered = pd.concat([chunk, pd.DataFrame(dict(zip(names, answers, strict=True)), chunk.index)], axis=1)
            returns = any("\r" in cell for name in chunk for cell in chunk[name])  # not quoted unless all cells are
            answered.to_csv(out, index=False, header=header, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
            if out is not None:
                out.flush()
            header, chunk = False, next(chunks, None)
    if options.evaluate:
        label, probability = (np.concatenate(parts) for parts in zip(*known, strict=True))
        if not len(label):
            raise UserError(f"{options.csv}: holds no rows to evaluate")
        print("\n".join(evaluation(modern.measure(label, probability, details["threshold"], 0), len(label))), file=sys.stderr)
    return 0


def labelled(options: argparse.Namespace, name: str, rows: Any, probability: Any) -> tuple[Any, Any]:
    """The labels, 0 and 1, and probabilities of a chunk. A row without one is refused in a file, noted in a stream."""
    import numpy as np

    labels = np.array([modern.cell_label(cell) for cell in rows[name]], np.float32)
    for place in np.flatnonzero(labels < 0):
        words = f"line {rows.index[place]}, column {name}: the label is missing or not 0 or 1"
        if options.csv != "-":
            raise UserError(f"{options.csv}: {words}; leave --evaluate out")
        note(f"{words}, not evaluated")
    return labels[labels >= 0], probability[labels >= 0]


def evaluation(test: dict[str, Any], rows: int) -> list[str]:
    lines = [f"{rows:,} rows, 95 % intervals"]
    for name in ("accuracy", "precision", "recall", "roc_auc", "pr_auc", "log_loss"):
        if test[name] is not None:
            lines.append(f"  {name:<10}{test[name]:7.3f}  {modern.interval(test[f'{name}_ci95'], 1, 3)}")
    return lines


def stop(number: int, _: Any) -> None:
    raise modern.Stopped(number)


def main(arguments: list[str] | None = None) -> int:
    modern.prepare_streams()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    try:
        return run(parse_options(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        return 128 + getattr(error, "signal", signal.SIGINT)
    except BrokenPipeError:  # whoever reads the rows has enough of them
        modern.drop_output()
        return 1
    except OSError as error:
        place = error.filename or "standard output"
        modern.drop_output()
        print(f"error: {place}: {error.strerror or error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    modern.run_command(main)
