"""What is decided for the user, and the reasons that are shown."""

import math
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from small_table import small_table
from small_training import flags

from harvest.cli import UserError
from harvest.data.splits import make_splits
from harvest.decision import Decision
from harvest.training import config as module
from harvest.training.config import (
    SEGMENT_CELLS,
    SEGMENT_ROWS,
    Plan,
    choose_batch_size,
    choose_devices,
    choose_folds,
    choose_momentum,
    choose_patience,
    choose_precision,
    choose_xla,
    decide,
    make_plan,
    segment_steps,
    setup_tensorflow,
    with_device,
)
from harvest.training.tensorflow_setup import Device

CPU, GPU = Device("cpu", "EPYC"), Device("gpu", "NVIDIA L4", (8, 9), tf_name="GPU:0")


def config_of(rows=110, **changed):
    """The config, the plan of 20 inputs and the splits of a table whose classes alternate."""
    args = flags(**changed)
    label = np.arange(rows, dtype=np.float32) % 2
    folds = choose_folds(args, small_table(label))
    splits = make_splits(args, label, folds.value)
    config = with_device(decide(args, splits, small_table(label), folds), CPU, "no GPU was found", args.mixed_precision)
    return config, make_plan(config, splits, 20), splits


@pytest.mark.parametrize(
    ("given", "rows", "rarer", "folds", "reason"),
    [
        ({}, 110, 40, 10, "an ensemble is more accurate"),
        ({}, 30_000, 9_000, 10, "training 10 networks takes about"),
        ({}, 30, 6, 6, "lowered from 10: the rarer class has 6 rows"),
        ({}, 40_000, 9_000, 1, "gains little for 40,000 rows"),
        ({"xla": False}, 20_000, 9_000, 1, "s on one core; --folds 10 trains them anyway"),
        ({"xla": False, "epochs": 2}, 20_000, 9_000, 10, "s on one core"),
        ({"split": "time"}, 110, 40, 1, "the split is by time; --folds 5 uses five sliding windows"),
        ({"split": "time", "folds": 12}, 110, 6, 12, "as requested; training 12 networks takes about"),
        ({"folds": 1}, 110, 40, 1, "as requested"),
        ({"folds": 4}, 1_000_000, 40, 4, "as requested; training 4 networks takes about"),
        ({"folds": 20}, 110, 6, 6, "lowered from 20: the rarer class has 6 rows, and every fold needs one"),
    ],
)
def test_how_many_folds(given, rows, rarer, folds, reason):
    decision = choose_folds(flags(**{"folds": "auto", "xla": None} | given), small_table(np.arange(rows) < rarer))
    assert decision.value == folds and reason in decision.reason


def test_choices_follow_the_rows():
    sizes = {66: 8, 900: 8, 2_000: 16, 20_000: 32, 60_000: 256}
    assert {rows: choose_batch_size(None, rows).value for rows in sizes} == sizes
    assert choose_batch_size(None, 900).reason == (
        "fewer than 1,000 training rows: small batches take more steps per epoch"
    )
    assert choose_batch_size(500, 66) == (66, "all training rows")
    assert choose_batch_size(5, 66) == (5, "as requested")
    assert choose_patience(9) == (50, "450 steps") and choose_patience(2_000) == (10, "20,000 steps")
    assert choose_momentum(500) == (0.9, "500 steps to run: moving averages must converge fast")
    assert choose_momentum(50_000) == (0.99, "50,000 steps to run: moving averages have time to converge")


def test_xla_is_used_where_it_pays():
    assert choose_xla(None, False, 1_000, 32, 64) == (
        False,
        "saves up to 0.2 s in 1,000 steps; compiling typically takes 0.9 s",
    )
    assert choose_xla(None, False, 1_000_000, 32, 64).value is True
    assert choose_xla(True, False, 1, 32, 64) == (True, "as requested")
    assert choose_xla(False, True, 10**9, 32, 64) == (False, "as requested")
    assert choose_xla(None, True, 1, 32, 64) == (True, "a profile shows steps of compiled programs only")
    assert [choose_xla(None, False, 5_000, 8, inputs).value for inputs in (20, 1_000)] == [False, True]


DEVICES = {
    "volta": (Device("gpu", "V100", (7, 0)), "float16", "float16"),
    "ampere": (Device("gpu", "A100", (8, 0)), "float16", "float16"),
    "pascal": (Device("gpu", "P100", (6, 0)), "float32", "float32"),
    "new cpu": (Device("cpu", "EPYC", flags=frozenset({"avx512_bf16"})), "float32", "bfloat16"),
    "amx": (Device("cpu", "Xeon", flags=frozenset({"amx_bf16"})), "float32", "bfloat16"),
    "old cpu": (Device("cpu", "Core"), "float32", "float32"),
}


