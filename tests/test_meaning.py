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

import export_model
import predict
import train_model_modern as modern

REFUSED = [
    "no column is left",
    "at least 5 are needed",
    "rows are all of one class",
]  # what a table of odd columns may rightly be
TABLES = int(os.environ.get("TABLES", "20"))  # make soak: 300
FORMATS = list(modern.EXPORTS)

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
            kind == "text" and sum(np.isfinite(modern.cell_number(cell)) for cell in cells) >= 0.3 * rows
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
    write(tmp_path / "asked.csv", columns, rows, quoted)
    code, errors = quietly(
        predict.main, tmp_path / "asked.csv", "--model-dir", folder, "--output", tmp_path / "answer.csv"
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
    except modern.UserError as error:
        assert "read the table with dtype=str" in str(error)
    else:
        np.testing.assert_allclose(found[:, 1], asked, atol=1e-5, err_msg="a DataFrame")


def check_training_rows(model, path, tested):
    """predict.py knows all rows of a file that trained the model, and no others, by what their cells mean."""
    known, (chunk,) = predict.read_training_rows(model.path), predict.read_rows(str(path), model.details)
    hashes = predict.row_hashes(model.details, predict.model_inputs(model.model, model.details, chunk)[0])
    trained = [row for row in range(len(hashes)) if row not in tested]
    assert np.array_equal(np.unique(hashes[trained]), known.hashes)
    _, place, counts = np.unique(hashes[trained], return_inverse=True, return_counts=True)
    assert known.repeated == pytest.approx(np.mean(counts[place] > 1))


def check(tmp_path, number, columns, flags, folds, quoted, files, chance):
    import keras
    import tensorflow as tf

    rows, folder = list(range(len(columns["productive"]))), tmp_path / "model"
    parts = [part.tolist() for part in np.array_split(rows, files)]
    lines, paths = {}, []
    for place, part in enumerate(parts):
        paths.append(tmp_path / f"{place}.csv")
        lines |= {
            (paths[-1].name, line): row for line, row in zip(write(paths[-1], columns, part, quoted), part, strict=True)
        }
    exports = FORMATS if number % 3 == 0 else [FORMATS[number % len(FORMATS)]]
    command = [
        *flags,
        "--model-dir",
        folder,
        "--epochs",
        "3",
        "--quiet",
        "--no-tensorboard",
        "--no-checkpoints",
        "--folds",
        folds,
    ]
    code, errors = quietly(modern.main, *paths, *command, "--export", *exports)
    if code == 2:
        assert errors.startswith("error: ") and errors.count("\n") == 1, errors
        return errors
    assert code == 0, errors
    asked = predicted(folder, columns, rows, quoted, tmp_path)
    answering = predict.load(folder)
    check_frames(answering, tmp_path / "asked.csv", asked)
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        reported = list(csv.DictReader(file))
    tested = {lines[row.get("file", "0.csv"), int(row["line"])] for row in reported} if folds == 1 else set()
    check_training_rows(answering, tmp_path / "asked.csv", tested)
    if folds == 1:  # with folds each tested row is reported by one net, and predicted by all
        found = [asked[lines[row.get("file", "0.csv"), int(row["line"])]] for row in reported]
        np.testing.assert_allclose(
            [float(row["probability"]) for row in reported], found, atol=1e-5, err_msg="training"
        )
    assert all(
        columns["productive"][lines[row.get("file", "0.csv"), int(row["line"])]] == row["label"] for row in reported
    )
    model = keras.models.load_model(folder / modern.MODEL_FILE)
    names = {name.strip(): name for name in columns}
    raw = {}
    for name, tensor in model.input.items():
        kind = tensor.dtype
        raw[name] = np.array(
            [[documented(kind, cell)] for cell in columns[names[name]]], object if kind == "string" else kind
        )
    whole = {
        name
        for name, tensor in model.input.items()
        if tensor.dtype == "int64" and not name.endswith(" id") and name not in flags
    }
    tensors = {name: tf.constant(cells) for name, cells in raw.items()}
    np.testing.assert_allclose(model(tensors).numpy()[:, 0], asked, atol=1e-5, err_msg="plain Keras")
    if whole:  # stamps: model.predict rounds other numbers to 32 bits
        np.testing.assert_allclose(model.predict(tensors, verbose=0)[:, 0], asked, atol=1e-5, err_msg="Keras' predict")
    for name in exports:
        found = export_model.exported_probabilities(name, folder / modern.EXPORTS[name][0], raw)
        np.testing.assert_allclose(found, asked, atol=1e-5, err_msg=name)
    # the order of rows and columns, and columns that the model does not use, change nothing
    chance.shuffle(rows)
    used = [name for name in columns if name.strip() in raw]
    chance.shuffle(used)
    other = {name: columns[name] for name in used} | {"more": columns["productive"]}
    np.testing.assert_allclose(
        predicted(folder, other, rows, not quoted, tmp_path), asked[rows], atol=1e-5, err_msg="another order"
    )
    if number % 4 == 0:  # nor do they in training
        write(
            tmp_path / "other.csv",
            {name: columns[name] for name in sorted(columns, key=lambda name: chance.random())},
            rows,
            not quoted,
        )
        code, errors = quietly(modern.main, tmp_path / "other.csv", *command)
        assert code == 0, errors
        np.testing.assert_allclose(
            predicted(folder, columns, list(range(len(rows))), quoted, tmp_path),
            asked,
            atol=1e-5,
            err_msg="training in another order",
        )
    return ""


@pytest.mark.parametrize("seed", range(TABLES))
def test_a_cell_means_the_same_everywhere(tmp_path, seed):
    chance = random.Random(seed)
    words = check(tmp_path, seed, *make_table(chance), chance)
    assert not words or any(reason in words for reason in REFUSED), words


def spread(low, high):
    return lambda chance: repr(10 ** chance.uniform(low, high))


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
    "a stamp": (lambda chance: str(1_700_000_000 + chance.randrange(91)), lambda cell: int(cell) % 1000 > 45, []),
    "a stamp with fractions": (lambda chance: f"{1.7e9 + chance.random():.3f}", lambda cell: float(cell) % 1 > 0.5, []),
    "tiny": (lambda chance: repr(chance.uniform(0, 2e-8)), lambda cell: float(cell) > 1e-8, []),
    "tiny decades": (spread(-12, -4), lambda cell: float(cell) > 1e-8, []),
    "negative decades": (lambda chance: "-" + spread(-3, 9)(chance), lambda cell: float(cell) > -1e3, []),
}


