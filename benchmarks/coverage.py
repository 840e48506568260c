"""How often the 95% intervals of scores hold the truth: python benchmarks/coverage.py [--runs 1000]

Rows of two classes have normal scores; the model knows their true probabilities, the other one shrinks and shifts them.
Each line is one number of rows and one share of 1: in what share of runs each interval holds the truth, which is taken
from a grid of scores. A run without an interval, because a class has too few rows, does not count; "none" is how often.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harvest.results.explain import compare
from harvest.results.metrics import average_precision, log_losses, measure, roc_auc, sigmoid

ROWS = (2_000, 15_000, 150_000)
SHARES = (1 / 2, 1 / 20, 1 / 1_500)
GRID = 20_001  # scores of the population
NAMES = ("ROC AUC", "PR AUC", "log-loss", "its difference", "accuracy's", "none")


def logits(scores: np.ndarray, share: float, distance: float) -> np.ndarray:
    """The true logits of scores whose means in the two classes are so far apart."""
    return math.log(share / (1 - share)) + distance * scores - distance**2 / 2


def both_models(scores: np.ndarray, share: float, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of the model and of the other."""
    true = logits(scores, share, distance)
    return sigmoid(true), sigmoid(0.7 * true + 0.2 + 0.3 * math.log(share / (1 - share)))


def truth(share: float, distance: float) -> list[float]:
    """The scores of the whole population, in the order of NAMES."""
    scores = np.linspace(-8, distance + 8, GRID)
    density = np.stack([np.exp(-(scores**2) / 2), np.exp(-((scores - distance) ** 2) / 2)])
    zero, one = density / density.sum(axis=1, keepdims=True) * [[1 - share], [share]]
    model, other = both_models(scores, share, distance)

    def mean(of_zero: np.ndarray, of_one: np.ndarray) -> float:
        return float(zero @ of_zero + one @ of_one)

    losses = [mean(log_losses(np.zeros(GRID), part), log_losses(np.ones(GRID), part)) for part in (model, other)]
    correct = [mean(part < share, part >= share) for part in (model, other)]
    areas = [roc_auc(one, zero)[0], average_precision(one, zero)[0]]
    return [*areas, losses[0], losses[0] - losses[1], correct[0] - correct[1]]


def coverage(rows: int, share: float, distance: float, runs: int, seed: int = 0) -> list[float]:
    """In what share of runs each interval holds the truth, in the order of NAMES; NaN where none could be given."""
    generator, expected = np.random.default_rng(seed), truth(share, distance)
    held: list[list[bool]] = []
    for _ in range(runs):
        y_true = (generator.random(rows) < share).astype(np.float32)
        model, other = both_models(generator.normal(size=rows) + distance * y_true, share, distance)
        test, difference = measure(y_true, model, share), compare(y_true, (model, share), (other, share))
        ends = [test["roc_auc_ci95"], test["pr_auc_ci95"], test["log_loss_ci95"]]
        ends += [difference[name]["ci95"] for name in ("log_loss", "accuracy")]
        if all(ends):
            held.append([low <= value <= high for (low, high), value in zip(ends, expected, strict=True)])
    inside = np.mean(held, axis=0).tolist() if held else [math.nan] * len(expected)
    return [*inside, 1 - len(held) / runs]


def main() -> None:
    parser = argparse.ArgumentParser(description="How often 95% intervals hold the truth.")
    parser.add_argument("--runs", type=int, default=1_000, metavar="N", help="simulated tests a line (default: 1000)")
    runs, started = parser.parse_args().runs, time.perf_counter()
    print(f"{'rows':>8}{'share of 1':>12}{'true AUC':>10}" + "".join(f"{name:>16}" for name in NAMES))
    for rows in ROWS:
        for share in SHARES:
            for distance in (1.0, 2.5):
                found = coverage(rows, share, distance, runs if rows < ROWS[-1] else max(1, runs // 2))
                area = truth(share, distance)[0]
                cells = "".join(f"{'-' if math.isnan(value) else f'{100 * value:.1f}%':>16}" for value in found)
                print(f"{rows:>8,}{f'1 in {1 / share:,.0f}':>12}{area:>10.3f}{cells}", flush=True)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
