"""The commands as people run them: flags, files, what is printed, exit codes."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import train_model_modern as modern

QUICK = ["--epochs", "3", "--quiet"]


def train(path, folder, *flags):
    return modern.main([str(path), "--model-dir", str(folder), "--folds", "1", *QUICK, *map(str, flags)])


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_a_plain_run_leaves_what_is_promised(run, sample, tmp_path):
    done = run("train_model_modern.py", sample(120), "--epochs", 12, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    for words in (
        "120 rows",
        "Folds      10 (",
        "each net has 96 rows for training, 12 used for early stopping, 12 for testing",
        "Started from a logistic regression of the training rows",
        "XLA        off",
        "always the majority",
        "\nPermutation importance (rise in test log-loss when the column is shuffled)\n",
        "tensorboard --logdir model/logs",
    ):
        assert words in done.stdout
    metrics = metrics_of(tmp_path / "model")
    assert metrics["rows"] == {"read": 120, "used": 120, "skipped": 0, "train": 96, "validation": 12, "test": 120}
    assert metrics["epochs"] == 12 and 1 <= metrics["best_epoch"] <= 12 and metrics["threshold"] == 0.5
    assert set(metrics["comparison"]) == set(metrics["baselines"]) == {"majority", "logistic_regression"}
    for parts in metrics["comparison"].values():
        assert set(parts["log_loss"]) == {"difference", "ci95"}
        assert set(parts["accuracy"]) == {"difference", "ci95", "p_value"}
    assert " ".join(metrics["verdict"]) in " ".join(done.stdout.split())
    assert set(metrics["timing"]) == {
        "import_s",
        "load_s",
        "compile_s",
        "train_s",
        "total_s",
        "rows_per_s",
        "steps_per_s",
    }
    assert metrics["settings"]["folds"] == 10 and metrics["settings"]["learning_rate"] == 0.006
    assert metrics["settings"]["batch_size"] == 8 and "training rows" in metrics["settings"]["reasons"]["batch_size"]
    expected = {
        "accuracy",
        "accuracy_ci95",
        "precision",
        "recall",
        "f1",
        "roc_auc",
        "pr_auc",
        "log_loss",
        "brier",
        "ece",
        "confusion",
    }
    assert expected <= set(metrics["test"]) and expected <= set(metrics["baselines"]["majority"])
    assert np.sum(metrics["test"]["confusion"]) == 120
    assert metrics["versions"]["tensorflow"] and metrics["versions"]["keras"]
    files = sorted(path.name for path in (tmp_path / "model" / "checkpoints").iterdir())
    assert 1 <= len(files) <= 5 and all(name.startswith("model_") and len(name.split("_")) == 3 for name in files)
    (logs,) = (tmp_path / "model" / "logs").iterdir()
    assert sorted(path.name for path in logs.iterdir()) == ["train", "validation"]
    assert not list((tmp_path / "model").glob("**/*.tmp"))


def test_the_saved_model_needs_nothing_of_ours(sample, tmp_path):
    path = sample(150)
    assert train(path, tmp_path / "model") == 0
    table = modern.read_table(modern.parse_options([str(path)]))
    split = modern.split_rows(table.label, "random", 42)
    rows = modern.raw_inputs(table, split.test)
    np.savez(tmp_path / "rows.npz", **rows)
    program = """
