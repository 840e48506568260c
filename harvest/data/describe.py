"""The printed description of a table: files, label and columns."""

import argparse

import numpy as np

from harvest.data.cells import MISSING
from harvest.data.table import Table, short_names
from harvest.text import percent, six_digits, titled_list


def describe(args: argparse.Namespace, table: Table) -> list[str]:
    """The printed lines on the data: files, label and the kind of each column."""
    share, skipped = float(table.label.mean()), f" ({table.skipped:,} skipped)" if table.skipped else ""
    rows = "" if args.sample else f": {len(table.label):,} rows{skipped}"
    lines = [f"Data       {', '.join(short_names(args.csv))}{rows}"]
    lines += [f"           note: {note}" for note in table.notes]
    lines.append(f"Label      {args.label}: 1 in {percent(share)} of rows, 0 in {percent(1 - share)}")
    numbers, categories, dropped = map(table.of_kind, ("number", "category", "dropped"))
    missing = {column.name: f" ({column.missing:,} missing)" if column.missing else "" for column in table.columns}
    count = {column.name: f"{column.distinct:,} value{'s' * (column.distinct != 1)}" for column in categories}
    lines += titled_list("Numbers", [column.name + missing[column.name] for column in numbers])
    lines += titled_list("Categories", [f"{name} ({values}){missing[name]}" for name, values in count.items()])
    lines += titled_list("Left out", [f"{column.name} ({column.reason})" for column in dropped])
    return lines + [f"           hint: {column.name}: {column.hint}" for column in table.columns if column.hint]


def describe_columns(table: Table) -> list[str]:
    """A line for each column: its kind, and how many distinct values and empty cells it has."""
    rows = [("column", "kind", "distinct", "missing", "values")]
    for column in table.columns:
        values = column.reason
        if column.kind == "number":
            ends = np.nanpercentile(table.numbers(column.name), [0, 100, 50])
            values = "{} to {}, median {}".format(*map(six_digits, ends))
        elif column.kind == "category":
            counts = np.bincount(table.codes(column.name))
            most = column.vocabulary[np.argmax(counts)]
            most = "(missing)" if most in ("", MISSING) else most
            values = f"most frequent {most}, in {percent(counts.max() / len(table.label))} of rows"
        distinct, missing = ("" if count is None else f"{count:,}" for count in (column.distinct, column.missing))
        values += f"; {column.hint}" if column.hint else ""
        rows.append((column.name, column.kind, distinct, missing, values))
    width = max(len(column.name) for column in table.columns)
    return [f"{row[0]:<{width}}  {row[1]:<9}{row[2]:>10}{row[3]:>10}  {row[4]}" for row in rows]
