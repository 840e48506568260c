"""The model directory: one process uses it at a time, replaces the files of a run together, and never touches yours.

A run stages its files in a directory within the model directory. A new manifest there marks them as complete; then they
are moved into place, the manifest last. If the process is killed in between, the next command finishes the moves. The
manifest contains the SHA-256 of each file as it was written: a file that differs from it belongs to the user.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from harvest.cli import UserError

try:
    import fcntl
except ImportError:  # Windows, where a directory is not locked
    fcntl = None  # type: ignore[assignment]

MODEL_FILE = "productivity_model.keras"
METRICS_FILE = "metrics.json"
CARD_FILE = "README.md"
REPORT_FILE = "report.html"
PREDICTIONS_FILE = "predictions.csv"
RESUME_FILE = "resume.npz"
EXPORT_FILES = {
    "saved_model": "productivity_model_saved_model",
    "litert": "productivity_model.tflite",
    "onnx": "productivity_model.onnx",
}
RESULT_FILES = [MODEL_FILE, PREDICTIONS_FILE, CARD_FILE, REPORT_FILE, *EXPORT_FILES.values(), METRICS_FILE]
ALL_FILES = [*RESULT_FILES, "basic_model.keras", "basic_metrics.json"]  # train_model.py writes the last two
EXPORT_NAME = re.compile(r"[^/\\]+(_saved_model|\.tflite|\.onnx)")  # of a model file with any name
MANIFEST_FILE = ".manifest.json"
CHECKPOINTS_FILE = "manifest.json"  # in checkpoints/
TEMPORARY = ".train_model_modern-"  # the prefix of files that are not yet in place
MOVE_AWAY = "move it or name another directory"


class RunDirectory:
    """A model directory; within a with statement it is locked for this process.

    The command writes exports (keys of EXPORT_FILES) and files; with training, also results of train_model_modern.py.
    """

    def __init__(
        self, path: str | Path, exports: Sequence[str] = (), training: bool = True, files: Sequence[str] = ()
    ) -> None:
        self.path, self.training = Path(path), training
        self.staging = self.path / f"{TEMPORARY}staging"
        trained = [MODEL_FILE, METRICS_FILE, PREDICTIONS_FILE, RESUME_FILE] if training else []
        self.files = [*trained, *files, *(EXPORT_FILES[name] for name in exports)]

    def check(self) -> None:
        """Make the directory. Raises UserError if it is not writable, is locked, or contains files of the user."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            fault = "is a file" if isinstance(error, FileExistsError) else error.strerror
            raise UserError(f"--model-dir {self.path}: {fault}; name a writable directory") from None
        with self:
            pass

    def __enter__(self) -> "RunDirectory":
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock(self.path))
            self._refuse_foreign([])
            # Finish or delete the unfinished work of a killed process.
            if manifest := read_manifest(self.staging / MANIFEST_FILE):
                self._finish(manifest)
            remove(self.staging)
            left = (f"{TEMPORARY}before-*.tmp", f"{TEMPORARY}*-{RESUME_FILE}.tmp", f"checkpoints/{TEMPORARY}*.tmp")
            for path in [path for pattern in left for path in self.path.glob(pattern)]:
                remove(path)
            self._refuse_foreign(self.files)
            stack.callback(self.discard)
            stack.enter_context(naming(self.path))
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._exit.__exit__(*error)

    def is_ours(self, name: str) -> bool:
        """Whether this program wrote a file or directory, and it has not changed since."""
        path, manifest = self.path / name, read_manifest(self.path / MANIFEST_FILE)
        if name == RESUME_FILE:  # replaced too often to be in the manifest
            return is_archive(path)
        return is_of_1_6(path) if manifest is None else digest(path) == manifest.get(name, "absent")

    def free(self, name: str) -> bool:
        """Whether a file may be written: it does not exist, or is ours."""
        return not os.path.lexists(self.path / name) or self.is_ours(name)

    def _refuse_foreign(self, names: Sequence[str]) -> None:
        manifest, staging = self.path / MANIFEST_FILE, self.staging
        ours = {manifest: read_manifest(manifest) is not None, staging: staging.is_dir() and not staging.is_symlink()}
        foreign = [path for path, own in ours.items() if os.path.lexists(path) and not own]
        for path in foreign + [self.path / name for name in names if not self.free(name)]:
            raise UserError(f"{path}: was not written by this program; {MOVE_AWAY} with --model-dir")
        for path in (self.path / "checkpoints", self.path / "logs") if self.training else ():
            file = path.name == "checkpoints" and path.exists() and not path.is_dir()  # a run works without logs
            if path.is_symlink() or file:
                raise UserError(f"{path}: is a link or not a directory; {MOVE_AWAY} with --model-dir")

    def staged(self, name: str) -> Path:
        """The path of a staged file or directory, which commit() moves into place."""
        self.staging.mkdir(mode=0o700, exist_ok=True)  # closed to other users until files get their final mode
        return self.staging / name

    def stage(self, name: str, content: bytes) -> None:
        self.staged(name).write_bytes(content)

    def discard(self) -> None:
        """Delete the staged files, unless they are complete: then the next command moves them into place."""
        if not (self.staging / MANIFEST_FILE).exists():
            shutil.rmtree(self.staging, ignore_errors=True)

    def commit(self) -> list[str]:
        """Move all staged files into place. A new model also deletes results of the old one that it does not replace.

        Returns the names of deleted files. Raises UserError if the user has put files there meanwhile, except for a
        card or report, which stays.
        """
        for name in (CARD_FILE, REPORT_FILE):
            if not self.free(name):
                remove(self.staging / name)
        kept = read_manifest(self.path / MANIFEST_FILE) or {}
        present = [path.name for path in self.staging.glob("*")]
        staged = [name for name in file_names(present) if name in present]
        if not staged:
            return []
        self._refuse_foreign(staged)
        for name in staged:
            make_ready(self.staging / name, self.path / name)
        replaced = {*staged, *(RESULT_FILES if MODEL_FILE in staged else [])}
        names = [name for name in file_names(kept) if name not in replaced and self.is_ours(name)]
        manifest = {name: digest(self.path / name) for name in names}
        manifest |= {name: digest(self.staging / name) for name in staged}
        write_atomically(self.staging / MANIFEST_FILE, json.dumps(manifest, indent=2).encode())
        return self._finish(manifest)

    def _finish(self, manifest: dict[str, str]) -> list[str]:
        """Move the staged files into place; return the names of deleted results."""
        for name in file_names(manifest):
            new, old = self.staging / name, self.path / name
            if name in manifest and new.exists() and self.free(name):  # not if the user has put a file there
                before = self.path / f"{TEMPORARY}before-{name[:40]}.tmp"
                if old.is_dir():  # which cannot be moved over
                    os.replace(old, before)
                os.replace(new, old)
                remove(before)
        stale = [name for name in ALL_FILES if name not in manifest and self.is_ours(name)]
        for name in stale:
            remove(self.path / name)
        os.replace(self.staging / MANIFEST_FILE, self.path / MANIFEST_FILE)
        self.discard()
        return stale


