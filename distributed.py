"""Train on several machines: the workers that TF_CONFIG names, each of which runs the same command.

    TF_CONFIG='{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}' \\
        python train_model_modern.py DATA --trust-network

train_model_modern.py imports this file when TF_CONFIG, which Kubeflow's TFJob, Vertex AI and Ray Train set, names more
than one worker. tf.distribute.MultiWorkerMirroredStrategy connects them; what they exchange goes through TensorFlow's
collective operations. Worker 0, the chief, writes and shows everything.

    Reading     each worker reads its own part: of the same files by ranges of lines, or files of its own. Cells are
                gathered, so that columns, encodings and splits are those of one machine; of very many rows a sample is
                gathered, and each worker trains on the rest of its part too.
    One net     local SGD (Stich, 2019): each worker runs the compiled epoch of train_model_modern.py on its own share
                of the rows, and the weights are averaged every so many steps. What is decided after an epoch follows
                from the validation rows of all.
    Folds       fold k is trained by worker k mod N, to the same bits as on one machine.
    Faults      every worker watches the others; when one is gone, all end with one line.
"""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import json
import math
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import train_model_modern as modern
from train_model_modern import Cells, Choice, Features, Fold, Part, Plan, Run, Source, Split, State, UserError

if TYPE_CHECKING:
    import tensorflow as tf

START_SECONDS = 45  # for all workers to start; less than a minute, so that none waits longer for one that never does
ANSWER_SECONDS = 20  # a worker that does not answer for so long has stopped
CHECK_SECONDS = 2.0
WATCHED_BY_ALL = 64  # workers; in larger groups only the chief watches everyone
PIECE_BYTES = 1 << 26  # exchanged at a time
GATHERED_CELLS = 25_000_000  # up to here all workers hold the whole table; twice as many take 6 s more to read
LARGEST_GATHERED = 200_000_000  # cells, 1.6 GB: so many are gathered where every row must be known to all
SAMPLE_ROWS = 2_000_000  # gathered of a larger table
CALL_ROWS = 131_072  # trained on between two averages, or fewer: one call of the program
CALL_SHARE = 0.1  # of the time, spent on averages at most
DECIDED = ("epoch", "learning_rate", "best_loss", "best_epoch", "best_trained", "best_moving", "wait")
DECIDED += ("plateau_loss", "plateau_wait")  # of a State, by end_epoch()
PACKAGES = ("tensorflow", "keras", "numpy", "pandas")

# ---------------------------------------------------------------------------------------------------------------------
# Who there is


class Cluster(NamedTuple):
    addresses: list[str]  # of the workers, the chief first
    rank: int  # the number of this one

    def name(self, rank: int) -> str:
        return f"worker {rank} ({self.addresses[rank]})"


def read_cluster(text: str) -> Cluster:
    """What TF_CONFIG says. Raises UserError."""
    try:
        config = json.loads(text)
        chiefs, workers = (list(config["cluster"].get(kind, [])) for kind in ("chief", "worker"))
        kind, index = config["task"]["type"], int(config["task"]["index"])
        addresses = [*chiefs, *workers]
        rank = addresses.index({"chief": chiefs, "worker": workers}[kind][index])
        sound = index >= 0 and all(isinstance(address, str) and ":" in address for address in addresses)
        if not sound or len(set(addresses)) < len(addresses):
            raise ValueError
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        wanted = 'cluster: {"worker": ["host:port", ...]}, task: {"type": "worker", "index": N}'
        raise UserError(f"TF_CONFIG must name each worker once, and this one among them ({wanted})") from None
    return Cluster(addresses, rank)


def is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_addresses(cluster: Cluster, trusted: bool) -> None:
    """Refuse other machines unless told that whoever reaches the ports may be trusted."""
    outside = [address for address in cluster.addresses if not is_loopback(address)]
    if outside and not trusted:
        risk = "TensorFlow's server talks in the clear to anyone who reaches its port, on every interface"
        cure = "where only these machines can reach it (a private network, a firewall), say so with --trust-network"
        raise UserError(f"TF_CONFIG names {outside[0]}, which is not loopback: {risk}; {cure}")


def describe_program(options: argparse.Namespace) -> dict[str, str]:
    """What all workers must have alike: versions, programs and flags."""
    described = {"Python": platform.python_version()}
    described |= {package: modern.metadata_version(package) for package in PACKAGES}
    for path in (Path(modern.__file__), Path(__file__)):
        described[path.name] = "version " + hashlib.blake2b(path.read_bytes(), digest_size=4).hexdigest()
    for name, value in vars(options).items():
        if name not in modern.NOT_COMPARED:
            described["--" + name.replace("_", "-")] = str(value)
    return described


# ---------------------------------------------------------------------------------------------------------------------
# The engine: what all workers call together