import sys, keras, numpy as np
model = keras.models.load_model(sys.argv[1])
assert "train_model_modern" not in sys.modules
rows = dict(np.load(sys.argv[2]))
assert {name: tensor.dtype for name, tensor in model.input.items()}["foreground_app"] == "int64"
print(*model.predict(rows, verbose=0)[:, 0])
"""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-c", program, str(tmp_path / "model" / modern.MODEL_FILE), str(tmp_path / "rows.npz")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    probability = np.array(done.stdout.split(), float)
    found = modern.measure(table.label[split.test], probability, 0.5, 42)
    reported = metrics_of(tmp_path / "model")["test"]
    for name in ("accuracy", "roc_auc", "log_loss", "brier"):
        assert found[name] == pytest.approx(reported[name], abs=1e-5)


@pytest.mark.parametrize("architecture", modern.ARCHITECTURES)
def test_architectures(sample, tmp_path, architecture):
    assert train(sample(60), tmp_path / "model", "--architecture", architecture) == 0
    assert metrics_of(tmp_path / "model")["settings"]["architecture"] == architecture


# --resume and --describe have tests of their own
SWITCHES = [
    "cpu-only",
    "mixed-precision",
    "xla",
    "adamw",
    "reduce-lr",
    "checkpoints",
    "tensorboard",
    "early-stopping",
    "skip-bad-rows",
    "profile",
    "quiet",
]


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("on", [True, False])
def test_every_switch_both_ways(sample, tmp_path, switch, on):
    folder = tmp_path / "model"
    flag = f"--{switch}" if on else f"--no-{switch}"
    assert train(sample(60), folder, flag) == 0
    metrics = metrics_of(folder)
    name = switch.replace("-", "_")
    if switch == "mixed-precision":
        has = modern.cpu_description()[1] & {"avx512_bf16", "amx_bf16"}
        assert metrics["settings"]["precision"] == ("bfloat16" if on and has else "float32")
    else:
        assert metrics["settings"][name] is on
    if switch == "checkpoints":
        assert (folder / "checkpoints").exists() is on
    if switch == "tensorboard":
        assert (folder / "logs").exists() is on


def test_early_stopping_off_keeps_the_last_weights(sample, tmp_path):
    flags = ["--epochs", 40, "--learning-rate", 0.1, "--no-reduce-lr"]
    assert train(sample(60), tmp_path / "a", *flags, "--no-early-stopping") == 0
    assert train(sample(60), tmp_path / "b", *flags) == 0
    last, best = metrics_of(tmp_path / "a"), metrics_of(tmp_path / "b")
    assert last["epochs"] == 40 and last["best_epoch"] == best["best_epoch"] < 40
    assert last["test"]["log_loss"] != best["test"]["log_loss"]


def test_adam_and_adamw_differ(sample, tmp_path):
    for name, flag in (("a", "--adamw"), ("b", "--no-adamw")):
        assert train(sample(60), tmp_path / name, flag) == 0
    assert metrics_of(tmp_path / "a")["test"]["log_loss"] != metrics_of(tmp_path / "b")["test"]["log_loss"]


def test_same_seed_same_file_in_separate_processes(run, sample, tmp_path):
    path = sample(100)
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        done = run("train_model_modern.py", path, "--model-dir", tmp_path / name, "--epochs", 5, "--seed", seed)
        assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "a")["test"] == metrics_of(tmp_path / "b")["test"]
    assert metrics_of(tmp_path / "a")["test"] != metrics_of(tmp_path / "c")["test"]


@pytest.mark.parametrize("keep, most", [(2, 2), (0, 100)])
def test_checkpoints_load_and_the_newest_are_kept(sample, tmp_path, keep, most):
    import keras

    assert train(sample(100, 4), tmp_path / "model", "--epochs", 30, "--keep-checkpoints", keep) == 0
    files = sorted((tmp_path / "model" / "checkpoints").iterdir())
    assert 1 <= len(files) <= most and (keep or len(files) > 5)
    best = keras.models.load_model(files[-1])
    final = keras.models.load_model(tmp_path / "model" / modern.MODEL_FILE)
    assert int(files[-1].name.split("_")[1]) == metrics_of(tmp_path / "model")["best_epoch"]
    metrics, compared = metrics_of(tmp_path / "model"), 0
    assert metrics["settings"]["network_share"] < 1
    for left, right in zip(best.variables, final.variables, strict=True):
        if "from_" not in left.path and left.dtype == "float32":  # these hold a logistic regression too
            temperature = metrics["temperature"] if left.path.startswith("probability") else 1
            np.testing.assert_allclose(left / temperature, right, rtol=1e-5)
            compared += 1
    assert compared > 5


REFUSED = {
    "unknown flag": ["--fast"],
    "unknown architecture": ["--architecture", "huge"],
    "abbreviated flag": ["--arch", "deep"],
    "epochs 0": ["--epochs", "0"],
    "epochs text": ["--epochs", "many"],
    "batch size -1": ["--batch-size", "-1"],
    "learning rate 0": ["--learning-rate", "0"],
    "learning rate nan": ["--learning-rate", "nan"],
    "learning rate tiny": ["--learning-rate", "1e-7"],
    "seed negative": ["--seed", "-1"],
    "keep -1": ["--keep-checkpoints", "-1"],
    "csv and sample": ["--sample", "50"],
    "no such label": ["--label", "absent"],
    "no such column": ["--drop", "absent"],
    "label dropped": ["--drop", "productive"],
    "two files": ["other.csv"],
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_flags(sample, tmp_path, capsys, case):
    assert modern.main([str(sample(60)), "--model-dir", str(tmp_path / "model"), *REFUSED[case]]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_model_directory_that_is_a_file(sample, tmp_path, capsys):
    (tmp_path / "model").write_text("mine")
    assert train(sample(60), tmp_path / "model") == 2
    assert "is a file" in capsys.readouterr().err and (tmp_path / "model").read_text() == "mine"


def test_refusals_come_before_tensorflow(tmp_path, sample):
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import train_model_modern
code = train_model_modern.main([sys.argv[2]])
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
sys.exit(code)
"""
    bad = tmp_path / "bad.csv"
    bad.write_text(sample(60).read_text() + "1,2,3\n")
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), str(bad)], capture_output=True, text=True, cwd=tmp_path
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: ")
        and "line 62" in done.stderr
        and not (tmp_path / "model").exists()
    )


