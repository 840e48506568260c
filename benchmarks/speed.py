"""Measure the speed of training and of whole commands; the programs compared alternate within one run.

    make benchmark                                       # speed and accuracy, in a separate virtual environment
    python benchmarks/speed.py --part steps --against DIR   # compare training speed with another checkout
    python benchmarks/speed.py [--part steps precision commands epochs predict scale target large] [--repeats 5]

Prints medians with minimum and maximum, and writes all values, the versions, and the CPU to benchmarks/speed.json.
Libraries that are not installed are skipped with a message.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from one_run import Run, make_run, read, start_tensorflow, train, trainer

from harvest.data.sample import write_sample
from harvest.results.metrics import log_losses
from harvest.training.tensorflow_setup import cpu_description, metadata_version

STEPS = ((32, 100_000), (256, 100_000), (4_096, 1_000_000))  # batch size and rows of the table


def make_case(
    path: Path, batch_size: int, xla: bool, precision: str = "float32", architecture: str = "standard"
) -> Run:
    """Prepare a run on a CSV file as the command does, including compilation of the training program."""
    flags = ["--folds", 1, "--batch-size", batch_size, "--architecture", architecture, "--xla" if xla else "--no-xla"]
    return make_run(*read(path, *flags, "--no-early-stopping", "--no-reduce-lr"), precision)


def stock_model(keras: Any, width: int, architecture: str) -> Any:
    units, dropout = trainer.ARCHITECTURES[architecture]
    inputs = hidden = keras.Input((width,))
    for count in units:
        hidden = keras.layers.Dense(count, activation="relu")(hidden)
        hidden = keras.layers.BatchNormalization()(hidden)
        hidden = keras.layers.Dropout(dropout)(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    metrics = ["accuracy", keras.metrics.Precision(), keras.metrics.Recall()]
    model.compile(optimizer=keras.optimizers.AdamW(0.001), loss="binary_crossentropy", metrics=metrics)
    return model


def steps_child(rows: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Training speed in rows per second, alternating: with XLA, without, and stock model.fit on the same rows."""
    start_tensorflow()
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        write_sample(path, rows, 1)
        fast, slow = make_case(path, batch_size, True), make_case(path, batch_size, False)
    inputs, label = fast.encoded(fast.splits[0].train)
    model = stock_model(keras, inputs.shape[1], "standard")
    stock_rows = len(label) if batch_size > 64 else min(len(label), 20_000)
    model.fit(inputs[:stock_rows], label[:stock_rows], batch_size=batch_size, verbose=0)
    found: dict[str, list[float]] = {"xla": [], "no_xla": [], "stock": []}
    for _ in range(repeats):
        epochs = max(3, 300_000 // len(label))
        found["xla"].append(epochs * fast.plan.rows / train(fast, epochs))
        found["no_xla"].append(slow.plan.rows / train(slow, 1))
        started = time.perf_counter()
        model.fit(inputs[:stock_rows], label[:stock_rows], batch_size=batch_size, verbose=0)
        found["stock"].append(stock_rows / (time.perf_counter() - started))
    return {
        "rows_per_s": found,
        "compile_s": fast.compile_s,
        "trace_s": slow.compile_s,
        "inputs": inputs.shape[1],
    }


def precision_child(rows: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Training speed in rows per second of the three architectures in float32, bfloat16, and float16."""
    start_tensorflow()
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        write_sample(path, rows, 1)
        for architecture in trainer.ARCHITECTURES:
            precisions = ("float32", "bfloat16", "float16")
            cases = {name: make_case(path, batch_size, True, name, architecture) for name in precisions}
            found: dict[str, list[float]] = {precision: [] for precision in cases}
            for _ in range(repeats):
                for precision, case in cases.items():
                    found[precision].append(case.plan.rows / train(case, 1))
            result[architecture] = found
    return result


def target_child(rows: int) -> dict[str, Any]:
    """Seconds of training to the best validation log-loss of five epochs of stock model.fit at three batch sizes."""
    start_tensorflow()
    import keras

    from harvest.training.folds import FoldCallback

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        write_sample(path, rows, 1)
        run = make_case(path, 32, True)
    training, validation = (run.encoded(part) for part in run.splits[0][:2])
    stock = {}
    for size in (4_096, 256, 32):
        model = stock_model(keras, run.plan.width, "standard")
        started = time.perf_counter()
        model.fit(*training, batch_size=size, epochs=5, verbose=0)
        seconds = time.perf_counter() - started
        predicted = model.predict(validation[0], batch_size=65_536, verbose=0)[:, 0]
        stock[str(size)] = {"seconds": seconds, "log_loss": float(log_losses(validation[1], predicted).mean())}
    best = min(stock.values(), key=lambda result: result["log_loss"])
    fold = run.folds[0]

    class Reached(FoldCallback):
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.model.stop_training = fold.best_loss <= best["log_loss"]

    seconds = train(run, 100, (Reached(),))
    return {
        "stock": stock,
        "best": best,
        "ours": seconds,
        "compile_s": run.compile_s,
        "epochs": len(fold.history),
        "our_loss": fold.best_loss,
    }


def scale_child(rows: int) -> dict[str, Any]:
    """Seconds to read a file and to train one epoch (fastest of three), and peak memory in GB."""
    import resource

    start_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        write_sample(path, min(rows, 1_000_000), 1)
        if rows > 1_000_000:  # repeat the same million: simulating more takes minutes
            header, _, body = path.read_bytes().partition(b"\n")
            with open(path, "wb") as file:
                file.write(header + b"\n")
                for _ in range(rows // 1_000_000):
                    file.write(body)
            del body
        started = time.perf_counter()
        read(path)
        reading = time.perf_counter() - started
        run = make_case(path, 32, True)
    epochs = max(1, 300_000 // rows)
    seconds = [train(run, epochs) / epochs for _ in range(3)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "read_s": reading,
        "epoch_s": min(seconds),
        "microseconds_a_row": 1e6 * min(seconds) / len(run.splits[0].train),
        "peak_gb": peak,
    }


def child(part: str, *numbers: int, root: Path = ROOT) -> dict[str, Any]:
    """Run a measurement of the checkout `root` in a new process, because XLA reads its flags only once."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, str(root / "benchmarks" / "speed.py"), "--child", part, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{part} {numbers}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def against(other: Path, rows: int, batch_size: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Rows per second of this checkout and another one, alternating, each time in a new process."""
    found: dict[str, dict[str, list[float]]] = {"this": {}, "other": {}}
    for _ in range(repeats):
        for name, root in (("this", ROOT), ("other", other)):
            for kind, values in child("steps", rows, batch_size, 1, root=root)["rows_per_s"].items():
                found[name].setdefault(kind, []).extend(values)
    return found


PATIENCE = 90  # seconds after which a library that has not reached the target log-loss is stopped


def command_seconds(*arguments: Any, timeout: float | None = None) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    started = time.perf_counter()
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, *map(str, arguments)], check=True, capture_output=True, env=environment, timeout=timeout
        )
    return time.perf_counter() - started