def file_names(names: Iterable[str]) -> list[str]:
    """All names of files that a run writes, metrics.json after its other results, and exports among the given names."""
    exports = sorted(name for name in names if EXPORT_NAME.fullmatch(name))
    return list(dict.fromkeys([*exports, *ALL_FILES]))


def export_file(name: str, model: str = MODEL_FILE) -> str:
    """The name of an export in a format (a key of EXPORT_FILES), next to a model file with this name."""
    return EXPORT_FILES[name].replace(Path(MODEL_FILE).stem, Path(model).stem, 1)


def read_checkpoints(folder: Path) -> dict[str, dict[str, Any]] | None:
    """The manifest entries of the existing checkpoints in a directory; None if the manifest is the user's own file.

    Each entry has run, data, rows, date, epoch, val_loss and val_accuracy.
    """
    path = folder / CHECKPOINTS_FILE
    if not os.path.lexists(path):
        return {}
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        if not path.is_symlink() and path.is_file():
            found = json.loads(path.read_bytes())["train_model_modern"].items()
            return {name: dict(entry) for name, entry in found if name == Path(name).name and is_archive(folder / name)}
    return None


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock a directory for this process. Nothing is written to the lock file; the lock of a dead process is free."""
    path, extra = folder / ".lock", getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file = open(path, "ab", opener=lambda name, flags: os.open(name, flags | extra, 0o644))  # noqa: SIM115
    except OSError as error:
        text = f"{path}: is not a lock file of this program, or is not accessible; {MOVE_AWAY}"
        if not os.path.lexists(path):
            text = f"{folder}: {error.strerror}; name a writable directory"
        raise UserError(text) from None
    with file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = "another process is training or exporting there; wait for it or name another directory"
            raise UserError(f"--model-dir {folder}: {text}") from None
        yield


def finish_commit(folder: Path) -> None:
    """Finish the moves of a killed process, unless another process is using the directory."""
    if (RunDirectory(folder).staging / MANIFEST_FILE).is_file():
        with contextlib.suppress(OSError, UserError), RunDirectory(folder, training=False):
            pass


def make_ready(new: Path, old: Path) -> None:
    """Make sure that staged files are on the disk and can be moved. A file gets the mode of the one it replaces."""
    for path in [new, *new.rglob("*")]:
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    if old.exists():
        try:
            shutil.copymode(old, old)  # fails if a move would, or if another user owns a file in a shared directory
        except PermissionError:
            if old.stat().st_uid == new.stat().st_uid or old.parent.stat().st_mode & stat.S_ISVTX:
                raise
        if new.is_file():
            shutil.copymode(old, new)


def read_manifest(path: Path) -> dict[str, str] | None:
    """SHA-256 by name; None if there is no manifest of this program."""
    try:
        found = json.loads(path.read_bytes()) if path.is_file() and not path.is_symlink() else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()) else None


def digest(path: Path) -> str:
    """The SHA-256 of a file, or of the names and contents in a directory; "" for links and other kinds of files."""
    if path.is_dir() and not path.is_symlink():
        parts = [(part.relative_to(path).as_posix(), digest(part)) for part in sorted(path.rglob("*"))]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    if path.is_symlink() or not path.is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_archive(path: Path) -> bool:
    """Whether a model file, a checkpoint or a state has an entry that only this program writes."""
    try:
        with zipfile.ZipFile(path if path.is_file() and not path.is_symlink() else os.devnull) as archive:
            return bool({"training.json", "basic.json", "description.npy"} & set(archive.namelist()))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def is_of_1_6(path: Path) -> bool:
    """Whether version 1.6.0, which wrote no manifest, wrote this file. Used only if there is no manifest."""
    if path.suffix == ".keras" or path.is_symlink():
        return is_archive(path)
    if path.is_dir():  # an eighth file would be the user's
        return (path / "train_model_modern").is_file() and len(list(path.rglob("*"))) <= 7
    starts = rb'{\n  "rows":|(file,)?line,fold,label,probability\n|<!doctype html>\n<!-- Report of train_model_modern'
    starts += rb"|# Model card: .*\n\nWritten by train_model_modern|.{4}TFL3|\x08.{1,4}train_model_modern"
    return path.is_file() and bool(re.match(starts, path.read_bytes()[:1_000], re.DOTALL))


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to the error of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def open_atomically(path: Path, at_once: bool = False) -> Iterator[BinaryIO]:
    """A new file that replaces a path once it is complete (at_once: while empty). A failure leaves no file behind.

    It gets the mode of the file that it replaces.
    """
    new = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name[:40]}.tmp")  # a name can have 255 bytes
    new.unlink(missing_ok=True)  # of a process with the same number
    try:
        with naming(path), open(new, "xb") as file:
            if path.is_file() and not path.is_symlink():
                shutil.copymode(path, new)
            if at_once:
                os.replace(new, path)
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not at_once:
            os.replace(new, path)
    finally:
        with contextlib.suppress(OSError):  # it is moved
            new.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file; a failure leaves the previous one unchanged. Raises OSError for a link."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "is a link, which is not followed; move it", str(path))
    with open_atomically(path) as file:
        file.write(content)


def remove(path: Path) -> None:
    """Delete a file, a link, or a directory with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def earlier_model(folder: Path) -> str:
    """A description of the model of the last completed run, whose metrics may be damaged; "" if there is none."""
    try:
        written = time.localtime((folder / MODEL_FILE).stat().st_mtime)
    except OSError:
        return ""
    what = f"the model of {time.strftime('%Y-%m-%d %H:%M', written)}"
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        metrics = json.loads((folder / METRICS_FILE).read_bytes())
        return f"{what} ({metrics['rows']['used']:,} rows, accuracy {metrics['test']['accuracy']:.3f})"
    return what


def shared_warning(path: Path) -> str:
    """A warning if other users can write to a directory that models and states are read from; otherwise ""."""
    if os.name != "posix" or not path.exists():
        return ""
    status = path.stat()
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        danger = "is writable by every user of this machine, so its files may not be yours"
        return f"{path} {danger} (chmod o-w {shlex.quote(str(path))})"
    if status.st_uid not in (0, os.getuid()):
        return f"{path} belongs to another user, who can change its files"
    return ""