def test_help_and_version(run):
    done = run("train_model_modern.py", "--help")
    assert done.returncode == 0 and "--architecture" in done.stdout
    for script in ("train_model_modern.py", "predict.py", "export_model.py"):
        assert run(script, "--version").stdout.strip() == modern.VERSION


def test_the_default_csv_is_in_the_temporary_directory(sample, tmp_path, monkeypatch):
    sample(60)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert modern.parse_options([]).csv == [str(tmp_path / "HARVEST.CSV")]


def test_stopping_keeps_the_best_so_far(sample, tmp_path):
    path = sample(30_000)
    command = [sys.executable, str(ROOT / "train_model_modern.py"), str(path), "--model-dir", str(tmp_path / "model")]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = subprocess.Popen(
            [*command, "--no-early-stopping", "--epochs", "100000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in process.stdout:
            if line.startswith("epoch "):
                break
        time.sleep(0.3)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code and "continue with --resume" in errors and "Traceback" not in errors
        assert (
            not (tmp_path / "model" / modern.METRICS_FILE).exists()
            and not (tmp_path / "model" / modern.MODEL_FILE).exists()
        )
        import keras

        keras.models.load_model(re.search(r"the best model of this run so far is (\S+\.keras)", errors).group(1))


INTERRUPTED = """
import encodings.utf_8_sig, os, signal, sys
sys.path.insert(0, sys.argv[1])
import train_model_modern as modern

decode = encodings.utf_8_sig.IncrementalDecoder._buffer_decode

def interrupted(*arguments):
    if "pandas" in sys.modules:
        os.kill(os.getpid(), signal.SIGINT)
    return decode(*arguments)

encodings.utf_8_sig.IncrementalDecoder._buffer_decode = interrupted
modern.run_command(lambda: modern.main(sys.argv[2:]))
"""


def test_ctrl_c_while_the_rows_are_read(sample, tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, str(ROOT), str(sample(60)), "--model-dir", str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (130, 1) and done.stderr.startswith("stopped: SIGINT")
    assert not (tmp_path / "model").exists()


def test_a_loss_that_is_not_a_number(sample, tmp_path, capsys):
    assert train(sample(60), tmp_path / "model", "--learning-rate", "1e30", "--epochs", 60) == 1
    assert "not a number" in capsys.readouterr().err


def test_without_tensorboard_it_goes_on(sample, tmp_path, monkeypatch, capsys):
    version = modern.metadata_version
    monkeypatch.setattr(modern, "metadata_version", lambda name: "" if name == "tensorboard" else version(name))
    assert modern.main([str(sample(60)), "--model-dir", str(tmp_path / "model"), "--epochs", "3"]) == 0
    assert "tensorboard is not installed" in capsys.readouterr().out and not (tmp_path / "model" / "logs").exists()


def test_basic_trainer(run, sample, tmp_path):
    done = run(
        "train_model.py",
        sample(80),
        "--model-dir",
        tmp_path / "model",
        "--quick",
        "--lightweight",
        "--cpu-only",
        "--seed",
        3,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "model" / "basic_metrics.json").read_text())
    assert metrics["rows"] == {"training": 56, "validation": 12, "test": 12} and 0 <= metrics["test"]["accuracy"] <= 1
    assert (tmp_path / "model" / "basic_model.keras").exists()
    assert len((ROOT / "train_model.py").read_text().splitlines()) < 135  # or nobody reads it in two minutes
    refused = run("train_model.py", tmp_path / "absent.csv")
    assert refused.returncode == 2 and refused.stderr.startswith("error: ")


def test_both_trainers_test_on_the_same_rows(sample, tmp_path, monkeypatch):
    import train_model as basic

    splits, path = [], str(sample(100))
    monkeypatch.setattr(basic, "split_rows", lambda *given: splits.append(modern.split_rows(*given)) or splits[0])
    basic.run(basic.parse_arguments([path, "--model-dir", str(tmp_path / "model"), "--quick", "--seed", "3"]))
    assert train(path, tmp_path / "model", "--folds", 1, "--epochs", 2, "--seed", 5) == 0
    with (tmp_path / "model" / "predictions.csv").open(newline="") as file:
        tested = sorted(int(row["line"]) for row in csv.DictReader(file))
    table = modern.read_table(modern.parse_options([path]))
    assert tested == sorted(table.lines[splits[0].test].tolist())
    names, inputs = basic.as_numbers(table)
    assert sorted(names) == sorted(modern.V0_COLUMNS[:-1]) and inputs.shape == (100, 4)


def test_the_basic_trainer_takes_every_column_as_a_number(tmp_path):
    import train_model as basic

    cells = [("", "", ""), ("7", "b", "1.5"), ("-3", "a", "2")]
    rows = [f"{','.join(cells[row % 3])},{row % 2}" for row in range(30)]
    (tmp_path / "a.csv").write_text("\n".join(["app_id,mood,amount,productive", *rows, ""]))
    names, inputs = basic.as_numbers(modern.read_table(modern.parse_options([str(tmp_path / "a.csv")])))
    assert names == ["amount", "app_id", "mood"]
    assert sorted(set(map(tuple, inputs.tolist()))) == [(0, 0, 0), (1.5, 7, 2), (2, -3, 1)]


def predict(run, *arguments):
    done = run("predict.py", *arguments)
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(done.stdout.splitlines()))


def test_predict(run, sample, tmp_path):
    path, folder = sample(100), tmp_path / "model"
    assert train(path, folder) == 0
    rows = predict(run, path, "--model-dir", folder)
    source = list(csv.DictReader(path.read_text().splitlines()))
    assert [{name: row[name] for name in source[0]} for row in rows] == source
    table = modern.read_table(modern.parse_options([str(path), "--split", "time"]))
    import keras

    model = keras.models.load_model(folder / modern.MODEL_FILE)
    expected = model.predict(modern.raw_inputs(table, np.arange(100)), verbose=0)[:, 0]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], expected, atol=2e-5)
    assert [int(row["predicted"]) for row in rows] == [int(float(row["probability"]) >= 0.5) for row in rows]
    # columns in another order, no label, an unseen app, missing cells, one column more
    other = tmp_path / "other.csv"
    other.write_text("mouse_activity,note,time_last_request,foreground_app,keyboard_activity\n5,x,7,123,9\n,y,7,,9\n")
    out = tmp_path / "out.csv"
    checkpoint = next((folder / "checkpoints").iterdir())
    assert run("predict.py", other, "--model", checkpoint, "--output", out).returncode == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["note"] for row in rows] == ["x", "y"] and all(0 < float(row["probability"]) < 1 for row in rows)
    headerless = tmp_path / "2017.csv"
    headerless.write_text("\n".join(",".join(row.values()) for row in source) + "\n")
    assert len(predict(run, headerless, "--model-dir", folder)) == 100


