"""predict.py --evaluate: metrics of labeled rows, and whether the model was trained on them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from harvest.cli import UserError
from harvest.data.training_rows import KnownHashes, TrainingRows
from harvest.results.metrics import measure, wilson
from harvest.text import interval

FEWEST_ROWS = 20  # that are evaluated separately
FEWEST_LOOKED_UP = 16  # rows of a sample: if a fifth were training rows, at least one would be found
HIDING_REPEATS = 0.25  # above this share of rounded rows that match by chance, the comparison is useless
METRICS = ("accuracy", "precision", "recall", "roc_auc", "pr_auc", "log_loss")
UNKNOWN = "it is unknown whether these rows were used to train this model"


def evaluate_rows(
    source: str,
    parts: list[list[np.ndarray]],
    known: TrainingRows | None,
    threshold: float,
    strange: Sequence[str] = (),
) -> list[str]:
    """The lines with the metrics of rows, given in parts: labels, probabilities, hashes, hashes of rounded cells, [B].

    A second column has the metrics of the rows that were not used in training. known is None if the model contains no
    hashes of its training rows. strange: columns that are absent or differ from training.
    """
    y_true, y_prob, exact, rounded = (np.concatenate(part) for part in zip(*parts, strict=True))
    if not len(y_true):
        raise UserError(f"{source}: has no rows to evaluate")
    tests = {f"{len(y_true):,} rows, 95% intervals": measure(y_true, y_prob, threshold)}
    text, unseen = split_seen(known, exact, rounded, strange)
    if unseen is not None and (count := np.count_nonzero(unseen)) < FEWEST_ROWS:
        few = f"the {count} others are too few" if count else "there are no others"
        text += f", and {few} to test on: see metrics.json for the out-of-sample test"
    elif unseen is not None:
        tests[f"{count:,} rows not used in training"] = measure(y_true[unseen], y_prob[unseen], threshold)
    lines = [f"note: {text}", "".join(f"{title:<40}" for title in tests)]
    for name in METRICS:
        lines.append(f"  {name:<10}" + "".join(f"{metric_text(test, name):<28}" for test in tests.values()))
    lines += note_copies(y_true, exact, known.exact.repeated if known else 0)
    return [line.rstrip() for line in lines]


def split_seen(
    known: TrainingRows | None, exact: np.ndarray, rounded: np.ndarray, strange: Sequence[str] = ()
) -> tuple[str, np.ndarray | None]:
    """A sentence on whether rows [N] were used in training, and which were not; None if that is unknown."""
    if known is None:
        return f"{UNKNOWN}: the model contains no hashes of its training rows", None
    sampled, seen = look_up(known.exact, exact)
    count, rows = int(seen.sum()), int(sampled.sum())
    hidden = ""  # why training rows might not be recognized
    if strange:
        hidden = f"column {strange[0]} differs from training, so training rows may not be recognized"
    elif known.stored < 1:
        hidden = f"the model contains hashes of only {100 * known.stored:.0f}% of its training rows"
    if alike := share_rounded(known.rounded, rounded, count / max(1, rows)):
        what = f"about {100 * min(1.0, alike / known.stored):.0f}% of these {len(exact):,} rows match training rows of"
        return f"{what} this model, apart from rounding, so the result is probably too optimistic", None
    if count and wilson(count, rows)[0] > known.exact.repeated:  # otherwise as many as among new rows by chance
        share, others = f"about {100 * min(1.0, count / rows / known.stored):.0f}%", sampled & ~seen
        if known.exact.complete and known.stored == 1:
            share = f"{count:,}" if count < rows else "all"
        is_certain = not others.any() or (known.stored == 1 and np.isin(known.exact.hashes, exact).all())
        least = "" if is_certain or share.startswith("about") else "at least "
        text = f"{least}{share} of these {len(exact):,} rows were used to train this model"
        text += ", so the result is too optimistic"
        if known.exact.repeated >= 0.005:
            text += f" (by chance, {100 * known.exact.repeated:.0f}% of new rows match a training row)"
        if is_certain:
            return text, others if known.stored == 1 else None
        changed = "not all training rows are in this file, and a row with one changed cell does not match"
        return f"{text}; it is unknown whether the others were, because {hidden or changed}", None
    if known.stored >= 0.95 and not strange:  # so few rows without a hash hide little
        hidden = ""
    if not hidden and count >= max(1, 0.01 * rows):
        repeats = f"{100 * known.exact.repeated:.0f}% of its training rows match another training row"
        hidden = f"{100 * count / rows:.0f}% match a training row, but new rows may match too: {repeats}"
    if not hidden and not known.exact.complete and rows < FEWEST_LOOKED_UP:
        hidden = f"the model contains hashes of a sample of its training rows, which covers only {rows} of these rows"
    if hidden:
        return f"{UNKNOWN}: {hidden}", None
    if known.rounded is None or known.rounded.repeated > HIDING_REPEATS:
        none = "hardly any" if count else "none"
        rounded_since = "training rows with numbers rounded since then would not be recognized"
        return f"{none} of these rows match a training row in every column; {rounded_since}", None
    return "there is no sign that these rows were used to train this model", None


def look_up(known: KnownHashes, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows [N] are in the sample of hashes, and which of them are known."""
    sampled = hashes < np.uint64(known.bound)
    return sampled, sampled & np.isin(hashes, known.hashes)


def share_rounded(known: KnownHashes | None, hashes: np.ndarray, exact: float) -> float:
    """The share of rows [N] that are known after rounding; 0 if exact matches or chance explain it."""
    if known is None or known.repeated > HIDING_REPEATS:
        return 0.0
    sampled, seen = look_up(known, hashes)
    count, rows = int(seen.sum()), int(sampled.sum())
    return count / rows if count > 1 and wilson(count, rows)[0] > exact + max(0.02, 2 * known.repeated) else 0.0


def note_copies(y_true: np.ndarray, exact: np.ndarray, by_chance: float) -> list[str]:
    """A note on rows that equal an earlier one in their features and label, if more do than by chance."""
    count = len(y_true) - sum(len(np.unique(exact[y_true == value])) for value in (0, 1))
    if count <= (0.01 + 2 * by_chance) * len(y_true):
        return []
    return [f"note: {count:,} of the rows repeat an earlier row in every column, so the intervals are too narrow"]


def metric_text(test: dict[str, Any], name: str) -> str:
    (tn, fp), (fn, tp) = test["confusion"]
    positive, negative = tp + fn, tn + fp
    pairs = positive * negative
    defined = {"precision": tp + fp, "recall": positive, "roc_auc": pairs, "pr_auc": pairs}.get(name, 1)
    value, ends = test[name], test.get(f"{name}_ci95")
    return f"{value:7.3f}  {interval(ends, 1, 3) if ends else ''}" if defined and value is not None else f"{'n/a':>7}"
