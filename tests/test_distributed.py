"""Groups of workers.

Reading and averaging are tested in this process, each worker in a thread; whole groups are processes on loopback, which
read, train, fail and go on together.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, environment_of_a_user, metrics_of, predictions_of, weights_of, write_rows

import train_model_modern
from harvest.cli import StopRequest, UserError
from harvest.data.csv_file import open_csv, read_columns
from harvest.data.encoding import fit_encoding, make_features, scale_numbers
from harvest.data.splits import make_splits
from harvest.data.table import generate_table, read_table
from harvest.run_directory import RESULT_FILES, RESUME_FILE
from harvest.training.config import SEGMENT_ROWS, Plan
from harvest.training.distributed import cluster, engine, group, shared_training, shares
from harvest.training.distributed.shared_training import SharedTraining
from harvest.training.interrupted import read_state
from harvest.training.program import Weights, first_state


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two files of unequal size, with missing cells, text, and, in one of them, quotes."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name, rows in (("a.csv", 1_100), ("b.csv", 500)):
        header, *lines = write_rows(folder / name, 1_100, seed=1).read_text().splitlines()
        with (folder / name).open("w") as file:
            file.write(f"{header},place,score\n")
            for number, line in enumerate(lines[:rows] if name == "a.csv" else lines[-rows:]):
                quoted = name == "b.csv" and number % 50 == 0
                place = '"home, sweet"' if quoted else generator.choice(["home", "work", ""])
                file.write(f"{line},{place},{'' if number % 7 == 0 else round(generator.normal(), 3)}\n")
    return folder


# Who there is


def config(addresses, kind="worker", index=0, **other):
    return json.dumps({"cluster": {"worker": addresses} | other, "task": {"type": kind, "index": index}})


LOCAL = ["127.0.0.1:1", "127.0.0.1:2"]
REFUSED = {
    "not JSON": ("{", [], "must name each worker once"),
    "no task": (json.dumps({"cluster": {"worker": LOCAL}}), [], "must name each worker once"),
    "another task": (config(LOCAL, "evaluator"), [], "must name each worker once"),
    "a number too high": (config(LOCAL, index=2), [], "must name each worker once"),
    "a number too low": (config(LOCAL, index=-1), [], "must name each worker once"),
    "an endless number": (config(LOCAL).replace('"index": 0', '"index": 1e999'), [], "must name each worker once"),
    "no port": (config(["127.0.0.1", "127.0.0.1:2"]), [], "must name each worker once"),
    "an address twice": (config(["127.0.0.1:1", "127.0.0.1:1"]), [], "must name each worker once"),
    "another machine": (config(["127.0.0.1:1", "10.0.0.7:1"]), [], "10.0.0.7:1, which is not loopback"),
    "a name": (config(["localhost:1", "trainer-1:2222"]), [], "trainer-1:2222, which is not loopback"),
    "--describe": (config(LOCAL), ["--describe"], "--describe runs in one process: unset TF_CONFIG"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_anything_starts(case, data, tmp_path, monkeypatch, capsys):
    text, flags, words = REFUSED[case]
    monkeypatch.setenv("TF_CONFIG", text)
    monkeypatch.setattr("harvest.training.tensorflow_setup.import_tensorflow", None)
    assert train_model_modern.main([str(data / "a.csv"), "--model-dir", str(tmp_path / "model"), *flags]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "model").exists()


def test_other_machines_are_talked_to_when_the_network_is_trusted(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config(["10.0.0.8:1"], "worker", 0, chief=["10.0.0.7:1"]))
    found = cluster.find_cluster(argparse.Namespace(trust_network=True, describe=False))
    assert found == (["10.0.0.7:1", "10.0.0.8:1"], 1)
    for address in ("127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1"):
        assert cluster.is_loopback(address)


@pytest.mark.parametrize("text", [None, "", "{}", config(["10.0.0.7:1"])])
def test_one_worker_in_tf_config_is_no_group(monkeypatch, text):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    assert cluster.find_cluster(argparse.Namespace()) is None


def test_versions_programs_and_flags_are_compared_but_not_paths():
    args = train_model_modern.parse_args(["x.csv", "--quiet", "--seed", "7"])
    described = cluster.describe_program(args, ROOT / "train_model_modern.py")
    assert {"Python", "numpy", "train_model_modern.py", "harvest/training/program.py", "--seed"} <= set(described)
    assert described["--seed"] == "7" and not {"--csv", "--quiet", "--resume", "--model-dir"} & set(described)


def test_nobody_waits_longer_than_a_minute():
    assert group.START_SECONDS + 5 < 60
    assert group.ANSWER_SECONDS + 4 * group.CHECK_SECONDS < 60


# Which worker reads what


def test_which_files_are_shared(data, tmp_path):
    (tmp_path / "a.csv").write_bytes((data / "a.csv").read_bytes() + b"1,2,3,4,1,home,0\n")
    a, b, longer = (shares.look_at(path) for path in (data / "a.csv", data / "b.csv", tmp_path / "a.csv"))
    wide = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        header = ",".join(f"column_{n}" for n in range(200))
        (tmp_path / place / "a.csv").write_text(f"{header}\n{place}{',1' * 199}\n")
        wide.append([shares.look_at(tmp_path / place / "a.csv")])
    assert shares.are_shared([[a, b], [b, a]])
    assert not shares.are_shared([[a], [b]]) and not shares.are_shared(wide)
    for listings, ranks, lone in (
        ([[a], [a, b]], (0, 1, 1), b),
        ([[a], [a], [b]], (0, 1, 2), a),
        ([[a], [b], [longer]], (0, 2, 1), a),
    ):
        with pytest.raises(UserError) as error:
            shares.are_shared(listings)
        who = "workers {} and {} both have a.csv, but only one of workers 0 and {} has".format(*ranks)
        cure = "give all workers the same files, which must not change, or each its own"
        assert str(error.value) == f"{who} {lone.name} with {lone.size:,} bytes; {cure}"


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 40])
def test_parts_of_files_are_their_lines_each_once(workers, data, tmp_path):
    (tmp_path / "c.csv").write_text("foreground_app,productive\n1,1\n2,0")
    paths = [str(data / "a.csv"), str(data / "b.csv"), str(tmp_path / "c.csv")]
    sizes = [os.path.getsize(path) for path in paths]
    cut = [shares.cut_files(paths, sizes, rank, workers) for rank in range(workers)]
    seen = {path: [] for path in paths}
    for rank in range(workers):
        for number, part in shares.choose_parts(cut, sizes, rank):
            seen[paths[number]] += open_csv(paths[number], False, byte_range=part).line_numbers.tolist()
    assert seen == {path: open_csv(path, False).line_numbers.tolist() for path in paths}


def test_quantiles_of_a_sample_are_as_exact_as_is_said(monkeypatch):
    monkeypatch.setattr(shares, "SAMPLE_ROWS", 5_000)
    sizes, errors = (40_000, 10_000, 1_000), []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        parts = [generator.lognormal(rank, 2, size) for rank, size in enumerate(sizes)]
        whole = np.sort(np.concatenate(parts))
        rows = [shares.sample_rows(len(part), sum(sizes), 5, [seed, rank]) for rank, part in enumerate(parts)]
        sample = np.concatenate([part[own] for part, own in zip(parts, rows, strict=True)])
        assert len(sample) == 5_000
        for share in (0.25, 0.5, 0.75):
            errors.append(abs(np.searchsorted(whole, np.quantile(sample, share)) / len(whole) - share))
    assert max(errors) < shares.quantile_error(5_000) == pytest.approx(0.0212, abs=1e-4)
    assert np.mean(errors) > 0.1 * shares.quantile_error(5_000)  # the error said is not far too large


# Workers as threads of this process


class LocalEngine(engine.Engine):
    """What the workers exchange, when they are threads."""

    def __init__(self, rank, given, barrier):
        self.rank, self.given, self.barrier = rank, given, barrier

    def call(self, kind, values):
        self.given[self.rank] = values
        self.barrier.wait(20)
        assert len({part.shape for part in self.given}) == 1
        result = sum(self.given) if kind == "sum" else np.concatenate(self.given)
        self.barrier.wait(20)
        return result


class LocalGroup(group.Group):
    def __init__(self, rank, workers, given, barrier):
        self.rank, self.workers, self.chief = rank, workers, rank == 0
        self.engine, self.rest, self.folder = LocalEngine(rank, given, barrier), None, None
        self.agreed, self.asked, self.stopped_by = StopRequest(), StopRequest(), None
        self.over = threading.Event()


def as_workers(count, work):
    """What work(group) gives or raises, on each of so many workers."""
    barrier, given = threading.Barrier(count), [None] * count

    def one(rank):
        try:
            return work(LocalGroup(rank, count, given, barrier))
        except UserError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


STARTS = {
    "all goes well": "",
    "other flags": "worker 1 has --seed 1, but worker 0 has 0",
    "a directory of the user's": "was not written by this program",
    "no place for a directory": "",
    "few generated rows": "only 5 usable rows",
    "bad data": "3 fields where 2 are expected",
}


@pytest.mark.parametrize("case", STARTS)
def test_a_worker_that_is_over_leaves_nothing_in_the_temporary_directory(case, data, tmp_path, monkeypatch):
    temporary, folder = tmp_path / "temporary", tmp_path / "model"
    for made in (temporary, folder):
        made.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    (tmp_path / "bad.csv").write_text("foreground_app,productive\n1,1\n2,0,7\n")
    files = {"few generated rows": ("--sample", "5"), "bad data": (tmp_path / "bad.csv",)}.get(case, (data / "a.csv",))
    if case == "a directory of the user's":
        (folder / "metrics.json").write_text("mine")
    barrier, given = threading.Barrier(2), [None] * 2
    monkeypatch.setattr(group, "Engine", lambda cluster, _: LocalEngine(cluster.rank, given, barrier))
    monkeypatch.setattr(group, "find_devices", lambda _: None)
    monkeypatch.setattr(group.Group, "wait_for_others", lambda _: None)
    make_folder = tempfile.mkdtemp

    def make_full(*args, **more):
        made = make_folder(*args, **more)
        Path(made, "model").touch()  # in the place of the directory that a worker makes
        return made

    if case == "no place for a directory":
        monkeypatch.setattr(group.tempfile, "mkdtemp", make_full)

    def work(rank):
        flags = ("--model-dir", folder, "--seed", rank if case == "other flags" else 7)
        args = args_for(*files, *flags)
        try:
            made = group.Group(cluster.Cluster(LOCAL, rank), args, ROOT / "train_model_modern.py")
            with contextlib.closing(made):
                if case != "no place for a directory":  # of which the other worker would not hear
                    (generate_table if args.sample else read_table)(args, made)
                assert (args.model_dir == folder) == (rank == 0) == (made.folder is None)
        except (UserError, OSError) as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        errors = list(pool.map(work, range(2)))
    assert os.listdir(temporary) == []
    if case == "no place for a directory":
        assert errors[0] == "" and "File exists" in errors[1]
    else:
        assert all(STARTS[case] in error and bool(error) == bool(STARTS[case]) for error in errors), errors


def args_for(*flags):
    return train_model_modern.parse_args([str(flag) for flag in flags])


def same_table(one, other):
    assert one.frame.equals(other.frame) and one.columns == other.columns and one.label.tolist() == other.label.tolist()
    assert one.line_numbers.tolist() == other.line_numbers.tolist() and one.files.tolist() == other.files.tolist()
    assert (one.read, one.skipped) == (other.read, other.skipped)
    assert (one.names, one.notes) == (other.names, other.notes)


@pytest.mark.parametrize("workers", [2, 3, 17])
def test_workers_that_share_files_read_the_table_of_one_process(workers, data, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "PIECE_BYTES", 1_000)
    (tmp_path / "c.csv").write_text("score,productive,label_id\nx,1,5\n2,0,\n,1,7\n\n1,2,3,4\n")
    flags = (data / "a.csv", data / "b.csv", tmp_path / "c.csv", "--skip-bad-rows")
    alone, time_column = read_table(args_for(*flags))
    for table, decision in as_workers(workers, lambda group: read_table(args_for(*flags), group)):
        same_table(alone, table)
        assert decision == time_column


def test_workers_with_files_of_their_own_read_the_table_of_one_process(data, tmp_path):
    text = "foreground_app,productive,place,score\n" + "1,1,home,2\n2,0,,x\n3,1,work,\n" * 20
    (tmp_path / "c.csv").write_text(text)  # score is a number in the other files, and columns are missing
    files = (data / "a.csv", data / "b.csv", tmp_path / "c.csv")
    flags = ("--categorical", "score")
    alone, _ = read_table(args_for(*files, *flags))
    args = [args_for(file, *flags) for file in files]
    for table, _ in as_workers(3, lambda group: read_table(args[group.rank], group)):
        same_table(alone, table)
    assert args[0].csv == [f"worker {rank}{file}" for rank, file in enumerate(files)]


def test_workers_agree_which_columns_are_not_read(tmp_path):
    """The times of one file are durations in the other, which has no timestamps."""
    lines = [f"2026-01-31 10:{row % 60:02d},2026-01-31,{row % 7},{row % 2}\n" for row in range(90)]
    (tmp_path / "a.csv").write_text("timestamp,time,x,productive\n" + "".join(lines))
    (tmp_path / "b.csv").write_text("time,x,productive\n" + "".join(f"{row},3,{row % 2}\n" for row in range(40)))
    files = (tmp_path / "a.csv", tmp_path / "b.csv")
    alone, _ = read_table(args_for(*files))
    assert [(column.name, column.reason, column.missing) for column in alone.columns[1:]] == [
        ("timestamp", "a timestamp", None),
        ("x", "", 0),
    ]
    for workers in (2, 5):
        for table, _ in as_workers(workers, lambda group: read_table(args_for(*files), group)):
            same_table(alone, table)


@pytest.mark.parametrize("whole_table", [("--folds", "5"), ("--split", "time")])
def test_a_sample_is_refused_where_every_row_must_be_known(whole_table, data, monkeypatch):
    monkeypatch.setattr(shares, "GATHERED_CELLS", 7_000)
    flags = (data / "a.csv", *whole_table)
    tables = as_workers(2, lambda group: read_table(args_for(*flags), group))
    assert [len(table.label) for table, _ in tables] == [1_100] * 2  # up to a higher limit
    monkeypatch.setattr(shares, "LARGEST_GATHERED", 7_000)
    for error in as_workers(2, lambda group: read_table(args_for(*flags), group)):
        assert str(error).startswith(f"{' '.join(whole_table)}: 1,100 rows have more than 7,000 cells")


def test_of_too_many_rows_each_worker_adds_the_rest_of_its_part(data, monkeypatch):
    monkeypatch.setattr(shares, "GATHERED_CELLS", 7_000)
    monkeypatch.setattr(shares, "SAMPLE_ROWS", 600)
    flags = (data / "a.csv", data / "b.csv")
    alone, _ = read_table(args_for(*flags))

    def work(group):
        args = args_for(*flags)
        table, _ = read_table(args, group)
        splits = make_splits(args, table.label, 1)
        encoding, _, features = fit_encoding(table, splits)
        shared = SharedTraining(group, None, [SimpleNamespace(split=splits[0])], None, encoding, table)
        return args, table, encoding, features, shared.add_rest(features, args)

    (args, table, encoding, sample, _), *_ = workers = as_workers(3, work)
    gathered = len(table.label)
    assert args.folds == 1 and abs(gathered - 600) <= 2 and (table.read, table.skipped) == (1_600, 0)
    lines = set(zip(alone.files.tolist(), alone.line_numbers.tolist(), alone.label.tolist(), strict=True))
    assert set(zip(table.files.tolist(), table.line_numbers.tolist(), table.label.tolist(), strict=True)) < lines
    assert [column.name for column in table.columns] == [column.name for column in alone.columns]
    rest = [features.numbers[:, gathered:] for *_, features in workers]
    assert min(part.shape[1] for part in rest) > 200
    found = np.concatenate([sample.numbers, *rest], axis=1)
    raw = np.stack([alone.numbers(column.name) for column in alone.of_kind("number")], axis=1)
    expected = np.transpose(scale_numbers(raw, encoding.scaler))
    np.testing.assert_array_equal(np.unique(found, axis=1), np.unique(expected, axis=1))
    assert found.shape == expected.shape
    assert sum(features.labels[gathered:].sum() for *_, features in workers) + sample.labels.sum() == alone.label.sum()


def test_what_a_sample_does_not_hold_is_unknown(data):
    args = args_for(data / "a.csv")
    table, _ = read_table(args)
    splits = make_splits(args, table.label, 1)
    encoding, _, features = fit_encoding(table, splits)
    rows = np.arange(3)
    file = open_csv(str(data / "a.csv"), False)
    cells = read_columns([file], file.names, {"foreground_app", "place", "productive"})
    cells = {name: part.iloc[rows] for name, part in cells.items()}
    cells["place"] = pd.Series(pd.Categorical(["home", "moon", "home"]))
    cells["productive"] = pd.Series(pd.Categorical(["1", "0", "2"]))
    coded = shares.code_rest(shares.Rest(cells, [file], rows), table, "productive", skip_bad_rows=True)
    assert (coded.read, coded.skipped, coded.label.tolist()) == (3, 1, [1.0, 0.0])
    more = make_features(coded, encoding)
    place = [column.name for column in table.of_kind("category")].index("place")
    known = features.categories[place][table.frame["place"].to_numpy() == "home"][0]
    assert more.categories[place].tolist() == [known, encoding.first_indices[place]]
    with pytest.raises(UserError, match=r"a\.csv: line 4: a label that is not 0 or 1, or text.*--skip-bad-rows"):
        shares.code_rest(shares.Rest(cells, [file], rows), table, "productive", skip_bad_rows=False)


def test_bad_data_of_one_worker_is_said_by_all(data, tmp_path):
    (tmp_path / "bad.csv").write_text("foreground_app,productive\n1,1\n2,0,7\n")
    files = (data / "a.csv", tmp_path / "bad.csv")
    first, second = as_workers(2, lambda group: read_table(args_for(files[group.rank]), group))
    assert str(first) == str(second) and str(first).startswith(f"worker 1: {tmp_path / 'bad.csv'}: line 3: 3 fields")
    missing = as_workers(2, lambda group: read_table(args_for(tmp_path / "no.csv"), group))
    assert {str(error).partition(":")[0] for error in missing} == {str(tmp_path / "no.csv")}  # not of one worker


def test_weights_are_averaged_and_signals_heard():
    def work(group):
        group.asked.signal = signal.SIGTERM if group.rank == 1 else 0
        shared = SharedTraining(group, None, [], None, None, None)
        weights = Weights(np.full(3, group.rank, np.float32), np.arange(2, dtype=np.float32))
        state = first_state(weights, 0.5)._replace(loss_scale=np.float32(2.0 ** (10 + 2 * group.rank)))
        return shared.average(state), group.agreed.signal, group.stopped_by

    for state, number, worker in as_workers(2, work):
        assert state.trained.numpy().tolist() == [0.5] * 3 and state.moving.numpy().tolist() == [0, 1]
        assert state.loss_scale.numpy() == 2.0**11 and (number, worker) == (signal.SIGTERM, 1)


def test_what_workers_exchange_is_read_back_and_holds_no_objects():
    arrays = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.array(2.5), "c": np.empty((0, 3))}
    for name, array in engine.unpack(engine.pack(arrays)).items():
        np.testing.assert_array_equal(array, arrays[name], strict=True)
    with pytest.raises(ValueError, match="OBJECT"):
        engine.unpack(engine.pack({"a": np.array([print])}))


@pytest.mark.parametrize("asked", [None, 1, 7, 10**6])
@pytest.mark.parametrize("batch_size", [8, 256, 5_000, 8_192, 20_000])
@pytest.mark.parametrize("rows", [30, 999, 70_000, 350_001, 1_000_000])
def test_an_epoch_is_cut_into_calls_that_leave_few_rows_out(rows, batch_size, asked):
    folds = [SimpleNamespace(split=SimpleNamespace(val=range(10)))]
    plan = Plan(width=63, batch_size=batch_size, segments=0, steps=0, epochs_per_call=0, validation_rows=10)
    worker = SimpleNamespace(group=SimpleNamespace(workers=2), plan=plan, folds=folds)
    made = SharedTraining.plan_calls(worker, rows, asked)
    steps = rows // made.batch_size
    assert 0.8 * steps <= made.segments * made.steps <= steps and made.steps % worker.pieces == 0
    assert made.steps * made.batch_size <= max(shared_training.CALL_ROWS, made.batch_size)
    assert made.steps // worker.pieces * made.batch_size <= max(SEGMENT_ROWS, made.batch_size)
    if asked:
        assert 1 <= worker.every * made.steps <= max(asked, made.steps)


# Groups of processes

# A worker that notes what it averaged and how many lines it read; with shorter waits, so that tests are quick.
WORKER = f"""
import hashlib, json, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
import train_model_modern
from harvest import cli
from harvest.training.tensorflow_setup import import_tensorflow, prepare_environment

