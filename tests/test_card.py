"""The model card: what it says of a run and of exported files, and that its examples are programs."""

import ast
import json
import re

import pytest
from conftest import metrics_of
from made_up_run import HOSTILE, RTL, made_up_run

from harvest.data.cells import MISSING
from harvest.model.export import ExportSummary
from harvest.results.report.card import EXPORTS_HEADING, render_exports, render_model_card, update_card
from harvest.run_directory import EXPORT_FILES

ODD = ['say "so"', "back\\slash", "line\nend", "{{ 7 * 7 }}", "a | `b`", "\u05d0\u05d1"]
TEXTS = [*HOSTILE, *ODD, RTL]
ROW = {"keys": 0.1, "app id": 7, "input_probability": 'a "b" \\ \u05d0', "time": 1e300, "empty": None, "id": MISSING}


def summary(*formats, row=None, source="productivity_model.keras", renamed=()):
    return ExportSummary(source, list(formats), list(renamed), row or ROW, 0.123456, [])


def card_of(metrics, exports=None):
    return render_model_card(metrics, ["Data       one.csv: 150 rows"], ["Test on 150 rows", "", "Better."], exports)


def text_of(metrics, exports=None):
    return card_of(metrics, exports).decode()


def python_cells(card):
    """The example in Python: the type and the cell of each input."""
    program = ast.parse(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1])
    (inputs,) = (node for node in ast.walk(program) if isinstance(node, ast.Dict))
    found = {}
    for name, call in zip(inputs.keys, inputs.values, strict=True):
        cell = call.args[0].elts[0].elts[0]
        is_nan = isinstance(cell, ast.Call) and ast.unparse(cell) == "float('nan')"
        found[name.value] = call.args[1].attr, None if is_nan else ast.literal_eval(cell)
    return found


def csharp_cells(card):
    """The example in C#: the type and the cell of each input."""
    line = r'^    NamedOnnxValue\.CreateFromTensor\((".*"), new DenseTensor<(\w+)>\(new\[\] \{ (.*) \}, shape\)\),$'
    read = {"double": lambda text: None if text == "double.NaN" else float(text), "string": json.loads}
    read["long"] = lambda text: int(text.removesuffix("L"))
    return {
        json.loads(name): (kind, read[kind](cell)) for name, kind, cell in re.findall(line, card, flags=re.MULTILINE)
    }


def test_it_says_what_the_run_found():
    metrics, _ = made_up_run()
    card = text_of(metrics | {"threshold": 0.4, "temperature": 0.9612})
    assert card.startswith("# Model card: productive\n\nWritten by train_model_modern.py 1.6.0 on 2026-01-02 with `")
    assert "\n```\nData       one.csv: 150 rows\n```\n" in card and "\n```\nTest on 150 rows\n\nBetter.\n```\n" in card
    assert "Calibrated on validation rows (temperature 0.961).\n" in card
    weighted = text_of(metrics | {"settings": metrics["settings"] | {"class_weight": "balanced"}})
    note = "Classes were weighted in training. The weights multiply the odds of 1 by a known factor"
    assert f"{note}, which the model divides out again.\n" in weighted and note not in card
    assert "The decision threshold is 0.4 (predicts the more likely class). At or above it" in card
    rows = card.partition("| setting | value |\n|-|-|\n")[2].partition("\n\n")[0].splitlines()
    shown = {"csv": "one.csv", "sample": "not given", "label": "productive", "folds": "10", "seed": "42", "adamw": "on"}
    shown |= {"learning_rate": "0.006", "time_column": "not given", "drop": "none", "threshold": "0.5"}
    shown["network_share"] = "1"
    assert [*shown] == [name for name in metrics["settings"] if name not in ("columns", "reasons")]
    assert rows == [f"| {name} | {value} |" for name, value in shown.items()]
    assert re.findall(r"^## (.*)", card, re.MULTILINE) == [
        *("Intended use", "Data", "Results", "Limits", "Settings", "Inputs and output")
    ]
    assert card.endswith("it first rounds numbers to 32 bits.\n\n") and not re.search(r"\n\n\n", card)


def test_its_example_in_python_is_the_row():
    metrics, _ = made_up_run()
    metrics["example"] = {"row": ROW, "probability": 0.98765}
    card = text_of(json.loads(json.dumps(metrics)))
    kinds = {"keys": "float64", "app id": "int64", "input_probability": "string", "time": "float64", "empty": "float64"}
    assert python_cells(card) == {name: (kind, ROW[name]) for name, kind in (kinds | {"id": "int64"}).items()}
    assert "these values give 0.9876:" in card or "these values give 0.9877:" in card
    table = card.partition("| input | type | missing cell |\n|-|-|-|\n")[2].partition("\n\n")[0].splitlines()
    missing = {"float64": "NaN", "int64": str(MISSING), "string": '""'}
    assert table[:5] == [f"| `{name}` | {kind} | {missing[kind]} |" for name, kind in kinds.items()]


