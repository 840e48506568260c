"""The trainer's flags: what each of them sets, what is refused, and how the command ends."""

import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, environment_of_a_user, metrics_of
from small_table import small_table

import train_model_modern
from harvest import VERSION, cli
from harvest.data.splits import make_splits
from harvest.training.config import choose_folds, decide, with_device
from harvest.training.tensorflow_setup import Device

SWITCHES = {  # with their defaults; None: decided from the data and the machine
    "cpu-only": False,
    "mixed-precision": None,
    "xla": None,
    "adamw": True,
    "reduce-lr": True,
    "checkpoints": True,
    "tensorboard": True,
    "early-stopping": True,
    "skip-bad-rows": False,
    "profile": False,
    "quiet": False,
    "resume": False,
    "describe": False,
    "trust-network": False,
}
ALL_ON = tuple(f"--{name}" for name in list(SWITCHES)[:11])
ALL_OFF = tuple(flag.replace("--", "--no-") for flag in ALL_ON)


def values_of(*flags):
    values = vars(train_model_modern.parse_args(list(flags)))
    return {name: value for name, value in values.items() if name != "given"}


def config_of(*flags):
    """What is decided for 100 rows on a CPU that has bfloat16."""
    args = train_model_modern.parse_args(["--folds", "1", *flags])
    label = np.arange(100, dtype=np.float32) % 2
    table = small_table(label)
    folds = choose_folds(args, table)
    config = decide(args, make_splits(args, label, folds.value), table, folds)
    return with_device(config, Device("cpu", "", flags=frozenset({"avx512_bf16"})), "", args.mixed_precision)


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("on", [True, False])
def test_a_switch_sets_its_value_and_no_other(switch, on):
    name = switch.replace("-", "_")
    defaults = values_of()
    assert defaults[name] is SWITCHES[switch]
    assert values_of(f"--{switch}" if on else f"--no-{switch}") == defaults | {name: on}


@pytest.mark.parametrize(
    "switch, decided, on, off",
    [
        ("adamw", "weight_decay", 0.1, 0),
        ("reduce-lr", "plateau", 16, 0),
        ("early-stopping", "patience", 50, 0),
        ("xla", "xla", True, False),
        ("profile", "profile", True, False),
        ("mixed-precision", "precision", "bfloat16", "float32"),
    ],
)
def test_what_a_switch_decides(switch, decided, on, off):
    assert getattr(config_of(f"--{switch}"), decided) == on
    assert getattr(config_of(f"--no-{switch}"), decided) == off


def test_other_flags_set_their_values():
    flags = (
        "a.csv b.csv --architecture deep --model-dir m --label y --categorical a b --numeric c --drop d e --folds 5 "
    )
    flags += "--split time --time-column t --split-seed 0 --epochs 7 --batch-size 9 --learning-rate 1e-3 --seed 1 "
    flags += "--class-weight balanced --threshold cost=1:5 --keep-checkpoints 0 --export onnx litert --sync-every 4"
    defaults, values = values_of(), values_of(*flags.split())
    assert values["csv"] == ["a.csv", "b.csv"] and str(values["model_dir"]) == "m"
    expected = {
        "architecture": "deep",
        "label": "y",
        "categorical": ["a", "b"],
        "numeric": ["c"],
        "drop": ["d", "e"],
        "folds": 5,
        "split": "time",
        "time_column": "t",
        "split_seed": 0,
        "epochs": 7,
        "batch_size": 9,
        "learning_rate": 0.001,
        "seed": 1,
        "class_weight": "balanced",
        "keep_checkpoints": 0,
        "export": ["onnx", "litert"],
        "sync_every": 4,
    }
    assert {name: values[name] for name in expected} == expected
    changed = {name for name in values if values[name] != defaults[name]}
    assert changed == {*expected, "csv", "model_dir", "threshold"}
    assert values_of("--sample")["sample"] == 500 and values_of("--sample", "60")["sample"] == 60
    assert (defaults["architecture"], defaults["epochs"], defaults["folds"]) == ("standard", 150, "auto")


