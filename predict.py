"""Add the probability of being productive to the rows of a HARVEST.CSV, with a model that was trained on such rows.

    python predict.py /tmp/HARVEST.CSV --output predicted.csv
    python predict.py new.csv --model model/checkpoints/model_42_0.8812.keras
    tail -n +1 -f /tmp/HARVEST.CSV | python predict.py -

The label may be absent, columns may come in any order, and other columns are passed through. Every input row gives one
output row, in the same order, with the columns probability and predicted added. From standard input (-) each line is
answered as it arrives; lines that cannot be read, and repeated headers, are left out with a note. A cell in quotes may
go on over 1,000 lines, and is waited for two seconds.

From Python, for rows in a DataFrame:

    model = predict.load("model")
    probability = model.predict_proba(rows)[:, 1]
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import itertools
import json
import math
import os
import queue
import re
import signal
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TextIO

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))  # until main() can say more

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

import train_model_modern as modern
from train_model_modern import UserError

# isort: split
import numpy as np  # after the above, which says what to do where it is not installed

if TYPE_CHECKING:  # imported late, so that what is wrong is told at once
    import keras
    import pandas as pd
    import tensorflow as tf

    Inputs = dict[str, tf.Tensor]  # of the model, by column: [B, 1]
    Answered = tuple[pd.DataFrame, np.ndarray, Inputs]  # rows, their probabilities, and what the model was given

CHUNK_ROWS = 100_000
MAXIMUM_MODEL_BYTES = 1 << 28
LONGEST_RECORD = 1_000  # lines that one record of standard input may have
OPEN_QUOTES = "unexpected end of data"  # what the csv module says of a record that may go on
STREAM = "standard input"  # what messages call it
PAUSE_SECONDS = 2.0  # after which a record whose quotes are open is not waited for
FEWEST_ROWS = 20  # that are evaluated by themselves


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = modern.Parser(prog="predict.py", description="Predict with a trained model.", allow_abbrev=False)
    add = parser.add_argument
    add("csv", metavar="CSV", help="the rows to predict; -: standard input, answered line by line")
    add("--model-dir", type=Path, default="model", metavar="DIR", help="where the model is (default: model)")
    add("--model", type=Path, metavar="FILE", help="a model file or checkpoint, in place of the one in --model-dir")
    add("--output", type=Path, metavar="FILE", help="where the rows go (default: standard output)")
    words = "when the rows hold the label: print how good the predictions are, to standard error"
    add("--evaluate", action="store_true", help=words)
    add("--version", action="version", version=modern.VERSION)
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
        raise UserError(f"--output {path}: is also the input; name another file")
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


def note(text: str) -> None:
    modern.print_error(f"note: {text}")


class Details(NamedTuple):
    """What training stored in the model's archive."""

    label: str
    threshold: float
    kinds: dict[str, str]  # number or category, by the name of the column
    missing: set[str]  # columns that were seen without a value


def details_of(stored: dict[str, Any]) -> Details:
    kinds = {column["name"]: column["kind"] for column in stored["columns"]}
    missing = {column["name"] for column in stored["columns"] if column.get("missing")}
    return Details(stored["label"], stored["threshold"], kinds, missing)


def read_stored(path: Path) -> dict[str, Any]:
    """What training stored in a model's archive, checked."""
    if not path.is_file():
        raise UserError(f"{path}: not found; train a model first, or give its path with --model")
    try:
        with zipfile.ZipFile(path) as archive:
            check_entries(path, archive.infolist())
            stored = json.loads(archive.read("training.json"))
        label, threshold, kinds, _ = details_of(stored)
        texts = [label, *kinds, *kinds.values()]
        if not kinds or not 0 < threshold < 1 or not all(isinstance(text, str) for text in texts):
            raise ValueError
        return stored
    except UserError:
        raise
    except Exception:  # each way of compressing raises kinds of its own
        raise foreign_model(path) from None


ROWS_ENTRY = "training_rows.bin"  # of a model's archive
KEPT_HASHES = 32_768  # of the rows that trained a model, about; of more a sample


class TrainingRows(NamedTuple):
    """What a model's archive tells of the rows that trained it."""

    bound: int  # only rows whose hash is below are told apart
    repeated: float  # the share of them that equal another one, as new rows may too
    hashes: np.ndarray  # uint64, sorted


