"""How good the predictions of labelled rows are, and whether these rows trained the model: predict.py --evaluate."""

from typing import Any

import numpy as np

from harvest.cli import UserError
from harvest.data.training_rows import TrainingRows
from harvest.results.metrics import measure, wilson
from harvest.text import interval

FEWEST_ROWS = 20  # that are evaluated by themselves
METRICS = ("accuracy", "precision", "recall", "roc_auc", "pr_auc", "log_loss")


def evaluate_rows(
    source: str, parts: list[list[np.ndarray]], known: TrainingRows | None, threshold: float
) -> list[str]:
    """Metrics of rows given in parts, each labels, probabilities and hashes of the cells, [B], as lines.

    Next to them those of the rows that did not train the model; known is None if it does not know its training rows.
    """
    y_true, y_prob, hashes = (np.concatenate(part) for part in zip(*parts, strict=True))
    if not len(y_true):
        raise UserError(f"{source}: holds no rows to evaluate")
    text = "whether these rows were used to train this model is not known: it holds no hashes of its training rows"
    tests = {f"{len(y_true):,} rows, 95 % intervals": measure(y_true, y_prob, threshold, 0)}
    text, unseen = split_seen(known, hashes) if known else (text, None)
    if unseen is not None and (count := np.count_nonzero(unseen)) < FEWEST_ROWS:
        few = f"the {count} that did not are too few" if count else "none is left"
        text += f", and {few} to test on: metrics.json has the result of the run's own test"
    elif unseen is not None:
        tests[f"{count:,} rows not used in training"] = measure(y_true[unseen], y_prob[unseen], threshold, 0)
    lines = [f"note: {text or 'there is no sign that these rows were used to train this model'}"]
    lines.append("".join(f"{title:<40}" for title in tests))
    first, *_ = tests.values()
    for name in METRICS:
        if first[name] is not None:
            lines.append(f"  {name:<10}" + "".join(f"{metric_text(test, name):<28}" for test in tests.values()))
    return [line.rstrip() for line in lines]


def split_seen(known: TrainingRows, hashes: np.ndarray) -> tuple[str, np.ndarray | None]:
    """What to say when rows [N] trained the model, and which of them did not, as far as known; otherwise "", None."""
    sampled = hashes < known.bound
    seen = sampled & np.isin(hashes, known.hashes)
    count, rows = int(seen.sum()), int(sampled.sum())
    if not count or wilson(count, rows)[0] <= known.repeated:  # or as many as new rows would be by chance
        return "", None
    share = f"about {100 * count / rows:.0f} %"
    if known.bound == 2**64 - 1:  # the hashes of all rows were kept
        share = f"{count:,}" if count < rows else "all"
    text = f"{share} of these {len(hashes):,} rows were used to train this model, so the result is too optimistic"
    if known.repeated >= 0.005:
        text += f" (by chance {100 * known.repeated:.0f} % of new rows equal one of its training rows)"
    return text, sampled & ~seen


def metric_text(test: dict[str, Any], name: str) -> str:
    value, ends = test[name], test.get(f"{name}_ci95")
    return f"{'-':>7}" if value is None else f"{value:7.3f}  {interval(ends, 1, 3) if ends else ''}"
