"""A cell means the same everywhere: in training, in predict.py, in plain Keras, and in every export.

Tables of odd columns are made, trained on, and predicted in each of these ways, from the texts of their cells alone.
"""

import contextlib
import csv
import io
import os
import random
import re

import numpy as np
import pytest
from conftest import QUICK, predictions_of

import predict as script
import train_model_modern
from harvest.cli import UserError
from harvest.data.cells import parse_number
from harvest.data.training_rows import read_training_rows, row_hashes
from harvest.model.input_rows import read_rows
from harvest.run_directory import EXPORT_FILES, MODEL_FILE

REFUSED = [
    "no column is left",
    "at least 5 are needed",
    "at least 3 are needed",
    "rows are all of one class",
    "a word for a missing value",
]  # what a table of odd columns may rightly be
TABLES = int(os.environ.get("TABLES", "8"))  # make soak: 300
FORMATS = list(EXPORT_FILES)

NAMES = [
    "idle",
    "window",
    "probability",
    "predicted",
    "self",
    "where",
    "hidden_1",
    "encoded",
    "App",
    "app",
    "größe (cm)",
    'a "b"',
    "class",
    "input_0",
    "Nan",
]
NAMES += [
    "dense",
    "numbers",
    "place_0_x",
    "café, noir",
    "index",
    "file",
    "x" * 60,
    "multiply",
    "1st",
    " spaced",
    "normalization_1",
    "columns",
    "training",
]
WORDS = [
    "code",
    "web",
    "mail",
    "TRUE",
    "true",
    "True",
    "FALSE",
    "1.10",
    "1.1",
    "2.50",
    "1e5",
    "01234",
    "1234",
    "nan",
    "NaN",
    "NA",
    "null",
    "None",
    "inf",
    "-0",
]
WORDS += [
    "\x01",
    "\x02\x01",
    "[UNK]",
    "a,b",
    'say "hi"',
    "two\nlines",
    "two lines",
    "cr\rlf",
    "日本",
    "naïve",
    "e\u0301",
    "é",
    "🙂",
    "x" * 300,
    "0",
    "-",
    "?",
]
WORDS += [
    "unseen",
    "nothing",
    "\\",
    "a\tb",
    "# x",
    "=1+1",
    "5",
    "5.0",
    "+5",
    "1_000",
    "٣",
    "\u2028",
    "\x7f",
    "\ufffd",
    "'",
    "{}",
    "%s",
]


