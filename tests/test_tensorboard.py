"""TensorBoard's logs: what is in the event files, what TensorBoard says of whole runs, and how its tabs look."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import CHROMIUM, ROOT, environment_of_a_user, metrics_of, write_rows

import train_model_modern
from harvest.cli import Console
from harvest.training import interrupted, resume, tensorboard
from harvest.training.folds import Fold, epoch_logs, mean_logs
from harvest.training.program import HISTORY, Weights
from harvest.training.tensorflow_setup import metadata_version

ARTIFACTS = ROOT / "tests" / "artifacts"
ROWS = np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.4, 0.2])


def values_of(fold, weights):
    return {"layers/hidden_1/weights": weights.trained, "layers/hidden_1/activations": weights.trained[:2]}, 0.75


def made_up_folds(count=1, epochs=0):
    folds = [Fold(number, split=None, encoding=None, linear=None) for number in range(count)]
    for _ in range(epochs):
        for fold in folds:
            next_epoch(fold)
    return folds


def next_epoch(fold):
    epoch = len(fold.history) + 1
    counts = np.random.default_rng([fold.number, epoch]).uniform(1, 5, len(HISTORY))
    fold.history.append(epoch_logs(counts, 5, 7))
    fold.now = Weights(np.full(4, epoch, np.float32), np.zeros(1, np.float32))
    if fold.history[-1]["val_loss"] < fold.best_loss:
        fold.best_loss, fold.best_epoch, fold.best = fold.history[-1]["val_loss"], epoch, fold.now


def log_epochs(log, folds, epochs):
    for _ in range(epochs):
        for fold in folds:
            next_epoch(fold)
        epoch = len(folds[0].history)
        log.on_epoch_end(epoch - 1, mean_logs(folds, epoch))


def open_log(logs, folds, earlier="", epochs=20, console=None):
    console = console or Console(quiet=True)
    return tensorboard.open_log(logs, "standard_folds1", earlier, console, folds, epochs, 5, values_of)


def events_of(folder, part="train"):
    """The events of a run by tag: lists of steps and values, in the order they were written."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = {}
    for path in sorted(folder.glob(f"{part}/events*"), key=lambda path: float(path.name.split(".", 3)[-1])):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value))
    return found


def scalars_of(folder, part, tag):
    from tensorboard.util.tensor_util import make_ndarray

    return {step: float(make_ndarray(value.tensor)) for step, value in events_of(folder, part)[tag]}


# Names and folders


def test_two_runs_in_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    names = [tensorboard.run_folder(tmp_path, "standard").name for _ in range(3)]
    assert names == ["20260101-000000_standard", "20260101-000000_standard_2", "20260101-000000_standard_3"]


DEFAULTS = {"architecture": "standard", "batch_size": None, "folds": "auto", "learning_rate": None, "seed": 42}
DEFAULTS |= {"adamw": True, "class_weight": "none", "early_stopping": True, "epochs": 150, "reduce_lr": True}
DEFAULTS |= {"split": "random", "quiet": False, "model_dir": "model", "csv": ["data/my rows.csv"], "sample": None}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "my-rows_standard_folds10"),
        ({"sample": 500}, "sample_standard_folds10"),
        ({"csv": ["b/../HARVEST.CSV", "x", "y"]}, "HARVEST-and-2-more_standard_folds10"),
        ({"csv": ["данные.csv"]}, "data_standard_folds10"),
        ({"csv": ["..csv/" + "x" * 90]}, f"{'x' * 40}_standard_folds10"),
        ({"quiet": True, "model_dir": "other", "folds": 3}, "my-rows_standard_folds10"),
        ({"architecture": "deep", "seed": 7}, "my-rows_deep_folds10_seed7"),
        ({"adamw": False, "learning_rate": 0.00002}, "my-rows_standard_folds10_learning_rate2e-05_no_adamw"),
        ({"split": "time", "class_weight": "balanced"}, "my-rows_standard_folds10_class_weightbalanced_splittime"),
    ],
)
def test_a_run_is_called_by_what_differs(given, name):
    found = tensorboard.run_name(DEFAULTS | given, DEFAULTS, 10)
    assert found == name and interrupted.RUN_NAME.fullmatch(f"20260101-000000_{found}_2")
    assert not interrupted.RUN_NAME.fullmatch(f"20260101-000000_{found}/..")


# The event files of made-up folds


