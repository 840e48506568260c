"""What all commands share: errors in one line, exit codes, signals, streams that are closed or full."""

import argparse
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harvest import cli

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = f"import os, signal, sys; sys.path.insert(0, {str(ROOT)!r}); from harvest import cli\n"


def python(program, shell="", **settings):
    """Run a program that ends with cli.run(main), with what a shell does to its streams."""
    command = ["sh", "-c", f'exec "$0" "$@" {shell}', sys.executable, "-c", IMPORTS + program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **settings)


# ---------------------------------------------------------------------------------------------------------------------
# Errors and exit codes

KEPT = "the results of earlier runs are unchanged"
ERRORS = [
    (cli.UserError("a.csv: line\n3"), 2, "error: a.csv: line\\n3"),
    (KeyboardInterrupt(), 130, f"stopped: SIGINT; {KEPT}"),
    (KeyboardInterrupt(signal.SIGTERM), 143, f"stopped: SIGTERM; {KEPT}"),
    (KeyboardInterrupt(signal.SIGINT, "continue", "with that"), 130, "stopped: SIGINT; continue; with that"),
    (OSError(28, "No space left on device", "m/x"), 1, f"error: m/x: No space left on device; {KEPT}"),
    (OSError(28, "No space left on device"), 1, f"error: No space left on device; {KEPT}"),
    (OSError("odd"), 1, f"error: odd; {KEPT}"),
    (
        MemoryError("1 MB"),
        1,
        "error: not enough memory (1 MB); close other programs, raise the limit (ulimit -v), or use fewer rows",
    ),
    (
        ModuleNotFoundError("no", name="pandas"),
        1,
        f"error: the package pandas is not installed for {sys.executable}; activate the virtual environment "
        "(. .venv/bin/activate) or run pip install -r requirements-cpu.txt",
    ),
]


@pytest.mark.parametrize("error, code, line", ERRORS, ids=range(len(ERRORS)))
def test_an_error_is_one_line_and_an_exit_code(capsys, error, code, line):
    @cli.command
    def main(argv):
        raise error

    assert main([]) == code
    assert capsys.readouterr() == ("", line + "\n")


def test_faults_of_the_program_are_not_hidden():
    @cli.command
    def main(argv):
        return 1 // len(argv)

    assert main(["a"]) == 1 and main(argv=["a", "b"]) == 0
    with pytest.raises(ZeroDivisionError):
        main([])


def test_what_is_wrong_with_flags_is_one_sentence():
    parser = cli.Parser(prog="x.py")
    parser.add_argument("--epochs", type=cli.whole_number)
    parser.add_argument("--rate", type=cli.positive_number)
    parser.add_argument("--seed", type=cli.seed_number)
    parser.add_argument("--kind", choices=("a", "b"))
    args = parser.parse_args(["--epochs", "3", "--rate", "1e-3", "--seed", "0"])
    assert (args.epochs, args.rate, args.seed) == (3, 0.001, 0)
    for argv, words in {
        ("--epochs", "0"): "--epochs takes a whole number of 1 or more, not 0; --help lists the flags",
        ("--epochs", "\u0661"): "--epochs takes a whole number of 1 or more, not \u0661; --help lists the flags",
        ("--epochs", "9" * 20): f"--epochs takes a whole number of 1 or more, not {'9' * 20}; --help lists the flags",
        ("--rate", "nan"): "--rate takes a number above 0, not nan; --help lists the flags",
        ("--rate", "-1"): "--rate takes a number above 0, not -1; --help lists the flags",
        ("--seed", "2147483648"): "--seed takes a whole number from 0 to 2,147,483,647, not 2147483648",
        ("--epoch", "3"): "unrecognized arguments: --epoch 3 (did you mean --epochs?); --help lists the flags",
        ("--epoch=3", "--sed"): "(did you mean --epochs or --seed?)",
        ("--kind", "c"): "--kind: invalid choice: 'c'",
        ("--epochs",): "--epochs: expected one argument; --help lists the flags",
    }.items():
        with pytest.raises(cli.UserError) as found:
            parser.parse_args(argv)
        assert words in str(found.value) and "\n" not in str(found.value)
    with pytest.raises(argparse.ArgumentTypeError, match="takes a number of rows, not x"):
        cli.whole_number("x", what="a number of rows")


# ---------------------------------------------------------------------------------------------------------------------
# Streams


class Failing(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    def fileno(self):
        raise OSError


@pytest.mark.parametrize(
    "error, line",
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("I/O operation on closed file"), "I/O operation on closed file"),
        (BrokenPipeError(32, "Broken pipe"), ""),  # whoever reads has seen enough
    ],
)
def test_a_standard_output_that_fails_ends_printing_only(monkeypatch, capsys, error, line):
    console = cli.Console(quiet=False)
    console.print("first", "second")
    assert capsys.readouterr().out == "first\nsecond\n"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Failing(error))
        console.print("lost")
    console.print("not tried again")
    assert console.quiet and console.exit_code() == bool(line)
    assert capsys.readouterr() == (
        "",
        f"error: standard output: {line}; all other output is complete\n" if line else "",
    )


