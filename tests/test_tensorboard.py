"""What TensorBoard shows of real runs, asked over its HTTP interface and, with Chromium present, looked at."""

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import train_model_modern as modern

ARTIFACTS = Path(__file__).parent / "artifacts"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model directory with a plain run, and one with folds."""
    folder = tmp_path_factory.mktemp("logs")
    modern.write_sample(folder / "HARVEST.CSV", 150, 1)
    for flags in (["--folds", "1", "--epochs", "20"], ["--epochs", "20", "--folds", "5", "--architecture", "deep"]):
        assert (
            modern.main([str(folder / "HARVEST.CSV"), "--model-dir", str(folder / flags[-1]), "--quiet", *flags]) == 0
        )
    return folder


@pytest.fixture(scope="module", params=["20", "deep"], ids=["one net", "folds"])
def model_dir(request, folder):
    return folder / request.param


@pytest.fixture(scope="module")
def server(model_dir):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(model_dir / "logs"),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                if len(json.loads(urllib.request.urlopen(f"{address}/data/runs").read())) == 2:
                    break
            except OSError:
                pass
            time.sleep(0.25)
        yield address
    finally:
        process.terminate()
        process.wait()


def get(server, path, **values):
    return urllib.request.urlopen(f"{server}/data/{path}?{urllib.parse.urlencode(values)}").read()


def ask(server, path, **values):
    return json.loads(get(server, path, **values))


def run_name(model_dir):
    (name,) = os.listdir(model_dir / "logs")
    return name


def metrics_of(model_dir):
    return json.loads((model_dir / "metrics.json").read_text())


def test_scalars(server, model_dir):
    run, metrics = run_name(model_dir), metrics_of(model_dir)
    tags = ask(server, "plugin/scalars/tags")
    for part in ("train", "validation"):
        assert {"epoch/loss", "epoch/accuracy", "epoch/precision", "epoch/recall"} <= set(tags[f"{run}/{part}"])
        for tag in tags[f"{run}/{part}"]:
            points = ask(server, "plugin/scalars/scalars", run=f"{run}/{part}", tag=tag)
            assert points and all(math.isfinite(value) for _, _, value in points)
            if tag.startswith("epoch/"):
                assert [step for _, step, _ in points] == list(range(1, metrics["epochs"] + 1))
    assert {"epoch/learning_rate", "speed/rows_per_second", "speed/cpu_share", "speed/resident_megabytes"} <= set(
        tags[f"{run}/train"]
    )
    for name in ("accuracy", "log_loss", "roc_auc"):
        ((_, _, value),) = ask(server, "plugin/scalars/scalars", run=f"{run}/validation", tag=f"test/{name}")
        assert value == pytest.approx(metrics["test"][name], rel=1e-5)
    assert ("folds/lowest_loss" in tags[f"{run}/validation"]) is (metrics["settings"]["folds"] > 1)


def test_histograms_of_all_variables_and_activations(server, model_dir):
    run, metrics = run_name(model_dir), metrics_of(model_dir)
    tags = set(ask(server, "plugin/histograms/tags")[f"{run}/train"])
    hidden = range(1, 1 + len(modern.ARCHITECTURES[metrics["settings"]["architecture"]].units))
    layers = {f"hidden_{number}": ("weights", "bias") for number in hidden}
    layers |= {f"normalization_{number}": ("gamma", "beta", "mean", "variance") for number in hidden}
    layers |= {"from_hidden": ("weights", "bias"), "from_inputs": ("weights",)}
    assert tags == {f"layers/{layer}/{kind}" for layer, kinds in layers.items() for kind in (*kinds, "activations")}
    for tag in tags:
        steps = [entry[1] for entry in ask(server, "plugin/histograms/histograms", run=f"{run}/train", tag=tag)]
        assert (
            steps == sorted(steps)
            and steps[0] == 1
            and steps[-1] == metrics["epochs"]
            and (metrics["settings"]["folds"] > 1 or metrics["best_epoch"] in steps)
        )


def test_profile(folder, tmp_path):
    pytest.importorskip("xprof.convert.raw_to_tool_data", reason="the package xprof is not installed")
    command = [
        sys.executable,
        str(ROOT / "train_model_modern.py"),
        str(folder / "HARVEST.CSV"),
        "--model-dir",
        str(tmp_path),
        "--profile",
        "--epochs",
        "20",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "a profile shows only the steps" in done.stdout
    (profile,) = tmp_path.glob("logs/*/train/plugins/profile/*/*.xplane.pb")
    show = "import sys, xprof.convert.raw_to_tool_data as r; "
    show += "sys.stdout.buffer.write(r.xspace_to_tool_data([sys.argv[1]], sys.argv[2], {})[0])"
    found = {}
    for tool in ("overview_page", "memory_profile", "framework_op_stats"):
        found[tool] = json.loads(
            subprocess.run([sys.executable, "-c", show, str(profile), tool], capture_output=True, check=True).stdout
        )
    steps = found["overview_page"][1]
    assert len(steps["rows"]) >= 5 and float(steps["p"]["steptime_ms_average"]) > 0
    assert any(
        len(allocator["sampledTimelineSnapshots"]) > 10
        for allocator in found["memory_profile"]["memoryProfilePerAllocator"].values()
    )


def test_graphs(server, model_dir):
    run = run_name(model_dir)
    info = ask(server, "plugin/graphs/info")
    assert set(info) == {f"{run}/train"} and info[f"{run}/train"]["run_graph"]
    tags = info[f"{run}/train"]["tags"]
    assert tags["keras"]["conceptual_graph"] and tags["training_step"]["op_graph"]
    forward = get(server, "plugin/graphs/graph", run=f"{run}/train", conceptual="false").decode()
    most = 200 * (1 + metrics_of(model_dir)["settings"]["folds"])
    assert 20 < forward.count("\nnode {") < most and "_output_shapes" in forward
    names = re.findall(r'\n  name: "([^"]+)"', forward)
    root = "productivity_1" if metrics_of(model_dir)["settings"]["folds"] == 1 else "first_net_1"
    top = {name.removeprefix(f"{root}/").partition("/")[0] for name in names if name.startswith(root)}
    assert {"numbers", "categories"} < top and not {"Sub", "Mul", "IsNan", "SelectV2", "Const"} & top
    used = set(re.findall(r'\n  input: "\^?([^":]+)', forward))
    assert used < set(names) and sum(name.startswith(f"{root}/numbers/") for name in names) > 20
    step = get(server, "plugin/graphs/graph", run=f"{run}/train", tag="training_step", conceptual="false").decode()
    assert all(f'name: "{scope}/' in step for scope in ("forward", "backward", "update", "metrics"))
    layers = get(server, "plugin/graphs/graph", run=f"{run}/train", tag="keras", conceptual="true").decode()
    assert "hidden_1" in layers and "probability" in layers


def test_precision_recall_curves(server, model_dir):
    run = run_name(model_dir)
    assert set(ask(server, "plugin/pr_curves/tags")[f"{run}/validation"]) == {"pr_curve/validation", "pr_curve/test"}
    (curve,) = ask(server, "plugin/pr_curves/pr_curves", run=f"{run}/validation", tag="pr_curve/test")[
        f"{run}/validation"
    ]
    assert len(curve["precision"]) == len(curve["recall"]) > 50


def test_hparams_and_text(server, model_dir):
    run, metrics = run_name(model_dir), metrics_of(model_dir)
    request = urllib.request.Request(
        f"{server}/data/plugin/hparams/experiment", b"{}", {"content-type": "application/json"}
    )
    experiment = json.loads(urllib.request.urlopen(request).read())
    shown = [entry["name"] for entry in experiment["hparamInfos"]]
    assert shown[:5] == ["architecture", "batch_size", "folds", "learning_rate", "seed"]
    assert not {"quiet", "model_dir", "device", "tensorboard", "label"} & set(shown)
    tags = [entry["name"]["tag"] for entry in experiment["metricInfos"]]
    assert tags[:5] == ["validation/loss", "validation/accuracy", "test/accuracy", "test/roc_auc", "test/log_loss"]
    wanted = [{"metric": entry["name"]} for entry in experiment["metricInfos"]]
    body = json.dumps(
        {"startIndex": 0, "sliceSize": 9, "colParams": wanted, "allowedStatuses": ["STATUS_SUCCESS"]}
    ).encode()
    request = urllib.request.Request(
        f"{server}/data/plugin/hparams/session_groups", body, {"content-type": "application/json"}
    )
    (group,) = json.loads(urllib.request.urlopen(request).read())["sessionGroups"]
    assert group["name"] == run and group["hparams"]["architecture"] == metrics["settings"]["architecture"]
    values = {entry["name"]["tag"]: entry["value"] for entry in group["metricValues"]}
    assert values["test/accuracy"] == pytest.approx(metrics["test"]["accuracy"], rel=1e-5)
    assert set(ask(server, "plugin/text/tags")[f"{run}/train"]) == {"data", "settings", "report", "calibration"}
    assert "rows" in ask(server, "plugin/text/text", run=f"{run}/train", tag="report")[0]["text"]
    (true_negative, false_positive), _ = metrics_of(model_dir)["test"]["confusion"]
    calibration = ask(server, "plugin/text/text", run=f"{run}/train", tag="calibration")[0]["text"]
    assert re.search(rf"label 0\s+{true_negative}\s+{false_positive}\b", calibration) and "90 to 100 %" in calibration


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed: the charts were not looked at")
def test_the_tabs_are_drawn(tf, server, model_dir, tmp_path):
    ARTIFACTS.mkdir(exist_ok=True)
    for tab in ("timeseries", "scalars", "graphs", "distributions", "histograms", "text", "pr_curves", "hparams"):
        target = ARTIFACTS / f"{model_dir.name}_{tab}.png"
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        flags += "--disable-component-update --disable-sync"
        command = [
            CHROMIUM,
            *flags.split(),
            f"--user-data-dir={tmp_path / tab}",
            "--window-size=1400,900",
            "--virtual-time-budget=15000",
        ]
        subprocess.run([*command, f"--screenshot={target}", f"{server}/#{tab}"], capture_output=True, timeout=120)
        assert target.exists() and share_drawn(tf, target) > 0.01, tab


def share_drawn(tf, path):
    """The share of pixels right of the menu and below the title that are not of the commonest colour."""
    pixels = tf.io.decode_png(path.read_bytes(), channels=3).numpy()[110:, 330:].reshape(-1, 3).astype(int)
    colours = pixels[:, 0] * 65_536 + pixels[:, 1] * 256 + pixels[:, 2]
    _, counts = np.unique(colours, return_counts=True)
    return 1 - counts.max() / len(colours)


def test_two_runs_in_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    names = [modern.run_folder(tmp_path, "standard").name for _ in range(3)]
    assert names == ["20260101-000000_standard", "20260101-000000_standard_2", "20260101-000000_standard_3"]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "standard_folds10"),
        (["--architecture", "deep", "--seed", "7"], "deep_folds10_seed7"),
        (["--seed", "42", "--no-adamw", "--learning-rate", "0.00002"], "standard_folds10_learning_rate2e-05_no_adamw"),
        (["--split", "time", "--class-weight", "balanced"], "standard_folds10_class_weightbalanced_splittime"),
    ],
)
def test_a_run_is_called_by_what_differs(flags, name):
    found = modern.run_name(modern.parse_options(["rows.csv", *flags]), 10)
    assert found == name and modern.RUN_NAME.fullmatch(f"20260101-000000_{found}_2")
    assert not modern.RUN_NAME.fullmatch(f"20260101-000000_{found}/..")


def test_logs_that_cannot_be_written_do_not_stop_training(sample, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "logs").write_text("in the way")
    assert modern.main([str(sample(60)), "--model-dir", str(tmp_path / "model"), "--epochs", "3"]) == 0
    assert "training goes on without logs" in capsys.readouterr().out and (tmp_path / "model" / "metrics.json").exists()


def test_no_tensorboard_imports_nothing_of_it(sample, tmp_path):
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import train_model_modern
arguments = [sys.argv[2], "--model-dir", sys.argv[3], "--no-tensorboard", "--quiet", "--epochs", "2"]
assert train_model_modern.main(arguments) == 0
assert not [name for name in sys.modules if name.startswith("tensorboard.")]
"""
    root = Path(modern.__file__).parent
    subprocess.run([sys.executable, "-c", program, str(root), str(sample(60)), str(tmp_path / "model")], check=True)