def test_every_epoch_is_logged_and_the_histograms_of_some(tmp_path):
    folds = made_up_folds(3)
    log = open_log(tmp_path / "logs", folds)
    log_epochs(log, folds, 20)
    log.close()
    assert log.failure == "" and log.folder.parent == tmp_path / "logs"
    losses = scalars_of(log.folder, "train", "epoch/loss")
    assert list(losses) == list(range(1, 21))
    assert losses[7] == pytest.approx(np.mean([fold.history[6]["loss"] for fold in folds]))
    for name, choose in (("lowest", min), ("highest", max)):
        found = scalars_of(log.folder, "validation", f"folds/{name}_loss")
        assert found[7] == pytest.approx(choose(fold.history[6]["val_loss"] for fold in folds))
    train, validation = events_of(log.folder), events_of(log.folder, "validation")
    names = {"epoch/loss", "epoch/accuracy", "epoch/precision", "epoch/recall"}
    assert set(validation) == names | {"epoch/auc", "folds/lowest_loss", "folds/highest_loss"}
    steps = [step for step, _ in validation["epoch/auc"]]
    assert steps == sorted(set(steps)) and {1, *range(2, 21, 2)} <= set(steps)
    assert set(scalars_of(log.folder, "validation", "epoch/auc").values()) == {0.75}
    speed = {"speed/rows_per_second", "speed/cpu_share", "speed/resident_megabytes"}
    histograms = {"layers/hidden_1/weights", "layers/hidden_1/activations"}
    assert set(train) == names | {"epoch/learning_rate"} | speed | histograms
    for tag in histograms:
        steps = [step for step, _ in train[tag]]
        assert steps == sorted(set(steps)) and {1, *range(2, 21, 2)} <= set(steps)
    pooled = train["layers/hidden_1/weights"][-1][1].tensor
    assert sum(bucket[2] for bucket in np.frombuffer(pooled.tensor_content).reshape(-1, 3)) == 12  # of all folds


def test_a_fold_that_has_stopped_keeps_its_last_loss(tmp_path):
    folds = made_up_folds(2, 3)
    log = open_log(tmp_path, folds)
    next_epoch(folds[1])
    log.on_epoch_end(3, mean_logs(folds, 4))
    log.close()
    losses = [folds[0].history[2]["val_loss"], folds[1].history[3]["val_loss"]]
    assert scalars_of(log.folder, "validation", "folds/lowest_loss") == {4: pytest.approx(min(losses))}
    assert "folds/lowest_loss" not in events_of(open_log(tmp_path, made_up_folds(1)).folder, "validation")


def test_resumed_logs_go_on_in_their_folder(tmp_path):
    folds = made_up_folds(1)
    log = open_log(tmp_path, folds)
    log_epochs(log, folds, 9)
    log.close()
    resumed = open_log(tmp_path, folds, earlier=log.folder.name)
    log_epochs(resumed, folds, 11)
    resumed.close()
    assert resumed.folder == log.folder and os.listdir(tmp_path) == [log.folder.name]
    assert list(scalars_of(log.folder, "train", "epoch/loss")) == list(range(1, 21))
    steps = [step for step, _ in events_of(log.folder)["layers/hidden_1/weights"]]
    assert steps == sorted(set(steps)) and {1, *range(2, 21, 2)} <= set(steps)


def test_what_is_logged_once_a_run_is_over(tmp_path, capsys):
    folds = made_up_folds(2)
    log = open_log(tmp_path, folds)
    log_epochs(log, folds, 5)
    settings = dict.fromkeys([*tensorboard.TELLING, *tensorboard.OTHERS, "label"], "x")
    settings |= {"early_stopping": True, "columns": {}, "reasons": {}, "csv": ["rows.csv"], "sample": None}
    metrics = {
        "best_epoch": 3,
        "settings": settings,
        "test": {"f1": 0.5, "roc_auc": 0.75, "confusion": [[1, 2], [3, 4]]},
    }
    log.results(metrics, ROWS, ROWS, {"report": ["a  line", "<b>"], "calibration": ["0 to 10%"]}, Console(False))
    train, validation = events_of(log.folder), events_of(log.folder, "validation")
    assert {"settings", "report", "calibration"} < set(train) and capsys.readouterr().out == ""
    assert train["report"][0][1].tensor.string_val[0] == b"    a  line\n    <b>"
    assert b"    label           x" in train["settings"][0][1].tensor.string_val[0]
    assert b"reasons" not in train["settings"][0][1].tensor.string_val[0]
    assert {"pr_curve/validation", "pr_curve/test", "test/f1", "validation/loss"} < set(validation)
    assert scalars_of(log.folder, "validation", "test/roc_auc") == {3: 0.75}
    loss = scalars_of(log.folder, "validation", "validation/loss")
    assert loss == {3: pytest.approx(np.mean([fold.best_loss for fold in folds]))}
    tags = {tag for tag in validation if tag.startswith("_hparams_/")}
    assert len(tags) == 3 and train["layers/hidden_1/weights"][-1][0] == 5


