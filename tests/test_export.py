"""Exported models by their own runtimes, the model card, and what it says to other languages."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

import export_model
import train_model_modern as modern

FORMATS = ["saved_model", "litert", "onnx"]


def write_mixed(path, rows=120):
    """A file with every kind of input: gaps, text with gaps, integer ids with gaps, and awkward column names."""
    generator = np.random.default_rng(3)
    with open(path, "w", encoding="utf-8") as file:
        file.write("app id,Fenster (größe),idle time,class,scaled,probability,always,productive\n")
        for _ in range(rows):
            app, title = (
                generator.choice(["", "7", "-2147483648", "4294967295"]),
                generator.choice(["", "Büro", "it's \\ {web}", "c"]),
            )
            idle, small = generator.choice(["", "0", "1e-7", "250000", "-3.5"]), generator.random() * 1e-4
            size, stamp = generator.choice(["large", "small"]), generator.integers(2**40, 2**40 + 2**20)
            label = int(generator.random() < 0.3 + 0.4 * (app == "7"))
            file.write(f"{app},{title},{idle},{small:.8f},{size},{stamp},0,{label}\n")
    return path


def train(path, folder, *flags):
    return modern.main(
        [str(path), "--model-dir", str(folder), "--epochs", "4", "--folds", "1", "--quiet", *map(str, flags)]
    )


def strange_rows(table, count=1_000):
    """Raw rows of a table, some of their cells missing, some never seen in training."""
    generator = np.random.default_rng(0)
    rows = modern.raw_inputs(table, generator.integers(0, len(table.label), count))
    for name, cells in rows.items():
        missing, unseen = generator.random((2, count)) < 0.1
        numbers, integers = cells.dtype.kind == "f", cells.dtype.kind == "i"
        cells[missing] = np.nan if numbers else modern.MISSING if integers else ""
        cells[unseen] = 1e9 if numbers else 123456789012 if integers else "never seen"
        rows[name] = cells
    return rows


@pytest.mark.parametrize("folds", [1, 4])
@pytest.mark.parametrize("kind", ["v0", "mixed"])
def test_exports_say_what_the_model_says(tf, tmp_path, sample, folds, kind):
    import keras

    path = sample(150) if kind == "v0" else write_mixed(tmp_path / "mixed.csv")
    folder = tmp_path / "model"
    assert train(path, folder, "--export", *FORMATS, "--folds", folds) == 0
    rows = strange_rows(modern.read_table(modern.parse_options([str(path)])))
    tensors = {name: tf.constant(cells) for name, cells in rows.items()}
    expected = keras.models.load_model(folder / modern.MODEL_FILE)(tensors).numpy()[:, 0]
    assert len(np.unique(expected)) > 20
    for name in FORMATS:
        found = export_model.exported_probabilities(name, folder / modern.EXPORTS[name][0], rows)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
    assert not list(folder.glob("**/*.tmp"))


def test_the_card_is_right_about_the_exported_file(tf, tmp_path):
    import onnxruntime

    folder = tmp_path / "model"
    assert train(write_mixed(tmp_path / "mixed.csv"), folder, "--export", "onnx", "--threshold", "0.4") == 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    session = onnxruntime.InferenceSession(str(folder / "productivity_model.onnx"))
    assert session.get_modelmeta().custom_metadata_map == {"threshold": "0.4"}
    types = {"double": "tensor(double)", "long": "tensor(int64)", "string": "tensor(string)"}
    csharp = re.findall(r'CreateFromTensor\((".*?"), new DenseTensor<(\w+)>\(new\[\] \{ (.*) \}, shape\)\)', card)
    assert {json.loads(name): types[kind] for name, kind, _ in csharp} == {
        entry.name: entry.type for entry in session.get_inputs()
    }
    assert all(list(entry.shape)[1:] == [1] for entry in session.get_inputs())
    assert '"probability"' in card and session.get_outputs()[0].name == "probability"
    read = {
        "double": lambda text: np.float64("nan" if text == "double.NaN" else text),
        "long": lambda text: np.int64(text.rstrip("L")),
        "string": json.loads,
    }
    cells = {
        json.loads(name): np.array([[read[kind](value)]], object if kind == "string" else None)
        for name, kind, value in csharp
    }
    from_python, from_csharp = map(float, re.findall(r"these values give ([\d.]+)", card))
    assert session.run(None, cells)[0][0, 0] == pytest.approx(from_csharp, abs=1e-4)
    assert re.search(r"\| `app id` \| `input_\d_app_id` \| `app id` \|", card) and card.count("## Exported files") == 1
    assert re.search(r"\| `probability` \| `input_\d_probability` \| `input_probability` \|", card)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"{100 * metrics['test']['accuracy']:.1f} %" in card and "A probability of 0.4 or more counts as 1" in card
    program = (
        re.search(r"```python\n(.*?)```", card, re.DOTALL)
        .group(1)
        .replace("productivity_model.keras", str(folder / modern.MODEL_FILE))
    )
    names = {}
    exec(program, names)
    assert float(names["probability"][0, 0]) == pytest.approx(from_python, abs=1e-4)


def examples(card):
    """What the examples of a card in Python and in C# give, and the cells of both."""
    cells = re.findall(r"tf\.constant\(\[\[(.*)\]\], tf\.\w+\),", card)
    others = re.findall(r"new\[\] \{ (.*) \}, shape", card)
    return re.findall(r"these values give ([\d.]+)", card), cells, [cell.removesuffix("L") for cell in others]


