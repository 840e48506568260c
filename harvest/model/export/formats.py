"""Exports a model to other runtimes, and compares each export, run in its own runtime, with the Keras model."""

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from harvest.cli import UserError
from harvest.model.archive import Details, read_details
from harvest.model.export import ExportSummary, example_inputs, example_row
from harvest.model.export.columns import generate_rows
from harvest.model.export.tensorflow import write_litert, write_saved_model
from harvest.model.inference import Inputs, load_model
from harvest.model.names import input_names, onnx_names, renamed_inputs
from harvest.run_directory import METRICS_FILE, MODEL_FILE, RunDirectory, export_file, remove

AGREEMENT = 1e-5  # the largest difference between the probabilities of an export and of Keras


def write_onnx(path: Path, model: keras.Model, details: Details) -> None:
    from harvest.model.export import onnx  # its package is optional

    onnx.write_onnx(path, model, details)


WRITERS = {"saved_model": write_saved_model, "litert": write_litert, "onnx": write_onnx}


def export(
    model: keras.Model,
    details: Details,
    run: RunDirectory,
    formats: list[str],
    show: Callable[[str], None],
    rows: Inputs | None,
    source: str = MODEL_FILE,
) -> ExportSummary:
    """Stage the exports of a model and compare each with Keras; an export that fails is deleted.

    They are compared on the given raw rows (arrays [B, 1] by column), if any, and on generated ones. The first is the
    example in the summary. `source` is the name of the model file.
    """
    failures, written, parts = [], [], [generate_rows(model, details)]
    if rows:
        parts.insert(0, rows)
    cells = {name: np.concatenate([part[name] for part in parts]) for name in details.columns()}
    expected = keras_probabilities(model, cells)
    for name in dict.fromkeys(formats):
        path = run.staged(export_file(name, source))
        try:
            WRITERS[name](path, model, details)
            gap = float(np.abs(exported_probabilities(name, path, cells) - expected).max())
            reason = "" if gap <= AGREEMENT else f"its probabilities differ by up to {gap:.1g}"
        except UserError as error:
            reason = str(error)
        except Exception as error:  # each converter raises its own exceptions
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if reason:
            remove(path)
            failures.append(f"--export {name} failed ({reason})")
        else:
            written.append(name)
            show(f"Export     {run.path / path.name}: probabilities of {len(expected):,} rows agree within {gap:.0e}")
    columns = details.columns()
    row = example_row({alias: cells[name] for name, alias in onnx_names(columns).items()})
    return ExportSummary(source, written, renamed_inputs(columns), row, float(expected[0]), failures)


def keras_probabilities(model: keras.Model, rows: Inputs) -> np.ndarray:
    """The probabilities of a Keras model for raw rows: [B]."""
    return model({name: tf.constant(cells) for name, cells in rows.items()}).numpy()[:, 0]


def exported_probabilities(name: str, path: Path, rows: Inputs) -> np.ndarray:
    """The probabilities of an exported model for raw rows, from its own runtime: [B]."""
    named = {alias: rows[column] for column, alias in input_names(list(rows)).items()}
    if name == "saved_model":
        predict = tf.saved_model.load(str(path)).signatures["serving_default"]
        return predict(**{alias: tf.constant(cells) for alias, cells in named.items()})["probability"].numpy()[:, 0]
    if name == "litert":
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # the delegate writes a line to standard error
        interpreter = Interpreter(str(path), experimental_op_resolver_type=kernels)
        return interpreter.get_signature_runner()(**named)["probability"][:, 0]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    named = {alias: rows[column] for column, alias in onnx_names(list(rows)).items()}
    return np.asarray(session.run(["probability"], named)[0])[:, 0]


def load(path: Path) -> tuple[keras.Model, Details]:
    """The model to export. Raises UserError if it cannot be run."""
    details = read_details(path)
    model = load_model(path, details)
    try:
        probability = keras_probabilities(model, generate_rows(model, details))
    except Exception as error:  # of an earlier version, or with layers that do not fit together
        raise UserError(f"{path}: cannot be run ({type(error).__name__}); train the model again") from None
    if not np.isfinite(probability).all():
        raise UserError(f"{path}: contains weights that are not numbers; train the model again")
    return model, details


def read_example(folder: Path, model: keras.Model) -> Inputs | None:
    """The example row of the model card, arrays [1, 1]; None if metrics.json has none for this model."""
    try:
        row = example_inputs(json.loads((folder / METRICS_FILE).read_bytes())["example"]["row"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return None
    types = {name: "string" if cells.dtype == object else str(cells.dtype) for name, cells in row.items()}
    return row if types == {name: tensor.dtype for name, tensor in model.input.items()} else None
