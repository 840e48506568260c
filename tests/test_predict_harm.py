"""predict.py as a command: rows answered in order, outputs, streams, and models that it must not run."""

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

from harvest.run_directory import MODEL_FILE

HEADER = "foreground_app,keyboard_activity,mouse_activity,time_last_request,productive"


def refused(done, *words):
    """A command ended with code 2 and one line of error that has these words."""
    code, out, err = done
    assert code == 2 and out == "" and err.count("\n") == 1 and err.startswith("error: "), done
    assert all(word in err for word in words), err


@pytest.fixture
def model(trained):
    """A model directory and the table it was trained on; only read."""
    folder = trained()
    return folder, folder.parent / "HARVEST.CSV"


def start(folder, *args, **streams):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "predict.py"), "-", "--model-dir", str(folder), *args], **streams
    )


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def test_every_row_is_answered_in_order_as_plain_keras_does(model, predict):
    import keras

    folder, path = model
    code, out, err = predict(path, "--model-dir", folder)
    assert (code, err) == (0, "")
    rows, source = list(csv.DictReader(io.StringIO(out))), list(csv.DictReader(path.open(newline="")))
    assert [{name: row[name] for name in source[0]} for row in rows] == source
    saved = keras.models.load_model(folder / MODEL_FILE)
    inputs = {name: np.array([[row[name]] for row in source], tensor.dtype) for name, tensor in saved.input.items()}
    probability = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(probability, saved.predict(inputs, verbose=0)[:, 0], atol=2e-5)
    assert [int(row["predicted"]) for row in rows] == [int(value >= 0.5) for value in probability]


def test_other_columns_and_no_label_and_no_header(trained, predict, tmp_path):
    folder = trained("--checkpoints")
    other, out = tmp_path / "other.csv", tmp_path / "out.csv"
    header = "mouse_activity,note,time_last_request,foreground_app,keyboard_activity"
    other.write_text(f"{header}\n5,x,7,123,9\n,y,7,,9\n")
    checkpoint = next((folder / "checkpoints").glob("*.keras"))
    assert predict(other, "--model", checkpoint, "--output", out)[0] == 0
    rows = list(csv.DictReader(out.open(newline="")))
    assert [row["note"] for row in rows] == ["x", "y"] and all(0 < float(row["probability"]) < 1 for row in rows)
    headerless = tmp_path / "2017.csv"
    headerless.write_text("".join((folder.parent / "HARVEST.CSV").read_text().splitlines(keepends=True)[1:]))
    code, answers, _ = predict(headerless, "--model-dir", folder)
    assert code == 0 and len(answers.splitlines()) == 121


def test_what_cannot_be_predicted_is_refused(model, predict, tmp_path):
    folder, path = model
    lacking, text = tmp_path / "lacking.csv", tmp_path / "text.csv"
    lacking.write_text("foreground_app,mouse_activity,time_last_request\n1,2,3\n")
    text.write_text("foreground_app,keyboard_activity,mouse_activity,time_last_request\n1,2,3,4\n1,many,3,4\n")
    (tmp_path / "bad.keras").write_bytes(b"not a model")
    for args, words in (
        ([lacking, "--model-dir", folder], "no column keyboard_activity"),
        ([text, "--model-dir", folder], "line 3, column keyboard_activity"),
        ([path, "--model-dir", tmp_path / "absent"], "keras: no such file; check the path, or train a model first\n"),
        ([path, "--model", tmp_path / "bad.keras"], f"{UNKNOWN} train_model_modern.py; give a .keras file of a run"),
        ([tmp_path / "absent.csv", "--model-dir", folder], "absent.csv: no such file; check the path\n"),
        ([tmp_path / "absent.csv", "--model-dir", tmp_path / "absent"], "absent.csv: no such file; check the path\n"),
    ):
        refused(predict(*args), words)


@pytest.mark.parametrize(
    "first", ["0,1,2,3", "0.0,1.0,2.0,3.0", '"0","1","2","3"', ",0,1,2,3", "0,1,2,3,4", "0,1", "1,2,3,4", ",1,2,3,4"]
)
def test_column_numbers_are_no_row(model, predict, tmp_path, first):
    folder, path = model
    rows = [line.rpartition(",")[0] for line in path.read_text().splitlines()[1:]]
    content = "\n".join([first, *rows, ""])
    (tmp_path / "new.csv").write_text(content)
    words = ("line 1 (", "has no column names; save the table with its column names")
    refused(predict(tmp_path / "new.csv", "--model-dir", folder), *words)
    refused(predict("-", "--model-dir", folder, stdin=content.encode()), *words)