def test_predict_refuses(run, sample, tmp_path):
    path, folder = sample(60), tmp_path / "model"
    assert train(path, folder) == 0
    lacking, text = tmp_path / "lacking.csv", tmp_path / "text.csv"
    lacking.write_text("foreground_app,mouse_activity,time_last_request\n1,2,3\n")
    text.write_text("foreground_app,keyboard_activity,mouse_activity,time_last_request\n1,2,3,4\n1,many,3,4\n")
    (tmp_path / "bad.keras").write_bytes(b"not a model")
    for arguments, words in (
        ([lacking, "--model-dir", folder], "no column keyboard_activity"),
        ([text, "--model-dir", folder], "line 3, column keyboard_activity"),
        ([path, "--model-dir", tmp_path / "absent"], "not found; train a model first"),
        ([path, "--model", tmp_path / "bad.keras"], "is not a model"),
        ([tmp_path / "absent.csv", "--model-dir", folder], "no such file"),
    ):
        done = run("predict.py", *arguments)
        assert (
            done.returncode == 2
            and words in done.stderr
            and done.stderr.startswith("error: ")
            and done.stderr.count("\n") == 1
        )


def test_describe(sample, tmp_path):
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import train_model_modern
assert train_model_modern.main([sys.argv[2], "--describe"]) == 0
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), str(sample(80))], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "80 rows" in done.stdout and "keyboard_activity" in done.stdout and "median" in done.stdout
    assert os.listdir(tmp_path) == ["HARVEST.CSV"]