def store_training_rows(table: modern.Table, splits: list[modern.Split]) -> dict[str, bytes]:
    """What tells later whether a row trained or stopped a net, for the model's archive: hashes of all but its label.

    Unsigned 64-bit integers: the bound below which a hash is kept, the rows whose hash is, how many of these equal
    another one, and the hashes, sorted, each once.
    """
    seen = np.zeros(len(table.label), bool)
    for split in splits:
        seen[split.training] = seen[split.validation] = True
    bound, kept = min(2**64 - 1, KEPT_HASHES * 2**64 // int(seen.sum())), []
    meanings = [hash_values(column.vocabulary) for column in table.of_kind("category")]
    for rows in modern.row_pieces(np.flatnonzero(seen)):
        numbers = (coarse_numbers(values[rows]) for values in table.numbers.T)
        categories = (known[codes[rows]] for known, codes in zip(meanings, table.codes.T, strict=True))
        hashes = modern.hash_rows([*numbers, *categories])
        kept.append(hashes[hashes < np.uint64(bound)])
    hashes, counts = np.unique(np.concatenate(kept), return_counts=True)
    head = np.array([bound, counts.sum(), counts[counts > 1].sum()], np.uint64)
    return {ROWS_ENTRY: np.concatenate([head, hashes]).astype("<u8").tobytes()}


def coarse_numbers(values: np.ndarray) -> np.ndarray:
    """Numbers in 64 bits, of which pandas' parser may miss the last, without the last 20."""
    unit = np.uint64(20)
    return ((values + 0.0).view(np.uint64) + np.uint64(1 << 19) >> unit << unit).view(np.float64)  # 0.0: -0 is 0


def hash_values(values: list[int] | list[str]) -> np.ndarray:
    """64 bits for each value of a category: integers as they are, texts as hashes."""
    if values and isinstance(values[0], int):
        return np.array(values, np.int64).view(np.uint64)
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in values)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def read_training_rows(path: Path) -> TrainingRows | None:
    """None for a model of a version that did not store them."""
    try:
        with zipfile.ZipFile(path) as archive:
            if ROWS_ENTRY not in archive.namelist():
                return None
            numbers = np.frombuffer(archive.read(ROWS_ENTRY), "<u8")
        (bound, rows, repeated), hashes = map(int, numbers[:3]), numbers[3:]
        if repeated > rows or len(hashes) > rows or np.any(hashes[1:] <= hashes[:-1]) or np.any(hashes >= bound):
            raise ValueError
    except Exception:  # each way of compressing raises kinds of its own
        raise UserError(f"{path}: what it tells of its training rows is damaged; train the model again") from None
    return TrainingRows(bound, repeated / max(1, rows), hashes)


def check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive that unpacks to much more than it is, as none of this trainer's does."""
    most = max(MAXIMUM_MODEL_BYTES, path.stat().st_size)
    if sum(entry.file_size for entry in entries) > most:
        size = f"{most >> 20} MB"
        raise UserError(f"{path}: unpacks to more than {size}, no model of this trainer does; train it again")
    for name in (entry.filename for entry in entries):
        if name.startswith(("/", "\\")) or ".." in name:
            raise UserError(f"{path}: holds {name!r}, a path that leads out of it; train the model again")


def foreign_model(path: Path) -> UserError:
    return UserError(f"{path}: is not a model written by train_model_modern.py; train it again")


def open_model(path: Path) -> Details:
    """What is stored in a model's archive, once what a run was putting into its place is there."""
    if warning := modern.shared_warning(path) or modern.shared_warning(path.parent):
        modern.print_error(f"warning: {warning}")
    with contextlib.suppress(OSError):
        modern.finish_commit(path.parent)
    return details_of(read_stored(path))


def load_model(path: Path, details: Details, cpu_only: bool = True) -> keras.Model:
    modern.prepare_environment(cpu_only, xla=False)
    modern.import_tensorflow()
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise UserError(f"{path}: cannot be loaded ({type(error).__name__}); train the model again") from None
    inputs, shape = getattr(model, "input", None), getattr(model, "output_shape", None)
    if not isinstance(inputs, dict) or set(inputs) != set(details.kinds) or shape != (None, 1):
        raise foreign_model(path)
    if any(tuple(tensor.shape) != (None, 1) or tensor.dtype not in modern.MEANINGS for tensor in inputs.values()):
        raise foreign_model(path)
    return model


