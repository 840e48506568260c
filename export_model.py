"""Write a trained model in formats of other runtimes: TensorFlow's SavedModel, LiteRT (formerly TensorFlow Lite), ONNX.

    python export_model.py saved_model litert onnx
    python export_model.py --model model/checkpoints/model_42_0.8812.keras onnx

Each takes raw columns [rows, 1] and gives the probability [rows, 1], as the Keras model does. What is written is run by
its own runtime on 1,000 generated rows; what does not agree with Keras within 1e-5 is not kept. The files go beside the
model, and what a program must know to call them into the model card, README.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))  # until main() can say more

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

import train_model_modern as modern
from train_model_modern import MISSING, UNSEEN, Scales, UserError

# isort: split
import numpy as np  # after the above, which says what to do where it is not installed

AGREEMENT = 1e-5  # how far the probabilities of an exported file may be from those of Keras
GENERATED_ROWS = 1_000


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = modern.Parser(
        prog="export_model.py",
        description="Write a trained model in formats of other runtimes, beside the model.",
        allow_abbrev=False,
    )
    formats = "saved_model, litert, onnx"
    parser.add_argument("formats", nargs="+", choices=modern.EXPORTS, metavar="FORMAT", help=formats)
    where = "where the model is (default: model)"
    parser.add_argument("--model-dir", type=Path, default=Path("model"), metavar="DIR", help=where)
    own = "a model file or checkpoint, in place of the one in --model-dir; the formats are written beside it"
    parser.add_argument("--model", type=Path, metavar="FILE", help=own)
    parser.add_argument("--version", action="version", version=modern.VERSION)
    options = parser.parse_args(arguments)
    options.model = options.model or options.model_dir / modern.MODEL_FILE
    options.formats = list(dict.fromkeys(options.formats))
    modern.check_exports(options.formats)
    return options


def columns_of(details: dict[str, Any], kinds: tuple[str, ...] = ("number", "category")) -> list[str]:
    """The columns in the order in which their inputs are named: numbers first."""
    return [column["name"] for kind in kinds for column in details["columns"] if column["kind"] == kind]


def number_scales(details: dict[str, Any]) -> dict[str, Scales]:
    """For each number column how its cells are scaled."""
    columns = zip(*(details["scales"][part] for part in Scales._fields), strict=True)
    return {name: Scales(*parts) for name, parts in zip(columns_of(details, ("number",)), columns, strict=True)}


def inputs_of(model: keras.Model, details: dict[str, Any]) -> dict[str, keras.KerasTensor]:
    return {name: model.input[name] for name in columns_of(details)}


def lookups_of(model: keras.Model) -> dict[str, keras.Layer]:
    """For each category column the layer that turns its cells into indices: 1 and up for known values, 0 for others."""
    from keras import layers

    lookups = [layer for layer in model.layers if isinstance(layer, (layers.IntegerLookup, layers.StringLookup))]
    return {name: layer for name, cells in model.input.items() for layer in lookups if layer.input is cells}


def known_values(lookup: keras.Layer) -> list[int] | list[str]:
    kind = int if lookup.input.dtype == "int64" else str
    return [kind(value) for value in lookup.get_vocabulary(include_special_tokens=False)]


@np.errstate(all="ignore")  # what overflows is cut
def generated_rows(model: keras.Model, details: dict[str, Any]) -> dict[str, np.ndarray]:
    """Raw rows that a model may meet: known, unseen and missing cells. The first is a typical one."""
    generator, largest = np.random.default_rng(0), modern.LARGEST_NUMBER
    rows = {}
    for name, (offset, gain, logarithmic, whole) in number_scales(details).items():
        scaled = generator.normal(0, 3, GENERATED_ROWS)
        if logarithmic:
            scaled = np.sign(scaled) * np.expm1(3 * np.abs(scaled))
        scaled[0] = logarithmic
        cells = offset + scaled / gain
        cells[1:8] = 0, 1, -1, 1e-30, 1e30, largest, -largest
        limit = 2.0**62 if whole else largest
        cells = np.clip(cells, -limit, limit).round() if whole else np.clip(cells, -limit, limit)
        cells = cells.astype(np.int64 if whole else np.float64)
        cells[8::10] = MISSING if whole else np.nan
        rows[name] = cells[:, None]
    for name, lookup in lookups_of(model).items():
        known = known_values(lookup)
        integers = model.input[name].dtype == "int64"
        missing, unseen = (MISSING, UNSEEN) if integers else ("", "never seen")
        values = np.array([*known, missing, unseen], np.int64 if integers else object)
        drawn = generator.integers(0, len(values), GENERATED_ROWS)
        drawn[0] = next((place for place, value in enumerate(known) if value != missing), 0)
        rows[name] = values[drawn][:, None]
    return {name: rows[name] for name in columns_of(details)}


# ---------------------------------------------------------------------------------------------------------------------
# SavedModel and LiteRT


def save(path: Path, network: keras.Model, columns: dict[str, keras.KerasTensor], predict: Callable) -> None:
    """A SavedModel whose signature serving_default is what predict() makes of raw columns by means of a network."""
    import keras
    import tensorflow as tf

    names = modern.input_names(list(columns))
    specs = {alias: tf.TensorSpec([None, 1], columns[name].dtype, name=alias) for name, alias in names.items()}

    def serve(cells: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"probability": predict({name: cells[alias] for name, alias in names.items()})}

    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint("serving_default", serve, [specs])
    archive.write_out(str(path), verbose=False)
    (path / modern.MARK).touch()


def write_saved_model(path: Path, model: keras.Model, details: dict[str, Any]) -> None:
    """The Keras model itself, lookup tables and all."""
    new = modern.beside(path)
    modern.remove(new)
    save(new, model, inputs_of(model, details), model)


def write_litert(path: Path, model: keras.Model, details: dict[str, Any]) -> None:
    """The Keras model from indices and scaled numbers on, before it what LiteRT has in place of tables and doubles."""
    import keras
    import tensorflow as tf

    scales, lookups = number_scales(details), lookups_of(model)
    known = {name: known_values(layer) for name, layer in lookups.items()}
    starts = [layer.output for layer in lookups.values()]
    if scales:
        starts.append(next(layer.output for layer in model.layers if type(layer) is keras.layers.Identity))
    network = keras.Model(starts, model.output)

    def predict(columns: dict[str, tf.Tensor]) -> tf.Tensor:
        values = [compare_with(columns[name], values) for name, values in known.items()]
        numbers = [scale_without_doubles(columns[name], *own) for name, own in scales.items()]
        return network(values + ([tf.concat(numbers, 1)] if numbers else []))

    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "saved"
        save(saved, network, inputs_of(model, details), predict)
        modern.write_beside(path, tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert())


def compare_with(cells: tf.Tensor, known: list[int] | list[str]) -> tf.Tensor:
    """What a lookup layer gives for cells [B, 1]: 1 + the place among the known values, or 0."""
    import tensorflow as tf

    same = tf.equal(cells, tf.constant(known, cells.dtype)[None])
    index = tf.reduce_sum(tf.cast(same, tf.int32) * tf.range(1, len(known) + 1), 1, keepdims=True)
    return tf.cast(index, tf.int64)


def scale_without_doubles(cells: tf.Tensor, offset: float, gain: float, logarithmic: bool, whole: bool) -> tf.Tensor:
    """scale_numbers() of one column [B, 1], to float32, for LiteRT, which can do nothing with doubles but copy them."""
    import tensorflow as tf

    if whole:
        missing, below = tf.equal(cells, MISSING), math.floor(offset)
        scaled = (tf.cast(cells - below, tf.float32) - (offset - below)) * gain
    else:
        missing, bits = tf.math.is_nan(tf.cast(cells, tf.float32)), tf.bitcast(cells, tf.int64)
        scaled = scaled_distance(bits, offset, gain, logarithmic)
    if logarithmic:  # LiteRT's log1p loses digits near 0, where the first terms of its series are exact
        size = tf.abs(scaled)
        near = size * (1 - size * (1 / 2 - size * (1 / 3 - size / 4)))
        far = logarithm_of_bits(bits) + math.log(gain)
        size = tf.where(size < 0.03, near, tf.where(size < 1e20, tf.math.log1p(size), far))
        scaled = tf.sign(scaled) * size
    scaled = tf.minimum(tf.maximum(scaled, -modern.FARTHEST), modern.FARTHEST)
    return tf.where(missing, modern.ABSENT, scaled)


def logarithm_of_bits(bits: tf.Tensor) -> tf.Tensor:
    """log |x| of doubles given as their bits, whose exponent may be beyond that of 32 bits."""
    import tensorflow as tf

    size = tf.cast(tf.where(bits < 0, bits - MISSING, bits), tf.float32) * 2.0**-52 - 1023
    exponent = tf.floor(size)
    return exponent * math.log(2) + tf.math.log1p(size - exponent)


def scaled_distance(bits: tf.Tensor, offset: float, gain: float, logarithmic: bool) -> tf.Tensor:
    """(x - offset) * gain in 32 bits, of doubles x [B, 1] given as their bits.

    The bits of a double, read as an integer, count the doubles from 0 on, and between two powers of two these lie
    evenly. So integers, which LiteRT can subtract exactly, tell how far x is from the offset.
    """
    import tensorflow as tf

    def count_doubles(value: float) -> int:
        bits = int(np.float64(value).view(np.int64))
        return bits if bits >= 0 else MISSING - bits

    lowest = max(-1022, math.floor(math.log2(1e-8 / gain)))
    highest = math.ceil(math.log2(abs(offset) + (1e21 if logarithmic else 2 * modern.FARTHEST) / gain))
    powers = np.arange(lowest, max(min(128, highest), lowest + 1))
    low, high = (np.array([count_doubles(2.0 ** int(power)) for power in powers + step]) for step in (0, 1))
    low, high = np.concatenate([low, -high]), np.concatenate([high, -low])
    step = np.tile(2.0 ** (powers - 52.0) * gain, 2).astype(np.float32)
    place = tf.where(bits < 0, MISSING - bits, bits)
    doubles = tf.minimum(tf.maximum(place, low), high) - np.clip(count_doubles(offset), low, high)
    return tf.reduce_sum(tf.cast(doubles, tf.float32) * step, 1, keepdims=True)


# ---------------------------------------------------------------------------------------------------------------------
# ONNX


class Graph:
    """An ONNX graph that grows by one operation of a Keras model at a time."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.names: dict[int, str] = {}  # of the Keras tensors, by their ids

    def add(self, operation: str, *parts: str, output: str = "", **attributes: Any) -> str:
        """The name of what an ONNX operation makes of named values."""
        from onnx import helper

        output = output or f"/{operation}_{len(self.nodes)}"
        domain = "ai.onnx.ml" if operation == "LabelEncoder" else ""
        self.nodes.append(helper.make_node(operation, parts, [output], domain=domain, **attributes))
        return output

    def constant(self, values: Any, kind: str = "float32") -> str:
        from onnx import numpy_helper

        name = f"/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def take(self, part: Any, kind: str) -> str:
        """The name of a Keras tensor or a constant, cast to a type."""
        if id(part) not in self.names:
            return self.constant(part, kind)
        name = self.names[id(part)]
        return name if part.dtype == kind else self.add("Cast", name, to=onnx_type(kind))

    def translate(self, operation: Any, output: keras.KerasTensor, parts: list[Any]) -> str:
        """The name of what a Keras layer, or an operation of keras.ops, makes of its arguments."""
        kind = type(operation).__name__ if type(operation).__module__.startswith("keras.") else ""
        types = argument_types(kind, output.dtype, parts)
        name = ""
        if kind in RULES:
            names = [self.take(part, wanted) for part, wanted in zip(parts, types, strict=True)]
            name = RULES[kind](self, operation, output.dtype, *names)
        if not name:
            activation = getattr(getattr(operation, "activation", None), "__name__", "")
            words = ", ".join(filter(None, [type(operation).__name__, activation]))
            raise UserError(f"onnx cannot hold the layer {operation.name} ({words})")
        return name