@pytest.mark.parametrize("title", ["sep=,", "# of today", "Report,,,,", ",,,,"])
def test_a_line_above_the_header_is_named(model, predict, tmp_path, title):
    folder, path = model
    (tmp_path / "new.csv").write_text(f"{title}\n{path.read_text()}")
    named = f"line 1 ({title}) is not the header, but line 2 seems to be: delete line 1"
    refused(predict(tmp_path / "new.csv", "--model-dir", folder), named)


@pytest.mark.parametrize("quote", ["", '"'])
def test_byte_order_marks_at_the_start_of_lines_are_passed_over(model, predict, tmp_path, quote):
    folder, path = model
    header, *rows = (f"{quote}{line.replace(',', f'{quote},{quote}')}{quote}" for line in path.read_text().splitlines())
    plain, mark = "\n".join([header, *rows, *rows, ""]), "\ufeff"
    _, expected, _ = predict("-", "--model-dir", folder, stdin=plain.encode())
    for again in ([], [header]):
        content = mark + "\n".join([header, *rows, mark + "\n".join([*again, *rows, mark])])
        (tmp_path / "joined.csv").write_text(content, encoding="utf-8")
        note = "note: line 122: repeated header, skipped\n" if again else ""
        assert predict(tmp_path / "joined.csv", "--model-dir", folder) == (0, expected, note)
        assert predict("-", "--model-dir", folder, stdin=content.encode()) == (0, expected, note)


def test_labels_are_numbers_in_any_spelling(model, predict, tmp_path):
    folder, path = model
    header, *rows = path.read_text().splitlines()
    spelled = [row[:-1] + {"0": "0.000000", "1": "1.0e+00"}[row[-1]] for row in rows]
    (tmp_path / "new.csv").write_text("\n".join([header, *spelled, ""]))
    errors = [predict(file, "--model-dir", folder, "--evaluate")[2] for file in (path, tmp_path / "new.csv")]
    assert errors[0] == errors[1] and "120 rows" in errors[0]


def test_predictions_are_evaluated_against_the_label(model, predict, tmp_path):
    folder, path = model
    code, _, err = predict(path, "--model-dir", folder, "--evaluate", "--output", tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").open(newline="")))
    accuracy = np.mean([row["productive"] == row["predicted"] for row in rows])
    assert code == 0 and "120 rows" in err and f"{accuracy:.3f}" in err
    header, *lines = path.read_text().splitlines()
    named = tmp_path / "named.csv"
    named.write_text("\n".join([header, *(line[:-1] + "NY"[int(line[-1])] for line in lines), ""]))
    code, _, err = predict(named, "--model-dir", folder, "--evaluate", "--output", tmp_path / "out.csv")
    assert (
        code == 2
        and "line 2, column productive: the label is missing or not 0 or 1 (the column contains N and Y)" in err
    )


def test_repeated_headers_are_left_out_and_unseen_ids_are_one_category(model, predict, tmp_path):
    folder, path = model
    header, *lines = path.read_text().splitlines()
    cells, apps = lines[0].split(",")[1:], ["123456789", "no id at all", "99999999999999999999", ""]
    strange = tmp_path / "strange.csv"
    strange.write_text("\n".join([header, *lines[:2], header, *(",".join([app, *cells]) for app in apps), header, ""]))
    code, out, err = predict(strange, "--model-dir", folder)
    assert (code, err) == (0, "note: lines 4, 9: repeated header, skipped\n")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["foreground_app"] for row in rows] == [line.split(",")[0] for line in lines[:2]] + apps
    assert len({row["probability"] for row in rows[2:5]}) == 1
    strange.write_text("\n".join([header, header, *lines[:2], "1,many,3,4,1", ""]))
    code, _, err = predict(strange, "--model-dir", folder)
    assert code == 2 and "line 5, column keyboard_activity" in err


# ---------------------------------------------------------------------------------------------------------------------
# Outputs


