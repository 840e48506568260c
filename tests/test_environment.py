"""What a script says when it is run with a Python or packages that it cannot use."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

SCRIPTS = ["train_model_modern.py", "train_model.py", "predict.py", "export_model.py", "report.py"]


def bare(*arguments, **environment):
    """Run Python without its installed packages."""
    command = [sys.executable, "-S", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def told_in_one_line(done):
    assert done.returncode == 1 and done.stdout == "", done
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert sys.executable in done.stderr and "activate" in done.stderr
    return done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_numpy(script):
    words = told_in_one_line(bare(ROOT / script, "--help"))
    assert "the package numpy is not installed" in words and "pip install -r requirements-cpu.txt" in words


@pytest.mark.parametrize("script", ["train_model_modern.py", "train_model.py"])
def test_without_pandas(script, sample, tmp_path):
    for folder in Path(np.__file__).parent.parent.glob("numpy*"):
        (tmp_path / folder.name).symlink_to(folder)
    done = bare(ROOT / script, sample(), "--model-dir", tmp_path / "model", PYTHONPATH=str(tmp_path))
    assert "the package pandas is not installed" in told_in_one_line(done)


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_old_python_is_refused(script):
    program = "import runpy, sys; sys.version_info = (3, 9, 18, 'final', 0); sys.argv = sys.argv[1:]; "
    program += "runpy.run_path(sys.argv[0], run_name='__main__')"
    words = told_in_one_line(bare("-c", program, ROOT / script, "--help"))
    assert "Python 3.11 or later is needed" in words and "Python 3.9" in words


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_old_python_can_read_as_far_as_the_refusal(script):
    ast.parse((ROOT / script).read_text(), feature_version=(3, 8))
