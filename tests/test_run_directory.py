"""The files of a run: whole or not at all, and nobody else's. On bytes, without any training."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from harvest import run_directory
from harvest.cli import UserError
from harvest.run_directory import (
    ALL_FILES,
    CARD_FILE,
    EXPORT_FILES,
    METRICS_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    RESULT_FILES,
    RESUME_FILE,
    RunDirectory,
    finish_commit,
    shared_warning,
    write_atomically,
)

ROOT = Path(__file__).resolve().parent.parent
SAVED_MODEL = EXPORT_FILES["saved_model"]
TRAINED = [MODEL_FILE, METRICS_FILE, PREDICTIONS_FILE, CARD_FILE, REPORT_FILE]
WITH_EXPORTS = [*TRAINED, *EXPORT_FILES.values()]


def stage(run, name, words):
    if name == SAVED_MODEL:
        (run.staged(name) / "variables").mkdir(parents=True)
        (run.staged(name) / "variables" / "variables.index").write_text(words)
    else:
        run.stage(name, words.encode())


def write(folder, words, names=TRAINED, **settings):
    """What a run does with its files: they hold these words."""
    run = RunDirectory(folder, **settings)
    run.check()
    with run:
        for name in names:
            if run.free(name):
                stage(run, name, words)
        return run.commit()


def contents(folder):
    """The words in every file of a directory but the lock and the manifest; a directory has those of its file."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name not in (".lock", ".manifest.json"):
            found[path.name] = next(
                (part.read_text() for part in [path, *path.rglob("*")] if part.is_file()), "no file is in it"
            )
    return found


# ---------------------------------------------------------------------------------------------------------------------
# What is not ours


@pytest.mark.parametrize(
    "name", [".lock", MODEL_FILE, METRICS_FILE, PREDICTIONS_FILE, CARD_FILE, RESUME_FILE, "checkpoints"]
)
@pytest.mark.parametrize("how", ["link", "hard link", "own file"])
def test_files_of_the_users_are_never_written_to(tmp_path, name, how):
    folder, precious = tmp_path / "model", tmp_path / "precious"
    folder.mkdir()
    precious.write_text("years of work")
    place = folder / name
    if how == "link":
        place.symlink_to(precious)
    elif how == "hard link":
        os.link(precious, place)
    else:
        place.write_text("years of work")
    # Nothing is written into a lock, so that any file can be one.
    allowed = name == CARD_FILE or (name == ".lock" and how != "link")
    with contextlib.nullcontext() if allowed else pytest.raises(UserError, match=name):
        write(folder, "new")
    assert precious.read_text() == place.read_text() == "years of work"
    assert place.is_symlink() == (how == "link")
    assert (folder / METRICS_FILE).exists() == (allowed or name == METRICS_FILE)


@pytest.mark.parametrize("name", [".lock", ".manifest.json", MODEL_FILE, METRICS_FILE, CARD_FILE, SAVED_MODEL])
@pytest.mark.parametrize("what", ["directory", "pipe", "dangling link"])
def test_what_is_no_file_is_left_alone(tmp_path, name, what):
    folder = tmp_path / "model"
    folder.mkdir()
    if what == "directory":
        (folder / name).mkdir()
        (folder / name / "mine").write_text("mine")
    elif what == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(tmp_path / "nowhere")
    with contextlib.nullcontext() if name == CARD_FILE else pytest.raises(UserError, match=name):
        write(folder, "new", WITH_EXPORTS, exports=list(EXPORT_FILES))
    place = folder / name
    kind = {"directory": place.is_dir(), "pipe": place.is_fifo(), "dangling link": place.is_symlink()}
    assert kind[what] and not (tmp_path / "nowhere").exists()
    assert what != "directory" or (place / "mine").read_text() == "mine"


@pytest.mark.parametrize("what", ["link", "file", "pipe"])
def test_what_is_called_like_the_staging_directory_is_left_alone(tmp_path, what):
    folder, own = tmp_path / "model", tmp_path / "own"
    folder.mkdir()
    own.mkdir()
    (own / MODEL_FILE).write_text("mine")
    place = RunDirectory(folder).staging
    {"link": lambda: place.symlink_to(own), "file": lambda: place.write_text("mine"), "pipe": lambda: os.mkfifo(place)}[
        what
    ]()
    with pytest.raises(UserError, match="was not written by this program"):
        write(folder, "new")
    finish_commit(folder)
    assert os.path.lexists(place) and (own / MODEL_FILE).read_text() == "mine"


