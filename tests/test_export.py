"""Exported models by their own runtimes, the model card, and what it says to other languages."""

import json
import re

import numpy as np
import pytest

import train_model_modern as modern

FORMATS = ["saved_model", "litert", "onnx"]


def write_mixed(path, rows=120):
    """A file with every kind of input: gaps, text with gaps, integer ids with gaps, and awkward column names."""
    generator = np.random.default_rng(3)
    with open(path, "w", encoding="utf-8") as file:
        file.write("app id,Fenster (größe),idle time,class,always,productive\n")
        for _ in range(rows):
            app, title = (
                generator.choice(["", "7", "-2147483648", "4294967295"]),
                generator.choice(["", "Büro", "it's \\ {web}", "c"]),
            )
            idle, small = generator.choice(["", "0", "1e-7", "250000", "-3.5"]), generator.random() * 1e-4
            file.write(f"{app},{title},{idle},{small:.8f},0,{int(generator.random() < 0.3 + 0.4 * (app == '7'))}\n")
    return path


def train(path, folder, *flags):
    return modern.main([str(path), "--model-dir", str(folder), "--epochs", "4", "--quiet", *map(str, flags)])


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
        found = modern.exported_probabilities(tf, name, folder / modern.EXPORTS[name][0], rows)
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
    promised = float(re.search(r"these values give ([\d.]+)", card).group(1))
    assert session.run(None, cells)[0][0, 0] == pytest.approx(promised, abs=1e-4)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"{100 * metrics['test']['accuracy']:.1f} %" in card and "A probability of 0.4 or more counts as 1" in card
    program = (
        re.search(r"```python\n(.*?)```", card, re.DOTALL)
        .group(1)
        .replace("productivity_model.keras", str(folder / modern.MODEL_FILE))
    )
    names = {}
    exec(program, names)
    assert float(names["probability"][0, 0]) == pytest.approx(promised, abs=1e-4)


def test_a_readme_of_the_users_own_is_left_alone(sample, tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    assert modern.main([str(sample(60)), "--model-dir", str(folder), "--epochs", "2"]) == 0
    assert (folder / "README.md").read_text() == "mine" and "a file of your own" in capsys.readouterr().out


def test_an_export_of_an_earlier_run_is_told(sample, tmp_path, capsys):
    path, folder = sample(60), tmp_path / "model"
    assert train(path, folder, "--export", "saved_model") == 0
    assert modern.main([str(path), "--model-dir", str(folder), "--epochs", "2"]) == 0
    assert "is of an earlier run" in capsys.readouterr().out


def test_a_missing_package_is_told_before_training(sample, tmp_path, monkeypatch, capsys):
    known = modern.metadata_version
    monkeypatch.setattr(modern, "metadata_version", lambda name: "" if name == "onnx" else known(name))
    assert train(sample(60), tmp_path / "model", "--export", "onnx") == 2
    assert capsys.readouterr().err == "error: --export onnx needs onnx: pip install onnx\n"
    assert not (tmp_path / "model").exists()


def test_a_failed_export_keeps_the_model(sample, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(modern, "onnx_model", fail)
    assert train(sample(60), tmp_path / "model", "--export", "onnx") == 1
    assert "RuntimeError: no such operation" in capsys.readouterr().err
    assert (tmp_path / "model" / "metrics.json").exists() and not (
        tmp_path / "model" / "productivity_model.onnx"
    ).exists()
