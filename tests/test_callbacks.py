"""The callbacks of a training run, called on folds without training."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import threading
import zipfile
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import ROOT, environment_of_a_user

from harvest.cli import Console
from harvest.training import callbacks, resume, tensorboard
from harvest.training.folds import Fold, FoldCallback
from harvest.training.program import Weights, current_weights

LOGS = {"loss": 0.5, "val_loss": 0.25, "val_accuracy": 0.75}


def made_up_fold(number=0):
    return Fold(number, split=None, encoding=None, linear=None)


def next_epoch(fold, loss, weights):
    """Let a fold have trained one more epoch."""
    fold.history.append({"val_loss": loss, "val_accuracy": 1 - loss})
    fold.now = weights
    if loss < fold.best_loss:
        fold.best_loss, fold.best_epoch, fold.best = loss, len(fold.history), weights


# ProgressLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show_epochs(count=12, epochs=1_000, first=0):
    progress = callbacks.ProgressLine(epochs, Console(quiet=False))
    progress.on_train_begin()
    for epoch in range(first, first + count):
        progress.on_epoch_end(epoch, LOGS)
    progress.on_train_end()


def check_bar(shown, columns, before_each_line):
    drawn, _, rest = shown.rpartition("\x1b[1A\x1b[2K")
    frames = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", part) for part in re.split(r"[\r\n]+", drawn)]
    frames = [frame for frame in frames if frame.startswith("epoch")]
    assert rest == before_each_line and len(frames) == 14 and {len(frame) for frame in frames} == {columns}
    assert "\x1b[1A" not in drawn and "epoch  12/1000" in frames[-1] and "val_accuracy 0.750" in frames[-1]
    assert "left" not in frames[1] and ("at most 297 s left" in frames[-1]) is (columns >= 80)
    assert ("  loss 0.5000" in frames[-1]) is (columns >= 100)
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")  # the cursor is hidden, and shown again


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_the_bar_is_as_wide_as_the_terminal(monkeypatch, columns):
    seconds = iter(range(1_000))
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(seconds) * 0.3)
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    for name, value in (("COLUMNS", str(columns)), ("LINES", "24"), ("TERM", "xterm-256color")):
        monkeypatch.setenv(name, value)
    show_epochs()
    check_bar(screen.getvalue(), columns, "")


@pytest.mark.slow
def test_the_bar_on_a_pseudo_terminal():
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    import fcntl
    import termios

    program = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import test_callbacks
seconds = iter(range(1_000))
test_callbacks.callbacks.time.perf_counter = lambda: next(seconds) * 0.3
test_callbacks.show_epochs()
print("done")
"""
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = environment_of_a_user(TERM="xterm-256color")
    environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
    streams = {"stdin": writing, "stdout": writing, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, **streams) as process:
        os.close(writing)
        shown = b""
        try:
            while part := os.read(reading, 65_536):
                shown += part
        except OSError:  # Linux says so when the other side is closed
            pass
    os.close(reading)
    assert process.returncode == 0
    check_bar(shown.decode(), 80, "done\r\n")