def test_numbers_too_small_to_be_inverted_are_scaled(tf):
    numbers = np.append(10.0 ** np.linspace(-322, -309, 100), 0.0)[:, None]
    scales = modern.fit_scales(numbers)
    assert scales.logarithmic.all() and np.isfinite(modern.scale_numbers(numbers, scales)).all()


@pytest.mark.parametrize("case", FINDINGS)
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
    code, errors = quietly(
        modern.main,
        tmp_path / "a.csv",
        *flags,
        "--model-dir",
        folder,
        "--folds",
        "1",
        "--epochs",
        "60",
        "--quiet",
        "--no-tensorboard",
    )
    assert code == 0, errors
    found = predicted(folder, columns, rows, True, tmp_path)
    label = np.array([int(cell) for cell in columns["productive"]])
    assert np.mean((found >= 0.5) == label) > 0.9
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        reported = {lines.index(int(row["line"])): float(row["probability"]) for row in csv.DictReader(file)}
    np.testing.assert_allclose(list(reported.values()), found[list(reported)], atol=1e-5)


@pytest.mark.parametrize(
    "cell", ["1e39", "-1e308", "1e999", "inf", "-Infinity", "nan", "TRUE", "1_000", "0x1F", "1e", "٣"]
)
def test_what_is_no_number_is_refused_alike(tmp_path, cell):
    columns = {"x": [str(place) for place in range(60)], "productive": ["0", "1"] * 30}
    write(tmp_path / "a.csv", columns, list(range(60)), False)
    code, errors = quietly(
        modern.main, tmp_path / "a.csv", "--numeric", "x", "--model-dir", tmp_path / "model", "--epochs", "2", "--quiet"
    )
    assert code == 0, errors
    columns["x"][20] = cell
    write(tmp_path / "a.csv", columns, list(range(60)), False)
    for command, flags in (
        (modern.main, ["--numeric", "x"]),
        (modern.main, ["--describe", "--numeric", "x"]),
        (predict.main, []),
    ):
        code, errors = quietly(command, tmp_path / "a.csv", "--model-dir", tmp_path / "model", *flags)
        assert code == 2 and "line 22, column x" in errors and errors.count("\n") == 1, errors


def read(path, *flags):
    return modern.read_table(modern.parse_options([str(path), *flags]))


