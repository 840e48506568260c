"""Interrupted runs: what is left behind, and that --resume ends with the bits of the uninterrupted run."""

import argparse
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
from conftest import ROOT, environment_of_a_user, metrics_of, weights_of

import train_model_modern
from harvest import VERSION
from harvest.cli import UserError
from harvest.run_directory import RESUME_FILE
from harvest.training import callbacks, interrupted, resume
from harvest.training.folds import Fold, epoch_logs
from harvest.training.program import HISTORY, Weights, first_state

KILLS = int(os.environ.get("KILLS", "3"))  # make soak: 100
DESCRIPTION = {
    "arguments": ["rows.csv", "--epochs", "70"],
    "version": VERSION,
    "network": "4567",
    "fingerprint": "0123",
    "rows": 100,
    "files": [[2_000, "89ab"]],
    "device": "cpu",
    "logs": "20260101-000000_standard_folds2",
    "checkpoints": ["model_01_0.5000.keras", "model_02_0.7500.keras"],
}


def made_up_fold(number, epochs=3, best=2):
    """A fold with 4 + 2 numbers as weights that has trained so many epochs; 0: none."""
    generator = np.random.default_rng(number)
    values = [Weights(*(generator.normal(size=size).astype(np.float32) for size in (4, 2))) for _ in range(3)]
    fold = Fold(number, split=None, encoding=None, linear=None)
    fold.state = first_state(values[0], 0.006)
    if epochs:
        fold.state = fold.state._replace(epoch=fold.state.epoch + epochs, first_moment=fold.state.trained * 2)
        fold.now, fold.reason = values[1], "because" if number else ""
        fold.history = [epoch_logs(np.abs(generator.normal(size=len(HISTORY))), 5, 7) for _ in range(epochs)]
    if best:
        fold.best, fold.best_epoch, fold.best_loss = values[2], best, 1 / 3
    return fold


def write_state(path, folds, **changed):
    path.write_bytes(resume.pack_state(folds, DESCRIPTION | changed))


def rewrite(path, change):
    """Change the arrays of a state file."""
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


def change_description(change):
    def changed(arrays):
        description = json.loads(arrays["description"].tobytes())
        change(description)
        arrays["description"] = np.frombuffer(json.dumps(description).encode(), np.uint8)

    return changed


@pytest.fixture
def state(tmp_path):
    path = tmp_path / RESUME_FILE
    write_state(path, [made_up_fold(0), made_up_fold(1)])
    return path


# The state file


def same_bits(one, other):
    assert type(one) is type(other)
    for left, right in zip(one or (), other or (), strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert left.dtype == right.dtype and left.tobytes() == right.tobytes()


@pytest.mark.parametrize("epochs", [(3, 2), (3, 0), (0, 0)], ids=str)
def test_folds_are_restored_to_the_bit(tmp_path, epochs):
    path, (count, best) = tmp_path / RESUME_FILE, epochs
    saved = [made_up_fold(number, count, best) for number in range(2)]
    write_state(path, saved)
    description, arrays = interrupted.read_state(path)
    folds = [made_up_fold(number + 5, 0, 0) for number in range(2)]
    for fold, other in zip(folds, saved, strict=True):
        fold.number = other.number
    resume.restore(folds, description, arrays)
    assert {name: description[name] for name in DESCRIPTION} == DESCRIPTION
    for fold, other in zip(folds, saved, strict=True):
        for name in ("history", "reason", "best_loss", "best_epoch"):
            assert getattr(fold, name) == getattr(other, name)
        for name in ("state", "now", "best"):
            same_bits(getattr(fold, name), getattr(other, name))


def test_nothing_to_resume(tmp_path, capsys):
    assert train_model_modern.main(["--model-dir", str(tmp_path), "--resume"]) == 2
    wanted = f"error: --resume: {tmp_path} contains no interrupted run; omit --resume to start one\n"
    assert capsys.readouterr().err == wanted


def hostile(folder):
    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "executed"),))

    return np.array([Hostile()], dtype=object)


def set_fold(name, value):
    return change_description(lambda description: description["folds"][1].update({name: value}))


