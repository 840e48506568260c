"""predict.py: what it says of rows that trained the model, and how it answers DataFrames."""

import csv
import json
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from test_export import write_mixed

import predict
import train_model_modern as modern


def train(path, folder, *flags):
    return modern.main([str(path), "--model-dir", str(folder), "--epochs", "5", "--quiet", *map(str, flags)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with a file of 240 rows, and models of one net and of three nets trained on it."""
    place = tmp_path_factory.mktemp("predict")
    modern.write_sample(place / "a.csv", 240, 1)
    assert train(place / "a.csv", place / "one", "--folds", 1) == 0
    assert train(place / "a.csv", place / "three", "--folds", 3, "--no-checkpoints") == 0
    return place


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """The same with a file of every kind of input."""
    place = tmp_path_factory.mktemp("mixed")
    assert train(write_mixed(place / "a.csv"), place / "model", "--folds", 3, "--no-checkpoints") == 0
    return place


def evaluated(path, model, capsys, tmp_path):
    """What --evaluate prints."""
    where = ["--model-dir" if model.is_dir() else "--model", str(model)]
    assert predict.main([str(path), *where, "--evaluate", "--output", str(tmp_path / "answers.csv")]) == 0
    (tmp_path / "answers.csv").unlink()
    return capsys.readouterr().err.splitlines()


def score(lines, name, place):
    (line,) = [line for line in lines if line.startswith(f"  {name} ")]
    return float(re.findall(r"(\d\.\d{3})  \d\.\d{3} to", line)[place])


def rewritten(path, rows, chance):
    """The rows in another order of rows and columns, the cells spelled in other ways that mean the same."""
    with open(path, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    table = [table[place] for place in chance.permutation(rows)]
    columns = [str(name) for name in chance.permutation([*table[0]])]
    other = path.with_name("other.csv")
    with open(other, "w", encoding="utf-8") as file:
        file.write(",".join(["note", *columns]) + "\n")
        for row in table:
            cells = [f" {row[name]}.0" if name != "productive" else row[name] for name in columns]
            file.write(",".join(['"a, b"', *cells]) + "\n")
    return other


def test_rows_that_trained_the_model_are_told_and_the_result_without_them_is_that_of_the_test(folder, capsys, tmp_path):
    test = json.loads((folder / "one" / "metrics.json").read_text())["test"]
    for path in (folder / "a.csv", rewritten(folder / "a.csv", 240, np.random.default_rng(1))):
        told, title, *lines = evaluated(path, folder / "one", capsys, tmp_path)
        assert told == "note: 204 of these 240 rows were used to train this model, so the result is too optimistic"
        assert re.fullmatch(r"240 rows, 95 % intervals +36 rows not used in training", title)
        for name in ("accuracy", "precision", "recall", "roc_auc", "pr_auc", "log_loss"):
            assert score(lines, name, 1) == pytest.approx(test[name], abs=5.1e-4)
        assert score(lines, "accuracy", 0) != score(lines, "accuracy", 1)


def test_new_rows_are_told_from_those_that_trained(folder, capsys, tmp_path):
    new = tmp_path / "new.csv"
    modern.write_sample(new, 100, 2)
    lines = evaluated(new, folder / "three", capsys, tmp_path)
    assert lines[:2] == [
        "note: there is no sign that these rows were used to train this model",
        "100 rows, 95 % intervals",
    ]
    header, *rows = (folder / "a.csv").read_text().splitlines()
    own = new.read_text().splitlines()
    new.write_text("\n".join([header, *rows[:168], *own[1:73]]) + "\n")
    told, title, *_ = evaluated(new, folder / "three", capsys, tmp_path)
    assert told.startswith("note: 168 of these 240 rows were used to train this model") and title.endswith(
        "72 rows not used in training"
    )
    new.write_text("\n".join([header, *rows[:168], *own[1:6]]) + "\n")
    told, title, *_ = evaluated(new, folder / "three", capsys, tmp_path)
    assert "the 5 that did not are too few to test on" in told and title == "173 rows, 95 % intervals"
    told, title, *_ = evaluated(folder / "a.csv", folder / "three", capsys, tmp_path)
    assert (
        told.startswith("note: all of these 240 rows were used to train this model")
        and "none is left to test on" in told
    )
    assert title == "240 rows, 95 % intervals"


def test_a_checkpoint_tells_them_too(folder, capsys, tmp_path):
    checkpoint = next((folder / "one" / "checkpoints").iterdir())
    told, *_ = evaluated(folder / "a.csv", checkpoint, capsys, tmp_path)
    assert told.startswith("note: 204 of these 240 rows were used to train this model")


def test_of_many_rows_a_sample_is_kept(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "KEPT_HASHES", 400)
    modern.write_sample(tmp_path / "many.csv", 4_000, 3)
    assert train(tmp_path / "many.csv", tmp_path / "model", "--folds", 1, "--epochs", 2) == 0
    with zipfile.ZipFile(tmp_path / "model" / modern.MODEL_FILE) as archive:
        assert 300 * 8 < archive.getinfo(predict.ROWS_ENTRY).file_size < 500 * 8
    told, title, *_ = evaluated(tmp_path / "many.csv", tmp_path / "model", capsys, tmp_path)
    share = int(re.match(r"note: about (\d+) % of these 4,000 rows were used to train this model", told).group(1))
    others = int(re.search(r"(\d+) rows not used in training", title).group(1))
    assert 78 <= share <= 92 and 40 <= others <= 100  # 85 % are trained on, one row in 8.5 is looked at
    with zipfile.ZipFile(tmp_path / "model" / modern.MODEL_FILE) as archive:
        bound = int(np.frombuffer(archive.read(predict.ROWS_ENTRY)[:8], "<u8")[0])
    assert bound == 400 * 2**64 // 3_400


def test_new_rows_of_a_table_whose_rows_repeat_are_no_news(capsys, tmp_path):
    def write(name, rows, seed):
        generator = np.random.default_rng(seed)
        lines = ["hour,app,productive"]
        for _ in range(rows):
            hour, app = generator.integers(0, 24), generator.choice(["code", "web", "mail", "chat"])
            lines.append(f"{hour},{app},{int(generator.random() < (0.8 if app == 'code' else 0.3))}")
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    assert train(write("a.csv", 300, 1), tmp_path / "model", "--folds", 3) == 0
    lines = evaluated(write("b.csv", 100, 2), tmp_path / "model", capsys, tmp_path)
    assert lines[:2] == [
        "note: there is no sign that these rows were used to train this model",
        "100 rows, 95 % intervals",
    ]


def test_models_without_the_rows_and_with_damaged_ones(folder, capsys, tmp_path):
    good, changed = folder / "one" / modern.MODEL_FILE, tmp_path / "changed.keras"
    with zipfile.ZipFile(good) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    rows = entries.pop(predict.ROWS_ENTRY)
    numbers = np.frombuffer(rows, "<u8")
    damaged = [b"", rows[:20], rows[:-1], numbers[::-1].tobytes(), rows + rows[-8:]]
    for content in (None, *damaged):
        with zipfile.ZipFile(changed, "w") as archive:
            for name, part in entries.items():
                archive.writestr(name, part)
            if content is not None:
                archive.writestr(predict.ROWS_ENTRY, content)
        if content is None:
            told, title, *_ = evaluated(folder / "a.csv", changed, capsys, tmp_path)
            assert "is not known" in told and title == "240 rows, 95 % intervals"
            continue
        assert predict.main([str(folder / "a.csv"), "--model", str(changed), "--evaluate"]) == 2
        printed = capsys.readouterr()
        words = "what it tells of its training rows is damaged; train the model again"
        assert printed.err == f"error: {changed}: {words}\n" and not printed.out


def test_a_model_may_be_as_large_as_its_file(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(predict, "MAXIMUM_MODEL_BYTES", 1_000)
    path, good = str(folder / "a.csv"), folder / "one" / modern.MODEL_FILE
    assert predict.main([path, "--model", str(good)]) == 0
    with zipfile.ZipFile(good) as archive, zipfile.ZipFile(tmp_path / "b.keras", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    assert predict.main([path, "--model", str(tmp_path / "b.keras")]) == 2
    assert "unpacks to more than" in capsys.readouterr().err


def test_a_replaced_output_is_told(folder, capsys, tmp_path):
    command = [str(folder / "a.csv"), "--model-dir", str(folder / "one"), "--output", str(tmp_path / "out.csv")]
    assert predict.main(command) == 0 and capsys.readouterr().err == ""
    before = (tmp_path / "out.csv").read_bytes()
    (tmp_path / "out.csv").write_text("of the user's own")
    assert predict.main(command) == 0
    assert capsys.readouterr().err == f"note: replaced {tmp_path / 'out.csv'}\n"
    assert (tmp_path / "out.csv").read_bytes() == before


# ---------------------------------------------------------------------------------------------------------------------
# DataFrames


def answers(path, folder, tmp_path):
    out = tmp_path / "answers.csv"
    assert predict.main([str(path), "--model-dir", str(folder), "--output", str(out)]) == 0
    with open(out, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("flags", [{}, {"dtype": str, "keep_default_na": False}, {"dtype_backend": "numpy_nullable"}])
def test_rows_of_a_data_frame_are_answered_as_those_of_the_file(mixed, tmp_path, flags):
    told = answers(mixed / "a.csv", mixed / "model", tmp_path)
    expected = np.array([float(row["model_probability"]) for row in told])
    model, rows = predict.load(mixed / "model"), pd.read_csv(mixed / "a.csv", **flags)
    rows = rows.rename(columns=lambda name: f" {name}").sample(frac=1, random_state=1)
    found = model.predict_proba(rows)
    assert found.shape == (120, 2) and len(np.unique(found)) > 50 and list(model.classes_) == [0, 1]
    np.testing.assert_allclose(found[:, 1], expected[rows.index], atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    predicted = [int(row["predicted"]) for row in told]
    np.testing.assert_array_equal(model.predict(rows), np.array(predicted)[rows.index])
    assert model.predict_proba(rows[:0]).shape == (0, 2)


def test_missing_cells_of_a_data_frame(mixed, tmp_path):
    model = predict.load(mixed / "model" / modern.MODEL_FILE)
    rows = pd.read_csv(mixed / "a.csv", dtype=str, keep_default_na=False)[:4].astype(object)
    for place, missing in enumerate((None, np.nan, pd.NA, "")):
        rows.loc[place] = rows.loc[0]
        rows.loc[place, ["idle time", "app id", "Fenster (größe)"]] = missing
    found = model.predict_proba(rows)[:, 1]
    assert len({*found.tolist()}) == 1
    named = rows.drop(columns=["idle time", "app id"])  # training saw both missing
    np.testing.assert_array_equal(model.predict_proba(named)[:, 1], found)


def test_data_frames_that_would_be_misread_are_refused(mixed):
    model, rows = predict.load(mixed / "model"), pd.read_csv(mixed / "a.csv")
    for changed, words in (
        (rows.drop(columns="class"), "the table has no column class, which the model needs; columns are app id, "),
        (rows.assign(scaled=5), "column scaled is text to the model"),
        (rows.assign(scaled=True), "column scaled is text to the model"),
        (rows.assign(**{"app id": 1e18}), "column app id holds ids too long for floating point"),
        (rows.assign(**{"class": "many"}), "row 0, column class: 'many' is not a number"),
        (rows.assign(**{"class": np.inf}), "row 0, column class: 'inf' is not a number"),
        (pd.concat([rows, rows], axis=1), "the rows have two columns app id"),
    ):
        with pytest.raises(predict.UserError, match=re.escape(words)):
            model.predict_proba(changed)
    with pytest.raises(predict.UserError, match="not found; train a model first"):
        predict.load(mixed / "nowhere")


@pytest.mark.parametrize("loader", ["predict.load", "keras.models.load_model"])
def test_the_recipes_of_the_readme_answer_as_the_command_does(mixed, tmp_path, monkeypatch, loader):
    told = answers(mixed / "a.csv", mixed / "model", tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (recipe,) = (block for block in blocks if "new.csv" in block and loader in block)
    names = {}
    monkeypatch.chdir(mixed)
    exec(recipe.replace("new.csv", "a.csv"), names)
    np.testing.assert_allclose(names["probability"], [float(row["model_probability"]) for row in told], atol=1e-5)
    if loader == "predict.load":
        assert names["answer"].tolist() == [int(row["predicted"]) for row in told]
