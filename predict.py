"""Add the probability of being productive to the rows of a HARVEST.CSV, with a model that was trained on such rows.

    python predict.py /tmp/HARVEST.CSV --output predicted.csv
    python predict.py new.csv --model model/checkpoints/model_42_0.8812.keras
    tail -n +1 -f /tmp/HARVEST.CSV | python predict.py -

The label may be absent, columns may come in any order, and other columns are passed through. Every input row gives one
output row, in the same order, with the columns probability and predicted added. From standard input (-) each line is
answered as it arrives; lines that cannot be read, and repeated headers, are left out with a note. A cell in quotes may go
on over 1,000 lines, and is waited for two seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import queue
import re
import signal
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))  # until main() can say more

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

import train_model_modern as modern
from train_model_modern import UserError

CHUNK_ROWS = 100_000
MAXIMUM_MODEL_BYTES = 1 << 28
LONGEST_RECORD = 1_000  # lines that one record of standard input may have
PAUSE_SECONDS = 2.0  # after which a record whose quotes are open is not waited for
ANSWERS = ("probability", "predicted")


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = modern.Parser(prog="predict.py", description="Predict with a trained model.", allow_abbrev=False)
    parser.add_argument("csv", metavar="CSV", help="the rows to predict; -: standard input, answered line by line")
    parser.add_argument(
        "--model-dir", type=Path, default=Path("model"), metavar="DIR", help="where the model is (default: model)"
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="a model or checkpoint of its own")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the rows go (default: standard output)")
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="when the rows hold the label: print how good the predictions are, to standard error",
    )
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
    read = [os.stat(source) for source in (options.csv, options.model) if os.path.exists(source)]
    with contextlib.suppress(OSError):
        read += [os.fstat(0)] if options.csv == "-" else []
    if path.is_file() and any(os.path.samestat(path.stat(), status) for status in read):
        raise UserError(f"--output {path}: is the file that is read; name another")
    if path.is_symlink() and not is_stream(path):
        raise UserError(f"--output {path}: is a link to {os.path.realpath(path)}; name that file, or another")


def is_stream(path: Path) -> bool:
    """Whether a path leads to a terminal, a pipe or a device, or names a stream of this process."""
    return (path.exists() and not path.is_file()) or stream_number(path) is not None


def stream_number(path: Path) -> int | None:
    """Which open stream of this process a path names: 1 for /dev/stdout."""
    named = {"/dev/stdout": 1, "/dev/stderr": 2}
    found = re.fullmatch(r"(?:/dev|/proc/self)/fd/(\d{1,6})", str(path))
    return named.get(str(path), int(found.group(1)) if found else None)


def read_details(path: Path) -> dict[str, Any]:
    """What training stored in the model's archive: label, threshold and feature columns."""
    if not path.is_file():
        raise UserError(f"{path}: no such model; train one first, or name it with --model")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAXIMUM_MODEL_BYTES:
                raise UserError(
                    f"{path}: unpacks to more than {MAXIMUM_MODEL_BYTES >> 20} MB, no model of this trainer does; train it again"
                )
            if strange := [
                entry.filename for entry in entries if entry.filename.startswith(("/", "\\")) or ".." in entry.filename
            ]:
                raise UserError(f"{path}: holds {strange[0]!r}, a path that leads out of it; train the model again")
            details = json.loads(archive.read("training.json"))
            names = [column["name"] for column in details["columns"]]
            kinds = [column["kind"] for column in details["columns"]]
            if (
                not all(isinstance(text, str) for text in [details["label"], *names, *kinds])
                or not 0 < details["threshold"] < 1
                or not names
            ):
                raise ValueError
            return details
    except UserError:
        raise
    except Exception:  # each way of compressing raises kinds of its own
        raise foreign_model(path) from None


def foreign_model(path: Path) -> UserError:
    return UserError(f"{path}: is not a model written by train_model_modern.py; train it again")


