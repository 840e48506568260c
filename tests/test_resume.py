"""Interrupted runs: what is left behind, and that --resume ends with the bits of the uninterrupted run."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from conftest import ROOT

import train_model_modern as modern

KILLS = int(os.environ.get("KILLS", "4"))  # make soak: 100


def weights_of(folder):
    import keras

    return keras.models.load_model(folder / modern.MODEL_FILE).get_weights()


def results_of(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: metrics[name] for name in ("test", "epochs", "best_epoch", "temperature", "importance")}


def same(one, other):
    assert results_of(one) == results_of(other)
    for left, right in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_array_equal(left, right)


def steps_of(folder):
    """The epochs that TensorBoard has losses of, in the order they were written."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = []
    for path in sorted(folder.glob("logs/*/train/events*"), key=os.path.getmtime):
        events += EventFileLoader(str(path)).Load()
    return [event.step for event in events if any(value.tag == "epoch/loss" for value in event.summary.value)]


def stop_after(monkeypatch, calls):
    """Ask each coming run to stop after so many calls of the program, as a signal would."""
    offer = modern.StateFile.offer

    def counted(self, now=False):
        offer(self, now)
        if not now:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == calls:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)

    monkeypatch.setattr(modern.StateFile, "offer", counted)


@pytest.mark.parametrize(
    "flags",
    [
        ["--no-xla"],
        ["--xla"],
        ["--folds", "4"],
        ["--no-early-stopping", "--class-weight", "balanced", "--threshold", "f1"],
    ],
)
def test_interrupted_several_times_it_ends_with_the_same_bits(sample, tmp_path, monkeypatch, flags):
    path = sample(100)
    arguments = ["--quiet", "--epochs", "80", *flags]
    assert modern.main([str(path), "--model-dir", str(tmp_path / "whole"), *arguments]) == 0
    stop_after(monkeypatch, 1)
    folder = str(tmp_path / "parts")
    codes = [modern.main([str(path), "--model-dir", folder, *arguments])]
    logs = os.listdir(tmp_path / "parts" / "logs")
    while codes[-1] == 143:
        assert (tmp_path / "parts" / modern.RESUME_FILE).exists() and not (
            tmp_path / "parts" / modern.METRICS_FILE
        ).exists()
        codes.append(modern.main(["--model-dir", folder, "--resume", "--quiet"]))
        assert len(codes) < 20
    monkeypatch.undo()
    if codes[-1] != 0:
        codes.append(modern.main(["--model-dir", folder, "--resume", "--quiet"]))
    assert codes[-1] == 0 and len(codes) > 2
    same(tmp_path / "whole", tmp_path / "parts")
    assert os.listdir(tmp_path / "parts" / "logs") == logs and not (tmp_path / "parts" / modern.RESUME_FILE).exists()
    assert steps_of(tmp_path / "parts") == steps_of(tmp_path / "whole")
    kept = [{path.name for path in (tmp_path / name / "checkpoints").iterdir()} for name in ("parts", "whole")]
    assert kept[0] == kept[1]


def test_killed_at_random_moments(sample, tmp_path):
    path = sample(150)
    command = [
        sys.executable,
        str(ROOT / "train_model_modern.py"),
        str(path),
        "--quiet",
        "--epochs",
        "400",
        "--no-early-stopping",
        "--no-xla",
        "--model-dir",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    started = time.perf_counter()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment)
    whole = time.perf_counter() - started
    folder, moments, resumed = tmp_path / "killed", random.Random(1), 0
    for number in range(KILLS):
        process = subprocess.Popen([*command, str(folder)], env=environment, stderr=subprocess.DEVNULL)
        if number % 3 == 2:
            time.sleep(whole * moments.uniform(0, 1))
        else:  # in training or the writing after it: a state file shows that it has begun
            while process.poll() is None and not (folder / modern.RESUME_FILE).exists():
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.35 * whole) if number else 0)
        process.kill()
        process.wait()
        if (folder / modern.MODEL_FILE).exists():
            weights_of(folder)
        if (folder / modern.RESUME_FILE).exists():
            resumed += 1
            subprocess.run(
                [*command[:2], "--resume", "--quiet", "--model-dir", str(folder)], check=True, env=environment
            )
            same(tmp_path / "whole", folder)
        subprocess.run([*command, str(folder)], check=True, env=environment)
        same(tmp_path / "whole", folder)
        assert not list(folder.glob("**/*.tmp"))
    assert resumed