def read_rows(path: str, details: Details) -> Iterator[pd.DataFrame]:
    """Data frames of text, indexed by line number, of a CSV with or without a header."""
    source = modern.find_source(path, skip_bad_rows=False, unlabelled=True)
    check_names(path, source.names, details)
    for words in source.notes:
        note(words)
    start, rows = 0, len(source.lines)
    if not rows:
        yield text_frame(source.names, {})
        return
    for chunk in modern.read_chunks(source, dict.fromkeys(source.names, object), CHUNK_ROWS, keep_spaces=True):
        chunk = chunk.fillna("").set_axis(source.lines[start : start + len(chunk)])
        start += len(chunk)
        if source.torn and start == rows and is_torn(chunk, details):
            note(f"line {chunk.index[-1]}, the last, is cut off and left out")
            chunk = chunk.iloc[:-1]
        yield chunk


def is_torn(chunk: pd.DataFrame, details: Details) -> bool:
    """Whether the last row, which no line end follows, ends in a cell that means nothing, or before the label."""
    last, label = chunk.iloc[-1], details.label
    numbers = [name for name in chunk if details.kinds.get(name) == "number"]
    if any(math.isinf(modern.cell_number(last[name])) for name in numbers):
        return True
    unlabelled = label in chunk and modern.cell_label(last[label]) < 0
    return unlabelled and any(modern.cell_label(cell) >= 0 for cell in chunk[label])


def check_names(path: str, names: list[str], details: Details) -> None:
    """Say which columns rows do not have; refuse those that must be there."""
    if absent := absent_columns(f"{path}: line 1", names, details):
        shown = ", ".join(absent[:5]) + (" and others" if len(absent) > 5 else "")
        note(f"{path}: has no {shown}: missing in its rows")


def absent_columns(place: str, names: list[str], details: Details) -> list[str]:
    """The columns that rows do not have, and that training saw missing; UserError for those that it never did."""
    present = set(names)
    absent = [name for name in details.kinds if name not in present]
    needed = [name for name in absent if name not in details.missing]
    if needed or len(absent) == len(details.kinds):
        name, shown = (needed or absent)[0], ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise UserError(f"{place} has no column {name}, which the model needs; columns are {shown}")
    return absent


Line = tuple[int, str]  # its number and its text, with its end


class Lines:
    """The lines of standard input, as they arrive."""

    def __init__(self) -> None:
        self.queue: queue.Queue[bytes | None] = queue.Queue(2 * CHUNK_ROWS)  # None: the end
        self.again: list[Line] = []  # to be read anew, the next one last
        self.number, self.ended, self.paused = 0, False, False
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        try:
            while sys.stdin and (line := sys.stdin.buffer.readline(modern.LONGEST_LINE)):
                self.queue.put(line)
                while len(line) == modern.LONGEST_LINE and not line.endswith(b"\n"):  # the rest of what is too long
                    line = sys.stdin.buffer.readline(modern.LONGEST_LINE)
        finally:
            self.queue.put(None)

    def next(self, in_record: bool = False) -> Line | None:
        """The next line, or None at the end. In a record it is waited for only once, and None when it does not come."""
        if self.again:
            return self.again.pop()
        try:
            seconds = PAUSE_SECONDS * (not self.paused) if in_record else None
            line = None if self.ended else self.queue.get(timeout=seconds)
        except queue.Empty:
            self.paused = True
            return None
        self.paused, self.ended = False, line is None
        if line is None:
            return None
        self.number += 1
        return self.number, line.decode("utf-8-sig" if self.number == 1 else "utf-8", "surrogateescape")


def read_record(lines: Lines, first: Line, most: int) -> tuple[list[Line], list[str], str]:
    """The lines, at most so many, of the record that one line begins, its cells, and why it cannot be read, or ""."""
    taken, text = [first], first[1].removesuffix("\n").removesuffix("\r")
    if '"' not in text:
        return taken, text.split(",") if text else [], "holds a carriage return" if "\r" in text else ""

    def texts() -> Iterator[str]:  # as many as the csv module asks for, until quotes are closed
        yield first[1]
        while len(taken) < most and (line := lines.next(in_record=True)):
            taken.append(line)
            yield line[1]

    try:
        return taken, next(csv.reader(texts(), skipinitialspace=True, strict=True), []), ""
    except csv.Error as error:
        return taken, [], str(error)