PEER = """
import sys, time
sys.path.insert(0, {benchmarks!r})
import numpy as np
from one_run import read, start_tensorflow
from harvest.data.splits import split_rows
from harvest.results.metrics import log_losses
_, table = read(sys.argv[1])
split = split_rows(table.label, "random", 42)
numbers = np.stack([table.numbers(column.name) for column in table.of_kind("number")], axis=1)
numbers = np.nan_to_num(np.sign(numbers) * np.log1p(np.abs(numbers)))
numbers = (numbers - numbers[split.train].mean(axis=0)) / numbers[split.train].std(axis=0)
codes = [table.codes(column.name) for column in table.of_kind("category")]
one_hot = [np.eye(values.max() + 1, dtype=np.float32)[values] for values in codes]
inputs = np.concatenate([numbers.astype(np.float32), *one_hot], axis=1)
x, vx = (inputs[part] for part in split[:2])
y, vy = (table.label[part] for part in split[:2])
"""
TORCH = """
import torch
torch.manual_seed(1)
layers = []
for i, o in ((x.shape[1], 10), (10, 10)):
    layers += [torch.nn.Linear(i, o), torch.nn.ReLU(), torch.nn.BatchNorm1d(o), torch.nn.Dropout(0.2)]
model = torch.nn.Sequential(*layers, torch.nn.Linear(10, 1))
optimizer = torch.optim.AdamW(model.parameters(), 0.001)
x, y, vx, vy = map(torch.tensor, (x, y, vx, vy))
for epoch in range(1000):
    model.train()
    for rows in torch.randperm(len(x)).split(BATCH):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(model(x[rows])[:, 0], y[rows]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        if torch.nn.functional.binary_cross_entropy_with_logits(model(vx)[:, 0], vy) <= float(sys.argv[2]):
            break
"""
SKLEARN = """
from sklearn.neural_network import MLPClassifier
model = MLPClassifier((10, 10), batch_size=BATCH)
for epoch in range(1000):
    model.partial_fit(x, y, classes=[0, 1])
    if log_losses(vy, model.predict_proba(vx)[:, 1]).mean() <= float(sys.argv[2]):
        break
"""
KERAS = """
start_tensorflow()
import keras, speed
model = speed.stock_model(keras, x.shape[1], "standard")
for epoch in range(1000):
    model.fit(x, y, batch_size=BATCH, verbose=0)
    if log_losses(vy, model.predict(vx, batch_size=65536, verbose=0)[:, 0]).mean() <= float(sys.argv[2]):
        break
"""


