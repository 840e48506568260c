"""Code shared by the commands: errors in one line with an exit code, flags, signals, and printing.

A script imports only the standard library and this module at its top. It imports everything else in its main function,
so that a missing package, or Ctrl-C during the imports, ends it with one line like any other error.
"""

import argparse
import contextlib
import functools
import math
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from types import FrameType
from typing import Any, NoReturn


class UserError(Exception):
    """An invalid command line or invalid data: printed as one line, with exit code 2."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n").replace("\r", "\\r")  # names may contain line ends


class Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)  # a new flag must not change what an old command means

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument ([^:]+): (?=takes )", r"\1 ", message).removeprefix("argument ")
        if message.startswith("unrecognized arguments"):
            given = [word.partition("=")[0] for word in message.split() if word.startswith("-")]
            meant = [flag for word in given for flag in get_close_matches(word, self._option_string_actions, 1)]
            message += f" (did you mean {' or '.join(meant)}?)" if meant else ""
        raise UserError(f"{message}; --help lists the flags")


def whole_number(text: str, what: str = "a whole number of 1 or more", least: int = 1, most: int = 10**18) -> int:
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"takes {what}, not {text}")
    return int(text)


def seed_number(text: str) -> int:
    return whole_number(text, f"a whole number from 0 to {2**31 - 1:,}", 0, 2**31 - 1)


def positive_number(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)) and value > 0:
            return value
    raise argparse.ArgumentTypeError(f"takes a number above 0, not {text}")


class Console:
    """Prints to standard output. If this fails, the run continues; exit_code() reports a full device."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.failure, self.waiting = quiet, "", False

    def print(self, *lines: str) -> None:
        """Print lines; on a terminal, wrap those that are too long for it."""
        if sys.stdout.isatty():
            width = min(max(80, shutil.get_terminal_size().columns), 112)
            lines = tuple(part for line in lines for part in fit(line, width))
        self.show(lambda: print("\n".join(lines), flush=True))

    def wait(self, text: str) -> None:
        """On a terminal, show a text until the next output replaces it."""
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            self.show(lambda: print(text, end="", flush=True))
            self.waiting = True

    def clear(self) -> None:
        """Remove the text of wait() from the terminal."""
        self.show(lambda: None)

    def show(self, write: Callable[[], object]) -> None:
        """Call a function that writes to standard output, which replaces the text of wait()."""
        if self.quiet:
            return
        try:
            if self.waiting:
                print("\r\x1b[K", end="", flush=True)
            self.waiting = False
            write()
        except (OSError, ValueError) as error:
            if not isinstance(error, BrokenPipeError):  # which means that the reader has stopped reading
                self.failure = getattr(error, "strerror", None) or str(error)
            self.quiet = True
            drop_output()

    def exit_code(self) -> int:
        """1, after printing an error, if only standard output failed; otherwise 0."""
        if self.failure:
            print_error(f"error: standard output: {self.failure}; all other output is complete")
        return 1 if self.failure else 0


def fit(line: str, width: int) -> list[str]:
    """Wrap a line at a width without breaking words; text after a title stays in its column."""
    if len(line) <= width:
        return [line]
    title = re.match(r"( {11}|[A-Z][a-z]{9} |[A-Z][A-Za-z]+( [a-z]+)? {2,9})(?=\S)", line)
    start = 11 if title and title.end() == 11 else len(line) - len(line.lstrip())
    indents = line[:start], " " * (start if start == 11 else start + 2)
    wrapper = textwrap.TextWrapper(width, *indents, break_long_words=False, break_on_hyphens=False)
    joined = re.sub(r"(?<=\d) (?=s\b)", "\xa0", line[start:])  # 0.9 s
    return [part.replace("\xa0", " ") for part in wrapper.wrap(joined)]


def print_error(text: str) -> None:
    """Print to standard error. A failure to write does not change the exit code."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def drop_output() -> None:
    """Discard the buffer of standard output, so that it cannot fail again when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def prepare_streams() -> None:
    """Discard output to a closed stream, and escape characters that a stream cannot encode."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)


@dataclass
class StopRequest:
    """The signal that asked the command to stop (0: none), and whether it can still be stopped."""

    signal: int = 0
    committing: bool = False
    raised: int = 0  # the signal raised as KeyboardInterrupt, which compiled code of TensorFlow may swallow

    def begin_commit(self) -> None:
        """Defer signals from now on. Raises KeyboardInterrupt if one was raised before and swallowed."""
        if self.raised:
            raise KeyboardInterrupt(self.raised)
        self.committing = True


@contextlib.contextmanager
def stop_on_signals(at_once: bool = False) -> Iterator[StopRequest]:
    """The first Ctrl-C or SIGTERM asks to stop; the second (at_once: the first) stops at once, unless committing."""
    stop = StopRequest(signal.SIGINT if at_once else 0)

    def handle(number: int, _: FrameType | None) -> None:
        if stop.signal and not stop.committing:
            stop.raised = number
            raise KeyboardInterrupt(number)
        stop.signal = number
        if number == signal.SIGINT and sys.stderr.isatty() and not stop.committing:
            print_error("stopping after this step; Ctrl-C again stops at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except Exception:
        if stop.raised:  # TensorFlow may have converted the interrupt
            raise KeyboardInterrupt(stop.raised) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def missing_package(error: ModuleNotFoundError) -> str:
    what = f"error: the package {error.name} is not installed for {sys.executable}"
    activate = r".venv\Scripts\activate" if os.name == "nt" else ". .venv/bin/activate"
    return f"{what}; activate the virtual environment ({activate}) or run pip install -r requirements-cpu.txt"


def command(function: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Make main(argv=None) report every expected error in one line and return the exit code."""

    @functools.wraps(function)
    def main(argv: list[str] | None = None) -> int:
        prepare_streams()
        code, kept = 1, "the results of earlier runs are unchanged"
        try:
            return function(argv)
        except UserError as error:
            code, text = 2, f"error: {error}"
        except KeyboardInterrupt as error:
            number, *left = error.args or [signal.SIGINT]
            code, text = 128 + number, "; ".join([f"stopped: {signal.Signals(number).name}", *(left or [kept])])
        except MemoryError as error:
            what = f"not enough memory{f' ({error})' if str(error) else ''}"
            text = f"error: {what}; close other programs, raise the limit (ulimit -v), or use fewer rows"
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            text = f"error: {place}{error.strerror or error}; {kept}"
        except ModuleNotFoundError as error:
            text = missing_package(error)
        print_error(text)
        return code

    return main


def interrupt(number: int, _: FrameType | None) -> NoReturn:
    """Unlike Python's handler, raise KeyboardInterrupt with a value: without one, pandas blames the file."""
    raise KeyboardInterrupt(number)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code, without the 0.4 s that TensorFlow takes to shut down."""
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))  # unless the command handles it
    signal.signal(signal.SIGINT, interrupt)
    # Python discards an interrupt inside a finalizer of TensorFlow; do not print it as an error.
    sys.unraisablehook = lambda fault: fault.exc_type is KeyboardInterrupt or sys.__unraisablehook__(fault)
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # otherwise a file of ours could get the number of a closed stream, and TensorFlow would log to it
    os.close(descriptor)
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
