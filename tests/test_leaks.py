"""Columns that give the label away, and those that do not."""

import numpy as np
import pytest
from small_table import small_table

from harvest.data.columns import Column
from harvest.data.sample import write_sample
from harvest.results import leaks
from harvest.results.leaks import find_leaks


def table_of(rows=400, share=0.4, **columns):
    """Columns made from the label by functions of (label [rows], generator)."""
    generator = np.random.default_rng(3)
    label = (generator.random(rows) < share).astype(int)
    made = {"foreground_app": generator.integers(0, 5, rows).tolist()}
    return small_table(label, **made, **{name: column(label, generator) for name, column in columns.items()})


def shifted(label, generator, distance):
    """A number that separates the classes: 2.33 gives a ROC AUC of 0.95, 2.9 one of 0.98, 4 one of 0.998."""
    return np.round(distance * label + generator.normal(size=len(label)), 6)


def within(label, generator):
    inside, outside = generator.uniform(10, 20, len(label)), generator.choice([1, 30], len(label))
    return np.where(label == 1, inside, outside + generator.random(len(label)))


LEAKS = {
    "a number above a threshold": lambda label, generator: shifted(label, generator, 9),
    "a number below a threshold": lambda label, generator: shifted(1 - label, generator, 5),
    "a number between two": within,
    "a number missing for one class": lambda label, generator: np.where(
        label == 1, 5.0 + np.arange(len(label)) % 3, np.nan
    ),
    "a code": lambda label, generator: [f"{generator.choice(['x', 'y'])}{one}" for one in label],
    "a code of many values": lambda label, generator: [f"{one}{generator.integers(0, 6)}x" for one in label],
    "with a few errors": lambda label, generator: np.where(generator.random(len(label)) < 0.01, 1 - label, label) + 1.0,
}


@pytest.mark.parametrize("case", LEAKS)
@pytest.mark.parametrize("share", [0.4, 0.15])
def test_a_column_that_gives_the_label_away(recwarn, case, share):
    table = table_of(share=share, outcome=LEAKS[case])
    (warning,) = find_leaks(table, "productive")
    assert warning.startswith("outcome: on its own it predicts the label of ") and "--drop outcome" in warning
    place = [column.name for column in table.columns].index("outcome")
    table.columns[place] = Column("outcome", "dropped", "by --drop")
    assert find_leaks(table, "productive") == [] and not recwarn.list


@pytest.mark.parametrize("share", [0.4, 0.05])
def test_ordinary_columns_give_nothing_away(share):
    columns = {
        "strong": lambda label, generator: shifted(label, generator, 2.33),
        "stronger": lambda label, generator: shifted(label, generator, 2.9),
        "noise": lambda label, generator: generator.random(len(label)),
        "site": lambda label, generator: [f"s{generator.integers(0, 300)}" for _ in label],
        "mood": lambda label, generator: np.where(generator.random(len(label)) < 0.1, 1 - label, label) + 2.0,
        "seldom_app": lambda label, generator: [f"{one}{generator.integers(0, 300)}x" for one in label],
        "reproductive_rate": lambda label, generator: generator.random(len(label)),
    }
    assert find_leaks(table_of(rows=1_000, share=share, **columns), "productive") == []


def test_few_rows_may_be_predicted_by_chance():
    split = {"outcome": lambda label, generator: shifted(label, generator, 9)}
    assert not find_leaks(table_of(rows=60, **split), "productive")
    assert find_leaks(table_of(rows=120, **split), "productive")


def test_classes_too_rare_to_be_looked_at(monkeypatch, recwarn):
    monkeypatch.setattr(leaks, "LEAK_ROWS", 10)
    label = np.arange(100) >= 95  # so that some of the rows that are looked at have none of one class
    table = small_table(label, app=[index % 3 for index in range(100)], idle=np.arange(100.0))
    assert find_leaks(table, "productive") == [] and not recwarn.list


def test_a_column_that_is_named_after_the_label():
    def noise(label, generator):
        return generator.random(len(label))

    table = table_of(app_Productive_rate=noise, y_place=noise)
    assert find_leaks(table, "productive") == [
        "app_Productive_rate: its name contains the name of the label; if it is derived from the label, "
        "use --drop app_Productive_rate"
    ]
    assert find_leaks(table, "y") == []  # too short to mean something


@pytest.mark.parametrize("rows", [100, 2_000])
def test_generated_rows_give_nothing_away(tmp_path, rows):
    write_sample(tmp_path / "HARVEST.CSV", rows, 1)
    header, *lines = (tmp_path / "HARVEST.CSV").read_text().splitlines()
    *columns, label = zip(*(line.split(",") for line in lines), strict=True)
    (app, *numbers), names = columns, header.split(",")
    columns = {name: np.array(cells, float) for name, cells in zip(names[1:], numbers, strict=False)}
    table = small_table([int(cell) for cell in label], **{names[0]: list(app)}, **columns)
    assert find_leaks(table, "productive") == []