def large(rows: int, repeats: int) -> dict[str, Any]:
    """Seconds of whole commands on many rows, from the CSV file to the validation log-loss of five stock epochs."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        path, folder = Path(name) / "rows.csv", Path(name) / "model"
        write_sample(path, rows, 1)
        setup = PEER.format(benchmarks=str(ROOT / "benchmarks"))
        programs = {f"stock Keras, batch {size}": KERAS.replace("BATCH", str(size)) for size in (256, 4_096)}
        programs |= {
            "PyTorch, batch 4096": TORCH.replace("BATCH", "4096"),
            "scikit-learn MLP, batch 4096": SKLEARN.replace("BATCH", "4096"),
        }
        five = setup + KERAS.replace("BATCH", "256").replace("range(1000)", "range(5)").replace(
            "        break", "        pass"
        )
        five += "print(log_losses(vy, model.predict(vx, batch_size=65536, verbose=0)[:, 0]).mean())"
        done = subprocess.run([sys.executable, "-c", five, str(path), "0"], capture_output=True, text=True, check=True)
        target = float(done.stdout.split()[-1])
        times: dict[str, list[float]] = {}
        for _ in range(repeats):
            times.setdefault("train_model_modern.py, all defaults, to its end", []).append(
                command_seconds(ROOT / "train_model_modern.py", path, "--model-dir", folder, "--no-checkpoints")
            )
            one = command_seconds(
                ROOT / "train_model_modern.py",
                path,
                "--model-dir",
                Path(name) / "one",
                "--no-checkpoints",
                "--epochs",
                1,
            )
            times.setdefault("train_model_modern.py --epochs 1", []).append(one)
            for label, program in programs.items():
                try:
                    times.setdefault(label, []).append(
                        command_seconds("-c", setup + program, path, target, timeout=PATIENCE)
                    )
                except subprocess.CalledProcessError as error:
                    print(f"skipped {label}: {error.stderr.decode().splitlines()[-1]}")
                    times.pop(label)
            programs = {label: program for label, program in programs.items() if label in times}
        log = json.loads((folder / "metrics.json").read_text())
        result = {
            "target_log_loss": target,
            "our_test_log_loss": log["test"]["log_loss"],
            "our_epochs": log["epochs"],
            "seconds": times,
        }
    return result


def commands(repeats: int) -> dict[str, list[float]]:
    """Seconds of whole commands on 110, 500, and 100,000 rows, alternating."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        path, folder = Path(name) / "rows.csv", Path(name) / "model"
        write_sample(path, 110, 1)
        five = Path(name) / "500.csv"
        write_sample(five, 500, 1)
        many = Path(name) / "100000.csv"
        write_sample(many, 100_000, 1)
        modern, basic = ROOT / "train_model_modern.py", ROOT / "train_model.py"
        cases = {
            "import tensorflow": ("-c", "import tensorflow"),
            "train_model_modern.py, 110 rows": (modern, path, "--model-dir", folder),
            "the same, --no-tensorboard": (modern, path, "--model-dir", folder, "--no-tensorboard"),
            "the same, --no-checkpoints": (modern, path, "--model-dir", folder, "--no-checkpoints"),
            "train_model.py, 110 rows": (basic, path, "--model-dir", folder),
            "train_model_modern.py, 500 rows": (modern, five, "--model-dir", folder),
            "the same, --folds 10": (modern, five, "--model-dir", folder, "--folds", 10),
            "train_model_modern.py, 100 000 rows": (modern, many, "--model-dir", folder),
            "100 000 rows, --no-tensorboard": (modern, many, "--model-dir", folder, "--no-tensorboard"),
            "100 000 rows, --folds 10": (modern, many, "--model-dir", folder, "--folds", 10),
        }
        for _ in range(repeats):
            for label, case in cases.items():
                found.setdefault(label, []).append(command_seconds(*case))
    return found


