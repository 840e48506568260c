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
"""Train a small Keras network on HARVEST.CSV and report how far it can be trusted.

    python train_model_modern.py /tmp/HARVEST.CSV
    python train_model_modern.py /tmp/HARVEST.CSV --architecture deep
    python train_model_modern.py /tmp/HARVEST.CSV --folds 1
    python train_model_modern.py --sample
    tensorboard --logdir model/logs

The model, its metrics, checkpoints and logs are written to --model-dir (default: model). Nothing leaves the machine.
pandas is imported once the command line is understood, TensorFlow once the data is.

The sections, in the order in which things happen:

    Settings                           architectures, files, flags
    Data: what a cell means            a number, an id, a text or missing: the same here, in predict.py and in exports
    Data: lines                        the structure of a file, line by line, before anything is read from it
    Data: columns                      what each column is; the rows as one Table
    Data: split and encoding           training, validation and test rows; how a row becomes inputs of the network
    Decisions taken for the user, ...  batch size, patience, XLA, precision, each with its reason
    Model                              build_network; the saved Keras model made of it
    Training                           the same network as one compiled program of whole epochs
    Logging                            what is printed, TensorBoard
    Evaluation                         measures, intervals, calibration, a logistic regression to compare with
    Files: whole or not at all         put into place together or not at all; nobody else's are touched
    Checkpoints and resuming           what an interrupted run leaves
    What the user reads                what is printed of the data and the results; report.py makes more of them
    Who trains                         one process, or several workers with distributed.py
    A run: data and decisions          from the command line to the plan of the training program
    A run: training                    the networks built, the program compiled, the callbacks, an early end
    A run: results                     the model tested; everything written that belongs to it
    Main                               all of it in order
"""

from __future__ import annotations

import sys

if (PYTHON := sys.version_info[:2]) < (3, 11):  # PYTHON 3.11 OR LATER IS NEEDED (one below 3.8 shows this line)
    needed = "error: Python 3.11 or later is needed, and {} is Python {}.{}; activate the virtual environment"
    sys.exit(needed.format(sys.executable, *PYTHON) + " or install a newer Python")

import argparse
import codecs
import contextlib
import csv
import errno
import functools
import gc
import hashlib
import importlib.util
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
import tempfile
import textwrap
import time
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from itertools import compress, islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    import keras
    import pandas as pd
    import tensorflow as tf
    from numpy.typing import ArrayLike

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))  # until main() can say more


def missing_package(error: ModuleNotFoundError) -> str:
    what = f"error: the package {error.name} is not installed for {sys.executable}"
    activate = r".venv\Scripts\activate" if os.name == "nt" else ". .venv/bin/activate"
    return f"{what}; activate the virtual environment ({activate}) or run pip install -r requirements-cpu.txt"


try:
    import numpy as np
except ModuleNotFoundError as error:
    sys.exit(missing_package(error))

STARTED = time.perf_counter()
VERSION = "1.6.0"

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
REPORT_FILE = "report.html"
REPORT_START = "<!doctype html>\n<!-- Report of train_model_modern.py"
PREDICTIONS_FILE = "predictions.csv"
PREDICTION_COLUMNS = [b"file", b"line", b"fold", b"label", b"probability"]
RESUME_FILE = "resume.npz"
LOCK_FILE = ".lock"
MINIMUM_LEARNING_RATE = 0.00001
WEIGHT_DECAY = 0.1
EXPORTS = {  # what --export writes, and the packages it takes
    "saved_model": ("productivity_model_saved_model", ()),
    "litert": ("productivity_model.tflite", ("ai-edge-litert",)),
    "onnx": ("productivity_model.onnx", ("onnx", "onnxruntime")),
}
RESULT_FILES = [MODEL_FILE, PREDICTIONS_FILE, CARD_FILE, REPORT_FILE]
RESULT_FILES += [*(file for file, _ in EXPORTS.values()), METRICS_FILE]


def threshold_rule(text: str) -> tuple[str, float | None]:
    """A way to choose the threshold: (name, its number)."""
    if text in ("f1", "balanced"):
        return text, None
    name, _, value = text.partition("=")
    with contextlib.suppress(ValueError, argparse.ArgumentTypeError):
        if name == "cost":
            false_positive, false_negative = map(positive_number, value.split(":"))
            number = false_positive / (false_positive + false_negative)
        elif name in ("precision", "recall"):
            number = float(value)
        else:
            name, number = "fixed", float(text)
        if 0 < number < 1:
            return name, number
    rules = "a number between 0 and 1, f1, balanced, precision=0.9, recall=0.9 or cost=FP:FN"
    raise argparse.ArgumentTypeError(f"takes {rules}, not {text}")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        """Tell what is wrong with the command line in one sentence, and which flags may have been meant."""
        message = re.sub(r"^argument ([^:]+): (?=takes )", r"\1 ", message).removeprefix("argument ")
        if message.startswith("unrecognized arguments"):
            from difflib import get_close_matches

            given = [word.partition("=")[0] for word in message.split() if word.startswith("-")]
            meant = [flag for word in given for flag in get_close_matches(word, self._option_string_actions, 1)]
            message += f" (did you mean {' or '.join(meant)}?)" if meant else ""
        raise UserError(f"{message}; --help lists the flags")


def whole_number(text: str, what: str = "a whole number of 1 or more", least: int = 1, most: int = 10**18) -> int:
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"takes {what}, not {text}")
    return int(text)


def seed_number(text: str) -> int:
    return whole_number(text, f"a whole number from 0 to {2**31 - 1:,}", 0, 2**31 - 1)


def fold_count(text: str) -> int | str:
    return text if text == "auto" else whole_number(text, "a whole number of 1 or more, or auto")


def positive_number(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)) and value > 0:
            return value
    raise argparse.ArgumentTypeError(f"takes a number above 0, not {text}")


SWITCH: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
COUNT: dict[str, Any] = {"type": whole_number, "metavar": "N"}


def flag(group: Any, name: str, default: object, text: str, **settings: Any) -> None:
    """Add a flag to a group; its help ends with its default. True and False make a pair, --x and --no-x."""
    shown = default
    if isinstance(default, bool):
        settings |= SWITCH
        shown = "on" if default else "off"
    group.add_argument(name, default=default, help=f"{text} (default: {shown})", **settings)


def build_parser() -> Parser:
    purpose = "Train a small Keras network on HARVEST.CSV and report how far it can be trusted."
    parser = Parser(prog="train_model_modern.py", description=purpose, allow_abbrev=False)
    path = os.path.join(tempfile.gettempdir(), "HARVEST.CSV")
    text = f"the CSV file to train on; several files, or a directory of them, are read as one table (default: {path})"
    parser.add_argument("csv", nargs="*", default=[path], metavar="CSV", help=text)
    add_data_flags(parser)
    add_training_flags(parser)
    add_output_flags(parser)
    return parser


def add_data_flags(parser: Parser) -> None:
    rows = functools.partial(whole_number, what="a number of rows")
    columns = {"nargs": "+", "default": [], "metavar": "COLUMN"}
    group = parser.add_argument_group("model")
    flag(group, "--architecture", "standard", "hidden layers of 8 / 10, 10 / 16, 12, 8 units", choices=ARCHITECTURES)
    flag(group, "--model-dir", "model", "the directory for everything that is written", type=Path, metavar="DIR")
    group = parser.add_argument_group("data")
    text = "train on N generated rows, for a first try without data of your own (N: 500 if left out)"
    group.add_argument("--sample", nargs="?", const=500, help=text, type=rows, metavar="N")
    flag(group, "--label", "productive", "the column to predict; it holds 0 and 1", metavar="COLUMN")
    group.add_argument("--categorical", help="columns to read as categories", **columns)
    group.add_argument("--numeric", help="columns to read as numbers", **columns)
    group.add_argument("--drop", help="columns to ignore", **columns)
    text = "train K nets by cross-validation, so that every row is tested, and save their mean; 1: one net; "
    text += f"auto: {ENSEMBLE} up to {ENSEMBLE_ROWS:,} rows, 1 above that and where {ENSEMBLE} would take long"
    flag(group, "--folds", "auto", text, type=fold_count, metavar="K")
    flag(
        group,
        "--split",
        "random",
        "random; time: train on earlier rows, test on the latest",
        choices=("random", "time"),
    )
    text = "the column that --split time sorts by (default: a timestamp found in the data)"
    group.add_argument("--time-column", metavar="COLUMN", help=text)
    flag(group, "--split-seed", 42, "seed of the split, and of the rows of --sample", type=seed_number, metavar="N")
    text = "leave out rows that cannot be used, and say how many"
    group.add_argument("--skip-bad-rows", default=False, help=text, **SWITCH)


def add_training_flags(parser: Parser) -> None:
    group = parser.add_argument_group("training")
    flag(group, "--epochs", 150, "the maximum number of epochs; early stopping may end training sooner", **COUNT)
    group.add_argument("--batch-size", help="rows per step (default: chosen from the number of rows)", **COUNT)
    group.add_argument("--learning-rate", type=positive_number, metavar="X", help="initial rate (default: 0.006)")
    flag(group, "--seed", 42, "seed of the initial weights, row order and dropout", type=seed_number, metavar="N")
    flag(group, "--adamw", True, "optimise with AdamW; off: with Adam")
    flag(group, "--reduce-lr", True, "halve the learning rate when the validation loss stops falling")
    flag(
        group, "--early-stopping", True, "stop when the validation loss has stopped falling, and keep the best weights"
    )
    flag(group, "--class-weight", "none", "balanced: give the rarer class more weight", choices=("none", "balanced"))
    text = "predict 1 at or above this probability: a number, f1, balanced, precision=X, recall=X or cost=FP:FN"
    flag(group, "--threshold", "0.5", text, type=threshold_rule, metavar="RULE")
    flag(group, "--resume", False, "continue the interrupted run in the model directory")
    group = parser.add_argument_group("several machines (named by TF_CONFIG; see docs/distributed.md)")
    text = "average the weights of all machines after at most N steps (default: from measured times)"
    group.add_argument("--sync-every", help=text, **COUNT)
    text = "allow TensorFlow's traffic between machines, which has neither encryption nor passwords"
    flag(group, "--trust-network", False, text)
    group = parser.add_argument_group("speed")
    flag(group, "--cpu-only", False, "use no GPU")
    group.add_argument("--mixed-precision", help="16-bit matrix products (default: where they are faster)", **SWITCH)
    group.add_argument("--xla", help="compile with XLA (default: when the run is long enough)", **SWITCH)


def add_output_flags(parser: Parser) -> None:
    kept = functools.partial(whole_number, what="a whole number of 0 or more", least=0)
    group = parser.add_argument_group("output")
    flag(group, "--checkpoints", True, "save the model at each new best epoch")
    text = "keep the newest N checkpoints of this run, 0: all; those of earlier runs stay"
    flag(group, "--keep-checkpoints", 5, text, type=kept, metavar="N")
    flag(group, "--tensorboard", True, "write logs for TensorBoard")
    flag(group, "--profile", False, "profile ten epochs for TensorBoard's Profile tab")
    text = f"also write the model in other formats: {', '.join(EXPORTS)}"
    group.add_argument("--export", nargs="+", choices=EXPORTS, default=[], metavar="FORMAT", help=text)
    flag(group, "--describe", False, "summarise the data; nothing is trained or written")
    text = "rank the results of runs, the best first; nothing is trained (default: of all directories here)"
    group.add_argument("--compare", nargs="*", metavar="DIR", help=text)
    group.add_argument("--quiet", default=False, help="print errors only", **SWITCH)
    group.add_argument("--version", action="version", version=VERSION)


def given_flags(arguments: list[str] | None) -> dict[str, object]:
    """The flags that were given, without the defaults of the others."""
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(arguments))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    options = build_parser().parse_args(arguments)
    if options.sample and "csv" in given_flags(arguments):
        raise UserError("a CSV and --sample were both given; leave one of them out")
    columns = options.categorical + options.numeric + options.drop
    files = [name for name in columns if name.lower().endswith(".csv") and os.path.isfile(name)]
    if files and not options.sample and "csv" not in given_flags(arguments):
        raise UserError(f"{files[0]} was taken for the name of a column; give the file before the flags")
    if options.profile and not options.tensorboard:
        raise UserError("--profile writes to the logs that --no-tensorboard turns off; leave one of them out")
    if (rate := options.learning_rate) and rate < MINIMUM_LEARNING_RATE:
        raise UserError(f"--learning-rate {rate:g} is below {MINIMUM_LEARNING_RATE:g}, the smallest rate used")
    if options.folds == 2:
        raise UserError("--folds 2 leaves no rows to train on: validation and testing take a fold each; give 3 or more")
    if options.time_column is not None and options.split != "time" and not options.resume:
        raise UserError("--time-column has no effect without --split time; add that, or leave --time-column out")
    check_exports(options.export)
    if options.export:
        import_beside("export_model")  # what is wrong with it shows before training
    return options


def check_exports(names: list[str]) -> None:
    """Refuse formats that take what is not there."""
    for name in names:
        if absent := [package for package in EXPORTS[name][1] if not metadata_version(package)]:
            raise UserError(f"the format {name} needs {' and '.join(absent)}: pip install {' '.join(absent)}")
    if names and not script_beside("export_model").is_file():
        where = "put it there, or leave --export out"
        raise UserError(f"--export is done by export_model.py, which is not beside {Path(__file__).name}; {where}")


# ---------------------------------------------------------------------------------------------------------------------
# Data: what a cell means

MISSING = -(2**63)  # an empty cell among integer ids
UNSEEN = MISSING + 1  # among integer ids, text that is no id: it cannot have been seen in training
LARGEST_NUMBER = float(np.finfo(np.float32).max)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
INTEGER = re.compile(r"(-?[1-9]\d{0,18}|0)(\.0+)?", re.ASCII)  # 5.0 is 5, as programs write ids beside empty cells
DIGITS = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)  # an id of any length and with zeros in front, perhaps kept as text
DATE = re.compile(r"\d{4}-\d\d-\d\d|\d{1,2}[./]\d{1,2}[./]\d{2,4}")
TIME = re.compile(  # ISO 8601: a date, perhaps a time of day, perhaps its zone
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)? ?(Z|[+-]\d\d(:?\d\d)?)?)?", re.ASCII
)
LABELS = {"0": 0, "0.0": 0, "false": 0, "no": 0, "1": 1, "1.0": 1, "true": 1, "yes": 1}


def cell_number(cell: str) -> float:
    """The number a cell means: NaN for an empty cell, infinity for what is no number or is beyond 3.4e38."""
    text = cell.strip()
    if not text:
        return math.nan
    value = float(text) if NUMBER.fullmatch(text) else math.inf
    return value if abs(value) <= LARGEST_NUMBER else math.inf


def cell_id(cell: str) -> int:
    """The integer id a cell means: MISSING for an empty cell, UNSEEN for what is no integer of 64 bits."""
    text = cell.strip()
    if not text:
        return MISSING
    value = int(text.partition(".")[0]) if INTEGER.fullmatch(text) else UNSEEN
    return value if MISSING + 8 <= value < 2**63 else UNSEEN  # what lies below is kept for cells that are no ids


def cell_time(cell: str) -> float:
    """The time a cell means, a number or seconds since 1970: NaN for an empty cell, infinity for what is no time."""
    text = cell.strip()
    if not TIME.fullmatch(text):
        return cell_number(cell)
    try:
        moment = datetime.fromisoformat(text[:11] + text[11:].replace(" ", ""))
    except ValueError:  # the 30th of February
        return math.inf
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


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
csv.field_size_limit(LONGEST_LINE)


class Source(NamedTuple):
    """What pandas is given, and how its rows map to lines of the file."""

    path: str
    names: list[str]
    content: str | None  # None: pandas reads the file itself; otherwise quoted text, put right by the csv module
    skip: list[int]  # lines of the file, from 0, that pandas leaves out
    lines: np.ndarray  # int: the line number, from 1, of each data row
    notes: list[str]
    skipped: int
    torn: bool  # the file ends without a line end: its last line may be cut off
    part: Part | None = None  # the lines that are read, when that is not all


def name_some(lines: np.ndarray) -> str:
    shown = ", ".join(map(str, lines[:5])) + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")
    return f"line {shown}" if len(lines) == 1 else f"lines {shown}"


def refuse(subject: str, *faults: tuple[object, str]) -> None:
    """Raise UserError with the message of the first fault, a pair (condition, message), whose condition holds."""
    for holds, message in faults:
        if holds:
            raise UserError(f"{subject}: {message}")


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
    separators = {";": "semicolons", "\t": "tabs", "|": "bars"}
    other = next((name for sign, name in separators.items() if first.count(sign) > first.count(",")), "")
    refuse(
        path,
        (start.startswith((b"\xff\xfe", b"\xfe\xff")), "line 1 starts as UTF-16 text; save the file as UTF-8"),
        (start.startswith((b"\x1f\x8b", b"PK\x03\x04")), "is compressed; unpack it first"),
        (b"\0" in start, "line 1 holds a NUL byte: the file is not UTF-8 text; save the table as UTF-8 CSV"),
        (not start, "the file is empty; let the harvester write some rows first"),
        (ESCAPED.search(first), "line 1 is not UTF-8 text; save the file as UTF-8"),
        (not first.strip(), "line 1 is empty; it must hold the column names"),
        ("\r" in first, "line 1 ends with a carriage return alone; save the file with line feeds"),
        (other, f"line 1 is separated by {other}; save the file with commas"),
    )
    return first


class Part(NamedTuple):
    """A run of whole lines of a file, when several workers share it."""

    start: int  # in bytes
    end: int
    before: int = 0  # lines of the file before it


