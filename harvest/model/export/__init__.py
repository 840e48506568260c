"""Exports to other runtimes: the packages they need, and the summary of an export."""

from dataclasses import dataclass
from importlib import metadata

import numpy as np

from harvest.cli import UserError

PACKAGES = {"saved_model": [], "litert": ["ai-edge-litert"], "onnx": ["onnx", "onnxruntime"]}
Cell = str | int | float | None  # text; a 64-bit integer; a double, None for NaN


@dataclass(frozen=True)
class ExportSummary:
    """The result of export(), for the model card."""

    source: str  # the file name of the Keras model, which returns the same probabilities
    formats: list[str]  # those written: keys of run_directory.EXPORT_FILES
    renamed: list[tuple[str, str, str]]  # inputs with other names: column, name in SavedModel and LiteRT, in ONNX
    row: dict[str, Cell]  # an example, by the names of the ONNX inputs
    probability: float  # of the example
    failures: list[str]  # "--export onnx failed (reason)"


def example_row(inputs: dict[str, np.ndarray]) -> dict[str, Cell]:
    """The first of some raw rows (arrays [B, 1] by column) for JSON, such as ["example"]["row"] in metrics.json.

    Texts, integers and doubles keep their types in JSON; NaN becomes null.
    """
    return {name: None if (cell := column[0].item()) != cell else cell for name, column in inputs.items()}


def example_inputs(row: dict[str, Cell]) -> dict[str, np.ndarray]:
    """The raw row of example_row(), as arrays [1, 1] by column."""
    kinds = {str: object, int: np.int64, float: np.float64, type(None): np.float64}
    return {name: np.array([[cell]]).astype(kinds[type(cell)]) for name, cell in row.items()}


def require(formats: list[str]) -> None:
    """Raise UserError if packages that a format needs are not installed."""
    for name in formats:
        try:
            for package in PACKAGES[name]:
                metadata.version(package)
        except metadata.PackageNotFoundError:
            needed = PACKAGES[name]
            raise UserError(f"the format {name} needs {' and '.join(needed)}: pip install {' '.join(needed)}") from None