@pytest.mark.parametrize("name", ["checkpoints", "logs"])
def test_folders_that_are_links_are_refused_by_the_trainer(tmp_path, name):
    (tmp_path / "own").mkdir()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "own")
    with pytest.raises(UserError, match="is a link or not a directory"):
        write(folder, "new")
    assert write(folder, "new", [EXPORT_FILES["onnx"]], exports=["onnx"], training=False) == []


@pytest.mark.parametrize("name", WITH_EXPORTS)
def test_an_edited_file_is_the_users(tmp_path, name):
    write(tmp_path, "old", WITH_EXPORTS)
    edited = tmp_path / name / "variables" / "variables.index" if name == SAVED_MODEL else tmp_path / name
    edited.write_text("mine")
    run = RunDirectory(tmp_path, EXPORT_FILES)
    assert not run.is_ours(name) and not run.free(name)
    if name in (CARD_FILE, REPORT_FILE):
        write(tmp_path, "new", WITH_EXPORTS, exports=EXPORT_FILES)
        assert contents(tmp_path) == dict.fromkeys(WITH_EXPORTS, "new") | {name: "mine"}
    else:
        with pytest.raises(UserError, match="was not written by this program"):
            write(tmp_path, "new", WITH_EXPORTS, exports=EXPORT_FILES)
        assert contents(tmp_path) == dict.fromkeys(WITH_EXPORTS, "old") | {name: "mine"}
    edited.write_text("new" if name in (CARD_FILE, REPORT_FILE) else "old")
    assert run.is_ours(name) == (name not in (CARD_FILE, REPORT_FILE))  # of these the manifest knows nothing now


@pytest.mark.parametrize("what", ["file", "link", "directory"])
def test_what_the_user_has_put_into_an_exported_directory_is_kept(tmp_path, what):
    write(tmp_path, "old", WITH_EXPORTS)
    own = tmp_path / SAVED_MODEL / "NOTES"
    {"file": lambda: own.write_text("mine"), "link": lambda: own.symlink_to("nowhere"), "directory": own.mkdir}[what]()
    with pytest.raises(UserError, match="was not written by this program"):
        write(tmp_path, "new", WITH_EXPORTS, exports=["saved_model"])
    assert write(tmp_path, "new") == [EXPORT_FILES["litert"], EXPORT_FILES["onnx"]]
    assert os.path.lexists(own)


@pytest.mark.parametrize("name, refused", [(METRICS_FILE, True), (CARD_FILE, False)])
def test_what_comes_while_a_run_is_under_way_is_kept(tmp_path, name, refused):
    write(tmp_path, "old")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=name) if refused else contextlib.nullcontext(), RunDirectory(tmp_path) as run:
        for result in TRAINED:
            run.stage(result, b"new")
        (tmp_path / name).write_text("mine")
        run.commit()
    expected = before if refused else dict.fromkeys(TRAINED, "new")
    assert contents(tmp_path) == expected | {name: "mine"}


def test_two_programs_share_a_directory(tmp_path):
    basic = {"training": False, "files": ["basic_model.keras", "basic_metrics.json"]}
    for words in ("old", "new"):
        assert write(tmp_path, words, basic["files"], **basic) == []
        assert write(tmp_path, words) == []
    assert contents(tmp_path) == dict.fromkeys([*TRAINED, *basic["files"]], "new")
    (tmp_path / "basic_model.keras").write_text("mine")
    with pytest.raises(UserError, match="was not written by this program"):
        write(tmp_path, "newer", basic["files"], **basic)
    write(tmp_path, "newer")
    assert contents(tmp_path)["basic_model.keras"] == "mine"


def archive(entry):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry, "{}")
    return file.getvalue()