def argument_types(kind: str, output: str, parts: list[Any]) -> list[str]:
    """The types in which an operation of a class takes its arguments: mostly that of its output."""
    from keras import backend

    if kind in ("IntegerLookup", "StringLookup"):
        return [part.dtype for part in parts]
    if kind in ("Equal", "Greater", "Less"):
        return [backend.result_type(*(getattr(part, "dtype", type(part)) for part in parts))] * 2
    first = {"Isnan": ["float32"], "Take": [output, "int64"], "Where": ["bool"]}.get(kind, [])
    return first + [output] * (len(parts) - len(first))


def onnx_type(kind: str) -> int:
    from onnx import TensorProto, helper

    return TensorProto.STRING if kind == "string" else helper.np_dtype_to_tensor_dtype(np.dtype(kind))


def one(operation: str) -> Callable:
    """The rule for what is one operation of ONNX."""
    return lambda graph, layer, kind, *names: graph.add(operation, *names)


def pairs(operation: str) -> Callable:
    """The rule for what is an operation of two values, and may come with more."""
    return lambda graph, layer, kind, *names: functools.reduce(lambda *two: graph.add(operation, *two), names)


def logarithm(graph: Graph, _: Any, kind: str, name: str) -> str:
    """log1p as exact as in one operation: log(1 + x) x / ((1 + x) - 1), and x itself where that is 0 / 0."""
    unity = graph.constant(1, kind)
    above = graph.add("Add", name, unity)
    exact = graph.add("Mul", graph.add("Log", above), graph.add("Div", name, graph.add("Sub", above, unity)))
    exact = graph.add("Where", graph.add("Equal", above, unity), name, exact)
    large = graph.add("Greater", name, graph.constant(1e15, kind))  # where both are equal, and x may be infinite
    return graph.add("Where", large, graph.add("Log", name), exact)


