# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#   "tensorflow-cpu>=2.21,<3; (sys_platform == 'linux' and platform_machine == 'x86_64') or sys_platform == 'win32'",
#   "tensorflow>=2.21,<3; (sys_platform != 'linux' or platform_machine != 'x86_64') and sys_platform != 'win32'",
#   "keras>=3.15.1,<4",
#   "numpy>=2,<3",
#   "pandas>=2.2,<4",
# ]
# ///
"""Predict the probability of being productive for the rows of a HARVEST.CSV with a trained model.

    python predict.py /tmp/HARVEST.CSV --output predicted.csv
    python predict.py new.csv --model model/checkpoints/model_42_0.8812.keras
    tail -n +1 -f /tmp/HARVEST.CSV | python predict.py -

The label may be absent, columns may be in any order, and other columns are copied. The output has one row for each
input row, in the same order, with the columns probability and predicted added. Rows from standard input (-) are
predicted as they arrive; lines that cannot be parsed, and repeated headers, are skipped with a note. A quoted cell may
span up to 1,000 lines; the command waits up to two seconds for each of them.

From Python, for rows in a DataFrame:

    model = predict.load("model")
    probability = model.predict_proba(rows)[:, 1]
"""

import signal

if __name__ == "__main__":  # Ctrl-C during the imports ends the command without a traceback, as in cli.run()
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import threading
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from harvest import VERSION, cli
from harvest.cli import UserError


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    from harvest.run_directory import MODEL_FILE

    parser = cli.Parser(description="Predict with a trained model.")
    add = parser.add_argument
    add("csv", metavar="CSV", help="the rows to predict; - reads standard input and predicts each line as it arrives")
    add("--model-dir", type=Path, default="model", metavar="DIR", help="directory of the model (default: model)")
    add("--model", type=Path, metavar="FILE", help="a model file or checkpoint, instead of --model-dir")
    add("--output", type=Path, metavar="FILE", help="the file to write (default: standard output)")
    text = "print metrics of the predictions to standard error; the rows must include the label"
    add("--evaluate", action="store_true", help=text)
    add("--version", action="version", version=VERSION)
    args = parser.parse_args(argv)
    args.model = args.model or args.model_dir / MODEL_FILE
    args.stream = args.csv == "-"
    return args


def predict(args: argparse.Namespace) -> int:
    from harvest.data.csv_file import check_file
    from harvest.data.training_rows import read_training_rows, row_hashes
    from harvest.model.archive import open_model
    from harvest.model.input_rows import STREAM, read_rows, read_stream
    from harvest.model.novelty import STREAM_ROWS, Novelty
    from harvest.model.output_rows import answer_names, check_output, open_output, write_answers
    from harvest.results.evaluate_file import evaluate_rows

    if args.output:
        check_output(args.output, [0 if args.stream else Path(args.csv), args.model])
    if not args.stream:
        check_file(args.csv, unlabelled=True)  # before the model is opened
    details = open_model(args.model)
    known = read_training_rows(args.model) if args.evaluate else None
    chunks = read_stream(details) if args.stream else read_rows(args.csv, details)
    first = next(chunks)  # before TensorFlow is imported, so that bad input is reported at once
    source = STREAM if args.stream else args.csv
    if args.evaluate and details.label not in first:
        raise UserError(f"{source}: line 1 has no column {details.label}, which --evaluate needs")
    if args.evaluate and not len(first) and not args.stream:
        raise UserError(f"{source}: has no rows to evaluate")
    inference, labelled = import_inference(cpu_only=True), []
    model, names = inference.load_model(args.model, details), answer_names(list(first))
    novelty, strange = Novelty(model, details), [name for name in details.kinds if name not in first]
    with open_output(args.output, args.stream) as out:
        for chunk in chain([first], chunks):
            rows, inputs = inference.split_readable(model, details, chunk, args.csv)
            y_prob = inference.run_model(model, args.model, inputs)
            if args.evaluate:
                y_true = inference.read_labels(rows, details.label, args.csv)
                cells = {name: column[:, 0] for name, column in inputs.items()}
                parts = (y_true, y_prob, *row_hashes(details.kinds, cells))
                labelled.append([part[y_true >= 0] for part in parts])
            write_answers(out, rows, y_prob, details.threshold, names, header=chunk is first)
            novelty.add(inputs)
            if args.stream and novelty.rows >= STREAM_ROWS:
                strange += novelty.note()
    strange += novelty.note() + novelty.uniform()
    if args.evaluate:
        cli.print_error("\n".join(evaluate_rows(source, labelled, known, details.threshold, strange)))
    return 0


def import_inference(cpu_only: bool) -> ModuleType:
    """The module that runs models, which imports TensorFlow."""
    from harvest.training.tensorflow_setup import import_tensorflow, prepare_environment

    prepare_environment(cpu_only, xla=False)
    import_tensorflow()
    from harvest.model import inference

    return inference


def load(path: str | Path = "model") -> Any:
    """A Classifier for the model in a model directory or in a file."""
    return import_inference(cpu_only=False).Classifier(Path(path))


def main(argv: list[str] | None = None) -> int:
    cli.prepare_streams()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, cli.interrupt)
    try:
        return predict(parse_args(argv))
    except UserError as error:
        cli.print_error(f"error: {error}")
        return 2
    except KeyboardInterrupt as error:
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    except ModuleNotFoundError as error:
        cli.print_error(cli.missing_package(error))
    except BrokenPipeError:  # the reader of the rows has stopped reading
        cli.drop_output()
    except OSError as error:
        cli.drop_output()
        cli.print_error(f"error: {error.filename or 'standard output'}: {error.strerror or error}")
    return 1


if __name__ == "__main__":
    cli.run(main)