def test_a_quiet_console(capsys):
    console = cli.Console(quiet=True)
    console.print("anything")
    assert capsys.readouterr().out == "" and console.exit_code() == 0


PRINTS = """
@cli.command
def main(argv=None):
    console = cli.Console(quiet=False)
    console.print("\\u65e5\\u672c " * 1_000)
    if os.environ.get("FAIL"):
        raise cli.UserError("\\u65e5")
    return console.exit_code()

cli.run(main)
"""


def test_streams_that_are_closed_or_full():
    done = python(PRINTS, "> /dev/full")
    assert (done.returncode, done.stderr) == (
        1,
        "error: standard output: No space left on device; all other output is complete\n",
    )
    for shell in (">&-", "<&-", "2>&-", "<&- >&- 2>&-"):
        done = python(PRINTS, shell)
        assert (done.returncode, done.stderr) == (0, ""), shell
    for shell in ("2>&-", "2> /dev/full"):
        assert python(PRINTS, shell, env=os.environ | {"FAIL": "1"}).returncode == 2


def test_a_file_never_gets_the_number_of_a_closed_stream(tmp_path):
    program = "def main():\n with open(sys.argv[1], 'w') as file:\n  os.write(2, b'a log line')\n"
    program += "  return file.fileno() > 2 and 5\ncli.run(main)"
    done = python(program, f"{tmp_path / 'file'} <&- >&- 2>&-")
    assert done.returncode == 5 and (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_that_the_terminal_cannot_show(encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0", "FAIL": "1"}
    done = python(PRINTS, env=environment)
    assert done.returncode == 2 and "\\u65e5\\u672c" in done.stdout and done.stderr == "error: \\u65e5\n"


def test_the_last_words_are_flushed_and_the_exit_code_is_kept():
    done = python("def main():\n print('out', end=''); print('err', end='', file=sys.stderr); return 7\ncli.run(main)")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out", "err")


# ---------------------------------------------------------------------------------------------------------------------
# Signals


def test_the_first_signal_asks_and_the_second_stops():
    before = signal.getsignal(signal.SIGINT)
    with cli.stop_on_signals() as stop:
        assert stop.signal == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt) as found:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        assert found.value.args == (signal.SIGINT,)
    assert signal.getsignal(signal.SIGINT) is before


def test_at_once_the_first_signal_stops_unless_committing():
    with pytest.raises(KeyboardInterrupt), cli.stop_on_signals(at_once=True):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    with cli.stop_on_signals(at_once=True) as stop:
        stop.begin_commit()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal == signal.SIGINT


def swallow_an_interrupt():
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def test_an_interrupt_that_compiled_code_swallows_still_stops():
    with pytest.raises(KeyboardInterrupt) as found, cli.stop_on_signals(at_once=True):
        swallow_an_interrupt()
        raise TypeError
    assert found.value.args == (signal.SIGTERM,)
    with pytest.raises(KeyboardInterrupt), cli.stop_on_signals(at_once=True) as stop:
        swallow_an_interrupt()
        stop.begin_commit()
    assert not stop.committing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_without_a_traceback(number):
    program = f"@cli.command\ndef main(argv=None):\n os.kill(os.getpid(), {number:d})\n while True: pass\ncli.run(main)"
    done = python(program)
    assert done.returncode == 128 + number and done.stdout == ""
    assert done.stderr == (f"stopped: SIGINT; {KEPT}\n" if number == signal.SIGINT else "")


def test_ctrl_c_while_packages_are_imported(tmp_path):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    (tmp_path / "a.csv").write_text("a,productive\n1,1\n")
    command = [sys.executable, str(ROOT / "train_model.py"), str(tmp_path / "a.csv")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert (done.returncode, done.stdout) == (130, "") and done.stderr == f"stopped: SIGINT; {KEPT}\n"


def test_an_interrupt_that_is_lost_in_a_finalizer_is_not_printed():
    program = """
class Finalized:
    def __init__(self, error):
        self.error = error
    def __del__(self):
        raise self.error

def main():
    Finalized(KeyboardInterrupt(2))
    if sys.argv[1:]:
        Finalized(ValueError("a fault"))
    return 0

cli.run(main)
"""
    assert (done := python(program)).returncode == 0 and done.stderr == ""
    done = subprocess.run([sys.executable, "-c", IMPORTS + program, "x"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "a fault" in done.stderr and "KeyboardInterrupt" not in done.stderr


def test_the_module_needs_no_packages_and_changes_no_handlers():
    program = "import signal; before = signal.getsignal(signal.SIGINT)\n" + IMPORTS  # ignored, if in the background
    program += "sys.exit(signal.getsignal(signal.SIGINT) is not before or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