def read_stream(details: Details) -> Iterator[pd.DataFrame]:
    """The same from standard input: whatever rows have arrived, as soon as they have. The first frame is empty.

    A record whose quotes are open goes on over more lines. If that makes no row, only its first line is left out.
    """
    lines = Lines()
    first = lines.next()
    if first is None:
        raise UserError("standard input is empty; pipe rows into it")
    _, cells, problem = read_record(lines, first, 1)
    if problem := flaw(first[1]) or problem:
        raise UserError(f"{STREAM}: line 1 cannot be read ({problem}); give the column names as UTF-8 text")
    names, named = modern.column_names(STREAM, cells, unlabelled=True)
    check_names(STREAM, names, details)
    header = cells if named else None
    if not named:
        lines.again.append(first)
    rows: dict[int, list[str]] = {}  # by the line that each starts on
    yield text_frame(names, rows)  # the header can be answered before any row arrives
    while line := lines.next():
        record, cells, problem = read_record(lines, line, 1)
        if problem == OPEN_QUOTES:
            if rows and lines.queue.qsize() < LONGEST_RECORD:
                yield text_frame(names, rows)
                rows = {}
            record, cells, problem = read_record(lines, line, LONGEST_RECORD)
        start, alone, whole = line[0], len(record) == 1, not problem and len(cells) == len(names)
        flawed = [f"line {number}: {what}" for number, text in record if (what := flaw(text))]
        if flawed and (whole or alone):
            note(f"{flawed[0]}, {'' if alone else f'the record from line {start} on is '}left out")
        elif cells and [cells[0].removeprefix("\ufeff"), *cells[1:]] == header:
            note(f"line {start}: the header again, left out")
        elif whole:
            rows[start] = cells
        elif not alone or problem == OPEN_QUOTES:
            note(f"line {start}: its quotes are open, left out")
            lines.again += record[:0:-1]
        elif cells or problem:
            note(f"line {start}: {problem or f'{len(cells)} fields where {len(names)} are expected'}, left out")
        if rows and (lines.queue.empty() or len(rows) >= CHUNK_ROWS):
            yield text_frame(names, rows)
            rows = {}
    if rows:
        yield text_frame(names, rows)


def text_frame(names: list[str], rows: dict[int, list[str]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows.values()), list(rows), names, dtype=object)


def flaw(text: str) -> str:
    """What no line may hold."""
    if len(text) > modern.LONGEST_LINE // 4 and len(text.encode("utf-8", "surrogateescape")) >= modern.LONGEST_LINE:
        return "is longer than 64 MB"
    if not text.isascii() and modern.ESCAPED.search(text):
        return "is not UTF-8 text"
    return "holds a NUL byte" if "\0" in text else ""


def whole_number(cell: str) -> float:
    """What a cell means in a column of whole numbers: rounded, within 62 bits; MISSING for an empty cell."""
    value = modern.cell_number(cell)
    if math.isnan(value):
        return modern.MISSING
    return value if math.isinf(value) else round(min(max(value, -(2.0**62)), 2.0**62))


def model_inputs(model: keras.Model, details: Details, chunk: pd.DataFrame) -> tuple[Inputs, np.ndarray]:
    """Turn text cells into what the model takes [B, 1]; name for each row a column that holds no number, or None."""
    import pandas as pd
    import tensorflow as tf

    inputs, wrong = {}, np.full(len(chunk), None, object)
    for name, tensor in model.input.items():
        codes, texts = pd.factorize(chunk[name].to_numpy(object) if name in chunk else np.full(len(chunk), "", object))
        whole = tensor.dtype == "int64" and details.kinds[name] == "number"
        meaning = whole_number if whole else modern.MEANINGS[tensor.dtype]
        values = np.array([meaning(text) for text in texts], object)
        bad = np.isin(values, [math.inf])
        wrong[bad[codes]] = name
        values[bad] = 0
        inputs[name] = tf.constant(values[codes][:, None], tensor.dtype)
    return inputs, wrong


