# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#   "tensorflow-cpu>=2.21,<3; (sys_platform == 'linux' and platform_machine == 'x86_64') or sys_platform == 'win32'",
#   "tensorflow>=2.21,<3; (sys_platform != 'linux' or platform_machine != 'x86_64') and sys_platform != 'win32'",
#   "keras>=3.15.1,<4",
#   "tensorboard>=2.21,<3",
#   "numpy>=2,<3",
#   "pandas>=2.2,<4",
# ]
# ///
"""Train a small Keras network on HARVEST.CSV and say how far it can be trusted.

    python train_model_modern.py /tmp/HARVEST.CSV
    python train_model_modern.py /tmp/HARVEST.CSV --architecture deep
    python train_model_modern.py /tmp/HARVEST.CSV --folds 10
    python train_model_modern.py --sample
    tensorboard --logdir model/logs

The model, its metrics, checkpoints and logs are written to --model-dir (default: model). Nothing leaves the machine.
The file reads from top to bottom in the order things happen: settings, data, model, training, logging, evaluation,
export, main. pandas is imported once the command line is understood, TensorFlow once the data is.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import csv
import errno
import hashlib
import io
import json
import keyword
import math
import os
import platform
import re
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from itertools import compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))  # until main() can say more

try:
    import numpy as np
except ModuleNotFoundError:
    sys.exit(
        f"error: the package numpy is not installed for {sys.executable}; use .venv/bin/python, or pip install -r requirements-cpu.txt"
    )

STARTED = time.perf_counter()
VERSION = "1.2.0"

# ---------------------------------------------------------------------------------------------------------------------
# Settings


class UserError(Exception):
    """The command line or the data is wrong: told in one line, exit code 2."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n").replace("\r", "\\r")  # of names that hold line ends


class Architecture(NamedTuple):
    units: tuple[int, ...]
    dropout: float


ARCHITECTURES = {
    "lightweight": Architecture((8,), 0.2),
    "standard": Architecture((10, 10), 0.2),
    "deep": Architecture((16, 12, 8), 0.3),
}
MODEL_FILE = "productivity_model.keras"
METRICS_FILE = "metrics.json"
CARD_FILE = "README.md"
PREDICTIONS_FILE = "predictions.csv"
BASIC_MODEL_FILE = "basic_model.keras"  # of train_model.py
BASIC_METRICS_FILE = "basic_metrics.json"
PREDICTION_COLUMNS = [b"file", b"line", b"fold", b"label", b"probability"]
RESUME_FILE = "resume.npz"
LOCK_FILE = ".lock"
MINIMUM_LEARNING_RATE = 0.00001
WEIGHT_DECAY = 0.004  # the default of keras.optimizers.AdamW
BATCH_NORMALIZATION_EPSILON = 0.001  # the default of keras.layers.BatchNormalization
EXPORTS = {  # what --export writes, and the packages it takes
    "saved_model": ("productivity_model_saved_model", ()),
    "litert": ("productivity_model.tflite", ("ai-edge-litert",)),
    "onnx": ("productivity_model.onnx", ("onnx", "onnxruntime")),
}
RESULT_FILES = [MODEL_FILE, PREDICTIONS_FILE, CARD_FILE, *(file for file, _ in EXPORTS.values()), METRICS_FILE]
RESULT_FILES += [BASIC_MODEL_FILE, BASIC_METRICS_FILE]
MAXIMUM_CATEGORIES = 256  # a column; the most frequent are kept, the others share the place of the unseen


def default_csv() -> str:
    return os.path.join(tempfile.gettempdir(), "HARVEST.CSV")


def threshold_rule(text: str) -> tuple[str, float | None]:
    """A way to choose the threshold: (name, its number)."""
    if text in ("f1", "balanced"):
        return text, None
    name, _, value = text.partition("=")
    number = 0.0  # refused below
    with contextlib.suppress(ValueError):
        if name == "cost":
            false_positive, false_negative = (float(part) for part in value.split(":"))
            if min(false_positive, false_negative) > 0:
                number = false_positive / (false_positive + false_negative)
        else:
            number = float(value if name in ("precision", "recall") else text)
            name = name if value else "fixed"
    if not 0 < number < 1:
        rules = "a number between 0 and 1, f1, balanced, precision=0.9, recall=0.9, cost=FP:FN"
        raise argparse.ArgumentTypeError(f"{text} is none of: {rules}")
    return name, number


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"{message}; --help lists the flags")