def clip(graph: Graph, operation: Any, kind: str, name: str) -> str:
    below = graph.add("Min", name, graph.constant(operation.x_max, kind))
    return graph.add("Max", below, graph.constant(operation.x_min, kind))


def look_up(graph: Graph, layer: Any, kind: str, name: str) -> str:
    known = known_values(layer)
    keys = "keys_int64s" if isinstance(known[0], int) else "keys_strings"
    places = list(range(1, len(known) + 1))
    return graph.add("LabelEncoder", name, values_int64s=places, default_int64=0, **{keys: known})


def activate(graph: Graph, layer: Any, kind: str, name: str) -> str:
    import keras

    function = getattr(layer.activation, "__name__", "")
    if getattr(keras.activations, function or "none", None) is not layer.activation:
        return ""
    if function in ("relu", "elu", "selu", "sigmoid", "tanh", "softplus", "softsign"):
        return graph.add(function.capitalize(), name)
    if function == "silu":
        return graph.add("Mul", name, graph.add("Sigmoid", name))
    if function == "mish":
        return graph.add("Mul", name, graph.add("Tanh", graph.add("Softplus", name)))
    if function == "gelu":
        below = graph.add("Erf", graph.add("Mul", name, graph.constant(0.5**0.5, kind)))
        half = graph.add("Mul", name, graph.constant(0.5, kind))
        return graph.add("Mul", half, graph.add("Add", below, graph.constant(1, kind)))
    return name if function == "linear" else ""