@pytest.mark.parametrize("name", DEVICES)
def test_precision_by_device(name):
    device, default, asked = DEVICES[name]
    assert choose_precision(None, device).value == default
    assert choose_precision(True, device).value == asked
    assert choose_precision(False, device) == ("float32", "as requested")
    assert device.name in choose_precision(True, Device(device.kind, device.name)).reason


def test_which_devices_are_tried():
    assert choose_devices([CPU], False, "", 1e9) == ([CPU], "no GPU was found")
    assert choose_devices([CPU], True, "", 1e9) == ([CPU], "--cpu-only")
    assert choose_devices([CPU, GPU], False, "", 60.0) == ([CPU, GPU], "")
    assert choose_devices([CPU, GPU], False, "", 3.0) == (
        [CPU],
        "NVIDIA L4 is not tried because training takes less than 10 s",
    )
    assert choose_devices([CPU, GPU], False, "cpu", 60.0) == ([CPU], "as in the interrupted run")
    assert choose_devices([CPU, GPU], False, "gpu", 3.0).value == [GPU]
    with pytest.raises(UserError, match="trained on a GPU, but no GPU was found"):
        choose_devices([CPU], False, "gpu", 60.0)


def test_the_config_of_a_small_table():
    config, plan, _ = config_of(folds="auto", xla=None)
    assert config.settings() == {
        "folds": 10,
        "batch_size": 8,
        "learning_rate": 0.006,
        "momentum": 0.9,
        "xla": True,
        "precision": "float32",
        "patience": 50,
        "device": "EPYC",
    }
    names = ["folds", "batch_size", "learning_rate", "patience", "momentum", "xla", "device", "precision"]
    assert list(config.reasons) == names
    assert config.reasons["patience"] == f"{50 * plan.steps:,} steps"
    assert config.reasons["momentum"].startswith(f"{150 * plan.steps:,} steps to run")
    assert config.steps == 10 * 150 * plan.segments * plan.steps
    assert (config.patience, config.plateau, config.weight_decay) == (50, 16, 0.1)


def test_flags_change_the_config():
    config, _, _ = config_of(early_stopping=False, reduce_lr=False, adamw=False, class_weight="balanced", profile=True)
    assert (config.patience, config.plateau, config.weight_decay, config.profile) == (0, 0, 0.0, True)
    assert config.settings()["patience"] == 50  # what it would be
    assert config.class_weights == (1.0, 1.0)
    label = np.float32([0] * 30 + [1] * 10)
    args = flags(class_weight="balanced")
    decided = decide(args, make_splits(args, label, 1), small_table(label), choose_folds(args, small_table(label)))
    share = label[make_splits(args, label, 1)[0].train].mean()  # what is trained on decides
    assert decided.class_weights == pytest.approx((0.5 / (1 - share), 0.5 / share))
    assert decided.offset == pytest.approx(math.log((1 - share) / share)) and config_of()[0].offset == 0
    assert decided.even_threshold == pytest.approx(share) and config_of()[0].even_threshold == 0.5
    assert config_of()[0].class_weights == (1.0, 1.0)


def test_the_hidden_dtype_follows_from_the_precision():
    config = config_of()[0]
    assert config.hidden_dtype == "float32"
    assert with_device(config, GPU, "", None).hidden_dtype == "mixed_float16"


def test_what_is_shown_of_the_plan():
    config, plan, _ = config_of(folds="auto")
    *lines, weights = config.explain(plan, "standard", (10, 10), balanced=True)
    what = "both have the same weight in training; the saved model corrects its probabilities for that"
    assert weights == f"Weights    balanced classes: {what}"
    assert lines == [
        "Device     EPYC (no GPU was found)",
        "Model      standard: 10 networks, each with 20 inputs, hidden units 10-10",
        "Batch      8 rows (fewer than 1,000 training rows: small batches take more steps per epoch)",
        "Rate       0.006 initially (default)",
        f"Patience   50 epochs ({config.reasons['patience']}) without a better validation loss",
        "XLA        off (as requested)",
        "Precision  float32 (mixed precision is no faster for layers this narrow on a CPU)",
    ]
    config, plan, _ = config_of(early_stopping=False)
    lines = config.explain(plan, "deep", (16, 12, 8), balanced=False)
    assert lines[1] == "Model      deep: 20 inputs, hidden units 16-12-8" and len(lines) == 7
    assert lines[4] == "Patience   none: trains for all epochs (--no-early-stopping)"


def test_the_plan():
    config, plan, splits = config_of()
    rows = len(splits[0].train)
    assert plan == Plan(20, 8, 1, math.ceil(rows / 8), 25, len(splits[0].val))
    assert plan.rows == 8 * plan.steps and plan.validation_segment == plan.validation_rows
    assert make_plan(replace(config, profile=True), splits, 20).epochs_per_call == 1
    assert make_plan(replace(config, epochs=3), splits, 20).epochs_per_call == 3
    assert make_plan(config, splits, 50_000).epochs_per_call == 20_000_000 // (50_000 * plan.rows)
    assert plan._replace(validation_rows=10**6).validation_segment == 4_096
    assert plan._replace(validation_rows=10**6, width=10**5).validation_segment == SEGMENT_CELLS // 10**5