def test_profile_marks_steps(sample, tmp_path, capsys):
    folder = tmp_path / "model"
    assert modern.main([str(sample(60)), "--model-dir", str(folder), "--epochs", "14", "--profile"]) == 0
    assert ("pip install xprof" in capsys.readouterr().out) is not bool(modern.metadata_version("xprof"))
    (trace,) = folder.glob("logs/*/train/plugins/profile/*/*.xplane.pb")
    content = trace.read_bytes()
    assert b"step_num" in content
    assert modern.main([str(sample(60)), "--model-dir", str(folder), "--profile", "--no-tensorboard"]) == 2


def test_histograms_are_written_while_it_trains_and_once_when_it_is_resumed(sample, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    def steps():
        found = []
        for path in sorted(tmp_path.glob("model/logs/*/train/events*"), key=os.path.getmtime):
            found += [
                event.step
                for event in EventFileLoader(str(path)).Load()
                if any(value.tag == "layers/from_hidden/bias" for value in event.summary.value)
            ]
        return found

    offer = modern.StateFile.offer

    def stopping(self, now=False):
        offer(self, now)
        if not now:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    monkeypatch.setattr(modern.StateFile, "offer", stopping)
    folder = str(tmp_path / "model")
    assert modern.main([str(sample(100)), "--model-dir", folder, "--quiet", "--epochs", "60"]) == 143
    monkeypatch.undo()
    interrupted = steps()
    assert interrupted[0] == 1 and len(interrupted) > 3
    assert modern.main(["--model-dir", folder, "--resume", "--quiet"]) == 0
    metrics, whole = json.loads((tmp_path / "model" / "metrics.json").read_text()), steps()
    assert whole == sorted(set(whole)) and whole[: len(interrupted)] == interrupted
    assert whole[-1] == metrics["epochs"] and metrics["best_epoch"] in whole