def test_predict_evaluates_against_the_label(run, sample, tmp_path):
    path, folder = sample(100), tmp_path / "model"
    assert train(path, folder) == 0
    done = run("predict.py", path, "--model-dir", folder, "--evaluate", "--output", tmp_path / "out.csv")
    assert done.returncode == 0 and "100 rows" in done.stderr and "accuracy" in done.stderr
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    accuracy = np.mean([row["productive"] == row["predicted"] for row in rows])
    assert f"{accuracy:.3f}" in done.stderr


def test_predict_answers_each_line_as_it_arrives(sample, tmp_path):
    path, folder = sample(60), tmp_path / "model"
    assert train(path, folder) == 0
    header, *lines = path.read_text().splitlines()
    command = [sys.executable, str(ROOT / "predict.py"), "-", "--model-dir", str(folder)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )

    def send(text):
        process.stdin.write(text)
        process.stdin.flush()

    send(header + "\n")
    assert process.stdout.readline() == f"{header},probability,predicted\n"
    answers = []
    for line in lines[:3]:
        send(line + "\n")
        answers.append(process.stdout.readline())
    assert [answer.rsplit(",", 2)[0] for answer in answers] == lines[:3]
    send(f"{header}\n1,2\n{lines[3]}\n")
    assert process.stdout.readline().startswith(lines[3])
    send("1,2,3")
    rest, notes = process.communicate(timeout=60)
    assert rest == "" and process.returncode == 0
    assert "line 5: the header again" in notes and "line 6: 2 fields" in notes and "line 8: 3 fields" in notes
    whole = subprocess.run(command, input=path.read_text(), capture_output=True, text=True)
    assert len(whole.stdout.splitlines()) == 61
    assert whole.stdout.splitlines()[1:4] == [answer.strip() for answer in answers]


def test_predict_executes_nothing_a_model_file_brings(run, sample, tmp_path):
    import keras

    path, folder = sample(60), tmp_path / "model"
    assert train(path, folder) == 0
    with zipfile.ZipFile(folder / modern.MODEL_FILE) as archive:
        details = archive.read("training.json")
    inputs = {name: keras.Input((1,), name=name) for name in modern.V0_COLUMNS[:-1]}
    hostile = keras.layers.Lambda(lambda parts: parts[0], output_shape=(1,))(list(inputs.values()))
    keras.Model(inputs, hostile).save(tmp_path / "hostile.keras")
    with zipfile.ZipFile(tmp_path / "hostile.keras", "a") as archive:
        archive.writestr("training.json", details)
    done = run("predict.py", path, "--model", tmp_path / "hostile.keras")
    assert (
        done.returncode == 2
        and "cannot be loaded" in done.stderr
        and done.stdout == ""
        and done.stderr.count("\n") == 1
    )


