"""predict.py: its answers, what it says of rows that trained the model, and DataFrames."""

import csv
import json
import re
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, metrics_of, write_rows
from mixed_file import write_mixed

import predict as script
from harvest.cli import UserError
from harvest.data.training_rows import ROUNDED_ENTRY, ROWS_ENTRY, KnownHashes, TrainingRows
from harvest.model import archive
from harvest.results.evaluate_file import UNKNOWN, evaluate_rows, split_seen
from harvest.run_directory import MODEL_FILE


@pytest.fixture
def one(trained):
    """A model of one network and the 240 rows it was trained on."""
    folder = trained("--checkpoints", rows=240)
    return folder, folder.parent / "HARVEST.CSV"


@pytest.fixture
def three(trained):
    folder = trained("--folds", "3", rows=240)
    return folder, folder.parent / "HARVEST.CSV"


@pytest.fixture
def mixed(trained):
    """A model of three networks and a file of every kind of input."""
    folder = trained("--folds", "3", write=write_mixed)
    return folder, folder.parent / "HARVEST.CSV"


def score(lines, name, column):
    (line,) = [line for line in lines if line.startswith(f"  {name} ")]
    return float(re.findall(r"(\d\.\d{3})  \d\.\d{3} to", line)[column])


def rewritten(path, other, generator):
    """The rows in another order of rows and columns, the cells spelled in other ways that mean the same."""
    with open(path, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    table = [table[row] for row in generator.permutation(len(table))]
    columns = [str(name) for name in generator.permutation([*table[0]])]
    lines = [",".join(["note", *columns])]
    for row in table:
        cells = [f" {row[name]}.0" if name != "productive" else row[name] for name in columns]
        lines.append(",".join(['"a, b"', *cells]))
    other.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return other


# ---------------------------------------------------------------------------------------------------------------------
# Rows that trained the model


@pytest.mark.parametrize("spelling", ["as it was", "otherwise"])
def test_rows_that_trained_are_known_and_the_result_without_them_is_that_of_the_test(one, predict, tmp_path, spelling):
    folder, path = one
    if spelling == "otherwise":
        path = rewritten(path, tmp_path / "other.csv", np.random.default_rng(1))
    code, out, err = predict(path, "--model-dir", folder, "--evaluate")
    first, title, *lines = err.splitlines()
    assert code == 0 and len(out.splitlines()) == 241
    assert first == "note: 204 of these 240 rows were used to train this model, so the result is too optimistic"
    assert re.fullmatch(r"240 rows, 95% intervals +36 rows not used in training", title)
    test = metrics_of(folder)["test"]
    for name in ("accuracy", "precision", "recall", "roc_auc", "pr_auc", "log_loss"):
        assert score(lines, name, 1) == pytest.approx(test[name], abs=5.1e-4)
    assert score(lines, "log_loss", 0) != score(lines, "log_loss", 1)


def test_new_rows_are_told_from_those_that_trained(three, predict, tmp_path):
    folder, path = three

    def notes(table):
        code, _, err = predict(table, "--model-dir", folder, "--evaluate")
        assert code == 0
        return err.splitlines()[:2]

    new = write_rows(tmp_path / "new.csv", 100, 2)
    header, *rows = path.read_text().splitlines()
    cells = [row.partition(",")[2] for row in new.read_text().splitlines()[1:]]
    own = [header, *(f"{row.partition(',')[0]},{more}" for row, more in zip(rows, cells, strict=False))]  # known apps
    new.write_text("\n".join(own) + "\n")
    unknown = "note: there is no sign that these rows were used to train this model"
    assert notes(new) == [unknown, "100 rows, 95% intervals"]
    new.write_text("\n".join([header, *rows[:168], *own[1:73]]) + "\n")
    first, title = notes(new)
    assert first.startswith("note: at least 168 of these 240 rows were used to train this model")
    assert "it is unknown whether the others were, because not all training rows" in first
    assert title == "240 rows, 95% intervals"
    new.write_text("\n".join([header, *rows, *own[1:73]]) + "\n")
    first, title = notes(new)
    assert first.startswith("note: 240 of these 312 rows were used to train this model")
    assert title.endswith("72 rows not used in training")
    new.write_text("\n".join([header, *rows, *own[1:6]]) + "\n")
    first, title = notes(new)
    advice = "to test on: see metrics.json for the out-of-sample test"
    assert f"the 5 others are too few {advice}" in first and title == "245 rows, 95% intervals"
    first, title = notes(path)
    assert first.startswith("note: all of these 240 rows were used to train this model")
    assert f"there are no others {advice}" in first and title == "240 rows, 95% intervals"


def test_a_checkpoint_knows_them_too(one, predict):
    folder, path = one
    checkpoint = next((folder / "checkpoints").glob("*.keras"))
    *_, err = predict(path, "--model", checkpoint, "--evaluate")
    assert err.startswith("note: 204 of these 240 rows were used to train this model")


def test_of_many_rows_a_sample_is_known():
    hashes = np.random.default_rng(0).integers(0, 2**63, 4_000, np.uint64) * np.uint64(2)
    bound = 2**64 // 8
    known = TrainingRows(KnownHashes(bound, 0.01, np.unique(hashes[:3_400][hashes[:3_400] < bound])))
    text, unseen = split_seen(known, hashes, hashes)
    share = int(re.match(r"about (\d+)% of these 4,000 rows were used to train", text).group(1))
    assert 78 <= share <= 92 and text.endswith("(by chance, 1% of new rows match a training row)")
    np.testing.assert_array_equal(unseen, (np.arange(4_000) >= 3_400) & (hashes < bound))


def test_new_rows_of_a_table_whose_rows_repeat_are_no_news():
    hashes = np.arange(100, dtype=np.uint64)
    exact = KnownHashes(2**64 - 1, 0.9, hashes[:80])
    alike = f"{UNKNOWN}: 80% match a training row, but new rows may match too: 90% of its training rows"
    assert split_seen(TrainingRows(exact), hashes, hashes) == (f"{alike} match another training row", None)
    known = TrainingRows(exact._replace(repeated=0.1))
    assert split_seen(known, hashes, hashes)[0].startswith("80 of these 100 rows")
    generator = np.random.default_rng(0)
    halves = (hashes[:50], hashes[50:])
    parts = [[(generator.random(50) < 0.5).astype(np.float32), generator.random(50), half, half] for half in halves]
    lines = evaluate_rows("a.csv", parts, TrainingRows(exact), 0.5)
    assert lines[0].startswith(f"note: {UNKNOWN}: 80% match") and lines[1] == "100 rows, 95% intervals"
    with pytest.raises(UserError, match=r"a\.csv: has no rows to evaluate"):
        evaluate_rows("a.csv", [[np.empty(0), np.empty(0), *[np.empty(0, np.uint64)] * 2]], known, 0.5)


def test_what_cannot_be_known_is_unknown():
    generator = np.random.default_rng(1)
    trained, new = generator.integers(0, 2**63, (2, 4_000), np.uint64) * np.uint64(2)
    whole = KnownHashes(2**64 - 1, 0.0, np.sort(trained))
    part = KnownHashes(2**64 // 100, 0.0, np.sort(trained[trained < 2**64 // 100]))
    known = TrainingRows(whole, whole)

    def said(known, exact, rounded=new, strange=()):
        return split_seen(known, exact, rounded, strange)[0]

    assert said(known, new) == "there is no sign that these rows were used to train this model"
    assert said(known, new[:3]) == said(known, new)  # each of them was looked for
    of_sample = (
        f"{UNKNOWN}: the model contains hashes of a sample of its training rows, which covers only 1 of these rows"
    )
    few = np.append(new[new >= 2**64 // 100][:100], new[new < 2**64 // 100][:1])
    assert said(TrainingRows(part, part), few) == of_sample
    assert said(TrainingRows(part, part), new) == said(known, new)
    assert (
        said(known._replace(stored=0.2), new)
        == f"{UNKNOWN}: the model contains hashes of only 20% of its training rows"
    )
    third = np.concatenate([trained[:1_000], new[:2_000]])
    text, unseen = split_seen(known._replace(stored=0.5), third, third)
    assert text.startswith("about 67% of these 3,000 rows were used") and unseen is None
    assert text.endswith("others were, because the model contains hashes of only 50% of its training rows")
    assert said(known, new, strange=["app"]).startswith(f"{UNKNOWN}: column app differs from training")
    some = np.concatenate([trained[:1_000], new[:500]])
    unknown = "it is unknown whether the others were, because"
    text, unseen = split_seen(known, some, some)
    assert text.startswith("at least 1,000 of these 1,500 rows were used") and unseen is None
    assert f"{unknown} not all training rows are in this file" in text
    strange = "column app differs from training, so training rows may not be recognized"
    assert said(known, some, strange=["app"]).endswith(f"{unknown} {strange}")
    both = np.concatenate([trained, new[:500]])  # all training rows, so the others are new
    text, unseen = split_seen(known, both, both)
    assert text.startswith("4,000 of these 4,500 rows were used") and "unknown" not in text and unseen.sum() == 500
    every = "about 100% of these 4,000 rows match training rows of this model, apart from rounding,"
    assert said(known, new, trained).startswith(every)
    some = "about 33% of these 3,000 rows match training rows of this model, apart from rounding,"
    assert said(known, new[:3_000], third).startswith(some)
    hidden = "training rows with numbers rounded since then would not be recognized"
    for rounded in (None, whole._replace(repeated=0.3)):
        text = f"none of these rows match a training row in every column; {hidden}"
        assert said(TrainingRows(whole, rounded), new, trained) == text
    by_chance = TrainingRows(whole, whole._replace(repeated=0.2))
    assert said(by_chance, new[:3_000], np.append(trained[:600], new[:2_400])) == said(known, new)
    assert said(None, new) == f"{UNKNOWN}: the model contains no hashes of its training rows"


def test_rows_that_repeat_are_counted():
    hashes, y_true = np.arange(40, dtype=np.uint64) // np.uint64(2), (np.arange(40) % 4 > 1).astype(np.float32)
    parts = [[y_true, np.linspace(0.1, 0.9, 40), hashes, hashes]]
    repeated = "note: 20 of the rows repeat an earlier row in every column, so the intervals are too narrow"
    assert evaluate_rows("a.csv", parts, None, 0.5)[-1] == repeated
    by_chance = TrainingRows(KnownHashes(2**64 - 1, 0.5, np.arange(100, 140, dtype=np.uint64)))
    assert "repeat" not in evaluate_rows("a.csv", parts, by_chance, 0.5)[-1]
    parts[0][0] = np.arange(40) % 2.0  # with another label
    assert "repeat" not in evaluate_rows("a.csv", parts, None, 0.5)[-1]


@pytest.mark.parametrize(
    ("label", "probability", "undefined"),
    [(1, 0.9, {"roc_auc", "pr_auc"}), (0, 0.9, {"recall", "roc_auc", "pr_auc"}), (None, 0.1, {"precision"})],
)
def test_what_the_rows_do_not_define_is_not_given(label, probability, undefined):
    y_true = np.arange(30) % 2 if label is None else np.full(30, label)
    parts = [[y_true.astype(np.float32), probability + 0.001 * np.arange(30), *[np.arange(30, dtype=np.uint64)] * 2]]
    lines = evaluate_rows("a.csv", parts, None, 0.5)
    names = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert set(names) == {"accuracy", "precision", "recall", "roc_auc", "pr_auc", "log_loss"}
    assert {name for name, values in names.items() if values == ["n/a"]} == undefined


def test_rounded_rows_are_recognised(one, predict, tmp_path):
    folder, path = one
    header, *rows = path.read_text().splitlines()
    cells = [row.split(",") for row in rows]
    rounded = [",".join([app, *(f"{float(cell):.3g}" for cell in numbers), label]) for app, *numbers, label in cells]
    other = tmp_path / "rounded.csv"
    other.write_text("\n".join([header, *rounded]) + "\n")
    code, _, err = predict(other, "--model-dir", folder, "--evaluate")
    share = int(
        re.match(r"note: about (\d+)% of these 240 rows match training rows of this model, apart from", err).group(1)
    )
    assert code == 0 and 60 < share <= 100 and "not used in training" not in err


def test_models_without_the_rows_and_with_damaged_ones(one, predict, tmp_path):
    folder, path = one
    with zipfile.ZipFile(folder / MODEL_FILE) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    rows, changed = entries.pop(ROWS_ENTRY), tmp_path / "changed.keras"
    entries.pop(ROUNDED_ENTRY)

    def call(**more):
        with zipfile.ZipFile(changed, "w") as file:
            for name, part in (entries | more).items():
                file.writestr(name, part)
        return predict(path, "--model", changed, "--evaluate")

    code, _, err = call()
    first, title, *_ = err.splitlines()
    assert code == 0 and "it is unknown" in first and title == "240 rows, 95% intervals"
    reverse = np.frombuffer(rows, "<u8")[::-1].tobytes()
    for content in (b"", rows[:20], rows[:-1], reverse, rows + rows[-8:]):
        words = "the hashes of its training rows are damaged; train the model again"
        assert call(**{ROWS_ENTRY: content}) == (2, "", f"error: {changed}: {words}\n")


def test_a_model_may_be_as_large_as_its_file(one, predict, monkeypatch, tmp_path):
    folder, path = one
    monkeypatch.setattr(archive, "MOST_BYTES", 1_000)
    assert predict(path, "--model", folder / MODEL_FILE)[0] == 0
    packed = tmp_path / "b.keras"
    with (
        zipfile.ZipFile(folder / MODEL_FILE) as file,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in file.namelist():
            target.writestr(name, file.read(name))
    code, _, err = predict(path, "--model", packed)
    assert code == 2 and "unpacks to more than" in err


def test_a_replaced_output_is_named(one, predict, tmp_path):
    folder, path = one
    output = tmp_path / "out.csv"
    command = (path, "--model-dir", folder, "--output", output)
    assert predict(*command) == (0, "", "")
    before = output.read_bytes()
    output.write_text("of the user's own")
    assert predict(*command) == (0, "", f"note: replaced {output}\n")
    assert output.read_bytes() == before


def test_the_output_of_a_stream_replaces_a_file_too(one, predict, tmp_path):
    folder, path = one
    output = tmp_path / "out.csv"
    output.write_text("old")
    code, out, err = predict("-", "--model-dir", folder, "--output", output, stdin=path.read_bytes())
    assert (code, out, err) == (0, "", f"note: replaced {output}\n") and len(output.read_text().splitlines()) == 241


# ---------------------------------------------------------------------------------------------------------------------
# DataFrames


def answers(predict, path, folder):
    code, out, _ = predict(path, "--model-dir", folder)
    assert code == 0
    return list(csv.DictReader(out.splitlines()))


@pytest.mark.parametrize("flags", [{}, {"dtype": str, "keep_default_na": False}, {"dtype_backend": "numpy_nullable"}])
def test_rows_of_a_data_frame_are_answered_as_those_of_the_file(mixed, predict, flags):
    folder, path = mixed
    found = answers(predict, path, folder)
    expected = np.array([float(row["model_probability"]) for row in found])
    predicted = np.array([int(row["predicted"]) for row in found])
    model, rows = script.load(folder), pd.read_csv(path, **flags)
    rows = rows.rename(columns=lambda name: f" {name}").sample(frac=1, random_state=1)
    pairs = model.predict_proba(rows)
    assert pairs.shape == (120, 2) and len(np.unique(pairs)) > 50 and list(model.classes_) == [0, 1]
    np.testing.assert_allclose(pairs[:, 1], expected[rows.index], atol=1e-6)
    np.testing.assert_allclose(pairs.sum(axis=1), 1)
    np.testing.assert_array_equal(model.predict(rows), predicted[rows.index])
    assert model.predict_proba(rows[:0]).shape == (0, 2)


def test_missing_cells_of_a_data_frame(mixed):
    folder, path = mixed
    model = script.load(folder / MODEL_FILE)
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)[:4].astype(object)
    for number, missing in enumerate((None, np.nan, pd.NA, "")):
        rows.loc[number] = rows.loc[0]
        rows.loc[number, ["idle time", "app id", "Fenster (größe)"]] = missing
    found = model.predict_proba(rows)[:, 1]
    assert len({*found.tolist()}) == 1
    named = rows.drop(columns=["idle time", "app id"])  # training saw both missing
    with pytest.warns(UserWarning, match="the table has no (idle time|app id): these cells are missing") as caught:
        np.testing.assert_array_equal(model.predict_proba(named)[:, 1], found)
    assert len(caught) == 2


def test_data_frames_that_would_be_misread_are_refused(mixed):
    folder, path = mixed
    model, rows = script.load(folder), pd.read_csv(path)
    for changed, words in (
        (rows.drop(columns="class"), "the table has no column class, which the model needs; its columns are app id, "),
        (rows.assign(scaled=5), "column scaled is text in the model"),
        (rows.assign(scaled=True), "column scaled is text in the model"),
        (rows.assign(**{"app id": 1e18}), "column app id has ids too long for floating point"),
        (rows.assign(**{"class": "many"}), "row 0, column class: 'many' is not a number"),
        (rows.assign(**{"class": np.inf}), "row 0, column class: 'inf' is not a number"),
        (pd.concat([rows, rows], axis=1), "the rows have two columns app id"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            model.predict_proba(changed)
    with pytest.raises(TypeError, match="the rows are a dict; put them in a pandas DataFrame"):
        model.predict_proba({"class": [1]})
    with pytest.raises(ValueError, match="the table is empty"):
        model.predict_proba(pd.DataFrame())
    with pytest.raises(UserError, match="no such file; check the path, or train a model first"):
        script.load(folder / "nowhere")


@pytest.mark.parametrize("loader", ["predict.load", "keras.models.load_model"])
def test_the_snippets_of_the_docs_give_what_the_command_gives(mixed, predict, tmp_path, monkeypatch, loader):
    folder, path = mixed
    found = answers(predict, path, folder)
    guide = (ROOT / "docs/input-formats.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (snippet,) = (block for block in blocks if "february.csv" in block and loader in block)
    shutil.copy(path, tmp_path / "a.csv")
    (tmp_path / "model").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(snippet.replace("data/february.csv", "a.csv"), names)
    np.testing.assert_allclose(names["probability"], [float(row["model_probability"]) for row in found], atol=1e-5)
    if loader == "predict.load":
        assert names["predicted"].tolist() == [int(row["predicted"]) for row in found]


def test_models_of_version_1_6_are_run_too(one, predict, tmp_path):
    """Their columns are described at more length, and a cell that was never counted is missing: -1."""
    folder, path = one
    changed = tmp_path / "changed.keras"
    with zipfile.ZipFile(folder / MODEL_FILE) as file, zipfile.ZipFile(changed, "w") as target:
        for name in file.namelist():
            content = file.read(name)
            if name == "training.json":
                details = json.loads(content)
                for column in details["columns"]:
                    column |= {"reason": "", "missing": -1, "distinct": 5, "vocabulary": [], "hint": ""}
                content = json.dumps(details).encode()
            target.writestr(name, content)
    assert predict(path, "--model", changed) == predict(path, "--model-dir", folder)
