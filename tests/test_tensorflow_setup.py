"""The environment of TensorFlow, its import and the devices."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, environment_of_a_user

from harvest.training import tensorflow_setup as module
from harvest.training.tensorflow_setup import (
    Device,
    check_address_space,
    cpu_description,
    find_devices,
    hide_gpus,
    import_tensorflow,
    metadata_version,
    prepare_environment,
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment that may be changed."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in ("XLA_FLAGS", "CUDA_VISIBLE_DEVICES"):
        os.environ.pop(name, None)
    return os.environ


def test_users_settings_of_keras_are_ignored(environment):
    environment |= {"KERAS_BACKEND": "jax", "KERAS_FLOATX": "float64", "TF_USE_LEGACY_KERAS": "1", "KERAS_HOME": "/x"}
    prepare_environment(cpu_only=False, xla=False)
    kept = {name: value for name, value in environment.items() if "KERAS" in name}
    assert kept == {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull}
    assert "XLA_FLAGS" not in environment and "CUDA_VISIBLE_DEVICES" not in environment


def test_what_the_user_has_set_for_tensorflow_stays(environment):
    environment |= {"XLA_FLAGS": "--mine", "TF_CPP_MIN_LOG_LEVEL": "0"}
    prepare_environment(cpu_only=True, xla=True)
    assert (environment["XLA_FLAGS"], environment["TF_CPP_MIN_LOG_LEVEL"]) == ("--mine", "0")
    assert environment["CUDA_VISIBLE_DEVICES"] == "-1"


@pytest.mark.parametrize("short", [True, False])
def test_flags_of_xla_are_set_for_the_version_they_were_measured_with(environment, monkeypatch, short):
    monkeypatch.setattr(module, "metadata_version", lambda package: "2.22.0")
    prepare_environment(cpu_only=True, xla=True, short=short)
    assert "XLA_FLAGS" not in environment
    monkeypatch.setattr(module, "metadata_version", lambda package: "2.21.1")
    prepare_environment(cpu_only=True, xla=True, short=short)
    assert "fast_math" in environment["XLA_FLAGS"]
    assert ("optimization_level=1" in environment["XLA_FLAGS"]) is short


def test_versions_of_packages():
    assert metadata_version("tensorflow").startswith("2.") and metadata_version("numpy")
    assert metadata_version("no-such-package-anywhere") == ""


def test_the_cpu_is_described_from_its_file(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: fpu avx512_bf16\nmodel name\t: another\n")
    assert cpu_description(str(path)) == ("A CPU: fast", frozenset({"fpu", "avx512_bf16"}))
    path.write_text("model name\t: Arm\n")
    assert cpu_description(str(path)) == ("Arm", frozenset())
    name, flags = cpu_description(str(tmp_path / "none"))
    assert isinstance(name, str) and flags == frozenset()


def test_devices(tf, monkeypatch):
    (cpu,) = find_devices(cpu_only=True)
    assert cpu == Device("cpu", *cpu_description()[:1], flags=cpu_description()[1]) and cpu.tf_name == "CPU:0"
    grown = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one", "two"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: grown.append(gpu))
    details = {"device_name": "NVIDIA L4", "compute_capability": (8, 9)}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details if gpu == "one" else {})
    assert find_devices(cpu_only=False)[1:] == [Device("gpu", "NVIDIA L4", (8, 9), tf_name="GPU:0")]
    assert grown == ["one", "two"]
    details.clear()
    assert find_devices(cpu_only=False)[1:] == [Device("gpu", "GPU", (0, 0), tf_name="GPU:0")]


def test_a_gpu_in_use_cannot_be_hidden(tf, monkeypatch):
    def refuse(devices, kind):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
    hide_gpus()


def test_scikit_learn_is_there_after_the_import(tf):
    assert import_tensorflow() is tf
    assert sys.modules.get("sklearn", "absent") is not None


def test_keras_does_not_import_scikit_learn():
    program = (
        "import sys; from harvest.training.tensorflow_setup import *; prepare_environment(True, False)\n"
        "import_tensorflow(); import keras; assert 'sklearn' not in sys.modules, 'imported'\n"
        "import gc; assert gc.isenabled() and gc.get_freeze_count() > 10_000"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment_of_a_user(), check=True, timeout=120)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
def test_too_little_address_space_is_found_before_the_import(monkeypatch):
    import resource

    check_address_space()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (10**9, 10**9))
    with pytest.raises(MemoryError, match="limited to 953 MB, but TensorFlow needs 2,098 MB"):
        import_tensorflow()