def test_outputs_that_must_not_be_replaced(model, predict, tmp_path, monkeypatch):
    folder, path = model
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.csv"
    own.write_bytes(path.read_bytes())
    (tmp_path / "link").symlink_to(own)
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for table, output, words in [
        (own, own, "is also an input"),
        (own, "link", "is also an input"),
        (own, "folder", "is a directory"),
        (own, "no/x.csv", "the directory no does not exist"),
        (own, "dangling", "is a link to"),
        (path, tmp_path / "link", "is a link to"),
        (path, folder / MODEL_FILE, "is also an input"),
    ]:
        refused(predict(table, "--model-dir", folder, "--output", output), words)
    assert own.read_bytes() == path.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["dangling", "folder", "link", "own.csv"]


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no files below /dev")
def test_a_link_below_dev_is_a_link(model, predict, tmp_path):
    folder, path = model
    (tmp_path / "own.csv").write_text("mine")
    shared = f"/dev/shm/link-{os.getpid()}.csv"
    os.symlink(tmp_path / "own.csv", shared)
    try:
        refused(predict(path, "--model-dir", folder, "--output", shared), "is a link to")
    finally:
        os.unlink(shared)
    assert (tmp_path / "own.csv").read_text() == "mine"


def test_outputs_that_are_replaced_or_are_no_files(model, predict, tmp_path):
    folder, path = model
    private = tmp_path / "private.csv"
    private.touch(0o600)
    assert predict(path, "--model-dir", folder, "--output", private)[0] == 0
    assert private.stat().st_mode & 0o777 == 0o600 and len(private.read_text().splitlines()) == 121
    long = tmp_path / ("ü" * 120 + ".csv")
    assert predict(path, "--model-dir", folder, "--output", long)[0] == 0 and long.exists()
    assert predict(path, "--model-dir", folder, "--output", "/dev/null")[0] == 0 and not os.path.isfile("/dev/null")
    code, _, err = predict(path, "--model-dir", folder, "--output", "/dev/full")
    assert code == 1 and err.count("\n") == 1 and err.startswith("error: /dev/full: ")


@pytest.mark.slow
def test_standard_output_is_full_closed_or_a_path(model, tmp_path):
    folder, path = model

    def call(shell, *args):
        command = " ".join([sys.executable, *map(str, args), shell])
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=200, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    args = [ROOT / "predict.py", path, "--model-dir", folder]
    code, _, err = call("> /dev/full", *args)
    assert code == 1 and err == "error: standard output: No space left on device\n"
    assert call(">&-", *args) == (0, "", "")
    code, out, _ = call("", *args, "--output", "/dev/stdout")
    assert code == 0 and len(out.splitlines()) == 121
    code, out, err = call(f"< {path}", ROOT / "predict.py", "-", "--model-dir", folder, "--output", path)
    assert code == 2 and "is also an input" in err


def test_columns_of_the_users_own_are_kept(model, predict, tmp_path):
    folder, path = model
    own = tmp_path / "own.csv"
    header, *rows = path.read_text().splitlines()
    lines = [f"{header},probability,predicted", *(f"{row},mine,{number}" for number, row in enumerate(rows))]
    own.write_text("\n".join([*lines, ""]))
    _, out, err = predict(own, "--model-dir", folder)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["probability"] for row in rows] == ["mine"] * 120 and rows[3]["predicted"] == "3"
    assert all(0 < float(row["model_probability"]) < 1 and row["model_predicted"] in "01" for row in rows)
    assert "the input has a column probability, which is kept" in err


@pytest.mark.parametrize("last", ["-100,5,", "-100,5,5,5,", "-100,5,5,5", "-100,5,5,1e,1"])
def test_a_torn_last_row_is_left_out(model, predict, tmp_path, last):
    folder, path = model
    (tmp_path / "torn.csv").write_text(path.read_text() + last)
    code, out, err = predict(tmp_path / "torn.csv", "--model-dir", folder)
    assert (code, err) == (0, "note: line 122, the last, is incomplete and skipped\n") and len(out.splitlines()) == 121


def test_nothing_to_evaluate(model, predict, tmp_path):
    folder, _ = model
    (tmp_path / "header.csv").write_text(HEADER + "\n")
    args = [tmp_path / "header.csv", "--model-dir", folder]
    refused(predict(*args, "--evaluate", "--output", tmp_path / "out.csv"), "has no rows to evaluate")
    assert not (tmp_path / "out.csv").exists()
    assert predict(*args) == (0, HEADER + ",probability,predicted\n", "")