def predict_chunk(model: keras.Model, details: Details, options: argparse.Namespace, chunk: pd.DataFrame) -> Answered:
    """The rows that can be predicted, and their probabilities. A bad cell is refused in a file, noted in a stream."""
    inputs, wrong = model_inputs(model, details, chunk)
    bad = wrong.astype(bool)
    for place in np.flatnonzero(bad):
        name = wrong[place]
        words = f"line {chunk.index[place]}, column {name}: {chunk[name].iloc[place][:50]!r} is not a number"
        if options.csv != "-":
            raise UserError(f"{options.csv}: {words}; fix the cell or leave it empty")
        note(f"{words}, left out")
    if bad.any():
        return predict_chunk(model, details, options, chunk[~bad])
    return chunk, run_model(model, options.model, inputs) if len(chunk) else np.empty(0, np.float32), inputs


def run_model(model: keras.Model, path: Path, inputs: Inputs) -> np.ndarray:
    """The probabilities [B] of some rows."""
    try:
        probability = model.predict_on_batch(inputs)[:, 0]
    except Exception as error:  # a model whose layers do not fit together raises kinds of its own
        raise UserError(f"{path}: cannot be run ({type(error).__name__}); train the model again") from None
    if not np.isfinite(probability).all():
        raise UserError(f"{path}: holds weights that are not numbers; train the model again")
    return probability


class Classifier:
    """A trained model for rows in a DataFrame, called like those of scikit-learn, which is not needed.

    The cells are those of a CSV: text as it stands there (dtype=str), or numbers as pandas reads them. Missing are
    None, NaN and "". Columns may come in any order, and others are passed over. What is wrong raises UserError.
    """

    classes_ = np.array([0, 1])

    def __init__(self, path: Path) -> None:
        self.path, self.details = path, open_model(path)
        self.model = load_model(path, self.details, cpu_only=False)

    def predict_proba(self, rows: pd.DataFrame) -> np.ndarray:
        """The probabilities of 0 and of 1: [N, 2] float64."""
        probability = self.probabilities(rows).astype(np.float64)
        return np.column_stack([1 - probability, probability])

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """The answers, 0 or 1, at the model's threshold: [N]."""
        return (self.probabilities(rows) >= self.details.threshold).astype(int)

    def probabilities(self, rows: pd.DataFrame) -> np.ndarray:
        names = [str(name).strip() for name in rows]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise UserError(f"the rows have two columns {twice}; rename one of them")
        absent_columns("the table", names, self.details)
        cells = rows.set_axis(names, axis=1)
        parts = [self.answer(cells[start : start + CHUNK_ROWS]) for start in range(0, len(cells), CHUNK_ROWS)]
        return np.concatenate([np.empty(0, np.float32), *parts])

    def answer(self, rows: pd.DataFrame) -> np.ndarray:
        chunk = rows[[name for name in self.details.kinds if name in rows]].astype(object)
        for name in chunk:
            cells = chunk[name].where(chunk[name].notna(), "").tolist()
            if self.details.kinds[name] == "category":
                check_category(name, cells, integers=self.model.input[name].dtype == "int64")
            chunk[name] = np.array([*map(cell_of, cells)], object)
        inputs, wrong = model_inputs(self.model, self.details, chunk)
        for place in np.flatnonzero(wrong.astype(bool))[:1]:
            name = wrong[place]
            raise UserError(f"row {rows.index[place]}, column {name}: {chunk[name].iloc[place][:50]!r} is not a number")
        return run_model(self.model, self.path, inputs)


def check_category(name: str, cells: list, integers: bool) -> None:
    """Refuse cells that pandas may have read as numbers other than what the CSV holds."""
    if not integers and not all(isinstance(cell, str) for cell in cells):
        raise UserError(f"column {name} is text to the model, not all of it here is; read the table with dtype=str")
    if integers and any(isinstance(cell, (float, np.floating)) and abs(cell) >= 2**53 for cell in cells):
        raise UserError(f"column {name} holds ids too long for floating point; read the table with dtype=str")


def cell_of(value: Any) -> str:
    """The text of a cell that pandas may have read as a number: 5.0 is 5, as in a column of ids with gaps."""
    if isinstance(value, str):
        return value
    if isinstance(value, (float, np.floating)):
        return f"{value:.0f}" if float(value).is_integer() else repr(float(value))
    return str(value)