DAMAGE = {
    "no description": lambda arrays: arrays.pop("description"),
    "no JSON": lambda arrays: arrays.update(description=np.frombuffer(b"{", np.uint8)),
    "a list": lambda arrays: arrays.update(description=np.frombuffer(b"[1]", np.uint8)),
    "deep JSON": lambda arrays: arrays.update(description=np.frombuffer(b"[" * 100_000, np.uint8)),
    "no digest": lambda arrays: arrays.pop("digest"),
    "no arguments": change_description(lambda description: description.pop("arguments")),
    "another device": change_description(lambda description: description.update(device="tpu")),
    "another best epoch": set_fold("best_epoch", 4),
    "no history": lambda arrays: arrays.pop("1/history"),
    "another shape": lambda arrays: arrays.update({"1/state/trained": np.zeros(3, np.float32)}),
    "another type": lambda arrays: arrays.update({"1/state/epoch": np.array(3.0)}),
    "no best": lambda arrays: [arrays.pop(f"1/best/{name}") for name in Weights._fields],
    "another array": lambda arrays: arrays.update({"2/history": arrays["1/history"]}),
}
# With a digest that fits.
HOSTILE = {
    "logs elsewhere": {"logs": "../20260101-000000_standard"},
    "logs below": {"logs": "20260101-000000_standard/.."},
    "a checkpoint elsewhere": {"checkpoints": ["../model_01_0.5000.keras"]},
    "another file": {"checkpoints": ["README.md"]},
}


@pytest.mark.parametrize("damage", [*DAMAGE.values(), *HOSTILE.values()], ids=[*DAMAGE, *HOSTILE])
def test_damaged_states_are_refused(state, damage):
    if isinstance(damage, dict):
        write_state(state, [made_up_fold(0), made_up_fold(1)], **damage)
    else:
        rewrite(state, damage)
    with pytest.raises(UserError) as error:
        interrupted.read_state(state)
    assert str(error.value) == f"--resume: {state} is damaged; delete it and start again"


def test_what_is_no_state_is_refused_and_nothing_in_it_is_executed(state):
    whole = state.read_bytes()

    def refused():
        with pytest.raises(UserError, match=r"is damaged; delete it and start again$"):
            interrupted.read_state(state)

    for content in (b"", whole[: len(whole) // 2], b"not an archive", whole[:40] + b"\0" * 40 + whole[80:]):
        state.write_bytes(content)
        refused()
    state.write_bytes(whole)
    rewrite(state, lambda arrays: arrays.update({"0/history": hostile(state.parent)}))
    refused()
    assert not (state.parent / "executed").exists()
    with zipfile.ZipFile(state, "w") as archive:
        archive.writestr("../escape.npy", b"x")
    refused()
    assert os.listdir(state.parent) == [RESUME_FILE]
    state.write_bytes(np.arange(3).tobytes())
    refused()


def test_states_of_another_version_are_refused(state):
    cure = "continue with that version, or omit --resume to start again"
    for change, version in (
        (lambda description: description.update(version="1.6.0"), "1.6.0"),
        (lambda description: [description.pop(name) for name in ("version", "network", "rows")], "1.7.0 or earlier"),
    ):
        rewrite(state, change_description(change))
        with pytest.raises(UserError) as error:
            interrupted.read_state(state)
        versions = f"the interrupted run is from version {version}, but this is {VERSION}"
        assert str(error.value) == f"--resume: {versions}; {cure}"


def test_another_network_is_refused(tf):
    import keras
    from keras import layers

    def network(activation="mish", rate=0.2, units=4):
        inputs = keras.Input((3,), name="inputs")
        hidden = layers.Dropout(rate)(layers.Dense(units, activation)(inputs))
        return keras.Model(inputs, layers.Dense(1, name="logit")(hidden))

    description = {}
    resume.check_network(network(), description)
    resume.check_network(network(), description)  # whose layers Keras calls by other numbers
    for other in (network("relu"), network(rate=0.3), network(units=5)):
        with pytest.raises(UserError) as error:
            resume.check_network(other, description)
        changed = "build_network returns a different network than in the interrupted run"
        assert str(error.value) == f"--resume: {changed}; undo the change, or omit --resume to start again"


def test_growth_is_told_from_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my log.csv"
    path.write_text("a,productive\n" + "1,0\n2,1\n" * 20_000)
    before = {"files": interrupted.mark_files([str(path)]), "rows": 40_000}
    size = path.stat().st_size

    def explained(rows, *paths):
        return str(interrupted.explain_change(before, list(map(str, paths or [path])), rows, "my log.csv"))

    with path.open("a") as file:
        file.write("3,1\n" * 12)
    cure = f"give --resume the data it started with (head -c {size} '{path}' > earlier.csv)"
    began = "since the interrupted run started"
    end = "or omit --resume to train on all rows"
    assert explained(40_012) == f"--resume: my log.csv has grown by 12 rows {began}; {cure}, {end}"
    assert "has grown by 1 row since" in explained(40_001)
    (tmp_path / "next.csv").write_text("a,productive\n1,0\n")
    assert explained(40_013, path, tmp_path / "next.csv") == f"--resume: my log.csv has grown by 13 rows {began}, {end}"
    subprocess.run(cure.partition("(")[2].rstrip(")"), shell=True, check=True)
    assert interrupted.mark_files(["earlier.csv"]) == before["files"]
    content = path.read_bytes()
    for changed in (b"b" + content[1:], content[: size - 5], content[: size - 2] + b"0" + content[size - 1 :]):
        path.write_bytes(changed)
        assert "my log.csv differs from the data of the interrupted run" in explained(40_012)
    assert interrupted.mark_files(["500 generated rows"]) == []
    assert "differs from the data" in str(interrupted.explain_change({"files": [], "rows": 5}, ["x"], 6, "x"))


# Flags


def parse_args(arguments):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("csv", nargs="*", default=["default.csv"])
    for name, default in (("--epochs", 150), ("--split-seed", 42), ("--architecture", "standard")):
        parser.add_argument(name, type=type(default), default=default)
    parser.add_argument("--quiet", action=argparse.BooleanOptionalAction, default=False)
    options = parser.parse_args(arguments)
    if options.epochs == 13:
        raise UserError("--epochs 13 is not possible")
    return options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 71}, "--epochs 71 contradicts the interrupted run, which has 70"),
        ({"split_seed": 7}, "--split-seed 7 contradicts the interrupted run, which has 42"),
        ({"architecture": "deep"}, "--architecture deep contradicts the interrupted run, which has standard"),
    ],
)
def test_flags_that_contradict_the_run_are_refused(state, given, message):
    with pytest.raises(UserError) as error:
        interrupted.resumed_options(given, state.parent, parse_args)
    assert str(error.value) == f"--resume: {message}; omit the flag or --resume"


