"""Exported models by their own runtimes, the command that exports, and what the model card says of the files."""

import json
import re
import signal
import subprocess
import sys
import time
from importlib import metadata

import numpy as np
import pytest
from conftest import ROOT, metrics_of
from mixed_file import write_mixed
from table_files import read
from test_inference_model import mixed_table
from untrained import hidden_network, untrained

import export_model
from harvest.cli import UserError
from harvest.data.cells import MISSING, UNSEEN
from harvest.data.encoding import fit_scaler, raw_inputs
from harvest.model.export import example_inputs, example_row, require
from harvest.run_directory import EXPORT_FILES, MODEL_FILE, RunDirectory, export_file

FORMATS = ["saved_model", "litert", "onnx"]
EXPORTED = ("--export", *FORMATS)
SLOW = pytest.mark.slow


@pytest.fixture
def formats(tf):
    from harvest.model.export import formats

    return formats


def is_ours(folder, name):
    return RunDirectory(folder, training=False).is_ours(EXPORT_FILES[name])


def left_behind(folder):
    return [path.name for path in folder.rglob(".train_model_modern*")]


def strange_rows(table, count=1_000):
    """Raw rows of a table, some of their cells missing, some never seen in training."""
    generator = np.random.default_rng(0)
    rows = raw_inputs(
        table, fit_scaler(table, np.arange(len(table.label))), generator.integers(0, len(table.label), count)
    )
    for name, cells in rows.items():
        missing, unseen = generator.random((2, count)) < 0.1
        numbers, integers = cells.dtype.kind == "f", cells.dtype.kind == "i"
        cells[missing] = np.nan if numbers else MISSING if integers else ""
        cells[unseen] = 1e9 if numbers else 123456789012 if integers else "never seen"
        rows[name] = cells
    return rows


def check_agreement(formats, folder, path, rows):
    """All formats in a folder say of raw rows what a model file says."""
    import keras

    expected = formats.keras_probabilities(keras.models.load_model(path), rows)
    assert len(np.unique(expected)) > 20
    for name in FORMATS:
        found = formats.exported_probabilities(name, folder / export_file(name, path.name), rows)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)


MIXED = {"write": write_mixed}
TRAINED = [
    pytest.param(EXPORTED, {}, id="v0"),
    pytest.param((*EXPORTED, "--folds", "3", "--threshold", "0.4"), MIXED, id="mixed, 3 folds", marks=SLOW),
    pytest.param((*EXPORTED, "--folds", "4"), {}, id="v0, 4 folds", marks=SLOW),
    pytest.param(EXPORTED, MIXED, id="mixed", marks=SLOW),
]


@pytest.mark.parametrize("flags, table", TRAINED)
def test_exports_say_what_the_model_says(formats, trained, flags, table):
    folder = trained(*flags, **table)
    check_agreement(formats, folder, folder / MODEL_FILE, strange_rows(read(folder.parent / "HARVEST.CSV")))
    assert all(is_ours(folder, name) for name in FORMATS) and not left_behind(folder)


def test_lookups_in_litert_find_known_values_only(tf):
    """Also of 0, 1, 2, ..., which its converter would look up by their lower 32 bits."""
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    from harvest.model.export.tensorflow import find_index

    cells = np.array([MISSING, UNSEEN, 0, 1, 2, 7, 2**32, 2**32 + 1, -1, -(2**32)], np.int64)[:, None]
    for known in ([0], [0, 1], [0, 1, 2], [1, 0], [0, 7], [MISSING, 0, 1]):
        spec = tf.TensorSpec([None, 1], tf.int64)
        find = tf.function(lambda cells, known=known: find_index(cells, known), input_signature=[spec])
        content = tf.lite.TFLiteConverter.from_concrete_functions([find.get_concrete_function()]).convert()
        interpreter = litert.Interpreter(model_content=content)
        given, found = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
        interpreter.resize_tensor_input(given, cells.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given, cells)
        interpreter.invoke()
        expected = [1 + known.index(cell) if cell in known else 0 for cell in cells[:, 0].tolist()]
        assert interpreter.get_tensor(found)[:, 0].tolist() == expected


