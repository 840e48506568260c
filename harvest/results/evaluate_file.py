"""How good the predictions of labelled rows are, and whether these rows trained the model: predict.py --evaluate."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from harvest.cli import UserError
from harvest.data.training_rows import KnownHashes, TrainingRows
from harvest.results.metrics import measure, wilson
from harvest.text import interval

FEWEST_ROWS = 20  # that are evaluated by themselves
FEWEST_LOOKED_UP = 16  # rows of a sample, of which none would be known by chance if a fifth had trained the model
HIDING_REPEATS = 0.25  # so many rows alike by chance once they are rounded hide others that are
METRICS = ("accuracy", "precision", "recall", "roc_auc", "pr_auc", "log_loss")
SEEN = "of these {:,} rows were used to train this model, so the result is too optimistic"
UNKNOWN = "whether these rows were used to train this model is not known"


def evaluate_rows(
    source: str,
    parts: list[list[np.ndarray]],
    known: TrainingRows | None,
    threshold: float,
    strange: Sequence[str] = (),
) -> list[str]:
    """Metrics of rows given in parts, each labels, probabilities, hashes and hashes of rounded cells, [B], as lines.

    Next to them those of the rows that did not train the model; known is None if it does not know its training rows.
    strange are columns in which hardly any row is like a training row.
    """
    y_true, y_prob, exact, rounded = (np.concatenate(part) for part in zip(*parts, strict=True))
    if not len(y_true):
        raise UserError(f"{source}: holds no rows to evaluate")
    tests = {f"{len(y_true):,} rows, 95 % intervals": measure(y_true, y_prob, threshold)}
    text, unseen = split_seen(known, exact, rounded, strange)
    if unseen is not None and (count := np.count_nonzero(unseen)) < FEWEST_ROWS:
        few = f"the {count} that did not are too few" if count else "none is left"
        text += f", and {few} to test on: metrics.json has the result of the run's own test"
    elif unseen is not None:
        tests[f"{count:,} rows not used in training"] = measure(y_true[unseen], y_prob[unseen], threshold)
    lines = [f"note: {text}", "".join(f"{title:<40}" for title in tests)]
    for name in METRICS:
        lines.append(f"  {name:<10}" + "".join(f"{metric_text(test, name):<28}" for test in tests.values()))
    return [line.rstrip() for line in lines]


def split_seen(
    known: TrainingRows | None, exact: np.ndarray, rounded: np.ndarray, strange: Sequence[str] = ()
) -> tuple[str, np.ndarray | None]:
    """What to say of whether rows [N] trained the model, and which of them did not, or None where that is not known."""
    if known is None:
        return f"{UNKNOWN}: it holds no hashes of its training rows", None
    sampled, seen = look_up(known.exact, exact)
    count, rows = int(seen.sum()), int(sampled.sum())
    if alike := share_rounded(known.rounded, rounded, count / max(1, rows)):
        what = f"about {100 * min(1.0, alike / known.stored):.0f} % of these {len(exact):,} rows equal rows that were"
        return f"{what} used to train this model but for rounding, so the result is probably too optimistic", None
    if count and wilson(count, rows)[0] > known.exact.repeated:  # or as many as new rows would be by chance
        share = f"about {100 * min(1.0, count / rows / known.stored):.0f} %"
        if known.exact.complete and known.stored == 1:
            share = f"{count:,}" if count < rows else "all"
        text = f"{share} {SEEN.format(len(exact))}"
        if known.exact.repeated >= 0.005:
            text += f" (by chance {100 * known.exact.repeated:.0f} % of new rows equal one of its training rows)"
        return text, sampled & ~seen if known.stored == 1 else None
    if reason := why_unknown(known, count, rows, strange):
        return f"{UNKNOWN}: {reason}", None
    if known.rounded is None or known.rounded.repeated > HIDING_REPEATS:
        hidden = "rows whose numbers were rounded since would not be recognised"
        none = "hardly any" if count else "none"
        return f"{none} of these rows equals one that trained this model in every column; {hidden}", None
    return "there is no sign that these rows were used to train this model", None


def look_up(known: KnownHashes, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows [N] can be told apart, and which of them are known."""
    sampled = hashes < np.uint64(known.bound)
    return sampled, sampled & np.isin(hashes, known.hashes)


def share_rounded(known: KnownHashes | None, hashes: np.ndarray, exact: float) -> float:
    """The share of rows [N] that are known when their numbers are rounded; 0 where chance explains all but a share."""
    if known is None or known.repeated > HIDING_REPEATS:
        return 0.0
    sampled, seen = look_up(known, hashes)
    count, rows = int(seen.sum()), int(sampled.sum())
    return count / rows if count > 1 and wilson(count, rows)[0] > exact + max(0.02, 2 * known.repeated) else 0.0


def why_unknown(known: TrainingRows, count: int, rows: int, strange: Sequence[str]) -> str:
    """Why rows that trained the model might not be found, or could be others; "" where they would be found.

    count of so many rows that can be told apart are known, no more than chance explains.
    """
    if strange:
        return f"column {strange[0]} has other values than in training, which would hide rows that were"
    if count and count >= 0.01 * rows:
        alike = f"{100 * known.exact.repeated:.0f} % of its training rows equal another one"
        return f"{100 * count / rows:.0f} % equal one of its training rows, but so may new rows: {alike}"
    if known.stored < 0.95:
        return f"it holds hashes of {100 * known.stored:.0f} % of its training rows only"
    if not known.exact.complete and rows < FEWEST_LOOKED_UP:
        return f"it holds hashes of a sample of its training rows, by which {rows} of these can be told"
    return ""


def metric_text(test: dict[str, Any], name: str) -> str:
    (tn, fp), (fn, tp) = test["confusion"]
    positive, negative = tp + fn, tn + fp
    pairs = positive * negative
    defined = {"precision": tp + fp, "recall": positive, "roc_auc": pairs, "pr_auc": pairs}.get(name, 1)
    value, ends = test[name], test.get(f"{name}_ci95")
    return f"{value:7.3f}  {interval(ends, 1, 3) if ends else ''}" if defined and value is not None else f"{'n/a':>7}"