def test_other_flags_are_those_of_the_run(state):
    given = {"resume": True, "epochs": 70, "quiet": True, "model_dir": state.parent}
    options, description, arrays = interrupted.resumed_options(given, state.parent, parse_args)
    assert (options.epochs, options.csv, options.quiet) == (70, ["rows.csv"], True)
    assert options.resume and options.model_dir == state.parent
    assert description["fingerprint"] == "0123" and "1/now/trained" in arrays
    assert interrupted.resumed_options({"epochs": 3}, state.parent, parse_args)[0].epochs == 70  # for all decisions
    options, _, _ = interrupted.resumed_options({"csv": ["moved.csv"]}, state.parent, parse_args)
    assert options.csv == ["moved.csv"] and not options.quiet


# When the state is saved


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(resume.time, "perf_counter", lambda: now[0])
    return now


def test_it_is_saved_at_each_new_best_and_every_two_seconds(tmp_path, clock):
    fold = made_up_fold(0)
    callback, saves = resume.ResumeState(tmp_path, [fold], DESCRIPTION), []

    def saved():
        callback.path.unlink(missing_ok=True)
        callback.on_epoch_end(0, {})
        return callback.path.exists()

    saves = [saved(), saved()]
    fold.best_epoch = 3
    saves += [saved(), saved()]
    clock[0] += 1.9
    saves += [saved()]
    clock[0] += 0.2
    saves += [saved()]
    assert saves == [True, False, True, False, False, True]
    fold.best_epoch, fold.history = 1, fold.history[:2]  # more epochs of the same call follow
    assert not saved()
    callback.offer(now=True)
    assert callback.path.exists()


def test_a_full_disk_ends_no_training(tmp_path, monkeypatch, clock):
    def full(path, content):
        raise OSError(28, "No space left on device")

    callback = resume.ResumeState(tmp_path, [made_up_fold(0)], DESCRIPTION)
    with monkeypatch.context() as patch:
        patch.setattr(resume, "write_atomically", full)
        callback.on_epoch_end(0, {})
    assert callback.failure == f"{tmp_path / RESUME_FILE}: No space left on device"
    assert "continue with" not in callback.explain_end(signal.SIGTERM)
    clock[0] += 3
    callback.on_epoch_end(0, {})
    assert callback.failure == "" and callback.path.exists()


