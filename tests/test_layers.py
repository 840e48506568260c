"""The shape of the code: who may import whom, and how long things may be."""

import ast
import sys
import tokenize
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from conftest import ROOT

SCRIPTS = ("train_model_modern", "train_model", "predict", "export_model", "report")
PATHS = [ROOT / f"{name}.py" for name in SCRIPTS] + sorted((ROOT / "harvest").rglob("*.py"))

# Imports point down these layers. Packages of one layer do not import each other.
LAYERS = [
    ("harvest", "harvest.text", "harvest.decision", "harvest.cli", "harvest.run_directory"),
    ("harvest.data",),
    ("harvest.training", "harvest.model"),
    ("harvest.results",),
    SCRIPTS,
]
FOUNDATION = LAYERS[0]  # these may import each other

# What must be importable in a moment, to refuse bad flags and bad data, to compare runs and to draw a report.
WITHOUT_TENSORFLOW = (
    "harvest.cli",
    "harvest.run_directory",
    "harvest.data",
    "harvest.training.config",
    "harvest.results.metrics",
    "harvest.results.linear",
    "harvest.results.leaks",
    "harvest.results.summary",
    "harvest.results.compare",
    "harvest.results.report",
)
LONGEST = {"train_model_modern": 800, "train_model": 130, "predict": 140, "export_model": 130, "report": 130}
TENSORFLOW = ("tensorflow", "keras", "tensorboard")

# Imports inside functions, with the modules that may have them: of what is slow, or may not be installed.
LATE = {
    "harvest.data.encoding": ("keras",),
    "harvest.training.tensorflow_setup": ("tensorflow", "resource"),
    "harvest.training.tensorboard": ("tensorboard",),
    "harvest.model.export.formats": ("harvest.model.export.onnx", "onnxruntime", "ai_edge_litert"),
}


class Import(NamedTuple):
    module: str  # which imports
    name: str  # what it imports
    function: str  # in which it does; empty at the top
    line: int
    typing: bool  # for type hints only

    def __str__(self) -> str:
        return f"{self.module}, line {self.line}: imports {self.name}" + (f" in {self.function}" * bool(self.function))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in PATHS}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imports_of(module: str) -> Iterator[Import]:
    """Every import of a module, those in functions and for type hints included."""

    def walk(node: ast.AST, function: str, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            function = function or getattr(node, "name", "lambda")
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            typing = True
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, function, node.lineno, typing)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                name = whole if whole in MODULES or node.module == "importlib" else str(node.module)
                yield Import(module, name, function, node.lineno, typing)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, function, typing)

    return walk(TREES[module], "", False)


IMPORTS = list(chain.from_iterable(imports_of(module) for module in MODULES))
AT_ONCE = [
    found for found in IMPORTS if not found.function and not found.typing
]  # whoever imports the module does these


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def place_of(module: str) -> tuple[int, str]:
    """The number of a module's layer and its package there."""
    for number, packages in reversed(list(enumerate(LAYERS))):
        for package in packages:
            if module == package or (package != "harvest" and module.startswith(f"{package}.")):
                return number, package
    raise AssertionError(f"{module} is in no layer")


def assert_none(faults: Iterable[object]) -> None:
    lines = [str(fault) for fault in faults]
    assert not lines, "\n".join(["", *lines])


def test_imports_point_down():
    faults = []
    for found in IMPORTS:
        if within(found.name, ("harvest", *SCRIPTS)):
            (layer, package), (other, imported) = place_of(found.module), place_of(found.name)
            if other > layer or (other == layer and package != imported and package not in FOUNDATION):
                faults.append(found)
    assert_none(faults)


def test_no_script_is_imported():
    assert_none(found for found in IMPORTS if found.name in SCRIPTS)


def test_no_cycles():
    uses = {module: {found.name for found in IMPORTS if found.module == module} - {module} for module in MODULES}
    for _ in uses:  # what remains imports modules that remain and is imported by some
        uses = {module: names & set(uses) for module, names in uses.items() if names & set(uses)}
        uses = {module: names for module, names in uses.items() if any(module in others for others in uses.values())}
    assert_none(f"{module} imports {', '.join(sorted(uses[module]))}" for module in uses)


def test_tensorflow_is_not_imported_where_it_is_not_needed():
    slow = {found.module for found in AT_ONCE if within(found.name, TENSORFLOW)}
    found_before = -1
    while len(slow) > found_before:  # whoever imports a module that imports TensorFlow does so too
        found_before = len(slow)
        slow |= {found.module for found in AT_ONCE if found.name in slow}
    assert_none(sorted(module for module in slow if within(module, (*WITHOUT_TENSORFLOW, *SCRIPTS))))


def test_imports_stand_at_the_top():
    inside = [found for found in IMPORTS if found.function and found.module not in SCRIPTS]
    assert_none(found for found in inside if not within(found.name, LATE.get(found.module, ())))


def test_flags_are_parsed_before_packages_are_imported():
    """Whatever a script imports at its top, directly or not, is of the standard library or of this repository."""
    heavy, before = {found.module for found in AT_ONCE if is_package(found.name)}, -1
    while len(heavy) > before:
        before = len(heavy)
        heavy |= {found.module for found in AT_ONCE if found.name in heavy}
    assert_none(
        found for found in AT_ONCE if found.module in SCRIPTS and (found.name in heavy or is_package(found.name))
    )


def is_package(name: str) -> bool:
    return name.split(".")[0] not in sys.stdlib_module_names | {"harvest"}


def test_modules_are_found_by_the_import_statement_alone():
    """But for TensorFlow's import, which leaves scikit-learn out."""
    faults = [str(found) for found in IMPORTS if within(found.name, ("importlib", "runpy", "pkgutil"))]
    names = ("sys.modules", "sys.path", "__import__")
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            name = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
            if name in names and (module, name) != ("harvest.training.tensorflow_setup", "sys.modules"):
                faults.append(f"{module}, line {node.lineno}: {name}")
    assert_none(fault for fault in faults if "imports importlib.metadata" not in fault)


def test_lengths():
    faults = []
    for module, path in MODULES.items():
        lines = path.read_text(encoding="utf-8").splitlines()
        own = len(lines) - TREES[module].body[0].lineno if TREES[module].body else 0  # without the packages for uv
        if own > LONGEST.get(module, 550):
            faults.append(f"{module} has {own} lines")
        faults += [
            f"{module}, line {number}: {len(line)} columns" for number, line in enumerate(lines, 1) if len(line) > 120
        ]
        for node in ast.walk(TREES[module]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in ("main", "parse_args"):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    faults.append(f"{module}, line {node.lineno}: {node.name} has {length} lines")
    assert_none(faults)


def test_the_story_says_why():
    """At least 8% of the lines of the trainer are comments, its list of packages for uv not counted."""
    with (ROOT / "train_model_modern.py").open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    start = TREES["train_model_modern"].body[0].lineno
    comments = [token for token in tokens if token.type == tokenize.COMMENT and token.start[0] > start]
    whole_lines = [token for token in comments if token.line.strip().startswith("#")]
    assert len(whole_lines) >= 0.08 * (tokens[-1].start[0] - start)


def test_there_is_no_more_than_there_should_be():
    assert {path.stem for path in ROOT.glob("*.py")} == {*SCRIPTS}
    paths = [*PATHS, *(ROOT / "docs").glob("*.py")]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths) < 10_650