@pytest.mark.parametrize("text", TEXTS)
def test_examples_hold_any_text(text):
    metrics, _ = made_up_run()
    row = {text: 1.0, "cell": text, f"{text}2": text}
    metrics["example"]["row"] = row
    card = text_of(metrics, summary("onnx", row=row))
    kinds = ["float64", "string", "string"]
    assert python_cells(card) == {name: (kind, row[name]) for name, kind in zip(row, kinds, strict=True)}
    assert {name: cell for name, (_, cell) in csharp_cells(card).items()} == row
    assert "{{ 7 * 7 }}" not in text or "49" not in card  # it is no template


def test_a_name_that_is_no_unicode_costs_no_card():
    metrics, _ = made_up_run()
    assert b"? rows" in render_model_card(metrics, ["Data       \udcff rows"], [])


def test_exported_files_and_their_inputs():
    renamed = [("app id", "input_1_app_id", "app id"), ("probability", "input_2_probability", "input_probability")]
    section = render_exports(summary("saved_model", "onnx", renamed=renamed, source="model_42_0.88.keras"))
    files = f"`{EXPORT_FILES['saved_model']}`, `{EXPORT_FILES['onnx']}`."
    assert f"\nExported from `model_42_0.88.keras`, which gives the same probabilities: {files}\n" in section
    assert "\n| `app id` | `input_1_app_id` | `app id` |\n" in section
    assert "\n| `probability` | `input_2_probability` | `input_probability` |\n" in section
    kinds = {"keys": "double", "app id": "long", "input_probability": "string", "time": "double", "empty": "double"}
    assert csharp_cells(section) == {name: (kind, ROW[name]) for name, kind in (kinds | {"id": "long"}).items()}
    assert "these values give 0.1235:" in section and f'new InferenceSession("{EXPORT_FILES["onnx"]}")' in section
    assert "\n\n\n" not in section and section.endswith("```\n")


def test_what_is_not_there_is_not_mentioned():
    section = render_exports(summary("litert"))
    files = f"`{EXPORT_FILES['litert']}`"
    words = f"Exported from `productivity_model.keras`, which gives the same probabilities: {files}.\n"
    assert section == f"## Exported files\n\n{words}"


def test_an_export_that_failed_leaves_no_section():
    metrics, _ = made_up_run()
    assert card_of(metrics, summary()) == card_of(metrics)


def test_a_later_export_replaces_the_section():
    metrics, _ = made_up_run()
    plain = card_of(metrics)
    onnx, litert = summary("saved_model", "onnx"), summary("litert", renamed=[("a b", "input_0_a_b", "a b")])
    with_onnx = update_card(plain, onnx, has_onnx=True)
    assert with_onnx == card_of(metrics, onnx)  # as if the trainer had exported them
    assert with_onnx.decode().startswith(plain.decode().rstrip() + "\n" + EXPORTS_HEADING)

    later = update_card(with_onnx, litert, has_onnx=True).decode()
    example = with_onnx.decode()[with_onnx.decode().index("From C#, ") :]
    assert later.count("## Exported files") == 1 and later.count("From C#, ") == 1
    assert later.endswith("| `a b` | `input_0_a_b` | `a b` |\n\n" + example)  # the ONNX file is as it was
    assert "saved_model`" not in later.partition(EXPORTS_HEADING)[2]

    assert update_card(with_onnx, litert, has_onnx=False) == update_card(plain, litert, has_onnx=False)
    other = summary("onnx", row={"keys": 5.0})
    assert update_card(with_onnx, other, has_onnx=True) == update_card(plain, other, has_onnx=True)


def test_what_the_user_wrote_before_the_section_stays():
    card = b"# My model\n\nFrom C#, we call it so. \xff\n"
    updated = update_card(card, summary("litert"), has_onnx=True)
    assert updated == card.rstrip() + b"\n\n" + render_exports(summary("litert")).encode()


def test_the_card_of_a_run_is_that_of_its_metrics(trained):
    folder = trained()
    metrics = metrics_of(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    data, report = (block.split("\n") for block in re.findall(r"^```\n(.*?)\n```$", card, re.DOTALL | re.MULTILINE))
    assert render_model_card(metrics, data, report).decode() == card
    assert {name: cell for name, (_, cell) in python_cells(card).items()} == metrics["example"]["row"]
    assert f"{100 * metrics['test']['accuracy']:.1f}%" in card


def test_the_program_in_the_card_of_a_run_gives_what_it_says(tf, trained):
    folder = trained()
    card = (folder / "README.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    names = {}
    exec(program.replace("productivity_model.keras", str(folder / "productivity_model.keras")), names)
    (given,) = map(float, re.findall(r"these values give ([\d.]+)", card))
    assert float(names["probability"][0, 0]) == pytest.approx(given, abs=1e-4)
