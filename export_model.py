# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#   "tensorflow-cpu>=2.21,<3; (sys_platform == 'linux' and platform_machine == 'x86_64') or sys_platform == 'win32'",
#   "tensorflow>=2.21,<3; (sys_platform != 'linux' or platform_machine != 'x86_64') and sys_platform != 'win32'",
#   "keras>=3.15.1,<4",
#   "numpy>=2,<3",
#   "pandas>=2.2,<4",
#   "jinja2>=3.1,<4",
# ]
# ///
"""Write a trained model in formats of other runtimes: TensorFlow's SavedModel, LiteRT (formerly TensorFlow Lite), ONNX.

    python export_model.py saved_model litert onnx
    python export_model.py --model model/checkpoints/model_42_0.8812.keras onnx

Each takes raw columns [rows, 1] and gives the probability [rows, 1], as the Keras model does. What is written is run by
its own runtime on 1,000 generated rows; what does not agree with Keras within 1e-5 is not kept. The files go beside the
model, and what a program must know to call them into the model card, README.md.
"""

import signal

if __name__ == "__main__":  # Ctrl-C during the imports ends the command without a traceback, as cli.run() does later
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
from pathlib import Path

from harvest import VERSION, cli


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    from harvest.model.export import require
    from harvest.run_directory import EXPORT_FILES, MODEL_FILE

    text = "Write a trained model in formats of other runtimes, beside the model."
    parser = cli.Parser(prog="export_model.py", description=text, allow_abbrev=False)
    add = parser.add_argument
    add("formats", nargs="+", choices=EXPORT_FILES, metavar="FORMAT", help="saved_model, litert, onnx")
    text = "where the model is (default: model)"
    add("--model-dir", type=Path, default=Path("model"), metavar="DIR", help=text)
    text = "a model file or checkpoint, in place of the one in --model-dir; the formats are written beside it"
    add("--model", type=Path, metavar="FILE", help=text)
    add("--version", action="version", version=VERSION)
    args = parser.parse_args(argv)
    args.model = args.model or args.model_dir / MODEL_FILE
    args.formats = list(dict.fromkeys(args.formats))
    require(args.formats)
    return args


@cli.command
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    from harvest.model.archive import open_model, read_details
    from harvest.model.export import ExportSummary
    from harvest.run_directory import CARD_FILE, EXPORT_FILES, RunDirectory
    from harvest.training.tensorflow_setup import import_tensorflow, prepare_environment

    def update_card(run: RunDirectory, summary: ExportSummary) -> bool:
        """Stage the model card with another section on exported files, if there is one of the trainer's."""
        from harvest.results.report import card

        path, has_onnx = run.path / CARD_FILE, (run.path / EXPORT_FILES["onnx"]).exists()
        if not path.exists() or not run.is_ours(CARD_FILE):
            return False
        run.stage(CARD_FILE, card.update_card(path.read_bytes(), summary, has_onnx))
        return True

    console = cli.Console(quiet=False)
    read_details(args.model)  # refused before anything is written
    directory = RunDirectory(args.model.parent, args.formats, training=False)
    with cli.stop_on_signals(at_once=True) as stop, directory as run:
        open_model(args.model)
        prepare_environment(cpu_only=True, xla=False)
        import_tensorflow()
        from harvest.model.export.formats import export, load, read_example

        model, details = load(args.model)
        example = read_example(run.path, model)
        summary = export(model, details, run, args.formats, console.print, example=example, source=args.model.name)
        carded = bool(summary.formats) and update_card(run, summary)
        stop.committing = True
        run.commit()
    if carded:
        console.print(f"Card       {run.path / CARD_FILE}")
    elif summary.formats:  # there is no card to say it in
        files = ", ".join(EXPORT_FILES[name] for name in summary.formats)
        console.print(f"Written    from {args.model.name} into {run.path}: {files}")
        for name, signature, graph in summary.renamed:
            console.print(f"Input      {name} is called {signature} in SavedModel and LiteRT, {graph} in ONNX")
    for text in summary.failures:
        cli.print_error(f"error: {text}")
    return 1 if summary.failures else console.exit_code()


if __name__ == "__main__":
    cli.run(main)