def note(text: str) -> None:
    modern.complain(f"note: {text}")


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
    for chunk in modern.read_chunks(
        source, dict.fromkeys(source.names, object), len(source.lines), CHUNK_ROWS, keep_spaces=True
    ):
        chunk = chunk.fillna("").set_axis(source.lines[start : start + len(chunk)])
        start += len(chunk)
        if source.torn and start == len(source.lines) and is_torn(chunk, details):
            note(f"line {chunk.index[-1]}, the last, is cut off and left out")
            chunk = chunk.iloc[:-1]
        yield chunk
    if start != len(source.lines):
        raise UserError(modern.CHANGED.format(path))


def is_torn(chunk: Any, details: dict[str, Any]) -> bool:
    """Whether the last row, which no line end follows, ends too early: in a cell that means nothing, or before the label."""
    last = chunk.iloc[-1]
    numbers = [
        column["name"] for column in details["columns"] if column["kind"] == "number" and column["name"] in chunk
    ]
    if any(math.isinf(modern.cell_number(last[name])) for name in numbers):
        return True
    label = details["label"]
    return (
        label in chunk
        and modern.cell_label(last[label]) < 0
        and bool((chunk[label].iloc[:-1].map(modern.cell_label) >= 0).any())
    )


def check_names(path: str, names: list[str], details: dict[str, Any]) -> None:
    """Refuse rows without a column that the model never saw missing; one that it did is missing in all of them."""
    present = set(names)
    absent = [column for column in details["columns"] if column["name"] not in present]
    needed = [column["name"] for column in absent if not column.get("missing")]
    if needed or len(absent) == len(details["columns"]):
        name = needed[0] if needed else absent[0]["name"]
        raise UserError(
            f"{path}: line 1 has no column {name}, which the model needs; columns are {', '.join(names[:12])}"
        )
    if absent:
        shown = ", ".join(column["name"] for column in absent[:5]) + (" and others" if len(absent) > 5 else "")
        note(f"{path}: has no {shown}: missing in its rows")


def read_lines(details: dict[str, Any]) -> Any:
    """The same from standard input: whatever lines have arrived, as soon as they have. None until the first line."""
    import pandas as pd

    lines: queue.Queue = queue.Queue(2 * CHUNK_ROWS)

    def listen() -> None:
        try:
            while sys.stdin and (line := sys.stdin.buffer.readline(modern.LONGEST_LINE)):
                lines.put(line)
                while len(line) == modern.LONGEST_LINE and not line.endswith(b"\n"):  # the rest of what is too long
                    line = sys.stdin.buffer.readline(modern.LONGEST_LINE)
        finally:
            lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    first = lines.get()
    if first is None:
        raise UserError("-: standard input is empty; pipe rows into it")
    text = without_end(first.decode("utf-8-sig", "surrogateescape"))
    try:
        if problem := flaw(text) or ("holds a carriage return" if "\r" in text else ""):
            raise csv.Error(problem)
        cells = modern.split_record(text)
        names, header = modern.column_names("-", cells, unlabelled=True)
    except csv.Error as error:
        raise UserError(f"-: line 1 cannot be read ({error}); give the column names as UTF-8 text") from None
    check_names("-", names, details)
    records = Records(len(names), cells if header else None)
    yield pd.DataFrame(columns=names, dtype=object)  # the header can be answered before any row arrives
    waiting = [] if header else [first]
    while waiting[-1:] != [None]:
        try:
            waiting.append(lines.get(timeout=PAUSE_SECONDS if records.begun else None))
            while waiting[-1] is not None and len(waiting) < CHUNK_ROWS and not lines.empty():
                waiting.append(lines.get())
        except queue.Empty:
            records.give_up()
        for line in waiting:
            if line is not None:
                records.add(line)
        if waiting[-1:] == [None]:
            records.give_up()
        else:
            waiting = []
        if records.rows:
            yield pd.DataFrame(records.rows, records.places, names, dtype=object)
            records.rows, records.places = [], []


def flaw(text: str) -> str:
    """What no line may hold."""
    if len(text) > modern.LONGEST_LINE // 4 and len(text.encode("utf-8", "surrogateescape")) >= modern.LONGEST_LINE:
        return "is longer than 64 MB"
    if not text.isascii() and re.search("[\udc80-\udcff]", text):
        return "is not UTF-8 text"
    return "holds a NUL byte" if "\0" in text else ""


