"""Predictions of a saved model for rows given as cell texts or as a DataFrame read by pandas."""

import math
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from harvest.cli import UserError
from harvest.data.cells import MISSING, PARSERS, cell_text, parse_label, parse_number
from harvest.data.csv_file import V0_COLUMNS
from harvest.model.archive import Details, foreign_model, open_model
from harvest.model.input_rows import CHUNK_ROWS, absent_columns, note
from harvest.model.novelty import Novelty
from harvest.run_directory import MODEL_FILE

Inputs = dict[str, np.ndarray]  # of a model, by column: [B, 1]
PANDAS_MISSING = {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"}
PANDAS_MISSING |= {"NA", "NULL", "NaN", "None", "n/a", "nan", "null"}  # texts that read_csv reads as missing


def load_model(path: Path, details: Details) -> keras.Model:
    """The Keras model in a file. Raises UserError unless this program wrote it, with these columns."""
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise UserError(f"{path}: cannot be loaded ({type(error).__name__}); train the model again") from None
    inputs, shape = getattr(model, "input", None), getattr(model, "output_shape", None)
    if not isinstance(inputs, dict) or set(inputs) != set(details.kinds) or shape != (None, 1):
        raise foreign_model(path)
    if any(tuple(tensor.shape) != (None, 1) or tensor.dtype not in PARSERS for tensor in inputs.values()):
        raise foreign_model(path)
    return model


def whole_number(cell: str) -> float:
    """The number in a cell of a column of whole numbers: rounded, within 62 bits; MISSING if empty."""
    value = parse_number(cell)
    if math.isnan(value):
        return MISSING
    return value if math.isinf(value) else round(min(max(value, -(2.0**62)), 2.0**62))


def model_inputs(model: keras.Model, details: Details, rows: pd.DataFrame) -> tuple[Inputs, np.ndarray]:
    """The inputs of the model for cell texts, and for each row a column with an invalid number, or None: [B]."""
    inputs, wrong = {}, np.full(len(rows), None, object)
    for name, tensor in model.input.items():
        cells = rows[name].to_numpy(object) if name in rows else np.full(len(rows), "", object)
        codes, texts = pd.factorize(cells)
        whole = tensor.dtype == "int64" and details.kinds[name] == "number"
        parse = whole_number if whole else PARSERS[tensor.dtype]
        values = np.array([parse(text) for text in texts], object)
        bad = np.isin(values, [math.inf])
        wrong[bad[codes]] = name
        values[bad] = 0
        inputs[name] = values[codes][:, None].astype(object if tensor.dtype == "string" else tensor.dtype)
    return inputs, wrong


def run_model(model: keras.Model, path: Path, inputs: Inputs) -> np.ndarray:
    """The probabilities [B] float32 of some rows."""
    if not len(next(iter(inputs.values()))):
        return np.empty(0, np.float32)
    try:
        tensors = {name: tf.constant(cells, model.input[name].dtype) for name, cells in inputs.items()}
        probability = model.predict_on_batch(tensors)[:, 0]
    except Exception as error:  # a model with incompatible layers raises errors of its own
        raise UserError(f"{path}: cannot be run ({type(error).__name__}); train the model again") from None
    if not np.isfinite(probability).all():
        raise UserError(f"{path}: contains weights that are not finite; train the model again")
    return probability


def split_readable(model: keras.Model, details: Details, chunk: pd.DataFrame, path: str) -> tuple[pd.DataFrame, Inputs]:
    """The rows that can be predicted, and the inputs of the model for them.

    An invalid cell in a file raises UserError; in a stream ("-"), its row is skipped with a note.
    """
    inputs, wrong = model_inputs(model, details, chunk)
    bad = wrong.astype(bool)
    for number in np.flatnonzero(bad):
        name = wrong[number]
        text = f"line {chunk.index[number]}, column {name}: {chunk[name].iloc[number][:50]!r} is not a number"
        if path != "-":
            raise UserError(f"{path}: {text}; fix the cell or leave it empty")
        note(f"{text}, skipped")
    return chunk[~bad], {name: cells[~bad] for name, cells in inputs.items()}


def read_labels(rows: pd.DataFrame, label: str, path: str) -> np.ndarray:
    """The labels [B] float32, 0 and 1. Others raise UserError in a file; in a stream ("-") they are -1, with a note."""
    labels = np.array([parse_label(cell) for cell in rows[label]], np.float32)
    found = sorted({cell.strip()[:30] for cell in rows[label][labels < 0]} - {""})[:3]
    shown = f" (the column contains {' and '.join(found)})" if found and path != "-" else ""
    for number in np.flatnonzero(labels < 0):
        fault = f"the label is missing or not 0 or 1{shown}"
        text = f"line {rows.index[number]}, column {label}: {fault}"
        if path != "-":
            raise UserError(f"{path}: {text}; fix the cell or omit --evaluate")
        note(f"{text}, not evaluated")
    return labels


class Classifier:
    """A trained model for rows in a DataFrame, with the interface of scikit-learn, which need not be installed.

    The cells are those of a CSV: unchanged text (dtype=str, keep_default_na=False), or numbers as pandas reads them.
    None, NaN and "" are missing. Columns may be in any order; other columns are ignored. Raises UserError for invalid
    rows, and warns once about each column that is absent, or has mostly values not seen in training.
    """

    classes_ = np.array([0, 1])

    def __init__(self, path: Path) -> None:
        self.path = path / MODEL_FILE if path.is_dir() else path
        self.details = open_model(self.path)
        self.model = load_model(self.path, self.details)
        self.warned: set[str] = set()  # columns

    def predict_proba(self, rows: pd.DataFrame) -> np.ndarray:
        """The probabilities of 0 and of 1: [N, 2] float64."""
        probability = self.probabilities(rows).astype(np.float64)
        return np.column_stack([1 - probability, probability])

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """The predictions, 0 or 1, at the threshold of the model: [N]."""
        return (self.probabilities(rows) >= self.details.threshold).astype(int)

    def probabilities(self, rows: pd.DataFrame) -> np.ndarray:
        """The probabilities of 1: [N] float32."""
        if not isinstance(rows, pd.DataFrame):
            raise TypeError(f"the rows are a {type(rows).__name__}; put them in a pandas DataFrame")
        if not len(rows.columns):
            raise ValueError("the table is empty: it has no columns")
        names = [str(name).strip() for name in rows]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise UserError(f"the rows have two columns {twice}; rename one of them")
        check_header(names, self.details)
        absent = absent_columns("the table", names, self.details)
        cells, novelty = rows.set_axis(names, axis=1), Novelty(self.model, self.details)
        parts = [self._chunk(cells[start : start + CHUNK_ROWS], novelty) for start in range(0, len(cells), CHUNK_ROWS)]
        gaps = {name: f"the table has no {name}: these cells are missing in its rows" for name in absent}
        notes = {name: text for name, text in (novelty.notes() | gaps).items() if name not in self.warned}
        self.warned.update(notes)
        for text in notes.values():
            warnings.warn(text, stacklevel=3)
        return np.concatenate([np.empty(0, np.float32), *parts])

    def _chunk(self, rows: pd.DataFrame, novelty: Novelty) -> np.ndarray:
        chunk = rows[[name for name in self.details.kinds if name in rows]].astype(object)
        for name in chunk:
            filled = chunk[name].notna()
            cells = chunk[name].where(filled, "").tolist()
            if self.details.kinds[name] == "category":
                integers = self.model.input[name].dtype == "int64"
                if not integers and not filled.all():
                    self._check_missing(name, rows.index[np.argmin(filled)], novelty.vocabularies[name])
                check_category(name, cells, integers)
            chunk[name] = np.array([*map(cell_text, cells)], object)
        inputs, wrong = model_inputs(self.model, self.details, chunk)
        for number in np.flatnonzero(wrong.astype(bool))[:1]:
            name = wrong[number]
            cell = chunk[name].iloc[number][:50]
            raise UserError(f"row {rows.index[number]}, column {name}: {cell!r} is not a number")
        novelty.add(inputs)
        return run_model(self.model, self.path, inputs)

    def _check_missing(self, name: str, row: Any, vocabulary: set[str]) -> None:
        """Raise UserError for NaN in a text column if it may be the text NA, which pandas reads as NaN."""
        why = "" if name in self.details.missing else "it was never missing in training"
        if texts := sorted(vocabulary & PANDAS_MISSING):
            why = f"{texts[0]} is a value in the model"
        if why:
            cure = "read the table with dtype=str, keep_default_na=False; an empty cell is an empty string"
            raise UserError(f"row {row}, column {name} is missing, but {why}; {cure}")


def check_header(names: list[str], details: Details) -> None:
    """Raise UserError if a 2017 table without a header got its first row, or numbers, as column names."""
    numbers = [name for name in names if not math.isinf(parse_number(name))]
    if set(details.kinds) <= set(V0_COLUMNS) and 2 * len(numbers) > len(names):
        cure = f"read it with header=None, names={V0_COLUMNS[: len(names)]}"
        raise UserError(f"the column names of the table are numbers ({', '.join(names[:3])}); {cure}")


def check_category(name: str, cells: list[Any], integers: bool) -> None:
    """Raise UserError if pandas may have read cells as numbers that differ from the CSV."""
    if not integers and not all(isinstance(cell, str) for cell in cells):
        raise UserError(f"column {name} is text in the model, but not in all rows here; read the table with dtype=str")
    if integers and any(isinstance(cell, float | np.floating) and abs(float(cell)) >= 2**53 for cell in cells):
        raise UserError(f"column {name} has ids too long for floating point; read the table with dtype=str")
