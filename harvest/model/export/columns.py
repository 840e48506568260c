"""The preprocessing of raw columns, for formats that reimplement it, and rows to test exports on."""

from typing import Any

import keras
import numpy as np
from keras import layers

from harvest.data.cells import LARGEST_NUMBER, MISSING, UNSEEN
from harvest.data.encoding import Scaler
from harvest.model.archive import Details

GENERATED_ROWS = 1_000


def column_scalers(details: Details) -> dict[str, tuple[float, float, bool, bool]]:
    """The scaling of each numeric column: the fields of the Scaler, as single values."""
    fields = zip(*(details.scales[name] for name in Scaler._fields), strict=True)
    return dict(zip(details.columns(["number"]), fields, strict=True))


def find_lookups(model: keras.Model) -> dict[str, layers.Layer]:
    """The lookup layer of each category, which maps cells to indices: 1 and up for known values, 0 for others."""
    lookups = [layer for layer in model.layers if isinstance(layer, layers.IntegerLookup | layers.StringLookup)]
    return {name: layer for name, cells in model.input.items() for layer in lookups if layer.input is cells}


def known_values(lookup: layers.Layer) -> list[Any]:
    kind = int if lookup.input.dtype == "int64" else str
    return [kind(value) for value in lookup.get_vocabulary(include_special_tokens=False)]


@np.errstate(all="ignore")  # overflows are clipped
def generate_rows(model: keras.Model, details: Details) -> dict[str, np.ndarray]:
    """Raw rows [GENERATED_ROWS, 1] by column, with known, unseen and missing cells. The first is a typical one."""
    generator, rows = np.random.default_rng(0), {}
    for name, (offset, gain, logarithmic, whole) in column_scalers(details).items():
        scaled = generator.normal(0, 3, GENERATED_ROWS)
        if logarithmic:
            scaled = np.sign(scaled) * np.expm1(3 * np.abs(scaled))
        scaled[0] = logarithmic
        cells = offset + scaled / gain
        cells[1:8] = 0, 1, -1, 1e-30, 1e30, LARGEST_NUMBER, -LARGEST_NUMBER
        limit = 2.0**62 if whole else LARGEST_NUMBER
        cells = np.clip(cells, -limit, limit).round() if whole else np.clip(cells, -limit, limit)
        cells = cells.astype(np.int64 if whole else np.float64)
        cells[8::10] = MISSING if whole else np.nan
        rows[name] = cells[:, None]
    for name, lookup in find_lookups(model).items():
        known, integers = known_values(lookup), model.input[name].dtype == "int64"
        missing, unseen = (MISSING, UNSEEN) if integers else ("", "never seen")
        values = np.array([*known, missing, unseen], np.int64 if integers else object)
        drawn = generator.integers(0, len(values), GENERATED_ROWS)
        drawn[0] = next((number for number, value in enumerate(known) if value != missing), 0)
        rows[name] = values[drawn][:, None]
    return {name: rows[name] for name in details.columns()}