OF_1_6 = {
    MODEL_FILE: archive("training.json"),
    METRICS_FILE: b'{\n  "rows": {',
    PREDICTIONS_FILE: b"line,fold,label,probability\n2,1,0,0.5\n",
    CARD_FILE: b"# Model card: a\n\nWritten by train_model_modern.py 1.6.0 on",
    REPORT_FILE: b"<!doctype html>\n<!-- Report of train_model_modern.py 1.6.0 -->",
    EXPORT_FILES["onnx"]: b"\x08\x08\x12\x12train_model_modern",
    EXPORT_FILES["litert"]: b"\x1c\0\0\0TFL3 probability",
    "basic_model.keras": archive("basic.json"),
    "basic_metrics.json": b'{\n  "rows": {',
}


@pytest.mark.parametrize("name", [*OF_1_6, SAVED_MODEL])
def test_a_directory_of_version_1_6_is_taken_over(tmp_path, name):
    for other, content in OF_1_6.items():
        (tmp_path / other).write_bytes(content)
    saved = tmp_path / SAVED_MODEL
    for part in ("assets", "variables"):
        (saved / part).mkdir(parents=True)
    for part in ("saved_model.pb", "fingerprint.pb", "variables/variables.index", "train_model_modern"):
        (saved / part).write_bytes(b"")
    (saved / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
    run = RunDirectory(tmp_path)
    assert all(run.is_ours(other) for other in ALL_FILES)
    own = saved / "NOTES" if name == SAVED_MODEL else tmp_path / name
    own.write_bytes(archive("config.json") if name.endswith(".keras") else b"# train_model_modern.py: my notes")
    assert [other for other in ALL_FILES if not run.is_ours(other)] == [name]
    required = [MODEL_FILE, METRICS_FILE, PREDICTIONS_FILE]
    if name in required:
        with pytest.raises(UserError, match="was not written by this program"):
            write(tmp_path, "new")
    else:
        stale = [other for other in EXPORT_FILES.values() if other != name]
        assert write(tmp_path, "new") == stale  # those of the model before
        assert run.is_ours(MODEL_FILE) and run.is_ours("basic_model.keras") == (name != "basic_model.keras")
    assert own.exists()


def test_the_state_of_a_run_is_known_by_its_entry(tmp_path):
    for entry, ours in (("description.npy", True), ("mine.npy", False)):
        (tmp_path / RESUME_FILE).write_bytes(archive(entry))
        assert RunDirectory(tmp_path).is_ours(RESUME_FILE) is ours


# ---------------------------------------------------------------------------------------------------------------------
# All or nothing


def test_results_are_replaced_together_and_stale_ones_deleted(tmp_path):
    assert write(tmp_path, "old", WITH_EXPORTS) == []
    assert contents(tmp_path) == dict.fromkeys(WITH_EXPORTS, "old")
    (tmp_path / EXPORT_FILES["onnx"]).write_text("mine")
    names = [MODEL_FILE, METRICS_FILE, PREDICTIONS_FILE, EXPORT_FILES["litert"]]
    assert write(tmp_path, "new", names) == [CARD_FILE, REPORT_FILE, SAVED_MODEL]
    assert contents(tmp_path) == dict.fromkeys(names, "new") | {EXPORT_FILES["onnx"]: "mine"}


def test_exporting_alone_replaces_exports_and_the_card_only(tmp_path):
    write(tmp_path, "old", WITH_EXPORTS)
    assert write(tmp_path, "new", [SAVED_MODEL, CARD_FILE], exports=["saved_model"], training=False) == []
    assert contents(tmp_path) == dict.fromkeys(WITH_EXPORTS, "old") | {SAVED_MODEL: "new", CARD_FILE: "new"}
    assert all(RunDirectory(tmp_path).is_ours(name) for name in WITH_EXPORTS)


def test_without_a_commit_nothing_changes(tmp_path):
    write(tmp_path, "old", WITH_EXPORTS)
    before = contents(tmp_path)
    with pytest.raises(ZeroDivisionError), RunDirectory(tmp_path) as run:
        run.stage(MODEL_FILE, b"new")
        run.staged("anything").mkdir()
        assert 1 / 0
    assert contents(tmp_path) == before
    with RunDirectory(tmp_path) as run:
        run.staged("anything").mkdir()
        assert run.commit() == []
    assert contents(tmp_path) == before


def test_modes_are_kept(tmp_path):
    write(tmp_path, "old")
    (tmp_path / MODEL_FILE).chmod(0o600)
    (tmp_path / METRICS_FILE).chmod(0o444)
    write(tmp_path, "new")
    mask = os.umask(0)
    os.umask(mask)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in TRAINED}
    assert modes == dict.fromkeys(TRAINED, 0o666 & ~mask) | {MODEL_FILE: 0o600, METRICS_FILE: 0o444}


