"""Whole runs of the trainer: nothing of the user's is lost or left half-done, and what goes wrong is one line."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from conftest import ROOT, environment_of_a_user, metrics_of, predictions_of, write_rows

import train_model_modern
from harvest.run_directory import (
    CARD_FILE,
    EXPORT_FILES,
    METRICS_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    RESUME_FILE,
    RunDirectory,
)


def one_line(errors):
    assert errors.count("\n") == 1 and errors.startswith("error: "), errors
    return errors


def files(folder):
    """Every file of a directory but logs, checkpoints, the lock and the manifest, with its content."""
    kept = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {"logs", "checkpoints"} & set(path.relative_to(folder).parts)
    ]
    names = (".lock", ".manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept if path.name not in names}


# ---------------------------------------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize("name, code", [(CARD_FILE, 0), (METRICS_FILE, 2), ("resume.npz", 2), ("checkpoints", 2)])
def test_files_of_the_users_are_never_written_to(train, tmp_path, capsys, name, code):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / name).write_text("years of work")
    flags = ["--no-quiet"] if code == 0 else []
    train(*flags, rows=60, folder=folder, code=code)
    shown = capsys.readouterr()
    assert (folder / name).read_text() == "years of work"
    if code:
        assert str(folder / name) in one_line(shown.err) and set(os.listdir(folder)) <= {name, ".lock"}
        assert shown.out == ""
    else:
        assert f"{folder / name} was not overwritten because you created or edited it" in shown.out


@pytest.mark.parametrize("change", ["card", "loss", "disk", "export", "signals"])
def test_a_run_that_fails_leaves_the_last_whole_run_as_it_was(model_copy, train, monkeypatch, change, capsys, tmp_path):
    folder = model_copy("--export", "onnx")
    before, onnx = files(folder), EXPORT_FILES["onnx"]
    assert set(before) >= {MODEL_FILE, METRICS_FILE, PREDICTIONS_FILE, CARD_FILE, onnx}
    other, flags, code = write_rows(tmp_path / "other.csv", 90, seed=5), ["--seed", 7], 1
    stage = RunDirectory.stage

    def failing(run, name, content):
        if change == "disk" and name == METRICS_FILE:
            raise OSError(28, "No space left on device")
        if change == "card" and name == METRICS_FILE:
            (folder / CARD_FILE).unlink()
            (folder / CARD_FILE).mkdir()
        if change == "signals" and name == PREDICTIONS_FILE:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        stage(run, name, content)

    monkeypatch.setattr(RunDirectory, "stage", failing)
    if change == "card":
        code = 0
    elif change == "loss":
        flags += ["--learning-rate", "1e30", "--epochs", 60]
    elif change == "signals":
        code = 130
    elif change == "export":
        from harvest.model.export import formats

        monkeypatch.setitem(formats.WRITERS, "onnx", lambda *_: 1 / 0)
        flags += ["--export", "onnx"]
    train(*flags, csv=other, folder=folder, code=code)
    after = files(folder)
    assert "Traceback" not in capsys.readouterr().err and not list(folder.glob(".train_model_modern-*"))
    if change in ("card", "export"):  # a whole run: all that belongs to it is new, the export of before is deleted
        assert set(before) - set(after) == {onnx, *([CARD_FILE] if change == "card" else [])}
        assert not [name for name in after if before.get(name) == after[name]]
    else:
        after.pop("resume.npz", None)
        assert after == before


def test_directories_that_others_can_write_to_are_named(train, tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    folder.chmod(0o777)
    train("--no-quiet", rows=60, folder=folder)
    assert "is writable by every user" in capsys.readouterr().out


def test_what_a_run_writes_names_no_directory(train, sample, tmp_path):
    paths = [sample(60), sample(60, seed=2, name="b.csv")]
    folder = train(csv=paths)
    for name in (METRICS_FILE, CARD_FILE, PREDICTIONS_FILE, "report.html", ".manifest.json"):
        assert str(tmp_path) not in (folder / name).read_text(), name
    rows, lines = predictions_of(folder), {path.name: path.read_text().splitlines() for path in paths}
    assert {row["file"] for row in rows} == {"HARVEST.CSV", "b.csv"}
    assert all(lines[row["file"]][int(row["line"]) - 1].endswith("," + row["label"]) for row in rows)


def test_a_directory_of_files_and_a_file_with_fewer_columns(train, predict, sample, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    sample(60).rename(data / "a.csv")
    lines = [f"{row % 3},{row},{row % 2}" for row in range(40)]
    (data / "b.csv").write_text("\n".join(["foreground_app,keyboard_activity,productive", *lines, ""]))
    last = sample(30, seed=3, name="c.csv")
    folder = train("--folds", 3, csv=[data, last])
    texts = {path.name: path.read_text().splitlines() for path in (data / "a.csv", data / "b.csv", last)}
    rows = predictions_of(folder)
    assert {row["file"] for row in rows} == set(texts)
    assert all(texts[row["file"]][int(row["line"]) - 1].endswith("," + row["label"]) for row in rows)
    code, _, err = predict(data / "b.csv", "--model-dir", folder)
    assert code == 0 and "has no mouse_activity, time_last_request: these cells are missing in its rows" in err
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    code, _, err = predict(tmp_path / "other.csv", "--model-dir", folder)
    assert code == 2 and "which the model needs" in one_line(err)


@pytest.mark.slow
def test_a_file_name_that_is_no_text(train, sample, tmp_path):
    path = tmp_path / os.fsdecode(b"donn\xe9es.csv")
    sample(60).rename(path)
    folder = train(csv=[path, sample(61, name="b.csv")])
    assert b"donn\xef\xbf\xbdes.csv" in (folder / PREDICTIONS_FILE).read_bytes()


@pytest.mark.parametrize("flags", [("--label", "pro\nductive"), ("--drop", "a\nb"), ("new\nline.csv",)])
def test_names_with_line_ends_are_one_line(sample, tmp_path, capsys, flags):
    path = [] if flags[0].endswith(".csv") else [str(sample(60))]
    assert train_model_modern.main([*path, *flags, "--model-dir", str(tmp_path / "model")]) == 2
    one_line(capsys.readouterr().err)


def test_a_header_cell_without_end(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("h" * 200_000 + ",a,productive\n1,2,1\n")
    assert train_model_modern.main([str(tmp_path / "a.csv")]) == 2
    assert "line 1, column 1: the name has 200,000 characters" in one_line(capsys.readouterr().err)


@pytest.mark.slow
def test_columns_may_be_called_like_anything_in_the_program(trained, predict):
    import keras

    layers = [layer.name for layer in keras.models.load_model(trained() / MODEL_FILE).layers]
    names = ["probability", "predicted", "hidden_1", "encoded", "where", "self", "class", "lambda", "None", "average"]
    names += ["numbers", "missing", "multiply_1", "cast_1", *layers]
    names = [name for name in dict.fromkeys(names) if name not in ("foreground_app", "time_last_request")]

    def write(path):
        values = np.random.default_rng(0).normal(size=(60, len(names)))
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*names, "productive"])
            writer.writerows([*(f"{value:.3f}" for value in row), n % 2] for n, row in enumerate(values))

    folder = trained("--folds", "3", "--export", "saved_model", "litert", "onnx", write=write)
    code, out, err = predict(folder.parent / "HARVEST.CSV", "--model-dir", folder)
    assert code == 0 and len(out.splitlines()) == 61, err


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The table and the state of a run that was stopped after its first epoch."""
    from harvest.training.resume import ResumeState

    folder = tmp_path_factory.mktemp("interrupted")
    path, on_epoch_end = write_rows(folder / "HARVEST.CSV", 60), ResumeState.on_epoch_end

    def stopping(*args):
        os.kill(os.getpid(), signal.SIGTERM) if args[1] == 0 else None
        on_epoch_end(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResumeState, "on_epoch_end", stopping)
        flags = ["--model-dir", str(folder / "model"), "--epochs", "40", "--folds", "3", "--no-tensorboard"]
        assert train_model_modern.main([str(path), *flags, "--no-checkpoints", "--quiet"]) == 143
    return path, folder / "model" / RESUME_FILE