def without_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def ends_inside_quotes(text: str, inside: bool) -> bool:
    """Whether a cell in quotes goes on after a line, which starts inside one or not."""
    place = 0
    while True:
        if not inside:  # at the start of a cell
            while text.startswith(" ", place):
                place += 1
            inside = text.startswith('"', place)
            place += inside
        while inside:
            place = text.find('"', place) + 1
            if not place:
                return True
            inside = text.startswith('"', place)  # a quote twice stands for one
            place += inside
        place = text.find(",", place) + 1
        if not place:
            return False


class Records:
    """Takes lines as they arrive and puts records together, with a note for each line that cannot be read.

    A record whose quotes are open waits for more lines. When it turns out to be none, its first line is left out and the
    others are read anew.
    """

    def __init__(self, fields: int, header: list[str] | None) -> None:
        self.fields, self.header = fields, header
        self.number = 0 if header is None else 1  # the lines so far
        self.begun: list[tuple[int, str]] = []  # lines of a record with open quotes
        self.inside = False  # a cell in quotes goes on
        self.rows: list[list[str]] = []
        self.places: list[int] = []  # the line that each row starts on

    def add(self, line: bytes) -> None:
        self.number += 1
        self.take(self.number, line.decode("utf-8-sig" if self.number == 1 else "utf-8", "surrogateescape"))

    def take(self, number: int, text: str) -> None:
        self.begun.append((number, text))
        self.inside = ends_inside_quotes(text, self.inside)
        if self.inside and len(self.begun) < LONGEST_RECORD:
            return None
        record, start = without_end("".join(part for _, part in self.begun)), self.begun[0][0]
        try:
            cells, problem = (
                modern.split_record(record),
                "holds a carriage return" if "\r" in record and '"' not in record else "",
            )
        except csv.Error as error:
            cells, problem = [], str(error)
        unreadable = [(place, what) for place, part in self.begun if (what := flaw(part))]
        whole = not problem and len(cells) == self.fields
        if unreadable and (whole or len(self.begun) == 1):
            note(
                f"line {unreadable[0][0]}: {unreadable[0][1]}, {'left out' if len(self.begun) == 1 else f'the record from line {start} on is left out'}"
            )
        elif cells and self.header == [cells[0].removeprefix("\ufeff"), *cells[1:]]:
            note(f"line {start}: the header again, left out")
        elif whole:
            self.rows.append(cells)
            self.places.append(start)
        elif len(self.begun) > 1:
            return self.leave_out_first()
        elif cells or problem:
            note(f"line {start}: {problem or f'{len(cells)} fields where {self.fields} are expected'}, left out")
        self.begun, self.inside = [], False
        return None

    def leave_out_first(self) -> None:
        """Leave out the first line of a record with open quotes, and read the others anew."""
        (number, _), *others = self.begun
        self.begun, self.inside = [], False
        note(f"line {number}: its quotes are open, left out")
        for other in others:
            self.take(*other)

    def give_up(self) -> None:
        """Wait for no more lines of a record with open quotes."""
        while self.begun:
            self.leave_out_first()


def model_inputs(model: Any, numbers: set[str], chunk: Any) -> tuple[dict[str, Any], Any]:
    """Turn text cells into what the model takes [B, 1]; and for each row the name of a column that holds no number, or None."""
    import numpy as np
    import pandas as pd
    import tensorflow

    inputs, wrong = {}, np.full(len(chunk), None, object)
    for name, tensor in model.input.items():
        codes, texts = pd.factorize(chunk[name].to_numpy(object) if name in chunk else np.full(len(chunk), "", object))
        meaning = modern.MEANINGS[tensor.dtype]
        if tensor.dtype == "int64" and name in numbers:
            meaning = modern.cell_whole
        values = [meaning(text) for text in texts]
        if tensor.dtype == "string":
            inputs[name] = tensorflow.constant(np.array(values, object)[codes][:, None], tensorflow.string)
            continue
        bad = np.array([value in (math.inf, -math.inf) for value in values], bool)
        wrong[bad[codes]] = name
        inputs[name] = np.array([0 if no else value for value, no in zip(values, bad, strict=True)], tensor.dtype)[
            codes
        ][:, None]
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