KILLED = """
import os, pathlib, shutil, sys
sys.path.insert(0, sys.argv[1])
from harvest.run_directory import RunDirectory
steps = int(sys.argv[3])

def killed(function):
    def call(*arguments, **settings):
        global steps
        if not steps:
            os._exit(9)
        steps -= 1
        return function(*arguments, **settings)
    return call

for module, name in ((os, "replace"), (os, "mkdir"), (os, "fsync"), (shutil, "rmtree"), (pathlib.Path, "unlink")):
    setattr(module, name, killed(getattr(module, name)))
with RunDirectory(sys.argv[2]) as run:
    for name in sys.argv[4:]:
        if "." in name:
            run.stage(name, b"new")
        else:
            run.staged(name).mkdir()
            (run.staged(name) / "saved_model.pb").write_text("new")
    run.commit()
"""


def test_a_run_that_is_killed_at_any_step_is_undone_or_finished(tmp_path):
    names, outcomes = [MODEL_FILE, METRICS_FILE, PREDICTIONS_FILE, SAVED_MODEL], []
    for step in range(100):
        folder = tmp_path / str(step)
        write(folder, "old", WITH_EXPORTS)
        command = [sys.executable, "-c", KILLED, str(ROOT), str(folder), str(step), *names]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode in (0, 9), done.stderr
        whole = (RunDirectory(folder).staging / ".manifest.json").exists()
        if whole and step % 2:
            finish_commit(folder)  # as predict.py does
        with RunDirectory(folder):
            pass
        found = contents(folder)
        outcomes.append(found == dict.fromkeys(names, "new"))
        assert outcomes[-1] or (not whole and found == dict.fromkeys(WITH_EXPORTS, "old")), (step, found)
        assert all(RunDirectory(folder).is_ours(name) for name in found)
        if done.returncode == 0:
            break
    assert done.returncode == 0 and outcomes == sorted(outcomes) and outcomes.count(True) > 10 < outcomes.count(False)