def test_why_a_run_is_over_and_what_is_left(tmp_path, monkeypatch):
    tmp_path = tmp_path / "my model"
    tmp_path.mkdir()
    checkpoint = tmp_path / "checkpoints" / "model_02_0.7500.keras"
    fold = made_up_fold(0)
    callback = resume.ResumeState(tmp_path, [fold], DESCRIPTION)
    callback.offer(now=True)
    best = f"the best model of this run so far is {checkpoint}"
    flags = f"continue with --resume --model-dir '{tmp_path}', or test and save the model as it is with --resume"
    flags += f" --epochs 3 --model-dir '{tmp_path}'"
    assert callback.explain_end(signal.SIGINT) == f"stopped: SIGINT; {flags}; {best}"
    assert callback.explain_end(15, why="error: worker 1 received SIGTERM") == (
        f"error: worker 1 received SIGTERM; {flags}; {best}"
    )
    monkeypatch.setattr(interrupted, "earlier_model", lambda folder: "the model of 2026-01-01 00:00")
    model = f"{tmp_path / 'productivity_model.keras'} is still the model of 2026-01-01 00:00"
    assert interrupted.what_is_left(tmp_path, []) == [model]
    fold.failed, fold.reason = True, "the loss is not a number in epoch 3"
    message = f"error: {fold.reason}; try a smaller --learning-rate; {best}; {model}"
    assert callback.explain_end(0) == message and not callback.path.exists()
    monkeypatch.chdir(tmp_path)
    model_dir = type(tmp_path)("model")
    whole = resume.ResumeState(model_dir, [made_up_fold(0, 0, 0)], DESCRIPTION | {"checkpoints": []})
    monkeypatch.setattr(interrupted, "earlier_model", lambda folder: "")
    assert whole.explain_end(signal.SIGTERM) == "stopped: SIGTERM; continue with --resume"


# Whole runs


def results_of(folder):
    metrics = metrics_of(folder)
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
    offer = resume.ResumeState.offer

    def counted(self, now=False):
        offer(self, now)
        if not now:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == calls:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)

    monkeypatch.setattr(resume.ResumeState, "offer", counted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--folds", "1", "--no-xla"],
        ["--folds", "auto", "--xla"],
        ["--folds", "4", "--no-early-stopping", "--class-weight", "balanced", "--threshold", "f1"],
    ],
    ids=" ".join,
)
def test_interrupted_several_times_it_ends_with_the_same_bits(train, tmp_path, monkeypatch, sample, flags):
    flags = ["--epochs", "60", "--tensorboard", "--checkpoints", *flags]
    path, whole, parts = sample(100), tmp_path / "whole", tmp_path / "parts"
    train(*flags, csv=path, folder=whole)
    stop_after(monkeypatch, 1)
    train(*flags, csv=path, folder=parts, code=143)
    logs, runs, code = os.listdir(parts / "logs"), 1, 143
    while code == 143:
        assert (parts / RESUME_FILE).exists() and not (parts / "metrics.json").exists()
        code = train_model_modern.main(["--model-dir", str(parts), "--resume", "--quiet"])
        runs += 1
        assert runs < 20
    monkeypatch.undo()
    assert code == 0 and runs > 2
    same(whole, parts)
    assert os.listdir(parts / "logs") == logs and not (parts / RESUME_FILE).exists()
    assert steps_of(parts) == steps_of(whole)
    kept = [{path.name for path in (folder / "checkpoints").iterdir()} for folder in (parts, whole)]
    assert kept[0] == kept[1]


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [30, 10])
def test_an_interrupted_run_ends_sooner_with_fewer_epochs(train, tmp_path, monkeypatch, sample, epochs, capsys):
    """After 25 epochs, which one call of the program trains, it goes on to 30, or ends at once with what there is."""
    flags = ["--no-xla", "--no-early-stopping", "--epochs"]
    path, parts = sample(100), tmp_path / "parts"
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        train(*flags, 60, csv=path, folder=parts, code=143)
    assert "with --resume --epochs 25 --model-dir" in capsys.readouterr().err
    resume_flags = ["--model-dir", str(parts), "--resume", "--epochs", str(epochs), "--no-quiet"]
    assert train_model_modern.main(resume_flags) == 0
    done = max(epochs, 25)
    assert "Resuming   after epoch 25\n" in capsys.readouterr().out
    train(*flags, done, csv=path, folder=tmp_path / "whole")
    same(tmp_path / "whole", parts)
    assert metrics_of(parts)["epochs"] == done and metrics_of(parts)["settings"]["epochs"] == epochs
    assert not (parts / RESUME_FILE).exists()