def open_part(path: str, part: Part | None) -> io.BufferedReader:
    """A file to read bytes from, which ends where the part does."""
    if not part:
        return open(path, "rb")

    class Raw(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            return super().readinto(memoryview(buffer)[: max(0, part.end - self.tell())])

    raw = Raw(path)
    raw.seek(part.start)
    return io.BufferedReader(raw, BLOCK_BYTES)


def scan_lines(path: str, first: bytes, part: Part | None = None) -> tuple[np.ndarray, np.ndarray, bool, bool]:
    """Count the fields of each line, find the first line in others, and refuse what no file may hold.

    Gives: int32 array, 0 for an empty line; lines, from 0, that equal the first; any quotes; does the last line end.
    """
    counts, same, quotes, before, text = [], [np.empty(0, int)], False, 0, b""
    skipped = part.before if part else 0
    with open_part(path, part) as file:
        while piece := file.read(BLOCK_BYTES):
            text = piece + (tail := file.readline(LONGEST_LINE))
            signs = np.frombuffer(text, np.uint8)
            ends = np.flatnonzero(signs == ord("\n"))
            quotes = quotes or b'"' in text
            long = len(tail) == LONGEST_LINE and not tail.endswith(b"\n")
            alone = None if quotes else re.search(rb"\r(?!\n|\Z)", text)  # a last line may be cut off between the two
            for place, fault in (
                (text.find(b"\0"), "holds a NUL byte: the file is damaged or not UTF-8 text; save it as UTF-8 CSV"),
                (len(text) if long else -1, "is longer than 64 MB; this is not a HARVEST.CSV"),
                (alone.start() if alone else -1, "holds a carriage return; save the file with line feeds"),
            ):
                if place >= 0:
                    raise UserError(f"{path}: line {skipped + before + np.searchsorted(ends, place) + 1} {fault}")
            fields = np.diff(np.searchsorted(np.flatnonzero(signs == ord(",")), ends), prepend=0) + 1
            length = np.diff(ends, prepend=-1) - 1
            fields[(length == 0) | ((length == 1) & (signs[ends - 1] == ord("\r")))] = 0
            counts.append(fields.astype(np.int32))
            same.append(np.array(lines_equal_to(first, text, ends), int) + before)
            before += len(ends)
    ended = text.endswith(b"\n")
    if not ended:
        counts.append(np.array([text.count(b",", text.rfind(b"\n") + 1) + 1], np.int32))
    return np.concatenate(counts), np.concatenate(same), quotes, ended


def lines_equal_to(first: bytes, text: bytes, ends: np.ndarray) -> list[int]:
    """The lines, from 0, of a text with these line ends that equal the first, but for what may stand around it."""
    found, place = [], text.find(first)
    while place >= 0:
        line = int(np.searchsorted(ends, place))
        start, end = int(ends[line - 1]) + 1 if line else 0, int(ends[line]) if line < len(ends) else len(text)
        if text[start:end].rstrip(b"\r").removeprefix(codecs.BOM_UTF8) == first:
            found.append(line)
        place = text.find(first, end)
    return found


def read_quoted(path: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Take quoted text apart with the csv module: (records as plain CSV, fields of each, first line number of each)."""
    records, fields, lines, line = [], [], [], 1
    writer = csv.writer(SimpleNamespace(write=str))  # gives what it writes, with a line end, so it quotes line ends
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        reader = csv.reader(file, skipinitialspace=True, strict=True)
        try:
            for record in reader:
                records.append(writer.writerow(record or [""]).removesuffix("\r\n"))
                fields.append(len(record))
                lines.append(line)
                line = reader.line_num + 1
        except csv.Error as error:
            raise UserError(f"{path}: line {line}: {error}; close the quotes or remove them") from None
        except UnicodeDecodeError:
            raise undecodable(path) from None
    return records, np.array(fields, np.int32), np.array(lines)


def column_names(path: str, first: list[str], unlabelled: bool = False) -> tuple[list[str], bool]:
    """The names of the columns and whether the first line holds them: in 2017 it was a row, maybe without its label."""
    cells = [cell.strip() for cell in first]
    if cells and not any(math.isinf(cell_number(cell)) for cell in cells):
        if not len(V0_COLUMNS) - unlabelled <= len(cells) <= len(V0_COLUMNS):
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


def find_source(path: str, skip_bad_rows: bool, unlabelled: bool = False, part: Part | None = None) -> Source:
    """Check the structure of a CSV file, or a part without quotes, every line, before anything is read from it."""
    first, records = check_file(path, unlabelled), []
    fields, same, quotes, ended = scan_lines(path, first.encode(), part)
    before = part.before if part else 0
    lines = np.arange(before + 1, before + len(fields) + 1)
    if quotes:
        records, fields, lines = read_quoted(path)
        first = records[0]
        same = np.array([row for row, record in enumerate(records) if record == first])
    cells = next(csv.reader([first], skipinitialspace=True, strict=True))
    names, header = column_names(path, cells, unlabelled)
    kept, notes = fields > 0, []
    kept[0] &= not header or before > 0
    wrong = kept & (fields != len(names))
    kept &= ~wrong
    bad = without_torn(np.flatnonzero(wrong), lines, not ended, notes)
    if header:
        repeated = same[kept[same]]
        kept[repeated] = False
        if len(repeated):
            notes.append(f"{name_some(lines[repeated])}: the header again, left out")
    if len(bad):
        where = name_some(lines[bad])
        if not skip_bad_rows:
            found = "1 field" if fields[bad[0]] == 1 else f"{fields[bad[0]]} fields"
            fault = f"{found} where {len(names)} are expected"
            raise UserError(f"{path}: {where}: {fault}; fix the rows or leave them out with --skip-bad-rows")
        notes.append(f"{where}: wrong number of fields, left out")
    content = "\n".join([*compress(records, kept), ""]) if quotes else None
    skip = [] if quotes else np.flatnonzero(~kept).tolist()
    return Source(path, names, content, skip, lines[kept], notes, len(bad), not ended, part)


# ---------------------------------------------------------------------------------------------------------------------
# Data: columns

CATEGORY_WORDS = {"app", "apps", "domain", "domains", "hash", "id"}
QUANTITY_WORDS = {"count", "flag", "rate", "share", "distinct", "ms", "60s", "300s", "number", "age", "score"}
TIME_NAMES = {"timestamp", "datetime", "date", "time", "created_at", "updated_at"}
TIMESTAMP = "a timestamp"  # the reason why a column is left out, and may tell the time
TIME_WORDS = {"timestamp", "datetime", "date", "time", "ts", "at", "epoch"}  # in names of numbers that may be times
EARLIEST, LATEST = 631_152_000, 4_102_444_800  # 1990 and 2100, in seconds since 1970; durations are seldom between
FAULTS = {  # of a cell: what is wrong, and what can be done but mend it
    "number": (
        "text, infinity or a number beyond 3.4e38 in a column of numbers; a missing number is an empty cell",
        ", read it with --categorical {name}, leave it out with --drop {name}",
    ),
    "time": ("no time, such as 2026-01-31 09:30:00 or seconds since 1970", ", name another with --time-column"),
    "label": ("the label is missing or not 0 or 1", ", name another column with --label"),
}


@dataclass
class Column:
    name: str
    kind: str  # number, category or dropped
    reason: str = ""
    missing: int = -1  # below 0: never read, so not counted
    distinct: int = -1
    vocabulary: list[int] | list[str] = field(default_factory=list)  # of a category, sorted; MISSING or "": no value
    hint: str = ""

    @property
    def integers(self) -> bool:
        """Of a category: are its values integers, not text."""
        return isinstance(self.vocabulary[0], int)


@dataclass
class Table:
    """The rows of the files. N rows, D numbers, C categories.

    Columns stand in the order of their names. Rows stand in the order of time when that matters, and otherwise, or at
    the same time, in the order of what they hold, so that their order in the files changes nothing.
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
    time: Choice | None = None  # the column that --split time sorts by
    warnings: list[str] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Column]:
        return [column for column in self.columns if column.kind == kind]


class Cells(NamedTuple):
    """All cells of a column: as numbers, or as codes of its texts."""

    values: np.ndarray  # [N]: what cell_number says of each cell, float64, or the code of its text, int32
    texts: dict[str, int] | None = None  # the code of each text, in the order of the codes; 0 is an empty cell

    def numbers(self) -> np.ndarray:
        return self.meanings(cell_number)

    def times(self) -> np.ndarray:
        return in_seconds(self.meanings(cell_time))

    def meanings(self, meaning: Callable[[str], float]) -> np.ndarray:
        return self.values if self.texts is None else np.array([meaning(text) for text in self.texts])[self.values]


def read_chunks(
    source: Source, kinds: dict[str, type], chunk_rows: int = CHUNK_ROWS, keep_spaces: bool = False
) -> Iterator[pd.DataFrame]:
    """Iterate over data frames of columns, of these types; UserError for what is no text, or other rows."""
    import pandas as pd

    rows, given = len(source.lines), source.path if source.content is None else io.StringIO(source.content)
    words = "changed while it was read; start again when nothing but the harvester writes to it"
    changed = UserError(f"{source.path}: {words}")
    try:
        for chunk in pd.read_csv(
            open_part(given, source.part) if source.part else given,
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
        ):
            yield chunk
            rows -= len(chunk)
    except UnicodeDecodeError:
        raise undecodable(source.path) from None
    except (FileNotFoundError, pd.errors.EmptyDataError, pd.errors.ParserError):
        raise changed from None
    if rows:
        raise changed


def is_doubtful(values: np.ndarray) -> bool:
    """Whether pandas may have read what is no number: infinity, and TRUE, which is 1 to it where all cells are such."""
    most = np.fmax.reduce(np.abs(values), initial=-1.0)
    return bool(most > LARGEST_NUMBER or (0 <= most <= 1 and (np.isin(values, [0, 1]) | np.isnan(values)).all()))


def read_columns(sources: list[Source], names: list[str], options: argparse.Namespace) -> dict[str, Cells]:
    """Read columns of all files. Most numbers are read by pandas' own parser, everything else as text.

    A column in which that parser finds anything but numbers is read again, as text: what it is follows from its texts.
    """
    textual = {name for name in names if name == options.label or name in options.categorical or is_id_name(name)}
    heads = [source._replace(lines=source.lines[: GUESS_ROWS // len(sources) + 1]) for source in sources]
    textual |= read_once(heads, names, textual)[1]
    cells, again = read_once(sources, names, textual)
    return cells | read_once(sources, sorted(again), again)[0]


def read_once(sources: list[Source], names: list[str], textual: set[str]) -> tuple[dict[str, Cells], set[str]]:
    """The cells of the columns, and the names of those that must be read again, as text."""
    rows = sum(len(source.lines) for source in sources)
    cells = {
        name: Cells(np.zeros(rows, np.int32), {"": 0}) if name in textual else Cells(np.full(rows, math.nan))
        for name in names
    }
    again: set[str] = set()
    first = 0
    for source in sources:
        start = first
        for chunk in read_typed(source, [name for name in source.names if name in cells], textual, again):
            part = slice(start, start + len(chunk))
            for name in chunk:
                values, texts = cells[name]
                if texts is None:
                    values[part] = chunk[name]
                    if is_doubtful(values[part]):
                        again.add(name)
                else:
                    codes, found = chunk[name].factorize()
                    known = [texts.setdefault(cell_text(text), len(texts)) for text in found]
                    values[part] = np.array([*known, 0], np.int32)[codes]  # -1, an empty cell, is the last
            start = part.stop
        first += len(source.lines)
    return {name: part for name, part in cells.items() if name not in again}, again


def read_typed(source: Source, names: list[str], textual: set[str], again: set[str]) -> Iterator[pd.DataFrame]:
    """Iterate over data frames; columns in which numbers cannot be parsed are added to again, and left out."""
    import pandas as pd

    done = 0
    while kinds := {name: object if name in textual else float for name in names if name not in again}:
        try:
            for chunk in islice(read_chunks(source, kinds), done, None):
                yield chunk
                done += 1
            return
        except ValueError:
            numeric = dict.fromkeys((name for name, kind in kinds.items() if kind is float), object)
            if not numeric:
                raise
            chunk = next(islice(read_chunks(source, numeric), done, None))
            numbers = {name: pd.to_numeric(chunk[name].dropna(), errors="coerce") for name in chunk}
            again |= {name for name in chunk if numbers[name].hasnans} or set(numeric)


def name_words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower()))


def is_id_name(name: str) -> bool:
    words = name_words(name)
    return bool(words & CATEGORY_WORDS) and not words & QUANTITY_WORDS


def in_seconds(times: np.ndarray) -> np.ndarray:
    """Times since 1970 in seconds; from 3e11 on, the year 11476, they were in milli-, micro- or nanoseconds."""
    for _ in range(3):
        times = np.where(np.abs(times) >= 3e11, times / 1_000, times)
    return times


def column_kind(name: str, cells: Cells, options: argparse.Namespace) -> tuple[str, str]:
    """Tell the kind of a column from its name and all its cells, whatever their order: (kind, reason)."""
    if name in options.categorical:
        return "category", "--categorical"
    if name in options.numeric:
        return "number", "--numeric"
    values, texts = cells.numbers(), list(cells.texts or [""])[1:]
    known, filled = values[np.isfinite(values)], np.count_nonzero(~np.isnan(values))
    if not filled:
        return "dropped", "empty"
    identifier = is_id_name(name) and all(map(DIGITS.fullmatch, texts))
    if not identifier:
        if len(known) == filled or (len(known) >= 0.5 * filled and not is_id_name(name)):
            if name_words(name) & TIME_WORDS and name not in V0_COLUMNS and count_times(known) == len(known):
                return "dropped", TIMESTAMP
            numbered = len(known) > 20 and name not in V0_COLUMNS and np.ptp(known) <= 1.01 * len(known)
            if numbered and not np.any(known % 1) and len(np.unique(known)) == len(known):
                return "dropped", "a row number"  # whole numbers without a gap, each once
            return "number", ""
        if sum(map(bool, map(DATE.match, texts))) >= 0.5 * len(texts):
            return "dropped", TIMESTAMP
    if filled > 20 and len(texts) > 0.9 * filled:
        return "dropped", "nearly all values distinct"
    return "category", "an id by its name" if identifier else "text"


def count_times(times: np.ndarray) -> int:
    """How many of these numbers can be times of our days."""
    seconds = in_seconds(times)
    return np.count_nonzero((seconds >= EARLIEST) & (seconds <= LATEST))


def choose_time_column(
    columns: list[Column], cells: dict[str, Cells], options: argparse.Namespace
) -> tuple[Choice, np.ndarray | None]:
    """The name of the column that --split time sorts by, and its times; None for another split and for file order.

    Of several it is the one called timestamp, or else the one with the most different times.
    """
    if options.split != "time":
        return Choice(None, ""), None
    if name := options.time_column:
        return Choice(name, "as requested"), cells[name].times()
    found = []
    for name in (column.name for column in columns if column.reason == TIMESTAMP):
        times = cells[name].times()
        filled, distinct = np.count_nonzero(~np.isnan(times)), len(np.unique(times[np.isfinite(times)]))
        if distinct > 1 and count_times(times) >= 0.5 * filled:  # one time for all rows puts them in no order
            found.append((name.lower() != "timestamp", -distinct, name, times))
    if not found:
        return Choice(None, "no column tells the time"), None
    *_, name, times = min(found, key=lambda part: part[:3])
    return Choice(name, "it holds times"), times


def read_table(options: argparse.Namespace, group: Alone | None = None) -> Table:
    """Read CSV files of any generation into one Table, or raise UserError: what is wrong, where and what to do."""
    group = group or Alone()
    own, sources = group.find_sources(options)
    names = check_columns(sources, options)
    chosen = {options.label, *options.categorical, *options.numeric}
    fixed = {name: TIMESTAMP for name in names if name.lower() in TIME_NAMES and name not in chosen}
    fixed |= dict.fromkeys(options.drop, "--drop")
    fixed |= dict.fromkeys({options.time_column} - {None, *chosen}, "--time-column")
    unread = {name for name, reason in fixed.items() if options.split != "time" or reason == "--drop"}
    cells, sources = group.read_cells(own, sources, sorted(set(names) - unread), options)
    given = cells.pop(options.label)
    label = np.array([cell_label(text) for text in given.texts], np.float32)[given.values]
    columns = [Column(name, "dropped", reason) for name, reason in fixed.items()]
    columns += [Column(name, *column_kind(name, part, options)) for name, part in cells.items() if name not in fixed]
    columns.sort(key=lambda column: column.name)
    time_column, times = choose_time_column(columns, cells, options)
    checked = [(column.name, "number") for column in reversed(columns) if column.kind == "number"]
    checked += [(time_column.value, "time")] * (times is not None) + [(options.label, "label")]
    bad = find_faults(cells, checked, times, label)
    rows, shown = [len(source.lines) for source in sources], short_names([source.path for source in sources])
    skipped, notes = sum(source.skipped for source in sources), []
    read = len(label) + skipped
    for name, source, faults in zip(shown, sources, np.split(bad, np.cumsum(rows)[:-1]), strict=True):
        skipped += handle_bad_rows(source, options.skip_bad_rows, checked, faults)
        notes += [f"{name}: {note}" if len(sources) > 1 else note for note in source.notes]
    files = np.repeat(np.arange(len(sources), dtype=np.uint16), rows)
    lines = np.concatenate([source.lines for source in sources]).astype(np.int32)
    keep = bad == 0 if bad.any() else slice(None)  # which copies nothing
    label, files, lines = label[keep], files[keep], lines[keep]
    stores = fill_columns(columns, cells, keep, len(label))
    table = Table(columns, *stores, label, files, lines, shown, notes, read, skipped)
    check_rows(options, table)
    if times is not None or options.split != "time":
        sort_rows(table, None if times is None else times[keep])
    table.scales = fit_scales(table.numbers)
    table.time = time_column
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
    unknown = f"{data_name(options)} has no such column"
    flags = {flag: getattr(options, flag) for flag in ("categorical", "numeric", "drop")}
    for flag, given in (flags | {"time-column": [options.time_column] * (options.time_column is not None)}).items():
        for name in given:
            refuse(f"--{flag} {name}", (name not in names, unknown), (name == options.label, "this is the label"))
    return names


def find_faults(
    cells: dict[str, Cells], checked: list[tuple[str, str]], times: np.ndarray | None, label: np.ndarray
) -> np.ndarray:
    """For each row which of the checked columns, (name, what it must hold), is at fault, from 1 on; 0 for none: int32.

    Those that must be numbers are made numbers.
    """
    bad = np.zeros(len(label), np.int32)
    for number, (name, what) in enumerate(checked, 1):
        if what == "number":
            cells[name] = Cells(cells[name].numbers())
            bad[np.isinf(cells[name].values)] = number
        else:
            bad[label < 0 if what == "label" else ~np.isfinite(times)] = number
    return bad


def handle_bad_rows(source: Source, skip_bad_rows: bool, checked: list[tuple[str, str]], faults: np.ndarray) -> int:
    """Leave out a cut last line and, when asked, bad rows; otherwise raise UserError naming the first ones."""
    bad = without_torn(np.flatnonzero(faults), source.lines, source.torn, source.notes)
    if not len(bad):
        return 0
    if skip_bad_rows:
        source.notes.append(f"{name_some(source.lines[bad])}: unusable values, left out")
        return len(bad)
    name, what = checked[faults[bad[0]] - 1]
    where = name_some(source.lines[bad[faults[bad] == faults[bad[0]]]])
    wrong, others = FAULTS[what]
    mend = f"fix the rows{others.format(name=name)} or use --skip-bad-rows"
    raise UserError(f"{source.path}: {where}, column {name}: {wrong}; {mend}")


def fill_columns(
    columns: list[Column], cells: dict[str, Cells], keep: np.ndarray | slice, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """The cells of the kept rows as numbers [N, D] and codes [N, C]; columns that can teach nothing are dropped."""
    planned = Counter(column.kind for column in columns)
    numbers, codes = np.empty((planned["number"], rows)), np.empty((planned["category"], rows), np.int32)
    places = {"number": iter(numbers), "category": iter(codes)}
    first: dict[tuple, str] = {}  # of columns with the same cells, by these
    for column in columns:
        if column.name not in cells:
            continue  # never read
        values, texts = cells.pop(column.name)
        values = values[keep]
        known = values[~np.isnan(values) if texts is None else values > 0]
        column.missing = len(values) - len(known)
        if column.kind == "category":
            values = sort_category(column, values, texts)
            useless = len(column.vocabulary) < 2
        else:
            step = max(1, len(known) // 1_000_000) if column.kind == "number" else 1
            column.distinct = len(np.unique(known[::step]))
            useless = not len(known) or (np.ptp(known) == 0 and not column.missing)
        if column.kind == "dropped":
            continue
        reason = ("constant" if column.distinct else "empty") if useless else ""
        if not useless:
            content = column.kind, tuple(column.vocabulary), hashlib.sha256(cell_bits(values)).digest()
            if (twin := first.setdefault(content, column.name)) != column.name:
                reason = f"the same as {twin} in all rows"
        if reason:
            column.kind, column.reason, column.vocabulary = "dropped", reason, []
            continue
        next(places[column.kind])[:] = values
        named = column.kind == "category" or name_words(column.name) & QUANTITY_WORDS
        if not named and 2 < column.distinct <= 10 and rows > 200 and not np.any(known % 1):
            column.hint = f"few different whole numbers; --categorical {column.name} if they stand for categories"
    filled = Counter(column.kind for column in columns)
    return numbers[: filled["number"]].T, codes[: filled["category"]].T


def sort_category(column: Column, codes: np.ndarray, texts: dict[str, int]) -> np.ndarray:
    """Give a category its vocabulary, sorted by meaning; return the codes in it [N] int32."""
    used = list(compress(texts, np.bincount(codes)))
    integers = any(used) and all(cell_id(text) != UNSEEN for text in used)
    meaning = cell_id if integers else cell_text
    column.vocabulary = sorted({meaning(text) for text in used})
    column.distinct = len(column.vocabulary) - bool(column.missing)
    code = {value: number for number, value in enumerate(column.vocabulary)}
    return np.array([code.get(meaning(text), 0) for text in texts], np.int32)[codes]


def cell_bits(values: np.ndarray) -> np.ndarray:
    """Numbers or codes as uint64 that are equal where the cells mean the same, as NaNs and zeros do."""
    if values.dtype != np.float64:
        return values.astype(np.uint64)
    return np.where(np.isnan(values), np.inf, values + 0.0).view(np.uint64)


def sort_rows(table: Table, times: np.ndarray | None = None) -> None:
    """Put the rows into the order of their times, if any, and of hashes of what each holds."""
    columns = [*table.numbers.T, *table.codes.T, table.label]
    hashes = hash_rows(columns)
    order = np.argsort(hashes) if times is None else np.lexsort([hashes, times])
    for part in (*columns, table.files, table.lines):
        part[:] = part[order]


def hash_rows(columns: Iterable[np.ndarray]) -> np.ndarray:
    """A hash of what each row of columns [N] holds, uint64: 64-bit numbers by their bits, others by their values."""
    hashes: Any = np.uint64(0)
    for part in columns:
        hashes = (hashes ^ cell_bits(part)) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def rows_of(label: str, value: int) -> str:
    """What the rows of a class are called."""
    return f"{'' if value else 'un'}productive rows" if label == "productive" else f"rows with {label} = {value}"


def check_rows(options: argparse.Namespace, table: Table) -> None:
    rows, positive = len(table.label), int(table.label.sum())
    count, rarer = min((positive, 1), (rows - positive, 0))
    few = f"too few {rows_of(options.label, rarer)}: {count} of {rows:,}, at least 5 are needed"
    teaching = any(column.kind != "dropped" for column in table.columns)
    refuse(
        data_name(options),
        (rows < 20, f"only {rows} usable row{'s' * (rows != 1)}, at least 20 are needed; label more rows"),
        (count < 5, f"{few}; label more of them"),
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
    columns = np.column_stack([apps[app], keyboard, mouse, stay, label]).astype(np.int64)
    np.savetxt(path, columns, "%d", ",", header=",".join(V0_COLUMNS), comments="")
    return probability


# ---------------------------------------------------------------------------------------------------------------------
# Data: split and encoding


class Split(NamedTuple):
    """Row numbers, int32, of the rows trained on, stopped by and tested on."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_rows(label: np.ndarray, method: str, seed: int) -> Split:
    """Split 70/15/15: at random within each class, or in the order of time, which is then that of the rows."""

    def cut(rows: np.ndarray) -> list[np.ndarray]:
        held = max(1, round(0.15 * len(rows)))
        return np.split(rows, [len(rows) - 2 * held, len(rows) - held])

    if method == "time":
        return Split(*cut(np.arange(len(label), dtype=np.int32)))
    generator = np.random.default_rng([seed, 0])
    classes = [cut(generator.permutation(np.flatnonzero(label == value).astype(np.int32))) for value in (0, 1)]
    return Split(*(np.sort(np.concatenate(parts)) for parts in zip(*classes, strict=True)))


def split_folds_by_time(rows: int, folds: int) -> list[Split]:
    """Cut rows that stand in the order of time into 3 K + 1 blocks, and let K windows slide over them, block by block.

    Each net trains on 2 K blocks, stops by the next and is tested on the one after. With windows that grow from the
    first row on, the first nets would have few and old rows: where habits change, their mean is worse than one net.
    """
    blocks = np.array_split(np.arange(rows, dtype=np.int32), 3 * folds + 1)
    ends = range(2 * folds, 3 * folds)
    return [Split(np.concatenate(blocks[end - 2 * folds : end]), blocks[end], blocks[end + 1]) for end in ends]


def split_folds(label: np.ndarray, folds: int, seed: int) -> list[Split]:
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
FARTHEST = 1e6  # a scaled number is held within this distance of 0, where the soft clip has long been flat
ABSENT = 2e6  # what a missing number is once it is scaled: fast arithmetic may not tell NaN
MAXIMUM_CATEGORIES = 256  # of a column; the most frequent are kept, the others share the place of the unseen
PIECE_ROWS = 100_000  # rows scaled or predicted at a time
MOST_BINS = 16  # of one number
BIN_INPUTS = 1_024  # bins of all numbers together
NARROWEST_BIN = 0.002  # of the size of its edge, or what 32 bits lose would show
BIN_SIZE = 0.25  # at the size of 1, bins fit small tables too closely
SLICED_COLUMNS = 64  # of more the slices take longer to compile than they save


class Scales(NamedTuple):
    """How the cells of D numbers are brought to the size of 1, in 64 bits, before 32 bits keep them: [D] each.

    A column that spreads over decades is taken as a signed logarithm, sign(s) log1p(|s|) of s = x / unit; any other
    as (x - median) / interquartile range, subtracted before digits are lost. It follows from all rows, not from labels.
    """

    offset: np.ndarray  # float64; 0 for a logarithm
    gain: np.ndarray  # float64: the inverse of the unit or of the range
    logarithmic: np.ndarray  # bool
    whole: np.ndarray  # bool: whole numbers that 32 bits cannot tell apart, which the saved model takes as int64


def fit_scales(numbers: np.ndarray) -> Scales:
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
        narrow = 0 < third - first < 0.001 * max(abs(first), abs(third))  # logarithms would be equal in 32 bits
        scales.logarithmic[place] = high > WIDE * low and not narrow
        if scales.logarithmic[place]:
            scales.gain[place] = 1 / max(min(1.0, low), size.max() * 1e-30, 1e-300)
        else:
            scales.offset[place] = middle
            if 2**24 < np.fmax.reduce(np.abs(values)) <= 2**53:
                scales.whole[place] = not np.any(np.nan_to_num(values) % 1)
            scales.gain[place] = 1 / max(third - first or np.ptp(known) / 2 or 1.0, 1e-300)
    return scales


def scale_numbers(raw: ArrayLike, scales: Scales) -> tf.Tensor:
    """Numbers [B, D] float64, NaN where missing, as Scales says: float32, ABSENT where missing."""
    from keras import ops

    scaled = (raw - scales.offset) * scales.gain
    logarithm = ops.sign(scaled) * ops.log1p(ops.absolute(scaled))
    scaled = ops.clip(ops.where(scales.logarithmic, logarithm, scaled), -FARTHEST, FARTHEST)
    return ops.cast(ops.where(ops.isnan(raw), ABSENT, scaled), "float32")


class Encoding(NamedTuple):
    """What all folds share of how a row becomes E inputs of the network. D numbers, M of them with gaps, C categories.

    The inputs are: D scaled numbers, centred on the median, divided by the interquartile range, clipped smoothly to +-3
    (the preprocessing of RealMLP: Holzmueller, Grinsztajn, Steinwart, 2024), 0 where missing; an indicator for each
    number that was ever missing; for each category one place for each value, and one for rare values if there are any;
    for each number bins between quantiles, which tell how much of each bin lies below it (the piecewise-linear encoding
    of Gorishniy, Rubachev, Babenko, 2022), centred on their means, 0 where missing. A linear model takes all but these.
    What no training row of a fold has (a value, a gap) leaves all inputs of its column at 0 in that fold.
    """

    scales: Scales
    gaps: list[int]  # the numbers that have an indicator
    known: list[np.ndarray]  # for each category: the codes that some fold learns; index 1 and up, 0 for all others
    depths: list[int]  # for each category: its number of places
    bins: list[int]  # for each number: its number of bins

    @property
    def first_indices(self) -> np.ndarray:
        """Where the indices of each category [C] start, so that those of all are numbered in one row: int32."""
        return np.cumsum([0, *(1 + len(codes) for codes in self.known)][:-1] or [], dtype=np.int32)

    @property
    def width(self) -> int:
        """E, the number of inputs."""
        return self.linear_width + sum(self.bins)

    @property
    def linear_width(self) -> int:
        """L, the number of the first inputs, those of a linear model."""
        return len(self.scales.gain) + len(self.gaps) + sum(self.depths)

    def inputs_of_columns(self) -> list[list[int]]:
        """Which of the E inputs each number, then each category, makes."""
        count = len(self.scales.gain)
        column = np.concatenate(
            [
                np.arange(count),
                self.gaps,
                count + np.repeat(np.arange(len(self.depths)), self.depths),
                np.repeat(np.arange(count), self.bins),
            ]
        )
        return [np.flatnonzero(column == number).tolist() for number in range(count + len(self.depths))]


class Encoder(NamedTuple):
    """What one fold learns from its training rows."""

    center: np.ndarray  # [D] float32
    scale: np.ndarray  # [D] float32
    gap_known: np.ndarray  # [M] float32: 1 where a training row has the gap
    places: np.ndarray  # int32: from an index to its place in its category, -1 for none
    lower: np.ndarray  # [bins] float32: the lower end of each bin
    slope: np.ndarray  # [bins] float32: BIN_SIZE divided by the width of the bin, 0 where it is empty
    bin_mean: np.ndarray  # [bins] float32


class Features(NamedTuple):
    """The rows of a table as all folds take them. Rows come last, so that vector units work along them."""

    scaled: np.ndarray  # [D, N] float32, ABSENT where missing
    indices: np.ndarray  # [C, N] int32, counted through all categories
    label: np.ndarray  # [N] float32

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The scaled numbers [B, D] and the indices [B, C] of some rows."""
        return self.scaled[:, rows].T, self.indices[:, rows].T


def fit_encoding(table: Table, splits: list[Split]) -> tuple[Encoding, list[Encoder], Features]:
    """One encoder a fold, from its training rows; all have the same width, so that one program trains every fold."""
    known, depths, places = [], [], [[] for _ in splits]
    for number, column in enumerate(table.of_kind("category")):
        codes = table.codes[:, number]
        counts = [np.bincount(codes[split.training], minlength=len(column.vocabulary)) for split in splits]
        frequent = [most_frequent(part) for part in counts]
        known.append(np.unique(np.concatenate(frequent)))
        rare = [part.sum() > part[learned].sum() for part, learned in zip(counts, frequent, strict=True)]
        depths.append(len(known[-1]) + any(rare))
        for fold, learned in enumerate(frequent):
            of_index = np.full(1 + len(known[-1]), len(known[-1]) if rare[fold] else -1, np.int32)
            found = np.searchsorted(known[-1], learned)
            of_index[1 + found] = found
            places[fold].append(of_index)
    numbers = table.of_kind("number")
    most = min(MOST_BINS, max(2, len(splits[0].training) // 20), BIN_INPUTS // max(1, len(numbers)))
    bins = [count if (count := min(most, column.distinct - 1)) > 1 else 0 for column in numbers]
    encoding = Encoding(table.scales, [], known, depths, bins)
    features = make_features(table, encoding)
    missing = features.scaled > FARTHEST
    encoding.gaps.extend(np.flatnonzero(missing.any(axis=1)).tolist())
    encoders = []
    for split, own in zip(splits, places, strict=True):
        gap_known = missing[encoding.gaps][:, split.training].any(axis=1).astype(np.float32)
        scaling = fit_scaling(features.scaled, split.training)
        of_index = np.concatenate([np.empty(0, np.int32), *own])
        encoders.append(Encoder(*scaling, gap_known, of_index, *fit_bins(features.scaled, split.training, bins)))
    return encoding, encoders, features


def make_features(table: Table, encoding: Encoding) -> Features:
    """Scale the numbers of a table, and find its categories among the known."""
    scaled = np.empty(table.numbers.shape[::-1], np.float32)
    for start in range(0, scaled.shape[1] if len(scaled) else 0, PIECE_ROWS):  # so that what is in 64 bits stays small
        piece = slice(start, start + PIECE_ROWS)
        scaled[:, piece] = np.transpose(scale_numbers(table.numbers[piece], encoding.scales))
    indices = np.empty(table.codes.shape[::-1], np.int32)
    for number, column in enumerate(table.of_kind("category")):
        index_of_code, codes = np.zeros(len(column.vocabulary), np.int32), encoding.known[number]
        index_of_code[codes] = np.arange(1, len(codes) + 1)
        indices[number] = (index_of_code + encoding.first_indices[number])[table.codes[:, number]]
    return Features(scaled, indices, table.label)


def fit_scaling(scaled: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and inverse interquartile range of scaled numbers [D, N] in some rows; inverse 0 where they are equal."""
    center, scale = np.zeros(len(scaled), np.float32), np.zeros(len(scaled), np.float32)
    rows = rows[:: max(1, len(rows) // SCALE_ROWS)]
    for place, values in enumerate(scaled):
        known = values[rows]
        known = known[known <= FARTHEST]
        if len(known):
            low, center[place], high = np.percentile(known, [25, 50, 75])
            spread = high - low or (known.max() - known.min()) / 2
            scale[place] = 1 / spread if spread > 1e-6 else 0
    return center, scale


def fit_bins(scaled: np.ndarray, rows: np.ndarray, bins: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower ends, slopes and means of the bins of scaled numbers [D, N] between quantiles of some rows."""
    rows = rows[:: max(1, len(rows) // SCALE_ROWS)]
    lower, slope, mean = np.zeros((3, sum(bins)), np.float32)
    for values, count, start in zip(scaled, bins, np.cumsum([0, *bins]), strict=False):
        known = values[rows]
        known = known[known <= FARTHEST]
        if count and len(known):
            edges: list[float] = []
            for edge in np.quantile(known, np.linspace(0, 1, count + 1)):
                if not edges or edge - edges[-1] > NARROWEST_BIN * max(1, abs(edge)):
                    edges.append(edge)
            own = slice(start, start + len(edges) - 1)  # quantiles too close to each other leave the last bins empty
            lower[own], slope[own] = edges[:-1], BIN_SIZE / np.diff(edges)
            mean[own] = [
                np.clip((known - low) * by, 0, BIN_SIZE).mean() for low, by in zip(lower[own], slope[own], strict=True)
            ]
    return lower, slope, mean


def most_frequent(counts: np.ndarray) -> np.ndarray:
    """The codes, sorted, that occur most often, at most MAXIMUM_CATEGORIES."""
    most = np.argsort(-counts, kind="stable")[:MAXIMUM_CATEGORIES]
    return np.sort(most[counts[most] > 0])


def encode_numbers(scaled: ArrayLike, encoding: Encoding, encoder: Encoder, axis: int = -1) -> tf.Tensor:
    """Numbers as scale_numbers() gives them and the indicators of their gaps: [B, D] to [B, D + M]."""
    from keras import ops

    missing = ops.greater(scaled, FARTHEST)
    values = (scaled - by_column(encoder.center, axis)) * by_column(encoder.scale, axis)
    values = ops.where(missing, 0.0, values * ops.rsqrt(1.0 + ops.square(values / 3.0)))
    if not encoding.gaps:
        return values
    gaps = ops.take(ops.cast(missing, "float32"), np.array(encoding.gaps, np.int32), axis=axis)
    return ops.concatenate([values, gaps * by_column(encoder.gap_known, axis)], axis)


def spread(values: ArrayLike, counts: list[int], axis: int) -> tf.Tensor:
    """Each column of values as often as counts says. Of a few columns in training by slices, which XLA fuses best."""
    from keras import ops

    if axis == 0 and len(counts) <= SLICED_COLUMNS:
        parts = [ops.repeat(values[place : place + 1], count, 0) for place, count in enumerate(counts) if count]
        return ops.concatenate(parts, 0)
    return ops.take(values, np.repeat(np.arange(len(counts), dtype=np.int32), counts), axis=axis)


def by_column(values: ArrayLike, axis: int) -> ArrayLike:
    """Values [columns] for an array whose columns lie along an axis, -1 or 0."""
    return values if axis == -1 else values[:, None]


def encode(
    scaled: ArrayLike | None, indices: ArrayLike | None, encoding: Encoding, encoder: Encoder, axis: int = -1
) -> tf.Tensor:
    """The inputs of the network: [B, E] from scaled numbers [B, D] and the indices of categories [B, C].

    With axis=0, rows come last: [E, B] from [D, B] and [C, B]. Saved model, training and evaluation all encode here.
    """
    from keras import ops

    parts = [encode_numbers(scaled, encoding, encoder, axis)] if encoding.bins else []
    if encoding.depths:
        place = np.concatenate([np.arange(depth, dtype=np.int32) for depth in encoding.depths])
        chosen = spread(ops.take(encoder.places, indices, axis=0), encoding.depths, axis)
        parts.append(ops.cast(ops.equal(chosen, by_column(place, axis)), "float32"))
    if any(encoding.bins):
        values = spread(scaled, encoding.bins, axis)
        below = (values - by_column(encoder.lower, axis)) * by_column(encoder.slope, axis)
        below = ops.clip(below, 0.0, BIN_SIZE) - by_column(encoder.bin_mean, axis)
        parts.append(ops.where(ops.greater(values, FARTHEST), 0.0, below))
    return ops.concatenate(parts, axis) if len(parts) > 1 else parts[0]


class SparseRows(NamedTuple):
    """Encoded rows without the zeros of their categories, so that a product costs no more than their cells."""

    dense: np.ndarray  # [B, D + M]: numbers and indicators
    places: np.ndarray  # [B, C] int32: which of the L inputs is 1 for each category; L for none

    def times(self, weights: np.ndarray) -> np.ndarray:
        """The encoded rows [B, L] times weights [L]."""
        padded = np.append(weights, 0)
        return self.dense @ weights[: self.dense.shape[1]] + padded[self.places].sum(axis=1)

    def transposed_times(self, values: np.ndarray, width: int) -> np.ndarray:
        """The transposed encoded rows [L, B] times values [B]."""
        result = np.concatenate([values @ self.dense, np.zeros(width + 1 - self.dense.shape[1])])
        for places in self.places.T:
            result += np.bincount(places, values, minlength=width + 1)
        return result[:width]


def encode_sparse(features: Features, rows: np.ndarray, encoding: Encoding, encoder: Encoder) -> SparseRows:
    """The same as encode() for a linear model."""
    dense = np.asarray(encode_numbers(features.scaled[:, rows].T, encoding, encoder), float)
    starts = np.cumsum([dense.shape[1], *encoding.depths], dtype=np.int32)[:-1]
    places = encoder.places[features.indices[:, rows].T]
    return SparseRows(dense, np.where(places < 0, encoding.linear_width, starts + places))


# ---------------------------------------------------------------------------------------------------------------------
# Decisions taken for the user, each with its reason


class Choice(NamedTuple):
    value: Any
    reason: str


XLA_COMPILE_SECONDS = 0.9  # beyond tracing; measured by benchmarks/speed.py, as are the times of a step
STEP_SECONDS = {True: (6e-6, 1.2e-7), False: (1.5e-4, 5.7e-7)}  # with XLA or not: a step, and each row in it
USUAL_INPUTS = 64  # of the network, for which these times hold
USUAL_EPOCHS = 50  # until early stopping
ENSEMBLE = 10
ENSEMBLE_ROWS = 30_000  # an ensemble gains ever less: 0.012 in log-loss at 500 rows, 0.001 at 20 000
ENSEMBLE_SECONDS = 10.0  # of one core
SHORT_RUN = 200_000  # steps
TRIAL_SECONDS = 10.0  # where training takes less, compiling for a GPU too costs more than it may save
MEASURED_SECONDS = 1.0  # of each device that is tried, beyond compiling


def choose_folds(options: argparse.Namespace, label: np.ndarray) -> Choice:
    """The number of nets, each trained on all folds but two; 1: one net."""
    rows, rarer = len(label), int(min(label.sum(), len(label) - label.sum()))
    if options.folds == 1:
        return Choice(1, "as requested")
    if options.split == "time" and options.folds == "auto":
        return Choice(1, "the split is by time; --folds 5 slides five windows over it")
    asked = ENSEMBLE if options.folds == "auto" else options.folds
    folds = asked if options.split == "time" else min(asked, rarer)
    batch_size = choose_batch_size(options.batch_size, rows).value
    steps = folds * min(options.epochs, USUAL_EPOCHS) * 0.8 * rows / batch_size
    seconds = steps * usual_step_seconds(options.xla is not False, batch_size)
    cost = f"training {folds:,} nets takes about {max(0.1, seconds):.1f} s on one core"
    lowered = f"lowered from {asked:,}: the rarer class has {rarer} rows, and every fold needs one"
    if options.folds != "auto":
        return Choice(folds, f"as requested; {cost}" if folds == asked else lowered)
    if rows > ENSEMBLE_ROWS:
        return Choice(1, f"{cost} and gains little with {rows:,} rows")
    if seconds > ENSEMBLE_SECONDS:
        return Choice(1, f"{cost}; --folds {ENSEMBLE} trains them all the same")
    return Choice(folds, f"{cost}, and their mean is more accurate" if folds == asked else lowered)


def choose_learning_rate(asked: float | None) -> Choice:
    reason = "as requested" if asked else "the default; it beat 0.001 on tables of 500 to a million rows"
    return Choice(asked or 0.006, reason)


def choose_batch_size(asked: int | None, rows: int) -> Choice:
    if asked:
        return Choice(min(asked, rows), "as requested" if asked <= rows else "all training rows: there are no more")
    for size, most in ((8, 1_000), (16, 4_000), (32, 50_000)):
        if rows < most:
            return Choice(size, f"fewer than {most:,} training rows: small batches give enough steps per epoch")
    return Choice(256, f"{most:,} training rows or more: as accurate as smaller batches, and twice as fast")


def choose_patience(steps: int) -> Choice:
    """Epochs without a better validation loss before stopping; the learning rate is halved after a third of it."""
    patience = min(50, max(10, math.ceil(2_000 / steps)))
    return Choice(patience, f"{patience * steps:,} steps")


def choose_momentum(steps: int) -> Choice:
    momentum, why = (0.99, "have time to settle") if steps >= 10_000 else (0.9, "must settle soon")
    return Choice(momentum, f"{steps:,} steps to run: running means {why}")


def usual_step_seconds(xla: bool, batch_size: int, inputs: int = USUAL_INPUTS) -> float:
    """About how long a step of the standard network takes on one core."""
    step, row = STEP_SECONDS[xla]
    return step + row * batch_size * inputs / USUAL_INPUTS


def choose_xla(asked: bool | None, steps: int, batch_size: int) -> Choice:
    if asked is not None:
        return Choice(asked, "as requested")
    saved = steps * (usual_step_seconds(False, batch_size) - usual_step_seconds(True, batch_size))
    words = f"over at most {steps:,} steps it saves up to {saved:.1f} s, compiling takes {XLA_COMPILE_SECONDS} s"
    return Choice(saved > XLA_COMPILE_SECONDS, words)


class Device(NamedTuple):
    kind: str  # cpu or gpu
    name: str
    capability: tuple[int, int] = (0, 0)  # of a GPU
    flags: frozenset[str] = frozenset()  # of a CPU
    place: str = "CPU:0"  # TensorFlow's name for it


def training_seconds(options: argparse.Namespace, table: Table, steps: int, batch_size: int, xla: bool) -> float:
    """About how long training takes on one core, of so many steps when nothing stops it early."""
    steps = steps * min(options.epochs, USUAL_EPOCHS) / options.epochs
    categories = sum(min(column.distinct, MAXIMUM_CATEGORIES) for column in table.of_kind("category"))
    width = (1 + MOST_BINS) * len(table.of_kind("number")) + categories
    return steps * usual_step_seconds(xla, batch_size, width)


def choose_devices(found: list[Device], cpu_only: bool, before: str, seconds: float) -> Choice:
    """The device to train on or, where training takes some time, those to try, of a list in which the CPU is first."""
    if before:  # the kind on which an interrupted run began
        if same := [device for device in found if device.kind == before]:
            return Choice(same, "that of the interrupted run")
        raise UserError("--resume: the interrupted run trained on a GPU, and none is found; start without --resume")
    cpu, *gpus = found
    if not gpus:
        return Choice(found, "--cpu-only" if cpu_only else "no GPU was found")
    if seconds < TRIAL_SECONDS:
        return Choice([cpu], f"{gpus[0].name} is not tried where training takes less than {TRIAL_SECONDS:.0f} s")
    return Choice(found, "")


def choose_precision(asked: bool | None, device: Device) -> Choice:
    """The type of matrix products: float16 on GPUs from Volta on, bfloat16 on a CPU that has it, when asked."""
    if asked is False:
        return Choice("float32", "as requested")
    if device.kind == "gpu":
        version = "compute capability {}.{}".format(*device.capability)
        if device.capability >= (7, 0):
            return Choice("float16", f"{device.name} has 16-bit units ({version})")
        return Choice("float32", f"{device.name} has no 16-bit units ({version} is below 7.0)")
    if asked is None:
        return Choice("float32", "16 bits are no faster for layers this narrow on a CPU")
    if device.flags & {"avx512_bf16", "amx_bf16"}:
        return Choice("bfloat16", "as asked, though slower than float32 for layers this narrow on a CPU")
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


def prepare_environment(cpu_only: bool, xla: bool, short: bool = False) -> None:
    """Set what TensorFlow reads once, at its import. In a short run a quicker compiler costs less than it loses."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its kernels gain nothing at these widths and print a notice
    ignore_user_settings()
    if cpu_only:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # An unknown XLA flag ends the process, so they are set only for the version they were measured with.
    if xla and "XLA_FLAGS" not in os.environ and metadata_version("tensorflow").startswith("2.21."):
        flags = "--xla_cpu_enable_fast_math=true --xla_cpu_prefer_vector_width=512"
        if short:
            flags += " --xla_backend_optimization_level=1"
        os.environ["XLA_FLAGS"] = flags


def ignore_user_settings() -> None:
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


ADDRESS_SPACE = 2_200_000_000  # bytes TensorFlow was seen to need on two cores; with less it aborts without a word


def check_address_space() -> None:
    with contextlib.suppress(ImportError):  # Windows
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if 0 <= limit < ADDRESS_SPACE:
            needed = f"TensorFlow needs {ADDRESS_SPACE >> 20:,} MB"
            raise MemoryError(f"the address space is limited to {limit >> 20:,} MB, {needed}")


def import_tensorflow() -> Any:
    """Import TensorFlow without scikit-learn, which Keras would import (0.7 s) and which nothing here uses.

    Nor are its hundred thousands of objects looked at again and again for garbage (0.4 s), now or later.
    """
    check_address_space()
    absent = "sklearn" not in sys.modules
    if absent:
        sys.modules["sklearn"] = None
    gc.disable()
    try:
        import tensorflow
    finally:
        gc.freeze()
        gc.enable()
        if absent:
            del sys.modules["sklearn"]
    return tensorflow


def find_devices(cpu_only: bool) -> list[Device]:
    """The CPU and, unless they are to be hidden, the first of the GPUs."""
    import tensorflow as tf

    name, flags = cpu_description()
    gpus = [] if cpu_only else tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus[:1]]
    return [Device("cpu", name, flags=flags)] + [
        Device("gpu", known.get("device_name", "GPU"), tuple(known.get("compute_capability", (0, 0))), place="GPU:0")
        for known in details
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Model


def build_network(
    inputs: keras.KerasTensor,
    architecture: Architecture,
    momentum: float,
    adapt: Callable = lambda layer: layer,
    hidden_type: str = "float32",
    prefix: str = "",
) -> keras.KerasTensor:
    """The network, from encoded inputs [B, E] to logits [B, 1]: hidden layers beside a linear model of the inputs.

    Everything else (training, the saved model, logs, exports) follows from what is written here. To edit it: wrap every
    layer that is not elementwise in adapt(), which in training gives the layer for rows that come last; start every
    name with prefix; training starts from the logistic regression in the layers called from_inputs and from_hidden.
    """
    from keras import layers

    hidden = inputs
    for number, units in enumerate(architecture.units, 1):
        dense = layers.Dense(units, activation="mish", dtype=hidden_type, name=f"{prefix}hidden_{number}")
        hidden = adapt(dense)(hidden)
        hidden = adapt(layers.BatchNormalization(momentum=momentum, name=f"{prefix}normalization_{number}"))(hidden)
        hidden = adapt(layers.Dropout(architecture.dropout, name=f"{prefix}dropout_{number}"))(hidden)
    nonlinear = adapt(layers.Dense(1, kernel_initializer="zeros", name=f"{prefix}from_hidden"))(hidden)
    linear = adapt(layers.Dense(1, use_bias=False, name=f"{prefix}from_inputs"))(inputs)
    return layers.Add(name=f"{prefix}logit")([nonlinear, linear])


def start_from_linear_model(network: keras.Model, weights: np.ndarray) -> None:
    """Let a new network answer as a linear model [L + 1] of its first L inputs, the intercept last."""
    for variable in network.trainable_variables:
        if (value := linear_value(variable, weights)) is not None:
            variable.assign(value)


def linear_value(variable: keras.Variable, linear: np.ndarray) -> np.ndarray | None:
    """What a variable holds in a network that answers as a linear model [L + 1]; None if it has no part in that."""
    if variable.path.endswith("from_inputs/kernel"):
        return np.pad(linear[:-1], (0, variable.shape[0] - len(linear) + 1))[:, None]
    return linear[-1:] if variable.path.endswith("from_hidden/bias") else None


def mix_with_linear_model(network: keras.Model, weights: Weights, linear: np.ndarray, share: float) -> Weights:
    """Weights that give share times a network's logits and, for the rest, those of a linear model [L + 1]."""
    trained = []
    for variable, value in zip(
        network.trainable_variables, split_vector(weights.trained, network.trainable_variables), strict=True
    ):
        if "/from_" in f"/{variable.path}":
            other = linear_value(variable, linear)
            value = share * value + (1 - share) * (0 if other is None else other.astype(value.dtype))
        trained.append(value)
    return weights._replace(trained=flat_vector(trained))


def quick_mish(inputs: tf.Tensor) -> tf.Tensor:
    """Mish (Misra, 2019), x tanh(log(1 + e^x)), with one exponential: x n / (n + 2), where n = e^x (e^x + 2)."""
    from keras import ops

    values = ops.cast(inputs, "float32")
    exponential = ops.exp(ops.minimum(values, 20.0))  # beyond, the fraction is 1
    product = exponential * (exponential + 2.0)
    return ops.cast(values * (product / (product + 2.0)), inputs.dtype)


def rows_last_layers() -> tuple[type, type, type]:
    """Dense, BatchNormalization and Dropout of Keras for inputs [width, B]."""
    from keras import activations, layers, ops

    class Dense(layers.Dense):
        def build(self, input_shape: tuple) -> None:
            super().build(input_shape[::-1])
            self.input_spec = None

        def compute_output_shape(self, input_shape: tuple) -> tuple:
            return self.units, input_shape[1]

        def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
            outputs = ops.matmul(ops.transpose(self.kernel), inputs)
            outputs = outputs + self.bias[:, None] if self.use_bias else outputs
            return quick_mish(outputs) if self.activation is activations.mish else self.activation(outputs)

    class BatchNormalization(layers.BatchNormalization):
        def build(self, input_shape: tuple) -> None:
            super().build(input_shape[::-1])
            self.input_spec = None

        def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
            mean, variance = self.moving_mean, self.moving_variance
            if training:  # in the form that XLA fuses best: moments from sums, then a scale and a shift
                mean = ops.mean(inputs, axis=1)
                variance = ops.maximum(ops.mean(ops.square(inputs), axis=1) - ops.square(mean), 0.0)
                for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
                    moving.assign(moving + (now - moving) * (1 - self.momentum))
            scale = self.gamma * ops.rsqrt(variance + self.epsilon)
            return inputs * scale[:, None] + (self.beta - mean * scale)[:, None]

    class Dropout(layers.Layer):
        """Drops what has a low random byte; so the rate is a multiple of 1 / 256."""

        def __init__(self, rate: float, first_byte: int, **options: Any) -> None:
            super().__init__(**options)
            self.dropped, self.first_byte = round(rate * 256), first_byte

        def compute_output_shape(self, input_shape: list[tuple]) -> tuple:
            return input_shape[0]

        def call(self, inputs: list[tf.Tensor], training: bool | None = None) -> tf.Tensor:
            values, random_bytes = inputs
            if not training:
                return values
            kept = random_bytes[self.first_byte : self.first_byte + values.shape[0]] >= np.uint8(self.dropped)
            return values * (ops.cast(kept, values.dtype) * (256 / (256 - self.dropped)))

    return Dense, BatchNormalization, Dropout


def training_network(
    architecture: Architecture, width: int, momentum: float, precision: str = "float32"
) -> tuple[keras.Model, int]:
    """The network for rows that come last: inputs [E, B] and random bytes [S, B] to logits [1, B]; and S.

    Layers without a form for rows that come last are run as they are, between transpositions.
    """
    import keras
    from keras import layers, ops

    dense, normalization, dropout = rows_last_layers()
    inputs = keras.Input(batch_shape=(width, None), name="inputs")
    random_bytes = keras.Input(batch_shape=(None, None), dtype="uint8", name="random_bytes")
    used = 0

    def with_bytes(layer: keras.Layer, values: keras.KerasTensor) -> keras.KerasTensor:
        nonlocal used
        first, used = used, used + values.shape[0]
        return dropout(layer.rate, first, name=layer.name)([values, random_bytes])

    def adapt(layer: keras.Layer) -> Callable:
        if type(layer) is layers.Dense and is_elementwise(layer.activation) and not layer.activity_regularizer:
            kept = ("use_bias", "activation", "kernel_regularizer", "bias_regularizer", "name")
            options = {name: getattr(layer, name) for name in kept}
            return dense(layer.units, dtype=layer.dtype_policy, **options)
        if type(layer) is layers.BatchNormalization and layer.center and layer.scale:
            return normalization.from_config(layer.get_config())
        if type(layer) is layers.Dropout and layer.noise_shape is None:
            return lambda values: with_bytes(layer, values)
        return lambda values: ops.transpose(layer(keras.tree.map_structure(ops.transpose, values)))

    hidden_type = "float32" if precision == "float32" else f"mixed_{precision}"
    logits = build_network(inputs, architecture, momentum, adapt, hidden_type)
    return keras.Model([inputs, random_bytes], logits, name="training_network"), used


def is_elementwise(activation: Callable) -> bool:
    """Whether an activation takes each number alone, as softmax does not."""
    values = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    return bool(np.allclose(activation(values), np.transpose(activation(values.T))))


class Weights(NamedTuple):
    """A network's values as two flat vectors: what is trained [P], and what follows from batches [S], moving means."""

    trained: np.ndarray
    moving: np.ndarray


def is_moving(variable: keras.Variable) -> bool:
    """Whether a variable that is not trained is a number that follows from batches; else it is a generator's state."""
    return variable.dtype.startswith("float")


def moving_variables(network: keras.Model) -> list[keras.Variable]:
    return [variable for variable in network.non_trainable_variables if is_moving(variable)]


def flat_vector(values: Iterable[ArrayLike]) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in values] or [np.empty(0)]).astype(np.float32)


def split_vector(vector: ArrayLike, variables: list[keras.Variable]) -> list[ArrayLike]:
    """A flat vector as the values of variables."""
    sizes = [math.prod(variable.shape) for variable in variables]
    if not sizes:
        return []
    if isinstance(vector, np.ndarray):
        parts = np.split(vector, np.cumsum(sizes[:-1]))
        return [part.reshape(variable.shape) for part, variable in zip(parts, variables, strict=True)]
    import tensorflow as tf

    parts = tf.split(vector, sizes)  # whose gradient is one concatenation
    return [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables, strict=True)]


def current_weights(network: keras.Model) -> Weights:
    """What a network's variables hold now."""
    return Weights(
        *(
            flat_vector(variable.numpy() for variable in part)
            for part in (network.trainable_variables, moving_variables(network))
        )
    )


def named_weights(network: keras.Model, weights: Weights) -> list[tuple[keras.Variable, np.ndarray]]:
    """Each variable of a network with its value."""
    moving = moving_variables(network)
    variables = [*network.trainable_variables, *moving]
    values = [*split_vector(weights.trained, network.trainable_variables), *split_vector(weights.moving, moving)]
    return list(zip(variables, values, strict=True))


class SavedModel(NamedTuple):
    """The Keras model that a run saves, raw named columns in, probability out, and the networks in it, one a fold."""

    model: keras.Model
    networks: list[keras.Model]  # from encoded inputs [B, E] to logits
    probe: keras.Model  # the first network again: to what each layer with weights gives, and the logits
    first: keras.Model  # from raw columns to the probability of the first network alone

    def values(self, folds: list[Weights], temperature: float = 1.0) -> list[tuple[keras.Variable, np.ndarray]]:
        """Each variable of the model with its value, given the weights of each fold."""
        pairs = []
        for network, weights in zip(self.networks, folds, strict=True):
            pairs += named_weights(network, weights)
        inner = {id(variable) for variable, _ in pairs}
        outer = [variable for variable in self.model.trainable_variables if id(variable) not in inner]
        return pairs + [(variable, np.full((1, 1), 1 / temperature, np.float32)) for variable in outer]

    def assign(self, folds: list[Weights], temperature: float = 1.0) -> None:
        for variable, value in self.values(folds, temperature):
            variable.assign(value)


def build_model(
    table: Table, encoding: Encoding, encoders: list[Encoder], architecture: Architecture, momentum: float, seed: int
) -> SavedModel:
    """The model of stock Keras layers and operations only, with one network for each encoder.

    Integer categories come as int64 (MISSING where the cell is empty), text as strings (""), numbers as float64 (NaN),
    whole numbers beyond 32 bits as int64. The probabilities of several networks are averaged.
    """
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)  # of Keras' initializers
    inputs, scaled, indices = read_cells(table, encoding)
    ends, probabilities = [], []
    for number, encoder in enumerate(encoders, 1):
        prefix = f"fold_{number}_" if len(encoders) > 1 else ""
        encoded = encode(scaled, indices, encoding, encoder)
        logits = build_network(encoded, architecture, momentum, prefix=prefix)
        # Sigmoid of the logits divided by the temperature, which is 1 until it is fitted.
        output = layers.Dense(
            1, "sigmoid", use_bias=False, kernel_initializer="ones", dtype="float32", name=f"{prefix}probability"
        )
        probabilities.append(output(logits))
        ends.append((encoded, logits))
    probability = layers.Average(name="probability")(probabilities) if len(encoders) > 1 else probabilities[0]
    rename_clashing_layers(probability, set(inputs))
    model = keras.Model(inputs, probability, name="productivity")
    networks = [keras.Model(*pair) for pair in ends]
    shown = [layer.output for layer in networks[0].layers if layer.trainable_variables]
    probe = keras.Model(ends[0][0], [*shown, layers.Identity()(ends[0][1])])  # Keras takes no output twice
    first = keras.Model(inputs, probabilities[0], name="first_net") if len(encoders) > 1 else model
    return SavedModel(model, networks, probe, first)


def read_cells(table: Table, encoding: Encoding) -> tuple[dict, keras.KerasTensor | None, keras.KerasTensor | None]:
    """The model's inputs by column, and what follows from them: scaled numbers [B, D], indices of categories [B, C]."""
    import keras
    from keras import layers, ops

    inputs, scaled, found = {}, None, []
    for column, whole in zip(table.of_kind("number"), encoding.scales.whole, strict=True):
        inputs[column.name] = keras.Input((1,), name=column.name, dtype="int64" if whole else "float64")
    if inputs:
        raw = [missing_to_nan(cells) for cells in inputs.values()]
        raw = layers.Concatenate(name="numbers", dtype="float64")(raw) if len(raw) > 1 else raw[0]
        scaled = layers.Identity(name="scaled")(scale_numbers(raw, encoding.scales))
    for place, (column, codes) in enumerate(zip(table.of_kind("category"), encoding.known, strict=True)):
        integers = column.integers
        cells = keras.Input((1,), name=column.name, dtype="int64" if integers else "string")
        inputs[column.name] = cells
        known = [column.vocabulary[code] for code in codes] or [no_value(integers)]
        lookup = layers.IntegerLookup if integers else layers.StringLookup
        unseen = {"oov_token": UNSEEN if integers else " unseen "}
        name = graph_name(column.name, f"place_{place}")
        found.append(lookup(vocabulary=np.array(known, np.int64) if integers else known, name=name, **unseen)(cells))
    if not found:
        return inputs, scaled, None
    indices = layers.Concatenate(name="indices", dtype="int64")(found) if len(found) > 1 else found[0]
    return inputs, scaled, ops.add(encoding.first_indices, indices)  # the other way round Keras adds a bias


def missing_to_nan(cells: keras.KerasTensor) -> keras.KerasTensor:
    """Numbers as float64, NaN where an int64 is MISSING."""
    from keras import ops

    if cells.dtype != "int64":
        return cells
    sign = ops.where(ops.equal(cells, np.array(MISSING)), -1.0, 1.0)  # the root is NaN, which JSON cannot hold
    return ops.cast(cells, "float64") * ops.cast(ops.sqrt(sign), "float64")


def no_value(integers: bool) -> int | str:
    """A value no cell means, for a vocabulary that must not be empty: text with white space at its ends, or no id."""
    return UNSEEN + 1 if integers else " nothing "


def rename_clashing_layers(output: keras.KerasTensor, columns: set[str]) -> None:
    """Rename layers and operations that lead to an output and are called like a column: its input keeps the name."""
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

    def is_odd(name: str) -> bool:
        small = name.lower()
        clashes = lower[small] > 1 or small in taken or small.startswith("input_")
        return clashes or not plain.fullmatch(name) or keyword.iskeyword(name)

    return {name: graph_name(name, f"input_{place}") if is_odd(name) else name for place, name in enumerate(columns)}


def raw_inputs(table: Table, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Raw columns of a table as the saved model takes them: arrays [rows, 1]."""
    values = {column.name: table.numbers[rows, place] for place, column in enumerate(table.of_kind("number"))}
    for name, whole in zip(list(values), table.scales.whole, strict=True):
        if whole:
            values[name] = np.where(np.isnan(values[name]), MISSING, np.nan_to_num(values[name]).astype(np.int64))
    for place, column in enumerate(table.of_kind("category")):
        kind = np.int64 if column.integers else object
        values[column.name] = np.array(column.vocabulary, kind)[table.codes[rows, place]]
    return {name: part[:, None] for name, part in values.items()}


def model_archive(model: keras.Model) -> bytes:
    """The .keras archive of a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILE
        model.save(path)
        return path.read_bytes()


class Archive:
    """Makes the .keras file of a model with other values of its variables: in 1 ms, where saving anew takes 60 ms.

    The model is saved once with the number of each variable as its value, which tells where in the file it is.
    """

    weights_entry = "model.weights.h5"

    def __init__(self, model: keras.Model) -> None:
        import h5py

        variables = [variable for variable in model.variables if variable.dtype == "float32"]
        values = [variable.numpy() for variable in variables]
        for number, variable in enumerate(variables):
            variable.assign(np.full(variable.shape, number, np.float32))
        template = model_archive(model)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        with zipfile.ZipFile(io.BytesIO(template)) as archive:
            self.entries = {name: archive.read(name) for name in archive.namelist()}
        self.places: dict[int, slice] = {}  # by the id of a variable: where its bytes are

        def learn(_: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype == np.float32:
                start = item.id.get_offset()
                self.places[id(variables[int(item[...].flat[0])])] = slice(start, start + item.nbytes)

        with h5py.File(io.BytesIO(self.entries[self.weights_entry]), "r") as file:
            file.visititems(learn)

    def write(self, values: list[tuple[keras.Variable, np.ndarray]], entries: dict[str, str]) -> bytes:
        """The file with these values, and with more entries, of text."""
        weights = bytearray(self.entries[self.weights_entry])
        for variable, value in values:
            weights[self.places[id(variable)]] = value.astype("<f4").tobytes()
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as target:
            for name, content in (self.entries | {self.weights_entry: bytes(weights)} | entries).items():
                target.writestr(name, content)
        return out.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# Training

SEGMENT_ROWS = 16_384  # training rows encoded at a time
VALIDATION_SEGMENT = 4_096  # validation rows encoded at a time
SEGMENT_CELLS = 1 << 25  # inputs encoded at a time, of either: 128 MB
COUNTS = ["loss", "true_positive", "predicted", "positive"]
HISTORY = [*COUNTS, *(f"val_{name}" for name in COUNTS), "learning_rate"]


class Plan(NamedTuple):
    """What the training program is specialised to."""

    network: keras.Model  # of training_network()
    byte_rows: int  # S: the random bytes it takes for each row of a batch
    width: int  # E
    batch_size: int
    segments: int  # an epoch is cut into segments, so that only one at a time is gathered and encoded
    steps: int  # a segment
    epochs_per_call: int
    validation_rows: int  # the most any fold has
    weight_decay: float
    patience: int  # epochs; 0: never stop
    plateau: int  # epochs; 0: never reduce the learning rate
    precision: str
    xla: bool
    seed: int
    class_weights: tuple[float, float] = (1.0, 1.0)  # of 0 and of 1
    place: str = "CPU:0"  # the device of the program; all else runs on the CPU, so that results are in full precision

    @property
    def rows(self) -> int:
        """Rows drawn in an epoch; the last batch is filled up with the first rows of the same epoch."""
        return self.segments * self.steps * self.batch_size

    @property
    def validation_segment(self) -> int:
        """Validation rows encoded at a time."""
        return min(VALIDATION_SEGMENT, self.validation_rows, max(1, SEGMENT_CELLS // self.width))


def segment_steps(rows: int, batch_size: int, width: int = 1) -> tuple[int, int]:
    """How many segments an epoch is cut into, and how many steps each has."""
    steps = math.ceil(rows / batch_size)
    fewest = math.ceil(steps / max(1, min(SEGMENT_ROWS, SEGMENT_CELLS // width) // batch_size))
    segments = cut_evenly(steps, fewest, math.ceil)
    return segments, math.ceil(steps / segments)


def cut_evenly(steps: int, fewest: int, rounded: Callable[[float], int]) -> int:
    """How many parts of one rounded length, not fewer than so many, have the number of steps that is nearest."""
    parts = range(fewest, min(steps, 2 * fewest) + 1)
    return min(parts, key=lambda count: abs(count * rounded(steps / count) - steps))


class State(NamedTuple):
    """Everything that changes in training. Vectors are those of Weights."""

    trained: tf.Tensor  # [P]
    moving: tf.Tensor  # [S]
    first_moment: tf.Tensor  # [P]
    second_moment: tf.Tensor  # [P]
    step: tf.Tensor
    epoch: tf.Tensor
    learning_rate: tf.Tensor
    loss_scale: tf.Tensor  # float16 only
    good_steps: tf.Tensor
    best_loss: tf.Tensor
    best_epoch: tf.Tensor
    best_trained: tf.Tensor  # [P]
    best_moving: tf.Tensor  # [S]
    wait: tf.Tensor  # epochs since the best
    plateau_loss: tf.Tensor
    plateau_wait: tf.Tensor


def first_state(weights: Weights, learning_rate: float) -> State:
    import tensorflow as tf

    whole, infinite = np.int32(0), np.float32(np.inf)
    zero = np.zeros_like(weights.trained)
    rate, loss_scale = np.float32(learning_rate), np.float32(2**15)
    values = (*weights, zero, zero, whole, whole, rate, loss_scale, whole)
    return State(*map(tf.constant, (*values, infinite, whole, *weights, whole, infinite, whole)))


def encode_rows(encoding: Encoding, encoder: Encoder, features: Features, rows: tf.Tensor) -> tf.Tensor:
    """The inputs of some rows [B] int32: [E, B]."""
    import tensorflow as tf

    scaled = tf.gather(features.scaled, rows, axis=1)
    return encode(scaled, tf.gather(features.indices, rows, axis=1), encoding, encoder, axis=0)


def draw_bytes(plan: Plan, seed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """The random bytes of a step [S, B], one draw for all layers."""
    import tensorflow as tf

    count = plan.batch_size * plan.byte_rows
    algorithm = "threefry" if plan.xla else "philox"  # threefry is XLA's fastest, and exists only there
    words = tf.random.stateless_uniform(
        [math.ceil(count / 4)], [seed, step], minval=None, maxval=None, dtype=tf.uint32, alg=algorithm
    )
    return tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:count], [plan.byte_rows, plan.batch_size])


def run_network(
    plan: Plan,
    state: State,
    inputs: tf.Tensor,
    random_bytes: tf.Tensor,
    training: bool,
    seed: tf.Tensor | int = 0,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Call the network with the values of a state on inputs [E, B]: logits [B], moving values [S], losses of layers."""
    import tensorflow as tf

    network = plan.network
    moving = iter(split_vector(state.moving, moving_variables(network)))
    fixed = [
        # A generator of a layer that draws for itself gets its state from the step, as all else that is random.
        next(moving) if is_moving(variable) else tf.cast(tf.stack([seed + number, state.step]), variable.dtype)
        for number, variable in enumerate(network.non_trainable_variables)
    ]
    trained = split_vector(state.trained, network.trainable_variables)
    logits, after, losses = network.stateless_call(
        trained, fixed, [inputs, random_bytes], training=training, return_losses=True
    )
    kept = [
        value for value, variable in zip(after, network.non_trainable_variables, strict=True) if is_moving(variable)
    ]
    flat = tf.concat([tf.reshape(value, [-1]) for value in kept], 0) if kept else state.moving
    return logits[0], flat, tf.add_n(losses) if losses else tf.constant(0.0)


def row_losses(plan: Plan, logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """The log-loss of each row [B], weighted by its class."""
    import tensorflow as tf

    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=label, logits=logits)
    zero, one = plan.class_weights
    return losses if zero == one == 1 else losses * (zero + (one - zero) * label)


def batch_counts(plan: Plan, logits: tf.Tensor, label: tf.Tensor, valid: tf.Tensor | float = 1.0) -> tf.Tensor:
    """Sum of log-losses, true positives, predicted positives and positives: [4]."""
    import tensorflow as tf

    loss = row_losses(plan, logits, label)
    predicted = tf.cast(logits > 0, tf.float32) * valid
    sums = [loss * valid, predicted * label, predicted, label * valid]
    return tf.stack([tf.reduce_sum(part) for part in sums])


def update(state: State, gradient: tf.Tensor, decay: ArrayLike) -> State:
    """One step of AdamW (Loshchilov and Hutter, 2019) on the flat vector, as keras.optimizers.AdamW takes it."""
    import tensorflow as tf

    step = tf.cast(state.step + 1, tf.float32)
    rate = state.learning_rate
    first = state.first_moment + (gradient - state.first_moment) * (1 - 0.9)
    second = state.second_moment + (tf.square(gradient) - state.second_moment) * (1 - 0.999)
    size = rate * tf.sqrt(1 - tf.pow(0.999, step)) / (1 - tf.pow(0.9, step))
    trained = state.trained - state.trained * (rate * decay) - size * first / (tf.sqrt(second) + 1e-7)
    return state._replace(trained=trained, first_moment=first, second_moment=second)


def train_step(
    plan: Plan, state: State, inputs: tf.Tensor, label: tf.Tensor, random_bytes: tf.Tensor, seed: tf.Tensor
) -> tuple[State, tf.Tensor]:
    """One step on a batch [E, B] and [B]: the new state and the counts [4] of the batch as it was trained."""
    import tensorflow as tf

    half = plan.precision == "float16"
    with tf.GradientTape() as tape, tf.name_scope("forward"):
        tape.watch(state.trained)
        logits, moving, extra = run_network(plan, state, inputs, random_bytes, True, seed)
        loss = tf.reduce_mean(row_losses(plan, logits, label)) + extra
        scaled = loss * state.loss_scale if half else loss
    with tf.name_scope("backward"):
        gradient = tape.gradient(scaled, state.trained)
    if half:
        gradient /= state.loss_scale
    with tf.name_scope("update"):
        kernels = [np.full(variable.shape, len(variable.shape) == 2) for variable in plan.network.trainable_variables]
        after = update(state, gradient, plan.weight_decay * flat_vector(kernels))
        after = after._replace(moving=moving, step=state.step + 1)
    if half:
        after = guard_overflow(state, after, tf.reduce_all(tf.math.is_finite(gradient)))
    with tf.name_scope("metrics"):
        return after, batch_counts(plan, logits, label)


def guard_overflow(before: State, after: State, finite: tf.Tensor) -> State:
    """Dynamic loss scaling (Micikevicius et al., 2018): skip a step that overflowed and halve the scale."""
    import tensorflow as tf

    grown = before.good_steps >= 1_999
    scale = tf.where(finite, tf.where(grown, before.loss_scale * 2, before.loss_scale), before.loss_scale / 2)
    names = ("trained", "moving", "first_moment", "second_moment", "step")
    kept = {name: tf.where(finite, getattr(after, name), getattr(before, name)) for name in names}
    good = tf.where(finite & ~grown, before.good_steps + 1, 0)
    return after._replace(**kept, loss_scale=scale, good_steps=good)


def end_epoch(plan: Plan, state: State, loss: tf.Tensor) -> State:
    """What EarlyStopping and ReduceLROnPlateau of Keras decide from the validation loss of an epoch."""
    import tensorflow as tf

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
        best_trained=tf.where(better, state.trained, state.best_trained),
        best_moving=tf.where(better, state.moving, state.best_moving),
        wait=tf.where(better, 0, state.wait + 1),
        plateau_loss=tf.where(lower, loss, state.plateau_loss),
        plateau_wait=tf.where(stalled, 0, plateau_wait),
    )


def loop(limit: int, body: Callable, values: tuple) -> tuple:
    """Run body(number, *values), which gives new values, for each number below a limit."""
    import tensorflow as tf

    def step(number: tf.Tensor, *now: Any) -> tuple:
        return number + 1, *body(number, *now)

    return tf.while_loop(lambda number, *_: number < limit, step, (0, *values), parallel_iterations=1)[1:]


def train_epoch(
    plan: Plan,
    encoding: Encoding,
    encoder: Encoder,
    features: Features,
    order: tf.Tensor,
    state: State,
    seed: tf.Tensor,
) -> tuple[State, tf.Tensor]:
    """Train on the rows of an epoch in this order: the new state and the sum of the counts [4]."""
    import tensorflow as tf

    size, zero = plan.batch_size, tf.zeros(len(COUNTS))

    def segment(index: tf.Tensor, state: State, total: tf.Tensor) -> tuple:
        chosen = tf.slice(order, [index * plan.steps * size], [plan.steps * size])
        encoded, label = encode_rows(encoding, encoder, features, chosen), tf.gather(features.label, chosen)

        def step(number: tf.Tensor, state: State, part: tf.Tensor) -> tuple:
            batch = tf.slice(encoded, [0, number * size], [plan.width, size])
            batch_label = tf.slice(label, [number * size], [size])
            state, counts = train_step(plan, state, batch, batch_label, draw_bytes(plan, seed, state.step), seed)
            return state, part + counts

        state, part = loop(plan.steps, step, (state, zero))
        return state, total + part

    return loop(plan.segments, segment, (state, zero))


def validate(
    plan: Plan, encoding: Encoding, encoder: Encoder, features: Features, rows: tf.Tensor, state: State
) -> tf.Tensor:
    """The sum of the counts [4] of validation rows, which are padded with -1."""
    import tensorflow as tf

    size = plan.validation_segment

    def segment(index: tf.Tensor, total: tf.Tensor) -> tuple:
        chosen = tf.slice(rows, [index * size], [size])
        valid, chosen = tf.cast(chosen >= 0, tf.float32), tf.maximum(chosen, 0)
        encoded = encode_rows(encoding, encoder, features, chosen)
        unused = tf.zeros([plan.byte_rows, size], tf.uint8)
        logits, _, _ = run_network(plan, state, encoded, unused, training=False)
        return (total + batch_counts(plan, logits, tf.gather(features.label, chosen), valid),)

    return loop(math.ceil(plan.validation_rows / size), segment, (tf.zeros(len(COUNTS)),))[0]


def build_program(plan: Plan, encoding: Encoding) -> Callable:
    """The training program: a call runs up to plan.epochs_per_call whole epochs and their validation, in one go.

    program(features, encoder, validation [rows, padded with -1], order [epochs, rows], state, seed, last epoch) gives
    the new state, a history [epochs, 9] and the trained [epochs, P] and moving [epochs, S] weights after each epoch.
    """
    import tensorflow as tf

    def program(
        features: Features,
        encoder: Encoder,
        validation: tf.Tensor,
        orders: tf.Tensor,
        state: State,
        seed: tf.Tensor,
        last: tf.Tensor,
    ) -> tuple:
        def epoch(index: tf.Tensor, state: State, history: tf.Tensor, trained: tf.Tensor, moving: tf.Tensor) -> tuple:
            rate = state.learning_rate
            state, counts = train_epoch(plan, encoding, encoder, features, orders[index], state, seed)
            validated = validate(plan, encoding, encoder, features, validation, state)
            loss = validated[0] / tf.reduce_sum(tf.cast(validation >= 0, tf.float32))
            row = tf.concat([counts, [loss], validated[1:], [rate]], 0)
            history, trained, moving = (
                tf.tensor_scatter_nd_update(kept, [[index]], [part])
                for kept, part in ((history, row), (trained, state.trained), (moving, state.moving))
            )
            return index + 1, end_epoch(plan, state, loss), history, trained, moving

        def more(index: tf.Tensor, state: State, *_: tf.Tensor) -> tf.Tensor:
            going = (index < plan.epochs_per_call) & (state.epoch < last)
            return going & (state.wait < plan.patience) if plan.patience else going

        widths = (len(HISTORY), state.trained.shape[0], state.moving.shape[0])
        empty = [tf.zeros([plan.epochs_per_call, width]) for width in widths]
        return tf.while_loop(more, epoch, (0, state, *empty), parallel_iterations=1)[1:]

    return tf.function(program, jit_compile=plan.xla, autograph=False)


@dataclass
class Fold:
    """One network in training: its rows, how it sees them, and what is known of it so far."""

    number: int
    split: Split
    encoder: Encoder
    linear: np.ndarray  # [L + 1] the logistic regression of its training rows
    own: Split | None = None  # the rows that this process trains it on and stops it by, when others have more
    state: State | None = None
    validation: tf.Tensor | None = None  # rows, int32, padded with -1
    seed: tf.Tensor | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    now: Weights | None = None  # at the end of the last epoch
    best: Weights | None = None
    best_loss: float = math.inf
    best_epoch: int = 0
    reason: str = ""  # why training ended; empty while it goes on
    failed: bool = False  # the loss is not a number


def start_fold(plan: Plan, fold: Fold) -> None:
    """Give a fold the tensors that the program takes."""
    import tensorflow as tf

    size, rows = plan.validation_segment, (fold.own or fold.split).validation
    padding = math.ceil(plan.validation_rows / size) * size - len(rows)
    fold.validation = tf.constant(np.pad(rows, (0, padding), constant_values=-1))
    fold.seed = tf.constant(plan.seed + 7_919 * fold.number, tf.int32)


class StopRequest:
    """Whether a signal has asked training to stop, and which."""

    signal: int = 0
    committing: bool = False  # the files of the run are being put into their places


def trace_program(plan: Plan, program: Callable, features: Features, fold: Fold) -> Callable:
    """Trace the program, in Python; what is returned compiles it, outside of Python, by a call that runs no epoch."""
    import tensorflow as tf

    blank = tf.zeros([plan.epochs_per_call, plan.rows], tf.int32)
    state = first_state(current_weights(plan.network), 0.0)
    arguments = (features, fold.encoder, fold.validation, blank, state, fold.seed, tf.constant(0))

    def at_place(call: Callable) -> None:
        with tf.device(plan.place):
            call(*arguments)

    at_place(program.get_concrete_function)
    return lambda: at_place(program)


def train_folds(
    plan: Plan,
    program: Callable,
    features: Features,
    folds: list[Fold],
    epochs: int,
    callbacks: keras.callbacks.CallbackList,
    stop: StopRequest,
    group: Alone | None = None,
) -> None:
    """Train all folds to their ends, side by side on as many threads as there are cores.

    Every fold is trained by its own calls of the one program, and so gets the same bits as when trained alone: the
    order of rows in an epoch follows from (seed, fold, epoch), the dropout from (seed, fold, step). A call may run
    several epochs; the callbacks hear of each of them when it is over, and may stop training by model.stop_training.
    """
    import tensorflow as tf

    last, group = tf.constant(epochs), group or Alone()
    drawn: dict[int, Future] = {}  # the orders of the next call of each fold, drawn while the program runs

    def draw_orders(fold: Fold, epoch: int) -> tf.Tensor:
        return tf.constant(np.stack([epoch_order(plan, fold, epoch + ahead) for ahead in range(plan.epochs_per_call)]))

    def call(fold: Fold) -> list[np.ndarray]:
        epoch, number = len(fold.history), fold.number
        orders = drawn.pop(number).result() if number in drawn else draw_orders(fold, epoch)
        if epoch + plan.epochs_per_call < epochs:
            drawn[number] = drawing.submit(draw_orders, fold, epoch + plan.epochs_per_call)
        with tf.profiler.experimental.Trace("train", step_num=epoch, _r=1):  # a root: TensorBoard takes it for a step
            arguments = (features, fold.encoder, fold.validation, orders, fold.state, fold.seed, last)
            with tf.device(plan.place):  # which each thread has its own of
                fold.state, *records = program(*arguments)
            done = int(fold.state.epoch) - epoch
        return [part.numpy()[:done] for part in records]

    with ThreadPoolExecutor(1) as drawing, ThreadPoolExecutor(min(len(folds), os.cpu_count() or 1)) as pool:
        while (active := [fold for fold in folds if not fold.reason]) and not stop.signal:
            epoch = len(active[0].history)
            callbacks.on_epoch_begin(epoch)
            results = group.call_folds(pool, call, active)
            for ahead in range(max(len(history) for history, _, _ in results)):
                for fold, (history, trained, moving) in zip(active, results, strict=True):
                    if ahead < len(history) and not fold.failed:
                        record_epoch(plan, fold, history[ahead], Weights(trained[ahead], moving[ahead]))
                    if ahead == len(history) - 1:  # before the state is saved
                        fold.reason = fold.reason or end_reason(plan, fold, epochs)
                if ahead:
                    callbacks.on_epoch_begin(epoch + ahead)
                callbacks.on_epoch_end(epoch + ahead, mean_logs(folds, epoch + ahead + 1))
                if callbacks.model.stop_training:
                    break
            for fold in active:
                asked = "a callback asked for it" if callbacks.model.stop_training else ""
                fold.reason = fold.reason or end_reason(plan, fold, epochs) or asked


def end_reason(plan: Plan, fold: Fold, epochs: int) -> str:
    """Why a fold's training is over; empty when it is not."""
    if plan.patience and int(fold.state.wait) >= plan.patience:
        return f"no better validation loss for {plan.patience} epochs"
    return f"reached the limit of {epochs:,} epochs" if len(fold.history) >= epochs else ""


def record_epoch(plan: Plan, fold: Fold, row: np.ndarray, weights: Weights) -> None:
    logs = epoch_logs(row, plan.rows, len(fold.split.validation))
    fold.history.append(logs)
    if not (math.isfinite(logs["loss"]) and math.isfinite(logs["val_loss"])):
        fold.failed, fold.reason = True, f"the loss is not a number in epoch {len(fold.history)}"
        return
    fold.now = weights
    if logs["val_loss"] < fold.best_loss:
        fold.best_loss, fold.best_epoch, fold.best = logs["val_loss"], len(fold.history), weights


def epoch_logs(row: np.ndarray, rows: int, validation_rows: int) -> dict[str, float]:
    """One row of the program's history as the logs of an epoch."""
    values = dict(zip(HISTORY, (float(value) for value in row), strict=True))
    logs = {}
    for prefix, total in (("", rows), ("val_", validation_rows)):
        hits, predicted, positive = (values[f"{prefix}{name}"] for name in COUNTS[1:])
        logs[f"{prefix}loss"] = values[f"{prefix}loss"] / (1 if prefix else total)  # val_loss is a mean already
        logs[f"{prefix}accuracy"] = 1 - (predicted + positive - 2 * hits) / total
        logs[f"{prefix}precision"] = hits / predicted if predicted else 0.0
        logs[f"{prefix}recall"] = hits / positive if positive else 0.0
    return logs | {"learning_rate": values["learning_rate"]}


def mean_logs(folds: list[Fold], epoch: int) -> dict[str, float]:
    """The logs of an epoch, a mean over folds; one that has stopped keeps its last, so that the mean does not jump."""
    logs = [fold.history[min(epoch, len(fold.history)) - 1] for fold in folds]
    return {name: sum(entry[name] for entry in logs) / len(logs) for name in logs[0]}


def epoch_order(plan: Plan, fold: Fold, epoch: int) -> np.ndarray:
    """The rows of an epoch in the order they are drawn: int32 [plan.rows], every training row at least once."""
    order = np.random.default_rng([plan.seed, 1, fold.number, epoch]).permutation((fold.own or fold.split).training)
    return np.resize(order, plan.rows)


def callback_list(
    callbacks: list[Any], saved: SavedModel, folds: list[Fold], epochs: int, steps: int
) -> keras.callbacks.CallbackList:
    """Drives the parts of a run that listen to its epochs, and any callbacks of Keras.

    Those of Keras find the weights of the epoch in the model. The others are plain objects with methods that are called
    as Keras calls its callbacks'; they take what they need from the folds, which saves writing it into the model.
    Batches never reach the host, so that on_train_batch_* is not called.
    """
    from keras.callbacks import Callback, CallbackList, LambdaCallback

    def write_weights(epoch: int, logs: dict[str, float]) -> None:
        if all(fold.now for fold in folds):
            saved.assign([fold.now for fold in folds])

    def as_callback(listener: Any) -> Callback:
        if isinstance(listener, Callback):
            return listener
        hooks = ("on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end")
        return LambdaCallback(**{name: getattr(listener, name) for name in hooks if hasattr(listener, name)})

    listeners = [as_callback(part) for part in callbacks]
    if any(isinstance(part, Callback) for part in callbacks):
        listeners.insert(0, LambdaCallback(on_epoch_end=write_weights))
    saved.model.stop_training = False
    return CallbackList(listeners, model=saved.model, epochs=epochs, steps=steps)


# ---------------------------------------------------------------------------------------------------------------------
# Logging


class Output:
    """Prints for the user. A standard output that is full or gone ends no training: it is told when that is over."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.failure = quiet, ""

    def print(self, *lines: str) -> None:
        self.show(lambda: print("\n".join(lines), flush=True))

    def show(self, write: Callable[[], object]) -> None:
        """Call what writes to standard output."""
        if self.quiet:
            return
        try:
            write()
        except (OSError, ValueError) as error:
            if not isinstance(error, BrokenPipeError):  # which means that whoever reads this has enough of it
                self.failure = getattr(error, "strerror", None) or str(error)
            self.quiet = True
            drop_output()


def print_error(words: str) -> None:
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
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)


class Progress:
    """On a terminal a bar in one line, as wide as the terminal; elsewhere a plain line every few epochs."""

    def __init__(self, epochs: int, output: Output) -> None:
        self.epochs, self.output, self.bar, self.first = epochs, output, None, 0
        self.started = self.shown = time.perf_counter()

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.started = time.perf_counter()
        if sys.stdout.isatty() and not self.output.quiet:
            self.output.show(self.start_bar)

    def start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        console = Console(file=sys.stdout)
        if console.is_terminal and not console.is_dumb_terminal:
            text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="crop"))
            settings = {"auto_refresh": False, "transient": True, "expand": True, "redirect_stderr": False}
            self.bar = Progress(text, BarColumn(None), console=console, **settings)
            self.bar.add_task(f"epoch   0/{self.epochs}", total=self.epochs)
            self.bar.start()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.first, epoch, now = self.first or epoch + 1, epoch + 1, time.perf_counter()
        parts = {"epoch": f"epoch {epoch:3d}/{self.epochs}"}
        parts |= {name: f"{name} {logs[name]:.4f}" for name in ("loss", "val_loss")}
        parts["accuracy"] = f"val_accuracy {logs['val_accuracy']:.3f}"
        if not self.bar:
            if epoch in (1, 2, 5) or epoch % 10 == 0:
                self.output.print("  ".join(parts.values()))
        elif epoch == self.first or now - self.shown >= 0.05:
            self.shown, seconds = now, (now - self.started) / (epoch - self.first + 1)
            if now - self.started > 1:
                parts["left"] = f"at most {math.ceil(seconds * (self.epochs - epoch)):,} s left"
            for name in ("loss", "left", "accuracy"):  # what a narrow terminal goes without first
                if len("  ".join(parts.values())) > self.bar.console.width - 8:
                    parts.pop(name, None)
            words = "  ".join(parts.values())
            self.output.show(lambda: self.bar.update(0, completed=epoch, description=words, refresh=True))

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self.bar:
            with contextlib.suppress(OSError, ValueError):  # the terminal is gone
                self.bar.stop()


HYPERPARAMETERS = ("architecture", "batch_size", "folds", "learning_rate", "seed")  # the most telling
HYPERPARAMETERS += ("adamw", "class_weight", "early_stopping", "epochs", "patience", "precision", "reduce_lr", "split")


class EventLog:
    """TensorBoard's event files of a run: logs/<run>/train and validation."""

    def __init__(self, folder: Path, epochs: int, rows: int, folds: list[Fold], values_of: Callable) -> None:
        import tensorflow as tf

        self.folder, self.folds, self.writers, self.failure = folder, folds, {}, ""
        for name in ("train", "validation"):
            (folder / name).mkdir(exist_ok=True)
            self.writers[name] = tf.io.TFRecordWriter(str(folder / name / f"events.out.tfevents.{time.time():.6f}"))
            self.add(name, file_version="brain.Event:2")
        if self.failure:
            raise OSError(self.failure)
        self.epoch_rows, self.every = rows, max(1, epochs // 10)
        self.values_of = values_of  # values_of(fold, weights): what the histograms show, by tag
        self.drawn = 0  # the last epoch with histograms
        self.clock, self.rows = (time.perf_counter(), time.process_time()), 0.0

    def add(self, writer: str, step: int = 0, built: Any = None, **content: Any) -> None:
        """Add a summary or a graph. Logs are not worth a model: after the first failure nothing more is written."""
        from tensorboard.compat.proto.event_pb2 import Event

        try:
            if not self.failure:
                event = Event(wall_time=time.time(), step=step, **content)
                if built:  # a summary of TensorFlow's class or of TensorBoard's, which have the same bytes
                    event.summary.MergeFromString(built.SerializeToString())
                self.writers[writer].write(event.SerializeToString())
                self.writers[writer].flush()
        except Exception as error:  # of TensorFlow's kinds or the system's
            self.failure = (str(error) or type(error).__name__).splitlines()[0]

    def scalars(self, writer: str, step: int, values: dict[str, float]) -> None:
        parts = [{"tag": tag, "simple_value": value} for tag, value in values.items()]
        self.add(writer, step, summary={"value": parts})

    def text(self, tag: str, lines: list[str]) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        indented = "\n".join("    " + line for line in lines)  # so that it is shown as it stands
        self.add("train", 0, text_pb(tag, [indented]))

    def graphs(self, saved: SavedModel, config: dict[str, Any], plan: Plan, state: State) -> None:
        """The first network from raw columns on and a training step as operations; the whole model as Keras layers."""
        import tensorflow as tf

        first, size = saved.first, plan.batch_size
        names = input_names(list(first.input))
        inputs = {key: tf.TensorSpec([None, 1], part.dtype, names[key]) for key, part in first.input.items()}
        forward = tf.function(lambda inputs: first(inputs, training=False), autograph=False)
        state = State(*(tf.TensorSpec.from_tensor(part, name) for name, part in state._asdict().items()))
        batch = tf.zeros([plan.width, size]), tf.zeros(size), tf.zeros([plan.byte_rows, size], tf.uint8), tf.constant(0)
        step = tf.function(train_step, autograph=False)
        network, training = (
            function.get_concrete_function(*values).graph.as_graph_def(add_shapes=True)
            for function, values in ((forward, [inputs]), (step, [plan, state, *batch]))
        )
        scope_columns(network, tuple(layer.name for layer in saved.networks[0].layers))
        self.add("train", graph_def=network.SerializeToString())
        metadata = tf.compat.v1.RunMetadata()
        metadata.function_graphs.add().pre_optimization_graph.CopyFrom(training)
        self.graph("training_step", metadata.SerializeToString(), "graph_run_metadata_graph")
        for layer in config["config"]["layers"]:
            for node in layer["inbound_nodes"]:  # TensorBoard takes no numbers as arguments of operations
                node["args"] = [part for part in node["args"] if isinstance(part, dict | list)]
        self.graph("keras", json.dumps(config), "graph_keras_model")

    def graph(self, tag: str, content: str | bytes, plugin: str) -> None:
        import tensorflow as tf

        data = {"plugin_data": {"plugin_name": plugin, "content": b"1"}}
        value = {"tag": tag, "tensor": tf.make_tensor_proto(content), "metadata": data}
        self.add("train", 0, tf.compat.v1.Summary(value=[value]))

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Add an epoch: means over folds, and the spread of their validation losses when they are many."""
        epoch, names = epoch + 1, ("loss", "accuracy", "precision", "recall")
        trained = [fold for fold in self.folds if len(fold.history) >= epoch]
        self.rows += self.epoch_rows * len(trained)
        now = (time.perf_counter(), time.process_time())
        seconds, used = np.subtract(now, self.clock)
        values = {f"epoch/{name}": logs[name] for name in (*names, "learning_rate")}
        if seconds > 0.1 or epoch == 1:  # epochs of one call end together: their speed is that of the call
            values["speed/rows_per_second"] = self.rows / seconds
            values["speed/cpu_share"] = used / seconds / (os.cpu_count() or 1)
            with contextlib.suppress(OSError, ValueError):  # of systems that have no /proc
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                values["speed/resident_megabytes"] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
            self.clock, self.rows = now, 0.0
        self.scalars("train", epoch, values)
        values = {f"epoch/{name}": logs[f"val_{name}"] for name in names}
        if len(self.folds) > 1:
            losses = [mean_logs([fold], epoch)["val_loss"] for fold in self.folds]
            values |= {"folds/lowest_loss": min(losses), "folds/highest_loss": max(losses)}
        self.scalars("validation", epoch, values)
        if epoch == 1 or epoch % self.every == 0:
            self.histograms(epoch)

    def histograms(self, epoch: int) -> None:
        """All weights and activations, pooled over folds: of the best epoch since the last time, and of now."""
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb

        best = max(fold.best_epoch for fold in self.folds)
        for number, name in ((best, "best"), (epoch, "now")):  # TensorBoard wants steps in order
            chosen = [getattr(fold, name) for fold in self.folds]
            if number > self.drawn and None not in chosen:
                self.drawn = number
                values = list(map(self.values_of, self.folds, chosen))
                for tag in values[0]:
                    pooled = np.concatenate([np.ravel(part[tag]) for part in values])
                    self.add("train", number, histogram_pb(tag, pooled))

    def curve(self, tag: str, step: int, label: np.ndarray, probability: np.ndarray) -> None:
        """A precision-recall curve."""
        from tensorboard.plugins.pr_curve import summary

        curve = summary.pb(tag, label, probability, num_thresholds=101, display_name="")
        curve.value[0].tag = tag  # without the name of the plugin behind it
        self.add("validation", step, curve)

    def trial(self, settings: dict[str, Any], results: dict[str, float], step: int) -> None:
        """This run as a row of the HParams tab: hyperparameters, and metrics of validation and test rows."""
        from tensorboard.plugins.hparams import api_pb2, summary

        self.scalars("validation", step, results)
        values = {name: settings[name] for name in HYPERPARAMETERS}
        # TensorBoard sorts those that differ to the front, and shows the first five.
        columns = [api_pb2.HParamInfo(name=name, differs=name in HYPERPARAMETERS[:5]) for name in values]
        metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in results]
        self.add("validation", 0, summary.experiment_pb(columns, metrics))
        self.add("validation", 0, summary.session_start_pb(values, group_name=self.folder.name))
        self.add("validation", 0, summary.session_end_pb(api_pb2.STATUS_SUCCESS))

    def close(self) -> None:
        try:
            for writer in self.writers.values():
                writer.close()
        except Exception as error:
            self.failure = self.failure or str(error)


class Profile:
    """Profiles ten epochs after the first, each marked as a step; TensorBoard shows them when xprof is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = str(folder), contextlib.ExitStack()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        import tensorflow as tf

        if epoch == 1:
            self.running.enter_context(tf.profiler.experimental.Profile(self.folder))
        if epoch == 11:
            self.running.close()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.running.close()


def scope_columns(graph: Any, network: tuple[str, ...]) -> None:
    """Put the operations between the columns and the layers of the network into two name scopes: by kind of column."""
    sources = {node.name: {name.removeprefix("^").partition(":")[0] for name in node.input} for node in graph.node}
    columns = {node.name for node in graph.node if node.op == "Placeholder" and "/" not in node.name}
    looked_up = (sources[node.name] for node in graph.node if node.op.startswith("LookupTable"))
    categories, new = columns.intersection(set().union(*looked_up)), {}
    for scope, starts in (("numbers", columns - categories), ("categories", categories)):
        inside, constants = set(starts), set()
        for node in graph.node:  # in the order of computation
            data, inner = sources[node.name] - constants, node.name.partition("/")[2]
            if not data and node.name not in columns:
                constants.add(node.name)
            elif data and data <= inside and inner and not inner.startswith(network):
                inside.add(node.name)
        for node in reversed(graph.node):
            if node.name in inside:
                inside |= constants & sources[node.name]
        new |= {name: name.replace("/", f"/{scope}/", 1) for name in inside - columns}
    for node in graph.node:
        node.name = new.get(node.name, node.name)
        for place, name in enumerate(node.input):  # which may be ^operation or operation:2
            node.input[place] = re.sub(r"[^^:]+", lambda found: new.get(found[0], found[0]), name, count=1)


def run_name(options: argparse.Namespace, folds: int) -> str:
    """What a run is called: its network, the number of folds, and what else of its settings is not the default."""
    parser, parts = build_parser(), [options.architecture, f"folds{folds}"]
    for name in HYPERPARAMETERS:
        value = getattr(options, name, None)
        if name not in ("architecture", "folds") and value != parser.get_default(name):
            parts.append(f"no_{name}" if value is False else f"{name}{value}")
    return "_".join(parts)


def run_folder(logs: Path, name: str) -> Path:
    """A folder of its own for this run, also when two start in one second."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}_{name}"
    for folder in (logs / name, *(logs / f"{name}_{number}" for number in range(2, 1_000))):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise OSError(f"{logs}: a thousand runs in one second")


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation

RESAMPLES = 1_000
BOOTSTRAP_ROWS = 5_000  # more rows than this are resampled in part, and the interval narrowed accordingly
CALIBRATION_ROWS = 20_000  # from which a temperature is known well enough
LINEAR_ROWS = 50_000  # a linear model learns nothing more from more rows
EQUAL_ROWS = 800  # training rows from which one net is expected to say more than a logistic regression does
SHARE_WEIGHT = 20  # of that expectation, in validation rows that are certain
MIXED_PENALTY = 0.3  # of the logistic regression that one net is mixed with; best for 80 to 500 rows


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))


def wilson(successes: float, trials: float) -> list[float]:
    """95 % interval of a proportion (Wilson, 1927)."""
    if not trials:
        return [0.0, 1.0]
    z, share = 1.959964, successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def ranking(label: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ROC AUC and PR AUC (average precision) of weighted rows: label, probability [N], weights [R, N] give [R], [R]."""
    order = np.argsort(probability, kind="stable")
    _, starts = np.unique(probability[order], return_index=True)
    positive, negative = (np.add.reduceat((weights * part)[:, order], starts, axis=1) for part in (label, 1 - label))
    below = np.cumsum(negative, axis=1) - negative
    positives, negatives = positive.sum(axis=1), negative.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        roc = (positive * (below + negative / 2)).sum(axis=1) / (positives * negatives)
        hits, predicted = np.cumsum(positive[:, ::-1], axis=1), np.cumsum((positive + negative)[:, ::-1], axis=1)
        precision = np.where(predicted > 0, hits / predicted, 0)
        pr = (positive[:, ::-1] * precision).sum(axis=1) / positives
    return roc, pr


def log_losses(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    probability = np.clip(probability.astype(float), 1e-7, 1 - 1e-7)
    return -np.where(label > 0.5, np.log(probability), np.log1p(-probability))


def whole_scores(label: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """ROC AUC, PR AUC and log-loss of rows that all count once."""
    roc, pr = ranking(label, probability, np.ones((1, len(label))))
    return {"roc_auc": float(roc[0]), "pr_auc": float(pr[0]), "log_loss": float(log_losses(label, probability).mean())}


@functools.lru_cache(1)  # all models that are tested on the same rows are compared on the same samples
def resamples(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of many rows are resampled, and how often each counts in each of R samples [R, rows] (Efron, 1979)."""
    generator = np.random.default_rng([seed, 2])
    chosen = np.arange(rows) if rows <= BOOTSTRAP_ROWS else generator.choice(rows, BOOTSTRAP_ROWS, replace=False)
    count = len(chosen)
    weights = generator.multinomial(count, np.full(count, 1 / count), min(RESAMPLES, 1_000_000 // count))
    return chosen, weights.astype(np.float32)


def interval_ends(resampled: np.ndarray, whole: float, rows: int) -> list[float]:
    """How far the ends of the 95 % interval of a score of so many rows are from it; its values in resamples are [R]."""
    values = resampled[np.isfinite(resampled)]
    percentiles = np.percentile(values, [2.5, 97.5]) if len(values) else []  # no sample has both classes
    return [float(end - whole) * math.sqrt(min(1, BOOTSTRAP_ROWS / rows)) for end in percentiles]


def bootstrap(label: np.ndarray, probability: np.ndarray, seed: int) -> dict[str, list[float]]:
    """How far the ends of 95 % intervals are from the scores of predictions [N]."""
    rows, (chosen, weights) = len(label), resamples(len(label), seed)
    label, probability = label[chosen], probability[chosen]
    resampled = [*ranking(label, probability, weights), weights @ log_losses(label, probability) / len(chosen)]
    whole = whole_scores(label, probability)
    ends = {name: interval_ends(values, whole[name], rows) for name, values in zip(whole, resampled, strict=True)}
    if min(label.sum(), len(label) - label.sum()) < 2:  # every resample ranks the one row of its class alike
        ends |= {"roc_auc": [], "pr_auc": []}
    return ends


def tenths(probability: np.ndarray) -> np.ndarray:
    """The bin, of ten of equal width, that each probability is in: 0 to 9."""
    return np.minimum((probability * 10).astype(int), 9)


def measure(label: np.ndarray, probability: np.ndarray, threshold: float, seed: int) -> dict[str, Any]:
    """Everything metrics.json says of predictions [N] against labels [N]."""
    cells = np.bincount(2 * (label > 0.5) + (probability >= threshold), minlength=4).reshape(2, 2).tolist()
    (right, false), (missed, hits) = cells
    correct, rows = right + hits, len(label)
    shares = {"accuracy": (correct, rows), "precision": (hits, hits + false), "recall": (hits, hits + missed)}
    result = {}
    for name, (successes, trials) in shares.items():
        result |= {name: successes / max(1, trials), f"{name}_ci95": wilson(successes, trials)}
    gaps = np.bincount(tenths(probability), probability - label, minlength=10)  # of calibration (Naeini et al., 2015)
    result |= {"f1": 2 * hits / max(1, 2 * hits + false + missed), **whole_scores(label, probability)}
    result |= {"brier": float(np.mean(np.square(probability - label))), "ece": float(np.abs(gaps).sum() / rows)}
    result["confusion"] = cells
    for name, ends in bootstrap(label, probability, seed).items():
        result[f"{name}_ci95"] = [result[name] + end for end in ends] or None
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in result.items()}


def choose_threshold(rule: tuple[str, float | None], label: np.ndarray, probability: np.ndarray) -> Choice:
    """The threshold that serves a rule best on rows that were not trained on: [N], [N]."""
    name, number = rule
    if name == "fixed":
        return Choice(number, "as requested" if number != 0.5 else "the more likely class")
    if name == "cost":
        return Choice(number, "the expected cost of both mistakes is equal there")
    order = np.argsort(-probability, kind="stable")
    probability, hits = probability[order], np.cumsum(label[order])
    predicted, positives = np.arange(1, len(label) + 1), label.sum()
    precision, recall = hits / predicted, hits / positives
    least = number or 0.0
    score = {
        "f1": 2 * hits / (predicted + positives),
        "balanced": recall + 1 - (predicted - hits) / max(1, len(label) - positives),
        "precision": np.where(precision >= least, 1 + recall, precision),
        "recall": np.where(recall >= least, 1 + precision, recall),
    }[name]
    last = np.append(np.diff(probability) != 0, True)  # between equal probabilities there is no threshold
    best = int(np.argmax(np.where(last, score, -1)))
    following = probability[best + 1] if best + 1 < len(label) else 0.0
    wanted = name if number is None else f"{name} {number:g}"
    missed = "" if number is None or score[best] >= 1 else f"; {wanted} was not reached"
    reason = f"best for {wanted} on {len(label):,} validation rows{missed}"
    return Choice(float((probability[best] + following) / 2), reason)


def fit_temperature(label: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """The divisor of logits that lowers their log-loss most (Guo et al., 2017), held near 1 when rows are few.

    Second comes what it lowers: the sum of the log-losses and how far the divisor is from 1.
    """
    step = max(1, len(label) // CALIBRATION_ROWS)
    label, logits = label[::step], logits[::step]
    logarithms = np.linspace(-0.7, 1.1, 91)
    losses = [log_losses(label, sigmoid(logits / math.exp(value))).sum() + 10 * value**2 for value in logarithms]
    return math.exp(logarithms[int(np.argmin(losses))]), min(losses)


def weighted_linear(plan: Plan, linear: np.ndarray) -> np.ndarray:
    """A linear model [L + 1] of rows as they are, as one of rows that have the weights of their classes."""
    zero, one = plan.class_weights
    return np.append(linear[:-1], linear[-1] + math.log(one / zero))


def linear_logits(rows: SparseRows, weights: np.ndarray) -> np.ndarray:
    return rows.times(weights[:-1]) + weights[-1]


def fit_logistic_regression(rows: SparseRows, label: np.ndarray, width: int, penalty: float = 1.0) -> np.ndarray:
    """Weights [L + 1], the intercept last, of an L2-penalised logistic regression.

    Newton's method whose steps are solved by conjugate gradients (Hestenes and Stiefel, 1952; Komarek and Moore, 2005):
    what an iteration costs follows the cells of the rows, not the square of the inputs.
    """
    ridge = np.append(np.full(width, penalty), 1e-6)

    def back(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.append(rows.transposed_times(values, width), values.sum()) + ridge * weights

    def objective(weights: np.ndarray, logits: np.ndarray) -> float:
        return float(np.sum(np.logaddexp(0, logits) - label * logits) + ridge @ weights**2 / 2)

    weights, logits = np.zeros(width + 1), np.zeros(len(label))
    value = objective(weights, logits)
    for _ in range(50):
        probability = sigmoid(logits)
        curvature = probability * (1 - probability)
        gradient = rest = direction = back(probability - label, weights)
        change, size = np.zeros(width + 1), rest @ rest
        for _ in range(200):
            if size <= 1e-8 * (gradient @ gradient):
                break
            image = back(curvature * linear_logits(rows, direction), direction)
            step = size / (direction @ image)
            change, rest = change + step * direction, rest - step * image
            size, before = rest @ rest, size
            direction = rest + size / before * direction
        along, size = linear_logits(rows, change), 1.0
        while (now := objective(weights - size * change, logits - size * along)) > value and size > 1e-4:
            size /= 2
        weights, logits, gain, value = weights - size * change, logits - size * along, value - now, now
        if gain < 1e-7 * max(1, abs(value)):
            break
    return weights


def fit_linear(
    features: Features, rows: np.ndarray, encoding: Encoding, encoder: Encoder, penalty: float = 1.0, nets: int = 1
) -> np.ndarray:
    """The logistic regression [L + 1] of some rows, of many of a part, fewer where each of many nets takes one."""
    rows = rows[:: max(1, len(rows) * nets // LINEAR_ROWS)]
    sparse = encode_sparse(features, rows, encoding, encoder)
    return fit_logistic_regression(sparse, features.label[rows], encoding.linear_width, penalty)


def row_pieces(rows: np.ndarray, size: int = PIECE_ROWS) -> list[np.ndarray]:
    return np.array_split(rows, max(1, math.ceil(len(rows) / size)))


def measure_baselines(run: Run) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """What anyone could do without a network, always the majority or a linear model: probabilities, and measures."""
    folds, features, linear = run.folds, run.features, []
    for fold in folds:
        pieces = (encode_sparse(features, rows, run.encoding, fold.encoder) for rows in row_pieces(fold.split.test))
        linear += [sigmoid(linear_logits(rows, fold.linear)) for rows in pieces]
    # The same for all folds: their shares, which differ by a row, would rank the rows, and the wrong way round.
    share = float(np.mean([features.label[fold.split.training].mean() for fold in folds]))
    label = features.label[np.concatenate([fold.split.test for fold in folds])]
    guesses = {"majority": np.full(len(label), share), "logistic_regression": np.concatenate(linear)}
    return {name: (guess, measure(label, guess, 0.5, run.options.seed)) for name, guess in guesses.items()}


class Predictor:
    """Runs the networks of the saved model with any weights, in one function for all folds."""

    def __init__(self, saved: SavedModel, encoding: Encoding) -> None:
        import keras
        import tensorflow as tf

        self.network, self.encoding = saved.probe, encoding

        def outputs(weights: Weights, encoded: tf.Tensor) -> list[tf.Tensor]:
            with keras.StatelessScope(named_weights(self.network, weights)):
                return self.network(encoded, training=False)

        vector, rows = tf.TensorSpec([None]), tf.TensorSpec([None, encoding.width])
        self.outputs = tf.function(outputs, input_signature=[Weights(vector, vector), rows], autograph=False)

    def logits(self, features: Features, fold: Fold, weights: Weights, rows: np.ndarray) -> np.ndarray:
        """What a fold's network gives for rows of the table: float64 [B]."""
        pieces = row_pieces(rows, min(PIECE_ROWS, max(1, SEGMENT_CELLS // self.encoding.width)))
        encoded = (encode(*features.take(piece), self.encoding, fold.encoder) for piece in pieces)
        parts = [self.outputs(weights, inputs)[-1] for inputs in encoded]
        return np.concatenate(parts).astype(float)[:, 0]

    def layer_values(self, weights: Weights, encoded: tf.Tensor) -> dict[str, ArrayLike]:
        """All weights of a fold, and what each layer that has some gives for encoded rows, by TensorBoard's tag."""
        values, kinds = {}, {"kernel": "weights", "moving_mean": "mean", "moving_variance": "variance"}
        for variable, value in named_weights(self.network, weights):
            layer, _, name = variable.path.removeprefix("fold_1_").rpartition("/")
            values[f"layers/{layer}/{kinds.get(name, name)}"] = value
        layers = [layer.name.removeprefix("fold_1_") for layer in self.network.layers if layer.trainable_variables]
        *outputs, _ = self.outputs(weights, encoded)
        return values | {f"layers/{layer}/activations": output for layer, output in zip(layers, outputs, strict=True)}


# ---------------------------------------------------------------------------------------------------------------------
# Files: whole or not at all

MARK = "train_model_modern"  # an empty file of this name marks a directory that this program wrote
TEMPORARY = ".train_model_modern-"  # how the names begin of what is not yet, or no longer, in its place
COMMIT_FILE = TEMPORARY + "commit.json"
ARCHIVE_MARKS = {".keras": "training.json", ".npz": "description.npy"}  # entries that only this program writes
MOVE_AWAY = "move it away or name another directory"


def beside(path: Path, process: int | None = None) -> Path:
    """A name of this process, or of another, for what will be moved to a path."""
    name = path.name
    if len(os.fsencode(name)) >= 150:  # with what is added it may be longer than the 255 bytes a name can have
        name = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return path.with_name(f"{TEMPORARY}{process or os.getpid()}-{name}.tmp")


def open_beside(path: Path) -> io.BufferedWriter:
    """A new file for what will be moved to a path, no more open to others than what is there.

    It is never one that exists or that a link leads to.
    """
    new = beside(path)
    new.unlink(missing_ok=True)  # of a process that had the same number
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(new, flags, 0o666), "wb")
    if hasattr(os, "fchmod") and path.is_file() and not path.is_symlink():
        os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
    return file


def write_beside(path: Path, content: bytes) -> Path:
    """Write what will be moved to a path, and see that it is on the disk; nothing is left after a failure."""
    new = beside(path)
    try:
        with open_beside(path) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)  # a full disk does not say where
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    return new


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the place, then move over it: a failure leaves the previous file as it was."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "is a link, which is not followed; move it away", str(path))
    os.replace(write_beside(path, content), path)


def remove(path: Path) -> None:
    """Delete a file, a link, or a directory with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def commit(folder: Path, names: list[str]) -> list[str]:
    """Put those of the files of a run that are written beside their places into them: all or none.

    Those of the model before that have no successor are deleted, and their names returned. A list of them is written
    first. Whoever is killed between two of the moves is finished by the next run.
    """
    if written := [name for name in names if os.path.lexists(beside(folder / name))]:
        write_atomically(folder / COMMIT_FILE, json.dumps({"process": os.getpid(), "names": written}).encode())
        return finish_commit(folder)
    return []


def finish_commit(folder: Path) -> list[str]:
    """Do the moves that the list of a commit still has, or undo all of them when one cannot be done: what is deleted.

    What is not such a list is left alone.
    """
    path = folder / COMMIT_FILE
    try:
        listed = json.loads(path.read_bytes()) if path.is_file() else {}
        process, places = int(listed["process"]), [folder / name for name in listed["names"] if name in RESULT_FILES]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []
    moves = [(beside(place, process), place, beside(Path(f"{place}-before"), process)) for place in places]
    try:
        for new, place, before in moves:
            if os.path.lexists(new):
                set_aside(place, before)
                with contextlib.suppress(FileNotFoundError):  # another process may be finishing it too
                    os.replace(new, place)
    except OSError:
        for move in moves:
            with contextlib.suppress(OSError):
                undo_move(*move)
        path.unlink(missing_ok=True)
        raise
    for _, _, before in moves:
        remove(before)
    stale = RESULT_FILES if folder / MODEL_FILE in places else []
    stale = [name for name in stale if folder / name not in places and is_ours(folder / name)]  # of the model before
    for name in stale:
        remove(folder / name)
    path.unlink(missing_ok=True)
    return stale


def set_aside(place: Path, before: Path) -> None:
    """Keep what is at a place under another name: a file by a second link, so that it is never missing there."""
    if os.path.lexists(place) and not os.path.lexists(before):
        try:
            os.link(place, before, follow_symlinks=False)
        except OSError:  # a directory, or a file system without links
            os.replace(place, before)


def undo_move(new: Path, place: Path, before: Path) -> None:
    """Put back what was at a place, if anything, and delete what is new."""
    if os.path.lexists(before):
        if place.is_dir():  # a directory cannot be moved over
            remove(place)
        os.replace(before, place)
        remove(before)  # still there if both were links to one file: such a move changes nothing
    elif not os.path.lexists(new):  # it was moved to where nothing was before
        remove(place)
    remove(new)


def clear_up(folder: Path) -> None:
    """Finish or remove what this process, or one of this program that is no more, has left half-done."""
    finish_commit(folder)
    for path in (*folder.glob(f"{TEMPORARY}*.tmp"), *folder.glob(f"checkpoints/{TEMPORARY}*.tmp")):
        found = re.match(r"(\d+)-", path.name.removeprefix(TEMPORARY))
        if found and not is_alive(int(found.group(1))):
            with contextlib.suppress(OSError):
                remove(path)


def is_alive(process: int) -> bool:
    """Whether there is another process of this number."""
    try:
        if os.name == "posix":  # elsewhere os.kill would end it
            os.kill(process, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)  # it is there, but another user's
    return process != os.getpid()


def is_ours(path: Path) -> bool:
    """Whether what is at the place of a result was written by this program, so that it may be replaced."""
    if path.is_symlink():
        return False
    if path.name == EXPORTS["saved_model"][0]:
        top = {MARK, "saved_model.pb", "fingerprint.pb", "assets", "variables"}
        own = top | {"variables.index", "variables.data-00000-of-00001"}
        return (path / MARK).is_file() and {part.name for part in path.rglob("*")} <= own
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(1_000)
    if path.suffix in ARCHIVE_MARKS:
        try:
            with zipfile.ZipFile(path) as archive:
                return ARCHIVE_MARKS[path.suffix] in archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return False
    if path.name == METRICS_FILE:
        return start.startswith(b'{\n  "rows":')
    if path.name == PREDICTIONS_FILE:
        return start.splitlines()[:1] in ([b",".join(names)] for names in (PREDICTION_COLUMNS[1:], PREDICTION_COLUMNS))
    if path.name == REPORT_FILE:
        return start.startswith(REPORT_START.encode())
    if path.name == CARD_FILE:
        return start.startswith(b"# Model card: ") and b"\n\nWritten by train_model_modern.py" in start
    if path.suffix == ".onnx":
        return b"train_model_modern" in start  # its producer
    return start[4:8] == b"TFL3" and b"probability" in path.read_bytes()


def refuse_foreign(folder: Path, exports: list[str], training: bool = True) -> None:
    """Refuse a directory where what this program did not write has the name of what it will write."""
    trained = [MODEL_FILE, METRICS_FILE, PREDICTIONS_FILE, RESUME_FILE] if training else []
    for place in (folder / name for name in [*trained, *(EXPORTS[name][0] for name in exports)]):
        if os.path.lexists(place) and not is_ours(place):
            raise UserError(f"{place}: was not written by this program; {MOVE_AWAY} with --model-dir")
    for place in (folder / "checkpoints", folder / "logs") if training else ():
        file = place.name == "checkpoints" and place.exists() and not place.is_dir()  # a run can do without logs
        if place.is_symlink() or file:
            raise UserError(f"{place}: is a link or no directory; {MOVE_AWAY} with --model-dir")


def shared_warning(path: Path) -> str:
    """What to say when others can write where a model or a state is read from; empty when they cannot."""
    if os.name != "posix" or not path.exists():
        return ""
    status = path.stat()
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        danger = "can be written to by every user of this machine: what is read from it may not be yours"
        return f"{path} {danger} (chmod o-w {path})"
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


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the model directory for this process; the lock of a process that died is free.

    What such a process has left half-done is cleared up, and at the end what this one has. The lock holds its number.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        try:
            clear_up(folder)
            yield
        finally:
            clear_up(folder)
        return
    path, no_lock = folder / LOCK_FILE, f"not a lock of this program; {MOVE_AWAY}"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if not os.path.lexists(path):
            raise UserError(f"{folder}: {error.strerror}; name a directory that can be written to") from None
        raise UserError(f"{path}: is a link, a directory or closed to you, {no_lock}") from None
    with open(descriptor, "r+b", buffering=0) as lock:
        status = os.fstat(descriptor)
        regular = stat.S_ISREG(status.st_mode) and status.st_nlink <= 1  # no pipe, and no second link to a file
        holder = lock.read(100).decode("ascii", "replace") if regular else ""
        if not regular or not re.fullmatch(r"\d*", holder):
            raise UserError(f"{path}: is a file of your own, {no_lock}")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            told = (
                f"process {holder or 'unknown'} is training or exporting there; wait for it or name another directory"
            )
            raise UserError(f"--model-dir {folder}: {told}") from None
        lock.truncate(0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        try:
            clear_up(folder)
            yield
        finally:
            clear_up(folder)
            lock.truncate(0)


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints and resuming


class Checkpoints:
    """Writes a model file at each new best epoch, in a thread of its own, and keeps the newest ones."""

    def __init__(self, run: Run) -> None:
        self.run, self.keep, self.folder = run, run.options.keep_checkpoints, run.options.model_dir / "checkpoints"
        self.names = run.description["checkpoints"]  # of the files that are there, the newest last
        self.waiting: deque[tuple[str, list[Weights]]] = deque(maxlen=self.keep or None)  # others would be deleted
        self.failure, self.writer = "", ThreadPoolExecutor(1)
        self.folder.mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Ask for a checkpoint when this epoch is the best of some fold, and every fold has one."""
        epoch, folds = epoch + 1, self.run.folds
        if all(fold.best for fold in folds) and any(fold.best_epoch == epoch for fold in folds):
            accuracy = sum(fold.history[fold.best_epoch - 1]["val_accuracy"] for fold in folds) / len(folds)
            self.waiting.append((f"model_{epoch:02d}_{accuracy:.4f}.keras", [fold.best for fold in folds]))
            self.writer.submit(self.write)

    def write(self) -> None:
        """Write the checkpoint that has waited longest, if it has not been dropped."""
        if not self.waiting:
            return
        name, weights = self.waiting.popleft()
        path = self.folder / name
        try:
            if os.path.lexists(path) and not is_ours(path):
                raise FileExistsError(errno.EEXIST, "a file of your own has the name of a checkpoint", str(path))
            write_atomically(path, self.run.model_file(weights))
            if name not in self.names:
                self.names.append(name)
            while self.keep and len(self.names) > self.keep:
                (self.folder / self.names.pop(0)).unlink(missing_ok=True)
        except Exception as error:
            self.failure = str(error) or type(error).__name__

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.writer.shutdown()


SAVE_SECONDS = 2.0
FACTS = ("reason", "best_loss", "best_epoch")  # of a fold, kept in the description; the rest are arrays
NOT_COMPARED = {"resume", "quiet", "model_dir", "csv"}  # flags that may differ from those of the interrupted run
CHECKPOINT_NAME = re.compile(r"model_\d{2,9}_[01]\.\d{4}\.keras")
RUN_NAME = re.compile(r"\d{8}-\d{6}(_[a-z0-9.-]+)+")  # a run's folder in logs/


def fingerprint(table: Table) -> str:
    """A digest of everything a table teaches."""
    described = [[column.name, column.kind, column.vocabulary] for column in table.columns]
    digest = hashlib.blake2b(json.dumps(described).encode())
    for part in (*table.numbers.T, *table.codes.T, table.label):
        digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()


def labels_digest(table: Table) -> str:
    """A digest of which lines have which label: equal for runs on the same rows, whichever columns they took."""
    return f"{int(hash_rows([table.files, table.lines, table.label]).sum()):016x}"


class StateFile:
    """Keeps what --resume needs: written at each new best and every two seconds, between two calls of the program."""

    def __init__(self, run: Run) -> None:
        self.run, self.path = run, run.options.model_dir / RESUME_FILE
        self.saved, self.best, self.failure = -math.inf, 0.0, ""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if all(len(fold.history) == int(fold.state.epoch) for fold in self.run.folds):  # else more of a call follows
            self.offer()

    def offer(self, now: bool = False) -> None:
        best = sum(fold.best_epoch for fold in self.run.folds)
        if now or best != self.best or time.perf_counter() - self.saved > SAVE_SECONDS:
            self.best, self.saved = best, time.perf_counter()
            try:
                write_atomically(self.path, pack_state(self.run))
                self.failure = ""
            except OSError as error:
                self.failure = f"{self.path}: {error.strerror}"


def pack_state(run: Run) -> bytes:
    arrays: dict[str, np.ndarray] = {}
    for fold in run.folds:
        for part in ("state", "now", "best"):
            if values := getattr(fold, part):
                for name, value in values._asdict().items():
                    arrays[f"{fold.number}/{part}/{name}"] = np.asarray(value)
        arrays[f"{fold.number}/history"] = np.array([list(logs.values()) for logs in fold.history])
    facts = [{name: getattr(fold, name) for name in FACTS} for fold in run.folds]
    arrays["description"] = np.frombuffer(json.dumps(run.description | {"folds": facts}).encode(), np.uint8)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays of an interrupted run. Nothing in the file can be executed."""
    if not path.is_file():
        raise UserError(f"--resume: {path.parent} holds no interrupted run; leave --resume out to start one")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(arrays.pop("description").tobytes())
        arguments, folds, logs = (description[name] for name in ("arguments", "folds", "logs"))
        sound = all(isinstance(part, list) for part in (arguments, folds, description["checkpoints"]))
        sound = sound and description["device"] in ("cpu", "gpu")
        texts = [*arguments, description["fingerprint"], logs, *(fold["reason"] for fold in folds)]
        sound = sound and all(isinstance(text, str) for text in texts) and (not logs or RUN_NAME.fullmatch(logs))
        sound = sound and all(CHECKPOINT_NAME.fullmatch(name) for name in description["checkpoints"])
        for number, fold in enumerate(folds):
            best, epochs = fold["best_epoch"], len(arrays[f"{number}/history"])
            sound = sound and type(best) is int and 0 <= best <= epochs and type(fold["best_loss"]) in (int, float)
        if not sound:
            raise ValueError
    except Exception:  # each way of compressing raises kinds of its own
        raise damaged(path) from None
    return description, arrays


def damaged(path: Path, what: str = "") -> UserError:
    return UserError(f"--resume: {path} is damaged{what}; delete it and start again")


def unpack_state(run: Run) -> None:
    """Put the folds where they were. Raises UserError when the state is not that of such folds."""
    import tensorflow as tf

    def fault(name: str) -> UserError:
        return damaged(run.options.model_dir / RESUME_FILE, f" (net {fold.number + 1}, {name})")

    def take(part: str, names: tuple[str, ...]) -> Iterator[np.ndarray]:
        for name in names:
            like, value = np.asarray(getattr(fold.state, name)), run.arrays.get(f"{fold.number}/{part}/{name}")
            if value is None or value.dtype != like.dtype or value.shape != like.shape:
                raise fault(f"{part}/{name}")
            yield value

    if len(run.description["folds"]) != len(run.folds):
        raise damaged(run.options.model_dir / RESUME_FILE, " (number of nets)")
    names = list(epoch_logs([0.0] * len(HISTORY), 1, 1))
    for fold, facts in zip(run.folds, run.description["folds"], strict=True):
        fold.state = State(*map(tf.constant, take("state", State._fields)))
        history = run.arrays[f"{fold.number}/history"]
        sound = history.dtype == np.float64 and history.shape in ((len(history), len(names)), (0,))
        if not sound or not len(history) == int(fold.state.epoch) <= run.options.epochs:
            raise fault("history")
        fold.history = [dict(zip(names, map(float, row), strict=True)) for row in history]
        for part in ("now", "best"):
            if f"{fold.number}/{part}/trained" in run.arrays:
                setattr(fold, part, Weights(*take(part, Weights._fields)))
        for name in FACTS:
            setattr(fold, name, facts[name])
        if (fold.best is None) != (fold.best_epoch == 0) or (fold.now is None) != (not fold.history):
            raise fault("best")


def resumed_options(given: dict[str, Any], folder: Path) -> tuple[argparse.Namespace, dict[str, Any], dict[str, Any]]:
    """The options of the interrupted run, its description and its arrays; UserError where given flags contradict it."""
    description, arrays = read_state(folder / RESUME_FILE)
    try:
        options = parse_options(description["arguments"])
    except (UserError, SystemExit) as error:  # the latter of --help
        what = error if isinstance(error, UserError) else "arguments"
        raise damaged(folder / RESUME_FILE, f" ({what})") from None
    for name, value in given.items():
        if name not in NOT_COMPARED and value != (before := getattr(options, name)):
            words = f"--{name.replace('_', '-')} {value} contradicts the interrupted run, which has {before}"
            raise UserError(f"--resume: {words}; leave the flag or --resume out")
    options.resume, options.model_dir = True, folder
    options.quiet, options.csv = given.get("quiet", options.quiet), given.get("csv") or options.csv
    return options, description, arrays


# ---------------------------------------------------------------------------------------------------------------------
# What the user reads


HARD_SPACE = "\xa0"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def interval(values: list[float], scale: float = 100, digits: int = 1) -> str:
    return f"{scale * values[0]:.{digits}f} to {scale * values[1]:.{digits}f}"


def wrap(text: str, first: str = "", indent: str = "", width: int = 80) -> list[str]:
    """A text in lines; a number and its % stay together."""
    kept, whole = text.replace(" %", f"{HARD_SPACE}%"), {"break_long_words": False, "break_on_hyphens": False}
    lines = textwrap.wrap(kept, width, initial_indent=first, subsequent_indent=indent, **whole)
    return [line.replace(HARD_SPACE, " ") for line in lines]


def earlier_model(folder: Path) -> str:
    """What is known of the model that the last whole run left, or "" if there is none. Its metrics may be damaged."""
    try:
        written = time.localtime((folder / MODEL_FILE).stat().st_mtime)
    except OSError:
        return ""
    what = f"the model of {time.strftime('%Y-%m-%d %H:%M', written)}"
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        metrics = json.loads((folder / METRICS_FILE).read_bytes())
        return f"{what} ({metrics['rows']['used']:,} rows, accuracy {metrics['test']['accuracy']:.3f})"
    return what


def titled_list(title: str, parts: list[str]) -> list[str]:
    """Lines of at most 112 characters that list parts, none of them broken; the first line has the title."""
    return wrap(", ".join(part.replace(" ", HARD_SPACE) for part in parts), f"{title:<11}", " " * 11, 112)


def show_data(options: argparse.Namespace, table: Table, splits: list[Split]) -> list[str]:
    share, skipped = float(table.label.mean()), f" ({table.skipped:,} left out)" if table.skipped else ""
    rows = "" if options.sample else f": {len(table.label):,} rows{skipped}"
    lines = [f"Data       {', '.join(short_names(options.csv))}{rows}"]
    lines += [f"           note: {note}" for note in table.notes]
    lines.append(f"Label      {options.label}: 1 in {percent(share)} of rows, 0 in {percent(1 - share)}")
    missing = {column.name: f" ({column.missing:,} missing)" if column.missing else "" for column in table.columns}
    lines += titled_list("Numbers", [column.name + missing[column.name] for column in table.of_kind("number")])
    categories = table.of_kind("category")
    texts = [
        f"{column.name} ({column.distinct:,} value{'s' * (column.distinct != 1)}){missing[column.name]}"
        for column in categories
    ]
    lines += titled_list("Categories", texts)
    lines += titled_list("Left out", [f"{column.name} ({column.reason})" for column in table.of_kind("dropped")])
    lines += [f"           hint: {column.name}: {column.hint}" for column in table.columns if column.hint]
    lines += [f"Warning    {warning}" for warning in table.warnings]
    folds = choose_folds(options, table.label)
    return [*lines, f"Folds      {folds.value} ({folds.reason})", *show_split(options, table, splits)]


def show_split(options: argparse.Namespace, table: Table, splits: list[Split]) -> list[str]:
    training, validation, test = (count_range([len(part) for part in parts]) for parts in zip(*splits, strict=True))
    use = "used for early stopping" if options.early_stopping else "for validation"
    words = f"{training} rows for training, {validation} {use}, {test} for testing"
    words = f"each net has {words}" if len(splits) > 1 else words
    way, note = (
        "at random within each class",
        "the result may look better than it is; --split time tests on the last rows",
    )
    if options.split == "time":
        order = f"by the column {table.time.value}" if table.time.value else f"in file order, as {table.time.reason}"
        windows = f", {len(splits)} windows that slide over it" if len(splits) > 1 else ""
        way, note = f"by time, {order}{windows}", "a random split would make the model look better than it is"
    timed = options.split == "time" or any(column.reason == TIMESTAMP for column in table.columns)
    return [f"Split      {words}, {way}"] + [f"           note: rows close in time are alike; {note}"] * timed


def count_range(counts: list[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def show_result(label: str, test: dict[str, Any], bases: dict[str, Any], threshold: Choice, folds: int) -> list[str]:
    """The results as a table, at most 80 characters wide."""
    (right, false), (missed, hits) = test["confusion"]
    how = " that the model never saw" if folds == 1 else ", each by a net that was not trained on it"
    columns = {"this model": test, "logistic regression": bases["logistic_regression"]}
    columns["always the majority"] = bases["majority"]
    lines = [f"Test on {right + false + missed + hits:,} rows{how} (95 % intervals)"]
    lines.append(f"{'':<11}" + "".join(f"{name:>23}" for name in columns))
    scales = {"accuracy": (100, 1, " %"), "roc_auc": (1, 3, ""), "log_loss": (1, 3, "")}
    for name, (scale, digits, unit) in (scales | dict.fromkeys(("precision", "recall"), (100, 1, " %"))).items():
        cells = []
        for result in list(columns.values())[: 3 if name in scales else 2]:  # of one class only, they say nothing
            value, ends = result[name], result[f"{name}_ci95"]
            shown = "-" if value is None else f"{scale * value:.{digits}f}{unit}"
            cells.append(f"{shown} {interval(ends, scale, digits) if ends else '':>14}")
        title = {"roc_auc": "ROC AUC", "log_loss": "log-loss"}.get(name, name)
        lines.append((f"  {title:<9}" + "".join(f"{cell:>23}" for cell in cells)).rstrip())
    found = f"Found {hits:,} of {hits + missed:,} {rows_of(label, 1)}; {false:,} of {right + false:,}"
    taken = "productive" if label == "productive" else f"{label} = 1"
    lines += wrap(f"{found} {rows_of(label, 0)} were taken for {taken}.", "  ", "  ")
    scores = f"F1 {test['f1']:.3f}, calibration error {test['ece']:.3f}"
    return lines + wrap(f"{scores}, at threshold {threshold.value:.3g} ({threshold.reason}).", "  ", "  ")


# ---------------------------------------------------------------------------------------------------------------------
# Who trains: one process, or several workers


class Alone:
    """A process that trains by itself: all rows are its own, and it writes.

    distributed.py has the same methods for a worker of a group.
    """

    def __init__(self, options: argparse.Namespace | None = None) -> None:
        pass

    def settle(self, options: argparse.Namespace) -> None:
        """Let those who do not write change where they would."""

    def find_sources(self, options: argparse.Namespace) -> tuple[list[Source], list[Source]]:
        """What this process reads, and what all do."""
        sources = [find_source(path, options.skip_bad_rows) for path in find_files(options.csv)]
        return sources, sources

    def read_cells(
        self, own: list[Source], sources: list[Source], names: list[str], options: argparse.Namespace
    ) -> tuple[dict[str, Cells], list[Source]]:
        """The cells that are learned from, and where they are from."""
        return read_columns(own, names, options), sources

    def deal(self, run: Run) -> None:
        """Choose the rows of each fold that this process trains on; the plan and the features follow."""

    def in_one_call(self, run: Run) -> tuple[Plan, Fold]:
        """What the compiled program runs in one call, and a fold to compile it for."""
        return run.plan, run.folds[0]

    def connect(self, run: Run, program: Callable, data: Features) -> Callable:
        """The program, so that the weights it gives are those of all workers."""
        return program

    def call_folds(self, pool: ThreadPoolExecutor, call: Callable, folds: list[Fold]) -> list:
        return list(pool.map(call, folds))

    def agree(self, stop: StopRequest) -> StopRequest:
        """The request to stop that all follow at the same time."""
        return stop

    def epoch_rows(self, plan: Plan) -> int:
        """Rows of an epoch over all workers."""
        return plan.rows

    def count_rows(self, run: Run) -> tuple[int, int]:
        """The rows that were used, and that the first net was trained on."""
        return len(run.table.label), len(run.folds[0].split.training)

    def end_early(self, run: Run, number: int, state: StateFile) -> int:
        return end_early(run, number, state)

    def finish(self, run: Run, stop: StopRequest, code: int) -> int:
        """The exit code, after the one that writes has written."""
        return code or finish(run, stop)


def join_group() -> type[Alone]:
    """distributed.Group when TF_CONFIG names more than one worker."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster") or {}
        workers = sum(len(cluster.get(kind, ())) for kind in ("chief", "worker"))
    except (ValueError, AttributeError, TypeError):
        raise UserError("TF_CONFIG in the environment is not what TensorFlow reads; correct or unset it") from None
    if workers < 2:
        return Alone
    if not script_beside("distributed").is_file():
        what = f"TF_CONFIG names {workers} workers, which takes distributed.py"
        raise UserError(f"{what}, and it is not beside {Path(__file__).name}; put it there, or unset TF_CONFIG")
    return import_beside("distributed").Group


# ---------------------------------------------------------------------------------------------------------------------
# A run: data and decisions


@dataclass
class Run:
    """What the parts of main share."""

    options: argparse.Namespace
    table: Table
    splits: list[Split]
    decisions: dict[str, Choice]
    output: Output
    timing: dict[str, float] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)  # what --resume must know beside the state of each fold
    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # the state of the run that --resume goes on with
    devices: list[Device] = field(default_factory=lambda: [Device("cpu", "")])  # several: the choice takes a trial
    encoding: Encoding | None = None
    features: Features | None = None
    folds: list[Fold] = field(default_factory=list)
    plan: Plan | None = None
    program: Callable | None = None  # compiled by a trial
    saved: SavedModel | None = None
    archive: Archive | None = None
    predictor: Predictor | None = None
    events: EventLog | None = None
    baselines: dict[str, Any] = field(default_factory=dict)
    group: Alone = field(default_factory=Alone)

    def print(self, *lines: str) -> None:
        self.output.print(*lines)

    def details(self, threshold: float) -> dict[str, Any]:
        """What predict.py and export_model.py need beside the networks."""
        columns = [asdict(replace(column, vocabulary=[])) for column in self.table.columns if column.kind != "dropped"]
        scales = {name: values.tolist() for name, values in self.encoding.scales._asdict().items()}
        return {"threshold": threshold, "label": self.options.label, "columns": columns, "scales": scales}

    def model_file(self, weights: list[Weights], threshold: float = 0.5, temperature: float = 1.0) -> bytes:
        """A model file that holds these networks."""
        details = json.dumps(self.details(threshold))
        return self.archive.write(self.saved.values(weights, temperature), {"training.json": details})

    def logits(self, weights: list[Weights], part: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels and logits of the validation or the test rows of all folds."""
        rows = [getattr(fold.split, part) for fold in self.folds]
        nets = zip(self.folds, weights, rows, strict=True)
        logits = [self.predictor.logits(self.features, *net) for net in nets]
        return self.table.label[np.concatenate(rows)], np.concatenate(logits)


def load_data(options: argparse.Namespace, group: Alone | None = None) -> Table:
    """The table, with warnings of columns that may give the label away."""
    table = load_sample(options, group) if options.sample else read_table(options, group)
    table.warnings, fault = from_beside("report", "find_giveaways", table, options.label, otherwise=[])
    if fault:
        table.notes.append(f"the search for columns that give the label away is {fault}")
    return table


def load_sample(options: argparse.Namespace, group: Alone | None) -> Table:
    with tempfile.TemporaryDirectory() as folder:
        options.csv = [path := os.path.join(folder, "HARVEST.CSV")]
        write_sample(path, options.sample, options.split_seed)
        try:
            table = read_table(options, group)
        except UserError as error:
            words = str(error).removeprefix(f"{path}: ").partition(";")[0]
            raise UserError(f"--sample {options.sample}: {words}; generate more rows") from None
    options.csv = table.names = [f"{options.sample:,} generated rows"]
    return table


def split_table(options: argparse.Namespace, table: Table) -> list[Split]:
    """One split, or one for each fold."""
    folds, rows = choose_folds(options, table.label).value, len(table.label)
    if folds == 1:
        splits = [split_rows(table.label, options.split, options.split_seed)]
    elif options.split == "random":
        return split_folds(table.label, folds, options.split_seed)
    else:
        few = f"{rows} rows are too few for --folds {folds} --split time, which cuts them into {3 * folds + 1} blocks"
        refuse(data_name(options), (rows < 2 * (3 * folds + 1), f"{few}; give fewer folds"))
        splits = split_folds_by_time(rows, folds)
    parts = [("training", split.training) for split in splits]
    parts += [(name, np.concatenate([getattr(split, name) for split in splits])) for name in ("validation", "test")]
    for name, part in parts:
        words = f"the {name} rows are all of one class; label more rows or use --split random"
        refuse(data_name(options), (np.ptp(table.label[part]) == 0, words))
    return splits


def steps_to_run(options: argparse.Namespace, splits: list[Split], batch_size: int) -> int:
    """Steps of all folds when none stops early."""
    return (
        math.prod(segment_steps(max(len(split.training) for split in splits), batch_size))
        * options.epochs
        * len(splits)
    )


def decide(options: argparse.Namespace, splits: list[Split], label: np.ndarray) -> dict[str, Choice]:
    """What is decided for the user before TensorFlow is imported."""
    folds = choose_folds(options, label)
    rows = max(len(split.training) for split in splits)
    batch_size = choose_batch_size(options.batch_size, rows)
    total = steps_to_run(options, splits, batch_size.value)
    xla = choose_xla(options.xla, total, batch_size.value)
    if options.profile and options.xla is None:
        xla = Choice(True, "a profile shows only the steps of compiled programs")
    a_fold = total // len(splits)
    patience, momentum = choose_patience(a_fold // options.epochs), choose_momentum(a_fold)
    rate = choose_learning_rate(options.learning_rate)
    chosen = {"folds": folds, "batch_size": batch_size, "learning_rate": rate, "patience": patience}
    return chosen | {"momentum": momentum, "xla": xla}


def prepare(run: Run) -> contextlib.AbstractContextManager:
    """Import TensorFlow, and take the decisions that need the devices. All that follows belongs into what is returned.

    It keeps on the CPU whatever is not the training program: a GPU rounds products to fewer digits.
    """
    options, decisions = run.options, run.decisions
    if options.profile:
        os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")  # its use of memory is what the memory page shows
    batch_size = decisions["batch_size"].value
    steps, xla = steps_to_run(options, run.splits, batch_size), decisions["xla"].value
    prepare_environment(options.cpu_only, xla, short=steps < SHORT_RUN)
    started = time.perf_counter()
    tf = import_tensorflow()
    seconds = training_seconds(options, run.table, steps, batch_size, xla)
    found, before = find_devices(options.cpu_only), run.description.get("device", "")
    run.devices, reason = choose_devices(found, options.cpu_only, before, seconds)
    if all(device.kind == "cpu" for device in run.devices):
        with contextlib.suppress(RuntimeError):  # of a GPU that an earlier run of this process has in use
            tf.config.set_visible_devices([], "GPU")
    run.timing["import_s"] = time.perf_counter() - started
    take_device(run, run.devices[0], reason)
    return tf.device("CPU:0")


def take_device(run: Run, device: Device, reason: str) -> None:
    """Decide for a device, and what depends on it."""
    run.description["device"] = device.kind
    run.decisions["device"] = Choice(device.name, reason)
    run.decisions["precision"] = choose_precision(run.options.mixed_precision, device)


def make_plan(
    options: argparse.Namespace, splits: list[Split], label: np.ndarray, width: int, decisions: dict[str, Choice]
) -> Plan:
    batch_size, xla, patience, momentum, precision = (
        decisions[name].value for name in ("batch_size", "xla", "patience", "momentum", "precision")
    )
    segments, steps = segment_steps(max(len(split.training) for split in splits), batch_size, width)
    share = float(label.mean())
    network, byte_rows = training_network(ARCHITECTURES[options.architecture], width, momentum, precision)
    rows = segments * steps * batch_size
    several = max(1, min(25, 100_000 // rows, 20_000_000 // (rows * width)))  # a call can be stopped after it only
    return Plan(
        network=network,
        byte_rows=byte_rows,
        width=width,
        batch_size=batch_size,
        segments=segments,
        steps=steps,
        epochs_per_call=1 if options.profile else min(options.epochs, several),
        validation_rows=max(len(split.validation) for split in splits),
        weight_decay=WEIGHT_DECAY if options.adamw else 0.0,
        patience=patience if options.early_stopping else 0,
        plateau=max(3, patience // 3) if options.reduce_lr else 0,
        precision=precision,
        xla=xla,
        seed=options.seed,
        class_weights=(0.5 / (1 - share), 0.5 / share) if options.class_weight == "balanced" else (1.0, 1.0),
    )


def plan_on(run: Run, device: Device) -> Plan:
    plan = make_plan(run.options, run.splits, run.table.label, run.encoding.width, run.decisions)
    return plan._replace(place=device.place)


def plan_training(run: Run) -> None:
    """Learn how rows become inputs in each fold, fit its linear model, and plan the training program."""
    run.encoding, encoders, run.features = fit_encoding(run.table, run.splits)
    run.plan = plan_on(run, run.devices[0])
    for number, (split, encoder) in enumerate(zip(run.splits, encoders, strict=True)):
        linear = fit_linear(run.features, split.training, run.encoding, encoder, nets=len(encoders))
        run.folds.append(Fold(number, split, encoder, linear))
        start_fold(run.plan, run.folds[-1])
    if len(run.devices) > 1:
        try_devices(run)
    run.group.deal(run)


def try_devices(run: Run) -> None:
    """Take the device on which training is quickest, and the program compiled for it; nothing else is left of it."""
    import tensorflow as tf

    started, tried, failed = time.perf_counter(), [], []
    for device in run.devices:
        take_device(run, device, "")
        plan = plan_on(run, device)
        program = build_program(plan, run.encoding)
        try:
            tried.append((step_seconds(run, plan, program), device, plan, program))
        except tf.errors.OpError as error:  # too little memory, parts of CUDA that are not there
            if device.kind == "cpu":
                raise
            failed.append(f"{device.name} failed: {(error.message or type(error).__name__).splitlines()[0]}")
    (least, device, run.plan, run.program), *others = sorted(tried, key=lambda trial: trial[0])
    slower = [f"{seconds * 1e6:,.0f} us on {other.name}" for seconds, other, _, _ in others]
    take_device(run, device, "; ".join([f"a step takes {least * 1e6:,.0f} us", *slower, *failed]))
    run.timing["trial_s"] = time.perf_counter() - started


def step_seconds(run: Run, plan: Plan, program: Callable) -> float:
    """What a step takes in the quickest of some calls of the program for each net, side by side as in training."""
    import tensorflow as tf

    with tf.device(plan.place):
        data = Features(*map(tf.constant, run.features))
    trace_program(plan, program, data, run.folds[0])()
    start = first_state(current_weights(plan.network), run.decisions["learning_rate"].value)
    hooks = dict.fromkeys(("on_epoch_begin", "on_epoch_end"), lambda *_: None)
    unheard = SimpleNamespace(**hooks, model=SimpleNamespace(stop_training=False))
    rounds: list[float] = []
    while sum(rounds) < MEASURED_SECONDS:
        folds, started = [replace(fold, state=start, history=[]) for fold in run.folds], time.perf_counter()
        train_folds(plan, program, data, folds, plan.epochs_per_call, unheard, StopRequest())
        rounds.append(time.perf_counter() - started)
    return min(rounds) / (sum(len(fold.history) for fold in folds) * plan.segments * plan.steps)


def show_plan(run: Run) -> list[str]:
    options, plan, decisions = run.options, run.plan, run.decisions
    units = "-".join(map(str, ARCHITECTURES[options.architecture].units))
    nets = f"{len(run.folds)} nets, each with " if len(run.folds) > 1 else ""
    rate, patience = decisions["learning_rate"], decisions["patience"]
    stop = f"stops after {plan.patience} epochs ({patience.reason}) without a better validation loss"
    lines = [
        f"Device     {decisions['device'].value} ({decisions['device'].reason})",
        f"Model      {options.architecture}: {nets}{plan.width} inputs, hidden units {units}",
        f"Batch      {plan.batch_size:,} rows ({decisions['batch_size'].reason})",
        f"Rate       {rate.value:g} at the start ({rate.reason})",
        f"Patience   {stop if plan.patience else 'none: trains all epochs (--no-early-stopping)'}",
        f"XLA        {'on' if plan.xla else 'off'} ({decisions['xla'].reason})",
        f"Precision  {plan.precision} ({decisions['precision'].reason})",
    ]
    if options.class_weight == "balanced":
        what = "the probabilities are those of a population in which both are equally frequent"
        lines.append(f"Weights    classes are balanced: {what}")
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# A run: training


def build(run: Run) -> None:
    """Build the model, from whose weights every fold starts."""
    options = run.options
    encoders = [fold.encoder for fold in run.folds]
    momentum = run.decisions["momentum"].value
    architecture = ARCHITECTURES[options.architecture]
    run.saved = build_model(run.table, run.encoding, encoders, architecture, momentum, options.seed)
    run.predictor = Predictor(run.saved, run.encoding)
    for fold, network in zip(run.folds, run.saved.networks, strict=True):
        start_from_linear_model(network, weighted_linear(run.plan, fold.linear))
        fold.state = first_state(current_weights(network), run.decisions["learning_rate"].value)
    check_training_network(run.plan, run.predictor, run.saved.networks[0])


def check_training_network(plan: Plan, predictor: Predictor, network: keras.Model) -> None:
    """See that the network that is trained is the one that is saved. Raises ValueError when an edit has parted them."""
    if constrained := [variable.path for variable in network.trainable_variables if variable.constraint]:
        raise ValueError(f"build_network: {constrained[0]} has a constraint, which training does not apply")
    generator, start = np.random.default_rng(0), current_weights(network)
    weights = start._replace(trained=generator.normal(0, 0.5, start.trained.shape).astype(np.float32))
    rows = generator.normal(size=(5, plan.width)).astype(np.float32)
    state, unused = first_state(weights, 0.0), np.zeros((plan.byte_rows, len(rows)), np.uint8)
    expected = predictor.outputs(weights, rows)[-1][:, 0]
    found, _, _ = run_network(plan, state, rows.T, unused, training=False)
    exactness = 1e-3 if plan.precision == "float32" else 0.1
    if not np.allclose(expected, found, rtol=exactness, atol=exactness):
        raise ValueError("build_network: the network that is trained differs: wrap every layer in adapt()")


def open_events(run: Run) -> EventLog | None:
    options, plan = run.options, run.plan
    if not options.tensorboard:
        return None
    if not metadata_version("tensorboard"):
        absent = "the package tensorboard is not installed (pip install tensorboard)"
        run.print(f"TensorBoard: {absent}; training goes on without logs")
        return None
    if options.profile and not metadata_version("xprof"):
        why = "TensorBoard shows profiles with the package xprof (pip install xprof), which is not installed"
        run.print(f"Profile    {why}")

    shown = [encode(*run.features.take(fold.split.validation[:256]), run.encoding, fold.encoder) for fold in run.folds]

    def values_of(fold: Fold, weights: Weights) -> dict[str, ArrayLike]:
        return run.predictor.layer_values(weights, shown[fold.number])

    logs, earlier = options.model_dir / "logs", run.description["logs"]
    try:
        if earlier and (logs / earlier).is_symlink():
            raise OSError(errno.ELOOP, "the folder of the run is a link, which is not followed")
        folder = logs / earlier if earlier else run_folder(logs, run_name(options, len(run.folds)))
        events = EventLog(folder, options.epochs, plan.rows, run.folds, values_of)
    except Exception as error:  # of TensorFlow's kinds or the system's, depending on how TensorBoard was installed
        words = getattr(error, "strerror", None) or str(error).splitlines()[0]
        run.print(f"TensorBoard: {logs}: {words}; training goes on without logs")
        return None
    if options.resume:
        done = max(len(fold.history) for fold in run.folds)
        events.drawn = done - done % events.every
    else:
        events.graphs(run.saved, json.loads(run.archive.entries["config.json"]), plan, run.folds[0].state)
        events.text("data", show_data(options, run.table, run.splits))
    return events


def build_and_compile(run: Run, data: Features) -> Callable:
    """The compiled training program; while it is compiled, all else is made ready."""
    started = time.perf_counter()
    plan, fold = run.group.in_one_call(run)
    program = run.program or build_program(plan, run.encoding)
    compile_traced = trace_program(plan, program, data, fold)
    with ThreadPoolExecutor(1) as pool:
        compiled = pool.submit(compile_traced)
        build(run)
        run.archive = Archive(run.saved.model)
        entries, fault = from_beside("predict", "store_training_rows", run.table, run.splits, otherwise={})
        run.archive.entries.update(entries)
        if fault:
            run.print(f"Row hashes {fault}")
        if run.options.resume:
            unpack_state(run)
            run.print(f"Resuming   after epoch {max(len(fold.history) for fold in run.folds)}")
        run.events = open_events(run)
        run.description["logs"] = run.events.folder.name if run.events else ""
        run.baselines = measure_baselines(run)
        compiled.result()
    run.timing["compile_s"] = time.perf_counter() - started
    return run.group.connect(run, program, data)


def train(run: Run, stop: StopRequest) -> int:
    """Train all folds, with the callbacks that the flags switch on; keras.callbacks may be added to the list.

    The exit code, when a signal or a loss that is not a number has ended it; otherwise 0.
    """
    import keras  # noqa: F401
    import tensorflow as tf

    options, plan, folds, stop = run.options, run.plan, run.folds, run.group.agree(stop)
    with tf.device(plan.place):
        data = Features(*map(tf.constant, run.features))
    program = build_and_compile(run, data)
    before = sum(len(fold.history) for fold in folds)

    checkpoints = Checkpoints(run) if options.checkpoints else None
    profile = Profile(run.events.folder / "train") if run.events and options.profile else None
    state = StateFile(run)
    callbacks = [Progress(options.epochs, run.output), checkpoints, run.events, profile, state]

    callbacks = [part for part in callbacks if part]  # those that are switched on
    driver = callback_list(callbacks, run.saved, folds, options.epochs, plan.steps * plan.segments)
    started = time.perf_counter()
    try:
        driver.on_train_begin()
        train_folds(plan, program, data, folds, options.epochs, driver, stop, run.group)
        run.timing["train_s"] = time.perf_counter() - started
    finally:
        driver.on_train_end()
        if checkpoints and checkpoints.failure:
            run.print(f"Checkpoints could not be written: {checkpoints.failure}")
    if number := stop.signal:
        state.offer(now=True)
    if state.failure:
        run.print(f"Resume     the state could not be saved: {state.failure}")
    epochs = sum(len(fold.history) for fold in folds) - before
    run.timing["rows_per_s"] = epochs * run.group.epoch_rows(plan) / run.timing["train_s"]
    run.timing["steps_per_s"] = run.timing["rows_per_s"] / plan.batch_size
    return run.group.end_early(run, number, state) if number or any(fold.failed for fold in folds) else 0


def show_training(run: Run) -> list[str]:
    """How long training took, in epochs, which of them is kept, and why the first one is good already."""
    epochs, bests = [len(fold.history) for fold in run.folds], [fold.best_epoch for fold in run.folds]
    nets, whose, why = "", "the", run.folds[0].reason
    if len(epochs) > 1:
        at_limit = sum(count >= run.options.epochs for count in epochs)
        nets, whose = f"{len(epochs)} nets for ", "each net's"
        why = f"{at_limit} reached the limit of {run.options.epochs:,}" if at_limit else ""
    kept = f"{whose} best epoch ({count_range(bests)}) is kept" if run.plan.patience else f"{whose} last epoch is kept"
    start = "Started from a logistic regression of the training rows, so epoch 1 is good already."
    return [f"Trained    {nets}{count_range(epochs)} epochs{f' ({why})' if why else ''}; {kept}", f"           {start}"]


def end_early(run: Run, number: int, state: StateFile, why: str = "") -> int:
    """Say why a run is over before its end, and what is left: the files of the last whole run stay as they are."""
    options, failed = run.options, next((fold.reason for fold in run.folds if fold.failed), "")
    stopped = why or f"stopped: {signal.Signals(number or signal.SIGTERM).name}"
    words = f"error: {failed}; try a smaller --learning-rate" if failed else stopped
    if failed:
        state.path.unlink(missing_ok=True)
    elif not state.failure:
        folder = "" if str(options.model_dir) == "model" else f" --model-dir {options.model_dir}"
        words += f"; continue with --resume{folder}"
    print_error("; ".join([words, *what_is_left(run)]))
    return 128 + number if number else 1


def what_is_left(run: Run) -> list[str]:
    """Where the models are of a run that is over before its end, and of the last whole run."""
    folder, names = run.options.model_dir, run.description["checkpoints"]
    left = [f"the best model of this run so far is {folder / 'checkpoints' / names[-1]}"] if names else []
    if earlier := earlier_model(folder):
        left.append(f"{folder / MODEL_FILE} is still {earlier}")
    return left


# ---------------------------------------------------------------------------------------------------------------------
# A run: results


class Tested(NamedTuple):
    """A finished run: the weights that are kept, and what they say of rows that took no part in training them."""

    weights: list[Weights]
    temperature: float
    threshold: Choice
    validation: tuple[np.ndarray, np.ndarray]  # labels and probabilities
    test: tuple[np.ndarray, np.ndarray]
    metrics: dict[str, Any]
    report: list[str]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that are one value each."""
        return {name: value for name, value in self.metrics["settings"].items() if name not in ("columns", "reasons")}


def evaluate(run: Run) -> Tested:
    """Calibrate the networks on their validation rows, and test them on their test rows."""
    options, table, folds, seed = run.options, run.table, run.folds, run.options.seed
    weights, temperature, (label, logits) = kept_weights(run)
    validation = label, sigmoid(logits / temperature)
    threshold = choose_threshold(options.threshold, *validation)
    label, logits = run.logits(weights, "test")
    tested = label, sigmoid(logits / temperature)
    test = measure(*tested, threshold.value, seed)
    bases = {name: measured for name, (_, measured) in run.baselines.items()}
    report = show_result(options.label, test, bases, threshold, len(folds))
    longest = max(folds, key=lambda fold: len(fold.history))
    used, trained = run.group.count_rows(run)
    parts = {"train": trained, "validation": len(folds[0].split.validation), "test": len(label)}
    packages = {name: metadata_version(name) for name in ("tensorflow", "keras", "numpy", "pandas", "tensorboard")}
    metrics = {
        "rows": {"read": table.read, "used": used, "skipped": table.skipped, **parts},
        "test": test,
        "baselines": bases,
        "threshold": threshold.value,
        "temperature": temperature,
        "epochs": len(longest.history),
        "best_epoch": longest.best_epoch,
        "settings": resolved_settings(run, threshold),
        "timing": run.timing,
        "date": time.strftime("%Y-%m-%d"),
        "rows_digest": labels_digest(table),
        "versions": {"python": platform.python_version(), "script": VERSION, **packages},
    }
    return Tested(weights, temperature, threshold, validation, tested, metrics, report)


def kept_weights(run: Run) -> tuple[list[Weights], float, tuple[np.ndarray, np.ndarray]]:
    """The weights that a finished run keeps, the temperature of their logits, and labels and logits of validation rows.

    What one net learns from few rows varies with its start, which the mean of many nets averages out. So one net
    answers together with a logistic regression of the training and validation rows, as a weighted mean of logits. The
    share of the net follows from the validation rows and, when they are few, from the number of training rows.
    """
    weights = [fold.best if run.plan.patience else fold.now for fold in run.folds]
    if len(run.folds) > 1:
        validation = run.logits(weights, "validation")
        return weights, fit_temperature(*validation)[0], validation
    fold, network, features = run.folds[0], run.saved.networks[0], run.features

    def linear_model(rows: np.ndarray) -> np.ndarray:
        return weighted_linear(run.plan, fit_linear(features, rows, run.encoding, fold.encoder, MIXED_PENALTY))

    linear = linear_model(fold.split.training)
    rows = fold.split.validation[:: max(1, len(fold.split.validation) // CALIBRATION_ROWS)]
    nets, label = (weights[0], mix_with_linear_model(network, weights[0], linear, 0.0)), features.label[rows]
    logits, linear_part = (run.predictor.logits(features, fold, net, rows) for net in nets)
    sparse = encode_sparse(features, rows, run.encoding, fold.encoder)
    if not np.allclose(linear_part, linear_logits(sparse, linear), atol=0.01):
        # build_network was edited: not all of it is in these layers
        return weights, fit_temperature(label, logits)[0], run.logits(weights, "validation")
    expected, tried = len(fold.split.training) / (len(fold.split.training) + EQUAL_ROWS), []
    for share in np.linspace(0.1, 1, 10):
        temperature, loss = fit_temperature(label, share * logits + (1 - share) * linear_part)
        tried.append((loss + SHARE_WEIGHT * (share - expected) ** 2, share, temperature))
    _, share, temperature = min(tried)
    why = f"of the logit, the rest is a logistic regression: best for {len(label):,} validation rows"
    run.decisions["network_share"] = Choice(round(float(share), 1), why)
    linear = linear_model(np.concatenate(fold.split[:2]))
    weights = [mix_with_linear_model(network, weights[0], linear, share)]
    return weights, temperature, run.logits(weights, "validation")


NO_SETTINGS = {"describe", "compare", "sync_every", "trust_network"}


def resolved_settings(run: Run, threshold: Choice) -> dict[str, Any]:
    """Every setting as it was used, and the reason where one was chosen for the user."""
    settings = {name: value for name, value in vars(run.options).items() if name not in NO_SETTINGS}
    settings |= {"csv": short_names(run.options.csv), "model_dir": run.options.model_dir.name}
    chosen = run.decisions | {"threshold": threshold}
    chosen |= {"time_column": run.table.time} if run.options.split == "time" else {}
    settings |= {name: choice.value for name, choice in chosen.items()}
    settings["columns"] = {column.name: column.kind for column in run.table.columns}
    return settings | {"reasons": {name: choice.reason for name, choice in chosen.items()}}


def log_results(run: Run, tested: Tested) -> None:
    """What TensorBoard shows of a run once it is over."""
    events, metrics, step = run.events, tested.metrics, tested.metrics["best_epoch"]
    events.histograms(max(len(fold.history) for fold in run.folds))
    events.curve("pr_curve/validation", step, *tested.validation)
    events.curve("pr_curve/test", step, *tested.test)
    curve = (*tested.test, metrics["test"]["confusion"])
    events.text("calibration", from_beside("report", "show_calibration", *curve, otherwise=[])[0])
    ends = [fold.history[(fold.best_epoch if run.plan.patience else 0) - 1] for fold in run.folds]
    results = {f"validation/{name}": np.mean([logs[f"val_{name}"] for logs in ends]) for name in ("loss", "accuracy")}
    names = sorted(metrics["test"], key=lambda name: name not in ("log_loss", "accuracy", "roc_auc"))  # five are shown
    results |= {f"test/{name}": value for name in names if isinstance(value := metrics["test"][name], float)}
    settings = tested.settings
    events.trial(settings, results, step)
    width = max(map(len, settings))
    events.text("settings", [f"{name:<{width}}  {value}" for name, value in settings.items()])
    events.text("report", tested.report)
    events.close()
    if events.failure:
        run.print(f"TensorBoard: the logs are incomplete: {events.failure}")


def prediction_rows(run: Run, tested: Tested) -> bytes:
    """predictions.csv: every tested row by its line, and what the network that never saw it says of it."""
    table, names = run.table, run.table.names
    rows = np.concatenate([fold.split.test for fold in run.folds])
    folds = np.repeat([fold.number + 1 for fold in run.folds], [len(fold.split.test) for fold in run.folds])
    order = np.lexsort([table.lines[rows], table.files[rows]])
    first = 0 if len(names) > 1 else 1  # column: of a single file the name is left out
    quoted = ['"' + name.replace('"', '""') + '",' if len(names) > 1 else "" for name in names]
    parts = (table.files[rows], table.lines[rows], folds, *tested.test)
    written = [b",".join(PREDICTION_COLUMNS[first:]) + b"\n"]
    for piece in row_pieces(order):
        cells = zip(*(part[piece].tolist() for part in parts), strict=True)
        lines = (f"{quoted[file]}{line},{fold},{label:.0f},{chance:.9g}\n" for file, line, fold, label, chance in cells)
        written.append("".join(lines).encode())
    return b"".join(written)


def script_beside(name: str) -> Path:
    return Path(__file__).resolve().with_name(f"{name}.py")


def import_beside(name: str) -> Any:
    """A module that stands beside this file, which it imports in turn."""
    sys.modules.setdefault("train_model_modern", sys.modules[__name__])
    if name not in sys.modules:
        specification = importlib.util.spec_from_file_location(name, script_beside(name))
        sys.modules[name] = importlib.util.module_from_spec(specification)
        try:
            specification.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]  # or it would be taken for whole the next time
            raise
    return sys.modules[name]


def from_beside(script: str, function: str, *arguments: Any, otherwise: Any = None) -> tuple[Any, str]:
    """What a function of a script beside this one gives, and ""; or something else, and why."""
    if not script_beside(script).is_file():
        return otherwise, f"left out: {script}.py, which makes it, is not beside {Path(__file__).name}"
    try:
        return getattr(import_beside(script), function)(*arguments), ""
    except (Exception, SystemExit) as error:  # no model is lost because nothing can be drawn of it
        return otherwise, f"left out: {script}.py failed ({type(error).__name__}: {error})"


def export(run: Run, tested: Tested) -> tuple[list[str], str]:
    """Let export_model.py write the formats asked for beside their places: what failed; what the card says of them."""
    rows = np.concatenate([fold.split.test for fold in run.folds])[:1_000]
    run.saved.assign(tested.weights, tested.temperature)
    details, inputs = run.details(tested.threshold.value), raw_inputs(run.table, rows)
    names, exporter = list(dict.fromkeys(run.options.export)), import_beside("export_model")
    return exporter.export(run.saved.model, details, run.options.model_dir, names, inputs, run.print)


def write_for_readers(run: Run, tested: Tested, predictions: bytes, exported: str, no_report: str) -> dict[str, str]:
    """Write the model card and the report beside their places, as far as report.py is there: why not, for each."""
    card, no_card = from_beside("report", "model_card", run, tested, exported)
    page, no_page = (b"", no_report) if no_report else from_beside("report", "page", tested.metrics, predictions)
    left_out = {CARD_FILE: no_card, REPORT_FILE: no_page}
    for name, content in ((CARD_FILE, card), (REPORT_FILE, page)):
        place = run.options.model_dir / name
        if os.path.lexists(place) and not is_ours(place):
            left_out[name] = f"{place} is a file of your own and was left as it is"
        elif content:
            write_beside(place, content)
    return left_out


def print_files(run: Run, left_out: dict[str, str], stale: list[str]) -> None:
    """Name what the run has left, and what would be worth trying."""
    folder, timing = run.options.model_dir, run.timing
    run.print("", f"Model      {folder / MODEL_FILE}", f"Metrics    {folder / METRICS_FILE}")
    run.print(f"Test rows  {folder / PREDICTIONS_FILE}")
    for title, file in (("Card", CARD_FILE), ("Report", REPORT_FILE)):
        gone = "; that of an earlier run is deleted" if file in stale else ""
        run.print(f"{title:<11}{left_out[file] + gone if left_out[file] else folder / file}")
    for name, (file, _) in EXPORTS.items():
        if file in stale:
            run.print(f"Export     {folder / file} of an earlier run is deleted; --export {name} writes it again")
    if run.events:
        run.print(f"Logs       tensorboard --logdir {folder / 'logs'}")
    speed = f"{timing['train_s']:.2f} s for training ({timing['rows_per_s']:,.0f} rows/s)"
    run.print(f"Time       {timing['total_s']:.1f} s in total, {speed}")


def finish(run: Run, stop: StopRequest) -> int:
    """Test the model, say what came of it, and put it and all that belongs to it into their places together."""
    options, folder = run.options, run.options.model_dir
    run.print(*show_training(run))
    tested = evaluate(run)
    (facts, words), no_report = from_beside("report", "findings", run, tested, otherwise=({}, []))
    tested.metrics.update(facts)
    tested.report.extend(words)
    run.print("", *tested.report, *[f"Verdict    {no_report}"] * bool(no_report))
    failures, exported = export(run, tested) if options.export else ([], "")
    write_beside(folder / MODEL_FILE, run.model_file(tested.weights, tested.threshold.value, tested.temperature))
    predictions = prediction_rows(run, tested)
    write_beside(folder / PREDICTIONS_FILE, predictions)
    if run.events:
        log_results(run, tested)
    left_out = write_for_readers(run, tested, predictions, exported, no_report)
    run.timing["total_s"] = time.perf_counter() - STARTED
    write_beside(folder / METRICS_FILE, json.dumps(tested.metrics, indent=2).encode())
    refuse_foreign(folder, options.export)  # what has come meanwhile
    stop.committing = True
    stale = commit(folder, RESULT_FILES)
    (folder / RESUME_FILE).unlink(missing_ok=True)
    print_files(run, left_out, stale)
    for words in failures:
        print_error(f"error: {words}; the model and its metrics are saved")
    return 1 if failures else 0


# ---------------------------------------------------------------------------------------------------------------------
# Main


@contextlib.contextmanager
def stop_on_signals(at_once: bool = False) -> Iterator[StopRequest]:
    """The first Ctrl-C or SIGTERM asks training to stop after the epoch; the second stops at once, but for a commit.

    With at_once the first one does.
    """
    stop = StopRequest()
    stop.signal = signal.SIGINT if at_once else 0

    def handle(number: int, _: Any) -> None:
        if stop.signal and not stop.committing:
            raise KeyboardInterrupt(number)
        stop.signal = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_command(arguments: list[str] | None) -> int:
    started = time.perf_counter()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options, earlier, arrays = parse_options(arguments), {}, {}
    if options.compare is not None:
        if not script_beside("report").is_file():
            raise UserError(f"--compare is done by report.py, which is not beside {Path(__file__).name}; put it there")
        output = Output(quiet=False)
        output.print(*import_beside("report").compare_runs(options.compare))
        return output_failed(output)
    group = join_group()(options)
    if options.resume:
        options, earlier, arrays = resumed_options(given_flags(arguments), options.model_dir)
    group.settle(options)
    table = load_data(options, group)
    splits = split_table(options, table)
    output = Output(options.quiet and not options.describe)
    if options.describe:
        columns, fault = from_beside("report", "describe_columns", table, otherwise=[])
        output.print(*show_data(options, table, splits), "", *columns, *[f"Columns    {fault}"] * bool(fault))
        return output_failed(output)
    description = {"arguments": arguments, "fingerprint": fingerprint(table), "logs": "", "checkpoints": []}
    if options.resume and earlier["fingerprint"] != description["fingerprint"]:
        what = f"{data_name(options)} is not, or no longer, the data of the interrupted run"
        raise UserError(f"--resume: {what}; leave --resume out to train on it")
    prepare_folder(options.model_dir)
    refuse_foreign(options.model_dir, options.export)
    timing = {"load_s": time.perf_counter() - started}
    run = Run(
        options, table, splits, decide(options, splits, table.label), output, timing, description | earlier, arrays
    )
    run.group = group
    with lock_folder(options.model_dir), stop_on_signals() as stop:
        run.print(*show_data(options, table, splits))
        if replaced := earlier_model(options.model_dir):
            run.print(f"Replaces   {replaced}, once this run is over")
        if warning := shared_warning(options.model_dir):
            run.print(f"Warning    {warning}")
        if not options.resume and (options.model_dir / RESUME_FILE).exists():
            words = "the interrupted run in the model directory is discarded (--resume would have continued it)"
            run.print(f"           note: {words}")
            (options.model_dir / RESUME_FILE).unlink()
        try:
            with prepare(run):
                plan_training(run)
                run.print(*show_plan(run))
                code = group.finish(run, stop, train(run, stop))
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(*(error.args[:1] or [signal.SIGINT]), *what_is_left(run)) from None
        finally:
            if run.events:
                run.events.close()
    return code or output_failed(output)


def output_failed(output: Output) -> int:
    """The exit code of a command that has done all else: 1, and told, when standard output failed."""
    if output.failure:
        print_error(f"error: standard output: {output.failure}; everything else is done")
    return 1 if output.failure else 0


def report_errors(command: Callable[[], int]) -> int:
    """The exit code of a command; what goes wrong in it is told in one line."""
    prepare_streams()
    code, kept = 1, "the results of earlier runs are unchanged"
    try:
        return command()
    except UserError as error:
        code, words = 2, f"error: {error}"
    except KeyboardInterrupt as error:
        number, *left = error.args or [signal.SIGINT]
        code, words = 128 + number, "; ".join([f"stopped: {signal.Signals(number).name}", *(left or [kept])])
    except MemoryError as error:
        what = "not enough memory" + (f" ({error})" if str(error) else "")
        words = f"error: {what}; close other programs, raise the limit (ulimit -v), or give fewer rows"
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        words = f"error: {place}{error.strerror or error}; {kept}"
    except ModuleNotFoundError as error:
        words = missing_package(error)
    print_error(words)
    return code


def main(arguments: list[str] | None = None) -> int:
    return report_errors(lambda: train_command(arguments))


def interrupt(number: int, _: Any) -> NoReturn:
    """Unlike Python's own handler give the exception a value: without one pandas takes it for a fault of the file."""
    raise KeyboardInterrupt(number)


def run_command(command: Callable[[], int]) -> None:
    """Run a command and end the process with its exit code, without the 0.4 s that TensorFlow takes to be torn down."""
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))  # where the command does not handle it
    signal.signal(signal.SIGINT, interrupt)
    # An interrupt inside a finalizer of TensorFlow's is lost there, and must not be told as a fault.
    sys.unraisablehook = lambda fault: fault.exc_type is KeyboardInterrupt or sys.__unraisablehook__(fault)
    code = command()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run_command(main)
