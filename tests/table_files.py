"""CSV files made in a test, and the tables read from them without a command line."""

import argparse
from pathlib import Path

import pytest

from harvest.cli import UserError
from harvest.data.splits import Split, make_splits
from harvest.data.table import Table, read_table

HEADER = "foreground_app,keyboard_activity,mouse_activity,time_last_request,productive"


def rows(count=40):
    return [f"{-100 - index % 3},{index * 10},{index},{1000 * index % 7},{index % 2}" for index in range(count)]


def write(path, lines, end="\n", header=HEADER) -> Path:
    text = "\n".join(([header] if header else []) + lines) + end
    path.write_text(text, encoding="utf-8")
    return path


def write_columns(path, columns, order=None, quoted=False) -> Path:
    """Columns by name, each a list of texts, with the rows in this order."""
    count = len(next(iter(columns.values())))
    mark = '"' if quoted else ""
    lines = [",".join(f"{mark}{cells[row]}{mark}" for cells in columns.values()) for row in order or range(count)]
    return write(path, lines, header=",".join(columns))


def arguments(*paths, **flags) -> argparse.Namespace:
    """What the trainer's flags would be."""
    args = argparse.Namespace(
        csv=[str(path) for path in paths],
        sample=None,
        label="productive",
        categorical=[],
        numeric=[],
        drop=[],
        split="random",
        split_seed=42,
        time_column=None,
        skip_bad_rows=False,
        folds="auto",
        early_stopping=True,
    )
    assert vars(args).keys() >= flags.keys()
    vars(args).update(flags)
    return args


def read(*paths, **flags) -> Table:
    """The table of some files, its rows in the order of the lines unless the flags say otherwise."""
    return read_table(arguments(*paths, **{"split": "time"} | flags))[0]


def read_split(*paths, folds=1, **flags) -> tuple[Table, list[Split]]:
    args = arguments(*paths, **flags)
    table = read_table(args)[0]
    return table, make_splits(args, table.label, folds, table.repeats)


def column_of(table, name):
    return next(column for column in table.columns if column.name == name)


def cells_of(table, name) -> list:
    """The cells of a column that is used, as numbers, ids or texts."""
    return table.frame[name].tolist()


def kinds(table) -> dict[str, tuple[str, str]]:
    return {column.name: (column.kind, column.reason) for column in table.columns}


def refusal(*paths, **flags) -> str:
    with pytest.raises(UserError) as error:
        read(*paths, **flags)
    return str(error.value)
