"""The .keras file of a model: the details stored in it, and a fast way to write it repeatedly."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np

from harvest.cli import UserError, print_error
from harvest.data.encoding import MAXIMUM_CATEGORIES
from harvest.run_directory import finish_commit, shared_warning

if TYPE_CHECKING:  # files are read before TensorFlow is imported, so faults are reported at once
    import keras

    from harvest.data.encoding import Scaler
    from harvest.data.table import Table

DETAILS_ENTRY = "training.json"
WEIGHTS_ENTRY = "model.weights.h5"
MOST_BYTES = 1 << 28  # the maximum unpacked size of a small archive


class Details(NamedTuple):
    """The details stored in the archive of a model, for predictions."""

    label: str
    threshold: float  # at or above this probability, the model predicts 1
    kinds: dict[str, str]  # number or category, by the name of the column
    missing: set[str]  # columns that had empty cells
    scales: dict[str, list]  # the fields of the Scaler
    new_values: dict[str, float]  # of categories: the expected share of new rows with an unknown value
    ranges: dict[str, list[float]]  # of numbers: minimum and maximum

    def to_json(self) -> str:
        columns: list[dict[str, Any]] = []
        for name, kind in self.kinds.items():
            columns.append({"name": name, "kind": kind, "missing": name in self.missing})
            facts = {"range": self.ranges.get(name), "new_values": self.new_values.get(name)}
            columns[-1] |= {fact: value for fact, value in facts.items() if value is not None}
        return json.dumps({"threshold": self.threshold, "label": self.label, "columns": columns, "scales": self.scales})

    @classmethod
    def from_json(cls, text: str | bytes) -> Details:
        """Raises ValueError, LookupError or TypeError for a file of another program."""
        stored = json.loads(text)
        columns = {column["name"]: column for column in stored["columns"]}
        kinds = {name: column["kind"] for name, column in columns.items()}
        missing = {name for name, column in columns.items() if column.get("missing")}
        new_values = {name: float(column["new_values"]) for name, column in columns.items() if "new_values" in column}
        ranges = {name: [*map(float, column["range"])] for name, column in columns.items() if "range" in column}
        scales = stored.get("scales", {})
        details = cls(stored["label"], stored["threshold"], kinds, missing, scales, new_values, ranges)
        texts = [details.label, *kinds, *kinds.values()]
        if not kinds or not 0 < details.threshold < 1 or not all(isinstance(text, str) for text in texts):
            raise ValueError("not a model's details")
        return details

    def columns(self, kinds: Sequence[str] = ("number", "category")) -> list[str]:
        """The columns in the order of the inputs: numbers first."""
        return [name for kind in kinds for name, own in self.kinds.items() if own == kind]


def make_details(table: Table, scaler: Scaler, label: str, threshold: float = 0.5) -> Details:
    used = [column for column in table.columns if column.kind != "dropped"]
    missing = {column.name for column in used if column.missing}
    scales = {name: values.tolist() for name, values in scaler._asdict().items()}
    kinds = {column.name: column.kind for column in used}
    new_values = {column.name: share_of_new_values(table.codes(column.name)) for column in table.of_kind("category")}
    numbers = {column.name: table.numbers(column.name) for column in table.of_kind("number")}
    ranges = {name: [float(np.nanmin(cells)), float(np.nanmax(cells))] for name, cells in numbers.items()}
    return Details(label, threshold, kinds, missing, scales, new_values, ranges)


def share_of_new_values(codes: np.ndarray) -> float:
    """The expected share of new rows with an unknown value: the share of rows with a value that occurs once (Good,
    1953), or is not among the most frequent.
    """
    counts = -np.sort(-np.bincount(codes))
    return float((counts[MAXIMUM_CATEGORIES:].sum() + np.count_nonzero(counts[:MAXIMUM_CATEGORIES] == 1)) / len(codes))


class Archive:
    """Writes the .keras file of a model with new values of its variables in 1 ms; saving it again takes 60 ms.

    The model is saved once with each variable set to its own number, which locates the variable in the file. `entries`
    are additional entries of the file, such as the hashes of the training rows.
    """

    def __init__(self, model: keras.Model, entries: dict[str, bytes]) -> None:
        self.variables = [variable for variable in model.variables if variable.dtype == "float32"]
        values = [variable.numpy() for variable in self.variables]
        for number, variable in enumerate(self.variables):
            variable.assign(np.full(variable.shape, number, np.float32))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.keras")
            model.save(path)
            with zipfile.ZipFile(path) as archive:
                self.entries = {name: archive.read(name) for name in archive.namelist()} | entries
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)
        self.places: dict[int, slice] = {}  # the bytes of each variable

        def learn(_: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype == np.float32:
                start = item.id.get_offset()
                self.places[int(item[...].flat[0])] = slice(start, start + item.nbytes)

        with h5py.File(io.BytesIO(self.entries[WEIGHTS_ENTRY]), "r") as file:
            file.visititems(learn)

    def write(self, details: Details, values: Sequence[tuple[keras.Variable, np.ndarray]] = ()) -> bytes:
        """The file with these values of variables; the others keep their current values."""
        given = {id(variable): value for variable, value in values}
        weights = bytearray(self.entries[WEIGHTS_ENTRY])
        for number, variable in enumerate(self.variables):
            value = given[id(variable)] if id(variable) in given else variable.numpy()
            weights[self.places[number]] = np.asarray(value, "<f4").tobytes()
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as target:
            entries = self.entries | {WEIGHTS_ENTRY: bytes(weights), DETAILS_ENTRY: details.to_json().encode()}
            for name, content in entries.items():
                target.writestr(name, content)
        return out.getvalue()


def open_model(path: Path) -> Details:
    """Finish an interrupted commit of a run, then return the details in a model file.

    Prints a warning if other users can change the file.
    """
    if warning := shared_warning(path) or shared_warning(path.parent):
        print_error(f"warning: {warning}")
    finish_commit(path.parent)
    return read_details(path)


def read_details(path: Path) -> Details:
    """The details in a model file. Raises UserError if another program wrote the file, or if it could do harm."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path, or train a model first")
    try:
        with zipfile.ZipFile(path) as archive:
            check_entries(path, archive.infolist())
            return Details.from_json(archive.read(DETAILS_ENTRY))
    except UserError:
        raise
    except Exception:  # each compression method raises errors of its own
        raise foreign_model(path) from None


def check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Raise UserError for an archive that unpacks to much more than its size, or to a path outside of it."""
    most = max(MOST_BYTES, path.stat().st_size)
    if sum(entry.file_size for entry in entries) > most:
        size = f"{most >> 20} MB"
        raise UserError(f"{path}: unpacks to more than {size}, unlike models of this trainer; train the model again")
    for name in (entry.filename for entry in entries):
        if name.startswith(("/", "\\")) or ".." in name:
            raise UserError(f"{path}: contains {name!r}, a path outside of the archive; train the model again")


def foreign_model(path: Path) -> UserError:
    return UserError(f"{path}: is not a model written by train_model_modern.py; give a .keras file of a run")