def leave_whole(folder, names=WITH_EXPORTS, words="new"):
    """A directory as a process that was killed before the first move has left it."""
    with RunDirectory(folder) as run, pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        for name in names:
            stage(run, name, words)
        patch.setattr(RunDirectory, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run.commit()


def test_what_the_user_has_put_there_since_a_kill_is_kept(tmp_path):
    write(tmp_path, "old")
    leave_whole(tmp_path)
    (tmp_path / METRICS_FILE).write_text("mine")
    (tmp_path / EXPORT_FILES["onnx"]).write_text("mine")
    finish_commit(tmp_path)
    kept = {METRICS_FILE: "mine", EXPORT_FILES["onnx"]: "mine"}
    assert contents(tmp_path) == dict.fromkeys(WITH_EXPORTS, "new") | kept


def test_only_who_holds_the_lock_finishes(tmp_path):
    write(tmp_path, "old")
    leave_whole(tmp_path)
    with run_directory.lock(tmp_path):
        finish_commit(tmp_path)
        assert contents(tmp_path)[MODEL_FILE] == "old"
    finish_commit(tmp_path)
    assert contents(tmp_path)[MODEL_FILE] == "new"


@pytest.mark.parametrize("stuck", [MODEL_FILE, SAVED_MODEL, METRICS_FILE])
def test_a_move_that_is_refused_is_done_by_the_next_run(tmp_path, monkeypatch, stuck):
    write(tmp_path, "old", WITH_EXPORTS)
    replace = os.replace

    def failing(source, target):
        if Path(source).name == stuck:
            raise PermissionError(1, "Operation not permitted", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(PermissionError):
        write(tmp_path, "new", WITH_EXPORTS)
    with pytest.raises(PermissionError):
        write(tmp_path, "newer", WITH_EXPORTS)
    monkeypatch.undo()
    with RunDirectory(tmp_path):
        pass
    assert contents(tmp_path) == dict.fromkeys(WITH_EXPORTS, "new")


def test_what_would_refuse_a_move_is_found_before_the_first(tmp_path, monkeypatch):
    write(tmp_path, "old", WITH_EXPORTS)
    chmod = os.chmod

    def immutable(path, mode, **settings):
        if Path(path) == tmp_path / METRICS_FILE:
            raise PermissionError(1, "Operation not permitted", str(path))
        chmod(path, mode, **settings)

    monkeypatch.setattr(os, "chmod", immutable)
    with pytest.raises(PermissionError):
        write(tmp_path, "new", WITH_EXPORTS)
    assert contents(tmp_path) == dict.fromkeys(WITH_EXPORTS, "old")


HOSTILE = [
    b'{"victim": "0", "../victim": "0", "x/../../victim": "0"}',
    b"[" * 100_000,
    b'{"productivity_model.keras": 5}',
    b'["productivity_model.keras"]',
    b"\xff",
    b"",
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_mark_moves_nothing(tmp_path, content):
    folder = tmp_path / "model"
    write(folder, "old")
    for place in (tmp_path / "victim", folder / "victim", folder / EXPORT_FILES["onnx"]):
        place.write_text("mine")
    staging = RunDirectory(folder).staging
    staging.mkdir()
    (staging / "victim").write_text("other")
    (staging / EXPORT_FILES["onnx"]).write_text("other")
    (staging / ".manifest.json").write_bytes(content)
    finish_commit(folder)
    for place in (tmp_path / "victim", folder / "victim", folder / EXPORT_FILES["onnx"]):
        assert place.read_text() == "mine"
    assert not staging.exists()


FULL = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from harvest.run_directory import *
with RunDirectory(sys.argv[2]) as run:
    for name in (MODEL_FILE, METRICS_FILE, PREDICTIONS_FILE):
        run.stage(name, b"new")
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
    try:
        run.stage(CARD_FILE, b"new" * 100)
        run.commit()
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
"""


@pytest.mark.parametrize("limit", [0, 100, 310, 10_000])  # the card has 300 bytes, the manifest some more
def test_a_full_disk_leaves_the_previous_files(tmp_path, limit):
    write(tmp_path, "old", WITH_EXPORTS)
    command = [sys.executable, "-c", FULL, str(ROOT), str(tmp_path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if limit == 10_000:
        assert done.returncode == 0 and contents(tmp_path)[MODEL_FILE] == "new"
    else:
        assert done.returncode == 1 and "File too large" in done.stderr, done
        assert contents(tmp_path) == dict.fromkeys(WITH_EXPORTS, "old")


def test_an_error_says_where_the_disk_is_full(tmp_path, monkeypatch):
    write(tmp_path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=str(tmp_path)):
        write(tmp_path, "new")
    with pytest.raises(OSError, match="state"):
        write_atomically(tmp_path / "state", b"new")
    assert contents(tmp_path) == dict.fromkeys(TRAINED, "old")


def test_what_a_killed_process_left_is_deleted_and_nothing_else(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    staging = RunDirectory(tmp_path).staging
    (staging / SAVED_MODEL / "after").mkdir(parents=True)
    (staging / MODEL_FILE).write_bytes(b"half")
    (tmp_path / f".train_model_modern-7-{RESUME_FILE}.tmp").write_bytes(b"half")
    (tmp_path / "checkpoints" / ".train_model_modern-7-model_01_0.5000.keras.tmp").write_bytes(b"half")
    (tmp_path / f".train_model_modern-before-{SAVED_MODEL}.tmp" / "variables").mkdir(parents=True)
    others = [".exportabc.tmp", ".productivity_model.keras.123.tmp", ".train_model_modern-7-out.csv.tmp"]
    for other in others:
        (tmp_path / other).write_text("mine")
    finish_commit(tmp_path)
    assert (staging / MODEL_FILE).exists()  # of a run that may be alive
    write(tmp_path, "new")
    assert contents(tmp_path) == dict.fromkeys(others, "mine") | dict.fromkeys(TRAINED, "new") | {
        "checkpoints": "no file is in it"
    }


# ---------------------------------------------------------------------------------------------------------------------
# One process at a time, and directories that cannot be used


def test_a_directory_is_locked_until_its_process_ends(tmp_path):
    program = "import sys, time; sys.path.insert(0, sys.argv[1]); from harvest.run_directory import RunDirectory\n"
    program += "with RunDirectory(sys.argv[2]) as run:\n run.stage('metrics.json', b'half'); print(flush=True)\n"
    program += " time.sleep(100)"
    command = [sys.executable, "-c", program, str(ROOT), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        for _ in range(2):
            with pytest.raises(UserError, match="another process is training or exporting there"):
                RunDirectory(tmp_path).check()
            assert RunDirectory(tmp_path).staging.exists()
        process.kill()
    write(tmp_path, "new")
    assert contents(tmp_path) == dict.fromkeys(TRAINED, "new") and (tmp_path / ".lock").read_bytes() == b""


def test_without_locks(tmp_path, monkeypatch):  # as on Windows
    monkeypatch.setattr(run_directory, "fcntl", None)
    for words in ("old", "new"):
        write(tmp_path, words, WITH_EXPORTS)
    leave_whole(tmp_path, words="newer")
    finish_commit(tmp_path)
    assert contents(tmp_path) == dict.fromkeys(WITH_EXPORTS, "newer")


def test_directories_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file; name a writable directory"):
        RunDirectory(tmp_path / "file").check()
    with pytest.raises(UserError, match="Not a directory; name a writable directory"):
        RunDirectory(tmp_path / "file" / "below").check()
    missing = "No such file or directory; name a writable directory"
    with pytest.raises(UserError, match=missing), RunDirectory(tmp_path / "no"):
        pass
    assert (tmp_path / "file").read_text() == "mine" and sorted(os.listdir(tmp_path)) == ["file"]

    def denied(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(UserError, match="Permission denied; name a writable directory"):
        RunDirectory(tmp_path / "denied").check()


def test_directories_that_others_can_write_to(tmp_path):
    tmp_path.chmod(0o777)
    assert f"(chmod o-w {tmp_path})" in shared_warning(tmp_path)
    own = tmp_path / "my model"
    own.mkdir()
    own.chmod(0o777)
    assert shared_warning(own).endswith(f"(chmod o-w '{own}')")
    for mode in (0o755, 0o1777):
        tmp_path.chmod(mode)
        assert shared_warning(tmp_path) == ""
    assert shared_warning(tmp_path / "absent") == ""
    if os.geteuid() == 0:
        os.chown(tmp_path, 12345, 12345)
        assert "belongs to another user" in shared_warning(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Single files


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    write_atomically(path, b"old")
    path.chmod(0o600)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="is a link, which is not followed"):
        write_atomically(tmp_path / "link", b"newer")
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_atomically(path, b"newer")
    assert path.read_bytes() == b"new" and sorted(os.listdir(tmp_path)) == ["link", "state.npz"]


def test_names_as_long_as_they_can_be(tmp_path):
    for name in ("ü" * 125 + ".csv", "x" * 251 + ".csv"):
        for words in (b"old", b"new"):
            write_atomically(tmp_path / name, words)
        assert (tmp_path / name).read_bytes() == b"new"


def test_a_file_can_be_in_place_before_it_is_whole(tmp_path):
    path = tmp_path / "answers.csv"
    with pytest.raises(KeyboardInterrupt), run_directory.open_atomically(path, at_once=True) as file:
        file.write(b"1\n")
        file.flush()
        assert path.read_bytes() == b"1\n" and os.listdir(tmp_path) == [path.name]
        raise KeyboardInterrupt
    assert path.read_bytes() == b"1\n" and os.listdir(tmp_path) == [path.name]


def test_what_hashing_costs(tmp_path):
    """A million rows of predictions.csv are hashed in less than a second, links and files alike."""
    (tmp_path / PREDICTIONS_FILE).write_bytes(bytes(30_000_000))
    started = time.process_time()
    assert len(run_directory.digest(tmp_path / PREDICTIONS_FILE)) == 64 and time.process_time() - started < 1
    write(tmp_path / "model", "old")
    assert set(json.loads((tmp_path / "model" / ".manifest.json").read_text())) == set(TRAINED) <= set(RESULT_FILES)
