"""A Keras model as an ONNX graph, translated operation by operation."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from harvest.cli import UserError
from harvest.model.archive import Details
from harvest.model.export.columns import known_values
from harvest.model.names import onnx_names


class Graph:
    """An ONNX graph that grows by one operation at a time."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.names: dict[int, str] = {}  # of the Keras tensors, by their ids

    def add(self, operation: str, *parts: str, output: str = "", **attributes: Any) -> str:
        """The name of the output of an ONNX operation on named values."""
        output = output or f"/{operation}_{len(self.nodes)}"
        domain = "ai.onnx.ml" if operation == "LabelEncoder" else ""
        self.nodes.append(helper.make_node(operation, parts, [output], domain=domain, **attributes))
        return output

    def constant(self, values: Any, dtype: str = "float32") -> str:
        name = f"/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def take(self, part: Any, dtype: str) -> str:
        """The name of a Keras tensor or a constant, cast to a type."""
        if id(part) not in self.names:
            return self.constant(part, dtype)
        name = self.names[id(part)]
        return name if part.dtype == dtype else self.add("Cast", name, to=onnx_type(dtype))

    def add_model(self, model: keras.Model, names: list[str]) -> str:
        """The name of the output of a functional model for named inputs."""
        self.names |= {id(tensor): name for tensor, name in zip(model.inputs, names, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if not node.is_input:
                    parts = keras.tree.flatten(node.arguments.args)
                    self.names[id(node.outputs[0])] = self.translate(node.operation, node.outputs[0].dtype, parts)
        return self.names[id(model.outputs[0])]

    def translate(self, operation: Any, dtype: str, parts: list[Any]) -> str:
        """The name of the output of a Keras layer, a model or an operation of keras.ops for its arguments."""
        if isinstance(operation, keras.Model):
            types = [tensor.dtype for tensor in operation.inputs]
            return self.add_model(operation, [self.take(*pair) for pair in zip(parts, types, strict=True)])
        kind = type(operation).__name__ if type(operation).__module__.startswith("keras.") else ""
        name = ""
        if kind in RULES:
            types = argument_types(kind, dtype, parts)
            names = [self.take(part, wanted) for part, wanted in zip(parts, types, strict=True)]
            name = RULES[kind](self, operation, dtype, *names)
        if not name:
            activation = getattr(getattr(operation, "activation", None), "__name__", "")
            text = ", ".join(filter(None, [type(operation).__name__, activation]))
            raise UserError(f"onnx cannot represent the layer {operation.name} ({text})")
        return name


def argument_types(kind: str, output: str, parts: list[Any]) -> list[str]:
    """The types of the arguments of an operation: mostly the type of its output."""
    if kind in ("IntegerLookup", "StringLookup"):
        return [part.dtype for part in parts]
    if kind in ("Equal", "Greater", "Less"):
        return [keras.backend.result_type(*(getattr(part, "dtype", type(part)) for part in parts))] * 2
    first = {"Isnan": ["float32"], "Take": [output, "int64"], "Where": ["bool"]}.get(kind, [])
    return first + [output] * (len(parts) - len(first))


def onnx_type(dtype: str) -> int:
    return TensorProto.STRING if dtype == "string" else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


# Rules: rule(graph, layer, dtype of its output, *names of its arguments) -> name of the output, "" if impossible.


def same_as(operation: str) -> Callable[..., str]:
    """The rule for a layer that is a single operation in ONNX."""
    return lambda graph, layer, dtype, *names: graph.add(operation, *names)


def in_pairs(operation: str) -> Callable[..., str]:
    """The rule for an operation of two or more values."""
    return lambda graph, layer, dtype, *names: functools.reduce(lambda *two: graph.add(operation, *two), names)


def logarithm(graph: Graph, _: Any, dtype: str, name: str) -> str:
    """log1p without loss of digits near 0: log(1 + x) x / ((1 + x) - 1), and x itself where that is 0 / 0."""
    unity = graph.constant(1, dtype)
    above = graph.add("Add", name, unity)
    exact = graph.add("Mul", graph.add("Log", above), graph.add("Div", name, graph.add("Sub", above, unity)))
    exact = graph.add("Where", graph.add("Equal", above, unity), name, exact)
    large = graph.add("Greater", name, graph.constant(1e15, dtype))  # where both are equal, and x may be infinite
    return graph.add("Where", large, graph.add("Log", name), exact)


def clip(graph: Graph, operation: Any, dtype: str, name: str) -> str:
    below = graph.add("Min", name, graph.constant(operation.x_max, dtype))
    return graph.add("Max", below, graph.constant(operation.x_min, dtype))


def look_up(graph: Graph, layer: Any, dtype: str, name: str) -> str:
    known = known_values(layer)
    options: dict[str, Any] = {"keys_int64s" if isinstance(known[0], int) else "keys_strings": known}
    indices = list(range(1, len(known) + 1))
    return graph.add("LabelEncoder", name, values_int64s=indices, default_int64=0, **options)


def activate(graph: Graph, layer: Any, dtype: str, name: str) -> str:
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
        below = graph.add("Erf", graph.add("Mul", name, graph.constant(0.5**0.5, dtype)))
        half = graph.add("Mul", name, graph.constant(0.5, dtype))
        return graph.add("Mul", half, graph.add("Add", below, graph.constant(1, dtype)))
    return name if function == "linear" else ""


def dense(graph: Graph, layer: Any, dtype: str, name: str) -> str:
    value = graph.add("MatMul", name, graph.constant(layer.kernel.numpy(), dtype))
    if layer.use_bias:
        value = graph.add("Add", value, graph.constant(layer.bias.numpy(), dtype))
    return activate(graph, layer, dtype, value)


def normalize_batch(graph: Graph, layer: Any, dtype: str, name: str) -> str:
    scale = (layer.gamma.numpy() if layer.scale else 1) / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    shift = (layer.beta.numpy() if layer.center else 0) - layer.moving_mean.numpy() * scale
    return graph.add("Add", graph.add("Mul", name, graph.constant(scale, dtype)), graph.constant(shift, dtype))


def normalize_layer(graph: Graph, layer: Any, dtype: str, name: str) -> str:
    if not layer.scale or not layer.center:
        return ""
    values = [graph.constant(variable.numpy(), dtype) for variable in (layer.gamma, layer.beta)]
    return graph.add("LayerNormalization", name, *values, epsilon=layer.epsilon)


NOTHING = ("Identity", "Cast", "Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout")  # except in training
SAME_NAME = ("Equal", "Exp", "Greater", "Less", "Log", "Relu", "Sigmoid", "Sign", "Sqrt", "Tanh", "Where")
RULES: dict[str, Callable[..., str]] = {  # by the class of a Keras layer or operation
    **dict.fromkeys(NOTHING, lambda graph, layer, dtype, name: name),
    **{name: same_as(name) for name in SAME_NAME},
    "Absolute": same_as("Abs"),
    "Activation": activate,
    "Add": in_pairs("Add"),
    "Average": same_as("Mean"),
    "BatchNormalization": normalize_batch,
    "Clip": clip,
    "Concatenate": lambda graph, layer, dtype, *names: graph.add("Concat", *names, axis=layer.axis),
    "Dense": dense,
    "IntegerLookup": look_up,
    "Isnan": same_as("IsNaN"),
    "LayerNormalization": normalize_layer,
    "Log1p": logarithm,
    "Maximum": in_pairs("Max"),
    "Minimum": in_pairs("Min"),
    "Multiply": in_pairs("Mul"),
    "Negative": same_as("Neg"),
    "Rsqrt": lambda graph, layer, dtype, name: graph.add("Reciprocal", graph.add("Sqrt", name)),
    "Square": lambda graph, layer, dtype, name: graph.add("Mul", name, name),
    "StringLookup": look_up,
    "Subtract": in_pairs("Sub"),
    "Take": lambda graph, layer, dtype, *names: graph.add("Gather", *names, axis=layer.axis),
    "TrueDivide": in_pairs("Div"),
}


def write_onnx(path: Path, model: keras.Model, details: Details) -> None:
    """Write the Keras model, operation by operation, with the threshold in the metadata of the file."""
    names, graph = onnx_names(details.columns()), Graph()
    result = graph.add_model(model, [names[tensor.name] for tensor in model.inputs])
    graph.add("Identity", result, output="probability")
    inputs = [
        helper.make_tensor_value_info(alias, onnx_type(model.input[name].dtype), ["rows", 1])
        for name, alias in names.items()
    ]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["rows", 1])]
    whole = helper.make_graph(graph.nodes, "productivity", inputs, outputs, graph.constants)
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    written = helper.make_model(whole, opset_imports=versions, ir_version=8, producer_name="train_model_modern")
    helper.set_model_props(written, {"threshold": repr(details.threshold)})
    checker.check_model(written)
    path.write_bytes(written.SerializeToString())
