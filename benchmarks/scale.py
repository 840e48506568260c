"""Measure how training scales with the number of workers on this machine, and model it for more workers.

    python benchmarks/scale.py                       # 1, 10, and 50 million rows on 1, 2, and 4 workers
    python benchmarks/scale.py --rows 1000000        # fewer rows
    python benchmarks/scale.py --quality             # AUC of 1, 2, and 4 workers on 200,000 rows, 5 seeds
    python benchmarks/scale.py --model               # tables from benchmarks/scale.json, without measuring

Workers are local processes, each pinned to one core, so two cores are at most twice as fast as one. One worker is the
plain command on one core. Measurements are written to benchmarks/scale.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harvest.data.sample import write_sample

RESULTS = Path(__file__).with_name("scale.json")
EPOCHS = 5
AS_GOOD = 0.0005  # largest distance from the validation loss of one worker that counts as reached
COPIED_ROWS = 1_000_000  # larger files repeat this many rows


def write_rows(path: Path, rows: int, seed: int = 1) -> None:
    """Write simulated rows; beyond a million they repeat, which affects the model but not the cost."""
    write_sample(path, min(rows, COPIED_ROWS), seed)
    header, _, body = path.read_bytes().partition(b"\n")
    with path.open("wb") as file:
        file.write(header + b"\n")
        for _ in range(rows // min(rows, COPIED_ROWS)):
            file.write(body)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run_group(workers: int, folder: Path, arguments: list[str], pinned: bool = True) -> dict[str, Any]:
    """Run the command on a group; return metrics, validation losses, and the peak memory of each worker in MB."""
    cores = sorted(os.sched_getaffinity(0))
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    processes = []
    for rank in range(workers):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        own = {cores[rank % len(cores)]} if pinned else set(cores)
        processes.append(
            subprocess.Popen(
                [sys.executable, str(ROOT / "train_model_modern.py"), *arguments, "--model-dir", str(folder)],
                env=os.environ | {"TF_CONFIG": json.dumps(task)},
                stdout=subprocess.DEVNULL,
                preexec_fn=lambda own=own: os.sched_setaffinity(0, own),
            )
        )
    memory = []
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        memory.append(usage.ru_maxrss // 1024)
    if any(process.returncode for process in processes):
        raise SystemExit(f"a worker failed: {[process.returncode for process in processes]}")
    metrics = json.loads((folder / "metrics.json").read_text())
    return {"metrics": metrics, "memory_mb": memory, "losses": validation_losses(folder)}


def validation_losses(folder: Path) -> list[tuple[float, float]]:
    """Wall time and validation loss of each epoch, from TensorBoard's logs."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for path in folder.glob("logs/*/validation/events*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == "epoch/loss":
                    number = value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value
                    found.append((event.wall_time, float(number)))
    return sorted(found)


def measure(rows: int, workers: list[int], folder: Path) -> list[dict[str, Any]]:
    """Results for each number of workers on a file of `rows` rows."""
    path, lines, target = folder / "rows.csv", [], None
    write_rows(path, rows)
    for count in workers:
        where = folder / f"model_{count}"
        fixed = ["--folds", "1", "--epochs", str(EPOCHS), "--no-early-stopping", "--no-checkpoints"]
        result = run_group(count, where, [str(path), *fixed])
        timing, settings = result["metrics"]["timing"], result["metrics"]["settings"]
        losses = result["losses"]
        target = target if target is not None else min(loss for _, loss in losses)
        before = timing["total_s"] - timing["train_s"]
        reached = next((time - losses[0][0] for time, loss in losses if loss <= target + AS_GOOD), None)
        first = timing["train_s"] / EPOCHS
        lines.append(
            {
                "rows": rows,
                "workers": count,
                "train_rows_per_s": round(timing["rows_per_s"]),
                "load_s": round(timing["load_s"], 2),
                "train_s": round(timing["train_s"], 2),
                "total_s": round(timing["total_s"], 2),
                "to_loss_s": None if reached is None else round(before + first + reached, 2),
                "loss": round(min(loss for _, loss in losses), 5),
                "memory_mb": result["memory_mb"],
                "sync_every": settings.get("sync_every"),
                "sync_reason": settings["reasons"].get("sync_every", ""),
            }
        )
        print(json.dumps(lines[-1]), flush=True)
        shutil.rmtree(where)
    return lines


def measure_quality(workers: list[int], seeds: int, rows: int, folder: Path) -> list[dict[str, Any]]:
    """Test AUC and log-loss on simulated rows; prints the difference in AUC from one worker."""
    lines = []
    for seed in range(1, seeds + 1):
        path = folder / "quality.csv"
        write_sample(path, rows, seed)
        line: dict[str, Any] = {"seed": seed}
        for count in workers:
            where = folder / f"quality_{count}"
            arguments = [str(path), "--folds", "1", "--seed", str(seed), "--no-checkpoints", "--no-tensorboard"]
            metrics = run_group(count, where, arguments, pinned=False)["metrics"]
            line[str(count)] = {name: metrics["test"][name] for name in ("roc_auc", "log_loss")}
            line[str(count)] |= {"epochs": metrics["epochs"], "sync_every": metrics["settings"].get("sync_every")}
            shutil.rmtree(where)
        lines.append(line)
        print(json.dumps(line), flush=True)
    for count in map(str, workers):
        gaps = [line[count]["roc_auc"] - line["1"]["roc_auc"] for line in lines]
        spread = f"mean {statistics.mean(gaps):+.5f}, {min(gaps):+.5f} to {max(gaps):+.5f}"
        print(f"{count} workers: AUC minus the AUC of one worker, {spread}")
    return lines