@pytest.mark.slow
def test_the_card_is_right_about_the_exported_file(tf, trained):
    import onnxruntime

    folder = trained(*EXPORTED, "--folds", "3", "--threshold", "0.4", **MIXED)
    card = (folder / "README.md").read_text(encoding="utf-8")
    session = onnxruntime.InferenceSession(str(folder / EXPORT_FILES["onnx"]))
    assert session.get_modelmeta().custom_metadata_map == {"threshold": "0.4"}
    types = {"double": "tensor(double)", "long": "tensor(int64)", "string": "tensor(string)"}
    csharp = re.findall(r'CreateFromTensor\((".*?"), new DenseTensor<(\w+)>\(new\[\] \{ (.*) \}, shape\)\)', card)
    inputs = {entry.name: entry.type for entry in session.get_inputs()}
    assert {json.loads(name): types[kind] for name, kind, _ in csharp} == inputs
    assert all(list(entry.shape)[1:] == [1] for entry in session.get_inputs())
    assert '"probability"' in card and session.get_outputs()[0].name == "probability"
    parse = {
        "double": lambda text: np.float64("nan" if text == "double.NaN" else text),
        "long": lambda text: np.int64(text.rstrip("L")),
        "string": json.loads,
    }
    cells = {
        json.loads(name): np.array([[parse[kind](value)]], object if kind == "string" else None)
        for name, kind, value in csharp
    }
    from_python, from_csharp = map(float, re.findall(r"these values give ([\d.]+)", card))
    assert session.run(None, cells)[0][0, 0] == pytest.approx(from_csharp, abs=1e-4)
    assert from_python == from_csharp  # of one row: the example in metrics.json
    assert metrics_of(folder)["example"]["probability"] == pytest.approx(from_csharp, abs=1e-4)
    assert re.search(r"\| `app id` \| `input_\d_app_id` \| `app id` \|", card) and card.count("## Exported files") == 1
    assert re.search(r"\| `probability` \| `input_\d_probability` \| `input_probability` \|", card)


def test_both_examples_of_a_card_that_is_renewed_are_of_one_row(model_copy):
    folder = model_copy("--folds", "3", **MIXED)
    assert export_model.main(["--model-dir", str(folder), "onnx"]) == 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    one, other = re.findall(r"these values give ([\d.]+)", card)
    from_python = re.findall(r"tf\.constant\(\[\[(.*)\]\], tf\.\w+\),", card)
    from_csharp = [cell.removesuffix("L") for cell in re.findall(r"new\[\] \{ (.*) \}, shape", card)]
    nan = {"float('nan')": "double.NaN"}
    assert one == other and len(from_csharp) == 6
    assert [nan.get(cell, cell) for cell in from_python] == from_csharp