def positive_integer(text: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d{0,17}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def positive_number(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def seed_number(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is not in 0 to 2147483647")
    return value


def build_parser() -> Parser:
    switch = {"action": argparse.BooleanOptionalAction}
    count = {"type": positive_integer, "metavar": "N"}
    columns = {"nargs": "+", "default": [], "metavar": "COLUMN"}
    purpose = "Train a small Keras network on HARVEST.CSV and say how far it can be trusted."
    parser = Parser(prog="train_model_modern.py", description=purpose, allow_abbrev=False)

    def flag(name: str, default: object, text: str, **settings: object) -> None:
        """Add a flag to the last group; its help ends with its default. True and False make a pair, --x and --no-x."""
        shown = default
        if isinstance(default, bool):
            settings |= switch
            shown = "on" if default else "off"
        group.add_argument(name, default=default, help=f"{text} (default: {shown})", **settings)

    files = "the table to learn from; several files, or a directory of them, are read as one"
    parser.add_argument("csv", nargs="*", metavar="CSV", help=f"{files} (default: {default_csv()})")
    group = parser.add_argument_group("model")
    flag("--architecture", "standard", "hidden units 8 / 10, 10 / 16, 12, 8", choices=ARCHITECTURES)
    flag("--model-dir", "model", "where everything is written", type=Path, metavar="DIR")
    group = parser.add_argument_group("data")
    text = "train on N generated rows, for a first try without data (500 when N is left out)"
    group.add_argument("--sample", nargs="?", const=500, help=text, **count)
    flag("--label", "productive", "the column to predict, 0 or 1", metavar="COLUMN")
    group.add_argument("--categorical", help="columns to read as categories", **columns)
    group.add_argument("--numeric", help="columns to read as numbers", **columns)
    group.add_argument("--drop", help="columns to leave out", **columns)
    flag("--folds", 1, "K nets on K cross-validation folds, averaged; tested on all rows", **count | {"metavar": "K"})
    text = "stratified at random, or train on the past and test on the last rows"
    flag("--split", "random", text, choices=("random", "time"))
    text = "leave out the rows that would be refused, and say how many"
    group.add_argument("--skip-bad-rows", default=False, help=text, **switch)
    group = parser.add_argument_group("training")
    flag("--epochs", 150, "at most", **count)
    group.add_argument("--batch-size", help="rows a step (default: from the number of rows)", **count)
    flag("--learning-rate", 0.001, "at the start", type=positive_number, metavar="X")
    flag("--seed", 42, "of split, weights, order and dropout", type=seed_number, metavar="N")
    flag("--adamw", True, "AdamW; off: Adam")
    flag("--reduce-lr", True, "halve the learning rate when the validation loss stalls")
    flag("--early-stopping", True, "stop when the validation loss has stalled, keep the best weights")
    flag("--class-weight", "none", "balanced: weight the rarer class up", choices=("none", "balanced"))
    text = "a number, f1, balanced, precision=X, recall=X or cost=FP:FN"
    flag("--threshold", "0.5", text, type=threshold_rule, metavar="RULE")
    flag("--resume", False, "go on with the interrupted run in the model directory")
    group = parser.add_argument_group("speed")
    flag("--cpu-only", False, "hide every accelerator")
    group.add_argument("--mixed-precision", help="16-bit matrix products (default: where it pays)", **switch)
    group.add_argument("--xla", help="one compiled program for the epochs (default: where it pays)", **switch)
    group = parser.add_argument_group("output")
    flag("--checkpoints", True, "save the model at each new best epoch")
    flag("--keep-checkpoints", 5, "the newest N are kept, 0 keeps all", type=int, metavar="N")
    flag("--tensorboard", True, "write logs for TensorBoard")
    flag("--profile", False, "profile ten epochs for TensorBoard's Profile tab")
    text = f"write the model as {', '.join(EXPORTS)} too"
    group.add_argument("--export", nargs="+", choices=EXPORTS, default=[], metavar="FORMAT", help=text)
    flag("--describe", False, "show what the data holds, train nothing, write nothing")
    group.add_argument("--quiet", default=False, help="print nothing but errors", **switch)
    group.add_argument("--version", action="version", version=VERSION)
    return parser


def given_flags(arguments: list[str] | None) -> dict[str, object]:
    """The flags that were given, without the defaults of the others."""
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(arguments))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    options = build_parser().parse_args(arguments)
    if options.csv and options.sample:
        raise UserError("a CSV and --sample were both given; leave one of them out")
    if options.profile and not options.tensorboard:
        raise UserError("--profile writes to the logs that --no-tensorboard turns off; leave one of them out")
    if options.keep_checkpoints < 0:
        raise UserError(f"--keep-checkpoints {options.keep_checkpoints} is below 0; give 0 to keep all")
    if (rate := options.learning_rate) < MINIMUM_LEARNING_RATE:
        raise UserError(f"--learning-rate {rate:g} is below {MINIMUM_LEARNING_RATE:g}, the smallest rate used")
    if options.folds == 2:
        raise UserError("--folds 2 leaves no rows to train on beside those to stop by and to test on; give 3 or more")
    if options.folds > 1 and options.split == "time":
        raise UserError("--folds and --split time exclude each other: folds are drawn at random")
    for name in options.export:
        if absent := [package for package in EXPORTS[name][1] if not metadata_version(package)]:
            raise UserError(f"--export {name} needs {' and '.join(absent)}: pip install {' '.join(absent)}")
    options.csv = options.csv or [default_csv()]
    return options


# ---------------------------------------------------------------------------------------------------------------------
# Data: what a cell means

MISSING = -(2**63)  # an empty cell among integer ids
UNSEEN = MISSING + 1  # among integer ids, text that is no id: it cannot have been seen in training
LOWEST_ID = MISSING + 8  # what lies below is kept for cells that are no ids
LARGEST_NUMBER = float(np.finfo(np.float32).max)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
INTEGER = re.compile(r"(-?[1-9]\d{0,18}|0)(\.0+)?", re.ASCII)  # 5.0 is 5, as programs write ids beside empty cells
DIGITS = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)  # an id of any length and with zeros in front, perhaps kept as text
DATE = re.compile(r"\d{4}-\d\d-\d\d|\d{1,2}[./]\d{1,2}[./]\d{2,4}")
LABELS = {"0": 0, "0.0": 0, "false": 0, "no": 0, "1": 1, "1.0": 1, "true": 1, "yes": 1}


def cell_number(cell: str) -> float:
    """The number a cell means: NaN for an empty cell, infinity for what is no number or is beyond 3.4e38."""
    text = cell.strip()
    if not text:
        return math.nan
    value = float(text) if NUMBER.fullmatch(text) else math.inf
    return value if abs(value) <= LARGEST_NUMBER else math.inf


def cell_whole(cell: str) -> float:
    """The same in a column of whole numbers: rounded, within 62 bits, and MISSING for an empty cell."""
    value = cell_number(cell)
    return MISSING if math.isnan(value) else value if math.isinf(value) else round(min(max(value, -(2.0**62)), 2.0**62))


def cell_id(cell: str) -> int:
    """The integer id a cell means: MISSING for an empty cell, UNSEEN for what is no integer of 64 bits."""
    text = cell.strip()
    if not text:
        return MISSING
    value = int(text.partition(".")[0]) if INTEGER.fullmatch(text) else UNSEEN
    return value if LOWEST_ID <= value < 2**63 else UNSEEN


def cell_label(cell: str) -> int:
    """0 or 1, or -1 for what is neither."""
    return LABELS.get(cell.strip().lower(), -1)


cell_text = str.strip  # "" for an empty cell; no meaning starts or ends with white space
MEANINGS = {"float64": cell_number, "float32": cell_number, "int64": cell_id, "string": cell_text}  # by a model's input

# ---------------------------------------------------------------------------------------------------------------------
# Data: lines

ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as surrogateescape reads them
V0_COLUMNS = ["foreground_app", "keyboard_activity", "mouse_activity", "time_last_request", "productive"]
GUESS_ROWS = 10_000  # rows from which it is guessed whether a column is read as text; what it is follows from all rows
CHUNK_ROWS = 1_000_000  # rows read at once: bounds the memory on large files
BLOCK_BYTES = 1 << 24
LONGEST_LINE = 1 << 26  # bytes
LONGEST_NAME = 500  # characters
CHANGED = "{}: changed while it was read; start again when nothing but the harvester writes to it"
csv.field_size_limit(LONGEST_LINE)


@dataclass(frozen=True)
class Source:
    """What pandas is given, and how its rows map to lines of the file."""

    path: str
    names: list[str]
    header: bool
    content: str | None  # None: pandas reads the file itself; otherwise quoted text, put right by the csv module
    skip: list[int]  # lines of the file, from 0, that pandas leaves out
    lines: np.ndarray  # int: the line number, from 1, of each data row
    notes: list[str]
    skipped: int
    torn: bool  # the file ends without a line end: its last line may be cut off


def name_some(lines: np.ndarray) -> str:
    shown = ", ".join(map(str, lines[:5])) + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")
    return f"line {shown}" if len(lines) == 1 else f"lines {shown}"


def refuse(path: str, *faults: tuple[object, str]) -> None:
    """Raise UserError with the message of the first fault, a pair (condition, message), whose condition holds."""
    for holds, message in faults:
        if holds:
            raise UserError(f"{path}: {message}")


def undecodable(path: str) -> UserError:
    """The refusal of a file that is not UTF-8 text; it names the first line at fault."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        faulty = (f"line {number}" for number, line in enumerate(file, 1) if ESCAPED.search(line))
        return UserError(f"{path}: {next(faulty, 'a line')} is not UTF-8 text; save the file as UTF-8")


def find_files(paths: list[str]) -> list[str]:
    """The files to read as one table: those given, and those that end in .csv in directories given, by name."""
    files: list[str] = []
    for path in paths:
        found = [path]
        if os.path.isdir(path):
            found = [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.lower().endswith(".csv")]
            refuse(path, (not found, "is a directory without a .csv file; give the CSV file"))
        files += found
    seen: dict[object, str] = {}
    for path in files:
        status = os.stat(path) if os.path.exists(path) else None
        identity = (status.st_dev, status.st_ino) if status and status.st_ino else os.path.abspath(path)
        if identity in seen:
            also = "" if seen[identity] == path else f", as {seen[identity]} too"
            raise UserError(f"{path}: was given twice{also}; leave one of them out")
        seen[identity] = path
    return files


def check_file(path: str, unlabelled: bool = False) -> str:
    """Refuse what is not a readable CSV and return its first line, without the byte-order mark."""
    or_sample = "" if unlabelled else ", or --sample to try without data"
    refuse(
        path,
        (os.path.isdir(path), "is a directory; give a file"),
        (not os.path.exists(path), f"no such file; give the path of your HARVEST.CSV{or_sample}"),
        (not os.path.isfile(path), "is not a regular file; save its contents to a file first"),
    )
    try:
        with open(path, "rb") as file:
            start = file.readline(LONGEST_LINE)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; make the file readable or give a copy of it") from None
    first = start.decode("utf-8-sig", "surrogateescape").rstrip("\r\n")
    utf_16, packed = start.startswith((b"\xff\xfe", b"\xfe\xff")), start.startswith((b"\x1f\x8b", b"PK\x03\x04"))
    separators = {";": "semicolons", "\t": "tabs", "|": "bars"}
    other = next((name for sign, name in separators.items() if first.count(sign) > first.count(",")), "")
    refuse(
        path,
        (utf_16, "line 1 starts as UTF-16 text; save the file as UTF-8"),
        (packed, "is compressed; unpack it first"),
        (b"\0" in start, "line 1 holds a NUL byte: the file is not UTF-8 text; save the table as UTF-8 CSV"),
        (not start, "the file is empty; let the harvester write some rows first"),
        (ESCAPED.search(first), "line 1 is not UTF-8 text; save the file as UTF-8"),
        (not first.strip(), "line 1 is empty; it must hold the column names"),
        ("\r" in first, "line 1 ends with a carriage return alone; save the file with line feeds"),
        (other, f"line 1 is separated by {other}; save the file with commas"),
    )
    return first


def whole_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Pieces of a file, of whole lines, each with the number of lines before it; the last may lack its line end."""
    before = 0
    with open(path, "rb") as file:
        while piece := file.read(BLOCK_BYTES):
            piece += (tail := file.readline(LONGEST_LINE))
            if (nul := piece.find(b"\0")) >= 0:
                number = before + piece.count(b"\n", 0, nul) + 1
                fault = "holds a NUL byte: the file is damaged or not UTF-8 text; save it as UTF-8 CSV"
                raise UserError(f"{path}: line {number} {fault}")
            lines = piece.count(b"\n")
            if len(tail) == LONGEST_LINE and not tail.endswith(b"\n"):
                raise UserError(f"{path}: line {before + lines + 1} is longer than 64 MB; this is not a HARVEST.CSV")
            yield before, piece
            before += lines


def count_fields(path: str) -> tuple[np.ndarray, bool, bool]:
    """Count the fields of each line: (int32 array, 0 for an empty line; are there quotes; does the last line end)."""
    counts, quotes, text = [], False, b""
    for before, text in whole_lines(path):
        quotes = quotes or b'"' in text
        alone = not quotes and text.count(b"\r") != text.count(b"\r\n")
        if alone and (place := re.search(rb"\r(?!\n|\Z)", text)):  # a last line may be cut off between the two
            number = before + text.count(b"\n", 0, place.start()) + 1
            raise UserError(f"{path}: line {number} holds a carriage return; save the file with line feeds")
        signs = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(signs == ord("\n"))
        fields = np.diff(np.searchsorted(np.flatnonzero(signs == ord(",")), ends), prepend=0) + 1
        length = np.diff(ends, prepend=-1) - 1
        length -= (signs[np.maximum(ends - 1, 0)] == ord("\r")) & (length > 0)
        fields[length == 0] = 0
        counts.append(fields.astype(np.int32))
    ended = text.endswith(b"\n")
    if not ended:
        counts.append(np.array([text.count(b",", text.rfind(b"\n") + 1) + 1], np.int32))
    return np.concatenate(counts), quotes, ended


def find_line(path: str, wanted: str) -> list[int]:
    """The numbers, from 0, of the lines that equal a wanted line."""
    target, numbers = wanted.encode(), []
    for before, text in whole_lines(path):
        if target in text:
            lines = (line.rstrip(b"\r").removeprefix(codecs.BOM_UTF8) for line in text.split(b"\n"))
            numbers += [number for number, line in enumerate(lines, before) if line == target]
    return numbers


def split_record(record: str) -> list[str]:
    """The cells of one record, taken apart as everywhere; csv.Error where its quotes are wrong."""
    if '"' not in record:
        return record.split(",") if record else []
    return next(csv.reader([record], skipinitialspace=True, strict=True), [])


def read_quoted(path: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Take quoted text apart with the csv module: (records as plain CSV, fields of each, first line number of each)."""
    records, fields, lines, line = [], [], [], 1
    out = io.StringIO()
    writer = csv.writer(out)  # its line end makes it quote line feeds and carriage returns
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        reader = csv.reader(file, skipinitialspace=True, strict=True)
        try:
            for record in reader:
                writer.writerow(record or [""])
                records.append(out.getvalue().removesuffix("\r\n"))
                out.seek(0)
                out.truncate()
                fields.append(len(record))
                lines.append(line)
                line = reader.line_num + 1
        except csv.Error as error:
            raise UserError(f"{path}: line {line}: {error}; close the quotes or remove them") from None
        except UnicodeDecodeError:
            raise undecodable(path) from None
    return records, np.array(fields, np.int32), np.array(lines)


def column_names(path: str, first: list[str], unlabelled: bool = False) -> tuple[list[str], bool]:
    """The names of the columns and whether the first line holds them; the 2017 generation has no header.

    Where rows may be unlabelled, four numbers are a row of 2017 without its label.
    """
    cells = [cell.strip() for cell in first]
    if cells and not any(math.isinf(cell_number(cell)) for cell in cells):
        absent = len(V0_COLUMNS) - len(cells)
        if absent and not (unlabelled and absent == 1):
            fault = "add a header line (only five columns are known without)"
            raise UserError(f"{path}: line 1 has {len(cells)} numbers and no column names; {fault}")
        return V0_COLUMNS[: len(cells)], False
    names = [cell or f"unnamed_{number}" for number, cell in enumerate(cells, 1)]
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        length = f"the name has {len(name):,} characters; shorten it to {LONGEST_NAME} or fewer"
        strange = "the name holds a slash or an unprintable character; rename it"
        refuse(
            path,
            (name in seen, f"line 1 names the column {name} twice; rename one of them"),
            (len(name) > LONGEST_NAME, f"line 1, column {number}: {length}"),
            ("/" in name or not name.isprintable(), f"line 1, column {name!r}: {strange}"),
        )
        seen.add(name)
    return names, True


def without_torn(rows: np.ndarray, lines: np.ndarray, torn: bool, notes: list[str]) -> np.ndarray:
    """Bad rows without the last row of the file when no line end follows it: it was cut off, and a note says so."""
    if torn and len(rows) and rows[-1] == len(lines) - 1:
        notes.append(f"line {lines[-1]}, the last, is cut off and left out")
        return rows[:-1]
    return rows


def find_source(path: str, skip_bad_rows: bool, unlabelled: bool = False) -> Source:
    """Check the structure of a CSV file, every line of it, before anything is read from it.

    Raises UserError for rows with too many or too few fields, unless they are to be skipped.
    """
    first, records = check_file(path, unlabelled), []
    fields, quotes, ended = count_fields(path)
    lines = np.arange(1, len(fields) + 1)
    if quotes:
        records, fields, lines = read_quoted(path)
        first = records[0]
    names, header = column_names(path, split_record(first), unlabelled)
    kept, notes = fields > 0, []
    kept[0] &= not header
    wrong = kept & (fields != len(names))
    kept &= ~wrong
    bad = without_torn(np.flatnonzero(wrong), lines, not ended, notes)
    if header:
        same = [row for row, record in enumerate(records) if record == first] if quotes else find_line(path, first)
        repeated = [row for row in same if kept[row]]
        kept[repeated] = False
        if repeated:
            notes.append(f"{name_some(lines[repeated])}: the header again, left out")
    if len(bad):
        where = name_some(lines[bad])
        if not skip_bad_rows:
            fault = f"{fields[bad[0]]} fields where {len(names)} are expected"
            raise UserError(f"{path}: {where}: {fault}; mend the rows or leave them out with --skip-bad-rows")
        notes.append(f"{where}: wrong number of fields, left out")
    content, skip = None, np.flatnonzero(~kept)[int(header) :].tolist()  # the header is no line to skip
    if quotes:  # what is left out is not written in the first place
        content, skip = "\n".join([*records[: int(header)], *compress(records, kept), ""]), []
    return Source(path, names, header, content, skip, lines[kept], notes, len(bad), not ended)


# ---------------------------------------------------------------------------------------------------------------------
# Data: columns

CATEGORY_WORDS = {"app", "apps", "domain", "domains", "hash", "id"}
QUANTITY_WORDS = {"count", "flag", "rate", "share", "distinct", "ms", "60s", "300s", "number", "age", "score"}
TIME_NAMES = {"timestamp", "datetime", "date", "time", "created_at", "updated_at"}


@dataclass
class Column:
    name: str
    kind: str  # number, category or dropped
    reason: str = ""
    missing: int = 0
    distinct: int = 0
    vocabulary: list[int] | list[str] = field(default_factory=list)  # of a category, sorted; MISSING or "": no value
    hint: str = ""

    @property
    def integers(self) -> bool:
        """Of a category: are its values integers, not text."""
        return isinstance(self.vocabulary[0], int)


@dataclass
class Table:
    """The rows of the files. N rows, D numbers, C categories.

    Columns stand in the order of their names. Rows stand in the order of what they hold, unless time matters, so that
    their order in the files changes nothing.
    """

    columns: list[Column]
    numbers: np.ndarray  # [N, D] float64, NaN where the cell is empty; columns are contiguous
    codes: np.ndarray  # [N, C] int32: positions in the vocabularies
    label: np.ndarray  # [N] float32, 0 or 1
    files: np.ndarray  # [N] uint16: which of the files a row is from
    lines: np.ndarray  # [N] int32: the line of its file
    names: list[str]  # of the files, without directories
    notes: list[str]
    read: int
    skipped: int
    scales: Scales | None = None  # of the numbers

    def of_kind(self, kind: str) -> list[Column]:
        return [column for column in self.columns if column.kind == kind]


@dataclass
class Cells:
    """All cells of a column: as numbers, or as codes of its texts."""

    values: np.ndarray | None = None  # [N] float64: what cell_number says of each cell
    codes: np.ndarray | None = None  # [N] int32; the code of an empty cell is 0
    texts: dict[str, int] = field(default_factory=lambda: {"": 0})  # the code of each text, in the order of the codes

    def numbers(self) -> np.ndarray:
        if self.values is None:
            self.values = np.array([cell_number(text) for text in self.texts])[self.codes]
        return self.values


def read_chunks(
    source: Source, kinds: dict[str, type], rows: int, chunk_rows: int = CHUNK_ROWS, keep_spaces: bool = False
) -> Iterator[pd.DataFrame]:
    """Iterate over data frames of columns, of these types, up to a number of rows; UserError for what is no text."""
    import pandas as pd

    try:
        yield from pd.read_csv(
            io.StringIO(source.content) if source.content is not None else source.path,
            header=0 if source.header else None,
            names=source.names,
            usecols=list(kinds),
            dtype=kinds,
            skiprows=source.skip,
            nrows=rows,
            chunksize=chunk_rows,
            keep_default_na=False,
            na_values=[""],
            skipinitialspace=not keep_spaces,
            encoding="utf-8-sig",
            index_col=False,
            skip_blank_lines=False,  # those that are blank are among the lines to skip
            low_memory=False,  # or a part of a chunk in which every cell is TRUE would be read as ones
            engine="c",
        )
    except UnicodeDecodeError:
        raise undecodable(source.path) from None
    except (FileNotFoundError, pd.errors.EmptyDataError, pd.errors.ParserError):
        raise UserError(CHANGED.format(source.path)) from None


def is_doubtful(values: np.ndarray) -> bool:
    """Whether pandas may have read what is no number: infinity, and TRUE, which is 1 to it where all cells are such."""
    most = np.fmax.reduce(np.abs(values), initial=-1.0)
    return bool(most > LARGEST_NUMBER or (0 <= most <= 1 and (np.isin(values, [0, 1]) | np.isnan(values)).all()))


def read_columns(sources: list[Source], names: list[str], options: argparse.Namespace) -> dict[str, Cells]:
    """Read columns of all files. Most numbers are read by pandas' own parser, everything else as text.

    A column in which that parser finds anything but numbers is read again, as text: what it is follows from its texts.
    """
    textual = {name for name in names if name == options.label or name in options.categorical or is_id_name(name)}
    heads = [replace(source, lines=source.lines[: GUESS_ROWS // len(sources) + 1]) for source in sources]
    textual |= read_once(heads, names, textual)[1]
    cells, again = read_once(sources, names, textual)
    return cells | read_once(sources, sorted(again), again)[0]


def read_once(sources: list[Source], names: list[str], textual: set[str]) -> tuple[dict[str, Cells], set[str]]:
    """The cells of the columns, and the names of those that must be read again, as text."""
    rows = sum(len(source.lines) for source in sources)
    cells = {
        name: Cells(codes=np.zeros(rows, np.int32)) if name in textual else Cells(values=np.full(rows, math.nan))
        for name in names
    }
    again: set[str] = set()
    start = 0
    for source in sources:
        end, held = start + len(source.lines), set(source.names)
        present = [name for name in names if name in held]
        for chunk in read_typed(source, present, textual, again) if present else ():
            stop = start + len(chunk)
            for name in chunk:
                if name in textual:
                    cells[name].codes[start:stop] = code_chunk(chunk[name], cells[name].texts)
                elif name not in again:
                    values = cells[name].values[start:stop] = chunk[name].to_numpy(float)
                    if is_doubtful(values):
                        again.add(name)
            start = stop
        if present and start != end:
            raise UserError(CHANGED.format(source.path))
        start = end
    return {name: part for name, part in cells.items() if name not in again}, again


def read_typed(source: Source, names: list[str], textual: set[str], again: set[str]) -> Iterator[pd.DataFrame]:
    """Iterate over data frames; where numbers cannot be parsed, the columns at fault are added to again."""
    import pandas as pd

    rows, done = len(source.lines), 0
    while True:
        numeric = set(names) - textual - again
        try:
            kinds = {name: float if name in numeric else object for name in names}
            for chunk in islice(read_chunks(source, kinds, rows), done, None):
                yield chunk
                done += 1
            return
        except ValueError:
            if not numeric:
                raise
            for chunk in islice(read_chunks(source, dict.fromkeys(names, object), rows), done, done + 1):
                numbers = {name: pd.to_numeric(chunk[name], errors="coerce").count() for name in numeric}
                again |= {name for name in numeric if numbers[name] < chunk[name].count()} or numeric


def code_chunk(cells: pd.Series, texts: dict[str, int]) -> np.ndarray:
    """The codes [N] of cells (text, NaN where empty) in a list of texts that grows as new ones are met."""
    codes, found = cells.factorize()
    known = [texts.setdefault(cell_text(text), len(texts)) for text in found]
    return np.array([*known, 0], np.int32)[codes]  # -1, an empty cell, is the last


def name_words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower()))


def is_id_name(name: str) -> bool:
    words = name_words(name)
    return bool(words & CATEGORY_WORDS) and not words & QUANTITY_WORDS


def column_kind(name: str, cells: Cells, options: argparse.Namespace) -> tuple[str, str]:
    """Tell the kind of a column from its name and all its cells, whatever their order: (kind, reason)."""
    if name in options.categorical:
        return "category", "--categorical"
    if name in options.numeric:
        return "number", "--numeric"
    if cells.values is not None:
        known = cells.values[~np.isnan(cells.values)]
        return number_kind(name, known) if len(known) else ("dropped", "empty")
    counts = np.bincount(cells.codes, minlength=len(cells.texts))
    texts = [(text, count) for text, count in zip(cells.texts, counts, strict=True) if text and count]
    filled = int(sum(count for _, count in texts))
    if not filled:
        return "dropped", "empty"
    distinct = filled > 20 and len(texts) > 0.9 * filled
    if is_id_name(name) and all(DIGITS.fullmatch(text) for text, _ in texts):
        return ("dropped", "nearly all values distinct") if distinct else ("category", "an id by its name")
    numeric = sum(count for text, count in texts if math.isfinite(cell_number(text))) / filled
    if numeric == 1 or (numeric >= 0.5 and not is_id_name(name)):
        values = cells.numbers()
        return number_kind(name, values[np.isfinite(values)])
    if all(DATE.match(text) for text, _ in texts):
        return "dropped", "a timestamp"
    return ("dropped", "nearly all values distinct") if distinct else ("category", "text")


def number_kind(name: str, known: np.ndarray) -> tuple[str, str]:
    """Whole numbers without a gap, each once, count the rows."""
    if name in V0_COLUMNS or len(known) <= 20 or np.ptp(known) > 1.01 * len(known) or np.any(known % 1):
        return "number", ""
    return ("number", "") if len(np.unique(known)) < len(known) else ("dropped", "a row number")


def read_table(options: argparse.Namespace) -> Table:
    """Read CSV files of any generation into one Table, or raise UserError: what is wrong, where and what to do."""
    sources = [find_source(path, options.skip_bad_rows) for path in find_files(options.csv)]
    names = check_columns(sources, options)
    chosen = {options.label, *options.categorical, *options.numeric, *options.drop}
    fixed = dict.fromkeys(options.drop, "--drop")
    fixed |= {name: "a timestamp" for name in names if name.lower() in TIME_NAMES and name not in chosen}
    cells = read_columns(sources, sorted(set(names) - set(fixed)), options)
    given = cells.pop(options.label)
    columns = [Column(name, "dropped", reason, -1, -1) for name, reason in fixed.items()]  # never read, so not counted
    columns += [Column(name, *column_kind(name, part, options)) for name, part in cells.items()]
    columns.sort(key=lambda column: column.name)
    label = np.array([cell_label(text) for text in given.texts], np.float32)[given.codes]
    numbers = [column.name for column in columns if column.kind == "number"]
    bad = np.zeros(len(label), np.int32)  # 0 right, -1 the label, otherwise from 1 on the number at fault
    for number, name in reversed(list(enumerate(numbers, 1))):
        bad[np.isinf(cells[name].numbers())] = number
    bad[label < 0] = -1
    rows, shown = [len(source.lines) for source in sources], short_names([source.path for source in sources])
    skipped, notes = sum(source.skipped for source in sources), []
    read = len(label) + skipped
    for name, source, faults in zip(shown, sources, np.split(bad, np.cumsum(rows)[:-1]), strict=True):
        skipped += handle_bad_rows(source, options, numbers, faults)
        notes += [f"{name}: {note}" if len(sources) > 1 else note for note in source.notes]
    files = np.repeat(np.arange(len(sources), dtype=np.uint16), rows)
    lines = np.concatenate([source.lines for source in sources]).astype(np.int32)
    keep = bad == 0 if bad.any() else slice(None)  # which copies nothing
    label, files, lines = label[keep], files[keep], lines[keep]
    stores = fill_columns(columns, cells, keep, len(label))
    table = Table(columns, *stores, label, files, lines, shown, notes, read, skipped)
    check_rows(data_name(options), table)
    if options.split != "time":
        sort_rows(table)
    table.scales = fit_scales(table.numbers)
    return table


def short_names(paths: list[str]) -> list[str]:
    """What files are called in what a run writes: without directories that say more than they must."""
    names = [os.path.basename(path) for path in paths]
    if len(set(names)) < len(names):
        names = [os.path.relpath(path, os.path.commonpath(list(map(os.path.abspath, paths)))) for path in paths]
    return [os.fsencode(name).decode("utf-8", "replace") for name in names]


def data_name(options: argparse.Namespace) -> str:
    first, *others = options.csv
    return f"{len(options.csv)} files, {first} to {others[-1]}" if others else first


def check_columns(sources: list[Source], options: argparse.Namespace) -> list[str]:
    """The names of all columns, in the order they are met; UserError for a label or flag that names no column."""
    names = list(dict.fromkeys(name for source in sources for name in source.names))
    for source in sources:
        present = set(source.names)
        shown = ", ".join(source.names[:12]) + (", ..." if len(source.names) > 12 else "")
        named = f"name the label with --label (columns: {shown})"
        refuse(
            source.path,
            (options.label not in present, f"line 1 has no column {options.label}; {named}"),
            (not len(source.lines), "no rows after the header; let the harvester write some first"),
        )
        if absent := [name for name in names if name not in present]:
            others = " and others" if len(absent) > 5 else ""
            source.notes.append(f"has no {', '.join(absent[:5])}{others}: missing in its rows")
    for flag in ("categorical", "numeric", "drop"):
        for name in getattr(options, flag):
            if name not in names:
                raise UserError(f"--{flag} {name}: {data_name(options)} has no such column")
            if name == options.label:
                raise UserError(f"--{flag} {name}: this is the label")
    return names


def handle_bad_rows(source: Source, options: argparse.Namespace, numbers: list[str], faults: np.ndarray) -> int:
    """Leave out a cut last line and, when asked, bad rows; otherwise raise UserError naming the first ones."""
    bad = without_torn(np.flatnonzero(faults), source.lines, source.torn, source.notes)
    if not len(bad):
        return 0
    if not options.skip_bad_rows:
        fault = faults[bad[0]]
        where = name_some(source.lines[bad[faults[bad] == fault]])
        name, wrong, others = options.label, "the label is missing or not 0 or 1", ""
        if fault > 0:
            name = numbers[fault - 1]
            wrong = "text, infinity or a number beyond 3.4e38 in a column of numbers; a missing number is an empty cell"
            others = f", read it with --categorical {name}, leave it out with --drop {name}"
        raise UserError(f"{source.path}: {where}, column {name}: {wrong}; mend the rows{others} or use --skip-bad-rows")
    source.notes.append(f"{name_some(source.lines[bad])}: unusable values, left out")
    return len(bad)


def fill_columns(
    columns: list[Column], cells: dict[str, Cells], keep: np.ndarray | slice, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """The cells of the kept rows as numbers [N, D] and codes [N, C]; columns that can teach nothing are dropped."""
    numbers, codes = [], []
    for column in columns:
        if not (part := cells.pop(column.name, None)):
            continue  # never read
        if column.kind == "number":
            values = part.numbers()[keep]
            if finish_number(column, values):
                numbers.append(values)
        elif column.kind == "category":
            if (values := finish_category(column, part.codes[keep], part.texts)) is not None:
                codes.append(values)
        else:
            values = part.values[keep] if part.codes is None else part.codes[keep]
            empty = np.isnan(values) if part.codes is None else values == 0
            column.missing, column.distinct = int(np.sum(empty)), len(np.unique(values[~empty]))
    return stack_columns(numbers, rows, np.float64), stack_columns(codes, rows, np.int32)


def stack_columns(parts: list[np.ndarray], rows: int, dtype: type) -> np.ndarray:
    """The parts as columns [N, ...] of one array, each given up when it has been copied."""
    store = np.empty((len(parts), rows), dtype)
    for number in range(len(parts)):
        store[number], parts[number] = parts[number], None
    return store.T


def finish_number(column: Column, values: np.ndarray) -> bool:
    """Count what a column of numbers holds; False, with the reason, when it can teach nothing."""
    known = values[~np.isnan(values)]
    column.missing = len(values) - len(known)
    column.distinct = len(np.unique(known[:: max(1, len(known) // 1_000_000)]))
    if not len(known) or (np.ptp(known) == 0 and not column.missing):
        column.kind, column.reason = "dropped", "constant" if len(known) else "empty"
        return False
    counted = name_words(column.name) & QUANTITY_WORDS
    if not counted and 2 < column.distinct <= 10 and len(values) > 200 and not np.any(known % 1):
        column.hint = f"few whole numbers: --categorical {column.name} if they are names for something"
    return True


def finish_category(column: Column, codes: np.ndarray, texts: dict[str, int]) -> np.ndarray | None:
    """Sort a category's vocabulary by meaning; return the codes in it [N] int32, None when it can teach nothing."""
    counts = np.bincount(codes, minlength=len(texts))
    used = [text for text, count in zip(texts, counts, strict=True) if count]
    integers = all(cell_id(text) != UNSEEN for text in used) and any(used)
    meaning = cell_id if integers else cell_text
    column.vocabulary = sorted({meaning(text) for text in used})
    column.missing = int(counts[0])
    column.distinct = len(column.vocabulary) - bool(column.missing)
    if len(column.vocabulary) < 2:
        column.kind, column.reason, column.vocabulary = "dropped", "constant" if column.distinct else "empty", []
        return None
    code = {value: number for number, value in enumerate(column.vocabulary)}
    return np.array([code.get(meaning(text), 0) for text in texts], np.int32)[codes]


def row_hashes(table: Table) -> np.ndarray:
    """A number [N] uint64 for what each row holds."""
    hashes = np.zeros(len(table.label), np.uint64)
    for part in [*table.numbers.T, *table.codes.T, table.label]:
        real = part.dtype == np.float64
        bits = np.where(np.isnan(part), np.inf, part).view(np.uint64) if real else part.astype(np.uint64)
        hashes = (hashes ^ bits) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def sort_rows(table: Table) -> None:
    """Put the rows into the order of their hashes."""
    order = np.argsort(row_hashes(table))
    for columns in (table.numbers.T, table.codes.T):
        for number, part in enumerate(columns):
            columns[number] = part[order]
    table.label, table.files, table.lines = table.label[order], table.files[order], table.lines[order]


def check_rows(path: str, table: Table) -> None:
    rows, positive = len(table.label), int(table.label.sum())
    rarer, count = ("productive", positive) if positive <= rows - positive else ("unproductive", rows - positive)
    few = f"only {count} of {rows} rows {'is' if count == 1 else 'are'} {rarer}"
    teaching = any(column.kind != "dropped" for column in table.columns)
    refuse(
        path,
        (rows < 20, f"{rows} usable rows, 20 are needed; label some more"),
        (count < 5, f"{few}, 5 of each class are needed; label some more of them"),
        (not teaching, "no column is left to learn from: all are empty, constant, timestamps or row numbers"),
    )


def write_sample(path: str | Path, rows: int, seed: int) -> np.ndarray:
    """Write a v0 HARVEST.CSV of simulated rows; return the probability [rows] that each row is productive.

    Twelve applications of unequal frequency and usefulness; recent typing speaks for work, a long absence against it.
    """
    generator = np.random.default_rng(seed)
    world = np.random.default_rng(seed + 1_000_003)
    apps = world.integers(-(2**31), 2**31, 12)
    frequency = 1 / np.arange(1, 13)
    app = generator.choice(12, rows, p=frequency / frequency.sum())
    keyboard = generator.lognormal(8 + 0.5 * world.normal(size=12)[app], 2)
    mouse = np.minimum(keyboard * generator.lognormal(-0.5, 1.5, rows), 3_600_000)
    stay = generator.lognormal(10, 1.5, rows)
    usefulness, pull = world.normal(0.6, 1.8, 12), world.normal(1, 0.5, 12)
    activity = 1.2 * (8.5 - np.log1p(np.minimum(keyboard, mouse * 3))) / 2
    logit = usefulness[app] + pull[app] * activity + 0.5 * np.sin(np.log1p(stay) - 9) * usefulness[app]
    probability = 1 / (1 + np.exp(-1.3 * logit))
    label = generator.random(rows) < probability
    columns = [apps[app], *(part.astype(int) for part in (keyboard, mouse, stay, label))]
    with open(path, "w", encoding="utf-8") as file:
        file.write(",".join(V0_COLUMNS) + "\n")
        file.writelines(",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))
    return probability


# ---------------------------------------------------------------------------------------------------------------------
# Data: split and encoding


class Split(NamedTuple):
    """Row numbers, int32, of the rows trained on, stopped by and tested on."""

    training: Any
    validation: Any
    test: Any


def split_rows(label: Any, method: str, seed: int) -> Split:
    """Split 70/15/15: at random within each class, or in the order of time, which is that of the rows."""

    def cut(rows: Any) -> list[Any]:
        held = max(1, round(0.15 * len(rows)))
        return np.split(rows, [len(rows) - 2 * held, len(rows) - held])

    if method == "time":
        return Split(*cut(np.arange(len(label), dtype=np.int32)))
    generator = np.random.default_rng([seed, 0])
    classes = [cut(generator.permutation(np.flatnonzero(label == value).astype(np.int32))) for value in (0, 1)]
    return Split(*(np.sort(np.concatenate(parts)) for parts in zip(*classes, strict=True)))


def split_folds(label: Any, folds: int, seed: int) -> list[Split]:
    """Cut the rows, at random within each class, into K parts: net k tests on part k, stops by part k + 1."""
    generator = np.random.default_rng([seed, 0])
    part = np.empty(len(label), np.int32)
    start = 0
    for value in (0, 1):
        rows = generator.permutation(np.flatnonzero(label == value))
        part[rows] = (np.arange(len(rows)) + start) % folds
        start += len(rows)
    splits = []
    for test in range(folds):
        validation = (test + 1) % folds
        members = [(part != test) & (part != validation), part == validation, part == test]
        splits.append(Split(*(np.flatnonzero(member).astype(np.int32) for member in members)))
    return splits


SCALE_ROWS = 200_000  # rows from which scales are taken
WIDE = 50  # a column spreads over decades when its 95th percentile is this many times its 5th, zeros left out
FARTHEST = 1e6  # a scaled number is held within this distance of 0, where the clip below has long been flat


class Scales(NamedTuple):
    """How the cells of D numbers are brought to the size of 1, in 64 bits, before 32 bits keep them: [D] each.

    A column that spreads over decades is taken as a signed logarithm, sign(s) log1p(|s|) of s = x / unit; any other
    as (x - median) / interquartile range, subtracted before digits are lost. It follows from all rows, never from labels.
    """

    offset: Any  # float64; 0 for a logarithm
    gain: Any  # float64: the inverse of the unit or of the range
    logarithmic: Any  # bool
    whole: Any  # bool: whole numbers that 32 bits cannot tell apart, which the saved model takes as int64


def fit_scales(numbers: Any) -> Scales:
    """The scales of numbers [N, D]. Of many rows the first are looked at, which are as good as drawn at random."""
    count = numbers.shape[1]
    scales = Scales(np.zeros(count), np.ones(count), np.zeros(count, bool), np.zeros(count, bool))
    for place, values in enumerate(numbers.T):
        known = values[:SCALE_ROWS]
        known = known[~np.isnan(known)]
        if not len(known) or np.ptp(known) == 0:
            known = values[~np.isnan(values)]
        size = np.abs(known[known != 0])
        low, high = np.percentile(size, [5, 95]) if len(size) else (1.0, 1.0)
        first, middle, third = np.percentile(known, [25, 50, 75])
        scales.logarithmic[place] = high > WIDE * low
        if scales.logarithmic[place]:
            scales.gain[place] = 1 / max(min(1.0, low), size.max() * 1e-30)
        else:
            scales.offset[place] = middle
            if 2**24 < np.fmax.reduce(np.abs(values)) <= 2**53:
                scales.whole[place] = not np.any(np.nan_to_num(values) % 1)
            scales.gain[place] = 1 / max(third - first or np.ptp(known) / 2 or 1.0, 1e-300)
    return scales


def scale_numbers(ops: Any, raw: Any, scales: Scales) -> Any:
    """Numbers [..., D] float64 as Scales says; ops is numpy or keras.ops. NaN stays NaN."""
    scaled = (raw - scales.offset) * scales.gain
    logarithm = ops.sign(scaled) * ops.log1p(ops.absolute(scaled))
    return ops.clip(ops.where(scales.logarithmic, logarithm, scaled), -FARTHEST, FARTHEST)


class Encoder(NamedTuple):
    """How a row becomes E inputs of the network, learned from training rows only. D numbers, C categories.

    The inputs are: D scaled numbers, centred on the median, divided by the interquartile range, clipped smoothly to +-3
    (the preprocessing of RealMLP: Holzmueller, Grinsztajn, Steinwart, 2024), 0 where missing; an indicator for each
    number that was ever missing; for each category a place for what is unseen and one for each other value.
    """

    scales: Scales
    center: Any  # [D] float32
    scale: Any  # [D] float32
    gaps: list[int]  # the numbers that have an indicator
    places: list[Any]  # for each category: int32, from the code to its place, 0 for unseen
    depths: list[int]  # for each category: its number of places

    @property
    def width(self) -> int:
        return len(self.center) + len(self.gaps) + sum(self.depths)


class Encoded(NamedTuple):
    """Encoded rows without the zeros of their categories, so that what is computed of them costs no more than the cells."""

    dense: Any  # [rows, D + M] float32: numbers and indicators
    places: Any  # [rows, C] int32: which of the E inputs is 1 for each category


def fit_encoders(table: Table, splits: list[Split]) -> list[Encoder]:
    """One encoder a fold, from its training rows; all have the same width, so that one program trains every net."""
    gaps = np.flatnonzero(np.isnan(table.numbers).any(axis=0)).tolist()
    scalings = [fit_scaling(table, split.training) for split in splits]
    places: list[list] = [[] for _ in splits]
    depths = []
    for number, column in enumerate(table.of_kind("category")):
        frequent = [frequent_codes(table.codes[split.training, number], len(column.vocabulary)) for split in splits]
        shared = np.unique(np.concatenate(frequent))
        depths.append(len(shared) + 1)
        for fold, codes in enumerate(frequent):
            of_code = np.zeros(len(column.vocabulary), np.int32)
            of_code[codes] = 1 + np.searchsorted(shared, codes)
            places[fold].append(of_code)
    return [
        Encoder(table.scales, *scaling, gaps, of_code, depths)
        for scaling, of_code in zip(scalings, places, strict=True)
    ]


def fit_scaling(table: Table, rows: Any) -> tuple[Any, Any]:
    """Median and inverse interquartile range of each scaled number [D], [D]; inverse 0 where training rows do not differ."""
    values = scale_numbers(np, table.numbers[rows[:: max(1, len(rows) // 200_000)]], table.scales)
    center, scale = np.zeros(values.shape[1], np.float32), np.zeros(values.shape[1], np.float32)
    for place in range(values.shape[1]):
        known = values[~np.isnan(values[:, place]), place]
        if len(known):
            low, center[place], high = np.percentile(known, [25, 50, 75])
            spread = high - low or (known.max() - known.min()) / 2
            scale[place] = 1 / spread if spread > 1e-6 else 0
    return center, scale


def frequent_codes(codes: Any, size: int) -> Any:
    counts = np.bincount(codes, minlength=size)
    most = np.argsort(-counts, kind="stable")[:MAXIMUM_CATEGORIES]
    return np.sort(most[counts[most] > 0])


def encode_sparse(table: Table, encoder: Encoder, rows: Any) -> Encoded:
    """Encode rows in numpy: for the baselines, and as a reference for the rest."""
    raw = table.numbers[rows]
    missing = np.isnan(raw)
    values = (
        np.where(missing, 0, scale_numbers(np, raw, encoder.scales)).astype(np.float32) - encoder.center
    ) * encoder.scale
    values = np.where(missing, 0, values / np.sqrt(1 + np.square(values / 3)))
    dense = np.concatenate([values, missing[:, encoder.gaps]], axis=1).astype(np.float32)
    starts = dense.shape[1] + np.cumsum([0, *encoder.depths])[:-1]
    places = [
        start + of_code[table.codes[rows, place]]
        for place, (start, of_code) in enumerate(zip(starts, encoder.places, strict=True))
    ]
    return Encoded(dense, np.stack(places, axis=1).astype(np.int32) if places else np.zeros((len(rows), 0), np.int32))


def encode(table: Table, encoder: Encoder, rows: Any) -> Any:
    """The inputs [rows, E] float32 of the network, with all their zeros."""
    encoded = encode_sparse(table, encoder, rows)
    inputs = np.zeros((len(rows), encoder.width), np.float32)
    inputs[:, : encoded.dense.shape[1]] = encoded.dense
    np.put_along_axis(inputs, encoded.places, 1, axis=1)
    return inputs


def product(encoded: Encoded, kernel: Any) -> Any:
    """Encoded rows times a kernel [E, U] or [E]: [rows, U] or [rows]."""
    result = encoded.dense @ kernel[: encoded.dense.shape[1]]
    for places in encoded.places.T:
        result += kernel[places]
    return result


def column_products(encoded: Encoded, kernel: Any, encoder: Encoder) -> Any:
    """Iterate over what each number, then each category, adds to product(): [rows, U]."""
    for number in range(len(encoder.center)):
        inputs = [number] + [len(encoder.center) + gap for gap, place in enumerate(encoder.gaps) if place == number]
        yield encoded.dense[:, inputs] @ kernel[inputs]
    for places in encoded.places.T:
        yield kernel[places]


# ---------------------------------------------------------------------------------------------------------------------
# Decisions taken for the user, each with its reason


class Choice(NamedTuple):
    value: Any
    reason: str


XLA_COMPILE_SECONDS = 1.3  # beyond tracing; measured by benchmarks/speed.py, as are the two step times
STEP_SECONDS_WITHOUT_XLA = 0.00016
STEP_SECONDS_WITH_XLA = 0.00001
HOISTED_BATCH = 32  # up to here XLA runs a whole epoch as one function; above, separate kernels measured faster


def choose_batch_size(asked: int | None, rows: int) -> Choice:
    if asked:
        return Choice(min(asked, rows), "as asked" if asked <= rows else f"no more than the {rows} training rows")
    size = 8 if rows < 1_000 else 16 if rows < 4_000 else 32
    return Choice(size, f"{rows} training rows: enough steps an epoch to learn, no fewer rows than a mean needs")


def choose_patience(steps: int) -> Choice:
    """Epochs without a better validation loss before stopping; the learning rate is halved after a third of it."""
    patience = min(50, max(10, math.ceil(2_000 / steps)))
    return Choice(patience, f"{patience * steps:,} steps without a better validation loss")


def choose_momentum(steps: int) -> Choice:
    slow = steps >= 10_000
    return Choice(
        0.99 if slow else 0.9,
        f"{steps:,} steps to run: running means {'have time to settle' if slow else 'must settle soon'}",
    )


def choose_xla(asked: bool | None, steps: int) -> Choice:
    if asked is not None:
        return Choice(asked, "as asked")
    saved = steps * (STEP_SECONDS_WITHOUT_XLA - STEP_SECONDS_WITH_XLA)
    words = f"{steps:,} steps to run would save {saved:.1f} s, compiling costs {XLA_COMPILE_SECONDS} s"
    return Choice(saved > XLA_COMPILE_SECONDS, words)


class Device(NamedTuple):
    kind: str  # cpu or gpu
    name: str
    capability: tuple[int, int] = (0, 0)  # of a GPU
    flags: frozenset[str] = frozenset()  # of a CPU


def choose_precision(asked: bool | None, device: Device) -> Choice:
    """The type of matrix products: float16 on GPUs from Volta on, bfloat16 on a CPU that has it, when asked."""
    if asked is False:
        return Choice("float32", "as asked")
    if device.kind == "gpu":
        if device.capability >= (7, 0):
            return Choice(
                "float16",
                f"{device.name} has 16-bit units (compute capability {device.capability[0]}.{device.capability[1]})",
            )
        return Choice(
            "float32",
            f"{device.name} has no 16-bit units (compute capability {device.capability[0]}.{device.capability[1]} is below 7.0)",
        )
    if asked is None:
        return Choice("float32", "layers this narrow gain nothing from 16 bits on a CPU")
    if device.flags & {"avx512_bf16", "amx_bf16"}:
        return Choice("bfloat16", "as asked; on a CPU it measures slower than float32 for layers this narrow")
    return Choice("float32", f"asked for 16 bits, but {device.name} has neither avx512_bf16 nor amx_bf16")


def cpu_description(path: str = "/proc/cpuinfo") -> tuple[str, frozenset[str]]:
    name, flags = platform.processor() or platform.machine(), frozenset()
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            if key.strip() == "flags":
                return name, frozenset(value.split())
    return name, flags


def prepare_environment(cpu_only: bool, xla: bool, batch_size: int) -> None:
    """Set what TensorFlow reads once, at its import."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its kernels gain nothing at these widths and print a notice
    own_settings()
    if cpu_only:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # An unknown XLA flag ends the process, so they are set only for the version they were measured with.
    if xla and "XLA_FLAGS" not in os.environ and metadata_version("tensorflow").startswith("2.21."):
        flags = "--xla_cpu_enable_fast_math=true --xla_cpu_prefer_vector_width=512"
        if batch_size <= HOISTED_BATCH:
            flags += " --xla_cpu_experimental_ynn_fusion_type= --xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000"
        os.environ["XLA_FLAGS"] = flags


def own_settings() -> None:
    """Keep Keras from the user's own settings: ~/.keras/keras.json is neither read nor written."""
    for name in [name for name in os.environ if name.startswith("KERAS_") or name == "TF_USE_LEGACY_KERAS"]:
        del os.environ[name]
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["KERAS_HOME"] = os.devnull  # no directory, so that nothing can be in it


def metadata_version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return ""


ADDRESS_SPACE = (
    2_200_000_000  # bytes TensorFlow was seen to need on two cores; with less it aborts without a word to the user
)


def check_address_space() -> None:
    with contextlib.suppress(ImportError):  # Windows
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if 0 <= limit < ADDRESS_SPACE:
            raise MemoryError(
                f"the address space is limited to {limit >> 20:,} MB, TensorFlow needs {ADDRESS_SPACE >> 20:,} MB"
            )


def import_tensorflow() -> Any:
    """Import TensorFlow without scikit-learn, which Keras would import (0.7 s) and which nothing here uses."""
    check_address_space()
    absent = "sklearn" not in sys.modules
    if absent:
        sys.modules["sklearn"] = None
    try:
        import tensorflow
    finally:
        if absent:
            del sys.modules["sklearn"]
    return tensorflow


def find_device(tf: Any, cpu_only: bool) -> Device:
    gpus = [] if cpu_only else tf.config.list_physical_devices("GPU")
    if cpu_only:
        tf.config.set_visible_devices([], "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return Device("gpu", details.get("device_name", "GPU"), tuple(details.get("compute_capability", (0, 0))))
    name, flags = cpu_description()
    return Device("cpu", name, flags=flags)


# ---------------------------------------------------------------------------------------------------------------------
# Model


def layer_shapes(units: tuple[int, ...], width: int) -> list[tuple[int, ...]]:
    """Shapes of the trainable weights, in Keras' order: kernel, bias, gamma, beta of each layer; kernel, bias."""
    shapes: list[tuple[int, ...]] = []
    for below, count in zip((width, *units), units, strict=False):
        shapes += [(below, count), (count,), (count,), (count,)]
    return [*shapes, (units[-1] + width, 1), (1,)]


def initial_weights(units: tuple[int, ...], width: int, lit: Any, seed: list[int], linear: Any = None) -> Any:
    """The flat vector [P] float32 of initial weights, as Keras draws them (Glorot and Bengio, 2010).

    Kernel rows of inputs that are 0 in every training row start at 0, and so stay there. Given a linear model [E + 1],
    the output layer starts as that model: its weights for the encoded inputs, 0 for the hidden units.
    """
    generator, parts = np.random.default_rng(seed), []
    shapes = layer_shapes(units, width)
    for place, shape in enumerate(shapes):
        if len(shape) == 2:
            limit = math.sqrt(6 / sum(shape))
            kernel = generator.uniform(-limit, limit, shape)
            if place == 0:
                kernel[~lit] = 0
            if place == len(shapes) - 2:
                kernel[units[-1] :][~lit] = 0
            parts.append(kernel.ravel())
        else:
            gamma = place % 4 == 2 and place < 4 * len(units)
            parts.append(np.full(shape, 1.0 if gamma else 0.0))
    if linear is not None:
        parts[-2:] = [np.zeros(units[-1]), linear]
    return np.concatenate(parts).astype(np.float32)


def lit_inputs(table: Table, encoder: Encoder, rows: Any) -> Any:
    """Which of the E inputs are other than 0 in some training row: bool [E]."""
    parts = [encoder.scale > 0, [bool(np.isnan(table.numbers[rows, place]).any()) for place in encoder.gaps]]
    for place, (of_code, depth) in enumerate(zip(encoder.places, encoder.depths, strict=True)):
        parts.append(np.bincount(of_code[table.codes[rows, place]], minlength=depth) > 0)
    return np.concatenate([np.asarray(part, bool) for part in parts])


def build_model(table: Table, encoders: list[Encoder], architecture: Architecture, momentum: float) -> Any:
    """The inference model: raw named columns in, probability out; stock Keras layers and operations only.

    Integer categories come as int64 (MISSING where the cell is empty), text as strings (""), numbers as float64 (NaN).
    Several encoders make several nets side by side, [B, K, ...], whose probabilities are averaged.
    """
    import keras
    from keras import layers

    folds, inputs = len(encoders), {}
    encoded = encode_in_model(table, encoders, inputs)
    hidden = encoded
    for number, units in enumerate(architecture.units, 1):
        name = f"hidden_{number}"
        if folds == 1:
            hidden = layers.Dense(units, activation="relu", name=name)(hidden)
        else:
            hidden = layers.EinsumDense("bki,kio->bko", (folds, units), activation="relu", bias_axes="ko", name=name)(
                hidden
            )
            hidden = layers.Reshape((folds * units,))(hidden)
        hidden = layers.BatchNormalization(
            momentum=momentum, epsilon=BATCH_NORMALIZATION_EPSILON, name=f"normalization_{number}"
        )(hidden)
        hidden = layers.Dropout(architecture.dropout, name=f"dropout_{number}")(hidden)
        if folds > 1:
            hidden = layers.Reshape((folds, units))(hidden)
    joined = layers.Concatenate(name="hidden_and_encoded")([hidden, encoded])
    output = {"activation": "sigmoid", "dtype": "float32", "name": "probability"}
    if folds == 1:
        probability = layers.Dense(1, **output)(joined)
    else:
        probability = layers.EinsumDense("bki,kio->bko", (folds, 1), bias_axes="ko", **output)(joined)
        probability = layers.GlobalAveragePooling1D(name="average")(probability)
    give_way(probability, set(inputs))
    return keras.Model(inputs, probability, name="productivity")


def give_way(output: Any, columns: set[str]) -> None:
    """Rename the layers and operations that lead to an output and are called like a column: its input keeps the name."""
    waiting, seen = [output], set()
    while waiting:
        operation, node, _ = waiting.pop()._keras_history
        if operation in seen:
            continue
        seen.add(operation)
        parents = operation._inbound_nodes[node].input_tensors
        if parents:
            while operation.name in columns:
                operation.name += "_layer"
        waiting += parents


def graph_name(column: str, prefix: str) -> str:
    """A name that TensorFlow allows in graphs, and that no other column's is like."""
    return f"{prefix}_" + re.sub(r"[^A-Za-z0-9]", "_", column)


def input_names(columns: list[str]) -> dict[str, str]:
    """What columns are called where only identifiers are allowed: by their own names if these are such."""
    plain = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
    lower = Counter(name.lower() for name in columns)  # TensorFlow's graphs tell names apart without regard to case
    taken = {"self", "probability"}  # what calls a signature, and its output
    odd = {
        name
        for name in columns
        if not plain.fullmatch(name) or keyword.iskeyword(name) or lower[name.lower()] > 1 or name.lower() in taken
    }
    odd |= {name for name in columns if name.lower().startswith("input_")}
    return {name: graph_name(name, f"input_{place}") if name in odd else name for place, name in enumerate(columns)}


def encode_in_model(table: Table, encoders: list[Encoder], inputs: dict[str, Any]) -> Any:
    """The same as encode() in Keras layers: [B, E], or [B, K, E] for K encoders. The inputs made are added to inputs."""
    import keras
    from keras import layers, ops

    first, parts = encoders[0], []

    def for_each_net(tensor: Any) -> Any:
        return tensor if len(encoders) == 1 else layers.RepeatVector(len(encoders))(tensor)

    numbers = table.of_kind("number")
    for column, whole in zip(numbers, first.scales.whole, strict=True):
        inputs[column.name] = keras.Input((1,), name=column.name, dtype="int64" if whole else "float64")
    if numbers:
        raw = [with_missing(ops, inputs[column.name]) for column in numbers]
        raw = layers.Concatenate(name="numbers", dtype="float64")(raw) if len(raw) > 1 else raw[0]
        missing = ops.isnan(raw)
        scaled = for_each_net(ops.cast(scale_numbers(ops, raw, first.scales), "float32"))
        center, scale = (
            np.squeeze(np.stack([part[place] for part in encoders]), 0 if len(encoders) == 1 else ())
            for place in (1, 2)
        )
        values = (scaled - center) * scale
        values = values / ops.sqrt(1.0 + ops.square(values / 3.0))
        # A cell is finite or missing: NaN is the one value that is not equal to itself, and where() leaves none behind.
        parts.append(ops.where(ops.isnan(values), 0.0, values))
        if first.gaps:
            gaps = [missing[:, place : place + 1] for place in first.gaps]
            gaps = layers.Concatenate(name="missing")(gaps) if len(gaps) > 1 else gaps[0]
            parts.append(for_each_net(ops.cast(gaps, "float32")))
    for place, column in enumerate(table.of_kind("category")):
        order = np.max([encoder.places[place] for encoder in encoders], axis=0)  # a code has one place, or 0
        known = [column.vocabulary[code] for code in np.argsort(order, kind="stable")[np.sum(order == 0) :]]
        integers = column.integers
        category = keras.Input((1,), name=column.name, dtype="int64" if integers else "string")
        inputs[column.name] = category
        known = known or [no_value(integers)]
        lookup = layers.IntegerLookup if integers else layers.StringLookup
        unseen = {"oov_token": UNSEEN if integers else " unseen "}
        name = graph_name(column.name, f"place_{place}")
        index = lookup(vocabulary=np.array(known, np.int64) if integers else known, name=name, **unseen)(category)
        parts.append(for_each_net(ops.one_hot(ops.squeeze(index, -1), first.depths[place])))
    return layers.Concatenate(name="encoded")(parts) if len(parts) > 1 else parts[0]


def with_missing(ops: Any, cells: Any) -> Any:
    """Numbers as float64, NaN where an int64 is MISSING."""
    if cells.dtype != "int64":
        return cells
    sign = ops.where(
        ops.equal(cells, np.array(MISSING)), -1.0, 1.0
    )  # whose root is NaN, a constant that JSON cannot hold
    return ops.cast(cells, "float64") * ops.cast(ops.sqrt(sign), "float64")


def no_value(integers: bool) -> Any:
    """A value no cell means, for a vocabulary that must not be empty: text with white space at its ends, or no id."""
    return UNSEEN + 1 if integers else " nothing "


class Net(NamedTuple):
    """A trained net as flat vectors: weights [P] and BatchNormalization statistics [2 S]."""

    weights: Any
    statistics: Any


def unflatten_net(units: tuple[int, ...], width: int, net: Net) -> tuple[list[Any], list[Any]]:
    """The trainable weights in Keras' order, and mean and variance of each BatchNormalization, as arrays."""
    shapes = layer_shapes(units, width)
    parts = np.split(net.weights, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    moving = np.split(net.statistics, np.cumsum([count for count in units for _ in (0, 1)])[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)], moving


def model_variables(units: tuple[int, ...], encoders: list[Encoder], nets: list[Net]) -> dict[str, Any]:
    """Values of the saved model's variables, by their names in its weights file."""
    kind = "dense" if len(nets) == 1 else "einsum_dense"
    stacked: dict[str, list] = {}
    for encoder, net in zip(encoders, nets, strict=True):
        weights, moving = unflatten_net(units, encoder.width, net)
        for place in (0, -2):  # a category this net did not know shares a place in the model with nets that did
            weights[place] = share_unseen(weights[place].copy(), encoder)
        for layer in range(len(units) + 1):
            suffix = f"_{layer}" if layer else ""
            names = [f"{kind}{suffix}/vars/{part}" for part in (0, 1)]
            values = weights[4 * layer : 4 * layer + 2]
            if layer < len(units):
                names += [f"batch_normalization{suffix}/vars/{part}" for part in range(4)]
                values += [*weights[4 * layer + 2 : 4 * layer + 4], *moving[2 * layer : 2 * layer + 2]]
            for name, value in zip(names, values, strict=True):
                stacked.setdefault(f"layers/{name}", []).append(value)
    join = {True: lambda parts: parts[0], False: np.stack}[len(nets) == 1]
    return {name: np.concatenate(parts) if "batch" in name else join(parts) for name, parts in stacked.items()}


def share_unseen(kernel: Any, encoder: Encoder) -> Any:
    """Give every place no code of this encoder leads to the kernel row of the unseen; inputs are the last E rows."""
    start = len(kernel) - sum(encoder.depths)
    for of_code, depth in zip(encoder.places, encoder.depths, strict=True):
        unknown = np.setdiff1d(np.arange(1, depth), of_code)
        kernel[start + unknown] = kernel[start]
        start += depth
    return kernel


def set_weights(model: Any, values: dict[str, Any]) -> None:
    """Write what model_variables gives into a Keras model."""
    import keras

    kinds = {
        keras.layers.Dense: "dense",
        keras.layers.EinsumDense: "einsum_dense",
        keras.layers.BatchNormalization: "batch_normalization",
    }
    seen = dict.fromkeys(kinds.values(), 0)
    for layer in model.layers:
        if name := kinds.get(type(layer)):
            suffix = f"_{seen[name]}" if seen[name] else ""
            for number, variable in enumerate(layer.variables):
                variable.assign(values[f"layers/{name}{suffix}/vars/{number}"])
            seen[name] += 1


def raw_inputs(table: Table, rows: Any) -> dict[str, Any]:
    """Raw columns of a table as the saved model takes them: arrays [rows, 1]."""
    values = {column.name: table.numbers[rows, place] for place, column in enumerate(table.of_kind("number"))}
    for name, whole in zip(list(values), table.scales.whole, strict=True):
        if whole:
            values[name] = np.where(np.isnan(values[name]), MISSING, np.nan_to_num(values[name]).astype(np.int64))
    for place, column in enumerate(table.of_kind("category")):
        kind = np.int64 if column.integers else object
        values[column.name] = np.array(column.vocabulary, kind)[table.codes[rows, place]]
    return {name: part[:, None] for name, part in values.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Training


class Plan(NamedTuple):
    """What the training program is specialised to."""

    units: tuple[int, ...]
    dropout: float
    width: int  # E
    batch_size: int
    segments: int  # an epoch is cut into segments, so that only one at a time is gathered and encoded
    steps: int  # a segment
    epochs_per_call: int
    validation_rows: int  # the most any net has
    momentum: float
    weight_decay: float
    patience: int  # epochs; 0: never stop
    plateau: int  # epochs; 0: never reduce the learning rate
    precision: str
    xla: bool
    seed: int
    class_weights: tuple[float, float] = (1.0, 1.0)  # of 0 and of 1

    @property
    def rows(self) -> int:
        """Rows drawn in an epoch; the last batch is filled up with the first rows of the same epoch."""
        return self.segments * self.steps * self.batch_size

    @property
    def outputs(self) -> int:
        return sum(self.units)

    @property
    def validation_segment(self) -> int:
        """Validation rows encoded at a time."""
        return min(VALIDATION_SEGMENT, self.validation_rows, max(1, SEGMENT_CELLS // self.width))


SEGMENT_ROWS = 65_536  # training rows encoded at a time
VALIDATION_SEGMENT = 4_096  # validation rows encoded at a time
SEGMENT_CELLS = 1 << 25  # inputs encoded at a time, of either: 128 MB
HISTORY = [
    "loss",
    "true_positive",
    "predicted",
    "positive",
    "val_loss",
    "val_true_positive",
    "val_predicted",
    "val_positive",
    "learning_rate",
]


def segment_steps(rows: int, batch_size: int, width: int = 1) -> tuple[int, int]:
    """How many segments an epoch is cut into, and how many steps each has."""
    steps = math.ceil(rows / batch_size)
    segments = math.ceil(steps * batch_size / min(SEGMENT_ROWS, max(batch_size, SEGMENT_CELLS // width)))
    return segments, math.ceil(steps / segments)


class Inputs(NamedTuple):
    """The whole table as tensors. Rows come last, here and in all of training, so that vector units work along them."""

    numbers: Any  # [D, N] float32, 0 where missing
    missing: Any  # [M, N] float32: 1 where one of the M numbers with gaps is missing
    codes: Any  # [C, N] int32
    label: Any  # [N] float32


class Code(NamedTuple):
    center: Any  # [D]
    scale: Any  # [D]
    places: tuple  # of [V] int32, one for each category


class State(NamedTuple):
    """Everything that changes in training. P weights, S hidden outputs."""

    weights: Any  # [P]
    first_moment: Any  # [P]
    second_moment: Any  # [P]
    statistics: Any  # [2 S]: mean and variance of each BatchNormalization
    step: Any
    epoch: Any
    learning_rate: Any
    loss_scale: Any  # float16 only
    good_steps: Any
    best_loss: Any
    best_epoch: Any
    best_weights: Any  # [P]
    best_statistics: Any  # [2 S]
    wait: Any  # epochs since the best
    plateau_loss: Any
    plateau_wait: Any


def table_inputs(tf: Any, table: Table) -> Inputs:
    gaps = np.isnan(table.numbers).any(axis=0)
    scaled, missing = (
        np.empty(table.numbers.shape[::-1], np.float32),
        np.zeros((gaps.sum(), len(table.label)), np.float32),
    )
    for start in range(0, len(table.label), PIECE_ROWS):  # so that what is in 64 bits stays small
        piece = slice(start, start + PIECE_ROWS)
        raw = table.numbers[piece]
        missing[:, piece] = np.isnan(raw[:, gaps]).T
        scaled[:, piece] = np.nan_to_num(scale_numbers(np, raw, table.scales), copy=False).T
    return Inputs(*map(tf.constant, (scaled, missing, table.codes.T, table.label)))


def encoder_code(tf: Any, encoder: Encoder) -> Code:
    return Code(
        tf.constant(encoder.center), tf.constant(encoder.scale), tuple(tf.constant(places) for places in encoder.places)
    )


def encode_rows(tf: Any, encoder: Encoder, inputs: Inputs, code: Code, rows: Any) -> Any:
    """The same as encode(), in the training program: [rows] int32 to [E, rows]."""
    values = (tf.gather(inputs.numbers, rows, axis=1) - code.center[:, None]) * code.scale[:, None]
    values *= tf.math.rsqrt(1 + tf.square(values / 3))
    parts = [values]
    if encoder.gaps:
        missing = tf.gather(inputs.missing, rows, axis=1)
        selector = np.zeros((len(encoder.center), len(encoder.gaps)), np.float32)
        selector[encoder.gaps, np.arange(len(encoder.gaps))] = 1
        parts = [values * (1 - selector @ missing), missing]
    for place, depth in enumerate(encoder.depths):
        parts.append(tf.one_hot(tf.gather(code.places[place], tf.gather(inputs.codes[place], rows)), depth, axis=0))
    return tf.concat(parts, axis=0)


def unflatten(tf: Any, plan: Plan, vector: Any) -> list[Any]:
    shapes = layer_shapes(plan.units, plan.width)
    parts = tf.split(vector, [math.prod(shape) for shape in shapes])
    return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def forward(tf: Any, plan: Plan, vector: Any, inputs: Any, normalize: Any) -> Any:
    """The network on encoded inputs [E, B]: logits [B]. normalize(layer, [U, B], gamma, beta) gives [U, B]."""
    weights, hidden = unflatten(tf, plan, vector), inputs

    def product(left: Any, right: Any) -> Any:
        if plan.precision == "float32":
            return left @ right
        return tf.cast(tf.cast(left, plan.precision) @ tf.cast(right, plan.precision), tf.float32)

    for layer in range(len(plan.units)):
        kernel, bias, gamma, beta = weights[4 * layer : 4 * layer + 4]
        hidden = normalize(layer, tf.nn.relu(product(tf.transpose(kernel), hidden) + bias[:, None]), gamma, beta)
    kernel, bias = tf.transpose(weights[-2]), weights[-1]
    return (kernel[:, : plan.units[-1]] @ hidden + kernel[:, plan.units[-1] :] @ inputs)[0] + bias


def by_statistics(tf: Any, plan: Plan, statistics: Any) -> Any:
    """BatchNormalization as it predicts."""
    parts = tf.split(statistics, [count for count in plan.units for _ in (0, 1)])

    def normalize(layer: int, hidden: Any, gamma: Any, beta: Any) -> Any:
        scale = gamma * tf.math.rsqrt(parts[2 * layer + 1] + BATCH_NORMALIZATION_EPSILON)
        return hidden * scale[:, None] + (beta - parts[2 * layer] * scale)[:, None]

    return normalize


def by_batch(tf: Any, plan: Plan, mask: Any, moments: list[Any]) -> Any:
    """BatchNormalization as it trains, then dropout by a mask [S, B]; the moments of the batch are appended."""
    starts = [sum(plan.units[:layer]) for layer in range(len(plan.units))]

    def normalize(layer: int, hidden: Any, gamma: Any, beta: Any) -> Any:
        mean = tf.reduce_mean(hidden, axis=1)
        variance = tf.maximum(tf.reduce_mean(tf.square(hidden), axis=1) - tf.square(mean), 0.0)
        moments.extend([mean, variance])
        scale = gamma * tf.math.rsqrt(variance + BATCH_NORMALIZATION_EPSILON)
        start = starts[layer]
        return (hidden * scale[:, None] + (beta - mean * scale)[:, None]) * mask[start : start + plan.units[layer]]

    return normalize


def dropout_mask(tf: Any, plan: Plan, seed: Any, step: Any) -> Any:
    """One draw a step for all layers [S, B]: 0 or 1 / (1 - rate). Eight bits an output, so the rate is of 256 parts."""
    words = math.ceil(plan.batch_size * plan.outputs / 4)
    algorithm = "threefry" if plan.xla else "philox"  # threefry is XLA's fastest, and exists only there
    bits = tf.random.stateless_uniform([words], [seed, step], minval=None, maxval=None, dtype=tf.uint32, alg=algorithm)
    values = tf.reshape(tf.bitcast(bits, tf.uint8), [-1])[: plan.batch_size * plan.outputs]
    dropped = round(plan.dropout * 256)
    kept = tf.cast(tf.reshape(values, [plan.outputs, plan.batch_size]) >= tf.constant(dropped, tf.uint8), tf.float32)
    return kept * (256 / (256 - dropped))


def row_losses(tf: Any, plan: Plan, logits: Any, label: Any) -> Any:
    """The log-loss of each row [B], weighted by its class."""
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=label, logits=logits)
    zero, one = plan.class_weights
    return losses if zero == one == 1 else losses * (zero + (one - zero) * label)


def count(tf: Any, plan: Plan, logits: Any, label: Any, valid: Any = 1.0) -> Any:
    """Sum of log-losses, true positives, predicted positives and positives: [4]."""
    loss = row_losses(tf, plan, logits, label)
    predicted = tf.cast(logits > 0, tf.float32) * valid
    sums = [loss * valid, predicted * label, predicted, label * valid]
    return tf.stack([tf.reduce_sum(part) for part in sums])


def update(tf: Any, plan: Plan, state: State, gradient: Any, decay: Any) -> State:
    """One step of AdamW (Loshchilov and Hutter, 2019) on the flat vector, as keras.optimizers.AdamW takes it."""
    step = tf.cast(state.step + 1, tf.float32)
    rate = state.learning_rate
    first = state.first_moment + (gradient - state.first_moment) * (1 - 0.9)
    second = state.second_moment + (tf.square(gradient) - state.second_moment) * (1 - 0.999)
    size = rate * tf.sqrt(1 - tf.pow(0.999, step)) / (1 - tf.pow(0.9, step))
    weights = state.weights - state.weights * (rate * decay) - size * first / (tf.sqrt(second) + 1e-7)
    return state._replace(weights=weights, first_moment=first, second_moment=second)


def train_step(tf: Any, plan: Plan, state: State, inputs: Any, label: Any, mask: Any, decay: Any) -> tuple[State, Any]:
    """One step on a batch [E, B] and [B]: the new state and the counts [4] of the batch as it was trained."""
    moments: list[Any] = []
    half = plan.precision == "float16"
    with tf.GradientTape() as tape, tf.name_scope("forward"):
        tape.watch(state.weights)
        logits = forward(tf, plan, state.weights, inputs, by_batch(tf, plan, mask, moments))
        loss = tf.reduce_mean(row_losses(tf, plan, logits, label))
        scaled = loss * state.loss_scale if half else loss
    with tf.name_scope("backward"):
        gradient = tape.gradient(scaled, state.weights)
    if half:
        gradient /= state.loss_scale
    with tf.name_scope("moving_statistics"):
        statistics = state.statistics + (tf.concat(moments, 0) - state.statistics) * (1 - plan.momentum)
    with tf.name_scope("update"):
        after = update(tf, plan, state, gradient, decay)._replace(statistics=statistics, step=state.step + 1)
    if half:
        after = guard_overflow(tf, state, after, tf.reduce_all(tf.math.is_finite(gradient)))
    with tf.name_scope("metrics"):
        return after, count(tf, plan, logits, label)


def guard_overflow(tf: Any, before: State, after: State, finite: Any) -> State:
    """Dynamic loss scaling (Micikevicius et al., 2018): skip a step that overflowed and halve the scale."""
    grown = before.good_steps >= 1_999
    scale = tf.where(finite, tf.where(grown, before.loss_scale * 2, before.loss_scale), before.loss_scale / 2)
    kept = {
        name: tf.where(finite, getattr(after, name), getattr(before, name))
        for name in ("weights", "first_moment", "second_moment", "statistics", "step")
    }
    good = tf.where(finite & ~grown, before.good_steps + 1, 0)
    return after._replace(**kept, loss_scale=scale, good_steps=good)


def end_epoch(tf: Any, plan: Plan, state: State, loss: Any) -> State:
    """What EarlyStopping and ReduceLROnPlateau of Keras decide from the validation loss of an epoch."""
    better = loss < state.best_loss
    lower = loss < state.plateau_loss - 0.0001
    plateau_wait = tf.where(lower, 0, state.plateau_wait + 1)
    stalled = plateau_wait >= plan.plateau if plan.plateau else tf.constant(False)
    reduced = tf.maximum(state.learning_rate * 0.5, MINIMUM_LEARNING_RATE)
    return state._replace(
        epoch=state.epoch + 1,
        learning_rate=tf.where(stalled, reduced, state.learning_rate),
        best_loss=tf.where(better, loss, state.best_loss),
        best_epoch=tf.where(better, state.epoch + 1, state.best_epoch),
        best_weights=tf.where(better, state.weights, state.best_weights),
        best_statistics=tf.where(better, state.statistics, state.best_statistics),
        wait=tf.where(better, 0, state.wait + 1),
        plateau_loss=tf.where(lower, loss, state.plateau_loss),
        plateau_wait=tf.where(stalled, 0, plateau_wait),
    )


def build_program(tf: Any, plan: Plan, encoder: Encoder) -> Any:
    """The training program: a call runs up to plan.epochs_per_call whole epochs and their validation, in one go.

    program(inputs, code, validation [rows, padded with -1], order [epochs, rows], state, seed, last epoch) gives the new
    state, a history [epochs, 9] and the weights and statistics [epochs, P + 2 S] at the end of each epoch.
    """
    shapes = layer_shapes(plan.units, plan.width)
    parameters = sum(math.prod(shape) for shape in shapes)
    decay = np.concatenate(
        [np.full(math.prod(shape), plan.weight_decay if len(shape) == 2 else 0, np.float32) for shape in shapes]
    )
    size = plan.batch_size
    validation_size = plan.validation_segment
    validation_segments = math.ceil(plan.validation_rows / validation_size)

    def loop(condition: Any, body: Any, values: list[Any]) -> list[Any]:
        return tf.while_loop(condition, body, values, parallel_iterations=1)

    def validate(inputs: Inputs, code: Code, rows: Any, state: State) -> Any:
        def segment(index: Any, total: Any) -> tuple:
            chosen = tf.slice(rows, [index * validation_size], [validation_size])
            valid, chosen = tf.cast(chosen >= 0, tf.float32), tf.maximum(chosen, 0)
            encoded = encode_rows(tf, encoder, inputs, code, chosen)
            logits = forward(tf, plan, state.weights, encoded, by_statistics(tf, plan, state.statistics))
            return index + 1, total + count(tf, plan, logits, tf.gather(inputs.label, chosen), valid)

        return loop(lambda index, _: index < validation_segments, segment, [0, tf.zeros(4)])[1]

    def train(inputs: Inputs, code: Code, order: Any, state: State, seed: Any) -> tuple[State, Any]:
        def segment(index: Any, state: State, total: Any) -> tuple:
            chosen = tf.slice(order, [index * plan.steps * size], [plan.steps * size])
            encoded, label = encode_rows(tf, encoder, inputs, code, chosen), tf.gather(inputs.label, chosen)

            def step(number: Any, state: State, part: Any) -> tuple:
                batch = tf.slice(encoded, [0, number * size], [plan.width, size])
                mask = dropout_mask(tf, plan, seed, state.step)
                state, counts = train_step(
                    tf, plan, state, batch, tf.slice(label, [number * size], [size]), mask, decay
                )
                return number + 1, state, part + counts

            _, state, part = loop(lambda number, *_: number < plan.steps, step, [0, state, tf.zeros(4)])
            return index + 1, state, total + part

        _, state, total = loop(lambda index, *_: index < plan.segments, segment, [0, state, tf.zeros(4)])
        return state, total

    def program(inputs: Inputs, code: Code, validation: Any, orders: Any, state: State, seed: Any, last: Any) -> tuple:
        def epoch(index: Any, state: State, history: Any, vectors: Any) -> tuple:
            rate = state.learning_rate
            state, counts = train(inputs, code, orders[index], state, seed)
            validated = validate(inputs, code, validation, state)
            loss = validated[0] / tf.reduce_sum(tf.cast(validation >= 0, tf.float32))
            row = tf.concat([counts, [loss], validated[1:], [rate]], 0)
            history = tf.tensor_scatter_nd_update(history, [[index]], [row])
            vectors = tf.tensor_scatter_nd_update(vectors, [[index]], [tf.concat([state.weights, state.statistics], 0)])
            return index + 1, end_epoch(tf, plan, state, loss), history, vectors

        def more(index: Any, state: State, history: Any, _: Any) -> Any:
            going = (index < plan.epochs_per_call) & (state.epoch < last)
            return going & (state.wait < plan.patience) if plan.patience else going

        epochs, width = plan.epochs_per_call, parameters + 2 * plan.outputs
        empty = [0, state, tf.zeros([epochs, len(HISTORY)]), tf.zeros([epochs, width])]
        return tuple(loop(more, epoch, empty)[1:])

    return tf.function(program, jit_compile=plan.xla, autograph=False)


def first_state(tf: Any, plan: Plan, weights: Any, learning_rate: float) -> State:
    statistics = np.concatenate([np.full(count, value, np.float32) for count in plan.units for value in (0, 1)])
    zero, whole = np.zeros_like(weights), np.int32(0)
    infinite, rate = np.float32(np.inf), np.float32(learning_rate)
    values = State(
        weights,
        zero,
        zero,
        statistics,
        whole,
        whole,
        rate,
        np.float32(2**15),
        whole,
        infinite,
        whole,
        weights,
        statistics,
        whole,
        infinite,
        whole,
    )
    return State(*map(tf.constant, values))


class Fold(NamedTuple):
    """One net: its number, its rows and how it sees them."""

    number: int
    split: Split
    encoder: Encoder


@dataclass
class Live:
    """A net in training: what the program needs, and what is known of the net so far."""

    fold: Fold
    state: State
    code: Code
    validation: Any  # [rows] int32, padded with -1
    seed: Any
    history: list[dict[str, float]] = field(default_factory=list)
    now: Net | None = None  # at the end of the last epoch
    best: Net | None = None
    best_loss: float = math.inf
    best_epoch: int = 0
    reason: str = ""  # why training ended; empty while it goes on

    @property
    def failed(self) -> bool:
        return "not a number" in self.reason


class StopRequest:
    """Whether a signal has asked training to stop, and which."""

    signal: int = 0
    committing: bool = False  # the files of the run are being put into their places


def epoch_logs(row: Any, rows: int, validation_rows: int) -> dict[str, float]:
    """One row of the program's history as the logs of an epoch."""
    values = dict(zip(HISTORY, (float(value) for value in row), strict=True))
    logs = {}
    for prefix, total in (("", rows), ("val_", validation_rows)):
        hits, predicted, positive = (values[f"{prefix}{name}"] for name in ("true_positive", "predicted", "positive"))
        logs[f"{prefix}loss"] = values[f"{prefix}loss"] / (1 if prefix else total)  # val_loss is a mean already
        logs[f"{prefix}accuracy"] = 1 - (predicted + positive - 2 * hits) / total
        logs[f"{prefix}precision"] = hits / predicted if predicted else 0.0
        logs[f"{prefix}recall"] = hits / positive if positive else 0.0
    return logs | {"learning_rate": values["learning_rate"]}


def start_net(tf: Any, plan: Plan, fold: Fold, state: State) -> Live:
    size = plan.validation_segment
    padding = math.ceil(plan.validation_rows / size) * size - len(fold.split.validation)
    validation = tf.constant(np.pad(fold.split.validation, (0, padding), constant_values=-1))
    return Live(
        fold, state, encoder_code(tf, fold.encoder), validation, tf.constant(plan.seed + 7_919 * fold.number, tf.int32)
    )


def compile_program(tf: Any, plan: Plan, program: Any, inputs: Inputs, net: Live) -> None:
    """Trace and compile the program by a call that runs no epoch."""
    blank = tf.zeros([plan.epochs_per_call, plan.rows], tf.int32)
    program(inputs, net.code, net.validation, blank, net.state, net.seed, tf.constant(0))


def train_nets(
    tf: Any,
    plan: Plan,
    program: Any,
    inputs: Inputs,
    nets: list[Live],
    epochs: int,
    on_epoch: Any,
    stop: StopRequest,
    mark: Any = None,
    save: Any = None,
) -> None:
    """Train all nets to their ends, side by side on as many threads as there are cores.

    Every net is trained by its own calls of the one program, and so gets the same bits as when trained alone: the order
    of rows in an epoch follows from (seed, fold, epoch), the dropout from (seed, fold, step). After each epoch
    on_epoch(epoch, nets) is called, which may return True to stop. mark(epoch) gives a context for the first net's calls.
    save(nets) is called when all nets are between two calls.
    """
    last = tf.constant(epochs)
    drawn: dict[int, Any] = {}  # the orders of the next call of each net, drawn while the program runs

    def draw_orders(fold: Fold, epoch: int) -> Any:
        return tf.constant(
            np.stack([epoch_order(plan, fold, epoch + number) for number in range(plan.epochs_per_call)])
        )

    def call(net: Live) -> tuple[Any, Any]:
        epoch, number = len(net.history), net.fold.number
        orders = drawn.pop(number).result() if number in drawn else draw_orders(net.fold, epoch)
        if epoch + plan.epochs_per_call < epochs:
            drawn[number] = drawing.submit(draw_orders, net.fold, epoch + plan.epochs_per_call)
        with mark(epoch) if mark and net is nets[0] else contextlib.nullcontext():
            net.state, history, vectors = program(inputs, net.code, net.validation, orders, net.state, net.seed, last)
            done = int(net.state.epoch) - epoch
        return history.numpy()[:done], vectors.numpy()[:done]

    with ThreadPoolExecutor(1) as drawing, ThreadPoolExecutor(min(len(nets), os.cpu_count() or 1)) as pool:
        while (active := [net for net in nets if not net.reason]) and not stop.signal:
            results = list(pool.map(call, active))
            epoch = len(active[0].history)
            for ahead in range(plan.epochs_per_call):
                going = [
                    (net, result)
                    for net, result in zip(active, results, strict=True)
                    if ahead < len(result[0]) and not net.failed
                ]
                for net, (history, vectors) in going:
                    record_epoch(plan, net, history[ahead], vectors[ahead])
                if going and on_epoch and on_epoch(epoch + ahead + 1, nets):
                    for net in active:
                        net.reason = net.reason or "a callback asked for it"
                    break
            for net in active:
                if not net.reason and plan.patience and int(net.state.wait) >= plan.patience:
                    net.reason = f"no better validation loss for {plan.patience} epochs"
                elif not net.reason and len(net.history) >= epochs:
                    net.reason = f"{epochs} epochs are over"
            if save:
                save(nets)


def record_epoch(plan: Plan, net: Live, row: Any, vector: Any) -> None:
    logs = epoch_logs(row, plan.rows, len(net.fold.split.validation))
    net.history.append(logs)
    if not (math.isfinite(logs["loss"]) and math.isfinite(logs["val_loss"])):
        net.reason = f"the loss is not a number in epoch {len(net.history)}"
        return
    net.now = Net(vector[: -2 * plan.outputs], vector[-2 * plan.outputs :])
    if logs["val_loss"] < net.best_loss:
        net.best_loss, net.best_epoch, net.best = logs["val_loss"], len(net.history), net.now


def mean_logs(nets: list[Live], epoch: int) -> dict[str, float]:
    """The logs of an epoch, a mean over nets; a net that has stopped counts with its best epoch."""
    logs = [net.history[epoch - 1 if epoch <= len(net.history) else net.best_epoch - 1] for net in nets if net.history]
    return {name: sum(entry[name] for entry in logs) / len(logs) for name in logs[0]}


def epoch_order(plan: Plan, fold: Fold, epoch: int) -> Any:
    """The rows of an epoch in the order they are drawn: int32 [plan.rows], every training row at least once."""
    order = np.random.default_rng([plan.seed, 1, fold.number, epoch]).permutation(fold.split.training)
    return np.resize(order, plan.rows)


def drive_callbacks(model: Any, plan: Plan, callbacks: list[Any], epochs: int) -> Any:
    """An on_epoch for train_nets that drives any Keras callbacks; the weights are written back into the model first.

    Batches never reach the host, so that on_train_batch_* is not called. Train with epochs_per_call=1.
    """
    import keras

    drivers = keras.callbacks.CallbackList(callbacks, model=model, epochs=epochs, steps=plan.steps * plan.segments)
    model.stop_training = False
    drivers.on_train_begin()

    def on_epoch(epoch: int, nets: list[Live]) -> bool:
        logs = mean_logs(nets, epoch)
        drivers.on_epoch_begin(epoch - 1)
        set_weights(model, model_variables(plan.units, [net.fold.encoder for net in nets], [net.now for net in nets]))
        drivers.on_epoch_end(epoch - 1, logs)
        if model.stop_training or epoch == epochs:
            drivers.on_train_end(logs)
        return model.stop_training

    return on_epoch


# ---------------------------------------------------------------------------------------------------------------------
# Logging


class Output:
    """Prints for the user. A standard output that is full or gone ends no training: it is told when that is over."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.failure = quiet, ""

    def say(self, *lines: str, end: str = "\n") -> None:
        if self.quiet or self.failure:
            return
        try:
            print("\n".join(lines), end=end, flush=True)
        except BrokenPipeError:  # whoever reads this has enough of it
            self.quiet = True
            drop_output()
        except (OSError, ValueError) as error:
            self.failure = getattr(error, "strerror", None) or str(error)
            drop_output()


def complain(words: str) -> None:
    """Print to standard error; an exit code must not depend on whether anyone can read it."""
    with contextlib.suppress(OSError, ValueError):
        print(words, file=sys.stderr, flush=True)


def drop_output() -> None:
    """Let what is still to be printed go nowhere, so that it cannot fail again when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def prepare_streams() -> None:
    """Make printing safe where a stream was closed by the caller, or cannot show every name."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # or the next file opened would be taken for it
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class Progress:
    """A live line on a terminal, a plain line every few epochs elsewhere."""

    def __init__(self, epochs: int, output: Output) -> None:
        self.epochs, self.output, self.quiet = epochs, output, output.quiet
        self.live = sys.stdout.isatty()
        self.started = self.shown = time.perf_counter()

    def epoch(self, epoch: int, logs: dict[str, float]) -> None:
        now = time.perf_counter()
        if self.quiet or (self.live and now - self.shown < 0.05 and epoch > 1):
            return
        if not self.live and not (epoch in (1, 2, 5) or epoch % 10 == 0):
            return
        self.shown = now
        left = (now - self.started) / epoch * (self.epochs - epoch)
        words = f"epoch {epoch:3d}/{self.epochs}  loss {logs['loss']:.4f}  val_loss {logs['val_loss']:.4f}  val_accuracy {logs['val_accuracy']:.3f}"
        if self.live:
            bar = ("#" * round(20 * epoch / self.epochs)).ljust(20, ".")
            self.output.say(f"\r[{bar}] {words}  at most {left:.0f} s left ", end="")
        else:
            self.output.say(words)

    def close(self) -> None:
        if self.live and not self.quiet:
            self.output.say("\r" + " " * 110 + "\r", end="")


class EventLog:
    """TensorBoard's event files of a run, built as protobufs: logs/<run>/train, validation and training_step."""

    NAMES = ("loss", "accuracy", "precision", "recall")

    def __init__(self, folder: Path, plan: Plan, epochs: int) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.folder = folder
        self.writers = {
            name: EventFileWriter(str(folder / name), flush_secs=1) for name in ("train", "validation", "training_step")
        }
        self.plan, self.every = plan, max(1, epochs // 10)
        self.fixed: list[Any] = []  # for each net: encoded validation rows, whose activations are drawn
        self.drawn = 0  # the last epoch with histograms
        self.clock = (time.perf_counter(), time.process_time())
        self.rows, self.failure = 0.0, ""
        self.report_thread, threading.excepthook = threading.excepthook, self.thread_failed

    def thread_failed(self, details: Any) -> None:
        """The writers write in threads of their own, whose errors would otherwise be printed with a traceback."""
        if type(details.thread).__module__.startswith("tensorboard."):
            self.failure = self.failure or str(details.exc_value).splitlines()[0]
        else:
            self.report_thread(details)

    def write(self, writer: str, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.add(writer, Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def add(self, writer: str, event: Any) -> None:
        """Logs are not worth a model: after the first failure, in whatever thread it was, nothing more is written."""
        try:
            if not self.failure:
                self.writers[writer].add_event(event)
        except Exception as error:  # of TensorFlow's kinds or the system's, depending on how TensorBoard was installed
            self.failure = str(error).splitlines()[0] or type(error).__name__

    def scalars(self, writer: str, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.write(writer, step, [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])

    def tensor(self, writer: str, step: int, tag: str, values: Any, plugin: str, content: bytes = b"") -> None:
        """Add a tensor for one of TensorBoard's plugins."""
        self.tensors(writer, step, {tag: values}, plugin, content)

    def tensors(self, writer: str, step: int, values: dict[str, Any], plugin: str, content: bytes = b"") -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.util.tensor_util import make_tensor_proto

        data = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))
        self.write(
            writer,
            step,
            [Summary.Value(tag=tag, tensor=make_tensor_proto(part), metadata=data) for tag, part in values.items()],
        )

    def text(self, tag: str, lines: list[str]) -> None:
        self.tensor("train", 0, tag, ["\n".join("    " + line for line in lines)], "text")  # indented: as it stands

    def graphs(self, tf: Any, model: Any, net: Live) -> None:
        """The model as operations with shapes, the model as Keras layers, and one training step as operations."""
        from tensorboard.compat.proto.event_pb2 import Event

        names = input_names(list(model.input))
        specs = {name: tf.TensorSpec([None, 1], tensor.dtype, name=names[name]) for name, tensor in model.input.items()}
        forward = tf.function(lambda inputs: model(inputs, training=False), autograph=False).get_concrete_function(
            specs
        )
        plan = self.plan
        state = State(*(tf.TensorSpec.from_tensor(part, name=name) for name, part in net.state._asdict().items()))
        shapes = {
            "inputs": [plan.width, plan.batch_size],
            "label": [plan.batch_size],
            "mask": [plan.outputs, plan.batch_size],
        }
        specs = [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in shapes.items()]
        step = tf.function(
            lambda *values: train_step(tf, plan, *values, plan.weight_decay), autograph=False
        ).get_concrete_function(state, *specs)
        for writer, function in (("train", forward), ("training_step", step)):
            graph = function.graph.as_graph_def(add_shapes=True).SerializeToString()
            self.add(writer, Event(wall_time=time.time(), graph_def=graph))
        self.tensor("train", 0, "keras", conceptual_graph(model), "graph_keras_model", b"1")

    def epoch(self, epoch: int, nets: list[Live]) -> None:
        """Add an epoch: means over nets, and the spread of their validation losses when they are many."""
        logs = mean_logs(nets, epoch)
        wall, used = time.perf_counter(), time.process_time()
        self.rows += self.plan.rows * sum(len(net.history) >= epoch for net in nets)
        seconds = wall - self.clock[0]
        values = {f"epoch/{name}": logs[name] for name in (*self.NAMES, "learning_rate")}
        if seconds > 0.1 or epoch == 1:  # epochs of one call end together: their speed is that of the call
            values |= {
                "speed/rows_per_second": self.rows / seconds,
                "speed/cpu_share": (used - self.clock[1]) / seconds / (os.cpu_count() or 1),
            }
            values["speed/resident_megabytes"] = resident_megabytes()
            self.clock, self.rows = (wall, used), 0.0
        self.scalars("train", epoch, values)
        values = {f"epoch/{name}": logs[f"val_{name}"] for name in self.NAMES}
        losses = [net.history[epoch - 1]["val_loss"] for net in nets if len(net.history) >= epoch]
        if len(nets) > 1:
            values |= {"folds/lowest_loss": min(losses), "folds/highest_loss": max(losses)}
        self.scalars("validation", epoch, values)
        if epoch == 1 or epoch % self.every == 0:
            self.histograms(epoch, nets)

    def histograms(self, epoch: int, nets: list[Live]) -> None:
        """Weights, biases, normalizations and activations, pooled over nets: of the best epoch since the last time, and of now.

        TensorBoard wants steps in order. The best epoch of all is the best so far when its turn comes, so it is never left out.
        """
        for number, chosen in (
            (max(net.best_epoch for net in nets), [net.best for net in nets]),
            (epoch, [net.now for net in nets]),
        ):
            if number <= self.drawn or None in chosen:
                continue
            self.drawn = number
            pooled: dict[str, list] = {}
            for net, rows in zip(chosen, self.fixed, strict=True):
                for tag, values in describe_net(self.plan, net, rows).items():
                    pooled.setdefault(tag, []).append(values.ravel())
            self.tensors(
                "train", number, {tag: histogram(np.concatenate(parts)) for tag, parts in pooled.items()}, "histograms"
            )

    def curve(self, tag: str, step: int, label: Any, probability: Any, thresholds: int = 101) -> None:
        """A precision-recall curve for the plugin pr_curves."""
        from tensorboard.plugins.pr_curve import metadata as pr_metadata

        at = np.linspace(0, 1, thresholds)
        hits = np.array([float(label[probability >= value].sum()) for value in at])
        predicted = np.array([float((probability >= value).sum()) for value in at])
        positives, rows = float(label.sum()), len(label)
        false = predicted - hits
        precision = np.where(predicted > 0, hits / np.maximum(predicted, 1), 1.0)
        table = np.stack([hits, false, rows - positives - false, positives - hits, precision, hits / positives]).astype(
            np.float32
        )
        content = pr_metadata.create_summary_metadata("", "", thresholds).plugin_data.content
        self.tensor("validation", step, tag, table, "pr_curves", content)

    def trial(self, settings: dict[str, Any], results: dict[str, float], step: int) -> None:
        """This run as a row of the HParams tab: settings and final test metrics."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, summary, summary_v2

        self.scalars("validation", step, results)
        values = {name: value for name, value in settings.items() if isinstance(value, bool | int | float | str)}
        columns = [summary_v2.HParam(name) for name in values]
        metrics = [summary_v2.Metric(tag) for tag in results]
        parts = [
            summary_v2.hparams_config_pb(columns, metrics),
            summary_v2.hparams_pb(values),
            summary.session_end_pb(api_pb2.STATUS_SUCCESS),
        ]
        for part in parts:
            # summary_v2 builds on TensorFlow's protobufs, the writer on TensorBoard's: the bytes are the same.
            self.write("validation", 0, list(Summary.FromString(part.SerializeToString()).value))

    def close(self) -> None:
        for writer in self.writers.values():
            try:
                writer.close()
            except Exception as error:
                self.failure = self.failure or str(error).splitlines()[0]
        threading.excepthook = self.report_thread


def histogram(values: Any, bins: int = 30) -> Any:
    """Left and right edge and count of each bin [bins, 3] float32, as TensorBoard takes them."""
    low, high = float(values.min()), float(values.max())
    width = (high - low) / bins or 1.0
    counts = np.bincount(np.minimum(((values - low) / width).astype(np.int32), bins - 1), minlength=bins)
    edges = low + width * np.arange(bins + 1)
    return np.stack([edges[:-1], edges[1:], counts], axis=1).astype(np.float32)


def conceptual_graph(model: Any) -> str:
    """The model as the JSON TensorBoard draws layers from; of the calls of operations it understands tensors only."""

    def tensors(part: Any) -> list[Any]:
        if isinstance(part, dict) and part.get("class_name") == "__keras_tensor__":
            return [part]
        return [tensor for member in part for tensor in tensors(member)] if isinstance(part, list | tuple) else []

    description = json.loads(model.to_json())
    for layer in description["config"]["layers"]:
        for node in layer["inbound_nodes"]:
            found = tensors(node["args"])
            node["args"] = [found if len(found) > 1 else found[0]] if found else []
            node["kwargs"] = {}
    return json.dumps(description)


def resident_megabytes() -> float:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError):
        return 0.0


def describe_net(plan: Plan, net: Net, inputs: Any) -> dict[str, Any]:
    """Every kernel, bias and normalization of a net, and its activations on encoded rows, by tag."""
    weights, moving = unflatten_net(plan.units, plan.width, net)
    values: dict[str, Any] = {}
    for layer in range(len(plan.units)):
        parts = [*weights[4 * layer : 4 * layer + 4], *moving[2 * layer : 2 * layer + 2]]
        for name, part in zip(("weights", "bias", "gamma", "beta", "mean", "variance"), parts, strict=True):
            values[f"{name}/hidden_{layer + 1}"] = part
    values |= {"weights/probability": weights[-2], "bias/probability": weights[-1]}
    activations: list[Any] = []
    network(plan.units, net, product(inputs, input_kernel(plan.units, net, plan.width)), plan.width, activations)
    return values | {f"activations/hidden_{layer}": part for layer, part in enumerate(activations, 1)}


class Profile:
    """Profiles ten epochs after the first, each marked as a step; TensorBoard shows them when xprof is installed."""

    def __init__(self, tf: Any, folder: Path) -> None:
        self.profiler, self.folder, self.running = tf.profiler.experimental, folder, False

    def __call__(self, epoch: int) -> Any:
        if epoch == 1:
            self.profiler.start(str(self.folder))
            self.running = True
        if epoch == 11:
            self.close()
        return self.profiler.Trace("train", step_num=epoch, _r=1) if self.running else contextlib.nullcontext()

    def close(self) -> None:
        if self.running:
            self.running = False
            self.profiler.stop()


def run_folder(logs: Path, architecture: str) -> Path:
    """A folder of its own for this run, also when two start in one second."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}_{architecture}"
    for number in range(1, 1_000):
        folder = logs / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise OSError(f"{logs}: a thousand runs in one second")


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation

RESAMPLES = 1_000
BOOTSTRAP_ROWS = 5_000  # more rows than this are resampled in part, and the interval narrowed accordingly


def sigmoid(logits: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * logits))


def wilson(successes: float, trials: float) -> list[float]:
    """95 % interval of a proportion (Wilson, 1927)."""
    if not trials:
        return [0.0, 1.0]
    z, share = 1.959964, successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def ranking(label: Any, probability: Any, weights: Any) -> tuple[Any, Any]:
    """ROC AUC and PR AUC (average precision) of weighted rows: label, probability [N], weights [R, N] give [R], [R]."""
    values, place = np.unique(probability, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(values)))
    positive = np.add.reduceat((weights * label)[:, order], starts, axis=1)
    negative = np.add.reduceat((weights * (1 - label))[:, order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    positives, negatives = positive.sum(axis=1), negative.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        roc = (positive * (below + negative / 2)).sum(axis=1) / (positives * negatives)
        hits, predicted = np.cumsum(positive[:, ::-1], axis=1), np.cumsum((positive + negative)[:, ::-1], axis=1)
        precision = np.where(predicted > 0, hits / predicted, 0)
        pr = (positive[:, ::-1] * precision).sum(axis=1) / positives
    return roc, pr


def log_losses(label: Any, probability: Any) -> Any:
    probability = np.clip(probability.astype(float), 1e-7, 1 - 1e-7)
    return -np.where(label > 0.5, np.log(probability), np.log1p(-probability))


def bootstrap(label: Any, probability: Any, seed: int) -> dict[str, list[float]]:
    """95 % percentile intervals of ROC AUC, PR AUC and log-loss over resampled rows (Efron, 1979)."""
    generator = np.random.default_rng([seed, 2])
    rows = len(label)
    narrower = math.sqrt(min(1, BOOTSTRAP_ROWS / rows))
    if rows > BOOTSTRAP_ROWS:
        chosen = generator.choice(rows, BOOTSTRAP_ROWS, replace=False)
        label, probability, rows = label[chosen], probability[chosen], BOOTSTRAP_ROWS
    resamples = min(RESAMPLES, 1_000_000 // rows)
    weights = generator.multinomial(rows, np.full(rows, 1 / rows), resamples).astype(np.float32)
    roc, pr = ranking(label, probability, weights)
    losses = weights @ log_losses(label, probability) / rows
    whole = [part[0] for part in ranking(label, probability, np.ones((1, rows)))] + [
        log_losses(label, probability).mean()
    ]
    intervals = {}
    for name, values, centre in zip(("roc_auc", "pr_auc", "log_loss"), (roc, pr, losses), whole, strict=True):
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (centre, centre)
        intervals[name] = [float((low - centre) * narrower), float((high - centre) * narrower)]
    return intervals


def calibration_error(label: Any, probability: Any, bins: int = 10) -> float:
    """Expected calibration error over ten bins of equal width (Naeini et al., 2015)."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(place, probability - label, minlength=bins)
    return float(np.abs(gaps).sum() / len(label))


def measure(label: Any, probability: Any, threshold: float, seed: int) -> dict[str, Any]:
    """Everything metrics.json says of predictions [N] against labels [N]."""
    predicted, actual = probability >= threshold, label > 0.5
    hits, false = int(np.sum(predicted & actual)), int(np.sum(predicted & ~actual))
    missed = int(np.sum(~predicted & actual))
    right, rows = len(label) - false - missed, len(label)
    roc, pr = (float(part[0]) for part in ranking(label, probability, np.ones((1, rows))))
    result = {
        "accuracy": right / rows,
        "accuracy_ci95": wilson(right, rows),
        "precision": hits / (hits + false) if hits + false else 0.0,
        "precision_ci95": wilson(hits, hits + false),
        "recall": hits / (hits + missed) if hits + missed else 0.0,
        "recall_ci95": wilson(hits, hits + missed),
        "f1": 2 * hits / (2 * hits + false + missed) if hits else 0.0,
        "roc_auc": roc,
        "pr_auc": pr,
        "log_loss": float(log_losses(label, probability).mean()),
        "brier": float(np.mean(np.square(probability - label))),
        "ece": calibration_error(label, probability),
        "confusion": [[rows - hits - false - missed, false], [missed, hits]],
    }
    for name, (low, high) in bootstrap(label, probability, seed).items():
        result[f"{name}_ci95"] = [result[name] + low, result[name] + high]
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in result.items()}


def choose_threshold(rule: tuple[str, float | None], label: Any, probability: Any) -> Choice:
    """The threshold that serves a rule best on rows that were not trained on: [N], [N]."""
    name, number = rule
    if name == "fixed":
        return Choice(number, "as asked" if number != 0.5 else "the more likely class")
    if name == "cost":
        return Choice(number, "the expected cost of both mistakes is equal there")
    order = np.argsort(-probability, kind="stable")
    hits, predicted = np.cumsum(label[order]), np.arange(1, len(label) + 1)
    positives = label.sum()
    last = np.append(np.diff(probability[order]) != 0, True)  # between equal probabilities there is no threshold
    precision, recall = hits / predicted, hits / positives
    if name == "f1":
        score = 2 * hits / (predicted + positives)
    elif name == "balanced":
        score = recall + 1 - (predicted - hits) / max(1, len(label) - positives)
    elif name == "precision":
        score = np.where(precision >= number, 1 + recall, precision)
    else:
        score = np.where(recall >= number, 1 + precision, recall)
    best = int(np.argmax(np.where(last, score, -1)))
    following = probability[order][best + 1] if best + 1 < len(label) else 0.0
    middle = float((probability[order][best] + following) / 2)
    met = "" if name in ("f1", "balanced") or score[best] >= 1 else f"; {name} {number:g} was not reached"
    return Choice(
        middle, f"best for {name}{'' if number is None else f' {number:g}'} on {len(label):,} validation rows{met}"
    )


def fit_temperature(label: Any, logits: Any) -> float:
    """The divisor of logits that lowers their log-loss most (Guo et al., 2017), held near 1 when rows are few."""
    step = max(1, len(label) // 20_000)
    label, logits = label[::step], logits[::step]
    logarithms = np.linspace(-0.7, 1.1, 91)
    losses = [log_losses(label, sigmoid(logits / math.exp(value))).sum() + 10 * value**2 for value in logarithms]
    return math.exp(logarithms[int(np.argmin(losses))])


def fit_logistic_regression(encoded: Encoded, label: Any, width: int, penalty: float = 1.0) -> Any:
    """Weights [E + 1], the intercept last, of an L2-penalised logistic regression.

    Newton's method whose steps are solved by conjugate gradients (Komarek and Moore, 2005): what an iteration costs
    follows the cells of the rows, not the square of the inputs.
    """
    dense, ridge = encoded.dense.astype(float), np.full(width + 1, penalty)
    ridge[-1] = 1e-6

    def logits_of(weights: Any) -> Any:
        return product(Encoded(dense, encoded.places), weights[:-1]) + weights[-1]

    def back(rows: Any) -> Any:
        """The transposed product: [rows] to [E + 1]."""
        result = np.concatenate([rows @ dense, np.zeros(width - dense.shape[1]), [rows.sum()]])
        for places in encoded.places.T:
            result[:-1] += np.bincount(places, rows, minlength=width)[:width]
        return result

    def objective(weights: Any, logits: Any) -> float:
        return float(np.sum(np.logaddexp(0, logits) - label * logits) + ridge @ weights**2 / 2)

    weights, logits = np.zeros(width + 1), np.zeros(len(label))
    value = objective(weights, logits)
    for _ in range(50):
        probability = sigmoid(logits)
        curvature = probability * (1 - probability)
        change = conjugate_gradients(
            lambda vector, by=curvature: back(by * logits_of(vector)) + ridge * vector,
            back(probability - label) + ridge * weights,
        )
        along, size = logits_of(change), 1.0
        while (now := objective(weights - size * change, logits - size * along)) > value and size > 1e-4:
            size /= 2
        weights, logits, gain, value = weights - size * change, logits - size * along, value - now, now
        if gain < 1e-7 * max(1, abs(value)):
            break
    return weights


def conjugate_gradients(multiply: Any, target: Any, tolerance: float = 1e-4, most: int = 200) -> Any:
    """Solve multiply(x) = target for a symmetric positive matrix (Hestenes and Stiefel, 1952)."""
    solution, rest = np.zeros_like(target), target.copy()
    direction, size = rest, rest @ rest
    for _ in range(most):
        if size <= tolerance**2 * (target @ target):
            break
        image = multiply(direction)
        step = size / (direction @ image)
        solution, rest = solution + step * direction, rest - step * image
        size, before = rest @ rest, size
        direction = rest + size / before * direction
    return solution


LINEAR_ROWS = 50_000  # a linear model learns nothing more from more rows


def fit_linear(table: Table, folds: list[Fold]) -> list[Any]:
    """The logistic regression [E + 1] of each fold's training rows: where its net starts, and what it must beat."""
    models = []
    for fold in folds:
        rows = fold.split.training[:: max(1, len(fold.split.training) * len(folds) // LINEAR_ROWS)]
        models.append(
            fit_logistic_regression(encode_sparse(table, fold.encoder, rows), table.label[rows], fold.encoder.width)
        )
    return models


def baselines(table: Table, folds: list[Fold], models: list[Any]) -> dict[str, Any]:
    """Probabilities on the test rows of what anyone could do without a network: always the majority, a linear model."""
    majority, linear = [], []
    for fold, weights in zip(folds, models, strict=True):
        test = fold.split.test
        for piece in row_pieces(test):
            linear.append(sigmoid(product(encode_sparse(table, fold.encoder, piece), weights[:-1]) + weights[-1]))
        majority.append(np.full(len(test), float(table.label[fold.split.training].mean())))
    return {"majority": np.concatenate(majority), "logistic_regression": np.concatenate(linear)}


IMPORTANCE_ROWS = 5_000


def importance(table: Table, folds: list[Fold], units: tuple[int, ...], nets: list[Net], seed: int) -> dict[str, float]:
    """How much the log-loss of test rows rises when a column's cells are shuffled among them (Breiman, 2001)."""
    generator = np.random.default_rng([seed, 4])
    names = [column.name for kind in ("number", "category") for column in table.of_kind(kind)]
    rises, total = np.zeros(len(names)), 0
    for fold, net in zip(folds, nets, strict=True):
        rows = fold.split.test[:: max(1, len(fold.split.test) * len(folds) // IMPORTANCE_ROWS)]
        encoded, label = encode_sparse(table, fold.encoder, rows), table.label[rows]
        kernel = input_kernel(units, net, fold.encoder.width)
        entering = product(encoded, kernel)
        before = log_losses(label, sigmoid(network(units, net, entering, fold.encoder.width))).sum()
        for number, part in enumerate(column_products(encoded, kernel, fold.encoder)):
            shuffled = entering - part + part[generator.permutation(len(rows))]
            rises[number] += (
                log_losses(label, sigmoid(network(units, net, shuffled, fold.encoder.width))).sum() - before
            )
        total += len(rows)
    order = np.argsort(-rises)
    return {names[number]: float(rises[number] / total) for number in order}


def input_kernel(units: tuple[int, ...], net: Net, width: int) -> Any:
    """The weights the encoded inputs meet: of the first hidden layer and of the output layer, [E, U + 1]."""
    weights, _ = unflatten_net(units, width, net)
    return np.concatenate([weights[0], weights[-2][units[-1] :]], axis=1)


def network(units: tuple[int, ...], net: Net, entering: Any, width: int, activations: list[Any] | None = None) -> Any:
    """Logits [B] of a trained net in numpy, from encoded inputs times input_kernel() [B, U + 1].

    The outputs of the hidden layers are appended to activations.
    """
    weights, moving = unflatten_net(units, width, net)
    hidden = entering[:, :-1]
    for layer in range(len(units)):
        kernel, bias, gamma, beta = weights[4 * layer : 4 * layer + 4]
        scale = gamma / np.sqrt(moving[2 * layer + 1] + BATCH_NORMALIZATION_EPSILON)
        hidden = np.maximum((hidden @ kernel if layer else hidden) + bias, 0) * scale + (
            beta - moving[2 * layer] * scale
        )
        if activations is not None:
            activations.append(hidden)
    return (hidden @ weights[-2][: units[-1]])[:, 0] + entering[:, -1] + weights[-1]


PIECE_ROWS = 100_000


def row_pieces(rows: Any) -> list[Any]:
    return np.array_split(rows, max(1, len(rows) // PIECE_ROWS))


def net_logits(table: Table, encoder: Encoder, units: tuple[int, ...], net: Net, rows: Any) -> Any:
    kernel = input_kernel(units, net, encoder.width)
    products = (product(encode_sparse(table, encoder, piece), kernel) for piece in row_pieces(rows))
    return np.concatenate([network(units, net, entering, encoder.width) for entering in products]).astype(float)


# ---------------------------------------------------------------------------------------------------------------------
# Export


TEMPORARY = ".train_model_modern-"  # how the names begin of what is not yet, or no longer, in its place
MARK = "train_model_modern"  # a file in a directory that this program wrote
ARCHIVE_MARKS = {
    MODEL_FILE: "training.json",
    RESUME_FILE: "description.npy",
    BASIC_MODEL_FILE: "basic.json",
}  # entries only it writes
COMMIT_FILE = TEMPORARY + "commit.json"


def beside(path: Path, process: int | None = None) -> Path:
    """A name of this process, or of another, for what will be moved to a path."""
    name = (
        path.name
        if len(os.fsencode(path.name)) < 150
        else hashlib.blake2b(os.fsencode(path.name), digest_size=16).hexdigest()
    )
    return path.with_name(f"{TEMPORARY}{process or os.getpid()}-{name}.tmp")


def open_new(path: Path) -> Any:
    """A new file for bytes, never one that exists or that a link leads to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def keep_mode(file: Any, path: Path) -> None:
    """Let a new file be no more open to others than the one it will replace."""
    if hasattr(os, "fchmod") and path.is_file() and not path.is_symlink():
        os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))


def write_beside(path: Path, content: bytes) -> Path:
    """Write what will be moved to a path, and see that it is on the disk; nothing is left after a failure."""
    new = beside(path)
    new.unlink(missing_ok=True)  # of a process that had the same number
    try:
        with open_new(new) as file:
            keep_mode(file, path)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    return new


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the place, then move over it: a failure leaves the previous file as it was."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "is a link, which is not followed; move it away", str(path))
    new = write_beside(path, content)
    try:
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def remove(path: Path) -> None:
    """Delete a file, a link, or a directory with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def commit(folder: Path, names: list[str]) -> None:
    """Put the files of a run, each written beside its place, into their places: all of them or none.

    A list of them is written first. Whoever is killed between two of the moves is finished by the next run.
    """
    write_atomically(folder / COMMIT_FILE, json.dumps({"process": os.getpid(), "names": names}).encode())
    finish_commit(folder)


def finish_commit(folder: Path) -> None:
    """Do the moves that the list of a commit still has, or undo all of them when one cannot be done.

    What is not such a list is left alone.
    """
    path = folder / COMMIT_FILE
    try:
        listed = json.loads(path.read_bytes()) if path.is_file() else {}
        process, names = int(listed["process"]), [name for name in listed["names"] if name in RESULT_FILES]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return
    moves = [
        (beside(folder / name, process), folder / name, beside(folder / f"{name}-before", process)) for name in names
    ]
    try:
        for new, place, before in moves:
            if os.path.lexists(new):
                set_aside(place, before)
                with contextlib.suppress(FileNotFoundError):  # another process may be finishing it too
                    os.replace(new, place)
    except OSError:
        for new, place, before in moves:
            with contextlib.suppress(OSError):
                undo_move(new, place, before)
        path.unlink(missing_ok=True)
        raise
    for _, _, before in moves:
        remove(before)
    path.unlink(missing_ok=True)


def undo_move(new: Path, place: Path, before: Path) -> None:
    if os.path.lexists(before):
        if os.path.lexists(place) and os.path.samefile(before, place):
            remove(before)
        else:
            if place.is_dir():
                remove(place)
            os.replace(before, place)
    elif not os.path.lexists(new):  # it was moved to where nothing was before
        remove(place)
    remove(new)


def set_aside(place: Path, before: Path) -> None:
    """Keep what is at a place under another name: a file by a second link, so that it is never missing, a directory by a move."""
    if os.path.lexists(before) or not os.path.lexists(place):
        return
    if not place.is_dir():
        with contextlib.suppress(OSError):  # not every file system has links
            os.link(place, before, follow_symlinks=False)
            return
    os.replace(place, before)


def remove_litter(folder: Path) -> None:
    """Delete what processes of this program that are no more have left half-written."""
    for path in folder.glob(TEMPORARY + "*.tmp"):
        found = re.match(r"(\d+)-", path.name.removeprefix(TEMPORARY))
        if found and not is_alive(int(found.group(1))):
            remove(path)


def is_alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere os.kill would end it
        return process != os.getpid()
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return process != os.getpid()


def holds(path: Path, name: str) -> bool:
    """Whether a file is a ZIP archive with an entry of this name."""
    try:
        with zipfile.ZipFile(path) as archive:
            return name in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def is_ours(path: Path) -> bool:
    """Whether what is at the place of a result was written by this program, so that it may be replaced."""
    if path.name == EXPORTS["saved_model"][0]:
        own = {
            MARK,
            "saved_model.pb",
            "fingerprint.pb",
            "variables",
            "assets",
            "variables.index",
            "variables.data-00000-of-00001",
        }
        return (
            path.is_dir()
            and not path.is_symlink()
            and (path / MARK).is_file()
            and {part.name for part in path.rglob("*")} <= own
        )
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(1_000)
    if path.name in ARCHIVE_MARKS:
        return holds(path, ARCHIVE_MARKS[path.name])
    if path.name in (METRICS_FILE, BASIC_METRICS_FILE):
        return start.startswith(b'{\n  "rows":')
    if path.name == PREDICTIONS_FILE:
        return start.splitlines()[:1] in ([b",".join(names)] for names in (PREDICTION_COLUMNS[1:], PREDICTION_COLUMNS))
    if path.name == CARD_FILE:
        return start.startswith(CARD[:14].encode()) and b"\n\nWritten by train_model_modern.py" in start
    return (
        b"train_model_modern" in start
        if path.suffix == ".onnx"
        else start[4:8] == b"TFL3" and b"probability" in path.read_bytes()
    )


def model_archive(model: Any) -> bytes:
    """The .keras archive of a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILE
        model.save(path)
        return path.read_bytes()


def add_to_archive(archive: bytes, name: str, content: str) -> bytes:
    out = io.BytesIO(archive)
    with zipfile.ZipFile(out, "a") as file:
        file.writestr(name, content)
    return out.getvalue()


def archive_with_weights(template: bytes, values: dict[str, Any]) -> bytes:
    """The archive with other values of its variables: 5 ms where saving the model anew takes 60 ms."""
    import h5py

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(template)) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename == "model.weights.h5":
                buffer = io.BytesIO(content)
                with h5py.File(buffer, "r+") as file:
                    for name, value in values.items():
                        file[name][...] = value
                content = buffer.getvalue()
            target.writestr(entry, content)
    return out.getvalue()


def scale_without_doubles(tf: Any, cells: Any, scales: Scales) -> Any:
    """scale_numbers() of one column [B, 1] float64, to float32, for LiteRT, which can do nothing with doubles but copy them.

    The bits of a double, read as an integer, count the doubles from 0 on, and between two powers of two these lie evenly.
    So integers, which LiteRT can subtract exactly, tell how far a cell is from the offset.
    """

    def count_doubles(value: float) -> int:
        bits = int(np.float64(value).view(np.int64))
        return bits if bits >= 0 else MISSING - bits

    offset, gain = float(scales.offset), float(scales.gain)
    if scales.whole:
        return (tf.cast(cells - math.floor(offset), tf.float32) - (offset - math.floor(offset))) * gain
    lowest = max(-1022, math.floor(math.log2(1e-8 / gain)))
    highest = 128 if scales.logarithmic else min(128, math.ceil(math.log2(abs(offset) + 1e5 / gain)))
    powers = np.arange(lowest, max(highest, lowest + 1))
    low, high = (np.array([count_doubles(2.0 ** int(power)) for power in powers + step]) for step in (0, 1))
    low, high = np.concatenate([low, -high]), np.concatenate([high, -low])
    step = np.tile(2.0 ** (powers - 52.0) * gain, 2).astype(np.float32)
    bits = tf.bitcast(cells, tf.int64)
    place = tf.where(bits < 0, MISSING - bits, bits)
    distance = tf.minimum(tf.maximum(place, low), high) - np.clip(count_doubles(offset), low, high)
    scaled = tf.reduce_sum(tf.cast(distance, tf.float32) * step, 1, keepdims=True)
    if not scales.logarithmic:
        return scaled
    size = tf.abs(scaled)  # LiteRT's log1p loses digits near 0, where the first terms of its series are exact
    return tf.sign(scaled) * tf.where(
        size < 0.03, size * (1 - size * (1 / 2 - size * (1 / 3 - size / 4))), tf.math.log1p(size)
    )


def portable_function(
    tf: Any, table: Table, plan: Plan, encoders: list[Encoder], nets: list[Net], doubles: bool
) -> Any:
    """Raw columns [B, 1] by input_names() to {"probability": [B, 1]}, without lookup tables: categories are compared."""
    from keras import ops

    numbers, categories = table.of_kind("number"), table.of_kind("category")
    kinds = {
        column.name: tf.int64 if whole else tf.float64
        for column, whole in zip(numbers, table.scales.whole, strict=True)
    }
    kinds |= {column.name: tf.int64 if column.integers else tf.string for column in categories}
    names = input_names(list(kinds))
    plan = plan._replace(precision="float32")

    def encoded(columns: dict[str, Any], encoder: Encoder) -> Any:
        parts = []
        if numbers:
            raw = [columns[names[column.name]] for column in numbers]
            missing = [
                tf.equal(cells, MISSING) if cells.dtype == tf.int64 else tf.math.is_nan(tf.cast(cells, tf.float32))
                for cells in raw
            ]
            missing = tf.concat(missing, 1)
            if doubles:
                scaled = tf.cast(
                    scale_numbers(ops, tf.concat([tf.cast(cells, tf.float64) for cells in raw], 1), encoder.scales),
                    tf.float32,
                )
            else:
                alone = [Scales(*(part[place] for part in encoder.scales)) for place in range(len(raw))]
                scaled = tf.concat(
                    [scale_without_doubles(tf, cells, scales) for cells, scales in zip(raw, alone, strict=True)], 1
                )
            values = (scaled - encoder.center) * encoder.scale
            parts.append(tf.where(missing, 0.0, values / tf.sqrt(1 + tf.square(values / 3))))
            parts += [tf.cast(missing[:, place : place + 1], tf.float32) for place in encoder.gaps]
        for column, places, depth in zip(categories, encoder.places, encoder.depths, strict=True):
            codes, cells = np.flatnonzero(places), columns[names[column.name]]
            index = tf.zeros_like(cells[:, 0], tf.int32)
            if len(codes):
                same = tf.equal(
                    cells, tf.constant([column.vocabulary[code] for code in codes], kinds[column.name])[None]
                )
                index = tf.reduce_sum(tf.cast(same, tf.int32) * places[codes], 1)
            parts.append(tf.one_hot(index, depth))
        return tf.concat(parts, 1)

    def predict(columns: dict[str, Any]) -> dict[str, Any]:
        logits = [
            forward(
                tf,
                plan,
                tf.constant(net.weights),
                tf.transpose(encoded(columns, encoder)),
                by_statistics(tf, plan, tf.constant(net.statistics)),
            )
            for encoder, net in zip(encoders, nets, strict=True)
        ]
        return {"probability": tf.reduce_mean(tf.sigmoid(tf.stack(logits, 1)), 1, keepdims=True)}

    specs = {names[name]: tf.TensorSpec([None, 1], kind, name=names[name]) for name, kind in kinds.items()}
    return tf.function(predict, input_signature=[specs], autograph=False)


def onnx_model(table: Table, plan: Plan, encoders: list[Encoder], nets: list[Net], threshold: float) -> bytes:
    """The same as an ONNX file; categories go through ai.onnx.ml's LabelEncoder. The threshold is in its metadata."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, constants, inputs = [], [], []

    def constant(values: Any, kind: Any = np.float32) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values, kind), f"/constant_{len(constants)}"))
        return constants[-1].name

    def add(operation: str, *parts: str, output: str = "", **attributes: Any) -> str:
        domain = "ai.onnx.ml" if operation == "LabelEncoder" else ""
        nodes.append(
            helper.make_node(operation, parts, [output or f"/{operation}_{len(nodes)}"], domain=domain, **attributes)
        )
        return nodes[-1].output[0]

    numbers, categories = table.of_kind("number"), table.of_kind("category")
    names = onnx_names([column.name for column in [*numbers, *categories]])
    raw = []
    for column, whole in zip(numbers, table.scales.whole, strict=True):
        inputs.append(
            helper.make_tensor_value_info(
                names[column.name], TensorProto.INT64 if whole else TensorProto.DOUBLE, ["rows", 1]
            )
        )
        raw.append(names[column.name])
        if whole:
            absent, number = (
                add("Equal", raw[-1], constant(MISSING, np.int64)),
                add("Cast", raw[-1], to=TensorProto.DOUBLE),
            )
            raw[-1] = add("Where", absent, constant(math.nan, float), number)
    if numbers:
        raw = add("Concat", *raw, axis=1)
        missing, scales = add("IsNaN", add("Cast", raw, to=TensorProto.FLOAT)), encoders[0].scales
        one, unity = constant(1), constant(1, float)
        scaled = add("Mul", add("Sub", raw, constant(scales.offset, float)), constant(scales.gain, float))
        size = add("Abs", scaled)
        above = add(
            "Add", size, unity
        )  # log1p, as exact as in one operation: log(1 + x) x / ((1 + x) - 1), x itself when that is 0
        ratio = add("Div", size, add("Sub", above, unity))
        logarithm = add(
            "Mul",
            add("Sign", scaled),
            add("Where", add("Greater", above, unity), add("Mul", add("Log", above), ratio), size),
        )
        scaled = add("Where", constant(scales.logarithmic, bool), logarithm, scaled)
        scaled = add("Max", add("Min", scaled, constant(FARTHEST, float)), constant(-FARTHEST, float))
        scaled = add("Cast", scaled, to=TensorProto.FLOAT)
    for column in categories:
        kind = TensorProto.INT64 if column.integers else TensorProto.STRING
        inputs.append(helper.make_tensor_value_info(names[column.name], kind, ["rows", 1]))
    probabilities = []
    for encoder, net in zip(encoders, nets, strict=True):
        parts = []
        if numbers:
            values = add("Mul", add("Sub", scaled, constant(encoder.center)), constant(encoder.scale))
            third = add("Div", values, constant(3))
            values = add("Div", values, add("Sqrt", add("Add", add("Mul", third, third), one)))
            parts.append(add("Where", missing, constant(0), values))
            if encoder.gaps:
                parts.append(
                    add("Cast", add("Gather", missing, constant(encoder.gaps, np.int64), axis=1), to=TensorProto.FLOAT)
                )
        for column, places, depth in zip(categories, encoder.places, encoder.depths, strict=True):
            known = np.flatnonzero(places)
            keys = [column.vocabulary[code] for code in known] or [no_value(column.integers)]
            kind = "keys_int64s" if isinstance(keys[0], int) else "keys_strings"
            index = add(
                "LabelEncoder",
                names[column.name],
                default_int64=0,
                **{kind: keys, "values_int64s": places[known].tolist() or [0]},
            )
            one_hot = add("OneHot", index, constant(depth, np.int64), constant([0, 1]), axis=-1)
            parts.append(add("Reshape", one_hot, constant([-1, depth], np.int64)))
        joined = add("Concat", *parts, axis=1)
        weights, moving = unflatten_net(plan.units, plan.width, net)
        hidden = joined
        for layer in range(len(plan.units)):
            kernel, bias, gamma, beta = weights[4 * layer : 4 * layer + 4]
            scale = gamma / np.sqrt(moving[2 * layer + 1] + BATCH_NORMALIZATION_EPSILON)
            hidden = add("Relu", add("Gemm", hidden, constant(kernel), constant(bias)))
            hidden = add("Add", add("Mul", hidden, constant(scale)), constant(beta - moving[2 * layer] * scale))
        logits = add("Gemm", add("Concat", hidden, joined, axis=1), constant(weights[-2]), constant(weights[-1]))
        probabilities.append(add("Sigmoid", logits))
    add("Mean", *probabilities, output="probability")
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["rows", 1])]
    graph = helper.make_graph(nodes, "productivity", inputs, outputs, constants)
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=8, producer_name="train_model_modern")
    helper.set_model_props(model, {"threshold": repr(threshold)})
    checker.check_model(model)
    return model.SerializeToString()


def onnx_names(columns: list[str]) -> dict[str, str]:
    """What columns are called in an ONNX file: by their own names, but for one that is called like the output."""
    alias = "input_probability"
    while alias in columns:
        alias += "_"
    return {name: alias if name == "probability" else name for name in columns}


def export_model(tf: Any, name: str, path: Path, portable: Any, to_onnx: Any) -> Path:
    """Write one format of EXPORTS beside its place."""
    if name == "onnx":
        return write_beside(path, to_onnx())
    module, new = tf.Module(), beside(path)
    module.predict = portable(name == "saved_model")
    remove(new)
    with tempfile.TemporaryDirectory() as folder:
        saved = new if name == "saved_model" else Path(folder) / "saved"
        tf.saved_model.save(module, str(saved), signatures={"serving_default": module.predict})
        (saved / MARK).touch()
        if name == "litert":
            write_beside(path, tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert())
    return new


def exported_probabilities(tf: Any, name: str, path: Path, rows: dict[str, Any]) -> Any:
    """What an exported model says of raw rows, by its own runtime: [B]."""
    named = {alias: rows[column] for column, alias in input_names(list(rows)).items()}
    if name == "saved_model":
        predict = tf.saved_model.load(str(path)).signatures["serving_default"]
        return predict(**{column: tf.constant(cells) for column, cells in named.items()})["probability"].numpy()[:, 0]
    if name == "litert":
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # the delegate writes a line to standard error
        return Interpreter(str(path), experimental_op_resolver_type=kernels).get_signature_runner()(**named)[
            "probability"
        ][:, 0]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    named = {alias: rows[column] for column, alias in onnx_names(list(rows)).items()}
    return np.asarray(session.run(["probability"], named)[0])[:, 0]


class Checkpoints:
    """Writes a model file at each new best epoch, in a thread of its own, and keeps the newest ones."""

    def __init__(self, folder: Path, keep: int, archive: Any) -> None:
        self.folder, self.keep, self.archive = folder, keep, archive
        self.waiting: list[tuple] = []
        self.files: list[Path] = []
        self.failure = ""
        self.changed = threading.Condition()
        self.closed = False
        folder.mkdir(parents=True, exist_ok=True)
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def offer(self, epoch: int, accuracy: float, nets: list[Net]) -> None:
        with self.changed:
            self.waiting.append((f"model_{epoch:02d}_{accuracy:.4f}.keras", nets))
            if self.keep:  # what would be deleted again need not be written
                del self.waiting[: -self.keep]
            self.changed.notify()

    def work(self) -> None:
        while True:
            with self.changed:
                while not self.waiting and not self.closed:
                    self.changed.wait()
                if not self.waiting:
                    return
                name, nets = self.waiting.pop(0)
            try:
                if os.path.lexists(self.folder / name) and not holds(self.folder / name, ARCHIVE_MARKS[MODEL_FILE]):
                    raise FileExistsError(
                        errno.EEXIST, "a file of your own has the name of a checkpoint", str(self.folder / name)
                    )
                write_atomically(self.folder / name, self.archive(nets))
                if self.folder / name not in self.files:
                    self.files.append(self.folder / name)
                while self.keep and len(self.files) > self.keep:
                    self.files.pop(0).unlink(missing_ok=True)
            except OSError as error:
                self.failure = str(error)

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join()


# ---------------------------------------------------------------------------------------------------------------------
# Resuming

SAVE_SECONDS = 2.0
NOT_COMPARED = {"resume", "quiet", "model_dir", "csv"}  # flags that may differ from those of the interrupted run
RUN_NAME = re.compile(r"\d{8}-\d{6}_[a-z]+(_\d+)?")  # a run's folder in logs/


def fingerprint(table: Table) -> str:
    """A digest of everything a table teaches."""
    digest = hashlib.blake2b(
        json.dumps([[column.name, column.kind, column.vocabulary] for column in table.columns]).encode()
    )
    for part in (*table.numbers.T, *table.codes.T, table.label):
        digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()


class StateFile:
    """Keeps what --resume needs: written at each new best and every two seconds, between two calls of the program."""

    def __init__(self, path: Path, description: dict[str, Any]) -> None:
        self.path, self.description = path, description
        self.saved, self.best, self.failure = -math.inf, 0.0, ""

    def offer(self, nets: list[Live], now: bool = False) -> None:
        best = sum(net.best_epoch for net in nets)
        if now or best != self.best or time.perf_counter() - self.saved > SAVE_SECONDS:
            self.best, self.saved = best, time.perf_counter()
            try:
                write_atomically(self.path, pack_state(nets, self.description))
                self.failure = ""
            except OSError as error:
                self.failure = f"{self.path}: {error.strerror}"


def pack_state(nets: list[Live], description: dict[str, Any]) -> bytes:
    arrays: dict[str, Any] = {}
    facts = [{"reason": net.reason, "best_loss": net.best_loss, "best_epoch": net.best_epoch} for net in nets]
    for number, net in enumerate(nets):
        arrays |= {f"{number}/state/{name}": np.asarray(value) for name, value in net.state._asdict().items()}
        arrays[f"{number}/history"] = np.array([list(logs.values()) for logs in net.history])
        for name in ("now", "best"):
            if (part := getattr(net, name)) is not None:
                arrays |= {f"{number}/{name}/{key}": value for key, value in part._asdict().items()}
    arrays["description"] = np.frombuffer(json.dumps(description | {"nets": facts}).encode(), np.uint8)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The description and the arrays of an interrupted run. Nothing in the file can be executed."""
    if not path.is_file():
        raise UserError(f"--resume: {path.parent} holds no interrupted run; leave --resume out to start one")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(arrays.pop("description").tobytes())
        arguments, nets, logs = description["arguments"], description["nets"], description["logs"]
        sound = isinstance(arguments, list) and all(
            isinstance(part, str) for part in [*arguments, description["fingerprint"], logs]
        )
        sound = sound and isinstance(nets, list) and all(isinstance(net["reason"], str) for net in nets)
        for number, net in enumerate(nets):
            epochs = len(arrays[f"{number}/history"])
            sound = (
                sound
                and type(net["best_epoch"]) is int
                and 0 <= net["best_epoch"] <= epochs
                and type(net["best_loss"]) in (int, float)
            )
        if not sound or (logs and not RUN_NAME.fullmatch(logs)):
            raise ValueError
    except Exception:  # each way of compressing raises kinds of its own
        raise damaged(path) from None
    return description, arrays


def damaged(path: Path, what: str = "") -> UserError:
    return UserError(f"--resume: {path} is damaged{what}; delete it and start again")


def unpack_state(
    tf: Any, net: Live, number: int, epochs: int, description: dict[str, Any], arrays: dict[str, Any]
) -> None:
    """Put a net where it was. Raises UserError when the arrays are not those of such a net."""

    def refuse(name: str) -> UserError:
        return damaged(Path(RESUME_FILE), f" (net {number + 1}, {name})")

    def take(name: str, like: Any) -> Any:
        value = arrays.get(f"{number}/{name}")
        if value is None or value.dtype != like.dtype or value.shape != like.shape:
            raise refuse(name)
        return value

    facts, current = (
        description["nets"][number],
        {name: np.asarray(value) for name, value in net.state._asdict().items()},
    )
    net.state = State(**{name: tf.constant(take(f"state/{name}", value)) for name, value in current.items()})
    names, history = list(epoch_logs([0.0] * len(HISTORY), 1, 1)), arrays[f"{number}/history"]
    if (
        history.dtype != np.float64
        or history.shape not in ((len(history), len(names)), (0,))
        or not len(history) == int(net.state.epoch) <= epochs
    ):
        raise refuse("history")
    net.history = [dict(zip(names, map(float, row), strict=True)) for row in history]
    for name in ("now", "best"):
        if f"{number}/{name}/weights" in arrays:
            parts = (take(f"{name}/weights", current["weights"]), take(f"{name}/statistics", current["statistics"]))
            setattr(net, name, Net(*parts))
    net.reason, net.best_loss, net.best_epoch = facts["reason"], float(facts["best_loss"]), facts["best_epoch"]
    if (net.best is None) != (net.best_epoch == 0) or (net.now is None) != (not net.history):
        raise refuse("best")


def resumed_options(given: dict[str, Any], folder: Path) -> tuple[argparse.Namespace, dict[str, Any], dict[str, Any]]:
    """The options of the interrupted run, its description and its arrays; UserError where given flags contradict it."""
    description, arrays = read_state(folder / RESUME_FILE)
    try:
        options = parse_options(description["arguments"])
    except UserError as error:
        raise damaged(folder / RESUME_FILE, f" ({error})") from None
    except SystemExit:
        raise damaged(folder / RESUME_FILE, " (arguments)") from None
    for name, value in given.items():
        before = getattr(options, name)
        if name not in NOT_COMPARED and value != before:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"--resume: {flag} {value} contradicts the interrupted run, which has {before}; leave the flag or --resume out"
            )
    options.resume, options.model_dir = True, folder
    options.quiet, options.csv = given.get("quiet", options.quiet), given.get("csv") or options.csv
    return options, description, arrays


@contextlib.contextmanager
def lock_folder(folder: Path) -> Any:
    """Hold the model directory for this process; the lock of a process that died is free."""
    try:
        import fcntl
    except ImportError:  # Windows
        finish_commit(folder)
        yield
        return
    path = folder / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError:
        raise UserError(
            f"{path}: is a link, a directory or closed to you, not a lock of this program; move it away or name another directory"
        ) from None
    foreign = UserError(
        f"{path}: is a file of your own, not a lock of this program; move it away or name another directory"
    )
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise foreign
    with os.fdopen(descriptor, "r+", encoding="ascii", errors="replace") as file:
        if not re.fullmatch(r"\d*", holder := file.read(100)):
            raise foreign
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"--model-dir {folder}: process {holder or 'unknown'} is training there; wait for it or name another directory"
            ) from None
        file.seek(0)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        finish_commit(folder)
        for place in (folder, folder / "checkpoints"):
            remove_litter(place)
        try:
            yield
        finally:
            file.seek(0)
            file.truncate(0)


# ---------------------------------------------------------------------------------------------------------------------
# What the user reads


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def show_data(options: argparse.Namespace, table: Table, splits: list[Split]) -> list[str]:
    rows, share = len(table.label), float(table.label.mean())
    lines = [
        f"Data       {', '.join(short_names(options.csv))}: {rows:,} rows"
        + (f" ({table.skipped} left out)" if table.skipped else "")
    ]
    lines += [f"           note: {note}" for note in table.notes]
    lines.append(f"Label      {options.label}: {percent(share)} are 1, {percent(1 - share)} are 0")
    for kind, title in (("number", "Numbers"), ("category", "Categories"), ("dropped", "Left out")):
        parts = []
        for column in table.of_kind(kind):
            more = {"number": "", "category": f" ({column.distinct} values)", "dropped": f" ({column.reason})"}[kind]
            parts.append(
                column.name + more + (f" ({column.missing} missing)" if column.missing and kind != "dropped" else "")
            )
        line = ""
        for part in parts:
            if line and len(line) + len(part) > 100:
                lines.append(f"{title:<11}{line},")
                line, title = "", ""
            line += (", " if line else "") + part
        if line:
            lines.append(f"{title:<11}{line}")
    lines += [
        f"           hint: {column.name}: {column.hint}"
        for column in table.columns
        if column.hint and column.kind != "dropped"
    ]
    split = splits[0]
    if len(splits) > 1:
        rows = f"trains on about {len(split.training):,} rows, stops by {len(split.validation):,}, is tested on {len(split.test):,}"
        words = f"{len(splits)} folds at random within each class: each net {rows}"
    else:
        how = (
            "at random within each class"
            if options.split == "random"
            else "by time: the first rows train, the last rows test"
        )
        words = f"{len(split.training):,} training, {len(split.validation):,} validation, {len(split.test):,} test rows, {how}"
    return [*lines, f"Split      {words}"]


def describe_columns(table: Table) -> list[str]:
    """A line for each column: what it is read as, how many values it has, how many cells are empty."""
    width = max(len(column.name) for column in table.columns)
    lines = [f"{'column':<{width}}  {'read as':<9}{'distinct':>10}{'missing':>10}  values"]
    ranges = {}
    for column, values in zip(table.of_kind("number"), table.numbers.T, strict=True):
        ranges[column.name] = "{:.6g} to {:.6g}, median {:.6g}".format(*np.nanpercentile(values, [0, 100, 50]))
    for column, codes in zip(table.of_kind("category"), table.codes.T, strict=True):
        counts = np.bincount(codes, minlength=len(column.vocabulary))
        most = int(np.argmax(counts))
        shown = "(missing)" if column.vocabulary[most] in ("", MISSING) else column.vocabulary[most]
        ranges[column.name] = f"most often {shown}, in {percent(counts[most] / len(codes))} of rows"
    for column in table.columns:
        values = column.reason if column.kind == "dropped" else ranges[column.name]
        hint = f"; {column.hint}" if column.hint and column.kind != "dropped" else ""
        counts = f"{column.distinct:>10,}{column.missing:>10,}" if column.missing >= 0 else " " * 20
        lines.append(f"{column.name:<{width}}  {column.kind:<9}{counts}  {values}{hint}")
    return lines


def interval(values: list[float], scale: float = 100, digits: int = 1) -> str:
    return f"{scale * values[0]:.{digits}f} to {scale * values[1]:.{digits}f}"


def show_result(test: dict[str, Any], bases: dict[str, Any], threshold: Choice, folds: int) -> list[str]:
    (true_negative, false_positive), (false_negative, true_positive) = test["confusion"]
    rows = sum(map(sum, test["confusion"]))
    how = "the model never saw" if folds == 1 else f"each tested by the one of {folds} nets that never saw it"
    lines = [
        f"Test, {rows:,} rows {how} (95 % intervals)",
        f"{'':<24}{'accuracy':>10}{'':>16}{'ROC AUC':>9}{'log-loss':>10}{'':>17}",
    ]
    for name, result in (
        ("this model", test),
        ("logistic regression", bases["logistic_regression"]),
        ("always the majority", bases["majority"]),
    ):
        auc = "-" if result["roc_auc"] is None else f"{result['roc_auc']:.3f}"
        accuracy = f"{percent(result['accuracy']):>10}{interval(result['accuracy_ci95']):>16}"
        lines.append(
            f"  {name:<22}{accuracy}{auc:>9}{result['log_loss']:>10.3f}{interval(result['log_loss_ci95'], 1, 3):>17}"
        )
    for name in ("precision", "recall"):
        lines.append(f"  {name:<22}{percent(test[name]):>10}{interval(test[f'{name}_ci95']):>16}")
    lines.append(
        f"  F1 {test['f1']:.3f}, calibration error {test['ece']:.3f}, at threshold {threshold.value:.3g} ({threshold.reason})"
    )
    productive, others = true_positive + false_negative, true_negative + false_positive
    lines.append(
        f"  of {productive:,} rows of 1 {true_positive:,} were found; of {others:,} rows of 0 {false_positive:,} were taken for 1"
    )
    majority, linear = bases["majority"], bases["logistic_regression"]
    if test["accuracy_ci95"][0] <= majority["accuracy_ci95"][1]:
        lines.append(
            "No gain over always answering with the majority class is shown: the intervals overlap. More labelled rows would help most."
        )
    elif test["accuracy_ci95"][0] <= linear["accuracy_ci95"][1]:
        lines.append(
            "Better than the majority class; no gain over a logistic regression is shown: the intervals overlap."
        )
    width = test["accuracy_ci95"][1] - test["accuracy_ci95"][0]
    if width > 0.15:
        lines.append(
            f"The interval is {100 * width:.0f} points wide because only {rows} rows could be tested: read one run as a hint, not as a measurement."
        )
    return lines


def show_calibration(label: Any, probability: Any, confusion: list[list[int]]) -> list[str]:
    """The calibration curve and the confusion matrix of the test rows as tables."""
    lines, place = ["probability given   rows   of these are 1", ""], np.minimum((probability * 10).astype(int), 9)
    for number in range(10):
        part = label[place == number]
        observed = f"{percent(float(part.mean())):>8}  {'#' * round(20 * float(part.mean()))}" if len(part) else ""
        lines.append(f"{10 * number:>3} to {10 * number + 10:>3} %     {len(part):>8,}  {observed}")
    (true_negative, false_positive), (false_negative, true_positive) = confusion
    lines += ["", f"{'':<12}{'taken for 0':>14}{'taken for 1':>14}"]
    return [
        *lines,
        f"{'rows of 0':<12}{true_negative:>14,}{false_positive:>14,}",
        f"{'rows of 1':<12}{false_negative:>14,}{true_positive:>14,}",
    ]


def show_importance(values: dict[str, float]) -> list[str]:
    """A list of bars for the columns that matter most."""
    most = max(values.values(), default=0)
    if most <= 0:
        return []
    shown = [(name, value) for name, value in values.items() if value > 0.01 * most][:10]
    width = max(len(name) for name, _ in shown)
    lines = ["Columns, by how much the log-loss rises without them"]
    return lines + [
        f"  {name:<{width}}  {value:6.3f}  {'#' * max(1, round(30 * value / most))}" for name, value in shown
    ]


def show_thresholds(label: Any, probability: Any) -> list[str]:
    """When one class is rare: what other thresholds would give, on validation rows."""
    if min(label.mean(), 1 - label.mean()) >= 0.2:
        return []
    lines = ["One class is rare; on validation rows other thresholds would give"]
    for text in ("0.5", "f1", "balanced"):
        choice = choose_threshold(threshold_rule(text), label, probability)
        predicted = probability >= choice.value
        hits = float((predicted * label).sum())
        precision, recall = hits / max(1, predicted.sum()), hits / label.sum()
        lines.append(
            f"  --threshold {text:<9} {choice.value:.3f}: precision {percent(precision)}, recall {percent(recall)}"
        )
    return lines


CARD = """# Model card: {label}

Written by train_model_modern.py {version} on {date} beside `{model}`; a later run replaces it.

## What it is for

It tells how likely `{label}` is 1 for rows like those it learned from: the same people, the same programs, the same
harvester. It was not tested on anyone else, and it is no ground for judging a person. Programs and habits change:
test it on new rows with `python predict.py new.csv --evaluate`, and train it again when the result falls.

## Data

```
{data}
```

## Results

```
{report}
```

Calibrated on validation rows (temperature {temperature:.3g}). A probability of {threshold:.6g} or more counts as 1 ({reason}).

## Limits

- The intervals say what chance alone can do with this many test rows. They do not cover people or times that are not in the data.
- A category that was not seen in training is treated like any other that was not, a missing cell like those that were missing.
- The model holds the values of the text and id columns that it learned from, and this card one row.

## Settings

| setting | value |
|-|-|
{settings}

## Inputs and output

Every input is one column of the table with shape [rows, 1]. The output is `probability`, [rows, 1], 32-bit floating point.

| input | type | a missing cell |
|-|-|-|
{inputs}

From the text of a cell, white space at both ends left out: a number is its value (in an int64, rounded to a whole number); the
int64 of an id is its integer (5.0 is 5), and {unseen} for any other text; a string is the text, letter for letter
(TRUE is not True, 1.10 is not 1.1).

From Python, with nothing of this project; these values give {probability:.4f}:

```python
import keras, tensorflow as tf

model = keras.models.load_model("{model}")
probability = model({{
{python}
}})
```

`model.predict` gives the same, but for numbers that take more than 32 bits, which it rounds first.

From C#, with the package Microsoft.ML.OnnxRuntime, after training with `--export onnx`:

```csharp
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

using var session = new InferenceSession("productivity_model.onnx");
var shape = new[] {{ 1, 1 }};
var inputs = new List<NamedOnnxValue>
{{
{csharp}
}};
using var results = session.Run(inputs);
float probability = results.First(result => result.Name == "probability").AsTensor<float>()[0, 0];
```
"""


def model_card(run: Run, metrics: dict[str, Any], report: list[str]) -> str:
    """What a user of the model should know, with one of its test rows as an example."""
    table, test = run.table, run.folds[0].split.test[:1]
    kinds = {"number": ("float64", "NaN"), "integer": ("int64", str(MISSING)), "text": ("string", '""')}
    inputs, python, csharp = [], [], []
    raw = raw_inputs(table, test)
    names = input_names(list(raw))
    for name, cells in raw.items():
        cell = cells[0, 0]
        kind = "text" if isinstance(cell, str) else "integer" if cells.dtype.kind == "i" else "number"
        other = "" if names[name] == name else f" (SavedModel, LiteRT: `{names[name]}`)"
        alias = onnx_names(list(raw))[name]
        other += "" if alias == name else f" (ONNX: `{alias}`)"
        inputs.append(f"| `{name}`{other} | {kinds[kind][0]} | {kinds[kind][1]} |")
        known = kind != "number" or not math.isnan(cell)
        value = (
            json.dumps(cell, ensure_ascii=False)
            if kind == "text"
            else repr(float(cell))
            if kind == "number" and known
            else str(cell)
        )
        shown = value if known else "float('nan')"
        python.append(f"    {json.dumps(name, ensure_ascii=False)}: tf.constant([[{shown}]], tf.{kinds[kind][0]}),")
        element, literal = {
            "text": ("string", value),
            "integer": ("long", f"{value}L"),
            "number": ("double", value if known else "double.NaN"),
        }[kind]
        csharp.append(
            f"    NamedOnnxValue.CreateFromTensor({json.dumps(alias)}, new DenseTensor<{element}>(new[] {{ {literal} }}, shape)),"
        )
    settings = [
        f"| {name} | {value} |" for name, value in metrics["settings"].items() if name not in ("columns", "reasons")
    ]
    return CARD.format(
        label=run.options.label,
        version=VERSION,
        date=time.strftime("%Y-%m-%d"),
        model=MODEL_FILE,
        unseen=UNSEEN,
        data="\n".join(show_data(run.options, table, run.splits)),
        report="\n".join(report),
        temperature=metrics["temperature"],
        threshold=metrics["threshold"],
        reason=metrics["settings"]["reasons"]["threshold"],
        settings="\n".join(settings),
        inputs="\n".join(inputs),
        probability=float(run.probabilities(test)[0]),
        python="\n".join(python),
        csharp="\n".join(csharp),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Main


class Decisions(NamedTuple):
    batch_size: Choice
    xla: Choice
    patience: Choice
    momentum: Choice


def decide(options: argparse.Namespace, splits: list[Split]) -> Decisions:
    rows = max(len(split.training) for split in splits)
    batch_size = choose_batch_size(options.batch_size, rows)
    segments, steps = segment_steps(rows, batch_size.value)
    total = segments * steps * options.epochs
    xla = choose_xla(options.xla, total * len(splits))
    if options.profile and options.xla is None:
        xla = Choice(True, "a profile shows the steps of compiled programs only")
    return Decisions(batch_size, xla, choose_patience(segments * steps), choose_momentum(total))


def make_plan(
    options: argparse.Namespace, splits: list[Split], label: Any, width: int, decisions: Decisions, precision: str
) -> Plan:
    architecture = ARCHITECTURES[options.architecture]
    segments, steps = segment_steps(max(len(split.training) for split in splits), decisions.batch_size.value, width)
    epoch_rows = segments * steps * decisions.batch_size.value
    patience, share = decisions.patience.value, float(label.mean())
    return Plan(
        units=architecture.units,
        dropout=architecture.dropout,
        width=width,
        batch_size=decisions.batch_size.value,
        segments=segments,
        steps=steps,
        epochs_per_call=1 if options.profile else min(options.epochs, max(1, min(25, 100_000 // epoch_rows))),
        validation_rows=max(len(split.validation) for split in splits),
        momentum=decisions.momentum.value,
        weight_decay=WEIGHT_DECAY if options.adamw else 0.0,
        patience=patience if options.early_stopping else 0,
        plateau=max(3, patience // 3) if options.reduce_lr else 0,
        precision=precision,
        xla=decisions.xla.value,
        seed=options.seed,
        class_weights=(0.5 / (1 - share), 0.5 / share) if options.class_weight == "balanced" else (1.0, 1.0),
    )


def refuse_others(folder: Path, names: list[str]) -> None:
    for name in names:
        if os.path.lexists(folder / name) and not is_ours(folder / name):
            raise UserError(
                f"{folder / name}: was not written by this program; move it away or name another directory with --model-dir"
            )


def refuse_foreign(folder: Path, exports: list[str]) -> None:
    """Refuse a model directory where a file that this program did not write has the name of one it will write."""
    refuse_others(
        folder, [MODEL_FILE, METRICS_FILE, PREDICTIONS_FILE, RESUME_FILE, *(EXPORTS[name][0] for name in exports)]
    )
    for name in ("checkpoints", "logs"):
        if (folder / name).is_symlink() or (
            name == "checkpoints" and os.path.lexists(folder / name) and not (folder / name).is_dir()
        ):
            raise UserError(
                f"{folder / name}: is a link or no directory; move it away or name another directory with --model-dir"
            )


def shared_warning(path: Path) -> str:
    """What to say when others can write where a model or a state is read from; empty when they cannot."""
    if os.name != "posix" or not path.exists():
        return ""
    status = path.stat()
    if status.st_mode & 0o002 and not status.st_mode & 0o1000:
        return f"{path} can be written to by every user of this machine: what is read from it may not be yours (chmod o-w {path})"
    if status.st_uid not in (0, os.getuid()):
        return f"{path} belongs to another user, who can change what is read from it"
    return ""


def prepare_folder(folder: Path) -> None:
    """Make the model directory and see that it can be written to."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--model-dir {folder}: is a file; name a directory")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_beside(folder / "probe", b"").unlink()
    except OSError as error:
        raise UserError(f"--model-dir {folder}: {error.strerror}; name a directory that can be written to") from None


def load_data(options: argparse.Namespace) -> Table:
    if not options.sample:
        return read_table(options)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "HARVEST.CSV")
        options.csv = [path]
        write_sample(path, options.sample, options.seed)
        try:
            table = read_table(options)
        except UserError as error:
            raise UserError(str(error).replace(path, f"--sample {options.sample}")) from None
    options.csv = table.names = [f"{options.sample:,} generated rows"]
    return table


def split_table(options: argparse.Namespace, table: Table) -> list[Split]:
    """One split, or one for each fold."""
    rarer = int(min(table.label.sum(), len(table.label) - table.label.sum()))
    if options.folds > rarer:
        table.notes.append(
            f"--folds {options.folds} lowered to {rarer}: the rarer class has {rarer} rows, and every fold needs one"
        )
        options.folds = rarer
    if options.folds > 1:
        return split_folds(table.label, options.folds, options.seed)
    split = split_rows(table.label, options.split, options.seed)
    for name, part in split._asdict().items():
        if len({*table.label[part].tolist()}) < 2:
            raise UserError(
                f"{data_name(options)}: the {name} rows are all of one class; label more rows or use --split random"
            )
    return [split]


class Stopped(KeyboardInterrupt):
    """A second signal: stop at once."""

    def __init__(self, number: int) -> None:
        self.signal = number


@contextlib.contextmanager
def stop_on_signals(stop: StopRequest) -> Any:
    """The first Ctrl-C or SIGTERM asks training to stop after the epoch; the second stops at once, but for a commit."""

    def handle(number: int, _: Any) -> None:
        if stop.signal and not stop.committing:
            raise Stopped(number)
        stop.signal = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Run:
    """What the parts of main share."""

    options: argparse.Namespace
    table: Table
    splits: list[Split]
    decisions: Decisions
    timing: dict[str, float]
    output: Output
    tf: Any = None
    device: Device | None = None
    precision: Choice | None = None
    folds: list[Fold] = field(default_factory=list)
    linear: list[Any] = field(default_factory=list)
    plan: Plan | None = None
    model: Any = None
    nets: list[Net] = field(default_factory=list)  # as they are saved
    template: bytes = b""  # the saved model, before its weights
    events: EventLog | None = None
    arguments: list[str] = field(default_factory=list)  # as they were given, for --resume
    interrupted: tuple[dict[str, Any], dict[str, Any]] | None = None  # what --resume goes on with
    resumable: bool = False  # a signal stopped training, and its state was saved
    checkpoint: Path | None = None  # the newest

    def say(self, *lines: str) -> None:
        self.output.say(*lines)

    @property
    def encoders(self) -> list[Encoder]:
        return [fold.encoder for fold in self.folds]

    def probabilities(self, rows: Any) -> Any:
        """What the finished model says of rows of the table."""
        parts = [
            sigmoid(net_logits(self.table, fold.encoder, self.plan.units, net, rows))
            for fold, net in zip(self.folds, self.nets, strict=True)
        ]
        return sum(parts) / len(parts)

    def archive(self, nets: list[Net], threshold: float = 0.5) -> bytes:
        """A model file that holds these nets, and what predict.py needs beside them."""
        columns = [asdict(replace(column, vocabulary=[])) for column in self.table.columns if column.kind != "dropped"]
        details = {"threshold": threshold, "label": self.options.label, "columns": columns}
        archive = archive_with_weights(self.template, model_variables(self.plan.units, self.encoders, nets))
        return add_to_archive(archive, "training.json", json.dumps(details))


def prepare(run: Run) -> None:
    """Import TensorFlow, take the decisions that need the device, and build the model."""
    options, table = run.options, run.table
    if options.profile:
        os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")  # its use of memory is what the memory page shows
    prepare_environment(options.cpu_only, run.decisions.xla.value, run.decisions.batch_size.value)
    started = time.perf_counter()
    run.tf = import_tensorflow()
    run.device = find_device(run.tf, options.cpu_only)
    run.timing["import_s"] = time.perf_counter() - started
    run.precision = choose_precision(options.mixed_precision, run.device)
    encoders = fit_encoders(table, run.splits)
    run.folds = [
        Fold(number, split, encoder) for number, (split, encoder) in enumerate(zip(run.splits, encoders, strict=True))
    ]
    run.plan = make_plan(options, run.splits, table.label, encoders[0].width, run.decisions, run.precision.value)
    run.linear = fit_linear(table, run.folds)
    plan, decisions = run.plan, run.decisions
    nets = f", {len(encoders)} nets" if len(encoders) > 1 else ""
    run.say(
        f"Device     {run.device.name}",
        f"Model      {options.architecture}: {plan.width} inputs, hidden units {', '.join(map(str, plan.units))}{nets}",
        f"Batch      {plan.batch_size} rows ({decisions.batch_size.reason})",
        f"Patience   {decisions.patience.value} epochs ({decisions.patience.reason})",
        f"XLA        {'on' if plan.xla else 'off'}: {decisions.xla.reason}",
        f"Precision  {run.precision.value}: {run.precision.reason}",
    )
    if options.class_weight == "balanced":
        run.say(
            "Weights    classes are balanced: probabilities are those of a world in which both are equally frequent"
        )


def first_weights(run: Run, fold: Fold) -> Any:
    """Where a net starts: hidden layers drawn at random, the output layer as the logistic regression."""
    linear = run.linear[fold.number].copy()
    zero, one = run.plan.class_weights
    linear[-1] += math.log(one / zero)
    lit = lit_inputs(run.table, fold.encoder, fold.split.training)
    return initial_weights(run.plan.units, run.plan.width, lit, [run.options.seed, 3, fold.number], linear)


def train(run: Run, stop: StopRequest) -> list[Live]:
    """Train all nets, with progress, checkpoints and logs."""
    options, tf, plan = run.options, run.tf, run.plan
    inputs = table_inputs(tf, run.table)
    nets = [
        start_net(tf, plan, fold, first_state(tf, plan, first_weights(run, fold), options.learning_rate))
        for fold in run.folds
    ]
    if run.interrupted:
        if len(run.interrupted[0]["nets"]) != len(nets):
            raise damaged(options.model_dir / RESUME_FILE, " (number of nets)")
        for number, net in enumerate(nets):
            unpack_state(tf, net, number, options.epochs, *run.interrupted)
        run.say(f"Resuming   after epoch {max(len(net.history) for net in nets)}")
    before = sum(len(net.history) for net in nets)
    program = build_program(tf, plan, run.folds[0].encoder)
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:  # XLA compiles while the model is built
        compiled = pool.submit(compile_program, tf, plan, program, inputs, nets[0])
        run.model = build_model(run.table, run.encoders, ARCHITECTURES[options.architecture], plan.momentum)
        run.template = model_archive(run.model)
        run.events = open_events(run, nets)
        compiled.result()
    run.timing["compile_s"] = time.perf_counter() - started
    progress = Progress(options.epochs, run.output)
    checkpoints = (
        Checkpoints(options.model_dir / "checkpoints", options.keep_checkpoints, run.archive)
        if options.checkpoints
        else None
    )
    profile = Profile(tf, run.events.folder / "train") if options.profile and run.events else None
    if profile and not metadata_version("xprof"):
        run.say(
            "Profile    TensorBoard shows profiles with the package xprof (pip install xprof), which is not installed"
        )

    logs = run.events.folder.name if run.events else ""
    digest = run.interrupted[0]["fingerprint"] if run.interrupted else fingerprint(run.table)
    state = StateFile(
        options.model_dir / RESUME_FILE, {"arguments": run.arguments, "fingerprint": digest, "logs": logs}
    )

    def on_epoch(epoch: int, nets: list[Live]) -> None:
        progress.epoch(epoch, mean_logs(nets, epoch))
        if checkpoints and all(net.best for net in nets) and any(net.best_epoch == epoch for net in nets):
            accuracy = sum(net.history[net.best_epoch - 1]["val_accuracy"] for net in nets) / len(nets)
            checkpoints.offer(epoch, accuracy, [net.best for net in nets])
        if run.events:
            run.events.epoch(epoch, nets)

    started = time.perf_counter()
    try:
        train_nets(tf, plan, program, inputs, nets, options.epochs, on_epoch, stop, profile, state.offer)
        if stop.signal:
            state.offer(nets, now=True)
            run.resumable = not state.failure
        run.timing["train_s"] = time.perf_counter() - started
    finally:
        progress.close()
        if profile:
            profile.close()
        if state.failure:
            run.say(f"Resume     the state could not be saved: {state.failure}")
        if checkpoints:
            checkpoints.close()
            run.checkpoint = checkpoints.files[-1] if checkpoints.files else None
            if checkpoints.failure:
                run.say(f"Checkpoints could not be written: {checkpoints.failure}")
    epochs = sum(len(net.history) for net in nets) - before
    run.timing["rows_per_s"] = epochs * plan.rows / run.timing["train_s"]
    run.timing["steps_per_s"] = run.timing["rows_per_s"] / plan.batch_size
    return nets


def open_events(run: Run, nets: list[Live]) -> EventLog | None:
    options = run.options
    if not options.tensorboard:
        return None
    if not metadata_version("tensorboard"):
        run.say(
            "TensorBoard: the package tensorboard is not installed (pip install tensorboard); going on without logs"
        )
        return None
    try:
        folder = (
            run.interrupted
            and run.interrupted[0]["logs"]
            and options.model_dir / "logs" / Path(run.interrupted[0]["logs"]).name
        )
        if folder and folder.is_symlink():
            raise OSError(errno.ELOOP, "the folder of the run is a link, which is not followed")
        events = EventLog(
            folder or run_folder(options.model_dir / "logs", options.architecture), run.plan, options.epochs
        )
    except Exception as error:  # of TensorFlow's kinds or the system's, depending on how TensorBoard was installed
        words = getattr(error, "strerror", None) or str(error).splitlines()[0]
        run.say(f"TensorBoard: {options.model_dir / 'logs'}: {words}; going on without logs")
        return None
    events.fixed = [encode_sparse(run.table, fold.encoder, fold.split.validation[:256]) for fold in run.folds]
    if run.interrupted:
        done = max(len(net.history) for net in nets)
        events.drawn = done - done % events.every
    else:
        events.graphs(run.tf, run.model, nets[0])
        events.text("data", show_data(options, run.table, run.splits))
    return events


def log_results(
    run: Run, lives: list[Live], step: int, parts: dict[str, Prediction], metrics: dict[str, Any], report: list[str]
) -> None:
    """What TensorBoard shows of a run once it is over."""
    run.events.histograms(max(len(net.history) for net in lives), lives)
    for name, part in parts.items():
        run.events.curve(f"pr_curve/{name}", step, *part)
    run.events.text("calibration", show_calibration(*parts["test"], metrics["test"]["confusion"]))
    names = ("accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc", "log_loss", "brier", "ece")
    results = {f"test/{name}": metrics["test"][name] for name in names if metrics["test"][name] is not None}
    run.events.trial(metrics["settings"], results, step)
    width = max(len(name) for name in metrics["settings"])
    run.events.text(
        "settings",
        [
            f"{name:<{width}}  {value}"
            for name, value in metrics["settings"].items()
            if name not in ("columns", "reasons")
        ],
    )
    run.events.text("report", report)


class Prediction(NamedTuple):
    """Probabilities of rows that took no part in training or stopping the net that made them."""

    label: Any
    probability: Any


def predict_part(run: Run, nets: list[Net], part: str) -> tuple[Any, Any]:
    """Labels and logits of the validation or the test rows of all folds."""
    rows = [getattr(fold.split, part) for fold in run.folds]
    logits = [
        net_logits(run.table, fold.encoder, run.plan.units, net, piece)
        for fold, net, piece in zip(run.folds, nets, rows, strict=True)
    ]
    return run.table.label[np.concatenate(rows)], np.concatenate(logits)


def calibrate(run: Run, nets: list[Net]) -> tuple[list[Net], float]:
    """Divide the logits of all nets by a temperature fitted on validation rows."""
    temperature = fit_temperature(*predict_part(run, nets, "validation"))
    size = run.plan.units[-1] + run.plan.width + 1  # the output layer's weights, the last of the vector
    calibrated = []
    for net in nets:
        weights = net.weights.copy()
        weights[-size:] /= temperature
        calibrated.append(net._replace(weights=weights))
    return calibrated, temperature


def stopped(run: Run, lives: list[Live], number: int) -> int:
    """Say what is left of a run that a signal or its loss ended; the files of the last whole run stay as they are."""
    options, failed = run.options, next((net.reason for net in lives if net.failed), "")
    parts = [f"error: {failed}; try a smaller --learning-rate" if failed else f"stopped: {signal.Signals(number).name}"]
    if failed:
        (options.model_dir / RESUME_FILE).unlink(missing_ok=True)
    elif run.resumable:
        parts.append(
            "go on with --resume" + ("" if str(options.model_dir) == "model" else f" --model-dir {options.model_dir}")
        )
    if run.checkpoint:
        parts.append(f"the best model so far is {run.checkpoint}")
    if (options.model_dir / METRICS_FILE).exists():
        parts.append(f"the last whole run in {options.model_dir} is as it was")
    complain("; ".join(parts))
    return 128 + number if number else 1


def finish(run: Run, lives: list[Live], stop: StopRequest) -> int:
    """Test the model, say what came of it, and put it and all that belongs to it into their places together."""
    options, table, plan, folder = run.options, run.table, run.plan, run.options.model_dir
    if stop.signal or any(net.failed for net in lives):
        return stopped(run, lives, stop.signal)
    nets, temperature = calibrate(run, [net.best if plan.patience else net.now for net in lives])
    run.nets = nets
    label, logits = predict_part(run, nets, "validation")
    threshold = choose_threshold(options.threshold, label, sigmoid(logits))
    longest = max(lives, key=lambda net: len(net.history))
    if len(lives) == 1:
        run.say(f"Trained    {len(longest.history)} epochs, the best was {longest.best_epoch}: {longest.reason}")
    else:
        epochs, bests = [len(net.history) for net in lives], [net.best_epoch for net in lives]
        run.say(
            f"Trained    {len(lives)} nets for {min(epochs)} to {max(epochs)} epochs, the best were {min(bests)} to {max(bests)}"
        )
    validation = Prediction(label, sigmoid(logits))
    label, logits = predict_part(run, nets, "test")
    tested = Prediction(label, sigmoid(logits))
    test = measure(label, tested.probability, threshold.value, options.seed)
    bases = {
        name: measure(label, values, 0.5, options.seed)
        for name, values in baselines(table, run.folds, run.linear).items()
    }
    columns = importance(table, run.folds, plan.units, nets, options.seed)
    report = [*show_result(test, bases, threshold, len(nets)), *show_thresholds(*validation), *show_importance(columns)]
    run.say("", *report)
    first = run.splits[0]
    parts = {"train": len(first.training), "validation": len(first.validation), "test": len(label)}
    metrics = {
        "rows": {"read": table.read, "used": len(table.label), "skipped": table.skipped, **parts},
        "test": test,
        "baselines": bases,
        "threshold": threshold.value,
        "temperature": temperature,
        "importance": columns,
        "epochs": len(longest.history),
        "best_epoch": longest.best_epoch,
        "settings": resolved_settings(run, threshold),
        "timing": run.timing,
        "versions": {"python": platform.python_version(), "script": VERSION}
        | {name: metadata_version(name) for name in ("tensorflow", "keras", "numpy", "pandas", "tensorboard")},
    }
    try:
        failed = export(run, threshold.value)
        write_beside(folder / MODEL_FILE, run.archive(nets, threshold.value))
        write_beside(folder / PREDICTIONS_FILE, prediction_rows(run, tested))
        if run.events:
            log_results(run, lives, longest.best_epoch, {"validation": validation, "test": tested}, metrics, report)
            run.events.close()
            if run.events.failure:
                run.say(f"TensorBoard: the logs are incomplete: {run.events.failure}")
        card = not os.path.lexists(folder / CARD_FILE) or is_ours(
            folder / CARD_FILE
        )  # a README.md of the user's own stays
        if card:
            write_beside(folder / CARD_FILE, model_card(run, metrics, report).encode())
        run.timing["total_s"] = time.perf_counter() - STARTED
        write_beside(folder / METRICS_FILE, json.dumps(metrics, indent=2).encode())
        refuse_foreign(folder, options.export)  # what has come meanwhile
        stop.committing = True
        commit(folder, [name for name in RESULT_FILES if os.path.lexists(beside(folder / name))])
    except BaseException:
        for name in RESULT_FILES:
            remove(beside(folder / name))
        raise
    (folder / RESUME_FILE).unlink(missing_ok=True)
    say_where(run, card)
    for words in failed:
        complain(f"error: {words}; the model and its metrics are saved")
    return 1 if failed else 0


def prediction_rows(run: Run, tested: Prediction) -> bytes:
    """predictions.csv: every tested row by its line, and what the net that never saw it says of it."""
    table, names = run.table, run.table.names
    rows = np.concatenate([fold.split.test for fold in run.folds])
    folds = np.repeat([fold.number + 1 for fold in run.folds], [len(fold.split.test) for fold in run.folds])
    order = np.lexsort([table.lines[rows], table.files[rows]])
    first = 0 if len(names) > 1 else 1
    quoted = ['"' + name.replace('"', '""') + '",' if first == 0 else "" for name in names]
    parts = (table.files[rows], table.lines[rows], folds, *tested)
    written = [b",".join(PREDICTION_COLUMNS[first:]) + b"\n"]
    for piece in row_pieces(order):
        cells = zip(*(part[piece].tolist() for part in parts), strict=True)
        written.append(
            "".join(
                f"{quoted[file]}{line},{fold},{label:.0f},{probability:.9g}\n"
                for file, line, fold, label, probability in cells
            ).encode()
        )
    return b"".join(written)


def say_where(run: Run, card: bool) -> None:
    """Name what the run has left, and what would be worth trying."""
    options, folder, table, timing = run.options, run.options.model_dir, run.table, run.timing
    run.say(
        "",
        f"Model      {folder / MODEL_FILE}",
        f"Metrics    {folder / METRICS_FILE}",
        f"Tested     {folder / PREDICTIONS_FILE}",
    )
    run.say(f"Card       {folder / CARD_FILE}{'' if card else ' is a file of your own and was left as it is'}")
    for name, (file, _) in EXPORTS.items():
        if name not in options.export and os.path.lexists(folder / file):
            run.say(f"Export     {folder / file} is of an earlier run; --export {name} writes it anew")
    if run.events:
        run.say(f"Logs       tensorboard --logdir {folder / 'logs'}")
    if options.split == "time":
        run.say(
            "Split      by time: neighbouring rows are alike, so that the same model tested on rows drawn at random would look better than it is"
        )
    if len(run.nets) == 1 and options.split == "random" and len(table.label) < 2_000:
        steps = 10 * (0.8 / 0.7) * timing["steps_per_s"] * timing["train_s"]
        seconds = min(steps * STEP_SECONDS_WITHOUT_XLA, XLA_COMPILE_SECONDS + steps * STEP_SECONDS_WITH_XLA)
        cost = f"about {seconds:.1f} s of training"
        run.say(
            f"Hint       --folds 10 would test on all {len(table.label):,} rows, cost {cost}, and usually gains accuracy at this size"
        )
    run.say(
        f"Time       {timing['total_s']:.1f} s, of which training {timing['train_s']:.2f} s ({timing['rows_per_s']:,.0f} rows/s)"
    )


def export(run: Run, threshold: float) -> list[str]:
    """Write the formats asked for beside their places and compare each, run by its own runtime, with the model.

    Gives what failed and why; that is not kept.
    """
    options, failed = run.options, []
    if not options.export:
        return failed
    rows = np.concatenate([fold.split.test for fold in run.folds])[:1_000]
    raw, expected = raw_inputs(run.table, rows), run.probabilities(rows)
    parts = (run.table, run.plan, run.encoders, run.nets)
    for name in dict.fromkeys(options.export):
        path = options.model_dir / EXPORTS[name][0]
        try:
            new = export_model(
                run.tf,
                name,
                path,
                lambda doubles: portable_function(run.tf, *parts, doubles),
                lambda: onnx_model(*parts, threshold),
            )
            gap = np.abs(exported_probabilities(run.tf, name, new, raw) - expected).max()
            reason = "" if gap <= 1e-5 else f"its probabilities differ by up to {gap:.1g}"
        except Exception as error:  # each converter raises kinds of its own
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if reason:
            remove(beside(path))
            failed.append(f"--export {name} failed ({reason})")
        else:
            run.say(f"Export     {path}: probabilities of {len(rows):,} test rows agree within {gap:.0e}")
    return failed


def resolved_settings(run: Run, threshold: Choice) -> dict[str, Any]:
    """Every setting as it was used, and the reason where one was chosen for the user."""
    settings = {name: value for name, value in vars(run.options).items() if name != "describe"}
    settings |= {"csv": short_names(run.options.csv), "model_dir": run.options.model_dir.name}
    chosen = run.decisions._asdict() | {"precision": run.precision, "threshold": threshold}
    settings |= {name: choice.value for name, choice in chosen.items()}
    settings |= {"device": run.device.name, "columns": {column.name: column.kind for column in run.table.columns}}
    return settings | {"reasons": {name: choice.reason for name, choice in chosen.items()}}


def train_command(arguments: list[str] | None) -> int:
    started = time.perf_counter()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options, interrupted = parse_options(arguments), None
    if options.resume:
        options, *interrupted = resumed_options(given_flags(arguments), options.model_dir)
        arguments = interrupted[0]["arguments"]
    table = load_data(options)
    splits = split_table(options, table)
    output = Output(options.quiet and not options.describe)
    if options.describe:
        output.say(*show_data(options, table, splits), "", *describe_columns(table))
        return 0 if not output.failure else output_failed(output)
    if interrupted and interrupted[0]["fingerprint"] != fingerprint(table):
        raise UserError(
            f"--resume: {data_name(options)} is not, or no longer, the data of the interrupted run; leave --resume out to train on it"
        )
    prepare_folder(options.model_dir)
    refuse_foreign(options.model_dir, options.export)
    timing = {"load_s": time.perf_counter() - started}
    run = Run(options, table, splits, decide(options, splits), timing, output, arguments=arguments)
    run.interrupted = tuple(interrupted) if interrupted else None
    stop = StopRequest()
    with lock_folder(options.model_dir), stop_on_signals(stop):
        run.say(*show_data(options, table, splits))
        if warning := shared_warning(options.model_dir):
            run.say(f"Warning    {warning}")
        if not interrupted and (options.model_dir / RESUME_FILE).exists():
            run.say(
                "           note: an interrupted run was in the model directory; this one starts anew (--resume would have gone on)"
            )
            (options.model_dir / RESUME_FILE).unlink()
        try:
            prepare(run)
            code = finish(run, train(run, stop), stop)
        finally:
            if run.events:
                run.events.close()
    return code if not output.failure else code or output_failed(output)


def output_failed(output: Output) -> int:
    complain(f"error: standard output: {output.failure}; all else is done")
    return 1


def missing_package(error: ModuleNotFoundError) -> str:
    return f"error: the package {error.name} is not installed for {sys.executable}; use .venv/bin/python, or pip install -r requirements-cpu.txt"


def tell_errors(command: Callable[[], int]) -> int:
    """The exit code of a command; what goes wrong in it is told in one line."""
    prepare_streams()
    try:
        return command()
    except UserError as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt as error:
        number = getattr(error, "signal", signal.SIGINT)
        complain(f"stopped: {signal.Signals(number).name}; what whole runs have left is as it was")
        return 128 + number
    except MemoryError as error:
        complain(
            f"error: not enough memory{f' ({error})' if str(error) else ''}; end other programs, raise the limit (ulimit -v), or give fewer rows"
        )
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        complain(f"error: {place}{error.strerror or error}; what whole runs have left is as it was")
        return 1
    except ModuleNotFoundError as error:
        complain(missing_package(error))
        return 1


def main(arguments: list[str] | None = None) -> int:
    return tell_errors(lambda: train_command(arguments))


def run_command(command: Callable[[], int]) -> None:
    """Run a command and end the process with its exit code, without the 0.4 s that TensorFlow takes to be torn down."""
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))  # where the command does not handle it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = command()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run_command(main)
