"""What a script says when it is run with a Python or packages that it cannot use."""

import ast
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

SCRIPTS = ["train_model_modern.py", "train_model.py", "predict.py", "export_model.py", "report.py"]


def bare(*args, **environment):
    """Run Python without its installed packages."""
    command = [sys.executable, "-S", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def one_line(done):
    assert done.returncode == 1 and done.stdout == "", done
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert sys.executable in done.stderr and "activate" in done.stderr
    return done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_numpy(script, tmp_path):
    (tmp_path / "a.csv").write_text("a,productive\n1,1\n")
    (tmp_path / "productivity_model.keras").write_bytes(b"PK")
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "predictions.csv").write_text("")
    given = {
        "predict.py": [tmp_path / "a.csv", "--model-dir", tmp_path],
        "export_model.py": ["saved_model", "--model-dir", tmp_path],
        "report.py": [tmp_path],
    }
    message = one_line(bare(ROOT / script, *given.get(script, [tmp_path / "a.csv", "--model-dir", tmp_path])))
    assert "the package " in message and "pip install -r requirements-cpu.txt" in message
    done = bare(ROOT / script, "--help")
    assert "--help" in done.stdout or one_line(done)


@pytest.mark.parametrize("script", ["train_model_modern.py", "train_model.py"])
def test_without_pandas(script, tmp_path):
    for folder in Path(np.__file__).parent.parent.glob("numpy*"):
        (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "a.csv").write_text("a,productive\n1,1\n")
    done = bare(ROOT / script, tmp_path / "a.csv", "--model-dir", tmp_path / "model", PYTHONPATH=str(tmp_path))
    assert "the package pandas is not installed" in one_line(done)


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_old_python_is_refused(script):
    program = "import runpy, sys; sys.version_info = (3, 9, 18, 'final', 0); sys.argv = sys.argv[1:]; "
    program += f"sys.path.insert(0, {str(ROOT)!r}); runpy.run_path(sys.argv[0], run_name='__main__')"
    message = one_line(bare("-c", program, ROOT / script, "--help"))
    assert "Python 3.11 or later is needed" in message and "Python 3.9" in message


@pytest.mark.parametrize("file", [*SCRIPTS, "harvest/__init__.py"])
def test_an_old_python_can_read_as_far_as_the_refusal(file):
    ast.parse((ROOT / file).read_text(), feature_version=(3, 8))


def script_metadata(script):
    """The lines of a script that tell uv what to install."""
    block = re.match(r"# /// script\n((?:#.*\n)*?)# ///\n", (ROOT / script).read_text()).group(1)
    return tomllib.loads("\n".join(line[2:] for line in block.splitlines()))


@pytest.mark.parametrize("script", SCRIPTS)
def test_uv_installs_the_packages_that_are_required(script):
    lines = (ROOT / "requirements-cpu.txt").read_text().splitlines()
    required = [line.replace('"', "'") for line in lines if line and not line.startswith("#")]
    metadata = script_metadata(script)
    assert metadata["requires-python"] == script_metadata("train_model_modern.py")["requires-python"]
    assert set(metadata["dependencies"]) <= set(required)
    names = [re.match(r"[a-z0-9-]+", line).group() for line in metadata["dependencies"]]
    expected = {"report.py": ["numpy", "jinja2"], "export_model.py": ["keras", "numpy", "pandas", "jinja2"]}
    if script == "train_model_modern.py":
        assert metadata["dependencies"] == required
    elif script == "report.py":
        assert names == expected[script]
    else:
        assert names == ["tensorflow-cpu", "tensorflow", *expected.get(script, ["keras", "numpy", "pandas"])]


def test_a_report_needs_no_other_packages():
    program = "import sys, harvest.results.report.page; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert not {"pandas", "tensorflow", "keras", "rich", "h5py"} & set(done.stdout.split()) and done.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_during_the_first_imports_shows_no_traceback(script, tmp_path):
    (tmp_path / "argparse.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = bare(ROOT / script, "--help", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