prepare_environment(False, xla=False)
import_tensorflow()
from harvest.training.distributed import cluster, group, shared_training, shares

notes = dict(averages=[], lines=[], started=False)
settings = json.loads(os.environ["SETTINGS"])
for name, value in settings.get("constants", dict()).items():
    for module in (group, shares):
        if hasattr(module, name):
            setattr(module, name, value)
rank = str(json.loads(os.environ["TF_CONFIG"])["task"]["index"])
version = cluster.metadata_version
other = settings.get("numpy_of", dict()).get(rank)
cluster.metadata_version = lambda package: other if other and package == "numpy" else version(package)
Training = shared_training.SharedTraining
average, open_csv, connect = Training.average, group.open_csv, Training.connect

def write():
    with open(settings["notes"] + ".new", "w") as file:
        json.dump(notes, file)
    os.replace(settings["notes"] + ".new", settings["notes"])

def noted_average(self, state):
    state = average(self, state)
    digest = hashlib.blake2b(b"".join(np.asarray(part).tobytes() for part in state[:5])).hexdigest()
    notes["averages"].append([int(state.step), digest])
    write()
    if len(notes["averages"]) == settings.get("stop_after", dict()).get(rank):
        os.kill(os.getpid(), signal.SIGTERM)
    return state

def noted_file(*arguments, **options):
    file = open_csv(*arguments, **options)
    notes["lines"] += file.line_numbers.tolist()
    return file