class Engine:
    """Collective operations of TensorFlow, which wait for every worker.

    They run in a thread of their own, so that the main thread hears signals while it waits.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.keys, self.thread = cluster, {}, ThreadPoolExecutor(1)

    def start(self, cpu_only: bool) -> None:
        """Import TensorFlow, and open this worker's port."""
        modern.prepare_environment(cpu_only, xla=False)
        tensorflow = modern.import_tensorflow()
        modern.find_devices(cpu_only)  # before anything is set up, when they can still be told how much memory to take
        from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended
        from tensorflow.python.eager import context

        # Group watches the workers. TensorFlow's own ways to do so abort the process, or take minutes.
        CollectiveAllReduceExtended._enable_check_health = False
        context.context().configure_coordination_service(service_type="")
        task = {"type": "worker", "index": self.cluster.rank}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": self.cluster.addresses}, "task": task})
        implementation = tensorflow.distribute.experimental.CommunicationImplementation.RING
        ring = tensorflow.distribute.experimental.CommunicationOptions(implementation=implementation)
        strategy = tensorflow.distribute.MultiWorkerMirroredStrategy
        self.strategy = self.thread.submit(lambda: strategy(communication_options=ring)).result()
        self.raw, self.device, self.context = tensorflow.raw_ops, tensorflow.device, context.context()

    def fault(self, rank: int, seconds: float) -> str:
        """What is wrong with a worker; empty when it answers."""
        import tensorflow as tf

        try:
            self.context.check_collective_ops_peer_health(f"/job:worker/replica:0/task:{rank}", int(1000 * seconds))
        except tf.errors.DeadlineExceededError:
            return f"has not answered for {seconds:.0f} s"
        except tf.errors.OpError:
            return "has ended"
        return ""

    def submit(self, kind: str, values: np.ndarray) -> Future:
        """Start an operation on arrays that have one shape on all workers; those of one kind and shape share a key."""
        what = (kind, values.shape, values.dtype.str)
        common = {"group_size": len(self.cluster.addresses), "group_key": 1, "ordering_token": []}
        common |= {"instance_key": self.keys.setdefault(what, 1_000 + len(self.keys)), "communication_hint": "ring"}

        def operate() -> np.ndarray:
            with self.device("CPU:0"):
                if kind == "sum":
                    result = self.raw.CollectiveReduceV2(input=values, merge_op="Add", final_op="Id", **common)
                else:
                    result = self.raw.CollectiveGatherV2(input=values, **common)
            return result.numpy()

        return self.thread.submit(operate)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over workers, the same bits on all."""
        return self.submit("sum", np.asarray(values, np.float64)).result()

    def exchange(self, content: bytes) -> list[bytes]:
        """What each worker gives."""
        sizes = self.submit("gather", np.array([len(content)])).result().tolist()
        parts = [bytearray() for _ in sizes]
        for start in range(0, max(sizes), PIECE_BYTES):
            longest = 8 * math.ceil(min(PIECE_BYTES, max(sizes) - start) / 8)
            piece = content[start : start + longest].ljust(longest, b"\0")
            gathered = self.submit("gather", np.frombuffer(piece, np.int64)).result().tobytes()
            for rank, part in enumerate(parts):
                part += gathered[rank * longest : (rank + 1) * longest]
        return [bytes(part[:size]) for part, size in zip(parts, sizes, strict=True)]

    def exchange_json(self, value: Any) -> list[Any]:
        return [json.loads(content) for content in self.exchange(json.dumps(value).encode())]

    def exchange_arrays(self, arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        return [unpack(content) for content in self.exchange(pack(arrays))]


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as bytes. Nothing in them can be executed."""
    head = json.dumps([(name, array.dtype.str, array.shape) for name, array in arrays.items()]).encode()
    return b"".join(
        [len(head).to_bytes(8), head, *(np.ascontiguousarray(array).tobytes() for array in arrays.values())]
    )


def unpack(content: bytes) -> dict[str, np.ndarray]:
    start = 8 + int.from_bytes(content[:8])
    arrays = {}
    for name, kind, shape in json.loads(content[8:start]):
        arrays[name] = np.frombuffer(content, kind, math.prod(shape), start).reshape(shape)
        start += arrays[name].nbytes
    return arrays


# ---------------------------------------------------------------------------------------------------------------------
# Whose rows


class Seen(NamedTuple):
    """A file, as the workers tell each other of it."""

    name: str
    size: int
    digest: str  # of its start and its end
    start: str  # its first bytes behind the first line, which may hold column names alone

    @property
    def identity(self) -> tuple[str, int, str]:
        return self[:3]


def look_at(path: str) -> Seen:
    modern.check_file(path)
    size, length = os.path.getsize(path), 1 << 16
    with open(path, "rb") as file:
        start = file.read(length)
        file.seek(max(0, size - length))
        digest = hashlib.blake2b(start + file.read(length), digest_size=16).hexdigest()
    return Seen(os.path.basename(path), size, digest, start.partition(b"\n")[2][:1024].decode("latin-1"))