def test_values_of_layers_have_tags():
    inputs = keras.Input((3,))
    outputs = keras.layers.BatchNormalization(name="normalization_1")(keras.layers.Dense(2, name="hidden_1")(inputs))
    network = keras.Model(inputs, outputs)
    weights = [(variable, np.asarray(variable)) for variable in network.variables]
    found = tensorboard.layer_values(weights, {"hidden_1": [[1.0, 2.0]]})
    layers = {"hidden_1": ("weights", "bias", "activations"), "normalization_1": ("gamma", "beta", "mean", "variance")}
    assert list(found) and set(found) == {f"layers/{name}/{kind}" for name, kinds in layers.items() for kind in kinds}


# What cannot be written


def test_a_writer_that_fails_ends_no_training(tmp_path, capsys):
    folds = made_up_folds(1)
    log = open_log(tmp_path, folds)
    log_epochs(log, folds, 2)
    writers, log.writers = log.writers, {"train": None, "validation": None}

    class Full:
        def write(self, record):
            raise OSError("No space left on device\nand more")

    log.writers = dict.fromkeys(writers, Full())
    log_epochs(log, folds, 2)
    assert log.failure == "No space left on device"
    log.writers = writers
    log_epochs(log, folds, 2)  # nothing is written any more
    log.graph("keras", "{}", "graph_keras_model")
    log.text("report", ["line"])
    log.close()
    assert list(scalars_of(log.folder, "train", "epoch/loss")) == [1, 2]
    assert "report" not in events_of(log.folder) and capsys.readouterr() == ("", "")


FULL_DISK = f"""
import resource, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
import test_tensorboard as tests
folds = tests.made_up_folds(1)
log = tests.open_log(Path(sys.argv[1]), folds)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for _ in range(50):
    tests.log_epochs(log, folds, 1)
    log.text("report", ["x" * 5_000])
log.close()
print(log.failure)
"""


@pytest.mark.slow
def test_a_full_disk_leaves_no_traceback(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment_of_a_user(TF_CPP_MIN_LOG_LEVEL="3"))
    assert done.returncode == 0 and "File too large" in done.stdout and "Traceback" not in done.stderr
    assert 0 < len(scalars_of(next(tmp_path.iterdir()), "train", "epoch/loss")) < 50


def test_logs_that_cannot_be_opened(tmp_path, monkeypatch, capsys):
    console, folds = Console(quiet=False), made_up_folds(1)
    (tmp_path / "logs").write_text("in the way")
    assert open_log(tmp_path / "logs", folds, console=console) is None
    assert capsys.readouterr().out == (
        f"TensorBoard: {tmp_path / 'logs'}: Not a directory; training continues without logs\n"
    )
    (tmp_path / "elsewhere" / "train").mkdir(parents=True)
    (tmp_path / "20260101-000000_standard").symlink_to(tmp_path / "elsewhere")
    assert open_log(tmp_path, folds, "20260101-000000_standard", console=console) is None
    assert "the folder of the run is a link, which is not followed; training continues" in capsys.readouterr().out
    assert os.listdir(tmp_path / "elsewhere" / "train") == []
    monkeypatch.setattr(tensorboard, "metadata_version", lambda package: "")
    assert open_log(tmp_path, folds, console=console) is None
    message = "the package tensorboard is not installed (pip install tensorboard); training continues without logs"
    assert capsys.readouterr().out == f"TensorBoard: {message}\n"
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)  # an installation that is broken
    assert open_log(tmp_path / "broken", folds, console=console) is None
    assert "training continues without logs" in capsys.readouterr().out


def test_logs_that_cannot_be_written_do_not_stop_a_run(train, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "logs").write_text("in the way")
    train("--tensorboard", "--no-quiet", rows=60)
    assert (
        "training continues without logs" in capsys.readouterr().out and (tmp_path / "model" / "metrics.json").exists()
    )


def test_tensorboard_is_imported_in_functions_only():
    lines = Path(tensorboard.__file__).read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith(("import tensorboard", "from tensorboard"))]


