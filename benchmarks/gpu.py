"""Compare an NVIDIA GPU with the CPU: results, speed, memory, the device that a run selects, --cpu-only, and --resume.

    python benchmarks/gpu.py              # on a machine with a GPU and requirements.txt installed; about four minutes
    python benchmarks/gpu.py --rehearse   # the same steps with the CPU instead of a GPU, to test this script

Needs no internet connection. Prints tables for docs/accuracy-and-speed.md; a part that fails does not stop the others.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from one_run import Run, make_run, read, start_tensorflow, train, trainer
from speed import stock_model

from harvest.data.sample import write_sample
from harvest.results.metrics import log_losses, sigmoid
from harvest.training.tensorflow_setup import Device, find_devices

ROWS = {500: 20, 20_000: 10, 1_000_000: 1}  # rows of a table: number of epochs before its results are compared
BATCHES = {32: 100_000, 256: 100_000, 4_096: 1_000_000, 65_536: 1_000_000}  # batch size, rows of the table
STOCK_STEPS = 1_000  # of stock model.fit at most, so that batches of 32 do not take minutes


def run_on(device: Device, path: Path, precision: str, xla: bool, *flags: object) -> Run:
    flags = ("--xla" if xla else "--no-xla", "--no-early-stopping", "--no-reduce-lr", *flags)
    return make_run(*read(path, *flags), precision, device)


def describe(gpu: Device) -> None:
    import keras
    import tensorflow as tf

    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        print("GPU       ", subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"GPU        nvidia-smi failed: {error}")
    build = tf.sysconfig.get_build_info()
    print(
        f"Versions   TensorFlow {tf.__version__}, Keras {keras.__version__}, CUDA {build.get('cuda_version', 'none')}"
    )
    print(f"Detected   {gpu.name}, compute capability {gpu.capability}\n")


def peak_memory(device: Device) -> float:
    """Peak memory that TensorFlow used on a GPU since the last call, in MB; NaN on a CPU."""
    import tensorflow as tf

    if device.kind == "cpu":
        return float("nan")
    peak = tf.config.experimental.get_memory_info(device.tf_name)["peak"] / 1e6
    tf.config.experimental.reset_memory_stats(device.tf_name)
    return peak


def compare_results(cpu: Device, gpu: Device, folder: Path) -> None:
    """Print results after the same epochs on both devices, on the GPU with and without XLA and mixed precision."""
    print("| rows | device | precision | XLA | test log-loss | accuracy | s/epoch | compilation, s | GPU memory, MB |")
    print("|-|-|-|-|-|-|-|-|-|")
    for rows, epochs in ROWS.items():
        for device, precision, xla in (
            (cpu, "float32", True),
            (gpu, "float32", True),
            (gpu, "float16", True),
            (gpu, "float32", False),
            (gpu, "float16", False),
        ):
            peak_memory(device)
            run = run_on(device, folder / f"{rows}.csv", precision, xla)
            seconds = train(run, epochs) / epochs
            trainer.postprocess(run.model.networks, run.predictor, run.folds, run.features, run.config)
            label, logits = trainer.logits_of(run.predictor, run.folds, run.features, "test")
            probability = sigmoid(logits)
            result = (
                f"{log_losses(label, probability).mean():.4f} | {((probability >= 0.5) == (label > 0.5)).mean():.3f}"
            )
            times = f"{seconds:.3f} | {run.compile_s:.1f} | {peak_memory(device):.0f}"
            print(f"| {rows:,} | {device.kind} | {precision} | {xla} | {result} | {times} |", flush=True)
    print()


def fit_seconds(model: Any, inputs: Any, label: Any, batch_size: int) -> float:
    started = time.perf_counter()
    model.fit(inputs, label, batch_size=batch_size, verbose=0)
    return time.perf_counter() - started


def compare_speed(cpu: Device, gpu: Device, folder: Path) -> None:
    """Print rows per second by batch size, medians of three: this trainer on both devices, model.fit on the GPU."""
    import keras
    import tensorflow as tf

    kinds = [(cpu, "float32"), (gpu, "float32"), (gpu, "float16")]
    print("| rows per second | CPU, float32 | GPU, float32 | GPU, float16 | model.fit, GPU |\n|-|-|-|-|-|")
    for batch_size, rows in BATCHES.items():
        path = folder / f"{rows}.csv"
        runs = [run_on(device, path, kind, True, "--folds", 1, "--batch-size", batch_size) for device, kind in kinds]
        inputs, label = runs[0].encoded(runs[0].splits[0].train[: STOCK_STEPS * batch_size])
        with tf.device(gpu.tf_name):
            model = stock_model(keras, inputs.shape[1], "standard")
            fit_seconds(model, inputs[: 2 * batch_size], label[: 2 * batch_size], batch_size)
            found: list[list[float]] = [[] for _ in (*kinds, model)]
            for _ in range(3):
                for run, values in zip(runs, found[:-1], strict=True):
                    values.append(run.plan.rows / train(run, 1))
                found[-1].append(len(label) / fit_seconds(model, inputs, label, batch_size))
        cells = [f"{sorted(values)[1]:,.0f}" for values in found]
        print(f"| batch {batch_size:,}, {rows:,} rows | {' | '.join(cells)} |", flush=True)
    print()


def command(*flags: object) -> list[str]:
    return [sys.executable, str(ROOT / "train_model_modern.py"), *map(str, flags)]


def chosen(path: Path, folder: Path, *flags: object) -> str:
    """Run the command; return its device with the reason, and its times."""
    done = subprocess.run(command(path, "--model-dir", folder, *flags), capture_output=True, text=True)
    if done.returncode:
        return f"exit code {done.returncode}: {done.stderr.strip()}"
    metrics = json.loads((folder / "metrics.json").read_bytes())
    timing, reasons = metrics["timing"], metrics["settings"].get("reasons", {})
    seconds = f"{timing['train_s']:.1f} s of training, {timing['total_s']:.1f} s in total"
    return f"{metrics['settings']['device']} ({reasons.get('device', '')}); {seconds}"


def check_choice(folder: Path) -> None:
    """Print the device that whole commands select and their times, for comparison also with --cpu-only."""
    for flags in ((), ("--batch-size", 65_536), ("--batch-size", 65_536, "--no-mixed-precision"), ("--cpu-only",)):
        words = " ".join(map(str, flags)) or "all defaults"
        found = chosen(folder / "1000000.csv", folder / "model", "--no-checkpoints", "--epochs", 40, *flags)
        print(f"1,000,000 rows, {words}: {found}", flush=True)
    print()


def check_resume(folder: Path) -> None:
    """Interrupt a run after it has saved its first state, and resume it."""
    model, flags = folder / "resumed", (folder / "1000000.csv", "--no-early-stopping", "--batch-size", 65_536)
    interrupted = command(*flags, "--epochs", 400, "--model-dir", model)
    process = subprocess.Popen(interrupted, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("epoch"):
            process.send_signal(signal.SIGTERM)
            break
    process.stdout.read()
    print(f"SIGTERM: exit code {process.wait()}: {process.stderr.read().strip() if process.stderr else ''}")
    print(f"--resume: {chosen(folder / '1000000.csv', model, '--resume')}")


def attempt(part: Callable[..., None], *arguments: Any) -> None:
    started = time.perf_counter()
    try:
        part(*arguments)
    except Exception:  # the figures of each part are useful without the others
        traceback.print_exc()
    print(f"({part.__name__}: {time.perf_counter() - started:.0f} s)\n", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="use the CPU instead of a GPU, with fewer rows")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    start_tensorflow(cpu_only=False)
    cpu, *gpus = find_devices(cpu_only=False)
    if not gpus and not options.rehearse:
        print("TensorFlow finds no GPU", file=sys.stderr)
        return 1
    if options.rehearse:
        ROWS.pop(1_000_000)
        BATCHES.update(dict.fromkeys((4_096, 65_536), 100_000))
    gpu = gpus[0] if gpus else cpu
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rows in {*ROWS, *BATCHES.values(), 1_000_000}:
            write_sample(folder / f"{rows}.csv", rows if not options.rehearse else min(rows, 100_000), 1)
        attempt(describe, gpu)
        attempt(compare_results, cpu, gpu, folder)
        attempt(compare_speed, cpu, gpu, folder)
        attempt(check_choice, folder)
        attempt(check_resume, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
