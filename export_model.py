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
"""Export a trained model to other runtimes: TensorFlow's SavedModel, LiteRT (formerly TensorFlow Lite), ONNX.

    python export_model.py saved_model litert onnx
    python export_model.py --model model/checkpoints/model_42_0.8812.keras onnx

Each export takes raw columns [rows, 1] and returns the probability [rows, 1], like the Keras model. The command runs
each export in its own runtime on 1,000 generated rows, and deletes it unless it agrees with Keras within 1e-5. Exports
are written next to the model and named after it: NAME_saved_model, NAME.tflite, NAME.onnx for NAME.keras. The model
card, README.md, shows how to call them.
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

    text = "Export a trained model to the formats of other runtimes."
    parser = cli.Parser(description=text)
    add = parser.add_argument
    add("formats", nargs="+", choices=EXPORT_FILES, metavar="FORMAT", help="saved_model, litert, onnx")
    text = "the directory of the model (default: model)"
    add("--model-dir", type=Path, default=Path("model"), metavar="DIR", help=text)
    text = "a model file or checkpoint instead of the model in --model-dir; exports are written next to it"
    add("--model", type=Path, metavar="FILE", help=text)
    add("--version", action="version", version=VERSION)
    args = parser.parse_args(argv)
    args.model = args.model or args.model_dir / MODEL_FILE
    require(args.formats)
    return args


@cli.command
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    from harvest.model.archive import open_model
    from harvest.run_directory import CARD_FILE, EXPORT_FILES, MODEL_FILE, RunDirectory, export_file
    from harvest.training.tensorflow_setup import import_tensorflow, prepare_environment

    console = cli.Console(quiet=False)
    open_model(args.model)  # an error is reported before anything is written
    files = [export_file(name, args.model.name) for name in args.formats]
    directory = RunDirectory(args.model.parent, training=False, files=files)
    with cli.stop_on_signals(at_once=True) as stop, directory as run:
        prepare_environment(cpu_only=True, xla=False)
        import_tensorflow()
        from harvest.model.export.formats import export, load, read_example

        model, details = load(args.model)
        example = read_example(run.path, model)
        summary = export(model, details, run, args.formats, console.print, example, args.model.name)
        carded = bool(summary.formats) and args.model.name == MODEL_FILE and run.is_ours(CARD_FILE)
        if carded:
            from harvest.results.report.card import update_card

            card, has_onnx = (run.path / CARD_FILE).read_bytes(), (run.path / EXPORT_FILES["onnx"]).exists()
            run.stage(CARD_FILE, update_card(card, summary, has_onnx))
        stop.begin_commit()
        run.commit()
    if carded:
        console.print(f"Card       {run.path / CARD_FILE}")
    elif summary.formats:  # no card lists them
        written = ", ".join(str(run.path / export_file(name, args.model.name)) for name in summary.formats)
        console.print(f"Written    {written}")
        for name, signature, graph in summary.renamed:
            console.print(f"Input      {name} is named {signature} in SavedModel and LiteRT, {graph} in ONNX")
    for text in summary.failures:
        cli.print_error(f"error: {text}")
    return 1 if summary.failures else console.exit_code()


if __name__ == "__main__":
    cli.run(main)