def test_both_examples_of_a_card_are_of_one_row(tmp_path, capsys):
    folder = tmp_path / "model"
    assert train(write_mixed(tmp_path / "mixed.csv"), folder, "--folds", 3) == 0
    assert export_model.main(["--model-dir", str(folder), "onnx"]) == 0
    (one, other), from_python, from_csharp = examples((folder / "README.md").read_text(encoding="utf-8"))
    nan = {"float('nan')": "double.NaN"}
    assert one == other and len(from_csharp) == 6
    assert [nan.get(cell, cell) for cell in from_python] == from_csharp
    capsys.readouterr()
    checkpoint = next((folder / "checkpoints").glob("*.keras"))
    assert export_model.main(["--model", str(checkpoint), "litert"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"Input      app id is called input_\d_app_id in SavedModel and LiteRT, app id in ONNX", lines[-1]
    )


def test_a_readme_of_the_users_own_is_left_alone(sample, tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    assert modern.main([str(sample(60)), "--model-dir", str(folder), "--epochs", "2"]) == 0
    assert (folder / "README.md").read_text() == "mine" and "a file of your own" in capsys.readouterr().out


def test_an_export_of_an_earlier_run_is_deleted_and_one_of_the_users_is_not(sample, tmp_path, capsys):
    path, folder = sample(60), tmp_path / "model"
    assert train(path, folder, "--export", "saved_model", "litert") == 0
    (folder / "productivity_model.onnx").write_bytes(b"mine")
    assert modern.main([str(path), "--model-dir", str(folder), "--epochs", "2", "--export", "litert"]) == 0
    told = capsys.readouterr().out
    saved, litert, onnx = (folder / modern.EXPORTS[name][0] for name in FORMATS)
    assert f"Export     {saved} of an earlier run is deleted; --export saved_model writes it again\n" in told
    assert not saved.exists() and litert.exists() and onnx.read_bytes() == b"mine"
    assert told.count("of an earlier run") == 1 and not list(folder.glob("**/*.tmp"))


def test_a_missing_package_is_told_before_training(sample, tmp_path, monkeypatch, capsys):
    known = modern.metadata_version
    monkeypatch.setattr(modern, "metadata_version", lambda name: "" if name == "onnx" else known(name))
    assert train(sample(60), tmp_path / "model", "--export", "onnx") == 2
    assert capsys.readouterr().err == "error: the format onnx needs onnx: pip install onnx\n"
    assert not (tmp_path / "model").exists()


def test_a_failed_export_keeps_the_model(sample, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no such operation")

    monkeypatch.setitem(export_model.WRITERS, "onnx", fail)
    folder = tmp_path / "model"
    assert train(sample(60), folder, "--export", "onnx", "litert") == 1
    told = "error: --export onnx failed (RuntimeError: no such operation); the model and its metrics are saved\n"
    assert capsys.readouterr().err == told
    assert (folder / "metrics.json").exists() and not (folder / "productivity_model.onnx").exists()
    assert (folder / "productivity_model.tflite").exists() and not list(folder.glob("**/*.tmp"))


def test_without_the_exporter_training_says_so_at_once(sample, tmp_path, run):
    alone = tmp_path / "train_model_modern.py"
    shutil.copy(ROOT / "train_model_modern.py", alone)
    sample(60)
    result = run(alone, "HARVEST.CSV", "--export", "onnx", cwd=tmp_path)
    words = "--export is done by export_model.py, which is not beside train_model_modern.py; put it there, or leave"
    assert result.returncode == 2 and result.stderr == f"error: {words} --export out\n" and not result.stdout
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("isolated", [False, True])
def test_the_command_exports_a_model_by_itself(sample, tmp_path, run, isolated):
    folder = tmp_path / "model"
    assert train(write_mixed(tmp_path / "mixed.csv"), folder) == 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    if isolated:
        command = [sys.executable, "-I", str(ROOT / "export_model.py"), *FORMATS]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    else:
        result = run("export_model.py", *FORMATS, cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    told = [
        rf"Export     model/{re.escape(modern.EXPORTS[name][0])}: probabilities of 1,000 generated rows"
        for name in FORMATS
    ]
    lines = result.stdout.splitlines()
    assert len(lines) == 4 and lines[3] == "Card       model/README.md"
    assert all(re.match(rf"{words} agree within \de-\d\d", line) for words, line in zip(told, lines, strict=False))
    extended = (folder / "README.md").read_text(encoding="utf-8")
    assert extended.startswith(card.rstrip() + "\n\n## Exported files\n")
    assert (
        export_model.main(["--model-dir", str(folder), "litert"]) == 0
    )  # the card keeps what it says of the ONNX file
    again = (folder / "README.md").read_text(encoding="utf-8")
    assert again.count("## Exported files") == 1 and again.endswith(extended[extended.index("From C#, ") :])
    assert all(modern.is_ours(folder / file) for file, _ in modern.EXPORTS.values())
    assert not list(folder.glob("**/*.tmp"))


def test_a_checkpoint_is_exported_beside_itself(tf, sample, tmp_path, capsys):
    import keras

    path, folder = sample(150), tmp_path / "model"
    assert train(path, folder) == 0
    before = (folder / "README.md").read_bytes()
    checkpoint = sorted((folder / "checkpoints").glob("*.keras"))[0]
    capsys.readouterr()
    assert export_model.main(["--model", str(checkpoint), *FORMATS]) == 0
    files = ", ".join(modern.EXPORTS[name][0] for name in FORMATS)
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"Written    from {checkpoint.name} into {checkpoint.parent}: {files}"
    rows = strange_rows(modern.read_table(modern.parse_options([str(path)])))
    expected = export_model.keras_probabilities(keras.models.load_model(checkpoint), rows)
    for name in FORMATS:
        found = export_model.exported_probabilities(name, checkpoint.parent / modern.EXPORTS[name][0], rows)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
    assert (folder / "README.md").read_bytes() == before and not (folder / "productivity_model.onnx").exists()


def changed_network(change):
    """build_network() with other hidden layers."""

    def build(inputs, architecture, momentum, adapt=lambda layer: layer, hidden_type="float32", prefix=""):
        from keras import layers

        hidden = inputs
        for number, layer in enumerate(change(layers)):
            layer.name = f"{prefix}{type(layer).__name__.lower()}_{number}"
            hidden = adapt(layer)(hidden)
        nonlinear = adapt(layers.Dense(1, kernel_initializer="zeros", name=f"{prefix}from_hidden"))(hidden)
        linear = adapt(layers.Dense(1, use_bias=False, name=f"{prefix}from_inputs"))(inputs)
        return layers.Add(name=f"{prefix}logit")([nonlinear, linear])

    return build


NETWORKS = {
    "gelu": lambda layers: [layers.Dense(9, "gelu"), layers.BatchNormalization(scale=False), layers.Dense(4, "silu")],
    "noise": lambda layers: [layers.Dense(6, "mish"), layers.GaussianNoise(0.1), layers.BatchNormalization()],
    "normalized": lambda layers: [
        layers.BatchNormalization(),
        layers.Dense(6),
        layers.LayerNormalization(),
        layers.Activation("tanh"),
    ],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_changed_network_is_exported_too(sample, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(modern, "build_network", changed_network(NETWORKS[name]))
    code = train(sample(100), tmp_path / "model", "--export", *FORMATS, "--folds", 3)
    assert (code, capsys.readouterr().err) == (0, "")
    assert export_model.main(["--model-dir", str(tmp_path / "model"), *FORMATS]) == 0


def test_what_onnx_cannot_hold_is_named(sample, tmp_path, monkeypatch, capsys):
    unknown = changed_network(lambda layers: [layers.Dense(6, "relu6"), layers.BatchNormalization()])
    monkeypatch.setattr(modern, "build_network", unknown)
    folder = tmp_path / "model"
    assert train(sample(60), folder, "--export", *FORMATS) == 1
    reason = "onnx cannot hold the layer dense_0 (Dense, relu6)"
    assert capsys.readouterr().err.startswith(f"error: --export onnx failed ({reason}); the model")
    assert [modern.is_ours(folder / modern.EXPORTS[name][0]) for name in FORMATS] == [True, True, False]


def test_a_format_that_gives_other_probabilities_is_not_kept(sample, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    assert train(sample(60), folder, "--export", "onnx") == 0
    before = (folder / "productivity_model.onnx").read_bytes()
    monkeypatch.setitem(export_model.RULES, "Clip", lambda graph, layer, kind, name: graph.add("Neg", name))
    assert export_model.main(["--model-dir", str(folder), "onnx"]) == 1
    assert re.search(r"onnx failed \(its probabilities differ by up to [\d.]+\)\n", capsys.readouterr().err)
    assert (folder / "productivity_model.onnx").read_bytes() == before and not list(folder.glob("*.tmp"))


def test_the_command_refuses_what_is_not_its_own(sample, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    assert export_model.main(["--model-dir", str(folder), "onnx"]) == 2
    assert "not found; train a model first" in capsys.readouterr().err and not folder.exists()
    assert train(sample(60), folder) == 0
    (folder / "productivity_model.onnx").write_bytes(b"mine")
    (folder / "README.md").write_text("mine too")
    assert export_model.main(["--model-dir", str(folder), "saved_model", "onnx"]) == 2
    assert "productivity_model.onnx: was not written by this program" in capsys.readouterr().err
    assert not (folder / "productivity_model_saved_model").exists()
    assert export_model.main(["--model-dir", str(folder), "litert"]) == 0
    assert (folder / "productivity_model.onnx").read_bytes() == b"mine"
    assert (folder / "README.md").read_text() == "mine too" and not list(folder.glob("*.tmp"))
    assert export_model.main(["--model-dir", str(folder), "pmml"]) == 2
    monkeypatch.setattr(modern, "metadata_version", lambda name: "")
    assert export_model.main(["--model-dir", str(folder), "litert"]) == 2
    assert capsys.readouterr().err.endswith(
        "error: the format litert needs ai-edge-litert: pip install ai-edge-litert\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_written(sample, tmp_path, number):
    folder = tmp_path / "model"
    assert train(sample(60), folder) == 0
    there = sorted(folder.iterdir())
    command = [sys.executable, str(ROOT / "export_model.py"), "--model-dir", str(folder), *FORMATS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not list(folder.glob("*.tmp")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    assert "stopped: " in process.communicate(timeout=120)[1] and process.returncode == 128 + number
    assert sorted(folder.iterdir()) == there


@pytest.mark.parametrize("kind", ["a narrow cluster among decades", "tiny numbers", "times in seconds"])
def test_exports_agree_on_columns_that_32_bits_hold_badly(tf, tmp_path, kind):
    generator, lines = np.random.default_rng(0), []
    for _ in range(200):
        if kind == "tiny numbers":
            x = 10.0 ** generator.uniform(-300, -290)
            label = x > 1e-295
        else:
            x = 1_700_000_000 + generator.integers(0, 86_400) + (0.5 if kind != "times in seconds" else 0)
            label = x % 86_400 > 43_200
            x = x if generator.random() < 0.9 or kind == "times in seconds" else generator.integers(1, 100)
        lines.append(f"{x!r},{int(label)}".replace("np.float64(", "").replace("np.int64(", "").replace(")", ""))
    path, folder = tmp_path / "a.csv", tmp_path / "model"
    path.write_text("x,productive\n" + "\n".join(lines) + "\n")
    assert train(path, folder, "--export", *FORMATS, "--learning-rate", "0.01") == 0
    model = export_model.load(folder / modern.MODEL_FILE)[0]
    cells = (
        10.0 ** generator.uniform(-320, 38, 2_000)
        if kind == "tiny numbers"
        else 1.7e9 + generator.uniform(0, 9e4, 2_000)
    )
    rows = {"x": cells.astype(model.input["x"].dtype)[:, None]}
    expected = export_model.keras_probabilities(model, rows)
    assert len(np.unique(expected)) > 500 or kind == "tiny numbers"
    for name in FORMATS:
        found = export_model.exported_probabilities(name, folder / modern.EXPORTS[name][0], rows)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
