"""What must not hurt: hostile model files, full disks, folders that others can write to, little memory."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

import train_model_modern as modern


def train(path, folder, *flags):
    return modern.main(
        [str(path), "--model-dir", str(folder), "--epochs", "3", "--folds", "1", "--quiet", *map(str, flags)]
    )


@pytest.fixture
def model(sample, tmp_path):
    path, folder = sample(60), tmp_path / "model"
    assert train(path, folder, "--no-tensorboard", "--no-checkpoints") == 0
    return path, folder / modern.MODEL_FILE


def rewrite(source, target, change):
    """Copy a model archive, its entries changed: change(name, content) gives pairs of them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            for pair in change(name, old.read(name)):
                new.writestr(*pair)


def with_details(text):
    return lambda name, content: [(name, text if name == "training.json" else content)]


LAMBDA = b'{"class_name": "Lambda", "module": "builtins", "config": {}}'
HOSTILE = {
    "a zip bomb": (
        lambda name, content: [(name, content + b"\0" * (300 << 20) if name == "config.json" else content)],
        "unpacks to more than 256 MB",
    ),
    "a path that climbs": (
        lambda name, content: [(name, content), *([("../escaped.txt", "x")] if name == "config.json" else [])],
        "leads out of it",
    ),
    "a path from the root": (
        lambda name, content: [(name, content), *([("/tmp/escaped.txt", "x")] if name == "config.json" else [])],
        "leads out of it",
    ),
    "no details": (
        lambda name, content: [(name, content)] if name != "training.json" else [],
        "is not a model written by",
    ),
    "details that are no object": (with_details("[]"), "is not a model written by"),
    "details of other kinds": (
        with_details('{"label": 1, "threshold": "x", "columns": [2]}'),
        "is not a model written by",
    ),
    "a threshold beyond 1": (
        with_details('{"label": "a", "threshold": 7, "columns": []}'),
        "is not a model written by",
    ),
    "no architecture": (lambda name, content: [(name, content)] if name != "config.json" else [], "cannot be loaded"),
    "another architecture": (
        lambda name, content: [(name, LAMBDA if name == "config.json" else content)],
        "cannot be loaded",
    ),
    "damaged weights": (
        lambda name, content: [(name, content[:100] if name.endswith(".h5") else content)],
        "cannot be loaded",
    ),
}


def test_hostile_models_are_refused(model, tmp_path, run):
    path, good = model
    for name, (change, message) in HOSTILE.items():
        target = tmp_path / "hostile.keras"
        rewrite(good, target, change)
        done = run("predict.py", path, "--model", target, "--output", tmp_path / "out.csv")
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (
            name,
            done.stderr,
        )
        assert message in done.stderr, (name, done.stderr)
        assert not (tmp_path / "out.csv").exists() and not (tmp_path / "escaped.txt").exists()


def test_a_full_disk_under_the_logs_does_not_stop_training(tf, sample, tmp_path, capsys, monkeypatch):
    full = tf.io.TFRecordWriter.write
    count = 0

    def write(self, record):
        nonlocal count
        count += 1
        if count > 20:
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")
        full(self, record)

    monkeypatch.setattr(tf.io.TFRecordWriter, "write", write)
    folder = tmp_path / "model"
    assert modern.main([str(sample(60)), "--model-dir", str(folder), "--epochs", "8"]) == 0
    assert "TensorBoard: the logs are incomplete: No space left on device" in capsys.readouterr().out
    assert (folder / "metrics.json").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("kilobytes", [20, 60, 120, 200])
def test_a_really_full_disk(sample, tmp_path, run, kilobytes):
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        done = run("train_model_modern.py", sample(60), "--model-dir", folder, "--epochs", 12)
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr + done.stdout, done.stderr
        assert "No space left" in done.stdout + done.stderr
        assert done.returncode == 0 or not (folder / "metrics.json").exists()
        if (folder / modern.MODEL_FILE).exists():
            import keras

            keras.models.load_model(folder / modern.MODEL_FILE)
        assert not list(folder.glob("**/.*.tmp"))
    finally:
        subprocess.run(["umount", folder], check=True)


def test_model_directories_that_cannot_be_used(sample, tmp_path, capsys, monkeypatch):
    path, file = sample(60), tmp_path / "file"
    file.write_text("mine")
    assert train(path, file) == 2 and "is a file" in capsys.readouterr().err and file.read_text() == "mine"
    assert train(path, file / "below") == 2 and "Not a directory" in capsys.readouterr().err

    def denied(place):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(modern, "open_beside", denied)
    assert train(path, tmp_path / "denied") == 2
    assert capsys.readouterr().err.endswith("Permission denied; name a directory that can be written to\n")


def test_folders_that_others_can_write_to_are_told(model, tmp_path, capsys, run):
    path, file = model
    file.parent.chmod(0o777)
    assert modern.main([str(path), "--model-dir", str(file.parent), "--epochs", "2"]) == 0
    assert "can be written to by every user" in capsys.readouterr().out
    done = run("predict.py", path, "--model", file)
    assert (
        done.returncode == 0
        and done.stderr.startswith("warning: ")
        and "can be written to by every user" in done.stderr
    )
    file.parent.chmod(0o755)
    assert modern.shared_warning(file.parent) == ""


def test_little_address_space(sample, tmp_path):
    program = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000,) * 2); "
    program += "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    path = sample(100_000)
    command = [
        sys.executable,
        "-c",
        program,
        str(ROOT / "train_model_modern.py"),
        str(path),
        "--quiet",
        "--model-dir",
        str(tmp_path / "model"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and done.stderr.startswith(
        "error: not enough memory (the address space is limited to 1,430 MB"
    )
    assert done.stderr.count("\n") == 1 and not (tmp_path / "model" / "metrics.json").exists()


def test_stopped_while_it_exports(sample, tmp_path):
    """What a killed run left is cleaned up by the next; what another program or a living process has made is not."""
    path, folder = sample(60), tmp_path / "model"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (folder / f".train_model_modern-{dead.pid}-productivity_model_saved_model.tmp" / "after").mkdir(parents=True)
    (folder / f".train_model_modern-{dead.pid}-productivity_model.keras.tmp").write_bytes(b"half")
    kept = [
        folder / ".exportabc.tmp",
        folder / ".productivity_model.keras.123.tmp",
        folder / f".train_model_modern-{os.getppid()}-x.tmp",
    ]
    for other in kept:
        other.mkdir()
        (other / "file").write_text("mine")
    assert train(path, folder) == 0
    assert sorted(folder.glob(".*.tmp")) == sorted(kept) and all(
        (other / "file").read_text() == "mine" for other in kept
    )
    assert json.loads((folder / "metrics.json").read_text())
