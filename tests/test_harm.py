"""Nothing of the user's is lost, overwritten or left half-done, and what goes wrong is told in one line."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
from conftest import ROOT

import export_model
import train_model_modern as modern

HEADER = "foreground_app,keyboard_activity,mouse_activity,time_last_request,productive"


def train(path, folder, *flags):
    return modern.main(
        [str(path), "--model-dir", str(folder), "--epochs", "3", "--folds", "1", "--quiet", *map(str, flags)]
    )


def told(done, code, *words):
    """A command ended with a code and one line of error that has these words."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def files(folder):
    """Every file below a folder but logs and checkpoints, with its content."""
    kept = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {"logs", "checkpoints"} & set(path.relative_to(folder).parts)
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept if path.name != modern.LOCK_FILE}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A file and a model directory trained on it; tests only read them."""
    folder = tmp_path_factory.mktemp("trained")
    modern.write_sample(folder / "a.csv", 80, 1)
    assert train(folder / "a.csv", folder / "model") == 0
    return folder / "a.csv", folder / "model"


# ---------------------------------------------------------------------------------------------------------------------
# What is not ours


@pytest.mark.parametrize(
    "name",
    [".lock", "productivity_model.keras", "metrics.json", "predictions.csv", "README.md", "resume.npz", "checkpoints"],
)
@pytest.mark.parametrize("how", ["link", "hard link", "own file"])
def test_files_of_the_users_are_never_written_to(sample, tmp_path, name, how, capsys):
    path, folder, precious = sample(60), tmp_path / "model", tmp_path / "precious"
    folder.mkdir()
    precious.write_text("years of work")
    place = folder / name
    if how == "link":
        place.symlink_to(precious)
    elif how == "hard link":
        os.link(precious, place)
    else:
        place.write_text("years of work")
    for flags in ([], ["--learning-rate", "1e30"]):  # also when training fails
        code = train(path, folder, *flags)
        assert precious.read_text() == "years of work"
        assert place.read_text() == "years of work"
        assert code == (2 if name != "README.md" else 1 if flags else 0)
    assert "Traceback" not in capsys.readouterr().err


def test_a_directory_of_the_users_in_the_place_of_a_result(sample, tmp_path, capsys):
    path = sample(60)
    for name, code in (("README.md", 0), ("metrics.json", 2), ("productivity_model.keras", 2), (".lock", 2)):
        folder = tmp_path / name.strip(".")
        (folder / name).mkdir(parents=True)
        (folder / name / "mine").write_text("mine")
        assert train(path, folder) == code, capsys.readouterr().err
        assert (folder / name / "mine").read_text() == "mine"


@pytest.mark.parametrize("change", ["README.md", "loss", "disk", "export", "signals"])
def test_a_run_that_fails_leaves_the_last_whole_run_as_it_was(sample, tmp_path, monkeypatch, change, capsys):
    path, folder = sample(60), tmp_path / "model"
    assert train(path, folder, "--export", "onnx") == 0
    before = files(folder)
    other, flags, expected = sample(90, seed=5, name="other.csv"), ["--seed", "7"], 1
    if change == "README.md":  # appears while the run is under way
        (folder / "README.md").unlink()
        (folder / "README.md").mkdir()
        del before["README.md"]
        expected = 0
    elif change == "loss":
        flags += ["--learning-rate", "1e30", "--epochs", "60"]
    elif change == "disk":
        write = modern.write_beside

        def failing(target, content):
            if target.name == modern.METRICS_FILE:
                raise OSError(28, "No space left on device")
            return write(target, content)

        monkeypatch.setattr(modern, "write_beside", failing)
    elif change == "signals":

        def twice(*_):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(modern, "prediction_rows", twice)
        expected = 130
    elif change == "export":
        monkeypatch.setitem(export_model.WRITERS, "onnx", lambda *_: 1 / 0)
        flags += ["--export", "onnx"]
    assert train(other, folder, *flags) == expected
    after = files(folder)
    assert "Traceback" not in capsys.readouterr().err
    assert not list(folder.glob(modern.TEMPORARY + "*"))
    if change in ("README.md", "export"):  # a whole run: all that belongs to it is new, the export of before is gone
        assert set(before) - set(after) == {"productivity_model.onnx"}
        assert not [name for name in after if before.get(name) == after[name]]
    else:
        after.pop("resume.npz", None)
        assert after == before


def state_of(folder):
    """Which run each of the files is from: the probability of the first tested line, as each of them has it."""
    rows = list(csv.DictReader((folder / modern.PREDICTIONS_FILE).open(newline="")))
    metrics = json.loads((folder / modern.METRICS_FILE).read_text())
    label = np.array([float(row["label"]) for row in rows])
    losses = modern.log_losses(label, np.array([float(row["probability"]) for row in rows]))
    assert losses.mean() == pytest.approx(metrics["test"]["log_loss"], abs=1e-6), (
        "predictions.csv and metrics.json are of two runs"
    )
    details = json.loads(zipfile.ZipFile(folder / modern.MODEL_FILE).read("training.json"))
    assert details["threshold"] == metrics["threshold"], "model and metrics.json are of two runs"
    assert f"A probability of {metrics['threshold']:.6g} or more" in (folder / modern.CARD_FILE).read_text(), (
        "card and metrics.json are of two runs"
    )
    return metrics["threshold"]


def test_killed_around_the_end_there_is_one_whole_run(sample, tmp_path):
    path, folder = sample(80), tmp_path / "model"
    kills, seen = int(os.environ.get("END_KILLS", "4")), set()
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import train_model_modern as m; m.import_tensorflow()\n"
    # each round is a process of its own that imports once, trains twice and is killed around the end of the second
    program += "a = sys.argv[1:]; m.main([*a, '--threshold', '0.4']); print('trained', flush=True); "
    program += "m.main([*a, '--threshold', '0.6'])"
    for kill in range(kills):
        command = [sys.executable, "-c", program, str(path), "--model-dir", str(folder), "--epochs", "20"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        runs = 0
        for line in process.stdout:
            runs += line.startswith("trained")
            if runs and line.startswith("Trained"):
                break
        time.sleep(0.35 * kill / max(1, kills - 1))
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        seen.add(state_of(folder))
        assert not (folder / modern.COMMIT_FILE).exists() or kill < kills  # a list that is left is done by the next run
    assert seen <= {0.4, 0.6}


def test_a_commit_that_cannot_be_done_is_undone(tmp_path, monkeypatch):
    names = [modern.MODEL_FILE, "productivity_model_saved_model", modern.PREDICTIONS_FILE, modern.METRICS_FILE]
    for stuck in names:
        folder = tmp_path / f"stuck {stuck}"
        folder.mkdir()
        for name in names:
            for place, words in ((folder / name, "old"), (modern.beside(folder / name), "new")):
                if words == "old" and name == modern.PREDICTIONS_FILE:
                    continue  # there was none before
                if "." in name:
                    place.write_text(words)
                else:
                    place.mkdir()
                    (place / "saved_model.pb").write_text(words)
        replace = os.replace

        def failing(source, target, stuck=stuck, replace=replace):
            if str(target).endswith(stuck) and "before" not in str(source):
                raise PermissionError(1, "Operation not permitted", str(target))
            replace(source, target)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(PermissionError):
            modern.commit(folder, names)
        monkeypatch.undo()
        left = {
            path.name: (path / "saved_model.pb" if path.is_dir() else path).read_text() for path in folder.iterdir()
        }
        assert left == dict.fromkeys([name for name in names if name != modern.PREDICTIONS_FILE], "old"), stuck


def test_pipes_and_own_checkpoints_and_folders(sample, tmp_path, capsys):
    path = sample(60)
    for name, code in (("metrics.json", 2), ("README.md", 0), (".lock", 2), (modern.COMMIT_FILE, 0)):
        folder = tmp_path / f"pipe {name}"
        folder.mkdir()
        os.mkfifo(folder / name)
        assert train(path, folder, "--no-tensorboard") == code
    for name in ("checkpoints", "logs"):
        folder = tmp_path / f"link {name}"
        (tmp_path / "own" / name).mkdir(parents=True)
        folder.mkdir()
        (folder / name).symlink_to(tmp_path / "own" / name)
        assert train(path, folder) == 2 and not os.listdir(tmp_path / "own" / name)
    folder = tmp_path / "model"
    assert train(path, folder, "--export", "saved_model") == 0
    (folder / "productivity_model_saved_model" / "NOTES.txt").write_text("mine")
    assert train(path, folder, "--export", "saved_model") == 2
    assert (folder / "productivity_model_saved_model" / "NOTES.txt").read_text() == "mine"
    for checkpoint in (folder / "checkpoints").iterdir():
        checkpoint.write_text("mine")
    assert modern.main([str(path), "--model-dir", str(folder), "--epochs", "3", "--folds", "1"]) == 0  # the same names
    assert "a file of your own has the name of a checkpoint" in capsys.readouterr().out
    assert all(checkpoint.read_text() == "mine" for checkpoint in (folder / "checkpoints").iterdir())


def test_basic_trainer_replaces_its_own_files_only(sample, tmp_path, run):
    path, folder = sample(60), tmp_path / "model"
    folder.mkdir()
    (folder / "basic_model.keras").write_text("mine")
    told(run("train_model.py", path, "--model-dir", folder, "--quick"), 2, "was not written by this program")
    (folder / "basic_model.keras").unlink()
    for _ in range(2):
        assert run("train_model.py", path, "--model-dir", folder, "--quick").returncode == 0


def test_a_directory_of_files_and_a_file_with_fewer_columns(sample, tmp_path, run):
    folder = tmp_path / "data"
    folder.mkdir()
    sample(60).rename(folder / "a.csv")
    (folder / "b.csv").write_text(
        "foreground_app,keyboard_activity,productive\n" + "".join(f"{row % 3},{row},{row % 2}\n" for row in range(40))
    )
    last = sample(30, seed=3, name="c.csv")
    assert (
        modern.main([str(folder), str(last), "--model-dir", str(tmp_path / "model"), "--epochs", "3", "--quiet"]) == 0
    )
    rows = list(csv.DictReader((tmp_path / "model" / "predictions.csv").open(newline="")))
    texts = {path.name: path.read_text().splitlines() for path in (folder / "a.csv", folder / "b.csv", last)}
    assert {row["file"] for row in rows} == set(texts)
    assert all(texts[row["file"]][int(row["line"]) - 1].endswith("," + row["label"]) for row in rows)
    done = run("predict.py", folder / "b.csv", "--model-dir", tmp_path / "model")
    assert done.returncode == 0 and "has no mouse_activity, time_last_request: missing in its rows" in done.stderr
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    told(run("predict.py", tmp_path / "other.csv", "--model-dir", tmp_path / "model"), 2, "which the model needs")


def test_a_file_name_that_is_no_text(sample, tmp_path):
    path = tmp_path / os.fsdecode(b"donn\xe9es.csv")
    sample(60).rename(path)
    other = sample(60, name="b.csv")
    assert modern.main([str(path), str(other), "--model-dir", str(tmp_path / "model"), "--epochs", "3", "--quiet"]) == 0
    assert b"donn\xef\xbf\xbdes.csv" in (tmp_path / "model" / "predictions.csv").read_bytes()


@pytest.mark.parametrize("moves", range(5))
def test_a_commit_that_was_cut_short_is_finished(tmp_path, moves, monkeypatch):
    folder, names = (
        tmp_path,
        [modern.MODEL_FILE, modern.PREDICTIONS_FILE, "productivity_model_saved_model", modern.METRICS_FILE],
    )
    for name in names:
        for place, words in ((folder / name, "old"), (modern.beside(folder / name), "new")):
            if "." in name:
                place.write_text(words)
            else:
                place.mkdir()
                (place / "saved_model.pb").write_text(words)
    replace, done = os.replace, []

    def cut(source, target):
        if len(done) > moves:
            raise KeyboardInterrupt
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        modern.commit(folder, names)
        raise KeyboardInterrupt
    monkeypatch.undo()
    modern.finish_commit(folder)
    assert {(folder / name / "saved_model.pb" if "." not in name else folder / name).read_text() for name in names} == {
        "new"
    }
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_stale_exports_go_when_a_commit_that_was_cut_short_is_finished(tmp_path, monkeypatch):
    onnx, litert = (tmp_path / modern.EXPORTS[name][0] for name in ("onnx", "litert"))
    onnx.write_bytes(b"\x08\x08train_model_modern")
    litert.write_bytes(b"mine")
    modern.beside(tmp_path / modern.MODEL_FILE).write_text("new")

    def cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(modern, "remove", cut)
    with pytest.raises(KeyboardInterrupt):
        modern.commit(tmp_path, modern.RESULT_FILES)
    assert onnx.exists() and (tmp_path / modern.COMMIT_FILE).exists()
    monkeypatch.undo()
    modern.finish_commit(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [modern.MODEL_FILE, litert.name]


def test_a_hostile_commit_list_moves_nothing_else(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "victim").write_text("mine")
    (folder / "victim").write_text("mine")
    (folder / f"{modern.TEMPORARY}7-victim.tmp").write_text("other")
    (folder / "productivity_model.onnx").write_text("mine")
    for content in (
        '{"process": 7, "names": ["victim", "../victim"]}',
        "[" * 100_000,
        '{"process": "x"}',
        "\xff",
        '{"process": 7, "names": 5}',
        '{"process": 7, "names": ["productivity_model.keras", "../victim"]}',  # a model without the export beside it
    ):
        (folder / modern.COMMIT_FILE).write_text(content)
        modern.finish_commit(folder)
    places = [folder / "victim", tmp_path / "victim", folder / "productivity_model.onnx"]
    assert [place.read_text() for place in places] == ["mine"] * 3


def test_sigterm_twice_ends_with_143(sample, tmp_path):
    path = sample(30_000)
    command = [
        sys.executable,
        str(ROOT / "train_model_modern.py"),
        str(path),
        "--model-dir",
        str(tmp_path / "model"),
        "--epochs",
        "100000",
        "--no-early-stopping",
    ]
    process = subprocess.Popen(
        [*command, "--batch-size", "8", "--no-xla"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch "):
            break
    process.terminate()
    time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143 and "Traceback" not in errors and errors.startswith("stopped: SIGTERM")


# ---------------------------------------------------------------------------------------------------------------------
# predict.py


def test_outputs_that_must_not_be_replaced(trained, run, tmp_path):
    path, folder = trained
    own = tmp_path / "own.csv"
    own.write_bytes(path.read_bytes())
    (tmp_path / "link").symlink_to(own)
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    refused = [
        (own, "is also the input"),
        ("link", "is also the input"),
        ("folder", "is a directory"),
        ("no/x.csv", "no directory no"),
    ]
    for output, words in [*refused, ("dangling", "is a link to")]:
        told(run("predict.py", own, "--model-dir", folder, "--output", output, cwd=tmp_path), 2, words)
    told(run("predict.py", path, "--model-dir", folder, "--output", tmp_path / "link"), 2, "is a link to")
    told(
        run("predict.py", path, "--model-dir", folder, "--output", folder / modern.MODEL_FILE),
        2,
        "is also the input",
    )
    assert own.read_bytes() == path.read_bytes() and sorted(os.listdir(tmp_path)) == [
        "dangling",
        "folder",
        "link",
        "own.csv",
    ]
    if os.path.isdir("/dev/shm"):
        shared = f"/dev/shm/link-{os.getpid()}.csv"
        os.symlink(own, shared)
        try:
            told(run("predict.py", path, "--model-dir", folder, "--output", shared), 2, "is a link to")
        finally:
            os.unlink(shared)
        assert own.read_bytes() == path.read_bytes()
    private = tmp_path / "private.csv"
    private.touch(0o600)
    assert run("predict.py", path, "--model-dir", folder, "--output", private).returncode == 0
    assert private.stat().st_mode & 0o777 == 0o600 and len(private.read_text().splitlines()) == 81
    long = tmp_path / ("ü" * 120 + ".csv")
    assert run("predict.py", path, "--model-dir", folder, "--output", long).returncode == 0 and long.exists()
    done = run("predict.py", path, "--model-dir", folder, "--output", "/dev/null")
    assert done.returncode == 0 and not os.path.isfile("/dev/null")
    done = run("predict.py", path, "--model-dir", folder, "--output", "/dev/stdout")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 81


def test_columns_of_the_users_own_are_kept(trained, run, tmp_path):
    path, folder = trained
    own = tmp_path / "own.csv"
    lines = path.read_text().splitlines()
    own.write_text(
        "\n".join(
            [f"{lines[0]},probability,predicted", *(f"{line},mine,{place}" for place, line in enumerate(lines[1:]))]
        )
        + "\n"
    )
    done = run("predict.py", own, "--model-dir", folder)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["probability"] for row in rows] == ["mine"] * 80 and rows[3]["predicted"] == "3"
    assert all(0 < float(row["model_probability"]) < 1 and row["model_predicted"] in "01" for row in rows)
    assert "the input has a column probability, which is kept" in done.stderr


def test_a_stream_goes_on_after_bad_lines(trained):
    path, folder = trained
    header, *rows = path.read_bytes().splitlines()
    bad = [
        b"1,2,3,\xff\xfe,1",
        b"1,many,3,4,1",
        b'1,"x',
        b"1,2",
        b"1,\x00,3,4,1",
        b'1,"2"3,3,4,1',
        b"9" * 200_000 + b",1e999,3,4,1",
        b"",
    ]
    sent = [
        header,
        *(line for pair in zip(rows, bad, strict=False) for line in pair),
        rows[20],
        b'5,"2',
        rows[21],
        b'7,8,9,10,"x',
    ]
    command = [sys.executable, str(ROOT / "predict.py"), "-", "--model-dir", str(folder), "--evaluate"]
    done = subprocess.run(command, input=b"\n".join(sent) + b"\n", capture_output=True, timeout=100)
    answered = [line.rsplit(b",", 2)[0] for line in done.stdout.splitlines()[1:]]
    assert done.returncode == 0 and answered == [*rows[: len(bad)], rows[20], rows[21]], done.stderr
    notes = [line for line in done.stderr.decode().splitlines() if line.startswith("note: line ")]
    assert (
        len(notes) == len(bad) + 1
        and "line 3: is not UTF-8 text" in notes[0]
        and "Traceback" not in done.stderr.decode()
    )


def test_a_stream_is_answered_while_it_is_open(trained):
    path, folder = trained
    header, *rows = path.read_bytes().splitlines()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "predict.py"), "-", "--model-dir", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    watchdog = threading.Timer(100, process.kill)
    watchdog.start()
    process.stdin.write(header + b"\n" + rows[0] + b"\n\xff\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith(header) and process.stdout.readline().startswith(rows[0])
    process.stdin.write(rows[1] + b"\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith(rows[1])
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()
    watchdog.cancel()


def test_a_record_of_several_lines_is_one_row_of_a_stream(trained, tmp_path, run):
    path, folder = trained
    header, *rows = path.read_text().splitlines()
    sent = [
        header + ",note",
        rows[0] + ',5" screen',
        rows[1] + ',6" screen',
        rows[2] + ',"first',
        rows[3] + ",x",
        'end"',
        '1,"torn',
        rows[4] + ",last",
    ]
    own = tmp_path / "own.csv"
    own.write_text("\n".join(line for line in sent if "torn" not in line) + "\n")
    from_file = run("predict.py", own, "--model-dir", folder)
    streamed = subprocess.run(
        [sys.executable, str(ROOT / "predict.py"), "-", "--model-dir", str(folder)],
        input="\n".join(sent) + "\n",
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert from_file.stdout == streamed.stdout and len(list(csv.reader(io.StringIO(streamed.stdout)))) == 5
    assert streamed.stderr == "note: line 7: its quotes are open, left out\n"
    returns = subprocess.run(
        [sys.executable, str(ROOT / "predict.py"), "-", "--model-dir", str(folder)],
        input=f"{header}\n{rows[0]}\r{rows[1]}\n{rows[2]}\n".encode(),
        capture_output=True,
    )
    assert (
        returns.stderr == b"note: line 2: holds a carriage return, left out\n" and len(returns.stdout.splitlines()) == 2
    )


@pytest.mark.parametrize(
    "sent, answered, notes",
    [
        (b'"a\r\nb",1,2,3,4,1\r\n1,2,3,4,5,0\r\n', ['"a\r\nb",1,2,3,4,1', "1,2,3,4,5,0"], []),
        (
            b'"a\n\xff\nb",1,2,3,4,1\n1,2,3,4,5,0\n',
            ["1,2,3,4,5,0"],
            ["line 3: is not UTF-8 text, the record from line 2 on is left out"],
        ),
        (b'"' + b"line\n" * 500 + b'end",1,2,3,4,1\n', ['"' + "line\n" * 500 + 'end",1,2,3,4,1'], []),
        (b"\xef\xbb\xbfnote,HEADER\n1,2,3,4,5,0\n", ["1,2,3,4,5,0"], ["line 2: the header again"]),
        (
            b'a","' + b"x" * 2_000 + b"\n" + b'a","xxx\n' * 1_500 + b"1,2,3,4,5,0\n",
            ["1,2,3,4,5,0"],
            ["line 2: its quotes are open"],
        ),
        (b'"he said ""no"", then\nleft", 2,3,4,5,1\n', ['"he said ""no"", then\nleft",2,3,4,5,1'], []),
    ],
)
def test_records_of_a_stream(trained, sent, answered, notes):
    _, folder = trained
    content = b"note," + HEADER.encode() + b"\n" + sent.replace(b"HEADER", HEADER.encode())
    command = [sys.executable, str(ROOT / "predict.py"), "-", "--model-dir", str(folder)]
    done = subprocess.run(command, input=content, capture_output=True, timeout=100)
    rows = list(csv.reader(io.StringIO(done.stdout.decode(), newline="")))[1:]
    assert [row[:-2] for row in rows] == [next(csv.reader([row], skipinitialspace=True)) for row in answered], (
        done.stderr[-300:]
    )
    found = done.stderr.decode().splitlines()
    assert all(any(words in line for line in found) for words in notes) and (notes or not found), found[:5]


def test_names_with_line_ends_are_told_in_one_line(trained, run, tmp_path):
    path, folder = trained
    for flags in ([path, "--label", "pro\nductive"], [path, "--drop", "a\nb"], [tmp_path / "new\nline.csv"]):
        told(run("train_model_modern.py", *flags), 2)
    own = tmp_path / "own.csv"
    own.write_bytes(path.read_bytes())
    with own.open() as stdin:
        command = [sys.executable, str(ROOT / "predict.py"), "-", "--model-dir", str(folder), "--output", str(own)]
        told(
            subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=60),
            2,
            "is also the input",
        )
    assert own.read_bytes() == path.read_bytes()


def test_the_output_of_a_stream_is_there_while_it_is_open(trained, tmp_path):
    path, folder = trained
    header, *rows = path.read_bytes().splitlines()
    command = [
        sys.executable,
        str(ROOT / "predict.py"),
        "-",
        "--model-dir",
        str(folder),
        "--output",
        str(tmp_path / "out.csv"),
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    process.stdin.write(header + b"\n" + rows[0] + b"\n")
    process.stdin.flush()
    for _ in range(600):
        time.sleep(0.1)
        if (tmp_path / "out.csv").exists() and (tmp_path / "out.csv").read_bytes().count(b"\n") == 2:
            break
    process.send_signal(signal.SIGINT)
    assert (
        process.wait(60) == 130
        and (tmp_path / "out.csv").read_bytes().count(b"\n") == 2
        and os.listdir(tmp_path) == ["out.csv"]
    )
    process.stdin.close()


@pytest.mark.parametrize("last", ["-100,5,", "-100,5,5,5,", "-100,5,5,5", "-100,5,5,1e,1"])
def test_a_torn_last_row_is_left_out_as_in_training(trained, tmp_path, last, run):
    path, folder = trained
    torn = tmp_path / "torn.csv"
    torn.write_text(path.read_text() + last)
    table = modern.read_table(modern.parse_options([str(torn)]))
    done = run("predict.py", torn, "--model-dir", folder)
    assert len(table.label) == 80 and done.returncode == 0 and len(done.stdout.splitlines()) == 81
    assert done.stderr == "note: line 82, the last, is cut off and left out\n" and table.notes == [done.stderr[6:-1]]


def test_nothing_to_evaluate(trained, tmp_path, run):
    _, folder = trained
    (tmp_path / "header.csv").write_text(HEADER + "\n")
    told(
        run(
            "predict.py", tmp_path / "header.csv", "--model-dir", folder, "--evaluate", "--output", tmp_path / "out.csv"
        ),
        2,
        "holds no rows to evaluate",
    )
    assert not (tmp_path / "out.csv").exists()
    assert (
        run("predict.py", tmp_path / "header.csv", "--model-dir", folder).stdout == HEADER + ",probability,predicted\n"
    )


def test_models_that_do_not_fit_are_refused(trained, tmp_path, run):
    import h5py
    import keras

    path, folder = trained
    good = folder / modern.MODEL_FILE

    def changed(name, change):
        with zipfile.ZipFile(good) as old, zipfile.ZipFile(tmp_path / name, "w") as new:
            for entry in old.namelist():
                new.writestr(entry, change(entry, old.read(entry)))
        return tmp_path / name

    def weights(entry, content):
        if not entry.endswith(".h5"):
            return content
        buffer = io.BytesIO(content)
        with h5py.File(buffer, "r+") as file:
            file["layers/dense/vars/1"][...] = np.nan
        return buffer.getvalue()

    def details(change):
        return lambda entry, content: (
            json.dumps(change(json.loads(content))).encode() if entry == "training.json" else content
        )

    inputs = keras.Input((3,), name="x")
    keras.Model({"x": inputs}, keras.layers.Dense(2)(inputs)).save(tmp_path / "other.keras")
    other = tmp_path / "other.keras"
    broken = tmp_path / "broken.keras"
    with zipfile.ZipFile(broken, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("training.json", json.dumps(list(range(5_000))))
    content = bytearray(broken.read_bytes())
    content[120:140] = b"\xff" * 20
    broken.write_bytes(content)
    with zipfile.ZipFile(other, "a") as archive:
        archive.writestr(
            "training.json",
            json.dumps(
                {"label": "productive", "threshold": 0.5, "columns": [{"name": "foreground_app", "kind": "number"}]}
            ),
        )
    cases = [
        (changed("nan.keras", weights), "weights that are not numbers"),
        (changed("none.keras", details(lambda found: found | {"columns": []})), "is not a model written by"),
        (
            changed("fewer.keras", details(lambda found: found | {"columns": found["columns"][:2]})),
            "is not a model written by",
        ),
        (changed("odd.keras", details(lambda found: found | {"columns": [5]})), "is not a model written by"),
        (
            changed("deep.keras", lambda entry, content: b"[" * 200_000 if entry == "training.json" else content),
            "is not a model written by",
        ),
        (
            changed(
                "kinds.keras",
                details(lambda found: found | {"columns": [{"name": column["name"]} for column in found["columns"]]}),
            ),
            "is not a model written by",
        ),
        (other, "is not a model written by"),
        (broken, "is not a model written by"),
    ]
    for model, words in cases:
        told(run("predict.py", path, "--model", model, "--output", tmp_path / "out.csv"), 2, words)
        assert not (tmp_path / "out.csv").exists() and not list(tmp_path.glob(".*"))


# ---------------------------------------------------------------------------------------------------------------------
# Odd names, streams and settings


def write_named(path, names, rows=60):
    chance = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as file:
        file.write(",".join([*names, "productive"]) + "\n")
        for row in range(rows):
            file.write(",".join(f"{value:.3f}" for value in chance.normal(size=len(names))) + f",{row % 2}\n")
    return path


def test_columns_may_be_called_like_anything_in_the_program(tf, tmp_path, run):
    import keras

    folder = tmp_path / "model"
    first = write_named(tmp_path / "a.csv", ["x"])
    assert train(first, folder) == 0
    layers = [layer.name for layer in keras.models.load_model(folder / modern.MODEL_FILE).layers]
    names = [
        "probability",
        "predicted",
        "hidden_1",
        "encoded",
        "where",
        "self",
        "class",
        "lambda",
        "None",
        "average",
        "numbers",
        "missing",
    ]
    names = list(dict.fromkeys([*names, *(name for name in layers if name != "x"), "multiply_1", "cast_1"]))
    odd = write_named(tmp_path / "b.csv", names)
    assert train(odd, folder, "--folds", 3, "--export", "saved_model", "litert", "onnx") == 0
    done = run("predict.py", odd, "--model-dir", folder)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 61, done.stderr


def test_streams_that_are_closed_or_full(trained, tmp_path):
    path, folder = trained

    def call(shell, *arguments):
        command = " ".join([sys.executable, *map(str, arguments), shell])
        return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=200, cwd=tmp_path)

    trainer = [ROOT / "train_model_modern.py", path, "--model-dir", tmp_path / "model", "--epochs", "3"]
    done = call("> /dev/full", *trainer)
    told(done, 1, "standard output: No space left on device")
    assert (tmp_path / "model" / "metrics.json").exists()  # what was trained is not lost
    told(call("> /dev/full", ROOT / "train_model_modern.py", path, "--describe"), 1, "standard output")
    told(call("> /dev/full", ROOT / "predict.py", path, "--model-dir", folder), 1, "standard output")
    told(call("", ROOT / "predict.py", path, "--model-dir", folder, "--output", "/dev/full"), 1, "/dev/full")
    for arguments in (trainer, [ROOT / "predict.py", path, "--model-dir", folder]):
        done = call(">&-", *arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    done = call("2>&-", ROOT / "train_model_modern.py", tmp_path / "absent.csv")
    assert done.returncode == 2 and done.stdout == ""
    assert call("2> /dev/full", ROOT / "train_model_modern.py", tmp_path / "absent.csv").returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_that_the_terminal_cannot_show(tmp_path, encoding):
    path = write_named(tmp_path / "a.csv", ["größe", "日本", "🙂"])
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0"}
    for arguments in (
        ["train_model_modern.py", "--epochs", "2", "--model-dir", tmp_path / "m"],
        ["predict.py", "--model-dir", tmp_path / "m"],
    ):
        command = [sys.executable, str(ROOT / arguments[0]), str(path), *map(str, arguments[1:])]
        done = subprocess.run(command, capture_output=True, env=environment, timeout=200)
        assert done.returncode == 0 and done.stderr == b"", done.stderr
    assert done.stdout.startswith("größe,日本,🙂,productive,probability".encode())
    absent = subprocess.run(
        [sys.executable, str(ROOT / "train_model_modern.py"), "日本.csv"],
        capture_output=True,
        env=environment,
        timeout=60,
    )
    assert absent.returncode == 2 and absent.stderr.startswith(b"error: ")


def test_isolated_python(trained, run, tmp_path):
    path, folder = trained
    for arguments in (
        ["train_model_modern.py", path, "--describe"],
        ["predict.py", path, "--model-dir", folder],
        ["train_model.py", "absent.csv"],
    ):
        command = [sys.executable, "-I", str(ROOT / arguments[0]), *map(str, arguments[1:])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path)
        assert "Traceback" not in done.stderr and done.returncode == (2 if arguments[1] == "absent.csv" else 0)


@pytest.mark.parametrize(
    "content", ['{"floatx": "float16", "image_data_format": "channels_first", "backend": "jax", "epsilon": 0.1}', "{{{"]
)
def test_the_users_keras_settings_change_nothing(sample, tmp_path, content):
    path, home = sample(60), tmp_path / "home"
    (home / ".keras").mkdir(parents=True)
    (home / ".keras" / "keras.json").write_text(content)
    (tmp_path / "empty").mkdir()
    results = []
    for name, more in (
        ("empty", {}),
        ("home", {"KERAS_BACKEND": "jax", "KERAS_MAX_EPOCHS": "1", "TF_USE_LEGACY_KERAS": "1"}),
    ):
        environment = (
            {key: value for key, value in os.environ.items() if not key.startswith("KERAS_")}
            | {"HOME": str(tmp_path / name)}
            | more
        )
        folder = tmp_path / f"model {name}"
        for arguments in (["train_model_modern.py", path, "--folds", "3", "--epochs", "3"], ["predict.py", path]):
            command = [sys.executable, str(ROOT / arguments[0]), *map(str, arguments[1:]), "--model-dir", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
            assert done.returncode == 0, done.stderr
        results.append((done.stdout, json.loads((folder / "metrics.json").read_text())["test"]))
    assert results[0] == results[1]
    assert (home / ".keras" / "keras.json").read_text() == content and not list((tmp_path / "empty").iterdir())


def test_what_a_run_writes_names_no_directory(sample, tmp_path):
    paths = [sample(60), sample(60, seed=2, name="b.csv")]
    folder = tmp_path / "model"
    assert modern.main([*map(str, paths), "--model-dir", str(folder), "--epochs", "2", "--quiet"]) == 0
    for name in ("metrics.json", "README.md", "predictions.csv"):
        assert str(tmp_path) not in (folder / name).read_text(), name
    rows = list(csv.DictReader((folder / "predictions.csv").open(newline="")))
    lines = {path.name: path.read_text().splitlines() for path in paths}
    assert {row["file"] for row in rows} == {"HARVEST.CSV", "b.csv"}
    assert all(lines[row["file"]][int(row["line"]) - 1].endswith("," + row["label"]) for row in rows)


def test_a_header_cell_without_end(tmp_path, run):
    (tmp_path / "a.csv").write_text("h" * 200_000 + ",a,productive\n1,2,1\n")
    told(run("train_model_modern.py", tmp_path / "a.csv"), 2, "line 1, column 1: the name has 200,000 characters")


# ---------------------------------------------------------------------------------------------------------------------
# The state of an interrupted run


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    modern.write_sample(folder / "a.csv", 60, 1)
    train_folds = modern.train_folds

    def stopped(*arguments):
        callbacks, stop = arguments[5:7]
        callbacks.callbacks.append(
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(stop, "signal", 15))
        )
        train_folds(*arguments)

    modern.import_tensorflow()
    import keras

    modern.train_folds = stopped
    try:
        flags = ["--model-dir", str(folder / "model"), "--epochs", "40", "--quiet"]
        assert modern.main([str(folder / "a.csv"), *flags]) == 143
    finally:
        modern.train_folds = train_folds
    return folder / "a.csv", folder / "model" / modern.RESUME_FILE


def describe(change):
    def changed(arrays):
        found = json.loads(arrays["description"].tobytes())
        arrays["description"] = np.frombuffer(json.dumps(change(found) or found).encode(), np.uint8)

    return changed


def put(name, value):
    return lambda arrays: arrays.__setitem__(name, value)


TAMPERED = {
    "another architecture": describe(lambda found: found["arguments"].extend(["--architecture", "deep"])),
    "no such architecture": describe(lambda found: found["arguments"].extend(["--architecture", "huge"])),
    "arguments that are no texts": describe(lambda found: found.update(arguments=[5])),
    "arguments that are no list": describe(lambda found: found.update(arguments="--epochs 4")),
    "a flag that asks for help": describe(lambda found: found["arguments"].append("--help")),
    "a flag that is none": describe(lambda found: found["arguments"].append("--nonsense")),
    "folds": describe(lambda found: found["arguments"].extend(["--folds", "5"])),
    "more nets": describe(lambda found: found["folds"].append(found["folds"][0])),
    "no nets": describe(lambda found: found.update(folds=[])),
    "nets that are numbers": describe(lambda found: found.update(folds=[1])),
    "a best epoch to come": describe(lambda found: found["folds"][0].update(best_epoch=10**9)),
    "a best loss of text": describe(lambda found: found["folds"][0].update(best_loss="low")),
    "a reason that is a list": describe(lambda found: found["folds"][0].update(reason=[1])),
    "another fingerprint": describe(lambda found: found.update(fingerprint="0" * 128)),
    "a fingerprint that is a number": describe(lambda found: found.update(fingerprint=7)),
    "a device that is none": describe(lambda found: found.update(device=["cpu"])),
    "a GPU that is not here": describe(lambda found: found.update(device="gpu")),
    "logs elsewhere": describe(lambda found: found.update(logs="..")),
    "logs by a path": describe(lambda found: found.update(logs="../../elsewhere")),
    "a description that is a list": describe(lambda found: [1]),
    "a deep description": put("description", np.frombuffer(b"[" * 200_000, np.uint8)),
    "a description that is a number": put("description", np.float64(3)),
    "a history of another shape": put("0/history", np.zeros((2, 3))),
    "a history of texts": put("0/history", np.array(["a", "b"])),
    "a history that is a number": put("0/history", np.float64(1)),
    "a longer history": put("0/history", np.zeros((500, 9))),
    "no weights": lambda arrays: arrays.pop("0/state/trained"),
    "weights of another shape": put("0/state/trained", np.zeros(3, np.float32)),
    "objects": put("0/state/trained", np.array([{}], object)),
    "no best": lambda arrays: arrays.pop("0/best/trained"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_tampered_states_are_refused(interrupted, tmp_path, case, capsys):
    path, state = interrupted
    with np.load(state) as file:
        arrays = dict(file)
    TAMPERED[case](arrays)
    folder = tmp_path / "model"
    folder.mkdir()
    np.savez(folder / modern.RESUME_FILE, **arrays)
    code = modern.main([str(path), "--model-dir", str(folder), "--resume", "--quiet"])
    errors = capsys.readouterr().err
    assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1, errors
    assert "is damaged" not in errors or f"{folder / modern.RESUME_FILE} is damaged" in errors
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model"]
    assert {entry.name for entry in folder.iterdir()} <= {modern.RESUME_FILE, modern.LOCK_FILE, "logs"}