def dense(graph: Graph, layer: Any, kind: str, name: str) -> str:
    value = graph.add("MatMul", name, graph.constant(layer.kernel.numpy(), kind))
    if layer.use_bias:
        value = graph.add("Add", value, graph.constant(layer.bias.numpy(), kind))
    return activate(graph, layer, kind, value)


def normalize_batch(graph: Graph, layer: Any, kind: str, name: str) -> str:
    scale = (layer.gamma.numpy() if layer.scale else 1) / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    shift = (layer.beta.numpy() if layer.center else 0) - layer.moving_mean.numpy() * scale
    return graph.add("Add", graph.add("Mul", name, graph.constant(scale, kind)), graph.constant(shift, kind))


def normalize_layer(graph: Graph, layer: Any, kind: str, name: str) -> str:
    if not layer.scale or not layer.center:
        return ""
    values = [graph.constant(variable.numpy(), kind) for variable in (layer.gamma, layer.beta)]
    return graph.add("LayerNormalization", name, *values, epsilon=layer.epsilon)


NOTHING = ("Identity", "Cast", "Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout")  # but in training
SAME_NAME = ("Equal", "Exp", "Greater", "Less", "Log", "Relu", "Sigmoid", "Sign", "Sqrt", "Tanh", "Where")
RULES: dict[str, Callable[..., str]] = {  # by the class of a Keras layer or operation; "" for what cannot be held
    **dict.fromkeys(NOTHING, lambda graph, layer, kind, name: name),
    **{name: one(name) for name in SAME_NAME},
    "Absolute": one("Abs"),
    "Activation": activate,
    "Add": pairs("Add"),
    "Average": one("Mean"),
    "BatchNormalization": normalize_batch,
    "Clip": clip,
    "Concatenate": lambda graph, layer, kind, *names: graph.add("Concat", *names, axis=layer.axis),
    "Dense": dense,
    "IntegerLookup": look_up,
    "Isnan": one("IsNaN"),
    "LayerNormalization": normalize_layer,
    "Log1p": logarithm,
    "Maximum": pairs("Max"),
    "Minimum": pairs("Min"),
    "Multiply": pairs("Mul"),
    "Negative": one("Neg"),
    "Rsqrt": lambda graph, layer, kind, name: graph.add("Reciprocal", graph.add("Sqrt", name)),
    "Square": lambda graph, layer, kind, name: graph.add("Mul", name, name),
    "StringLookup": look_up,
    "Subtract": pairs("Sub"),
    "Take": lambda graph, layer, kind, *names: graph.add("Gather", *names, axis=layer.axis),
    "TrueDivide": pairs("Div"),
}


