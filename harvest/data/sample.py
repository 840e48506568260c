"""A simulated HARVEST.CSV, for a first run without data and for tests."""

from pathlib import Path

import numpy as np

from harvest.data.csv_file import V0_COLUMNS


def write_sample(path: str | Path, rows: int, seed: int) -> np.ndarray:
    """Write a v0 HARVEST.CSV of simulated rows; return the probability [rows] that each row is productive.

    Twelve applications differ in frequency and usefulness; recent typing makes 1 more likely, a long absence less so.
    """
    generator = np.random.default_rng(seed)
    world = np.random.default_rng(seed + 1_000_003)
    apps = world.integers(-(2**31), 2**31, 12)
    frequency = 1 / np.arange(1, 13)
    app = generator.choice(12, rows, p=frequency / frequency.sum())
    keyboard = generator.lognormal(8 + 0.5 * world.normal(size=12)[app], 2)
    mouse = np.minimum(keyboard * generator.lognormal(-0.5, 1.5, rows), 3_600_000)
    stay = generator.lognormal(10, 1.5, rows)
    usefulness, pull = world.normal(0.6, 1.8, 12), world.normal(1, 0.5, 12)
    activity = 1.2 * (8.5 - np.log1p(np.minimum(keyboard, mouse * 3))) / 2
    logit = usefulness[app] + pull[app] * activity + 0.5 * np.sin(np.log1p(stay) - 9) * usefulness[app]
    probability = 1 / (1 + np.exp(-1.3 * logit))
    label = generator.random(rows) < probability
    columns = np.column_stack([apps[app], keyboard, mouse, stay, label]).astype(np.int64)
    np.savetxt(path, columns, "%d", ",", header=",".join(V0_COLUMNS), comments="")
    return probability
