"""Train on several machines: the workers that TF_CONFIG names, each of which runs the same command.

tf.distribute.MultiWorkerMirroredStrategy connects them; what they exchange goes through TensorFlow's collective
operations. Each worker reads its own part of the data, and cells are gathered, so that columns, encodings and splits
are those of one machine; of very many rows a sample is gathered, and each worker trains on the rest of its part too.
Every worker watches the others; when one is gone, all end with one line. Worker 0, the chief, writes and shows
everything. docs/distributed.md says how to start a group.
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
from harvest.data.csv_file import ByteRange, CsvFile, find_files, open_csv, read_columns
from harvest.run_directory import RESUME_FILE, RunDirectory
from harvest.training.distributed import shares
from harvest.training.distributed.cluster import Cluster, describe_program
from harvest.training.distributed.engine import Engine
from harvest.training.interrupted import read_state
from harvest.training.tensorflow_setup import find_devices

START_SECONDS = 45  # for all workers to start; less than a minute, so that none waits longer for one that never does
ANSWER_SECONDS = 20  # a worker that does not answer for so long has stopped
CHECK_SECONDS = 2.0
WATCHED_BY_ALL = 64  # workers; in larger groups only the chief watches everyone


class Group:
    """This worker of a group: what it exchanges with the others, and the watch over them."""

    def __init__(self, cluster: Cluster, args: argparse.Namespace, script: Path) -> None:
        """Wait for all workers. The chief checks its model directory; the others get a temporary one.

        After a failure nothing temporary is left.
        """
        self.cluster, self.rank, self.workers = cluster, cluster.rank, len(cluster.addresses)
        self.chief, self.others = self.rank == 0, [rank for rank in range(self.workers) if rank != self.rank]
        self.over, self.leaving = threading.Event(), threading.Lock()
        self.folder: Path | None = None  # for all that is temporary: it goes even if the process ends at once
        self.model_dir: Path = args.model_dir
        self.agreed, self.asked = StopRequest(), StopRequest()  # what all follow at the same time; of this worker
        self.stopped_by: int | None = None  # the worker that was asked to stop
        self.rest: shares.Rest | None = None  # this one's rows, when all hold a sample only
        find_devices(args.cpu_only)  # before anything is set up, when they can still be told how much memory to take
        self.engine = Engine(cluster, self.leave_broken)
        try:
            self.wait_for_others()
            self.compare_programs(args, script)
            self.share_state(args)
        except BaseException:
            self.close()
            raise

    def wait_for_others(self) -> None:
        """Wait until all workers have started, and watch them from then on."""
        last = time.monotonic() + START_SECONDS
        for rank in self.others:
            while self.engine.fault(rank, 2):
                if time.monotonic() > last:
                    self.leave(f"{self.cluster.name(rank)} did not start within {START_SECONDS} s")
                time.sleep(0.2)
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        few = self.chief or self.workers <= WATCHED_BY_ALL
        watched = self.others if few else sorted({0, (self.rank + 1) % self.workers})
        while not self.over.wait(CHECK_SECONDS):
            for rank in watched:
                fault = self.engine.fault(rank, ANSWER_SECONDS)
                if fault and not self.over.wait(2 * CHECK_SECONDS):  # until the others have seen it, not this one's end
                    self.leave(f"{self.cluster.name(rank)} {fault}")

    def leave(self, why: str) -> NoReturn:
        """End the process, which may be waiting for a worker that is gone."""
        with self.leaving:  # which nobody else gets any more
            kept = "what whole runs have left is as it was"
            if self.chief and (self.model_dir / RESUME_FILE).exists():
                kept += "; start the group again with --resume to go on"
            print_error(f"error: {why}; {kept}")
            self.close()
            os._exit(1)

    def leave_broken(self, fault: str) -> NoReturn:
        """End the process when an operation has failed, unless the watch, which may know why, does it before."""
        time.sleep(ANSWER_SECONDS + 4 * CHECK_SECONDS)
        self.leave(f"the connection to the other workers broke ({fault})")

    def close(self) -> None:
        """Watch the others no longer, and remove the temporary directory."""
        self.over.set()
        if self.folder:
            for _ in range(3):  # another thread may be writing there
                shutil.rmtree(self.folder, ignore_errors=True)

    def together(self, function: Callable, *arguments: Any) -> Any:
        """What a function gives, when it raises UserError on no worker."""
        result, fault = None, ""
        try:
            result = function(*arguments)
        except UserError as error:
            fault = str(error)
        faults = self.engine.exchange(fault)
        for rank, text in enumerate(faults):
            if text:
                self.refuse(text if faults.count(text) == self.workers else f"worker {rank}: {text}")
        return result

    def refuse(self, text: str) -> NoReturn:
        """Raise UserError; all workers do it for the same reason, and at the same time."""
        self.close()
        raise UserError(text)

    def compare_programs(self, args: argparse.Namespace, script: Path) -> None:
        """Refuse workers with other versions or flags."""
        described = self.engine.exchange(describe_program(args, script))
        for rank, other in enumerate(described):
            for name, value in described[0].items():
                if other.get(name) != value:
                    text = f"worker {rank} has {name} {other.get(name)}, worker 0 has {value}"
                    self.refuse(f"{text}; start all workers with the same flags and versions")

    def share_state(self, args: argparse.Namespace) -> None:
        """Resume where the chief does, from what it has; what is wrong with its directory shows now."""

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
        """Let a worker that is not the chief write nothing but into its temporary directory."""
        if not self.chief:
            args.checkpoints = args.tensorboard = args.profile = False
            args.quiet, args.export = True, []

    # Reading

    def find_files(self, args: argparse.Namespace) -> tuple[list[CsvFile], list[CsvFile]]:
        """The files, or parts of them, that this worker reads, and those that all read."""
        paths = self.together(find_files, args.csv)
        mine = self.together(lambda: [shares.look_at(path) for path in paths])
        listings = [[shares.SeenFile(*seen) for seen in listing] for listing in self.engine.exchange(mine)]
        shared = self.together(shares.are_shared, listings)
        parts: list[tuple[int, ByteRange | None]] = [(number, None) for number in range(len(paths))]
        if shared:  # in the chief's order
            found = {seen.identity: path for seen, path in zip(mine, paths, strict=True)}
            paths, sizes = [found[seen.identity] for seen in listings[0]], [seen.size for seen in listings[0]]
            cut = self.engine.exchange(shares.cut_files(paths, sizes, self.rank, self.workers))
            parts = shares.choose_parts([[shares.Share(*one) for one in own] for own in cut], sizes, self.rank)
        skip = args.skip_bad_rows
        own = self.together(lambda: [open_csv(paths[number], skip, byte_range=part) for number, part in parts])
        files = self.merge_files(own, [number for number, _ in parts], paths if shared else None)
        if not shared:
            args.csv = [file.path for file in files]
        return own, files

    def merge_files(self, own: list[CsvFile], numbers: list[int], shared: list[str] | None) -> list[CsvFile]:
        """The files of all workers, each once, in the order in which they would be read by one.

        numbers are those of this worker's own files, among those that are shared or, if none are, among its own.
        """
        described = [(file.path, file.names, file.notes, file.skipped, file.torn) for file in own]
        counts = [len(file.line_numbers) for file in own]
        merged: dict[tuple[int, int], CsvFile] = {}
        for rank, parts in enumerate(self.engine.exchange([*zip(numbers, counts, described, strict=True)])):
            for number, rows, (path, names, notes, skipped, torn) in parts:
                key = (0 if shared else rank, number)
                path = shared[number] if shared else f"worker {rank}{os.path.join(os.sep, path)}"
                before = merged.get(key, CsvFile(path, names, "", [], np.empty(0, int), [], 0, False))
                lines = np.empty(len(before.line_numbers) + rows, int)  # which they are is exchanged with the cells
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
        """Whether there are too many rows for all workers to hold them; then one network is trained."""
        given = f"--folds {args.folds}" if args.folds not in (1, "auto") else "--split time" * (args.split == "time")
        if total * columns <= (shares.LARGEST_GATHERED if given else shares.GATHERED_CELLS):
            return False
        if given:  # every row must be known to all
            cure = "give fewer rows or columns" if "split" in given else "leave --folds out"
            whole = f"more than {shares.LARGEST_GATHERED:,} cells, which only a sample is taken of"
            self.refuse(f"{given}: {total:,} rows have {whole}; {cure}")
        args.folds = 1  # whatever the sample alone would suggest
        return True

    def gather(self, cells: pd.Series) -> pd.Series:
        """The cells of a column of all workers."""
        textual = cells.dtype != np.float64
        values = cells.cat.codes.to_numpy(np.int32) if textual else cells.to_numpy()
        parts = [part["values"] for part in self.engine.exchange_arrays({"values": values})]
        if not textual:
            return pd.Series(np.concatenate(parts))
        code: dict[str, int] = {}  # of each text, in the order in which one process would meet them
        merged = []
        for part, texts in zip(parts, self.engine.exchange(cells.cat.categories.tolist()), strict=True):
            codes = [code.setdefault(text, len(code)) for text in texts]
            merged.append(np.array([*codes, -1], np.int32)[part])  # -1, an empty cell, is the last
        return pd.Series(pd.Categorical.from_codes(np.concatenate(merged), list(code)))

    def gather_lines(self, own: list[CsvFile], files: list[CsvFile], rows: np.ndarray) -> list[CsvFile]:
        """The files with the lines of the rows that were gathered."""
        lines = np.concatenate([np.zeros(0, int), *(file.line_numbers for file in own)])[rows]
        ends = np.searchsorted(rows, np.cumsum([len(file.line_numbers) for file in own]))
        own_lines = zip(map(str, self.places), np.split(lines, ends), strict=False)  # nothing is behind the last end
        parts = self.engine.exchange_arrays(dict(own_lines))
        of_files = [[part[str(place)] for part in parts if str(place) in part] for place in range(len(files))]
        return [file._replace(line_numbers=np.concatenate(own)) for file, own in zip(files, of_files, strict=True)]

    # Ending

    def sum_and_listen(self, values: np.ndarray) -> np.ndarray:
        """The sum over workers, while they tell each other of signals."""
        signals = np.zeros(self.workers)
        signals[self.rank] = self.asked.signal
        values, signals = np.split(self.engine.sum(np.concatenate([values, signals])), [len(values)])
        self.note_signals(signals)
        return values

    def note_signals(self, signals: np.ndarray) -> None:
        """Stop when a worker was asked to, at the same time as the others: the signal of each worker, 0 for none."""
        if signals.any():
            self.stopped_by = int(np.argmax(signals > 0))
            self.agreed.signal = int(signals[self.stopped_by])

    def end_early(self, failed: str) -> tuple[int, str]:
        """The exit code of a run that is over before its end, and what to say instead of the signal, if anything.

        failed says why the loss is not a number, if that is the reason.
        """
        self.over.set()
        number, why = self.agreed.signal, ""
        if self.stopped_by not in (None, self.rank):
            why = f"error: {self.cluster.name(self.stopped_by)} was told to stop ({signal.Signals(number).name})"
        if not self.chief:
            stopped = f"error: {failed}" if failed else f"stopped: {signal.Signals(number or signal.SIGTERM).name}"
            print_error(f"{why or stopped}; worker 0 has saved the state for --resume, if there is one")
        return (128 + number if number and not why else 1), why

    def wait_for_chief(self) -> int | None:
        """The chief's exit code, once it has written everything; None to the chief, which needs nobody for that."""
        if self.chief:
            self.over.set()
            return None
        return int(self.engine.sum([0.0])[0])

    def report(self, code: int) -> None:
        """Give the other workers the chief's exit code."""
        try:
            self.engine.submit("sum", np.array([float(code)])).result(ANSWER_SECONDS)
        except (tf.errors.OpError, TimeoutError):
            print_error("warning: a worker has ended early; all files are written")