def on_a_terminal(columns, command, stop_at=None):
    """What a command shows on a terminal of so many columns, and its exit code; Ctrl-C once it has shown some bytes."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    import fcntl
    import struct
    import termios

    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment["TERM"], streams = "xterm-256color", dict.fromkeys(("stdin", "stdout", "stderr"), writing)
    with subprocess.Popen([sys.executable, *map(str, command)], env=environment, **streams) as process:
        os.close(writing)
        shown = b""
        try:
            while part := os.read(reading, 65_536):
                shown += part
                if stop_at and stop_at in shown:
                    stop_at = os.kill(process.pid, signal.SIGINT)
        except OSError:  # Linux says so when the other side is closed
            pass
    os.close(reading)
    return shown.decode(), process.returncode


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_the_bar_is_as_wide_as_the_terminal(columns):
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import train_model_modern as modern
seconds = iter(range(1_000))
modern.time.perf_counter = lambda: next(seconds) * 0.3
progress = modern.Progress(1_000, modern.Output(False))
progress.on_train_begin()
for epoch in range(12):
    progress.on_epoch_end(epoch, {{"loss": 0.5, "val_loss": 0.25, "val_accuracy": 0.75}})
progress.on_train_end()
print("done")
"""
    shown, code = on_a_terminal(columns, ["-c", program])
    drawn, _, rest = shown.rpartition("\x1b[1A\x1b[2K")
    frames = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", part) for part in re.split(r"[\r\n]+", drawn)]
    frames = [frame for frame in frames if frame.startswith("epoch")]
    assert code == 0 and rest == "done\r\n" and len(frames) == 14 and {len(frame) for frame in frames} == {columns}
    assert "\x1b[1A" not in drawn and "epoch  12/1000" in frames[-1] and "val_accuracy 0.750" in frames[-1]
    assert "left" not in frames[1] and ("at most 297 s left" in frames[-1]) is (columns >= 80)
    assert ("  loss 0.5000" in frames[-1]) is (columns >= 100)
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")  # the cursor is hidden, and shown again


def test_stopped_while_the_bar_is_drawn(sample, tmp_path):
    command = [ROOT / "train_model_modern.py", sample(3_000), "--model-dir", tmp_path / "model", "--no-tensorboard"]
    command += ["--folds", "1", "--no-xla", "--no-early-stopping", "--epochs", "100000"]
    shown, code = on_a_terminal(80, command, stop_at=b"epoch   1/")
    bar, _, rest = shown.rpartition("\x1b[1A\x1b[2K")
    assert code == 130 and "val_loss" in bar and rest.startswith("stopped: SIGINT; continue with --resume")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_predict_names_the_line_of_standard_input(sample, tmp_path):
    path, folder = sample(60), tmp_path / "model"
    assert train(path, folder) == 0
    header, *lines = path.read_text().splitlines()
    command = [sys.executable, str(ROOT / "predict.py"), "-", "--model-dir", str(folder)]
    for rows, place in (([header, *lines[:2], "1,many,3,4,1"], 4), ([*lines[:2], "1,many,3,4,1"], 3)):
        done = subprocess.run(command, input="\n".join(rows) + "\n", capture_output=True, text=True, timeout=60)
        assert (
            done.returncode == 0
            and f"note: line {place}, column keyboard_activity: 'many' is not a number, left out" in done.stderr
        )
        assert len(done.stdout.splitlines()) == 3


def test_predict_leaves_repeated_headers_out_and_knows_ids_it_has_not_seen(run, sample, tmp_path):
    path, folder = sample(60), tmp_path / "model"
    assert train(path, folder) == 0
    header, *lines = path.read_text().splitlines()
    cells = lines[0].split(",")[1:]
    apps = ["123456789", "no id at all", "99999999999999999999", ""]
    strange = tmp_path / "strange.csv"
    strange.write_text(
        "\n".join([header, *lines[:2], header, *(",".join([app, *cells]) for app in apps), header]) + "\n"
    )
    done = run("predict.py", strange, "--model-dir", folder)
    assert done.returncode == 0 and done.stderr == "note: lines 4, 9: the header again, left out\n"
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["foreground_app"] for row in rows] == [line.split(",")[0] for line in lines[:2]] + apps
    assert len({row["probability"] for row in rows[2:5]}) == 1
    strange.write_text("\n".join([header, header, *lines[:2], "1,many,3,4,1"]) + "\n")
    done = run("predict.py", strange, "--model-dir", folder)
    assert done.returncode == 2 and "line 5, column keyboard_activity" in done.stderr