@pytest.mark.parametrize("seed", range(30))
def test_kinds_do_not_depend_on_the_order_of_rows(tmp_path, monkeypatch, seed):
    """Also when the first rows, and whole chunks, hold nothing but empty cells, numbers, or 0 and 1."""
    monkeypatch.setattr(modern, "GUESS_ROWS", 8)
    monkeypatch.setattr(modern.read_chunks, "__defaults__", (16, False))
    chance = random.Random(seed)
    columns, flags, *_ = make_table(chance)
    count = len(columns["productive"])
    columns["late hash"] = [""] * (count - 12) + [str(chance.randrange(5)) for _ in range(12)]
    columns["late time"] = [""] * (count - 12) + [repr(chance.uniform(0, 1e4)) for _ in range(12)]
    columns["late flag"] = ["1"] * (count // 3) + ["TRUE"] * (count - count // 3)
    columns["late text"] = ["1"] * (count // 3) + ["word"] * (count - count // 3)
    columns["row"] = [str(place) for place in range(count)]
    rows, tables = list(range(count)), []
    for place in range(3):
        write(tmp_path / f"{place}.csv", columns, rows, chance.random() < 0.3)
        try:
            tables.append(read(tmp_path / f"{place}.csv", *flags))
        except modern.UserError as error:
            tables.append(str(error).split(": ", 1)[1])
        rows = chance.sample(rows, count) if place == 0 else rows[::-1]
    if isinstance(tables[0], str):
        assert tables[0] == tables[1] == tables[2]
        return
    for table in tables:
        kinds = {column.name: (column.kind, column.reason) for column in table.columns}
        assert (
            kinds["late hash"][0] == "category"
            and kinds["late time"] == ("number", "")
            and kinds["row"] == ("dropped", "a row number")
        )
        assert kinds["late text"] == kinds["late flag"] == ("category", "text")
        assert [vars(column) for column in table.columns] == [vars(column) for column in tables[0].columns]
        for name in ("numbers", "codes", "label"):
            np.testing.assert_array_equal(getattr(table, name), getattr(tables[0], name))
        for one, other in zip(table.scales, tables[0].scales, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_fast_reading_of_numbers_equals_the_slow_one(tmp_path):
    chance = random.Random(1)
    cells = [
        "nan",
        "NA",
        "inf",
        "1e39",
        "TRUE",
        "true",
        "1_0",
        "1e",
        ".",
        "+",
        "5.",
        ".5",
        "+5",
        "--5",
        "1E5",
        "1d5",
        "0x1F",
        "1e-400",
        "00012",
        "-0",
        "1f",
        "1 2",
        "+ 5",
    ]
    cells += ["".join(chance.choice("0123456789..eE+-  xnai") for _ in range(chance.randint(1, 8))) for _ in range(800)]
    compared = 0
    for cell in cells:
        write(tmp_path / "a.csv", {"x": [cell], "y": ["1"]}, [0], False)
        source = modern.find_source(str(tmp_path / "a.csv"), False)
        fast, again = modern.read_once([source], ["x"], set())
        if again:  # told to read it as text
            continue
        value = modern.cell_number(cell)
        np.testing.assert_allclose(fast["x"].values, [value], rtol=1e-15, err_msg=repr(cell))
        compared += 1
    assert compared > 100


def test_a_chunk_of_nothing_but_true_is_no_chunk_of_ones(tmp_path):
    columns = {"x": [""] * 5_100 + ["TRUE"] * 200, "productive": ["0", "1"] * 2_650}
    write(tmp_path / "a.csv", columns, list(range(5_300)), False)
    write(
        tmp_path / "b.csv",
        {"x": [str(place % 9 + 1) for place in range(400)], "productive": ["0", "1"] * 200},
        list(range(400)),
        False,
    )
    with pytest.raises(modern.UserError, match=r"lines 5102, 5103.*column x"):
        modern.read_table(modern.parse_options([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]))


def test_white_space_lines_of_one_column(tmp_path):
    columns = {"productive": ["0", "1"] * 30, "x": [str(place) for place in range(60)]}
    write(tmp_path / "train.csv", columns, list(range(60)), False)
    assert (
        quietly(
            modern.main,
            tmp_path / "train.csv",
            "--numeric",
            "x",
            "--model-dir",
            tmp_path / "model",
            "--epochs",
            "2",
            "--quiet",
        )[0]
        == 0
    )
    (tmp_path / "a.csv").write_text("x\n0.5\n \n0.7\n\n")
    code, errors = quietly(
        predict.main, tmp_path / "a.csv", "--model-dir", tmp_path / "model", "--output", tmp_path / "out.csv"
    )
    assert code == 0 and len((tmp_path / "out.csv").read_text().splitlines()) == 4, errors