def number_cells(chance, rows):
    """Numbers of one kind, and how much each speaks for the label."""
    kind = chance.choice(
        ["ms", "tiny", "stamp", "huge", "decades", "normal", "spelled", "flag", "percent", "wide", "outlier"]
    )
    draw = {
        "ms": lambda: str(int(chance.lognormvariate(8, 2))),
        "tiny": lambda: repr(chance.uniform(1e-8, 9e-8)),
        "stamp": lambda: str(1_700_000_000 + chance.randrange(91)),
        "huge": lambda: repr(chance.uniform(-1, 1) * 3e38),
        "decades": lambda: repr(chance.choice([-1, 1]) * 10 ** chance.uniform(-12, 12)),
        "normal": lambda: repr(chance.gauss(0, 1)),
        "spelled": lambda: chance.choice(
            [
                "5",
                "+5",
                "5.",
                "5.0",
                ".5",
                "-.5e1",
                "1e1",
                "1E+1",
                "00012",
                "-0",
                " 7 ",
                "1e-400",
                "0.1234567890123456789",
            ]
        ),
        "flag": lambda: chance.choice("01"),
        "percent": lambda: str(chance.randrange(101)),
        "wide": lambda: repr(10 ** chance.uniform(-300, 38)),
        "outlier": lambda: chance.choice(["1e38", "-3e38", *[f"{chance.random():.3f}" for _ in range(20)]]),
    }[kind]
    cells = [draw() for _ in range(rows)]
    middle = sorted(map(float, cells))[rows // 2]
    return cells, [float(cell) > middle for cell in cells]


def text_cells(chance, rows):
    pool = chance.sample(WORDS, chance.randrange(2, 12))
    cells = [chance.choice(pool) for _ in range(rows)]
    return cells, [cell in pool[::2] for cell in cells]


def id_cells(chance, rows):
    draw = chance.choice(
        [
            lambda: str(chance.randrange(-(2**31), 2**31)),
            lambda: str(chance.choice([2**63 - 1, 2**63 - 2, -(2**63) + 8, 1234567890123456789])),
            lambda: chance.choice(["5", "5.0", "6.00", "0"]),
            lambda: chance.choice(["01234", "1234"]),
            lambda: str(123456789012345678 + chance.randrange(4)),
            lambda: chance.choice(["7", "8", "-3", "code"]),
            lambda: str(2**64 + chance.randrange(3)),
            lambda: "-9223372036854775808",
        ]
    )
    pool = list(dict.fromkeys(draw() for _ in range(6)))
    cells = [chance.choice(pool) for _ in range(rows)]
    return cells, [cell in pool[::2] for cell in cells]


def make_table(chance):
    """The cells of a table {name: texts}, the flags to read it with, folds, whether it is quoted, how many files."""
    rows = chance.randrange(45, 90)
    columns, categorical, signals = {}, [], []
    for name in chance.sample(NAMES, chance.randrange(2, 7)):
        kind = chance.choice(["number", "number", "text", "id", "categorical"])
        if kind == "id":
            name += " id"
        cells, signal = {"text": text_cells, "id": id_cells}.get(kind, number_cells)(chance, rows)
        if kind == "categorical" or (
            kind == "text" and sum(np.isfinite(parse_number(cell)) for cell in cells) >= 0.3 * rows
        ):
            categorical.append(name.strip())
        empty = chance.choice([0, 0, 0.1, 0.5])
        cells = ["" if chance.random() < empty else cell for cell in cells]
        if chance.random() < 0.15:  # a column of newer rows
            cells[: rows // 2] = [""] * (rows // 2)
        columns[name] = cells
        signals.append(signal)
    score = np.mean(signals, axis=0)
    columns["productive"] = [
        chance.choice(["1", "0"]) if chance.random() < 0.3 else str(int(value > np.median(score))) for value in score
    ]
    flags = ["--categorical", *categorical] if categorical else []
    return columns, flags, chance.choice([1, 1, 3]), chance.random() < 0.5, chance.choice([1, 1, 2, 3])


def write(path, columns, rows, quoted):
    """Write rows of a table; give the line on which each starts."""
    lines, text, end = [], "", "\r\n" if quoted else "\n"
    for row in [None, *rows]:
        lines.append(text.count("\n") + 1)
        cells = columns if row is None else [cells[row] for cells in columns.values()]
        text += (
            ",".join(
                '"' + cell.replace('"', '""') + '"' if quoted or re.search(r'[",\r\n]', cell) else cell
                for cell in cells
            )
            + end
        )
    path.write_bytes(text.encode())
    return lines[1:]


def documented(kind, text):
    """What a cell means, as the model card says it."""
    text = text.strip()
    if kind == "string":
        return text
    if kind == "int64":
        whole = re.fullmatch(r"(-?[1-9][0-9]*|0)(\.0+)?", text)
        return int(text.split(".")[0]) if whole else -(2**63) + (1 if text else 0)
    return float(text) if text else float("nan")


def quietly(function, *arguments):
    """Run a command in this process: (exit code, standard error)."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = function(list(map(str, arguments)))
    return code, errors.getvalue()


def predicted(folder, columns, rows, quoted, tmp_path):
    """The probabilities that predict.py gives for rows of a table."""
    write(tmp_path / "asked.csv", columns, rows, quoted)
    code, errors = quietly(
        script.main, tmp_path / "asked.csv", "--model-dir", folder, "--output", tmp_path / "answer.csv"
    )
    assert code == 0, errors
    with open(tmp_path / "answer.csv", encoding="utf-8", newline="") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == len(rows)
    name = "probability" if "probability" not in columns else "model_probability"
    return np.array([float(row[name]) for row in answers])


def check_frames(model, path, asked):
    """DataFrames of the texts of a file, and of what pandas makes of them, mean the same, or are refused."""
    import pandas as pd

    options = {"keep_default_na": False, "encoding": "utf-8"}
    found = model.predict_proba(pd.read_csv(path, dtype=str, **options))
    np.testing.assert_allclose(found[:, 1], asked, atol=1e-5, err_msg="a DataFrame of texts")
    try:
        found = model.predict_proba(pd.read_csv(path, na_values=[""], **options))
    except UserError as error:
        assert "read the table with dtype=str" in str(error)
    else:
        np.testing.assert_allclose(found[:, 1], asked, atol=1e-5, err_msg="a DataFrame")


def check_training_rows(model, path, tested):
    """predict.py knows all rows of a file that trained the model, and no others, by what their cells mean."""
    from harvest.model.inference import model_inputs

    known, (chunk,) = read_training_rows(model.path), read_rows(str(path), model.details)
    inputs, _ = model_inputs(model.model, model.details, chunk)
    exact, rounded = row_hashes(model.details.kinds, {name: cells[:, 0] for name, cells in inputs.items()})
    trained = [row for row in range(len(exact)) if row not in tested]
    for hashes, kept in ((exact, known.exact), (rounded, known.rounded)):
        assert np.array_equal(np.unique(hashes[trained]), kept.hashes)
        _, inverse, counts = np.unique(hashes[trained], return_inverse=True, return_counts=True)
        assert kept.repeated <= np.mean(counts[inverse] > 1) + 1e-9  # some of them are copies


def check_formats(folder, kinds, columns, formats, asked):
    """Plain Keras, and the exported files, say of the documented meanings of cells what predict.py says of texts."""
    import keras
    import tensorflow as tf

    from harvest.model.export.formats import exported_probabilities

    model, names, raw = keras.models.load_model(folder / MODEL_FILE), {name.strip(): name for name in columns}, {}
    for name, tensor in model.input.items():
        cells = [[documented(tensor.dtype, cell)] for cell in columns[names[name]]]
        raw[name] = np.array(cells, object if tensor.dtype == "string" else tensor.dtype)
    tensors = {name: tf.constant(cells) for name, cells in raw.items()}
    np.testing.assert_allclose(model(tensors).numpy()[:, 0], asked, atol=1e-5, err_msg="plain Keras")
    if any(tensor.dtype == "int64" and kinds[name] == "number" for name, tensor in model.input.items()):
        # stamps: of other numbers model.predict takes only 32 bits
        np.testing.assert_allclose(model.predict(tensors, verbose=0)[:, 0], asked, atol=1e-5, err_msg="Keras' predict")
    for name in formats:
        found = exported_probabilities(name, folder / EXPORT_FILES[name], raw)
        np.testing.assert_allclose(found, asked, atol=1e-5, err_msg=name)
    return names.keys() & raw.keys()


def check(tmp_path, number, columns, flags, folds, quoted, files, chance):
    rows, folder = list(range(len(columns["productive"]))), tmp_path / "model"
    lines, paths = {}, []
    for place, part in enumerate(np.array_split(rows, files)):
        paths.append(tmp_path / f"{place}.csv")
        starts = write(paths[-1], columns, part.tolist(), quoted)
        lines |= {(paths[-1].name, line): row for line, row in zip(starts, part.tolist(), strict=True)}
    formats = FORMATS if number % 3 == 0 else [FORMATS[number % len(FORMATS)]]
    command = [*flags, "--model-dir", folder, *QUICK, "--folds", folds]
    code, errors = quietly(train_model_modern.main, *paths, *command, "--export", *formats)
    if code == 2:
        assert errors.startswith("error: ") and errors.count("\n") == 1, errors
        return errors
    assert code == 0, errors
    asked = predicted(folder, columns, rows, quoted, tmp_path)
    model = script.load(folder)
    check_frames(model, tmp_path / "asked.csv", asked)
    reported = [(lines[row.get("file", "0.csv"), int(row["line"])], row) for row in predictions_of(folder)]
    check_training_rows(model, tmp_path / "asked.csv", {row for row, _ in reported} if folds == 1 else set())
    assert all(columns["productive"][row] == found["label"] for row, found in reported)
    if folds == 1:  # with folds each tested row is reported by one network, and predicted by all
        found, expected = zip(*((float(found["probability"]), asked[row]) for row, found in reported), strict=True)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg="training")
    used = check_formats(folder, model.details.kinds, columns, formats, asked)
    # the order of rows and columns, and columns that the model does not use, change nothing
    chance.shuffle(rows)
    used = [name for name in columns if name.strip() in used]
    chance.shuffle(used)
    other = {name: columns[name] for name in used} | {"more": columns["productive"]}
    found = predicted(folder, other, rows, not quoted, tmp_path)
    np.testing.assert_allclose(found, asked[rows], atol=1e-5, err_msg="another order")
    if number % 4 == 0:  # nor do they in training
        shuffled = {name: columns[name] for name in sorted(columns, key=lambda name: chance.random())}
        write(tmp_path / "other.csv", shuffled, rows, not quoted)
        code, errors = quietly(train_model_modern.main, tmp_path / "other.csv", *command)
        assert code == 0, errors
        found = predicted(folder, columns, list(range(len(rows))), quoted, tmp_path)
        np.testing.assert_allclose(found, asked, atol=1e-5, err_msg="training in another order")
    return ""


def some_slow(cases, quick):
    return [case if number < quick else pytest.param(case, marks=pytest.mark.slow) for number, case in enumerate(cases)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(TABLES))
def test_a_cell_means_the_same_everywhere(tmp_path, seed):
    chance = random.Random(seed)
    words = check(tmp_path, seed, *make_table(chance), chance)
    assert not words or any(reason in words for reason in REFUSED), words


def spread(low, high):
    return lambda chance: repr(10 ** chance.uniform(low, high))


NUMERIC = ["--numeric", "x"]  # or it is left out, as a time
FINDINGS = {  # how cells are drawn, what makes a row productive, flags
    "booleans in capitals": (lambda chance: chance.choice(["TRUE", "FALSE"]), lambda cell: cell == "TRUE", []),
    "booleans": (lambda chance: chance.choice(["true", "false"]), lambda cell: cell == "true", []),
    "prices as categories": (
        lambda chance: chance.choice(["1.10", "2.50", "3.00"]),
        lambda cell: cell != "2.50",
        ["--categorical", "x"],
    ),
    "exponents as categories": (
        lambda chance: chance.choice(["1e5", "100000", "2"]),
        lambda cell: cell == "1e5",
        ["--categorical", "x"],
    ),
    "zip codes": (
        lambda chance: chance.choice(["01234", "1234"]),
        lambda cell: cell == "01234",
        ["--categorical", "x"],
    ),
    "long ids beside a real": (
        lambda chance: chance.choice(["123456789012345678", "123456789012345679", "5.0"]),
        lambda cell: cell[-1] == "9",
        ["--categorical", "x"],
    ),
    "ids of 64 bits": (
        lambda chance: str(2**63 - 1 - chance.randrange(4)),
        lambda cell: int(cell) % 2,
        ["--categorical", "x"],
    ),
    "ids and words": (
        lambda chance: chance.choice(["7", "8", "web"]),
        lambda cell: cell == "7",
        ["--categorical", "x"],
    ),
    "a line feed": (lambda chance: chance.choice(["a\nb", "a b", "a\r\nb"]), lambda cell: cell == "a\nb", []),
    "beyond 32 bits": (spread(30, 38.5), lambda cell: float(cell) > 1e35, []),
    "control signs": (lambda chance: chance.choice(["\x01", "\x02", "[UNK]"]), lambda cell: cell == "\x01", []),
    "a stamp": (lambda chance: str(1_700_000_000 + chance.randrange(91)), lambda cell: int(cell) % 1000 > 45, NUMERIC),
    "a stamp with fractions": (
        lambda chance: f"{1.7e9 + chance.random():.3f}",
        lambda cell: float(cell) % 1 > 0.5,
        NUMERIC,
    ),
    "tiny": (lambda chance: repr(chance.uniform(0, 2e-8)), lambda cell: float(cell) > 1e-8, []),
    "tiny decades": (spread(-12, -4), lambda cell: float(cell) > 1e-8, []),
    "negative decades": (lambda chance: "-" + spread(-3, 9)(chance), lambda cell: float(cell) > -1e3, []),
}


@pytest.mark.parametrize("case", some_slow(FINDINGS, 1))
def test_a_column_that_decides_the_label_decides_every_prediction(tmp_path, case):
    draw, decides, flags = FINDINGS[case]
    chance = random.Random(4)
    cells = [draw(chance) for _ in range(240)]
    columns = {
        "x": cells,
        "y": [str(chance.randrange(100)) for _ in cells],
        "productive": [str(int(bool(decides(cell)))) for cell in cells],
    }
    rows, folder = list(range(240)), tmp_path / "model"
    lines = write(tmp_path / "a.csv", columns, rows, False)
    command = [*QUICK, "--epochs", "60", *flags, "--model-dir", folder]
    code, errors = quietly(train_model_modern.main, tmp_path / "a.csv", *command)
    assert code == 0, errors
    found = predicted(folder, columns, rows, True, tmp_path)
    label = np.array([int(cell) for cell in columns["productive"]])
    assert np.mean((found >= 0.5) == label) > 0.9
    reported = {lines.index(int(row["line"])): float(row["probability"]) for row in predictions_of(folder)}
    np.testing.assert_allclose(list(reported.values()), found[list(reported)], atol=1e-5)


def write_numbers(path):
    write(path, NUMBERS, list(range(60)), False)


NUMBERS = {"x": [str(number) for number in range(60)], "productive": ["0", "1"] * 30}


@pytest.mark.parametrize(
    "cell", ["1e39", "-1e308", "1e999", "inf", "-Infinity", "nan", "TRUE", "1_000", "0x1F", "1e", "٣"]
)
def test_what_is_no_number_is_refused_alike(tmp_path, trained, cell):
    folder = trained("--numeric", "x", write=write_numbers)
    columns = NUMBERS | {"x": [*NUMBERS["x"][:20], cell, *NUMBERS["x"][21:]]}
    write(tmp_path / "a.csv", columns, list(range(60)), False)
    for command, flags in (
        (train_model_modern.main, ["--numeric", "x", "--model-dir", tmp_path / "model"]),
        (train_model_modern.main, ["--describe", "--numeric", "x"]),
        (script.main, ["--model-dir", folder]),
    ):
        code, errors = quietly(command, tmp_path / "a.csv", *flags)
        assert code == 2 and "line 22, column x" in errors and errors.count("\n") == 1, errors


def test_white_space_lines_of_one_column(tmp_path, trained, predict):
    folder = trained("--numeric", "x", write=write_numbers)
    (tmp_path / "a.csv").write_text("x\n0.5\n \n0.7\n\n")
    code, out, _ = predict(tmp_path / "a.csv", "--model-dir", folder)
    assert code == 0 and len(out.splitlines()) == 4