def onnx_names(columns: list[str]) -> dict[str, str]:
    """What columns are called in an ONNX file: by their own names, but for one that is called like the output."""
    alias = "input_probability"
    while alias in columns:
        alias += "_"
    return {name: alias if name == "probability" else name for name in columns}


def write_onnx(path: Path, model: keras.Model, details: dict[str, Any]) -> None:
    """The Keras model, operation by operation, with the threshold in the metadata of the file."""
    import keras
    from onnx import TensorProto, checker, helper

    names, graph, inputs = onnx_names(columns_of(details)), Graph(), []
    for name, alias in names.items():
        graph.names[id(model.input[name])] = alias
        inputs.append(helper.make_tensor_value_info(alias, onnx_type(model.input[name].dtype), ["rows", 1]))
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                parts = keras.tree.flatten(node.arguments.args)
                graph.names[id(node.outputs[0])] = graph.translate(node.operation, node.outputs[0], parts)
    graph.add("Identity", graph.names[id(model.output)], output="probability")
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["rows", 1])]
    whole = helper.make_graph(graph.nodes, "productivity", inputs, outputs, graph.constants)
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    written = helper.make_model(whole, opset_imports=versions, ir_version=8, producer_name="train_model_modern")
    helper.set_model_props(written, {"threshold": repr(details["threshold"])})
    checker.check_model(written)
    modern.write_beside(path, written.SerializeToString())


# ---------------------------------------------------------------------------------------------------------------------
# Main


class Exported(NamedTuple):
    failures: list[str]  # what was asked for and is not there, and why
    card: str  # what the model card says of the others


WRITERS = {"saved_model": write_saved_model, "litert": write_litert, "onnx": write_onnx}


def export(
    model: keras.Model,
    details: dict[str, Any],
    folder: Path,
    names: list[str],
    rows: dict[str, np.ndarray] | None,
    show: Callable[[str], None],
    source: str = modern.MODEL_FILE,
    example: dict[str, np.ndarray] | None = None,
) -> Exported:
    """Write formats beside their places in a folder and compare each, run by its own runtime, with the Keras model.

    They are compared on raw rows, if there are some, and on generated ones. What fails is not kept. The card's example
    is the one that is given, or the first row.
    """
    failures, written, what = [], [], f"{GENERATED_ROWS:,} generated rows"
    made = generated_rows(model, details)
    if rows is not None:
        what = f"{len(next(iter(rows.values()))):,} test rows and {what}"
        made = {name: np.concatenate([rows[name], cells]) for name, cells in made.items()}
    if example:
        made = {name: np.concatenate([example[name], cells]) for name, cells in made.items()}
    rows, expected = made, keras_probabilities(model, made)
    for name in names:
        path = folder / modern.EXPORTS[name][0]
        try:
            WRITERS[name](path, model, details)
            gap = float(np.abs(exported_probabilities(name, modern.beside(path), rows) - expected).max())
            reason = "" if gap <= AGREEMENT else f"its probabilities differ by up to {gap:.1g}"
        except UserError as error:
            reason = str(error)
        except Exception as error:  # each converter raises kinds of its own
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if reason:
            modern.remove(modern.beside(path))
            failures.append(f"--export {name} failed ({reason})")
        else:
            written.append(name)
            show(f"Export     {path}: probabilities of {what} agree within {gap:.0e}")
    first = {name: cells[0, 0] for name, cells in rows.items()}
    return Exported(failures, card_part(written, first, float(expected[0]), source) if written else "")


