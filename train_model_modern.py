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
"""Train a small Keras network on HARVEST.CSV and report how far it can be trusted.

    python train_model_modern.py /tmp/HARVEST.CSV
    python train_model_modern.py /tmp/HARVEST.CSV --architecture deep
    python train_model_modern.py /tmp/HARVEST.CSV --folds 1
    python train_model_modern.py --sample
    tensorboard --logdir model/logs

This file tells how the model is trained: the flags, the network, the callbacks, and in main() the run from reading the
table to saving the model. Details are imported from the package harvest: the loss, AdamW, early stopping and the
halving of the learning rate are in harvest/training/program.py, a few lines each, because they are compiled with the
loop; the decisions and their reasons are in harvest/training/config.py.
The model, its metrics, checkpoints and logs are written to --model-dir (default: model). Nothing leaves the machine.
"""

from __future__ import annotations  # PYTHON 3.11 OR LATER IS NEEDED (one before 3.7 shows this line)

import signal

if __name__ == "__main__":  # Ctrl-C during the imports ends the command without a traceback, as cli.run() does later
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from harvest import VERSION, cli  # isort: skip  (first: it says which Python is needed)

import argparse
import contextlib
import json
import os
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

PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "tensorboard")  # whose versions metrics.json records
MIXED_PENALTY = 0.3  # L2, of the logistic regression blended with a single network; best for 80 to 500 rows

# Networks: hidden units of each layer, dropout after each.


class Architecture(NamedTuple):
    units: tuple[int, ...]
    dropout: float


# --architecture takes its choices from here.
ARCHITECTURES = {
    "lightweight": Architecture((8,), 0.2),
    "standard": Architecture((10, 10), 0.2),
    "deep": Architecture((16, 12, 8), 0.3),
}


def build_network(
    width: int, architecture: Architecture, momentum: float = 0.9, hidden_dtype: str = "float32"
) -> keras.Model:
    """The network from encoded inputs [B, width] to logits [B, 1]: hidden layers, and a linear model of the inputs.

    Plain Keras: edit it freely. Training, the saved model, logs and exports all follow. Training starts from a
    logistic regression, put into the layers called from_inputs and from_hidden, if the network has them.
    """
    import keras
    from keras import layers

    inputs = keras.Input((width,), name="inputs")

    # Hidden layers. They are narrow, because tables have hundreds of rows: what makes them accurate is the encoding of
    # the inputs and the mean of ten networks, not their width (benchmarks/README.md, "The recipe").
    hidden = inputs
    for number, units in enumerate(architecture.units, 1):
        # Mish (Misra, 2019), with bins, a higher rate and more decay, beats ReLU on tables of 80 to 2 000 rows.
        hidden = layers.Dense(units, activation="mish", dtype=hidden_dtype, name=f"hidden_{number}")(hidden)
        # A momentum of 0.99, Keras' default, does not settle in the few hundred steps that small tables give.
        hidden = layers.BatchNormalization(momentum=momentum, name=f"normalization_{number}")(hidden)
        hidden = layers.Dropout(architecture.dropout, name=f"dropout_{number}")(hidden)

    # A linear model of the inputs next to them (a skip): with 150 rows the log-loss of one network is .461, and
    # .482 without. The weights of from_hidden start at 0, so that epoch 1 begins with the logistic regression.
    nonlinear = layers.Dense(1, kernel_initializer="zeros", name="from_hidden")(hidden)
    linear = layers.Dense(1, use_bias=False, name="from_inputs")(inputs)
    return keras.Model(inputs, layers.Add(name="logit")([nonlinear, linear]), name="network")


# Flags


def row_count(text: str) -> int:
    return whole_number(text, "a number of rows")


def fold_count(text: str) -> int | str:
    return text if text == "auto" else whole_number(text, "a whole number of 1 or more, or auto")