def test_the_default_csv_is_in_the_temporary_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert values_of()["csv"] == [str(tmp_path / "HARVEST.CSV")]


@pytest.mark.parametrize("flags, on", [(ALL_ON, True), (ALL_OFF, False)], ids=["on", "off"])
def test_all_switches_at_once(trained, flags, on):
    folder = trained(*flags)
    settings = metrics_of(folder)["settings"]
    named = [switch.replace("-", "_") for switch in list(SWITCHES)[:11] if switch != "mixed-precision"]
    assert {name: settings[name] for name in named} == dict.fromkeys(named, on)
    assert settings["precision"] in (("bfloat16", "float32") if on else ("float32",))
    assert (folder / "checkpoints").exists() is on and (folder / "logs").exists() is on
    assert bool(list(folder.glob("logs/*/train/plugins/profile/*/*.xplane.pb"))) is on


def test_switches_left_out(trained):
    settings = metrics_of(trained())["settings"]
    left_out = ("adamw", "reduce_lr", "early_stopping", "cpu_only", "skip_bad_rows", "profile", "resume")
    assert {name: settings[name] for name in left_out} == {name: SWITCHES[name.replace("_", "-")] for name in left_out}
    assert {"xla", "precision", "device"} <= set(settings["reasons"])


@pytest.mark.slow
def test_cross_validation_is_advised_only_where_it_was_turned_off(trained):
    step = "Train again without --folds 1: cross-validation tests every row."
    assert metrics_of(trained())["next_steps"].count(step) == 1  # a wide interval: 12 of 120 rows were tested
    for flags in (("--split", "time"), ("--folds", "3", "--epochs", "2")):
        assert step not in metrics_of(trained(*flags))["next_steps"]


@pytest.mark.slow
def test_early_stopping_off_keeps_the_last_weights(trained):
    flags = ("--epochs", "40", "--learning-rate", "0.1", "--no-reduce-lr")
    last, best = metrics_of(trained(*flags, "--no-early-stopping", rows=60)), metrics_of(trained(*flags, rows=60))
    assert last["epochs"] == 40 and last["best_epoch"] == best["best_epoch"] < 40
    assert last["test"]["log_loss"] != best["test"]["log_loss"]


def test_adam_and_adamw_differ(trained):
    assert metrics_of(trained())["test"] != metrics_of(trained("--no-adamw"))["test"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures_in_another_process(run, trained, tmp_path):
    flags = ("--epochs", "5", "--seed", "5")
    here, other = trained(*flags), trained(*flags[:-1], "6")
    command = [here.parent / "HARVEST.CSV", "--model-dir", tmp_path / "model", "--folds", 1, *flags]
    done = run("train_model_modern.py", *command, "--no-tensorboard", "--no-checkpoints")
    assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "model")["test"] == metrics_of(here)["test"] != metrics_of(other)["test"]


def test_generated_rows(train, capsys):
    metrics = metrics_of(train("--sample", 60, csv=()))
    assert metrics["rows"]["read"] == 60 and metrics["settings"]["sample"] == 60
    assert capsys.readouterr() == ("", "")  # as --quiet wants it


