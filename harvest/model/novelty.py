"""Notes on columns of new rows with values that the model has not seen in training."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harvest.data.cells import MISSING, UNSEEN, is_missing
from harvest.data.encoding import MAXIMUM_CATEGORIES
from harvest.model.archive import Details
from harvest.model.input_rows import note

if TYPE_CHECKING:
    import keras

FEWEST_ALL = 3  # rows needed for a note if none of their values is known
FEWEST_MOST = 20  # rows needed for a note if more than half of their values are unknown
STREAM_ROWS = 100  # rows of a stream after which notes are printed
SHOWN = 3  # examples
LONGEST = 50  # characters of one


class Novelty:
    """Counts empty cells and values that were not seen in training, over chunks of rows."""

    def __init__(self, model: keras.Model, details: Details) -> None:
        self.details, self.rows, self.noted = details, 0, set[str]()
        self.vocabularies = {
            layer.input.name: set(layer.get_vocabulary(include_special_tokens=False))
            for layer in model.layers
            if hasattr(layer, "get_vocabulary")
        }
        self.values: dict[str, set[str]] = {name: set() for name in details.kinds}  # at least two, if there are two
        self.empty, self.unseen, self.outside = Counter[str](), Counter[str](), Counter[str]()
        self.examples: dict[str, list[str]] = {name: [] for name in details.kinds}

    def add(self, inputs: dict[str, np.ndarray]) -> None:
        """Count rows, given as inputs of the model: [B, 1] by column."""
        for name, column in inputs.items():
            cells = column[:, 0]
            if len(self.values[name]) < 2:
                self.values[name] |= {*map(str, pd.unique(cells)[:2])}
            if self.details.kinds[name] == "number":
                missing = is_missing(cells)
                self.empty[name] += int(np.count_nonzero(missing))
                if limits := self.details.ranges.get(name):
                    beyond = ((cells < limits[0]) | (cells > limits[1])) & ~missing
                    self.outside[name] += int(np.count_nonzero(beyond))
            else:
                self.count_values(name, cells)
        self.rows += len(next(iter(inputs.values())))

    def count_values(self, name: str, cells: np.ndarray) -> None:
        codes, values = pd.factorize(cells)
        known = self.vocabularies[name]
        for value, count in zip(values.tolist(), np.bincount(codes, minlength=len(values)).tolist(), strict=True):
            if value in ("", MISSING):
                self.empty[name] += count
            elif value not in known:
                self.unseen[name] += count
                text = "other text" if value == UNSEEN else str(value)[:LONGEST]
                if len(self.examples[name]) <= SHOWN and text not in self.examples[name]:
                    self.examples[name].append(text)

    def notes(self) -> dict[str, str]:
        """A note for each column that needs one; each column gets at most one."""
        found = {name: self.describe(name) for name in self.details.kinds if name not in self.noted}
        found = {name: text for name, text in found.items() if text}
        self.noted.update(found)
        return found

    def note(self) -> list[str]:
        """Print the notes; return the names of their columns."""
        found = self.notes()
        for text in found.values():
            note(text)
        return list(found)

    def uniform(self) -> list[str]:
        """The columns with the same value in all of many rows, which no column had in training."""
        return [name for name, values in self.values.items() if len(values) == 1 and self.rows >= FEWEST_MOST]

    def describe(self, name: str) -> str:
        empty, outside, unseen = (counts[name] for counts in (self.empty, self.outside, self.unseen))
        filled, examples = self.rows - empty, self.examples[name]
        if name not in self.details.missing and is_most(empty, self.rows):
            return f"{name}: empty in {count_of(empty, self.rows)} rows, but never empty in training"
        if is_most(outside, filled):
            low, high = self.details.ranges[name]
            return f"{name}: {count_of(outside, filled)} values are outside the training range, {low:g} to {high:g}"
        if not is_most(unseen, filled) or unseen <= 2 * self.details.new_values.get(name, 0) * filled:
            return ""
        known, shown = "seen in training", ", ".join(examples[:SHOWN]) + ", ..." * (len(examples) > SHOWN)
        if len(self.vocabularies[name]) >= MAXIMUM_CATEGORIES:
            known = f"among the {len(self.vocabularies[name])} that the model knows"
        if unseen == filled:
            return f"{name}: none of the values in {filled:,} rows was {known} ({shown})"
        return f"{name}: {100 * unseen / filled:.0f}% of the values in {filled:,} rows were not {known} ({shown})"


def is_most(count: int, rows: int) -> bool:
    return count >= FEWEST_ALL if count == rows else rows >= FEWEST_MOST and count > rows / 2


def count_of(count: int, rows: int) -> str:
    return f"all {rows:,}" if count == rows else f"{count:,} of {rows:,}"
