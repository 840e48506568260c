"""The .keras file: written quickly with any weights, read with care."""

import json
import zipfile

import numpy as np
import pytest
from test_inference_model import mixed_table, tensors
from untrained import untrained

from harvest.cli import UserError
from harvest.model import archive
from harvest.model.archive import Archive, Details, read_details, share_of_new_values


@pytest.mark.parametrize("folds", [1, 3])
def test_a_file_has_the_weights_of_the_model_or_those_given(tf, tmp_path, folds):
    import keras

    from harvest.model.inference_model import current_values

    made, path = untrained(mixed_table(), folds), tmp_path / "model.keras"
    before = [value for network in made.model.networks for _, value in current_values(network)]
    writer = Archive(made.model.model, {"rows.bin": b"rows"})
    after = [value for network in made.model.networks for _, value in current_values(network)]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    content = writer.write(made.details)
    path.write_bytes(content)
    expected = made.model.model(tensors(made)).numpy()
    np.testing.assert_array_equal(keras.models.load_model(path)(tensors(made)).numpy(), expected)
    with zipfile.ZipFile(path) as file:
        assert file.read("rows.bin") == b"rows" and json.loads(file.read("training.json"))["threshold"] == 0.4

    zeros = [(variable, np.zeros(variable.shape)) for net in made.model.networks for variable, _ in current_values(net)]
    path.write_bytes(writer.write(made.details, zeros))
    np.testing.assert_array_equal(keras.models.load_model(path)(tensors(made)).numpy(), np.full((60, 1), 0.5))

    made.model.set_temperature(2.6)  # half the logits: other values that nobody has given are those of now
    path.write_bytes(writer.write(made.details))
    np.testing.assert_array_equal(
        keras.models.load_model(path)(tensors(made)).numpy(), made.model.model(tensors(made)).numpy()
    )


def test_details_are_read_as_they_were_written(tf, tmp_path):
    made, path = untrained(mixed_table()), tmp_path / "model.keras"
    path.write_bytes(Archive(made.model.model, {}).write(made.details))
    details = read_details(path)
    assert details == made.details
    assert details.columns() == ["idle", "stamp", "app id", "window"] == list(made.rows)
    assert details.columns(["category"]) == ["app id", "window"]
    assert set(details.ranges) == {"idle", "stamp"} and set(details.new_values) == {"app id", "window"}
    assert details.ranges["stamp"] == [made.table.numbers("stamp").min(), made.table.numbers("stamp").max()]
    assert details.missing == {"idle", "app id", "window"} and details.scales["whole"] == [False, True]


def test_details_of_earlier_versions():
    columns = [{"name": "a", "kind": "number", "reason": "", "missing": -1, "distinct": 3, "vocabulary": []}]
    stored = {"threshold": 0.5, "label": "y", "columns": [*columns, {"name": "b", "kind": "category", "missing": 0}]}
    kinds = {"a": "number", "b": "category"}
    assert Details.from_json(json.dumps(stored)) == Details("y", 0.5, kinds, {"a"}, {}, {}, {})


def test_how_many_new_values_are_to_be_expected():
    """As many as values that occur once, or are beyond those that a model learns."""
    assert share_of_new_values(np.array([0, 0, 1, 2, 2])) == 0.2
    assert share_of_new_values(np.repeat(np.arange(300), 2)) == pytest.approx(44 / 300)


GOOD = json.dumps({"threshold": 0.5, "label": "y", "columns": [{"name": "a", "kind": "number"}]})
UNKNOWN = "is not a model written by train_model_modern.py; give a .keras file of a run"
REFUSED = {
    "no archive": ("no archive", UNKNOWN),
    "no details": ({"config.json": "{}"}, UNKNOWN),
    "a path that climbs": ({"training.json": GOOD, "../x": ""}, "a path outside of the archive"),
    "a path from the root": ({"training.json": GOOD, "/x": ""}, "a path outside of the archive"),
    "a path of Windows": ({"training.json": GOOD, "\\x": ""}, "a path outside of the archive"),
    "a zip bomb": ({"training.json": GOOD, "x": "0" * 3_000}, "unpacks to more than 0 MB"),
    "a range that is no number": ({"training.json": GOOD.replace('"kind"', '"range": ["a", 1], "kind"')}, UNKNOWN),
    "no columns": ({"training.json": GOOD.replace('{"name": "a", "kind": "number"}', "")}, UNKNOWN),
    "a threshold beyond 1": ({"training.json": GOOD.replace("0.5", "1.5")}, UNKNOWN),
    "a label that is no text": ({"training.json": GOOD.replace('"y"', "[]")}, UNKNOWN),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_could_do_harm_are_refused(tmp_path, monkeypatch, case):
    content, words = REFUSED[case]
    path = tmp_path / "model.keras"
    monkeypatch.setattr(archive, "MOST_BYTES", 2_000)
    if isinstance(content, str):
        path.write_text(content)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, text in content.items():
                file.writestr(name, text)
    with pytest.raises(UserError, match=words):
        read_details(path)
    with pytest.raises(UserError, match="no such file; check the path, or train a model first"):
        read_details(tmp_path / "nowhere")


def test_a_model_may_be_as_large_as_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_BYTES", 100)
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("training.json", GOOD)
        file.writestr("weights", "0" * 3_000)
    assert read_details(path).label == "y"
