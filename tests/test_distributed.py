"""Groups of workers: real processes on loopback, which read, train, fail and go on together."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT

import train_model_modern as modern

distributed = modern.import_beside("distributed")

# A worker that notes what it averaged and how many lines it read; with shorter waits, so that tests are quick.
WORKER = f"""
import hashlib, json, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
import train_model_modern as modern

distributed = modern.import_beside("distributed")
notes = dict(averages=[], lines=[], started=False)
settings = json.loads(os.environ["SETTINGS"])
for name, value in settings.get("constants", dict()).items():
    setattr(distributed, name, value)
rank = str(json.loads(os.environ["TF_CONFIG"])["task"]["index"])
version = modern.metadata_version
other = settings.get("numpy_of", dict()).get(rank)
modern.metadata_version = lambda package: other if other and package == "numpy" else version(package)
average, find_source, connect = distributed.Group.average, modern.find_source, distributed.Group.connect

def write():
    with open(settings["notes"] + ".new", "w") as file:
        json.dump(notes, file)
    os.replace(settings["notes"] + ".new", settings["notes"])

def noted_average(self, state):
    state = average(self, state)
    digest = hashlib.blake2b(b"".join(np.asarray(part).tobytes() for part in state[:5])).hexdigest()
    notes["averages"].append([int(state.step), digest])
    write()
    if len(notes["averages"]) == settings.get("stop_after", dict()).get(str(self.rank)):
        os.kill(os.getpid(), signal.SIGTERM)
    return state

def noted_source(*arguments, **options):
    source = find_source(*arguments, **options)
    notes["lines"] += source.lines.tolist()
    return source

def noted_connect(self, run, program, data):
    notes["started"], notes["epoch"] = True, run.plan.rows
    notes["own"] = run.folds[0].own.training.tolist() if run.folds[0].own else []
    write()
    return connect(self, run, program, data)

distributed.Group.average, modern.find_source, distributed.Group.connect = noted_average, noted_source, noted_connect
if settings.get("alone"):
    modern.join_group = lambda: distributed.Group
modern.run_command(modern.main)
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Workers:
    """A group that is running."""

    def __init__(self, folder, arguments, workers=2, absent=(), **settings):
        self.folder, self.processes = folder, {}
        addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
        environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "TF_CONFIG")}
        for rank in set(range(workers)) - set(absent):
            place = folder / str(rank)
            place.mkdir(exist_ok=True)
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
            own = settings | {"notes": str(folder / f"{rank}.json")}
            self.processes[rank] = subprocess.Popen(
                [sys.executable, "-c", WORKER, *map(str, arguments[rank])],
                env=environment | {"TF_CONFIG": json.dumps(task), "SETTINGS": json.dumps(own)},
                cwd=place,
                stdout=(folder / f"{rank}.out").open("w"),
                stderr=(folder / f"{rank}.err").open("w"),
            )

    def notes(self, rank):
        return json.loads((self.folder / f"{rank}.json").read_text())

    def wait_for(self, what, seconds=120):
        """Wait until what(notes) holds of the chief and the last worker."""
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
        raise AssertionError(self.told())

    def told(self):
        return {path.name: path.read_text() for path in self.folder.glob("*.[oe][ur][tr]")}

    def end(self, seconds=200):
        """Wait for all to end: what each of them said and its exit code."""
        ended = {}
        for rank, process in self.processes.items():
            code = process.wait(timeout=seconds)
            out, err = ((self.folder / f"{rank}.{kind}").read_text() for kind in ("out", "err"))
            err = "".join(line for line in err.splitlines(True) if "absl::" not in line and "port.cc" not in line)
            ended[rank] = SimpleNamespace(code=code, out=out, err=err)
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
    for group in groups:
        group.kill()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two files of unequal size, with missing cells, text, and, in one of them, quotes."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name, rows, seed in (("a.csv", 1_100, 1), ("b.csv", 500, 1)):
        modern.write_sample(folder / name, rows + 600 * (name == "b.csv"), seed)
        lines = (folder / name).read_text().splitlines()
        kept = lines[1 : rows + 1] if name == "a.csv" else lines[-rows:]
        with (folder / name).open("w") as file:
            file.write(lines[0] + ",place,score\n")
            for number, line in enumerate(kept):
                place = (
                    '"home, sweet"' if name == "b.csv" and number % 50 == 0 else generator.choice(["home", "work", ""])
                )
                file.write(f"{line},{place},{'' if number % 7 == 0 else round(generator.normal(), 3)}\n")
    return folder