def load(path: str | Path = "model") -> Classifier:
    """The model of a model directory, or of a file."""
    path = Path(path)
    return Classifier(path / modern.MODEL_FILE if path.is_dir() else path)


@contextlib.contextmanager
def open_output(path: Path | None, endless: bool) -> Iterator[TextIO]:
    """Where the rows go: standard output, a device or pipe as it is, or a file that is there whole or not at all.

    What answers an endless stream is there from the start, and keeps the rows answered so far. A file that was there
    is replaced, and a note says so.
    """
    if path is None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", errors="strict", newline="")
        yield sys.stdout
        return
    if is_stream(path):
        number = stream_number(path)
        try:
            with open(path if number is None else os.dup(number), "w", encoding="utf-8", newline="") as out:
                yield out
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
        return
    new = modern.beside(path)

    def put() -> None:
        before = path.exists()
        os.replace(new, path)
        if before:
            note(f"replaced {path}")

    try:
        with modern.open_beside(path) as raw, open(raw.fileno(), "w", -1, "utf-8", newline="", closefd=False) as out:
            if endless:
                put()
            yield out
            out.flush()
            os.fsync(out.fileno())
        if not endless:
            put()
    except BaseException as error:
        with contextlib.suppress(OSError):
            new.unlink()
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        raise


def answer_names(names: list[str]) -> list[str]:
    """What the added columns are called: by other names where the input has such columns of its own."""
    given = []
    for name in ("probability", "predicted"):
        free = name if name not in names else f"model_{name}"
        while free in names:
            free += "_"
        if free != name:
            note(f"the input has a column {name}, which is kept; the model's is called {free}")
        given.append(free)
    return given


def labelled(options: argparse.Namespace, details: Details, answered: Answered) -> list[np.ndarray]:
    """The labels, 0 and 1, probabilities and hashes of rows.

    A row without a label is refused in a file, noted in a stream.
    """
    (rows, probability, inputs), name = answered, details.label
    labels = np.array([modern.cell_label(cell) for cell in rows[name]], np.float32)
    for place in np.flatnonzero(labels < 0):
        words = f"line {rows.index[place]}, column {name}: the label is missing or not 0 or 1"
        if options.csv != "-":
            raise UserError(f"{options.csv}: {words}; leave --evaluate out")
        note(f"{words}, not evaluated")
    return [part[labels >= 0] for part in (labels, probability, row_hashes(details, inputs))]


def row_hashes(details: Details, inputs: Inputs) -> np.ndarray:
    """What store_training_rows() keeps of rows that a model is trained on, of the rows it is given."""
    import pandas as pd

    parts: dict[str, list[np.ndarray]] = {"number": [], "category": []}
    for name, kind in details.kinds.items():
        cells = inputs[name].numpy()[:, 0]
        if kind == "number":
            missing = cells == modern.MISSING if cells.dtype == np.int64 else np.isnan(cells)
            cells = coarse_numbers(np.where(missing, np.nan, cells.astype(np.float64)))
        elif cells.dtype == object:
            codes, texts = pd.factorize(cells)
            cells = hash_values([text.decode() for text in texts])[codes]
        parts[kind].append(cells)
    return modern.hash_rows(parts["number"] + parts["category"])


def split_seen(known: TrainingRows, hashes: np.ndarray) -> tuple[str, np.ndarray | None]:
    """What to say when rows trained the model, and which of them are known not to have; otherwise "" and None."""
    looked = hashes < known.bound
    seen, rows = looked & np.isin(hashes, known.hashes), int(looked.sum())
    count, whole = int(seen.sum()), known.bound == 2**64 - 1
    if not count or modern.wilson(count, rows)[0] <= known.repeated:  # or as many as new rows would be by chance
        return "", None
    shown = f"about {100 * count / rows:.0f} %"
    if whole:
        shown = f"{count:,}" if count < rows else "all"
    words = f"{shown} of these {len(hashes):,} rows were used to train this model, so the result is too optimistic"
    if known.repeated >= 0.005:
        words += f" (by chance {100 * known.repeated:.0f} % of new rows equal one of its training rows)"
    return words, looked & ~seen


