# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#   "tensorflow-cpu>=2.21,<3; (sys_platform == 'linux' and platform_machine == 'x86_64') or sys_platform == 'win32'",
#   "tensorflow>=2.21,<3; (sys_platform != 'linux' or platform_machine != 'x86_64') and sys_platform != 'win32'",
#   "keras>=3.15.1,<4",
#   "tensorboard>=2.21,<3",
#   "numpy>=2,<3",
#   "pandas>=2.2,<4",
#   "jinja2>=3.1,<4",
#   "rich>=13,<16",
# ]
# ///
"""Train a small Keras network on HARVEST.CSV and report how reliable it is.

    python train_model_modern.py /tmp/HARVEST.CSV
    python train_model_modern.py /tmp/HARVEST.CSV --architecture deep
    python train_model_modern.py /tmp/HARVEST.CSV --folds 1
    python train_model_modern.py --sample
    tensorboard --logdir model/logs

This file shows how the model is trained: the flags, the network, the callbacks and, in main(), the whole run, from
reading the table to saving the model. It imports the details from the package harvest. The loss, AdamW, early stopping
and the learning-rate schedule are a few lines each in harvest/training/program.py, because they are compiled with the
training loop. harvest/training/config.py chooses the automatic settings and gives the reason for each.
The run writes the model, metrics, checkpoints and logs to --model-dir (default: model). Nothing leaves the machine.
"""

from __future__ import annotations  # PYTHON 3.11 OR LATER IS NEEDED (one before 3.7 shows this line)

import signal

if __name__ == "__main__":  # Ctrl-C during the imports ends the command without a traceback, as cli.run() does later
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from harvest import VERSION, cli  # isort: skip  (first: it reports which Python is needed)

import argparse
import contextlib
import json
import math
import os
import platform
import sys
import tempfile
import time
from argparse import BooleanOptionalAction
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harvest.cli import UserError, positive_number, seed_number, whole_number
from harvest.run_directory import (
    CARD_FILE,
    EXPORT_FILES,
    METRICS_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    RESUME_FILE,
    RunDirectory,
    earlier_model,
    shared_warning,
)
from harvest.training import MINIMUM_LEARNING_RATE

if TYPE_CHECKING:
    import keras
    import numpy as np

    from harvest.data.encoding import Features
    from harvest.decision import Decision
    from harvest.model.inference_model import Predictor
    from harvest.training.config import Config
    from harvest.training.folds import Fold
    from harvest.training.program import Weights

PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "tensorboard")  # metrics.json records their versions
MIXED_PENALTY = 0.3  # L2 penalty of the logistic regression blended with a single network; best for 80 to 500 rows

# Architectures


class Architecture(NamedTuple):
    units: tuple[int, ...]  # of each hidden layer
    dropout: float  # after each hidden layer


# The choices of --architecture.
ARCHITECTURES = {
    "lightweight": Architecture((8,), 0.2),
    "standard": Architecture((10, 10), 0.2),
    "deep": Architecture((16, 12, 8), 0.3),
}


def build_network(
    width: int, architecture: Architecture, momentum: float = 0.9, hidden_dtype: str = "float32"
) -> keras.Model:
    """The network from encoded inputs [B, width] to logits [B, 1]: hidden layers plus a linear model of the inputs.

    Plain Keras: edit it freely. Training, the saved model, logs and exports use whatever network it returns. If the
    layers from_inputs and from_hidden exist, main() initializes them as a logistic regression of the training rows.
    """
    import keras
    from keras import layers

    inputs = keras.Input((width,), name="inputs")

    # Hidden layers. They are narrow because tables have hundreds of rows: accuracy comes from the encoding of the
    # inputs and from averaging ten networks, not from width (benchmarks/README.md, "Recipe").
    hidden = inputs
    for number, units in enumerate(architecture.units, 1):
        # With bins, a higher learning rate and more weight decay, Mish (Misra, 2019) is more accurate than ReLU on
        # tables of 80 to 2,000 rows.
        hidden = layers.Dense(units, activation="mish", dtype=hidden_dtype, name=f"hidden_{number}")(hidden)
        # A momentum of 0.99, Keras' default, is too slow for the few hundred steps of a small table.
        hidden = layers.BatchNormalization(momentum=momentum, name=f"normalization_{number}")(hidden)
        hidden = layers.Dropout(architecture.dropout, name=f"dropout_{number}")(hidden)

    # A skip connection, which is a linear model of the inputs: it lowers the log-loss of one network at 150 rows from
    # 0.482 to 0.461. The weights of from_hidden start at 0, so epoch 1 starts from the logistic regression.
    nonlinear = layers.Dense(1, kernel_initializer="zeros", name="from_hidden")(hidden)
    linear = layers.Dense(1, use_bias=False, name="from_inputs")(inputs)
    return keras.Model(inputs, layers.Add(name="logit")([nonlinear, linear]), name="network")