def keras_probabilities(model: keras.Model, rows: dict[str, np.ndarray]) -> np.ndarray:
    import tensorflow as tf

    return model({name: tf.constant(cells) for name, cells in rows.items()}).numpy()[:, 0]


def exported_probabilities(name: str, path: Path, rows: dict[str, np.ndarray]) -> np.ndarray:
    """What an exported model says of raw rows, by its own runtime: [B]."""
    named = {alias: rows[column] for column, alias in modern.input_names(list(rows)).items()}
    if name == "saved_model":
        import tensorflow as tf

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


HEADING = "## Exported files\n"
CSHARP_START = "From C#, "
CSHARP = """From C#, with the package Microsoft.ML.OnnxRuntime; these values give {probability:.4f}:

```csharp
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

using var session = new InferenceSession("{file}");
var shape = new[] {{ 1, 1 }};
var inputs = new List<NamedOnnxValue>
{{
{inputs}
}};
using var results = session.Run(inputs);
float probability = results.First(result => result.Name == "probability").AsTensor<float>()[0, 0];
```
"""


def card_part(written: list[str], row: dict[str, Any], probability: float, source: str) -> str:
    """What the model card says of exported files: how their inputs are called, and an example in C#."""
    files = ", ".join(f"`{modern.EXPORTS[name][0]}`" for name in written)
    lines = [HEADING, f"Written from `{source}`, which gives the same probabilities: {files}.", ""]
    if others := renamed_inputs(list(row)):
        lines += ["Inputs that are not called like their columns:", ""]
        lines += ["| column | SavedModel, LiteRT | ONNX |", "|-|-|-|"]
        lines += [f"| `{name}` | `{signature}` | `{graph}` |" for name, signature, graph in others] + [""]
    if "onnx" in written:
        names = onnx_names(list(row))
        inputs = "\n".join(csharp_input(names[name], cell) for name, cell in row.items())
        lines.append(CSHARP.format(probability=probability, file=modern.EXPORTS["onnx"][0], inputs=inputs))
    return "\n".join(lines)


def renamed_inputs(columns: list[str]) -> list[tuple[str, str, str]]:
    """The columns whose inputs are not called like them, and how they are called in SavedModel and LiteRT, in ONNX."""
    signature_names, graph_names = modern.input_names(columns), onnx_names(columns)
    names = [(name, signature_names[name], graph_names[name]) for name in columns]
    return [(name, *others) for name, *others in names if others != [name, name]]


def csharp_input(name: str, cell: Any) -> str:
    if isinstance(cell, str):
        kind, text = "string", json.dumps(cell, ensure_ascii=False)
    elif isinstance(cell, np.integer):
        kind, text = "long", f"{cell}L"
    else:
        kind, text = "double", "double.NaN" if math.isnan(cell) else repr(float(cell))
    values = f"new DenseTensor<{kind}>(new[] {{ {text} }}, shape)"
    return f"    NamedOnnxValue.CreateFromTensor({json.dumps(name, ensure_ascii=False)}, {values}),"