@pytest.mark.parametrize("terminal", ["dumb", "none"])
def test_elsewhere_a_plain_line_every_few_epochs(monkeypatch, terminal):
    monkeypatch.setattr(sys, "stdout", screen := Terminal() if terminal == "dumb" else io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    show_epochs(21, 150)
    lines = screen.getvalue().splitlines()
    assert lines[0] == "epoch   1/150  loss 0.5000  val_loss 0.2500  val_accuracy 0.750"
    assert [int(line.split("/")[0].split()[1]) for line in lines] == [1, 2, 5, 10, 20]


def test_quiet_shows_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    progress = callbacks.ProgressLine(10, Console(quiet=True))
    progress.on_train_begin()
    progress.on_epoch_end(0, LOGS)
    progress.on_train_end()
    assert screen.getvalue() == ""


def test_an_output_that_fails_ends_no_training(monkeypatch):
    class Full(Terminal):
        def write(self, text):
            raise OSError(28, "No space left on device")

        def fileno(self):
            raise OSError

    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setenv("TERM", "xterm-256color")
    console = Console(quiet=False)
    progress = callbacks.ProgressLine(10, console)
    progress.on_train_begin()
    progress.on_epoch_end(0, LOGS)
    progress.on_epoch_end(1, LOGS)
    progress.on_train_end()
    assert console.quiet and console.failure == "No space left on device"


# BestCheckpoint


def model_file(weights, entry="training.json"):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(entry, repr(weights))
    return content.getvalue()


def written(folder):
    """The weights in each checkpoint of a folder."""
    found = {}
    for path in sorted(folder.glob("*.keras")):
        with zipfile.ZipFile(path) as archive:
            found[path.name] = archive.read("training.json").decode()
    return found


ORIGIN = {"run": "20260101-000000_rows_standard_folds1", "data": "rows.csv", "rows": 150}


def listed(folder):
    return json.loads((folder / "manifest.json").read_text())["train_model_modern"]


def train_with(folder, losses, keep=5, names=None, write_model=model_file):
    """Run BestCheckpoint over the validation losses of each fold."""
    folds = [made_up_fold(number) for number in range(len(losses))]
    names = [] if names is None else names
    callback = callbacks.BestCheckpoint(folds, folder, keep, names, ORIGIN, write_model)
    for epoch, values in enumerate(zip(*losses, strict=True)):
        for fold, loss in zip(folds, values, strict=True):
            if loss is not None:
                next_epoch(fold, loss, Weights(epoch + 1, fold.number))
        callback.on_epoch_end(epoch)
        callback.writer.submit(int).result()  # wait for the thread
    callback.on_train_end()
    return callback


def test_each_new_best_epoch_is_written_and_the_newest_are_kept(tmp_path):
    callback = train_with(tmp_path / "checkpoints", [[0.5, 0.4, 0.45, 0.3, 0.2, 0.6]], keep=2)
    assert callback.names == ["model_04_0.7000.keras", "model_05_0.8000.keras"] and not callback.failure
    wanted = {callback.names[0]: [Weights(4, 0)], callback.names[1]: [Weights(5, 0)]}
    assert written(tmp_path / "checkpoints") == {name: repr(weights) for name, weights in wanted.items()}
    assert not [thread for thread in threading.enumerate() if thread in callback.writer._threads]


def test_keep_0_keeps_all(tmp_path):
    losses = [0.9 - 0.1 * epoch for epoch in range(8)]
    assert len(train_with(tmp_path, [losses], keep=0).names) == len(written(tmp_path)) == len(listed(tmp_path)) == 8


def test_a_checkpoint_has_the_best_weights_of_every_fold(tmp_path):
    callback = train_with(tmp_path, [[0.5, 0.6, 0.4], [0.8, 0.6, 0.7]])
    assert callback.names == ["model_01_0.3500.keras", "model_02_0.4500.keras", "model_03_0.5000.keras"]
    assert list(written(tmp_path).values())[1:] == [
        repr([Weights(1, 0), Weights(2, 1)]),
        repr([Weights(3, 0), Weights(2, 1)]),
    ]


def test_no_checkpoint_before_every_fold_has_a_best_epoch(tmp_path):
    assert train_with(tmp_path, [[0.5, 0.4], [None, 0.6]]).names == ["model_02_0.5000.keras"]


def test_a_resumed_run_goes_on_with_its_list_and_leaves_other_files(tmp_path):
    for name in ("model_01_0.5000.keras", "model_02_0.6000.keras", "model_03_0.9999.keras"):
        (tmp_path / name).write_bytes(model_file(name))
    names = ["model_01_0.5000.keras", "model_02_0.6000.keras"]  # the other one is of an earlier run
    train_with(tmp_path, [[0.5, 0.3]], keep=2, names=names)
    assert names == ["model_02_0.6000.keras", "model_02_0.7000.keras"]
    assert sorted(written(tmp_path)) == [*names, "model_03_0.9999.keras"]


@pytest.mark.parametrize("own", [b"mine", model_file("", "config.json"), "link", "pipe", "folder"])
def test_a_file_of_the_user_is_left_alone(tmp_path, own):
    path, folder = tmp_path / "elsewhere", tmp_path / "checkpoints"
    path.write_bytes(whole := model_file("old"))
    folder.mkdir()
    target = folder / "model_01_0.5000.keras"
    make = {"link": lambda: target.symlink_to(path), "pipe": lambda: os.mkfifo(target), "folder": target.mkdir}
    make.get(own, lambda: target.write_bytes(own))()
    before = os.lstat(target)
    callback = train_with(folder, [[0.5, 0.4]])
    assert "your own file has the name of a checkpoint" in callback.failure
    assert callback.names == ["model_02_0.6000.keras"] and path.read_bytes() == whole
    assert (os.lstat(target).st_ino, os.lstat(target).st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_one_of_an_earlier_run_is_replaced(tmp_path):
    (tmp_path / "model_01_0.5000.keras").write_bytes(model_file("old"))
    callback = train_with(tmp_path, [[0.5]])
    assert not callback.failure and written(tmp_path) == {"model_01_0.5000.keras": repr([Weights(1, 0)])}


def test_what_cannot_be_written_ends_no_training(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "write_atomically", full)
        callback = train_with(tmp_path, [[0.5, 0.4]])
    assert callback.failure.startswith("could not be written: ")
    assert "No space left on device" in callback.failure and callback.names == [] and os.listdir(tmp_path) == []
    callback = train_with(tmp_path, [[0.5]], write_model=lambda weights: 1 / 0)
    assert callback.failure == "could not be written: division by zero"


def test_what_would_be_deleted_at_once_is_not_written(tmp_path):
    fold, started, go_on, made = made_up_fold(), threading.Event(), threading.Event(), []

    def slow_model_file(weights):
        made.append(weights[0].trained)
        started.set()
        assert go_on.wait(20)
        return model_file(weights)

    callback = callbacks.BestCheckpoint([fold], tmp_path, 2, [], ORIGIN, slow_model_file)
    for epoch in range(6):
        next_epoch(fold, 0.9 - 0.1 * epoch, Weights(epoch + 1, 0))
        callback.on_epoch_end(epoch)
        assert started.wait(20)
    go_on.set()
    callback.on_train_end()
    assert made == [1, 5, 6] and callback.names == sorted(written(tmp_path)) == [*listed(tmp_path)]


def test_a_manifest_says_whose_the_checkpoints_are(tmp_path):
    callback = train_with(tmp_path, [[0.5, 0.4, 0.3], [0.7, 0.6, 0.6]], keep=2)
    assert [*listed(tmp_path)] == callback.names == ["model_02_0.5000.keras", "model_03_0.5500.keras"]
    entry = listed(tmp_path)["model_03_0.5500.keras"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", entry.pop("date"))
    assert entry == ORIGIN | {"epoch": 3, "val_loss": pytest.approx(0.45), "val_accuracy": pytest.approx(0.55)}
    (tmp_path / "model_02_0.5000.keras").unlink()  # by the user
    train_with(tmp_path, [[0.5]])
    assert [*listed(tmp_path)] == ["model_03_0.5500.keras", "model_01_0.5000.keras"]


def test_an_entry_never_describes_another_file(tmp_path, monkeypatch):
    train_with(tmp_path, [[0.5]])
    before, write = listed(tmp_path), callbacks.write_atomically

    def killed_after_the_model(path, content):
        assert path.suffix == ".keras" or not json.loads(content)["train_model_modern"], "killed"
        write(path, content)

    monkeypatch.setattr(callbacks, "write_atomically", killed_after_the_model)
    assert "killed" in train_with(tmp_path, [[0.5]]).failure
    assert before and listed(tmp_path) == {} and [*written(tmp_path)] == ["model_01_0.5000.keras"]


@pytest.mark.parametrize("own", [b"mine", b'{"checkpoints": []}', b"[" * 100_000, "link"])
def test_a_manifest_of_the_user_is_left_alone(tmp_path, own):
    folder, path = tmp_path / "checkpoints", tmp_path / "elsewhere"
    train_with(folder, [[0.5]])
    (folder / "manifest.json").replace(path)
    whole = path.read_bytes()
    if own == "link":
        (folder / "manifest.json").symlink_to(path)
    else:
        (folder / "manifest.json").write_bytes(own)
    callback = train_with(folder, [[0.4]])
    assert callback.failure == f"are not listed: {folder / 'manifest.json'} is your own file"
    assert (folder / "manifest.json").read_bytes() == (whole if own == "link" else own) and path.read_bytes() == whole
    assert "model_01_0.6000.keras" in written(folder)


# Profiler


@pytest.mark.parametrize(("first", "last", "wanted"), [(0, 20, [1, 11]), (0, 5, [1, 5]), (0, 1, []), (4, 20, [])])
def test_ten_epochs_are_profiled(monkeypatch, first, last, wanted):
    calls, now = [], [0]

    class Profile:
        def __init__(self, folder):
            assert folder == "folder"

        def __enter__(self):
            calls.append(now[0])

        def __exit__(self, *_):
            calls.append(now[0])

    profiling = SimpleNamespace(profiler=SimpleNamespace(experimental=SimpleNamespace(Profile=Profile)))
    monkeypatch.setattr(callbacks, "tf", profiling)
    profiler = callbacks.Profiler("folder")
    for now[0] in range(first, last):
        profiler.on_epoch_begin(now[0])
    now[0] = last
    profiler.on_train_end()
    assert calls == wanted


# make_callback_list


def test_all_are_callbacks_of_keras_and_read_the_folds():
    for kind in (
        callbacks.ProgressLine,
        callbacks.BestCheckpoint,
        callbacks.Profiler,
        resume.ResumeState,
        tensorboard.TensorBoardLog,
    ):
        assert issubclass(kind, FoldCallback) and issubclass(kind, keras.callbacks.Callback)


@pytest.fixture
def networks():
    inputs = keras.Input((3,))
    made = [keras.Sequential([keras.layers.Dense(2), keras.layers.BatchNormalization()]) for _ in range(2)]
    model = keras.Model(inputs, keras.layers.Average()([network(inputs) for network in made]))
    return model, made


def test_a_callback_of_keras_finds_the_weights_of_the_epoch_in_the_model(networks):
    model, made = networks
    folds, seen = [made_up_fold(0), made_up_fold(1)], []
    watcher = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append([current_weights(network) for network in made])
    )
    model.stop_training = True  # by an earlier run
    driver = callbacks.make_callback_list([watcher], model, made, folds, epochs=7, steps=3)
    assert driver.callbacks[-1] is watcher and watcher.params == {"epochs": 7, "steps": 3}
    assert watcher.model is model and not model.stop_training
    start = current_weights(made[0])
    given = [Weights(start.trained * 0 + value, start.moving * 0 + value + 1) for value in (2, 3)]
    driver.on_train_begin()
    driver.on_epoch_end(0, LOGS)  # no fold has trained
    folds[0].now, folds[1].now = given
    driver.on_epoch_end(1, LOGS)
    driver.on_train_end()
    np.testing.assert_array_equal(seen[0][0].trained, start.trained)
    for weights, wanted in zip(seen[1], given, strict=True):
        np.testing.assert_array_equal(weights.trained, wanted.trained)
        np.testing.assert_array_equal(weights.moving, wanted.moving)


def test_the_model_is_left_alone_when_no_callback_reads_it(networks, tmp_path):
    model, made = networks
    fold, before = made_up_fold(), current_weights(made[0])
    fold.now = Weights(before.trained + 1, before.moving + 1)
    own = callbacks.BestCheckpoint([fold], tmp_path, 5, [], ORIGIN, model_file)
    driver = callbacks.make_callback_list([own], model, made[:1], [fold])
    assert driver.callbacks == [own]
    driver.on_epoch_end(0, LOGS)
    np.testing.assert_array_equal(current_weights(made[0]).trained, before.trained)