# ---------------------------------------------------------------------------------------------------------------------
# Standard input


def answered(out):
    return [line.rsplit(",", 2)[0] for line in out.splitlines()[1:]]


def test_a_stream_goes_on_after_bad_lines(model, predict):
    folder, path = model
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
    lines = [line for pair in zip(rows, bad, strict=False) for line in pair]
    sent = [header, *lines, rows[20], b'5,"2', rows[21], b'7,8,9,10,"x', b""]
    code, out, err = predict("-", "--model-dir", folder, "--evaluate", stdin=b"\n".join(sent))
    assert code == 0 and answered(out) == [row.decode() for row in [*rows[: len(bad)], rows[20], rows[21]]]
    notes = [line for line in err.splitlines() if line.startswith("note: line ")]
    assert len(notes) == len(bad) + 1 and "line 3: is not UTF-8 text" in notes[0]


@pytest.mark.parametrize("with_header", [True, False])
def test_notes_name_the_line_of_standard_input(model, predict, with_header):
    folder, path = model
    header, *rows = path.read_text().splitlines()
    sent = [*([header] if with_header else []), *rows[:2], "1,many,3,4,1"]
    code, out, err = predict("-", "--model-dir", folder, stdin="\n".join([*sent, ""]).encode())
    assert code == 0 and len(out.splitlines()) == 3
    assert f"note: line {len(sent)}, column keyboard_activity: 'many' is not a number, skipped" in err


def test_a_stream_is_answered_as_the_file_is(model, predict):
    folder, path = model
    of_stream = predict("-", "--model-dir", folder, stdin=path.read_bytes())
    assert of_stream == predict(path, "--model-dir", folder)


def test_a_record_of_several_lines_is_one_row_of_a_stream(model, predict, tmp_path):
    folder, path = model
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
    (tmp_path / "own.csv").write_text("\n".join(line for line in sent if "torn" not in line) + "\n")
    _, of_file, _ = predict(tmp_path / "own.csv", "--model-dir", folder)
    _, of_stream, err = predict("-", "--model-dir", folder, stdin="\n".join([*sent, ""]).encode())
    assert of_file == of_stream and len(list(csv.reader(io.StringIO(of_stream)))) == 5
    assert err == "note: line 7: unclosed quotes, skipped\n"
    sent = f"{header}\n{rows[0]}\r{rows[1]}\n{rows[2]}\n".encode()
    _, out, err = predict("-", "--model-dir", folder, stdin=sent)
    assert err == "note: line 2: contains a carriage return, skipped\n" and len(out.splitlines()) == 2


@pytest.mark.parametrize(
    "sent, rows, notes",
    [
        (b'"a\r\nb",1,2,3,4,1\r\n1,2,3,4,5,0\r\n', ['"a\r\nb",1,2,3,4,1', "1,2,3,4,5,0"], []),
        (
            b'"a\n\xff\nb",1,2,3,4,1\n1,2,3,4,5,0\n',
            ["1,2,3,4,5,0"],
            ["line 3: is not UTF-8 text; skipped the record that starts on line 2"],
        ),
        (b'"' + b"line\n" * 500 + b'end",1,2,3,4,1\n', ['"' + "line\n" * 500 + 'end",1,2,3,4,1'], []),
        (b"\xef\xbb\xbfnote,HEADER\n1,2,3,4,5,0\n", ["1,2,3,4,5,0"], ["line 2: repeated header"]),
        (
            b'a","' + b"x" * 2_000 + b"\n" + b'a","xxx\n' * 1_500 + b"1,2,3,4,5,0\n",
            ["1,2,3,4,5,0"],
            ["line 2: unclosed quotes"],
        ),
        (b'"he said ""no"", then\nleft", 2,3,4,5,1\n', ['"he said ""no"", then\nleft",2,3,4,5,1'], []),
    ],
    ids=["line ends", "no text", "500 lines", "header", "open quotes", "quotes"],
)
def test_records_of_a_stream(model, predict, sent, rows, notes):
    content = b"note," + HEADER.encode() + b"\n" + sent.replace(b"HEADER", HEADER.encode())
    _, out, err = predict("-", "--model-dir", model[0], stdin=content)
    found = [row[:-2] for row in csv.reader(io.StringIO(out, newline=""))][1:]
    assert found == [next(csv.reader([row], skipinitialspace=True)) for row in rows], err[-300:]
    assert all(any(words in line for line in err.splitlines()) for words in notes) and (notes or not err)