# Cost model of a group, from the measurements of one worker. Assumptions: all workers read and encode rows in parallel,
# each at the rate of one worker; in an epoch, each trains on its share of the rows; averaging in a ring takes 2 (W - 1)
# messages of LATENCY, because the vector is too small for bandwidth to matter; it takes a tenth of the time (default of
# --sync-every), but happens at least once per epoch; workers receive the sample and nothing else; the number of epochs
# is that of one process, which was not measured beyond four workers; all workers are equally fast, and none fails.
LATENCY = 0.0002  # seconds per message between machines in one data center, with gRPC
SAMPLE_BYTES = 2_000_000 * 5 * 8
BANDWIDTH = 1e9  # bytes per second into each worker
START = 8.0  # seconds to import, compile, and join
MEMORY = 64e9  # bytes per worker
MODEL_EPOCHS = 20


def modelled_seconds(rows: float, workers: int, read: float, train: float, bytes_a_row: float) -> float | None:
    """Seconds of a run, from the rows per second that a worker reads and trains; None if its memory is too small."""
    own = rows / workers
    if own * bytes_a_row > MEMORY:
        return None
    gathering = SAMPLE_BYTES / BANDWIDTH * (workers > 1)
    epoch = own / train
    average = 2 * (workers - 1) * LATENCY
    averages = max(average, 0.1 * epoch) if workers > 1 else 0  # at least one per epoch
    return START + own / read + gathering + MODEL_EPOCHS * (epoch + averages)


def show_model(measured: list[dict[str, Any]]) -> None:
    alone = [line for line in measured if line["workers"] == 1]
    least, one = (choose(alone, key=lambda line: line["rows"]) for choose in (min, max))
    if least is one:
        print("\nTo model more workers, measure one worker with two numbers of rows first.")
        return
    read, train = one["rows"] / one["load_s"], one["train_rows_per_s"]
    bytes_a_row = (one["memory_mb"][0] - least["memory_mb"][0]) * 2**20 / (one["rows"] - least["rows"])
    rates = f"each worker reads {read:,.0f} and trains {train:,.0f} rows/s"
    print(f"\nModeled, not measured: {MODEL_EPOCHS} epochs, {rates},")
    print(f"{bytes_a_row:,.0f} bytes per row, {MEMORY / 1e9:.0f} GB per worker, {1e6 * LATENCY:.0f} us per message")
    print("\n| rows | " + " | ".join(f"{count:,} workers" for count in (1, 4, 16, 64, 256, 1_000)) + " |")
    print("|-" * 7 + "|")
    for rows in (1e8, 1e9, 1e10, 1e11, 1e12):
        cells = []
        for count in (1, 4, 16, 64, 256, 1_000):
            seconds = modelled_seconds(rows, count, read, train, bytes_a_row)
            cells.append("too large" if seconds is None else duration(seconds))
        print(f"| {rows:.0e} | " + " | ".join(cells) + " |")


def duration(seconds: float) -> str:
    for size, name in ((3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {name}"
    return f"{seconds:.0f} s"


def show_measured(measured: list[dict[str, Any]]) -> None:
    print("\n| rows | workers | rows/s in training | load | train | to target loss | MB per worker | average every |")
    print("|-" * 8 + "|")
    for line in measured:
        memory, reached = ", ".join(map(str, line["memory_mb"])), line["to_loss_s"]
        times = f"{line['load_s']} s | {line['train_s']} s | {'not' if reached is None else f'{reached} s'}"
        sync = f"{line['sync_every']} steps" if line["sync_every"] else "-"
        print(f"| {line['rows']:,} | {line['workers']} | {line['train_rows_per_s']:,} | {times} | {memory} | {sync} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000, 50_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--quality-rows", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", action="store_true")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"measured": [], "quality": []}
    with tempfile.TemporaryDirectory() as folder:
        if options.quality:
            results["quality"] = measure_quality(options.workers, options.seeds, options.quality_rows, Path(folder))
        elif not options.model:
            for rows in options.rows:
                kept = [line for line in results["measured"] if line["rows"] != rows]
                results["measured"] = sorted(
                    kept + measure(rows, options.workers, Path(folder)),
                    key=lambda line: (line["rows"], line["workers"]),
                )
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    if results["measured"]:
        show_measured(results["measured"])
        show_model(results["measured"])


if __name__ == "__main__":
    main()