def test_nothing_to_resume(tmp_path, capsys):
    assert modern.main(["--model-dir", str(tmp_path), "--resume"]) == 2
    assert "holds no interrupted run" in capsys.readouterr().err


@pytest.fixture
def interrupted(sample, tmp_path, monkeypatch):
    path = sample(100)
    stop_after(monkeypatch, 1)
    assert modern.main([str(path), "--model-dir", str(tmp_path / "model"), "--quiet"]) == 143
    monkeypatch.undo()
    return path, tmp_path / "model"


def refused(capsys, folder, *flags):
    capsys.readouterr()
    before = (folder / modern.RESUME_FILE).read_bytes()
    assert modern.main(["--model-dir", str(folder), "--resume", *map(str, flags)]) == 2
    assert (folder / modern.RESUME_FILE).read_bytes() == before
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_contradictions_and_other_data_are_refused(interrupted, capsys):
    path, folder = interrupted
    assert "--epochs 70 contradicts the interrupted run, which has 150" in refused(capsys, folder, "--epochs", 70)
    assert "--architecture deep" in refused(capsys, folder, "--architecture", "deep")
    assert "contradicts" in refused(capsys, folder, "--no-adamw")
    assert "--split-seed 7 contradicts the interrupted run, which has 42" in refused(capsys, folder, "--split-seed", 7)
    assert "--time-column when contradicts" in refused(capsys, folder, "--time-column", "when")
    path.write_text(path.read_text() + "1,2,3,4,1\n")
    assert "no longer, the data of the interrupted run" in refused(capsys, folder)


def test_tampered_state_is_refused(interrupted, capsys):
    _, folder = interrupted
    state = folder / modern.RESUME_FILE
    whole = state.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"not an archive"):
        state.write_bytes(damaged)
        assert "is damaged" in refused(capsys, folder)

    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "executed"),))

    arrays = dict(np.load(_io(whole)))
    np.savez(state, **arrays | {"0/history": np.array([Hostile()], dtype=object)})
    assert "is damaged" in refused(capsys, folder) and not (folder / "executed").exists()
    np.savez(state, **arrays | {"0/state/trained": np.zeros(3, np.float32)})
    assert "is damaged" in refused(capsys, folder)
    with zipfile.ZipFile(state, "w") as archive:
        archive.writestr("../escape.npy", b"x")
    assert "is damaged" in refused(capsys, folder) and not (folder.parent / "escape.npy").exists()


def _io(content):
    import io

    return io.BytesIO(content)


def test_a_new_run_says_that_it_starts_anew(interrupted, capsys):
    path, folder = interrupted
    assert modern.main([str(path), "--model-dir", str(folder), "--epochs", "2"]) == 0
    assert "is discarded (--resume would have continued it)" in capsys.readouterr().out


def test_two_runs_in_one_directory(sample, tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    with open(folder / modern.LOCK_FILE, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711")
        file.flush()
        assert modern.main([str(sample(60)), "--model-dir", str(folder), "--epochs", "2"]) == 2
        assert "process 4711 is training or exporting there" in capsys.readouterr().err
    assert os.listdir(folder) == [modern.LOCK_FILE]
    (folder / modern.LOCK_FILE).write_text("4711")  # left by a process that died
    assert modern.main([str(sample(60)), "--model-dir", str(folder), "--epochs", "2", "--quiet"]) == 0


@pytest.mark.parametrize("name", [modern.MODEL_FILE, modern.METRICS_FILE, modern.RESUME_FILE, "model_"])
def test_a_full_disk_leaves_the_previous_files(sample, tmp_path, monkeypatch, capsys, name):
    folder, path = tmp_path / "model", sample(60)
    assert modern.main([str(path), "--model-dir", str(folder), "--epochs", "3", "--quiet"]) == 0
    before = (folder / modern.MODEL_FILE).read_bytes()
    write = modern.write_beside

    def failing(target, content):
        if target.name.startswith(name):
            raise OSError(28, "No space left on device")
        return write(target, content)

    monkeypatch.setattr(modern, "write_beside", failing)
    code = modern.main([str(path), "--model-dir", str(folder), "--epochs", "5", "--seed", "7"])
    captured = capsys.readouterr()
    assert "No space left" in captured.out + captured.err and "Traceback" not in captured.err
    assert code == (1 if name in (modern.MODEL_FILE, modern.METRICS_FILE) else 0)
    assert ((folder / modern.MODEL_FILE).read_bytes() == before) is (code == 1)
    weights_of(folder)


def test_an_unfinished_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    modern.write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        modern.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
