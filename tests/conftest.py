"""What all tests share: tables, trained models, and the commands, run in this process or as a user runs them.

Next to every model directory that these fixtures make is the table it was trained on: folder.parent / "HARVEST.CSV".
"""

import csv
import functools
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import train_model_modern
from harvest.data.sample import write_sample
from harvest.training.tensorflow_setup import import_tensorflow, prepare_environment

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("--epochs", "3", "--folds", "1", "--no-tensorboard", "--no-checkpoints", "--quiet")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

prepare_environment(cpu_only=True, xla=True, short=True)


def write_rows(path: Path, rows: int = 120, seed: int = 1) -> Path:
    """Write a v0 table of simulated rows."""
    write_sample(path, rows, seed)
    return path


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def predictions_of(folder: Path) -> list[dict[str, str]]:
    """The rows of predictions.csv."""
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights_of(folder: Path) -> list[Any]:
    """The arrays of all variables of the saved model."""
    import keras

    return keras.models.load_model(folder / "productivity_model.keras").get_weights()


def environment_of_a_user(**more: str) -> dict[str, str]:
    """The environment without what the tests have set for TensorFlow."""
    ours = ("XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "TF_CONFIG", "KERAS_BACKEND", "KERAS_HOME")
    return {name: value for name, value in os.environ.items() if name not in ours} | more


@pytest.fixture(scope="session")
def tf() -> ModuleType:
    return import_tensorflow()


@pytest.fixture
def sample(tmp_path: Path) -> Callable[..., Path]:
    """Write a v0 table of simulated rows and give its path."""

    def write(rows: int = 200, seed: int = 1, name: str = "HARVEST.CSV") -> Path:
        return write_rows(tmp_path / name, rows, seed)

    return write


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one of the scripts as a user does, in a process and a directory of its own."""

    def call(script: str, *args: object, cwd: Path | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / script), *map(str, args)]
        options = {"capture_output": True, "text": True, "env": environment_of_a_user(), "timeout": 240} | options
        return subprocess.run(command, cwd=cwd, **options)

    return call


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Path]:
    """Train quickly in this process, see that the exit code is the expected one, and give the model directory.

    csv is a path, several, or () for none (as --sample and --resume want it); by default so many simulated rows.
    Flags come after those of QUICK and overrule them.
    """

    def call(*flags: object, csv: Any = None, rows: int = 120, folder: Path | None = None, code: int = 0) -> Path:
        folder = folder or tmp_path / "model"
        if csv is None:
            csv = write_rows(folder.parent / "HARVEST.CSV", rows)
        tables = [csv] if isinstance(csv, str | Path) else csv
        command = [*tables, "--model-dir", folder, *QUICK, *flags]
        assert train_model_modern.main([str(part) for part in command]) == code
        return folder

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give a model directory that must not be changed; each is trained once in a session.

    The table has so many simulated rows, or is what write(path) writes.
    """

    @functools.cache
    def get(*flags: str, rows: int = 120, write: Callable[[Path], object] | None = None) -> Path:
        folder = tmp_path_factory.mktemp("trained")
        table = folder / "HARVEST.CSV"
        if write:
            write(table)
        else:
            write_rows(table, rows)
        command = [str(table), "--model-dir", str(folder / "model"), *QUICK, *flags]
        assert train_model_modern.main(command) == 0
        return folder / "model"

    return get


@pytest.fixture
def model_copy(trained: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Give a copy of a trained model directory and of its table, which the test may change."""

    def get(*flags: str, **table: Any) -> Path:
        shutil.copytree(trained(*flags, **table).parent, tmp_path, dirs_exist_ok=True)
        return tmp_path / "model"

    return get


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run predict.py in this process; give its exit code and what it has written to standard output and error."""
    import predict as script

    def call(*args: object, stdin: bytes = b"") -> tuple[int, str, str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
            code = script.main([str(part) for part in args])
        return code, *capsys.readouterr()

    return call
