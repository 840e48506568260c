# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#   "numpy>=2,<3",
#   "jinja2>=3.1,<4",
# ]
# ///
"""Write the report of a run: report.html, one self-contained page.

    python report.py
    python report.py other/model

The trainer writes it at the end of every run. Both commands render it from metrics.json and predictions.csv in the
model directory alone, so they write the same page.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # Ctrl-C during the imports ends the command without a traceback, as cli.run() does later
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from harvest import VERSION, cli  # isort: skip  (first: it reports which Python is needed)

import argparse
import json
from pathlib import Path

from harvest.cli import UserError
from harvest.run_directory import METRICS_FILE, MOVE_AWAY, PREDICTIONS_FILE, REPORT_FILE, RunDirectory, finish_commit


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(description="Redraw report.html from the results of a run.")
    text = "the model directory, to which report.html is written (default: model)"
    parser.add_argument("folder", nargs="?", type=Path, default=Path("model"), metavar="DIR", help=text)
    parser.add_argument("--version", action="version", version=VERSION)
    return parser.parse_args(argv)


@cli.command
def main(argv: list[str] | None = None) -> int:
    folder, console = parse_args(argv).folder, cli.Console(quiet=False)
    finish_commit(folder)
    for path in (folder / METRICS_FILE, folder / PREDICTIONS_FILE):  # before a lock file is written
        if not path.is_file():
            raise UserError(f"{path}: no such file; give the model directory of a completed run")
    from harvest.results.report.page import render_report

    with RunDirectory(folder, training=False) as run, cli.stop_on_signals(at_once=True) as stop:
        if not run.free(REPORT_FILE):
            raise UserError(f"{folder / REPORT_FILE}: was not written by this program; {MOVE_AWAY}")
        where = f"{folder / METRICS_FILE}:"
        try:
            metrics = json.loads((folder / METRICS_FILE).read_bytes(), parse_constant=int)  # rejects NaN and infinity
            where = f"{folder}: metrics.json or predictions.csv"
            run.stage(REPORT_FILE, render_report(metrics, (folder / PREDICTIONS_FILE).read_bytes()))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"{where} is damaged ({what}); train again") from None
        stop.begin_commit()
        run.commit()
    console.print(f"Report     {folder / REPORT_FILE}")
    return console.exit_code()


if __name__ == "__main__":
    cli.run(main)
