"""What the commands share: errors as one line and an exit code, flags, signals, and printing.

A script imports at its top only the standard library and this module; all else is imported inside its main function, so
that a package that is missing, or Ctrl-C during the imports, ends it with one line like any other error.
"""

import argparse
import contextlib
import functools
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from types import FrameType
from typing import NoReturn


class UserError(Exception):
    """The command line or the data is wrong: reported in one line, exit code 2."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n").replace("\r", "\\r")  # of names that hold line ends


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument ([^:]+): (?=takes )", r"\1 ", message).removeprefix("argument ")
        if message.startswith("unrecognized arguments"):
            given = [word.partition("=")[0] for word in message.split() if word.startswith("-")]
            meant = [flag for word in given for flag in get_close_matches(word, self._option_string_actions, 1)]
            message += f" (did you mean {' or '.join(meant)}?)" if meant else ""
        raise UserError(f"{message}; --help lists the flags")


class GivenFlags(argparse.Namespace):
    """Holds only what was given: argparse sets the defaults that a namespace lacks, and this seems to lack none."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


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
    """Prints to standard output. Where that is full or closed, the work goes on, and the exit code says so at last."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.failure = quiet, ""

    def print(self, *lines: str) -> None:
        self.show(lambda: print("\n".join(lines), flush=True))

    def show(self, write: Callable[[], object]) -> None:
        """Call what writes to standard output."""
        if self.quiet:
            return
        try:
            write()
        except (OSError, ValueError) as error:
            if not isinstance(error, BrokenPipeError):  # then whoever reads this has seen enough
                self.failure = getattr(error, "strerror", None) or str(error)
            self.quiet = True
            drop_output()

    def exit_code(self) -> int:
        """1, and an error, when standard output failed while all else was done; otherwise 0."""
        if self.failure:
            print_error(f"error: standard output: {self.failure}; everything else is done")
        return 1 if self.failure else 0


def print_error(text: str) -> None:
    """Print to standard error. The exit code must not depend on whether anyone can read it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def drop_output() -> None:
    """Discard what is still buffered for standard output, so that it cannot fail again when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def prepare_streams() -> None:
    """Let a closed stream discard what is printed, and one with few characters show the others by their codes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)


@dataclass
class StopRequest:
    """Which signal has asked the command to stop (0: none), and whether it may no longer be stopped."""

    signal: int = 0
    committing: bool = False


@contextlib.contextmanager
def stop_on_signals(at_once: bool = False) -> Iterator[StopRequest]:
    """The first Ctrl-C or SIGTERM asks to stop; the second (at_once: the first) stops at once, unless committing."""
    stop = StopRequest(signal.SIGINT if at_once else 0)

    def handle(number: int, _: FrameType | None) -> None:
        if stop.signal and not stop.committing:
            raise KeyboardInterrupt(number)
        stop.signal = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def missing_package(error: ModuleNotFoundError) -> str:
    what = f"error: the package {error.name} is not installed for {sys.executable}"
    activate = r".venv\Scripts\activate" if os.name == "nt" else ". .venv/bin/activate"
    return f"{what}; activate the virtual environment ({activate}) or run pip install -r requirements-cpu.txt"


def command(function: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Make main(argv=None) report every expected error in one line, and return the exit code."""

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
            text = f"error: {what}; close other programs, raise the limit (ulimit -v), or give fewer rows"
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            text = f"error: {place}{error.strerror or error}; {kept}"
        except ModuleNotFoundError as error:
            text = missing_package(error)
        print_error(text)
        return code

    return main


def interrupt(number: int, _: FrameType | None) -> NoReturn:
    """Unlike Python's own handler give the exception a value: without one pandas takes it for a fault of the file."""
    raise KeyboardInterrupt(number)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its exit code, without the 0.4 s that TensorFlow takes to shut down."""
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))  # where the command does not handle it
    signal.signal(signal.SIGINT, interrupt)
    # An interrupt inside a finalizer of TensorFlow is lost there, and must not be printed as a fault.
    sys.unraisablehook = lambda fault: fault.exc_type is KeyboardInterrupt or sys.__unraisablehook__(fault)
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # or a file of ours would get the number of a closed stream, and with it what TensorFlow logs there
    os.close(descriptor)
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