def test_whether_an_interrupted_run_is_over(state):
    write_state(state, [made_up_fold(0), made_up_fold(1)])  # the second has stopped
    description, arrays = interrupted.read_state(state)
    assert [interrupted.is_over(description, arrays, epochs) for epochs in (2, 3, 4)] == [True, True, False]


@pytest.fixture
def stopped(train, monkeypatch):
    folder = None
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        folder = train("--epochs", 150, rows=100, code=143)
    return folder


def test_an_interrupted_run_and_what_contradicts_it(stopped, capsys, monkeypatch):
    def refused(*flags):
        capsys.readouterr()
        before = (stopped / RESUME_FILE).read_bytes()
        assert train_model_modern.main(["--model-dir", str(stopped), "--resume", *map(str, flags)]) == 2
        assert (stopped / RESUME_FILE).read_bytes() == before
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1
        return message

    assert "--epochs 151 contradicts the interrupted run, which has 150" in refused("--epochs", 151)
    assert "--architecture deep" in refused("--architecture", "deep")
    assert "contradicts" in refused("--no-adamw")
    assert "--split-seed 7 contradicts the interrupted run, which has 42" in refused("--split-seed", 7)
    assert "--time-column when contradicts" in refused("--time-column", "when")
    with (stopped / RESUME_FILE).open("r+b") as file:
        whole = file.read()
        file.truncate(len(whole) // 2)
    assert "is damaged" in refused()
    (stopped / RESUME_FILE).write_bytes(whole)
    rewrite(stopped / RESUME_FILE, lambda arrays: arrays.update({"0/state/trained": np.zeros(3, np.float32)}))
    assert "is damaged" in refused()
    (stopped / RESUME_FILE).write_bytes(whole)
    path = stopped.parent / "HARVEST.CSV"
    before = path.read_text()
    path.write_text(before + "1,2,3,4,1\n")
    assert f"{path} has grown by 1 row since the interrupted run started; give --resume" in refused()
    path.write_text(before.replace(",5", ",6", 1))
    assert "differs from the data of the interrupted run" in refused()
    path.write_text(before)
    with monkeypatch.context() as patch:
        patch.setitem(train_model_modern.ARCHITECTURES, "standard", train_model_modern.Architecture((10, 10), 0.4))
        assert "build_network returns a different network than in the interrupted run" in refused()
    flags = ["--model-dir", str(stopped), "--epochs", "2", "--folds", "1", "--no-tensorboard", "--no-checkpoints"]
    assert train_model_modern.main([str(path), *flags]) == 0
    assert (
        "discards the interrupted run in the model directory (--resume would have continued it)"
        in capsys.readouterr().out
    )


def test_full_disks_are_told_once_training_is_over(train, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(callbacks, "write_atomically", full)
    monkeypatch.setattr(resume, "write_atomically", full)
    folder = train("--checkpoints", "--no-quiet")
    captured = capsys.readouterr()
    assert "Checkpoints could not be written: " in captured.out and captured.err == ""
    assert f"Resume     could not save the state: {folder / RESUME_FILE}: No space left on device" in captured.out
    assert (folder / "metrics.json").exists()
    weights_of(folder)


@pytest.mark.slow
def test_killed_at_random_moments(sample, tmp_path):
    path = sample(150)
    script = [sys.executable, str(ROOT / "train_model_modern.py")]
    flags = ["--quiet", "--folds", "3", "--epochs", "200", "--no-early-stopping", "--no-xla", "--model-dir"]
    command, environment = [*script, str(path), *flags], environment_of_a_user()
    started = time.perf_counter()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment)
    whole = time.perf_counter() - started
    folder, moments, resumed = tmp_path / "killed", random.Random(1), 0
    for number in range(KILLS):
        process = subprocess.Popen([*command, str(folder)], env=environment, stderr=subprocess.DEVNULL)
        if number % 3 == 2:
            time.sleep(whole * moments.uniform(0, 1))
        else:  # in training or the writing after it: a state file shows that it has begun
            while process.poll() is None and not (folder / RESUME_FILE).exists():
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.35 * whole) if number else 0)
        process.kill()
        process.wait()
        if (folder / "productivity_model.keras").exists():
            weights_of(folder)
        if (folder / RESUME_FILE).exists():
            resumed += 1
            assert train_model_modern.main(["--resume", "--quiet", "--model-dir", str(folder)]) == 0
            same(tmp_path / "whole", folder)
        assert train_model_modern.main([*command[2:], str(folder)]) == 0
        same(tmp_path / "whole", folder)
        assert not list(folder.glob("**/*.tmp"))
    assert resumed