# Flags


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The parsed command line; `given` holds only the flags that the user gave, without defaults.

    Raises UserError for flags that contradict each other, before the run reads any file.
    """
    from harvest.model.export import require
    from harvest.results.metrics import threshold_rule

    text = "Train a small Keras network on HARVEST.CSV and report how reliable it is."
    parser = cli.Parser(description=text)
    path = os.path.join(tempfile.gettempdir(), "HARVEST.CSV")
    text = f"CSV file to train on; several files or a directory of files are read as one table (default: {path})"
    parser.add_argument("csv", nargs="*", default=[path], metavar="CSV", help=text)
    # fmt: off

    # Model
    add = parser.add_argument_group("model").add_argument
    add("--architecture", default="standard", choices=ARCHITECTURES,
        help="hidden units: lightweight 8, standard 10-10, deep 16-12-8 (default: standard)")
    add("--model-dir", type=Path, default=Path("model"), metavar="DIR",
        help="directory for all output files (default: model)")

    # Data. The split has its own seed, so runs that differ in --seed are tested on the same rows.
    add = parser.add_argument_group("data").add_argument
    add("--sample", nargs="?", const=500, type=whole_number, metavar="N",
        help="train on N generated rows, to try the program without data (N: 500 if omitted)")
    add("--label", default="productive", metavar="COLUMN",
        help="column to predict, with values 0 and 1 (default: productive)")
    add("--categorical", nargs="+", default=[], metavar="COLUMN", help="columns to treat as categories")
    add("--numeric", nargs="+", default=[], metavar="COLUMN", help="columns to treat as numbers")
    add("--drop", nargs="+", default=[], metavar="COLUMN", help="columns to ignore")
    add("--folds", default="auto", metavar="K",
        type=lambda text: text if text == "auto" else whole_number(text, "a whole number of 1 or more, or auto"),
        help="train an ensemble of K networks by cross-validation, which tests every row; 1: a single network; "
        "auto: 10 for up to 30,000 rows, 1 if there are more or if 10 would take long (default: auto)")
    add("--split", default="random", choices=("random", "time"),
        help="random: stratified by class; time: train on earlier rows and test on the latest (default: random)")
    add("--time-column", metavar="COLUMN",
        help="timestamp column that --split time sorts by (default: detected)")
    add("--split-seed", type=seed_number, default=42, metavar="N",
        help="random seed of the split and of --sample (default: 42)")
    add("--skip-bad-rows", action=BooleanOptionalAction, default=False,
        help="skip invalid rows and report how many (default: off)")

    # Training. 150 epochs are an upper limit for early stopping. A learning rate of 0.006 with a weight decay of 0.1
    # is more accurate than 0.001 on tables of 500 to a million rows (benchmarks/README.md, "Recipe").
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=whole_number, default=150, metavar="N",
        help="maximum number of epochs; early stopping may end training sooner (default: 150)")
    add("--batch-size", type=whole_number, metavar="N",
        help="rows per training step (default: depends on the number of rows)")
    add("--learning-rate", type=positive_number, metavar="X", help="initial learning rate (default: 0.006)")
    add("--seed", type=seed_number, default=42, metavar="N",
        help="random seed of the initial weights, the order of rows and dropout (default: 42)")
    add("--adamw", action=BooleanOptionalAction, default=True,
        help="use the AdamW optimizer; off: Adam (default: on)")
    add("--reduce-lr", action=BooleanOptionalAction, default=True,
        help="halve the learning rate when the validation loss stops improving (default: on)")
    add("--early-stopping", action=BooleanOptionalAction, default=True,
        help="stop when the validation loss stops improving, and restore the best weights (default: on)")
    add("--class-weight", default="none", choices=("none", "balanced"),
        help="balanced: weight both classes equally in the loss (default: none)")
    add("--threshold", type=threshold_rule, default="0.5", metavar="RULE",
        help="decision threshold: a number, or the rule that chooses it: f1, balanced, precision=X, recall=X or "
        "cost=FP:FN (default: 0.5)")
    add("--resume", action=BooleanOptionalAction, default=False,
        help="continue the interrupted run in --model-dir; with --epochs N, end it after N epochs (default: off)")

    # Several machines. TensorFlow's server has no access control, so the user must declare the network trusted.
    title = "several machines (set TF_CONFIG; see docs/distributed.md)"
    add = parser.add_argument_group(title).add_argument
    add("--sync-every", type=whole_number, metavar="N",
        help="average the weights of all machines at least every N steps (default: chosen by timing)")
    add("--trust-network", action=BooleanOptionalAction, default=False,
        help="allow traffic between machines, which is neither encrypted nor authenticated (default: off)")

    # Speed. None: config.py decides, depending on the number of steps and the device.
    add = parser.add_argument_group("speed").add_argument
    add("--cpu-only", action=BooleanOptionalAction, default=False, help="do not use a GPU (default: off)")
    add("--mixed-precision", action=BooleanOptionalAction,
        help="use mixed precision (default: auto)")
    add("--xla", action=BooleanOptionalAction, help="compile training with XLA (default: auto)")

    # Output. The limit of five checkpoints keeps an ensemble from filling the disk when its networks improve in turn.
    add = parser.add_argument_group("output").add_argument
    add("--checkpoints", action=BooleanOptionalAction, default=True,
        help="save the model whenever an epoch is the best so far (default: on)")
    add("--keep-checkpoints", default=5, metavar="N",
        type=lambda text: whole_number(text, "a whole number of 0 or more", least=0),
        help="keep the newest N checkpoints of this run; 0: all; those of earlier runs stay (default: 5)")
    add("--tensorboard", action=BooleanOptionalAction, default=True,
        help="write logs for TensorBoard (default: on)")
    add("--profile", action=BooleanOptionalAction, default=False,
        help="profile ten epochs for TensorBoard's Profile tab (default: off)")
    add("--export", nargs="+", choices=EXPORT_FILES, default=[], metavar="FORMAT",
        help=f"also export the model to other formats: {', '.join(EXPORT_FILES)}")
    add("--describe", action=BooleanOptionalAction, default=False,
        help="describe the data without training (default: off)")
    add("--compare", nargs="*", metavar="DIR",
        help="rank earlier runs by log-loss without training (default: all runs in subdirectories)")
    add("--quiet", action=BooleanOptionalAction, default=False, help="print errors only (default: off)")
    add("--version", action="version", version=VERSION)
    # fmt: on
    args = parser.parse_args(argv)
    unset = argparse.Namespace(**dict.fromkeys(vars(args)))  # so that argparse sets no defaults
    args.given = {name: value for name, value in vars(parser.parse_args(argv, unset)).items() if value is not None}
    if args.given["csv"] is parser.get_default("csv"):
        del args.given["csv"]

    columns = args.categorical + args.numeric + args.drop
    files = [name for name in columns if name.lower().endswith(".csv") and os.path.isfile(name)]
    if args.sample and "csv" in args.given:
        raise UserError("a CSV file and --sample were both given; give only one of them")
    if files and not args.sample and "csv" not in args.given:
        raise UserError(f"{files[0]} was read as a column name; give the file before the flags")
    if both := set(args.categorical) & set(args.numeric):
        raise UserError(f"{min(both)} is given to both --categorical and --numeric; give it to one of them")
    if args.profile and not args.tensorboard:
        raise UserError("--profile writes to the logs that --no-tensorboard turns off; give only one of them")
    if args.learning_rate and args.learning_rate < MINIMUM_LEARNING_RATE:
        too_low = f"below {MINIMUM_LEARNING_RATE:g}, the minimum learning rate"
        raise UserError(f"--learning-rate {args.learning_rate:g} is {too_low}")
    if args.folds == 2:
        raise UserError("--folds 2 leaves no training rows: validation and test take one fold each; give 3 or more")
    if args.time_column is not None and args.split != "time" and not args.resume:
        raise UserError("--time-column has no effect without --split time; add it, or omit --time-column")
    require(args.export)
    return args


# The linear start, blending and calibration


def start_from_linear_model(network: keras.Model, weights: np.ndarray) -> None:
    """Initialize a network as a linear model [L + 1] of its first L inputs, with the intercept last."""
    mix_with_linear_model(network, weights, share=0.0)


def mix_with_linear_model(network: keras.Model, weights: np.ndarray, share: float) -> None:
    """Blend a network with a linear model [L + 1]: share times its logits plus 1 - share times the linear ones.

    The inputs after the first L are quantile bins, which the linear model does not use.
    """
    import numpy as np

    for variable in network.trainable_variables:
        linear = np.zeros(variable.shape)
        if variable.path.endswith("from_inputs/kernel"):
            linear[: len(weights) - 1, 0] = weights[:-1]
        elif variable.path.endswith("from_hidden/bias"):
            linear[:] = weights[-1]
        if "from_" in variable.path:
            variable.assign(share * variable.numpy() + (1 - share) * linear)


def postprocess(
    networks: list[keras.Model], predictor: Predictor, folds: list[Fold], features: Features, config: Config
) -> tuple[float, Decision | None]:
    """Assign the best weights to the networks, and blend a single network with a logistic regression.

    Returns the temperature of the logits, and the share of a single network in the blended logit.

    A network trained on few rows varies with its initial weights. An ensemble averages this variation out; a single
    network is blended with a logistic regression of the training and validation rows instead.
    """
    import numpy as np

    from harvest.decision import Decision
    from harvest.results.evaluation import choose_network_share
    from harvest.results.linear import fit_linear, linear_logits
    from harvest.results.metrics import CALIBRATION_ROWS, fit_temperature
    from harvest.training.program import assign_weights

    for network, fold in zip(networks, folds, strict=True):
        weights = fold.best if config.patience else fold.now  # the last epoch with --no-early-stopping
        assert weights is not None, "each network is trained for at least one epoch"
        assign_weights(network, weights)
    if len(folds) > 1:
        return fit_temperature(*logits_of(predictor, folds, features, "val"))[0], None

    # The share is chosen on the validation rows, because neither the network nor this regression was trained on them.
    network, fold = networks[0], folds[0]
    rows = fold.split.val[:: max(1, len(fold.split.val) // CALIBRATION_ROWS)]
    y_true, encodings = features.labels[rows], (predictor.encoding, fold.encoding)

    def linear_model(rows: np.ndarray) -> np.ndarray:
        weights = fit_linear(features, rows, *encodings, MIXED_PENALTY)
        return np.append(weights[:-1], weights[-1] + config.offset)

    linear, trained = linear_model(fold.split.train), network.get_weights()
    logits = predictor.row_logits(0, features, rows)
    mix_with_linear_model(network, linear, 0.0)
    linear_part = predictor.row_logits(0, features, rows)
    network.set_weights(trained)
    if not np.allclose(linear_part, linear_logits(features, rows, *encodings, linear) - config.offset, atol=0.01):
        return fit_temperature(y_true, logits)[0], None  # the edited build_network contains no linear model

    # The logistic regression in the saved model is fitted on training and validation rows, never on test rows.
    share, temperature = choose_network_share(y_true, logits, linear_part, len(fold.split.train))
    mix_with_linear_model(network, linear_model(np.concatenate([fold.split.train, fold.split.val])), share)
    reason = f"weight of the network, best on {len(y_true):,} validation rows; the logistic regression has the rest"
    return temperature, Decision(round(share, 1), reason)


def logits_of(predictor: Predictor, folds: list[Fold], features: Features, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits [N] of the validation ("val") or test rows of all folds, from the network of each fold."""
    import numpy as np

    rows = [getattr(fold.split, part) for fold in folds]
    logits = [predictor.row_logits(fold.number, features, own) for fold, own in zip(folds, rows, strict=True)]
    return features.labels[np.concatenate(rows)], np.concatenate(logits)