TAMPERED = {
    "another architecture": lambda found: found["arguments"].extend(["--architecture", "deep"]),
    "other folds": lambda found: found["arguments"].extend(["--folds", "5"]),
    "a flag that asks for help": lambda found: found["arguments"].append("--help"),
    "more nets": lambda found: found["folds"].append(found["folds"][0]),
    "no nets": lambda found: found.update(folds=[]),
    "another fingerprint": lambda found: found.update(fingerprint="0" * 128),
    "a GPU that is not here": lambda found: found.update(device="gpu"),
    "logs elsewhere": lambda found: found.update(logs="../../elsewhere"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_tampered_states_are_refused(interrupted, tmp_path, case, capsys):
    path, state = interrupted
    with np.load(state) as file:
        arrays = dict(file)
    description = json.loads(arrays["description"].tobytes())
    TAMPERED[case](description)
    arrays["description"] = np.frombuffer(json.dumps(description).encode(), np.uint8)
    folder = tmp_path / "model"
    folder.mkdir()
    np.savez(folder / RESUME_FILE, **arrays)
    assert train_model_modern.main([str(path), "--model-dir", str(folder), "--resume", "--quiet"]) == 2
    errors = one_line(capsys.readouterr().err)
    assert "is damaged" not in errors or f"{folder / RESUME_FILE} is damaged" in errors
    assert os.listdir(tmp_path) == ["model"] and set(os.listdir(folder)) <= {RESUME_FILE, ".lock"}


# ---------------------------------------------------------------------------------------------------------------------
# The surroundings of a process


@pytest.mark.slow
def test_standard_output_is_full_or_closed(sample, tmp_path):
    path, folder = sample(60), tmp_path / "model"

    def call(shell, *args):
        command = " ".join([sys.executable, str(ROOT / "train_model_modern.py"), *map(str, args), shell])
        return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=200, cwd=tmp_path)

    flags = ["--model-dir", folder, "--epochs", 3]
    done = call("> /dev/full", path, *flags)
    assert done.returncode == 1 and "standard output: No space left on device" in one_line(done.stderr)
    assert (folder / METRICS_FILE).exists()  # what was trained is not lost
    done = call("> /dev/full", path, "--describe")
    assert done.returncode == 1 and "standard output" in one_line(done.stderr)
    done = call("<&- >&-", path, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    for shell in ("2>&-", "2> /dev/full"):
        assert call(shell, tmp_path / "absent.csv").returncode == 2


@pytest.mark.slow
def test_the_users_keras_settings_change_nothing(sample, tmp_path):
    path, results = sample(60), []
    valid = '{"floatx": "float16", "image_data_format": "channels_first", "backend": "jax", "epsilon": 0.1}'
    settings = {"KERAS_BACKEND": "jax", "KERAS_MAX_EPOCHS": "1", "TF_USE_LEGACY_KERAS": "1"}
    for name, content, more in (("none", None, {}), ("valid", valid, settings), ("broken", "{{{", settings)):
        (tmp_path / name).mkdir()
        file = tmp_path / name / ".keras" / "keras.json"
        if content:
            file.parent.mkdir()
            file.write_text(content)
        environment = environment_of_a_user(HOME=str(tmp_path / name), **more)
        folder = tmp_path / f"model {name}"
        for args in (["train_model_modern.py", path, "--folds", "3", "--epochs", "3"], ["predict.py", path]):
            command = [sys.executable, str(ROOT / args[0]), *map(str, args[1:]), "--model-dir", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
            assert done.returncode == 0, done.stderr
        results.append((done.stdout, metrics_of(folder)["test"]))
        assert file.read_text() == content if content else not list((tmp_path / name).iterdir())
    assert results[0] == results[1] == results[2]


@pytest.mark.slow
def test_little_address_space(sample, tmp_path):
    program = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000,) * 2); "
    program += "sys.path.insert(0, sys.argv.pop(1)); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    script, folder = str(ROOT / "train_model_modern.py"), tmp_path / "model"
    command = [sys.executable, "-c", program, str(ROOT), script, str(sample(100_000)), "--quiet"]
    command += ["--model-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert one_line(done.stderr).startswith("error: not enough memory (the address space is limited to 1,430 MB")
    assert not (folder / METRICS_FILE).exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("kilobytes", [20, 60, 120, 200])
def test_a_really_full_disk(sample, tmp_path, capsys, kilobytes):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        code = train_model_modern.main([str(sample(60)), "--model-dir", str(folder), "--epochs", "12"])
        printed = "".join(capsys.readouterr())
        assert code in (0, 1) and "No space left" in printed and "Traceback" not in printed, printed
        assert code == 0 or not (folder / METRICS_FILE).exists()
        if (folder / MODEL_FILE).exists():
            import keras

            keras.models.load_model(folder / MODEL_FILE)
        assert not list(folder.glob("**/.train_model_modern-*"))
    finally:
        subprocess.run(["umount", folder], check=True)


# ---------------------------------------------------------------------------------------------------------------------
# Kills and signals


def threshold_of(folder):
    """Of which run the files are: all of the same one."""
    rows, metrics = predictions_of(folder), metrics_of(folder)
    y_true = np.array([float(row["label"]) for row in rows])
    y_prob = np.array([float(row["probability"]) for row in rows])
    loss = -np.log(np.where(y_true > 0.5, y_prob, 1 - y_prob)).mean()
    assert loss == pytest.approx(metrics["test"]["log_loss"], abs=1e-5), "predictions.csv is of another run"
    with zipfile.ZipFile(folder / MODEL_FILE) as archive:
        details = json.loads(archive.read("training.json"))
    assert details["threshold"] == metrics["threshold"], "the model is of another run"
    card = (folder / CARD_FILE).read_text()
    assert f"The decision threshold is {metrics['threshold']:.6g} (" in card, "the card is of another run"
    return metrics["threshold"]


@pytest.mark.slow
def test_killed_around_the_end_there_is_one_whole_run(sample, tmp_path, predict):
    path, folder = sample(80), tmp_path / "model"
    kills, seen = int(os.environ.get("END_KILLS", "3")), set()
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import train_model_modern as trainer\n"
    # Each round is a process of its own that trains twice, and is killed around the end of the second run.
    program += "args = sys.argv[1:]; trainer.main([*args, '--threshold', '0.4']); print('trained', flush=True)\n"
    program += "trainer.main([*args, '--threshold', '0.6'])"
    for kill in range(kills):
        command = [sys.executable, "-c", program, str(path), "--model-dir", str(folder), "--epochs", "20"]
        command += ["--folds", "3"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        runs = 0
        for line in process.stdout:
            runs += line.startswith("trained")
            if runs and line.startswith("Trained"):
                break
        time.sleep(0.35 * kill / max(1, kills - 1))
        process.kill()
        process.wait()
        process.stdout.close()
        assert predict(path, "--model-dir", folder)[0] == 0  # which finishes what the process was moving
        seen.add(threshold_of(folder))
    assert seen <= {0.4, 0.6}


def start_long(sample, folder, *flags):
    """A run that would take hours, at its first epoch."""
    command = [sys.executable, str(ROOT / "train_model_modern.py"), str(sample(30_000)), "--model-dir", str(folder)]
    command += ["--no-early-stopping", "--epochs", "100000", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch "):
            break
    return process


@pytest.mark.slow
def test_sigterm_twice_ends_with_143(sample, tmp_path):
    process = start_long(sample, tmp_path / "model", "--batch-size", "8", "--no-xla")
    process.terminate()
    time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143 and "Traceback" not in errors and errors.startswith("stopped: SIGTERM")


@pytest.mark.slow
def test_a_directory_in_which_a_run_is_under_way_is_refused(sample, tmp_path, train, capsys):
    folder = tmp_path / "model"
    process = start_long(sample, folder)
    train(csv=sample(60, name="b.csv"), folder=folder, code=2)
    assert "another process is training or exporting there" in one_line(capsys.readouterr().err)
    process.kill()
    process.communicate()
    train(csv=tmp_path / "b.csv", folder=folder)


@pytest.mark.slow
def test_stopped_while_the_bar_is_drawn(sample, tmp_path):
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    import fcntl
    import struct
    import termios

    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [ROOT / "train_model_modern.py", sample(3_000), "--model-dir", tmp_path / "model", "--no-tensorboard"]
    command += ["--folds", 1, "--no-xla", "--no-early-stopping", "--epochs", 100_000]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), writing)
    environment["TERM"], shown, waiting = "xterm-256color", b"", True
    with subprocess.Popen([sys.executable, *map(str, command)], env=environment, **streams) as process:
        os.close(writing)
        try:
            while part := os.read(reading, 65_536):
                shown += part
                if waiting and b"epoch   1/" in shown:
                    waiting = os.kill(process.pid, signal.SIGINT)
        except OSError:  # Linux says so when the other side is closed
            pass
    os.close(reading)
    shown = shown.decode()
    bar, _, rest = shown.rpartition("\x1b[1A\x1b[2K")
    assert process.returncode == 130 and "val_loss" in bar
    assert re.match("stopped: SIGINT; continue with --resume", rest)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is shown again