def epoch_cost(repeats: int) -> dict[str, list[float]]:
    """Milliseconds per epoch in addition to its steps, computed from epochs of 9 and 88 steps with all logs."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rows in (100, 1_000):
            write_sample(folder / f"{rows}.csv", rows, 1)
        for _ in range(repeats):
            for flag in ("--xla", "--no-xla"):
                measured = []
                for rows in (100, 1_000):
                    command_seconds(
                        ROOT / "train_model_modern.py",
                        folder / f"{rows}.csv",
                        "--model-dir",
                        folder,
                        "--no-early-stopping",
                        "--batch-size",
                        8,
                        flag,
                    )
                    metrics = json.loads((folder / "metrics.json").read_text())
                    measured.append(
                        (metrics["timing"]["train_s"] / metrics["epochs"], -(-metrics["rows"]["train"] // 8))
                    )
                (short, few), (long, many) = measured
                found.setdefault(flag, []).append(1_000 * (short - few * (long - short) / (many - few)))
    return found


def predictions(repeats: int) -> dict[str, list[float]]:
    """Seconds of predict.py beyond those for 500 rows, and peak memory in MB, for 100,000 and 1,000,000 rows."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rows in (500, 100_000, 1_000_000):
            write_sample(folder / f"{rows}.csv", rows, 1)
        command_seconds(ROOT / "train_model_modern.py", folder / "500.csv", "--model-dir", folder, "--quiet")
        program = "import resource, runpy, sys; sys.argv.pop(0); sys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
        program += "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        program += "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        for _ in range(repeats):
            start = 0.0
            for rows in (500, 100_000, 1_000_000):
                command = [
                    sys.executable,
                    "-c",
                    program,
                    ROOT / "predict.py",
                    folder / f"{rows}.csv",
                    "--model-dir",
                    folder,
                    "--output",
                    folder / "out.csv",
                ]
                started = time.perf_counter()
                done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
                seconds = time.perf_counter() - started
                start = start or seconds
                found.setdefault(f"{rows:,} rows, seconds beyond those of 500", []).append(seconds - start)
                found.setdefault(f"{rows:,} rows, peak memory in MB", []).append(int(done.stdout.split()[-1]) / 1e3)
    return found


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part", nargs="+", default=["steps", "precision", "commands", "epochs", "predict", "scale", "target", "large"]
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare training speed with another checkout")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        part, *numbers = options.child
        print(
            json.dumps(
                {"steps": steps_child, "precision": precision_child, "target": target_child, "scale": scale_child}[
                    part
                ](*map(int, numbers))
            )
        )
        return
    if options.against:
        print("| batch, rows | | this checkout, rows/s | other checkout, rows/s | this / other |\n|-|-|-|-|-|")
        for batch_size, rows in STEPS:
            found = against(options.against.resolve(), rows, batch_size, options.repeats)
            for kind, values in found["this"].items():
                others = found["other"][kind]
                ratio = statistics.median(values) / statistics.median(others)
                cells = [kind, spread(values, ",.0f"), spread(others, ",.0f"), f"{ratio:.2f}"]
                print(f"| {batch_size}, {rows:,} | {' | '.join(cells)} |", flush=True)
        return
    path = ROOT / "benchmarks" / "speed.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = {
        "cpu": cpu_description()[0],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    results["machine"] |= {
        name: metadata_version(name) for name in ("tensorflow", "keras", "numpy", "torch", "scikit-learn")
    }
    if "steps" in options.part:
        print(
            "| batch, rows | with XLA, rows/s | without XLA | stock model.fit | XLA / stock | without XLA / stock |\n"
            "|-|-|-|-|-|-|"
        )
        for batch_size, rows in STEPS:
            found = child("steps", rows, batch_size, options.repeats)
            results[f"steps, batch {batch_size}"] = found
            values = found["rows_per_s"]
            medians = {name: statistics.median(part) for name, part in values.items()}
            cells = [spread(values[name], ",.0f") for name in ("xla", "no_xla", "stock")]
            ratios = [f"{medians[name] / medians['stock']:.1f}" for name in ("xla", "no_xla")]
            print(f"| {batch_size}, {rows:,} | {' | '.join(cells + ratios)} |", flush=True)
    if "precision" in options.part:
        print("\n| rows/s, batch | architecture | float32 | bfloat16 | float16 |\n|-|-|-|-|-|")
        for batch_size in (32, 256, 4_096):
            found = results[f"precision, batch {batch_size}"] = child("precision", 100_000, batch_size, options.repeats)
            for architecture, values in found.items():
                print(
                    f"| {batch_size} | {architecture} "
                    f"| {' | '.join(spread(part, ',.0f') for part in values.values())} |",
                    flush=True,
                )
    if "commands" in options.part:
        results["commands"] = commands(options.repeats)
        base = statistics.median(results["commands"]["import tensorflow"])
        print("\n| whole command | seconds | relative to the import |\n|-|-|-|")
        for label, values in results["commands"].items():
            print(f"| {label} | {spread(values, '.1f')} | {statistics.median(values) / base:.2f} |")
    if "epochs" in options.part:
        found = results["epochs"] = epoch_cost(options.repeats)
        print("\n| 100 rows, all logs and callbacks | ms per epoch in addition to its steps |\n|-|-|")
        for flag, values in found.items():
            print(f"| {flag} | {spread(values, '.2f')} |", flush=True)
    if "predict" in options.part:
        found = results["predict"] = predictions(options.repeats)
        print("\n| predict.py | |\n|-|-|")
        for label, values in found.items():
            print(f"| {label} | {spread(values, '.1f')} |", flush=True)
    if "scale" in options.part:
        print("\n| rows | reading, s | one epoch, s | us per row | peak memory, GB |\n|-|-|-|-|-|")
        for rows in (10_000, 100_000, 1_000_000, 10_000_000):
            found = results[f"scale, {rows}"] = child("scale", rows)
            print(
                f"| {rows:,} | {found['read_s']:.2f} | {found['epoch_s']:.3f} | {found['microseconds_a_row']:.3f} "
                f"| {found['peak_gb']:.2f} |",
                flush=True,
            )
    if "target" in options.part:
        found = results["target"] = child("target", 1_000_000)
        print("\n| 1,000,000 rows | seconds | validation log-loss |\n|-|-|-|")
        for size, result in found["stock"].items():
            print(
                f"| stock model.fit, batch {size}, five epochs | {result['seconds']:.1f} | {result['log_loss']:.4f} |"
            )
        print(
            f"| this trainer, {found['epochs']} epochs, plus {found['compile_s']:.1f} s for compilation "
            f"| {found['ours']:.1f} | {found['our_loss']:.4f} |",
            flush=True,
        )
    if "large" in options.part:
        found = results["large"] = large(1_000_000, max(1, options.repeats // 2))
        target, reached = found["target_log_loss"], found["our_test_log_loss"]
        print(
            f"\n1,000,000 rows, whole commands, to a validation log-loss of {target:.4f}; "
            f"this trainer runs to the end, to a test log-loss of {reached:.4f}"
        )
        print("\n| whole command | seconds |\n|-|-|")
        for label, values in found["seconds"].items():
            print(f"| {label} | {spread(values, '.1f') if min(values) < PATIENCE else f'not in {PATIENCE} s'} |")
    path.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