@pytest.mark.slow
def test_a_stream_is_answered_while_it_is_open(model):
    folder, path = model
    header, *rows = path.read_text().splitlines()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = start(folder, **streams, text=True, bufsize=1)
    watchdog = threading.Timer(100, process.kill)
    watchdog.start()

    def ask(text):
        process.stdin.write(text)
        process.stdin.flush()
        return process.stdout.readline()

    assert ask(header + "\n") == f"{header},probability,predicted\n"
    for row in rows[:3]:
        assert ask(row + "\n").startswith(row)
    assert ask(f"{header}\n1,2\n{rows[3]}\n").startswith(rows[3])
    rest, notes = process.communicate("1,2,3", timeout=60)
    assert rest == "" and process.returncode == 0
    assert "line 5: repeated header" in notes and "line 6: 2 fields" in notes and "line 8: 3 fields" in notes
    watchdog.cancel()


@pytest.mark.slow
def test_the_output_of_a_stream_is_there_while_it_is_open(model, tmp_path):
    folder, path = model
    header, *rows = path.read_bytes().splitlines()
    out = tmp_path / "out.csv"
    process = start(folder, "--output", str(out), stdin=subprocess.PIPE)
    process.stdin.write(header + b"\n" + rows[0] + b"\n")
    process.stdin.flush()
    for _ in range(600):
        time.sleep(0.1)
        if out.exists() and out.read_bytes().count(b"\n") == 2:
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and out.read_bytes().count(b"\n") == 2 and os.listdir(tmp_path) == ["out.csv"]
    process.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_rows_are_utf8_whatever_the_terminal_shows(trained, encoding):
    def write(path):
        values = np.random.default_rng(0).normal(size=(60, 3))
        lines = [",".join([*map("{:.3f}".format, row), str(number % 2)]) for number, row in enumerate(values)]
        path.write_text("\n".join(["größe,日本,🙂,productive", *lines, ""]), encoding="utf-8")

    folder = trained(write=write)
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, ROOT / "predict.py", folder.parent / "HARVEST.CSV", "--model-dir", folder]
    done = subprocess.run(list(map(str, command)), capture_output=True, env=environment, timeout=200)
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    assert done.stdout.startswith("größe,日本,🙂,productive,probability".encode())


# ---------------------------------------------------------------------------------------------------------------------
# Models


def test_directories_that_others_can_write_to_are_named(model_copy, predict):
    folder = model_copy()
    folder.chmod(0o777)
    code, _, err = predict(folder.parent / "HARVEST.CSV", "--model-dir", folder)
    assert code == 0 and err.startswith("warning: ") and "is writable by every user" in err


def of_entries(**changes):
    """A change of an archive: entries by the end of their names; None deletes one."""

    def change(name, content):
        for end, new in changes.items():
            if name.endswith(f".{end}"):
                content = new(name, content)
        return [] if content is None else [(name, content)]

    return change


def of_details(change):
    """A change of training.json."""

    def changed(name, content):
        if name == "training.json":
            found = change(json.loads(content))
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
        return [(name, content)]

    return changed


def without_numbers(_, content):
    import h5py

    with h5py.File(buffer := io.BytesIO(content), "r+") as file:

        def put(name, value):
            if isinstance(value, h5py.Dataset) and value.dtype.kind == "f":
                value[...] = np.nan

        file.visititems(put)
    return buffer.getvalue()


def without(entry):
    return lambda name, content: [] if name == entry else [(name, content)]


def escaping(path):
    return lambda name, content: [(name, content), *([(path, "x")] if name == "config.json" else [])]