REFUSED = {  # with what the error says
    "--fast": "unrecognized arguments: --fast",
    "--architecture huge": "--architecture: invalid choice: 'huge'",
    "--arch deep": "unrecognized arguments: --arch deep",
    "--architectur deep": "unrecognized arguments: --architectur deep (did you mean --architecture?);",
    "--no-tensorbord --epoch=7": "(did you mean --no-tensorboard or --epochs?);",
    "--qqqqqq": "unrecognized arguments: --qqqqqq; --help lists the flags",
    "--epochs 0": "--epochs takes a whole number of 1 or more, not 0;",
    "--epochs many": "--epochs takes a whole number of 1 or more, not many;",
    "--batch-size -1": "--batch-size takes a whole number of 1 or more, not -1;",
    "--batch-size 1.5": "--batch-size takes a whole number of 1 or more, not 1.5;",
    "--learning-rate 0": "--learning-rate takes a number above 0, not 0;",
    "--learning-rate nan": "--learning-rate takes a number above 0, not nan;",
    "--learning-rate 1e-7": "--learning-rate 1e-07 is below 1e-05, the minimum learning rate",
    "--seed -1": "--seed takes a whole number from 0 to 2,147,483,647, not -1;",
    "--seed 2147483648": "--seed takes a whole number from 0 to 2,147,483,647, not 2147483648;",
    "--keep-checkpoints -1": "--keep-checkpoints takes a whole number of 0 or more, not -1;",
    "--keep-checkpoints few": "--keep-checkpoints takes a whole number of 0 or more, not few;",
    "--folds x": "--folds takes a whole number of 1 or more, or auto, not x;",
    "--folds 2": "--folds 2 leaves no training rows",
    "--split backwards": "--split: invalid choice: 'backwards'",
    "--class-weight heavy": "--class-weight: invalid choice: 'heavy'",
    "--threshold often": "--threshold takes a number between 0 and 1, f1, balanced, ",
    "--threshold cost=0:0": "--threshold takes ",
    "--export pickle": "--export: invalid choice: 'pickle'",
    "--profile --no-tensorboard": "--profile writes to the logs that --no-tensorboard turns off",
    "--time-column keyboard_activity": "--time-column has no effect without --split time",
    "--sample 50": "a CSV file and --sample were both given",
    "--sample x": "--sample takes a whole number of 1 or more, not x;",
    "--label absent": "line 1 has no column absent; choose the label with --label (columns: foreground_app, ",
    "--categorical x --numeric x": "x is given to both --categorical and --numeric; give it to one of them",
    "--numeric b x a --categorical c x b": "b is given to both --categorical and --numeric; give it to one of them",
    "--drop absent": "HARVEST.CSV has no such column",
    "--drop productive": "productive",
    "other.csv": "unrecognized arguments: other.csv",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_refused_flags(sample, tmp_path, capsys, flags):
    code = train_model_modern.main([str(sample(60)), "--model-dir", str(tmp_path / "model"), *flags.split()])
    out, error = capsys.readouterr()
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith("error: ") and REFUSED[flags] in error and "argument -" not in error, error
    assert not (tmp_path / "model").exists()


def test_too_few_generated_rows_are_refused(train, capsys):
    train("--sample", 5, csv=(), code=2)
    error = capsys.readouterr().err
    assert error == "error: --sample 5: only 5 usable rows, but at least 20 are needed; generate more rows\n"


def test_a_column_that_is_a_file_is_refused(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(sample(60).parent)
    assert train_model_modern.main(["--model-dir", "model", "--drop", "HARVEST.CSV"]) == 2
    assert "HARVEST.CSV was read as a column name" in capsys.readouterr().err


def test_a_model_directory_that_is_a_file_is_refused(train, sample, tmp_path, capsys):
    (tmp_path / "model").write_text("mine")
    train(csv=sample(60), code=2)
    assert "is a file" in capsys.readouterr().err and (tmp_path / "model").read_text() == "mine"


WITHOUT_TENSORFLOW = """
import sys
import train_model_modern

def call(code, *flags, without=("tensorflow", "keras")):
    assert train_model_modern.main(list(flags)) == code
    assert not {*without} & set(sys.modules), flags

call(2, "--epochs", "0", without=("tensorflow", "keras", "pandas"))
call(2, "--compare", "nowhere", without=("tensorflow", "keras", "pandas"))
call(0, "good.csv", "--describe")
call(2, "bad.csv")
call(2, "absent.csv")
call(2, "good.csv", "--label", "absent")
"""


def test_tensorflow_is_not_imported_to_refuse_or_describe(sample, tmp_path):
    good = sample(80, name="good.csv")
    (tmp_path / "bad.csv").write_text(good.read_text() + "1,2,3\n")
    environment = environment_of_a_user(PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 5 and "line 82" in errors[2] and "Traceback" not in done.stderr
    for text in ("80 rows", "keyboard_activity", "median"):
        assert text in done.stdout
    assert sorted(os.listdir(tmp_path)) == ["bad.csv", "good.csv"]


def test_help_and_version(run, capsys):
    with pytest.raises(SystemExit) as end:
        train_model_modern.main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert all(f"--{name}, --no-{name}" in text for name in SWITCHES)
    for script in ("train_model_modern.py", "predict.py", "export_model.py"):
        assert run(script, "--version").stdout.strip() == VERSION


def test_a_loss_that_is_not_a_number(train, capsys):
    train("--learning-rate", "1e30", "--epochs", 60, rows=60, code=1)
    assert "not a number" in capsys.readouterr().err


def test_without_the_package_tensorboard_training_goes_on(tf, train, monkeypatch, capsys):
    monkeypatch.setattr("harvest.training.tensorboard.metadata_version", lambda name: "")
    folder = train("--tensorboard", "--no-quiet", rows=60)
    assert "the package tensorboard is not installed" in capsys.readouterr().out and not (folder / "logs").exists()


INTERRUPTED = """
import encodings.utf_8_sig, os, signal, sys
import train_model_modern
from harvest import cli

decode = encodings.utf_8_sig.IncrementalDecoder._buffer_decode

def interrupted(*args):
    if "pandas" in sys.modules:
        os.kill(os.getpid(), signal.SIGINT)
    return decode(*args)

encodings.utf_8_sig.IncrementalDecoder._buffer_decode = interrupted
cli.run(train_model_modern.main)
"""


def test_ctrl_c_while_the_rows_are_read(sample, tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, str(sample(60)), "--model-dir", str(tmp_path / "model")]
    environment = environment_of_a_user(PYTHONPATH=str(ROOT))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stderr.count("\n")) == (130, 1) and done.stderr.startswith("stopped: SIGINT")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_stopping_keeps_the_best_so_far(tf, sample, tmp_path):
    import keras

    script, folder = str(ROOT / "train_model_modern.py"), tmp_path / "model"
    command = [sys.executable, script, str(sample(30_000)), "--model-dir", str(folder), "--no-early-stopping"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--epochs", "100000"], env=environment_of_a_user(), **pipes) as process:
        for line in process.stdout:
            if line.startswith("epoch "):
                break
        time.sleep(0.3)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "continue with --resume" in errors and "Traceback" not in errors
    assert not (folder / "metrics.json").exists() and not (folder / "productivity_model.keras").exists()
    keras.models.load_model(re.search(r"the best model of this run so far is (\S+\.keras)", errors).group(1))


UV = shutil.which("uv", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))


@pytest.mark.slow
@pytest.mark.skipif(not UV, reason="uv is not installed")
def test_uv_runs_the_trainer_without_an_environment(sample, tmp_path):
    """The command of the README: uv installs what the first lines of the file list."""
    environment = {name: value for name, value in environment_of_a_user().items() if name != "VIRTUAL_ENV"}
    command = [UV, "run", ROOT / "train_model_modern.py", sample(60), "--epochs", "3", "--architecture", "deep"]
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    if re.search(r"Failed to (fetch|download)|error sending request", done.stderr):
        pytest.skip("uv could not download the packages")
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "model").iterdir()}
    assert written >= {
        "productivity_model.keras",
        "metrics.json",
        "predictions.csv",
        "report.html",
        "README.md",
        "logs",
    }


def test_flags_that_were_given_are_known_even_with_their_default_values():
    path = train_model_modern.parse_args([]).csv[0]
    assert train_model_modern.parse_args([]).given == {}
    assert train_model_modern.parse_args(["--seed", "42", "--adamw", path]).given == {
        "seed": 42,
        "adamw": True,
        "csv": [path],
    }
    with pytest.raises(cli.UserError, match="a CSV file and --sample were both given"):
        train_model_modern.parse_args(["--sample", "60", path])