UV = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable],
        pytest.param([UV, "run"], marks=pytest.mark.skipif(not UV, reason="uv is not installed")),
    ],
    ids=["python", "uv"],
)
def test_copied_alone_into_an_empty_folder_it_trains(sample, tmp_path, command):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(ROOT / "train_model_modern.py", alone)
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "XLA_FLAGS")}
    arguments = [*command, "train_model_modern.py", str(sample(60)), "--epochs", "3", "--architecture", "deep"]
    done = subprocess.run(arguments, cwd=alone, env=environment, capture_output=True, text=True, timeout=900)
    if command[0] == UV and re.search(r"Failed to (fetch|download)|error sending request", done.stderr):
        pytest.skip("uv could not download the packages")
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (alone / "model").iterdir()}
    assert written >= {modern.MODEL_FILE, modern.METRICS_FILE, modern.PREDICTIONS_FILE, "logs"}


def test_runs_are_compared_by_log_loss_and_damage_is_told(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    one, other = sample(80, name="a.csv"), sample(90, name="b.csv")
    assert train(one, tmp_path / "plain", "--folds", 4) == 0
    assert train(one, tmp_path / "folds", "--folds", 3, "--drop", "time_last_request", "--architecture", "deep") == 0
    assert modern.main(["--compare"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    shown = [dict(zip(title.split(), line.split(), strict=False)) for line in lines]
    losses = {name: metrics_of(tmp_path / name)["test"]["log_loss"] for name in ("plain", "folds")}
    assert [row["directory"] for row in shown] == sorted(losses, key=losses.get)
    assert [row["data"] for row in shown] == ["1", "1"]  # the same rows, though one takes fewer columns
    line = next(line for line in lines if "folds" in line)
    metrics = metrics_of(tmp_path / "folds")
    ends, accuracy = metrics["test"]["log_loss_ci95"], metrics["test"]["accuracy"]
    for words in ("80      80", "deep      3", f"{losses['folds']:.3f}  {ends[0]:.3f} to {ends[1]:.3f}"):
        assert words in line
    assert f"{metrics['test']['roc_auc']:.3f}" in line and line.endswith(f" {100 * accuracy:.1f} %")

    assert train(other, tmp_path / "elsewhere") == 0
    for name, content in (("broken", '{"rows": 3'), ("odd", '{"rows": {}, "test": {}, "settings": 5}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(content)
    assert modern.main(["--compare", "plain", "broken", "elsewhere", "odd", "nowhere"]) == 0
    found = capsys.readouterr()
    lines = found.out.splitlines()
    assert sorted(line.split()[0] for line in lines[1:3]) == ["1", "2"]
    note = "Compare only runs with the same number in the data column: they were tested on the same rows."
    assert lines[3:] == [note]
    damage = [f"note: {os.path.join(name, 'metrics.json')} is damaged and left out" for name in ("broken", "odd")]
    assert found.err.splitlines() == [*damage, "note: nowhere contains no completed run"]
    assert modern.main(["--compare", "nowhere"]) == 2 and "no completed run was found" in capsys.readouterr().err


def test_runs_are_compared_without_tensorflow_and_pandas(tmp_path, run):
    program = "import sys, train_model_modern as modern; code = modern.main(['--compare']); "
    program += "sys.exit(code or 3 * bool({'tensorflow', 'pandas'} & set(sys.modules)))"
    scores = {
        "log_loss": 0.5,
        "log_loss_ci95": [0.4, 0.6],
        "roc_auc": None,
        "accuracy": 0.75,
        "confusion": [[3, 1], [0, 0]],
    }
    metrics = {"rows": {"used": 4}, "test": scores, "settings": {"architecture": "standard", "folds": 1}}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.json").write_text(json.dumps(metrics))
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.splitlines()[1].endswith("nan    75.0 %")