def are_shared(listings: list[list[Seen]]) -> bool:
    """Whether all workers were given the same files; False: each its own. UserError for what is neither."""
    sets = [{seen.identity for seen in listing} for listing in listings]
    if all(own == sets[0] for own in sets):
        return True
    for one, listing in enumerate(listings):
        for other in range(one):
            if both := sets[one] & sets[other]:
                lone = sorted(sets[one] ^ both or sets[other] ^ both)[0][0]
                words = f"workers {other} and {one} both have {min(both)[0]}, but only one of them has {lone}"
                raise UserError(f"{words}; give all workers the same files, or each its own")
            for mine in listing:
                for theirs in listings[other]:
                    length = min(len(mine.start), len(theirs.start))
                    if mine.name == theirs.name and mine.start[:length] == theirs.start[:length]:
                        sizes = f"{theirs.size:,} bytes on worker {other} and {mine.size:,} on worker {one}"
                        words = f"{mine.name} starts alike and differs: {sizes}"
                        raise UserError(
                            f"{words}; give all workers the same file, which nothing writes to, or each its own"
                        )
    return False


class Range(NamedTuple):
    """What a worker may read of a file."""

    file: int
    start: int
    end: int
    lines: int
    quotes: bool


def cut(paths: list[str], sizes: list[int], rank: int, workers: int) -> list[Range]:
    """This worker's share of the bytes of all files, in whole lines."""
    ranges, first, total = [], 0, sum(sizes)
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        ends = [min(max(total * place // workers - first, 0), size) for place in (rank, rank + 1)]
        with open(path, "rb") as file:
            start, end = (line_start(file, place, size) for place in ends)
        if start < end:
            ranges.append(Range(number, start, end, *count_lines(path, Part(start, end))))
        first += size
    return ranges


def line_start(file: Any, place: int, size: int) -> int:
    """Where the first line starts that starts at a place or after it."""
    if place == 0:
        return 0
    file.seek(place - 1)
    file.readline(modern.LONGEST_LINE)
    return min(file.tell(), size)


def count_lines(path: str, part: Part) -> tuple[int, bool]:
    """How many lines a part has, and whether there are quotes in it."""
    lines, quotes = 0, False
    with modern.open_part(path, part) as file:
        while block := file.read(modern.BLOCK_BYTES):
            lines += block.count(b"\n")
            quotes = quotes or b'"' in block
    return lines, quotes


def choose_parts(ranges: list[list[Range]], sizes: list[int], rank: int) -> list[tuple[int, Part | None]]:
    """The files, or parts of them, that this worker reads. One with quotes, whose rows may span lines, is whole."""
    workers, total, first, parts = len(ranges), sum(sizes), 0, []
    for number, size in enumerate(sizes):
        shares = [next((one for one in own if one.file == number), None) for own in ranges]
        if any(share and share.quotes for share in shares):
            if rank == (first + size // 2) * workers // total:
                parts.append((number, None))
        elif mine := shares[rank]:
            before = sum(share.lines for share in shares[:rank] if share)
            parts.append((number, Part(mine.start, mine.end, before)))
        first += size
    return parts


def take_cells(cells: Cells, rows: np.ndarray | slice) -> Cells:
    return cells._replace(values=cells.values[rows])


def merge_cells(parts: list[Cells]) -> Cells:
    """The cells of one column, of all workers."""
    if parts[0].texts is None:
        return Cells(np.concatenate([part.values for part in parts]))
    texts: dict[str, int] = {"": 0}
    values = []
    for part in parts:
        codes = [texts.setdefault(text, len(texts)) for text in part.texts]
        values.append(np.array(codes, np.int32)[part.values])
    return Cells(np.concatenate(values), texts)


def sample_rows(rows: int, total: int, columns: int, seed: list[int]) -> np.ndarray:
    """A worker's share of a sample of all rows: [S] of its own, in their order."""
    share = min(rows, round(min(SAMPLE_ROWS, GATHERED_CELLS / columns) * rows / total))
    return np.sort(np.random.default_rng(seed).choice(rows, share, replace=False))


def quantile_error(rows: int) -> float:
    """How far from its rank a quantile of so many sampled rows may be: three standard errors, those of the median."""
    return 3 * 0.5 / math.sqrt(rows)


class Rest(NamedTuple):
    """The rows of this worker that are not in the sample all workers hold."""

    cells: dict[str, Cells]
    sources: list[Source]
    rows: np.ndarray  # among those of the sources


def code_cells(rest: Rest, run: Run) -> modern.Table:
    """The rest as a table with the columns of the sample; what a vocabulary lacks gets a code that no fold knows."""
    options, columns = run.options, []
    label = np.array([modern.cell_label(text) for text in rest.cells[options.label].texts], np.float32)
    label = label[rest.cells[options.label].values]
    bad, stores = label < 0, {"number": [], "category": []}
    for column in run.table.columns:
        if column.kind == "number":
            values = rest.cells[column.name].numbers()
            bad |= np.isinf(values)
        elif column.kind == "category":
            codes, texts = rest.cells[column.name]
            meaning = modern.cell_id if column.integers else modern.cell_text
            known = {value: number for number, value in enumerate(column.vocabulary)}
            values = np.array([known.get(meaning(text), len(known)) for text in texts], np.int32)[codes]
            column = replace(column, vocabulary=[*column.vocabulary, modern.no_value(column.integers)])
        else:
            continue
        columns.append(column)
        stores[column.kind].append(values)
    if bad.any() and not options.skip_bad_rows:
        lines = np.concatenate([source.lines for source in rest.sources])[rest.rows]
        files = np.repeat(np.arange(len(rest.sources)), [len(source.lines) for source in rest.sources])[rest.rows]
        path = rest.sources[files[np.argmax(bad)]].path
        fault = "a label that is not 0 or 1, or text, infinity or a number beyond 3.4e38 in a column of numbers"
        words = f"{modern.name_some(lines[bad & (files == files[np.argmax(bad)])])}: {fault}"
        raise UserError(f"{path}: {words}; mend the rows or use --skip-bad-rows")
    keep = ~bad
    numbers = np.array([values[keep] for values in stores["number"]]).reshape(-1, keep.sum()).T
    codes = np.array([values[keep] for values in stores["category"]], np.int32).reshape(-1, keep.sum()).T
    nothing = np.empty(0, np.int32)
    table = modern.Table(columns, numbers, codes, label[keep], nothing, nothing, [], [], len(keep), int(bad.sum()))
    table.scales = run.table.scales
    return table


# ---------------------------------------------------------------------------------------------------------------------
# The group


class Group(modern.Alone):
    """This worker of a group."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.cluster = read_cluster(os.environ["TF_CONFIG"])
        check_addresses(self.cluster, options.trust_network)
        if options.describe:
            raise UserError("--describe is done by one process: unset TF_CONFIG")
        self.rank, self.workers, self.chief = self.cluster.rank, len(self.cluster.addresses), self.cluster.rank == 0
        self.over, self.leaving, self.folder, self.rest = threading.Event(), threading.Lock(), None, None
        self.agreed, self.asked, self.told = modern.StopRequest(), modern.StopRequest(), None
        self.every, self.pieces = 0, 1  # calls between two averages, segments of a call
        self.engine = Engine(self.cluster)
        self.start(options)
        self.compare(options)
        if not self.chief:
            self.folder = options.model_dir = Path(tempfile.mkdtemp(prefix="train_model_modern-"))
        self.share_state(options)

    def start(self, options: argparse.Namespace) -> None:
        """Start this worker, wait for the others, and watch them from then on."""
        self.model_dir = options.model_dir
        self.engine.start(options.cpu_only)
        last = time.monotonic() + START_SECONDS
        for rank in self.others():
            while self.engine.fault(rank, 2):
                if time.monotonic() > last:
                    self.leave(f"{self.cluster.name(rank)} did not start within {START_SECONDS} s")
                time.sleep(0.2)
        threading.Thread(target=self.watch, daemon=True).start()

    def others(self) -> list[int]:
        return [rank for rank in range(self.workers) if rank != self.rank]

    def watch(self) -> None:
        watched = self.others()
        if not self.chief and self.workers > WATCHED_BY_ALL:
            watched = sorted({0, (self.rank + 1) % self.workers} - {self.rank})
        while not self.over.wait(CHECK_SECONDS):
            for rank in watched:
                fault = self.engine.fault(rank, ANSWER_SECONDS)
                if fault and not self.over.wait(2 * CHECK_SECONDS):  # until the others have seen it, not this one's end
                    self.leave(f"{self.cluster.name(rank)} {fault}")

    def leave(self, why: str) -> None:
        """End the process, which may be waiting for a worker that is gone."""
        with self.leaving:  # which nobody else gets any more
            kept = "what whole runs have left is as it was"
            if self.chief and (self.model_dir / modern.RESUME_FILE).exists():
                kept += "; start the group again with --resume to go on"
            modern.print_error(f"error: {why}; {kept}")
            self.remove_folder()
            os._exit(1)

    def remove_folder(self) -> None:
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def wait(self, function: Callable, *arguments: Any) -> Any:
        """What an operation of the engine gives; where it breaks, the watch says why and ends the process."""
        import tensorflow as tf

        try:
            return function(*arguments)
        except tf.errors.OpError as error:
            time.sleep(ANSWER_SECONDS + 4 * CHECK_SECONDS)
            self.leave(f"the connection to the other workers broke ({error.message.splitlines()[0][:200]})")

    def sum(self, values: Any) -> np.ndarray:
        return self.wait(self.engine.sum, values)

    def exchange(self, value: Any) -> list[Any]:
        return self.wait(self.engine.exchange_json, value)

    def exchange_arrays(self, arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        return self.wait(self.engine.exchange_arrays, arrays)

    def together(self, function: Callable, *arguments: Any) -> Any:
        """What a function gives, when it raises UserError on no worker."""
        result, fault = None, ""
        try:
            result = function(*arguments)
        except UserError as error:
            fault = str(error)
        faults = self.exchange(fault)
        for rank, words in enumerate(faults):
            if words:
                self.refuse(words if faults.count(words) == self.workers else f"worker {rank}: {words}")
        return result

    def refuse(self, words: str) -> None:
        """Raise UserError; all workers do it for the same reason, and at the same time."""
        self.over.set()
        self.remove_folder()
        raise UserError(words)

    def compare(self, options: argparse.Namespace) -> None:
        """Refuse workers with other versions or flags."""
        described = self.exchange(describe_program(options))
        for rank, other in enumerate(described):
            for name, value in described[0].items():
                if other.get(name) != value:
                    words = f"worker {rank} has {name} {other.get(name)}, worker 0 has {value}"
                    self.refuse(f"{words}; start all workers with the same flags and versions")

    def share_state(self, options: argparse.Namespace) -> None:
        """Resume where the chief does, from what it has; what is wrong with its folder shows now."""

        def read() -> bytes:
            if not self.chief:
                return b""
            modern.prepare_folder(options.model_dir)
            modern.refuse_foreign(options.model_dir, options.export)
            if not options.resume:
                return b""
            modern.read_state(options.model_dir / modern.RESUME_FILE)
            return (options.model_dir / modern.RESUME_FILE).read_bytes()

        content = self.wait(self.engine.exchange, self.together(read))[0]
        if not self.chief:
            options.resume = bool(content)
            if content:
                (self.folder / modern.RESUME_FILE).write_bytes(content)

    def settle(self, options: argparse.Namespace) -> None:
        if not self.chief:
            options.model_dir, options.quiet, options.export = self.folder, True, []
            options.checkpoints = options.tensorboard = options.profile = False

    # Reading

    def find_sources(self, options: argparse.Namespace) -> tuple[list[Source], list[Source]]:
        paths = self.together(modern.find_files, options.csv)
        mine = self.together(lambda: [look_at(path) for path in paths])
        listings = [[Seen(*seen) for seen in listing] for listing in self.exchange(mine)]
        try:
            shared = are_shared(listings)
        except UserError as error:
            self.refuse(str(error))
        parts = [(number, None) for number in range(len(paths))]
        if shared:  # in the chief's order
            found = {seen.identity: path for seen, path in zip(mine, paths, strict=True)}
            paths, sizes = [found[seen.identity] for seen in listings[0]], [seen.size for seen in listings[0]]
            ranges = self.exchange(cut(paths, sizes, self.rank, self.workers))
            parts = choose_parts([[Range(*one) for one in own] for own in ranges], sizes, self.rank)
        skip = options.skip_bad_rows
        own = self.together(lambda: [modern.find_source(paths[number], skip, part=part) for number, part in parts])
        self.shared, self.numbers = shared, [number for number, _ in parts]
        sources = self.merge_sources(own, paths)
        if not shared:
            options.csv = [source.path for source in sources]
        return own, sources

    def merge_sources(self, own: list[Source], paths: list[str]) -> list[Source]:
        """The files of all workers, each once, in the order in which they would be read by one."""
        told = [
            [source.path, source.names, source.notes, source.skipped, source.torn, len(source.lines)] for source in own
        ]
        self.counts, merged = [], {}
        for rank, (numbers, sources) in enumerate(self.exchange([self.numbers, told])):
            for number, (path, names, notes, skipped, torn, rows) in zip(numbers, sources, strict=True):
                key = number if self.shared else (rank, number)
                path = paths[number] if self.shared else f"worker {rank}{os.path.join(os.sep, path)}"
                before = merged.setdefault(key, Source(path, names, "", [], range(0), [], 0, False))
                self.counts.append((key, rows))
                lines = range(len(before.lines) + rows)  # so many; which they are is exchanged with the cells
                merged[key] = before._replace(
                    lines=lines, notes=before.notes + notes, skipped=before.skipped + skipped, torn=torn
                )
        return list(merged.values())

    def read_cells(
        self, own: list[Source], sources: list[Source], names: list[str], options: argparse.Namespace
    ) -> tuple[dict[str, Cells], list[Source]]:
        cells = self.together(lambda: modern.read_columns(own, names, options) if own else {})
        textual = {name for told in self.exchange([name for name in cells if cells[name].texts]) for name in told}
        again = sorted(name for name in cells if name in textual and cells[name].texts is None)
        cells |= self.together(lambda: modern.read_once(own, again, set(again))[0] if again else {})
        for name in names if not own else []:
            cells[name] = Cells(np.zeros(0, np.int32), {"": 0}) if name in textual else Cells(np.zeros(0))
        lines = np.concatenate([np.zeros(0, int), *(source.lines for source in own)])
        rows = self.choose_rows(len(lines), len(names), options)
        if len(rows) < len(lines):
            rest = np.setdiff1d(np.arange(len(lines)), rows, assume_unique=True)
            self.rest = Rest({name: take_cells(part, rest) for name, part in cells.items()}, own, rest)
        gathered = {}
        for name in names:
            gathered[name] = self.gather(take_cells(cells.pop(name), rows))
        return gathered, self.gather_lines(own, sources, lines, rows)

    def choose_rows(self, rows: int, columns: int, options: argparse.Namespace) -> np.ndarray:
        """The rows of this worker that all workers are to hold: all, or an even share of a sample."""
        total = sum(self.exchange(rows))
        whole_table = options.folds not in (1, "auto") or options.split == "time"
        self.sampled = total * columns > (LARGEST_GATHERED if whole_table else GATHERED_CELLS)
        if not self.sampled:
            return np.arange(rows)
        whole = f"more than {LARGEST_GATHERED:,} cells, which only a sample is taken of"
        if options.folds not in (1, "auto"):
            self.refuse(f"--folds {options.folds}: {total:,} rows have {whole}; leave --folds out")
        if options.split == "time":
            self.refuse(f"--split time: {total:,} rows have {whole}; give fewer rows or columns")
        options.folds = 1  # whatever the sample alone would suggest
        return sample_rows(rows, total, columns, [options.split_seed, 5, self.rank])

    def gather(self, cells: Cells) -> Cells:
        """The cells of a column of all workers."""
        values = [part["values"] for part in self.exchange_arrays({"values": cells.values})]
        texts = self.exchange(list(cells.texts)) if cells.texts else [None] * self.workers
        return merge_cells([Cells(*pair) for pair in zip(values, texts, strict=True)])

    def gather_lines(
        self, own: list[Source], sources: list[Source], lines: np.ndarray, rows: np.ndarray
    ) -> list[Source]:
        """The sources with the lines of the rows that were gathered."""
        ends = np.cumsum([0, *(len(source.lines) for source in own)])
        counts = [int(np.count_nonzero((rows >= first) & (rows < end))) for first, end in pairwise(ends)]
        gathered = np.concatenate([part["lines"] for part in self.exchange_arrays({"lines": lines[rows]})])
        parts: dict[Any, list[np.ndarray]] = {key: [] for key, _ in self.counts}
        first = 0
        for (key, _), count in zip(self.counts, chain.from_iterable(self.exchange(counts)), strict=True):
            parts[key].append(gathered[first : first + count])
            first += count
        return [source._replace(lines=np.concatenate(parts[key])) for key, source in zip(parts, sources, strict=True)]

    # Training

    def deal(self, run: Run) -> None:
        self.plan, self.run = run.plan, run
        if len(run.folds) > 1:
            return
        run.program = None  # of a trial of devices
        fold, rank, workers = run.folds[0], self.rank, self.workers
        training, validation = (part[rank::workers] for part in (fold.split.training, fold.split.validation))
        if self.sampled:
            training = np.concatenate([training, self.add_rest(run)])
        fold.own = Split(training, validation, fold.split.test)
        counts = self.exchange(len(training))
        self.training_rows, fewest = sum(counts), min(counts)
        if fewest == 0:
            self.refuse(f"{self.training_rows} training rows are too few for {workers} workers; start fewer")
        run.plan = self.plan = self.plan_calls(run, fewest) if workers > 1 else run.plan._replace(epochs_per_call=1)
        modern.start_fold(run.plan, fold)

    def plan_calls(self, run: Run, rows: int) -> Plan:
        """A plan by which every worker runs the same steps, and none draws a row twice in an epoch.

        An epoch is cut into calls of the program, its segments here; weights are averaged between calls.
        """
        plan, asked = run.plan, run.options.sync_every
        batch_size = min(plan.batch_size, rows)
        steps = rows // batch_size
        in_call = min(max(1, CALL_ROWS // batch_size), asked or steps)
        calls = modern.cut_evenly(steps, math.ceil(steps / in_call), math.floor)
        steps //= calls
        self.every = max(1, asked // steps) if asked else 0
        fewest, _ = modern.segment_steps(steps * batch_size, batch_size, plan.width)
        self.pieces = modern.cut_evenly(steps, fewest, math.floor)
        steps = steps // self.pieces * self.pieces
        rows = max(math.ceil(len(fold.split.validation) / self.workers) for fold in run.folds)
        return plan._replace(
            batch_size=batch_size, segments=calls, steps=steps, epochs_per_call=1, validation_rows=rows
        )

    def add_rest(self, run: Run) -> np.ndarray:
        """Let the features hold the rest of this worker's rows too; their numbers."""
        table = self.together(code_cells, self.rest, run) if self.rest else self.together(lambda: None)
        read, skipped = np.sum(self.exchange([table.read, table.skipped] if table else [0, 0]), axis=0).tolist()
        run.table.read, run.table.skipped = run.table.read + read, run.table.skipped + skipped
        first = run.features.label.size
        if table:
            more = modern.make_features(table, run.encoding)
            run.features = Features(*(np.concatenate(pair, axis=-1) for pair in zip(run.features, more, strict=True)))
        return np.arange(first, run.features.label.size, dtype=np.int32)

    def in_one_call(self, run: Run) -> tuple[Plan, Fold]:
        if len(run.folds) > 1:
            return run.plan, run.folds[0]
        import tensorflow as tf

        self.nothing = tf.constant([-1])  # no validation rows: they are seen to once weights are averaged
        in_call = {"segments": self.pieces, "steps": run.plan.steps // self.pieces}
        return run.plan._replace(**in_call, validation_rows=1), replace(run.folds[0], validation=self.nothing)

    def connect(self, run: Run, program: Callable, data: Features) -> Callable:
        run.decisions["workers"] = Choice(self.workers, "named by TF_CONFIG")
        if len(run.folds) > 1:
            what = f"fold k trains on worker k mod {self.workers}, bit for bit as on one machine"
            self.show(run, what)
            return program
        import tensorflow as tf

        plan, encoding = run.plan, run.encoding

        def check(features: Features, encoder: modern.Encoder, rows: tf.Tensor, state: State) -> tf.Tensor:
            return modern.validate(plan, encoding, encoder, features, rows, state)

        self.program = program
        fold = run.folds[0]
        self.check = tf.function(check, jit_compile=plan.xla, autograph=False)
        self.decide = tf.function(lambda state, loss: modern.end_epoch(plan, state, loss), autograph=False)
        self.check(data, fold.encoder, fold.validation, fold.state)  # compiles it
        reason = "as requested" if self.every else self.measure(run, data)
        steps = min(self.every, plan.segments) * plan.steps
        if self.sampled:
            count, error = len(run.table.label), quantile_error(min(len(run.splits[0].training), modern.SCALE_ROWS))
            what = f"{run.table.read:,} rows were read; columns, encoding, validation and test follow from"
            run.print(f"Sample     {what} {count:,} of them, drawn at random: quantiles within {error:.2%} of the rows")
        run.decisions["sync_every"] = Choice(steps, reason)
        each = f"each trains on {plan.rows:,} rows an epoch"
        self.show(run, f"{each}; weights are averaged every {steps:,} steps ({reason})")
        return self.train_epoch

    def show(self, run: Run, what: str) -> None:
        run.print(f"Workers    {self.workers}: {what}")
        if not self.chief and run.options.quiet:
            shown = f"worker {self.rank} of {self.workers} trains; {self.cluster.name(0)} shows and writes everything"
            modern.Output(False).print(shown)

    def measure(self, run: Run, data: Features) -> str:
        """Choose how many calls of the program to average after, from what both take; the reason."""
        import tensorflow as tf

        plan, fold = run.plan, run.folds[0]
        order = tf.constant(np.resize(fold.own.training, (1, plan.steps * plan.batch_size)))
        state, times = fold.state._replace(epoch=tf.constant(0)), {"call": [], "average": []}
        for _ in range(4):
            arguments = (data, fold.encoder, self.nothing, order, state, fold.seed, tf.constant(1))
            started = time.perf_counter()
            with tf.device(plan.place):
                self.program(*arguments)[0].trained.numpy()
            times["call"].append(time.perf_counter() - started)
            started = time.perf_counter()
            self.average(state)
            times["average"].append(time.perf_counter() - started)
        own = [statistics.median(times["call"]), min(times["average"])]
        call, average = (self.sum(own) / self.workers).tolist()
        self.every = min(plan.segments, max(1, math.ceil(average / call / CALL_SHARE)))
        took = f"a step takes {1e6 * call / plan.steps:,.0f} us, an average {1e3 * average:.1f} ms"
        return f"{took}; " + (
            "once an epoch" if self.every == plan.segments else f"at most {CALL_SHARE:.0%} of the time"
        )

    def train_epoch(
        self,
        features: Features,
        encoder: modern.Encoder,
        validation: tf.Tensor,
        orders: tf.Tensor,
        state: State,
        seed: tf.Tensor,
        last: tf.Tensor,
    ) -> tuple[State, tf.Tensor, tf.Tensor, tf.Tensor]:
        """What the program gives for one epoch, with the weights, measures and decisions of all workers."""
        import tensorflow as tf

        plan, before, counts = self.plan, state, np.zeros(len(modern.COUNTS), np.float32)
        size, seed = plan.steps * plan.batch_size, seed + np.int32(104_729 * self.rank % 2**31)
        for call in range(plan.segments):
            order = orders[:, call * size : (call + 1) * size]
            state, history, _, _ = self.program(features, encoder, self.nothing, order, state, seed, last)
            state = state._replace(**{name: getattr(before, name) for name in DECIDED})  # it saw no validation rows
            counts += history[0, : len(counts)].numpy()
            if (call + 1) % self.every == 0 or call + 1 == plan.segments:
                state = self.average(state)
            if self.agreed.signal:  # the epoch is discarded
                return before, tf.zeros([1, len(modern.HISTORY)]), state.trained[None], state.moving[None]
        own = np.concatenate([counts / self.workers, self.check(features, encoder, validation, state)])
        counts, found = np.split(self.sum_and_listen(own), 2)
        loss = np.float32(found[0] / len(self.run.folds[0].split.validation))
        state = self.decide(state, tf.constant(loss))
        row = np.float32([*counts, loss, *found[1:], before.learning_rate])
        return state, tf.constant(row[None]), state.trained[None], state.moving[None]

    def average(self, state: State) -> State:
        """The mean over workers of what training changes."""
        import tensorflow as tf

        names = ("trained", "moving", "first_moment", "second_moment")
        numbers = [state.loss_scale, state.good_steps, state.step]
        vector = np.concatenate([*(getattr(state, name) for name in names), np.array(numbers, np.float64)])
        vector = self.sum_and_listen(vector) / self.workers
        ends = np.cumsum([getattr(state, name).shape[0] for name in names])
        *means, (scale, good, step) = np.split(vector, ends)
        parts = {name: tf.constant(part, tf.float32) for name, part in zip(names, means, strict=True)}
        scale = tf.constant(2.0 ** math.floor(math.log2(scale)), tf.float32)  # a power of two again
        return state._replace(
            **parts, loss_scale=scale, good_steps=tf.constant(int(good)), step=tf.constant(round(step))
        )

    def call_folds(self, pool: ThreadPoolExecutor, call: Callable, folds: list[Fold]) -> list:
        if len(self.run.folds) == 1:
            return super().call_folds(pool, call, folds)
        import tensorflow as tf

        own = [fold for fold in folds if fold.number % self.workers == self.rank]
        arrays = {"signal": np.array(self.asked.signal)}
        for fold, records in zip(own, pool.map(call, own), strict=True):
            parts = fold.state._asdict() | {f"record_{place}": part for place, part in enumerate(records)}
            arrays |= {f"{fold.number}/{name}": np.asarray(part) for name, part in parts.items()}
        told = self.exchange_arrays(arrays)
        self.note_signals(np.array([part["signal"] for part in told]))
        results = []
        for fold in folds:
            found = told[fold.number % self.workers]
            if fold not in own:
                fold.state = State(*(tf.constant(found[f"{fold.number}/{name}"]) for name in State._fields))
            results.append([found[f"{fold.number}/record_{place}"] for place in range(3)])
        return results

    # Ending

    def agree(self, stop: modern.StopRequest) -> modern.StopRequest:
        self.asked = stop
        return self.agreed

    def sum_and_listen(self, values: np.ndarray) -> np.ndarray:
        """The sum over workers, while they tell each other of signals."""
        told = np.zeros(self.workers)
        told[self.rank] = self.asked.signal
        values, told = np.split(self.sum(np.concatenate([values, told])), [len(values)])
        self.note_signals(told)
        return values

    def note_signals(self, told: np.ndarray) -> None:
        """Stop when a worker was told to, at the same time as the others."""
        if told.any():
            self.told = int(np.argmax(told > 0))
            self.agreed.signal = int(told[self.told])

    def count_rows(self, run: Run) -> tuple[int, int]:
        if not self.sampled:
            return super().count_rows(run)
        return run.table.read - run.table.skipped, self.training_rows

    def epoch_rows(self, plan: Plan) -> int:
        return plan.rows * (self.workers if len(self.run.folds) == 1 else 1)

    def end_early(self, run: Run, number: int, state: modern.StateFile) -> int:
        self.over.set()
        why, code = "", 1
        if number and self.told == self.rank:
            code = 128 + number
        elif number:
            why = f"error: {self.cluster.name(self.told)} was told to stop ({signal.Signals(number).name})"
        if self.chief:
            modern.end_early(run, number, state, why)
        else:
            failed = next((fold.reason for fold in run.folds if fold.failed), "")
            stopped = f"error: {failed}" if failed else f"stopped: {signal.Signals(number or signal.SIGTERM).name}"
            modern.print_error(f"{why or stopped}; worker 0 has saved the state for --resume, if there is one")
        return code

    def finish(self, run: Run, stop: modern.StopRequest, code: int) -> int:
        import tensorflow as tf

        if self.chief and not code:
            self.over.set()  # it needs the others no more
            code = modern.finish(run, stop)
            try:
                self.engine.submit("sum", np.array([float(code)])).result(ANSWER_SECONDS)
            except (tf.errors.OpError, TimeoutError):
                modern.print_error("warning: a worker has ended early; all files are written")
        elif not code:
            code = int(self.sum([0.0])[0])
            self.over.set()
        self.remove_folder()
        return code


if __name__ == "__main__":
    sys.exit("distributed.py is a part of train_model_modern.py: start that on every machine, with TF_CONFIG set")