def card_example(folder: Path, model: keras.Model) -> dict[str, np.ndarray] | None:
    """The row of the card's example in Python, as arrays [1, 1]; None if there is none for this model."""
    path, row = folder / modern.CARD_FILE, {}
    if not modern.is_ours(path):
        return None
    line = re.compile(r'^    (".*"): tf\.constant\(\[\[(.*)\]\], tf\.\w+\),$', re.MULTILINE)
    try:
        for name, cell in line.findall(path.read_text(encoding="utf-8")):
            kind = model.input[json.loads(name)].dtype
            value = json.loads(cell.replace("float('nan')", "NaN") if kind == "float64" else cell)
            row[json.loads(name)] = np.array([[value]], object if kind == "string" else kind)
    except (ValueError, TypeError, KeyError, OverflowError):  # of another model, or changed by hand
        return None
    return row if set(row) == set(model.input) else None


def update_card(folder: Path, part: str) -> bool:
    """Write beside the model card one with this part, if there is a card of the trainer's.

    What it says of an ONNX file that is not written anew stays.
    """
    path = folder / modern.CARD_FILE
    if not os.path.lexists(path) or not modern.is_ours(path):
        return False
    card, found, old = path.read_bytes().decode("utf-8", "surrogateescape").rpartition("\n" + HEADING)
    card = card if found else old
    if CSHARP_START not in part and CSHARP_START in old and found and (folder / modern.EXPORTS["onnx"][0]).exists():
        part += "\n" + old[old.index(CSHARP_START) :]
    modern.write_beside(path, f"{card.rstrip()}\n\n{part}".encode("utf-8", "surrogateescape"))
    return True


def load(path: Path) -> tuple[keras.Model, dict[str, Any]]:
    import predict

    details = predict.read_stored(path)
    model = predict.load_model(path, predict.details_of(details))
    try:
        whole = [model.input[name].dtype == "int64" for name in columns_of(details, ("number",))]
        offset, gain, logarithmic = (np.array(details["scales"][part]) for part in Scales._fields[:3])
        sound = details["scales"]["whole"] == whole and logarithmic.dtype == bool and len(offset) == len(gain)
        sound = sound and np.isfinite([offset, gain]).all() and (gain > 1e-300).all() and (gain < 1e301).all()
        probability = keras_probabilities(model, generated_rows(model, details)) if sound or not whole else None
    except Exception as error:  # of an earlier version, or with layers that do not fit together
        raise UserError(f"{path}: cannot be run ({type(error).__name__}); train the model again") from None
    if probability is None:
        raise UserError(f"{path}: holds scales that are not numbers of its columns; train the model again")
    if not np.isfinite(probability).all():
        raise UserError(f"{path}: holds weights that are not numbers; train the model again")
    return model, details


def export_command(options: argparse.Namespace) -> int:
    import predict

    path, folder, output = options.model, options.model.parent, modern.Output(quiet=False)
    predict.read_stored(path)  # refused before anything is written
    files = [*(modern.EXPORTS[name][0] for name in options.formats), modern.CARD_FILE]
    with modern.lock_folder(folder), modern.stop_on_signals(at_once=True) as stop:
        if warning := modern.shared_warning(path) or modern.shared_warning(folder):
            modern.print_error(f"warning: {warning}")
        modern.refuse_foreign(folder, options.formats, training=False)
        model, details = load(path)  # after what the lock has put into place
        example = card_example(folder, model)
        exported = export(model, details, folder, options.formats, None, output.print, path.name, example)
        written = [name for name in files if os.path.lexists(modern.beside(folder / name))]
        carded = bool(exported.card) and update_card(folder, exported.card)
        modern.refuse_foreign(folder, options.formats, training=False)  # what has come meanwhile
        stop.committing = True
        modern.commit(folder, files)
    if carded:
        output.print(f"Card       {folder / modern.CARD_FILE}")
    elif written:  # there is no card to say it in
        output.print(f"Written    from {path.name} into {folder}: {', '.join(written)}")
        for name, signature, graph in renamed_inputs(columns_of(details)):
            output.print(f"Input      {name} is called {signature} in SavedModel and LiteRT, {graph} in ONNX")
    for words in exported.failures:
        modern.print_error(f"error: {words}")
    return 1 if exported.failures else modern.output_failed(output)


def main(arguments: list[str] | None = None) -> int:
    return modern.report_errors(lambda: export_command(parse_options(arguments)))


if __name__ == "__main__":
    modern.run_command(main)