def show_evaluation(label: np.ndarray, probability: np.ndarray, threshold: float, others: np.ndarray | None) -> None:
    """Print measures of all rows, and beside them of the others: those that did not train the model."""
    parts = {f"{len(label):,} rows, 95 % intervals": slice(None)}
    if others is not None:
        parts[f"{np.count_nonzero(others):,} rows not used in training"] = others
    tests = [modern.measure(label[rows], probability[rows], threshold, 0) for rows in parts.values()]
    lines = ["".join(f"{name:<40}" for name in parts)]
    for name in ("accuracy", "precision", "recall", "roc_auc", "pr_auc", "log_loss"):
        if tests[0][name] is not None:
            lines.append(f"  {name:<10}" + "".join(f"{measured(test, name):<28}" for test in tests))
    modern.print_error("\n".join(line.rstrip() for line in lines))


def measured(test: dict[str, Any], name: str) -> str:
    value, ends = test[name], test.get(f"{name}_ci95")
    return f"{'-':>7}" if value is None else f"{value:7.3f}  {modern.interval(ends, 1, 3) if ends else ''}"


def evaluate(options: argparse.Namespace, details: Details, known: TrainingRows | None, parts: list) -> None:
    """Measure the predictions against the labels, and say whether the rows trained the model."""
    label, probability, hashes = (np.concatenate(part) for part in zip(*parts, strict=True))
    if not len(label):
        raise UserError(f"{STREAM}: holds no rows to evaluate")
    words, others = split_seen(known, hashes) if known else ("", None)
    if words and (count := np.count_nonzero(others)) < FEWEST_ROWS:
        few = f"the {count} that did not are too few" if count else "none is left"
        words, others = f"{words}, and {few} to test on: metrics.json has the result of the run's own test", None
    if known is None:
        note("whether these rows were used to train this model is not known: it holds no hashes of its training rows")
    else:
        note(words or "there is no sign that these rows were used to train this model")
    show_evaluation(label, probability, details.threshold, others)


def run(options: argparse.Namespace) -> int:
    import pandas as pd

    details, evaluated = open_model(options.model), []
    known = read_training_rows(options.model) if options.evaluate else None
    chunks = read_stream(details) if options.csv == "-" else read_rows(options.csv, details)
    first = next(chunks)  # before TensorFlow is imported: bad input is told at once
    source = STREAM if options.csv == "-" else options.csv
    if options.evaluate and details.label not in first:
        raise UserError(f"{source}: line 1 has no column {details.label}, which --evaluate needs")
    if options.evaluate and not len(first) and options.csv != "-":
        raise UserError(f"{source}: holds no rows to evaluate")
    model, names = load_model(options.model, details), answer_names(list(first))
    with open_output(options.output, options.csv == "-") as out:
        for chunk in itertools.chain([first], chunks):
            rows, probability, _ = answered = predict_chunk(model, details, options, chunk)
            if options.evaluate:
                evaluated.append(labelled(options, details, answered))
            answers = ([f"{value:.6f}" for value in probability], (probability >= details.threshold).astype(int))
            table = pd.concat([rows, pd.DataFrame(dict(zip(names, answers, strict=True)), rows.index)], axis=1)
            returns = any("\r" in cell for name in rows for cell in rows[name])  # not quoted unless all cells are
            quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
            table.to_csv(out, index=False, header=chunk is first, lineterminator="\n", quoting=quoting)
            out.flush()
    if options.evaluate:
        evaluate(options, details, known, evaluated)
    return 0


def stop(number: int, _: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(number)


def main(arguments: list[str] | None = None) -> int:
    modern.prepare_streams()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    try:
        return run(parse_options(arguments))
    except UserError as error:
        modern.print_error(f"error: {error}")
        return 2
    except KeyboardInterrupt as error:
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    except ModuleNotFoundError as error:
        modern.print_error(modern.missing_package(error))
        return 1
    except BrokenPipeError:  # whoever reads the rows has enough of them
        modern.drop_output()
        return 1
    except OSError as error:
        place = error.filename or "standard output"
        modern.drop_output()
        modern.print_error(f"error: {place}: {error.strerror or error}")
        return 1


if __name__ == "__main__":
    modern.run_command(main)
