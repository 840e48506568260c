"""The environment of TensorFlow, its import, and the devices it finds."""

import contextlib
import gc
import os
import platform
import sys
from importlib import metadata
from types import ModuleType
from typing import Any, NamedTuple

ADDRESS_SPACE = 2_200_000_000  # bytes that TensorFlow needs on two cores; with less it aborts without a message


class Device(NamedTuple):
    kind: str  # cpu or gpu
    name: str
    capability: tuple[int, int] = (0, 0)  # of a GPU
    flags: frozenset[str] = frozenset()  # of a CPU
    tf_name: str = "CPU:0"


def prepare_environment(cpu_only: bool, xla: bool, short: bool = False) -> None:
    """Set the variables that TensorFlow reads when it is imported. In a short run, faster compilation pays off."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its kernels are no faster at these widths, and print a notice
    # Keras must not depend on the user's settings: ~/.keras/keras.json is neither read nor written.
    for name in [name for name in os.environ if name.startswith("KERAS_") or name == "TF_USE_LEGACY_KERAS"]:
        del os.environ[name]
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["KERAS_HOME"] = os.devnull  # not a directory, so it contains no settings
    if cpu_only:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # An unknown XLA flag aborts the process, so flags are set only for the version they were measured with.
    if xla and "XLA_FLAGS" not in os.environ and metadata_version("tensorflow").startswith("2.21."):
        flags = "--xla_cpu_enable_fast_math=true --xla_cpu_prefer_vector_width=512"
        os.environ["XLA_FLAGS"] = flags + (" --xla_backend_optimization_level=1" if short else "")


def metadata_version(package: str) -> str:
    """The version of an installed package, without importing it; empty if it is not installed."""
    for name in (package, f"{package}-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return ""


def check_address_space() -> None:
    with contextlib.suppress(ImportError):  # Windows
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if 0 <= limit < ADDRESS_SPACE:
            needed = f"but TensorFlow needs {ADDRESS_SPACE >> 20:,} MB"
            raise MemoryError(f"the address space is limited to {limit >> 20:,} MB, {needed}")


def import_tensorflow() -> ModuleType:
    """Import TensorFlow without scikit-learn, which Keras would import (0.7 s) although nothing here uses it.

    The garbage collector never scans TensorFlow's hundreds of thousands of objects (saves 0.4 s).
    """
    check_address_space()
    modules: dict[str, Any] = sys.modules
    modules.setdefault("sklearn", None)  # its import then raises ImportError, which Keras handles
    gc.disable()
    try:
        import tensorflow
    finally:
        gc.freeze()
        gc.enable()
        if modules["sklearn"] is None:
            del modules["sklearn"]
    return tensorflow


def cpu_description(path: str = "/proc/cpuinfo") -> tuple[str, frozenset[str]]:
    """The name of the CPU and its feature flags."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            if key.strip() == "flags":
                return name, frozenset(value.split())
    return name, flags


def find_devices(cpu_only: bool) -> list[Device]:
    """The CPU and, unless cpu_only, the first GPU."""
    import tensorflow as tf

    name, flags = cpu_description()
    gpus = [] if cpu_only else tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus[:1]]
    return [Device("cpu", name, flags=flags)] + [
        Device("gpu", known.get("device_name", "GPU"), tuple(known.get("compute_capability", (0, 0))), tf_name="GPU:0")
        for known in details
    ]


def hide_gpus() -> None:
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # if an earlier run of this process uses a GPU
        tf.config.set_visible_devices([], "GPU")
