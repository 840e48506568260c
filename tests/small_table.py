"""Tables made in a test, without a file."""

import numpy as np
import pandas as pd

from harvest.data.cells import MISSING
from harvest.data.columns import Column
from harvest.data.table import Table


def small_table(label, files=None, names=("rows.csv",), hashes=None, **columns):
    """A table of columns by name: floats (NaN: missing), integers of ids (None: missing) or texts ("": missing)."""
    frame, described = {}, []
    for name in sorted(columns):
        cells = columns[name]
        if np.asarray(cells).dtype == float:
            frame[name] = np.asarray(cells)
            described.append(Column(name, "number", "", int(np.isnan(frame[name]).sum()), len(set(cells))))
        else:
            cells = [MISSING if cell is None else cell for cell in cells]
            vocabulary = sorted(set(cells))
            frame[name] = pd.Categorical(cells, vocabulary)
            missing = sum(cell in ("", MISSING) for cell in cells)
            described.append(Column(name, "category", "", missing, len(vocabulary) - bool(missing), vocabulary))
    rows = len(label)
    return Table(
        frame=pd.DataFrame(frame),
        columns=described,
        label=np.asarray(label, np.float32),
        files=np.zeros(rows, np.uint16) if files is None else np.asarray(files, np.uint16),
        line_numbers=np.arange(2, rows + 2, dtype=np.int32),
        names=list(names),
        notes=[],
        read=rows,
        skipped=0,
        hashes=np.arange(rows, dtype=np.uint64) if hashes is None else hashes,
    )