@cli.command
def main(argv: list[str] | None = None) -> int:
    started = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    console = cli.Console(args.quiet and not args.describe and args.compare is None)
    if args.compare is not None:
        from harvest.results.compare import compare_runs

        console.print(*compare_runs(args.compare))
        return console.exit_code()

    import numpy as np

    # Imported here because pandas takes 0.3 s to import, and an invalid flag should be reported at once.
    from harvest.data.describe import describe, describe_columns
    from harvest.data.encoding import encode, fit_encoding, raw_inputs
    from harvest.data.repeats import repeat_warnings
    from harvest.data.splits import describe_split, make_splits
    from harvest.data.table import generate_table, read_table, short_names
    from harvest.data.training_rows import fingerprint, rows_digest, store_training_rows
    from harvest.model.export import example_row
    from harvest.results import summary
    from harvest.results.evaluation import evaluate, measure_baselines
    from harvest.results.explain import FoldNetworks, explain
    from harvest.results.leaks import find_leaks
    from harvest.results.linear import fit_linear
    from harvest.results.metrics import roc_auc_score, sigmoid
    from harvest.text import name_files
    from harvest.training.config import choose_folds, decide, make_plan, setup_tensorflow
    from harvest.training.distributed.cluster import find_cluster
    from harvest.training.interrupted import explain_change, is_over, mark_files, resumed_options, say_what_is_left
    from harvest.training.tensorflow_setup import import_tensorflow, metadata_version, prepare_environment

    with contextlib.ExitStack() as cleanup:  # cleans up however the run ends
        # On several machines, each machine runs this command, and TF_CONFIG lists them. On one machine, group is None.
        group = None
        if cluster := find_cluster(args):
            prepare_environment(args.cpu_only, xla=False)
            import_tensorflow()
            from harvest.training.distributed.group import Group

            group = Group(cluster, args, Path(__file__))
            cleanup.callback(group.close)
        # The description and the arrays of an interrupted run; --resume takes over its flags.
        earlier: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        last_epoch = args.given.get("epochs")
        if args.resume:
            args, earlier, arrays = resumed_options(args.given, args.model_dir, parse_args)
        if group:
            group.settle(args)
        console.quiet = args.quiet and not args.describe

        # --------------------------------------------------------------------------------------------------------------
        # Data. Errors in the data are reported before TensorFlow is imported, which takes seconds.

        table, time_column = generate_table(args, group) if args.sample else read_table(args, group)
        # Repeated rows and columns that leak the label inflate every result below.
        repeated = repeat_warnings(table.repeats, table.files, args.split == "time")
        warnings = [*repeated, *table.warnings(), *(leaks := find_leaks(table, args.label))]
        folds_decision = choose_folds(args, table)
        splits = make_splits(args, table.label, folds_decision.value, table.repeats)
        split_lines = describe_split(args, table, splits, time_column)
        data_lines = [
            *describe(args, table),
            *(f"Warning    {warning}" for warning in warnings),
            f"Folds      {folds_decision.value} ({folds_decision.reason})",
            *split_lines,
        ]
        if args.describe:
            console.print(*data_lines, "", *describe_columns(table))
            return console.exit_code()

        # Batch size, learning rate, patience, XLA and so on depend on the number of rows; each has a reason.
        config = decide(args, splits, table, folds_decision)

        # --resume --epochs N ends an interrupted run sooner. All other settings follow from its original --epochs.
        if args.resume and last_epoch:
            config.epochs = args.epochs = last_epoch
        no_epoch_left = args.resume and not group and is_over(earlier, arrays, config.epochs)

        # An interrupted run continues only on the data it started with.
        digest = fingerprint(table)
        if args.resume and earlier["fingerprint"] != digest:
            raise explain_change(earlier, args.csv, table.read, name_files(args.csv))
        began = {"version": VERSION, "arguments": argv, "fingerprint": digest, "rows": table.read}
        description = {**began, "files": mark_files(args.csv), "logs": "", "checkpoints": [], **earlier}
        run = RunDirectory(args.model_dir, args.export)
        run.check()
        timing = {"load_s": time.perf_counter() - started}
        cleanup.enter_context(run)
        stop = cleanup.enter_context(cli.stop_on_signals())
        cleanup.enter_context(say_what_is_left(run.path, description["checkpoints"]))
        console.print(*data_lines)
        if replaced := earlier_model(run.path):
            console.print(f"Replaces   {replaced} when this run ends")
        if warning := shared_warning(run.path):
            console.print(f"Warning    {warning}")
        if not args.resume and (run.path / RESUME_FILE).exists():
            note = "discards the interrupted run in the model directory (--resume would have continued it)"
            console.print(f"           note: {note}")
            (run.path / RESUME_FILE).unlink()

        # --------------------------------------------------------------------------------------------------------------
        # TensorFlow. Only training may use a GPU, because a GPU computes matrix products less precisely.

        clock = time.perf_counter()
        console.wait("Loading TensorFlow ...")
        cleanup.callback(console.clear)
        config, devices = setup_tensorflow(args, config, table, earlier.get("device", ""))
        timing["import_s"] = time.perf_counter() - clock
        import tensorflow as tf

        from harvest.model.archive import Archive, make_details
        from harvest.model.inference_model import Predictor, build_inference_model, current_values
        from harvest.model.names import input_names
        from harvest.training import callbacks, tensorboard
        from harvest.training import folds as fold_training
        from harvest.training import program as training_program
        from harvest.training.feature_major import feature_major
        from harvest.training.resume import ResumeState, check_network, restore

        cleanup.enter_context(tf.device("CPU:0"))
        architecture = ARCHITECTURES[args.architecture]

        def make_network(width: int) -> keras.Model:
            """The network that is saved, in full precision."""
            return build_network(width, architecture, config.momentum)

        def training_network(config: Config) -> keras.Model:
            """The network that is trained; feature_major() makes it faster and changes nothing else."""
            network = build_network(encoding.width, architecture, config.momentum, config.hidden_dtype)
            return feature_major(network)

        # --------------------------------------------------------------------------------------------------------------
        # Features: each fold fits the encoding of rows on its training rows. Every fold starts from the logistic
        # regression of its training rows, so epoch 1 is about as good.

        encoding, fold_encodings, features = fit_encoding(table, splits)
        plan = make_plan(config, splits, encoding.width)
        folds = []
        for number, (split, fold_encoding) in enumerate(zip(splits, fold_encodings, strict=True)):
            linear = fit_linear(features, split.train, encoding, fold_encoding, folds=len(splits))
            folds.append(fold_training.Fold(number, split, fold_encoding, linear))
            fold_training.start_fold(folds[-1], config, plan)

        # If there is a GPU and training is long, a trial of one second on each device shows which is faster: networks
        # this narrow often train faster on the CPU.
        network = program = None
        if len(devices) > 1:
            clock = time.perf_counter()
            trial = (devices, config, args.mixed_precision, training_network, plan, encoding, features, folds)
            config, network, program = fold_training.try_devices(*trial)
            timing["trial_s"] = time.perf_counter() - clock

        # A worker of a group trains its folds, or a single network on its share of the rows.
        shared = None
        if group:
            from harvest.training.distributed.shared_training import SharedTraining

            shared = SharedTraining(group, config, folds, plan, encoding, table)
            features, program = shared.deal(features, args), None
            plan = shared.plan
        description["device"] = config.device.kind
        console.print(*config.explain(plan, args.architecture, architecture.units, args.class_weight == "balanced"))

        # --------------------------------------------------------------------------------------------------------------
        # The training program: whole epochs and their validation, compiled. While it compiles in a separate thread,
        # the inference model, which will be saved, is built.

        clock = time.perf_counter()
        console.wait("Compiling ...")
        call_plan, example_fold = shared.in_one_call() if shared else (plan, folds[0])
        network = network or training_network(config)
        program = program or training_program.build_program(network, config, call_plan, encoding)
        data = fold_training.features_on(config.device, features)
        parts = (network, config, call_plan, program, data, example_fold)
        compile_program = (lambda: None) if no_epoch_left else fold_training.trace_program(*parts)
        with ThreadPoolExecutor(1) as pool:
            compilation = pool.submit(compile_program)
            model = build_inference_model(table, encoding, fold_encodings, make_network, args.seed, config.offset)
            predictor = Predictor(model, encoding, fold_encodings)
            # Training starts from the weights of the inference model, whatever initializers its layers have. Class
            # weights add an offset to the intercept of the logistic regression.
            for fold, saved in zip(folds, model.networks, strict=True):
                start_from_linear_model(saved, np.append(fold.linear[:-1], fold.linear[-1] + config.offset))
                start = training_program.first_state(training_program.current_weights(saved), config.learning_rate)
                fold.state = start
            training_program.check_same_network(network, model.networks[0], config.precision)
            # Checkpoints fill a template of the model file with weights, which takes 1 ms instead of 60 ms each.
            used = shared.count_rows()[1] + len(splits[0].val) if shared else None
            archive = Archive(model.model, store_training_rows(table, splits, used))
            details = make_details(table, encoding.scaler, args.label, config.even_threshold)
            check_network(model.networks[0], description)
            if args.resume:
                restore(folds, description, arrays)
                for fold in folds:
                    fold.reason = fold.reason or fold_training.end_reason(config, fold)
            # Up to 256 validation rows of each fold: TensorBoard shows their activations and AUC.
            shown_rows = [fold.split.val[:: math.ceil(len(fold.split.val) / 256)] for fold in folds]
            pairs = zip(shown_rows, folds, strict=True)
            shown = [encode(*features.take(rows), encoding, fold.encoding) for rows, fold in pairs]
            baselines = measure_baselines(features, encoding, folds)
            # The graph for TensorBoard and the templates of the report take half a second each, which is free here.
            graph = None
            if args.tensorboard and not args.resume:
                graph = tensorboard.training_step(network, config, plan, start)
            from harvest.results.report.card import render_model_card
            from harvest.results.report.page import load_templates, render_report

            load_templates()
            compilation.result()
        timing["compile_s"] = time.perf_counter() - clock
        if args.resume:
            console.print(f"Resuming   after epoch {max(len(fold.history) for fold in folds)}")
        agreed = stop  # the request to stop; in a group, all workers follow it in the same epoch
        if group and shared:
            program, lines = shared.connect(program, network, data)
            console.print(*lines)
            group.asked, agreed = stop, group.agreed

        # --------------------------------------------------------------------------------------------------------------
        # Callbacks, each added if its flag is on. You can append any Keras callback: the model holds the weights of the
        # epoch. Python never sees single batches, so on_train_batch_end and similar methods are not called.

        def model_file(weights: list[Weights]) -> bytes:
            pairs = zip(model.networks, weights, strict=True)
            return archive.write(details, [value for pair in pairs for value in training_program.named_weights(*pair)])

        # Histograms show the outputs of the layers for validation rows: those for training rows depend on dropout.
        def histogram_values(fold: Fold, weights: Weights) -> tuple[dict, float]:
            values = training_program.named_weights(model.networks[fold.number], weights)
            outputs = predictor.layer_outputs(fold.number, shown[fold.number], values)
            auc = roc_auc_score(features.labels[shown_rows[fold.number]], outputs["logit"][:, 0])
            return tensorboard.layer_values(values, outputs), auc

        state = ResumeState(run.path, folds, description)
        checkpoints = log = None
        active_callbacks: list[keras.callbacks.Callback] = [callbacks.ProgressLine(args.epochs, console)]
        name = tensorboard.run_name(vars(args), vars(parse_args([])), len(folds))
        if args.tensorboard:
            where = (run.path / "logs", name, description["logs"])
            log = tensorboard.open_log(*where, console, folds, args.epochs, plan.rows, histogram_values)
        description["logs"] = log.folder.name if log else ""
        if args.checkpoints:  # before the log, which calls histogram_values()
            dated = description["logs"] or f"{time.strftime('%Y%m%d-%H%M%S')}_{name}"
            files = name_files(short_names(args.csv))
            origin = {"run": description.setdefault("run", dated), "data": files, "rows": len(table.label)}
            folder, names = run.path / "checkpoints", description["checkpoints"]
            checkpoints = callbacks.BestCheckpoint(folds, folder, args.keep_checkpoints, names, origin, model_file)
            active_callbacks.append(checkpoints)
        if log:
            cleanup.callback(log.close)
            if graph:
                log.graphs(model.first, input_names(list(model.first.input)), graph)
                log.layers(json.loads(archive.entries["config.json"]))
                log.text("data", data_lines)
            active_callbacks.append(log)
        if log and args.profile:
            if not metadata_version("xprof"):
                why = "TensorBoard cannot show it without the package xprof (pip install xprof)"
                console.print(f"Profile    {why}")
            active_callbacks.append(callbacks.Profiler(log.folder / "train"))
        active_callbacks.append(state)

        # --------------------------------------------------------------------------------------------------------------
        # Training, until early stopping ends every fold, they reach the maximum number of epochs, or a signal arrives.

        callback_list = callbacks.make_callback_list(
            active_callbacks, model.model, model.networks, folds, epochs=args.epochs, steps=plan.steps * plan.segments
        )
        before, clock = sum(len(fold.history) for fold in folds), time.perf_counter()
        try:  # so that callbacks close their files and threads even if training fails
            callback_list.on_train_begin()
            fold_training.train_folds(config, plan, program, data, folds, callback_list, agreed, shared)
            timing["train_s"] = time.perf_counter() - clock
        finally:
            callback_list.on_train_end()
            if checkpoints and checkpoints.failure:
                console.print(f"Checkpoints {checkpoints.failure}")
        failed = next((fold.reason for fold in folds if fold.failed), "")
        if agreed.signal:
            state.offer(now=True)
        if state.failure:
            console.print(f"Resume     could not save the state: {state.failure}")
        epochs = sum(len(fold.history) for fold in folds) - before
        timing["rows_per_s"] = (
            epochs * plan.rows * (group.workers if group and len(folds) == 1 else 1) / timing["train_s"]
        )
        timing["steps_per_s"] = timing["rows_per_s"] / plan.batch_size

        # After a signal or a loss that is not a number, the files of the last completed run stay unchanged, and
        # --resume continues from the saved state.
        if agreed.signal or failed:
            code, why = group.end_early(failed) if group else (128 + agreed.signal if agreed.signal else 1, "")
            if not group or group.chief:
                cli.print_error(state.explain_end(agreed.signal, why))
            return code
        if group and (code_of_chief := group.wait_for_chief()) is not None:
            return code_of_chief

        # --------------------------------------------------------------------------------------------------------------
        # Results of the best epoch of each fold, or of the last one with --no-early-stopping. The model is calibrated
        # on validation rows. Each test row is predicted by a network that was not trained on it. A logistic regression
        # and the majority class are tested on the same rows.

        console.print(*summary.training_lines(folds, args.epochs, config.patience > 0))
        temperature, share = postprocess(model.networks, predictor, folds, features, config)
        model.set_temperature(temperature)
        validation, test = (logits_of(predictor, folds, features, part) for part in ("val", "test"))
        rule = args.threshold
        if args.class_weight == "balanced" and "threshold" not in args.given:
            rule = ("classes", config.even_threshold)
        evaluation = evaluate(validation, test, splits, temperature, rule, baselines, args.split == "time")
        values = [current_values(network) for network in model.networks]  # read once: 2 ms each

        def predict_logits(fold: int, encoded: np.ndarray) -> np.ndarray:
            return predictor.logits(fold, encoded, values[fold])

        try:
            networks = FoldNetworks(features, splits, encoding, fold_encodings, predict_logits, evaluation.temperatures)
            network_share = share.value if share else 1.0
            facts, finding_lines = explain(args, evaluation, table, networks, network_share, repeated, leaks)
        except Exception as error:  # a failed explanation must not lose the model
            facts = dict.fromkeys(summary.FINDINGS)
            finding_lines = ["", f"Verdict    not available: {type(error).__name__}: {error}"]
        report_lines = [*summary.result_lines(args.label, evaluation, len(folds)), *finding_lines]
        console.print("", *report_lines)

        # --------------------------------------------------------------------------------------------------------------
        # All output files are staged first, then moved into place together.

        # The model card shows how to call the model on one test row, and the probability it returns.
        row = splits[0].test[:1]
        logits = np.array([predictor.row_logits(fold.number, features, row)[0] for fold in folds])
        decisions = {"threshold": evaluation.threshold}
        if share:
            decisions["network_share"] = share
        if args.split == "time":
            decisions["time_column"] = time_column
        if shared:
            decisions |= shared.decisions
        settings = summary.resolved_settings(args, table, config.settings(), config.reasons, **decisions)
        used, train = shared.count_rows() if shared else (len(table.label), len(splits[0].train))
        longest = max(folds, key=lambda fold: len(fold.history))
        packages = {name: metadata_version(name) for name in PACKAGES}
        # The report is rendered from metrics.json and predictions.csv alone.
        metrics = {
            "rows": {
                "read": table.read,
                "used": used,
                "skipped": table.skipped,
                "train": train,
                "validation": len(splits[0].val),
                "test": len(evaluation.y_true),
            },
            "test": evaluation.metrics,
            "baselines": {name: baseline.metrics for name, baseline in evaluation.baselines.items()},
            "threshold": evaluation.threshold.value,
            "temperature": temperature,
            "epochs": len(longest.history),
            "best_epoch": longest.best_epoch,
            "settings": settings,
            "timing": timing,
            "date": time.strftime("%Y-%m-%d"),
            "rows_digest": rows_digest(table, splits),
            "versions": {"python": platform.python_version(), "script": VERSION, **packages},
            **facts,
            "warnings": warnings,
            "history": fold_training.mean_history(folds),
            "table": summary.describe_table(table, split_lines),
            "example": {
                "row": example_row(raw_inputs(table, encoding.scaler, row)),
                "probability": float(np.mean(sigmoid(logits / temperature))),
            },
        }
        details = details._replace(threshold=evaluation.threshold.value)
        exported = None
        if args.export:
            rows = np.concatenate([split.test for split in splits])[:1_000]
            checked = raw_inputs(table, encoding.scaler, rows)  # rows on which the exports are compared with Keras
            from harvest.model.export.formats import export

            exported = export(model.model, details, run, args.export, console.print, checked)
        # Every test row with its line in the file, so readers can check any figure against the data.
        predictions = summary.prediction_rows(table, splits, evaluation)
        run.stage(MODEL_FILE, archive.write(details))
        run.stage(PREDICTIONS_FILE, predictions)
        if log:
            tested = evaluation.y_true, evaluation.y_prob
            calibration = summary.calibration_lines(*tested, evaluation.metrics["confusion"])
            texts = {"calibration": calibration, "report": report_lines}
            log.results(metrics, evaluation.validation, tested, texts, console)
        edited = [name for name in (CARD_FILE, REPORT_FILE) if not run.free(name)]  # commit() leaves them as they are
        run.stage(CARD_FILE, render_model_card(metrics, data_lines, report_lines, exported))
        run.stage(REPORT_FILE, render_report(metrics, predictions))
        timing["total_s"] = time.perf_counter() - started
        run.stage(METRICS_FILE, json.dumps(metrics, indent=2).encode())

        # So far, the first Ctrl-C only sets stop.signal, and the second ends the run at once. From here on, signals
        # wait until the staged files are moved into place, which takes milliseconds.
        stop.begin_commit()
        stale = run.commit()
        (run.path / RESUME_FILE).unlink(missing_ok=True)
        written = (log is not None, description["checkpoints"])
        console.print(*summary.file_lines(run.path, timing, edited, stale, *written))
        failures = exported.failures if exported else []
        for failure in failures:
            cli.print_error(f"error: {failure}; the model and its metrics are saved")
        if group:
            group.report(1 if failures else 0)
    return 1 if failures else console.exit_code()


if __name__ == "__main__":
    cli.run(main)
