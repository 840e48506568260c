"""Train on several machines: the workers that TF_CONFIG names, each of which runs the same command.

Each worker reads its own part of the data and gathers the cells of the others, so columns, encodings and splits are
those of one machine. Of very large tables, the workers gather only a sample, and each also trains on the rest of its
part. Worker 0, the chief, writes and prints everything. docs/distributed.md describes how to start a group.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import tensorflow as tf

from harvest.cli import StopRequest, UserError, print_error
from harvest.data.csv_file import WHOLE, ByteRange, CsvFile, find_files, open_csv, read_columns
from harvest.run_directory import RESUME_FILE, RunDirectory
from harvest.training.distributed import shares
from harvest.training.distributed.cluster import Cluster, describe_program
from harvest.training.distributed.engine import Engine
from harvest.training.interrupted import read_state
from harvest.training.tensorflow_setup import find_devices

START_SECONDS = 45  # for all workers to start; less than a minute, to limit the wait for one that never starts
ANSWER_SECONDS = 20  # a worker that has not responded for so long has stopped
CHECK_SECONDS = 2.0


class Group:
    """This worker of a group: it exchanges data with the other workers and monitors them."""

    def __init__(self, cluster: Cluster, args: argparse.Namespace, script: Path) -> None:
        """Wait for all workers. The chief checks its model directory; the others get a temporary one."""
        self.cluster, self.rank, self.workers = cluster, cluster.rank, len(cluster.addresses)
        self.chief, self.others = self.rank == 0, [rank for rank in range(self.workers) if rank != self.rank]
        self.over, self.leaving = threading.Event(), threading.Lock()
        self.folder: Path | None = None  # for temporary files; close() deletes it, even if the process ends at once
        self.model_dir: Path = args.model_dir
        self.agreed, self.asked = StopRequest(), StopRequest()  # the request all workers follow; that to this worker
        self.stopped_by: int | None = None  # the worker that received the signal
        self.rest: shares.Rest | None = None  # this worker's rows outside the sample, if the workers share a sample
        find_devices(args.cpu_only)  # before TensorFlow initializes, while memory growth can still be set
        self.engine = Engine(cluster, self.leave_broken)
        try:
            self.wait_for_others()
            self.compare_programs(args, script)
            self.share_state(args)
        except BaseException:
            self.close()
            raise

    def wait_for_others(self) -> None:
        """Wait until all workers have started, then monitor them."""
        last = time.monotonic() + START_SECONDS
        for rank in self.others:
            while self.engine.fault(rank, 2):
                if time.monotonic() > last:
                    self.leave(f"{self.cluster.name(rank)} did not start within {START_SECONDS} s")
                time.sleep(0.2)
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        while not self.over.wait(CHECK_SECONDS):
            for rank in self.others:
                fault = self.engine.fault(rank, ANSWER_SECONDS)
                if fault and not self.over.wait(2 * CHECK_SECONDS):  # so the others see this fault, not our exit
                    self.leave(f"{self.cluster.name(rank)} {fault}")

    def leave(self, why: str) -> NoReturn:
        """End the process, which may be waiting for a worker that is gone."""
        with self.leaving:  # never released, so only one thread gets here
            kept = "the results of earlier runs are unchanged"
            if self.chief and (self.model_dir / RESUME_FILE).exists():
                kept += "; restart the group with --resume to continue"
            print_error(f"error: {why}; {kept}")
            self.close()
            os._exit(1)

    def leave_broken(self, fault: str) -> NoReturn:
        """End the process after a failed operation, unless watch(), which may know the reason, ends it first."""
        time.sleep(ANSWER_SECONDS + 4 * CHECK_SECONDS)
        self.leave(f"the connection to the other workers broke ({fault})")

    def close(self) -> None:
        """Stop monitoring the others, and remove the temporary directory."""
        self.over.set()
        if self.folder:
            for _ in range(3):  # another thread may be writing there
                shutil.rmtree(self.folder, ignore_errors=True)

    def together(self, function: Callable, *arguments: Any) -> Any:
        """The result of a function. If it raises UserError on any worker, all workers raise it."""
        result, fault = None, ""
        try:
            result = function(*arguments)
        except UserError as error:
            fault = str(error)
        faults = self.engine.exchange(fault)
        for rank, text in enumerate(faults):
            if text:
                raise UserError(text if faults.count(text) == self.workers else f"worker {rank}: {text}")
        return result

    def compare_programs(self, args: argparse.Namespace, script: Path) -> None:
        """Raise UserError if versions or flags differ between workers."""
        described = self.engine.exchange(describe_program(args, script))
        for rank, other in enumerate(described):
            for name, value in described[0].items():
                if other.get(name) != value:
                    text = f"worker {rank} has {name} {other.get(name)}, but worker 0 has {value}"
                    raise UserError(f"{text}; start all workers with the same flags and versions")

    def share_state(self, args: argparse.Namespace) -> None:
        """Check the chief's model directory, and give all workers its state for --resume."""

        def read() -> bytes:
            if self.chief:
                RunDirectory(args.model_dir, args.export).check()
            if not self.chief or not args.resume:
                return b""
            read_state(args.model_dir / RESUME_FILE)
            return (args.model_dir / RESUME_FILE).read_bytes()

        state = self.engine.exchange_bytes(self.together(read))[0]
        if not self.chief or args.sample:
            self.folder = Path(tempfile.mkdtemp(prefix="train_model_modern-"))
        if self.folder and not self.chief:
            args.model_dir, args.resume = self.folder / "model", bool(state)
            args.model_dir.mkdir()
            if state:
                (args.model_dir / RESUME_FILE).write_bytes(state)

    def settle(self, args: argparse.Namespace) -> None:
        """Make a worker other than the chief write only to its temporary directory."""
        if not self.chief:
            args.checkpoints = args.tensorboard = args.profile = False
            args.quiet, args.export = True, []

    # Reading

    def find_files(self, args: argparse.Namespace) -> tuple[list[CsvFile], list[CsvFile]]:
        """The files, or parts of them, that this worker reads, and the files that all workers read together."""
        paths = self.together(find_files, args.csv)
        mine = self.together(lambda: [shares.look_at(path) for path in paths])
        listings = [[shares.SeenFile(*seen) for seen in listing] for listing in self.engine.exchange(mine)]
        shared = self.together(shares.are_shared, listings)
        parts: list[tuple[int, ByteRange]] = [(number, WHOLE) for number in range(len(paths))]
        if shared:  # in the chief's order
            found = {seen[:3]: path for seen, path in zip(mine, paths, strict=True)}
            paths, sizes = [found[seen[:3]] for seen in listings[0]], [seen.size for seen in listings[0]]
            cut = self.engine.exchange(shares.cut_files(paths, sizes, self.rank, self.workers))
            parts = shares.choose_parts(cut, sizes, self.rank)
        skip = args.skip_bad_rows
        own = self.together(lambda: [open_csv(paths[number], skip, byte_range=part) for number, part in parts])
        files = self.merge_files(own, [number for number, _ in parts], paths if shared else None)
        if not shared:
            args.csv = [file.path for file in files]
        return own, files

    def merge_files(self, own: list[CsvFile], numbers: list[int], shared: list[str] | None) -> list[CsvFile]:
        """The files of all workers, each once, in the order in which one worker would read them.

        numbers: the positions of this worker's files among the shared files or, if none are shared, among its own.
        """
        described = [(len(one.line_numbers), one.path, one.names, one.notes, one.skipped, one.torn) for one in own]
        merged: dict[tuple[int, int], CsvFile] = {}
        for rank, parts in enumerate(self.engine.exchange([*zip(numbers, described, strict=True)])):
            for number, (rows, path, names, notes, skipped, torn) in parts:
                key = (0 if shared else rank, number)
                path = shared[number] if shared else f"worker {rank}{os.path.join(os.sep, path)}"
                before = merged.get(key, CsvFile(path, names, "", [], np.empty(0, int), [], 0, False))
                lines = np.empty(len(before.line_numbers) + rows, int)  # gather_lines() fills in the line numbers
                notes, skipped = before.notes + notes, before.skipped + skipped
                merged[key] = before._replace(line_numbers=lines, notes=notes, skipped=skipped, torn=torn)
        self.places = [list(merged).index((0 if shared else self.rank, number)) for number in numbers]
        return list(merged.values())

    def read_columns(
        self, own: list[CsvFile], files: list[CsvFile], names: list[str], textual: set[str], args: argparse.Namespace
    ) -> tuple[dict[str, pd.Series], list[CsvFile]]:
        """The columns of all workers' rows, or of a sample of them, and the files with the lines of these rows."""
        cells = self.together(lambda: read_columns(own, names, textual) if own else {})
        texts = [name for name in cells if cells[name].dtype != np.float64]
        is_text = set[str]().union(*self.engine.exchange(texts))
        again = sorted(name for name in cells if name in is_text and cells[name].dtype == np.float64)
        cells |= self.together(lambda: read_columns(own, again, set(again)) if again else {})
        for name in names if not own else []:
            cells[name] = pd.Series(pd.Categorical([])) if name in is_text else pd.Series(np.zeros(0))
        counts = [len(file.line_numbers) for file in own]
        rows, total = np.arange(sum(counts)), sum(self.engine.exchange(sum(counts)))
        if self.takes_sample(total, len(names), args):
            rows = shares.sample_rows(len(rows), total, len(names), [args.split_seed, 5, self.rank])
            rest = np.setdiff1d(np.arange(sum(counts)), rows, assume_unique=True)
            self.rest = shares.Rest({name: part.iloc[rest] for name, part in cells.items()}, own, rest)
        gathered = {name: self.gather(cells.pop(name).iloc[rows]) for name in names}
        return gathered, self.gather_lines(own, files, rows)

    def takes_sample(self, total: int, columns: int, args: argparse.Namespace) -> bool:
        """Whether there are too many rows for every worker to hold all of them; then the group trains one network."""
        given = f"--folds {args.folds}" if args.folds not in (1, "auto") else "--split time" * (args.split == "time")
        if total * columns <= (shares.LARGEST_GATHERED if given else shares.GATHERED_CELLS):
            return False
        if given:  # every worker must have every row
            cure = "give fewer rows or columns" if "split" in given else "omit --folds"
            whole = f"more than {shares.LARGEST_GATHERED:,} cells, of which the workers gather only a sample"
            raise UserError(f"{given}: {total:,} rows have {whole}; {cure}")
        args.folds = 1  # regardless of the size of the sample
        return True

    def gather(self, cells: pd.Series) -> pd.Series:
        """The cells of a column of all workers."""
        textual = cells.dtype != np.float64
        values = cells.cat.codes.to_numpy(np.int32) if textual else cells.to_numpy()
        parts = [part["values"] for part in self.engine.exchange_arrays({"values": values})]
        if not textual:
            return pd.Series(np.concatenate(parts))
        code: dict[str, int] = {}  # of each text, in the order in which one process would read them
        merged = []
        for part, texts in zip(parts, self.engine.exchange(cells.cat.categories.tolist()), strict=True):
            codes = [code.setdefault(text, len(code)) for text in texts]
            merged.append(np.array([*codes, -1], np.int32)[part])  # -1, an empty cell, is the last
        return pd.Series(pd.Categorical.from_codes(np.concatenate(merged), list(code)))

    def gather_lines(self, own: list[CsvFile], files: list[CsvFile], rows: np.ndarray) -> list[CsvFile]:
        """The files with the line numbers of the gathered rows."""
        lines = np.concatenate([np.zeros(0, int), *(file.line_numbers for file in own)])[rows]
        ends = np.searchsorted(rows, np.cumsum([len(file.line_numbers) for file in own]))
        own_lines = zip(map(str, self.places), np.split(lines, ends), strict=False)  # no lines follow the last end
        parts = self.engine.exchange_arrays(dict(own_lines))
        of_files = [[part[str(place)] for part in parts if str(place) in part] for place in range(len(files))]
        return [file._replace(line_numbers=np.concatenate(own)) for file, own in zip(files, of_files, strict=True)]

    # Ending

    def sum_and_listen(self, values: np.ndarray) -> np.ndarray:
        """The sum over workers, who also exchange the signals they received."""
        signals = np.zeros(self.workers)
        signals[self.rank] = self.asked.signal
        values, signals = np.split(self.engine.sum(np.concatenate([values, signals])), [len(values)])
        self.note_signals(signals)
        return values

    def note_signals(self, signals: np.ndarray) -> None:
        """If a worker received a signal, stop at the same time as the others; signals: one per worker, 0 for none."""
        if signals.any():
            self.stopped_by = int(np.argmax(signals > 0))
            self.agreed.signal = int(signals[self.stopped_by])

    def end_early(self, failed: str) -> tuple[int, str]:
        """The exit code of a run that ends early, and the message to print instead of the signal, or ""."""
        self.over.set()
        number, why = self.agreed.signal, ""
        if self.stopped_by not in (None, self.rank):
            why = f"error: {self.cluster.name(self.stopped_by)} received {signal.Signals(number).name}"
        if not self.chief:
            stopped = f"error: {failed}" if failed else f"stopped: {signal.Signals(number or signal.SIGTERM).name}"
            print_error(f"{why or stopped}; worker 0 has saved the state for --resume, if there is one")
        return (128 + number if number and not why else 1), why

    def wait_for_chief(self) -> int | None:
        """The chief's exit code, once it has written everything; None on the chief, which does not wait."""
        if self.chief:
            self.over.set()
            return None
        return int(self.engine.sum([0.0])[0])

    def report(self, code: int) -> None:
        """Give the other workers the chief's exit code."""
        try:
            self.engine.submit("sum", np.array([float(code)])).result(ANSWER_SECONDS)
        except (tf.errors.OpError, TimeoutError):
            print_error("warning: a worker exited early; all files are written")