def checkpoint_count(text: str) -> int:
    return whole_number(text, "a whole number of 0 or more", least=0)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `given` holds the values of the flags that were given, without the defaults of the others.

    Raises UserError for flags that make no sense, before anything is read.
    """
    from harvest.model.export import require
    from harvest.results.metrics import threshold_rule

    parser = cli.Parser(
        prog="train_model_modern.py",
        description="Train a small Keras network on HARVEST.CSV and report how far it can be trusted.",
        allow_abbrev=False,
    )
    path = os.path.join(tempfile.gettempdir(), "HARVEST.CSV")
    text = f"the CSV file to train on; several files, or a directory of them, are read as one table (default: {path})"
    parser.add_argument("csv", nargs="*", default=[path], metavar="CSV", help=text)
    # fmt: off

    # Model
    add = parser.add_argument_group("model").add_argument
    add("--architecture", default="standard", choices=ARCHITECTURES,
        help="hidden layers of 8 / 10, 10 / 16, 12, 8 units (default: standard)")
    add("--model-dir", type=Path, default=Path("model"), metavar="DIR",
        help="the directory for everything that is written (default: model)")

    # Data. The split has a seed of its own, so that runs with several --seed are tested on the same rows.
    add = parser.add_argument_group("data").add_argument
    add("--sample", nargs="?", const=500, type=row_count, metavar="N",
        help="train on N generated rows, for a first try without data of your own (N: 500 if left out)")
    add("--label", default="productive", metavar="COLUMN",
        help="the column to predict; it holds 0 and 1 (default: productive)")
    add("--categorical", nargs="+", default=[], metavar="COLUMN", help="columns to read as categories")
    add("--numeric", nargs="+", default=[], metavar="COLUMN", help="columns to read as numbers")
    add("--drop", nargs="+", default=[], metavar="COLUMN", help="columns to ignore")
    add("--folds", type=fold_count, default="auto", metavar="K",
        help="train K nets by cross-validation, so that every row is tested, and save their mean; 1: one net; "
        "auto: 10 up to 30,000 rows, 1 above that and where 10 would take long (default: auto)")
    add("--split", default="random", choices=("random", "time"),
        help="random; time: train on earlier rows, test on the latest (default: random)")
    add("--time-column", metavar="COLUMN",
        help="the column that --split time sorts by (default: a timestamp found in the data)")
    add("--split-seed", type=seed_number, default=42, metavar="N",
        help="seed of the split, and of the rows of --sample (default: 42)")
    add("--skip-bad-rows", action=BooleanOptionalAction, default=False,
        help="leave out rows that cannot be used, and say how many")

    # Training. 150 epochs are a limit for early stopping, not a length. A rate of 0.006 with a weight decay of 0.1
    # beats the usual 0.001 on tables of 500 to a million rows (benchmarks/README.md, "The recipe").
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=whole_number, default=150, metavar="N",
        help="the maximum number of epochs; early stopping may end training sooner (default: 150)")
    add("--batch-size", type=whole_number, metavar="N",
        help="rows per step (default: chosen from the number of rows)")
    add("--learning-rate", type=positive_number, metavar="X", help="initial rate (default: 0.006)")
    add("--seed", type=seed_number, default=42, metavar="N",
        help="seed of the initial weights, row order and dropout (default: 42)")
    add("--adamw", action=BooleanOptionalAction, default=True,
        help="optimise with AdamW; off: with Adam (default: on)")
    add("--reduce-lr", action=BooleanOptionalAction, default=True,
        help="halve the learning rate when the validation loss stops falling (default: on)")
    add("--early-stopping", action=BooleanOptionalAction, default=True,
        help="stop when the validation loss has stopped falling, and keep the best weights (default: on)")
    add("--class-weight", default="none", choices=("none", "balanced"),
        help="balanced: give the rarer class more weight (default: none)")
    add("--threshold", type=threshold_rule, default="0.5", metavar="RULE",
        help="predict 1 at or above this probability: a number, f1, balanced, precision=X, recall=X or cost=FP:FN "
        "(default: 0.5)")
    add("--resume", action=BooleanOptionalAction, default=False,
        help="continue the interrupted run in the model directory (default: off)")

    # Several machines. TensorFlow's own server has no protection, so the user must say that the network is trusted.
    title = "several machines (named by TF_CONFIG; see docs/distributed.md)"
    add = parser.add_argument_group(title).add_argument
    add("--sync-every", type=whole_number, metavar="N",
        help="average the weights of all machines after at most N steps (default: from measured times)")
    add("--trust-network", action=BooleanOptionalAction, default=False,
        help="allow TensorFlow's traffic between machines, which has neither encryption nor passwords (default: off)")

    # Speed. None means that config.py decides, from the number of steps and the device.
    add = parser.add_argument_group("speed").add_argument
    add("--cpu-only", action=BooleanOptionalAction, default=False, help="use no GPU (default: off)")
    add("--mixed-precision", action=BooleanOptionalAction,
        help="16-bit matrix products (default: where they are faster)")
    add("--xla", action=BooleanOptionalAction, help="compile with XLA (default: when the run is long enough)")

    # Output. With five checkpoints kept, ten networks that improve in turn do not fill the disk.
    add = parser.add_argument_group("output").add_argument
    add("--checkpoints", action=BooleanOptionalAction, default=True,
        help="save the model at each new best epoch (default: on)")
    add("--keep-checkpoints", type=checkpoint_count, default=5, metavar="N",
        help="keep the newest N checkpoints of this run, 0: all; those of earlier runs stay (default: 5)")
    add("--tensorboard", action=BooleanOptionalAction, default=True,
        help="write logs for TensorBoard (default: on)")
    add("--profile", action=BooleanOptionalAction, default=False,
        help="profile ten epochs for TensorBoard's Profile tab (default: off)")
    add("--export", nargs="+", choices=EXPORT_FILES, default=[], metavar="FORMAT",
        help=f"also write the model in other formats: {', '.join(EXPORT_FILES)}")
    add("--describe", action=BooleanOptionalAction, default=False,
        help="summarise the data; nothing is trained or written (default: off)")
    add("--compare", nargs="*", metavar="DIR",
        help="rank the results of runs, the best first; nothing is trained (default: of all directories here)")
    add("--quiet", action=BooleanOptionalAction, default=False, help="print errors only")
    add("--version", action="version", version=VERSION)
    # fmt: on
    args = parser.parse_args(argv)
    args.given = vars(parser.parse_args(argv, cli.GivenFlags()))
    if args.given["csv"] is parser.get_default("csv"):
        del args.given["csv"]

    columns = args.categorical + args.numeric + args.drop
    files = [name for name in columns if name.lower().endswith(".csv") and os.path.isfile(name)]
    if args.sample and "csv" in args.given:
        raise UserError("a CSV and --sample were both given; leave one of them out")
    if files and not args.sample and "csv" not in args.given:
        raise UserError(f"{files[0]} was taken for the name of a column; give the file before the flags")
    if args.profile and not args.tensorboard:
        raise UserError("--profile writes to the logs that --no-tensorboard turns off; leave one of them out")
    if args.learning_rate and args.learning_rate < MINIMUM_LEARNING_RATE:
        too_low = f"below {MINIMUM_LEARNING_RATE:g}, the smallest rate used"
        raise UserError(f"--learning-rate {args.learning_rate:g} is {too_low}")
    if args.folds == 2:
        raise UserError("--folds 2 leaves no rows to train on: validation and testing take a fold each; give 3 or more")
    if args.time_column is not None and args.split != "time" and not args.resume:
        raise UserError("--time-column has no effect without --split time; add that, or leave --time-column out")
    require(args.export)
    return args


# Where the networks start, and what is made of them once they are trained


def start_from_linear_model(network: keras.Model, weights: np.ndarray) -> None:
    """Make a new network reproduce a linear model [L + 1] of its first L inputs, the intercept last.

    The inputs after the first L are quantile bins, which a linear model does not take; their weights start at 0.
    """
    for variable, value in linear_values(network, weights):
        variable.assign(value)


def linear_values(network: keras.Model, weights: np.ndarray) -> list[tuple[keras.Variable, np.ndarray]]:
    """The variables of the layers from_inputs and from_hidden, with what they hold in a linear model [L + 1]."""
    import numpy as np

    pairs = []
    for variable in network.trainable_variables:
        if variable.path.endswith("from_inputs/kernel"):
            pairs.append((variable, np.pad(weights[:-1], (0, variable.shape[0] - len(weights) + 1))[:, None]))
        elif variable.path.endswith("from_hidden/bias"):
            pairs.append((variable, weights[-1:]))
        elif "from_" in variable.path:
            pairs.append((variable, np.zeros(variable.shape)))
    return pairs


def mix_with_linear_model(network: keras.Model, weights: np.ndarray, share: float) -> None:
    """Let a trained network answer with share times its logits plus, for the rest, those of a linear model [L + 1]."""
    for variable, value in linear_values(network, weights):
        variable.assign(share * variable.numpy() + (1 - share) * value)


def postprocess(
    networks: list[keras.Model], predictor: Predictor, folds: list[Fold], features: Features, config: Config
) -> tuple[float, Decision | None]:
    """Give the networks their best weights, and mix a single one with a linear model.

    Returns the temperature of the logits, and the share of a single network in its logit.

    What one network learns from few rows varies with its start, which the mean of many networks averages out. So one
    network answers together with a logistic regression of the training and validation rows.
    """
    import numpy as np

    from harvest.decision import Decision
    from harvest.results.evaluation import choose_network_share
    from harvest.results.linear import fit_linear, linear_logits, weighted_linear
    from harvest.results.metrics import CALIBRATION_ROWS, fit_temperature
    from harvest.training.program import assign_weights

    for network, fold in zip(networks, folds, strict=True):
        weights = fold.best if config.patience else fold.now  # the last epoch with --no-early-stopping
        assert weights is not None, "a network is trained for an epoch at least"
        assign_weights(network, weights)
    if len(folds) > 1:
        return fit_temperature(*logits_of(predictor, folds, features, "val"))[0], None

    # One network: how much of the logit is its own follows from validation rows, which neither part was trained on.
    network, fold = networks[0], folds[0]
    rows = fold.split.val[:: max(1, len(fold.split.val) // CALIBRATION_ROWS)]
    y_true, encodings = features.labels[rows], (predictor.encoding, fold.encoding)

    def linear_model(rows: np.ndarray) -> np.ndarray:
        return weighted_linear(fit_linear(features, rows, *encodings, MIXED_PENALTY), config.class_weights)

    linear, trained = linear_model(fold.split.train), network.get_weights()
    logits = predictor.row_logits(0, features, rows)
    mix_with_linear_model(network, linear, 0.0)
    linear_part = predictor.row_logits(0, features, rows)
    network.set_weights(trained)
    if not np.allclose(linear_part, linear_logits(features, rows, *encodings, linear) - config.offset, atol=0.01):
        return fit_temperature(y_true, logits)[0], None  # build_network was edited: not all of a linear model is in it

    # The logistic regression that stays in the model learns from the validation rows too; test rows stay unseen.
    share, temperature = choose_network_share(y_true, logits, linear_part, len(fold.split.train))
    mix_with_linear_model(network, linear_model(np.concatenate([fold.split.train, fold.split.val])), share)
    reason = f"of the logit, the rest is a logistic regression: best for {len(y_true):,} validation rows"
    return temperature, Decision(round(share, 1), reason)


def logits_of(predictor: Predictor, folds: list[Fold], features: Features, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits [N] of the validation ("val") or test rows of all folds, each by the network of its fold."""
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

    # Imported here, because pandas takes 0.3 s: a wrong flag is reported first.
    from harvest.data.describe import describe, describe_columns
    from harvest.data.encoding import encode, fit_encoding, raw_inputs
    from harvest.data.repeats import repeat_warnings
    from harvest.data.splits import describe_split, make_splits
    from harvest.data.table import data_name, generate_table, read_table
    from harvest.data.training_rows import fingerprint, store_training_rows
    from harvest.results import summary
    from harvest.results.evaluation import evaluate, measure_baselines
    from harvest.results.explain import FoldNetworks, explain
    from harvest.results.leaks import find_leaks
    from harvest.results.linear import fit_linear, weighted_linear
    from harvest.training.config import choose_folds, decide, make_plan, setup_tensorflow
    from harvest.training.distributed.cluster import find_cluster
    from harvest.training.interrupted import explain_change, mark_files, resumed_options, say_what_is_left
    from harvest.training.tensorflow_setup import import_tensorflow, metadata_version, prepare_environment

    with contextlib.ExitStack() as cleanup:  # runs however the run ends
        # Several machines run this same command; TF_CONFIG names them. On one machine group stays None.
        group = None
        if cluster := find_cluster(args):
            prepare_environment(args.cpu_only, xla=False)
            import_tensorflow()
            from harvest.training.distributed.group import Group

            group = Group(cluster, args, Path(__file__))
            cleanup.callback(group.close)
        # What is known about the interrupted run, and its arrays; --resume takes its flags.
        earlier: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        if args.resume:
            args, earlier, arrays = resumed_options(args.given, args.model_dir, parse_args)
        if group:
            group.settle(args)
        console.quiet = args.quiet and not args.describe

        # --------------------------------------------------------------------------------------------------------------
        # Data. Whatever is wrong with it is said now, before the seconds that TensorFlow takes to import.

        table, time_column = generate_table(args, group) if args.sample else read_table(args, group)
        # Copies of rows, and a column that gives the label away, make every figure below look better than it is.
        warnings = [*repeat_warnings(table.repeats, table.files, args.split == "time"), *find_leaks(table, args.label)]
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

        # Batch size, learning rate, patience, XLA and so on follow from the number of rows; each comes with its reason.
        config = decide(args, splits, table.label, folds_decision)

        # An interrupted run goes on only with the data it began with.
        digest = fingerprint(table)
        if args.resume and earlier["fingerprint"] != digest:
            raise explain_change(earlier, args.csv, table.read, data_name(args))
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
            console.print(f"Replaces   {replaced}, once this run is over")
        if warning := shared_warning(run.path):
            console.print(f"Warning    {warning}")
        if not args.resume and (run.path / RESUME_FILE).exists():
            note = "the interrupted run in the model directory is discarded (--resume would have continued it)"
            console.print(f"           note: {note}")
            (run.path / RESUME_FILE).unlink()

        # --------------------------------------------------------------------------------------------------------------
        # TensorFlow, on the CPU except for the training program: a GPU rounds products to fewer digits.

        clock = time.perf_counter()
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
            """The network that is trained; feature_major() makes it quicker and changes nothing else."""
            network = build_network(encoding.width, architecture, config.momentum, config.hidden_dtype)
            return feature_major(network)

        # --------------------------------------------------------------------------------------------------------------
        # Features: how a row becomes inputs of the network, learned by each fold from its training rows. Every fold
        # starts from the logistic regression of its training rows, so epoch 1 is already good.

        encoding, fold_encodings, features = fit_encoding(table, splits)
        plan = make_plan(config, splits, encoding.width)
        folds = []
        for number, (split, fold_encoding) in enumerate(zip(splits, fold_encodings, strict=True)):
            linear = fit_linear(features, split.train, encoding, fold_encoding, folds=len(splits))
            folds.append(fold_training.Fold(number, split, fold_encoding, linear))
            fold_training.start_fold(folds[-1], config, plan)

        # Where there is a GPU and training takes a while, a trial of one second on each device shows which is quicker:
        # networks this narrow often train faster on the CPU.
        network = program = None
        if len(devices) > 1:
            clock = time.perf_counter()
            trial = (devices, config, args.mixed_precision, training_network, plan, encoding, features, folds)
            config, network, program = fold_training.try_devices(*trial)
            timing["trial_s"] = time.perf_counter() - clock

        # A worker of a group trains its folds, or one network on its share of the rows.
        shared = None
        if group:
            from harvest.training.distributed.shared_training import SharedTraining

            shared = SharedTraining(group, config, folds, plan, encoding, table)
            features, program = shared.deal(features, args), None
            plan = shared.plan
        description["device"] = config.device.kind
        console.print(*config.explain(plan, args.architecture, architecture.units, args.class_weight == "balanced"))

        # --------------------------------------------------------------------------------------------------------------
        # The training program: whole epochs with their validation, compiled. While it compiles in a separate thread,
        # the model that will be saved is built.

        clock = time.perf_counter()
        call_plan, example_fold = shared.in_one_call() if shared else (plan, folds[0])
        network = network or training_network(config)
        program = program or training_program.build_program(network, config, call_plan, encoding)
        data = fold_training.features_on(config.device, features)
        compile_program = fold_training.trace_program(network, config, call_plan, program, data, example_fold)
        with ThreadPoolExecutor(1) as pool:
            compilation = pool.submit(compile_program)
            model = build_inference_model(table, encoding, fold_encodings, make_network, args.seed, config.offset)
            predictor = Predictor(model, encoding, fold_encodings)
            # Training begins with the weights of the model that is saved, whatever their initializers.
            for fold, saved in zip(folds, model.networks, strict=True):
                start_from_linear_model(saved, weighted_linear(fold.linear, config.class_weights))
                start = training_program.first_state(training_program.current_weights(saved), config.learning_rate)
                fold.state = start
            training_program.check_same_network(network, model.networks[0], config.precision)
            # The file of the model is a template that checkpoints fill with weights: 1 ms each instead of 60.
            trained = shared.count_rows()[1] + len(splits[0].val) if shared else None
            archive = Archive(model.model, store_training_rows(table, splits, trained))
            details = make_details(table, encoding.scaler, args.label, config.even_threshold)
            check_network(model.networks[0], description)
            if args.resume:
                restore(folds, config.epochs, run.path / RESUME_FILE, description, arrays)
                console.print(f"Resuming   after epoch {max(len(fold.history) for fold in folds)}")
            shown = [
                encode(*features.take(fold.split.val[:256]), encoding, fold.encoding) for fold in folds
            ]  # whose activations TensorBoard shows
            linear_models = [fold.linear for fold in folds]
            baselines = measure_baselines(features, splits, encoding, fold_encodings, linear_models)
            compilation.result()
        timing["compile_s"] = time.perf_counter() - clock
        agreed = stop  # the request to stop; in a group, one that all workers follow at the same time
        if group and shared:
            program, lines = shared.connect(program, network, data)
            console.print(*lines)
            group.asked, agreed = stop, group.agreed

        # --------------------------------------------------------------------------------------------------------------
        # Callbacks, each added where its flag is on. Any of keras.callbacks may be appended: it finds the weights of
        # the epoch in the model. Batches never reach Python, so on_train_batch_end and the like are not called.

        def model_file(weights: list[Weights]) -> bytes:
            pairs = zip(model.networks, weights, strict=True)
            return archive.write(details, [value for pair in pairs for value in training_program.named_weights(*pair)])

        # Histograms show what the layers give for some validation rows: those of training rows depend on dropout.
        def histogram_values(fold: Fold, weights: Weights) -> dict:
            values = training_program.named_weights(model.networks[fold.number], weights)
            return tensorboard.layer_values(values, predictor.layer_outputs(fold.number, shown[fold.number], values))

        state = ResumeState(run.path, folds, description)
        checkpoints = log = None
        active_callbacks: list[keras.callbacks.Callback] = [callbacks.ProgressLine(args.epochs, console)]
        if args.checkpoints:
            folder, names = run.path / "checkpoints", description["checkpoints"]
            checkpoints = callbacks.BestCheckpoint(folds, folder, args.keep_checkpoints, names, model_file)
            active_callbacks.append(checkpoints)
        if args.tensorboard:
            name = tensorboard.run_name(vars(args), vars(parse_args([])), len(folds))
            where = (run.path / "logs", name, description["logs"])
            log = tensorboard.open_log(*where, folds, args.epochs, plan.rows, histogram_values, console)
        description["logs"] = log.folder.name if log else ""
        if log:
            cleanup.callback(log.close)
            if not args.resume:
                step = tensorboard.training_step(network, config, plan, start)
                log.graphs(model.first, input_names(list(model.first.input)), step)
                log.layers(json.loads(archive.entries["config.json"]))
                log.text("data", data_lines)
            active_callbacks.append(log)
        if log and args.profile:
            if not metadata_version("xprof"):
                why = "TensorBoard shows profiles with the package xprof (pip install xprof), which is not installed"
                console.print(f"Profile    {why}")
            active_callbacks.append(callbacks.Profiler(log.folder / "train"))
        active_callbacks.append(state)

        # --------------------------------------------------------------------------------------------------------------
        # Training, until the validation loss of every fold has stalled, the epochs are over, or a signal comes.

        callback_list = callbacks.make_callback_list(
            active_callbacks, model.model, model.networks, folds, epochs=args.epochs, steps=plan.steps * plan.segments
        )
        before, clock = sum(len(fold.history) for fold in folds), time.perf_counter()
        try:  # callbacks close their files and threads even if training fails
            callback_list.on_train_begin()
            fold_training.train_folds(config, plan, program, data, folds, callback_list, agreed, shared)
            timing["train_s"] = time.perf_counter() - clock
        finally:
            callback_list.on_train_end()
            if checkpoints and checkpoints.failure:
                console.print(f"Checkpoints could not be written: {checkpoints.failure}")
        failed = next((fold.reason for fold in folds if fold.failed), "")
        if agreed.signal:
            state.offer(now=True)
        if state.failure:
            console.print(f"Resume     the state could not be saved: {state.failure}")
        epochs = sum(len(fold.history) for fold in folds) - before
        timing["rows_per_s"] = (
            epochs * plan.rows * (group.workers if group and len(folds) == 1 else 1) / timing["train_s"]
        )
        timing["steps_per_s"] = timing["rows_per_s"] / plan.batch_size

        # Stopped, or a loss that is not a number: the files of the last whole run stay as they are, and --resume goes
        # on from the state that was saved.
        if agreed.signal or failed:
            code, why = group.end_early(failed) if group else (128 + agreed.signal if agreed.signal else 1, "")
            if not group or group.chief:
                cli.print_error(state.explain_end(agreed.signal, why))
            return code
        if group and (code_of_chief := group.wait_for_chief()) is not None:
            return code_of_chief

        # --------------------------------------------------------------------------------------------------------------
        # Results: of the best epoch of each fold, or of the last one with --no-early-stopping. The model is calibrated
        # on validation rows and tested on test rows, each by a network that was not trained on it, next to a logistic
        # regression and the majority class on the same rows.

        lengths, bests = [len(fold.history) for fold in folds], [fold.best_epoch for fold in folds]
        kept_best = config.patience > 0
        console.print(*summary.training_lines(lengths, bests, folds[0].reason, args.epochs, kept_best))
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
            facts, finding_lines = explain(
                evaluation,
                table,
                FoldNetworks(features, splits, encoding, fold_encodings, predict_logits, evaluation.temperatures),
                seed=args.seed,
                network_share=share.value if share else 1.0,
                generated=bool(args.sample),
            )
        except Exception as error:  # no model is lost because nothing can be said of it
            facts = dict.fromkeys(("comparison", "verdict", "importance", "suspect_labels", "effects"))
            finding_lines = ["", f"Verdict    left out: {type(error).__name__}: {error}"]
        report_lines = [*summary.result_lines(args.label, evaluation, len(folds)), *finding_lines]
        console.print("", *report_lines)

        # --------------------------------------------------------------------------------------------------------------
        # Everything that belongs to the run is staged first, and moved into place together.

        from harvest.results.report.card import render_model_card
        from harvest.results.report.page import render_report

        # The model card shows how to call the model with a test row, and which probability that gives.
        row = splits[0].test[:1]
        example_logits = [predictor.row_logits(fold.number, features, row)[0] for fold in folds]
        # What else metrics.json holds: the report is drawn from it and from predictions.csv alone.
        facts |= {"warnings": warnings, "history": fold_training.mean_history(folds)}
        facts["table"] = summary.describe_table(table, split_lines)
        facts["example"] = summary.example(raw_inputs(table, encoding.scaler, row), example_logits, temperature)
        decisions = {"threshold": evaluation.threshold}
        if share:
            decisions["network_share"] = share
        if args.split == "time":
            decisions["time_column"] = time_column
        if shared:
            decisions |= shared.decisions
        settings = summary.resolved_settings(args, table, config.settings(), config.reasons, **decisions)
        used, trained = shared.count_rows() if shared else (len(table.label), len(splits[0].train))
        counts = {"used": used, "train": trained, "validation": len(splits[0].val), "test": len(evaluation.y_true)}
        longest = max(folds, key=lambda fold: len(fold.history))
        lasted = len(longest.history), longest.best_epoch
        packages = {name: metadata_version(name) for name in PACKAGES}
        metrics = summary.assemble_metrics(table, splits, counts, evaluation, lasted, settings, timing, packages, facts)
        details = details._replace(threshold=evaluation.threshold.value)
        exported = None
        if args.export:
            rows = np.concatenate([split.test for split in splits])[:1_000]
            checked = raw_inputs(table, encoding.scaler, rows)  # on which the formats must agree
            from harvest.model.export.formats import export

            formats = list(dict.fromkeys(args.export))
            exported = export(model.model, details, run, formats, console.print, checked)
        # Every tested row with its line in the file, so that anyone who doubts a figure can look the rows up.
        predictions = summary.prediction_rows(table, splits, evaluation)
        run.stage(MODEL_FILE, archive.write(details))
        run.stage(PREDICTIONS_FILE, predictions)
        if log:
            tested = evaluation.y_true, evaluation.y_prob
            calibration = summary.calibration_lines(*tested, evaluation.metrics["confusion"])
            texts = {"calibration": calibration, "report": report_lines}
            log.results(metrics, evaluation.validation, tested, texts, console)
        left_out = {
            name: f"{run.path / name} is a file of your own and was left as it is"
            for name in (CARD_FILE, REPORT_FILE)
            if not run.free(name)
        }
        if CARD_FILE not in left_out:
            run.stage(CARD_FILE, render_model_card(metrics, data_lines, report_lines, exported))
        if REPORT_FILE not in left_out:
            run.stage(REPORT_FILE, render_report(metrics, predictions))
        timing["total_s"] = time.perf_counter() - started
        run.stage(METRICS_FILE, json.dumps(metrics, indent=2).encode())

        # The first Ctrl-C only sets stop.signal, the second ends the run at once. From here on it waits: what is staged
        # is whole, and moving it takes milliseconds.
        stop.committing = True
        stale = run.commit()
        (run.path / RESUME_FILE).unlink(missing_ok=True)
        console.print(*summary.file_lines(run.path, timing, left_out, stale, log is not None))
        failures = exported.failures if exported else []
        for failure in failures:
            cli.print_error(f"error: {failure}; the model and its metrics are saved")
        if group:
            group.report(1 if failures else 0)
    return 1 if failures else console.exit_code()


if __name__ == "__main__":
    cli.run(main)
