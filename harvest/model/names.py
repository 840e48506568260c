"""The names of columns in exported models and in TensorFlow graphs."""

import keyword
import re
from collections import Counter
from collections.abc import Iterable


def graph_name(column: str, prefix: str) -> str:
    """A name that TensorFlow allows in graphs; the prefix makes it unique."""
    return f"{prefix}_" + re.sub(r"[^A-Za-z0-9]", "_", column)


def free_name(name: str, columns: Iterable[str]) -> str:
    """The given name, with underscores added until no column has it."""
    while name in columns:
        name += "_"
    return name


def input_names(columns: list[str]) -> dict[str, str]:
    """The inputs of a SavedModel and of LiteRT, by column: the name of the column if it is an identifier."""
    plain = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
    lower = Counter(name.lower() for name in columns)  # names in TensorFlow graphs must differ by more than case
    taken = {"self", "probability"}  # an argument of every signature, and its output

    def is_odd(name: str) -> bool:
        small = name.lower()
        clashes = lower[small] > 1 or small in taken or small.startswith("input_")
        return clashes or not plain.fullmatch(name) or keyword.iskeyword(name)

    return {name: graph_name(name, f"input_{index}") if is_odd(name) else name for index, name in enumerate(columns)}


def onnx_names(columns: list[str]) -> dict[str, str]:
    """The inputs of an ONNX file, by column: the name of the column, unless it is that of the output."""
    alias = free_name("input_probability", columns)
    return {name: alias if name == "probability" else name for name in columns}


def renamed_inputs(columns: list[str]) -> list[tuple[str, str, str]]:
    """The columns with renamed inputs, and the names of these in SavedModel and LiteRT, and in ONNX."""
    signature_names, graph_names = input_names(columns), onnx_names(columns)
    names = [(name, signature_names[name], graph_names[name]) for name in columns]
    return [found for found in names if len(set(found)) > 1]