@pytest.mark.slow
def test_no_tensorboard_imports_nothing_of_it(sample, tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import train_model_modern
flags = ["--model-dir", sys.argv[2], "--no-tensorboard", "--quiet", "--epochs", "2", "--folds", "1"]
assert train_model_modern.main([sys.argv[1], *flags]) == 0
assert not [name for name in sys.modules if name.startswith("tensorboard.")]
"""
    subprocess.run([sys.executable, "-c", program, str(sample(60)), str(tmp_path / "model")], check=True)


# What TensorBoard says of whole runs: of one network, and of several folds


RUNS = {
    "one network": ("--tensorboard", "--epochs", "20"),
    "folds": ("--tensorboard", "--epochs", "20", "--folds", "3", "--architecture", "deep"),
}


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    """The address of a TensorBoard of both runs, and their model directories by the first part of their names."""
    from tensorboard import default, program

    logs = tmp_path_factory.mktemp("logs")
    for name, flags in RUNS.items():
        (logs / name).symlink_to(trained(*flags, rows=150) / "logs", target_is_directory=True)
    board = program.TensorBoard(default.get_plugins())
    board.configure(logdir=str(logs), host="127.0.0.1", port=0, load_fast="false", reload_interval=0.5)
    address = board.launch().rstrip("/")
    for _ in range(240):
        if len(json.loads(urllib.request.urlopen(f"{address}/data/runs").read())) == 4:
            return address
        time.sleep(0.25)
    raise TimeoutError("TensorBoard has found no runs")


@pytest.fixture(params=RUNS)
def model_dir(request, trained):
    return trained(*RUNS[request.param], rows=150)


@pytest.fixture
def run_of(request, model_dir):
    """The name of a run, as TensorBoard has it."""
    (name,) = os.listdir(model_dir / "logs")
    return f"{request.node.callspec.params['model_dir']}/{name}"


def get(server, path, **values):
    return urllib.request.urlopen(f"{server}/data/{path}?{urllib.parse.urlencode(values)}").read()


def ask(server, path, **values):
    return json.loads(get(server, path, **values))


def test_scalars(server, model_dir, run_of):
    metrics, tags = metrics_of(model_dir), ask(server, "plugin/scalars/tags")
    for part in ("train", "validation"):
        assert {"epoch/loss", "epoch/accuracy", "epoch/precision", "epoch/recall"} <= set(tags[f"{run_of}/{part}"])
        for tag in tags[f"{run_of}/{part}"]:
            points = ask(server, "plugin/scalars/scalars", run=f"{run_of}/{part}", tag=tag)
            assert points and all(math.isfinite(value) for _, _, value in points)
            if tag == "epoch/auc":
                assert points[0][1] == 1 and all(0.5 < value <= 1 for _, _, value in points)
            elif tag.startswith("epoch/"):
                assert [step for _, step, _ in points] == list(range(1, metrics["epochs"] + 1))
    assert {"epoch/learning_rate", "speed/rows_per_second", "speed/cpu_share", "speed/resident_megabytes"} <= set(
        tags[f"{run_of}/train"]
    )
    for name in ("accuracy", "log_loss", "roc_auc"):
        ((_, _, value),) = ask(server, "plugin/scalars/scalars", run=f"{run_of}/validation", tag=f"test/{name}")
        assert value == pytest.approx(metrics["test"][name], rel=1e-5)
    assert ("folds/lowest_loss" in tags[f"{run_of}/validation"]) is (metrics["settings"]["folds"] > 1)


def test_histograms_of_all_variables_and_activations(server, model_dir, run_of):
    metrics = metrics_of(model_dir)
    settings = metrics["settings"]
    tags = set(ask(server, "plugin/histograms/tags")[f"{run_of}/train"])
    hidden = range(1, 1 + len(train_model_modern.ARCHITECTURES[settings["architecture"]].units))
    layers = {f"hidden_{number}": ("weights", "bias") for number in hidden}
    layers |= {f"normalization_{number}": ("gamma", "beta", "mean", "variance") for number in hidden}
    layers |= {"from_hidden": ("weights", "bias"), "from_inputs": ("weights",), "logit": ()}
    assert tags == {f"layers/{layer}/{kind}" for layer, kinds in layers.items() for kind in (*kinds, "activations")}
    for tag in tags:
        steps = [entry[1] for entry in ask(server, "plugin/histograms/histograms", run=f"{run_of}/train", tag=tag)]
        assert steps == sorted(steps) and steps[0] == 1 and steps[-1] == metrics["epochs"]
        assert settings["folds"] > 1 or metrics["best_epoch"] in steps


def test_graphs(server, model_dir, run_of):
    run = f"{run_of}/train"
    info = ask(server, "plugin/graphs/info")[run]
    assert info["run_graph"] and info["tags"]["keras"]["conceptual_graph"] and info["tags"]["training_step"]["op_graph"]
    forward = get(server, "plugin/graphs/graph", run=run, conceptual="false").decode()
    folds = metrics_of(model_dir)["settings"]["folds"]
    assert 20 < forward.count("\nnode {") < 200 * (1 + folds) and "_output_shapes" in forward
    names = re.findall(r'\n  name: "([^"]+)"', forward)
    # The boxes: the lookup of categories, the scaled numbers, their encoding, the layers of the network, the output.
    top = {name.partition("/")[0] for name in names if "/" in name}
    network = ["row_encoding", "network"] if folds == 1 else ["fold_1_encoding", "fold_1"]
    assert {"scaling", network[0], "hidden_1", "normalization_1", "from_hidden", "from_inputs", "logit"} <= top, top
    assert len(names) == len(set(names)) and "NoOp" not in names
    assert not {"Sub", "Mul", "IsNan", "SelectV2", "Const", "Concat", network[1]} & top
    assert {"keyboard_activity", "foreground_app"} <= set(names)
    used = set(re.findall(r'\n  input: "\^?([^":]+)', forward))
    assert used < set(names) and 'input: "^' not in forward
    step = get(server, "plugin/graphs/graph", run=run, tag="training_step", conceptual="false").decode()
    assert all(f'name: "{scope}/' in step for scope in ("forward", "backward", "update", "metrics"))
    layers = get(server, "plugin/graphs/graph", run=run, tag="keras", conceptual="true").decode()
    names = set(re.findall(r'\n  name: "([^"]+)"', layers))
    assert {f"productivity/{name}" for name in ("probability", "scaling/numbers", f"{network[1]}/hidden_1")} <= names
    ends = [layers.count(f'input: "productivity/{name}"') for name in ("foreground_app", "mouse_activity")]
    assert set(re.findall(r'\n  input: "([^"]+)', layers)) < names and all(ends)


def test_precision_recall_curves(server, run_of):
    run = f"{run_of}/validation"
    assert set(ask(server, "plugin/pr_curves/tags")[run]) == {"pr_curve/validation", "pr_curve/test"}
    (curve,) = ask(server, "plugin/pr_curves/pr_curves", run=run, tag="pr_curve/test")[run]
    assert len(curve["precision"]) == len(curve["recall"]) > 50


def post(server, path, **body):
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{server}/data/{path}", json.dumps(body).encode(), headers)
    return json.loads(urllib.request.urlopen(request).read())


def test_hparams(server, model_dir, run_of):
    metrics, experiment = metrics_of(model_dir), post(server, "plugin/hparams/experiment")
    shown = [entry["name"] for entry in experiment["hparamInfos"]]
    assert set(shown[:5]) == {"data", "architecture", "folds", "learning_rate", "seed"}
    assert not {"quiet", "model_dir", "device", "tensorboard", "label"} & set(shown)
    tags = [entry["name"]["tag"] for entry in experiment["metricInfos"]]
    assert tags[:5] == ["validation/loss", "validation/accuracy", "test/accuracy", "test/roc_auc", "test/log_loss"]
    wanted = [{"metric": entry["name"]} for entry in experiment["metricInfos"]]
    body = {"startIndex": 0, "sliceSize": 9, "colParams": wanted, "allowedStatuses": ["STATUS_SUCCESS"]}
    groups = post(server, "plugin/hparams/session_groups", **body)["sessionGroups"]
    group = {group["name"]: group for group in groups}[run_of.partition("/")[2]]
    assert group["hparams"]["data"] == "HARVEST" and "_HARVEST_" in run_of
    assert group["hparams"]["architecture"] == metrics["settings"]["architecture"]
    values = {entry["name"]["tag"]: entry["value"] for entry in group["metricValues"]}
    assert values["test/accuracy"] == pytest.approx(metrics["test"]["accuracy"], rel=1e-5)


def test_texts(server, model_dir, run_of):
    run = f"{run_of}/train"
    assert set(ask(server, "plugin/text/tags")[run]) == {"data", "settings", "report", "calibration"}
    assert "rows" in ask(server, "plugin/text/text", run=run, tag="report")[0]["text"]
    (true_negative, false_positive), _ = metrics_of(model_dir)["test"]["confusion"]
    calibration = ask(server, "plugin/text/text", run=run, tag="calibration")[0]["text"]
    assert re.search(rf"label 0\s+{true_negative}\s+{false_positive}\b", calibration) and "90 to 100%" in calibration


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed: the charts were not looked at")
@pytest.mark.parametrize(
    "tab", ["timeseries", "scalars", "graphs", "distributions", "histograms", "text", "pr_curves", "hparams"]
)
def test_the_tabs_are_drawn(tf, server, tmp_path, tab):
    ARTIFACTS.mkdir(exist_ok=True)
    target = ARTIFACTS / f"{tab}.png"
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --window-size=1400,900 --virtual-time-budget=15000"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path}", f"--screenshot={target}", f"{server}/#{tab}"]
    subprocess.run(command, capture_output=True, timeout=120)
    assert target.exists() and share_drawn(tf, target) > 0.01


def share_drawn(tf, path):
    """The share of pixels right of the menu and below the title that are not of the commonest colour."""
    pixels = tf.io.decode_png(path.read_bytes(), channels=3).numpy()[110:, 330:].reshape(-1, 3).astype(int)
    colours = pixels[:, 0] * 65_536 + pixels[:, 1] * 256 + pixels[:, 2]
    _, counts = np.unique(colours, return_counts=True)
    return 1 - counts.max() / len(colours)


# Profiles, and histograms of interrupted runs


@pytest.mark.slow
def test_profile_marks_steps(train, capsys):
    folder = train("--tensorboard", "--profile", "--epochs", "14", "--no-quiet", rows=60)
    assert ("pip install xprof" in capsys.readouterr().out) is not bool(metadata_version("xprof"))
    (trace,) = folder.glob("logs/*/train/plugins/profile/*/*.xplane.pb")
    assert b"step_num" in trace.read_bytes()
    train("--profile", "--no-tensorboard", code=2)


@pytest.mark.slow
def test_profiles_are_shown_by_xprof(tmp_path):
    pytest.importorskip("xprof.convert.raw_to_tool_data", reason="the package xprof is not installed")
    script, flags = str(ROOT / "train_model_modern.py"), ["--model-dir", str(tmp_path), "--profile", "--epochs", "20"]
    command = [sys.executable, script, str(write_rows(tmp_path / "HARVEST.CSV", 150)), *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment_of_a_user())
    assert done.returncode == 0 and "a profile shows steps of compiled programs only" in " ".join(done.stdout.split())
    (profile,) = tmp_path.glob("logs/*/train/plugins/profile/*/*.xplane.pb")
    show = "import sys, xprof.convert.raw_to_tool_data as r; "
    show += "sys.stdout.buffer.write(r.xspace_to_tool_data([sys.argv[1]], sys.argv[2], {})[0])"
    found = {}
    for tool in ("overview_page", "memory_profile", "framework_op_stats"):
        command = [sys.executable, "-c", show, str(profile), tool]
        found[tool] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    steps = found["overview_page"][1]
    assert len(steps["rows"]) >= 5 and float(steps["p"]["steptime_ms_average"]) > 0
    allocators = found["memory_profile"]["memoryProfilePerAllocator"].values()
    assert any(len(allocator["sampledTimelineSnapshots"]) > 10 for allocator in allocators)


@pytest.mark.slow
def test_histograms_are_written_while_it_trains_and_once_when_it_is_resumed(train, monkeypatch):
    offer = resume.ResumeState.offer

    def stopping(self, now=False):
        offer(self, now)
        if not now:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    def steps():
        (folder,) = (model / "logs").iterdir()
        return [step for step, _ in events_of(folder)["layers/from_hidden/bias"]]

    with monkeypatch.context() as patch:
        patch.setattr(resume.ResumeState, "offer", stopping)
        model = train("--tensorboard", "--folds", "auto", "--epochs", "60", rows=100, code=143)
    before = steps()
    assert before[0] == 1 and len(before) > 3
    assert train_model_modern.main(["--model-dir", str(model), "--resume", "--quiet"]) == 0
    whole = steps()
    assert whole == sorted(set(whole)) and whole[: len(before)] == before
    assert whole[-1] == metrics_of(model)["epochs"] and {1, *range(6, 61, 6)} <= set(whole)
