"""Where a run trains: a trial on two logical CPU devices, one of them slowed, in place of a CPU and a GPU."""

import json
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

import train_model_modern as modern

CPU, GPU = modern.Device("cpu", "EPYC"), modern.Device("gpu", "NVIDIA L4", (8, 9), place="GPU:0")

PROGRAM = """
import json, os, signal, sys, time
sys.path.insert(0, {root!r})
import train_model_modern as modern

modern.prepare_environment(True, True)
tf = modern.import_tensorflow()
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
first, second = modern.Device("cpu", "first"), modern.Device("gpu", "second", (7, 0), place="CPU:1")
build_program, offer, found, slow, places = modern.build_program, modern.StateFile.offer, [], "", []


def slowed(plan, encoding):
    program = build_program(plan, encoding)

    def call(*arguments):
        if plan.place == slow:
            time.sleep(0.1)
        state, *records = program(*arguments)
        assert {{value.device[-5:] for value in (*state[:4], *records)}} == {{plan.place}}, state.trained.device
        assert arguments[0].scaled.device.endswith(plan.place)
        if slow == "broken" and plan.place == "CPU:1":
            raise tf.errors.InternalError(None, None, "libdevice not found\\nmore")
        places.append(plan.place)
        return state, *records

    call.get_concrete_function = program.get_concrete_function
    return call


def train(folder, which, slower="", *flags):
    global found, slow
    found, slow, places[:] = which, slower, []
    short = [] if "--resume" in flags else ["--folds", "3", "--epochs", "30", "--no-tensorboard", "--no-checkpoints"]
    code = modern.main([sys.argv[1], "--model-dir", os.path.join(sys.argv[2], folder), *short, *flags])
    assert code in (0, 143), code
    return places[-1]


modern.build_program, modern.find_devices = slowed, lambda cpu_only: found
modern.TRIAL_SECONDS, modern.MEASURED_SECONDS = 0.0, 0.01
used = [
    train("first", [first]),
    train("slow second", [first, second], "CPU:1"),
    train("broken second", [first, second], "broken"),
    train("second", [second], "", "--xla"),
]


def stop_once(self, now=False):
    offer(self, now)
    if not now:
        modern.StateFile.offer = offer
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


modern.StateFile.offer = stop_once
used.append(train("slow first", [first, second], "CPU:0", "--xla"))
used.append(train("slow first", [first, second], "CPU:1", "--resume"))
print(json.dumps(used))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Where each of the runs above trained, and the folder of their models; "second" is slow when it is resumed."""
    folder = tmp_path_factory.mktemp("devices")
    modern.write_sample(folder / "rows.csv", 100, 1)
    command = [sys.executable, "-c", PROGRAM.format(root=str(ROOT)), str(folder / "rows.csv"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def results_of(folder):
    with zipfile.ZipFile(folder / modern.MODEL_FILE) as model:
        return model.read("model.weights.h5"), (folder / modern.PREDICTIONS_FILE).read_bytes()


def read(folder, name):
    metrics = json.loads((folder / name / modern.METRICS_FILE).read_text())
    settings = metrics["settings"]
    return metrics, settings["device"], settings["reasons"]["device"], settings["precision"]


def test_the_quicker_device_trains_to_the_bits_of_the_same_device_alone(trained):
    folder, printed = trained
    assert json.loads(printed.splitlines()[-1]) == ["CPU:0", "CPU:0", "CPU:0", "CPU:1", "CPU:1", "CPU:1"]
    for alone, chosen in (("first", "slow second"), ("first", "broken second"), ("second", "slow first")):
        assert results_of(folder / alone) == results_of(folder / chosen), chosen


def test_the_choice_is_told_with_both_times(trained):
    folder, printed = trained
    _, device, reason, precision = read(folder, "slow second")
    assert (device, precision) == ("first", "float32")
    assert modern.re.fullmatch(r"a step takes [\d,]+ us; [\d,]+ us on second", reason)
    assert f"Device     first ({reason})" in printed
    assert read(folder, "broken second")[2].endswith("us; second failed: libdevice not found")
    _, device, reason, precision = read(folder, "slow first")
    assert (device, reason, precision) == ("second", "that of the interrupted run", "float16")
    assert "Device     second (a step takes" in printed


def test_which_devices_are_tried():
    assert modern.choose_devices([CPU], False, "", 1e9) == ([CPU], "no GPU was found")
    assert modern.choose_devices([CPU], True, "", 1e9) == ([CPU], "--cpu-only")
    assert modern.choose_devices([CPU, GPU], False, "", 60.0).value == [CPU, GPU]
    short = modern.choose_devices([CPU, GPU], False, "", 3.0)
    assert short.value == [CPU] and "NVIDIA L4 is not tried" in short.reason
    assert modern.choose_devices([CPU, GPU], False, "cpu", 60.0).value == [CPU]
    assert modern.choose_devices([CPU, GPU], False, "gpu", 3.0).value == [GPU]
    with pytest.raises(modern.UserError, match="trained on a GPU, and none is found"):
        modern.choose_devices([CPU], False, "gpu", 60.0)