def predict_chunk(model: Any, numbers: set[str], options: argparse.Namespace, chunk: Any) -> tuple[Any, Any]:
    """The rows that can be predicted, and their probabilities. A bad cell is refused in a file, noted in a stream."""
    import numpy as np

    inputs, wrong = model_inputs(model, numbers, chunk)
    bad = wrong.astype(bool)
    for place in np.flatnonzero(bad):
        name = wrong[place]
        words = f"line {chunk.index[place]}, column {name}: {chunk[name].iloc[place][:50]!r} is not a number"
        if options.csv != "-":
            raise UserError(f"{options.csv}: {words}; mend the cell or leave it empty")
        note(f"{words}, left out")
    if bad.any():
        return predict_chunk(model, numbers, options, chunk[~bad])
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
def open_output(path: Path | None, endless: bool) -> Any:
    """Where the rows go: standard output, a device or pipe as it is, or a file that is there whole or not at all.

    What answers an endless stream is there from the start, and keeps the rows answered so far.
    """
    if path is None or is_stream(path):
        if path is None and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", errors="strict", newline="")
        place = stream_number(path) if path else None
        target = os.dup(place) if place is not None else path
        with (
            contextlib.nullcontext(sys.stdout)
            if path is None
            else open(target, "w", encoding="utf-8", newline="") as out
        ):
            yield out
        return
    new = modern.beside(path)
    new.unlink(missing_ok=True)
    try:
        with modern.open_new(new) as raw, open(raw.fileno(), "w", encoding="utf-8", newline="", closefd=False) as out:
            modern.keep_mode(raw, path)
            if endless:
                os.replace(new, path)
            yield out
            out.flush()
            os.fsync(out.fileno())
        if not endless:
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
        modern.complain(f"warning: {warning}")
    with contextlib.suppress(OSError):
        modern.finish_commit(options.model.parent)
    chunks = read_lines(details) if options.csv == "-" else read_rows(options.csv, details)
    chunk = next(chunks, None)  # before TensorFlow is imported: bad input is told at once
    if options.evaluate and details["label"] not in chunk:
        raise UserError(f"{options.csv}: line 1 has no column {details['label']}, which --evaluate needs")
    if options.evaluate and not len(chunk) and options.csv != "-":
        raise UserError(f"{options.csv}: holds no rows to evaluate")
    model, names = load_model(options.model, details), answer_names(list(chunk))
    numbers = {column["name"] for column in details["columns"] if column["kind"] == "number"}
    with open_output(options.output, options.csv == "-") as out:
        header = True
        while chunk is not None:
            chunk, probability = predict_chunk(model, numbers, options, chunk)
            if options.evaluate:
                known.append(labelled(options, details["label"], chunk, probability))
            answers = ([f"{value:.6f}" for value in probability], (probability >= details["threshold"]).astype(int))
            answered = pd.concat([chunk, pd.DataFrame(dict(zip(names, answers, strict=True)), chunk.index)], axis=1)
            returns = any("\r" in cell for name in chunk for cell in chunk[name])  # not quoted unless all cells are
            answered.to_csv(
                out,
                index=False,
                header=header,
                lineterminator="\n",
                quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL,
            )
            if out is not None:
                out.flush()
            header, chunk = False, next(chunks, None)
    if options.evaluate:
        label, probability = (np.concatenate(parts) for parts in zip(*known, strict=True))
        if not len(label):
            raise UserError(f"{options.csv}: holds no rows to evaluate")
        modern.complain("\n".join(evaluation(modern.measure(label, probability, details["threshold"], 0), len(label))))
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
        modern.complain(f"error: {error}")
        return 2
    except KeyboardInterrupt as error:
        return 128 + getattr(error, "signal", signal.SIGINT)
    except ModuleNotFoundError as error:
        modern.complain(modern.missing_package(error))
        return 1
    except BrokenPipeError:  # whoever reads the rows has enough of them
        modern.drop_output()
        return 1
    except OSError as error:
        place = error.filename or "standard output"
        modern.drop_output()
        modern.complain(f"error: {place}: {error.strerror or error}")
        return 1


if __name__ == "__main__":
    modern.run_command(main)
