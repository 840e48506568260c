import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import train_model_modern as modern

modern.prepare_environment(cpu_only=True, xla=True)


@pytest.fixture(scope="session")
def tf():
    return modern.import_tensorflow()


@pytest.fixture
def sample(tmp_path):
    """Write a v0 file of simulated rows and give its path."""

    def write(rows=200, seed=1, name="HARVEST.CSV"):
        path = tmp_path / name
        modern.write_sample(path, rows, seed)
        return path

    return write


@pytest.fixture
def run():
    """Run one of the scripts as a user does, in a process and a directory of its own."""

    def call(script, *arguments, cwd=None, **options):
        environment = {
            key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "CUDA_VISIBLE_DEVICES")
        }
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=240, **options)

    return call