LAMBDA = b'{"class_name": "Lambda", "module": "builtins", "config": {}}'
UNKNOWN, UNLOADABLE = "is not a model written by", "cannot be loaded"
HOSTILE = {
    "a zip bomb": (
        lambda name, content: [(name, content + b"\0" * (300 << 20) if name == "config.json" else content)],
        "unpacks to more than 256 MB",
    ),
    "a path that climbs": (escaping("../escaped.txt"), "a path outside of the archive"),
    "a path from the root": (escaping("/tmp/escaped.txt"), "a path outside of the archive"),
    "no details": (without("training.json"), UNKNOWN),
    "details that are no object": (of_details(lambda _: []), UNKNOWN),
    "details of other kinds": (of_details(lambda _: {"label": 1, "threshold": "x", "columns": [2]}), UNKNOWN),
    "a threshold beyond 1": (of_details(lambda found: found | {"threshold": 7}), UNKNOWN),
    "deep details": (of_details(lambda _: b"[" * 200_000), UNKNOWN),
    "no columns": (of_details(lambda found: found | {"columns": []}), UNKNOWN),
    "fewer columns": (of_details(lambda found: found | {"columns": found["columns"][:2]}), UNKNOWN),
    "columns that are numbers": (of_details(lambda found: found | {"columns": [5]}), UNKNOWN),
    "columns of no kind": (
        of_details(lambda found: found | {"columns": [{"name": column["name"]} for column in found["columns"]]}),
        UNKNOWN,
    ),
    "no architecture": (without("config.json"), UNLOADABLE),
    "another architecture": (
        lambda name, content: [(name, LAMBDA if name == "config.json" else content)],
        UNLOADABLE,
    ),
    "damaged weights": (of_entries(h5=lambda _, content: content[:100]), UNLOADABLE),
    "weights that are not numbers": (of_entries(h5=without_numbers), "weights that are not finite"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_models_are_refused(model, predict, tmp_path, case):
    folder, path = model
    change, message = HOSTILE[case]
    target = tmp_path / "hostile.keras"
    with zipfile.ZipFile(folder / MODEL_FILE) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            for pair in change(name, old.read(name)):
                new.writestr(*pair)
    refused(predict(path, "--model", target, "--output", tmp_path / "out.csv"), message)
    assert os.listdir(tmp_path) == ["hostile.keras"] and not os.path.exists("/tmp/escaped.txt")


def test_other_archives_are_refused(model, predict, tmp_path):
    import keras

    _, path = model
    inputs = keras.Input((3,), name="x")
    other, broken = tmp_path / "other.keras", tmp_path / "broken.keras"
    keras.Model({"x": inputs}, keras.layers.Dense(2)(inputs)).save(other)
    columns = [{"name": "foreground_app", "kind": "number"}]
    with zipfile.ZipFile(other, "a") as archive:
        archive.writestr("training.json", json.dumps({"label": "productive", "threshold": 0.5, "columns": columns}))
    with zipfile.ZipFile(broken, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("training.json", json.dumps(list(range(5_000))))
    content = bytearray(broken.read_bytes())
    content[120:140] = b"\xff" * 20
    broken.write_bytes(content)
    for archive in (other, broken):
        refused(predict(path, "--model", archive), UNKNOWN)


def test_nothing_that_a_model_brings_is_executed(model, predict, tmp_path):
    import keras

    folder, path = model
    with zipfile.ZipFile(folder / MODEL_FILE) as archive:
        details = archive.read("training.json")
    inputs = {name: keras.Input((1,), name=name) for name in HEADER.split(",")[:-1]}
    hostile = keras.layers.Lambda(lambda parts: parts[0], output_shape=(1,))(list(inputs.values()))
    keras.Model(inputs, hostile).save(tmp_path / "hostile.keras")
    with zipfile.ZipFile(tmp_path / "hostile.keras", "a") as archive:
        archive.writestr("training.json", details)
    refused(predict(path, "--model", tmp_path / "hostile.keras"), UNLOADABLE)


def test_a_commit_that_was_cut_short_is_finished(model_copy, predict):
    """predict.py runs the model of the new run, not that of the run before beside the new metrics."""
    from harvest.run_directory import RunDirectory

    folder = model_copy()
    run = RunDirectory(folder)
    run.check()
    content = (folder / MODEL_FILE).read_bytes()
    run.stage(MODEL_FILE, content)
    (run.staging / ".manifest.json").write_text(json.dumps({MODEL_FILE: "0"}))
    (folder / MODEL_FILE).unlink()
    assert predict(folder.parent / "HARVEST.CSV", "--model-dir", folder)[0] == 0
    assert (folder / MODEL_FILE).read_bytes() == content and not run.staging.exists()
