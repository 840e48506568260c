"""How often 95% intervals contain the true value: python benchmarks/coverage.py [--runs 1000]

The scores of each class are normally distributed. One model predicts the true probabilities; the other shrinks and
shifts them. Each line shows, for a number of rows and a share of class 1, the percentage of runs in which each interval
contains the true value, which is computed on a grid of scores. Runs in which a class has too few rows for an interval
are not included; "no interval" is their percentage.
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
GRID = 20_001  # number of scores in the population
NAMES = ("ROC AUC", "PR AUC", "log-loss", "loss difference", "acc. difference", "no interval")


def logits(scores: np.ndarray, share: float, distance: float) -> np.ndarray:
    """True logits of scores; `distance` is that between the means of the two classes."""
    return math.log(share / (1 - share)) + distance * scores - distance**2 / 2


def both_models(scores: np.ndarray, share: float, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the model and of the other model."""
    true = logits(scores, share, distance)
    return sigmoid(true), sigmoid(0.7 * true + 0.2 + 0.3 * math.log(share / (1 - share)))


def truth(share: float, distance: float) -> list[float]:
    """Metrics of the whole population, in the order of NAMES."""
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
    """Share of runs in which each interval contains the true value, in the order of NAMES; NaN if no run has one."""
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
    parser = argparse.ArgumentParser(description="Measure how often 95% intervals contain the true value.")
    parser.add_argument("--runs", type=int, default=1_000, metavar="N", help="simulated tests per line (default: 1000)")
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