def noted_connect(self, *arguments):
    notes["started"], notes["epoch"] = True, self.plan.rows
    notes["own"] = self.folds[0].own.train.tolist() if self.folds[0].own else []
    write()
    return connect(self, *arguments)

Training.average, group.open_csv, Training.connect = noted_average, noted_file, noted_connect
if settings.get("alone"):  # the same epochs as without a group, cut into calls
    cluster.find_cluster = lambda args: cluster.Cluster(json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"], 0)
    Training.plan_calls = lambda self, rows, asked: self.plan._replace(epochs_per_call=1)
cli.run(train_model_modern.main)
"""


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Workers:
    """A group that is running. Temporary directories of its workers are made in its folder."""

    def __init__(self, folder, arguments, workers=2, absent=(), **settings):
        self.folder, self.processes = folder, {}
        addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
        (folder / "tmp").mkdir(exist_ok=True)
        for rank in set(range(workers)) - set(absent):
            place = folder / str(rank)
            place.mkdir(exist_ok=True)
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
            own = settings | {"notes": str(folder / f"{rank}.json")}
            more = {"TF_CONFIG": json.dumps(task), "SETTINGS": json.dumps(own), "TMPDIR": str(folder / "tmp")}
            self.processes[rank] = subprocess.Popen(
                [sys.executable, "-c", WORKER, *map(str, arguments[rank])],
                env=environment_of_a_user(**more),
                cwd=place,
                stdout=(folder / f"{rank}.out").open("w"),
                stderr=(folder / f"{rank}.err").open("w"),
            )

    @property
    def model(self):
        return self.folder / "0" / "model"

    def notes(self, rank):
        return json.loads((self.folder / f"{rank}.json").read_text())

    def wait_for(self, what, seconds=240):
        """Wait until what(notes) holds of every worker."""
        last = time.monotonic() + seconds
        while time.monotonic() < last:
            try:
                if all(what(self.notes(rank)) for rank in self.processes):
                    return
            except (OSError, ValueError):
                pass
            if any(process.poll() is not None for process in self.processes.values()):
                raise AssertionError(self.told())
            time.sleep(0.05)
        self.kill()
        raise AssertionError(self.told())

    def told(self):
        return {path.name: path.read_text() for path in self.folder.glob("*.[oe][ur][tr]")}

    def end(self, codes, seconds=200):
        """Wait for all to end with these exit codes, nothing temporary left: what each of them said."""
        ended = {}
        for rank, process in self.processes.items():
            process.wait(timeout=seconds)
            out, err = ((self.folder / f"{rank}.{kind}").read_text() for kind in ("out", "err"))
            err = "".join(line for line in err.splitlines(True) if "absl::" not in line and "port.cc" not in line)
            ended[rank] = SimpleNamespace(out=out, err=err)
        if [process.returncode for process in self.processes.values()] != codes:
            raise AssertionError(self.told())
        return ended

    def kill(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a group; what is left of it at the end of the tests is killed."""
    groups = []

    def call(arguments, folder=None, **settings):
        groups.append(Workers(folder or tmp_path_factory.mktemp("group"), arguments, **settings))
        return groups[-1]

    yield call
    for one in groups:
        one.kill()


def plain(folder: Path, *arguments):
    """The same run by one process."""
    assert train_model_modern.main([*map(str, arguments), "--quiet", "--model-dir", str(folder)]) == 0
    return folder


def same_model(one, other):
    for left, right in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_array_equal(left, right)
    first, second = metrics_of(one), metrics_of(other)
    for name in ("rows", "test", "baselines", "temperature", "importance", "best_epoch"):
        assert first[name] == second[name], name
    assert (one / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()


FLAGS = ("--folds", "1", "--epochs", "6", "--batch-size", "32", "--sync-every", "10")


@pytest.fixture(scope="module")
def together(start, data):
    """Two workers that have trained one network: the group, and what each said."""
    flags = [data / "a.csv", data / "b.csv", *FLAGS]
    one = start([flags, flags])
    return one, one.end([0, 0])


def test_two_workers_read_their_parts_and_average_to_equal_weights(together, data, train):
    workers, ended = together
    averages = [workers.notes(rank)["averages"] for rank in (0, 1)]
    assert averages[0] == averages[1]
    steps = [step for step, _ in averages[0]]
    assert len(steps) >= 6 * 2 and max(np.diff([0, *steps])) <= 10
    lines = [workers.notes(rank)["lines"] for rank in (0, 1)]
    assert min(map(len, lines)) > 400 and sum(map(len, lines)) == 1_600
    own = [workers.notes(rank)["own"] for rank in (0, 1)]
    assert not set(own[0]) & set(own[1]) and len(own[0]) + len(own[1]) == 1_120
    assert workers.notes(0)["epoch"] == workers.notes(1)["epoch"] <= min(map(len, own))  # no row is drawn twice
    alone = train(*FLAGS[:-2], csv=[data / "a.csv", data / "b.csv"])
    one, two = metrics_of(alone), metrics_of(workers.model)
    assert one["baselines"] == two["baselines"]  # the same encoders, split and linear model
    rows = [[list(row.values())[:4] for row in predictions_of(folder)] for folder in (alone, workers.model)]
    assert rows[0] == rows[1]  # the same rows were tested
    assert abs(one["test"]["roc_auc"] - two["test"]["roc_auc"]) < 0.03
    assert two["settings"]["workers"] == 2 and "Workers    2" in ended[0].out
    assert len(ended[1].out.splitlines()) == 1 and not ended[1].err and not list((workers.folder / "1").iterdir())
    assert not list((workers.folder / "tmp").iterdir())


@pytest.mark.slow
def test_one_worker_trains_to_the_bits_of_a_process_without_a_group(start, data, tmp_path):
    flags = [data / "a.csv", "--folds", "1", "--epochs", "30", "--batch-size", "32"]
    workers = start([flags], workers=1, alone=True)
    workers.end([0])
    assert len(workers.notes(0)["averages"]) >= 11
    same_model(plain(tmp_path / "plain", *flags), workers.model)


@pytest.mark.slow
def test_folds_on_two_workers_with_files_of_their_own(start, data, tmp_path):
    flags = ["--folds", "3", "--epochs", "30"]
    workers = start([[data / name, *flags] for name in ("a.csv", "b.csv")])
    workers.end([0, 0])
    same_model(plain(tmp_path / "plain", data / "a.csv", data / "b.csv", *flags), workers.model)


@pytest.mark.slow
def test_a_group_that_was_told_to_stop_goes_on_to_the_same_bits(start, data, together):
    flags = [data / "a.csv", data / "b.csv", *FLAGS]
    stopped = start([flags, flags], stop_after={"1": 7})  # in epoch 4, which is discarded
    ended = stopped.end([1, 143])
    assert "received SIGTERM; continue with --resume" in ended[0].err and len(ended[0].err.splitlines()) == 1
    assert ended[1].err.startswith("stopped: SIGTERM") and len(ended[1].err.splitlines()) == 1
    assert {path.name for path in stopped.model.iterdir()} == {".lock", "checkpoints", "logs", "resume.npz"}
    assert not list((stopped.folder / "tmp").iterdir())
    resumed = start([[*flags, "--resume"], flags], folder=stopped.folder)  # the others follow the chief
    ended = resumed.end([0, 0])
    assert "Resuming   after epoch 3" in ended[0].out
    same_model(together[0].model, resumed.model)
    assert not list((stopped.folder / "tmp").iterdir())


@pytest.mark.slow
def test_of_too_many_rows_a_sample_is_gathered_and_the_rest_is_trained_on(start, data, together):
    flags = [data / "a.csv", data / "b.csv", *FLAGS[2:]]  # one network without being asked for
    assert FLAGS[:2] == ("--folds", "1")
    workers = start([flags, flags], constants={"GATHERED_CELLS": 7_000, "SAMPLE_ROWS": 600})
    ended = workers.end([0, 0])
    assert workers.notes(0)["averages"] == workers.notes(1)["averages"]
    metrics, whole = metrics_of(workers.model), metrics_of(together[0].model)
    assert metrics["rows"] == {"read": 1600, "used": 1600, "skipped": 0, "train": 1420, "validation": 90, "test": 90}
    steps = workers.notes(0)["averages"][-1][0] / 6
    assert 0.85 * 1420 / 2 / 32 < steps <= 1420 / 2 / 32  # an epoch sees nearly all rows, none of them twice
    assert metrics["settings"]["columns"] == whole["settings"]["columns"]
    assert abs(metrics["test"]["roc_auc"] - whole["test"]["roc_auc"]) < 0.1
    assert "600 of them" in ended[0].out
    labels = {(row["file"], row["line"]): row["label"] for row in predictions_of(together[0].model)}
    tested = {(row["file"], row["line"]): row["label"] for row in predictions_of(workers.model)}
    both = set(tested) & set(labels)
    assert len(both) > 3 and all(labels[row] == tested[row] for row in both)  # lines are those of the files


@pytest.mark.slow
@pytest.mark.parametrize(("number", "rank"), [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 1)])
def test_survivors_leave_when_a_worker_is_gone(start, data, number, rank):
    flags = [data / "a.csv", *FLAGS, "--epochs", "100000", "--no-early-stopping", "--no-tensorboard"]
    workers = start([flags] * 2, constants={"ANSWER_SECONDS": 8})
    workers.wait_for(lambda notes: len(notes["averages"]) > 5)
    workers.processes[rank].send_signal(number)
    lost = workers.processes.pop(rank)
    ended = workers.end([1], seconds=60)
    lost.kill()
    lost.wait()
    (survivor,) = ended.values()
    assert len(survivor.err.splitlines()) == 1, workers.told()
    fault = "has not responded for 8 s" if number == signal.SIGSTOP else "has exited"
    assert survivor.err.startswith("error: worker") and f"worker {rank} (127.0.0.1" in survivor.err
    assert fault in survivor.err
    left = {path.name for path in workers.model.iterdir()}
    assert not left & set(RESULT_FILES) and RESUME_FILE in left
    read_state(workers.model / RESUME_FILE)
    if rank:
        assert "restart the group with --resume" in survivor.err
    else:
        assert not list((workers.folder / "tmp").iterdir())  # the survivor's is gone


@pytest.mark.slow
def test_a_worker_that_never_starts_is_named(start, data):
    workers = start([[data / "a.csv", *FLAGS]] * 2, absent=[1], constants={"START_SECONDS": 3})
    (ended,) = workers.end([1], seconds=60).values()
    assert len(ended.err.splitlines()) == 1, workers.told()
    assert "worker 1 (127.0.0.1" in ended.err and "did not start within 3 s" in ended.err
    assert not list((workers.folder / "0").iterdir())


DIFFERENCES = {
    "a flag": (["--seed", "7"], {}, "worker 1 has --seed 7, but worker 0 has 42"),
    "a version": ([], {"numpy_of": {"1": "1.0.0"}}, f"worker 1 has numpy 1.0.0, but worker 0 has {np.__version__}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("difference", DIFFERENCES)
def test_workers_that_differ_are_refused(start, data, difference):
    flags, settings, words = DIFFERENCES[difference]
    workers = start([[data / "a.csv", *FLAGS], [data / "a.csv", *FLAGS, *flags]], **settings)
    for ended in workers.end([2, 2]).values():
        assert len(ended.err.splitlines()) == 1 and words in ended.err, workers.told()
    assert not list((workers.folder / "0").iterdir()) and not list((workers.folder / "tmp").iterdir())


@pytest.mark.slow
def test_data_that_is_refused_leaves_nothing_temporary(start, tmp_path):
    (tmp_path / "few.csv").write_text("foreground_app,productive\n1,1\n2,0\n")  # said of the table, not of a part
    workers = start([[tmp_path / "few.csv"]] * 2)
    for ended in workers.end([2, 2]).values():
        assert "only 2 usable rows" in ended.err and len(ended.err.splitlines()) == 1
    assert not list((workers.folder / "tmp").iterdir())