def weights_of(folder):
    import keras

    return keras.models.load_model(folder / modern.MODEL_FILE).get_weights()


def metrics_of(folder):
    return json.loads((folder / modern.METRICS_FILE).read_text())


def rows_of(folder):
    return list(csv.reader((folder / modern.PREDICTIONS_FILE).open()))


def plain(folder, *arguments):
    """The same run by one process."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "TF_CONFIG")}
    command = [sys.executable, str(ROOT / "train_model_modern.py"), *map(str, arguments), "--quiet"]
    subprocess.run([*command, "--model-dir", str(folder)], env=environment, check=True, timeout=200)
    return folder


def same_model(one, other):
    for left, right in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_array_equal(left, right)
    first, second = metrics_of(one), metrics_of(other)
    for name in ("rows", "test", "baselines", "temperature", "importance", "best_epoch"):
        assert first[name] == second[name], name


FLAGS = ("--folds", "1", "--epochs", "6", "--batch-size", "32", "--sync-every", "10")


@pytest.fixture(scope="module")
def trained(start, data):
    """Two workers that have trained one net: the group, and what each said."""
    flags = [data / "a.csv", data / "b.csv", *FLAGS]
    group = start([flags, flags])
    return group, group.end()


def test_two_workers_read_their_parts_and_average_to_equal_weights(trained, data, tmp_path):
    group, ended = trained
    assert [ended[rank].code for rank in (0, 1)] == [0, 0], group.told()
    averages = [group.notes(rank)["averages"] for rank in (0, 1)]
    assert averages[0] == averages[1]
    steps = [step for step, _ in averages[0]]
    assert len(steps) >= 6 * 2 and max(np.diff([0, *steps])) <= 10
    lines = [group.notes(rank)["lines"] for rank in (0, 1)]
    assert min(map(len, lines)) > 400 and sum(map(len, lines)) == 1_600
    own = [group.notes(rank)["own"] for rank in (0, 1)]
    assert not set(own[0]) & set(own[1]) and len(own[0]) + len(own[1]) == 1_120
    assert group.notes(0)["epoch"] == group.notes(1)["epoch"] <= min(map(len, own))  # no row is drawn twice
    one, folder = plain(tmp_path / "plain", data / "a.csv", data / "b.csv", *FLAGS), group.folder / "0" / "model"
    assert metrics_of(one)["baselines"] == metrics_of(folder)["baselines"]  # the same encoders, split and linear model
    assert [row[:4] for row in rows_of(one)] == [row[:4] for row in rows_of(folder)]  # the same rows were tested
    assert abs(metrics_of(one)["test"]["roc_auc"] - metrics_of(folder)["test"]["roc_auc"]) < 0.03
    assert metrics_of(folder)["settings"]["workers"] == 2 and "Workers    2" in ended[0].out
    assert len(ended[1].out.splitlines()) == 1 and not ended[1].err and not list((group.folder / "1").iterdir())


def test_one_worker_trains_to_the_bits_of_a_process_without_a_group(start, data, tmp_path):
    flags = [data / "a.csv", "--folds", "1", "--epochs", "30", "--batch-size", "32"]
    group = start([flags], workers=1, alone=True)
    assert group.end()[0].code == 0, group.told()
    assert len(group.notes(0)["averages"]) >= 11
    same_model(plain(tmp_path / "plain", *flags), group.folder / "0" / "model")


def test_folds_on_two_workers_with_files_of_their_own(start, data, tmp_path):
    flags = ["--folds", "3", "--epochs", "30"]
    group = start([[data / name, *flags] for name in ("a.csv", "b.csv")])
    assert [end.code for end in group.end().values()] == [0, 0], group.told()
    same_model(plain(tmp_path / "plain", data / "a.csv", data / "b.csv", *flags), group.folder / "0" / "model")


def test_a_group_that_was_told_to_stop_goes_on_to_the_same_bits(start, data, trained):
    flags = [data / "a.csv", data / "b.csv", *FLAGS]
    stopped = start([flags, flags], stop_after={"1": 7})  # in epoch 4, which is discarded
    ended = stopped.end()
    assert [ended[rank].code for rank in (0, 1)] == [1, 143], stopped.told()
    assert "was told to stop (SIGTERM); continue with --resume" in ended[0].err and len(ended[0].err.splitlines()) == 1
    assert ended[1].err.startswith("stopped: SIGTERM") and len(ended[1].err.splitlines()) == 1
    model = stopped.folder / "0" / "model"
    assert {path.name for path in model.iterdir()} == {".lock", "checkpoints", "logs", "resume.npz"}
    resumed = start([[*flags, "--resume"], flags], folder=stopped.folder)  # the others follow the chief
    ended = resumed.end()
    assert [ended[rank].code for rank in (0, 1)] == [0, 0], resumed.told()
    assert "Resuming   after epoch 3" in ended[0].out
    same_model(trained[0].folder / "0" / "model", model)


def test_of_too_many_rows_a_sample_is_gathered_and_the_rest_is_trained_on(start, data, trained):
    flags = [data / "a.csv", data / "b.csv", *FLAGS[2:]]  # one net without being asked for
    assert FLAGS[:2] == ("--folds", "1")
    limits = {"GATHERED_CELLS": 7_000, "SAMPLE_ROWS": 600}
    group = start([flags, flags], constants=limits)
    ended = group.end()
    assert [ended[rank].code for rank in (0, 1)] == [0, 0], group.told()
    assert group.notes(0)["averages"] == group.notes(1)["averages"]
    folder, whole = group.folder / "0" / "model", trained[0].folder / "0" / "model"
    metrics = metrics_of(folder)
    assert metrics["rows"] == {"read": 1600, "used": 1600, "skipped": 0, "train": 1420, "validation": 90, "test": 90}
    steps = group.notes(0)["averages"][-1][0] / 6
    assert 0.85 * 1420 / 2 / 32 < steps <= 1420 / 2 / 32  # an epoch sees nearly all rows, none of them twice
    assert metrics["settings"]["columns"] == metrics_of(whole)["settings"]["columns"]
    assert abs(metrics["test"]["roc_auc"] - metrics_of(whole)["test"]["roc_auc"]) < 0.1
    assert "600 of them" in ended[0].out
    tested = {(file, line) for file, line, *_ in rows_of(folder)[1:]}
    labels = {(file, line): label for file, line, _, label, _ in rows_of(whole)[1:]}
    shared = tested & set(labels)
    assert len(shared) > 3
    for file, line, _, label, _ in rows_of(folder)[1:]:
        assert labels.get((file, line), label) == label  # lines are those of the files


def test_quantiles_of_a_sample_are_as_exact_as_is_said(monkeypatch):
    monkeypatch.setattr(distributed, "SAMPLE_ROWS", 5_000)
    sizes, errors = (40_000, 10_000, 1_000), []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        parts = [generator.lognormal(rank, 2, size) for rank, size in enumerate(sizes)]
        whole = np.sort(np.concatenate(parts))
        rows = [distributed.sample_rows(len(part), sum(sizes), 5, [seed, rank]) for rank, part in enumerate(parts)]
        sample = np.concatenate([part[own] for part, own in zip(parts, rows, strict=True)])
        assert len(sample) == 5_000
        for share in (0.25, 0.5, 0.75):
            errors.append(abs(np.searchsorted(whole, np.quantile(sample, share)) / len(whole) - share))
    assert max(errors) < distributed.quantile_error(5_000) == pytest.approx(0.0212, abs=1e-4)
    assert np.mean(errors) > 0.1 * distributed.quantile_error(5_000)  # the error said is not far too large


FAULTS = [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 1)]


@pytest.mark.parametrize(("number", "rank"), FAULTS)
def test_survivors_leave_when_a_worker_is_gone(start, data, number, rank):
    flags = [data / "a.csv", *FLAGS, "--epochs", "100000", "--no-early-stopping", "--no-tensorboard"]
    group = start([flags] * 2, constants={"ANSWER_SECONDS": 8})
    group.wait_for(lambda notes: len(notes["averages"]) > 5)
    group.processes[rank].send_signal(number)
    lost = group.processes.pop(rank)
    ended = group.end(seconds=60)
    lost.kill()
    lost.wait()
    (survivor,) = ended.values()
    assert survivor.code == 1 and len(survivor.err.splitlines()) == 1, group.told()
    fault = "has not answered for 8 s" if number == signal.SIGSTOP else "has ended"
    assert survivor.err.startswith("error: worker") and f"worker {rank} (127.0.0.1" in survivor.err
    assert fault in survivor.err
    left = {path.name for path in (group.folder / "0" / "model").iterdir()}
    assert not left & set(modern.RESULT_FILES) and modern.RESUME_FILE in left
    modern.read_state(group.folder / "0" / "model" / modern.RESUME_FILE)
    if rank:
        assert "start the group again with --resume" in survivor.err


def test_a_worker_that_never_starts_is_named(start, data):
    flags = [data / "a.csv", *FLAGS]
    group = start([flags] * 2, absent=[1], constants={"START_SECONDS": 3})
    (ended,) = group.end(seconds=60).values()
    assert ended.code == 1 and len(ended.err.splitlines()) == 1, group.told()
    assert "worker 1 (127.0.0.1" in ended.err and "did not start within 3 s" in ended.err
    assert not list((group.folder / "0").iterdir())


def config(addresses, kind="worker", index=0, **other):
    return json.dumps({"cluster": {"worker": addresses} | other, "task": {"type": kind, "index": index}})


REFUSED = {
    "not JSON": ("{", "is not what TensorFlow reads"),
    "no task": (json.dumps({"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}}), "must name each worker once"),
    "another task": (config(["127.0.0.1:1", "127.0.0.1:2"], "evaluator"), "must name each worker once"),
    "a number too high": (config(["127.0.0.1:1", "127.0.0.1:2"], index=2), "must name each worker once"),
    "an address twice": (config(["127.0.0.1:1", "127.0.0.1:1"]), "must name each worker once"),
    "another machine": (config(["127.0.0.1:1", "10.0.0.7:1"]), "10.0.0.7:1, which is not loopback"),
    "a name": (config(["localhost:1", "trainer-1:2222"]), "trainer-1:2222, which is not loopback"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_anything_starts(case, data, tmp_path, monkeypatch, capsys):
    text, words = REFUSED[case]
    monkeypatch.setenv("TF_CONFIG", text)
    monkeypatch.setattr(modern, "import_tensorflow", None)
    assert modern.main([str(data / "a.csv"), "--model-dir", str(tmp_path / "model")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "model").exists()


def test_other_machines_are_talked_to_when_the_network_is_trusted():
    cluster = distributed.read_cluster(config(["10.0.0.8:1"], "worker", 0, chief=["10.0.0.7:1"]))
    assert cluster == (["10.0.0.7:1", "10.0.0.8:1"], 1)
    distributed.check_addresses(cluster, trusted=True)
    for address in ("127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1"):
        assert distributed.is_loopback(address)


def test_one_worker_in_tf_config_is_no_group(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config(["10.0.0.7:1"]))
    assert modern.join_group() is modern.Alone


def test_the_trainer_alone_says_what_a_group_takes(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", config(["127.0.0.1:1", "127.0.0.1:2"]))
    monkeypatch.setattr(modern, "__file__", str(tmp_path / "train_model_modern.py"))
    assert modern.main([str(data / "a.csv"), "--model-dir", str(tmp_path / "model")]) == 2
    assert "TF_CONFIG names 2 workers, which takes distributed.py" in capsys.readouterr().err


def test_which_files_are_shared(data, tmp_path):
    (tmp_path / "a.csv").write_bytes((data / "a.csv").read_bytes() + b"1,2,3,4,1,home,0\n")
    a, b, longer = (distributed.look_at(path) for path in (data / "a.csv", data / "b.csv", tmp_path / "a.csv"))
    wide = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.csv").write_text(
            ",".join(f"column_{n}" for n in range(200)) + f"\n{place}{',1' * 199}\n"
        )
        wide.append([distributed.look_at(tmp_path / place / "a.csv")])
    assert distributed.are_shared([[a, b], [b, a]])
    assert not distributed.are_shared([[a], [b]]) and not distributed.are_shared(wide)
    with pytest.raises(modern.UserError, match=r"workers 0 and 1 both have a.csv, but only one of them has b.csv"):
        distributed.are_shared([[a], [a, b]])
    with pytest.raises(modern.UserError, match=r"a.csv starts alike and differs: .* on worker 0 and .* on worker 2"):
        distributed.are_shared([[a], [b], [longer]])


def test_parts_of_files_are_their_lines_each_once(data, tmp_path):
    (tmp_path / "c.csv").write_text("foreground_app,productive\n1,1\n2,0")
    paths = [str(data / "a.csv"), str(data / "b.csv"), str(tmp_path / "c.csv")]
    sizes = [os.path.getsize(path) for path in paths]
    for workers in (1, 2, 3, 7, 40):
        ranges = [distributed.cut(paths, sizes, rank, workers) for rank in range(workers)]
        seen = {path: [] for path in paths}
        for rank in range(workers):
            for number, part in distributed.choose_parts(ranges, sizes, rank):
                seen[paths[number]] += modern.find_source(paths[number], False, part=part).lines.tolist()
        assert seen == {path: modern.find_source(path, False).lines.tolist() for path in paths}


def test_what_workers_exchange_is_read_back_and_holds_no_objects():
    arrays = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.array(2.5), "c": np.empty((0, 3))}
    for name, array in distributed.unpack(distributed.pack(arrays)).items():
        np.testing.assert_array_equal(array, arrays[name], strict=True)
    with pytest.raises(ValueError, match="OBJECT"):
        distributed.unpack(distributed.pack({"a": np.array([print])}))


@pytest.mark.parametrize("asked", [None, 1, 7, 10**6])
@pytest.mark.parametrize("batch_size", [8, 256, 5_000, 8_192, 20_000])
@pytest.mark.parametrize("rows", [30, 999, 70_000, 350_001, 1_000_000])
def test_an_epoch_is_cut_into_calls_that_leave_few_rows_out(rows, batch_size, asked):
    splits = [SimpleNamespace(split=SimpleNamespace(validation=range(10)))]
    plan = modern.Plan(*[None] * 2, 63, batch_size, *[0] * 3, 10, *[0] * 3, "float32", True, 1)
    run = SimpleNamespace(plan=plan, options=SimpleNamespace(sync_every=asked), folds=splits)
    group = SimpleNamespace(workers=2, every=0)
    made = distributed.Group.plan_calls(group, run, rows)
    steps = rows // made.batch_size
    assert 0.8 * steps <= made.segments * made.steps <= steps and made.steps % group.pieces == 0
    assert made.steps * made.batch_size <= max(distributed.CALL_ROWS, made.batch_size)
    assert made.steps // group.pieces * made.batch_size <= max(modern.SEGMENT_ROWS, made.batch_size)
    if asked:
        assert 1 <= group.every * made.steps <= max(asked, made.steps)


def test_nobody_waits_longer_than_a_minute():
    assert distributed.START_SECONDS + 5 < 60
    assert distributed.ANSWER_SECONDS + 4 * distributed.CHECK_SECONDS < 60


DIFFERENCES = {
    "a flag": (["--seed", "7"], {}, "worker 1 has --seed 7, worker 0 has 42"),
    "a version": ([], {"numpy_of": {"1": "1.0.0"}}, f"worker 1 has numpy 1.0.0, worker 0 has {np.__version__}"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_workers_that_differ_are_refused(start, data, difference):
    flags, settings, words = DIFFERENCES[difference]
    group = start([[data / "a.csv", *FLAGS], [data / "a.csv", *FLAGS, *flags]], **settings)
    for ended in group.end().values():
        assert ended.code == 2 and len(ended.err.splitlines()) == 1, group.told()
        assert words in ended.err
    assert not list((group.folder / "0").iterdir())