def test_an_example_survives_json():
    row = {
        "a": np.array([[np.nan]]),
        "b": np.array([[2.0]]),
        "c": np.array([[MISSING]]),
        "d": np.array([["ü"]], object),
    }
    assert example_row(row) == {"a": None, "b": 2.0, "c": MISSING, "d": "ü"}
    again = example_inputs(json.loads(json.dumps(example_row(row))))
    for name, cells in row.items():
        assert again[name].dtype == cells.dtype
        np.testing.assert_array_equal(again[name], cells)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"example": {"row": {"a": [1]}}}', '{"example": {"row": {"x": 1}}}']
)
def test_metrics_without_an_example_of_this_model(formats, tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    model = untrained(mixed_table()).model.model
    assert formats.read_example(tmp_path, model) is None
    assert formats.read_example(tmp_path / "nowhere", model) is None


def test_an_export_of_an_earlier_run_is_deleted_and_one_of_the_users_is_not(model_copy, train, capsys):
    folder = model_copy(*EXPORTED)
    onnx = folder / EXPORT_FILES["onnx"]
    onnx.write_bytes(b"mine")
    capsys.readouterr()
    path = folder.parent / "HARVEST.CSV"
    train("--no-quiet", "--export", "litert", csv=path, folder=folder)
    printed = capsys.readouterr().out
    saved = folder / EXPORT_FILES["saved_model"]
    assert (
        f"Export     {saved} deleted because it was from an earlier run; --export saved_model writes a new one\n"
        in printed
    )
    assert not saved.exists() and is_ours(folder, "litert") and onnx.read_bytes() == b"mine"
    assert printed.count("from an earlier run") == 1 and not left_behind(folder)


def hide_packages(monkeypatch, *hidden):
    """Let these packages seem not to be installed."""
    version = metadata.version

    def find(name):
        if name in hidden:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", find)


def test_a_missing_package_is_named_before_training(train, tmp_path, monkeypatch, capsys):
    hide_packages(monkeypatch, "onnx")
    require(["saved_model", "litert"])
    train("--export", "onnx", code=2)
    error = "error: the format onnx needs onnx and onnxruntime: pip install onnx onnxruntime\n"
    assert capsys.readouterr().err == error
    assert not (tmp_path / "model").exists()
    hide_packages(monkeypatch, "ai-edge-litert", "onnx", "onnxruntime")
    require(["saved_model"])
    with pytest.raises(UserError, match="the format onnx needs onnx and onnxruntime: pip install onnx onnxruntime"):
        require(["saved_model", "onnx", "litert"])


def test_a_failed_export_keeps_the_model(formats, train, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no such operation\nat line 7")

    monkeypatch.setitem(formats.WRITERS, "saved_model", fail)
    folder = train("--export", "onnx", "saved_model", rows=60, code=1)
    reason = "--export saved_model failed (RuntimeError: no such operation)"
    assert capsys.readouterr().err == f"error: {reason}; the model and its metrics are saved\n"
    assert (folder / "metrics.json").exists() and not (folder / EXPORT_FILES["saved_model"]).exists()
    assert is_ours(folder, "onnx") and not left_behind(folder)


# ---------------------------------------------------------------------------------------------------------------------
# The command


@pytest.mark.slow
def test_the_command_exports_a_model_by_itself(model_copy, monkeypatch, capsys):
    folder = model_copy("--folds", "3", **MIXED)
    monkeypatch.chdir(folder.parent)
    card = (folder / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert export_model.main(["onnx", "litert", "onnx"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert printed.err == "" and len(lines) == 3 and lines[-1] == "Card       model/README.md"
    for name, line in zip(["onnx", "litert"], lines, strict=False):
        words = rf"Export     model/{re.escape(EXPORT_FILES[name])}: probabilities of 1,001 rows"
        assert re.match(rf"{words} agree within \de-\d\d", line)
    extended = (folder / "README.md").read_text(encoding="utf-8")
    assert extended.startswith(card.rstrip() + "\n\n## Exported files\n")
    assert export_model.main(["litert"]) == 0  # the card keeps what it says of the ONNX file
    again = (folder / "README.md").read_text(encoding="utf-8")
    assert again.count("## Exported files") == 1 and again.endswith(extended[extended.index("From C#, ") :])
    assert is_ours(folder, "onnx") and is_ours(folder, "litert") and not left_behind(folder)
    assert RunDirectory(folder).is_ours("README.md")


@pytest.mark.slow
def test_a_checkpoint_is_exported_beside_itself(formats, model_copy, capsys):
    folder = model_copy("--checkpoints")
    before = (folder / "README.md").read_bytes()
    checkpoint = sorted((folder / "checkpoints").glob("*.keras"))[0]
    capsys.readouterr()
    assert export_model.main(["--model", str(checkpoint), *FORMATS]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    files = ", ".join(str(checkpoint.parent / export_file(name, checkpoint.name)) for name in FORMATS)
    assert last == f"Written    {files}"
    check_agreement(formats, checkpoint.parent, checkpoint, strange_rows(read(folder.parent / "HARVEST.CSV")))
    assert (folder / "README.md").read_bytes() == before and not (folder / EXPORT_FILES["onnx"]).exists()
    first = {path: path.stat().st_mtime_ns for path in checkpoint.parent.rglob(f"{checkpoint.stem}*")}
    other = checkpoint.with_name("model_99_0.5000.keras")
    other.write_bytes(checkpoint.read_bytes())
    other.with_suffix(".tflite").write_bytes(b"mine")
    assert export_model.main(["--model", str(other), "litert"]) == 2  # a file of the user's
    assert other.with_suffix(".tflite").read_bytes() == b"mine"
    assert export_model.main(["--model", str(other), "onnx"]) == 0
    assert other.with_suffix(".onnx").exists() and len(first) == 4
    assert {path: path.stat().st_mtime_ns for path in first} == first  # the exports of the first one are as they were
    run = RunDirectory(checkpoint.parent, training=False)
    assert all(run.is_ours(export_file(name, checkpoint.name)) for name in FORMATS)


def test_without_a_card_renamed_inputs_are_printed(model_copy, capsys):
    folder = model_copy("--folds", "3", **MIXED)
    (folder / "README.md").unlink()
    capsys.readouterr()
    assert export_model.main(["--model-dir", str(folder), "onnx"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Input      app id is named input_\d_app_id in SavedModel and LiteRT, app id in ONNX", last)
    assert not (folder / "README.md").exists()


def test_a_format_that_gives_other_probabilities_is_not_kept(tf, model_copy, monkeypatch, capsys):
    from harvest.model.export.onnx import RULES

    folder = model_copy(*EXPORTED)
    before = (folder / EXPORT_FILES["onnx"]).read_bytes()
    monkeypatch.setitem(RULES, "Clip", lambda graph, layer, dtype, name: graph.add("Neg", name))
    assert export_model.main(["--model-dir", str(folder), "onnx"]) == 1
    assert re.search(r"onnx failed \(its probabilities differ by up to [\d.]+\)\n", capsys.readouterr().err)
    assert (folder / EXPORT_FILES["onnx"]).read_bytes() == before and not left_behind(folder)


def test_the_command_refuses_what_is_not_its_own(model_copy, tmp_path, monkeypatch, capsys):
    nowhere = tmp_path / "nowhere"
    assert export_model.main(["--model-dir", str(nowhere), "onnx"]) == 2
    words = f"error: {nowhere}/productivity_model.keras: no such file; check the path, or train a model first\n"
    assert capsys.readouterr().err == words and not nowhere.exists()
    folder = model_copy()
    (folder / EXPORT_FILES["onnx"]).write_bytes(b"mine")
    (folder / "README.md").write_text("mine too")
    assert export_model.main(["--model-dir", str(folder), "saved_model", "onnx"]) == 2
    assert "productivity_model.onnx: was not written by this program" in capsys.readouterr().err
    assert not (folder / EXPORT_FILES["saved_model"]).exists()
    assert export_model.main(["--model-dir", str(folder), "litert"]) == 0
    assert (folder / EXPORT_FILES["onnx"]).read_bytes() == b"mine"
    assert (folder / "README.md").read_text() == "mine too" and not left_behind(folder)
    assert export_model.main(["--model-dir", str(folder), "pmml"]) == 2
    hide_packages(monkeypatch, "ai-edge-litert", "onnx", "onnxruntime")
    assert export_model.main(["--model-dir", str(folder), "litert"]) == 2
    words = "error: the format litert needs ai-edge-litert: pip install ai-edge-litert\n"
    assert capsys.readouterr().err.endswith(words)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_written(model_copy, number):
    folder = model_copy()
    there = sorted(folder.iterdir())
    command = [sys.executable, str(ROOT / "export_model.py"), "--model-dir", str(folder), *FORMATS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not left_behind(folder) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    assert "stopped: " in process.communicate(timeout=120)[1] and process.returncode == 128 + number
    assert sorted(folder.iterdir()) == there


# ---------------------------------------------------------------------------------------------------------------------
# Other networks and odd numbers, without training


def exported(formats, made, tmp_path, names, rows=None):
    with RunDirectory(tmp_path, names, training=False) as run:
        lines = []
        summary = formats.export(made.model.model, made.details, run, names, lines.append, rows)
        assert len(lines) == len(summary.formats)
        run.commit()
    return summary


def layers_named(*names):
    """Hidden layers by name: Dense, with its units and activation, or others without arguments."""
    from keras import layers

    made = {
        "no gamma": lambda: layers.BatchNormalization(scale=False),
        "no beta": lambda: layers.BatchNormalization(center=False),
        "noise": lambda: layers.GaussianNoise(0.1),
        "tanh": lambda: layers.Activation("tanh"),
        "layer": layers.LayerNormalization,
        "batch": layers.BatchNormalization,
    }
    return [made.get(name, lambda name=name: layers.Dense(6, name, name=f"dense_{name}")) for name in names]


NETWORKS = [
    ("gelu", "no gamma", "silu"),
    ("mish", "noise", "batch"),
    ("batch", "linear", "layer", "tanh"),
    ("relu", "elu", "selu", "no beta", "sigmoid", "softplus", "softsign"),
]


@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("names", [pytest.param(["onnx"], id="onnx"), pytest.param(FORMATS, id="all", marks=SLOW)])
@pytest.mark.parametrize("layers", NETWORKS, ids="-".join)
def test_a_changed_network_is_exported_too(formats, tmp_path, layers, names, folds):
    made = untrained(mixed_table(), folds, hidden_network(*layers_named(*layers)))
    summary = exported(formats, made, tmp_path, names, made.rows)
    assert summary.formats == names and summary.failures == []
    expected = formats.keras_probabilities(made.model.model, made.rows)
    assert summary.probability == pytest.approx(expected[0]) and summary.row == example_row(made.rows)
    for name in names:
        found = formats.exported_probabilities(name, tmp_path / EXPORT_FILES[name], made.rows)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)


def test_what_onnx_cannot_hold_is_named(formats, tmp_path):
    made = untrained(mixed_table(), 1, hidden_network(*layers_named("relu6", "batch")))
    summary = exported(formats, made, tmp_path, ["saved_model", "onnx"])
    assert summary.failures == ["--export onnx failed (onnx cannot represent the layer dense_relu6 (Dense, relu6))"]
    assert summary.formats == ["saved_model"] and not (tmp_path / EXPORT_FILES["onnx"]).exists()
    assert (tmp_path / EXPORT_FILES["saved_model"]).is_dir() and not left_behind(tmp_path)


@pytest.mark.parametrize("kind", ["a narrow cluster among decades", "tiny numbers", "times in seconds"])
def test_exports_agree_on_columns_that_32_bits_hold_badly(formats, tmp_path, kind):
    generator, lines = np.random.default_rng(0), []
    for _ in range(200):
        if kind == "tiny numbers":
            x = float(10.0 ** generator.uniform(-300, -290))
        elif kind == "times in seconds":
            x = int(1_700_000_000 + generator.integers(0, 86_400))
        elif generator.random() < 0.9:
            x = float(1_700_000_000.5 + generator.integers(0, 86_400))
        else:
            x = int(generator.integers(1, 100))
        lines.append(f"{x!r},{len(lines) % 2}")
    path = tmp_path / "a.csv"
    path.write_text("x,productive\n" + "\n".join(lines) + "\n")
    made = untrained(read(path, numeric=["x"]), spread=0.01)  # as small as those that are trained
    summary = exported(formats, made, tmp_path, FORMATS)
    assert summary.failures == []
    tiny = kind == "tiny numbers"
    cells = 10.0 ** generator.uniform(-320, 38, 2_000) if tiny else 1.7e9 + generator.uniform(0, 9e4, 2_000)
    rows = {"x": cells.astype(made.model.model.input["x"].dtype)[:, None]}
    expected = formats.keras_probabilities(made.model.model, rows)
    assert len(np.unique(expected)) > 500 or tiny
    for name in FORMATS:
        found = formats.exported_probabilities(name, tmp_path / EXPORT_FILES[name], rows)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