@pytest.mark.parametrize("batch_size", [1, 8, 256, 5_000, 9_000, 28_000, 65_536])
@pytest.mark.parametrize("rows", [1, 20, 28_000, 70_001, 700_000])
def test_an_epoch_is_cut_into_segments_that_draw_few_rows_twice(rows, batch_size):
    steps = math.ceil(rows / batch_size)
    for width in (1, 63, 5_000):
        segments, in_each = segment_steps(rows, batch_size, width)
        assert steps <= segments * in_each <= 1.15 * steps
        cells = max(SEGMENT_CELLS, batch_size * width)
        assert in_each * batch_size <= max(SEGMENT_ROWS, batch_size) and in_each * batch_size * width <= cells


@pytest.fixture
def found(monkeypatch):
    """The devices that are found, and what was done to get there."""
    devices, calls = [CPU], []
    monkeypatch.setattr(module, "prepare_environment", lambda *args, **short: calls.append((*args, short["short"])))
    monkeypatch.setattr(module, "import_tensorflow", lambda: calls.append("import"))
    monkeypatch.setattr(module, "find_devices", lambda cpu_only: devices)
    monkeypatch.setattr(module, "hide_gpus", lambda: calls.append("hide"))
    monkeypatch.delenv("TF_CPU_ALLOCATOR_USE_BFC", raising=False)
    return devices, calls


def table(rows):
    return small_table(np.arange(rows) % 2, app=[place % 7 for place in range(rows)], idle=np.arange(rows, dtype=float))


def test_tensorflow_is_set_up_for_a_cpu(found):
    devices, calls = found
    config, used = setup_tensorflow(flags(), config_of()[0], table(110))
    assert used == devices and calls == [(True, False, True), "import", "hide"]
    assert config.device == CPU and config.reasons["device"] == "--cpu-only"
    assert "TF_CPU_ALLOCATOR_USE_BFC" not in os.environ


def test_a_gpu_is_tried_where_training_is_long(found, monkeypatch):
    devices, calls = found
    devices.append(GPU)
    args, long = flags(cpu_only=False, profile=True), replace(config_of(profile=True)[0], steps=10**8)
    monkeypatch.setenv("TF_CPU_ALLOCATOR_USE_BFC", "false")
    config, used = setup_tensorflow(args, long, table(110))
    assert used == [CPU, GPU] and calls == [(False, False, False), "import"]
    assert config.device == CPU and os.environ["TF_CPU_ALLOCATOR_USE_BFC"] == "false"
    config, used = setup_tensorflow(args, long, table(110), before="gpu")
    assert used == [GPU] and (config.device, config.precision) == (GPU, "float16")
    config, used = setup_tensorflow(args, config_of()[0], table(110))
    assert used == [CPU] and "is not tried" in config.reasons["device"] and calls[-1] == "hide"


def test_how_long_training_takes(found, monkeypatch):
    def seconds():
        setup_tensorflow(flags(), config, rows)
        return given[-1][-1]

    given = []
    monkeypatch.setattr(module, "choose_devices", lambda *args: given.append(args) or Decision([CPU], ""))
    config = replace(config_of(epochs=100)[0], xla=True, steps=10_000)
    rows = table(110)
    width = 1 + 4 + 7  # a number, bins of at least 20 rows, a category
    assert seconds() == pytest.approx(5_000 * (6e-6 + (3e-8 + 3e-9 * 8) * width))
    rows.columns[0] = replace(rows.columns[0], distinct=None)
    assert seconds() > 0


@pytest.mark.parametrize(
    ("rows", "numbers", "categories", "folds", "measured"),
    [  # seconds for 50 epochs and the start, on two cores of an EPYC
        (500, 4, 1, 10, 1.3),
        (500, 50, 1, 10, 2.1),
        (5_000, 50, 1, 1, 11.7),
        (5_000, 300, 1, 1, 24.0),
        (5_000, 1_500, 1, 1, 38.0),
        (5_000, 4, 40, 1, 155.0),
    ],
)
def test_the_cost_of_folds_follows_the_width(rows, numbers, categories, folds, measured):
    generator = np.random.default_rng(0)
    columns = {f"number{place}": generator.random(rows) for place in range(numbers)}
    cells = (np.arange(rows) * 7 % 250).tolist()
    table = small_table(np.arange(rows) % 2, **columns, **{f"app{place}": cells for place in range(categories)})
    decision = choose_folds(flags(folds="auto", xla=None), table)
    seconds = float(re.search(r"about ([\d.]+) s", decision.reason)[1])
    assert decision.value == folds and 0.45 < seconds / measured < 2.2
