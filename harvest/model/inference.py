"""What a saved model says of rows: of texts of cells, or of a DataFrame as pandas read it."""

import math
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from harvest.cli import UserError
from harvest.data.cells import MISSING, PARSERS, parse_label, parse_number
from harvest.data.csv_file import V0_COLUMNS
from harvest.data.training_rows import row_hashes
from harvest.model.archive import Details, foreign_model, open_model
from harvest.model.input_rows import CHUNK_ROWS, absent_columns, note
from harvest.model.novelty import Novelty
from harvest.run_directory import MODEL_FILE

Inputs = dict[str, np.ndarray]  # of a model, by column: [B, 1]
PANDAS_MISSING = {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"}
PANDAS_MISSING |= {"NA", "NULL", "NaN", "None", "n/a", "nan", "null"}  # texts that read_csv takes for missing cells


def load_model(path: Path, details: Details) -> keras.Model:
    """The Keras model of a file. Raises UserError unless it is one of this program's, with these columns."""
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
    """What a cell means in a column of whole numbers: rounded, within 62 bits; MISSING for an empty cell."""
    value = parse_number(cell)
    if math.isnan(value):
        return MISSING
    return value if math.isinf(value) else round(min(max(value, -(2.0**62)), 2.0**62))


def model_inputs(model: keras.Model, details: Details, rows: pd.DataFrame) -> tuple[Inputs, np.ndarray]:
    """What the model takes for texts of cells; and for each row a column whose cell is no number, or None: [B]."""
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
    except Exception as error:  # a model whose layers do not fit together raises kinds of its own
        raise UserError(f"{path}: cannot be run ({type(error).__name__}); train the model again") from None
    if not np.isfinite(probability).all():
        raise UserError(f"{path}: holds weights that are not numbers; train the model again")
    return probability


def split_readable(model: keras.Model, details: Details, chunk: pd.DataFrame, path: str) -> tuple[pd.DataFrame, Inputs]:
    """The rows that can be predicted, and what the model takes for them.

    A bad cell is refused in a file, and noted in a stream ("-"), whose row is left out.
    """
    inputs, wrong = model_inputs(model, details, chunk)
    bad = wrong.astype(bool)
    for number in np.flatnonzero(bad):
        name = wrong[number]
        text = f"line {chunk.index[number]}, column {name}: {chunk[name].iloc[number][:50]!r} is not a number"
        if path != "-":
            raise UserError(f"{path}: {text}; fix the cell or leave it empty")
        note(f"{text}, left out")
    return chunk[~bad], {name: cells[~bad] for name, cells in inputs.items()}


def read_labels(rows: pd.DataFrame, label: str, path: str) -> np.ndarray:
    """The labels [B] float32, 0 and 1. Others are refused in a file; in a stream ("-") they are noted and are -1."""
    labels = np.array([parse_label(cell) for cell in rows[label]], np.float32)
    for number in np.flatnonzero(labels < 0):
        text = f"line {rows.index[number]}, column {label}: the label is missing or not 0 or 1"
        if path != "-":
            raise UserError(f"{path}: {text}; leave --evaluate out")
        note(f"{text}, not evaluated")
    return labels


def hash_inputs(details: Details, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of rows [B] that tell whether they trained the model, and those of the rows with rounded numbers."""
    cells = {name: column[:, 0] for name, column in inputs.items()}
    texts = {name: [text.encode() for text in column] for name, column in cells.items() if column.dtype == object}
    return row_hashes(details.kinds, cells | {name: np.array(column, object) for name, column in texts.items()})


class Classifier:
    """A trained model for rows in a DataFrame, called like those of scikit-learn, which is not needed.

    The cells are those of a CSV: text as it stands there (dtype=str, keep_default_na=False), or numbers as pandas reads
    them. Missing are None, NaN and "". Columns may come in any order, and others are passed over. What is wrong raises
    UserError; a column that holds nothing the model has seen in training is warned of, once.
    """

    classes_ = np.array([0, 1])

    def __init__(self, path: Path) -> None:
        self.path, self.details = path, open_model(path)
        self.model = load_model(path, self.details)
        self.warned: set[str] = set()  # columns

    def predict_proba(self, rows: pd.DataFrame) -> np.ndarray:
        """The probabilities of 0 and of 1: [N, 2] float64."""
        probability = self.probabilities(rows).astype(np.float64)
        return np.column_stack([1 - probability, probability])

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """The answers, 0 or 1, at the model's threshold: [N]."""
        return (self.probabilities(rows) >= self.details.threshold).astype(int)

    def probabilities(self, rows: pd.DataFrame) -> np.ndarray:
        """The probabilities of 1: [N] float32."""
        names = [str(name).strip() for name in rows]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise UserError(f"the rows have two columns {twice}; rename one of them")
        check_header(names, self.details)
        absent_columns("the table", names, self.details)
        cells, novelty = rows.set_axis(names, axis=1), Novelty(self.model, self.details)
        parts = [self._chunk(cells[start : start + CHUNK_ROWS], novelty) for start in range(0, len(cells), CHUNK_ROWS)]
        notes = {name: text for name, text in novelty.notes().items() if name not in self.warned}
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
        """Refuse NaN in a column of texts where it may be the text NA, which pandas takes for it."""
        why = "" if name in self.details.missing else "it was never missing in training"
        if texts := sorted(vocabulary & PANDAS_MISSING):
            why = f"to the model {texts[0]} is a value"
        if why:
            cure = "read the table with dtype=str, keep_default_na=False; an empty cell is an empty string"
            raise UserError(f"row {row}, column {name} is missing, but {why}; {cure}")


def check_header(names: list[str], details: Details) -> None:
    """Refuse a table of 2017, which has no header, when its first row, or nothing, was taken for the names."""
    numbers = [name for name in names if not math.isinf(parse_number(name))]
    if set(details.kinds) <= set(V0_COLUMNS) and 2 * len(numbers) > len(names):
        cure = f"read it with header=None, names={V0_COLUMNS[: len(names)]}"
        raise UserError(f"the columns of the table have numbers for names ({', '.join(names[:3])}); {cure}")


def check_category(name: str, cells: list[Any], integers: bool) -> None:
    """Refuse cells that pandas may have read as numbers other than what the CSV holds."""
    if not integers and not all(isinstance(cell, str) for cell in cells):
        raise UserError(f"column {name} is text to the model, not all of it here is; read the table with dtype=str")
    if integers and any(isinstance(cell, float | np.floating) and abs(float(cell)) >= 2**53 for cell in cells):
        raise UserError(f"column {name} holds ids too long for floating point; read the table with dtype=str")


def cell_text(value: Any) -> str:
    """The text of a cell that pandas may have read as a number: 5.0 is 5, as in a column of ids with gaps."""
    if isinstance(value, str):
        return value
    if isinstance(value, float | np.floating):
        return f"{value:.0f}" if float(value).is_integer() else repr(float(value))
    return str(value)


def load(path: str | Path = "model") -> Classifier:
    """The model of a model directory, or of a file."""
    path = Path(path)
    return Classifier(path / MODEL_FILE if path.is_dir() else path)
